/* synth_model.c - small models in memory with random weights; see synth_model.h.
 *
 * Quantised tensors are random bits, with scales set so that weights come out at about +-0.1. */
#include "tests/lib/synth_model.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "engine/cpu/formats.h"
#include "engine/cpu/half.h"

static uint32_t random_bits(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

float synth_random(uint32_t *state)
{
	return (float)random_bits(state) * 0x1p-23f - 1.0f;
}

static void set_f16(uint8_t *p, uint32_t bits)
{
	p[0] = (uint8_t)bits;
	p[1] = (uint8_t)(bits >> 8);
}

/* An f16 of 2^exponent * 1.x, and the scales of one block of a type. */
static void set_scales(uint8_t *p, enum tensor_type type, uint32_t *state)
{
	const uint32_t mantissa = random_bits(state) & 1023u;
	const uint32_t at[] = { 15 - 6, 15 - 7, 15 - 10, 15 - 12, 15 - 14 };   /* biased exponents */

	switch (type) {
	case TENSOR_Q4_0: set_f16(p, at[0] << 10 | mantissa); break;
	case TENSOR_Q4_1:
		set_f16(p, at[0] << 10 | mantissa);
		set_f16(p + 2, 0x8000u | (at[0] + 3) << 10 | mantissa);
		break;
	case TENSOR_Q5_0: set_f16(p, at[1] << 10 | mantissa); break;
	case TENSOR_Q5_1:
		set_f16(p, at[1] << 10 | mantissa);
		set_f16(p + 2, 0x8000u | (at[1] + 4) << 10 | mantissa);
		break;
	case TENSOR_Q8_0: set_f16(p, at[2] << 10 | mantissa); break;
	case TENSOR_Q4_K: case TENSOR_Q5_K:
		set_f16(p, at[3] << 10 | mantissa);
		set_f16(p + 2, (at[3] + 2) << 10 | mantissa);
		break;
	case TENSOR_Q6_K: set_f16(p + 208, at[4] << 10 | mantissa); break;
	default: break;
	}
}

static struct tensor new_tensor(enum tensor_type type, uint64_t n_rows, uint64_t n_cols, uint32_t *state)
{
	const uint64_t row_bytes = format_row_bytes(type, n_cols);
	const uint64_t per_block = type == TENSOR_Q4_K || type == TENSOR_Q5_K || type == TENSOR_Q6_K ? 256 : 32;
	struct tensor t = { .n_cols = n_cols, .n_rows = n_rows, .bytes = row_bytes * n_rows, .type = type,
			    .name = "synthetic" };
	uint8_t *data = malloc(t.bytes);

	assert(data && t.bytes);
	for (uint64_t i = 0; i < t.bytes; i++)
		data[i] = (uint8_t)random_bits(state);
	for (uint64_t i = 0; !format_is_quantised(type) && i < n_rows * n_cols; i++) {
		float x = synth_random(state) * 0.15f;
		uint16_t half = bf16_from_f32(x);
		if (type == TENSOR_F16)   /* 0.06 .. 0.12, either sign */
			half = (uint16_t)((random_bits(state) & 0x83FFu) | 11u << 10);
		if (type == TENSOR_F32)
			memcpy(data + 4 * i, &x, 4);
		else
			memcpy(data + 2 * i, &half, 2);
	}
	for (uint64_t b = 0; format_is_quantised(type) && b < n_rows * n_cols / per_block; b++)
		set_scales(data + b * format_row_bytes(type, per_block), type, state);
	t.data = data;
	return t;
}

static struct tensor new_norm(uint32_t n, uint32_t *state)
{
	struct tensor t = new_tensor(TENSOR_F32, 1, n, state);

	for (uint32_t i = 0; i < n; i++)
		((float *)t.data)[i] += 1.0f;
	return t;
}

struct model *synth_model_new(const struct synth_shape *s)
{
	struct model *m = calloc(1, sizeof(*m));
	uint32_t state = s->seed;
	const uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;

	assert(m);
	m->config = (struct model_config){.arch = "llama",
					  .n_layers = s->n_layers,
					  .n_embd = s->n_embd,
					  .n_heads = s->n_heads,
					  .n_kv_heads = s->n_kv_heads,
					  .head_dim = s->head_dim,
					  .n_ff = s->n_ff,
					  .n_vocab = s->n_vocab,
					  .ctx_train = 4096,
					  .rope_dims = s->rope_dims ? s->rope_dims : s->head_dim,
					  .rope_base = 10000.0f,
					  .rope_scale = 1.0f,
					  .rms_eps = 1e-5f};
	m->tok_embd = m->output = new_tensor(s->head, s->n_vocab, s->n_embd, &state);
	m->output_norm = new_norm(s->n_embd, &state);
	m->layers = calloc(s->n_layers, sizeof(*m->layers));
	assert(m->layers);
	for (uint32_t l = 0; l < s->n_layers; l++)
		m->layers[l] = (struct model_layer){
			.attn_norm = new_norm(s->n_embd, &state), .ffn_norm = new_norm(s->n_embd, &state),
			.wq = new_tensor(s->type, q, s->n_embd, &state),
			.wk = new_tensor(s->type, kv, s->n_embd, &state),
			.wv = new_tensor(s->type, kv, s->n_embd, &state),
			.wo = new_tensor(s->type, s->n_embd, q, &state),
			.w_gate = new_tensor(s->type, s->n_ff, s->n_embd, &state),
			.w_up = new_tensor(s->type, s->n_ff, s->n_embd, &state),
			.w_down = new_tensor(s->type, s->n_embd, s->n_ff, &state) };
	memcpy(m->fingerprint, &s->seed, sizeof(s->seed));
	m->fingerprint[8] = (uint8_t)s->type;
	return m;
}

void synth_model_free(struct model *m)
{
	for (uint32_t l = 0; l < m->config.n_layers; l++) {
		const struct model_layer *y = &m->layers[l];
		const struct tensor *all[] = { &y->attn_norm, &y->wq, &y->wk, &y->wv, &y->wo, &y->ffn_norm,
					       &y->w_gate, &y->w_up, &y->w_down };
		for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
			free((void *)all[i]->data);
	}
	free((void *)m->tok_embd.data);
	free((void *)m->output_norm.data);
	free(m->layers);
	free(m);
}
