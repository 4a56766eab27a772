/* device_cuda.c - page bytes on a GPU, touched from the mover's own context.
 *
 * Owns the device's primary context in this process, a stream for each of the two threads, a window of device
 * addresses with the extents mapped into it, and pinned buffers for comparing.  A frame is n_planes blocks at a
 * fixed distance, so each job is one two-dimensional copy or fill.  Bytes go to the host and back through pinned
 * memory by the copy engines: no kernel of ours runs here, so decode keeps its multiprocessors and the mover needs
 * no toolkit; pages are compared on the host, chunk by chunk, the next chunk on its way while one is compared.
 *
 * Result codes: what is sticky becomes DEVICE_LOST, and the mover ends.  Rolled back is everything that was done
 * before a step of map() failed. */
#include "kvd/mover/device.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvd/cuda/driver.h"
#include "kvd/cuda/nvml.h"

#define COMPARE_BYTES (1u << 20)   /* of one side of one chunk; four such are pinned */

/* A thread's own: contexts are current to threads, and one thread must not wait for the other's copies. */
struct lane {
	struct driver_stream *stream;
	struct driver_event *events[2];
	uint8_t *compare;          /* (2 turns, 2 sides, COMPARE_BYTES), pinned; made at the first use */
};

struct device_cuda {
	struct device common;
	struct driver driver;
	struct driver_facts facts;
	struct driver_context *context;
	uint64_t window_bytes, serial;
	struct lane lanes[2];
	uint32_t n_lanes;          /* taken */
	int least_priority;
	uint8_t *mapped;           /* (n_extents) */
	struct nvml nvml;
};

static struct device_cuda *of(struct device *device)
{
	return (struct device_cuda *)device;
}

/* Our errno of a result; every call of this file goes through here. */
static int said(const char *call, int result)
{
	if (result == DRIVER_OK)
		return 0;
	fprintf(stderr, "kvd-mover: %s: %s (%s, %d)\n", call, driver_meaning(result), driver_name(result), result);
	return driver_is_sticky(result) ? DEVICE_LOST : driver_errno(result);
}

static uint64_t address(const struct device_cuda *d, uint32_t extent)
{
	return (uint64_t)(uintptr_t)d->common.base + extent * d->common.extent_bytes;
}

static _Thread_local struct { uint64_t serial; struct lane *lane; } own;
static uint64_t serials;

/* The lane of this thread, made when it first comes.  NULL: the driver said why. */
static struct lane *lane(struct device_cuda *d)
{
	const struct driver *driver = &d->driver;
	struct lane *l;
	uint32_t number;
	int result;

	if (own.serial == d->serial)
		return own.lane;
	number = __atomic_fetch_add(&d->n_lanes, 1, __ATOMIC_RELAXED);
	assert(number < sizeof(d->lanes) / sizeof(d->lanes[0]));
	l = &d->lanes[number];
	result = driver->cuCtxSetCurrent(d->context);
	if (result == DRIVER_OK)
		result = driver->cuStreamCreateWithPriority(&l->stream, DRIVER_STREAM_NON_BLOCKING, d->least_priority);
	for (int i = 0; result == DRIVER_OK && i < 2; i++)
		result = driver->cuEventCreate(&l->events[i], DRIVER_EVENT_NO_TIMING | DRIVER_EVENT_BLOCKING);
	if (said("a stream", result) < 0)
		return NULL;
	own.serial = d->serial;
	own.lane = l;
	return l;
}

/* Work that is queued and cannot be waited for may still write, when kvd has long given its target to somebody else:
 * whatever the driver says here, only this process's end takes it back. */
static int finish(struct device_cuda *d, struct lane *l)
{
	return said("cuStreamSynchronize", d->driver.cuStreamSynchronize(l->stream)) < 0 ? DEVICE_LOST : 0;
}

static int cuda_map(struct device *device, uint32_t extent, int fd)
{
	struct device_cuda *d = of(device);
	struct driver_access access = { { DRIVER_LOCATION_DEVICE, d->facts.device }, DRIVER_ACCESS_READ_WRITE };
	uint64_t at = address(d, extent), bytes = device->extent_bytes, handle;
	int r;

	r = said("cuMemImportFromShareableHandle",
		 d->driver.cuMemImportFromShareableHandle(&handle, (void *)(intptr_t)fd, DRIVER_HANDLE_FD));
	if (r < 0)
		return r;
	if (d->mapped[extent]) {
		r = said("cuCtxSynchronize", d->driver.cuCtxSynchronize());
		if (r == 0)
			r = said("cuMemUnmap", d->driver.cuMemUnmap(at, bytes));
		d->mapped[extent] = r < 0;
	}
	if (r == 0)
		r = said("cuMemMap", d->driver.cuMemMap(at, bytes, 0, handle, 0));
	/* The mapping keeps the memory. */
	(void)d->driver.cuMemRelease(handle);
	if (r < 0)
		return r;
	r = said("cuMemSetAccess", d->driver.cuMemSetAccess(at, bytes, &access, 1));
	if (r < 0)
		(void)d->driver.cuMemUnmap(at, bytes);
	else
		d->mapped[extent] = 1;
	return r;
}

static int cuda_zero_extent(struct device *device, uint32_t extent)
{
	struct device_cuda *d = of(device);
	struct lane *l = lane(d);
	int r = DEVICE_LOST;

	if (l)
		r = said("cuMemsetD32Async",
			 d->driver.cuMemsetD32Async(address(d, extent), 0, device->extent_bytes / 4, l->stream));
	return r < 0 ? r : finish(d, l);
}

static uint64_t frame_at(const struct device_cuda *d, const struct kvd_geometry *g, uint32_t frame)
{
	return (uint64_t)(uintptr_t)d->common.base + kvd_block_offset(g, frame, 0);
}

static int cuda_zero(struct device *device, const struct kvd_geometry *g, uint32_t frame)
{
	struct device_cuda *d = of(device);
	struct lane *l = lane(d);
	int r = DEVICE_LOST;

	if (l)
		r = said("cuMemsetD2D8Async",
			 d->driver.cuMemsetD2D8Async(frame_at(d, g, frame), g->plane_bytes, 0, g->block_bytes,
						     g->n_planes, l->stream));
	return r < 0 ? r : finish(d, l);
}

static int cuda_copy(struct device *device, const struct kvd_geometry *g, uint32_t source, uint32_t target)
{
	struct device_cuda *d = of(device);
	struct lane *l = lane(d);
	const struct driver_copy2d copy = {
		.from_type = DRIVER_SIDE_DEVICE, .from_device = frame_at(d, g, source), .from_pitch = g->plane_bytes,
		.to_type = DRIVER_SIDE_DEVICE, .to_device = frame_at(d, g, target), .to_pitch = g->plane_bytes,
		.width_bytes = g->block_bytes, .height = g->n_planes,
	};
	int r = l ? said("cuMemcpy2DAsync", d->driver.cuMemcpy2DAsync(&copy, l->stream)) : DEVICE_LOST;

	return r < 0 ? r : finish(d, l);
}

/* Planes [first, first + n) of a frame, columns [column, column + width), one after another to the host. */
static int fetch(struct device_cuda *d, struct lane *l, const struct kvd_geometry *g, uint32_t frame, uint32_t first,
		 uint32_t n, uint32_t column, uint32_t width, uint8_t *to)
{
	const struct driver_copy2d copy = {
		.from_type = DRIVER_SIDE_DEVICE,
		.from_device = frame_at(d, g, frame) + first * g->plane_bytes + column,
		.from_pitch = g->plane_bytes,
		.to_type = DRIVER_SIDE_HOST, .to_host = to, .to_pitch = width,
		.width_bytes = width, .height = n,
	};

	return said("cuMemcpy2DAsync", d->driver.cuMemcpy2DAsync(&copy, l->stream));
}

/* One page in chunks that fit COMPARE_BYTES: whole planes, or columns of one. */
struct chunk { uint32_t first, n, column, width; };

static bool chunk_next(const struct kvd_geometry *g, struct chunk *c)
{
	uint32_t per = COMPARE_BYTES / g->block_bytes;

	if (per) {
		c->first += c->n;
		c->n = g->n_planes - c->first < per ? g->n_planes - c->first : per;
		c->column = 0;
		c->width = g->block_bytes;
		return c->n > 0;
	}
	c->column += c->width;
	if (c->n == 0 || c->column == g->block_bytes) {
		c->first += c->n;
		c->column = 0;
	}
	c->n = 1;
	c->width = g->block_bytes - c->column < COMPARE_BYTES ? g->block_bytes - c->column : COMPARE_BYTES;
	return c->first < g->n_planes;
}

static int fetch_both(struct device_cuda *d, struct lane *l, const struct kvd_geometry *g, uint32_t a, uint32_t b,
		      const struct chunk *c, unsigned turn)
{
	uint8_t *to = l->compare + (uint64_t)turn * 2 * COMPARE_BYTES;
	int r = fetch(d, l, g, a, c->first, c->n, c->column, c->width, to);

	if (r == 0)
		r = fetch(d, l, g, b, c->first, c->n, c->column, c->width, to + COMPARE_BYTES);
	return r < 0 ? r : said("cuEventRecord", d->driver.cuEventRecord(l->events[turn], l->stream));
}

/* whole: go on after a difference */
static int compare(struct device_cuda *d, const struct kvd_geometry *g, uint32_t a, uint32_t b, bool whole, bool *ret)
{
	struct lane *l = lane(d);
	struct chunk now = { 0 }, next;
	unsigned turn = 0;
	int r = 0, finished;

	*ret = true;
	if (!l)
		return DEVICE_LOST;
	if (!l->compare)
		r = said("cuMemHostAlloc", d->driver.cuMemHostAlloc((void **)&l->compare, 4 * COMPARE_BYTES, 0));
	chunk_next(g, &now);
	if (r == 0)
		r = fetch_both(d, l, g, a, b, &now, turn);
	for (bool more = true; r == 0 && more && (whole || *ret); now = next, turn ^= 1u) {
		const uint8_t *at = l->compare + (uint64_t)turn * 2 * COMPARE_BYTES;

		next = now;
		more = chunk_next(g, &next);
		if (more)
			r = fetch_both(d, l, g, a, b, &next, turn ^ 1u);
		if (r == 0)
			r = said("cuEventSynchronize", d->driver.cuEventSynchronize(l->events[turn]));
		if (r == 0 && memcmp(at, at + COMPARE_BYTES, (uint64_t)now.n * now.width))
			*ret = false;
	}
	/* What was begun and is not needed any more still writes into the buffers. */
	finished = finish(d, l);
	return finished < 0 ? finished : r;
}

static int cuda_equal(struct device *device, const struct kvd_geometry *g, uint32_t a, uint32_t b, bool *ret)
{
	return compare(of(device), g, a, b, false, ret);
}

/* A copy within the device is a thousandth of the way to the host and back: it is not covered. */
static int cuda_cover(struct device *device, const struct kvd_geometry *g, uint32_t a, uint32_t b)
{
	bool equal;

	return compare(of(device), g, a, b, true, &equal);
}

static int cuda_cover_zero(struct device *device, const struct kvd_geometry *g)
{
	struct device_cuda *d = of(device);
	struct lane *l = lane(d);

	return l ? finish(d, l) : DEVICE_LOST;
}

static int cuda_read(struct device *device, const struct kvd_geometry *g, uint32_t frame, uint8_t *room,
		     const uint8_t **planes)
{
	struct device_cuda *d = of(device);
	struct lane *l = lane(d);
	int r = l ? fetch(d, l, g, frame, 0, g->n_planes, 0, g->block_bytes, room) : DEVICE_LOST;

	for (uint32_t plane = 0; plane < g->n_planes; plane++)
		planes[plane] = room + (uint64_t)plane * g->block_bytes;
	return r < 0 ? r : finish(d, l);
}

static int cuda_write(struct device *device, const struct kvd_geometry *g, uint32_t frame, const uint8_t *page)
{
	struct device_cuda *d = of(device);
	struct lane *l = lane(d);
	const struct driver_copy2d copy = {
		.from_type = DRIVER_SIDE_HOST, .from_host = page, .from_pitch = g->block_bytes,
		.to_type = DRIVER_SIDE_DEVICE, .to_device = frame_at(d, g, frame), .to_pitch = g->plane_bytes,
		.width_bytes = g->block_bytes, .height = g->n_planes,
	};
	int r = l ? said("cuMemcpy2DAsync", d->driver.cuMemcpy2DAsync(&copy, l->stream)) : DEVICE_LOST;

	return r < 0 ? r : finish(d, l);
}

/* Registered rather than allocated: the disk's own DMA goes to the same pages (O_DIRECT). */
static int cuda_stage(struct device *device, void *at, size_t bytes)
{
	struct device_cuda *d = of(device);

	return said("cuMemHostRegister", d->driver.cuMemHostRegister(at, bytes, DRIVER_HOST_PORTABLE));
}

static void cuda_unstage(struct device *device, void *at)
{
	struct device_cuda *d = of(device);

	(void)said("cuMemHostUnregister", d->driver.cuMemHostUnregister(at));
}

static int cuda_alive(struct device *device)
{
	struct device_cuda *d = of(device);
	struct lane *l = lane(d);

	return l ? finish(d, l) : DEVICE_LOST;
}

/* The process has ended for the kernel; its channels may still be torn down.  The device's own list of processes says
 * when that is over.  Where it cannot be asked, an own round trip through the device is all there is. */
static int cuda_quiet(struct device *device, uint32_t pid)
{
	struct device_cuda *d = of(device);
	int r = cuda_alive(device), listed;

	if (r < 0)
		return r;
	listed = nvml_lists_process(&d->nvml, d->facts.bus, pid);
	return listed > 0 ? -EAGAIN : 0;
}

static void cuda_close(struct device *device)
{
	struct device_cuda *d = of(device);

	bool idle = d->context && d->driver.cuCtxSetCurrent(d->context) == DRIVER_OK &&
		    d->driver.cuCtxSynchronize() == DRIVER_OK;

	/* Never under work that is queued: then the process's end unmaps. */
	for (uint32_t i = 0; idle && i < device->n_extents; i++)
		if (d->mapped[i])
			idle = d->driver.cuMemUnmap(address(d, i), device->extent_bytes) == DRIVER_OK;
	if (device->base && idle)
		(void)d->driver.cuMemAddressFree((uint64_t)(uintptr_t)device->base, d->window_bytes);
	for (uint32_t i = 0; i < 2; i++) {
		if (d->lanes[i].compare)
			(void)d->driver.cuMemFreeHost(d->lanes[i].compare);
		for (int e = 0; e < 2; e++)
			if (d->lanes[i].events[e])
				(void)d->driver.cuEventDestroy(d->lanes[i].events[e]);
		if (d->lanes[i].stream)
			(void)d->driver.cuStreamDestroy(d->lanes[i].stream);
	}
	if (d->context)
		(void)d->driver.cuDevicePrimaryCtxRelease(d->facts.device);
	nvml_close(&d->nvml);
	driver_close(&d->driver);
	free(d->mapped);
	free(d);
}

static const struct device_calls cuda_calls = {
	.close = cuda_close, .map = cuda_map, .populate = cuda_zero_extent, .zero_extent = cuda_zero_extent,
	.zero = cuda_zero, .copy = cuda_copy, .equal = cuda_equal, .cover = cuda_cover, .cover_zero = cuda_cover_zero,
	 .read = cuda_read, .write = cuda_write,
	.stage = cuda_stage, .unstage = cuda_unstage, .quiet = cuda_quiet, .alive = cuda_alive,
};

/* The context and the window. */
static int prepare(struct device_cuda *d, const char **ret_call)
{
	const struct driver *driver = &d->driver;
	uint64_t base = 0;
	int greatest, result;

	*ret_call = "cuDevicePrimaryCtxSetFlags";
	result = driver->cuDevicePrimaryCtxSetFlags(d->facts.device, DRIVER_CONTEXT_BLOCKING);
	if (result == DRIVER_OK) {
		*ret_call = "cuDevicePrimaryCtxRetain";
		result = driver->cuDevicePrimaryCtxRetain(&d->context, d->facts.device);
	}
	if (result == DRIVER_OK) {
		*ret_call = "cuCtxSetCurrent";
		result = driver->cuCtxSetCurrent(d->context);
	}
	if (result == DRIVER_OK) {
		*ret_call = "cuCtxGetStreamPriorityRange";
		result = driver->cuCtxGetStreamPriorityRange(&d->least_priority, &greatest);
	}
	if (result == DRIVER_OK) {
		*ret_call = "cuMemAddressReserve";
		result = driver->cuMemAddressReserve(&base, d->window_bytes, 0, 0, 0);
	}
	if (result == DRIVER_OK)
		d->common.base = (uint8_t *)(uintptr_t)base;
	return result;
}

int device_cuda_open(int ordinal, const uint8_t *uuid, uint64_t extent_bytes, uint32_t n_extents, struct device **ret,
		     char *ret_error)
{
	struct device_cuda *d = calloc(1, sizeof(*d));
	const char *call;
	int r, result;

	_Static_assert(DEVICE_ERROR_MAX >= DRIVER_ERROR_MAX, "one sentence");
	if (!d || !(d->mapped = calloc(n_extents, 1))) {
		free(d);
		snprintf(ret_error, DEVICE_ERROR_MAX, "not enough memory");
		return -ENOMEM;
	}
	d->common = (struct device){ .calls = &cuda_calls, .extent_bytes = extent_bytes, .n_extents = n_extents };
	d->window_bytes = extent_bytes * n_extents;
	d->serial = ++serials;
	r = driver_open(&d->driver, ret_error);
	if (r == 0)
		r = driver_device(&d->driver, ordinal, &d->facts, ret_error);
	if (r == 0 && memcmp(d->facts.uuid.bytes, uuid, sizeof(d->facts.uuid.bytes))) {
		snprintf(ret_error, DEVICE_ERROR_MAX, "cuda:%d is another device than kvd's", ordinal);
		r = -ENXIO;
	}
	if (r < 0) {
		d->driver.library = NULL;
		free(d->mapped);
		free(d);
		return r;
	}
	(void)nvml_open(&d->nvml, NULL);
	result = prepare(d, &call);
	if (result != DRIVER_OK) {
		snprintf(ret_error, DEVICE_ERROR_MAX, "cuda:%d: %s: %s (%s, %d)", ordinal, call,
			 driver_meaning(result), driver_name(result), result);
		cuda_close(&d->common);
		return driver_errno(result);
	}
	*ret = &d->common;
	return 0;
}
