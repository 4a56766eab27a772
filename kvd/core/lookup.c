/* lookup.c - what a sequence may take from the index, what it waits for, and promises.
 *
 * A sequence takes sealed pages of its prompt one after the other from its first unsealed index on.
 * It never takes the page that holds the prompt's last token: that token's logits must be computed.
 * Where it stops, it waits for one of four things, or computes:
 *   promise  another sequence of its domain computes the page right now (single flight)
 *   share    the only copies are in other engines' colours: a copy into the shared one is under way
 *   fetch    the page is on disk alone, and is read into a frame of this engine (spill.c)
 *   ack      a copy is there (a shared one, or one of the colour this engine took over), but the
 *            engine has not mapped its extent yet
 *
 * A sequence that computes promises the run of pages that nobody else has or promises.  No
 * deadlock: a sequence that waits for a promise gives up all its own first, so a promiser never
 * waits for a promise (it may wait for a copy or an ack, which need no other sequence); and only
 * admitted sequences promise, whose prompt pages are reserved, so a promiser never waits for memory
 * that a waiter has.  A promiser that seals nothing for promise_usec is passed over: its promises
 * break, waiters wake in order of arrival and the first computes. */
#include "kvd/core/spill.h"

void wake_all(const struct core *c, const struct list *waiters)
{
	while (waiters->count)
		seq_wake(c, list_first(waiters));
}

/* The copy to take: of the shared colour if the engine has mapped it, else of its own.  Own extents
 * may be unmapped too: those that the engine took over with the colour of a dead one. */
static enum probe copy_probe(const struct core *c, const struct seq *s, uint32_t node,
			     uint32_t *ret_record)
{
	const struct node *n = node_at(c, node);
	enum probe found = PROBE_MISS;
	for (uint32_t p = list_first(&n->copies); p != CORE_NONE;
	     p = list_next(c, LIST_COPIES, p)) {
		if (!page_serves(c, p, s->tenant, s->domain))
			continue;
		uint32_t x = extent_of(c, page_at(c, p)->frame);
		const struct group *g = group_of_extent(c, x);
		bool readable = g->engine == s->engine || p == n->shared;
		if (readable && (extent_at(c, x)->acked >> s->engine & 1u)) {
			found = PROBE_HIT;
			*ret_record = p;
			if (p == n->shared)
				return PROBE_HIT;
		} else if (found != PROBE_HIT && readable) {
			found = PROBE_ACK;
			*ret_record = x;
		} else if (found == PROBE_MISS && page_may_share(c, p)) {
			found = PROBE_SHARE;
			*ret_record = node;
		}
	}
	if (found == PROBE_MISS && n->spill && spill_at(c, n->spill)->state != SPILL_SPILLING &&
	    spill_serves(c, n->spill, s->tenant, s->domain)) {
		found = PROBE_FETCH;
		*ret_record = node;
	}
	return found;
}

/* What the index says about page `index` of the prompt.  ret_record: HIT a page, SHARE and FETCH a node, ACK
 * an extent, PROMISED a claim. */
enum probe lookup_probe(const struct core *c, uint32_t seq, uint32_t index, uint32_t *ret_record)
{
	const struct seq *s = seq_at(c, seq);
	if (s->no_index || s->alone || index >= s->n_take)
		return PROBE_MISS;
	uint32_t node = hold_at(c, s->row + index)->node;
	uint32_t number = claim_find(c, node, s->domain);
	enum probe public = PROBE_MISS;
	if (node_at(c, node)->publics && steer_claim_ready(c, node, s->domain))
		public = copy_probe(c, s, node, ret_record);
	if (public != PROBE_MISS)
		return public;
	if (!number)
		return PROBE_MISS;
	const struct claim *k = claim_at(c, number);
	if (k->complete)
		return copy_probe(c, s, node, ret_record);
	if (!k->promiser || k->promiser == seq)
		return PROBE_MISS;
	*ret_record = number;
	return PROBE_PROMISED;
}

/* Promise the pages from `index` on that nobody of the domain has or promises. */
static void promise_run(const struct core *c, uint32_t seq, uint32_t index)
{
	const struct seq *s = seq_at(c, seq);
	if (s->no_index)
		return;
	for (uint32_t i = index; i < s->n_nodes; i++) {
		uint32_t node = hold_at(c, s->row + i)->node;
		uint32_t number = claim_find_or_make(c, node, s->domain, s->tenant);
		if (!number)
			break;
		const struct claim *k = claim_at(c, number);
		if (k->complete || (k->promiser && k->promiser != seq))
			break;
		if (k->promiser)
			continue;
		SET(k->promiser, seq);
		if (!s->promises.count) {
			SET(s->progress_usec, c->now_usec);
			list_push(c, LIST_PROMISERS, &c->promisers, seq);
		}
		list_push(c, LIST_PROMISES, &s->promises, number);
	}
}

static void promise_remove(const struct core *c, uint32_t number)
{
	const struct claim *k = claim_at(c, number);
	const struct seq *s = seq_at(c, k->promiser);
	list_remove(c, LIST_PROMISES, &s->promises, number);
	if (!s->promises.count)
		list_remove(c, LIST_PROMISERS, &c->promisers, k->promiser);
	SET(k->promiser, 0);
}

/* The claim is complete: whoever promised it has kept it, or somebody else was faster. */
void promise_kept(const struct core *c, uint32_t number)
{
	const struct claim *k = claim_at(c, number);
	if (k->promiser) {
		uint32_t seq = k->promiser;
		promise_remove(c, number);
		const struct seq *s = seq_at(c, seq);
		SET(s->progress_usec, c->now_usec);
		if (s->promises.count) {     /* most recent progress last */
			list_remove(c, LIST_PROMISERS, &c->promisers, seq);
			list_push(c, LIST_PROMISERS, &c->promisers, seq);
		}
	}
	wake_all(c, &k->waiters);
}

void promise_break_all(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	while (s->promises.count) {
		uint32_t number = list_first(&s->promises);
		/* while the promise still keeps the record */
		wake_all(c, &claim_at(c, number)->waiters);
		promise_remove(c, number);
		claim_maybe_free(c, number);
	}
}

void promise_tick(const struct core *c)
{
	for (;;) {
		uint32_t seq = list_first(&c->promisers);
		if (seq == CORE_NONE ||
		    seq_at(c, seq)->progress_usec + c->config.promise_usec > c->now_usec)
			return;
		promise_break_all(c, seq);
	}
}

/* Wait for the last page of the run that the same sequence promises from `index` on: pages are
 * sealed in order, so then all of the run are there.  False: the page there is not promised by
 * another. */
bool lookup_wait_promise(const struct core *c, uint32_t seq, uint32_t index)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t last = 0, number;
	for (uint32_t i = index; i < s->n_take; i++) {
		if (lookup_probe(c, seq, i, &number) != PROBE_PROMISED)
			break;
		if (last && claim_at(c, number)->promiser != claim_at(c, last)->promiser)
			break;
		last = number;
	}
	if (!last)
		return false;
	promise_break_all(c, seq);
	ADD(c->single_flight_waits, 1);
	seq_wait(c, seq, WAIT_PROMISE, last);
	return true;
}

/* Take one page into the table at the first unsealed index; false: that would break what others
 * have been promised. */
static bool take_one(const struct core *c, uint32_t seq, uint32_t index, uint32_t page)
{
	const struct seq *s = seq_at(c, seq);
	if (index < s->n_pages && !page_holdable(c, page))
		return false;                /* before the claim is made: nobody would put it on a shelf */
	uint32_t claim = steer_claim(c, page_at(c, page)->node, s->domain, s->tenant, s->engine);
	if (!claim)
		return false;
	if (index < s->n_pages) {
		/* an open page, perhaps half written, gives way to the finished one */
		hold_drop(c, seq, index);
		hold_take(c, seq, index, page, claim);
	} else {
		bool fitted = core_fits(c), kept = claim_at(c, claim)->guarded;
		hold_take(c, seq, index, page, claim);
		uint32_t reserved = s->reserved;
		if (reserved)
			seq_reserve(c, seq, -1);
		if (fitted && !core_fits(c)) {
			hold_drop(c, seq, index);
			if (reserved)
				seq_reserve(c, seq, 1);
			if (!kept && !core_fits(c))
				guard_release(c, claim);     /* its floor cannot have what is reserved */
			return false;
		}
		SET(s->n_pages, index + 1);
	}
	SET(s->n_sealed, index + 1);
	ADD(node_at(c, page_at(c, page)->node)->hits, 1);
	claim_hit(c, claim);
	ADD(s->n_cached, 1);
	return true;
}

/* Ask for copies of the pages from `index` on that only other engines have.  False: none is coming.
 *  */
static bool share_ahead(const struct core *c, uint32_t seq, uint32_t index)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t record = 0;
	bool first = false;
	for (uint32_t i = index; i < s->n_take && i < index + SHARE_AHEAD_PAGES; i++) {
		if (lookup_probe(c, seq, i, &record) != PROBE_SHARE || !share_request(c, record))
			break;
		first = first || i == index;
	}
	return first;
}

/* It waits for a copy of pages that are computed, and will compute what follows them: promised now, so
 * that who computes does not depend on where copies lie, which a neighbour's merge decides.  Such a wait
 * ends by the mover or the engine alone, never by another sequence. */
static void promise_ahead(const struct core *c, uint32_t seq, uint32_t index)
{
	uint32_t record;
	enum probe next;
	while ((next = lookup_probe(c, seq, index, &record)) != PROBE_MISS && next != PROBE_PROMISED)
		index++;
	if (next == PROBE_MISS)
		promise_run(c, seq, index);
}

/* Does the prompt's next node follow the page that is in the table?  An engine may have sealed
 * other tokens than its prompt's. */
static bool chain_intact(const struct core *c, const struct seq *s)
{
	uint32_t index = s->n_sealed;
	if (!index || index >= s->n_nodes)
		return true;
	uint32_t before = hold_at(c, s->row + index - 1)->page;
	return page_at(c, before)->node == node_at(c, hold_at(c, s->row + index)->node)->parent;
}

/* Take what is there.  True: the sequence now waits for the next page, and will be woken. */
bool lookup_take(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t first = s->n_sealed, index = first, record = 0;
	enum probe found;
	if (!chain_intact(c, s))
		return false;
	while ((found = lookup_probe(c, seq, index, &record)) == PROBE_HIT &&
	       take_one(c, seq, index, record))
		index++;
	act_row(c, seq, first, index);
	switch (found) {
	case PROBE_SHARE:
		if (s->no_share || !share_ahead(c, seq, index))
			break;
		promise_ahead(c, seq, index);
		seq_wait(c, seq, WAIT_SHARE, record);
		return true;
	case PROBE_ACK:
		promise_ahead(c, seq, index);
		seq_wait(c, seq, WAIT_ACK, record);
		return true;
	case PROBE_FETCH:
		if (spill_wait(c, seq, index))
			return true;
		break;
	case PROBE_PROMISED:
		return lookup_wait_promise(c, seq, index);
	case PROBE_HIT:
	case PROBE_MISS:
		break;
	}
	promise_run(c, seq, index);
	return false;
}
