/* steer.c - an administrator's hand on the index: pin, publish, evict.
 *
 * A pin ends at a node and covers its chain from the root: `pinned` marks the end, `pins` of a node counts the
 * ends at and below it.  Only what is in memory is pinned, not what is on disk alone or on its way there: that
 * can be lost.  While a node has pins none of its claims is a reclaim candidate, at least one copy
 * stays, and a copy that nobody holds is SEALED instead of COOL: so to the arithmetic of the pool (core_fits) a
 * pin is what a sequence's hold is, memory that comes free only when somebody lets go.
 *   Bound: the extents with a pinned frame are at most a quarter of the pool at the moment of a pin, and
 *   pool_pages() leaves them out, so that what pins make impossible is refused with the numbers and does not
 *   stand in the queue for ever.  A pin that a live sequence could not survive is refused.
 *
 * A publication likewise ends at a node and covers its chain: a sequence of any domain may take the pages as if
 * its domain had computed them (steer_claim), gets a claim of its own and pays for it.  The bytes go to the
 * shared colour.  It ends by UNPUBLISH or with the last claim; what was taken stays the taker's.
 *
 * Evict drops claims that nobody holds, leaf before parent; pinned ones stay. */
#include "kvd/core/fsck.h"
#include "kvd/core/spill.h"

enum { EVICTS_MAX = 2048, VISITS_MAX = 1 << 20 }; /* of one event: a millisecond, tens of them; and of the journal */

/* The node that a prefix's number stands for, if somebody claims it; 0: there is none, or no longer. */
static uint32_t prefix_find(const struct core *c, uint64_t id)
{
	uint32_t node = node_of_prefix(c, id);
	return node && node_at(c, node)->n_complete ? node : 0;
}

static uint32_t chain_pages(const struct core *c, uint32_t node)
{
	return node_at(c, node)->depth + 1;
}

static uint64_t chain_bytes(const struct core *c, uint32_t node)
{
	return chain_pages(c, node) * page_bytes_of_space(c, node_at(c, node)->space);
}

/* ---- pins ---- */

uint32_t pins_max(const struct core *c)
{
	return c->n_extents < 8 ? 0 : c->n_extents / 4; /* fewer have none to spare: a merge may take a second one */
}

void steer_copy(const struct core *c, uint32_t node, uint32_t frame, bool is)
{
	const struct extent *e = extent_at(c, extent_of(c, frame));
	assert(node && (is || e->n_pinned));
	ADD(e->n_pinned, is ? 1 : -1);
	ADD(c->pinned_frames, is ? 1 : -1);
	if (e->n_pinned == is)
		ADD(c->pinned_extents, is ? 1 : -1);
	SET(c->memory_changed, 1);
}

/* The node's first pin has come, or its last one has gone: copies and claims follow. */
static void node_pins_changed(const struct core *c, uint32_t node, bool is)
{
	const struct node *n = node_at(c, node);
	node_ref(c, node);
	for (uint32_t p = list_first(&n->copies); p != CORE_NONE; p = list_next(c, LIST_COPIES, p))
		steer_copy(c, node, page_at(c, p)->frame, is);
	for (uint32_t p = list_first(&n->copies); is && p != CORE_NONE; p = list_next(c, LIST_COPIES, p))
		if (page_at(c, p)->leaving)
			spill_keep(c, p);
	for (uint32_t p = list_first(&n->copies), next; p != CORE_NONE; p = next) {
		next = list_next(c, LIST_COPIES, p);
		page_tidy(c, p);
	}
	for (uint32_t k = list_first(&n->claims); k != CORE_NONE; k = list_next(c, LIST_NODE_CLAIMS, k))
		claim_relist(c, k);
	node_unref(c, node);
}

static void chain_pin(const struct core *c, uint32_t node, bool is)
{
	SET(node_at(c, node)->pinned, is);
	ADD(c->n_pins, is ? 1 : -1);
	for (uint32_t at = node; at; at = node_at(c, at)->parent) {
		ADD(node_at(c, at)->pins, is ? 1 : -1);
		if (node_at(c, at)->pins == is)
			node_pins_changed(c, at, is);
	}
}

/* Could every sequence there is still be served by what the pins leave? */
static bool sequences_fit(const struct core *c)
{
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		const struct engine *e = &c->engines[i];
		for (uint32_t n = 0; e->state == ENGINE_LIVE && n < e->max_seqs; n++) {
			const struct seq *s = seq_at(c, e->seq_base + n);
			uint32_t pages = s->need > s->want ? s->need : s->want;
			if (s->state != SEQ_EMPTY && (pages > s->n_pages ? pages : s->n_pages) > pool_pages(c, i))
				return false;
		}
	}
	return true;
}

/* A pin keeps what is in memory; what is on disk alone must be used first. */
static bool chain_here(const struct core *c, uint32_t node)
{
	for (uint32_t at = node; at; at = node_at(c, at)->parent)
		if (!node_at(c, at)->copies.count)
			return false;
	return true;
}

static void pin(const struct core *c, uint32_t node)
{
	bool fitted = core_fits(c);
	if (node_at(c, node)->pinned) {
		act_steered(c, KVD_S_OK, chain_pages(c, node), chain_bytes(c, node), 0, 0, false);
		return;
	}
	if (!chain_here(c, node)) {
		act_steered(c, KVD_S_REFUSED, 0, 0, 0, 0, false);
		return;
	}
	uint32_t away = 0;
	for (uint32_t at = node; at; at = node_at(c, at)->parent)
		away += !node_at(c, at)->present;
	if (away) {
		act_steered(c, KVD_S_STALE, 0, 0, away, 0, false);
		return;
	}
	chain_pin(c, node, true);
	uint32_t need = c->pinned_extents;
	if (need > pins_max(c) || (fitted && !core_fits(c)) || !sequences_fit(c)) {
		uint32_t have = need > pins_max(c) ? pins_max(c) : need - 1;
		chain_pin(c, node, false);
		act_steered(c, KVD_S_LIMIT, 0, 0, need, have, false);
		return;
	}
	act_steered(c, KVD_S_OK, chain_pages(c, node), chain_bytes(c, node), 0, 0, false);
}

/* ---- publications ---- */

static void chain_publish(const struct core *c, uint32_t node, bool is)
{
	SET(node_at(c, node)->published, is);
	ADD(c->n_publics, is ? 1 : -1);
	for (uint32_t at = node; at; at = node_at(c, at)->parent)
		ADD(node_at(c, at)->publics, is ? 1 : -1);
}

/* The node's last claim has gone, and with it what was published. */
void steer_forget(const struct core *c, uint32_t node)
{
	if (node_at(c, node)->published)
		chain_publish(c, node, false);
}

/* The bytes of a whole chain are to be where everybody can read them: the private ones of a tenant are not. */
static bool chain_may_publish(const struct core *c, uint32_t node)
{
	for (uint32_t at = node; at; at = node_at(c, at)->parent) {
		const struct node *n = node_at(c, at);
		bool may = n->shared || (!n->copies.count && n->spill && !spill_at(c, n->spill)->keep_private);
		for (uint32_t p = list_first(&n->copies); p != CORE_NONE && !may; p = list_next(c, LIST_COPIES, p))
			may = page_may_share(c, p);
		if (!may || n->never_merge)
			return false;
	}
	return true;
}

static void publish(const struct core *c, uint32_t node)
{
	const struct node *n = node_at(c, node);
	if (!n->published && !chain_may_publish(c, node)) {
		act_steered(c, KVD_S_REFUSED, 0, 0, 0, 0, false);
		return;
	}
	if (!n->published)
		chain_publish(c, node, true);
	/* Sooner than the first who asks; where no frame can be had now, lookups ask again. */
	for (uint32_t at = node; at; at = node_at(c, at)->parent)
		if (!node_at(c, at)->shared)
			(void)share_request(c, at);
	act_steered(c, KVD_S_OK, chain_pages(c, node), chain_bytes(c, node), 0, 0, false);
}

/* May a sequence of the domain take the public page?  It has a claim, or there is room for one. */
bool steer_claim_ready(const struct core *c, uint32_t node, uint32_t domain)
{
	return node_at(c, node)->n_complete && (claim_find(c, node, domain) || c->claims.count < c->claims.max);
}

/* The claim by which a sequence takes a page from the index: its domain's, or made now because the page is
 * public.  The pages before it were taken or sealed by the same domain.  0: none can be had. */
uint32_t steer_claim(const struct core *c, uint32_t node, uint32_t domain, uint32_t tenant, uint32_t home)
{
	uint32_t claim = claim_find(c, node, domain), parent = node_at(c, node)->parent;
	if (claim && claim_at(c, claim)->complete)
		return claim;
	if (!node_at(c, node)->publics)
		return 0;
	uint32_t before = parent ? claim_find(c, parent, domain) : 0;
	if (parent && (!before || !claim_at(c, before)->complete))
		return 0;
	claim = claim_find_or_make(c, node, domain, tenant);
	if (claim)
		claim_complete(c, claim, tenant, home);
	return claim;
}

/* ---- evict ---- */

static bool droppable(const struct core *c, uint32_t claim)
{
	const struct claim *k = claim_at(c, claim);
	return k->complete && !k->holds && !k->children && !node_at(c, k->node)->pins;
}

static uint32_t leftmost(const struct core *c, uint32_t node)
{
	while (node_at(c, node)->children.count)
		node = list_first(&node_at(c, node)->children);
	return node;
}

/* One evict under way.  rows: a dry run collects there what would be dropped, from number `first` on. */
struct evict {
	uint32_t dropped;
	bool more;                     /* stopped for breath */
	struct kvd_row_plan *rows;
	uint32_t first, n_rows, rows_max;
	uint64_t now_usec;
};

static void evict_drop(const struct core *c, struct evict *e, uint32_t claim)
{
	if (e->rows && e->dropped >= e->first)
		plan_row(c, claim, e->dropped, e->now_usec, &e->rows[e->n_rows++]);
	claim_drop(c, claim);
	e->dropped++;
	e->more = e->dropped >= EVICTS_MAX || (e->rows && e->n_rows == e->rows_max) ||
		  journal_words(&c->journal) > c->layout.journal_max / 2;
}

/* Drop what nobody holds of everything that goes on from a prefix, then of the prefix itself as far as nothing
 * else goes on from it. */
static void evict_prefix(const struct core *c, struct evict *e, uint32_t top)
{
	uint32_t at = leftmost(c, top), visits = 0;
	bool above = false;
	node_ref(c, at);                     /* at, next: a reference each, or they might go before their turn */
	while (!e->more && visits++ < VISITS_MAX) {
		const struct node *n = node_at(c, at);
		above = above || at == top;          /* from here on up: beside it is somebody else's */
		uint32_t sibling = above ? CORE_NONE : list_next(c, LIST_CHILDREN, at);
		uint32_t next = sibling != CORE_NONE ? leftmost(c, sibling) : n->parent;
		if (next)
			node_ref(c, next);
		for (uint32_t k = list_first(&n->claims), after; k != CORE_NONE && !e->more; k = after) {
			after = list_next(c, LIST_NODE_CLAIMS, k);
			if (droppable(c, k))
				evict_drop(c, e, k);
		}
		if (!next)
			break;
		node_unref(c, at);
		at = next;
	}
	node_unref(c, at);
}

/* By the plan: of one tenant, or of everybody, until so many bytes have come free. */
static void evict_planned(const struct core *c, struct evict *e, uint32_t tenant, uint64_t bytes)
{
	uint64_t before = c->physical_bytes;
	struct reclaim_candidate next;
	while ((!bytes || before - c->physical_bytes < bytes) && !e->more &&
	       reclaim_plan(c, (struct reclaim_scope){ CORE_NONE, tenant }, &next, 1))
		evict_drop(c, e, next.claim);
}

static void evict_run(const struct core *c, struct evict *e, const struct core_event *event, uint32_t node)
{
	blame(c, CORE_NONE, KVD_RECLAIM_ADMIN);
	if (node)
		evict_prefix(c, e, node);
	else
		evict_planned(c, e, event->steer.tenant, event->steer.bytes);
}

static void evict(const struct core *c, const struct core_event *event, uint32_t node)
{
	uint64_t bytes = c->physical_bytes, pages = c->evicted_pages;
	struct evict e = { .dropped = 0 };
	evict_run(c, &e, event, node);
	SET(c->memory_changed, 1);
	act_steered(c, KVD_S_OK, c->evicted_pages - pages, bytes - c->physical_bytes, 0, 0, e.more);
}

/* The dry run is the act itself, in a transaction that is rolled back. */
uint32_t core_read_evict(struct core *core, const struct core_event *event, uint64_t now_usec, uint32_t *cursor,
			 struct kvd_row_plan *ret, uint32_t max)
{
	const struct core *c = core;
	struct evict e = { .rows = ret, .first = *cursor, .rows_max = max, .now_usec = now_usec };
	uint32_t node = event->steer.prefix ? prefix_find(c, event->steer.prefix) : 0;
	if (c->items_tail || journal_words(&c->journal) || (event->steer.prefix && !node) || !max ||
	    *cursor >= EVICTS_MAX)
		return 0;
	journal_open(c);
	evict_run(c, &e, event, node);
	bool undone = journal_rollback(c);
	assert(undone);                      /* evict_drop() leaves half the journal free */
	*cursor += e.n_rows;
	return e.n_rows;
}

void steer_event(const struct core *c, const struct core_event *event)
{
	uint32_t node = event->steer.prefix ? prefix_find(c, event->steer.prefix) : 0;
	bool evicts = event->type == CORE_EV_EVICT;
	if ((!node && (event->steer.prefix || !evicts)) ||
	    (evicts && event->steer.tenant != CORE_NONE && event->steer.tenant >= c->n_tenants)) {
		act_steered(c, KVD_S_STALE, 0, 0, 0, 0, false);
		return;
	}
	switch (event->type) {
	case CORE_EV_PIN: pin(c, node); return;
	case CORE_EV_PUBLISH: publish(c, node); return;
	case CORE_EV_EVICT: evict(c, event, node); return;
	default: break;
	}
	bool pins = event->type == CORE_EV_UNPIN, is = pins ? node_at(c, node)->pinned : node_at(c, node)->published;
	uint64_t pages = is ? chain_pages(c, node) : 0, bytes = is ? chain_bytes(c, node) : 0;
	if (is && pins)
		chain_pin(c, node, false);
	else if (is)
		chain_publish(c, node, false);
	act_steered(c, is ? KVD_S_OK : KVD_S_STALE, pages, bytes, 0, 0, false);
}
