/* admin_steer.c - see admin_steer.h.  Loop thread only.
 *
 * One function a verb; who may is a column of admin.def and is checked in one place, before any of them.  What a
 * verb changed is noted as an event and logged with the uid that asked. */
#include "kvd/admin_steer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kvd/clock.h"
#include "kvd/daemon.h"
#include "kvd/event.h"
#include "kvd/peer.h"
#include "kvd/recorder.h"

static const char *steer_name(uint32_t what)
{
	switch (what) {
#define KVD_STEER(name, number, who, argument, numbers, text) case number: return #name;
#include "kvd/admin.def"
#undef KVD_STEER
	}
	return "?";
}

/* Of which kind of user is a verb? -1: there is no such verb. */
static int steer_admin_only(uint32_t what)
{
	enum { ADMIN = 1, OWN = 0 };

	switch (what) {
#define KVD_STEER(name, number, who, argument, numbers, text) case number: return who;
#include "kvd/admin.def"
#undef KVD_STEER
	}
	return -1;
}

static void answer(struct peer *peer, const struct kvd_msg_steer *m, uint64_t pages, uint64_t bytes, bool more)
{
	struct kvd_msg_steered reply = {
		.m = { .type = KVD_M_STEERED, .size = sizeof(reply), .seq = m->m.seq },
		.what = m->what,
		.more = more,
		.pages = pages,
		.bytes = bytes,
	};

	peer_send(peer, &reply.m, NULL, 0, false);
}

static void note(struct peer *peer, const struct kvd_msg_steer *m, uint64_t pages, uint64_t bytes)
{
	log_info("steer.done verb=%s uid=%u argument=\"%s\" prefix=%016" PRIx64 " pages=%" PRIu64 " bytes=%" PRIu64,
		 steer_name(m->what), peer->uid, m->argument, m->number[0], pages, bytes);
	event_note(peer->daemon, KVD_EVENT_STEER, NULL, m->argument, CORE_NONE, pages, bytes, "%s by uid %u",
		   steer_name(m->what), peer->uid);
}

/* The named tenant, or CORE_NONE after an answer. */
static uint32_t tenant_named(struct peer *peer, const struct kvd_msg_steer *m)
{
	uint32_t tenant = core_tenant_find(peer->daemon->core, m->argument);

	if (tenant == CORE_NONE)
		peer_error(peer, m->m.seq, KVD_S_BAD_REQUEST, 0, 0,
			   "there is no tenant %s; see kvctl tenants",
			   m->argument[0] ? m->argument : "without a name");
	return tenant;
}

/* ---- verbs ---- */

/* PIN, UNPIN, PUBLISH, UNPUBLISH, EVICT: the core's. */
static void steer_core(struct peer *peer, const struct kvd_msg_steer *m)
{
	static const uint8_t types[] = {
		[KVD_STEER_PIN] = CORE_EV_PIN,         [KVD_STEER_UNPIN] = CORE_EV_UNPIN,
		[KVD_STEER_PUBLISH] = CORE_EV_PUBLISH, [KVD_STEER_UNPUBLISH] = CORE_EV_UNPUBLISH,
		[KVD_STEER_EVICT] = CORE_EV_EVICT,
	};
	struct daemon *daemon = peer->daemon;
	struct core_event event = { .type = types[m->what], .engine = CORE_NONE };
	const struct core_action *done = &daemon->steered;

	event.steer.prefix = m->number[0];
	event.steer.bytes = m->number[1];
	event.steer.tenant = CORE_NONE;
	if (m->argument[0] && (event.steer.tenant = tenant_named(peer, m)) == CORE_NONE)
		return;
	memset(&daemon->steered, 0, sizeof(daemon->steered));
	daemon_event(daemon, &event);
	switch (done->steered.status) {
	case KVD_S_OK:
		answer(peer, m, done->steered.pages, done->steered.bytes, done->steered.more);
		note(peer, m, done->steered.pages, done->steered.bytes);
		return;
	case KVD_S_LIMIT:
		peer_error(peer, m->m.seq, KVD_S_LIMIT, done->steered.need, done->steered.have,
			   "with this pin, pins would hold %u extents and may hold %u: a quarter "
			   "of the pool, and what "
			   "running sequences do not need; unpin something",
			   done->steered.need, done->steered.have);
		return;
	case KVD_S_REFUSED:
		peer_error(peer, m->m.seq, KVD_S_REFUSED, 0, 0,
			   "a page of that prefix is a private tenant's, or its copies differ; it "
			   "cannot be published");
		return;
	default:
		if (done->steered.need) {
			peer_error(peer, m->m.seq, KVD_S_STALE, done->steered.need, 0,
				   "%u pages of that prefix are on disk only; a request that uses "
				   "it brings them back, "
				   "then pin it",
				   done->steered.need);
			return;
		}
		peer_error(peer, m->m.seq, KVD_S_STALE, 0, 0,
			   m->what == KVD_STEER_UNPIN || m->what == KVD_STEER_UNPUBLISH
				   ? "there is no such prefix, or it is not %s; see kvctl prefixes"
				   : "there is no such prefix, or no longer%s; see kvctl prefixes",
			   m->what == KVD_STEER_UNPIN ? "pinned" : m->what == KVD_STEER_UNPUBLISH ? "published" : "");
	}
}

/* QUOTA: the tenant as it is, with the numbers that were given. */
static void steer_quota(struct peer *peer, const struct kvd_msg_steer *m)
{
	struct daemon *daemon = peer->daemon;
	uint32_t tenant = tenant_named(peer, m), cursor = 0;
	uint64_t mask = m->number[7];
	struct core_event event = { .type = CORE_EV_TENANT, .engine = CORE_NONE };
	struct core_quota *quota = &event.tenant.quota;
	struct kvd_row_tenant row;

	if (tenant == CORE_NONE || !core_read_tenants(daemon->core, tenant, &cursor, &row, 1))
		return;
	memcpy(event.tenant.name, row.name, sizeof(event.tenant.name));
	memcpy(event.tenant.domain, row.domain, sizeof(event.tenant.domain));
	event.tenant.sharing = (enum core_sharing)row.sharing;
	quota->min_bytes = mask & 1 ? m->number[0] : row.min_bytes;
	quota->low_bytes = mask & 2 ? m->number[1] : row.low_bytes;
	quota->high_bytes = mask & 4 ? m->number[2] : row.high_bytes;
	quota->max_bytes = mask & 8 ? m->number[3] : row.max_bytes;
	quota->weight = mask & 16 ? (uint32_t)m->number[4] : row.weight;
	quota->max_sequences = mask & 32 ? (uint32_t)m->number[5] : row.max_sequences;
	quota->insert_bytes_per_sec = mask & 64 ? m->number[6] : row.insert_bytes_per_sec;
	if (!(mask & 4) && quota->max_bytes && (!quota->high_bytes || quota->high_bytes >= quota->max_bytes))
		quota->high_bytes = 0;       /* follows max */
	if (!(mask & 2) && quota->low_bytes < quota->min_bytes)
		quota->low_bytes = quota->min_bytes;
	if (quota->max_bytes &&
	    (quota->min_bytes > quota->max_bytes || quota->low_bytes > quota->max_bytes ||
	     quota->high_bytes >= quota->max_bytes)) {
		peer_error(peer, m->m.seq, KVD_S_BAD_REQUEST, quota->high_bytes, quota->max_bytes,
			   "tenant %s: min <= low <= max and high < max must hold; max is %" PRIu64, m->argument,
			   quota->max_bytes);
		return;
	}
	if (quota->low_bytes < quota->min_bytes || (quota->high_bytes && quota->high_bytes < quota->low_bytes) ||
	    quota->min_bytes > daemon->pool_bytes || quota->weight > 10000 || m->number[4] > 10000 ||
	    m->number[5] > UINT32_MAX) {
		peer_error(peer, m->m.seq, KVD_S_BAD_REQUEST, quota->low_bytes, quota->min_bytes,
			   "tenant %s: min <= low <= high, min within the pool and weight from 1 to 10000 must hold",
			   m->argument);
		return;
	}
	daemon_event(daemon, &event);
	answer(peer, m, 0, 0, false);
	note(peer, m, 0, 0);
}

static void steer_drain(struct peer *peer, const struct kvd_msg_steer *m)
{
	struct daemon *daemon = peer->daemon;

	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		const struct attached *engine = &daemon->engines[i];
		struct core_event event = { .type = CORE_EV_DRAIN, .engine = i };

		if (engine->state != ATTACHED_LIVE || strcmp(engine->name, m->argument))
			continue;
		daemon_event(daemon, &event);
		answer(peer, m, 0, 0, false);
		note(peer, m, 0, 0);
		return;
	}
	peer_error(peer, m->m.seq, KVD_S_NO_MODEL, 0, 0, "there is no engine %s; see kvctl engines", m->argument);
}

/* ---- pressure triggers ---- */

static void trigger_set(struct daemon *daemon, uint32_t number, uint32_t tenant, bool full)
{
	const struct steer_trigger *trigger = &daemon->triggers[number];
	struct core_event event = { .type = CORE_EV_TRIGGER, .engine = CORE_NONE };

	event.trigger.number = number;
	event.trigger.tenant = tenant;
	event.trigger.full = full;
	event.trigger.threshold_usec = trigger->peer ? trigger->threshold_usec : 0;
	event.trigger.window_usec = trigger->window_usec;
	daemon_event(daemon, &event);
}

static void steer_trigger(struct peer *peer, const struct kvd_msg_steer *m)
{
	struct daemon *daemon = peer->daemon;
	uint32_t tenant = CORE_NONE, number = 0;
	uint64_t threshold_usec = m->number[1], window_usec = m->number[2];

	if (!m->argument[0] && !peer->admin) {
		peer_error(peer, m->m.seq, KVD_S_REFUSED, 0, 0,
			   "pressure of the whole pool is for administrators; name your own tenant");
		return;
	}
	if (m->argument[0] && !peer->admin && strcmp(m->argument, peer->tenant_name)) {
		peer_error(peer, m->m.seq, KVD_S_REFUSED, 0, 0, "tenant %s is not yours", m->argument);
		return;
	}
	if (m->argument[0] && (tenant = tenant_named(peer, m)) == CORE_NONE)
		return;
	if (window_usec < 500000 || window_usec > 10000000 || !threshold_usec || threshold_usec > window_usec) {
		peer_error(peer, m->m.seq, KVD_S_BAD_REQUEST, threshold_usec, window_usec,
			   "a window is from 500000 to 10000000 microseconds and the stall at most the window");
		return;
	}
	while (number < CORE_TRIGGERS_MAX && daemon->triggers[number].peer)
		number++;
	if (number == CORE_TRIGGERS_MAX) {
		peer_error(peer, m->m.seq, KVD_S_LIMIT, CORE_TRIGGERS_MAX + 1, CORE_TRIGGERS_MAX,
			   "kvd has %u pressure triggers and can have no more; close one", CORE_TRIGGERS_MAX);
		return;
	}
	daemon->triggers[number] = (struct steer_trigger){ peer, threshold_usec, window_usec };
	trigger_set(daemon, number, tenant, m->number[0] != 0);
	answer(peer, m, 0, 0, false);
}

void admin_steer_pressure(struct daemon *daemon, const struct core_action *action)
{
	const struct steer_trigger *trigger;
	struct kvd_msg_event m = {
		.m = { .type = KVD_M_EVENT, .size = sizeof(m) },
		.kind = KVD_EVENT_PRESSURE,
		.realtime_usec = event_realtime_usec(),
		.slot = CORE_NONE,
	};
	struct kvd_row_tenant row;
	uint32_t cursor = 0;

	if (action->pressure.trigger >= CORE_TRIGGERS_MAX)
		return;
	trigger = &daemon->triggers[action->pressure.trigger];
	if (!trigger->peer || trigger->peer->state != PEER_READY || trigger->peer->n_out)
		return; /* one that does not read needs no second one */
	m.a = trigger->threshold_usec;
	m.b = trigger->window_usec;
	if (action->pressure.tenant != CORE_NONE &&
	    core_read_tenants(daemon->core, action->pressure.tenant, &cursor, &row, 1))
		memcpy(m.tenant, row.name, sizeof(m.tenant));
	snprintf(m.text, sizeof(m.text), "%s %" PRIu64 " %" PRIu64, action->pressure.full ? "full" : "some",
		 trigger->threshold_usec, trigger->window_usec);
	peer_send(trigger->peer, &m.m, NULL, 0, false);
}

void admin_steer_forget(struct peer *peer)
{
	struct daemon *daemon = peer->daemon;

	for (uint32_t i = 0; i < CORE_TRIGGERS_MAX; i++) {
		if (daemon->triggers[i].peer != peer)
			continue;
		daemon->triggers[i].peer = NULL;
		trigger_set(daemon, i, CORE_NONE, false);
	}
	event_unwatch(peer);
	record_forget(daemon, peer);
}

void admin_steer(struct peer *peer, const struct kvd_msg_steer *m, int fd)
{
	int admin_only = steer_admin_only(m->what);

	if (admin_only < 0 || (m->what == KVD_STEER_RECORD) != (m->m.type == KVD_M_RECORD)) {
		peer_error(peer, m->m.seq, KVD_S_BAD_REQUEST, 0, 0, "verb %u is not one this kvd knows; upgrade it",
			   m->what);
		return;
	}
	if (admin_only && !peer->admin) {
		peer_error(peer, m->m.seq, KVD_S_REFUSED, 0, 0,
			   "only root, the user of kvd and group kvadm may do that");
		return;
	}
	switch ((enum kvd_steer)m->what) {
	case KVD_STEER_PIN:
	case KVD_STEER_UNPIN:
	case KVD_STEER_PUBLISH:
	case KVD_STEER_UNPUBLISH:
	case KVD_STEER_EVICT: steer_core(peer, m); return;
	case KVD_STEER_QUOTA: steer_quota(peer, m); return;
	case KVD_STEER_DRAIN: steer_drain(peer, m); return;
	case KVD_STEER_TRIGGER: steer_trigger(peer, m); return;
	case KVD_STEER_WATCH:
		answer(peer, m, 0, 0, false);
		event_watch(peer, (uint32_t)m->number[0], m->number[1]);
		return;
	case KVD_STEER_RECORD: record_request(peer, m, fd); return;
	}
}
