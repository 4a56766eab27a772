/* uring_word.h - waiting for a word of shared memory on an io_uring: kvd's loop and the engine's wait.
 *
 * IORING_OP_FUTEX_WAIT came with Linux 6.7 and is younger than many a header: its number stands here. */
#ifndef KVD_URING_WORD_H
#define KVD_URING_WORD_H

#include <liburing.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define URING_OP_FUTEX_WAIT 51
#define URING_WORD_32 2                /* FUTEX2_SIZE_U32; shared between processes */

/* Can this kernel?  Not where KVD_NO_FUTEX is set. */
static inline bool uring_has_words(struct io_uring *ring)
{
	struct io_uring_probe *probe = getenv("KVD_NO_FUTEX") ? NULL : io_uring_get_probe_ring(ring);
	bool yes = probe && io_uring_opcode_supported(probe, URING_OP_FUTEX_WAIT);

	if (probe)
		io_uring_free_probe(probe);
	return yes;
}

/* Completes when FUTEX_WAKE is called on *word, or at once if it is not `value`. */
static inline void uring_prep_wait_word(struct io_uring_sqe *sqe, const uint32_t *word, uint32_t value)
{
	io_uring_prep_rw(URING_OP_FUTEX_WAIT, sqe, URING_WORD_32, word, 0, value);
	sqe->addr3 = FUTEX_BITSET_MATCH_ANY;
}

#endif
