/* prompt.h - a request's text becomes the ids a sequence starts with.
 *
 * Raw text is the prompt as its author wrote it, control tokens and all.  Chat messages go through
 * the model's template; what people wrote in them is never taken for a control token, so that a
 * message cannot end its turn and speak as somebody else. */
#ifndef ENGINE_PROMPT_H
#define ENGINE_PROMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/tokenizer.h"

struct prompt_maker {
	const struct tokenizer *tokenizer;
	const char *template_text; /* in the file's mapping; NULL: the file has none */
	size_t template_bytes;
	char *bos, *eos;           /* texts of these tokens, or NULL */
	char **controls;           /* (n_controls) texts of control tokens */
	uint32_t n_controls;
};

int prompt_init(struct prompt_maker *p, const struct tokenizer *t);
void prompt_deinit(struct prompt_maker *p);

/* Make ids of a request's text.
 *
 * raw      the text is the prompt itself; else a JSON array of messages
 * ids      (max)
 * ret_n    ids of the whole prompt; where it is above max, only the first max were stored
 * Returns  0, or KVD_S_* with a sentence in err */
int prompt_encode(const struct prompt_maker *p, const char *text, size_t n_text, bool raw,
		  int32_t *ids, size_t max, size_t *ret_n, char *err, size_t errlen);

#endif
