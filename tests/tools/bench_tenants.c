/* bench_tenants.c - what tenants do to each other's time to first token, on real processes.
 *
 *   bench_tenants flood|flood-min [N]   one tenant floods one engine with long answers to long prompts until the
 *                             pool is full and its queue long; another asks the other engine, one short
 *                             request after the other.  Each engine has a thread of its own, alone and in
 *                             the flood.  Prints "p50_alone p95_alone p50_flood p95_flood"  in ms.
 *                             flood-min: the quiet one has a `min` of 1 MiB.
 *   bench_tenants probe [N]   tenant B asks, alternating, prompts that tenant A has just asked and prompts
 *                             that nobody has, on one engine in an unpressured pool; default sharing
 *                             (`merge`).  Prints "auc lower99 upper99 hits p50_known p50_unknown" of B's times to
 *                             first token: the area under the curve and its one-sided 99 % bounds on both
 *                             sides (0.5 is no information; below, known prompts were slower), medians in ms.
 *   bench_tenants probe-reuse [N]   the same for two tenants of one `reuse` domain: the hit is there. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/host.h"
#include "tests/lib/scenario.h"

enum { FLOOD_JOBS = 40, FLOOD_WORDS = 350, FLOOD_TOKENS = 150, QUIET_WORDS = 40, PROBE_WORDS = 120 };

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "16", "--ctx", "2048", NULL };

static double ttft_ms(struct host *h, const char *tenant, const char *engine, const char *text, uint32_t *ret_cached)
{
	struct host_job job;
	scenario_job(&job, tenant, engine, text, 1);
	if (host_run(h, &job, 1, NULL, NULL)) {
		fprintf(stderr, "bench_tenants: a request failed: %s\n", job.error);
		exit(1);
	}
	double ms = (double)(job.first_usec - job.started_usec) / 1000;
	if (ret_cached)
		*ret_cached = job.cached_tokens;
	host_jobs_free(&job, 1);
	return ms;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void quiet_requests(struct host *h, unsigned n, uint64_t seed, double *ret_p50, double *ret_p95)
{
	double *ms = calloc(n, sizeof(*ms));
	for (unsigned i = 0; i < n; i++) {
		char *text = scenario_text(seed + i, QUIET_WORDS);
		ms[i] = ttft_ms(h, "quiet", "calm", text, NULL);
		free(text);
		usleep(20000);
	}
	qsort(ms, n, sizeof(*ms), by_value);
	*ret_p50 = ms[n / 2];
	*ret_p95 = ms[n * 95 / 100];
	free(ms);
}

struct flood { struct host *h; volatile int stop; pthread_t thread; };

static void *flood_main(void *arg)
{
	struct flood *f = arg;
	for (uint64_t seed = 1000; !f->stop; seed += FLOOD_JOBS) {
		struct host_job jobs[FLOOD_JOBS];
		char *texts[FLOOD_JOBS];
		for (unsigned i = 0; i < FLOOD_JOBS; i++) {
			texts[i] = scenario_text(seed + i, FLOOD_WORDS);
			scenario_job(&jobs[i], "flood", "busy", texts[i], FLOOD_TOKENS);
		}
		host_run(f->h, jobs, FLOOD_JOBS, NULL, NULL);
		host_jobs_free(jobs, FLOOD_JOBS);
		for (unsigned i = 0; i < FLOOD_JOBS; i++)
			free(texts[i]);
	}
	return NULL;
}

/* A configuration file of this text; --config FILE for host_start(). */
static const char *const *config_args(const char *text)
{
	static char path[] = "/tmp/kvd-bench-XXXXXX";
	static const char *args[] = { "--config", path, NULL };
	int fd = mkstemp(path);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
		fprintf(stderr, "bench_tenants: cannot write %s\n", path);
		exit(1);
	}
	close(fd);
	return args;
}

static void flood(unsigned n, bool with_min)
{
	struct host h;
	struct flood f = { .h = &h };
	double p50, p95, p50_flood, p95_flood;
	const char *const *args = with_min ? config_args("[tenant quiet]\nmin = 1M\n") : NULL;
	host_start(&h, "16M", args);
	if (args)
		unlink(args[1]);
	host_engine(&h, "busy", host_model_bundled(), engine_args);
	host_engine(&h, "calm", host_model_bundled(), engine_args);
	host_populated(&h);
	quiet_requests(&h, 10, 50, &p50, &p95);
	quiet_requests(&h, n, 100, &p50, &p95);
	if (pthread_create(&f.thread, NULL, flood_main, &f))
		exit(1);
	sleep(3);
	quiet_requests(&h, n, 5000, &p50_flood, &p95_flood);
	printf("%.2f %.2f %.2f %.2f\n", p50, p95, p50_flood, p95_flood);
	fflush(stdout);
	f.stop = 1;
	host_abort(&h);                /* the flood has no end of its own */
	_exit(0);
}

/* Area under the curve: how often a known prompt was faster than an unknown one, ties a half. */
static double auc_of(const double *known, const double *unknown, unsigned n)
{
	double *sorted = calloc(n, sizeof(*sorted)), wins = 0;
	memcpy(sorted, unknown, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), by_value);
	for (unsigned i = 0; i < n; i++) {
		unsigned low = 0, high = n, equal = 0;
		while (low < high) {
			unsigned mid = (low + high) / 2;
			if (sorted[mid] <= known[i])
				low = mid + 1;
			else
				high = mid;
		}
		for (unsigned j = low; j-- > 0 && sorted[j] == known[i];)
			equal++;
		wins += n - low + equal / 2.0;
	}
	free(sorted);
	return wins / ((double)n * n);
}

static void probe(unsigned n, bool reuse)
{
	struct host h;
	const char *const *args = reuse ? config_args("[domain d]\ntenants = a, b\nsharing = reuse\n") : NULL;
	host_start(&h, "512M", args);
	if (args)
		unlink(args[1]);
	host_engine(&h, "one", host_model_bundled(), engine_args);
	host_populated(&h);
	double *known = calloc(n, sizeof(*known)), *unknown = calloc(n, sizeof(*unknown));
	unsigned hits = 0;
	for (unsigned i = 0; i < n; i++) {
		char *asked = scenario_text(2 * i + 1, PROBE_WORDS), *fresh = scenario_text(2 * i + 2, PROBE_WORDS);
		uint32_t cached, cached_fresh;
		ttft_ms(&h, "a", "one", asked, NULL);
		if (i % 2)                           /* either may come first */
			unknown[i] = ttft_ms(&h, "b", "one", fresh, &cached_fresh);
		known[i] = ttft_ms(&h, "b", "one", asked, &cached);
		if (i % 2 == 0)
			unknown[i] = ttft_ms(&h, "b", "one", fresh, &cached_fresh);
		hits += cached > 0;
		free(asked);
		free(fresh);
	}
	double auc = auc_of(known, unknown, n);
	qsort(known, n, sizeof(*known), by_value);
	qsort(unknown, n, sizeof(*unknown), by_value);
	/* Hanley and McNeil's standard error of an area, at 0.5: sqrt((2n+1) / (12 n^2)) */
	double error = sqrt((2.0 * n + 1) / (12.0 * n * n));
	printf("%.4f %.4f %.4f %u %.2f %.2f\n", auc, auc - 2.326 * error, auc + 2.326 * error, hits, known[n / 2],
	       unknown[n / 2]);
	host_stop(&h);
	free(known);
	free(unknown);
}

int main(int argc, char **argv)
{
	unsigned n = argc == 3 ? (unsigned)atoi(argv[2]) : 100;
	if (argc >= 2 && argc <= 3 && n && !strcmp(argv[1], "flood"))
		flood(n, false);
	else if (argc >= 2 && argc <= 3 && n && !strcmp(argv[1], "flood-min"))
		flood(n, true);
	else if (argc >= 2 && argc <= 3 && n && !strcmp(argv[1], "probe"))
		probe(n, false);
	else if (argc >= 2 && argc <= 3 && n && !strcmp(argv[1], "probe-reuse"))
		probe(n, true);
	else
		return fprintf(stderr, "usage: bench_tenants flood|flood-min|probe|probe-reuse [N]\n"), 2;
	return 0;
}
