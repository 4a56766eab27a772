/* connection.h - the control socket to kvd, for clients and engines: hello, requests, replies.
 *
 * Requests and replies are matched by number, so that several may be under way: a stream that looks
 * for a new engine must not stop a query on the same connection.  Messages that answer nothing (an
 * engine gets many) go to the unsolicited hook. */
#ifndef CLIENT_CONNECTION_H
#define CLIENT_CONNECTION_H

#include <stdbool.h>
#include <sys/un.h>
#include "client/packet.h"
#include "kvd/kvd.h"
#include "kvd/proto.h"

#define KVD_CALL_USEC 5000000u /* longest wait for an answer that needs no waiting on kvd's side */
#define KVD_REPLY_MAX 512u         /* bytes kept of a reply; the longest we know is 264 */
#define KVD_ERROR_MAX 512u

/* One request that waits for its reply. */
struct kvd_waiter {
	struct kvd_waiter *next;
	uint32_t seq;              /* number of the request */
	uint16_t type;             /* the reply we want; ERROR is always understood */
	uint16_t n_fds_max;        /* descriptors it may carry, <= 2; others break the protocol */
	uint32_t min_bytes;        /* sizeof of the reply as this version knows it */
	bool linked;
	bool done;
	int result;                /* when done: 0, KVD_S_* or -errno */
	int fds[2];                /* when done with 0: ours to close, -1 = did not come */
	char text[KVD_ERROR_MAX];  /* when done with anything else: the sentence */
	_Alignas(8) uint8_t reply[KVD_REPLY_MAX];
};

enum kvd_connection_state {
	KVD_CONNECTION_DOWN = 0,   /* no socket */
	KVD_CONNECTION_GREETING,   /* HELLO sent, WELCOME not yet here */
	KVD_CONNECTION_READY,
};

struct kvd_connection {
	enum kvd_connection_state state;
	enum kvd_role role;
	int fd;                    /* -1 when DOWN */
	bool was_away;             /* kvd was not to be reached, or we were connected before */
	uint64_t back_usec;        /* when it was there again; 0: it was never away */
	uint32_t last_seq;         /* number of the last request on this socket */
	struct kvd_waiter *waiters;
	struct kvd_waiter greeting;
	struct kvd_event_queue *events; /* admin.c's, NULL: nobody watches */
	struct kvd_stream *streams;/* they tell us when they go, we tell them (stream.h) */
	/* Takes a message that answers no request; may take descriptors from packet. Nonzero closes
	 * the connection with that -errno.  NULL: such messages are ignored. */
	int (*unsolicited)(void *arg, const struct kvd_msg *m, struct kvd_packet *packet);
	void *unsolicited_arg;
	struct kvd_msg_welcome welcome;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	char program[KVD_NAME_MAX], tenant[KVD_NAME_MAX];
	char error[KVD_ERROR_MAX];
	_Alignas(8) uint8_t packet[KVD_MSG_MAX];
};

/* Keep a sentence; returns result, so that a failure is one statement. */
int kvd_fail(char error[KVD_ERROR_MAX], int result, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Allocate a connection and settle its names; nothing is sent.  As kvd_connect() for ret. */
int kvd_connection_new(enum kvd_role role, const char *path, const char *program,
		       const char *tenant, struct kvd_connection **ret);
/* Connect and greet, waiting 5 s at most. */
int kvd_connection_open(struct kvd_connection *c);
/* The same, and try again until the deadline while kvd cannot be reached or does not answer.  One try is
 * made in any case. */
int kvd_connection_open_until(struct kvd_connection *c, uint64_t deadline_usec);
/* Be READY: look whether kvd is still there and connect again, as _open_until(), if it was restarted
 * meanwhile. */
int kvd_connection_ready(struct kvd_connection *c, uint64_t deadline_usec);
/* Whether a result means that kvd was not there, so that asking the next one makes sense. */
bool kvd_connection_result_is_gone(int result);
/* Pause before asking again.  Returns 0 without pausing where the deadline is over, else 1. */
int kvd_connection_pause(uint64_t deadline_usec);
/* kvd_connection_open() without waiting: connect and send HELLO; kvd_connection_dispatch() does the rest.
 * Only when DOWN.  -EAGAIN: kvd's backlog is full, try again. */
int kvd_connection_start(struct kvd_connection *c);

/* Send a request, m = its header; its number is filled in.  waiter may be NULL (no reply expected),
 * else its type, n_fds_max and min_bytes are set and the rest is ours until it is done or
 * forgotten. */
int kvd_connection_post(struct kvd_connection *c, struct kvd_msg *m, const int *fds, uint32_t n_fds,
			struct kvd_waiter *waiter);
/* Take everything that has come.  -ENOTCONN, -EPROTO: the connection is DOWN now and all that
 * waited are done with that. */
int kvd_connection_dispatch(struct kvd_connection *c);
/* Wait for one reply; on failure the sentence is in c->error. */
int kvd_connection_wait(struct kvd_connection *c, struct kvd_waiter *waiter,
			uint64_t deadline_usec);
/* Post and wait. */
int kvd_connection_call(struct kvd_connection *c, struct kvd_msg *m, const int *fds, uint32_t n_fds,
			struct kvd_waiter *waiter, uint64_t deadline_usec);
/* No longer wait; a late reply is dropped and its descriptors closed. */
void kvd_connection_forget(struct kvd_connection *c, struct kvd_waiter *waiter);
/* Close the socket; all that waited are done with result. */
void kvd_connection_down(struct kvd_connection *c, int result);

#endif
