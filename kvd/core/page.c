/* page.c - pages and the table slots that hold them.
 *
 * A page is the K and V of 16 tokens, RESIDENT in one frame.  In the index it is one copy of a
 * node's content (prefix.c); outside it (being written, or its sequence is not indexed) it belongs
 * to the tenant who made it.  A hold is one entry of one sequence's table; it names its page, the
 * claim by which its domain may use it, and the node that the prompt has at this place.
 *
 * Invariants: OPEN <=> the page has exactly one holder and no node.  SEALED <=> at least one
 * holder, or its node is pinned (steer.c) or kept by a floor (guard.c). COOL <=> no holder, a node, a complete
 * claim on it, and neither of these. */
#include "kvd/core/spill.h"

static uint32_t page_group(const struct core *c, uint32_t p)
{
	return extent_at(c, extent_of(c, page_at(c, p)->frame))->group;
}

static uint64_t bytes_of(const struct core *c, uint32_t p)
{
	return page_bytes_of_space(c, c->groups[page_group(c, p)].space);
}

/* charged: its tenant pays for the page itself, until a claim does. */
uint32_t page_new(const struct core *c, uint32_t frame, uint32_t tenant, uint32_t domain,
		  bool charged)
{
	uint32_t number = pool_take(c, POOL_PAGES);
	assert(number);                      /* as many pages as frames */
	const struct page *p = page_at(c, number);
	PUT(p->frame, frame);
	PUT(p->tenant, tenant);
	PUT(p->domain, domain);
	PUT(p->keep_private, tenant_at(c, tenant)->sharing == CORE_PRIVATE);
	PUT(p->used_usec, c->now_usec);
	PUT(p->state, PAGE_RESIDENT);
	SET(frame_at(c, frame)->page, number);
	if (charged)
		tenant_charge(c, tenant, (int64_t)bytes_of(c, number),
			      (int64_t)bytes_of(c, number));
	return number;
}

void page_index(const struct core *c, uint32_t number, uint32_t node)
{
	const struct page *p = page_at(c, number);
	assert(!p->node);
	SET(p->node, node);
	list_push(c, LIST_COPIES, &node_at(c, node)->copies, number);
	if (node_at(c, node)->pins)
		steer_copy(c, node, p->frame, true);
	if (node_at(c, node)->copies.count == 1)
		node_away(c, node, false);
	const struct spill *r = node_at(c, node)->spill ? spill_at(c, node_at(c, node)->spill) : NULL;
	if (r && r->page && page_at(c, r->page)->leaving)
		page_drop(c, r->page, true);         /* computed again while it was being written: it can go at once */
	node_presence(c, node);
}

void page_cool_list(const struct core *c, uint32_t number, bool on)
{
	const struct page *p = page_at(c, number);
	const struct group *g = &c->groups[page_group(c, number)];
	if (p->cool_listed == on)
		return;
	if (on)
		list_push(c, LIST_COOL, &g->cool, number);
	else
		list_remove(c, LIST_COOL, &g->cool, number);
	SET(p->cool_listed, on);
}

/* The node lost its shared copy: what was compared with it must be compared again. */
static void copies_unverify(const struct core *c, const struct node *n)
{
	for (uint32_t q = list_first(&n->copies); q != CORE_NONE; q = list_next(c, LIST_COPIES, q))
		SET(page_at(c, q)->verified, 0);
}

/* End a page that nobody holds; its frame goes the way of retire.c. */
void page_drop(const struct core *c, uint32_t number, bool seen)
{
	const struct page *p = page_at(c, number);
	uint32_t frame = p->frame, node = p->node;
	assert(p->state == PAGE_RESIDENT && !p->holders.count);
	page_cool_list(c, number, false);
	if (node) {
		const struct node *n = node_at(c, node);
		spill_page_gone(c, number);
		list_remove(c, LIST_COPIES, &n->copies, number);
		if (!n->copies.count)
			node_away(c, node, true);
		node_presence(c, node);
		if (n->pins)
			steer_copy(c, node, frame, false);
		if (n->shared == number) {
			SET(n->shared, 0);
			copies_unverify(c, n);
			share_forget(c, node);
		}
	} else {
		tenant_charge(c, p->tenant, -(int64_t)bytes_of(c, number),
			      -(int64_t)bytes_of(c, number));
	}
	SET(frame_at(c, frame)->page, 0);
	pool_return(c, POOL_PAGES, number);
	frame_retire(c, frame, seen);
	if (node)
		node_maybe_free(c, node);
}

/* May a sequence of this tenant and domain use the copy?  The index has already said that its
 * domain may skip computing; this is about whose bytes it reads. */
bool page_serves(const struct core *c, uint32_t number, uint32_t tenant, uint32_t domain)
{
	const struct page *p = page_at(c, number);
	bool shared = c->groups[page_group(c, number)].engine == CORE_NONE;
	if (tenant_at(c, tenant)->sharing == CORE_PRIVATE || p->keep_private)
		return !shared && p->domain == domain;
	if (p->node && node_at(c, p->node)->never_merge)
		return shared || p->domain == domain;
	return true;
}

/* May its bytes enter the shared colour? */
bool page_may_share(const struct core *c, uint32_t number)
{
	const struct page *p = page_at(c, number);
	enum kvd_frame_state state = frame_state(c, p->frame);
	return p->node && !p->keep_private && tenant_at(c, p->tenant)->sharing != CORE_PRIVATE &&
	       (state == KVD_FRAME_SEALED || state == KVD_FRAME_COOL);
}

/* Is there another copy that does for everybody whom this one serves on its engine? */
bool page_redundant(const struct core *c, uint32_t number)
{
	const struct page *p = page_at(c, number);
	if (!p->node)
		return false;
	uint32_t group = page_group(c, number);
	const struct node *n = node_at(c, p->node);
	if (n->shared == number)
		return false;
	for (uint32_t q = list_first(&n->copies); q != CORE_NONE;
	     q = list_next(c, LIST_COPIES, q)) {
		if (q == number || !page_serves(c, q, p->tenant, p->domain))
			continue;
		if (page_group(c, q) == group || (q == n->shared && !n->never_merge))
			return true;
	}
	return false;
}

/* A page of the index without a holder: SEALED while a pin or a floor keeps it, else COOL. */
static void page_temper(const struct core *c, uint32_t number)
{
	const struct page *p = page_at(c, number);
	const struct node *n = node_at(c, p->node);
	bool kept = n->pins || n->n_guarded;
	if (p->leaving)
		return;
	enum kvd_frame_state state = frame_state(c, p->frame);
	if (state == KVD_FRAME_SEALED && !kept)
		frame_move(c, p->frame, KVD_FRAME_COOL, 0);
	else if (state == KVD_FRAME_COOL && kept)
		frame_move(c, p->frame, KVD_FRAME_SEALED, 0);
	page_cool_list(c, number, !kept);
}

/* A sealed page without a holder: keep it as cache if its node is claimed, else let it go. */
void page_tidy(const struct core *c, uint32_t number)
{
	const struct page *p = page_at(c, number);
	if (p->holders.count)
		return;
	bool keep = p->node && node_at(c, p->node)->n_complete && !page_redundant(c, number);
	if (p->leaving)
		return;
	if (!keep) {
		page_drop(c, number, true);
		return;
	}
	SET(p->used_usec, c->now_usec);
	page_temper(c, number);
}

/* The node's pins, or the floors that keep it, have changed: its copies follow. */
void copies_temper(const struct core *c, uint32_t node)
{
	const struct node *n = node_at(c, node);
	for (uint32_t p = list_first(&n->copies); p != CORE_NONE; p = list_next(c, LIST_COPIES, p))
		if (!page_at(c, p)->holders.count)
			page_temper(c, p);
}

static void holder_add(const struct core *c, uint32_t hold, uint32_t page)
{
	const struct page *p = page_at(c, page);
	if (p->leaving)
		spill_keep(c, page);
	page_cool_list(c, page, false);
	list_push(c, LIST_HOLDERS, &p->holders, hold);
	SET(hold_at(c, hold)->page, page);
	UPDATE(p->used_usec, c->now_usec);
	if (frame_state(c, p->frame) == KVD_FRAME_COOL)
		frame_move(c, p->frame, KVD_FRAME_SEALED, 0);
}

/* The slot's page is used by right of this claim. */
void hold_claim(const struct core *c, uint32_t seq, uint32_t index, uint32_t claim)
{
	const struct hold *h = hold_at(c, seq_at(c, seq)->row + index);
	const struct claim *k = claim_at(c, claim);
	uint64_t bytes = bytes_of(c, h->page);
	assert(k->complete && !h->claim);
	SET(h->claim, claim);
	claim_use(c, claim);
	SET(k->home, page_group(c, h->page));
	ADD(k->holds, 1);
	if (k->holds > 1)
		return;
	SET(c->logical_bytes, c->logical_bytes - bytes);
	tenant_charge(c, k->tenant, 0, (int64_t)bytes);
	guard_release(c, claim);
	claim_relist(c, claim);
}

/* May somebody hold the page who does not yet?  If it is alone in its extent, that comes to be in use by it: not
 * where a reservation counts on the extent. */
bool page_holdable(const struct core *c, uint32_t number)
{
	uint32_t x = extent_of(c, page_at(c, number)->frame);
	return extent_busy(c, x) || extent_spare(c, extent_at(c, x)->group);
}

/* Put a page into a table slot that is empty.  The entry is published by the caller's act_row(). */
void hold_take(const struct core *c, uint32_t seq, uint32_t index, uint32_t page, uint32_t claim)
{
	uint32_t number = seq_at(c, seq)->row + index;
	const struct hold *h = hold_at(c, number);
	assert(!h->page && !h->claim);
	uint64_t bytes = bytes_of(c, page);
	SET(h->seq, seq);
	holder_add(c, number, page);
	SET(c->logical_bytes, c->logical_bytes + bytes);
	if (claim)
		hold_claim(c, seq, index, claim);
}

/* The slot is dropped some pages later. */
void hold_fetch(const struct core *c, uint32_t seq, uint32_t index)
{
	const struct hold *h = hold_at(c, seq_at(c, seq)->row + index);
	fetch_record(page_at(c, h->page), sizeof(struct page));
	fetch_record(claim_at(c, h->claim), sizeof(struct claim));
	fetch_record(&node_at(c, h->node)->refs, sizeof(uint64_t));
}

void hold_drop(const struct core *c, uint32_t seq, uint32_t index)
{
	uint32_t number = seq_at(c, seq)->row + index;
	const struct hold *h = hold_at(c, number);
	uint32_t page = h->page, claim = h->claim;
	assert(page);
	uint64_t bytes = bytes_of(c, page);
	list_remove(c, LIST_HOLDERS, &page_at(c, page)->holders, number);
	SET(h->page, 0);
	SET(h->claim, 0);
	SET(c->logical_bytes, c->logical_bytes - bytes);
	if (claim) {
		const struct claim *k = claim_at(c, claim);
		SET(k->used_usec, c->now_usec);
		ADD(k->holds, -1);
		if (!k->holds) {
			SET(c->logical_bytes, c->logical_bytes + bytes);
			tenant_charge(c, k->tenant, 0, -(int64_t)bytes);
			guard_cold(c, claim);
			claim_relist(c, claim);
		}
	}
	if (!page_at(c, page)->holders.count)
		page_tidy(c, page);
}

/* The slot names another copy of the same content from now on. */
void hold_switch(const struct core *c, uint32_t number, uint32_t page)
{
	const struct hold *h = hold_at(c, number);
	assert(page_at(c, h->page)->node == page_at(c, page)->node);
	list_remove(c, LIST_HOLDERS, &page_at(c, h->page)->holders, number);
	holder_add(c, number, page);
	if (h->claim)
		SET(claim_at(c, h->claim)->home, page_group(c, page));
	act_entry(c, h->seq, number - seq_at(c, h->seq)->row);
}

/* The page's bytes have been copied to a frame (FILLING) of the same group: it lives there now.  Every
 * holder's entry is published again; the old frame retires when no step can name it any more. */
void page_relocate(const struct core *c, uint32_t number, uint32_t frame)
{
	const struct page *p = page_at(c, number);
	uint32_t old = p->frame;
	assert(extent_at(c, extent_of(c, frame))->group == page_group(c, number));
	frame_move(c, frame, KVD_FRAME_COOL, 0);
	if (frame_state(c, old) == KVD_FRAME_SEALED)
		frame_move(c, frame, KVD_FRAME_SEALED, 0);
	SET(frame_at(c, frame)->page, number);
	SET(p->frame, frame);
	SET(frame_at(c, old)->page, 0);
	if (p->node && node_at(c, p->node)->pins) {
		steer_copy(c, p->node, old, false);
		steer_copy(c, p->node, frame, true);
	}
	for (uint32_t h = list_first(&p->holders); h != CORE_NONE; h = list_next(c, LIST_HOLDERS, h))
		act_entry(c, hold_at(c, h)->seq, h - seq_at(c, hold_at(c, h)->seq)->row);
	frame_retire(c, old, true);
}

/* Lease a fresh frame for table slot `index` of a sequence, near the page before it. */
bool page_open(const struct core *c, uint32_t seq, uint32_t index)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t prefer = CORE_NONE;
	if (index) {
		uint32_t before = hold_at(c, s->row + index - 1)->page;
		prefer = before ? extent_of(c, page_at(c, before)->frame) : CORE_NONE;
	}
	uint32_t frame = frame_take(c, s->engine, prefer, KVD_FRAME_OPEN, s->tenant);
	if (frame == CORE_NONE)
		return false;
	hold_take(c, seq, index, page_new(c, frame, s->tenant, s->domain, true), 0);
	return true;
}
