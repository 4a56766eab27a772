/* test_core_steer.c - pins, publications and evictions in the core: what they keep, give and take, under
 * pressure, over an engine's death, against fsck after every step; and that fsck sees a fault planted in each. */
#include <stdio.h>
#include "tests/lib/core_case.h"
#include "kvd/core/parts.h"

static struct core_action steered;

/* An event of steer.c by hand: its last action says what came of it. */
static uint32_t steer(struct world *w, enum core_event_type type, uint64_t prefix, uint32_t tenant, uint64_t bytes)
{
	struct core_event event = { .type = type, .engine = CORE_NONE };
	event.steer.prefix = prefix;
	event.steer.tenant = tenant;
	event.steer.bytes = bytes;
	memset(&w->steered, 0, sizeof(w->steered));
	world_step(w, &event);
	ck_assert_int_eq(w->steered.type, CORE_ACT_STEERED);
	steered = w->steered;
	world_fsck(w);
	return steered.steered.status;
}

/* The prefix of so many pages that has the most hits or, alike, the lowest number. */
static struct kvd_row_prefix prefix_of(struct world *w, uint32_t pages)
{
	static struct kvd_row_prefix rows[4096];
	uint32_t cursor = 0, n = 0, got;
	while ((got = core_read_prefixes(w->core, w->now, &cursor, rows + n, 4096 - n)))
		n += got;
	for (uint32_t i = 0; i < n; i++)
		if (rows[i].pages == pages)
			return rows[i];
	ck_abort_msg("no prefix of %u pages among %u", pages, n);
	return rows[0];
}

static bool prefix_there(struct world *w, uint64_t id)
{
	static struct kvd_row_prefix row;
	uint32_t cursor = 0;
	while (core_read_prefixes(w->core, w->now, &cursor, &row, 1))
		if (row.id == id)
			return true;
	return false;
}

/* Fill the pool with other prompts until every cached page that may go has gone. */
static void press(struct world *w, uint32_t engine, uint32_t tenant, int32_t base)
{
	int32_t tokens[WORLD_TOKENS];
	for (int32_t i = 0; i < 24; i++) {
		tokens_fill(tokens, base + i);
		world_tick(w, 1000);         /* of what was used at the same time, any may go first */
		run_one(w, engine, 15, tenant, tokens, 300);
	}
	world_fsck(w);
}

static uint32_t cached(struct world *w, uint32_t engine, uint32_t tenant, int32_t base, uint32_t n_tokens)
{
	int32_t tokens[WORLD_TOKENS];
	tokens_fill(tokens, base);
	return run_one(w, engine, 14, tenant, tokens, n_tokens);
}

START_TEST(a_pin_survives_pressure)
{
	struct world *w = world_new(8 * EXTENT, EXTENT, 7);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	world_tenant(w, "b", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	cached(w, e, 0, 1, 100);
	cached(w, e, 0, 2, 100);
	ck_assert_uint_eq(cached(w, e, 0, 1, 100), 6);
	uint64_t id = prefix_of(w, 6).id;
	ck_assert_uint_eq(steer(w, CORE_EV_PIN, id, CORE_NONE, 0), KVD_S_OK);
	ck_assert_uint_eq(steered.steered.pages, 6);
	ck_assert_uint_eq(steered.steered.bytes, 6 * PAGE);
	ck_assert_uint_eq(steer(w, CORE_EV_PIN, id, CORE_NONE, 0), KVD_S_OK); /* once is twice */
	press(w, e, 1, 100);
	ck_assert_uint_eq(cached(w, e, 0, 1, 100), 6);
	ck_assert_uint_eq(cached(w, e, 0, 2, 100), 0);   /* the one beside it has gone */
	ck_assert_uint_eq(prefix_of(w, 6).pinned, 1);
	ck_assert_uint_eq(steer(w, CORE_EV_UNPIN, id, CORE_NONE, 0), KVD_S_OK);
	ck_assert_uint_eq(steer(w, CORE_EV_UNPIN, id, CORE_NONE, 0), KVD_S_STALE);
	world_tick(w, 3600ull * 1000000);            /* it was used often: that wears off */
	press(w, e, 1, 200);
	ck_assert_uint_eq(steer(w, CORE_EV_PIN, id, CORE_NONE, 0), KVD_S_STALE); /* that one is gone */
	ck_assert_uint_eq(cached(w, e, 0, 1, 100), 0);
	ck_assert(prefix_there(w, id));              /* the same tokens have the same number */
	world_free(w);
}
END_TEST

/* Two engines, a merge while pinned, the maker's death: bytes and claims stay. */
START_TEST(a_pin_survives_merge_and_death)
{
	struct world *w = world_new(12 * EXTENT, EXTENT, 8);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	world_tenant(w, "b", "", CORE_MERGE, 0);
	uint32_t e0 = attach(w, "e0"), e1 = attach(w, "e1");
	cached(w, e0, 0, 1, 100);
	uint64_t id = prefix_of(w, 6).id;
	ck_assert_uint_eq(steer(w, CORE_EV_PIN, id, CORE_NONE, 0), KVD_S_OK);
	ck_assert_uint_eq(cached(w, e1, 1, 1, 100), 0); /* b computes, and the copies merge */
	world_settle(w, true);
	ck_assert_uint_gt(status_of(w).merges, 0);
	world_fsck(w);
	world_hangup(w, e0);
	world_settle(w, true);
	world_quiet(w, e0);
	world_settle(w, true);
	world_fsck(w);
	press(w, e1, 1, 100);
	ck_assert_uint_eq(cached(w, e1, 0, 1, 100), 6);
	ck_assert_uint_eq(cached(w, e1, 1, 1, 100), 6);
	ck_assert_uint_eq(steer(w, CORE_EV_UNPIN, id, CORE_NONE, 0), KVD_S_OK);
	press(w, e1, 1, 200);
	ck_assert_uint_eq(cached(w, e1, 0, 1, 100), 0);
	world_free(w);
}
END_TEST

START_TEST(pins_have_a_bound)
{
	struct world *w = world_new(8 * EXTENT, EXTENT, 9);
	int32_t tokens[WORLD_TOKENS];
	uint32_t pinned = 0, status = 0;
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	for (int32_t i = 0; i < 6; i++) {
		tokens_fill(tokens, 10 + i);
		run_one(w, e, 0, 0, tokens, 16 * 14 + 1);
	}
	static struct kvd_row_prefix rows[64];
	uint32_t cursor = 0, n = core_read_prefixes(w->core, w->now, &cursor, rows, 64);
	for (uint32_t i = 0; i < n && !status; i++)
		pinned += !(status = steer(w, CORE_EV_PIN, rows[i].id, CORE_NONE, 0));
	ck_assert_uint_eq(status, KVD_S_LIMIT);
	ck_assert_uint_ge(pinned, 1);
	ck_assert_uint_eq(steered.steered.have, 2);      /* a quarter of eight extents */
	ck_assert_uint_ge(steered.steered.need, 3);
	ck_assert_uint_eq(w->core->n_pins, pinned);
	/* what the pins leave is what a request may be: refused with the numbers, not queued for ever */
	tokens_fill(tokens, 50);
	struct world_slot *s = world_slot(w, e, 3);
	world_open(w, e, 3, 0, tokens, 16 * 30, 16 * 30, 0);
	world_settle(w, true);
	ck_assert_int_eq(s->state, SLOT_IDLE);
	world_free(w);
}
END_TEST

START_TEST(published_pages_are_everybodys)
{
	struct world *w = world_new(12 * EXTENT, EXTENT, 10);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	world_tenant(w, "b", "", CORE_MERGE, 0);
	world_tenant(w, "p", "", CORE_PRIVATE, 0);
	uint32_t e0 = attach(w, "e0"), e1 = attach(w, "e1");
	cached(w, e0, 0, 1, 100);
	ck_assert_uint_eq(cached(w, e1, 1, 2, 100), 0);
	uint64_t id = 0;
	static struct kvd_row_prefix rows[64];
	uint32_t cursor = 0, n = core_read_prefixes(w->core, w->now, &cursor, rows, 64);
	for (uint32_t i = 0; i < n; i++)
		if (!strcmp(rows[i].tenant, "a"))
			id = rows[i].id;
	ck_assert_uint_ne(id, 0);
	ck_assert_uint_eq(steer(w, CORE_EV_PUBLISH, id, CORE_NONE, 0), KVD_S_OK);
	world_settle(w, true);
	uint64_t rss = tenant_at(w->core, 1)->rss_bytes;
	ck_assert_uint_eq(cached(w, e1, 1, 1, 100), 6);  /* another tenant, another engine: skipped */
	ck_assert_uint_eq(tenant_at(w->core, 1)->rss_bytes, rss + 6 * PAGE);
	ck_assert_uint_eq(cached(w, e1, 2, 1, 100), 0);  /* private takes nothing of others */
	ck_assert_uint_eq(steer(w, CORE_EV_UNPUBLISH, id, CORE_NONE, 0), KVD_S_OK);
	ck_assert_uint_eq(cached(w, e1, 1, 1, 100), 6);  /* what was taken stays */
	world_tenant(w, "c", "", CORE_MERGE, 0);
	ck_assert_uint_eq(cached(w, e1, 3, 1, 100), 0);  /* and nobody else takes it */
	/* taking is paid for: not above the taker's max */
	ck_assert_uint_eq(steer(w, CORE_EV_PUBLISH, id, CORE_NONE, 0), KVD_S_OK);
	world_tenant(w, "d", "", CORE_MERGE, 4 * PAGE);
	int32_t tokens[WORLD_TOKENS];
	tokens_fill(tokens, 1);
	world_open(w, e1, 5, 4, tokens, 100, 105, 0);
	world_settle(w, true);
	ck_assert_uint_eq(world_slot(w, e1, 5)->last_status, KVD_S_TENANT_MAX);
	ck_assert_uint_eq(tenant_at(w->core, 4)->rss_bytes, 0);
	/* the bytes of a private tenant are not published */
	cached(w, e1, 2, 3, 100);
	cursor = 0;
	n = core_read_prefixes(w->core, w->now, &cursor, rows, 64);
	for (uint32_t i = 0; i < n; i++)
		if (!strcmp(rows[i].tenant, "p"))
			ck_assert_uint_eq(steer(w, CORE_EV_PUBLISH, rows[i].id, CORE_NONE, 0), KVD_S_REFUSED);
	world_free(w);
}
END_TEST

START_TEST(evict_takes_what_nobody_holds)
{
	struct world *w = world_new(12 * EXTENT, EXTENT, 11);
	int32_t tokens[WORLD_TOKENS];
	world_tenant(w, "a", "", CORE_MERGE, 0);
	world_tenant(w, "b", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	cached(w, e, 0, 1, 100);
	cached(w, e, 1, 2, 120);
	cached(w, e, 0, 3, 90);
	tokens_fill(tokens, 4);
	run_prompt(w, e, 0, 0, tokens, 140, 0);          /* held */
	uint64_t id = prefix_of(w, 6).id, held = prefix_of(w, 8).id;
	ck_assert_uint_eq(steer(w, CORE_EV_PUBLISH, id, CORE_NONE, 0), KVD_S_OK);
	ck_assert_uint_eq(steer(w, CORE_EV_EVICT, id, CORE_NONE, 0), KVD_S_OK);
	ck_assert_uint_ge(steered.steered.bytes, 6 * PAGE);
	ck_assert_uint_eq(w->core->n_publics, 0);
	ck_assert_uint_eq(cached(w, e, 0, 1, 100), 0);
	ck_assert_uint_eq(steer(w, CORE_EV_EVICT, held, CORE_NONE, 0), KVD_S_OK);
	ck_assert_uint_eq(steered.steered.pages, 0);
	ck_assert_uint_eq(steer(w, CORE_EV_EVICT, 0, 1, 2 * PAGE), KVD_S_OK);
	ck_assert_uint_eq(steered.steered.bytes, 2 * PAGE);
	ck_assert_uint_eq(steer(w, CORE_EV_EVICT, 0, 1, 0), KVD_S_OK);
	ck_assert_uint_eq(tenant_at(w->core, 1)->rss_bytes, 0);
	ck_assert_uint_eq(steer(w, CORE_EV_EVICT, 0, 77, 0), KVD_S_STALE);
	ck_assert_uint_eq(steer(w, CORE_EV_EVICT, 0, CORE_NONE, 0), KVD_S_OK);
	ck_assert_uint_eq(status_of(w).frames[KVD_FRAME_COOL], 0);
	world_free(w);
}
END_TEST

/* The dry run says what the act then does, in its order, and leaves not a byte of the book changed. */
START_TEST(a_dry_run_is_the_act)
{
	struct world *w = world_new(12 * EXTENT, EXTENT, 15);
	const struct core *c = w->core;
	int32_t tokens[WORLD_TOKENS];
	world_tenant(w, "a", "t", CORE_REUSE, 0);
	world_tenant(w, "b", "t", CORE_REUSE, 0);
	world_tenant(w, "m", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	size_t bytes = core_book_bytes(&w->config);
	uint8_t *before = malloc(bytes);
	ck_assert_ptr_nonnull(before);
	for (uint32_t i = 0; i < 6; i++) {
		for (int32_t k = 0; k < 3; k++)
			cached(w, e, (uint32_t)k, 1 + k % 2, 50 + 10 * (i + (uint32_t)k));
		tokens_fill(tokens, 9);
		world_settle(w, true);
		struct core_event event = { .type = CORE_EV_EVICT, .engine = CORE_NONE };
		event.steer.tenant = i % 3 == 2 ? 2 : CORE_NONE;
		event.steer.bytes = i % 2 ? 5 * PAGE : 0;
		static struct kvd_row_prefix any[64];
		uint32_t from = 0;
		ck_assert_uint_gt(core_read_prefixes(c, w->now, &from, any, 64), 0);
		event.steer.prefix = i == 4 ? any[0].id : 0;
		static struct kvd_row_plan dry[512];
		static struct kvd_row_evicted went[512];
		uint32_t cursor = 0, n = 0, got, m = 0;
		uint64_t frees = 0, n_went = c->n_evicted;
		memcpy(before, c, bytes);
		while ((got = core_read_evict(w->core, &event, w->now, &cursor, dry + n, 7)))
			n += got;
		ck_assert_uint_gt(n, 0);
		memset((uint8_t *)before + c->layout.at_journal, 0, c->layout.journal_max * sizeof(uint64_t));
		uint8_t *now = malloc(bytes);
		memcpy(now, c, bytes);
		memset(now + c->layout.at_journal, 0, c->layout.journal_max * sizeof(uint64_t));
		/* what lies behind the tail of the empty queue is nobody's */
		memcpy(now + c->layout.at_items, before + c->layout.at_items,
		       c->layout.items_max * sizeof(struct item));
		memcpy(now + offsetof(struct core, journal), before + offsetof(struct core, journal),
		       sizeof(struct journal));
		ck_assert_int_eq(memcmp(now, before, bytes), 0);
		free(now);
		ck_assert_uint_eq(steer(w, CORE_EV_EVICT, event.steer.prefix, event.steer.tenant, event.steer.bytes),
				  KVD_S_OK);
		for (uint32_t k = 0; k < n; k++)
			frees += dry[k].frees_bytes;
		ck_assert_uint_eq(frees, steered.steered.bytes);
		ck_assert_uint_eq(c->n_evicted - n_went, n);
		cursor = 0;
		m = core_read_evicted(c, CORE_NONE, w->now, &cursor, went, n < 512 ? n : 512);
		for (uint32_t k = 0; k < m; k++) {
			const struct kvd_row_plan *said_so = &dry[n - 1 - k];
			ck_assert_uint_eq(went[k].prefix, said_so->prefix);
			ck_assert_str_eq(went[k].victim, said_so->tenant);
			ck_assert_uint_eq(said_so->rank, n - 1 - k);
		}
	}
	free(before);
	world_free(w);
}
END_TEST

/* A thousand hands at once on a running world: whatever they name. */
START_TEST(random_hands)
{
	struct world *w = world_new(16 * EXTENT, EXTENT, 12);
	int32_t tokens[WORLD_TOKENS];
	world_tenant(w, "a", "t", CORE_REUSE, 0);
	world_tenant(w, "b", "t", CORE_REUSE, 0);
	world_tenant(w, "c", "", CORE_MERGE, 0);
	uint32_t e[2] = { attach(w, "e0"), attach(w, "e1") }, done[5] = { 0 };
	for (uint32_t i = 0; i < 1500; i++) {
		uint32_t slot = world_random(w, 8), engine = e[world_random(w, 2)];
		struct world_slot *s = world_slot(w, engine, slot);
		static struct kvd_row_prefix rows[64];
		uint32_t cursor = 0, n = core_read_prefixes(w->core, w->now, &cursor, rows, 64);
		uint32_t kind = world_random(w, 5);
		if (s->state == SLOT_IDLE) {
			tokens_fill(tokens, (int32_t)world_random(w, 6));
			world_open(w, engine, slot, world_random(w, 3), tokens, 20 + world_random(w, 200),
				   240, 0);
		}
		for (uint32_t k = 0; k < 4; k++)
			world_advance(w, e[world_random(w, 2)], world_random(w, 8));
		if (n && (kind < 4 || !world_random(w, 6)))
			done[kind] += !steer(w, CORE_EV_PIN + kind, rows[world_random(w, n)].id, CORE_NONE, 0);
		if (i % 7 == 0)
			world_settle(w, true);
		if (i % 500 == 499) {
			world_hangup(w, e[1]);
			world_quiet(w, e[1]);
			world_settle(w, true);
			e[1] = attach(w, "e1");
		}
	}
	world_settle(w, true);
	for (uint32_t i = 0; i < 5; i++)
		ck_assert_msg(done[i] > 5, "event %u came to something %u times", i, done[i]);
	world_fsck(w);
	world_free(w);
}
END_TEST

/* ---- the checker is checked ---- */

static char said[1 << 14];

static void collect(void *arg, const char *problem)
{
	(void)arg;
	if (strlen(said) + strlen(problem) + 2 < sizeof(said)) {
		strcat(said, problem);
		strcat(said, "\n");
	}
}

#define MUTATE(field, amount, sentence) do { \
	void *field_ = (void *)(uintptr_t)&(field); \
	__auto_type old_ = (field); \
	__auto_type new_ = (field); \
	new_ = (__typeof__(new_))(new_ + (amount)); \
	said[0] = 0; \
	memcpy(field_, &new_, sizeof(new_)); \
	ck_assert_msg(core_fsck(c, collect, NULL, NULL) && strstr(said, sentence), "%s: %s", #field, said); \
	memcpy(field_, &old_, sizeof(old_)); \
	ck_assert_uint_eq(core_fsck(c, collect, NULL, NULL), 0); \
} while (0)

START_TEST(mutations)
{
	struct world *w = world_new(12 * EXTENT, EXTENT, 13);
	const struct core *c = w->core;
	world_tenant(w, "a", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	cached(w, e, 0, 1, 100);
	cached(w, e, 0, 2, 130);
	uint64_t id = prefix_of(w, 6).id;
	ck_assert_uint_eq(steer(w, CORE_EV_PIN, id, CORE_NONE, 0), KVD_S_OK);
	ck_assert_uint_eq(steer(w, CORE_EV_PUBLISH, id, CORE_NONE, 0), KVD_S_OK);
	world_settle(w, true);
	const struct node *n = node_at(c, node_of_prefix(c, id)),
			  *other = node_at(c, node_of_prefix(c, prefix_of(w, 8).id));
	const struct page *p = page_at(c, list_first(&n->copies));
	const struct extent *x = extent_at(c, extent_of(c, p->frame));
	MUTATE(n->pins, 1, "pins are not those that end");
	MUTATE(n->pinned, 1, "pins are not those that end");
	MUTATE(n->publics, 1, "publications are not those that end");
	MUTATE(n->published, 1, "publications are not those that end");
	MUTATE(other->pins, 1, "a cool frame's page is pinned");
	MUTATE(n->present, -1, "pinned page is not in memory");
	MUTATE(n->pins, -1, "a sealed frame has no holder and is not cool");
	MUTATE(x->n_pinned, 1, "count of pinned frames");
	MUTATE(c->pinned_extents, 1, "extents with pinned frames");
	MUTATE(c->pinned_frames, 1, "number of pinned frames");
	MUTATE(c->n_pins, 1, "number of pins");
	MUTATE(c->n_publics, 1, "number of publications");
	uint32_t k = list_first(&n->claims);
	ck_assert(claim_at(c, k)->complete);
	MUTATE(claim_at(c, k)->shelf, 1, "reclaim candidate");
	world_free(w);
}
END_TEST

START_TEST(smaps_add_up)
{
	struct world *w = world_new(12 * EXTENT, EXTENT, 14);
	int32_t tokens[WORLD_TOKENS];
	struct kvd_row_smaps rows[80];
	uint32_t cursor = 0, n = 0, got;
	world_tenant(w, "a", "", CORE_MERGE, 0);
	world_tenant(w, "b", "", CORE_MERGE, 0);
	uint32_t e0 = attach(w, "e0"), e1 = attach(w, "e1");
	tokens_fill(tokens, 1);
	run_prompt(w, e0, 0, 0, tokens, 100, 0);
	run_prompt(w, e1, 0, 1, tokens, 100, 0);
	world_settle(w, false);
	while ((got = core_read_smaps(w->core, CORE_NONE, &cursor, rows + n, 80 - n)))
		n += got;
	ck_assert_uint_eq(n, 4);
	uint64_t pss[2] = { 0 };
	for (uint32_t i = 0; i < n; i++) {
		ck_assert_uint_eq(rows[i].rss_bytes, rows[i].private_clean_bytes + rows[i].private_dirty_bytes +
							     rows[i].shared_clean_bytes);
		ck_assert_uint_eq(rows[i].rss_bytes, 7 * PAGE);
		ck_assert_uint_eq(rows[i].shared_clean_bytes, 6 * PAGE);
		ck_assert_uint_eq(rows[i].private_dirty_bytes, PAGE);
		ck_assert_uint_eq(rows[i].kind, i / 2);
		pss[i / 2] += rows[i].pss_bytes;
	}
	ck_assert_uint_eq(pss[0], 8 * PAGE);
	ck_assert_uint_eq(pss[1], 8 * PAGE);             /* six shared, one open each */
	cursor = 0;
	ck_assert_uint_eq(core_read_smaps(w->core, 1, &cursor, rows, 80), 1);
	ck_assert_str_eq(rows[0].name, "b");
	ck_assert(rows[0].rss_bytes && !rows[0].pss_bytes && !rows[0].shared_clean_bytes &&
		  !rows[0].private_clean_bytes && !rows[0].pages);
	ck_assert_uint_eq(core_read_smaps(w->core, 1, &cursor, rows, 80), 0);
	world_free(w);
}
END_TEST

int main(void)
{
	const TTest *list[] = {a_pin_survives_pressure,
			       a_pin_survives_merge_and_death,
			       pins_have_a_bound,
			       published_pages_are_everybodys,
			       evict_takes_what_nobody_holds,
			       random_hands,
			       a_dry_run_is_the_act,
			       mutations,
			       smaps_add_up};
	return run_suite("core_steer", list, sizeof(list) / sizeof(list[0]));
}
