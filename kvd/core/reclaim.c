/* reclaim.c - which cached pages go when memory is needed: act what reclaim_plan() says (plan.c).
 *
 * Candidates are claims (shelf.c).  Dropping the last claim of a node frees its copies.  So one tenant's
 * interest in a page ages by that tenant's use alone, though the page may stay for another.  Each page that goes
 * is written down with who it was for and why (ledger.c): whoever begins to reclaim says so first (blame()).
 *
 * A group may have cool pages whose claims are listed elsewhere (last used on another engine): when
 * its own shelves are empty they go by age, each alone if another copy remains, else with all below it.  What a
 * floor or a pin keeps is not COOL and not touched by any of this. */
#include "kvd/core/spill.h"

static enum spill_out node_out(const struct core *c, uint32_t node, enum reclaim_mode mode)
{
	const struct node *n = node_at(c, node);
	node_ref(c, node);
	enum spill_out out = spill_evict(c, node, mode != RECLAIM_NOW);
	if (out == SPILL_LATER && mode != RECLAIM_PATIENT)
		out = SPILL_CANNOT;
	for (uint32_t k = list_first(&n->claims); out == SPILL_GOES && k != CORE_NONE;
	     k = list_next(c, LIST_NODE_CLAIMS, k))
		if (claim_at(c, k)->complete)
			ledger_evicted(c, k);
	node_unref(c, node);
	return out;
}

/* A candidate goes: to disk if its page is nobody else's and there is a tier, else it is forgotten.  False: it
 * could go to disk when another write has ended, and the caller is patient. */
bool reclaim_out(const struct core *c, uint32_t claim, enum reclaim_mode mode)
{
	uint32_t node = claim_at(c, claim)->node;
	guard_release(c, claim);             /* its owner's max takes what its min kept */
	enum spill_out out = node_at(c, node)->n_complete > 1 ? SPILL_CANNOT : node_out(c, node, mode);
	if (out == SPILL_CANNOT)
		claim_drop(c, claim);
	return out != SPILL_LATER;
}

/* Free a cool page.  If it is the only copy, it goes to disk, or everything below it in the index goes
 * with it: nobody can hold a child without holding a copy of its parent, and no floor keeps a child without its
 * parent, so all is cool. */
bool reclaim_page(const struct core *c, uint32_t page, enum reclaim_mode mode)
{
	uint32_t node = page_at(c, page)->node;
	const struct node *n = node_at(c, node);
	assert(!page_at(c, page)->holders.count && node);
	if (n->copies.count > 1) {
		ADD(c->evicted_pages, 1);
		page_drop(c, page, true);
		return true;
	}
	if (page_at(c, page)->leaving)
		return true;
	enum spill_out out = node_out(c, node, mode);
	if (out == SPILL_CANNOT)
		node_evict(c, node);
	return out != SPILL_LATER;
}

static uint32_t reclaimed(const struct group *g, enum reclaim_mode mode)
{
	uint32_t soon = g->retiring > g->stuck ? g->retiring - g->stuck : 0;
	return soon + (mode == RECLAIM_NOW ? 0 : g->spilling);
}

/* Make up to n_frames frames of the group's extents retire, now or when they are written out.  Returns how
 * many do. */
uint32_t reclaim_run(const struct core *c, uint32_t group, uint32_t n_frames, enum reclaim_mode mode)
{
	const struct group *g = &c->groups[group];
	uint32_t before = reclaimed(g, mode);
	struct reclaim_candidate plan[PLAN_STEP];
	bool on = true;
	/* Dropping a claim may free nothing here: bounded, and the next event goes on. */
	for (uint32_t dropped = 0; on && dropped < 16 * PLAN_STEP && reclaimed(g, mode) - before < n_frames;) {
		uint32_t missing = n_frames - (reclaimed(g, mode) - before);
		uint32_t n = reclaim_plan(c, (struct reclaim_scope){ group, CORE_NONE }, plan,
					  missing < PLAN_STEP ? missing : PLAN_STEP);
		/* An owner that has come to another class on the way has another place: plan again. */
		for (uint32_t i = 0; on && i < n && reclaimed(g, mode) - before < n_frames &&
				     tenant_at(c, plan[i].tenant)->class == plan[i].class; i++)
			if (!guard_spares(c, plan[i].claim)) { /* an earlier one may have taken it along, too */
				on = reclaim_out(c, plan[i].claim, mode);
				dropped++;
			}
		if (!n)
			break;
	}
	while (on && !g->n_shelves && g->cool.count && reclaimed(g, mode) - before < n_frames)
		on = reclaim_page(c, list_first(&g->cool), mode);
	if (on && reclaimed(g, mode) - before < n_frames && g->n_shelves)
		SET(c->more, 1);
	return reclaimed(g, mode) - before;
}

/* The pool of claims is full: the first candidate of all groups makes room. */
bool reclaim_claim(const struct core *c)
{
	struct reclaim_candidate first;
	while (reclaim_plan(c, (struct reclaim_scope){ CORE_NONE, CORE_NONE }, &first, 1))
		if (!guard_spares(c, first.claim)) {
			claim_drop(c, first.claim);
			return true;
		}
	return false;
}

/* When the group's first candidate was last used; UINT64_MAX: it has none. */
uint64_t reclaim_oldest_usec(const struct core *c, uint32_t group)
{
	const struct group *g = &c->groups[group];
	if (g->n_shelves)
		return claim_at(c, shelf_first(c, shelf_of_heap(c, group, 0)))->used_usec;
	return g->cool.count ? page_at(c, list_first(&g->cool))->used_usec : UINT64_MAX;
}

/* A tenant near its max: its own candidates go until `bytes` are free under it.  False: that takes more than one
 * event's share. */
bool reclaim_tenant(const struct core *c, uint32_t tenant, uint64_t bytes)
{
	const struct tenant *t = tenant_at(c, tenant);
	blame(c, tenant, KVD_RECLAIM_HIGH);
	for (uint32_t n = 0; tenant_usage(t) + bytes > t->quota.max_bytes; n++) {
		uint32_t claim = tenant_first(c, tenant);
		if (!claim)
			return true;
		if (n == 8 * PLAN_STEP)
			return false;
		(void)reclaim_out(c, claim, RECLAIM_NOW);    /* what is on disk already may stay there */
	}
	return true;
}
