/* stream.h - one generation, inside libkvd. */
#ifndef CLIENT_STREAM_H
#define CLIENT_STREAM_H

#include <stdbool.h>
#include "client/connection.h"
#include "client/stream_message.h"
#include "kvd/kvd.h"

enum kvd_stream_state {
	KVD_STREAM_LOST = 0,       /* no engine: one is being looked for (stream_reopen.c) */
	KVD_STREAM_SENDING,        /* an engine; the request is not yet sent completely */
	KVD_STREAM_RUNNING,        /* the engine has the request */
	KVD_STREAM_ENDED,          /* END was delivered */
	KVD_STREAM_FAILED,         /* kvd_next() said so; it will say the same again */
};

struct kvd_stream {
	struct kvd_stream *next;              /* in connection->streams */
	struct kvd_connection *connection;    /* NULL once kvd_close() was called */
	enum kvd_stream_state state;
	int failure;                          /* FAILED: what kvd_next() returns */
	int fd;                               /* the stream socket, -1 when LOST */
	char model[KVD_NAME_MAX], engine[KVD_NAME_MAX];

	/* The request as it was asked, kept so that it can be asked again. */
	struct kvd_msg_request head;
	char *text;                           /* (head.n_bytes) */
	int32_t *ids;                         /* (n_ids) delivered so far, room for ids_max */
	uint32_t n_ids, ids_max;
	uint64_t n_sent;                      /* SENDING: bytes sent of text and resumed ids */
	uint32_t n_resume;                    /* SENDING: ids that go with this sending */
	bool head_sent;

	uint64_t asked_usec;                  /* when the caller asked */
	uint64_t first_token_usec;            /* when the first ids came, 0: none yet */
	bool started;                         /* STARTED was delivered */
	bool cancelled;
	uint32_t prompt_tokens, cached_tokens;
	int resumed;                          /* engine deaths survived */

	/* Between an engine's death and the first message of the next one. */
	bool recovering;
	uint64_t lost_usec, recover_deadline_usec;
	uint64_t next_try_usec;
	uint32_t n_tries;
	struct kvd_waiter opening;            /* our STREAM_OPEN or STREAM_AGAIN, while posted */
	bool opening_posted;
	bool again;                           /* the engine waits until kvd knows us again */
	uint8_t ticket[KVD_TICKET_BYTES];     /* to name the stream by */
	int tick_fd;                          /* what callers poll meanwhile; -1: not yet needed */

	struct kvd_msg_end end;
	char error[KVD_ERROR_MAX];
	_Alignas(8) uint8_t packet[KVD_MSG_MAX];
};

/* The connection is about to be freed. */
void kvd_stream_orphan_all(struct kvd_connection *c);

/* ---- stream_request.c ---- */
/* Check a request and put it into s. Returns 0, KVD_S_BAD_REQUEST or -ENOMEM with a sentence in
 * error. */
int kvd_stream_request_set(struct kvd_stream *s, const struct kvd_request *request,
			   char error[KVD_ERROR_MAX]);
/* Begin sending it to s->fd, with all ids so far. */
void kvd_stream_request_begin(struct kvd_stream *s);
/* Send as much as goes now.  0: all is sent, RUNNING; -EAGAIN; -errno: the engine is gone. */
int kvd_stream_request_push(struct kvd_stream *s);

/* ---- stream_open.c ---- */
/* Post a STREAM_OPEN; the reply comes to s->opening. */
int kvd_stream_open_post(struct kvd_stream *s, const char *model, const char *engine,
			 const char *avoid, uint32_t wait_ms);
/* Take the stream out of a good reply: s->fd, names; SENDING.  KVD_S_PROTOCOL if it has no socket. */
int kvd_stream_open_accept(struct kvd_stream *s);

/* ---- stream_reopen.c ---- */
/* The engine died. */
void kvd_stream_lose(struct kvd_stream *s);
/* LOST: go on looking for another engine, without waiting.  0: SENDING; -EAGAIN; else FAILED. */
int kvd_stream_recover(struct kvd_stream *s);

/* ---- stream_again.c ---- */
/* AGAIN came: kvd was started again and the engine needs a handle for us. */
void kvd_stream_again_begin(struct kvd_stream *s, const uint8_t ticket[KVD_TICKET_BYTES]);
/* Go on naming ourselves to kvd, without waiting. */
void kvd_stream_again(struct kvd_stream *s);
/* A timer for callers that poll kvd_stream_fd() while there are several things to wait for. */
void kvd_stream_tick_start(struct kvd_stream *s);
/* Try to have a connection to kvd, without waiting.  0: READY; -EAGAIN: later. */
int kvd_stream_connect(struct kvd_stream *s, uint64_t now_usec);

#endif
