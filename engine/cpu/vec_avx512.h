/* vec_avx512.h - the vector primitives of the kernels for AVX-512 with VNNI and BF16: 16 lanes.
 *
 * See vec_avx2.h for the contract.  The products are vpdpbusd (exact) followed by the same chain
 * of f32 fma as everywhere, so that integer products give the bytes of the other paths; attention
 * uses vdpbf16ps, which rounds queries and weights to bf16 and flushes denormals: a numerics id of
 * its own.  vec_portable.h with VEC_EMULATE_BF16_DOT is the same arithmetic in plain C, with which
 * the tests run the kernel sources of this path on machines that lack it. */
#ifndef ENGINE_CPU_VEC_AVX512_H
#define ENGINE_CPU_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define VW 16
#define VEC_EXPAND_ROWS 40
#define VEC_BYTE_ROWS 4
#define INLINE static inline __attribute__((always_inline))
#define TILE INLINE /* a register tile: compiled once per shape, all loops unrolled */
#define UNROLL_PRAGMA(text) _Pragma(#text)
#define UNROLL(n) UNROLL_PRAGMA(GCC unroll n)

typedef __m512i vi;
typedef __m512 vf;

INLINE vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE void vi_store(void *p, vi a) { _mm512_storeu_si512(p, a); }
INLINE vi vi_zero(void) { return _mm512_setzero_si512(); }
INLINE vi vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
INLINE vi vi_bcast(const void *p) { int32_t x; memcpy(&x, p, 4); return _mm512_set1_epi32(x); }
INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
#define vi_shl(a, n) _mm512_slli_epi32((a), (n))
INLINE vi vi_low_nibbles(vi a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
INLINE vi vi_high_nibbles(vi a)
{
	return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15));
}

INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf vf_abs(vf a) { return _mm512_abs_ps(a); }
INLINE vf vf_from_vi(vi a) { return _mm512_cvtepi32_ps(a); }
INLINE vf vf_bits(vi a) { return _mm512_castsi512_ps(a); }
INLINE vi vi_bits(vf a) { return _mm512_castps_si512(a); }
INLINE vf vf_from_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
INLINE vf vf_from_bf16(const void *p)
{
	return vf_bits(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
INLINE vf vf_keep_ge(vf a, vf x, vf y)
{
	return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, y, _CMP_GE_OQ), a);
}
INLINE vf vf_select_below(vf a, vf b, int32_t first, int32_t n)
{
	const vi lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	return _mm512_mask_mov_ps(b, _mm512_cmpgt_epi32_mask(_mm512_set1_epi32(n - first), lane),
				  a);
}
INLINE vf vf_swap_pairs(vf a) { return _mm512_permute_ps(a, 0xB1); }
INLINE void vf_store_s8(int8_t *p, vf a)
{
	_mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
}
INLINE vi vi_round(vf a) { return _mm512_cvtps_epi32(a); }

INLINE vi vi_dot_bytes(vi s, vi w, vi a) { return _mm512_dpbusd_epi32(s, w, a); }
#include "engine/cpu/vec_dots.h"

/* A shared pair lies in memory as two bf16. */
#define PAIR_BYTES 4
#define PAIR_HALVES 1               /* one step takes both elements */
typedef vi pair_w;
INLINE pair_w pair_load(const void *p) { return vi_load(p); }
INLINE vf pair_step(vf s, pair_w w, const void *pair, const int half)
{
	return _mm512_dpbf16_ps(s, (__m512bh)w, (__m512bh)vi_bcast(pair));
}
INLINE void pair_store(void *pairs, uint32_t i, vf a)
{
	_mm256_storeu_si256((__m256i *)((uint16_t *)pairs + i), (__m256i)_mm512_cvtneps_pbh(a));
}
INLINE float pair_get(const void *pairs, uint32_t i)
{
	uint32_t bits = (uint32_t)((const uint16_t *)pairs)[i] << 16;
	float x;
	memcpy(&x, &bits, 4);
	return x;
}
INLINE void pair_set(void *pairs, uint32_t i, float x)
{
	uint16_t h = (uint16_t)_mm_cvtsi128_si32((__m128i)_mm_cvtneps_pbh(_mm_set_ss(x)));
	((uint16_t *)pairs)[i] = h;
}

#endif
