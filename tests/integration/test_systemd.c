/* test_systemd.c - kvd as systemd meets it: units, socket, READY, RELOADING, WATCHDOG, journal.
 *
 * PID 1 of a test machine need not be systemd: what it would do is done here, by systemd's own
 * systemd-analyze and systemd-socket-activate where they are installed, and by sockets that stand for its
 * notification socket and its journal. */
#include "tests/unit/daemon_peer.h"

#include <sched.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <time.h>

#include "kvd/core/book.h"
#include "tests/lib/slow.h"

static char dir[64], notify_path[96], config_path[96];
static int notify_fd = -1;
static char watchdog_usec[24];

static uint64_t now_usec(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void write_config(const char *format, ...)
{
	FILE *file = fopen(config_path, "w");
	va_list args;

	ck_assert_ptr_nonnull(file);
	va_start(args, format);
	vfprintf(file, format, args);
	va_end(args);
	ck_assert_int_eq(fclose(file), 0);
}

static void in_child(void)
{
	setenv("NOTIFY_SOCKET", notify_path, 1);
	unsetenv("WATCHDOG_PID");
	if (watchdog_usec[0])
		setenv("WATCHDOG_USEC", watchdog_usec, 1);
}

/* A notification socket and a kvd that knows it. */
static void start(unsigned watchdog_ms)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = 10 * (time_t)test_slow() };
	const char *more[] = { "--config", config_path, NULL };

	strcpy(dir, "/tmp/kvd-systemd-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(notify_path, sizeof(notify_path), "%s/notify", dir);
	snprintf(config_path, sizeof(config_path), "%s/kvd.conf", dir);
	write_config("[tenant a]\nmax = 16M\n");
	notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	strcpy(address.sun_path, notify_path);
	ck_assert_int_eq(bind(notify_fd, (struct sockaddr *)&address, sizeof(address)), 0);
	setsockopt(notify_fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	watchdog_usec[0] = '\0';
	if (watchdog_ms)
		snprintf(watchdog_usec, sizeof(watchdog_usec), "%u", watchdog_ms * 1000 * test_slow());
	kvd_before_exec = in_child;
	kvd_start("auto", more);
}

static void stop(void)
{
	kvd_stop();
	close(notify_fd);
	unlink(notify_path);
	unlink(config_path);
	ck_assert_int_eq(rmdir(dir), 0);
}

/* The next notification that has the word in it; others are passed over. */
static const char *notified(const char *word)
{
	static char text[2048];

	for (unsigned i = 0; i < 100; i++) {
		ssize_t n = recv(notify_fd, text, sizeof(text) - 1, 0);

		ck_assert_msg(n > 0, "no %s: %s", word, strerror(errno));
		text[n] = '\0';
		if (strstr(text, word))
			return text;
	}
	ck_abort_msg("a hundred notifications and no %s; the last: %s", word, text);
}

START_TEST(ready_and_reloaded)
{
	const char *text;
	uint64_t before_usec, said_usec;

	start(0);
	text = notified("READY=1");
	ck_assert_ptr_nonnull(strstr(text, "STATUS=pool 64 MiB"));
	write_config("[tenant a]\nmax = 32M\n[tenant b]\nuid = 77\n");
	before_usec = now_usec();
	ck_assert_int_eq(kill(kvd_pid, SIGHUP), 0);
	text = notified("RELOADING=1");
	text = strstr(text, "MONOTONIC_USEC=");
	ck_assert_ptr_nonnull(text);
	said_usec = strtoull(text + 15, NULL, 10);
	ck_assert_uint_ge(said_usec, before_usec);
	ck_assert_uint_le(said_usec, now_usec());
	ck_assert_ptr_nonnull(strstr(notified("READY=1"), "configuration read again"));
	write_config("[tenant a]\nmax = much\n");
	ck_assert_int_eq(kill(kvd_pid, SIGHUP), 0);
	notified("RELOADING=1");
	text = notified("READY=1");
	ck_assert_ptr_nonnull(strstr(text, "configuration refused"));
	ck_assert_ptr_nonnull(strstr(text, "kvd.conf:2: [tenant a] max = much is not a size"));
	expect_clean();
	ck_assert_int_eq(kill(kvd_pid, SIGTERM), 0);
	notified("STOPPING=1");
	stop();
}
END_TEST

/* kvd's book, in its own memory, for writing: what no program but a debugger does. */
static struct core *book_of_kvd(size_t *ret_bytes)
{
	char path[64], target[64];
	struct stat st;

	for (int i = 3; i < 1024; i++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/%d/fd/%d", kvd_pid, i);
		n = readlink(path, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		if (strncmp(target, "/memfd:kvd-book", 15))
			continue;
		int fd = open(path, O_RDWR | O_CLOEXEC);
		ck_assert_int_ge(fd, 0);
		ck_assert_int_eq(fstat(fd, &st), 0);
		void *book = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
		ck_assert_ptr_ne(book, MAP_FAILED);
		close(fd);
		*ret_bytes = (size_t)st.st_size;
		return book;
	}
	ck_abort_msg("kvd %d has no book", kvd_pid);
}

/* Nothing but WATCHDOG=1 may come; how many came in that time. */
static unsigned pings_within(unsigned ms)
{
	uint64_t until_usec = now_usec() + (uint64_t)ms * 1000;
	unsigned n = 0;
	char text[256];

	while (now_usec() < until_usec) {
		struct pollfd wait = { .fd = notify_fd, .events = POLLIN };

		if (poll(&wait, 1, (int)((until_usec - now_usec()) / 1000) + 1) <= 0)
			continue;
		ssize_t got = recv(notify_fd, text, sizeof(text) - 1, 0);
		ck_assert_int_gt(got, 0);
		text[got] = '\0';
		n += !strcmp(text, "WATCHDOG=1");
	}
	return n;
}

/* A ping each half of systemd's time while all is well; none while kvd does not run; none ever again once its
 * book is wrong. */
START_TEST(watchdog_is_fed_by_a_healthy_book_only)
{
	unsigned ms = 400 * test_slow();
	struct core *book;
	size_t book_bytes;
	uint64_t tail_bytes;

	start(400);
	notified("READY=1");
	notified("WATCHDOG=1");
	unsigned n = pings_within(ms * 3);
	ck_assert_msg(n >= 3 && n <= 7, "%u pings in three periods", n);
	ck_assert_int_eq(kill(kvd_pid, SIGSTOP), 0);
	(void)pings_within(ms);
	ck_assert_uint_eq(pings_within(ms), 0);
	ck_assert_int_eq(kill(kvd_pid, SIGCONT), 0);
	notified("WATCHDOG=1");
	ck_assert_uint_eq(status_now().healthy, 1);

	book = book_of_kvd(&book_bytes);
	tail_bytes = book->tail_bytes;
	*(uint64_t *)(uintptr_t)&book->tail_bytes = tail_bytes + 1;
	(void)pings_within(ms); /* one may be under way */
	ck_assert_uint_eq(pings_within(ms * 2), 0);
	ck_assert_uint_eq(status_now().healthy, 0);
	/* Right again is not trusted again. */
	*(uint64_t *)(uintptr_t)&book->tail_bytes = tail_bytes;
	ck_assert_uint_eq(pings_within(ms * 2), 0);
	munmap(book, book_bytes);
	stop();
}
END_TEST

/* ---- the journal ---- */

static int journal_ends[2];

static void with_journal(void)
{
	char stream[64];
	struct stat st;

	if (dup2(journal_ends[1], STDERR_FILENO) < 0 || fstat(STDERR_FILENO, &st) < 0)
		_exit(126);
	snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
}

/* An entry of the native protocol as text, its lines between '\n'. */
static bool entry_has(const char *entry, const char *field)
{
	char line[256];

	snprintf(line, sizeof(line), "\n%s\n", field);
	return strstr(entry, line) != NULL;
}

START_TEST(the_journal_gets_fields)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/run/systemd/journal/socket" };
	struct timeval patience = { .tv_sec = 10 * (time_t)test_slow() };
	const char *more[] = { "--log-level", "info", NULL };
	static char entry[16384];
	int journal;
	ssize_t n = 0;

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", "/run", "tmpfs", 0, "mode=755") < 0) {
		printf("skipped: no mount namespace here: %s\n", strerror(errno));
		return;
	}
	ck_assert_int_eq(mkdir("/run/systemd", 0755), 0);
	ck_assert_int_eq(mkdir("/run/systemd/journal", 0755), 0);
	journal = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(journal, (struct sockaddr *)&address, sizeof(address)), 0);
	setsockopt(journal, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, journal_ends), 0);
	kvd_before_exec = with_journal;
	kvd_start("auto", more);
	entry[0] = '\n';
	for (unsigned i = 0; i < 20 && !entry_has(entry, "KVD_EVENT=ready"); i++) {
		n = recv(journal, entry + 1, sizeof(entry) - 2, 0);
		ck_assert_msg(n > 0, "nothing for the journal: %s", strerror(errno));
		entry[n + 1] = '\0';
	}
	ck_assert_msg(entry_has(entry, "KVD_POOL_BYTES=67108864"), "%s", entry);
	ck_assert(entry_has(entry, "PRIORITY=6"));
	ck_assert(entry_has(entry, "SYSLOG_IDENTIFIER=kvd"));
	ck_assert(entry_has(entry, "KVD_DEVICE=host"));
	ck_assert_ptr_nonnull(strstr(entry, "\nMESSAGE=ready version="));
	/* And nothing to the stream, where systemd would take each line a second time. */
	ck_assert_int_lt(recv(journal_ends[0], entry, sizeof(entry), MSG_DONTWAIT), 0);
	kvd_before_exec = NULL;
	kvd_stop();
	close(journal);
}
END_TEST

/* ---- the units, by systemd's own programs ---- */

static bool have_program(const char *path)
{
	if (access(path, X_OK) == 0)
		return true;
	printf("skipped: %s is not installed (apt-get install systemd)\n", path);
	return false;
}

/* Run a shell command; its exit status.  Output to `log`. */
static int run(const char *log, const char *format, ...)
{
	char command[1024] = "(";
	va_list args;
	int n, status;

	va_start(args, format);
	n = 1 + vsnprintf(command + 1, sizeof(command) - 1, format, args);
	va_end(args);
	n += snprintf(command + n, sizeof(command) - (size_t)n, ") >%s 2>&1 </dev/null", log);
	ck_assert_int_lt(n, (int)sizeof(command));
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static const char *read_log(const char *path)
{
	static char text[8192];
	int fd = open(path, O_RDONLY);
	ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : 0;

	text[n > 0 ? n : 0] = '\0';
	close(fd);
	return text;
}

/* What `make install` puts somewhere passes systemd-analyze, and `make uninstall` leaves nothing. */
START_TEST(units_are_clean)
{
	static const char *const units[] = { "kvd.socket", "kvd.slice", "kvd.service", "kvd-engine@.service" };
	char root[] = "/tmp/kvd-install-XXXXXX", log[96];
	const char *san = strstr(kvd_program, "/asan/")	   ? "SAN=asan"
			  : strstr(kvd_program, "/ubsan/") ? "SAN=ubsan"
			  : strstr(kvd_program, "/tsan/")  ? "SAN=tsan"
							   : "";

	if (!have_program("/usr/bin/systemd-analyze"))
		return;
	ck_assert_ptr_nonnull(mkdtemp(root));
	snprintf(log, sizeof(log), "%s.log", root);
	unsetenv("MAKEFLAGS");
	unsetenv("MAKELEVEL");
	if (access("Makefile", R_OK) < 0) {
		printf("skipped: not run in the source tree\n");
		rmdir(root);
		return;
	}
	ck_assert_msg(!run(log, "make -s %s install PREFIX=%s/usr", san, root), "%s", read_log(log));
	setenv("MANPATH", "/nowhere", 1);
	for (unsigned i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		int r = run(log, "systemd-analyze --man=no verify %s/usr/lib/systemd/system/%s", root, units[i]);

		ck_assert_msg(r == 0 && !*read_log(log), "%s: %d: %s", units[i], r, read_log(log));
	}
	/* In tenths: 1.5 of 10 is the bound. */
	ck_assert_msg(!run(log, "systemd-analyze security --no-pager --offline=yes --threshold=15 "
				"%s/usr/lib/systemd/system/kvd.service", root),
		      "%s", read_log(log));
	ck_assert_msg(!run(log, "systemd-analyze security --no-pager --offline=yes --threshold=15 "
				"%s/usr/lib/systemd/system/kvd-engine@.service", root),
		      "%s", read_log(log));
	/* A unit without its hardening must fail the same check, or the check is none. */
	ck_assert_int_eq(run(log, "grep -v -e Protect -e Capability -e Restrict -e SystemCall "
				  "%s/usr/lib/systemd/system/kvd.service >%s/bare.service; "
				  "systemd-analyze security --no-pager --offline=yes --threshold=15 %s/bare.service",
			     root, root, root), 1);
	ck_assert_msg(!run(log, "systemd-sysusers --dry-run %s/usr/lib/sysusers.d/kvd.conf", root),
		      "%s", read_log(log));
	/* The file it installs is a configuration, and a changed one is not overwritten. */
	ck_assert_msg(!run(log, "%s --check-config --config %s/usr/etc/kvd/kvd.conf", kvd_program, root), "%s",
		      read_log(log));
	ck_assert(!run(log, "rm %s/bare.service; echo '[kvd]' >>%s/usr/etc/kvd/kvd.conf", root, root));
	ck_assert_msg(!run(log, "make -s %s install uninstall PREFIX=%s/usr", san, root), "%s", read_log(log));
	ck_assert_msg(!run(log, "test \"$(find %s -type f -o -type l)\" = %s/usr/etc/kvd/kvd.conf",
			   root, root),
		      "left: %s", read_log(log));
	ck_assert_int_eq(run(log, "rm -r %s", root), 0);
	unlink(log);
}
END_TEST

/* systemd's own activator makes the socket, waits for the first connection and hands over. */
START_TEST(activated_by_systemd)
{
	char listen[128];
	struct kvd_row_status row;

	if (!have_program("/usr/bin/systemd-socket-activate"))
		return;
	strcpy(kvd_dir, "/tmp/kvd-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(kvd_dir));
	snprintf(kvd_socket, sizeof(kvd_socket), "%s/kvd.sock", kvd_dir);
	snprintf(listen, sizeof(listen), "--listen=%s", kvd_socket);
	kvd_pid = fork();
	if (kvd_pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl("/usr/bin/systemd-socket-activate", "systemd-socket-activate", "--seqpacket", listen, kvd_program,
		      "--pool", "64M", "--extent", "1M", "--socket", kvd_socket, "--log-level", "error", NULL);
		_exit(127);
	}
	for (unsigned i = 0; i < 500 && access(kvd_socket, F_OK) < 0; i++)
		usleep(10000);
	row = status_now(); /* the connection that starts it is served */
	ck_assert_uint_eq(row.kvd_pid, (uint32_t)kvd_pid);
	ck_assert_uint_eq(row.pool_bytes, 64u << 20);
	expect_clean();
	ck_assert_int_eq(kill(kvd_pid, SIGTERM), 0);
	ck_assert_int_eq(waitpid(kvd_pid, NULL, 0), kvd_pid);
	ck_assert_int_eq(access(kvd_socket, F_OK), 0); /* systemd's, so it stays */
	unlink(kvd_socket);
	ck_assert_int_eq(rmdir(kvd_dir), 0);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("systemd");

	if (!have_kvd())
		return 0;
	tcase_set_timeout(tcase, 120);
	tcase_add_test(tcase, ready_and_reloaded);
	tcase_add_test(tcase, watchdog_is_fed_by_a_healthy_book_only);
	tcase_add_test(tcase, the_journal_gets_fields);
	tcase_add_test(tcase, units_are_clean);
	tcase_add_test(tcase, activated_by_systemd);
	return run_tests("systemd", tcase);
}
