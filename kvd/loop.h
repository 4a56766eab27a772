/* loop.h - the daemon's only loop: which descriptors are ready, and one deadline.
 *
 * Two backends behind one contract: io_uring (multishot poll and the ring's own timeout) and epoll,
 * for containers where io_uring_setup() is refused.  The ring carries readiness only; data and
 * connections are taken by recvmsg() and accept4(), so that a dying daemon swallows none.
 *
 * Readiness is an edge in both: after ready() the owner reads until EAGAIN, or stops at its budget
 * and calls loop_again(), and is called again in the next round.  Errors and hang-ups are always
 * reported.  A source may add and remove any source, itself included, from inside ready().
 * Each source has one turn a round, however often it was woken meanwhile: the owner's budget for a turn is what
 * one peer can delay all others by.
 *
 * One thread.  Nothing allocates after loop_open(). */
#ifndef KVD_LOOP_H
#define KVD_LOOP_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct loop;

enum loop_kind { LOOP_AUTO = 0, LOOP_URING, LOOP_EPOLL };

struct loop_source {
	/* events: POLLIN, POLLOUT, POLLHUP, POLLERR, POLLRDHUP; after loop_again(): POLLIN. */
	void (*ready)(struct loop_source *source, uint32_t events);
	int fd;                    /* not owned; loop_remove() before close() */
	uint32_t slot;             /* place in the loop's table + 1; 0: not added */
	uint32_t events;
	bool word, armed;          /* added by loop_add_word(); a wait is under way */
	bool owed;                 /* in the list of those that have a turn, with these events */
	uint32_t owed_events;
	struct loop_source *owed_next;
};

/* Make a loop for at most n_sources descriptors.
 * Returns 0; -ENOMEM; the error of io_uring_setup() for LOOP_URING (LOOP_AUTO falls back). */
int loop_open(enum loop_kind kind, uint32_t n_sources, struct loop **ret);
void loop_close(struct loop *loop);
const char *loop_name(const struct loop *loop);

/* Watch source->fd; the caller has set ready and fd.  -ENOSPC: the table is full. */
int loop_add(struct loop *loop, struct loop_source *source, uint32_t events);
/* Change what is watched; readiness that is there now is reported again. */
int loop_watch(struct loop *loop, struct loop_source *source, uint32_t events);
/* Words of shared memory that others change and then wake by FUTEX_WAKE: only on io_uring of Linux 6.7 and later,
 * and not if KVD_NO_FUTEX is set.  Such a source has no fd and takes no loop_watch(). */
bool loop_has_words(const struct loop *loop);
int loop_add_word(struct loop *loop, struct loop_source *source);
/* Call source->ready() when the word is woken, or at once if it is not `value`; one time.  What is under way
 * stays: a wake ends it, whatever the value was when it began. */
void loop_wait_word(struct loop *loop, struct loop_source *source, const uint32_t *word, uint32_t value);

/* Would loop_wait() have something to report?  Cheap, for who looks again and again. */
bool loop_pending(struct loop *loop);

/* Forget a source; idempotent. */
void loop_remove(struct loop *loop, struct loop_source *source);
/* Call source->ready(POLLIN) in the next round, which then does not wait. */
void loop_again(struct loop *loop, struct loop_source *source);

/* One round: wait until something is ready or the deadline (clock.h, CLOCK_NEVER = none), call what
 * is ready.  Returns 0 or -errno (the loop is broken; the daemon ends). */
int loop_wait(struct loop *loop, uint64_t deadline_usec);

#endif
