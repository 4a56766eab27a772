/* retire.c - how a frame that lost its last reference becomes free again, and the mover's jobs.
 *
 * A RETIRING frame passes these stations, in one list each:
 *   fresh     (its group's)   its table entries are gone; no stamp asked yet
 *   stamping  (its group's)   CORE_ACT_STAMP is out: the shell reads every step_begun past a fence
 *   a batch                   waits until step_done has reached that value in every engine that may
 *                             look at the group's extents; a dead engine counts until it is quiet
 *   scrub                     waits for a mover job (unless pinned: another job still reads it)
 * and is FREE when the mover has zeroed it.  QUARANTINED frames join at `scrub` when their engine
 * is quiet.  A mover that fails or dies is simply asked again. */
#include "kvd/core/spill.h"

enum { JOB_INDEX_BITS = 11 };
_Static_assert(JOBS_MAX < 1 << JOB_INDEX_BITS, "a job number holds the index");

static bool group_engine_dead(const struct core *c, const struct group *g)
{
	return g->engine != CORE_NONE && c->engines[g->engine].state == ENGINE_DEAD;
}

/* No step looks at it any more. */
static void frame_ready(const struct core *c, uint32_t f)
{
	const struct frame *frame = frame_at(c, f);
	assert(frame_state(c, f) == KVD_FRAME_RETIRING && !(frame->pins & FRAME_READY));
	if (frame->pins)
		SET(frame->pins, frame->pins | FRAME_READY);
	else
		list_push(c, LIST_FRAMES, &c->scrub, f);
}

void frame_unpin(const struct core *c, uint32_t f)
{
	const struct frame *frame = frame_at(c, f);
	assert(frame->pins & ~FRAME_READY);
	ADD(frame->pins, -1);
	if (frame->pins != FRAME_READY)
		return;
	SET(frame->pins, 0);
	list_push(c, LIST_FRAMES, &c->scrub, f);
}

void frame_retire(const struct core *c, uint32_t f, bool seen)
{
	uint32_t number = extent_at(c, extent_of(c, f))->group;
	const struct group *g = &c->groups[number];
	bool dead = group_engine_dead(c, g);
	if (dead && frame_state(c, f) != KVD_FRAME_COOL) {
		frame_quarantine(c, f);
		return;
	}
	frame_move(c, f, KVD_FRAME_RETIRING, 0);
	if (!seen && !dead) {
		frame_ready(c, f);
		return;
	}
	list_push(c, LIST_FRAMES, &g->fresh, f);
	mask_set(c, c->fresh_groups, number, true);
}

void frame_quarantine(const struct core *c, uint32_t f)
{
	const struct group *g = group_of_frame(c, f);
	assert(group_engine_dead(c, g));
	frame_move(c, f, KVD_FRAME_QUARANTINED, 0);
	list_push(c, LIST_FRAMES, &g->quarantined, f);
}

static void frames_ready(const struct core *c, const struct list *frames)
{
	while (frames->count) {
		uint32_t f = list_first(frames);
		list_remove(c, LIST_FRAMES, frames, f);
		frame_ready(c, f);
	}
}

/* Engines that may still use a table copy naming a frame of the group. */
static uint64_t group_viewers(const struct core *c, const struct group *g)
{
	if (g->engine == CORE_NONE)
		return c->spaces[g->space].engines;
	uint32_t state = c->engines[g->engine].state;
	return state == ENGINE_LIVE || state == ENGINE_DEAD ? 1ull << g->engine : 0;
}

/* Take out of the mask every engine whose step has passed. */
static uint64_t viewers_left(const struct core *c, uint64_t mask, const uint64_t *begun,
			     const uint64_t *done)
{
	for (uint64_t rest = mask; rest; rest &= rest - 1) {
		uint32_t e = (uint32_t)__builtin_ctzll(rest);
		if (c->engines[e].state == ENGINE_LIVE && done[e] >= begun[e])
			mask &= ~(1ull << e);
	}
	return mask;
}

static const struct batch *batch_free(const struct core *c)
{
	for (uint32_t i = 0; i < BATCHES_MAX; i++)
		if (!c->batches[i].live)
			return &c->batches[i];
	return NULL;
}

void retire_stamped(const struct core *c, const struct core_event *event)
{
	if (!c->stamp_out)
		return;
	SET(c->stamp_out, 0);
	for (uint32_t n = mask_next(c->stamping_groups, 0); n < GROUPS_MAX;
	     n = mask_next(c->stamping_groups, n + 1)) {
		const struct group *g = &c->groups[n];
		uint64_t mask =
			viewers_left(c, group_viewers(c, g), event->epoch.begun, event->epoch.done);
		mask_set(c, c->stamping_groups, n, false);
		if (!mask) {
			frames_ready(c, &g->stamping);
			continue;
		}
		const struct batch *b = batch_free(c);
		if (!b) { /* too many wait: ask for a later stamp, which is as good */
			list_splice(c, LIST_FRAMES, &g->fresh, &g->stamping);
			mask_set(c, c->fresh_groups, n, true);
			continue;
		}
		SET(b->live, 1);
		SET(b->mask, mask);
		SET_BYTES(b->begun, event->epoch.begun, sizeof(b->begun));
		list_splice(c, LIST_FRAMES, &b->frames, &g->stamping);
		ADD(c->n_batches, 1);
	}
}

static void batch_update(const struct core *c, const struct batch *b, uint64_t mask)
{
	SET(b->mask, mask);
	if (mask)
		return;
	frames_ready(c, &b->frames);
	SET(b->live, 0);
	ADD(c->n_batches, -1);
}

void retire_done(const struct core *c, const uint64_t *done)
{
	uint32_t left = c->n_batches;
	for (uint32_t i = 0; left && i < BATCHES_MAX; i++) {
		const struct batch *b = &c->batches[i];
		if (!b->live)
			continue;
		left--;
		batch_update(c, b, viewers_left(c, b->mask, b->begun, done));
	}
}

/* The engine's process is gone and the device agrees: nothing of it is waited for any more. */
void retire_engine_quiet(const struct core *c, uint32_t engine)
{
	for (uint32_t i = 0; i < BATCHES_MAX; i++)
		if (c->batches[i].live && (c->batches[i].mask >> engine & 1u))
			batch_update(c, &c->batches[i], c->batches[i].mask & ~(1ull << engine));
	const struct list *frames = &c->groups[engine].quarantined;
	while (frames->count) {
		uint32_t f = list_first(frames);
		list_remove(c, LIST_FRAMES, frames, f);
		frame_move(c, f, KVD_FRAME_RETIRING, 0);
		frame_ready(c, f);
	}
}

bool core_waits_for_steps(const struct core *core)
{
	uint64_t live = 0;
	if (!core->n_batches)
		return false;
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
		live |= (uint64_t)(core->engines[i].state == ENGINE_LIVE) << i;
	for (uint32_t i = 0; i < BATCHES_MAX; i++)
		if (core->batches[i].live && (core->batches[i].mask & live))
			return true;
	return false;
}

void retire_pump(const struct core *c)
{
	while (c->scrub.count && c->jobs_in[JOB_SCRUB] < SCRUBS_MAX && act_room(c)) {
		uint32_t f = list_first(&c->scrub);
		list_remove(c, LIST_FRAMES, &c->scrub, f);
		uint32_t job =
			job_new(c, JOB_SCRUB, CORE_MOVE_SCRUB, extent_at(c, extent_of(c, f))->group,
				CORE_NONE, CORE_NONE, f);
		assert(job);
		job_start(c, job);
	}
	/* A stamp is asked last in an event: every table entry of it is stored by then. */
	uint32_t n = mask_next(c->fresh_groups, 0);
	if (c->stamp_out || n == GROUPS_MAX || c->n_batches == BATCHES_MAX)
		return;
	for (; n < GROUPS_MAX; n = mask_next(c->fresh_groups, n + 1)) {
		list_splice(c, LIST_FRAMES, &c->groups[n].stamping, &c->groups[n].fresh);
		mask_set(c, c->fresh_groups, n, false);
		mask_set(c, c->stamping_groups, n, true);
	}
	SET(c->stamp_out, 1);
	act_stamp(c);
}

/* ---- the mover's jobs ---- */

static uint32_t job_limit(enum job_kind kind)
{
	switch (kind) {
	case JOB_SCRUB: return SCRUBS_MAX;
	case JOB_SHARE: return SHARES_MAX;
	case JOB_COPY: return COPIES_MAX;
	case JOB_EXTENT: return EXTENT_SCRUBS_MAX;
	case JOB_MOVE: return PAGE_MOVES_MAX;
	/* one more than are begun: a job that its mover's death ended is given to the next mover first */
	case JOB_SPILL: return SPILLS_MAX + 1;
	case JOB_FETCH: return FETCHES_MAX + 1;
	case JOB_NONE:
	case JOB_KINDS: break;
	}
	return 0;
}

uint32_t job_new(const struct core *c, enum job_kind kind, enum core_move move, uint32_t group,
		 uint32_t source, uint32_t peer, uint32_t target)
{
	if (c->jobs_in[kind] >= job_limit(kind))
		return 0;
	uint32_t number = pool_take(c, POOL_JOBS);
	assert(number);                      /* JOBS_MAX is the sum of the limits */
	const struct job *j = &c->job[number];
	ADD(c->job_serial, 1);
	PUT(j->generation, c->job_serial & ((1u << (32 - JOB_INDEX_BITS)) - 1u));
	PUT(j->kind, kind);
	PUT(j->move, move);
	PUT(j->group, group);
	PUT(j->source, source);
	PUT(j->peer, peer);
	PUT(j->target, target);
	if (source != CORE_NONE)
		ADD(frame_at(c, source)->pins, 1);
	if (peer != CORE_NONE)
		ADD(frame_at(c, peer)->pins, 1);
	ADD(c->jobs_in[kind], 1);
	return number;
}

uint32_t job_name(const struct core *c, uint32_t job)
{
	return c->job[job].generation << JOB_INDEX_BITS | job;
}

void job_start(const struct core *c, uint32_t job)
{
	act_move(c, job);
}

/* The mover's answer.  An unknown number is an answer to a job of before a mover's restart. */
void job_moved(const struct core *c, const struct core_event *event)
{
	uint32_t number = event->moved.job & ((1u << JOB_INDEX_BITS) - 1u);
	if (!number || number > c->jobs.high || !c->job[number].kind ||
	    c->job[number].generation != event->moved.job >> JOB_INDEX_BITS)
		return;
	const struct job *j = &c->job[number];
	switch ((enum job_kind)j->kind) {
	case JOB_SCRUB:
		if (event->moved.ok)
			frame_move(c, j->target, KVD_FRAME_FREE, 0);
		else
			list_push(c, LIST_FRAMES, &c->scrub, j->target);
		break;
	case JOB_EXTENT:
		extent_scrubbed(c, j->target, event->moved.ok);
		break;
	case JOB_SHARE:
		share_moved(c, number, event);
		break;
	case JOB_COPY:
		seq_copied(c, number, event->moved.ok);
		break;
	case JOB_MOVE:
		compact_moved(c, number, event->moved.ok);
		break;
	case JOB_SPILL:
		spill_written(c, number, event);
		break;
	case JOB_FETCH:
		spill_read(c, number, event);
		break;
	case JOB_NONE:
	case JOB_KINDS:
		break;
	}
	if (j->source != CORE_NONE)
		frame_unpin(c, j->source);
	if (j->peer != CORE_NONE)
		frame_unpin(c, j->peer);
	ADD(c->jobs_in[j->kind], -1);
	pool_return(c, POOL_JOBS, number);
}
