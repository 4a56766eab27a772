/* vec_avx2.h - the vector primitives of the kernels for AVX2 + FMA + F16C: 8 lanes of 32 bits.
 *
 * One of three bodies of the same names (vec_avx512.h, vec_portable.h): the *_body.h files are
 * written over them once.  A lane is always one output (a column of a product, a key, a dimension
 * of a head), never a slice of a sum, so that the width of the vector can't change a result.
 *
 * AVX2 has no dot product of bytes.  vpmaddubsw adds two products of u8 x s8 in 16 bits and
 * saturates, so weights go in as nibbles: 15 * 127 * 2 = 3,810, and eight of them (one block of 32)
 * make 30,480, still exact.  Bytes are widened to 16 bits for vpmaddwd. */
#ifndef ENGINE_CPU_VEC_AVX2_H
#define ENGINE_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define VW 8                        /* lanes */
#define VEC_EXPAND_ROWS 12          /* with more rows a panel of nibbles is expanded once */
#define VEC_BYTE_ROWS 5             /* rows of a register tile of bytes: 5 x 2 sums, 4 weights */
#define INLINE static inline __attribute__((always_inline))
#define TILE INLINE /* a register tile: compiled once per shape, all loops unrolled */
#define UNROLL_PRAGMA(text) _Pragma(#text)
#define UNROLL(n) UNROLL_PRAGMA(GCC unroll n)

typedef __m256i vi;
typedef __m256 vf;

INLINE vi vi_load(const void *p) { return _mm256_loadu_si256(p); }
INLINE void vi_store(void *p, vi a) { _mm256_storeu_si256(p, a); }
INLINE vi vi_zero(void) { return _mm256_setzero_si256(); }
INLINE vi vi_set1(int32_t x) { return _mm256_set1_epi32(x); }
INLINE vi vi_bcast(const void *p) { int32_t x; memcpy(&x, p, 4); return _mm256_set1_epi32(x); }
INLINE vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
INLINE vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
#define vi_shl(a, n) _mm256_slli_epi32((a), (n))
INLINE vi vi_low_nibbles(vi a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
INLINE vi vi_high_nibbles(vi a)
{
	return _mm256_and_si256(_mm256_srli_epi16(a, 4), _mm256_set1_epi8(15));
}

INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
INLINE vf vf_set1(float x) { return _mm256_set1_ps(x); }
INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE vf vf_from_vi(vi a) { return _mm256_cvtepi32_ps(a); }
INLINE vf vf_bits(vi a) { return _mm256_castsi256_ps(a); }
INLINE vi vi_bits(vf a) { return _mm256_castps_si256(a); }
INLINE vf vf_from_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
INLINE vf vf_from_bf16(const void *p)
{
	return vf_bits(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
/* a where x >= y, else 0 */
INLINE vf vf_keep_ge(vf a, vf x, vf y)
{
	return _mm256_and_ps(a, _mm256_cmp_ps(x, y, _CMP_GE_OQ));
}
/* a in lanes first + lane < n, else b */
INLINE vf vf_select_below(vf a, vf b, int32_t first, int32_t n)
{
	const vi lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
	vi below = _mm256_cmpgt_epi32(_mm256_set1_epi32(n - first), lane);
	return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(below));
}
/* {a1, a0, a3, a2, ...} */
INLINE vf vf_swap_pairs(vf a) { return _mm256_permute_ps(a, 0xB1); }
/* round to nearest even, as signed bytes: VW of them */
INLINE void vf_store_s8(int8_t *p, vf a)
{
	__m256i i = _mm256_cvtps_epi32(a);
	__m128i w = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
	_mm_storel_epi64((__m128i *)p, _mm_packs_epi16(w, w));
}
INLINE vi vi_round(vf a) { return _mm256_cvtps_epi32(a); }

/* Sums of nibbles x signed bytes over one block: 16-bit halves of each lane. */
typedef vi nib_acc;
INLINE nib_acc nib_zero(void) { return vi_zero(); }
/* Multiply and add in one piece: left to itself, gcc 12 multiplies a whole tile first and spills
 * half of the sums (15 instead of 29 products a cycle). */
#define MULTIPLY_ADD(multiply, add, s, w, a) do { \
		vi product; \
		__asm__(multiply " %[y],%[x],%[p]\n\t" add " %[p],%[sum],%[sum]" \
			: [sum] "+x"(s), [p] "=&x"(product) : [x] "x"(w), [y] "x"(a)); \
	} while (0)
INLINE nib_acc nib_step(nib_acc s, vi w, vi a)
{
	MULTIPLY_ADD("vpmaddubsw", "vpaddw", s, w, a);
	return s;
}
INLINE vi nib_sum(nib_acc s) { return _mm256_madd_epi16(s, _mm256_set1_epi16(1)); }

/* Bytes x 16 bits: the even and the odd bytes of a k4 as 16-bit pairs for vpmaddwd.  Activations
 * lie as k0 k2 k1 k3. */
struct byte_w { vi even, odd; };
INLINE struct byte_w byte_load(const void *p)
{
	vi w = vi_load(p);
	return (struct byte_w){ _mm256_and_si256(w, _mm256_set1_epi32(0x00FF00FF)),
				_mm256_srli_epi16(w, 8) };
}
typedef vi byte_acc;
INLINE byte_acc byte_zero(void) { return vi_zero(); }
/* q: the wide activations of a block, k4: which four */
INLINE byte_acc byte_step(byte_acc s, struct byte_w w, const int16_t *q, int k4)
{
	MULTIPLY_ADD("vpmaddwd", "vpaddd", s, w.even, vi_bcast(q + 4 * k4));
	MULTIPLY_ADD("vpmaddwd", "vpaddd", s, w.odd, vi_bcast(q + 4 * k4 + 2));
	return s;
}
INLINE vi byte_sum(byte_acc s) { return s; }
INLINE void wide_store(int16_t *q, const int32_t *from)
{
	for (int i = 0; i < 32; i += 4) {
		q[i] = (int16_t)from[i];
		q[i + 1] = (int16_t)from[i + 2];
		q[i + 2] = (int16_t)from[i + 1];
		q[i + 3] = (int16_t)from[i + 3];
	}
}

/* Pairs: two consecutive elements of each lane (bf16) against a pair shared by all lanes, which
 * lies in memory as two floats. */
#define PAIR_BYTES 8
#define PAIR_HALVES 2               /* steps a pair takes: first element, then second */
typedef vi pair_w;
INLINE pair_w pair_load(const void *p) { return vi_load(p); }
INLINE vf pair_step(vf s, pair_w w, const void *pair, const int half)
{
	vf x = half ? vf_bits(_mm256_and_si256(w, _mm256_set1_epi32((int)0xFFFF0000u)))
		    : vf_bits(_mm256_slli_epi32(w, 16));
	return vf_fma(x, vf_set1(((const float *)pair)[half]), s);
}
/* Store VW elements as pairs at element index i of an array of pairs. */
INLINE void pair_store(void *pairs, uint32_t i, vf a) { vf_store((float *)pairs + i, a); }
INLINE float pair_get(const void *pairs, uint32_t i) { return ((const float *)pairs)[i]; }
INLINE void pair_set(void *pairs, uint32_t i, float x) { ((float *)pairs)[i] = x; }

#endif
