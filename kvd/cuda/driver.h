/* driver.h - libcuda.so.1, loaded at run time: one binary runs with and without a GPU.
 *
 * No header of the toolkit is needed: what we use is declared here, in our own names, and tests/unit/test_cuda_abi.c
 * compares it with cuda.h where there is one.  Driver API only: nothing of ours is linked with cudart.
 *
 * After driver_open() a call is `driver->cuMemCreate(...)`, whose result goes through driver_check() or driver_errno():
 * the only places that know what a CUresult means.  Whoever forks must not call the driver in the child. */
#ifndef KVD_CUDA_DRIVER_H
#define KVD_CUDA_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DRIVER_VERSION_MIN 12000           /* CUDA 12.0, driver 525: cuGetProcAddress with the status of a symbol */
#define DRIVER_ERROR_MAX 512

/* Opaque objects of the driver. */
struct driver_context;
struct driver_stream;
struct driver_event;
struct driver_module;
struct driver_function;
struct driver_graph;
struct driver_graph_exec;

struct driver_uuid { uint8_t bytes[16]; };
struct driver_ipc_event { char bytes[64]; };
struct driver_location { int type, id; };

/* CUmemAllocationProp: what kind of memory. */
struct driver_memory {
	int type;                  /* DRIVER_MEMORY_PINNED */
	int handle_types;          /* DRIVER_HANDLE_FD */
	struct driver_location location;
	void *windows_only;
	unsigned char compression, direct_rdma;
	unsigned short usage;
	unsigned char reserved[4];
};

struct driver_access {             /* CUmemAccessDesc */
	struct driver_location location;
	int flags;                 /* DRIVER_ACCESS_* */
};

struct driver_copy2d {             /* CUDA_MEMCPY2D */
	size_t from_x_bytes, from_y;
	int from_type;             /* DRIVER_SIDE_* */
	const void *from_host;
	uint64_t from_device;
	void *from_array;
	size_t from_pitch;
	size_t to_x_bytes, to_y;
	int to_type;
	void *to_host;
	uint64_t to_device;
	void *to_array;
	size_t to_pitch;
	size_t width_bytes, height;
};

struct driver_launch_attribute {   /* CUlaunchAttribute */
	int id;                    /* DRIVER_LAUNCH_* */
	char pad[4];
	union {
		char bytes[64];
		int flag;
	};
};

struct driver_launch {             /* CUlaunchConfig */
	unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
	struct driver_stream *stream;
	struct driver_launch_attribute *attributes;
	unsigned n_attributes;
};

enum {
	DRIVER_OK = 0,
	DRIVER_NOT_READY = 600,

	DRIVER_MEMORY_PINNED = 1,
	DRIVER_HANDLE_FD = 1,
	DRIVER_LOCATION_DEVICE = 1,
	DRIVER_ACCESS_NONE = 0, DRIVER_ACCESS_READ = 1, DRIVER_ACCESS_READ_WRITE = 3,
	DRIVER_GRANULARITY_LEAST = 0, DRIVER_GRANULARITY_BEST = 1,
	DRIVER_SIDE_HOST = 1, DRIVER_SIDE_DEVICE = 2,
	DRIVER_HOST_PORTABLE = 1, DRIVER_HOST_MAPPED = 2, DRIVER_HOST_WRITE_COMBINED = 4,

	DRIVER_STREAM_NON_BLOCKING = 1,
	DRIVER_EVENT_BLOCKING = 1, DRIVER_EVENT_NO_TIMING = 2, DRIVER_EVENT_INTERPROCESS = 4,
	DRIVER_CONTEXT_BLOCKING = 4,       /* wait by sleeping */
	DRIVER_CAPTURE_GLOBAL = 0, DRIVER_CAPTURE_THREAD = 1, DRIVER_CAPTURE_RELAXED = 2,
	DRIVER_LAUNCH_PROGRAMMATIC_SERIAL = 6,
	DRIVER_FUNCTION_SHARED_BYTES_STATIC = 1, DRIVER_FUNCTION_LOCAL_BYTES = 3, DRIVER_FUNCTION_REGISTERS = 4,
	DRIVER_FUNCTION_SHARED_BYTES_MAX = 8,

	DRIVER_DEVICE_WARP = 10, DRIVER_DEVICE_MULTIPROCESSORS = 16, DRIVER_DEVICE_INTEGRATED = 18,
	DRIVER_DEVICE_COMPUTE_MODE = 20, DRIVER_DEVICE_MEMORY_KHZ = 36, DRIVER_DEVICE_MEMORY_BITS = 37,
	DRIVER_DEVICE_L2_BYTES = 38, DRIVER_DEVICE_MAJOR = 75, DRIVER_DEVICE_MINOR = 76,
	DRIVER_DEVICE_SHARED_BYTES_MAX = 97, DRIVER_DEVICE_VMM = 102, DRIVER_DEVICE_HANDLE_FD = 103,
	DRIVER_DEVICE_DIRECT_RDMA = 110,
};

struct driver {
	void *library;             /* NULL: not open */
	int version;               /* of the driver: 13000 is CUDA 13.0 */
	char path[256];
#define DRIVER_CALL(need, name, version, parameters) int (*name) parameters;
#include "kvd/cuda/driver.def"
#undef DRIVER_CALL
};

/* Load $KVD_LIBCUDA, else libcuda.so.1, look up every line of driver.def and initialise the driver.  Makes no context.
 * ret_error  DRIVER_ERROR_MAX bytes: one sentence with what to do
 * Returns    0; -ENOENT no driver, -ENOSYS too old, else what cuInit said. */
int driver_open(struct driver *driver, char *ret_error);
void driver_close(struct driver *driver);

/* -errno of a result; 0 for DRIVER_OK. */
int driver_errno(int result);
/* Is the context lost with that? */
bool driver_is_sticky(int result);
/* What it means, one clause without a full stop; never NULL. */
const char *driver_meaning(int result);
/* Its name, "OUT_OF_MEMORY", or "UNKNOWN". */
const char *driver_name(int result);

/* "host" or "cuda[:N]": -1, or the device's ordinal.  -EINVAL: neither. */
int driver_device_parse(const char *text, int *ret_ordinal);

/* A device's facts, asked without a context. */
struct driver_facts {
	int device, major, minor, multiprocessors, compute_mode;
	bool has_vmm, has_handle_fd, has_direct_rdma, is_integrated;
	uint64_t total_bytes, l2_bytes;
	char name[96], bus[32];    /* bus: "0000:3b:00.0", as /proc/driver/nvidia/gpus writes it in lower case */
	struct driver_uuid uuid;
};
/* 0; -ENXIO no such device; -EOPNOTSUPP it cannot share memory by descriptors; a sentence in ret_error. */
int driver_device(const struct driver *driver, int ordinal, struct driver_facts *ret, char *ret_error);

/* The kind of memory extents are made of. */
struct driver_memory driver_extent_memory(const struct driver_facts *facts);

#endif
