/* tokenizer_parts.h - what a tokenizer is made of; for the tokenizer_*.c files only.
 *
 *   tokenizer.c         the vocabulary: load, check, look up, pieces
 *   tokenizer_encode.c  text in: repair UTF-8, cut out special tokens, hand the rest to its family
 *   tokenizer_split.c   pre-tokenizers: regular expressions that cut text into words
 *   tokenizer_bpe.c     byte-level BPE of one word
 *   tokenizer_spm.c     SentencePiece BPE of one stretch of text */
#ifndef ENGINE_TOKENIZER_PARTS_H
#define ENGINE_TOKENIZER_PARTS_H

#include "engine/gguf.h"
#include "engine/tokenizer.h"

/* Values of tokenizer.ggml.token_type. */
enum token_type {
	TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER_DEFINED = 4,
	TOKEN_UNUSED = 5, TOKEN_BYTE = 6,
};

struct token {
	const char *text;              /* (len) in the file's mapping, as the file spells it */
	uint16_t len;                  /* 0 .. TOKENIZER_PIECE_MAX */
	uint8_t type;                  /* enum token_type */
	bool is_end;
};

/* Two neighbouring tokens that BPE may join. */
struct merge {
	uint64_t pair;                 /* left id << 32 | right id; MERGE_NONE: the slot is empty */
	uint32_t rank;                 /* lower joins first */
	int32_t joined;                /* id of the token they become */
};
#define MERGE_NONE UINT64_MAX

struct splitter;

struct tokenizer {
	const struct gguf *file;
	struct token *tokens;          /* (n_tokens) */
	uint32_t n_tokens;
	int32_t *slots; /* (slot_mask + 1) open-addressing table text -> id, -1 empty */
	uint32_t slot_mask;
	uint64_t seed; /* of both hash tables, so that no file can be made to collide */
	int32_t *specials;             /* (n_specials) control and user-defined tokens by text */
	uint32_t n_specials;
	bool special_first[256];       /* bytes that a special token begins with */
	int32_t byte_ids[256];         /* id of the token for one byte; -1 if there is none */
	int32_t bos, eos, eot, unknown;
	bool is_spm, adds_bos, adds_space;
	uint32_t longest;              /* bytes of the longest token text */
	struct gguf_string chat_template;
	/* byte-level BPE */
	struct splitter *splitter;
	struct merge *merges;          /* (merge_mask + 1) open addressing */
	uint32_t merge_mask;
	bool ignores_merges;           /* a word that is a token as a whole is that token */
	bool normalizes;               /* NFC first */
	/* SentencePiece */
	struct gguf_array scores;      /* (n_tokens) f32 in the mapping, none NaN */
};

/* Ids collected so far; n counts on when they no longer fit. */
struct ids {
	int32_t *ids;
	size_t max, n;
};

static inline void ids_add(struct ids *out, int32_t id)
{
	if (out->n < out->max)
		out->ids[out->n] = id;
	out->n++;
}

/* Id of the token with this text, -1 if there is none. */
int32_t tokenizer_lookup(const struct tokenizer *t, const char *text, size_t len);

/* GPT-2's spelling of bytes: bytes that print stand for themselves, the others for U+0100 on.
 * byte_spell() writes 1 or 2 bytes of UTF-8 and returns how many; byte_unspell() reads one
 * character at text and returns its byte and length, or false if it spells none. */
unsigned byte_spell(uint8_t byte, char ret_text[2]);
bool byte_unspell(const char *text, size_t len, uint8_t *ret_byte, unsigned *ret_len);

/* tokenizer_bpe.c.  load: 0 or -errno with a sentence. */
int bpe_load(struct tokenizer *t, char *err, size_t errlen);
int bpe_encode(const struct tokenizer *t, const char *text, size_t len, struct ids *out);

/* tokenizer_spm.c */
int spm_load(struct tokenizer *t, char *err, size_t errlen);
int spm_encode(const struct tokenizer *t, const char *text, size_t len, bool add_space,
	       struct ids *out);

/* tokenizer_split.c.  The visitor gets the words from left to right, none empty, together the whole
 * text; what it returns other than 0 ends the walk and is returned. */
typedef int (*word_visitor)(void *context, const char *word, size_t len);
int splitter_new(struct tokenizer *t, struct gguf_string pre, char *err, size_t errlen);
void splitter_free(struct splitter *s);
int splitter_walk(const struct splitter *s, const char *text, size_t len, word_visitor visit,
		  void *context);

#endif
