/* core_world_engine.c - what a fake engine does with its slots: programs, steps, completions. */
#include "tests/lib/core_world.h"

#include <stdio.h>
#include <string.h>

static uint32_t pages_of(uint32_t n_tokens)
{
	return (n_tokens + 15) / 16;
}

static uint32_t known_tokens(const struct world_slot *s)
{
	return s->n_done > s->n_prompt ? s->n_done : s->n_prompt;
}

static void submit_wait(struct world *w, uint32_t engine, uint32_t slot, struct kvd_sqe sqe)
{
	struct world_slot *s = world_slot(w, engine, slot);
	sqe.slot = slot;
	sqe.user_data = ++w->engine[engine].completions;
	s->verb = sqe.verb;
	if (s->state == SLOT_READY || s->state == SLOT_IDLE)
		s->state = SLOT_WAITING;
	world_submit(w, engine, sqe);
}

/* A new program, or that of `from`: what belongs to the tables and the running step stays. */
static void slot_restart(struct world_slot *s, const struct world_slot *from)
{
	static struct world_slot old;
	old = *s;
	if (from)
		*s = *from;
	else
		memset(s, 0, sizeof(*s));
	memcpy(s->table, old.table, sizeof(s->table));
	memcpy(s->fresh, old.fresh, sizeof(s->fresh));
	memcpy(s->step, old.step, sizeof(s->step));
	s->step_sealed = old.step_sealed;
	s->finished = old.finished;
	s->row_high = old.row_high;
}

void world_open(struct world *w, uint32_t engine, uint32_t slot, uint32_t tenant,
		const int32_t *tokens, uint32_t n_prompt, uint32_t n_target, uint16_t flags)
{
	struct world_slot *s = world_slot(w, engine, slot);
	slot_restart(s, NULL);
	s->tenant = tenant;
	s->n_prompt = n_prompt;
	s->n_target = n_target;
	memcpy(s->tokens, tokens, sizeof(s->tokens));
	submit_wait(w, engine, slot,
		    (struct kvd_sqe){ .verb = KVD_SEQ_OPEN,
				      .tenant = tenant,
				      .n_tokens = n_prompt,
				      .flags = flags });
}

void world_plain(struct world *w, uint32_t engine, uint32_t slot, enum kvd_verb verb)
{
	struct world_slot *s = world_slot(w, engine, slot);
	if (s->verb || s->state != SLOT_READY || s->chunk || s->step_chunk)
		return;
	submit_wait(w, engine, slot, (struct kvd_sqe){ .verb = (uint16_t)verb });
}

void world_truncate(struct world *w, uint32_t engine, uint32_t slot, uint32_t n_tokens)
{
	struct world_slot *s = world_slot(w, engine, slot);
	if (s->verb || s->state != SLOT_READY || s->chunk || s->step_chunk || !n_tokens ||
	    n_tokens >= s->n_done)
		return;
	s->n_done = n_tokens;
	if (s->n_prompt > s->n_done)
		s->n_prompt = s->n_done;
	submit_wait(w, engine, slot,
		    (struct kvd_sqe){ .verb = KVD_SEQ_TRUNCATE, .n_tokens = n_tokens });
}

void world_fork(struct world *w, uint32_t engine, uint32_t slot, uint32_t target, uint32_t salt)
{
	struct world_slot *s = world_slot(w, engine, slot), *t = world_slot(w, engine, target);
	if (s->verb || s->state != SLOT_READY || s->chunk || s->step_chunk || t->verb ||
	    t->state != SLOT_IDLE || t == s || !s->n_done || s->n_done / 16 != s->n_sealed)
		return;
	slot_restart(t, s);
	t->n_prompt = t->n_done;
	t->n_sealed = t->n_pages = 0;
	t->fork_data = ++w->engine[engine].completions;
	t->verb = KVD_SEQ_FORK;
	t->state = SLOT_WAITING;
	t->step_sealed = WORLD_PAGES;
	if (t->n_hashes > t->n_done / 16)
		t->n_hashes = t->n_done / 16;
	for (uint32_t i = t->n_done; i < WORLD_TOKENS; i++)
		t->tokens[i] = (int32_t)((salt + i) * 2654435761u >> 8);
	world_submit(w, engine,
		     (struct kvd_sqe){ .verb = KVD_SEQ_FORK,
				       .slot = slot,
				       .user_data = t->fork_data,
				       .n_tokens = s->n_done,
				       .other = target });
}

/* The next submission of a slot's program, when it waits for nothing. */
void world_advance(struct world *w, uint32_t engine, uint32_t slot)
{
	struct world_engine *e = &w->engine[engine];
	struct world_slot *s = &e->slot[slot];
	if (!e->attached || e->deaf || s->verb || s->hold)
		return;
	if (s->state == SLOT_PREEMPTED || s->state == SLOT_PARKED) {
		submit_wait(
			w, engine, slot,
			(struct kvd_sqe){ .verb = KVD_SEQ_RESUME, .n_tokens = known_tokens(s) });
		s->state = SLOT_WAITING;
		return;
	}
	if (s->state != SLOT_READY || s->chunk || s->step_chunk)
		return;
	if (s->n_done / 16 > s->n_sealed) {
		submit_wait(w, engine, slot,
			    (struct kvd_sqe){ .verb = KVD_SEQ_SEAL,
					      .page = s->n_sealed,
					      .count = s->n_done / 16 - s->n_sealed });
		return;
	}
	if (s->n_done >= s->n_target) {
		submit_wait(w, engine, slot, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE });
		return;
	}
	uint32_t chunk = s->n_done < s->n_prompt ? 1 + world_random(w, 48) : 1 + world_random(w, 8);
	uint32_t end = s->n_done + chunk;
	if (s->n_done < s->n_prompt && end > s->n_prompt)
		end = s->n_prompt;
	if (end > s->n_target)
		end = s->n_target;
	bool lookup = s->n_done % 16 == 0 && s->n_done < s->n_prompt && !s->looked;
	if (!lookup && s->n_pages >= pages_of(end)) {
		s->chunk = end - s->n_done;
		return;
	}
	submit_wait(w, engine, slot, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .page = s->n_done / 16,
		.want = pages_of(end), .flags = lookup ? KVD_GROW_LOOKUP : 0 });
}

/* Has the slot been preempted meanwhile, and the event is still in the queue? */
static bool preempt_queued(const struct world_engine *e, uint32_t slot)
{
	for (uint32_t i = e->head; i != e->tail; i++)
		if (e->queue[i % WORLD_QUEUE].verb == KVD_EV_PREEMPT &&
		    e->queue[i % WORLD_QUEUE].slot == slot)
			return true;
	return false;
}

static void completed_grow(struct world *w, struct world_engine *e, struct world_slot *s,
			   const struct kvd_cqe *c)
{
	if (c->cached * 16 > s->n_done)
		s->n_done = c->cached * 16;
	if (s->n_done > s->n_target)
		world_fail(w, "more is cached than was asked for", c->cached, s->n_target);
	s->n_sealed = c->cached;
	s->n_pages = c->pages;
	s->state = SLOT_READY;
	world_check_row(w, e->number, (uint32_t)(s - e->slot), 0, s->n_sealed);
	for (uint32_t i = pages_of(s->n_done);
	     i < c->pages && !preempt_queued(e, (uint32_t)(s - e->slot)); i++)
		if (!s->table[i] || (w->tags[KVD_ENTRY_FRAME(s->table[i])] != 0))
			world_fail(w, "a fresh page is missing or not zero", i, s->table[i]);
}

static void slot_preempted(struct world *w, struct world_slot *s)
{
	if (s->state == SLOT_IDLE)
		return;                      /* a hostile submission's sequence */
	s->state = SLOT_PREEMPTED;
	s->step_valid = false;
	s->n_pages = s->n_sealed = 0;
	s->chunk = 0;
	w->preempted++;
}

static void completed_ok(struct world *w, struct world_engine *e, struct world_slot *s,
			 const struct kvd_cqe *c)
{
	switch (c->verb) {
	case KVD_SEQ_OPEN:
	case KVD_SEQ_RESUME:
		s->n_done = 0;
		s->last_cached = c->cached;
		completed_grow(w, e, s, c);
		break;
	case KVD_SEQ_GROW:
		completed_grow(w, e, s, c);
		s->looked = true;
		break;
	case KVD_SEQ_SEAL:
		s->n_sealed = c->cached;
		s->state = SLOT_READY;
		break;
	case KVD_SEQ_TRUNCATE:
	case KVD_SEQ_FORK:
		s->n_sealed = c->cached;
		s->n_pages = c->pages;
		s->state = SLOT_READY;
		for (uint32_t i = 0; i < c->pages && !preempt_queued(e, (uint32_t)(s - e->slot));
		     i++)
			if (!s->table[i])
				world_fail(w, "an entry is missing after a copy", i, c->pages);
		break;
	case KVD_SEQ_CLOSE:
		if (s->n_done >= s->n_target) {
			s->finished++;
			w->finished++;
		}
		s->state = SLOT_IDLE;
		s->n_pages = s->n_sealed = 0;
		break;
	case KVD_SEQ_PARK:
		s->state = SLOT_PARKED;
		s->n_pages = s->n_sealed = 0;
		s->chunk = 0;
		break;
	}
}

void world_switch(struct world *w, uint32_t engine)
{
	struct world_engine *e = &w->engine[engine];
	for (uint32_t n = 0; e->behind && n < e->max_seqs; n++) {
		struct world_slot *s = &e->slot[n];
		for (uint32_t i = 0; i < s->row_high; i++)
			if (s->table[i])
				w->viewers[KVD_ENTRY_FRAME(s->table[i])]--;
		memcpy(s->table, s->fresh, sizeof(s->table));
		memset(s->fresh, 0, sizeof(s->fresh));
	}
	if (e->behind)
		world_seen(w, &(struct world_record){ .kind = SEEN_SWITCHED, .engine = engine });
	e->behind = false;
}

bool world_complete_one(struct world *w, uint32_t engine)
{
	struct world_engine *e = &w->engine[engine];
	if (!e->attached || e->deaf || e->head == e->tail)
		return false;
	if (e->behind && e->head == e->behind_tail) {
		if (e->stepping)
			return false;
		world_switch(w, engine);     /* what comes now is in the new kvd's ring only */
	}
	struct kvd_cqe c = e->queue[e->head++ % WORLD_QUEUE];
	if (c.verb == KVD_EXTENT_ACK || c.verb == KVD_EV_DRAIN || c.slot >= e->max_seqs)
		return true;
	struct world_slot *s = &e->slot[c.slot];
	if (c.verb == KVD_EV_PREEMPT) {
		slot_preempted(w, s);
		return true;
	}
	if (c.verb == KVD_SEQ_FORK)          /* awaited by the target */
		for (uint32_t i = 0; i < e->max_seqs; i++)
			if (e->slot[i].verb == KVD_SEQ_FORK &&
			    e->slot[i].fork_data == c.user_data)
				s = &e->slot[i];
	s->last_status = c.status;
	if (s->verb != c.verb)
		return true;                 /* the answer to a hostile submission */
	s->verb = 0;
	if (c.status == KVD_S_OK) {
		completed_ok(w, e, s, &c);
	} else if (c.verb == KVD_SEQ_OPEN && c.status != KVD_S_PREEMPTED) {
		s->state = SLOT_IDLE;
	} else if (c.status == KVD_S_PREEMPTED) {
		if (s->state == SLOT_WAITING && c.verb == KVD_SEQ_FORK)
			slot_preempted(w, s);
		/* else the event says it */
	} else if (c.verb == KVD_SEQ_RESUME && c.status == KVD_S_TENANT_MAX) {
		s->state = SLOT_PREEMPTED;   /* its tenant's max has been lowered; it asks again */
	} else if (c.verb == KVD_SEQ_FORK) {
		s->state = SLOT_IDLE;
	} else if (c.status != KVD_S_CANCELLED && s->state == SLOT_WAITING) {
		s->state = SLOT_READY;
		if (c.status == KVD_S_TOO_LARGE)     /* never: it ends with what it has */
			s->n_target = s->n_done;
	}
	return true;
}

void world_step_begin(struct world *w, uint32_t engine)
{
	struct world_engine *e = &w->engine[engine];
	if (!e->attached || e->deaf || e->stepping)
		return;
	e->stepping = true;
	e->begun++;
	world_seen(w, &(struct world_record){ .kind = SEEN_STEP, .engine = engine, .b = 1 });
	for (uint32_t n = 0; n < e->max_seqs; n++) {
		struct world_slot *s = &e->slot[n];
		memcpy(s->step, s->table, s->row_high * sizeof(s->step[0]));
		for (uint32_t i = 0; i < s->row_high; i++)
			if (s->step[i])
				w->viewers[KVD_ENTRY_FRAME(s->step[i])]++;
		s->step_sealed = s->state == SLOT_READY ? s->n_done / 16 : WORLD_PAGES;
		s->step_from = s->n_done;
		s->step_valid = true;
		s->step_chunk = s->state == SLOT_READY ? s->chunk : 0;
		s->chunk = 0;
		/* A preemption whose event is not consumed yet has emptied the row: sit the step
		 * out. */
		for (uint32_t i = 0; s->step_chunk && i < pages_of(s->n_done + s->step_chunk); i++)
			if (!s->step[i])
				s->step_chunk = 0;
	}
}

/* Write K and V of the chunk, through the copied row only. */
static void step_compute(struct world *w, struct world_engine *e, struct world_slot *s)
{
	struct world_record seen = { .kind = SEEN_WRITE, .engine = e->number, .slot = (uint32_t)(s - e->slot) };
	uint32_t from = s->step_from, to = s->step_from + s->step_chunk;
	for (uint32_t i = from / 16; i < pages_of(to); i++) {
		uint32_t f = KVD_ENTRY_FRAME(s->step[i]),
			 end = to < (i + 1) * 16 ? to : (i + 1) * 16;
		if (!s->step[i])
			world_fail(w, "a step computes a page without an entry", i, to);
		if (e->mapped[f >> w->slot_bits] != 2)
			world_fail(w, "a step writes an extent that is mapped read-only", f, i);
		seen.a = f;
		seen.b = i;
		world_seen(w, &seen);
		w->tags[f] = world_slot_tag(e->space_tag, s, end);
		if (w->lie_frame_plus_1 == f + 1ull)
			w->tags[f] ^= 0xff00;
	}
}

void world_step_end(struct world *w, uint32_t engine)
{
	struct world_engine *e = &w->engine[engine];
	if (!e->attached || e->deaf || !e->stepping)
		return;
	for (uint32_t n = 0; n < e->max_seqs; n++) {
		struct world_slot *s = &e->slot[n];
		/* What the step read must still be what it was: sealed pages of the copied row. */
		for (uint32_t i = 0; s->step_chunk && i < s->step_sealed; i++) {
			uint32_t f = KVD_ENTRY_FRAME(s->step[i]);
			if (w->tags[f] != world_slot_tag(e->space_tag, s, (i + 1) * 16) &&
			    w->lie_frame_plus_1 != f + 1ull)
				world_fail(w, "a page changed under a running step", f, i);
		}
		if (s->step_chunk)
			step_compute(w, e, s);
		if (s->step_chunk && s->step_valid)
			s->n_done += s->step_chunk;
		if (s->step_chunk)
			s->looked = false;
		s->step_chunk = 0;
		for (uint32_t i = 0; i < s->row_high; i++)
			if (s->step[i])
				w->viewers[KVD_ENTRY_FRAME(s->step[i])]--;
		memset(s->step, 0, s->row_high * sizeof(s->step[0]));
	}
	e->stepping = false;
	world_seen(w, &(struct world_record){ .kind = SEEN_STEP, .engine = engine });
	e->done = e->begun;
}

/* Any job but those of a kind that stands still. */
static bool mover_one(struct world *w)
{
	uint32_t n = w->n_jobs, from = n ? world_random(w, n) : 0;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = (from + i) % n;
		if (!(w->hold_moves >> w->jobs[at].move.kind & 1u))
			return world_mover(w, at, true);
	}
	return false;
}

/* One round of everything that can happen by itself; true if something did. */
static bool settle_round(struct world *w, bool advance)
{
	bool moved = false;
	while (!w->down && world_populate(w))
		moved = true;
	while (!w->down && mover_one(w))
		moved = true;
	for (uint32_t e = 0; e < WORLD_ENGINES && !w->down; e++) {
		if (!w->engine[e].attached)
			continue;
		world_step_end(w, e);
		world_switch(w, e);
		while (!w->down && world_poll(w, e))
			moved = true;
		while (!w->down && world_complete_one(w, e))
			moved = true;
		uint64_t before = w->ops;
		for (uint32_t s = 0; advance && !w->down && s < w->engine[e].max_seqs; s++)
			world_advance(w, e, s);
		moved = moved || w->ops != before;
		for (uint32_t s = 0; s < w->engine[e].max_seqs; s++)
			moved = moved || (advance && w->engine[e].slot[s].chunk);
		if (advance) {
			world_step_begin(w, e);
			world_step_end(w, e);
		}
	}
	if (core_waits_for_steps(w->core))
		world_done(w);
	return moved;
}

void world_settle(struct world *w, bool advance)
{
	uint32_t idle = 0;
	for (uint32_t round = 0; idle < 3 && !w->down; round++) { /* a dead kvd comes to no rest */
		if (round > 200000)
			world_fail(w, "the world does not come to rest", round, 0);
		bool moved = settle_round(w, advance);
		uint64_t at = core_next_tick_usec(w->core);
		const struct world_shell *shell = core_shell(w->core);
		idle = moved || at <= shell->now ? 0 : idle + 1;      /* due: it has more to do */
		/* time passes only when nothing else is left to happen */
		world_tick(w, advance && idle && at > w->now && at != UINT64_MAX ? at - w->now : 0);
	}
}
