/* read_reclaim.c - rows about what goes next, what went, for whom and why.  Changes nothing.
 *
 * All of it is reclaim_plan() (plan.c) and the ledger (ledger.c) with names.  A tenant sees its own claims in the
 * order in which they go, and of what went only that it went: not how many bytes of the device that freed, nor who
 * had the benefit. */
#include "kvd/core/parts.h"

static void copy_name(char *target, const struct core *c, uint32_t tenant)
{
	memset(target, 0, KVD_NAME_MAX);
	if (tenant >= c->n_tenants)
		return;
	memcpy(target, tenant_at(c, tenant)->name, KVD_NAME_MAX);
	target[KVD_NAME_MAX - 1] = 0;
}

static uint64_t since(uint64_t now_usec, uint64_t then_usec)
{
	return now_usec > then_usec ? now_usec - then_usec : 0;
}

/* ---- what goes next ---- */

static uint32_t class_of_claim(const struct core *c, const struct claim *k)
{
	if (k->guarded)
		return KVD_CLASS_GUARDED;
	return k->shelf ? tenant_at(c, k->tenant)->class : KVD_CLASS_IN_USE;
}

/* all: the asker may know what depends on others. */
static void read_claim(const struct core *c, uint32_t claim, uint32_t rank, uint64_t now_usec, bool all,
		       struct kvd_row_plan *row)
{
	const struct claim *k = claim_at(c, claim);
	const struct node *n = node_at(c, k->node);
	const struct tenant *t = tenant_at(c, k->tenant);
	memset(row, 0, sizeof(*row));
	copy_name(row->tenant, c, k->tenant);
	/* The number of its node tells how many there are: of a name a tenant gets the hash only. */
	row->prefix = core_prefix_id(c, k->node) & (all ? ~0ull : ~0ull << 32);
	row->idle_usec = k->holds ? 0 : since(now_usec, k->used_usec);
	row->worth_usec = claim_worth_usec(c, k);
	row->charge_bytes = page_bytes_of_space(c, n->space);
	row->owner_bytes = tenant_usage(t);
	row->owner_low_bytes = t->quota.low_bytes;
	row->owner_min_bytes = t->quota.min_bytes;
	row->rank = rank;
	row->class = class_of_claim(c, k);
	row->hits_256 = hits_now(k->hits_256, k->used_usec, now_usec);
	row->recompute_tokens = KVD_PAGE_TOKENS;
	row->tokens_per_mib = space_tokens_per_mib(c, n->space);
	row->depth = n->depth;
	row->holds = k->holds;
	row->children = k->children;
	row->pinned = n->pins != 0;
	if (!all)
		return;
	row->frees_bytes = n->n_complete == 1 ? n->copies.count * row->charge_bytes : 0;
	row->space = n->space;
	row->colour = c->groups[k->home].colour;
}

void plan_row(const struct core *c, uint32_t claim, uint32_t rank, uint64_t now_usec, struct kvd_row_plan *row)
{
	read_claim(c, claim, rank, now_usec, true, row);
}

/* May the tenant see the claim?  Its own, and those of a domain that it declared itself part of are not its own. */
static bool sees(const struct core *c, uint32_t tenant, uint32_t claim)
{
	return tenant == CORE_NONE || claim_at(c, claim)->tenant == tenant;
}

uint32_t core_read_plan(const struct core *c, uint32_t tenant, uint32_t owner, uint64_t now_usec, uint32_t *cursor,
			struct kvd_row_plan *ret, uint32_t max)
{
	struct reclaim_candidate plan[CORE_PLAN_ROWS];
	uint32_t n = 0, of = tenant != CORE_NONE ? tenant : owner;
	if (of != CORE_NONE && of >= c->n_tenants)
		return 0;
	uint32_t found = reclaim_plan(c, (struct reclaim_scope){ CORE_NONE, of }, plan, CORE_PLAN_ROWS);
	for (; *cursor < found && n < max; ++*cursor)
		read_claim(c, plan[*cursor].claim, *cursor, now_usec, tenant == CORE_NONE, &ret[n++]);
	return n;
}

/* Its place in the plan of everything, or of the asker's own. */
static uint32_t rank_of(const struct core *c, uint32_t tenant, uint32_t claim)
{
	struct reclaim_candidate plan[CORE_PLAN_ROWS];
	if (!claim_at(c, claim)->shelf)
		return CORE_NONE;
	uint32_t found = reclaim_plan(c, (struct reclaim_scope){ CORE_NONE, tenant }, plan, CORE_PLAN_ROWS);
	for (uint32_t i = 0; i < found; i++)
		if (plan[i].claim == claim)
			return i;
	return CORE_NONE;
}

static uint32_t explain_node(const struct core *c, uint32_t tenant, uint32_t node, uint64_t now_usec,
			     uint32_t *cursor, struct kvd_row_plan *ret, uint32_t max)
{
	uint32_t n = 0, at = 0;
	for (uint32_t k = list_first(&node_at(c, node)->claims); k != CORE_NONE && n < max;
	     k = list_next(c, LIST_NODE_CLAIMS, k)) {
		if (!claim_at(c, k)->complete || !sees(c, tenant, k) || at++ < *cursor)
			continue;
		read_claim(c, k, rank_of(c, tenant, k), now_usec, tenant == CORE_NONE, &ret[n++]);
		++*cursor;
	}
	return n;
}

static uint32_t node_of_frame(const struct core *c, uint64_t frame)
{
	if (frame >= c->layout.frames_max)
		return 0;
	const struct extent *e = extent_at(c, extent_of(c, (uint32_t)frame));
	uint32_t slot = (uint32_t)frame & ((1u << c->slot_bits) - 1u);
	if (e->state != KVD_EXTENT_ASSIGNED || slot >= e->n_frames)
		return 0;
	uint32_t page = frame_at(c, (uint32_t)frame)->page;
	return page ? page_at(c, page)->node : 0;
}

uint32_t core_read_explain(const struct core *c, uint32_t tenant, enum core_explain kind, uint64_t number,
			   uint64_t now_usec, uint32_t *cursor, struct kvd_row_plan *ret, uint32_t max)
{
	uint32_t node = 0;
	switch (kind) {
	case CORE_EXPLAIN_TENANT:
		if (number >= c->n_tenants || (tenant != CORE_NONE && tenant != number))
			return 0;
		return core_read_plan(c, tenant, (uint32_t)number, now_usec, cursor, ret, max);
	case CORE_EXPLAIN_PREFIX: node = node_of_prefix(c, number); break;
	case CORE_EXPLAIN_FRAME:
		node = tenant == CORE_NONE ? node_of_frame(c, number) : 0; /* frames are the device's */
		break;
	}
	return node ? explain_node(c, tenant, node, now_usec, cursor, ret, max) : 0;
}

/* ---- what went ---- */

static void read_ledger(const struct core *c, const struct ledger_row *l, uint64_t now_usec,
			struct kvd_row_eviction *row)
{
	memset(row, 0, sizeof(*row));
	copy_name(row->victim, c, l->victim);
	copy_name(row->by, c, l->by);
	row->bytes = l->bytes;
	row->pages = l->pages;
	row->refault_tokens = l->refault_tokens;
	row->last_usec_ago = since(now_usec, l->last_usec);
	row->reason = l->reason;
}

/* A tenant's own rows: what it did itself, and all that was for others in one row. */
static uint32_t own_evictions(const struct core *c, uint32_t tenant, uint64_t now_usec,
			      struct kvd_row_eviction row[2])
{
	struct ledger_row sum[2] = { { .victim = tenant, .by = tenant, .reason = KVD_RECLAIM_HIGH },
				     { .victim = tenant, .by = CORE_NONE, .reason = KVD_RECLAIM_DIRECT } };
	uint32_t n = 0;
	for (uint32_t i = 1; i < LEDGER_ROWS; i++) {
		const struct ledger_row *l = ledger_row_at(c, i);
		if (!l->live || l->victim != tenant)
			continue;
		struct ledger_row *to = &sum[l->by != tenant];
		to->live = 1;
		to->bytes += l->bytes;
		to->pages += l->pages;
		to->refault_tokens += l->refault_tokens;
		to->last_usec = to->last_usec > l->last_usec ? to->last_usec : l->last_usec;
	}
	for (uint32_t i = 0; i < 2; i++)
		if (sum[i].live)
			read_ledger(c, &sum[i], now_usec, &row[n++]);
	return n;
}

uint32_t core_read_evictions(const struct core *c, uint32_t tenant, uint64_t now_usec, uint32_t *cursor,
			     struct kvd_row_eviction *ret, uint32_t max)
{
	uint32_t n = 0;
	if (tenant != CORE_NONE) {
		struct kvd_row_eviction own[2];
		uint32_t found = tenant < c->n_tenants ? own_evictions(c, tenant, now_usec, own) : 0;
		for (; *cursor < found && n < max; ++*cursor)
			ret[n++] = own[*cursor];
		return n;
	}
	for (; *cursor < LEDGER_ROWS && n < max; ++*cursor)
		if (ledger_row_at(c, *cursor)->live)
			read_ledger(c, ledger_row_at(c, *cursor), now_usec, &ret[n++]);
	return n;
}

uint32_t core_read_evicted(const struct core *c, uint32_t tenant, uint64_t now_usec, uint32_t *cursor,
			   struct kvd_row_evicted *ret, uint32_t max)
{
	uint32_t n = 0;
	for (; *cursor < EVICTED_ROWS && *cursor < c->n_evicted && n < max; ++*cursor) {
		const struct evicted_row *e = &c->evicted[(c->n_evicted - 1 - *cursor) % EVICTED_ROWS];
		bool all = tenant == CORE_NONE || e->by == tenant;
		if (tenant != CORE_NONE && e->victim != tenant)
			continue;
		struct kvd_row_evicted *row = &ret[n++];
		memset(row, 0, sizeof(*row));
		copy_name(row->victim, c, e->victim);
		copy_name(row->by, c, all ? e->by : CORE_NONE);
		row->prefix = e->prefix;
		row->usec_ago = since(now_usec, e->usec);
		row->idle_usec = e->idle_usec;
		row->bytes = e->bytes;
		row->reason = all ? e->reason : KVD_RECLAIM_DIRECT;
		row->class = e->class;
		row->hits_256 = e->hits_256;
		row->depth = e->depth;
	}
	return n;
}
