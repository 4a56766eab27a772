/* runs.h - one run of the simulator as a child process; what main.c and mutants.c share. */
#ifndef KVD_TEST_SIM_RUNS_H
#define KVD_TEST_SIM_RUNS_H

#include "tests/sim/sim.h"

/* Shared with the child. */
struct run_room {
	uint64_t ops, finished, preempted, evicted, merges, promotions, waits, mover_fails, adoptions, stores,
		computed;
	uint32_t n_log, done;          /* done: the run came to its end */
	struct sim_op log[SIM_OPS_LOG];
};

struct run {
	struct swarm swarm;
	uint32_t ops_max;              /* events of the core; 0: replay log[0, n_log) */
	uint32_t seconds_max;
	bool every_store;
	struct run_room *room;
	char said[16384];               /* stderr of a failed run, its end */
	int status;                    /* as waitpid says; 0: well */
};

struct run_room *run_room_new(void);
void run_start(struct run *run, int *ret_pid, int *ret_fd);
bool run_finish(struct run *run, int pid, int fd, int status);   /* true: well */
bool run_whole(struct run *run);                                  /* start, wait, finish */
/* Tried in the child before a run's world is made; mutants.c plants its fault here. */
extern void (*run_prepare)(struct run *run);

#endif
