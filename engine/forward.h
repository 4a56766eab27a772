/* forward.h - one step of the model: rows of tokens in, K and V into kvd's pages, logits out.
 *
 * The narrow boundary between scheduling (which rows run) and arithmetic (what a row computes).
 * A row is one token of one sequence at one position.  What a row computes depends only on the
 * model, on the tokens of its own sequence up to its position, and on the numerics id: never on the
 * other rows of the step, on how the prompt was cut into steps, on the number of threads, or on
 * who wrote the pages it reads.  tests/unit/test_invariance.c holds this as equality of bytes. */
#ifndef ENGINE_FORWARD_H
#define ENGINE_FORWARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/model.h"
#include "include/kvd/geometry.h"

/* Where K and V live: the engine's window over kvd's pool (or plain memory in tests). */
struct kv_window {
	uint8_t *base;                 /* address(frame, plane) = base + kvd_block_offset(...) */
	struct kvd_geometry geometry;
};

/* One sequence of a step. */
struct step_seq {
	const uint32_t *table; /* page index -> table entry (KVD_ENTRY), this step's own copy */
};

/* One row of a step.  Rows of one sequence stand next to each other, positions ascending. */
struct step_row {
	int32_t token;                 /* 0 .. n_vocab-1 */
	uint32_t pos;                  /* position of the token in its sequence */
	uint16_t seq;                  /* index into the step's sequences */
	uint8_t want_logits;           /* 1: this row's logits are wanted */
};

struct forward;
struct weights;

struct forward_options {
	unsigned n_threads;            /* worker threads including the caller, 1 .. 64 */
	unsigned max_rows;             /* most rows of one step */
	unsigned spin_usec; /* a waiting worker spins this long before it sleeps on a futex */
	const char *isa; /* "avx512", "avx2", "portable", or NULL: the best the machine has */
	bool share_weights; /* lay the weights out in a memfd other processes may map (weights.h) */
	const struct weights
		*weights; /* laid out or adopted before (weights.h), borrowed; NULL: do it here */
};

/* Lay the model's weights out for this machine and start the thread team.
 * ret  owned by the caller; forward_free() joins the threads.  err: one sentence on failure.
 * Returns 0 or -errno. */
int forward_new(const struct model *m, const struct forward_options *o, struct forward **ret,
		char *err, size_t errlen);
void forward_free(struct forward *f);

/* "cpu/1/avx2": backend, kernel family version, instruction set.  Pages of two ids never merge. */
const char *forward_numerics_id(const struct forward *f);
/* The id that forward_new() will have for an isa (NULL: the best), before there is a forward: kvd is
 * told it before it is asked for weights.  Returns 0; -EINVAL if this machine has no such isa. */
int forward_numerics_id_of(const char *isa, char ret_id[32]);

/* The weights in use, whoever laid them out; they live as long as f. */
const struct weights *forward_weights(const struct forward *f);

/* Bytes of one page's block in one plane for a model, bf16, in any layout. */
static inline uint32_t forward_block_bytes(const struct model_config *c)
{
	return c->n_kv_heads * c->head_dim * KVD_PAGE_TOKENS * 2u * (uint32_t)sizeof(uint16_t);
}

/* Run one step.
 *
 * rows     (n_rows), n_rows <= max_rows; K and V of each row are written to its page's blocks
 * seqs     (n_seqs)
 * logits   (number of rows with want_logits, n_vocab) f32, in row order
 * Returns  0; -EINVAL if a row names a page its table has no entry for.  Thread: the one that
 *          called forward_new(). */
int forward_step(struct forward *f, const struct kv_window *kv, const struct step_seq *seqs,
		 unsigned n_seqs, const struct step_row *rows, unsigned n_rows, float *logits);

#endif
