/* admin_steer.h - KVD_M_STEER: what an administrator does to a running kvd; admin.def is the list. */
#ifndef KVD_ADMIN_STEER_H
#define KVD_ADMIN_STEER_H

#include <stdint.h>

#include "kvd/core/core.h"
#include "kvd/proto.h"

struct daemon;
struct peer;

/* A pressure trigger of the core and who is told. */
struct steer_trigger {
	struct peer *peer;         /* NULL: free */
	uint64_t threshold_usec, window_usec;
};

/* fd: the socket of a RECORD, else -1; stays the caller's. */
void admin_steer(struct peer *peer, const struct kvd_msg_steer *m, int fd);
/* CORE_ACT_PRESSURE: tell whose trigger it is. */
void admin_steer_pressure(struct daemon *daemon, const struct core_action *action);
/* A peer is going: so are its triggers.  Only where the core may be called. */
void admin_steer_forget(struct peer *peer);

#endif
