/* loop_epoll.c - the loop on epoll, edge-triggered.  Owns the epoll descriptor. */
#include "kvd/loop_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define EPOLL_BATCH 128

struct loop_epoll {
	int fd;
	struct epoll_event batch[EPOLL_BATCH];
};

_Static_assert(EPOLLIN == POLLIN && EPOLLOUT == POLLOUT && EPOLLHUP == POLLHUP &&
		       EPOLLERR == POLLERR && EPOLLRDHUP == POLLRDHUP,
	       "poll and epoll share their bits");

static int epoll_backend_open(struct loop *loop)
{
	struct loop_epoll *state = calloc(1, sizeof(*state));

	if (!state)
		return -ENOMEM;
	state->fd = epoll_create1(EPOLL_CLOEXEC);
	if (state->fd < 0) {
		int error = errno;

		free(state);
		return -error;
	}
	loop->state = state;
	return 0;
}

static void epoll_backend_close(struct loop *loop)
{
	struct loop_epoll *state = loop->state;

	close(state->fd);
	free(state);
}

static int epoll_backend_add(struct loop *loop, int fd, uint32_t events, uint64_t cookie)
{
	struct loop_epoll *state = loop->state;
	struct epoll_event event = { .events = events | EPOLLET, .data.u64 = cookie };

	return epoll_ctl(state->fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static void epoll_backend_remove(struct loop *loop, int fd, uint64_t cookie)
{
	struct loop_epoll *state = loop->state;

	(void)epoll_ctl(state->fd, EPOLL_CTL_DEL, fd, NULL);
}

/* Microsecond timeouts need epoll_pwait2 (5.11); before it a wait is rounded up to a
 * millisecond. */
static int epoll_backend_enter(struct loop_epoll *state, int64_t timeout_usec)
{
	struct timespec timeout = { timeout_usec / 1000000, timeout_usec % 1000000 * 1000 };
	int n;

	n = epoll_pwait2(state->fd, state->batch, EPOLL_BATCH, timeout_usec < 0 ? NULL : &timeout,
			 NULL);
	if (n < 0 && errno == ENOSYS) {
		int64_t ms = (timeout_usec + 999) / 1000;

		if (ms > 60000)
			ms = 60000;
		n = epoll_wait(state->fd, state->batch, EPOLL_BATCH,
			       timeout_usec < 0 ? -1 : (int)ms);
	}
	return n < 0 ? -errno : n;
}

static int epoll_backend_wait(struct loop *loop, int64_t timeout_usec)
{
	struct loop_epoll *state = loop->state;
	int n = epoll_backend_enter(state, timeout_usec);

	if (n == -EINTR)
		return 0;
	if (n < 0)
		return n;
	for (int i = 0; i < n; i++) {
		struct loop_source *source = loop_resolve(loop, state->batch[i].data.u64);

		if (source)
			loop_owe(loop, source, state->batch[i].events);
	}
	return 0;
}

static bool epoll_backend_pending(struct loop *loop)
{
	struct loop_epoll *state = loop->state;
	struct pollfd ready = { .fd = state->fd, .events = POLLIN };

	return poll(&ready, 1, 0) != 0;
}

const struct loop_backend loop_backend_epoll = {
	.name = "epoll",
	.open = epoll_backend_open,
	.close = epoll_backend_close,
	.add = epoll_backend_add,
	.remove = epoll_backend_remove,
	.wait = epoll_backend_wait,
	.pending = epoll_backend_pending,
};
