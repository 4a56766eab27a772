/* introduce.c - see introduce.h.  Owns streams' handles and the STREAM_OPENs that wait.
 * Loop thread only. */
#include "kvd/introduce.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kvd/attach.h"
#include "kvd/clock.h"
#include "kvd/daemon.h"
#include "kvd/peer.h"
#include "kvd/tenant_use.h"

int introduce_init(struct daemon *daemon)
{
	struct introduce *introduce = &daemon->introduce;

	introduce->waits = calloc(LIMIT_WAITS, sizeof(introduce->waits[0]));
	introduce->n_of_tenant = calloc(LIMIT_TENANTS, sizeof(introduce->n_of_tenant[0]));
	return introduce->waits && introduce->n_of_tenant ? 0 : -ENOMEM;
}

void introduce_adopt(struct daemon *daemon)
{
	const struct kept *kept = daemon->kept;

	for (uint32_t i = 0; i < kept->streams_high; i++)
		if (kept->streams[i].engine) {
			daemon->engines[kept->streams[i].engine - 1].n_streams++;
			daemon->introduce.n_of_tenant[kept->streams[i].tenant]++;
		}
}

void introduce_deinit(struct daemon *daemon)
{
	free(daemon->introduce.waits);
	free(daemon->introduce.n_of_tenant);
	daemon->introduce = (struct introduce){ 0 };
}

/* ---- handles: generation << 16 | index ---- */

static uint32_t stream_take(struct attached *engine, uint32_t tenant)
{
	struct daemon *daemon = engine->daemon;
	const struct kept *kept = daemon->kept;
	struct kept_stream stream;
	uint32_t index;

	if (kept->streams_free) {
		index = kept->streams_free - 1u;
		KEPT_SET(daemon, kept->streams_free, kept->streams[index].next);
	} else if (kept->streams_high < LIMIT_STREAMS) {
		index = kept->streams_high;
		KEPT_SET(daemon, kept->streams_high, index + 1);
	} else {
		return 0;
	}
	stream = kept->streams[index];
	if (++stream.generation == 0)
		stream.generation = 1; /* so that no handle is 0 */
	stream.engine = engine->number + 1;
	stream.tenant = tenant;
	stream.next = 0;
	KEPT_SET(daemon, kept->streams[index], stream);
	daemon->introduce.n_of_tenant[tenant]++;
	engine->n_streams++;
	return (uint32_t)stream.generation << 16 | index;
}

/* Does not commit: the caller's business. */
static void stream_return(struct attached *engine, uint32_t index)
{
	struct daemon *daemon = engine->daemon;
	const struct kept *kept = daemon->kept;
	struct kept_stream stream = kept->streams[index];

	assert(stream.engine == engine->number + 1 && engine->n_streams > 0);
	assert(daemon->introduce.n_of_tenant[stream.tenant] > 0);
	daemon->introduce.n_of_tenant[stream.tenant]--;
	stream.engine = 0;
	stream.next = kept->streams_free;
	KEPT_SET(daemon, kept->streams[index], stream);
	KEPT_SET(daemon, kept->streams_free, (uint16_t)(index + 1));
	engine->n_streams--;
}

static const struct kept_stream *stream_find(const struct daemon *daemon,
					     const struct attached *engine, uint32_t handle)
{
	uint32_t index = handle & 0xffff;
	const struct kept_stream *stream;

	if (index >= daemon->kept->streams_high)
		return NULL;
	stream = &daemon->kept->streams[index];
	return stream->engine == engine->number + 1 && stream->generation == handle >> 16 ? stream
											  : NULL;
}

uint32_t introduce_tenant(const struct daemon *daemon, const struct attached *engine,
			  uint32_t handle)
{
	const struct kept_stream *stream = stream_find(daemon, engine, handle);

	return stream ? stream->tenant : CORE_NONE;
}

void introduce_gone(struct peer *peer, const struct kvd_msg_client_gone *m)
{
	struct daemon *daemon = peer->daemon;
	const struct kept_stream *stream = peer->engine ? stream_find(daemon, peer->engine, m->client)
							: NULL;
	struct tenant_counters counters;

	if (!stream) {
		log_debug("stream.gone.unknown pid=%u handle=%u", peer->pid, m->client);
		return;
	}
	counters = daemon->kept->counters[stream->tenant];
	counters.prompt_tokens += m->prompt_tokens;
	counters.cached_tokens += m->cached_tokens;
	counters.completion_tokens += m->completion_tokens;
	KEPT_SET(daemon, daemon->kept->counters[stream->tenant], counters);
	stream_return(peer->engine, m->client & 0xffff);
	/* Counted once, and the handle gone: peer.c takes the message off the socket only now. */
	core_commit(daemon->core);
}

void introduce_engine_lost(struct daemon *daemon, struct attached *engine)
{
	for (uint32_t i = 0; i < daemon->kept->streams_high && engine->n_streams; i++)
		if (daemon->kept->streams[i].engine == engine->number + 1)
			stream_return(engine, i);
}

void introduce_resend(struct attached *engine, uint32_t handle, uint32_t seq)
{
	struct kvd_msg_client_new m = {
		.m = { .type = KVD_M_CLIENT_NEW, .size = sizeof(m), .seq = seq },
		.client = handle,
		.weight = 100,
	};
	int pair[2];

	if (!stream_find(engine->daemon, engine, handle))
		return;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0) {
		peer_doom(engine->peer, "no socket for a stream it must hear of");
		return;
	}
	close(pair[1]);
	peer_send(engine->peer, &m.m, &pair[0], 1, true);
}

/* ---- choosing ---- */

static bool engine_fits(const struct attached *engine, const struct kvd_msg_stream_open *m,
			uint64_t since_usec)
{
	if (engine->state != ATTACHED_LIVE || engine->draining || engine->peer->state != PEER_READY)
		return false;
	if (m->model[0] && strcmp(m->model, engine->model))
		return false;
	if (m->engine[0] && strcmp(m->engine, engine->name))
		return false;
	/* "avoid" is the engine that just died under the client; one of that name which has
	 * attached since is another engine. */
	return !m->avoid[0] || strcmp(m->avoid, engine->name) || engine->attached_usec > since_usec;
}

/* The fitting engine with the fewest streams.  *ret_ambiguous: no model was named and there are
 * two. */
static struct attached *engine_choose(struct daemon *daemon, const struct kvd_msg_stream_open *m,
				      uint64_t since_usec, const struct attached **ret_ambiguous)
{
	struct attached *best = NULL;

	*ret_ambiguous = NULL;
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		struct attached *engine = &daemon->engines[i];

		if (!engine_fits(engine, m, since_usec))
			continue;
		if (best && strcmp(best->model, engine->model))
			*ret_ambiguous = engine;
		if (!best || engine->n_streams < best->n_streams)
			best = engine;
	}
	return best;
}

/* A handle at this engine for the peer's tenant; 0: the engine has no more, and the peer is told. */
static uint32_t stream_admit(struct peer *peer, uint32_t request_seq, struct attached *engine)
{
	uint32_t handle = 0;

	if (engine->n_streams < LIMIT_STREAMS_PER_ENGINE)
		handle = stream_take(engine, peer->tenant);
	if (!handle)
		peer_error(peer, request_seq, KVD_S_LIMIT, LIMIT_STREAMS_PER_ENGINE + 1,
			   LIMIT_STREAMS_PER_ENGINE,
			   "engine %s has as many streams as it can; start another engine",
			   engine->name);
	return handle;
}

/* The client's answer: which engine, by which handle; fd: its end of a new stream, -1: it has one. */
static void answer_stream(struct peer *peer, uint32_t request_seq, const struct attached *engine, uint32_t handle,
			  int fd)
{
	struct kvd_msg_stream m = {
		.m = { .type = KVD_M_STREAM, .size = sizeof(m), .seq = request_seq },
		.client = handle,
	};

	strcpy(m.tenant, peer->tenant_name);
	strcpy(m.model, engine->model);
	strcpy(m.engine, engine->name);
	peer_send(peer, &m.m, &fd, fd >= 0, fd >= 0);
}

static void introduce_pair(struct peer *peer, const struct kvd_msg_stream_open *m,
			   struct attached *engine)
{
	struct kvd_msg_client_new to_engine = { .m = { .type = KVD_M_CLIENT_NEW,
						       .size = sizeof(to_engine) } };
	uint32_t handle;
	int pair[2];

	handle = stream_admit(peer, m->m.seq, engine);
	if (!handle)
		return;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0) {
		log_error("stream.failed error=\"%s\"", strerror(errno));
		stream_return(engine, handle & 0xffff);
		core_commit(peer->daemon->core);
		peer_error(peer, m->m.seq, KVD_S_INTERNAL, 0, 0, "kvd cannot make a stream: %s",
			   strerror(errno));
		return;
	}
	to_engine.client = handle;
	to_engine.weight = peer->daemon->uses[peer->tenant].priority;
	strcpy(to_engine.tenant, peer->tenant_name);
	log_debug("stream.open tenant=\"%s\" engine=\"%s\" handle=%u", peer->tenant_name,
		  engine->name, handle);
	attach_send(engine, &to_engine.m, (struct kept_out){ KVD_M_CLIENT_NEW, handle, 0 }, &pair[0], true);
	answer_stream(peer, m->m.seq, engine, handle, pair[1]);
}

void introduce_again(struct peer *peer, const struct kvd_msg_stream_again *m)
{
	struct kvd_msg_client_again to_engine = { .m = { .type = KVD_M_CLIENT_AGAIN,
							 .size = sizeof(to_engine) } };
	struct kvd_msg_stream_open named = { .m = m->m };
	const struct attached *other;
	struct attached *engine;
	uint32_t handle;

	if (!tenant_use_stream(peer, m->m.seq))
		return;
	strcpy(named.engine, m->engine);
	engine = m->engine[0] ? engine_choose(peer->daemon, &named, 0, &other) : NULL;
	if (!engine || engine->peer->version < 2) {
		peer_error(peer, m->m.seq, KVD_S_NO_MODEL, 0, 0,
			   "no engine %s is here to go on with its stream", m->engine);
		return;
	}
	handle = stream_admit(peer, m->m.seq, engine);
	if (!handle)
		return;
	to_engine.client = handle;
	to_engine.weight = peer->daemon->uses[peer->tenant].priority;
	memcpy(to_engine.ticket, m->ticket, sizeof(to_engine.ticket));
	strcpy(to_engine.tenant, peer->tenant_name);
	log_debug("stream.again tenant=\"%s\" engine=\"%s\" handle=%u", peer->tenant_name,
		  engine->name, handle);
	attach_send(engine, &to_engine.m, (struct kept_out){ KVD_M_CLIENT_AGAIN, handle, 0 }, NULL, false);
	answer_stream(peer, m->m.seq, engine, handle, -1);
}

/* True: answered, one way or the other. */
static bool introduce_try(struct peer *peer, const struct kvd_msg_stream_open *m,
			  uint64_t since_usec)
{
	const struct attached *other;
	struct attached *engine = engine_choose(peer->daemon, m, since_usec, &other);

	if (!engine)
		return false;
	if (other)
		peer_error(peer, m->m.seq, KVD_S_BAD_REQUEST, 0, 0,
			   "several models are served, %.60s and %.60s among "
			   "them; name one",
			   engine->model, other->model);
	else
		introduce_pair(peer, m, engine);
	return true;
}

static void answer_no_model(struct peer *peer, const struct kvd_msg_stream_open *m)
{
	if (m->engine[0])
		peer_error(peer, m->m.seq, KVD_S_NO_MODEL, 0, 0,
			   "no engine %s%s%s takes streams; see `kvctl engines`", m->engine,
			   m->model[0] ? " of model " : "", m->model);
	else if (m->model[0])
		peer_error(peer, m->m.seq, KVD_S_NO_MODEL, 0, 0,
			   "no engine serves model %s; see `kvctl engines`", m->model);
	else
		peer_error(peer, m->m.seq, KVD_S_NO_MODEL, 0, 0,
			   "no engine is attached; start kvengine");
}

void introduce_open(struct peer *peer, const struct kvd_msg_stream_open *m)
{
	struct introduce *introduce = &peer->daemon->introduce;
	struct introduce_wait *wait;
	uint64_t now_usec = clock_now_usec();
	uint32_t wait_ms = m->wait_ms < LIMIT_STREAM_WAIT_MS ? m->wait_ms : LIMIT_STREAM_WAIT_MS;

	if (!tenant_use_stream(peer, m->m.seq) || introduce_try(peer, m, now_usec))
		return;
	if (!wait_ms) {
		answer_no_model(peer, m);
		return;
	}
	if (introduce->n_waits == LIMIT_WAITS || peer->n_waits == LIMIT_WAITS_PER_PEER) {
		peer_error(peer, m->m.seq, KVD_S_LIMIT, LIMIT_WAITS_PER_PEER + 1,
			   LIMIT_WAITS_PER_PEER, "too many streams wait for an engine");
		return;
	}
	wait = &introduce->waits[introduce->n_waits++];
	*wait = (struct introduce_wait){
		.peer = peer,
		.since_usec = now_usec,
		.deadline_usec = now_usec + wait_ms * 1000ull,
		.message = *m,
	};
	peer->n_waits++;
	peer->daemon->uses[peer->tenant].waits++;
	daemon_deadline(peer->daemon, wait->deadline_usec);
}

/* Close the gap a finished wait leaves; order of arrival stays. */
static void wait_drop(struct introduce *introduce, uint32_t i)
{
	struct peer *peer = introduce->waits[i].peer;

	peer->n_waits--;
	peer->daemon->uses[peer->tenant].waits--;
	memmove(&introduce->waits[i], &introduce->waits[i + 1],
		(--introduce->n_waits - i) * sizeof(introduce->waits[0]));
}

void introduce_forget(struct daemon *daemon, struct peer *peer)
{
	for (uint32_t i = daemon->introduce.n_waits; i-- > 0 && peer->n_waits;)
		if (daemon->introduce.waits[i].peer == peer)
			wait_drop(&daemon->introduce, i);
}

uint64_t introduce_deadlines(struct daemon *daemon, uint64_t now_usec, bool engines_changed)
{
	struct introduce *introduce = &daemon->introduce;
	uint64_t next_usec = CLOCK_NEVER;

	for (uint32_t i = 0; i < introduce->n_waits;) {
		struct introduce_wait *wait = &introduce->waits[i];
		bool over = wait->deadline_usec <= now_usec;

		if ((engines_changed || over) &&
		    introduce_try(wait->peer, &wait->message, wait->since_usec)) {
			wait_drop(introduce, i);
			continue;
		}
		if (over) {
			answer_no_model(wait->peer, &wait->message);
			wait_drop(introduce, i);
			continue;
		}
		if (wait->deadline_usec < next_usec)
			next_usec = wait->deadline_usec;
		i++;
	}
	return next_usec;
}
