/* event.h - what has happened lately: a ring of EVENT messages, and the peers that watch it.
 *
 * One ring for all: a watcher is a cursor into it, so that a slow reader costs no memory and is told how many
 * events it has missed.  A note costs a copy of 400 bytes and is for what happens seldom. */
#ifndef KVD_EVENT_H
#define KVD_EVENT_H

#include <stdbool.h>
#include <stdint.h>

#include "kvd/proto.h"

struct attached;
struct daemon;
struct peer;

#define LIMIT_EVENTS 1024u         /* a burst of a second; 400 KiB */

struct events {
	struct kvd_msg_event *ring;        /* (LIMIT_EVENTS) event n lies at n % LIMIT_EVENTS */
	uint64_t n;                        /* noted since start; the next one's number - 1 */
	uint32_t n_watchers;
	/* what was told of counters that move too fast for a note each */
	uint64_t told_usec, evicted, throttled, sealed, sealed_told;
	uint64_t pumped;                   /* events that all watchers have */
	bool behind;                       /* a watcher's socket was full */
};

/* A peer's side. */
struct event_watch {
	bool active;
	uint32_t kinds;                    /* bit of each kind wanted */
	uint64_t next;                     /* event it gets next, from 0 */
	uint32_t lost;                     /* to be told with the next one */
};

int event_open(struct daemon *daemon);
void event_close(struct daemon *daemon);
/* engine, tenant: NULL or "" = none; slot: CORE_NONE = none. */
__attribute__((format(printf, 8, 9)))
void event_note(struct daemon *daemon, enum kvd_event_kind kind, const char *engine, const char *tenant,
		uint32_t slot, uint64_t a, uint64_t b, const char *format, ...);
void event_watch(struct peer *peer, uint32_t kinds, uint64_t past);
void event_unwatch(struct peer *peer);
uint64_t event_realtime_usec(void);
/* Note what counters say, send what watchers' sockets take; returns when to be called again. */
uint64_t event_pump(struct daemon *daemon, uint64_t now_usec);

#endif
