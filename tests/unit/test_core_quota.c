/* test_core_quota.c - floors, limits and shares of tenants. */
#include "tests/lib/core_case.h"

enum { PAGES = 8 };            /* of one prompt of these tests */

static void prompt(int32_t *tokens, int32_t which)
{
	tokens_fill(tokens, which);
}

/* Cache a prompt of PAGES whole pages for a tenant. */
static void cache(struct world *w, uint32_t engine, uint32_t tenant, int32_t which)
{
	int32_t tokens[WORLD_TOKENS];
	prompt(tokens, which);
	run_one(w, engine, 0, tenant, tokens, PAGES * 16);
	world_tick(w, 1000000);
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

int main(void)
{
	const TTest *list[] = { min_is_never_taken_for_others, without_min_it_goes, min_covers_held_first };
	return run_suite("core_quota", list, sizeof(list) / sizeof(list[0]));
}
