/* test_model.c - which files are a model, which are not and why, and what its fingerprint covers.
 */
#include "engine/model.h"

#include <check.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/gguf.h"
#include "tests/lib/gguf_maker.h"
#include "tests/lib/suite.h"

#define F16 1u

static uint8_t *made; /* bytes of the last model opened, see open_made() */

static int open_made(const struct gguf_maker *m, struct model **ret_model, char err[512])
{
	size_t size;

	free(made);
	made = maker_file(m, &size);
	err[0] = '\0';
	return model_open_memory(made, size, "made", ret_model, err, 512);
}

static void make(struct gguf_maker *m, struct maker_llama l)
{
	maker_init(m);
	maker_llama_metadata(m, &l);
	maker_llama_tensors(m, &l);
}

/* Frees the maker. */
static void expect_refusal(struct gguf_maker *m, const char *words)
{
	struct model *model;
	char err[512];
	int rc = open_made(m, &model, err);

	ck_assert_msg(rc == -EINVAL, "accepted what should say \"%s\"", words);
	ck_assert_msg(strstr(err, words), "\"%s\" does not say \"%s\"", err, words);
	maker_free(m);
}

/* Frees the maker; the caller closes the model. */
static struct model *expect_model(struct gguf_maker *m)
{
	struct model *model = NULL;
	char err[512];

	ck_assert_msg(!open_made(m, &model, err), "%s", err);
	maker_free(m);
	return model;
}

START_TEST(a_sound_model)
{
	struct maker_llama l = MAKER_LLAMA;
	struct gguf_maker m;
	struct model *model;

	make(&m, l);
	maker_string(&m, "general.name", "Tiny \x1b[31m");
	model = expect_model(&m);
	ck_assert_str_eq(model->config.arch, "llama");
	ck_assert_str_eq(model->config.name, "Tiny ?[31m");
	ck_assert_uint_eq(model->config.n_vocab, 40);
	ck_assert_uint_eq(model->config.rope_dims, 16);
	ck_assert(model->config.rope_base == 10000.0f && model->config.rope_scale == 1.0f);
	ck_assert(!model->rope_freqs.data);
	ck_assert(model->output.data && model->output.data != model->tok_embd.data);
	for (uint32_t i = 0; i < 2; i++) {
		const struct model_layer *layer = &model->layers[i];

		ck_assert(layer->wk.n_rows == 32 && layer->wk.n_cols == 64);
		ck_assert(layer->wo.n_rows == 64 && layer->wo.n_cols == 64);
		ck_assert(layer->w_down.n_rows == 64 && layer->w_down.n_cols == 96);
		ck_assert(layer->ffn_norm.n_rows == 1 && layer->ffn_norm.n_cols == 64);
		ck_assert(layer->wq.bytes == 64 * 64 * 4);
	}
	ck_assert_str_eq(model->layers[1].w_up.name, "blk.1.ffn_up.weight");
	model_close(model);
}
END_TEST

START_TEST(heads_wider_than_the_embedding)
{
	struct maker_llama l = MAKER_LLAMA;
	struct gguf_maker m;
	struct model *model;

	l.head_dim = 32; /* 4 heads x 32 = 128 on an embedding of 64, as in Mistral Nemo */
	make(&m, l);
	model = expect_model(&m);
	ck_assert_uint_eq(model->config.head_dim, 32);
	ck_assert(model->layers[0].wq.n_rows == 128 && model->layers[0].wo.n_cols == 128);
	model_close(model);
}
END_TEST

START_TEST(tied_head_and_rope_divisors)
{
	struct maker_llama l = MAKER_LLAMA;
	const float divisors[8] = { 1, 1, 1, 2, 4, 8, 8, 8 }, bad[8] = { 1, 1, 0, 1, 1, 1, 1, 1 };
	struct gguf_maker m;
	struct model *model;

	l.tied = true;
	make(&m, l);
	maker_tensor(&m, "rope_freqs.weight", 8, 1, 0, divisors);
	model = expect_model(&m);
	ck_assert_ptr_eq(model->output.data, model->tok_embd.data);
	ck_assert(model->rope_freqs.n_cols == 8 && !memcmp(model->rope_freqs.data, divisors, 32));
	model_close(model);
	make(&m, l);
	maker_tensor(&m, "rope_freqs.weight", 8, 1, 0, bad);
	expect_refusal(&m, "rope_freqs.weight has 0 at index 2");
	make(&m, l);
	maker_tensor(&m, "rope_freqs.weight", 16, 1, 0, NULL);
	expect_refusal(&m, "tensor rope_freqs.weight has shape 16 x 1 x 1 x 1, expected 8 x 1");
}
END_TEST

START_TEST(element_types)
{
	static const uint32_t good[] = { 0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 30 };
	static const uint32_t bad[] = { 10, 11, 16, 20, 23, 24, 28, 34, 39 };
	struct maker_llama l = { .n_layers = 1,
				 .n_embd = 256,
				 .n_heads = 4,
				 .n_kv_heads = 1,
				 .head_dim = 64,
				 .n_ff = 256,
				 .n_vocab = 8,
				 .ctx_train = 64,
				 .rms_eps = 1e-5f,
				 .rope_base = 1e4f };
	struct gguf_maker m;
	char words[64];

	for (unsigned i = 0; i < sizeof good / sizeof good[0]; i++) {
		l.type = good[i];
		make(&m, l);
		model_close(expect_model(&m));
	}
	for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		l.type = bad[i];
		make(&m, l);
		snprintf(words, sizeof words, "has element type %s; supported are",
			 gguf_element(bad[i])->name);
		expect_refusal(&m, words);
	}
}
END_TEST

/* One refusal for each setting: the metadata written after the sound ones, which it must not
 * repeat. */
START_TEST(settings_that_change_the_arithmetic)
{
	static const struct {
		const char *key;
		enum { NUMBER, REAL, SWITCH, TEXT } kind;
		double value;
		const char *text, *words;
	} settings[] = {
		{ "llama.expert_count", NUMBER, 8, NULL, "llama.expert_count is 8" },
		{ "llama.attention.sliding_window", NUMBER, 4096, NULL, "sliding_window is 4096" },
		{ "llama.attention.clamp_kqv", REAL, 8, NULL, "clamp_kqv is 8" },
		{ "llama.logit_scale", REAL, 0.5, NULL, "logit_scale is 0.5" },
		{ "llama.attention.scale", REAL, 0.1, NULL, "attention.scale is 0.1" },
		{ "llama.attention.causal", SWITCH, 0, NULL,
		  "causal is false; this engine supports only" },
		{ "llama.attention.causal", NUMBER, 0, NULL, "causal is u32, expected bool" },
		{ "llama.attention.value_length", NUMBER, 32, NULL,
		  "value_length is 32, expected 16" },
		{ "llama.rope.scaling.type", TEXT, 0, "yarn",
		  "rope.scaling.type is \"yarn\"; supported are" },
		{ "llama.rope.scaling.type", TEXT, 0, "linear",
		  "is linear, but there is no llama.rope.scaling" },
		{ "llama.rope.dimension_count", NUMBER, 18, NULL,
		  "dimension_count is 18, expected 2 to 16" },
		{ "llama.rope.dimension_count", NUMBER, 7, NULL,
		  "dimension_count is 7, expected an even" },
		{ "llama.vocab_size", NUMBER, 41, NULL,
		  "vocab_size is 41, but token_embd.weight has 40 rows" },
		{ "llama.rope.scaling.factor", REAL, -1, NULL, "scaling.factor is -1, expected" },
		{ "llama.rope.scaling.factor", REAL, NAN, NULL,
		  "scaling.factor is not a finite number" },
		{ "general.name", NUMBER, 1, NULL, "general.name is u32, expected string" },
	};
	struct maker_llama l = MAKER_LLAMA;

	for (unsigned i = 0; i < sizeof settings / sizeof settings[0]; i++) {
		struct gguf_maker m;

		make(&m, l);
		switch (settings[i].kind) {
		case NUMBER: maker_u32(&m, settings[i].key, (uint32_t)settings[i].value); break;
		case REAL: maker_f32(&m, settings[i].key, (float)settings[i].value); break;
		case SWITCH: maker_bool(&m, settings[i].key, settings[i].value != 0); break;
		case TEXT: maker_string(&m, settings[i].key, settings[i].text); break;
		}
		expect_refusal(&m, settings[i].words);
	}
}
END_TEST

START_TEST(settings_that_are_off)
{
	struct maker_llama l = MAKER_LLAMA;
	struct gguf_maker m;
	struct model *model;

	make(&m, l);
	maker_u32(&m, "llama.expert_count", 0);
	maker_f32(&m, "llama.logit_scale", 1.0f);
	maker_bool(&m, "llama.attention.causal", true);
	maker_u32(&m, "llama.attention.value_length", 16);
	maker_u32(&m, "llama.vocab_size", 40);
	maker_string(&m, "llama.rope.scaling.type", "linear");
	maker_f32(&m, "llama.rope.scaling.factor", 4.0f);
	model = expect_model(&m);
	ck_assert(model->config.rope_scale == 4.0f);
	model_close(model);
	make(&m, l);
	maker_string(&m, "llama.rope.scaling.type", "none");
	maker_f32(&m, "llama.rope.scaling.factor", 4.0f);
	model = expect_model(&m);
	ck_assert(model->config.rope_scale == 1.0f);
	model_close(model);
}
END_TEST

START_TEST(numbers_out_of_range)
{
	static const struct {
		size_t field;
		uint32_t value;
		const char *words;
	} numbers[] = {
#define AT(field) offsetof(struct maker_llama, field)
		{ AT(n_layers), 0, "llama.block_count is 0, expected 1 to 1024" },
		{ AT(n_layers), UINT32_MAX, "llama.block_count is 4294967295" },
		{ AT(n_layers), 3, "tensor blk.2.attn_norm.weight is missing" },
		{ AT(n_layers), 1,
		  "tensor blk.1.attn_k.weight has no place in a llama model of 1 layers" },
		{ AT(n_embd), 0, "llama.embedding_length is 0" },
		{ AT(n_embd), 128,
		  "tensor token_embd.weight has shape 64 x 40 x 1 x 1, expected 128 x 40" },
		{ AT(n_heads), 0, "llama.attention.head_count is 0" },
		{ AT(n_heads), 3, "head_count is 3, expected a multiple of head_count_kv 2" },
		{ AT(n_heads), 8, "attn_q.weight has shape 64 x 64 x 1 x 1, expected 64 x 128" },
		{ AT(n_kv_heads), 0, "llama.attention.head_count_kv is 0" },
		{ AT(n_kv_heads), 4, "attn_k.weight has shape 64 x 32 x 1 x 1, expected 64 x 64" },
		{ AT(head_dim), 15, "head dimension is 15, expected an even number" },
		{ AT(head_dim), 1024, "key_length is 1024, expected 2 to 512" },
		{ AT(n_ff), 95, "ffn_gate.weight has shape 64 x 96 x 1 x 1, expected 64 x 95" },
		{ AT(ctx_train), 0, "llama.context_length is 0" },
	};
	const struct maker_llama sound = MAKER_LLAMA;
	struct gguf_maker m;

	for (unsigned i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
		struct maker_llama l = sound;

		memcpy((char *)&l + numbers[i].field, &numbers[i].value, 4);
		maker_init(&m);
		maker_llama_metadata(&m, &l);
		maker_llama_tensors(&m, &sound);
		expect_refusal(&m, numbers[i].words);
	}
	make(&m, (struct maker_llama){ .n_layers = 1,
				       .n_embd = 64,
				       .n_heads = 4,
				       .n_kv_heads = 2,
				       .head_dim = 16,
				       .n_ff = 96,
				       .n_vocab = 40,
				       .ctx_train = 1,
				       .rms_eps = 0,
				       .rope_base = 1 });
	expect_refusal(&m, "rms_epsilon is 0");
	make(&m, (struct maker_llama){ .n_layers = 1,
				       .n_embd = 64,
				       .n_heads = 4,
				       .n_kv_heads = 2,
				       .head_dim = 16,
				       .n_ff = 96,
				       .n_vocab = 1,
				       .ctx_train = 1,
				       .rms_eps = 1e-5f,
				       .rope_base = 1 });
	expect_refusal(&m, "token_embd.weight has 1 rows, expected a vocabulary of 2");
}
END_TEST

START_TEST(tensors_without_a_place)
{
	static const char *const names[] = {
		"blk.0.attn_q.bias", "blk.1.ffn_gate_exps.weight", "blk.0.attn_q_norm.weight",
		"output.bias",       "rope_factors_long.weight",   "blk.00.attn_q.weight",
	};
	struct maker_llama l = MAKER_LLAMA;
	struct gguf_maker m;
	char words[96];

	for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
		make(&m, l);
		maker_tensor(&m, names[i], 64, 1, 0, NULL);
		snprintf(words, sizeof words, "tensor %s has no place in a llama model", names[i]);
		expect_refusal(&m, words);
	}
}
END_TEST

START_TEST(missing_or_foreign)
{
	struct maker_llama l = MAKER_LLAMA;
	const char *const three[] = { "a", "b", "c" };
	struct gguf_maker m;

	maker_init(&m);
	expect_refusal(&m, "no general.architecture");
	maker_string(&m, "general.architecture", "qwen2");
	expect_refusal(&m, "architecture is \"qwen2\"; the architectures supported are: llama");
	maker_string(&m, "general.architecture", "llama");
	expect_refusal(&m, "no llama.block_count");
	maker_llama_metadata(&m, &l);
	expect_refusal(&m, "tensor token_embd.weight is missing");
	make(&m, l);
	maker_strings(&m, "tokenizer.ggml.tokens", three, 3);
	expect_refusal(&m, "tokenizer.ggml.tokens has 3 tokens, but token_embd.weight has 40 rows");
	maker_init(&m);
	maker_llama_metadata(&m, &l);
	maker_tensor(&m, "token_embd.weight", 64, 40, 0, NULL);
	maker_tensor(&m, "output_norm.weight", 64, 1, F16, NULL);
	expect_refusal(&m, "tensor output_norm.weight has element type F16, expected F32");
}
END_TEST

/* $KVD_SHARED or ../shared; prints why and returns false if the file is not there. */
static bool shared_file(const char *name, char path[PATH_MAX])
{
	const char *shared = getenv("KVD_SHARED");

	snprintf(path, PATH_MAX, "%s/%s", shared ? shared : "../shared", name);
	if (!access(path, R_OK))
		return true;
	printf("skipped: %s is not beside the checkout (set KVD_SHARED)\n", path);
	return false;
}

START_TEST(a_published_model)
{
	char path[PATH_MAX], err[512];
	struct model *model;

	if (!shared_file("models/stories260K.gguf", path))
		return;
	setenv("XDG_CACHE_HOME", "/proc/none", 1);
	ck_assert_msg(!model_open(path, &model, err, sizeof err), "%s", err);
	ck_assert(model->config.n_layers == 5 && model->config.n_embd == 64 &&
		  model->config.n_ff == 172);
	ck_assert(model->config.n_heads == 8 && model->config.n_kv_heads == 4 &&
		  model->config.head_dim == 8);
	ck_assert(model->config.n_vocab == 512 && model->output.data != model->tok_embd.data);
	model_close(model);
}
END_TEST

START_TEST(a_vocabulary_is_no_model)
{
	char path[PATH_MAX], err[512];
	struct model *model;

	if (!shared_file("vocab/ggml-vocab-llama-bpe.gguf", path))
		return;
	ck_assert_int_eq(model_open(path, &model, err, sizeof err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err, "tensor token_embd.weight is missing"));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("model");
	TCase *tc = tcase_create("model");
	int failed;

	tcase_add_test(tc, a_sound_model);
	tcase_add_test(tc, heads_wider_than_the_embedding);
	tcase_add_test(tc, tied_head_and_rope_divisors);
	tcase_add_test(tc, element_types);
	tcase_add_test(tc, settings_that_change_the_arithmetic);
	tcase_add_test(tc, settings_that_are_off);
	tcase_add_test(tc, numbers_out_of_range);
	tcase_add_test(tc, tensors_without_a_place);
	tcase_add_test(tc, missing_or_foreign);
	tcase_add_test(tc, a_published_model);
	tcase_add_test(tc, a_vocabulary_is_no_model);
	tcase_set_timeout(tc, 60);
	suite_add_tcase(suite, tc);
	failed = suite_result(suite);
	free(made);
	return failed;
}
