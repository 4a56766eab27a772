/* test_core_memory.c - memory follows load: quarantine, restart, small pools, many tenants. */
#include <stdio.h>
#include "tests/lib/core_case.h"
#include "kvd/core/book.h"

/* A shell in few lines, for one engine with more slots than the world's have: answers every action
 * at once and counts completions by verb. */
struct crowd { struct core_event queue[8192]; uint32_t n, opened, grown, attached;
	uint64_t begun;                /* step that engine 0 is in, for stamps */ };

static void crowd_answer(struct crowd *k, const struct core_action *a)
{
	struct core_event *r = &k->queue[k->n];
	ck_assert_uint_lt(k->n, 8191);
	memset(r, 0, sizeof(*r));
	switch (a->type) {
	case CORE_ACT_MAP:
		r->type = CORE_EV_SUBMIT;
		r->engine = a->engine;
		r->submit.sqe = (struct kvd_sqe){ .verb = KVD_EXTENT_ACK,
						  .other = a->map.extent,
						  .count = 1 };
		k->n++;
		break;
	case CORE_ACT_ATTACHED:
		k->attached = a->attached.status == KVD_S_OK ? a->engine : CORE_NONE;
		break;
	case CORE_ACT_STAMP:
		r->type = CORE_EV_STAMP;
		r->epoch.begun[0] = k->begun;
		k->n++;
		break;
	case CORE_ACT_MOVE:
		r->type = CORE_EV_MOVED;
		r->moved.job = a->move.job;
		r->moved.ok = true;
		k->n++;
		break;
	case CORE_ACT_COMPLETE:
		ck_assert_uint_eq(a->cqe.status, KVD_S_OK);
		k->opened += a->cqe.verb == KVD_SEQ_OPEN;
		k->grown += a->cqe.verb == KVD_SEQ_GROW && a->cqe.pages == 13;
		break;
	default:
		break;
	}
}

static void crowd_run(struct world *w, struct crowd *k, const struct core_event *ev)
{
	struct core_action a;
	k->queue[0] = *ev;
	k->n = 1;
	for (uint32_t at = 0; at < k->n; at++) {
		core_step(w->core, &k->queue[at], w->now);
		while (core_next_action(w->core, &a))
			crowd_answer(k, &a);
	}
}

START_TEST(dead_engine_frames_wait_for_quiet)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e0 = attach(w, "e0"), e1 = attach(w, "e1");
	run_prompt(w, e0, 0, 0, tokens, 100, 0);
	world_step_begin(w, e0);
	world_hangup(w, e0);
	struct kvd_row_status st = status_of(w);
	ck_assert_uint_eq(st.frames[KVD_FRAME_QUARANTINED], 1);
	ck_assert_uint_eq(st.frames[KVD_FRAME_COOL], 6);
	world_settle(w, true);
	ck_assert_uint_eq(status_of(w).frames[KVD_FRAME_QUARANTINED], 1);
	/* its sealed pages live on: the other engine finds them, through the mover */
	ck_assert_uint_eq(run_one(w, e1, 0, 0, tokens, 100), 6);
	ck_assert_uint_eq(status_of(w).promotions, 6);
	world_quiet(w, e0);
	world_settle(w, true);
	st = status_of(w);
	ck_assert_uint_eq(st.frames[KVD_FRAME_QUARANTINED] + st.frames[KVD_FRAME_RETIRING], 0);
	ck_assert_uint_eq(st.frames[KVD_FRAME_COOL], 6);
	world_free(w);
}
END_TEST

START_TEST(restarted_engine_takes_over_the_colour)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	for (uint32_t life = 0; life < 200; life++) {
		uint32_t e = attach(w, "e0");
		ck_assert_uint_eq(e, 0);
		ck_assert_uint_eq(run_one(w, e, 0, 0, tokens, 100), life ? 6 : 0);
		run_prompt(w, e, 1, 0, tokens, 90, 0);
		world_hangup(w, e);
		world_quiet(w, e);
	}
	world_settle(w, true);
	ck_assert_uint_eq(status_of(w).promotions, 0);
	ck_assert_uint_eq(status_of(w).frames[KVD_FRAME_COOL], 6);
	world_free(w);
}
END_TEST

/* Dead colours of other models, full of cached pages, cannot use up the engine numbers for ever. */
START_TEST(dead_colours_give_way)
{
	static struct crowd k;
	uint32_t refused = 0;
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(80 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	w->fsck_every = 16;
	while (world_populate(w))
		;
	for (uint32_t model = 0; model < 200; model++) {
		struct core_event ev = { .type = CORE_EV_ATTACH, .engine = CORE_NONE };
		snprintf(ev.attach.name, sizeof(ev.attach.name), "m%u", model);
		ev.attach.fingerprint[1] = (uint8_t)model;
		ev.attach.kv_format = 1;
		ev.attach.n_planes = PLANES;
		ev.attach.block_bytes = BLOCK;
		ev.attach.max_seqs = 2;
		ev.attach.max_pages = 8;
		crowd_run(w, &k, &ev);
		if (k.attached == CORE_NONE) {
			refused++;
			continue;
		}
		struct core_event s = { .type = CORE_EV_SUBMIT, .engine = k.attached };
		s.submit.tokens = tokens;
		s.submit.n_tokens = 40;
		s.submit.sqe = (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .n_tokens = 40 };
		crowd_run(w, &k, &s);
		s.submit.sqe = (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .want = 3 };
		crowd_run(w, &k, &s);
		s.submit.sqe = (struct kvd_sqe){ .verb = KVD_SEQ_SEAL, .count = 2 };
		s.submit.n_tokens = 32;
		crowd_run(w, &k, &s);
		crowd_run(w, &k,
			  &(struct core_event){ .type = CORE_EV_QUIET, .engine = k.attached });
		world_fsck(w);
	}
	/* 63 numbers: from then on each attach costs one refusal, and the next one succeeds */
	ck_assert_uint_gt(refused, 30);
	ck_assert_uint_le(refused, 100);
	ck_assert_uint_gt(status_of(w).evicted_pages, 60);
	world_free(w);
}
END_TEST

/* One step that lasts while more frames retire, one by one, than there are batches: all wait for
 * it, none is lost, and none is free before its time. */
START_TEST(a_long_step_delays_everything_and_loses_nothing)
{
	static struct crowd k;
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(40 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	while (world_populate(w))
		;
	struct core_event ev = { .type = CORE_EV_ATTACH, .engine = CORE_NONE };
	strcpy(ev.attach.name, "e0");
	ev.attach.kv_format = 1;
	ev.attach.n_planes = PLANES;
	ev.attach.block_bytes = BLOCK;
	ev.attach.max_seqs = 300;
	ev.attach.max_pages = 8;
	crowd_run(w, &k, &ev);
	k.begun = 1;
	for (uint32_t i = 0; i < 300; i++) {
		struct core_event s = { .type = CORE_EV_SUBMIT };
		s.submit.tokens = tokens;
		s.submit.n_tokens = 5;
		s.submit.sqe = (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = i, .n_tokens = 5 };
		crowd_run(w, &k, &s);
		s.submit.sqe = (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = i, .want = 1 };
		crowd_run(w, &k, &s);
	}
	for (uint32_t i = 0; i < 300; i++) {
		struct core_event s = { .type = CORE_EV_SUBMIT };
		s.submit.sqe = (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = i };
		crowd_run(w, &k, &s);
	}
	world_fsck(w);
	ck_assert_uint_eq(status_of(w).frames[KVD_FRAME_RETIRING], 300);
	struct core_event done = { .type = CORE_EV_DONE };
	crowd_run(w, &k, &done);
	ck_assert_uint_eq(status_of(w).frames[KVD_FRAME_RETIRING], 300);
	ck_assert(core_waits_for_steps(w->core));
	done.epoch.done[0] = 1;
	for (uint32_t i = 0; i < 3; i++)
		crowd_run(w, &k, &done);
	world_fsck(w);
	ck_assert_uint_eq(status_of(w).frames[KVD_FRAME_RETIRING], 0);
	ck_assert(!core_waits_for_steps(w->core));
	world_free(w);
}
END_TEST

START_TEST(eight_sequences_in_a_pool_for_three)
{
	struct world *w = world_new(3 * EXTENT, EXTENT, 3);  /* 48 pages */
	world_tenant(w, "a", "", CORE_MERGE, 0);
	world_tenant(w, "b", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	for (uint32_t i = 0; i < 8; i++) {
		int32_t tokens[WORLD_TOKENS];
		tokens_fill(tokens, (int32_t)i + 1);
		world_open(w, e, i, i % 2, tokens, 32, 15 * 16, 0); /* each grows to 15 pages */
	}
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, 8);
	struct kvd_row_status st = status_of(w);
	ck_assert_uint_gt(st.preemptions, 0);
	ck_assert_uint_eq(st.frames[KVD_FRAME_OPEN] + st.frames[KVD_FRAME_SEALED], 0);
	printf("eight in a pool for three: %llu preemptions\n", (unsigned long long)st.preemptions);
	world_free(w);
}
END_TEST

/* The same with two engines: extents must move between them. */
START_TEST(two_engines_in_a_pool_for_one)
{
	struct world *w = world_new(2 * EXTENT, EXTENT, 3);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	world_tenant(w, "b", "", CORE_REUSE, 0);
	uint32_t e[2] = { attach(w, "e0"), attach(w, "e1") };
	for (uint32_t i = 0; i < 8; i++) {
		int32_t tokens[WORLD_TOKENS];
		tokens_fill(tokens, (int32_t)(i / 2) + 1);
		world_open(w, e[i % 2], i, i / 4, tokens, 16 + 32 * (i % 3), 25 * 16, 0);
	}
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, 8);
	world_free(w);
}
END_TEST

START_TEST(growth_never_preempts_the_oldest)
{
	struct world *w = world_new(2 * EXTENT, EXTENT, 3);  /* 32 pages */
	int32_t tokens[WORLD_TOKENS];
	world_tenant(w, "big", "", CORE_MERGE, 0);
	world_tenant(w, "small", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	tokens_fill(tokens, 1);
	run_prompt(w, e, 0, 0, tokens, 200, 0);             /* the oldest, of the largest tenant */
	tokens_fill(tokens, 2);
	run_prompt(w, e, 1, 0, tokens, 100, 0);             /* the youngest of the largest tenant */
	tokens_fill(tokens, 3);
	run_prompt(w, e, 2, 1, tokens, 80, 0);
	ck_assert_uint_eq(
		submit(w, e,
		       (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 2, .want = 14, .page = 5 })
			.status,
		0xffff);
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_PREEMPTED);
	ck_assert_uint_eq(world_slot(w, e, 1)->table[0], 0);
	ck_assert_uint_ne(world_slot(w, e, 0)->table[0], 0);
	ck_assert_uint_ne(world_slot(w, e, 2)->table[13], 0);
	/* now only the oldest is larger: the grower itself gives way */
	struct kvd_cqe c = submit(
		w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 2, .want = 25, .page = 5 });
	ck_assert_uint_eq(c.status, KVD_S_PREEMPTED);
	ck_assert_uint_ne(world_slot(w, e, 0)->table[0], 0);
	world_free(w);
}
END_TEST

/* The oldest is alone, and the shared extent that it reads from is in its way: it goes on without.
 *  */
START_TEST(shared_pages_do_not_stop_the_last_one)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(2 * EXTENT, EXTENT, 3);  /* 32 pages */
	world_tenant(w, "a", "", CORE_MERGE, 0);
	world_tenant(w, "b", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	tokens_fill(tokens, 1);
	run_prompt(w, e, 0, 0, tokens, 80, 0);
	run_prompt(w, e, 1, 1, tokens, 80, 0);
	world_settle(w, false);
	ck_assert_uint_eq(status_of(w).merges, 5);
	ck_assert_uint_eq(submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = 1 }).status,
			  KVD_S_OK);
	memset(world_slot(w, e, 1), 0, sizeof(struct world_slot));
	world_slot(w, e, 0)->hold = false;
	world_slot(w, e, 0)->n_target = 30 * 16;             /* 5 shared + 16 own are not enough */
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, 1);
	ck_assert_uint_eq(status_of(w).preemptions, 1);
	world_free(w);
}
END_TEST

/* A pool of claims that is full of old ones makes room for a new one. */
START_TEST(full_claims_forget_the_oldest)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(4 * EXTENT, EXTENT, 3);
	tokens_fill(tokens, 1);
	for (uint32_t i = 0; i < 20; i++) {
		char name[16];
		snprintf(name, sizeof(name), "t%u", i);
		world_tenant(w, name, "", CORE_MERGE, 0);
	}
	uint32_t e = attach(w, "e0");
	run_one(w, e, 0, 0, tokens, 100);
	ck_assert_uint_eq(w->core->claims.count, 6);
	/* as if the pool were as small as that */
	*(uint32_t *)(uintptr_t)&w->core->claims.max = w->core->claims.high;
	for (uint32_t i = 1; i < 20; i++) {
		ck_assert_uint_eq(run_one(w, e, 0, i, tokens, 100), 0);
		ck_assert_uint_le(w->core->claims.count, 6);
	}
	world_free(w);
}
END_TEST

/* Nobody overtakes the oldest that waits, however small its own wish. */
START_TEST(queue_is_strict)
{
	struct world *w = world_new(2 * EXTENT, EXTENT, 3);
	int32_t tokens[WORLD_TOKENS];
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	tokens_fill(tokens, 1);
	run_prompt(w, e, 0, 0, tokens, 300, 0);             /* 19 + 1 of 32 pages */
	tokens_fill(tokens, 2);
	world_open(w, e, 1, 0, tokens, 300, 300, 0);
	tokens_fill(tokens, 3);
	world_open(w, e, 2, 0, tokens, 16, 16, 0);
	world_settle(w, false);
	ck_assert_uint_eq(world_slot(w, e, 1)->state, SLOT_WAITING);
	ck_assert_uint_eq(world_slot(w, e, 2)->state, SLOT_WAITING);
	ck_assert_uint_eq(submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = 0 }).status,
			  KVD_S_OK);
	world_slot(w, e, 0)->state = SLOT_IDLE;
	world_slot(w, e, 1)->verb = world_slot(w, e, 2)->verb =
		0; /* submit() swallowed the answers */
	ck_assert_uint_eq(status_of(w).preemptions, 0);
	struct kvd_row_sequence rows[4];
	uint32_t cursor = 0;
	ck_assert_uint_eq(core_read_sequences(w->core, CORE_NONE, w->now, &cursor, rows, 4), 2);
	ck_assert_uint_eq(rows[0].state, 2);                /* running, both: 19 + 1 and 1 + 1 */
	ck_assert_uint_eq(rows[1].state, 2);
	world_free(w);
}
END_TEST

/* 1,000 tenants with one 200-token sequence each fit: SmolLM2's geometry, 4 MiB extents. */
START_TEST(a_thousand_small_tenants)
{
	enum { MIB = 1 << 20, N = 1000, SMOL_PLANES = 30, SMOL_BLOCK = 12288 };
	static struct crowd k;
	struct world *w = world_new(6144ull * MIB, 4 * MIB, 3);
	int32_t tokens[WORLD_TOKENS];
	w->fsck_every = 0;
	while (world_populate(w))
		;
	for (uint32_t i = 0; i < N; i++) {
		char name[16];
		snprintf(name, sizeof(name), "t%u", i);
		world_tenant(w, name, "", CORE_MERGE, 0);
	}
	struct core_event ev = { .type = CORE_EV_ATTACH, .engine = CORE_NONE };
	strcpy(ev.attach.name, "e0");
	ev.attach.kv_format = 1;
	ev.attach.n_planes = SMOL_PLANES;
	ev.attach.block_bytes = SMOL_BLOCK;
	ev.attach.max_seqs = N;
	ev.attach.max_pages = WORLD_PAGES;
	crowd_run(w, &k, &ev);
	for (uint32_t i = 0; i < 2 * N; i++) {
		struct core_event s = { .type = CORE_EV_SUBMIT, .engine = 0 };
		tokens_fill(tokens, (int32_t)(i % N));
		s.submit.sqe = (struct kvd_sqe){ .verb = i < N ? KVD_SEQ_OPEN : KVD_SEQ_GROW,
						 .slot = i % N,
						 .n_tokens = 200,
						 .want = 13 };
		s.submit.tenant = i % N;
		s.submit.tokens = tokens;
		s.submit.n_tokens = 200;
		crowd_run(w, &k, &s);
	}
	ck_assert_uint_eq(k.opened, N);
	ck_assert_uint_eq(k.grown, N);
	world_fsck(w);
	uint64_t assigned = 0, pages = (uint64_t)N * 13 * SMOL_PLANES * SMOL_BLOCK;
	struct kvd_row_extent row;
	for (uint32_t cursor = 0; core_read_extents(w->core, &cursor, &row, 1);)
		assigned += row.state == KVD_EXTENT_ASSIGNED ? 4 * MIB : 0;
	printf("a thousand tenants: %llu extent bytes for %llu page bytes, ratio %.3f\n",
	       (unsigned long long)assigned, (unsigned long long)pages,
	       (double)assigned / (double)pages);
	ck_assert(assigned * 4 <= pages * 5);
	world_free(w);
}
END_TEST

/* A 256 MiB pool serves four tenants on two engines: SmolLM2's geometry, no starving on colours. */
START_TEST(small_pool_four_tenants_two_engines)
{
	enum { MIB = 1 << 20 };
	struct world *w = world_new(256ull * MIB, 4 * MIB, 5);      /* 64 extents of 11 pages */
	uint32_t e[2];
	w->fsck_every = 16;
	for (uint32_t i = 0; i < 4; i++)
		world_tenant(w, (const char *[]){ "a", "b", "c", "d" }[i], "", CORE_MERGE, 0);
	for (uint32_t i = 0; i < 2; i++) {
		e[i] = world_attach(w, i ? "e1" : "e0", 1, 30, 12288, WORLD_SLOTS, WORLD_PAGES);
		ck_assert_uint_ne(e[i], CORE_NONE);
	}
	for (uint32_t round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < 32; i++) {
			int32_t tokens[WORLD_TOKENS];
			tokens_fill(tokens, 1); /* a common prefix of 20 pages, then its own */
			for (uint32_t k = 320; k < WORLD_TOKENS; k++)
				tokens[k] = (int32_t)(round * 1000000 + i * 1000 + k);
			world_open(w, e[i % 2], i / 2, i % 4, tokens, 400, 500, 0);
		}
		world_settle(w, true);
		ck_assert_uint_eq(w->finished, 32 * (round + 1));
	}
	struct kvd_row_status st = status_of(w);
	ck_assert_uint_gt(st.merges, 0);
	printf("256 MiB, four tenants, two engines: %llu preemptions, %llu merges, %llu "
	       "promotions, peak ratio %.2f\n",
	       (unsigned long long)st.preemptions, (unsigned long long)st.merges,
	       (unsigned long long)st.promotions,
	       (double)st.peak_logical_bytes / (double)st.peak_physical_bytes);
	world_free(w);
}
END_TEST

/* 24 requests over one long prefix on two engines, one reuse domain: stored once, computed once. */
START_TEST(one_prefix_for_all)
{
	enum { MIB = 1 << 20 };
	struct world *w = world_new(512ull * MIB, 4 * MIB, 5);
	uint32_t e[2];
	w->fsck_every = 16;
	world_tenant(w, "a", "team", CORE_REUSE, 0);
	world_tenant(w, "b", "team", CORE_REUSE, 0);
	world_tenant(w, "c", "team", CORE_REUSE, 0);
	for (uint32_t i = 0; i < 2; i++)
		e[i] = world_attach(w, i ? "e1" : "e0", 1, 30, 12288, WORLD_SLOTS, WORLD_PAGES);
	for (uint32_t i = 0; i < 24; i++) {
		int32_t tokens[WORLD_TOKENS];
		tokens_fill(tokens, 1);
		for (uint32_t k = 400; k < WORLD_TOKENS; k++)
			tokens[k] = (int32_t)(i * 1000 + k);
		world_open(w, e[i % 2], i / 2, i % 3, tokens, 440, 490, 0);
	}
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, 24);
	struct kvd_row_status st = status_of(w);
	double ratio = (double)st.peak_logical_bytes / (double)st.peak_physical_bytes;
	printf("one prefix for 24: peak ratio %.2f, %llu promotions, %llu waits\n", ratio,
	       (unsigned long long)st.promotions, (unsigned long long)st.single_flight_waits);
	ck_assert(ratio >= 4);
	world_free(w);
}
END_TEST

START_TEST(empty_extents_go_back)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	for (uint32_t i = 0; i < 4; i++)
		world_open(w, e, i, 0, tokens, 400, 450, KVD_OPEN_PRIVATE);
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, 4);
	/* one spare is kept for the engine */
	ck_assert_uint_eq(status_of(w).unassigned_bytes, 7 * EXTENT);
	world_hangup(w, e);
	world_quiet(w, e);
	world_settle(w, true);
	ck_assert_uint_eq(status_of(w).unassigned_bytes, 8 * EXTENT);
	world_free(w);
}
END_TEST

int main(void)
{
	static const TTest *const *tests[] = {
		&dead_engine_frames_wait_for_quiet,
		&restarted_engine_takes_over_the_colour,
		&dead_colours_give_way,
		&a_long_step_delays_everything_and_loses_nothing,
		&eight_sequences_in_a_pool_for_three,
		&two_engines_in_a_pool_for_one,
		&growth_never_preempts_the_oldest,
		&shared_pages_do_not_stop_the_last_one,
		&full_claims_forget_the_oldest,
		&queue_is_strict,
		&a_thousand_small_tenants,
		&small_pool_four_tenants_two_engines,
		&one_prefix_for_all,
		&empty_extents_go_back,
	};
	const TTest *list[sizeof(tests) / sizeof(tests[0])];
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
		list[i] = *tests[i];
	return run_suite("core_memory", list, sizeof(list) / sizeof(list[0]));
}
