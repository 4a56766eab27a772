/* device.h - one GPU as the plugin uses it: a context, a stream, its memory, its kernels.
 *
 * Owns everything it hands out until device_close().  A failed call is told once, in `error`; where the
 * driver says that the context is lost, every later call fails with the same words. */
#ifndef ENGINE_CUDA_DEVICE_H
#define ENGINE_CUDA_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kvd/cuda/driver.h"

#define DEVICE_MODULES 3

struct device {
	struct driver driver;
	struct driver_facts facts;
	struct driver_context *context;
	struct driver_stream *stream;
	struct driver_event *done;         /* recorded after a step's last command */
	struct driver_module *modules[DEVICE_MODULES];
	uint64_t *buffers;                 /* (n_buffers) device memory */
	uint32_t n_buffers;
	void **pinned;                     /* (n_pinned) page-locked host memory */
	uint32_t n_pinned;
	bool overlaps;                     /* kernels may start before the last has ended: sm_90 on */
	int lost;                          /* the sticky result, or 0 */
	char error[DRIVER_ERROR_MAX];
};

/* Is this GPU one that the kernels were built for?  Opens the driver only.
 * Returns 0 or -errno with a sentence in err (DRIVER_ERROR_MAX bytes). */
int device_facts(int ordinal, struct driver *ret_driver, struct driver_facts *ret, char *err);

int device_open(struct device *d, int ordinal);
void device_close(struct device *d);

/* Zeroed memory, or page-locked host memory. */
int device_alloc(struct device *d, uint64_t bytes, void *ret_at);
int device_alloc_host(struct device *d, uint64_t bytes, void *ret_at);
/* Copy to the device now. */
int device_write(struct device *d, void *to, const void *from, uint64_t bytes);

/* A kernel by name, allowed that much shared memory. */
int device_function(struct device *d, const char *name, uint32_t shared_bytes,
		    struct driver_function **ret);

struct device_shape {
	uint32_t grid_x, grid_y, block, shared_bytes;
};
/* args: the kernel's only argument. */
int device_launch(struct device *d, struct driver_function *f, struct device_shape shape,
		  const void *args);
/* What is launched from here to the end is not done, but becomes a graph: the same launches, given to the
 * stream by one call.  The device owns it.  A failed end leaves the stream as it was. */
int device_graph_begin(struct device *d);
int device_graph_end(struct device *d, struct driver_graph_exec **ret);
int device_graph_launch(struct device *d, struct driver_graph_exec *graph);
void device_graph_drop(struct device *d, struct driver_graph_exec *graph);
/* On the stream, in order with the kernels. */
int device_send(struct device *d, void *to, const void *from_pinned, uint64_t bytes);
int device_fetch(struct device *d, void *to_pinned, const void *from, uint64_t bytes);
/* Everything given to the stream has happened, or the device is lost. */
int device_wait(struct device *d);

#endif
