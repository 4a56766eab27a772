/* test_core_quota.c - floors, limits and shares of tenants. */
#include <stdio.h>
#include "tests/lib/core_case.h"
#include "kvd/core/book.h"

enum { PAGES = 8 };            /* of one prompt of these tests */

static void prompt(int32_t *tokens, int32_t which)
{
	tokens_fill(tokens, which);
}

/* Cache a prompt of PAGES whole pages for a tenant. */
static void cache_at(struct world *w, uint32_t engine, uint32_t slot, uint32_t tenant, int32_t which)
{
	int32_t tokens[WORLD_TOKENS];
	prompt(tokens, which);
	run_one(w, engine, slot, tenant, tokens, PAGES * 16);
	world_tick(w, 1000000);
}

static void cache(struct world *w, uint32_t engine, uint32_t tenant, int32_t which)
{
	cache_at(w, engine, 0, tenant, which);
}

/* Pages of that prompt that a sequence of the tenant would find. */
static uint32_t cached(struct world *w, uint32_t engine, uint32_t tenant, int32_t which)
{
	int32_t tokens[WORLD_TOKENS];
	prompt(tokens, which);
	return run_one(w, engine, 0, tenant, tokens, PAGES * 16 + 1);
}

static void end(struct world *w)
{
	world_settle(w, true);
	world_fsck(w);
	world_free(w);
}

/* What a tenant's min covers stays, however much another one wants and however old it is. */
START_TEST(min_is_never_taken_for_others)
{
	struct world *w = world_new(4 * EXTENT, EXTENT, 1);          /* 64 pages */
	uint32_t quiet = tenant_with(w, "quiet", (struct core_quota){ .min_bytes = PAGES * PAGE });
	uint32_t loud = tenant_with(w, "loud", (struct core_quota){ 0 }), e = attach(w, "e0");
	cache(w, e, quiet, 1);
	cache(w, e, quiet, 2);
	ck_assert_uint_eq(tenant_row(w, quiet).guarded_bytes, PAGES * PAGE);
	for (int32_t i = 0; i < 20; i++)
		cache(w, e, loud, 100 + i);
	struct kvd_row_tenant row = tenant_row(w, quiet);
	ck_assert_uint_ge(row.rss_bytes, PAGES * PAGE);
	ck_assert_uint_eq(cached(w, e, quiet, 2), PAGES);            /* the one used last */
	ck_assert_uint_gt(tenant_row(w, loud).evicted_pages, 20);
	end(w);
}
END_TEST

/* The same tenant without a min loses all of it. */
START_TEST(without_min_it_goes)
{
	struct world *w = world_new(4 * EXTENT, EXTENT, 1);
	uint32_t quiet = tenant_with(w, "quiet", (struct core_quota){ 0 });
	uint32_t loud = tenant_with(w, "loud", (struct core_quota){ 0 }), e = attach(w, "e0");
	cache(w, e, quiet, 1);
	for (int32_t i = 0; i < 20; i++)
		cache(w, e, loud, 100 + i);
	ck_assert_uint_eq(cached(w, e, quiet, 1), 0);
	end(w);
}
END_TEST

/* A floor follows its tenant's use: what it holds counts, the rest is kept, and no more than the min. */
START_TEST(min_covers_held_first)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	uint32_t t = tenant_with(w, "t", (struct core_quota){ .min_bytes = 10 * PAGE }), e = attach(w, "e0");
	cache(w, e, t, 1);
	cache(w, e, t, 2);
	ck_assert_uint_eq(tenant_row(w, t).guarded_bytes, 10 * PAGE);
	prompt(tokens, 3);
	run_prompt(w, e, 1, t, tokens, 6 * 16, 0);                   /* 6 sealed, 1 reserved */
	struct kvd_row_tenant row = tenant_row(w, t);
	ck_assert_uint_eq(row.held_bytes, 6 * PAGE);
	ck_assert_uint_eq(row.guarded_bytes + row.held_bytes + row.reserved_bytes, 10 * PAGE);
	/* a new quota at any time: charges stay, the floor follows */
	tenant_with(w, "t", (struct core_quota){ .min_bytes = 20 * PAGE });
	row = tenant_row(w, t);
	ck_assert_uint_eq(row.guarded_bytes + row.held_bytes + row.reserved_bytes, 20 * PAGE);
	tenant_with(w, "t", (struct core_quota){ 0 });
	ck_assert_uint_eq(tenant_row(w, t).guarded_bytes, 0);
	ck_assert_uint_eq(tenant_row(w, t).rss_bytes, 22 * PAGE);
	world_slot(w, e, 1)->hold = false;
	end(w);
}
END_TEST

/* ---- limits ---- */

/* The tenant's own cache goes before anything is refused; then the refusal has the numbers. */
START_TEST(max_reclaims_then_refuses)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	uint32_t t = tenant_with(w, "t", (struct core_quota){ .max_bytes = 20 * PAGE }), e = attach(w, "e0");
	for (int32_t i = 0; i < 6; i++)
		cache(w, e, t, i);                           /* 8 pages each: never above high for long */
	struct kvd_row_tenant row = tenant_row(w, t);
	ck_assert_uint_eq(row.high_bytes, 20 * PAGE - 20 * PAGE / 16);
	ck_assert_uint_lt(row.rss_bytes, row.high_bytes);
	ck_assert_uint_gt(row.evicted_pages, 20);
	prompt(tokens, 50);
	run_prompt(w, e, 1, t, tokens, 12 * 16, 0);
	memcpy(world_slot(w, e, 2)->tokens, tokens, sizeof(tokens));
	struct kvd_cqe c = submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 2, .tenant = t,
		.n_tokens = 30 * 16 });                      /* never */
	ck_assert_uint_eq(c.status, KVD_S_TENANT_MAX);
	ck_assert_uint_eq(c.need_pages, 31);
	ck_assert_uint_eq(c.have_pages, 20);
	prompt(world_slot(w, e, 2)->tokens, 51);
	c = submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 2, .tenant = t, .n_tokens = 10 * 16 });
	ck_assert_uint_eq(c.status, KVD_S_TENANT_MAX);       /* not beside what runs */
	ck_assert_uint_eq(c.need_pages, 11);
	ck_assert_uint_eq(c.have_pages, 7);                  /* 12 held, 1 reserved */
	world_slot(w, e, 1)->hold = false;
	end(w);
}
END_TEST

/* Above its high a tenant's OPEN waits while it has a sequence that runs: that is no stall, and no refusal. */
START_TEST(high_throttles)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	uint32_t t = tenant_with(w, "t", (struct core_quota){ .high_bytes = 16 * PAGE }), e = attach(w, "e0");
	uint32_t other = tenant_with(w, "other", (struct core_quota){ 0 });
	prompt(tokens, 1);
	run_prompt(w, e, 0, t, tokens, 12 * 16, 0);
	prompt(tokens, 2);
	world_open(w, e, 1, t, tokens, 6 * 16, 6 * 16, 0);
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_WAITING);
	ck_assert_uint_eq(tenant_row(w, t).throttled, 1);
	ck_assert_uint_eq(tenant_row(w, t).stalled, 0);
	/* others pass it by */
	prompt(tokens, 3);
	ck_assert_uint_eq(run_one(w, e, 2, other, tokens, 100), 0);
	/* the limit is lifted while it waits: a reload is enough */
	tenant_with(w, "t", (struct core_quota){ .high_bytes = 64 * PAGE });
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_READY);
	/* and comes back: it waits for nothing that runs already */
	tenant_with(w, "t", (struct core_quota){ .high_bytes = 2 * PAGE });
	world_slot(w, e, 0)->hold = false;
	end(w);
}
END_TEST

START_TEST(alone_above_high_runs)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	uint32_t t = tenant_with(w, "t", (struct core_quota){ .high_bytes = 4 * PAGE }), e = attach(w, "e0");
	prompt(tokens, 1);
	run_one(w, e, 0, t, tokens, 10 * 16);
	ck_assert_uint_lt(tenant_row(w, t).rss_bytes, 4 * PAGE);     /* what it cached went down to below high */
	end(w);
}
END_TEST

/* GROW is bounded by max, too: the tenant's younger sequence gives way, a lone one is refused with the numbers,
 * and one that was there when max was lowered is left alone. */
START_TEST(max_bounds_growth)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	uint32_t t = tenant_with(w, "t", (struct core_quota){ .max_bytes = 20 * PAGE, .high_bytes = 19 * PAGE });
	uint32_t e = attach(w, "e0");
	prompt(tokens, 1);
	run_prompt(w, e, 0, t, tokens, 8 * 16, 0);
	prompt(tokens, 2);
	run_prompt(w, e, 1, t, tokens, 8 * 16, 0);
	submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 0, .want = 15, .page = 8 });
	world_settle(w, false);
	ck_assert_uint_ne(world_slot(w, e, 0)->table[14], 0);
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_PREEMPTED);
	struct kvd_cqe c = submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 0, .want = 30, .page = 8 });
	ck_assert_uint_eq(c.status, KVD_S_TENANT_MAX);
	ck_assert_uint_eq(c.need_pages, 15);
	ck_assert_uint_eq(c.have_pages, 5);
	/* lowered below what is in use: nobody ends, what runs may grow, nothing new comes in */
	tenant_with(w, "t", (struct core_quota){ .max_bytes = 10 * PAGE });
	ck_assert_uint_eq(world_slot(w, e, 0)->state, SLOT_READY);
	submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 0, .want = 17, .page = 8 });
	world_settle(w, false);
	ck_assert_uint_ne(world_slot(w, e, 0)->table[16], 0);
	c = submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 2, .tenant = t, .n_tokens = 16 });
	ck_assert_uint_eq(c.status, KVD_S_TENANT_MAX);
	world_fsck(w);
	world_free(w);
}
END_TEST

START_TEST(max_sequences)
{
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	uint32_t t = tenant_with(w, "t", (struct core_quota){ .max_sequences = 2 }), e = attach(w, "e0");
	for (uint32_t i = 0; i < 3; i++) {
		struct kvd_cqe c = submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = i, .tenant = t,
			.n_tokens = 16 });
		ck_assert_uint_eq(c.status, i < 2 ? KVD_S_OK : KVD_S_LIMIT);
		if (i == 2) {
			ck_assert_uint_eq(c.need_pages, 3);
			ck_assert_uint_eq(c.have_pages, 2);
		}
	}
	ck_assert_uint_eq(submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_FORK, .slot = 0, .other = 3 }).status,
			  KVD_S_LIMIT);
	submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = 0 });
	ck_assert_uint_eq(submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 2, .tenant = t,
				 .n_tokens = 16 }).status, KVD_S_OK);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* 8 pages a second: a second's worth at once, then as time passes; in order of arrival; no stall. */
START_TEST(insert_rate)
{
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	uint32_t t = tenant_with(w, "t", (struct core_quota){ .insert_bytes_per_sec = 8 * PAGE }), e = attach(w, "e0");
	for (uint32_t i = 0; i < 3; i++) {
		prompt(world_slot(w, e, i)->tokens, (int32_t)i);
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = i, .tenant = t, .n_tokens = 15 * 16 });
	}
	world_settle(w, false);
	uint64_t begun = w->now;
	submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 0, .want = 16 });
	submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 1, .want = 4 });
	submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 2, .want = 4 });
	world_settle(w, false);
	ck_assert_uint_ne(world_slot(w, e, 0)->table[15], 0);
	ck_assert_uint_eq(world_slot(w, e, 1)->table[0] + world_slot(w, e, 2)->table[0], 0);
	ck_assert_uint_eq(tenant_row(w, t).throttled, 2);
	ck_assert_uint_eq(tenant_row(w, t).stalled, 0);
	/* 16 pages are paid for after two seconds, one second ahead is allowed: slot 1 at 1 s, slot 2 at 1.5 s */
	uint64_t when[3] = { 0 };
	for (uint32_t n = 0; n < 50 && !when[2]; n++) {
		uint64_t at = core_next_tick_usec(w->core);
		world_tick(w, at > w->now && at != UINT64_MAX ? at - w->now : 0);
		world_settle(w, false);
		for (uint32_t i = 1; i < 3; i++)
			when[i] = !when[i] && world_slot(w, e, i)->table[3] ? w->now - begun : when[i];
	}
	ck_assert_uint_eq(when[1], 1000000);
	ck_assert_uint_eq(when[2], 1500000);
	struct kvd_row_psi row;
	uint32_t cursor = 0;
	ck_assert_uint_eq(core_read_psi(w->core, t, w->now, &cursor, &row, 1), 1);
	ck_assert_uint_eq(row.some_total_usec, 0);
	/* without the limit who waits goes on at once */
	ck_assert_uint_eq(submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 1, .want = 16 }).status, 0xffff);
	ck_assert_uint_eq(w->core->rate_tenants.count, 1);
	tenant_with(w, "t", (struct core_quota){ 0 });
	ck_assert_uint_eq(w->core->rate_tenants.count, 0);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* ---- shares ---- */

/* Whose sequence is preempted: bytes by weight, not bytes alone. */
static uint32_t preempted_with_weights(uint32_t big_weight, uint32_t small_weight)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(2 * EXTENT, EXTENT, 3);          /* 32 pages */
	uint32_t first = tenant_with(w, "first", (struct core_quota){ 0 });
	uint32_t big = tenant_with(w, "big", (struct core_quota){ .weight = big_weight });
	uint32_t small = tenant_with(w, "small", (struct core_quota){ .weight = small_weight });
	uint32_t e = attach(w, "e0");
	prompt(tokens, 1);
	run_prompt(w, e, 0, first, tokens, 5 * 16, 0);               /* the oldest: never */
	prompt(tokens, 2);
	run_prompt(w, e, 1, big, tokens, 12 * 16, 0);
	prompt(tokens, 3);
	run_prompt(w, e, 2, small, tokens, 8 * 16, 0);
	submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 0, .want = 12, .page = 5 });
	ck_assert_uint_eq(status_of(w).preemptions, 1);
	ck_assert_uint_eq(tenant_row(w, first).held_bytes + tenant_row(w, first).reserved_bytes, 12 * PAGE);
	uint32_t who = !tenant_row(w, big).held_bytes ? big : small;
	ck_assert(who == big || !tenant_row(w, small).held_bytes);
	world_fsck(w);
	world_free(w);
	return who;
}

START_TEST(weights_choose_the_victim)
{
	ck_assert_uint_eq(preempted_with_weights(0, 0), 1);
	ck_assert_uint_eq(preempted_with_weights(100, 100), 1);
	ck_assert_uint_eq(preempted_with_weights(200, 100), 2);      /* 13/200 < 9/100 */
	ck_assert_uint_eq(preempted_with_weights(10000, 1), 2);
	ck_assert_uint_eq(preempted_with_weights(1, 10000), 1);
}
END_TEST

/* ---- floors ---- */

/* A tenant below its min asks while another has the whole pool.  The bound: its OPEN is answered in the same
 * event; its frames are there when the other's step has ended, is stamped, and the mover has zeroed them. */
START_TEST(a_floor_is_restored_in_bounded_steps)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(4 * EXTENT, EXTENT, 3);          /* 64 pages */
	uint32_t hog = tenant_with(w, "hog", (struct core_quota){ 0 });
	uint32_t floor = tenant_with(w, "floor", (struct core_quota){ .min_bytes = 12 * PAGE }), e = attach(w, "e0");
	for (uint32_t i = 0; i < 3; i++) {
		prompt(tokens, (int32_t)i + 1);
		run_prompt(w, e, i, hog, tokens, 20 * 16, 0);
	}
	world_settle(w, false);
	world_step_begin(w, e);                                      /* a step of the hog is under way */
	uint64_t ops = w->ops, preempted = status_of(w).preemptions;
	prompt(tokens, 9);
	world_open(w, e, 5, floor, tokens, 10 * 16, 10 * 16, 0);
	ck_assert_uint_eq(w->ops, ops + 1);
	ck_assert_uint_eq(status_of(w).preemptions, preempted + 1);  /* one, the youngest; recomputed, not killed */
	while (world_complete_one(w, e))
		;
	ck_assert_uint_eq(world_slot(w, e, 5)->state, SLOT_READY);
	ck_assert_uint_eq(world_slot(w, e, 2)->state, SLOT_PREEMPTED);
	ck_assert_uint_eq(submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 5, .want = 10 }).status,
			  0xffff);                           /* the step still reads those frames */
	world_done(w);
	ck_assert_uint_eq(world_slot(w, e, 5)->table[9], 0);
	ops = w->ops;
	world_step_end(w, e);
	world_done(w);
	while (w->n_jobs && !world_slot(w, e, 5)->table[9])
		world_mover(w, 0, true);
	ck_assert_uint_ne(world_slot(w, e, 5)->table[9], 0);
	printf("floor: reserved in the event that asked, 10 frames %llu events after the step's end\n",
	       (unsigned long long)(w->ops - ops));
	ck_assert_uint_le(w->ops - ops, 1 + 24 + 2);                 /* DONE, a scrub for each frame of the victim */
	for (uint32_t i = 0; i < 3; i++)
		world_slot(w, e, i)->hold = false;
	end(w);
}
END_TEST

/* The memory is another engine's: its extents must be unmapped, zeroed, mapped.  Still no kill, and a bound. */
START_TEST(a_floor_across_engines)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(4 * EXTENT, EXTENT, 3);          /* 64 pages */
	uint32_t hog = tenant_with(w, "hog", (struct core_quota){ 0 });
	uint32_t floor = tenant_with(w, "floor", (struct core_quota){ .min_bytes = 12 * PAGE });
	uint32_t e0 = attach(w, "e0"), e1 = attach(w, "e1"), rounds = 0;
	for (uint32_t i = 0; i < 4; i++) {
		prompt(tokens, (int32_t)i + 1);
		run_prompt(w, e0, i, hog, tokens, 14 * 16, 0);
	}
	world_settle(w, false);
	world_step_begin(w, e0);
	prompt(world_slot(w, e1, 0)->tokens, 9);
	ck_assert_uint_eq(submit(w, e1, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 0, .tenant = floor,
				 .n_tokens = 10 * 16 }).status, KVD_S_OK);
	ck_assert_uint_gt(status_of(w).preemptions, 0);
	submit(w, e1, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 0, .want = 10 });
	world_step_end(w, e0);
	uint64_t ops = w->ops;
	for (; !world_slot(w, e1, 0)->table[9] && rounds < 20; rounds++) {
		world_done(w);
		while (w->n_jobs)
			world_mover(w, 0, true);
		while (world_poll(w, e0) || world_poll(w, e1))
			;
		world_tick(w, 0);
	}
	printf("floor across engines: %u preempted, 10 frames after %u rounds of step, mover and messages, "
	       "%llu events\n",
	       (unsigned)status_of(w).preemptions, rounds, (unsigned long long)(w->ops - ops));
	ck_assert_uint_ne(world_slot(w, e1, 0)->table[9], 0);
	ck_assert_uint_le(rounds, 5);
	ck_assert_uint_le(status_of(w).preemptions, 3);
	ck_assert_uint_gt(tenant_row(w, hog).held_bytes, 0);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* ... the oldest sequence of all included, and past others in the queue; but never more than its min. */
START_TEST(a_floor_goes_first_up_to_min)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(2 * EXTENT, EXTENT, 3);          /* 32 pages */
	uint32_t hog = tenant_with(w, "hog", (struct core_quota){ 0 });
	uint32_t other = tenant_with(w, "other", (struct core_quota){ 0 });
	uint32_t floor = tenant_with(w, "floor", (struct core_quota){ .min_bytes = 12 * PAGE }), e = attach(w, "e0");
	prompt(tokens, 1);
	run_prompt(w, e, 0, hog, tokens, 29 * 16, 0);
	prompt(tokens, 2);
	world_open(w, e, 1, other, tokens, 16, 16, 0);               /* fits: 1 + 1 */
	prompt(tokens, 3);
	world_open(w, e, 2, other, tokens, 3 * 16, 3 * 16, 0);       /* waits */
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 2)->state, SLOT_WAITING);
	prompt(tokens, 4);
	world_open(w, e, 3, floor, tokens, 20 * 16, 20 * 16, 0);     /* 21 pages: not its min's */
	world_settle(w, false);
	ck_assert_uint_eq(status_of(w).preemptions, 0);
	prompt(tokens, 5);
	world_open(w, e, 4, floor, tokens, 10 * 16, 10 * 16, 0);     /* 11 pages */
	world_settle(w, false);
	/* the oldest one of the queue of its own tenant stands before it and is not covered */
	ck_assert_uint_eq(world_slot(w, e, 4)->state, SLOT_WAITING);
	submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = 3 });
	ck_assert_uint_eq(status_of(w).preemptions, 1);
	ck_assert_uint_eq(tenant_row(w, hog).held_bytes, 0);
	ck_assert_uint_eq(tenant_row(w, floor).reserved_bytes, 11 * PAGE);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* A floor's own sequences are spared, until the oldest of all cannot go on otherwise: progress wins, and the
 * ledger says so. */
START_TEST(progress_of_the_oldest_wins)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(2 * EXTENT, EXTENT, 3);          /* 32 pages */
	uint32_t big = tenant_with(w, "big", (struct core_quota){ 0 });
	uint32_t floor = tenant_with(w, "floor", (struct core_quota){ .min_bytes = 16 * PAGE }), e = attach(w, "e0");
	prompt(tokens, 1);
	run_prompt(w, e, 0, big, tokens, 4 * 16, 0);                 /* the oldest */
	cache_at(w, e, 3, floor, 5);                                 /* 8 pages kept */
	prompt(tokens, 2);
	run_prompt(w, e, 1, floor, tokens, 6 * 16, 0);
	submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 0, .want = 16, .page = 4 });
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_READY);   /* 16 + 7 + 8 fit */
	ck_assert_uint_eq(tenant_row(w, floor).guarded_bytes, 8 * PAGE);
	submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 0, .want = 24, .page = 4 });
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_READY);   /* what was kept has yielded */
	ck_assert_uint_lt(tenant_row(w, floor).guarded_bytes, 8 * PAGE);
	ck_assert_uint_gt(status_of(w).reclaimed_pages[KVD_RECLAIM_PROGRESS], 0);
	submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 0, .want = 30, .page = 4 });
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_PREEMPTED);
	world_slot(w, e, 0)->hold = world_slot(w, e, 1)->hold = false;
	end(w);
}
END_TEST

/* Without age on its side a large request waits beside a floor, and others pass it by. */
START_TEST(too_large_beside_a_floor_is_passed_by)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(2 * EXTENT, EXTENT, 3);          /* 32 pages */
	uint32_t floor = tenant_with(w, "floor", (struct core_quota){ .min_bytes = 16 * PAGE });
	uint32_t big = tenant_with(w, "big", (struct core_quota){ 0 });
	uint32_t small = tenant_with(w, "small", (struct core_quota){ 0 });
	uint32_t e = attach(w, "e0");
	cache(w, e, floor, 1);
	prompt(tokens, 2);
	run_prompt(w, e, 1, floor, tokens, 7 * 16, 0);               /* 8 kept, 8 in use */
	prompt(tokens, 3);
	world_open(w, e, 2, big, tokens, 20 * 16, 20 * 16, 0);
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 2)->state, SLOT_WAITING);
	prompt(tokens, 4);
	ck_assert_uint_eq(run_one(w, e, 3, small, tokens, 4 * 16), 0);
	/* nobody runs any more: the oldest goes on, whatever a floor keeps */
	world_slot(w, e, 1)->hold = false;
	end(w);
}
END_TEST

int main(void)
{
	const TTest *list[] = { min_is_never_taken_for_others, without_min_it_goes, min_covers_held_first,
				max_reclaims_then_refuses, high_throttles, alone_above_high_runs, max_bounds_growth,
				max_sequences, insert_rate, weights_choose_the_victim,
				a_floor_is_restored_in_bounded_steps, a_floor_across_engines,
				a_floor_goes_first_up_to_min,
				progress_of_the_oldest_wins, too_large_beside_a_floor_is_passed_by };
	return run_suite("core_quota", list, sizeof(list) / sizeof(list[0]));
}
