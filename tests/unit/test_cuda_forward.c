/* test_cuda_forward.c - the GPU's backend against the CPU's, through the seam that the engine uses: the plugin's
 * host logic and its kernels' own sources, on the driver's double, emulated.  Where there is a device and
 * KVD_LIBCUDA names its driver, the same on it.
 *
 * Two claims: near the CPU for every weight form and head size, and, as equality of bytes, that logits
 * depend on no chunk, batch, number of rows or sharing of pages. */
#include <check.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/backend.h"
#include "tests/lib/kv_memory.h"
#include "tests/lib/synth_model.h"

#define MAX_ROWS 80u
#define MAX_PAGES 40u
#define MAX_SEQS 6u
#define N_VOCAB 97u
#define POSITIONS (MAX_PAGES * KVD_PAGE_TOKENS)

static const struct backend *cuda;
static char device_dir[64];

/* A model on one backend with pages for some sequences. */
struct bench {
	const struct backend *backend;
	struct backend_run *run;
	struct kv_memory kv;
	uint8_t *host_base;        /* kv's own memory, where the backend has another */
	uint32_t tables[MAX_SEQS][MAX_PAGES];
	struct step_seq seqs[MAX_SEQS];
};

static void bench_init(struct bench *b, const struct backend *backend, const struct model *m,
		       uint32_t n_seqs, uint32_t n_pages, uint32_t n_shared_pages)
{
	const struct backend_options o = { .ordinal = 0, .max_rows = MAX_ROWS, .max_logits = MAX_ROWS,
		.max_seqs = MAX_SEQS, .n_positions = POSITIONS, .n_threads = 1 };
	char err[600] = "";

	b->backend = backend;
	ck_assert_msg(backend->open(m, &o, &b->run, err, sizeof(err)) == 0, "%s", err);
	kv_memory_init(&b->kv, &m->config, n_seqs * n_pages);
	b->host_base = b->kv.window.base;
	b->kv.window.base = backend->pages_new(b->run, b->kv.bytes);
	ck_assert_ptr_nonnull(b->kv.window.base);
	for (uint32_t s = 0; s < n_seqs; s++) {
		b->seqs[s].table = b->tables[s];
		for (uint32_t p = 0; p < n_pages; p++)
			b->tables[s][p] = s > 0 && p < n_shared_pages ? b->tables[0][p]
								       : kv_memory_take(&b->kv);
	}
}

static void bench_deinit(struct bench *b)
{
	b->backend->pages_free(b->run, b->kv.window.base, b->kv.bytes);
	b->backend->close(b->run);
	b->kv.window.base = b->host_base;
	kv_memory_deinit(&b->kv);
}

static int32_t token_at(uint32_t pos)
{
	return (int32_t)((pos * 2654435761u >> 7) % N_VOCAB);
}

/* Positions first .. last - 1 of sequences s0 .. s1 - 1, chunk rows of each a step.
 * logits (last - first, N_VOCAB) of the last sequence */
static void bench_run(struct bench *b, uint32_t s0, uint32_t s1, uint32_t first, uint32_t last,
		      uint32_t chunk, float *logits)
{
	struct step_row rows[MAX_ROWS];

	ck_assert_uint_le(chunk * (s1 - s0), MAX_ROWS);
	for (uint32_t pos = first, n; pos < last; pos += n) {
		uint32_t n_rows = 0;
		n = last - pos < chunk ? last - pos : chunk;
		for (uint32_t s = s0; s < s1; s++)
			for (uint32_t i = 0; i < n; i++)
				rows[n_rows++] = (struct step_row){ token_at(pos + i), pos + i,
								    (uint16_t)s, s + 1 == s1 };
		int r = b->backend->step(b->run, &b->kv.window, b->seqs, s1, rows, n_rows,
					 logits + (size_t)(pos - first) * N_VOCAB);
		ck_assert_msg(r == 0, "step: %d %s", r, b->backend->error(b->run));
	}
}

/* ||a - b|| / ||b|| over n */
static double distance(const float *a, const float *b, size_t n)
{
	double difference = 0, norm = 0;

	for (size_t i = 0; i < n; i++) {
		difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
		norm += (double)b[i] * b[i];
	}
	return sqrt(difference / norm);
}

/* Nibbles are multiplied by activations of 8 bits. */
static bool is_nibble(enum tensor_type type)
{
	return type == TENSOR_Q4_0 || type == TENSOR_Q4_1 || type == TENSOR_Q4_K;
}

#define SHAPE(EMBD, HEADS, KV_HEADS, DIM, FF, TYPE, HEAD) \
	{ .n_layers = 1, .n_embd = EMBD, .n_heads = HEADS, .n_kv_heads = KV_HEADS, .head_dim = DIM, \
	  .n_ff = FF, .n_vocab = N_VOCAB, .type = TENSOR_##TYPE, .head = TENSOR_##HEAD, .seed = 7 }
static const struct synth_shape shapes[] = {
	SHAPE(256, 4, 2, 64, 256, Q4_0, Q8_0), SHAPE(256, 4, 4, 64, 256, Q4_1, Q4_1),
	SHAPE(256, 4, 1, 64, 512, Q4_K, Q6_K), SHAPE(160, 6, 2, 80, 96, Q5_0, Q4_0),
	SHAPE(256, 4, 2, 64, 256, Q5_1, Q5_1), SHAPE(256, 2, 2, 128, 256, Q5_K, Q5_K),
	SHAPE(256, 16, 1, 64, 256, Q6_K, Q4_K), SHAPE(96, 2, 1, 256, 172, F16, F16),
	SHAPE(72, 3, 1, 96, 100, F32, F32), SHAPE(200, 17, 1, 64, 136, BF16, BF16),
};
#define N_SHAPES (int)(sizeof(shapes) / sizeof(shapes[0]))

/* 150 tokens: past one unit of keys, into a page.  What is left between them: the roundings of activations and of
 * K and V, which fall differently where a sum differs in its last bit. */
START_TEST(near_the_cpu)
{
	static float expected[150 * N_VOCAB], got[150 * N_VOCAB];
	struct model *m = synth_model_new(&shapes[_i]);
	struct bench b;

	bench_init(&b, &backend_cpu, m, 1, 10, 0);
	bench_run(&b, 0, 1, 0, 150, 75, expected);
	bench_deinit(&b);
	bench_init(&b, cuda, m, 1, 10, 0);
	bench_run(&b, 0, 1, 0, 150, 75, got);
	bench_deinit(&b);
	double d = distance(got, expected, 150 * N_VOCAB);
	printf("shape %d: distance to the CPU %.2e\n", _i, d);
	ck_assert_double_lt(d, is_nibble(shapes[_i].type) || is_nibble(shapes[_i].head) ? 4e-3 : 1e-3);
	synth_model_free(m);
}
END_TEST

struct way {
	const char *name;
	uint32_t chunk, n_seqs, n_shared;
};

static const struct way ways[] = {
	{ "chunk 64", 64, 1, 0 },	  { "chunk 1", 1, 1, 0 },
	{ "chunk 2", 2, 1, 0 },		  { "chunk 63", 63, 1, 0 },
	{ "chunk 65", 65, 1, 0 },	  { "3 sequences", 5, 3, 0 },
	{ "5 decode a shared prefix", 1, 5, 128 }, { "2 chunks of a shared prefix", 9, 2, 112 },
};

/* One of each kind of product and of attention's tiles; the rest is the same code. */
static const int invariant_shapes[] = { 0, 6, 7, 9 };

/* 141 tokens; the logits of the last 13 positions, whatever the way to them.  The emulator computes one row
 * as slowly as eight, so small chunks begin late. */
START_TEST(logits_depend_on_tokens_alone)
{
	static float first[13 * N_VOCAB], got[141 * N_VOCAB];
	struct model *m = synth_model_new(&shapes[invariant_shapes[_i]]);

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		const struct way *w = &ways[i];
		struct bench b;
		bench_init(&b, cuda, m, w->n_seqs, 9, w->n_shared / KVD_PAGE_TOKENS);
		bench_run(&b, 0, 1, 0, w->n_shared, 64, got);
		if (w->n_shared < 112u)
			bench_run(&b, 0, w->n_seqs, w->n_shared, 112, w->chunk < 8u ? 16u : w->chunk, got);
		bench_run(&b, 0, w->n_seqs, w->n_shared > 112u ? w->n_shared : 112u, 128, w->chunk, got);
		bench_run(&b, 0, w->n_seqs, 128, 141, w->chunk, i == 0 ? first : got);
		bench_deinit(&b);
		if (i > 0)
			ck_assert_msg(memcmp(first, got, sizeof(first)) == 0, "%s: logits differ", w->name);
	}
	synth_model_free(m);
}
END_TEST

/* What the step refuses, in one piece, and goes on. */
START_TEST(bad_rows_are_refused)
{
	static float logits[N_VOCAB], again[N_VOCAB];
	struct model *m = synth_model_new(&shapes[0]);
	struct step_row rows[2] = { { 5, 0, 0, 1 }, { 6, 1, 0, 0 } };
	struct bench b;

	bench_init(&b, cuda, m, 1, 2, 0);
	bench_run(&b, 0, 1, 0, 1, 1, logits);
	const struct step_row bad[] = { { -1, 0, 0, 1 }, { N_VOCAB, 0, 0, 1 }, { 1, POSITIONS, 0, 1 },
					{ 1, 0, 1, 1 } };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_int_lt(cuda->step(b.run, &b.kv.window, b.seqs, 1, &bad[i], 1, again), 0);
	rows[1].pos = 0;
	ck_assert_int_lt(cuda->step(b.run, &b.kv.window, b.seqs, 1, rows, 2, again), 0);
	b.tables[0][0] = 0;        /* no page there */
	ck_assert_int_lt(cuda->step(b.run, &b.kv.window, b.seqs, 1, rows, 1, again), 0);
	b.tables[0][0] = KVD_ENTRY(0, KVD_FORMAT_BF16);
	bench_run(&b, 0, 1, 0, 1, 1, again);
	ck_assert_mem_eq(logits, again, sizeof(logits));
	bench_deinit(&b);
	synth_model_free(m);
}
END_TEST

/* The double beside this program, unless a driver is named, or the machine's own is meant. */
static void use_double(void)
{
	char path[PATH_MAX], library[PATH_MAX + 64];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

	if (getenv("KVD_LIBCUDA") || getenv("KVD_TEST_DRIVER") || n <= 0)
		return;
	path[n] = 0;
	*strrchr(path, '/') = 0;
	snprintf(library, sizeof(library), "%s/fakecuda/libcuda.so.1", path);
	setenv("KVD_LIBCUDA", library, 1);
	snprintf(library, sizeof(library), "%s/fakecuda/libkernels.so", path);
	setenv("FAKECUDA_KERNELS", library, 1);
	snprintf(device_dir, sizeof(device_dir), "/dev/shm/kvd-cuda-forward.XXXXXX");
	if (mkdtemp(device_dir))
		setenv("FAKECUDA_DIR", device_dir, 1);
	setenv("FAKECUDA_ABORT", "1", 1);
}

static Suite *suite(void)
{
	Suite *s = suite_create("cuda_forward");
	TCase *c = tcase_create("cuda_forward");

	tcase_add_loop_test(c, near_the_cpu, 0, N_SHAPES);
	tcase_add_loop_test(c, logits_depend_on_tokens_alone, 0, 4);
	tcase_add_test(c, bad_rows_are_refused);
	suite_add_tcase(s, c);
	return s;
}

static void remove_directory(void)
{
	char command[128];

	if (!device_dir[0])
		return;
	snprintf(command, sizeof(command), "rm -rf %s", device_dir);
	if (system(command) != 0)
		printf("%s is left\n", device_dir);
}

int main(void)
{
	const struct backend_options o = { .ordinal = 0 };
	char err[600] = "", numerics[32];
	int ordinal, failed;

	use_double();
	if (backend_find("cuda", &cuda, &ordinal, err, sizeof(err)) < 0 ||
	    cuda->numerics_id(&o, numerics, err, sizeof(err)) < 0) {
		printf("skipped: no CUDA device: %s\n", err);
		remove_directory();
		return 0;
	}
	SRunner *runner = srunner_create(suite());
	srunner_set_fork_status(runner, CK_NOFORK);   /* a driver doesn't survive fork() */
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	remove_directory();
	return failed != 0;
}
