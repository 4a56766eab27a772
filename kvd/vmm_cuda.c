/* vmm_cuda.c - extents of a GPU: cuMemCreate, exported once as descriptors.
 *
 * Owns one descriptor per extent and nothing else of the driver: the handle is released as soon as the memory has been
 * exported, for the descriptor alone keeps it, here, in the bundle of a killed kvd and on its way to an engine.  So
 * create and adopt end in the same state.  There is no context in this process: only cuInit, attributes, create,
 * export, import (to see whether a descriptor is one) and release, none of which a fault on the device can reach.
 *
 * An extent has memory from its creation on, and that memory is dirty: the mover zeroes it before anybody maps it.
 * The driver exports with all rights; readable descriptors do not exist here, and what an engine may not write it maps
 * read-only itself.  That guards against bugs, it is no security boundary. */
#include "kvd/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvd/cuda/driver.h"
#include "kvd/sentence.h"

struct vmm_cuda {
	struct vmm common;
	struct driver driver;
	struct driver_memory memory;
	uint64_t granularity_bytes;
	int ordinal;
	int fds[];                 /* (n_extents) -1: not made */
};

#define complain(error, ...) sentence(error, VMM_ERROR_MAX, __VA_ARGS__)

_Static_assert(VMM_ERROR_MAX >= DRIVER_ERROR_MAX, "one sentence");

#define MODE_EXCLUSIVE 3
#define MODE_PROHIBITED 2

/* kvd-mover and every engine need a context of their own: a device for one process, without MPS in between, is of no
 * use, and that is better said before the first of them fails. */
static int check_mode(const struct driver_facts *facts, int ordinal, char *why)
{
	const char *pipes = getenv("CUDA_MPS_PIPE_DIRECTORY");

	if (facts->compute_mode == MODE_PROHIBITED)
		return complain(why, -EBUSY, "cuda:%d (%s) is in compute mode PROHIBITED; "
				"set `nvidia-smi -i %d -c DEFAULT`", ordinal, facts->name, ordinal);
	if (facts->compute_mode == MODE_EXCLUSIVE && access(pipes ? pipes : "/tmp/nvidia-mps", X_OK) < 0)
		return complain(why, -EBUSY, "cuda:%d (%s) is in compute mode EXCLUSIVE_PROCESS and MPS does not run: "
				"kvd-mover and engines could not share it; set `nvidia-smi -i %d -c DEFAULT`", ordinal,
				facts->name, ordinal);
	return 0;
}

/* Find the device, the kind of memory and its granularity. */
static int find(struct driver *driver, int ordinal, struct driver_facts *facts, struct driver_memory *memory,
		uint64_t *ret_granularity, char *why)
{
	size_t granularity = 0;
	int r = driver_open(driver, why), result;

	if (r == 0)
		r = driver_device(driver, ordinal, facts, why);
	if (r < 0)
		return r;
	r = check_mode(facts, ordinal, why);
	if (r < 0)
		return r;
	*memory = driver_extent_memory(facts);
	result = driver->cuMemGetAllocationGranularity(&granularity, memory, DRIVER_GRANULARITY_BEST);
	if (result != DRIVER_OK || !granularity || (granularity & (granularity - 1)))
		return complain(why, result ? driver_errno(result) : -EPROTO,
				"cuda:%d: the granularity of memory is not to be had: %s", ordinal,
				result ? driver_meaning(result) : "it is no power of two");
	*ret_granularity = granularity;
	return 0;
}

int vmm_cuda_find(int ordinal, struct vmm_facts *ret, char *ret_error)
{
	struct driver driver;
	struct driver_facts facts;
	struct driver_memory memory;
	int r;

	*ret = (struct vmm_facts){ .ordinal = ordinal, .fds_per_extent = 1 };
	r = find(&driver, ordinal, &facts, &memory, &ret->granularity_bytes, ret_error);
	if (r < 0)
		return r;
	ret->total_bytes = facts.total_bytes;
	snprintf(ret->bus, sizeof(ret->bus), "%.31s", facts.bus);
	memcpy(ret->uuid, facts.uuid.bytes, sizeof(ret->uuid));
	snprintf(ret->text, sizeof(ret->text), "cuda:%d %.60s %.20s driver %d.%d", ordinal, facts.name, facts.bus,
		 driver.version / 1000, driver.version % 1000 / 10);
	driver_close(&driver);
	return 0;
}

/* Memory of that size, as a descriptor of ours. */
static int create(struct vmm_cuda *vmm, uint64_t bytes, int *ret_fd, const char **ret_call)
{
	const struct driver *driver = &vmm->driver;
	uint64_t handle;
	int fd = -1, result;

	*ret_call = "cuMemCreate";
	result = driver->cuMemCreate(&handle, bytes, &vmm->memory, 0);
	/* A device or driver may say yes and then not mean it (no peer memory module): then without. */
	if (result != DRIVER_OK && vmm->memory.direct_rdma && driver_errno(result) != -ENOMEM) {
		vmm->memory.direct_rdma = 0;
		result = driver->cuMemCreate(&handle, bytes, &vmm->memory, 0);
	}
	if (result != DRIVER_OK)
		return result;
	*ret_call = "cuMemExportToShareableHandle";
	result = driver->cuMemExportToShareableHandle(&fd, handle, DRIVER_HANDLE_FD, 0);
	(void)driver->cuMemRelease(handle);
	if (result == DRIVER_OK && fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
		close(fd);
		return 304;        /* OPERATING_SYSTEM */
	}
	*ret_fd = fd;
	return result;
}

static int cuda_extent_create(struct vmm *common, uint32_t extent)
{
	struct vmm_cuda *vmm = (struct vmm_cuda *)common;
	const char *call;
	int result;

	if (vmm->fds[extent] >= 0)
		return 0;
	result = create(vmm, common->extent_bytes, &vmm->fds[extent], &call);
	if (result == DRIVER_OK)
		return 0;
	vmm->fds[extent] = -1;
	return complain(common->why, driver_errno(result),
			"cuda:%d: extent %u of %u, %llu MiB each: %s: %s (%s); %s", vmm->ordinal, extent,
			common->n_extents, (unsigned long long)(common->extent_bytes >> 20), call,
			driver_meaning(result), driver_name(result),
			driver_errno(result) == -ENOMEM ? "choose a smaller --pool" : "look at `kvctl doctor`");
}

/* The driver tells of no size, and its descriptors have no inodes of their own: what can be checked is that it is
 * memory of this driver, on this device.  Names and order are the bundle's. */
static int cuda_extent_adopt(struct vmm *common, uint32_t extent, int fd)
{
	struct vmm_cuda *vmm = (struct vmm_cuda *)common;
	const struct driver *driver = &vmm->driver;
	struct driver_memory memory = { 0 };
	uint64_t handle;
	int result = driver->cuMemImportFromShareableHandle(&handle, (void *)(intptr_t)fd, DRIVER_HANDLE_FD);

	if (result != DRIVER_OK)
		return complain(common->why, -EINVAL, "extent %u: %s", extent, driver_meaning(result));
	result = driver->cuMemGetAllocationPropertiesFromHandle(&memory, handle);
	(void)driver->cuMemRelease(handle);
	if (result != DRIVER_OK || memory.location.type != vmm->memory.location.type ||
	    memory.location.id != vmm->memory.location.id)
		return complain(common->why, -EINVAL, "extent %u is memory of another device", extent);
	vmm->fds[extent] = fd;
	return 0;
}

static int cuda_extent_fd(const struct vmm *common, uint32_t extent, bool writable)
{
	const struct vmm_cuda *vmm = (const struct vmm_cuda *)common;

	return vmm->fds[extent] < 0 ? -ENOENT : vmm->fds[extent];
}

static int cuda_block_create(struct vmm *common, uint64_t bytes, int *ret_fd)
{
	struct vmm_cuda *vmm = (struct vmm_cuda *)common;
	uint64_t whole = (bytes + vmm->granularity_bytes - 1) & ~(vmm->granularity_bytes - 1);
	const char *call;
	int result;

	if (!bytes || whole < bytes)
		return complain(common->why, -EINVAL, "a block of %llu bytes makes no sense",
				(unsigned long long)bytes);
	result = create(vmm, whole, ret_fd, &call);
	return result == DRIVER_OK ? 0
				   : complain(common->why, driver_errno(result), "cuda:%d: %llu MiB: %s: %s (%s)",
					      vmm->ordinal, (unsigned long long)(whole >> 20), call,
					      driver_meaning(result), driver_name(result));
}

static void cuda_close(struct vmm *common)
{
	struct vmm_cuda *vmm = (struct vmm_cuda *)common;

	for (uint32_t i = 0; i < common->n_extents; i++)
		if (vmm->fds[i] >= 0)
			close(vmm->fds[i]);
	driver_close(&vmm->driver);
	free(vmm);
}

static const struct vmm_calls cuda_calls = { cuda_close, cuda_extent_create, cuda_extent_adopt, cuda_extent_fd,
					     cuda_block_create };

int vmm_cuda_open(int ordinal, uint64_t extent_bytes, uint32_t n_extents, struct vmm **ret, char *ret_error)
{
	struct vmm_cuda *vmm = calloc(1, sizeof(*vmm) + n_extents * sizeof(vmm->fds[0]));
	struct driver_facts facts;
	int r;

	if (!vmm)
		return complain(ret_error, -ENOMEM, "not enough memory for %u extents", n_extents);
	vmm->common = (struct vmm){ .calls = &cuda_calls, .extent_bytes = extent_bytes, .n_extents = n_extents };
	vmm->ordinal = ordinal;
	r = find(&vmm->driver, ordinal, &facts, &vmm->memory, &vmm->granularity_bytes, ret_error);
	if (r == 0 && extent_bytes % vmm->granularity_bytes)
		r = complain(ret_error, -EINVAL, "cuda:%d: extents of %llu bytes are no multiple of the device's %llu; "
			     "give a larger --extent", ordinal, (unsigned long long)extent_bytes,
			     (unsigned long long)vmm->granularity_bytes);
	if (r < 0) {
		free(vmm);
		return r;
	}
	for (uint32_t i = 0; i < n_extents; i++)
		vmm->fds[i] = -1;
	*ret = &vmm->common;
	return 0;
}
