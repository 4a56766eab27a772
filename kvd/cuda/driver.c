/* driver.c - see driver.h.  Owns the loaded library and the translation of results (driver_error.def).
 *
 * Entry points come from cuGetProcAddress, which is the only name looked up by dlsym: it gives the signature of the
 * version that is asked for, whatever the driver's own. */
#include "kvd/cuda/driver.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvd/sentence.h"

typedef int (*driver_lookup)(const char *name, void **ret, int version, uint64_t flags, int *ret_status);

static const struct driver_row { const char *name; int version; bool is_core; size_t offset; } rows[] = {
#define CORE true
#define MORE false
#define DRIVER_CALL(need, name, version, parameters) { #name, version, need, offsetof(struct driver, name) },
#include "kvd/cuda/driver.def"
#undef DRIVER_CALL
#undef CORE
#undef MORE
};

static const struct error_row { int result, error; bool is_sticky; const char *name, *meaning; } errors[] = {
#define STICKY true
#define ONCE false
#define DRIVER_ERROR(result, name, error, sticky, meaning) { result, error, sticky, #name, meaning },
#include "kvd/cuda/driver_error.def"
#undef DRIVER_ERROR
#undef STICKY
#undef ONCE
};

static const struct error_row *error_find(int result)
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (errors[i].result == result)
			return &errors[i];
	return NULL;
}

int driver_errno(int result)
{
	const struct error_row *row = result ? error_find(result) : NULL;

	return row ? -row->error : result ? -EIO : 0;
}

bool driver_is_sticky(int result)
{
	const struct error_row *row = error_find(result);

	return row && row->is_sticky;
}

const char *driver_meaning(int result)
{
	const struct error_row *row = error_find(result);

	return row ? row->meaning : result ? "the driver failed with an error of its own" : "success";
}

const char *driver_name(int result)
{
	const struct error_row *row = error_find(result);

	return row ? row->name : result ? "UNKNOWN" : "SUCCESS";
}

#define complain(error, ...) sentence(error, DRIVER_ERROR_MAX, __VA_ARGS__)

static int look_up(struct driver *driver, char *error)
{
	driver_lookup find = (driver_lookup)dlsym(driver->library, "cuGetProcAddress_v2");

	if (!find)
		return complain(error, -ENOSYS, "%s has no cuGetProcAddress_v2: the driver is too old; install 525 "
				"(CUDA 12.0) or newer", driver->path);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		void *address = NULL;
		int status = 0, result = find(rows[i].name, &address, rows[i].version, 0, &status);

		if (result != DRIVER_OK || !address) {
			if (rows[i].is_core)
				return complain(error, -ENOSYS, "%s has no %s: the driver is too old; install 525 "
						"(CUDA 12.0) or newer", driver->path, rows[i].name);
			address = NULL;
		}
		memcpy((char *)driver + rows[i].offset, &address, sizeof(address));
	}
	return 0;
}

static int initialise(struct driver *driver, char *error)
{
	int result = driver->cuInit(0);

	if (result == DRIVER_OK)
		result = driver->cuDriverGetVersion(&driver->version);
	if (result != DRIVER_OK)
		return complain(error, driver_errno(result), "%s: cuInit: %s (%s, %d)", driver->path,
				driver_meaning(result), driver_name(result), result);
	if (driver->version < DRIVER_VERSION_MIN)
		return complain(error, -ENOSYS, "%s is the driver of CUDA %d.%d, which is too old; install 525 "
				"(CUDA 12.0) or newer", driver->path, driver->version / 1000,
				driver->version % 1000 / 10);
	return 0;
}

int driver_open(struct driver *driver, char *ret_error)
{
	/* Not of an environment that a less trusted caller made. */
	const char *path = secure_getenv("KVD_LIBCUDA"), *why;
	int r;

	*driver = (struct driver){ 0 };
	*ret_error = '\0';
	if (!path || !*path)
		path = "libcuda.so.1";
	snprintf(driver->path, sizeof(driver->path), "%s", path);
	driver->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!driver->library) {
		why = dlerror();
		return complain(ret_error, -ENOENT, "there is no NVIDIA driver here: %s", why ? why : path);
	}
	r = look_up(driver, ret_error);
	if (r == 0)
		r = initialise(driver, ret_error);
	if (r < 0)
		driver_close(driver);
	return r;
}

/* The library stays loaded: its threads may still be in it. */
void driver_close(struct driver *driver)
{
	*driver = (struct driver){ 0 };
}

int driver_device_parse(const char *text, int *ret_ordinal)
{
	const char *digits = text + 5;

	if (!strcmp(text, "host") || !strcmp(text, "cuda")) {
		*ret_ordinal = *text == 'h' ? -1 : 0;
		return 0;
	}
	if (strncmp(text, "cuda:", 5) || !*digits || strlen(digits) > 3 ||
	    strspn(digits, "0123456789") != strlen(digits))
		return -EINVAL;
	*ret_ordinal = atoi(digits);
	return 0;
}

struct driver_memory driver_extent_memory(const struct driver_facts *facts)
{
	return (struct driver_memory){
		.type = DRIVER_MEMORY_PINNED,
		.handle_types = DRIVER_HANDLE_FD,
		.location = { DRIVER_LOCATION_DEVICE, facts->device },
		.direct_rdma = facts->has_direct_rdma,
	};
}

static int attributes(const struct driver *driver, struct driver_facts *facts)
{
	int l2 = 0, vmm = 0, fd = 0, rdma = 0, integrated = 0, result = DRIVER_OK;
	const struct { int *ret; unsigned attribute; } wanted[] = {
		{ &facts->major, DRIVER_DEVICE_MAJOR }, { &facts->minor, DRIVER_DEVICE_MINOR },
		{ &facts->multiprocessors, DRIVER_DEVICE_MULTIPROCESSORS },
		{ &facts->compute_mode, DRIVER_DEVICE_COMPUTE_MODE }, { &l2, DRIVER_DEVICE_L2_BYTES },
		{ &vmm, DRIVER_DEVICE_VMM }, { &fd, DRIVER_DEVICE_HANDLE_FD }, { &rdma, DRIVER_DEVICE_DIRECT_RDMA },
		{ &integrated, DRIVER_DEVICE_INTEGRATED },
	};

	for (size_t i = 0; result == DRIVER_OK && i < sizeof(wanted) / sizeof(wanted[0]); i++)
		result = driver->cuDeviceGetAttribute(wanted[i].ret, wanted[i].attribute, facts->device);
	facts->l2_bytes = l2 > 0 ? (uint64_t)l2 : 0;
	facts->has_vmm = vmm;
	facts->has_handle_fd = fd;
	facts->has_direct_rdma = rdma;
	facts->is_integrated = integrated;
	return result;
}

int driver_device(const struct driver *driver, int ordinal, struct driver_facts *ret, char *ret_error)
{
	int n = 0, result = driver->cuDeviceGetCount(&n);
	size_t total = 0;

	*ret = (struct driver_facts){ .device = -1 };
	*ret_error = '\0';
	if (result == DRIVER_OK && ordinal >= n)
		return complain(ret_error, -ENXIO, "cuda:%d is not here: the driver shows %d device%s; `nvidia-smi -L` "
				"lists them, CUDA_VISIBLE_DEVICES hides some", ordinal, n, n == 1 ? "" : "s");
	if (result == DRIVER_OK)
		result = driver->cuDeviceGet(&ret->device, ordinal);
	if (result == DRIVER_OK)
		result = driver->cuDeviceGetName(ret->name, sizeof(ret->name), ret->device);
	if (result == DRIVER_OK)
		result = driver->cuDeviceGetPCIBusId(ret->bus, sizeof(ret->bus), ret->device);
	if (result == DRIVER_OK)
		result = driver->cuDeviceGetUuid(&ret->uuid, ret->device);
	if (result == DRIVER_OK)
		result = driver->cuDeviceTotalMem(&total, ret->device);
	if (result == DRIVER_OK)
		result = attributes(driver, ret);
	ret->total_bytes = total;
	if (result != DRIVER_OK)
		return complain(ret_error, driver_errno(result), "cuda:%d: %s (%s, %d)", ordinal,
				driver_meaning(result), driver_name(result), result);
	if (!ret->has_vmm || !ret->has_handle_fd)
		return complain(ret_error, -EOPNOTSUPP, "cuda:%d (%s) cannot share memory between processes by "
				"descriptors (virtual memory management %s, descriptors %s); kvd needs a device and a "
				"driver that can", ordinal, ret->name, ret->has_vmm ? "yes" : "no",
				ret->has_handle_fd ? "yes" : "no");
	return 0;
}
