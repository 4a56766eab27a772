/* product.cu - y = W x for any number of rows, on tensor cores, with one order of accumulation.
 *
 * Operands are swapped: 16 outputs are the rows of a fragment, 8 rows of activations its columns, so
 * that a single row costs one pass over the weights like any eight.  A column's result doesn't
 * depend on its neighbours, and the order below doesn't depend on how many there are.
 *
 * A block computes 32 outputs for 8 * NT rows.  Its 8 warps take a slice of K each; a warp streams
 * its records (16 outputs x 128 inputs, laid out in the order of its lanes' registers: 16-byte loads,
 * no shared memory) one record ahead of the arithmetic.  Integer dots of a group are exact:
 * accumulators start at 2^23 + 2^22 in f32's own bits, so that the sum *is* a float.  The slices
 * meet in shared memory and are added in order.
 *
 * Records, lane l = 4g + t, rows g and g + 8 of the tile:
 *   nibbles   [2][32 lanes][4 words]: per group two words; low nibbles row g, high nibbles row g + 8,
 *             byte j of the first word input 4t + j, of the second 16 + 4t + j
 *   bytes     [4 groups][32 lanes][4 words]: the fragment's registers
 *   sixes     nibbles as above, then high bits [32 lanes][4 groups] words: register r in bits 2r, 2r + 1
 *             of each byte
 *   floats    [planes][8 steps][32 lanes][4 words]: bf16 terms of the weight, largest first
 * then scales:
 *   f16       d [8 g][4 groups] pairs (row g, row g + 8); then likewise m
 *   K         [8 g] { 4 scales, 4 minima of row g, likewise of g + 8 } bytes, then [8 g] { d, dmin } of
 *             both rows, f16
 *   sixes     [8 g] { 8 scales of row g, of g + 8 } signed bytes, then [8 g] { d, d } f16 */
#include "engine/cuda/args.h"
#include "engine/cuda/port.h"

#define PRODUCT_THREADS 256u
#define MAGIC_BITS 0x4b400000       /* 2^23 + 2^22 as f32: plus an integer below 2^22 it stays exact */
#define MAGIC 12582912.0f

enum scale_kind { SCALES_F16, SCALES_F16_MIN, SCALES_K, SCALES_SIX };
enum quant_kind { QUANTS_NIBBLE, QUANTS_NIBBLE_SIGNED, QUANTS_BYTE, QUANTS_SIX };

/* A record's words in registers. */
template <int n_quants, int n_scales> struct record {
	uint4 quants[n_quants];
	uint4 scales[n_scales];
};

template <quant_kind Q, scale_kind S> struct form {
	static constexpr int n_quants = Q == QUANTS_BYTE ? 4 : Q == QUANTS_SIX ? 3 : 2;
	static constexpr int n_scales = S == SCALES_F16 ? 1 : 2;
	static constexpr uint32_t quant_bytes = n_quants * 512u;
	static constexpr uint32_t record_bytes =
		quant_bytes + (S == SCALES_F16	     ? 128u
			       : S == SCALES_F16_MIN ? 256u
			       : S == SCALES_K	     ? 192u
						     : 160u);
	static constexpr bool wide = Q == QUANTS_BYTE || Q == QUANTS_SIX;
	static constexpr bool has_min = S == SCALES_F16_MIN || S == SCALES_K;
	typedef record<n_quants, n_scales> words;

	static __device__ __forceinline__ void load(words &w, const uint8_t *at, uint32_t lane)
	{
#pragma unroll
		for (int i = 0; i < n_quants; i++)
			w.quants[i] = port_load_once16(at + i * 512 + lane * 16u);
		at += quant_bytes;
		w.scales[0] = port_load_once16(at + lane / 4u * 16u);
		if (S == SCALES_F16_MIN)
			w.scales[1] = port_load_once16(at + 128 + lane / 4u * 16u);
		if (S == SCALES_K) {
			uint2 d = port_load_once8(at + 128 + lane / 4u * 8u);
			w.scales[1] = make_uint4(d.x, d.y, 0u, 0u);
		}
		if (S == SCALES_SIX)
			w.scales[1] = make_uint4(port_load_once4(at + 128 + lane / 4u * 4u), 0u, 0u, 0u);
	}

	static __device__ __forceinline__ uint32_t word(const uint4 &v, int i)
	{
		return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
	}

	static __device__ __forceinline__ float half_of(uint32_t pair, int row)
	{
		return port_f32_of_f16(row ? pair >> 16 : pair & 0xffffu);
	}

	/* Registers of a group's fragment, as signed bytes. */
	static __device__ __forceinline__ void fragment(const words &w, int group, uint32_t (&a)[4])
	{
		if (Q == QUANTS_BYTE) {
			a[0] = w.quants[group].x;
			a[1] = w.quants[group].y;
			a[2] = w.quants[group].z;
			a[3] = w.quants[group].w;
			return;
		}
		const uint32_t first = word(w.quants[group / 2], group % 2 * 2);
		const uint32_t second = word(w.quants[group / 2], group % 2 * 2 + 1);
		if (Q == QUANTS_NIBBLE_SIGNED) {
			/* 16 * (q - 8): q in the byte's upper half, its sign bit turned */
			a[0] = ((first << 4) & 0xf0f0f0f0u) ^ 0x80808080u;
			a[1] = (first & 0xf0f0f0f0u) ^ 0x80808080u;
			a[2] = ((second << 4) & 0xf0f0f0f0u) ^ 0x80808080u;
			a[3] = (second & 0xf0f0f0f0u) ^ 0x80808080u;
			return;
		}
		a[0] = first & 0x0f0f0f0fu;
		a[1] = (first >> 4) & 0x0f0f0f0fu;
		a[2] = second & 0x0f0f0f0fu;
		a[3] = (second >> 4) & 0x0f0f0f0fu;
		if (Q == QUANTS_SIX) {
			const uint32_t high = word(w.quants[n_quants - 1], group);
#pragma unroll
			for (int r = 0; r < 4; r++) {
				a[r] |= (r < 2 ? high << (4 - 2 * r) : high >> (2 * r - 4)) & 0x30303030u;
				/* - 32 in each byte, without a borrow between them */
				a[r] = ((a[r] | 0x80808080u) - 0x20202020u) ^ 0x80808080u;
			}
		}
	}

	/* Scale (and minimum) of a row of the tile for a group; sixes: for half a group. */
	static __device__ __forceinline__ float scale(const words &w, int group, int half, int row)
	{
		if (S == SCALES_K) {
			uint32_t bytes = row ? w.scales[0].z : w.scales[0].x;
			return half_of(row ? w.scales[1].y : w.scales[1].x, 0) *
			       (float)(bytes >> 8 * group & 255u);
		}
		if (S == SCALES_SIX) {
			uint32_t bytes = word(w.scales[0], row * 2 + group / 2);
			int32_t s = (int32_t)(int8_t)(bytes >> (group % 2 * 16 + half * 8) & 255u);
			return half_of(w.scales[1].x, row) * (float)s;
		}
		float d = half_of(word(w.scales[0], group), row);
		return Q == QUANTS_NIBBLE_SIGNED ? d * 0.0625f : d;
	}

	static __device__ __forceinline__ float minimum(const words &w, int group, int row)
	{
		if (S == SCALES_K) {
			uint32_t bytes = row ? w.scales[0].w : w.scales[0].y;
			return -(half_of(row ? w.scales[1].y : w.scales[1].x, 1) *
				 (float)(bytes >> 8 * group & 255u));
		}
		return half_of(word(w.scales[1], group), row);
	}
};

PORT_INLINE void start_dots(int32_t (&c)[4])
{
	c[0] = c[1] = c[2] = c[3] = MAGIC_BITS;
}

PORT_INLINE float dot_of(int32_t c) { return port_f32_of_bits((uint32_t)c) - MAGIC; }

/* The lane's words of a tile of activations; columns past the rows stand still. */
PORT_INLINE uint4 acts_load(const uint32_t *acts, uint32_t block, uint32_t lane, uint32_t words,
			    uint32_t at)
{
	return *(const uint4 *)(acts + (block * 32u + lane) * words + at);
}

/* Two groups (pair) of a record and 8 rows: acc = one step of each group's chain. */
template <class F>
PORT_INLINE void add_pair(const typename F::words &w, int pair, const uint4 &high, const uint4 &low,
			  const float *scales, const uint32_t (&fragments)[2][4], float (&acc)[4])
{
#pragma unroll
	for (int i = 0; i < 2; i++) {
		const int group = pair * 2 + i;
		const float4 s = *(const float4 *)(scales + group * 16);
		const uint32_t b0 = i ? high.z : high.x, b1 = i ? high.w : high.y;
		const uint32_t l0 = i ? low.z : low.x, l1 = i ? low.w : low.y;
#pragma unroll
		for (int half = 0; half < (F::six ? 2 : 1); half++) {
			int32_t c[4], l[4];
			start_dots(c);
			start_dots(l);
			if (F::six) {
				const uint32_t a0 = fragments[i][half * 2], a1 = fragments[i][half * 2 + 1];
				port_mma_s8_k16(c, a0, a1, half ? b1 : b0);
				port_mma_s8_k16(l, a0, a1, half ? l1 : l0);
			} else {
				port_mma_s8_k32(c, fragments[i], b0, b1);
				if (F::wide)
					port_mma_s8_k32(l, fragments[i], l0, l1);
			}
#pragma unroll
			for (int e = 0; e < 4; e++) {
				const float d = F::scale(w, group, half, e / 2);
				const float rounded = e % 2 ? s.z : s.x;
				float dot = dot_of(c[e]);
				if (F::wide)
					dot = fmaf(dot, 256.0f, dot_of(l[e]));
				acc[e] = fmaf(dot, d * rounded, acc[e]);
				if (F::has_min)
					acc[e] = fmaf(F::minimum(w, group, e / 2), e % 2 ? s.w : s.y,
						      acc[e]);
			}
		}
	}
}

template <quant_kind Q, scale_kind S> struct integers : form<Q, S> {
	typedef form<Q, S> base;
	typedef typename base::words words;
	static constexpr bool six = Q == QUANTS_SIX;

	/* One record of each tile for all rows. */
	template <int NT>
	static __device__ __forceinline__ void step(const struct kvd_product_args &a, const words (&w)[2],
						    uint32_t first_tile, uint32_t n_row_tiles,
						    uint32_t chunk, uint32_t lane, bool live,
						    float (&acc)[2][NT][4])
	{
		const uint32_t *high = base::wide ? a.in.wide_high : a.in.bytes;
		const float *scales = base::wide ? a.in.wide_scales : a.in.byte_scales;
#pragma unroll
		for (int pair = 0; pair < 2; pair++) {
			uint32_t fragments[2][2][4];
#pragma unroll
			for (int i = 0; i < 2; i++) {
				base::fragment(w[0], pair * 2 + i, fragments[0][i]);
				base::fragment(w[1], pair * 2 + i, fragments[1][i]);
			}
#pragma unroll
			for (int nt = 0; nt < NT; nt++) {
				if ((uint32_t)nt >= n_row_tiles)
					break;
				const uint32_t block = (first_tile + (uint32_t)nt) * a.n_chunks + chunk;
				uint4 b = make_uint4(0u, 0u, 0u, 0u), l = b;
				if (live || nt + 1u < n_row_tiles) {
					b = acts_load(high, block, lane, 8u, pair * 4u);
					if (base::wide)
						l = acts_load(a.in.wide_low, block, lane, 8u, pair * 4u);
				}
				const float *s = scales + (uint64_t)block * 64u + lane % 4u * 4u;
				add_pair<integers>(w[0], pair, b, l, s, fragments[0], acc[0][nt]);
				add_pair<integers>(w[1], pair, b, l, s, fragments[1], acc[1][nt]);
			}
		}
	}
};

/* Sums of a warp's slice, to shared memory; then all slices in order, to the output. */
template <int NT>
PORT_INLINE void product_finish(const struct kvd_product_args &a, float *sums, uint32_t n_rows,
				const float (&acc)[2][NT][4])
{
	const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u;
	const uint32_t first_row = blockIdx.y * NT * KVD_ROW_TILE;
	float *mine = sums + warp * NT * KVD_ROW_TILE * KVD_GEMM_PITCH;

#pragma unroll
	for (int tile = 0; tile < 2; tile++)
#pragma unroll
		for (int nt = 0; nt < NT; nt++)
#pragma unroll
			for (int e = 0; e < 4; e++)
				mine[(nt * 8u + lane % 4u * 2u + e % 2u) * KVD_GEMM_PITCH + tile * 16u +
				     lane / 4u + e / 2u * 8u] = acc[tile][nt][e];
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < NT * KVD_ROW_TILE * KVD_GEMM_OUTPUTS; i += PRODUCT_THREADS) {
		const uint32_t column = i / KVD_GEMM_OUTPUTS, n = i % KVD_GEMM_OUTPUTS;
		const uint32_t row = first_row + column, output = blockIdx.x * KVD_GEMM_OUTPUTS + n;
		if (row >= n_rows || output >= a.n_out)
			continue;
		const float *from = sums + column * KVD_GEMM_PITCH + n;
		float sum = from[0];
		for (uint32_t slice = 1; slice < KVD_K_SLICES; slice++)
			sum += from[slice * NT * KVD_ROW_TILE * KVD_GEMM_PITCH];
		float *to = a.out + (uint64_t)row * a.out_stride + output;
		*to = a.add ? *to + sum : sum;
	}
}

template <class F, int NT> PORT_INLINE void product_integers(const struct kvd_product_args &a)
{
	PORT_SHARED(shared);
	const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u;
	const uint32_t end = a.n_chunks * (warp + 1u) / KVD_K_SLICES;
	uint32_t chunk = a.n_chunks * warp / KVD_K_SLICES;
	const uint64_t tile_bytes = (uint64_t)a.n_chunks * F::record_bytes;
	const uint8_t *at = a.weights + blockIdx.x * 2u * tile_bytes + chunk * (uint64_t)F::record_bytes;
	typename F::words now[2], next[2];
	float acc[2][NT][4] = {};

	if (chunk < end) {
		F::load(now[0], at, lane);
		F::load(now[1], at + tile_bytes, lane);
	}
	port_grid_wait();
	port_grid_launch_dependents();
	const uint32_t n_rows = a.of_wanted ? a.step->n_wanted : a.step->n_rows;
	const uint32_t first_tile = blockIdx.y * NT;
	if (first_tile * KVD_ROW_TILE >= n_rows)
		return;
	const uint32_t all_tiles = (n_rows + KVD_ROW_TILE - 1u) / KVD_ROW_TILE - first_tile;
	const uint32_t n_row_tiles = all_tiles < NT ? all_tiles : NT;
	/* does this lane's column of the last row tile hold a row? */
	const bool live = lane / 4u < n_rows - (first_tile + n_row_tiles - 1u) * KVD_ROW_TILE;
	while (chunk < end) {
		at += F::record_bytes;
		if (chunk + 1u < end) {
			F::load(next[0], at, lane);
			F::load(next[1], at + tile_bytes, lane);
		}
		F::template step<NT>(a, now, first_tile, n_row_tiles, chunk, lane, live, acc);
		if (++chunk == end)
			break;
		at += F::record_bytes;
		if (chunk + 1u < end) {
			F::load(now[0], at, lane);
			F::load(now[1], at + tile_bytes, lane);
		}
		F::template step<NT>(a, next, first_tile, n_row_tiles, chunk, lane, live, acc);
		chunk++;
	}
	product_finish<NT>(a, (float *)shared, n_rows, acc);
}

/* Weights in 1 to 3 bf16 terms, activations in two: f32 chains of the tensor core over k ascending. */
template <int NT> PORT_INLINE void product_floats(const struct kvd_product_args &a)
{
	PORT_SHARED(shared);
	const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u;
	const uint32_t end = a.n_chunks * (warp + 1u) / KVD_K_SLICES;
	const uint64_t record_bytes = a.n_planes * 4096u, tile_bytes = a.n_chunks * record_bytes;
	float acc[2][NT][4] = {};

	port_grid_wait();
	port_grid_launch_dependents();
	const uint32_t n_rows = a.of_wanted ? a.step->n_wanted : a.step->n_rows;
	const uint32_t first_tile = blockIdx.y * NT;
	if (first_tile * KVD_ROW_TILE >= n_rows)
		return;
	const uint32_t all_tiles = (n_rows + KVD_ROW_TILE - 1u) / KVD_ROW_TILE - first_tile;
	const uint32_t n_row_tiles = all_tiles < NT ? all_tiles : NT;
	for (uint32_t chunk = a.n_chunks * warp / KVD_K_SLICES; chunk < end; chunk++) {
		const uint8_t *at = a.weights + blockIdx.x * 2u * tile_bytes + chunk * record_bytes +
				    lane * 16u;
#pragma unroll 4
		for (uint32_t step = 0; step < 8u; step++)
			for (uint32_t plane = 0; plane < a.n_planes; plane++) {
				uint32_t w[2][4];
#pragma unroll
				for (int tile = 0; tile < 2; tile++) {
					uint4 v = port_load_once16(at + tile * tile_bytes + plane * 4096u +
								   step * 512u);
					w[tile][0] = v.x;
					w[tile][1] = v.y;
					w[tile][2] = v.z;
					w[tile][3] = v.w;
				}
#pragma unroll
				for (int nt = 0; nt < NT; nt++) {
					if ((uint32_t)nt >= n_row_tiles)
						break;
					const uint32_t block = (first_tile + (uint32_t)nt) * a.n_chunks + chunk;
					const uint32_t word = (block * 32u + lane) * 16u + step * 2u;
					const uint2 high = *(const uint2 *)(a.in.float_high + word);
					const uint2 low = *(const uint2 *)(a.in.float_low + word);
#pragma unroll
					for (int tile = 0; tile < 2; tile++) {
						port_mma_bf16(acc[tile][nt], w[tile], high.x, high.y);
						port_mma_bf16(acc[tile][nt], w[tile], low.x, low.y);
					}
				}
			}
	}
	product_finish<NT>(a, (float *)shared, n_rows, acc);
}

/* Grid (outputs / 32, rows / (8 * NT)), both rounded up; shared: kvd_product_shared(NT). */
#define PRODUCT(NAME, NT, BLOCKS, QUANTS, SCALES) \
PORT_KERNEL void __launch_bounds__(PRODUCT_THREADS, BLOCKS) \
kvd_product_##NAME##_##NT(struct kvd_product_args a) \
{ \
	product_integers<integers<QUANTS, SCALES>, NT>(a); \
}
#define PRODUCTS(NAME, QUANTS, SCALES) \
	PRODUCT(NAME, 1, 1, QUANTS, SCALES) \
	PRODUCT(NAME, 4, 1, QUANTS, SCALES)

PRODUCT(q4_0, 1, 2, QUANTS_NIBBLE_SIGNED, SCALES_F16)
PRODUCT(q4_0, 4, 1, QUANTS_NIBBLE_SIGNED, SCALES_F16)
PRODUCTS(q4_1, QUANTS_NIBBLE, SCALES_F16_MIN)
PRODUCTS(q4_k, QUANTS_NIBBLE, SCALES_K)
PRODUCTS(q5_1, QUANTS_BYTE, SCALES_F16_MIN)
PRODUCTS(q5_k, QUANTS_BYTE, SCALES_K)
PRODUCTS(q6_k, QUANTS_SIX, SCALES_SIX)
PRODUCTS(q8_0, QUANTS_BYTE, SCALES_F16)
/* more rows at a pass; with 16-bit activations that would not fit the registers */
PRODUCT(q4_0, 8, 1, QUANTS_NIBBLE_SIGNED, SCALES_F16)
PRODUCT(q4_1, 8, 1, QUANTS_NIBBLE, SCALES_F16_MIN)
PRODUCT(q4_k, 8, 1, QUANTS_NIBBLE, SCALES_K)

#define PRODUCT_FLOATS(NT, BLOCKS) \
PORT_KERNEL void __launch_bounds__(PRODUCT_THREADS, BLOCKS) \
kvd_product_floats_##NT(struct kvd_product_args a) \
{ \
	product_floats<NT>(a); \
}
PRODUCT_FLOATS(1, 2) PRODUCT_FLOATS(4, 1)
