/* test_core_adopt.c - a book is taken over after its last commit, or refused with the reason.
 *
 * Kills at every store are the simulator's; here is the contract of core_adopt() itself: what was
 * not committed is undone, what was committed stays, and a book that is another version's, another
 * configuration's or damaged is refused. */
#include <stdio.h>

#include "kvd/core/parts.h"
#include "tests/lib/core_case.h"

enum { SHELL_BYTES = 4096 };

static struct core_config config_small(void)
{
	return (struct core_config){ .pool_bytes = 8 * EXTENT, .extent_bytes = EXTENT, .page_bytes_min = 8192,
		.tenants_max = 16, .seqs_max = 64, .holds_max = 64 * 32, .hash_key = { 1, 2 },
		.promise_usec = 100000, .shell_bytes = SHELL_BYTES };
}

static struct core *book_new(void)
{
	struct core_config config = config_small();
	struct core *c = core_init(calloc(1, core_book_bytes(&config)), &config);
	ck_assert_ptr_nonnull(c);
	return c;
}

/* A committed step: define a tenant, perform what comes of it. */
static void define(struct core *c, const char *name)
{
	struct core_event event = { .type = CORE_EV_TENANT, .engine = CORE_NONE };
	struct core_action action;
	snprintf(event.tenant.name, sizeof(event.tenant.name), "%s", name);
	core_step(c, &event, 1);
	while (core_next_action(c, &action))
		;
}

static char why[CORE_WHY_MAX];

static struct core *adopt(struct core *c)
{
	struct core_config config = config_small();
	return core_adopt(c, core_book_bytes(&config), &config, why);
}

START_TEST(uncommitted_is_undone_committed_stays)
{
	struct core *c = book_new();
	uint64_t value = 7;
	define(c, "a");
	core_shell_set(c, core_shell(c), &value, sizeof(value));
	core_commit(c);
	value = 8;
	core_shell_set(c, core_shell(c), &value, sizeof(value));
	core_shell_set(c, (const char *)core_shell(c) + 13, "abc", 3);   /* unaligned, over a word's edge */
	SET(c->n_tenants, 9);
	ck_assert_ptr_eq(adopt(c), c);
	ck_assert_uint_eq(*(const uint64_t *)core_shell(c), 7);
	ck_assert_mem_eq((const char *)core_shell(c) + 13, "\0\0\0", 3);
	ck_assert_uint_eq(c->n_tenants, 1);
	ck_assert_uint_eq(core_tenant_find(c, "a"), 0);
	define(c, "b");
	ck_assert_uint_eq(core_tenant_find(c, "b"), 1);
	free(c);
}
END_TEST

START_TEST(shell_and_step_are_one_transaction)
{
	struct core *c = book_new();
	uint64_t value = 5;
	core_shell_set(c, core_shell(c), &value, sizeof(value));
	define(c, "a");                      /* commits both */
	ck_assert_ptr_eq(adopt(c), c);
	ck_assert_uint_eq(*(const uint64_t *)core_shell(c), 5);
	free(c);
}
END_TEST

/* An action that was being performed is in the queue again, and so is what came with it. */
START_TEST(action_in_hand_is_queued_again)
{
	struct core *c = book_new();
	struct core_event tick = { .type = CORE_EV_TICK, .engine = CORE_NONE };
	struct core_action first, again;
	uint32_t cursor = 0, extent;
	uint64_t value = 1;
	core_step(c, &tick, 1);
	ck_assert(core_next_action(c, &first));
	ck_assert_int_eq(first.type, CORE_ACT_POPULATE);
	core_shell_set(c, core_shell(c), &value, sizeof(value));
	ck_assert_ptr_eq(adopt(c), c);
	ck_assert(!core_populate_in_flight(c, &cursor, &extent));
	ck_assert_uint_eq(*(const uint64_t *)core_shell(c), 0);
	ck_assert(core_next_action(c, &again));
	ck_assert_int_eq(again.type, CORE_ACT_POPULATE);
	ck_assert_uint_eq(again.populate.extent, first.populate.extent);
	ck_assert(core_next_action(c, &again));      /* commits the one before */
	ck_assert_ptr_eq(adopt(c), c);
	cursor = 0;
	ck_assert(core_populate_in_flight(c, &cursor, &extent));
	ck_assert_uint_eq(extent, first.populate.extent);
	ck_assert(!core_populate_in_flight(c, &cursor, &extent));
	free(c);
}
END_TEST

START_TEST(doubtful_books_are_refused)
{
	struct core_config other = config_small();
	size_t bytes = core_book_bytes(&other);
	struct core *c = book_new();
	define(c, "a");
	ck_assert_ptr_null(core_adopt(NULL, 0, NULL, why));
	ck_assert_ptr_null(core_adopt(c, 64, NULL, why));
	ck_assert_ptr_null(core_adopt(c, bytes / 2, NULL, why));
	other.pool_bytes += EXTENT;
	ck_assert_ptr_null(core_adopt(c, bytes, &other, why));
	ck_assert_ptr_nonnull(strstr(why, "configured otherwise"));
	c->layout_version++;
	ck_assert_ptr_null(adopt(c));
	ck_assert_ptr_nonnull(strstr(why, "another version"));
	c->layout_version--;
	c->magic++;
	ck_assert_ptr_null(adopt(c));
	c->magic--;
	c->layout.at_frames += 4096;
	ck_assert_ptr_null(adopt(c));
	c->layout.at_frames -= 4096;
	c->extents_in[KVD_EXTENT_BARE]++;
	ck_assert_ptr_null(adopt(c));
	ck_assert_msg(strstr(why, "extents in a state"), "%s", why);
	c->extents_in[KVD_EXTENT_BARE]--;
	ck_assert_ptr_eq(adopt(c), c);
	free(c);
}
END_TEST

START_TEST(broken_journals_are_refused)
{
	struct core *c = book_new();
	uint64_t *words = (uint64_t *)((char *)c + c->layout.at_journal);
	const uint64_t two = 1ull << JOURNAL_COUNT_SHIFT, book = (uintptr_t)c;
	define(c, "a");
	const uint64_t wild[] = { UINT64_MAX, book + c->layout.book_bytes, book + c->layout.at_journal,
		book + offsetof(struct core, journal), 0, book + 4,
		book + c->layout.at_journal - 8 + two + JOURNAL_ZERO, book + two };
	for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++) {
		c->journal.next = c->journal.begin + 16;
		words[1] = wild[i];
		ck_assert_ptr_null(adopt(c));
		ck_assert_ptr_nonnull(strstr(why, "undo journal"));
	}
	c->journal.next = c->journal.begin + 8 * (c->layout.journal_max + 1);
	ck_assert_ptr_null(adopt(c));
	c->journal.next = c->journal.begin + 16;
	c->journal.overflow = 1;
	words[0] = c->magic;
	words[1] = book;
	ck_assert_ptr_null(adopt(c));
	c->journal.overflow = 0;
	ck_assert_ptr_eq(adopt(c), c);
	free(c);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { uncommitted_is_undone_committed_stays, shell_and_step_are_one_transaction,
		action_in_hand_is_queued_again, doubtful_books_are_refused, broken_journals_are_refused };
	return run_suite("core adoption", tests, sizeof(tests) / sizeof(tests[0]));
}
