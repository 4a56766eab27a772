/* args.h - what the host hands to a kernel: one struct by value each, plain C for host, device, emulator.
 *
 * Every kernel reads how much there is to do from struct kvd_step in device memory, never from its
 * arguments, so that one captured graph serves all steps of a batch bucket.  Arguments are pointers
 * and shapes of the model; they don't change while an engine lives.
 *
 * Orders of accumulation are fixed here and in the kernels, for every number of rows:
 * Product      K in chunks of KVD_CHUNK_K, cut into KVD_K_SLICES slices by the matrix' width alone;
 *              per output and slice one f32 chain over groups of 32 (16 for Q6_K) ascending over exact
 *              integer dots; the slices' sums are added in order.
 * Activations  rounded per 32 elements as on the CPU: to signed bytes for nibbles, to 16 bits (two
 *              signed bytes) for bytes, to two bf16 terms for floats.
 * Attention    units of KVD_UNIT_KEYS keys from position 0 of the sequence, own maximum each, merged
 *              in order. */
#ifndef ENGINE_CUDA_ARGS_H
#define ENGINE_CUDA_ARGS_H

#include <stdint.h>

#define KVD_CHUNK_K 128u           /* inputs of one record of a laid-out matrix */
#define KVD_K_SLICES 8u            /* a block's warps, one slice each */
#define KVD_TILE_N 16u             /* outputs of one record */
#define KVD_GEMM_OUTPUTS 32u       /* outputs of one block: two tiles */
#define KVD_GEMM_PITCH 36u         /* floats between columns of partial sums in shared memory: no bank twice */
#define KVD_ROW_TILE 8u            /* rows that share a tile of activations */
#define KVD_UNIT_KEYS 128u         /* keys of one attention unit */
#define KVD_TILE_QUERIES 16u       /* (row, head) pairs of one attention tile */
#define KVD_NO_PARTIALS 0xffffffffu

/* ---- a step, in device memory ---- */
struct kvd_step {
	uint32_t n_rows;
	uint32_t n_wanted;         /* rows whose logits are wanted */
	uint32_t n_units;          /* items of kvd_attend_unit */
	uint32_t n_streams;        /* items of kvd_attend_stream */
};

struct kvd_step_row {
	int32_t token;
	uint32_t pos;              /* position in its sequence */
	uint32_t table;            /* index of its sequence's first table entry */
	uint32_t first_partial;    /* partials of its units, or KVD_NO_PARTIALS: attended by a stream */
};

/* Unit: up to 16 (member row, head) pairs against one unit of keys that they all see the pages of.
 * Pair i is row members[first_member + (packed + i) / group], head (packed + i) % group of the KV head. */
struct kvd_unit_item { uint32_t first_member, packed, n_packed, unit; };

/* Stream: up to 64 pairs of neighbouring rows of one sequence walk all units they see.
 * Pair i is row first_row + (packed + i) / group. */
struct kvd_stream_item { uint32_t first_row, packed, n_packed, unused; };

/* ---- activations, rounded, in the order of mma fragments ----
 * Rows in tiles of 8 (row = column of the product), inputs in chunks of 128:
 *   bytes, wide_high, wide_low   [tile][chunk][lane][group of 32][2] words: b0, b1 of port_mma_s8_k32
 *   *_scales                     [tile][chunk][group][row][2]: scale, scale * (sum of the rounded)
 *   float_high, float_low        [tile][chunk][lane][step of 16][2] words: b0, b1 of port_mma_bf16
 * NULL: no matrix reads this form. */
struct kvd_acts {
	uint32_t *bytes;
	float *byte_scales;
	uint32_t *wide_high, *wide_low;
	float *wide_scales;
	uint32_t *float_high, *float_low;
	uint32_t n_chunks, unused;
};

/* ---- kernels ---- */

struct kvd_embed_args {
	const struct kvd_step *step;
	const struct kvd_step_row *rows;
	const uint8_t *table;      /* (n_vocab, row_bytes) as in the model file */
	float *x;                  /* (rows, x_stride) */
	uint64_t row_bytes;
	uint32_t type;             /* enum tensor_type */
	uint32_t n_embd, x_stride, unused;
};

/* y = x / rms(x) * weight, rounded. */
struct kvd_norm_args {
	const struct kvd_step *step;
	const float *x;            /* (rows, x_stride) */
	const float *weight;       /* (n) */
	const uint32_t *wanted;    /* which rows, (n_wanted); NULL: all */
	struct kvd_acts out;
	float eps;
	uint32_t n, x_stride, unused;
};

/* gate / (1 + exp(-gate)) * up, rounded. */
struct kvd_gate_args {
	const struct kvd_step *step;
	const float *gate_up;      /* (rows, stride): gate (n), then up (n) from element up_at on */
	struct kvd_acts out;
	uint32_t n, stride, up_at, unused;
};

/* out (rows, out_stride) = or += W x. */
struct kvd_product_args {
	const struct kvd_step *step;
	const uint8_t *weights;    /* [n_out / 16 rounded up to even][n_chunks] records, see product.cu */
	struct kvd_acts in;
	float *out;
	uint32_t n_out, out_stride;
	uint32_t n_chunks, n_planes; /* planes: bf16 terms of a weight of floats, 1 to 3 */
	uint32_t add;              /* 1: += */
	uint32_t of_wanted;        /* 1: n_wanted rows, else n_rows */
};

/* Where K and V lie: geometry.h's address rule, KVD_LAYOUT_ROWS. */
struct kvd_pages {
	uint8_t *window;
	const uint32_t *tables;
	uint64_t extent_bytes, plane_bytes;
	uint32_t block_bytes, slot_bits;
	uint32_t plane;
	uint32_t page_shift;       /* log2 of a page's tokens */
};

/* Turn q and k by position, scale q and split it into two bf16 terms, write k and v to their pages. */
struct kvd_rope_args {
	const struct kvd_step *step;
	const struct kvd_step_row *rows;
	const float *qkv;          /* (rows, qkv_stride): q, k, v */
	const float *angles;       /* (positions, rope_dims / 2, 2): cos, sin */
	uint32_t *q_high, *q_low;  /* (rows, n_heads * head_dim / 2) pairs */
	struct kvd_pages pages;
	float q_scale;
	uint32_t qkv_stride, n_heads, n_kv_heads, head_dim, rope_dims;
};

/* Pairs of one stream item, shared memory of the attention kernels' blocks: attention.cu has them too. */
#define KVD_HEAD_PAD 8u
static inline uint32_t kvd_stream_pairs(uint32_t head_dim) { return head_dim > 128u ? 16u : 64u; }
static inline uint32_t kvd_unit_shared(uint32_t head_dim)
{
	return (2u * KVD_UNIT_KEYS + 2u * KVD_TILE_QUERIES) * (head_dim + KVD_HEAD_PAD) * 2u;
}
static inline uint32_t kvd_stream_shared(uint32_t head_dim)
{
	return (2u * KVD_UNIT_KEYS + 2u * kvd_stream_pairs(head_dim)) * (head_dim + KVD_HEAD_PAD) * 2u;
}
static inline uint32_t kvd_product_shared(uint32_t row_tiles)
{
	return KVD_K_SLICES * row_tiles * KVD_ROW_TILE * KVD_GEMM_PITCH * 4u;
}

struct kvd_attend_args {
	const struct kvd_step *step;
	const struct kvd_step_row *rows;
	const void *items;         /* struct kvd_unit_item or kvd_stream_item */
	const uint32_t *members;
	const uint32_t *q_high, *q_low;
	struct kvd_pages pages;
	float *partials;           /* (partials, n_heads, head_dim) not yet divided */
	float *partial_states;     /* (partials, n_heads, 2): maximum, sum */
	float *out;                /* (rows, n_heads * head_dim), streams only */
	uint32_t n_heads, n_kv_heads, group, head_dim;
};

/* Merge a row's partials in order, or take what a stream wrote; rounded. */
struct kvd_merge_args {
	const struct kvd_step *step;
	const struct kvd_step_row *rows;
	const float *partials;
	const float *partial_states;
	const float *streamed;     /* (rows, n_heads * head_dim) */
	struct kvd_acts out;
	uint32_t n_heads, head_dim;
};

#endif
