/* nvml.h - libnvidia-ml.so.1, loaded at run time where it is: occupancy, utilisation, modes, processes.
 *
 * Everything here is for people and for asking whether a dead process is still on the device; nothing fails for its
 * lack. Devices are named by bus id, because NVML knows no CUDA_VISIBLE_DEVICES. */
#ifndef KVD_CUDA_NVML_H
#define KVD_CUDA_NVML_H

#include <stdbool.h>
#include <stdint.h>

#define NVML_ERROR_MAX 256

struct nvml_device;
struct nvml_memory { unsigned long long total, free, used; };
struct nvml_utilisation { unsigned gpu, memory; };
/* nvmlProcessInfo_t of version 2. */
struct nvml_process { unsigned pid; unsigned long long used_bytes; unsigned gpu_instance, compute_instance; };

struct nvml {
	void *library;             /* NULL: not there */
	int (*init)(void);
	int (*shutdown)(void);
	int (*device_by_bus)(const char *bus, struct nvml_device **ret);
	int (*memory)(struct nvml_device *device, struct nvml_memory *ret);
	int (*utilisation)(struct nvml_device *device, struct nvml_utilisation *ret);
	int (*persistence)(struct nvml_device *device, int *ret);
	int (*compute_mode)(struct nvml_device *device, int *ret);
	int (*processes)(struct nvml_device *device, unsigned *n, struct nvml_process *ret);
	int (*driver_version)(char *ret, unsigned bytes);
	int (*temperature)(struct nvml_device *device, int sensor, unsigned *ret);
	int (*power)(struct nvml_device *device, unsigned *ret_milliwatt);
};

/* $KVD_LIBNVML, else libnvidia-ml.so.1.  ret_error (NVML_ERROR_MAX) may be NULL.  -ENOENT: not there. */
int nvml_open(struct nvml *nvml, char *ret_error);
void nvml_close(struct nvml *nvml);

/* Numbers of a device; what cannot be had is -1. */
struct nvml_facts {
	int64_t total_bytes, free_bytes, used_bytes;
	int gpu_percent, memory_percent, persistence, compute_mode, celsius, watts, n_processes;
};
int nvml_facts(const struct nvml *nvml, const char *bus, struct nvml_facts *ret);

/* 1: the device still lists that process; 0: it does not; -errno: it cannot be asked. */
int nvml_lists_process(const struct nvml *nvml, const char *bus, uint32_t pid);

#endif
