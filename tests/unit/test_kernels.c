/* test_kernels.c - each kernel against plain arithmetic in double, and every table against the others. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "engine/cpu/formats.h"
#include "engine/cpu/half.h"
#include "engine/cpu/kernels.h"
#include "engine/forward.h"
#include "engine/team.h"
#include "engine/weights.h"
#include "tests/lib/kernels_emulated.h"
#include "tests/lib/synth_model.h"
#include "tests/lib/suite.h"

static const enum tensor_type types[] = { TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_Q4_0, TENSOR_Q4_1,
	TENSOR_Q5_0, TENSOR_Q5_1, TENSOR_Q8_0, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K };
#define N_TYPES (int)(sizeof(types) / sizeof(types[0]))
#define K 512u
#define N 256u
#define MAX_ROWS 48u

/* Tables this machine can run. */
static int tables(const struct cpu_kernels **ret)
{
	int n = 0;

	ret[n++] = &cpu_kernels_portable;
	ret[n++] = &cpu_kernels_emulated;
	if ((ret[n] = cpu_kernels_find("avx2")))
		n++;
	if ((ret[n] = cpu_kernels_find("avx512")))
		n++;
	return n;
}

static void fill(float *x, size_t n, float scale, uint32_t seed)
{
	for (size_t i = 0; i < n; i++)
		x[i] = synth_random(&seed) * scale;
}

/* Outputs of all panels of m for n_rows rows of x (n_rows, K). */
static void product(const struct cpu_kernels *k, const struct panel_matrix *m, const float *x, uint32_t n_rows,
		    float *out)
{
	struct act_rows a = { .block_stride = K / 32, .f32_stride = K, .f32 = (float *)x };
	uint8_t *scratch = aligned_alloc(64, cpu_panel_scratch_bytes(m) + 64u -
						     cpu_panel_scratch_bytes(m) % 64u);

	a.blocks = calloc(n_rows * a.block_stride, sizeof(*a.blocks));
	a.wide = calloc(n_rows * a.block_stride, sizeof(*a.wide));
	k->quantise(x, n_rows * K, a.blocks);
	k->quantise_wide(x, n_rows * K, a.wide);
	for (uint32_t p = 0; p < m->n_panels; p++) {
		const uint8_t *w = k->panel_prepare(m, p, n_rows, scratch);
		k->panel_rows(m, w, w == scratch, &a, 0, n_rows, out + p * PANEL_COLS,
			      m->n_panels * PANEL_COLS);
	}
	free(scratch);
	free(a.blocks);
	free(a.wide);
}

/* Every type: near the exact product of the file's weights; the same bytes for any number of rows and
 * from every table. */
START_TEST(products)
{
	const enum tensor_type type = types[_i];
	const struct synth_shape shape = { .n_layers = 1, .n_embd = K, .n_heads = 8, .n_kv_heads = 8,
		.head_dim = 32, .n_ff = 512, .n_vocab = 64, .type = type, .head = TENSOR_F32, .seed = 7 };
	const bool is_float = !format_is_quantised(type);
	const double tolerance = format_is_nibble(type) ? 2e-2 : is_float ? 1e-5 : 1e-3;
	static float x[MAX_ROWS * K], all[MAX_ROWS * N], some[MAX_ROWS * N], row[K];
	struct model *m = synth_model_new(&shape);
	const struct cpu_kernels *k[4];
	const int n_tables = tables(k);
	struct weights *w;
	char err[256];

	if (type == TENSOR_Q4_K || type == TENSOR_Q5_K || type == TENSOR_Q6_K)
		ck_assert_uint_eq(K % 256, 0);
	ck_assert_int_eq(weights_build(m, false, &w, err, sizeof(err)), 0);
	const struct panel_matrix *wq = &w->layers[0].wq;
	ck_assert_uint_eq(wq->n_panels, N / PANEL_COLS);
	fill(x, MAX_ROWS * K, 3.0f, 11);
	product(k[0], wq, x, MAX_ROWS, all);
	for (uint32_t n = 0; n < N; n++) {
		format_row_f32(&m->layers[0].wq, n, row);
		for (uint32_t r = 0; r < MAX_ROWS; r++) {
			double exact = 0.0, squares = 0.0;
			for (uint32_t i = 0; i < K; i++) {
				exact += (double)row[i] * x[r * K + i];
				squares += fabs((double)row[i] * x[r * K + i]);
			}
			ck_assert_msg(fabs(all[r * N + n] - exact) <= tolerance * squares,
				      "type %d row %u column %u: %g, not %g", (int)type, r, n,
				      (double)all[r * N + n], exact);
		}
	}
	for (int t = 0; t < n_tables; t++)
		for (uint32_t rows = 1; rows <= MAX_ROWS; rows += rows < 14 ? 1 : 17) {
			product(k[t], wq, x + (MAX_ROWS - rows) * K, rows, some);
			ck_assert_msg(memcmp(some, all + (MAX_ROWS - rows) * N, rows * N * sizeof(float)) == 0,
				      "type %d, %u rows: %s differs from portable", (int)type, rows, k[t]->isa);
		}
	weights_free(w);
	synth_model_free(m);
}
END_TEST

START_TEST(rows)
{
	const struct cpu_kernels *k[4];
	static float x[K], w[K], y[K], y0[K], gate[32], up[32], gate0[32];
	const int n_tables = tables(k);

	fill(x, K, 5.0f, 1);
	fill(w, K, 1.0f, 2);
	for (int t = 0; t < n_tables; t++) {
		double squares = 0.0;
		k[t]->norm(x, w, K, 1e-5f, y);
		for (uint32_t i = 0; i < K; i++)
			squares += (double)x[i] * x[i];
		for (uint32_t i = 0; i < K; i++)
			ck_assert_double_eq_tol(y[i], x[i] / sqrt(squares / K + 1e-5) * w[i], 1e-5);
		if (t == 0)
			memcpy(y0, y, sizeof(y));
		ck_assert_mem_eq(y, y0, sizeof(y));
		/* the whole range of exp, both ends included */
		for (int i = 0; i < 32; i++) {
			gate[i] = i < 30    ? (float)(i - 15) * (i % 3 == 2 ? 8.0f : 0.7f)
				  : i == 30 ? -3e4f
					    : 3e4f;
			up[i] = 1.5f;
		}
		float before[32];
		memcpy(before, gate, sizeof(gate));
		k[t]->swiglu(gate, up);
		for (int i = 0; i < 32; i++) {
			double exact = 1.5 * before[i] / (1.0 + exp(-(double)before[i]));
			ck_assert_double_eq_tol(gate[i], exact, 1e-5 * fabs(exact) + 1e-30);
		}
		if (t == 0)
			memcpy(gate0, gate, sizeof(gate));
		ck_assert_mem_eq(gate, gate0, sizeof(gate));
	}
}
END_TEST

/* Inputs no model should make: nothing traps, zero stays zero. */
START_TEST(strange_activations)
{
	const struct cpu_kernels *k[4];
	const int n_tables = tables(k);
	float x[64] = { [0] = NAN, [1] = INFINITY, [2] = -INFINITY, [40] = 1e-38f, [41] = -3e-39f };
	struct act_block b[2];
	struct act_wide w[2];

	for (int t = 0; t < n_tables; t++) {
		k[t]->quantise(x, 64, b);
		k[t]->quantise_wide(x, 64, w);
		for (int i = 0; i < 32; i++) {
			ck_assert_int_eq(b[1].q[i], 0);
			ck_assert_int_eq(w[1].q[i], 0);
		}
		ck_assert(b[1].s.scale == 0.0f && w[1].s.scale == 0.0f);
	}
}
END_TEST

#define KEYS 23u     /* two pages, the second partly seen */

static float kv_get(const uint16_t *page, uint32_t head_dim, bool is_value, uint32_t token, uint32_t dim)
{
	if (is_value)
		return f32_from_bf16(page[head_dim * 16 + (token / 2 * head_dim + dim) * 2 + token % 2]);
	return f32_from_bf16(page[(dim / 2 * 16 + token) * 2 + dim % 2]);
}

START_TEST(attention)
{
	static const uint32_t head_dims[] = { 2, 8, 40, 64, 80, 128 };
	const uint32_t hd = head_dims[_i];
	const struct cpu_kernels *k[4];
	const int n_tables = tables(k);
	static uint16_t pages[2][128 * 32];
	static float x[128], part[160], part2[160], out[128];
	static uint8_t query[128 * 4] __attribute__((aligned(64)));
	uint32_t seed = 5;

	for (uint32_t p = 0; p < 2; p++)
		for (uint32_t i = 0; i < hd * 32; i++)
			pages[p][i] = bf16_from_f32(synth_random(&seed));
	for (int t = 0; t < n_tables; t++) {
		const double tolerance = k[t]->pair_bytes == 4 ? 2e-2 : 1e-5;
		fill(x, 128, 2.0f, 9);
		for (uint32_t i = 0; i < 128 && i < ((hd + 31u) & ~31u); i += 32)
			k[t]->store_pairs(query, i, x + i, 1.0f);
		struct attn_tile tile = {.pages = {(uint8_t *)pages[0], (uint8_t *)pages[1]},
					 .n_pages = 2,
					 .head_dim = hd,
					 .n_queries = 1,
					 .queries = {query},
					 .visible = {KEYS},
					 .partials = {part}};
		k[t]->attend(&tile);
		k[t]->finish(part, hd, out);
		double weights[KEYS], sum = 0.0, largest = -1e30;
		for (uint32_t key = 0; key < KEYS; key++) {
			weights[key] = 0.0;
			for (uint32_t d = 0; d < hd; d++)
				weights[key] += (double)x[d] * kv_get(pages[key / 16], hd, false, key % 16, d);
			largest = weights[key] > largest ? weights[key] : largest;
		}
		for (uint32_t key = 0; key < KEYS; key++)
			sum += weights[key] = exp2(weights[key] - largest);
		for (uint32_t d = 0; d < hd; d++) {
			double exact = 0.0;
			for (uint32_t key = 0; key < KEYS; key++)
				exact += weights[key] / sum * kv_get(pages[key / 16], hd, true, key % 16, d);
			ck_assert_double_eq_tol(out[d], exact, tolerance);
		}
		/* what the query doesn't see can't show: other bytes behind, a page more, another tile mate */
		for (uint32_t dim = 0; dim < hd; dim++)
			pages[1][hd * 16 + (15 / 2 * hd + dim) * 2 + 1] ^= 0x8000u;
		tile = (struct attn_tile){
			.pages = {(uint8_t *)pages[0], (uint8_t *)pages[1], (uint8_t *)pages[0]},
			.n_pages = 3,
			.head_dim = hd,
			.n_queries = 2,
			.queries = {query, query},
			.visible = {KEYS, 48},
			.partials = {part2, out}};
		float other[160];
		tile.partials[1] = other;
		k[t]->attend(&tile);
		ck_assert_mem_eq(part, part2, (hd + 2) * sizeof(float));
		/* merging a block with itself changes no output */
		k[t]->merge(part2, part, hd);
		ck_assert_float_eq(part2[hd + 1], 2.0f * part[hd + 1]);
		ck_assert_float_eq(part2[0], 2.0f * part[0]);
	}
}
END_TEST

START_TEST(weights_are_shared)
{
	struct synth_shape shape = { .n_layers = 2, .n_embd = 64, .n_heads = 2, .n_kv_heads = 1, .head_dim = 32,
		.n_ff = 64, .n_vocab = 50, .type = TENSOR_Q4_1, .head = TENSOR_Q8_0, .seed = 3 };
	struct model *m = synth_model_new(&shape), *other;
	struct weights *built, *adopted, *none = NULL;
	char err[256] = "";

	ck_assert_int_eq(weights_build(m, true, &built, err, sizeof(err)), 0);
	ck_assert_int_ge(weights_fd(built), 0);
	ck_assert_int_eq(weights_adopt(m, weights_fd(built), &adopted, err, sizeof(err)), 0);
	ck_assert_uint_eq(adopted->bytes, built->bytes);
	ck_assert_mem_eq(adopted->base, built->base, built->bytes);
	ck_assert_mem_eq(adopted->layers[1].w_down.data, built->layers[1].w_down.data,
			 built->layers[1].w_down.panel_bytes * built->layers[1].w_down.n_panels);
	/* nobody can write it, not even through the fd */
	ck_assert_ptr_eq(mmap(NULL, built->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, weights_fd(built), 0),
			 MAP_FAILED);
	ck_assert_int_lt(pwrite(weights_fd(built), "x", 1, 0), 0);
	shape.seed = 4;
	other = synth_model_new(&shape);
	ck_assert_int_eq(weights_adopt(other, weights_fd(built), &none, err, sizeof(err)), -EINVAL);
	int fd = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	ck_assert_int_eq(ftruncate(fd, (off_t)built->bytes), 0);
	ck_assert_int_eq(weights_adopt(m, fd, &none, err, sizeof(err)), -EINVAL);
	ck_assert_int_eq(weights_adopt(m, -1, &none, err, sizeof(err)), -EINVAL);
	ck_assert_ptr_null(none);
	close(fd);
	weights_free(adopted);
	weights_free(built);
	synth_model_free(m);
	synth_model_free(other);
}
END_TEST

struct team_job {
	struct team *team;
	uint64_t counts[4][8];     /* (thread, own cache line) */
	bool out_of_step;
};

static void count_together(void *arg, unsigned thread)
{
	struct team_job *job = arg;

	for (uint64_t round = 1; round <= 200; round++) {
		job->counts[thread][0] = round;
		team_barrier(job->team);
		for (unsigned t = 0; t < team_size(job->team); t++)
			if (job->counts[t][0] != round)
				job->out_of_step = true;
		team_barrier(job->team);
	}
}

START_TEST(team_keeps_step)
{
	static const unsigned spins[] = { 0, 50 };

	for (unsigned n = 1; n <= 4; n++) {
		struct team_job job = { 0 };
		ck_assert_int_eq(team_new(n, spins[_i], &job.team), 0);
		for (int run = 0; run < 5; run++)
			team_run(job.team, count_together, &job);
		ck_assert(!job.out_of_step);
		team_free(job.team);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("kernels");
	TCase *all = tcase_create("all");

	tcase_add_loop_test(all, products, 0, N_TYPES);
	tcase_add_test(all, rows);
	tcase_add_test(all, strange_activations);
	tcase_add_loop_test(all, attention, 0, 6);
	tcase_add_test(all, weights_are_shared);
	tcase_add_loop_test(all, team_keeps_step, 0, 2);
	tcase_set_timeout(all, 120);
	suite_add_tcase(suite, all);
	return suite_result(suite);
}
