/* canon.c - the book as a record of it sees it: its blocks without what is nobody's business.
 *
 * Two kvd that have taken the same events have the same canonical book, byte for byte.  Left out (zero): the
 * undo journal, the action queue (empty between events), the shell's region, the checker's scratch fields, the
 * keys of the tokens and of the spill file, and the tokens themselves, which the caller may have replaced by
 * something of its own.  Everything else follows from the events alone, since page identities are hashes of
 * core_tokens_word(), and that survives the replacement (core_config.tokens_mapped).  Decision 0009. */
#include "kvd/core/parts.h"

uint64_t core_tokens_word(const struct core *c, const int32_t tokens[KVD_PAGE_TOKENS])
{
	uint64_t words[KVD_PAGE_TOKENS / 2];
	memcpy(words, tokens, sizeof(words));
	return c->config.tokens_mapped ? words[0] : siphash_words(c->config.token_key, words, KVD_PAGE_TOKENS / 2);
}

/* The part of [from, from + n) that lies in the block at `offset`: *ret_at there, *ret_skip bytes of it before. */
static uint64_t overlap(uint64_t offset, uint64_t from, uint64_t n, uint64_t *ret_at, uint64_t *ret_skip)
{
	uint64_t begin = from > offset ? from : offset, end = from + n;
	if (end > offset + CORE_CANON_BLOCK)
		end = offset + CORE_CANON_BLOCK;
	if (begin >= end)
		return 0;
	*ret_at = begin - offset;
	*ret_skip = begin - from;
	return end - begin;
}

static void put(uint8_t *block, uint64_t offset, uint64_t from, const void *source, uint64_t n)
{
	uint64_t at, skip, m = overlap(offset, from, n, &at, &skip);
	if (m && source)
		memcpy(block + at, (const uint8_t *)source + skip, m);
	else if (m)
		memset(block + at, 0, m);
}

static void canon_nodes(const struct core *c, uint64_t offset, core_canon_map map, void *arg, uint8_t *block)
{
	uint64_t at = c->layout.at_nodes, end = at + ((uint64_t)c->nodes.high + 1) * sizeof(struct node);
	if (offset + CORE_CANON_BLOCK <= at || offset >= end)
		return;
	uint64_t first = offset > at ? (offset - at) / sizeof(struct node) : 0;
	for (uint64_t n = first; n <= c->nodes.high; n++) {
		uint64_t record = at + n * sizeof(struct node);
		int32_t mapped[KVD_PAGE_TOKENS];
		if (record >= offset + CORE_CANON_BLOCK)
			return;
		const struct node *node = node_at(c, (uint32_t)n);
		bool live = n && !node->next_free && node->live && map;
		if (live)
			map(arg, node->tokens, mapped);
		put(block, offset, record + offsetof(struct node, tokens), live ? mapped : NULL, sizeof(mapped));
	}
}

static void canon_tenants(const struct core *c, uint64_t offset, uint8_t *block)
{
	static const uint16_t scratch[] = {
		offsetof(struct tenant, check_rss), offsetof(struct tenant, check_held),
		offsetof(struct tenant, check_reserved), offsetof(struct tenant, check_spilled),
		offsetof(struct tenant, check_guarded), offsetof(struct tenant, check_stalled), /* two of 32 bits */
	};
	_Static_assert(offsetof(struct tenant, check_stalled_running) ==
		       offsetof(struct tenant, check_stalled) + sizeof(uint32_t), "side by side");
	for (uint32_t t = 0; t < c->n_tenants; t++)
		for (uint32_t i = 0; i < sizeof(scratch) / sizeof(scratch[0]); i++)
			put(block, offset, c->layout.at_tenants + t * sizeof(struct tenant) + scratch[i], NULL,
			    sizeof(uint64_t));
}

bool core_canon_block(const struct core *c, uint64_t offset, core_canon_map map, void *arg, uint8_t *block)
{
	const struct layout *l = &c->layout;
	uint64_t zero = 0;
	assert(offset % CORE_CANON_BLOCK == 0 && offset < l->book_bytes);
	if ((offset >= l->at_items && offset < l->at_items + (uint64_t)l->items_max * sizeof(struct item)) ||
	    (offset >= l->at_shell && offset < l->at_shell + c->config.shell_bytes) ||
	    (offset >= l->at_journal && offset < l->at_journal + l->journal_max * sizeof(uint64_t)))
		return false;
	uint64_t n = l->book_bytes - offset < CORE_CANON_BLOCK ? l->book_bytes - offset : CORE_CANON_BLOCK;
	memset(block + n, 0, CORE_CANON_BLOCK - n);
	memcpy(block, (const uint8_t *)c + offset, n);
	if (offset < sizeof(struct core)) {
		put(block, offset, offsetof(struct core, journal), NULL, sizeof(struct journal));
		put(block, offset, offsetof(struct core, config) + offsetof(struct core_config, token_key), NULL,
		    sizeof(c->config.token_key));
		put(block, offset, offsetof(struct core, config) + offsetof(struct core_config, spill_key), NULL,
		    sizeof(c->config.spill_key));
		put(block, offset, offsetof(struct core, config) + offsetof(struct core_config, tokens_mapped), NULL,
		    sizeof(c->config.tokens_mapped));
	}
	canon_nodes(c, offset, map, arg, block);
	if (offset >= l->at_tenants && offset < l->at_tenants + (uint64_t)c->n_tenants * sizeof(struct tenant))
		canon_tenants(c, offset, block);
	for (uint64_t i = 0; i < CORE_CANON_BLOCK && !zero; i += 8)
		zero |= *(const uint64_t *)(const void *)(block + i);
	return zero != 0;
}

uint64_t core_keyed_hash(const uint64_t key[2], const int32_t tokens[KVD_PAGE_TOKENS])
{
	uint64_t words[KVD_PAGE_TOKENS / 2];
	memcpy(words, tokens, sizeof(words));
	return siphash_words(key, words, KVD_PAGE_TOKENS / 2);
}

void core_canon_load(void *book, const struct core_config *config)
{
	struct core *c = book;
	memcpy(&c->config, config, sizeof(*config));
	memset(&c->journal, 0, sizeof(c->journal));
	c->items_head = c->items_tail = c->item_at = 0;
}
