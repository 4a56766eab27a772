/* preempt.c - making room for one sequence at the cost of others: whose, in which order, and who is spared.
 *
 * A share is what a tenant's sequences hold or have reserved, divided by its weight.  The victim is the youngest
 * sequence of the tenant with the largest share.  Spared are
 *   the oldest sequence of all, so that somebody always proceeds, and everybody becomes the oldest;
 *   whoever would fall below its min: what it loses there it could ask back at once.
 * Two rules go before these:
 *   floor     who asks for no more than its min gets it: from any other tenant that is above its own min, the
 *             oldest sequence of all included (that one comes back when memory allows, and keeps its age);
 *   progress  the oldest sequence, when nothing else is left: first what floors keep for others goes, then their
 *             sequences.  So a floor yields to nobody but the oldest, and not while anybody else could yield.
 * Nobody is killed: who is preempted resumes, and computes again what has gone from the cache meanwhile. */
#include "kvd/core/parts.h"

enum { YIELD_CLAIMS = 16 };                    /* kept pages that go between two looks whether it fits now */

static uint64_t in_use(const struct tenant *t)
{
	return t->held_bytes + t->reserved_bytes;
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

/* Would its tenant be below its min without it? */
static bool below_min_without(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	const struct tenant *t = tenant_at(c, s->tenant);
	uint64_t loss = ((uint64_t)s->n_pages + s->reserved) * page_bytes_of_space(c, c->engines[s->engine].space);
	return t->quota.min_bytes && in_use(t) < t->quota.min_bytes + loss;
}

static bool larger_share(const struct tenant *a, const struct tenant *b)
{
	return (unsigned __int128)in_use(a) * b->quota.weight > (unsigned __int128)in_use(b) * a->quota.weight;
}

enum spare { SPARE_OLDEST = 1, SPARE_FLOORS = 2 };

/* 0: nobody.  but: a tenant that is not asked, CORE_NONE: all are. */
static uint32_t victim_find(const struct core *c, uint32_t but, uint32_t spare)
{
	uint32_t best = 0, oldest = list_first(&c->running);
	for (uint32_t t = list_first(&c->tenants_running); t != CORE_NONE; t = list_next(c, LIST_TENANTS, t)) {
		const struct tenant *tenant = tenant_at(c, t);
		uint32_t youngest = list_last(&tenant->running);
		if (t == but || ((spare & SPARE_OLDEST) && youngest == oldest) ||
		    ((spare & SPARE_FLOORS) && below_min_without(c, youngest)))
			continue;
		if (!best || larger_share(tenant, tenant_at(c, seq_at(c, best)->tenant)))
			best = youngest;
	}
	return best;
}

/* Does the tenant's min cover all that its sequences have and these pages as well? */
bool floor_covers(const struct core *c, uint32_t seq, uint32_t pages)
{
	const struct seq *s = seq_at(c, seq);
	const struct tenant *t = tenant_at(c, s->tenant);
	return in_use(t) + pages * page_bytes_of_space(c, c->engines[s->engine].space) <= t->quota.min_bytes;
}

/* Another tenant gives up a sequence for a floor.  False: none is above its own. */
bool floor_preempt(const struct core *c, uint32_t tenant)
{
	uint32_t victim = victim_find(c, tenant, SPARE_FLOORS);
	if (victim)
		admit_preempt(c, victim);
	return victim != 0;
}

/* What floors keep goes, a few pages of the tenant that keeps most, the asker's own at last: its pages may lie in
 * the extents that it needs.  False: nobody keeps any. */
bool floors_yield(const struct core *c, uint32_t tenant)
{
	uint32_t most = CORE_NONE;
	for (uint32_t i = 0; i < c->n_tenants; i++) {
		const struct tenant *t = tenant_at(c, i);
		if (i != tenant && t->shelf &&
		    (most == CORE_NONE || t->guarded_bytes > tenant_at(c, most)->guarded_bytes))
			most = i;
	}
	if (most == CORE_NONE && tenant != CORE_NONE && tenant_at(c, tenant)->shelf)
		most = tenant;
	if (most == CORE_NONE)
		return false;
	blame(c, tenant, KVD_RECLAIM_PROGRESS);
	for (uint32_t i = 0; i < YIELD_CLAIMS && tenant_at(c, most)->shelf; i++)
		claim_drop(c, shelf_first(c, tenant_at(c, most)->shelf));
	return true;
}

/* Whoever is to yield to a running sequence that does not fit; 0: what floors kept has yielded, look again. */
static uint32_t yields_to(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	uint32_t victim = 0;
	if (floor_covers(c, seq, 0))
		victim = victim_find(c, s->tenant, SPARE_FLOORS);
	if (!victim)
		victim = victim_find(c, CORE_NONE, SPARE_OLDEST | SPARE_FLOORS);
	if (victim || seq != list_first(&c->running))
		return victim ? victim : seq;
	if (floors_yield(c, s->tenant))
		return 0;
	victim = victim_find(c, CORE_NONE, SPARE_OLDEST);
	if (victim)
		return victim;
	SET(s->alone, 1);                            /* nobody is left: see admit.c */
	return seq;
}

/* Reserve frames for a running sequence, whatever it costs others.  False: it cost itself. */
bool admit_reserve(const struct core *c, uint32_t seq, uint32_t pages)
{
	const struct seq *s = seq_at(c, seq);
	const struct tenant *t = tenant_at(c, s->tenant);
	if (t->quota.max_bytes)
		reclaim_tenant(c, s->tenant, pages * page_bytes_of_space(c, c->engines[s->engine].space));
	seq_reserve(c, seq, pages);
	guard_settle(c, s->tenant);                  /* its own floor keeps less now */
	while (!core_fits(c)) {
		uint32_t victim = yields_to(c, seq);
		if (victim)
			admit_preempt(c, victim);
		if (victim == seq)
			return false;
	}
	return true;
}

/* May a running sequence grow by so many pages under its tenant's max?  Its tenant's younger sequences give way
 * first, or it to an older one.  One that is left alone is refused, unless it began before the max was lowered
 * below what was in use then: a new limit ends nobody.  False: it was preempted or refused, and answered. */
bool max_allows(const struct core *c, uint32_t seq, uint32_t pages)
{
	const struct seq *s = seq_at(c, seq);
	const struct tenant *t = tenant_at(c, s->tenant);
	uint64_t page_bytes = page_bytes_of_space(c, c->engines[s->engine].space), bytes = pages * page_bytes;
	if (s->age < t->max_age)
		return true;
	while (t->quota.max_bytes && in_use(t) + bytes > t->quota.max_bytes) {
		uint32_t youngest = list_last(&t->running);
		if (t->running.count == 1) {
			uint64_t left = in_use(t) < t->quota.max_bytes ? t->quota.max_bytes - in_use(t) : 0;
			seq_refuse(c, seq, pages, (uint32_t)(left / page_bytes));
			return false;
		}
		admit_preempt(c, youngest);
		if (youngest == seq)
			return false;
	}
	return true;
}
