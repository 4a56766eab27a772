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
#include <unistd.h>

#define RECOVER_USEC 10000000u     /* for an engine, and */
#define KVD_WAIT_USEC 60000000u    /* for kvd, as kvd.h promises */
#define RETRY_USEC 100000u         /* between two questions */
#define TRY_WAIT_MS 1000u          /* how long one question may wait inside kvd */

static uint64_t recover_request_deadline(const struct kvd_stream *s)
{
	return s->head.deadline_ms > 0 ? s->asked_usec + s->head.deadline_ms * UINT64_C(1000) : KVD_NEVER;
}

/* Until when an engine is looked for that has to come first.  A kvd that is missing has longer, and
 * the engines have their time from when it is back. */
static void recover_set_deadline(struct kvd_stream *s, uint64_t now)
{
	uint64_t until = now + RECOVER_USEC, kvd_until = s->lost_usec + KVD_WAIT_USEC;

	if (until > kvd_until)
		until = kvd_until;
	s->recover_deadline_usec = until < recover_request_deadline(s) ? until : recover_request_deadline(s);
}

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
static int recover_late(struct kvd_stream *s, uint64_t now)
{
	if (s->head.deadline_ms > 0 && now >= recover_request_deadline(s)) {
		s->state = KVD_STREAM_FAILED;
		s->failure = KVD_S_DEADLINE;
		return kvd_fail(s->error, s->failure,
				"engine %s died and the request's deadline of %u ms passed before "
				"another took the stream; is kvd at %s up, with an engine of model %s?",
				s->engine, s->head.deadline_ms, s->connection->path, s->model);
	}
	if (s->connection->state == KVD_CONNECTION_READY)
		return recover_fail(s, NULL);
	s->state = KVD_STREAM_FAILED;
	s->failure = -ENOTCONN;
	return kvd_fail(s->error, s->failure,
			"kvd at %s ended while it served the stream and none has answered there "
			"for %u s; start kvd, then ask again",
			s->connection->path, KVD_WAIT_USEC / 1000000u);
}

void kvd_stream_lose(struct kvd_stream *s)
{
	uint64_t now = kvd_clock_usec();

	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	if (s->connection)
		kvd_connection_forget(s->connection, &s->opening);
	s->state = KVD_STREAM_LOST;
	s->opening_posted = s->again = false;
	if (!s->recovering) {
		s->recovering = true;
		s->lost_usec = now;
		recover_set_deadline(s, now);
		s->next_try_usec = 0;
		s->n_tries = 0;
	} else {
		s->next_try_usec = now + RETRY_USEC;
	}
	kvd_stream_tick_start(s);
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
	uint64_t now = kvd_clock_usec();

	if (!s->connection)
		return recover_fail(s, "its connection to kvd was closed");
	if (s->opening_posted) {
		(void)kvd_connection_dispatch(s->connection); /* a failure is in the waiter */
		if (s->opening.done)
			return recover_answer(s, now);
	}
	if (now >= s->recover_deadline_usec) {
		kvd_connection_forget(s->connection, &s->opening);
		return recover_late(s, now);
	}
	if (s->opening_posted)
		return -EAGAIN;
	if (kvd_stream_connect(s, now) < 0) {
		recover_set_deadline(s, now);
		return -EAGAIN;
	}
	if (now < s->next_try_usec)
		return -EAGAIN;
	const char *avoid = s->n_tries++ % 2 == 0 ? s->engine : "";
	s->opening_posted = kvd_stream_open_post(s, s->model, "", avoid, TRY_WAIT_MS) == 0;
	s->next_try_usec = now + RETRY_USEC;
	return -EAGAIN;
}
