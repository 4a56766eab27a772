/* rows.cu - what is done to rows of activations between products: embedding, norm, gate, rotation.
 *
 * One block works on one row (or a part of it) and writes what nobody else writes.  Sums across a
 * row go over a fixed number of threads and a fixed tree, whatever the number of rows. */
#include "engine/cuda/acts.cuh"
#include "engine/cuda/pages.cuh"

#define ROW_THREADS 256u

/* ---- embedding: a row of the file's own table ---- */

PORT_INLINE uint32_t load_u16(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }
PORT_INLINE float load_f16(const uint8_t *p) { return port_f32_of_f16(load_u16(p)); }

/* 6-bit scale and minimum of sub-block j of a Q4_K or Q5_K block. */
PORT_INLINE void k_scales(const uint8_t *packed, uint32_t j, float *scale, float *min)
{
	if (j < 4u) {
		*scale = (float)(packed[j] & 63u);
		*min = (float)(packed[j + 4u] & 63u);
	} else {
		*scale = (float)((packed[j + 4u] & 15u) | (uint32_t)(packed[j - 4u] >> 6) << 4);
		*min = (float)(packed[j + 4u] >> 4 | (uint32_t)(packed[j] >> 6) << 4);
	}
}

/* Formats of 32 elements to a block: element e (0 .. 31). */
PORT_INLINE float element_of_32(uint32_t type, const uint8_t *b, uint32_t e)
{
	const uint32_t shift = e / 16u * 4u, byte = e % 16u;

	switch (type) {
	case 2:    /* Q4_0 */
		return load_f16(b) * (float)((int32_t)(b[2u + byte] >> shift & 15u) - 8);
	case 3:    /* Q4_1 */
		return load_f16(b) * (float)(b[4u + byte] >> shift & 15u) + load_f16(b + 2);
	case 6: {  /* Q5_0 */
		uint32_t fifth = (load_u16(b + 2) | load_u16(b + 4) << 16) >> e & 1u;
		return load_f16(b) *
		       (float)((int32_t)((b[6u + byte] >> shift & 15u) | fifth << 4) - 16);
	}
	case 7: {  /* Q5_1 */
		uint32_t fifth = (load_u16(b + 4) | load_u16(b + 6) << 16) >> e & 1u;
		return load_f16(b) * (float)((b[8u + byte] >> shift & 15u) | fifth << 4) +
		       load_f16(b + 2);
	}
	default:   /* Q8_0 */
		return load_f16(b) * (float)(int8_t)b[2u + e];
	}
}

/* Formats of 256: element e (0 .. 255). */
PORT_INLINE float element_of_256(uint32_t type, const uint8_t *b, uint32_t e)
{
	const uint32_t j = e / 32u, i = e % 32u;
	float scale, min;

	if (type == 14) {  /* Q6_K */
		const uint32_t half = j / 4u, group = j % 4u;
		uint32_t low = b[half * 64u + (group & 1u) * 32u + i];
		uint32_t high = b[128u + half * 32u + i] >> 2u * group & 3u;
		int32_t q = (int32_t)((group < 2u ? low & 15u : low >> 4) | high << 4) - 32;
		float d = load_f16(b + 208);
		return d * (float)(int8_t)b[192u + half * 8u + group * 2u + i / 16u] * (float)q;
	}
	k_scales(b + 4, j, &scale, &min);
	uint32_t quants = type == 12 ? 16u : 48u;  /* Q4_K, Q5_K */
	uint32_t q = b[quants + j / 2u * 32u + i] >> (j & 1u) * 4u & 15u;
	if (type == 13)
		q |= (uint32_t)(b[16u + i] >> j & 1u) << 4;
	return load_f16(b) * scale * (float)q - load_f16(b + 2) * min;
}

PORT_INLINE float element_of(uint32_t type, const uint8_t *row, uint32_t i)
{
	switch (type) {
	case 0: return ((const float *)row)[i];
	case 1: return load_f16(row + 2u * i);
	case 30: return port_f32_of_bits(load_u16(row + 2u * i) << 16);
	case 2: return element_of_32(type, row + i / 32u * 18u, i % 32u);
	case 3: return element_of_32(type, row + i / 32u * 20u, i % 32u);
	case 6: return element_of_32(type, row + i / 32u * 22u, i % 32u);
	case 7: return element_of_32(type, row + i / 32u * 24u, i % 32u);
	case 8: return element_of_32(type, row + i / 32u * 34u, i % 32u);
	case 12: return element_of_256(type, row + i / 256u * 144u, i % 256u);
	case 13: return element_of_256(type, row + i / 256u * 176u, i % 256u);
	default: return element_of_256(type, row + i / 256u * 210u, i % 256u);
	}
}

/* Grid (n_embd / 256, rows). */
PORT_KERNEL void __launch_bounds__(ROW_THREADS) kvd_embed(struct kvd_embed_args a)
{
	const uint32_t row = blockIdx.y, i = blockIdx.x * ROW_THREADS + threadIdx.x;

	port_grid_wait();
	port_grid_launch_dependents();
	if (row >= a.step->n_rows || i >= a.n_embd)
		return;
	a.x[(uint64_t)row * a.x_stride + i] =
		element_of(a.type, a.table + (uint64_t)a.rows[row].token * a.row_bytes, i);
}

/* Grid (rows). */
PORT_KERNEL void __launch_bounds__(ROW_THREADS) kvd_norm(struct kvd_norm_args a)
{
	PORT_SHARED(shared);
	float *sums = (float *)shared;   /* (8) */
	const uint32_t row = blockIdx.x, lane = threadIdx.x % 32u, warp = threadIdx.x / 32u;
	float sum = 0.0f;

	port_grid_wait();
	port_grid_launch_dependents();
	if (row >= (a.wanted ? a.step->n_wanted : a.step->n_rows))
		return;
	const float *x = a.x + (uint64_t)(a.wanted ? a.wanted[row] : row) * a.x_stride;
	for (uint32_t i = threadIdx.x; i < a.n; i += ROW_THREADS)
		sum = fmaf(x[i], x[i], sum);
	sum = warp_sum(sum);
	if (lane == 0)
		sums[warp] = sum;
	__syncthreads();
	sum = sums[0];
	for (uint32_t w = 1; w < ROW_THREADS / 32u; w++)
		sum += sums[w];
	const float scale = 1.0f / sqrtf(sum / (float)a.n + a.eps);
	for (uint32_t group = warp; group < a.out.n_chunks * 4u; group += ROW_THREADS / 32u) {
		const uint32_t i = group * 32u + lane;
		float y = i < a.n ? x[i] * scale * a.weight[i] : 0.0f;
		acts_store(&a.out, row, group, lane, y);
	}
}

/* Grid (groups / 8 rounded up, rows). */
PORT_KERNEL void __launch_bounds__(ROW_THREADS) kvd_gate(struct kvd_gate_args a)
{
	const uint32_t row = blockIdx.y, lane = threadIdx.x % 32u;
	const uint32_t group = blockIdx.x * (ROW_THREADS / 32u) + threadIdx.x / 32u;
	const uint32_t i = group * 32u + lane;
	float y = 0.0f;

	port_grid_wait();
	port_grid_launch_dependents();
	if (row >= a.step->n_rows || group >= a.out.n_chunks * 4u)
		return;
	const float *gate = a.gate_up + (uint64_t)row * a.stride;
	if (i < a.n) {
		float g = gate[i];
		/* beyond 2^126 the quotient is as good as 0 */
		float e = port_exp2(fminf(g * -1.44269504f, 126.0f));
		y = g / (1.0f + e) * gate[a.up_at + i];
	}
	acts_store(&a.out, row, group, lane, y);
}

/* q, k of a pair of dimensions, turned. */
PORT_INLINE void turn_pair(const struct kvd_rope_args *a, uint32_t pos, uint32_t dim, float *x0,
			   float *x1)
{
	if (dim >= a->rope_dims)
		return;
	const float *angle = a->angles + ((uint64_t)pos * (a->rope_dims / 2u) + dim / 2u) * 2u;
	const float c = angle[0], s = angle[1], first = *x0;
	*x0 = fmaf(first, c, *x1 * -s);
	*x1 = fmaf(*x1, c, first * s);
}

/* Grid (rows). */
PORT_KERNEL void __launch_bounds__(ROW_THREADS) kvd_rope(struct kvd_rope_args a)
{
	const uint32_t row = blockIdx.x, half = a.head_dim / 2u;
	const uint32_t n_q = a.n_heads * half, n_kv = a.n_kv_heads * half;

	port_grid_wait();
	port_grid_launch_dependents();
	if (row >= a.step->n_rows)
		return;
	const struct kvd_step_row r = a.rows[row];
	const float *x = a.qkv + (uint64_t)row * a.qkv_stride;
	for (uint32_t i = threadIdx.x; i < n_q + 2u * n_kv; i += ROW_THREADS) {
		float x0 = x[2u * i], x1 = x[2u * i + 1u];
		if (i < n_q + n_kv)
			turn_pair(&a, r.pos, 2u * (i % half), &x0, &x1);
		if (i < n_q) {
			x0 *= a.q_scale;
			x1 *= a.q_scale;
			uint32_t high = port_bf16x2(x0, x1);
			a.q_high[(uint64_t)row * n_q + i] = high;
			a.q_low[(uint64_t)row * n_q + i] =
				port_bf16x2(x0 - port_f32_of_bf16_low(high),
					    x1 - port_f32_of_bf16_high(high));
			continue;
		}
		/* K heads, then V heads: the block's own order */
		uint32_t head = (i - n_q) / half;
		uint8_t *to = page_token(&a.pages, a.pages.tables[r.table + (r.pos >> a.pages.page_shift)],
					 head, r.pos, a.head_dim);
		((uint32_t *)to)[i % half] = port_bf16x2(x0, x1);
	}
}
