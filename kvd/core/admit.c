/* admit.c - who may run: the queue, reservations, preemption, and frames for those who wait.
 *
 * Admission reserves the prompt's pages plus one.  The queue is one per pool, by age (order of the
 * first OPEN), strictly: nobody overtakes the oldest, so nobody starves; a resumed sequence stands
 * where its age puts it.  Passed by are only those that would not get in if everybody else ended: held back by
 * their own tenant's max or high (throttled), or larger than what the floors of others leave.  And who asks for
 * no more than its min or its share does not stand behind others at all (fair.c).
 *
 * OPEN and RESUME take nothing from a running sequence, but for a floor.  GROW beyond its reservation does,
 * when nothing can be reclaimed (preempt.c).  If the oldest is alone and still does not fit, the
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
	tenant_active_changed(c, s->tenant);
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
	tenant_active_changed(c, s->tenant);
	SET(c->memory_changed, 1);
}

/* The tenant's own limits: ADMIT_LEFT = it has room.  Over its max an OPEN is refused, at once and with the
 * numbers; a RESUME waits for the tenant's other sequences, as both do over its high. */
static enum admission tenant_check(const struct core *c, uint32_t seq, uint32_t pages)
{
	const struct seq *s = seq_at(c, seq);
	const struct tenant *t = tenant_at(c, s->tenant);
	const struct core_quota *q = &t->quota;
	uint64_t bytes = pages * page_bytes_of_space(c, c->engines[s->engine].space);
	uint64_t used = t->held_bytes + t->reserved_bytes + bytes;
	if (q->max_bytes && used > q->max_bytes)
		return s->pending == KVD_SEQ_OPEN ? ADMIT_BLOCKED : ADMIT_THROTTLED;
	if (q->high_bytes && used > q->high_bytes && t->running.count)
		return ADMIT_THROTTLED;
	if (q->max_bytes && !reclaim_tenant(c, s->tenant, bytes)) {
		SET(c->more, 1);
		return ADMIT_THROTTLED;
	}
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

static uint32_t hits_count(const struct core *c, uint32_t seq)
{
	uint32_t hits = 0, record;
	while (lookup_probe(c, seq, hits, &record) == PROBE_HIT)
		hits++;
	return hits;
}

/* Pages that the tenant pays for if it is admitted: those that it computes, and public ones that it takes. */
static uint32_t pages_to_pay(const struct core *c, uint32_t seq, uint32_t hits)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t pages = s->need - hits;
	for (uint32_t i = 0; c->n_publics && i < hits; i++) {
		uint32_t claim = claim_find(c, hold_at(c, s->row + i)->node, s->domain);
		pages += !claim || !claim_at(c, claim)->complete;
	}
	return pages;
}

/* Hold the `hits` cached pages, reserve the rest; false: it does not fit, and all is as before. */
static bool admit_take(const struct core *c, uint32_t seq, uint32_t hits)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t page = 0, changed = c->memory_changed;
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
	guard_settle(c, s->tenant);          /* its own floor keeps less now */
	if (core_fits(c)) {
		SET(s->n_cached, hits);
		for (uint32_t i = 0; i < hits; i++) {
			ADD(node_at(c, hold_at(c, s->row + i)->node)->hits, 1);
			claim_hit(c, hold_at(c, s->row + i)->claim);
		}
		return true;
	}
	seq_reserve(c, seq, -(int64_t)s->reserved);
	for (uint32_t i = hits; i-- > 0;) {
		uint32_t owner = claim_at(c, hold_at(c, s->row + i)->claim)->tenant;
		SET(s->n_pages, i);
		SET(s->n_sealed, i);
		hold_drop(c, seq, i);
		if (owner != s->tenant)
			guard_settle(c, owner);
	}
	guard_settle(c, s->tenant);          /* floors keep what they kept: later it would look like new memory */
	SET(c->memory_changed, changed);     /* what it took and gave back is not that */
	return false;
}

/* The oldest of all, and nobody runs: whatever is in its way goes, shared extents and others' floors. */
static bool take_alone(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	SET(s->alone, 1);                    /* not even the shared pages that it could read */
	extent_keeps_yield(c);
	bool taken = admit_take(c, seq, 0);
	while (!taken && floors_yield(c, s->tenant))
		taken = admit_take(c, seq, 0);
	if (!taken)
		SET(s->alone, 0);
	return taken;
}

/* Would it have to wait for floors of others, not for sequences that end? */
static bool waits_for_floors(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	uint64_t pool = pool_pages(c, s->engine) * page_bytes_of_space(c, c->engines[s->engine].space);
	uint64_t others = c->floor_bytes - tenant_at(c, s->tenant)->floor_bytes;
	return s->need * page_bytes_of_space(c, c->engines[s->engine].space) + others > pool;
}

/* How far the domain has computed the prompt, wherever the copies lie: whether a neighbour's merge has
 * made one that can be read here must not decide what the sequence waits for, its tenant could tell. */
static uint32_t computed_count(const struct core *c, uint32_t seq, uint32_t from, enum probe *ret_next)
{
	uint32_t record;
	for (;; from++) {
		*ret_next = lookup_probe(c, seq, from, &record);
		if (*ret_next == PROBE_MISS || *ret_next == PROBE_PROMISED)
			return from;
	}
}

enum admission admit_try(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t hits = hits_count(c, seq);
	enum probe next;
	uint32_t computed = computed_count(c, seq, hits, &next);
	if (next == PROBE_PROMISED) {
		/* It waits outside the queue and holds nothing, so it cannot be in the promiser's
		 * way. */
		seq_unwait(c, seq);
		lookup_wait_promise(c, seq, computed);
		return ADMIT_LEFT;
	}
	uint32_t pages = pages_to_pay(c, seq, hits);
	enum admission may = tenant_check(c, seq, pages);
	if (may == ADMIT_BLOCKED) {
		refuse_tenant_max(c, seq, pages);
		return ADMIT_LEFT;
	}
	if (may == ADMIT_THROTTLED) {
		seq_throttle(c, seq);
		return may;
	}
	hits = hits_count(c, seq);           /* tenant_check may have dropped claims of some */
	bool taken = admit_take(c, seq, hits);
	while (!taken && floor_covers(c, seq, s->need) && !waits_for_floors(c, seq) && act_room(c) &&
	       floor_preempt(c, s->tenant)) {
		hits = hits_count(c, seq);
		taken = admit_take(c, seq, hits);
	}
	if (!taken && !c->running.count && seq == list_first(&c->queue)) {
		hits = 0;
		taken = take_alone(c, seq);
	}
	if (!taken)
		return waits_for_floors(c, seq) ? ADMIT_PASSED_BY : ADMIT_BLOCKED;
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
	admit_modest(c);
	uint32_t seq = list_first(&c->queue);
	for (uint32_t n = 0; seq != CORE_NONE; n++) {
		uint32_t next = list_next(c, LIST_WAITERS, seq);
		if (n == 64 || !act_room(c)) {   /* admissions per event; the next event goes on */
			SET(c->more, 1);
			SET(c->memory_changed, 1);
			return;
		}
		if (admit_try(c, seq) == ADMIT_BLOCKED)
			return;
		seq = next;
	}
}

/* ---- frames for those who wait for them ---- */

static uint64_t group_missing(const struct core *c, const struct group *g)
{
	uint64_t missing = 0;
	for (uint32_t n = list_first(&g->pending); n != CORE_NONE; n = list_next(c, LIST_WAITERS, n)) {
		const struct seq *s = seq_at(c, n);
		if (s->copy_from)
			missing++;
		else if (s->fetch == FETCH_WAITS && s->reserved > 1) /* that page, and those read ahead */
			missing += s->reserved < FETCH_AHEAD_PAGES ? s->reserved : FETCH_AHEAD_PAGES;
		else if (s->fetch == FETCH_WAITS)
			missing++;
		else
			missing += s->want - s->n_pages;
	}
	return missing;
}

/* The idle extent of another group that costs least: an empty one, else the one longest idle.  A
 * group keeps as many idle ones as its reservations want, and all while its own sequences wait for frames:
 * two groups that took each other's extents, still on their way to the engine, would never come to rest. */
static uint32_t idle_find(const struct core *c, uint32_t self, bool *ret_empty)
{
	uint32_t best = CORE_NONE;
	*ret_empty = false;
	for (uint32_t i = 0; i < GROUPS_MAX; i++) {
		const struct group *g = &c->groups[i];
		if (i == self || g->pending.count || g->idle.count <= g->wanted)
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
	uint64_t since_usec = seq_at(c, list_first(&g->pending))->waits_usec;
	enum reclaim_mode mode = since_usec + SPILL_PATIENCE_USEC > c->now_usec ? RECLAIM_PATIENT : RECLAIM_NOW;
	for (;;) {
		uint64_t soon = g->retiring > g->stuck ? g->retiring - g->stuck : 0;
		uint64_t coming = soon + (mode == RECLAIM_NOW ? 0 : g->spilling) + g->n_unacked * n_frames;
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
		if (!reclaim_run(c, number, (uint32_t)(missing - coming), mode))
			return;
	}
}

void admit_serve(const struct core *c)
{
	UPDATE(c->demand, 0);
	while (!core_fits(c) && floors_yield(c, CORE_NONE)) /* what is promised comes first */
		;
	for (uint32_t n = mask_next(c->pending_groups, 0); n < GROUPS_MAX;
	     n = mask_next(c->pending_groups, n + 1)) {
		const struct list *pending = &c->groups[n].pending;
		while (pending->count && act_room(c) && seq_fill(c, list_first(pending)))
			;
		if (pending->count)
			group_supply(c, n);
	}
}
