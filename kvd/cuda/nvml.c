/* nvml.c - see nvml.h.  Owns the loaded library. */
#include "kvd/cuda/nvml.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROCESSES_MAX 256u
#define NVML_TEMPERATURE_GPU 0

static void look_up(struct nvml *nvml, const char *name, void *field)
{
	void *address = dlsym(nvml->library, name);

	memcpy(field, &address, sizeof(address));
}

int nvml_open(struct nvml *nvml, char *ret_error)
{
	const char *path = secure_getenv("KVD_LIBNVML"), *why;

	*nvml = (struct nvml){ 0 };
	if (!path || !*path)
		path = "libnvidia-ml.so.1";
	nvml->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!nvml->library) {
		why = dlerror();
		if (ret_error)
			snprintf(ret_error, NVML_ERROR_MAX, "%s", why ? why : path);
		return -ENOENT;
	}
	look_up(nvml, "nvmlInit_v2", &nvml->init);
	look_up(nvml, "nvmlShutdown", &nvml->shutdown);
	look_up(nvml, "nvmlDeviceGetHandleByPciBusId_v2", &nvml->device_by_bus);
	look_up(nvml, "nvmlDeviceGetMemoryInfo", &nvml->memory);
	look_up(nvml, "nvmlDeviceGetUtilizationRates", &nvml->utilisation);
	look_up(nvml, "nvmlDeviceGetPersistenceMode", &nvml->persistence);
	look_up(nvml, "nvmlDeviceGetComputeMode", &nvml->compute_mode);
	look_up(nvml, "nvmlDeviceGetComputeRunningProcesses_v3", &nvml->processes);
	look_up(nvml, "nvmlSystemGetDriverVersion", &nvml->driver_version);
	look_up(nvml, "nvmlDeviceGetTemperature", &nvml->temperature);
	look_up(nvml, "nvmlDeviceGetPowerUsage", &nvml->power);
	if (!nvml->init || !nvml->shutdown || !nvml->device_by_bus || nvml->init() != 0) {
		if (ret_error)
			snprintf(ret_error, NVML_ERROR_MAX, "%s does not start", path);
		dlclose(nvml->library);
		*nvml = (struct nvml){ 0 };
		return -EIO;
	}
	return 0;
}

void nvml_close(struct nvml *nvml)
{
	if (nvml->library) {
		(void)nvml->shutdown();
		dlclose(nvml->library);
	}
	*nvml = (struct nvml){ 0 };
}

/* 1, 0, -EAGAIN: more than fit. */
static int list(const struct nvml *nvml, struct nvml_device *device, uint32_t pid, int *ret_n)
{
	struct nvml_process processes[PROCESSES_MAX];
	unsigned n = PROCESSES_MAX;

	if (!nvml->processes || nvml->processes(device, &n, processes) != 0 || n > PROCESSES_MAX)
		return -EIO;
	*ret_n = (int)n;
	for (unsigned i = 0; i < n; i++)
		if (processes[i].pid == pid)
			return 1;
	return 0;
}

int nvml_lists_process(const struct nvml *nvml, const char *bus, uint32_t pid)
{
	struct nvml_device *device;
	int n;

	if (!nvml->library)
		return -ENOENT;
	if (nvml->device_by_bus(bus, &device) != 0)
		return -EIO;
	return list(nvml, device, pid, &n);
}

int nvml_facts(const struct nvml *nvml, const char *bus, struct nvml_facts *ret)
{
	struct nvml_device *device;
	struct nvml_memory memory;
	struct nvml_utilisation utilisation;
	unsigned number;
	int n;

	*ret = (struct nvml_facts){ -1, -1, -1, -1, -1, -1, -1, -1, -1, -1 };
	if (!nvml->library)
		return -ENOENT;
	if (nvml->device_by_bus(bus, &device) != 0)
		return -EIO;
	if (nvml->memory && nvml->memory(device, &memory) == 0) {
		ret->total_bytes = (int64_t)memory.total;
		ret->free_bytes = (int64_t)memory.free;
		ret->used_bytes = (int64_t)memory.used;
	}
	if (nvml->utilisation && nvml->utilisation(device, &utilisation) == 0) {
		ret->gpu_percent = (int)utilisation.gpu;
		ret->memory_percent = (int)utilisation.memory;
	}
	if (nvml->persistence && nvml->persistence(device, &n) == 0)
		ret->persistence = n;
	if (nvml->compute_mode && nvml->compute_mode(device, &n) == 0)
		ret->compute_mode = n;
	if (nvml->temperature && nvml->temperature(device, NVML_TEMPERATURE_GPU, &number) == 0)
		ret->celsius = (int)number;
	if (nvml->power && nvml->power(device, &number) == 0)
		ret->watts = (int)(number / 1000);
	if (list(nvml, device, 0, &n) >= 0)
		ret->n_processes = n;
	return 0;
}
