/* compact.c - live compaction: a sparse extent is emptied into its neighbours, so that it comes free.
 *
 * An extent with one page in use cannot be given to another engine or space, however much of it is
 * unused.  When memory is short (somebody waits, or few extents are left that are not busy), the
 * group (space, colour) with most unused frames in busy extents gives one up: of its extents the one
 * with least in use.  That extent hands out no frames any more (extent_evacuate); each page in it is
 * copied by the mover to a frame of another extent of the same group; when the copy is there, the
 * page names the new frame, the tables of its holders are switched, and the old frame retires by
 * epoch.  The page stays the same page: its holders, claims and node do not notice.  OPEN pages are
 * being written and stay until they are sealed; new ones are opened elsewhere.  The empty extent is
 * drained as any idle one (extent.c).
 *
 * One extent at a time.  It is left alone again when its group needs the frames itself, when its
 * engine dies, or when it does not get empty in time: a stalled sequence's open page must not hold
 * up the others.  Nothing waits for compaction; whoever waits for memory just gets it sooner. */
#include "kvd/core/parts.h"

enum {
	MOVES_PER_EVENT = 16,
	PATIENCE_USEC = 2000000,       /* a sequence that decodes seals a page in this time */
	AGAIN_USEC = 20000,            /* between two looks at the extent, or for one */
};

static uint32_t busy_frames(const struct extent *e)
{
	return e->frames[KVD_FRAME_OPEN] + e->frames[KVD_FRAME_SEALED] + e->frames[KVD_FRAME_FILLING] +
	       e->frames[KVD_FRAME_QUARANTINED];
}

/* Frames of the group that would be unused without extent x, after x's pages have found room. */
static bool group_can_spare(const struct core *c, const struct group *g, const struct extent *e)
{
	uint64_t n = c->spaces[g->space].geometry.n_frames, busy = busy_frames(e);
	uint64_t unused = (g->busy_extents - 1) * n - (g->busy_frames - busy);
	return unused >= g->reserved + busy + e->frames[KVD_FRAME_COOL] + n / 8 + 1;
}

static bool extent_movable(const struct core *c, const struct group *g, const struct extent *e)
{
	return e->state == KVD_EXTENT_ASSIGNED && !e->draining && !e->idle_listed && e->mapped == e->acked &&
	       !e->frames[KVD_FRAME_FILLING] && !e->frames[KVD_FRAME_QUARANTINED] &&
	       (!e->evacuated_usec || e->evacuated_usec + PATIENCE_USEC <= c->now_usec) && group_can_spare(c, g, e);
}

static bool group_alive(const struct core *c, const struct group *g)
{
	return g->engine == CORE_NONE ? c->spaces[g->space].engines != 0
				      : c->engines[g->engine].state == ENGINE_LIVE;
}

/* The sparsest extent of the group that wastes most; CORE_NONE: none is worth it. */
static uint32_t extent_choose(const struct core *c)
{
	uint32_t best = CORE_NONE, least = UINT32_MAX;
	uint64_t most = 0;
	const struct group *waster = NULL;
	for (uint32_t i = 0; i < GROUPS_MAX; i++) {
		const struct group *g = &c->groups[i];
		if (g->busy_extents < 2 || g->pending.count || !group_alive(c, g))
			continue;
		const struct space *space = &c->spaces[g->space];
		uint64_t n = space->geometry.n_frames, unused = g->busy_extents * n - g->busy_frames;
		if (unused < g->reserved + n + n / 4 + 1)
			continue;
		uint64_t waste = (unused - g->reserved) * space->page_bytes;
		if (waste <= most)
			continue;
		most = waste;
		waster = g;
	}
	if (!waster)
		return CORE_NONE;
	for (uint32_t x = list_first(&waster->extents); x != CORE_NONE; x = list_next(c, LIST_EXTENTS, x)) {
		const struct extent *e = extent_at(c, x);
		uint32_t cost = 2 * busy_frames(e) + e->frames[KVD_FRAME_COOL] + 8 * e->frames[KVD_FRAME_OPEN];
		if (cost < least && extent_movable(c, waster, e)) {
			best = x;
			least = cost;
		}
	}
	return best;
}

/* Is anybody short of memory?  Not a sequence that is admitted and waits while extents are free or on
 * their way: it waits for these, and to make room then would cost somebody his cached pages for
 * nothing, and tell him of it. */
static bool wanted(const struct core *c)
{
	uint32_t few = c->n_extents / 32 + 1;
	if (c->n_extents - c->busy_extents < c->wanted + few)
		return true;
	return c->queue.count || (c->waiting && !c->unassigned.count && !extents_coming(c));
}

void compact_stop(const struct core *c)
{
	uint32_t x = c->evacuating - 1;
	SET(extent_at(c, x)->evacuated_usec, c->now_usec);
	extent_evacuate(c, x, false);
}

/* Where a page of extent x may go: for the shared colour only what every engine of x has mapped. */
static uint32_t target_extent(const struct core *c, const struct group *g, const struct extent *e)
{
	uint32_t tries = 0;
	for (uint32_t b = 0; b < BUCKETS; b++)
		for (uint32_t x = list_first(&g->partial[b]); x != CORE_NONE && tries < 64;
		     x = list_next(c, LIST_PARTIAL, x), tries++)
			if (!(e->mapped & ~extent_at(c, x)->acked) && !extent_at(c, x)->idle_listed)
				return x;
	return CORE_NONE;
}

/* Begin to copy the page in frame f.  False: no frame or no job for it now. */
static bool move_start(const struct core *c, uint32_t f)
{
	uint32_t x = extent_of(c, f), number = extent_at(c, x)->group;
	uint32_t to = target_extent(c, &c->groups[number], extent_at(c, x));
	if (to == CORE_NONE || c->jobs_in[JOB_MOVE] >= PAGE_MOVES_MAX)
		return false;
	uint32_t target = frame_take(c, number, to, KVD_FRAME_FILLING, FRAME_OWNER(frame_at(c, f)->word));
	if (target == CORE_NONE)
		return false;
	uint32_t job = job_new(c, JOB_MOVE, CORE_MOVE_COPY, number, f, CORE_NONE, target);
	assert(job);
	SET(c->job[job].source_page, frame_at(c, f)->page);
	job_start(c, job);
	return true;
}

/* A page that nothing else is done to at the moment. */
static bool page_at_rest(const struct core *c, uint32_t f)
{
	enum kvd_frame_state state = frame_state(c, f);
	if ((state != KVD_FRAME_SEALED && state != KVD_FRAME_COOL) || frame_at(c, f)->pins)
		return false;
	uint32_t node = page_at(c, frame_at(c, f)->page)->node;
	return !node || !node_at(c, node)->job;
}

/* Go on with the extent from where the last event stopped. */
static void evacuate_on(const struct core *c, uint32_t x)
{
	const struct extent *e = extent_at(c, x);
	const struct group *g = &c->groups[e->group];
	uint32_t started = 0;
	while (c->evacuate_next < e->high && started < MOVES_PER_EVENT && act_room(c)) {
		uint32_t f = (x << c->slot_bits) + c->evacuate_next;
		bool held = frame_state(c, f) == KVD_FRAME_SEALED;
		if (page_at_rest(c, f) && move_start(c, f))
			started++;
		else if (held && page_at_rest(c, f))
			break;                 /* no room now; a cached page without room stays behind */
		SET(c->evacuate_next, c->evacuate_next + 1);
	}
	if (c->evacuate_next < e->high && !started && !g->retiring && !c->jobs_in[JOB_MOVE])
		/* what is in use goes before what is cached */
		reclaim_run(c, e->group, MOVES_PER_EVENT, RECLAIM_PATIENT);
	if (c->compact_usec > c->now_usec)
		return;
	if (c->evacuate_next >= e->high && !c->jobs_in[JOB_MOVE])
		SET(c->evacuate_next, 0);      /* what was open or busy then may be at rest now */
	SET(c->compact_usec, c->now_usec + AGAIN_USEC);
}

void compact_pump(const struct core *c)
{
	if (c->evacuating) {
		blame(c, CORE_NONE, KVD_RECLAIM_EXTENT);
		uint32_t x = c->evacuating - 1;
		const struct extent *e = extent_at(c, x);
		const struct group *g = &c->groups[e->group];
		if (e->draining)
			extent_evacuate(c, x, false);      /* emptied, on somebody else's behalf too */
		else if (!group_alive(c, g) || e->evacuated_usec + PATIENCE_USEC <= c->now_usec) {
			compact_stop(c);
		} else if (e->idle_listed && !c->jobs_in[JOB_MOVE]) {
			ADD(c->compactions, 1);
			extent_evacuate(c, x, false);
			extent_drain(c, x);
		} else {
			evacuate_on(c, x);
		}
		return;
	}
	/* Looked at now, whatever comes of it: the tick for who waits is never in the past. */
	if (c->compact_usec > c->now_usec || (!c->waiting && !wanted(c)))
		return;
	blame(c, CORE_NONE, KVD_RECLAIM_EXTENT);
	SET(c->compact_usec, c->now_usec + AGAIN_USEC);
	uint32_t x = wanted(c) ? extent_choose(c) : CORE_NONE;
	if (x == CORE_NONE)
		return;
	SET(extent_at(c, x)->evacuated_usec, c->now_usec);
	SET(c->evacuate_next, 0);
	extent_evacuate(c, x, true);
	if (c->evacuating)
		evacuate_on(c, x);
}

uint64_t compact_tick_usec(const struct core *c)
{
	return c->evacuating || c->waiting ? c->compact_usec : UINT64_MAX;
}

/* May every holder's engine read the frame? */
static bool holders_can_read(const struct core *c, const struct page *p, uint32_t frame)
{
	uint64_t acked = extent_at(c, extent_of(c, frame))->acked;
	for (uint32_t h = list_first(&p->holders); h != CORE_NONE; h = list_next(c, LIST_HOLDERS, h))
		if (!(acked >> seq_at(c, hold_at(c, h)->seq)->engine & 1u))
			return false;
	return true;
}

/* The mover has copied: the page lives there now, if it is still that page and at rest. */
void compact_moved(const struct core *c, uint32_t job, bool ok)
{
	const struct job *j = &c->job[job];
	uint32_t f = j->source, target = j->target, number = j->source_page;
	const struct page *p = page_at(c, number);
	bool same = frame_at(c, f)->page == number && number;
	/* Ours is one pin; another job that began meanwhile knows the page by its old frame. */
	bool rest = same && frame_at(c, f)->pins == 1 && (!p->node || !node_at(c, p->node)->job);
	if (!ok || !rest || !group_alive(c, group_of_frame(c, f)) || !holders_can_read(c, p, target)) {
		frame_retire(c, target, false);
		return;
	}
	page_relocate(c, number, target);
	ADD(c->moved_pages, 1);
	if (p->node)
		share_relocated(c, p->node);
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
		wake_all(c, &c->engines[i].ack_waiters);   /* perhaps for the extent it was in */
}
