/* test_cuda_engine.c - kvengine --device cuda with a kvd of the same device, on the double, kernels emulated: the
 * bundled model's tokens are the CPU backend's, an engine's death changes nothing, a lost device is named, and
 * each driver call of the engine fails once: a sentence, exit 1, nothing left behind.  Each test's end asserts that
 * nobody has broken the driver's contract (host_stop(), tests/lib/device.c). */
#include "tests/lib/scenario.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/lib/device.h"

#define N_TOKENS 12
#define PROMPT "kvd owns all pages of a device and hands page tables to engines. An engine asks for the next page when"
#define EVAL_CALLS_STEP 9u         /* every so many'th call of --eval fails, each time another one first */

static const char *const small[] = { "--ctx", "256", "--max-seqs", "4", "--chunk", "40", NULL };

static void use_device(const char *name)
{
	setenv("KVD_TEST_DEVICE", name, 1);
	setenv("FAKECUDA_MEMORY", "512M", 1);
}

static struct host_job one(struct host *h, const char *engine)
{
	return scenario_alone(h, "alone", engine, PROMPT, N_TOKENS);
}

START_TEST(tokens_are_the_cpus)
{
	struct host_job jobs[3];
	struct host h;

	use_device("host");
	host_start(&h, "64M", NULL);
	host_engine(&h, "cpu", host_model_bundled(), small);
	jobs[0] = one(&h, "cpu");
	host_stop(&h);

	use_device("cuda");
	host_start(&h, "64M", NULL);
	host_engine(&h, "a", host_model_bundled(), small);
	host_engine(&h, "b", host_model_bundled(), small);
	jobs[1] = one(&h, "a");
	jobs[2] = one(&h, "b");            /* on pages that a wrote */
	ck_assert_uint_eq(jobs[1].n_ids, N_TOKENS);
	ck_assert_mem_eq(jobs[1].ids, jobs[0].ids, N_TOKENS * sizeof(int32_t));
	ck_assert_msg(host_jobs_equal(&jobs[1], &jobs[2]), "b's bytes are not a's");
	host_settle(&h);
	host_stop(&h);
	host_jobs_free(jobs, 3);
}
END_TEST

static struct host *host_of_kill;

static void kill_server(void *arg, struct host_job *job)
{
	bool *done = arg;

	if (*done || job->n_ids < 4)
		return;
	*done = true;
	for (unsigned i = 0; i < host_of_kill->n_engines; i++)
		if (strcmp(host_of_kill->engines[i].name, job->served_by) == 0)
			host_kill(&host_of_kill->engines[i], SIGKILL);
}

START_TEST(a_killed_engine_changes_no_byte)
{
	struct host_job alone, job;
	bool killed = false;
	struct host h;

	use_device("cuda");
	host_start(&h, "64M", NULL);
	host_of_kill = &h;
	host_engine(&h, "a", host_model_bundled(), small);
	host_engine(&h, "b", host_model_bundled(), small);
	alone = one(&h, "a");
	scenario_job(&job, "other", NULL, PROMPT, N_TOKENS);
	ck_assert_msg(host_run(&h, &job, 1, kill_server, &killed) == 0, "%s", job.error);
	ck_assert(killed);
	ck_assert_int_gt(job.resumed, 0);
	/* a stream that went on elsewhere has no hash of all its logits */
	ck_assert_uint_eq(job.n_ids, alone.n_ids);
	ck_assert_mem_eq(job.ids, alone.ids, alone.n_ids * sizeof(int32_t));
	ck_assert_str_eq(job.answer, alone.answer);
	host_settle(&h);
	host_stop(&h);
	host_jobs_free(&alone, 1);
	host_jobs_free(&job, 1);
}
END_TEST

static void start_second(void *arg, struct host_job *job)
{
	bool *done = arg;

	if (*done)
		return;
	*done = true;
	unsetenv("FAKECUDA_FAIL");
	host_engine(host_of_kill, "b", host_model_bundled(), small);
}

/* An engine whose context is lost ends, with a sentence; its stream goes on where there is one that works. */
START_TEST(a_lost_device_ends_the_engine_alone)
{
	struct host_job alone, job;
	bool started = false;
	struct host h;
	char *log;
	int status = 0;

	use_device("cuda");
	setenv("FAKECUDA_FAIL_PROGRAM", "kvengine", 1);
	host_start(&h, "64M", NULL);
	host_of_kill = &h;
	setenv("FAKECUDA_FAIL", "cuEventSynchronize:9:700", 1);
	struct host_child *a = host_engine(&h, "a", host_model_bundled(), small);
	scenario_job(&job, "other", NULL, PROMPT, N_TOKENS);
	ck_assert_msg(host_run(&h, &job, 1, start_second, &started) == 0, "%s", job.error);
	ck_assert(started);
	ck_assert_int_eq(waitpid(a->pid, &status, 0), a->pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 1, "wait status %#x", status);
	a->pid = 0;
	log = host_read_file(a->log, NULL);
	ck_assert_msg(strstr(log, "the device is lost: "), "%s", log);
	free(log);
	alone = one(&h, "b");
	ck_assert_uint_eq(job.n_ids, alone.n_ids);
	ck_assert_mem_eq(job.ids, alone.ids, alone.n_ids * sizeof(int32_t));
	host_fsck(&h);
	unsetenv("FAKECUDA_FAIL_PROGRAM");
	host_stop(&h);
	host_jobs_free(&alone, 1);
	host_jobs_free(&job, 1);
}
END_TEST

/* Lost for all while it serves: kvd lives and says so, and what ends, ends in words. */
START_TEST(a_device_lost_for_all_is_named)
{
	struct host h;
	struct host_job job;
	struct kvd_row_status status;
	char log[4096] = "", path[200];
	FILE *f;
	bool named = false;

	use_device("cuda");
	host_start(&h, "64M", NULL);
	host_engine(&h, "a", host_model_bundled(), small);
	job = scenario_alone(&h, NULL, "a", PROMPT, 2);
	host_jobs_free(&job, 1);
	device_lose(999);
	scenario_job(&job, NULL, "a", PROMPT, 4);
	host_run(&h, &job, 1, NULL, NULL);
	ck_assert_int_ne(job.status, 0);
	ck_assert_uint_gt(strlen(job.error), 10);
	host_jobs_free(&job, 1);
	host_status(&h, &status);
	snprintf(path, sizeof(path), "%s", h.engines[0].log);
	for (int i = 0; i < 200 && !named; i++, usleep(50000)) {
		f = fopen(path, "r");
		ck_assert_ptr_nonnull(f);
		log[fread(log, 1, sizeof(log) - 1, f)] = '\0';
		fclose(f);
		named = strstr(log, "device") != NULL || strstr(log, "CUDA") != NULL || strstr(log, "UNKNOWN") != NULL;
	}
	ck_assert_msg(named, "the engine does not name the device: %s", log);
	host_kill(&h.engines[0], SIGKILL);
	host_kill(&h.kvd, SIGKILL);
	ck_assert_uint_eq(device_log_count("breach"), 0);
}
END_TEST

/* kvengine --eval; returns its exit status. */
static int eval(const char *text, const char *out)
{
	char command[1400];

	snprintf(command, sizeof(command), "%s --eval %s --device cuda --text %s >%s 2>&1",
		 host_path("build/bin/kvengine"), host_model_bundled(), text, out);
	int status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

START_TEST(each_call_fails_once)
{
	char text[] = "/tmp/kvd-engine-text.XXXXXX", out[64], trace[64], fail[32];
	unsigned n_calls = 0, n_failed = 0;
	int fd = mkstemp(text), c;
	FILE *f;

	ck_assert_int_eq(write(fd, "pages", 5), 5);
	close(fd);
	snprintf(out, sizeof(out), "%s.out", text);
	snprintf(trace, sizeof(trace), "%s.trace", text);
	use_device("cuda");
	device_begin();
	setenv("FAKECUDA_TRACE", trace, 1);
	ck_assert_int_eq(eval(text, out), 0);
	unsetenv("FAKECUDA_TRACE");
	f = fopen(trace, "r");
	ck_assert_ptr_nonnull(f);
	while ((c = getc(f)) != EOF)
		n_calls += c == '\n';
	fclose(f);
	ck_assert_uint_gt(n_calls, 100);
	for (unsigned n = 1; n <= n_calls; n += EVAL_CALLS_STEP) {
		char line[700] = "";
		snprintf(fail, sizeof(fail), "*:%u:2", n);
		setenv("FAKECUDA_FAIL", fail, 1);
		device_rearm();
		int status = eval(text, out);
		f = fopen(out, "r");
		ck_assert(f && fgets(line, sizeof(line), f));
		fclose(f);
		/* what only gives back may fail without a word */
		ck_assert_msg(status == 0 || (status == 1 && strncmp(line, "kvengine: ", 10) == 0),
			      "call %u: status %d: %s", n, status, line);
		n_failed += status == 1;
	}
	unsetenv("FAKECUDA_FAIL");
	printf("%u driver calls, %u failed one by one, %u of them told\n", n_calls,
	       (n_calls + EVAL_CALLS_STEP - 1) / EVAL_CALLS_STEP, n_failed);
	ck_assert_uint_gt(n_failed, 10);
	device_end();
	unlink(text);
	unlink(out);
	unlink(trace);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = { SCENARIO(tokens_are_the_cpus),
					       SCENARIO(a_killed_engine_changes_no_byte),
					       SCENARIO(a_lost_device_ends_the_engine_alone),
					       SCENARIO(a_device_lost_for_all_is_named),
					       SCENARIO(each_call_fails_once) };

	if (access(host_path("build/lib/libkvd-cuda.so"), R_OK) != 0) {
		printf("skipped: no CUDA device: the GPU's backend is not built (no nvcc)\n");
		return 0;
	}
	/* on a device only what needs no planted failure */
	bool real = getenv("KVD_TEST_DRIVER") != NULL;
	if (real)
		printf("skipped: failures of the driver are planted by its double only\n");
	return scenario_run("fakecuda_engine", tests, real ? 2 : sizeof(tests) / sizeof(tests[0]), 240);
}
