/* prefix.c - the prefix index: nodes (content identity) and claims (who may skip computing it).
 *
 * A node is (space, parent node, 16 tokens), unique, found by a keyed hash and then compared token
 * by token.  It lives while it has a copy, a claim, a child, or a table slot that names it as its
 * prompt.  A claim is (node, domain): complete once a sequence of the domain has sealed the page,
 * or only promised by one that computes it now (lookup.c).
 *
 * Invariants: a complete claim's node has a copy; a complete claim on a node means one of the same
 * domain on its parent (a chain is claimed from its root on); children counts those. */
#include "kvd/core/parts.h"

static const uint32_t *bucket_at(const struct core *c, uint64_t base, uint32_t hash)
{
	return (const uint32_t *)((const char *)c + base) + (hash & (c->layout.buckets_max - 1));
}

static uint32_t node_hash(const struct core *c, uint32_t space, uint32_t parent,
			  const int32_t *tokens)
{
	uint64_t words[1 + KVD_PAGE_TOKENS / 2];
	words[0] = (uint64_t)space << 32 | parent;
	memcpy(words + 1, tokens, KVD_PAGE_TOKENS * sizeof(*tokens));
	return (uint32_t)siphash_words(c->config.hash_key, words, 1 + KVD_PAGE_TOKENS / 2);
}

static uint32_t node_find_hashed(const struct core *c, uint32_t space, uint32_t parent,
				 const int32_t *tokens, uint32_t hash)
{
	for (uint32_t i = *bucket_at(c, c->layout.at_node_hash, hash); i;
	     i = node_at(c, i)->hash_next) {
		const struct node *n = node_at(c, i);
		if (n->hash == hash && n->space == space && n->parent == parent &&
		    !memcmp(n->tokens, tokens, sizeof(n->tokens)))
			return i;
	}
	return 0;
}

uint32_t node_find(const struct core *c, uint32_t space, uint32_t parent, const int32_t *tokens)
{
	return node_find_hashed(c, space, parent, tokens, node_hash(c, space, parent, tokens));
}

/* 0: the pool of nodes is full. */
uint32_t node_find_or_make(const struct core *c, uint32_t space, uint32_t parent,
			   const int32_t *tokens)
{
	uint32_t hash = node_hash(c, space, parent, tokens),
		 number = node_find_hashed(c, space, parent, tokens, hash);
	if (number)
		return number;
	const uint32_t *bucket = bucket_at(c, c->layout.at_node_hash, hash);
	number = pool_take(c, POOL_NODES);
	if (!number)
		return 0;
	const struct node *n = node_at(c, number);
	SET(n->space, space);
	SET(n->parent, parent);
	SET(n->depth, parent ? node_at(c, parent)->depth + 1 : 0);
	SET(n->hash, hash);
	SET_BYTES(n->tokens, tokens, sizeof(n->tokens));
	SET(n->live, 1);
	SET(n->hash_next, *bucket);
	SET(*bucket, number);
	if (parent)
		list_push(c, LIST_CHILDREN, &node_at(c, parent)->children, number);
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
		    n->waiters.count || n->job)
			return;
		uint32_t parent = n->parent;
		share_forget(c, number);
		hash_unlink(c, bucket_at(c, c->layout.at_node_hash, n->hash), number, true);
		if (parent)
			list_remove(c, LIST_CHILDREN, &node_at(c, parent)->children, number);
		pool_return(c, POOL_NODES, number);
		number = parent;
	}
}

/* ---- claims ---- */

static uint32_t claim_hash(const struct core *c, uint32_t node, uint32_t domain)
{
	uint64_t word = (uint64_t)node << 32 | domain;
	return (uint32_t)siphash_words(c->config.hash_key, &word, 1);
}

uint32_t claim_find(const struct core *c, uint32_t node, uint32_t domain)
{
	uint32_t i = *bucket_at(c, c->layout.at_claim_hash, claim_hash(c, node, domain));
	while (i && (claim_at(c, i)->node != node || claim_at(c, i)->domain != domain))
		i = claim_at(c, i)->hash_next;
	return i;
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
	const uint32_t *bucket = bucket_at(c, c->layout.at_claim_hash, claim_hash(c, node, domain));
	SET(k->node, node);
	SET(k->domain, domain);
	SET(k->tenant, tenant);
	SET(k->hash_next, *bucket);
	SET(*bucket, number);
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

/* The page is sealed: the domain may skip it from now on, and the tenant pays for it. */
void claim_complete(const struct core *c, uint32_t number, uint32_t tenant, uint32_t home)
{
	const struct claim *k = claim_at(c, number);
	assert(!k->complete);
	uint32_t parent = claim_parent(c, k);
	SET(k->tenant, tenant);
	SET(k->home, home);
	SET(k->used_usec, c->now_usec);
	SET(k->complete, 1);
	ADD(node_at(c, k->node)->n_complete, 1);
	tenant_charge(c, tenant, (int64_t)claim_bytes(c, k), 0);
	SET(c->logical_bytes, c->logical_bytes + claim_bytes(c, k));
	if (parent) {
		ADD(claim_at(c, parent)->children, 1);
		claim_relist(c, parent);
	}
	promise_kept(c, number);
	claim_relist(c, number);
}

/* By last use.  Most claims go to the tail (just used); a parent whose last child went is about as
 * old as that child was and finds its place near the head, after at most 32 steps. */
static void list_insert_by_use(const struct core *c, enum list_kind kind, const struct list *l,
			       uint32_t number)
{
	uint64_t used = claim_at(c, number)->used_usec;
	uint32_t where = CORE_NONE;
	if (l->count && claim_at(c, list_last(l))->used_usec > used) {
		where = list_first(l);
		for (uint32_t i = 0; i < 32 && claim_at(c, where)->used_usec <= used; i++)
			where = list_next(c, kind, where);
	}
	list_insert(c, kind, l, number, where);
}

/* Keep the claim among the reclaim candidates iff nobody of its domain holds it or a child of it, and
 * no pin does. */
void claim_relist(const struct core *c, uint32_t number)
{
	const struct claim *k = claim_at(c, number);
	bool want = k->complete && !k->holds && !k->children && !node_at(c, k->node)->pins;
	if (k->group && (!want || k->group != k->home + 1)) {
		list_remove(c, LIST_LRU, &c->groups[k->group - 1].lru, number);
		list_remove(c, LIST_TENANT_CLAIMS, &tenant_at(c, k->tenant)->claims, number);
		SET(k->group, 0);
	}
	if (want && !k->group) {
		list_insert_by_use(c, LIST_LRU, &c->groups[k->home].lru, number);
		list_insert_by_use(c, LIST_TENANT_CLAIMS, &tenant_at(c, k->tenant)->claims, number);
		SET(k->group, k->home + 1);
	}
}

void claim_maybe_free(const struct core *c, uint32_t number)
{
	const struct claim *k = claim_at(c, number);
	if (k->complete || k->promiser || k->waiters.count)
		return;
	assert(!k->holds && !k->children && !k->group);
	uint32_t node = k->node;
	hash_unlink(c, bucket_at(c, c->layout.at_claim_hash, claim_hash(c, node, k->domain)),
		    number, false);
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

/* Forget that a domain may skip the page.  The last claim takes the copies with it, and they the
 * node. */
void claim_drop(const struct core *c, uint32_t number)
{
	const struct claim *k = claim_at(c, number);
	assert(k->complete && !k->holds && !k->children && !node_at(c, k->node)->pins);
	uint32_t parent = claim_parent(c, k), node = k->node, domain = k->domain;
	SET(k->complete, 0);
	claim_relist(c, number);
	ADD(node_at(c, node)->n_complete, -1);
	tenant_charge(c, k->tenant, -(int64_t)claim_bytes(c, k), 0);
	SET(c->logical_bytes, c->logical_bytes - claim_bytes(c, k));
	ADD(tenant_at(c, k->tenant)->evicted, 1);
	node_ref(c, node);
	if (!node_at(c, node)->n_complete)
		steer_forget(c, node);
	copies_drop_unclaimed(c, node, domain);
	claim_maybe_free(c, number);
	node_unref(c, node);
	if (parent) {
		ADD(claim_at(c, parent)->children, -1);
		claim_relist(c, parent);
	}
}
