/* test_turns.c - one tenant fills every slot of an engine with long answers; another's short request
 * does not wait for them, and the long answers keep their tokens. */
#include "tests/lib/scenario.h"
#include "tests/lib/slow.h"

#include <stdio.h>
#include <stdlib.h>

enum { N_SLOTS = 4, N_LONG = 10, LONG_TOKENS = 400 };

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "4", "--ctx", "2048", NULL };

START_TEST(a_slot_is_given_back_for_another_tenant)
{
	struct host h;
	struct host_job jobs[N_LONG + 1], alone[N_LONG + 1];
	char *texts[N_LONG + 1];
	host_start(&h, "64M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	for (unsigned i = 0; i <= N_LONG; i++) {
		texts[i] = scenario_text(i, 60);
		alone[i] = scenario_alone(&h, "before", NULL, texts[i], i < N_LONG ? LONG_TOKENS : 20);
	}
	for (unsigned i = 0; i < N_LONG; i++)
		scenario_job(&jobs[i], "red", NULL, texts[i], LONG_TOKENS);
	/* the last to ask, so that every slot is taken and six of the other's wait before it */
	scenario_job(&jobs[N_LONG], "blue", NULL, texts[N_LONG], 20);
	ck_assert_uint_eq(host_run(&h, jobs, N_LONG + 1, NULL, NULL), 0);
	unsigned later = 0;
	for (unsigned i = 0; i < N_LONG; i++) {
		ck_assert_msg(jobs[i].n_ids == alone[i].n_ids && host_jobs_equal(&jobs[i], &alone[i]),
			      "a long answer has other tokens");
		later += jobs[i].ended_usec > jobs[N_LONG].ended_usec;
	}
	ck_assert(host_jobs_equal(&jobs[N_LONG], &alone[N_LONG]));
	printf("%u of %u long answers ended after the other tenant's short one\n", later, N_LONG);
	/* Without turns it begins after seven of them have ended.  On a busy machine one or two of the first
	 * may be over before its 20 tokens are. */
	ck_assert_uint_gt(later, N_LONG - N_SLOTS);
	host_settle(&h);
	for (unsigned i = 0; i <= N_LONG; i++)
		free(texts[i]);
	host_jobs_free(jobs, N_LONG + 1);
	host_jobs_free(alone, N_LONG + 1);
	host_stop(&h);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = { SCENARIO(a_slot_is_given_back_for_another_tenant) };
	return scenario_run("turns", tests, 1, 120);
}
