/* team.c - a fixed team of threads; see team.h.
 *
 * Everything is one barrier: workers wait at it for the next function, threads inside the function
 * meet at it, and the caller's last arrival at it ends the run.  The barrier counts arrivals and
 * turns a generation; who arrives last stores the next generation and wakes those that sleep.
 * A sleeper announces itself before it re-reads the generation, the last arrival stores the
 * generation before it reads the announcements: one of the two sees the other. */
#include "engine/team.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPINS_PER_CLOCK 64          /* pauses between two looks at the clock: ~2 us */
#define SPIN_MIN_NSEC 5000          /* the budget never shrinks below a few looks at the clock */

struct team {
	_Atomic uint32_t generation __attribute__((aligned(64)));
	_Atomic uint32_t n_arrived __attribute__((aligned(64)));
	_Atomic uint32_t n_sleeping;
	_Atomic unsigned n_threads;
	int64_t spin_max_nsec;
	/* The budget in use.  Where other processes want the CPUs, a thread that spins burns the
	 * slice that its partner waits for (decode on a busy machine: 17 tokens/s with a fixed
	 * 200 us, 66 with 20).  So each wait that had to sleep halves it, each that didn't adds a
	 * 32nd.  Only advice: threads may overwrite each other's. */
	_Atomic int64_t spin_nsec;
	bool quit;                  /* written before a barrier, read after it */
	team_fn *fn;
	void *arg;
	unsigned n_started;         /* workers that run */
	struct worker { struct team *team; pthread_t thread; unsigned index; int cpu; } *workers;
};

static void pause_cpu(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

static int64_t now_nsec(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void sleep_until_turned(struct team *t, uint32_t generation)
{
	atomic_fetch_add(&t->n_sleeping, 1);
	while (atomic_load(&t->generation) == generation)
		(void)syscall(SYS_futex, &t->generation, FUTEX_WAIT_PRIVATE, generation, NULL, NULL,
			      0);
	atomic_fetch_sub(&t->n_sleeping, 1);
}

static void change_budget(struct team *t, bool sufficed)
{
	int64_t budget = atomic_load_explicit(&t->spin_nsec, memory_order_relaxed);

	if (sufficed && budget >= t->spin_max_nsec)
		return;   /* the usual case: no store to a shared line */
	budget = sufficed ? budget + budget / 32 : budget / 2;
	if (budget < SPIN_MIN_NSEC)
		budget = SPIN_MIN_NSEC;
	if (budget > t->spin_max_nsec)
		budget = t->spin_max_nsec;
	atomic_store_explicit(&t->spin_nsec, budget, memory_order_relaxed);
}

void team_barrier(struct team *t)
{
	const uint32_t generation = atomic_load(&t->generation);
	int64_t deadline = 0;

	if (atomic_fetch_add(&t->n_arrived, 1) + 1 == t->n_threads) {
		atomic_store(&t->n_arrived, 0);
		atomic_store(&t->generation, generation + 1);
		if (atomic_load(&t->n_sleeping) > 0)
			(void)syscall(SYS_futex, &t->generation, FUTEX_WAKE_PRIVATE, INT_MAX, NULL,
				      NULL, 0);
		return;
	}
	for (unsigned spins = 1;
	     atomic_load_explicit(&t->generation, memory_order_acquire) == generation; spins++) {
		pause_cpu();
		if (spins % SPINS_PER_CLOCK)
			continue;
		int64_t now = now_nsec();
		if (deadline == 0) {
			deadline = now + atomic_load_explicit(&t->spin_nsec, memory_order_relaxed);
		} else if (now >= deadline) {
			change_budget(t, false);
			sleep_until_turned(t, generation);
			return;
		}
	}
	change_budget(t, true);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct team *t = w->team;

	if (w->cpu >= 0) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET((size_t)w->cpu, &set);
		(void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
	}
	for (;;) {
		team_barrier(t);
		if (t->quit)
			return NULL;
		t->fn(t->arg, w->index);
		team_barrier(t);
	}
}

/* The CPU a thread is pinned to, or -1 where the team doesn't take them all. */
static int cpu_of(unsigned thread, unsigned n_threads)
{
	cpu_set_t allowed;

	if (n_threads < 2 || sched_getaffinity(0, sizeof(allowed), &allowed) < 0 ||
	    (unsigned)CPU_COUNT(&allowed) != n_threads)
		return -1;
	for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET((size_t)cpu, &allowed) && (unsigned)seen++ == thread)
			return cpu;
	return -1;
}

int team_new(unsigned n_threads, unsigned spin_usec, struct team **ret)
{
	struct team *t = aligned_alloc(64, (sizeof(*t) + 63u) & ~(size_t)63u);
	sigset_t all, before;
	int r = 0;

	assert(n_threads >= 1);
	if (!t)
		return -ENOMEM;
	memset(t, 0, sizeof(*t));
	t->n_threads = n_threads;
	t->spin_max_nsec = spin_usec * 1000ll;
	t->spin_nsec = t->spin_max_nsec;
	t->workers = calloc(n_threads, sizeof(*t->workers));
	if (!t->workers) {
		free(t);
		return -ENOMEM;
	}
	/* signals are the caller's: a worker that took one would be late for its barrier */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (unsigned i = 1; i < n_threads && r == 0; i++) {
		t->workers[i] =
			(struct worker){ .team = t, .index = i, .cpu = cpu_of(i, n_threads) };
		r = -pthread_create(&t->workers[i].thread, NULL, worker_main, &t->workers[i]);
		if (r == 0)
			t->n_started++;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r < 0) {
		/* the team shrinks to those that run, so that they can be let go */
		t->n_threads = t->n_started + 1;
		team_free(t);
		return r;
	}
	*ret = t;
	return 0;
}

void team_free(struct team *t)
{
	if (!t)
		return;
	t->quit = true;
	if (t->n_started > 0)
		team_barrier(t);
	for (unsigned i = 1; i <= t->n_started; i++)
		pthread_join(t->workers[i].thread, NULL);
	free(t->workers);
	free(t);
}

unsigned team_size(const struct team *t)
{
	return t->n_threads;
}

void team_run(struct team *t, team_fn *fn, void *arg)
{
	t->fn = fn;
	t->arg = arg;
	if (t->n_threads > 1)
		team_barrier(t);
	fn(arg, 0);
	if (t->n_threads > 1)
		team_barrier(t);
}
