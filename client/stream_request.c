/* stream_request.c - a request, checked and sent, as often as engines die.
 *
 * Owns the copies in struct kvd_stream of the request's text and stop strings.  Sending never
 * blocks: a long prompt goes in parts as the engine takes them. */
#include "client/stream.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define KNOWN_FLAGS (KVD_REQ_LOGITS_HASH | KVD_REQ_PRIVATE | KVD_REQ_IGNORE_END)
/* Half a packet: two fit into the smallest socket buffer that Linux gives. */
#define DATA_BYTES (KVD_MSG_MAX / 2u - (uint32_t)sizeof(struct kvd_msg)) /* a multiple of 4 */

static int request_set_stops(struct kvd_stream *s, const struct kvd_request *q,
			     char error[KVD_ERROR_MAX])
{
	size_t used = 0;
	for (uint32_t i = 0; i < q->n_stop; i++) {
		size_t n = q->stop && q->stop[i] ? strlen(q->stop[i]) : 0;
		if (n == 0)
			return kvd_fail(error, KVD_S_BAD_REQUEST,
					"stop string %u is empty; leave it out", i + 1);
		if (used + n + 1 > sizeof(s->head.stop))
			return kvd_fail(error, KVD_S_BAD_REQUEST,
					"the stop strings, a byte more each, are longer than the "
					"%zu bytes that a request holds; give fewer or shorter ones",
					sizeof(s->head.stop));
		memcpy(s->head.stop + used, q->stop[i], n + 1);
		used += n + 1;
	}
	s->head.n_stop = q->n_stop;
	return 0;
}

int kvd_stream_request_set(struct kvd_stream *s, const struct kvd_request *q,
			   char error[KVD_ERROR_MAX])
{
	if (!q->text && q->text_bytes > 0)
		return kvd_fail(error, KVD_S_BAD_REQUEST, "the request has no text");
	if (q->text_bytes > UINT32_MAX)
		return kvd_fail(error, KVD_S_BAD_REQUEST,
				"the prompt has %zu bytes, at most %u can be sent", q->text_bytes,
				UINT32_MAX);
	if (!(q->temperature >= 0.0f) || !isfinite(q->temperature))
		return kvd_fail(error, KVD_S_BAD_REQUEST, "temperature %g is not a number >= 0",
				q->temperature);
	if (!(q->top_p > 0.0f && q->top_p <= 1.0f))
		return kvd_fail(error, KVD_S_BAD_REQUEST, "top_p %g is not above 0 and at most 1",
				q->top_p);
	if (!(q->min_p >= 0.0f && q->min_p <= 1.0f))
		return kvd_fail(error, KVD_S_BAD_REQUEST, "min_p %g is not between 0 and 1",
				q->min_p);
	if (!(q->repeat_penalty > 0.0f) || !isfinite(q->repeat_penalty))
		return kvd_fail(error, KVD_S_BAD_REQUEST,
				"repeat_penalty %g is not a number above 0", q->repeat_penalty);
	if (q->flags & ~KNOWN_FLAGS)
		return kvd_fail(error, KVD_S_BAD_REQUEST,
				"request flags %#x are unknown to libkvd %s",
				q->flags & ~KNOWN_FLAGS, kvd_version());
	s->head = (struct kvd_msg_request){
		.m = { .type = KVD_M_REQUEST, .size = sizeof(s->head), .seq = 1 },
		.n_bytes = (uint32_t)q->text_bytes, .raw = q->raw != 0, .max_tokens = q->max_tokens,
		.temperature = q->temperature, .top_p = q->top_p, .min_p = q->min_p,
		.repeat_penalty = q->repeat_penalty, .top_k = q->top_k, .flags = q->flags,
		.seed = q->seed, .deadline_ms = q->deadline_ms,
	};
	int r = request_set_stops(s, q, error);
	if (r != 0)
		return r;
	s->text = malloc(q->text_bytes + 1);
	if (!s->text)
		return kvd_fail(error, -ENOMEM, "not enough memory for a prompt of %zu bytes",
				q->text_bytes);
	if (q->text_bytes > 0)
		memcpy(s->text, q->text, q->text_bytes);
	return 0;
}

void kvd_stream_request_begin(struct kvd_stream *s)
{
	uint64_t now = kvd_clock_usec();
	if (s->asked_usec == 0)
		s->asked_usec = now;
	s->head_sent = false;
	s->n_sent = 0;
	s->n_resume = s->n_ids;
	s->state = KVD_STREAM_SENDING;
}

/* The header as it goes now: a later engine gets what is left of the deadline. */
static int request_push_head(struct kvd_stream *s)
{
	struct kvd_msg_request head = s->head;
	uint64_t past_ms = (kvd_clock_usec() - s->asked_usec) / 1000u;

	head.n_resume = s->n_resume;
	if (head.deadline_ms > 0)
		head.deadline_ms =
			past_ms < head.deadline_ms ? head.deadline_ms - (uint32_t)past_ms : 1;
	int r = kvd_packet_send(s->fd, &head, sizeof(head), NULL, 0);
	s->head_sent = r == 0;
	return r;
}

int kvd_stream_request_push(struct kvd_stream *s)
{
	uint64_t ids_bytes = (uint64_t)s->n_resume * sizeof(int32_t);
	uint64_t total = s->head.n_bytes + ids_bytes;
	struct {
		struct kvd_msg m;
		uint8_t bytes[DATA_BYTES];
	} data;
	int r;

	if (!s->head_sent && (r = request_push_head(s)) < 0)
		return r;
	while (s->n_sent < total) {
		/* A packet holds text or ids, never both, so that ids stay whole. */
		bool in_text = s->n_sent < s->head.n_bytes;
		const uint8_t *from = in_text ? (const uint8_t *)s->text + s->n_sent :
				      (const uint8_t *)s->ids + (s->n_sent - s->head.n_bytes);
		uint64_t n = (in_text ? s->head.n_bytes : total) - s->n_sent;
		if (n > DATA_BYTES)
			n = DATA_BYTES;
		data.m = (struct kvd_msg){
			.type = KVD_M_REQUEST_DATA,
			.size = (uint32_t)(sizeof(data.m) + n),
			.seq = 1,
		};
		memcpy(data.bytes, from, n);
		r = kvd_packet_send(s->fd, &data, data.m.size, NULL, 0);
		if (r < 0)
			return r;
		s->n_sent += n;
	}
	s->state = KVD_STREAM_RUNNING;
	return 0;
}
