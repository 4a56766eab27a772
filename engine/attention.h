/* attention.h - who attends to what in a step: a plan made once, run in every layer.
 *
 * Two ways to walk the same fixed blocks of keys, with the same bytes as result:
 *   stream   several rows of one sequence walk all their blocks and merge as they go (prefill)
 *   block    all rows whose tables name the same pages for a block attend to it together, each
 *            partial is kept, and attention_merge() merges them in block order (decode; a prefix
 *            shared by several sequences is read once a step) */
#ifndef ENGINE_ATTENTION_H
#define ENGINE_ATTENTION_H

#include "engine/cpu/kernels.h"
#include "engine/forward.h"

struct attention;

/* A layer's inputs and outputs. */
struct attention_io {
	const struct kv_window *kv;
	uint32_t layer;
	const uint8_t *queries;          /* (rows, query_bytes) pairs, (n_heads, head_dim) each */
	size_t query_bytes;
	float *out;                      /* (rows, out_stride), (n_heads, head_dim) each */
	uint32_t out_stride;
};

/* max_rows: of one step.  Returns NULL if out of memory. */
struct attention *attention_new(const struct model_config *c, const struct cpu_kernels *k,
				unsigned n_threads, unsigned max_rows);
void attention_free(struct attention *a);

/* Make the plan of a step whose rows have been validated.  Before the team runs. */
void attention_plan(struct attention *a, const struct step_seq *seqs, const struct step_row *rows,
		    unsigned n_rows);

/* Work items of the plan for one layer; item 0 .. n-1 may run in any thread, in any order. */
uint32_t attention_items(const struct attention *a);
void attention_run(struct attention *a, const struct attention_io *io, uint32_t item,
		   unsigned thread);

/* Finish one row after all items of the layer ran; out (n_heads, head_dim). */
void attention_merge(struct attention *a, const struct attention_io *io, uint32_t row, float *out,
		     unsigned thread);

#endif
