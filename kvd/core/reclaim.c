/* reclaim.c - which cached pages go when memory is needed: plan, then act.
 *
 * Candidates are claims: complete, held by no sequence of their domain, without a claimed child of
 * the domain (leaf before parent), oldest use first; each group (space, colour) has them in a list
 * in that order, each tenant its own.  Dropping the last claim of a node frees its copies.  So one
 * tenant's interest in a page ages by that tenant's use alone, though the page may stay for
 * another.
 *
 * A group may have cool pages whose claims are listed elsewhere (last used on another engine): when
 * its own list is empty they go by age, each alone if another copy remains, else with all below it.
 *  */
#include "kvd/core/spill.h"

/* Pure: the next candidates of a group, best first, with what each would free now. */
uint32_t reclaim_plan(const struct core *c, uint32_t group, struct reclaim_candidate *ret,
		      uint32_t max)
{
	uint32_t n = 0;
	for (uint32_t k = list_first(&c->groups[group].lru); k != CORE_NONE && n < max;
	     k = list_next(c, LIST_LRU, k)) {
		const struct claim *claim = claim_at(c, k);
		const struct node *node = node_at(c, claim->node);
		uint32_t copies = node->n_complete == 1 ? node->copies.count : 0;
		ret[n++] = (struct reclaim_candidate){
			.claim = k,
			.node = claim->node,
			.used_usec = claim->used_usec,
			.frees_bytes = copies * page_bytes_of_space(c, node->space)
		};
	}
	return n;
}

/* A candidate goes: to disk if its page is nobody else's and there is a tier, else it is forgotten. */
void reclaim_out(const struct core *c, uint32_t claim)
{
	uint32_t node = claim_at(c, claim)->node;
	if (node_at(c, node)->n_complete > 1 || !spill_evict(c, node))
		claim_drop(c, claim);
}

/* Free a cool page.  If it is the only copy, it goes to disk, or everything below it in the index goes
 * with it: nobody can hold a child without holding a copy of its parent, so all is cool. */
void reclaim_page(const struct core *c, uint32_t page)
{
	uint32_t node = page_at(c, page)->node;
	const struct node *n = node_at(c, node);
	assert(!page_at(c, page)->holders.count && node);
	if (n->copies.count > 1) {
		ADD(c->evicted_pages, 1);
		page_drop(c, page, true);
	} else if (!page_at(c, page)->leaving && !spill_evict(c, node)) {
		node_evict(c, node);
	}
}

static uint32_t reclaimed(const struct group *g)
{
	return g->retiring + g->spilling;
}

/* Make up to n_frames frames of the group's extents retire, now or when they are written out.  Returns how
 * many do. */
uint32_t reclaim_run(const struct core *c, uint32_t group, uint32_t n_frames)
{
	const struct group *g = &c->groups[group];
	uint32_t before = g->retiring + g->spilling;
	struct reclaim_candidate plan[32];
	/* Dropping a claim may free nothing here: bounded, and the next event goes on. */
	for (uint32_t round = 0; round < 16 && reclaimed(g) - before < n_frames; round++) {
		uint32_t n = reclaim_plan(c, group, plan, 32);
		for (uint32_t i = 0; i < n && reclaimed(g) - before < n_frames; i++)
			if (claim_at(c, plan[i].claim)->group == group + 1) /* an earlier one may have taken it along */
				reclaim_out(c, plan[i].claim);
		if (!n)
			break;
	}
	while (!g->lru.count && g->cool.count && reclaimed(g) - before < n_frames)
		reclaim_page(c, list_first(&g->cool));
	if (reclaimed(g) - before < n_frames && g->lru.count)
		SET(c->more, 1);
	return reclaimed(g) - before;
}

/* The pool of claims is full: the least recently used candidate of all groups makes room. */
bool reclaim_claim(const struct core *c)
{
	uint32_t best = CORE_NONE;
	for (uint32_t i = 0; i < GROUPS_MAX; i++) {
		uint32_t k = list_first(&c->groups[i].lru);
		if (k != CORE_NONE &&
		    (best == CORE_NONE || claim_at(c, k)->used_usec < claim_at(c, best)->used_usec))
			best = k;
	}
	if (best != CORE_NONE)
		claim_drop(c, best);
	return best != CORE_NONE;
}

/* When the group's oldest candidate was last used; UINT64_MAX: it has none. */
uint64_t reclaim_oldest_usec(const struct core *c, uint32_t group)
{
	const struct group *g = &c->groups[group];
	if (g->lru.count)
		return claim_at(c, list_first(&g->lru))->used_usec;
	return g->cool.count ? page_at(c, list_first(&g->cool))->used_usec : UINT64_MAX;
}

/* A tenant near its max: its own oldest claims go until `bytes` are free under it or none is left.
 *  */
void reclaim_tenant(const struct core *c, uint32_t tenant, uint64_t bytes)
{
	const struct tenant *t = tenant_at(c, tenant);
	while (t->claims.count && t->rss_bytes + t->reserved_bytes + bytes > t->max_bytes)
		claim_drop(c, list_first(&t->claims));
}
