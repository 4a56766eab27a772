/* context.c - devices and contexts.  The stack of current contexts is the thread's own, as in the driver.  A
 * program named by FAKECUDA_NO_CONTEXT may have none (kvd: a fault of a context would end it). */
#include "tests/fakecuda/fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STACK_MAX = 16 };
static __thread uint64_t stack[STACK_MAX];
static __thread int depth;
static struct context *primaries[4];

struct context *context_current(void)
{
	return depth && stack[depth - 1] ? handle_get(KIND_CONTEXT, stack[depth - 1]) : NULL;
}

static CUresult check_device(CUdevice device)
{
	if (device < 0 || device >= fake.set.n_devices)
		return fake_breach(CUDA_ERROR_INVALID_DEVICE, "device %d of %d", device, fake.set.n_devices);
	return CUDA_SUCCESS;
}

static CUresult context_new(CUdevice device, unsigned flags, bool primary, struct context **ret)
{
	const char *without = getenv("FAKECUDA_NO_CONTEXT");
	CUresult r = check_device(device);

	if (r)
		return r;
	if (without && !strcmp(without, fake.program))
		fake_breach(CUDA_SUCCESS, "this program must never have a context");
	if (flags & ~(unsigned)(CU_CTX_SCHED_MASK | CU_CTX_MAP_HOST | CU_CTX_LMEM_RESIZE_TO_MAX))
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "context flags %#x", flags);
	r = slot_claim_device(device);
	if (r)
		return r;
	struct context *c = calloc(1, sizeof(*c));

	if (!c)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*c = (struct context){ .device = device, .flags = flags, .references = 1, .primary = primary };
	c->handle = handle_new(KIND_CONTEXT, c);
	*ret = c;
	return CUDA_SUCCESS;
}

/* ---- devices ---- */

API cuDeviceGetCount(int *count)
{
	ENTER(NEED_INIT);
	*count = fake.set.n_devices;
	return CUDA_SUCCESS;
}

API cuDeviceGet(CUdevice *device, int ordinal)
{
	ENTER(NEED_INIT);
	/* How a program asks whether there is such a device: no breach. */
	if (ordinal < 0 || ordinal >= fake.set.n_devices)
		return CUDA_ERROR_INVALID_DEVICE;
	*device = ordinal;
	return CUDA_SUCCESS;
}

API cuDeviceGetName(char *name, int len, CUdevice dev)
{
	ENTER(NEED_INIT);
	CUresult r = check_device(dev);

	if (r == CUDA_SUCCESS)
		snprintf(name, (size_t)len, "fakecuda device");
	return r;
}

API cuDeviceGetUuid(CUuuid *uuid, CUdevice dev)
{
	ENTER(NEED_INIT);
	CUresult r = check_device(dev);

	if (r == CUDA_SUCCESS) {
		memset(uuid, 0xfa, sizeof(*uuid));
		uuid->bytes[15] = (char)dev;
	}
	return r;
}

API cuDeviceGetPCIBusId(char *text, int len, CUdevice dev)
{
	ENTER(NEED_INIT);
	CUresult r = check_device(dev);

	if (r == CUDA_SUCCESS)
		snprintf(text, (size_t)len, "0000:%02x:00.0", dev + 1);
	return r;
}

API cuDeviceTotalMem(size_t *bytes, CUdevice dev)
{
	ENTER(NEED_INIT);
	size_t unused;
	CUresult r = check_device(dev);

	if (r == CUDA_SUCCESS)
		slot_usage(dev, &unused, bytes);
	return r;
}

static const struct { CUdevice_attribute attribute; int value; } attributes[] = {
	{ CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024 },
	{ CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024 },
	{ CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024 },
	{ CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64 },
	{ CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 2147483647 },
	{ CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535 },
	{ CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535 },
	{ CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 49152 },
	{ CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 232448 },
	{ CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 233472 },
	{ CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, 1024 },
	{ CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536 },
	{ CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536 },
	{ CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048 },
	{ CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 32 },
	{ CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32 },
	{ CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536 },
	{ CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132 },
	{ CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1980000 },
	{ CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 3201000 },
	{ CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 6144 },
	{ CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 52428800 },
	{ CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9 },
	{ CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0 },
	{ CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3 },
	{ CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1 },
	{ CU_DEVICE_ATTRIBUTE_ECC_ENABLED, 1 },
	{ CU_DEVICE_ATTRIBUTE_INTEGRATED, 0 },
	{ CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1 },
	{ CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1 },
	{ CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1 },
	{ CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1 },
	{ CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1 },
	{ CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1 },
	{ CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, 1 },
	{ CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR, 1 },
	{ CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED, 1 },
	{ CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, 1 },
	{ CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 0 },
	{ CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED, 0 },
	{ CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED, 1 },
	{ CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, 1 },
	{ CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, 0 },
	{ CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, 0 },
	{ CU_DEVICE_ATTRIBUTE_MPS_ENABLED, 0 },
};

API cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev)
{
	ENTER(NEED_INIT);
	CUresult r = check_device(dev);

	if (r)
		return r;
	switch (attrib) {
	case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE:
		*pi = fake.set.exclusive ? CU_COMPUTEMODE_EXCLUSIVE_PROCESS : CU_COMPUTEMODE_DEFAULT;
		return CUDA_SUCCESS;
	case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
		*pi = !fake.set.no_vmm;
		return CUDA_SUCCESS;
	case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED:
	case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED:
		*pi = !fake.set.no_rdma;
		return CUDA_SUCCESS;
	default:
		break;
	}
	for (size_t i = 0; i < sizeof(attributes) / sizeof(attributes[0]); i++)
		if (attributes[i].attribute == attrib) {
			*pi = attributes[i].value;
			return CUDA_SUCCESS;
		}
	fake_log("attribute %d is not in the double's table", (int)attrib);
	return CUDA_ERROR_INVALID_VALUE;
}

/* ---- contexts ---- */

static CUresult push(uint64_t handle)
{
	if (depth == STACK_MAX)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "more than %d contexts pushed", STACK_MAX);
	stack[depth++] = handle;
	return CUDA_SUCCESS;
}

static CUresult create(CUcontext *pctx, unsigned flags, CUdevice dev)
{
	struct context *c;
	CUresult r = context_new(dev, flags, false, &c);

	if (r)
		return r;
	*pctx = (CUcontext)c->handle;
	return push(c->handle);
}

API cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev);
API cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
	ENTER(NEED_INIT);
	LOCKED(create(pctx, flags, dev));
}

API cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *params, unsigned int flags, CUdevice dev)
{
	ENTER(NEED_INIT);
	if (params && (params->numExecAffinityParams || params->cigParams))
		return fake_breach(CUDA_ERROR_NOT_SUPPORTED, "execution affinity is not there");
	LOCKED(create(pctx, flags, dev));
}

/* What stayed open in it goes with it in the driver; the double wants it given back. */
static CUresult destroy(uint64_t handle)
{
	struct context *c = handle_get(KIND_CONTEXT, handle);

	if (c->primary)
		return fake_breach(CUDA_ERROR_INVALID_CONTEXT, "a primary context is released, not destroyed");
	if (handle_count(KIND_STREAM) || handle_count(KIND_EVENT) || handle_count(KIND_MODULE))
		fake_log("a context is destroyed with %u streams, %u events, %u modules in this process",
			 handle_count(KIND_STREAM), handle_count(KIND_EVENT), handle_count(KIND_MODULE));
	handle_drop(KIND_CONTEXT, handle);
	free(c);
	while (depth && stack[depth - 1] == handle)
		depth--;
	return CUDA_SUCCESS;
}

/* A context may be taken down after a fault, so that its process can end in order. */
API cuCtxDestroy(CUcontext ctx)
{
	CUresult r = fake_enter(__func__, NEED_INIT);

	if (r && r != fake.sticky)
		return r;
	fake_lock();
	if (!fake.sticky)
		queue_wait(NULL);
	return fake_unlocked(destroy(HANDLE(ctx)));
}

API cuCtxPushCurrent(CUcontext ctx)
{
	ENTER(NEED_INIT);
	fake_lock();
	handle_get(KIND_CONTEXT, HANDLE(ctx));
	return fake_unlocked(push(HANDLE(ctx)));
}

API cuCtxPopCurrent(CUcontext *pctx)
{
	ENTER(NEED_CONTEXT);
	depth--;
	if (pctx)
		*pctx = (CUcontext)stack[depth];
	return CUDA_SUCCESS;
}

API cuCtxSetCurrent(CUcontext ctx)
{
	ENTER(NEED_INIT);
	fake_lock();
	if (!ctx) {
		depth -= depth > 0;
		return fake_unlocked(CUDA_SUCCESS);
	}
	handle_get(KIND_CONTEXT, HANDLE(ctx));
	if (depth == 0)
		return fake_unlocked(push(HANDLE(ctx)));
	stack[depth - 1] = HANDLE(ctx);
	return fake_unlocked(CUDA_SUCCESS);
}

API cuCtxGetCurrent(CUcontext *pctx)
{
	ENTER(NEED_INIT);
	*pctx = depth ? (CUcontext)stack[depth - 1] : NULL;
	return CUDA_SUCCESS;
}

API cuCtxGetDevice(CUdevice *device)
{
	ENTER(NEED_CONTEXT);
	*device = context_current()->device;
	return CUDA_SUCCESS;
}

API cuCtxGetApiVersion(CUcontext ctx, unsigned int *version)
{
	ENTER(NEED_CONTEXT);
	*version = 3020;
	return CUDA_SUCCESS;
}

API cuCtxSynchronize(void)
{
	ENTER(NEED_CONTEXT);
	if (capture_forbids())
		return fake_breach(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "waiting for the context during a capture");
	fake_lock();
	return fake_unlocked(queue_wait(NULL));
}

API cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
	ENTER(NEED_CONTEXT);
	if (least)
		*least = 0;
	if (greatest)
		*greatest = -5;
	return CUDA_SUCCESS;
}

API cuCtxSetLimit(CUlimit limit, size_t value)
{
	ENTER(NEED_CONTEXT);
	if ((unsigned)limit >= CU_LIMIT_MAX)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "limit %d", (int)limit);
	return CUDA_SUCCESS;
}

static CUresult primary_retain(CUcontext *pctx, CUdevice dev)
{
	CUresult r = check_device(dev);

	if (r)
		return r;
	if (!primaries[dev]) {
		r = context_new(dev, 0, true, &primaries[dev]);
		if (r)
			return r;
	} else {
		primaries[dev]->references++;
	}
	*pctx = (CUcontext)primaries[dev]->handle;
	return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
	ENTER(NEED_INIT);
	LOCKED(primary_retain(pctx, dev));
}

static CUresult primary_release(CUdevice dev)
{
	CUresult r = check_device(dev);

	if (r)
		return r;
	if (!primaries[dev])
		return fake_breach(CUDA_ERROR_INVALID_CONTEXT, "the primary context of device %d is not retained", dev);
	if (--primaries[dev]->references == 0) {
		if (!fake.sticky)
			queue_wait(NULL);
		handle_drop(KIND_CONTEXT, primaries[dev]->handle);
		free(primaries[dev]);
		primaries[dev] = NULL;
	}
	return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxRelease(CUdevice dev)
{
	CUresult r = fake_enter(__func__, NEED_INIT);

	if (r && r != fake.sticky)
		return r;
	LOCKED(primary_release(dev));
}

API cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned int flags)
{
	ENTER(NEED_INIT);
	CUresult r = check_device(dev);

	if (r == CUDA_SUCCESS && primaries[dev])
		primaries[dev]->flags = flags;
	return r;
}

API cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active)
{
	ENTER(NEED_INIT);
	CUresult r = check_device(dev);

	if (r == CUDA_SUCCESS) {
		*flags = primaries[dev] ? primaries[dev]->flags : 0;
		*active = primaries[dev] != NULL;
	}
	return r;
}
