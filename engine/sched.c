/* sched.c - who runs in the next step; see sched.h.
 *
 * Fairness is start-time fair queueing on tokens: each tenant's virtual time advances by computed
 * rows / weight, prefill goes to the lowest.  Decode rows are charged too but never held back
 * while they fit: a step with one row more costs far less than a step more.
 * Runs on the engine's thread; no allocation, no system call, no clock. */
#include "engine/sched.h"

#include <assert.h>
#include <string.h>

void sched_init(struct sched *s, uint32_t chunk_tokens, uint32_t seqs_max)
{
	assert(chunk_tokens >= 1 && seqs_max >= 1);
	memset(s, 0, sizeof(*s));
	s->chunk_tokens = chunk_tokens;
	s->rows_max = chunk_tokens + seqs_max;
}

/* Virtual time of the least served active tenant other than `except`. */
static uint64_t least_served(const struct sched *s, uint32_t except)
{
	uint64_t least = UINT64_MAX;

	for (uint32_t i = 0; i < s->n_tenants; i++)
		if (i != except && s->tenants[i].n_active && s->tenants[i].served < least)
			least = s->tenants[i].served;
	return least == UINT64_MAX ? 0 : least;
}

uint32_t sched_tenant_get(struct sched *s, const char *name, uint32_t weight)
{
	uint32_t found = SCHED_NONE, idle = SCHED_NONE;
	struct sched_tenant *t;

	for (uint32_t i = 0; i < s->n_tenants && found == SCHED_NONE; i++) {
		if (strncmp(s->tenants[i].name, name, sizeof(s->tenants[i].name) - 1) == 0)
			found = i;
		/* of the idle records reuse the one served least: forgetting it forgives least */
		else if (!s->tenants[i].n_active &&
			 (idle == SCHED_NONE || s->tenants[i].served < s->tenants[idle].served))
			idle = i;
	}
	if (found == SCHED_NONE && s->n_tenants < SCHED_TENANTS_MAX)
		idle = s->n_tenants++;
	if (found == SCHED_NONE) {
		if (idle == SCHED_NONE)
			return SCHED_NONE;
		found = idle;
		t = &s->tenants[found];
		memset(t, 0, sizeof(*t));
		strncpy(t->name, name, sizeof(t->name) - 1);
	}
	t = &s->tenants[found];
	if (!t->n_active) {
		uint64_t least = least_served(s, found);
		if (t->served < least)
			t->served = least;
	}
	t->weight = weight < 1 ? 1 : weight > SCHED_SCALE ? SCHED_SCALE : weight;
	t->n_active++;
	return found;
}

void sched_tenant_put(struct sched *s, uint32_t tenant)
{
	assert(tenant < s->n_tenants && s->tenants[tenant].n_active > 0);
	s->tenants[tenant].n_active--;
}

bool sched_before(const struct sched *s, uint32_t tenant_a, uint64_t ticket_a, uint32_t tenant_b,
		  uint64_t ticket_b)
{
	uint64_t a = s->tenants[tenant_a].served, b = s->tenants[tenant_b].served;

	return a != b ? a < b : ticket_a < ticket_b;
}

static uint64_t cost(const struct sched *s, uint32_t tenant, uint32_t rows)
{
	return (uint64_t)rows * SCHED_SCALE / s->tenants[tenant].weight;
}

/* Tokens the sequence may run in a chunk of at most `budget`. */
static uint32_t chunk_of(const struct sched_seq *q, uint32_t budget)
{
	uint32_t end = q->computed + budget, reach = q->limit < q->known ? q->limit : q->known;

	if (end > reach)
		end = reach;
	if (end < q->known) {
		/* end at a page boundary, where the next lookup can be made and a page is sealed */
		uint32_t aligned = end - end % KVD_PAGE_TOKENS;
		if (aligned > q->computed)
			end = aligned;
	}
	return end - q->computed;
}

static bool can_run(const struct sched_seq *q)
{
	return q->runnable && q->computed < q->known && q->computed < q->limit;
}

static void add_run(struct sched_run *runs, uint32_t *n, const struct sched_seq *q, uint32_t slot,
		    uint32_t count)
{
	runs[(*n)++] = (struct sched_run){ .slot = slot, .start = q->computed, .count = count,
					   .want_logits = q->computed + count == q->known };
}

static bool is_planned(const struct sched_run *runs, uint32_t n, uint32_t slot)
{
	for (uint32_t i = 0; i < n; i++)
		if (runs[i].slot == slot)
			return true;
	return false;
}

uint32_t sched_plan(const struct sched *s, const struct sched_seq *seqs, uint32_t n_seqs,
		    struct sched_run *ret_runs)
{
	uint64_t planned[SCHED_TENANTS_MAX];   /* virtual time this plan would add */
	uint32_t n = 0, n_decode, budget;

	memset(planned, 0, s->n_tenants * sizeof(planned[0]));
	for (uint32_t i = 0; i < n_seqs; i++)
		if (can_run(&seqs[i]) && seqs[i].known - seqs[i].computed == 1) {
			add_run(ret_runs, &n, &seqs[i], i, 1);
			planned[seqs[i].tenant] += cost(s, seqs[i].tenant, 1);
		}
	n_decode = n;
	assert(n_decode <= s->rows_max);
	/* Many decodes never shut prefill out: a quarter of the budget is its own. */
	budget = s->chunk_tokens > n_decode ? s->chunk_tokens - n_decode : 0;
	if (budget < (s->chunk_tokens + 3) / 4)
		budget = (s->chunk_tokens + 3) / 4;
	if (budget > s->rows_max - n_decode)
		budget = s->rows_max - n_decode;
	while (budget) {
		uint32_t best = SCHED_NONE, count;
		uint64_t best_time = 0;

		for (uint32_t i = 0; i < n_seqs; i++) {
			uint64_t time;
			if (!can_run(&seqs[i]) || seqs[i].known - seqs[i].computed == 1 ||
			    is_planned(ret_runs + n_decode, n - n_decode, i))
				continue;
			time = s->tenants[seqs[i].tenant].served + planned[seqs[i].tenant];
			if (best == SCHED_NONE || time < best_time ||
			    (time == best_time && seqs[i].ticket < seqs[best].ticket)) {
				best = i;
				best_time = time;
			}
		}
		if (best == SCHED_NONE)
			break;
		count = chunk_of(&seqs[best], budget);
		add_run(ret_runs, &n, &seqs[best], best, count);
		planned[seqs[best].tenant] += cost(s, seqs[best].tenant, count);
		budget -= count;
	}
	return n;
}

void sched_charge(struct sched *s, const struct sched_seq *seqs, const struct sched_run *runs,
		  uint32_t n_runs)
{
	for (uint32_t i = 0; i < n_runs; i++) {
		uint32_t tenant = seqs[runs[i].slot].tenant;
		s->tenants[tenant].served += cost(s, tenant, runs[i].count);
	}
}
