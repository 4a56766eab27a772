/* window_host.c - the window in this process's memory: a reservation PROT_NONE, extents mapped over it.
 *
 * The mapping keeps an extent's memory.  Its pages do not go into core dumps: K and V can be inverted to text. */
#include "client/window.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "client/engine.h"

#define HUGE_BYTES (2u << 20)      /* a window aligned so lets extents be mapped by huge pages */

static int host_reserve(struct kvd_engine *e)
{
	uint64_t pool_bytes = e->connection->welcome.pool_bytes;
	uint8_t *room = mmap(NULL, pool_bytes + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			     0);

	if (room == MAP_FAILED)
		return kvd_fail(
			e->error, -errno,
			"cannot reserve %llu bytes of address space for the pool: %s; raise `ulimit -v`",
			(unsigned long long)pool_bytes, strerror(errno));
	size_t before = (HUGE_BYTES - (uintptr_t)room % HUGE_BYTES) % HUGE_BYTES;
	e->window = room + before;
	if (before > 0)
		munmap(room, before);
	munmap(e->window + pool_bytes, HUGE_BYTES - before);
	return 0;
}

static void host_release(struct kvd_engine *e)
{
	munmap(e->window, e->connection->welcome.pool_bytes);
}

static int host_map(struct kvd_engine *e, uint32_t extent, bool writable, int fd)
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

static int host_unmap(struct kvd_engine *e, uint32_t extent)
{
	uint64_t extent_bytes = e->geometry.extent_bytes;
	uint8_t *at = e->window + extent * extent_bytes;

	if (mmap(at, extent_bytes, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		return kvd_fail(e->error, -errno, "cannot unmap extent %u: %s", extent,
				strerror(errno));
	return 0;
}

const struct kvd_window_calls kvd_window_host = { host_reserve, host_release, host_map, host_unmap };
