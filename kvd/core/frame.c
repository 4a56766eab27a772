/* frame.c - page-sized slots of an extent, and the only place where a frame's state changes.
 *
 * Owns struct frame's word.  The arrows, and who performs each:
 *
 *   FREE        -> OPEN         page_open        a sequence leased it; its engine may write it
 *   FREE        -> FILLING      share_*, copy_*  target of the mover
 *   OPEN        -> SEALED       seq_seal         bytes fixed for ever
 *   OPEN        -> RETIRING     page_drop        its sequence closed, shrank or was preempted
 *   OPEN        -> QUARANTINED  engine_hangup    its engine died and may still write it
 *   SEALED      -> COOL         page_tidy        no table names it; still found by its claims
 *   SEALED      -> RETIRING     page_drop        not in the index, or another copy replaces it
 *   SEALED      -> QUARANTINED  page_drop        likewise, and its engine is dead but not quiet
 *   COOL        -> SEALED       hold_take        found again
 *   COOL        -> RETIRING     page_drop        reclaimed
 *   SEALED, COOL -> RETIRING    page_relocate    its page lives in another frame now
 *   FILLING     -> OPEN         seq_copied       the copy is there, a sequence writes on
 *   FILLING     -> COOL         share_moved      the shared copy is there
 *   FILLING     -> COOL         page_relocate    the page was copied out of a sparse extent
 *   FILLING     -> RETIRING     share_moved, seq_copied, compact_moved   the mover failed or nobody
 *                               wants it
 *   FILLING     -> QUARANTINED  seq_copied       likewise, and its engine is dead but not quiet
 *   RETIRING    -> FREE         job_moved        every step that saw it is done, and it is zero
 *   QUARANTINED -> RETIRING     retire_engine_quiet
 *
 * Invariant: FREE means zero bytes.  A frame belongs to an ASSIGNED extent whenever it is not FREE.
 *  */
#include "kvd/core/parts.h"

enum { EXTENT_LOOKS = 64 };

#define TO(state) (1u << KVD_FRAME_##state)
static const uint16_t frame_moves[KVD_FRAME_STATES] = {
	[KVD_FRAME_FREE] = TO(OPEN) | TO(FILLING),
	[KVD_FRAME_OPEN] = TO(SEALED) | TO(RETIRING) | TO(QUARANTINED),
	[KVD_FRAME_SEALED] = TO(COOL) | TO(RETIRING) | TO(QUARANTINED),
	[KVD_FRAME_COOL] = TO(SEALED) | TO(RETIRING),
	[KVD_FRAME_FILLING] = TO(OPEN) | TO(COOL) | TO(RETIRING) | TO(QUARANTINED),
	[KVD_FRAME_RETIRING] = TO(FREE),
	[KVD_FRAME_QUARANTINED] = TO(RETIRING),
};
#undef TO

static bool holds_kv(enum kvd_frame_state state)
{
	const uint32_t kv = 1u << KVD_FRAME_OPEN | 1u << KVD_FRAME_SEALED | 1u << KVD_FRAME_COOL;
	return kv >> state & 1u;
}

/* owner: tenant whose bytes it holds from now on; kept as it is unless the frame leaves FREE. */
void frame_move(const struct core *c, uint32_t f, enum kvd_frame_state to, uint32_t owner)
{
	const struct frame *frame = frame_at(c, f);
	uint64_t word = frame->word;
	enum kvd_frame_state from = FRAME_STATE(word);
	uint32_t x = extent_of(c, f);
	const struct extent *extent = extent_at(c, x);
	assert(frame_moves[from] >> to & 1u);
	assert(extent->state == KVD_EXTENT_ASSIGNED);
	const struct group *g = &c->groups[extent->group];
	uint32_t generation = FRAME_GENERATION(word);
	if (from != KVD_FRAME_FREE)
		owner = FRAME_OWNER(word);
	if (to == KVD_FRAME_FREE) {
		assert(!frame->page && !frame->pins);
		generation = (generation + 1) & 0xffffu;
		owner = 0;
		list_push_head(c, LIST_FRAMES, &extent->free, f);
	}
	SET(frame->word, FRAME_WORD(to, g->colour, generation, owner));

	const struct space *s = &c->spaces[g->space];
	TOUCH_FIELDS(TOUCH_SPACE, s, frames, frames);
	TOUCH_FIELDS(TOUCH_EXTENT, extent, frames, bucket);
	TOUCH_FIELDS(TOUCH_GROUP, g, busy_extents, wanted);
	PUT(s->frames[from], s->frames[from] - 1);
	PUT(s->frames[to], s->frames[to] + 1);
	PUT(extent->frames[from], extent->frames[from] - 1);
	PUT(extent->frames[to], extent->frames[to] + 1);
	PUT(g->retiring, g->retiring + (to == KVD_FRAME_RETIRING) - (from == KVD_FRAME_RETIRING));
	if (holds_kv(from) != holds_kv(to))
		ADD(c->physical_bytes, holds_kv(to) ? s->page_bytes : -s->page_bytes);
	extent_counts_changed(c, x, from, to);
}

/* The fullest extent of a group that a frame may be taken from.  An idle one comes to be in use by it: only where no
 * reservation counts on it; what is cached in the busy ones goes first. */
static uint32_t extent_for_frame(const struct core *c, uint32_t group)
{
	const struct group *g = &c->groups[group];
	bool spare = extent_spare(c, group);
	uint32_t looks = 0;
	for (uint32_t b = 0; b < BUCKETS; b++)
		for (uint32_t x = list_first(&g->partial[b]); x != CORE_NONE && looks < EXTENT_LOOKS;
		     x = list_next(c, LIST_PARTIAL, x), looks++)
			if (spare || extent_busy(c, x))
				return x;
	return CORE_NONE;
}

/* Take a free frame of a group: of the preferred extent, else of the fullest one. */
uint32_t frame_take(const struct core *c, uint32_t group, uint32_t prefer, enum kvd_frame_state to,
		    uint32_t owner)
{
	uint32_t x = CORE_NONE;
	if (prefer != CORE_NONE && extent_at(c, prefer)->bucket && extent_at(c, prefer)->group == group &&
	    (extent_busy(c, prefer) || extent_spare(c, group)))
		x = prefer;
	if (x == CORE_NONE)
		x = extent_for_frame(c, group);
	if (x == CORE_NONE)
		return CORE_NONE;
	const struct extent *extent = extent_at(c, x);
	uint32_t f = list_first(&extent->free);
	if (f != CORE_NONE) {
		list_remove(c, LIST_FRAMES, &extent->free, f);
	} else {
		assert(extent->high < extent->n_frames);
		f = (x << c->slot_bits) + extent->high;
		ADD(extent->high, 1);
	}
	assert(frame_state(c, f) == KVD_FRAME_FREE);
	frame_move(c, f, to, owner);
	if (c->taker != owner)
		SET(c->taker, owner);
	return f;
}
