/* fsck_sample.c - production's sample of the checker: a slice of the book at a time.
 *
 * Calls the same functions as the whole (fsck.c, fsck_index.c) on one extent or one node after the other,
 * first all extents, then all nodes, then from the beginning.  An extent is never cut in two, because its
 * counts are of all its frames; it has at most a few thousand.  A node is looked at if its lists are short
 * enough for the slice: the others are counted and left to `kvctl fsck`. */
#include "kvd/core/fsck.h"

/* What no walk is needed for. */
static void check_pool(struct check *k)
{
	const struct core *c = k->c;
	uint64_t bytes = c->tail_bytes, extents = 0;
	for (uint32_t i = 0; i < KVD_FRAME_STATES; i++)
		bytes += frame_bytes_in(c, i);
	for (uint32_t i = 0; i < KVD_EXTENT_STATES; i++) {
		extents += c->extents_in[i];
		if (i != KVD_EXTENT_ASSIGNED)
			bytes += c->extents_in[i] * c->config.extent_bytes;
	}
	fsck_check(k, bytes == c->config.pool_bytes, "the states do not add up to the pool; bytes accounted for",
		   bytes);
	fsck_check(k, extents == c->n_extents, "the extents in all states are not those of the pool", extents);
	fsck_check(k, c->nodes.count <= c->nodes.high && c->pages.count <= c->pages.high &&
			   c->claims.count <= c->claims.high,
		   "more records are in use than were ever made", c->nodes.count);
}

/* Records that checking the node visits; counts only, so that a broken list cannot hold us up. */
static uint64_t node_cost(const struct core *c, const struct node *n)
{
	uint64_t holders = 0;
	uint32_t p = list_first(&n->copies);
	for (uint32_t i = 0; p != CORE_NONE && i < n->copies.count && p <= c->pages.high; i++) {
		holders += page_at(c, p)->holders.count;
		p = list_next(c, LIST_COPIES, p);
	}
	return 1 + n->copies.count + n->waiters.count + n->claims.count * (1 + n->children.count + holders);
}

uint32_t core_fsck_sample(const struct core *core, struct core_sample *cursor, uint32_t budget,
			  void (*report)(void *arg, const char *problem), void *arg, uint32_t *ret_records)
{
	struct check k = { .c = core, .report = report, .arg = arg };
	uint64_t done = 0;
	check_pool(&k);
	while (done < budget && cursor->extent < core->n_extents)
		done += fsck_extent(&k, cursor->extent++);
	while (done < budget && !k.broken && cursor->extent >= core->n_extents && cursor->node < core->nodes.high) {
		uint32_t number = ++cursor->node;
		const struct node *n = node_at(core, number);
		uint64_t cost = 1;
		if (!n->next_free && n->live)
			cost = node_cost(core, n);
		if (cost > 1 && cost <= budget)
			fsck_node(&k, number);
		cursor->passed_over += cost > budget;
		done += cost <= budget ? cost : 1;
	}
	if (cursor->extent >= core->n_extents && cursor->node >= core->nodes.high) {
		cursor->extent = cursor->node = 0;
		cursor->swept++;
	}
	*ret_records = (uint32_t)done;
	return k.problems;
}
