/* gguf_maker.c - append metadata and tensors to three buffers; glue them into a GGUF file. */
#include "tests/lib/gguf_maker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/gguf.h"

void maker_init(struct gguf_maker *m)
{
	*m = (struct gguf_maker){ .version = 3, .alignment = 32 };
}

void maker_free(struct gguf_maker *m)
{
	free(m->entries.bytes);
	free(m->table.bytes);
	free(m->data.bytes);
	maker_init(m);
}

void maker_append(struct maker_buffer *b, const void *bytes, size_t n)
{
	if (b->n + n > b->room) {
		b->room = (b->n + n) * 2;
		b->bytes = realloc(b->bytes, b->room);
		if (!b->bytes)
			abort();
	}
	if (n)
		memcpy(b->bytes + b->n, bytes, n);
	b->n += n;
}

static void append_u32(struct maker_buffer *b, uint32_t value)
{
	maker_append(b, &value, sizeof value);
}

static void append_u64(struct maker_buffer *b, uint64_t value)
{
	maker_append(b, &value, sizeof value);
}

static void append_string(struct maker_buffer *b, const char *text)
{
	append_u64(b, strlen(text));
	maker_append(b, text, strlen(text));
}

void maker_raw(struct gguf_maker *m, const char *key, uint32_t type, const void *bytes, size_t n)
{
	append_string(&m->entries, key);
	append_u32(&m->entries, type);
	maker_append(&m->entries, bytes, n);
	m->n_entries++;
}

void maker_u32(struct gguf_maker *m, const char *key, uint32_t value)
{
	maker_raw(m, key, GGUF_U32, &value, sizeof value);
}

void maker_f32(struct gguf_maker *m, const char *key, float value)
{
	maker_raw(m, key, GGUF_F32, &value, sizeof value);
}

void maker_bool(struct gguf_maker *m, const char *key, bool value)
{
	uint8_t byte = value;

	maker_raw(m, key, GGUF_BOOL, &byte, 1);
}

void maker_string(struct gguf_maker *m, const char *key, const char *value)
{
	maker_raw(m, key, GGUF_STRING, NULL, 0);
	append_string(&m->entries, value);
}

void maker_strings(struct gguf_maker *m, const char *key, const char *const *values, uint64_t n)
{
	maker_array(m, key, GGUF_STRING, n, NULL, 0);
	for (uint64_t i = 0; i < n; i++)
		append_string(&m->entries, values[i]);
}

void maker_array(struct gguf_maker *m, const char *key, uint32_t element_type, uint64_t n,
		 const void *bytes, size_t n_bytes)
{
	maker_raw(m, key, GGUF_ARRAY, NULL, 0);
	append_u32(&m->entries, element_type);
	append_u64(&m->entries, n);
	maker_append(&m->entries, bytes, n_bytes);
}

void maker_tensor_row(struct gguf_maker *m, const char *name, uint32_t n_dims, const uint64_t *dims,
		      uint32_t type, uint64_t offset)
{
	append_string(&m->table, name);
	append_u32(&m->table, n_dims);
	maker_append(&m->table, dims, n_dims * sizeof *dims);
	append_u32(&m->table, type);
	append_u64(&m->table, offset);
	m->n_tensors++;
}

/* Numbers that depend on the name and nothing else. */
static void fill(uint8_t *bytes, size_t n, uint32_t type, const char *name)
{
	uint32_t state = 2166136261u;

	for (; *name; name++)
		state = (state ^ (uint8_t)*name) * 16777619u;
	for (size_t i = 0; i < n; i++) {
		state = state * 1664525u + 1013904223u;
		bytes[i] = (uint8_t)(state >> 24);
	}
	for (size_t i = 0; type == 0 && i + 4 <= n; i += 4) {
		float value = (float)((int)(bytes[i] | bytes[i + 1] << 8) - 32768) / 262144.0f;
		memcpy(bytes + i, &value, 4);
	}
	/* f16: the sign and the mantissa are free, the exponent stays below 2^-3 */
	for (size_t i = 0; type == 1 && i + 2 <= n; i += 2)
		bytes[i + 1] = (uint8_t)((bytes[i + 1] & 0x83) | 0x28);
}

void maker_tensor(struct gguf_maker *m, const char *name, uint64_t n_cols, uint64_t n_rows,
		  uint32_t type, const void *bytes)
{
	const struct gguf_element *e = gguf_element(type);
	uint64_t dims[2] = { n_cols, n_rows };
	size_t n = n_cols / e->block_elements * e->block_bytes * n_rows;
	size_t padding = (m->alignment - n % m->alignment) % m->alignment;
	uint8_t *filled = calloc(1, n + padding);

	if (!filled)
		abort();
	if (bytes)
		memcpy(filled, bytes, n);
	else
		fill(filled, n, type, name);
	maker_tensor_row(m, name, n_rows == 1 ? 1 : 2, dims, type, m->data.n);
	maker_append(&m->data, filled, n + padding);
	free(filled);
}

uint8_t *maker_file(const struct gguf_maker *m, size_t *ret_size_bytes)
{
	size_t head = 24 + m->entries.n + m->table.n;
	size_t start = (head + m->alignment - 1) / m->alignment * m->alignment;
	size_t size = start + m->data.n;
	uint8_t *file = aligned_alloc(64, (size + 63) / 64 * 64);

	if (!file)
		abort();
	memset(file, 0, size);
	memcpy(file, "GGUF", 4);
	memcpy(file + 4, &m->version, 4);
	memcpy(file + 8, &m->n_tensors, 8);
	memcpy(file + 16, &m->n_entries, 8);
	if (m->entries.n)
		memcpy(file + 24, m->entries.bytes, m->entries.n);
	if (m->table.n)
		memcpy(file + 24 + m->entries.n, m->table.bytes, m->table.n);
	if (m->data.n)
		memcpy(file + start, m->data.bytes, m->data.n);
	*ret_size_bytes = size;
	return file;
}

void maker_llama_metadata(struct gguf_maker *m, const struct maker_llama *l)
{
	maker_string(m, "general.architecture", "llama");
	maker_u32(m, "llama.block_count", l->n_layers);
	maker_u32(m, "llama.context_length", l->ctx_train);
	maker_u32(m, "llama.embedding_length", l->n_embd);
	maker_u32(m, "llama.feed_forward_length", l->n_ff);
	maker_u32(m, "llama.attention.head_count", l->n_heads);
	maker_u32(m, "llama.attention.head_count_kv", l->n_kv_heads);
	maker_u32(m, "llama.attention.key_length", l->head_dim);
	maker_f32(m, "llama.attention.layer_norm_rms_epsilon", l->rms_eps);
	maker_f32(m, "llama.rope.freq_base", l->rope_base);
}

void maker_llama_tensors(struct gguf_maker *m, const struct maker_llama *l)
{
	uint32_t q = l->n_heads * l->head_dim, kv = l->n_kv_heads * l->head_dim;

	maker_tensor(m, "token_embd.weight", l->n_embd, l->n_vocab, l->type, NULL);
	maker_tensor(m, "output_norm.weight", l->n_embd, 1, 0, NULL);
	if (!l->tied)
		maker_tensor(m, "output.weight", l->n_embd, l->n_vocab, l->type, NULL);
	for (uint32_t i = 0; i < l->n_layers; i++) {
		const struct {
			const char *part;
			uint32_t n_cols, n_rows, type;
		} parts[] = {
			{ "attn_norm", l->n_embd, 1, 0 },
			{ "attn_q", l->n_embd, q, l->type },
			{ "attn_k", l->n_embd, kv, l->type },
			{ "attn_v", l->n_embd, kv, l->type },
			{ "attn_output", q, l->n_embd, l->type },
			{ "ffn_norm", l->n_embd, 1, 0 },
			{ "ffn_gate", l->n_embd, l->n_ff, l->type },
			{ "ffn_up", l->n_embd, l->n_ff, l->type },
			{ "ffn_down", l->n_ff, l->n_embd, l->type },
		};
		for (unsigned p = 0; p < sizeof parts / sizeof parts[0]; p++) {
			char name[64];

			snprintf(name, sizeof name, "blk.%u.%s.weight", i, parts[p].part);
			maker_tensor(m, name, parts[p].n_cols, parts[p].n_rows, parts[p].type,
				     NULL);
		}
	}
}
