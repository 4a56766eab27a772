/* keeper.c - see keeper.h.  Its own process, one thread, poll(); allocates at start only.
 *
 *   FREE -> LENT     [lend]      a kvd has asked (TAKE), nobody has it
 *   LENT -> LEAVING  [read_one]  its connection has closed
 *   LEAVING -> FREE  [turn]      its pidfd says that it has ended: until then it may still act
 *   LENT -> the end  [read_one]  RELEASE
 *   FREE -> the end  [turn]      KEEPER_SECONDS without a kvd
 *
 * What the dead kvd had sent is read to its end before the next one is served: a connection is
 * LEAVING only when read() has said so. */
#include "kvd/keeper.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvd/clock.h"
#include "kvd/core/core.h"
#include "kvd/limits.h"
#include "kvd/log.h"
#include "kvd/packet.h"
#include "kvd/process.h"

#define KEEPER_CALLERS 8u          /* connections at once: the one that has it, and those that ask */
#define KEEPER_ITEMS_MAX (LIMIT_EXTENTS + 6u * CORE_ENGINES_MAX + LIMIT_WEIGHTS + 64u)

struct caller {
	int fd;                    /* -1: its connection has closed */
	int pidfd;                 /* -1: this place is free */
	bool has_it;               /* the one */
	bool asks;                 /* TAKE came, not served yet */
	uint32_t lent;             /* items sent so far; only while `lending` */
	bool lending;
};

struct keeper {
	struct caller callers[KEEPER_CALLERS];
	struct bundle_item *items;
	uint32_t n_items;
	uint64_t since_usec;       /* nobody has had it since then */
	uint64_t alone_usec;       /* for so long nobody may have it */
	bool over;
};

int keeper_check(const void *packet, size_t n_bytes, uint32_t n_fds, const char **ret_why)
{
	struct keeper_packet p;

	*ret_why = "not a packet of a keeper's";
	if (n_bytes != sizeof(p))
		return -EPROTO;
	memcpy(&p, packet, sizeof(p));
	if (p.magic != KEEPER_MAGIC)
		return -EPROTO;
	switch (p.type) {
	case KEEPER_TAKE: case KEEPER_CLEAR: case KEEPER_RELEASE:
		*ret_why = "descriptors or names that nobody asked for";
		return n_fds || p.n ? -EPROTO : 0;
	case KEEPER_ITEMS: case KEEPER_FORGET:
		break;
	default:
		return -EPROTO;
	}
	*ret_why = "wrong number of descriptors";
	if (!p.n || p.n > KEEPER_BATCH || n_fds != (p.type == KEEPER_ITEMS ? p.n : 0u))
		return -EPROTO;
	*ret_why = "not a name";
	for (uint32_t i = 0; i < p.n; i++)
		if (!bundle_name_valid(p.names[i]))
			return -EPROTO;
	return 0;
}

int keeper_receive(int fd, struct keeper_packet *ret, int fds[KEEPER_BATCH], uint32_t *ret_n_fds)
{
	int flags = 0;
	ssize_t n = packet_receive(fd, 0, ret, sizeof(*ret), fds, KEEPER_BATCH, ret_n_fds, &flags);

	if (n < 0)
		return n == -ECONNRESET ? 0 : (int)n;
	if (flags & (MSG_TRUNC | MSG_CTRUNC)) {
		for (uint32_t i = 0; i < *ret_n_fds; i++)
			close(fds[i]);
		return -EPROTO;
	}
	return (int)n;
}

int keeper_send(int fd, const struct keeper_packet *packet, const int *fds, uint32_t n_fds)
{
	return packet_full(packet_send(fd, packet, sizeof(*packet), fds, n_fds));
}

/* ---- items ---- */

static void item_forget(struct keeper *keeper, const char *name)
{
	for (uint32_t i = 0; i < keeper->n_items; i++)
		if (!strcmp(keeper->items[i].name, name)) {
			close(keeper->items[i].fd);
			keeper->items[i] = keeper->items[--keeper->n_items];
			return;
		}
}

static void items_clear(struct keeper *keeper)
{
	for (uint32_t i = 0; i < keeper->n_items; i++)
		close(keeper->items[i].fd);
	keeper->n_items = 0;
}

/* Takes fd over. */
static void item_keep(struct keeper *keeper, const char *name, int fd)
{
	struct bundle_item *item;

	item_forget(keeper, name);
	if (keeper->n_items == KEEPER_ITEMS_MAX) {
		log_error("keeper.full items=%u", keeper->n_items);
		close(fd);
		return;
	}
	item = &keeper->items[keeper->n_items++];
	item->fd = fd;
	memcpy(item->name, name, sizeof(item->name));
}

/* ---- callers ---- */

static void caller_close(struct caller *caller)
{
	if (caller->fd >= 0)
		close(caller->fd);
	caller->fd = -1;
	caller->asks = caller->lending = false;
	if (caller->has_it)
		return;            /* until its process has ended */
	close(caller->pidfd);
	caller->pidfd = -1;
}

static void obey(struct keeper *keeper, struct caller *caller, const struct keeper_packet *p, const int *fds)
{
	if (p->type == KEEPER_TAKE) {
		caller->asks = !caller->has_it;
		return;
	}
	if (!caller->has_it || caller->lending) {
		log_warn("keeper.refused why=\"it has not been lent the bundle\"");
		for (uint32_t i = 0; p->type == KEEPER_ITEMS && i < p->n; i++)
			close(fds[i]);
		caller_close(caller);
		return;
	}
	switch (p->type) {
	case KEEPER_ITEMS:
		for (uint32_t i = 0; i < p->n; i++)
			item_keep(keeper, p->names[i], fds[i]);
		break;
	case KEEPER_FORGET:
		for (uint32_t i = 0; i < p->n; i++)
			item_forget(keeper, p->names[i]);
		break;
	case KEEPER_CLEAR: items_clear(keeper); break;
	case KEEPER_RELEASE: keeper->over = true; break;
	}
}

/* False: nothing more to read now. */
static bool read_one(struct keeper *keeper, struct caller *caller)
{
	struct keeper_packet packet;
	int fds[KEEPER_BATCH];
	uint32_t n_fds;
	const char *why;
	int n = keeper_receive(caller->fd, &packet, fds, &n_fds);

	if (n == -EAGAIN)
		return false;
	if (n <= 0) {
		caller_close(caller);
		return false;
	}
	if (keeper_check(&packet, (size_t)n, n_fds, &why) < 0) {
		log_warn("keeper.violation why=\"%s\"", why);
		for (uint32_t i = 0; i < n_fds; i++)
			close(fds[i]);
		caller_close(caller);
		return false;
	}
	obey(keeper, caller, &packet, fds);
	return caller->fd >= 0 && !keeper->over;
}

/* Send what there is room for. */
static void lend(struct keeper *keeper, struct caller *caller)
{
	while (caller->lending) {
		struct keeper_packet packet = { .magic = KEEPER_MAGIC, .type = KEEPER_END };
		int fds[KEEPER_BATCH], r;

		while (packet.n < KEEPER_BATCH && caller->lent + packet.n < keeper->n_items) {
			const struct bundle_item *item = &keeper->items[caller->lent + packet.n];

			packet.type = KEEPER_ITEMS;
			memcpy(packet.names[packet.n], item->name, sizeof(item->name));
			fds[packet.n++] = item->fd;
		}
		r = keeper_send(caller->fd, &packet, fds, packet.n);
		if (r == -EAGAIN)
			return;
		if (r < 0) {
			caller_close(caller);
			return;
		}
		caller->lent += packet.n;
		caller->lending = packet.n > 0;
	}
}

static void caller_accept(struct keeper *keeper)
{
	struct ucred credentials = { 0 };
	socklen_t size = sizeof(credentials);
	int fd = accept4(KEEPER_FD, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), pidfd;

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0 || credentials.uid != geteuid()) {
		log_warn("keeper.refused uid=%u why=\"another user\"", credentials.uid);
		close(fd);
		return;
	}
	pidfd = process_of_socket(fd);
	for (uint32_t i = 0; pidfd >= 0 && i < KEEPER_CALLERS; i++)
		if (keeper->callers[i].pidfd < 0) {
			keeper->callers[i] = (struct caller){ .fd = fd, .pidfd = pidfd };
			return;
		}
	if (pidfd >= 0)
		close(pidfd);
	close(fd);
}

static void say_busy(struct caller *caller, const struct caller *holder)
{
	int pid = process_number(holder->pidfd);
	struct keeper_packet packet = { .magic = KEEPER_MAGIC, .type = KEEPER_BUSY };

	packet.pid = pid > 0 ? (uint32_t)pid : 0;
	(void)keeper_send(caller->fd, &packet, NULL, 0);
	caller_close(caller);
}

static struct caller *holder_of(struct keeper *keeper)
{
	for (uint32_t i = 0; i < KEEPER_CALLERS; i++)
		if (keeper->callers[i].has_it)
			return &keeper->callers[i];
	return NULL;
}

/* Who has it now, and who gets it next? */
static void turn(struct keeper *keeper, uint64_t now_usec)
{
	struct caller *holder = holder_of(keeper);

	/* A process that has ended sends no more: what it had sent comes first, then the end, even if a child
	 * of it between fork() and execve() has the connection open a moment longer. */
	if (holder && holder->fd >= 0 && process_ended(holder->pidfd)) {
		while (holder->fd >= 0 && read_one(keeper, holder))
			;
		if (holder->fd >= 0)
			caller_close(holder);
	}
	if (keeper->over)
		return;
	if (holder && holder->fd < 0 && process_ended(holder->pidfd)) {
		holder->has_it = false;
		caller_close(holder);
		holder = NULL;
		keeper->since_usec = now_usec;
		log_info("keeper.alone items=%u seconds=%llu", keeper->n_items,
			 (unsigned long long)(keeper->alone_usec / 1000000));
	}
	for (uint32_t i = 0; i < KEEPER_CALLERS; i++) {
		struct caller *caller = &keeper->callers[i];

		if (caller->fd < 0 || !caller->asks)
			continue;
		if (holder && holder->fd >= 0) {
			say_busy(caller, holder);
		} else if (!holder) {
			caller->asks = false;
			caller->has_it = caller->lending = true;
			holder = caller;
			lend(keeper, caller);
		}                  /* else: it is about to end, the caller waits */
	}
	if (!holder_of(keeper) && now_usec - keeper->since_usec >= keeper->alone_usec)
		keeper->over = true;
}

static void serve(struct keeper *keeper)
{
	while (!keeper->over) {
		struct pollfd polled[1 + 2 * KEEPER_CALLERS] = { { .fd = KEEPER_FD, .events = POLLIN } };
		bool alone = !holder_of(keeper);

		for (uint32_t i = 0; i < KEEPER_CALLERS; i++) {
			const struct caller *caller = &keeper->callers[i];

			polled[1 + i].fd = caller->fd;
			polled[1 + i].events = caller->lending ? POLLIN | POLLOUT : POLLIN;
			polled[1 + KEEPER_CALLERS + i].fd = caller->has_it && caller->fd < 0 ? caller->pidfd : -1;
			polled[1 + KEEPER_CALLERS + i].events = POLLIN;
		}
		if (poll(polled, 1 + 2 * KEEPER_CALLERS, alone ? 200 : -1) < 0 && errno != EINTR)
			break;
		for (uint32_t i = 0; i < KEEPER_CALLERS; i++) {
			struct caller *caller = &keeper->callers[i];

			if (caller->fd < 0 || caller->fd != polled[1 + i].fd)
				continue;
			if (polled[1 + i].revents & POLLOUT)
				lend(keeper, caller);
			while (caller->fd >= 0 && read_one(keeper, caller))
				;
		}
		if (polled[0].revents)
			caller_accept(keeper);
		if (!keeper->over)
			turn(keeper, clock_now_usec());
	}
}

/* Remove the socket's file, if it is still ours. */
static void unlink_ours(const char *path, const struct stat *ours)
{
	struct stat st;

	if (lstat(path, &st) == 0 && st.st_dev == ours->st_dev && st.st_ino == ours->st_ino)
		(void)unlink(path);
}

int keeper_main(const char *path)
{
	struct keeper keeper = { .alone_usec = KEEPER_SECONDS * 1000000ull, .since_usec = clock_now_usec() };
	const char *seconds = getenv("KVD_KEEPER_SECONDS");
	struct stat ours;

	if (seconds && atoi(seconds) > 0)
		keeper.alone_usec = (uint64_t)atoi(seconds) * 1000000ull;
	/* Once more: who connects is told our process, not that of the kvd that bound it. */
	if (lstat(path, &ours) < 0 || listen(KEEPER_FD, KEEPER_CALLERS) < 0)
		return 1;
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	(void)signal(SIGINT, SIG_IGN);
	keeper.items = calloc(KEEPER_ITEMS_MAX, sizeof(keeper.items[0]));
	if (!keeper.items)
		return 1;
	for (uint32_t i = 0; i < KEEPER_CALLERS; i++)
		keeper.callers[i] = (struct caller){ .fd = -1, .pidfd = -1 };
	serve(&keeper);
	unlink_ours(path, &ours);
	log_info("keeper.ends items=%u", keeper.n_items);
	items_clear(&keeper);
	free(keeper.items);
	return 0;
}
