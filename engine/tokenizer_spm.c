/* tokenizer_spm.c - SentencePiece BPE: characters join, the pair with the best score first.
 *
 * Owns nothing between calls.  Spaces are spelled U+2581; a character that is no token becomes the
 * tokens of its bytes, or the unknown token where the file has none for a byte.  Only ordinary and
 * user-defined tokens are made from text: control tokens never, so that no text can forge them.
 *
 * As in tokenizer_bpe.c the heap holds stale entries; one is valid while its two symbols still have
 * the length together that it was made for.  A stretch of n characters costs O(n log n). */
#include "engine/tokenizer_parts.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

struct symbol {
	uint32_t start, len;           /* bytes of the spelled text; len 0: joined to the left */
	uint32_t previous, next;       /* index, NONE at the ends */
};

struct join {
	float score;
	uint32_t left, right;          /* indices of symbols */
	uint32_t len;                  /* bytes of both */
};

struct stretch {
	const struct tokenizer *t;
	char *text;                    /* spelled */
	struct symbol *symbols;        /* (n) */
	struct join *heap;             /* (2 * n), the first to join on top */
	uint32_t n;
	size_t n_heap;
};

static float score_of(const struct tokenizer *t, int32_t id)
{
	float score;

	memcpy(&score, t->scores.data + (size_t)id * sizeof score, sizeof score);
	return score;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 :
	       c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int spm_load(struct tokenizer *t, char *err, size_t errlen)
{
	int rc = gguf_get_array(t->file, "tokenizer.ggml.scores", GGUF_F32, &t->scores, err,
				errlen);

	if (rc == GGUF_E_ABSENT)
		return gguf_error(t->file, err, errlen, "metadata has no tokenizer.ggml.scores; "
				  "SentencePiece needs them");
	if (rc)
		return rc;
	if (t->scores.n != t->n_tokens)
		return gguf_error(t->file, err, errlen,
				  "tokenizer.ggml.scores has %llu elements, expected %u as "
				  "tokenizer.ggml.tokens has",
				  (unsigned long long)t->scores.n, t->n_tokens);
	memset(t->byte_ids, 0xff, sizeof t->byte_ids);
	for (uint32_t id = 0; id < t->n_tokens; id++) {
		const struct token *token = &t->tokens[id];
		int high, low;

		if (isnan(score_of(t, (int32_t)id)))
			return gguf_error(t->file, err, errlen,
					  "tokenizer.ggml.scores has NaN for token %u", id);
		if (token->type != TOKEN_BYTE)
			continue;
		if (token->len == 6 && !memcmp(token->text, "<0x", 3) && token->text[5] == '>' &&
		    (high = hex_digit(token->text[3])) >= 0 &&
		    (low = hex_digit(token->text[4])) >= 0)
			t->byte_ids[high << 4 | low] = (int32_t)id;
		else
			return gguf_error(t->file, err, errlen,
					  "token %u is a byte by its type, but its text is not of "
					  "the form <0x1F>",
					  id);
	}
	/* Files of this family that name no ids mean these. */
	if (!gguf_has(t->file, "tokenizer.ggml.bos_token_id"))
		t->bos = tokenizer_find(t, "<s>");
	if (!gguf_has(t->file, "tokenizer.ggml.eos_token_id")) {
		t->eos = tokenizer_find(t, "</s>");
		if (t->eos >= 0)
			t->tokens[t->eos].is_end = true;
	}
	if (!gguf_has(t->file, "tokenizer.ggml.unknown_token_id"))
		t->unknown = tokenizer_find(t, "<unk>");
	return 0;
}

/* Better score first; of equals the one further left. */
static bool goes_first(const struct join *a, const struct join *b)
{
	return a->score != b->score ? a->score > b->score : a->left < b->left;
}

static void heap_push(struct stretch *s, struct join join)
{
	size_t at = s->n_heap++;

	while (at) {
		size_t parent = (at - 1) / 2;

		if (!goes_first(&join, &s->heap[parent]))
			break;
		s->heap[at] = s->heap[parent];
		at = parent;
	}
	s->heap[at] = join;
}

static struct join heap_pop(struct stretch *s)
{
	struct join top = s->heap[0], last = s->heap[--s->n_heap];
	size_t at = 0;

	for (;;) {
		size_t child = 2 * at + 1;

		if (child >= s->n_heap)
			break;
		if (child + 1 < s->n_heap && goes_first(&s->heap[child + 1], &s->heap[child]))
			child++;
		if (!goes_first(&s->heap[child], &last))
			break;
		s->heap[at] = s->heap[child];
		at = child;
	}
	s->heap[at] = last;
	return top;
}

/* The ordinary or user-defined token with this text, -1 if there is none. */
static int32_t text_token(const struct stretch *s, uint32_t start, uint32_t len)
{
	int32_t id = tokenizer_lookup(s->t, s->text + start, len);

	if (id < 0 || (s->t->tokens[id].type != TOKEN_NORMAL &&
		       s->t->tokens[id].type != TOKEN_USER_DEFINED))
		return -1;
	return id;
}

static void offer(struct stretch *s, uint32_t left, uint32_t right)
{
	uint32_t len;
	int32_t id;

	if (left == NONE || right == NONE)
		return;
	len = s->symbols[left].len + s->symbols[right].len;
	id = text_token(s, s->symbols[left].start, len);
	if (id >= 0)
		heap_push(s, (struct join){ score_of(s->t, id), left, right, len });
}

static void join_all(struct stretch *s)
{
	while (s->n_heap) {
		struct join j = heap_pop(s);
		struct symbol *left = &s->symbols[j.left], *right = &s->symbols[j.right];

		if (!left->len || !right->len || left->len + right->len != j.len)
			continue;
		left->len = j.len;
		left->next = right->next;
		right->len = 0;
		if (right->next != NONE)
			s->symbols[right->next].previous = j.left;
		offer(s, left->previous, j.left);
		offer(s, j.left, left->next);
	}
}

/* Spell text into s->text and cut it into characters. */
static void spell(struct stretch *s, const char *text, size_t len, bool add_space)
{
	uint32_t at = 0;

	for (size_t i = 0; i < len + add_space; i++) {
		char c = add_space ? i ? text[i - 1] : ' ' : text[i];
		uint32_t start = at;

		if (c == ' ') {
			memcpy(s->text + at, "\xe2\x96\x81", 3);
			at += 3;
		} else {
			s->text[at++] = c;
		}
		if (((uint8_t)c & 0xc0) == 0x80) /* goes on: the text is well-formed */
			s->symbols[s->n - 1].len++;
		else
			s->symbols[s->n++] = (struct symbol){ start, at - start, 0, 0 };
	}
	for (uint32_t i = 0; i < s->n; i++) {
		s->symbols[i].previous = i ? i - 1 : NONE;
		s->symbols[i].next = i + 1 < s->n ? i + 1 : NONE;
	}
}

static void put_symbol(const struct stretch *s, const struct symbol *symbol, struct ids *out)
{
	int32_t id = text_token(s, symbol->start, symbol->len);

	if (id >= 0) {
		ids_add(out, id);
		return;
	}
	for (uint32_t i = 0; i < symbol->len; i++) {
		id = s->t->byte_ids[(uint8_t)s->text[symbol->start + i]];
		if (id < 0) {
			/* one unknown for the character, not one for each byte */
			if (s->t->unknown >= 0)
				ids_add(out, s->t->unknown);
			return;
		}
		ids_add(out, id);
	}
}

int spm_encode(const struct tokenizer *t, const char *text, size_t len, bool add_space,
	       struct ids *out)
{
	struct stretch s = { .t = t };
	size_t room = len + 1;
	int rc = -ENOMEM;

	if (!len)
		return 0;
	s.text = malloc(3 * room);
	s.symbols = malloc(room * sizeof *s.symbols);
	s.heap = malloc(2 * room * sizeof *s.heap);
	if (!s.text || !s.symbols || !s.heap)
		goto out;
	spell(&s, text, len, add_space);
	for (uint32_t i = 0; i + 1 < s.n; i++)
		offer(&s, i, i + 1);
	join_all(&s);
	for (uint32_t i = 0; i != NONE; i = s.symbols[i].next)
		put_symbol(&s, &s.symbols[i], out);
	rc = 0;
out:
	free(s.text);
	free(s.symbols);
	free(s.heap);
	return rc;
}
