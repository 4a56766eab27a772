/* stream_message.h - what an engine sends on a stream socket, checked. */
#ifndef CLIENT_STREAM_MESSAGE_H
#define CLIENT_STREAM_MESSAGE_H

#include <stddef.h>
#include <stdint.h>
#include "kvd/proto.h"

struct kvd_stream_message {
	uint16_t type; /* KVD_M_STARTED, _TOKENS, _END or _AGAIN; 0: unknown here, to be ignored */
	uint32_t prompt_tokens, cached_tokens;    /* STARTED */
	const int32_t *ids;        /* TOKENS: (n_ids), in the packet */
	uint32_t n_ids;
	const char *text;          /* TOKENS: (text_bytes), valid UTF-8, in the packet */
	uint32_t text_bytes;
	struct kvd_msg_end end;    /* END: text is terminated */
	uint8_t ticket[KVD_TICKET_BYTES];         /* AGAIN */
};

/* Check one packet.
 * packet       n_bytes as received, aligned to 8
 * ret_problem  on failure what is wrong with it, for a sentence
 * Returns      0 or -EPROTO */
int kvd_stream_message_parse(const void *packet, size_t n_bytes, struct kvd_stream_message *ret,
			     const char **ret_problem);

/* Whether the bytes are whole, valid UTF-8 characters. */
int kvd_utf8_is_valid(const char *text, size_t n_bytes);

#endif
