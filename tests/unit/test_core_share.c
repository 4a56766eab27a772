/* test_core_share.c - stored once, computed once: single flight, promotion, merge, who may see
 * what. */
#include "tests/lib/core_case.h"

static struct world *world_with(enum core_sharing sharing, const char *domain)
{
	struct world *w = world_new(16 * EXTENT, EXTENT, 1);
	world_tenant(w, "a", domain, sharing, 0);
	world_tenant(w, "b", domain, sharing, 0);
	return w;
}

/* A second request waits for the first and takes its pages: they are computed once. */
START_TEST(single_flight)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_with(CORE_REUSE, "team");
	tokens_fill(tokens, 1);
	uint32_t e = attach(w, "e0");
	world_open(w, e, 0, 0, tokens, 100, 105, 0);
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 0)->state, SLOT_READY);
	world_open(w, e, 1, 1, tokens, 100, 105, 0);
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_WAITING);  /* OPEN is late */
	ck_assert_uint_eq(status_of(w).single_flight_waits, 1);
	run_prompt(w, e, 2, 0, (int32_t[WORLD_TOKENS]){ 5 }, 20, 0);  /* others go on */
	while (world_slot(w, e, 0)->n_sealed < 6) {
		world_advance(w, e, 0);
		world_settle(w, false);
		world_step_begin(w, e);
		world_step_end(w, e);
	}
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_READY);
	ck_assert_uint_eq(world_slot(w, e, 1)->n_sealed, 6);
	ck_assert_uint_eq(world_slot(w, e, 1)->table[5], world_slot(w, e, 0)->table[5]);
	world_free(w);
}
END_TEST

static void two_waiters_behind(struct world *w, uint32_t e, const int32_t *tokens)
{
	world_open(w, e, 0, 0, tokens, 100, 105, 0);
	world_settle(w, false);
	world_open(w, e, 1, 1, tokens, 100, 105, 0);
	world_open(w, e, 2, 1, tokens, 100, 105, 0);
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_WAITING);
	ck_assert_uint_eq(world_slot(w, e, 2)->state, SLOT_WAITING);
}

/* The promiser goes away: the first waiter computes, the second waits for it. */
START_TEST(takeover_when_the_promiser_closes)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_with(CORE_REUSE, "team");
	tokens_fill(tokens, 1);
	uint32_t e = attach(w, "e0");
	run_prompt(w, e, 5, 0, (int32_t[WORLD_TOKENS]){ 5 }, 20, 0);  /* an extent is mapped */
	two_waiters_behind(w, e, tokens);
	ck_assert_uint_eq(submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = 0 }).status,
			  KVD_S_OK);
	/* submit() swallowed the queue; the first waiter's answer was in it */
	struct kvd_cqe c = submit(
		w, e,
		(struct kvd_sqe){
			.verb = KVD_SEQ_GROW, .slot = 1, .want = 1, .flags = KVD_GROW_LOOKUP });
	ck_assert_uint_eq(c.status, KVD_S_OK);
	ck_assert_uint_eq(c.cached, 0);
	c = submit(w, e,
		   (struct kvd_sqe){
			   .verb = KVD_SEQ_GROW, .slot = 2, .want = 1, .flags = KVD_GROW_LOOKUP });
	ck_assert_uint_eq(c.status, KVD_S_STALE);                     /* its OPEN is still out */
	world_free(w);
}
END_TEST

START_TEST(takeover_when_the_promiser_dies)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_with(CORE_REUSE, "team");
	tokens_fill(tokens, 1);
	uint32_t e0 = attach(w, "e0"), e1 = attach(w, "e1");
	world_open(w, e0, 0, 0, tokens, 100, 105, 0);
	world_settle(w, false);
	world_open(w, e1, 0, 1, tokens, 100, 105, 0);                 /* across processes */
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e1, 0)->state, SLOT_WAITING);
	world_hangup(w, e0);
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e1, 0)->state, SLOT_READY);
	ck_assert_uint_eq(world_slot(w, e1, 0)->n_sealed, 0);
	world_quiet(w, e0);
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, 1);
	world_free(w);
}
END_TEST

START_TEST(takeover_when_the_promiser_is_slow)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_with(CORE_REUSE, "team");
	tokens_fill(tokens, 1);
	uint32_t e = attach(w, "e0");
	two_waiters_behind(w, e, tokens);
	ck_assert_uint_eq(core_next_tick_usec(w->core), w->now + w->config.promise_usec);
	world_tick(w, w->config.promise_usec - 1);
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_WAITING);
	world_tick(w, 1);
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_READY);
	ck_assert_uint_eq(world_slot(w, e, 2)->state, SLOT_WAITING);
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, 3);
	world_free(w);
}
END_TEST

/* merge: stored once, computed once per tenant; nobody learns what the other asked. */
START_TEST(merge_between_tenants)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_with(CORE_MERGE, "");
	tokens_fill(tokens, 1);
	uint32_t e = attach(w, "e0");
	run_prompt(w, e, 0, 0, tokens, 100, 0);
	uint32_t before = world_slot(w, e, 0)->table[0];
	run_prompt(w, e, 1, 1, tokens, 100, 0);
	world_settle(w, false);
	struct kvd_row_status st = status_of(w);
	ck_assert_uint_eq(st.single_flight_waits, 0);
	ck_assert_uint_eq(st.merges, 6);
	ck_assert_uint_eq(st.frames[KVD_FRAME_SEALED], 6);
	ck_assert_uint_eq(st.logical_bytes, 14 * PAGE);
	ck_assert_uint_eq(st.physical_bytes, 8 * PAGE);
	for (uint32_t i = 0; i < 6; i++)
		ck_assert_uint_eq(world_slot(w, e, 0)->table[i], world_slot(w, e, 1)->table[i]);
	ck_assert_uint_ne(world_slot(w, e, 0)->table[0], before);
	/* a third tenant's copy is compared with the shared one */
	world_tenant(w, "c", "", CORE_MERGE, 0);
	run_prompt(w, e, 2, 2, tokens, 100, 0);
	world_settle(w, false);
	ck_assert_uint_eq(status_of(w).frames[KVD_FRAME_SEALED], 6);
	ck_assert_uint_eq(status_of(w).merges, 12);
	/* everybody is charged as if alone; PSS adds up to what is there */
	struct kvd_row_tenant rows[3];
	uint32_t cursor = 0;
	ck_assert_uint_eq(core_read_tenants(w->core, CORE_NONE, &cursor, rows, 3), 3);
	ck_assert_uint_eq(rows[0].rss_bytes, 7 * PAGE);
	ck_assert_uint_eq(rows[2].rss_bytes, 7 * PAGE);
	ck_assert_uint_eq(rows[0].pss_bytes + rows[1].pss_bytes + rows[2].pss_bytes,
			  status_of(w).physical_bytes);
	ck_assert_uint_eq(rows[0].uss_bytes, PAGE);
	world_free(w);
}
END_TEST

START_TEST(merge_mismatch_is_alarmed_and_stays_apart)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_with(CORE_MERGE, "");
	tokens_fill(tokens, 1);
	uint32_t e = attach(w, "e0");
	run_prompt(w, e, 0, 0, tokens, 100, 0);
	w->lie_frame_plus_1 = KVD_ENTRY_FRAME(world_slot(w, e, 0)->table[2]) + 1;
	w->tags[w->lie_frame_plus_1 - 1] ^= 0xff00;
	run_prompt(w, e, 1, 1, tokens, 100, 0);
	world_settle(w, false);
	struct kvd_row_status st = status_of(w);
	ck_assert_uint_eq(st.merge_mismatches, 1);
	ck_assert_uint_eq(w->alarms, 1);
	ck_assert_uint_eq(st.merges, 5);
	ck_assert_uint_eq(st.frames[KVD_FRAME_SEALED], 7);
	ck_assert_uint_ne(world_slot(w, e, 0)->table[2], world_slot(w, e, 1)->table[2]);
	ck_assert_uint_eq(world_slot(w, e, 0)->table[3], world_slot(w, e, 1)->table[3]);
	/* each tenant finds its own copy again */
	uint32_t own = world_slot(w, e, 1)->table[2];
	ck_assert_uint_eq(submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_PARK, .slot = 1 }).status,
			  KVD_S_OK);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_RESUME, .slot = 1, .n_tokens = 100 })
			.cached,
		6);
	ck_assert_uint_eq(world_slot(w, e, 1)->table[2], own);
	world_free(w);
}
END_TEST

/* What a tenant reads of its pages is the same whether or not another has the same ones, in use,
 * and one of them even in a copy of its own. */
START_TEST(rows_of_a_tenant_say_nothing_of_others)
{
	enum { MAX = 16 };
	int32_t tokens[WORLD_TOKENS];
	struct kvd_row_page rows[2][MAX] = { 0 };
	uint32_t n[2];
	tokens_fill(tokens, 1);
	for (uint32_t others = 0; others < 2; others++) {
		struct world *w = world_with(CORE_MERGE, "");
		uint32_t e = attach(w, "e0"), cursor = 0;
		if (others) {
			run_prompt(w, e, 0, 0, tokens, 100, 0);
			w->lie_frame_plus_1 = KVD_ENTRY_FRAME(world_slot(w, e, 0)->table[2]) + 1;
			w->tags[w->lie_frame_plus_1 - 1] ^= 0xff00;
		}
		run_prompt(w, e, 1, 1, tokens, 100, 0);
		ck_assert_uint_eq(
			submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = 1 }).status,
			KVD_S_OK);
		world_settle(w, false);
		w->now += 3000000;
		if (others)
			run_prompt(w, e, 2, 0, tokens, 100, 0);
		world_settle(w, false);
		ck_assert_uint_eq(status_of(w).merge_mismatches, others);
		n[others] = core_read_pages(w->core, 1, w->now, &cursor, rows[others], MAX);
		world_free(w);
	}
	ck_assert_uint_eq(n[0], 6);
	ck_assert_uint_eq(n[1], 6);
	for (uint32_t i = 0; i < 6; i++) {
		const struct kvd_row_page *row = NULL;
		for (uint32_t j = 0; j < 6; j++)
			if (rows[1][j].depth == rows[0][i].depth)
				row = &rows[1][j];
		ck_assert_msg(row != NULL, "no row of depth %u", rows[0][i].depth);
		ck_assert_uint_ge(row->idle_usec, 3000000);
		ck_assert_uint_ge(rows[0][i].idle_usec, 3000000);
		struct kvd_row_page alone = rows[0][i], beside = *row;
		alone.idle_usec = beside.idle_usec = 0;
		ck_assert_mem_eq(&alone, &beside, sizeof(alone));
	}
}
END_TEST

START_TEST(same_tenant_same_engine_needs_no_mover)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_with(CORE_MERGE, "");
	tokens_fill(tokens, 1);
	uint32_t e = attach(w, "e0");
	run_prompt(w, e, 0, 0, tokens, 50, 0);
	/* the second one forks off before the index knows: it grows its own pages without looking
	 * up */
	world_slot(w, e, 1)->n_prompt = 50;
	memcpy(world_slot(w, e, 1)->tokens, tokens, sizeof(tokens));
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 1, .n_tokens = 10 })
			.status,
		KVD_S_OK);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 1, .want = 3 }).pages,
		3);
	for (uint32_t i = 0; i < 3; i++)
		w->tags[KVD_ENTRY_FRAME(world_slot(w, e, 1)->table[i])] =
			world_tag(1, tokens, (i + 1) * 16);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_SEAL, .slot = 1, .count = 3 })
			.status,
		KVD_S_OK);
	ck_assert_uint_eq(world_slot(w, e, 1)->table[0], world_slot(w, e, 0)->table[0]);
	ck_assert_uint_eq(world_slot(w, e, 1)->table[2], world_slot(w, e, 0)->table[2]);
	ck_assert_uint_eq(status_of(w).merges, 0);
	world_free(w);
}
END_TEST

/* A prefix computed in one engine is a hit in the other, through the shared colour. */
START_TEST(promotion_across_engines)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_with(CORE_MERGE, "");
	tokens_fill(tokens, 1);
	uint32_t e0 = attach(w, "e0"), e1 = attach(w, "e1");
	run_prompt(w, e0, 0, 0, tokens, 400, 0);
	uint32_t own = world_slot(w, e0, 0)->table[3];
	ck_assert_uint_eq(run_one(w, e1, 0, 0, tokens, 400), 25 - 1);
	struct kvd_row_status st = status_of(w);
	ck_assert_uint_eq(st.promotions, 24);
	ck_assert_uint_ne(world_slot(w, e0, 0)->table[3],
			  own); /* the first engine reads the shared one, too */
	ck_assert_uint_eq(w->engine[e0].mapped[KVD_ENTRY_FRAME(world_slot(w, e0, 0)->table[3]) >>
					       w->slot_bits],
			  1);
	/* but another tenant computes */
	ck_assert_uint_eq(run_one(w, e1, 0, 1, tokens, 400), 0);
	world_free(w);
}
END_TEST

START_TEST(tables_wait_for_the_extent_ack)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_with(CORE_MERGE, "");
	tokens_fill(tokens, 1);
	uint32_t e0 = attach(w, "e0");
	run_prompt(w, e0, 0, 0, tokens, 100, 0);
	uint32_t e1 = world_attach(w, "e1", 1, PLANES, BLOCK, WORLD_SLOTS, WORLD_PAGES);
	world_open(w, e1, 0, 0, tokens, 100, 105, 0);
	for (int i = 0; i < 40; i++) {               /* everything but e1's mapping goes on */
		while (w->n_jobs)
			world_mover(w, 0, true);
		while (world_populate(w) || world_poll(w, e0))
			;
		world_complete_one(w, e1);
		world_tick(w, 0);
	}
	ck_assert_uint_eq(status_of(w).promotions, 6);
	ck_assert_uint_eq(world_slot(w, e1, 0)->state, SLOT_WAITING);
	ck_assert_uint_eq(world_slot(w, e1, 0)->table[0], 0);
	while (world_poll(w, e1))
		;
	while (world_complete_one(w, e1))
		;
	ck_assert_uint_eq(world_slot(w, e1, 0)->state, SLOT_READY);
	ck_assert_uint_eq(world_slot(w, e1, 0)->n_sealed, 6);
	world_free(w);
}
END_TEST

START_TEST(private_tenants_share_with_nobody)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_with(CORE_PRIVATE, "team");
	tokens_fill(tokens, 1);
	uint32_t e0 = attach(w, "e0"), e1 = attach(w, "e1");
	ck_assert_uint_eq(run_one(w, e0, 0, 0, tokens, 100), 0);
	ck_assert_uint_eq(run_one(w, e0, 0, 0, tokens, 100), 6);      /* found by itself */
	ck_assert_uint_eq(run_one(w, e0, 0, 1, tokens, 100), 0);      /* not by the other */
	ck_assert_uint_eq(run_one(w, e0, 0, 1, tokens, 100), 6);
	ck_assert_uint_eq(run_one(w, e1, 0, 0, tokens, 100), 0); /* nor through the shared colour */
	world_tenant(w, "m", "", CORE_MERGE, 0);
	ck_assert_uint_eq(run_one(w, e0, 0, 2, tokens, 100), 0);
	ck_assert_uint_eq(status_of(w).merges + status_of(w).promotions, 0);
	world_free(w);
}
END_TEST

/* A domain of the same name as another tenant is not that tenant. */
START_TEST(domain_names_do_not_collide)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(16 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "victim", "", CORE_MERGE, 0);
	world_tenant(w, "spy", "victim", CORE_REUSE, 0);
	world_tenant(w, "spy2", "victim", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	run_one(w, e, 0, 0, tokens, 100);
	ck_assert_uint_eq(run_one(w, e, 0, 1, tokens, 100), 0);
	ck_assert_uint_eq(run_one(w, e, 0, 2, tokens, 100), 0);
	world_free(w);
}
END_TEST

START_TEST(failing_mover_only_delays_a_merge)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_with(CORE_MERGE, "");
	tokens_fill(tokens, 1);
	uint32_t e = attach(w, "e0");
	run_prompt(w, e, 0, 0, tokens, 40, 0);
	run_prompt(w, e, 1, 1, tokens, 40, 0);
	world_settle(w, false);
	ck_assert_uint_eq(status_of(w).merges, 2);
	tokens[0]++;
	world_open(w, e, 2, 0, tokens, 40, 45, 0);
	world_open(w, e, 3, 1, tokens, 40, 45, 0);
	for (int i = 0; i < 2000; i++) {
		if (w->n_jobs)
			world_mover(w, 0, i > 1000);
		world_complete_one(w, e);
		world_poll(w, e);
		world_advance(w, e, 2 + i % 2);
		world_step_begin(w, e);
		world_step_end(w, e);
		world_done(w);
	}
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, 2);
	ck_assert_uint_gt(w->mover_fails, 10);
	world_free(w);
}
END_TEST

int main(void)
{
	static const TTest *const *tests[] = {
		&single_flight,
		&takeover_when_the_promiser_closes,
		&takeover_when_the_promiser_dies,
		&takeover_when_the_promiser_is_slow,
		&merge_between_tenants,
		&merge_mismatch_is_alarmed_and_stays_apart,
		&rows_of_a_tenant_say_nothing_of_others,
		&same_tenant_same_engine_needs_no_mover,
		&promotion_across_engines,
		&tables_wait_for_the_extent_ack,
		&private_tenants_share_with_nobody,
		&domain_names_do_not_collide,
		&failing_mover_only_delays_a_merge,
	};
	const TTest *list[sizeof(tests) / sizeof(tests[0])];
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
		list[i] = *tests[i];
	return run_suite("core_share", list, sizeof(list) / sizeof(list[0]));
}
