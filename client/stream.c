/* stream.c - kvd_next(): chunks of one generation, over the deaths of its engines.
 *
 *   SENDING -> RUNNING  [kvd_stream_request_push]   the engine has all of the prompt
 *   SENDING,
 *   RUNNING -> LOST     [kvd_stream_lose]           hang-up without END
 *   RUNNING    stays so when kvd dies; if the engine asks, we name ourselves to the next (stream_again.c)
 *   LOST    -> SENDING  [kvd_stream_open_accept]    another engine; the request goes again, with
 * the ids so far
 *   LOST    -> FAILED   [stream_reopen.c]           nobody within the deadline
 *   any     -> ENDED    [stream_end]                END delivered
 *   any     -> FAILED   [stream_break]              the engine broke the protocol
 *
 * What was delivered once is not delivered again: an engine that resumes emits only what follows
 * the ids it was given.  Totals of a stream with several engines are this file's own counts, since
 * the last engine saw only its part.  One thread; waits only in kvd_next(). */
#include "client/stream.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IDS_MAX (1u << 24)         /* no context is longer; an engine that sends more is broken */
#define LOOK_AGAIN_USEC 20000u     /* while an engine is looked for */

/* The engine broke the protocol: nothing more is taken from it. */
static int stream_break(struct kvd_stream *s, const char *problem)
{
	(void)kvd_cancel(s);
	s->state = KVD_STREAM_FAILED;
	s->failure = KVD_S_PROTOCOL;
	return kvd_fail(s->error, s->failure, "engine %s broke the protocol: %s", s->engine,
			problem);
}

/* The first message of an engine that took over. */
static void stream_recovered(struct kvd_stream *s)
{
	if (!s->recovering)
		return;
	s->recovering = false;
	s->resumed++;
}

static int stream_keep_ids(struct kvd_stream *s, const int32_t *ids, uint32_t n_ids)
{
	if (n_ids > IDS_MAX - s->n_ids)
		return stream_break(s, "it sent more tokens than any context holds");
	if (s->n_ids + n_ids > s->ids_max) {
		uint32_t room = s->ids_max ? s->ids_max : 256;
		while (room < s->n_ids + n_ids)
			room *= 2;
		int32_t *grown = realloc(s->ids, room * sizeof(*grown));
		if (!grown) {
			(void)kvd_cancel(s);
			s->state = KVD_STREAM_FAILED;
			s->failure = -ENOMEM;
			return kvd_fail(s->error, -ENOMEM, "not enough memory for %u tokens",
					s->n_ids + n_ids);
		}
		s->ids = grown;
		s->ids_max = room;
	}
	memcpy(s->ids + s->n_ids, ids, n_ids * sizeof(*ids));
	s->n_ids += n_ids;
	return 0;
}

static void stream_end(struct kvd_stream *s, const struct kvd_msg_end *end, struct kvd_chunk *ret)
{
	s->end = *end;
	if (s->resumed > 0) {
		uint64_t now = kvd_clock_usec();
		s->end.completion_tokens = s->n_ids;
		s->end.total_usec = now - s->asked_usec;
		if (s->first_token_usec > 0)
			s->end.ttft_usec = (uint32_t)(s->first_token_usec - s->asked_usec);
		if (s->started) {
			s->end.prompt_tokens = s->prompt_tokens;
			s->end.cached_tokens = s->cached_tokens;
		}
		/* The last engine has not computed all positions: no hash is better than a wrong
		 * one. */
		s->end.logits_hash = 0;
	}
	s->state = KVD_STREAM_ENDED;
	ret->kind = KVD_CHUNK_END;
	ret->end = &s->end;
	ret->resumed = s->resumed;
}

/* An END of our own, for a stream that was cancelled and has no engine to say it. */
static void stream_end_cancelled(struct kvd_stream *s, struct kvd_chunk *ret)
{
	struct kvd_msg_end end = {
		.m = { .type = KVD_M_END, .size = sizeof(end), .status = KVD_S_CANCELLED },
		.finish = KVD_FINISH_CANCEL,
		.prompt_tokens = s->prompt_tokens,
		.cached_tokens = s->cached_tokens,
		.completion_tokens = s->n_ids,
		.total_usec = kvd_clock_usec() - s->asked_usec,
	};
	if (s->first_token_usec > 0)
		end.ttft_usec = (uint32_t)(s->first_token_usec - s->asked_usec);
	snprintf(end.text, sizeof(end.text), "%s", kvd_status_text(KVD_S_CANCELLED));
	stream_end(s, &end, ret);
}

/* One packet of the engine.  0: ret is a chunk; -EAGAIN: nothing for the caller in it. */
static int stream_take(struct kvd_stream *s, size_t n_bytes, struct kvd_chunk *ret)
{
	struct kvd_stream_message message;
	const char *problem;

	if (kvd_stream_message_parse(s->packet, n_bytes, &message, &problem) < 0)
		return stream_break(s, problem);
	if (message.type == 0)
		return -EAGAIN;
	stream_recovered(s);
	if (message.type == KVD_M_END) {
		stream_end(s, &message.end, ret);
		return 0;
	}
	if (message.type == KVD_M_AGAIN) {
		kvd_stream_again_begin(s, message.ticket);
		return -EAGAIN;
	}
	if (message.type == KVD_M_STARTED) {
		if (s->started)
			return -EAGAIN;   /* an engine that took over admits the prompt once more */
		s->started = true;
		ret->kind = KVD_CHUNK_STARTED;
		ret->prompt_tokens = s->prompt_tokens = message.prompt_tokens;
		ret->cached_tokens = s->cached_tokens = message.cached_tokens;
		return 0;
	}
	if (message.n_ids == 0 && message.text_bytes == 0)
		return -EAGAIN;
	if (s->first_token_usec == 0)
		s->first_token_usec = kvd_clock_usec();
	int r = stream_keep_ids(s, message.ids, message.n_ids);
	if (r != 0)
		return r;
	ret->kind = KVD_CHUNK_TOKENS;
	ret->ids = message.ids;
	ret->n_ids = message.n_ids;
	ret->text = message.text;
	ret->text_bytes = message.text_bytes;
	return 0;
}

/* What can be done now.  0: ret is a chunk; -EAGAIN: wait; else the stream has failed. */
static int stream_step(struct kvd_stream *s, struct kvd_chunk *ret)
{
	for (;;) {
		struct kvd_packet packet;
		int r;

		if (s->state == KVD_STREAM_FAILED)
			return s->failure;
		if (s->state == KVD_STREAM_ENDED)
			return kvd_fail(s->error, KVD_S_STALE,
					"the stream has ended; open another");
		if (s->state == KVD_STREAM_LOST) {
			if (s->cancelled) {
				stream_end_cancelled(s, ret);
				return 0;
			}
			r = kvd_stream_recover(s);
			if (r != 0)
				return r;
		}
		if (s->state == KVD_STREAM_SENDING)
			(void)kvd_stream_request_push(s); /* its end is seen below, by receiving */
		if (s->again)
			kvd_stream_again(s);
		if (s->state == KVD_STREAM_LOST)
			continue;
		r = kvd_packet_receive(s->fd, s->packet, sizeof(s->packet), &packet);
		if (r == -EAGAIN)
			return r;
		if (r == -EPROTO)
			return stream_break(s, "a packet is too long or carries descriptors");
		if (r < 0) {
			kvd_stream_lose(s);
			continue;
		}
		kvd_packet_close_fds(&packet);
		r = stream_take(s, packet.bytes, ret);
		if (r != -EAGAIN)
			return r;
	}
}

/* Wait until stream_step() may have something to do, at most until the deadline. */
static int stream_wait(struct kvd_stream *s, uint64_t deadline_usec)
{
	uint64_t look_again_usec = kvd_clock_usec() + LOOK_AGAIN_USEC;

	if (s->again && look_again_usec < deadline_usec)
		deadline_usec = look_again_usec;
	if (s->state == KVD_STREAM_LOST) {
		uint64_t until = look_again_usec < deadline_usec ? look_again_usec : deadline_usec;
		return kvd_wait_until(s->opening_posted ? s->connection->fd : -1, POLLIN, until);
	}
	return kvd_wait_until(s->fd, s->state == KVD_STREAM_SENDING ? POLLIN | POLLOUT : POLLIN,
			      deadline_usec);
}

int kvd_next(struct kvd_stream *s, int timeout_ms, struct kvd_chunk *ret)
{
	uint64_t deadline_usec =
		timeout_ms < 0 ? KVD_NEVER : kvd_clock_usec() + (uint64_t)timeout_ms * 1000u;

	*ret = (struct kvd_chunk){ 0 };
	if (s->tick_fd >= 0) {
		uint64_t expirations;
		ssize_t n = read(s->tick_fd, &expirations, sizeof(expirations));
		(void)n;           /* so that it is readable again only after its next tick */
	}
	for (;;) {
		int r = stream_step(s, ret);
		if (r != -EAGAIN)
			return r;
		if (kvd_clock_usec() >= deadline_usec)
			return -EAGAIN;
		r = stream_wait(s, deadline_usec);
		if (r < 0) {
			s->state = KVD_STREAM_FAILED;
			s->failure = r;
			return kvd_fail(s->error, r, "cannot wait for engine %s: %s", s->engine,
					strerror(-r));
		}
	}
}
