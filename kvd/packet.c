/* packet.c - see packet.h.  Owns nothing. */
#include "kvd/packet.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

union control {
	char bytes[CMSG_SPACE(PACKET_FDS_MAX * sizeof(int))];
	struct cmsghdr align;
};

int packet_send(int fd, const void *bytes, size_t size, const int *fds, uint32_t n_fds)
{
	union control control;
	struct iovec iov = { (void *)bytes, size };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	assert(n_fds <= PACKET_FDS_MAX);
	if (n_fds) {
		struct cmsghdr *c;

		memset(&control, 0, CMSG_SPACE(n_fds * sizeof(int)));
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
	}
	do
		n = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

int packet_full(int error)
{
	return error == -ENOBUFS || error == -ETOOMANYREFS || error == -ENOMEM ? -EAGAIN : error;
}

ssize_t packet_receive(int fd, int flags, void *buffer, size_t size, int *fds, uint32_t fds_max,
		       uint32_t *ret_n_fds, int *ret_flags)
{
	union control control;
	struct iovec iov = { buffer, size };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = CMSG_SPACE(fds_max * sizeof(int)) };
	ssize_t n;

	assert(fds_max <= PACKET_FDS_MAX && fds_max % 2 == 0);
	*ret_n_fds = 0;
	do
		n = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | flags);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		size_t n_new;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n_new = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		assert(*ret_n_fds + n_new <= fds_max);      /* the control buffer holds no more */
		memcpy(fds + *ret_n_fds, CMSG_DATA(c), n_new * sizeof(int));
		*ret_n_fds += (uint32_t)n_new;
	}
	*ret_flags = message.msg_flags;
	return n;
}
