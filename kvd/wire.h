/* wire.h - is this packet a message of the protocol?
 *
 * Everything a peer sends passes wire_check() before anyone looks at a field: size, type,
 * direction, number of descriptors, every string terminated and printable.  What it lets through is
 * well-formed; whether it makes sense (ranges, rights) is its handler's business. */
#ifndef KVD_WIRE_H
#define KVD_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvd/proto.h"

/* Check a packet of n bytes, 8-byte aligned, that came with n_fds descriptors.
 * role     enum kvd_role of the peer, 0 before its HELLO
 * ret_why  on failure one sentence for the log and the peer
 * Returns  0, or -EPROTO: the peer broke the protocol. */
int wire_check(const void *packet, size_t n, uint32_t n_fds, uint32_t role, const char **ret_why);

/* "HELLO"; "?" for a number that stands for no message. */
const char *wire_name(uint16_t type);

/* At most max-1 printable ASCII characters, then NUL: no quote or backslash (the log quotes), no
 * blank at either end.  May be empty. */
bool wire_text_valid(const char *text, size_t max);

/* A name of an engine or model: wire_text_valid() and not empty. */
static inline bool wire_name_valid(const char *text)
{
	return text[0] != '\0' && wire_text_valid(text, KVD_NAME_MAX);
}

#endif
