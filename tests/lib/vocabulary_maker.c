/* vocabulary_maker.c - see the header. */
#include "tests/lib/vocabulary_maker.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void vocabulary_add_token(struct vocabulary *v, const char *text, int32_t type, float score)
{
	if (v->n >= VOCABULARY_ROOM || !(v->texts[v->n] = strdup(text)))
		abort();
	v->types[v->n] = type;
	v->scores[v->n++] = score;
}

void vocabulary_add_merge(struct vocabulary *v, const char *left, const char *right)
{
	if (v->n_merges >= VOCABULARY_ROOM ||
	    asprintf(&v->merges[v->n_merges++], "%s %s", left, right) < 0)
		abort();
}

void vocabulary_forget(struct vocabulary *v)
{
	for (uint64_t i = 0; i < v->n; i++)
		free(v->texts[i]);
	for (uint64_t i = 0; i < v->n_merges; i++)
		free(v->merges[i]);
	*v = (struct vocabulary){ 0 };
}

void vocabulary_write(const struct vocabulary *v, struct gguf_maker *m)
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

int subject_try(struct gguf_maker *m, struct subject *ret_subject, char err[512])
{
	size_t size;
	int rc;

	ret_subject->file = maker_file(m, &size);
	maker_free(m);
	err[0] = '\0';
	rc = gguf_open_memory(ret_subject->file, size, "made", &ret_subject->g, err, 512);
	if (rc) {
		fprintf(stderr, "%s\n", err);
		abort();
	}
	rc = tokenizer_new(ret_subject->g, &ret_subject->t, err, 512);
	if (rc) {
		gguf_close(ret_subject->g);
		free(ret_subject->file);
	}
	return rc;
}

struct subject subject_need(struct gguf_maker *m)
{
	struct subject s;
	char err[512];

	if (subject_try(m, &s, err)) {
		fprintf(stderr, "%s\n", err);
		abort();
	}
	return s;
}

void subject_drop(struct subject *s)
{
	tokenizer_free(s->t);
	gguf_close(s->g);
	free(s->file);
}

/* The bytes as tokens 0..255 in GPT-2's spelling, some words, control tokens. */
void vocabulary_small_bpe(struct vocabulary *v)
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
		vocabulary_add_token(v, text, 1, 0);
	}
	vocabulary_add_token(v, "<|im_start|>", 3, 0);
	vocabulary_add_token(v, "<|im_end|>", 3, 0);
	vocabulary_add_token(v, "<tool>", 4, 0);
	vocabulary_add_token(v, "ab", 1, 0);
	vocabulary_add_token(v, "aa", 1, 0);
	vocabulary_add_token(v, "aaaa", 1, 0);
	vocabulary_add_token(v, "[PAD1]", 5, 0);
	vocabulary_add_merge(v, "a", "b");
	vocabulary_add_merge(v, "a", "a");
	vocabulary_add_merge(v, "aa", "aa");
}

/* Bytes as <0x00>.., then some characters and words with scores. */
void vocabulary_small_spm(struct vocabulary *v)
{
	*v = (struct vocabulary){ .model = "llama" };
	vocabulary_add_token(v, "<unk>", 2, 0);
	vocabulary_add_token(v, "<s>", 3, 0);
	vocabulary_add_token(v, "</s>", 3, 0);
	for (unsigned b = 0; b < 256; b++) {
		char text[8];

		snprintf(text, sizeof text, "<0x%02X>", b);
		vocabulary_add_token(v, text, 6, 0);
	}
	vocabulary_add_token(v, "\xe2\x96\x81", 1, -10);
	vocabulary_add_token(v, "a", 1, -11);
	vocabulary_add_token(v, "b", 1, -12);
	vocabulary_add_token(v, "ab", 1, -2);
	vocabulary_add_token(v, "\xe2\x96\x81" "a", 1, -1);
	vocabulary_add_token(v, "s", 1, -13);
	vocabulary_add_token(v, "<", 1, -14);
	vocabulary_add_token(v, ">", 1, -15);
	vocabulary_add_token(v, "<s", 1, -3);
}
