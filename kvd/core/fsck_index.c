/* fsck_index.c - the checker's part about the index: nodes, claims, what tenants are charged.
 *
 * The whole check goes once over the nodes and once over the claims, in order of number.  Their lookups by hash
 * wait for memory at places that nothing but the hash tells, so a batch's are asked for together, before the
 * first is looked at.
 *
 * What a claim says of others (its table slots, its domain's claims on child nodes) is not counted claim by
 * claim, which would take many claims times many children.  Instead each number said and each thing found is
 * added up times a weight that is the claim's own and looks random: the sums are equal if all are, and else
 * differ but for one chance in 2^64.  Only if they differ are the claims counted one by one, to name the wrong one; so
 * does production's sample, which sees few at a time. */
#include "kvd/core/fsck.h"

enum { BATCH = 32 };                           /* lookups under way: more than memory answers at a time */

static void said(struct check *k, enum balance_of what, uint64_t weight, uint64_t n)
{
	k->balance[what] += weight * n;
}

static void found(struct check *k, enum balance_of what, uint64_t weight, uint64_t n)
{
	k->balance[what] -= weight * n;
}

void fsck_slot_found(struct check *k, uint32_t claim)
{
	const struct claim *q = claim_at(k->c, claim);
	found(k, BALANCE_HOLDS, fsck_weight(k, q->node, q->domain), 1);
}

/* ---- found by its hash, and only once ---- */

static bool node_indexed(const struct core *c, uint32_t number, uint64_t identity)
{
	const struct node *n = node_at(c, number);
	uint32_t steps = 0, i = *node_bucket(c, (uint32_t)identity);
	if (n->identity != identity || n->hash != (uint32_t)identity)
		return false;
	for (; i && i != number && i <= c->nodes.high && steps++ < CHAIN_MAX; i = node_at(c, i)->hash_next) {
		const struct node *m = node_at(c, i);
		if ((m->hash ^ n->hash) & (c->layout.buckets_max - 1))
			return false;
		if (m->identity == identity && m->space == n->space && m->parent == n->parent &&
		    !memcmp(m->tokens, n->tokens, sizeof(n->tokens)))
			return false;
	}
	return i == number;
}

/* As the first of its node's list, or else by its hash. */
static bool claim_indexed(const struct core *c, uint32_t number, uint32_t hash)
{
	const struct claim *q = claim_at(c, number);
	uint32_t first = list_first(&node_at(c, q->node)->claims);
	if (!q->hashed)
		return first == number && !q->hash_next;
	if (first == CORE_NONE || (first != number && claim_at(c, first)->domain == q->domain))
		return false;
	uint32_t steps = 0, i = *claim_bucket(c, hash);
	for (; i && i != number && i <= c->claims.high && steps++ < CHAIN_MAX; i = claim_at(c, i)->hash_next)
		if (claim_at(c, i)->node == q->node && claim_at(c, i)->domain == q->domain)
			return false;
	return i == number;
}

/* Each record has been found by its hash.  If there are as many ways to one, from a bucket or from the one before, as
 * records, no chain ends in another or in itself.  (The buckets are not walked: most were never touched, and looking
 * at them would make them resident.) */
static void check_chains(struct check *k, uint64_t ways, uint64_t records, const char *sentence)
{
	fsck_check(k, ways == records, sentence, ways);
}

/* ---- one by one ---- */

static uint32_t claim_holds_counted(const struct core *c, const struct node *n, uint32_t claim)
{
	uint32_t holds = 0;
	for (uint32_t p = list_first(&n->copies); p != CORE_NONE; p = list_next(c, LIST_COPIES, p))
		for (uint32_t h = list_first(&page_at(c, p)->holders); h != CORE_NONE;
		     h = list_next(c, LIST_HOLDERS, h))
			holds += hold_at(c, h)->claim == claim;
	return holds;
}

/* The node's claim of a domain, by its list: without a hash, most often in the next cache line. */
static uint32_t claim_listed(const struct core *c, uint32_t node, uint32_t domain)
{
	uint32_t q = list_first(&node_at(c, node)->claims), steps = 0;
	while (q != CORE_NONE && steps++ <= c->claims.high) {
		if (claim_at(c, q)->domain == domain)
			return q;
		q = list_next(c, LIST_NODE_CLAIMS, q);
	}
	return 0;
}

static uint32_t claim_children_counted(const struct core *c, const struct node *n, uint32_t domain,
				       uint32_t *ret_near, uint32_t *ret_guarded)
{
	uint32_t children = 0;
	*ret_near = *ret_guarded = 0;
	for (uint32_t child = list_first(&n->children); child != CORE_NONE;
	     child = list_next(c, LIST_CHILDREN, child)) {
		uint32_t claim = claim_listed(c, child, domain);
		if (!claim || !claim_at(c, claim)->complete)
			continue;
		children++;
		*ret_near += node_at(c, child)->present;
		*ret_guarded += claim_at(c, claim)->guarded;
	}
	return children;
}

/* A node's claims against its copies' table slots and its children's claims; its lists hold. */
static void count_claims(struct check *k, uint32_t number)
{
	const struct core *c = k->c;
	const struct node *n = node_at(c, number);
	for (uint32_t q = list_first(&n->claims); q != CORE_NONE; q = list_next(c, LIST_NODE_CLAIMS, q)) {
		const struct claim *claim = claim_at(c, q);
		if (!claim->complete)
			continue;
		uint32_t parent = n->parent ? claim_listed(c, n->parent, claim->domain) : 0;
		fsck_check(k, !n->parent || (parent && claim_at(c, parent)->complete),
			   "a claim's chain does not reach its root", q);
		fsck_check(k, claim->holds == claim_holds_counted(c, n, q),
			   "a claim's holds are not its table slots", q);
		uint32_t near, guarded, children = claim_children_counted(c, n, claim->domain, &near, &guarded);
		fsck_check(k, claim->children == children, "a claim's count of children is wrong", q);
		fsck_check(k, claim->near == near, "a claim's count of children in memory is wrong", q);
		fsck_check(k, claim->guarded_children == guarded,
			   "a claim's count of children that floors keep is wrong", q);
	}
}

void fsck_balances(struct check *k)
{
	const struct core *c = k->c;
	uint64_t differ = 0;
	uint32_t before = k->problems;
	for (uint32_t i = 0; i < BALANCES; i++)
		differ |= k->balance[i];
	if (!differ || k->broken)
		return;
	for (uint32_t i = 1; i <= c->nodes.high; i++)
		if (!node_at(c, i)->next_free && node_at(c, i)->live)
			count_claims(k, i);
	fsck_check(k, k->problems > before, "claims' table slots or children do not add up", differ);
}

/* ---- what a claim says of itself ---- */

static struct tenant *scratch_of(const struct core *c, uint32_t tenant)
{
	return (struct tenant *)(uintptr_t)tenant_at(c, tenant); /* check_ fields only */
}

static void check_claim(struct check *k, uint32_t number, uint32_t hash)
{
	const struct core *c = k->c;
	const struct claim *claim = claim_at(c, number);
	const struct node *n = node_at(c, claim->node);
	fsck_check(k, claim_indexed(c, number, hash), "a claim is not found by its hash, or twice there", number);
	fsck_check(k, claim->complete || claim->promiser,
		   "a claim is nobody's, though others may wait for it", number);
	if (!claim->complete) {
		fsck_check(k, !claim->holds && !claim->children && !claim->shelf && !claim->guarded,
			   "a mere promise is used as a claim", number);
		return;
	}
	fsck_check(k, !claim->promiser && !claim->waiters.count,
		   "a complete claim is still promised or waited for", number);
	fsck_check(k, n->copies.count || n->spill, "a claim's page has no copy", number);
	fsck_check(k, n->copies.count || !claim->holds, "a page on disk alone is held", number);
	fsck_claim(k, number, n);
}

static void charge_claim(struct check *k, const struct claim *claim)
{
	const struct core *c = k->c;
	const struct node *n = node_at(c, claim->node);
	struct tenant *t = scratch_of(c, claim->tenant);
	uint64_t bytes = page_bytes_of_space(c, n->space), own = fsck_weight(k, claim->node, claim->domain);
	if (!claim->complete)
		return;
	if (!n->copies.count) {
		t->check_spilled += bytes;
	} else {
		t->check_rss += bytes;
		t->check_held += claim->holds ? bytes : 0;
		k->cached_bytes += claim->holds ? 0 : bytes;
	}
	said(k, BALANCE_HOLDS, own, claim->holds);
	said(k, BALANCE_CHILDREN, own, claim->children);
	said(k, BALANCE_NEAR, own, claim->near);
	said(k, BALANCE_GUARDED, own, claim->guarded_children);
	if (!n->parent)
		return;
	uint64_t above = fsck_weight(k, n->parent, claim->domain);
	found(k, BALANCE_CHILDREN, above, 1);
	found(k, BALANCE_NEAR, above, n->present);
	found(k, BALANCE_GUARDED, above, claim->guarded);
}

/* ---- nodes ---- */

/* The lists that are walked for one node.  False: walking them may not end. */
static bool node_lists_hold(struct check *k, const struct node *n)
{
	const struct core *c = k->c;
	return fsck_list(k, LIST_COPIES, &n->copies, c->pages.high + 1, "a node's list of copies is broken") &&
	       fsck_list(k, LIST_NODE_CLAIMS, &n->claims, c->claims.high + 1, "a node's list of claims is broken") &&
	       fsck_list(k, LIST_CHILDREN, &n->children, c->nodes.high + 1, "a node's list of children is broken") &&
	       fsck_list(k, LIST_WAITERS, &n->waiters, c->config.seqs_max + 1, "a node's list of waiters is broken");
}

static void check_copy(struct check *k, uint32_t number, const struct node *n, uint32_t page)
{
	const struct core *c = k->c;
	const struct page *p = page_at(c, page);
	uint64_t word = frame_at(c, p->frame)->word;
	bool kept = n->pins || n->n_guarded;
	fsck_check(k, p->node == number, "a copy does not name its node", page);
	fsck_check(k, !FRAME_COLOUR(word) == (n->shared == page), "a node does not know its shared copy", number);
	if (n->pins)
		fsck_pinned_copy(k, p->frame);
	if (FRAME_STATE(word) == KVD_FRAME_SEALED)
		fsck_check(k, p->holders.count || kept, "a sealed frame has no holder and is not cool", p->frame);
	if (FRAME_STATE(word) != KVD_FRAME_COOL)
		return;
	fsck_check(k, !n->pins, "a cool frame's page is pinned", p->frame);
	fsck_check(k, !n->n_guarded, "a cool frame's page is kept by a floor", p->frame);
	fsck_check(k, n->n_complete, "a cool frame is claimed by nobody", p->frame);
}

static void check_node(struct check *k, uint32_t number, uint64_t identity)
{
	const struct core *c = k->c;
	const struct node *n = node_at(c, number);
	uint32_t complete = 0, guarded = 0;
	if (!node_lists_hold(k, n)) {
		k->broken = true;
		return;
	}
	fsck_check(k, node_indexed(c, number, identity), "a node is not found by its hash, or twice there", number);
	fsck_check(k,
		   !n->parent ||
			   (node_at(c, n->parent)->live && !node_at(c, n->parent)->next_free &&
			    node_at(c, n->parent)->depth + 1 == n->depth),
		   "a node's parent is gone", number);
	fsck_check(k, n->refs || n->copies.count || n->children.count || n->claims.count || n->job || n->spill,
		   "a node is nobody's", number);
	for (uint32_t p = list_first(&n->copies); p != CORE_NONE; p = list_next(c, LIST_COPIES, p))
		check_copy(k, number, n, p);
	for (uint32_t q = list_first(&n->claims); q != CORE_NONE; q = list_next(c, LIST_NODE_CLAIMS, q)) {
		fsck_check(k, claim_at(c, q)->node == number, "a claim does not name its node", q);
		complete += !!claim_at(c, q)->complete;
		guarded += claim_at(c, q)->guarded;
	}
	fsck_check(k, complete == n->n_complete, "a node's count of claims is wrong", number);
	fsck_check(k, guarded == n->n_guarded, "a node's count of claims that floors keep is wrong", number);
	fsck_check(k,
		   !n->job || (c->job[n->job].kind == JOB_SHARE && c->job[n->job].node == number),
		   "a node's job is not its own", number);
	fsck_spill_node(k, number, n);
	fsck_steer_node(k, number, n);
}

/* Its claims, too, and all of it counted one by one. */
void fsck_node(struct check *k, uint32_t number)
{
	const struct core *c = k->c;
	const struct node *n = node_at(c, number);
	check_node(k, number, node_identity(c, n->space, n->parent, n->tokens));
	for (uint32_t p = list_first(&n->copies); !k->broken && p != CORE_NONE; p = list_next(c, LIST_COPIES, p))
		k->broken = !fsck_list(k, LIST_HOLDERS, &page_at(c, p)->holders, c->config.holds_max,
				       "a page's list of holders is broken");
	if (k->broken)
		return;
	for (uint32_t q = list_first(&n->claims); q != CORE_NONE; q = list_next(c, LIST_NODE_CLAIMS, q))
		check_claim(k, q, claim_hash(c, claim_at(c, q)->node, claim_at(c, q)->domain));
	count_claims(k, number);
}

/* ---- all of them ---- */

static void ask_for(const void *address)
{
	__builtin_prefetch(address);
	__builtin_prefetch((const char *)address + 64);
}

/* Records whose lookups are under way. */
struct batch_ahead { uint32_t n, number[BATCH]; uint64_t hash[BATCH]; };

/* The next nodes in use from *at on; what only their hashes and lists name is asked for. */
static void nodes_begin(const struct core *c, uint32_t *at, struct batch_ahead *b)
{
	uint32_t i = *at;
	for (b->n = 0; i <= c->nodes.high && b->n < BATCH; i++) {
		const struct node *n = node_at(c, i);
		if (n->next_free || !n->live)
			continue;
		b->number[b->n] = i;
		b->hash[b->n] = node_identity(c, n->space, n->parent, n->tokens);
		__builtin_prefetch(node_bucket(c, (uint32_t)b->hash[b->n++]));
		ask_for(page_at(c, n->copies.head ? list_first(&n->copies) : 0));
		ask_for(claim_at(c, n->claims.head ? list_first(&n->claims) : 0));
		if (n->children.head)
			ask_for(node_at(c, list_first(&n->children)));
	}
	*at = i;
}

/* And what these name. */
static void nodes_follow(const struct core *c, const struct batch_ahead *b)
{
	for (uint32_t i = 0; i < b->n; i++) {
		const struct node *n = node_at(c, b->number[i]);
		uint32_t first = *node_bucket(c, (uint32_t)b->hash[i]);
		if (first != b->number[i] && first <= c->nodes.high)
			ask_for(node_at(c, first));
		if (n->copies.head)
			__builtin_prefetch(frame_at(c, page_at(c, list_first(&n->copies))->frame));
	}
}

static void check_nodes(struct check *k)
{
	const struct core *c = k->c;
	uint32_t nodes = 0, below = 0, children = 0, ways = 0, at = 1;
	struct batch_ahead ahead[3];
	nodes_begin(c, &at, &ahead[0]);
	nodes_begin(c, &at, &ahead[1]);
	nodes_follow(c, &ahead[0]);
	for (uint32_t turn = 0; ahead[turn % 3].n; turn++) {
		const struct batch_ahead *b = &ahead[turn % 3];
		nodes_begin(c, &at, &ahead[(turn + 2) % 3]);
		nodes_follow(c, &ahead[(turn + 1) % 3]);
		for (uint32_t i = 0; i < b->n; i++) {
			const struct node *n = node_at(c, b->number[i]);
			check_node(k, b->number[i], b->hash[i]);
			nodes++;
			below += !!n->parent;
			ways += !!n->hash_next + (*node_bucket(c, (uint32_t)b->hash[i]) == b->number[i]);
			children += n->children.count;
			k->claims += n->claims.count;
			k->copies += n->copies.count;
			k->node_refs += n->refs;
		}
	}
	fsck_check(k, nodes == c->nodes.count, "the number of nodes is wrong", nodes);
	check_chains(k, ways, nodes, "a chain of nodes with one hash does not end");
	fsck_check(k, below == children, "a node is missing in its parent's list", below);
	fsck_check(k, k->claims == c->claims.count, "the number of claims is wrong", k->claims);
	fsck_check(k, k->copies == k->indexed, "a page is missing in its node's list of copies", k->indexed);
}

static void claims_begin(const struct core *c, uint32_t *at, struct batch_ahead *b)
{
	uint32_t i = *at;
	for (b->n = 0; i <= c->claims.high && b->n < BATCH; i++) {
		const struct claim *q = claim_at(c, i);
		const struct node *n = node_at(c, q->node);
		if (q->next_free || !q->node)
			continue;
		b->number[b->n] = i;
		b->hash[b->n] = q->hashed ? claim_hash(c, q->node, q->domain) : 0;
		if (q->hashed)
			__builtin_prefetch(claim_bucket(c, (uint32_t)b->hash[b->n]));
		b->n++;
		__builtin_prefetch(&n->parent);
		__builtin_prefetch(&n->present);
		__builtin_prefetch(&n->pins);
	}
	*at = i;
}

static void claims_follow(const struct core *c, const struct batch_ahead *b)
{
	for (uint32_t i = 0; i < b->n; i++) {
		if (!claim_at(c, b->number[i])->hashed)
			continue;
		uint32_t first = *claim_bucket(c, (uint32_t)b->hash[i]);
		if (first != b->number[i] && first <= c->claims.high)
			ask_for(claim_at(c, first));
	}
}

static void check_claims(struct check *k)
{
	const struct core *c = k->c;
	uint32_t hashed = 0, ways = 0, at = 1;
	struct batch_ahead ahead[3];
	claims_begin(c, &at, &ahead[0]);
	claims_begin(c, &at, &ahead[1]);
	claims_follow(c, &ahead[0]);
	for (uint32_t turn = 0; ahead[turn % 3].n; turn++) {
		const struct batch_ahead *b = &ahead[turn % 3];
		claims_begin(c, &at, &ahead[(turn + 2) % 3]);
		claims_follow(c, &ahead[(turn + 1) % 3]);
		for (uint32_t i = 0; i < b->n; i++) {
			const struct claim *q = claim_at(c, b->number[i]);
			check_claim(k, b->number[i], (uint32_t)b->hash[i]);
			charge_claim(k, q);
			ways += !!q->hash_next;
			ways += q->hashed && *claim_bucket(c, (uint32_t)b->hash[i]) == b->number[i];
			hashed += q->hashed;
		}
	}
	check_chains(k, ways, hashed, "a chain of claims with one hash does not end");
}

void fsck_index(struct check *k)
{
	const struct core *c = k->c;
	check_nodes(k);
	if (k->broken)
		return;
	check_claims(k);
	for (uint32_t t = 0; t < c->n_tenants; t++) {
		const struct tenant *tenant = tenant_at(c, t);
		fsck_check(k, tenant->rss_bytes == tenant->check_rss,
			   "a tenant's charge is not what it has", t);
		fsck_check(k, tenant->spilled_bytes == tenant->check_spilled,
			   "a tenant's spilled bytes are not its claims' on disk", t);
		fsck_check(k, tenant->held_bytes == tenant->check_held,
			   "a tenant's held bytes are not what its sequences hold", t);
	}
}
