/* tenant_use.h - what each tenant may do at the control socket, and what it does: connections, messages a
 * second, streams.
 *
 * Held per tenant number of the core, so that a message costs no look-up by name.  Whoever is over a limit
 * is told so with the numbers (KVD_S_LIMIT); whoever goes on sending is not read for a tenth of a second, so
 * that a flood costs kvd as little as its sender's limit allows.  Administrators under their own name are
 * not limited: kvctl must answer when everything else is full.  Loop thread only. */
#ifndef KVD_TENANT_USE_H
#define KVD_TENANT_USE_H

#include <stdbool.h>
#include <stdint.h>

#include "kvd/config.h"

struct daemon;
struct peer;

struct tenant_use {
	uint32_t connections;
	uint32_t waits;            /* STREAM_OPENs that wait for an engine; open ones: introduce.h */
	uint64_t sent_until_usec;  /* messages: the time that all of them may take */
	uint64_t asked_until_usec; /* questions: the same */
	uint32_t connections_max, streams_max, engines_max, ops_per_sec, priority; /* of the configuration */
};

/* When users connect: exact per uid, without a limit on the number of users that are remembered wrongly:
 * a uid that finds no place among its sixteen is not paced. */
#define CONNECT_SLOTS 4096u
struct connect_pace {
	struct { uint32_t uid; uint64_t until_usec; } slots[CONNECT_SLOTS];
};

/* May the user open another connection now? */
bool connect_allowed(struct connect_pace *pace, uint32_t uid, uint64_t now_usec);

/* A tenant's numbers follow the configuration. */
void tenant_use_configure(struct daemon *daemon, uint32_t tenant, const struct config_tenant *limits);

/* A peer that has said HELLO becomes a connection of its tenant; false: refused and told. */
bool tenant_use_connect(struct peer *peer, uint32_t request_seq);
void tenant_use_leave(struct peer *peer);

/* A message of a peer that is no engine; false: refused, told, and not read for a while. */
bool tenant_use_message(struct peer *peer, uint32_t request_seq);

/* A question of a peer without rights: ten a second, twenty at once. */
bool tenant_use_question(struct peer *peer);

/* Has the tenant room for one more stream, open or waiting?  False: told. */
bool tenant_use_stream(struct peer *peer, uint32_t request_seq);

/* May the tenant attach one more engine?  False: told. */
bool tenant_use_engine(struct peer *peer, uint32_t request_seq);

/* Token bucket in time: may something that takes each_usec happen, with burst_usec saved up? */
bool pace_allows(uint64_t *until_usec, uint64_t now_usec, uint64_t each_usec, uint64_t burst_usec);

#endif
