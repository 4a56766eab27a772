/* window.h - where an engine's extents appear: in this process's memory, or on the GPU that kvd says its memory is of.
 *
 * Chosen by what WELCOME says of the device, when the window is reserved.  Between them the calls of a device keep one
 * promise: what is not mapped faults, and a failed map() leaves the place as it was. */
#ifndef CLIENT_WINDOW_H
#define CLIENT_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

struct kvd_engine;
struct kvd_window_device;          /* what a device keeps; NULL for this machine's memory */

struct kvd_window_calls {
	/* Reserve welcome.pool_bytes: sets e->window.  0, or -errno and a sentence in e->error. */
	int (*reserve)(struct kvd_engine *e);
	void (*release)(struct kvd_engine *e);
	/* fd stays the caller's. */
	int (*map)(struct kvd_engine *e, uint32_t extent, bool writable, int fd);
	int (*unmap)(struct kvd_engine *e, uint32_t extent);
};

extern const struct kvd_window_calls kvd_window_host, kvd_window_cuda;

#endif
