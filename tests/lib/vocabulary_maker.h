/* vocabulary_maker.h - small vocabularies for tests and fuzzing, and tokenizers over them.
 *
 * Aborts when memory is short or a table is full: it runs in tests only. */
#ifndef TESTS_LIB_VOCABULARY_MAKER_H
#define TESTS_LIB_VOCABULARY_MAKER_H

#include <stdint.h>
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "tests/lib/gguf_maker.h"

#define VOCABULARY_ROOM 2048u      /* tokens, and merges */

/* A vocabulary in the making; texts are owned, a test may change any field. */
struct vocabulary {
	char *texts[VOCABULARY_ROOM], *merges[VOCABULARY_ROOM];
	int32_t types[VOCABULARY_ROOM]; /* as tokenizer.ggml.token_type numbers them */
	float scores[VOCABULARY_ROOM];
	uint64_t n, n_merges;
	const char *model, *pre;       /* of tokenizer.ggml; NULL: not written */
};

void vocabulary_add_token(struct vocabulary *v, const char *text, int32_t type, float score);
void vocabulary_add_merge(struct vocabulary *v, const char *left, const char *right);

/* Free the texts and make it empty. */
void vocabulary_forget(struct vocabulary *v);

/* Append it to a file. */
void vocabulary_write(const struct vocabulary *v, struct gguf_maker *m);

/* Byte-level BPE: tokens 0..255 are the bytes 0..255, then
 * 256 <|im_start|>, 257 <|im_end|> (control), 258 <tool> (user-defined), 259 ab, 260 aa, 261 aaaa,
 * 262 [PAD1] (unused). */
void vocabulary_small_bpe(struct vocabulary *v);

/* SentencePiece: 0 <unk>, 1 <s>, 2 </s>, 3..258 the bytes, then 259 U+2581, 260 a, 261 b, 262 ab,
 * 263 U+2581 a, 264 s, 265 <, 266 >, 267 <s, which joined with > would spell the control token. */
void vocabulary_small_spm(struct vocabulary *v);

/* A tokenizer over a file made in memory. */
struct subject {
	uint8_t *file;
	struct gguf *g;
	struct tokenizer *t;
};

/* Make the file of m, which is freed, open it as "made" and build its tokenizer.  try: 0 or what
 * tokenizer_new() returned, with nothing left to free.  need: aborts with the sentence. */
int subject_try(struct gguf_maker *m, struct subject *ret_subject, char err[512]);
struct subject subject_need(struct gguf_maker *m);
void subject_drop(struct subject *s);

#endif
