/* sequence.c - one token timeline: its state, its waits, its table row, and the dispatch of verbs.
 *
 *   EMPTY     -> WAITING    seq_open        queued for admission (admit.c)
 *   WAITING   -> RUNNING    admit_run       prompt pages plus one are reserved
 *   EMPTY     -> RUNNING, PREEMPTED  seq_fork
 *   RUNNING   -> PREEMPTED  admit_preempt   lost its pages to let another proceed
 *   WAITING, RUNNING -> PARKED  seq_park    gave them up itself
 *   PARKED, PREEMPTED -> WAITING  seq_open  RESUME
 *   any       -> EMPTY      seq_end         CLOSE, refusal, or its engine died
 *
 * A sequence waits for at most one thing (enum seq_wait) and is in that thing's list.  At most one
 * submission of a slot is answered late (`pending`).  Table entries [0, n_sealed) are sealed,
 * [n_sealed, n_pages) open; while a truncation copies, entry n_sealed may still be the sealed one.
 *
 * Nothing a peer submits is asserted on: it gets a completion with a status. */
#include "kvd/core/spill.h"

static void insert_by_age(const struct core *c, enum list_kind kind, const struct list *l, uint32_t seq)
{
	uint32_t where = CORE_NONE, last = list_last(l);
	while (last != CORE_NONE && seq_at(c, last)->age > seq_at(c, seq)->age) {
		where = last;
		last = list_prev(c, kind, last);
	}
	list_insert(c, kind, l, seq, where);
}

/* Tenants whose sequences are in the queue are in a list of their own, those with a min first: what is theirs is
 * looked at first, however many others wait. */
void queued_list(const struct core *c, uint32_t tenant)
{
	const struct tenant *t = tenant_at(c, tenant);
	bool want = t->queued.count != 0;
	if (want == t->queued_listed)
		return;
	if (want && t->quota.min_bytes)
		list_push_head(c, LIST_QUEUED, &c->queued_tenants, tenant);
	else if (want)
		list_push(c, LIST_QUEUED, &c->queued_tenants, tenant);
	else
		list_remove(c, LIST_QUEUED, &c->queued_tenants, tenant);
	SET(t->queued_listed, want);
}

/* In its tenant's part of the queue, too: its link there is free while it does not run. */
static void queue_of_tenant(const struct core *c, uint32_t seq, bool in)
{
	uint32_t tenant = seq_at(c, seq)->tenant;
	if (in)
		insert_by_age(c, LIST_TENANT_RUNNING, &tenant_at(c, tenant)->queued, seq);
	else
		list_remove(c, LIST_TENANT_RUNNING, &tenant_at(c, tenant)->queued, seq);
	queued_list(c, tenant);
	tenant_active_changed(c, tenant);
}

static const struct list *wait_list(const struct core *c, const struct seq *s)
{
	switch ((enum seq_wait)s->wait) {
	case WAIT_QUEUE: return &c->queue;
	case WAIT_PROMISE: return &claim_at(c, s->wait_on)->waiters;
	case WAIT_FETCH: return s->wait_on ? &node_at(c, s->wait_on)->waiters : &c->fetch_waiters;
	case WAIT_SHARE: return &node_at(c, s->wait_on)->waiters;
	case WAIT_ACK: return &c->engines[s->engine].ack_waiters;
	case WAIT_MEMORY: return &c->groups[s->engine].pending;
	case WAIT_RATE: return &tenant_at(c, s->tenant)->rated;
	case WAIT_AWAKE: return &c->awake;
	case WAIT_NONE:
	case WAIT_JOB: break;
	}
	return NULL;
}

static bool waits_for_memory(const struct seq *s)
{
	return s->wait == WAIT_QUEUE || s->wait == WAIT_MEMORY;
}

void seq_wait(const struct core *c, uint32_t seq, enum seq_wait kind, uint32_t on)
{
	const struct seq *s = seq_at(c, seq);
	assert(s->wait == WAIT_NONE);
	SET(s->wait, kind);
	SET(s->wait_on, on);
	SET(s->waits_usec, c->now_usec);
	const struct list *list = wait_list(c, s);
	if (kind == WAIT_QUEUE) {
		SET(s->queued_usec, c->now_usec);
		insert_by_age(c, LIST_WAITERS, &c->queue, seq);
		queue_of_tenant(c, seq, true);
	} else if (list) {
		list_push(c, LIST_WAITERS, list, seq);
	}
	if (kind == WAIT_MEMORY)
		mask_set(c, c->pending_groups, s->engine, true);
	if (waits_for_memory(s))
		ADD(c->waiting, 1);
	stall_changed(c, seq);
}

void seq_unwait(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	const struct list *list = wait_list(c, s);
	uint32_t kind = s->wait, on = s->wait_on;
	if (waits_for_memory(s))
		ADD(c->waiting, -1);
	if (list)
		list_remove(c, LIST_WAITERS, list, seq);
	if (kind == WAIT_QUEUE)
		queue_of_tenant(c, seq, false);
	if (kind == WAIT_RATE)
		rate_unlist(c, s->tenant);
	SET(s->wait, WAIT_NONE);
	SET(s->wait_on, 0);
	SET(s->throttled, 0);
	stall_changed(c, seq);
	if (kind == WAIT_MEMORY && !list->count)
		mask_set(c, c->pending_groups, s->engine, false);
	if (kind == WAIT_PROMISE)
		claim_maybe_free(c, on);
}

void seq_throttle(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	if (s->throttled)
		return;
	SET(s->throttled, 1);
	ADD(tenant_at(c, s->tenant)->throttled, 1);
	stall_changed(c, seq);
}

void seq_wake(const struct core *c, uint32_t seq)
{
	seq_unwait(c, seq);
	seq_wait(c, seq, WAIT_AWAKE, 0);
}

/* Reserve (or give back) frames for a sequence, in its group's and its tenant's account. */
void seq_reserve(const struct core *c, uint32_t seq, int64_t pages)
{
	const struct seq *s = seq_at(c, seq);
	assert(pages >= 0 || s->reserved >= (uint64_t)-pages);
	SET(s->reserved, (uint32_t)(s->reserved + pages));
	group_reserve(c, s->engine, pages);
	uint64_t bytes = page_bytes_of_space(c, c->engines[s->engine].space);
	tenant_reserve(c, s->tenant, pages * (int64_t)bytes);
}

enum { CUT_AHEAD = 8 };                        /* pages whose records are asked for ahead */

/* Drop the table entries from n_pages on, last first: what is cached then ages leaf before parent.
 *  */
void seq_cut(const struct core *c, uint32_t seq, uint32_t n_pages)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t had = s->n_pages;
	while (s->n_pages > n_pages) {
		uint32_t index = s->n_pages - 1;
		if (index >= n_pages + CUT_AHEAD)
			hold_fetch(c, seq, index - CUT_AHEAD);
		if (index >= n_pages + CUT_AHEAD / 2) {
			const struct page *p = page_at(c, hold_at(c, s->row + index - CUT_AHEAD / 2)->page);
			__builtin_prefetch(frame_at(c, p->frame));
			if (p->node)
				fetch_record(&node_at(c, p->node)->present, 96);
		}
		SET(s->n_pages, index);
		if (s->n_sealed > index)
			SET(s->n_sealed, index);
		hold_drop(c, seq, index);
	}
	act_row(c, seq, n_pages, had);
}

static void nodes_cut(const struct core *c, uint32_t seq, uint32_t n_nodes)
{
	const struct seq *s = seq_at(c, seq);
	while (s->n_nodes > n_nodes) {
		const struct hold *h = hold_at(c, s->row + s->n_nodes - 1);
		uint32_t node = h->node;
		SET(s->n_nodes, s->n_nodes - 1);
		SET(h->node, 0);
		node_unref(c, node);
	}
	if (s->n_take > n_nodes)
		SET(s->n_take, n_nodes);
}

static void copy_forget(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	if (s->job)
		SET(c->job[s->job].seq, 0);  /* its target is thrown away when the mover answers */
	SET(s->job, 0);
	if (s->copy_from)
		frame_unpin(c, s->copy_from - 1);
	SET(s->copy_from, 0);
}

void seq_release(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	if (s->wait == WAIT_QUEUE)
		SET(c->memory_changed, 1);   /* whoever stood behind it may go */
	seq_unwait(c, seq);
	promise_break_all(c, seq);
	copy_forget(c, seq);
	spill_seq_gone(c, seq);
	seq_cut(c, seq, 0);
	nodes_cut(c, seq, 0);
	seq_reserve(c, seq, -(int64_t)s->reserved);
}

/* A record for a slot that is EMPTY.  The caller decides what state it begins in. */
uint32_t seq_new(const struct core *c, uint32_t engine, uint32_t slot, uint32_t tenant,
		 uint32_t domain)
{
	const struct engine *e = &c->engines[engine];
	uint32_t seq = e->seq_base + slot;
	const struct seq *s = seq_at(c, seq);
	assert(s->state == SEQ_EMPTY);
	SET_ZERO(s);
	SET(s->engine, engine);
	SET(s->slot, slot);
	SET(s->tenant, tenant);
	SET(s->domain, domain);
	SET(s->row, e->hold_base + slot * e->max_pages);
	SET(s->age, c->next_age);
	SET(c->next_age, c->next_age + 1);
	SET(s->opened_usec, c->now_usec);
	domain_use(c, domain);
	ADD(e->n_seqs, 1);
	ADD(tenant_at(c, tenant)->n_seqs, 1);
	const struct space *space = &c->spaces[e->space];
	if (space->first_tenant && space->first_tenant != tenant + 1)
		SET(space->many, 1);
	SET(space->first_tenant, tenant + 1);
	return seq;
}

void seq_end(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	if (s->state == SEQ_RUNNING)
		admit_stop(c, seq);
	SET(s->pending, c->engines[s->engine].state == ENGINE_LIVE ? s->pending : 0);
	seq_release(c, seq);
	if (s->pending)
		seq_complete(c, seq, KVD_S_CANCELLED);
	domain_leave(c, s->domain);
	ADD(c->engines[s->engine].n_seqs, -1);
	ADD(tenant_at(c, s->tenant)->n_seqs, -1);
	SET(s->state, SEQ_EMPTY);
}

/* Answer the submission that the sequence owes an answer to. */
void seq_complete(const struct core *c, uint32_t seq, uint32_t status)
{
	const struct seq *s = seq_at(c, seq);
	assert(s->pending);
	struct kvd_cqe cqe = { .verb = s->pending,
			       .status = (uint16_t)status,
			       .slot = s->pending_slot,
			       .user_data = s->pending_data,
			       .cached = s->n_sealed,
			       .pages = s->n_pages };
	SET(s->pending, 0);
	act_complete(c, s->engine, &cqe);
}

/* Its tenant's max refuses what it asks for; it keeps what it has. */
void seq_refuse(const struct core *c, uint32_t seq, uint32_t need_pages, uint32_t have_pages)
{
	const struct seq *s = seq_at(c, seq);
	struct kvd_cqe cqe = { .verb = s->pending, .status = KVD_S_TENANT_MAX, .slot = s->pending_slot,
		.user_data = s->pending_data, .cached = s->n_sealed, .pages = s->n_pages,
		.need_pages = need_pages, .have_pages = have_pages };
	SET(s->pending, 0);
	act_complete(c, s->engine, &cqe);
}

/* Answer a submission at once. */
void seq_answer(const struct core *c, const struct core_event *ev, uint32_t status)
{
	const struct kvd_sqe *sqe = &ev->submit.sqe;
	struct kvd_cqe cqe = { .verb = sqe->verb, .status = (uint16_t)status, .slot = sqe->slot,
		.user_data = sqe->user_data };
	const struct engine *e = &c->engines[ev->engine];
	if (sqe->slot < e->max_seqs && sqe->verb != KVD_EXTENT_ACK) {
		const struct seq *s = seq_at(c, e->seq_base + sqe->slot);
		cqe.cached = s->state ? s->n_sealed : 0;
		cqe.pages = s->state ? s->n_pages : 0;
	}
	act_complete(c, ev->engine, &cqe);
}

/* Pages of an engine's space that the whole pool can hold. */
uint64_t pool_pages(const struct core *c, uint32_t engine)
{
	return (uint64_t)(c->n_extents - c->pinned_extents) * c->spaces[c->engines[engine].space].geometry.n_frames;
}

static void seq_close(const struct core *c, const struct core_event *ev, uint32_t seq)
{
	if (seq_at(c, seq)->state == SEQ_EMPTY) {
		seq_answer(c, ev, KVD_S_STALE);
		return;
	}
	seq_end(c, seq);
	seq_answer(c, ev, KVD_S_OK);
}

static void seq_park(const struct core *c, const struct core_event *ev, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	if (s->state != SEQ_RUNNING && s->state != SEQ_WAITING) {
		seq_answer(c, ev, s->state == SEQ_PREEMPTED ? KVD_S_PREEMPTED : KVD_S_STALE);
		return;
	}
	if (s->state == SEQ_RUNNING)
		admit_stop(c, seq);
	seq_release(c, seq);
	if (s->pending)
		seq_complete(c, seq, KVD_S_CANCELLED);
	SET(s->state, SEQ_PARKED);
	seq_answer(c, ev, KVD_S_OK);
}

/* Forget the prompt's nodes from n_nodes on: the tokens there are no longer the prompt's. */
static void seq_truncate_nodes(const struct core *c, const struct core_event *ev, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	bool ok = s->state == SEQ_RUNNING && !s->pending &&
		  ev->submit.sqe.n_tokens <= s->n_pages * KVD_PAGE_TOKENS;
	if (ok) {
		promise_break_all(c, seq);
		nodes_cut(c, seq, ev->submit.sqe.n_tokens / KVD_PAGE_TOKENS < s->n_nodes
			  ? ev->submit.sqe.n_tokens / KVD_PAGE_TOKENS : s->n_nodes);
	}
	seq_truncate(c, ev, seq);
}

/* One submission of an engine.  Every field of it is a peer's word. */
void sequence_submit(const struct core *c, const struct core_event *ev)
{
	if (ev->engine >= CORE_ENGINES_MAX || c->engines[ev->engine].state != ENGINE_LIVE)
		return;
	const struct engine *e = &c->engines[ev->engine];
	const struct kvd_sqe *sqe = &ev->submit.sqe;
	if (sqe->verb == KVD_EXTENT_ACK) {
		bool ok = extent_ack(c, ev->engine, sqe->other, sqe->count);
		seq_answer(c, ev, ok ? KVD_S_OK : KVD_S_PROTOCOL);
		return;
	}
	if (sqe->slot >= e->max_seqs) {
		seq_answer(c, ev, KVD_S_PROTOCOL);
		return;
	}
	uint32_t seq = e->seq_base + sqe->slot;
	switch (sqe->verb) {
	case KVD_SEQ_OPEN:
	case KVD_SEQ_RESUME: seq_open(c, ev, seq); break;
	case KVD_SEQ_GROW: seq_grow(c, ev, seq); break;
	case KVD_SEQ_SEAL: seq_seal(c, ev, seq); break;
	case KVD_SEQ_FORK: seq_fork(c, ev, seq); break;
	case KVD_SEQ_TRUNCATE: seq_truncate_nodes(c, ev, seq); break;
	case KVD_SEQ_CLOSE: seq_close(c, ev, seq); break;
	case KVD_SEQ_PARK: seq_park(c, ev, seq); break;
	default: seq_answer(c, ev, KVD_S_PROTOCOL); break;
	}
}
