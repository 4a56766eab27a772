/* wait.h - the engine's one place to sleep: descriptors, readable or writable, with a deadline.
 *
 * On io_uring it carries readiness only (multishot poll), and one word of shared memory (futex); on epoll
 * where io_uring is refused (containers).  The meaning is that of an edge: an event says "something may
 * have come since"; read until EAGAIN.  One thread. */
#ifndef ENGINE_WAIT_H
#define ENGINE_WAIT_H

#include <stdbool.h>
#include <stdint.h>

#define WAIT_READ 1u               /* readable, or the other side hung up */
#define WAIT_WRITE 2u              /* writable again, once, after wait_want_write() */

struct wait_event {
	uint64_t tag;              /* as given to wait_add() */
	uint32_t what;             /* WAIT_READ, WAIT_WRITE */
};

struct wait;

/* Returns 0 or -errno.  It is epoll where io_uring is refused or KVD_NO_IO_URING is set. */
int wait_new(struct wait **ret);
void wait_free(struct wait *w);
bool wait_is_uring(const struct wait *w);

/* Watch fd for reading.  tag < 2^60 and unlike every other tag in use.  Returns 0 or -errno. */
int wait_add(struct wait *w, int fd, uint64_t tag);
/* One WAIT_WRITE event when fd can be written. */
int wait_want_write(struct wait *w, int fd, uint64_t tag);
/* Stop watching; call before closing fd.  No event of that tag comes out after it. */
void wait_remove(struct wait *w, int fd, uint64_t tag);

/* Can it wait for a word of shared memory, too?  io_uring of Linux 6.7 can; not if KVD_NO_FUTEX is set. */
bool wait_has_words(const struct wait *w);
/* Let wait_for() return, maybe without an event, when FUTEX_WAKE is called on *word, or at once if it is not
 * `value`.  Holds until then, or until a word of another mapping is named.  word NULL: none.
 * mapping  of the memory that the word is in: unlike that of any other memory at the same address */
void wait_word(struct wait *w, const uint32_t *word, uint32_t value, uint32_t mapping);

/* Wait for events.
 * timeout_usec  0: only what is there; UINT64_MAX: for ever
 * Returns       number of events stored (0: the time is over), or -errno */
int wait_for(struct wait *w, uint64_t timeout_usec, struct wait_event *ret_events, uint32_t max);

#endif
