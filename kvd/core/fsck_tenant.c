/* fsck_tenant.c - the checker's part about tenants: the order of candidates, floors, classes, the ledger. */
#include "kvd/core/fsck.h"

/* A complete claim: candidate or not, kept or not. */
void fsck_claim(struct check *k, uint32_t number, const struct node *n)
{
	const struct core *c = k->c;
	const struct claim *claim = claim_at(c, number);
	bool candidate = !claim->holds && n->present && !n->pins &&
			 !(claim->guarded ? claim->guarded_children : claim->near);
	fsck_check(k, candidate == !!claim->shelf,
		   "a claim is a reclaim candidate and not listed so, or the reverse", number);
	if (claim->shelf && claim->shelf <= c->shelves.high) {
		const struct shelf *s = shelf_at(c, claim->shelf);
		fsck_check(k, !s->next_free && s->tenant == claim->tenant &&
			   s->group == (claim->guarded ? CORE_NONE : claim->home) && claim->level < SHELF_LEVELS,
			   "a claim is on another tenant's or group's shelf", number);
	}
	if (claim->guarded) {
		uint32_t parent = n->parent ? claim_find(c, n->parent, claim->domain) : 0;
		fsck_check(k, !claim->holds && n->present, "a claim in use or on disk is kept by a floor as well",
			   number);
		fsck_check(k, !parent || claim_at(c, parent)->guarded || claim_at(c, parent)->holds,
			   "a floor keeps a page and not the one before it", number);
		((struct tenant *)(uintptr_t)tenant_at(c, claim->tenant))->check_guarded +=
			page_bytes_of_space(c, n->space);
	}
}

static uint32_t check_shelf(struct check *k, uint32_t number)
{
	const struct core *c = k->c;
	const struct shelf *s = shelf_at(c, number);
	uint32_t count = 0, first = CORE_NONE;
	for (uint32_t i = 0; i < SHELF_LEVELS; i++) {
		struct fsck_walk w = { 0 };
		while (fsck_walk_next(k, LIST_LRU, &s->level[i], c->claims.high + 1, &w))
			fsck_check(k, claim_at(c, w.at)->shelf == number && claim_at(c, w.at)->level == i,
				   "a claim is in another shelf's reclaim list", w.at);
		if (!fsck_walk_end(k, LIST_LRU, &s->level[i], &w, "a reclaim list is broken"))
			return 0;
		count += s->level[i].count;
		uint32_t head = list_first(&s->level[i]);
		if (head != CORE_NONE && (first == CORE_NONE || claim_value(c, head) < claim_value(c, first)))
			first = head;
	}
	fsck_check(k, count == s->count && count, "a shelf's count of claims is wrong", number);
	uint32_t class = s->group == CORE_NONE ? KVD_CLASS_GUARDED : tenant_at(c, s->tenant)->class;
	fsck_check(k, first != CORE_NONE && s->key == class_key(class, claim_value(c, first)),
		   "a shelf stands where neither its owner's class nor its first claim puts it", number);
	if (s->group == CORE_NONE)
		fsck_check(k, tenant_at(c, s->tenant)->shelf == number && !s->heap,
			   "a floor's shelf is not its tenant's", number);
	else
		fsck_check(k, s->heap && shelf_of_heap(c, s->group, s->heap - 1) == number,
			   "a shelf is not in its group's heap", number);
	return s->group != CORE_NONE;
}

static void check_heaps(struct check *k, uint32_t listed)
{
	const struct core *c = k->c;
	uint32_t in_heaps = 0;
	for (uint32_t g = 0; g < GROUPS_MAX; g++) {
		uint32_t n = c->groups[g].n_shelves;
		in_heaps += n;
		fsck_check(k, !!n == (c->shelf_groups[g / 64] >> g % 64 & 1u),
			   "a group's candidates are not announced, or it has none", g);
		for (uint32_t at = 1; at < n && n <= c->config.tenants_max; at++) {
			uint32_t up = shelf_of_heap(c, g, (at - 1) / 2), down = shelf_of_heap(c, g, at);
			fsck_check(k, up && down && up <= c->shelves.high && down <= c->shelves.high &&
				   shelf_at(c, up)->key <= shelf_at(c, down)->key,
				   "a heap of shelves is out of order", g);
		}
	}
	fsck_check(k, in_heaps == listed, "a shelf is in no heap, or twice", listed);
}

static void check_tenant(struct check *k, uint32_t number)
{
	const struct core *c = k->c;
	const struct tenant *t = tenant_at(c, number);
	const struct core_quota *q = &t->quota;
	uint64_t usage = tenant_usage(t), kept = t->held_bytes + t->reserved_bytes + t->guarded_bytes;
	fsck_check(k, t->guarded_bytes == t->check_guarded, "a tenant's kept bytes are not its floor's", number);
	fsck_check(k, t->floor_bytes == (usage < q->min_bytes ? usage : q->min_bytes),
		   "the part of a charge that the tenant's min covers is wrong", number);
	fsck_check(k, q->weight && q->min_bytes <= q->low_bytes && (!q->max_bytes || q->high_bytes < q->max_bytes),
		   "a tenant's quota makes no sense", number);
	fsck_check(k, t->class == (q->high_bytes && usage > q->high_bytes ? KVD_CLASS_OVER_HIGH
				   : usage <= q->low_bytes		    ? KVD_CLASS_LOW
									    : KVD_CLASS_NORMAL),
		   "a tenant's class is not what its charge says", number);
	/* A chain with a page on disk, or on its way there, perhaps another tenant's of the domain, is kept only when
	 * that has been read and its tenant does something next. */
	fsck_check(k, kept >= q->min_bytes || !t->shelves.count || c->spill_generation ||
		   (t->dirty & DIRTY_GUARD) || t->guard_blocked,
		   "a tenant below its min has pages that others may take", number);
	if (!fsck_list(k, LIST_SHELVES, &t->shelves, c->shelves.high + 1, "a tenant's list of shelves is broken"))
		return;
	for (uint32_t s = list_first(&t->shelves); s != CORE_NONE; s = list_next(c, LIST_SHELVES, s))
		fsck_check(k, shelf_at(c, s)->tenant == number, "a shelf is in another tenant's list", s);
}

/* Who waits in the queue stands in its tenant's part of it; tenants that wait there or for their rate are listed. */
static void check_queues(struct check *k)
{
	const struct core *c = k->c;
	uint32_t queued = 0, listed = 0, rates = 0, triggers = 0;
	for (uint32_t i = 0; i < c->n_tenants; i++) {
		const struct tenant *t = tenant_at(c, i);
		queued += t->queued.count;
		listed += t->queued_listed;
		rates += t->rate_listed;
		fsck_check(k, t->rate_listed == !!t->rated.count,
			   "a tenant waits for its insert rate and is not listed so, or the reverse", i);
		if (fsck_list(k, LIST_TENANT_RUNNING, &t->queued, c->config.seqs_max + 1,
			      "a tenant's part of the queue is broken"))
			for (uint32_t s = list_first(&t->queued); s != CORE_NONE;
			     s = list_next(c, LIST_TENANT_RUNNING, s))
				fsck_check(k, seq_at(c, s)->tenant == i && seq_at(c, s)->wait == WAIT_QUEUE,
					   "a sequence is in another tenant's part of the queue", s);
	}
	fsck_check(k, queued == c->queue.count, "a sequence in the queue is in no tenant's part of it", queued);
	fsck_check(k, listed == c->queued_tenants.count, "the number of tenants in the queue is wrong", listed);
	fsck_check(k, rates == c->rate_tenants.count, "the number of tenants that wait for their rate is wrong", rates);
	fsck_list(k, LIST_QUEUED, &c->queued_tenants, c->n_tenants + 1, "the list of tenants in the queue is broken");
	fsck_list(k, LIST_RATES, &c->rate_tenants, c->n_tenants + 1,
		  "the list of tenants that wait for a rate is broken");
	for (uint32_t i = 0; i < CORE_TRIGGERS_MAX; i++)
		triggers += !!c->triggers[i].window_usec;
	fsck_check(k, triggers == c->n_triggers, "the number of triggers is wrong", triggers);
}

static void check_ledger(struct check *k)
{
	const struct core *c = k->c;
	uint64_t pages = 0, tokens = 0, reasons = 0;
	for (uint32_t i = 0; i < LEDGER_ROWS; i++) {
		pages += c->ledger[i].live ? c->ledger[i].pages : 0;
		tokens += c->ledger[i].live ? c->ledger[i].refault_tokens : 0;
	}
	for (uint32_t i = 0; i < KVD_RECLAIM_REASONS; i++)
		reasons += c->reclaimed_pages[i];
	fsck_check(k, pages == c->n_evicted && reasons == c->n_evicted,
		   "the ledger's pages are not all that were evicted", pages);
	fsck_check(k, tokens == c->refault_tokens,
		   "the ledger's tokens are not all that were computed again", tokens);
}

/* Who waits for memory is counted as stalled, and what follows from the counts is what PSI adds up now. */
static void check_stalls(struct check *k)
{
	const struct core *c = k->c;
	uint32_t stalled = 0, running = 0;
	for (uint32_t i = 0; i < c->n_tenants; i++) {
		struct tenant *t = (struct tenant *)(uintptr_t)tenant_at(c, i);
		t->check_stalled = t->check_stalled_running = 0;
	}
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		const struct engine *e = &c->engines[i];
		for (uint32_t n = 0; e->state == ENGINE_LIVE && n < e->max_seqs; n++) {
			const struct seq *s = seq_at(c, e->seq_base + n);
			bool waits = (s->wait == WAIT_QUEUE && !s->throttled) || s->wait == WAIT_MEMORY ||
				     s->wait == WAIT_FETCH;
			if (s->state == SEQ_EMPTY)
				continue;
			fsck_check(k, waits == (s->stall != STALL_NONE) &&
				   (!waits || (s->stall == STALL_RUNNING) == (s->state == SEQ_RUNNING)),
				   "a sequence waits for memory and is not counted as stalled, or the reverse",
				   e->seq_base + n);
			struct tenant *t = (struct tenant *)(uintptr_t)tenant_at(c, s->tenant);
			t->check_stalled += s->stall != STALL_NONE;
			t->check_stalled_running += s->stall == STALL_RUNNING;
		}
	}
	for (uint32_t i = 0; i < c->n_tenants; i++) {
		const struct tenant *t = tenant_at(c, i);
		stalled += t->stalled;
		running += t->stalled_running;
		fsck_check(k, t->stalled == t->check_stalled && t->stalled_running == t->check_stalled_running,
			   "a tenant's count of stalled sequences is wrong", i);
		fsck_check(k, t->psi.some == !!t->stalled &&
			   t->psi.full == (t->stalled && t->running.count == t->stalled_running),
			   "a tenant's pressure is not what its sequences say", i);
	}
	fsck_check(k, stalled == c->stalled && running == c->stalled_running,
		   "the number of stalled sequences is wrong", stalled);
	fsck_check(k, c->psi.some == !!c->stalled &&
		   c->psi.full == (c->stalled && c->running.count == c->stalled_running),
		   "the pool's pressure is not what the sequences say", c->stalled);
}

/* Shares are parts of the weights of those who run or wait; engines that keep an extent are alive. */
static void check_shares(struct check *k)
{
	const struct core *c = k->c;
	uint64_t weight = 0;
	uint32_t live = 0, keeps = 0;
	for (uint32_t i = 0; i < c->n_tenants; i++) {
		const struct tenant *t = tenant_at(c, i);
		bool active = t->running.count || t->queued.count;
		weight += t->active_weight;
		fsck_check(k, t->active_weight == (active ? t->quota.weight : 0),
			   "a tenant that runs or waits has no part in the shares, or an idle one has", i);
		fsck_check(k, !!t->queued_listed == !!t->queued.count, "a tenant in the queue is not listed there", i);
	}
	for (uint32_t e = 0; e < CORE_ENGINES_MAX; e++) {
		live += c->engines[e].state == ENGINE_LIVE;
		keeps += c->groups[e].keep != 0;
		fsck_check(k, !c->groups[e].keep || c->engines[e].state == ENGINE_LIVE,
			   "an engine that is gone keeps an extent", e);
	}
	fsck_check(k, weight == c->active_weight, "the sum of active weights is wrong", weight);
	fsck_check(k, live == c->n_live, "the number of live engines is wrong", live);
	fsck_check(k, keeps == c->n_keeps, "the number of kept extents is wrong", keeps);
}

void fsck_tenants(struct check *k)
{
	check_shares(k);
	const struct core *c = k->c;
	uint64_t guarded = 0, floors = 0;
	uint32_t shelves = 0, listed = 0, in_lists = 0, dirty = 0;
	for (uint32_t i = 1; i <= c->shelves.high; i++) {
		if (shelf_at(c, i)->next_free || !shelf_at(c, i)->count)
			continue;
		shelves++;
		listed += check_shelf(k, i);
	}
	fsck_check(k, shelves == c->shelves.count, "the number of shelves is wrong", shelves);
	check_heaps(k, listed);
	for (uint32_t i = 0; i < c->n_tenants; i++) {
		check_tenant(k, i);
		guarded += tenant_at(c, i)->guarded_bytes;
		floors += tenant_at(c, i)->floor_bytes;
		in_lists += tenant_at(c, i)->shelves.count;
		dirty += !!tenant_at(c, i)->dirty;
	}
	fsck_check(k, in_lists == listed, "a shelf is missing in its tenant's list", in_lists);
	fsck_check(k, guarded == c->guarded_bytes && floors == c->floor_bytes,
		   "the sums of what floors keep and cover are wrong", guarded);
	fsck_check(k, dirty == c->dirty_tenants.count, "a tenant waits to be looked at and is not listed", dirty);
	fsck_list(k, LIST_DIRTY, &c->dirty_tenants, c->n_tenants + 1, "the list of tenants to look at is broken");
	check_stalls(k);
	check_queues(k);
	check_ledger(k);
}
