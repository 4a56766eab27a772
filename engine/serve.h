/* serve.h - the clients' streams: a request comes in, STARTED, TOKENS and END go out.
 *
 * Nothing here blocks.  A stream whose client does not read is paused by itself; one whose client
 * breaks the protocol, goes away or sleeps too long is ended by itself. */
#ifndef ENGINE_SERVE_H
#define ENGINE_SERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/kvlink.h"
#include "engine/prompt.h"
#include "engine/request.h"
#include "engine/sched.h"
#include "engine/session.h"
#include "engine/wait.h"
#include "kvd/engine.h"

#define SERVE_STREAMS_MAX 1024u
#define SERVE_NO_SLOT UINT32_MAX
#define SERVE_TAG_FIRST 16u        /* wait tags below belong to engine.c */

/* See serve.c for who makes each move. */
enum stream_state {
	STREAM_FREE = 0,
	STREAM_READING,            /* its request is coming */
	STREAM_WAITING,            /* has a session, waits for a slot */
	STREAM_RUNNING,            /* has a slot */
	STREAM_LINGERING,          /* END is sent or waits to be; the client hangs up next */
	STREAM_CLOSED,             /* socket closed; its slot is being given back */
};

struct stream {
	enum stream_state state;
	int fd;
	uint64_t tag;              /* in wait.h; never used twice */
	uint32_t client;           /* kvd's handle; 0: this kvd does not know the client yet */
	uint32_t tenant;           /* index in sched */
	uint64_t ticket;           /* order of arrival */
	uint32_t slot;             /* in kvlink; SERVE_NO_SLOT: none; WAITING: on its way back (turns.h) */
	uint64_t slot_usec;        /* RUNNING: since when */
	uint32_t n_cached;         /* of the prompt, when it was first admitted */
	struct request request;
	struct session *session;   /* WAITING, RUNNING */
	uint64_t received_usec;    /* the request's first packet */
	uint64_t deadline_usec;    /* of the request; 0: none */
	uint64_t patience_usec;    /* READING: complete by then; LINGERING: client gone by then */
	uint8_t again_ticket[KVD_TICKET_BYTES];    /* what AGAIN shows the client, the same for the stream's life */
	bool ticketed;             /* again_ticket is made */
	bool again_kept;           /* an AGAIN is in pending */
	uint64_t again_usec;       /* without handle at an attached engine: closed then; 0: not waiting */
	uint64_t blocked_usec;     /* since when the client's socket is full; 0: it is not */
	bool started;              /* STARTED was sent */
	bool more;                 /* not read to its end in the last turn */
	uint8_t *pending;          /* (n_pending) packets not yet taken, each after a u32 length */
	uint32_t n_pending;
	struct kvd_msg_client_gone totals;
};

struct serve_counters {            /* since start */
	uint64_t prompt_tokens, cached_tokens, completion_tokens;
};

struct serve {
	struct wait *wait;
	struct sched *sched;
	struct kvlink *link;
	const struct prompt_maker *prompts;
	struct kvd_engine *engine;
	struct stream *streams;    /* (SERVE_STREAMS_MAX) */
	uint32_t *active;          /* (n_active) indexes of streams that are not FREE */
	uint32_t n_active;
	uint32_t n_ctx, n_vocab;
	int32_t *prompt_ids;       /* (n_ctx) scratch */
	uint8_t *packet;           /* (KVD_MSG_MAX) scratch */
	uint64_t next_tag, next_ticket;
	struct serve_counters counters;
	bool draining;             /* new requests are refused */
};

/* All pointers stay the caller's and outlive serve. */
int serve_init(struct serve *v, struct wait *wait, struct sched *sched, struct kvlink *link,
	       const struct prompt_maker *prompts, uint32_t n_ctx, uint32_t n_vocab);
/* Closes all sockets without END: clients go on in another engine. */
void serve_deinit(struct serve *v);

/* A new client; takes over client->fd. */
void serve_accept(struct serve *v, const struct kvd_engine_client *client, uint64_t now_usec);
/* kvd is gone: its handles mean nothing any more.  The streams stay. */
void serve_lost(struct serve *v);
/* It does not come back: close all streams without END, so that libkvd looks for another engine. */
void serve_give_up(struct serve *v, const char *why);
/* There is a new kvd: ask the clients to name themselves to it. */
void serve_attached(struct serve *v, uint64_t now_usec);
/* One has.  A RUNNING stream's sequence is opened again. */
void serve_introduced(struct serve *v, const struct kvd_engine_again *again, uint64_t now_usec);
/* An event of wait.h with a tag >= SERVE_TAG_FIRST. */
void serve_event(struct serve *v, const struct wait_event *event, uint64_t now_usec);
/* Go on reading where a turn's limit was reached; end what waited too long; forget CLOSED streams
 * whose slot is given back (slot == SERVE_NO_SLOT, which engine.c sets).
 * Returns true if there is more to read at once. */
bool serve_tick(struct serve *v, uint64_t now_usec);
/* Earliest time at which serve_tick() has something to end; UINT64_MAX: none. */
uint64_t serve_next_usec(const struct serve *v);

/* The waiting stream that goes first by fairness, NULL if none waits. */
struct stream *serve_next_waiting(struct serve *v);
/* A RUNNING stream gives its slot back and waits for another. */
void serve_step_aside(struct serve *v, struct stream *s);
/* Close a stream without END: libkvd takes the request to another engine. */
void serve_drop(struct serve *v, struct stream *s, const char *why);
/* Take no new streams; drop those that have no slot yet. */
void serve_drain(struct serve *v);
/* May its sequence be computed now? */
static inline bool serve_may_run(const struct stream *s)
{
	return s->state == STREAM_RUNNING && !s->blocked_usec;
}
/* How many streams have or wait for a slot. */
void serve_count(const struct serve *v, uint32_t *ret_running, uint32_t *ret_waiting);

/* Tell the client.  A stream that ends here is LINGERING afterwards and has no session. */
void serve_started(struct serve *v, struct stream *s, uint32_t n_cached, uint64_t now_usec);
void serve_tokens(struct serve *v, struct stream *s, const int32_t *ids, uint32_t n_ids,
		  const char *text, uint32_t n_text, uint64_t now_usec);
/* status  KVD_S_*; finish KVD_FINISH_*; text: the sentence where status is not OK */
void serve_end(struct serve *v, struct stream *s, uint32_t status, uint32_t finish,
	       const char *text, uint64_t now_usec);

#endif
