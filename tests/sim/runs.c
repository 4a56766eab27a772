/* runs.c - one run of the simulator as a child process, so that an assertion, a crash, a hang and a
 * finding are all the same to the parent: the run did not come to its end. */
#include "tests/sim/runs.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

void (*run_prepare)(struct run *run);

struct run_room *run_room_new(void)
{
	void *p = mmap(NULL, sizeof(struct run_room), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static void run_note(struct run *run, struct sim *sim)
{
	struct run_room *room = run->room;
	struct kvd_row_status st;
	core_read_status(sim->world->core, sim->world->now, &st);
	room->ops = sim->world->ops;
	room->finished = sim->world->finished;
	room->preempted = sim->world->preempted;
	room->evicted = st.evicted_pages;
	room->merges = st.merges;
	room->promotions = st.promotions;
	room->waits = st.single_flight_waits;
	room->mover_fails = sim->world->mover_fails;
	room->adoptions = crash_adoptions;
	room->stores = crash_stores_tried;
	room->computed = checker_computed(sim->checker);
}

static void run_child(struct run *run)
{
	struct run_room *room = run->room;
	uint32_t replay = run->ops_max ? 0 : room->n_log;
	if (run->ops_max)
		room->n_log = 0;
	if (run_prepare)
		run_prepare(run);
	struct sim *sim = sim_new(&run->swarm);
	if (run->every_store)
		crash_every_store(sim);
	for (uint32_t i = 0; i < replay; i++)
		sim_perform(sim, &room->log[i]);
	while (sim->world->ops < run->ops_max && room->n_log < SIM_OPS_LOG) {
		struct sim_op op;
		if (run->swarm.generator)
			load_scenes(sim, &op);
		else
			load_mix(sim, &op);
		room->log[room->n_log++] = op;
		sim_perform(sim, &op);
	}
	sim_end(sim);
	run_note(run, sim);
	room->done = 1;
	sim_free(sim);
}

void run_start(struct run *run, int *ret_pid, int *ret_fd)
{
	FILE *f = tmpfile();
	run->room->done = 0;
	run->room->ops = 0;
	*ret_fd = f ? dup(fileno(f)) : -1;
	if (f)
		fclose(f);
	fflush(NULL);
	*ret_pid = fork();
	if (*ret_pid)
		return;
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	if (*ret_fd >= 0)
		dup2(*ret_fd, STDERR_FILENO);
	alarm(run->seconds_max ? run->seconds_max : 120);
	run_child(run);
	_exit(0);
}

bool run_finish(struct run *run, int pid, int fd, int status)
{
	(void)pid;
	run->status = status ? status : run->room->done ? 0 : -1;
	run->said[0] = 0;
	if (fd >= 0 && run->status) {
		off_t size = lseek(fd, 0, SEEK_END), most = sizeof(run->said) - 1;
		off_t from = size > most ? size - most : 0;
		ssize_t n = pread(fd, run->said, (size_t)most, from);
		run->said[n > 0 ? n : 0] = 0;
	}
	if (fd >= 0)
		close(fd);
	return !run->status;
}

bool run_whole(struct run *run)
{
	int pid, fd, status;
	run_start(run, &pid, &fd);
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return run_finish(run, pid, fd, -1);
	return run_finish(run, pid, fd, status);
}
