/* greet.h - HELLO: version, role, rights, tenant. */
#ifndef KVD_GREET_H
#define KVD_GREET_H

#include "kvd/proto.h"

struct peer;

void greet_hello(struct peer *peer, const struct kvd_msg_hello *m);

#endif
