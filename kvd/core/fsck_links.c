/* fsck_links.c - the checker's first part: does every number in the book name a record that exists?
 *
 * A book may come from a process that died, and adoption trusts nothing in it.  One pass over all
 * records in use, in order of number; it follows nothing.  After it, whoever follows a number stays inside
 * its array; that a walk ends is the business of fsck_list() and of the bound on hash chains
 * (CHAIN_MAX).  Any finding here ends the check: what comes next would follow it. */
#include "kvd/core/fsck.h"

static void in_range(struct check *k, bool ok, const char *sentence, uint64_t number)
{
	fsck_check(k, ok, sentence, number);
	k->broken = k->broken || !ok;
}

/* Links and lists hold record numbers + 1. */
static bool link_ok(const struct link *l, uint64_t bound)
{
	return l->prev <= bound && l->next <= bound;
}

static bool list_ok(const struct list *l, uint64_t bound)
{
	return l->head <= bound && l->tail <= bound;
}

/* A free list ends where the pool's free records do, within as many steps. */
static void check_pool(struct check *k, const struct pool *p, enum pool_kind kind, uint32_t max, uint64_t number)
{
	uint32_t n = 0, r = p->free;
	in_range(k, p->max <= max && p->high <= p->max, "a pool has more records than its array", number);
	if (k->broken)
		return;
	for (; r && r <= p->high && n <= p->high; n++) {
		fsck_check(k, pool_is_clear(k->c, kind, r), "a pool's free record is not empty", r);
		r = pool_next_free(k->c, kind, r);
	}
	fsck_check(k, !r && n + p->count == p->high, "a pool's free records are not all listed", number);
}

static void check_globals(struct check *k)
{
	const struct core *c = k->c;
	const struct layout *l = &c->layout;
	in_range(k, c->n_tenants <= c->config.tenants_max && c->n_domains <= l->domains_max &&
		 c->n_spaces <= SPACES_MAX, "there are more tenants, domains or spaces than records", c->n_tenants);
	in_range(k, c->items_head <= c->items_tail && c->items_tail <= l->items_max,
		 "the action queue is longer than its array", c->items_tail);
	in_range(k, c->evacuating <= c->n_extents, "the extent being emptied does not exist", c->evacuating);
	in_range(k, c->populate_next <= c->n_extents, "the extent to populate next does not exist", c->populate_next);
	check_pool(k, &c->pages, POOL_PAGES, l->frames_max, 0);
	check_pool(k, &c->nodes, POOL_NODES, l->nodes_max, 1);
	check_pool(k, &c->claims, POOL_CLAIMS, l->claims_max, 2);
	check_pool(k, &c->shelves, POOL_SHELVES, l->shelves_max, 3);
	check_pool(k, &c->jobs, POOL_JOBS, JOBS_MAX, 4);
}

static void check_spaces(struct check *k)
{
	const struct core *c = k->c;
	uint32_t sealed = 0;
	for (uint32_t i = 0; i < c->n_spaces; i++) {
		const struct space *s = &c->spaces[i];
		const struct kvd_geometry *g = &s->geometry;
		sealed += s->sealed_fresh + s->sealed_aged;
		if (!s->live)
			continue;
		bool cut = s->page_bytes && s->page_bytes == (uint64_t)g->block_bytes * g->n_planes &&
			   g->extent_bytes == c->config.extent_bytes && g->slot_bits == c->slot_bits &&
			   g->n_frames == g->extent_bytes / s->page_bytes && g->n_frames <= 1u << c->slot_bits &&
			   g->n_frames >= 8 && g->plane_bytes == (uint64_t)g->n_frames * g->block_bytes;
		in_range(k, cut, "a space's geometry makes no sense", i);
		if (cut)
			fsck_check(k, s->worth_usec == space_worth_usec(c, i), "a space's pages have another worth",
				   i);
	}
	fsck_check(k, sealed == c->sealed_waiting, "the number of pages whose merging has not come is wrong", sealed);
}

static void check_engines(struct check *k)
{
	const struct core *c = k->c;
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		const struct engine *e = &c->engines[i];
		in_range(k, e->state <= ENGINE_QUIET, "an engine is in no known state", i);
		if (e->state == ENGINE_FREE)
			continue;
		in_range(k, e->space < c->n_spaces && c->spaces[e->space].live, "an engine's space does not exist", i);
		if (e->state != ENGINE_LIVE)
			continue;
		uint64_t holds = (uint64_t)e->max_seqs * e->max_pages;
		in_range(k, e->max_seqs && e->max_pages && e->seq_base &&
			 (uint64_t)e->seq_base + e->max_seqs <= c->config.seqs_max + 1ull &&
			 (uint64_t)e->hold_base + holds <= c->config.holds_max,
			 "an engine's sequences lie outside of their array", i);
		in_range(k, list_ok(&e->ack_waiters, c->config.seqs_max + 1ull), "a list begins nowhere", i);
	}
}

static void check_groups(struct check *k)
{
	const struct core *c = k->c;
	for (uint32_t i = 0; i < GROUPS_MAX; i++) {
		const struct group *g = &c->groups[i];
		in_range(k, g->space < SPACES_MAX && (g->engine == CORE_NONE || g->engine < CORE_ENGINES_MAX),
			 "a group's space or engine does not exist", i);
		in_range(k, g->n_shelves <= c->config.tenants_max, "a heap has more shelves than places", i);
		for (uint32_t at = 0; at < g->n_shelves && !k->broken; at++) {
			uint32_t s = shelf_of_heap(c, i, at);
			in_range(k, s && s <= c->shelves.high && !shelf_at(c, s)->next_free,
				 "a heap holds a shelf that does not exist", i);
		}
	}
}

static void check_extents(struct check *k)
{
	const struct core *c = k->c;
	uint64_t extents = c->n_extents, frames = c->layout.frames_max;
	for (uint32_t x = 0; x < c->n_extents; x++) {
		const struct extent *e = extent_at(c, x);
		in_range(k, e->state < KVD_EXTENT_STATES, "an extent is in no known state", x);
		in_range(k, e->group < GROUPS_MAX, "an extent belongs to no group", x);
		in_range(k, e->bucket <= BUCKETS && e->n_frames <= 1u << c->slot_bits &&
			 e->high <= 1u << c->slot_bits &&
			 !(e->mapped >> 63) && (e->state != KVD_EXTENT_SCRUB || e->scrub_space < SPACES_MAX),
			 "an extent's frames or engines do not exist", x);
		in_range(k, link_ok(&e->link, extents) && link_ok(&e->partial, extents) && link_ok(&e->idle, extents) &&
			 list_ok(&e->free, frames) && list_ok(&e->switching, c->nodes.high + 1ull),
			 "an extent's link leads nowhere", x);
		for (uint32_t i = 0; e->state == KVD_EXTENT_ASSIGNED && i < e->high && !k->broken; i++) {
			const struct frame *f = frame_at(c, (x << c->slot_bits) + i);
			in_range(k, f->page <= c->pages.high, "a frame names a page that does not exist",
				 (x << c->slot_bits) + i);
			in_range(k, link_ok(&f->link, frames), "a frame's link leads nowhere", (x << c->slot_bits) + i);
		}
	}
}

static void check_pages(struct check *k)
{
	const struct core *c = k->c;
	uint64_t pages = c->pages.high + 1ull;
	for (uint32_t i = 1; i <= c->pages.high && !k->broken; i++) {
		const struct page *p = page_at(c, i);
		if (p->next_free || p->state == PAGE_NONE)
			continue;
		in_range(k, p->frame < c->layout.frames_max && extent_of(c, p->frame) < c->n_extents,
			 "a page's frame does not exist", i);
		in_range(k, p->node <= c->nodes.high && p->tenant < c->n_tenants && p->domain < c->n_domains,
			 "a page's node, tenant or domain does not exist", i);
		in_range(k, link_ok(&p->copy, pages) && link_ok(&p->cool, pages) &&
			 list_ok(&p->holders, c->config.holds_max + 1ull), "a page's link leads nowhere", i);
	}
}

static void check_nodes(struct check *k)
{
	const struct core *c = k->c;
	uint64_t nodes = c->nodes.high + 1ull;
	for (uint32_t i = 1; i <= c->nodes.high && !k->broken; i++) {
		const struct node *n = node_at(c, i);
		if (n->next_free || !n->live)
			continue;
		in_range(k, n->space < c->n_spaces && c->spaces[n->space].live &&
			 n->parent <= c->nodes.high &&
			 n->parent != i && n->hash_next <= c->nodes.high && n->shared <= c->pages.high &&
			 n->job <= c->jobs.high && n->switch_extent <= c->n_extents &&
			 n->spill <= c->layout.spills_max &&
			 n->queued <= 2, "a node's space, parent, copy or job does not exist", i);
		in_range(k, link_ok(&n->sibling, nodes) && link_ok(&n->queue, nodes) &&
			 link_ok(&n->switch_link, nodes) &&
			 list_ok(&n->copies, c->pages.high + 1ull) && list_ok(&n->claims, c->claims.high + 1ull) &&
			 list_ok(&n->children, nodes) && list_ok(&n->waiters, c->config.seqs_max + 1ull),
			 "a node's link leads nowhere", i);
	}
}

static void check_claims(struct check *k)
{
	const struct core *c = k->c;
	uint64_t claims = c->claims.high + 1ull, seqs = c->config.seqs_max + 1ull;
	for (uint32_t i = 1; i <= c->claims.high && !k->broken; i++) {
		const struct claim *q = claim_at(c, i);
		if (q->next_free || !q->node)
			continue;
		in_range(k, q->node <= c->nodes.high && node_at(c, q->node)->live && q->domain < c->n_domains &&
			 q->tenant < c->n_tenants && q->hash_next <= c->claims.high && q->promiser < seqs &&
			 q->shelf <= c->shelves.high && q->home < GROUPS_MAX && q->level < SHELF_LEVELS,
			 "a claim's node, domain, tenant or shelf does not exist", i);
		in_range(k, link_ok(&q->of_node, claims) && link_ok(&q->lru, claims) && link_ok(&q->promised, claims) &&
			 list_ok(&q->waiters, seqs), "a claim's link leads nowhere", i);
	}
	for (uint32_t i = 1; i <= c->shelves.high && !k->broken; i++) {
		const struct shelf *s = shelf_at(c, i);
		if (s->next_free || !s->count)
			continue;
		bool ok = s->tenant < c->n_tenants && (s->group == CORE_NONE || s->group < GROUPS_MAX) &&
			  link_ok(&s->of_tenant, c->shelves.high + 1ull);
		for (uint32_t level = 0; level < SHELF_LEVELS; level++)
			ok = ok && list_ok(&s->level[level], claims);
		in_range(k, ok, "a shelf's tenant, group or list does not exist", i);
	}
}

static void check_tenants(struct check *k)
{
	const struct core *c = k->c;
	uint64_t seqs = c->config.seqs_max + 1ull;
	for (uint32_t i = 0; i < c->n_tenants; i++) {
		const struct tenant *t = tenant_at(c, i);
		in_range(k, t->domain < c->n_domains && t->shelf <= c->shelves.high && t->sharing <= CORE_REUSE &&
			 link_ok(&t->link, c->n_tenants) && link_ok(&t->dirty_link, c->n_tenants) &&
			 list_ok(&t->shelves, c->shelves.high + 1ull) && list_ok(&t->running, seqs),
			 "a tenant's domain, shelf or list does not exist", i);
	}
}

static void check_holds(struct check *k, const struct engine *e, const struct seq *s, uint32_t number)
{
	const struct core *c = k->c;
	for (uint32_t i = 0; i < e->max_pages && !k->broken; i++) {
		const struct hold *h = hold_at(c, s->row + i);
		in_range(k, h->page <= c->pages.high && h->claim <= c->claims.high && h->node <= c->nodes.high &&
			 link_ok(&h->link, c->config.holds_max + 1ull), "a table slot names a page that does not exist",
			 number);
	}
}

static void check_seqs(struct check *k)
{
	const struct core *c = k->c;
	uint64_t seqs = c->config.seqs_max + 1ull;
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		const struct engine *e = &c->engines[i];
		for (uint32_t n = 0; e->state == ENGINE_LIVE && n < e->max_seqs && !k->broken; n++) {
			uint32_t number = e->seq_base + n;
			const struct seq *s = seq_at(c, number);
			if (s->state == SEQ_EMPTY)
				continue;
			in_range(k, s->state <= SEQ_PREEMPTED && s->wait <= WAIT_JOB && s->stall <= STALL_RUNNING &&
				 s->fetch <= FETCH_SERVED, "a sequence is in no known state", number);
			in_range(k, s->engine == i && s->slot == n && s->tenant < c->n_tenants &&
				 s->domain < c->n_domains && s->row >= e->hold_base &&
				 (uint64_t)s->row + e->max_pages <= (uint64_t)e->hold_base +
					 (uint64_t)e->max_seqs * e->max_pages,
				 "a sequence's engine, tenant or table row is another's", number);
			in_range(k, s->n_pages <= e->max_pages && s->n_nodes <= e->max_pages &&
				 s->n_sealed <= s->n_pages && s->want <= e->max_pages && s->job <= c->jobs.high &&
				 s->copy_page <= e->max_pages && s->copy_from <= c->layout.frames_max,
				 "a sequence has more pages than its row", number);
			in_range(k, (s->wait != WAIT_PROMISE || (s->wait_on && s->wait_on <= c->claims.high)) &&
				 (s->wait != WAIT_SHARE || (s->wait_on && s->wait_on <= c->nodes.high)) &&
				 (s->wait != WAIT_ACK || s->wait_on < c->n_extents),
				 "a sequence waits for something that does not exist", number);
			in_range(k, list_ok(&s->promises, c->claims.high + 1ull) && link_ok(&s->link, seqs) &&
				 link_ok(&s->run, seqs) && link_ok(&s->of_tenant, seqs) && link_ok(&s->promiser, seqs),
				 "a sequence's link leads nowhere", number);
			if (!k->broken)
				check_holds(k, e, s, number);
		}
	}
}

static bool frame_ok(const struct core *c, uint32_t frame)
{
	return frame == CORE_NONE || (frame < c->layout.frames_max && extent_of(c, frame) < c->n_extents);
}

static void check_jobs(struct check *k)
{
	const struct core *c = k->c;
	uint32_t in[JOB_KINDS] = { 0 };
	for (uint32_t i = 1; i <= c->jobs.high; i++) {
		const struct job *j = &c->job[i];
		if (j->next_free || !j->kind)
			continue;
		in_range(k, j->kind < JOB_KINDS && j->group < GROUPS_MAX && j->node <= c->nodes.high &&
			 j->seq <= c->config.seqs_max && j->spill <= c->layout.spills_max &&
			 j->source_page <= c->pages.high && j->peer_page <= c->pages.high &&
			 frame_ok(c, j->source) && frame_ok(c, j->peer) &&
			 (j->kind == JOB_EXTENT ? j->target < c->n_extents : frame_ok(c, j->target)),
			 "a mover's job names something that does not exist", i);
		if (j->kind < JOB_KINDS)
			in[j->kind]++;
	}
	for (uint32_t i = 0; i < JOB_KINDS; i++)
		fsck_check(k, in[i] == c->jobs_in[i], "the number of mover jobs of a kind is wrong", i);
	for (uint32_t i = 0; i < BATCHES_MAX; i++)
		in_range(k, list_ok(&c->batches[i].frames, c->layout.frames_max), "a list begins nowhere", i);
}

/* The pool's own lists: walked here, once all links are inside. */
static void check_lists(struct check *k)
{
	const struct core *c = k->c;
	uint64_t nodes = c->nodes.high + 1ull, seqs = c->config.seqs_max + 1ull;
	fsck_list(k, LIST_EXTENTS, &c->unassigned, c->n_extents, "the list of unassigned extents is broken");
	fsck_list(k, LIST_EXTENTS, &c->leaving, c->n_extents, "the list of leaving extents is broken");
	fsck_list(k, LIST_EXTENTS, &c->scrub_extents, c->n_extents, "the list of extents to scrub is broken");
	fsck_list(k, LIST_MERGES, &c->merge_queue, nodes, "the merge queue is broken");
	fsck_check(k, c->merge_due <= c->merge_aged && c->merge_aged <= c->merge_queue.count,
		   "more merges are due than wait", c->merge_due);
	fsck_list(k, LIST_MERGES, &c->promote_queue, nodes, "the promote queue is broken");
	fsck_list(k, LIST_SWITCHES, &c->switch_queue, nodes, "the switch queue is broken");
	fsck_list(k, LIST_WAITERS, &c->awake, seqs, "the list of sequences to look at is broken");
	fsck_list(k, LIST_TENANTS, &c->tenants_running, c->n_tenants, "the list of tenants that run is broken");
	for (uint32_t i = 0; i < GROUPS_MAX; i++) {
		fsck_list(k, LIST_WAITERS, &c->groups[i].pending, seqs, "a group's list of waiters is broken");
		fsck_check(k, !!c->groups[i].pending.count == (c->pending_groups[i / 64] >> i % 64 & 1u),
			   "a group's waiters are not announced, or it has none", i);
	}
	for (uint32_t i = 0; i < c->n_tenants; i++)
		fsck_list(k, LIST_TENANT_RUNNING, &tenant_at(c, i)->running, seqs,
			  "a tenant's list of running sequences is broken");
}

bool fsck_links(struct check *k)
{
	static void (*const parts[])(struct check *k) = {
		check_globals, check_spaces, check_engines, check_groups, check_extents, check_pages,
		check_nodes, check_claims, check_tenants, check_seqs, check_jobs, check_lists,
	};
	for (uint32_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && !k->broken; i++)
		parts[i](k);
	return !k->broken;
}
