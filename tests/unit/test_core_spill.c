/* test_core_spill.c - the spill tier, case by case: what leaves, what comes back, and who waits for a disk that
 * is full, slow or wrong.  The storms over it are in test_core_random.c. */
#include "tests/lib/core_case.h"

enum { PAGES = 8, POOL = 4 };      /* pages of one prompt; extents of the pool: 64 frames */

static int32_t tokens[WORLD_TOKENS];

static struct world *world_with(uint32_t spill_extents)
{
	struct world *w = world_new_spill(POOL * EXTENT, EXTENT, (uint64_t)spill_extents * EXTENT, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	world_tenant(w, "b", "", CORE_MERGE, 0);
	world_tenant(w, "c", "team", CORE_REUSE, 0);
	world_tenant(w, "d", "team", CORE_REUSE, 0);
	world_tenant(w, "p", "", CORE_PRIVATE, 0);
	return w;
}

static uint32_t run(struct world *w, uint32_t e, uint32_t tenant, int32_t which)
{
	tokens_fill(tokens, which);
	uint32_t cached = run_one(w, e, 0, tenant, tokens, PAGES * 16 + 1);
	world_tick(w, 1000000);
	return cached;
}

/* Others fill the pool several times over. */
static void press(struct world *w, uint32_t e, int32_t from)
{
	for (int32_t i = 0; i < 12; i++)
		run(w, e, 1, from + i);
}

static uint32_t jobs_of(const struct world *w, enum core_move kind)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < w->n_jobs; i++)
		n += w->jobs[i].move.kind == kind;
	return n;
}

static void do_jobs(struct world *w, enum core_move kind, bool ok)
{
	for (uint32_t n = jobs_of(w, kind), i = 0; n; n--, i = 0) {
		while (w->jobs[i].move.kind != kind)
			i++;
		world_mover(w, i, ok);
	}
}

/* Run a long prompt of tenant b's until pages are being written out for it. */
static void press_until_writing(struct world *w, uint32_t e, uint32_t slot)
{
	w->hold_moves |= 1u << CORE_MOVE_SPILL;
	tokens_fill(tokens, 1000 + (int32_t)slot);
	world_open(w, e, slot, 1, tokens, 24 * 16 + 1, 24 * 16 + 3, 0);
	for (uint32_t i = 0; i < 200 && !jobs_of(w, CORE_MOVE_SPILL); i++) {
		world_settle(w, false);
		world_advance(w, e, slot);
		world_settle(w, false);
		world_step_begin(w, e);
		world_step_end(w, e);
	}
	ck_assert_uint_gt(jobs_of(w, CORE_MOVE_SPILL), 0);
}

static void end(struct world *w)
{
	w->hold_moves = 0;
	world_settle(w, true);
	world_fsck(w);
	world_free(w);
}

START_TEST(there_and_back)
{
	struct world *w = world_with(16);
	uint32_t e = attach(w, "e0");
	run(w, e, 0, 1);
	uint64_t had = tenant_row(w, 0).rss_bytes;
	press(w, e, 100);
	struct kvd_row_tenant row = tenant_row(w, 0);
	ck_assert_uint_ge(row.spilled_bytes, PAGES * PAGE);
	ck_assert_uint_eq(row.spilled_bytes + row.rss_bytes, had);
	ck_assert_uint_ge(status_of(w).spilled_pages, PAGES);
	ck_assert_uint_eq(run(w, e, 0, 1), PAGES);   /* as many as if they had never left */
	ck_assert_uint_eq(w->disk_reads, PAGES);
	ck_assert_uint_eq(status_of(w).spill_reads, PAGES);
	row = tenant_row(w, 0);
	ck_assert_uint_eq(row.spilled_bytes, 0);
	ck_assert_uint_eq(row.rss_bytes, had);
	/* what has been read stays on disk as well: it leaves again without being written */
	uint64_t writes = w->disk_writes, n = 12 * (PAGES + 1);
	press(w, e, 200);
	press(w, e, 300);
	ck_assert_uint_le(w->disk_writes - writes, 2 * n);
	ck_assert_uint_eq(status_of(w).lost_pages, 0);
	end(w);
}
END_TEST

START_TEST(without_a_tier_it_is_forgotten)
{
	struct world *w = world_with(0);
	uint32_t e = attach(w, "e0");
	run(w, e, 0, 1);
	press(w, e, 100);
	ck_assert_uint_eq(tenant_row(w, 0).rss_bytes, 0);
	ck_assert_uint_eq(tenant_row(w, 0).spilled_bytes, 0);
	ck_assert_uint_eq(run(w, e, 0, 1), 0);
	end(w);
}
END_TEST

/* Four sequences of one domain, two engines, one instant: each page is read once. */
START_TEST(many_wait_for_one_read)
{
	struct world *w = world_with(16);
	uint32_t e0 = attach(w, "e0");
	run(w, e0, 2, 1);
	press(w, e0, 100);
	uint64_t before = w->disk_reads;
	ck_assert_uint_ge(tenant_row(w, 2).spilled_bytes, PAGES * PAGE);
	tokens_fill(tokens, 1);
	uint64_t finished = w->finished;
	w->hold_moves = 1u << CORE_MOVE_FETCH;
	for (uint32_t s = 0; s < 4; s++)
		world_open(w, e0, s, 2 + s % 2, tokens, PAGES * 16 + 1, PAGES * 16 + 3, 0);
	world_settle(w, false);
	ck_assert_uint_ge(jobs_of(w, CORE_MOVE_FETCH), 1);
	ck_assert_uint_le(jobs_of(w, CORE_MOVE_FETCH), PAGES);
	w->hold_moves = 0;
	world_settle(w, true);
	ck_assert_uint_eq(w->finished - finished, 4);
	ck_assert_uint_eq(w->disk_reads - before, PAGES);
	end(w);
}
END_TEST

/* A bit flips on disk: the pages before it are served, that one and those behind it are computed again. */
START_TEST(a_bad_read_is_never_served)
{
	struct world *w = world_with(16);
	uint32_t e = attach(w, "e0");
	run(w, e, 0, 1);
	press(w, e, 100);
	for (uint32_t i = 0; i < w->n_blocks; i++)
		if (w->disk[i].tag == world_tag(1, (tokens_fill(tokens, 1), tokens), 5 * 16))
			world_disk_corrupt(w, i);
	ck_assert_uint_gt(w->disk_faults, 0);
	tokens_fill(tokens, 1);
	world_open(w, e, 0, 0, tokens, PAGES * 16 + 1, PAGES * 16 + 3, 0);
	w->hold_moves = 1u << CORE_MOVE_FETCH;
	world_settle(w, false);
	do_jobs(w, CORE_MOVE_FETCH, true);
	w->hold_moves = 0;
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 0)->n_sealed, 4);
	ck_assert_uint_eq(status_of(w).lost_pages, 1);
	ck_assert_uint_gt(w->alarms, 0);
	world_settle(w, true);
	ck_assert_uint_eq(run(w, e, 0, 1), PAGES);   /* computed, cached, good again */
	end(w);
}
END_TEST

/* While it is written out the page is found as ever, and stays if it is taken. */
START_TEST(taken_while_it_is_written)
{
	struct world *w = world_with(16);
	uint32_t e = attach(w, "e0");
	for (int32_t i = 0; i < 7; i++)
		run(w, e, 0, 1 + i);
	ck_assert_uint_eq(w->disk_writes, 0);
	press_until_writing(w, e, 2);
	uint64_t reads = w->disk_reads;
	tokens_fill(tokens, 1);              /* the oldest: its last page is on its way */
	world_open(w, e, 1, 0, tokens, PAGES * 16 + 1, PAGES * 16 + 3, 0);
	world_settle(w, false);
	do_jobs(w, CORE_MOVE_SPILL, true);
	w->hold_moves = 0;
	world_settle(w, true);
	ck_assert_uint_eq(w->disk_reads, reads);
	ck_assert_uint_eq(world_slot(w, e, 1)->last_cached, PAGES);
	end(w);
}
END_TEST

/* The disk does not answer: who needs memory waits once, for a bounded time; then pages are forgotten as without
 * a tier, at once. */
START_TEST(a_slow_disk_stops_nobody)
{
	struct world *w = world_with(16);
	uint32_t e = attach(w, "e0");
	for (int32_t i = 0; i < 7; i++)
		run(w, e, 0, 1 + i);
	w->hold_moves = 1u << CORE_MOVE_SPILL;
	uint64_t before = w->now, finished = w->finished;
	for (int32_t i = 0; i < 4; i++) {
		tokens_fill(tokens, 100 + i);
		world_open(w, e, 0, 1, tokens, PAGES * 16 + 1, PAGES * 16 + 3, 0);
		for (uint32_t n = 0; n < 20 && w->finished - finished == (uint64_t)i; n++)
			world_settle(w, true);
	}
	ck_assert_uint_eq(w->finished - finished, 4);
	ck_assert_uint_gt(jobs_of(w, CORE_MOVE_SPILL), 0);
	/* 50 ms each, until the writes are overdue and no more of them begin */
	ck_assert_uint_le(w->now - before, 800000);
	do_jobs(w, CORE_MOVE_SPILL, true);           /* late, and still right */
	end(w);
}
END_TEST

/* A read that does not come: its waiters compute after a while; it may come then. */
START_TEST(a_slow_read_is_given_up)
{
	struct world *w = world_with(16);
	uint32_t e = attach(w, "e0");
	run(w, e, 0, 1);
	press(w, e, 100);
	w->hold_moves = 1u << CORE_MOVE_FETCH;
	uint64_t before = w->now;
	tokens_fill(tokens, 1);
	run_one(w, e, 0, 0, tokens, PAGES * 16 + 1);
	ck_assert_uint_ge(w->now - before, 1000000);
	ck_assert_uint_le(w->now - before, 20000000);
	ck_assert_uint_gt(jobs_of(w, CORE_MOVE_FETCH), 0);
	do_jobs(w, CORE_MOVE_FETCH, true);
	end(w);
}
END_TEST

START_TEST(a_full_device_costs_nothing_but_the_cache)
{
	struct world *w = world_with(16);
	uint32_t e = attach(w, "e0");
	w->disk_write_error_percent = 100;
	run(w, e, 0, 1);
	press(w, e, 100);
	ck_assert_uint_eq(status_of(w).spilled_pages, 0);
	ck_assert_uint_eq(tenant_row(w, 0).spilled_bytes, 0);
	ck_assert_uint_gt(w->disk_writes, 0);
	ck_assert_uint_lt(w->disk_writes, 150);      /* after an error none is tried for a while */
	w->disk_write_error_percent = 0;
	run(w, e, 0, 1);
	press(w, e, 200);
	ck_assert_uint_gt(status_of(w).spilled_pages, 0);
	end(w);
}
END_TEST

/* A tier for one extent's pages: what leaves last is there, what left first is gone. */
START_TEST(the_coldest_goes_first)
{
	struct world *w = world_with(2);
	uint32_t e = attach(w, "e0");
	run(w, e, 0, 1);
	press(w, e, 100);
	press(w, e, 200);
	press(w, e, 300);
	struct kvd_row_status st = status_of(w);
	ck_assert_uint_eq(tenant_row(w, 0).spilled_bytes, 0);
	ck_assert_uint_le(st.spill_slots_used, 2 * EXTENT / (PAGE + 4096));
	ck_assert_uint_gt(st.spill_slots_used, EXTENT / (PAGE + 4096));
	ck_assert_uint_gt(tenant_row(w, 1).spilled_bytes, 0);
	end(w);
}
END_TEST

/* A mover dies over writes and reads: each is asked again, with another nonce; nothing is lost. */
START_TEST(movers_die)
{
	struct world *w = world_with(16);
	uint32_t e = attach(w, "e0");
	for (int32_t i = 0; i < 7; i++)
		run(w, e, 0, 1 + i);
	press_until_writing(w, e, 2);
	uint32_t n = jobs_of(w, CORE_MOVE_SPILL);
	for (uint32_t i = 0; i < n; i++)     /* those they are asked again as stand behind them */
		do_jobs(w, CORE_MOVE_SPILL, i > 0);
	w->hold_moves = 0;
	world_settle(w, true);
	ck_assert_uint_gt(status_of(w).spilled_pages, 0);
	w->hold_moves = 0;
	press(w, e, 200);
	w->hold_moves = 1u << CORE_MOVE_FETCH;
	tokens_fill(tokens, 1);
	world_open(w, e, 1, 0, tokens, PAGES * 16 + 1, PAGES * 16 + 3, 0);
	world_settle(w, false);
	n = jobs_of(w, CORE_MOVE_FETCH);
	ck_assert_uint_gt(n, 0);
	for (uint32_t i = n; i-- > 0;)
		if (w->jobs[i].move.kind == CORE_MOVE_FETCH)
			world_mover(w, i, false);
	ck_assert_uint_eq(jobs_of(w, CORE_MOVE_FETCH), n);
	end(w);
}
END_TEST

/* The engine that waited dies; the read goes on and leaves a cool copy. */
START_TEST(its_engine_dies)
{
	struct world *w = world_with(16);
	uint32_t e = attach(w, "e0"), e1 = attach(w, "e1");
	run(w, e, 0, 1);
	press(w, e, 100);
	w->hold_moves = 1u << CORE_MOVE_FETCH;
	tokens_fill(tokens, 1);
	world_open(w, e1, 0, 0, tokens, PAGES * 16 + 1, PAGES * 16 + 3, 0);
	world_settle(w, false);
	ck_assert_uint_gt(jobs_of(w, CORE_MOVE_FETCH), 0);
	world_hangup(w, e1);
	do_jobs(w, CORE_MOVE_FETCH, true);
	world_quiet(w, e1);
	w->hold_moves = 0;
	run(w, e, 0, 1);
	ck_assert_uint_eq(status_of(w).frames[KVD_FRAME_FILLING], 0);
	end(w);
}
END_TEST

/* Who may skip compute does not change on disk. */
START_TEST(domains_stay_apart)
{
	struct world *w = world_with(16);
	uint32_t e = attach(w, "e0");
	run(w, e, 4, 1);
	press(w, e, 100);
	ck_assert_uint_ge(tenant_row(w, 4).spilled_bytes, PAGES * PAGE);
	uint64_t reads = w->disk_reads;
	run(w, e, 0, 1);                             /* another tenant, the same tokens: computes */
	ck_assert_uint_eq(w->disk_reads, reads);
	run(w, e, 4, 1);
	run(w, e, 3, 50);
	press(w, e, 200);
	press(w, e, 300);
	reads = w->disk_reads;
	run(w, e, 2, 50);                            /* one domain: the other's pages are read */
	ck_assert_uint_ge(w->disk_reads - reads, 1);
	end(w);
}
END_TEST

/* What a tenant has on disk is none of its memory: its max does not count it and does not take it. */
START_TEST(a_max_leaves_what_is_on_disk)
{
	struct world *w = world_with(16);
	uint32_t e = attach(w, "e0");
	uint32_t small = tenant_with(w, "small", (struct core_quota){ .max_bytes = 24 * PAGE });
	for (int32_t i = 0; i < 6; i++)
		run(w, e, small, 1 + i);
	ck_assert_uint_le(tenant_row(w, small).rss_bytes, 24 * PAGE);
	press(w, e, 100);
	press(w, e, 200);
	uint64_t spilled = tenant_row(w, small).spilled_bytes;
	ck_assert_uint_gt(spilled, PAGES * PAGE);
	run(w, e, small, 50);
	ck_assert_uint_ge(tenant_row(w, small).spilled_bytes, spilled);
	ck_assert_uint_le(tenant_row(w, small).rss_bytes, 24 * PAGE);
	end(w);
}
END_TEST

/* Above its high a tenant's own cache goes at once, but not what has just been read for its sequence: that would be
 * read for ever. */
START_TEST(above_its_high_it_is_read_once)
{
	struct world *w = world_with(16);
	uint32_t e = attach(w, "e0"), high = tenant_with(w, "high", (struct core_quota){ .high_bytes = 2 * PAGE });
	run(w, e, high, 1);
	uint64_t away = tenant_row(w, high).spilled_bytes / PAGE;
	ck_assert_uint_ge(away, PAGES - 1);
	w->hold_moves = 1u << CORE_MOVE_FETCH;
	tokens_fill(tokens, 1);
	world_open(w, e, 0, high, tokens, PAGES * 16 + 1, PAGES * 16 + 2, 0);
	for (uint32_t i = 0; i < 4 * PAGES; i++) {
		world_settle(w, false);
		do_jobs(w, CORE_MOVE_FETCH, true);
	}
	ck_assert_uint_eq(world_slot(w, e, 0)->last_cached, PAGES);
	ck_assert_uint_eq(w->disk_reads, away);
	end(w);
}
END_TEST

/* kvd went on without the file: what was in it alone is computed again. */
START_TEST(the_file_is_gone)
{
	struct world *w = world_with(16);
	uint32_t e = attach(w, "e0");
	run(w, e, 0, 1);
	press(w, e, 100);
	w->hold_moves = 1u << CORE_MOVE_FETCH;
	tokens_fill(tokens, 1);
	world_open(w, e, 0, 0, tokens, PAGES * 16 + 1, PAGES * 16 + 3, 0);
	world_settle(w, false);
	uint32_t fetching = jobs_of(w, CORE_MOVE_FETCH);
	uint64_t finished = w->finished;
	world_step(w, &(struct core_event){ .type = CORE_EV_SPILL_GONE });
	ck_assert_uint_le(status_of(w).spill_slots_used, fetching);
	for (uint32_t i = 0; i < w->n_blocks; i++)
		world_disk_corrupt(w, i);
	do_jobs(w, CORE_MOVE_FETCH, false);          /* their mover died with the old kvd */
	ck_assert_uint_eq(status_of(w).spilled_pages, 0);
	ck_assert_uint_gt(status_of(w).lost_pages, PAGES);
	w->hold_moves = 0;
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, finished + 1);
	end(w);
}
END_TEST

/* Two page sizes share the file; regions change hands. */
START_TEST(two_spaces_share_the_file)
{
	struct world *w = world_with(3);
	uint32_t e = attach(w, "e0");
	press(w, e, 100);
	press(w, e, 200);
	ck_assert_uint_gt(tenant_row(w, 1).spilled_bytes, 0);
	world_hangup(w, e);
	world_quiet(w, e);
	uint32_t other = world_attach(w, "other", 2, 6, 4096, WORLD_SLOTS, WORLD_PAGES);
	ck_assert_uint_ne(other, CORE_NONE);
	world_settle(w, false);
	press(w, other, 300);
	press(w, other, 400);
	uint64_t reads = w->disk_reads;
	for (int32_t i = 12; i-- > 0;)
		run(w, other, 1, 400 + i);
	ck_assert_uint_gt(w->disk_reads, reads);
	end(w);
}
END_TEST

int main(void)
{
	const TTest *list[] = {there_and_back,
			       without_a_tier_it_is_forgotten,
			       many_wait_for_one_read,
			       a_bad_read_is_never_served,
			       taken_while_it_is_written,
			       a_slow_disk_stops_nobody,
			       a_slow_read_is_given_up,
			       a_full_device_costs_nothing_but_the_cache,
			       the_coldest_goes_first,
			       movers_die,
			       its_engine_dies,
			       domains_stay_apart,
			       a_max_leaves_what_is_on_disk,
			       above_its_high_it_is_read_once,
			       the_file_is_gone,
			       two_spaces_share_the_file};
	return run_suite("core_spill", list, sizeof(list) / sizeof(list[0]));
}
