/* checker_bytes.c - the checker's view of bytes: who writes which frame, and who may still read it. */
#include "tests/sim/checker.h"

static void see_spilled(struct checker *k, const struct world_record *r)
{
	const struct view_frame *f = &k->frame[r->b];
	if (r->c >= k->n_blocks)
		checker_fail(k, "a page is written outside the spill file", r->c, r->b);
	k->disk[r->c].content = r->slot == 1 ? content_of(f) : 0;
	k->disk[r->c].writer = f->writer;
	if (r->slot == 1 && !content_of(f))
		checker_fail(k, "a page that is not sealed is written to the spill file", r->b, r->c);
}

static void see_fetched(struct checker *k, const struct world_record *r, struct view_frame *f)
{
	if (f->dirty && f->copied_from != CORE_NONE)
		checker_fail(k, "a page is read over somebody's bytes", r->c, f->writer);
	f->dirty = 1;
	f->copied_from = CORE_NONE;
	f->writer = k->disk[r->b].writer;
	f->content = r->slot == 1 ? k->disk[r->b].content : 0;
}

void see_moved(struct checker *k, const struct world_record *r)
{
	if (r->a == CORE_MOVE_SCRUB_EXTENT) {
		for (uint32_t e = 0; e < WORLD_ENGINES; e++)
			if (k->engine[e].mapped[r->c])
				checker_fail(k, "an extent is zeroed that an engine maps", r->c, e);
		for (uint32_t i = 0; i < 1u << k->slot_bits; i++) {
			struct view_frame *f = &k->frame[(r->c << k->slot_bits) + i];
			if (f->holders || f->views || f->old)
				checker_fail(k, "an extent is zeroed with a page in use", r->c, i);
			if (r->slot)
				*f = (struct view_frame){ 0 };
		}
		k->engines_own[r->c] = 0;
		return;
	}
	if (r->a == CORE_MOVE_SPILL) {
		see_spilled(k, r);
		return;
	}
	if (r->b == r->c && r->a == CORE_MOVE_COMPARE_COPY)
		return;                      /* a comparison only */
	struct view_frame *f = &k->frame[r->c];
	if (f->holders)
		checker_fail(k, "the mover writes a page that is in a table", r->c, f->holders);
	if (f->views || f->old)
		checker_fail(k, "the mover writes a page that a running step may read", r->c, f->views);
	if (r->a == CORE_MOVE_SCRUB) {
		if (r->slot == 1)
			*f = (struct view_frame){ 0 };
		return;
	}
	if (r->a == CORE_MOVE_FETCH) {
		see_fetched(k, r, f);
		return;
	}
	if (f->dirty && f->copied_from != r->b + 1)   /* a job is done again when its kvd died */
		checker_fail(k, "the mover copies over somebody's bytes", r->c, f->writer);
	if (r->slot == 2)
		return;
	const struct view_frame *source = &k->frame[r->b];
	bool to_engine = k->engines_own[r->c >> k->slot_bits]; /* else to where everybody reads */
	if (!to_engine && !content_of(source) && r->slot == 1)
		checker_fail(k, "the mover copies a page that is not sealed to where everybody reads", r->b, r->c);
	f->dirty = r->slot != 1 || source->dirty;
	f->copied = r->slot == 1;
	f->copied_from = r->b + 1;
	f->writer = source->writer;
	f->origin = r->slot == 1 ? content_of(source) : 0;
	f->content = to_engine ? 0 : f->origin;
}

void see_write(struct checker *k, const struct world_record *r)
{
	struct view_frame *f = &k->frame[r->a];
	const struct view_slot *s = &k->engine[r->engine].slot[r->slot];
	if (f->content)
		checker_fail(k, "a sealed page is written", r->a, r->engine);
	if (f->holders > 1 || f->views > 1)
		checker_fail(k, "a page is written that others may see", r->a, f->holders);
	f->dirty = 1;
	f->copied = 0;
	f->copied_from = 0;
	f->origin = 0;
	f->writer = (uint8_t)(s->tenant + 1);
}

void see_step(struct checker *k, const struct world_record *r)
{
	struct view_engine *e = &k->engine[r->engine];
	for (uint32_t n = 0; n < e->max_seqs; n++) {
		struct view_slot *s = &e->slot[n];
		for (uint32_t i = 0; i < s->row_high; i++) {
			if (s->step[i])
				k->frame[KVD_ENTRY_FRAME(s->step[i])].views--;
			s->step[i] = !r->b ? 0 : e->behind ? s->old[i] : s->row[i];
			if (s->step[i])
				k->frame[KVD_ENTRY_FRAME(s->step[i])].views++;
		}
	}
}

/* Engines go on with the dead kvd's tables until they switch. */
void see_adopted(struct checker *k)
{
	for (uint32_t n = 0; n < WORLD_ENGINES; n++) {
		struct view_engine *e = &k->engine[n];
		if (!e->attached || e->behind)
			continue;
		e->behind = true;
		for (uint32_t slot = 0; slot < e->max_seqs; slot++) {
			struct view_slot *s = &e->slot[slot];
			for (uint32_t i = 0; i < s->row_high; i++) {
				s->old[i] = s->row[i];
				if (s->old[i])
					k->frame[KVD_ENTRY_FRAME(s->old[i])].old++;
			}
		}
	}
}

void see_switched(struct checker *k, struct view_engine *e)
{
	for (uint32_t slot = 0; e->behind && slot < e->max_seqs; slot++) {
		struct view_slot *s = &e->slot[slot];
		for (uint32_t i = 0; i < WORLD_PAGES; i++) {
			if (s->old[i])
				k->frame[KVD_ENTRY_FRAME(s->old[i])].old--;
			s->old[i] = 0;
		}
	}
	e->behind = false;
}
