/* fake_kvd.c - see fake_kvd.h.  Runs in a forked child; the parent only starts and waits. */
#include "tests/lib/fake_kvd.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/packet.h"
#include "tests/lib/slow.h"

#define FAKE_WAIT_MS 5000

uint32_t fake_kvd_version = KVD_PROTO_MAX;

void fake_kvd_unexpected(const char *file, int line, const char *condition)
{
	fprintf(stderr, "fake kvd: %s:%d: not so: %s (errno %s)\n", file, line, condition,
		strerror(errno));
	_exit(1);
}

void fake_kvd_start(struct fake_kvd *f, void (*serve)(int listen_fd))
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(f->dir, sizeof(f->dir), "/tmp/kvd-fake-XXXXXX");
	FAKE_EXPECT(mkdtemp(f->dir) != NULL);
	snprintf(f->path, sizeof(f->path), "%s/kvd.sock", f->dir);
	memcpy(address.sun_path, f->path, sizeof(f->path));
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	FAKE_EXPECT(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
	FAKE_EXPECT(listen(fd, 16) == 0);
	f->pid = fork();
	FAKE_EXPECT(f->pid >= 0);
	if (f->pid == 0) {
		alarm(30 * test_slow());
		serve(fd);
		_exit(0);
	}
	close(fd);
}

int fake_kvd_finish(struct fake_kvd *f)
{
	int status = 0;
	for (int i = 0; i < 1000 && waitpid(f->pid, &status, WNOHANG) == 0; i++) {
		if (i == 999) {
			kill(f->pid, SIGKILL);
			waitpid(f->pid, &status, 0);
		}
		usleep(10000);
	}
	unlink(f->path);
	rmdir(f->dir);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

static void fake_wait(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	FAKE_EXPECT(poll(&p, 1, FAKE_WAIT_MS) == 1);
}

size_t fake_kvd_receive(int fd, void *packet)
{
	struct kvd_packet got;
	fake_wait(fd);
	int r = kvd_packet_receive(fd, packet, KVD_MSG_MAX, &got);
	if (r == -ENOTCONN)
		return 0;
	FAKE_EXPECT(r == 0);
	kvd_packet_close_fds(&got);
	return got.bytes;
}

void fake_kvd_receive_type(int fd, uint16_t type, void *packet, size_t min_bytes)
{
	const struct kvd_msg *m = packet;
	size_t n;
	do
		n = fake_kvd_receive(fd, packet);
	while (n == 1);            /* a doorbell */
	FAKE_EXPECT(n >= sizeof(*m) && m->size == n);
	FAKE_EXPECT(m->type == type && n >= min_bytes);
}

void fake_kvd_send(int fd, const void *message, size_t bytes, const int *fds, uint32_t n_fds)
{
	FAKE_EXPECT(kvd_packet_send_until(fd, message, bytes, fds, n_fds,
					  kvd_clock_usec() + 5000000u * test_slow()) == 0);
}

int fake_kvd_accept(int listen_fd, enum kvd_role role)
{
	_Alignas(8) uint8_t packet[KVD_MSG_MAX];
	const struct kvd_msg_hello *hello = (const struct kvd_msg_hello *)packet;
	struct kvd_msg_welcome welcome = {
		.m = { .type = KVD_M_WELCOME, .size = sizeof(welcome) },
		.version = fake_kvd_version,
		.kvd_pid = (uint32_t)getpid(),
		.pool_bytes = FAKE_POOL_BYTES,
		.extent_bytes = FAKE_EXTENT_BYTES,
		.slot_bits = 7,
		.page_tokens = 16,
		.admin = 1,
		.uid = getuid(),
		.gid = getgid(),
		.tenant = "acme",
		.domain = "acme",
		.kvd_version = "0.1.0",
	};

	fake_wait(listen_fd);
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	FAKE_EXPECT(fd >= 0);
	fake_kvd_receive_type(fd, KVD_M_HELLO, packet, sizeof(*hello));
	FAKE_EXPECT(hello->role == (uint32_t)role && hello->version_max >= 1 && hello->m.seq == 1);
	welcome.m.seq = hello->m.seq;
	fake_kvd_send(fd, &welcome, sizeof(welcome), NULL, 0);
	return fd;
}

int fake_kvd_introduce(int control_fd, uint32_t seq, const char *model, const char *engine)
{
	struct kvd_msg_stream stream = {
		.m = { .type = KVD_M_STREAM, .size = sizeof(stream), .seq = seq },
		.client = 5,
		.tenant = "acme",
	};
	int pair[2];

	FAKE_EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	snprintf(stream.model, sizeof(stream.model), "%s", model);
	snprintf(stream.engine, sizeof(stream.engine), "%s", engine);
	fake_kvd_send(control_fd, &stream, sizeof(stream), &pair[0], 1);
	close(pair[0]);
	return pair[1];
}

int fake_kvd_memory(size_t bytes)
{
	int fd = memfd_create("fake", MFD_CLOEXEC);
	FAKE_EXPECT(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	return fd;
}
