/* engine_window.c - the window: as much address space as the pool has bytes, and the extents in it.
 *
 * An extent lies at window + extent * extent_bytes in every engine, on the device that WELCOME names (window.h).
 * What is not mapped faults, so that a wrong table entry is never another's memory.
 *
 *   EXTENT_MAP    mapped over the reservation, readable, writable if kvd says so; then acknowledged
 *   EXTENT_UNMAP  the reservation again; then acknowledged
 *
 * Acknowledgements wait in a queue while the ring is full: kvd may change its mind about an extent
 * before it has read the first answer, and every message is owed one, in order.  The engine's
 * thread, between steps. */
#include "client/engine.h"

#include <errno.h>
#include <string.h>
#include <stdlib.h>
#include <unistd.h>

int kvd_engine_window_reserve(struct kvd_engine *e)
{
	const struct kvd_msg_welcome *w = &e->connection->welcome;
	uint64_t extent_bytes = w->extent_bytes;

	if (extent_bytes == 0 || extent_bytes % (uint64_t)sysconf(_SC_PAGESIZE) != 0 ||
	    w->pool_bytes < extent_bytes ||
	    w->pool_bytes / extent_bytes > 1u << KVD_ENTRY_FRAME_BITS ||
	    w->pool_bytes > SIZE_MAX - (2u << 20) || w->device_kind > KVD_DEVICE_CUDA)
		return kvd_fail(e->error, KVD_S_PROTOCOL,
				"kvd announced a pool of %llu bytes in extents of %llu, on a device of kind %u",
				(unsigned long long)w->pool_bytes,
				(unsigned long long)extent_bytes, w->device_kind);
	e->n_extents = (uint32_t)(w->pool_bytes / extent_bytes);
	e->acks_max = 2 * e->n_extents + 16;
	e->acks = calloc(e->acks_max, sizeof(*e->acks));
	if (!e->acks)
		return kvd_fail(e->error, -ENOMEM, "not enough memory for %u extents",
				e->n_extents);
	if (e->window_calls && e->device_kind != w->device_kind)
		return kvd_fail(e->error, KVD_S_REFUSED, "the kvd that is there now has its memory on another device");
	e->device_kind = w->device_kind;
	e->window_calls = w->device_kind == KVD_DEVICE_CUDA ? &kvd_window_cuda : &kvd_window_host;
	return e->window_calls->reserve(e);
}

void kvd_engine_window_release(struct kvd_engine *e)
{
	if (e->window || e->window_device)
		e->window_calls->release(e);
	free(e->acks);
	e->window = NULL;
	e->acks = NULL;
}

int kvd_engine_window_change(struct kvd_engine *e, const struct kvd_msg_extent *m,
			     struct kvd_packet *packet)
{
	bool map = m->m.type == KVD_M_EXTENT_MAP;
	int r;

	if (!e->window || m->extent >= e->n_extents || packet->n_fds != (map ? 1u : 0u))
		return kvd_fail(e->error, -EPROTO,
				"kvd sent an extent message that makes no sense (extent %u of %u, "
				"%u descriptors)",
				m->extent, e->n_extents, packet->n_fds);
	if (map) {
		/* The mapping keeps the memory; the descriptor is not needed any more. */
		int fd = kvd_packet_take_fd(packet, 0);
		r = e->window_calls->map(e, m->extent, m->writable != 0, fd);
		close(fd);
	} else {
		r = e->window_calls->unmap(e, m->extent);
	}
	if (r < 0)
		return r;
	if (e->n_acks == e->acks_max)
		return kvd_fail(e->error, -EPROTO,
				"kvd sends more extent messages than it reads answers");
	e->acks[(e->first_ack + e->n_acks++) % e->acks_max] = m->extent << 1 | (map ? 1u : 0u);
	return 0;
}

void kvd_engine_window_acknowledge(struct kvd_engine *e)
{
	while (e->n_acks > 0) {
		uint32_t ack = e->acks[e->first_ack];
		struct kvd_sqe sqe = { .verb = KVD_EXTENT_ACK,
				       .other = ack >> 1,
				       .count = ack & 1u };
		if (kvd_engine_submit(e, &sqe) != 0)
			return;
		e->first_ack = (e->first_ack + 1) % e->acks_max;
		e->n_acks--;
	}
}
