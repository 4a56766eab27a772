/* forward.c - the model, one layer loop read from top to bottom.
 *
 * Owns the activations of a step and the thread team.  Every thread of the team runs
 * forward_thread(); inside it, stages share their work by counters and meet at barriers, so that a
 * stage reads only what an earlier stage wrote.  What a row computes is fixed by cpu/kernels.h and
 * doesn't depend on the stage's sharing.
 *
 * A step of one row makes its norms in every thread, into the thread's own activations: cheaper
 * than a barrier.  Nothing is allocated after forward_new(). */
#include "engine/forward.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/cpu/formats.h"
#include "engine/forward_internal.h"

#define NUMERICS_FAMILY "cpu/1"

bool forward_take(struct forward *f, const struct lane *me, uint32_t n, uint32_t chunk,
		  uint32_t *ret_first, uint32_t *ret_end)
{
	assert(me->stage < f->n_stages);
	uint32_t first =
		atomic_fetch_add_explicit(&f->tickets[me->stage].next, chunk, memory_order_relaxed);

	if (first >= n)
		return false;
	*ret_first = first;
	*ret_end = first + chunk < n ? first + chunk : n;
	return true;
}

/* Token embeddings, and each row's rotation angles. */
static void embed_rows(struct forward *f, struct lane *me)
{
	const struct model_config *c = &f->m->config;
	uint32_t row, end;

	while (forward_take(f, me, f->n_rows, 1, &row, &end)) {
		float *cosines = f->cosines + (size_t)row * c->head_dim;
		float *sines = f->sines + (size_t)row * c->head_dim;
		format_row_f32(&f->m->tok_embd, (uint64_t)f->rows[row].token,
			       f->x + (size_t)row * f->x_stride);
		for (uint32_t i = 0; i < c->rope_dims / 2u; i++) {
			double angle = f->rows[row].pos * f->frequencies[i];
			cosines[2 * i] = cosines[2 * i + 1] = (float)cos(angle);
			sines[2 * i + 1] = (float)sin(angle);
			sines[2 * i] = -sines[2 * i + 1];
		}
	}
	me->stage++;
}

/* The rows of a stage that works row by row: all of them in the thread's own activations for a
 * step of one row, else shared out. */
static bool take_row(struct forward *f, struct lane *me, uint32_t n_rows, uint32_t *row,
		     uint32_t *next)
{
	uint32_t end;

	if (n_rows > 1)
		return forward_take(f, me, n_rows, 1, row, &end);
	*row = 0;
	return (*next)++ == 0 && n_rows == 1;
}

static struct act_rows *row_stage_output(struct forward *f, struct lane *me, uint32_t n_rows)
{
	return n_rows > 1 ? &f->act : &me->act;
}

static const struct act_rows *row_stage_end(struct forward *f, struct lane *me, uint32_t n_rows)
{
	me->stage++;
	if (n_rows > 1)
		team_barrier(f->team);
	return row_stage_output(f, me, n_rows);
}

/* Round a row for each form that the (up to three) matrices read. */
static void round_row(struct forward *f, const struct act_rows *a, uint32_t row, const float *x,
		      uint32_t n, const struct panel_matrix *const *readers, int n_readers)
{
	for (int i = 0; i < n_readers; i++) {
		bool done = false;
		for (int k = 0; k < i; k++)
			done = done || readers[k]->form == readers[i]->form;
		if (!done)
			forward_round(f->k, readers[i], a, row, 0, x, n);
	}
}

/* Norm of rows of x (of all, or of the wanted ones), as input of matrices. */
static const struct act_rows *norm_rows(struct forward *f, struct lane *me, const float *w,
					const struct panel_matrix *const *readers, int n_readers,
					const uint32_t *wanted, uint32_t n_rows)
{
	const uint32_t n = f->m->config.n_embd;
	struct act_rows *out = row_stage_output(f, me, n_rows);
	uint32_t row, next = 0;

	while (take_row(f, me, n_rows, &row, &next)) {
		float *y = out->f32 + (size_t)row * out->f32_stride;
		f->k->norm(f->x + (size_t)(wanted ? wanted[row] : row) * f->x_stride, w, n,
			   f->m->config.rms_eps, y);
		round_row(f, out, row, y, n, readers, n_readers);
	}
	return row_stage_end(f, me, n_rows);
}

static struct attention_io attention_io_of(struct forward *f, uint32_t layer)
{
	return (struct attention_io){ .kv = f->kv, .layer = layer, .queries = f->queries,
		.query_bytes = f->query_bytes, .out = f->act.f32, .out_stride = f->act.f32_stride };
}

static void attend(struct forward *f, struct lane *me, uint32_t layer)
{
	const struct attention_io io = attention_io_of(f, layer);
	uint32_t item, end;

	while (forward_take(f, me, attention_items(f->attention), 1, &item, &end))
		attention_run(f->attention, &io, item, me->thread);
	me->stage++;
}

/* Attention's partials merged, as input of wo. */
static const struct act_rows *attended_rows(struct forward *f, struct lane *me, uint32_t layer,
					    const struct panel_matrix *wo)
{
	const struct attention_io io = attention_io_of(f, layer);
	const uint32_t n = f->m->config.n_heads * f->m->config.head_dim;
	struct act_rows *out = row_stage_output(f, me, f->n_rows);
	uint32_t row, next = 0;

	while (take_row(f, me, f->n_rows, &row, &next)) {
		float *y = out->f32 + (size_t)row * out->f32_stride;
		attention_merge(f->attention, &io, row, y, me->thread);
		forward_round(f->k, wo, out, row, 0, y, n);
	}
	return row_stage_end(f, me, f->n_rows);
}

/* The model. */
static void forward_thread(void *arg, unsigned thread)
{
	struct forward *f = arg;
	struct lane *me = &f->lanes[thread];
	const struct act_rows *in;

	me->stage = 0;
	embed_rows(f, me);
	team_barrier(f->team);
	for (uint32_t layer = 0; layer < f->m->config.n_layers; layer++) {
		const struct weights_layer *w = &f->w->layers[layer];
		const struct panel_matrix *const qkv[] = { &w->wq, &w->wk, &w->wv };
		const struct panel_matrix *const ffn[] = { &w->w_gate, &w->w_up };

		in = norm_rows(f, me, w->attn_norm, qkv, 3, NULL, f->n_rows);
		project_qkv(f, me, layer, in);
		team_barrier(f->team);
		attend(f, me, layer);
		team_barrier(f->team);
		in = attended_rows(f, me, layer, &w->wo);
		project_add(f, me, &w->wo, in);
		team_barrier(f->team);

		in = norm_rows(f, me, w->ffn_norm, ffn, 2, NULL, f->n_rows);
		project_gated(f, me, w, in);
		team_barrier(f->team);
		project_add(f, me, &w->w_down, &f->hidden);
		team_barrier(f->team);
	}
	if (f->n_wanted == 0)
		return;
	const struct panel_matrix *const head[] = { &f->w->output };
	in = norm_rows(f, me, f->w->output_norm, head, 1, f->wanted, f->n_wanted);
	project_logits(f, me, in);
}

/* Is every row one that the model and its sequence's table can take? */
static bool rows_are_valid(const struct forward *f, const struct step_seq *seqs, unsigned n_seqs,
			   const struct step_row *rows, unsigned n_rows)
{
	for (unsigned i = 0; i < n_rows; i++) {
		const struct step_row *r = &rows[i];
		bool same_seq = i > 0 && rows[i - 1].seq == r->seq;
		uint32_t first = same_seq ? rows[i - 1].pos / KVD_PAGE_TOKENS : 0u;

		if (r->seq >= n_seqs || r->token < 0 ||
		    (uint32_t)r->token >= f->m->config.n_vocab ||
		    (same_seq && rows[i - 1].pos >= r->pos))
			return false;
		for (uint32_t page = first; page <= r->pos / KVD_PAGE_TOKENS; page++)
			if (KVD_ENTRY_FORMAT(seqs[r->seq].table[page]) != KVD_FORMAT_BF16)
				return false;
	}
	return true;
}

int forward_step(struct forward *f, const struct kv_window *kv, const struct step_seq *seqs,
		 unsigned n_seqs, const struct step_row *rows, unsigned n_rows, float *logits)
{
	if (n_rows == 0)
		return 0;
	if (n_rows > f->max_rows ||
	    kv->geometry.block_bytes != forward_block_bytes(&f->m->config) ||
	    !rows_are_valid(f, seqs, n_seqs, rows, n_rows))
		return -EINVAL;
	f->kv = kv;
	f->seqs = seqs;
	f->rows = rows;
	f->n_rows = n_rows;
	f->logits = logits;
	f->n_wanted = 0;
	for (unsigned i = 0; i < n_rows; i++)
		if (rows[i].want_logits)
			f->wanted[f->n_wanted++] = i;
	memset(f->tickets, 0, f->n_stages * sizeof(*f->tickets));
	attention_plan(f->attention, seqs, rows, n_rows);
	team_run(f->team, forward_thread, f);
	return 0;
}

const char *forward_numerics_id(const struct forward *f)
{
	return f->numerics_id;
}

const struct weights *forward_weights(const struct forward *f)
{
	return f->w;
}

static uint32_t round_up_32(uint32_t n)
{
	return (n + 31u) & ~31u;
}

/* Zeroed, aligned to a cache line, with a vector to spare behind. */
static void *new_array(size_t n, size_t size)
{
	size_t bytes = (n * size + 127u) & ~(size_t)63u;
	void *p = aligned_alloc(64, bytes);

	return p ? memset(p, 0, bytes) : NULL;
}

static bool act_rows_new(struct act_rows *a, uint32_t n_rows, uint32_t cols)
{
	a->f32_stride = round_up_32(cols);
	a->block_stride = a->f32_stride / BLOCK_K;
	a->f32 = new_array((size_t)n_rows * a->f32_stride, sizeof(float));
	a->blocks = new_array((size_t)n_rows * a->block_stride, sizeof(*a->blocks));
	a->wide = new_array((size_t)n_rows * a->block_stride, sizeof(*a->wide));
	return a->f32 && a->blocks && a->wide;
}

static void act_rows_free(struct act_rows *a)
{
	free(a->f32);
	free(a->blocks);
	free(a->wide);
}

static size_t largest(size_t a, size_t b)
{
	return a > b ? a : b;
}

static size_t scratch_bytes(const struct weights *w, uint32_t n_layers)
{
	size_t bytes = cpu_panel_scratch_bytes(&w->output);

	for (uint32_t l = 0; l < n_layers; l++) {
		const struct weights_layer *p = &w->layers[l];
		const struct panel_matrix *all[] = { &p->wq,	 &p->wk,   &p->wv,    &p->wo,
						     &p->w_gate, &p->w_up, &p->w_down };
		for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
			bytes = largest(bytes, cpu_panel_scratch_bytes(all[i]));
	}
	return bytes;
}

static bool lanes_new(struct forward *f, uint32_t in_cols)
{
	const size_t scratch = scratch_bytes(f->w, f->m->config.n_layers);

	f->lanes = calloc(f->n_threads, sizeof(*f->lanes));
	for (unsigned t = 0; f->lanes && t < f->n_threads; t++) {
		struct lane *lane = &f->lanes[t];
		lane->thread = t;
		for (int i = 0; i < 2; i++) {
			lane->panel[i] = new_array(scratch, 1);
			lane->tile[i] = new_array(PANEL_TILE_ROWS * PANEL_COLS, sizeof(float));
			if (!lane->panel[i] || !lane->tile[i])
				return false;
		}
		if (!act_rows_new(&lane->act, 1, in_cols))
			return false;
	}
	return f->lanes != NULL;
}

/* Radians a position turns each pair: base^(-2i/n), over the file's divisors and linear scale. */
static void fill_frequencies(struct forward *f)
{
	const struct model_config *c = &f->m->config;
	const float *divisors = f->m->rope_freqs.data;

	for (uint32_t i = 0; i < c->rope_dims / 2u; i++)
		f->frequencies[i] = pow(c->rope_base, -2.0 * i / c->rope_dims) /
				    (c->rope_scale > 0.0f ? c->rope_scale : 1.0) /
				    (divisors && divisors[i] != 0.0f ? divisors[i] : 1.0);
	/* dimensions that don't turn: cosine 1, sine 0, for every row */
	for (size_t i = 0; i < (size_t)f->max_rows * c->head_dim; i++)
		f->cosines[i] = 1.0f;
}

static bool buffers_new(struct forward *f)
{
	const struct model_config *c = &f->m->config;
	const uint32_t head_cols = round_up_32(c->n_heads * c->head_dim);
	const uint32_t in_cols = (uint32_t)largest(c->n_embd, head_cols);

	f->x_stride = round_up_32(c->n_embd);
	f->query_bytes = (size_t)head_cols / 2u * f->k->pair_bytes;
	/* embedding; norm, qkv, attention, merge, wo, norm, gated, down of each layer; norm,
	 * head */
	f->n_stages = 1u + c->n_layers * 8u + 2u;
	f->x = new_array((size_t)f->max_rows * f->x_stride, sizeof(float));
	f->queries = new_array(f->max_rows, f->query_bytes);
	f->cosines = new_array((size_t)f->max_rows * c->head_dim, sizeof(float));
	f->sines = new_array((size_t)f->max_rows * c->head_dim, sizeof(float));
	f->frequencies = new_array(c->rope_dims / 2u, sizeof(double));
	f->tickets = new_array(f->n_stages, sizeof(*f->tickets));
	f->wanted = new_array(f->max_rows, sizeof(*f->wanted));
	f->attention = attention_new(c, f->k, f->n_threads, f->max_rows);
	return f->x && f->queries && f->cosines && f->sines && f->frequencies && f->tickets &&
	       f->wanted && f->attention && act_rows_new(&f->act, f->max_rows, in_cols) &&
	       act_rows_new(&f->hidden, f->max_rows, c->n_ff) && lanes_new(f, in_cols);
}

int forward_new_with(const struct model *m, const struct forward_options *o,
		     const struct cpu_kernels *k, struct forward **ret, char *err, size_t errlen)
{
	struct forward *f = calloc(1, sizeof(*f));
	int r = -ENOMEM;

	if (!f) {
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	f->m = m;
	f->k = k;
	f->n_threads = o->n_threads;
	f->max_rows = o->max_rows;
	snprintf(f->numerics_id, sizeof(f->numerics_id), NUMERICS_FAMILY "/%s", k->isa);
	f->w = o->weights;
	if (!f->w) {
		r = weights_build(m, o->share_weights, &f->own_weights, err, errlen);
		if (r < 0)
			goto fail;
		f->w = f->own_weights;
	}
	if (!buffers_new(f)) {
		snprintf(err, errlen, "out of memory for steps of %u rows: ask for fewer",
			 o->max_rows);
		r = -ENOMEM;
		goto fail;
	}
	fill_frequencies(f);
	r = team_new(o->n_threads, o->spin_usec, &f->team);
	if (r < 0) {
		snprintf(err, errlen, "cannot start %u threads: %s", o->n_threads, strerror(-r));
		goto fail;
	}
	*ret = f;
	return 0;
fail:
	forward_free(f);
	return r;
}

int forward_numerics_id_of(const char *isa, char ret_id[32])
{
	const struct cpu_kernels *k = cpu_kernels_find(isa);

	if (!k)
		return -EINVAL;
	snprintf(ret_id, 32, NUMERICS_FAMILY "/%s", k->isa);
	return 0;
}

int forward_new(const struct model *m, const struct forward_options *o, struct forward **ret,
		char *err, size_t errlen)
{
	const struct cpu_kernels *k = cpu_kernels_find(o->isa);

	if (!k) {
		snprintf(err, errlen, "instruction set \"%s\": unknown, or not on this machine; "
			 "use avx512, avx2 or portable", o->isa);
		return -EINVAL;
	}
	if (o->n_threads < 1 || o->n_threads > 64 || o->max_rows < 1) {
		snprintf(err, errlen,
			 "%u threads, %u rows: threads must be 1 to 64, rows at least 1",
			 o->n_threads, o->max_rows);
		return -EINVAL;
	}
	return forward_new_with(m, o, k, ret, err, errlen);
}

void forward_free(struct forward *f)
{
	if (!f)
		return;
	team_free(f->team);
	attention_free(f->attention);
	for (unsigned t = 0; f->lanes && t < f->n_threads; t++) {
		for (int i = 0; i < 2; i++) {
			free(f->lanes[t].panel[i]);
			free(f->lanes[t].tile[i]);
		}
		act_rows_free(&f->lanes[t].act);
	}
	free(f->lanes);
	free(f->x);
	free(f->queries);
	act_rows_free(&f->act);
	act_rows_free(&f->hidden);
	free(f->cosines);
	free(f->sines);
	free(f->frequencies);
	free(f->tickets);
	free(f->wanted);
	weights_free(f->own_weights);
	free(f);
}
