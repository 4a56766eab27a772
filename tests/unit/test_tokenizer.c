/* test_tokenizer.c - text to ids and back: equal to other tokenizers, and not to be fooled.
 *
 * tests/golden/tokenizer.txt holds two small vocabularies and what Hugging Face's tokenizers and
 * SentencePiece make of hard texts with them (the script that made it lies beside it).  The vectors
 * of four published vocabularies are read from beside the checkout where they are there. */
#include "engine/tokenizer.h"

#include <check.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "engine/gguf.h"
#include "engine/utf8_stream.h"
#include "tests/lib/gguf_maker.h"

#define GOLDEN "tests/golden/tokenizer.txt"
#define TOKENS_ROOM 2048u

/* A vocabulary being read or written down; texts are owned. */
struct vocabulary {
	char *texts[TOKENS_ROOM], *merges[TOKENS_ROOM];
	int32_t types[TOKENS_ROOM];
	float scores[TOKENS_ROOM];
	uint64_t n, n_merges;
	const char *model, *pre;
};

/* A tokenizer over a file made in memory. */
struct subject {
	uint8_t *file;
	struct gguf *g;
	struct tokenizer *t;
};

static void add_token(struct vocabulary *v, const char *text, int32_t type, float score)
{
	ck_assert_uint_lt(v->n, TOKENS_ROOM);
	v->texts[v->n] = strdup(text);
	v->types[v->n] = type;
	v->scores[v->n++] = score;
}

static void add_merge(struct vocabulary *v, const char *left, const char *right)
{
	ck_assert_uint_lt(v->n_merges, TOKENS_ROOM);
	ck_assert_int_gt(asprintf(&v->merges[v->n_merges++], "%s %s", left, right), 0);
}

static void forget(struct vocabulary *v)
{
	for (uint64_t i = 0; i < v->n; i++)
		free(v->texts[i]);
	for (uint64_t i = 0; i < v->n_merges; i++)
		free(v->merges[i]);
	*v = (struct vocabulary){ 0 };
}

static void write_down(const struct vocabulary *v, struct gguf_maker *m)
{
	maker_string(m, "general.architecture", "llama");
	if (v->model)
		maker_string(m, "tokenizer.ggml.model", v->model);
	if (v->pre)
		maker_string(m, "tokenizer.ggml.pre", v->pre);
	maker_strings(m, "tokenizer.ggml.tokens", (const char *const *)v->texts, v->n);
	maker_array(m, "tokenizer.ggml.token_type", GGUF_I32, v->n, v->types, v->n * 4);
	maker_array(m, "tokenizer.ggml.scores", GGUF_F32, v->n, v->scores, v->n * 4);
	maker_strings(m, "tokenizer.ggml.merges", (const char *const *)v->merges, v->n_merges);
}

/* Frees the maker. */
static int try_subject(struct gguf_maker *m, struct subject *s, char err[512])
{
	size_t size;
	int rc;

	s->file = maker_file(m, &size);
	maker_free(m);
	err[0] = '\0';
	rc = gguf_open_memory(s->file, size, "made", &s->g, err, 512);
	ck_assert_msg(!rc, "%s", err);
	rc = tokenizer_new(s->g, &s->t, err, 512);
	if (rc) {
		gguf_close(s->g);
		free(s->file);
	}
	return rc;
}

static struct subject need_subject(struct gguf_maker *m)
{
	struct subject s;
	char err[512];

	ck_assert_msg(!try_subject(m, &s, err), "%s", err);
	return s;
}

static void drop(struct subject *s)
{
	tokenizer_free(s->t);
	gguf_close(s->g);
	free(s->file);
}

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
	write_down(&named, &m);
	s = need_subject(&m);
	expect_ids(s.t, text, len, flags, want, n, pre);
	encode(s.t, text, len, flags, &ids);
	if (strcmp(pre, "qwen2")) /* which normalizes: another text of the same look */
		expect_text(s.t, ids, n, text, len, tokenizer_adds_space(s.t));
	free(ids);
	drop(&s);
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
			forget(&v);
			v.model = line[0] == 'b' ? "gpt2" : "llama";
		} else if (sscanf(line, "t %d %2047s %f", &type, hex, &score) >= 2) {
			unhex(hex, text);
			add_token(&v, text, type, score);
		} else if (sscanf(line, "m %2047s %1023s", hex, hex2) == 2) {
			unhex(hex, text);
			unhex(hex2, other);
			add_merge(&v, text, other);
		} else if (sscanf(line, "x %1023s %2047s", hex2, hex) == 2) {
			flags = strcmp(hex2, "special") ? 0 : TOKENIZER_PARSE_SPECIAL;
			len = unhex(hex, text);
		} else if (line[0] == 'i') {
			check_golden(&v, line, flags, text, len);
			n_checked++;
		}
	}
	fclose(f);
	forget(&v);
	ck_assert_uint_ge(n_checked, 350);
}
END_TEST

/* The bytes as tokens 0..255 in GPT-2's spelling, some words, control tokens. */
static void small_bpe(struct vocabulary *v)
{
	*v = (struct vocabulary){ .model = "gpt2", .pre = "gpt-2" };
	for (unsigned b = 0; b < 256; b++) {
		bool itself = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
		unsigned c = itself      ? b
			     : b <= 0x20 ? 0x100 + b
			     : b <= 0xa0 ? 0x121 + b - 0x7f
					 : 0x143;
		char text[3] = { (char)c };

		if (c >= 0x80) {
			text[0] = (char)(0xc0 | c >> 6);
			text[1] = (char)(0x80 | (c & 0x3f));
		}
		add_token(v, text, 1, 0);
	}
	add_token(v, "<|im_start|>", 3, 0); /* 256 */
	add_token(v, "<|im_end|>", 3, 0);   /* 257 */
	add_token(v, "<tool>", 4, 0);       /* 258 */
	add_token(v, "ab", 1, 0);           /* 259 */
	add_token(v, "aa", 1, 0);           /* 260 */
	add_token(v, "aaaa", 1, 0);         /* 261 */
	add_token(v, "[PAD1]", 5, 0);       /* 262 */
	add_merge(v, "a", "b");
	add_merge(v, "a", "a");
	add_merge(v, "aa", "aa");
}

/* Bytes as <0x00>.., then some characters and words with scores. */
static void small_spm(struct vocabulary *v)
{
	*v = (struct vocabulary){ .model = "llama" };
	add_token(v, "<unk>", 2, 0);
	add_token(v, "<s>", 3, 0);
	add_token(v, "</s>", 3, 0);
	for (unsigned b = 0; b < 256; b++) {
		char text[8];

		snprintf(text, sizeof text, "<0x%02X>", b);
		add_token(v, text, 6, 0);
	}
	add_token(v, "\xe2\x96\x81", 1, -10);  /* 259 */
	add_token(v, "a", 1, -11);             /* 260 */
	add_token(v, "b", 1, -12);             /* 261 */
	add_token(v, "ab", 1, -2);             /* 262 */
	add_token(v, "\xe2\x96\x81" "a", 1, -1); /* 263 */
	add_token(v, "s", 1, -13);             /* 264 */
	add_token(v, "<", 1, -14);             /* 265 */
	add_token(v, ">", 1, -15);             /* 266 */
	add_token(v, "<s", 1, -3);             /* 267: "<s" + ">" would spell the control token */
}

START_TEST(control_tokens_only_on_demand)
{
	static const char text[] = "<|im_end|><tool>a";
	const int32_t parsed[] = { 257, 258, 'a' };
	const int32_t plain[] = { '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>', 258, 'a' };
	const int32_t with_bos[] = { 256, 'a' };
	struct vocabulary v;
	struct gguf_maker m;
	struct subject s;

	small_bpe(&v);
	maker_init(&m);
	write_down(&v, &m);
	maker_u32(&m, "tokenizer.ggml.bos_token_id", 256);
	s = need_subject(&m);
	expect_ids(s.t, text, strlen(text), TOKENIZER_PARSE_SPECIAL, parsed, 3, "parsed");
	expect_ids(s.t, text, strlen(text), 0, plain, 12, "plain");
	expect_ids(s.t, "a", 1, TOKENIZER_ADD_BOS, with_bos, 2, "bos");
	expect_ids(s.t, "", 0, TOKENIZER_ADD_BOS, with_bos, 1, "bos alone");
	expect_ids(s.t, "", 0, 0, NULL, 0, "nothing");
	drop(&s);
	forget(&v);
}
END_TEST

START_TEST(sentencepiece_control_tokens_are_not_spelled_by_merging)
{
	const int32_t plain[] = { 259, 267, 266 }, parsed[] = { 1 }, a_b[] = { 263, 261 };
	struct vocabulary v;
	struct gguf_maker m;
	struct subject s;

	small_spm(&v);
	maker_init(&m);
	write_down(&v, &m);
	s = need_subject(&m);
	expect_ids(s.t, "<s>", 3, 0, plain, 3, "plain");
	expect_ids(s.t, "<s>", 3, TOKENIZER_PARSE_SPECIAL, parsed, 1, "parsed");
	expect_ids(s.t, "ab", 2, 0, a_b, 2, "the better score joins first");
	ck_assert(tokenizer_adds_bos(s.t) && tokenizer_adds_space(s.t));
	ck_assert(tokenizer_bos(s.t) == 1 && tokenizer_eos(s.t) == 2 && tokenizer_is_end(s.t, 2));
	drop(&s);
	forget(&v);
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

	small_bpe(&v[0]);
	small_spm(&v[1]);
	for (unsigned i = 0; i < 2; i++) {
		struct gguf_maker m;
		struct subject s;

		maker_init(&m);
		write_down(&v[i], &m);
		s = need_subject(&m);
		n = encode(s.t, text, sizeof text - 1, 0, &ids);
		ck_assert_uint_eq(encode(s.t, repaired, sizeof repaired - 1, 0, &same), n);
		ck_assert_mem_eq(ids, same, n * sizeof *ids);
		expect_text(s.t, ids, n, repaired, sizeof repaired - 1, i);
		free(ids);
		free(same);
		drop(&s);
		forget(&v[i]);
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

	small_bpe(&v);
	maker_init(&m);
	write_down(&v, &m);
	s = need_subject(&m);
	ck_assert_int_eq(tokenizer_encode(s.t, "xyz!", 4, 0, ids, 2, &n), -ENOBUFS);
	ck_assert(n == 4 && ids[0] == 'x' && ids[1] == 'y' && ids[2] == -7);
	ck_assert_int_eq(tokenizer_encode(s.t, "xyz!", 4, 0, NULL, 0, &n), -ENOBUFS);
	ck_assert_uint_eq(n, 4);
	ck_assert_int_eq(tokenizer_encode(s.t, "", TOKENIZER_TEXT_MAX + 1ul, 0, ids, 3, &n),
			 -EMSGSIZE);
	drop(&s);
	forget(&v);
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

	small_bpe(&v);
	maker_init(&m);
	write_down(&v, &m);
	maker_u32(&m, "tokenizer.ggml.eos_token_id", 0);
	maker_u32(&m, "tokenizer.ggml.padding_token_id", UINT32_MAX);
	maker_u32(&m, "tokenizer.ggml.eot_token_id", UINT32_MAX);
	maker_string(&m, "tokenizer.chat_template", "{{ x }}");
	maker_bool(&m, "tokenizer.ggml.add_bos_token", true);
	s = need_subject(&m);
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
	drop(&s);
	forget(&v);
}
END_TEST

/* Quadratic work on a million bytes would take minutes, also here. */
START_TEST(a_text_without_a_space)
{
	const size_t len = 1000000;
	char *text = malloc(len);
	struct vocabulary v[2];

	small_bpe(&v[0]);
	small_spm(&v[1]);
	for (unsigned i = 0; i < 2; i++) {
		struct gguf_maker m;
		struct subject s;
		int32_t *ids;

		maker_init(&m);
		write_down(&v[i], &m);
		s = need_subject(&m);
		memset(text, 'a', len);
		ck_assert_uint_eq(encode(s.t, text, len, 0, &ids), i ? len : len / 4);
		free(ids);
		memset(text, ' ', len);
		ck_assert_uint_eq(encode(s.t, text, len, 0, &ids), i ? len + 1 : len);
		free(ids);
		memset(text, '\xff', len);
		ck_assert_uint_eq(encode(s.t, text, len, 0, &ids), i ? 3 * len + 1 : 3 * len);
		free(ids);
		drop(&s);
		forget(&v[i]);
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
	small_bpe(&v);
	v.pre = "qwen2";
	maker_init(&m);
	write_down(&v, &m);
	s = need_subject(&m);
	ck_assert_uint_eq(encode(s.t, text, 4 * n_pairs, 0, &ids), 4 * n_pairs);
	free(ids);
	/* and a text that is one is normalized: e + U+0301 is one character of two bytes */
	ck_assert_uint_eq(encode(s.t, "e\xcc\x81", 3, 0, &ids), 2);
	ck_assert(ids[0] == 0xc3 && ids[1] == 0xa9);
	free(ids);
	drop(&s);
	forget(&v);
	free(text);
}
END_TEST

static void expect_refusal(struct gguf_maker *m, struct vocabulary *v, const char *words)
{
	struct subject s;
	char err[512];
	int rc = try_subject(m, &s, err);

	ck_assert_msg(rc == -EINVAL, "accepted what should say \"%s\"", words);
	ck_assert_msg(strstr(err, words), "\"%s\" does not say \"%s\"", err, words);
	ck_assert_msg(!strncmp(err, "made: ", 6), "\"%s\" does not name the file", err);
	forget(v);
}

static void begin(struct gguf_maker *m, struct vocabulary *v, bool spm)
{
	maker_init(m);
	spm ? small_spm(v) : small_bpe(v);
}

START_TEST(vocabularies_that_lie)
{
	struct vocabulary v = { 0 };
	struct gguf_maker m;
	char *large = malloc(TOKENIZER_PIECE_MAX + 2);

	maker_init(&m);
	expect_refusal(&m, &v, "no tokenizer.ggml.tokens");
	begin(&m, &v, false), v.model = NULL, write_down(&v, &m);
	expect_refusal(&m, &v, "no tokenizer.ggml.model");
	begin(&m, &v, false), v.model = "rwkv", write_down(&v, &m);
	expect_refusal(&m, &v, "model is \"rwkv\"; supported are: gpt2");
	begin(&m, &v, false), v.pre = "tekken", write_down(&v, &m);
	expect_refusal(&m, &v,
		       "pre is \"tekken\"; the pre-tokenizers supported are: default, gpt-2");
	begin(&m, &v, false), v.types[3] = 9, write_down(&v, &m);
	expect_refusal(&m, &v, "token_type has 9 for token 3, expected 1 to 6");
	begin(&m, &v, false), add_merge(&v, "q", "z"), write_down(&v, &m);
	expect_refusal(&m, &v, "merges has \"q z\" at 3, whose parts or whole are not in");
	begin(&m, &v, false), add_merge(&v, "qz", ""), write_down(&v, &m);
	expect_refusal(&m, &v, "merges has \"qz \" at 3, expected two tokens");
	begin(&m, &v, false), add_merge(&v, "", "z"), write_down(&v, &m);
	expect_refusal(&m, &v, "merges has \" z\" at 3, expected two tokens");
	begin(&m, &v, false), write_down(&v, &m), maker_u32(&m, "tokenizer.ggml.eos_token_id", 263);
	expect_refusal(&m, &v, "eos_token_id is 263, but the vocabulary has 263 tokens");
	begin(&m, &v, false), write_down(&v, &m), maker_f32(&m, "tokenizer.ggml.bos_token_id", 1);
	expect_refusal(&m, &v, "bos_token_id is f32, expected a whole number");
	begin(&m, &v, false), write_down(&v, &m), maker_u32(&m, "tokenizer.chat_template", 1);
	expect_refusal(&m, &v, "chat_template is u32, expected string");
	memset(large, 'l', TOKENIZER_PIECE_MAX + 1);
	large[TOKENIZER_PIECE_MAX + 1] = '\0';
	begin(&m, &v, false), add_token(&v, large, 1, 0), write_down(&v, &m);
	expect_refusal(&m, &v, "a text of 4097 bytes for token 263, expected at most 4096");
	begin(&m, &v, true), v.scores[5] = NAN, write_down(&v, &m);
	expect_refusal(&m, &v, "scores has NaN for token 5");
	begin(&m, &v, true), add_token(&v, "<0xG0>", 6, 0), write_down(&v, &m);
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

/* A vocabulary without tokens for most bytes: nothing fails, the unknown token stands in. */
START_TEST(bytes_without_tokens)
{
	const int32_t with_unknown[] = { 0, 1, 0 }, without[] = { 1 };
	struct vocabulary v = { .model = "gpt2", .pre = "smollm" };
	struct gguf_maker m;
	struct subject s;

	add_token(&v, "<unk>", 2, 0);
	add_token(&v, "a", 1, 0);
	maker_init(&m);
	write_down(&v, &m);
	maker_u32(&m, "tokenizer.ggml.unknown_token_id", 0);
	s = need_subject(&m);
	expect_ids(s.t, "xay", 3, 0, with_unknown, 3, "unknown");
	drop(&s);
	maker_init(&m);
	write_down(&v, &m);
	s = need_subject(&m);
	expect_ids(s.t, "xay", 3, 0, without, 1, "without");
	drop(&s);
	v.model = "llama";
	maker_init(&m);
	write_down(&v, &m);
	s = need_subject(&m);
	expect_ids(s.t, "ay", 2, 0, (const int32_t[]){ 0, 1, 0 }, 3, "sentencepiece");
	drop(&s);
	forget(&v);
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
	Suite *suite = suite_create("tokenizer");
	TCase *tc = tcase_create("tokenizer");
	SRunner *runner;
	int failed;

	tcase_add_test(tc, equal_to_other_tokenizers);
	tcase_add_test(tc, control_tokens_only_on_demand);
	tcase_add_test(tc, sentencepiece_control_tokens_are_not_spelled_by_merging);
	tcase_add_test(tc, bytes_that_are_no_text);
	tcase_add_test(tc, more_ids_than_room);
	tcase_add_test(tc, pieces_and_facts);
	tcase_add_test(tc, a_text_without_a_space);
	tcase_add_test(tc, a_text_of_combining_marks);
	tcase_add_test(tc, vocabularies_that_lie);
	tcase_add_test(tc, bytes_without_tokens);
	tcase_add_test(tc, published_vectors);
	tcase_set_timeout(tc, 60);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
