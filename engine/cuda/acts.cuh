/* acts.cuh - round 32 activations of a row and put them where product.cu's fragments read them.
 *
 * One warp rounds one group: lane l holds element 32 * group + l.  The roundings are the CPU's
 * (cpu/kernels.h); what a group becomes depends on its 32 numbers alone. */
#ifndef ENGINE_CUDA_ACTS_CUH
#define ENGINE_CUDA_ACTS_CUH

#include "engine/cuda/args.h"
#include "engine/cuda/port.h"

PORT_INLINE float warp_sum(float v)
{
	for (uint32_t lanes = 16; lanes > 0; lanes /= 2)
		v += port_shuffle_xor_f32(v, lanes);
	return v;
}

PORT_INLINE float warp_max(float v)
{
	for (uint32_t lanes = 16; lanes > 0; lanes /= 2)
		v = fmaxf(v, port_shuffle_xor_f32(v, lanes));
	return v;
}

PORT_INLINE int32_t warp_sum_s32(int32_t v)
{
	for (uint32_t lanes = 16; lanes > 0; lanes /= 2)
		v += (int32_t)port_shuffle_xor_u32((uint32_t)v, lanes);
	return v;
}

/* The low bytes of four neighbouring lanes as a word, right in every fourth lane. */
PORT_INLINE uint32_t pack_bytes(uint32_t byte)
{
	byte &= 255u;
	byte |= port_shuffle_xor_u32(byte, 1) << 8;
	return byte | port_shuffle_xor_u32(byte, 2) << 16;
}

/* Largest magnitude of the group; 0 where it is so small that its inverse would overflow. */
PORT_INLINE float group_magnitude(float v)
{
	float magnitude = warp_max(fabsf(v));

	return magnitude > 1e-30f ? magnitude : 0.0f;
}

PORT_INLINE void acts_store_scale(float *scales, uint32_t block, uint32_t row, uint32_t group,
				  uint32_t lane, float scale, int32_t sum)
{
	if (lane < 2)
		scales[((block * 4u + group % 4u) * KVD_ROW_TILE + row % KVD_ROW_TILE) * 2u + lane] =
			lane ? scale * (float)sum : scale;
}

PORT_INLINE void acts_store_bytes(const struct kvd_acts *a, uint32_t block, uint32_t row,
				  uint32_t group, uint32_t lane, float v, float magnitude)
{
	const uint32_t slot = (block * 32u + row % KVD_ROW_TILE * 4u + lane / 4u % 4u) * 8u +
			      group % 4u * 2u + lane / 16u;

	if (a->bytes) {
		int32_t q = port_s32_of_f32(v * (magnitude > 0.0f ? 127.0f / magnitude : 0.0f));
		uint32_t word = pack_bytes((uint32_t)q);
		if (lane % 4u == 0)
			a->bytes[slot] = word;
		acts_store_scale(a->byte_scales, block, row, group, lane, magnitude / 127.0f,
				 warp_sum_s32(q));
	}
	if (a->wide_high) {
		int32_t q = port_s32_of_f32(v * (magnitude > 0.0f ? 32512.0f / magnitude : 0.0f));
		int32_t low = (int32_t)(int8_t)(q & 255);
		uint32_t low_word = pack_bytes((uint32_t)low);
		uint32_t high_word = pack_bytes((uint32_t)((q - low) >> 8));
		if (lane % 4u == 0) {
			a->wide_high[slot] = high_word;
			a->wide_low[slot] = low_word;
		}
		acts_store_scale(a->wide_scales, block, row, group, lane, magnitude / 32512.0f,
				 warp_sum_s32(q));
	}
}

/* v as two bf16 terms, high + low within 2^-17 of it; pairs of lanes share a word. */
PORT_INLINE void acts_store_floats(const struct kvd_acts *a, uint32_t block, uint32_t row,
				   uint32_t group, uint32_t lane, float v)
{
	const uint32_t step = group % 4u * 2u + lane / 16u;
	const uint32_t slot = (block * 32u + row % KVD_ROW_TILE * 4u + lane / 2u % 4u) * 16u +
			      step * 2u + lane / 8u % 2u;
	float neighbour = port_shuffle_xor_f32(v, 1);

	if (lane % 2u)
		return;
	uint32_t high = port_bf16x2(v, neighbour);
	a->float_high[slot] = high;
	a->float_low[slot] = port_bf16x2(v - port_f32_of_bf16_low(high),
					 neighbour - port_f32_of_bf16_high(high));
}

/* All 32 lanes call it; row is the row's index among the activations. */
PORT_INLINE void acts_store(const struct kvd_acts *a, uint32_t row, uint32_t group, uint32_t lane,
			    float v)
{
	const uint32_t block = row / KVD_ROW_TILE * a->n_chunks + group / 4u;

	if (a->bytes || a->wide_high)
		acts_store_bytes(a, block, row, group, lane, v, group_magnitude(v));
	if (a->float_high)
		acts_store_floats(a, block, row, group, lane, v);
}

#endif
