/* guard.c - a tenant's min: which of its cached pages are never taken for others.
 *
 * What a tenant holds, what is reserved for it and what is kept (`guarded`) come to its min, or to all that it
 * has.  A kept claim is cold and no candidate for anybody but its owner; a copy of its node that nobody holds
 * stays SEALED instead of COOL.  So to the arithmetic of the pool (core_fits) a floor is what a sequence's hold
 * is, and no reservation ever counts on a page that a floor keeps.
 *
 * Kept are chains from their root on: a kept claim's parent is kept or held, and its page is in memory to stay.
 * Where there is a choice the most valuable chains are kept (shelf.c); the shelf of the kept has those with nothing
 * kept below them, and gives
 * way from there when the tenant holds more again.
 *
 * Invariant between events, up to the few moves that one event makes: held + reserved + guarded >= min, or
 * nothing cold is left to keep, or what is left was promised to a sequence before (guard_blocked: looked at again
 * when the tenant's charge changes); and without any one of the kept it would be less. */
#include "kvd/core/parts.h"

enum { GUARD_MOVES = 256 };                    /* of one tenant in one event; the next one goes on */

static uint64_t bytes_of_claim(const struct core *c, uint32_t claim)
{
	return page_bytes_of_space(c, node_at(c, claim_at(c, claim)->node)->space);
}

static uint64_t kept_bytes(const struct tenant *t)
{
	return t->held_bytes + t->reserved_bytes + t->guarded_bytes;
}

static void guard_set(const struct core *c, uint32_t number, bool on)
{
	const struct claim *k = claim_at(c, number);
	const struct node *n = node_at(c, k->node);
	uint64_t bytes = bytes_of_claim(c, number);
	uint32_t parent = n->parent ? claim_find(c, n->parent, k->domain) : 0;
	assert(k->complete && k->guarded != on && (!on || n->present));
	if (k->shelf)
		claim_unlist(c, number);
	SET(k->guarded, on);
	SET(tenant_at(c, k->tenant)->guarded_bytes,
	    tenant_at(c, k->tenant)->guarded_bytes + (on ? bytes : -bytes));
	SET(c->guarded_bytes, c->guarded_bytes + (on ? bytes : -bytes));
	ADD(n->n_guarded, on ? 1 : -1);
	if (n->n_guarded == on)
		copies_temper(c, k->node);
	claim_relist(c, number);
	tenant_mark(c, k->tenant, DIRTY_GUARD);
	if (parent) {
		ADD(claim_at(c, parent)->guarded_children, on ? 1 : -1);
		claim_relist(c, parent);
		if (claim_at(c, parent)->guarded)
			tenant_mark(c, claim_at(c, parent)->tenant, DIRTY_GUARD);
	}
}

void guard_release(const struct core *c, uint32_t claim)
{
	if (claim_at(c, claim)->guarded)
		guard_set(c, claim, false);
}

/* What was kept for a trial and let go again is no new memory, and nobody has to look at it again. */
struct trial { uint32_t memory_changed, n_dirty; };

static struct trial trial_begin(const struct core *c)
{
	return (struct trial){ c->memory_changed, c->dirty_tenants.count };
}

static void trial_undone(const struct core *c, struct trial before)
{
	SET(c->memory_changed, before.memory_changed);
	while (c->dirty_tenants.count > before.n_dirty) {
		uint32_t tenant = list_last(&c->dirty_tenants);
		list_remove(c, LIST_DIRTY, &c->dirty_tenants, tenant);
		SET(tenant_at(c, tenant)->dirty, 0);
	}
}

/* Nobody of its domain holds the claim any more. */
void guard_cold(const struct core *c, uint32_t claim)
{
	const struct claim *k = claim_at(c, claim);
	const struct tenant *t = tenant_at(c, k->tenant);
	bool fitted = core_fits(c);
	if (!k->guarded_children && (!t->quota.min_bytes || kept_bytes(t) >= t->quota.min_bytes))
		return;
	struct trial before = trial_begin(c);
	guard_set(c, claim, true);
	if (!fitted || core_fits(c) || k->guarded_children)
		return;
	guard_set(c, claim, false);          /* another copy of it was promised to somebody */
	trial_undone(c, before);
}

static uint32_t claim_above(const struct core *c, uint32_t claim)
{
	uint32_t parent = node_at(c, claim_at(c, claim)->node)->parent;
	return parent ? claim_find(c, parent, claim_at(c, claim)->domain) : 0;
}

static bool loose(const struct core *c, uint32_t claim)
{
	return claim && !claim_at(c, claim)->holds && !claim_at(c, claim)->guarded;
}

/* The claim and all above it, as far as nobody holds or keeps it; what is below a page on disk only after that
 * has been read.  What is promised to sequences already is not taken back for a floor.  False: nothing is kept
 * that was not before. */
static bool guard_chain(const struct core *c, uint32_t claim)
{
	uint32_t from = claim;
	for (uint32_t k = claim; loose(c, k); k = claim_above(c, k))
		if (!node_at(c, claim_at(c, k)->node)->present)
			from = claim_above(c, k);
	uint32_t end = from;
	if (!core_fits(c))
		return false;
	struct trial before = trial_begin(c);
	for (; loose(c, end); end = claim_above(c, end))
		guard_set(c, end, true);
	if (core_fits(c))
		return end != from;
	for (; from != end; from = claim_above(c, from))
		guard_set(c, from, false);
	trial_undone(c, before);
	return false;
}

/* A candidate is about to go for others: not if its tenant has come below its min meanwhile. */
bool guard_spares(const struct core *c, uint32_t claim)
{
	const struct claim *k = claim_at(c, claim);
	const struct tenant *t = tenant_at(c, k->tenant);
	if (kept_bytes(t) < t->quota.min_bytes)
		guard_settle(c, k->tenant);
	return !k->shelf || k->guarded;
}

/* Make what is kept fit the tenant's min.  False: there is more to do. */
bool guard_settle(const struct core *c, uint32_t tenant)
{
	const struct tenant *t = tenant_at(c, tenant);
	for (uint32_t moves = 0; moves < GUARD_MOVES; moves++) {
		uint32_t kept = t->shelf ? shelf_first(c, t->shelf) : 0;
		if (kept && kept_bytes(t) - bytes_of_claim(c, kept) >= t->quota.min_bytes) {
			guard_set(c, kept, false);
			continue;
		}
		uint32_t best = kept_bytes(t) < t->quota.min_bytes ? tenant_last(c, tenant) : 0;
		uint8_t blocked = best && !guard_chain(c, best);
		if (t->guard_blocked != blocked)
			SET(t->guard_blocked, blocked);
		if (!best || blocked)
			return true;
	}
	return false;
}
