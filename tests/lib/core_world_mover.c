/* core_world_mover.c - the fake mover of core_world.h: what its jobs do to the bytes, each one tag. */
#include "tests/lib/core_world.h"

#include <string.h>

void world_mover_bytes(struct world *w, uint32_t index, bool ok, struct core_event *ret)
{
	struct core_action a = w->jobs[index];
	w->jobs[index] = w->jobs[--w->n_jobs];
	struct core_event ev = { .type = CORE_EV_MOVED };
	ev.moved.job = a.move.job;
	ev.moved.ok = ok;
	w->mover_fails += !ok;
	w->last_job = a.move.job;
	bool compare_only = a.move.kind == CORE_MOVE_COMPARE_COPY && a.move.source == a.move.target;
	if (a.move.kind == CORE_MOVE_SCRUB_EXTENT) {
		for (uint32_t i = 0; i < 1u << w->slot_bits; i++)
			w->tags[(a.move.target << w->slot_bits) + i] = 0;
		for (uint32_t e = 0; e < WORLD_ENGINES; e++)
			if (w->engine[e].alive && w->engine[e].mapped[a.move.target])
				world_fail(w, "an extent is scrubbed while an engine maps it",
					   a.move.target, e);
	} else if (a.move.kind == CORE_MOVE_SPILL) {
		world_disk_move(w, &a, ok, &ev);
	} else if (!compare_only) {
		/* of a live engine, or of a process not known to be gone */
		if (w->viewers[a.move.target])
			world_fail(w, "the mover writes a frame that a running step may read",
				   a.move.target, w->viewers[a.move.target]);
		w->tags[a.move.target] = ok ? 0 : 0xbad0bad0ull;
	}
	if (a.move.kind == CORE_MOVE_FETCH)
		world_disk_move(w, &a, ok, &ev);
	if (ok && a.move.kind == CORE_MOVE_COPY)
		w->tags[a.move.target] = w->tags[a.move.source];
	if (ok && a.move.kind == CORE_MOVE_COMPARE_COPY) {
		ev.moved.differs = w->tags[a.move.source] != w->tags[a.move.peer];
		if (!ev.moved.differs && !compare_only)
			w->tags[a.move.target] = w->tags[a.move.source];
	}
	bool disk = a.move.kind == CORE_MOVE_SPILL || a.move.kind == CORE_MOVE_FETCH;
	uint32_t block = disk ? (uint32_t)(a.move.place.offset / CORE_SPILL_ALIGN) : 0;
	world_seen(w, &(struct world_record){ .kind = SEEN_MOVED,
					      .slot = disk ? ev.moved.ok : ok + ev.moved.differs,
					      .a = a.move.kind,
					      .b = a.move.kind == CORE_MOVE_FETCH ? block : a.move.source,
					      .c = a.move.kind == CORE_MOVE_SPILL ? block : a.move.target });
	*ret = ev;
}

bool world_mover(struct world *w, uint32_t index, bool ok)
{
	struct core_event ev;
	if (index >= w->n_jobs)
		return false;
	world_mover_bytes(w, index, ok, &ev);
	world_step(w, &ev);
	return true;
}
