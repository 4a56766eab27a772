/* copies.c - asynchronous copies into shared memory, done as late as the waits allow.
 *
 * A copy is carried out when its thread waits for its group, neither earlier nor later: code that reads
 * before the wait finds the old bytes here, as it may on a device.  In between the target is marked as
 * pending, and whoever touches it is reported. */
#include "tests/cuda_emulator/machine.h"

#include <string.h>

static void copy_do(struct machine_lane *l)
{
	struct machine_copy *c = &l->copies[l->copy_first];

	if (MACHINE_IS_CHECKED) {
		shadow_copy_target(c->target, c->bytes, false, NULL);
		if (c->source)
			shadow_access(c->source, c->bytes, SHADOW_READ, NULL);
	}
	if (c->source)
		memcpy(c->target, c->source, c->bytes);
	else
		memset(c->target, 0, c->bytes);
	l->copy_first = (l->copy_first + 1) % MACHINE_COPIES_MAX;
	l->n_copies--;
}

void machine_copy_issue(void *target, const void *source, uint32_t bytes)
{
	struct machine_lane *l = machine_lane;
	const void *pc = __builtin_return_address(0);

	if ((uintptr_t)target % bytes != 0 || (uintptr_t)source % bytes != 0) {
		report_add(EMULATED_ALIGNMENT, pc,
			   "an asynchronous copy of %u bytes with an address not aligned to that",
			   bytes);
		machine_abandon();
	}
	if (l->n_copies == MACHINE_COPIES_MAX)
		copy_do(l); /* the device's queue has an end, too */
	if (MACHINE_IS_CHECKED) {
		if (source)
			shadow_access(source, bytes, SHADOW_READ, pc);
		shadow_copy_target(target, bytes, true, pc);
	}
	l->copies[(l->copy_first + l->n_copies++) % MACHINE_COPIES_MAX] =
		(struct machine_copy){.target = target, .source = source, .bytes = bytes, .group = l->group};
}

void machine_copy_commit(void)
{
	machine_lane->group++;
}

void machine_copy_wait(uint32_t pending)
{
	struct machine_lane *l = machine_lane;

	/* groups 0 .. group - 1 are committed; the newest `pending` of them may stay */
	while (l->n_copies > 0 && l->copies[l->copy_first].group + pending < l->group)
		copy_do(l);
}
