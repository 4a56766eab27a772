/* formats.h - the block formats of weights in a GGUF file, as numbers. */
#ifndef ENGINE_CPU_FORMATS_H
#define ENGINE_CPU_FORMATS_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/model.h"

/* 32 consecutive elements of a row: value = scale[i / 16] * (q - offset) + min. */
struct format_block {
	uint8_t q[32];             /* 0 .. 15 where format_is_nibble(), else value + 128 */
	float scale[2];            /* of the first and second 16; equal unless Q6_K */
	float min;
	uint16_t scale_f16, min_f16; /* the file's own bits, where it stores one f16 per 32 */
};

/* True for the types read by format_read(); the others are plain floats. */
static inline bool format_is_quantised(enum tensor_type type)
{
	return type != TENSOR_F32 && type != TENSOR_F16 && type != TENSOR_BF16;
}

static inline bool format_is_nibble(enum tensor_type type)
{
	return type == TENSOR_Q4_0 || type == TENSOR_Q4_1 || type == TENSOR_Q4_K;
}

static inline bool format_has_min(enum tensor_type type)
{
	return type == TENSOR_Q4_1 || type == TENSOR_Q5_1 || type == TENSOR_Q4_K ||
	       type == TENSOR_Q5_K;
}

/* True where scales and minima are products that need f32: the K formats. */
static inline bool format_has_wide_scales(enum tensor_type type)
{
	return type == TENSOR_Q4_K || type == TENSOR_Q5_K || type == TENSOR_Q6_K;
}

/* What is added to a signed value before it is stored as q. */
static inline uint8_t format_offset(enum tensor_type type)
{
	if (format_is_nibble(type))
		return type == TENSOR_Q4_0 ? 8 : 0;
	return 128;
}

/* Bytes of a row of n elements (n a multiple of the type's block, as model_open() checked). */
uint64_t format_row_bytes(enum tensor_type type, uint64_t n);

/* Elements 32 * i .. 32 * i + 31 of a row of a quantised type. */
void format_read(enum tensor_type type, const void *row, uint64_t i, struct format_block *ret);

/* One row of a tensor of any type as f32. */
void format_row_f32(const struct tensor *t, uint64_t row, float *out);

#endif
