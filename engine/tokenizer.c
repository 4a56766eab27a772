/* tokenizer.c - the vocabulary of a model file: loaded, checked, looked up both ways.
 *
 * Owns struct tokenizer.  Token texts are not copied: they lie in the file's mapping.  After
 * tokenizer_new() nothing changes any more, so that threads share a tokenizer without a lock.
 *
 * What a file may not do: have more tokens than TOKENS_MAX, a text above TOKENIZER_PIECE_MAX, a
 * type outside 1..6, arrays of different lengths, or special ids outside the vocabulary. */
#include "engine/tokenizer.h"
#include "engine/tokenizer_parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <utf8proc.h>
#include <xxhash.h>

#define TOKENS_MAX 1048576u        /* four times the largest published vocabulary */

/* Texts that end a turn or a text in published models, besides what the file names as EOS and EOT.
 * A token with such a text counts only where the file says that it is no ordinary text. */
static const char *const end_texts[] = {
	"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
	"<|eom_id|>", "<|endofturn|>", "<EOT>", "</s>", "<eos>",
};

#define FAIL(t, ...) gguf_error((t)->file, err, errlen, __VA_ARGS__)
#define N_ITEMS(array) (sizeof(array) / sizeof((array)[0]))

static bool prints_as_itself(uint32_t c)
{
	return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

unsigned byte_spell(uint8_t byte, char ret_text[2])
{
	uint32_t c = byte;

	/* Bytes that don't print are numbered from U+0100 in ascending order: 0x00-0x20 are the
	 * first 33, 0x7f-0xa0 the next 34, 0xad the last. */
	if (!prints_as_itself(c))
		c = 0x100 + (c <= 0x20 ? c : c <= 0xa0 ? c - 0x7f + 33 : 67);
	if (c < 0x80) {
		ret_text[0] = (char)c;
		return 1;
	}
	ret_text[0] = (char)(0xc0 | c >> 6);
	ret_text[1] = (char)(0x80 | (c & 0x3f));
	return 2;
}

bool byte_unspell(const char *text, size_t len, uint8_t *ret_byte, unsigned *ret_len)
{
	const uint8_t *b = (const uint8_t *)text;
	uint32_t c;

	if (!len)
		return false;
	c = b[0];
	*ret_len = 1;
	if (c >= 0x80) {
		if (len < 2 || (c & 0xe0) != 0xc0 || (b[1] & 0xc0) != 0x80)
			return false;
		c = (c & 0x1f) << 6 | (b[1] & 0x3f);
		*ret_len = 2;
	}
	if (c < 0x100 && !prints_as_itself(c))
		return false;
	if (c > 0x143)
		return false;
	if (c >= 0x100) {
		c -= 0x100;
		c = c <= 0x20 ? c : c < 67 ? c - 33 + 0x7f : 0xad;
	}
	*ret_byte = (uint8_t)c;
	return true;
}

static uint32_t slot_of(const struct tokenizer *t, const char *text, size_t len)
{
	return (uint32_t)XXH3_64bits_withSeed(text, len, t->seed) & t->slot_mask;
}

int32_t tokenizer_lookup(const struct tokenizer *t, const char *text, size_t len)
{
	if (!len || len > t->longest)
		return -1;
	for (uint32_t at = slot_of(t, text, len);; at = (at + 1) & t->slot_mask) {
		int32_t id = t->slots[at];

		if (id < 0)
			return -1;
		if (t->tokens[id].len == len && !memcmp(t->tokens[id].text, text, len))
			return id;
	}
}

/* Of several tokens with one text the first is found; empty ones never. */
static int build_table(struct tokenizer *t)
{
	uint32_t n_slots = 16;

	while (n_slots < 2 * t->n_tokens)
		n_slots *= 2;
	t->slots = malloc(n_slots * sizeof *t->slots);
	if (!t->slots)
		return -ENOMEM;
	memset(t->slots, 0xff, n_slots * sizeof *t->slots);
	t->slot_mask = n_slots - 1;
	for (uint32_t id = 0; id < t->n_tokens; id++) {
		const struct token *token = &t->tokens[id];
		uint32_t at;

		if (!token->len || tokenizer_lookup(t, token->text, token->len) >= 0)
			continue;
		at = slot_of(t, token->text, token->len);
		while (t->slots[at] >= 0)
			at = (at + 1) & t->slot_mask;
		t->slots[at] = (int32_t)id;
	}
	return 0;
}

static int load_tokens(struct tokenizer *t, char *err, size_t errlen)
{
	struct gguf_array texts, types = { 0 };
	struct gguf_string text;
	int rc = gguf_get_array(t->file, "tokenizer.ggml.tokens", GGUF_STRING, &texts, err, errlen);

	if (rc == GGUF_E_ABSENT)
		return FAIL(t, "metadata has no tokenizer.ggml.tokens; the file holds no "
			       "vocabulary");
	if (!rc)
		rc = gguf_get_array(t->file, "tokenizer.ggml.token_type", GGUF_I32, &types, err,
				    errlen);
	if (rc < 0)
		return rc;
	if (!texts.n || texts.n > TOKENS_MAX)
		return FAIL(t, "tokenizer.ggml.tokens has %llu tokens, expected 1 to %u",
			    (unsigned long long)texts.n, TOKENS_MAX);
	if (types.data && types.n != texts.n)
		return FAIL(t, "tokenizer.ggml.token_type has %llu elements, expected %llu as "
			    "tokenizer.ggml.tokens has", (unsigned long long)types.n,
			    (unsigned long long)texts.n);
	t->n_tokens = (uint32_t)texts.n;
	t->tokens = calloc(t->n_tokens, sizeof *t->tokens);
	if (!t->tokens)
		return -ENOMEM;
	for (uint32_t id = 0; gguf_next_string(&texts, &text); id++) {
		int32_t type = TOKEN_NORMAL;

		if (types.data)
			memcpy(&type, types.data + id * sizeof type, sizeof type);
		if (type < TOKEN_NORMAL || type > TOKEN_BYTE)
			return FAIL(t,
				    "tokenizer.ggml.token_type has %d for token %u, expected 1 to "
				    "6",
				    type, id);
		if (text.len > TOKENIZER_PIECE_MAX)
			return FAIL(t,
				    "tokenizer.ggml.tokens has a text of %llu bytes for token %u, "
				    "expected at most %u",
				    (unsigned long long)text.len, id, TOKENIZER_PIECE_MAX);
		t->tokens[id] =
			(struct token){ text.text, (uint16_t)text.len, (uint8_t)type, false };
		if (text.len > t->longest)
			t->longest = (uint32_t)text.len;
	}
	return build_table(t);
}

static int read_id(struct tokenizer *t, const char *key, int32_t *ret_id, char *err, size_t errlen)
{
	uint32_t id = UINT32_MAX;
	int rc = gguf_get_u32(t->file, key, &id, err, errlen);

	if (rc < 0)
		return rc;
	/* All bits set is how writers say "none". */
	if (id != UINT32_MAX && id >= t->n_tokens)
		return FAIL(t, "%s is %u, but the vocabulary has %u tokens", key, id, t->n_tokens);
	*ret_id = id == UINT32_MAX ? -1 : (int32_t)id;
	return 0;
}

static int load_ids(struct tokenizer *t, char *err, size_t errlen)
{
	int32_t eom;
	int rc = read_id(t, "tokenizer.ggml.bos_token_id", &t->bos, err, errlen);

	if (!rc)
		rc = read_id(t, "tokenizer.ggml.eos_token_id", &t->eos, err, errlen);
	if (!rc)
		rc = read_id(t, "tokenizer.ggml.eot_token_id", &t->eot, err, errlen);
	if (!rc)
		rc = read_id(t, "tokenizer.ggml.eom_token_id", &eom, err, errlen);
	if (!rc)
		rc = read_id(t, "tokenizer.ggml.unknown_token_id", &t->unknown, err, errlen);
	if (rc)
		return rc;
	if (t->eos >= 0)
		t->tokens[t->eos].is_end = true;
	if (t->eot >= 0)
		t->tokens[t->eot].is_end = true;
	if (eom >= 0)
		t->tokens[eom].is_end = true;
	for (unsigned i = 0; i < N_ITEMS(end_texts); i++) {
		int32_t id = tokenizer_find(t, end_texts[i]);

		if (id >= 0 && (t->tokens[id].type == TOKEN_CONTROL ||
				t->tokens[id].type == TOKEN_USER_DEFINED))
			t->tokens[id].is_end = true;
	}
	return 0;
}

static int order_specials(const void *a, const void *b, void *context)
{
	const struct tokenizer *t = context;
	const struct token *x = &t->tokens[*(const int32_t *)a],
			   *y = &t->tokens[*(const int32_t *)b];
	int order = memcmp(x->text, y->text, x->len < y->len ? x->len : y->len);

	return order ? order : (int)x->len - (int)y->len;
}

/* Is this a token to cut out of texts?  An ill-formed one can't be: it would cut characters. */
static bool is_special(const struct tokenizer *t, uint32_t id)
{
	const struct token *token = &t->tokens[id];
	utf8proc_int32_t c;
	utf8proc_ssize_t step;

	if (token->type != TOKEN_CONTROL && token->type != TOKEN_UNKNOWN &&
	    token->type != TOKEN_USER_DEFINED)
		return false;
	for (unsigned i = 0; i < token->len; i += (unsigned)step) {
		step = utf8proc_iterate((const utf8proc_uint8_t *)token->text + i, token->len - i,
					&c);
		if (step < 1)
			return false;
	}
	/* also excludes empty texts and repeated ones */
	return tokenizer_lookup(t, token->text, token->len) == (int32_t)id;
}

/* The tokens that are cut out of a text before anything else, sorted so that the encoder can narrow
 * a range byte by byte. */
static int load_specials(struct tokenizer *t)
{
	uint32_t n = 0;

	for (uint32_t pass = 0; pass < 2; pass++) {
		for (uint32_t id = 0; id < t->n_tokens; id++) {
			if (!is_special(t, id))
				continue;
			if (!pass) {
				n++;
				continue;
			}
			t->specials[t->n_specials++] = (int32_t)id;
			t->special_first[(uint8_t)t->tokens[id].text[0]] = true;
		}
		if (!pass && !(t->specials = calloc(n ? n : 1, sizeof *t->specials)))
			return -ENOMEM;
	}
	qsort_r(t->specials, t->n_specials, sizeof *t->specials, order_specials, t);
	return 0;
}

/* The family's part, and what depends on it. */
static int load_family(struct tokenizer *t, char *err, size_t errlen)
{
	struct gguf_string model, pre = { "default", 7 };
	char quoted[GGUF_QUOTE_BYTES];
	int rc = gguf_get_string(t->file, "tokenizer.ggml.model", &model, err, errlen);

	if (rc == GGUF_E_ABSENT)
		return FAIL(t, "metadata has no tokenizer.ggml.model; the file holds no tokenizer");
	if (!rc)
		rc = gguf_get_string(t->file, "tokenizer.ggml.pre", &pre, err, errlen);
	if (rc < 0)
		return rc;
	t->is_spm = gguf_string_is(model, "llama");
	if (!t->is_spm && !gguf_string_is(model, "gpt2"))
		return FAIL(t,
			    "tokenizer.ggml.model is %s; supported are: gpt2 (byte-level BPE), "
			    "llama (SentencePiece)",
			    gguf_quote(model, quoted));
	t->adds_bos = t->adds_space = t->is_spm;
	if (t->is_spm) {
		rc = spm_load(t, err, errlen);
	} else {
		rc = splitter_new(t, pre, err, errlen);
		if (!rc)
			rc = bpe_load(t, err, errlen);
	}
	if (!rc)
		rc = gguf_get_bool(t->file, "tokenizer.ggml.add_bos_token", &t->adds_bos, err,
				   errlen);
	if (rc >= 0 && t->is_spm)
		rc = gguf_get_bool(t->file, "tokenizer.ggml.add_space_prefix", &t->adds_space, err,
				   errlen);
	if (rc >= 0)
		rc = gguf_get_string(t->file, "tokenizer.chat_template", &t->chat_template, err,
				     errlen);
	return rc < 0 ? rc : 0;
}

int tokenizer_new(const struct gguf *g, struct tokenizer **ret_tokenizer, char *err, size_t errlen)
{
	struct tokenizer *t = calloc(1, sizeof *t);
	int rc = -ENOMEM;

	if (!t)
		goto out;
	t->file = g;
	/* Without a seed the tables still work; only a hostile file could make them slow. */
	if (getrandom(&t->seed, sizeof t->seed, GRND_NONBLOCK) != sizeof t->seed)
		t->seed = 0;
	rc = load_tokens(t, err, errlen);
	if (!rc)
		rc = load_ids(t, err, errlen);
	if (!rc)
		rc = load_specials(t);
	if (!rc)
		rc = load_family(t, err, errlen);
	if (!rc)
		*ret_tokenizer = t;
out:
	if (rc)
		tokenizer_free(t);
	if (rc == -ENOMEM)
		gguf_error(g, err, errlen, "out of memory for the vocabulary");
	return rc;
}

void tokenizer_free(struct tokenizer *t)
{
	if (!t)
		return;
	splitter_free(t->splitter);
	free(t->merges);
	free(t->specials);
	free(t->slots);
	free(t->tokens);
	free(t);
}

/* Byte-level BPE: undo the spelling.  Returns bytes, or -1 if the text isn't spelled bytes. */
static int unspell_text(const struct token *token, char *ret_bytes)
{
	int n = 0;
	unsigned step;

	for (unsigned i = 0; i < token->len; i += step) {
		uint8_t byte;

		if (!byte_unspell(token->text + i, token->len - i, &byte, &step))
			return -1;
		ret_bytes[n++] = (char)byte;
	}
	return n;
}

/* SentencePiece: U+2581 is a space. */
static int unescape_text(const struct token *token, char *ret_bytes)
{
	int n = 0;

	for (unsigned i = 0; i < token->len;) {
		if (token->len - i >= 3 && !memcmp(token->text + i, "\xe2\x96\x81", 3)) {
			ret_bytes[n++] = ' ';
			i += 3;
		} else {
			ret_bytes[n++] = token->text[i++];
		}
	}
	return n;
}

int tokenizer_piece(const struct tokenizer *t, int32_t id, char *buffer, size_t max,
		    bool render_special)
{
	char bytes[TOKENIZER_PIECE_MAX];
	const struct token *token;
	int n = -1;

	if (id < 0 || (uint32_t)id >= t->n_tokens)
		return -EINVAL;
	token = &t->tokens[id];
	switch ((enum token_type)token->type) {
	case TOKEN_CONTROL:
	case TOKEN_UNKNOWN:
		n = render_special ? -1 : 0;
		break;
	case TOKEN_UNUSED:
		n = 0;
		break;
	case TOKEN_USER_DEFINED:
		break;
	case TOKEN_BYTE:
		for (unsigned b = 0; b < 256 && n < 0; b++)
			if (t->byte_ids[b] == id) {
				bytes[0] = (char)b;
				n = 1;
			}
		break;
	case TOKEN_NORMAL:
		n = t->is_spm ? unescape_text(token, bytes) : unspell_text(token, bytes);
		break;
	}
	if (n < 0) { /* as the file spells it */
		n = token->len;
		memcpy(bytes, token->text, token->len);
	}
	if ((size_t)n > max)
		return -ENOBUFS;
	memcpy(buffer, bytes, (size_t)n);
	return n;
}

uint32_t tokenizer_n_vocab(const struct tokenizer *t)
{
	return t->n_tokens;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
	return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
	return t->eos;
}

int32_t tokenizer_eot(const struct tokenizer *t)
{
	return t->eot;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
	return id >= 0 && (uint32_t)id < t->n_tokens && t->tokens[id].is_end;
}

bool tokenizer_is_control(const struct tokenizer *t, int32_t id)
{
	return id >= 0 && (uint32_t)id < t->n_tokens && t->tokens[id].type == TOKEN_CONTROL;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
	return t->adds_bos;
}

bool tokenizer_adds_space(const struct tokenizer *t)
{
	return t->adds_space;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *text)
{
	return tokenizer_lookup(t, text, strlen(text));
}

bool tokenizer_chat_template(const struct tokenizer *t, const char **ret_text, size_t *ret_len)
{
	if (!t->chat_template.text)
		return false;
	*ret_text = t->chat_template.text;
	*ret_len = t->chat_template.len;
	return true;
}
