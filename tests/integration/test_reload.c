/* test_reload.c - SIGHUP on a real kvd with engines: under load, with a broken file, with a lowered max, with new
 * users; what cannot change is named, and nothing that runs notices. */
#include "tests/lib/scenario.h"
#include "tests/lib/slow.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvd/admin.h"

#define STRANGER 12345u

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "8", NULL };
static char config_path[96], dropin_path[128];

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static const char *const with_config[] = { "--config", config_path, NULL, NULL };
static const char *const with_keeper[] = { "--config", config_path, "--keeper", NULL };

static void start_with(struct host *h, const char *config, const char *const *more)
{
	char directory[] = "/tmp/kvd-reload-XXXXXX";

	ck_assert_ptr_nonnull(mkdtemp(directory));
	ck_assert_int_eq(chmod(directory, 0755), 0);
	snprintf(config_path, sizeof(config_path), "%s/kvd.conf", directory);
	snprintf(dropin_path, sizeof(dropin_path), "%s.d/10.conf", config_path);
	write_file(config_path, config);
	host_start(h, "64M", more);
	ck_assert_int_eq(chmod(h->dir, 0755), 0);
}

static void start(struct host *h, const char *config)
{
	start_with(h, config, with_config);
}

static void stop(struct host *h)
{
	char *slash;

	host_settle(h);
	host_fsck(h);
	host_stop(h);
	unlink(dropin_path);
	unlink(config_path);
	for (int i = 0; i < 2; i++) {
		slash = strrchr(i ? config_path : dropin_path, '/');
		*slash = '\0';
		(void)rmdir(i ? config_path : dropin_path);
	}
}

/* How often a text stands in kvd's log. */
static unsigned logged(const struct host *h, const char *text)
{
	static char log[1 << 20];
	int fd = open(h->kvd.log, O_RDONLY);
	ssize_t n = read(fd, log, sizeof(log) - 1);
	unsigned count = 0;

	close(fd);
	log[n > 0 ? n : 0] = '\0';
	for (const char *at = log; (at = strstr(at, text)); at += strlen(text))
		count++;
	return count;
}

/* Write a configuration, SIGHUP, and wait for what kvd says of it. */
static void reload(struct host *h, const char *config, const char *says)
{
	unsigned before = logged(h, says);

	if (config)
		write_file(config_path, config);
	ck_assert_int_eq(kill(h->kvd.pid, SIGHUP), 0);
	for (unsigned i = 0; logged(h, says) == before; i++) {
		ck_assert_msg(i < 500 * test_slow(), "kvd does not say %s", says);
		usleep(10000);
	}
}

/* ---- under load ---- */

enum { N_JOBS = 6 };

struct storm { struct host *h; unsigned chunks, sent; };

/* Every few chunks another configuration; every third of them is broken. */
static void reload_now_and_then(void *arg, struct host_job *job)
{
	static const char *const configs[] = {
		"[tenant a]\nmin = 4M\nmax = 48M\nweight = 300\n[tenant b]\nmax = 40M\n[domain d]\ntenants = a b\n",
		"[tenant a]\nlow = 2M\nhigh = 40M\n[tenant b]\npriority = 400\nmax-sequences = 9\n",
		"[tenant a]\nmin = 40M\nlow = 30M\n",
	};
	struct storm *storm = arg;

	if (++storm->chunks % 5)
		return;
	write_file(config_path, configs[storm->sent++ % 3]);
	ck_assert_int_eq(kill(storm->h->kvd.pid, SIGHUP), 0);
}

START_TEST(under_load)
{
	struct host h;
	struct host_job jobs[N_JOBS], alone[N_JOBS];
	char *texts[N_JOBS];
	struct storm storm = { .h = &h };

	start(&h, "");
	host_engine(&h, "one", host_model_bundled(), engine_args);
	for (unsigned i = 0; i < N_JOBS; i++) {
		texts[i] = scenario_text(i, 200);
		alone[i] = scenario_alone(&h, "c", "one", texts[i], 60);
		scenario_job(&jobs[i], i % 2 ? "a" : "b", "one", texts[i], 60);
	}
	ck_assert_uint_eq(host_run(&h, jobs, N_JOBS, reload_now_and_then, &storm), 0);
	for (unsigned i = 0; i < N_JOBS; i++)
		ck_assert_msg(host_jobs_equal(&jobs[i], &alone[i]), "stream %u has other tokens than alone", i);
	reload(&h, "", "reload.done");
	printf("%u reloads in %u chunks: %u done, %u refused\n", storm.sent, storm.chunks, logged(&h, "reload.done"),
	       logged(&h, "reload.refused"));
	ck_assert_uint_ge(storm.sent, 10);
	ck_assert_uint_ge(logged(&h, "reload.done"), 3);
	ck_assert_uint_ge(logged(&h, "reload.refused"), 1);
	host_jobs_free(jobs, N_JOBS);
	host_jobs_free(alone, N_JOBS);
	for (unsigned i = 0; i < N_JOBS; i++)
		free(texts[i]);
	stop(&h);
}
END_TEST

/* ---- a file with an error changes nothing ---- */

START_TEST(a_bad_file_changes_nothing)
{
	static const struct { const char *config, *says;
	} bad[] = {
		{"[tenant a]\nmax = 8M\nmin = 9M\n",
		 "kvd.conf:3: [tenant a] min = 9M is not below its max of 8M"},
		{"[tenant a]\nmax = 8M\n[tenant b]\nuid = 1\n[tenant c]\nuid = 1\n",
		 "kvd.conf:6: uid 1 is mapped"},
		{"[tenant a]\nmin = 65M\n",
		 "kvd.conf:2: the mins of the tenants up to a add up to 65M, the pool has 64M"},
		{"[tenant a]\nmax = 8M\nnonsense\n", "kvd.conf:3: neither"},
	};
	struct kvd_row_tenant row;
	struct host h;

	start(&h, "[tenant a]\nmin = 1M\nlow = 2M\nhigh = 24M\nmax = 32M\nweight = 7\n");
	host_tenant(&h, "a", &row); /* known before its first connection */
	ck_assert_uint_eq(row.max_bytes, 32u << 20);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		reload(&h, bad[i].config, "reload.refused");
		ck_assert_msg(logged(&h, bad[i].says) == 1, "%s", bad[i].says);
		host_tenant(&h, "a", &row);
		ck_assert_uint_eq(row.max_bytes, 32u << 20);
		ck_assert_uint_eq(row.min_bytes, 1u << 20);
	}
	unlink(config_path);
	reload(&h, NULL, "reload.refused");
	ck_assert_uint_ge(logged(&h, "cannot be read: No such file"), 1);
	host_tenant(&h, "a", &row);
	ck_assert_uint_eq(row.max_bytes, 32u << 20);
	/* And the next good one counts, with its drop-in; what is gone from the file has its defaults again. */
	dropin_path[strlen(dropin_path) - 8] = '\0';
	ck_assert_int_eq(mkdir(dropin_path, 0755), 0);
	dropin_path[strlen(dropin_path)] = '/';
	write_file(dropin_path, "[tenant a]\nmax = 16M\n");
	reload(&h, "[tenant a]\nmax = 8M\nmin = 3M\n[kvd]\nlog-level = debug\nsharing = private\n", "reload.done");
	host_tenant(&h, "a", &row);
	ck_assert_uint_eq(row.max_bytes, 16u << 20);
	ck_assert_uint_eq(row.high_bytes, 15u << 20);
	ck_assert_uint_eq(row.low_bytes, 3u << 20);
	ck_assert_uint_eq(row.min_bytes, 3u << 20);
	ck_assert_uint_eq(row.sharing, 0);
	for (unsigned i = 0; !logged(&h, "kvd debug"); i++) { /* a connection's end is told at that level */
		ck_assert_uint_lt(i, 500);
		host_tenant(&h, "a", &row);
		usleep(10000);
	}
	stop(&h);
}
END_TEST

START_TEST(what_cannot_change_is_named)
{
	struct kvd_row_status row;
	struct host h;

	start(&h, "[kvd]\nextent = 1M\n[tier disk]\npath = /tmp\nsize = 64M\n");
	/* The command line gave the pool and wins again: no warning for it. */
	reload(&h, "[kvd]\npool = 128M\nextent = 2M\nsocket = /tmp/other\nlog-level = warn\n", "key=\"tier\"");
	ck_assert_uint_eq(logged(&h, "reload.waits section=\"kvd\" key=\"extent\""), 1);
	ck_assert_uint_eq(logged(&h, "reload.waits section=\"kvd\" key=\"socket\""), 1);
	ck_assert_uint_eq(logged(&h, "reload.waits section=\"disk\" key=\"tier\""), 1);
	ck_assert_uint_eq(logged(&h, "key=\"pool\""), 0);
	ck_assert_uint_eq(logged(&h, "key=\"log-level\""), 0);
	host_status(&h, &row);
	ck_assert_uint_eq(row.pool_bytes, 64u << 20);
	ck_assert_uint_eq(row.extent_bytes, 1u << 20);
	stop(&h);
}
END_TEST

/* ---- a lowered max ---- */

START_TEST(a_lowered_max)
{
	struct kvd_row_tenant row;
	struct host h;
	char *text = scenario_text(1, 400);
	struct host_job job;
	uint64_t rss_bytes, page_bytes;
	char config[128];

	start(&h, "[tenant a]\nmax = 60M\n");
	host_engine(&h, "one", host_model_bundled(), engine_args);
	page_bytes = host_page_bytes(&h);
	job = scenario_alone(&h, "a", "one", text, 20);
	host_jobs_free(&job, 1);
	host_tenant(&h, "a", &row);
	rss_bytes = row.rss_bytes; /* its prefix is cached */
	ck_assert_uint_ge(rss_bytes, 8 * page_bytes);
	/* Half of it: kvd takes its own cached pages back, down below high. */
	snprintf(config, sizeof(config), "[tenant a]\nmax = %llu\n", (unsigned long long)(rss_bytes / 2));
	reload(&h, config, "reload.done");
	for (unsigned i = 0;; i++) {
		host_tenant(&h, "a", &row);
		if (row.rss_bytes <= row.high_bytes)
			break;
		ck_assert_msg(i < 1000 * test_slow(), "rss %llu stays above high %llu",
			      (unsigned long long)row.rss_bytes,
			      (unsigned long long)row.high_bytes);
		usleep(10000);
	}
	ck_assert_uint_eq(row.max_bytes, rss_bytes / 2);
	/* What fitted before is now refused, with the numbers; not so for others. */
	memset(&job, 0, sizeof(job));
	scenario_job(&job, "a", "one", text, 20);
	ck_assert_uint_eq(host_run(&h, &job, 1, NULL, NULL), 1);
	ck_assert_msg(job.status == KVD_S_TENANT_MAX || job.status == KVD_S_TOO_LARGE,
		      "status %d: %s", job.status, job.error);
	host_jobs_free(&job, 1);
	job = scenario_alone(&h, "b", "one", text, 20);
	host_jobs_free(&job, 1);
	reload(&h, "[tenant a]\nmax = 60M\n", "reload.done");
	job = scenario_alone(&h, "a", "one", text, 20);
	host_jobs_free(&job, 1);
	free(text);
	stop(&h);
}
END_TEST

static void quota_by_hand(struct host *h, const char *arguments)
{
	char line[1024];

	snprintf(line, sizeof(line), "%s/kvctl --socket %s quota %s >/dev/null", h->bin, h->socket, arguments);
	ck_assert_msg(system(line) == 0, "kvctl quota %s", arguments);
}

static void expect_limits(struct host *h, const char *tenant, uint64_t max_mib, uint32_t weight)
{
	struct kvd_row_tenant row;

	host_tenant(h, tenant, &row);
	ck_assert_uint_eq(row.max_bytes, max_mib << 20);
	ck_assert_uint_eq(row.weight, weight);
}

/* What `kvctl quota` has set outlives kvd and every reload, until the file says something else of that tenant. */
START_TEST(a_quota_by_hand_stays)
{
	struct kvd_row_status status;
	struct host h;

	start_with(&h, "[tenant a]\nmax = 60M\n[tenant b]\nmax = 50M\n", with_keeper);
	quota_by_hand(&h, "a max=20M weight=300");
	quota_by_hand(&h, "b weight=200");
	expect_limits(&h, "a", 20, 300);
	expect_limits(&h, "b", 50, 200);
	reload(&h, "[tenant a]\nmax = 60M\n[tenant b]\nmax = 40M\n", "reload.done");
	expect_limits(&h, "a", 20, 300);
	expect_limits(&h, "b", 40, 100);
	for (int i = 0; i < 2; i++) {
		host_kill(&h.kvd, SIGKILL);
		host_kvd_start(&h, "64M", with_keeper);
		host_status(&h, &status);
		ck_assert(status.adopted);
		expect_limits(&h, "a", 20, 300);
		expect_limits(&h, "b", 40, 100);
	}
	/* Changed while no kvd lives: the next one sees it, too. */
	host_kill(&h.kvd, SIGKILL);
	write_file(config_path, "[tenant a]\nmax = 60M\n[tenant b]\nmax = 30M\n");
	host_kvd_start(&h, "64M", with_keeper);
	expect_limits(&h, "a", 20, 300);
	expect_limits(&h, "b", 30, 100);
	reload(&h, "[tenant a]\nmax = 59M\n", "reload.done");
	expect_limits(&h, "a", 59, 100);
	expect_limits(&h, "b", 0, 100);
	stop(&h);
}
END_TEST

/* ---- users ---- */

/* What a stranger is told at HELLO for a tenant: 0 and its domain, or the status. */
static int as_stranger(struct host *h, const char *tenant, const char *domain)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct kvd_connection *c = NULL;
		int rc;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (setgroups(0, NULL) < 0 || setgid(STRANGER) < 0 || setuid(STRANGER) < 0)
			_exit(120);
		rc = kvd_connect(h->socket, "tests", tenant, &c);
		if (rc == 0 && domain && strcmp(kvd_welcome(c)->domain, domain))
			rc = 121;
		_exit(rc);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	return WEXITSTATUS(status);
}

START_TEST(users_and_domains)
{
	struct kvd_row_tenant row;
	struct host h;

	if (geteuid() != 0) {
		printf("skipped: only root can become other users\n");
		return;
	}
	start(&h, "");
	ck_assert_int_eq(as_stranger(&h, "", "uid-12345"), 0);
	ck_assert_int_eq(as_stranger(&h, "shop", NULL), KVD_S_REFUSED);
	reload(&h, "[delegate]\nuid = 12345\n[domain mall]\ntenants = shop\n", "reload.done");
	ck_assert_int_eq(as_stranger(&h, "shop", "mall"), 0);
	host_tenant(&h, "shop", &row);
	ck_assert_str_eq(row.domain, "mall");
	ck_assert_uint_eq(row.sharing, 2);
	reload(&h, "[tenant shop]\nuid = 12345\n", "reload.done");
	ck_assert_int_eq(as_stranger(&h, "", "shop"), 0); /* another tenant now, by the new mapping */
	ck_assert_int_eq(as_stranger(&h, "lab", NULL), KVD_S_REFUSED);
	host_tenant(&h, "shop", &row);
	ck_assert_uint_eq(row.sharing, 1);
	stop(&h);
}
END_TEST

/* ---- control groups, by the kernel ---- */

START_TEST(a_control_group_is_a_tenant)
{
	const char *roots[] = { "/sys/fs/cgroup/unified", "/sys/fs/cgroup" };
	char group[128] = "", below[160], procs[200], config[200];
	struct host h;
	int status;

	for (unsigned i = 0; i < 2 && !group[0]; i++) {
		snprintf(procs, sizeof(procs), "%s/cgroup.procs", roots[i]);
		snprintf(group, sizeof(group), "%s/kvd-test-%d", roots[i], getpid());
		if (access(procs, W_OK) < 0 || mkdir(group, 0755) < 0)
			group[0] = '\0';
	}
	if (!group[0]) {
		printf("skipped: no control group can be made here\n");
		return;
	}
	snprintf(below, sizeof(below), "%s/deep", group);
	ck_assert_int_eq(mkdir(below, 0755), 0);
	start(&h, "");
	ck_assert_int_eq(as_stranger(&h, "", "uid-12345"), 0);
	snprintf(config, sizeof(config), "[tenant boxed]\ncgroup = /kvd-test-%d\n", getpid());
	reload(&h, config, "reload.done");
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		struct kvd_connection *c = NULL;
		FILE *file;

		snprintf(procs, sizeof(procs), "%s/cgroup.procs", below);
		file = fopen(procs, "w");
		if (!file || fprintf(file, "0\n") < 0 || fclose(file) != 0 ||
		    setgid(STRANGER) < 0 || setuid(STRANGER) < 0)
			_exit(120);
		if (kvd_connect(h.socket, "tests", "", &c) != 0)
			_exit(121);
		if (strcmp(kvd_welcome(c)->tenant, "boxed"))
			_exit(122);
		_exit(strstr(kvd_welcome(c)->decided_by, "cgroup /kvd-test-") ? 0 : 123);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(as_stranger(&h, "", "uid-12345"), 0); /* outside of it */
	rmdir(below);
	rmdir(group);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status %#x", status);
	stop(&h);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(under_load),
		SCENARIO(a_bad_file_changes_nothing),
		SCENARIO(what_cannot_change_is_named),
		SCENARIO(a_lowered_max), SCENARIO(a_quota_by_hand_stays),
		SCENARIO(users_and_domains),
		SCENARIO(a_control_group_is_a_tenant),
	};
	return scenario_run("reload", tests, sizeof(tests) / sizeof(tests[0]), 60);
}
