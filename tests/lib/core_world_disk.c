/* core_world_disk.c - the fake spill file of core_world.h.
 *
 * A block of 4 KiB is what was written into it last: (generation, identity) and the page's tag.  A page is
 * read well only if all its blocks are those of one write and of the one that is asked for, as the real
 * tag proves.  Faults: a write or a read that reports an error, a torn write that reports none, a block
 * that is lost.  A read that fails without a planted fault is the core's mistake: it read a place that was
 * given to another page.  So is a generation that is written twice with
 * other bytes: it is the cipher's nonce. */
#include "tests/lib/core_world.h"

#include <stdlib.h>
#include <string.h>

void world_disk_free(struct world *w)
{
	free(w->disk);
	free(w->generations);
}

void world_disk_corrupt(struct world *w, uint32_t block)
{
	w->disk[block % w->n_blocks] = (struct world_block){ .faulty = true };
	w->disk_faults++;
}

/* A kvd that died before its commit is followed by one that hands out the same write: the same bytes. */
static void generation_once(struct world *w, uint64_t generation, uint64_t tag)
{
	if (generation >= w->generations_max) {
		uint64_t max = 2 * generation + 1024;
		w->generations = realloc(w->generations, max * sizeof(*w->generations));
		memset(w->generations + w->generations_max, 0, (max - w->generations_max) * sizeof(*w->generations));
		w->generations_max = max;
	}
	if (!generation || (w->generations[generation] && w->generations[generation] != tag))
		world_fail(w, "a generation of the spill file is written twice", generation, 0);
	w->generations[generation] = tag;
}

static uint32_t blocks_of(const struct core_action *a)
{
	uint64_t bytes = (uint64_t)a->move.geometry.n_planes * a->move.geometry.block_bytes + CORE_SPILL_TRAILER;
	return (uint32_t)((bytes + CORE_SPILL_ALIGN - 1) / CORE_SPILL_ALIGN);
}

/* An access ends with fewer bytes than were asked for, and the mover gives up, on the file or itself. */
static bool short_access(struct world *w, struct core_event *ret)
{
	if (!w->disk_short_percent || world_random(w, 100) >= w->disk_short_percent)
		return false;
	ret->moved.ok = false;
	ret->moved.differs = world_random(w, 2);
	return true;
}

static void spill(struct world *w, const struct core_action *a, bool ok, struct core_event *ret)
{
	uint32_t first = (uint32_t)(a->move.place.offset / CORE_SPILL_ALIGN), n = blocks_of(a), written = n;
	bool torn = world_random(w, 100) < w->disk_torn_percent;
	generation_once(w, a->move.place.generation, w->tags[a->move.source]);
	w->disk_writes++;
	ret->moved.ok = ok && world_random(w, 100) >= w->disk_write_error_percent;
	ret->moved.differs = ok && !ret->moved.ok;
	bool brief = short_access(w, ret);
	w->disk_faults += brief;
	if (torn || !ret->moved.ok)
		written = world_random(w, n);
	w->disk_faults += torn;
	for (uint32_t i = 0; i < n; i++) {
		if (i < written)
			w->disk[first + i] = (struct world_block){ .generation = a->move.place.generation,
				.identity = a->move.place.identity, .tag = w->tags[a->move.source] };
		else
			w->disk[first + i].faulty = true;
	}
}

static void fetch(struct world *w, const struct core_action *a, bool ok, struct core_event *ret)
{
	uint32_t first = (uint32_t)(a->move.place.offset / CORE_SPILL_ALIGN), n = blocks_of(a);
	bool error = world_random(w, 100) < w->disk_read_error_percent, same = true, faulty = error;
	w->disk_reads++;
	w->disk_faults += error;
	for (uint32_t i = 0; i < n; i++) {
		const struct world_block *b = &w->disk[first + i];
		same = same && b->generation == a->move.place.generation && !b->faulty &&
		       b->identity == a->move.place.identity;
		faulty = faulty || b->faulty;
	}
	/* a place asked for before it was let go may have been given to another since: then nobody is served */
	if (!same && !faulty && a->move.place.identity)
		world_fail(w, "a place of the spill file holds another page", a->move.place.offset,
			   a->move.place.generation);
	ret->moved.ok = ok && same && !error;
	ret->moved.differs = ok && !ret->moved.ok;
	w->disk_faults += short_access(w, ret);
	w->tags[a->move.target] = ret->moved.ok ? w->disk[first].tag : 0xbad0bad0ull;
}

void world_disk_move(struct world *w, const struct core_action *a, bool ok, struct core_event *ret)
{
	uint64_t offset = a->move.place.offset;
	if (offset % CORE_SPILL_ALIGN || offset / CORE_SPILL_ALIGN + blocks_of(a) > w->n_blocks)
		world_fail(w, "a place lies outside the spill file", offset, w->n_blocks);
	if (a->move.kind == CORE_MOVE_SPILL)
		spill(w, a, ok, ret);
	else
		fetch(w, a, ok, ret);
}
