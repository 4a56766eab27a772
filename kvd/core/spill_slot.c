/* spill_slot.c - the spill file's places.
 *
 * The file is cut into regions as large as an extent; a region belongs to one space at a time and is
 * cut into slots that hold a page of that space and its trailer, in whole blocks of the device.  The
 * record number is the place: region << slot_bits | index, + 1.
 *
 * When a space needs a slot and there is none, the coldest record of the tier goes; if it is another
 * space's, all that rests in its region goes with it (what was written together is about equally cold)
 * and the region changes its space. */
#include "kvd/core/spill.h"

static uint32_t region_of(const struct core *c, uint32_t number)
{
	return (number - 1) >> c->slot_bits;
}

static void region_list(const struct core *c, uint32_t n, bool on)
{
	const struct region *r = region_at(c, n);
	const struct list *l = &c->space_regions[r->space - 1];
	if (r->listed == on)
		return;
	if (on)
		list_push(c, LIST_REGIONS, l, n);
	else
		list_remove(c, LIST_REGIONS, l, n);
	SET(r->listed, on);
}

static bool region_assign(const struct core *c, uint32_t space)
{
	uint32_t n = list_first(&c->free_regions);
	if (n != CORE_NONE) {
		list_remove(c, LIST_REGIONS, &c->free_regions, n);
	} else {
		if (c->regions_high == c->layout.n_regions)
			return false;
		n = c->regions_high;
		SET(c->regions_high, n + 1);
	}
	const struct region *r = region_at(c, n);
	uint64_t bytes = page_bytes_of_space(c, space) + CORE_SPILL_TRAILER;
	SET(r->slot_bytes, (bytes + CORE_SPILL_ALIGN - 1) & ~(uint64_t)(CORE_SPILL_ALIGN - 1));
	SET(r->n_slots, (uint32_t)(c->config.extent_bytes / r->slot_bytes));
	SET(r->high, 0);
	SET(r->space, space + 1);
	region_list(c, n, true);
	return true;
}

/* Make a place.  False: nothing rests in the tier that could go. */
static bool room_make(const struct core *c, uint32_t space)
{
	uint32_t number = list_first(&c->spilled);
	if (number == CORE_NONE)
		return false;
	uint32_t n = region_of(c, number);
	const struct region *r = region_at(c, n);
	if (r->space == space + 1) {
		spill_discard(c, number);
		return true;
	}
	uint32_t high = r->high;
	for (uint32_t i = 0; i < high && r->space; i++) {
		number = (n << c->slot_bits | i) + 1;
		if (spill_at(c, number)->state == SPILL_SPILLED)
			spill_discard(c, number);
	}
	return !r->space;
}

uint32_t spill_slot_take(const struct core *c, uint32_t space)
{
	const struct list *with_room = &c->space_regions[space];
	if (!with_room->count && !region_assign(c, space) && !(room_make(c, space) &&
		(with_room->count || region_assign(c, space))))
		return 0;
	uint32_t n = list_first(with_room);
	const struct region *r = region_at(c, n);
	uint32_t number = list_first(&r->free);
	if (number != CORE_NONE) {
		list_remove(c, LIST_SPILLS, &r->free, number);
	} else {
		assert(r->high < r->n_slots);
		number = (n << c->slot_bits | r->high) + 1;
		SET(r->high, r->high + 1);
	}
	SET(r->used, r->used + 1);
	if (r->used == r->n_slots)
		region_list(c, n, false);
	return number;
}

void spill_slot_return(const struct core *c, uint32_t number)
{
	uint32_t n = region_of(c, number);
	const struct region *r = region_at(c, n);
	SET_ZERO(spill_at(c, number));
	list_push_head(c, LIST_SPILLS, &r->free, number);
	SET(r->used, r->used - 1);
	region_list(c, n, true);
	if (r->used)
		return;
	region_list(c, n, false);            /* empty: any space may have it */
	while (r->free.count)
		list_remove(c, LIST_SPILLS, &r->free, list_first(&r->free));
	uint32_t space = r->space - 1;
	SET(r->high, 0);
	SET(r->space, 0);
	list_push(c, LIST_REGIONS, &c->free_regions, n);
	space_maybe_free(c, space);
}

bool spill_space_used(const struct core *c, uint32_t space)
{
	for (uint32_t n = 0; n < c->regions_high; n++)
		if (region_at(c, n)->space == space + 1)
			return true;
	return false;
}
