/* tokenizer.h - text to token ids and back, by the vocabulary in a GGUF file.
 *
 * Two families: byte-level BPE ("gpt2" in the file; pre-tokenizers gpt-2, smollm, llama-bpe, qwen2,
 * default) and SentencePiece BPE ("llama").  Token strings stay in the file's mapping: the gguf
 * must stay open as long as the tokenizer lives.
 *
 * A tokenizer never changes after tokenizer_new(): any number of threads may use one. */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gguf;
struct tokenizer;

/* Longest text of one token that a file may have; room tokenizer_piece() never exceeds. */
#define TOKENIZER_PIECE_MAX 4096u

/* Longest text of one tokenizer_encode() call: far above any context, below 32-bit positions. */
#define TOKENIZER_TEXT_MAX (256u << 20)

/* Most ids that n bytes of text can become (each byte ill-formed or a space that SentencePiece
 * spells in three bytes, none of them in the vocabulary; spaces added after special tokens; BOS).
 */
#define TOKENIZER_IDS_ROOM(n) (4u * (n) + 4u)

enum tokenizer_flags {
	TOKENIZER_ADD_BOS = 1u, /* put the BOS token first, if the file has one */
	/* Turn the text of control tokens ("<|im_start|>") into those tokens.  Only for text that
	 * we wrote ourselves, such as a rendered chat template: with it, whoever wrote the text can
	 * end a turn or speak as the system. */
	TOKENIZER_PARSE_SPECIAL = 2u,
};

/* Build a tokenizer from a file's tokenizer.* metadata; the file needs no tensors.
 *
 * ret_tokenizer  owned by the caller, tokenizer_free() frees it; untouched on failure
 * err            one sentence naming file and field on failure; untouched on success
 * Returns        0; -EINVAL if the vocabulary is unsound or of an unsupported kind; -ENOMEM */
int tokenizer_new(const struct gguf *g, struct tokenizer **ret_tokenizer, char *err, size_t errlen);
void tokenizer_free(struct tokenizer *t);

/* Text to ids.  Bytes that are not UTF-8 count as U+FFFD, one for each ill-formed piece.  NUL is a
 * character like any other.
 *
 * text    (len) bytes
 * flags   of enum tokenizer_flags
 * ids     (max); may be NULL if max is 0
 * ret_n   number of ids of the whole text, also when they don't fit
 * Returns 0; -ENOBUFS if the text has more than max ids (the first max are stored); -EMSGSIZE above
 *         TOKENIZER_TEXT_MAX; -ENOMEM */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
		     int32_t *ids, size_t max, size_t *ret_n);

/* The bytes one token stands for; may be a part of a character (utf8_stream.h puts them together).
 * Control tokens are nothing, or their name if render_special.
 *
 * buffer  (max) bytes, not NUL-terminated
 * Returns bytes written, 0 .. TOKENIZER_PIECE_MAX; -EINVAL for an id out of range; -ENOBUFS */
int tokenizer_piece(const struct tokenizer *t, int32_t id, char *buffer, size_t max,
		    bool render_special);

uint32_t tokenizer_n_vocab(const struct tokenizer *t);

/* Ids of the file's own tokens, -1 where it has none. */
int32_t tokenizer_bos(const struct tokenizer *t);
int32_t tokenizer_eos(const struct tokenizer *t);
int32_t tokenizer_eot(const struct tokenizer *t);

/* Does this token end an answer: EOS, end of turn or message, by id or by its well-known name? */
bool tokenizer_is_end(const struct tokenizer *t, int32_t id);

/* Is this a control token: never part of what a user said. */
bool tokenizer_is_control(const struct tokenizer *t, int32_t id);

/* Does the file want BOS before a prompt (add_bos_token, else the habit of its family)? */
bool tokenizer_adds_bos(const struct tokenizer *t);

/* Does encoding put one space before the text (SentencePiece), so that the first piece of a text
 * that begins a sequence has one space more than the text? */
bool tokenizer_adds_space(const struct tokenizer *t);

/* The id of the token with exactly this text, as the file spells it (byte-level BPE spells a space
 * U+0120, SentencePiece U+2581); -1 if there is none. */
int32_t tokenizer_find(const struct tokenizer *t, const char *text);

/* The file's chat template (Jinja), in the mapping, not NUL-terminated.  False if it has none. */
bool tokenizer_chat_template(const struct tokenizer *t, const char **ret_text, size_t *ret_len);

#endif
