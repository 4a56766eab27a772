/* device.c - one GPU as the plugin uses it; see device.h.  The engine's thread only. */
#include "engine/cuda/device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* images.S */
extern const char device_image_rows[], device_image_product[], device_image_attention[];

static int fail(struct device *d, const char *what, int result)
{
	if (result == DRIVER_OK)
		return 0;
	snprintf(d->error, sizeof(d->error), "cuda:%s: %s: %s (%s, %d)", d->facts.bus, what,
		 driver_meaning(result), driver_name(result), result);
	if (driver_is_sticky(result))
		d->lost = result;
	return driver_errno(result);
}

int device_facts(int ordinal, struct driver *ret_driver, struct driver_facts *ret, char *err)
{
	int r = driver_open(ret_driver, err);

	if (r == 0)
		r = driver_device(ret_driver, ordinal, ret, err);
	if (r == 0 && ret->major < 8) {
		snprintf(err, DRIVER_ERROR_MAX, "cuda:%d (%s) has compute capability %d.%d; the kernels need "
			 "8.0 (A100) or later", ordinal, ret->name, ret->major, ret->minor);
		r = -EOPNOTSUPP;
	}
	return r;
}

static int load_modules(struct device *d)
{
	const char *const images[DEVICE_MODULES] = { device_image_rows, device_image_product,
						     device_image_attention };

	for (int i = 0; i < DEVICE_MODULES; i++) {
		int r = fail(d, "the kernels cannot be loaded",
			     d->driver.cuModuleLoadData(&d->modules[i], images[i]));
		if (r < 0) {
			d->modules[i] = NULL;
			return r;
		}
	}
	return 0;
}

int device_open(struct device *d, int ordinal)
{
	int r;

	*d = (struct device){ 0 };
	r = device_facts(ordinal, &d->driver, &d->facts, d->error);
	if (r < 0)
		return r;
	d->overlaps = d->facts.major >= 9;
	r = fail(d, "no context on it",
		 d->driver.cuDevicePrimaryCtxRetain(&d->context, d->facts.device));
	if (r < 0) {
		d->context = NULL;
		return r;
	}
	r = fail(d, "its context cannot be used", d->driver.cuCtxSetCurrent(d->context));
	if (r == 0)
		r = fail(d, "no stream", d->driver.cuStreamCreate(&d->stream, DRIVER_STREAM_NON_BLOCKING));
	if (r == 0)
		r = fail(d, "no event", d->driver.cuEventCreate(&d->done, DRIVER_EVENT_NO_TIMING));
	return r == 0 ? load_modules(d) : r;
}

void device_close(struct device *d)
{
	if (!d->context)
		return;
	if (d->stream)
		(void)d->driver.cuStreamSynchronize(d->stream);
	for (int i = 0; i < DEVICE_MODULES; i++)
		if (d->modules[i])
			(void)d->driver.cuModuleUnload(d->modules[i]);
	for (uint32_t i = 0; i < d->n_buffers; i++)
		(void)d->driver.cuMemFree(d->buffers[i]);
	for (uint32_t i = 0; i < d->n_pinned; i++)
		(void)d->driver.cuMemFreeHost(d->pinned[i]);
	if (d->done)
		(void)d->driver.cuEventDestroy(d->done);
	if (d->stream)
		(void)d->driver.cuStreamDestroy(d->stream);
	(void)d->driver.cuDevicePrimaryCtxRelease(d->facts.device);
	free(d->buffers);
	free(d->pinned);
	driver_close(&d->driver);
	*d = (struct device){ 0 };
}

/* Room for one more element. */
static int grow(struct device *d, void *array, uint32_t n, size_t bytes)
{
	void *old, *more;

	memcpy(&old, array, sizeof(old));
	more = reallocarray(old, n + 1u, bytes);
	if (!more) {
		snprintf(d->error, sizeof(d->error), "out of memory");
		return -ENOMEM;
	}
	memcpy(array, &more, sizeof(more));
	return 0;
}

int device_alloc(struct device *d, uint64_t bytes, void *ret_at)
{
	char what[64];
	uint64_t at = 0;
	int r = grow(d, &d->buffers, d->n_buffers, sizeof(*d->buffers));

	if (r < 0)
		return r;
	snprintf(what, sizeof(what), "no %llu MiB of device memory", (unsigned long long)(bytes >> 20) + 1);
	r = fail(d, what, d->driver.cuMemAlloc(&at, bytes));
	if (r < 0)
		return r;
	d->buffers[d->n_buffers++] = at;
	r = fail(d, "clearing device memory", d->driver.cuMemsetD8Async(at, 0, bytes, d->stream));
	/* before anybody writes it by other ways than the stream */
	if (r == 0)
		r = fail(d, "clearing device memory", d->driver.cuStreamSynchronize(d->stream));
	memcpy(ret_at, &at, sizeof(at));
	return r;
}

int device_alloc_host(struct device *d, uint64_t bytes, void *ret_at)
{
	void *at = NULL;
	int r = grow(d, &d->pinned, d->n_pinned, sizeof(*d->pinned));

	if (r == 0)
		r = fail(d, "no page-locked host memory", d->driver.cuMemHostAlloc(&at, bytes, 0));
	if (r == 0)
		d->pinned[d->n_pinned++] = at;
	memcpy(ret_at, &at, sizeof(at));
	return r;
}

int device_write(struct device *d, void *to, const void *from, uint64_t bytes)
{
	return fail(d, "copying to the device",
		    d->driver.cuMemcpyHtoD((uint64_t)(uintptr_t)to, from, bytes));
}

int device_function(struct device *d, const char *name, uint32_t shared_bytes,
		    struct driver_function **ret)
{
	int result = 0;

	*ret = NULL;
	for (int i = 0; i < DEVICE_MODULES && !*ret; i++) {
		result = d->driver.cuModuleGetFunction(ret, d->modules[i], name);
		if (result != DRIVER_OK)
			*ret = NULL;
	}
	if (!*ret)
		return fail(d, name, result);
	if (shared_bytes <= 48u << 10)
		return 0;
	return fail(d, name, d->driver.cuFuncSetAttribute(*ret, DRIVER_FUNCTION_SHARED_BYTES_MAX,
							  (int)shared_bytes));
}

int device_launch(struct device *d, struct driver_function *f, struct device_shape s,
		  const void *args)
{
	void *parameters[] = { (void *)args };
	struct driver_launch_attribute overlap = { .id = DRIVER_LAUNCH_PROGRAMMATIC_SERIAL, .flag = 1 };
	struct driver_launch launch = { s.grid_x, s.grid_y, 1, s.block, 1, 1, s.shared_bytes, d->stream,
					&overlap, 1 };

	if (s.grid_x == 0 || s.grid_y == 0)
		return 0;
	if (!d->overlaps)
		launch.n_attributes = 0;
	return fail(d, "launching a kernel", d->driver.cuLaunchKernelEx(&launch, f, parameters, NULL));
}

int device_graph_begin(struct device *d)
{
	return fail(d, "recording a graph",
		    d->driver.cuStreamBeginCapture(d->stream, DRIVER_CAPTURE_THREAD));
}

int device_graph_end(struct device *d, struct driver_graph_exec **ret)
{
	struct driver_graph *graph = NULL;
	int r = fail(d, "recording a graph", d->driver.cuStreamEndCapture(d->stream, &graph));

	*ret = NULL;
	if (r < 0) {
		/* a stream that went on recording would take every later launch with it */
		if (d->driver.cuStreamEndCapture(d->stream, &graph) == DRIVER_OK)
			(void)d->driver.cuGraphDestroy(graph);
		return r;
	}
	r = fail(d, "making a graph", d->driver.cuGraphInstantiateWithFlags(ret, graph, 0));
	(void)d->driver.cuGraphDestroy(graph);
	if (r < 0)
		*ret = NULL;
	return r;
}

int device_graph_launch(struct device *d, struct driver_graph_exec *graph)
{
	return fail(d, "launching a graph", d->driver.cuGraphLaunch(graph, d->stream));
}

void device_graph_drop(struct device *d, struct driver_graph_exec *graph)
{
	(void)d->driver.cuGraphExecDestroy(graph);
}

int device_send(struct device *d, void *to, const void *from_pinned, uint64_t bytes)
{
	return fail(d, "copying to the device",
		    d->driver.cuMemcpyHtoDAsync((uint64_t)(uintptr_t)to, from_pinned, bytes, d->stream));
}

int device_fetch(struct device *d, void *to_pinned, const void *from, uint64_t bytes)
{
	return fail(d, "copying from the device",
		    d->driver.cuMemcpyDtoHAsync(to_pinned, (uint64_t)(uintptr_t)from, bytes, d->stream));
}

int device_wait(struct device *d)
{
	int r = fail(d, "ending a step", d->driver.cuEventRecord(d->done, d->stream));

	return r < 0 ? r : fail(d, "a step", d->driver.cuEventSynchronize(d->done));
}
