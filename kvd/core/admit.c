/* admit.c - who may run: the queue, reservations, preemption, and frames for those who wait.
 *
 * Admission reserves the prompt's pages plus one.  The queue is one per pool, by age (order of the
 * first OPEN), strictly: nobody overtakes the oldest, so nobody starves; a resumed sequence stands
 * where its age puts it.  Only a RESUME that its own tenant's max holds back is passed by.
 *
 * OPEN and RESUME never take anything from a running sequence.  GROW beyond its reservation does,
 * when nothing can be reclaimed: the youngest sequence of the tenant with most bytes is preempted,
 * which may be the one that grows, but never the oldest running one.  So the oldest always
 * proceeds, and everybody becomes the oldest.  If the oldest is alone and still does not fit, the
 * shared extents it reads from are in its way: it is preempted too, and computes all its pages
 * itself when resumed. */
#include "kvd/core/parts.h"

void admit_enqueue(const struct core *c, uint32_t seq)
{
	seq_wait(c, seq, WAIT_QUEUE, 0);
	SET(c->memory_changed, 1);
}

static void insert_by_age(const struct core *c, enum list_kind kind, const struct list *l,
			  uint32_t seq)
{
	uint32_t where = CORE_NONE, last = list_last(l);
	while (last != CORE_NONE && seq_at(c, last)->age > seq_at(c, seq)->age) {
		where = last;
		last = list_prev(c, kind, last);
	}
	list_insert(c, kind, l, seq, where);
}

void admit_run(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	const struct tenant *t = tenant_at(c, s->tenant);
	SET(s->state, SEQ_RUNNING);
	if (!t->running.count)
		list_push(c, LIST_TENANTS, &c->tenants_running, s->tenant);
	insert_by_age(c, LIST_RUNNING, &c->running, seq);
	insert_by_age(c, LIST_TENANT_RUNNING, &t->running, seq);
	stall_running_changed(c, s->tenant);
}

void admit_stop(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	const struct tenant *t = tenant_at(c, s->tenant);
	assert(s->state == SEQ_RUNNING);
	list_remove(c, LIST_RUNNING, &c->running, seq);
	list_remove(c, LIST_TENANT_RUNNING, &t->running, seq);
	if (!t->running.count)
		list_remove(c, LIST_TENANTS, &c->tenants_running, s->tenant);
	stall_running_changed(c, s->tenant);
	SET(c->memory_changed, 1);
}

/* Take a sequence's pages away.  Sealed ones stay cached as long as memory allows. */
void admit_preempt(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	admit_stop(c, seq);
	SET(s->state, SEQ_PREEMPTED);
	seq_release(c, seq);
	ADD(s->preempted, 1);
	ADD(c->preemptions, 1);
	if (s->pending)
		seq_complete(c, seq, KVD_S_PREEMPTED);
	act_complete(c, s->engine, &(struct kvd_cqe){ .verb = KVD_EV_PREEMPT, .slot = s->slot });
}

/* The youngest sequence of the tenant with most bytes; never the oldest of all.  0: only that runs.
 *  */
static uint32_t victim_find(const struct core *c)
{
	uint32_t best = 0, oldest = list_first(&c->running);
	uint64_t most = 0;
	for (uint32_t t = list_first(&c->tenants_running); t != CORE_NONE;
	     t = list_next(c, LIST_TENANTS, t)) {
		const struct tenant *tenant = tenant_at(c, t);
		uint64_t bytes = tenant->held_bytes + tenant->reserved_bytes;
		uint32_t youngest = list_last(&tenant->running);
		if (youngest != oldest && (!best || bytes > most)) {
			best = youngest;
			most = bytes;
		}
	}
	return best;
}

/* Reserve frames for a running sequence, whatever it costs others.  False: it cost itself. */
bool admit_reserve(const struct core *c, uint32_t seq, uint32_t pages)
{
	const struct seq *s = seq_at(c, seq);
	const struct tenant *t = tenant_at(c, s->tenant);
	if (t->quota.max_bytes)
		reclaim_tenant(c, s->tenant,
			       pages * page_bytes_of_space(c, c->engines[s->engine].space));
	seq_reserve(c, seq, pages);
	while (!core_fits(c)) {
		uint32_t victim = victim_find(c);
		if (!victim) {
			SET(s->alone, 1);
			victim = seq;
		}
		admit_preempt(c, victim);
		if (victim == seq)
			return false;
	}
	return true;
}

enum admission { ADMIT_LEFT, ADMIT_BLOCKED, ADMIT_PASSED_BY };

/* The tenant's max: ADMIT_LEFT = there is room. */
static enum admission tenant_check(const struct core *c, uint32_t seq, uint32_t pages)
{
	const struct seq *s = seq_at(c, seq);
	const struct tenant *t = tenant_at(c, s->tenant);
	uint64_t bytes = pages * page_bytes_of_space(c, c->engines[s->engine].space);
	if (!t->quota.max_bytes)
		return ADMIT_LEFT;
	if (t->held_bytes + t->reserved_bytes + bytes > t->quota.max_bytes)
		return s->pending == KVD_SEQ_OPEN ? ADMIT_BLOCKED : ADMIT_PASSED_BY;
	reclaim_tenant(c, s->tenant, bytes);
	return ADMIT_LEFT;
}

static void refuse_tenant_max(const struct core *c, uint32_t seq, uint32_t pages)
{
	const struct seq *s = seq_at(c, seq);
	uint64_t bytes = page_bytes_of_space(c, c->engines[s->engine].space);
	const struct tenant *t = tenant_at(c, s->tenant);
	uint64_t used = t->held_bytes + t->reserved_bytes;
	struct kvd_cqe cqe = { .verb = s->pending, .status = KVD_S_TENANT_MAX, .slot = s->slot,
		.user_data = s->pending_data, .need_pages = pages,
		.have_pages = (uint32_t)(used < t->quota.max_bytes ? (t->quota.max_bytes - used) / bytes : 0) };
	SET(s->pending, 0);
	uint32_t engine = s->engine;
	seq_end(c, seq);
	act_complete(c, engine, &cqe);
}

/* Hold the `hits` cached pages, reserve the rest; false: it does not fit, and all is as before. */
static bool admit_take(const struct core *c, uint32_t seq, uint32_t hits)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t page = 0;
	for (uint32_t i = 0; i < hits; i++) {
		enum probe found = lookup_probe(c, seq, i, &page);
		assert(found == PROBE_HIT);
		uint32_t node = page_at(c, page)->node;
		uint32_t claim = steer_claim(c, node, s->domain, s->tenant, s->engine);
		if (!claim) {
			hits = i;
			break;
		}
		hold_take(c, seq, i, page, claim);
		SET(s->n_pages, i + 1);
		SET(s->n_sealed, i + 1);
	}
	seq_reserve(c, seq, (int64_t)s->need - hits);
	if (core_fits(c)) {
		SET(s->n_cached, hits);
		for (uint32_t i = 0; i < hits; i++)
			ADD(node_at(c, hold_at(c, s->row + i)->node)->hits, 1);
		return true;
	}
	seq_reserve(c, seq, -(int64_t)s->reserved);
	for (uint32_t i = hits; i-- > 0;) {
		SET(s->n_pages, i);
		SET(s->n_sealed, i);
		hold_drop(c, seq, i);
	}
	return false;
}

static enum admission admit_try(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t hits = 0, record;
	enum probe found;
	while ((found = lookup_probe(c, seq, hits, &record)) == PROBE_HIT)
		hits++;
	if (found == PROBE_PROMISED) {
		/* It waits outside the queue and holds nothing, so it cannot be in the promiser's
		 * way. */
		seq_unwait(c, seq);
		lookup_wait_promise(c, seq, hits);
		return ADMIT_LEFT;
	}
	enum admission may = tenant_check(c, seq, s->need - hits);
	if (may == ADMIT_BLOCKED) {
		refuse_tenant_max(c, seq, s->need - hits);
		return ADMIT_LEFT;
	}
	if (may == ADMIT_PASSED_BY)
		return may;
	/* tenant_check may have dropped claims of pages counted above */
	for (hits = 0; lookup_probe(c, seq, hits, &record) == PROBE_HIT;)
		hits++;
	bool taken = admit_take(c, seq, hits);
	if (!taken && hits && !c->running.count) {
		SET(s->alone, 1);            /* the shared extents of those pages are in the way */
		hits = 0;
		taken = admit_take(c, seq, 0);
		if (!taken)
			SET(s->alone, 0);
	}
	if (!taken)
		return ADMIT_BLOCKED;
	seq_unwait(c, seq);
	admit_run(c, seq);
	act_row(c, seq, 0, hits);
	if (!lookup_take(c, seq))
		seq_complete(c, seq, KVD_S_OK);
	return ADMIT_LEFT;
}

void admit_pump(const struct core *c)
{
	if (!c->memory_changed)
		return;
	SET(c->memory_changed, 0);
	uint32_t seq = list_first(&c->queue);
	for (uint32_t n = 0; seq != CORE_NONE; n++) {
		uint32_t next = list_next(c, LIST_WAITERS, seq);
		if (n == 64 || !act_room(c)) {   /* admissions per event; the next event goes on */
			SET(c->more, 1);
			SET(c->memory_changed, 1);
			return;
		}
		if (admit_try(c, seq) == ADMIT_BLOCKED) {
			/* what it took and gave back is not new memory */
			SET(c->memory_changed, 0);
			return;
		}
		seq = next;
	}
}

/* ---- frames for those who wait for them ---- */

static uint64_t group_missing(const struct core *c, const struct group *g)
{
	uint64_t missing = 0;
	for (uint32_t s = list_first(&g->pending); s != CORE_NONE;
	     s = list_next(c, LIST_WAITERS, s))
		missing += seq_at(c, s)->copy_from || seq_at(c, s)->fetch == FETCH_WAITS
				   ? 1
				   : seq_at(c, s)->want - seq_at(c, s)->n_pages;
	return missing;
}

/* The idle extent of another group that costs least: an empty one, else the one longest idle.  A
 * group keeps as many idle ones as its reservations want. */
static uint32_t idle_find(const struct core *c, uint32_t self, bool *ret_empty)
{
	uint32_t best = CORE_NONE;
	*ret_empty = false;
	for (uint32_t i = 0; i < GROUPS_MAX; i++) {
		const struct group *g = &c->groups[i];
		if (i == self || g->idle.count <= g->wanted)
			continue;
		uint32_t x = list_first(&g->idle);
		bool empty = extent_at(c, x)->frames[KVD_FRAME_FREE] == extent_at(c, x)->n_frames;
		if (best == CORE_NONE || (empty && !*ret_empty) ||
		    (empty == *ret_empty &&
		     extent_at(c, x)->idle_usec < extent_at(c, best)->idle_usec)) {
			best = x;
			*ret_empty = empty;
		}
	}
	return best;
}

/* Whom frames are for, and why: the first waiter, its tenant's min if that covers it. */
static void blame_waiter(const struct core *c, const struct group *g)
{
	uint32_t tenant = seq_at(c, list_first(&g->pending))->tenant;
	const struct tenant *t = tenant_at(c, tenant);
	bool floor = t->held_bytes + t->reserved_bytes <= t->quota.min_bytes;
	blame(c, tenant, floor ? KVD_RECLAIM_FLOOR : KVD_RECLAIM_DIRECT);
}

/* Bring frames under way for a group's waiters.  In order: a free extent; one that is coming; what
 * is older, the group's own cached pages or another group's idle extent. */
static void group_supply(const struct core *c, uint32_t number)
{
	const struct group *g = &c->groups[number];
	uint64_t n_frames = c->spaces[g->space].geometry.n_frames, missing = group_missing(c, g);
	blame_waiter(c, g);
	for (;;) {
		uint64_t coming = g->retiring + g->spilling + g->n_unacked * n_frames;
		if (coming >= missing || !act_room(c))
			return;
		bool may_grow = extent_spare(c, number), empty;
		if (may_grow && extent_assign(c, number))
			continue;
		uint32_t victim = may_grow ? idle_find(c, number, &empty) : CORE_NONE;
		if (may_grow && extents_coming(c) > c->demand) {
			ADD(c->demand, 1);
			return;
		}
		uint64_t own = reclaim_oldest_usec(c, number);
		if (victim != CORE_NONE &&
		    (empty || own == UINT64_MAX || extent_at(c, victim)->idle_usec <= own)) {
			ADD(c->demand, 1);
			extent_drain(c, victim);
			return;
		}
		if (!reclaim_run(c, number, (uint32_t)(missing - coming)))
			return;
	}
}

void admit_serve(const struct core *c)
{
	SET(c->demand, 0);
	for (uint32_t n = mask_next(c->pending_groups, 0); n < GROUPS_MAX;
	     n = mask_next(c->pending_groups, n + 1)) {
		const struct list *pending = &c->groups[n].pending;
		while (pending->count && act_room(c) && seq_fill(c, list_first(pending)))
			;
		if (pending->count)
			group_supply(c, n);
	}
}
