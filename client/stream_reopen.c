/* stream_reopen.c - an engine died: find another, and ask it to go on where the first one stopped.
 *
 * Every step here is short, so that kvd_next(s, 0) keeps its word: post a STREAM_OPEN, look whether
 * its answer is here, try again a little later.  kvd may have died too; then it is looked for
 * first. Turns are taken between "any engine but the dead one" (kvd may not have noticed its death)
 * and
 * "any engine" (the dead one may have been started again under its old name). */
#include "client/stream.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define RECOVER_USEC 10000000u     /* as kvd.h promises */
#define RETRY_USEC 100000u         /* between two questions */
#define TICK_NSEC 20000000         /* how often a caller that polls looks again */
#define TRY_WAIT_MS 1000u          /* how long one question may wait inside kvd */

/* Give up.  why: kvd's sentence, or NULL. */
static int recover_fail(struct kvd_stream *s, const char *why)
{
	s->state = KVD_STREAM_FAILED;
	s->failure = KVD_S_ENGINE_LOST;
	if (why && *why)
		return kvd_fail(s->error, s->failure,
				"engine %s died and the stream cannot go on: %.300s", s->engine,
				why);
	return kvd_fail(
		s->error, s->failure,
		"engine %s died and within %u s no other engine of model %s took the stream; start one",
		s->engine, RECOVER_USEC / 1000000u, s->model);
}

/* Nobody took the stream in time: is it kvd that is missing, or an engine? */
static int recover_late(struct kvd_stream *s)
{
	if (s->connection->state == KVD_CONNECTION_READY)
		return recover_fail(s, NULL);
	s->state = KVD_STREAM_FAILED;
	s->failure = -ENOTCONN;
	return kvd_fail(s->error, s->failure,
			"kvd at %s ended while it served the stream and none has answered there "
			"for %u s; start kvd, then ask again",
			s->connection->path, RECOVER_USEC / 1000000u);
}

void kvd_stream_lose(struct kvd_stream *s)
{
	static const struct itimerspec every_tick = {
		.it_interval = { .tv_nsec = TICK_NSEC }, .it_value = { .tv_nsec = TICK_NSEC },
	};

	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	s->state = KVD_STREAM_LOST;
	s->opening_posted = false;
	if (!s->recovering) {
		s->recovering = true;
		s->recover_deadline_usec = kvd_clock_usec() + RECOVER_USEC;
		s->next_try_usec = 0;
		s->n_tries = 0;
	} else {
		s->next_try_usec = kvd_clock_usec() + RETRY_USEC;
	}
	/* Without a timer kvd_next() still works; only callers that poll themselves would not be
	 * woken. */
	if (s->tick_fd < 0) {
		s->tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
		if (s->tick_fd >= 0)
			(void)timerfd_settime(s->tick_fd, 0, &every_tick, NULL);
	}
}

/* Try to have a connection to kvd.  0: READY; -EAGAIN: later. */
static int recover_connection(struct kvd_stream *s, uint64_t now)
{
	struct kvd_connection *c = s->connection;

	if (c->state == KVD_CONNECTION_DOWN) {
		if (now < s->next_try_usec)
			return -EAGAIN;
		s->next_try_usec = now + RETRY_USEC;
		if (kvd_connection_start(c) < 0)
			return -EAGAIN;
	}
	(void)kvd_connection_dispatch(c);
	return c->state == KVD_CONNECTION_READY ? 0 : -EAGAIN;
}

/* The answer to our question is here.  0: an engine has the stream; -EAGAIN: ask again later. */
static int recover_answer(struct kvd_stream *s, uint64_t now)
{
	s->opening_posted = false;
	s->next_try_usec = now + RETRY_USEC;
	switch (s->opening.result) {
	case 0:
		return kvd_stream_open_accept(s) == 0 ? 0 : -EAGAIN;
	case KVD_S_NO_MODEL: case KVD_S_ENGINE_LOST: case KVD_S_DRAINING: case KVD_S_LIMIT:
		return -EAGAIN;
	default:
		return s->opening.result < 0 ? -EAGAIN : recover_fail(s, s->opening.text);
	}
}

int kvd_stream_recover(struct kvd_stream *s)
{
	uint64_t now = kvd_clock_usec(), expirations;

	if (s->tick_fd >= 0 && read(s->tick_fd, &expirations, sizeof(expirations)) < 0 &&
	    errno != EAGAIN)
		return recover_fail(s, strerror(errno));
	if (!s->connection)
		return recover_fail(s, "its connection to kvd was closed");
	if (s->opening_posted) {
		(void)kvd_connection_dispatch(s->connection); /* a failure is in the waiter */
		if (s->opening.done)
			return recover_answer(s, now);
	}
	if (now >= s->recover_deadline_usec) {
		kvd_connection_forget(s->connection, &s->opening);
		return recover_late(s);
	}
	if (s->opening_posted || now < s->next_try_usec || recover_connection(s, now) < 0)
		return -EAGAIN;
	const char *avoid = s->n_tries++ % 2 == 0 ? s->engine : "";
	s->opening_posted = kvd_stream_open_post(s, s->model, "", avoid, TRY_WAIT_MS) == 0;
	s->next_try_usec = now + RETRY_USEC;
	return -EAGAIN;
}
