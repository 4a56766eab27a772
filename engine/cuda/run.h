/* run.h - a model on one GPU: its weights there, room for a step, the kernels in their order.
 *
 * run_build.c makes it, run_step.c runs it, plugin.c shows it to the engine. */
#ifndef ENGINE_CUDA_RUN_H
#define ENGINE_CUDA_RUN_H

#include "engine/backend.h"
#include "engine/cuda/args.h"
#include "engine/cuda/device.h"
#include "engine/cuda/plan.h"

#define RUN_WIDTHS 3               /* kernels of a product: 1, 4 or 8 tiles of 8 rows in a pass */
#define RUN_GRAPHS 7               /* steps of up to 1, 2, 4 .. 64 rows */
#define RUN_TOGETHER 3             /* matrices that read the same activations: q, k, v */

/* Forms of activations that a product reads. */
enum run_acts { RUN_BYTES = 1, RUN_WIDE = 2, RUN_FLOATS = 4 };

/* One matrix: tensors of one format that read the same input lie in it one after the other. */
struct run_matrix {
	const uint8_t *data;       /* on the device */
	struct driver_function *kernels[RUN_WIDTHS]; /* NULL: too many registers for its format */
	uint32_t n_out, n_chunks, n_planes;
	uint32_t out_at;           /* its first output among those of its product */
	enum run_acts reads;
};

/* y = W x, of one to three matrices. */
struct run_product {
	struct run_matrix matrices[RUN_TOGETHER];
	uint32_t n_matrices;
	unsigned reads;            /* RUN_* or'ed */
};

struct run_layer {
	const float *attn_norm, *ffn_norm;
	struct run_product qkv, wo, gate_up, down;
};

struct run_kernels {
	struct driver_function *embed, *norm, *gate, *rope, *merge, *attend_unit, *attend_stream;
};

struct backend_run {
	struct device device;
	struct model_config config;
	struct run_kernels kernels;
	struct run_layer *layers;          /* (n_layers) */
	struct run_product head;
	const float *output_norm;
	const uint8_t *token_table;        /* as in the file */
	uint64_t token_row_bytes;
	uint32_t token_type;
	const float *angles;               /* (n_positions, rope_dims / 2, 2) */
	uint32_t n_positions;

	/* One graph a bucket of rows, made when it is first wanted; good for these pages. */
	struct driver_graph_exec *graphs[RUN_GRAPHS];
	struct kvd_pages graph_pages;
	bool no_graphs;                    /* one could not be made: launch by launch from then on */

	struct plan plan;
	uint8_t *image;                    /* the plan's, on the device */
	unsigned max_logits;

	/* activations, each (max_rows rounded up to 8, ...) on the device */
	float *x;                          /* n_embd */
	float *qkv;                        /* (n_heads + 2 n_kv_heads) head_dim */
	float *attended;                   /* n_heads head_dim, of rows that stream */
	float *gate_up;                    /* 2 n_ff */
	float *logits;                     /* (max_logits, n_vocab) */
	float *host_logits;                /* the same, page-locked */
	uint32_t *q_high, *q_low;          /* n_heads head_dim / 2 */
	float *partials, *partial_states;
	struct kvd_acts embd_acts, head_acts, ff_acts; /* of n_embd, n_heads head_dim, n_ff inputs */
	char error[DRIVER_ERROR_MAX + 64];
};

/* ---- run_build.c ---- */
int run_build(struct backend_run *run, const struct model *m, const struct backend_options *o);
void run_free(struct backend_run *run);

/* ---- run_step.c ---- */
/* Nothing may be under way. */
void run_drop_graphs(struct backend_run *run);
int run_step(struct backend_run *run, const struct kv_window *kv, const struct step_seq *seqs,
	     unsigned n_seqs, const struct step_row *rows, unsigned n_rows, float *logits);

#endif
