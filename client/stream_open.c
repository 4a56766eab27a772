/* stream_open.c - a stream's beginning: ask kvd for an engine, send the request.
 *
 * Creates and frees struct kvd_stream.  kvd_generate() waits: until the request's deadline, else wait_ms
 * plus KVD_CALL_USEC, for kvd to be there and to answer, and for the engine as long as it keeps taking the
 * prompt. */
#include "client/stream.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* An engine that takes no byte of a prompt for so long is stuck: it reads its sockets every step. */
#define SEND_STALL_USEC 10000000u
/* Engines attach to a new kvd within a quarter of a second of its start; a busy machine is slower. */
#define ATTACH_USEC 10000000u
#define ANSWER_USEC 500000u        /* kvd says "nobody came" so much after the time is over, or is stuck */

static int stream_name(char field[KVD_NAME_MAX], const char *name)
{
	size_t n = name ? strlen(name) : 0;
	if (n >= KVD_NAME_MAX)
		return -ENAMETOOLONG;
	memset(field, 0, KVD_NAME_MAX);
	memcpy(field, name ? name : "", n);
	return 0;
}

int kvd_stream_open_post(struct kvd_stream *s, const char *model, const char *engine,
			 const char *avoid, uint32_t wait_ms)
{
	struct kvd_msg_stream_open open = {
		.m = { .type = KVD_M_STREAM_OPEN, .size = sizeof(open) }, .wait_ms = wait_ms,
	};
	if (stream_name(open.model, model) < 0 || stream_name(open.engine, engine) < 0 ||
	    stream_name(open.avoid, avoid) < 0)
		return kvd_fail(
			s->connection->error, KVD_S_NO_MODEL,
			"a model's or engine's name has at most %u bytes; see `kvctl engines`",
			KVD_NAME_MAX - 1);
	s->opening = (struct kvd_waiter){
		.type = KVD_M_STREAM, .n_fds_max = 1, .min_bytes = sizeof(struct kvd_msg_stream),
		.fds = { -1, -1 },
	};
	return kvd_connection_post(s->connection, &open.m, NULL, 0, &s->opening);
}

int kvd_stream_open_accept(struct kvd_stream *s)
{
	const struct kvd_msg_stream *stream = (const struct kvd_msg_stream *)s->opening.reply;

	s->fd = s->opening.fds[0];
	s->opening.fds[0] = -1;
	if (s->fd < 0)
		return KVD_S_PROTOCOL;
	memcpy(s->model, stream->model, sizeof(s->model));
	memcpy(s->engine, stream->engine, sizeof(s->engine));
	s->model[sizeof(s->model) - 1] = '\0';
	s->engine[sizeof(s->engine) - 1] = '\0';
	kvd_stream_request_begin(s);
	return 0;
}

/* Send the whole request.  An engine that goes away meanwhile is kvd_next()'s matter: it may have
 * said why, and if not the request goes to another one. */
static int generate_send(struct kvd_stream *s)
{
	for (;;) {
		uint64_t sent = s->n_sent;
		int r = kvd_stream_request_push(s);
		if (r != -EAGAIN)
			return 0;
		if (s->n_sent == sent) {
			r = kvd_wait_until(s->fd, POLLOUT, kvd_clock_usec() + SEND_STALL_USEC);
			if (r <= 0)
				return kvd_fail(
					s->connection->error, r < 0 ? r : -ETIMEDOUT,
					"engine %s takes no more of the prompt; is it stopped?",
					s->engine);
		}
	}
}

/* Ask once.  patience_usec: no longer than this. */
static int generate_ask(struct kvd_stream *s, const char *model, const char *engine, uint32_t wait_ms,
			uint64_t patience_usec)
{
	struct kvd_connection *c = s->connection;
	int r = kvd_connection_ready(c, patience_usec);

	if (r != 0)
		return r;
	uint64_t now = kvd_clock_usec(), left_ms = patience_usec > now ? (patience_usec - now) / 1000u : 0;
	/* The engines of a kvd that was started a moment ago attach to it a moment later. */
	if (c->back_usec > 0 && now - c->back_usec < ATTACH_USEC && wait_ms < ATTACH_USEC / 1000u)
		wait_ms = ATTACH_USEC / 1000u;
	if (wait_ms > left_ms)
		wait_ms = (uint32_t)left_ms;
	r = kvd_stream_open_post(s, model, engine, "", wait_ms);
	uint64_t answer_usec = now + wait_ms * 1000ull + KVD_CALL_USEC;
	if (answer_usec > patience_usec + ANSWER_USEC)
		answer_usec = patience_usec + ANSWER_USEC;
	return r == 0 ? kvd_connection_wait(c, &s->opening, answer_usec) : r;
}

/* Ask until an engine is there or the time is over: asking twice opens nothing twice, since a stream
 * whose answer was lost ends with the socket in it. */
static int generate_open(struct kvd_stream *s, const char *model, const char *engine, uint32_t wait_ms)
{
	struct kvd_connection *c = s->connection;
	uint32_t deadline_ms = s->head.deadline_ms;
	uint64_t now = kvd_clock_usec();
	uint64_t patience_usec =
		deadline_ms > 0 ? now + deadline_ms * 1000ull : now + wait_ms * 1000ull + KVD_CALL_USEC;
	int r;

	s->asked_usec = now;
	do
		r = generate_ask(s, model, engine, wait_ms, patience_usec);
	while (kvd_connection_result_is_gone(r) && kvd_connection_pause(patience_usec));
	/* kvd was asked to wait for whole milliseconds. */
	if (r == KVD_S_NO_MODEL && deadline_ms > 0 && kvd_clock_usec() + 1000u >= patience_usec)
		return kvd_fail(c->error, KVD_S_DEADLINE, "the deadline of %u ms passed: %.300s",
				deadline_ms, s->opening.text);
	if (r != 0)
		return r;
	if (kvd_stream_open_accept(s) != 0)
		return kvd_fail(c->error, KVD_S_PROTOCOL,
				"kvd introduced an engine without a socket; see its log");
	return 0;
}

int kvd_generate(struct kvd_connection *c, const char *model, const char *engine, uint32_t wait_ms,
		 const struct kvd_request *request, struct kvd_stream **ret)
{
	struct kvd_stream *s = calloc(1, sizeof(*s));

	*ret = NULL;
	c->error[0] = '\0';
	if (!s)
		return kvd_fail(c->error, -ENOMEM, "not enough memory for a stream");
	s->fd = s->tick_fd = s->opening.fds[0] = -1;
	s->connection = c;
	s->next = c->streams;
	c->streams = s;
	int r = kvd_stream_request_set(s, request, c->error);
	if (r == 0)
		r = generate_open(s, model, engine, wait_ms);
	if (r == 0)
		r = generate_send(s);
	if (r != 0) {
		kvd_stream_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

int kvd_cancel(struct kvd_stream *s)
{
	struct kvd_msg cancel = { .type = KVD_M_CANCEL, .size = sizeof(cancel), .seq = 2 };

	if (s->state == KVD_STREAM_ENDED || s->state == KVD_STREAM_FAILED)
		return 0;
	s->cancelled = true;
	/* Half a request can only be taken back whole; the hang-up says it, kvd_next() makes the END. */
	if (s->state == KVD_STREAM_SENDING)
		kvd_stream_lose(s);
	if (s->state == KVD_STREAM_LOST)
		return 0;
	int r = kvd_packet_send(s->fd, &cancel, sizeof(cancel), NULL, 0);
	/* A full socket: the engine is reading a long prompt of ours and cannot stop in its middle.
	 * Closing the stream is what stops it then; a socket that is gone has been stopped already. */
	if (r == -EAGAIN)
		return kvd_fail(s->error, r,
				"engine %s is still reading the prompt; close the stream to cancel",
				s->engine);
	return r == -ENOTCONN ? 0 : r;
}

void kvd_stream_orphan_all(struct kvd_connection *c)
{
	while (c->streams) {
		struct kvd_stream *s = c->streams;
		c->streams = s->next;
		s->next = NULL;
		kvd_connection_forget(c, &s->opening);
		s->connection = NULL;
	}
}

void kvd_stream_close(struct kvd_stream *s)
{
	if (!s)
		return;
	(void)kvd_cancel(s);
	if (s->connection) {
		kvd_connection_forget(s->connection, &s->opening);
		for (struct kvd_stream **p = &s->connection->streams; *p; p = &(*p)->next) {
			if (*p == s) {
				*p = s->next;
				break;
			}
		}
	}
	if (s->opening.fds[0] >= 0)
		close(s->opening.fds[0]);
	if (s->fd >= 0)
		close(s->fd);
	if (s->tick_fd >= 0)
		close(s->tick_fd);
	free(s->text);
	free(s->ids);
	free(s);
}

int kvd_stream_fd(const struct kvd_stream *s)
{
	/* While an engine is looked for, or takes a long prompt again, or kvd is told of us, there are
	 * several things to wait for; a timer stands for all of them. */
	if (s->tick_fd >= 0 &&
	    (s->state == KVD_STREAM_LOST || s->state == KVD_STREAM_SENDING || s->again))
		return s->tick_fd;
	return s->fd;
}

const char *kvd_stream_engine(const struct kvd_stream *s)
{
	return s->engine;
}

const char *kvd_stream_error(const struct kvd_stream *s)
{
	return s->error;
}
