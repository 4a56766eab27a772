/* checker_limits.c - the checker's view of two limits: how fast a tenant's pages come, and how many sequences it has.
 *
 * Rate: what was granted since the limit was set, of questions asked since, costs time at that rate; all but the last
 * grant fit into the time that has passed and the second that may come at once.
 * Number: a change ends nobody, so until there are fewer again as many are allowed as there were. */
#include "tests/sim/checker.h"

enum { BURST_USEC = 1000000 };

static uint32_t sequences_of(const struct checker *k, uint32_t tenant, const struct view_slot *but, bool waiting)
{
	uint32_t n = 0;
	for (uint32_t at = 0; at < WORLD_ENGINES * WORLD_SLOTS; at++) {
		const struct view_slot *s = &k->engine[at / WORLD_SLOTS].slot[at % WORLD_SLOTS];
		bool counts = s->state == VIEW_RUNNING || s->state == VIEW_STOPPED ||
			      (waiting && s->state == VIEW_WAITING);
		n += counts && s != but && s->tenant == tenant;
	}
	return n;
}

void limits_changed(struct checker *k, uint32_t tenant, const struct core_quota *quota)
{
	struct view_limits *l = &k->tenant[tenant].limits;
	uint32_t n = sequences_of(k, tenant, NULL, true);
	if (l->rate != quota->insert_bytes_per_sec) {
		l->rate = quota->insert_bytes_per_sec;
		l->rate_since_usec = k->now_usec;
		l->rate_since = k->records;
		l->rate_bytes = l->rate_grants = 0;
	}
	l->seqs_before = l->seqs;
	l->seqs = quota->max_sequences;
	l->seqs_allowed = n > l->seqs_allowed ? n : l->seqs_allowed;
}

void check_rate(struct checker *k, const struct view_engine *e, uint32_t tenant, const struct pending *p,
		uint32_t pages)
{
	struct view_limits *l = &k->tenant[tenant].limits;
	if (!l->rate || p->order <= l->rate_since)
		return;
	uint64_t passed_usec = k->now_usec - l->rate_since_usec + BURST_USEC;
	l->rate_bytes += (uint64_t)pages * e->page_bytes;
	uint64_t largest = (uint64_t)k->swarm.max_pages * 24576;
	uint64_t cost_usec = l->rate_bytes > largest ? (l->rate_bytes - largest) * 1000000 / l->rate : 0;
	if (cost_usec > passed_usec + ++l->rate_grants)
		checker_fail(k, "a tenant's pages come faster than its insert rate", tenant, cost_usec);
}

/* One more has been let in. */
void check_sequences(struct checker *k, const struct view_slot *s)
{
	const struct view_limits *l = &k->tenant[s->tenant].limits;
	uint32_t n = sequences_of(k, s->tenant, NULL, false);
	if (l->seqs && n > l->seqs && n > l->seqs_allowed)
		checker_fail(k, "a tenant has more sequences than it may have", n, l->seqs);
}

/* One has been refused; what a dead kvd had not heard of yet, it may have counted. */
void check_limit(struct checker *k, const struct view_slot *s, uint32_t tenant, const struct kvd_cqe *c)
{
	const struct view_limits *l = &k->tenant[tenant].limits;
	bool known = c->have_pages && (c->have_pages == l->seqs || c->have_pages == l->seqs_before);
	if (!known || c->need_pages <= c->have_pages ||
	    (!k->swarm.crash && sequences_of(k, tenant, s, true) < c->have_pages))
		checker_fail(k, "LIMIT with untrue numbers", c->need_pages, c->have_pages);
}

void sequences_fewer(struct checker *k, uint32_t tenant)
{
	struct view_limits *l = &k->tenant[tenant].limits;
	if (sequences_of(k, tenant, NULL, true) <= l->seqs)
		l->seqs_allowed = 0;
}
