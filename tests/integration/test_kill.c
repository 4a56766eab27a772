/* test_kill.c - any engine may be SIGKILLed at any moment: its pages come back, nobody else notices.
 *
 * A kill counts only when the engine holds at least four open pages and has a submission that kvd has
 * not consumed.  To be sure of that kvd is stopped (SIGSTOP) first, the ring is watched from outside
 * until a submission lies unconsumed, and kvd continues after the kill. */
#include "tests/lib/peek.h"
#include "tests/lib/scenario.h"
#include "tests/lib/slow.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "kvd/shm.h"

#define N_STREAMS 6
#define N_STEADY 2

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "8", NULL };

struct round {
	struct host *h;
	struct host_child *victim;
	struct host_job *jobs;         /* the victim's first */
	unsigned n_victims; /* jobs to abandon once it is dead, so that they are not resumed
			       elsewhere */
	unsigned started;              /* victims' streams that have sent tokens */
	unsigned after;                /* kill once this many have, at a random moment */
	bool killed, counts;
	uint64_t seed;
};

static uint64_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return *state >> 33;
}

static uint64_t open_pages(struct host *h)
{
	struct kvd_row_status s;
	host_status(h, &s);
	return s.frames[KVD_FRAME_OPEN];
}

/* Stop kvd, wait until the victim has submitted something that kvd has not seen, kill it, let kvd go on. */
static void kill_now(struct round *r)
{
	struct kvd_sub_header sub;
	struct kvd_comp_header comp;
	uint64_t open = open_pages(r->h);
	host_kill(&r->h->kvd, SIGSTOP);
	bool unconsumed = false;
	for (unsigned i = 0; i < 2000 && !unconsumed; i++) {
		if (peek_read(r->victim->pid, "kvd-sub", 0, &sub, sizeof(sub)) ||
		    peek_read(r->victim->pid, "kvd-comp", 0, &comp, sizeof(comp)))
			ck_abort_msg("the engine's rings cannot be seen");
		unconsumed = sub.sq_tail != comp.sq_head;
		if (!unconsumed)
			usleep(100);
	}
	host_kill(r->victim, SIGKILL);
	host_kill(&r->h->kvd, SIGCONT);
	for (unsigned i = 0; i < r->n_victims; i++)
		r->jobs[i].abandon = true;
	r->counts = unconsumed && open >= 4;
	r->killed = true;
}

static void on_chunk(void *arg, struct host_job *job)
{
	struct round *r = arg;
	if (r->killed || job->n_ids == 0 || strcmp(job->engine ? job->engine : "", "victim"))
		return;
	if (++r->started >= r->after)
		kill_now(r);
}

static bool one_round(struct host *h, uint64_t seed, struct host_job *steady_alone, char **texts)
{
	struct host_job jobs[N_STREAMS + N_STEADY];
	for (unsigned i = 0; i < N_STREAMS; i++)
		scenario_job(&jobs[i], i % 2 ? "red" : "green", "victim", texts[i], 400);
	for (unsigned i = 0; i < N_STEADY; i++)
		scenario_job(&jobs[N_STREAMS + i], "steady", "steady", texts[N_STREAMS + i], 60);
	struct round r = { .h = h, .seed = seed, .jobs = jobs, .n_victims = N_STREAMS };
	r.after = 4 * N_STREAMS + (unsigned)(next_random(&r.seed) % 60);
	for (unsigned i = 0; i < h->n_engines; i++)
		if (!strcmp(h->engines[i].name, "victim") && h->engines[i].pid)
			r.victim = &h->engines[i];
	host_run(h, jobs, N_STREAMS + N_STEADY, on_chunk, &r);
	ck_assert_msg(r.killed, "the victim was never killed");
	for (unsigned i = 0; i < N_STEADY; i++) {
		ck_assert_msg(jobs[N_STREAMS + i].status == 0, "a steady stream failed: %s",
			      jobs[N_STREAMS + i].error);
		ck_assert_msg(host_jobs_equal(&jobs[N_STREAMS + i], &steady_alone[i]),
			      "a steady stream changed");
	}
	host_jobs_free(jobs, N_STREAMS + N_STEADY);
	return r.counts;
}

START_TEST(kill_engine_many_times)
{
	const char *wanted = getenv("KVD_TEST_KILLS");
	unsigned n_kills = wanted && *wanted ? (unsigned)atoi(wanted) : 200;
	struct host h;
	char *texts[N_STREAMS + N_STEADY];
	struct host_job steady_alone[N_STEADY];
	host_start(&h, "64M", NULL);
	host_engine(&h, "steady", host_model_bundled(), engine_args);
	for (unsigned i = 0; i < N_STREAMS + N_STEADY; i++)
		texts[i] = scenario_text(40 + i, 20 + 9 * i);
	for (unsigned i = 0; i < N_STEADY; i++)
		steady_alone[i] = scenario_alone(&h, "steady", "steady", texts[N_STREAMS + i], 60);

	host_populated(&h);
	usleep(100000);
	unsigned counted = 0, rounds = 0, fds = host_proc_fds(h.kvd.pid);
	uint64_t anon_at_20 = 0;
	for (; counted < n_kills && rounds < 2 * n_kills + 10; rounds++) {
		host_engine(&h, "victim", host_model_bundled(), engine_args);
		if (one_round(&h, rounds, steady_alone, texts))
			counted++;
		uint64_t start = host_now_usec();
		host_settle(&h);
		ck_assert_msg(host_now_usec() - start < 1000000u * test_slow(),
			      "the pool was not whole within a second");
		/* the last question's connection closes a moment after its answer */
		unsigned fds_after = host_proc_fds(h.kvd.pid);
		for (unsigned i = 0; i < 100 && fds_after > fds; i++, fds_after = host_proc_fds(h.kvd.pid))
			usleep(2000);
		ck_assert_msg(fds_after == fds, "kvd has %u fds after kill %u, %u before the first",
			      fds_after, rounds, fds);
		if (counted == 20 && !anon_at_20)
			anon_at_20 = host_proc_kib(h.kvd.pid, "RssAnon");
	}
	uint64_t anon = host_proc_kib(h.kvd.pid, "RssAnon");
	printf("%u kills in %u rounds; RssAnon %llu KiB after 20, %llu KiB at the end; fds %u\n",
	       counted, rounds, (unsigned long long)anon_at_20, (unsigned long long)anon, fds);
	ck_assert_uint_ge(counted, n_kills);
	if (anon_at_20)
		ck_assert_uint_le(anon, anon_at_20 + 64);
	for (unsigned i = 0; i < N_STREAMS + N_STEADY; i++)
		free(texts[i]);
	host_jobs_free(steady_alone, N_STEADY);
	host_stop(&h);
}
END_TEST

/* A stream whose engine dies goes on in the other engine, byte-identical, at most one page computed again
 * (that much and the prompt's last page). */
START_TEST(stream_survives_its_engine)
{
	struct host h;
	char *text = scenario_text(77, 200);
	host_start(&h, "64M", NULL);
	host_engine(&h, "victim", host_model_bundled(), engine_args);
	host_engine(&h, "other", host_model_bundled(), engine_args);
	struct host_job alone = scenario_alone(&h, "before", "other", text, 200);
	struct host_job job;
	scenario_job(&job, "red", "victim", text, 200);
	struct round r = { .h = &h, .victim = &h.engines[0], .after = 20 };
	ck_assert_msg(host_run(&h, &job, 1, on_chunk, &r) == 0, "the stream failed: %s", job.error);
	ck_assert(r.killed);
	ck_assert_int_eq(job.resumed, 1);
	ck_assert_str_eq(job.served_by, "other");
	ck_assert_uint_eq(job.n_ids, alone.n_ids);
	ck_assert_mem_eq(job.ids, alone.ids, alone.n_ids * sizeof(*alone.ids));
	ck_assert_str_eq(job.answer, alone.answer);
	host_settle(&h);
	host_stop(&h);
	host_jobs_free(&job, 1);
	host_jobs_free(&alone, 1);
	free(text);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(kill_engine_many_times),
		SCENARIO(stream_survives_its_engine),
	};
	return scenario_run("kill", tests, 2, 900);
}
