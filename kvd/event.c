/* event.c - see event.h.  Owns the ring and its watchers' cursors.  Loop thread only; never waits for a reader:
 * what a socket does not take now is tried again in the next round, until the ring has gone past it. */
#include "kvd/event.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "kvd/clock.h"
#include "kvd/daemon.h"
#include "kvd/memory.h"
#include "kvd/peer.h"

#define EVENT_TELL_USEC 100000u    /* counters are summed up for so long */
#define EVENT_EVICTED_ROWS 64u     /* newest evictions looked at to say who and for whom */
#define EVENT_RETRY_USEC 20000u    /* a watcher's socket is full: again in so long */

int event_open(struct daemon *daemon)
{
	daemon->events.ring = memory_resident(LIMIT_EVENTS * sizeof(daemon->events.ring[0]));
	return daemon->events.ring ? 0 : -ENOMEM;
}

void event_close(struct daemon *daemon)
{
	free(daemon->events.ring);
	daemon->events = (struct events){ 0 };
}

uint64_t event_realtime_usec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

void event_note(struct daemon *daemon, enum kvd_event_kind kind, const char *engine, const char *tenant,
		uint32_t slot, uint64_t a, uint64_t b, const char *format, ...)
{
	struct events *events = &daemon->events;
	struct kvd_msg_event *m;
	va_list args;

	if (!events->ring)
		return; /* before the start's end, after the end's start */
	m = &events->ring[events->n % LIMIT_EVENTS];
	*m = (struct kvd_msg_event){
		.m = { .type = KVD_M_EVENT, .size = sizeof(*m) },
		.kind = kind,
		.number = ++events->n,
		.realtime_usec = event_realtime_usec(),
		.a = a,
		.b = b,
		.slot = slot,
	};
	snprintf(m->engine, sizeof(m->engine), "%s", engine ? engine : "");
	snprintf(m->tenant, sizeof(m->tenant), "%s", tenant ? tenant : "");
	va_start(args, format);
	vsnprintf(m->text, sizeof(m->text), format, args);
	va_end(args);
	daemon_deadline(daemon, clock_now_usec());
}

void event_watch(struct peer *peer, uint32_t kinds, uint64_t past)
{
	struct events *events = &peer->daemon->events;

	if (!peer->watch.active)
		events->n_watchers++;
	if (past > events->n || past > LIMIT_EVENTS)
		past = events->n < LIMIT_EVENTS ? events->n : LIMIT_EVENTS;
	peer->watch = (struct event_watch){ .active = true, .kinds = kinds ? kinds : ~0u, .next = events->n - past };
	events->behind = true;               /* it has nothing yet */
	daemon_deadline(peer->daemon, clock_now_usec());
}

void event_unwatch(struct peer *peer)
{
	if (peer->watch.active)
		peer->daemon->events.n_watchers--;
	peer->watch.active = false;
}

/* ---- what counters say ---- */

/* One note for each (victim, by) among the newest evictions. */
static void note_evictions(struct daemon *daemon, uint64_t n_pages)
{
	static struct kvd_row_evicted rows[EVENT_EVICTED_ROWS];
	uint32_t cursor = 0, n, max = n_pages < EVENT_EVICTED_ROWS ? (uint32_t)n_pages : EVENT_EVICTED_ROWS;

	n = core_read_evicted(daemon->core, CORE_NONE, clock_now_usec(), &cursor, rows, max);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t pages = 0, bytes = 0;

		for (uint32_t k = i; k < n; k++) {
			if (strcmp(rows[k].victim, rows[i].victim) ||
			    strcmp(rows[k].by, rows[i].by) || !rows[k].bytes)
				continue;
			pages++;
			bytes += rows[k].bytes;
			rows[k].bytes = k == i ? rows[k].bytes : 0;
		}
		if (pages)
			event_note(daemon, KVD_EVENT_EVICT, NULL, rows[i].victim, CORE_NONE, pages, bytes, "for %s",
				   rows[i].by[0] ? rows[i].by : "nobody in particular");
	}
	if (!n)
		event_note(daemon, KVD_EVENT_EVICT, NULL, NULL, CORE_NONE, n_pages, 0, "see kvctl tenants");
}

static void tell_counters(struct daemon *daemon, uint64_t now_usec)
{
	struct events *events = &daemon->events;
	struct kvd_row_status status;

	core_read_status(daemon->core, now_usec, &status);
	if (status.evicted_pages > events->evicted)
		note_evictions(daemon, status.evicted_pages - events->evicted);
	events->evicted = status.evicted_pages;
	if (status.throttled > events->throttled)
		event_note(daemon, KVD_EVENT_THROTTLE, NULL, NULL, CORE_NONE, status.throttled - events->throttled, 0,
			   "see kvctl tenants: high, insert rate");
	events->throttled = status.throttled;
	if (events->sealed > events->sealed_told)
		event_note(daemon, KVD_EVENT_SEAL, NULL, NULL, CORE_NONE, events->sealed - events->sealed_told, 0,
			   "%s", "");
	events->sealed_told = events->sealed;
}

/* ---- sending ---- */

/* False: its socket is full, or it owes an answer whose bytes come first. */
static bool send_one(struct peer *peer, struct kvd_msg_event *m)
{
	ssize_t n;

	if (peer->n_out)
		return false;
	m->lost = peer->watch.lost;
	do
		n = send(peer->source.fd, m, sizeof(*m), MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n >= 0) {
		peer->watch.lost = 0;
		return true;
	}
	if (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM)
		peer_doom(peer, "hung up");
	return false;
}

/* True: it has all there is. */
static bool pump_peer(struct peer *peer)
{
	const struct events *events = &peer->daemon->events;
	struct event_watch *watch = &peer->watch;

	if (events->n - watch->next > LIMIT_EVENTS) {
		uint64_t skipped = events->n - LIMIT_EVENTS - watch->next;

		watch->lost += (uint32_t)skipped;
		watch->next += skipped;
	}
	while (watch->next < events->n && peer->state == PEER_READY) {
		struct kvd_msg_event m = events->ring[watch->next % LIMIT_EVENTS];

		if ((watch->kinds >> m.kind & 1u) && !send_one(peer, &m))
			return false;
		watch->next++;
	}
	return true;
}

uint64_t event_pump(struct daemon *daemon, uint64_t now_usec)
{
	struct events *events = &daemon->events;
	uint64_t next_usec = CLOCK_NEVER;

	if (!events->n_watchers)
		return CLOCK_NEVER;
	if (events->told_usec + EVENT_TELL_USEC <= now_usec) {
		events->told_usec = now_usec;
		tell_counters(daemon, now_usec);
	}
	for (uint32_t i = 0; (events->pumped != events->n || events->behind) && i < daemon->peers.n_high; i++) {
		struct peer *peer = &daemon->peers.table[i];

		if (peer->watch.active && !peer->admin)
			event_unwatch(peer); /* a reload took that right away */
		if (peer->state == PEER_READY && peer->watch.active && !pump_peer(peer))
			next_usec = now_usec + EVENT_RETRY_USEC;
	}
	events->pumped = events->n;
	events->behind = next_usec != CLOCK_NEVER;
	return next_usec < events->told_usec + EVENT_TELL_USEC ? next_usec : events->told_usec + EVENT_TELL_USEC;
}
