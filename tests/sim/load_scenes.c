/* load_scenes.c - generator B: scenes with a plot, one after the other.
 *
 * It shares nothing with load_mix.c but the background (who runs, who dies, how late the mover is):
 * what is opened, where and when follows a story, as users and schedulers write them, so that states
 * come about that a random mix meets too seldom. */
#include "tests/sim/sim.h"

enum scene {
	SCENE_CHATS,                   /* conversations with common system prompts, each turn a longer prompt */
	SCENE_FLOOD,                   /* one tenant fills every slot with all it can ask for */
	SCENE_LONG,                    /* few sequences near the longest context, grown to the end */
	SCENE_TREES,                   /* one prompt, forked and rolled back again and again */
	SCENE_HERD,                    /* everybody asks for one cold prefix in the same instant */
	SCENE_RETURN,                  /* engines die and come back; the same prompts come again */
	SCENE_QUIET,                   /* nobody asks for anything; pages cool and memory comes back */
	SCENES
};
enum { AT_SCENE, AT_LEFT, AT_SALT, AT_TENANT, AT_OPENED, AT_TURN };

static void open_text(struct sim *sim, struct sim_op *op, uint32_t root, uint32_t root_end, uint32_t branch,
		      uint32_t branch_end, uint32_t prompt, uint32_t more)
{
	uint32_t max = sim->swarm.max_pages * 16;
	op->kind = OP_OPEN;
	op->v[0] = root;
	op->v[1] = root_end;
	op->v[2] = branch;
	op->v[3] = branch_end;
	op->v[4] = (uint32_t)sim_random64(&sim->random);
	op->v[5] = !prompt ? 1 : prompt > max ? max : prompt;
	op->v[6] = op->v[5] + more > max ? max : op->v[5] + more;
}

static void scene_next(struct sim *sim)
{
	uint32_t *at = sim->scene;
	at[AT_SCENE] = sim_below(sim, SCENES);
	at[AT_LEFT] = 500 + sim_below(sim, 4000);
	at[AT_SALT] = sim_below(sim, 3) ? 100 + sim_below(sim, 5) : (uint32_t)sim_random64(&sim->random);
	at[AT_TENANT] = sim_below(sim, sim->swarm.n_tenants);
	at[AT_OPENED] = 0;
	at[AT_TURN]++;
}

/* What the scene opens next in the free slot of *op. */
static void scene_open(struct sim *sim, struct sim_op *op)
{
	uint32_t *at = sim->scene, max = sim->swarm.max_pages * 16, n = at[AT_OPENED]++;
	op->tenant = (uint8_t)sim_below(sim, sim->swarm.n_tenants);
	switch ((enum scene)at[AT_SCENE]) {
	case SCENE_CHATS: {
		uint32_t chat = sim_below(sim, 6), turn = 1 + n / 12, system = max / 4 + chat % 2 * 7;
		op->tenant = (uint8_t)(chat % sim->swarm.n_tenants);
		open_text(sim, op, at[AT_SALT] + chat % 2, system, at[AT_SALT] * 31 + chat, max,
			  system + turn * (20 + chat), 10 + sim_below(sim, 30));
		break;
	}
	case SCENE_FLOOD:
		if (sim_below(sim, 8))
			op->tenant = (uint8_t)at[AT_TENANT];
		open_text(sim, op, at[AT_SALT], sim_below(sim, max), n, max, max / 2 + sim_below(sim, max / 2), max);
		break;
	case SCENE_LONG:
		open_text(sim, op, at[AT_SALT], max / 2, n % 3, max, max - sim_below(sim, 48), 48);
		break;
	case SCENE_TREES:
		open_text(sim, op, at[AT_SALT], max / 2, n % 2, max, max / 3, max / 2);
		break;
	case SCENE_HERD:
		open_text(sim, op, at[AT_SALT], max - max / 4, n, max, max - max / 4 + sim_below(sim, 17), 5);
		break;
	case SCENE_RETURN:
		op->tenant = (uint8_t)(n % sim->swarm.n_tenants);
		open_text(sim, op, at[AT_SALT] + n % 4, max, 0, 0, 16 + n % 7 * 37, 20);
		break;
	case SCENE_QUIET:
	case SCENES: op->kind = OP_TICK; break;
	}
}

/* Things that only some scenes do to what runs. */
static bool scene_acts(struct sim *sim, struct sim_op *op)
{
	const uint32_t *at = sim->scene;
	bool faults = sim->swarm.special || sim->swarm.kill;
	if (at[AT_SCENE] == SCENE_TREES && sim->swarm.special && !sim_below(sim, 6)) {
		op->kind = sim_below(sim, 3) ? OP_FORK : OP_TRUNCATE;
		op->v[0] = sim_below(sim, sim->swarm.n_slots);
		op->v[1] = sim_below(sim, 3);
		return true;
	}
	if (at[AT_SCENE] == SCENE_RETURN && sim->swarm.churn && !sim_below(sim, 300)) {
		op->kind = sim_below(sim, 2) ? OP_KILL : OP_HANGUP;
		return true;
	}
	if (faults && !sim_below(sim, 3000)) {
		op->kind = OP_SETTLE;
		return true;
	}
	return false;
}

void load_scenes(struct sim *sim, struct sim_op *op)
{
	uint32_t *at = sim->scene;
	if (!at[AT_LEFT] || !--at[AT_LEFT])
		scene_next(sim);
	load_background(sim, op);
	if (op->kind == OP_OPEN)
		scene_open(sim, op);
	else if (op->kind == OP_ADVANCE)
		scene_acts(sim, op);
	if (at[AT_SCENE] == SCENE_HERD && at[AT_OPENED] < 40 && op->kind == OP_ADVANCE)
		scene_open(sim, op);
}
