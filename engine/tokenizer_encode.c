/* tokenizer_encode.c - one text to ids: repair, cut out special tokens, encode what lies between.
 *
 * Owns the order of the steps, which is that of the models' own tokenizers: special tokens are
 * found in the text as given, longest first at each place; only then is the rest normalized and
 * encoded, piece by piece.  User-defined tokens are ordinary text by the format's definition and
 * are always found; control tokens only on demand (TOKENIZER_PARSE_SPECIAL).
 *
 * All memory is the call's own; runs on any thread. */
#include "engine/tokenizer.h"
#include "engine/tokenizer_parts.h"
#include "engine/utf8_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Normalization sorts a run of combining marks by insertion: quadratic in the run.  Text in use has
 * fewer than 10 in a row (Unicode's stream-safe format allows 30); a longer run than this is no
 * text, and is left as it is. */
#define MARKS_MAX 256u

/* The longest special token that text begins with; -1 if it begins with none. */
static int32_t special_at(const struct tokenizer *t, const char *text, size_t len,
			  bool parse_special)
{
	uint32_t low = 0, high = t->n_specials;
	int32_t best = -1;

	if (!t->special_first[(uint8_t)text[0]])
		return -1;
	/* [low, high) are the tokens that agree with text in its first depth bytes. */
	for (size_t depth = 0; depth < len && low < high; depth++) {
		uint8_t byte = (uint8_t)text[depth];
		uint32_t from = low, to = high;

		while (from < to) { /* first token whose byte here is not below */
			uint32_t middle = from + (to - from) / 2;
			const struct token *token = &t->tokens[t->specials[middle]];

			if (token->len <= depth || (uint8_t)token->text[depth] < byte)
				from = middle + 1;
			else
				to = middle;
		}
		low = from;
		to = high;
		while (from < to) { /* first token whose byte here is above */
			uint32_t middle = from + (to - from) / 2;

			if ((uint8_t)t->tokens[t->specials[middle]].text[depth] <= byte)
				from = middle + 1;
			else
				to = middle;
		}
		high = from;
		/* a token that ends here sorts before all that go on */
		if (low < high && t->tokens[t->specials[low]].len == depth + 1 &&
		    (parse_special || t->tokens[t->specials[low]].type == TOKEN_USER_DEFINED))
			best = t->specials[low];
	}
	return best;
}

static bool is_mark(const char *text)
{
	utf8proc_int32_t c;

	/* well-formed by contract, and followed by a NUL */
	utf8proc_iterate((const utf8proc_uint8_t *)text, -1, &c);
	return utf8proc_get_property(c)->combining_class != 0;
}

/* Would NFC change the text, as far as a glance can tell?  Also false if it would take too long. */
static bool wants_normalizing(const char *text, size_t len)
{
	uint32_t marks = 0;
	bool wants = false;

	for (size_t i = 0; i < len; i++) {
		uint8_t lead = (uint8_t)text[i];

		if (lead < 0x80) {
			marks = 0;
			continue;
		}
		wants = true;
		if ((lead & 0xc0) == 0x80)
			continue;
		marks = lead >= 0xcc && is_mark(text + i) ? marks + 1 : 0;
		if (marks > MARKS_MAX)
			return false;
	}
	return wants;
}

/* Encode a stretch without special tokens.  text is followed by a NUL within its buffer. */
static int encode_plain(const struct tokenizer *t, const char *text, size_t len, struct ids *out)
{
	utf8proc_uint8_t *normal = NULL;
	utf8proc_ssize_t n;
	int rc;

	if (!len)
		return 0;
	if (t->is_spm)
		return spm_encode(t, text, len, t->adds_space, out);
	if (!t->normalizes || !wants_normalizing(text, len))
		return bpe_encode(t, text, len, out);
	n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)len, &normal,
			 UTF8PROC_STABLE | UTF8PROC_COMPOSE);
	if (n < 0)
		return -ENOMEM; /* the text is well-formed: nothing else can fail */
	rc = bpe_encode(t, (const char *)normal, (size_t)n, out);
	free(normal);
	return rc;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
		     int32_t *ids, size_t max, size_t *ret_n)
{
	struct ids out = { .ids = ids, .max = max };
	struct utf8_stream repair = UTF8_STREAM_INIT;
	size_t n, from = 0;
	char *clean;
	int rc = 0;

	if (len > TOKENIZER_TEXT_MAX)
		return -EMSGSIZE;
	clean = malloc(UTF8_STREAM_ROOM(len) + 1);
	if (!clean)
		return -ENOMEM;
	n = utf8_stream_push(&repair, text, len, clean);
	n += utf8_stream_end(&repair, clean + n);
	clean[n] = '\0';
	if ((flags & TOKENIZER_ADD_BOS) && t->bos >= 0)
		ids_add(&out, t->bos);
	for (size_t at = 0; at < n && !rc;) {
		int32_t id = special_at(t, clean + at, n - at, flags & TOKENIZER_PARSE_SPECIAL);

		if (id < 0) {
			at++;
			continue;
		}
		rc = encode_plain(t, clean + from, at - from, &out);
		ids_add(&out, id);
		at += t->tokens[id].len;
		from = at;
	}
	if (!rc)
		rc = encode_plain(t, clean + from, n - from, &out);
	free(clean);
	if (rc)
		return rc;
	*ret_n = out.n;
	return out.n > max ? -ENOBUFS : 0;
}
