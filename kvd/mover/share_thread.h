/* share_thread.h - a second thread of the mover, of the lowest weight, for what nobody waits for: COMPARE_COPY
 * jobs and their covers.  One call at a time, all from the mover's main thread. */
#ifndef KVD_MOVER_SHARE_THREAD_H
#define KVD_MOVER_SHARE_THREAD_H

#include "kvd/mover/move.h"

struct share_thread;

/* answer: called with each reply, by this thread or, from inside share_thread_flush(), by the caller's. */
int share_thread_open(struct move_window *window, bool (*answer)(const struct mover_reply *reply),
		      struct share_thread **ret);
/* At most MOVER_SHARE_JOBS_MAX are under way: asserted of kvd's side, refused here with -EBUSY. */
int share_thread_job(struct share_thread *t, const struct mover_job *job);
/* Returns when every job given before is answered: what the thread has not begun is done by the caller. */
void share_thread_flush(struct share_thread *t);
/* Likewise, then ends the thread. */
void share_thread_close(struct share_thread *t);

#endif
