/* request.c - REQUEST, REQUEST_DATA, CANCEL: parsed, bounded, never trusted.
 *
 * Runs on the engine's thread.  Knows nothing of sockets, sequences or models: what depends on
 * them (ids in range, room in the context) is checked by session.c. */
#include "engine/request.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void request_reset(struct request *r)
{
	free(r->bytes);
	memset(r, 0, sizeof(*r));
}

__attribute__((format(printf, 5, 6)))
static enum request_result refuse(uint32_t status, uint32_t *ret_status, char *err, size_t errlen,
				  const char *format, ...)
{
	va_list arguments;

	*ret_status = status;
	va_start(arguments, format);
	vsnprintf(err, errlen, format, arguments);
	va_end(arguments);
	return REQUEST_REFUSED;
}

const char *request_stop(const struct request *r, uint32_t i)
{
	const char *at = r->head.stop, *end = at + sizeof(r->head.stop);

	if (i >= r->head.n_stop)
		return NULL;
	while (i-- && at < end)
		at += strnlen(at, (size_t)(end - at)) + 1;
	/* empty or unterminated: stops_valid() has refused such a request */
	return at < end && *at && memchr(at, 0, (size_t)(end - at)) ? at : NULL;
}

static bool stops_valid(const struct request *r)
{
	if (r->head.n_stop > sizeof(r->head.stop) / 2)
		return false;
	for (uint32_t i = 0; i < r->head.n_stop; i++)
		if (!request_stop(r, i))
			return false;
	return true;
}

void request_sample_options(const struct request *r, struct sample_options *ret)
{
	*ret = (struct sample_options){
		.temperature = r->head.temperature,
		.top_p = r->head.top_p,
		.min_p = r->head.min_p,
		.repeat_penalty = r->head.repeat_penalty,
		.top_k = r->head.top_k,
		.seed = r->head.seed,
	};
}

static enum request_result take_head(struct request *r, const void *packet, size_t size,
				     uint32_t *ret_status, char *err, size_t errlen)
{
	const uint32_t known = KVD_REQ_LOGITS_HASH | KVD_REQ_PRIVATE | KVD_REQ_IGNORE_END;
	struct sample_options sample;
	const char *field;

	if (r->begun)
		return refuse(KVD_S_PROTOCOL, ret_status, err, errlen,
			      "a second REQUEST on one stream; open a stream for each request");
	if (size < sizeof(r->head))
		return refuse(KVD_S_PROTOCOL, ret_status, err, errlen,
			      "REQUEST has %zu bytes, at least %zu are needed", size,
			      sizeof(r->head));
	memcpy(&r->head, packet, sizeof(r->head));
	r->begun = true;
	if (r->head.n_bytes > REQUEST_TEXT_MAX)
		return refuse(KVD_S_BAD_REQUEST, ret_status, err, errlen,
			      "n_bytes is %u; a request's text has at most %u bytes",
			      r->head.n_bytes, REQUEST_TEXT_MAX);
	if (r->head.n_resume > REQUEST_RESUME_MAX)
		return refuse(KVD_S_BAD_REQUEST, ret_status, err, errlen,
			      "n_resume is %u; at most %u tokens can be resumed", r->head.n_resume,
			      REQUEST_RESUME_MAX);
	if (r->head.raw > 1)
		return refuse(KVD_S_BAD_REQUEST, ret_status, err, errlen,
			      "raw is %u; it is 0 (chat messages) or 1 (the prompt)", r->head.raw);
	if (r->head.flags & ~known)
		return refuse(KVD_S_BAD_REQUEST, ret_status, err, errlen,
			      "flags has unknown bits 0x%x; this engine knows 0x%x",
			      r->head.flags & ~known, known);
	request_sample_options(r, &sample);
	field = sample_options_invalid(&sample);
	if (field)
		return refuse(KVD_S_BAD_REQUEST, ret_status, err, errlen, "%s is out of range",
			      field);
	if (!stops_valid(r))
		return refuse(KVD_S_BAD_REQUEST, ret_status, err, errlen,
			      "stop does not hold %u NUL-terminated strings of 1 byte or more",
			      r->head.n_stop);
	r->n_expected = (size_t)r->head.n_bytes + (size_t)r->head.n_resume * sizeof(uint32_t);
	return r->n_expected ? REQUEST_MORE : REQUEST_COMPLETE;
}

static enum request_result take_data(struct request *r, const void *packet, size_t size,
				     uint32_t *ret_status, char *err, size_t errlen)
{
	const uint8_t *data = (const uint8_t *)packet + sizeof(struct kvd_msg_bytes);
	size_t n = size - sizeof(struct kvd_msg_bytes);

	if (!r->begun)
		return refuse(KVD_S_PROTOCOL, ret_status, err, errlen,
			      "REQUEST_DATA before REQUEST");
	if (n < 1 || n > r->n_expected - r->n_bytes)
		return refuse(KVD_S_PROTOCOL, ret_status, err, errlen,
			      "REQUEST_DATA brings %zu bytes where 1 to %zu are due", n,
			      r->n_expected - r->n_bytes);
	if (r->n_bytes + n > r->capacity) {
		/* grow by doubling what came, never by what was promised */
		size_t capacity =
			r->capacity * 2 > r->n_bytes + n ? r->capacity * 2 : r->n_bytes + n;
		uint8_t *bytes;
		if (capacity > r->n_expected)
			capacity = r->n_expected;
		bytes = realloc(r->bytes, capacity);
		if (!bytes)
			return refuse(KVD_S_LIMIT, ret_status, err, errlen,
				      "no memory for a request of %zu bytes", r->n_expected);
		r->bytes = bytes;
		r->capacity = capacity;
	}
	memcpy(r->bytes + r->n_bytes, data, n);
	r->n_bytes += n;
	return r->n_bytes == r->n_expected ? REQUEST_COMPLETE : REQUEST_MORE;
}

enum request_result request_packet(struct request *r, const void *packet, size_t size,
				   uint32_t *ret_status, char *err, size_t errlen)
{
	struct kvd_msg m;

	if (size == 1 && *(const uint8_t *)packet == 0)
		return REQUEST_MORE;       /* a doorbell rings for nothing here */
	if (size < sizeof(m))
		return refuse(KVD_S_PROTOCOL, ret_status, err, errlen,
			      "a packet of %zu bytes is shorter than a message header", size);
	memcpy(&m, packet, sizeof(m));
	if (m.size != size)
		return refuse(KVD_S_PROTOCOL, ret_status, err, errlen,
			      "a message says it has %u bytes, the packet has %zu", m.size, size);
	switch (m.type) {
	case KVD_M_REQUEST:
		return take_head(r, packet, size, ret_status, err, errlen);
	case KVD_M_REQUEST_DATA:
		return take_data(r, packet, size, ret_status, err, errlen);
	case KVD_M_CANCEL:
		return REQUEST_CANCEL;
	default:
		return refuse(KVD_S_PROTOCOL, ret_status, err, errlen,
			      "message type %u does not belong on a stream", m.type);
	}
}

const char *request_text(const struct request *r, size_t *ret_bytes)
{
	*ret_bytes = r->head.n_bytes;
	return (const char *)r->bytes;
}

uint32_t request_resume_id(const struct request *r, uint32_t i)
{
	uint32_t id;

	memcpy(&id, r->bytes + r->head.n_bytes + (size_t)i * sizeof(id), sizeof(id));
	return id;
}
