/* test_cuda_host.c - a whole host on the double of the driver: kvd, its mover and engines with --device cuda, every
 * kernel emulated.  What make check has time for; `make check-cuda` runs the integration tests themselves.
 * Each test's end asserts that nobody has broken the driver's contract (host_stop(), tests/lib/device.c). */
#include "tests/lib/scenario.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/device.h"

static const char *const pool[] = { "--extent", "4M", NULL };
static const char *const small[] = { "--threads", "1", "--ctx", "256", NULL };
static const char prompt[] = "The capital of France";

static struct host_job ask(struct host *h, const char *tenant, const char *engine, uint32_t n_tokens)
{
	struct host_job job = scenario_alone(h, tenant, engine, prompt, n_tokens);

	ck_assert_msg(job.status == 0, "%s", job.error);
	return job;
}

static void begin(struct host *h, const char *device)
{
	setenv("KVD_TEST_DEVICE", device, 1);
	host_start(h, "16M", pool);
	host_engine(h, "a", host_model_bundled(), small);
}

START_TEST(real_prompt_gives_the_cpu_backends_tokens)
{
	struct host h;
	struct host_job cpu, gpu;

	begin(&h, "host");
	cpu = ask(&h, NULL, "a", 8);
	host_stop(&h);
	begin(&h, "cuda");
	gpu = ask(&h, NULL, "a", 8);
	ck_assert_uint_eq(gpu.n_ids, cpu.n_ids);
	ck_assert_mem_eq(gpu.ids, cpu.ids, cpu.n_ids * sizeof(cpu.ids[0]));
	host_settle(&h);
	host_stop(&h);
	host_jobs_free(&cpu, 1);
	host_jobs_free(&gpu, 1);
}
END_TEST

static void kill_engine(void *arg, struct host_job *job)
{
	struct host *h = arg;

	if (h->engines[0].pid && job->served_by[0] == 'a')
		host_kill(&h->engines[0], SIGKILL);
}

/* The stream goes on with another engine, byte for byte; what the dead one held comes back. */
START_TEST(killed_engine_is_replaced)
{
	struct host h;
	struct host_job undisturbed, job;

	begin(&h, "cuda");
	undisturbed = ask(&h, "t", "a", 6);
	host_engine(&h, "b", host_model_bundled(), small);
	scenario_job(&job, "t", NULL, prompt, 6);
	host_run(&h, &job, 1, kill_engine, &h);
	ck_assert_msg(job.status == 0, "%s", job.error);
	ck_assert_int_gt(job.resumed, 0);
	/* The hash of a resumed stream covers its rest alone: text and tokens are compared. */
	ck_assert_uint_eq(job.n_ids, undisturbed.n_ids);
	ck_assert_mem_eq(job.ids, undisturbed.ids, job.n_ids * sizeof(job.ids[0]));
	ck_assert_str_eq(job.answer, undisturbed.answer);
	host_settle(&h);
	host_stop(&h);
	host_jobs_free(&undisturbed, 1);
	host_jobs_free(&job, 1);
}
END_TEST

/* Lost while it serves: kvd lives and says so, and what ends, ends in words. */
START_TEST(lost_device_is_named)
{
	struct host h;
	struct host_job job;
	struct kvd_row_status status;
	char log[4096] = "", path[200];
	FILE *f;
	bool named = false;

	begin(&h, "cuda");
	job = ask(&h, NULL, "a", 2);
	host_jobs_free(&job, 1);
	device_lose(999);
	scenario_job(&job, NULL, "a", prompt, 4);
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

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(real_prompt_gives_the_cpu_backends_tokens),
		SCENARIO(killed_engine_is_replaced),
		SCENARIO(lost_device_is_named),
	};

	if (access(host_path("build/lib/libkvd-cuda.so"), R_OK)) {
		printf("skipped: no libkvd-cuda.so (nvcc not found)\n");
		return 0;
	}
	return scenario_run("cuda_host", tests, sizeof(tests) / sizeof(tests[0]), 200);
}
