/* fsck.h - what the two halves of the checker share. */
#ifndef KVD_CORE_FSCK_H
#define KVD_CORE_FSCK_H

#include "kvd/core/parts.h"

struct check {
	const struct core *c;
	void (*report)(void *arg, const char *problem);
	void *arg;
	uint32_t problems;
	uint64_t pages;
	bool broken; /* a number points outside its array: following it is not safe */
};

void fsck_problem(struct check *k, const char *sentence, uint64_t number);
bool fsck_list_walk(struct check *k, enum list_kind kind, const struct list *l, uint64_t bound, const char *name);

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
	return (!l->head && !l->tail && !l->count) || fsck_list_walk(k, kind, l, bound, name);
}
/* One extent: its frames, their pages, its counts and its free list.  Returns the frames looked at. */
uint32_t fsck_extent(struct check *k, uint32_t x);
/* One node of the index with its copies and claims. */
void fsck_node(struct check *k, uint32_t number);
/* Every number names a record that exists; false: do not follow any. */
bool fsck_links(struct check *k);
void fsck_index(struct check *k);     /* nodes, claims, charges */
void fsck_spill(struct check *k);     /* the spill tier */
void fsck_steer(struct check *k);     /* pins and publications */
void fsck_claim(struct check *k, uint32_t claim, const struct node *n); /* shelf and floor of one */
void fsck_tenants(struct check *k);   /* shelves, floors, classes, ledger; after the others */
void fsck_sequences(struct check *k); /* rows, holds, waits, promises, reservations */

#endif
