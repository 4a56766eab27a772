/* test_kernels_rows.c - kvd_embed, kvd_norm, kvd_gate, kvd_rope against plain C in double precision.
 *
 * Rounded activations must lie within half a step of what they round (and a hair, where an f32 sum lay
 * between two steps); scales and sums that go with them are recomputed from the rounded numbers.
 * A row's bytes may not depend on how many rows there are. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/cpu/formats.h"
#include "include/kvd/geometry.h"
#include "tests/cuda_emulator/acts.h"
#include "tests/lib/suite.h"

#define MAX_ROWS 9u

static struct kvd_step *step_make(uint32_t n_rows)
{
	struct kvd_step *step = case_memory("step", sizeof(*step), EMULATED_READ | EMULATED_DEPENDS);

	*step = (struct kvd_step){.n_rows = n_rows, .n_wanted = n_rows};
	return step;
}

/* All three forms of row `row` against exact numbers; elements behind n are zero. */
static void acts_check(const struct kvd_acts *a, uint32_t row, const double *exact, uint32_t n, const char *what)
{
	for (uint32_t first = 0; first < a->n_chunks * KVD_CHUNK_K; first += 32) {
		double largest = 0;
		size_t s = acts_scale_at(a, row, first);
		int sum = 0, wide = 0;

		for (uint32_t i = first; i < first + 32 && i < n; i++)
			largest = fmax(largest, fabs(exact[i]));
		ck_assert_msg(fabs(a->byte_scales[s] * 127 - largest) <= 2e-6 * largest + 1e-30,
			      "%s row %u group %u: scale %g, largest %g", what, row, first / 32,
			      a->byte_scales[s], largest);
		for (uint32_t i = first; i < first + 32; i++) {
			double x = i < n ? exact[i] : 0;

			ck_assert_msg(fabs(acts_of_bytes(a, row, i) - x) <=
					      largest / 127 * 0.501 + 1e-30,
				      "%s row %u element %u: byte %g, not %g", what, row, i,
				      acts_of_bytes(a, row, i), x);
			ck_assert_msg(fabs(acts_of_wide(a, row, i) - x) <=
					      largest / 32512 * 0.6 + 1e-30,
				      "%s row %u element %u: wide %g, not %g", what, row, i,
				      acts_of_wide(a, row, i), x);
			ck_assert_msg(fabs(acts_of_floats(a, row, i) - x) <=
					      0x1p-16 * fabs(x) + 2e-6 * largest,
				      "%s row %u element %u: floats %g, not %g", what, row, i,
				      acts_of_floats(a, row, i), x);
			sum += ((const int8_t *)a->bytes)[acts_byte_at(a, row, i)];
			wide += acts_wide(a, row, i);
		}
		ck_assert(a->byte_scales[s + 1] == a->byte_scales[s] * (float)sum);
		ck_assert(a->wide_scales[s + 1] == a->wide_scales[s] * (float)wide);
	}
}

static float *floats_make(const char *name, size_t n, uint32_t flags, float low, float high)
{
	float *x = case_memory(name, n * sizeof(float), flags);

	for (size_t i = 0; i < n; i++)
		x[i] = case_uniform(low, high);
	return x;
}

START_TEST(test_norm)
{
	static const uint32_t sizes[] = {64, 576, 960, 2048, 2080};
	uint32_t n = sizes[_i % 5], n_rows = 1 + (uint32_t)_i % MAX_ROWS, stride = n + 8;
	bool some = _i % 2 == 1;
	struct kvd_norm_args args;
	uint32_t *wanted;
	double exact[2080];

	for (unsigned o = 0; o < 3; o++) {
		case_order(o);
		case_seed((uint64_t)_i);
		args = (struct kvd_norm_args){.step = step_make(n_rows), .eps = 1e-5f, .n = n, .x_stride = stride};
		args.x = floats_make("x", (size_t)MAX_ROWS * stride, EMULATED_READ | EMULATED_DEPENDS, -3.0f, 3.0f);
		args.weight = floats_make("weight", n, EMULATED_READ, 0.5f, 1.5f);
		args.out = acts_make(n_rows, n, EMULATED_WRITE);
		wanted = case_memory("wanted", MAX_ROWS * 4, EMULATED_READ | EMULATED_DEPENDS);
		for (uint32_t r = 0; r < MAX_ROWS; r++)
			wanted[r] = MAX_ROWS - 1 - r;
		args.wanted = some ? wanted : NULL;
		CASE_LAUNCH("kvd_norm", ((struct emulated_dim){n_rows + 1, 1, 1}), 256, 32, args);
		for (uint32_t r = 0; r < n_rows; r++) {
			const float *x = args.x + (size_t)(some ? wanted[r] : r) * stride;
			double sum = 0;

			for (uint32_t i = 0; i < n; i++)
				sum += (double)x[i] * x[i];
			for (uint32_t i = 0; i < n; i++)
				exact[i] = x[i] / sqrt(sum / n + 1e-5) * args.weight[i];
			acts_check(&args.out, r, exact, n, "norm");
		}
		case_end();
	}
}
END_TEST

START_TEST(test_gate)
{
	static const uint32_t sizes[] = {32, 1536, 1568, 2560};
	uint32_t n = sizes[_i % 4], n_rows = 1 + (uint32_t)_i % 4, stride = 2 * n + 32;
	double exact[2560];

	for (unsigned o = 0; o < 3; o++) {
		struct kvd_gate_args args = {.n = n, .stride = stride, .up_at = n + 32};

		case_order(o);
		case_seed((uint64_t)_i);
		args.step = step_make(n_rows);
		args.gate_up = floats_make("gate_up", (size_t)n_rows * stride,
					   EMULATED_READ | EMULATED_DEPENDS, -9.0f, 9.0f);
		((float *)args.gate_up)[0] = -120.0f;
		((float *)args.gate_up)[1] = 200.0f;
		args.out = acts_make(n_rows, n, EMULATED_WRITE);
		CASE_LAUNCH("kvd_gate",
			    ((struct emulated_dim){(args.out.n_chunks * 4 + 7) / 8, n_rows + 1, 1}),
			    256, 0, args);
		for (uint32_t r = 0; r < n_rows; r++) {
			const float *x = args.gate_up + (size_t)r * stride;

			for (uint32_t i = 0; i < n; i++)
				exact[i] = x[i] / (1 + exp(-(double)x[i])) * x[args.up_at + i];
			acts_check(&args.out, r, exact, n, "gate");
		}
		case_end();
	}
}
END_TEST

/* q, k, v of rows at given positions; pages of 16 << (i % 3) tokens. */
START_TEST(test_rope)
{
	static const uint32_t dims[] = {64, 80, 128, 256};
	uint32_t dim = dims[_i % 4], n_heads = 6, n_kv = 2, n_rows = 5, shift = 4 + (uint32_t)_i % 3;
	uint32_t rope_dims = _i % 2 ? dim / 2 : dim, qkv = (n_heads + 2 * n_kv) * dim, half = rope_dims / 2;
	uint32_t *tables;

	for (unsigned o = 0; o < 3; o++) {
		struct kvd_rope_args a = {.q_scale = 0.18f, .qkv_stride = qkv, .n_heads = n_heads, .n_kv_heads = n_kv,
					  .head_dim = dim, .rope_dims = rope_dims};
		struct kvd_geometry g;
		struct kvd_step_row *rows;
		size_t window_bytes;

		case_order(o);
		case_seed((uint64_t)_i);
		a.step = step_make(n_rows);
		a.rows = rows = case_memory("rows", n_rows * sizeof(*rows), EMULATED_READ | EMULATED_DEPENDS);
		a.qkv = floats_make("qkv", (size_t)n_rows * qkv, EMULATED_READ | EMULATED_DEPENDS, -2.0f, 2.0f);
		a.angles = floats_make("angles", (size_t)160 * half * 2, EMULATED_READ, 0, 0);
		for (uint32_t pos = 0; pos < 160; pos++)
			for (uint32_t i = 0; i < half; i++) {
				double angle = pos * pow(10000.0, -2.0 * i / rope_dims);

				((float *)a.angles)[(pos * half + i) * 2] = (float)cos(angle);
				((float *)a.angles)[(pos * half + i) * 2 + 1] = (float)sin(angle);
			}
		a.q_high = case_memory("q_high", (size_t)n_rows * n_heads * dim * 2, EMULATED_WRITE);
		a.q_low = case_memory("q_low", (size_t)n_rows * n_heads * dim * 2, EMULATED_WRITE);
		tables = case_memory("tables", 16 * 4, EMULATED_READ | EMULATED_DEPENDS);
		a.pages = (struct kvd_pages){.tables = tables, .plane = 1, .page_shift = shift, .slot_bits = 1};
		a.pages.block_bytes = 2 * n_kv * dim * 2 << shift;
		a.pages.plane_bytes = 2ull * a.pages.block_bytes;
		a.pages.extent_bytes = 2 * a.pages.plane_bytes + 256;
		window_bytes = 8 * a.pages.extent_bytes;
		a.pages.window = case_memory("window", window_bytes, EMULATED_WRITE);
		for (uint32_t i = 0; i < 16; i++)
			tables[i] = KVD_ENTRY((i * 7) % 16, KVD_FORMAT_BF16);
		/* two sequences: positions around a page's edge, and a lonely 127 */
		for (uint32_t r = 0; r < n_rows; r++)
			rows[r] = (struct kvd_step_row){.pos = r < 4 ? (2u << shift) - 2 + r
								     : 127u >> (6 - shift),
							.table = r < 4 ? 0 : 8};
		CASE_LAUNCH("kvd_rope", ((struct emulated_dim){n_rows + 1, 1, 1}), 256, 0, a);
		g = (struct kvd_geometry){.extent_bytes = a.pages.extent_bytes, .plane_bytes = a.pages.plane_bytes,
					  .block_bytes = a.pages.block_bytes, .slot_bits = 1};
		for (uint32_t i = 0; i < n_rows * qkv; i++) {
			uint32_t r = i / qkv, head = i % qkv / dim, d = i % dim, pos = rows[r].pos, pair = d / 2;
			const float *x = a.qkv + (size_t)r * qkv + head * dim + pair * 2;
			double angle = pos * pow(10000.0, -2.0 * pair / rope_dims), got, want = d % 2 ? x[1] : x[0];

			if (d < rope_dims && head < n_heads + n_kv)
				want = d % 2 ? x[1] * cos(angle) + x[0] * sin(angle)
					     : x[0] * cos(angle) - x[1] * sin(angle);
			if (head < n_heads) {
				size_t at = (size_t)r * n_heads * dim + head * dim + d;

				want *= (double)0.18f;
				got = (double)case_f32_of_bf16(((uint16_t *)a.q_high)[at]) +
				      (double)case_f32_of_bf16(((uint16_t *)a.q_low)[at]);
				ck_assert_msg(fabs(got - want) <= 1e-5,
					      "row %u head %u dimension %u: %g, not %g", r, head, d,
					      got, want);
			} else {
				uint32_t entry = tables[rows[r].table + (pos >> shift)],
					 token = pos & ((1u << shift) - 1);
				const uint16_t *to =
					(const uint16_t *)(a.pages.window +
							   kvd_block_offset(
								   &g, KVD_ENTRY_FRAME(entry), 1));

				got = case_f32_of_bf16(to[(((head - n_heads) << shift) + token) * dim + d]);
				ck_assert_msg(fabs(got - want) <= 0x1p-8 * fabs(want) + 1e-6,
					      "row %u KV head %u dimension %u: %g, not %g", r,
					      head - n_heads, d, got, want);
			}
		}
		case_end();
	}
}
END_TEST

static const enum tensor_type types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q5_0,
					 TENSOR_Q5_1, TENSOR_Q8_0, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};
#define N_TYPES (int)(sizeof(types) / sizeof(types[0]))

START_TEST(test_embed)
{
	enum tensor_type type = types[_i];
	uint32_t n = 512, n_vocab = 7, n_rows = 4;
	uint64_t row_bytes = format_row_bytes(type, n);
	struct kvd_embed_args a = {.row_bytes = row_bytes, .type = type, .n_embd = n, .x_stride = n + 4};
	struct kvd_step_row *rows;
	struct tensor t = {.n_cols = n, .n_rows = n_vocab, .type = type, .bytes = row_bytes * n_vocab, .name = "embd"};
	float want[512];

	case_order((unsigned)_i % 3);
	case_seed(type);
	a.step = step_make(n_rows);
	a.rows = rows = case_memory("rows", n_rows * sizeof(*rows), EMULATED_READ | EMULATED_DEPENDS);
	t.data = a.table = case_memory("table", row_bytes * n_vocab, EMULATED_READ);
	a.x = case_memory("x", (size_t)n_rows * (n + 4) * 4, EMULATED_WRITE);
	for (uint64_t i = 0; i < row_bytes * n_vocab; i++)
		/* exponents' high bits off, so that every half and every float is a number of modest size */
		((uint8_t *)t.data)[i] =
			(uint8_t)(case_random() &
				  (type == TENSOR_F32 || type == TENSOR_BF16 ? 0xbfu : 0x3fu));
	for (uint32_t r = 0; r < n_rows; r++)
		rows[r] = (struct kvd_step_row){.token = (int32_t)((r * 5 + 6) % n_vocab)};
	CASE_LAUNCH("kvd_embed", ((struct emulated_dim){2, n_rows + 1, 1}), 256, 0, a);
	for (uint32_t r = 0; r < n_rows; r++) {
		format_row_f32(&t, (uint64_t)rows[r].token, want);
		for (uint32_t i = 0; i < n; i++)
			ck_assert_msg(fabsf(a.x[r * (n + 4) + i] - want[i]) <=
					      1e-6f * fabsf(want[i]),
				      "type %d token %d element %u: %g, not %g", type,
				      rows[r].token, i, a.x[r * (n + 4) + i], want[i]);
	}
	case_end();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("cuda_kernels_rows");
	TCase *tcase = tcase_create("cuda_kernels_rows");

	tcase_set_timeout(tcase, 120);
	tcase_add_loop_test(tcase, test_norm, 0, getenv("KVD_CUDA_LONG") ? 10 : 4);
	tcase_add_loop_test(tcase, test_gate, 0, 4);
	tcase_add_loop_test(tcase, test_rope, 0, getenv("KVD_CUDA_LONG") ? 12 : 4);
	tcase_add_loop_test(tcase, test_embed, 0, N_TYPES);
	suite_add_tcase(suite, tcase);
	return suite_result(suite);
}
