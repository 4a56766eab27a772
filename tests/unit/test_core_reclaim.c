/* test_core_reclaim.c - which cached page goes next, in what order, and that the act does what the plan says; what is
 * written down about it; the watermarks; what a tenant may know of all that. */
#include <stdio.h>
#include "tests/lib/core_case.h"
#include "kvd/core/parts.h"

enum { PAGES = 4 };            /* of one prompt of these tests */

static void cache(struct world *w, uint32_t engine, uint32_t tenant, int32_t which, uint64_t usec)
{
	int32_t tokens[WORLD_TOKENS];
	tokens_fill(tokens, which);
	run_one(w, engine, 0, tenant, tokens, PAGES * 16);
	world_tick(w, usec);
}

static uint32_t plan(struct world *w, uint32_t tenant, uint32_t owner, struct kvd_row_plan *rows)
{
	uint32_t cursor = 0, n = core_read_plan(w->core, tenant, owner, w->now, &cursor, rows, CORE_PLAN_ROWS);
	for (uint32_t i = 0; i < n; i++) {
		ck_assert_uint_eq(rows[i].rank, i);
		ck_assert(!i || rows[i - 1].class <= rows[i].class);
	}
	return n;
}

/* The page number that goes next out of a tenant's prompt: its depth, leaf first. */
START_TEST(oldest_leaf_first)
{
	struct kvd_row_plan rows[CORE_PLAN_ROWS];
	struct world *w = world_new(16 * EXTENT, EXTENT, 1);
	uint32_t a = tenant_with(w, "a", (struct core_quota){ 0 }), b = tenant_with(w, "b", (struct core_quota){ 0 });
	uint32_t e = attach(w, "e0");
	cache(w, e, a, 1, 1000000);
	cache(w, e, b, 2, 1000000);
	cache(w, e, a, 3, 1000000);
	ck_assert_uint_eq(plan(w, CORE_NONE, CORE_NONE, rows), 3);   /* one leaf of each prompt */
	ck_assert_str_eq(rows[0].tenant, "a");
	ck_assert_str_eq(rows[1].tenant, "b");
	ck_assert_str_eq(rows[2].tenant, "a");
	ck_assert_uint_gt(rows[0].idle_usec, rows[1].idle_usec);
	for (uint32_t i = 0; i < 3; i++) {
		ck_assert_uint_eq(rows[i].depth, PAGES - 1);
		ck_assert_uint_eq(rows[i].frees_bytes, PAGE);
		ck_assert_uint_eq(rows[i].recompute_tokens, 16);
		ck_assert_uint_eq(rows[i].tokens_per_mib, 16 * (1 << 20) / PAGE);
		ck_assert_uint_le(rows[i].hits_256, 256);        /* one use, a moment ago */
		ck_assert_uint_ge(rows[i].hits_256, 254);
		ck_assert_uint_eq(rows[i].class, KVD_CLASS_NORMAL);
	}
	ck_assert_uint_eq(plan(w, CORE_NONE, b, rows), 1);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* Hits weigh against idle time, and wear off by half every half-life. */
START_TEST(hits_against_idle_time)
{
	struct kvd_row_plan rows[CORE_PLAN_ROWS];
	struct world *w = world_new(16 * EXTENT, EXTENT, 1);
	uint32_t often = tenant_with(w, "often", (struct core_quota){ 0 });
	uint32_t once = tenant_with(w, "once", (struct core_quota){ 0 }), e = attach(w, "e0");
	for (uint32_t i = 0; i < 5; i++) {
		int32_t tokens[WORLD_TOKENS];
		tokens_fill(tokens, 1);
		run_one(w, e, 0, often, tokens, PAGES * 16 + 1);
	}
	world_tick(w, 60000000);
	cache(w, e, once, 2, 1000000);
	ck_assert_uint_eq(plan(w, CORE_NONE, CORE_NONE, rows), 2);
	ck_assert_str_eq(rows[0].tenant, "once");                    /* fresher, but used once */
	ck_assert_uint_eq(rows[1].hits_256 / 256, 4);
	ck_assert_uint_gt(rows[1].worth_usec, rows[0].worth_usec);
	ck_assert_uint_eq(rows[1].worth_usec - rows[0].worth_usec, 2 * HALF_LIFE_USEC);
	/* the order does not change by itself; the numbers do */
	world_tick(w, 10 * HALF_LIFE_USEC);
	plan(w, CORE_NONE, CORE_NONE, rows);
	ck_assert_str_eq(rows[0].tenant, "once");
	ck_assert_uint_lt(rows[1].hits_256, 2);
	/* but a use now weighs more than five uses three half-lives ago */
	cache(w, e, once, 2, 1000);
	plan(w, CORE_NONE, CORE_NONE, rows);
	ck_assert_str_eq(rows[0].tenant, "often");
	world_fsck(w);
	world_free(w);
}
END_TEST

START_TEST(half_life)
{
	ck_assert_uint_eq(hits_now(1024, 0, 0), 1024);
	ck_assert_uint_eq(hits_now(1024, 0, HALF_LIFE_USEC), 512);
	ck_assert_uint_eq(hits_now(1024, 5, 5 + 3 * HALF_LIFE_USEC), 128);
	ck_assert_uint_eq(hits_now(1024, 0, HALF_LIFE_USEC / 2), 768);
	ck_assert_uint_eq(hits_now(65535, 0, 16 * HALF_LIFE_USEC), 0);
	ck_assert_uint_eq(hits_now(65535, 0, UINT64_MAX), 0);
	ck_assert_uint_eq(hits_now(512, 100, 50), 512);              /* a clock that went back */
	for (uint64_t t = 0, before = 65535; t < 20 * HALF_LIFE_USEC; t += HALF_LIFE_USEC / 7) {
		ck_assert_uint_le(hits_now(65535, 0, t), before);
		before = hits_now(65535, 0, t);
	}
}
END_TEST

/* Over its high first, at or below its low last, whatever their age; a tenant moves as its charge does. */
START_TEST(classes)
{
	struct kvd_row_plan rows[CORE_PLAN_ROWS];
	struct world *w = world_new(16 * EXTENT, EXTENT, 1);
	uint32_t low = tenant_with(w, "low", (struct core_quota){ .low_bytes = 6 * PAGE });
	uint32_t plain = tenant_with(w, "plain", (struct core_quota){ 0 }), e = attach(w, "e0");
	cache(w, e, low, 1, 1000000);
	cache(w, e, plain, 2, 1000000);
	plan(w, CORE_NONE, CORE_NONE, rows);
	ck_assert_str_eq(rows[0].tenant, "plain");
	ck_assert_uint_eq(rows[1].class, KVD_CLASS_LOW);
	cache(w, e, low, 3, 1000000);                                /* 8 pages: above its low */
	ck_assert_uint_eq(plan(w, CORE_NONE, CORE_NONE, rows), 3);
	ck_assert_str_eq(rows[0].tenant, "low");
	ck_assert_uint_eq(rows[0].class, KVD_CLASS_NORMAL);
	ck_assert_uint_eq(rows[0].owner_bytes, 8 * PAGE);
	ck_assert_uint_eq(rows[0].owner_low_bytes, 6 * PAGE);
	/* two of its pages go, then it is the last again: the plan is made anew, never followed blindly */
	struct core *c = w->core;
	blame(c, plain, KVD_RECLAIM_DIRECT);
	ck_assert_uint_eq(reclaim_run(c, 0, 3, true), 3);
	struct kvd_row_tenant row = tenant_row(w, low);
	ck_assert_uint_eq(row.rss_bytes, 6 * PAGE);
	ck_assert_uint_eq(tenant_row(w, plain).rss_bytes, 3 * PAGE);
	world_tick(w, 0);
	world_settle(w, false);
	tenant_with(w, "plain", (struct core_quota){ .high_bytes = 1 });
	ck_assert_uint_eq(tenant_row(w, plain).rss_bytes, 0);        /* all of its cache is above its high */
	world_fsck(w);
	world_free(w);
}
END_TEST

/* Every step of the act takes the first of the plan: many tenants, many uses, at random.  Each has its own
 * contents here, so that each step frees one frame. */
START_TEST(the_act_follows_the_plan)
{
	struct kvd_row_plan before[CORE_PLAN_ROWS];
	struct kvd_row_evicted gone[8];
	struct world *w = world_new(40 * EXTENT, EXTENT, 99);
	uint32_t e = attach(w, "e0"), evicted = 0;
	w->fsck_every = 16;
	for (uint32_t i = 0; i < 12; i++) {
		char name[8];
		snprintf(name, sizeof(name), "t%u", i);
		tenant_with(w, name, (struct core_quota){ .low_bytes = i % 3 ? 0 : 8 * PAGE });
	}
	for (uint32_t i = 0; i < 60; i++)
		cache(w, e, i * 7 % 12, (int32_t)(10 * (i * 7 % 12) + world_random(w, 3)), world_random(w, 400000000));
	while (plan(w, CORE_NONE, CORE_NONE, before)) {
		uint32_t cursor = 0;
		uint64_t had = w->core->n_evicted;
		blame(w->core, CORE_NONE, KVD_RECLAIM_DIRECT);
		ck_assert_uint_eq(reclaim_run(w->core, 0, 1, true), 1);
		uint64_t n = w->core->n_evicted - had;
		ck_assert_uint_eq(n, 1);
		ck_assert_uint_eq(core_read_evicted(w->core, CORE_NONE, w->now, &cursor, gone, 1), 1);
		ck_assert_uint_eq(before[0].prefix, gone[0].prefix);
		ck_assert_str_eq(before[0].tenant, gone[0].victim);
		ck_assert_uint_eq(before[0].class, gone[0].class);
		evicted++;
		if (evicted % 8 == 0)
			world_settle(w, false);
	}
	ck_assert_uint_gt(evicted, 100);
	world_settle(w, false);
	ck_assert_uint_eq(status_of(w).frames[KVD_FRAME_COOL], 0);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* Two tenants with the same content: the first claim frees nothing, the second all copies. */
START_TEST(what_others_keep_frees_nothing)
{
	struct kvd_row_plan rows[CORE_PLAN_ROWS];
	struct world *w = world_new(16 * EXTENT, EXTENT, 1);
	uint32_t a = tenant_with(w, "a", (struct core_quota){ 0 }), b = tenant_with(w, "b", (struct core_quota){ 0 });
	uint32_t e = attach(w, "e0");
	cache(w, e, a, 1, 1000000);
	cache(w, e, b, 1, 1000000);
	world_settle(w, false);
	ck_assert_uint_eq(status_of(w).merges, PAGES);
	ck_assert_uint_eq(plan(w, CORE_NONE, CORE_NONE, rows), 2);
	ck_assert_uint_eq(rows[0].frees_bytes, 0);
	ck_assert_uint_eq(rows[0].charge_bytes, PAGE);
	/* the tenant itself is told neither */
	ck_assert_uint_eq(plan(w, a, CORE_NONE, rows), 1);
	ck_assert_uint_eq(rows[0].frees_bytes, 0);
	ck_assert_uint_eq(rows[0].charge_bytes, PAGE);
	ck_assert_uint_eq(rows[0].space + rows[0].colour, 0);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* Why did it go, for whom, and what did that cost? */
START_TEST(the_ledger_answers_afterwards)
{
	struct kvd_row_eviction rows[16];
	struct kvd_row_evicted gone[64];
	struct kvd_row_plan explained[8];
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(2 * EXTENT, EXTENT, 1);          /* 32 pages */
	uint32_t victim = tenant_with(w, "victim", (struct core_quota){ 0 });
	uint32_t taker = tenant_with(w, "taker", (struct core_quota){ 0 }), e = attach(w, "e0"), cursor = 0;
	cache(w, e, victim, 1, 1000000);
	plan(w, CORE_NONE, CORE_NONE, explained);
	uint64_t prefix = explained[0].prefix;
	ck_assert_uint_eq(core_read_explain(w->core, CORE_NONE, CORE_EXPLAIN_PREFIX, prefix, w->now, &cursor,
					    explained, 8), 1);
	ck_assert_uint_eq(explained[0].rank, 0);
	ck_assert_str_eq(explained[0].tenant, "victim");
	cursor = 0;                                                  /* to another tenant it does not exist */
	ck_assert_uint_eq(core_read_explain(w->core, taker, CORE_EXPLAIN_PREFIX, prefix, w->now, &cursor, explained,
					    8), 0);
	cursor = 0;
	ck_assert_uint_eq(core_read_explain(w->core, victim, CORE_EXPLAIN_PREFIX, prefix, w->now, &cursor, explained,
					    8), 1);
	tokens_fill(tokens, 2);
	run_one(w, e, 0, taker, tokens, 30 * 16);
	cursor = 0;
	ck_assert_uint_eq(core_read_explain(w->core, CORE_NONE, CORE_EXPLAIN_PREFIX, prefix, w->now, &cursor,
					    explained, 8), 0);
	/* the page is gone; its number still names it */
	uint32_t n = 0, mine = 0;
	for (cursor = 0; core_read_evicted(w->core, CORE_NONE, w->now, &cursor, &gone[n], 1); n += n < 63)
		mine += gone[n].prefix == prefix && !strcmp(gone[n].victim, "victim") && !strcmp(gone[n].by, "taker");
	ck_assert_uint_eq(mine, 1);
	uint64_t pages = 0;
	for (cursor = 0; core_read_evictions(w->core, CORE_NONE, w->now, &cursor, rows, 1);) {
		ck_assert_uint_eq(rows[0].bytes, rows[0].pages * PAGE);
		if (!strcmp(rows[0].victim, "victim")) {
			ck_assert_str_eq(rows[0].by, "taker");
			pages += rows[0].pages;
			ck_assert_uint_eq(rows[0].refault_tokens, 0);
		}
	}
	ck_assert_uint_eq(pages, PAGES);
	/* it is computed again: now the eviction has cost something */
	tokens_fill(tokens, 1);
	ck_assert_uint_eq(run_one(w, e, 0, victim, tokens, PAGES * 16), 0);
	ck_assert_uint_eq(tenant_row(w, victim).refault_tokens, PAGES * 16);
	ck_assert_uint_eq(status_of(w).refault_tokens, PAGES * 16);
	/* the victim sees that, and not who */
	cursor = 0;
	ck_assert_uint_eq(core_read_evictions(w->core, victim, w->now, &cursor, rows, 16), 1);
	ck_assert_str_eq(rows[0].by, "");
	ck_assert_uint_eq(rows[0].refault_tokens, PAGES * 16);
	for (cursor = 0; core_read_evicted(w->core, victim, w->now, &cursor, gone, 1);) {
		ck_assert_str_eq(gone[0].by, "");
		ck_assert_str_eq(gone[0].victim, "victim");
	}
	world_fsck(w);
	world_free(w);
}
END_TEST

/* The tables are bounded: ten thousand pairs leave totals, the last ones, and a sound book. */
START_TEST(the_ledger_is_bounded)
{
	struct world *w = world_new(16 * EXTENT, EXTENT, 1);
	struct core *c = w->core;
	struct kvd_row_eviction row;
	uint64_t pages = 0;
	uint32_t e = attach(w, "e0"), n = 0;
	w->fsck_every = 0;
	for (uint32_t i = 0; i < 1000; i++) {
		char name[16];
		snprintf(name, sizeof(name), "t%u", i);
		tenant_with(w, name, (struct core_quota){ 0 });
	}
	for (uint32_t i = 0; i < 3000; i++) {
		int32_t tokens[WORLD_TOKENS];
		tokens_fill(tokens, (int32_t)i);
		run_one(w, e, 0, i % 1000, tokens, 16);
		blame(c, world_random(w, 1000), (enum kvd_reclaim_reason)world_random(w, KVD_RECLAIM_REASONS));
		reclaim_run(c, 0, 1, true);
	}
	for (uint32_t cursor = 0; core_read_evictions(c, CORE_NONE, w->now, &cursor, &row, 1); n++)
		pages += row.pages;
	ck_assert_uint_le(n, LEDGER_ROWS);
	ck_assert_uint_gt(n, LEDGER_ROWS / 2);
	ck_assert_uint_eq(pages, c->n_evicted);
	ck_assert_uint_ge(pages, 3000);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* Background reclaim begins below low and ends at high, in slices, without anybody waiting. */
START_TEST(watermarks_keep_memory_free)
{
	struct world *w = world_new(64 * EXTENT, EXTENT, 1);         /* 1024 pages */
	uint32_t t = tenant_with(w, "t", (struct core_quota){ 0 }), e = attach(w, "e0");
	w->fsck_every = 64;
	for (int32_t i = 0; i < 320; i++)
		cache(w, e, t, i, 1000);
	world_settle(w, false);
	struct kvd_row_status st = status_of(w);
	ck_assert_uint_eq(st.mark_low_bytes, st.pool_bytes / 32);
	ck_assert_uint_ge(st.available_bytes, st.mark_low_bytes);
	ck_assert_uint_gt(st.reclaimed_pages[KVD_RECLAIM_BACKGROUND], 100);
	ck_assert_uint_eq(st.reclaimed_pages[KVD_RECLAIM_DIRECT] + st.reclaimed_pages[KVD_RECLAIM_EXTENT], 0);
	ck_assert_uint_eq(st.some_avg10 + st.full_avg10, 0);
	ck_assert_uint_eq(st.reclaiming, 0);
	printf("watermarks: %llu pages went in the background, none while somebody waited\n",
	       (unsigned long long)st.reclaimed_pages[KVD_RECLAIM_BACKGROUND]);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* What tenant b can see of itself, with and without a neighbour who computes the same, in a pool with room. */
static uint32_t visible(bool neighbour, char *trace, uint32_t size)
{
	struct world *w = world_new(40 * EXTENT, EXTENT, 5);
	uint32_t a = tenant_with(w, "a", (struct core_quota){ .weight = 7 });
	uint32_t b = tenant_with(w, "b", (struct core_quota){ .min_bytes = 6 * PAGE, .low_bytes = 9 * PAGE,
				 .max_bytes = 40 * PAGE });
	uint32_t e = attach(w, "e0"), n = 0;
	for (int32_t i = 0; i < 24; i++) {
		if (neighbour)
			cache(w, e, a, i % 5, 0);
		cache(w, e, b, i % 7, 1000000);
		struct kvd_row_plan rows[CORE_PLAN_ROWS];
		struct kvd_row_psi psi;
		struct kvd_row_eviction evictions[2] = { 0 };
		struct kvd_row_evicted gone[4] = { 0 };
		struct kvd_row_tenant row = tenant_row(w, b);
		uint32_t cursor = 0, found = plan(w, b, CORE_NONE, rows);
		core_read_psi(w->core, b, w->now, &cursor, &psi, 1);
		cursor = 0;
		core_read_evictions(w->core, b, w->now, &cursor, evictions, 2);
		cursor = 0;
		core_read_evicted(w->core, b, w->now, &cursor, gone, 4);
		ck_assert_uint_lt(n + sizeof(rows) + 4096, size);
		memcpy(trace + n, rows, found * sizeof(rows[0]));
		n += (uint32_t)(found * sizeof(rows[0]));
		memcpy(trace + n, &row, sizeof(row));
		n += (uint32_t)sizeof(row);
		memcpy(trace + n, &psi, sizeof(psi));
		n += (uint32_t)sizeof(psi);
		memcpy(trace + n, evictions, sizeof(evictions));
		n += (uint32_t)sizeof(evictions);
		memcpy(trace + n, gone, sizeof(gone));
		n += (uint32_t)sizeof(gone);
	}
	world_fsck(w);
	world_free(w);
	return n;
}

START_TEST(a_neighbour_shows_nowhere)
{
	static char with[1 << 20], without[1 << 20];
	uint32_t n = visible(true, with, sizeof(with)), m = visible(false, without, sizeof(without));
	ck_assert_uint_eq(n, m);
	ck_assert_uint_gt(n, 10000);
	ck_assert_int_eq(memcmp(with, without, n), 0);
}
END_TEST

int main(void)
{
	const TTest *list[] = { oldest_leaf_first, hits_against_idle_time, half_life, classes, the_act_follows_the_plan,
				what_others_keep_frees_nothing, the_ledger_answers_afterwards, the_ledger_is_bounded,
				watermarks_keep_memory_free, a_neighbour_shows_nowhere };
	return run_suite("core_reclaim", list, sizeof(list) / sizeof(list[0]));
}
