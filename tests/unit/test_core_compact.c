/* test_core_compact.c - live compaction: sparse extents come free under their sequences' feet.
 *
 * The world's oracle watches every table entry and byte tag; here is what compaction is for (another
 * engine gets memory and nobody is preempted) and what ends it (its group needs the frames, its
 * engine dies, an open page does not move, the mover fails). */
#include "kvd/core/parts.h"
#include "tests/lib/core_case.h"

static uint32_t extents_of(struct world *w, uint32_t engine)
{
	return w->core->groups[engine].extents.count;
}

/* Engine 0 has nine sequences of six sealed pages each; two of three are closed, so that every
 * extent of it is nearly empty. */
static void make_sparse(struct world *w, uint32_t e0, uint32_t tenant)
{
	int32_t tokens[WORLD_TOKENS];
	for (uint32_t i = 0; i < 9; i++) {
		tokens_fill(tokens, (int32_t)(100 + i));
		run_prompt(w, e0, i, tenant, tokens, 96, KVD_OPEN_PRIVATE);
	}
	for (uint32_t i = 0; i < 9; i++)
		if (i % 3 != 1)
			submit(w, e0, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = i });
}

static struct world *world_sparse(uint32_t n_extents, uint32_t *ret_e0, uint32_t *ret_e1)
{
	struct world *w = world_new((uint64_t)n_extents * EXTENT, EXTENT, 3);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	world_tenant(w, "b", "", CORE_MERGE, 0);
	*ret_e0 = attach(w, "e0");
	*ret_e1 = attach(w, "e1");
	make_sparse(w, *ret_e0, 0);
	return w;
}

static void spend(struct world *w, uint32_t rounds, bool advance)
{
	for (uint32_t i = 0; i < rounds; i++) {
		world_tick(w, 10000);
		world_settle(w, advance);
	}
}

/* Pool of 4 extents, three of them busy at a third.  Engine 1 asks for two: it gets them, and
 * engine 0's sequences keep their pages. */
START_TEST(another_engine_gets_memory_without_preemption)
{
	uint32_t e0, e1;
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_sparse(4, &e0, &e1);
	ck_assert_uint_ge(extents_of(w, e0), 3);
	tokens_fill(tokens, 7);
	world_open(w, e1, 0, 1, tokens, 24 * 16, 25 * 16, 0);
	spend(w, 100, true);
	ck_assert_uint_eq(w->finished, 1);
	ck_assert_uint_eq(status_of(w).preemptions, 0);
	ck_assert_uint_ge(w->core->compactions, 1);
	ck_assert_uint_ge(w->core->moved_pages, 1);
	ck_assert_uint_eq(w->core->evacuating, 0);
	for (uint32_t i = 1; i < 9; i += 3)
		ck_assert_uint_eq(world_slot(w, e0, i)->n_sealed, 6);
	world_check(w);
	world_fsck(w);
	/* the moved sequences go on to their end with the right bytes under every entry */
	for (uint32_t i = 1; i < 9; i += 3) {
		world_slot(w, e0, i)->hold = false;
		world_slot(w, e0, i)->n_target = 200;
	}
	spend(w, 20, true);
	ck_assert_uint_eq(w->finished, 4);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* The same while a step of engine 0 is under way: the old frames are not reused before it ends. */
START_TEST(a_running_step_keeps_its_frames)
{
	uint32_t e0, e1;
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_sparse(4, &e0, &e1);
	world_slot(w, e0, 1)->hold = false;
	world_slot(w, e0, 1)->n_target = 112;
	world_step_begin(w, e0);
	tokens_fill(tokens, 7);
	world_open(w, e1, 0, 1, tokens, 24 * 16, 25 * 16, 0);
	for (uint32_t i = 0; i < 50; i++) {
		world_tick(w, 10000);
		while (w->n_jobs)
			world_mover(w, 0, true);
		while (world_poll(w, e0) || world_poll(w, e1))
			;
		world_done(w);
	}
	ck_assert_uint_ge(w->core->moved_pages, 1);
	ck_assert_uint_ne(status_of(w).frames[KVD_FRAME_RETIRING], 0);   /* they wait for the step */
	world_step_end(w, e0);
	spend(w, 100, true);
	ck_assert_uint_ge(w->finished, 1);
	ck_assert_uint_eq(status_of(w).preemptions, 0);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* A mover that fails costs nothing but time. */
START_TEST(a_failing_mover_only_delays)
{
	uint32_t e0, e1;
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_sparse(4, &e0, &e1);
	tokens_fill(tokens, 7);
	world_open(w, e1, 0, 1, tokens, 24 * 16, 25 * 16, 0);
	for (uint32_t i = 0; i < 200; i++) {
		world_tick(w, 10000);
		while (w->n_jobs)
			world_mover(w, 0, world_random(w, 100) >= 60);
		world_done(w);
		world_fsck(w);
	}
	spend(w, 300, true);
	ck_assert_uint_eq(w->finished, 1);
	ck_assert_uint_gt(w->mover_fails, 0);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* In the middle of it the engine's own sequences want the frames: they come first. */
START_TEST(its_own_group_comes_first)
{
	uint32_t e0, e1;
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_sparse(4, &e0, &e1);
	tokens_fill(tokens, 7);
	world_open(w, e1, 0, 1, tokens, 24 * 16, 25 * 16, 0);
	for (uint32_t i = 0; i < 10 && !w->core->evacuating; i++)
		world_tick(w, 10000);
	ck_assert_uint_ne(w->core->evacuating, 0);
	for (uint32_t i = 1; i < 9; i += 3) {
		world_slot(w, e0, i)->hold = false;
		world_slot(w, e0, i)->n_target = 11 * 16;
	}
	spend(w, 300, true);
	ck_assert_uint_eq(w->finished, 4);
	world_fsck(w);
	world_free(w);
}
END_TEST

START_TEST(an_engine_that_dies_ends_it)
{
	uint32_t e0, e1;
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_sparse(4, &e0, &e1);
	tokens_fill(tokens, 7);
	world_open(w, e1, 0, 1, tokens, 24 * 16, 25 * 16, 0);
	for (uint32_t i = 0; i < 10 && !w->core->evacuating; i++)
		world_tick(w, 10000);
	ck_assert_uint_ne(w->core->evacuating, 0);
	world_hangup(w, e0);
	world_fsck(w);
	world_tick(w, 10000);
	ck_assert_uint_eq(w->core->evacuating, 0);
	world_quiet(w, e0);
	spend(w, 100, true);
	ck_assert_uint_eq(w->finished, 1);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* The shared colour too: pages that sequences of both engines hold move for both. */
START_TEST(shared_extents_are_compacted)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(14 * EXTENT, EXTENT, 5);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	world_tenant(w, "b", "", CORE_MERGE, 0);
	uint32_t e0 = attach(w, "e0"), e1 = attach(w, "e1");
	uint32_t shared = group_shared(w->core->engines[e0].space);
	for (uint32_t i = 0; i < 10; i++) {
		tokens_fill(tokens, (int32_t)(50 + i));
		run_prompt(w, e0, i, 0, tokens, 110, 0);
		run_prompt(w, e1, i, 1, tokens, 110, 0);
		spend(w, 2, false);
	}
	ck_assert_uint_ge(w->core->groups[shared].busy_extents, 3);
	for (uint32_t i = 0; i < 10; i++)
		if (i % 3) {
			submit(w, e0, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = i });
			submit(w, e1, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = i });
		}
	spend(w, 5, false);
	uint32_t before = w->core->groups[shared].busy_extents;
	tokens_fill(tokens, 7);
	for (uint32_t i = 0; i < 5; i++) {
		tokens_fill(tokens, (int32_t)(80 + i));
		world_open(w, e1, 10 + i, 1, tokens, 28 * 16, 29 * 16, KVD_OPEN_PRIVATE);
		world_slot(w, e1, 10 + i)->hold = false;
	}
	spend(w, 200, true);
	ck_assert_uint_ge(w->core->compactions, 1);
	ck_assert_uint_lt(w->core->groups[shared].busy_extents, before);
	world_check(w);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* Who waits for his engine to map an extent waits for nothing that compaction does: the loop sleeps meanwhile. */
START_TEST(a_waiter_leaves_the_loop_asleep)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(16 * EXTENT, EXTENT, 3);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e0 = attach(w, "e0");
	world_settle(w, false);
	tokens_fill(tokens, 7);
	world_tick(w, 1000000);
	world_open(w, e0, 0, 0, tokens, 64, 80, 0);
	while (world_complete_one(w, e0))
		;
	world_advance(w, e0, 0);
	ck_assert_uint_eq(w->core->waiting, 1);
	for (uint32_t i = 0; i < 4; i++)
		world_tick(w, 0);
	ck_assert_uint_eq(w->core->waiting, 1);
	ck_assert_uint_gt(core_next_tick_usec(w->core), w->now);
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, 1);
	world_free(w);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { another_engine_gets_memory_without_preemption, a_running_step_keeps_its_frames,
		a_failing_mover_only_delays, its_own_group_comes_first, an_engine_that_dies_ends_it,
		shared_extents_are_compacted, a_waiter_leaves_the_loop_asleep };
	return run_suite("core_compact", tests, sizeof(tests) / sizeof(tests[0]));
}
