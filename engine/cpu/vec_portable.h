/* vec_portable.h - the vector primitives of the kernels in plain C: 16 lanes in a struct.
 *
 * See vec_avx2.h for the contract.  Every operation is the IEEE one that the vector instruction
 * performs per lane, so the bytes equal those of AVX2.  With VEC_EMULATE_BF16_DOT defined the
 * attention primitives do what vdpbf16ps does instead (tests/lib/kernels_emulated.c). */
#ifndef ENGINE_CPU_VEC_PORTABLE_H
#define ENGINE_CPU_VEC_PORTABLE_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#include "engine/cpu/half.h"

#define VW 16
#define VEC_EXPAND_ROWS 40
#define VEC_BYTE_ROWS 4
#define INLINE static inline __attribute__((always_inline))
#define TILE static __attribute__((noinline)) /* one loop for all shapes: small, quick to compile */
#define UNROLL(n)
#define LANES for (int l = 0; l < VW; l++)

typedef struct { int32_t v[VW]; } vi;
typedef struct { float v[VW]; } vf;

INLINE vi vi_load(const void *p) { vi r; memcpy(&r, p, sizeof(r)); return r; }
INLINE void vi_store(void *p, vi a) { memcpy(p, &a, sizeof(a)); }
INLINE vi vi_set1(int32_t x) { vi r; LANES r.v[l] = x; return r; }
INLINE vi vi_zero(void) { return vi_set1(0); }
INLINE vi vi_bcast(const void *p) { int32_t x; memcpy(&x, p, 4); return vi_set1(x); }
INLINE vi vi_add(vi a, vi b) { LANES a.v[l] += b.v[l]; return a; }
INLINE vi vi_sub(vi a, vi b) { LANES a.v[l] -= b.v[l]; return a; }
INLINE vi vi_shl(vi a, int n) { LANES a.v[l] = (int32_t)((uint32_t)a.v[l] << n); return a; }
INLINE vi vi_low_nibbles(vi a) { LANES a.v[l] &= 0x0F0F0F0F; return a; }
INLINE vi vi_high_nibbles(vi a)
{
	LANES a.v[l] = (int32_t)((uint32_t)a.v[l] >> 4 & 0x0F0F0F0Fu);
	return a;
}

INLINE vf vf_load(const float *p) { vf r; memcpy(&r, p, sizeof(r)); return r; }
INLINE void vf_store(float *p, vf a) { memcpy(p, &a, sizeof(a)); }
INLINE vf vf_set1(float x) { vf r; LANES r.v[l] = x; return r; }
INLINE vf vf_zero(void) { return vf_set1(0.0f); }
INLINE vf vf_add(vf a, vf b) { LANES a.v[l] += b.v[l]; return a; }
INLINE vf vf_sub(vf a, vf b) { LANES a.v[l] -= b.v[l]; return a; }
INLINE vf vf_mul(vf a, vf b) { LANES a.v[l] *= b.v[l]; return a; }
INLINE vf vf_div(vf a, vf b) { LANES a.v[l] /= b.v[l]; return a; }
INLINE vf vf_fma(vf a, vf b, vf c) { LANES c.v[l] = fmaf(a.v[l], b.v[l], c.v[l]); return c; }
INLINE vf vf_max(vf a, vf b) { LANES a.v[l] = a.v[l] > b.v[l] ? a.v[l] : b.v[l]; return a; }
INLINE vf vf_min(vf a, vf b) { LANES a.v[l] = a.v[l] < b.v[l] ? a.v[l] : b.v[l]; return a; }
INLINE vf vf_abs(vf a) { LANES a.v[l] = fabsf(a.v[l]); return a; }
INLINE vf vf_from_vi(vi a) { vf r; LANES r.v[l] = (float)a.v[l]; return r; }
INLINE vf vf_bits(vi a) { vf r; memcpy(&r, &a, sizeof(r)); return r; }
INLINE vi vi_bits(vf a) { vi r; memcpy(&r, &a, sizeof(r)); return r; }
INLINE vf vf_from_f16(const void *p)
{
	uint16_t h[VW];
	vf r;
	memcpy(h, p, sizeof(h));
	LANES r.v[l] = f32_from_f16(h[l]);
	return r;
}
INLINE vf vf_from_bf16(const void *p)
{
	uint16_t h[VW];
	vf r;
	memcpy(h, p, sizeof(h));
	LANES r.v[l] = f32_from_bf16(h[l]);
	return r;
}
INLINE vf vf_keep_ge(vf a, vf x, vf y)
{
	LANES a.v[l] = x.v[l] >= y.v[l] ? a.v[l] : 0.0f;
	return a;
}
INLINE vf vf_select_below(vf a, vf b, int32_t first, int32_t n)
{
	LANES a.v[l] = first + l < n ? a.v[l] : b.v[l];
	return a;
}
INLINE vf vf_swap_pairs(vf a) { vf r; LANES r.v[l] = a.v[l ^ 1]; return r; }
/* Adding 1.5 * 2^23 leaves the nearest even integer in the low bits of the float: no cast that
 * could be undefined for a NaN. */
INLINE vi vi_round(vf a)
{
	vf t = vf_add(a, vf_set1(12582912.0f));
	return vi_sub(vi_bits(t), vi_set1(0x4B400000));
}
INLINE void vf_store_s8(int8_t *p, vf a)
{
	vi i = vi_round(a);
	LANES p[l] = (int8_t)i.v[l];
}

/* What vpdpbusd does: four products of u8 x s8 added to a 32-bit lane. */
INLINE vi vi_dot_bytes(vi s, vi w, vi a)
{
	const uint8_t *x = (const uint8_t *)&w;
	const int8_t *y = (const int8_t *)&a;
	LANES s.v[l] += x[4 * l] * y[4 * l] + x[4 * l + 1] * y[4 * l + 1] +
			x[4 * l + 2] * y[4 * l + 2] + x[4 * l + 3] * y[4 * l + 3];
	return s;
}
#include "engine/cpu/vec_dots.h"

typedef vi pair_w;
INLINE pair_w pair_load(const void *p) { return vi_load(p); }
/* Element 0 or 1 of a lane's pair. */
INLINE float pair_element(pair_w w, int lane, int half)
{
	return f32_from_bf16((uint16_t)((uint32_t)w.v[lane] >> 16 * half));
}

#ifdef VEC_EMULATE_BF16_DOT
#define PAIR_BYTES 4
#define PAIR_HALVES 1
INLINE float flush_denormal(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x; }
INLINE float pair_get(const void *pairs, uint32_t i)
{
	return f32_from_bf16(((const uint16_t *)pairs)[i]);
}
INLINE void pair_set(void *pairs, uint32_t i, float x)
{
	((uint16_t *)pairs)[i] = bf16_from_f32(flush_denormal(x));
}
INLINE void pair_store(void *pairs, uint32_t i, vf a)
{
	LANES pair_set(pairs, i + (uint32_t)l, a.v[l]);
}
/* A product of two bf16 is exact in f32; inputs and results are flushed; odd elements first. */
INLINE vf pair_step(vf s, pair_w w, const void *pair, const int half)
{
	float even = flush_denormal(pair_get(pair, 0)), odd = flush_denormal(pair_get(pair, 1));
	LANES s.v[l] = flush_denormal(
		fmaf(flush_denormal(pair_element(w, l, 1)), odd, flush_denormal(s.v[l])));
	LANES s.v[l] = flush_denormal(fmaf(flush_denormal(pair_element(w, l, 0)), even, s.v[l]));
	return s;
}
#else
#define PAIR_BYTES 8
#define PAIR_HALVES 2
INLINE float pair_get(const void *pairs, uint32_t i) { return ((const float *)pairs)[i]; }
INLINE void pair_set(void *pairs, uint32_t i, float x) { ((float *)pairs)[i] = x; }
INLINE void pair_store(void *pairs, uint32_t i, vf a) { vf_store((float *)pairs + i, a); }
INLINE vf pair_step(vf s, pair_w w, const void *pair, const int half)
{
	float x = ((const float *)pair)[half];
	LANES s.v[l] = fmaf(pair_element(w, l, half), x, s.v[l]);
	return s;
}
#endif

#endif
