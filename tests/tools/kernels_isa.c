/* kernels_isa.c - the AVX-512 kernels against their emulation, byte by byte, entry by entry.
 *
 *     kernels_isa
 *
 * Runs every entry of the kernel table over made-up inputs, on the table "avx512" and on its
 * emulation in plain C (tests/lib/kernels_emulated.c), and compares all bytes written, a margin
 * behind each output included.  One line per case: bytes compared, bytes that differ, and a digest
 * of what the emulation wrote, by which two machines' runs can be compared.  Where the machine has
 * no AVX-512 VNNI and BF16 only the emulation runs, and the last line says so.
 *
 * Needs the kernels and libc alone, so that it can be linked statically and be the only process of
 * a machine without files; tests/emulate_avx512.sh boots it so under a software processor.
 * Inputs are finite: which NaN comes out of a NaN is no part of the kernels' contract. */
#include "engine/cpu/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/lib/kernels_emulated.h"

#define MARGIN_BYTES 64u          /* written by nobody */
#define UNWRITTEN 0xA5            /* what an output holds before the kernel runs */
#define SINK_BYTES (4u << 20)     /* the largest case writes under 1 MiB */
#define N_IN_MAX 256u
#define ROWS_MAX 48u
#define HEAD_DIM_MAX 256u

/* All bytes that one case wrote. */
struct sink {
	uint8_t *bytes;
	size_t n;
};

/* A case runs one kernel on all its inputs; the same inputs for the same variant, whatever k. */
struct test_case {
	const char *name;
	void (*run)(const struct cpu_kernels *k, uint32_t variant, struct sink *out);
	uint32_t variant;
};

static void emit(struct sink *s, const void *p, size_t n)
{
	if (n > SINK_BYTES - s->n) {
		fprintf(stderr, "kernels_isa: a case writes over %u bytes: raise SINK_BYTES\n",
			SINK_BYTES);
		exit(2);
	}
	memcpy(s->bytes + s->n, p, n);
	s->n += n;
}

static uint32_t draw(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	return *seed ^= *seed << 5;
}

/* A float of any sign and mantissa whose biased exponent lies in low .. high (0: denormal), or, one
 * time in 16, a signed zero. */
static float draw_float(uint32_t *seed, uint32_t low, uint32_t high)
{
	uint32_t bits = draw(seed) & 0x807FFFFFu;
	float x;

	bits |= (low + draw(seed) % (high - low + 1u)) << 23;
	if (draw(seed) % 16u == 0)
		bits &= 0x80000000u;
	memcpy(&x, &bits, sizeof(x));
	return x;
}

static void draw_floats(float *x, size_t n, uint32_t *seed, uint32_t low, uint32_t high)
{
	for (size_t i = 0; i < n; i++)
		x[i] = draw_float(seed, low, high);
}

static uint16_t draw_bf16(uint32_t *seed, uint32_t low, uint32_t high)
{
	float x = draw_float(seed, low, high);
	uint32_t bits;

	memcpy(&bits, &x, sizeof(bits));
	return (uint16_t)(bits >> 16);
}

/* Any finite one. */
static uint16_t draw_f16(uint32_t *seed)
{
	uint16_t bits = (uint16_t)draw(seed);

	return (bits & 0x7C00u) == 0x7C00u ? bits & 0xBFFFu : bits;
}

/* ---- products ---- */

static const struct panel_matrix formats[] = {
	{ .form = FORM_NIBBLE, .group_k = 32, .offset = 8 },                              /* Q4_0 */
	{ .form = FORM_NIBBLE, .group_k = 32, .has_min = true },                          /* Q4_1 */
	{ .form = FORM_NIBBLE, .group_k = 32, .has_min = true, .scales_f32 = true },      /* Q4_K */
	{ .form = FORM_BYTE, .group_k = 32, .offset = 128 },                        /* Q8_0, Q5_0 */
	{ .form = FORM_BYTE, .group_k = 32, .offset = 128, .has_min = true },             /* Q5_1 */
	{ .form = FORM_BYTE, .group_k = 32, .offset = 128, .has_min = true,
	  .scales_f32 = true },                                                           /* Q5_K */
	{ .form = FORM_BYTE, .group_k = 16, .offset = 128, .scales_f32 = true },          /* Q6_K */
	{ .form = FORM_F32 },
	{ .form = FORM_F16 },
	{ .form = FORM_BF16 },
};

static uint8_t *room_for(size_t bytes)
{
	uint8_t *p = aligned_alloc(64, (bytes + 63u) & ~(size_t)63u);

	if (!p) {
		fprintf(stderr, "kernels_isa: no memory for %zu bytes\n", bytes);
		exit(2);
	}
	return p;
}

/* Two panels of random weights of n_in inputs. */
static void matrix_make(struct panel_matrix *m, uint32_t n_in, uint32_t *seed)
{
	const uint32_t numbers = PANEL_COLS * (m->has_min ? 2u : 1u);
	uint8_t *data;

	m->n_in = n_in;
	m->n_panels = 2;
	m->n_out = m->n_panels * PANEL_COLS;
	m->panel_bytes = (uint64_t)n_in * PANEL_COLS * (m->form == FORM_F32 ? 4u : 2u);
	if (m->group_k) {
		uint32_t quants = m->group_k * PANEL_COLS / (m->form == FORM_NIBBLE ? 2u : 1u);
		m->n_groups = n_in / m->group_k;
		m->group_bytes = quants + numbers * (m->scales_f32 ? 4u : 2u);
		m->panel_bytes = (uint64_t)m->n_groups * m->group_bytes;
	}
	m->data = data = room_for(m->n_panels * m->panel_bytes);
	for (size_t i = 0; i < m->n_panels * m->panel_bytes; i += 4) {
		uint32_t within = m->group_k ? (uint32_t)(i % m->panel_bytes) % m->group_bytes : 0;
		uint32_t word = draw(seed);
		if (m->form == FORM_F32 ||
		    (m->scales_f32 && within >= m->group_bytes - numbers * 4u)) {
			float x = draw_float(seed, m->form == FORM_F32 ? 0 : 90, 135);
			memcpy(&word, &x, sizeof(word));
		} else if (m->form == FORM_BF16) {
			word = draw_bf16(seed, 0, 135) | (uint32_t)draw_bf16(seed, 0, 135) << 16;
		} else if (m->form == FORM_F16 ||
			   (m->group_k && within >= m->group_bytes - numbers * 2u)) {
			word = draw_f16(seed) | (uint32_t)draw_f16(seed) << 16;
		}
		memcpy(data + i, &word, sizeof(word));
	}
}

/* Both panels for n_rows rows, prepared and multiplied. */
static void product(const struct cpu_kernels *k, const struct panel_matrix *m, const float *x,
		    uint32_t n_rows, struct sink *out)
{
	static float y[ROWS_MAX * PANEL_COLS + MARGIN_BYTES / 4u];
	const size_t scratch_bytes = cpu_panel_scratch_bytes(m);
	uint8_t *scratch = room_for(scratch_bytes + MARGIN_BYTES);
	struct act_rows a = { .block_stride = m->n_in / BLOCK_K, .f32_stride = m->n_in,
			      .f32 = (float *)x };
	const size_t n_blocks = n_rows * a.block_stride;

	a.blocks = (struct act_block *)room_for(n_blocks * sizeof(*a.blocks));
	a.wide = (struct act_wide *)room_for(n_blocks * sizeof(*a.wide));
	k->quantise(x, n_rows * m->n_in, a.blocks);
	k->quantise_wide(x, n_rows * m->n_in, a.wide);
	for (uint32_t panel = 0; panel < m->n_panels; panel++) {
		memset(scratch, UNWRITTEN, scratch_bytes + MARGIN_BYTES);
		memset(y, UNWRITTEN, sizeof(y));
		const uint8_t *w = k->panel_prepare(m, panel, n_rows, scratch);
		if (w == scratch)
			emit(out, scratch, scratch_bytes + MARGIN_BYTES);
		k->panel_rows(m, w, w == scratch, &a, 0, n_rows, y, PANEL_COLS);
		emit(out, y, n_rows * PANEL_COLS * sizeof(*y) + MARGIN_BYTES);
	}
	free(scratch);
	free(a.blocks);
	free(a.wide);
}

static void run_product(const struct cpu_kernels *k, uint32_t format, struct sink *out)
{
	static const uint32_t widths[] = { 32, 96, 256 };
	static float x[ROWS_MAX * N_IN_MAX];
	uint32_t seed = 100u + format;

	for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
		struct panel_matrix m = formats[format];
		matrix_make(&m, widths[i], &seed);
		draw_floats(x, ROWS_MAX * widths[i], &seed, 110, 132);
		for (uint32_t rows = 1; rows <= ROWS_MAX; rows += rows < 14 ? 1 : rows == 14 ? 27 : 7)
			product(k, &m, x, rows, out);
		free((void *)m.data);
	}
}

/* ---- rows ---- */

static void run_quantise(const struct cpu_kernels *k, uint32_t wide, struct sink *out)
{
	uint32_t seed = 7;
	float x[96];

	/* every window of magnitudes, from denormals to the largest floats */
	for (uint32_t low = 0; low <= 248; low++) {
		struct act_block blocks[4];
		struct act_wide wides[4];
		draw_floats(x, 96, &seed, low, low + 6u);
		memset(blocks, UNWRITTEN, sizeof(blocks));
		memset(wides, UNWRITTEN, sizeof(wides));
		if (wide)
			k->quantise_wide(x, 96, wides);
		else
			k->quantise(x, 96, blocks);
		emit(out, wide ? (void *)wides : (void *)blocks,
		     wide ? sizeof(wides) : sizeof(blocks));
	}
}

static void run_norm(const struct cpu_kernels *k, uint32_t unused, struct sink *out)
{
	static const uint32_t sizes[] = { 1, 16, 30, 48, 64, 576 };
	float x[576], w[576], y[576 + MARGIN_BYTES / 4u];
	uint32_t seed = 8;

	for (uint32_t low = 0; low <= 150; low += 10)
		for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
			memset(x, 0, sizeof(x));
			draw_floats(x, sizes[i], &seed, low, low + 20u);
			draw_floats(w, 576, &seed, 100, 135);
			memset(y, UNWRITTEN, sizeof(y));
			k->norm(x, w, sizes[i], 1e-5f, y);
			emit(out, y, ((sizes[i] + 15u) & ~15u) * sizeof(*y) + MARGIN_BYTES);
		}
}

enum { ROW_SWIGLU, ROW_ADD, ROW_ROTATE, ROW_PAIRS };

/* The kernels of 32 elements. */
static void run_row(const struct cpu_kernels *k, uint32_t which, struct sink *out)
{
	const uint32_t high = which == ROW_ROTATE ? 180 : 254;
	uint32_t seed = 9u + which;

	for (int i = 0; i < 2000; i++) {
		float x[32 + MARGIN_BYTES / 4u], other[32], sines[32];
		uint8_t pairs[64u * 4u + MARGIN_BYTES];
		/* by turns everything finite, and what activations look like */
		draw_floats(x, 32, &seed, i % 2 ? 0 : 105, i % 2 ? high : 135);
		draw_floats(other, 32, &seed, 0, which == ROW_ROTATE ? 126 : 250);
		draw_floats(sines, 32, &seed, 0, 126);
		memset(x + 32, UNWRITTEN, MARGIN_BYTES);
		memset(pairs, UNWRITTEN, sizeof(pairs));
		if (which == ROW_SWIGLU)
			k->swiglu(x, other);
		else if (which == ROW_ADD)
			k->add(x, other);
		else if (which == ROW_ROTATE)
			k->rotate(x, other, sines);
		else
			k->store_pairs(pairs, 32u * (i % 2), x, i % 3 ? 0.18033688f : 1.0f);
		if (which == ROW_PAIRS)
			emit(out, pairs, sizeof(pairs));
		else
			emit(out, x, sizeof(x));
	}
}

/* ---- attention ---- */

/* Exponents of queries, keys and values: as in a model; and so small that scores, then that outputs
 * are sums of products near and below the least normal float, where vdpbf16ps takes and gives zero. */
static const struct { uint32_t query[2], key[2], value[2]; } ranges[] = {
	{ { 110, 129 }, { 100, 129 }, { 100, 130 } },
	{ { 55, 75 }, { 45, 75 }, { 0, 24 } },
	{ { 110, 129 }, { 100, 122 }, { 0, 12 } },
};

static void attend_once(const struct cpu_kernels *k, uint32_t hd, uint32_t n_queries,
			uint32_t n_pages, size_t range, uint32_t *seed, struct sink *out)
{
	static uint16_t pages[ATTN_BLOCK_PAGES][HEAD_DIM_MAX * 32];
	static uint8_t queries[ATTN_TILE_QUERIES][HEAD_DIM_MAX * 4] __attribute__((aligned(64)));
	static float partials[ATTN_TILE_QUERIES][HEAD_DIM_MAX + 2u + MARGIN_BYTES / 4u];
	struct attn_tile t = { .n_pages = n_pages, .head_dim = hd, .n_queries = n_queries };

	for (uint32_t p = 0; p < n_pages; p++) {
		t.pages[p] = (const uint8_t *)pages[p];
		for (uint32_t i = 0; i < hd * 32; i++)
			pages[p][i] = i < hd * 16 ? draw_bf16(seed, ranges[range].key[0],
							      ranges[range].key[1])
						  : draw_bf16(seed, ranges[range].value[0],
							      ranges[range].value[1]);
	}
	memset(partials, UNWRITTEN, sizeof(partials));
	for (uint32_t q = 0; q < n_queries; q++) {
		float x[HEAD_DIM_MAX];
		draw_floats(x, HEAD_DIM_MAX, seed, ranges[range].query[0], ranges[range].query[1]);
		for (uint32_t i = 0; i < hd; i += 32)
			k->store_pairs(queries[q], i, x + i, 1.0f);
		t.queries[q] = queries[q];
		t.visible[q] = q == 0 ? n_pages * 16u : 1u + draw(seed) % (n_pages * 16u);
		t.partials[q] = partials[q];
	}
	k->attend(&t);
	for (uint32_t q = 0; q < n_queries; q++)
		emit(out, partials[q], (hd + 2u) * sizeof(float) + MARGIN_BYTES);
}

static void run_attend(const struct cpu_kernels *k, uint32_t head_dim, struct sink *out)
{
	static const uint32_t n_pages[] = { 1, 2, 3, 8 };
	uint32_t seed = 500u + head_dim;

	for (size_t range = 0; range < sizeof(ranges) / sizeof(ranges[0]); range++)
		for (uint32_t queries = 1; queries <= ATTN_TILE_QUERIES; queries++)
			for (size_t i = 0; i < sizeof(n_pages) / sizeof(n_pages[0]); i++)
				attend_once(k, head_dim, queries, n_pages[i], range, &seed, out);
}

static void run_merge(const struct cpu_kernels *k, uint32_t head_dim, struct sink *out)
{
	uint32_t seed = 1000u + head_dim;

	for (int i = 0; i < 100; i++) {
		float running[HEAD_DIM_MAX + 2u + MARGIN_BYTES / 4u], part[HEAD_DIM_MAX + 2u];
		float y[HEAD_DIM_MAX + MARGIN_BYTES / 4u];
		memset(running, UNWRITTEN, sizeof(running));
		memset(y, UNWRITTEN, sizeof(y));
		draw_floats(running, head_dim, &seed, 0, 134);
		draw_floats(part, head_dim, &seed, 0, 134);
		/* maxima up to 256 apart: beyond 126 one of the two weighs nothing */
		running[head_dim] = draw_float(&seed, 115, 133);
		part[head_dim] = i % 10 ? draw_float(&seed, 115, 133) : running[head_dim];
		running[head_dim + 1] = 1.0f + (float)(draw(&seed) % 4096u) / 32.0f;
		part[head_dim + 1] = 1.0f + (float)(draw(&seed) % 4096u) / 32.0f;
		k->merge(running, part, head_dim);
		emit(out, running, (head_dim + 2u) * sizeof(float) + MARGIN_BYTES);
		k->finish(running, head_dim, y);
		emit(out, y, head_dim * sizeof(float) + MARGIN_BYTES);
	}
}

static const struct test_case cases[] = {
	{ "panel nibble, offset 8 (Q4_0)", run_product, 0 },
	{ "panel nibble, minimum (Q4_1)", run_product, 1 },
	{ "panel nibble, f32 minimum (Q4_K)", run_product, 2 },
	{ "panel byte (Q8_0, Q5_0)", run_product, 3 },
	{ "panel byte, minimum (Q5_1)", run_product, 4 },
	{ "panel byte, f32 minimum (Q5_K)", run_product, 5 },
	{ "panel byte, groups of 16 (Q6_K)", run_product, 6 },
	{ "panel f32", run_product, 7 },
	{ "panel f16", run_product, 8 },
	{ "panel bf16", run_product, 9 },
	{ "quantise", run_quantise, 0 },
	{ "quantise_wide", run_quantise, 1 },
	{ "norm", run_norm, 0 },
	{ "swiglu", run_row, ROW_SWIGLU },
	{ "add", run_row, ROW_ADD },
	{ "rotate", run_row, ROW_ROTATE },
	{ "store_pairs", run_row, ROW_PAIRS },
	{ "attend, head of 2", run_attend, 2 },
	{ "attend, head of 8", run_attend, 8 },
	{ "attend, head of 40", run_attend, 40 },
	{ "attend, head of 64", run_attend, 64 },
	{ "attend, head of 80", run_attend, 80 },
	{ "attend, head of 128", run_attend, 128 },
	{ "attend, head of 256", run_attend, 256 },
	{ "merge and finish, head of 8", run_merge, 8 },
	{ "merge and finish, head of 80", run_merge, 80 },
	{ "merge and finish, head of 128", run_merge, 128 },
};

/* FNV-1a */
static uint64_t digest(const uint8_t *p, size_t n)
{
	uint64_t h = 0xCBF29CE484222325u;

	for (size_t i = 0; i < n; i++)
		h = (h ^ p[i]) * 0x100000001B3u;
	return h;
}

int main(void)
{
	const struct cpu_kernels *real = cpu_kernels_find("avx512");
	struct sink expected = { .bytes = room_for(SINK_BYTES) };
	struct sink got = { .bytes = room_for(SINK_BYTES) };
	size_t n_compared = 0, n_differ = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct test_case *c = &cases[i];
		size_t differ = 0, first = 0;
		expected.n = got.n = 0;
		c->run(&cpu_kernels_emulated, c->variant, &expected);
		if (real)
			c->run(real, c->variant, &got);
		for (size_t at = got.n; at-- > 0;)
			if (got.bytes[at] != expected.bytes[at]) {
				differ++;
				first = at;
			}
		printf("%-34s digest %016llx  %8zu compared, %zu differ", c->name,
		       (unsigned long long)digest(expected.bytes, expected.n), got.n, differ);
		if (differ)
			printf(", first at byte %zu of %zu", first, expected.n);
		printf("\n");
		n_compared += got.n;
		n_differ += differ;
	}
	free(expected.bytes);
	free(got.bytes);
	if (!real)
		printf("kernels_isa: no AVX-512 VNNI and BF16 here: only the emulation ran\n");
	printf("kernels_isa: %zu bytes compared, %zu differ\n", n_compared, n_differ);
	return n_differ != 0;
}
