/* test_nth_driver.c - one call to the CUDA driver fails, in kvd, kvd-mover or kvengine, then everything works again.
 *
 * On the double (tests/fakecuda).  An untouched run tells which functions each program calls; then each of them
 * fails once, its first call, with OUT_OF_MEMORY, and then with an error of the device that stays (700).
 * Whatever it hits: the program says so in a sentence and exits with a status of its own, or goes on; the
 * next prompt, by another engine process if that one has ended, gives the same text as ever; and in the
 * end no process holds a byte of the device, kvd has no descriptor more, what ends in order has given
 * everything back, and nobody has broken the driver's contract.
 *
 * As many as fit into KVD_NTH_SECONDS (8) a program; KVD_NTH_ALL=1: all, and every call besides the first ones
 * up to the tenth.  KVD_NTH_ONE=FUNCTION:N:CODE tries one and shows the logs. */
#include "tests/lib/scenario.h"

#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/device.h"
#include "tests/lib/slow.h"

enum { FUNCTIONS_MAX = 120, START_USEC = 20000000, OUT_OF_MEMORY = 2, ILLEGAL_ADDRESS = 700 };

static struct host h;
static char (*functions)[64];
static unsigned calls[FUNCTIONS_MAX];
static unsigned n_functions, failures, refusals, n_runs, n_fired;
static unsigned fds_before;
static char what[120], *answer;
static const char *program;
static jmp_buf given_up;
static volatile bool may_give_up;

static void show(const struct host_child *child)
{
	char line[400];
	FILE *f = child->log[0] ? fopen(child->log, "r") : NULL;

	while (f && fgets(line, sizeof(line), f))
		fprintf(stderr, "    %s| %s", child->name, line);
	if (f)
		fclose(f);
}

static void complain(const char *sentence)
{
	char *log = device_log();

	fprintf(stderr, "%s, %s: %s\n", program, what, sentence);
	show(&h.kvd);
	show(&h.engines[0]);
	fprintf(stderr, "%s", log);
	free(log);
	failures++;
}

/* host_fail while something is asked on behalf of the programs. */
static void give_up(const char *sentence)
{
	if (!may_give_up)
		ck_abort_msg("%s", sentence);
	fprintf(stderr, "%s\n", sentence);
	longjmp(given_up, 1);
}

static bool ended(struct host_child *child, uint64_t usec, int *ret_status)
{
	for (uint64_t end = host_now_usec() + usec; child->pid; usleep(2000)) {
		if (waitpid(child->pid, ret_status, WNOHANG) == child->pid)
			child->pid = 0;
		else if (host_now_usec() >= end)
			return false;
	}
	return true;
}

/* It has ended by itself: with a status, and a sentence. */
static void judge_refusal(struct host_child *child, int status)
{
	char text[4096] = "";
	FILE *f = fopen(child->log, "r");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;

	if (f)
		fclose(f);
	refusals++;
	if (!WIFEXITED(status))
		complain("it was ended by a signal");
	else if (WEXITSTATUS(status) == 0 || n < 10)
		complain("it ended without a word, or as if all were well");
	else if (strstr(text, "Success"))
		complain("it names an error that is none");
}

static void stop(struct host_child *child)
{
	int status = 0;

	if (!child->pid)
		return;
	kill(child->pid, SIGTERM);
	if (!ended(child, START_USEC * test_slow(), &status)) {
		complain("it does not end on SIGTERM");
		kill(child->pid, SIGKILL);
		ended(child, START_USEC, &status);
	} else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		complain("it does not end well on SIGTERM");
	}
}

static void spawn(struct host_child *child, const char *name, const char *const *arguments)
{
	char path[600];
	char *argv[24] = { path };
	unsigned n = 1;

	snprintf(path, sizeof(path), "%s/%s", h.bin, name);
	for (; arguments[n - 1]; n++)
		argv[n] = (char *)arguments[n - 1];
	argv[n] = NULL;
	unlink(child->log);
	host_child_spawn(&h, child, name, argv);
}

static bool kvd_answers(void)
{
	int status;

	for (uint64_t end = host_now_usec() + START_USEC * test_slow();; usleep(5000)) {
		struct kvd_connection *c = NULL;
		int r = kvd_connect(h.socket, "tests", NULL, &c);

		kvd_close(c);
		if (r == 0)
			return true;
		if (ended(&h.kvd, 0, &status)) {
			judge_refusal(&h.kvd, status);
			return false;
		}
		if (host_now_usec() > end) {
			complain("kvd neither answers nor ends");
			host_kill(&h.kvd, SIGKILL);
			return false;
		}
	}
}

static bool engine_attached(void)
{
	int status;

	for (uint64_t end = host_now_usec() + START_USEC * test_slow();; usleep(5000)) {
		struct kvd_row_status s;

		host_status(&h, &s);
		if (s.engines)
			return true;
		if (ended(&h.engines[0], 0, &status)) {
			judge_refusal(&h.engines[0], status);
			return false;
		}
		if (host_now_usec() > end) {
			complain("kvengine neither attaches nor ends");
			host_kill(&h.engines[0], SIGKILL);
			return false;
		}
	}
}

/* The prompt is answered, as it always was. */
static bool serve(void)
{
	struct host_job job;
	bool served;

	scenario_job(&job, NULL, "e1", "The capital of France", 6);
	host_run(&h, &job, 1, NULL, NULL);
	served = job.status == 0;
	if (served && !answer)
		answer = strdup(job.answer);
	if (served && strcmp(job.answer, answer)) {
		fprintf(stderr, "'%s' instead of '%s'\n", job.answer, answer);
		complain("the answer is another one");
	}
	host_jobs_free(&job, 1);
	return served;
}

/* Engines come, one after the other if they must, until one has answered twice. */
static void serve_to_the_end(void)
{
	const char *const arguments[] = { "--socket", h.socket, "--name", "e1", "--model", host_model_bundled(),
					  "--device", "cuda", "--threads", "1", "--ctx", "256", NULL };
	unsigned served = 0;

	for (int tries = 0; served < 2 && tries < 5 && h.kvd.pid; tries++) {
		int status = 0;

		if (ended(&h.engines[0], 0, &status)) {
			spawn(&h.engines[0], "kvengine", arguments);
			h.n_engines = 1;
			if (!engine_attached())
				continue;
		}
		served += serve();
		if (h.engines[0].pid && ended(&h.engines[0], served ? 0 : 300000, &status))
			judge_refusal(&h.engines[0], status);
	}
	if (served < 2)
		complain("no engine answers any more");
}

/* Bytes of the device in use, as the double of NVML sees them. */
static unsigned long long device_bytes(void)
{
	static int (*by_bus)(const char *, void **), (*memory)(void *, unsigned long long *);
	unsigned long long info[3] = { 0 };
	void *device, *library = dlopen(getenv("KVD_LIBNVML"), RTLD_NOW | RTLD_LOCAL);

	ck_assert_msg(library != NULL, "%s", dlerror());
	if (!by_bus) {
		int (*init)(void);

		*(void **)&init = dlsym(library, "nvmlInit_v2");
		*(void **)&by_bus = dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2");
		*(void **)&memory = dlsym(library, "nvmlDeviceGetMemoryInfo");
		ck_assert_int_eq(init(), 0);
	}
	ck_assert_int_eq(by_bus("0000:01:00.0", &device), 0);
	ck_assert_int_eq(memory(device, info), 0);
	return info[2];
}

static void settle(void)
{
	volatile bool settled = false;

	may_give_up = true;
	if (setjmp(given_up) == 0) {
		host_settle(&h);
		settled = true;
	}
	may_give_up = false;
	if (!settled)
		complain("the daemon does not settle (above)");
}

/* A mover gives nothing back: it is there to be killed.  kvd and engines do. */
static unsigned count_left(void)
{
	char *log = device_log();
	unsigned n = 0;

	for (const char *line = log; (line = strstr(line, "left ")); line++)
		n += (line == log || line[-1] == '\n') && strncmp(strchrnul(line + 5, ' '), " kvd-mover:", 11) != 0;
	free(log);
	return n;
}

static void judge_end(unsigned breaches, unsigned left)
{
	unsigned long long bytes = 0;

	/* Of a mover that was killed with its kvd the memory goes a moment later. */
	for (int i = 0; i < 200; i++, usleep(10000)) {
		bytes = device_bytes();
		if (bytes == 0)
			break;
	}
	if (bytes)
		complain("somebody still holds memory of the device");
	if (device_log_count("breach") != breaches)
		complain("the driver's contract was broken");
	if (count_left() != left)
		complain("a process that ended in order left something open");
}

static void run(const char *fail)
{
	const char *const arguments[] = { "--device", "cuda", "--pool", "16M", "--extent", "4M", "--socket", h.socket,
					  NULL };
	unsigned breaches = device_log_count("breach"), left = count_left(), fds = 0;

	n_runs++;
	snprintf(what, sizeof(what), "%s", fail ? fail : "untouched");
	setenv("FAKECUDA_FAIL_PROGRAM", program, 1);
	device_rearm();
	if (fail)
		setenv("FAKECUDA_FAIL", fail, 1);
	unlink(h.engines[0].log);
	spawn(&h.kvd, "kvd", arguments);
	if (kvd_answers()) {
		serve_to_the_end();
		stop(&h.engines[0]);
		if (h.kvd.pid)
			settle();
		for (int i = 0; h.kvd.pid && i < 100; i++, usleep(10000)) {
			fds = host_proc_fds(h.kvd.pid);
			if (fds_before && fds <= fds_before)
				break;
			if (!fds_before && i > 20)
				break;
		}
		if (!fail)
			fds_before = fds;
		else if (fds > fds_before)
			complain("kvd keeps a descriptor");
		stop(&h.kvd);
	}
	unsetenv("FAKECUDA_FAIL");
	n_fired += fail && device_has_fired();
	unlink(h.socket);
	judge_end(breaches, left);
	if (fail && getenv("KVD_NTH_ONE"))
		complain("(these are the logs)");
}

/* What the program calls in an untouched run. */
static void trace(void)
{
	char path[200], line[100], name[64];
	unsigned i;
	FILE *f;

	snprintf(path, sizeof(path), "%s/trace", h.dir);
	setenv("FAKECUDA_TRACE", path, 1);
	run(NULL);
	unsetenv("FAKECUDA_TRACE");
	f = fopen(path, "r");
	ck_assert_msg(f != NULL, "%s made no call to the driver", program);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %63s", name) != 1)
			continue;
		for (i = 0; i < n_functions && strcmp(functions[i], name); i++)
			;
		ck_assert_uint_lt(i, FUNCTIONS_MAX);
		if (i == n_functions)
			strcpy(functions[n_functions++], name);
		calls[i]++;
	}
	fclose(f);
	unlink(path);
}

/* The door itself: without it nothing has been said to the driver yet, and its loss is test_cuda_driver's. */
static bool may_fail(const char *name)
{
	return strncmp(name, "cuGetProcAddress", 16) != 0;
}

static void try_all(void)
{
	const char *text = getenv("KVD_NTH_SECONDS"), *one = getenv("KVD_NTH_ONE");
	bool all = getenv("KVD_NTH_ALL") != NULL;
	uint64_t end = host_now_usec() + (text ? strtoull(text, NULL, 10) : 8) * 1000000;
	unsigned tried = 0;
	char fail[100];

	if (one) {
		run(one);
		return;
	}
	/* Each function with either error, in a stride that visits all, so that a short run sees all parts. */
	unsigned n_pairs = 2 * n_functions, stride = n_pairs * 5 / 8 | 1;

	while (n_pairs % stride == 0 || (n_pairs % 3 == 0 && stride % 3 == 0) || (n_pairs % 7 == 0 && stride % 7 == 0))
		stride += 2;
	for (unsigned k = 0; k < n_pairs && (all || host_now_usec() < end); k++) {
		unsigned pair = (unsigned)((uint64_t)k * stride % n_pairs), i = pair / 2;

		for (unsigned n = 1; may_fail(functions[i]) && n <= calls[i] && n <= (all ? 10 : 1); n++, tried++) {
			snprintf(fail, sizeof(fail), "%s:%u:%u", functions[i], n,
				 pair % 2 ? OUT_OF_MEMORY : ILLEGAL_ADDRESS);
			run(fail);
		}
	}
	printf("%s: %u functions, %u failures tried one at a time, %u came to pass, %u refusals in words, "
	       "%u complaints\n", program, n_functions, tried, n_fired, refusals, failures);
	ck_assert_msg(failures == 0, "%u complaints about %s (above)", failures, program);
}

static void survives(const char *name)
{
	program = name;
	functions = calloc(FUNCTIONS_MAX, sizeof(functions[0]));
	setenv("KVD_TEST_DEVICE", "cuda", 1);
	host_start(&h, "16M", (const char *const[]){ "--extent", "4M", NULL });
	host_kill(&h.kvd, SIGTERM);
	host_fail = give_up;
	snprintf(h.engines[0].name, sizeof(h.engines[0].name), "kvengine");
	trace();
	try_all();
	host_fail = give_up;
	free(answer);
	free(functions);
	host_stop(&h);
}

START_TEST(kvd_survives_any_failing_driver_call)
{
	survives("kvd");
}
END_TEST

START_TEST(mover_survives_any_failing_driver_call)
{
	survives("kvd-mover");
}
END_TEST

START_TEST(kvengine_survives_any_failing_driver_call)
{
	survives("kvengine");
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(kvd_survives_any_failing_driver_call),
		SCENARIO(mover_survives_any_failing_driver_call),
		SCENARIO(kvengine_survives_any_failing_driver_call),
	};

	if (access(host_path("build/lib/libkvd-cuda.so"), R_OK)) {
		printf("skipped: no libkvd-cuda.so (nvcc not found)\n");
		return 0;
	}
	return scenario_run("nth_driver", tests, sizeof(tests) / sizeof(tests[0]),
			    getenv("KVD_NTH_ALL") || getenv("KVD_NTH_SECONDS") ? 7200 : 300);
}
