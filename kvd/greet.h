/* greet.h - HELLO: who is it, what may it, what is it told. */
#ifndef KVD_GREET_H
#define KVD_GREET_H

#include "kvd/proto.h"

struct peer;

void greet_hello(struct peer *peer, const struct kvd_msg_hello *m);
/* What the peer may do by the running configuration; its tenant stays. */
void greet_rights(struct peer *peer);

#endif
