/* spill.c - pages on disk: the life of a record of the spill tier, and when it is written and read.
 *
 * Owns struct spill's state; where a record lies in the file is spill_slot.c.  A node has at most one
 * record.  It stands beside the node's copies in memory or, when these have gone, instead of them:
 * then the node is AWAY, its claims stay complete, their tenants pay spilled_bytes instead of rss.
 *
 *   FREE     -> SPILLING  spill_evict     reclaim wants a cool page that is its node's last: it is
 *                                         written out; it stays cool, is found, and may be taken again
 *   SPILLING -> SPILLED   spill_written   on disk.  If nobody took the page meanwhile it retires now
 *   SPILLING -> FREE      spill_written   not written (no space, no mover): the page is forgotten
 *   SPILLED  -> FETCHING  spill_wait      a sequence whose next page is away; read into a frame of its
 *                                         own colour, out of its reservation
 *   FETCHING -> SPILLED   spill_read      there: a cool copy; the record stays, so that the page need not
 *                                         be written again when it cools
 *   SPILLED  -> FREE      spill_discard   the tier is full and it is the coldest, or nobody claims it
 *   SPILLING, FETCHING -> LOST  spill_forget, spill_read   nobody claims it any more, or what came back is
 *                                         not what was written: it is never served
 *   LOST     -> FREE      spill_written, spill_read   the mover has let go of its place
 *
 * A bad read takes with it every claim from that page on: who waits computes again.
 *
 * Nobody waits for a slow disk but those whose pages are on it.  For a sequence that has waited for frames for
 * SPILL_PATIENCE_USEC pages are forgotten as without a tier.  Writes in flight keep at most a sixteenth of the
 * pool; one under way for longer than SPILL_OVERDUE_USEC is no longer counted on, and none begins for
 * SPILL_PAUSE_USEC.
 *
 * A read that takes longer than FETCH_PATIENCE_USEC is given up by those who wait for it: they compute.
 *
 * Never touches a byte: the mover encrypts, writes, reads and checks. */
#include "kvd/core/spill.h"

#define TO(state) (1u << SPILL_##state)
static const uint8_t spill_moves[SPILL_STATES] = {
	[SPILL_FREE] = TO(SPILLING),
	[SPILL_SPILLING] = TO(SPILLED) | TO(LOST) | TO(FREE),
	[SPILL_SPILLED] = TO(FETCHING) | TO(FREE),
	[SPILL_FETCHING] = TO(SPILLED) | TO(LOST),
	[SPILL_LOST] = TO(FREE),
};
#undef TO

static void fetch_uncount(const struct core *c, uint32_t number)
{
	if (!spill_at(c, number)->counted)
		return;
	SET(spill_at(c, number)->counted, 0);
	list_remove(c, LIST_SPILLS, &c->fetching, number);
}

/* The only place where a record's state changes. */
static void spill_move(const struct core *c, uint32_t number, enum spill_state to)
{
	const struct spill *r = spill_at(c, number);
	assert(spill_moves[r->state] >> to & 1u);
	if (r->state == SPILL_SPILLED)
		list_remove(c, LIST_SPILLS, &c->spilled, number);
	if (r->state == SPILL_FETCHING)
		fetch_uncount(c, number);
	if (r->state != SPILL_FREE)
		ADD(c->spills_in[r->state], -1);
	if (to != SPILL_FREE)
		ADD(c->spills_in[to], 1);
	SET(r->state, to);
	if (to == SPILL_SPILLED)
		list_push(c, LIST_SPILLS, &c->spilled, number);
	if (to == SPILL_FETCHING) {
		SET(r->counted, 1);
		list_push(c, LIST_SPILLS, &c->fetching, number);
	}
	if (to == SPILL_FREE)
		spill_slot_return(c, number);
}

/* Its write is no longer counted among the frames that come free soon. */
static void uncount(const struct core *c, uint32_t number)
{
	const struct spill *r = spill_at(c, number);
	if (!r->counted)
		return;
	SET(r->counted, 0);
	list_remove(c, LIST_SPILLS, &c->spilling, number);
	ADD(group_of_frame(c, page_at(c, r->page)->frame)->spilling, -1);
}

/* A page that is being written out is wanted after all, or its write has ended. */
void spill_keep(const struct core *c, uint32_t page)
{
	const struct page *p = page_at(c, page);
	assert(p->leaving && spill_at(c, node_at(c, p->node)->spill)->page == page);
	uncount(c, node_at(c, p->node)->spill);
	SET(p->leaving, 0);
	node_presence(c, p->node);
}

/* The page ends; what is being written of it is right all the same. */
void spill_page_gone(const struct core *c, uint32_t page)
{
	const struct page *p = page_at(c, page);
	const struct node *n = node_at(c, p->node);
	if (!n->spill || spill_at(c, n->spill)->page != page)
		return;
	uncount(c, n->spill);
	SET(p->leaving, 0);
	SET(spill_at(c, n->spill)->page, 0);
	if (spill_at(c, n->spill)->job) {
		SET(spill_at(c, n->spill)->stuck, 1);
		ADD(group_of_frame(c, p->frame)->stuck, 1);
	}
}

/* Take the record from its node.  Its place is free when no job uses it. */
void spill_forget(const struct core *c, uint32_t node)
{
	const struct node *n = node_at(c, node);
	uint32_t number = n->spill;
	if (!number)
		return;
	const struct spill *r = spill_at(c, number);
	if (r->page) {
		if (page_at(c, r->page)->leaving) {
			spill_keep(c, r->page);
			page_cool_list(c, r->page, true);
		}
		SET(r->page, 0);
	}
	if (r->state == SPILL_FETCHING)      /* who waits for it computes */
		wake_all(c, &n->waiters);
	SET(n->spill, 0);
	SET(r->node, 0);
	spill_move(c, number, r->state == SPILL_SPILLED ? SPILL_FREE : SPILL_LOST);
}

/* Drop a record that rests; a page that is nowhere else is forgotten, with all below it. */
void spill_discard(const struct core *c, uint32_t number)
{
	uint32_t node = spill_at(c, number)->node;
	assert(spill_at(c, number)->state == SPILL_SPILLED);
	if (node_at(c, node)->copies.count)
		spill_forget(c, node);
	else
		node_evict(c, node);
}

/* May a sequence of this tenant and domain read the page?  As page_serves() says of a copy. */
bool spill_serves(const struct core *c, uint32_t number, uint32_t tenant, uint32_t domain)
{
	const struct spill *r = spill_at(c, number);
	if (tenant_at(c, tenant)->sharing == CORE_PRIVATE || r->keep_private ||
	    node_at(c, r->node)->never_merge)
		return r->domain == domain;
	return true;
}

static bool serves_claims(const struct core *c, uint32_t number)
{
	const struct node *n = node_at(c, spill_at(c, number)->node);
	for (uint32_t k = list_first(&n->claims); k != CORE_NONE; k = list_next(c, LIST_NODE_CLAIMS, k))
		if (claim_at(c, k)->complete &&
		    !spill_serves(c, number, claim_at(c, k)->tenant, claim_at(c, k)->domain))
			return false;
	return true;
}

/* ---- out ---- */

/* The copy that does for all who claim the node. */
static uint32_t source_find(const struct core *c, const struct node *n)
{
	for (uint32_t p = list_first(&n->copies); p != CORE_NONE; p = list_next(c, LIST_COPIES, p)) {
		bool all = frame_state(c, page_at(c, p)->frame) == KVD_FRAME_COOL;
		for (uint32_t k = list_first(&n->claims); all && k != CORE_NONE;
		     k = list_next(c, LIST_NODE_CLAIMS, k))
			all = !claim_at(c, k)->complete ||
			      page_serves(c, p, claim_at(c, k)->tenant, claim_at(c, k)->domain);
		if (all)
			return p;
	}
	return 0;
}

static void copies_drop(const struct core *c, uint32_t node, uint32_t but)
{
	const struct node *n = node_at(c, node);
	uint32_t p = list_first(&n->copies);
	while (p != CORE_NONE) {
		uint32_t next = list_next(c, LIST_COPIES, p);
		if (p != but)
			page_drop(c, p, true);
		p = next;
	}
}

static void leave(const struct core *c, uint32_t number)
{
	const struct spill *r = spill_at(c, number);
	const struct page *p = page_at(c, r->page);
	SET(p->leaving, 1);
	SET(r->counted, 1);
	list_push(c, LIST_SPILLS, &c->spilling, number);
	ADD(group_of_frame(c, p->frame)->spilling, 1);
	page_cool_list(c, r->page, false);
	node_presence(c, r->node);
}

static bool write_start(const struct core *c, uint32_t number)
{
	const struct spill *r = spill_at(c, number);
	uint32_t frame = page_at(c, r->page)->frame;
	uint32_t job = job_new(c, JOB_SPILL, CORE_MOVE_SPILL, extent_at(c, extent_of(c, frame))->group,
			       frame, CORE_NONE, CORE_NONE);
	if (!job)
		return false;
	SET(c->spill_generation, c->spill_generation + 1);
	SET(r->generation, c->spill_generation);
	SET(r->job, job);
	SET(c->job[job].spill, number);
	job_start(c, job);
	return true;
}

/* A page that is being written cannot be given to anybody: a disk that hangs may keep a sixteenth of the pool. */
static uint32_t writes_max(const struct core *c, uint32_t space)
{
	uint64_t n = (uint64_t)c->n_extents * c->spaces[space].geometry.n_frames / 16;
	return n < 4 ? 4 : n > SPILLS_MAX ? SPILLS_MAX : (uint32_t)n;
}

static enum spill_out write_begin(const struct core *c, uint32_t node)
{
	const struct node *n = node_at(c, node);
	if (c->spill_pause_usec > c->now_usec)
		return SPILL_CANNOT;
	if (c->jobs_in[JOB_SPILL] >= writes_max(c, n->space) || !act_room(c))
		return SPILL_LATER;
	uint32_t number = spill_slot_take(c, n->space);
	if (!number)
		return SPILL_CANNOT;
	/* Making room may have forgotten what this page hangs from, and so the page. */
	uint32_t page = n->n_complete ? source_find(c, n) : 0;
	if (!page) {
		spill_slot_return(c, number);
		return SPILL_CANNOT;
	}
	const struct spill *r = spill_at(c, number);
	const struct page *p = page_at(c, page);
	copies_drop(c, node, page);
	SET(r->node, node);
	SET(r->page, page);
	SET(r->tenant, p->tenant);
	SET(r->domain, p->domain);
	SET(r->keep_private, p->keep_private);
	SET(r->begun_usec, c->now_usec);
	SET(n->spill, number);
	spill_move(c, number, SPILL_SPILLING);
	bool started = write_start(c, number);
	assert(started);                     /* asked above */
	leave(c, number);
	return SPILL_GOES;
}

/* A record is there: on disk, or nearly. */
static enum spill_out evict_written(const struct core *c, uint32_t node)
{
	const struct node *n = node_at(c, node);
	const struct spill *r = spill_at(c, n->spill);
	if (r->state != SPILL_SPILLING) {
		copies_drop(c, node, 0);
		return SPILL_GOES;
	}
	if (!r->page || frame_state(c, page_at(c, r->page)->frame) != KVD_FRAME_COOL)
		return SPILL_CANNOT;
	if (!page_at(c, r->page)->leaving)
		leave(c, n->spill);
	return SPILL_GOES;
}

/* Memory is wanted, and nobody holds the node: let its copies go to disk.  Now, if it is there
 * already; else when it is written.  CANNOT: the caller forgets the node.  LATER: it may instead wait until a
 * write has ended.
 * may_write  false: only if it is there already */
enum spill_out spill_evict(const struct core *c, uint32_t node, bool may_write)
{
	const struct node *n = node_at(c, node);
	bool written = n->spill && spill_at(c, n->spill)->state != SPILL_SPILLING;
	if (!c->layout.n_regions || !n->n_complete || !n->copies.count || (!may_write && !written))
		return SPILL_CANNOT;
	if (n->spill && !serves_claims(c, n->spill))
		spill_forget(c, node);
	node_ref(c, node);
	enum spill_out out = n->spill ? evict_written(c, node) : write_begin(c, node);
	if (!n->n_complete)                  /* making room has taken it along */
		out = SPILL_GOES;
	node_unref(c, node);
	return out;
}

/* The mover has written it, or not. */
void spill_written(const struct core *c, uint32_t job, const struct core_event *event)
{
	uint32_t number = c->job[job].spill;
	const struct spill *r = spill_at(c, number);
	uint32_t node = r->node, page = r->page;
	SET(r->job, 0);
	if (r->stuck)
		ADD(c->groups[c->job[job].group].stuck, -1);
	SET(r->stuck, 0);
	if (r->state == SPILL_LOST) {
		spill_move(c, number, SPILL_FREE);
		return;
	}
	bool leaving = page && page_at(c, page)->leaving;
	node_ref(c, node);
	if (event->moved.ok) {
		ADD(c->spill_writes, 1);
		if (leaving)
			spill_keep(c, page);
		SET(r->page, 0);
		SET(r->failures, 0);
		spill_move(c, number, SPILL_SPILLED);
		if (leaving)
			page_drop(c, page, true);
	} else if (!event->moved.differs && page && r->failures < SPILL_TRIES_MAX && write_start(c, number)) {
		ADD(r->failures, 1);         /* its mover died: ask the next one */
	} else {
		if (event->moved.differs)
			SET(c->spill_pause_usec, c->now_usec + SPILL_PAUSE_USEC);
		if (leaving)
			spill_keep(c, page);
		SET(r->page, 0);
		SET(node_at(c, node)->spill, 0);
		spill_move(c, number, SPILL_FREE);
		if (leaving && node_at(c, node)->copies.count > 1)
			page_drop(c, page, true);    /* somebody has computed it again meanwhile */
		else if (leaving)
			node_evict(c, node);
	}
	node_unref(c, node);
}

/* Writes that take too long: memory is found elsewhere from now on.  Reads that do: who waits computes. */
void spill_tick(const struct core *c)
{
	while (c->spilling.count &&
	       spill_at(c, list_first(&c->spilling))->begun_usec + SPILL_OVERDUE_USEC <= c->now_usec) {
		uncount(c, list_first(&c->spilling));
		SET(c->spill_pause_usec, c->now_usec + SPILL_PAUSE_USEC);
	}
	while (c->fetching.count &&
	       spill_at(c, list_first(&c->fetching))->begun_usec + FETCH_PATIENCE_USEC <= c->now_usec) {
		uint32_t number = list_first(&c->fetching);
		const struct list *waiters = &node_at(c, spill_at(c, number)->node)->waiters;
		fetch_uncount(c, number);
		while (waiters->count) {
			uint32_t seq = list_first(waiters);
			SET(seq_at(c, seq)->no_fetch, 1);
			seq_wake(c, seq);
		}
	}
}

uint64_t spill_next_usec(const struct core *c)
{
	uint32_t write = list_first(&c->spilling), read = list_first(&c->fetching);
	uint64_t write_usec = UINT64_MAX, read_usec = UINT64_MAX;
	if (write != CORE_NONE)
		write_usec = spill_at(c, write)->begun_usec + SPILL_OVERDUE_USEC;
	if (read != CORE_NONE)
		read_usec = spill_at(c, read)->begun_usec + FETCH_PATIENCE_USEC;
	uint64_t least_usec = write_usec < read_usec ? write_usec : read_usec;
	for (uint32_t n = c->jobs_in[JOB_SPILL] ? mask_next(c->pending_groups, 0) : GROUPS_MAX; n < GROUPS_MAX;
	     n = mask_next(c->pending_groups, n + 1)) {
		uint64_t since_usec = seq_at(c, list_first(&c->groups[n].pending))->waits_usec;
		/* from then on pages are forgotten for it (group_supply) */
		if (since_usec + SPILL_PATIENCE_USEC > c->now_usec && since_usec + SPILL_PATIENCE_USEC < least_usec)
			least_usec = since_usec + SPILL_PATIENCE_USEC;
	}
	return least_usec;
}

/* ---- back ---- */

enum begin { BEGIN_NO, BEGIN_NO_FRAME, BEGIN_DONE };

/* Read one page for a sequence, into a frame out of its reservation. */
static enum begin fetch_begin(const struct core *c, uint32_t seq, uint32_t index, bool ahead)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t node = hold_at(c, s->row + index)->node, number = node_at(c, node)->spill, near = CORE_NONE;
	const struct spill *r = spill_at(c, number);
	if (!s->reserved) { /* the table has an open page there already: this one is extra */
		if (ahead)
			return BEGIN_NO;
		seq_reserve(c, seq, 1);
		if (!core_fits(c)) {
			seq_reserve(c, seq, -1);
			return BEGIN_NO;
		}
	}
	if (index && hold_at(c, s->row + index - 1)->page)
		near = extent_of(c, page_at(c, hold_at(c, s->row + index - 1)->page)->frame);
	if (s->fetch != FETCH_SERVED && c->groups[s->engine].pending.count)
		return BEGIN_NO_FRAME;       /* others came first */
	uint32_t frame = frame_take(c, s->engine, near, KVD_FRAME_FILLING, r->tenant);
	if (frame == CORE_NONE)
		return BEGIN_NO_FRAME;
	seq_reserve(c, seq, -1);
	uint32_t job = job_new(c, JOB_FETCH, CORE_MOVE_FETCH, s->engine, CORE_NONE, CORE_NONE, frame);
	assert(job);
	SET(c->job[job].spill, number);
	SET(c->job[job].seq, seq);
	SET(r->job, job);
	SET(s->n_fetches, s->n_fetches + 1);
	/* As if used now: what is read for somebody must not be the next to go. */
	uint32_t claim = claim_find(c, node, s->domain);
	if (claim)                           /* none yet: the page is public */
		claim_touch(c, claim);
	SET(r->begun_usec, c->now_usec);
	spill_move(c, number, SPILL_FETCHING);
	job_start(c, job);
	return BEGIN_DONE;
}

static void fetch_ahead(const struct core *c, uint32_t seq, uint32_t index)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t record;
	if (tenant_at(c, s->tenant)->class == KVD_CLASS_OVER_HIGH)
		return;                      /* it would be out again before its turn comes */
	for (uint32_t i = index + 1; i < s->n_take && i <= index + FETCH_AHEAD_PAGES; i++) {
		if (c->jobs_in[JOB_FETCH] >= FETCHES_MAX || !act_room(c) ||
		    lookup_probe(c, seq, i, &record) != PROBE_FETCH)
			return;
		if (spill_at(c, node_at(c, record)->spill)->state == SPILL_SPILLED &&
		    fetch_begin(c, seq, i, true) != BEGIN_DONE)
			return;
	}
}

/* The page at `index` is on disk alone.  True: the sequence now waits for it, or for what it takes to
 * read it; false: it shall compute. */
bool spill_wait(const struct core *c, uint32_t seq, uint32_t index)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t node = hold_at(c, s->row + index)->node;
	enum begin begun = BEGIN_DONE;
	const struct spill *r = spill_at(c, node_at(c, node)->spill);
	if (s->no_fetch || (r->state == SPILL_FETCHING && !r->counted))
		return false;                /* the disk is too slow */
	if (r->state == SPILL_SPILLED) {
		if (c->jobs_in[JOB_FETCH] >= FETCHES_MAX || !act_room(c)) {
			promise_break_all(c, seq);
			seq_wait(c, seq, WAIT_FETCH, 0);
			return true;
		}
		begun = fetch_begin(c, seq, index, false);
	}
	if (begun == BEGIN_NO)
		return false;
	promise_break_all(c, seq);
	if (begun == BEGIN_NO_FRAME) {
		SET(s->fetch, FETCH_WAITS);
		seq_wait(c, seq, WAIT_MEMORY, 0);
		return true;
	}
	fetch_ahead(c, seq, index);
	seq_wait(c, seq, WAIT_FETCH, node);
	return true;
}

/* A sequence that waits for a frame to read into: is there one?  True: it waits for no more frames. */
bool spill_fill(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	const struct group *g = &c->groups[s->engine];
	uint32_t b = 0;
	while (b < BUCKETS && !g->partial[b].count)
		b++;
	if (b == BUCKETS)
		return false;
	seq_unwait(c, seq);
	SET(s->fetch, FETCH_SERVED);
	seq_continue(c, seq);                /* looks again, and reads if the page is still away */
	if (s->fetch == FETCH_SERVED)
		SET(s->fetch, FETCH_NONE);
	return s->wait != WAIT_MEMORY;
}

/* The sequence gave up its memory: reads under way are nobody's, and leave a cool copy. */
void spill_seq_gone(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	for (uint32_t i = 1; s->n_fetches && i <= c->jobs.high; i++) {
		if (c->job[i].kind != JOB_FETCH || c->job[i].seq != seq)
			continue;
		SET(c->job[i].seq, 0);
		SET(s->n_fetches, s->n_fetches - 1);
	}
	assert(!s->n_fetches);
	SET(s->fetch, 0);
}

/* A copy of the node, in the frame that it was read into. */
static void fetched(const struct core *c, uint32_t number, uint32_t frame)
{
	const struct spill *r = spill_at(c, number);
	uint32_t page = page_new(c, frame, r->tenant, r->domain, false);
	SET(page_at(c, page)->keep_private, r->keep_private);
	ADD(c->spill_reads, 1);
	SET(r->failures, 0);
	spill_move(c, number, SPILL_SPILLED);
	page_index(c, page, r->node);
	frame_move(c, frame, KVD_FRAME_COOL, 0);
	page_tidy(c, page);
}

/* The file does not give back what was written: nobody is served it. */
static void fetch_lost(const struct core *c, uint32_t number)
{
	uint32_t node = spill_at(c, number)->node;
	const struct node *n = node_at(c, node);
	ADD(c->lost_pages, 1);
	act_alarm(c, ALARM_SPILL_LOST, n->space, n->depth);
	if (!n->copies.count)
		node_evict(c, node);         /* takes the record with it */
	spill_forget(c, node);
	spill_move(c, number, SPILL_FREE);
}

void spill_read(const struct core *c, uint32_t job, const struct core_event *event)
{
	const struct job *j = &c->job[job];
	uint32_t number = j->spill, node = spill_at(c, number)->node, seq = j->seq, target = j->target;
	const struct spill *r = spill_at(c, number);
	if (!event->moved.ok && !event->moved.differs && r->state == SPILL_FETCHING && r->failures < SPILL_TRIES_MAX) {
		uint32_t again = job_new(c, JOB_FETCH, CORE_MOVE_FETCH, j->group, CORE_NONE, CORE_NONE, target);
		if (again) { /* its mover died: ask the next one */
			ADD(r->failures, 1);
			SET(r->job, again);
			SET(c->job[again].spill, number);
			SET(c->job[again].seq, seq);
			job_start(c, again);
			return;
		}
	}
	SET(r->job, 0);
	if (node)
		node_ref(c, node);
	if (r->state == SPILL_LOST)
		spill_move(c, number, SPILL_FREE);
	else if (event->moved.ok)
		fetched(c, number, target);
	else
		fetch_lost(c, number);
	if (!event->moved.ok || !node)
		frame_retire(c, target, false);
	if (seq) {
		SET(seq_at(c, seq)->n_fetches, seq_at(c, seq)->n_fetches - 1);
		seq_reserve(c, seq, 1);
	}
	if (node) {
		wake_all(c, &node_at(c, node)->waiters);
		node_unref(c, node);
	}
	wake_all(c, &c->fetch_waiters);
}

/* The file is gone (kvd was adopted without it).  Pages that are in it alone are lost; jobs under way
 * find out by themselves, and a read of them is not tried again. */
void spill_gone(const struct core *c)
{
	while (c->spilled.count) {
		uint32_t number = list_first(&c->spilled);
		if (!node_at(c, spill_at(c, number)->node)->copies.count)
			ADD(c->lost_pages, 1);
		spill_discard(c, number);
	}
	for (uint32_t i = 1; i <= c->jobs.high; i++)
		if (c->job[i].kind == JOB_FETCH)
			SET(spill_at(c, c->job[i].spill)->failures, SPILL_TRIES_MAX);
}

struct core_spill_place spill_place(const struct core *c, uint32_t number)
{
	const struct spill *r = spill_at(c, number);
	uint32_t region = (number - 1) >> c->slot_bits, index = (number - 1) & ((1u << c->slot_bits) - 1u);
	struct core_spill_place place = {
		.offset = region * c->config.extent_bytes + index * region_at(c, region)->slot_bytes,
		.generation = r->generation,
	};
	if (!r->node)
		return place;                /* LOST before its job began: whatever is read is thrown away */
	const struct node *n = node_at(c, r->node);
	uint64_t words[2 + KVD_PAGE_TOKENS / 2] = { (uint64_t)n->space << 32 | r->node, n->depth };
	memcpy(words + 2, n->tokens, sizeof(n->tokens));
	place.identity = siphash_words(c->config.hash_key, words, 2 + KVD_PAGE_TOKENS / 2);
	return place;
}
