/* act.c - the core's actions become stores, messages, jobs.
 *
 * Never calls the core, and never fails: a peer that cannot take what it is due is doomed and its
 * hang-up reaches the core later, as an event of its own. */
#include "kvd/daemon.h"

#include <assert.h>

#include "kvd/event.h"
#include "kvd/ring.h"

/* The engine an action is for, NULL if it is on its way out: then nobody misses it. */
static struct attached *engine_of(struct daemon *daemon, const struct core_action *action)
{
	struct attached *engine;

	assert(action->engine < CORE_ENGINES_MAX);
	engine = &daemon->engines[action->engine];
	return engine->state == ATTACHED_LIVE && engine->peer->state == PEER_READY ? engine : NULL;
}

static void act_complete(struct attached *engine, const struct kvd_cqe *cqe)
{
	if (cqe->verb == KVD_EV_DRAIN) {
		engine->draining = true;
		KEPT_SET(engine->daemon, engine->kept->draining, 1u);
	}
	if (cqe->verb == KVD_EV_PREEMPT)
		event_note(engine->daemon, KVD_EVENT_PREEMPT, engine->name, NULL, cqe->slot, 0, 0, "%s", "");
	if (ring_publish(&engine->ring, cqe) < 0)
		peer_violation(engine->peer, "completion ring full or broken");
	else
		KEPT_SET(engine->daemon, engine->kept->cq_tail, engine->ring.cq_tail);
}

static void act_map(struct attached *engine, uint32_t extent, bool writable)
{
	struct kvd_msg_extent m = {
		.m = { .type = KVD_M_EXTENT_MAP, .size = sizeof(m) },
		.extent = extent,
		.writable = writable,
	};
	int fd = vmm_extent_fd(engine->daemon->vmm, extent, writable);

	assert(fd >= 0); /* the core maps populated extents only */
	attach_send(engine, &m.m, (struct kept_out){ KVD_M_EXTENT_MAP, extent, writable }, &fd, false);
}

static void act_unmap(struct attached *engine, uint32_t extent)
{
	struct kvd_msg_extent m = {
		.m = { .type = KVD_M_EXTENT_UNMAP, .size = sizeof(m) },
		.extent = extent,
	};

	attach_send(engine, &m.m, (struct kept_out){ KVD_M_EXTENT_UNMAP, extent, 0 }, NULL, false);
}

void act_perform(struct daemon *daemon, const struct core_action *action)
{
	struct attached *engine;

	switch (action->type) {
	case CORE_ACT_ATTACHED: attach_answer(daemon, action); return;
	case CORE_ACT_COMPLETE:
		engine = engine_of(daemon, action);
		if (engine)
			act_complete(engine, &action->cqe);
		return;
	case CORE_ACT_ENTRY:
		engine = engine_of(daemon, action);
		if (engine)
			ring_entry(&engine->ring, action->entry.slot, action->entry.page,
				   action->entry.entry);
		return;
	case CORE_ACT_MAP:
		engine = engine_of(daemon, action);
		if (engine)
			act_map(engine, action->map.extent, action->map.writable);
		return;
	case CORE_ACT_UNMAP:
		engine = engine_of(daemon, action);
		if (engine)
			act_unmap(engine, action->map.extent);
		return;
	case CORE_ACT_MOVE: mover_link_move(&daemon->mover, action); return;
	case CORE_ACT_POPULATE:
		mover_link_populate(&daemon->mover, action->populate.extent);
		return;
	case CORE_ACT_STAMP: daemon->stamp_wanted = true; return;
	case CORE_ACT_PRESSURE:
		admin_steer_pressure(daemon, action);
		return;
	case CORE_ACT_ALARM:
		log_error("core.alarm text=\"%.*s\"", (int)sizeof(action->alarm.text),
			  action->alarm.text);
		event_note(daemon, KVD_EVENT_ALARM, NULL, NULL, CORE_NONE, 0, 0, "%.127s", action->alarm.text);
		return;
	case CORE_ACT_STEERED: daemon->steered = *action; return;
	}
	assert(!"unknown action");
}
