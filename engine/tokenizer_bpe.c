/* tokenizer_bpe.c - byte-level BPE: a word begins as its bytes; neighbours join by rank.
 *
 * Owns the merge table (built at load) and, for one call of bpe_encode(), struct word: a list of
 * symbols linked by index and a heap of possible joins.  The heap holds stale entries: one is valid
 * only while its two symbols are still neighbours with the ids it was made for.  Each join adds at
 * most two entries, so that a word of n bytes costs O(n log n) also when it is the whole text. */
#include "engine/tokenizer_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Four times the most any published vocabulary has; also keeps the table's size in 32 bits. */
#define MERGES_MAX 2097152u
#define NONE UINT32_MAX

struct symbol {
	int32_t id; /* -1: joined to the left neighbour, or a byte without token */
	uint32_t previous, next;       /* index, NONE at the ends */
};

struct join {
	uint32_t rank, left, right;    /* indices of symbols */
	int32_t left_id, right_id, joined;
};

struct word {
	const struct tokenizer *t;
	struct ids *out;
	struct symbol *symbols;        /* (room) */
	struct join *heap;             /* (2 * room), the first to join on top */
	size_t room, n_heap;
};

static const struct merge *find_merge(const struct tokenizer *t, int32_t left, int32_t right)
{
	uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
	uint32_t at = (uint32_t)XXH3_64bits_withSeed(&pair, sizeof pair, t->seed) & t->merge_mask;

	while (t->merges[at].pair != pair && t->merges[at].pair != MERGE_NONE)
		at = (at + 1) & t->merge_mask;
	return &t->merges[at];
}

/* One line of tokenizer.ggml.merges: "left right".  A left part may itself begin with a space in
 * vocabularies that were not made byte-level, so the first byte is never the separator. */
static int add_merge(struct tokenizer *t, uint32_t rank, struct gguf_string line, char *err,
		     size_t errlen)
{
	char quoted[GGUF_QUOTE_BYTES], joined_text[2 * TOKENIZER_PIECE_MAX];
	const char *space = line.len > 1 ? memchr(line.text + 1, ' ', line.len - 1) : NULL;
	size_t left_len = space ? (size_t)(space - line.text) : 0,
	       right_len = line.len - left_len - 1;
	int32_t left, right, joined;
	struct merge *slot;

	if (!space || !right_len)
		return gguf_error(t->file, err, errlen,
				  "tokenizer.ggml.merges has %s at %u, expected two tokens with a "
				  "space between",
				  gguf_quote(line, quoted), rank);
	left = tokenizer_lookup(t, line.text, left_len);
	right = tokenizer_lookup(t, space + 1, right_len);
	joined = -1;
	if (left >= 0 && right >= 0) {
		memcpy(joined_text, line.text, left_len);
		memcpy(joined_text + left_len, space + 1, right_len);
		joined = tokenizer_lookup(t, joined_text, left_len + right_len);
	}
	if (joined < 0)
		return gguf_error(t->file, err, errlen,
				  "tokenizer.ggml.merges has %s at %u, whose parts or whole are "
				  "not in tokenizer.ggml.tokens",
				  gguf_quote(line, quoted), rank);
	slot = (struct merge *)(uintptr_t)find_merge(t, left, right);
	if (slot->pair == MERGE_NONE) /* of two equal lines the first, stronger one counts */
		*slot = (struct merge){ (uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank,
					joined };
	return 0;
}

int bpe_load(struct tokenizer *t, char *err, size_t errlen)
{
	struct gguf_array lines = { 0 };
	struct gguf_string line;
	uint32_t n_slots = 16;
	int rc = gguf_get_array(t->file, "tokenizer.ggml.merges", GGUF_STRING, &lines, err, errlen);

	if (rc == GGUF_E_ABSENT)
		return gguf_error(t->file, err, errlen,
				  "metadata has no tokenizer.ggml.merges; byte-level BPE needs "
				  "them");
	if (rc)
		return rc;
	if (lines.n > MERGES_MAX)
		return gguf_error(t->file, err, errlen,
				  "tokenizer.ggml.merges has %llu merges, at most %u are supported",
				  (unsigned long long)lines.n, MERGES_MAX);
	while (n_slots < lines.n + lines.n / 2)
		n_slots *= 2;
	t->merges = malloc(n_slots * sizeof *t->merges);
	if (!t->merges)
		return -ENOMEM;
	memset(t->merges, 0xff, n_slots * sizeof *t->merges); /* MERGE_NONE */
	t->merge_mask = n_slots - 1;
	for (uint32_t rank = 0; gguf_next_string(&lines, &line); rank++) {
		rc = add_merge(t, rank, line, err, errlen);
		if (rc)
			return rc;
	}
	for (unsigned b = 0; b < 256; b++) {
		char text[2];
		unsigned len = byte_spell((uint8_t)b, text);

		t->byte_ids[b] = tokenizer_lookup(t, text, len);
	}
	return 0;
}

/* Lower rank first; of equals the one further left. */
static bool goes_first(const struct join *a, const struct join *b)
{
	return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void heap_push(struct word *w, struct join join)
{
	size_t at = w->n_heap++;

	while (at) {
		size_t parent = (at - 1) / 2;

		if (!goes_first(&join, &w->heap[parent]))
			break;
		w->heap[at] = w->heap[parent];
		at = parent;
	}
	w->heap[at] = join;
}

static struct join heap_pop(struct word *w)
{
	struct join top = w->heap[0], last = w->heap[--w->n_heap];
	size_t at = 0;

	for (;;) {
		size_t child = 2 * at + 1;

		if (child >= w->n_heap)
			break;
		if (child + 1 < w->n_heap && goes_first(&w->heap[child + 1], &w->heap[child]))
			child++;
		if (!goes_first(&w->heap[child], &last))
			break;
		w->heap[at] = w->heap[child];
		at = child;
	}
	w->heap[at] = last;
	return top;
}

static void offer(struct word *w, uint32_t left, uint32_t right)
{
	const struct merge *merge;
	int32_t left_id, right_id;

	if (left == NONE || right == NONE)
		return;
	left_id = w->symbols[left].id;
	right_id = w->symbols[right].id;
	if (left_id < 0 || right_id < 0)
		return;
	merge = find_merge(w->t, left_id, right_id);
	if (merge->pair != MERGE_NONE)
		heap_push(w, (struct join){ merge->rank, left, right, left_id, right_id,
					    merge->joined });
}

static int make_room(struct word *w, size_t n)
{
	if (n <= w->room)
		return 0;
	free(w->symbols);
	free(w->heap);
	n = n < 256 ? 256 : n;
	w->symbols = malloc(n * sizeof *w->symbols);
	w->heap = malloc(2 * n * sizeof *w->heap);
	w->room = w->symbols && w->heap ? n : 0;
	return w->room ? 0 : -ENOMEM;
}

static void join_all(struct word *w)
{
	while (w->n_heap) {
		struct join j = heap_pop(w);
		struct symbol *left = &w->symbols[j.left], *right = &w->symbols[j.right];

		if (left->id != j.left_id || right->id != j.right_id || left->next != j.right)
			continue;
		left->id = j.joined;
		left->next = right->next;
		right->id = -1;
		if (right->next != NONE)
			w->symbols[right->next].previous = j.left;
		offer(w, left->previous, j.left);
		offer(w, j.left, left->next);
	}
}

/* The whole word as one token, as the file spells it; -1 if it is none. */
static int32_t whole_token(const struct tokenizer *t, const char *text, size_t len)
{
	char spelled[2 * TOKENIZER_PIECE_MAX];
	size_t n = 0;
	int32_t id;

	if (len > TOKENIZER_PIECE_MAX)
		return -1;
	for (size_t i = 0; i < len; i++)
		n += byte_spell((uint8_t)text[i], spelled + n);
	id = tokenizer_lookup(t, spelled, n);
	return id >= 0 && t->tokens[id].type == TOKEN_NORMAL ? id : -1;
}

/* Bytes that no token stands for become the unknown token where there is one, else nothing. */
static int encode_word(void *context, const char *text, size_t len)
{
	struct word *w = context;
	const struct tokenizer *t = w->t;
	int32_t whole = t->ignores_merges ? whole_token(t, text, len) : -1;

	if (whole >= 0) {
		ids_add(w->out, whole);
		return 0;
	}
	if (make_room(w, len))
		return -ENOMEM;
	for (uint32_t i = 0; i < len; i++)
		w->symbols[i] = (struct symbol){ t->byte_ids[(uint8_t)text[i]], i ? i - 1 : NONE,
						 i + 1 < len ? i + 1 : NONE };
	w->n_heap = 0;
	for (uint32_t i = 0; i + 1 < len; i++)
		offer(w, i, i + 1);
	join_all(w);
	for (uint32_t i = 0; i != NONE; i = w->symbols[i].next) {
		int32_t id = w->symbols[i].id;

		if (id < 0)
			id = t->unknown;
		if (id >= 0)
			ids_add(w->out, id);
	}
	return 0;
}

int bpe_encode(const struct tokenizer *t, const char *text, size_t len, struct ids *out)
{
	struct word w = { .t = t, .out = out };
	int rc = splitter_walk(t->splitter, text, len, encode_word, &w);

	free(w.symbols);
	free(w.heap);
	return rc;
}
