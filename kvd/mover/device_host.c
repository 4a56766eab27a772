/* device_host.c - page bytes in this machine's memory.
 *
 * Owns the window, reserved PROT_NONE; extents are mapped into it.  Memory is given by MADV_POPULATE_WRITE, which
 * reports what a plain store would turn into SIGBUS; and zeroed by memset of resident memory, never by punching
 * holes, so that a frame once populated stays so. */
#include "kvd/mover/device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define COVER_SCRATCH_BYTES (1u << 20) /* two processors' second-level caches: most of a page leaves them again */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int device_open(int ordinal, const uint8_t *uuid, uint64_t extent_bytes, uint32_t n_extents, struct device **ret,
		char *ret_error)
{
	int r;

	*ret_error = '\0';
	if (ordinal >= 0)
		return device_cuda_open(ordinal, uuid, extent_bytes, n_extents, ret, ret_error);
	r = device_host_open(extent_bytes, n_extents, ret);
	if (r < 0)
		snprintf(ret_error, DEVICE_ERROR_MAX, "cannot reserve %u extents of %llu bytes: %s", n_extents,
			 (unsigned long long)extent_bytes, strerror(-r));
	return r;
}

static void host_close(struct device *device)
{
	munmap(device->base, device->extent_bytes * device->n_extents);
	free(device);
}

static uint8_t *extent_at(const struct device *device, uint32_t extent)
{
	return device->base + extent * device->extent_bytes;
}

static int host_map(struct device *device, uint32_t extent, int fd)
{
	uint8_t *at = extent_at(device, extent);
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size != device->extent_bytes)
		return -EINVAL;
	if (mmap(at, device->extent_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return -errno;
	(void)madvise(at, device->extent_bytes, MADV_DONTDUMP);
	/* Does nothing where shmem_enabled is never (Debian's default); where it is advise, the
	 * first touch of an extent costs a fifteenth. */
	(void)madvise(at, device->extent_bytes, MADV_HUGEPAGE);
	return 0;
}

/* The memfd keeps its pages; gone are the entries of this process's page tables for them, a quarter of a million a GiB.
 * A killed mover has to be gone before the next kvd goes on, and takes the longer the more of them there are. */
static void extent_unmap_pages(struct device *device, uint32_t extent)
{
	(void)madvise(extent_at(device, extent), device->extent_bytes, MADV_DONTNEED);
}

/* A memfd is born zero.  Either everything is resident afterwards, or the error says why not.  Linux 5.14. */
static int host_populate(struct device *device, uint32_t extent)
{
	if (madvise(extent_at(device, extent), device->extent_bytes, MADV_POPULATE_WRITE) < 0)
		return errno == EFAULT ? -ENOMEM : -errno;
	extent_unmap_pages(device, extent);
	return 0;
}

static int host_zero_extent(struct device *device, uint32_t extent)
{
	memset(extent_at(device, extent), 0, device->extent_bytes);
	extent_unmap_pages(device, extent);
	return 0;
}

static uint8_t *block(struct device *device, const struct kvd_geometry *g, uint32_t frame, uint32_t plane)
{
	return device->base + kvd_block_offset(g, frame, plane);
}

static int host_zero(struct device *device, const struct kvd_geometry *g, uint32_t frame)
{
	for (uint32_t plane = 0; plane < g->n_planes; plane++)
		memset(block(device, g, frame, plane), 0, g->block_bytes);
	return 0;
}

static int host_copy(struct device *device, const struct kvd_geometry *g, uint32_t source, uint32_t target)
{
	for (uint32_t plane = 0; plane < g->n_planes; plane++)
		memcpy(block(device, g, target, plane), block(device, g, source, plane), g->block_bytes);
	return 0;
}

static int host_equal(struct device *device, const struct kvd_geometry *g, uint32_t a, uint32_t b, bool *ret)
{
	*ret = true;
	for (uint32_t plane = 0; *ret && plane < g->n_planes; plane++)
		*ret = !memcmp(block(device, g, a, plane), block(device, g, b, plane), g->block_bytes);
	return 0;
}

/* Two pages are read whole, as by an equal compare, and one is written: bytes of anybody, to nowhere. */
static _Thread_local uint8_t scratch[COVER_SCRATCH_BYTES]; /* touched by what covers alone */

static int host_cover(struct device *device, const struct kvd_geometry *g, uint32_t source, uint32_t peer)
{
	uint32_t at = 0;

	for (uint32_t plane = 0; plane < g->n_planes; plane++) {
		const uint8_t *a = block(device, g, source, plane), *b = block(device, g, peer, plane);

		for (uint32_t done = 0; done < g->block_bytes;) {
			uint32_t n = g->block_bytes - done;

			n = n < COVER_SCRATCH_BYTES - at ? n : COVER_SCRATCH_BYTES - at;
			memcpy(scratch + at, a + done, n);
			for (uint32_t i = 0; i + 64 <= n; i += 64)      /* a line each: that is what it costs */
				scratch[at] ^= b[done + i];
			done += n;
			at = (at + n) % COVER_SCRATCH_BYTES;
		}
	}
	return 0;
}

static int host_cover_zero(struct device *device, const struct kvd_geometry *g)
{
	for (uint64_t left = kvd_page_bytes(g); left;) {
		uint64_t n = left < COVER_SCRATCH_BYTES ? left : COVER_SCRATCH_BYTES;

		memset(scratch, 0, n);
		__asm__ volatile("" : : "r"(scratch) : "memory"); /* or nothing would be stored */
		left -= n;
	}
	return 0;
}

static int host_read(struct device *device, const struct kvd_geometry *g, uint32_t frame, uint8_t *room,
		     const uint8_t **planes)
{
	for (uint32_t plane = 0; plane < g->n_planes; plane++)
		planes[plane] = block(device, g, frame, plane);
	return 0;
}

static int host_write(struct device *device, const struct kvd_geometry *g, uint32_t frame, const uint8_t *page)
{
	for (uint32_t plane = 0; plane < g->n_planes; plane++)
		memcpy(block(device, g, frame, plane), page + (uint64_t)plane * g->block_bytes, g->block_bytes);
	return 0;
}

static int host_stage(struct device *device, void *at, size_t bytes)
{
	return 0;
}

static void host_unstage(struct device *device, void *at)
{
}

/* A process that has ended stores no more. */
static int host_quiet(struct device *device, uint32_t pid)
{
	return 0;
}

static int host_alive(struct device *device)
{
	return 0;
}

static const struct device_calls host_calls = {
	.close = host_close, .map = host_map, .populate = host_populate, .zero_extent = host_zero_extent,
	.zero = host_zero, .copy = host_copy, .equal = host_equal, .cover = host_cover, .cover_zero = host_cover_zero,
	 .read = host_read, .write = host_write,
	.stage = host_stage, .unstage = host_unstage, .quiet = host_quiet, .alive = host_alive,
};

int device_host_open(uint64_t extent_bytes, uint32_t n_extents, struct device **ret)
{
	struct device *device = calloc(1, sizeof(*device));

	if (!device)
		return -ENOMEM;
	*device = (struct device){ .calls = &host_calls, .extent_bytes = extent_bytes, .n_extents = n_extents };
	device->base = mmap(NULL, extent_bytes * n_extents, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			    0);
	if (device->base == MAP_FAILED) {
		free(device);
		return -ENOMEM;
	}
	*ret = device;
	return 0;
}
