/* test_nth_failure.c - one allocation or system call of a process fails, then everything works again.
 *
 * A preloaded library (tests/preload/nth_failure.c) counts the calls of the program under test and fails
 * one.  Whatever it hits: the program says so in a sentence and exits with a status of its own, or it
 * goes on, and then the next client must be served as if nothing had happened: no descriptor more
 * than after an untouched run, no process and no socket left, a clean fsck.
 *
 *   kvd       starts, serves an engine and a client of docs/examples twice, stops
 *   kvengine  attaches to a kvd, answers two prompts (the second one's text must be right), stops
 *   kvctl, kvrun   ask once
 *
 * First each call site's first call fails, as many sites as fit into KVD_NTH_SECONDS (12) a program.  With
 * KVD_NTH_ALL=1: all sites, then the Nth call for N = 1, 2, ... until a run passes untouched.
 * KVD_NTH_ONE=SITE|N tries one and shows the log. */
#include "tests/lib/scenario.h"

#include <ctype.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/device.h"
#include "tests/lib/slow.h"

enum { SITES_MAX = 1000, START_USEC = 20000000, STEP_USEC = 10000 };

struct program {
	const char *name;
	/* Run it once with the environment as it is, judge it by judge(). */
	void (*run)(struct program *p);
	struct host h;                 /* the daemon around it; of `kvd` itself: none until run */
	struct host_child child;       /* the program under test */
	unsigned fds;                  /* of an untouched run, after both clients */
	char *answer;                  /* kvengine: the right text */
	bool untouched;                /* this run has no failure in it */
	char what[160];                /* "call 12" or "site ..", for sentences */
	char fired[160], preload[600];
	unsigned runs, survived, failures;
};

static char (*sites)[96];

static void sleep_a_little(void)
{
	usleep(STEP_USEC);
}

static void complain(struct program *p, const char *sentence)
{
	char fired[200] = "nothing yet", line[512];
	FILE *f = fopen(p->fired, "r");

	if (f) {
		if (fgets(fired, sizeof(fired), f))
			fired[strcspn(fired, "\n")] = '\0';
		fclose(f);
	}
	fprintf(stderr, "%s, %s (%s): %s\n", p->name, p->what, fired, sentence);
	f = fopen(p->child.log, "r");
	while (f && fgets(line, sizeof(line), f))
		fprintf(stderr, "    | %s", line);
	if (f)
		fclose(f);
	p->failures++;
}

static void preload_on(struct program *p, const char *variable, const char *value)
{
	setenv("LD_PRELOAD", p->preload, 1);
	setenv("NTH_PROGRAM", p->name, 1);
	setenv("NTH_FIRED", p->fired, 1);
	if (variable)
		setenv(variable, value, 1);
}

static void preload_off(void)
{
	unsetenv("LD_PRELOAD");
	unsetenv("NTH_PROGRAM");
	unsetenv("NTH_FIRED");
}

/* Wait for the end of a child; false: it lives on after the time. */
static bool ended(struct host_child *child, uint64_t usec, int *ret_status)
{
	for (uint64_t end = host_now_usec() + usec; child->pid;) {
		if (waitpid(child->pid, ret_status, WNOHANG) == child->pid) {
			child->pid = 0;
			return true;
		}
		if (host_now_usec() >= end)
			return false;
		usleep(2000);
	}
	return true;
}

/* This process is a subreaper: what the program leaves behind becomes its child. */
static void expect_no_children(struct program *p)
{
	pid_t known = p->h.kvd.pid;

	for (uint64_t end = host_now_usec() + 3000000;;) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid < 0 && errno == ECHILD)
			return;
		if (pid == known && known) {
			complain(p, "the kvd beside it has ended");
			p->h.kvd.pid = 0;
			return;
		}
		if (pid == 0 && (known || host_now_usec() > end)) {
			if (!known)
				complain(p, "it left a process behind");
			return;
		}
		if (pid == 0)
			usleep(2000);
	}
}

static bool has_fired(const struct program *p)
{
	return access(p->fired, F_OK) == 0;
}

/* A refusal: some status of its own, and on stderr a sentence that names the error. */
static void judge_refusal(struct program *p, int status)
{
	char text[4096] = "";
	FILE *f = fopen(p->child.log, "r");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;

	if (f)
		fclose(f);
	text[n] = '\0';
	if (!WIFEXITED(status)) {
		complain(p, "it was ended by a signal");
		return;
	}
	/* 127: the loader could not load it, and says so */
	if (WEXITSTATUS(status) == 0 && p->untouched)
		return;
	if (strstr(text, "Success") || strstr(text, "rror 0"))
		complain(p, "it names an error that is none");
	else if (WEXITSTATUS(status) != 0 && n < 10)
		complain(p, "it exits without a word");
	else if (WEXITSTATUS(status) != 0 && p->untouched)
		complain(p, "it fails though nothing failed");
}

static void stop_child(struct program *p, int expected)
{
	int status = 0;

	if (!p->child.pid)
		return;
	kill(p->child.pid, SIGTERM);
	if (!ended(&p->child, START_USEC * test_slow(), &status)) {
		complain(p, "it does not end on SIGTERM");
		kill(p->child.pid, SIGKILL);
		ended(&p->child, START_USEC, &status);
	} else if (!WIFEXITED(status) || WEXITSTATUS(status) != expected) {
		complain(p, "it does not end well on SIGTERM");
	}
}

/* ---- kvd ---- */

static void beside(const char *name, char *ret, size_t max)
{
	char self[512];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	ck_assert_int_gt(n, 0);
	self[n] = '\0';
	*strrchr(self, '/') = '\0';
	ck_assert_int_lt(snprintf(ret, max, "%s/%s", self, name), (int)max);
}

/* An engine and a client of docs/examples; true: the client was served. */
static bool serve_one(struct program *p)
{
	char engine[600], client[600], line[1500];
	struct host_child child = { 0 };
	char *argv[] = { engine, p->h.socket, NULL };
	int status = -1, served;

	beside("example_engine", engine, sizeof(engine));
	beside("example_client", client, sizeof(client));
	host_child_spawn(&p->h, &child, "example_engine", argv);
	snprintf(line, sizeof(line), "KVD_SOCKET=%s timeout 20 %s hello sevens >%s/client 2>&1",
		 p->h.socket, client, p->h.dir);
	served = system(line);
	if (!ended(&child, served == 0 ? 10000000 : 500000, &status)) {
		kill(child.pid, SIGKILL);
		ended(&child, 5000000, &status);
		status = -1;
	}
	return served == 0 && status == 0;
}

/* It answers, or it has ended (*ret_status). */
static bool kvd_ready(struct program *p, int *ret_status)
{
	for (uint64_t end = host_now_usec() + START_USEC * test_slow();;) {
		struct kvd_connection *c = NULL;
		int r = kvd_connect(p->h.socket, "tests", NULL, &c);

		kvd_close(c);
		if (r == 0)
			return true;
		if (ended(&p->child, 0, ret_status))
			return false;
		if (host_now_usec() > end) {
			complain(p, "it neither answers nor ends");
			kill(p->child.pid, SIGKILL);
			ended(&p->child, START_USEC, ret_status);
			*ret_status = 1 << 8;
			return false;
		}
		sleep_a_little();
	}
}

/* Descriptors of the daemon, once the clients' are closed. */
static unsigned settled_fds(struct program *p, unsigned want)
{
	unsigned n = 0;

	for (int i = 0; i < 100; i++) {
		n = host_proc_fds(p->child.pid);
		if (want ? n <= want : i > 20)
			break;
		usleep(20000);
	}
	return n;
}

static jmp_buf given_up;
static volatile bool may_give_up;

/* host_fail: a complaint while something is asked on behalf of the program, else the test's end. */
static void give_up(const char *sentence)
{
	if (!may_give_up)
		ck_abort_msg("%s", sentence);
	fprintf(stderr, "%s\n", sentence);
	longjmp(given_up, 1);
}

/* The daemon has come to rest, and its book is in order.  The question itself may meet the failure, once. */
static void expect_settled(struct program *p)
{
	volatile bool again = !has_fired(p);

	may_give_up = true;
	if (setjmp(given_up) == 0)
		host_settle(&p->h);
	else if (!again)
		complain(p, "the daemon does not settle (above)");
	if (again && setjmp(given_up) == 0)
		host_settle(&p->h);
	else if (again)
		complain(p, "the daemon does not settle (above)");
	may_give_up = false;
}

static void run_kvd(struct program *p)
{
	char path[600];
	char *argv[] = { path, "--device", (char *)device_name(), "--pool", "16M", "--extent", "4M",
			 "--socket", p->h.socket, NULL };
	int status = 0;

	snprintf(path, sizeof(path), "%s/kvd", p->h.bin);
	host_child_spawn(&p->h, &p->child, "kvd", argv);
	preload_off();
	if (!kvd_ready(p, &status)) {
		judge_refusal(p, status);
	} else {
		bool served = false, before = true;

		p->survived++;
		/* whoever comes after the failure is served; two in any case */
		for (int i = 0; p->child.pid && (i < 2 || !served) && (i < 2 || !before); i++) {
			before = has_fired(p);
			served = serve_one(p);
			ended(&p->child, 0, &status);
		}
		if (!p->child.pid) {
			complain(p, "it has ended under a client");
		} else if (!served) {
			complain(p, "a client after the failure is not served");
		} else {
			unsigned fds = settled_fds(p, p->fds);

			if (p->untouched)
				p->fds = fds;
			else if (fds > p->fds)
				complain(p, "it keeps a descriptor");
			expect_settled(p);
		}
		stop_child(p, 0);
	}
	if (access(p->h.socket, F_OK) == 0)
		complain(p, "it leaves its socket");
	unlink(p->h.socket);
	expect_no_children(p);
}

/* ---- kvengine ---- */

static bool engine_ready(struct program *p, int *ret_status)
{
	for (uint64_t end = host_now_usec() + START_USEC * test_slow();;) {
		struct kvd_row_status s;

		host_status(&p->h, &s);
		if (s.engines)
			return true;
		if (ended(&p->child, 0, ret_status))
			return false;
		if (host_now_usec() > end) {
			complain(p, "it neither attaches nor ends");
			kill(p->child.pid, SIGKILL);
			ended(&p->child, START_USEC, ret_status);
			*ret_status = 1 << 8;
			return false;
		}
		sleep_a_little();
	}
}

static void run_kvengine(struct program *p)
{
	char path[600];
	char *argv[] = { path, "--socket", p->h.socket, "--name", "e1", "--model",
			 (char *)host_model_bundled(), "--threads", "1", "--ctx", "256", NULL };
	struct kvd_row_status s;
	int status = 0;

	snprintf(path, sizeof(path), "%s/kvengine", p->h.bin);
	host_child_spawn(&p->h, &p->child, "kvengine", argv);
	preload_off();
	if (!engine_ready(p, &status)) {
		judge_refusal(p, status);
	} else {
		p->survived++;
		for (int i = 0; i < 3 && !ended(&p->child, 0, &status); i++) {
			bool before = has_fired(p);
			struct host_job job;

			scenario_job(&job, NULL, "e1", "The capital of France", 8);
			host_run(&p->h, &job, 1, NULL, NULL);
			if (job.status && before)
				complain(p, job.error[0] ? job.error : "a prompt after the failure fails");
			else if (!job.status && p->untouched && !p->answer)
				p->answer = strdup(job.answer);
			else if (!job.status && strcmp(job.answer, p->answer))
				complain(p, "the answer is another one");
			host_jobs_free(&job, 1);
		}
		/* it may give up, in words; its clients' streams go to another engine */
		if (!p->child.pid)
			judge_refusal(p, status);
		stop_child(p, 0);
	}
	for (int i = 0; i < 500; i++) {
		host_status(&p->h, &s);
		if (!s.engines)
			break;
		sleep_a_little();
	}
	expect_settled(p);
	expect_no_children(p);
}

/* ---- programs that ask once ---- */

static void run_once(struct program *p, char **argv)
{
	int status = 0;

	host_child_spawn(&p->h, &p->child, p->name, argv);
	preload_off();
	if (!ended(&p->child, START_USEC * test_slow(), &status)) {
		complain(p, "it does not end");
		kill(p->child.pid, SIGKILL);
		ended(&p->child, START_USEC, &status);
	} else {
		p->survived += WIFEXITED(status) && WEXITSTATUS(status) == 0;
		judge_refusal(p, status);
		if (WIFEXITED(status) && WEXITSTATUS(status) > 4 && WEXITSTATUS(status) != 127)
			complain(p, "its exit status is none of those it documents");
	}
	expect_settled(p);
	expect_no_children(p);
}

static void run_kvctl(struct program *p)
{
	char path[600];
	char *argv[] = { path, "--socket", p->h.socket, "status", NULL };

	snprintf(path, sizeof(path), "%s/kvctl", p->h.bin);
	run_once(p, argv);
}

static void run_kvrun(struct program *p)
{
	char path[600];
	char *argv[] = { path, "--socket", p->h.socket, "--max-tokens", "4", "--json", "Hello", NULL };

	snprintf(path, sizeof(path), "%s/kvrun", p->h.bin);
	run_once(p, argv);
}

/* ---- the loop ---- */

/* One run with the variable set; returns whether the failure came to pass. */
static bool try_one(struct program *p, const char *variable, const char *value)
{
	bool fired;

	snprintf(p->what, sizeof(p->what), "%s %s", variable ? variable : "untouched", value ? value : "");
	unlink(p->fired);
	if (p->child.log[0])
		unlink(p->child.log);
	p->untouched = !variable || !strcmp(variable, "NTH_TRACE");
	preload_on(p, variable, value);
	p->runs++;
	p->run(p);
	if (variable)
		unsetenv(variable);
	fired = has_fired(p);
	if (getenv("KVD_NTH_ONE"))
		complain(p, fired ? "(this is its log)" : "(it did not fire; this is its log)");
	return fired;
}

/* The distinct sites of an untouched run, in order of their first call. */
static unsigned trace_sites(struct program *p)
{
	char path[200], line[256], site[96];
	unsigned n = 0;

	snprintf(path, sizeof(path), "%s/trace", p->h.dir);
	try_one(p, "NTH_TRACE", path);
	FILE *f = fopen(path, "r");
	ck_assert_msg(f != NULL, "%s: nothing was counted", p->name);
	while (fgets(line, sizeof(line), f)) {
		unsigned i = 0;

		if (sscanf(line, "%*s %*s %95s", site) != 1)
			continue;
		while (i < n && strcmp(sites[i], site))
			i++;
		if (i == n && n < SITES_MAX)
			snprintf(sites[n++], sizeof(sites[0]), "%s", site);
	}
	fclose(f);
	unlink(path);
	return n;
}

static void run_program(struct program *p)
{
	bool all = getenv("KVD_NTH_ALL") != NULL;
	const char *text = getenv("KVD_NTH_SECONDS"), *one = getenv("KVD_NTH_ONE");
	uint64_t end = host_now_usec() + (text ? strtoull(text, NULL, 10) : 12) * 1000000;
	unsigned n_sites, tried = 0, calls = 0;
	char value[32];

	n_sites = trace_sites(p);
	/* A stride that visits every site, so that a short run still sees all parts of the program. */
	unsigned stride = n_sites * 5 / 8 | 1;
	while (n_sites % stride == 0 || (n_sites % 3 == 0 && stride % 3 == 0))
		stride += 2;
	if (one)
		try_one(p, isdigit((unsigned char)one[0]) ? "NTH_CALL" : "NTH_SITE", one);
	for (unsigned i = 0; !one && i < n_sites && (all || host_now_usec() < end); i++, tried++)
		try_one(p, "NTH_SITE", sites[(uint64_t)i * stride % n_sites]);
	if (all && !one)
		do
			snprintf(value, sizeof(value), "%u", ++calls);
		while (try_one(p, "NTH_CALL", value));
	printf("%s: %u of %u call sites and %u calls failed once, one at a time; it went on in %u of %u runs, "
	       "%u complaints\n", p->name, tried, n_sites, calls ? calls - 1 : 0, p->survived, p->runs,
	       p->failures);
	ck_assert_msg(one || p->failures == 0, "%u complaints about %s (above)", p->failures, p->name);
}

static void begin(struct program *p, bool needs_kvd, bool needs_engine)
{
	ck_assert_int_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	sites = calloc(SITES_MAX, sizeof(sites[0]));
	host_start(&p->h, "16M", needs_kvd ? NULL : (const char *const[]){ "--extent", "4M", NULL });
	if (needs_engine)
		host_engine(&p->h, "e1", host_model_bundled(),
			    (const char *const[]){ "--threads", "1", "--ctx", "256", NULL });
	if (!needs_kvd)
		host_kill(&p->h.kvd, SIGTERM);
	beside("nth_failure.so", p->preload, sizeof(p->preload));
	snprintf(p->fired, sizeof(p->fired), "%s/fired", p->h.dir);
	host_fail = give_up;
}

static void finish(struct program *p)
{
	unlink(p->fired);
	free(p->answer);
	free(sites);
	host_stop(&p->h);
}

static bool preload_works(void)
{
	if (!getenv("KVD_TEST_SLOW"))
		return true;
	printf("skipped: a sanitizer's run time takes the place of the failing calls\n");
	return false;
}

static void survives(const char *name, void (*run)(struct program *p), bool needs_kvd, bool needs_engine)
{
	struct program p = { .name = name, .run = run };

	if (!preload_works())
		return;
	begin(&p, needs_kvd, needs_engine);
	run_program(&p);
	finish(&p);
}

START_TEST(kvd_survives_any_failing_call)
{
	survives("kvd", run_kvd, false, false);
}
END_TEST

START_TEST(kvengine_survives_any_failing_call)
{
	survives("kvengine", run_kvengine, true, false);
}
END_TEST

START_TEST(kvctl_survives_any_failing_call)
{
	survives("kvctl", run_kvctl, true, false);
}
END_TEST

START_TEST(kvrun_survives_any_failing_call)
{
	survives("kvrun", run_kvrun, true, true);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(kvd_survives_any_failing_call),
		SCENARIO(kvengine_survives_any_failing_call),
		SCENARIO(kvctl_survives_any_failing_call),
		SCENARIO(kvrun_survives_any_failing_call),
	};

	return scenario_run("nth_failure", tests, sizeof(tests) / sizeof(tests[0]),
			    getenv("KVD_NTH_ALL") ? 7200 : 300);
}
