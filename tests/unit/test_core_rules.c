/* test_core_rules.c - verbs of a sequence, refusals with their numbers, tenants, hostile words. */
#include "tests/lib/core_case.h"
#include "kvd/core/parts.h"

START_TEST(one_sequence_is_found_again)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	ck_assert_uint_eq(run_one(w, e, 0, 0, tokens, 100), 0);
	struct kvd_row_status st = status_of(w);
	ck_assert_uint_eq(st.frames[KVD_FRAME_COOL], 6);
	ck_assert_uint_eq(st.frames[KVD_FRAME_OPEN] + st.frames[KVD_FRAME_SEALED] +
				  st.frames[KVD_FRAME_RETIRING],
			  0);
	ck_assert_uint_eq(run_one(w, e, 1, 0, tokens, 100), 6);
	/* never the page that holds the last known token */
	ck_assert_uint_eq(run_one(w, e, 1, 0, tokens, 96), 5);
	ck_assert_uint_eq(run_one(w, e, 1, 0, tokens, 97), 6);
	world_free(w);
}
END_TEST

START_TEST(other_tokens_are_another_page)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	run_one(w, e, 0, 0, tokens, 100);
	tokens[40]++;
	ck_assert_uint_eq(run_one(w, e, 0, 0, tokens, 100), 2);
	tokens[0]++;
	ck_assert_uint_eq(run_one(w, e, 0, 0, tokens, 100), 0);
	world_free(w);
}
END_TEST

START_TEST(private_sequence_leaves_nothing)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	world_open(w, e, 0, 0, tokens, 100, 105, KVD_OPEN_PRIVATE);
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, 1);
	ck_assert_uint_eq(status_of(w).physical_bytes, 0);
	ck_assert_uint_eq(run_one(w, e, 0, 0, tokens, 100), 0);
	ck_assert_uint_eq(run_one(w, e, 0, 0, tokens, 100), 6);
	world_open(w, e, 0, 0, tokens, 100, 105, KVD_OPEN_PRIVATE);
	world_settle(w, true);
	ck_assert_uint_eq(world_slot(w, e, 0)->last_cached, 0);
	world_free(w);
}
END_TEST

START_TEST(fork_shares_sealed_and_copies_the_open_page)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	run_prompt(w, e, 0, 0, tokens, 40, 0);
	struct kvd_cqe c = submit(
		w, e,
		(struct kvd_sqe){ .verb = KVD_SEQ_FORK, .slot = 0, .other = 3, .n_tokens = 40 });
	ck_assert_uint_eq(c.status, 0xffff);          /* late: the mover copies */
	const struct world_slot *a = world_slot(w, e, 0), *b = world_slot(w, e, 3);
	ck_assert_uint_eq(b->table[0], a->table[0]);
	ck_assert_uint_eq(b->table[1], a->table[1]);
	ck_assert_uint_eq(b->table[2], 0);
	ck_assert_uint_eq(w->n_jobs, 1);
	world_mover(w, 0, false);                     /* fails: it is asked again */
	while (w->n_jobs)
		world_mover(w, 0, true);
	ck_assert_uint_ne(b->table[2], 0);
	ck_assert_uint_ne(b->table[2], a->table[2]);
	ck_assert_uint_eq(w->tags[KVD_ENTRY_FRAME(b->table[2])],
			  w->tags[KVD_ENTRY_FRAME(a->table[2])]);
	ck_assert_uint_eq(w->tags[KVD_ENTRY_FRAME(b->table[2])], world_tag(1, tokens, 40));
	/* whole pages only: no copy, answered at once */
	c = submit(w, e,
		   (struct kvd_sqe){ .verb = KVD_SEQ_FORK, .slot = 0, .other = 4, .n_tokens = 32 });
	ck_assert_uint_eq(c.status, KVD_S_OK);
	ck_assert_uint_eq(c.pages, 2);
	world_free(w);
}
END_TEST

START_TEST(fork_outlives_its_source)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	run_prompt(w, e, 0, 0, tokens, 40, 0);
	submit(w, e,
	       (struct kvd_sqe){ .verb = KVD_SEQ_FORK, .slot = 0, .other = 3, .n_tokens = 40 });
	ck_assert_uint_eq(submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = 0 }).status,
			  KVD_S_OK);
	world_done(w);
	world_settle(w, false); /* the source's frame must wait for the copy */
	const struct world_slot *b = world_slot(w, e, 3);
	ck_assert_uint_eq(w->tags[KVD_ENTRY_FRAME(b->table[2])], world_tag(1, tokens, 40));
	world_free(w);
}
END_TEST

START_TEST(truncate_replaces_a_sealed_page_by_an_open_copy)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	run_prompt(w, e, 0, 0, tokens, 64, 0);
	const struct world_slot *a = world_slot(w, e, 0);
	uint32_t second = a->table[1], third = a->table[2];
	ck_assert_uint_eq(
		submit(w, e,
		       (struct kvd_sqe){ .verb = KVD_SEQ_TRUNCATE, .slot = 0, .n_tokens = 20 })
			.status,
		0xffff);
	ck_assert_uint_eq(a->table[2], 0);
	world_settle(w, false);
	ck_assert_uint_ne(a->table[1], second);
	ck_assert_uint_eq(w->tags[KVD_ENTRY_FRAME(a->table[1])], w->tags[KVD_ENTRY_FRAME(second)]);
	ck_assert_uint_ne(w->tags[KVD_ENTRY_FRAME(third)], 0); /* still cached */
	/* at a page's edge nothing is copied */
	ck_assert_uint_eq(
		submit(w, e,
		       (struct kvd_sqe){ .verb = KVD_SEQ_TRUNCATE, .slot = 0, .n_tokens = 16 })
			.status,
		KVD_S_OK);
	ck_assert_uint_eq(a->table[1], 0);
	ck_assert_uint_eq(
		submit(w, e,
		       (struct kvd_sqe){ .verb = KVD_SEQ_TRUNCATE, .slot = 0, .n_tokens = 17 })
			.status,
		KVD_S_STALE);
	world_free(w);
}
END_TEST

START_TEST(park_and_resume_find_the_pages_again)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	run_prompt(w, e, 0, 0, tokens, 100, 0);
	ck_assert_uint_eq(submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_PARK, .slot = 0 }).status,
			  KVD_S_OK);
	ck_assert_uint_eq(world_slot(w, e, 0)->table[0], 0);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 0, .want = 1 }).status,
		KVD_S_STALE);
	struct kvd_cqe c = submit(
		w, e, (struct kvd_sqe){ .verb = KVD_SEQ_RESUME, .slot = 0, .n_tokens = 100 });
	ck_assert_uint_eq(c.status, KVD_S_OK);
	ck_assert_uint_eq(c.cached, 6);
	world_free(w);
}
END_TEST

START_TEST(late_answers_are_cancelled_by_close)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(EXTENT, EXTENT, 1);     /* 16 pages */
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	run_prompt(w, e, 0, 0, tokens, 200, 0);             /* 13 + 1 pages */
	memcpy(world_slot(w, e, 1)->tokens, tokens, sizeof(tokens));
	world_slot(w, e, 1)->tokens[0] = 7;
	struct kvd_cqe c =
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 1, .n_tokens = 100 });
	ck_assert_uint_eq(c.status, 0xffff);                /* queued */
	world_submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = 1, .user_data = 9 });
	struct world_engine *en = &w->engine[e];
	ck_assert_uint_eq(en->tail - en->head, 2);
	ck_assert_uint_eq(en->queue[en->head % WORLD_QUEUE].verb, KVD_SEQ_OPEN);
	ck_assert_uint_eq(en->queue[en->head % WORLD_QUEUE].status, KVD_S_CANCELLED);
	ck_assert_uint_eq(en->queue[(en->head + 1) % WORLD_QUEUE].verb, KVD_SEQ_CLOSE);
	ck_assert_uint_eq(en->queue[(en->head + 1) % WORLD_QUEUE].status, KVD_S_OK);
	world_free(w);
}
END_TEST

START_TEST(what_can_never_fit_is_refused_with_numbers)
{
	struct world *w = world_new(EXTENT, EXTENT, 1);     /* 16 pages */
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	struct kvd_cqe c =
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .n_tokens = 16 * 16 });
	ck_assert_uint_eq(c.status, KVD_S_TOO_LARGE);
	ck_assert_uint_eq(c.need_pages, 17);
	ck_assert_uint_eq(c.have_pages, 16);
	c = submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .n_tokens = WORLD_TOKENS + 1 });
	ck_assert_uint_eq(c.status, KVD_S_CONTEXT);
	ck_assert_uint_eq(c.have_pages, WORLD_PAGES);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .n_tokens = 0 }).status,
		KVD_S_BAD_REQUEST);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .n_tokens = 5, .tenant = 1 })
			.status,
		KVD_S_REFUSED);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .n_tokens = 15 * 16 }).status,
		KVD_S_OK);
	c = submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .want = 17 });
	ck_assert_uint_eq(c.status, KVD_S_TOO_LARGE);
	ck_assert_uint_eq(c.have_pages, 16);
	world_free(w);
}
END_TEST

START_TEST(tenant_max_counts_held_pages_and_drops_own_cold_ones)
{
	int32_t tokens[WORLD_TOKENS];
	struct kvd_row_tenant row;
	uint32_t cursor = 0;
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 10 * PAGE);
	uint32_t e = attach(w, "e0");
	run_one(w, e, 0, 0, tokens, 100);                   /* 7 + 1 pages; 6 stay, cold */
	tokens_fill(tokens, 2);
	run_one(w, e, 0, 0, tokens, 100);
	ck_assert_uint_eq(core_read_tenants(w->core, 0, &cursor, &row, 1), 1);
	ck_assert_uint_le(row.rss_bytes, 10 * PAGE);
	ck_assert_uint_ge(row.evicted_pages, 4);
	run_prompt(w, e, 0, 0, tokens, 100, 0);
	tokens_fill(tokens, 3);
	memcpy(world_slot(w, e, 1)->tokens, tokens, sizeof(tokens));
	struct kvd_cqe c =
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 1, .n_tokens = 60 });
	ck_assert_uint_eq(c.status, KVD_S_TENANT_MAX);
	ck_assert_uint_eq(c.need_pages, 5);
	ck_assert_uint_eq(c.have_pages, 2);
	c = submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 1, .n_tokens = 200 });
	ck_assert_uint_eq(c.status, KVD_S_TENANT_MAX);
	ck_assert_uint_eq(c.have_pages, 10);
	world_free(w);
}
END_TEST

START_TEST(attach_refusals_name_the_numbers)
{
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	ck_assert_uint_eq(world_attach(w, "big", 1, 9, 4096, 4, 8),
			  CORE_NONE); /* 36 KiB a page: 7 fit */
	ck_assert_uint_eq(w->attached.attached.status, KVD_S_GEOMETRY);
	ck_assert_uint_eq(w->attached.attached.need, 8 * 9 * 4096);
	ck_assert_uint_eq(w->attached.attached.have, EXTENT);
	ck_assert_uint_eq(world_attach(w, "little", 1, 1, 4096, 4, 8), CORE_NONE);
	ck_assert_uint_eq(w->attached.attached.status, KVD_S_GEOMETRY);
	ck_assert_uint_eq(w->attached.attached.need, 8192);
	ck_assert_uint_eq(world_attach(w, "huge", 1, 0xffffffffu, 0xffffffffu, 4, 8), CORE_NONE);
	ck_assert_uint_eq(w->attached.attached.status, KVD_S_GEOMETRY);
	ck_assert_uint_eq(world_attach(w, "wide", 1, 4, 4096, 4096, 32), CORE_NONE);
	ck_assert_uint_eq(w->attached.attached.status, KVD_S_LIMIT);
	ck_assert_uint_eq(world_attach(w, "none", 1, 4, 4096, 0, 32), CORE_NONE);
	ck_assert_uint_eq(w->attached.attached.status, KVD_S_BAD_REQUEST);
	ck_assert_uint_ne(world_attach(w, "e0", 1, 4, 4096, 4, 8), CORE_NONE);
	ck_assert_uint_eq(w->attached.attached.n_frames, 16);
	ck_assert_uint_eq(w->attached.attached.plane_bytes, 16 * 4096);
	ck_assert_uint_eq(world_attach(w, "e0", 1, 4, 4096, 4, 8), CORE_NONE);
	ck_assert_uint_eq(w->attached.attached.status, KVD_S_NAME_TAKEN);
	world_free(w);
}
END_TEST

START_TEST(hostile_words_get_an_answer)
{
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	for (uint32_t verb = 0; verb < 20; verb++) {
		ck_assert_uint_eq(submit(w, e,
					 (struct kvd_sqe){ .verb = (uint16_t)verb,
							   .slot = 1u << 31,
							   .other = ~0u })
					  .status,
				  KVD_S_PROTOCOL);
		if (verb == 0 || verb > KVD_SEQ_RESUME)
			ck_assert_uint_eq(
				submit(w, e,
				       (struct kvd_sqe){ .verb = (uint16_t)verb, .other = ~0u })
					.status,
				KVD_S_PROTOCOL);
		else if (verb != KVD_SEQ_OPEN)
			ck_assert_uint_eq(submit(w, e,
						 (struct kvd_sqe){ .verb = (uint16_t)verb,
								   .other = 1,
								   .n_tokens = ~0u,
								   .page = ~0u,
								   .count = ~0u,
								   .want = ~0u })
						  .status,
					  KVD_S_STALE);
	}
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .n_tokens = 20 }).status,
		KVD_S_OK);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .n_tokens = 20 }).status,
		KVD_S_STALE);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .want = WORLD_PAGES + 1 })
			.status,
		KVD_S_CONTEXT);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_SEAL, .page = 0, .count = 1 })
			.status,
		KVD_S_STALE);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_SEAL, .page = 1, .count = ~0u })
			.status,
		KVD_S_STALE);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_FORK, .other = 0, .n_tokens = 0 })
			.status,
		KVD_S_STALE);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_TRUNCATE, .n_tokens = ~0u }).status,
		KVD_S_STALE);
	world_submit(w, 5, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN }); /* no such engine: ignored */
	world_submit(w, 4000, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = ~0u });
	world_free(w);
}
END_TEST

START_TEST(draining_engine_takes_no_new_sequence)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(8 * EXTENT, EXTENT, 1);
	tokens_fill(tokens, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	run_prompt(w, e, 0, 0, tokens, 40, 0);
	world_step(w, &(struct core_event){ .type = CORE_EV_DRAIN, .engine = e });
	ck_assert_uint_eq(w->engine[e].queue[w->engine[e].head % WORLD_QUEUE].verb, KVD_EV_DRAIN);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 1, .n_tokens = 20 })
			.status,
		KVD_S_DRAINING);
	ck_assert_uint_eq(submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_PARK, .slot = 0 }).status,
			  KVD_S_OK);
	ck_assert_uint_eq(
		submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_RESUME, .slot = 0, .n_tokens = 40 })
			.status,
		KVD_S_OK);
	world_free(w);
}
END_TEST

/* The oracle is CPython's hash of bytes, which is SipHash-1-3:
 * PYTHONHASHSEED=0 python3.11 -c "import struct; print(hex(hash(struct.pack('<2Q',1,2)) &
 * (2**64-1)))" */
START_TEST(siphash_agrees_with_cpython)
{
	uint64_t key[2] = { 0, 0 }, words[9] = { 1, 2, 3, 4, 5, 6, 7, 8, 9 };
	ck_assert_uint_eq(siphash_words(key, words, 1), 0x1e9f734161d62dd9ull);
	ck_assert_uint_eq(siphash_words(key, words, 2), 0xfb058313e6201d48ull);
	ck_assert_uint_eq(siphash_words(key, words, 9), 0x68a4953430fe70ceull);
	key[1] = 1;
	ck_assert_uint_ne(siphash_words(key, words, 9), 0x68a4953430fe70ceull);
}
END_TEST

START_TEST(impossible_configurations_are_refused)
{
	struct core_config g = { .pool_bytes = 1 << 20,
				 .extent_bytes = EXTENT,
				 .page_bytes_min = 8192,
				 .tenants_max = 4,
				 .seqs_max = 16,
				 .holds_max = 64 };
	ck_assert_uint_gt(core_book_bytes(&g), 0);
	struct core_config bad[] = { g, g, g, g, g, g };
	bad[0].pool_bytes = EXTENT - 1;
	bad[1].extent_bytes = 3 << 20;
	bad[2].extent_bytes = 2ull << 30;
	bad[3].page_bytes_min = EXTENT / 4;
	bad[4].seqs_max = 0;
	bad[5].pool_bytes = 1ull << 45;                     /* more frames than an entry can name */
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_uint_eq(core_book_bytes(&bad[i]), 0);
}
END_TEST

int main(void)
{
	static const TTest *const *tests[] = {
		&one_sequence_is_found_again,
		&other_tokens_are_another_page,
		&private_sequence_leaves_nothing,
		&fork_shares_sealed_and_copies_the_open_page,
		&fork_outlives_its_source,
		&truncate_replaces_a_sealed_page_by_an_open_copy,
		&park_and_resume_find_the_pages_again,
		&late_answers_are_cancelled_by_close,
		&what_can_never_fit_is_refused_with_numbers,
		&tenant_max_counts_held_pages_and_drops_own_cold_ones,
		&attach_refusals_name_the_numbers,
		&hostile_words_get_an_answer,
		&draining_engine_takes_no_new_sequence,
		&siphash_agrees_with_cpython,
		&impossible_configurations_are_refused,
	};
	const TTest *list[sizeof(tests) / sizeof(tests[0])];
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
		list[i] = *tests[i];
	return run_suite("core_rules", list, sizeof(list) / sizeof(list[0]));
}
