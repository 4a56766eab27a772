/* memory.c - rules of memory and addresses, broken. */
#include "tests/fakecuda/rules/rules.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

static int call_before_init(void)
{
	int n;

	return (int)cuDeviceGetCount(&n);
}

static int call_after_fork(void)
{
	int status[2], code = 0, n;

	begin();
	if (pipe(status))
		return 98;
	if (fork() == 0) {
		code = (int)cuDeviceGetCount(&n);
		_exit(write(status[1], &code, sizeof(code)) != sizeof(code));
	}
	return read(status[0], &code, sizeof(code)) == sizeof(code) ? code : 98;
}

static int call_without_context(void)
{
	CUdeviceptr p;

	MUST(cuInit(0));
	return (int)cuMemAlloc(&p, 4096);
}

static int create_odd_size(void)
{
	CUmemAllocationProp p = properties();
	CUmemGenericAllocationHandle h;

	begin();
	return (int)cuMemCreate(&h, GRANULARITY + 4096, &p, 0);
}

/* 2 MiB is right on most devices, not on this one. */
static int create_usual_size(void)
{
	CUmemAllocationProp p = properties();
	CUmemGenericAllocationHandle h;

	begin();
	return (int)cuMemCreate(&h, 2 << 20, &p, 0);
}

static int create_on_no_device(void)
{
	CUmemAllocationProp p = properties();
	CUmemGenericAllocationHandle h;

	begin();
	p.location.id = 7;
	return (int)cuMemCreate(&h, GRANULARITY, &p, 0);
}

static int create_rdma_unasked(void)
{
	CUmemAllocationProp p = properties();
	CUmemGenericAllocationHandle h;

	begin();
	return (int)cuMemCreate(&h, GRANULARITY, &p, 0);
}

static int reserve_odd_size(void)
{
	CUdeviceptr p;

	begin();
	return (int)cuMemAddressReserve(&p, GRANULARITY / 2, 0, 0, 0);
}

static int map_at_offset(void)
{
	begin();
	return (int)cuMemMap(reserve(GRANULARITY), GRANULARITY, GRANULARITY, create(2 * GRANULARITY), 0);
}

static int map_part(void)
{
	begin();
	return (int)cuMemMap(reserve(GRANULARITY), GRANULARITY, 0, create(2 * GRANULARITY), 0);
}

static int map_unreserved(void)
{
	CUdeviceptr at;

	begin();
	at = reserve(GRANULARITY);
	return (int)cuMemMap(at, 2 * GRANULARITY, 0, create(2 * GRANULARITY), 0);
}

static int map_twice(void)
{
	begin();
	return (int)cuMemMap(mapped(GRANULARITY, 0), GRANULARITY, 0, create(GRANULARITY), 0);
}

static int unmap_part(void)
{
	begin();
	return (int)cuMemUnmap(mapped(2 * GRANULARITY, 0), GRANULARITY);
}

static int unmap_hole(void)
{
	begin();
	return (int)cuMemUnmap(reserve(GRANULARITY), GRANULARITY);
}

static int free_mapped_addresses(void)
{
	begin();
	return (int)cuMemAddressFree(mapped(GRANULARITY, 0), GRANULARITY);
}

static int free_part_of_addresses(void)
{
	begin();
	return (int)cuMemAddressFree(reserve(2 * GRANULARITY), GRANULARITY);
}

static int access_to_hole(void)
{
	begin();
	return (int)give_access(reserve(GRANULARITY), GRANULARITY, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
}

static int access_to_part(void)
{
	begin();
	return (int)give_access(mapped(2 * GRANULARITY, 0), GRANULARITY, CU_MEM_ACCESS_FLAGS_PROT_READ);
}

static int copy_before_access(void)
{
	char byte = 0;
	CUdeviceptr at;

	begin();
	at = mapped(GRANULARITY, 0);
	cuMemcpyHtoD(at, &byte, 1);
	return (int)cuCtxSynchronize();
}

static int write_to_read_only(void)
{
	CUdeviceptr at;

	begin();
	at = mapped(GRANULARITY, CU_MEM_ACCESS_FLAGS_PROT_READ);
	cuMemsetD8(at, 0, 16);
	return (int)cuCtxSynchronize();
}

static int copy_from_unmapped(void)
{
	char byte;

	begin();
	return (int)cuMemcpyDtoH(&byte, reserve(GRANULARITY), 1);
}

static int copy_past_end(void)
{
	char bytes[32];
	CUdeviceptr at;

	begin();
	MUST(cuMemAlloc(&at, 16));
	return (int)cuMemcpyDtoH(bytes, at, 17);
}

static int export_unexportable(void)
{
	CUmemAllocationProp p = properties();
	CUmemGenericAllocationHandle h;
	int fd;

	begin();
	p.requestedHandleTypes = CU_MEM_HANDLE_TYPE_NONE;
	MUST(cuMemCreate(&h, GRANULARITY, &p, 0));
	return (int)cuMemExportToShareableHandle(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
}

static int export_without_cloexec(void)
{
	CUmemGenericAllocationHandle h;
	int fd;

	begin();
	h = create(GRANULARITY);
	MUST(cuMemExportToShareableHandle(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	execl("/proc/self/exe", "rule", "--rule", "nothing", NULL);
	return 98;
}

static int release_twice(void)
{
	CUmemGenericAllocationHandle h;

	begin();
	h = create(GRANULARITY);
	MUST(cuMemRelease(h));
	return (int)cuMemRelease(h);
}

static int handle_of_another_kind(void)
{
	CUevent e;

	begin();
	MUST(cuEventCreate(&e, 0));
	return (int)cuStreamSynchronize((CUstream)e);
}

static int free_twice(void)
{
	CUdeviceptr p;

	begin();
	MUST(cuMemAlloc(&p, 100));
	MUST(cuMemFree(p));
	return (int)cuMemFree(p);
}

static int host_touches_device(void)
{
	begin();
	return *(volatile char *)mapped(GRANULARITY, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
}

static int copy_swaps_sides(void)
{
	char bytes[16];
	CUdeviceptr p;

	begin();
	MUST(cuMemAlloc(&p, 16));
	return (int)cuMemcpyHtoD((CUdeviceptr)bytes, (const void *)p, 16);
}

static int pin_twice(void)
{
	static char bytes[8192];

	begin();
	MUST(cuMemHostRegister(bytes, 4096, 0));
	return (int)cuMemHostRegister(bytes + 2048, 4096, 0);
}

static int context_where_none_may_be(void)
{
	begin();
	return 0;
}

enum { VALUE = CUDA_ERROR_INVALID_VALUE };
#define R(name, ...) { #name, name, __VA_ARGS__ }
const struct rule rules_memory[] = {
	R(map_at_offset, VALUE, 0, "offset"),
	R(call_before_init, CUDA_ERROR_NOT_INITIALIZED, 0, "before cuInit"),
	R(call_after_fork, CUDA_ERROR_NOT_INITIALIZED, 0, "after fork"),
	R(call_without_context, CUDA_ERROR_INVALID_CONTEXT, 0, "no context is current"),
	R(create_odd_size, VALUE, 0, "granularity"),
	R(create_usual_size, VALUE, 0, "granularity", "FAKECUDA_GRANULARITY=4194304"),
	R(create_on_no_device, CUDA_ERROR_INVALID_DEVICE, 0, "device 7 of 1"),
	R(create_rdma_unasked, CUDA_ERROR_NOT_SUPPORTED, 0, "gpuDirectRDMACapable", "FAKECUDA_NO_RDMA=1"),
	R(reserve_odd_size, VALUE, 0, "multiple of"),
	R(map_part, VALUE, 0, "memory of"),
	R(map_unreserved, VALUE, 0, "no reservation"),
	R(map_twice, CUDA_ERROR_ALREADY_MAPPED, 0, "mapped already"),
	R(unmap_part, VALUE, 0, "not whole mappings"),
	R(unmap_hole, VALUE, 0, "not whole mappings"),
	R(free_mapped_addresses, VALUE, 0, "freed while"),
	R(free_part_of_addresses, VALUE, 0, "no whole reservation"),
	R(access_to_hole, VALUE, 0, "not whole mappings"),
	R(access_to_part, VALUE, 0, "not whole mappings"),
	R(copy_before_access, CUDA_ERROR_ILLEGAL_ADDRESS, 0, "without access", NULL, true),
	R(write_to_read_only, CUDA_ERROR_ILLEGAL_ADDRESS, 0, "without access", NULL, true),
	R(copy_from_unmapped, VALUE, 0, "not all mapped"),
	R(copy_past_end, VALUE, 0, "not all mapped"),
	R(export_unexportable, VALUE, 0, "without a handle type"),
	R(export_without_cloexec, 0, 0, "came through exec"),
	R(release_twice, 0, SIGABRT, "stale memory handle"),
	R(handle_of_another_kind, 0, SIGABRT, "is a event, not a stream"),
	R(free_twice, VALUE, 0, "free already"),
	R(host_touches_device, 0, SIGSEGV, "host code touched device memory"),
	R(copy_swaps_sides, VALUE, 0, "the call wants device memory"),
	R(pin_twice, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, 0, "pinned already"),
	R(context_where_none_may_be, 0, 0, "must never have a context", "FAKECUDA_NO_CONTEXT=rule"),
};
const size_t n_rules_memory = sizeof(rules_memory) / sizeof(rules_memory[0]);
