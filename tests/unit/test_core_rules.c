/* test_core_rules.c - one directed test per rule of the memory core. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include "tests/lib/core_world.h"

enum { PLANES = 4, BLOCK = 4096, PAGE = PLANES * BLOCK, EXTENT = 256 << 10 }; /* 16 frames an extent */

static void tokens_fill(int32_t *tokens, int32_t base)
{
	for (int32_t i = 0; i < WORLD_TOKENS; i++)
		tokens[i] = base * 1000 + i;
}

static void status_read(struct world *w, struct kvd_row_status *ret)
{
	core_read_status(w->core, w->now, ret);
}

static uint32_t attach(struct world *w, const char *name)
{
	uint32_t e = world_attach(w, name, 1, PLANES, BLOCK, WORLD_SLOTS, WORLD_PAGES);
	ck_assert_uint_ne(e, CORE_NONE);
	return e;
}

/* Run one sequence to its end and return how many pages were cached at OPEN. */
static uint32_t run_one(struct world *w, uint32_t engine, uint32_t slot, uint32_t tenant, const int32_t *tokens, uint32_t n)
{
	uint64_t finished = w->finished;
	world_open(w, engine, slot, tenant, tokens, n, n + 5, 0);
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, finished + 1);
	return world_slot(w, engine, slot)->last_cached;
}

START_TEST(one_sequence_is_found_again)
{
	int32_t tokens[WORLD_TOKENS];
	struct kvd_row_status st;
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	ck_assert_uint_eq(run_one(w, e, 0, 0, tokens, 100), 0);
	status_read(w, &st);
	ck_assert_uint_eq(st.frames[KVD_FRAME_COOL], 6);
	ck_assert_uint_eq(st.frames[KVD_FRAME_OPEN] + st.frames[KVD_FRAME_SEALED] + st.frames[KVD_FRAME_RETIRING], 0);
	ck_assert_uint_eq(run_one(w, e, 1, 0, tokens, 100), 6);
	/* never the page that holds the last known token */
	ck_assert_uint_eq(run_one(w, e, 1, 0, tokens, 96), 5);
	ck_assert_uint_eq(run_one(w, e, 1, 0, tokens, 97), 6);
	world_free(w);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("core_rules");
	TCase *t = tcase_create("rules");
	tcase_set_timeout(t, 60);
	tcase_add_test(t, one_sequence_is_found_again);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
