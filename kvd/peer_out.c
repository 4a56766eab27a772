/* peer_out.c - what a peer is owed: messages that did not fit its socket.
 *
 * Owns the pool of out records, one FIFO per peer.  A message goes straight to the socket while the
 * FIFO is empty.  A FIFO that grows past its bound, or does not shrink for LIMIT_STALL_USEC, ends
 * the peer: it has stopped reading. */
#include "kvd/peer.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kvd/attach.h"
#include "kvd/clock.h"
#include "kvd/daemon.h"
#include "kvd/packet.h"

_Static_assert(sizeof(struct kvd_msg_error) <= LIMIT_OUT_BYTES, "");
_Static_assert(sizeof(struct kvd_msg_welcome) <= LIMIT_OUT_BYTES, "");
_Static_assert(sizeof(struct kvd_msg_stream) <= LIMIT_OUT_BYTES, "");
_Static_assert(sizeof(struct kvd_msg_attached) <= LIMIT_OUT_BYTES, "");
_Static_assert(sizeof(struct kvd_msg_adopted) <= LIMIT_OUT_BYTES, "");

int peer_out_open(struct peers *peers)
{
	peers->records = calloc(LIMIT_OUT_RECORDS, sizeof(peers->records[0]));
	return peers->records ? 0 : -ENOMEM;
}

static uint32_t record_take(struct peers *peers)
{
	uint32_t record = peers->record_free;

	if (record)
		peers->record_free = peers->records[record - 1].next;
	else if (peers->record_high < LIMIT_OUT_RECORDS)
		record = ++peers->record_high;
	return record;
}

static void record_return(struct peers *peers, uint32_t number)
{
	struct out_record *record = &peers->records[number - 1];

	if (record->owned)
		for (unsigned i = 0; i < record->n_fds; i++)
			close(record->fds[i]);
	record->next = peers->record_free;
	peers->record_free = number;
}

/* 0; -EAGAIN: no room; another error: the peer is gone. */
static int send_now(int socket_fd, const void *bytes, size_t size, const int *fds, unsigned n_fds)
{
	return packet_full(packet_send(socket_fd, bytes, size, fds, n_fds));
}

static void queue(struct peer *peer, const struct kvd_msg *m, const int *fds, unsigned n_fds,
		  bool owned)
{
	struct peers *peers = &peer->daemon->peers;
	uint32_t max = peer->engine ? LIMIT_OUT_PER_ENGINE : LIMIT_OUT_PER_CLIENT;
	uint32_t number = peer->n_out < max ? record_take(peers) : 0;
	struct out_record *record;

	if (!number) {
		if (owned)
			for (unsigned i = 0; i < n_fds; i++)
				close(fds[i]);
		peer_violation(peer, "stopped reading its socket");
		return;
	}
	record = &peers->records[number - 1];
	record->next = 0;
	record->size = (uint16_t)m->size;
	record->n_fds = (uint8_t)n_fds;
	record->owned = owned;
	memcpy(record->bytes, m, m->size);
	for (unsigned i = 0; i < n_fds; i++)
		record->fds[i] = fds[i];
	if (peer->out_tail) {
		peers->records[peer->out_tail - 1].next = number;
	} else {
		peer->out_head = number;
		peer->deadline_usec = clock_now_usec() + LIMIT_STALL_USEC;
		daemon_deadline(peer->daemon, peer->deadline_usec);
		if (loop_watch(peer->daemon->loop, &peer->source, POLLIN | POLLOUT | POLLRDHUP) < 0)
			peer_doom(peer, "cannot be watched");
	}
	peer->out_tail = number;
	peer->n_out++;
}

void peer_send(struct peer *peer, const struct kvd_msg *m, const int *fds, unsigned n_fds,
	       bool owned)
{
	int r = -EPIPE;

	assert(m->size >= sizeof(*m) && m->size <= LIMIT_OUT_BYTES && n_fds <= 2);
	if (peer->state != PEER_DOOMED && peer->state != PEER_FREE) {
		r = peer->n_out ? -EAGAIN : send_now(peer->source.fd, m, m->size, fds, n_fds);
		if (r == -EAGAIN) {
			queue(peer, m, fds, n_fds, owned);
			return;
		}
		if (r < 0)
			peer_doom(peer, "hung up");
		else if (peer->engine)
			attach_sent(peer->engine, m);
	}
	if (owned)
		for (unsigned i = 0; i < n_fds; i++)
			close(fds[i]);
}

void peer_doorbell(struct peer *peer)
{
	static const char byte;

	if (peer->state == PEER_READY)
		(void)send(peer->source.fd, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void peer_error(struct peer *peer, uint32_t request_seq, enum kvd_status status, uint64_t need,
		uint64_t have, const char *format, ...)
{
	struct kvd_msg_error error = {
		.m = { .type = KVD_M_ERROR,
		       .size = sizeof(error),
		       .seq = request_seq,
		       .status = status },
		.need = need,
		.have = have,
	};
	va_list args;

	va_start(args, format);
	vsnprintf(error.text, sizeof(error.text), format, args);
	va_end(args);
	peer_send(peer, &error.m, NULL, 0, false);
}

void peer_out_flush(struct peer *peer)
{
	struct peers *peers = &peer->daemon->peers;

	while (peer->out_head) {
		struct out_record *record = &peers->records[peer->out_head - 1];
		uint32_t number = peer->out_head;
		int r = send_now(peer->source.fd, record->bytes, record->size, record->fds,
				 record->n_fds);

		if (r == -EAGAIN)
			return;
		if (r < 0) {
			peer_doom(peer, "hung up");
			return;
		}
		if (peer->engine)
			attach_sent(peer->engine, (const struct kvd_msg *)record->bytes);
		peer->out_head = record->next;
		peer->n_out--;
		record_return(peers, number);
		peer->deadline_usec = clock_now_usec() + LIMIT_STALL_USEC; /* it moves */
	}
	peer->out_tail = 0;
	peer->deadline_usec = CLOCK_NEVER;
	if (loop_watch(peer->daemon->loop, &peer->source, POLLIN | POLLRDHUP) < 0)
		peer_doom(peer, "cannot be watched");
}

void peer_out_drop(struct peer *peer)
{
	while (peer->out_head) {
		uint32_t number = peer->out_head;

		peer->out_head = peer->daemon->peers.records[number - 1].next;
		record_return(&peer->daemon->peers, number);
	}
	peer->out_tail = peer->n_out = 0;
}
