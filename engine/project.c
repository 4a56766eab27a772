/* project.c - the products of a layer, panel by panel, and where their outputs go.
 *
 * A work item is a panel of 32 outputs for all rows of the step; threads take items from a counter,
 * so a slow core doesn't hold the others, and which thread computes an output can't change it.
 * Outputs of a panel go through the thread's tile in chunks of PANEL_TILE_ROWS rows and are
 * finished there while they are in L1: added, gated and rounded, rotated, written to KV pages. */
#include "engine/forward_internal.h"

#include <math.h>
#include <string.h>
#include "engine/cpu/half.h"

/* Chunks of panels: with few rows the weights stream from memory, in long runs of neighbours; with
 * many, single panels balance better. */
static uint32_t panels_per_take(const struct forward *f, uint32_t n_panels, uint32_t n_rows)
{
	uint32_t chunk = n_rows > 6u ? 1u : n_panels / (f->n_threads * 8u);

	return chunk ? chunk : 1u;
}

static uint32_t tile_rows(uint32_t first, uint32_t n_rows)
{
	return n_rows - first < PANEL_TILE_ROWS ? n_rows - first : PANEL_TILE_ROWS;
}

void project_add(struct forward *f, struct lane *me, const struct panel_matrix *m,
		 const struct act_rows *in)
{
	uint32_t panel, end;

	while (forward_take(f, me, m->n_panels, panels_per_take(f, m->n_panels, f->n_rows), &panel,
			    &end))
		for (; panel < end; panel++) {
			const uint8_t *w = f->k->panel_prepare(m, panel, f->n_rows, me->panel[0]);
			for (uint32_t first = 0, n; first < f->n_rows; first += n) {
				n = tile_rows(first, f->n_rows);
				f->k->panel_rows(m, w, w == me->panel[0], in, first, n, me->tile[0],
						 PANEL_COLS);
				for (uint32_t r = 0; r < n; r++)
					f->k->add(f->x + (size_t)(first + r) * f->x_stride +
							  panel * PANEL_COLS,
						  me->tile[0] + r * PANEL_COLS);
			}
		}
	me->stage++;
}

/* Gate and up of one panel's rows: 32 outputs are one block of w_down's input. */
static void finish_gated(struct forward *f, struct lane *me, const struct panel_matrix *down,
			 uint32_t panel, uint32_t first, uint32_t n)
{
	for (uint32_t r = 0; r < n; r++) {
		float *gate = me->tile[0] + r * PANEL_COLS;
		f->k->swiglu(gate, me->tile[1] + r * PANEL_COLS);
		if (down->n_groups)
			forward_round(f->k, down, &f->hidden, first + r, panel * PANEL_COLS, gate,
				      PANEL_COLS);
		else
			memcpy(f->hidden.f32 + (size_t)(first + r) * f->hidden.f32_stride +
			       panel * PANEL_COLS, gate, PANEL_COLS * sizeof(float));
	}
}

void project_gated(struct forward *f, struct lane *me, const struct weights_layer *w,
		   const struct act_rows *in)
{
	const uint32_t n_panels = w->w_gate.n_panels;
	uint32_t panel, end;

	while (forward_take(f, me, n_panels, panels_per_take(f, n_panels, f->n_rows), &panel, &end))
		for (; panel < end; panel++) {
			const uint8_t *gate =
				f->k->panel_prepare(&w->w_gate, panel, f->n_rows, me->panel[0]);
			const uint8_t *up =
				f->k->panel_prepare(&w->w_up, panel, f->n_rows, me->panel[1]);
			for (uint32_t first = 0, n; first < f->n_rows; first += n) {
				n = tile_rows(first, f->n_rows);
				f->k->panel_rows(&w->w_gate, gate, gate == me->panel[0], in, first,
						 n, me->tile[0], PANEL_COLS);
				f->k->panel_rows(&w->w_up, up, up == me->panel[1], in, first, n,
						 me->tile[1], PANEL_COLS);
				finish_gated(f, me, &w->w_down, panel, first, n);
			}
		}
	me->stage++;
}

/* Turn 32 outputs from column on by the row's position.  Heads may begin inside a panel. */
static void rotate_columns(const struct forward *f, uint32_t row, uint32_t column, float *x)
{
	const uint32_t head_dim = f->m->config.head_dim;
	const float *cosines = f->cosines + (size_t)row * head_dim;
	const float *sines = f->sines + (size_t)row * head_dim;
	uint32_t dim = column % head_dim;
	float c[PANEL_COLS], s[PANEL_COLS];

	if (dim + PANEL_COLS <= head_dim) {
		f->k->rotate(x, cosines + dim, sines + dim);
		return;
	}
	for (uint32_t i = 0; i < PANEL_COLS; i++, dim = dim + 1u < head_dim ? dim + 1u : 0u) {
		c[i] = cosines[dim];
		s[i] = sines[dim];
	}
	f->k->rotate(x, c, s);
}

/* The block of a row's page in a layer. */
static uint8_t *block_of(const struct forward *f, uint32_t row, uint32_t layer)
{
	const struct step_row *r = &f->rows[row];
	uint32_t entry = f->seqs[r->seq].table[r->pos / KVD_PAGE_TOKENS];

	return f->kv->base + kvd_block_offset(&f->kv->geometry, KVD_ENTRY_FRAME(entry), layer);
}

/* K [head_dim/2][token][2]: pairs of dimensions of this token, a page's width apart. */
static void write_key(const struct forward *f, uint32_t row, uint32_t layer, uint32_t column,
		      const float *x)
{
	const uint32_t head_dim = f->m->config.head_dim, n = f->m->config.n_kv_heads * head_dim;
	const uint32_t token = f->rows[row].pos % KVD_PAGE_TOKENS;
	uint8_t *block = block_of(f, row, layer);

	for (uint32_t i = 0; i < PANEL_COLS && column + i < n; i += 2) {
		uint32_t head = (column + i) / head_dim, dim = (column + i) % head_dim;
		uint16_t pair[2] = { bf16_from_f32(x[i]), bf16_from_f32(x[i + 1]) };
		memcpy(block + (size_t)head * head_dim * KVD_PAGE_TOKENS * 4u +
		       (dim / 2u * KVD_PAGE_TOKENS + token) * 4u, pair, 4);
	}
}

/* V [token/2][head_dim][2]. */
static void write_value(const struct forward *f, uint32_t row, uint32_t layer, uint32_t column,
			const float *x)
{
	const uint32_t head_dim = f->m->config.head_dim, n = f->m->config.n_kv_heads * head_dim;
	const uint32_t token = f->rows[row].pos % KVD_PAGE_TOKENS;
	uint8_t *block = block_of(f, row, layer);

	for (uint32_t i = 0; i < PANEL_COLS && column + i < n; i++) {
		uint32_t head = (column + i) / head_dim, dim = (column + i) % head_dim;
		uint16_t value = bf16_from_f32(x[i]);
		memcpy(block + (size_t)head * head_dim * KVD_PAGE_TOKENS * 4u +
		       head_dim * KVD_PAGE_TOKENS * 2u +
		       ((token / 2u * head_dim + dim) * 2u + token % 2u) * 2u, &value, 2);
	}
}

enum qkv { Q, K, V };

/* A chunk of one panel of q, k or v: rotated, and to its place. */
static void finish_qkv(struct forward *f, struct lane *me, enum qkv what, uint32_t layer,
		       uint32_t panel, uint32_t first, uint32_t n)
{
	/* softmax in base 2: scores are scaled by log2 e too */
	const float scale = 1.44269504f / sqrtf((float)f->m->config.head_dim);
	const uint32_t column = panel * PANEL_COLS;

	for (uint32_t r = 0; r < n; r++) {
		float *x = me->tile[0] + r * PANEL_COLS;
		if (what != V)
			rotate_columns(f, first + r, column, x);
		if (what == Q)
			f->k->store_pairs(f->queries + (first + r) * f->query_bytes, column, x,
					  scale);
		else if (what == K)
			write_key(f, first + r, layer, column, x);
		else
			write_value(f, first + r, layer, column, x);
	}
}

void project_qkv(struct forward *f, struct lane *me, uint32_t layer, const struct act_rows *in)
{
	const struct weights_layer *w = &f->w->layers[layer];
	const struct panel_matrix *const matrices[3] = { &w->wq, &w->wk, &w->wv };
	const uint32_t n_panels = w->wq.n_panels + w->wk.n_panels + w->wv.n_panels;
	uint32_t i, end;

	while (forward_take(f, me, n_panels, panels_per_take(f, n_panels, f->n_rows), &i, &end))
		for (; i < end; i++) {
			uint32_t panel = i;
			enum qkv what = Q;
			while (panel >= matrices[what]->n_panels)
				panel -= matrices[what++]->n_panels;
			const struct panel_matrix *m = matrices[what];
			const uint8_t *p = f->k->panel_prepare(m, panel, f->n_rows, me->panel[0]);
			for (uint32_t first = 0, n; first < f->n_rows; first += n) {
				n = tile_rows(first, f->n_rows);
				f->k->panel_rows(m, p, p == me->panel[0], in, first, n, me->tile[0],
						 PANEL_COLS);
				finish_qkv(f, me, what, layer, panel, first, n);
			}
		}
	me->stage++;
}

void project_logits(struct forward *f, struct lane *me, const struct act_rows *in)
{
	const struct panel_matrix *m = &f->w->output;
	uint32_t panel, end;

	while (forward_take(f, me, m->n_panels, panels_per_take(f, m->n_panels, f->n_wanted),
			    &panel, &end))
		for (; panel < end; panel++) {
			const uint8_t *w = f->k->panel_prepare(m, panel, f->n_wanted, me->panel[0]);
			const uint32_t column = panel * PANEL_COLS, left = m->n_out - column;
			const size_t bytes =
				(left < PANEL_COLS ? left : PANEL_COLS) * sizeof(float);
			for (uint32_t first = 0, n; first < f->n_wanted; first += n) {
				n = tile_rows(first, f->n_wanted);
				f->k->panel_rows(m, w, w == me->panel[0], in, first, n, me->tile[0],
						 PANEL_COLS);
				for (uint32_t r = 0; r < n; r++)
					memcpy(f->logits + (size_t)(first + r) * m->n_out + column,
					       me->tile[0] + r * PANEL_COLS, bytes);
			}
		}
	me->stage++;
}
