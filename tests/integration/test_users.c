/* test_users.c - other users of the host: who may be whom, attach what and read whose rows.
 *
 * The test is root and becomes other users in children, by number: no account is needed and no file of the
 * host is changed.  Their checks are NEED(): a child's failing sentence is printed and its exit status 1. */
#include "tests/lib/scenario.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvd/admin.h"
#include "kvd/engine.h"

#define STRANGER 12345u
#define DELEGATE 12346u
#define ENGINE_USER 12347u
#define ADMIN 12348u
#define NOBODY 65534u
#define SHOP_GROUP 12400u
#define ADMIN_GROUP 12401u

#define NEED(condition, ...) do { if (!(condition)) { \
	fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); fprintf(stderr, __VA_ARGS__); \
	fputc('\n', stderr); _exit(1); } } while (0)

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "8", NULL };

static bool is_root(void)
{
	if (geteuid() == 0)
		return true;
	printf("skipped: only root can become other users\n");
	return false;
}

/* A host that every user can reach, with what `config` says. */
static void start(struct host *h, const char *config)
{
	char path[] = "/tmp/kvd-users-XXXXXX";
	int fd = mkstemp(path);
	const char *const more[] = { "--config", path, NULL };

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, config, strlen(config)), (ssize_t)strlen(config));
	close(fd);
	host_start(h, "64M", more);
	unlink(path);
	ck_assert_int_eq(chmod(h->dir, 0755), 0);
}

/* Run check(h) as another user with one further group; it must come to its end. */
static void as_user(struct host *h, uint32_t uid, uint32_t group, void (*check)(struct host *h))
{
	const gid_t groups[] = { group };
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		NEED(!setgroups(group ? 1 : 0, groups) && !setresgid(uid, uid, uid) &&
			     !setresuid(uid, uid, uid),
		     "%s", strerror(errno));
		check(h);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "user %u: wait status %#x", uid, status);
}

static struct kvd_connection *connected(struct host *h, const char *tenant, const char *expected)
{
	struct kvd_connection *c = NULL;
	int rc = kvd_connect(h->socket, "tests", tenant, &c);

	NEED(rc == 0, "%s", c ? kvd_error(c) : strerror(-rc));
	NEED(!strcmp(kvd_welcome(c)->tenant, expected), "the tenant is %s, not %s",
	     kvd_welcome(c)->tenant, expected);
	return c;
}

static void refused(struct host *h, const char *tenant, const char *part)
{
	struct kvd_connection *c = NULL;
	int rc = kvd_connect(h->socket, "tests", tenant, &c);

	NEED(rc == KVD_S_REFUSED, "%d", rc);
	NEED(strstr(kvd_error(c), part), "\"%s\" does not say %s", kvd_error(c), part);
	kvd_close(c);
}

/* Rows of one question; n of them, each `size` bytes at least. */
static const char *ask(struct kvd_connection *c, enum kvd_query what, size_t size, uint64_t *ret_n,
		       uint32_t *ret_bytes)
{
	const void *rows;
	int rc = kvd_query(c, what, "", &rows, ret_n, ret_bytes);

	NEED(rc == 0, "question %d: %s", (int)what, kvd_error(c));
	NEED(*ret_n == 0 || *ret_bytes >= size, "rows of %u bytes", *ret_bytes);
	return rows;
}

/* ---- what a stranger meets ---- */

static const char prompt[] = "The river went under the old stone house and over the road, and many "
			     "men and women saw the "
			     "light of the day in the water when they came with their great and "
			     "small things to the one good road.";

/* Open a stream that runs while the caller looks. */
static struct kvd_stream *running(struct kvd_connection *c)
{
	struct kvd_request request = KVD_REQUEST_INIT;
	struct kvd_stream *stream = NULL;
	struct kvd_chunk chunk;
	int rc;

	request.text = prompt;
	request.text_bytes = strlen(prompt);
	request.raw = 1;
	request.max_tokens = 3000;
	request.flags = KVD_REQ_IGNORE_END;
	rc = kvd_generate(c, NULL, NULL, 5000, &request, &stream);
	NEED(rc == 0, "%s", kvd_error(c));
	do
		rc = kvd_next(stream, 10000, &chunk);
	while (rc == 0 && chunk.kind != KVD_CHUNK_TOKENS);
	NEED(rc == 0, "%s", kvd_stream_error(stream));
	return stream;
}

static void sees_own_pages(struct kvd_connection *c)
{
	static const struct kvd_row_page nothing;
	uint64_t n;
	uint32_t bytes, depths = 0;
	const char *rows = ask(c, KVD_Q_PAGES, sizeof(struct kvd_row_page), &n, &bytes);

	NEED(n >= 2 && n < 32, "%u pages", (unsigned)n);
	for (uint64_t i = 0; i < n; i++) {
		struct kvd_row_page row = *(const struct kvd_row_page *)(const void *)(rows + i * bytes);

		NEED(!strcmp(row.tenant, "uid-12345"), "a page of %s", row.tenant);
		NEED(row.page == UINT32_MAX && row.parent == UINT32_MAX, "page %u", row.page);
		NEED(row.depth < 32 && !(depths & 1u << row.depth),
		     "page %u of the prompt has two rows", row.depth);
		depths |= 1u << row.depth;
		NEED(row.state == KVD_FRAME_OPEN || row.state == KVD_FRAME_SEALED, "state %u", row.state);
		memset(row.tenant, 0, sizeof(row.tenant));
		row.page = row.parent = row.depth = row.state = 0;
		row.idle_usec = 0;
		NEED(!memcmp(&row, &nothing, sizeof(row)), "page row %u tells more than its own", (unsigned)i);
	}
	kvd_rows_free(rows, n, bytes);
}

static void sees_only_its_own(struct kvd_connection *c)
{
	uint64_t n;
	uint32_t bytes;
	const char *rows = ask(c, KVD_Q_TENANTS, sizeof(struct kvd_row_tenant), &n, &bytes);
	const struct kvd_row_tenant *tenant = (const void *)rows;
	const struct kvd_row_sequence *sequence;
	const struct kvd_row_status *status;
	const void *none;

	NEED(n == 1 && !strcmp(tenant->name, "uid-12345"), "%u tenants", (unsigned)n);
	NEED(tenant->rss_bytes > 0 && tenant->sequences == 1, "rss %u", (unsigned)tenant->rss_bytes);
	NEED(!tenant->pss_bytes && !tenant->uss_bytes, "pss %u uss %u", (unsigned)tenant->pss_bytes,
	     (unsigned)tenant->uss_bytes);
	kvd_rows_free(rows, n, bytes);
	rows = ask(c, KVD_Q_SEQUENCES, sizeof(*sequence), &n, &bytes);
	sequence = (const void *)rows;
	NEED(n == 1 && !strcmp(sequence->tenant, "uid-12345"), "%u sequences", (unsigned)n);
	NEED(!sequence->shared_pages && !sequence->cached_pages, "%u shared, %u cached", sequence->shared_pages,
	     sequence->cached_pages);
	kvd_rows_free(rows, n, bytes);
	rows = ask(c, KVD_Q_STATUS, sizeof(*status), &n, &bytes);
	status = (const void *)rows;
	NEED(status->healthy && status->kvd_pid, "healthy %u", status->healthy);
	NEED(!status->pool_bytes && !status->physical_bytes && !status->logical_bytes &&
		     !status->tenants && !status->sequences && !status->frames[KVD_FRAME_SEALED] &&
		     !status->merges,
	     "figures of the whole pool");
	kvd_rows_free(rows, n, bytes);
	NEED(kvd_query(c, KVD_Q_EXTENTS, "", &none, &n, &bytes) == KVD_S_REFUSED, "%s", kvd_error(c));
	NEED(kvd_query(c, KVD_Q_FSCK, "", &none, &n, &bytes) == KVD_S_REFUSED, "%s", kvd_error(c));
	NEED(strstr(kvd_error(c), "kvadm"), "%s", kvd_error(c));
	sees_own_pages(c);
}

static int attach(struct host *h, char error[256])
{
	struct kvd_engine_options options = {
		.socket = h->socket, .program = "tests", .name = "foreign", .model = "m", .numerics = "tests/1",
		.layout = 1, .kv_format = 1, .n_planes = 4, .block_bytes = 4096, .max_seqs = 2, .max_pages = 8,
	};
	struct kvd_engine *engine = NULL;
	int rc = kvd_engine_attach(&options, &engine);

	snprintf(error, 256, "%s", engine ? kvd_engine_error(engine) : "no memory");
	kvd_engine_close(engine);
	return rc;
}

static void stranger(struct host *h)
{
	struct kvd_connection *c = connected(h, NULL, "uid-12345");
	struct kvd_stream *stream = running(c);
	char error[256];
	int rc;

	NEED(!kvd_welcome(c)->admin, "a stranger is an administrator");
	sees_only_its_own(c);
	kvd_stream_close(stream);
	kvd_close(c);
	refused(h, "red", "--tenant");
	kvd_close(connected(h, "uid-12345", "uid-12345"));
	rc = attach(h, error);
	NEED(rc == KVD_S_REFUSED, "%d: %s", rc, error);
	NEED(strstr(error, "[engine] uid = 12345"), "\"%s\" names no remedy", error);
}

/* Another user is a tenant of its own beside one that has the very same pages in use. */
START_TEST(a_stranger_is_itself_and_sees_itself)
{
	struct host h;
	struct kvd_connection *c;
	struct kvd_stream *stream;

	if (!is_root())
		return;
	start(&h, "[kvd]\nsharing = merge\n");
	host_engine(&h, "a", host_model_bundled(), engine_args);
	c = connected(&h, "red", "red");
	stream = running(c);
	as_user(&h, STRANGER, 0, stranger);
	kvd_stream_close(stream);
	kvd_close(c);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

/* One user opens streams as fast as it can: it gets its share and a sentence, and others get theirs. */
static void greedy(struct host *h)
{
	struct kvd_connection *c = connected(h, NULL, "uid-12345");
	struct kvd_request request = KVD_REQUEST_INIT;
	struct kvd_stream *streams[400];
	unsigned n = 0;
	int rc;

	request.text = prompt;
	request.text_bytes = strlen(prompt);
	request.raw = 1;
	request.max_tokens = 200;
	request.flags = KVD_REQ_IGNORE_END;
	while (n < 400 && (rc = kvd_generate(c, NULL, NULL, 0, &request, &streams[n])) == 0)
		n++;
	NEED(n >= 200 && n < 400 && rc == KVD_S_LIMIT, "%u streams, then %d: %s", n, rc, kvd_error(c));
	NEED(strstr(kvd_error(c), "uid-12345 has 256 streams"), "%s", kvd_error(c));
	while (n)
		kvd_stream_close(streams[--n]);
	kvd_close(c);
}

START_TEST(a_greedy_user_gets_its_share)
{
	struct host h;
	struct host_job job;

	if (!is_root())
		return;
	start(&h, "");
	host_engine(&h, "a", host_model_bundled(), engine_args);
	as_user(&h, STRANGER, 0, greedy);
	job = scenario_alone(&h, "red", NULL, "hello", 8);
	host_jobs_free(&job, 1);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

/* Refusals over the programs: exit 4 and one line. */
static void runs_programs(struct host *h, int fd, char *const argv[])
{
	int status, log = memfd_create("output", 0);
	char line[512] = "";
	pid_t pid = fork();

	NEED(pid >= 0 && log >= 0, "%s", strerror(errno));
	if (pid == 0) {
		dup2(log, 1);
		dup2(log, 2);
		setenv("KVD_SOCKET", h->socket, 1);
		fexecve(fd, argv, environ);
		_exit(127);
	}
	NEED(waitpid(pid, &status, 0) == pid, "%s", strerror(errno));
	NEED(pread(log, line, sizeof(line) - 1, 0) >= 0, "%s", strerror(errno));
	NEED(WIFEXITED(status) && WEXITSTATUS(status) == 4, "%s %s: wait status %#x: %s", argv[0],
	     argv[1], status, line);
	NEED(*line && strchr(line, '\n') == line + strlen(line) - 1, "not one line: %s", line);
	close(log);
}

static int kvrun_fd, kvctl_fd;         /* opened by root: the build may lie where others cannot go */

static void stranger_types(struct host *h)
{
	runs_programs(h, kvrun_fd, (char *[]){ "kvrun", "--tenant", "red", "hello", NULL });
	runs_programs(h, kvctl_fd, (char *[]){ "kvctl", "fsck", NULL });
	runs_programs(h, kvctl_fd, (char *[]){ "kvctl", "map", NULL });
}

static void nobody(struct host *h)
{
	char error[256];
	int rc;

	refused(h, NULL, "65534");
	rc = attach(h, error);
	NEED(rc == KVD_S_REFUSED, "%d: %s", rc, error);
	runs_programs(h, kvrun_fd, (char *[]){ "kvrun", "hello", NULL });
	runs_programs(h, kvctl_fd, (char *[]){ "kvctl", "whoami", NULL });
}

START_TEST(refusals_are_exit_4_and_one_line)
{
	struct host h;
	char path[600];

	if (!is_root())
		return;
	start(&h, "");
	snprintf(path, sizeof(path), "%s/kvrun", h.bin);
	kvrun_fd = open(path, O_RDONLY);
	snprintf(path, sizeof(path), "%s/kvctl", h.bin);
	kvctl_fd = open(path, O_RDONLY);
	ck_assert(kvrun_fd >= 0 && kvctl_fd >= 0);
	as_user(&h, STRANGER, 0, stranger_types);
	as_user(&h, NOBODY, 0, nobody);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

/* ---- who is declared ---- */

static void engine_user(struct host *h)
{
	struct kvd_connection *c = connected(h, NULL, "uid-12347");
	char error[256];
	int rc = attach(h, error);

	NEED(rc == 0, "%d: %s", rc, error);
	NEED(!kvd_welcome(c)->admin, "[engine] makes administrators");
	kvd_close(c);
	refused(h, "red", "--tenant");
}

static void delegate(struct host *h)
{
	struct kvd_connection *c = connected(h, "red", "red");
	char error[256];
	uint64_t n;
	uint32_t bytes;
	const char *rows = ask(c, KVD_Q_TENANTS, sizeof(struct kvd_row_tenant), &n, &bytes);

	NEED(n == 1 && !strcmp(rows, "red"), "%u tenants", (unsigned)n);
	kvd_rows_free(rows, n, bytes);
	kvd_close(c);
	kvd_close(connected(h, NULL, "uid-12346"));
	NEED(attach(h, error) == KVD_S_REFUSED, "a delegate may attach engines");
}

static void shop_member(struct host *h)
{
	kvd_close(connected(h, NULL, "shop"));
}

START_TEST(declared_users)
{
	struct host h;

	if (!is_root())
		return;
	start(&h, "[engine]\nuid = 12347\n[delegate]\nuid = 12346\n[tenant shop]\ngid = 12400\n");
	as_user(&h, ENGINE_USER, 0, engine_user);
	as_user(&h, DELEGATE, 0, delegate);
	as_user(&h, STRANGER, SHOP_GROUP, shop_member);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

static void administrator(struct host *h)
{
	struct kvd_connection *c = connected(h, NULL, "uid-12348");
	char error[256];
	uint64_t n;
	uint32_t bytes;
	const char *rows = ask(c, KVD_Q_TENANTS, sizeof(struct kvd_row_tenant), &n, &bytes);

	NEED(kvd_welcome(c)->admin, "group kvadm reads nothing");
	NEED(n >= 2, "%u tenants", (unsigned)n);  /* root's and its own */
	kvd_rows_free(rows, n, bytes);
	kvd_rows_free(ask(c, KVD_Q_FSCK, sizeof(struct kvd_row_fsck), &n, &bytes), n, bytes);
	kvd_close(c);
	refused(h, "red", "--tenant");          /* to read is not to act */
	NEED(attach(h, error) == 0, "%s", error);
}

/* Group kvadm of this kvd alone: its /etc/group is another file, in a mount namespace of the test's process. */
START_TEST(group_kvadm_reads_everything)
{
	struct host h;
	char path[] = "/tmp/kvd-group-XXXXXX";
	int fd;

	if (!is_root())
		return;
	fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_gt(dprintf(fd, "root:x:0:\nkvadm:x:%u:\n", ADMIN_GROUP), 0);
	ck_assert_int_eq(fchmod(fd, 0644), 0);
	close(fd);
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount(path, "/etc/group", NULL, MS_BIND, NULL) < 0) {
		printf("skipped: no mount namespace here: %s\n", strerror(errno));
		unlink(path);
		return;
	}
	start(&h, "");
	unlink(path);
	as_user(&h, ADMIN, ADMIN_GROUP, administrator);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(a_stranger_is_itself_and_sees_itself),
		SCENARIO(a_greedy_user_gets_its_share),
		SCENARIO(refusals_are_exit_4_and_one_line),
		SCENARIO(declared_users),
		SCENARIO(group_kvadm_reads_everything),
	};
	return scenario_run("users", tests, 5, 60);
}
