/* dispatch.c - see dispatch.h.  Holds nothing. */
#include "kvd/dispatch.h"

#include "kvd/admin_query.h"
#include "kvd/admin_steer.h"
#include "kvd/attach.h"
#include "kvd/greet.h"
#include "kvd/introduce.h"
#include "kvd/peer.h"
#include "kvd/tenant_use.h"
#include "kvd/weights_share.h"
#include "kvd/wire.h"

void dispatch_message(struct peer *peer, const struct kvd_msg *m, int fd)
{
	const void *body = m;

	if (peer->state == PEER_READY && m->type == KVD_M_HELLO) {
		peer_violation(peer, "a second HELLO");
		return;
	}
	if (peer->state == PEER_READY && !tenant_use_message(peer, m->seq))
		return;
	switch (m->type) {
	case KVD_M_HELLO: greet_hello(peer, body); return;
	case KVD_M_ATTACH: attach_request(peer, body); return;
	case KVD_M_CLIENT_GONE: introduce_gone(peer, body); return;
	case KVD_M_ENGINE_STATS:
		if (peer->engine)
			peer->engine->stats = *(const struct kvd_msg_engine_stats *)body;
		return;
	case KVD_M_WEIGHTS_ASK: weights_share_ask(peer, body); return;
	case KVD_M_WEIGHTS_OFFER: weights_share_offer(peer, body, fd); return;
	case KVD_M_STREAM_OPEN: introduce_open(peer, body); return;
	case KVD_M_STREAM_AGAIN: introduce_again(peer, body); return;
	case KVD_M_QUERY: admin_query(peer, body); return;
	case KVD_M_STEER:
	case KVD_M_RECORD: admin_steer(peer, body, fd); return;
	}
	peer_violation(peer, "not a message that kvd takes"); /* wire.c and this list disagree */
}
