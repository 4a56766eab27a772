/* test_sched.c - plans of steps, without a daemon or a model. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/sched.h"
#include "tests/lib/suite.h"

#define SLOTS 64
static struct sched sched;
static struct sched_seq seqs[SLOTS];
static struct sched_run runs[SLOTS];

static void setup(void)
{
	memset(seqs, 0, sizeof(seqs));
	sched_init(&sched, 128, SLOTS);
	ck_assert_uint_eq(sched_tenant_get(&sched, "alice", 100), 0);
	ck_assert_uint_eq(sched_tenant_get(&sched, "bob", 100), 1);
}

static void put(uint32_t slot, uint32_t tenant, uint32_t computed, uint32_t known)
{
	seqs[slot] = (struct sched_seq){ true, tenant, known, computed, known + 16, slot };
}

static uint32_t rows(uint32_t n)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += runs[i].count;
	return sum;
}

START_TEST(decode_goes_first_and_prefill_fills_the_budget)
{
	uint32_t n;

	setup();
	put(0, 0, 0, 1000);
	put(5, 1, 99, 100);
	put(9, 0, 40, 41);
	n = sched_plan(&sched, seqs, SLOTS, runs);
	ck_assert_uint_eq(n, 3);
	ck_assert(runs[0].slot == 5 && runs[0].start == 99 && runs[0].count == 1 &&
		  runs[0].want_logits);
	ck_assert(runs[1].slot == 9 && runs[1].want_logits);
	ck_assert(runs[2].slot == 0 && runs[2].start == 0 && runs[2].count == 112 &&
		  !runs[2].want_logits);
	ck_assert_uint_le(rows(n), sched.rows_max);
}
END_TEST

START_TEST(chunks_end_at_page_boundaries_whatever_the_budget)
{
	static const uint32_t budgets[] = { 1, 7, 16, 20, 64, 128, 1000 };

	for (size_t b = 0; b < sizeof(budgets) / sizeof(budgets[0]); b++) {
		uint32_t computed = 0, known = 777, boundaries = 0;
		setup();
		sched_init(&sched, budgets[b], SLOTS);
		sched_tenant_get(&sched, "alice", 100);
		while (computed < known) {
			put(3, 0, computed, known);
			ck_assert_uint_eq(sched_plan(&sched, seqs, SLOTS, runs), 1);
			ck_assert_uint_eq(runs[0].start, computed);
			ck_assert_uint_ge(runs[0].count, 1);
			ck_assert_uint_le(runs[0].count, budgets[b]);
			/* never across a boundary unless it ends on one */
			if (computed / 16 != (computed + runs[0].count - 1) / 16 &&
			    computed + runs[0].count != known)
				ck_assert_uint_eq((computed + runs[0].count) % 16, 0);
			computed += runs[0].count;
			boundaries += computed % 16 == 0;
			ck_assert_int_eq(runs[0].want_logits, computed == known);
		}
		ck_assert_uint_ge(boundaries, known / (budgets[b] < 16 ? 16 : budgets[b]));
	}
}
END_TEST

START_TEST(a_sequence_without_a_page_sits_out_alone)
{
	setup();
	put(0, 0, 64, 65);
	seqs[0].limit = 64;
	put(1, 0, 31, 32);
	put(2, 0, 0, 100);
	seqs[2].limit = 48;
	put(3, 0, 0, 100);
	seqs[3].runnable = false;
	ck_assert_uint_eq(sched_plan(&sched, seqs, SLOTS, runs), 2);
	ck_assert_uint_eq(runs[0].slot, 1);
	ck_assert(runs[1].slot == 2 && runs[1].count == 48 && !runs[1].want_logits);
}
END_TEST

START_TEST(many_decodes_leave_a_quarter_to_prefill)
{
	uint32_t n;

	setup();
	sched_init(&sched, 32, SLOTS);
	sched_tenant_get(&sched, "alice", 100);
	for (uint32_t i = 0; i < 60; i++)
		put(i, 0, 9, 10);
	put(60, 0, 0, 500);
	n = sched_plan(&sched, seqs, SLOTS, runs);
	ck_assert_uint_eq(n, 61);
	ck_assert_uint_eq(runs[60].slot, 60);
	ck_assert_uint_eq(runs[60].count, 8);
	ck_assert_uint_le(rows(n), sched.rows_max);
}
END_TEST

/* Two tenants, one with eight long prompts, one with one: rows go half and half while both want. */
static void serve_steps(uint32_t weight_bob, uint64_t *ret_alice, uint64_t *ret_bob)
{
	setup();
	sched_tenant_get(&sched, "bob", weight_bob);
	*ret_alice = *ret_bob = 0;
	for (uint32_t i = 0; i < 8; i++)
		put(i, 0, 0, 1000000);
	put(20, 1, 0, 1000000);
	for (int step = 0; step < 200; step++) {
		uint32_t n = sched_plan(&sched, seqs, SLOTS, runs);
		for (uint32_t i = 0; i < n; i++) {
			seqs[runs[i].slot].computed += runs[i].count;
			seqs[runs[i].slot].limit = seqs[runs[i].slot].computed + 1000;
			*(seqs[runs[i].slot].tenant ? ret_bob : ret_alice) += runs[i].count;
		}
		sched_charge(&sched, seqs, runs, n);
	}
}

START_TEST(tenants_are_served_by_weight)
{
	uint64_t alice, bob;

	serve_steps(100, &alice, &bob);
	ck_assert_double_eq_tol((double)bob / (double)alice, 1.0, 0.05);
	serve_steps(300, &alice, &bob);
	ck_assert_double_eq_tol((double)bob / (double)alice, 3.0, 0.1);
}
END_TEST

START_TEST(idleness_earns_no_credit)
{
	uint32_t carol;

	setup();
	put(0, 0, 0, 100000);
	for (int i = 0; i < 50; i++) {
		uint32_t n = sched_plan(&sched, seqs, SLOTS, runs);
		seqs[0].computed += runs[0].count;
		sched_charge(&sched, seqs, runs, n);
	}
	sched_tenant_put(&sched, 1);
	carol = sched_tenant_get(&sched, "carol", 100);
	ck_assert_uint_eq(sched.tenants[carol].served, sched.tenants[0].served);
	ck_assert_uint_eq(sched_tenant_get(&sched, "bob", 100), 1);
	ck_assert_uint_eq(sched.tenants[1].served, sched.tenants[0].served);
	/* level now: the earlier ticket goes first */
	ck_assert(sched_before(&sched, 0, 1, carol, 2));
	ck_assert(!sched_before(&sched, 0, 3, carol, 2));
}
END_TEST

START_TEST(tenant_records_are_reused_and_bounded)
{
	char name[64];

	setup();
	for (uint32_t i = 2; i < SCHED_TENANTS_MAX; i++) {
		snprintf(name, sizeof(name), "t%u", i);
		ck_assert_uint_eq(sched_tenant_get(&sched, name, 100), i);
	}
	ck_assert_uint_eq(sched_tenant_get(&sched, "one more", 100), SCHED_NONE);
	ck_assert_uint_eq(sched_tenant_get(&sched, "t7", 100), 7);
	sched_tenant_put(&sched, 7);
	ck_assert_uint_eq(sched_tenant_get(&sched, "one more", 100), SCHED_NONE);
	sched_tenant_put(&sched, 7);
	ck_assert_uint_eq(sched_tenant_get(&sched, "one more", 100), 7);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		decode_goes_first_and_prefill_fills_the_budget,
		chunks_end_at_page_boundaries_whatever_the_budget, a_sequence_without_a_page_sits_out_alone,
		many_decodes_leave_a_quarter_to_prefill, tenants_are_served_by_weight, idleness_earns_no_credit,
		tenant_records_are_reused_and_bounded,
	};
	return SUITE_RUN("sched", 0, tests);
}
