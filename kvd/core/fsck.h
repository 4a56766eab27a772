/* fsck.h - what the two halves of the checker share. */
#ifndef KVD_CORE_FSCK_H
#define KVD_CORE_FSCK_H

#include "kvd/core/parts.h"

/* Sums of numbers said less things found, each times a weight of its own: zero if all of them agree. */
enum balance_of {
	BALANCE_HOLDS, BALANCE_CHILDREN, BALANCE_NEAR, BALANCE_GUARDED, /* of claims */
	BALANCE_PINS, BALANCE_PUBLICS,                                  /* of nodes */
	BALANCE_PINNED,                                                 /* of extents */
	BALANCES
};

struct check {
	const struct core *c;
	void (*report)(void *arg, const char *problem);
	void *arg;
	uint32_t problems;
	uint64_t pages;
	bool whole;  /* every record is looked at, or it is production's sample */
	/* what the whole check has seen so far */
	uint64_t indexed, copies, claims, page_holds, cool_listed, ready, node_refs, away, cached_bytes;
	uint32_t pins, publics, pinned_extents, pinned_frames;
	uint64_t balance[BALANCES];
	bool broken; /* a number points outside its array: following it is not safe */
};

void fsck_problem(struct check *k, const char *sentence, uint64_t number);
bool fsck_list_walk(struct check *k, enum list_kind kind, const struct list *l, uint64_t bound, const char *name);

/* A walk over a list from both ends, in turns: so the memory is asked for two records at a time.  Links agree in
 * both directions and the head has none before it, so no record comes twice; the halves meet. */
struct fsck_walk { uint32_t front, back, n_front, n_back, at; bool broken; }; /* records + 1; at: the record */

static inline bool fsck_walk_next(const struct check *k, enum list_kind kind, const struct list *l, uint64_t bound,
				  struct fsck_walk *w)
{
	const struct core *c = k->c;
	if (w->broken || w->n_front + w->n_back >= l->count)
		return false;
	bool forward = w->n_front <= w->n_back;
	uint32_t last = forward ? w->front : w->back, r = forward ? l->head : l->tail;
	if (last)
		r = forward ? list_link(c, kind, last - 1)->next : list_link(c, kind, last - 1)->prev;
	if (!r || r > bound) {
		w->broken = true;
		return false;
	}
	struct link link = *list_link(c, kind, r - 1);
	w->broken = (forward ? link.prev : link.next) != last;
	*(forward ? &w->front : &w->back) = r;
	*(forward ? &w->n_front : &w->n_back) += 1;
	w->at = r - 1;
	uint32_t ahead = forward ? link.next : link.prev;
	if (ahead && ahead <= bound)
		__builtin_prefetch(list_link(c, kind, ahead - 1));
	return !w->broken;
}

/* After the last: was it a list?  A broken one is a problem, by name. */
static inline bool fsck_walk_end(struct check *k, enum list_kind kind, const struct list *l,
				 const struct fsck_walk *w, const char *name)
{
	bool meet = !w->broken && w->n_front + w->n_back == l->count;
	if (meet && !w->n_front)
		meet = !l->head && !l->tail;
	else if (meet)
		meet = list_link(k->c, kind, w->front - 1)->next == w->back &&
		       (w->back ? list_link(k->c, kind, w->back - 1)->prev : l->tail) == w->front;
	if (!meet)
		fsck_problem(k, name, w->at);
	return meet;
}

/* Count a problem unless `ok`; the sentence gets the record's number. */
static inline void fsck_check(struct check *k, bool ok, const char *sentence, uint64_t number)
{
	if (!ok)
		fsck_problem(k, sentence, number);
}
/* Walk a list: links agree in both directions, count is right.  False: do not walk it.  (Inline: most of
 * the thousands of lists are empty, and the simulator asks every 64th event.) */
static inline bool fsck_list(struct check *k, enum list_kind kind, const struct list *l, uint64_t bound,
			     const char *name)
{
	if (!l->head && !l->tail && !l->count)
		return true;
	if (l->count == 1 && l->head == l->tail && l->head && l->head <= bound) {
		const struct link *link = list_link(k->c, kind, l->head - 1);
		if (!link->prev && !link->next)
			return true;
	}
	return fsck_list_walk(k, kind, l, bound, name);
}
/* Of (a, b): any number that no other pair has. */
static inline uint64_t fsck_weight(const struct check *k, uint32_t a, uint32_t b)
{
	uint64_t x = ((uint64_t)a << 32 | b) ^ k->c->config.hash_key[0];
	x = (x ^ x >> 32) * 0xd6e8feb86659fd93ull;
	x = (x ^ x >> 32) * 0xd6e8feb86659fd93ull;
	return (x ^ x >> 32) | 1u;
}
/* One extent: its frames, their pages, its counts and its free list.  Returns the frames looked at. */
uint32_t fsck_extent(struct check *k, uint32_t x);
/* One node of the index with its copies and claims. */
void fsck_node(struct check *k, uint32_t number);
/* Every number names a record that exists; false: do not follow any. */
bool fsck_links(struct check *k);
void fsck_index(struct check *k);     /* nodes, claims, charges; after the frames */
void fsck_slot_found(struct check *k, uint32_t claim); /* a table slot of it */
void fsck_balances(struct check *k);  /* last: claims against what others say of them */
void fsck_spill(struct check *k);     /* the spill tier; after the index */
void fsck_spill_node(struct check *k, uint32_t number, const struct node *n);
void fsck_leaving(struct check *k, uint32_t page, const struct page *p);
void fsck_steer(struct check *k);     /* pins and publications; after the index */
void fsck_steer_node(struct check *k, uint32_t number, const struct node *n);
void fsck_extent_pins(struct check *k, uint32_t x);
void fsck_pinned_copy(struct check *k, uint32_t frame);
void fsck_claim(struct check *k, uint32_t claim, const struct node *n); /* shelf and floor of one */
void fsck_tenants(struct check *k);   /* shelves, floors, classes, ledger; after the others */
void fsck_sequences(struct check *k); /* rows, holds, waits, promises, reservations */

#endif
