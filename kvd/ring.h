/* ring.h - one engine's rings, seen from kvd.
 *
 * The engine's half is a mailbox that a hostile process may write at any moment: every word is
 * loaded once, copied, checked; our own indexes live here, not there.  An index that cannot be is
 * -EPROTO: the caller closes the engine. */
#ifndef KVD_RING_H
#define KVD_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "kvd/segment.h"
#include "kvd/shm.h"

struct ring {
	const struct kvd_sub_header *sub;  /* the engine's words: only through loads of ring.c */
	const struct kvd_sqe *sqes;
	const int32_t *tokens;             /* (max_seqs, max_pages * 16) */
	struct kvd_comp_header *comp;      /* our words */
	struct kvd_cqe *cqes;
	uint32_t *tables;                  /* (max_seqs, max_pages) */
	uint32_t sq_entries, cq_entries, max_seqs, max_pages;
	uint32_t sq_head, cq_tail;         /* private truth; kept.h has it, too */
	bool adopted;              /* nothing published yet since it was taken over */
	bool published;                    /* completions since the last ring_wants_doorbell() */
};

void ring_open(struct ring *ring, const struct segment *segment);
/* Go on where a killed kvd was: its indexes, and the completions of its segment (old_comp, mapped, of the
 * same shape), of which the engine may not have seen all. */
void ring_adopt(struct ring *ring, const struct segment *segment, const uint8_t *old_comp, uint32_t sq_head,
		uint32_t cq_tail);

/* Submissions waiting: 0 .. sq_entries, or -EPROTO. */
int ring_waiting(const struct ring *ring);
/* Take the next submission into *ret: 1; 0: none; -EPROTO.  Its place is the engine's again only after
 * ring_consumed(): killed before its effect is in the book, the next kvd reads it there once more. */
int ring_take(struct ring *ring, struct kvd_sqe *ret);
void ring_consumed(struct ring *ring);
/* Copy tokens [first, first + n) of a slot's row; false: not inside the row, nothing copied. */
bool ring_copy_tokens(const struct ring *ring, uint32_t slot, uint64_t first, uint64_t n,
		      int32_t *ret);
/* Publish a completion.  -ENOSPC: the engine does not consume; -EPROTO. */
int ring_publish(struct ring *ring, const struct kvd_cqe *cqe);
/* Store a table entry.  slot and page are the core's: asserted. */
void ring_entry(struct ring *ring, uint32_t slot, uint32_t page, uint32_t entry);

/* Which completion segment does the engine use? */
uint32_t ring_generation(const struct ring *ring);

/* Step counters.  The caller has executed a full fence before ring_step_begun(). */
uint64_t ring_step_begun(const struct ring *ring);
uint64_t ring_step_done(const struct ring *ring);

/* Before the loop sleeps: ask for a doorbell (KVD_BELL_*); returns true if submissions came meanwhile. */
bool ring_sleep(struct ring *ring, uint32_t bell);
void ring_wake(struct ring *ring);
/* The word that the engine wakes for KVD_BELL_FUTEX, and its value as long as nothing has come. */
const uint32_t *ring_bell_word(const struct ring *ring, uint32_t *ret_value);
/* After publishing: which doorbell does the engine want?  Fences.  KVD_BELL_*; what it says otherwise is a byte. */
uint32_t ring_wants_doorbell(struct ring *ring);
/* KVD_BELL_FUTEX: false: that does not work here, send the byte. */
bool ring_wake_engine(const struct ring *ring);

#endif
