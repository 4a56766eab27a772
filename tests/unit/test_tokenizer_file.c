/* test_tokenizer_file.c - vocabularies that lie: each is refused with a sentence that names the
 * field. */
#include "engine/tokenizer.h"

#include <check.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "tests/lib/gguf_maker.h"
#include "tests/lib/suite.h"
#include "tests/lib/vocabulary_maker.h"

/* Frees the maker and the vocabulary. */
static void expect_refusal(struct gguf_maker *m, struct vocabulary *v, const char *words)
{
	struct subject s;
	char err[512];
	int rc = subject_try(m, &s, err);

	ck_assert_msg(rc == -EINVAL, "accepted what should say \"%s\"", words);
	ck_assert_msg(strstr(err, words), "\"%s\" does not say \"%s\"", err, words);
	ck_assert_msg(!strncmp(err, "made: ", 6), "\"%s\" does not name the file", err);
	vocabulary_forget(v);
}

static void begin(struct gguf_maker *m, struct vocabulary *v, bool spm)
{
	maker_init(m);
	if (spm)
		vocabulary_small_spm(v);
	else
		vocabulary_small_bpe(v);
}

START_TEST(vocabularies_that_lie)
{
	struct vocabulary v = { 0 };
	struct gguf_maker m;
	char *large = malloc(TOKENIZER_PIECE_MAX + 2);

	maker_init(&m);
	expect_refusal(&m, &v, "no tokenizer.ggml.tokens");
	begin(&m, &v, false), v.model = NULL, vocabulary_write(&v, &m);
	expect_refusal(&m, &v, "no tokenizer.ggml.model");
	begin(&m, &v, false), v.model = "rwkv", vocabulary_write(&v, &m);
	expect_refusal(&m, &v, "model is \"rwkv\"; supported are: gpt2");
	begin(&m, &v, false), v.pre = "tekken", vocabulary_write(&v, &m);
	expect_refusal(&m, &v,
		       "pre is \"tekken\"; the pre-tokenizers supported are: default, gpt-2");
	begin(&m, &v, false), v.types[3] = 9, vocabulary_write(&v, &m);
	expect_refusal(&m, &v, "token_type has 9 for token 3, expected 1 to 6");
	begin(&m, &v, false), vocabulary_add_merge(&v, "q", "z"), vocabulary_write(&v, &m);
	expect_refusal(&m, &v, "merges has \"q z\" at 3, whose parts or whole are not in");
	begin(&m, &v, false), vocabulary_add_merge(&v, "qz", ""), vocabulary_write(&v, &m);
	expect_refusal(&m, &v, "merges has \"qz \" at 3, expected two tokens");
	begin(&m, &v, false), vocabulary_add_merge(&v, "", "z"), vocabulary_write(&v, &m);
	expect_refusal(&m, &v, "merges has \" z\" at 3, expected two tokens");
	begin(&m, &v, false), vocabulary_write(&v, &m),
		maker_u32(&m, "tokenizer.ggml.eos_token_id", 263);
	expect_refusal(&m, &v, "eos_token_id is 263, but the vocabulary has 263 tokens");
	begin(&m, &v, false), vocabulary_write(&v, &m),
		maker_f32(&m, "tokenizer.ggml.bos_token_id", 1);
	expect_refusal(&m, &v, "bos_token_id is f32, expected a whole number");
	begin(&m, &v, false), vocabulary_write(&v, &m), maker_u32(&m, "tokenizer.chat_template", 1);
	expect_refusal(&m, &v, "chat_template is u32, expected string");
	memset(large, 'l', TOKENIZER_PIECE_MAX + 1);
	large[TOKENIZER_PIECE_MAX + 1] = '\0';
	begin(&m, &v, false), vocabulary_add_token(&v, large, 1, 0), vocabulary_write(&v, &m);
	expect_refusal(&m, &v, "a text of 4097 bytes for token 263, expected at most 4096");
	begin(&m, &v, true), v.scores[5] = NAN, vocabulary_write(&v, &m);
	expect_refusal(&m, &v, "scores has NaN for token 5");
	begin(&m, &v, true), vocabulary_add_token(&v, "<0xG0>", 6, 0), vocabulary_write(&v, &m);
	expect_refusal(&m, &v, "token 268 is a byte by its type");
	free(large);

	maker_init(&m);
	maker_string(&m, "tokenizer.ggml.model", "gpt2");
	maker_strings(&m, "tokenizer.ggml.tokens", (const char *const[]){ "a", "b" }, 2);
	expect_refusal(&m, &v, "no tokenizer.ggml.merges");
	maker_string(&m, "tokenizer.ggml.model", "llama");
	maker_strings(&m, "tokenizer.ggml.tokens", (const char *const[]){ "a", "b" }, 2);
	expect_refusal(&m, &v, "no tokenizer.ggml.scores");
	maker_string(&m, "tokenizer.ggml.model", "llama");
	maker_strings(&m, "tokenizer.ggml.tokens", (const char *const[]){ "a", "b" }, 2);
	maker_array(&m, "tokenizer.ggml.scores", GGUF_F32, 1, "\0\0\0\0", 4);
	expect_refusal(&m, &v, "scores has 1 elements, expected 2");
	maker_strings(&m, "tokenizer.ggml.tokens", (const char *const[]){ "a", "b" }, 2);
	maker_array(&m, "tokenizer.ggml.token_type", GGUF_I32, 1, "\1\0\0\0", 4);
	expect_refusal(&m, &v, "token_type has 1 elements, expected 2");
	maker_strings(&m, "tokenizer.ggml.tokens", NULL, 0);
	expect_refusal(&m, &v, "tokens has 0 tokens");
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		vocabularies_that_lie,
	};
	return SUITE_RUN("tokenizer_file", 0, tests);
}
