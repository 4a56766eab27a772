/* fair.c - shares of the pool: who need not stand in the queue behind larger tenants.
 *
 * The queue is by age, and its head may wait for memory that a large tenant uses.  A tenant's share is its weight's
 * part of the pool, among the tenants that run or wait now.  Whose sequences, with the one that waits, come to no
 * more than that share is looked at before the queue, oldest first within the tenant, and takes what is there; it
 * takes nothing from a running sequence (that is for a min: preempt.c).
 *
 * Nobody starves: the head of the queue, if it waits and its tenant has nothing running, is passed for
 * PASSED_USEC at most; whoever is asked to wait longer has sequences running.
 *
 * So that there is something to take, each engine keeps one extent (extent_keep): a request to an idle engine
 * does not wait for memory to move.  Kept extents are given up when the oldest sequence stands alone and still
 * does not fit, and in pools of fewer than KEEP_EXTENTS extents an engine. */
#include "kvd/core/parts.h"

enum { PASSED_USEC = 2000000, KEEP_EXTENTS = 8, LOOKS = 256 };

static uint64_t share_of(const struct core *c, const struct tenant *t)
{
	return c->active_weight ? c->config.pool_bytes * t->quota.weight / c->active_weight : c->config.pool_bytes;
}

void tenant_active_changed(const struct core *c, uint32_t tenant)
{
	const struct tenant *t = tenant_at(c, tenant);
	uint32_t weight = t->running.count || t->queued.count ? t->quota.weight : 0;
	if (weight == t->active_weight)
		return;
	SET(c->active_weight, c->active_weight - t->active_weight + weight);
	SET(t->active_weight, weight);
}

/* May the head of the queue be passed? */
static bool may_pass(const struct core *c)
{
	uint32_t head = list_first(&c->queue);
	if (head == CORE_NONE)
		return false;
	const struct seq *s = seq_at(c, head);
	return tenant_at(c, s->tenant)->running.count || s->queued_usec + PASSED_USEC > c->now_usec;
}

static bool share_covers(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	const struct tenant *t = tenant_at(c, s->tenant);
	uint64_t need = s->need * page_bytes_of_space(c, c->engines[s->engine].space);
	return t->held_bytes + t->reserved_bytes + need <= share_of(c, t);
}

/* Who asks for no more than its min, or than its share, does not stand in the queue behind others. */
void admit_modest(const struct core *c)
{
	uint32_t tenant = list_first(&c->queued_tenants);
	bool pass = may_pass(c);
	for (uint32_t n = 0; tenant != CORE_NONE && n < LOOKS && act_room(c); n++) {
		const struct tenant *t = tenant_at(c, tenant);
		uint32_t next = list_next(c, LIST_QUEUED, tenant), seq = list_first(&t->queued);
		bool first = floor_covers(c, seq, seq_at(c, seq)->need) || (pass && share_covers(c, seq));
		if (!first || admit_try(c, seq) != ADMIT_LEFT || !t->queued_listed)
			tenant = next;
	}
}

/* ---- one extent for each engine ---- */

static bool keeps_allowed(const struct core *c)
{
	uint32_t oldest = list_first(&c->running);
	return c->n_extents >= KEEP_EXTENTS * c->n_live && (oldest == CORE_NONE || !seq_at(c, oldest)->alone);
}

void extent_keep_pump(const struct core *c)
{
	if (c->n_keeps == c->n_live || !keeps_allowed(c))
		return;
	for (uint32_t e = 0; e < CORE_ENGINES_MAX; e++) {
		const struct group *g = &c->groups[e];
		if (c->engines[e].state != ENGINE_LIVE || g->keep)
			continue;
		/* only where it breaks no promise */
		if (!g->busy_extents && !g->wanted && c->wanted + 1 > c->n_extents - c->busy_extents)
			continue;
		SET(g->keep, 1);
		ADD(c->n_keeps, 1);
		group_recount(c, e);
	}
}

void extent_keep_end(const struct core *c, uint32_t engine)
{
	if (!c->groups[engine].keep)
		return;
	SET(c->groups[engine].keep, 0);
	ADD(c->n_keeps, -1);
	group_recount(c, engine);
}

void extent_keeps_yield(const struct core *c)
{
	for (uint32_t e = 0; e < CORE_ENGINES_MAX; e++)
		extent_keep_end(c, e);
}
