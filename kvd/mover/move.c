/* move.c - populate, scrub, compare, copy: the jobs, checked, and then given to the device that has the bytes.
 *
 * Owns the mover's window.  One thread.  Everything a job says is checked here, so that a device never sees an extent
 * that is not mapped or a frame outside one. */
#include "kvd/mover/move.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvd/mover/device.h"

int move_open_on(struct move_window *window, int ordinal, const uint8_t *uuid, uint64_t extent_bytes,
		 uint32_t n_extents, char *ret_error)
{
	int r = -EINVAL;

	*window = (struct move_window){ .extent_bytes = extent_bytes, .n_extents = n_extents };
	snprintf(ret_error, DEVICE_ERROR_MAX, "%u extents of %llu bytes make no sense", n_extents,
		 (unsigned long long)extent_bytes);
	if (extent_bytes < 4096 || (extent_bytes & (extent_bytes - 1)) || !n_extents ||
	    n_extents > (UINT64_MAX >> 17) / extent_bytes)
		return r;
	window->mapped = calloc(n_extents, 1);
	r = window->mapped ? device_open(ordinal, uuid, extent_bytes, n_extents, &window->device, ret_error) : -ENOMEM;
	if (r < 0) {
		free(window->mapped);
		*window = (struct move_window){ 0 };
		return r;
	}
	window->base = window->device->base;
	return 0;
}

int move_open(struct move_window *window, uint64_t extent_bytes, uint32_t n_extents)
{
	char error[DEVICE_ERROR_MAX];

	return move_open_on(window, -1, NULL, extent_bytes, n_extents, error);
}

void move_close(struct move_window *window)
{
	if (window->device)
		window->device->calls->close(window->device);
	free(window->mapped);
	*window = (struct move_window){ 0 };
}

int move_map(struct move_window *window, uint32_t extent, int fd)
{
	int r;

	if (extent >= window->n_extents)
		return -EINVAL;
	r = window->device->calls->map(window->device, extent, fd);
	if (r == 0)
		window->mapped[extent] = 1;
	return r;
}

static bool extent_usable(const struct move_window *window, uint32_t extent)
{
	return extent < window->n_extents && window->mapped[extent];
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
		return window->device->calls->cover_zero(window->device, g);
	if (frame_valid(window, g, job->source) && frame_valid(window, g, job->peer))
		return window->device->calls->cover(window->device, g, job->source, job->peer);
	return 0;
}

static int run_frames(struct move_window *window, const struct mover_job *job,
		      struct mover_reply *ret)
{
	const struct kvd_geometry *g = &job->geometry;
	const struct device_calls *calls = window->device->calls;
	bool equal;
	int r;

	if (!geometry_valid(window, g) || !frame_valid(window, g, job->target))
		return -EINVAL;
	if (job->kind == MOVER_SCRUB)
		return calls->zero(window->device, g, job->target);
	if (!frame_valid(window, g, job->source))
		return -EINVAL;
	/* COMPARE_COPY whose source is the target: the shared copy is there, it is compared only */
	if (job->source == job->target && job->kind != MOVER_COMPARE_COPY)
		return -EINVAL;
	if (job->kind == MOVER_COMPARE_COPY) {
		if (!frame_valid(window, g, job->peer) || job->peer == job->target)
			return -EINVAL;
		r = calls->equal(window->device, g, job->source, job->peer, &equal);
		ret->differs = r == 0 && !equal;
		if (r < 0 || !equal)
			return r;
	}
	return job->source == job->target ? 0 : calls->copy(window->device, g, job->source, job->target);
}

void move_run(struct move_window *window, const struct mover_job *job, struct mover_reply *ret)
{
	*ret = (struct mover_reply){ .cookie = job->cookie };
	switch (job->kind) {
	case MOVER_FLUSH: ret->error = window->device->calls->quiet(window->device, job->target); return;
	case MOVER_COVER:
	case MOVER_COVER_SCRUB: ret->error = run_cover(window, job); return;
	case MOVER_POPULATE:
	case MOVER_SCRUB_EXTENT:
		if (!extent_usable(window, job->target))
			ret->error = -EINVAL;
		else if (job->kind == MOVER_POPULATE)
			ret->error = window->device->calls->populate(window->device, job->target);
		else
			ret->error = window->device->calls->zero_extent(window->device, job->target);
		if (ret->error == 0)
			window->cover_extent = job->target + 1;
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
