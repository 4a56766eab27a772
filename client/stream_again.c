/* stream_again.c - kvd was started again while an engine serves us: tell the new kvd whose the stream is.
 *
 * The stream socket leads straight to the engine and outlives kvd.  But the new kvd does not know that
 * the engine works for us, and it takes nobody's word for who a tenant is but the kernel's.  So the
 * engine sends us a ticket (AGAIN) and stops; we connect to kvd as at the beginning, where the kernel says
 * who we are, and show the ticket (STREAM_AGAIN); kvd passes it to the engine with a fresh handle, and the
 * engine goes on.  Nothing is sent again and nothing is lost.
 *
 * If that does not come about within five seconds the engine closes the stream, and it goes on like one
 * whose engine died (stream_reopen.c).  So nothing here has a deadline or fails.  Runs inside kvd_next();
 * never waits. */
#include "client/stream.h"

#include <errno.h>
#include <string.h>
#include <sys/timerfd.h>

#define RETRY_USEC 100000u         /* between two tries */
#define TICK_NSEC 20000000         /* how often a caller that polls looks again */
#define SINCE_VERSION 2u           /* of the protocol: STREAM_AGAIN */

void kvd_stream_tick_start(struct kvd_stream *s)
{
	static const struct itimerspec every_tick = {
		.it_interval = { .tv_nsec = TICK_NSEC }, .it_value = { .tv_nsec = TICK_NSEC },
	};

	/* Without a timer kvd_next() still works; only callers that poll themselves would not be
	 * woken. */
	if (s->tick_fd < 0) {
		s->tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
		if (s->tick_fd >= 0)
			(void)timerfd_settime(s->tick_fd, 0, &every_tick, NULL);
	}
}

int kvd_stream_connect(struct kvd_stream *s, uint64_t now_usec)
{
	struct kvd_connection *c = s->connection;

	if (c->state == KVD_CONNECTION_DOWN) {
		if (now_usec < s->next_try_usec)
			return -EAGAIN;
		s->next_try_usec = now_usec + RETRY_USEC;
		if (kvd_connection_start(c) < 0)
			return -EAGAIN;
	}
	(void)kvd_connection_dispatch(c);
	return c->state == KVD_CONNECTION_READY ? 0 : -EAGAIN;
}

void kvd_stream_again_begin(struct kvd_stream *s, const uint8_t ticket[KVD_TICKET_BYTES])
{
	/* A second one means that the kvd we told has died as well. */
	if (s->connection)
		kvd_connection_forget(s->connection, &s->opening);
	s->opening_posted = false;
	memcpy(s->ticket, ticket, sizeof(s->ticket));
	s->again = true;
	s->next_try_usec = 0;
	kvd_stream_tick_start(s);
}

void kvd_stream_again(struct kvd_stream *s)
{
	struct kvd_msg_stream_again again = {
		.m = { .type = KVD_M_STREAM_AGAIN, .size = sizeof(again) },
	};
	uint64_t now = kvd_clock_usec();

	if (!s->connection)
		return;            /* kvd_close() was called: nobody can speak for us any more */
	if (s->opening_posted) {
		(void)kvd_connection_dispatch(s->connection);
		if (!s->opening.done)
			return;
		s->opening_posted = false;
		s->next_try_usec = now + RETRY_USEC;
		/* Refused, or kvd gone once more: again, as long as the engine has patience. */
		if (s->opening.result == 0) {
			s->again = false;
			return;
		}
	}
	if (now < s->next_try_usec || kvd_stream_connect(s, now) < 0)
		return;
	if (s->connection->welcome.version < SINCE_VERSION) {
		kvd_stream_lose(s); /* an older kvd: it introduces us only like somebody new */
		return;
	}
	memcpy(again.engine, s->engine, sizeof(again.engine));
	memcpy(again.ticket, s->ticket, sizeof(again.ticket));
	s->opening = (struct kvd_waiter){
		.type = KVD_M_STREAM, .min_bytes = sizeof(struct kvd_msg_stream), .fds = { -1, -1 },
	};
	s->opening_posted = kvd_connection_post(s->connection, &again.m, NULL, 0, &s->opening) == 0;
	s->next_try_usec = now + RETRY_USEC;
}
