/* spill_thread.c - the spill file without io_uring: a few threads with pread and pwrite.
 *
 * Containers refuse io_uring, and so may an administrator.  Transfers wait in one ring, four threads take them,
 * ended ones wait in another; an eventfd says so.  The lock is held for the rings only, never over a transfer.
 * The threads touch nothing but the transfers' buffers. */
#include "kvd/mover/spill_io.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { WORKERS = 4 };              /* enough for a SATA device's queue, few enough for two processors */

struct transfers { struct spill_transfer at[SPILL_IO_DEPTH]; uint32_t head, n; };

struct spill_threads {
	pthread_mutex_t lock;
	pthread_cond_t wanted;
	pthread_t workers[WORKERS];
	uint32_t n_workers;
	int fd, event_fd;
	bool ending;
	struct transfers waiting, ended;
};

static void push(struct transfers *q, const struct spill_transfer *t)
{
	assert(q->n < SPILL_IO_DEPTH);
	q->at[(q->head + q->n++) % SPILL_IO_DEPTH] = *t;
}

static struct spill_transfer pop(struct transfers *q)
{
	struct spill_transfer t = q->at[q->head];

	q->head = (q->head + 1) % SPILL_IO_DEPTH;
	q->n--;
	return t;
}

static void perform(int fd, struct spill_transfer *t)
{
	while (!t->error && t->done < t->n_bytes) {
		size_t left = t->n_bytes - t->done;
		off_t at = (off_t)(t->offset + t->done);
		ssize_t n = t->write ? pwrite(fd, t->bytes + t->done, left, at)
				     : pread(fd, t->bytes + t->done, left, at);

		if (n > 0)
			t->done += (size_t)n;
		else if (n == 0)
			t->error = t->write ? -ENOSPC : -ENODATA;
		else if (errno != EINTR)
			t->error = -errno;
	}
}

static void *work(void *arg)
{
	struct spill_threads *s = arg;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		struct spill_transfer t;
		uint64_t one = 1;

		while (!s->waiting.n && !s->ending)
			pthread_cond_wait(&s->wanted, &s->lock);
		if (!s->waiting.n)
			break;
		t = pop(&s->waiting);
		pthread_mutex_unlock(&s->lock);
		perform(s->fd, &t);
		pthread_mutex_lock(&s->lock);
		push(&s->ended, &t);
		(void)!write(s->event_fd, &one, sizeof(one));
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

int spill_threads_open(int fd, struct spill_threads **ret)
{
	struct spill_threads *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->fd = fd;
	s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->wanted, NULL);
	while (s->event_fd >= 0 && s->n_workers < WORKERS &&
	       pthread_create(&s->workers[s->n_workers], NULL, work, s) == 0)
		s->n_workers++;
	if (!s->n_workers) {
		spill_threads_close(s);
		return -EAGAIN;
	}
	*ret = s;
	return 0;
}

void spill_threads_close(struct spill_threads *s)
{
	pthread_mutex_lock(&s->lock);
	s->ending = true;
	pthread_cond_broadcast(&s->wanted);
	pthread_mutex_unlock(&s->lock);
	for (uint32_t i = 0; i < s->n_workers; i++)
		pthread_join(s->workers[i], NULL);
	if (s->event_fd >= 0)
		close(s->event_fd);
	pthread_cond_destroy(&s->wanted);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

int spill_threads_begin(struct spill_threads *s, const struct spill_transfer *transfer)
{
	struct spill_transfer t = *transfer;

	t.done = 0;
	t.error = 0;
	pthread_mutex_lock(&s->lock);
	push(&s->waiting, &t);
	pthread_cond_signal(&s->wanted);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

int spill_threads_fd(const struct spill_threads *s)
{
	return s->event_fd;
}

bool spill_threads_reap(struct spill_threads *s, struct spill_transfer *ret)
{
	uint64_t count;
	bool any;

	pthread_mutex_lock(&s->lock);
	any = s->ended.n > 0;
	if (any)
		*ret = pop(&s->ended);
	if (!s->ended.n)
		(void)!read(s->event_fd, &count, sizeof(count));
	pthread_mutex_unlock(&s->lock);
	return any;
}
