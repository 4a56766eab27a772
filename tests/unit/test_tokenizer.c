/* test_tokenizer.c - text to ids and back: equal to other tokenizers, and not to be fooled.
 *
 * tests/golden/tokenizer.txt holds two small vocabularies and what Hugging Face's tokenizers and
 * SentencePiece make of hard texts with them (the script that made it lies beside it).  The vectors
 * of four published vocabularies are read from beside the checkout where they are there. */
#include "engine/tokenizer.h"

#include <check.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/gguf.h"
#include "engine/utf8_stream.h"
#include "tests/lib/gguf_maker.h"
#include "tests/lib/suite.h"
#include "tests/lib/vocabulary_maker.h"

#define GOLDEN "tests/golden/tokenizer.txt"

static size_t encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
		     int32_t **ret_ids)
{
	size_t n;

	*ret_ids = malloc(TOKENIZER_IDS_ROOM(len) * sizeof **ret_ids);
	ck_assert_int_eq(
		tokenizer_encode(t, text, len, flags, *ret_ids, TOKENIZER_IDS_ROOM(len), &n), 0);
	return n;
}

static void expect_ids(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
		       const int32_t *want, size_t n_want, const char *what)
{
	int32_t *ids;
	size_t n = encode(t, text, len, flags, &ids);

	for (size_t i = 0; i < n || i < n_want; i++)
		ck_assert_msg(i < n && i < n_want && ids[i] == want[i],
			      "%s: \"%.*s\": id %zu is %d, expected %d (%zu ids, expected %zu)",
			      what, (int)len, text, i, i < n ? ids[i] : -1,
			      i < n_want ? want[i] : -1, n, n_want);
	free(ids);
}

/* All pieces together are the text again, after `extra` bytes. */
static void expect_text(const struct tokenizer *t, const int32_t *ids, size_t n, const char *text,
			size_t len, size_t extra)
{
	char *all = malloc(n * TOKENIZER_PIECE_MAX + 1);
	size_t at = 0;

	for (size_t i = 0; i < n; i++) {
		int step = tokenizer_piece(t, ids[i], all + at, TOKENIZER_PIECE_MAX, true);

		ck_assert_int_ge(step, 0);
		at += (size_t)step;
	}
	ck_assert_msg(at == len + (len ? extra : 0) && !memcmp(all + at - len, text, len),
		      "\"%.*s\" comes back as \"%.*s\"", (int)len, text, (int)at, all);
	free(all);
}

static size_t unhex(const char *hex, char *ret_text)
{
	size_t n = 0;
	unsigned byte;

	for (; sscanf(hex, "%2x", &byte) == 1; hex += 2)
		ret_text[n++] = (char)byte;
	ret_text[n] = '\0';
	return n;
}

/* One "i PRE IDS" line: the ids of text. */
static void check_golden(const struct vocabulary *v, char *line, unsigned flags, const char *text,
			 size_t len)
{
	int32_t want[512];
	struct vocabulary named = *v;
	struct gguf_maker m;
	struct subject s;
	size_t n = 0;
	char *word = strtok(line, " \n"), *pre = strtok(NULL, " \n");
	int32_t *ids;

	ck_assert_str_eq(word, "i");
	while ((word = strtok(NULL, " \n")))
		want[n++] = atoi(word);
	named.pre = pre;
	maker_init(&m);
	vocabulary_write(&named, &m);
	s = subject_need(&m);
	expect_ids(s.t, text, len, flags, want, n, pre);
	encode(s.t, text, len, flags, &ids);
	if (strcmp(pre, "qwen2")) /* which normalizes: another text of the same look */
		expect_text(s.t, ids, n, text, len, tokenizer_adds_space(s.t));
	free(ids);
	subject_drop(&s);
}

START_TEST(equal_to_other_tokenizers)
{
	FILE *f = fopen(GOLDEN, "r");
	char line[4096], text[1024], other[1024];
	struct vocabulary v = { 0 };
	unsigned n_checked = 0, flags = 0;
	size_t len = 0;

	ck_assert_msg(f != NULL, "%s: run from the root of the repository", GOLDEN);
	while (fgets(line, sizeof line, f)) {
		char hex[2048] = "", hex2[1024] = "";
		float score = 0;
		int type;

		if (!strncmp(line, "bpe", 3) || !strncmp(line, "spm", 3)) {
			vocabulary_forget(&v);
			v.model = line[0] == 'b' ? "gpt2" : "llama";
		} else if (sscanf(line, "t %d %2047s %f", &type, hex, &score) >= 2) {
			unhex(hex, text);
			vocabulary_add_token(&v, text, type, score);
		} else if (sscanf(line, "m %2047s %1023s", hex, hex2) == 2) {
			unhex(hex, text);
			unhex(hex2, other);
			vocabulary_add_merge(&v, text, other);
		} else if (sscanf(line, "x %1023s %2047s", hex2, hex) == 2) {
			flags = strcmp(hex2, "special") ? 0 : TOKENIZER_PARSE_SPECIAL;
			len = unhex(hex, text);
		} else if (line[0] == 'i') {
			check_golden(&v, line, flags, text, len);
			n_checked++;
		}
	}
	fclose(f);
	vocabulary_forget(&v);
	ck_assert_uint_ge(n_checked, 350);
}
END_TEST

START_TEST(control_tokens_only_on_demand)
{
	static const char text[] = "<|im_end|><tool>a";
	const int32_t parsed[] = { 257, 258, 'a' };
	const int32_t plain[] = { '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>', 258, 'a' };
	const int32_t with_bos[] = { 256, 'a' };
	struct vocabulary v;
	struct gguf_maker m;
	struct subject s;

	vocabulary_small_bpe(&v);
	maker_init(&m);
	vocabulary_write(&v, &m);
	maker_u32(&m, "tokenizer.ggml.bos_token_id", 256);
	s = subject_need(&m);
	expect_ids(s.t, text, strlen(text), TOKENIZER_PARSE_SPECIAL, parsed, 3, "parsed");
	expect_ids(s.t, text, strlen(text), 0, plain, 12, "plain");
	expect_ids(s.t, "a", 1, TOKENIZER_ADD_BOS, with_bos, 2, "bos");
	expect_ids(s.t, "", 0, TOKENIZER_ADD_BOS, with_bos, 1, "bos alone");
	expect_ids(s.t, "", 0, 0, NULL, 0, "nothing");
	subject_drop(&s);
	vocabulary_forget(&v);
}
END_TEST

START_TEST(sentencepiece_control_tokens_are_not_spelled_by_merging)
{
	const int32_t plain[] = { 259, 267, 266 }, parsed[] = { 1 }, a_b[] = { 263, 261 };
	struct vocabulary v;
	struct gguf_maker m;
	struct subject s;

	vocabulary_small_spm(&v);
	maker_init(&m);
	vocabulary_write(&v, &m);
	s = subject_need(&m);
	expect_ids(s.t, "<s>", 3, 0, plain, 3, "plain");
	expect_ids(s.t, "<s>", 3, TOKENIZER_PARSE_SPECIAL, parsed, 1, "parsed");
	expect_ids(s.t, "ab", 2, 0, a_b, 2, "the better score joins first");
	ck_assert(tokenizer_adds_bos(s.t) && tokenizer_adds_space(s.t));
	ck_assert(tokenizer_bos(s.t) == 1 && tokenizer_eos(s.t) == 2 && tokenizer_is_end(s.t, 2));
	subject_drop(&s);
	vocabulary_forget(&v);
}
END_TEST

START_TEST(bytes_that_are_no_text)
{
	static const char text[] = "a\xff\xe2\x82" "b\xed\xa0\x80\0c";
	static const char repaired[] = "a\xef\xbf\xbd\xef\xbf\xbd"
				       "b\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\0c";
	struct vocabulary v[2];
	int32_t *ids, *same;
	size_t n;

	vocabulary_small_bpe(&v[0]);
	vocabulary_small_spm(&v[1]);
	for (unsigned i = 0; i < 2; i++) {
		struct gguf_maker m;
		struct subject s;

		maker_init(&m);
		vocabulary_write(&v[i], &m);
		s = subject_need(&m);
		n = encode(s.t, text, sizeof text - 1, 0, &ids);
		ck_assert_uint_eq(encode(s.t, repaired, sizeof repaired - 1, 0, &same), n);
		ck_assert_mem_eq(ids, same, n * sizeof *ids);
		expect_text(s.t, ids, n, repaired, sizeof repaired - 1, i);
		free(ids);
		free(same);
		subject_drop(&s);
		vocabulary_forget(&v[i]);
	}
}
END_TEST

START_TEST(more_ids_than_room)
{
	int32_t ids[3] = { -7, -7, -7 };
	struct vocabulary v;
	struct gguf_maker m;
	struct subject s;
	size_t n = 0;

	vocabulary_small_bpe(&v);
	maker_init(&m);
	vocabulary_write(&v, &m);
	s = subject_need(&m);
	ck_assert_int_eq(tokenizer_encode(s.t, "xyz!", 4, 0, ids, 2, &n), -ENOBUFS);
	ck_assert(n == 4 && ids[0] == 'x' && ids[1] == 'y' && ids[2] == -7);
	ck_assert_int_eq(tokenizer_encode(s.t, "xyz!", 4, 0, NULL, 0, &n), -ENOBUFS);
	ck_assert_uint_eq(n, 4);
	ck_assert_int_eq(tokenizer_encode(s.t, "", TOKENIZER_TEXT_MAX + 1ul, 0, ids, 3, &n),
			 -EMSGSIZE);
	subject_drop(&s);
	vocabulary_forget(&v);
}
END_TEST

START_TEST(pieces_and_facts)
{
	char piece[TOKENIZER_PIECE_MAX];
	const char *template;
	struct vocabulary v;
	struct gguf_maker m;
	struct subject s;
	size_t len;

	vocabulary_small_bpe(&v);
	maker_init(&m);
	vocabulary_write(&v, &m);
	maker_u32(&m, "tokenizer.ggml.eos_token_id", 0);
	maker_u32(&m, "tokenizer.ggml.padding_token_id", UINT32_MAX);
	maker_u32(&m, "tokenizer.ggml.eot_token_id", UINT32_MAX);
	maker_string(&m, "tokenizer.chat_template", "{{ x }}");
	maker_bool(&m, "tokenizer.ggml.add_bos_token", true);
	s = subject_need(&m);
	ck_assert_int_eq(tokenizer_piece(s.t, 0xff, piece, sizeof piece, false), 1);
	ck_assert_int_eq((uint8_t)piece[0], 0xff); /* a part of a character is given as it is */
	ck_assert_int_eq(tokenizer_piece(s.t, 257, piece, sizeof piece, false), 0);
	ck_assert_int_eq(tokenizer_piece(s.t, 257, piece, sizeof piece, true), 10);
	ck_assert_mem_eq(piece, "<|im_end|>", 10);
	ck_assert_int_eq(tokenizer_piece(s.t, 257, piece, 9, true), -ENOBUFS);
	ck_assert_int_eq(tokenizer_piece(s.t, 258, piece, sizeof piece, false), 6);
	ck_assert_int_eq(tokenizer_piece(s.t, 262, piece, sizeof piece, true), 0);
	ck_assert_int_eq(tokenizer_piece(s.t, 263, piece, sizeof piece, false), -EINVAL);
	ck_assert_int_eq(tokenizer_piece(s.t, -1, piece, sizeof piece, false), -EINVAL);
	ck_assert_uint_eq(tokenizer_n_vocab(s.t), 263);
	ck_assert(tokenizer_bos(s.t) == -1 && tokenizer_eos(s.t) == 0 && tokenizer_eot(s.t) == -1);
	ck_assert(tokenizer_is_end(s.t, 0) && tokenizer_is_end(s.t, 257));
	ck_assert(!tokenizer_is_end(s.t, 256) && !tokenizer_is_end(s.t, -1) &&
		  !tokenizer_is_end(s.t, 263));
	ck_assert(tokenizer_is_control(s.t, 256) && !tokenizer_is_control(s.t, 258));
	ck_assert(tokenizer_adds_bos(s.t) && !tokenizer_adds_space(s.t));
	ck_assert(tokenizer_find(s.t, "aaaa") == 261 && tokenizer_find(s.t, "aaa") == -1);
	ck_assert(tokenizer_chat_template(s.t, &template, &len));
	ck_assert(len == 7 && !memcmp(template, "{{ x }}", 7));
	subject_drop(&s);
	vocabulary_forget(&v);
}
END_TEST

/* Quadratic work on a million bytes would take minutes, also here. */
START_TEST(a_text_without_a_space)
{
	const size_t len = 1000000;
	char *text = malloc(len);
	struct vocabulary v[2];

	vocabulary_small_bpe(&v[0]);
	vocabulary_small_spm(&v[1]);
	for (unsigned i = 0; i < 2; i++) {
		struct gguf_maker m;
		struct subject s;
		int32_t *ids;

		maker_init(&m);
		vocabulary_write(&v[i], &m);
		s = subject_need(&m);
		memset(text, 'a', len);
		ck_assert_uint_eq(encode(s.t, text, len, 0, &ids), i ? len : len / 4);
		free(ids);
		memset(text, ' ', len);
		ck_assert_uint_eq(encode(s.t, text, len, 0, &ids), i ? len + 1 : len);
		free(ids);
		memset(text, '\xff', len);
		ck_assert_uint_eq(encode(s.t, text, len, 0, &ids), i ? 3 * len + 1 : 3 * len);
		free(ids);
		subject_drop(&s);
		vocabulary_forget(&v[i]);
	}
	free(text);
}
END_TEST

/* A run of marks whose canonical order is the worst for the normalizer's sort. */
START_TEST(a_text_of_combining_marks)
{
	const size_t n_pairs = 100000;
	char *text = malloc(4 * n_pairs);
	struct vocabulary v;
	struct gguf_maker m;
	struct subject s;
	int32_t *ids;

	for (size_t i = 0; i < n_pairs; i++)
		memcpy(text + 4 * i, "\xcc\x81\xcc\xa3", 4);
	vocabulary_small_bpe(&v);
	v.pre = "qwen2";
	maker_init(&m);
	vocabulary_write(&v, &m);
	s = subject_need(&m);
	ck_assert_uint_eq(encode(s.t, text, 4 * n_pairs, 0, &ids), 4 * n_pairs);
	free(ids);
	/* and a text that is one is normalized: e + U+0301 is one character of two bytes */
	ck_assert_uint_eq(encode(s.t, "e\xcc\x81", 3, 0, &ids), 2);
	ck_assert(ids[0] == 0xc3 && ids[1] == 0xa9);
	free(ids);
	subject_drop(&s);
	vocabulary_forget(&v);
	free(text);
}
END_TEST

/* A vocabulary without tokens for most bytes: nothing fails, the unknown token stands in. */
START_TEST(bytes_without_tokens)
{
	const int32_t with_unknown[] = { 0, 1, 0 }, without[] = { 1 };
	struct vocabulary v = { .model = "gpt2", .pre = "smollm" };
	struct gguf_maker m;
	struct subject s;

	vocabulary_add_token(&v, "<unk>", 2, 0);
	vocabulary_add_token(&v, "a", 1, 0);
	maker_init(&m);
	vocabulary_write(&v, &m);
	maker_u32(&m, "tokenizer.ggml.unknown_token_id", 0);
	s = subject_need(&m);
	expect_ids(s.t, "xay", 3, 0, with_unknown, 3, "unknown");
	subject_drop(&s);
	maker_init(&m);
	vocabulary_write(&v, &m);
	s = subject_need(&m);
	expect_ids(s.t, "xay", 3, 0, without, 1, "without");
	subject_drop(&s);
	v.model = "llama";
	maker_init(&m);
	vocabulary_write(&v, &m);
	s = subject_need(&m);
	expect_ids(s.t, "ay", 2, 0, (const int32_t[]){ 0, 1, 0 }, 3, "sentencepiece");
	subject_drop(&s);
	vocabulary_forget(&v);
}
END_TEST

static char *slurp(const char *path, size_t *ret_len)
{
	FILE *f = fopen(path, "r");
	char *text;

	ck_assert_ptr_nonnull(f);
	fseek(f, 0, SEEK_END);
	*ret_len = (size_t)ftell(f);
	rewind(f);
	text = malloc(*ret_len + 1);
	ck_assert_uint_eq(fread(text, 1, *ret_len, f), *ret_len);
	text[*ret_len] = '\0';
	fclose(f);
	return text;
}

/* X.inp: texts with a line of their own between; X.out: a line of ids for each. */
static void check_vectors(const char *path)
{
	static const char between[] = "\n__ggml_vocab_test__\n";
	char name[PATH_MAX + 8], err[512];
	struct tokenizer *t;
	struct gguf *g;
	char *texts, *lines, *line, *rest;
	size_t len;
	unsigned n = 0;

	ck_assert_msg(!gguf_open(path, &g, err, sizeof err), "%s", err);
	ck_assert_msg(!tokenizer_new(g, &t, err, sizeof err), "%s", err);
	snprintf(name, sizeof name, "%s.inp", path);
	texts = slurp(name, &len);
	snprintf(name, sizeof name, "%s.out", path);
	lines = slurp(name, &len);
	rest = lines;
	for (char *text = texts; text; n++) {
		char *end = strstr(text, between), *at, *number;
		int32_t want[4096];
		size_t n_want = 0;

		line = strsep(&rest, "\n");
		ck_assert_ptr_nonnull(line);
		for (at = line; (number = strsep(&at, " "));)
			if (*number)
				want[n_want++] = atoi(number);
		len = end ? (size_t)(end - text) : strlen(text);
		expect_ids(t, text, len, 0, want, n_want, path);
		text = end ? end + strlen(between) : NULL;
	}
	ck_assert_uint_ge(n, 40);
	free(texts);
	free(lines);
	tokenizer_free(t);
	gguf_close(g);
}

START_TEST(published_vectors)
{
	static const char *const names[] = { "gpt-2", "llama-bpe", "llama-spm", "qwen2" };
	const char *shared = getenv("KVD_SHARED");
	char path[PATH_MAX];

	for (unsigned i = 0; i < 4; i++) {
		snprintf(path, sizeof path, "%s/vocab/ggml-vocab-%s.gguf",
			 shared ? shared : "../shared", names[i]);
		if (access(path, R_OK))
			printf("skipped: %s is not beside the checkout (set KVD_SHARED)\n", path);
		else
			check_vectors(path);
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		equal_to_other_tokenizers, control_tokens_only_on_demand,
		sentencepiece_control_tokens_are_not_spelled_by_merging, bytes_that_are_no_text,
		more_ids_than_room, pieces_and_facts, a_text_without_a_space, a_text_of_combining_marks,
		bytes_without_tokens, published_vectors,
	};
	return SUITE_RUN("tokenizer", 60, tests);
}
