/* test_core_fair.c - a small request does not stand behind a large tenant's queue, and nobody starves for it. */
#include "kvd/core/parts.h"
#include "tests/lib/core_case.h"

static void spend(struct world *w, uint32_t rounds, uint64_t usec, bool advance)
{
	for (uint32_t i = 0; i < rounds; i++) {
		world_tick(w, usec);
		world_settle(w, advance);
	}
}

static uint32_t state_of(struct world *w, uint32_t engine, uint32_t slot)
{
	return seq_at(w->core, w->core->engines[engine].seq_base + slot)->state;
}

/* Engine 0's tenant uses all that it can get and has more waiting. */
static void flood(struct world *w, uint32_t engine, uint32_t tenant)
{
	int32_t tokens[WORLD_TOKENS];
	for (uint32_t i = 0; i < WORLD_SLOTS; i++) {
		tokens_fill(tokens, (int32_t)(100 + i));
		world_open(w, engine, i, tenant, tokens, 31 * 16, 32 * 16, KVD_OPEN_PRIVATE);
		world_slot(w, engine, i)->hold = true;
		world_settle(w, false);
	}
	ck_assert_uint_ne(w->core->queue.count, 0);
}

static struct world *world_flooded(uint32_t *ret_e0, uint32_t *ret_e1)
{
	struct world *w = world_new(24 * EXTENT, EXTENT, 9);
	world_tenant(w, "flood", "", CORE_MERGE, 0);
	world_tenant(w, "quiet", "", CORE_MERGE, 0);
	*ret_e0 = attach(w, "e0");
	*ret_e1 = attach(w, "e1");
	flood(w, *ret_e0, 0);
	return w;
}

/* At once: nothing of the flood ends or is preempted for it. */
START_TEST(a_small_tenant_passes_a_flood)
{
	uint32_t e0, e1;
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_flooded(&e0, &e1);
	uint32_t queued = w->core->queue.count;
	for (uint32_t i = 0; i < 5; i++) {
		tokens_fill(tokens, (int32_t)(7 + i));
		world_open(w, e1, 0, 1, tokens, 100, 110, 0);
		world_settle(w, true);
		ck_assert_uint_eq(w->finished, i + 1);
	}
	ck_assert_uint_eq(w->core->queue.count, queued);
	ck_assert_uint_eq(status_of(w).preemptions, 0);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* A tenant with nothing running asks for more than its share: it may be passed for a while, not for ever. */
START_TEST(a_large_request_is_not_passed_for_ever)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(3 * EXTENT, EXTENT, 4);      /* 48 frames */
	struct core_event ev = { .type = CORE_EV_TENANT, .engine = CORE_NONE };
	world_tenant(w, "large", "", CORE_MERGE, 0);
	strcpy(ev.tenant.name, "small");
	ev.tenant.sharing = CORE_MERGE;
	ev.tenant.quota.weight = 300;                            /* its share: 36 */
	world_step(w, &ev);
	uint32_t e0 = attach(w, "e0");
	for (uint32_t i = 0; i < 3; i++) {
		tokens_fill(tokens, (int32_t)(50 + i));
		run_prompt(w, e0, i, 1, tokens, 112, KVD_OPEN_PRIVATE);
	}
	tokens_fill(tokens, 1);
	world_open(w, e0, 8, 0, tokens, 31 * 16, 31 * 16 + 2, KVD_OPEN_PRIVATE);   /* 32 pages: more than half */
	world_settle(w, false);
	ck_assert_uint_eq(state_of(w, e0, 8), SEQ_WAITING);
	uint32_t passed = 0, slot = 3;
	for (uint32_t i = 0; i < 20 && state_of(w, e0, 8) == SEQ_WAITING; i++) {
		/* each round another small one comes, then an older one ends: the large one never finds room */
		tokens_fill(tokens, (int32_t)(60 + i));
		if (slot < 8) {
			world_open(w, e0, slot, 1, tokens, 112, 112, KVD_OPEN_PRIVATE);
			spend(w, 1, 400000, false);
			passed += state_of(w, e0, 8) == SEQ_WAITING && state_of(w, e0, slot) == SEQ_RUNNING;
			submit(w, e0, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = slot - 3 });
			world_slot(w, e0, slot - 3)->state = SLOT_IDLE;
			slot++;
		} else {
			submit(w, e0, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = slot - 3 });
		}
		spend(w, 1, 400000, false);
	}
	ck_assert_uint_gt(passed, 0);
	ck_assert_uint_eq(state_of(w, e0, 8), SEQ_RUNNING);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* Weights: the same request is modest for a heavy tenant and not for a light one. */
START_TEST(shares_follow_weights)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(24 * EXTENT, EXTENT, 4);     /* 384 frames */
	struct core_event ev = { .type = CORE_EV_TENANT, .engine = CORE_NONE };
	world_tenant(w, "flood", "", CORE_MERGE, 0);
	strcpy(ev.tenant.name, "light");
	ev.tenant.sharing = CORE_MERGE;
	ev.tenant.quota.weight = 1;
	world_step(w, &ev);
	uint32_t e0 = attach(w, "e0"), e1 = attach(w, "e1");
	flood(w, e0, 0);
	tokens_fill(tokens, 3);
	world_open(w, e1, 0, 1, tokens, 200, 210, 0);            /* 14 pages; its share is 1/101 of 384 */
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, 0);
	ev.tenant.quota.weight = 100;
	world_step(w, &ev);
	spend(w, 3, 1000, true);
	ck_assert_uint_eq(w->finished, 1);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* The kept extent of an idle engine is given up for a sequence that stands alone and needs the whole pool. */
START_TEST(kept_extents_yield_to_who_stands_alone)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(16 * EXTENT, EXTENT, 4);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e0 = world_attach(w, "e0", 1, PLANES, 8 * BLOCK, 2, WORLD_PAGES);   /* 2 frames ... */
	ck_assert_uint_eq(e0, CORE_NONE);                       /* ... are too few: refused with numbers */
	e0 = world_attach(w, "e0", 1, PLANES, 2 * BLOCK, 2, WORLD_PAGES);            /* 8 an extent */
	uint32_t e1 = attach(w, "e1");
	world_settle(w, false);
	ck_assert_uint_eq(w->core->n_keeps, 2);
	(void)e1;
	tokens_fill(tokens, 1);
	world_open(w, e0, 0, 0, tokens, 31 * 16, 32 * 16, KVD_OPEN_PRIVATE);
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, 1);
	world_fsck(w);
	world_free(w);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { a_small_tenant_passes_a_flood, a_large_request_is_not_passed_for_ever,
		shares_follow_weights, kept_extents_yield_to_who_stands_alone };
	return run_suite("core_fair", tests, sizeof(tests) / sizeof(tests[0]));
}
