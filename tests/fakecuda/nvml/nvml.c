/* nvml.c - the double of libnvidia-ml.so.1: the functions we look up, over the same device files as the double of
 * the driver (slot.c is linked into both).  A process is listed while it has a context.  Devices are
 * "0000:01:00.0" and so on, as cuDeviceGetPCIBusId() of the double says. */
#include "tests/fakecuda/fake.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NVML_API __attribute__((visibility("default"))) int
enum { NVML_OK = 0, NVML_UNINITIALIZED = 1, NVML_INVALID_ARGUMENT = 2, NVML_NOT_FOUND = 6, NVML_TOO_SMALL = 7 };

struct fake fake;                      /* slot.c's settings, of this library's own */
static int n_users;
static const char devices[4];          /* a device's handle is a place in here */

struct memory_info { unsigned long long total, free, used; };
struct utilisation { unsigned gpu, memory; };
struct process_info { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };

NVML_API nvmlInit_v2(void);
NVML_API nvmlShutdown(void);
NVML_API nvmlDeviceGetHandleByPciBusId_v2(const char *bus, const void **ret);
NVML_API nvmlDeviceGetMemoryInfo(const void *device, struct memory_info *ret);
NVML_API nvmlDeviceGetUtilizationRates(const void *device, struct utilisation *ret);
NVML_API nvmlDeviceGetPersistenceMode(const void *device, int *ret);
NVML_API nvmlDeviceGetComputeMode(const void *device, int *ret);
NVML_API nvmlDeviceGetComputeRunningProcesses_v3(const void *device, unsigned *n, struct process_info *ret);
NVML_API nvmlSystemGetDriverVersion(char *ret, unsigned bytes);
NVML_API nvmlDeviceGetTemperature(const void *device, int sensor, unsigned *ret);
NVML_API nvmlDeviceGetPowerUsage(const void *device, unsigned *ret);

NVML_API nvmlInit_v2(void)
{
	const char *dir = getenv("FAKECUDA_DIR"), *text = getenv("FAKECUDA_DEVICES"),
		   *memory = getenv("FAKECUDA_MEMORY");

	if (!dir || strlen(dir) >= sizeof(fake.dir))
		return NVML_NOT_FOUND;
	if (n_users++)
		return NVML_OK;
	strcpy(fake.dir, dir);
	fake.set.n_devices = text ? atoi(text) : 1;
	fake.set.memory_bytes = fake_bytes(memory, 4ull << 30);
	fake.set.exclusive = getenv("FAKECUDA_EXCLUSIVE") != NULL;
	return slot_open_devices() == CUDA_SUCCESS ? NVML_OK : NVML_NOT_FOUND;
}

NVML_API nvmlShutdown(void)
{
	if (n_users == 0)
		return NVML_UNINITIALIZED;
	if (--n_users == 0)
		slot_close_devices();
	return NVML_OK;
}

static int number_of(const void *device)
{
	long n = (const char *)device - devices;

	return n_users && n >= 0 && n < fake.set.n_devices ? (int)n : -1;
}

NVML_API nvmlDeviceGetHandleByPciBusId_v2(const char *bus, const void **ret)
{
	unsigned domain, number;

	if (sscanf(bus, "%x:%x:00.0", &domain, &number) != 2 || domain || number < 1 ||
	    (int)number > fake.set.n_devices)
		return NVML_NOT_FOUND;
	*ret = &devices[number - 1];
	return NVML_OK;
}

NVML_API nvmlDeviceGetMemoryInfo(const void *device, struct memory_info *ret)
{
	int n = number_of(device);
	size_t free_bytes, total;

	if (n < 0)
		return NVML_INVALID_ARGUMENT;
	slot_usage(n, &free_bytes, &total);
	*ret = (struct memory_info){ .total = total, .free = free_bytes, .used = total - free_bytes };
	return NVML_OK;
}

NVML_API nvmlDeviceGetUtilizationRates(const void *device, struct utilisation *ret)
{
	*ret = (struct utilisation){ .gpu = 42, .memory = 17 };
	return number_of(device) < 0 ? NVML_INVALID_ARGUMENT : NVML_OK;
}

NVML_API nvmlDeviceGetPersistenceMode(const void *device, int *ret)
{
	*ret = 1;
	return number_of(device) < 0 ? NVML_INVALID_ARGUMENT : NVML_OK;
}

NVML_API nvmlDeviceGetComputeMode(const void *device, int *ret)
{
	*ret = fake.set.exclusive ? 3 : 0;
	return number_of(device) < 0 ? NVML_INVALID_ARGUMENT : NVML_OK;
}

NVML_API nvmlDeviceGetComputeRunningProcesses_v3(const void *device, unsigned *n, struct process_info *ret)
{
	DIR *d = opendir("/proc");
	unsigned found = 0, max = *n;
	int number = number_of(device);

	for (struct dirent *e; d && number >= 0 && (e = readdir(d));) {
		unsigned pid = isdigit((unsigned char)e->d_name[0]) ? (unsigned)atoi(e->d_name) : 0;

		if (!pid || !slot_has_process(number, pid))
			continue;
		if (found < max)
			ret[found] = (struct process_info){ .pid = pid };
		found++;
	}
	if (d)
		closedir(d);
	*n = found;
	return number < 0 ? NVML_INVALID_ARGUMENT : found > max ? NVML_TOO_SMALL : NVML_OK;
}

NVML_API nvmlSystemGetDriverVersion(char *ret, unsigned bytes)
{
	return snprintf(ret, bytes, "580.00 (double)") < (int)bytes ? NVML_OK : NVML_TOO_SMALL;
}

NVML_API nvmlDeviceGetTemperature(const void *device, int sensor, unsigned *ret)
{
	*ret = 41;
	return sensor || number_of(device) < 0 ? NVML_INVALID_ARGUMENT : NVML_OK;
}

NVML_API nvmlDeviceGetPowerUsage(const void *device, unsigned *ret)
{
	*ret = 123000;
	return number_of(device) < 0 ? NVML_INVALID_ARGUMENT : NVML_OK;
}
