/* verbs.c - what OPEN, RESUME, GROW, SEAL, FORK and TRUNCATE do.
 *
 * Each checks the peer's words, then acts, then answers at once or leaves `pending` for later:
 * OPEN and RESUME wait for admission, a promise, a copy or an ack; GROW for these and for frames;
 * FORK and TRUNCATE for a frame and the mover's copy.  seq_continue() goes on when something came.
 *  */
#include "kvd/core/spill.h"

static uint32_t pages_of(uint32_t n_tokens)
{
	return n_tokens / KVD_PAGE_TOKENS + !!(n_tokens % KVD_PAGE_TOKENS);
}

static void answer_numbers(const struct core *c, const struct core_event *ev, uint32_t status,
			   uint64_t need, uint64_t have)
{
	const struct kvd_sqe *sqe = &ev->submit.sqe;
	act_complete(
		c, ev->engine,
		&(struct kvd_cqe){ .verb = sqe->verb,
				   .status = (uint16_t)status,
				   .slot = sqe->slot,
				   .user_data = sqe->user_data,
				   .need_pages = (uint32_t)need,
				   .have_pages = have > UINT32_MAX ? UINT32_MAX : (uint32_t)have });
}

/* The prompt's content identities, as far as whole pages go.  A full pool of nodes only means that
 * the rest of the prompt is not looked up. */
static void prompt_nodes(const struct core *c, uint32_t seq, const int32_t *tokens,
			 uint32_t n_tokens)
{
	const struct seq *s = seq_at(c, seq);
	struct node_walk walk = { .space = c->engines[s->engine].space, .tokens = tokens,
				  .n_pages = n_tokens / KVD_PAGE_TOKENS };
	uint32_t parent = 0;
	for (uint32_t i = 0; i < walk.n_pages; i++) {
		uint32_t node = node_walk_next(c, &walk, i, parent);
		if (!node)
			break;
		node_ref(c, node);
		SET(hold_at(c, s->row + i)->node, node);
		SET(s->n_nodes, i + 1);
		parent = node;
	}
	uint32_t most = (n_tokens - 1) / KVD_PAGE_TOKENS;
	SET(s->n_take, most < s->n_nodes ? most : s->n_nodes);
}

static void pending_set(const struct core *c, uint32_t seq, const struct core_event *ev)
{
	const struct seq *s = seq_at(c, seq);
	SET(s->pending, ev->submit.sqe.verb);
	SET(s->pending_data, ev->submit.sqe.user_data);
	SET(s->pending_slot, ev->submit.sqe.slot);
}

/* The tenant has as many sequences as it may, running or not. */
static bool sequences_full(const struct core *c, const struct core_event *ev, uint32_t tenant)
{
	const struct tenant *t = tenant_at(c, tenant);
	if (!t->quota.max_sequences || t->n_seqs < t->quota.max_sequences)
		return false;
	answer_numbers(c, ev, KVD_S_LIMIT, (uint64_t)t->n_seqs + 1, t->quota.max_sequences);
	return true;
}

/* OPEN and RESUME: may this be admitted at all, ever? */
static bool open_refused(const struct core *c, const struct core_event *ev, uint32_t tenant,
			 uint32_t need)
{
	const struct kvd_sqe *sqe = &ev->submit.sqe;
	const struct engine *e = &c->engines[ev->engine];
	uint64_t max_tokens = (uint64_t)e->max_pages * KVD_PAGE_TOKENS;
	if (!sqe->n_tokens || !ev->submit.tokens) {
		seq_answer(c, ev, KVD_S_BAD_REQUEST);
		return true;
	}
	if (sqe->n_tokens > max_tokens) {
		answer_numbers(c, ev, KVD_S_CONTEXT, pages_of(sqe->n_tokens), e->max_pages);
		return true;
	}
	if (ev->submit.n_tokens != sqe->n_tokens) {
		seq_answer(c, ev, KVD_S_PROTOCOL);
		return true;
	}
	if (need > pool_pages(c, ev->engine)) {
		answer_numbers(c, ev, KVD_S_TOO_LARGE, need, pool_pages(c, ev->engine));
		return true;
	}
	uint64_t max = tenant_at(c, tenant)->quota.max_bytes, bytes = page_bytes_of_space(c, e->space);
	if (max && need * bytes > max) {
		answer_numbers(c, ev, KVD_S_TENANT_MAX, need, max / bytes);
		return true;
	}
	return false;
}

void seq_open(const struct core *c, const struct core_event *ev, uint32_t seq)
{
	const struct kvd_sqe *sqe = &ev->submit.sqe;
	const struct engine *e = &c->engines[ev->engine];
	const struct seq *s = seq_at(c, seq);
	bool resume = sqe->verb == KVD_SEQ_RESUME;
	if (resume ? s->state != SEQ_PARKED && s->state != SEQ_PREEMPTED : s->state != SEQ_EMPTY) {
		seq_answer(c, ev, KVD_S_STALE);
		return;
	}
	if (!resume && e->draining) {
		seq_answer(c, ev, KVD_S_DRAINING);
		return;
	}
	uint32_t tenant = resume ? s->tenant : ev->submit.tenant;
	if (tenant >= c->n_tenants) {
		seq_answer(c, ev, tenant == CORE_NONE ? KVD_S_STALE : KVD_S_REFUSED);
		return;
	}
	uint32_t need = pages_of(sqe->n_tokens);
	need += need < e->max_pages;         /* the page that the first new token goes to */
	if ((!resume && sequences_full(c, ev, tenant)) || open_refused(c, ev, tenant, need))
		return;
	if (!resume)
		seq_new(c, ev->engine, sqe->slot, tenant, tenant_at(c, tenant)->domain);
	SET(s->state, SEQ_WAITING);
	SET(s->no_index, (uint8_t)(sqe->flags & KVD_OPEN_PRIVATE));
	SET(s->no_share, 0);
	SET(s->no_fetch, 0);
	SET(s->lookup, 0);
	SET(s->need, need);
	SET(s->n_tokens, sqe->n_tokens);
	SET(s->n_cached, 0);
	pending_set(c, seq, ev);
	if (!s->no_index)
		prompt_nodes(c, seq, ev->submit.tokens, sqe->n_tokens);
	admit_enqueue(c, seq);
}

/* Frames for a GROW that is admitted: reserved already, unless it asks for more than that. */
void seq_grow_on(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	if (s->lookup && lookup_take(c, seq))
		return;
	SET(s->lookup, 0);
	uint32_t missing = s->want > s->n_pages ? s->want - s->n_pages : 0;
	if (missing && !rate_allows(c, seq))
		return;
	if (missing > s->reserved &&
	    (!max_allows(c, seq, missing - s->reserved) || !admit_reserve(c, seq, missing - s->reserved)))
		return;                      /* it was preempted itself, or refused, and answered */
	if (!missing) {
		seq_complete(c, seq, KVD_S_OK);
		return;
	}
	if (c->groups[s->engine].pending.count || !seq_fill(c, seq))
		seq_wait(c, seq, WAIT_MEMORY, 0);
}

void seq_grow(const struct core *c, const struct core_event *ev, uint32_t seq)
{
	const struct kvd_sqe *sqe = &ev->submit.sqe;
	const struct seq *s = seq_at(c, seq);
	if (s->state != SEQ_RUNNING || s->pending) {
		seq_answer(c, ev, s->state == SEQ_PREEMPTED ? KVD_S_PREEMPTED : KVD_S_STALE);
		return;
	}
	if (sqe->want > c->engines[ev->engine].max_pages) {
		answer_numbers(c, ev, KVD_S_CONTEXT, sqe->want, c->engines[ev->engine].max_pages);
		return;
	}
	if (sqe->want > pool_pages(c, ev->engine)) {
		answer_numbers(c, ev, KVD_S_TOO_LARGE, sqe->want, pool_pages(c, ev->engine));
		return;
	}
	pending_set(c, seq, ev);
	SET(s->want, sqe->want);
	SET(s->paid, 0);
	SET(s->rate_turn, 0);
	SET(s->no_share, 0);
	SET(s->no_fetch, 0);
	/* Only where all that is computed is sealed: what lies between would be lost. */
	SET(s->lookup, (sqe->flags & KVD_GROW_LOOKUP) && sqe->page == s->n_sealed);
	seq_grow_on(c, seq);
}

/* Begin the copy a FORK or TRUNCATE waits for, if there is a frame and a job for it. */
static bool copy_start(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	if (c->jobs_in[JOB_COPY] >= COPIES_MAX)
		return false;
	uint32_t target = frame_take(c, s->engine, extent_of(c, s->copy_from - 1),
				     KVD_FRAME_FILLING, s->tenant);
	if (target == CORE_NONE)
		return false;
	uint32_t job = job_new(c, JOB_COPY, CORE_MOVE_COPY, s->engine, s->copy_from - 1, CORE_NONE,
			       target);
	SET(c->job[job].seq, seq);
	SET(s->job, job);
	seq_reserve(c, seq, -1);
	job_start(c, job);
	return true;
}

/* Give a sequence that waits for frames what there is.  True: it waits for no more frames. */
bool seq_fill(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	if (s->copy_from) {
		if (!copy_start(c, seq))
			return false;
		if (s->wait)
			seq_unwait(c, seq);
		seq_wait(c, seq, WAIT_JOB, 0);
		return true;
	}
	if (s->fetch == FETCH_WAITS)
		return spill_fill(c, seq);
	uint32_t from = s->n_pages;
	while (s->n_pages < s->want && page_open(c, seq, s->n_pages)) {
		SET(s->n_pages, s->n_pages + 1);
		seq_reserve(c, seq, -1);
	}
	act_row(c, seq, from, s->n_pages);
	if (s->n_pages < s->want)
		return false;
	seq_unwait(c, seq);
	seq_complete(c, seq, KVD_S_OK);
	return true;
}

/* The mover copied a page for a FORK or TRUNCATE, or failed and is asked again. */
void seq_copied(const struct core *c, uint32_t job, bool ok)
{
	const struct job *j = &c->job[job];
	uint32_t seq = j->seq;
	if (!seq) {
		frame_retire(c, j->target, false);
		return;
	}
	const struct seq *s = seq_at(c, seq);
	SET(s->job, 0);
	seq_unwait(c, seq);
	if (!ok) {
		frame_retire(c, j->target, false);
		seq_reserve(c, seq, 1);
		seq_wait(c, seq, WAIT_MEMORY, 0);
		return;
	}
	uint32_t page = page_new(c, j->target, s->tenant, s->domain, true);
	frame_move(c, j->target, KVD_FRAME_OPEN, s->tenant);
	if (s->copy_page < s->n_pages)
		hold_drop(c, seq, s->copy_page);
	hold_take(c, seq, s->copy_page, page, 0);
	SET(s->n_pages, s->copy_page + 1);
	act_entry(c, seq, s->copy_page);
	frame_unpin(c, s->copy_from - 1);
	SET(s->copy_from, 0);
	seq_complete(c, seq, KVD_S_OK);
}

/* Make table entry `index` an open copy of a page; the answer is late. */
static void copy_request(const struct core *c, uint32_t seq, uint32_t index, uint32_t page)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t frame = page_at(c, page)->frame;
	ADD(frame_at(c, frame)->pins, 1);    /* its sequence may close before the copy begins */
	SET(s->copy_from, frame + 1);
	SET(s->copy_page, index);
	if (c->groups[s->engine].pending.count || !seq_fill(c, seq))
		seq_wait(c, seq, WAIT_MEMORY, 0);
}

/* One page is full: its tokens are known, it gets its identity and its domain's claim. */
static void seal_one(const struct core *c, uint32_t seq, uint32_t index, const int32_t *tokens)
{
	const struct seq *s = seq_at(c, seq);
	const struct hold *h = hold_at(c, s->row + index), *before = index ? h - 1 : NULL;
	const struct page *page = page_at(c, h->page);
	uint32_t space = c->engines[s->engine].space;
	frame_move(c, page->frame, KVD_FRAME_SEALED, 0);
	SET(s->n_sealed, index + 1);
	if (s->no_index || (before && !before->claim))
		return;                      /* outside the index, or its chain is */
	uint32_t parent = before ? page_at(c, before->page)->node : 0, node = 0;
	if (index < s->n_nodes && node_is(c, h->node, parent, tokens)) /* as the prompt said */
		node = h->node;
	if (!node)
		node = node_find_or_make(c, space, parent, tokens, 0);
	if (!node)
		return;
	node_ref(c, node);
	uint32_t claim = claim_find_or_make(c, node, s->domain, s->tenant);
	blame(c, s->tenant, KVD_RECLAIM_CLAIMS);
	if (!claim && reclaim_claim(c))
		claim = claim_find_or_make(c, node, s->domain, s->tenant);
	if (claim) {
		int64_t bytes = (int64_t)page_bytes_of_space(c, space);
		tenant_charge(c, page->tenant, -bytes, -bytes);
		page_index(c, h->page, node);
		if (!claim_at(c, claim)->complete) {
			claim_complete(c, claim, s->tenant, s->engine);
			ghost_computed(c, claim);
		}
		hold_claim(c, seq, index, claim);
		claim_hit(c, claim);
		share_sealed(c, h->page);
		share_consider(c, node);
	}
	node_unref(c, node);
}

void seq_seal(const struct core *c, const struct core_event *ev, uint32_t seq)
{
	const struct kvd_sqe *sqe = &ev->submit.sqe;
	const struct seq *s = seq_at(c, seq);
	bool copying = s->pending && s->pending != KVD_SEQ_GROW;
	if (s->state != SEQ_RUNNING || copying) {
		seq_answer(c, ev, s->state == SEQ_PREEMPTED ? KVD_S_PREEMPTED : KVD_S_STALE);
		return;
	}
	if (sqe->page != s->n_sealed || !sqe->count || sqe->count > s->n_pages - s->n_sealed) {
		seq_answer(c, ev, KVD_S_STALE);
		return;
	}
	if (!ev->submit.tokens || ev->submit.n_tokens != sqe->count * KVD_PAGE_TOKENS) {
		seq_answer(c, ev, KVD_S_PROTOCOL);
		return;
	}
	for (uint32_t i = 0; i < sqe->count; i++)
		seal_one(c, seq, sqe->page + i, ev->submit.tokens + (size_t)i * KVD_PAGE_TOKENS);
	uint32_t n_tokens = (sqe->page + sqe->count) * KVD_PAGE_TOKENS;
	if (s->n_tokens < n_tokens)
		SET(s->n_tokens, n_tokens);
	if (s->promises.count) {
		SET(s->progress_usec, c->now_usec);
		list_remove(c, LIST_PROMISERS, &c->promisers, seq);
		list_push(c, LIST_PROMISERS, &c->promisers, seq);
	}
	seq_answer(c, ev, KVD_S_OK);
}

/* A fork that finds no memory does not fail: its target begins PREEMPTED, to be resumed.  That is
 * what the status PREEMPTED of a FORK means; if the source itself has lost its pages it is STALE.
 *  */
static void fork_preempted(const struct core *c, uint32_t target)
{
	seq_release(c, target);
	SET(seq_at(c, target)->state, SEQ_PREEMPTED);
	seq_complete(c, target, KVD_S_PREEMPTED);
}

void seq_fork(const struct core *c, const struct core_event *ev, uint32_t seq)
{
	const struct kvd_sqe *sqe = &ev->submit.sqe;
	const struct engine *e = &c->engines[ev->engine];
	const struct seq *s = seq_at(c, seq);
	uint32_t whole = sqe->n_tokens / KVD_PAGE_TOKENS, rest = sqe->n_tokens % KVD_PAGE_TOKENS;
	if (sqe->other >= e->max_seqs) {
		seq_answer(c, ev, KVD_S_PROTOCOL);
		return;
	}
	uint32_t target = e->seq_base + sqe->other;
	bool copying = s->pending && s->pending != KVD_SEQ_GROW;
	if (s->state != SEQ_RUNNING || copying || seq_at(c, target)->state != SEQ_EMPTY ||
	    whole > s->n_sealed || (rest && whole >= s->n_pages)) {
		seq_answer(c, ev, KVD_S_STALE);
		return;
	}
	if (sequences_full(c, ev, s->tenant))
		return;
	seq_new(c, ev->engine, sqe->other, s->tenant, s->domain);
	const struct seq *t = seq_at(c, target);
	SET(t->no_index, s->no_index);
	SET(t->n_tokens, sqe->n_tokens);
	pending_set(c, target, ev);
	for (uint32_t i = 0; i < whole; i++) {
		const struct hold *h = hold_at(c, s->row + i);
		hold_take(c, target, i, h->page, h->claim);
	}
	SET(t->n_pages, whole);
	SET(t->n_sealed, whole);
	if (rest)
		seq_reserve(c, target, 1);
	if (rest && !core_fits(c)) {
		fork_preempted(c, target);
		return;
	}
	SET(t->state, SEQ_RUNNING);
	admit_run(c, target);
	act_row(c, target, 0, whole);
	if (rest)
		copy_request(c, target, whole, hold_at(c, s->row + whole)->page);
	else
		seq_complete(c, target, KVD_S_OK);
}

void seq_truncate(const struct core *c, const struct core_event *ev, uint32_t seq)
{
	const struct kvd_sqe *sqe = &ev->submit.sqe;
	const struct seq *s = seq_at(c, seq);
	uint32_t whole = sqe->n_tokens / KVD_PAGE_TOKENS, rest = sqe->n_tokens % KVD_PAGE_TOKENS;
	if (s->state != SEQ_RUNNING || s->pending || pages_of(sqe->n_tokens) > s->n_pages) {
		seq_answer(c, ev, s->state == SEQ_PREEMPTED ? KVD_S_PREEMPTED : KVD_S_STALE);
		return;
	}
	seq_cut(c, seq, pages_of(sqe->n_tokens));
	SET(s->n_tokens, sqe->n_tokens);
	if (!rest || whole >= s->n_sealed) {
		seq_answer(c, ev, KVD_S_OK);
		return;
	}
	SET(s->n_sealed, whole);
	pending_set(c, seq, ev);
	if (!s->reserved && !admit_reserve(c, seq, 1))
		return;
	copy_request(c, seq, whole, hold_at(c, s->row + whole)->page);
}

void seq_continue(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	if (s->state == SEQ_WAITING) {
		admit_enqueue(c, seq);
		return;
	}
	assert(s->state == SEQ_RUNNING && s->pending);
	if (s->pending == KVD_SEQ_GROW)
		seq_grow_on(c, seq);
	else if (!lookup_take(c, seq))
		seq_complete(c, seq, KVD_S_OK);
}
