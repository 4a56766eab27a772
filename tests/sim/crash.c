/* crash.c - kvd is killed at a store to its book, and another one goes on with it.
 *
 * The kill is a jump out of core_step() or core_next_action() just before the n-th store: what lies in
 * the book then is what SIGKILL at that instruction would leave there.  While kvd is down its peers
 * go on: engines compute from the tables they have, consume what was published, and write submissions
 * that wait in their rings; the mover finishes jobs that nobody hears of.  Then crash_adopt() does what
 * kvd's shell does (docs/decisions/0004-*.md): the mover ends, core_adopt(), fresh tables, the queue,
 * jobs in flight reported as failed, extents populated again, no stamp until every engine has switched,
 * and the events that the dead kvd had not committed. */
#include "tests/sim/sim.h"
#include "kvd/core/book.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

uint64_t crash_adoptions, crash_stores_tried;

static jmp_buf death;
static uint32_t countdown;
static bool guarded;
static struct core_event interrupted;
static uint64_t interrupted_at;                /* world.events of it; 0: none */

void core_book_hook(const void *address, size_t size)
{
	crash_every_hook(address, size);
	if (guarded && countdown && !--countdown) {
		guarded = false;
		longjmp(death, 1);
	}
}

static void kvd_died(struct world *w)
{
	w->down = true;
	w->stamp = false;
	w->adopting = false;
	w->n_touched = 0;
}

static void queue_drain(struct world *w)
{
	struct core_action a;
	while (core_next_action(w->core, &a))
		world_perform(w, &a);
}

/* Take the event, or with NULL drain the queue; false: kvd died of it. */
static bool guarded_run(struct world *w, const struct core_event *event)
{
	if (setjmp(death)) {
		kvd_died(w);
		return false;
	}
	guarded = true;
	if (event)
		world_run(w, event);
	else
		queue_drain(w);
	guarded = false;
	return true;
}

static void crash_step(struct world *w, const struct core_event *event)
{
	uint64_t at = w->events;
	crash_every_begin(w->core);
	if (guarded_run(w, event)) {
		crash_every_end(w->core);
		return;
	}
	interrupted = *event;
	interrupted_at = at;
}

void crash_arm(struct sim *sim, uint32_t stores)
{
	sim->world->step = crash_step;
	countdown = stores;
}

void crash_disarm(void)
{
	countdown = 0;
}

/* The old mover has ended: of each job everything, a part, or nothing was done, and nobody knows. */
static void mover_ends(struct world *w)
{
	struct core_event lost;
	while (w->n_jobs) {
		switch (world_random(w, 3)) {
		case 0: world_mover_bytes(w, 0, true, &lost); break;
		case 1: world_mover_bytes(w, 0, false, &lost); break;
		default: w->jobs[0] = w->jobs[--w->n_jobs]; break;
		}
	}
	w->n_populates = 0;
	w->last_job = 0;                     /* nobody hears a copy of what it said last */
}

static uint32_t entry_of(const struct core *c, uint32_t engine, uint32_t slot, uint32_t index)
{
	const struct engine *e = &c->engines[engine];
	const struct seq *s = seq_at(c, e->seq_base + slot);
	if (e->state != ENGINE_LIVE || slot >= e->max_seqs || s->state == SEQ_EMPTY || index >= s->n_pages)
		return 0;
	uint32_t page = hold_at(c, s->row + index)->page;
	return page ? KVD_ENTRY(page_at(c, page)->frame, c->spaces[e->space].kv_format) : 0;
}

/* Fresh tables, written from the book; the engine reads the old ones until it switches. */
static void tables_fresh(struct world *w, uint32_t engine)
{
	struct world_engine *e = &w->engine[engine];
	struct core_action a = { .type = CORE_ACT_ENTRY, .engine = engine };
	for (uint32_t n = 0; n < e->max_seqs; n++) {
		struct world_slot *s = &e->slot[n];
		if (!e->behind)
			memcpy(s->fresh, s->table, sizeof(s->fresh));
		for (uint32_t i = 0; !e->behind && i < s->row_high; i++)
			if (s->table[i])
				w->viewers[KVD_ENTRY_FRAME(s->table[i])]++;
	}
	if (!e->behind) {
		e->behind_tail = e->tail;
		e->behind_msgs = e->msg_tail;
	}
	e->behind = true;
	for (a.entry.slot = 0; a.entry.slot < e->max_seqs; a.entry.slot++)
		for (a.entry.page = 0; a.entry.page < e->max_pages; a.entry.page++) {
			a.entry.entry = entry_of(w->core, engine, a.entry.slot, a.entry.page);
			if (a.entry.entry != e->slot[a.entry.slot].fresh[a.entry.page])
				world_perform(w, &a);
		}
}

/* Events that were not committed, and those that came while nobody was there. */
static void redo(struct world *w)
{
	uint32_t n = 0;
	for (; n < w->n_redo && !w->down; n++) {
		struct core_event event = w->redo[n];
		world_step(w, &event);
	}
	/* killed again: the one in hand is `interrupted`, the rest still waits */
	memmove(w->redo, w->redo + n, (w->n_redo - n) * sizeof(w->redo[0]));
	w->n_redo -= n;
}

static void adopt_book(struct world *w)
{
	char why[CORE_WHY_MAX];
	crash_every_end(w->core);
	if (!core_adopt(w->core, core_book_bytes(&w->config), &w->config, why)) {
		world_say(w, why);
		world_fail(w, "a killed kvd's book is not adopted", 0, 0);
	}
	crash_adoptions++;
	w->events = ((const struct world_shell *)core_shell(w->core))->events;
	if (interrupted_at && w->events < interrupted_at && world_said_by_peer(&interrupted)) {
		memmove(w->redo + 1, w->redo, w->n_redo * sizeof(w->redo[0])); /* before what came later */
		w->redo[0] = interrupted;
		w->n_redo++;
	}
	interrupted_at = 0;
}

void crash_adopt(struct sim *sim)
{
	struct world *w = sim->world;
	uint32_t jobs[WORLD_JOBS], n_jobs = 0, cursor = 0, extent;
	if (!w->down)
		return;
	mover_ends(w);
	adopt_book(w);
	while (core_job_in_flight(w->core, &cursor, &jobs[n_jobs]))
		n_jobs++;
	for (cursor = 0; core_populate_in_flight(w->core, &cursor, &extent);)
		w->populates[w->n_populates++] = extent;
	world_seen(w, &(struct world_record){ .kind = SEEN_ADOPTED });
	for (uint32_t e = 0; e < WORLD_ENGINES; e++)
		if (w->engine[e].attached)
			tables_fresh(w, e);
	w->n_touched = 0;
	w->down = false;
	w->adopting = true;
	if (!guarded_run(w, NULL))
		return;                      /* the queue is where it was; the next one starts again */
	w->adopting = false;
	w->stamp = w->stamp || core_stamp_pending(w->core);
	for (uint32_t i = 0; i < n_jobs && !w->down; i++) {
		struct core_event ev = { .type = CORE_EV_MOVED, .moved.job = jobs[i] };
		world_step(w, &ev);
	}
	if (!w->down)
		redo(w);
	if (!w->down)
		world_fsck(w);
}
