/* team.h - a fixed team of threads that runs one function at a time, with a barrier inside it.
 *
 * A waiter spins for a budget (at most the team's, less on a busy machine), then sleeps on a futex,
 * so that a team between steps costs nothing and one inside a step pays nanoseconds. */
#ifndef ENGINE_TEAM_H
#define ENGINE_TEAM_H

struct team;

typedef void team_fn(void *arg, unsigned thread);

/* Start n_threads - 1 workers; the caller of team_run() is thread 0.
 * Threads are pinned, one to a CPU, only where the team takes all CPUs that the process may use:
 * a smaller team shares them with other engines, and where it runs is the kernel's choice.
 * Returns 0 or -errno. */
int team_new(unsigned n_threads, unsigned spin_usec, struct team **ret);
void team_free(struct team *t);

unsigned team_size(const struct team *t);

/* Run fn(arg, 0 .. n_threads - 1), one call in each thread; returns when all have. */
void team_run(struct team *t, team_fn *fn, void *arg);

/* Wait within fn until every thread of the team has come here. */
void team_barrier(struct team *t);

#endif
