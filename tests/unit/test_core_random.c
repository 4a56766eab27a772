/* test_core_random.c - a seeded storm over the memory core, watched by core_world's oracle and
 * fsck.
 *
 * Several engines of two spaces, tenants of every sharing mode, small pools, kills (quiet comes
 * later), late and reordered mover answers, mover failures, slow steps, hostile submissions, forks,
 * parks, truncations, planted differences.  Then the load stops: every sequence must finish, and
 * with all engines gone the pool must be whole.
 * SEED=n repeats one run; OPS=n its length. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/lib/core_world.h"
#include "tests/lib/suite.h"

enum { EXTENT = 256 << 10, N_TENANTS = 7 };

struct storm {
	uint32_t n_extents, n_engines, ops, kill_percent_of_percent, fail_percent, hostile;
	bool two_spaces;
	uint32_t n_spill, disk_percent; /* size of the spill file in extents; of its writes and reads that fail */
};

static int32_t prompts[6][WORLD_TOKENS];

static void prompts_make(struct world *w)
{
	for (int p = 0; p < 6; p++)
		for (int i = 0; i < WORLD_TOKENS; i++)
			prompts[p][i] = p && i < 16 * (p * 2) ? prompts[p / 2][i]
							      : (int32_t)world_random(w, 50000);
}

static void storm_attach(struct world *w, const struct storm *s, uint32_t n)
{
	char name[16];
	snprintf(name, sizeof(name), "e%u-%u", n, world_random(w, 1000000));
	bool other = s->two_spaces && n % 3 == 2;
	/* two geometries: 16 frames of 16 KiB, or 10 of 24 KiB with a tail */
	world_attach(w, name, other ? 2 : 1, other ? 6 : 4, 4096, 6, 24);
}

static void storm_open(struct world *w, uint32_t e, uint32_t slot)
{
	int32_t tokens[WORLD_TOKENS];
	memcpy(tokens, prompts[world_random(w, 6)], sizeof(tokens));
	uint32_t own = world_random(w, WORLD_TOKENS);
	if (world_random(w, 2))
		for (uint32_t i = own; i < WORLD_TOKENS; i++)
			tokens[i] = (int32_t)world_random(w, 50000);
	/* two blocks in any order: the same tokens after different prefixes */
	bool blocks = !world_random(w, 4);
	for (uint32_t i = 0; blocks && i < WORLD_TOKENS; i += 16)
		memcpy(tokens + i, prompts[world_random(w, 2)], 16 * sizeof(*tokens));
	uint32_t max = w->engine[e].max_pages * 16,
		 n = 1 + world_random(w, max / (1 + world_random(w, 4)));
	uint32_t target = n + world_random(w, 60);
	world_open(w, e, slot, world_random(w, N_TENANTS), tokens, n, target > max ? max : target,
		   world_random(w, 20) ? 0 : KVD_OPEN_PRIVATE);
}

static void storm_hostile(struct world *w, uint32_t e)
{
	struct kvd_sqe q = { .verb = (uint16_t)world_random(w, 12),
			     .flags = (uint16_t)world_random(w, 4),
			     .user_data = 1ull << 60,
			     .tenant = world_random(w, 2 * N_TENANTS),
			     .other = world_random(w, 2) ? world_random(w, 8) : ~0u,
			     .count = world_random(w, 3),
			     .want = world_random(w, 40),
			     .page = world_random(w, 30),
			     .n_tokens = world_random(w, 3) ? world_random(w, 600) : ~0u };
	/* aimed at slots of their own (the last two), so that the programs of the others stay whole
	 *  */
	q.slot = world_random(w, 8) ? 4 + world_random(w, 2) : 6 + world_random(w, 1u << 30);
	if (q.verb == KVD_SEQ_FORK && q.other < 4)
		q.other = 5;
	if (q.verb == KVD_EXTENT_ACK && q.count == 0)
		q.other = ~0u; /* an engine is trusted not to lie about its own mappings */
	if (q.verb == KVD_EXTENT_ACK)
		q.other |= 1u << 20;
	struct world_slot *s = q.slot < 6 ? world_slot(w, e, q.slot) : NULL;
	if (s && (s->state != SLOT_IDLE || s->verb))
		return;
	world_submit(w, e, q);
}

static void storm_special(struct world *w, uint32_t e, uint32_t slot)
{
	struct world_slot *s = world_slot(w, e, slot);
	switch (world_random(w, 4)) {
	case 0: world_plain(w, e, slot, KVD_SEQ_PARK); break;
	case 1: world_plain(w, e, slot, KVD_SEQ_CLOSE); break;
	case 2:
		if (s->n_done > 1)
			world_truncate(w, e, slot, 1 + world_random(w, s->n_done - 1));
		break;
	default: world_fork(w, e, slot, (slot + 1) % 4, world_random(w, 1u << 30)); break;
	}
}

static uint32_t some_engine(struct world *w)
{
	uint32_t from = world_random(w, WORLD_ENGINES);
	for (uint32_t i = 0; i < WORLD_ENGINES; i++)
		if (w->engine[(from + i) % WORLD_ENGINES].attached)
			return (from + i) % WORLD_ENGINES;
	return CORE_NONE;
}

static void storm_kill(struct world *w, const struct storm *s)
{
	uint32_t e = world_random(w, WORLD_ENGINES);
	if (w->engine[e].attached && !world_random(w, 2))
		world_hangup(w, e);
	else if (w->engine[e].alive && !w->engine[e].attached)
		world_quiet(w, e);
	uint32_t alive = 0;
	for (uint32_t i = 0; i < WORLD_ENGINES; i++)
		alive += w->engine[i].alive;
	if (alive < s->n_engines)
		storm_attach(w, s, world_random(w, 100));
}

struct storm_tenant { const char *name, *domain; enum core_sharing sharing; uint64_t max; };
static const struct storm_tenant storm_tenant[N_TENANTS] = {
	{ "merge-a", "", CORE_MERGE, 0 },	{ "merge-b", "", CORE_MERGE, 0 },
	{ "reuse-a", "team", CORE_REUSE, 0 },	{ "reuse-b", "team", CORE_REUSE, 0 },
	{ "private-a", "", CORE_PRIVATE, 0 },	{ "private-b", "", CORE_PRIVATE, 0 },
	{ "small", "", CORE_MERGE, 40 * 24576 },
};

static void storm_define(struct world *w, uint32_t tenant, struct core_quota quota)
{
	struct core_event ev = { .type = CORE_EV_TENANT };
	strcpy(ev.tenant.name, storm_tenant[tenant].name);
	strcpy(ev.tenant.domain, storm_tenant[tenant].domain);
	ev.tenant.sharing = storm_tenant[tenant].sharing;
	ev.tenant.quota = quota;
	ev.tenant.quota.max_bytes = storm_tenant[tenant].max;
	world_step(w, &ev);
}

/* Another quota for somebody, as a reload would bring it: anything but a max, which would end programs. */
static void storm_quota(struct world *w)
{
	uint64_t pool = (uint64_t)w->n_extents * EXTENT;
	struct core_quota q = { 0 };
	if (!world_random(w, 2))
		q.min_bytes = world_random(w, (uint32_t)pool / 4);
	if (!world_random(w, 3))
		q.low_bytes = world_random(w, (uint32_t)pool / 2);
	if (!world_random(w, 3))
		q.high_bytes = 1 + world_random(w, (uint32_t)pool);
	if (!world_random(w, 4))
		q.insert_bytes_per_sec = 1 + world_random(w, 100u << 20);
	q.weight = world_random(w, 1000);
	storm_define(w, world_random(w, N_TENANTS), q);
}

static void storm_tenants(struct world *w)
{
	for (uint32_t i = 0; i < N_TENANTS; i++)
		storm_define(w, i, (struct core_quota){ 0 });
}

static void storm_one(struct world *w, const struct storm *s)
{
	uint32_t e = some_engine(w), dice = world_random(w, 100);
	if (world_random(w, 10000) < s->kill_percent_of_percent || e == CORE_NONE) {
		storm_kill(w, s);
		return;
	}
	uint32_t slot = world_random(w, 4);
	if (!world_random(w, 300)) {
		storm_quota(w);
	} else if (dice < 8) {
		if (world_slot(w, e, slot)->state == SLOT_IDLE && !world_slot(w, e, slot)->verb)
			storm_open(w, e, slot);
	} else if (dice < 40) {
		world_advance(w, e, slot);
	} else if (dice < 55) {
		world_complete_one(w, e);
	} else if (dice < 62) {
		world_step_begin(w, e);
	} else if (dice < 72) {
		world_step_end(w, e);
	} else if (dice < 76) {
		world_poll(w, e);
	} else if (dice < 90) {
		for (int i = 0; i < 3 && w->n_jobs; i++)
			world_mover(w, world_random(w, w->n_jobs),
				    world_random(w, 100) >= s->fail_percent);
	} else if (dice < 91) {
		world_populate(w);
	} else if (dice < 94) {
		world_done(w);
	} else if (dice < 96) {
		world_tick(w, world_random(w, 20000));
	} else if (dice < 98 && s->hostile) {
		storm_hostile(w, e);
	} else {
		storm_special(w, e, slot);
	}
}

/* The hostile slots hold what their last accepted submissions left: close them. */
static void close_hostile(struct world *w)
{
	for (uint32_t e = 0; e < WORLD_ENGINES; e++)
		for (uint32_t slot = 4; w->engine[e].attached && slot < 6; slot++)
			world_submit(w, e,
				     (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE,
						       .slot = slot,
						       .user_data = 1ull << 60 });
}

static void storm_end(struct world *w)
{
	struct kvd_row_status st;
	close_hostile(w);
	storm_tenants(w);                            /* without floors nothing is kept */
	for (uint32_t e = 0; e < WORLD_ENGINES; e++)
		if (w->engine[e].alive && !w->engine[e].attached)
			world_quiet(w, e);
	world_settle(w, true);
	for (uint32_t e = 0; e < WORLD_ENGINES; e++)
		for (uint32_t s = 0; w->engine[e].attached && s < 4; s++)
			if (w->engine[e].slot[s].state != SLOT_IDLE)
				world_fail(w, "a sequence never finishes", e, s);
	world_fsck(w);
	core_read_status(w->core, w->now, &st);
	if (st.frames[KVD_FRAME_OPEN] + st.frames[KVD_FRAME_SEALED] + st.frames[KVD_FRAME_FILLING] +
	    st.frames[KVD_FRAME_RETIRING] + st.frames[KVD_FRAME_QUARANTINED])
		world_fail(w, "frames are in use and nobody runs", st.frames[KVD_FRAME_OPEN],
			   st.frames[KVD_FRAME_RETIRING]);
	for (uint32_t f = 0; f < w->n_frames_max; f++) {
		struct kvd_row_page row;
		uint32_t cursor = f;
		if (core_read_pages(w->core, CORE_NONE, w->now, &cursor, &row, 1) &&
		    row.frame == f && row.state == KVD_FRAME_FREE && w->tags[f])
			world_fail(w, "a free frame is not zero", f, w->tags[f]);
	}
}

static void storm_run(const struct storm *s, uint64_t seed)
{
	struct world *w = world_new_spill((uint64_t)s->n_extents * EXTENT, EXTENT,
					  (uint64_t)s->n_spill * EXTENT, seed);
	w->disk_write_error_percent = w->disk_read_error_percent = w->disk_torn_percent = s->disk_percent;
	uint32_t ops = getenv("OPS") ? (uint32_t)strtoul(getenv("OPS"), NULL, 10) : s->ops;
	w->fsck_every = getenv("FSCK") ? (uint32_t)strtoul(getenv("FSCK"), NULL, 10) : 64;
	prompts_make(w);
	storm_tenants(w);
	for (uint32_t i = 0; i < s->n_engines; i++)
		storm_attach(w, s, i);
	while (w->ops < ops)
		storm_one(w, s);
	storm_end(w);
	struct kvd_row_status st;
	core_read_status(w->core, w->now, &st);
	printf("seed %llu: %llu events, %llu finished, %llu preempted, %llu merges, %llu "
	       "promotions, %llu waits, "
	       "%llu evicted, %llu mover failures\n",
	       (unsigned long long)seed, (unsigned long long)w->ops,
	       (unsigned long long)w->finished, (unsigned long long)st.preemptions,
	       (unsigned long long)st.merges, (unsigned long long)st.promotions,
	       (unsigned long long)st.single_flight_waits, (unsigned long long)st.evicted_pages,
	       (unsigned long long)w->mover_fails);
	if (s->n_spill)
		printf("  disk: %llu writes, %llu reads, %llu faults; %llu lost, %llu there now\n",
		       (unsigned long long)w->disk_writes, (unsigned long long)w->disk_reads,
		       (unsigned long long)w->disk_faults, (unsigned long long)st.lost_pages,
		       (unsigned long long)st.spilled_pages);
	ck_assert_uint_gt(w->finished, 0);
	ck_assert(!s->n_spill || (st.spill_writes > 20 && st.spill_reads));
	ck_assert(!st.lost_pages || s->disk_percent);
	world_free(w);
}

static uint64_t seed_of(uint64_t fallback)
{
	return getenv("SEED") ? strtoull(getenv("SEED"), NULL, 10) : fallback;
}

START_TEST(roomy_pool)
{
	storm_run(&(struct storm){ .n_extents = 40,
				   .n_engines = 3,
				   .ops = 60000,
				   .fail_percent = 2,
				   .hostile = 1 },
		  seed_of(11));
}
END_TEST

START_TEST(tight_pool)
{
	storm_run(&(struct storm){ .n_extents = 6,
				   .n_engines = 2,
				   .ops = 60000,
				   .fail_percent = 2,
				   .hostile = 1 },
		  seed_of(12));
}
END_TEST

START_TEST(kills)
{
	storm_run(&(struct storm){ .n_extents = 16,
				   .n_engines = 4,
				   .ops = 60000,
				   .kill_percent_of_percent = 40,
				   .fail_percent = 2,
				   .two_spaces = true,
				   .hostile = 1 },
		  seed_of(13));
}
END_TEST

START_TEST(two_spaces_tight)
{
	storm_run(&(struct storm){ .n_extents = 7,
				   .n_engines = 4,
				   .ops = 60000,
				   .kill_percent_of_percent = 5,
				   .fail_percent = 5,
				   .two_spaces = true },
		  seed_of(14));
}
END_TEST

/* Two extents for two engines: one long sequence needs all of it, shared pages are in its way. */
START_TEST(tiny_pool)
{
	storm_run(
		&(struct storm){ .n_extents = 2, .n_engines = 2, .ops = 40000, .fail_percent = 2 },
		seed_of(15));
}
END_TEST

/* A disk three times the pool, that never fails: nothing that is claimed may be forgotten for want of it. */
START_TEST(spill_roomy)
{
	storm_run(&(struct storm){ .n_extents = 6,
				   .n_engines = 2,
				   .ops = 60000,
				   .fail_percent = 2,
				   .hostile = 1,
				   .n_spill = 18 },
		  seed_of(16));
}
END_TEST

/* Smaller than the pool, two page sizes, kills; and writes, reads and blocks that fail. */
START_TEST(spill_tight_faults)
{
	storm_run(&(struct storm){ .n_extents = 7,
				   .n_engines = 4,
				   .ops = 60000,
				   .kill_percent_of_percent = 20,
				   .fail_percent = 5,
				   .two_spaces = true,
				   .n_spill = 3,
				   .disk_percent = 4 },
		  seed_of(17));
}
END_TEST

START_TEST(spill_tiny_pool)
{
	storm_run(&(struct storm){ .n_extents = 2, .n_engines = 2, .ops = 40000, .fail_percent = 2, .n_spill = 4 },
		  seed_of(18));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("core_random");
	TCase *t = tcase_create("storm");
	tcase_set_timeout(t, 120);
	if (!getenv("ONLY") || atoi(getenv("ONLY")) == 0)
		tcase_add_test(t, roomy_pool);
	if (!getenv("ONLY") || atoi(getenv("ONLY")) == 1)
		tcase_add_test(t, tight_pool);
	if (!getenv("ONLY") || atoi(getenv("ONLY")) == 2)
		tcase_add_test(t, kills);
	if (!getenv("ONLY") || atoi(getenv("ONLY")) == 3)
		tcase_add_test(t, two_spaces_tight);
	if (!getenv("ONLY") || atoi(getenv("ONLY")) == 4)
		tcase_add_test(t, tiny_pool);
	if (!getenv("ONLY") || atoi(getenv("ONLY")) == 5)
		tcase_add_test(t, spill_roomy);
	if (!getenv("ONLY") || atoi(getenv("ONLY")) == 6)
		tcase_add_test(t, spill_tight_faults);
	if (!getenv("ONLY") || atoi(getenv("ONLY")) == 7)
		tcase_add_test(t, spill_tiny_pool);
	suite_add_tcase(s, t);
	return suite_result(s);
}
