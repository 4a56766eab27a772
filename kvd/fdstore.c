/* fdstore.c - the fd store of a service manager: FDSTORE=1 by the notification socket, and what it
 * passes to the next kvd ($LISTEN_FDS, $LISTEN_FDNAMES).
 *
 * FDPOLL=0 for all but control sockets: a pidfd or a memfd must not be thrown out because poll() says
 * something of it, while a control socket whose engine has hung up had better be.  A manager without a
 * store (FileDescriptorStoreMax=0) ignores it all; then a crash is a cold start. */
#include "kvd/bundle.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "kvd/log.h"

/* A manager reads within milliseconds; it is PID 1. */
#define FDSTORE_WAIT_MS 2000

static bool unheard; /* it did not, once: no more waiting */

/* Is this name one of ours?  All others are systemd's sockets, named by their unit. */
static bool stored_name(const char *name)
{
	static const char kinds[] = "xcsptw";

	if (!strcmp(name, "book") || !strcmp(name, "mover") || !strcmp(name, "spill") ||
	    !strncmp(name, "listen.", 7))
		return true;
	return strchr(kinds, name[0]) && name[0] && name[1] >= '0' && name[1] <= '9';
}

int fdstore_open(struct bundle *bundle, int *ret_listen_fd, char error[BUNDLE_ERROR_MAX])
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(1, &names), r = 0;

	if (getenv("NOTIFY_SOCKET"))
		bundle->kind = BUNDLE_STORE;
	for (int i = 0; i < n; i++) {
		int fd = SD_LISTEN_FDS_START + i;

		if (stored_name(names[i])) {
			(void)bundle_add(bundle, names[i], fd);
		} else if (*ret_listen_fd < 0 && sd_is_socket_unix(fd, SOCK_SEQPACKET, 1, NULL, 0) > 0) {
			*ret_listen_fd = fd;
		} else {
			snprintf(error, BUNDLE_ERROR_MAX,
				 "systemd has passed something else than one SEQPACKET socket; use "
				 "ListenSequentialPacket= in kvd.socket");
			r = -EINVAL;
		}
		free(names[i]);
	}
	free(names);
	/* systemd gives it as NonBlocking= says; accept4() must never wait. */
	if (*ret_listen_fd >= 0 && fcntl(*ret_listen_fd, F_SETFL, O_NONBLOCK) < 0) {
		snprintf(error, BUNDLE_ERROR_MAX, "the socket that systemd has passed is broken: %s",
			 strerror(errno));
		r = -errno;
	}
	return r;
}

/* libsystemd's own would wait for a manager that does not read, for ever.  A message that finds no room
 * is left out: then the bundle has too little or too much, and the book knows. */
static void notify(const char *state, int fd)
{
	const char *path = getenv("NOTIFY_SOCKET");
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct iovec iov = { (void *)state, strlen(state) };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct pollfd room = { .events = POLLOUT };
	size_t n = path ? strlen(path) : 0;

	if (!n || n >= sizeof(address.sun_path))
		return;
	memcpy(address.sun_path, path, n);
	if (path[0] == '@')
		address.sun_path[0] = '\0';
	if (fd >= 0) {
		struct cmsghdr *c;

		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	room.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (room.fd < 0)
		return;
	if (connect(room.fd, (struct sockaddr *)&address,
		    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) == 0)
		for (unsigned i = 0; i < 2; i++) {
			if (sendmsg(room.fd, &message, MSG_NOSIGNAL) >= 0 || errno != EAGAIN)
				break;
			if (unheard || poll(&room, 1, FDSTORE_WAIT_MS) <= 0) {
				if (!unheard)
					log_warn("fdstore.unheard remedy=\"the service manager does not read "
						 "its notification socket; if kvd dies, it starts cold\"");
				unheard = true;
				break;
			}
		}
	close(room.fd);
}

void fdstore_keep(const struct bundle_item *item)
{
	char state[BUNDLE_NAME_MAX + 32];

	snprintf(state, sizeof(state), "FDSTORE=1\nFDNAME=%s%s", item->name,
		 item->name[0] == 'c' ? "" : "\nFDPOLL=0");
	notify(state, item->fd);
}

void fdstore_forget(const char *name)
{
	char state[BUNDLE_NAME_MAX + 32];

	snprintf(state, sizeof(state), "FDSTOREREMOVE=1\nFDNAME=%s", name);
	notify(state, -1);
}
