/* share.c - stored once: merging equal pages, and promoting a page to where every engine can read
 * it.
 *
 * Both end in the shared colour, which every engine of the space maps read-only.
 *   merge    two copies made by different tenants or engines: the mover compares their bytes and,
 *            if equal, copies them to a frame S of the shared colour; with S there, a further copy
 *            is only compared with it.  Different bytes are counted and alarmed, and the node never
 *            merges.
 *   promote  one copy, wanted by an engine that cannot read it: the mover copies it to S.
 * Then the tables switch: each holder whose engine has mapped S's extent, the others when it has
 * (share_acked).  A copy that nobody holds any more retires by epoch.
 *
 * Copies of one tenant on one engine need no S: the later one gives way at once (share_consider);
 * its bytes were never promised to anybody else, and a lookup would have taken the older one as
 * well.
 *
 * All of this is background work: what is missing (a frame, a job, an answer) delays only itself.
 * Merging never takes the last unassigned extent while a sequence waits, nor breaks a reservation.
 * It is done in rounds, one to two periods after the seal (config.merge_usec): whoever computed a page must not
 * feel, by the work that follows, that somebody had it (mover_share.c says the rest). */
#include "kvd/core/parts.h"

/* A node leaves the merge queue; those that are due are its first. */
static void merge_leaves(const struct core *c, uint32_t node)
{
	uint32_t left = c->merge_queue.count - 1, first = list_first(&c->merge_queue) == node;
	uint32_t aged = c->merge_aged - (c->merge_aged && first), due = c->merge_due - (c->merge_due && first);
	SET(c->merge_aged, aged < left ? aged : left);
	SET(c->merge_due, due < left ? due : left);
}

static void node_dequeue(const struct core *c, uint32_t node)
{
	const struct node *n = node_at(c, node);
	if (n->queued == 1)
		merge_leaves(c, node);
	if (n->queued)
		list_remove(c, LIST_MERGES, n->queued == 2 ? &c->promote_queue : &c->merge_queue,
			    node);
	SET(n->queued, 0);
}

static void node_enqueue(const struct core *c, uint32_t node, uint8_t queue)
{
	const struct node *n = node_at(c, node);
	if (n->queued >= queue)
		return;
	node_dequeue(c, node);
	list_push(c, LIST_MERGES, queue == 2 ? &c->promote_queue : &c->merge_queue, node);
	SET(n->queued, queue);
}

static void switch_dequeue(const struct core *c, uint32_t node)
{
	const struct node *n = node_at(c, node);
	if (n->switching)
		list_remove(c, LIST_SWITCHES,
			    n->switch_extent ? &extent_at(c, n->switch_extent - 1)->switching
					     : &c->switch_queue,
			    node);
	SET(n->switching, 0);
	SET(n->switch_extent, 0);
}

/* extent: wait for its next ack; CORE_NONE: as soon as there is room for actions. */
static void switch_enqueue(const struct core *c, uint32_t node, uint32_t extent)
{
	switch_dequeue(c, node);
	list_push(c, LIST_SWITCHES,
		  extent == CORE_NONE ? &c->switch_queue : &extent_at(c, extent)->switching, node);
	SET(node_at(c, node)->switching, 1);
	SET(node_at(c, node)->switch_extent, extent + 1);
}

/* The node is about to end, or lost its shared copy. */
void share_forget(const struct core *c, uint32_t node)
{
	switch_dequeue(c, node);
	if (!node_at(c, node)->copies.count && !node_at(c, node)->waiters.count)
		node_dequeue(c, node);
}

static uint32_t page_colour(const struct core *c, uint32_t p)
{
	return FRAME_COLOUR(frame_at(c, page_at(c, p)->frame)->word);
}

/* What there is to do for a node: returns the move, or 0; source and peer are pages. */
static uint32_t share_work(const struct core *c, const struct node *n, uint32_t *ret_source,
			   uint32_t *ret_peer)
{
	uint32_t a = 0;
	*ret_peer = 0;
	if (n->never_merge)
		return 0;
	for (uint32_t p = list_first(&n->copies); p != CORE_NONE;
	     p = list_next(c, LIST_COPIES, p)) {
		if (p == n->shared || !page_may_share(c, p) || page_at(c, p)->verified)
			continue;
		if (n->shared || a) {
			*ret_source = n->shared ? n->shared : a;
			*ret_peer = p;
			return CORE_MOVE_COMPARE_COPY;
		}
		a = p;
	}
	*ret_source = a;
	return a && n->promote ? CORE_MOVE_COPY : 0;
}

/* Same tenant and engine: the later copy's holders switch to the earlier one. */
static void merge_same_tenant(const struct core *c, const struct node *n)
{
	for (uint32_t p = list_first(&n->copies); p != CORE_NONE;
	     p = list_next(c, LIST_COPIES, p)) {
		uint32_t q = list_next(c, LIST_COPIES, p);
		while (q != CORE_NONE) {
			const struct page *later = page_at(c, q);
			uint32_t next = list_next(c, LIST_COPIES, q);
			bool same = later->tenant == page_at(c, p)->tenant && page_colour(c, q) &&
				    page_colour(c, q) == page_colour(c, p);
			bool fits = !later->holders.count || page_holdable(c, p);
			if (same && fits && (extent_at(c, extent_of(c, page_at(c, p)->frame))->acked >>
					     (page_colour(c, p) - 1) &
				     1u)) {
				while (later->holders.count)
					hold_switch(c, list_first(&later->holders), p);
				page_drop(c, q, true);
			}
			q = next;
		}
	}
}

/* A page has its identity.  Counted whether or not there is another like it. */
void share_sealed(const struct core *c, uint32_t page)
{
	const struct space *s = &c->spaces[group_of_frame(c, page_at(c, page)->frame)->space];
	if (!c->config.merge_usec || !s->many || !page_may_share(c, page))
		return;
	ADD(s->sealed_fresh, 1);
	ADD(c->sealed_waiting, 1);
}

bool core_read_sealed(const struct core *core, uint32_t *cursor, uint64_t *ret_due,
		      struct kvd_geometry *ret_geometry)
{
	while (*cursor < core->n_spaces) {
		const struct space *s = &core->spaces[(*cursor)++];
		if (!s->live)
			continue;
		*ret_due = s->sealed_due;
		*ret_geometry = s->geometry;
		return true;
	}
	return false;
}

void share_consider(const struct core *c, uint32_t node)
{
	const struct node *n = node_at(c, node);
	uint32_t source, peer;
	if (n->copies.count > 1)
		merge_same_tenant(c, n);
	if (!n->job && share_work(c, n, &source, &peer) == CORE_MOVE_COMPARE_COPY)
		node_enqueue(c, node, 1);
}

/* A frame for S.  An extent whose use would take what a reservation counts on is left alone. */
static uint32_t share_frame(const struct core *c, uint32_t group, uint32_t owner, bool merge)
{
	const struct group *g = &c->groups[group];
	for (uint32_t b = 0; b < BUCKETS; b++) {
		uint32_t x = list_first(&g->partial[b]);
		if (x != CORE_NONE && (!extent_at(c, x)->idle_listed || extent_spare(c, group)))
			return frame_take(c, group, x, KVD_FRAME_FILLING, owner);
	}
	if (!c->unassigned.count || !extent_spare(c, group) ||
	    (merge && c->waiting && c->unassigned.count == 1))
		return CORE_NONE;
	extent_assign(c, group);
	return frame_take(c, group, CORE_NONE, KVD_FRAME_FILLING, owner);
}

/* A sequence wants the content in the shared colour.  False: it cannot be had now, compute. */
bool share_request(const struct core *c, uint32_t node)
{
	const struct node *n = node_at(c, node);
	uint32_t group = group_shared(n->space);
	if (n->never_merge)
		return false;
	if (n->promote)
		return true;
	bool frame = c->unassigned.count && extent_spare(c, group);
	for (uint32_t b = 0; !frame && b < BUCKETS; b++) {
		uint32_t x = list_first(&c->groups[group].partial[b]);
		frame = x != CORE_NONE && (!extent_at(c, x)->idle_listed || extent_spare(c, group));
	}
	if (!frame)
		return false;
	SET(n->promote, 1);
	if (!n->job)
		node_enqueue(c, node, 2);
	return true;
}

/* The wish is over: those who waited look again, and compute if there is still no copy for them. */
static void promote_end(const struct core *c, const struct node *n, bool failed)
{
	SET(n->promote, 0);
	SET(n->failures, 0);
	while (n->waiters.count) {
		uint32_t seq = list_first(&n->waiters);
		if (failed)
			SET(seq_at(c, seq)->no_share, 1);
		seq_wake(c, seq);
	}
}

/* Begin the node's work.  False: no frame or no job now. */
static bool share_start(const struct core *c, uint32_t node)
{
	const struct node *n = node_at(c, node);
	uint32_t source, peer, group = group_shared(n->space), target;
	uint32_t move = n->job ? 0 : share_work(c, n, &source, &peer);
	if (!move) {
		node_dequeue(c, node);
		if (n->promote && !n->job)
			promote_end(c, n, !n->shared);
		return true;
	}
	if (c->jobs_in[JOB_SHARE] >= SHARES_MAX)
		return false;
	const struct page *a = page_at(c, source);
	if (source == n->shared)
		target = a->frame;           /* compare only */
	else
		target = share_frame(c, group, a->tenant, !n->promote);
	if (target == CORE_NONE)
		return false;
	uint32_t job = job_new(c, JOB_SHARE, move, group, a->frame,
			       peer ? page_at(c, peer)->frame : CORE_NONE, target);
	const struct job *j = &c->job[job];
	SET(j->node, node);
	SET(j->source_page, source);
	SET(j->peer_page, peer);
	SET(n->job, job);
	node_dequeue(c, node);
	job_start(c, job);
	return true;
}

/* Is the page that a job began with still that copy?  Its frame is pinned and cannot have been
 * reused. */
static bool job_page_valid(const struct core *c, uint32_t page, uint32_t frame, uint32_t node)
{
	return page && frame_at(c, frame)->page == page && page_at(c, page)->node == node;
}

/* Switch the tables of verified copies to S where the engines have mapped it; wait for the others.
 *  */
static void node_switch(const struct core *c, uint32_t node)
{
	const struct node *n = node_at(c, node);
	bool waits = false;
	switch_dequeue(c, node);
	if (!n->shared)
		return;
	uint32_t shared = n->shared, x = extent_of(c, page_at(c, shared)->frame);
	uint32_t p = list_first(&n->copies);
	node_ref(c, node);
	while (p != CORE_NONE) {
		const struct page *copy = page_at(c, p);
		uint32_t next = list_next(c, LIST_COPIES, p);
		if (p != shared && copy->verified) {
			uint32_t h = list_first(&copy->holders);
			while (h != CORE_NONE) {
				uint32_t after = list_next(c, LIST_HOLDERS, h);
				if (seq_at(c, hold_at(c, h)->seq)->alone || !page_holdable(c, shared))
					;            /* shared extents are in its way (admit.c), or in another's */
				else if (extent_at(c, x)->acked >>
						 seq_at(c, hold_at(c, h)->seq)->engine &
					 1u)
					hold_switch(c, h, shared);
				else
					waits = true;
				h = after;
			}
			page_tidy(c, p);
		}
		p = next;
	}
	page_tidy(c, shared);
	if (waits)
		switch_enqueue(c, node, x);
	node_unref(c, node);
}

/* Equal bytes are in the target: it becomes the node's shared copy. */
static void share_landed(const struct core *c, uint32_t node, const struct job *j,
			 bool source_valid, bool peer_valid)
{
	const struct node *n = node_at(c, node);
	if (source_valid && j->source_page != n->shared)
		SET(page_at(c, j->source_page)->verified, 1);
	if (peer_valid)
		SET(page_at(c, j->peer_page)->verified, 1);
	if (j->source != j->target) {
		uint32_t owner = FRAME_OWNER(frame_at(c, j->target)->word);
		uint32_t page = page_new(c, j->target, owner, tenant_at(c, owner)->domain, false);
		SET(page_at(c, page)->keep_private, 0);
		page_index(c, page, node);
		SET(n->shared, page);
		frame_move(c, j->target, KVD_FRAME_COOL, 0);
	}
	if (j->peer != CORE_NONE)
		ADD(c->merges, 1);
	else
		ADD(c->promotions, 1);
	node_switch(c, node);
}

void share_moved(const struct core *c, uint32_t job, const struct core_event *event)
{
	const struct job *j = &c->job[job];
	uint32_t node = j->node;
	const struct node *n = node_at(c, node);
	bool fresh = j->source != j->target,
	     source_valid = job_page_valid(c, j->source_page, j->source, node);
	bool peer_valid = j->peer != CORE_NONE && job_page_valid(c, j->peer_page, j->peer, node);
	bool compared = event->moved.ok && j->peer != CORE_NONE;
	bool differs = compared && event->moved.differs;
	/* A compare with S whose S has gone meanwhile proves nothing about the node's present
	 * copies. */
	bool equal = event->moved.ok && !differs && n->n_complete &&
		     (fresh ? !n->shared : source_valid && n->shared == j->source_page);

	SET(n->job, 0);
	node_ref(c, node);
	if (differs) {
		SET(n->never_merge, 1);
		ADD(c->merge_mismatches, 1);
		act_alarm(c, ALARM_MERGE_MISMATCH, n->space, n->depth);
	}
	if (equal)
		share_landed(c, node, j, source_valid, peer_valid);
	else if (fresh)
		frame_retire(c, j->target, false);
	if (!event->moved.ok)
		ADD(n->failures, 1);
	if (n->promote && (equal || differs || !event->moved.ok) &&
	    (event->moved.ok || n->failures > 2))
		promote_end(c, n, !equal);
	else if (n->promote)
		node_enqueue(c, node, 2);
	share_consider(c, node);
	node_unref(c, node);
}

void share_relocated(const struct core *c, uint32_t node)
{
	if (node_at(c, node)->switching)
		switch_enqueue(c, node, CORE_NONE);
}

void share_acked(const struct core *c, uint32_t extent)
{
	const struct list *waiting = &extent_at(c, extent)->switching;
	while (waiting->count)
		switch_enqueue(c, list_first(waiting), CORE_NONE);
}

/* A round begins: what waited a whole period is due.  By what was sealed, not by what there is to merge. */
void share_tick(const struct core *c)
{
	uint64_t period_usec = c->config.merge_usec;
	if (!period_usec || c->now_usec < c->merge_round_usec)
		return;
	SET(c->merge_due, c->merge_aged);
	SET(c->merge_aged, c->merge_queue.count);
	SET(c->merge_round_usec, (c->now_usec / period_usec + 1) * period_usec);
	for (uint32_t i = 0; c->sealed_waiting && i < c->n_spaces; i++) {
		const struct space *s = &c->spaces[i];
		if (!s->sealed_fresh && !s->sealed_aged)
			continue;
		SET(c->sealed_waiting, c->sealed_waiting - s->sealed_aged);
		SET(s->sealed_due, s->sealed_due + s->sealed_aged);
		SET(s->sealed_aged, s->sealed_fresh);
		SET(s->sealed_fresh, 0);
	}
}

uint64_t share_tick_usec(const struct core *c)
{
	return c->sealed_waiting || (c->config.merge_usec && c->merge_queue.count) ? c->merge_round_usec : UINT64_MAX;
}

void share_pump(const struct core *c)
{
	while (c->switch_queue.count && act_room(c))
		node_switch(c, list_first(&c->switch_queue));
	while (c->promote_queue.count && act_room(c)) {
		uint32_t node = list_first(&c->promote_queue);
		if (share_start(c, node))
			continue;
		if (c->jobs_in[JOB_SHARE] >= SHARES_MAX)
			return;
		node_dequeue(c, node);       /* no frame: do not let anybody wait for one */
		promote_end(c, node_at(c, node), true);
	}
	for (uint32_t tries = 0; tries < 64 && c->merge_queue.count && act_room(c); tries++) {
		if (c->config.merge_usec && !c->merge_due)
			return;
		if (!share_start(c, list_first(&c->merge_queue)))
			return;
	}
}
