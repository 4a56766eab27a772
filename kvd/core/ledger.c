/* ledger.c - who evicted whose pages, why, and what it cost: written when a page goes.
 *
 *   ledger    one row for each (victim, by, reason): bytes, pages, and the tokens computed again since
 *   evicted   the last EVICTED_ROWS evictions one by one, with the numbers that ranked them
 *   ghosts    what was evicted, by the keyed hash of its tokens and its domain: if the same is computed
 *             again, the tokens are booked on the row that made it necessary
 *
 * All three are bounded tables inside the book.  The ledger forgets nothing: when it has no room the least
 * recent row of those that the new one could stand in is added to row 0, whose victim is "others". */
#include "kvd/core/parts.h"

static uint32_t ledger_place(uint32_t victim, uint32_t by, uint32_t reason)
{
	uint32_t h = victim * 0x9e3779b1u ^ by * 0x85ebca6bu ^ reason * 0xc2b2ae35u;
	return (h ^ h >> 15) % (LEDGER_ROWS - 1);
}

static const struct ledger_row *ledger_row(const struct core *c, uint32_t victim, uint32_t by, uint32_t reason)
{
	const struct ledger_row *oldest = NULL;
	for (uint32_t i = 0, at = ledger_place(victim, by, reason); i < 16; i++) {
		const struct ledger_row *row = &c->ledger[1 + (at + i) % (LEDGER_ROWS - 1)];
		if (row->live && row->victim == victim && row->by == by && row->reason == reason)
			return row;
		if (!row->live) {
			oldest = row;
			break;
		}
		if (!oldest || row->last_usec < oldest->last_usec)
			oldest = row;
	}
	const struct ledger_row *others = &c->ledger[0];
	if (oldest->live) {
		SET(*others, ((struct ledger_row){ .victim = CORE_NONE, .by = CORE_NONE, .live = 1,
			.reason = KVD_RECLAIM_REASONS, .bytes = others->bytes + oldest->bytes,
			.pages = others->pages + oldest->pages,
			.refault_tokens = others->refault_tokens + oldest->refault_tokens,
			.last_usec = c->now_usec }));
	}
	SET(*oldest, ((struct ledger_row){ .victim = victim, .by = by, .reason = reason, .live = 1 }));
	return oldest;
}

const struct ledger_row *ledger_row_at(const struct core *c, uint32_t at)
{
	return at < LEDGER_ROWS ? &c->ledger[at] : NULL;
}

static uint64_t ghost_key(const struct core *c, const struct claim *k)
{
	/* The identity is a keyed hash already; 0 says empty. */
	return (node_at(c, k->node)->identity ^ (k->domain + 1) * 0x9e3779b97f4a7c15ull) | 1;
}

static const struct ghost *ghost_set(const struct core *c, uint64_t key)
{
	return ghost_at(c, (uint32_t)(key >> 1) & (c->layout.ghosts_max - 1) & ~(GHOST_WAYS - 1u));
}

void ghost_add(const struct core *c, uint32_t claim)
{
	const struct claim *k = claim_at(c, claim);
	uint64_t key = ghost_key(c, k);
	const struct ghost *set = ghost_set(c, key), *at = set;
	for (uint32_t i = 0; i < GHOST_WAYS && at->key; i++)
		if (!set[i].key || set[i].key == key || set[i].usec < at->usec)
			at = &set[i];
	SET(*at, ((struct ghost){ .key = key, .usec = c->now_usec, .victim = k->tenant, .by = c->blame_by,
		.reason = c->blame_reason }));
}

/* Whatever goes from now on, goes for this tenant (CORE_NONE: nobody in particular) and this reason. */
void blame(const struct core *c, uint32_t by, enum kvd_reclaim_reason reason)
{
	if (c->blame_by != by)
		SET(c->blame_by, by);
	if (c->blame_reason != (uint32_t)reason)
		SET(c->blame_reason, (uint32_t)reason);
}

/* A claim's page goes from memory, now or when it is written to disk. */
void ledger_evicted(const struct core *c, uint32_t claim)
{
	const struct claim *k = claim_at(c, claim);
	const struct ledger_row *row = ledger_row(c, k->tenant, c->blame_by, c->blame_reason);
	const struct evicted_row *last = &c->evicted[c->n_evicted % EVICTED_ROWS];
	uint64_t bytes = page_bytes_of_space(c, node_at(c, k->node)->space);
	SET(row->bytes, row->bytes + bytes);
	SET(row->pages, row->pages + 1);
	SET(row->last_usec, c->now_usec);
	SET(*last, ((struct evicted_row){ .usec = c->now_usec, .prefix = core_prefix_id(c, k->node),
		.idle_usec = c->now_usec - k->used_usec, .bytes = bytes, .victim = k->tenant, .by = c->blame_by,
		.depth = node_at(c, k->node)->depth,
		.hits_256 = (uint16_t)hits_now(k->hits_256, k->used_usec, c->now_usec),
		.reason = (uint8_t)c->blame_reason,
		.class = (uint8_t)(k->guarded ? KVD_CLASS_GUARDED : tenant_at(c, k->tenant)->class) }));
	ADD(c->n_evicted, 1);
	ADD(c->reclaimed_pages[c->blame_reason], 1);
}

/* A page has been computed.  Had it been evicted, that was what the eviction cost. */
void ghost_computed(const struct core *c, uint32_t claim)
{
	const struct claim *k = claim_at(c, claim);
	if (!c->n_evicted)
		return;
	uint64_t key = ghost_key(c, k);
	const struct ghost *set = ghost_set(c, key);
	for (uint32_t i = 0; i < GHOST_WAYS; i++) {
		if (set[i].key != key)
			continue;
		const struct ledger_row *row = ledger_row(c, set[i].victim, set[i].by, set[i].reason);
		SET(row->refault_tokens, row->refault_tokens + KVD_PAGE_TOKENS);
		ADD(tenant_at(c, k->tenant)->refault_tokens, KVD_PAGE_TOKENS);
		ADD(c->refault_tokens, KVD_PAGE_TOKENS);
		SET_ZERO(&set[i]);
		return;
	}
}
