/* admin.c - the administrator's side of libkvd beyond questions: kvd_steer() and events.
 *
 * Owns a connection's queue of events that came while something else was waited for.  The queue is bounded;
 * what it cannot hold is counted and told with the next event, as kvd's own losses are. */
#include "client/connection.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define EVENTS_MAX 256u

struct kvd_event_queue {
	uint32_t head, n, lost;
	struct kvd_msg_event event[EVENTS_MAX];
};

static int take_event(void *arg, const struct kvd_msg *m, struct kvd_packet *packet)
{
	struct kvd_event_queue *queue = arg;
	struct kvd_msg_event *event;

	if (m->type != KVD_M_EVENT)
		return 0;
	if (m->size < sizeof(*event))
		return -EPROTO;
	if (queue->n == EVENTS_MAX) {
		queue->lost += 1 + ((const struct kvd_msg_event *)m)->lost;
		return 0;
	}
	event = &queue->event[(queue->head + queue->n++) % EVENTS_MAX];
	memcpy(event, m, sizeof(*event));
	event->lost += queue->lost;
	event->tenant[KVD_NAME_MAX - 1] = event->engine[KVD_NAME_MAX - 1] = '\0';
	event->text[sizeof(event->text) - 1] = '\0';
	queue->lost = 0;
	return 0;
}

int kvd_steer(struct kvd_connection *c, enum kvd_steer what, const char *argument, const uint64_t number[8],
	      int fd, struct kvd_msg_steered *ret)
{
	struct kvd_msg_steer steer = {
		.m = { .type = what == KVD_STEER_RECORD ? KVD_M_RECORD : KVD_M_STEER, .size = sizeof(steer) },
		.what = what,
	};
	struct kvd_waiter waiter = { .type = KVD_M_STEERED, .min_bytes = sizeof(struct kvd_msg_steered) };

	c->error[0] = '\0';
	if (argument && strlen(argument) >= sizeof(steer.argument))
		return kvd_fail(c->error, KVD_S_BAD_REQUEST, "the name is longer than %zu bytes",
				sizeof(steer.argument) - 1);
	if (argument)
		memcpy(steer.argument, argument, strlen(argument));
	if (number)
		memcpy(steer.number, number, sizeof(steer.number));
	uint64_t deadline_usec = kvd_clock_usec() + KVD_CALL_USEC;
	int r = kvd_connection_ready(c, deadline_usec);
	if (r != 0)
		return r;
	if (c->welcome.version < 2)
		return kvd_fail(c->error, KVD_S_VERSION, "kvd %s is too old for that; upgrade it",
				c->welcome.kvd_version);
	if ((what == KVD_STEER_WATCH || what == KVD_STEER_TRIGGER) && !c->events) {
		c->events = calloc(1, sizeof(*c->events));
		if (!c->events)
			return kvd_fail(c->error, -ENOMEM, "not enough memory");
		c->unsolicited = take_event;
		c->unsolicited_arg = c->events;
	}
	/* Sent once: what came of it may have come of it though kvd died before it could say so. */
	r = kvd_connection_call(c, &steer.m, &fd, fd >= 0, &waiter, deadline_usec);
	if (r == 0 && ret)
		memcpy(ret, waiter.reply, sizeof(*ret));
	return r;
}

int kvd_event(struct kvd_connection *c, int timeout_ms, struct kvd_msg_event *ret)
{
	uint64_t deadline_usec = timeout_ms < 0 ? KVD_NEVER : kvd_clock_usec() + (uint64_t)timeout_ms * 1000u;
	struct kvd_event_queue *queue = c->events;

	if (!queue)
		return kvd_fail(c->error, KVD_S_STALE, "nothing is watched on this connection");
	while (!queue->n) {
		if (c->state == KVD_CONNECTION_DOWN)
			return kvd_fail(c->error, -ENOTCONN, "kvd closed the connection; see its log");
		int r = kvd_wait_until(c->fd, POLLIN, deadline_usec);
		if (r < 0)
			return kvd_fail(c->error, r, "cannot wait for events: %s", strerror(-r));
		if (r == 0)
			return -EAGAIN;
		(void)kvd_connection_dispatch(c);    /* down: seen above, after what came before */
	}
	*ret = queue->event[queue->head];
	queue->head = (queue->head + 1) % EVENTS_MAX;
	queue->n--;
	return 0;
}
