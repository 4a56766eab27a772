/* engine_control.c - what an attached engine and kvd say on the control socket.
 *
 * Extents come and go, clients come; totals, counters and weights go.  The engine's thread, between
 * steps.  Only the two about weights wait, 5 s at most, for kvd to take or answer. */
#include "client/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* A client's stream.  One that nobody collects goes back at once: its client asks elsewhere. */
static int control_client_new(struct kvd_engine *e, const struct kvd_msg_client_new *m,
			      struct kvd_packet *packet)
{
	int fd = kvd_packet_take_fd(packet, 0);
	if (fd < 0)
		return kvd_fail(e->error, -EPROTO, "kvd announced client %u without a socket",
				m->client);
	if (e->client_tail - e->client_head == KVD_ENGINE_CLIENTS_MAX) {
		struct kvd_msg_client_gone gone = { .client = m->client };
		close(fd);
		return kvd_engine_client_gone(e, &gone);
	}
	struct kvd_engine_client *client = &e->clients[e->client_tail++ % KVD_ENGINE_CLIENTS_MAX];
	client->client = m->client;
	client->weight = m->weight;
	client->fd = fd;
	memcpy(client->tenant, m->tenant, sizeof(client->tenant));
	client->tenant[sizeof(client->tenant) - 1] = '\0';
	int flags = fcntl(fd, F_GETFL);
	if (flags >= 0 && !(flags & O_NONBLOCK))
		(void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	return 0;
}

/* A client that we serve already has named itself to this kvd. */
static int control_client_again(struct kvd_engine *e, const struct kvd_msg_client_again *m)
{
	if (e->again_tail - e->again_head == KVD_ENGINE_CLIENTS_MAX) {
		struct kvd_msg_client_gone gone = { .client = m->client };
		return kvd_engine_client_gone(e, &gone);
	}
	struct kvd_engine_again *again = &e->agains[e->again_tail++ % KVD_ENGINE_CLIENTS_MAX];
	again->client = m->client;
	again->weight = m->weight;
	memcpy(again->ticket, m->ticket, sizeof(again->ticket));
	memcpy(again->tenant, m->tenant, sizeof(again->tenant));
	again->tenant[sizeof(again->tenant) - 1] = '\0';
	return 0;
}

/* A kvd that took over says once more what the one before may have said.  0 is never a repetition. */
static bool control_repeated(struct kvd_engine *e, uint32_t seq)
{
	if (seq == 0)
		return false;
	if ((int32_t)(seq - e->last_seen) <= 0)
		return true;
	e->last_seen = seq;
	return false;
}

int kvd_engine_take(struct kvd_engine *e, const struct kvd_msg *m, struct kvd_packet *packet)
{
	switch (m->type) {
	case KVD_M_EXTENT_MAP: case KVD_M_EXTENT_UNMAP:
		if (m->size < sizeof(struct kvd_msg_extent))
			return kvd_fail(e->error, -EPROTO, "kvd sent a short extent message");
		if (control_repeated(e, m->seq))
			return 0;
		return kvd_engine_window_change(e, (const struct kvd_msg_extent *)m, packet);
	case KVD_M_CLIENT_NEW:
		if (m->size < sizeof(struct kvd_msg_client_new))
			return kvd_fail(e->error, -EPROTO, "kvd sent a short client message");
		if (control_repeated(e, m->seq))
			return 0;
		return control_client_new(e, (const struct kvd_msg_client_new *)m, packet);
	case KVD_M_CLIENT_AGAIN:
		if (m->size < sizeof(struct kvd_msg_client_again))
			return kvd_fail(e->error, -EPROTO, "kvd sent a short client message");
		if (control_repeated(e, m->seq))
			return 0;
		return control_client_again(e, (const struct kvd_msg_client_again *)m);
	case KVD_M_ADOPTED:
		if (m->size < sizeof(struct kvd_msg_adopted))
			return kvd_fail(e->error, -EPROTO, "the kvd that took over sent a short ADOPTED");
		return kvd_engine_adopt(e, (const struct kvd_msg_adopted *)m, packet);
	default:
		return 0;   /* a late answer, or a message of a newer kvd */
	}
}

int kvd_engine_poll(struct kvd_engine *e)
{
	int r;

	e->error[0] = '\0';
	r = e->is_attached ? kvd_connection_dispatch(e->connection) : -ENOTCONN;
	if (r == 0)
		return kvd_engine_flush(e);
	if (e->error[0] == '\0')
		kvd_fail(e->error, r,
			 r == -EPROTO ? "kvd broke the protocol; are kvd and libkvd of one release?"
				      : "kvd at %s is gone",
			 e->connection->path);
	return r;
}

bool kvd_engine_next_client(struct kvd_engine *e, struct kvd_engine_client *ret)
{
	if (e->client_head == e->client_tail)
		return false;
	*ret = e->clients[e->client_head++ % KVD_ENGINE_CLIENTS_MAX];
	return true;
}

bool kvd_engine_next_again(struct kvd_engine *e, struct kvd_engine_again *ret)
{
	if (e->again_head == e->again_tail)
		return false;
	*ret = e->agains[e->again_head++ % KVD_ENGINE_CLIENTS_MAX];
	return true;
}

int kvd_engine_gones_flush(struct kvd_engine *e)
{
	while (e->gone_head != e->gone_tail) {
		struct kvd_msg_client_gone *gone = &e->gones[e->gone_head % KVD_ENGINE_GONES_MAX];
		gone->m = (struct kvd_msg){ .type = KVD_M_CLIENT_GONE, .size = sizeof(*gone),
					    .seq = ++e->connection->last_seq };
		int r = kvd_packet_send(e->connection->fd, gone, sizeof(*gone), NULL, 0);
		/* A kvd that is dead and will be succeeded reads nothing for a while. */
		if (r == -EAGAIN)
			return 0;
		if (r < 0)
			return kvd_fail(e->error, r, "kvd takes no message: %s", strerror(-r));
		e->gone_head++;
	}
	return 0;
}

int kvd_engine_client_gone(struct kvd_engine *e, const struct kvd_msg_client_gone *totals)
{
	if (!e->is_attached || e->connection->state == KVD_CONNECTION_DOWN)
		return kvd_fail(e->error, -ENOTCONN, "kvd at %s is gone", e->connection->path);
	if (e->gone_tail - e->gone_head == KVD_ENGINE_GONES_MAX)
		return kvd_fail(e->error, -EPROTO,
				"kvd hands out more streams than it takes back; see its log");
	e->gones[e->gone_tail++ % KVD_ENGINE_GONES_MAX] = *totals;
	return kvd_engine_gones_flush(e);
}

int kvd_engine_stats(struct kvd_engine *e, const struct kvd_msg_engine_stats *stats)
{
	struct kvd_msg_engine_stats copy = *stats;

	if (!e->is_attached || e->connection->state == KVD_CONNECTION_DOWN)
		return kvd_fail(e->error, -ENOTCONN, "kvd at %s is gone", e->connection->path);
	copy.m = (struct kvd_msg){
		.type = KVD_M_ENGINE_STATS, .size = sizeof(copy), .seq = ++e->connection->last_seq,
	};
	int r = kvd_packet_send(e->connection->fd, &copy, sizeof(copy), NULL, 0);
	/* The next second's numbers hold these: nothing is worth waiting for. */
	if (r == -EAGAIN)
		return 0;
	return r == 0 ? 0 : kvd_fail(e->error, r, "kvd takes no counters: %s", strerror(-r));
}

int kvd_engine_fd(const struct kvd_engine *e)
{
	return e->connection->fd;
}

static int control_weights(struct kvd_engine *e, uint16_t type, const char *layout,
			   struct kvd_msg_weights *ret)
{
	size_t n = strlen(layout);

	*ret = (struct kvd_msg_weights){ .m = { .type = type, .size = sizeof(*ret) } };
	if (n >= sizeof(ret->layout))
		return kvd_fail(e->error, KVD_S_BAD_REQUEST,
				"the weight layout's id is longer than %zu bytes",
				sizeof(ret->layout) - 1);
	memcpy(ret->layout, layout, n);
	memcpy(ret->fingerprint, e->fingerprint, sizeof(ret->fingerprint));
	return 0;
}

int kvd_engine_weights_ask(struct kvd_engine *e, const char *layout, int *ret_fd)
{
	struct kvd_waiter waiter = {
		.type = KVD_M_WEIGHTS, .n_fds_max = 1, .min_bytes = sizeof(struct kvd_msg_weights),
	};
	struct kvd_msg_weights ask;

	*ret_fd = -1;
	int r = control_weights(e, KVD_M_WEIGHTS_ASK, layout, &ask);
	if (r != 0)
		return r;
	r = kvd_connection_call(e->connection, &ask.m, NULL, 0, &waiter,
				kvd_clock_usec() + KVD_CALL_USEC);
	if (r != 0)
		return kvd_fail(e->error, r, "%s", e->connection->error);
	if (waiter.fds[0] < 0)
		return kvd_fail(e->error, KVD_S_PROTOCOL,
				"kvd announced weights and sent no memory for them");
	*ret_fd = waiter.fds[0];
	return 0;
}

int kvd_engine_weights_offer(struct kvd_engine *e, const char *layout, int fd)
{
	struct kvd_msg_weights offer;

	int r = control_weights(e, KVD_M_WEIGHTS_OFFER, layout, &offer);
	if (r != 0)
		return r;
	/* An offer needs no answer: if kvd does not want it, each engine keeps its own copy. */
	r = kvd_connection_post(e->connection, &offer.m, &fd, 1, NULL);
	return r == 0 ? 0 : kvd_fail(e->error, r, "%s", e->connection->error);
}
