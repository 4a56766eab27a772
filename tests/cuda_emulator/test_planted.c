/* test_planted.c - the fiber emulator finds every planted fault, in every order, and nothing in clean kernels.
 *
 * A kernel of planted.cu runs with broken = 0: no report, and the results that plain C computes here.
 * With broken > 0 the expected kind of report must come in each order of threads; faults that only values
 * show must give other results. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/cuda_emulator/emulated.h"
#include "tests/cuda_emulator/planted.h"
#include "tests/lib/suite.h"

#define N 256u
#define N_SEEDS 6

enum region_use { PLAIN, DEPENDS };
struct planted {
	const char *kernel;
	uint32_t broken;
	enum emulated_fault fault;         /* EMULATED_NONE: shown by the results */
	uint32_t n_out;                    /* results that are compared */
	enum region_use use;
};

static const struct planted planted[] = {
	{"planted_barrier", 1, EMULATED_RACE, 128, PLAIN},
	{"planted_reuse", 1, EMULATED_RACE, 128, PLAIN},
	{"planted_reuse", 2, EMULATED_RACE, 128, PLAIN},
	{"planted_copy", 1, EMULATED_RACE, 128, PLAIN},
	{"planted_copy", 2, EMULATED_COPY_PENDING, 128, PLAIN},
	{"planted_copy", 3, EMULATED_COPY_PENDING, 128, PLAIN},
	{"planted_copy", 4, EMULATED_COPY_LOST, 128, PLAIN},
	{"planted_copy", 5, EMULATED_RACE, 128, PLAIN},
	{"planted_sites", 1, EMULATED_BARRIER, 128, PLAIN},
	{"planted_ended", 1, EMULATED_BARRIER, 128, PLAIN},
	{"planted_ended", 2, EMULATED_BARRIER, 128, PLAIN},
	{"planted_lanes", 1, EMULATED_LANES, 128, PLAIN},
	{"planted_lanes", 2, EMULATED_LANES, 128, PLAIN},
	{"planted_lanes", 3, EMULATED_LANES, 128, PLAIN},
	{"planted_bounds", 1, EMULATED_BOUNDS, 256, PLAIN},
	{"planted_bounds", 2, EMULATED_BOUNDS, 256, PLAIN},
	{"planted_bounds", 3, EMULATED_BOUNDS, 256, PLAIN},
	{"planted_sum", 1, EMULATED_NONE, 128, PLAIN},
	{"planted_sum", 2, EMULATED_BOUNDS, 128, PLAIN},
	{"planted_wrong_lane", 1, EMULATED_NONE, 128, PLAIN},
	{"planted_alignment", 1, EMULATED_TRAP, 128, PLAIN},
	{"planted_blocks", 1, EMULATED_RACE_BLOCKS, 128, PLAIN},
	{"planted_blocks", 2, EMULATED_RACE_BLOCKS, 128, PLAIN},
	{"planted_unset", 1, EMULATED_UNSET_READ, 128, PLAIN},
	{"planted_early", 1, EMULATED_EARLY, 128, DEPENDS},
	{"planted_undefined", 1, EMULATED_TRAP, 128, PLAIN},
	{"planted_undefined", 2, EMULATED_TRAP, 128, PLAIN},
	{"planted_matrix", 1, EMULATED_ALIGNMENT, 128, PLAIN},
	{"planted_matrix", 2, EMULATED_RACE, 128, PLAIN},
	{"planted_matrix", 3, EMULATED_LANES, 128, PLAIN},
	{"planted_mma", 1, EMULATED_NONE, 128, PLAIN},
};
#define N_PLANTED (sizeof(planted) / sizeof(planted[0]))

/* Exactly N floats, so that one more is outside. */
static float *in, *out;

static const struct emulated_kernel *kernel_named(const char *name)
{
	for (const struct emulated_kernel *k = emulated_kernels; k->name; k++)
		if (strcmp(k->name, name) == 0)
			return k;
	ck_abort_msg("no kernel %s", name);
}

static void memory_begin(enum region_use use)
{
	in = aligned_alloc(64, N * sizeof(float));
	out = aligned_alloc(64, N * sizeof(float));
	for (uint32_t i = 0; i < N; i++) {
		in[i] = (float)((i * 37u + 11u) % 239u) * 0.0625f + 0.5f;
		out[i] = -1.0f;
	}
	emulated_regions_forget();
	emulated_forget();
	ck_assert_int_eq(emulated_region("in", in, N * sizeof(float),
					 EMULATED_READ | (use == DEPENDS ? EMULATED_DEPENDS : 0)), 0);
	ck_assert_int_eq(emulated_region("out", out, N * sizeof(float),
					 EMULATED_READ | EMULATED_WRITE | EMULATED_UNSET), 0);
}

static void memory_end(void)
{
	free(in);
	free(out);
}

static void order_set(int o)
{
	emulated_set_order(o == 0 ? EMULATED_FORWARD : o == 1 ? EMULATED_REVERSE : EMULATED_SEEDED, (uint64_t)o);
}

static int launch(const char *name, uint32_t broken)
{
	struct planted_args args = {.in = in, .out = out, .n = N, .broken = broken};
	struct emulated_dim grid = {2, 1, 1}, block = {64, 1, 1};
	void *params[] = {&args};
	const struct emulated_kernel *k = kernel_named(name);

	ck_assert_uint_eq(k->param_sizes[0], sizeof(args));
	return k->launch(grid, block, 2048, params);
}

static float bits_f32(uint32_t bits)
{
	float x;

	memcpy(&x, &bits, sizeof(x));
	return x;
}

static uint32_t f32_bits(float x)
{
	uint32_t bits;

	memcpy(&bits, &x, sizeof(bits));
	return bits;
}

/* Result i of a clean kernel, written as the loop that a reader would write. */
static double expected(const char *name, uint32_t i)
{
	uint32_t block = i / 64, thread = i % 64, lane = thread % 32;
	double sum = 0;

	if (strcmp(name, "planted_barrier") == 0)
		return in[block * 64 + 63 - thread];
	if (strcmp(name, "planted_reuse") == 0)
		return 3.0 * in[block * 64 + (thread + 32) % 64] + 3.0;
	if (strcmp(name, "planted_copy") == 0)
		return in[(lane * 4 + 5) % 128] + ((lane * 4 + 7) % 128 >= 124 ? 0.0 : in[128 + (lane * 4 + 7) % 128]);
	if (strcmp(name, "planted_lanes") == 0 || strcmp(name, "planted_unset") == 0)
		return in[i ^ 1];
	if (strcmp(name, "planted_bounds") == 0)
		return i % 2 ? in[i - 1] : in[i / 2];
	if (strcmp(name, "planted_sum") == 0) {
		for (uint32_t l = 0; l < 32; l++)
			sum += (double)in[i / 32 * 32 + l] + in[128 + i / 32 * 32 + l];
		return sum;
	}
	if (strcmp(name, "planted_wrong_lane") == 0) {
		for (uint32_t l = 0; l < 32; l++)
			sum += in[i / 32 * 32 + l];
		return sum;
	}
	if (strcmp(name, "planted_alignment") == 0) {
		for (uint32_t e = 0; e < 4; e++)
			sum += in[thread * 2 / 4 * 4 + e];
		return sum;
	}
	if (strcmp(name, "planted_undefined") == 0)
		return (float)(f32_bits(in[thread % 4 * 4 + thread % 4]) >> lane);
	if (strcmp(name, "planted_matrix") == 0)
		return bits_f32(f32_bits(in[lane / 4 * 4 + lane % 4])) + in[96 + lane];
	if (strcmp(name, "planted_mma") == 0) {
		for (uint32_t k = 0; k < 16; k++)
			sum += (double)in[(16 * (i / 8) + k) % 128 + (k % 2 ? 0 : i / 64)] * in[128 + 8 * k + i % 8];
		return sum;
	}
	return in[i];
}

START_TEST(test_clean)
{
	const struct planted *p = &planted[_i];

	for (int o = 0; o < 2 + N_SEEDS; o++) {
		memory_begin(p->use);
		order_set(o);
		ck_assert_msg(launch(p->kernel, 0) == 0, "order %d: %s", o, emulated_first());
		for (uint32_t i = 0; i < p->n_out; i++)
			ck_assert_msg(fabs(out[i] - expected(p->kernel, i)) <= 1e-3 * fabs(expected(p->kernel, i)),
				      "%s, order %d: result %u is %g, not %g", p->kernel, o, i, out[i],
				      expected(p->kernel, i));
		memory_end();
	}
}
END_TEST

START_TEST(test_broken)
{
	const struct planted *p = &planted[_i];
	unsigned wrong;

	for (int o = 0; o < 2 + N_SEEDS; o++) {
		memory_begin(p->use);
		order_set(o);
		launch(p->kernel, p->broken);
		if (o == 0)
			printf("%s %u: %s\n", p->kernel, p->broken, emulated_first());
		wrong = 0;
		for (uint32_t i = 0; i < p->n_out; i++)
			wrong += !(fabs(out[i] - expected(p->kernel, i)) <= 1e-3 * fabs(expected(p->kernel, i)));
		if (p->fault == EMULATED_NONE)
			ck_assert_msg(wrong > 0, "%s: results do not show the fault", p->kernel);
		else
			ck_assert_msg(emulated_found(p->fault) > 0,
				      "%s, broken %u, order %d: expected %s, found %s", p->kernel,
				      p->broken, o, emulated_fault_name(p->fault),
				      emulated_first());
		memory_end();
	}
}
END_TEST

/* A launch that the device would refuse. */
START_TEST(test_launch_refused)
{
	struct planted_args args = {0};
	void *params[] = {&args};
	const struct emulated_kernel *k = kernel_named("planted_sites");
	struct emulated_dim one = {1, 1, 1}, many = {1025, 1, 1}, none = {0, 1, 1};

	ck_assert_int_lt(k->launch(one, many, 0, params), 0);
	ck_assert_int_lt(k->launch(none, one, 0, params), 0);
	ck_assert_int_lt(k->launch(one, one, 228u << 10, params), 0);
	ck_assert_uint_eq(emulated_found(EMULATED_NONE), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("cuda_planted");
	TCase *tcase = tcase_create("cuda_planted");

	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, test_clean, 0, N_PLANTED);
	tcase_add_loop_test(tcase, test_broken, 0, N_PLANTED);
	tcase_add_test(tcase, test_launch_refused);
	suite_add_tcase(suite, tcase);
	return suite_result(suite);
}
