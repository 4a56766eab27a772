/* test_cuda_abi.c - our own declarations of the driver (kvd/cuda/driver.h, driver.def) against the toolkit's cuda.h,
 * where there is one: each function's type, structure's layout and constant, while this is compiled.  And the
 * translation of results, the names of devices. */
#include "kvd/cuda/driver.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/suite.h"

#if __has_include("/usr/local/cuda/include/cudaTypedefs.h")
#define HAVE_TOOLKIT true
#include "/usr/local/cuda/include/cuda.h"

#include "/usr/local/cuda/include/cudaTypedefs.h"

#define SAME(ours, our_field, theirs, their_field) \
	_Static_assert(offsetof(struct ours, our_field) == offsetof(theirs, their_field) && \
			       sizeof(((struct ours *)0)->our_field) == sizeof(((theirs *)0)->their_field), \
		       #ours "." #our_field)
#define SIZE(ours, theirs) _Static_assert(sizeof(struct ours) == sizeof(theirs), #ours)

SIZE(driver_uuid, CUuuid);
SIZE(driver_ipc_event, CUipcEventHandle);
SIZE(driver_location, CUmemLocation);
SIZE(driver_memory, CUmemAllocationProp);
SAME(driver_memory, type, CUmemAllocationProp, type);
SAME(driver_memory, handle_types, CUmemAllocationProp, requestedHandleTypes);
SAME(driver_memory, location, CUmemAllocationProp, location);
SAME(driver_memory, location.id, CUmemAllocationProp, location.id);
SAME(driver_memory, compression, CUmemAllocationProp, allocFlags.compressionType);
SAME(driver_memory, direct_rdma, CUmemAllocationProp, allocFlags.gpuDirectRDMACapable);
SAME(driver_memory, usage, CUmemAllocationProp, allocFlags.usage);
SIZE(driver_access, CUmemAccessDesc);
SAME(driver_access, location, CUmemAccessDesc, location);
SAME(driver_access, flags, CUmemAccessDesc, flags);
SIZE(driver_copy2d, CUDA_MEMCPY2D);
SAME(driver_copy2d, from_type, CUDA_MEMCPY2D, srcMemoryType);
SAME(driver_copy2d, from_host, CUDA_MEMCPY2D, srcHost);
SAME(driver_copy2d, from_device, CUDA_MEMCPY2D, srcDevice);
SAME(driver_copy2d, from_pitch, CUDA_MEMCPY2D, srcPitch);
SAME(driver_copy2d, to_type, CUDA_MEMCPY2D, dstMemoryType);
SAME(driver_copy2d, to_host, CUDA_MEMCPY2D, dstHost);
SAME(driver_copy2d, to_device, CUDA_MEMCPY2D, dstDevice);
SAME(driver_copy2d, to_pitch, CUDA_MEMCPY2D, dstPitch);
SAME(driver_copy2d, width_bytes, CUDA_MEMCPY2D, WidthInBytes);
SAME(driver_copy2d, height, CUDA_MEMCPY2D, Height);
SIZE(driver_launch, CUlaunchConfig);
SAME(driver_launch, shared_bytes, CUlaunchConfig, sharedMemBytes);
SAME(driver_launch, stream, CUlaunchConfig, hStream);
SAME(driver_launch, attributes, CUlaunchConfig, attrs);
SAME(driver_launch, n_attributes, CUlaunchConfig, numAttrs);
SIZE(driver_launch_attribute, CUlaunchAttribute);
SAME(driver_launch_attribute, flag, CUlaunchAttribute, value.programmaticStreamSerializationAllowed);

#define VALUE(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)
VALUE(DRIVER_NOT_READY, CUDA_ERROR_NOT_READY);
VALUE(DRIVER_MEMORY_PINNED, CU_MEM_ALLOCATION_TYPE_PINNED);
VALUE(DRIVER_HANDLE_FD, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
VALUE(DRIVER_LOCATION_DEVICE, CU_MEM_LOCATION_TYPE_DEVICE);
VALUE(DRIVER_ACCESS_NONE, CU_MEM_ACCESS_FLAGS_PROT_NONE);
VALUE(DRIVER_ACCESS_READ, CU_MEM_ACCESS_FLAGS_PROT_READ);
VALUE(DRIVER_ACCESS_READ_WRITE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
VALUE(DRIVER_GRANULARITY_LEAST, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
VALUE(DRIVER_GRANULARITY_BEST, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
VALUE(DRIVER_SIDE_HOST, CU_MEMORYTYPE_HOST);
VALUE(DRIVER_SIDE_DEVICE, CU_MEMORYTYPE_DEVICE);
VALUE(DRIVER_HOST_PORTABLE, CU_MEMHOSTALLOC_PORTABLE);
VALUE(DRIVER_HOST_MAPPED, CU_MEMHOSTALLOC_DEVICEMAP);
VALUE(DRIVER_HOST_WRITE_COMBINED, CU_MEMHOSTALLOC_WRITECOMBINED);
VALUE(DRIVER_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING);
VALUE(DRIVER_EVENT_BLOCKING, CU_EVENT_BLOCKING_SYNC);
VALUE(DRIVER_EVENT_NO_TIMING, CU_EVENT_DISABLE_TIMING);
VALUE(DRIVER_EVENT_INTERPROCESS, CU_EVENT_INTERPROCESS);
VALUE(DRIVER_CONTEXT_BLOCKING, CU_CTX_SCHED_BLOCKING_SYNC);
VALUE(DRIVER_CAPTURE_GLOBAL, CU_STREAM_CAPTURE_MODE_GLOBAL);
VALUE(DRIVER_CAPTURE_THREAD, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
VALUE(DRIVER_CAPTURE_RELAXED, CU_STREAM_CAPTURE_MODE_RELAXED);
VALUE(DRIVER_LAUNCH_PROGRAMMATIC_SERIAL, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
VALUE(DRIVER_FUNCTION_SHARED_BYTES_STATIC, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
VALUE(DRIVER_FUNCTION_LOCAL_BYTES, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES);
VALUE(DRIVER_FUNCTION_REGISTERS, CU_FUNC_ATTRIBUTE_NUM_REGS);
VALUE(DRIVER_FUNCTION_SHARED_BYTES_MAX, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
VALUE(DRIVER_DEVICE_WARP, CU_DEVICE_ATTRIBUTE_WARP_SIZE);
VALUE(DRIVER_DEVICE_MULTIPROCESSORS, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
VALUE(DRIVER_DEVICE_INTEGRATED, CU_DEVICE_ATTRIBUTE_INTEGRATED);
VALUE(DRIVER_DEVICE_COMPUTE_MODE, CU_DEVICE_ATTRIBUTE_COMPUTE_MODE);
VALUE(DRIVER_DEVICE_MEMORY_KHZ, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
VALUE(DRIVER_DEVICE_MEMORY_BITS, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
VALUE(DRIVER_DEVICE_L2_BYTES, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
VALUE(DRIVER_DEVICE_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
VALUE(DRIVER_DEVICE_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
VALUE(DRIVER_DEVICE_SHARED_BYTES_MAX, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
VALUE(DRIVER_DEVICE_VMM, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
VALUE(DRIVER_DEVICE_HANDLE_FD, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
VALUE(DRIVER_DEVICE_DIRECT_RDMA, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED);

#define DRIVER_ERROR(number, name, error, sticky, meaning) VALUE(number, CUDA_ERROR_##name);
#include "kvd/cuda/driver_error.def"
#undef DRIVER_ERROR

/* From here on our words are theirs: each line of driver.def must have the type of PFN_name_vVERSION. */
#define driver_context CUctx_st
#define driver_stream CUstream_st
#define driver_event CUevent_st
#define driver_module CUmod_st
#define driver_function CUfunc_st
#define driver_graph CUgraph_st
#define driver_graph_exec CUgraphExec_st
#define driver_uuid CUuuid_st
#define driver_ipc_event CUipcEventHandle_st
#define driver_memory CUmemAllocationProp_st
#define driver_access CUmemAccessDesc_st
#define driver_copy2d CUDA_MEMCPY2D_st
#define driver_launch CUlaunchConfig_st
#define uint64_t unsigned long long
#define DRIVER_CALL(need, name, version, parameters) \
	static const PFN_##name##_v##version abi_##name __attribute__((unused)) = (unsigned (*) parameters)0;
#include "kvd/cuda/driver.def"
#undef DRIVER_CALL
#undef uint64_t
#else
#define HAVE_TOOLKIT false
#endif

START_TEST(declarations_are_the_toolkits)
{
	if (!HAVE_TOOLKIT)
		printf("skipped: no /usr/local/cuda/include/cudaTypedefs.h: nothing to compare driver.def with\n");
}
END_TEST

START_TEST(results_are_translated_once)
{
	ck_assert_int_eq(driver_errno(0), 0);
	ck_assert_int_eq(driver_errno(2), -ENOMEM);
	ck_assert_int_eq(driver_errno(101), -ENXIO);
	ck_assert_int_eq(driver_errno(600), -EAGAIN);
	ck_assert_int_eq(driver_errno(31337), -EIO);
	ck_assert(driver_is_sticky(700) && driver_is_sticky(719) && driver_is_sticky(214));
	ck_assert(!driver_is_sticky(0) && !driver_is_sticky(2) && !driver_is_sticky(600) && !driver_is_sticky(31337));
	ck_assert_str_eq(driver_name(2), "OUT_OF_MEMORY");
	ck_assert_str_eq(driver_name(31337), "UNKNOWN");
	ck_assert_ptr_nonnull(strstr(driver_meaning(46), "EXCLUSIVE_PROCESS"));
	ck_assert(*driver_meaning(31337));
}
END_TEST

START_TEST(devices_have_names)
{
	static const char *const wrong[] = { "", "hosts", "cud", "cuda:", "cuda:x", "cuda:-1", "cuda:1000", "cuda0",
					     "cuda: 1", "cuda:1 " };
	int n = 7;

	ck_assert_int_eq(driver_device_parse("host", &n), 0);
	ck_assert_int_eq(n, -1);
	ck_assert_int_eq(driver_device_parse("cuda", &n), 0);
	ck_assert_int_eq(n, 0);
	ck_assert_int_eq(driver_device_parse("cuda:12", &n), 0);
	ck_assert_int_eq(n, 12);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		ck_assert_int_eq(driver_device_parse(wrong[i], &n), -EINVAL);
}
END_TEST

START_TEST(no_driver_is_said)
{
	struct driver driver;
	char error[DRIVER_ERROR_MAX];

	setenv("KVD_LIBCUDA", "/nonexistent/libcuda.so.1", 1);
	ck_assert_int_eq(driver_open(&driver, error), -ENOENT);
	ck_assert_msg(strstr(error, "no NVIDIA driver") && strstr(error, "/nonexistent/libcuda.so.1"), "%s", error);
	ck_assert_ptr_null(driver.library);
}
END_TEST

START_TEST(another_library_is_said)
{
	struct driver driver;
	char error[DRIVER_ERROR_MAX];

	/* It is a library, but no driver. */
	setenv("KVD_LIBCUDA", "libm.so.6", 1);
	ck_assert_int_eq(driver_open(&driver, error), -ENOSYS);
	ck_assert_msg(strstr(error, "cuGetProcAddress_v2") && strstr(error, "525"), "%s", error);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { declarations_are_the_toolkits, results_are_translated_once, devices_have_names,
				       no_driver_is_said, another_library_is_said };

	return SUITE_RUN("cuda_abi", 0, tests);
}
