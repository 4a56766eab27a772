/* main.c - the simulator's command line: seeds, traces, and what to do with a seed that fails.
 *
 *   sim [--seed N | --seeds FROM-TO | --trace FILE] [--ops N] [--jobs N] [--total N] [--every-store]
 *       [--verbose] [--no-shrink] [--shrink-to FILE] [--commit ID] [--directory DIR]
 *
 * --shrink-to: where a trace that fails goes, made smaller.
 * --every-store: small books, and at each store to them a copy is adopted and compared.
 * Without a seed: a bounded set of seeds, for `make check`.  A failing seed prints the command that
 * repeats it, and its shrunk trace goes to build/sim/SEED.trace.  The last line is Check's. */
#include "tests/sim/runs.h"

#include <getopt.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { JOBS = 16, SHRINK_SECONDS = 60 };

struct options {
	uint64_t from, to, total;
	uint32_t ops, jobs;
	const char *trace, *shrunk, *commit, *directory;
	bool verbose, no_shrink, every_store;
};

struct totals { uint64_t ops, seeds, failed, finished, preempted, evicted, merges, promotions, waits, mover_fails,
	adoptions, stores, computed; };

static double seconds_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The finding: the sentence before the numbers, which differ from trace to trace. */
static void finding_of(const char *said, char *ret, size_t size)
{
	const char *line = strstr(said, "checker: ");
	if (!line)
		line = strstr(said, "fsck: ");
	if (!line)
		line = strstr(said, "world: ");
	if (!line)
		line = strstr(said, "Assertion");
	size_t n = line ? strcspn(line, "\n") : 0;
	if (line && strncmp(line, "Assertion", 9))
		n = strcspn(line + 9, "(:\n") + 9;      /* the numbers differ from trace to trace */
	if (n >= size)
		n = size - 1;
	memcpy(ret, line ? line : "", n);
	ret[n] = 0;
}

static char wanted[256];
static struct run_room *shrink_room;

static bool still_fails(const struct swarm *swarm, const struct sim_op *ops, uint32_t n)
{
	struct run run = { .swarm = *swarm, .room = shrink_room, .seconds_max = 20 };
	char found[256];
	memcpy(shrink_room->log, ops, n * sizeof(*ops));
	shrink_room->n_log = n;
	if (run_whole(&run))
		return false;
	finding_of(run.said, found, sizeof(found));
	return !strcmp(found, wanted);
}

/* The run's operations, made few, to a file. */
static void shrink_to(struct run *run, const char *path)
{
	uint32_t n = run->room->n_log;
	struct sim_op *ops = malloc((n + 1) * sizeof(*ops));
	finding_of(run->said, wanted, sizeof(wanted));
	shrink_room = run_room_new();
	memcpy(ops, run->room->log, n * sizeof(*ops));
	if (still_fails(&run->swarm, ops, n))
		n = shrink(&run->swarm, ops, n, SHRINK_SECONDS, still_fails);
	if (trace_write(path, &run->swarm, ops, n))
		printf("shrunk to %u operations: make sim TRACE=%s\n", n, path);
	free(ops);
}

static void report_failure(struct run *run, const struct options *o)
{
	char path[256], text[480];
	swarm_describe(&run->swarm, text, sizeof(text));
	printf("seed %llu fails at commit %s (%s)\n%s\n", (unsigned long long)run->swarm.seed, o->commit, text,
	       run->said);
	printf("repeat: make sim SEED=%llu SIM_ARGS='--ops %u'\n", (unsigned long long)run->swarm.seed, o->ops);
	fflush(stdout);
	if (o->no_shrink || !run->room->n_log)
		return;
	mkdir(o->directory, 0777);
	snprintf(path, sizeof(path), "%s/%llu.trace", o->directory, (unsigned long long)run->swarm.seed);
	shrink_to(run, path);
}

static void totals_add(struct totals *t, const struct run *run)
{
	const struct run_room *r = run->room;
	t->seeds++;
	t->ops += r->ops;
	t->finished += r->finished;
	t->preempted += r->preempted;
	t->evicted += r->evicted;
	t->merges += r->merges;
	t->promotions += r->promotions;
	t->waits += r->waits;
	t->mover_fails += r->mover_fails;
	t->adoptions += r->adoptions;
	t->stores += r->stores;
	t->computed += r->computed;
}

static void totals_print(const struct totals *t, double seconds, uint32_t jobs)
{
	printf("%llu operations over %llu seeds in %.1f s with %u processes: %.0f operations/s; %llu seeds fail\n"
	       "%llu sequences finished, %llu preempted, %llu pages computed, %llu evicted, %llu merges, "
	       "%llu promotions, %llu waits for promises, %llu mover failures, %llu adoptions, %llu stores tried\n",
	       (unsigned long long)t->ops, (unsigned long long)t->seeds, seconds, jobs, (double)t->ops / seconds,
	       (unsigned long long)t->failed, (unsigned long long)t->finished, (unsigned long long)t->preempted,
	       (unsigned long long)t->computed, (unsigned long long)t->evicted, (unsigned long long)t->merges,
	       (unsigned long long)t->promotions, (unsigned long long)t->waits,
	       (unsigned long long)t->mover_fails, (unsigned long long)t->adoptions,
	       (unsigned long long)t->stores);
}

struct job { int pid, fd; struct run run; };

static void job_ended(struct job *job, int status, struct totals *t, const struct options *o)
{
	bool well = run_finish(&job->run, job->pid, job->fd, status);
	totals_add(t, &job->run);
	job->pid = 0;
	if (o->verbose) {
		char text[480];
		swarm_describe(&job->run.swarm, text, sizeof(text));
		printf("seed %llu: %llu operations, %llu finished, %llu preempted, %llu adoptions: %s\n",
		       (unsigned long long)job->run.swarm.seed, (unsigned long long)job->run.room->ops,
		       (unsigned long long)job->run.room->finished,
		       (unsigned long long)job->run.room->preempted,
		       (unsigned long long)job->run.room->adoptions, text);
	}
	if (well)
		return;
	t->failed++;
	report_failure(&job->run, o);
}

static void run_seeds(const struct options *o, struct totals *t)
{
	static struct job jobs[JOBS];
	uint64_t seed = o->from;
	double start = seconds_now(), told = start;
	for (uint32_t i = 0; i < o->jobs; i++)
		jobs[i].run.room = run_room_new();
	for (;;) {
		uint32_t busy = 0;
		for (uint32_t i = 0; i < o->jobs; i++) {
			bool more = seed <= o->to && (!o->total || t->ops < o->total);
			if (!jobs[i].pid && more) {
				jobs[i].run.swarm = swarm_of(seed++);
				jobs[i].run.ops_max = o->ops;
				jobs[i].run.every_store = o->every_store;
				if (o->every_store)
					jobs[i].run.swarm = swarm_small(jobs[i].run.swarm);
				run_start(&jobs[i].run, &jobs[i].pid, &jobs[i].fd);
			}
			busy += jobs[i].pid > 0;
		}
		if (!busy)
			break;
		int status, pid = waitpid(-1, &status, 0);
		for (uint32_t i = 0; i < o->jobs; i++)
			if (jobs[i].pid == pid)
				job_ended(&jobs[i], status, t, o);
		if (o->total && seconds_now() - told > 60) {
			told = seconds_now();
			totals_print(t, told - start, o->jobs);
			fflush(stdout);
		}
	}
	totals_print(t, seconds_now() - start, o->jobs);
}

static int run_trace(const char *path, const char *shrunk)
{
	struct run run = { .room = run_room_new() };
	if (!trace_read(path, &run.swarm, run.room->log, &run.room->n_log, SIM_OPS_LOG)) {
		fprintf(stderr, "sim: %s is no trace; the first line must be 'kvd-sim-trace VERSION seed N'\n", path);
		return 2;
	}
	bool well = run_whole(&run);
	printf("%s: %u operations, seed %llu: %s\n%s", path, run.room->n_log, (unsigned long long)run.swarm.seed,
	       well ? "well" : "fails", run.said);
	if (!well && shrunk)
		shrink_to(&run, shrunk);
	return !well;
}

/* Traces of bugs that were found once: they stay away. */
static void replay_found(struct totals *t)
{
	glob_t found;
	if (glob("tests/sim/seeds/*.trace", 0, NULL, &found))
		return;
	for (size_t i = 0; i < found.gl_pathc; i++) {
		t->seeds++;
		t->failed += run_trace(found.gl_pathv[i], NULL) != 0;
	}
	globfree(&found);
}

static void options_read(struct options *o, int argc, char **argv)
{
	static const struct option names[] = {
		{ "seed", 1, 0, 's' }, { "seeds", 1, 0, 'r' }, { "ops", 1, 0, 'o' }, { "jobs", 1, 0, 'j' },
		{ "trace", 1, 0, 't' }, { "total", 1, 0, 'T' }, { "commit", 1, 0, 'c' }, { "directory", 1, 0, 'd' },
		{ "verbose", 0, 0, 'v' }, { "no-shrink", 0, 0, 'n' },
		{ "every-store", 0, 0, 'e' }, { "shrink-to", 1, 0, 'S' }, { 0 }
	};
	for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
		switch (c) {
		case 's':
			o->from = o->to = strtoull(optarg, NULL, 10);
			o->verbose = true;
			break;
		case 'r':
			o->from = o->to = strtoull(optarg, NULL, 10);
			if (strchr(optarg, '-'))
				o->to = strtoull(strchr(optarg, '-') + 1, NULL, 10);
			break;
		case 'o': o->ops = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 'j': o->jobs = (uint32_t)strtoul(optarg, NULL, 10); break;
		case 't': o->trace = optarg; break;
		case 'S': o->shrunk = optarg; break;
		case 'T': o->total = strtoull(optarg, NULL, 10); break;
		case 'c': o->commit = optarg; break;
		case 'd': o->directory = optarg; break;
		case 'v': o->verbose = true; break;
		case 'n': o->no_shrink = true; break;
		case 'e': o->every_store = true; break;
		default: exit(2);
		}
	}
	if (!o->ops || o->ops > SIM_OPS_LOG / 2)
		o->ops = SIM_OPS_LOG / 2;
	if (!o->jobs || o->jobs > JOBS)
		o->jobs = 1;
}

int main(int argc, char **argv)
{
	struct options o = { .from = 1, .to = 40, .ops = 25000, .jobs = 2, .commit = "?", .directory = "build/sim" };
	struct totals t = { 0 };
	options_read(&o, argc, argv);
	if (o.trace)
		return run_trace(o.trace, o.shrunk);
	run_seeds(&o, &t);
	if (argc <= 3 && !o.every_store && !o.verbose) { /* nothing was asked for: the bounded run */
		o.every_store = true;
		o.to = 6;
		o.ops = 400;
		run_seeds(&o, &t);
		replay_found(&t);
	}
	printf("%llu%%: Checks: %llu, Failures: %llu, Errors: 0\n",
	       (unsigned long long)(100 * (t.seeds - t.failed) / (t.seeds ? t.seeds : 1)),
	       (unsigned long long)t.seeds, (unsigned long long)t.failed);
	return t.failed ? 1 : 0;
}
