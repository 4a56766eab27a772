/* backend.c - find a backend by the device's name; the GPU's is a plugin beside the program.
 *
 * A plugin stays loaded until the process ends: its driver has threads of its own. */
#include "engine/backend.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "kvd/cuda/driver.h"

#define PLUGIN "libkvd-cuda.so"

/* build/bin/kvengine -> build/lib, PREFIX/bin/kvengine -> PREFIX/lib; else where the linker looks. */
static void *load_plugin(void)
{
	char path[PATH_MAX + sizeof("../lib/" PLUGIN)];
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
	void *library = NULL;
	char *slash;

	if (n > 0) {
		path[n] = 0;
		slash = strrchr(path, '/');
		if (slash) {
			strcpy(slash + 1, "../lib/" PLUGIN);
			library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		}
	}
	return library ? library : dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL);
}

int backend_find(const char *device, const struct backend **ret, int *ret_ordinal, char *err,
		 size_t errlen)
{
	const struct backend *const *found;
	void *library;

	if (driver_device_parse(device, ret_ordinal) < 0) {
		snprintf(err, errlen, "--device %s: give host, cuda or cuda:N", device);
		return -EINVAL;
	}
	*ret = &backend_cpu;
	if (*ret_ordinal < 0)
		return 0;
	library = load_plugin();
	if (!library) {
		snprintf(err, errlen, "--device %s: no %s (%s); build where nvcc is, or leave --device out",
			 device, PLUGIN, dlerror());
		return -ENOENT;
	}
	found = dlsym(library, BACKEND_SYMBOL);
	if (!found || (*found)->version != BACKEND_VERSION) {
		snprintf(err, errlen, "--device %s: %s is of another version; install both of one build",
			 device, PLUGIN);
		return -EINVAL;
	}
	*ret = *found;
	return 0;
}
