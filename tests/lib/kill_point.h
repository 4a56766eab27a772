/* kill_point.h - SIGKILL a process at a named point of its program, as it is shipped.
 *
 * The point is a function of the program and a number of instructions after its entry.  The process
 * is traced, a breakpoint is set, and from its nth hit on the process is stepped instruction by
 * instruction; then it is killed.  No hook in the program, no special build.
 *
 * A tracer is a thread: kill_point_start() makes one; nobody else may wait for that pid until
 * kill_point_finish() has returned.  x86-64 only (elsewhere -ENOSYS). */
#ifndef TESTS_KILL_POINT_H
#define TESTS_KILL_POINT_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

struct kill_point {
	pid_t pid;
	const char *function;          /* of the first thread; another one's call ends the process at its entry */
	unsigned nth;                  /* kill in its nth call from now, 1 .. */
	unsigned steps;                /* so many instructions after the entry */
	unsigned timeout_ms;           /* the call did not come: leave the process as it was */
	/* results */
	int status;                    /* 0: killed there, reaped; -ETIMEDOUT; -ESRCH: ended by itself; -errno */
	unsigned hits;
	/* private */
	pthread_t thread;
	bool done;
	int end_signal;                /* that the process died of; 0: of none, as far as is known */
};

void kill_point_start(struct kill_point *p);
bool kill_point_done(const struct kill_point *p);
int kill_point_finish(struct kill_point *p);   /* joins; returns status */

#endif
