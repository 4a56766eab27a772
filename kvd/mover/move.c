/* move.c - populate, scrub, compare, copy.  The only code of kvd that touches page bytes.
 *
 * Owns the mover's window.  One thread.  Memory is given by MADV_POPULATE_WRITE, which reports what
 * a plain store would turn into SIGBUS; and zeroed by memset of resident memory, never by punching
 * holes, so that a frame once populated stays so. */
#include "kvd/mover/move.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define COVER_SCRATCH_BYTES (1u << 20) /* two processors' second-level caches: most of a page leaves them again */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

int move_open(struct move_window *window, uint64_t extent_bytes, uint32_t n_extents)
{
	*window = (struct move_window){ .extent_bytes = extent_bytes, .n_extents = n_extents };
	if (extent_bytes < 4096 || (extent_bytes & (extent_bytes - 1)) || !n_extents ||
	    n_extents > (UINT64_MAX >> 17) / extent_bytes)
		return -EINVAL;
	window->mapped = calloc(n_extents, 1);
	if (!window->mapped)
		return -ENOMEM;
	window->base = mmap(NULL, extent_bytes * n_extents, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (window->base == MAP_FAILED) {
		window->base = NULL;
		free(window->mapped);
		window->mapped = NULL;
		return -ENOMEM;
	}
	return 0;
}

void move_close(struct move_window *window)
{
	if (window->base)
		munmap(window->base, window->extent_bytes * window->n_extents);
	free(window->mapped);
	*window = (struct move_window){ 0 };
}

int move_map(struct move_window *window, uint32_t extent, int fd)
{
	uint8_t *at;
	struct stat st;

	if (extent >= window->n_extents)
		return -EINVAL;
	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size != window->extent_bytes)
		return -EINVAL;
	at = window->base + extent * window->extent_bytes;
	if (mmap(at, window->extent_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
	    MAP_FAILED)
		return -errno;
	(void)madvise(at, window->extent_bytes, MADV_DONTDUMP);
	/* Does nothing where shmem_enabled is never (Debian's default); where it is advise, the
	 * first touch of an extent costs a fifteenth. */
	(void)madvise(at, window->extent_bytes, MADV_HUGEPAGE);
	window->mapped[extent] = 1;
	return 0;
}

static bool extent_usable(const struct move_window *window, uint32_t extent)
{
	return extent < window->n_extents && window->mapped[extent];
}

static int populate(struct move_window *window, uint32_t extent)
{
	uint8_t *at = window->base + extent * window->extent_bytes;

	/* Either everything is resident afterwards, or the error says why not.  Linux 5.14. */
	if (madvise(at, window->extent_bytes, MADV_POPULATE_WRITE) < 0)
		return errno == EFAULT ? -ENOMEM : -errno;
	return 0;
}

/* Geometry as kvd sends it, and a frame of it inside a mapped extent. */
static bool geometry_valid(const struct move_window *window, const struct kvd_geometry *g)
{
	return g->extent_bytes == window->extent_bytes && g->slot_bits < 28 && g->n_frames > 0 &&
	       g->n_frames <= 1u << g->slot_bits && g->n_planes > 0 && g->block_bytes > 0 &&
	       g->plane_bytes == (uint64_t)g->n_frames * g->block_bytes &&
	       g->plane_bytes <= window->extent_bytes / g->n_planes;
}

static bool frame_valid(const struct move_window *window, const struct kvd_geometry *g,
			uint32_t frame)
{
	return frame < 1u << KVD_ENTRY_FRAME_BITS &&
	       (frame & ((1u << g->slot_bits) - 1u)) < g->n_frames &&
	       extent_usable(window, frame >> g->slot_bits);
}

bool move_frame_valid(const struct move_window *window, const struct kvd_geometry *g, uint32_t frame)
{
	return geometry_valid(window, g) && frame_valid(window, g, frame);
}

static uint8_t *block(struct move_window *window, const struct kvd_geometry *g, uint32_t frame,
		      uint32_t plane)
{
	return window->base + kvd_block_offset(g, frame, plane);
}

static void scrub(struct move_window *window, const struct kvd_geometry *g, uint32_t target)
{
	for (uint32_t plane = 0; plane < g->n_planes; plane++)
		memset(block(window, g, target, plane), 0, g->block_bytes);
}

static bool equal(struct move_window *window, const struct kvd_geometry *g, uint32_t a, uint32_t b)
{
	for (uint32_t plane = 0; plane < g->n_planes; plane++)
		if (memcmp(block(window, g, a, plane), block(window, g, b, plane), g->block_bytes))
			return false;
	return true;
}

static void copy(struct move_window *window, const struct kvd_geometry *g, uint32_t source,
		 uint32_t target)
{
	for (uint32_t plane = 0; plane < g->n_planes; plane++)
		memcpy(block(window, g, target, plane), block(window, g, source, plane),
		       g->block_bytes);
}

/* Two pages are read whole, as by an equal compare, and one is written: bytes of anybody, to nowhere. */
static _Thread_local uint8_t scratch[COVER_SCRATCH_BYTES]; /* touched by what covers alone */

static void cover(struct move_window *window, const struct mover_job *job)
{
	const struct kvd_geometry *g = &job->geometry;
	uint32_t at = 0;

	for (uint32_t plane = 0; plane < g->n_planes; plane++) {
		const uint8_t *a = block(window, g, job->source, plane), *b = block(window, g, job->peer, plane);

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
}

static void cover_scrub(const struct kvd_geometry *g)
{
	for (uint64_t left = kvd_page_bytes(g); left;) {
		uint64_t n = left < COVER_SCRATCH_BYTES ? left : COVER_SCRATCH_BYTES;

		memset(scratch, 0, n);
		__asm__ volatile("" : : "r"(scratch) : "memory"); /* or nothing would be stored */
		left -= n;
	}
}

void move_cover(struct move_window *window, struct mover_job *job)
{
	const struct kvd_geometry *g = &job->geometry;

	job->source = job->peer = job->target = UINT32_MAX;
	if (!window->cover_extent || !geometry_valid(window, g))
		return;
	for (int i = 0; i < 2; i++) {
		window->cover_next = (window->cover_next + 1) % g->n_frames;
		*(i ? &job->peer : &job->source) = (window->cover_extent - 1) << g->slot_bits | window->cover_next;
	}
}

static int run_cover(struct move_window *window, const struct mover_job *job)
{
	const struct kvd_geometry *g = &job->geometry;

	if (!geometry_valid(window, g))
		return -EINVAL;
	if (job->kind == MOVER_COVER_SCRUB)
		cover_scrub(g);
	else if (frame_valid(window, g, job->source) && frame_valid(window, g, job->peer))
		cover(window, job);
	return 0;
}

static int run_frames(struct move_window *window, const struct mover_job *job,
		      struct mover_reply *ret)
{
	const struct kvd_geometry *g = &job->geometry;

	if (!geometry_valid(window, g) || !frame_valid(window, g, job->target))
		return -EINVAL;
	if (job->kind == MOVER_SCRUB) {
		scrub(window, g, job->target);
		return 0;
	}
	if (!frame_valid(window, g, job->source))
		return -EINVAL;
	/* COMPARE_COPY whose source is the target: the shared copy is there, it is compared only */
	if (job->source == job->target && job->kind != MOVER_COMPARE_COPY)
		return -EINVAL;
	if (job->kind == MOVER_COMPARE_COPY) {
		if (!frame_valid(window, g, job->peer) || job->peer == job->target)
			return -EINVAL;
		if (!equal(window, g, job->source, job->peer)) {
			ret->differs = 1;
			return 0;
		}
	}
	if (job->source != job->target)
		copy(window, g, job->source, job->target);
	return 0;
}

void move_run(struct move_window *window, const struct mover_job *job, struct mover_reply *ret)
{
	*ret = (struct mover_reply){ .cookie = job->cookie };
	switch (job->kind) {
	case MOVER_FLUSH: return;
	case MOVER_COVER:
	case MOVER_COVER_SCRUB: ret->error = run_cover(window, job); return;
	case MOVER_POPULATE:
		if (!extent_usable(window, job->target)) {
			ret->error = -EINVAL;
			return;
		}
		ret->error = populate(window, job->target);
		if (!ret->error)
			window->cover_extent = job->target + 1;
		return;
	case MOVER_SCRUB_EXTENT:
		if (!extent_usable(window, job->target)) {
			ret->error = -EINVAL;
			return;
		}
		memset(window->base + job->target * window->extent_bytes, 0, window->extent_bytes);
		return;
	case MOVER_SCRUB:
	case MOVER_COPY:
		ret->error = run_frames(window, job, ret);
		if (!ret->error)
			window->cover_extent = (job->target >> job->geometry.slot_bits) + 1;
		return;
	case MOVER_COMPARE_COPY: ret->error = run_frames(window, job, ret); return;
	default: ret->error = -EINVAL;
	}
}
