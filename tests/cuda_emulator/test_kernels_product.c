/* test_kernels_product.c - kvd_product_* against plain sums in double precision.
 *
 * Weights are random blocks of each format, laid out by the engine's own layout.c and, for the reference,
 * read by format_row_f32().  Activations are random in their rounded form, so that the only difference left
 * is the order of f32 sums.  Columns past the last row hold NaN.
 *
 * Held as equality of bytes: a row's results are the same among 1, 2, 63, 64, 65 and 512 rows, whichever
 * width of kernel computed them. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/cpu/formats.h"
#include "engine/cuda/layout.h"
#include "tests/cuda_emulator/acts.h"
#include "tests/lib/suite.h"

#define TOLERANCE 4e-6             /* of the sum of magnitudes: f32 chains */

static const enum tensor_type types[] = {TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1, TENSOR_Q8_0, TENSOR_Q4_K,
					 TENSOR_Q5_K, TENSOR_Q6_K, TENSOR_BF16, TENSOR_F16, TENSOR_F32};
#define N_TYPES (sizeof(types) / sizeof(types[0]))

struct product {
	struct tensor t;
	enum layout_form form;
	const struct layout_kind *kind;
	uint8_t *rows;             /* as in a file */
	uint8_t *weights;          /* laid out */
	struct kvd_acts acts;
	struct kvd_step *step;
	float *out;
	uint32_t n_in, n_out, n_rows;
};

static void scale_put(uint8_t *to, float low, float high)
{
	uint16_t bits = case_f16(case_uniform(low, high));

	memcpy(to, &bits, 2);
}

/* Random bytes with scales that are numbers of a sensible size. */
static void rows_fill(struct product *p)
{
	uint64_t row_bytes = format_row_bytes(p->t.type, p->n_in);
	uint64_t block_bytes =
		row_bytes /
		(p->n_in / (p->t.type >= TENSOR_Q4_K && p->t.type != TENSOR_BF16 ? 256 : 32));

	for (uint64_t i = 0; i < row_bytes * p->n_out; i++)
		p->rows[i] = (uint8_t)case_random();
	for (uint64_t at = 0; at < row_bytes * p->n_out; at += block_bytes) {
		uint8_t *b = p->rows + at;

		switch (p->t.type) {
		case TENSOR_Q4_1: case TENSOR_Q5_1: scale_put(b + 2, -0.5f, 0.5f); /* fall through */
		case TENSOR_Q4_0: case TENSOR_Q5_0: case TENSOR_Q8_0: scale_put(b, 0.01f, 0.1f); break;
		case TENSOR_Q4_K: case TENSOR_Q5_K:
			scale_put(b, 0.001f, 0.01f);
			scale_put(b + 2, 0.001f, 0.01f);
			break;
		case TENSOR_Q6_K: scale_put(b + 208, 0.001f, 0.01f); break;
		case TENSOR_F32:
			for (unsigned i = 0; i < 32; i++)
				((float *)b)[i] = case_uniform(-1.0f, 1.0f);
			break;
		default:
			for (unsigned i = 0; i < 32; i++)
				((uint16_t *)b)[i] = p->t.type == TENSOR_F16 ? case_f16(case_uniform(-1.0f, 1.0f)) :
					(uint16_t)case_bf16(case_uniform(-1.0f, 1.0f));
		}
	}
}

static void acts_fill(struct product *p)
{
	struct kvd_acts *a = &p->acts;
	size_t blocks = (size_t)(p->n_rows + 7) / 8 * a->n_chunks;

	memset(a->byte_scales, 0xff, blocks * 256);
	memset(a->wide_scales, 0xff, blocks * 256);
	memset(a->float_high, 0xff, blocks * 2048);
	for (uint32_t row = 0; row < p->n_rows; row++)
		for (uint32_t i = 0; i < a->n_chunks * KVD_CHUNK_K; i++) {
			bool inside = i < p->n_in;
			size_t at = acts_byte_at(a, row, i), s = acts_scale_at(a, row, i);
			int q = inside ? (int)(case_random() % 255) - 127 : 0;
			int wide = inside ? (int)(case_random() % 65025) - 32512 : 0, low = (int8_t)(wide & 255);
			float x = inside ? case_uniform(-2.0f, 2.0f) : 0.0f;
			uint32_t high = case_bf16(x);

			((int8_t *)a->bytes)[at] = (int8_t)q;
			((int8_t *)a->wide_low)[at] = (int8_t)low;
			((int8_t *)a->wide_high)[at] = (int8_t)((wide - low) / 256);
			((uint16_t *)a->float_high)[acts_half_at(a, row, i)] = (uint16_t)high;
			((uint16_t *)a->float_low)[acts_half_at(a, row, i)] =
				(uint16_t)case_bf16(x - case_f32_of_bf16(high));
			if (i % 32 == 0) {
				a->byte_scales[s] = case_uniform(0.001f, 0.02f);
				a->wide_scales[s] = case_uniform(0.00001f, 0.0001f);
				a->byte_scales[s + 1] = a->wide_scales[s + 1] = 0.0f;
			}
			a->byte_scales[s + 1] += a->byte_scales[s] * (float)q;
			a->wide_scales[s + 1] += a->wide_scales[s] * (float)wide;
		}
	/* scale * sum as one product, as the kernels that make it do */
	for (uint32_t row = 0; row < p->n_rows; row++)
		for (uint32_t i = 0; i < a->n_chunks * KVD_CHUNK_K; i += 32) {
			size_t s = acts_scale_at(a, row, i);
			int sum = 0, wide = 0;

			for (uint32_t k = i; k < i + 32; k++) {
				sum += ((int8_t *)a->bytes)[acts_byte_at(a, row, k)];
				wide += acts_wide(a, row, k);
			}
			a->byte_scales[s + 1] = a->byte_scales[s] * (float)sum;
			a->wide_scales[s + 1] = a->wide_scales[s] * (float)wide;
		}
}

static void product_make(struct product *p, enum tensor_type type, uint32_t n_out, uint32_t n_in, uint32_t n_rows)
{
	*p = (struct product){.n_in = n_in, .n_out = n_out, .n_rows = n_rows};
	case_seed(type * 1000 + n_in);
	p->form = layout_form_of(type);
	p->kind = layout_kind(p->form);
	p->rows = malloc(format_row_bytes(type, n_in) * n_out);
	p->t = (struct tensor){.data = p->rows, .n_cols = n_in, .n_rows = n_out, .type = type, .name = "w",
			       .bytes = format_row_bytes(type, n_in) * n_out};
	rows_fill(p);
	p->weights = case_memory("weights", layout_bytes(p->form, n_out, n_in), EMULATED_READ);
	memset(p->weights, 0, layout_bytes(p->form, n_out, n_in));
	layout_fill(&p->t, 0, p->weights);
	p->acts = acts_make(n_rows, n_in, EMULATED_READ | EMULATED_DEPENDS);
	acts_fill(p);
	p->step = case_memory("step", sizeof(*p->step), EMULATED_READ | EMULATED_DEPENDS);
	*p->step = (struct kvd_step){.n_rows = n_rows, .n_wanted = n_rows};
	p->out = case_memory("out", (size_t)n_rows * n_out * 4, EMULATED_READ | EMULATED_WRITE | EMULATED_DEPENDS);
}

static void product_end(struct product *p)
{
	free(p->rows);
	case_end();
}

static struct kvd_product_args product_args(const struct product *p, uint32_t add)
{
	return (struct kvd_product_args){.step = p->step, .weights = p->weights, .in = p->acts, .out = p->out,
		.n_out = p->n_out, .out_stride = p->n_out, .n_chunks = p->acts.n_chunks,
		.n_planes = p->kind->n_planes, .add = add};
}

/* tiles: 1, 4 or 8. */
static void product_run(struct product *p, uint32_t tiles, uint32_t add)
{
	struct kvd_product_args args = product_args(p, add);
	char name[64];

	snprintf(name, sizeof(name), "kvd_product_%s_%u", p->kind->name, tiles);
	/* one row of blocks more than there are rows for: a bucket's launch, which leaves at once */
	CASE_LAUNCH(name,
		    ((struct emulated_dim){(p->n_out + 31) / 32,
					   (p->n_rows + 8 * tiles - 1) / (8 * tiles) + 1, 1}),
		    256, kvd_product_shared(tiles), args);
}

static void product_check(const struct product *p, double added)
{
	float *w = malloc(p->n_in * sizeof(*w));

	for (uint32_t n = 0; n < p->n_out; n++) {
		format_row_f32(&p->t, n, w);
		for (uint32_t row = 0; row < p->n_rows; row++) {
			double sum = added, size = fabs(added);

			for (uint32_t i = 0; i < p->n_in; i++) {
				double x = p->kind->n_planes ? acts_of_floats(&p->acts, row, i)
					   : p->kind->wide   ? acts_of_wide(&p->acts, row, i)
							     : acts_of_bytes(&p->acts, row, i);

				sum += w[i] * x;
				size += fabs(w[i] * x);
			}
			ck_assert_msg(fabs(p->out[(size_t)row * p->n_out + n] - sum) <= TOLERANCE * size,
				      "type %d, %u rows: row %u output %u is %.8g, not %.8g (sum of magnitudes %g)",
				      p->t.type, p->n_rows, row, n, p->out[(size_t)row * p->n_out + n], sum, size);
		}
	}
	free(w);
}

START_TEST(test_values)
{
	static const struct { uint32_t n_out, n_in, n_rows, tiles, add; } sizes[] = {
		{32, 256, 1, 1, 0}, {33, 1280, 7, 1, 1}, {17, 2304, 9, 1, 0}, {64, 256, 33, 4, 1}, {40, 512, 65, 8, 0},
	};
	struct product p;

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		bool floats = layout_kind(layout_form_of(types[_i]))->n_planes > 0;

		case_order(i % 3);
		if (sizes[i].tiles > layout_kind(layout_form_of(types[_i]))->tiles_max)
			continue;
		/* a width that only formats of 32 can have: the last chunk is not full */
		product_make(&p, types[_i], sizes[i].n_out,
			     floats || types[_i] < TENSOR_Q4_K ? sizes[i].n_in - 32 : sizes[i].n_in, sizes[i].n_rows);
		for (size_t k = 0; k < (size_t)p.n_rows * p.n_out; k++)
			p.out[k] = 3.0f;
		product_run(&p, sizes[i].tiles, sizes[i].add);
		product_check(&p, sizes[i].add ? 3.0 : 0.0);
		product_end(&p);
	}
}
END_TEST

START_TEST(test_batch_invariance)
{
	static const uint32_t counts[] = {512, 1, 2, 63, 64, 65};
	struct product p;
	float *all = NULL;
	uint32_t n_out = 32, n_in = 1280;

	case_order(0);
	product_make(&p, types[_i], n_out, n_in, 512);
	for (unsigned c = 0; c < 6; c++)
		for (uint32_t tiles = 1; tiles <= p.kind->tiles_max; tiles = tiles == 1 ? 4 : tiles * 2) {
			if (counts[c] == 512 && tiles < p.kind->tiles_max && !getenv("KVD_CUDA_LONG"))
				continue;
			p.n_rows = counts[c];
			p.step->n_rows = counts[c];
			memset(p.out, 0xff, (size_t)512 * n_out * 4);
			product_run(&p, tiles, 0);
			if (!all) {
				all = malloc((size_t)512 * n_out * 4);
				memcpy(all, p.out, (size_t)512 * n_out * 4);
			}
			ck_assert_msg(memcmp(all, p.out, (size_t)counts[c] * n_out * 4) == 0,
				      "type %d: %u rows by kernels of %u tiles give other bytes",
				      p.t.type, counts[c], tiles);
		}
	free(all);
	product_end(&p);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("cuda_kernels_product");
	TCase *tcase = tcase_create("cuda_kernels_product");
	/* the short matrix: values of every second format, invariance of every fourth */
	int step = getenv("KVD_CUDA_LONG") ? 1 : 2;

	tcase_set_timeout(tcase, 300);
	for (int i = 0; i < (int)N_TYPES; i += step)
		tcase_add_loop_test(tcase, test_values, i, i + 1);
	for (int i = step - 1; i < (int)N_TYPES; i += step * step)
		tcase_add_loop_test(tcase, test_batch_invariance, i, i + 1);
	suite_add_tcase(suite, tcase);
	return suite_result(suite);
}
