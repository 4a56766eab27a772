/* test_identical.c - no memory event changes the output (design.md, promise 4).
 *
 * The same prompts alone, batched, with other chunk sizes, with sharing off, on the other engine, in a
 * pool too small for all of them: the same token ids, text and logits hash, compared as bytes. */
#include "tests/lib/scenario.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_PROMPTS 8
#define N_TOKENS 40

struct prompts {
	char *text[N_PROMPTS];
	struct host_job alone[N_PROMPTS];
};

/* Prompts of different lengths; every second one shares a long prefix with the others. */
static void prompts_make(struct prompts *p)
{
	char *prefix = scenario_text(1, 150);
	for (unsigned i = 0; i < N_PROMPTS; i++) {
		char *own = scenario_text(100 + i, 5 + 17 * i);
		p->text[i] = i % 2 ? scenario_join(prefix, own) : strdup(own);
		free(own);
	}
	free(prefix);
}

static void prompts_alone(struct prompts *p, struct host *h, const char *engine)
{
	for (unsigned i = 0; i < N_PROMPTS; i++)
		p->alone[i] = scenario_alone(h, "alone", engine, p->text[i], N_TOKENS);
}

static void prompts_free(struct prompts *p)
{
	host_jobs_free(p->alone, N_PROMPTS);
	for (unsigned i = 0; i < N_PROMPTS; i++)
		free(p->text[i]);
}

static void expect_same(struct prompts *p, struct host *h, const char *tenant, const char *engine,
			uint32_t flags)
{
	struct host_job jobs[N_PROMPTS];
	for (unsigned i = 0; i < N_PROMPTS; i++) {
		scenario_job(&jobs[i], tenant, engine, p->text[i], N_TOKENS);
		jobs[i].request.flags |= flags;
	}
	ck_assert_msg(host_run(h, jobs, N_PROMPTS, NULL, NULL) == 0, "a request failed: %s", jobs[0].error);
	for (unsigned i = 0; i < N_PROMPTS; i++)
		ck_assert_msg(host_jobs_equal(&jobs[i], &p->alone[i]),
			      "prompt %u differs (tenant %s, engine %s): hash %016lx, alone %016lx", i, tenant,
			      engine ? engine : "any", (unsigned long)jobs[i].end.logits_hash,
			      (unsigned long)p->alone[i].end.logits_hash);
	host_jobs_free(jobs, N_PROMPTS);
}

static const char *const threads2[] = { "--threads", "2", "--chunk", "64", NULL };
static const char *const chunk7[] = { "--threads", "1", "--chunk", "7", NULL };

START_TEST(batch_chunk_engine_and_sharing)
{
	struct host h;
	struct prompts p;
	prompts_make(&p);
	host_start(&h, "128M", NULL);
	host_engine(&h, "a", host_model_bundled(), threads2);
	host_engine(&h, "b", host_model_bundled(), chunk7);
	prompts_alone(&p, &h, "a");
	expect_same(&p, &h, "alone", "a", 0);                   /* batched, prefixes cached */
	expect_same(&p, &h, "cold-a", "a", 0);                  /* batched, nothing cached for this tenant */
	expect_same(&p, &h, "cold-b", "b", 0);                  /* other engine, chunk of 7, one thread */
	expect_same(&p, &h, "alone", "b", 0);                   /* pages made by a, read by b */
	expect_same(&p, &h, "secret", NULL, KVD_REQ_PRIVATE);   /* neither look-up nor index */
	expect_same(&p, &h, "cold-a", NULL, 0);                 /* merged pages, either engine */
	host_settle(&h);
	host_stop(&h);
	prompts_free(&p);
}
END_TEST

/* 8 sequences in a pool for 3: all end, byte-identical to alone. */
START_TEST(eight_in_a_pool_for_three)
{
	struct host h;
	host_start(&h, "128M", NULL);
	host_engine(&h, "a", host_model_bundled(), NULL);
	char *longer[N_PROMPTS];
	struct host_job alone[N_PROMPTS], jobs[N_PROMPTS];
	for (unsigned i = 0; i < N_PROMPTS; i++) {
		longer[i] = scenario_text(500 + i, 120);
		alone[i] = scenario_alone(&h, "alone", "a", longer[i], 200);
	}
	struct kvd_row_status status;
	uint64_t page_bytes = host_page_bytes(&h);
	uint32_t tokens = alone[0].prompt_tokens + 200;
	host_stop(&h);

	/* Room for three whole sequences and their spare pages, in whole extents of 1 MiB. */
	uint64_t pages = 3 * ((tokens + 15) / 16 + 1);
	char pool[32];
	snprintf(pool, sizeof(pool), "%lluM", (unsigned long long)((pages * page_bytes >> 20) + 2));
	const char *const small_extents[] = { "--extent", "1M", NULL };
	host_start(&h, pool, small_extents);
	host_engine(&h, "a", host_model_bundled(), NULL);
	for (unsigned i = 0; i < N_PROMPTS; i++) {
		static char tenants[N_PROMPTS][8];
		snprintf(tenants[i], sizeof(tenants[i]), "t%u", i % 3);
		scenario_job(&jobs[i], tenants[i], "a", longer[i], 200);
	}
	ck_assert_msg(host_run(&h, jobs, N_PROMPTS, NULL, NULL) == 0, "a request failed: %s", jobs[0].error);
	for (unsigned i = 0; i < N_PROMPTS; i++)
		ck_assert_msg(host_jobs_equal(&jobs[i], &alone[i]), "sequence %u differs from alone", i);
	host_status(&h, &status);
	ck_assert_msg(status.preemptions > 0 || status.evicted_pages > 0,
		      "the pool of %s was never short, so nothing was tested", pool);
	host_settle(&h);
	host_stop(&h);
	host_jobs_free(alone, N_PROMPTS);
	host_jobs_free(jobs, N_PROMPTS);
	for (unsigned i = 0; i < N_PROMPTS; i++)
		free(longer[i]);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(batch_chunk_engine_and_sharing),
		SCENARIO(eight_in_a_pool_for_three),
	};
	return scenario_run("identical", tests, 2, 300);
}
