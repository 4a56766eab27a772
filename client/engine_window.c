/* engine_window.c - the window: as much address space as the pool has bytes, and the extents in it.
 *
 * An extent lies at window + extent * extent_bytes in every engine.  What is not mapped is
 * PROT_NONE, so that a wrong table entry is a fault and never another's memory.  Its pages do not
 * go into core dumps: K and V can be inverted to text.
 *
 *   EXTENT_MAP    mmap over the reservation, readable, writable if kvd says so; then acknowledged
 *   EXTENT_UNMAP  the reservation mapped over it again; then acknowledged
 *
 * Acknowledgements wait in a queue while the ring is full: kvd may change its mind about an extent
 * before it has read the first answer, and every message is owed one, in order.  The engine's
 * thread, between steps. */
#include "client/engine.h"

#include <errno.h>
#include <string.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HUGE_BYTES (2u << 20)      /* a window aligned so lets extents be mapped by huge pages */

int kvd_engine_window_reserve(struct kvd_engine *e)
{
	const struct kvd_msg_welcome *w = &e->connection->welcome;
	uint64_t extent_bytes = w->extent_bytes;

	if (extent_bytes == 0 || extent_bytes % (uint64_t)sysconf(_SC_PAGESIZE) != 0 ||
	    w->pool_bytes < extent_bytes ||
	    w->pool_bytes / extent_bytes > 1u << KVD_ENTRY_FRAME_BITS ||
	    w->pool_bytes > SIZE_MAX - HUGE_BYTES)
		return kvd_fail(e->error, KVD_S_PROTOCOL,
				"kvd announced a pool of %llu bytes in extents of %llu",
				(unsigned long long)w->pool_bytes,
				(unsigned long long)extent_bytes);
	e->n_extents = (uint32_t)(w->pool_bytes / extent_bytes);
	e->acks_max = 2 * e->n_extents + 16;
	e->acks = calloc(e->acks_max, sizeof(*e->acks));
	if (!e->acks)
		return kvd_fail(e->error, -ENOMEM, "not enough memory for %u extents",
				e->n_extents);
	uint8_t *room = mmap(NULL, w->pool_bytes + HUGE_BYTES, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return kvd_fail(
			e->error, -errno,
			"cannot reserve %llu bytes of address space for the pool: %s; raise `ulimit -v`",
			(unsigned long long)w->pool_bytes, strerror(errno));
	size_t before = (HUGE_BYTES - (uintptr_t)room % HUGE_BYTES) % HUGE_BYTES;
	e->window = room + before;
	if (before > 0)
		munmap(room, before);
	munmap(e->window + w->pool_bytes, HUGE_BYTES - before);
	return 0;
}

void kvd_engine_window_release(struct kvd_engine *e)
{
	if (e->window)
		munmap(e->window, e->connection->welcome.pool_bytes);
	free(e->acks);
	e->window = NULL;
	e->acks = NULL;
}

static int window_map(struct kvd_engine *e, uint32_t extent, bool writable, int fd)
{
	uint64_t extent_bytes = e->geometry.extent_bytes;
	uint8_t *at = e->window + extent * extent_bytes;
	struct stat file;

	if (fstat(fd, &file) < 0 || file.st_size < 0 || (uint64_t)file.st_size < extent_bytes)
		return kvd_fail(e->error, -EPROTO, "kvd sent extent %u with less than %llu bytes",
				extent, (unsigned long long)extent_bytes);
	if (mmap(at, extent_bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED | MAP_FIXED,
		 fd, 0) == MAP_FAILED)
		return kvd_fail(e->error, -errno,
				"cannot map extent %u: %s; is vm.max_map_count reached?", extent,
				strerror(errno));
	(void)madvise(at, extent_bytes, MADV_DONTDUMP);
	return 0;
}

static int window_unmap(struct kvd_engine *e, uint32_t extent)
{
	uint64_t extent_bytes = e->geometry.extent_bytes;
	uint8_t *at = e->window + extent * extent_bytes;

	if (mmap(at, extent_bytes, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		return kvd_fail(e->error, -errno, "cannot unmap extent %u: %s", extent,
				strerror(errno));
	return 0;
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
		r = window_map(e, m->extent, m->writable != 0, fd);
		close(fd);
	} else {
		r = window_unmap(e, m->extent);
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
