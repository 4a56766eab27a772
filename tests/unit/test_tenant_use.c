/* test_tenant_use.c - the arithmetic of limits: buckets in time, and who may connect how often. */
#include "kvd/tenant_use.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "kvd/limits.h"
#include "tests/lib/suite.h"

START_TEST(a_bucket_in_time)
{
	uint64_t until_usec = 0, now_usec = 5000000;
	unsigned n = 0;

	/* One second saved up at ten a second: ten at once, then one each tenth of a second. */
	while (pace_allows(&until_usec, now_usec, 100000, 1000000))
		n++;
	ck_assert_uint_eq(n, 10);
	ck_assert(!pace_allows(&until_usec, now_usec + 99999, 100000, 1000000));
	ck_assert(pace_allows(&until_usec, now_usec + 100000, 100000, 1000000));
	ck_assert(!pace_allows(&until_usec, now_usec + 100000, 100000, 1000000));
	/* A refusal costs nothing; a pause fills it up, and no further. */
	now_usec += 3600000000ull;
	for (n = 0; pace_allows(&until_usec, now_usec, 100000, 1000000); n++)
		;
	ck_assert_uint_eq(n, 10);
	/* Over a long time exactly the rate. */
	for (n = 0; n < 100000; n++) {
		static unsigned allowed;

		now_usec += 1000;
		allowed += pace_allows(&until_usec, now_usec, 100000, 1000000);
		if (n == 99999)
			ck_assert_msg(allowed >= 999 && allowed <= 1001, "%u in 100 s", allowed);
	}
}
END_TEST

START_TEST(a_million_messages_a_second)
{
	uint64_t until_usec = 0;
	unsigned n = 0;

	while (pace_allows(&until_usec, 1000, 1, 1000000))
		n++;
	ck_assert_uint_eq(n, 1000000);
}
END_TEST

START_TEST(each_user_its_own_pace)
{
	struct connect_pace *pace = calloc(1, sizeof(*pace));
	uint64_t now_usec = 1000000;
	unsigned most = LIMIT_CONNECTS_PER_SEC * (LIMIT_CONNECTS_BURST_USEC / 1000000), n = 0;

	ck_assert_ptr_nonnull(pace);
	while (connect_allowed(pace, 1000, now_usec))
		n++;
	ck_assert_uint_eq(n, most);
	/* Nobody else is held by it, whatever its number. */
	for (uint32_t uid = 0; uid < 100000; uid++)
		if (uid != 1000)
			ck_assert_msg(connect_allowed(pace, uid, now_usec), "uid %u", uid);
	ck_assert(!connect_allowed(pace, 1000, now_usec));
	ck_assert(connect_allowed(pace, 1000, now_usec + 1000000 / LIMIT_CONNECTS_PER_SEC));
	/* Later the places of all those are free for a user who comes then. */
	now_usec += 10000000;
	for (n = 0; connect_allowed(pace, 5, now_usec); n++)
		;
	ck_assert_uint_eq(n, most);
	for (n = 0; connect_allowed(pace, 0, now_usec); n++)
		;
	ck_assert_uint_eq(n, most);
	free(pace);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_bucket_in_time, a_million_messages_a_second, each_user_its_own_pace,
	};
	return SUITE_RUN("tenant_use", 0, tests);
}
