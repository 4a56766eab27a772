/* turns.c - see turns.h.  The engine's thread; no allocation, no system call but kvlink's. */
#include "engine/turns.h"

#include "engine/engine.h"

/* A slot is kept this long: what giving it back costs (a page computed again) stays a small part. */
#define TURN_USEC 250000u

/* Slots of a tenant, those included that are on their way back. */
static uint32_t slots_of(const struct engine *e, uint32_t tenant)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < e->n_slots; i++)
		n += e->owners[i] && e->owners[i]->tenant == tenant && e->owners[i]->state == STREAM_RUNNING;
	return n;
}

/* Would the two tenants still be in this order for their weights, one slot moved? */
static bool has_more(const struct engine *e, uint32_t tenant, uint32_t n, uint32_t other, uint32_t n_other)
{
	uint64_t weight = e->sched.tenants[tenant].weight, weight_other = e->sched.tenants[other].weight;

	return n > 1 && (n - 1) * weight_other >= (n_other + 1) * weight;
}

void turns_make_room(struct engine *e, uint64_t now_usec)
{
	const struct stream *waiting = serve_next_waiting(&e->serve);
	struct stream *victim = NULL;
	uint32_t n_waiting, n_victim = 0;

	if (!waiting)
		return;
	for (uint32_t i = 0; i < e->n_slots; i++)
		if (!e->owners[i] || e->owners[i]->state != STREAM_RUNNING)
			return;            /* one is free, or will be */
	n_waiting = slots_of(e, waiting->tenant);
	for (uint32_t i = 0; i < e->n_slots; i++) {
		struct stream *s = e->owners[i];
		uint32_t n;
		if (s->tenant == waiting->tenant || !s->client || now_usec < s->slot_usec + TURN_USEC)
			continue;
		n = slots_of(e, s->tenant);
		if (!has_more(e, s->tenant, n, waiting->tenant, n_waiting))
			continue;
		if (!victim || n > n_victim || (n == n_victim && s->ticket > victim->ticket)) {
			victim = s;
			n_victim = n;
		}
	}
	if (victim)
		serve_step_aside(&e->serve, victim);
}
