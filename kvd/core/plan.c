/* plan.c - reclaim_plan(): what goes next, ranked, with the numbers.  Pure: it looks and changes nothing.
 *
 * The act (reclaim.c), the background, `kvctl evict --dry-run` and `kvctl explain` all ask this one function.
 * The order is that of shelf.c: class of the owner, then value.  It walks the heaps from their tops: a frontier
 * holds every shelf whose parent in its heap has been reached, and every shelf of which a claim was given out,
 * with the place of its next one.  So n candidates cost about n steps of the frontier's size, whatever the
 * number of pages.
 *
 * What a candidate's parent would become once it is gone is not in the plan: leaf before parent, so the parent
 * stands in the next one. */
#include "kvd/core/parts.h"

struct front {
	uint64_t key;
	uint32_t shelf, group, heap;               /* heap: place + 1; 0: its children were reached */
	uint32_t cursor[SHELF_LEVELS];
};

enum { FRONTS_MAX = GROUPS_MAX + 2 * CORE_PLAN_ROWS };

struct frontier { struct front front[FRONTS_MAX]; uint32_t n; };

static void front_add(const struct core *c, struct frontier *f, uint32_t shelf)
{
	if (!shelf || f->n == FRONTS_MAX)
		return;
	const struct shelf *s = shelf_at(c, shelf);
	struct front *front = &f->front[f->n++];
	front->key = s->key;
	front->shelf = shelf;
	front->group = s->group;
	front->heap = s->heap;
	shelf_begin(s, front->cursor);
}

static void frontier_begin(const struct core *c, struct frontier *f, struct reclaim_scope scope)
{
	f->n = 0;
	if (scope.tenant != CORE_NONE) {
		const struct tenant *t = tenant_at(c, scope.tenant);
		for (uint32_t s = list_first(&t->shelves); s != CORE_NONE; s = list_next(c, LIST_SHELVES, s))
			if (scope.group == CORE_NONE || shelf_at(c, s)->group == scope.group)
				front_add(c, f, s);
		if (scope.group == CORE_NONE)
			front_add(c, f, t->shelf);
		for (uint32_t i = 0; i < f->n; i++)
			f->front[i].heap = 0;        /* its heap holds others' as well */
		return;
	}
	uint32_t from = scope.group == CORE_NONE ? 0 : scope.group;
	uint32_t end = scope.group == CORE_NONE ? GROUPS_MAX : scope.group + 1;
	for (uint32_t g = mask_next(c->shelf_groups, from); g < end; g = mask_next(c->shelf_groups, g + 1))
		front_add(c, f, shelf_of_heap(c, g, 0));
}

static struct front *frontier_best(struct frontier *f)
{
	struct front *best = NULL;
	for (uint32_t i = 0; i < f->n; i++)
		if (!best || f->front[i].key < best->key)
			best = &f->front[i];
	return best;
}

/* Go on to the shelf's next claim. */
static void front_advance(const struct core *c, struct frontier *f, struct front *front, uint32_t level)
{
	uint32_t ignored, class = key_class(front->key);
	front->cursor[level] = list_next(c, LIST_LRU, front->cursor[level]);
	uint32_t claim = shelf_peek(c, front->cursor, &ignored);
	if (claim == CORE_NONE)
		*front = f->front[--f->n];
	else
		front->key = class_key(class, claim_value(c, claim));
}

uint32_t reclaim_plan(const struct core *c, struct reclaim_scope scope, struct reclaim_candidate *ret, uint32_t max)
{
	struct frontier f;
	uint32_t n = 0, level = 0;
	if (max > CORE_PLAN_ROWS)
		max = CORE_PLAN_ROWS;
	frontier_begin(c, &f, scope);
	for (struct front *best; n < max && (best = frontier_best(&f));) {
		uint32_t at = best->heap, group = best->group, class = key_class(best->key);
		uint32_t claim = shelf_peek(c, best->cursor, &level);
		const struct claim *k = claim_at(c, claim);
		const struct node *node = node_at(c, k->node);
		__builtin_prefetch(&claim_at(c, list_next(c, LIST_LRU, claim))->used_usec);
		uint64_t bytes = page_bytes_of_space(c, node->space);
		ret[n++] = (struct reclaim_candidate){
			.claim = claim,
			.node = k->node,
			.tenant = k->tenant,
			.class = class,
			.used_usec = k->used_usec,
			.frees_bytes = node->n_complete == 1 ? node->copies.count * bytes : 0,
			.charge_bytes = bytes,
		};
		best->heap = 0;
		front_advance(c, &f, best, level);
		if (at) {                            /* the first claim of this shelf: its children's turn */
			front_add(c, &f, shelf_of_heap(c, group, 2 * at - 1));
			front_add(c, &f, shelf_of_heap(c, group, 2 * at));
		}
	}
	return n;
}
