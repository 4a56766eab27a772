/* rate.c - a tenant's limit of inserted bytes per second: how fast its sequences may take new pages.
 *
 * One number for each tenant: rate_usec, the time at which all that was inserted so far is paid for.  A GROW may
 * go on while that lies at most one second ahead, and pushes it on by bytes / rate; so a second's worth may come
 * at once, and one large GROW is never cut in pieces.  Who comes too early waits in its tenant's list, in order of
 * arrival, and is woken by time (core_next_tick_usec).  That is throttling, not pressure: it counts as no stall, and
 * pages taken from the cache cost nothing. */
#include "kvd/core/parts.h"

enum { BURST_USEC = 1000000 };

static uint64_t ready_usec(const struct tenant *t)
{
	return t->quota.insert_bytes_per_sec && t->rate_usec > BURST_USEC ? t->rate_usec - BURST_USEC : 0;
}

/* bytes x 1,000,000 / rate, at most some years */
static uint64_t cost_usec(uint64_t bytes, uint64_t rate)
{
	uint64_t whole = bytes / rate, rest = bytes % rate;
	uint64_t part = rest < 1ull << 43 ? rest * 1000000 / rate : rest / (rate / 1000000);
	return whole < 1ull << 30 ? whole * 1000000 + part : 1ull << 50;
}

static void wait(const struct core *c, uint32_t seq)
{
	uint32_t tenant = seq_at(c, seq)->tenant;
	const struct tenant *t = tenant_at(c, tenant);
	if (!t->rate_listed) {
		list_push(c, LIST_RATES, &c->rate_tenants, tenant);
		SET(t->rate_listed, 1);
	}
	if (c->rate_tenants.count == 1 || ready_usec(t) < c->rate_usec)
		SET(c->rate_usec, ready_usec(t));
	ADD(t->throttled, 1);
	seq_wait(c, seq, WAIT_RATE, 0);
}

/* May the sequence have its new pages now?  False: it waits. */
bool rate_allows(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	const struct tenant *t = tenant_at(c, s->tenant);
	uint64_t rate = t->quota.insert_bytes_per_sec;
	uint32_t from = s->paid > s->n_pages ? s->paid : s->n_pages;
	if (!rate || from >= s->want)
		return true;
	if (ready_usec(t) > c->now_usec || (t->rated.count && !s->rate_turn)) {
		wait(c, seq);
		return false;
	}
	uint64_t bytes = (s->want - from) * page_bytes_of_space(c, c->engines[s->engine].space);
	uint64_t base = t->rate_usec > c->now_usec ? t->rate_usec : c->now_usec;
	SET(t->rate_usec, base + cost_usec(bytes, rate));
	SET(s->paid, s->want);
	SET(s->rate_turn, 0);
	return true;
}

/* The last one of the tenant's list has left it. */
void rate_unlist(const struct core *c, uint32_t tenant)
{
	const struct tenant *t = tenant_at(c, tenant);
	if (!t->rate_listed || t->rated.count)
		return;
	list_remove(c, LIST_RATES, &c->rate_tenants, tenant);
	SET(t->rate_listed, 0);
}

/* Time has passed: of each tenant the first that may go on does. */
void rate_pump(const struct core *c)
{
	if (!c->rate_tenants.count || c->rate_usec > c->now_usec)
		return;
	uint64_t next_usec = UINT64_MAX;
	for (uint32_t tenant = list_first(&c->rate_tenants), after; tenant != CORE_NONE; tenant = after) {
		const struct tenant *t = tenant_at(c, tenant);
		uint64_t at = ready_usec(t);
		after = list_next(c, LIST_RATES, tenant);
		if (at <= c->now_usec) {
			uint32_t seq = list_first(&t->rated);
			SET(seq_at(c, seq)->rate_turn, 1);
			seq_wake(c, seq);            /* what it pays is known when it has gone on */
			at = c->now_usec;
		}
		next_usec = at < next_usec ? at : next_usec;
	}
	SET(c->rate_usec, next_usec);
}

uint64_t rate_tick_usec(const struct core *c)
{
	return c->rate_tenants.count ? c->rate_usec : UINT64_MAX;
}
