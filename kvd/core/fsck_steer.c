/* fsck_steer.c - the checker's part about pins and publications.
 *
 * Few nodes have any.  What a node says ends below it, and what an extent says it has of pinned pages, goes into
 * balances (fsck.h); only if these are not even are children and frames counted one by one. */
#include "kvd/core/fsck.h"

enum { OF_EXTENT = 0xfffffffdu, OF_PUBLICS, OF_PINS }; /* no domain has such a number */

/* What ends at a node and at its children, one by one. */
static void count_below(struct check *k, uint32_t number, const struct node *n)
{
	const struct core *c = k->c;
	uint32_t pins = n->pinned, publics = n->published, steps = 0;
	for (uint32_t child = list_first(&n->children); child != CORE_NONE && steps++ <= n->children.count;
	     child = list_next(c, LIST_CHILDREN, child)) {
		pins += node_at(c, child)->pins;
		publics += node_at(c, child)->publics;
	}
	fsck_check(k, n->pins == pins, "a page's pins are not those that end at and below it", number);
	fsck_check(k, n->publics == publics, "a page's publications are not those that end at and below it", number);
}

void fsck_steer_node(struct check *k, uint32_t number, const struct node *n)
{
	if (!k->whole)
		count_below(k, number, n);
	if (!n->pins && !n->publics && !n->pinned && !n->published)
		return;
	fsck_check(k, !n->pins || n->present, "a pinned page is not in memory", number);
	fsck_check(k, n->n_complete, "a page that nobody claims is pinned or published", number);
	k->pins += n->pinned;
	k->publics += n->published;
	k->balance[BALANCE_PINS] += fsck_weight(k, number, OF_PINS) * ((uint64_t)n->pins - n->pinned);
	k->balance[BALANCE_PUBLICS] += fsck_weight(k, number, OF_PUBLICS) * ((uint64_t)n->publics - n->published);
	if (!n->parent)
		return;
	k->balance[BALANCE_PINS] -= fsck_weight(k, n->parent, OF_PINS) * n->pins;
	k->balance[BALANCE_PUBLICS] -= fsck_weight(k, n->parent, OF_PUBLICS) * n->publics;
}

/* What an extent says; and what a pinned node finds. */
void fsck_extent_pins(struct check *k, uint32_t x)
{
	uint32_t n = extent_at(k->c, x)->n_pinned;
	k->pinned_extents += !!n;
	k->pinned_frames += n;
	k->balance[BALANCE_PINNED] += fsck_weight(k, x, OF_EXTENT) * n;
}

void fsck_pinned_copy(struct check *k, uint32_t frame)
{
	k->balance[BALANCE_PINNED] -= fsck_weight(k, extent_of(k->c, frame), OF_EXTENT);
}

static void count_pinned(struct check *k, uint32_t x)
{
	const struct core *c = k->c;
	const struct extent *e = extent_at(c, x);
	uint32_t here = 0;
	for (uint32_t i = 0; e->state == KVD_EXTENT_ASSIGNED && i < e->high; i++) {
		uint32_t page = frame_at(c, (x << c->slot_bits) + i)->page, node = page ? page_at(c, page)->node : 0;
		here += node && node_at(c, node)->pins;
	}
	fsck_check(k, here == e->n_pinned, "an extent's count of pinned frames is wrong", x);
}

void fsck_steer(struct check *k)
{
	const struct core *c = k->c;
	for (uint32_t i = 1; (k->balance[BALANCE_PINS] || k->balance[BALANCE_PUBLICS]) && i <= c->nodes.high; i++)
		if (!node_at(c, i)->next_free && node_at(c, i)->live)
			count_below(k, i, node_at(c, i));
	for (uint32_t x = 0; k->balance[BALANCE_PINNED] && x < c->n_extents; x++)
		count_pinned(k, x);
	fsck_check(k, k->pins == c->n_pins, "the number of pins is wrong", k->pins);
	fsck_check(k, k->publics == c->n_publics, "the number of publications is wrong", k->publics);
	fsck_check(k, k->pinned_extents == c->pinned_extents,
		   "the number of extents with pinned frames is wrong", k->pinned_extents);
	fsck_check(k, k->pinned_frames == c->pinned_frames, "the number of pinned frames is wrong", k->pinned_frames);
}
