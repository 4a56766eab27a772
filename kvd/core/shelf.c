/* shelf.c - the order in which cached pages go, kept so that the first one is at hand.
 *
 * A candidate is a claim that nobody of its domain holds and below which nothing is claimed (leaf before
 * parent; what is on disk alone does not count).  Its value is the time of its last use plus what its hits and
 * its cost add:
 *
 *   value = used + HALF_LIFE x (log2 hits + log2 recompute tokens per MiB)
 *
 * Hits halve every half-life, so this order is that of hits x cost per byte decayed to any one moment: it
 * does not change while nobody uses the page, and nothing has to be aged.  log2 of hits is a whole number,
 * so the claims of one level are in the order of their use; a shelf is one list a level, its first claim the
 * least valuable of the lists' heads.  In front of the value stands the class of the owner (over its high;
 * normal; at or below its low), so that a tenant that crosses one of its marks moves with one step for each
 * of its shelves, not one for each page.
 *
 * Each tenant has one shelf in each group (space, colour) where it has candidates; a group's shelves form a
 * binary heap.  So a step costs at most log2 of the number of tenants, however many pages there are.
 *
 * Claims that a tenant's min keeps for it (guard.c) lie on one more shelf of the tenant, in no heap.  A
 * claim's value depends on its own domain's use alone: what others do with the same content shows nowhere. */
#include "kvd/core/parts.h"

#define CLASS_SHIFT 60

static const uint32_t *heap_slot(const struct core *c, uint32_t group, uint32_t at)
{
	return (const uint32_t *)((const char *)c + c->layout.at_heaps) +
	       (uint64_t)group * c->config.tenants_max + at;
}

uint32_t shelf_of_heap(const struct core *c, uint32_t group, uint32_t at)
{
	return at < c->groups[group].n_shelves ? *heap_slot(c, group, at) : 0;
}

static uint32_t log2_whole(uint64_t n)
{
	return n ? 63u - (uint32_t)__builtin_clzll(n) : 0;
}

/* Hits x 256 as they count now: halved every half-life, in between along a straight line. */
uint32_t hits_now(uint32_t hits_256, uint64_t used_usec, uint64_t now_usec)
{
	uint64_t idle = now_usec > used_usec ? now_usec - used_usec : 0, halves = idle / HALF_LIFE_USEC;
	if (halves >= 16)
		return 0;
	uint64_t hits = hits_256 >> halves;
	return (uint32_t)(hits - hits * (idle % HALF_LIFE_USEC) / (2 * HALF_LIFE_USEC));
}

static uint32_t hits_level(uint32_t hits_256)
{
	uint32_t level = log2_whole(hits_256 / 256);
	return level < SHELF_LEVELS ? level : SHELF_LEVELS - 1;
}

/* Recompute tokens per MiB of a space's pages; the cost of one page is 16 tokens, wherever it stands. */
uint32_t space_tokens_per_mib(const struct core *c, uint32_t space)
{
	uint64_t tokens = ((uint64_t)KVD_PAGE_TOKENS << 20) / page_bytes_of_space(c, space);
	return tokens ? (uint32_t)tokens : 1;
}

/* log2 in sixteenths, along straight lines between powers of two. */
static uint64_t log2_16(uint64_t n)
{
	uint32_t whole = log2_whole(n);
	return 16ull * whole + (((n << 4) >> whole) & 15u);
}

/* What hits and cost add to the time of its last use. */
uint64_t claim_worth_usec(const struct core *c, const struct claim *k)
{
	return HALF_LIFE_USEC * hits_level(k->hits_256) + c->spaces[node_at(c, k->node)->space].worth_usec;
}

/* What the cost of computing one of its pages again adds. */
uint64_t space_worth_usec(const struct core *c, uint32_t space)
{
	return HALF_LIFE_USEC * log2_16(space_tokens_per_mib(c, space)) / 16;
}

uint64_t claim_value(const struct core *c, uint32_t claim)
{
	return claim_at(c, claim)->used_usec + claim_worth_usec(c, claim_at(c, claim));
}

/* The claims of a shelf in their order: cursor[level] is the next one of each list. */
void shelf_begin(const struct shelf *s, uint32_t cursor[SHELF_LEVELS])
{
	for (uint32_t i = 0; i < SHELF_LEVELS; i++)
		cursor[i] = list_first(&s->level[i]);
}

/* The one that goes next, CORE_NONE: none; its list's number in *ret_level. */
uint32_t shelf_peek(const struct core *c, const uint32_t cursor[SHELF_LEVELS], uint32_t *ret_level)
{
	uint32_t best = CORE_NONE;
	uint64_t least = 0;                          /* valued only where there is a choice */
	for (uint32_t i = 0; i < SHELF_LEVELS; i++) {
		if (cursor[i] == CORE_NONE)
			continue;
		if (best != CORE_NONE) {
			uint64_t value = claim_value(c, cursor[i]);
			least = least ? least : claim_value(c, best);
			if (value >= least)
				continue;
			least = value;
		}
		best = cursor[i];
		*ret_level = i;
	}
	return best;
}

uint32_t shelf_first(const struct core *c, uint32_t shelf)
{
	uint32_t cursor[SHELF_LEVELS], level;
	shelf_begin(shelf_at(c, shelf), cursor);
	return shelf_peek(c, cursor, &level);
}

uint64_t class_key(uint32_t class, uint64_t value)
{
	return (uint64_t)class << CLASS_SHIFT | value;
}

uint32_t key_class(uint64_t key)
{
	return (uint32_t)(key >> CLASS_SHIFT);
}

static uint64_t shelf_key(const struct core *c, const struct shelf *s, uint32_t number)
{
	uint32_t class = s->group == CORE_NONE ? KVD_CLASS_GUARDED : tenant_at(c, s->tenant)->class;
	return class_key(class, claim_value(c, shelf_first(c, number)));
}

/* ---- the heap of a group ---- */

static void heap_put(const struct core *c, uint32_t group, uint32_t at, uint32_t shelf)
{
	SET(*heap_slot(c, group, at), shelf);
	SET(shelf_at(c, shelf)->heap, at + 1);
}

static uint64_t heap_key(const struct core *c, uint32_t group, uint32_t at)
{
	return shelf_at(c, *heap_slot(c, group, at))->key;
}

/* Put `shelf`, whose place `at` is open, where it belongs. */
static void heap_sift(const struct core *c, uint32_t group, uint32_t at, uint32_t shelf)
{
	uint64_t key = shelf_at(c, shelf)->key;
	uint32_t n = c->groups[group].n_shelves;
	while (at && heap_key(c, group, (at - 1) / 2) > key) {
		heap_put(c, group, at, *heap_slot(c, group, (at - 1) / 2));
		at = (at - 1) / 2;
	}
	for (;;) {
		uint32_t child = 2 * at + 1;
		if (child >= n)
			break;
		if (child + 1 < n && heap_key(c, group, child + 1) < heap_key(c, group, child))
			child++;
		if (heap_key(c, group, child) >= key)
			break;
		heap_put(c, group, at, *heap_slot(c, group, child));
		at = child;
	}
	heap_put(c, group, at, shelf);
}

static void heap_remove(const struct core *c, uint32_t shelf)
{
	const struct shelf *s = shelf_at(c, shelf);
	uint32_t at = s->heap - 1, last = c->groups[s->group].n_shelves - 1, moved = *heap_slot(c, s->group, last);
	SET(*heap_slot(c, s->group, last), 0);
	SET(c->groups[s->group].n_shelves, last);
	SET(s->heap, 0);
	if (!last)
		mask_set(c, c->shelf_groups, s->group, false);
	if (moved != shelf)
		heap_sift(c, s->group, at, moved);
}

/* The shelf's first claim or its tenant's class has changed. */
static void shelf_rekey(const struct core *c, uint32_t shelf)
{
	const struct shelf *s = shelf_at(c, shelf);
	uint64_t key = shelf_key(c, s, shelf);
	if (key == s->key)
		return;
	SET(s->key, key);
	if (s->heap)
		heap_sift(c, s->group, s->heap - 1, shelf);
}

void shelf_class_changed(const struct core *c, uint32_t tenant)
{
	const struct list *own = &tenant_at(c, tenant)->shelves;
	for (uint32_t s = list_first(own); s != CORE_NONE; s = list_next(c, LIST_SHELVES, s))
		shelf_rekey(c, s);
}

/* ---- shelves ---- */

/* Walks at most as many as the tenant has groups: its engines, and a few shared colours. */
static uint32_t shelf_find(const struct core *c, uint32_t tenant, uint32_t group)
{
	const struct tenant *t = tenant_at(c, tenant);
	if (group == CORE_NONE)
		return t->shelf;
	uint32_t s = list_first(&t->shelves);
	while (s != CORE_NONE && shelf_at(c, s)->group != group)
		s = list_next(c, LIST_SHELVES, s);
	return s == CORE_NONE ? 0 : s;
}

/* With its first claim already in its list. */
static void shelf_join(const struct core *c, uint32_t shelf)
{
	const struct shelf *s = shelf_at(c, shelf);
	const struct tenant *t = tenant_at(c, s->tenant);
	SET(s->key, shelf_key(c, s, shelf));
	if (s->group == CORE_NONE) {
		SET(t->shelf, shelf);
		return;
	}
	const struct group *g = &c->groups[s->group];
	list_push(c, LIST_SHELVES, &t->shelves, shelf);
	if (!g->n_shelves)
		mask_set(c, c->shelf_groups, s->group, true);
	ADD(g->n_shelves, 1);
	heap_sift(c, s->group, g->n_shelves - 1, shelf);
}

static void shelf_leave(const struct core *c, uint32_t shelf)
{
	const struct shelf *s = shelf_at(c, shelf);
	if (s->group == CORE_NONE) {
		SET(tenant_at(c, s->tenant)->shelf, 0);
	} else {
		heap_remove(c, shelf);
		list_remove(c, LIST_SHELVES, &tenant_at(c, s->tenant)->shelves, shelf);
	}
	pool_return(c, POOL_SHELVES, shelf);
}

/* By last use.  Most claims go to the tail (just used); a parent whose last child went is about as
 * old as that child was and finds its place near the head, after at most 32 steps. */
static void insert_by_use(const struct core *c, const struct list *l, uint32_t claim)
{
	uint64_t used = claim_at(c, claim)->used_usec;
	uint32_t where = CORE_NONE;
	if (l->count && claim_at(c, list_last(l))->used_usec > used) {
		where = list_first(l);
		for (uint32_t i = 0; i < 32 && claim_at(c, where)->used_usec <= used; i++)
			where = list_next(c, LIST_LRU, where);
	}
	list_insert(c, LIST_LRU, l, claim, where);
}

static void shelf_add(const struct core *c, uint32_t claim, uint32_t group)
{
	const struct claim *k = claim_at(c, claim);
	uint32_t shelf = shelf_find(c, k->tenant, group);
	bool fresh = !shelf;
	if (fresh) {
		shelf = pool_take(c, POOL_SHELVES);
		assert(shelf);                       /* one for each tenant and group */
		SET(shelf_at(c, shelf)->tenant, k->tenant);
		SET(shelf_at(c, shelf)->group, group);
	}
	const struct shelf *s = shelf_at(c, shelf);
	SET(k->shelf, shelf);
	if (group != CORE_NONE && tenant_at(c, k->tenant)->quota.min_bytes)
		tenant_mark(c, k->tenant, DIRTY_GUARD);      /* perhaps its min wants it */
	SET(k->level, (uint8_t)hits_level(k->hits_256));
	insert_by_use(c, &s->level[k->level], claim);
	ADD(s->count, 1);
	if (fresh)
		shelf_join(c, shelf);
	else if (list_first(&s->level[k->level]) == claim)
		shelf_rekey(c, shelf);
}

/* Take a claim off its shelf. */
void claim_unlist(const struct core *c, uint32_t claim)
{
	const struct claim *k = claim_at(c, claim);
	uint32_t shelf = k->shelf;
	const struct shelf *s = shelf_at(c, shelf);
	bool head = list_first(&s->level[k->level]) == claim;
	list_remove(c, LIST_LRU, &s->level[k->level], claim);
	ADD(s->count, -1);
	SET(k->shelf, 0);
	if (!s->count)
		shelf_leave(c, shelf);
	else if (head)
		shelf_rekey(c, shelf);
}

/* Keep the claim among the candidates iff its page is in memory to stay, nobody of its domain holds it or has a
 * child of it there, and no pin does; on its tenant's own shelf iff the tenant's min keeps it and nothing below
 * it. */
void claim_relist(const struct core *c, uint32_t number)
{
	const struct claim *k = claim_at(c, number);
	const struct node *n = node_at(c, k->node);
	bool want = k->complete && !k->holds && n->present && !n->pins &&
		    !(k->guarded ? k->guarded_children : k->near);
	uint32_t group = k->guarded ? CORE_NONE : k->home;
	if (k->shelf && (!want || shelf_at(c, k->shelf)->group != group || k->level != hits_level(k->hits_256)))
		claim_unlist(c, number);
	if (want && !k->shelf)
		shelf_add(c, number, group);
}

/* It is used now: what its hits were before has halved meanwhile.  The caller lists it again. */
void claim_use(const struct core *c, uint32_t number)
{
	const struct claim *k = claim_at(c, number);
	if (k->shelf)
		claim_unlist(c, number);
	SET(k->hits_256, (uint16_t)hits_now(k->hits_256, k->used_usec, c->now_usec));
	SET(k->used_usec, c->now_usec);
}

/* A sequence that holds it had it computed, or need not compute it. */
void claim_hit(const struct core *c, uint32_t number)
{
	const struct claim *k = claim_at(c, number);
	assert(k->holds && !k->shelf);
	SET(k->hits_256, (uint16_t)(k->hits_256 < UINT16_MAX - 256 ? k->hits_256 + 256 : UINT16_MAX));
}

/* As if used now, though it was not. */
void claim_touch(const struct core *c, uint32_t number)
{
	claim_use(c, number);
	claim_relist(c, number);
}

/* The tenant's candidate that goes first, of all groups; 0: none.  Its min keeps nothing from itself: where
 * nothing else is left, what it keeps goes. */
uint32_t tenant_first(const struct core *c, uint32_t tenant)
{
	const struct tenant *t = tenant_at(c, tenant);
	uint32_t best = 0;
	for (uint32_t s = list_first(&t->shelves); s != CORE_NONE; s = list_next(c, LIST_SHELVES, s))
		if (!best || shelf_at(c, s)->key < shelf_at(c, best)->key)
			best = s;
	if (best)
		return shelf_first(c, best);
	uint32_t kept = t->shelf ? shelf_first(c, t->shelf) : CORE_NONE;
	return kept != CORE_NONE && !claim_at(c, kept)->near ? kept : 0;
}

/* The tenant's candidate that goes last; 0: none. */
uint32_t tenant_last(const struct core *c, uint32_t tenant)
{
	uint32_t best = 0;
	const struct list *own = &tenant_at(c, tenant)->shelves;
	for (uint32_t s = list_first(own); s != CORE_NONE; s = list_next(c, LIST_SHELVES, s))
		for (uint32_t i = 0; i < SHELF_LEVELS; i++) {
			uint32_t k = list_last(&shelf_at(c, s)->level[i]);
			if (k != CORE_NONE && (!best || claim_value(c, k) > claim_value(c, best)))
				best = k;
		}
	return best;
}
