/* tenant_use.c - see tenant_use.h.  Owns daemon->uses and daemon->connects. */
#include "kvd/tenant_use.h"

#include <assert.h>

#include "kvd/clock.h"
#include "kvd/daemon.h"
#include "kvd/peer.h"

#define PROBES 16u /* slots that a uid may be in */

bool pace_allows(uint64_t *until_usec, uint64_t now_usec, uint64_t each_usec, uint64_t burst_usec)
{
	if (*until_usec < now_usec)
		*until_usec = now_usec;
	if (*until_usec + each_usec > now_usec + burst_usec)
		return false;
	*until_usec += each_usec;
	return true;
}

bool connect_allowed(struct connect_pace *pace, uint32_t uid, uint64_t now_usec)
{
	uint32_t first = uid * 2654435761u >> 20, spare = CONNECT_SLOTS; /* 12 bits */
	uint32_t slot;

	_Static_assert(CONNECT_SLOTS == 1u << 12, "the hash has 12 bits");
	for (uint32_t i = 0; i < PROBES; i++) {
		slot = (first + i) % CONNECT_SLOTS;
		if (pace->slots[slot].uid == uid && pace->slots[slot].until_usec)
			return pace_allows(&pace->slots[slot].until_usec, now_usec,
					   1000000u / LIMIT_CONNECTS_PER_SEC, LIMIT_CONNECTS_BURST_USEC);
		/* Whoever owes nothing any more is as good as new. */
		if (spare == CONNECT_SLOTS && pace->slots[slot].until_usec <= now_usec)
			spare = slot;
	}
	if (spare == CONNECT_SLOTS)
		return true;
	pace->slots[spare].uid = uid;
	pace->slots[spare].until_usec = now_usec + 1000000u / LIMIT_CONNECTS_PER_SEC;
	return true;
}

void tenant_use_configure(struct daemon *daemon, uint32_t tenant, const struct config_tenant *limits)
{
	struct tenant_use *use = &daemon->uses[tenant];

	use->connections_max = limits->connections_max;
	use->streams_max = limits->streams_max;
	use->engines_max = limits->engines_max;
	use->ops_per_sec = limits->ops_per_sec;
	use->priority = limits->priority;
}

bool tenant_use_connect(struct peer *peer, uint32_t request_seq)
{
	struct tenant_use *use = &peer->daemon->uses[peer->tenant];

	if (!peer->unlimited && use->connections >= use->connections_max) {
		peer_error(peer, request_seq, KVD_S_LIMIT, use->connections + 1ull,
			   use->connections_max,
			   "tenant %s has %u connections to kvd open and may have %u; close some "
			   "or raise max-connections",
			   peer->tenant_name, use->connections, use->connections_max);
		peer_doom(peer, "connections of its tenant");
		return false;
	}
	use->connections++;
	peer->counted = true;
	return true;
}

void tenant_use_leave(struct peer *peer)
{
	if (!peer->counted)
		return;
	assert(peer->daemon->uses[peer->tenant].connections > 0);
	peer->daemon->uses[peer->tenant].connections--;
	peer->counted = false;
}

bool tenant_use_message(struct peer *peer, uint32_t request_seq)
{
	struct tenant_use *use = &peer->daemon->uses[peer->tenant];
	uint64_t now_usec = clock_now_usec();

	if (peer->unlimited || peer->engine ||
	    pace_allows(&use->sent_until_usec, now_usec, 1000000u / use->ops_per_sec, 1000000u))
		return true;
	peer_error(peer, request_seq, KVD_S_LIMIT, use->ops_per_sec + 1ull, use->ops_per_sec,
		   "tenant %s sends more than %u messages a second to kvd; send fewer or raise "
		   "ops-rate",
		   peer->tenant_name, use->ops_per_sec);
	peer->quiet_until_usec = now_usec + LIMIT_QUIET_USEC;
	daemon_deadline(peer->daemon, peer->quiet_until_usec);
	return false;
}

bool tenant_use_question(struct peer *peer)
{
	struct tenant_use *use = &peer->daemon->uses[peer->tenant];

	return peer->admin || pace_allows(&use->asked_until_usec, clock_now_usec(), LIMIT_ASK_USEC,
					  LIMIT_ASK_BURST * LIMIT_ASK_USEC);
}

bool tenant_use_stream(struct peer *peer, uint32_t request_seq)
{
	const struct tenant_use *use = &peer->daemon->uses[peer->tenant];
	uint32_t open = peer->daemon->introduce.n_of_tenant[peer->tenant];

	if (open + use->waits < use->streams_max)
		return true;
	peer_error(peer, request_seq, KVD_S_LIMIT, open + use->waits + 1ull, use->streams_max,
		   "tenant %s has %u streams open and %u waiting and may have %u; wait for one to "
		   "end or raise max-streams",
		   peer->tenant_name, open, use->waits, use->streams_max);
	return false;
}

bool tenant_use_engine(struct peer *peer, uint32_t request_seq)
{
	const struct daemon *daemon = peer->daemon;
	uint32_t most = daemon->uses[peer->tenant].engines_max, n = 0;

	_Static_assert(CORE_ENGINES_MAX == 63, "config.def says so");
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
		n += daemon->engines[i].state == ATTACHED_LIVE && daemon->engines[i].peer->tenant == peer->tenant;
	if (peer->unlimited || n < most)
		return true;
	peer_error(
		peer, request_seq, KVD_S_LIMIT, n + 1ull, most,
		"tenant %s has %u engines attached and may have %u; end one or raise max-engines",
		peer->tenant_name, n, most);
	return false;
}
