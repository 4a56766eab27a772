/* sim.h - the simulator: the whole memory core, engines, tenants, mover and clock on one thread.
 *
 * A run is a swarm (what exists and which faults are on, both drawn from the seed) and a list of
 * operations.  An operation carries everything it needs, its own random word too, so that a list can
 * be replayed, and cut, without the generator that made it; an operation that does not apply does
 * nothing.  The world (tests/lib/core_world.h) performs it and watches with its own oracle; the
 * checker (checker.c) sees only what an outsider sees.
 *
 * Every run is a child process: an assertion of the core, a crash and a finding all end it. */
#ifndef KVD_TEST_SIM_H
#define KVD_TEST_SIM_H

#include "tests/lib/core_world.h"

enum { SIM_TENANTS = 8, SIM_EXTENT_BYTES = 256 << 10, SIM_OPS_LOG = 1 << 20,
	SWARM_VERSION = 2 };

enum sim_op_kind {
	OP_NONE = 0, OP_OPEN, OP_ADVANCE, OP_COMPLETE, OP_STEP_BEGIN, OP_STEP_END, OP_POLL, OP_MOVER,
	OP_POPULATE, OP_DONE, OP_TICK, OP_HOSTILE, OP_PARK, OP_CLOSE, OP_TRUNCATE, OP_FORK, OP_ATTACH,
	OP_KILL, OP_HANGUP, OP_QUIET, OP_DRAIN, OP_DOUBLE, OP_MOVER_DIES, OP_CLOCK, OP_SETTLE,
	OP_CRASH, OP_ADOPT, OP_SWITCH, OP_QUOTA, OP_STEER, OP_PUBLISH, OP_GONE, OP_KINDS
};

/* OPEN: tenant; v = three salts and where the first two end (tokens), prompt, target, flags. */
struct sim_op {
	uint8_t kind, engine, slot, tenant;
	uint32_t v[8];
	uint64_t random;
};

struct swarm {
	uint64_t seed;
	uint32_t generator;            /* 0: load_mix.c, 1: load_scenes.c */
	uint32_t n_extents, n_engines, n_tenants, n_slots, n_hostile_slots, max_pages, promise_usec;
	bool two_spaces, calm;         /* calm: no fault, no pressure: computed once is checked */
	bool quotas, floors;           /* some tenants have a max; a min, low, high or weight */
	uint32_t n_planted;            /* alone_mutants.c: which bug the core has; 0: none */
	uint32_t version;              /* SWARM_VERSION; 1: a trace of before there was what follows */
	bool rates, counts, maxes;     /* some tenants have an insert rate; a number of sequences; a max that changes */
	uint32_t disk_short;           /* percent of the spill file's accesses that end with fewer bytes */
	uint32_t publish, gone;        /* as the faults below: a prefix is (un)published; the spill file is lost */
	uint32_t disk_extents, disk_errors; /* size of the spill file; percent of its accesses that go wrong */
	/* faults: of 10,000 choices; 0: off in this seed */
	uint32_t kill, crash, mover_fails, mover_dies, doubled, clock, hostile, special, churn, requota, steer;
	/* how busy each part of the world is */
	uint32_t weight[OP_KINDS];
};

struct checker;
struct sim {
	struct swarm swarm;
	struct world *world;
	struct checker *checker;
	uint64_t random;               /* the generator's */
	struct sim_op *log;            /* shared with the parent process */
	uint32_t *n_log;
	uint32_t scene[16];            /* load_scenes.c's state */
	uint64_t chosen;
};

uint64_t sim_random64(uint64_t *state);
uint32_t sim_below(struct sim *sim, uint32_t below);

struct swarm swarm_of(uint64_t seed);
struct swarm swarm_of_version(uint64_t seed, uint32_t version);
struct swarm swarm_small(struct swarm s);
void swarm_describe(const struct swarm *s, char *ret, size_t size);

struct sim *sim_new(const struct swarm *swarm);
void sim_free(struct sim *sim);
void sim_perform(struct sim *sim, const struct sim_op *op);
/* The load stops: everything must end, and the pool be whole. */
void sim_end(struct sim *sim);
uint32_t sim_some_engine(struct sim *sim);               /* attached; CORE_NONE: none */

/* The generators: the next operation. */
void load_mix(struct sim *sim, struct sim_op *ret);
void load_scenes(struct sim *sim, struct sim_op *ret);
void load_background(struct sim *sim, struct sim_op *ret);

/* checker.c */
struct checker *checker_new(const struct swarm *swarm, uint32_t slot_bits, uint32_t n_extents);
void checker_free(struct checker *k);
void checker_see(void *checker, const struct world_record *record);
void checker_end(struct checker *k);
uint64_t checker_computed(const struct checker *k);      /* prompt and other pages sealed by computing */

/* crash.c: kvd dies at a store and another one adopts the book. */
void crash_arm(struct sim *sim, uint32_t stores);
void crash_disarm(void);
void crash_adopt(struct sim *sim);
/* crash_every.c: from here on a copy of the book is adopted at every single store. */
void crash_every_store(struct sim *sim);
void crash_every_hook(const void *address, size_t size);
void crash_every_begin(const struct core *core);
void crash_every_end(const struct core *core);
void core_book_hook(const void *address, size_t size);
extern uint64_t crash_adoptions, crash_stores_tried;

/* shrink.c */
struct sim_result { int status; uint64_t ops; uint32_t n_log; char said[512]; };
bool trace_write(const char *path, const struct swarm *swarm, const struct sim_op *ops, uint32_t n);
bool trace_read(const char *path, struct swarm *ret_swarm, struct sim_op *ops, uint32_t *ret_n, uint32_t max);
uint32_t shrink(const struct swarm *swarm, struct sim_op *ops, uint32_t n, double seconds,
		bool (*fails)(const struct swarm *swarm, const struct sim_op *ops, uint32_t n));

#endif
