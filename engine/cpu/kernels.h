/* kernels.h - the arithmetic of the forward pass on a CPU: one table per instruction set.
 *
 * Layouts and orders of accumulation are fixed here, for every path; docs/decisions/0001 says why.
 *
 * Product      y = W x.  W lies in panels of PANEL_COLS outputs.  Per output: groups of k
 *              ascending, one chain of f32 fma:  acc = fma((float)idot, d * scale, acc), and where
 *              the format has a minimum  acc = fma(m, scale * sum, acc).  idot is an exact integer.
 *              Weights in f32, f16 or bf16: one chain over k of acc = fma(w, x, acc).  K is never
 *              split.
 * Activations  rounded per 32 elements: for nibbles to signed bytes, scale = largest magnitude /
 *              127; for bytes to 16 bits, scale = largest magnitude / 32512.
 * Attention    blocks of ATTN_BLOCK_KEYS keys, counted from position 0 of the sequence, each with
 *              its own maximum; partials (output, maximum, sum) are merged in block order.
 *
 * A lane of a vector is always one output, so no result depends on a vector's width; sums across
 * elements (norms, softmax) go over 16 virtual lanes and a fixed tree.  No function here allocates,
 * blocks or has state; every one may run in any thread. */
#ifndef ENGINE_CPU_KERNELS_H
#define ENGINE_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PANEL_COLS 32u            /* outputs of a panel */
#define BLOCK_K 32u               /* activations that share a scale */
#define ATTN_BLOCK_KEYS 128u      /* keys of an attention block: 8 pages */
#define ATTN_BLOCK_PAGES 8u
#define ATTN_TILE_QUERIES 5u      /* queries of one register tile: 10 sums on AVX2; 6 would spill */
#define PANEL_TILE_ROWS 48u       /* rows of one panel_rows() call: 8 register tiles */

enum weight_form {
	FORM_NIBBLE,              /* unsigned nibbles */
	FORM_BYTE,                /* unsigned bytes, stored value + 128 */
	FORM_F32, FORM_F16, FORM_BF16,
};

/* One weight matrix in panels.  A panel of nibbles or bytes is a row of groups, one per group_k:
 *   nibbles  [group_k/8][32 columns][4]: low nibble = k4 of the first half of the group,
 *            high nibble = of the second half
 *   bytes    [group_k/4][32 columns][4]
 *   then d   [32] f16, or f32 where scales_f32; then m [32] likewise where has_min
 * A panel of floats is [n_in][32] of the element type.  Columns past n_out are zero. */
struct panel_matrix {
	const uint8_t *data;      /* (n_panels, panel_bytes), 64-byte aligned */
	uint64_t panel_bytes;
	uint32_t n_in, n_out;
	uint32_t n_panels;
	uint32_t n_groups;        /* n_in / group_k; 0 for floats */
	uint32_t group_k;         /* 32, or 16 (Q6_K); 0 for floats */
	uint32_t group_bytes;
	enum weight_form form;
	uint8_t offset;           /* stored = value + offset: 0 or 8 (nibbles), 128 (bytes) */
	bool has_min, scales_f32;
};

/* What goes with 32 rounded activations: value = q * scale. */
struct act_scale {
	float scale;
	float scale_sum;          /* scale * (sum of q) */
	int32_t minus_sum;        /* -(sum of q) times the weights' offset: 8 or 128 */
	int32_t minus_half;       /* likewise of the first 16 */
};

/* 32 activations rounded to signed bytes, for nibbles. */
struct act_block {
	int8_t q[BLOCK_K];
	struct act_scale s;
};

/* 32 activations rounded to 16 bits, +-32512, for bytes; in an order of the instruction set's own
 * (wide_store).  Fewer bits would not be faster on AVX2, which has no dot product of bytes, and the
 * head's share of the rounding error is gone. */
struct act_wide {
	int16_t q[BLOCK_K];
	struct act_scale s;
};

/* Rows of activations, in three forms; a stage fills the ones its matrices read. */
struct act_rows {
	struct act_block *blocks; /* (rows, block_stride) */
	struct act_wide *wide;    /* (rows, block_stride) */
	float *f32;               /* (rows, f32_stride), zero from n to the next multiple of 32 */
	uint32_t block_stride, f32_stride;
};

/* One block of keys against up to ATTN_TILE_QUERIES queries of one KV head.
 * A partial is [head_dim] output (not yet divided), then maximum, then sum. */
struct attn_tile {
	const uint8_t *pages[ATTN_BLOCK_PAGES];      /* K of each page, V follows */
	uint32_t n_pages;                            /* pages any of the queries sees */
	uint32_t head_dim;
	uint32_t n_queries;
	const uint8_t *queries[ATTN_TILE_QUERIES];   /* (head_dim) as pairs, scaled */
	uint32_t visible[ATTN_TILE_QUERIES];         /* keys of the block a query sees, 1 .. 128 */
	float *partials[ATTN_TILE_QUERIES];
};

struct cpu_kernels {
	const char *isa;          /* last part of the numerics id */
	uint32_t pair_bytes;      /* bytes of a query's pair of elements: 8 (f32) or 4 (bf16) */

	/* Expand a panel into scratch where n_rows make that pay; returns what panel_rows()
	 * reads. */
	const uint8_t *(*panel_prepare)(const struct panel_matrix *m, uint32_t panel,
					uint32_t n_rows, uint8_t *scratch);
	/* out (n_rows, out_stride): 32 columns of a prepared panel for rows first ..
	 * first + n_rows - 1. */
	void (*panel_rows)(const struct panel_matrix *m, const uint8_t *panel, bool expanded,
			   const struct act_rows *a, uint32_t first, uint32_t n_rows, float *out,
			   uint32_t out_stride);
	/* y = x / rms(x) * w; x, w and y are readable to the next multiple of 16 */
	void (*norm)(const float *x, const float *w, uint32_t n, float eps, float *y);
	/* n elements, a multiple of 32, to n / 32 blocks */
	void (*quantise)(const float *x, uint32_t n, struct act_block *blocks);
	void (*quantise_wide)(const float *x, uint32_t n, struct act_wide *blocks);
	/* 32 elements: gate = gate / (1 + exp(-gate)) * up */
	void (*swiglu)(float *gate, const float *up);
	/* 32 elements: y += x */
	void (*add)(float *y, const float *x);
	/* 32 elements in rotating pairs: x = x * cosines + swapped(x) * sines */
	void (*rotate)(float *x, const float *cosines, const float *sines);
	/* 32 elements, times scale, as pairs from element index i on */
	void (*store_pairs)(void *pairs, uint32_t i, const float *x, float scale);
	void (*attend)(const struct attn_tile *t);
	/* running = running merged with part, the next block */
	void (*merge)(float *running, const float *part, uint32_t head_dim);
	/* out = output / sum */
	void (*finish)(const float *running, uint32_t head_dim, float *out);
};

extern const struct cpu_kernels cpu_kernels_portable, cpu_kernels_avx2, cpu_kernels_avx512;

/* Scratch bytes panel_prepare() may need for a matrix, whatever the path. */
size_t cpu_panel_scratch_bytes(const struct panel_matrix *m);

/* The table for an instruction set by name; NULL name: the best this machine has.
 * Returns NULL if the name is unknown or the machine lacks it. */
const struct cpu_kernels *cpu_kernels_find(const char *isa);

#endif
