/* peer.h - one connection on the control socket.
 *
 *   FREE     -> GREETING  [peer_accept]  the kernel has said who it is; HELLO is awaited
 *   GREETING -> READY     [greet_hello]  version agreed, tenant known
 *   any      -> DOOMED    [peer_doom]    nothing is read, sent or performed for it any more
 *   DOOMED   -> FREE      [peers_reap]   socket closed, leases returned
 *
 * Dooming and reaping are two steps because a peer is often found guilty in the middle of an action
 * of the core (its socket or ring is full), where the core must not be called again. */
#ifndef KVD_PEER_H
#define KVD_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvd/event.h"
#include "kvd/limits.h"
#include "kvd/log.h"
#include "kvd/loop.h"
#include "kvd/proto.h"
#include "kvd/trace.h"

struct daemon;
struct attached;

enum peer_state { PEER_FREE = 0, PEER_GREETING, PEER_READY, PEER_DOOMED };

/* A query being answered: rows are written to a memfd in slices (admin_query.c). */
struct peer_query {
	bool active;
	int fd;
	uint32_t what, seq, cursor, row_bytes;
	uint64_t n_rows;
	/* its argument (admin_ask.c) */
	uint32_t kind, owner;      /* EXPLAIN: enum core_explain; PLAN: whose */
	uint64_t number;           /* EXPLAIN */
	struct trace_filter trace; /* TRACE */
	struct core_event evict;   /* DRY_EVICT */
};

struct peer {
	struct loop_source source; /* the socket; first member */
	struct daemon *daemon;
	enum peer_state state;
	uint32_t role;             /* enum kvd_role, 0 before HELLO */
	uint32_t version;          /* agreed */
	uint32_t uid, gid, pid;    /* who the kernel says, at connect */
	bool admin;                /* reads everything */
	bool delegate;             /* may act for any tenant */
	bool may_attach;           /* may be an engine */
	bool unlimited;            /* an administrator under its own name */
	bool counted;              /* among its tenant's connections */
	uint32_t tenant;           /* number in the core */
	char tenant_name[KVD_NAME_MAX], domain[KVD_NAME_MAX], program[KVD_NAME_MAX];
	struct attached *engine;   /* NULL: not attached */
	struct peer_query query;
	struct event_watch watch;
	uint32_t n_waits;          /* STREAM_OPENs that wait for an engine */
	uint64_t quiet_until_usec; /* over its tenant's rate: not read until then; 0: read */
	uint64_t deadline_usec;    /* HELLO until then, or room in the socket until then */
	uint32_t out_head, out_tail, n_out;  /* records + 1; 0: none */
	struct peer *next;         /* free list, doomed list */
};

struct out_record {
	uint32_t next;             /* record + 1 */
	uint16_t size;
	uint8_t n_fds;
	bool owned;                /* close the descriptors once sent or given up */
	int fds[2];
	_Alignas(8) uint8_t bytes[LIMIT_OUT_BYTES];
};

struct peers {
	struct peer *table;        /* (LIMIT_PEERS) */
	struct peer *free, *doomed;
	uint32_t n_used, n_high;   /* n_high: slots ever used, so that walks stay short */
	struct out_record *records;/* (LIMIT_OUT_RECORDS) */
	uint32_t record_free, record_high;
	uint64_t n_closed;         /* peers closed for breaking the protocol */
	struct log_limit accept_limit;
	uint64_t accept_at_usec;   /* out of descriptors, or flooded: again then; CLOCK_NEVER otherwise */
	struct log_limit limits[256];  /* by uid: a flood silences nobody else */
	struct loop_source listener;
};

int peers_open(struct daemon *daemon, int listen_fd);
void peers_close(struct daemon *daemon);
/* The connection of an engine that a killed kvd had; fd is the peer's from now on. */
struct peer *peer_adopt(struct daemon *daemon, struct attached *engine, int fd);

/* Doom whoever has run out of time; returns the next deadline. */
uint64_t peers_deadlines(struct daemon *daemon, uint64_t now_usec);
/* Close the doomed.  Only where the core may be called. */
void peers_reap(struct daemon *daemon);

/* End a peer.  why: for the log, a word or two. */
void peer_doom(struct peer *peer, const char *why);
/* The same for one that broke the protocol: told (if it listens), counted, logged. */
void peer_violation(struct peer *peer, const char *why);

/* Send a message, now or when there is room.
 * m      m->size bytes, at most LIMIT_OUT_BYTES
 * owned  the descriptors are ours to close when they are sent or given up
 * A peer that owes too much room is doomed; so nothing is returned. */
void peer_send(struct peer *peer, const struct kvd_msg *m, const int *fds, unsigned n_fds,
	       bool owned);
/* One doorbell byte.  A full socket needs none: its reader has something to wake up for. */
void peer_doorbell(struct peer *peer);
/* The answer to a request that failed: status, numbers (or 0), one sentence. */
__attribute__((format(printf, 6, 7)))
void peer_error(struct peer *peer, uint32_t request_seq, enum kvd_status status, uint64_t need,
		uint64_t have, const char *format, ...);

/* peer_out.c's part of peers_open(), of a peer's readiness and of its end. */
int peer_out_open(struct peers *peers);
void peer_out_flush(struct peer *peer);
void peer_out_drop(struct peer *peer);

/* May this peer's user write a line now?  Adds up what was dropped. */
bool peer_log_allow(struct peer *peer, uint32_t *ret_suppressed);

#endif
