/* share_thread.c - see share_thread.h.
 *
 * Owns its thread and a ring of jobs between the two.  The thread has the lowest weight that an ordinary thread can
 * have (nice 19, and it never preempts on waking): where all processors compute, it gets a hundredth and
 * a half of one, which is more than covers and merges need, and no step of an engine waits for it.  Not
 * SCHED_IDLE: that would be a fifth of it, and on a busy host memory would not come free.
 *
 * A job's frames are pinned by the core, so that no other job of the main thread touches them meanwhile. */
#include "kvd/mover/share_thread.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

struct share_thread {
	struct move_window *window;
	bool (*answer)(const struct mover_reply *reply);
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct mover_job jobs[MOVER_SHARE_JOBS_MAX];
	uint32_t head, n;          /* jobs that nobody has begun */
	bool running;              /* the thread does one */
	bool end;
};

/* Do the first job of the ring.  Locked before and after, not between. */
static void run_first(struct share_thread *t)
{
	struct mover_job job = t->jobs[t->head];
	struct mover_reply reply;

	t->head = (t->head + 1) % MOVER_SHARE_JOBS_MAX;
	t->n--;
	pthread_mutex_unlock(&t->lock);
	move_run(t->window, &job, &reply);
	(void)t->answer(&reply);   /* kvd gone: the main thread sees that, too */
	pthread_mutex_lock(&t->lock);
}

static void *share_main(void *arg)
{
	struct share_thread *t = arg;
	struct sched_param none = { 0 };

	/* Refused (a filter of system calls): then it is an ordinary thread, and nothing else changes. */
	(void)sched_setscheduler(0, SCHED_BATCH, &none);
	(void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);
	pthread_mutex_lock(&t->lock);
	while (!t->end) {
		if (!t->n) {
			pthread_cond_wait(&t->changed, &t->lock);
			continue;
		}
		t->running = true;
		run_first(t);
		t->running = false;
		pthread_cond_broadcast(&t->changed);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

int share_thread_open(struct move_window *window, bool (*answer)(const struct mover_reply *reply),
		      struct share_thread **ret)
{
	struct share_thread *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return -ENOMEM;
	t->window = window;
	t->answer = answer;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
	r = pthread_create(&t->thread, NULL, share_main, t);
	if (r) {
		free(t);
		return -r;
	}
	*ret = t;
	return 0;
}

int share_thread_job(struct share_thread *t, const struct mover_job *job)
{
	int r = -EBUSY;

	pthread_mutex_lock(&t->lock);
	if (t->n < MOVER_SHARE_JOBS_MAX) {
		t->jobs[(t->head + t->n++) % MOVER_SHARE_JOBS_MAX] = *job;
		pthread_cond_broadcast(&t->changed);
		r = 0;
	}
	pthread_mutex_unlock(&t->lock);
	return r;
}

void share_thread_flush(struct share_thread *t)
{
	pthread_mutex_lock(&t->lock);
	while (t->n || t->running)
		if (t->n)
			run_first(t);
		else
			pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

void share_thread_close(struct share_thread *t)
{
	if (!t)
		return;
	share_thread_flush(t);
	pthread_mutex_lock(&t->lock);
	t->end = true;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
	pthread_cond_destroy(&t->changed);
	pthread_mutex_destroy(&t->lock);
	free(t);
}
