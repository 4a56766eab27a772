/* model.h - a Llama-family model as it lies in one GGUF file: numbers and tensors, validated.
 *
 * Every pointer below points into the read-only mapping of the file and stays valid until
 * model_close().  model_open() checks each offset, size, type and shape before it hands out a
 * pointer, so that code above never re-checks and never reads outside the file. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include <stddef.h>
#include <stdint.h>

/* Tensor element types; values are the file's own (GGUF v3 "ggml_type"). */
enum tensor_type {
	TENSOR_F32 = 0, TENSOR_F16 = 1, TENSOR_Q4_0 = 2, TENSOR_Q4_1 = 3, TENSOR_Q5_0 = 6,
	TENSOR_Q5_1 = 7, TENSOR_Q8_0 = 8, TENSOR_Q4_K = 12, TENSOR_Q5_K = 13, TENSOR_Q6_K = 14,
	TENSOR_BF16 = 30,
};

/* A matrix (or vector, n_rows = 1): n_rows rows of n_cols elements, a row's elements contiguous.
 * A weight computes y[n_rows] = W x[n_cols].  data == NULL means "the file has none" (optional). */
struct tensor {
	const void *data;          /* (n_rows, n_cols) in the type's block format; in the file's mapping */
	uint64_t n_cols, n_rows;
	uint64_t bytes;            /* size of data */
	enum tensor_type type;
	const char *name;          /* as in the file, for error messages */
};

struct model_layer {
	struct tensor attn_norm;   /* f32 (n_embd) */
	struct tensor wq;          /* (n_heads * head_dim, n_embd), rows in interleaved-RoPE order */
	struct tensor wk, wv;      /* (n_kv_heads * head_dim, n_embd) */
	struct tensor wo;          /* (n_embd, n_heads * head_dim) */
	struct tensor ffn_norm;    /* f32 (n_embd) */
	struct tensor w_gate, w_up;/* (n_ff, n_embd) */
	struct tensor w_down;      /* (n_embd, n_ff) */
};

struct model_config {
	char arch[32];             /* "llama" */
	char name[96];             /* general.name, printable, "" if the file has none */
	uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
	uint32_t ctx_train;        /* tokens the model was trained for */
	uint32_t rope_dims;        /* leading dimensions of a head that rotate, even, <= head_dim */
	float rope_base;           /* 10000 unless the file says otherwise */
	float rope_scale;          /* positions are divided by this (linear scaling), 1 = none */
	float rms_eps;
};

struct gguf;
struct model {
	struct gguf *file;
	struct model_config config;
	struct tensor tok_embd;    /* (n_vocab, n_embd) */
	struct tensor output_norm; /* f32 (n_embd) */
	struct tensor output;      /* (n_vocab, n_embd); == tok_embd where the head is tied */
	struct tensor rope_freqs;  /* f32 (rope_dims / 2) divisors; optional */
	struct model_layer *layers;/* (n_layers) */
	uint8_t fingerprint[16];   /* xxh3-128 over tensor bytes and everything that changes the maths */
};

/* Map and validate a model file.
 *
 * ret      the model, on success; the caller owns it, model_close() frees it
 * err      one sentence naming the file, the field and the remedy, on failure; untouched on success
 * Returns  0, or -errno (-EINVAL: not a usable model).  Thread: any. */
int model_open(const char *path, struct model **ret, char *err, size_t errlen);

/* The same over bytes that the caller keeps until model_close(); data 8-byte aligned (tests, fuzzing).
 * label stands in errors where a path would. */
int model_open_memory(const void *data, uint64_t size_bytes, const char *label, struct model **ret,
		      char *err, size_t errlen);
void model_close(struct model *m);

#endif
