/* test_adopt_calls.c - kvd is killed before each of the calls that it makes, wherever that is: in the
 * middle of an attach, of a submission, of taking over from the one before.
 *
 * A traced run lists the places in the program that call the kernel or allocate.  Then, place after place,
 * a kvd is started that is killed when it first gets there (tests/preload/nth_failure.c), under a stand-in
 * service manager that starts the next with what was in its fd store (tests/tools/fdstore_manager.c); every
 * stream must come through to the byte.  A place is killed at its first call only; so as many kills again
 * follow at the Nth call of all, N at random.  KVD_TEST_KILLS bounds both, spread evenly. */
#include "tests/lib/scenario.h"
#include "tests/lib/slow.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_STREAMS 4u
#define N_TOKENS 120u
#define N_SITES_MAX 400u
#define POOL "64M"

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "8", NULL };

struct site {
	char place[64];                /* "kvd+0x1234" */
	char function[32];
	bool fired;
};

struct run {
	struct host h;
	char preload[600];
	char *texts[N_STREAMS];
	struct host_job alone[N_STREAMS];
	struct site sites[N_SITES_MAX];
	unsigned n_sites, n_calls;
};

static void open_run(struct run *r)
{
	static char manager[600], program[600];
	char *argv[] = { manager, NULL, program, (char *)"--pool", (char *)POOL, (char *)"--socket", NULL,
			 (char *)"--log-level", (char *)"warn", NULL };

	memset(r, 0, sizeof(*r));
	/* A kvd that makes the directory, and gives its place to the manager. */
	host_start(&r->h, POOL, NULL);
	host_kill(&r->h.kvd, SIGTERM);
	snprintf(manager, sizeof(manager), "%.500s/../tests/fdstore_manager", r->h.bin);
	snprintf(r->preload, sizeof(r->preload), "%.500s/../tests/nth_failure.so", r->h.bin);
	snprintf(program, sizeof(program), "%.500s/kvd", r->h.bin);
	argv[1] = argv[6] = r->h.socket;
	ck_assert_msg(access(manager, X_OK) == 0 && access(r->preload, R_OK) == 0, "make tools first");
	host_child_spawn(&r->h, &r->h.kvd, "kvd", argv);
	for (unsigned i = 0; i < 1000u * test_slow() && access(r->h.socket, F_OK) < 0; i++)
		usleep(10000);
	host_engine(&r->h, "stays", host_model_bundled(), engine_args);
	for (unsigned i = 0; i < N_STREAMS; i++) {
		r->texts[i] = scenario_text(80 + i, 15 + 25 * i);
		r->alone[i] = scenario_alone(&r->h, "red", "stays", r->texts[i], N_TOKENS);
		ck_assert_msg(r->alone[i].status == 0, "%s", r->alone[i].error);
	}
	host_populated(&r->h);
}

static void close_run(struct run *r)
{
	host_stop(&r->h);
	for (unsigned i = 0; i < N_STREAMS; i++)
		free(r->texts[i]);
	host_jobs_free(r->alone, N_STREAMS);
}

/* Another kvd takes over, with these lines as its environment. */
static void restart_armed(struct run *r, const char *format, const char *a, const char *b)
{
	char path[160], temporary[170];
	FILE *file;

	snprintf(path, sizeof(path), "%s.arm", r->h.socket);
	snprintf(temporary, sizeof(temporary), "%s.new", path);
	file = fopen(temporary, "we");
	ck_assert_ptr_nonnull(file);
	fprintf(file, "LD_PRELOAD=%s\nNTH_PROGRAM=kvd\n", r->preload);
	fprintf(file, format, a, b);
	fclose(file);
	ck_assert_int_eq(rename(temporary, path), 0);
	ck_assert_int_eq(kill(r->h.kvd.pid, SIGUSR2), 0);
	for (unsigned i = 0; i < 1000u * test_slow() && access(path, F_OK) == 0; i++)
		usleep(5000);
	ck_assert_int_lt(access(path, F_OK), 0);
}

/* An engine comes, streams run in both, the engine goes. */
static void exercise(struct run *r, const char *where)
{
	struct host_job jobs[N_STREAMS];
	struct host_child *guest = host_engine(&r->h, "guest", host_model_bundled(), engine_args);

	for (unsigned i = 0; i < N_STREAMS; i++)
		scenario_job(&jobs[i], i % 2 ? "red" : "green", i % 2 ? "stays" : "guest", r->texts[i], N_TOKENS);
	(void)host_run(&r->h, jobs, N_STREAMS, NULL, NULL);
	for (unsigned i = 0; i < N_STREAMS; i++) {
		ck_assert_msg(jobs[i].status == 0, "killed at %s: stream %u failed: %s", where, i, jobs[i].error);
		ck_assert_msg(jobs[i].n_ids == r->alone[i].n_ids &&
				      !memcmp(jobs[i].ids, r->alone[i].ids, jobs[i].n_ids * sizeof(*jobs[i].ids)),
			      "killed at %s: stream %u changed", where, i);
	}
	host_jobs_free(jobs, N_STREAMS);
	host_kill(guest, SIGTERM);
}

/* Lines "NUMBER FUNCTION MODULE+0xOFFSET": those of kvd's own code, each once. */
static void read_sites(struct run *r, const char *path)
{
	char line[256];
	FILE *file = fopen(path, "re");

	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file)) {
		struct site site = { 0 };
		bool known = false;

		if (sscanf(line, "%u %31s %63s", &r->n_calls, site.function, site.place) != 3 ||
		    strncmp(site.place, "kvd+", 4))
			continue;
		for (unsigned i = 0; i < r->n_sites && !known; i++)
			known = !strcmp(r->sites[i].place, site.place);
		if (!known && r->n_sites < N_SITES_MAX)
			r->sites[r->n_sites++] = site;
	}
	fclose(file);
}

static void print_histogram(const struct run *r, unsigned tried, unsigned fired)
{
	printf("%u of %u places tried, killed at %u:", tried, r->n_sites, fired);
	for (unsigned i = 0; i < r->n_sites; i++) {
		unsigned n = 0;
		bool first = r->sites[i].fired;

		for (unsigned j = 0; j < r->n_sites; j++) {
			if (!r->sites[j].fired || strcmp(r->sites[j].function, r->sites[i].function))
				continue;
			n++;
			first &= j >= i;
		}
		if (first)
			printf(" %s %u", r->sites[i].function, n);
	}
	putchar('\n');
}

/* The kvd that is armed lives or dies; whatever it did, one that has taken everything over serves now. */
static bool killed_and_well(struct run *r, const char *where, const char *mark)
{
	struct kvd_row_status status = { 0 };
	bool killed;

	exercise(r, where);
	for (unsigned i = 0; i < 500u * test_slow() && !status.adopted; i++) {
		host_status(&r->h, &status);
		usleep(status.adopted ? 0 : 10000);
	}
	ck_assert_msg(status.adopted, "killed at %s: not taken over", where);
	host_settle(&r->h);
	killed = access(mark, F_OK) == 0;
	(void)unlink(mark);
	return killed;
}

START_TEST(killed_before_each_call)
{
	const char *wanted = getenv("KVD_TEST_KILLS");
	unsigned n_wanted = wanted && *wanted ? (unsigned)atoi(wanted) : 200, fired = 0, tried = 0, later = 0;
	char trace[160], mark[160], where[32];
	uint64_t seed = 5;
	struct run r;

	open_run(&r);
	snprintf(trace, sizeof(trace), "%s.trace", r.h.socket);
	snprintf(mark, sizeof(mark), "%s.fired", r.h.socket);
	restart_armed(&r, "NTH_TRACE=%s\n%s", trace, "");
	exercise(&r, "nothing");
	read_sites(&r, trace);
	ck_assert_uint_gt(r.n_sites, 30);
	for (unsigned k = 0; k < n_wanted && k < r.n_sites; k++, tried++) {
		struct site *site = &r.sites[n_wanted < r.n_sites ? k * r.n_sites / n_wanted : k];

		restart_armed(&r, "NTH_KILL=1\nNTH_SITE=%s\nNTH_FIRED=%s\n", site->place, mark);
		site->fired = killed_and_well(&r, site->place, mark);
		fired += site->fired;
	}
	for (unsigned k = 0; k < tried; k++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		snprintf(where, sizeof(where), "%u", 1 + (unsigned)((seed >> 33) % r.n_calls));
		restart_armed(&r, "NTH_KILL=1\nNTH_CALL=%s\nNTH_FIRED=%s\n", where, mark);
		later += killed_and_well(&r, where, mark);
	}
	print_histogram(&r, tried, fired);
	printf("%u calls in all, %u tried, killed at %u\n", r.n_calls, tried, later);
	ck_assert_uint_ge(fired * 10, tried * 5);
	(void)unlink(trace);
	close_run(&r);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = { SCENARIO(killed_before_each_call) };

#ifdef __SANITIZE_ADDRESS__
	printf("skipped: a sanitizer's run time takes the place of the killing calls\n");
	return 0;
#endif
	return scenario_run("adopt_calls", tests, 1, 900);
}
