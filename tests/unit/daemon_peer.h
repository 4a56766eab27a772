/* daemon_peer.h - a real kvd on a socket of its own, and raw packets to it; for test_daemon_*.c.
 *
 * Deliberately without libkvd: these tests send what no library would. */
#ifndef TESTS_DAEMON_PEER_H
#define TESTS_DAEMON_PEER_H

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvd/admin.h"
#include "kvd/proto.h"
#include "kvd/shm.h"
#include "tests/lib/suite.h"

static const char *const loops[] = { "uring", "epoll" };
static char kvd_program[PATH_MAX], kvd_dir[64], kvd_socket[96];
static pid_t kvd_pid;
static uint32_t hello_version_max = KVD_PROTO_MAX; /* lower: an older peer */
static void (*kvd_before_exec)(void); /* in the child */

/* What the last receive() brought. */
static _Alignas(8) uint8_t packet[KVD_MSG_MAX];
static int packet_fds[4];
static unsigned packet_n_fds;

__attribute__((unused))
static bool have_kvd(void)
{
	char *slash;
	ssize_t n = readlink("/proc/self/exe", kvd_program, sizeof(kvd_program) - 16);

	kvd_program[n > 0 ? n : 0] = '\0';
	for (int i = 0; i < 2; i++)
		if ((slash = strrchr(kvd_program, '/')))
			*slash = '\0';
	strcat(kvd_program, "/bin/kvd"); /* build/[asan/]tests/X -> build/[asan/]bin/kvd */
	if (access(kvd_program, X_OK) == 0)
		return true;
	printf("skipped: %s is not built\n", kvd_program);
	return false;
}

static int connect_raw(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = 10 };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	strcpy(address.sun_path, kvd_socket);
	/* Nothing here may hang a test run. */
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

__attribute__((unused))
static void kvd_spawn(const char *loop, const char *const *more)
{
	const char *arguments[24] = { kvd_program, "--pool",	  "64M",      "--extent",
				      "1M",	   "--socket",	  kvd_socket, "--loop",
				      loop,	   "--log-level", "error" };
	unsigned n = 11;

	while (more && *more)
		arguments[n++] = *more++;
	kvd_pid = fork();
	ck_assert_int_ge(kvd_pid, 0);
	if (kvd_pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (kvd_before_exec)
			kvd_before_exec();
		execv(kvd_program, (char *const *)arguments);
		_exit(127);
	}
	for (unsigned i = 0; i < 500; i++) {
		int fd = connect_raw();

		if (fd >= 0) {
			close(fd);
			return;
		}
		usleep(10000);
	}
	ck_abort_msg("kvd does not answer at %s", kvd_socket);
}

__attribute__((unused))
static void kvd_start(const char *loop, const char *const *more)
{
	strcpy(kvd_dir, "/tmp/kvd-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(kvd_dir));
	ck_assert_int_eq(chmod(kvd_dir, 0755), 0);
	snprintf(kvd_socket, sizeof(kvd_socket), "%s/kvd.sock", kvd_dir);
	kvd_spawn(loop, more);
}

/* kvd must end by itself, with status 0, and leave nothing. */
__attribute__((unused))
static void kvd_stop(void)
{
	int status;

	ck_assert_int_eq(kill(kvd_pid, SIGTERM), 0);
	ck_assert_int_eq(waitpid(kvd_pid, &status, 0), kvd_pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "kvd ended with status %#x",
		      (unsigned)status);
	ck_assert_int_lt(access(kvd_socket, F_OK), 0);
	ck_assert_int_eq(rmdir(kvd_dir), 0);
}

__attribute__((unused))
static unsigned kvd_count_fds(void)
{
	char path[64];
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", kvd_pid);
	dir = opendir(path);
	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

__attribute__((unused))
static void send_fds(int fd, const void *bytes, size_t n, const int *fds,
					     unsigned n_fds)
{
	union {
		char bytes[CMSG_SPACE(8 * sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec iov = { (void *)bytes, n };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *c;

	message.msg_control = control.bytes;
	message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
	c = CMSG_FIRSTHDR(&message);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
	memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
	ck_assert_int_eq(sendmsg(fd, &message, MSG_NOSIGNAL), (ssize_t)n);
}

/* One packet: its size; 0: closed.  Doorbells are skipped. */
static size_t receive(int fd)
{
	for (;;) {
		union {
			char bytes[CMSG_SPACE(4 * sizeof(int))];
			struct cmsghdr align;
		} control;
		struct iovec iov = { packet, sizeof(packet) };
		struct msghdr message = {
			.msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = control.bytes,
			.msg_controllen = sizeof(control),
		};
		ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);

		packet_n_fds = 0;
		if (n < 0 && (errno == ECONNRESET || errno == EPIPE))
			return 0;
		ck_assert_msg(n >= 0, "kvd is silent: %s", strerror(errno));
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
			packet_n_fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			memcpy(packet_fds, CMSG_DATA(c), packet_n_fds * sizeof(int));
		}
		if (n == 1 && packet[0] == 0)
			continue;
		return (size_t)n;
	}
}

/* The next message must be of this type; others that kvd sends on its own are passed over. */
static const void *expect(int fd, uint16_t type)
{
	const struct kvd_msg *m = (const struct kvd_msg *)packet;

	for (;;) {
		size_t n = receive(fd);

		ck_assert_msg(n >= sizeof(*m), "kvd has closed the connection; wanted message %u",
			      type);
		ck_assert_uint_eq(m->size, n);
		if (m->type == type)
			return packet;
		ck_assert_msg(m->type == KVD_M_EXTENT_MAP || m->type == KVD_M_EXTENT_UNMAP ||
				      m->type == KVD_M_CLIENT_NEW,
			      "message %u instead of %u: %s", m->type, type,
			      m->type == KVD_M_ERROR ? ((const struct kvd_msg_error *)packet)->text
						     : "");
		for (unsigned i = 0; i < packet_n_fds; i++)
			close(packet_fds[i]);
	}
}

__attribute__((unused))
static void expect_closed(int fd)
{
	for (;;) {
		size_t n = receive(fd);

		for (unsigned i = 0; i < packet_n_fds; i++)
			close(packet_fds[i]);
		if (n == 0)
			break;
	}
	close(fd);
}

__attribute__((unused))
static const struct kvd_msg_error *expect_error(int fd,
									enum kvd_status status)
{
	const struct kvd_msg_error *error = expect(fd, KVD_M_ERROR);

	ck_assert_msg(error->m.status == status, "status %u: %s", error->m.status, error->text);
	ck_assert_msg(error->text[0] != '\0', "an error without a sentence");
	return error;
}

static void send_hello(int fd, uint32_t role, const char *tenant)
{
	struct kvd_msg_hello hello = {
		.m = { .type = KVD_M_HELLO, .size = sizeof(hello), .seq = 1 },
		.version_min = KVD_PROTO_MIN,
		.version_max = hello_version_max,
		.role = role,
		.program = "test",
	};

	strcpy(hello.tenant, tenant);
	ck_assert_int_eq(send(fd, &hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
}

static int connect_as(uint32_t role, const char *tenant)
{
	int fd = connect_raw();
	const struct kvd_msg_welcome *welcome;

	ck_assert_int_ge(fd, 0);
	send_hello(fd, role, tenant);
	welcome = expect(fd, KVD_M_WELCOME);
	ck_assert_uint_eq(welcome->m.seq, 1);
	ck_assert_uint_eq(welcome->version, hello_version_max);
	return fd;
}

static void send_query(int fd, uint32_t what, uint32_t seq)
{
	struct kvd_msg_query query = {
		.m = { .type = KVD_M_QUERY, .size = sizeof(query), .seq = seq }, .what = what
	};

	ck_assert_int_eq(send(fd, &query, sizeof(query), MSG_NOSIGNAL), sizeof(query));
}

/* Rows of an answer, malloc'ed. */
static void *query(int fd, uint32_t what, uint64_t *ret_n)
{
	const struct kvd_msg_rows *reply;
	size_t bytes;
	void *rows;

	send_query(fd, what, 77);
	reply = expect(fd, KVD_M_ROWS);
	ck_assert_uint_eq(reply->m.seq, 77);
	ck_assert_uint_eq(reply->what, what);
	ck_assert_uint_eq(packet_n_fds, 1);
	bytes = reply->n_rows * reply->row_bytes;
	rows = calloc(1, bytes + 1);
	ck_assert_int_eq(pread(packet_fds[0], rows, bytes + 1, 0), (ssize_t)bytes);
	ck_assert_int_ne(fcntl(packet_fds[0], F_GET_SEALS) & F_SEAL_WRITE, 0);
	close(packet_fds[0]);
	if (ret_n)
		*ret_n = reply->n_rows;
	return rows;
}

__attribute__((unused))
static struct kvd_row_status status_now(void)
{
	int fd = connect_as(KVD_ROLE_CLIENT, "");
	struct kvd_row_status *rows = query(fd, KVD_Q_STATUS, NULL), row = *rows;

	free(rows);
	close(fd);
	return row;
}

/* The accounting check that closes every test. */
__attribute__((unused))
static void expect_clean(void)
{
	int fd = connect_as(KVD_ROLE_CLIENT, "");
	uint64_t n;
	struct kvd_row_fsck *rows = query(fd, KVD_Q_FSCK, &n);

	ck_assert_msg(n == 1 && rows[0].problem[0] == '\0', "fsck: %s", rows[0].problem);
	free(rows);
	close(fd);
}

/* Wait until the daemon holds n descriptors again. */
__attribute__((unused))
static void expect_fds(unsigned n)
{
	unsigned now = 0;

	for (unsigned i = 0; i < 500; i++) {
		now = kvd_count_fds();
		if (now == n)
			return;
		usleep(10000);
	}
	ck_abort_msg("kvd has %u descriptors, had %u", now, n);
}

/* All extents have memory: the number of descriptors is steady from here on. */
__attribute__((unused))
static unsigned settled_fds(void)
{
	for (unsigned i = 0, last = 0, same = 0; i < 500; i++) {
		unsigned now = kvd_count_fds();

		same = now == last ? same + 1 : 0;
		if (same >= 20)
			return now;
		last = now;
		usleep(10000);
	}
	ck_abort_msg("the number of kvd's descriptors does not settle");
}

/* Run a program's tests; its exit code. */
static int run_tests(const char *name, TCase *tcase)
{
	Suite *suite = suite_create(name);

	suite_add_tcase(suite, tcase);
	return suite_result(suite);
}

#endif
