/* vmm.c - which device: see vmm.h.  Holds nothing. */
#include "kvd/vmm.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "kvd/cuda/driver.h"

int vmm_find(const char *device, struct vmm_facts *ret, char *ret_error)
{
	int ordinal, r = driver_device_parse(device, &ordinal);

	*ret_error = '\0';
	if (r < 0)
		snprintf(ret_error, VMM_ERROR_MAX, "--device %.64s; write host, cuda or cuda:N", device);
	else
		r = ordinal < 0 ? vmm_host_find(ret) : vmm_cuda_find(ordinal, ret, ret_error);
	return r;
}

int vmm_open(const char *device, uint64_t extent_bytes, uint32_t n_extents, struct vmm **ret, char *ret_error)
{
	int ordinal, r = driver_device_parse(device, &ordinal);

	*ret_error = '\0';
	if (r == 0)
		r = ordinal < 0 ? vmm_host_open(extent_bytes, n_extents, ret)
				: vmm_cuda_open(ordinal, extent_bytes, n_extents, ret, ret_error);
	if (r < 0 && !*ret_error)
		snprintf(ret_error, VMM_ERROR_MAX, "%.64s: %s", device, strerror(-r));
	return r;
}

void vmm_close(struct vmm *vmm)
{
	if (vmm)
		vmm->calls->close(vmm);
}

int vmm_extent_create(struct vmm *vmm, uint32_t extent)
{
	assert(extent < vmm->n_extents);
	return vmm->calls->extent_create(vmm, extent);
}

int vmm_extent_adopt(struct vmm *vmm, uint32_t extent, int fd)
{
	assert(extent < vmm->n_extents);
	return vmm->calls->extent_adopt(vmm, extent, fd);
}

int vmm_extent_fd(const struct vmm *vmm, uint32_t extent, bool writable)
{
	assert(extent < vmm->n_extents);
	return vmm->calls->extent_fd(vmm, extent, writable);
}

int vmm_block_create(struct vmm *vmm, uint64_t bytes, int *ret_fd)
{
	return vmm->calls->block_create(vmm, bytes, ret_fd);
}

const char *vmm_why(const struct vmm *vmm)
{
	return vmm->why;
}
