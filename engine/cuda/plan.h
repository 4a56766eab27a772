/* plan.h - a step as the kernels read it: one image in host memory, copied to the device in one piece.
 *
 * Decides who attends to what (args.h: units and streams).  Rows whose sequences name the same pages for a
 * unit attend to it together, so that a prefix shared by many is read once a step; the bytes that come
 * out are the same as without. */
#ifndef ENGINE_CUDA_PLAN_H
#define ENGINE_CUDA_PLAN_H

#include <stdbool.h>
#include "engine/cuda/args.h"
#include "engine/forward.h"

/* The image's parts, in its order, and how many elements each has room for. */
struct plan_shape {
	uint32_t max_rows, max_seqs, group;
	uint32_t stream_pairs;     /* (row, head) pairs of one stream item */
	uint32_t max_partials;     /* (row, unit) pairs of one step */
	uint32_t max_streams;
	uint32_t max_entries;      /* table entries of all sequences of a step */
	/* byte offsets: */
	uint64_t rows_at, wanted_at, members_at, units_at, streams_at, tables_at;
	uint64_t bytes;
};

struct plan {
	struct plan_shape shape;
	uint8_t *image;            /* (shape.bytes) page-locked, the caller's */
	struct kvd_step step;      /* as in the image */
	uint64_t used_bytes;       /* of the image, from its start */
	uint32_t *unit_rows;       /* (max_rows) scratch: rows that still reach the unit */
	const struct step_seq *seqs;
	const struct step_row *rows;
};

/* Sizes of an image.  n_positions: of the longest sequence. */
struct plan_shape plan_shape_of(uint32_t max_rows, uint32_t max_seqs, uint32_t n_positions,
				uint32_t group, uint32_t head_dim);
/* image: (shape->bytes).  Returns 0 or -ENOMEM. */
int plan_init(struct plan *p, const struct plan_shape *shape, uint8_t *image);
void plan_deinit(struct plan *p);

/* Fill the image.
 * Returns 0, or -EINVAL where a row or its table is none that the step can take. */
int plan_step(struct plan *p, uint32_t n_vocab, uint32_t n_positions, const struct step_seq *seqs,
	      unsigned n_seqs, const struct step_row *rows, unsigned n_rows);

#endif
