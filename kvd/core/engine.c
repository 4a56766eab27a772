/* engine.c - engines and spaces: attach, hang up, quiet, drain.
 *
 *   FREE  -> LIVE   engine_attach   a number, a region of sequences, a region of table slots
 *   LIVE  -> DEAD   engine_hangup   its sequences end; its open frames go to quarantine; its sealed
 *                                   pages live on, to be copied for other engines
 *   DEAD  -> QUIET  engine_quiet    its process is gone and the device agrees: quarantine ends
 *   QUIET -> FREE   engine_maybe_free   the last extent of its colour has left
 *   QUIET -> LIVE   engine_attach   an engine of the same space takes over the colour with its
 *                                   cache, so that a restarted engine finds its pages where they
 *                                   were
 *
 * A number (hence a colour) is never given to another space while extents of the colour exist.
 * A space lives while it has an engine or an extent. */
#include "kvd/core/parts.h"

static bool identity_equal(const struct space *s, const struct core_event *ev)
{
	const struct kvd_geometry *g = &s->geometry;
	return !memcmp(s->fingerprint, ev->attach.fingerprint, sizeof(s->fingerprint)) &&
	       !memcmp(s->numerics, ev->attach.numerics, sizeof(s->numerics)) &&
	       s->layout == ev->attach.layout && s->kv_format == ev->attach.kv_format &&
	       g->n_planes == ev->attach.n_planes && g->block_bytes == ev->attach.block_bytes;
}

static uint32_t space_find(const struct core *c, const struct core_event *ev)
{
	for (uint32_t i = 0; i < c->n_spaces; i++)
		if (c->spaces[i].live && identity_equal(&c->spaces[i], ev))
			return i;
	return CORE_NONE;
}

static uint32_t space_make(const struct core *c, const struct core_event *ev)
{
	uint32_t number = 0;
	while (number < c->n_spaces && c->spaces[number].live)
		number++;
	if (number == SPACES_MAX)
		return CORE_NONE;
	const struct space *s = &c->spaces[number];
	struct kvd_geometry g = { .extent_bytes = c->config.extent_bytes,
				  .block_bytes = ev->attach.block_bytes,
				  .n_planes = ev->attach.n_planes,
				  .slot_bits = c->slot_bits };
	uint64_t page_bytes = (uint64_t)g.block_bytes * g.n_planes;
	g.n_frames = (uint32_t)(c->config.extent_bytes / page_bytes);
	g.plane_bytes = (uint64_t)g.n_frames * g.block_bytes;
	SET(c->sealed_waiting, c->sealed_waiting - s->sealed_fresh - s->sealed_aged);
	SET_ZERO(s);
	SET(s->geometry, g);
	SET(s->page_bytes, page_bytes);
	SET(s->worth_usec, space_worth_usec(c, (uint32_t)(s - c->spaces)));
	SET(s->layout, ev->attach.layout);
	SET(s->kv_format, ev->attach.kv_format);
	SET_BYTES(s->fingerprint, ev->attach.fingerprint, sizeof(s->fingerprint));
	SET_BYTES(s->numerics, ev->attach.numerics, sizeof(s->numerics));
	SET_BYTES(s->model, ev->attach.model, sizeof(s->model));
	SET(s->live, 1);
	if (number == c->n_spaces)
		ADD(c->n_spaces, 1);
	const struct group *shared = &c->groups[group_shared(number)];
	SET(shared->space, number);
	SET(shared->colour, 0);
	SET(shared->engine, CORE_NONE);
	return number;
}

/* Its number means its identity as long as a page of it exists, on disk as well: whoever got the number
 * would be given another model's pages. */
void space_maybe_free(const struct core *c, uint32_t number)
{
	const struct space *s = &c->spaces[number];
	if (s->live && !s->engines && !s->n_extents && !spill_space_used(c, number))
		SET(s->live, 0);
}

/* First gap of `want` records among the regions of live engines; 0: none.  Regions count from 1. */
static uint32_t region_find(const struct core *c, bool holds, uint64_t want, uint64_t max)
{
	uint64_t best = UINT64_MAX;
	for (uint32_t i = 0; i <= CORE_ENGINES_MAX; i++) {
		uint64_t base = 1;
		if (i < CORE_ENGINES_MAX) {
			const struct engine *e = &c->engines[i];
			if (e->state != ENGINE_LIVE)
				continue;
			base = holds ? e->hold_base + 1ull + (uint64_t)e->max_seqs * e->max_pages
				     : (uint64_t)e->seq_base + e->max_seqs;
		}
		bool clash = base + want > max + 1 || base >= best;
		for (uint32_t k = 0; k < CORE_ENGINES_MAX && !clash; k++) {
			const struct engine *e = &c->engines[k];
			uint64_t from = holds ? e->hold_base + 1ull : e->seq_base;
			uint64_t size = holds ? (uint64_t)e->max_seqs * e->max_pages : e->max_seqs;
			clash = e->state == ENGINE_LIVE && base < from + size && from < base + want;
		}
		if (!clash)
			best = base;
	}
	return best == UINT64_MAX ? 0 : (uint32_t)best;
}

/* A number: first a quiet one of this space, whose cache the engine takes over. */
static uint32_t number_find(const struct core *c, uint32_t space)
{
	uint32_t unused = CORE_NONE;
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		if (c->engines[i].state == ENGINE_QUIET && c->engines[i].space == space)
			return i;
		if (c->engines[i].state == ENGINE_FREE && unused == CORE_NONE)
			unused = i;
	}
	return unused;
}

/* All numbers are taken by dead colours: let the longest dead one lose its cache, so that a later
 * attach succeeds. */
static void number_make_room(const struct core *c)
{
	uint32_t oldest = CORE_NONE;
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
		if (c->engines[i].state == ENGINE_QUIET &&
		    (oldest == CORE_NONE || c->engines[i].died_usec < c->engines[oldest].died_usec))
			oldest = i;
	if (oldest == CORE_NONE)
		return;
	const struct group *g = &c->groups[oldest];
	blame(c, CORE_NONE, KVD_RECLAIM_EXTENT);
	while (g->cool.count)
		reclaim_page(c, list_first(&g->cool), RECLAIM_EAGER);
}

static uint32_t attach_check(const struct core *c, const struct core_event *ev, uint64_t *ret_need,
			     uint64_t *ret_have)
{
	*ret_need = *ret_have = 0;
	uint32_t planes = ev->attach.n_planes, block = ev->attach.block_bytes;
	if (!planes || !block || !ev->attach.kv_format || ev->attach.kv_format > 15 ||
	    !ev->attach.max_seqs || !ev->attach.max_pages || ev->attach.max_seqs > 4096 ||
	    ev->attach.max_pages > 1u << 20 || !ev->attach.name[0])
		return KVD_S_BAD_REQUEST;
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
		if (c->engines[i].state == ENGINE_LIVE &&
		    name_equal(c->engines[i].name, ev->attach.name))
			return KVD_S_NAME_TAKEN;
	uint64_t page_bytes = (uint64_t)planes * block;
	if (page_bytes > c->config.extent_bytes / 8) {
		*ret_need = page_bytes > UINT64_MAX / 8 ? UINT64_MAX : 8 * page_bytes;
		*ret_have = c->config.extent_bytes;
		return KVD_S_GEOMETRY;
	}
	if (page_bytes < c->config.page_bytes_min) {
		*ret_need = c->config.page_bytes_min;
		*ret_have = page_bytes;
		return KVD_S_GEOMETRY;
	}
	return KVD_S_OK;
}

static void engine_map_all(const struct core *c, uint32_t number, uint32_t group)
{
	const struct list *extents = &c->groups[group].extents;
	for (uint32_t x = list_first(extents); x != CORE_NONE; x = list_next(c, LIST_EXTENTS, x))
		extent_map(c, x, number);
}

static void engine_start(const struct core *c, uint32_t number, uint32_t space,
			 const struct core_event *ev)
{
	const struct engine *e = &c->engines[number];
	const struct space *s = &c->spaces[space];
	const struct group *g = &c->groups[number];
	SET(e->state, ENGINE_LIVE);
	ADD(c->n_live, 1);
	SET(e->space, space);
	SET(e->max_seqs, ev->attach.max_seqs);
	SET(e->max_pages, ev->attach.max_pages);
	SET(e->draining, 0);
	SET_BYTES(e->name, ev->attach.name, KVD_NAME_MAX);
	SET_BYTES(e->model, ev->attach.model, KVD_NAME_MAX);
	SET(e->name[KVD_NAME_MAX - 1], 0);
	SET(e->model[KVD_NAME_MAX - 1], 0);
	if (s->engines)
		SET(s->many, 1);
	SET(s->engines, s->engines | 1ull << number);
	SET(g->space, space);
	SET(g->colour, number + 1);
	SET(g->engine, number);
	act_attached(c, number, KVD_S_OK, 0, 0);
	engine_map_all(c, number, number);
	engine_map_all(c, number, group_shared(space));
	SET(c->memory_changed, 1);
}

void engine_attach(const struct core *c, const struct core_event *ev)
{
	uint64_t need, have;
	uint32_t status = attach_check(c, ev, &need, &have);
	if (status) {
		act_attached(c, CORE_NONE, status, need, have);
		return;
	}
	uint64_t want_holds = (uint64_t)ev->attach.max_seqs * ev->attach.max_pages;
	uint32_t seqs = region_find(c, false, ev->attach.max_seqs, c->config.seqs_max);
	uint32_t holds = region_find(c, true, want_holds, c->config.holds_max);
	if (!seqs || !holds) {
		act_attached(c, CORE_NONE, KVD_S_LIMIT, seqs ? want_holds : ev->attach.max_seqs,
			     seqs ? c->config.holds_max : c->config.seqs_max);
		return;
	}
	uint32_t space = space_find(c, ev);
	uint32_t number = number_find(c, space);
	if (number == CORE_NONE) {
		number_make_room(c);
		act_attached(c, CORE_NONE, KVD_S_LIMIT, CORE_ENGINES_MAX + 1, CORE_ENGINES_MAX);
		return;
	}
	if (space == CORE_NONE)
		space = space_make(c, ev);
	if (space == CORE_NONE) {
		act_attached(c, CORE_NONE, KVD_S_LIMIT, SPACES_MAX + 1, SPACES_MAX);
		return;
	}
	SET(c->engines[number].seq_base, seqs);
	SET(c->engines[number].hold_base, holds - 1);
	engine_start(c, number, space, ev);
}

void engine_hangup(const struct core *c, uint32_t number)
{
	if (number >= CORE_ENGINES_MAX || c->engines[number].state != ENGINE_LIVE)
		return;
	const struct engine *e = &c->engines[number];
	SET(e->state, ENGINE_DEAD); /* first: frames go to quarantine, nothing is answered */
	ADD(c->n_live, -1);
	extent_keep_end(c, number);
	SET(e->died_usec, c->now_usec);
	for (uint32_t i = 0; i < e->max_seqs; i++)
		if (seq_at(c, e->seq_base + i)->state != SEQ_EMPTY)
			seq_end(c, e->seq_base + i);
	const struct list *extents = &c->groups[number].extents;
	uint32_t x = list_first(extents);
	while (x != CORE_NONE) {
		uint32_t next = list_next(c, LIST_EXTENTS, x);
		extent_owner_died(c, x);
		x = next;
	}
	SET(c->memory_changed, 1);
}

static void engine_unmap_all(const struct core *c, uint32_t number, const struct list *extents)
{
	uint32_t x = list_first(extents);
	while (x != CORE_NONE) {
		uint32_t next = list_next(c, LIST_EXTENTS, x);
		if (extent_at(c, x)->mapped >> number & 1u)
			extent_unmapped(c, x, number);
		x = next;
	}
}

void engine_quiet(const struct core *c, uint32_t number)
{
	if (number >= CORE_ENGINES_MAX)
		return;
	engine_hangup(c, number);
	const struct engine *e = &c->engines[number];
	if (e->state != ENGINE_DEAD)
		return;
	SET(e->state, ENGINE_QUIET);
	const struct space *s = &c->spaces[e->space];
	SET(s->engines, s->engines & ~(1ull << number));
	retire_engine_quiet(c, number);
	engine_unmap_all(c, number, &c->groups[number].extents);
	engine_unmap_all(c, number, &c->groups[group_shared(e->space)].extents);
	engine_unmap_all(c, number, &c->leaving);
	uint32_t x = list_first(&c->groups[group_shared(e->space)].extents);
	while (x != CORE_NONE) {             /* nobody is left to use an empty one */
		uint32_t next = list_next(c, LIST_EXTENTS, x);
		extent_maybe_leave(c, x);
		x = next;
	}
	uint32_t space = e->space;
	engine_maybe_free(c, number);
	space_maybe_free(c, space);
	SET(c->memory_changed, 1);
}

void engine_maybe_free(const struct core *c, uint32_t number)
{
	const struct engine *e = &c->engines[number];
	if (e->state == ENGINE_QUIET && !c->groups[number].extents.count)
		SET(e->state, ENGINE_FREE);
}

void engine_drain(const struct core *c, uint32_t number)
{
	if (number >= CORE_ENGINES_MAX || c->engines[number].state != ENGINE_LIVE ||
	    c->engines[number].draining)
		return;
	SET(c->engines[number].draining, 1);
	act_complete(c, number, &(struct kvd_cqe){ .verb = KVD_EV_DRAIN });
}
