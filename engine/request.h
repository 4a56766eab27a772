/* request.h - packets of a stream socket put together into one request.
 *
 * Pure parsing: no socket, no clock.  Whatever the bytes say, memory grows only with bytes that
 * really came, up to REQUEST_BYTES_MAX. */
#ifndef ENGINE_REQUEST_H
#define ENGINE_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/sample.h"
#include "kvd/proto.h"

/* Text of one request: half a million tokens of English. */
#define REQUEST_TEXT_MAX (2u << 20)
#define REQUEST_RESUME_MAX (1u << 20)      /* token ids of n_resume */

struct request {
	struct kvd_msg_request head;   /* our copy, validated */
	uint8_t *bytes;                /* (n_bytes) came so far: text, then resume ids */
	size_t n_bytes, n_expected, capacity;
	bool begun;                    /* head is valid */
};

enum request_result {
	REQUEST_MORE = 0,          /* taken; go on */
	REQUEST_COMPLETE,          /* the whole request is here */
	REQUEST_CANCEL,            /* the client wants it to stop */
	REQUEST_REFUSED,           /* a field is invalid: end with *ret_status and the sentence */
};

/* Take one packet.
 * ret_status, err  KVD_S_* and one sentence naming the field; set on REQUEST_REFUSED only */
enum request_result request_packet(struct request *r, const void *packet, size_t size,
				   uint32_t *ret_status, char *err, size_t errlen);
/* Free the bytes; r may be used again. */
void request_reset(struct request *r);

/* Parts of a complete request. */
const char *request_text(const struct request *r, size_t *ret_bytes);
/* Resume id i, 0 <= i < head.n_resume; any 32-bit value may come. */
uint32_t request_resume_id(const struct request *r, uint32_t i);
void request_sample_options(const struct request *r, struct sample_options *ret);
/* Stop string i, NUL-terminated, not empty; NULL for i >= head.n_stop. */
const char *request_stop(const struct request *r, uint32_t i);

#endif
