/* doorbell.h - how engines and kvd wake each other: bytes on the control socket, words of shared memory, or not at
 * all, because kvd looks again and again (spin-usec). */
#ifndef KVD_DOORBELL_H
#define KVD_DOORBELL_H

#include <stdbool.h>
#include <stdint.h>

struct attached;
struct daemon;

/* Wake the engines that have completions and sleep. */
void doorbell_ring(struct daemon *daemon);

/* Look at the rings until a submission is there, something else happened, spin-usec are over or the deadline is
 * reached.  True: there is something, another round at once.  Engines ring no doorbells meanwhile. */
bool doorbell_spin(struct daemon *daemon, uint64_t deadline_usec);

/* The loop is about to sleep: ask for doorbells.  False: somebody has submitted since we looked. */
bool doorbell_sleep(struct daemon *daemon);
void doorbell_wake(struct daemon *daemon);

/* The engine goes; before its segments are unmapped. */
void doorbell_forget(struct attached *engine);

#endif
