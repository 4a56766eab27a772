/* test_chaos.c - SIGKILL at named points of the protocol, under load, of whoever is at that point.
 *
 * A point is a function of a program as it is shipped and a random number of instructions after its
 * entry (tests/lib/kill_point.h): the middle of an event of the core, of the publishing of a
 * completion, of a copy of the mover, of a step of an engine.  In each round one process dies at one
 * point while streams of three tenants decode on two engines.  Whatever died: every stream ends with
 * the tokens that it has undisturbed, the states sum to the pool, fsck is clean, and neither memory
 * nor descriptors grow.
 *
 * KVD_TEST_CHAOS=N: kills (100 in `make check`, 1,000 in `make chaos`). */
#include "tests/lib/kill_point.h"
#include "tests/lib/scenario.h"
#include "tests/lib/slow.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_STREAMS = 6, N_TEXTS = 12, N_TOKENS = 90, ROUNDS_PER_KILL = 3 };
#define POOL "48M"
enum victim { VICTIM_ENGINE, VICTIM_MOVER, VICTIM_KVD };

struct point {
	enum victim victim;
	const char *function, *what;
	unsigned calls, instructions;  /* at most: which call, how far into it */
	unsigned kills;
};

static struct point points[] = {
	{ VICTIM_ENGINE, "kvd_engine_submit", "an engine writes a submission", 60, 60 },
	{ VICTIM_ENGINE, "kvd_engine_flush", "an engine publishes submissions and rings", 60, 300 },
	{ VICTIM_ENGINE, "kvd_engine_completion", "an engine takes a completion", 60, 80 },
	{ VICTIM_ENGINE, "kvlink_copy_table", "an engine copies a table row in a step", 60, 200 },
	{ VICTIM_ENGINE, "forward_step", "an engine computes", 40, 4000 },
	{ VICTIM_ENGINE, "kvlink_computed", "an engine's step is done, pages not sealed", 60, 100 },
	{ VICTIM_ENGINE, "sample_token", "an engine samples", 40, 200 },
	{ VICTIM_MOVER, "move_run", "the mover scrubs, copies or compares", 10, 2000 },
	{ VICTIM_KVD, "core_step", "kvd applies an event", 400, 3000 },
	{ VICTIM_KVD, "core_next_action", "kvd takes an action from the queue", 400, 200 },
	{ VICTIM_KVD, "act_perform", "kvd performs an action", 400, 300 },
	{ VICTIM_KVD, "ring_take", "kvd consumes a submission", 200, 60 },
	{ VICTIM_KVD, "ring_publish", "kvd publishes a completion", 200, 60 },
	{ VICTIM_KVD, "ring_entry", "kvd stores a table entry", 200, 30 },
	{ VICTIM_KVD, "mover_link_move", "kvd gives the mover a job", 20, 300 },
	{ VICTIM_KVD, "retire_stamped", "kvd reads the step counters", 20, 1000 },
	{ VICTIM_KVD, "job_moved", "kvd hears from the mover", 20, 1000 },
};
enum { N_POINTS = sizeof(points) / sizeof(points[0]) };

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "8", NULL };
static const char *const kvd_args[] = { "--keeper", NULL };
static const char *const engine_names[] = { "one", "two" };
static uint64_t dice = 88172645463325252ull;

static unsigned below(unsigned n)
{
	dice = dice * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(dice >> 33) % n;
}

/* The mover is kvd's youngest child: one that was killed may be on its way out for a while, and stands before it. */
static pid_t mover_pid(struct host *h)
{
	char path[64];
	int pid = 0, next;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)h->kvd.pid, (int)h->kvd.pid);
	for (unsigned i = 0; i < 1000 && !pid; i++) {
		FILE *f = fopen(path, "re");
		if (f) {
			while (fscanf(f, "%d", &next) == 1)
				pid = next;
			fclose(f);
		}
		if (!pid)
			usleep(10000);
	}
	ck_assert_msg(pid > 0, "kvd has no mover within 10 s");
	return pid;
}

struct chaos {
	struct host h;
	char *texts[N_TEXTS];
	struct host_job alone[N_TEXTS];
	struct host_child *victim;     /* an engine's or kvd's, NULL for the mover */
	struct kill_point kill;
	bool replaced, kvd_is_new;
	unsigned kvd_kills, adopted;
};

/* Called by host_run(): once the victim is dead, its successor is started at once, streams running. */
static void watch(void *arg)
{
	struct chaos *c = arg;
	if (c->replaced || !kill_point_done(&c->kill))
		return;
	c->replaced = true;
	if (kill_point_finish(&c->kill) != 0 || !c->victim)
		return;
	char name[32];
	snprintf(name, sizeof(name), "%s", c->victim->name);
	c->victim->pid = 0;
	if (c->victim == &c->h.kvd) {
		host_kvd_start(&c->h, POOL, kvd_args);
		c->kvd_kills++;
		c->kvd_is_new = true;
		return;
	}
	host_engine(&c->h, name, host_model_bundled(), engine_args);
}

static void arm(struct chaos *c, struct point *p)
{
	c->victim = NULL;
	c->replaced = false;
	pid_t pid = 0;
	if (p->victim == VICTIM_ENGINE) {
		const char *name = engine_names[below(2)];
		for (unsigned i = 0; i < c->h.n_engines; i++)
			if (c->h.engines[i].pid && !strcmp(c->h.engines[i].name, name))
				c->victim = &c->h.engines[i];
		ck_assert_ptr_nonnull(c->victim);
		pid = c->victim->pid;
	} else if (p->victim == VICTIM_KVD) {
		c->victim = &c->h.kvd;
		pid = c->victim->pid;
	} else {
		pid = mover_pid(&c->h);
	}
	c->kill = (struct kill_point){ .pid = pid, .function = p->function, .nth = 1 + below(p->calls),
		.steps = below(p->instructions), .timeout_ms = 2000 * test_slow() };
	kill_point_start(&c->kill);
}

/* Streams under load while the point is waited for; true: killed there. */
static bool one_round(struct chaos *c, struct point *p)
{
	struct host_job jobs[N_STREAMS];
	unsigned which[N_STREAMS];
	static const char *const tenants[] = { "red", "green", "blue" };
	arm(c, p);
	for (unsigned i = 0; i < N_STREAMS; i++) {
		which[i] = below(N_TEXTS);
		scenario_job(&jobs[i], tenants[i % 3], i < 2 ? engine_names[i] : NULL, c->texts[which[i]], N_TOKENS);
		jobs[i].request.deadline_ms = 0;
	}
	c->h.watch = watch;
	c->h.watch_arg = c;
	unsigned failed = host_run(&c->h, jobs, N_STREAMS, NULL, NULL);
	while (!c->replaced) {
		usleep(1000);
		watch(c);
	}
	c->h.watch = NULL;
	for (unsigned i = 0; i < N_STREAMS; i++) {
		const struct host_job *job = &jobs[i], *alone = &c->alone[which[i]];
		ck_assert_msg(job->status == 0, "killed while %s: a stream failed: %s (%u failed)", p->what, job->error,
			      failed);
		bool same = job->n_ids == alone->n_ids && !strcmp(job->answer, alone->answer) &&
			    !memcmp(job->ids, alone->ids, alone->n_ids * sizeof(*alone->ids));
		ck_assert_msg(same, "killed while %s: a stream has other tokens", p->what);
	}
	host_jobs_free(jobs, N_STREAMS);
	host_settle(&c->h);
	if (c->kvd_is_new) {                 /* it says `adopted` once every engine uses its tables */
		struct kvd_row_status status;
		host_status(&c->h, &status);
		for (unsigned i = 0; i < 300 && !status.adopted; i++) {
			usleep(10000);       /* an idle engine may switch a moment later */
			host_status(&c->h, &status);
		}
		c->adopted += status.adopted;
		c->kvd_is_new = false;
	}
	if (c->kill.status && c->kill.status != -ETIMEDOUT)
		ck_abort_msg("%s: cannot kill there: %s", p->function, strerror(-c->kill.status));
	return c->kill.status == 0;
}

START_TEST(killed_at_every_point)
{
	const char *wanted = getenv("KVD_TEST_CHAOS");
	unsigned n_kills = wanted && *wanted ? (unsigned)atoi(wanted) : 100, kills = 0, rounds = 0;
	struct chaos *c = calloc(1, sizeof(*c));
	host_start(&c->h, POOL, kvd_args);
	for (unsigned i = 0; i < 2; i++)
		host_engine(&c->h, engine_names[i], host_model_bundled(), engine_args);
	for (unsigned i = 0; i < N_TEXTS; i++) {
		/* three begin alike: pages shared and merged between tenants are in the game */
		char *own = scenario_text(100 + i, 20 + 11 * i), *common = scenario_text(7 + i / 4, 60);
		c->texts[i] = scenario_join(common, own);
		c->alone[i] = scenario_alone(&c->h, "before", "one", c->texts[i], N_TOKENS);
		free(own);
		free(common);
	}
	host_populated(&c->h);
	uint64_t anon_after_20 = 0;
	unsigned fds = 0;
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (; kills < n_kills && rounds < ROUNDS_PER_KILL * n_kills + 20; rounds++) {
		struct point *p = &points[rounds % N_POINTS];
		if (one_round(c, p)) {
			p->kills++;
			kills++;
		}
		if (rounds % 100 == 99)
			printf("%u kills in %u rounds so far\n", kills, rounds + 1);
		if (kills == 20 && !anon_after_20) {
			anon_after_20 = host_proc_kib(c->h.kvd.pid, "RssAnon");
			fds = host_proc_fds(c->h.kvd.pid);
		}
	}
	printf("%u kills in %u rounds\n", kills, rounds);
	for (unsigned i = 0; i < N_POINTS; i++)
		printf("  %5u  while %s\n", points[i].kills, points[i].what);
	printf("kvd was killed %u times, its successor went on with its book %u times\n", c->kvd_kills, c->adopted);
	ck_assert_uint_ge(kills, n_kills);
	ck_assert_uint_eq(c->adopted, c->kvd_kills);
	if (anon_after_20) {
		uint64_t anon = host_proc_kib(c->h.kvd.pid, "RssAnon");
		unsigned fds_now = host_proc_fds(c->h.kvd.pid);
		for (unsigned i = 0; i < 100 && fds_now > fds; i++, fds_now = host_proc_fds(c->h.kvd.pid))
			usleep(2000);
		printf("kvd: RssAnon %llu KiB after 20 kills, %llu KiB at the end; fds %u, %u\n",
		       (unsigned long long)anon_after_20, (unsigned long long)anon, fds, fds_now);
		ck_assert_uint_le(anon, anon_after_20 + 64);
		ck_assert_uint_le(fds_now, fds);
	}
	host_jobs_free(c->alone, N_TEXTS);
	for (unsigned i = 0; i < N_TEXTS; i++)
		free(c->texts[i]);
	host_stop(&c->h);
	free(c);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = { SCENARIO(killed_at_every_point) };
	return scenario_run("chaos", tests, 1, 7200);
}
