/* test_core_psi.c - pressure-stall information: the averages against their definition in floating point, over any
 * gaps; who counts as stalled; triggers. */
#include <math.h>
#include <stdio.h>
#include "tests/lib/core_case.h"
#include "kvd/core/parts.h"

static struct kvd_row_psi psi_row(struct world *w, uint32_t tenant)
{
	struct kvd_row_psi row = { 0 };
	uint32_t cursor = 0;
	ck_assert_uint_eq(core_read_psi(w->core, tenant, w->now, &cursor, &row, 1), 1);
	return row;
}

/* The definition, period by period. */
struct reference { double avg[3]; uint64_t stalled, total; };

static void reference_advance(struct reference *r, uint64_t from, uint64_t to, bool some)
{
	static const double seconds[3] = { 10, 60, 300 };
	while (from < to) {
		uint64_t end = (from / 2000000 + 1) * 2000000, until = end < to ? end : to;
		r->stalled += some ? until - from : 0;
		r->total += some ? until - from : 0;
		if (until == end) {
			for (int i = 0; i < 3; i++) {
				double left = exp(-2.0 / seconds[i]);
				r->avg[i] = r->avg[i] * left + (double)r->stalled / 2e6 * (1 - left);
			}
			r->stalled = 0;
		}
		from = until;
	}
}

START_TEST(averages_follow_the_definition)
{
	uint64_t seed = 7, now = 0;
	double worst = 0;
	for (int run = 0; run < 200; run++) {
		struct psi p = { 0 };
		struct reference r = { 0 };
		now = 0;
		for (int step = 0; step < 60; step++) {
			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			uint64_t scale[] = { 1000, 300000, 5000000, 90000000, 3000000000ull };
			uint64_t gap = (seed >> 20) % scale[(seed >> 8) % 5] + 1;
			bool was = p.some;
			p = psi_advanced(&p, now + gap);
			reference_advance(&r, now, now + gap, was);
			now += gap;
			p.some = (seed >> 5) % 3 == 0;
			ck_assert_uint_eq(p.some_total_usec, r.total);
			for (int i = 0; i < 3; i++) {
				double off = fabs(p.some_avg[i] / (double)(1 << PSI_SHIFT) - r.avg[i]);
				worst = off > worst ? off : worst;
			}
			ck_assert_uint_eq(p.full_total_usec, 0);
		}
	}
	printf("psi: worst error of an average %.7f\n", worst);
	ck_assert(worst < 0.00005);                  /* half of the last digit shown */
}
END_TEST

/* Advancing in many steps or in one gives the same, to the microsecond and the last bit but rounding. */
START_TEST(steps_do_not_matter)
{
	struct psi one = { .some = 1, .full = 1 }, many = one;
	one = psi_advanced(&one, 12345678);
	for (uint64_t t = 0; t <= 12345678; t += 1371)
		many = psi_advanced(&many, t);
	many = psi_advanced(&many, 12345678);
	ck_assert_uint_eq(one.some_total_usec, many.some_total_usec);
	ck_assert_uint_eq(one.full_total_usec, 12345678);
	for (int i = 0; i < 3; i++)
		ck_assert_int_le(abs((int)one.some_avg[i] - (int)many.some_avg[i]), 8);
	/* a year later nothing is left of it, and time that goes back changes nothing */
	one.some = one.full = 0;
	one = psi_advanced(&one, 31557600000000ull);
	for (int i = 0; i < 3; i++)
		ck_assert_uint_eq(one.some_avg[i] + one.full_avg[i], 0);
	many = psi_advanced(&one, 5);
	ck_assert_int_eq(memcmp(&one, &many, sizeof(one)), 0);
}
END_TEST

/* One sequence has the pool; another one, of another tenant, waits in the queue. */
static struct world *world_stalled(uint32_t *ret_engine)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(2 * EXTENT, EXTENT, 1);          /* 32 pages */
	tenant_with(w, "has", (struct core_quota){ 0 });
	tenant_with(w, "waits", (struct core_quota){ 0 });
	uint32_t e = *ret_engine = attach(w, "e0");
	tokens_fill(tokens, 1);
	run_prompt(w, e, 0, 0, tokens, 20 * 16, 0);
	tokens_fill(tokens, 2);
	world_open(w, e, 1, 1, tokens, 20 * 16, 20 * 16, 0);
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_WAITING);
	return w;
}

START_TEST(who_is_stalled)
{
	uint32_t e;
	struct world *w = world_stalled(&e);
	world_tick(w, 60000000);
	struct kvd_row_psi pool = psi_row(w, CORE_NONE), has = psi_row(w, 0), waits = psi_row(w, 1);
	ck_assert_uint_eq(has.some_total_usec, 0);
	ck_assert_uint_eq(waits.some_total_usec, 60000000);
	ck_assert_uint_eq(waits.full_total_usec, 60000000);          /* it has nothing that runs */
	ck_assert_uint_eq(pool.some_total_usec, 60000000);
	ck_assert_uint_eq(pool.full_total_usec, 0);                  /* somebody else runs */
	ck_assert_uint_gt(waits.some_avg10, 9900);
	ck_assert_uint_gt(waits.some_avg60, 6000);
	ck_assert_uint_lt(waits.some_avg60, 6600);
	ck_assert_uint_gt(waits.some_avg300, 1700);
	ck_assert_uint_lt(waits.some_avg300, 1900);
	ck_assert_str_eq(waits.tenant, "waits");
	ck_assert_str_eq(pool.tenant, "");
	ck_assert_uint_eq(waits.stalled, 1);
	/* it gets in: no more stall, and the averages decay */
	world_slot(w, e, 0)->hold = false;
	world_settle(w, true);
	uint64_t total = psi_row(w, 1).some_total_usec;
	ck_assert_uint_eq(w->finished, 2);
	world_tick(w, 600000000);
	ck_assert_uint_eq(psi_row(w, 1).some_total_usec, total);
	ck_assert_uint_eq(psi_row(w, 1).some_avg10, 0);
	ck_assert_uint_eq(psi_row(w, CORE_NONE).stalled, 0);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* A tenant that waits for another's promise, or for its own limits, is not under pressure. */
START_TEST(a_promise_is_no_stall)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	tenant_with(w, "a", (struct core_quota){ 0 });
	uint32_t e = attach(w, "e0");
	tokens_fill(tokens, 1);
	world_open(w, e, 0, 0, tokens, 100, 100, 0);
	world_settle(w, false);
	world_open(w, e, 1, 0, tokens, 100, 100, 0);
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_WAITING);
	world_tick(w, 50000);
	ck_assert_uint_eq(psi_row(w, 0).some_total_usec, 0);
	world_settle(w, true);
	world_fsck(w);
	world_free(w);
}
END_TEST

static void trigger(struct world *w, uint32_t number, uint32_t tenant, bool full, uint64_t threshold, uint64_t window)
{
	struct core_event ev = { .type = CORE_EV_TRIGGER };
	ev.trigger.number = number;
	ev.trigger.tenant = tenant;
	ev.trigger.full = full;
	ev.trigger.threshold_usec = threshold;
	ev.trigger.window_usec = window;
	world_step(w, &ev);
}

/* Time passes as the core asks for it; returns when the trigger came true, or UINT64_MAX. */
static uint64_t wait_for(struct world *w, uint32_t number, uint64_t usec)
{
	uint64_t end = w->now + usec;
	while (!(w->pressures >> number & 1u) && w->now < end) {
		uint64_t at = core_next_tick_usec(w->core);
		world_tick(w, at > end ? end - w->now : at > w->now ? at - w->now : 0);
	}
	uint64_t when = w->pressures >> number & 1u ? w->now : UINT64_MAX;
	w->pressures &= ~(1ull << number);
	return when;
}

START_TEST(triggers)
{
	uint32_t e;
	struct world *w = world_stalled(&e);
	uint64_t begun = w->now, at;
	trigger(w, 0, 1, false, 150000, 1000000);            /* the kernel's own example: 150 ms within 1 s */
	trigger(w, 1, CORE_NONE, true, 150000, 1000000);     /* never: somebody runs */
	trigger(w, 2, 0, false, 100000, 500000);             /* never: that tenant does not wait */
	trigger(w, 3, 1, false, 150000, 400000);             /* windows are 500 ms .. 10 s */
	trigger(w, 4, 77, false, 150000, 1000000);           /* no such tenant */
	trigger(w, CORE_TRIGGERS_MAX, 1, false, 150000, 1000000);
	ck_assert_uint_eq(w->core->n_triggers, 3);
	at = wait_for(w, 0, 5000000);
	ck_assert_uint_ge(at - begun, 150000);
	ck_assert_uint_le(at - begun, 200000);
	begun = at;
	at = wait_for(w, 0, 5000000);                        /* at most once in a window */
	ck_assert_uint_ge(at - begun, 1000000);
	ck_assert_uint_le(at - begun, 1100000);
	ck_assert_uint_eq(w->pressures, 0);
	/* with the stall over nothing comes any more, and nobody asks for time */
	world_slot(w, e, 0)->hold = false;
	world_settle(w, true);
	w->pressures = 0;
	ck_assert_uint_eq(wait_for(w, 0, 30000000), UINT64_MAX);
	trigger(w, 0, 1, false, 0, 0);
	trigger(w, 1, 1, false, 0, 0);
	trigger(w, 2, 1, false, 0, 0);
	trigger(w, 2, 1, false, 0, 0);
	ck_assert_uint_eq(w->core->n_triggers, 0);
	world_fsck(w);
	world_free(w);
}
END_TEST

int main(void)
{
	const TTest *list[] = { averages_follow_the_definition, steps_do_not_matter, who_is_stalled,
				a_promise_is_no_stall, triggers };
	return run_suite("core_psi", list, sizeof(list) / sizeof(list[0]));
}
