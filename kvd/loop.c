/* loop.c - what both backends share: the table of sources, stale cookies, the again list.
 *
 * A source is known to the kernel by a cookie, not by its address: an event that was under way when
 * the source went is recognised by its generation and dropped.  Loop thread only. */
#include "kvd/loop.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "kvd/clock.h"
#include "kvd/loop_internal.h"

static uint64_t loop_cookie(const struct loop *loop, const struct loop_source *source)
{
	assert(source->slot != 0 && source->slot <= loop->n_slots);
	return (uint64_t)loop->slots[source->slot - 1].generation << 32 | source->slot;
}

struct loop_source *loop_resolve(struct loop *loop, uint64_t cookie)
{
	uint32_t slot = (uint32_t)cookie;

	if (slot == 0 || slot > loop->n_slots || loop->slots[slot - 1].generation != cookie >> 32)
		return NULL;
	return loop->slots[slot - 1].source;
}

int loop_open(enum loop_kind kind, uint32_t n_sources, struct loop **ret)
{
	struct loop *loop = calloc(1, sizeof(*loop) + n_sources * sizeof(loop->slots[0]));
	int r;

	if (!loop)
		return -ENOMEM;
	loop->n_slots = n_sources;
	for (uint32_t i = 0; i < n_sources; i++) {
		loop->slots[i].generation = 1;
		loop->slots[i].free_next = i + 2 <= n_sources ? i + 2 : 0;
	}
	loop->free_head = n_sources ? 1 : 0;

	r = -ENOSYS;
	if (kind != LOOP_EPOLL) {
		loop->backend = &loop_backend_uring;
		r = loop->backend->open(loop);
	}
	if (kind == LOOP_EPOLL || (kind == LOOP_AUTO && r < 0)) {
		loop->backend = &loop_backend_epoll;
		r = loop->backend->open(loop);
	}
	if (r < 0) {
		free(loop);
		return r;
	}
	*ret = loop;
	return 0;
}

void loop_close(struct loop *loop)
{
	if (!loop)
		return;
	loop->backend->close(loop);
	free(loop);
}

const char *loop_name(const struct loop *loop)
{
	return loop->backend->name;
}

int loop_add(struct loop *loop, struct loop_source *source, uint32_t events)
{
	struct loop_slot *slot;
	int r;

	assert(source->slot == 0 && source->ready && source->fd >= 0);
	if (!loop->free_head)
		return -ENOSPC;
	source->slot = loop->free_head;
	slot = &loop->slots[source->slot - 1];
	loop->free_head = slot->free_next;
	slot->source = source;
	source->events = events;
	r = loop->backend->add(loop, source->fd, events, loop_cookie(loop, source));
	if (r < 0) {
		slot->source = NULL;
		slot->free_next = loop->free_head;
		loop->free_head = source->slot;
		source->slot = 0;
	}
	return r;
}

int loop_watch(struct loop *loop, struct loop_source *source, uint32_t events)
{
	assert(source->slot != 0);
	if (source->events == events)
		return 0;
	loop->backend->remove(loop, source->fd, loop_cookie(loop, source));
	loop->slots[source->slot - 1].generation++;
	source->events = events;
	return loop->backend->add(loop, source->fd, events, loop_cookie(loop, source));
}

static void loop_forget_again(struct loop *loop, struct loop_source *source)
{
	struct loop_source **link = &loop->again_head, *previous = NULL;

	if (!source->again)
		return;
	while (*link != source) {
		previous = *link;
		assert(previous);
		link = &previous->again_next;
	}
	*link = source->again_next;
	if (loop->again_tail == source)
		loop->again_tail = previous;
	source->again = false;
	source->again_next = NULL;
}

void loop_remove(struct loop *loop, struct loop_source *source)
{
	struct loop_slot *slot;

	if (!source->slot)
		return;
	loop_forget_again(loop, source);
	loop->backend->remove(loop, source->fd, loop_cookie(loop, source));
	slot = &loop->slots[source->slot - 1];
	slot->source = NULL;
	slot->generation++;
	slot->free_next = loop->free_head;
	loop->free_head = source->slot;
	source->slot = 0;
}

void loop_again(struct loop *loop, struct loop_source *source)
{
	if (source->again || !source->slot)
		return;
	source->again = true;
	source->again_next = NULL;
	if (loop->again_tail)
		loop->again_tail->again_next = source;
	else
		loop->again_head = source;
	loop->again_tail = source;
}

int loop_wait(struct loop *loop, uint64_t deadline_usec)
{
	int64_t timeout_usec = -1;
	struct loop_source *last = loop->again_tail;
	int r;

	if (loop->again_head) {
		timeout_usec = 0;
	} else if (deadline_usec != CLOCK_NEVER) {
		uint64_t now_usec = clock_now_usec();

		timeout_usec = deadline_usec > now_usec ? (int64_t)(deadline_usec - now_usec) : 0;
	}
	/* Sources that asked for another turn go first, in the order in which they asked; those
	 * that ask again while they run come after `last` and wait for the next round. */
	while (last && loop->again_head) {
		struct loop_source *source = loop->again_head;
		bool was_last = source == last;

		/* `last` itself may have been removed by another's ready(): stop at what is new. */
		loop_forget_again(loop, source);
		source->ready(source, POLLIN);
		if (was_last || !last->again)
			break;
	}
	r = loop->backend->wait(loop, timeout_usec);
	return r;
}
