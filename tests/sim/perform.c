/* perform.c - what each operation of a trace does to the world; an operation that does not apply
 * does nothing, so that any part of a trace is a trace.
 *
 * Hostile submissions go to slots of their own (the last two of each engine): the programs of the
 * others stay whole and their ends can be demanded. */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint32_t sim_below(struct sim *sim, uint32_t below)
{
	return (uint32_t)((sim_random64(&sim->random) >> 16) % below);
}

uint32_t sim_some_engine(struct sim *sim)
{
	uint32_t from = sim_below(sim, WORLD_ENGINES);
	for (uint32_t i = 0; i < WORLD_ENGINES; i++)
		if (sim->world->engine[(from + i) % WORLD_ENGINES].attached)
			return (from + i) % WORLD_ENGINES;
	return CORE_NONE;
}

/* A min, a low, a high and a weight, or not.  All mins together come to half of the pool, and to more than it in
 * some worlds.  The max stays what it is: refusals are checked against it. */
static void floors_draw(const struct swarm *s, uint64_t random, struct core_quota *ret)
{
	uint64_t pool = (uint64_t)s->n_extents * SIM_EXTENT_BYTES, share = pool / s->n_tenants;
	if (random & 1)
		ret->min_bytes = sim_random64(&random) % (2 * share);
	if (ret->max_bytes && ret->min_bytes > ret->max_bytes)
		ret->min_bytes = ret->max_bytes;
	if (random & 2)
		ret->low_bytes = ret->min_bytes + sim_random64(&random) % share;
	if (random & 4)
		ret->high_bytes = ret->min_bytes + sim_random64(&random) % (2 * share);
	if (random & 8)
		ret->weight = (uint32_t)(1 + sim_random64(&random) % 1000);
}

/* An insert rate, a number of sequences, a max below the usual one. */
static void limits_draw(const struct swarm *s, uint64_t random, struct core_quota *ret)
{
	if (s->rates && (random & 1))
		ret->insert_bytes_per_sec = 262144ull << sim_random64(&random) % 6;
	if (s->counts && (random & 2))
		ret->max_sequences = (uint32_t)(1 + sim_random64(&random) % 8);
	if (s->maxes && ret->max_bytes && (random & 4))
		ret->max_bytes = (10 + sim_random64(&random) % 31) * 24576;
}

static void tenant_make(struct sim *sim, uint32_t i, uint64_t random)
{
	static const struct { const char *name, *domain; enum core_sharing sharing; } all[SIM_TENANTS] = {
		{ "merge-a", "", CORE_MERGE },     { "reuse-a", "team", CORE_REUSE },
		{ "merge-b", "", CORE_MERGE },     { "reuse-b", "team", CORE_REUSE },
		{ "private-a", "", CORE_PRIVATE }, { "small", "", CORE_MERGE },
		{ "private-b", "", CORE_PRIVATE }, { "reuse-c", "team", CORE_REUSE },
	};
	struct core_quota quota = { .max_bytes = sim->swarm.quotas && i >= 5 ? 40 * 24576 : 0 };
	if (random)
		limits_draw(&sim->swarm, random >> 20, &quota);
	if (sim->swarm.floors && random)     /* 0: none */
		floors_draw(&sim->swarm, random, &quota);
	world_quota(sim->world, all[i].name, all[i].domain, all[i].sharing, &quota);
}

struct sim *sim_new(const struct swarm *swarm)
{
	struct sim *sim = calloc(1, sizeof(*sim));
	sim->swarm = *swarm;
	sim->random = swarm->seed ^ 0x5eed;
	struct core_config config = {
		.pool_bytes = (uint64_t)swarm->n_extents * SIM_EXTENT_BYTES,
		.extent_bytes = SIM_EXTENT_BYTES,
		.page_bytes_min = 8192,
		.tenants_max = 16,
		.seqs_max = WORLD_ENGINES * WORLD_SLOTS,
		.holds_max = WORLD_ENGINES * WORLD_SLOTS * WORLD_PAGES,
		.hash_key = { swarm->seed, ~swarm->seed },
		.promise_usec = swarm->promise_usec,
		.spill_bytes = (uint64_t)swarm->disk_extents * SIM_EXTENT_BYTES,
	};
	struct world *w = sim->world = world_make(&config, swarm->seed);
	w->fsck_every = 0;
	w->disk_short_percent = swarm->disk_short;
	w->disk_write_error_percent = w->disk_read_error_percent = w->disk_torn_percent = swarm->disk_errors;
	sim->checker = checker_new(swarm, w->slot_bits, w->n_extents);
	w->watch = checker_see;
	w->watch_arg = sim->checker;
	w->fsck_every = 64;
	for (uint32_t i = 0; i < swarm->n_tenants; i++)
		tenant_make(sim, i, (swarm->seed + 1) * 0x9e3779b97f4a7c15ull * (i + 1) >> 7);
	if (swarm->calm)                     /* a copy for others needs memory that is there */
		world_settle(w, false);
	for (uint32_t i = 0; i < swarm->n_engines; i++)
		sim_perform(sim, &(struct sim_op){ .kind = OP_ATTACH, .random = i });
	return sim;
}

void sim_free(struct sim *sim)
{
	checker_free(sim->checker);
	world_free(sim->world);
	free(sim);
}

static void perform_attach(struct sim *sim, uint64_t random)
{
	char name[24];
	bool other = sim->swarm.two_spaces && random % 3 == 2;
	snprintf(name, sizeof(name), "e%u-%u", (unsigned)(random % 1000), (unsigned)(random >> 40));
	/* two geometries: 16 frames of 16 KiB, or 10 of 24 KiB with a tail */
	world_attach(sim->world, name, other ? 2 : 1, other ? 6 : 4, 4096,
		     sim->swarm.n_slots + sim->swarm.n_hostile_slots, sim->swarm.max_pages);
}

static void perform_open(struct sim *sim, const struct sim_op *op)
{
	struct world_slot *s = world_slot(sim->world, op->engine, op->slot);
	int32_t tokens[WORLD_TOKENS];
	if (s->state != SLOT_IDLE || s->verb)
		return;
	for (uint32_t i = 0; i < WORLD_TOKENS; i++) {
		uint32_t salt = i < op->v[1] ? op->v[0] : i < op->v[3] ? op->v[2] : op->v[4];
		tokens[i] = (int32_t)((salt * 0x9e3779b1u + i * 0x85ebca77u) >> 8);
	}
	world_open(sim->world, op->engine, op->slot, op->tenant % sim->swarm.n_tenants, tokens, op->v[5],
		   op->v[6], (uint16_t)op->v[7]);
}

static void perform_hostile(struct sim *sim, uint32_t e, uint64_t random)
{
	struct world *w = sim->world;
	uint32_t first = sim->swarm.n_slots;
	struct kvd_sqe q = { .verb = (uint16_t)world_random(w, 12),
			     .flags = (uint16_t)world_random(w, 4),
			     .user_data = 1ull << 60 | random >> 8,
			     .tenant = world_random(w, 2 * SIM_TENANTS),
			     .other = world_random(w, 2) ? world_random(w, 8) : ~0u,
			     .count = world_random(w, 3),
			     .want = world_random(w, 40),
			     .page = world_random(w, 30),
			     .n_tokens = world_random(w, 3) ? world_random(w, 600) : ~0u };
	if (!sim->swarm.n_hostile_slots)
		return;
	q.slot = world_random(w, 8) ? first + world_random(w, 2) : first + 2 + world_random(w, 1u << 30);
	if (q.verb == KVD_SEQ_FORK && q.other < first)
		q.other = first + 1;
	if (q.verb == KVD_EXTENT_ACK && q.count == 0)
		q.other = ~0u; /* an engine is trusted not to lie about its own mappings */
	if (q.verb == KVD_EXTENT_ACK)
		q.other |= 1u << 20;
	world_submit(w, e, q);
	if (!world_random(w, 6))
		world_submit(w, e, q);       /* and once more */
}

/* The process ends: what kvd sends to it from now on is lost; kvd notices later. */
static void perform_kill(struct sim *sim, uint32_t e)
{
	if (sim->world->engine[e].attached)
		sim->world->engine[e].deaf = true;
}

/* Answers to a job that was already answered, or never given. */
static void perform_double(struct sim *sim, uint64_t random)
{
	struct world *w = sim->world;
	struct core_event ev = { .type = CORE_EV_MOVED };
	switch (random % 4) {
	case 0: ev.moved.job = w->last_job; break;
	case 1: ev.moved.job = 0; break;
	case 2: ev.moved.job = 1023; break;
	default:
		world_step(w, &(struct core_event){ .type = CORE_EV_POPULATED, .populated.extent = ~0u });
		return;
	}
	ev.moved.ok = random >> 8 & 1;
	ev.moved.differs = random >> 9 & 1;
	world_step(w, &ev);
}

static void perform_mover_dies(struct sim *sim)
{
	struct world *w = sim->world;
	for (uint32_t i = w->n_jobs; i-- > 0;)   /* those that were given to it, not what is asked meanwhile */
		world_mover(w, i, false);
}

static void perform_clock(struct sim *sim, uint64_t random)
{
	struct world *w = sim->world;
	uint64_t by = random % 3600000000ull;
	if (random >> 63) {
		w->now = w->now > by ? w->now - by : 0;
		world_tick(w, 0);
	} else {
		world_tick(w, by);
	}
}

/* Pin or publish one of the first prefixes, or let all of them go. */
static void steer_rows(struct sim *sim, enum core_event_type type, uint64_t random)
{
	bool one = type == CORE_EV_PIN || type == CORE_EV_PUBLISH;
	static struct kvd_row_prefix rows[64];
	struct world *w = sim->world;
	uint32_t cursor = 0, n;
	while ((n = core_read_prefixes(w->core, w->now, &cursor, rows, 64)) && !w->down) {
		for (uint32_t i = 0; i < n && !w->down; i++) {
			bool is = type == CORE_EV_UNPIN ? rows[i].pinned == 1 : rows[i].published == 1;
			if (one ? i == random % n : is)
				world_step(w, &(struct core_event){ .type = type, .engine = CORE_NONE,
					.steer = { .prefix = rows[i].id, .tenant = CORE_NONE } });
		}
		if (one)
			return;
	}
}

/* An administrator evicts, of one tenant or of all, pins, and lets go. */
static void perform_steer(struct sim *sim, uint64_t random)
{
	struct core_event evict = { .type = CORE_EV_EVICT, .engine = CORE_NONE, .steer = { .tenant = CORE_NONE } };
	if (sim->world->down)
		return;
	switch (random & 3) {
	case 0: evict.steer.tenant = (uint32_t)(random >> 8) % sim->swarm.n_tenants; /* fall through */
	case 1:
		evict.steer.bytes = (random >> 16) % (SIM_EXTENT_BYTES * 2);
		world_step(sim->world, &evict);
		break;
	case 2: steer_rows(sim, CORE_EV_PIN, random >> 8); break;
	default: steer_rows(sim, CORE_EV_UNPIN, 0); break;
	}
}

static void perform_publish(struct sim *sim, uint64_t random)
{
	if (sim->world->down)
		return;
	if (random & 3)                      /* before: if kvd dies of it, it is done later */
		world_seen(sim->world, &(struct world_record){ .kind = SEEN_PUBLISHED });
	steer_rows(sim, random & 3 ? CORE_EV_PUBLISH : CORE_EV_UNPUBLISH, random >> 8);
}

/* The spill file is lost, and kvd has made another one. */
static void perform_gone(struct sim *sim)
{
	struct world *w = sim->world;
	for (uint32_t i = 0; i < w->n_blocks; i++)
		world_disk_corrupt(w, i);
	world_seen(w, &(struct world_record){ .kind = SEEN_DISK_GONE });
	world_step(w, &(struct core_event){ .type = CORE_EV_SPILL_GONE, .engine = CORE_NONE });
}

static void perform_engine_op(struct sim *sim, const struct sim_op *op)
{
	struct world *w = sim->world;
	uint32_t e = op->engine;
	struct world_slot *s = world_slot(w, e, op->slot);
	switch ((enum sim_op_kind)op->kind) {
	case OP_OPEN: perform_open(sim, op); break;
	case OP_ADVANCE: world_advance(w, e, op->slot); break;
	case OP_COMPLETE: world_complete_one(w, e); break;
	case OP_STEP_BEGIN: world_step_begin(w, e); break;
	case OP_STEP_END: world_step_end(w, e); break;
	case OP_POLL: world_poll(w, e); break;
	case OP_PARK: world_plain(w, e, op->slot, KVD_SEQ_PARK); break;
	case OP_CLOSE: world_plain(w, e, op->slot, KVD_SEQ_CLOSE); break;
	case OP_TRUNCATE:
		if (s->n_done > 1)
			world_truncate(w, e, op->slot, 1 + world_random(w, s->n_done - 1));
		break;
	case OP_FORK:
		world_fork(w, e, op->slot, (op->slot + 1 + op->v[0]) % sim->swarm.n_slots, op->v[1]);
		break;
	case OP_HOSTILE: perform_hostile(sim, e, op->random); break;
	default: break;
	}
}

static void perform_daemon_op(struct sim *sim, const struct sim_op *op)
{
	struct world *w = sim->world;
	switch ((enum sim_op_kind)op->kind) {
	case OP_MOVER:
		if (w->n_jobs)
			world_mover(w, world_random(w, w->n_jobs), op->v[0] == 0);
		break;
	case OP_POPULATE: world_populate(w); break;
	case OP_DONE: world_done(w); break;
	case OP_TICK: world_tick(w, world_random(w, 20000)); break;
	case OP_ATTACH: perform_attach(sim, op->random); break;
	case OP_DRAIN:
		world_step(w, &(struct core_event){ .type = CORE_EV_DRAIN, .engine = op->engine });
		break;
	case OP_DOUBLE: perform_double(sim, op->random); break;
	case OP_MOVER_DIES: perform_mover_dies(sim); break;
	case OP_CLOCK: perform_clock(sim, op->random); break;
	case OP_SETTLE:
		if (!w->down)
			world_settle(w, false);
		break;
	case OP_CRASH:
		if (!w->down)
			crash_arm(sim, op->v[0]);
		break;
	case OP_ADOPT: crash_adopt(sim); break;
	case OP_STEER: perform_steer(sim, op->random); break;
	case OP_PUBLISH: perform_publish(sim, op->random); break;
	case OP_GONE:
		if (!w->down && w->n_blocks)
			perform_gone(sim);
		break;
	case OP_QUOTA:
		if (!w->down)                /* the checker knows of one change that may not be made yet */
			tenant_make(sim, (uint32_t)(op->random % sim->swarm.n_tenants), op->random >> 8);
		break;
	case OP_SWITCH:
		if (w->engine[op->engine].attached && !w->engine[op->engine].deaf &&
		    !w->engine[op->engine].stepping)
			world_switch(w, op->engine);
		break;
	default: break;
	}
}

void sim_perform(struct sim *sim, const struct sim_op *op)
{
	struct world *w = sim->world;
	const struct world_engine *e = &w->engine[op->engine % WORLD_ENGINES];
	w->rng = op->random * 0x2545f4914f6cdd1dull | 1;
	if (w->n_redo > WORLD_REDO - 8 && op->kind != OP_ADOPT)
		return;                      /* the rings are full; only another kvd helps */
	switch ((enum sim_op_kind)op->kind) {
	case OP_OPEN: case OP_ADVANCE: case OP_COMPLETE: case OP_STEP_BEGIN: case OP_STEP_END: case OP_POLL:
	case OP_PARK: case OP_CLOSE: case OP_TRUNCATE: case OP_FORK: case OP_HOSTILE:
		if (e->attached && !e->deaf && op->slot < sim->swarm.n_slots)
			perform_engine_op(sim, op);
		break;
	case OP_KILL: perform_kill(sim, op->engine); break;
	case OP_HANGUP:
		if (e->attached)
			world_hangup(w, op->engine);
		break;
	case OP_QUIET:
		if (e->alive && !e->attached)
			world_quiet(w, op->engine);
		break;
	default: perform_daemon_op(sim, op); break;
	}
}

/* The hostile slots hold what their last accepted submissions left: close them. */
static void hostile_close(struct sim *sim)
{
	struct world *w = sim->world;
	uint32_t first = sim->swarm.n_slots, end = first + sim->swarm.n_hostile_slots;
	for (uint32_t e = 0; e < WORLD_ENGINES; e++)
		for (uint32_t slot = first; w->engine[e].attached && slot < end; slot++)
			world_submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = slot,
				.user_data = 1ull << 60 });
}

void sim_end(struct sim *sim)
{
	struct world *w = sim->world;
	struct kvd_row_status st;
	w->rng = sim->swarm.seed | 1;
	crash_disarm();
	crash_adopt(sim);
	for (uint32_t e = 0; e < WORLD_ENGINES; e++) {
		if (w->engine[e].attached && w->engine[e].deaf)
			world_hangup(w, e);
		if (w->engine[e].alive && !w->engine[e].attached)
			world_quiet(w, e);
	}
	for (uint32_t i = 0; sim->swarm.version > 1 && i < sim->swarm.n_tenants; i++)
		tenant_make(sim, i, 0);              /* what is too much for a lowered max could not go on */
	hostile_close(sim);
	world_settle(w, true);
	if (sim->swarm.steer)
		steer_rows(sim, CORE_EV_UNPIN, 0);
	for (uint32_t i = 0; sim->swarm.floors && i < sim->swarm.n_tenants; i++)
		tenant_make(sim, i, 0);              /* what a floor kept is SEALED; without it, COOL */
	world_settle(w, true);
	for (uint32_t e = 0; e < WORLD_ENGINES; e++)
		for (uint32_t s = 0; w->engine[e].attached && s < sim->swarm.n_slots; s++)
			if (w->engine[e].slot[s].state != SLOT_IDLE)
				world_fail(w, "a sequence never finishes", e, s);
	world_fsck(w);
	checker_end(sim->checker);
	core_read_status(w->core, w->now, &st);
	if (st.frames[KVD_FRAME_OPEN] + st.frames[KVD_FRAME_SEALED] + st.frames[KVD_FRAME_FILLING] +
	    st.frames[KVD_FRAME_RETIRING] + st.frames[KVD_FRAME_QUARANTINED])
		world_fail(w, "frames are in use and nobody runs",
			   (uint64_t)st.frames[KVD_FRAME_OPEN] << 32 | st.frames[KVD_FRAME_SEALED],
			   (uint64_t)st.frames[KVD_FRAME_FILLING] << 32 | st.frames[KVD_FRAME_RETIRING]);
	struct kvd_row_page row;
	for (uint32_t cursor = 0; core_read_pages(w->core, CORE_NONE, w->now, &cursor, &row, 1);)
		if (row.state == KVD_FRAME_FREE && w->tags[row.frame])
			world_fail(w, "a free frame is not zero", row.frame, w->tags[row.frame]);
}
