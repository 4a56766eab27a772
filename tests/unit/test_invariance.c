/* test_invariance.c - K and V bytes and logits depend on nothing but the tokens: not on chunk, batch,
 * number of rows, threads, or on whose pages hold the prefix.  The project's first promise; equality of
 * bytes within a kernel table, and between avx2 and portable. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/forward_internal.h"
#include "tests/lib/kernels_emulated.h"
#include "tests/lib/kv_memory.h"
#include "tests/lib/synth_model.h"
#include "tests/lib/suite.h"

#define MAX_ROWS 128u
#define MAX_PAGES 128u
#define MAX_SEQS 16u

/* What a run leaves: all pages of its last sequence, and the logits of its last position. */
struct trace {
	uint8_t *pages;
	float *logits;
	size_t page_bytes, n_pages;
};

struct way {
	const char *name;
	unsigned threads;
	uint32_t chunk;            /* rows of a sequence per step */
	uint32_t n_seqs;           /* sequences of the same tokens, all in each step */
	uint32_t n_shared;         /* tokens whose pages all sequences share, computed by the first */
};

static int32_t token_at(const struct model *m, uint32_t pos)
{
	return (int32_t)((pos * 2654435761u >> 7) % m->config.n_vocab);
}

static void trace_free(struct trace *t)
{
	free(t->pages);
	free(t->logits);
}

/* Positions first .. last - 1 of sequences s0 .. s1 - 1, way->chunk rows of each per step. */
static void run_span(struct forward *f, const struct model *m, const struct kv_memory *kv,
		     const struct step_seq *seqs, const struct way *way, uint32_t s0, uint32_t s1,
		     uint32_t first, uint32_t last, float *logits)
{
	struct step_row rows[MAX_ROWS];
	uint32_t chunk = way->chunk;

	if (chunk * (s1 - s0) > MAX_ROWS)
		chunk = MAX_ROWS / (s1 - s0);
	for (uint32_t pos = first, n; pos < last; pos += n) {
		uint32_t n_rows = 0;
		n = last - pos < chunk ? last - pos : chunk;
		for (uint32_t s = s0; s < s1; s++)
			for (uint32_t i = 0; i < n; i++)
				rows[n_rows++] = (struct step_row){
					.token = token_at(m, pos + i),
					.pos = pos + i,
					.seq = (uint16_t)s,
					.want_logits = s + 1 == s1 && pos + i + 1 == last};
		ck_assert_int_eq(forward_step(f, &kv->window, seqs, s1, rows, n_rows, logits), 0);
	}
}

static struct trace run(const struct model *m, const struct cpu_kernels *k, const struct weights *w,
			uint32_t n_tokens, const struct way *way)
{
	static uint32_t tables[MAX_SEQS][MAX_PAGES];
	const uint32_t n_pages = (n_tokens + KVD_PAGE_TOKENS - 1) / KVD_PAGE_TOKENS;
	struct forward_options o = {
		.n_threads = way->threads, .max_rows = MAX_ROWS, .spin_usec = 20, .weights = w};
	struct step_seq seqs[MAX_SEQS];
	struct kv_memory kv;
	struct forward *f;
	char err[256];
	struct trace t = { .n_pages = n_pages, .logits = malloc(m->config.n_vocab * sizeof(float)) };

	ck_assert_int_eq(forward_new_with(m, &o, k, &f, err, sizeof(err)), 0);
	kv_memory_init(&kv, &m->config, n_pages * way->n_seqs);
	for (uint32_t s = 0; s < way->n_seqs; s++) {
		seqs[s].table = tables[s];
		for (uint32_t p = 0; p < n_pages; p++)
			tables[s][p] = s > 0 && p < way->n_shared / KVD_PAGE_TOKENS
					       ? tables[0][p]
					       : kv_memory_take(&kv);
	}
	run_span(f, m, &kv, seqs, way, 0, 1, 0, way->n_shared, t.logits);
	run_span(f, m, &kv, seqs, way, 0, way->n_seqs, way->n_shared, n_tokens, t.logits);
	t.page_bytes = kvd_page_bytes(&kv.window.geometry);
	t.pages = malloc(t.page_bytes * n_pages);
	for (uint32_t p = 0; p < n_pages; p++)
		kv_memory_read_page(&kv, tables[way->n_seqs - 1][p], t.pages + p * t.page_bytes);
	kv_memory_deinit(&kv);
	forward_free(f);
	return t;
}

static void assert_same(const struct trace *a, const struct trace *b, const struct model *m, const char *name)
{
	for (size_t p = 0; p < a->n_pages; p++)
		ck_assert_msg(memcmp(a->pages + p * a->page_bytes, b->pages + p * a->page_bytes,
				     a->page_bytes) == 0,
			      "%s: page %zu differs", name, p);
	ck_assert_msg(memcmp(a->logits, b->logits, m->config.n_vocab * sizeof(float)) == 0,
		      "%s: logits differ", name);
}

/* All ways against the first. */
static struct trace compare_ways(const struct model *m, const struct cpu_kernels *k, uint32_t n_tokens,
				 const struct way *ways, size_t n_ways)
{
	struct weights *w;
	char err[256];

	ck_assert_int_eq(weights_build(m, false, &w, err, sizeof(err)), 0);
	struct trace first = run(m, k, w, n_tokens, &ways[0]);
	for (size_t i = 1; i < n_ways; i++) {
		struct trace t = run(m, k, w, n_tokens, &ways[i]);
		assert_same(&first, &t, m, ways[i].name);
		trace_free(&t);
	}
	weights_free(w);
	return first;
}

static const struct way synthetic_ways[] = {
	{ "chunk 128", 1, 128, 1, 0 },    { "chunk 1", 1, 1, 1, 0 },
	{ "chunk 7", 2, 7, 1, 0 },        { "chunk 64, 2 threads", 2, 64, 1, 0 },
	{ "2 sequences", 1, 64, 2, 0 },   { "3 sequences", 2, 5, 3, 0 },
	{ "16 sequences", 2, 8, 16, 0 },  { "16 sequences, decode", 1, 1, 16, 0 },
	{ "5 over a shared prefix", 1, 3, 5, 128 }, { "16 over a shared prefix", 2, 1, 16, 256 },
};

static const struct synth_shape shapes[] = {
	/* grouped heads, every weight form; then odd shapes that fill no panel, vector or block */
	{.n_layers = 2,
	 .n_embd = 256,
	 .n_heads = 6,
	 .n_kv_heads = 2,
	 .head_dim = 64,
	 .n_ff = 256,
	 .n_vocab = 97,
	 .type = TENSOR_Q4_1,
	 .head = TENSOR_Q8_0,
	 .seed = 1},
	{.n_layers = 2,
	 .n_embd = 128,
	 .n_heads = 8,
	 .n_kv_heads = 1,
	 .head_dim = 80,
	 .n_ff = 96,
	 .n_vocab = 97,
	 .type = TENSOR_Q4_0,
	 .head = TENSOR_BF16,
	 .seed = 2,
	 .rope_dims = 40},
	{.n_layers = 2,
	 .n_embd = 64,
	 .n_heads = 8,
	 .n_kv_heads = 4,
	 .head_dim = 8,
	 .n_ff = 172,
	 .n_vocab = 97,
	 .type = TENSOR_F32,
	 .head = TENSOR_F32,
	 .seed = 3},
	{.n_layers = 2,
	 .n_embd = 256,
	 .n_heads = 8,
	 .n_kv_heads = 8,
	 .head_dim = 32,
	 .n_ff = 512,
	 .n_vocab = 97,
	 .type = TENSOR_Q6_K,
	 .head = TENSOR_Q4_K,
	 .seed = 4},
};
#define N_SHAPES (int)(sizeof(shapes) / sizeof(shapes[0]))
#define N_TOKENS 277u
#define N_WAYS (sizeof(synthetic_ways) / sizeof(synthetic_ways[0]))

static void every_way(const struct synth_shape *shape, const struct cpu_kernels *k, uint32_t n_tokens,
		      size_t n_ways)
{
	struct model *m = synth_model_new(shape);
	struct trace t = compare_ways(m, k, n_tokens, synthetic_ways, n_ways);

	for (uint32_t i = 0; i < m->config.n_vocab; i++)
		ck_assert_msg(t.logits[i] - t.logits[i] == 0.0f, "logit %u is not finite", i);
	trace_free(&t);
	synth_model_free(m);
}

START_TEST(avx2_is_invariant)
{
	const struct cpu_kernels *k = cpu_kernels_find("avx2");

	if (k)
		every_way(&shapes[_i], k, N_TOKENS, N_WAYS);
	else
		printf("skipped: avx2_is_invariant: this machine has no AVX2\n");
}
END_TEST

START_TEST(avx512_is_invariant)
{
	const struct cpu_kernels *k = cpu_kernels_find("avx512");

	if (k)
		every_way(&shapes[_i], k, N_TOKENS, N_WAYS);
	else
		printf("skipped: avx512_is_invariant: this machine has no AVX-512 VNNI and BF16\n");
}
END_TEST

START_TEST(emulated_avx512_is_invariant)
{
	every_way(&shapes[_i], &cpu_kernels_emulated, 137, 6);   /* slow: two blocks, 3 sequences */
}
END_TEST

START_TEST(portable_is_invariant_and_equals_avx2)
{
	const struct cpu_kernels *avx2 = cpu_kernels_find("avx2");
	struct model *m = synth_model_new(&shapes[_i]);
	struct trace portable = compare_ways(m, &cpu_kernels_portable, 137, synthetic_ways, 3);

	if (avx2) {
		struct trace t = compare_ways(m, avx2, 137, synthetic_ways, 1);
		assert_same(&portable, &t, m, "avx2 against portable");
		trace_free(&t);
	}
	trace_free(&portable);
	synth_model_free(m);
}
END_TEST

/* The oracle can fail: one bit of one key changes the logits of who reads it. */
START_TEST(a_flipped_bit_shows)
{
	struct model *m = synth_model_new(&shapes[0]);
	struct forward_options o = { .n_threads = 1, .max_rows = MAX_ROWS };
	const struct way way = { "one", 1, 64, 1, 0 };
	uint32_t table[4];
	struct step_seq seq = { table };
	struct kv_memory kv;
	struct forward *f;
	char err[256];
	float before[97], after[97];

	ck_assert_int_eq(forward_new(m, &o, &f, err, sizeof(err)), 0);
	kv_memory_init(&kv, &m->config, 4);
	for (int i = 0; i < 4; i++)
		table[i] = kv_memory_take(&kv);
	run_span(f, m, &kv, &seq, &way, 0, 1, 0, 40, before);
	run_span(f, m, &kv, &seq, &way, 0, 1, 39, 40, after);
	ck_assert_mem_eq(before, after, sizeof(before));
	kv.window.base[kvd_block_offset(&kv.window.geometry, KVD_ENTRY_FRAME(table[0]), 1) + 1] ^= 0x40;
	run_span(f, m, &kv, &seq, &way, 0, 1, 39, 40, after);
	ck_assert(memcmp(before, after, sizeof(before)) != 0);
	kv_memory_deinit(&kv);
	forward_free(f);
	synth_model_free(m);
}
END_TEST

START_TEST(bad_rows_are_refused)
{
	struct model *m = synth_model_new(&shapes[2]);
	struct forward_options o = { .n_threads = 1, .max_rows = 4 };
	uint32_t table[2] = { 0, 0 };
	struct step_seq seq = { table };
	struct kv_memory kv;
	struct forward *f;
	char err[256];
	float logits[97];

	ck_assert_int_eq(forward_new(m, &o, &f, err, sizeof(err)), 0);
	kv_memory_init(&kv, &m->config, 2);
	table[0] = kv_memory_take(&kv);
	const struct step_row bad[] = { { .token = -1 }, { .token = 97 }, { .token = 1, .pos = 16 },
					{ .token = 1, .seq = 1 } };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_int_eq(forward_step(f, &kv.window, &seq, 1, &bad[i], 1, logits), -22);
	const struct step_row twice[] = { { .token = 1, .pos = 3 }, { .token = 1, .pos = 3 } };
	ck_assert_int_eq(forward_step(f, &kv.window, &seq, 1, twice, 2, logits), -22);
	ck_assert_int_eq(forward_step(f, &kv.window, &seq, 1, twice, 1, logits), 0);
	o.isa = "sse9";
	struct forward *none;
	ck_assert_int_eq(forward_new(m, &o, &none, err, sizeof(err)), -22);
	ck_assert_ptr_nonnull(strstr(err, "sse9"));
	kv_memory_deinit(&kv);
	forward_free(f);
	synth_model_free(m);
}
END_TEST

/* The real model, 1,500 tokens; pages made by decode, by chunks, by batches, over shared pages. */
START_TEST(smollm2_is_invariant)
{
	static const struct way ways[] = {
		{ "chunk 128", 1, 128, 1, 0 },  { "chunk 64, 2 threads", 2, 64, 1, 0 },
		{ "chunk 7", 1, 7, 1, 0 },      { "chunk 1", 1, 1, 1, 0 },
		{ "16 over 1,472 shared tokens", 1, 1, 16, 1472 },
		{ "2 sequences, 2 threads", 2, 64, 2, 0 },
	};
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	char path[512], err[256];
	struct model *m;

	snprintf(path, sizeof(path), "%s%s/kvd/models/SmolLM2-135M-Instruct.Q4_1.gguf",
		 cache  ? cache
		 : home ? home
			: "",
		 cache ? "" : "/.cache");
	if (access(path, R_OK) < 0) {
		printf("skipped: smollm2_is_invariant: no %s (make model)\n", path);
		return;
	}
	ck_assert_int_eq(model_open(path, &m, err, sizeof(err)), 0);
	struct trace t = compare_ways(m, cpu_kernels_find(NULL), 1500, ways, sizeof(ways) / sizeof(ways[0]));
	trace_free(&t);
	model_close(m);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("invariance");
	TCase *synthetic = tcase_create("synthetic"), *real = tcase_create("real");

	tcase_add_loop_test(synthetic, avx2_is_invariant, 0, N_SHAPES);
	tcase_add_loop_test(synthetic, avx512_is_invariant, 0, N_SHAPES);
	tcase_add_loop_test(synthetic, emulated_avx512_is_invariant, 0, N_SHAPES);
	tcase_add_loop_test(synthetic, portable_is_invariant_and_equals_avx2, 0, N_SHAPES);
	tcase_add_test(synthetic, a_flipped_bit_shows);
	tcase_add_test(synthetic, bad_rows_are_refused);
	tcase_set_timeout(synthetic, 300);
	suite_add_tcase(suite, synthetic);
	tcase_add_test(real, smollm2_is_invariant);
	tcase_set_timeout(real, 600);
	suite_add_tcase(suite, real);
	return suite_result(suite);
}
