/* read_steer.c - rows about prefixes and about who has which bytes (smaps).  Changes nothing.
 *
 * Both walk the pool on request.  A prefix has a row where it ends or branches; the rows of a long list come
 * in several calls and are a walk over moving things. */
#include "kvd/core/parts.h"

static void copy_name(char *target, const char *source)
{
	memcpy(target, source, KVD_NAME_MAX);
	target[KVD_NAME_MAX - 1] = 0;
}

/* ---- prefixes ---- */

static uint64_t copies_bytes(const struct core *c, const struct node *n)
{
	return n->copies.count * page_bytes_of_space(c, n->space);
}

static uint32_t claimed_children(const struct core *c, const struct node *n)
{
	uint32_t claimed = 0;
	for (uint32_t ch = list_first(&n->children); ch != CORE_NONE && claimed < 2;
	     ch = list_next(c, LIST_CHILDREN, ch))
		claimed += node_at(c, ch)->n_complete != 0;
	return claimed;
}

/* A prefix ends at a node from which nothing goes on, or more than one thing, or where an admin said so. */
static bool prefix_ends(const struct core *c, const struct node *n)
{
	return n->n_complete && (n->pinned || n->published || claimed_children(c, n) != 1);
}

static void read_prefix(const struct core *c, uint32_t node, uint64_t now_usec, struct kvd_row_prefix *row)
{
	const struct node *n = node_at(c, node);
	uint64_t used_usec = 0;
	bool own = true;
	memset(row, 0, sizeof(*row));
	row->id = core_prefix_id(c, node);
	row->pages = n->depth + 1;
	row->tokens = row->pages * KVD_PAGE_TOKENS;
	row->claims = n->n_complete;
	row->hits = n->hits;
	row->pinned = n->pinned ? 1 : n->pins ? 2 : 0;
	row->published = n->published ? 1 : n->publics ? 2 : 0;
	row->space = n->space;
	row->shared = n->shared != 0;
	copy_name(row->model, c->spaces[n->space].model);
	for (uint32_t at = node; at; at = node_at(c, at)->parent) {
		own = own && (at == node || !prefix_ends(c, node_at(c, at)));
		row->bytes += copies_bytes(c, node_at(c, at));
		row->own_bytes += own ? copies_bytes(c, node_at(c, at)) : 0;
	}
	for (uint32_t p = list_first(&n->copies); p != CORE_NONE; p = list_next(c, LIST_COPIES, p))
		row->holders += page_at(c, p)->holders.count;
	for (uint32_t k = list_first(&n->claims); k != CORE_NONE; k = list_next(c, LIST_NODE_CLAIMS, k)) {
		const struct claim *claim = claim_at(c, k);
		if (!claim->complete)
			continue;
		if (!row->tenant[0])
			copy_name(row->tenant, tenant_at(c, claim->tenant)->name);
		if (claim->used_usec > used_usec)
			used_usec = claim->used_usec;
	}
	row->idle_usec = row->holders || now_usec <= used_usec ? 0 : now_usec - used_usec;
}

/* cursor: node number.  A call looks at no more than so many nodes and 64 chains: it may find nothing and not be at
 * the end, where it leaves the cursor alone. */
uint32_t core_read_prefixes(const struct core *c, uint64_t now_usec, uint32_t *cursor,
			    struct kvd_row_prefix *ret, uint32_t max)
{
	uint32_t n = 0, visits = 0;
	if (max > 64)
		max = 64;
	for (; *cursor < c->nodes.high && n < max && visits < 32768; visits++, ++*cursor) {
		const struct node *node = node_at(c, *cursor + 1);
		if (!node->next_free && node->live && prefix_ends(c, node))
			read_prefix(c, *cursor + 1, now_usec, &ret[n++]);
	}
	return n;
}

/* ---- smaps ---- */

/* A tenant's claims, as rows [from, from + n). */
static void tenants_claims(const struct core *c, uint32_t from, struct kvd_row_smaps *rows, uint32_t n_rows)
{
	for (uint32_t k = 1; k <= c->claims.high; k++) {
		const struct claim *claim = claim_at(c, k);
		if (claim->next_free || !claim->complete || claim->tenant < from || claim->tenant - from >= n_rows)
			continue;
		const struct node *n = node_at(c, claim->node);
		uint64_t bytes = page_bytes_of_space(c, n->space);
		struct kvd_row_smaps *row = &rows[claim->tenant - from];
		if (!n->copies.count)
			continue;            /* on disk alone: Swap */
		row->pages++;
		if (n->n_complete > 1)
			row->shared_clean_bytes += bytes;
		else
			row->private_clean_bytes += bytes;
	}
	for (uint32_t p = 1; p <= c->pages.high; p++) {
		const struct page *page = page_at(c, p);
		if (page->next_free || page->state != PAGE_RESIDENT || page->node || page->tenant < from ||
		    page->tenant - from >= n_rows)
			continue;
		uint64_t bytes = page_bytes_of_space(c, group_of_frame(c, page->frame)->space);
		struct kvd_row_smaps *row = &rows[page->tenant - from];
		row->pages++;
		if (frame_state(c, page->frame) == KVD_FRAME_OPEN)
			row->private_dirty_bytes += bytes;
		else
			row->private_clean_bytes += bytes;
	}
}

static uint32_t read_tenants(const struct core *c, uint32_t tenant, uint32_t *cursor, struct kvd_row_smaps *ret,
			     uint32_t max)
{
	struct kvd_row_tenant rows[64];      /* each call walks all claims: not for one row */
	uint32_t from = tenant != CORE_NONE && *cursor < tenant ? tenant : *cursor;
	uint32_t n = core_read_tenants(c, tenant, cursor, rows, max < 64 ? max : 64);
	for (uint32_t i = 0; i < n; i++) {
		memset(&ret[i], 0, sizeof(ret[i]));
		copy_name(ret[i].name, rows[i].name);
		ret[i].rss_bytes = rows[i].rss_bytes;
		ret[i].pss_bytes = rows[i].pss_bytes;
		ret[i].swap_bytes = rows[i].spilled_bytes;
	}
	if (tenant == CORE_NONE)
		tenants_claims(c, from, ret, n);
	return n;
}

/* Engines whose tables name the page. */
static uint64_t page_engines(const struct core *c, const struct page *p)
{
	uint64_t mask = 0;
	for (uint32_t h = list_first(&p->holders); h != CORE_NONE; h = list_next(c, LIST_HOLDERS, h))
		mask |= 1ull << seq_at(c, hold_at(c, h)->seq)->engine;
	return mask;
}

static void engines_pages(const struct core *c, struct kvd_row_smaps *rows)
{
	for (uint32_t i = 1; i <= c->pages.high; i++) {
		const struct page *p = page_at(c, i);
		if (p->next_free || p->state != PAGE_RESIDENT || !p->holders.count)
			continue;
		uint64_t mask = page_engines(c, p),
			 bytes = page_bytes_of_space(c, group_of_frame(c, p->frame)->space);
		uint32_t n = 0;
		for (uint64_t rest = mask; rest; rest &= rest - 1) /* no call of the compiler's library */
			n++;
		uint64_t rest = bytes % n;           /* the first one's, so that the shares add up exactly */
		for (; mask; mask &= mask - 1, rest = 0) {
			struct kvd_row_smaps *row = &rows[__builtin_ctzll(mask)];
			row->pages++;
			row->rss_bytes += bytes;
			row->pss_bytes += bytes / n + rest;
			if (n > 1)
				row->shared_clean_bytes += bytes;
			else if (frame_state(c, p->frame) == KVD_FRAME_OPEN)
				row->private_dirty_bytes += bytes;
			else
				row->private_clean_bytes += bytes;
		}
	}
}

static uint32_t read_engines(const struct core *c, uint32_t *cursor, struct kvd_row_smaps *ret, uint32_t max)
{
	struct kvd_row_smaps rows[CORE_ENGINES_MAX] = { 0 };
	uint32_t n = 0, from = *cursor - c->config.tenants_max;
	if (from < CORE_ENGINES_MAX)
		engines_pages(c, rows);
	for (uint32_t i = from; i < CORE_ENGINES_MAX && n < max; i++, ++*cursor) {
		if (c->engines[i].state != ENGINE_LIVE)
			continue;
		ret[n] = rows[i];
		ret[n].kind = 1;
		copy_name(ret[n++].name, c->engines[i].name);
	}
	return n;
}

/* cursor: tenants first, then tenants_max + engine. */
uint32_t core_read_smaps(const struct core *c, uint32_t tenant, uint32_t *cursor, struct kvd_row_smaps *ret,
			 uint32_t max)
{
	if (*cursor < c->config.tenants_max) {
		uint32_t n = read_tenants(c, tenant, cursor, ret, max);
		if (n || tenant != CORE_NONE)
			return n;
		*cursor = c->config.tenants_max;
	}
	return tenant == CORE_NONE ? read_engines(c, cursor, ret, max) : 0;
}
