/* move.h - the mover's window on the pool and the jobs on it. */
#ifndef KVD_MOVER_MOVE_H
#define KVD_MOVER_MOVE_H

#include <stdbool.h>
#include <stdint.h>

#include "kvd/mover/job.h"

struct device;

struct move_window {
	struct device *device;     /* who touches the bytes */
	uint8_t *base;             /* its window; on a GPU an address of the device */
	uint64_t extent_bytes;
	uint32_t n_extents;
	uint8_t *mapped;           /* (n_extents) 1: there */
	uint32_t cover_extent;     /* + 1: all its memory is resident; what covers read */
	uint32_t cover_next;       /* slot of it that is read next */
};

/* Reserve the window.  0 or -errno (-EINVAL: impossible sizes). */
int move_open(struct move_window *window, uint64_t extent_bytes, uint32_t n_extents);
/* The same on a device (device.h), with a sentence in ret_error (DEVICE_ERROR_MAX). */
int move_open_on(struct move_window *window, int ordinal, const uint8_t *uuid, uint64_t extent_bytes,
		 uint32_t n_extents, char *ret_error);
void move_close(struct move_window *window);

/* Map an extent; fd stays the caller's.  -EINVAL: no such extent, or the file has another size. */
int move_map(struct move_window *window, uint32_t extent, int fd);

/* Is that geometry one of this pool, and the frame there? */
bool move_frame_valid(const struct move_window *window, const struct kvd_geometry *geometry, uint32_t frame);

/* Choose what a COVER job reads: two frames that lie in memory.  Its other fields are not looked at. */
void move_cover(struct move_window *window, struct mover_job *job);

/* Do one job.  Checks every field; never touches memory outside mapped extents.
 * Returns 0 and fills *ret, or reports the error in ret->error. */
void move_run(struct move_window *window, const struct mover_job *job, struct mover_reply *ret);

#endif
