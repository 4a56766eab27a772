/* alone_herd.c - a hundred sequences on two engines ask for one cold prefix in the same instant.
 *
 * Each of its pages must be computed once, whatever becomes of the one that computes: at every event of
 * the run in turn its engine dies, or its client cancels it, or it is parked, or preempted; then somebody
 * else goes on where it stopped, and still no page is sealed twice.  Only when it merely stands still for
 * longer than promise_usec may a page be computed by two.
 *
 *   sim_herd [STRIDE]        every STRIDE-th event; default 7 */
#include "tests/sim/sim.h"
#include "kvd/core/parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENGINES = 2, EACH = 50, PREFIX_PAGES = 6, EXTENTS = 256 };
enum trouble { TROUBLE_NONE, TROUBLE_DEATH, TROUBLE_CANCEL, TROUBLE_PARK, TROUBLE_PREEMPT, TROUBLE_DELAY, TROUBLES };
static const char *const names[] = { "none", "death", "cancel", "park", "preempt", "delay" };

struct herd {
	struct world *world;
	uint32_t sealed[PREFIX_PAGES], waiting_page, waiting_pages;
	uint32_t stuck_engine, stuck_slot;
};

static void watch(void *arg, const struct world_record *r)
{
	struct herd *h = arg;
	if (r->kind == SEEN_SUBMIT && r->sqe->verb == KVD_SEQ_SEAL) {
		h->waiting_page = r->sqe->page;
		h->waiting_pages = r->sqe->count;
	}
	if (r->kind != SEEN_COMPLETE || r->cqe->verb != KVD_SEQ_SEAL || r->cqe->status != KVD_S_OK)
		return;
	for (uint32_t i = 0; i < h->waiting_pages; i++)
		if (h->waiting_page + i < PREFIX_PAGES)
			h->sealed[h->waiting_page + i]++;
}

static void herd_start(struct herd *h)
{
	struct core_config config = { .pool_bytes = (uint64_t)EXTENTS * SIM_EXTENT_BYTES,
		.extent_bytes = SIM_EXTENT_BYTES, .page_bytes_min = 8192, .tenants_max = 4,
		.seqs_max = ENGINES * EACH, .holds_max = ENGINES * EACH * 12, .hash_key = { 1, 2 },
		.promise_usec = 100000 };
	int32_t tokens[WORLD_TOKENS];
	memset(h, 0, sizeof(*h));
	struct world *w = h->world = world_make(&config, 7);
	h->stuck_engine = CORE_NONE;
	w->fsck_every = 0;
	w->watch = watch;
	w->watch_arg = h;
	world_tenant(w, "a", "team", CORE_REUSE, 0);
	world_tenant(w, "b", "team", CORE_REUSE, 0);
	world_settle(w, false);
	for (uint32_t e = 0; e < ENGINES; e++)
		world_attach(w, e ? "e1" : "e0", 1, 4, 4096, EACH, 12);
	world_settle(w, false);
	for (uint32_t i = 0; i < ENGINES * EACH; i++) {
		for (uint32_t t = 0; t < WORLD_TOKENS; t++)
			tokens[t] = (int32_t)(t < PREFIX_PAGES * 16 ? t : 100000 + i * 1000 + t);
		world_open(w, i % ENGINES, i / ENGINES, i % 2, tokens, PREFIX_PAGES * 16 + 5, PREFIX_PAGES * 16 + 9, 0);
	}
}

static void promiser_find(struct world *w, uint32_t *ret_engine, uint32_t *ret_slot)
{
	uint32_t seq = list_first(&w->core->promisers);
	*ret_engine = CORE_NONE;
	if (seq == CORE_NONE)
		return;
	*ret_engine = seq_at(w->core, seq)->engine;
	*ret_slot = seq_at(w->core, seq)->slot;
}

/* False: it cannot be done now (nobody promises, or the slot's program is in the middle of a step). */
static bool trouble_make(struct herd *h, enum trouble kind)
{
	struct world *w = h->world;
	struct core_action a;
	uint32_t e, slot = 0;
	promiser_find(w, &e, &slot);
	if (e == CORE_NONE)
		return false;
	struct world_slot *s = world_slot(w, e, slot);
	bool free = !s->verb && s->state == SLOT_READY && !s->chunk && !s->step_chunk;
	switch (kind) {
	case TROUBLE_DEATH:
		world_hangup(w, e);
		world_quiet(w, e);
		return true;
	case TROUBLE_CANCEL:
	case TROUBLE_PARK:
		if (free)
			world_plain(w, e, slot, kind == TROUBLE_PARK ? KVD_SEQ_PARK : KVD_SEQ_CLOSE);
		return free;
	case TROUBLE_PREEMPT:
		if (seq_at(w->core, list_first(&w->core->promisers))->state != SEQ_RUNNING)
			return false;
		core_shell_set(w->core, core_shell(w->core), core_shell(w->core), 8); /* opens a transaction */
		admit_preempt(w->core, list_first(&w->core->promisers));
		core_commit(w->core);
		while (core_next_action(w->core, &a))
			world_perform(w, &a);
		return true;
	case TROUBLE_DELAY:
		h->stuck_engine = e;
		h->stuck_slot = slot;
		s->hold = true;
		return true;
	default: return true;
	}
}

static bool herd_done(struct herd *h)
{
	struct world *w = h->world;
	for (uint32_t e = 0; e < ENGINES; e++)
		for (uint32_t s = 0; w->engine[e].attached && s < EACH; s++)
			if (w->engine[e].slot[s].state != SLOT_IDLE || w->engine[e].slot[s].verb)
				return false;
	return true;
}

/* One round in a fixed order; the trouble comes between two of its parts once `at` events are over. */
static void herd_round(struct herd *h, enum trouble kind, uint64_t at, bool *made)
{
	struct world *w = h->world;
	for (uint32_t part = 0; part < ENGINES * (EACH + 4) + 4; part++) {
		uint32_t e = part / (EACH + 4), n = part % (EACH + 4);
		if (!*made && w->ops >= at)
			*made = trouble_make(h, kind);
		if (e == ENGINES) {
			switch (n) {
			case 0: while (world_populate(w)) ; break;
			case 1: while (w->n_jobs) world_mover(w, 0, true); break;
			case 2: world_done(w); break;
			default: world_tick(w, h->stuck_engine != CORE_NONE ? 5000 : 100); break;
			}
		} else if (n < EACH) {
			world_advance(w, e, n);
		} else if (n == EACH) {
			while (world_complete_one(w, e)) ;
		} else if (n == EACH + 1) {
			world_step_begin(w, e);
		} else if (n == EACH + 2) {
			world_step_end(w, e);
		} else {
			while (world_poll(w, e)) ;
		}
	}
}

/* Returns the number of findings; *ret_ops: events of the run. */
static uint32_t herd_run(enum trouble kind, uint64_t at, uint64_t *ret_ops, bool *ret_made)
{
	struct herd h;
	uint32_t bad = 0;
	*ret_made = kind == TROUBLE_NONE;
	herd_start(&h);
	for (uint32_t round = 0; round < 400 && !herd_done(&h); round++) {
		herd_round(&h, kind, at, ret_made);
		/* it wakes up when the others have long passed it over */
		if (h.stuck_engine != CORE_NONE && round > 120)
			world_slot(h.world, h.stuck_engine, h.stuck_slot)->hold = false;
	}
	world_fsck(h.world);
	if (!herd_done(&h)) {
		printf("%s at %llu: a sequence never finishes\n", names[kind], (unsigned long long)at);
		bad++;
	}
	for (uint32_t i = 0; i < PREFIX_PAGES; i++)
		if (h.sealed[i] < 1 || h.sealed[i] > (kind == TROUBLE_DELAY ? 2 : 1)) {
			printf("%s at %llu: page %u is computed %u times\n", names[kind], (unsigned long long)at, i,
			       h.sealed[i]);
			bad++;
		}
	*ret_ops = h.world->ops;
	world_free(h.world);
	return bad;
}

int main(int argc, char **argv)
{
	uint64_t stride = argc > 1 ? strtoull(argv[1], NULL, 10) : 7, ops, first = 60;
	uint32_t checks = 0, failed = 0;
	bool made;
	for (enum trouble kind = 0; kind < TROUBLES; kind++) {
		uint32_t bad = herd_run(kind, 0, &ops, &made), points = made;
		for (uint64_t at = first; kind != TROUBLE_NONE && at < ops && bad < 5; at += stride) {
			uint64_t now;
			bad += herd_run(kind, at, &now, &made);
			points += made;
		}
		printf("%s: %u points of %llu events, %u findings\n", names[kind], points,
		       (unsigned long long)ops, bad);
		checks++;
		failed += bad || !points;
	}
	printf("%u%%: Checks: %u, Failures: %u, Errors: 0\n", 100 * (checks - failed) / checks, checks, failed);
	return failed != 0;
}
