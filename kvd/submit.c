/* submit.c - from an engine's ring to the core: one submission, one event.
 *
 * The copy made by ring_take() is all that is looked at.  A client handle becomes a tenant number
 * here; tokens are copied once into the daemon's own buffer.  What the verb means is the core's
 * business, including what is wrong with it. */
#include "kvd/attach.h"

#include <errno.h>

#include "kvd/daemon.h"
#include "kvd/introduce.h"
#include "kvd/peer.h"

/* Which tokens does the submission speak of?  n = 0: none. */
static void tokens_of(const struct kvd_sqe *sqe, uint64_t *ret_first, uint64_t *ret_n)
{
	*ret_first = *ret_n = 0;
	switch (sqe->verb) {
	case KVD_SEQ_OPEN:
	case KVD_SEQ_RESUME: *ret_n = sqe->n_tokens; break;
	case KVD_SEQ_SEAL:
		*ret_first = (uint64_t)sqe->page * KVD_PAGE_TOKENS;
		*ret_n = (uint64_t)sqe->count * KVD_PAGE_TOKENS;
		break;
	}
}

static void submit_one(struct attached *engine, const struct kvd_sqe *sqe)
{
	struct daemon *daemon = engine->daemon;
	struct core_event event;
	uint64_t first, n;

	event.type = CORE_EV_SUBMIT;
	event.engine = engine->number;
	event.submit.sqe = *sqe;
	event.submit.tenant = CORE_NONE;
	/* A stale handle is CORE_NONE: the core refuses it, so that every submission is one of its steps. */
	if (sqe->verb == KVD_SEQ_OPEN)
		event.submit.tenant = introduce_tenant(daemon, engine, sqe->tenant);
	tokens_of(sqe, &first, &n);
	/* A range outside the row is passed on as no tokens: the core refuses it. */
	if (!ring_copy_tokens(&engine->ring, sqe->slot, first, n, daemon->tokens))
		n = 0;
	event.submit.tokens = n ? daemon->tokens : NULL;
	event.submit.n_tokens = (uint32_t)n;
	/* Consumed in the step in which it has its effect; the engine may use its place afterwards. */
	KEPT_SET(daemon, engine->kept->sq_head, engine->ring.sq_head);
	if (sqe->verb == KVD_SEQ_SEAL)
		daemon->events.sealed += sqe->count;
	daemon_event(daemon, &event);
	ring_consumed(&engine->ring);
}

void submit_all(struct daemon *daemon)
{
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		struct attached *engine = &daemon->engines[i];

		engine->rung = false;
		for (unsigned n = 0; n < LIMIT_SUBMISSIONS_PER_ROUND; n++) {
			struct kvd_sqe sqe;
			int r;

			if (engine->state != ATTACHED_LIVE || engine->peer->state != PEER_READY)
				break;
			r = ring_take(&engine->ring, &sqe);
			if (r == 0)
				break;
			if (r < 0) {
				peer_violation(engine->peer, "submission ring index jumped");
				break;
			}
			submit_one(engine, &sqe);
		}
	}
}
