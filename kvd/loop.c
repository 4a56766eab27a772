/* loop.c - what both backends share: the table of sources, stale cookies, the list of those that have a turn.
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

static struct loop_slot *loop_take_slot(struct loop *loop, struct loop_source *source)
{
	struct loop_slot *slot;

	assert(source->slot == 0 && source->ready);
	if (!loop->free_head)
		return NULL;
	source->slot = loop->free_head;
	slot = &loop->slots[source->slot - 1];
	loop->free_head = slot->free_next;
	slot->source = source;
	return slot;
}

int loop_add(struct loop *loop, struct loop_source *source, uint32_t events)
{
	struct loop_slot *slot;
	int r;

	assert(source->fd >= 0);
	slot = loop_take_slot(loop, source);
	if (!slot)
		return -ENOSPC;
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

bool loop_has_words(const struct loop *loop)
{
	return loop->has_words;
}

int loop_add_word(struct loop *loop, struct loop_source *source)
{
	assert(loop->has_words);
	if (!loop_take_slot(loop, source))
		return -ENOSPC;
	source->fd = -1;
	source->word = true;
	source->armed = false;
	return 0;
}

void loop_wait_word(struct loop *loop, struct loop_source *source, const uint32_t *word, uint32_t value)
{
	assert(source->slot && source->word);
	if (source->armed)
		return;
	source->armed = loop->backend->wait_word(loop, word, value, loop_cookie(loop, source)) == 0;
	if (!source->armed)            /* the ring is full: look again at once */
		loop_again(loop, source);
}

bool loop_pending(struct loop *loop)
{
	return loop->owed_head || loop->backend->pending(loop);
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

/* Take a source off the list; the events that it had a turn for. */
static uint32_t loop_settle(struct loop *loop, struct loop_source *source)
{
	struct loop_source **link = &loop->owed_head, *previous = NULL;
	uint32_t events = source->owed_events;

	if (!source->owed)
		return 0;
	while (*link != source) {
		previous = *link;
		assert(previous);
		link = &previous->owed_next;
	}
	*link = source->owed_next;
	if (loop->owed_tail == source)
		loop->owed_tail = previous;
	source->owed = false;
	source->owed_events = 0;
	source->owed_next = NULL;
	return events;
}

void loop_remove(struct loop *loop, struct loop_source *source)
{
	struct loop_slot *slot;

	if (!source->slot)
		return;
	(void)loop_settle(loop, source);
	if (!source->word)
		loop->backend->remove(loop, source->fd, loop_cookie(loop, source));
	else if (source->armed)
		loop->backend->remove_word(loop, loop_cookie(loop, source));
	slot = &loop->slots[source->slot - 1];
	slot->source = NULL;
	slot->generation++;
	slot->free_next = loop->free_head;
	loop->free_head = source->slot;
	source->slot = 0;
}

void loop_owe(struct loop *loop, struct loop_source *source, uint32_t events)
{
	source->owed_events |= events;
	if (source->owed)
		return;
	source->owed = true;
	source->owed_next = NULL;
	if (loop->owed_tail)
		loop->owed_tail->owed_next = source;
	else
		loop->owed_head = source;
	loop->owed_tail = source;
}

void loop_again(struct loop *loop, struct loop_source *source)
{
	if (source->slot)
		loop_owe(loop, source, POLLIN);
}

int loop_wait(struct loop *loop, uint64_t deadline_usec)
{
	int64_t timeout_usec = -1;
	struct loop_source *last;
	int r;

	if (loop->owed_head) {
		timeout_usec = 0;
	} else if (deadline_usec != CLOCK_NEVER) {
		uint64_t now_usec = clock_now_usec();

		timeout_usec = deadline_usec > now_usec ? (int64_t)(deadline_usec - now_usec) : 0;
	}
	r = loop->backend->wait(loop, timeout_usec);
	/* In the order in which they asked or were woken; those that ask again while they run come after `last`
	 * and wait for the next round. */
	last = loop->owed_tail;
	while (last && loop->owed_head) {
		struct loop_source *source = loop->owed_head;
		bool was_last = source == last;

		source->ready(source, loop_settle(loop, source));
		/* `last` itself may have been removed by another's ready(): stop at what is new. */
		if (was_last || !last->owed)
			break;
	}
	return r;
}
