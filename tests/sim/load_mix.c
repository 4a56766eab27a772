/* load_mix.c - generator A: any operation after any other, as the swarm weighs them.
 *
 * Prompts come from few roots and branches, so that prefixes meet often at any depth. */
#include "tests/sim/sim.h"

static uint32_t length(struct sim *sim)
{
	uint32_t max = sim->swarm.max_pages * 16;
	return 1 + sim_below(sim, max / (1 + sim_below(sim, 4)));
}

static void mix_open(struct sim *sim, struct sim_op *op)
{
	uint32_t max = sim->swarm.max_pages * 16, target;
	op->tenant = (uint8_t)sim_below(sim, sim->swarm.n_tenants);
	op->v[0] = 1 + sim_below(sim, 3);
	op->v[1] = sim_below(sim, max);
	op->v[2] = 10 + sim_below(sim, 4);
	op->v[3] = op->v[1] + sim_below(sim, max);
	op->v[4] = sim_below(sim, 3) ? (uint32_t)sim_random64(&sim->random) : 20;
	op->v[5] = length(sim);
	target = op->v[5] + sim_below(sim, 60);
	op->v[6] = target > max ? max : target;
	op->v[7] = sim_below(sim, 20) ? 0 : KVD_OPEN_PRIVATE;
}

static bool engine_wanted(struct sim *sim)
{
	uint32_t alive = 0;
	for (uint32_t i = 0; i < WORLD_ENGINES; i++)
		alive += sim->world->engine[i].alive;
	return alive < sim->swarm.n_engines;
}

/* A death goes its way: killed, hung up, quiet, replaced. */
static void mix_death(struct sim *sim, struct sim_op *op)
{
	const struct world *w = sim->world;
	op->engine = (uint8_t)sim_below(sim, WORLD_ENGINES);
	const struct world_engine *e = &w->engine[op->engine];
	if (e->attached)
		op->kind = e->deaf || sim_below(sim, 2) ? OP_HANGUP : OP_KILL;
	else if (e->alive)
		op->kind = OP_QUIET;
	else if (engine_wanted(sim))
		op->kind = OP_ATTACH;
}

/* Something is under way that must go on by itself even in a seed whose faults are rare. */
static bool death_pending(struct sim *sim)
{
	for (uint32_t i = 0; i < WORLD_ENGINES; i++)
		if (sim->world->engine[i].deaf || sim->world->engine[i].alive != sim->world->engine[i].attached)
			return true;
	return engine_wanted(sim);
}

static bool pick_fault(struct sim *sim, struct sim_op *op)
{
	const struct swarm *s = &sim->swarm;
	uint32_t dice = sim_below(sim, 10000);
	const struct { uint32_t rate; uint8_t kind; } all[] = {
		{ s->kill, OP_KILL }, { s->crash, OP_CRASH }, { s->mover_dies, OP_MOVER_DIES },
		{ s->doubled, OP_DOUBLE }, { s->clock, OP_CLOCK }, { s->hostile, OP_HOSTILE },
		{ s->special, OP_FORK }, { s->churn / 4, OP_DRAIN }, { s->requota, OP_QUOTA }, { s->steer, OP_STEER },
		{ s->publish, OP_PUBLISH }, { s->gone, OP_GONE },
	};
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		if (dice >= all[i].rate) {
			dice -= all[i].rate;
			continue;
		}
		static const uint8_t specials[] = { OP_FORK, OP_TRUNCATE, OP_PARK, OP_CLOSE };
		op->kind = all[i].kind;
		if (op->kind == OP_CRASH)    /* most at one of the next event's stores */
			op->v[0] = 1 + sim_below(sim, sim_below(sim, 4) ? 80 : 4000);
		if (op->kind == OP_KILL)
			mix_death(sim, op);
		if (op->kind == OP_FORK) {
			op->kind = specials[sim_below(sim, 4)];
			op->v[0] = sim_below(sim, s->n_slots);
			op->v[1] = (uint32_t)sim_random64(&sim->random);
		}
		return true;
	}
	return false;
}

/* The next operation of everything but new load; OP_OPEN if it is load's turn. */
void load_background(struct sim *sim, struct sim_op *op)
{
	const struct swarm *s = &sim->swarm;
	const struct world *w = sim->world;
	uint32_t e = sim_some_engine(sim), total = 0, i;
	*op = (struct sim_op){ .random = sim_random64(&sim->random),
			       .engine = e == CORE_NONE ? 0 : (uint8_t)e,
			       .slot = (uint8_t)sim_below(sim, s->n_slots) };
	if (w->down && !sim_below(sim, 15)) {
		op->kind = OP_ADOPT;
		return;
	}
	if (world_behind(w) && !sim_below(sim, 20)) {
		op->kind = OP_SWITCH;
		return;
	}
	if (pick_fault(sim, op))
		return;
	if (death_pending(sim) && !sim_below(sim, e == CORE_NONE ? 2 : 100)) {
		mix_death(sim, op);
		return;
	}
	for (i = 0; i < OP_KINDS; i++)
		total += s->weight[i];
	uint32_t dice = sim_below(sim, total);
	for (i = 0; dice >= s->weight[i]; i++)
		dice -= s->weight[i];
	op->kind = (uint8_t)i;
	if (op->kind == OP_MOVER && s->mover_fails)
		op->v[0] = sim_below(sim, 10000) < s->mover_fails;
}

void load_mix(struct sim *sim, struct sim_op *op)
{
	load_background(sim, op);
	if (op->kind == OP_OPEN)
		mix_open(sim, op);
}
