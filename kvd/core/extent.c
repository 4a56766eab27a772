/* extent.c - the life of one extent, and the arithmetic of what the pool can still promise.
 *
 *   BARE       -> UNASSIGNED  extent_populated   the mover gave it zeroed memory
 *   UNASSIGNED -> ASSIGNED    extent_assign      cut into frames of one (space, colour); engines
 *   map it ASSIGNED   -> LEAVING     extent_leave       every frame FREE; engines unmap it
 *   LEAVING    -> SCRUB       extent_unmapped    the last engine has unmapped it or is gone
 *   SCRUB      -> UNASSIGNED  extent_scrubbed    zero again
 *
 * An ASSIGNED extent is busy while a frame of it is OPEN, SEALED, FILLING or QUARANTINED, else
 * idle; an idle one can be emptied without taking anything from a sequence, by reclaim alone.
 *
 * The promise (core_fits): a group (space, colour) has frames that are not in use in its busy
 * extents, and may have reserved more than those; what is missing, in whole extents, is `wanted`.
 * The sum of wanted over all groups never exceeds the extents that are not busy.  Frames COOL or
 * RETIRING count as not in use: they come free without any sequence giving up anything.
 *
 * Runs inside core_step() only; does nothing itself: mapping and zeroing are actions. */
#include "kvd/core/parts.h"

static bool state_is_busy(enum kvd_frame_state state)
{
	const uint32_t busy = 1u << KVD_FRAME_OPEN | 1u << KVD_FRAME_SEALED | 1u << KVD_FRAME_FILLING |
			      1u << KVD_FRAME_QUARANTINED;
	return busy >> state & 1u;
}

static uint32_t extent_busy_frames(const struct extent *e)
{
	return e->frames[KVD_FRAME_OPEN] + e->frames[KVD_FRAME_SEALED] +
	       e->frames[KVD_FRAME_FILLING] + e->frames[KVD_FRAME_QUARANTINED];
}

bool extent_busy(const struct core *c, uint32_t x)
{
	return extent_busy_frames(extent_at(c, x)) != 0;
}

void group_recount(const struct core *c, uint32_t number)
{
	const struct group *g = &c->groups[number];
	uint64_t n_frames = c->spaces[g->space].geometry.n_frames;
	assert(n_frames);
	uint64_t unused = g->busy_extents * n_frames - g->busy_frames;
	const struct extent *leaving = c->evacuating ? extent_at(c, c->evacuating - 1) : NULL;
	if (leaving && leaving->group == number && extent_busy_frames(leaving))
		unused -= n_frames - extent_busy_frames(leaving);   /* it hands out none (compact.c) */
	if (g->reserved > unused && leaving && leaving->group == number) {
		compact_stop(c);             /* the group needs them itself; counts again */
		return;
	}
	uint64_t deficit = g->reserved > unused ? g->reserved - unused : 0;
	uint64_t wanted = (deficit + n_frames - 1) / n_frames;
	if (!wanted && g->keep && !g->busy_extents)
		wanted = 1;
	if (wanted == g->wanted)
		return;
	if (wanted < g->wanted)
		SET(c->memory_changed, 1);
	SET(c->wanted, c->wanted - g->wanted + wanted);
	SET(g->wanted, wanted);
}

void group_reserve(const struct core *c, uint32_t number, int64_t frames)
{
	const struct group *g = &c->groups[number];
	assert(frames >= 0 || g->reserved >= (uint64_t)-frames);
	TOUCH_FIELDS(TOUCH_GROUP, g, busy_extents, wanted);
	PUT(g->reserved, g->reserved + (uint64_t)frames);
	group_recount(c, number);
}

bool core_fits(const struct core *c)
{
	return c->wanted <= c->n_extents - c->busy_extents;
}

bool extent_spare(const struct core *c, uint32_t number)
{
	uint64_t own = c->groups[number].wanted;
	return c->wanted - own + (own ? own : 1) <= c->n_extents - c->busy_extents;
}

uint32_t extents_coming(const struct core *c)
{
	return c->extents_in[KVD_EXTENT_BARE] + c->extents_in[KVD_EXTENT_LEAVING] +
	       c->extents_in[KVD_EXTENT_SCRUB] + c->n_draining;
}

static void extent_state(const struct core *c, uint32_t x, enum kvd_extent_state to)
{
	const struct extent *e = extent_at(c, x);
	assert(to == (e->state == KVD_EXTENT_SCRUB ? KVD_EXTENT_UNASSIGNED
						   : (enum kvd_extent_state)(e->state + 1)));
	ADD(c->extents_in[e->state], -1);
	ADD(c->extents_in[to], 1);
	SET(e->state, to);
}

/* Keep the extent in the partial list that fits its number of free frames, if a frame of it may be
 * handed out: its engine has it mapped (the mover, who alone writes the shared colour, has all). */
static void extent_relist(const struct core *c, uint32_t x)
{
	const struct extent *e = extent_at(c, x);
	const struct group *g = &c->groups[e->group];
	uint32_t bucket = 0, n_free = e->frames[KVD_FRAME_FREE];
	bool usable = e->state == KVD_EXTENT_ASSIGNED && !e->draining && n_free && c->evacuating != x + 1;
	if (usable && g->engine != CORE_NONE)
		usable = c->engines[g->engine].state == ENGINE_LIVE && (e->acked >> g->engine & 1u);
	if (usable)
		bucket = 32u - (uint32_t)__builtin_clz(n_free); /* 1 + log2 */
	if (bucket > BUCKETS)
		bucket = BUCKETS;
	if (bucket == e->bucket)
		return;
	if (e->bucket)
		list_remove(c, LIST_PARTIAL, &g->partial[e->bucket - 1], x);
	if (bucket)
		list_push(c, LIST_PARTIAL, &g->partial[bucket - 1], x);
	SET(e->bucket, bucket);
}

static void extent_idle_list(const struct core *c, uint32_t x, bool on)
{
	const struct extent *e = extent_at(c, x);
	const struct group *g = &c->groups[e->group];
	if (e->idle_listed == on)
		return;
	if (on)
		list_push(c, LIST_IDLE, &g->idle, x);
	else
		list_remove(c, LIST_IDLE, &g->idle, x);
	SET(e->idle_listed, on);
}

static void extent_draining(const struct core *c, uint32_t x, bool on)
{
	const struct extent *e = extent_at(c, x);
	if (e->draining == on)
		return;
	SET(e->draining, on);
	ADD(c->n_draining, on ? 1 : -1);
	ADD(c->groups[e->group].n_draining, on ? 1 : -1);
}

void extent_counts_changed(const struct core *c, uint32_t x, enum kvd_frame_state from,
			   enum kvd_frame_state to)
{
	const struct extent *e = extent_at(c, x);
	const struct group *g = &c->groups[e->group];
	int delta = (int)state_is_busy(to) - (int)state_is_busy(from);
	bool relist = from == KVD_FRAME_FREE || to == KVD_FRAME_FREE;
	if (delta) {
		uint32_t busy = extent_busy_frames(e);
		TOUCH_FIELDS(TOUCH_GROUP, g, busy_extents, wanted);
		PUT(g->busy_frames, g->busy_frames + (uint32_t)delta);
		if (delta > 0 && busy == 1) {
			ADD(g->busy_extents, 1);
			ADD(c->busy_extents, 1);
			relist = true;
			extent_draining(c, x, false);
			extent_idle_list(c, x, false);
		} else if (delta < 0 && !busy) {
			ADD(g->busy_extents, -1);
			ADD(c->busy_extents, -1);
			SET(e->idle_usec, c->now_usec);
			extent_idle_list(c, x, true);
		}
		group_recount(c, e->group);
	}
	if (delta < 0 || to == KVD_FRAME_FREE)
		UPDATE(c->memory_changed, 1);
	if (relist)
		extent_relist(c, x);
	if (to == KVD_FRAME_FREE)
		extent_maybe_leave(c, x);
}

/* Tell an engine to map an extent; its frames are for its tables only after its answer. */
void extent_map(const struct core *c, uint32_t x, uint32_t engine)
{
	const struct extent *e = extent_at(c, x);
	const struct group *g = &c->groups[e->group];
	assert(e->state == KVD_EXTENT_ASSIGNED && !(e->mapped >> engine & 1u));
	SET(e->mapped, e->mapped | 1ull << engine);
	if (g->engine == engine)
		ADD(g->n_unacked, 1);
	act_extent(c, ITEM_MAP, engine, x, g->engine == engine);
}

bool extent_assign(const struct core *c, uint32_t number)
{
	const struct group *g = &c->groups[number];
	const struct space *s = &c->spaces[g->space];
	uint32_t x = list_first(&c->unassigned);
	if (x == CORE_NONE)
		return false;
	const struct extent *e = extent_at(c, x);
	list_remove(c, LIST_EXTENTS, &c->unassigned, x);
	extent_state(c, x, KVD_EXTENT_ASSIGNED);
	SET(e->group, number);
	SET(e->n_frames, s->geometry.n_frames);
	SET(e->high, 0);
	SET(e->frames[KVD_FRAME_FREE], e->n_frames);
	SET(e->idle_usec, c->now_usec);
	list_push(c, LIST_EXTENTS, &g->extents, x);
	extent_idle_list(c, x, true);
	ADD(s->frames[KVD_FRAME_FREE], e->n_frames);
	ADD(c->tail_bytes, s->geometry.extent_bytes - e->n_frames * s->page_bytes);
	ADD(c->spaces[g->space].n_extents, 1);
	if (g->engine != CORE_NONE) {
		extent_map(c, x, g->engine);
	} else {
		for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
			if ((s->engines >> i & 1u) && c->engines[i].state == ENGINE_LIVE)
				extent_map(c, x, i);
	}
	extent_relist(c, x);
	return true;
}

static void extent_scrub_if_unmapped(const struct core *c, uint32_t x)
{
	const struct extent *e = extent_at(c, x);
	if (e->state != KVD_EXTENT_LEAVING || e->mapped)
		return;
	list_remove(c, LIST_EXTENTS, &c->leaving, x);
	extent_state(c, x, KVD_EXTENT_SCRUB);
	list_push(c, LIST_EXTENTS, &c->scrub_extents, x);
}

static void extent_leave(const struct core *c, uint32_t x)
{
	const struct extent *e = extent_at(c, x);
	uint32_t number = e->group;
	const struct group *g = &c->groups[number];
	const struct space *s = &c->spaces[g->space];
	assert(e->frames[KVD_FRAME_FREE] == e->n_frames && !e->switching.count);
	if (c->evacuating == x + 1)
		SET(c->evacuating, 0);
	extent_draining(c, x, false);
	extent_idle_list(c, x, false);
	list_remove(c, LIST_EXTENTS, &g->extents, x);
	extent_state(c, x, KVD_EXTENT_LEAVING);
	extent_relist(c, x);
	while (e->free.count)
		list_remove(c, LIST_FRAMES, &e->free, list_first(&e->free));
	if (g->engine != CORE_NONE && (e->mapped & ~e->acked) >> g->engine & 1u)
		ADD(g->n_unacked, -1);
	SET(e->frames[KVD_FRAME_FREE], 0);
	SET(e->scrub_space, g->space);
	ADD(s->frames[KVD_FRAME_FREE], -(uint64_t)e->n_frames);
	ADD(c->tail_bytes, -(s->geometry.extent_bytes - e->n_frames * s->page_bytes));
	list_push(c, LIST_EXTENTS, &c->leaving, x);
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
		if ((e->mapped >> i & 1u) && c->engines[i].state == ENGINE_LIVE)
			act_extent(c, ITEM_UNMAP, i, x, false);
	SET(c->memory_changed, 1);
	extent_scrub_if_unmapped(c, x);
	if (g->engine != CORE_NONE)
		engine_maybe_free(c, g->engine);
}

/* An extent without a page goes back, unless its group is about to need it: one spare saves a round
 * trip of mapping, and none is kept while a sequence waits for memory. */
void extent_maybe_leave(const struct core *c, uint32_t x)
{
	const struct extent *e = extent_at(c, x);
	if (e->state != KVD_EXTENT_ASSIGNED || e->frames[KVD_FRAME_FREE] != e->n_frames)
		return;
	const struct group *g = &c->groups[e->group];
	bool dead = g->engine != CORE_NONE ? c->engines[g->engine].state != ENGINE_LIVE
					   : !c->spaces[g->space].engines;
	uint32_t idle = g->extents.count - g->busy_extents;
	uint64_t keep = dead ? 0 : g->wanted + (!c->waiting && !g->keep);
	bool needed = g->pending.count && !e->draining && !dead;
	if (!needed && (e->draining || idle > keep))
		extent_leave(c, x);
}

/* Compaction begins or ends with an extent in use: while it lasts, its free frames are nobody's. */
void extent_evacuate(const struct core *c, uint32_t x, bool on)
{
	SET(c->evacuating, on ? x + 1 : 0);
	extent_relist(c, x);
	group_recount(c, extent_at(c, x)->group);
	SET(c->memory_changed, 1);
}

/* Empty an idle extent for somebody else: its cached pages go; when its last frame is free it
 * leaves. */
void extent_drain(const struct core *c, uint32_t x)
{
	const struct extent *e = extent_at(c, x);
	assert(e->state == KVD_EXTENT_ASSIGNED && e->idle_listed && !e->draining);
	extent_idle_list(c, x, false);
	extent_draining(c, x, true);
	extent_relist(c, x);
	for (uint32_t i = 0; i < e->high && e->frames[KVD_FRAME_COOL]; i++) {
		uint32_t f = (x << c->slot_bits) + i;
		if (frame_state(c, f) == KVD_FRAME_COOL)
			reclaim_page(c, frame_at(c, f)->page, RECLAIM_EAGER);
	}
	extent_maybe_leave(c, x);
}

/* The engine of the extent's colour has hung up: no frame of it is handed out any more. */
void extent_owner_died(const struct core *c, uint32_t x)
{
	const struct extent *e = extent_at(c, x);
	const struct group *g = &c->groups[e->group];
	if (!(e->acked >> g->engine & 1u)) {
		SET(e->acked, e->acked | 1ull << g->engine);
		ADD(g->n_unacked, -1);
	}
	extent_relist(c, x);
	extent_maybe_leave(c, x);
}

void extent_unmapped(const struct core *c, uint32_t x, uint32_t engine)
{
	const struct extent *e = extent_at(c, x);
	SET(e->mapped, e->mapped & ~(1ull << engine));
	SET(e->acked, e->acked & ~(1ull << engine));
	extent_scrub_if_unmapped(c, x);
}

/* An engine says that it has mapped (count 1) or unmapped (count 0) an extent. */
bool extent_ack(const struct core *c, uint32_t engine, uint32_t x, uint32_t count)
{
	if (x >= c->n_extents || count > 1)
		return false;
	const struct extent *e = extent_at(c, x);
	uint64_t bit = 1ull << engine;
	if (!(e->mapped & bit))
		return false;
	if (!count) {
		if (e->state != KVD_EXTENT_LEAVING)
			return false;
		extent_unmapped(c, x, engine);
		return true;
	}
	if (e->acked & bit)
		return false;
	if (e->state == KVD_EXTENT_LEAVING) { /* it will answer the unmap next */
		wake_all(c, &c->engines[engine].ack_waiters);
		return true;
	}
	SET(e->acked, e->acked | bit);
	const struct group *g = &c->groups[e->group];
	if (g->engine == engine)
		ADD(g->n_unacked, -1);
	extent_relist(c, x);
	share_acked(c, x);
	wake_all(c, &c->engines[engine].ack_waiters);
	SET(c->memory_changed, 1);
	return true;
}

void extent_populated(const struct core *c, uint32_t x)
{
	if (x >= c->n_extents || extent_at(c, x)->state != KVD_EXTENT_BARE ||
	    !extent_at(c, x)->populating)
		return;
	SET(extent_at(c, x)->populating, 0);
	ADD(c->populating, -1);
	extent_state(c, x, KVD_EXTENT_UNASSIGNED);
	list_push(c, LIST_EXTENTS, &c->unassigned, x);
	SET(c->memory_changed, 1);
}

void extent_scrubbed(const struct core *c, uint32_t x, bool ok)
{
	if (!ok) {
		list_push(c, LIST_EXTENTS, &c->scrub_extents, x);
		return;
	}
	ADD(c->spaces[extent_at(c, x)->scrub_space].n_extents, -1);
	space_maybe_free(c, extent_at(c, x)->scrub_space);
	extent_state(c, x, KVD_EXTENT_UNASSIGNED);
	list_push(c, LIST_EXTENTS, &c->unassigned, x);
	SET(c->memory_changed, 1);
}

/* A space keeps one extent of the shared colour in reserve from its second tenant or engine on, so
 * that merging can begin in a pool that has just become full; not while somebody waits. */
static void extent_keep_reserve(const struct core *c, uint32_t space)
{
	uint32_t number = group_shared(space);
	const struct group *g = &c->groups[number];
	if (c->spaces[space].many && !g->extents.count && !c->waiting && c->unassigned.count &&
	    extent_spare(c, number))
		extent_assign(c, number);
}

void extent_pump(const struct core *c)
{
	while (c->populating < POPULATES_MAX && c->populate_next < c->n_extents && act_room(c)) {
		act_extent(c, ITEM_POPULATE, 0, c->populate_next, false);
		SET(extent_at(c, c->populate_next)->populating, EXTENT_POPULATE_QUEUED);
		ADD(c->populate_next, 1);
		ADD(c->populating, 1);
	}
	while (c->scrub_extents.count && c->jobs_in[JOB_EXTENT] < EXTENT_SCRUBS_MAX &&
	       act_room(c)) {
		uint32_t x = list_first(&c->scrub_extents);
		list_remove(c, LIST_EXTENTS, &c->scrub_extents, x);
		uint32_t job = job_new(c, JOB_EXTENT, CORE_MOVE_SCRUB_EXTENT,
				       extent_at(c, x)->group, CORE_NONE, CORE_NONE, x);
		assert(job);
		job_start(c, job);
	}
	for (uint32_t space = 0; space < c->n_spaces && act_room(c); space++)
		if (c->spaces[space].live && c->spaces[space].engines)
			extent_keep_reserve(c, space);
}
