/* attach.c - see attach.h.  Owns an engine's segments and its pidfd.  Loop thread only.
 *
 * A closed socket is the engine's death for everybody who waits for it; but its process may still
 * run and write into frames it has mapped, so those come back only when the kernel says that the
 * process is gone (pidfd) and the mover has nothing left in flight for it. */
#include "kvd/attach.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kvd/clock.h"
#include "kvd/daemon.h"
#include "kvd/doorbell.h"
#include "kvd/event.h"
#include "kvd/introduce.h"
#include "kvd/mover_link.h"
#include "kvd/peer.h"
#include "kvd/process.h"
#include "kvd/tenant_use.h"
#include "kvd/weights_share.h"
#include "kvd/wire.h"

/* Ranges of an ATTACH; answers the peer when one is wrong. */
static bool request_valid(struct peer *peer, const struct kvd_msg_attach *m,
			  struct segment_shape *ret_shape)
{
	uint32_t seq = m->m.seq;

	if (!peer->may_attach)
		peer_error(peer, seq, KVD_S_REFUSED, 0, 0,
			   "uid %u may not attach engines; run it as the user of kvd, "
			   "or write [engine] uid = %u in kvd.conf, or put it into group kvengine",
			   peer->uid, peer->uid);
	else if (peer->daemon->device_lost)
		peer_error(peer, seq, KVD_S_REFUSED, 0, 0, "the device is lost (%.80s); reset it and restart kvd",
			   peer->daemon->device.text);
	else if (peer->engine)
		peer_error(peer, seq, KVD_S_STALE, 0, 0, "this connection is engine %s already",
			   peer->engine->name);
	else if (!wire_name_valid(m->name) || !wire_name_valid(m->model) ||
		 !wire_name_valid(m->numerics))
		peer_error(peer, seq, KVD_S_BAD_REQUEST, 0, 0,
			   "an engine needs a name, a model and a numerics id");
	else if (m->page_tokens != KVD_PAGE_TOKENS)
		peer_error(peer, seq, KVD_S_GEOMETRY, m->page_tokens, KVD_PAGE_TOKENS,
			   "pages of %u tokens; this kvd has pages of %u", m->page_tokens,
			   KVD_PAGE_TOKENS);
	else if (!m->n_planes || !m->block_bytes || !m->layout || !m->kv_format ||
		 m->kv_format > 15)
		peer_error(peer, seq, KVD_S_BAD_REQUEST, 0, 0,
			   "geometry with a zero or a format above 15");
	else if (!m->max_seqs || m->max_seqs > LIMIT_SLOTS)
		peer_error(peer, seq, KVD_S_LIMIT, m->max_seqs, LIMIT_SLOTS,
			   "%u slots; 1 to %u are allowed", m->max_seqs, LIMIT_SLOTS);
	else if (!m->max_pages || m->max_pages > LIMIT_MAX_PAGES)
		peer_error(peer, seq, KVD_S_LIMIT, m->max_pages, LIMIT_MAX_PAGES,
			   "%u pages a sequence; 1 to %u are allowed, lower --ctx", m->max_pages,
			   LIMIT_MAX_PAGES);
	else if (m->sq_entries < LIMIT_SQ_ENTRIES_MIN || m->sq_entries > LIMIT_SQ_ENTRIES_MAX ||
		 (m->sq_entries & (m->sq_entries - 1)))
		peer_error(peer, seq, KVD_S_LIMIT, m->sq_entries, LIMIT_SQ_ENTRIES_MAX,
			   "ring of %u entries; a power of two from %u to %u is allowed",
			   m->sq_entries, LIMIT_SQ_ENTRIES_MIN, LIMIT_SQ_ENTRIES_MAX);
	else if (segment_shape(m->sq_entries, m->max_seqs, m->max_pages, ret_shape) < 0)
		peer_error(peer, seq, KVD_S_LIMIT, ret_shape->sub_bytes, LIMIT_SEGMENT_BYTES,
			   "token rows of %u slots x %u pages are larger than kvd shares; lower "
			   "--max-seqs or --ctx",
			   m->max_seqs, m->max_pages);
	else
		return true;
	return false;
}

void attach_request(struct peer *peer, const struct kvd_msg_attach *m)
{
	struct daemon *daemon = peer->daemon;
	struct attach_pending *pending = &daemon->attaching;
	struct segment_shape shape;
	struct core_event event;
	int r, pidfd;

	if (!request_valid(peer, m, &shape) || !tenant_use_engine(peer, m->m.seq))
		return;
	pidfd = process_of_socket(peer->source.fd);
	if (pidfd < 0) {
		peer_error(peer, m->m.seq, KVD_S_REFUSED, 0, 0,
			   "kvd cannot watch this process (%s); run engine and kvd "
			   "in one pid namespace",
			   strerror(-pidfd));
		return;
	}
	/* Everything that can fail for lack of memory comes before the core says yes. */
	r = segment_open(&shape, &pending->segment);
	if (r < 0) {
		close(pidfd);
		peer_error(peer, m->m.seq, KVD_S_LIMIT, shape.sub_bytes + shape.comp_bytes, 0,
			   "no memory for the rings: %s", strerror(-r));
		return;
	}
	pending->peer = peer;
	pending->pidfd = pidfd;
	pending->message = m;
	event.type = CORE_EV_ATTACH;
	event.engine = CORE_NONE;
	memset(&event.attach, 0, sizeof(event.attach));
	strcpy(event.attach.name, m->name);
	strcpy(event.attach.model, m->model);
	strcpy(event.attach.numerics, m->numerics);
	memcpy(event.attach.fingerprint, m->fingerprint, sizeof(event.attach.fingerprint));
	event.attach.layout = m->layout;
	event.attach.kv_format = m->kv_format;
	event.attach.n_planes = m->n_planes;
	event.attach.block_bytes = m->block_bytes;
	event.attach.max_seqs = m->max_seqs;
	event.attach.max_pages = m->max_pages;
	daemon_event(daemon, &event);
	assert(!pending->peer); /* the core answers an ATTACH at once */
}

static void answer_refused(struct peer *peer, const struct kvd_msg_attach *m,
			   const struct core_action *action)
{
	static const char *const texts[] = {
#define KVD_STATUS(name, number, exit_code, text) [number] = text,
#include "kvd/status.def"
#undef KVD_STATUS
	};
	uint32_t status = action->attached.status;
	uint32_t need = action->attached.need, have = action->attached.have;
	const char *text = status < sizeof(texts) / sizeof(texts[0]) && texts[status]
				   ? texts[status]
				   : "refused";

	if (need || have)
		peer_error(peer, m->m.seq, (enum kvd_status)status, need, have,
			   "engine %s: %s (needs %u, has %u)", m->name, text, need, have);
	else
		peer_error(peer, m->m.seq, (enum kvd_status)status, 0, 0, "engine %s: %s", m->name,
			   text);
}

/* ---- numbered messages ---- */

void attach_send(struct attached *engine, struct kvd_msg *m, struct kept_out out, const int *fd, bool owned)
{
	struct daemon *daemon = engine->daemon;
	uint32_t seq = engine->kept->out_seq + 1;

	KEPT_SET(daemon, daemon->kept->out[engine->number][seq % KEPT_OUT], out);
	KEPT_SET(daemon, engine->kept->out_seq, seq);
	/* A client's stream is no action of the core that the next kvd would perform again under the same
	 * number: what is in the book must be there before the engine can see it. */
	if (m->type == KVD_M_CLIENT_NEW || m->type == KVD_M_CLIENT_AGAIN)
		core_commit(daemon->core);
	m->seq = seq;
	peer_send(engine->peer, m, fd, fd ? 1 : 0, owned);
}

void attach_sent(struct attached *engine, const struct kvd_msg *m)
{
	if (m->type == KVD_M_EXTENT_MAP || m->type == KVD_M_EXTENT_UNMAP || m->type == KVD_M_CLIENT_NEW ||
	    m->type == KVD_M_CLIENT_AGAIN)
		KEPT_SET(engine->daemon, engine->kept->sent_seq, m->seq);
}

/* ---- keeping ---- */

static void keep(struct attached *engine, int control_fd)
{
	struct bundle_item items[4] = { { .fd = control_fd },
					{ .fd = engine->segment.sub_fd },
					{ .fd = engine->process.fd },
					{ .fd = engine->segment.comp_fd } };

	bundle_name(items[0].name, "c", engine->number);
	bundle_name(items[1].name, "s", engine->number);
	bundle_name(items[2].name, "p", engine->number);
	snprintf(items[3].name, sizeof(items[3].name), "t%u.%u", engine->number, engine->kept->generation);
	bundle_keep_all(engine->daemon->bundle, items, 4);
}

void attach_forget(struct attached *engine, bool process_too)
{
	struct bundle *bundle = engine->daemon->bundle;
	char name[BUNDLE_NAME_MAX];

	bundle_forget(bundle, bundle_name(name, "c", engine->number));
	bundle_forget(bundle, bundle_name(name, "s", engine->number));
	snprintf(name, sizeof(name), "t%u.%u", engine->number, engine->kept->generation);
	bundle_forget(bundle, name);
	if (process_too)
		bundle_forget(bundle, bundle_name(name, "p", engine->number));
}

/* What the next kvd must know of it, in the transaction in which the core takes it. */
static void remember(struct attached *engine, const struct core_action *action)
{
	const struct peer *peer = engine->peer;
	struct kept_engine kept = {
		.state = ATTACHED_LIVE,
		.version = peer->version,
		.uid = peer->uid,
		.gid = peer->gid,
		.pid = peer->pid,
		.shape = engine->segment.shape,
		.plane_bytes = action->attached.plane_bytes,
		.n_frames = action->attached.n_frames,
		.control_inode = kept_inode(peer->source.fd),
		.sub_inode = kept_inode(engine->segment.sub_fd),
		.comp_inode = kept_inode(engine->segment.comp_fd),
		.attached_usec = engine->attached_usec,
	};

	strcpy(kept.name, engine->name);
	strcpy(kept.model, engine->model);
	strcpy(kept.program, peer->program);
	strcpy(kept.tenant, peer->tenant_name);
	strcpy(kept.domain, peer->domain);
	memcpy(kept.fingerprint, engine->fingerprint, sizeof(kept.fingerprint));
	KEPT_SET(engine->daemon, *engine->kept, kept);
}

static void process_ready(struct loop_source *source, uint32_t events)
{
	struct attached *engine = (struct attached *)((char *)source -
						      offsetof(struct attached, process));

	loop_remove(engine->daemon->loop, &engine->process);
	engine->gone = true;
	if (engine->state == ATTACHED_DYING)
		mover_link_flush(&engine->daemon->mover, engine->number);
	else
		loop_again(engine->daemon->loop, &engine->peer->source);  /* peer_ready() reads what is left */
}

/* The same process under the same name attaches again: it has given up everything of its former attachment
 * before it asked (kvd/engine.h), so that is as quiet as if the process had ended. */
static void supersede(const struct attached *engine)
{
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		struct attached *former = &engine->daemon->engines[i];

		if (former->state == ATTACHED_DYING && !former->gone && former->pid == engine->pid &&
		    former->uid == engine->uid && !strcmp(former->name, engine->name))
			process_ready(&former->process, POLLIN);
	}
}

int attach_watch(struct attached *engine)
{
	engine->process.ready = process_ready;
	return loop_add(engine->daemon->loop, &engine->process, POLLIN);
}

void attach_answer(struct daemon *daemon, const struct core_action *action)
{
	struct attach_pending *pending = &daemon->attaching;
	const struct kvd_msg_attach *m = pending->message;
	const struct segment_shape *shape = &pending->segment.shape;
	struct peer *peer = pending->peer;
	struct attached *engine;
	struct kvd_msg_attached reply;
	int fds[2];

	/* A killed kvd's answer, not given: who asked has no segments and no extents, and adopt.c lets the
	 * core forget it. */
	if (!peer)
		return;
	pending->peer = NULL;
	if (action->attached.status != KVD_S_OK) {
		segment_close(&pending->segment);
		close(pending->pidfd);
		answer_refused(peer, m, action);
		return;
	}
	assert(action->engine < CORE_ENGINES_MAX);
	engine = &daemon->engines[action->engine];
	assert(engine->state == ATTACHED_FREE);
	*engine = (struct attached){
		.state = ATTACHED_LIVE,
		.daemon = daemon,
		.kept = &daemon->kept->engines[action->engine],
		.peer = peer,
		.number = action->engine,
		.uid = peer->uid,
		.pid = peer->pid,
		.segment = pending->segment,
		.process = { .fd = pending->pidfd },
		.attached_usec = clock_now_usec(),
	};
	strcpy(engine->name, m->name);
	strcpy(engine->model, m->model);
	memcpy(engine->fingerprint, m->fingerprint, sizeof(engine->fingerprint));
	ring_open(&engine->ring, &engine->segment);
	peer->engine = engine;
	/* Kept, then in the book, then told: an engine that knows of its rings can be taken over. */
	remember(engine, action);
	keep(engine, peer->source.fd);
	event_note(daemon, KVD_EVENT_ATTACH, engine->name, NULL, CORE_NONE, 0, 0, "pid %u model %s", engine->pid,
		   engine->model);
	reply = (struct kvd_msg_attached){
		.m = { .type = KVD_M_ATTACHED, .size = sizeof(reply), .seq = m->m.seq },
		.engine = engine->number,
		.sq_entries = shape->sq_entries,
		.cq_entries = shape->cq_entries,
		.n_frames = action->attached.n_frames,
		.plane_bytes = action->attached.plane_bytes,
		.sub_bytes = shape->sub_bytes,
		.comp_bytes = shape->comp_bytes,
		.sqe_offset = shape->sqe_offset,
		.tokens_offset = shape->tokens_offset,
		.cqe_offset = shape->cqe_offset,
		.tables_offset = shape->tables_offset,
	};
	fds[0] = engine->segment.sub_fd;
	fds[1] = engine->segment.comp_fd;
	engine->segment.sub_fd = engine->segment.comp_fd = -1;
	peer_send(peer, &reply.m, fds, 2, true);
	if (attach_watch(engine) < 0)
		peer_doom(peer, "cannot be watched"); /* the table has room for every engine */
	supersede(engine);
	daemon->engines_changed = true;
	log_info("engine.attached engine=%u name=\"%s\" model=\"%s\" numerics=\"%s\" uid=%u pid=%u "
		 "slots=%u pages=%u "
		 "frames_per_extent=%u",
		 engine->number, engine->name, engine->model, m->numerics, engine->uid, engine->pid,
		 m->max_seqs, m->max_pages, action->attached.n_frames);
}

void attach_hangup(struct attached *engine)
{
	struct daemon *daemon = engine->daemon;
	struct core_event event = { .type = CORE_EV_HANGUP, .engine = engine->number };
	struct kvd_row_status status;

	assert(engine->state == ATTACHED_LIVE);
	engine->state = ATTACHED_DYING;
	engine->switching = false;
	engine->peer = NULL;
	engine->hung_up_usec = clock_now_usec();
	/* This, its streams, and what the core makes of its end are one step. */
	KEPT_SET(daemon, engine->kept->state, (uint32_t)ATTACHED_DYING);
	KEPT_SET(daemon, engine->kept->hung_up_usec, engine->hung_up_usec);
	daemon_deadline(daemon, engine->hung_up_usec + LIMIT_QUIET_ALARM_USEC);
	log_info("engine.lost engine=%u name=\"%s\" pid=%u streams=%u process_ended=%d",
		 engine->number, engine->name, engine->pid, engine->n_streams, engine->gone);
	introduce_engine_lost(daemon, engine);
	weights_share_forget(daemon, engine->fingerprint);
	doorbell_forget(engine);
	segment_close(&engine->segment);
	daemon->engines_changed = true;
	daemon_event(daemon, &event);
	attach_forget(engine, false);
	core_read_status(daemon->core, clock_now_usec(), &status);
	event_note(daemon, KVD_EVENT_HANGUP, engine->name, NULL, CORE_NONE, status.frames[KVD_FRAME_QUARANTINED], 0,
		   "pid %u", engine->pid);
	if (engine->gone)
		mover_link_flush(&daemon->mover, engine->number);
}

void attach_flushed(struct daemon *daemon, uint32_t number)
{
	struct attached *engine = &daemon->engines[number];
	struct core_event event = { .type = CORE_EV_QUIET, .engine = number };

	assert(number < CORE_ENGINES_MAX && engine->state == ATTACHED_DYING && engine->gone);
	log_info("engine.quiet engine=%u name=\"%s\" usec=%" PRIu64, number, engine->name,
		 clock_now_usec() - engine->hung_up_usec);
	close(engine->process.fd);
	engine->state = ATTACHED_FREE;
	KEPT_SET(daemon, engine->kept->state, (uint32_t)ATTACHED_FREE);
	daemon_event(daemon, &event);
	attach_forget(engine, true);
	event_note(daemon, KVD_EVENT_QUIET, engine->name, NULL, CORE_NONE, 0, 0, "pid %u", engine->pid);
}

uint64_t attach_deadlines(struct daemon *daemon, uint64_t now_usec)
{
	uint64_t next_usec = CLOCK_NEVER;

	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		struct attached *engine = &daemon->engines[i];
		uint64_t at_usec = engine->hung_up_usec + LIMIT_QUIET_ALARM_USEC;

		if (engine->state != ATTACHED_DYING || engine->alarmed)
			continue;
		if (at_usec > now_usec) {
			next_usec = at_usec < next_usec ? at_usec : next_usec;
			continue;
		}
		/* Never an early reuse: its frames stay in quarantine until it really ends. */
		engine->alarmed = true;
		log_error("engine.not_quiet engine=%u name=\"%s\" pid=%u remedy=\"end the process; "
			  "its pages stay in "
			  "quarantine until then\"",
			  engine->number, engine->name, engine->pid);
	}
	return next_usec;
}

void attach_close_all(struct daemon *daemon)
{
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		struct attached *engine = &daemon->engines[i];

		if (engine->state == ATTACHED_FREE)
			continue;
		loop_remove(daemon->loop, &engine->process);
		close(engine->process.fd);
		attach_forget(engine, true);
		doorbell_forget(engine);
		segment_close(&engine->segment);
		engine->state = ATTACHED_FREE;
	}
}
