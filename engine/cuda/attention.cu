/* attention.cu - attention over kvd's pages, the table taken as kvd writes it.
 *
 * Keys come in units of 128 from position 0 of the sequence.  16 (row, head) pairs of one KV head are
 * the rows of an mma tile.  What a pair gets from a unit is fixed, whoever computes it:
 *   scores   one chain over the dimensions, 16 at a time: the query's high bf16 term, then its low
 *   weights  2^(score - maximum of the unit), their sum over a lane's keys ascending, then lanes 1, 2
 *   output   one chain over the keys, 16 at a time: the weight's high term, then its low
 * and units are merged in order, by one formula (merge_output).  So
 *   kvd_attend_unit    a block per item: one unit, its partial result to memory, kvd_merge adds them up;
 *                      the pairs may belong to several sequences that share the unit's pages
 *   kvd_attend_stream  a block per item: up to 64 pairs of one sequence walk all their units
 * give the same bytes.  Both copy a unit's K and V into shared memory asynchronously, all at once: two or
 * three blocks on a multiprocessor keep enough bytes in flight without a pipeline of stages. */
#include "engine/cuda/acts.cuh"
#include "engine/cuda/pages.cuh"

#include <math.h>

#define ATTEND_WARPS 4u
#define ATTEND_THREADS (32u * ATTEND_WARPS)
#define PAD ((int)KVD_HEAD_PAD)     /* bf16 elements: rows of shared matrices start 16 bytes apart in the banks */
#define SCORE_PITCH 132             /* floats of a row of scores */
#define UNIT_TILES 16               /* n tiles of 8 keys in a unit */

typedef uint16_t bf16_bits;

/* ---- shared matrices ---- */

/* Copy keys 0 .. 127 of a unit, of one head (K heads first), zeros past n_keys. */
template <int D>
PORT_INLINE void copy_unit(bf16_bits *to, const struct kvd_pages *pages, const uint32_t *table,
			   uint32_t unit, uint32_t head, uint32_t n_keys)
{
	for (uint32_t i = threadIdx.x; i < KVD_UNIT_KEYS * (D / 8); i += ATTEND_THREADS) {
		const uint32_t key = i / (D / 8), part = i % (D / 8);
		const uint32_t pos = unit * KVD_UNIT_KEYS + key;
		const bool valid = key < n_keys;
		const uint32_t entry = table[(valid ? pos : unit * KVD_UNIT_KEYS) >> pages->page_shift];
		port_copy_async16(to + key * (D + PAD) + part * 8u,
				  page_token(pages, entry, head, pos, D) + part * 16u, valid);
	}
}

/* Scores of 16 pairs (rows of q_high, q_low) against 16 keys: two n tiles. */
template <int D, int TILES>
PORT_INLINE void score_keys(const bf16_bits *q_high, const bf16_bits *q_low, const bf16_bits *keys,
			    float (&s)[TILES][4])
{
	const uint32_t lane = threadIdx.x % 32u, matrix = lane / 8u;
	const uint32_t q_at = (lane % 8u + matrix % 2u * 8u) * (D + PAD) + matrix / 2u * 8u;
	const uint32_t k_at = (lane % 8u + matrix / 2u * 8u) * (D + PAD) + matrix % 2u * 8u;

#pragma unroll
	for (int i = 0; i < TILES; i++)
		s[i][0] = s[i][1] = s[i][2] = s[i][3] = 0.0f;
#pragma unroll 2
	for (uint32_t dim = 0; dim < D; dim += 16u) {
		uint32_t high[4], low[4];
		port_ldmatrix_x4(high, q_high + q_at + dim);
		port_ldmatrix_x4(low, q_low + q_at + dim);
#pragma unroll
		for (int i = 0; i < TILES; i += 2) {
			uint32_t k[4];
			port_ldmatrix_x4(k, keys + i * 8 * (D + PAD) + k_at + dim);
			port_mma_bf16(s[i], high, k[0], k[1]);
			port_mma_bf16(s[i], low, k[0], k[1]);
			port_mma_bf16(s[i + 1], high, k[2], k[3]);
			port_mma_bf16(s[i + 1], low, k[2], k[3]);
		}
	}
}

/* A unit's state for the lane's two pairs, g and g + 8. */
struct unit_state {
	float max[2], sum[2];
};

/* Scores to weights in two bf16 terms, as the left operand of the product with V. */
struct unit_weights {
	uint32_t high[UNIT_TILES / 2][4], low[UNIT_TILES / 2][4];
};

PORT_INLINE void weigh(float (&s)[UNIT_TILES][4], const uint32_t (&visible)[2],
		       struct unit_state *state, struct unit_weights *w)
{
	const uint32_t t = threadIdx.x % 4u;

#pragma unroll
	for (int pair = 0; pair < 2; pair++) {
		float largest = -INFINITY, sum = 0.0f;
#pragma unroll
		for (int i = 0; i < UNIT_TILES; i++)
#pragma unroll
			for (int e = 0; e < 2; e++) {
				float *x = &s[i][pair * 2 + e];
				if (i * 8u + t * 2u + e >= visible[pair])
					*x = -INFINITY;
				largest = fmaxf(largest, *x);
			}
		largest = fmaxf(largest, port_shuffle_xor_f32(largest, 1));
		largest = fmaxf(largest, port_shuffle_xor_f32(largest, 2));
		const float from = largest == -INFINITY ? 0.0f : largest;
#pragma unroll
		for (int i = 0; i < UNIT_TILES; i++)
#pragma unroll
			for (int e = 0; e < 2; e++) {
				s[i][pair * 2 + e] = port_exp2(s[i][pair * 2 + e] - from);
				sum += s[i][pair * 2 + e];
			}
		sum += port_shuffle_xor_f32(sum, 1);
		sum += port_shuffle_xor_f32(sum, 2);
		state->max[pair] = largest;
		state->sum[pair] = sum;
	}
#pragma unroll
	for (int i = 0; i < UNIT_TILES; i++)
#pragma unroll
		for (int pair = 0; pair < 2; pair++) {
			const float x = s[i][pair * 2], y = s[i][pair * 2 + 1];
			const uint32_t high = port_bf16x2(x, y);
			w->high[i / 2][i % 2 * 2 + pair] = high;
			w->low[i / 2][i % 2 * 2 + pair] =
				port_bf16x2(x - port_f32_of_bf16_low(high), y - port_f32_of_bf16_high(high));
		}
}

/* 8 dimensions of the unit's output. */
template <int D>
PORT_INLINE void mix_values(const struct unit_weights &w, const bf16_bits *values, uint32_t dim,
			    float (&o)[4])
{
	const bf16_bits *row = values + threadIdx.x % 32u * (D + PAD) + dim;

	o[0] = o[1] = o[2] = o[3] = 0.0f;
#pragma unroll
	for (int i = 0; i < UNIT_TILES / 4; i++) {
		uint32_t v[4];
		port_ldmatrix_x4_transposed(v, row + i * 32 * (D + PAD));
		port_mma_bf16(o, w.high[2 * i], v[0], v[1]);
		port_mma_bf16(o, w.low[2 * i], v[0], v[1]);
		port_mma_bf16(o, w.high[2 * i + 1], v[2], v[3]);
		port_mma_bf16(o, w.low[2 * i + 1], v[2], v[3]);
	}
}

/* How a later unit joins what came before: both sides' factors, and the new state. */
struct joint {
	float keep, take;
};

PORT_INLINE struct joint join_states(float *max, float *sum, float unit_max, float unit_sum)
{
	const float largest = fmaxf(*max, unit_max);
	const struct joint j = { port_exp2(*max - largest), port_exp2(unit_max - largest) };

	*max = largest;
	*sum = fmaf(*sum, j.keep, unit_sum * j.take);
	return j;
}

PORT_INLINE float merge_output(float before, float unit, struct joint j)
{
	return fmaf(before, j.keep, unit * j.take);
}

/* ---- units ---- */

struct unit_pair {
	uint32_t row, head;        /* head of the model */
	uint32_t visible;          /* keys of the unit it sees; 0: no pair */
};

PORT_INLINE struct unit_pair unit_pair_of(const struct kvd_attend_args &a,
					  const struct kvd_unit_item &item, uint32_t kv_head, uint32_t i)
{
	struct unit_pair p = { 0, 0, 0 };

	if (i < item.n_packed) {
		p.row = a.members[item.first_member + (item.packed + i) / a.group];
		p.head = kv_head * a.group + (item.packed + i) % a.group;
		p.visible = a.rows[p.row].pos + 1u - item.unit * KVD_UNIT_KEYS;
		p.visible = p.visible < KVD_UNIT_KEYS ? p.visible : KVD_UNIT_KEYS;
	}
	return p;
}

template <int D>
PORT_INLINE void copy_queries(bf16_bits *high, bf16_bits *low, const struct kvd_attend_args &a,
			      uint32_t i, uint32_t part, bool valid, uint32_t row, uint32_t head)
{
	const uint64_t from = ((uint64_t)row * a.n_heads + head) * (D / 2) + part * 4u;

	port_copy_async16(high + i * (D + PAD) + part * 8u, a.q_high + from, valid);
	port_copy_async16(low + i * (D + PAD) + part * 8u, a.q_low + from, valid);
}

template <int D>
PORT_INLINE void attend_item(const struct kvd_attend_args &a, const struct kvd_unit_item &item,
			     uint32_t kv_head, bf16_bits *keys)
{
	bf16_bits *values = keys + KVD_UNIT_KEYS * (D + PAD);
	bf16_bits *q_high = values + KVD_UNIT_KEYS * (D + PAD), *q_low = q_high + 16 * (D + PAD);
	float *scores = (float *)keys;   /* once the keys have been read */
	const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, g = lane / 4u, t = lane % 4u;
	const uint32_t *table = a.pages.tables + a.rows[a.members[item.first_member]].table;
	const struct unit_pair pairs[2] = { unit_pair_of(a, item, kv_head, g),
					    unit_pair_of(a, item, kv_head, g + 8u) };
	const uint32_t visible[2] = { pairs[0].visible, pairs[1].visible };
	uint32_t n_keys = 0;

	for (uint32_t i = 0; i < item.n_packed; i++) {
		uint32_t seen = unit_pair_of(a, item, kv_head, i).visible;
		n_keys = seen > n_keys ? seen : n_keys;
	}
	for (uint32_t i = threadIdx.x; i < KVD_TILE_QUERIES * (D / 8); i += ATTEND_THREADS) {
		const struct unit_pair p = unit_pair_of(a, item, kv_head, i / (D / 8));
		copy_queries<D>(q_high, q_low, a, i / (D / 8), i % (D / 8), p.visible > 0, p.row, p.head);
	}
	copy_unit<D>(keys, &a.pages, table, item.unit, kv_head, n_keys);
	port_copy_commit();
	copy_unit<D>(values, &a.pages, table, item.unit, a.n_kv_heads + kv_head, n_keys);
	port_copy_commit();

	float s[4][4];
	port_copy_wait<1>();
	__syncthreads();
	score_keys<D, 4>(q_high, q_low, keys + warp * 32u * (D + PAD), s);
	__syncthreads();
#pragma unroll
	for (int i = 0; i < 4; i++) {
		float *to = scores + g * SCORE_PITCH + warp * 32u + i * 8u + t * 2u;
		*(float2 *)to = make_float2(s[i][0], s[i][1]);
		*(float2 *)(to + 8 * SCORE_PITCH) = make_float2(s[i][2], s[i][3]);
	}
	port_copy_wait<0>();
	__syncthreads();

	float all[UNIT_TILES][4];
#pragma unroll
	for (int i = 0; i < UNIT_TILES; i++) {
		const float *from = scores + g * SCORE_PITCH + i * 8u + t * 2u;
		const float2 x = *(const float2 *)from;
		const float2 y = *(const float2 *)(from + 8 * SCORE_PITCH);
		all[i][0] = x.x;
		all[i][1] = x.y;
		all[i][2] = y.x;
		all[i][3] = y.y;
	}
	struct unit_state state;
	struct unit_weights weights;
	weigh(all, visible, &state, &weights);

	uint64_t partial[2];
#pragma unroll
	for (int i = 0; i < 2; i++)
		partial[i] = (uint64_t)(visible[i] ? a.rows[pairs[i].row].first_partial + item.unit : 0u) *
				     a.n_heads + pairs[i].head;
	for (uint32_t dim = warp * 8u; dim < D; dim += ATTEND_WARPS * 8u) {
		float o[4];
		mix_values<D>(weights, values, dim, o);
#pragma unroll
		for (int i = 0; i < 2; i++)
			if (visible[i])
				*(float2 *)(a.partials + partial[i] * D + dim + t * 2u) =
					make_float2(o[2 * i], o[2 * i + 1]);
	}
#pragma unroll
	for (int i = 0; i < 2; i++)
		if (warp == 0 && t == 0 && visible[i])
			*(float2 *)(a.partial_states + partial[i] * 2u) =
				make_float2(state.max[i], state.sum[i]);
}

template <int D> PORT_INLINE void attend_units(const struct kvd_attend_args &a)
{
	PORT_SHARED(shared);
	const struct kvd_unit_item *items = (const struct kvd_unit_item *)a.items;

	port_grid_wait();
	port_grid_launch_dependents();
	for (uint32_t i = blockIdx.x; i < a.step->n_units; i += gridDim.x) {
		attend_item<D>(a, items[i], blockIdx.y, (bf16_bits *)shared);
		__syncthreads();
	}
}

/* ---- streams ---- */

/* Warps of a block: tiles of 16 pairs times parts of the dimensions (256 dimensions: four parts). */
template <int D> struct stream_shape {
	static constexpr uint32_t parts = D > 128 ? 4 : 1;
	static constexpr uint32_t tiles = ATTEND_WARPS / parts;
	static constexpr uint32_t n_pairs = tiles * KVD_TILE_QUERIES;
	static constexpr int n_dims = D / (int)parts;
};

template <int D>
PORT_INLINE void stream_join(const struct unit_weights &w, const struct unit_state &unit,
			     const bf16_bits *values, uint32_t first_dim, bool first,
			     const uint32_t (&visible)[2], struct unit_state *state,
			     float (&out)[stream_shape<D>::n_dims / 8][4])
{
	struct joint joints[2];

#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (first) {
			state->max[i] = unit.max[i];
			state->sum[i] = unit.sum[i];
		} else if (visible[i]) {
			joints[i] = join_states(&state->max[i], &state->sum[i], unit.max[i], unit.sum[i]);
		}
	}
#pragma unroll
	for (int tile = 0; tile < stream_shape<D>::n_dims / 8; tile++) {
		float o[4];
		mix_values<D>(w, values, first_dim + tile * 8u, o);
#pragma unroll
		for (int e = 0; e < 4; e++)
			if (first)
				out[tile][e] = o[e];
			else if (visible[e / 2])
				out[tile][e] = merge_output(out[tile][e], o[e], joints[e / 2]);
	}
}

template <int D>
PORT_INLINE void stream_item(const struct kvd_attend_args &a, const struct kvd_stream_item &item,
			     uint32_t kv_head, bf16_bits *keys)
{
	typedef stream_shape<D> shape;
	bf16_bits *values = keys + KVD_UNIT_KEYS * (D + PAD);
	bf16_bits *q_high = values + KVD_UNIT_KEYS * (D + PAD);
	bf16_bits *q_low = q_high + shape::n_pairs * (D + PAD);
	const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u, g = lane / 4u, t = lane % 4u;
	const uint32_t tile = warp / shape::parts, first_dim = warp % shape::parts * shape::n_dims;
	const uint32_t *table = a.pages.tables + a.rows[item.first_row].table;
	const uint32_t last_row = item.first_row + (item.packed + item.n_packed - 1u) / a.group;
	const uint32_t n_seen = a.rows[last_row].pos + 1u;
	const uint32_t n_units = (n_seen + KVD_UNIT_KEYS - 1u) / KVD_UNIT_KEYS;
	uint32_t seen[2];

#pragma unroll
	for (int i = 0; i < 2; i++) {
		const uint32_t pair = tile * KVD_TILE_QUERIES + g + i * 8u;
		seen[i] = pair < item.n_packed
				  ? a.rows[item.first_row + (item.packed + pair) / a.group].pos + 1u : 0u;
	}
	for (uint32_t i = threadIdx.x; i < shape::n_pairs * (D / 8); i += ATTEND_THREADS) {
		const uint32_t pair = i / (D / 8);
		const bool valid = pair < item.n_packed;
		const uint32_t p = item.packed + (valid ? pair : 0u);
		copy_queries<D>(q_high, q_low, a, pair, i % (D / 8), valid, item.first_row + p / a.group,
				kv_head * a.group + p % a.group);
	}
	copy_unit<D>(keys, &a.pages, table, 0, kv_head, n_seen);
	port_copy_commit();
	copy_unit<D>(values, &a.pages, table, 0, a.n_kv_heads + kv_head, n_seen);
	port_copy_commit();

	struct unit_state state = {};
	float out[shape::n_dims / 8][4] = {};
	for (uint32_t unit = 0; unit < n_units; unit++) {
		const uint32_t start = unit * KVD_UNIT_KEYS, left = n_seen - start;
		const uint32_t visible[2] = { seen[0] > start ? seen[0] - start : 0u,
					      seen[1] > start ? seen[1] - start : 0u };
		struct unit_state unit_state;
		struct unit_weights weights;
		float s[UNIT_TILES][4];

		port_copy_wait<1>();
		__syncthreads();
		score_keys<D, UNIT_TILES>(q_high + tile * KVD_TILE_QUERIES * (D + PAD),
					  q_low + tile * KVD_TILE_QUERIES * (D + PAD), keys, s);
		__syncthreads();
		if (unit + 1u < n_units)
			copy_unit<D>(keys, &a.pages, table, unit + 1u, kv_head, left - KVD_UNIT_KEYS);
		port_copy_commit();
		weigh(s, visible, &unit_state, &weights);
		port_copy_wait<1>();
		__syncthreads();
		stream_join<D>(weights, unit_state, values, first_dim, unit == 0, visible, &state, out);
		__syncthreads();
		if (unit + 1u < n_units)
			copy_unit<D>(values, &a.pages, table, unit + 1u, a.n_kv_heads + kv_head,
				     left - KVD_UNIT_KEYS);
		port_copy_commit();
	}
	port_copy_wait<0>();
#pragma unroll
	for (int i = 0; i < 2; i++) {
		const uint32_t p = item.packed + tile * KVD_TILE_QUERIES + g + i * 8u;
		const uint64_t row = item.first_row + p / a.group;
		const float inverse = 1.0f / state.sum[i];
		if (!seen[i])
			continue;
		float *to = a.out + (row * a.n_heads + kv_head * a.group + p % a.group) * D + first_dim +
			    t * 2u;
#pragma unroll
		for (int n = 0; n < shape::n_dims / 8; n++)
			*(float2 *)(to + n * 8) =
				make_float2(out[n][2 * i] * inverse, out[n][2 * i + 1] * inverse);
	}
}

template <int D> PORT_INLINE void attend_streams(const struct kvd_attend_args &a)
{
	PORT_SHARED(shared);
	const struct kvd_stream_item *items = (const struct kvd_stream_item *)a.items;

	port_grid_wait();
	port_grid_launch_dependents();
	for (uint32_t i = blockIdx.x; i < a.step->n_streams; i += gridDim.x) {
		stream_item<D>(a, items[i], blockIdx.y, (bf16_bits *)shared);
		__syncthreads();
	}
}

/* Grid (items at most, n_kv_heads); shared: kvd_unit_shared(), kvd_stream_shared(). */
#define ATTEND(D) \
PORT_KERNEL void __launch_bounds__(ATTEND_THREADS) kvd_attend_unit_##D(struct kvd_attend_args a) \
{ \
	attend_units<D>(a); \
} \
PORT_KERNEL void __launch_bounds__(ATTEND_THREADS) kvd_attend_stream_##D(struct kvd_attend_args a) \
{ \
	attend_streams<D>(a); \
}
ATTEND(64) ATTEND(80) ATTEND(96) ATTEND(128) ATTEND(256)

/* Merge a row's units in order, round.  Grid (chunks of 128 elements, rows), 128 threads. */
PORT_KERNEL void __launch_bounds__(128) kvd_merge(struct kvd_merge_args a)
{
	const uint32_t row = blockIdx.y, i = blockIdx.x * 128u + threadIdx.x;
	const uint32_t n = a.n_heads * a.head_dim, head = i / a.head_dim;
	float y = 0.0f;

	port_grid_wait();
	port_grid_launch_dependents();
	if (row >= a.step->n_rows)
		return;
	const struct kvd_step_row r = a.rows[row];
	if (i < n && r.first_partial == KVD_NO_PARTIALS) {
		y = a.streamed[(uint64_t)row * n + i];
	} else if (i < n) {
		const float *part = a.partials + (uint64_t)r.first_partial * n + i;
		const float *unit = a.partial_states + ((uint64_t)r.first_partial * a.n_heads + head) * 2u;
		float max = unit[0], sum = unit[1];
		y = *part;
#pragma unroll 4
		for (uint32_t u = 1; u <= r.pos / KVD_UNIT_KEYS; u++) {
			part += n;
			unit += a.n_heads * 2u;
			y = merge_output(y, *part, join_states(&max, &sum, unit[0], unit[1]));
		}
		y = y * (1.0f / sum);
	}
	acts_store(&a.out, row, i / 32u, i % 32u, y);
}
