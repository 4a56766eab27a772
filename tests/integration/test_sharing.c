/* test_sharing.c - a prefix is stored once per host and computed once per domain (promise 2).
 *
 * Two engines of one model, 24 requests over one long prefix: in one tenant or one reuse domain it is
 * computed once; under merge it is stored once and computed once per tenant. */
#include "tests/lib/scenario.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_REQUESTS 24
#define PREFIX_WORDS 1100u
#define N_TOKENS 24

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "16", NULL };

static void start(struct host *h, const char *config)
{
	char path[] = "/tmp/kvd-test-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq((int)write(fd, config, strlen(config)), (int)strlen(config));
	close(fd);
	const char *const more[] = { "--config", path, NULL };
	host_start(h, "256M", more);
	unlink(path);
	host_engine(h, "a", host_model_bundled(), engine_args);
	host_engine(h, "b", host_model_bundled(), engine_args);
}

struct load {
	struct host_job jobs[N_REQUESTS];
	char *text[N_REQUESTS];
	uint64_t prompt_tokens, cached_tokens;
};

static void load_run(struct load *l, struct host *h, const char *const *tenants, unsigned n_tenants)
{
	char *prefix = scenario_text(7, PREFIX_WORDS);
	for (unsigned i = 0; i < N_REQUESTS; i++) {
		char *own = scenario_text(1000 + i, 12);
		l->text[i] = scenario_join(prefix, own);
		free(own);
		scenario_job(&l->jobs[i], tenants[i % n_tenants], i / n_tenants % 2 ? "b" : "a",
			     l->text[i], N_TOKENS);
	}
	ck_assert_msg(host_run(h, l->jobs, N_REQUESTS, NULL, NULL) == 0, "a request failed: %s",
		      l->jobs[0].error);
	l->prompt_tokens = l->cached_tokens = 0;
	for (unsigned i = 0; i < N_REQUESTS; i++) {
		l->prompt_tokens += l->jobs[i].prompt_tokens;
		l->cached_tokens += l->jobs[i].cached_tokens;
	}
	free(prefix);
}

static void load_free(struct load *l)
{
	host_jobs_free(l->jobs, N_REQUESTS);
	for (unsigned i = 0; i < N_REQUESTS; i++)
		free(l->text[i]);
}

static void one_domain(const char *config, const char *const *tenants, unsigned n_tenants)
{
	struct host h;
	struct load l;
	start(&h, config);
	load_run(&l, &h, tenants, n_tenants);
	struct kvd_row_status s;
	host_status(&h, &s);
	printf("24 requests, %u tenant(s): prompt tokens %llu, cached %llu (%.1f %%), "
	       "logical/physical %.2f\n",
	       n_tenants, (unsigned long long)l.prompt_tokens, (unsigned long long)l.cached_tokens,
	       100.0 * (double)l.cached_tokens / (double)l.prompt_tokens,
	       (double)s.peak_logical_bytes / (double)s.peak_physical_bytes);
	ck_assert_uint_ge(l.cached_tokens * 100, l.prompt_tokens * 80);
	ck_assert_uint_ge(s.peak_logical_bytes, 4 * s.peak_physical_bytes);
	/* single flight: the prefix was computed once, so at most one request computed more than its tail */
	unsigned computed_it = 0;
	for (unsigned i = 0; i < N_REQUESTS; i++)
		computed_it += l.jobs[i].prompt_tokens - l.jobs[i].cached_tokens > 400;
	ck_assert_uint_eq(computed_it, 1);
	load_free(&l);
	host_settle(&h);
	host_stop(&h);
}

START_TEST(one_tenant_computes_once)
{
	static const char *const tenants[] = { "solo" };
	one_domain("[kvd]\n", tenants, 1);
}
END_TEST

START_TEST(one_reuse_domain_computes_once)
{
	static const char *const tenants[] = { "red", "green", "blue" };
	one_domain("[domain lab]\ntenants = red green blue\nsharing = reuse\n", tenants, 3);
}
END_TEST

START_TEST(merge_stores_once_and_computes_per_tenant)
{
	static const char *const tenants[] = { "red", "green", "blue" };
	struct host h;
	struct load l;
	start(&h, "[kvd]\nsharing = merge\n");
	load_run(&l, &h, tenants, 3);
	/* each tenant computed the prefix itself, exactly once */
	unsigned computed_it[3] = { 0 };
	for (unsigned i = 0; i < N_REQUESTS; i++)
		computed_it[i % 3] += l.jobs[i].prompt_tokens - l.jobs[i].cached_tokens > 400;
	for (unsigned t = 0; t < 3; t++)
		ck_assert_uint_eq(computed_it[t], 1);
	/* and in the end it is stored once: three times the prefix asked, one there */
	uint64_t prefix_pages = (l.jobs[0].prompt_tokens - 40) / 16, page_bytes = 0, rss = 0;
	struct kvd_row_status s;
	/* merges come in rounds a second apart, two for three tenants */
	for (unsigned i = 0; i < 200; i++, usleep(100000)) {
		host_settle(&h);
		host_status(&h, &s);
		rss = 0;
		for (unsigned t = 0; t < 3; t++) {
			struct kvd_row_tenant row;
			host_tenant(&h, tenants[t], &row);
			ck_assert_msg(row.rss_bytes > 0, "tenant %s is charged nothing", tenants[t]);
			rss += row.rss_bytes;
		}
		page_bytes = s.frame_bytes[KVD_FRAME_COOL] / s.frames[KVD_FRAME_COOL];
		if (s.physical_bytes < rss - 2 * prefix_pages * page_bytes + 8 * page_bytes)
			break;
	}
	ck_assert_uint_gt(s.merges, 0);          /* others of the copies come by promotion */
	ck_assert_uint_eq(s.merge_mismatches, 0);
	uint64_t prefix_bytes = prefix_pages * page_bytes;
	/* stored: one prefix and each request's own few pages; charged: three prefixes */
	ck_assert_msg(s.physical_bytes < rss - 2 * prefix_bytes + 8 * page_bytes,
		      "physical %llu, charged %llu, prefix %llu", (unsigned long long)s.physical_bytes,
		      (unsigned long long)rss, (unsigned long long)prefix_bytes);
	load_free(&l);
	host_stop(&h);
}
END_TEST

/* A prefix computed in one engine is a hit in the other: the time to the first token shows it. */
START_TEST(hit_in_the_other_engine)
{
	struct host h;
	start(&h, "[kvd]\n");
	char *text = scenario_text(11, PREFIX_WORDS);
	struct host_job cold = scenario_alone(&h, "solo", "a", text, 4);
	struct host_job hit = scenario_alone(&h, "solo", "b", text, 4);
	struct host_job other = scenario_alone(&h, "stranger", "b", text, 4);
	printf("TTFT %u us cold, %u us as a hit in the other engine (%.1f x), %u us for another "
	       "tenant\n",
	       cold.end.ttft_usec, hit.end.ttft_usec,
	       (double)cold.end.ttft_usec / hit.end.ttft_usec, other.end.ttft_usec);
	ck_assert_uint_eq(cold.cached_tokens, 0);
	ck_assert_uint_ge(hit.cached_tokens + 16, hit.prompt_tokens - hit.prompt_tokens % 16);
	ck_assert_uint_eq(other.cached_tokens, 0);
	ck_assert(host_jobs_equal(&cold, &hit) && host_jobs_equal(&cold, &other));
	host_settle(&h);
	host_stop(&h);
	host_jobs_free(&cold, 1);
	host_jobs_free(&hit, 1);
	host_jobs_free(&other, 1);
	free(text);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(one_tenant_computes_once),
		SCENARIO(one_reuse_domain_computes_once),
		SCENARIO(merge_stores_once_and_computes_per_tenant),
		SCENARIO(hit_in_the_other_engine),
	};
	return scenario_run("sharing", tests, 4, 300);
}
