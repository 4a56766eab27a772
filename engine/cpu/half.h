/* half.h - f16 and bf16 as bits, exact both ways where a value exists, no intrinsics. */
#ifndef ENGINE_CPU_HALF_H
#define ENGINE_CPU_HALF_H

#include <stdint.h>
#include <string.h>

static inline float f32_from_bits(uint32_t bits)
{
	float x;
	memcpy(&x, &bits, 4);
	return x;
}

static inline uint32_t bits_from_f32(float x)
{
	uint32_t bits;
	memcpy(&bits, &x, 4);
	return bits;
}

static inline float f32_from_f16(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31u,
		 mantissa = h & 1023u;

	if (exponent == 31u) /* infinity; a NaN keeps its bits and turns quiet, as vcvtph2ps does */
		return f32_from_bits(sign | 0x7F800000u | mantissa << 13 |
				     (mantissa ? 0x400000u : 0u));
	if (exponent == 0u) {  /* zero or denormal: mantissa * 2^-24, exact in f32 */
		float x = (float)mantissa * 0x1p-24f;
		return sign ? -x : x;
	}
	return f32_from_bits(sign | (exponent + 112u) << 23 | mantissa << 13);
}

static inline float f32_from_bf16(uint16_t h)
{
	return f32_from_bits((uint32_t)h << 16);
}

/* Round to nearest even; a NaN stays one. */
static inline uint16_t bf16_from_f32(float x)
{
	uint32_t bits = bits_from_f32(x);

	if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
		return (uint16_t)(bits >> 16 | 0x40u);
	return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

#endif
