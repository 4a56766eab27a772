/* read.c - rows for administrators, fsck's callers and tests.  Changes nothing.
 *
 * These may scan: they run on request, bounded by the rows asked for where the table is large.  A
 * tenant sees its own rows only, without what depends on others. */
#include "kvd/core/parts.h"

static void copy_name(char *target, const char *source)
{
	memcpy(target, source, KVD_NAME_MAX);
	target[KVD_NAME_MAX - 1] = 0;
}

static void read_pressure(const struct core *c, uint64_t now_usec, struct kvd_row_status *ret)
{
	struct watermarks mark = watermarks(c);
	struct kvd_row_psi psi;
	ret->available_bytes = available_bytes(c);
	ret->mark_min_bytes = mark.min_bytes;
	ret->mark_low_bytes = mark.low_bytes;
	ret->mark_high_bytes = mark.high_bytes;
	ret->guarded_bytes = c->guarded_bytes;
	ret->refault_tokens = c->refault_tokens;
	memcpy(ret->reclaimed_pages, c->reclaimed_pages, sizeof(ret->reclaimed_pages));
	for (uint32_t i = 0; i < c->n_tenants; i++)
		ret->throttled += tenant_at(c, i)->throttled;
	ret->reclaiming = c->reclaiming;
	psi_read(&c->psi, now_usec, &psi);
	ret->some_avg10 = psi.some_avg10;
	ret->some_avg60 = psi.some_avg60;
	ret->some_avg300 = psi.some_avg300;
	ret->full_avg10 = psi.full_avg10;
	ret->full_avg60 = psi.full_avg60;
	ret->full_avg300 = psi.full_avg300;
}

void core_read_status(const struct core *c, uint64_t now_usec, struct kvd_row_status *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->pool_bytes = c->config.pool_bytes;
	ret->extent_bytes = c->config.extent_bytes;
	for (uint32_t i = 0; i < KVD_FRAME_STATES; i++) {
		ret->frames[i] = frames_in(c, i);
		ret->frame_bytes[i] = frame_bytes_in(c, i);
	}
	ret->tail_bytes = c->tail_bytes;
	ret->unassigned_bytes = c->config.extent_bytes *
		((uint64_t)c->extents_in[KVD_EXTENT_BARE] + c->extents_in[KVD_EXTENT_UNASSIGNED]);
	ret->scrub_bytes = c->config.extent_bytes *
		((uint64_t)c->extents_in[KVD_EXTENT_SCRUB] + c->extents_in[KVD_EXTENT_LEAVING]);
	ret->logical_bytes = c->logical_bytes;
	ret->physical_bytes = c->physical_bytes;
	ret->peak_logical_bytes = c->peak_logical_bytes;
	ret->peak_physical_bytes = c->peak_physical_bytes;
	ret->merges = c->merges;
	ret->merge_mismatches = c->merge_mismatches;
	ret->promotions = c->promotions;
	ret->compactions = c->compactions;
	ret->moved_pages = c->moved_pages;
	ret->single_flight_waits = c->single_flight_waits;
	ret->preemptions = c->preemptions;
	ret->evicted_pages = c->evicted_pages;
	ret->spilled_pages = c->spilled_pages;
	ret->lost_pages = c->lost_pages;
	ret->spill_writes = c->spill_writes;
	ret->spill_reads = c->spill_reads;
	ret->spill_slots_used = (uint64_t)c->spills_in[SPILL_SPILLING] + c->spills_in[SPILL_SPILLED] +
				c->spills_in[SPILL_FETCHING] + c->spills_in[SPILL_LOST];
	ret->spill_bytes = c->config.spill_bytes;
	ret->tenants = c->n_tenants;
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		ret->engines += c->engines[i].state == ENGINE_LIVE;
		if (c->engines[i].state == ENGINE_LIVE)
			ret->sequences += c->engines[i].n_seqs;
	}
	ret->healthy = 1;
	read_pressure(c, now_usec, ret);
}

uint32_t core_read_engines(const struct core *c, uint32_t *cursor, struct kvd_row_engine *ret,
			   uint32_t max)
{
	uint32_t n = 0;
	for (; *cursor < CORE_ENGINES_MAX && n < max; ++*cursor) {
		const struct engine *e = &c->engines[*cursor];
		if (e->state != ENGINE_LIVE && e->state != ENGINE_DEAD)
			continue;
		const struct space *s = &c->spaces[e->space];
		struct kvd_row_engine *row = &ret[n++];
		memset(row, 0, sizeof(*row));
		copy_name(row->name, e->name);
		copy_name(row->model, e->model);
		copy_name(row->numerics, s->numerics);
		row->page_bytes = s->page_bytes;
		row->engine = *cursor;
		row->kv_format = s->kv_format;
		row->state = e->state == ENGINE_DEAD ? 2 : !!e->draining;
		row->extents = c->groups[*cursor].extents.count;
		row->sequences = e->n_seqs;
		for (uint32_t i = 0; e->state == ENGINE_LIVE && i < e->max_seqs; i++) {
			uint32_t state = seq_at(c, e->seq_base + i)->state;
			row->running += state == SEQ_RUNNING;
			row->waiting += state == SEQ_WAITING;
		}
	}
	return n;
}

static uint64_t node_bytes(const struct core *c, const struct node *n)
{
	return n->copies.count * page_bytes_of_space(c, n->space);
}

/* A claim's share of its node's bytes; the first claim gets what does not divide, so that the
 * shares add up to the bytes exactly. */
static uint64_t claim_pss(const struct core *c, uint32_t number)
{
	const struct node *n = node_at(c, claim_at(c, number)->node);
	uint64_t bytes = node_bytes(c, n), share = bytes / n->n_complete;
	uint32_t first = list_first(&n->claims);
	while (!claim_at(c, first)->complete)
		first = list_next(c, LIST_NODE_CLAIMS, first);
	return share + (first == number ? bytes % n->n_complete : 0);
}

static void tenants_pss(const struct core *c, uint32_t from, struct kvd_row_tenant *rows,
			uint32_t n_rows)
{
	for (uint32_t k = 1; k <= c->claims.high; k++) {
		const struct claim *claim = claim_at(c, k);
		if (claim->next_free || !claim->complete || claim->tenant < from ||
		    claim->tenant - from >= n_rows)
			continue;
		struct kvd_row_tenant *row = &rows[claim->tenant - from];
		row->pss_bytes += claim_pss(c, k);
		if (node_at(c, claim->node)->n_complete == 1)
			row->uss_bytes += node_bytes(c, node_at(c, claim->node));
	}
	for (uint32_t p = 1; p <= c->pages.high; p++) {
		const struct page *page = page_at(c, p);
		if (page->next_free || page->state != PAGE_RESIDENT || page->node ||
		    page->tenant < from || page->tenant - from >= n_rows)
			continue;
		uint64_t bytes = page_bytes_of_space(c, group_of_frame(c, page->frame)->space);
		rows[page->tenant - from].pss_bytes += bytes;
		rows[page->tenant - from].uss_bytes += bytes;
	}
}

uint32_t core_read_tenants(const struct core *c, uint32_t tenant, uint32_t *cursor,
			   struct kvd_row_tenant *ret, uint32_t max)
{
	uint32_t n = 0, end = c->n_tenants;
	if (tenant != CORE_NONE) {
		if (*cursor < tenant)
			*cursor = tenant;
		end = tenant < c->n_tenants ? tenant + 1 : 0;
	}
	uint32_t from = *cursor;
	for (; *cursor < end && n < max; ++*cursor) {
		const struct tenant *t = tenant_at(c, *cursor);
		struct kvd_row_tenant *row = &ret[n++];
		memset(row, 0, sizeof(*row));
		copy_name(row->name, t->name);
		copy_name(row->domain, domain_at(c, t->domain)->name);
		row->rss_bytes = t->rss_bytes;
		row->min_bytes = t->quota.min_bytes;
		row->low_bytes = t->quota.low_bytes;
		row->high_bytes = t->quota.high_bytes;
		row->max_bytes = t->quota.max_bytes;
		row->insert_bytes_per_sec = t->quota.insert_bytes_per_sec;
		row->weight = t->quota.weight;
		row->max_sequences = t->quota.max_sequences;
		row->held_bytes = t->held_bytes;
		row->reserved_bytes = t->reserved_bytes;
		row->guarded_bytes = t->guarded_bytes;
		row->refault_tokens = t->refault_tokens;
		row->throttled = t->throttled;
		row->stalled = t->stalled;
		struct kvd_row_psi psi;
		psi_read(&t->psi, c->now_usec, &psi);
		row->some_avg10 = psi.some_avg10;
		row->full_avg10 = psi.full_avg10;
		row->spilled_bytes = t->spilled_bytes;
		row->evicted_pages = t->evicted;
		row->sequences = t->n_seqs;
		row->sharing = t->sharing;
	}
	if (tenant == CORE_NONE && n)
		tenants_pss(c, from, ret, n);
	return n;
}

static void read_sequence(const struct core *c, const struct seq *s, uint64_t now_usec, bool all,
			  struct kvd_row_sequence *row)
{
	memset(row, 0, sizeof(*row));
	copy_name(row->engine, c->engines[s->engine].name);
	copy_name(row->tenant, tenant_at(c, s->tenant)->name);
	row->opened_usec_ago = now_usec > s->opened_usec ? now_usec - s->opened_usec : 0;
	row->slot = s->slot;
	row->state = s->state;
	row->n_tokens = s->n_tokens;
	row->pages = s->n_pages;
	row->cached_pages = s->n_cached;
	row->preempted = s->preempted;
	for (uint32_t i = 0; all && i < s->n_pages; i++) {
		const struct page *p = page_at(c, hold_at(c, s->row + i)->page);
		row->shared_pages +=
			p->holders.count > 1 || (p->node && node_at(c, p->node)->n_complete > 1);
	}
}

/* cursor: engine * (seqs of the largest engine, 4096) + slot */
uint32_t core_read_sequences(const struct core *c, uint32_t tenant, uint64_t now_usec,
			     uint32_t *cursor, struct kvd_row_sequence *ret, uint32_t max)
{
	uint32_t n = 0;
	while (*cursor < CORE_ENGINES_MAX * 4096u && n < max) {
		const struct engine *e = &c->engines[*cursor / 4096];
		uint32_t slot = *cursor % 4096;
		if (e->state != ENGINE_LIVE || slot >= e->max_seqs) {
			*cursor = (*cursor / 4096 + 1) * 4096;
			continue;
		}
		++*cursor;
		const struct seq *s = seq_at(c, e->seq_base + slot);
		if (s->state != SEQ_EMPTY && (tenant == CORE_NONE || s->tenant == tenant))
			read_sequence(c, s, now_usec, tenant == CORE_NONE, &ret[n++]);
	}
	return n;
}

/* The tenant's complete claim on a page's content, CORE_NONE if it has none. */
static uint32_t claim_on(const struct core *c, const struct page *p, uint32_t tenant)
{
	for (uint32_t k = p->node ? list_first(&node_at(c, p->node)->claims) : CORE_NONE;
	     k != CORE_NONE; k = list_next(c, LIST_NODE_CLAIMS, k))
		if (claim_at(c, k)->complete && claim_at(c, k)->tenant == tenant)
			return k;
	return CORE_NONE;
}

/* A tenant sees one row for each content, also while another's copy of the same waits for its
 * merge. */
static bool page_is_of(const struct core *c, uint32_t page, uint32_t tenant)
{
	const struct page *p = page_at(c, page);
	if (!p->node)
		return p->tenant == tenant;
	return list_first(&node_at(c, p->node)->copies) == page &&
	       claim_on(c, p, tenant) != CORE_NONE;
}

static uint32_t parent_copy(const struct core *c, const struct page *p)
{
	uint32_t parent = p->node ? node_at(c, p->node)->parent : 0;
	return parent ? list_first(&node_at(c, parent)->copies) : CORE_NONE;
}

static void read_page(const struct core *c, uint32_t f, uint64_t now_usec, bool all,
		      struct kvd_row_page *row)
{
	const struct frame *frame = frame_at(c, f);
	memset(row, 0, sizeof(*row));
	row->state = FRAME_STATE(frame->word);
	row->page = row->parent = CORE_NONE;
	if (row->state != KVD_FRAME_FREE)
		copy_name(row->tenant, tenant_at(c, FRAME_OWNER(frame->word))->name);
	if (all) {
		row->frame = f;
		row->extent = extent_of(c, f);
		row->slot = f & ((1u << c->slot_bits) - 1u);
		row->colour = FRAME_COLOUR(frame->word);
		row->space = group_of_frame(c, f)->space;
		row->generation = FRAME_GENERATION(frame->word);
	}
	if (!frame->page)
		return;
	const struct page *p = page_at(c, frame->page);
	row->idle_usec = now_usec > p->used_usec ? now_usec - p->used_usec : 0;
	row->depth = p->node ? node_at(c, p->node)->depth : 0;
	if (!p->node && p->holders.count) {
		uint32_t h = list_first(&p->holders);
		row->depth = h - seq_at(c, hold_at(c, h)->seq)->row;
	}
	if (!all)
		return;
	row->page = frame->page;
	row->parent = parent_copy(c, p);
	row->holds = p->holders.count;
	row->claims = p->node ? node_at(c, p->node)->n_complete : 0;
}

/* What a tenant may know of its page: its own use of it, as if nobody else had the same. */
static void read_own_page(const struct core *c, uint32_t f, uint32_t tenant, uint64_t now_usec,
			  struct kvd_row_page *row)
{
	const struct page *p = page_at(c, frame_at(c, f)->page);
	uint32_t k = claim_on(c, p, tenant);
	read_page(c, f, now_usec, false, row);
	copy_name(row->tenant, tenant_at(c, tenant)->name);
	if (k == CORE_NONE)
		return;
	row->state = claim_at(c, k)->holds ? KVD_FRAME_SEALED : KVD_FRAME_COOL;
	row->idle_usec =
		now_usec > claim_at(c, k)->used_usec ? now_usec - claim_at(c, k)->used_usec : 0;
}

/* cursor: frame number.  Free frames have rows too, for the map. */
uint32_t core_read_pages(const struct core *c, uint32_t tenant, uint64_t now_usec, uint32_t *cursor,
			 struct kvd_row_page *ret, uint32_t max)
{
	uint32_t n = 0;
	while (*cursor < c->layout.frames_max && n < max) {
		uint32_t f = *cursor, x = extent_of(c, f), slot = f & ((1u << c->slot_bits) - 1u);
		const struct extent *e = extent_at(c, x);
		if (e->state != KVD_EXTENT_ASSIGNED || slot >= e->n_frames) {
			*cursor = (x + 1) << c->slot_bits;
			continue;
		}
		++*cursor;
		uint32_t page = frame_at(c, f)->page;
		if (tenant == CORE_NONE)
			read_page(c, f, now_usec, true, &ret[n++]);
		else if (page && page_is_of(c, page, tenant))
			read_own_page(c, f, tenant, now_usec, &ret[n++]);
	}
	return n;
}

uint32_t core_read_extents(const struct core *c, uint32_t *cursor, struct kvd_row_extent *ret,
			   uint32_t max)
{
	uint32_t n = 0;
	for (; *cursor < c->n_extents && n < max; ++*cursor) {
		const struct extent *e = extent_at(c, *cursor);
		struct kvd_row_extent *row = &ret[n++];
		memset(row, 0, sizeof(*row));
		row->extent = *cursor;
		row->state = e->state;
		if (e->state != KVD_EXTENT_ASSIGNED)
			continue;
		const struct group *g = &c->groups[e->group];
		row->space = g->space;
		row->colour = g->colour;
		row->n_frames = e->n_frames;
		row->tail_bytes =
			c->config.extent_bytes - e->n_frames * page_bytes_of_space(c, g->space);
		memcpy(row->frames, e->frames, sizeof(row->frames));
		if (g->engine != CORE_NONE)
			copy_name(row->engine, c->engines[g->engine].name);
		for (uint32_t i = 0; i < e->high; i++) {
			uint32_t page = frame_at(c, (*cursor << c->slot_bits) + i)->page;
			if (!page)
				continue;
			const struct page *p = page_at(c, page);
			row->shared_frames += p->holders.count > 1 ||
					      (p->node && node_at(c, p->node)->n_complete > 1);
		}
	}
	return n;
}
