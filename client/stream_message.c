/* stream_message.c - the parser of an engine's messages to a client.
 *
 * Engines are separate programs, perhaps foreign ones: nothing in a packet is believed before it is
 * checked here.  Pure: reads the packet, keeps nothing.  Fuzzed by tests/fuzz/fuzz_stream.c. */
#include "client/stream_message.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

int kvd_utf8_is_valid(const char *text, size_t n_bytes)
{
	const uint8_t *p = (const uint8_t *)text, *end = p + n_bytes;
	while (p < end) {
		uint32_t code, least;
		int more;
		if (*p < 0x80) {
			p++;
			continue;
		} else if ((*p & 0xe0) == 0xc0) {
			code = *p & 0x1f, more = 1, least = 0x80;
		} else if ((*p & 0xf0) == 0xe0) {
			code = *p & 0x0f, more = 2, least = 0x800;
		} else if ((*p & 0xf8) == 0xf0) {
			code = *p & 0x07, more = 3, least = 0x10000;
		} else {
			return false;
		}
		if (end - p <= more)
			return false;
		for (int i = 1; i <= more; i++) {
			if ((p[i] & 0xc0) != 0x80)
				return false;
			code = code << 6 | (p[i] & 0x3fu);
		}
		/* Overlong forms, surrogates and what lies beyond the last plane are no characters. */
		if (code < least || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
			return false;
		p += more + 1;
	}
	return true;
}

static int parse_tokens(const struct kvd_msg_tokens *tokens, size_t n_bytes,
			struct kvd_stream_message *ret, const char **ret_problem)
{
	uint64_t room = n_bytes - sizeof(*tokens);
	uint64_t ids_bytes = (uint64_t)tokens->n_ids * sizeof(int32_t);

	if (ids_bytes + tokens->n_text > room) {
		*ret_problem = "TOKENS announces more than the packet holds";
		return -EPROTO;
	}
	ret->ids = (const int32_t *)tokens->payload;
	ret->n_ids = tokens->n_ids;
	ret->text = (const char *)tokens->payload + ids_bytes;
	ret->text_bytes = tokens->n_text;
	for (uint32_t i = 0; i < ret->n_ids; i++) {
		if (ret->ids[i] < 0) {
			*ret_problem = "TOKENS holds a negative token id";
			return -EPROTO;
		}
	}
	if (!kvd_utf8_is_valid(ret->text, ret->text_bytes)) {
		*ret_problem = "TOKENS holds text that is not whole UTF-8 characters";
		return -EPROTO;
	}
	return 0;
}

int kvd_stream_message_parse(const void *packet, size_t n_bytes, struct kvd_stream_message *ret,
			     const char **ret_problem)
{
	const struct kvd_msg *m = packet;

	ret->type = 0;
	*ret_problem = "the packet is shorter than its message";
	if (n_bytes < sizeof(*m))
		return -EPROTO;
	if (m->size != n_bytes) {
		*ret_problem = "the message's size is not the packet's";
		return -EPROTO;
	}
	if (m->type == KVD_M_STARTED) {
		const struct kvd_msg_started *started = packet;
		if (n_bytes < sizeof(*started))
			return -EPROTO;
		ret->prompt_tokens = started->prompt_tokens;
		ret->cached_tokens = started->cached_tokens;
	} else if (m->type == KVD_M_TOKENS) {
		if (n_bytes < sizeof(struct kvd_msg_tokens))
			return -EPROTO;
		if (parse_tokens(packet, n_bytes, ret, ret_problem) < 0)
			return -EPROTO;
	} else if (m->type == KVD_M_END) {
		if (n_bytes < sizeof(struct kvd_msg_end))
			return -EPROTO;
		memcpy(&ret->end, packet, sizeof(ret->end));
		ret->end.text[sizeof(ret->end.text) - 1] = '\0';
		if (!kvd_utf8_is_valid(ret->end.text, strlen(ret->end.text)))
			ret->end.text[0] = '\0';
	} else if (m->type == KVD_M_AGAIN) {
		if (n_bytes < sizeof(struct kvd_msg_again))
			return -EPROTO;
		memcpy(ret->ticket, ((const struct kvd_msg_again *)packet)->ticket, sizeof(ret->ticket));
	} else {
		return 0;   /* a newer engine may say more than we know */
	}
	ret->type = m->type;
	return 0;
}
