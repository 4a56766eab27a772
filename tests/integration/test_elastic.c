/* test_elastic.c - memory follows load between two engine processes, also when what the first one
 * still holds lies scattered over all its extents: compaction brings whole extents free, and no token
 * changes.  (That nobody is preempted for it: tests/unit/test_core_compact.c, where the load is exact.) */
#include "tests/lib/scenario.h"
#include "tests/lib/slow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_SHORT = 12, N_LONG = 4, N_ALL = N_SHORT + N_LONG, N_NEW = 6, LONG_TOKENS = 500 };

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "16", "--ctx", "2048", NULL };


/* Interleaved: each extent gets pages of streams that end soon and of some that go on. */
START_TEST(sparse_extents_move_to_another_engine)
{
	struct host h;
	struct host_job jobs[N_ALL], alone[N_ALL], late[N_NEW], late_alone[N_NEW];
	char *texts[N_ALL], *late_texts[N_NEW];
	struct kvd_row_status after;
	host_start(&h, "24M", NULL);
	host_engine(&h, "one", host_model_bundled(), engine_args);
	host_engine(&h, "two", host_model_bundled(), engine_args);
	host_populated(&h);
	for (unsigned i = 0; i < N_NEW; i++) {
		late_texts[i] = scenario_text(900 + i, 500);
		late_alone[i] = scenario_alone(&h, "blue", "two", late_texts[i], 40);
	}
	for (unsigned i = 0; i < N_ALL; i++) {
		bool goes_on = i % 4 == 3;
		texts[i] = scenario_text(i, goes_on ? 100 : 500);
		scenario_job(&jobs[i], goes_on ? "green" : "red", "one", texts[i], goes_on ? LONG_TOKENS : 30);
		if (goes_on)
			alone[i] = scenario_alone(&h, "grey", "two", texts[i], LONG_TOKENS);
	}
	/* The long streams run in a child of this process, so that two loads can be driven at once. */
	pid_t child = fork();
	if (child == 0) {
		host_fail = NULL;
		unsigned failed = host_run(&h, jobs, N_ALL, NULL, NULL);
		for (unsigned i = 3; i < N_ALL; i += 4)
			failed += !host_jobs_equal(&jobs[i], &alone[i]);
		_exit(failed ? 1 : 0);
	}
	for (unsigned i = 0; i < 400 * test_slow() && host_sequences(&h) < N_ALL; i++)
		usleep(10000);
	for (unsigned i = 0; i < 3000 * test_slow() && host_sequences(&h) > N_LONG; i++)
		usleep(10000);
	for (unsigned i = 0; i < N_NEW; i++)
		scenario_job(&late[i], "blue", "two", late_texts[i], 40);
	ck_assert_uint_eq(host_run(&h, late, N_NEW, NULL, NULL), 0);
	for (unsigned i = 0; i < N_NEW; i++)
		ck_assert(host_jobs_equal(&late[i], &late_alone[i]));
	int status;
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_msg(status == 0, "a stream whose pages were moved failed, or has other tokens");
	host_status(&h, &after);
	printf("preempted %llu; extents emptied %llu, pages moved %llu\n", (unsigned long long)after.preemptions,
	       (unsigned long long)after.compactions, (unsigned long long)after.moved_pages);
	ck_assert_uint_ge(after.compactions, 1);
	ck_assert_uint_ge(after.moved_pages, 1);
	host_settle(&h);
	for (unsigned i = 3; i < N_ALL; i += 4)
		host_jobs_free(&alone[i], 1);
	host_jobs_free(late, N_NEW);
	host_jobs_free(late_alone, N_NEW);
	for (unsigned i = 0; i < N_ALL; i++)
		free(texts[i]);
	for (unsigned i = 0; i < N_NEW; i++)
		free(late_texts[i]);
	host_stop(&h);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = { SCENARIO(sparse_extents_move_to_another_engine) };
	return scenario_run("elastic", tests, 1, 200);
}
