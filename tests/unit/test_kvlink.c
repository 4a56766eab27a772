/* test_kvlink.c - a slot's way through kvd's verbs; the test plays kvd on rings in plain memory. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include "client/engine.h"
#include "engine/kvlink.h"
#include "tests/lib/suite.h"

#define SLOTS 4
#define PAGES 32
#define RING 16

static struct kvd_engine engine;
static struct kvd_sub_header sub;
static struct kvd_comp_header comp;
static struct kvd_sqe sqes[RING];
static struct kvd_cqe cqes[64];
static int32_t tokens[SLOTS * PAGES * KVD_PAGE_TOKENS];
static uint32_t tables[SLOTS * PAGES];
static struct kvlink link_;
static int32_t prompt[PAGES * KVD_PAGE_TOKENS];

static void setup(void)
{
	memset(&engine, 0, sizeof(engine));
	memset(&sub, 0, sizeof(sub));
	memset(&comp, 0, sizeof(comp));
	memset(tables, 0, sizeof(tables));
	engine.sub = &sub;
	engine.comp = &comp;
	engine.sqes = sqes;
	engine.cqes = cqes;
	engine.sq_entries = RING;
	engine.cq_entries = 64;
	engine.tokens = tokens;
	engine.tables = tables;
	engine.max_seqs = SLOTS;
	engine.max_pages = PAGES;
	for (int i = 0; i < PAGES * (int)KVD_PAGE_TOKENS; i++)
		prompt[i] = 1000 + i;
	ck_assert_int_eq(kvlink_init(&link_, &engine, SLOTS, PAGES, 64), 0);
}

static void teardown(void)
{
	kvlink_deinit(&link_);
}

/* kvd takes one submission; it must be of this verb. */
static struct kvd_sqe take(enum kvd_verb verb)
{
	struct kvd_sqe sqe;

	ck_assert_int_eq(kvlink_pump(&link_), 0);
	ck_assert_msg(comp.sq_head != sub.sq_tail, "nothing was submitted, verb %d expected", verb);
	sqe = sqes[comp.sq_head++ % RING];
	ck_assert_int_eq(sqe.verb, verb);
	return sqe;
}

static void take_nothing(void)
{
	ck_assert_int_eq(kvlink_pump(&link_), 0);
	ck_assert_uint_eq(comp.sq_head, sub.sq_tail);
}

static void answer(const struct kvd_sqe *sqe, uint32_t status, uint32_t cached, uint32_t pages)
{
	cqes[comp.cq_tail++ % 64] = (struct kvd_cqe){ .verb = sqe->verb, .status = (uint16_t)status,
		.slot = sqe->slot, .user_data = sqe->user_data, .cached = cached, .pages = pages,
		.need_pages = 9, .have_pages = 5 };
	kvlink_collect(&link_, 1000);
}

static void preempt(uint32_t slot)
{
	cqes[comp.cq_tail++ % 64] = (struct kvd_cqe){ .verb = KVD_EV_PREEMPT, .slot = slot };
	kvlink_collect(&link_, 1000);
}

/* Slot 1 with 100 known tokens, 4 pages cached at OPEN, nothing more at the first lookup. */
static void open_with_four_cached(void)
{
	struct kvd_sqe sqe;

	kvlink_open(&link_, 1, 77, 0, prompt, 100, 140);
	ck_assert_uint_eq(kvlink_limit(&link_, 1), 0);
	sqe = take(KVD_SEQ_OPEN);
	ck_assert(sqe.slot == 1 && sqe.tenant == 77 && sqe.n_tokens == 100 && sqe.flags == 0);
	ck_assert_mem_eq(kvd_engine_tokens(&engine, 1), prompt, 400);
	take_nothing();
	answer(&sqe, KVD_S_OK, 4, 4);
	ck_assert_uint_eq(link_.slots[1].n_computed, 64);
	ck_assert_uint_eq(kvlink_limit(&link_, 1), 0);     /* not before the lookup */
	sqe = take(KVD_SEQ_GROW);
	ck_assert(sqe.flags == KVD_GROW_LOOKUP && sqe.page == 4 && sqe.want == 7);
	answer(&sqe, KVD_S_OK, 4, 7);
	ck_assert_uint_eq(kvlink_limit(&link_, 1), 112);
	take_nothing();
}

START_TEST(prefill_seal_decode_close)
{
	struct kvd_sqe sqe;

	open_with_four_cached();
	kvlink_computed(&link_, 1, 100);
	sqe = take(KVD_SEQ_SEAL);
	ck_assert(sqe.page == 4 && sqe.count == 2);
	answer(&sqe, KVD_S_OK, 6, 7);
	/* decode: half of page 6 is full at token 104; then the spare is asked for, no lookup */
	for (uint32_t n = 100; n < 104; n++) {
		kvlink_append(&link_, 1, 7);
		kvlink_computed(&link_, 1, n + 1);
		take_nothing();
	}
	kvlink_append(&link_, 1, 7);
	sqe = take(KVD_SEQ_GROW);
	ck_assert(sqe.flags == 0 && sqe.want == 8);
	/* it runs on in the page it has while the answer is out, and waits only at its end */
	ck_assert_uint_eq(kvlink_limit(&link_, 1), 112);
	for (uint32_t n = 104; n < 112; n++) {
		kvlink_computed(&link_, 1, n + 1);
		kvlink_append(&link_, 1, 7);
	}
	ck_assert_uint_eq(kvlink_limit(&link_, 1), 112);
	answer(&sqe, KVD_S_OK, 6, 8);
	ck_assert_uint_eq(kvlink_limit(&link_, 1), 128);
	sqe = take(KVD_SEQ_SEAL);
	ck_assert(sqe.page == 6 && sqe.count == 1);
	kvlink_close(&link_, 1);
	answer(&sqe, KVD_S_OK, 0, 0);
	sqe = take(KVD_SEQ_CLOSE);
	ck_assert_int_eq(link_.slots[1].state, KVLINK_CLOSING);
	answer(&sqe, KVD_S_OK, 0, 0);
	ck_assert_int_eq(link_.slots[1].state, KVLINK_EMPTY);
	take_nothing();
}
END_TEST

START_TEST(lookup_goes_on_while_it_brings_pages)
{
	struct kvd_sqe sqe;

	kvlink_open(&link_, 0, 1, 0, prompt, 100, 140);
	sqe = take(KVD_SEQ_OPEN);
	answer(&sqe, KVD_S_OK, 0, 0);
	sqe = take(KVD_SEQ_GROW);
	ck_assert(sqe.flags == KVD_GROW_LOOKUP && sqe.page == 0 && sqe.want == 4);
	answer(&sqe, KVD_S_OK, 3, 4);
	ck_assert_uint_eq(link_.slots[0].n_computed, 48);
	ck_assert_uint_eq(kvlink_limit(&link_, 0), 0);
	sqe = take(KVD_SEQ_GROW);
	ck_assert(sqe.flags == KVD_GROW_LOOKUP && sqe.page == 3 && sqe.want == 7);
	answer(&sqe, KVD_S_OK, 3, 7);
	ck_assert_uint_eq(kvlink_limit(&link_, 0), 112);
	ck_assert_uint_eq(link_.slots[0].n_cached, 48);
	/* next boundary after a chunk: sealed first, then looked up again, then it may go on */
	kvlink_computed(&link_, 0, 64);
	ck_assert_uint_eq(kvlink_limit(&link_, 0), 0);
	sqe = take(KVD_SEQ_SEAL);
	ck_assert(sqe.page == 3 && sqe.count == 1);
	sqe = take(KVD_SEQ_GROW);
	ck_assert(sqe.flags == KVD_GROW_LOOKUP && sqe.page == 4);
	/* kvd may not give the page that holds the last known token */
	answer(&sqe, KVD_S_OK, 7, 7);
	ck_assert_uint_eq(link_.slots[0].n_computed, 96);
	ck_assert_uint_eq(kvlink_limit(&link_, 0), 112);
	take_nothing();
}
END_TEST

START_TEST(preemption_resumes_with_all_tokens)
{
	struct kvd_sqe sqe, grow, stale;

	open_with_four_cached();
	kvlink_computed(&link_, 1, 100);
	stale = take(KVD_SEQ_SEAL);
	for (uint32_t n = 100; n < 105; n++) {
		kvlink_append(&link_, 1, 7);
		kvlink_computed(&link_, 1, n + 1);
	}
	grow = take(KVD_SEQ_GROW);
	answer(&grow, KVD_S_PREEMPTED, 0, 0);
	ck_assert_uint_eq(kvlink_limit(&link_, 1), 0);
	take_nothing();                                     /* until the event says so */
	preempt(1);
	answer(&stale, KVD_S_STALE, 0, 0);                  /* of the lost pages: changes nothing */
	sqe = take(KVD_SEQ_RESUME);
	ck_assert(sqe.slot == 1 && sqe.n_tokens == 105);
	ck_assert_int_eq(kvd_engine_tokens(&engine, 1)[104], 7);
	answer(&grow, KVD_S_OK, 7, 7);                      /* an old answer: dropped */
	ck_assert_int_eq(link_.slots[1].state, KVLINK_RESUMING);
	answer(&sqe, KVD_S_OK, 2, 2);
	ck_assert_uint_eq(link_.slots[1].n_computed, 32);
	ck_assert_uint_eq(link_.slots[1].n_cached, 64);     /* of the first opening */
	sqe = take(KVD_SEQ_GROW);
	ck_assert(sqe.flags == KVD_GROW_LOOKUP && sqe.page == 2 && sqe.want == 6);
	answer(&sqe, KVD_S_OK, 2, 6);
	ck_assert_uint_eq(kvlink_limit(&link_, 1), 96);
}
END_TEST

START_TEST(refusals_keep_the_numbers)
{
	struct kvd_sqe sqe;

	kvlink_open(&link_, 2, 1, 0, prompt, 100, 140);
	sqe = take(KVD_SEQ_OPEN);
	answer(&sqe, KVD_S_TOO_LARGE, 0, 0);
	ck_assert_int_eq(link_.slots[2].state, KVLINK_REFUSED);
	ck_assert(link_.slots[2].failure == KVD_S_TOO_LARGE && link_.slots[2].need_pages == 9 &&
		  link_.slots[2].have_pages == 5);
	kvlink_close(&link_, 2);                            /* kvd has nothing in the slot */
	ck_assert_int_eq(link_.slots[2].state, KVLINK_EMPTY);
	take_nothing();
	/* refused while it grows: kvd still has the sequence */
	kvlink_open(&link_, 2, 1, KVD_OPEN_PRIVATE, prompt, 100, 140);
	sqe = take(KVD_SEQ_OPEN);
	ck_assert_uint_eq(sqe.flags, KVD_OPEN_PRIVATE);
	answer(&sqe, KVD_S_OK, 0, 0);
	sqe = take(KVD_SEQ_GROW);
	ck_assert(sqe.flags == 0 && sqe.want == 4);         /* a private one looks nothing up */
	answer(&sqe, KVD_S_TOO_LARGE, 0, 0);
	ck_assert_int_eq(link_.slots[2].state, KVLINK_REFUSED);
	kvlink_close(&link_, 2);
	sqe = take(KVD_SEQ_CLOSE);
	answer(&sqe, KVD_S_OK, 0, 0);
	ck_assert_int_eq(link_.slots[2].state, KVLINK_EMPTY);
}
END_TEST

START_TEST(close_at_any_moment)
{
	struct kvd_sqe open, close_;

	kvlink_open(&link_, 3, 1, 0, prompt, 20, 40);
	kvlink_close(&link_, 3);                            /* OPEN never left */
	ck_assert_int_eq(link_.slots[3].state, KVLINK_EMPTY);
	take_nothing();
	kvlink_open(&link_, 3, 1, 0, prompt, 20, 40);
	open = take(KVD_SEQ_OPEN);
	kvlink_close(&link_, 3);
	close_ = take(KVD_SEQ_CLOSE);
	answer(&open, KVD_S_CANCELLED, 0, 0);
	ck_assert_int_eq(link_.slots[3].state, KVLINK_CLOSING);
	answer(&close_, KVD_S_OK, 0, 0);
	ck_assert_int_eq(link_.slots[3].state, KVLINK_EMPTY);
	preempt(3);                                         /* of the life before */
	ck_assert_int_eq(link_.slots[3].state, KVLINK_EMPTY);
	/* kvd refused the OPEN before it saw the CLOSE */
	kvlink_open(&link_, 3, 1, 0, prompt, 20, 40);
	open = take(KVD_SEQ_OPEN);
	kvlink_close(&link_, 3);
	close_ = take(KVD_SEQ_CLOSE);
	answer(&open, KVD_S_TOO_LARGE, 0, 0);
	answer(&close_, KVD_S_STALE, 0, 0);
	ck_assert_int_eq(link_.slots[3].state, KVLINK_EMPTY);
}
END_TEST

START_TEST(a_full_ring_only_delays)
{
	struct kvd_sqe sqe;

	open_with_four_cached();
	kvlink_computed(&link_, 1, 96);
	for (int i = 0; i < RING; i++)
		ck_assert_int_eq(
			kvd_engine_submit(&engine, &(struct kvd_sqe){ .verb = KVD_SEQ_PARK }), 0);
	ck_assert_int_eq(kvlink_pump(&link_), 0);
	ck_assert_uint_eq(link_.slots[1].n_sealed, 4);
	comp.sq_head += RING;
	sqe = take(KVD_SEQ_SEAL);
	ck_assert(sqe.page == 4 && sqe.count == 2);
}
END_TEST

START_TEST(a_lost_event_ends_the_wait)
{
	struct kvd_sqe sqe;

	open_with_four_cached();
	kvlink_computed(&link_, 1, 100);
	sqe = take(KVD_SEQ_SEAL);
	for (uint32_t n = 100; n < 105; n++) {
		kvlink_append(&link_, 1, 7);
		kvlink_computed(&link_, 1, n + 1);
	}
	sqe = take(KVD_SEQ_GROW);
	answer(&sqe, KVD_S_STALE, 0, 0);
	ck_assert_int_eq(link_.slots[1].state, KVLINK_RUNNING);
	/* not while its sender is dead, nor before the next one had the same time */
	link_.patient = true;
	kvlink_collect(&link_, 60000000);
	ck_assert_int_eq(link_.slots[1].state, KVLINK_RUNNING);
	kvlink_adopted(&link_, 60000000);
	kvlink_collect(&link_, 69000000);
	ck_assert_int_eq(link_.slots[1].state, KVLINK_RUNNING);
	kvlink_collect(&link_, 71000000);
	ck_assert_int_eq(link_.slots[1].state, KVLINK_REFUSED);
	ck_assert_uint_eq(link_.slots[1].failure, KVD_S_INTERNAL);
}
END_TEST

/* kvd dies with one sequence in every state; what lives is opened again with all its tokens. */
START_TEST(a_lost_kvd_takes_the_pages_only)
{
	struct kvd_sqe sqe, late;

	kvlink_open(&link_, 0, 70, 0, prompt, 50, 60);                  /* OPENING */
	(void)take(KVD_SEQ_OPEN);
	open_with_four_cached();                                        /* RUNNING */
	kvlink_computed(&link_, 1, 100);
	(void)take(KVD_SEQ_SEAL);
	kvlink_append(&link_, 1, 7);
	kvlink_open(&link_, 2, 78, 0, prompt, 20, 40);                  /* CLOSING */
	late = take(KVD_SEQ_OPEN);
	kvlink_close(&link_, 2);
	(void)take(KVD_SEQ_CLOSE);
	kvlink_open(&link_, 3, 79, 0, prompt, 20, 40);                  /* REFUSED */
	sqe = take(KVD_SEQ_OPEN);
	answer(&sqe, KVD_S_TOO_LARGE, 0, 0);

	kvlink_lost(&link_);
	ck_assert_int_eq(link_.slots[0].state, KVLINK_LOST);
	ck_assert_int_eq(link_.slots[1].state, KVLINK_LOST);
	ck_assert_int_eq(link_.slots[2].state, KVLINK_EMPTY);
	ck_assert_int_eq(link_.slots[3].state, KVLINK_REFUSED);
	ck_assert_uint_eq(link_.slots[3].failure, KVD_S_TOO_LARGE);
	take_nothing();
	ck_assert_uint_eq(kvlink_limit(&link_, 1), 0);
	answer(&late, KVD_S_OK, 1, 2);                                  /* of the life before */
	ck_assert_int_eq(link_.slots[2].state, KVLINK_EMPTY);
	/* A client that does not come back: nothing has to be closed. */
	kvlink_close(&link_, 0);
	kvlink_close(&link_, 3);
	ck_assert_int_eq(link_.slots[0].state, KVLINK_EMPTY);
	ck_assert_int_eq(link_.slots[3].state, KVLINK_EMPTY);
	/* The next kvd: another segment, another handle. */
	memset(tokens, 0, sizeof(tokens));
	int32_t known[101];
	memcpy(known, prompt, 400);
	known[100] = 7;
	kvlink_reopen(&link_, 1, 90, known);
	sqe = take(KVD_SEQ_OPEN);
	ck_assert(sqe.slot == 1 && sqe.tenant == 90 && sqe.n_tokens == 101);
	ck_assert_mem_eq(kvd_engine_tokens(&engine, 1), known, sizeof(known));
	answer(&sqe, KVD_S_OK, 0, 7);
	ck_assert_uint_eq(link_.slots[1].n_computed, 0);
	ck_assert_uint_eq(link_.slots[1].n_cached, 64);     /* what the client was told stays true */
	sqe = take(KVD_SEQ_GROW);
	ck_assert(sqe.flags == KVD_GROW_LOOKUP && sqe.page == 0);
	answer(&sqe, KVD_S_OK, 2, 7);                       /* another stream was faster */
	ck_assert_uint_eq(link_.slots[1].n_computed, 32);
	ck_assert_uint_eq(link_.slots[1].n_cached, 64);
}
END_TEST

START_TEST(tables_with_holes_are_noticed)
{
	uint32_t copy[PAGES];

	for (uint32_t i = 0; i < 5; i++)
		tables[PAGES + i] = KVD_ENTRY(i * 3, KVD_FORMAT_BF16);
	ck_assert(kvlink_copy_table(&link_, 1, 5, copy));
	ck_assert_mem_eq(copy, tables + PAGES, 20);
	ck_assert(!kvlink_copy_table(&link_, 1, 6, copy));
	tables[PAGES] = 0;
	ck_assert(!kvlink_copy_table(&link_, 1, 5, copy));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("kvlink");
	TCase *c = tcase_create("kvlink");

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, prefill_seal_decode_close);
	tcase_add_test(c, lookup_goes_on_while_it_brings_pages);
	tcase_add_test(c, preemption_resumes_with_all_tokens);
	tcase_add_test(c, refusals_keep_the_numbers);
	tcase_add_test(c, close_at_any_moment);
	tcase_add_test(c, a_full_ring_only_delays);
	tcase_add_test(c, a_lost_event_ends_the_wait);
	tcase_add_test(c, a_lost_kvd_takes_the_pages_only);
	tcase_add_test(c, tables_with_holes_are_noticed);
	suite_add_tcase(suite, c);
	return suite_result(suite);
}
