/* dispatch.h - one message, one handler. */
#ifndef KVD_DISPATCH_H
#define KVD_DISPATCH_H

#include "kvd/proto.h"

struct peer;

/* m has passed wire_check().  fd: the descriptor it came with or -1; stays the caller's. */
void dispatch_message(struct peer *peer, const struct kvd_msg *m, int fd);

#endif
