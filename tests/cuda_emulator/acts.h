/* acts.h - rounded activations in the order of mma fragments, one element at a time (args.h has the layout). */
#ifndef TESTS_CUDA_EMULATOR_ACTS_H
#define TESTS_CUDA_EMULATOR_ACTS_H

#include "engine/cuda/args.h"
#include "tests/cuda_emulator/cases.h"

static inline uint32_t acts_block(const struct kvd_acts *a, uint32_t row, uint32_t i)
{
	return row / KVD_ROW_TILE * a->n_chunks + i / KVD_CHUNK_K;
}

/* Which byte of `bytes`, `wide_high`, `wide_low` holds element i of a row: b0, b1 of port_mma_s8_k32(). */
static inline size_t acts_byte_at(const struct kvd_acts *a, uint32_t row, uint32_t i)
{
	uint32_t group = i % KVD_CHUNK_K / 32, k = i % 32, lane = row % KVD_ROW_TILE * 4 + k % 16 / 4;

	return (((size_t)acts_block(a, row, i) * 32 + lane) * 8 + group * 2 + k / 16) * 4 + k % 4;
}

/* Scale of element i's group; + 1: scale * sum. */
static inline size_t acts_scale_at(const struct kvd_acts *a, uint32_t row, uint32_t i)
{
	return (((size_t)acts_block(a, row, i) * 4 + i % KVD_CHUNK_K / 32) * KVD_ROW_TILE + row % KVD_ROW_TILE) * 2;
}

/* Which half-word of `float_high`, `float_low`: b0, b1 of port_mma_bf16(). */
static inline size_t acts_half_at(const struct kvd_acts *a, uint32_t row, uint32_t i)
{
	uint32_t step = i % KVD_CHUNK_K / 16, k = i % 16, lane = row % KVD_ROW_TILE * 4 + k % 8 / 2;

	return (((size_t)acts_block(a, row, i) * 32 + lane) * 16 + step * 2 + k / 8) * 2 + k % 2;
}

static inline double acts_of_bytes(const struct kvd_acts *a, uint32_t row, uint32_t i)
{
	return (double)((const int8_t *)a->bytes)[acts_byte_at(a, row, i)] *
		(double)a->byte_scales[acts_scale_at(a, row, i)];
}

static inline int acts_wide(const struct kvd_acts *a, uint32_t row, uint32_t i)
{
	size_t at = acts_byte_at(a, row, i);

	return ((const int8_t *)a->wide_high)[at] * 256 + ((const int8_t *)a->wide_low)[at];
}

static inline double acts_of_wide(const struct kvd_acts *a, uint32_t row, uint32_t i)
{
	return acts_wide(a, row, i) * (double)a->wide_scales[acts_scale_at(a, row, i)];
}

static inline double acts_of_floats(const struct kvd_acts *a, uint32_t row, uint32_t i)
{
	size_t at = acts_half_at(a, row, i);

	return (double)case_f32_of_bf16(((const uint16_t *)a->float_high)[at]) +
		(double)case_f32_of_bf16(((const uint16_t *)a->float_low)[at]);
}

/* Room for n_rows rows of n elements in all forms. */
static inline struct kvd_acts acts_make(uint32_t n_rows, uint32_t n, uint32_t flags)
{
	struct kvd_acts a = {.n_chunks = (n + KVD_CHUNK_K - 1) / KVD_CHUNK_K};
	size_t blocks = (size_t)(n_rows + KVD_ROW_TILE - 1) / KVD_ROW_TILE * a.n_chunks;

	a.bytes = case_memory("bytes", blocks * 1024, flags);
	a.byte_scales = case_memory("byte_scales", blocks * 256, flags);
	a.wide_high = case_memory("wide_high", blocks * 1024, flags);
	a.wide_low = case_memory("wide_low", blocks * 1024, flags);
	a.wide_scales = case_memory("wide_scales", blocks * 256, flags);
	a.float_high = case_memory("float_high", blocks * 2048, flags);
	a.float_low = case_memory("float_low", blocks * 2048, flags);
	return a;
}

#endif
