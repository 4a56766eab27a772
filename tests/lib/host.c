/* host.c - children, temporary directory, questions (host.h).  Jobs are in host_jobs.c. */
#include "tests/lib/host.h"
#include "tests/lib/device.h"
#include "tests/lib/slow.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define READY_USEC 60000000u       /* an engine lays out 100 MB of weights on a busy machine */

static void fail_exit(const char *sentence)
{
	fprintf(stderr, "%s\n", sentence);
	exit(1);
}
void (*host_fail)(const char *sentence) = fail_exit;

uint64_t host_now_usec(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static void sleep_usec(uint64_t usec)
{
	struct timespec ts = { .tv_sec = usec / 1000000, .tv_nsec = usec % 1000000 * 1000 };
	nanosleep(&ts, NULL);
}

static void show_log(const struct host_child *child)
{
	FILE *f = fopen(child->log, "r");
	if (!f)
		return;
	fseek(f, 0, SEEK_END);
	long end = ftell(f);
	fseek(f, end > 3000 ? end - 3000 : 0, SEEK_SET);
	char line[512];
	while (fgets(line, sizeof(line), f))
		fprintf(stderr, "  %s| %s", child->name, line);
	fclose(f);
}

__attribute__((format(printf, 2, 3)))
static void fail_child(const struct host_child *child, const char *format, ...)
{
	char sentence[512];
	va_list args;
	va_start(args, format);
	vsnprintf(sentence, sizeof(sentence), format, args);
	va_end(args);
	if (child)
		show_log(child);
	host_fail(sentence);
}

/* KVD_TEST_NO_URING=1: the child meets io_uring_setup() -> EPERM, as in most containers. */
static void refuse_io_uring(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof(filter) / sizeof(filter[0]), .filter = filter };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
		dprintf(2, "cannot refuse io_uring: %s\n", strerror(errno));
		_exit(127);
	}
}

void host_child_spawn(struct host *h, struct host_child *child, const char *name, char *const *argv)
{
	snprintf(child->name, sizeof(child->name), "%s", name);
	snprintf(child->log, sizeof(child->log), "%s/%s.log", h->dir, name);
	pid_t parent = getpid();
	fflush(NULL);
	child->pid = fork();
	if (child->pid < 0)
		fail_child(NULL, "fork: %s", strerror(errno));
	if (child->pid > 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	setpgid(0, 0);             /* Ctrl-C on the terminal is the parent's to handle */
	int log = open(child->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	int null = open("/dev/null", O_RDONLY);
	dup2(null, 0);
	dup2(log, 1);
	dup2(log, 2);
	if (getenv("KVD_TEST_NO_URING"))
		refuse_io_uring();
	execv(argv[0], argv);
	dprintf(2, "cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static bool has_exited(struct host_child *child)
{
	int status;
	if (child->pid && waitpid(child->pid, &status, WNOHANG) == child->pid) {
		child->pid = 0;
		return true;
	}
	return child->pid == 0;
}

static unsigned append_args(char **argv, unsigned n, unsigned max, const char *const *more)
{
	for (; more && *more && n + 1 < max; more++)
		argv[n++] = (char *)*more;
	argv[n] = NULL;
	return n;
}

void host_start(struct host *h, const char *pool, const char *const *more)
{
	memset(h, 0, sizeof(*h));
	device_begin();
	const char *tmp = getenv("TMPDIR");
	snprintf(h->dir, sizeof(h->dir), "%.60s/kvd-host-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(h->dir))
		fail_child(NULL, "mkdtemp %s: %s", h->dir, strerror(errno));
	snprintf(h->socket, sizeof(h->socket), "%s/kvd.sock", h->dir);
	char exe[400];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	exe[n > 0 ? n : 0] = '\0';
	char *at = dirname(exe), *last = strrchr(at, '/');
	/* this program lies in build/tests, or in build/tests/fakecuda */
	if (last && strcmp(last, "/fakecuda") == 0)
		*last = '\0';
	snprintf(h->bin, sizeof(h->bin), "%s/../bin", at);
	host_kvd_start(h, pool, more);
}

void host_kvd_start(struct host *h, const char *pool, const char *const *more)
{
	char path[600];
	snprintf(path, sizeof(path), "%s/kvd", h->bin);
	char *argv[32] = { path, "--device", (char *)device_name(), "--pool", (char *)pool, "--socket", h->socket };
	append_args(argv, 7, 30, more);
	host_child_spawn(h, &h->kvd, "kvd", argv);
	for (uint64_t deadline = host_now_usec() + READY_USEC * test_slow(); ; sleep_usec(10000)) {
		struct kvd_connection *c = NULL;
		int rc = kvd_connect(h->socket, "tests", NULL, &c);
		kvd_close(c);
		if (rc == 0)
			return;
		if (has_exited(&h->kvd) || host_now_usec() > deadline)
			fail_child(&h->kvd, "kvd did not start");
	}
}

static void query(struct host *h, enum kvd_query what, const void **ret_rows, uint64_t *ret_n,
		  uint32_t *ret_bytes)
{
	struct kvd_connection *c = NULL;
	int rc = kvd_connect(h->socket, "tests", NULL, &c);
	if (rc == 0)
		rc = kvd_query(c, what, "", ret_rows, ret_n, ret_bytes);
	if (rc != 0)
		fail_child(&h->kvd, "query %d: %s", (int)what, c ? kvd_error(c) : strerror(-rc));
	kvd_close(c);
}

static bool engine_listed(struct host *h, const char *name)
{
	const void *rows;
	uint64_t n;
	uint32_t bytes;
	query(h, KVD_Q_ENGINES, &rows, &n, &bytes);
	bool found = false;
	for (uint64_t i = 0; i < n; i++) {
		const struct kvd_row_engine *row = (const void *)((const char *)rows + i * bytes);
		found |= !strcmp(row->name, name) && row->state == 0;
	}
	kvd_rows_free(rows, n, bytes);
	return found;
}

void host_engine_wait(struct host *h, const char *name)
{
	struct host_child *child = NULL;
	for (unsigned i = 0; i < h->n_engines; i++)
		if (!strcmp(h->engines[i].name, name))
			child = &h->engines[i];
	for (uint64_t deadline = host_now_usec() + READY_USEC * test_slow();
	     !engine_listed(h, name); sleep_usec(10000))
		if (!child || has_exited(child) || host_now_usec() > deadline)
			fail_child(child, "engine %s did not attach", name);
}

struct host_child *host_engine(struct host *h, const char *name, const char *model, const char *const *more)
{
	struct host_child *child = NULL;
	for (unsigned i = 0; i < h->n_engines && !child; i++)
		if (h->engines[i].pid == 0)
			child = &h->engines[i];
	if (!child) {
		if (h->n_engines == HOST_ENGINES_MAX)
			fail_child(NULL, "too many engines");
		child = &h->engines[h->n_engines++];
	}
	char path[600];
	snprintf(path, sizeof(path), "%s/kvengine", h->bin);
	char *argv[40] = { path, "--socket", h->socket, "--name", (char *)name, "--model", (char *)model };
	unsigned n = 7;

	if (device_is_cuda()) {
		argv[n++] = "--device";
		argv[n++] = "cuda";
	}
	append_args(argv, n, 40, more);
	host_child_spawn(h, child, name, argv);
	host_engine_wait(h, name);
	return child;
}

void host_kill(struct host_child *child, int sig)
{
	if (!child->pid)
		return;
	kill(child->pid, sig);
	if (sig != SIGKILL && sig != SIGTERM)
		return;
	int status;
	for (uint64_t deadline = host_now_usec() + 10000000u * test_slow(); ; sleep_usec(2000)) {
		if (waitpid(child->pid, &status, WNOHANG) == child->pid)
			break;
		if (host_now_usec() > deadline) {
			kill(child->pid, SIGKILL);
			waitpid(child->pid, &status, 0);
			fail_child(child, "%s did not end within 10 s of signal %d", child->name, sig);
			break;
		}
	}
	if (sig == SIGTERM && (!WIFEXITED(status) || WEXITSTATUS(status) != 0))
		fail_child(child, "%s ended with wait status %#x on SIGTERM", child->name, status);
	child->pid = 0;
}

static void remove_dir(const char *dir)
{
	DIR *d = opendir(dir);
	if (!d)
		return;
	for (struct dirent *e; (e = readdir(d)); )
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			unlinkat(dirfd(d), e->d_name, 0);
	closedir(d);
	rmdir(dir);
}

void host_stop(struct host *h)
{
	if (!h->dir[0])
		return;
	for (unsigned i = 0; i < h->n_engines; i++)
		host_kill(&h->engines[i], SIGTERM);
	host_kill(&h->kvd, SIGTERM);
	if (access(h->socket, F_OK) == 0)
		fail_child(&h->kvd, "kvd left its socket behind");
	remove_dir(h->dir);
	h->dir[0] = '\0';
	device_end();
}

void host_abort(struct host *h)
{
	for (unsigned i = 0; i <= h->n_engines; i++) {
		struct host_child *child = i < h->n_engines ? &h->engines[i] : &h->kvd;
		if (child->pid > 0) {
			kill(child->pid, SIGKILL);
			waitpid(child->pid, NULL, 0);
		}
		if (child->log[0])
			unlink(child->log);
	}
	if (h->dir[0]) {
		unlink(h->socket);
		rmdir(h->dir);
	}
}

void host_status(struct host *h, struct kvd_row_status *ret)
{
	const void *rows;
	uint64_t n;
	uint32_t bytes;
	query(h, KVD_Q_STATUS, &rows, &n, &bytes);
	if (n != 1 || bytes < sizeof(*ret))
		fail_child(NULL, "status has %llu rows of %u bytes", (unsigned long long)n, bytes);
	memcpy(ret, rows, sizeof(*ret));
	kvd_rows_free(rows, n, bytes);
}

uint32_t host_sequences(struct host *h)
{
	struct kvd_row_status status;
	host_status(h, &status);
	return status.sequences;
}

uint64_t host_page_bytes(struct host *h)
{
	const void *rows;
	uint64_t n;
	uint32_t bytes;
	query(h, KVD_Q_ENGINES, &rows, &n, &bytes);
	if (n == 0)
		fail_child(&h->kvd, "no engine is attached");
	uint64_t page_bytes = n ? ((const struct kvd_row_engine *)rows)->page_bytes : 0;
	kvd_rows_free(rows, n, bytes);
	return page_bytes;
}

void host_tenant(struct host *h, const char *name, struct kvd_row_tenant *ret)
{
	const void *rows;
	uint64_t n;
	uint32_t bytes;
	memset(ret, 0, sizeof(*ret));
	query(h, KVD_Q_TENANTS, &rows, &n, &bytes);
	for (uint64_t i = 0; i < n; i++) {
		const struct kvd_row_tenant *row = (const void *)((const char *)rows + i * bytes);
		if (!strcmp(row->name, name))
			*ret = *row;
	}
	kvd_rows_free(rows, n, bytes);
}

void host_extents(struct host *h, struct kvd_row_extent **ret_rows, unsigned *ret_n)
{
	const void *rows;
	uint64_t n;
	uint32_t bytes;
	query(h, KVD_Q_EXTENTS, &rows, &n, &bytes);
	*ret_rows = calloc(n ? n : 1, sizeof(**ret_rows));
	*ret_n = (unsigned)n;
	for (uint64_t i = 0; i < n; i++)
		memcpy(&(*ret_rows)[i], (const char *)rows + i * bytes, sizeof(**ret_rows));
	kvd_rows_free(rows, n, bytes);
}

void host_populated(struct host *h)
{
	uint64_t deadline = host_now_usec() + READY_USEC * test_slow();
	for (unsigned bare = 1; bare; sleep_usec(bare ? 20000 : 0)) {
		struct kvd_row_extent *rows;
		unsigned n;
		host_extents(h, &rows, &n);
		bare = 0;
		for (unsigned i = 0; i < n; i++)
			bare += rows[i].state == KVD_EXTENT_BARE;
		free(rows);
		if (host_now_usec() > deadline)
			fail_child(&h->kvd, "%u extents have no memory yet", bare);
	}
}

void host_fsck(struct host *h)
{
	const void *rows;
	uint64_t n;
	uint32_t bytes;
	query(h, KVD_Q_FSCK, &rows, &n, &bytes);
	bool clean = true;
	for (uint64_t i = 0; i < n; i++) {
		const struct kvd_row_fsck *row = (const void *)((const char *)rows + i * bytes);
		if (row->problem[0]) {
			fprintf(stderr, "  fsck: %s\n", row->problem);
			clean = false;
		}
	}
	kvd_rows_free(rows, n, bytes);
	if (!clean)
		fail_child(&h->kvd, "fsck is not clean");

	struct kvd_row_status s;
	host_status(h, &s);
	uint64_t sum = s.tail_bytes + s.unassigned_bytes + s.scrub_bytes;
	for (unsigned i = 0; i < KVD_FRAME_STATES; i++)
		sum += s.frame_bytes[i];
	if (sum != s.pool_bytes)
		fail_child(&h->kvd, "states sum to %llu bytes, the pool has %llu", (unsigned long long)sum,
			   (unsigned long long)s.pool_bytes);
}

void host_settle(struct host *h)
{
	struct kvd_row_status s;
	for (uint64_t deadline = host_now_usec() + 10000000u * test_slow(); ; sleep_usec(5000)) {
		host_status(h, &s);
		if (s.sequences == 0 && s.frames[KVD_FRAME_OPEN] == 0 && s.frames[KVD_FRAME_RETIRING] == 0 &&
		    s.frames[KVD_FRAME_QUARANTINED] == 0 && s.frames[KVD_FRAME_FILLING] == 0)
			break;
		if (host_now_usec() > deadline)
			fail_child(&h->kvd, "not settled: %u sequences, frames open %llu retiring %llu "
				   "quarantined %llu filling %llu", s.sequences,
				   (unsigned long long)s.frames[KVD_FRAME_OPEN],
				   (unsigned long long)s.frames[KVD_FRAME_RETIRING],
				   (unsigned long long)s.frames[KVD_FRAME_QUARANTINED],
				   (unsigned long long)s.frames[KVD_FRAME_FILLING]);
	}
	host_fsck(h);
}

uint64_t host_proc_kib(pid_t pid, const char *field)
{
	char path[64], line[256];
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	FILE *f = fopen(path, "r");
	if (!f)
		fail_child(NULL, "cannot read %s", path);
	unsigned long long kib = 0;
	size_t n = strlen(field);
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, field, n) && line[n] == ':')
			sscanf(line + n + 1, "%llu", &kib);
	fclose(f);
	return kib;
}

unsigned host_proc_fds(pid_t pid)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	DIR *d = opendir(path);
	unsigned n = 0;
	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

const char *host_path(const char *relative)
{
	/* test programs lie in build[/SAN]/tests; the root is where the Makefile is */
	static char paths[4][PATH_MAX];
	static unsigned next;
	char *ret = paths[next++ % 4];
	char exe[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	exe[n > 0 ? n : 0] = '\0';
	for (char *dir = dirname(exe); strlen(dir) > 1; dir = dirname(dir)) {
		snprintf(ret, PATH_MAX, "%s/Makefile", dir);
		if (access(ret, F_OK) == 0) {
			snprintf(ret, PATH_MAX, "%s/%s", dir, relative);
			return ret;
		}
	}
	snprintf(ret, PATH_MAX, "%s", relative);
	return ret;
}

const char *host_model_bundled(void)
{
	/* kept for as long as the caller likes: host_path() reuses its buffers */
	static char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s", host_path("tests/data/bundled/kvd-bundled.gguf"));
	return path;
}

const char *host_model_smollm2(void)
{
	static char path[PATH_MAX];
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	if (cache && *cache)
		snprintf(path, sizeof(path), "%s/kvd/models/SmolLM2-135M-Instruct.Q4_1.gguf", cache);
	else
		snprintf(path, sizeof(path), "%s/.cache/kvd/models/SmolLM2-135M-Instruct.Q4_1.gguf",
			 home ? home : "");
	return access(path, R_OK) == 0 ? path : NULL;
}

const char *host_model_stories(void)
{
	static char path[PATH_MAX];
	const char *shared = getenv("KVD_SHARED");
	if (shared && *shared)
		snprintf(path, sizeof(path), "%s/models/stories260K.gguf", shared);
	else
		snprintf(path, sizeof(path), "%s", host_path("../shared/models/stories260K.gguf"));
	return access(path, R_OK) == 0 ? path : NULL;
}

char *host_read_file(const char *path, size_t *ret_bytes)
{
	FILE *f = fopen(path, "r");
	if (!f)
		fail_child(NULL, "cannot read %s: %s", path, strerror(errno));
	fseek(f, 0, SEEK_END);
	long n = ftell(f);
	rewind(f);
	char *text = malloc((size_t)n + 1);
	if (fread(text, 1, (size_t)n, f) != (size_t)n)
		fail_child(NULL, "short read of %s", path);
	text[n] = '\0';
	fclose(f);
	if (ret_bytes)
		*ret_bytes = (size_t)n;
	return text;
}
