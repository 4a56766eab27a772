/* attach.h - engines: from ATTACH to the moment when nothing of them can touch a frame any more.
 *
 *   FREE  -> LIVE   [attach_answer]   the core has taken it; it has its segments
 *   LIVE  -> DYING  [attach_hangup]   its socket closed; the core has taken its leases back and
 *   holds
 *                                     its frames in quarantine
 *   DYING -> FREE   [attach_flushed]  its pidfd was readable and the mover has answered a flush
 *
 * Of a killed kvd's engines, the LIVE ones are taken over as LIVE and `switching` until they use the new
 * tables, the DYING ones as DYING (adopt_engine.c). */
#ifndef KVD_ATTACH_H
#define KVD_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

#include "kvd/core/core.h"
#include "kvd/kept.h"
#include "kvd/loop.h"
#include "kvd/ring.h"
#include "kvd/segment.h"

struct daemon;
struct peer;

enum attached_state { ATTACHED_FREE = 0, ATTACHED_LIVE, ATTACHED_DYING };

struct attached {
	enum attached_state state;
	struct daemon *daemon;
	const struct kept_engine *kept; /* what the book has of it */
	struct peer *peer;         /* LIVE only */
	uint32_t number;           /* in the core, and place in daemon->engines */
	char name[KVD_NAME_MAX], model[KVD_NAME_MAX];
	uint8_t fingerprint[16];
	uint32_t uid, pid;
	struct loop_source process;/* the pidfd: readable when the process has ended */
	struct segment segment;
	struct ring ring;
	struct loop_source bell;   /* its sq_tail, where kvd waits for words (doorbell.c) */
	bool rung;                 /* a doorbell has come */
	bool gone;                 /* the process has ended, the flush is under way */
	bool draining;
	bool alarmed;
	bool switching;            /* taken over; it computes from the tables of the killed kvd yet */
	uint32_t n_streams;        /* introduced and not reported gone */
	uint64_t attached_usec, hung_up_usec;
	uint64_t switch_usec;      /* switching: until then it must have switched */
	struct kvd_msg_engine_stats stats;
};

/* Send a numbered message (proto.h, kvd_msg.seq), now or when there is room; the book knows of it until
 * the socket has it.  fd: one to go with it, NULL: none; see peer_send(). */
void attach_send(struct attached *engine, struct kvd_msg *m, struct kept_out out, const int *fd, bool owned);
/* peer_out.c: the socket has taken this message. */
void attach_sent(struct attached *engine, const struct kvd_msg *m);
/* Its process: the pidfd is engine->process.fd.  Watch it. */
int attach_watch(struct attached *engine);
/* Names of the bundle of what kvd keeps of an engine. */
void attach_forget(struct attached *engine, bool process_too);

/* An ATTACH: check it, make the segments, ask the core.  Answers the peer. */
void attach_request(struct peer *peer, const struct kvd_msg_attach *m);
/* CORE_ACT_ATTACHED, during attach_request(). */
void attach_answer(struct daemon *daemon, const struct core_action *action);
/* The engine's socket has closed. */
void attach_hangup(struct attached *engine);
/* The mover has answered the flush for a dead engine. */
void attach_flushed(struct daemon *daemon, uint32_t number);
/* Alarm for processes that hung up and do not end; returns the next deadline. */
uint64_t attach_deadlines(struct daemon *daemon, uint64_t now_usec);

/* submit.c: take what the engines have submitted, each within its budget. */
void submit_all(struct daemon *daemon);

void attach_close_all(struct daemon *daemon);

#endif
