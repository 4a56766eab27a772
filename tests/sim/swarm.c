/* swarm.c - what a seed means: how large the world is, which faults are on and how often, and how
 * lazy each part of it is.
 *
 * Most bugs need a fault to be off as much as another to be on (a mover that never fails lets the
 * pool fill; engines that never die let promises last), hence each is drawn by itself. */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <string.h>

/* splitmix64 */
uint64_t sim_random64(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static uint32_t draw(uint64_t *state, uint32_t low, uint32_t high)
{
	return low + (uint32_t)((sim_random64(state) >> 16) % (high - low + 1));
}

/* On in half of the seeds, then rare or common. */
static uint32_t fault(uint64_t *state, uint32_t most)
{
	uint32_t rate = draw(state, 1, most);
	if (draw(state, 0, 1))
		rate = 1 + rate / 8;
	return draw(state, 0, 1) ? rate : 0;
}

static void swarm_faults(struct swarm *s, uint64_t *state)
{
	s->kill = fault(state, 40);
	s->crash = fault(state, 20);
	s->mover_fails = fault(state, 1500);
	s->mover_dies = fault(state, 20);
	s->doubled = fault(state, 100);
	s->clock = fault(state, 20);
	s->hostile = fault(state, 600);
	s->special = fault(state, 1000);
	s->churn = fault(state, 20);
	s->quotas = draw(state, 0, 1);
	s->n_hostile_slots = s->hostile ? 2 : 0;
}

/* From a state of its own: what a seed meant before there were floors, it means still. */
static void swarm_floors(struct swarm *s)
{
	uint64_t state = s->seed * 0xd1342543de82ef95ull + 5;
	s->floors = draw(&state, 0, 1) && !s->calm;
	if (s->floors)
		s->requota = fault(&state, 100);
	if (!s->calm)
		s->steer = fault(&state, 60);
}

/* The same again: from a state of its own. */
static void swarm_wide(struct swarm *s)
{
	uint64_t state = s->seed * 0x9fb21c651e98df25ull + 11;
	if (s->calm)
		return;
	s->rates = draw(&state, 0, 1);
	s->counts = draw(&state, 0, 1);
	s->maxes = draw(&state, 0, 1) && s->quotas;
	s->publish = fault(&state, 60);
	s->gone = s->disk_extents ? fault(&state, 20) : 0;
	s->disk_short = s->disk_extents && draw(&state, 0, 1) ? draw(&state, 1, 20) : 0;
	if ((s->rates || s->counts || s->maxes) && !s->requota)
		s->requota = fault(&state, 100);
}

struct swarm swarm_of(uint64_t seed)
{
	return swarm_of_version(seed, SWARM_VERSION);
}

struct swarm swarm_of_version(uint64_t seed, uint32_t version)
{
	static const struct { uint8_t kind, least, most; } parts[] = {
		{ OP_OPEN, 2, 12 }, { OP_ADVANCE, 20, 40 }, { OP_COMPLETE, 10, 25 }, { OP_STEP_BEGIN, 3, 10 },
		{ OP_STEP_END, 3, 12 }, { OP_POLL, 1, 8 }, { OP_MOVER, 3, 25 }, { OP_POPULATE, 1, 3 },
		{ OP_DONE, 1, 5 }, { OP_TICK, 1, 4 },
	};
	uint64_t state = seed * 0x2545f4914f6cdd1dull + 1;
	struct swarm s = { .seed = seed, .version = version };
	s.generator = draw(&state, 0, 1);
	s.calm = !draw(&state, 0, 4);
	s.n_engines = draw(&state, 1, 4);
	s.n_tenants = draw(&state, 2, SIM_TENANTS);
	s.n_slots = draw(&state, 2, 10);
	s.max_pages = draw(&state, 0, 1) ? 12 : draw(&state, 4, WORLD_PAGES);
	s.two_spaces = s.n_engines > 1 && !draw(&state, 0, 2);
	s.promise_usec = draw(&state, 0, 1) ? 100000 : draw(&state, 1000, 1000000);
	switch (draw(&state, 0, 3)) {
	case 0: s.n_extents = draw(&state, 2, 4); break;
	case 1: s.n_extents = draw(&state, 5, 12); break;
	default: s.n_extents = draw(&state, 32, 64); break; /* 512 frames and more */
	}
	s.disk_extents = draw(&state, 0, 1) ? draw(&state, 1, 16) : 0;
	s.disk_errors = draw(&state, 0, 1) ? draw(&state, 1, 20) : 0;
	if (s.calm) {
		s.disk_extents = s.disk_errors = 0;
		s.n_extents = 640;
		s.promise_usec = 1u << 31;
	} else {
		swarm_faults(&s, &state);
	}
	swarm_floors(&s);
	if (version > 1)
		swarm_wide(&s);
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		s.weight[parts[i].kind] = draw(&state, parts[i].least, parts[i].most);
	return s;
}

/* A book small enough to be checked at every store; kills are these, not drawn ones. */
struct swarm swarm_small(struct swarm s)
{
	s.n_extents = 3 + s.n_extents % 6;
	s.calm = false;
	s.crash = 0;
	if (s.n_slots > 4)
		s.n_slots = 4;
	if (s.n_engines > 2)
		s.n_engines = 2;
	return s;
}

void swarm_describe(const struct swarm *s, char *ret, size_t size)
{
	snprintf(ret, size,
		 "%s%s, %u extents, %u engines%s, %u tenants%s%s, %u slots of %u pages; of 10,000: "
		 "kill %u, crash %u, mover fails %u, mover dies %u, doubled %u, clock %u, hostile %u, "
		 "special %u, churn %u, requota %u, steer %u; disk of %u extents, %u%% errors, "
		 "%u%% short, gone %u; publish %u%s%s%s",
		 s->generator ? "scenes" : "mix", s->calm ? ", calm" : "", s->n_extents, s->n_engines,
		 s->two_spaces ? " of two spaces" : "", s->n_tenants,
		 s->quotas ? " with quotas" : "", s->floors ? " with floors" : "",
		 s->n_slots, s->max_pages, s->kill, s->crash, s->mover_fails, s->mover_dies, s->doubled,
		 s->clock, s->hostile, s->special, s->churn, s->requota, s->steer,
		 s->disk_extents, s->disk_errors, s->disk_short, s->gone, s->publish, s->rates ? ", rates" : "",
		 s->counts ? ", numbers of sequences" : "", s->maxes ? ", maxes that change" : "");
}
