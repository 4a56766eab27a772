/* packet.c - sending and receiving packets with descriptors.
 *
 * Owns nothing: every descriptor belongs to the caller.  Runs on the caller's thread.  Never raises
 * SIGPIPE, never blocks except in the two functions whose name ends in _until. */
#include "client/packet.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

uint64_t kvd_clock_usec(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

int kvd_wait_until(int fd, short events, uint64_t deadline_usec)
{
	struct pollfd p = { .fd = fd, .events = events };
	for (;;) {
		uint64_t now = kvd_clock_usec();
		int timeout_ms = -1;
		if (deadline_usec != KVD_NEVER) {
			/* Rounded up, or the last millisecond would be spent spinning. */
			uint64_t left_ms =
				deadline_usec > now ? (deadline_usec - now + 999u) / 1000u : 0;
			timeout_ms = left_ms > 3600000u ? 3600000 : (int)left_ms;
		}
		int r = poll(&p, 1, timeout_ms);
		if (r > 0)
			return 1;
		if (r < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		if (deadline_usec != KVD_NEVER && kvd_clock_usec() >= deadline_usec)
			return 0;
	}
}

int kvd_packet_send(int fd, const void *bytes, size_t n_bytes, const int *fds, uint32_t n_fds)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int) * KVD_PACKET_FDS_MAX)];
	} control;
	struct iovec part = { .iov_base = (void *)bytes, .iov_len = n_bytes };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (n_fds > KVD_PACKET_FDS_MAX)
		return -EINVAL;
	if (n_fds > 0) {
		memset(&control, 0, sizeof(control));
		message.msg_control = control.room;
		message.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		struct cmsghdr *c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	for (;;) {
		ssize_t r = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (r >= 0)
			return (size_t)r == n_bytes ? 0 : -EPROTO;
		if (errno == EINTR)
			continue;
		if (errno == EPIPE || errno == ECONNRESET)
			return -ENOTCONN;
		return errno == EWOULDBLOCK ? -EAGAIN : -errno;
	}
}

int kvd_packet_send_until(int fd, const void *bytes, size_t n_bytes, const int *fds, uint32_t n_fds,
			  uint64_t deadline_usec)
{
	for (;;) {
		int r = kvd_packet_send(fd, bytes, n_bytes, fds, n_fds);
		if (r != -EAGAIN)
			return r;
		r = kvd_wait_until(fd, POLLOUT, deadline_usec);
		if (r < 0)
			return r;
		if (r == 0)
			return -ETIMEDOUT;
	}
}

/* Collect the descriptors of a received message into ret. */
static void packet_collect_fds(struct msghdr *message, struct kvd_packet *ret)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (ret->n_fds < KVD_PACKET_FDS_MAX)
				ret->fds[ret->n_fds++] = fd;
			else
				close(fd);
		}
	}
}

int kvd_packet_receive(int fd, void *buffer, size_t max, struct kvd_packet *ret)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int) * KVD_PACKET_FDS_MAX)];
	} control;
	struct iovec part = { .iov_base = buffer, .iov_len = max };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1,
		.msg_control = control.room, .msg_controllen = sizeof(control.room),
	};
	ssize_t r;

	ret->bytes = 0;
	ret->n_fds = 0;
	/* A peer that closes with unread packets of ours leaves one ECONNRESET before the packets that
	 * it sent itself, its last words among them: the end of the connection is a read of 0 only. */
	for (int resets = 0;;) {
		r = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (r >= 0 || (errno != EINTR && (errno != ECONNRESET || resets++ > 0)))
			break;
	}
	if (r < 0) {
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			return -EAGAIN;
		return errno == ECONNRESET || errno == EPIPE ? -ENOTCONN : -errno;
	}
	packet_collect_fds(&message, ret);
	if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		kvd_packet_close_fds(ret);
		return -EPROTO;
	}
	if (r == 0) {
		/* The end of the connection; nobody sends empty packets. */
		kvd_packet_close_fds(ret);
		return -ENOTCONN;
	}
	ret->bytes = (size_t)r;
	return 0;
}

int kvd_packet_take_fd(struct kvd_packet *packet, uint32_t i)
{
	if (i >= packet->n_fds)
		return -1;
	int fd = packet->fds[i];
	packet->fds[i] = -1;
	return fd;
}

void kvd_packet_close_fds(struct kvd_packet *packet)
{
	for (uint32_t i = 0; i < packet->n_fds; i++)
		if (packet->fds[i] >= 0)
			close(packet->fds[i]);
	packet->n_fds = 0;
}
