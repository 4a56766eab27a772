/* gguf_maker.h - GGUF files made in memory, sound or lying, for tests and fuzzing.
 *
 * Calls append; nothing is checked, so that a test can write what no honest writer would.  The
 * maker aborts when memory is short: it runs in tests only. */
#ifndef TESTS_LIB_GGUF_MAKER_H
#define TESTS_LIB_GGUF_MAKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct maker_buffer {
	uint8_t *bytes;
	size_t n, room;
};

struct gguf_maker {
	struct maker_buffer entries, table, data;
	uint64_t n_entries, n_tensors; /* what the header will claim; tests may change them */
	uint32_t version, alignment;   /* 3 and 32; alignment only pads, write the key yourself */
};

void maker_init(struct gguf_maker *m);
void maker_free(struct gguf_maker *m);

void maker_append(struct maker_buffer *b, const void *bytes, size_t n);

/* Metadata.  raw writes any type number with any bytes behind it. */
void maker_raw(struct gguf_maker *m, const char *key, uint32_t type, const void *bytes, size_t n);
void maker_u32(struct gguf_maker *m, const char *key, uint32_t value);
void maker_f32(struct gguf_maker *m, const char *key, float value);
void maker_bool(struct gguf_maker *m, const char *key, bool value);
void maker_string(struct gguf_maker *m, const char *key, const char *value);
void maker_strings(struct gguf_maker *m, const char *key, const char *const *values, uint64_t n);
void maker_array(struct gguf_maker *m, const char *key, uint32_t element_type, uint64_t n,
		 const void *bytes, size_t n_bytes);

/* A row of the tensor table, as given; no data is added. */
void maker_tensor_row(struct gguf_maker *m, const char *name, uint32_t n_dims, const uint64_t *dims,
		      uint32_t type, uint64_t offset);

/* A tensor with its data: bytes, or numbers derived from the name where bytes is NULL (small f32
 * and f16 values around zero, any bytes for other types). */
void maker_tensor(struct gguf_maker *m, const char *name, uint64_t n_cols, uint64_t n_rows,
		  uint32_t type, const void *bytes);

/* The file.  Owned by the caller, freed with free(); 64-byte aligned. */
uint8_t *maker_file(const struct gguf_maker *m, size_t *ret_size_bytes);

/* A small Llama whose every field a test may change before maker_llama(). */
struct maker_llama {
	uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab, ctx_train;
	uint32_t type;                 /* of the matrices */
	float rms_eps, rope_base;
	bool tied;                     /* no output.weight */
};
#define MAKER_LLAMA { .n_layers = 2, .n_embd = 64, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16, \
	.n_ff = 96, .n_vocab = 40, .ctx_train = 256, .type = 0, .rms_eps = 1e-5f, \
	.rope_base = 10000.0f, .tied = false }

void maker_llama_metadata(struct gguf_maker *m, const struct maker_llama *l);
void maker_llama_tensors(struct gguf_maker *m, const struct maker_llama *l);

#endif
