/* prefix.c - the prefix index: nodes (content identity) and claims (who may skip computing it).
 *
 * A node is (space, parent node, 16 tokens), unique, found by a keyed hash and then compared token
 * by token.  It lives while it has a copy, a claim, a child, or a table slot that names it as its
 * prompt.  A claim is (node, domain): complete once a sequence of the domain has sealed the page,
 * or only promised by one that computes it now (lookup.c).  A claim is found as the first of its node's list or else
 * by a hash: a node with one claim, the common case, has none of its claims there.
 *
 * A node whose page is on disk alone is away (spill.c): its claims cost their tenants no memory, and none
 * is a reclaim candidate.
 *
 * Invariants: a complete claim's node has a copy or a spill record; a complete claim on a node means one of the same
 * domain on its parent (a chain is claimed from its root on); children counts those. */
#include "kvd/core/spill.h"

/* Of all tokens from the start on: by way of the parent's. */
uint64_t node_identity(const struct core *c, uint32_t space, uint32_t parent, const int32_t *tokens)
{
	uint64_t words[2] = { parent ? node_at(c, parent)->identity : space, core_tokens_word(c, tokens) };
	return siphash_words(c->config.hash_key, words, 2);
}

static uint32_t node_find_hashed(const struct core *c, uint32_t space, uint32_t parent,
				 const int32_t *tokens, uint64_t identity)
{
	uint32_t hash = (uint32_t)identity, steps = 0;
	/* a broken book's chain may be endless or lead nowhere */
	for (uint32_t i = *node_bucket(c, hash);
	     i && i <= c->nodes.high && steps++ < CHAIN_MAX; i = node_at(c, i)->hash_next) {
		const struct node *n = node_at(c, i);
		if (n->hash == hash && n->space == space && n->parent == parent &&
		    !memcmp(n->tokens, tokens, sizeof(n->tokens)))
			return i;
	}
	return 0;
}

/* Is the node (of the same space as `parent`, if there is one) that content? */
bool node_is(const struct core *c, uint32_t node, uint32_t parent, const int32_t *tokens)
{
	const struct node *n = node_at(c, node);
	return n->parent == parent && !memcmp(n->tokens, tokens, sizeof(n->tokens));
}

uint32_t node_find(const struct core *c, uint32_t space, uint32_t parent, const int32_t *tokens)
{
	return node_find_hashed(c, space, parent, tokens, node_identity(c, space, parent, tokens));
}

/* A prefix's number is the keyed hash of its tokens: the same when it has gone and come back, and it tells a
 * tenant nothing of what others have. */
uint64_t core_prefix_id(const struct core *c, uint32_t node)
{
	return node_at(c, node)->identity;
}

uint32_t node_of_prefix(const struct core *c, uint64_t id)
{
	uint32_t i = *node_bucket(c, (uint32_t)id);
	while (i && node_at(c, i)->identity != id)
		i = node_at(c, i)->hash_next;
	return i;
}

/* 0: the pool of nodes is full. */
uint32_t node_find_or_make(const struct core *c, uint32_t space, uint32_t parent, const int32_t *tokens,
			   uint64_t identity)
{
	if (!identity)
		identity = node_identity(c, space, parent, tokens);
	uint32_t hash = (uint32_t)identity, number = node_find_hashed(c, space, parent, tokens, identity);
	if (number)
		return number;
	const uint32_t *bucket = node_bucket(c, hash);
	number = pool_take(c, POOL_NODES);
	if (!number)
		return 0;
	const struct node *n = node_at(c, number);
	PUT(n->space, space);
	PUT(n->parent, parent);
	PUT(n->depth, parent ? node_at(c, parent)->depth + 1 : 0);
	PUT(n->identity, identity);
	PUT(n->hash, hash);
	PUT_BYTES(n->tokens, tokens, sizeof(n->tokens));
	PUT(n->live, 1);
	PUT(n->hash_next, *bucket);
	SET(*bucket, number);
	if (parent)
		list_push(c, LIST_CHILDREN, &node_at(c, parent)->children, number);
	return number;
}

/* Identities need no node, only those before them: they are computed ahead.  The bucket is asked for two
 * stretches before it is read, the node one; its first claim and copy when it is there. */
uint32_t node_walk_next(const struct core *c, struct node_walk *w, uint32_t page, uint32_t parent)
{
	for (; w->n_hashed < w->n_pages && w->n_hashed < page + 2 * WALK_AHEAD; w->n_hashed++) {
		uint32_t i = w->n_hashed, before = (i + 2 * WALK_AHEAD - 1) % (2 * WALK_AHEAD);
		uint64_t words[2] = { i ? w->identity[before] : w->space,
				      core_tokens_word(c, w->tokens + (size_t)i * KVD_PAGE_TOKENS) };
		w->identity[i % (2 * WALK_AHEAD)] = siphash_words(c->config.hash_key, words, 2);
		__builtin_prefetch(node_bucket(c, (uint32_t)w->identity[i % (2 * WALK_AHEAD)]));
	}
	if (page + WALK_AHEAD < w->n_hashed)
		fetch_record(node_at(c, *node_bucket(c,
			(uint32_t)w->identity[(page + WALK_AHEAD) % (2 * WALK_AHEAD)])), sizeof(struct node));
	uint32_t number = node_find_or_make(c, w->space, parent, w->tokens + (size_t)page * KVD_PAGE_TOKENS,
					    w->identity[page % (2 * WALK_AHEAD)]);
	const struct node *n = node_at(c, number);
	if (n->claims.head)
		fetch_record(claim_at(c, list_first(&n->claims)), sizeof(struct claim));
	if (n->copies.head)
		fetch_record(page_at(c, list_first(&n->copies)), sizeof(struct page));
	return number;
}

void node_ref(const struct core *c, uint32_t node)
{
	ADD(node_at(c, node)->refs, 1);
}

void node_unref(const struct core *c, uint32_t node)
{
	assert(node_at(c, node)->refs);
	ADD(node_at(c, node)->refs, -1);
	node_maybe_free(c, node);
}

static void hash_unlink(const struct core *c, const uint32_t *at, uint32_t number, bool node)
{
	while (*at != number) {
		assert(*at);
		at = node ? &node_at(c, *at)->hash_next : &claim_at(c, *at)->hash_next;
	}
	SET(*at, node ? node_at(c, number)->hash_next : claim_at(c, number)->hash_next);
}

void node_maybe_free(const struct core *c, uint32_t number)
{
	while (number) {
		const struct node *n = node_at(c, number);
		if (n->refs || n->copies.count || n->claims.count || n->children.count ||
		    n->waiters.count || n->job || n->spill)
			return;
		uint32_t parent = n->parent;
		share_forget(c, number);
		hash_unlink(c, node_bucket(c, n->hash), number, true);
		if (parent)
			list_remove(c, LIST_CHILDREN, &node_at(c, parent)->children, number);
		pool_return(c, POOL_NODES, number);
		number = parent;
	}
}

/* ---- claims ---- */

uint32_t claim_hash(const struct core *c, uint32_t node, uint32_t domain)
{
	uint64_t word = (uint64_t)node << 32 | domain;
	return (uint32_t)siphash_words(c->config.hash_key, &word, 1);
}

uint32_t claim_find(const struct core *c, uint32_t node, uint32_t domain)
{
	const struct list *claims = &node_at(c, node)->claims;
	if (!claims->head || claim_at(c, list_first(claims))->domain == domain)
		return claims->head ? list_first(claims) : 0;
	if (claims->count == 1)
		return 0;
	uint32_t i = *claim_bucket(c, claim_hash(c, node, domain)), steps = 0;
	for (; i && i <= c->claims.high && steps++ < CHAIN_MAX; i = claim_at(c, i)->hash_next)
		if (claim_at(c, i)->node == node && claim_at(c, i)->domain == domain)
			return i;
	return 0;
}

/* 0: the pool of claims is full. */
uint32_t claim_find_or_make(const struct core *c, uint32_t node, uint32_t domain, uint32_t tenant)
{
	uint32_t number = claim_find(c, node, domain);
	if (number)
		return number;
	number = pool_take(c, POOL_CLAIMS);
	if (!number)
		return 0;
	const struct claim *k = claim_at(c, number);
	PUT(k->node, node);
	PUT(k->domain, domain);
	PUT(k->tenant, tenant);
	if (node_at(c, node)->claims.count) {
		const uint32_t *bucket = claim_bucket(c, claim_hash(c, node, domain));
		PUT(k->hashed, 1);
		PUT(k->hash_next, *bucket);
		SET(*bucket, number);
	}
	list_push(c, LIST_NODE_CLAIMS, &node_at(c, node)->claims, number);
	domain_use(c, domain);
	return number;
}

static uint64_t claim_bytes(const struct core *c, const struct claim *k)
{
	return page_bytes_of_space(c, node_at(c, k->node)->space);
}

static uint32_t claim_parent(const struct core *c, const struct claim *k)
{
	uint32_t parent = node_at(c, k->node)->parent;
	uint32_t number = parent ? claim_find(c, parent, k->domain) : 0;
	assert(!parent || (number && claim_at(c, number)->complete));
	return number;
}

/* What the claim's tenant pays for a page that no sequence of its domain holds. */
static void claim_pay(const struct core *c, const struct claim *k, bool away, int64_t sign)
{
	uint64_t bytes = (uint64_t)(sign * (int64_t)claim_bytes(c, k));
	const struct tenant *t = tenant_at(c, k->tenant);
	if (away) {
		SET(t->spilled_bytes, t->spilled_bytes + bytes);
		return;
	}
	tenant_charge(c, k->tenant, (int64_t)bytes, 0);
	SET(c->logical_bytes, c->logical_bytes + bytes);
}

/* The page is sealed: the domain may skip it from now on, and the tenant pays for it.  The caller puts it into a
 * table next (hold_claim). */
void claim_complete(const struct core *c, uint32_t number, uint32_t tenant, uint32_t home)
{
	const struct claim *k = claim_at(c, number);
	assert(!k->complete);
	uint32_t parent = claim_parent(c, k);
	SET(k->tenant, tenant);
	SET(k->home, home);
	SET(k->used_usec, c->now_usec);
	SET(k->hits_256, 0);
	SET(k->complete, 1);
	ADD(node_at(c, k->node)->n_complete, 1);
	assert(node_at(c, k->node)->copies.count);
	claim_pay(c, k, false, 1);
	if (parent) {
		ADD(claim_at(c, parent)->children, 1);
		ADD(claim_at(c, parent)->near, node_at(c, k->node)->present);
		claim_relist(c, parent);
	}
	promise_kept(c, number);
}

void claim_maybe_free(const struct core *c, uint32_t number)
{
	const struct claim *k = claim_at(c, number);
	if (k->complete || k->promiser || k->waiters.count)
		return;
	assert(!k->holds && !k->children && !k->shelf);
	uint32_t node = k->node;
	if (k->hashed)
		hash_unlink(c, claim_bucket(c, claim_hash(c, node, k->domain)), number, false);
	list_remove(c, LIST_NODE_CLAIMS, &node_at(c, node)->claims, number);
	domain_leave(c, k->domain);
	pool_return(c, POOL_CLAIMS, number);
	node_maybe_free(c, node);
}

/* Copies that served only the domain whose claim went, or nobody now. */
static void copies_drop_unclaimed(const struct core *c, uint32_t node, uint32_t domain)
{
	const struct node *n = node_at(c, node);
	uint32_t p = list_first(&n->copies);
	while (p != CORE_NONE) {
		uint32_t next = list_next(c, LIST_COPIES, p);
		const struct page *page = page_at(c, p);
		bool only_theirs = page->domain == domain &&
				   (page->keep_private || n->never_merge) && n->shared != p;
		bool last = n->copies.count == 1;
		if (!page->holders.count && (!n->n_complete || (only_theirs && !last))) {
			ADD(c->evicted_pages, 1);
			page_drop(c, p, true);
		}
		p = next;
	}
}

/* Forget that a domain may skip the page.  The last claim takes copies and spill record with it, and they
 * the node. */
static void claim_forget(const struct core *c, uint32_t number)
{
	const struct claim *k = claim_at(c, number);
	assert(k->complete && !k->holds && !k->children && !node_at(c, k->node)->pins);
	uint32_t parent = claim_parent(c, k), node = k->node, domain = k->domain;
	const struct node *n = node_at(c, node);
	uint32_t was_present = n->present;
	guard_release(c, number);
	ghost_add(c, number);
	if (n->copies.count)
		ledger_evicted(c, number);
	SET(k->complete, 0);
	claim_relist(c, number);
	ADD(n->n_complete, -1);
	claim_pay(c, k, !n->copies.count, -1);
	ADD(tenant_at(c, k->tenant)->evicted, 1);
	node_ref(c, node);
	if (!n->copies.count && !n->n_complete) {
		ADD(c->evicted_pages, 1);
		SET(c->spilled_pages, c->spilled_pages - 1);
	}
	if (!n->n_complete)
		steer_forget(c, node);
	copies_drop_unclaimed(c, node, domain);
	if (!n->n_complete)
		spill_forget(c, node);
	claim_maybe_free(c, number);
	node_unref(c, node);
	if (parent) {
		ADD(claim_at(c, parent)->children, -1);
		ADD(claim_at(c, parent)->near, -was_present);
		claim_relist(c, parent);
	}
}

/* The complete claim of the domain furthest below one; itself if there is none. */
static uint32_t claim_deepest(const struct core *c, uint32_t number)
{
	while (claim_at(c, number)->children) {
		uint32_t domain = claim_at(c, number)->domain, below = 0;
		uint32_t child = list_first(&node_at(c, claim_at(c, number)->node)->children);
		for (; !below; child = list_next(c, LIST_CHILDREN, child)) {
			assert(child != CORE_NONE);
			below = claim_find(c, child, domain);
			if (below && !claim_at(c, below)->complete)
				below = 0;
		}
		number = below;
	}
	return number;
}

/* With all that the domain has below it: a chain is claimed from its root on.  What is below a candidate
 * is away or on its way, so nobody holds it. */
void claim_drop(const struct core *c, uint32_t number)
{
	uint32_t at = claim_deepest(c, number);
	while (at != number) {
		uint32_t parent = claim_parent(c, claim_at(c, at));
		claim_forget(c, at);
		at = claim_deepest(c, parent);
	}
	claim_forget(c, number);
}

/* Drop every claim on a node that nobody holds. */
void node_evict(const struct core *c, uint32_t node)
{
	const struct node *n = node_at(c, node);
	node_ref(c, node);
	while (n->n_complete) {
		uint32_t k = list_first(&n->claims);
		while (!claim_at(c, k)->complete)
			k = list_next(c, LIST_NODE_CLAIMS, k);
		claim_drop(c, k);
	}
	node_unref(c, node);
}

/* The node's last copy went to disk, or one came back: who claims it pays for it there or here. */
void node_away(const struct core *c, uint32_t node, bool away)
{
	const struct node *n = node_at(c, node);
	if (!n->n_complete)
		return;
	assert(!away || (n->spill && spill_at(c, n->spill)->state != SPILL_SPILLING));
	SET(c->spilled_pages, away ? c->spilled_pages + 1 : c->spilled_pages - 1);
	for (uint32_t k = list_first(&n->claims); k != CORE_NONE; k = list_next(c, LIST_NODE_CLAIMS, k)) {
		if (!claim_at(c, k)->complete)
			continue;
		claim_pay(c, claim_at(c, k), !away, -1);
		claim_pay(c, claim_at(c, k), away, 1);
	}
}

void node_presence(const struct core *c, uint32_t node)
{
	const struct node *n = node_at(c, node);
	const struct spill *r = n->spill ? spill_at(c, n->spill) : NULL;
	bool leaving = r && r->page && page_at(c, r->page)->leaving;
	uint8_t present = n->copies.count && !leaving;
	if (n->present == present)
		return;
	assert(present || !n->n_guarded);
	SET(n->present, present);
	for (uint32_t k = list_first(&n->claims); k != CORE_NONE; k = list_next(c, LIST_NODE_CLAIMS, k)) {
		const struct claim *claim = claim_at(c, k);
		uint32_t parent = claim->complete ? claim_parent(c, claim) : 0;
		if (parent) {
			ADD(claim_at(c, parent)->near, present ? 1 : -1);
			claim_relist(c, parent);
		}
		claim_relist(c, k);
		if (claim->complete)           /* its tenant's floor may keep it again, or misses it */
			tenant_mark(c, claim->tenant, DIRTY_GUARD);
	}
}
