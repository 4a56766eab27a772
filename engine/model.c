/* model.c - turn a GGUF file into a Llama-family model whose every number and shape is checked.
 *
 * Owns struct model.  gguf.c has made sure that tensors lie in the file; this file makes sure that
 * they are the tensors of a Llama, that nothing in the file would change its arithmetic unseen, and
 * that the hyper-parameters are within the limits below, so that products of any three of them fit
 * 64 bits.  What the forward pass would ignore (biases, experts, sliding windows, unknown tensors)
 * is an error that names it: a wrong answer without a word is worse than none.
 *
 * Runs at start, on any thread; reads tensor bytes only for the fingerprint and rope_freqs. */
#include "engine/model.h"
#include "engine/fingerprint.h"
#include "engine/gguf.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Twice to eight times the largest published Llama-family models (405B: 126 layers, width 16,384,
 * 128 heads, ff 53,248; vocabularies up to 262,144; contexts up to 10M). */
#define LAYERS_MAX 1024u
#define EMBD_MAX 65536u
#define HEADS_MAX 1024u
#define HEAD_DIM_MAX 512u
#define FF_MAX 524288u
#define VOCAB_MAX 1048576u
#define CONTEXT_MAX (1u << 26)

struct opening {
	struct model *m;
	const struct gguf *g;
	uint64_t n_used;               /* tensors of the file that have found their place */
	char *err;
	size_t errlen;
};

#define FAIL(o, ...) gguf_error((o)->g, (o)->err, (o)->errlen, __VA_ARGS__)

/* Element types the engine has kernels for: enum tensor_type. */
static bool is_supported(uint32_t type)
{
	switch ((enum tensor_type)type) {
	case TENSOR_F32: case TENSOR_F16: case TENSOR_BF16: case TENSOR_Q4_0: case TENSOR_Q4_1:
	case TENSOR_Q5_0: case TENSOR_Q5_1: case TENSOR_Q8_0: case TENSOR_Q4_K: case TENSOR_Q5_K:
	case TENSOR_Q6_K:
		return true;
	}
	return false;
}

/* A whole number within [low, high].  fallback < 0: the file must have it. */
static int read_number(struct opening *o, const char *key, uint32_t low, uint32_t high,
		       int64_t fallback, uint32_t *ret_value)
{
	uint32_t value = 0;
	int rc = gguf_get_u32(o->g, key, &value, o->err, o->errlen);

	if (rc < 0)
		return rc;
	if (rc == GGUF_E_ABSENT) {
		if (fallback < 0)
			return FAIL(o, "metadata has no %s; it is not a complete model", key);
		value = (uint32_t)fallback;
	}
	if (value < low || value > high)
		return FAIL(o, "%s is %u, expected %u to %u", key, value, low, high);
	*ret_value = value;
	return 0;
}

/* A number within [low, high]; fallback NaN: the file must have it. */
static int read_real(struct opening *o, const char *key, float low, float high, float fallback,
		     float *ret_value)
{
	float value = fallback;
	int rc = gguf_get_f32(o->g, key, &value, o->err, o->errlen);

	if (rc < 0)
		return rc;
	if (rc == GGUF_E_ABSENT && isnan(fallback))
		return FAIL(o, "metadata has no %s; it is not a complete model", key);
	if (!(value >= low && value <= high))
		return FAIL(o, "%s is %g, expected %g to %g", key, value, low, high);
	*ret_value = value;
	return 0;
}

static int read_identity(struct opening *o)
{
	struct model_config *c = &o->m->config;
	struct gguf_string arch, name;
	char quoted[GGUF_QUOTE_BYTES];
	int rc = gguf_get_string(o->g, "general.architecture", &arch, o->err, o->errlen);

	if (rc < 0)
		return rc;
	if (rc == GGUF_E_ABSENT)
		return FAIL(o, "metadata has no general.architecture; it is not a model file");
	if (!gguf_string_is(arch, "llama"))
		return FAIL(o, "general.architecture is %s; the architectures supported are: llama",
			    gguf_quote(arch, quoted));
	strcpy(c->arch, "llama");
	rc = gguf_get_string(o->g, "general.name", &name, o->err, o->errlen);
	if (rc < 0)
		return rc;
	if (rc == GGUF_E_ABSENT)
		return 0;
	/* For people's eyes only: cut to fit, and nothing that a terminal would act on. */
	for (uint64_t i = 0; i < name.len && i < sizeof c->name - 1; i++) {
		unsigned char b = (unsigned char)name.text[i];
		c->name[i] = b < 0x20 || b >= 0x7f ? '?' : (char)b;
	}
	return 0;
}

/* Settings of relatives of Llama that would change the arithmetic.  Each must be absent or have the
 * value that means "off". */
static int refuse_unsupported(struct opening *o)
{
	static const struct {
		const char *key;
		float off;
	} settings[] = {
		{ "llama.expert_count", 0 },
		{ "llama.expert_used_count", 0 },
		{ "llama.attention.sliding_window", 0 },
		{ "llama.attention.clamp_kqv", 0 },
		{ "llama.attention.max_alibi_bias", 0 },
		{ "llama.attention.scale", 0 },
		{ "llama.attn_logit_softcapping", 0 },
		{ "llama.final_logit_softcapping", 0 },
		{ "llama.attention.temperature_length", 0 },
		{ "llama.logit_scale", 1 },
		{ "llama.embedding_scale", 1 },
		{ "llama.residual_scale", 1 },
		{ "llama.rope.scaling.attn_factor", 1 },
		{ "llama.rope.scaling.yarn_log_multiplier", 0 },
	};
	static const struct {
		const char *key;
		bool off;
	} switches[] = {
		{ "llama.attention.causal", true }, { "llama.use_parallel_residual", false },
		{ "llama.swin_norm", false },
	};

	for (unsigned i = 0; i < sizeof settings / sizeof settings[0]; i++) {
		const char *key = settings[i].key;
		char ignored[8];
		uint32_t whole;
		float value = settings[i].off;

		if (!gguf_has(o->g, key))
			continue;
		if (!gguf_get_u32(o->g, key, &whole, ignored, sizeof ignored))
			value = (float)whole;
		else if (gguf_get_f32(o->g, key, &value, o->err, o->errlen) < 0)
			return -EINVAL;
		if (value != settings[i].off)
			return FAIL(o, "%s is %g; this engine supports only models without it (%g)",
				    key, value, settings[i].off);
	}
	for (unsigned i = 0; i < sizeof switches / sizeof switches[0]; i++) {
		bool value = switches[i].off;

		if (gguf_get_bool(o->g, switches[i].key, &value, o->err, o->errlen) < 0)
			return -EINVAL;
		if (value != switches[i].off)
			return FAIL(o, "%s is %s; this engine supports only models with %s",
				    switches[i].key, value ? "true" : "false",
				    value ? "false" : "true");
	}
	return 0;
}

static int read_heads(struct opening *o)
{
	struct model_config *c = &o->m->config;
	uint32_t value_length;
	int rc;

	rc = read_number(o, "llama.attention.head_count", 1, HEADS_MAX, -1, &c->n_heads);
	if (!rc)
		rc = read_number(o, "llama.attention.head_count_kv", 1, HEADS_MAX, c->n_heads,
				 &c->n_kv_heads);
	if (rc)
		return rc;
	if (c->n_heads % c->n_kv_heads)
		return FAIL(o,
			    "llama.attention.head_count is %u, expected a multiple of "
			    "head_count_kv %u",
			    c->n_heads, c->n_kv_heads);
	if (!gguf_has(o->g, "llama.attention.key_length") && c->n_embd % c->n_heads)
		return FAIL(o,
			    "llama.embedding_length %u is not a multiple of head_count %u and the "
			    "file has no llama.attention.key_length",
			    c->n_embd, c->n_heads);
	rc = read_number(o, "llama.attention.key_length", 2, HEAD_DIM_MAX, c->n_embd / c->n_heads,
			 &c->head_dim);
	if (!rc)
		rc = read_number(o, "llama.attention.value_length", 2, HEAD_DIM_MAX, c->head_dim,
				 &value_length);
	if (rc)
		return rc;
	if (value_length != c->head_dim)
		return FAIL(o, "llama.attention.value_length is %u, expected %u as the keys have",
			    value_length, c->head_dim);
	if (c->head_dim % 2)
		return FAIL(o, "the head dimension is %u, expected an even number", c->head_dim);
	return 0;
}

static int read_rope(struct opening *o)
{
	struct model_config *c = &o->m->config;
	struct gguf_string type = { "linear", 6 };
	char quoted[GGUF_QUOTE_BYTES];
	const char *key = "llama.rope.scaling.factor";
	int rc;

	rc = read_number(o, "llama.rope.dimension_count", 2, c->head_dim, c->head_dim,
			 &c->rope_dims);
	if (!rc)
		rc = read_real(o, "llama.rope.freq_base", 1.0f, 1e12f, 10000.0f, &c->rope_base);
	if (rc)
		return rc;
	if (c->rope_dims % 2)
		return FAIL(o, "llama.rope.dimension_count is %u, expected an even number",
			    c->rope_dims);
	c->rope_scale = 1.0f;
	rc = gguf_get_string(o->g, "llama.rope.scaling.type", &type, o->err, o->errlen);
	if (rc < 0)
		return rc;
	if (gguf_string_is(type, "none"))
		return 0;
	if (!gguf_string_is(type, "linear"))
		return FAIL(o, "llama.rope.scaling.type is %s; supported are: none, linear",
			    gguf_quote(type, quoted));
	/* Files without a type are linear if they have a factor; the oldest ones call it
	 * scale_linear. */
	if (!gguf_has(o->g, key) && gguf_has(o->g, "llama.rope.scale_linear"))
		key = "llama.rope.scale_linear";
	if (rc == 0 && !gguf_has(o->g, key))
		return FAIL(o, "llama.rope.scaling.type is linear, but there is no %s", key);
	if (!gguf_has(o->g, key))
		return 0;
	rc = read_real(o, key, 0.0f, 65536.0f, 1.0f, &c->rope_scale);
	if (!rc && c->rope_scale == 0.0f)
		c->rope_scale = 1.0f; /* some writers put 0 for "no scaling" */
	return rc;
}

static int read_config(struct opening *o)
{
	struct model_config *c = &o->m->config;
	int rc;

	rc = read_number(o, "llama.block_count", 1, LAYERS_MAX, -1, &c->n_layers);
	if (!rc)
		rc = read_number(o, "llama.embedding_length", 2, EMBD_MAX, -1, &c->n_embd);
	if (!rc)
		rc = read_number(o, "llama.feed_forward_length", 2, FF_MAX, -1, &c->n_ff);
	if (!rc)
		rc = read_number(o, "llama.context_length", 1, CONTEXT_MAX, -1, &c->ctx_train);
	if (!rc)
		rc = read_real(o, "llama.attention.layer_norm_rms_epsilon", 1e-12f, 0.1f, NAN,
			       &c->rms_eps);
	if (!rc)
		rc = read_heads(o);
	if (!rc)
		rc = read_rope(o);
	if (!rc)
		rc = refuse_unsupported(o);
	return rc;
}

/* Place one tensor of the file.  n_rows 0: any number of rows (2 .. VOCAB_MAX). */
static int place(struct opening *o, const char *name, uint64_t n_rows, uint64_t n_cols, bool must,
		 struct tensor *ret_tensor)
{
	const struct gguf_tensor *t = gguf_find_tensor(o->g, name);
	bool is_vector = n_rows == 1;

	if (!t && !must)
		return 0;
	if (!t)
		return FAIL(o, "tensor %s is missing; the file is not a complete llama model",
			    name);
	if (!is_supported(t->type))
		return FAIL(o,
			    "tensor %s has element type %s; supported are: F32 F16 BF16 Q4_0 Q4_1 "
			    "Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K",
			    name, gguf_element(t->type)->name);
	if (is_vector && t->type != TENSOR_F32)
		return FAIL(o, "tensor %s has element type %s, expected F32", name,
			    gguf_element(t->type)->name);
	if (!n_rows && (t->dims[1] < 2 || t->dims[1] > VOCAB_MAX))
		return FAIL(o, "tensor %s has %llu rows, expected a vocabulary of 2 to %u tokens",
			    name, (unsigned long long)t->dims[1], VOCAB_MAX);
	if (!n_rows)
		n_rows = t->dims[1];
	if (t->dims[0] != n_cols || t->dims[1] != n_rows || t->dims[2] != 1 || t->dims[3] != 1)
		return FAIL(o,
			    "tensor %s has shape %llu x %llu x %llu x %llu, expected %llu x %llu "
			    "by the hyper-parameters",
			    name, (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
			    (unsigned long long)t->dims[2], (unsigned long long)t->dims[3],
			    (unsigned long long)n_cols, (unsigned long long)n_rows);
	*ret_tensor = (struct tensor){
		.data = t->data, .n_cols = n_cols, .n_rows = n_rows, .bytes = t->bytes,
		.type = (enum tensor_type)t->type, .name = t->name,
	};
	o->n_used++;
	return 0;
}

static int place_layer(struct opening *o, uint32_t index)
{
	const struct model_config *c = &o->m->config;
	struct model_layer *l = &o->m->layers[index];
	uint64_t q_rows = (uint64_t)c->n_heads * c->head_dim,
		 kv_rows = (uint64_t)c->n_kv_heads * c->head_dim;
	const struct {
		const char *part;
		uint64_t n_rows, n_cols;
		struct tensor *place;
	} parts[] = {
		{ "attn_norm", 1, c->n_embd, &l->attn_norm },
		{ "attn_q", q_rows, c->n_embd, &l->wq },
		{ "attn_k", kv_rows, c->n_embd, &l->wk },
		{ "attn_v", kv_rows, c->n_embd, &l->wv },
		{ "attn_output", c->n_embd, q_rows, &l->wo },
		{ "ffn_norm", 1, c->n_embd, &l->ffn_norm },
		{ "ffn_gate", c->n_ff, c->n_embd, &l->w_gate },
		{ "ffn_up", c->n_ff, c->n_embd, &l->w_up },
		{ "ffn_down", c->n_embd, c->n_ff, &l->w_down },
	};

	for (unsigned i = 0; i < sizeof parts / sizeof parts[0]; i++) {
		char name[64];
		int rc;

		snprintf(name, sizeof name, "blk.%u.%s.weight", index, parts[i].part);
		rc = place(o, name, parts[i].n_rows, parts[i].n_cols, true, parts[i].place);
		if (rc)
			return rc;
	}
	return 0;
}

/* The first tensor of the file that no place was found for. */
static int name_unused(struct opening *o)
{
	const struct model *m = o->m;

	for (uint64_t i = 0; i < gguf_n_tensors(o->g); i++) {
		const struct gguf_tensor *t = gguf_tensor_at(o->g, i);
		bool used = t->data == m->tok_embd.data || t->data == m->output_norm.data ||
			    t->data == m->output.data || t->data == m->rope_freqs.data;

		for (uint32_t n = 0; n < m->config.n_layers && !used; n++) {
			const struct model_layer *l = &m->layers[n];
			used = t->data == l->attn_norm.data || t->data == l->wq.data ||
			       t->data == l->wk.data || t->data == l->wv.data ||
			       t->data == l->wo.data || t->data == l->ffn_norm.data ||
			       t->data == l->w_gate.data || t->data == l->w_up.data ||
			       t->data == l->w_down.data;
		}
		if (!used)
			return FAIL(o,
				    "tensor %s has no place in a llama model of %u layers; "
				    "leaving it out would change the answers, so this file is not "
				    "supported",
				    t->name, m->config.n_layers);
	}
	return 0;
}

/* The vocabulary's size as the embedding, the tokenizer and the metadata tell it. */
static int check_vocabulary(struct opening *o)
{
	struct gguf_array tokens;
	uint32_t stated = o->m->config.n_vocab;
	int rc = gguf_get_array(o->g, "tokenizer.ggml.tokens", GGUF_STRING, &tokens, o->err,
				o->errlen);

	if (rc < 0)
		return rc;
	if (rc == 0 && tokens.n != o->m->config.n_vocab)
		return FAIL(o,
			    "tokenizer.ggml.tokens has %llu tokens, but token_embd.weight has %u "
			    "rows",
			    (unsigned long long)tokens.n, o->m->config.n_vocab);
	rc = gguf_get_u32(o->g, "llama.vocab_size", &stated, o->err, o->errlen);
	if (rc < 0)
		return rc;
	if (stated != o->m->config.n_vocab)
		return FAIL(o, "llama.vocab_size is %u, but token_embd.weight has %u rows", stated,
			    o->m->config.n_vocab);
	return 0;
}

static int check_rope_freqs(struct opening *o)
{
	const struct tensor *t = &o->m->rope_freqs;
	const float *divisors = t->data;

	for (uint64_t i = 0; t->data && i < t->n_cols; i++)
		if (!isfinite(divisors[i]) || divisors[i] <= 0.0f)
			return FAIL(o,
				    "rope_freqs.weight has %g at index %llu, expected a positive "
				    "number",
				    divisors[i], (unsigned long long)i);
	return 0;
}

static int place_tensors(struct opening *o)
{
	struct model *m = o->m;
	struct model_config *c = &m->config;
	int rc = place(o, "token_embd.weight", 0, c->n_embd, true, &m->tok_embd);

	if (rc)
		return rc;
	c->n_vocab = (uint32_t)m->tok_embd.n_rows;
	rc = check_vocabulary(o);
	if (!rc)
		rc = place(o, "output_norm.weight", 1, c->n_embd, true, &m->output_norm);
	if (!rc)
		rc = place(o, "output.weight", c->n_vocab, c->n_embd, false, &m->output);
	if (!rc)
		rc = place(o, "rope_freqs.weight", 1, c->rope_dims / 2, false, &m->rope_freqs);
	if (!rc)
		rc = check_rope_freqs(o);
	if (rc)
		return rc;
	if (!m->output.data)
		m->output = m->tok_embd;
	m->layers = calloc(c->n_layers, sizeof *m->layers);
	if (!m->layers) {
		FAIL(o, "out of memory for %u layers", c->n_layers);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < c->n_layers; i++) {
		rc = place_layer(o, i);
		if (rc)
			return rc;
	}
	return o->n_used == gguf_n_tensors(o->g) ? 0 : name_unused(o);
}

/* Takes file; model_close() or a failure here closes it. */
static int open_file(struct gguf *file, struct model **ret_model, char *err, size_t errlen)
{
	struct model *m = calloc(1, sizeof *m);
	struct opening o = { .m = m, .g = file, .err = err, .errlen = errlen };
	int rc;

	if (!m) {
		gguf_error(file, err, errlen, "out of memory");
		gguf_close(file);
		return -ENOMEM;
	}
	m->file = file;
	rc = read_identity(&o);
	if (!rc)
		rc = read_config(&o);
	if (!rc)
		rc = place_tensors(&o);
	if (rc) {
		model_close(m);
		return rc;
	}
	fingerprint_compute(m, m->fingerprint);
	*ret_model = m;
	return 0;
}

int model_open(const char *path, struct model **ret, char *err, size_t errlen)
{
	struct gguf *file;
	int rc = gguf_open(path, &file, err, errlen);

	return rc ? rc : open_file(file, ret, err, errlen);
}

int model_open_memory(const void *data, uint64_t size_bytes, const char *label, struct model **ret,
		      char *err, size_t errlen)
{
	struct gguf *file;
	int rc = gguf_open_memory(data, size_bytes, label, &file, err, errlen);

	return rc ? rc : open_file(file, ret, err, errlen);
}

void model_close(struct model *m)
{
	if (!m)
		return;
	free(m->layers);
	gguf_close(m->file);
	free(m);
}
