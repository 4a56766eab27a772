/* test_core_sample.c - the watchdog's sample: silent on a healthy book at every budget, and a sweep finds what
 * is wrong in any extent or node; a slice is no larger than its budget and one extent. */
#include <stdio.h>
#include "tests/lib/core_case.h"
#include "tests/lib/suite.h"
#include "kvd/core/parts.h"

static char said[1 << 14];

static void collect(void *arg, const char *problem)
{
	(void)arg;
	if (strlen(said) + strlen(problem) + 2 < sizeof(said)) {
		strcat(said, problem);
		strcat(said, "\n");
	}
}

/* One whole sweep; the number of problems. */
static uint32_t sweep(const struct core *c, uint32_t budget)
{
	struct core_sample cursor = { 0 };
	uint32_t problems = 0, n = 0, calls = 0, largest = budget;
	said[0] = 0;
	for (uint32_t x = 0; x < c->n_extents; x++)
		if (extent_at(c, x)->n_frames + budget > largest)
			largest = extent_at(c, x)->n_frames + budget;
	while (!cursor.swept) {
		problems += core_fsck_sample(c, &cursor, budget, collect, NULL, &n);
		ck_assert_uint_le(n, largest);
		ck_assert_uint_le(++calls, 100000);
	}
	ck_assert_uint_eq(cursor.extent, 0);
	ck_assert_uint_eq(cursor.node, 0);
	return problems;
}

static struct world *world_shared(void)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(12 * EXTENT, EXTENT, 1);
	world_tenant(w, "a", "team", CORE_REUSE, 0);
	world_tenant(w, "b", "team", CORE_REUSE, 0);
	world_tenant(w, "m", "", CORE_MERGE, 0);
	uint32_t e0 = attach(w, "e0"), e1 = attach(w, "e1");
	tokens_fill(tokens, 1);
	run_prompt(w, e0, 0, 0, tokens, 100, 0);
	run_prompt(w, e0, 1, 2, tokens, 100, 0);
	run_one(w, e0, 2, 1, tokens, 120);
	tokens_fill(tokens, 2);
	run_one(w, e1, 0, 1, tokens, 80);
	world_settle(w, false);
	return w;
}

START_TEST(a_healthy_book_is_silent)
{
	static const uint32_t budgets[] = { 1, 2, 7, 64, 4096, 1u << 20 };
	struct world *w = world_shared();
	ck_assert_uint_eq(core_fsck(w->core, NULL, NULL, NULL), 0);
	for (unsigned i = 0; i < sizeof(budgets) / sizeof(budgets[0]); i++)
		ck_assert_msg(sweep(w->core, budgets[i]) == 0, "budget %u: %s", budgets[i], said);
	world_free(w);
}
END_TEST

START_TEST(a_load_never_alarms_it)
{
	struct world *w = world_new(12 * EXTENT, EXTENT, 7);
	struct core_sample cursor = { 0 };
	int32_t tokens[WORLD_TOKENS];
	uint32_t n;
	world_tenant(w, "a", "", CORE_MERGE, 0);
	world_tenant(w, "b", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e");
	for (uint32_t i = 0; i < 60; i++) {
		tokens_fill(tokens, i % 9);
		run_one(w, e, i % 4, i % 2, tokens, 40 + i % 100);
		said[0] = 0;
		ck_assert_msg(!core_fsck_sample(w->core, &cursor, 16, collect, NULL, &n), "%u: %s", i, said);
	}
	ck_assert_uint_gt(cursor.swept, 0);
	world_free(w);
}
END_TEST

/* Change a field, expect a sweep to say the sentence, change it back. */
#define FOUND(field, value, sentence)                                                              \
	do {                                                                                       \
		void *field_ = (void *)(uintptr_t) & (field);                                      \
		__auto_type value_ = (value);                                                      \
		unsigned char old_[sizeof(field)];                                                 \
		_Static_assert(sizeof(value_) >= sizeof(old_), "little-endian");                   \
		memcpy(old_, field_, sizeof(old_));                                                \
		memcpy(field_, &value_, sizeof(old_));                                             \
		uint32_t found_ = sweep(c, 256);                                                     \
		memcpy(field_, old_, sizeof(old_));                                                \
		ck_assert_msg(found_ && strstr(said, sentence), "%s: %u problems:\n%s", #field, found_, said); \
		ck_assert_msg(!sweep(c, 256), "%s restored: %s", #field, said);                      \
	} while (0)

START_TEST(a_sweep_finds_what_is_wrong)
{
	struct world *w = world_shared();
	const struct core *c = w->core;
	uint32_t x = 0, node = 1, frame = 0;
	while (extent_at(c, x)->state != KVD_EXTENT_ASSIGNED || !extent_at(c, x)->frames[KVD_FRAME_SEALED] +
								extent_at(c, x)->frames[KVD_FRAME_COOL])
		ck_assert_uint_lt(++x, c->n_extents);
	for (frame = x << c->slot_bits; !frame_at(c, frame)->page; frame++)
		;
	while (node_at(c, node)->next_free || !node_at(c, node)->live || !node_at(c, node)->copies.count)
		ck_assert_uint_le(++node, c->nodes.high);
	FOUND(c->tail_bytes, c->tail_bytes + 1, "do not add up to the pool");
	FOUND(c->spaces[0].frames[KVD_FRAME_FREE], 0ull, "do not add up to the pool");
	FOUND(c->extents_in[KVD_EXTENT_BARE], c->extents_in[KVD_EXTENT_BARE] + 1, "not those of the pool");
	FOUND(c->nodes.count, c->nodes.high + 1, "more records are in use");
	FOUND(extent_at(c, x)->state, KVD_EXTENT_STATES + 1, "no known state");
	FOUND(extent_at(c, x)->high, extent_at(c, x)->n_frames + 1, "used more frames than it has");
	FOUND(extent_at(c, x)->frames[KVD_FRAME_OPEN], 5u, "count of a frame state is wrong");
	FOUND(frame_at(c, frame)->page, 0u, "has no page");
	FOUND(node_at(c, node)->n_complete, node_at(c, node)->n_complete + 1, "count of claims is wrong");
	FOUND(node_at(c, node)->tokens[0], -5, "not found by its hash");
	FOUND(node_at(c, node)->copies.count, node_at(c, node)->copies.count + 1, "list of copies is broken");
	ck_assert_uint_eq(core_fsck(c, NULL, NULL, NULL), 0);
	world_free(w);
}
END_TEST

/* A node with more lists than the slice: passed over and counted, never walked. */
START_TEST(a_large_node_is_left_to_the_whole)
{
	struct world *w = world_shared();
	const struct core *c = w->core;
	struct core_sample cursor = { 0 };
	uint32_t n, large = 0;
	ck_assert_uint_eq(sweep(c, 1), 0);
	while (!cursor.swept) {
		core_fsck_sample(c, &cursor, 2, collect, NULL, &n);
		large = cursor.passed_over;
	}
	ck_assert_uint_gt(large, 0);
	cursor = (struct core_sample){ 0 };
	while (!cursor.swept)
		core_fsck_sample(c, &cursor, 4096, collect, NULL, &n);
	ck_assert_uint_eq(cursor.passed_over, 0);
	world_free(w);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_healthy_book_is_silent, a_load_never_alarms_it, a_sweep_finds_what_is_wrong,
		a_large_node_is_left_to_the_whole,
	};
	return SUITE_RUN("core_sample", 0, tests);
}
