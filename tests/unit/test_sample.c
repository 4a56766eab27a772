/* test_sample.c - the generator against its published answers, each filter against a definition. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "engine/sample.h"
#include "tests/lib/suite.h"

static const struct sample_options greedy = { .temperature = 0, .top_p = 1, .repeat_penalty = 1 };

/* Known answers of philox4x32-10 as its authors publish them. */
START_TEST(philox_known_answers)
{
	static const struct { uint32_t counter[4], key[2], words[4]; } known[] = {
		{ { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
		{ { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff }, { 0xffffffff, 0xffffffff },
		  { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
		{ { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0xa4093822, 0x299f31d0 },
		  { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
	};
	uint32_t words[4];

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		sample_philox(known[i].counter, known[i].key, words);
		ck_assert_mem_eq(words, known[i].words, sizeof(words));
	}
}
END_TEST

START_TEST(uniform_depends_on_seed_and_position_only)
{
	double sum = 0;

	for (uint64_t p = 0; p < 20000; p++) {
		double u = sample_uniform(7, p);
		ck_assert(u >= 0.0 && u < 1.0);
		ck_assert(u == sample_uniform(7, p));
		sum += u;
	}
	ck_assert_double_eq_tol(sum / 20000, 0.5, 0.01);
	ck_assert(sample_uniform(7, 1) != sample_uniform(8, 1));
	ck_assert(sample_uniform(7, 1) != sample_uniform(7, 2));
}
END_TEST

START_TEST(greedy_takes_the_first_of_equals)
{
	struct sampler s;
	float logits[100];

	ck_assert_int_eq(sampler_init(&s, 100), 0);
	for (int i = 0; i < 100; i++)
		logits[i] = (float)(i % 50);
	ck_assert_int_eq(sample_token(&s, &greedy, logits, NULL, 0), 49);
	logits[99] = 49.5f;
	ck_assert_int_eq(sample_token(&s, &greedy, logits, NULL, 0), 99);
	logits[3] = NAN;
	ck_assert_int_eq(sample_token(&s, &greedy, logits, NULL, 0), 99);
	for (int i = 0; i < 100; i++)
		logits[i] = NAN;
	ck_assert_int_eq(sample_token(&s, &greedy, logits, NULL, 0), 0);
	for (int i = 0; i < 100; i++)
		logits[i] = -INFINITY;
	ck_assert_int_eq(sample_token(&s, &greedy, logits, NULL, 0), 0);
	sampler_deinit(&s);
}
END_TEST

START_TEST(penalty_pushes_seen_tokens_down)
{
	struct sampler s;
	struct sample_options o = greedy;
	float logits[4] = { 3, 2, -1, -2 };
	uint64_t seen = 1;         /* token 0 */

	ck_assert_int_eq(sampler_init(&s, 4), 0);
	o.repeat_penalty = 2;
	ck_assert_int_eq(sample_token(&s, &o, logits, &seen, 0), 1);     /* 1.5 < 2 */
	ck_assert_int_eq(sample_token(&s, &o, logits, NULL, 0), 0);
	logits[0] = logits[1] = -9;
	seen = 4;                  /* token 2: -1 becomes -2, equal to token 3; the lower id wins */
	ck_assert_int_eq(sample_token(&s, &o, logits, &seen, 0), 2);
	o.repeat_penalty = 3;
	ck_assert_int_eq(sample_token(&s, &o, logits, &seen, 0), 3);
	sampler_deinit(&s);
}
END_TEST

#define N 1000

/* The set of ids that the filters may choose from, straight from the definitions, by full sort. */
static int descending(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return x[0] != y[0] ? (x[0] < y[0] ? 1 : -1) : x[1] < y[1] ? -1 : 1;
}

static void allowed_by_definition(const struct sample_options *o, const float *logits,
				  double *ret_p)
{
	static double sorted[N][2];
	double sum = 0, reached = 0, best;
	int n = N;

	for (int i = 0; i < N; i++) {
		sorted[i][0] = logits[i];
		sorted[i][1] = i;
		ret_p[i] = 0;
	}
	qsort(sorted, N, sizeof(sorted[0]), descending);
	best = sorted[0][0];
	if (o->top_k && (int)o->top_k < n)
		n = (int)o->top_k;
	for (int i = 0; i < n; i++)
		sum += exp((sorted[i][0] - best) / o->temperature);
	for (int i = 0; i < n; i++) {
		double w = exp((sorted[i][0] - best) / o->temperature);
		bool past = reached >= o->top_p * sum;
		reached += w;
		if (!past && w >= o->min_p)
			ret_p[(int)sorted[i][1]] = w;
	}
	sum = 0;
	for (int i = 0; i < N; i++)
		sum += ret_p[i];
	for (int i = 0; i < N; i++)
		ret_p[i] /= sum;
}

START_TEST(filters_follow_their_definitions)
{
	static const struct sample_options all[] = {
		{ .temperature = 1, .top_p = 1, .repeat_penalty = 1 },
		{ .temperature = 0.7f, .top_p = 1, .top_k = 40, .repeat_penalty = 1 },
		{ .temperature = 1.5f, .top_p = 0.9f, .repeat_penalty = 1 },
		{ .temperature = 0.3f, .top_p = 0.5f, .repeat_penalty = 1 },
		{ .temperature = 30, .top_p = 0.999f, .repeat_penalty = 1 },
		{ .temperature = 1, .top_p = 1, .min_p = 0.1f, .repeat_penalty = 1 },
		{ .temperature = 2,
		  .top_p = 0.8f,
		  .min_p = 0.05f,
		  .top_k = 100,
		  .repeat_penalty = 1 },
		{ .temperature = 1, .top_p = 1, .top_k = 1, .repeat_penalty = 1 },
	};
	static float logits[N];
	static double p[N];
	static int hits[N];
	struct sampler s;
	const int draws = 4000;

	ck_assert_int_eq(sampler_init(&s, N), 0);
	srand(11);
	for (int i = 0; i < N; i++)
		logits[i] = (float)(rand() % 4000) / 250.0f;   /* many ties */
	for (size_t c = 0; c < sizeof(all) / sizeof(all[0]); c++) {
		struct sample_options o = all[c];
		double distance = 0;
		int kinds = 0;
		memset(hits, 0, sizeof(hits));
		allowed_by_definition(&o, logits, p);
		for (int d = 0; d < draws; d++) {
			int32_t id;
			o.seed = 5;
			id = sample_token(&s, &o, logits, NULL, (uint64_t)d);
			ck_assert(id >= 0 && id < N);
			ck_assert_msg(p[id] > 0, "case %zu: id %d is not among the allowed", c, id);
			ck_assert_int_eq(id, sample_token(&s, &o, logits, NULL, (uint64_t)d));
			hits[id]++;
		}
		for (int i = 0; i < N; i++) {
			distance += fabs(p[i] - (double)hits[i] / draws) / 2;
			kinds += p[i] > 0;
		}
		/* total variation of 4,000 draws: about sqrt(kinds / draws) / 2 at worst */
		ck_assert_msg(distance < 0.03 + 0.6 * sqrt((double)kinds / draws),
			      "case %zu: distance %f over %d ids", c, distance, kinds);
	}
	sampler_deinit(&s);
}
END_TEST

START_TEST(options_out_of_range_are_named)
{
	struct sample_options o = greedy;

	ck_assert_ptr_null(sample_options_invalid(&o));
	o.temperature = NAN;
	ck_assert(strstr(sample_options_invalid(&o), "temperature"));
	o = greedy, o.temperature = -1;
	ck_assert(strstr(sample_options_invalid(&o), "temperature"));
	o = greedy, o.top_p = 0;
	ck_assert(strstr(sample_options_invalid(&o), "top_p"));
	o = greedy, o.min_p = 1.5f;
	ck_assert(strstr(sample_options_invalid(&o), "min_p"));
	o = greedy, o.repeat_penalty = 0;
	ck_assert(strstr(sample_options_invalid(&o), "repeat_penalty"));
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		philox_known_answers, uniform_depends_on_seed_and_position_only,
		greedy_takes_the_first_of_equals, penalty_pushes_seen_tokens_down,
		filters_follow_their_definitions, options_out_of_range_are_named,
	};
	return SUITE_RUN("sample", 60, tests);
}
