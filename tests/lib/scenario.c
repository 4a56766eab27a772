/* scenario.c - see scenario.h. */
#include "tests/lib/scenario.h"
#include "tests/lib/suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail_check(const char *sentence)
{
	ck_abort_msg("%s", sentence);
}

int scenario_run(const char *name, const struct scenario_test *tests, unsigned n, double seconds)
{
	host_fail = fail_check;
	Suite *suite = suite_create(name);
	for (unsigned i = 0; i < n; i++) {
		TCase *tcase = tcase_create(tests[i].name);
		tcase_set_timeout(tcase, seconds);
		tcase_add_test(tcase, tests[i].test);
		suite_add_tcase(suite, tcase);
	}
	return suite_result(suite);
}

static uint64_t next_random(uint64_t *state)       /* splitmix64, Steele et al. 2014 */
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

char *scenario_text(uint64_t seed, unsigned n_words)
{
	static const char *const words[] = {
		"the",  "a",     "river", "house", "light", "stone", "man",  "woman",
		"day",  "night", "water", "road",  "and",   "but",   "of",   "in",
		"with", "under", "over",  "when",  "went",  "came",  "said", "made",
		"saw",  "great", "small", "old",   "new",   "good",  "many", "all",
		"his",  "her",   "their", "one",   "two",   "seven",
	};
	const unsigned n = sizeof(words) / sizeof(words[0]);
	char *text = malloc((size_t)n_words * 8 + 1), *end = text;
	for (unsigned i = 0; i < n_words; i++)
		end += sprintf(end, "%s%s", i ? " " : "", words[next_random(&seed) % n]);
	return text;
}

char *scenario_join(const char *prefix, const char *suffix)
{
	char *ret = malloc(strlen(prefix) + strlen(suffix) + 2);
	sprintf(ret, "%s %s", prefix, suffix);
	return ret;
}

void scenario_job(struct host_job *job, const char *tenant, const char *engine, const char *text,
		  uint32_t n_tokens)
{
	memset(job, 0, sizeof(*job));
	job->tenant = tenant;
	job->engine = engine;
	job->text = text;
	job->request = (struct kvd_request)KVD_REQUEST_INIT;
	job->request.raw = 1;
	job->request.max_tokens = n_tokens;
	job->request.flags = KVD_REQ_LOGITS_HASH | KVD_REQ_IGNORE_END;
}

struct host_job scenario_alone(struct host *h, const char *tenant, const char *engine, const char *text,
			       uint32_t n_tokens)
{
	struct host_job job;
	scenario_job(&job, tenant, engine, text, n_tokens);
	if (host_run(h, &job, 1, NULL, NULL))
		ck_abort_msg("request alone failed: %s", job.error);
	ck_assert_uint_eq(job.n_ids, n_tokens);
	ck_assert_uint_ne(job.end.logits_hash, 0);
	return job;
}
