/* watermark.c - memory is made free before anybody waits for it.
 *
 *   low    less than this is available: reclaim begins in the background, a slice an event
 *   high   so much is available: it ends
 *   min    less than this: slices are larger.  Who finds no frame now waits for one (direct reclaim, admit.c): that
 *          is what pressure counts.
 * Available is what is free, and what comes free without anybody's doing: frames that retire or are being written
 * to disk, extents on their way.  What goes is what the plan says, of all groups.
 *
 * The marks are parts of the pool: 1/64, 1/32, 1/16.  They only shift when cached pages go, not which. */
#include "kvd/core/parts.h"

enum { SLICE = PLAN_STEP, SLICE_BELOW_MIN = 8 * PLAN_STEP };

struct watermarks watermarks(const struct core *c)
{
	return (struct watermarks){ .min_bytes = c->config.pool_bytes / 64, .low_bytes = c->config.pool_bytes / 32,
		.high_bytes = c->config.pool_bytes / 16 };
}

uint64_t available_bytes(const struct core *c)
{
	uint64_t extents = (uint64_t)c->extents_in[KVD_EXTENT_BARE] + c->extents_in[KVD_EXTENT_UNASSIGNED] +
			   c->extents_in[KVD_EXTENT_LEAVING] + c->extents_in[KVD_EXTENT_SCRUB];
	uint64_t bytes = frame_bytes_in(c, KVD_FRAME_FREE) + frame_bytes_in(c, KVD_FRAME_RETIRING) +
			 extents * c->config.extent_bytes;
	for (uint32_t r = list_first(&c->spilling); r != CORE_NONE; r = list_next(c, LIST_SPILLS, r))
		bytes += page_bytes_of_space(c, node_at(c, spill_at(c, r)->node)->space);
	return bytes;
}

/* What letting go of a candidate looks at, as far as its node says: the plan has just read that. */
static void candidate_fetch(const struct core *c, const struct reclaim_candidate *next)
{
	const struct node *n = node_at(c, next->node);
	fetch_record(n, sizeof(*n));
	fetch_record(claim_at(c, next->claim), sizeof(struct claim));
	__builtin_prefetch(node_bucket(c, n->hash));
	if (n->copies.head) {
		const struct page *p = page_at(c, list_first(&n->copies));
		fetch_record(p, sizeof(*p));
		__builtin_prefetch(frame_at(c, p->frame));
	}
	if (n->parent)
		fetch_record(node_at(c, n->parent), sizeof(*n));
}

void watermark_pump(const struct core *c)
{
	struct watermarks mark = watermarks(c);
	uint64_t available = available_bytes(c);
	if (!c->reclaiming && available >= mark.low_bytes)
		return;
	if (!c->reclaiming)
		SET(c->reclaiming, 1);
	uint32_t slice = available < mark.min_bytes ? SLICE_BELOW_MIN : SLICE, gone = 0;
	struct reclaim_candidate plan[PLAN_STEP];
	blame(c, c->taker, KVD_RECLAIM_BACKGROUND);
	while (available < mark.high_bytes && gone < slice) {
		uint32_t n = reclaim_plan(c, (struct reclaim_scope){ CORE_NONE, CORE_NONE }, plan, PLAN_STEP);
		if (!n)
			break;
		for (uint32_t i = 0; i < n && available < mark.high_bytes &&
				     tenant_at(c, plan[i].tenant)->class == plan[i].class; i++) {
			if (i + 2 < n)
				candidate_fetch(c, &plan[i + 2]);
			if (guard_spares(c, plan[i].claim)) /* or an earlier one took it along */
				continue;
			if (!reclaim_out(c, plan[i].claim, RECLAIM_PATIENT))
				return;          /* goes on when a write to disk has ended */
			available += plan[i].frees_bytes;
			gone++;
		}
	}
	if (available >= mark.high_bytes || !gone)
		SET(c->reclaiming, 0);
	else
		SET(c->more, 1);
}
