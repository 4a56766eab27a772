/* shrink.c - a failing trace made small (delta debugging), and traces as files.
 *
 * Chunks of the list are left out, large ones first, as long as the rest still fails; an operation
 * that no longer applies does nothing, so every rest is a valid trace.  A trace file is one line with
 * the seed, which fixes the swarm, and one line an operation. */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const op_names[OP_KINDS] = {
	"none", "open", "advance", "complete", "begin", "end", "poll", "mover", "populate", "done", "tick", "hostile",
	"park", "close", "truncate", "fork", "attach", "kill", "hangup", "quiet", "drain", "double", "mover-dies",
	"clock", "settle", "crash", "adopt", "switch", "quota", "steer", "publish", "gone"
};

bool trace_write(const char *path, const struct swarm *swarm, const struct sim_op *ops, uint32_t n)
{
	FILE *f = fopen(path, "w");
	if (!f)
		return false;
	fprintf(f, "kvd-sim-trace %u seed %" PRIu64 "\n", swarm->version, swarm->seed);
	for (uint32_t i = 0; i < n; i++) {
		const struct sim_op *o = &ops[i];
		fprintf(f, "%s %u %u %u %016" PRIx64, op_names[o->kind], o->engine, o->slot, o->tenant, o->random);
		uint32_t last = 8;
		while (last && !o->v[last - 1])
			last--;
		for (uint32_t v = 0; v < last; v++)
			fprintf(f, " %u", o->v[v]);
		fputc('\n', f);
	}
	return !fclose(f);
}

static bool op_read(const char *line, struct sim_op *ret)
{
	char name[16];
	unsigned engine, slot, tenant;
	int used = 0;
	memset(ret, 0, sizeof(*ret));
	if (sscanf(line, "%15s %u %u %u %" SCNx64 "%n", name, &engine, &slot, &tenant, &ret->random, &used) != 5)
		return false;
	if (engine >= WORLD_ENGINES || slot >= WORLD_SLOTS || tenant >= SIM_TENANTS)
		return false;
	ret->engine = (uint8_t)engine;
	ret->slot = (uint8_t)slot;
	ret->tenant = (uint8_t)tenant;
	while (ret->kind < OP_KINDS && strcmp(name, op_names[ret->kind]))
		ret->kind++;
	const char *at = line + used;
	for (uint32_t v = 0; v < 8 && sscanf(at, "%u%n", &ret->v[v], &used) == 1; v++)
		at += used;
	return ret->kind < OP_KINDS && ret->v[5] <= WORLD_TOKENS && ret->v[6] <= WORLD_TOKENS;
}

bool trace_read(const char *path, struct swarm *ret_swarm, struct sim_op *ops, uint32_t *ret_n, uint32_t max)
{
	char line[256];
	uint64_t seed = 0;
	unsigned version = 0;
	FILE *f = fopen(path, "r");
	bool ok = f && fgets(line, sizeof(line), f) &&
		  sscanf(line, "kvd-sim-trace %u seed %" SCNu64, &version, &seed) == 2 && version &&
		  version <= SWARM_VERSION;
	*ret_swarm = swarm_of_version(seed, version);
	for (*ret_n = 0; ok && *ret_n < max && fgets(line, sizeof(line), f);)
		ok = line[0] == '\n' || line[0] == '#' || op_read(line, &ops[(*ret_n)++]);
	if (f)
		fclose(f);
	return ok;
}

static double seconds_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Returns how many operations are left in ops. */
uint32_t shrink(const struct swarm *swarm, struct sim_op *ops, uint32_t n, double seconds,
		bool (*fails)(const struct swarm *swarm, const struct sim_op *ops, uint32_t n))
{
	struct sim_op *rest = malloc((n + 1) * sizeof(*rest));
	double until = seconds_now() + seconds;
	bool again = true;
	for (uint32_t chunk = n / 2; chunk && seconds_now() < until;) {
		again = false;
		for (uint32_t from = 0; from < n && seconds_now() < until;) {
			uint32_t end = from + chunk < n ? from + chunk : n;
			memcpy(rest, ops, from * sizeof(*ops));
			memcpy(rest + from, ops + end, (n - end) * sizeof(*ops));
			if (fails(swarm, rest, n - (end - from))) {
				n -= end - from;
				memcpy(ops, rest, n * sizeof(*ops));
				again = true;
			} else {
				from = end;
			}
		}
		if (chunk > 1 || !again)
			chunk = chunk > n ? n / 2 : chunk / 2;
	}
	free(rest);
	return n;
}
