/* loop_uring.c - the loop on io_uring: multishot poll for readiness, the ring's own timeout.
 *
 * A multishot poll reports each wake-up once (an edge): a peer that sends a hundred packets is in the completion
 * queue a hundred times, and has one turn (loop_owe()).  It ends by itself when the completion
 * queue overflows or the kernel runs short; such a completion lacks IORING_CQE_F_MORE, and arming
 * again reports what is ready at that moment, so no edge is lost.
 * A poll holds a reference to its file: remove() submits at once, so that close() means close. */
#include "kvd/loop_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include "kvd/uring_word.h"

#define URING_ENTRIES 256     /* submissions between two enters: adds and removes of one round */
#define URING_CQ_ENTRIES 8192 /* one readiness for each of LIMIT_PEERS sockets, twice */
#define URING_BATCH 128

struct loop_uring {
	struct io_uring ring;
	struct {
		uint64_t cookie;
		int32_t result;
		uint32_t flags;
	} batch[URING_BATCH];
};

static int uring_open(struct loop *loop)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
		.cq_entries = URING_CQ_ENTRIES,
	};
	struct loop_uring *state = calloc(1, sizeof(*state));
	int r;

	if (!state)
		return -ENOMEM;
	r = io_uring_queue_init_params(URING_ENTRIES, &state->ring, &params);
	if (r < 0) {
		free(state);
		return r;
	}
	/* EXT_ARG (5.11) carries the timeout; multishot poll came with 5.13 and RSRC_TAGS. */
	if (!(params.features & IORING_FEAT_EXT_ARG) ||
	    !(params.features & IORING_FEAT_RSRC_TAGS)) {
		io_uring_queue_exit(&state->ring);
		free(state);
		return -ENOSYS;
	}
	(void)io_uring_ring_dontfork(&state->ring);
	loop->state = state;
	loop->has_words = uring_has_words(&state->ring);
	return 0;
}

static void uring_close(struct loop *loop)
{
	struct loop_uring *state = loop->state;

	io_uring_queue_exit(&state->ring);
	free(state);
}

static struct io_uring_sqe *uring_sqe(struct loop_uring *state)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&state->ring);

	if (!sqe) {
		(void)io_uring_submit(&state->ring);
		sqe = io_uring_get_sqe(&state->ring);
	}
	return sqe;
}

static int uring_add(struct loop *loop, int fd, uint32_t events, uint64_t cookie)
{
	struct io_uring_sqe *sqe = uring_sqe(loop->state);

	if (!sqe)
		return -EBUSY;
	io_uring_prep_poll_multishot(sqe, fd, events);
	io_uring_sqe_set_data64(sqe, cookie);
	return 0;
}

static void uring_remove(struct loop *loop, int fd, uint64_t cookie)
{
	struct loop_uring *state = loop->state;
	struct io_uring_sqe *sqe = uring_sqe(state);

	if (!sqe)
		return; /* the ring is broken: the next wait says so */
	io_uring_prep_poll_remove(sqe, cookie);
	io_uring_sqe_set_data64(sqe, 0);
	(void)io_uring_submit(&state->ring);
}

static int uring_wait_word(struct loop *loop, const uint32_t *word, uint32_t value, uint64_t cookie)
{
	struct io_uring_sqe *sqe = uring_sqe(loop->state);

	if (!sqe)
		return -EBUSY;
	uring_prep_wait_word(sqe, word, value);
	io_uring_sqe_set_data64(sqe, cookie);
	return 0;
}

static void uring_remove_word(struct loop *loop, uint64_t cookie)
{
	struct loop_uring *state = loop->state;
	struct io_uring_sqe *sqe = uring_sqe(state);

	if (!sqe)
		return;
	io_uring_prep_cancel64(sqe, cookie, 0);
	io_uring_sqe_set_data64(sqe, 0);
	(void)io_uring_submit(&state->ring);
}

/* The kernel puts completions into the queue by itself, also while this thread computes: no call is needed. */
static bool uring_pending(struct loop *loop)
{
	struct loop_uring *state = loop->state;

	return io_uring_cq_ready(&state->ring) != 0 || io_uring_cq_has_overflow(&state->ring);
}

static void uring_deliver(struct loop *loop, uint64_t cookie, int32_t result, uint32_t flags)
{
	struct loop_source *source = loop_resolve(loop, cookie);

	if (!source)
		return;
	if (source->word) {
		source->armed = false;
		/* Not that the value was another already, but a kernel that does not wait for this word. */
		if (result < 0 && result != -EAGAIN && result != -ECANCELED && result != -EINTR)
			loop->has_words = false;
		loop_owe(loop, source, POLLIN);
		return;
	}
	if (!(flags & IORING_CQE_F_MORE)) {
		/* The poll has ended: arm it before ready(), which may remove the source. */
		if (result >= 0 || result == -ECANCELED)
			(void)uring_add(loop, source->fd, source->events, cookie);
	}
	loop_owe(loop, source, result < 0 ? (result == -ECANCELED ? POLLIN : POLLERR) : (uint32_t)result);
}

/* Take completions off the queue; their number. */
static unsigned uring_batch(struct loop *loop)
{
	struct loop_uring *state = loop->state;
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	/* Copied out first: arming again may submit, and must not find the queue full of what we hold. */
	io_uring_for_each_cqe(&state->ring, head, cqe)
	{
		state->batch[n].cookie = cqe->user_data;
		state->batch[n].result = cqe->res;
		state->batch[n].flags = cqe->flags;
		if (++n == URING_BATCH)
			break;
	}
	io_uring_cq_advance(&state->ring, n);
	for (unsigned i = 0; i < n; i++)
		if (state->batch[i].cookie)
			uring_deliver(loop, state->batch[i].cookie, state->batch[i].result,
				      state->batch[i].flags);
	return n;
}

static int uring_wait(struct loop *loop, int64_t timeout_usec)
{
	struct loop_uring *state = loop->state;
	struct __kernel_timespec timeout = { timeout_usec / 1000000,
					     timeout_usec % 1000000 * 1000 };
	struct io_uring_cqe *cqe;
	int r;

	/* Who spins comes here all the time: nothing to submit, no call. */
	r = !timeout_usec && !io_uring_sq_ready(&state->ring) && !io_uring_cq_has_overflow(&state->ring)
		    ? 0
		    : io_uring_submit_and_wait_timeout(&state->ring, &cqe, 1, timeout_usec < 0 ? NULL : &timeout,
						       NULL);
	if (r < 0 && r != -ETIME && r != -EINTR && r != -EAGAIN && r != -EBUSY)
		return r;
	/* All that is there: who was woken once must not wait behind a hundred wake-ups of another.  Bounded,
	 * because more may come meanwhile. */
	for (unsigned done = 0; done < URING_CQ_ENTRIES / URING_BATCH && uring_batch(loop) == URING_BATCH; done++)
		;
	return 0;
}

const struct loop_backend loop_backend_uring = {
	.name = "io_uring",
	.open = uring_open,
	.close = uring_close,
	.add = uring_add,
	.remove = uring_remove,
	.wait = uring_wait,
	.pending = uring_pending,
	.wait_word = uring_wait_word,
	.remove_word = uring_remove_word,
};
