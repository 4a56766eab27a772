/* wait.c - readiness by io_uring's multishot poll, or by epoll.
 *
 * io_uring: one multishot POLL_ADD a descriptor (user_data = tag), one single-shot POLLOUT when
 * asked for (user_data = tag | WRITE_BIT).  A multishot poll that the kernel ends (no F_MORE) is
 * armed again at once.  Cancelled polls answer with user_data 0, which nobody owns; completions of
 * a tag that was removed find no watch and are dropped (tags are never used twice).
 * The word: one FUTEX_WAIT at a time, user_data = WORD_BIT | its number.  What was armed with an older value stays
 * armed: the kernel compares only when it begins, a wake ends it whatever the value is.
 * epoll: edge-triggered; POLLOUT is armed for one event by EPOLL_CTL_MOD. */
#include "engine/wait.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "kvd/uring_word.h"

#define WRITE_BIT (UINT64_C(1) << 63)
#define WORD_BIT (UINT64_C(1) << 62)
#define RING_ENTRIES 256u

struct watch {
	uint64_t tag;
	int fd;
	bool used;
};

struct wait {
	bool uring, has_words;
	const uint32_t *word;      /* that a FUTEX_WAIT is armed for; NULL: none */
	uint64_t word_number;      /* of that wait */
	uint32_t word_mapping;
	struct io_uring ring;
	int epoll_fd;
	struct watch *watches;     /* (n_watches) io_uring: what to arm again */
	uint32_t n_watches;
};

int wait_new(struct wait **ret)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
			 IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_CQSIZE,
		.cq_entries = 4096,
	};
	struct wait *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->epoll_fd = -1;
	if (!getenv("KVD_NO_IO_URING")) {
		w->uring = io_uring_queue_init_params(RING_ENTRIES, &w->ring, &params) == 0;
		if (!w->uring) {       /* a kernel before 6.0 knows fewer flags */
			memset(&params, 0, sizeof(params));
			w->uring = io_uring_queue_init_params(RING_ENTRIES, &w->ring, &params) == 0;
		}
	}
	if (!w->uring) {
		w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
		if (w->epoll_fd < 0) {
			int r = -errno;
			free(w);
			return r;
		}
	}
	w->has_words = w->uring && uring_has_words(&w->ring);
	*ret = w;
	return 0;
}

void wait_free(struct wait *w)
{
	if (!w)
		return;
	if (w->uring)
		io_uring_queue_exit(&w->ring);
	else
		close(w->epoll_fd);
	free(w->watches);
	free(w);
}

bool wait_has_words(const struct wait *w)
{
	return w->has_words;
}

bool wait_is_uring(const struct wait *w)
{
	return w->uring;
}

/* A free submission entry; the ring is flushed first if it is full. */
static struct io_uring_sqe *get_sqe(struct wait *w)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&w->ring);

	if (!sqe) {
		io_uring_submit(&w->ring);
		sqe = io_uring_get_sqe(&w->ring);
	}
	return sqe;
}

static struct watch *find_watch(struct wait *w, uint64_t tag)
{
	for (uint32_t i = 0; i < w->n_watches; i++)
		if (w->watches[i].used && w->watches[i].tag == tag)
			return &w->watches[i];
	return NULL;
}

static int remember(struct wait *w, int fd, uint64_t tag)
{
	uint32_t i = 0;

	while (i < w->n_watches && w->watches[i].used)
		i++;
	if (i == w->n_watches) {
		uint32_t n = w->n_watches ? w->n_watches * 2 : 32;
		struct watch *watches = realloc(w->watches, n * sizeof(*watches));
		if (!watches)
			return -ENOMEM;
		memset(watches + w->n_watches, 0, (n - w->n_watches) * sizeof(*watches));
		w->watches = watches;
		w->n_watches = n;
	}
	w->watches[i] = (struct watch){ tag, fd, true };
	return 0;
}

static int arm(struct wait *w, int fd, uint64_t tag)
{
	struct io_uring_sqe *sqe = get_sqe(w);

	if (!sqe)
		return -EAGAIN;
	io_uring_prep_poll_multishot(sqe, fd, POLLIN | POLLRDHUP);
	io_uring_sqe_set_data64(sqe, tag);
	return 0;
}

int wait_add(struct wait *w, int fd, uint64_t tag)
{
	int r;

	if (!w->uring) {
		struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP | EPOLLET,
					     .data.u64 = tag };
		return epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
	}
	r = remember(w, fd, tag);
	return r == 0 ? arm(w, fd, tag) : r;
}

int wait_want_write(struct wait *w, int fd, uint64_t tag)
{
	struct io_uring_sqe *sqe;

	if (!w->uring) {
		struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
					     .data.u64 = tag };
		return epoll_ctl(w->epoll_fd, EPOLL_CTL_MOD, fd, &event) == 0 ? 0 : -errno;
	}
	sqe = get_sqe(w);
	if (!sqe)
		return -EAGAIN;
	io_uring_prep_poll_add(sqe, fd, POLLOUT);
	io_uring_sqe_set_data64(sqe, tag | WRITE_BIT);
	return 0;
}

void wait_remove(struct wait *w, int fd, uint64_t tag)
{
	struct watch *watch;

	if (!w->uring) {
		epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		return;
	}
	watch = find_watch(w, tag);
	if (watch)
		watch->used = false;
	for (int i = 0; i < 2; i++) {
		struct io_uring_sqe *sqe = get_sqe(w);
		if (!sqe)
			return; /* the poll ends with the descriptor; its tag is unknown now */
		io_uring_prep_poll_remove(sqe, i ? tag | WRITE_BIT : tag);
		io_uring_sqe_set_data64(sqe, 0);
	}
	/* the kernel must drop its reference to the file before the caller closes it */
	io_uring_submit(&w->ring);
}

void wait_word(struct wait *w, const uint32_t *word, uint32_t value, uint32_t mapping)
{
	struct io_uring_sqe *sqe;

	if (!w->has_words || (word == w->word && (!word || mapping == w->word_mapping)))
		return;
	if (w->word) {
		sqe = get_sqe(w);
		if (!sqe)
			return;    /* a later call tries again */
		io_uring_prep_cancel64(sqe, WORD_BIT | w->word_number, 0);
		io_uring_sqe_set_data64(sqe, 0);
		w->word = NULL;
	}
	sqe = word ? get_sqe(w) : NULL;
	if (!sqe)
		return;
	uring_prep_wait_word(sqe, word, value);
	io_uring_sqe_set_data64(sqe, WORD_BIT | ++w->word_number);
	w->word = word;
	w->word_mapping = mapping;
}

static int wait_epoll(struct wait *w, uint64_t timeout_usec, struct wait_event *ret_events,
		      uint32_t max)
{
	struct epoll_event events[64];
	int timeout_ms = timeout_usec == UINT64_MAX ? -1 : timeout_usec > 3600000000u ? 3600000 :
			 (int)((timeout_usec + 999) / 1000);
	int n = epoll_wait(w->epoll_fd, events, max < 64 ? (int)max : 64, timeout_ms);

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	for (int i = 0; i < n; i++) {
		uint32_t what = 0;
		if (events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
			what |= WAIT_READ;
		if (events[i].events & EPOLLOUT)
			what |= WAIT_WRITE;
		ret_events[i] = (struct wait_event){ events[i].data.u64, what };
	}
	return n;
}

/* Turn one completion into an event; false if it concerns nobody. */
static bool take_cqe(struct wait *w, const struct io_uring_cqe *cqe, struct wait_event *ret)
{
	if (cqe->user_data & WORD_BIT) {
		if (cqe->user_data != (WORD_BIT | w->word_number))
			return false;
		w->word = NULL;
		/* The value was another already, or it was us who cancelled; everything else is a kernel that
		 * does not wait for this word, and then the descriptor has to do. */
		w->has_words = cqe->res >= 0 || cqe->res == -EAGAIN || cqe->res == -ECANCELED || cqe->res == -EINTR;
		return false;
	}
	uint64_t tag = cqe->user_data & ~WRITE_BIT;
	struct watch *watch = cqe->user_data ? find_watch(w, tag) : NULL;

	if (!watch)
		return false;
	*ret = (struct wait_event){ tag, cqe->user_data & WRITE_BIT ? WAIT_WRITE : WAIT_READ };
	if (!(cqe->user_data & WRITE_BIT) && !(cqe->flags & IORING_CQE_F_MORE) &&
	    cqe->res != -ECANCELED && arm(w, watch->fd, tag) != 0)
		return true;       /* the reader finds the hang-up itself */
	return true;
}

int wait_for(struct wait *w, uint64_t timeout_usec, struct wait_event *ret_events, uint32_t max)
{
	struct io_uring_cqe *cqe;
	uint32_t n = 0;
	int r;

	if (!w->uring)
		return wait_epoll(w, timeout_usec, ret_events, max);
	if (!timeout_usec || io_uring_peek_cqe(&w->ring, &cqe) == 0) {
		if (io_uring_sq_ready(&w->ring))
			io_uring_submit(&w->ring);
	} else {
		struct __kernel_timespec time = { .tv_sec = (long long)(timeout_usec / 1000000),
						  .tv_nsec = (long long)(timeout_usec % 1000000) *
							     1000 };
		r = io_uring_submit_and_wait_timeout(&w->ring, &cqe, 1, timeout_usec == UINT64_MAX ? NULL : &time,
						     NULL);
		if (r < 0 && r != -ETIME && r != -EINTR && r != -EAGAIN && r != -EBUSY)
			return r;
	}
	while (n < max && io_uring_peek_cqe(&w->ring, &cqe) == 0) {
		if (take_cqe(w, cqe, &ret_events[n]))
			n++;
		io_uring_cqe_seen(&w->ring, cqe);
	}
	return (int)n;
}
