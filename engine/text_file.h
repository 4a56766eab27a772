/* text_file.h - the two kinds of input file of --eval, as token ids. */
#ifndef ENGINE_TEXT_FILE_H
#define ENGINE_TEXT_FILE_H

#include <stddef.h>
#include <stdint.h>
#include "engine/tokenizer.h"

/* Decimal ids, separated by white space, commas or brackets (so a JSON array is read too).
 *
 * ret_tokens  (*ret_n) owned by the caller, free() it; untouched on failure
 * err         one sentence naming the file and the place
 * Returns     0 or -errno; -EINVAL for an id of n_vocab or more, or anything that is no number */
int text_file_tokens(const char *path, uint32_t n_vocab, int32_t **ret_tokens, size_t *ret_n,
		     char *err, size_t errlen);

/* A text, tokenised whole; the BOS token first where the vocabulary asks for it. */
int text_file_encode(const char *path, const struct tokenizer *t, int32_t **ret_tokens,
		     size_t *ret_n, char *err, size_t errlen);

#endif
