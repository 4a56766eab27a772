/* book.c - the layout of the book, its lists and its record pools.
 *
 * Owns where each array lies and nothing of what it means.  A list stores record number + 1, so
 * that zeroed memory is a valid empty list; a list knows its array by its kind.  Pools hand out
 * records from a free list (the first word of a free record is the next free one) and then from a
 * high-water mark, so that untouched parts of the book never become resident. */
#include "kvd/core/book.h"

static uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

static uint32_t power_of_two_at_least(uint64_t value)
{
	uint32_t p = 1;
	while (p < value && p < 1u << 31)
		p <<= 1;
	return p;
}

/* Sizes and offsets of a configuration; false if it is impossible. */
bool book_layout(const struct core_config *g, struct layout *ret)
{
	const uint64_t least = 256u << 10, most = 1u << 30;
	if (g->extent_bytes < least || g->extent_bytes > most ||
	    (g->extent_bytes & (g->extent_bytes - 1)))
		return false;
	if (g->page_bytes_min < 64 || (g->page_bytes_min & (g->page_bytes_min - 1)) ||
	    g->page_bytes_min > g->extent_bytes / 8)
		return false;
	if (!g->tenants_max || g->tenants_max > 1u << 20 || !g->seqs_max || g->seqs_max > 1u << 20)
		return false;
	if (!g->holds_max || g->holds_max > 1u << 30)
		return false;
	uint64_t n_extents = g->pool_bytes / g->extent_bytes;
	uint32_t slot_bits = 0;
	while ((uint64_t)g->page_bytes_min << slot_bits < g->extent_bytes)
		slot_bits++;
	if (!n_extents || n_extents << slot_bits > 1ull << KVD_ENTRY_FRAME_BITS)
		return false;
	uint64_t n_regions = g->spill_bytes / g->extent_bytes;
	if (n_regions << slot_bits >= 1ull << 31)
		return false;
	struct layout c = { .n_extents = (uint32_t)n_extents, .slot_bits = slot_bits };
	c.frames_max = (uint32_t)(n_extents << slot_bits);
	c.domains_max = 2 * g->tenants_max;
	c.n_regions = (uint32_t)n_regions;
	c.spills_max = (uint32_t)(n_regions << slot_bits);
	/* A page has a frame.  A node has a copy, in memory or on disk, or is named by a table slot
	 * (fsck checks it).  A claim is complete and then belongs to a held or a cached page, or is
	 * named by a promise or a waiter. */
	uint64_t nodes = (uint64_t)c.frames_max + c.spills_max + g->holds_max,
		 claims = (uint64_t)c.frames_max + c.spills_max + 2ull * g->holds_max;
	c.nodes_max = nodes > 1u << 31 ? 1u << 31 : (uint32_t)nodes;
	c.claims_max = claims > 1u << 31 ? 1u << 31 : (uint32_t)claims;
	/* A shelf has a claim and is one tenant's in one group, or is that of what its min keeps. */
	uint64_t shelves = (uint64_t)(GROUPS_MAX + 1) * g->tenants_max;
	c.shelves_max = shelves > c.claims_max ? c.claims_max : (uint32_t)shelves;
	/* Evicted pages that are remembered: half as many as there are pages, a few MiB at most. */
	c.ghosts_max = power_of_two_at_least(c.frames_max / 2);
	if (c.ghosts_max < 64)
		c.ghosts_max = 64;
	if (c.ghosts_max > 1u << 17)
		c.ghosts_max = 1u << 17;
	c.buckets_max = power_of_two_at_least(c.nodes_max);
	/* Actions of one event: its handler's own (worst: a submission that preempts every
	 * sequence, three items each; an attach that maps every extent), then background units of
	 * work, each of which begins only with room for the worst one: again three items for every
	 * sequence. */
	c.items_max = 6 * g->seqs_max + 2 * (uint32_t)n_extents + 4096;

	uint64_t at = round_up(sizeof(struct core), 4096);
#define PART(field, type, count) do { c.field = at; \
	at = round_up(at + (uint64_t)(count) * sizeof(type), 4096); } while (0)
	PART(at_extents, struct extent, n_extents);
	PART(at_frames, struct frame, c.frames_max);
	PART(at_pages, struct page, (uint64_t)c.frames_max + 1);
	PART(at_nodes, struct node, (uint64_t)c.nodes_max + 1);
	PART(at_claims, struct claim, (uint64_t)c.claims_max + 1);
	PART(at_holds, struct hold, g->holds_max);
	PART(at_seqs, struct seq, (uint64_t)g->seqs_max + 1);
	PART(at_tenants, struct tenant, g->tenants_max);
	PART(at_domains, struct domain, c.domains_max);
	PART(at_node_hash, uint32_t, c.buckets_max);
	PART(at_claim_hash, uint32_t, c.buckets_max);
	PART(at_shelves, struct shelf, (uint64_t)c.shelves_max + 1);
	PART(at_heaps, uint32_t, (uint64_t)GROUPS_MAX * g->tenants_max);
	PART(at_ghosts, struct ghost, c.ghosts_max);
	PART(at_items, struct item, c.items_max);
	PART(at_regions, struct region, n_regions);
	PART(at_spills, struct spill, (uint64_t)c.spills_max + 1);
	PART(at_shell, uint8_t, g->shell_bytes);
	/* The worst event lets go of every table slot (a dozen words each, and the heads) and every page (some
	 * forty); what is untouched costs address space only. */
	c.journal_max = 96ull * c.frames_max + 32ull * g->holds_max + (2u << 20);
	if (c.journal_max > 2ull << 30)
		c.journal_max = 2ull << 30;
	PART(at_journal, uint64_t, c.journal_max);
#undef PART
	c.book_bytes = at;
	*ret = c;
	return true;
}

const struct core_config *core_config_of(const struct core *core)
{
	return &core->config;
}

size_t core_book_bytes(const struct core_config *config)
{
	struct layout layout;
	return book_layout(config, &layout) ? (size_t)layout.book_bytes : 0;
}

struct core *core_init(void *book, const struct core_config *config)
{
	struct layout layout;
	if (!book || !book_layout(config, &layout))
		return NULL;
	const struct core *c = book;
	journal_close();                     /* a book without magic is not adopted */
	SET(c->config, *config);
	SET(c->config.pool_bytes, (uint64_t)layout.n_extents * config->extent_bytes);
	SET(c->layout, layout);
	SET(c->n_extents, layout.n_extents);
	SET(c->slot_bits, layout.slot_bits);
	SET(c->pages.max, layout.frames_max);
	SET(c->nodes.max, layout.nodes_max);
	SET(c->claims.max, layout.claims_max);
	SET(c->jobs.max, (uint32_t)JOBS_MAX);
	SET(c->shelves.max, layout.shelves_max);
	SET(c->next_age, 1);
	SET(c->more, 1);                 /* populate at once */
	SET(c->extents_in[KVD_EXTENT_BARE], layout.n_extents);
	SET(c->config.spill_bytes, (uint64_t)layout.n_regions * config->extent_bytes);
	SET(c->layout_version, core_layout_version());
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	SET(c->magic, CORE_MAGIC);
	journal_open(c);
	return book;
}

void list_splice(const struct core *c, enum list_kind kind, const struct list *to,
		 const struct list *from)
{
	if (!from->count)
		return;
	if (to->tail) {
		SET(list_link(c, kind, to->tail - 1)->next, from->head);
		SET(list_link(c, kind, from->head - 1)->prev, to->tail);
	} else {
		SET(to->head, from->head);
	}
	SET(to->tail, from->tail);
	ADD(to->count, from->count);
	SET_ZERO(from);
}

uint32_t pool_next_free(const struct core *c, enum pool_kind kind, uint32_t number)
{
	const void *record;
	size_t size;
	uint32_t next;
	pool_of(c, kind, number, &record, &size);
	memcpy(&next, record, sizeof(next));
	return next;
}

/* All but the first word, as pool_take() expects of a free record. */
bool pool_is_clear(const struct core *c, enum pool_kind kind, uint32_t number)
{
	const void *record;
	size_t size;
	pool_of(c, kind, number, &record, &size);
	const uint32_t *words = record;              /* the second is zero, and each later one is as the one before */
	return !words[1] && !memcmp(words + 1, words + 2, size - 2 * sizeof(*words));
}
