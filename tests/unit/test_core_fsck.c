/* test_core_fsck.c - the checker is checked: one field of a healthy book is changed at a time, and
 * fsck must say so in the sentence meant for it; changed back, it must be silent again. */
#include <stdio.h>
#include "tests/lib/core_case.h"
#include "kvd/core/spill.h"

static char said[1 << 16];

static void collect(void *arg, const char *problem)
{
	(void)arg;
	if (strlen(said) + strlen(problem) + 2 < sizeof(said)) {
		strcat(said, problem);
		strcat(said, "\n");
	}
}

static uint32_t fsck_run(const struct core *c)
{
	said[0] = 0;
	return core_fsck(c, collect, NULL, NULL);
}

/* Change a field to a value, expect a sentence, change it back. */
#define MUTATE(field, value, sentence)                                                             \
	do {                                                                                       \
		__typeof__(field) *field_ = (__typeof__(field) *)(uintptr_t) & (field);            \
		unsigned char old_[sizeof(*field_)];                                               \
		__auto_type value_ = (value);                                                      \
		memcpy(old_, field_, sizeof(old_));                                                \
		memcpy((void *)(uintptr_t)field_, &value_, sizeof(old_));                          \
		uint32_t found_ = fsck_run(c);                                                     \
		if (!found_ || !strstr(said, sentence))                                            \
			ck_abort_msg("%s: fsck says %u problems:\n%s\nexpected: %s", #field,       \
				     found_, said, sentence);                                      \
		memcpy((void *)(uintptr_t)field_, old_, sizeof(old_));                             \
		ck_assert_msg(!fsck_run(c), "after %s is restored: %s", #field, said);             \
		n_mutations++;                                                                     \
	} while (0)

static uint32_t n_mutations;

/* A book with something of everything: two engines and a dead one, tenants that merged, an open
 * page, cool pages, quarantined and retiring frames, a promise and its waiter, a queue. */
static struct world *world_rich(void)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(12 * EXTENT, EXTENT, 1);
	world_tenant(w, "a", "team", CORE_REUSE, 0);
	world_tenant(w, "b", "team", CORE_REUSE, 0);
	world_tenant(w, "m", "", CORE_MERGE, 0);
	uint32_t e0 = attach(w, "e0"), e1 = attach(w, "e1"), e2 = attach(w, "e2");
	tokens_fill(tokens, 1);
	run_prompt(w, e0, 0, 0, tokens, 100, 0);
	run_prompt(w, e0, 1, 2, tokens, 100, 0);
	run_one(w, e0, 2, 1, tokens, 120);
	tokens_fill(tokens, 2);
	run_one(w, e1, 0, 1, tokens, 80);
	tokens_fill(tokens, 3);
	run_prompt(w, e2, 0, 1, tokens, 50, 0);
	tokens_fill(tokens, 4);
	run_prompt(w, e0, 3, 2, tokens, 40, 0);
	run_prompt(w, e1, 3, 0, tokens, 40, KVD_OPEN_PRIVATE);
	tokens_fill(tokens, 5);
	world_open(w, e0, 4, 0, tokens, 90, 100, 0);
	world_settle(w, false);
	world_open(w, e0, 5, 1, tokens, 90, 100, 0);       /* waits for slot 4's promise */
	world_settle(w, false);
	world_step_begin(w, e0);
	submit(w, e0,
	       (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE,
				 .slot = 3 }); /* its open frame waits for the step */
	world_hangup(w, e2);
	return w;
}

static uint32_t frame_in(const struct core *c, enum kvd_frame_state state, uint32_t skip)
{
	for (uint32_t f = 0; f < c->layout.frames_max; f++) {
		const struct extent *e = extent_at(c, extent_of(c, f));
		if (e->state == KVD_EXTENT_ASSIGNED &&
		    (f & ((1u << c->slot_bits) - 1u)) < e->n_frames && frame_state(c, f) == state &&
		    !skip--)
			return f;
	}
	ck_abort_msg("no frame in state %d", (int)state);
	return CORE_NONE;
}

static uint32_t claim_where(const struct core *c, bool held, bool complete)
{
	for (uint32_t k = 1; k <= c->claims.high; k++)
		if (!claim_at(c, k)->next_free && claim_at(c, k)->node &&
		    !claim_at(c, k)->complete == !complete && !claim_at(c, k)->holds == !held)
			return k;
	ck_abort_msg("no such claim");
	return 0;
}

static uint64_t with_state(uint64_t word, enum kvd_frame_state state)
{
	return (word & ~15ull) | (uint64_t)state;
}

START_TEST(frames_and_pages)
{
	struct world *w = world_rich();
	const struct core *c = w->core;
	ck_assert_msg(!fsck_run(c), "%s", said);
	uint32_t open = frame_in(c, KVD_FRAME_OPEN, 0), sealed = frame_in(c, KVD_FRAME_SEALED, 0);
	uint32_t cool = frame_in(c, KVD_FRAME_COOL, 0),
		 retiring = frame_in(c, KVD_FRAME_RETIRING, 0);
	uint32_t free = frame_in(c, KVD_FRAME_FREE, 0),
		 quarantined = frame_in(c, KVD_FRAME_QUARANTINED, 0);
	const struct page *page = page_at(c, frame_at(c, sealed)->page),
			  *cold = page_at(c, frame_at(c, cool)->page);
	MUTATE(frame_at(c, sealed)->word, with_state(frame_at(c, sealed)->word, KVD_FRAME_OPEN),
	       "an open frame");
	MUTATE(frame_at(c, sealed)->word, with_state(frame_at(c, sealed)->word, KVD_FRAME_COOL),
	       "a cool frame has a holder");
	MUTATE(frame_at(c, cool)->word, with_state(frame_at(c, cool)->word, KVD_FRAME_SEALED),
	       "a sealed frame has no holder");
	MUTATE(frame_at(c, open)->word, with_state(frame_at(c, open)->word, KVD_FRAME_SEALED),
	       "neither sealed in front nor open");
	MUTATE(frame_at(c, open)->word, with_state(frame_at(c, open)->word, KVD_FRAME_FREE),
	       "a frame without content has a page");
	MUTATE(frame_at(c, free)->word, with_state(frame_at(c, free)->word, KVD_FRAME_SEALED),
	       "a frame in use has no page");
	MUTATE(frame_at(c, free)->word, with_state(frame_at(c, free)->word, 9),
	       "in no known state");
	MUTATE(frame_at(c, retiring)->word, with_state(frame_at(c, retiring)->word, KVD_FRAME_FREE),
	       "in a retire list is in another state");
	MUTATE(frame_at(c, quarantined)->word,
	       with_state(frame_at(c, quarantined)->word, KVD_FRAME_FREE),
	       "in a retire list is in another state");
	MUTATE(frame_at(c, sealed)->word, frame_at(c, sealed)->word ^ 0x30,
	       "colour is not its extent's");
	MUTATE(frame_at(c, sealed)->word, frame_at(c, sealed)->word | 0xffffull << 28,
	       "owner is no tenant");
	MUTATE(frame_at(c, free)->pins, 1u, "a free frame is pinned");
	MUTATE(frame_at(c, sealed)->pins, FRAME_READY, "marked ready to scrub");
	MUTATE(frame_at(c, free)->page, frame_at(c, sealed)->page,
	       "a frame without content has a page");
	MUTATE(frame_at(c, sealed)->page, 0u, "a frame in use has no page");
	MUTATE(frame_at(c, sealed)->page, 0x7fffffffu, "does not exist");
	MUTATE(page->frame, cool, "names another frame");
	MUTATE(page->state, 7u, "page is not resident");
	MUTATE(cold->cool_listed, (uint8_t)0, "in no reclaim list");
	MUTATE(page->holders.count, page->holders.count + 1, "list of holders is broken");
	MUTATE(page->cool_listed, (uint8_t)1, "not all in a reclaim list");
	MUTATE(page->node, cold->node, "a copy does not name its node");
	MUTATE(c->pages.count, c->pages.count + 1, "pages exist without a frame");
	world_free(w);
}
END_TEST

START_TEST(extents_and_sums)
{
	struct world *w = world_rich();
	const struct core *c = w->core;
	uint32_t x = extent_of(c, frame_in(c, KVD_FRAME_OPEN, 0));
	const struct extent *e = extent_at(c, x);
	const struct group *g = &c->groups[e->group];
	ck_assert_msg(!fsck_run(c), "%s", said);
	MUTATE(e->frames[KVD_FRAME_FREE], e->frames[KVD_FRAME_FREE] - 1,
	       "count of a frame state is wrong");
	MUTATE(e->high, e->high - 1, "free frames are not all listed");
	MUTATE(e->free.count, e->free.count + 1, "free list is broken");
	MUTATE(e->n_frames, e->n_frames - 1, "not cut as its space says");
	MUTATE(e->acked, e->acked | 1ull << 40, "acknowledged an extent that it was not sent");
	MUTATE(e->acked, (uint64_t)0, "has not mapped");
	MUTATE(e->mapped, e->mapped | 1ull << 1, "maps another engine's extent");
	MUTATE(e->mapped, e->mapped | 1ull << 50, "mapped by an engine that is gone");
	MUTATE(e->idle_listed, (uint8_t)1, "idle and not listed so");
	MUTATE(e->state, (uint32_t)KVD_EXTENT_UNASSIGNED, "number of extents in a state");
	MUTATE(e->state, 17u, "in no known state");
	MUTATE(e->group, 1000u, "belongs to no group");
	MUTATE(c->extents_in[KVD_EXTENT_ASSIGNED], 0u, "number of extents in a state");
	MUTATE(c->spaces[0].frames[KVD_FRAME_SEALED], (uint64_t)0, "number of frames in a state");
	MUTATE(c->spaces[0].frames[KVD_FRAME_FREE], c->spaces[0].frames[KVD_FRAME_FREE] + 1,
	       "do not add up to the pool");
	MUTATE(c->tail_bytes, c->tail_bytes + 1, "do not add up to the pool");
	MUTATE(c->physical_bytes, c->physical_bytes + 1, "physical bytes");
	MUTATE(c->unassigned.count, c->unassigned.count + 1, "unassigned extents");
	MUTATE(c->leaving.count, 1u, "leaving extents");
	MUTATE(g->busy_extents, g->busy_extents + 1, "count of busy extents");
	MUTATE(g->busy_frames, g->busy_frames + 1, "count of busy frames");
	MUTATE(g->retiring, g->retiring + 1, "count of retiring frames");
	MUTATE(g->n_unacked, g->n_unacked + 1, "count of unacknowledged");
	MUTATE(g->n_draining, g->n_draining + 1, "count of draining");
	MUTATE(g->extents.count, 0u, "extents are not all listed");
	MUTATE(g->idle.count, g->idle.count + 1, "idle extents is broken");
	MUTATE(e->bucket, e->bucket + 1, "wrong list of partly free");
	MUTATE(c->wanted, c->wanted + 1, "sum of wanted");
	MUTATE(c->wanted, (uint64_t)c->n_extents, "count on more extents than are left");
	MUTATE(c->groups[0].wanted, c->groups[0].wanted + 1, "another number of extents than it reserves");
	MUTATE(c->active_weight, c->active_weight + 1, "sum of active weights");
	MUTATE(tenant_at(c, 0)->active_weight, 7777u, "no part in the shares");
	MUTATE(tenant_at(c, 0)->queued_listed, (uint8_t)!tenant_at(c, 0)->queued_listed, "in the queue is not listed");
	MUTATE(c->n_live, c->n_live + 1, "number of live engines");
	MUTATE(c->n_keeps, c->n_keeps + 1, "number of kept extents");
	MUTATE(c->groups[20].keep, 1u, "that is gone keeps");
	MUTATE(c->evacuating, c->n_extents + 1, "being emptied does not exist");
	MUTATE(c->evacuating, extent_of(c, frame_in(c, KVD_FRAME_FREE, 0)) + 1, "hands out frames");
	MUTATE(c->busy_extents, c->busy_extents + 1, "number of busy extents");
	MUTATE(c->merge_aged, c->merge_queue.count + 1, "more merges are due than wait");
	MUTATE(c->merge_due, c->merge_aged + 1, "more merges are due than wait");
	MUTATE(c->sealed_waiting, c->sealed_waiting + 1, "pages whose merging has not come");
	MUTATE(c->n_batches, c->n_batches + 1, "number of retire batches");
	MUTATE(c->jobs.count, c->jobs.count + 1, "number of mover jobs");
	const struct batch *b = c->batches;
	ck_assert(b->live && b->frames.count);
	MUTATE(b->mask, (uint64_t)0, "waits for nobody");
	MUTATE(b->live, 0u, "a retiring frame is lost");
	MUTATE(c->groups[2].quarantined.count, 0u, "list of retiring frames is broken");
	world_free(w);
}
END_TEST

START_TEST(index_and_charges)
{
	struct world *w = world_rich();
	const struct core *c = w->core;
	ck_assert_msg(!fsck_run(c), "%s", said);
	uint32_t held = claim_where(c, true, true), cold = claim_where(c, false, true),
		 promise = claim_where(c, false, false);
	const struct claim *k = claim_at(c, held);
	const struct node *n = node_at(c, k->node);
	uint32_t deep = 0;
	for (uint32_t i = 1; i <= c->nodes.high && !deep; i++)
		if (node_at(c, i)->live && node_at(c, i)->depth == 2 && node_at(c, i)->shared)
			deep = i;
	const struct node *d = node_at(c, deep);
	ck_assert(deep);
	MUTATE(n->tokens[3], n->tokens[3] + 1, "not found by its hash");
	MUTATE(n->hash, n->hash ^ 1, "not found by its hash");
	MUTATE(d->depth, 9u, "a node's parent is gone");
	MUTATE(d->parent, 0u, "not found by its hash");
	MUTATE(n->n_complete, n->n_complete + 1, "a node's count of claims");
	MUTATE(d->shared, 0u, "does not know its shared copy");
	MUTATE(n->copies.count, 0u, "list of copies is broken");
	MUTATE(n->claims.count, 0u, "list of claims is broken");
	MUTATE(n->children.count, n->children.count + 1, "list of children is broken");
	MUTATE(n->copies, ((struct list){ 0 }), "missing in its node's list of copies");
	MUTATE(node_at(c, d->parent)->children, ((struct list){ 0 }), "missing in its parent's list");
	MUTATE(n->identity, n->identity ^ 1ull << 40, "not found by its hash");
	MUTATE(k->hash_next, held, "a chain of claims with one hash does not end");
	MUTATE(d->hash_next, deep, "a chain of nodes with one hash does not end");
	MUTATE(n->refs, n->refs + 1, "references differ");
	MUTATE(n->job, 1u, "job is not its own");
	MUTATE(c->nodes.count, c->nodes.count + 1, "number of nodes");
	MUTATE(c->claims.count, c->claims.count + 1, "number of claims");
	MUTATE(k->holds, k->holds + 1, "holds are not its table slots");
	MUTATE(k->children, k->children + 1, "count of children");
	MUTATE(k->domain, k->domain + 1, "a claim is not found by its hash");
	MUTATE(k->node, 3u + !(k->node - 3u), "a claim does not name its node");
	MUTATE(k->complete, 0u, "used as a claim");
	MUTATE(k->promiser, 1u, "still promised");
	MUTATE(claim_at(c, cold)->shelf, 0u, "reclaim candidate");
	MUTATE(claim_at(c, promise)->promiser, 0u, "a claim is nobody's");
	MUTATE(tenant_at(c, 0)->rss_bytes, (uint64_t)1, "charge is not what it has");
	MUTATE(tenant_at(c, 1)->held_bytes, (uint64_t)1, "held bytes");
	MUTATE(tenant_at(c, 1)->reserved_bytes, (uint64_t)1, "a tenant's reservations");
	MUTATE(tenant_at(c, 1)->shelves.count, 0u, "list of shelves is broken");
	MUTATE(c->logical_bytes, c->logical_bytes + 1, "logical bytes");
	world_free(w);
}
END_TEST

START_TEST(sequences_and_holds)
{
	struct world *w = world_rich();
	const struct core *c = w->core;
	ck_assert_msg(!fsck_run(c), "%s", said);
	uint32_t running = c->engines[0].seq_base, promiser = running + 4, waiter = running + 5;
	const struct seq *s = seq_at(c, running), *p = seq_at(c, promiser), *q = seq_at(c, waiter);
	const struct hold *h = hold_at(c, s->row);
	ck_assert(p->promises.count && q->wait == WAIT_PROMISE);
	MUTATE(s->n_sealed, s->n_sealed + 1, "neither sealed in front");
	MUTATE(s->n_sealed, 4000u, "more pages than its row");
	MUTATE(s->n_pages, s->n_pages - 1, "a hole or a tail");
	MUTATE(s->n_nodes, s->n_nodes - 1, "beyond the prompt");
	MUTATE(s->reserved, s->reserved + 1, "reservations are not its sequences'");
	MUTATE(s->pending, (uint16_t)KVD_SEQ_GROW, "owes one and waits for nothing");
	MUTATE(s->state, (uint32_t)SEQ_PARKED, "does not run holds memory");
	MUTATE(h->page, 0u, "a hole or a tail");
	MUTATE(h->page, hold_at(c, s->row + 1)->page, "holder holds another page");
	MUTATE(h->claim, 0u, "without a claim");
	MUTATE(h->claim, hold_at(c, s->row + 1)->claim, "claim is on another page");
	MUTATE(h->node, 0u, "or lacks one");
	MUTATE(h->seq, running + 1, "names a page that is gone");
	MUTATE(h->seq, running + 1, "a page's holder is no table slot");
	MUTATE(p->promises.count, p->promises.count + 1, "list of promises is broken");
	MUTATE(q->wait, (uint32_t)WAIT_NONE, "owes one and waits for nothing");
	MUTATE(q->promises.count, 1u, "holds promises");
	MUTATE(claim_at(c, list_first(&p->promises))->promiser, running, "another sequence's");
	MUTATE(c->running.count, c->running.count + 1, "running sequences are not all listed");
	MUTATE(c->waiting, c->waiting + 1, "number of waiting sequences");
	MUTATE(c->engines[0].n_seqs, 0u, "number of sequences is wrong");
	MUTATE(c->queue.count, 1u, "the queue is broken");
	MUTATE(c->promisers.count, 0u, "promisers is broken");
	printf("fsck: %u mutations found in the last suite of four\n", n_mutations);
	world_free(w);
}
END_TEST

static void run_on(struct world *w, uint32_t e, uint32_t slot, uint32_t rounds)
{
	for (uint32_t i = 0; i < rounds; i++) {
		world_settle(w, false);
		world_advance(w, e, slot);
		world_settle(w, false);
		world_step_begin(w, e);
		world_step_end(w, e);
	}
}

/* A tier with pages on disk alone and beside a copy, being written, being read, and lost while being read. */
static struct world *world_spilling(void)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new_spill(4 * EXTENT, EXTENT, 16 * EXTENT, 1);
	world_tenant(w, "a", "", CORE_MERGE, 0);
	world_tenant(w, "b", "", CORE_MERGE, 0);
	uint32_t e = attach(w, "e0");
	for (int32_t i = 0; i < 14; i++) {
		tokens_fill(tokens, i);
		run_one(w, e, 0, i < 2 ? 0 : 1, tokens, 130);
	}
	w->hold_moves = 1u << CORE_MOVE_FETCH;
	tokens_fill(tokens, 0);
	world_open(w, e, 1, 0, tokens, 130, 132, 0);
	tokens_fill(tokens, 1);
	world_open(w, e, 2, 0, tokens, 130, 132, 0);
	world_settle(w, false);
	w->hold_moves |= 1u << CORE_MOVE_SPILL;
	tokens_fill(tokens, 100);
	world_open(w, e, 3, 1, tokens, 400, 402, 0);
	for (uint32_t i = 0; i < 60 && !w->core->spills_in[SPILL_SPILLING]; i++)
		run_on(w, e, 3, 1);
	return w;
}

static uint32_t spill_in(const struct core *c, enum spill_state state)
{
	for (uint32_t i = 1; i <= c->layout.spills_max; i++)
		if (spill_at(c, i)->state == state)
			return i;
	ck_abort_msg("no spill record in state %d", (int)state);
	return 0;
}

START_TEST(spill_tier)
{
	struct world *w = world_spilling();
	const struct core *c = w->core;
	ck_assert_msg(!fsck_run(c), "%s", said);
	uint32_t spilled = list_first(&c->spilled), spilling = spill_in(c, SPILL_SPILLING);
	while (node_at(c, spill_at(c, spilled)->node)->copies.count)
		spilled = list_next(c, LIST_SPILLS, spilled);
	uint32_t fetching = spill_in(c, SPILL_FETCHING), node = spill_at(c, spilled)->node;
	const struct spill *away = spill_at(c, spilled), *out = spill_at(c, spilling), *in = spill_at(c, fetching);
	const struct region *region = region_at(c, (spilled - 1) >> c->slot_bits);
	const struct group *g = &c->groups[c->job[out->job].group];
	MUTATE(away->state, (uint32_t)SPILL_STATES, "spill record is in no known state");
	MUTATE(away->state, (uint32_t)SPILL_FREE, "a free spill record is used");
	MUTATE(away->state, (uint32_t)SPILL_FETCHING, "job is not its own");
	MUTATE(away->state, (uint32_t)SPILL_LOST, "a lost page is a node's");
	MUTATE(away->node, node + 1, "a node does not know its spill record");
	MUTATE(away->generation, (uint64_t)0, "in no known generation");
	MUTATE(away->generation, c->spill_generation + 1, "in no known generation");
	MUTATE(out->job, 0u, "job is not its own");
	MUTATE(out->page, 0u, "a page leaves for the disk and nobody writes it");
	MUTATE(out->counted, (uint8_t)0, "count of pages that leave");
	MUTATE(out->stuck, (uint8_t)1, "frames that a write still reads");
	MUTATE(out->state, (uint32_t)SPILL_SPILLED, "a page is written out that need not be");
	MUTATE(in->counted, (uint8_t)0, "reads are not all listed");
	MUTATE(in->state, (uint32_t)SPILL_SPILLING, "gone from memory before it was on disk");
	MUTATE(page_at(c, out->page)->leaving, (uint8_t)0, "a page is counted as leaving and stays");
	MUTATE(node_at(c, node)->spill, 0u, "a claim's page has no copy");
	MUTATE(node_at(c, node)->spill, spilling, "a node's spill record is another's");
	MUTATE(node_at(c, node)->present, (uint8_t)1, "a node is taken for one in memory");
	MUTATE(region->used, region->used + 1, "a region's count of records");
	MUTATE(region->listed, !region->listed, "a region with room is not listed so");
	MUTATE(region->free.count, region->free.count + 1, "a region's free list is broken");
	MUTATE(region->space, 2u, "lies in another space's region");
	MUTATE(region->space, 0u, "a region without a space is used");
	MUTATE(c->spills_in[SPILL_SPILLED], 0u, "spill records in a state");
	MUTATE(c->spilled.count, 0u, "the list of pages on disk is broken");
	MUTATE(c->spilling.count, 0u, "the list of writes is broken");
	MUTATE(c->fetching.count, 0u, "the list of reads is broken");
	MUTATE(c->spilled_pages, (uint64_t)0, "pages on disk alone is wrong");
	MUTATE(c->regions_high, c->layout.n_regions + 1, "more of the spill file is used than there is");
	MUTATE(g->spilling, g->spilling + 1, "count of pages that leave");
	MUTATE(g->stuck, 1u, "frames that a write still reads");
	MUTATE(tenant_at(c, 0)->spilled_bytes, (uint64_t)1, "spilled bytes are not its claims'");
	MUTATE(c->job[in->job].seq, 0u, "sequences' reads and the mover's differ");
	printf("fsck: %u mutations of the spill tier found\n", n_mutations);
	world_free(w);
}
END_TEST

static void quota_of(struct world *w, const char *name, uint64_t min, uint64_t rate)
{
	struct core_event ev = { .type = CORE_EV_TENANT };
	strcpy(ev.tenant.name, name);
	ev.tenant.sharing = CORE_MERGE;
	ev.tenant.quota = (struct core_quota){ .min_bytes = min, .insert_bytes_per_sec = rate };
	world_step(w, &ev);
}

/* Floors that keep something, candidates of two tenants in one group, evictions that were regretted, a sequence
 * that is stalled, one that its tenant's rate keeps back. */
static struct world *world_pressed(void)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(3 * EXTENT, EXTENT, 1);          /* 48 pages */
	quota_of(w, "floor", 6 * PAGE, 0);
	quota_of(w, "plain", 0, 0);
	quota_of(w, "slow", 0, 0);
	uint32_t e = attach(w, "e0");
	for (int32_t i = 0; i < 12; i++) {
		tokens_fill(tokens, i / 2 + 10 * (i % 2));
		run_one(w, e, 0, (uint32_t)i % 2, tokens, 128);
		world_tick(w, 1000000);
	}
	tokens_fill(tokens, 10);                                     /* evicted, and computed again */
	run_one(w, e, 0, 1, tokens, 128);
	tokens_fill(tokens, 31);
	run_prompt(w, e, 1, 2, tokens, 48, 0);
	quota_of(w, "slow", 0, PAGE / 10);                           /* the next page is ten seconds' worth */
	submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 1, .want = 4, .page = 3 });
	world_settle(w, false);
	submit(w, e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 1, .want = 5, .page = 3 });
	tokens_fill(tokens, 30);
	run_prompt(w, e, 2, 1, tokens, 200, 0);
	tokens_fill(tokens, 32);
	world_open(w, e, 3, 0, tokens, 500, 500, 0);
	world_settle(w, false);
	return w;
}

START_TEST(tenants_and_reclaim)
{
	struct world *w = world_pressed();
	const struct core *c = w->core;
	const struct tenant *floor = tenant_at(c, 0), *plain = tenant_at(c, 1), *slow = tenant_at(c, 2);
	const struct seq *waits = seq_at(c, c->engines[0].seq_base + 3), *rated = waits - 2;
	ck_assert_msg(!fsck_run(c), "%s", said);
	ck_assert(floor->shelf && plain->shelves.count && c->refault_tokens && c->n_evicted);
	ck_assert(waits->wait == WAIT_QUEUE && rated->wait == WAIT_RATE);
	const struct shelf *kept = shelf_at(c, floor->shelf), *cold = shelf_at(c, list_first(&plain->shelves));
	uint32_t leaf = shelf_first(c, floor->shelf), first = shelf_first(c, list_first(&plain->shelves)), root = 0;
	for (uint32_t k = 1; k <= c->claims.high; k++)
		if (claim_at(c, k)->guarded && claim_at(c, k)->guarded_children)
			root = k;
	ck_assert(root);
	const struct node *n = node_at(c, claim_at(c, first)->node), *g = node_at(c, claim_at(c, root)->node);
	MUTATE(claim_at(c, root)->guarded_children, 0u, "count of children that floors keep");
	MUTATE(claim_at(c, root)->guarded, (uint8_t)0, "keeps a page and not the one before it");
	MUTATE(claim_at(c, first)->guarded, (uint8_t)1, "another tenant's or group's shelf");
	MUTATE(claim_at(c, claim_where(c, true, true))->guarded, (uint8_t)1, "in use or on disk is kept");
	MUTATE(claim_at(c, first)->home, 5u, "another tenant's or group's shelf");
	MUTATE(claim_at(c, first)->shelf, floor->shelf, "another shelf's reclaim list");
	MUTATE(claim_at(c, first)->level, (uint8_t)3, "another shelf's reclaim list");
	MUTATE(claim_at(c, first)->used_usec, (uint64_t)1, "neither its owner's class nor its first claim");
	MUTATE(claim_at(c, leaf)->shelf, 0u, "reclaim candidate");
	MUTATE(cold->level[0].count, 77u, "a reclaim list is broken");
	MUTATE(cold->count, cold->count + 1, "a shelf's count of claims");
	MUTATE(cold->key, cold->key + 1, "neither its owner's class nor its first claim");
	MUTATE(cold->heap, cold->heap + 1, "heap");
	MUTATE(cold->tenant, 2u, "another tenant's");
	MUTATE(kept->heap, 1u, "a floor's shelf is not its tenant's");
	MUTATE(floor->shelf, 0u, "a floor's shelf is not its tenant's");
	MUTATE(c->shelf_groups[0], (uint64_t)0, "candidates are not announced");
	MUTATE(c->groups[0].n_shelves, c->groups[0].n_shelves - 1, "in no heap, or twice");
	MUTATE(c->shelves.count, c->shelves.count + 1, "number of shelves");
	MUTATE(plain->shelves.count, plain->shelves.count + 1, "list of shelves is broken");
	MUTATE(n->n_guarded, 1u, "claims that floors keep");
	MUTATE(n->n_guarded, 1u, "a cool frame's page is kept by a floor");
	MUTATE(g->n_guarded, 0u, "a sealed frame has no holder");
	MUTATE(floor->guarded_bytes, floor->guarded_bytes + 1, "kept bytes are not its floor's");
	MUTATE(floor->floor_bytes, (uint64_t)0, "that the tenant's min covers");
	MUTATE(c->guarded_bytes, c->guarded_bytes + 1, "what floors keep and cover");
	MUTATE(c->floor_bytes, c->floor_bytes + 1, "what floors keep and cover");
	MUTATE(plain->quota.min_bytes, 100 * (uint64_t)PAGE, "below its min has pages that others may take");
	MUTATE(plain->quota.weight, 0u, "quota makes no sense");
	MUTATE(plain->class, (uint32_t)KVD_CLASS_LOW, "class is not what its charge says");
	MUTATE(plain->dirty, 1u, "waits to be looked at and is not listed");
	MUTATE(c->dirty_tenants.count, 1u, "tenants to look at is broken");
	MUTATE(c->n_evicted, c->n_evicted + 1, "pages are not all that were evicted");
	MUTATE(c->reclaimed_pages[0], c->reclaimed_pages[0] + 1, "pages are not all that were evicted");
	MUTATE(c->refault_tokens, (uint64_t)0, "tokens are not all that were computed again");
	MUTATE(waits->stall, (uint8_t)STALL_NONE, "not counted as stalled");
	MUTATE(waits->throttled, (uint8_t)1, "not counted as stalled");
	MUTATE(floor->stalled, 0u, "count of stalled sequences");
	MUTATE(floor->psi.some, 0u, "a tenant's pressure");
	MUTATE(c->stalled, 0u, "number of stalled sequences");
	MUTATE(c->psi.some, 0u, "the pool's pressure");
	MUTATE(floor->queued.count, 0u, "part of the queue is broken");
	MUTATE(floor->queued_listed, (uint8_t)0, "number of tenants in the queue");
	MUTATE(c->queued_tenants.count, 0u, "tenants in the queue is broken");
	MUTATE(slow->rate_listed, (uint8_t)0, "waits for its insert rate");
	MUTATE(c->rate_tenants.count, 0u, "wait for their rate");
	MUTATE(c->n_triggers, 1u, "number of triggers");
	printf("fsck: %u mutations about tenants found\n", n_mutations);
	world_free(w);
}
END_TEST

/* The order of a heap needs two shelves in it. */
START_TEST(heap_order)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_new(12 * EXTENT, EXTENT, 1);
	uint32_t e;
	for (uint32_t i = 0; i < 6; i++)
		quota_of(w, (const char *[]){ "a", "b", "c", "d", "e", "f" }[i], 0, 0);
	e = attach(w, "e0");
	for (uint32_t i = 0; i < 6; i++) {
		tokens_fill(tokens, (int32_t)i);
		run_one(w, e, 0, i, tokens, 40);
		world_tick(w, 1000000);
	}
	const struct core *c = w->core;
	ck_assert_msg(!fsck_run(c), "%s", said);
	ck_assert_uint_eq(c->groups[0].n_shelves, 6);
	MUTATE(shelf_at(c, shelf_of_heap(c, 0, 0))->key, UINT64_MAX, "a heap of shelves is out of order");
	MUTATE(shelf_at(c, shelf_of_heap(c, 0, 5))->key, (uint64_t)0, "a heap of shelves is out of order");
	world_free(w);
}
END_TEST

int main(void)
{
	const TTest *list[] = { frames_and_pages, extents_and_sums, index_and_charges,
				sequences_and_holds, spill_tier, tenants_and_reclaim, heap_order };
	return run_suite("core_fsck", list, sizeof(list) / sizeof(list[0]));
}
