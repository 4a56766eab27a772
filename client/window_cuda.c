/* window_cuda.c - the window on a GPU: device addresses reserved once, extents imported and mapped into them.
 *
 * Owns the driver, a hold on the device's primary context in this process (the engine's kernels run in the same one)
 * and which extents are mapped.  kvd names the device by its UUID: CUDA_VISIBLE_DEVICES may number it otherwise here.
 * A mapping keeps the memory: the imported handle is released at once.  A step that fails takes back those before it.
 *
 * An extent is unmapped only when kvd says so, which is when no table names it and every step that might read it has
 * ended; the context is waited for all the same, because unmapping is not ordered with work that is queued. */
#include "client/window.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client/engine.h"
#include "kvd/cuda/driver.h"

struct kvd_window_device {
	struct driver driver;
	struct driver_facts facts;
	struct driver_context *context; /* NULL: not held */
	uint8_t mapped[];          /* (n_extents) */
};

static int device_failed(struct kvd_engine *e, const char *what, int result)
{
	return kvd_fail(e->error, driver_is_sticky(result) ? -ENODEV : driver_errno(result), "%s: %s (%s, %d)", what,
			driver_meaning(result), driver_name(result), result);
}

/* The device with that UUID, as this process numbers it. */
static int find_device(struct kvd_engine *e, struct kvd_window_device *d)
{
	char error[DRIVER_ERROR_MAX];
	int n = 0, r = driver_open(&d->driver, error);

	if (r < 0)
		return kvd_fail(e->error, r, "kvd's memory is on a GPU; %s", error);
	r = d->driver.cuDeviceGetCount(&n);
	if (r != DRIVER_OK)
		return device_failed(e, "cuDeviceGetCount", r);
	for (int i = 0; i < n; i++) {
		r = driver_device(&d->driver, i, &d->facts, error);
		if (r < 0 && r != -EOPNOTSUPP)
			return kvd_fail(e->error, r, "%s", error);
		if (r == 0 && !memcmp(d->facts.uuid.bytes, e->connection->welcome.device_uuid,
				      sizeof(d->facts.uuid.bytes)))
			return 0;
	}
	return kvd_fail(e->error, -ENODEV, "none of the %d GPUs that this process sees is kvd's; look at "
			"CUDA_VISIBLE_DEVICES and the device cgroup", n);
}

static void cuda_release(struct kvd_engine *e)
{
	struct kvd_window_device *d = e->window_device;
	uint64_t extent_bytes = e->connection->welcome.extent_bytes, at = (uint64_t)(uintptr_t)e->window;

	bool idle = d->context && d->driver.cuCtxSetCurrent(d->context) == DRIVER_OK &&
		    d->driver.cuCtxSynchronize() == DRIVER_OK;

	/* Never under work that is queued: what a lost context holds, the process's end gives back. */
	for (uint32_t i = 0; e->window && idle && i < e->n_extents; i++)
		if (d->mapped[i])
			idle = d->driver.cuMemUnmap(at + i * extent_bytes, extent_bytes) == DRIVER_OK;
	if (e->window && idle)
		(void)d->driver.cuMemAddressFree(at, e->n_extents * extent_bytes);
	if (d->context)
		(void)d->driver.cuDevicePrimaryCtxRelease(d->facts.device);
	driver_close(&d->driver);
	free(d);
	e->window_device = NULL;
}

static int cuda_reserve(struct kvd_engine *e)
{
	struct kvd_window_device *d = calloc(1, sizeof(*d) + e->n_extents);
	uint64_t at = 0;
	int r, result;

	if (!d)
		return kvd_fail(e->error, -ENOMEM, "not enough memory for %u extents", e->n_extents);
	e->window_device = d;
	r = find_device(e, d);
	if (r < 0)
		return r;
	result = d->driver.cuDevicePrimaryCtxRetain(&d->context, d->facts.device);
	if (result != DRIVER_OK) {
		d->context = NULL;
		return device_failed(e, "cuDevicePrimaryCtxRetain", result);
	}
	result = d->driver.cuCtxSetCurrent(d->context);
	if (result != DRIVER_OK)
		return device_failed(e, "cuCtxSetCurrent", result);
	result = d->driver.cuMemAddressReserve(&at, e->n_extents * e->connection->welcome.extent_bytes, 0, 0, 0);
	if (result != DRIVER_OK)
		return device_failed(e, "the window's addresses (cuMemAddressReserve)", result);
	e->window = (uint8_t *)(uintptr_t)at;
	return 0;
}

static int cuda_map(struct kvd_engine *e, uint32_t extent, bool writable, int fd)
{
	struct kvd_window_device *d = e->window_device;
	struct driver_access access = { { DRIVER_LOCATION_DEVICE, d->facts.device },
					writable ? DRIVER_ACCESS_READ_WRITE : DRIVER_ACCESS_READ };
	uint64_t bytes = e->geometry.extent_bytes, at = (uint64_t)(uintptr_t)e->window + extent * bytes, handle;
	int result = d->driver.cuCtxSetCurrent(d->context);

	if (result != DRIVER_OK)
		return device_failed(e, "cuCtxSetCurrent", result);
	/* kvd says it again with other rights: the place is made free first. */
	if (d->mapped[extent]) {
		result = d->driver.cuMemSetAccess(at, bytes, &access, 1);
		return result == DRIVER_OK ? 0 : device_failed(e, "an extent's rights (cuMemSetAccess)", result);
	}
	result = d->driver.cuMemImportFromShareableHandle(&handle, (void *)(intptr_t)fd, DRIVER_HANDLE_FD);
	if (result != DRIVER_OK)
		return device_failed(e, "what kvd sent as an extent cannot be imported", result);
	result = d->driver.cuMemMap(at, bytes, 0, handle, 0);
	(void)d->driver.cuMemRelease(handle);
	if (result != DRIVER_OK)
		return device_failed(e, "an extent cannot be mapped (cuMemMap)", result);
	result = d->driver.cuMemSetAccess(at, bytes, &access, 1);
	if (result != DRIVER_OK) {
		(void)d->driver.cuMemUnmap(at, bytes);
		return device_failed(e, "an extent's rights (cuMemSetAccess)", result);
	}
	d->mapped[extent] = 1;
	return 0;
}

static int cuda_unmap(struct kvd_engine *e, uint32_t extent)
{
	struct kvd_window_device *d = e->window_device;
	uint64_t bytes = e->geometry.extent_bytes, at = (uint64_t)(uintptr_t)e->window + extent * bytes;
	int result;

	if (!d->mapped[extent])
		return 0;
	result = d->driver.cuCtxSetCurrent(d->context);
	if (result == DRIVER_OK)
		result = d->driver.cuCtxSynchronize();
	if (result == DRIVER_OK) {
		result = d->driver.cuMemUnmap(at, bytes);
		/* Where it failed the driver does not say whether it took effect: not tried twice. */
		d->mapped[extent] = 0;
	}
	return result == DRIVER_OK ? 0 : device_failed(e, "an extent cannot be unmapped", result);
}

const struct kvd_window_calls kvd_window_cuda = { cuda_reserve, cuda_release, cuda_map, cuda_unmap };
