/* device.h - what the mover does to bytes, on the device that has them.
 *
 * device_host.c: this machine's memory, by load and store.  device_cuda.c: a GPU, in a context of the mover's own,
 * by its copy engines and a stream; a fault there ends the mover and nobody else.  Who calls has checked extents and
 * frames (move.c).  Two threads at most, on frames of their own.  Every call has ended when it returns. */
#ifndef KVD_MOVER_DEVICE_H
#define KVD_MOVER_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvd/geometry.h"

#define DEVICE_ERROR_MAX 768
#define DEVICE_LOST (-ENODEV)      /* of any call: the device is of no more use to this process */

struct device;

struct device_calls {
	void (*close)(struct device *device);
	/* The extent's place in the window is this memory now; fd stays the caller's.  -EINVAL: no such memory. */
	int (*map)(struct device *device, uint32_t extent, int fd);
	/* An extent has all its memory and is zero; of one that was never used. */
	int (*populate)(struct device *device, uint32_t extent);
	int (*zero_extent)(struct device *device, uint32_t extent);
	int (*zero)(struct device *device, const struct kvd_geometry *g, uint32_t frame);
	int (*copy)(struct device *device, const struct kvd_geometry *g, uint32_t source, uint32_t target);
	int (*equal)(struct device *device, const struct kvd_geometry *g, uint32_t a, uint32_t b, bool *ret);
	/* The work of an equal() that finds no difference and of a copy; of a zero().  Nothing comes of it. */
	int (*cover)(struct device *device, const struct kvd_geometry *g, uint32_t a, uint32_t b);
	int (*cover_zero)(struct device *device, const struct kvd_geometry *g);
	/* A frame's planes for a reader: planes[] (n_planes) points at each, in place or in room, which has the bytes
	 * of a page and is staging memory. */
	int (*read)(struct device *device, const struct kvd_geometry *g, uint32_t frame, uint8_t *room,
		    const uint8_t **planes);
	/* The planes one after another, from staging memory, into a frame. */
	int (*write)(struct device *device, const struct kvd_geometry *g, uint32_t frame, const uint8_t *page);
	/* Memory is (or is no longer) staging memory.  Failing costs speed, nothing else. */
	int (*stage)(struct device *device, void *at, size_t bytes);
	void (*unstage)(struct device *device, void *at);
	/* Is nothing of a process that has ended under way on the device?  0; -EAGAIN: not yet. */
	int (*quiet)(struct device *device, uint32_t pid);
	/* Does it still answer? */
	int (*alive)(struct device *device);
};

struct device {                    /* begins each device's own */
	const struct device_calls *calls;
	uint8_t *base;             /* of the window; on a GPU an address of the device */
	uint64_t extent_bytes;
	uint32_t n_extents;
};

/* ordinal -1: this machine.  uuid: 16 bytes, of the GPU that is meant.  A sentence in ret_error (DEVICE_ERROR_MAX). */
int device_open(int ordinal, const uint8_t *uuid, uint64_t extent_bytes, uint32_t n_extents, struct device **ret,
		char *ret_error);
int device_host_open(uint64_t extent_bytes, uint32_t n_extents, struct device **ret);
int device_cuda_open(int ordinal, const uint8_t *uuid, uint64_t extent_bytes, uint32_t n_extents, struct device **ret,
		     char *ret_error);

#endif
