/* layout.h - weights of a model file as product.cu reads them: records in the order of its lanes.
 *
 * Pure functions over bytes that model_open() has checked; host memory only. */
#ifndef ENGINE_CUDA_LAYOUT_H
#define ENGINE_CUDA_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/model.h"

enum layout_form {
	LAYOUT_Q4_0, LAYOUT_Q4_1, LAYOUT_Q4_K, LAYOUT_Q5_1, LAYOUT_Q5_K, LAYOUT_Q6_K, LAYOUT_Q8_0,
	LAYOUT_BF16, LAYOUT_F16, LAYOUT_F32,   /* one, two, three bf16 terms */
	LAYOUT_FORMS
};

/* What product.cu's kernels of a form are called, kvd_product_NAME_ROWS, and what they read. */
struct layout_kind {
	const char *name;
	uint32_t record_bytes;     /* of 16 outputs x 128 inputs */
	uint32_t n_planes;         /* bf16 terms; 0: integers */
	bool wide;                 /* 16-bit activations, else bytes (integers) */
	uint32_t tiles_max;        /* most tiles of 8 rows in one pass: 4 or 8 */
};

enum layout_form layout_form_of(enum tensor_type type);
const struct layout_kind *layout_kind(enum layout_form form);

uint32_t layout_chunks(uint64_t n_in);
/* Bytes of a matrix of that many outputs, whole pairs of tiles. */
uint64_t layout_bytes(enum layout_form form, uint64_t n_out, uint64_t n_in);

/* Write a tensor's rows as outputs first .. of a matrix at `to`, zeroed before.  Tensors of one form may
 * follow each other in one matrix. */
void layout_fill(const struct tensor *t, uint64_t first, uint8_t *to);

#endif
