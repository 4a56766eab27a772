/* entry.c - the door: cuInit(), versions, errors by name, and cuGetProcAddress() over one table of all
 * functions of the double.  The library exports the names that cuda.h's macros make (cuMemAlloc_v2), as the
 * driver does: a program that looks "cuMemAlloc" up with dlsym() finds nothing here. */
#include "tests/fakecuda/fake.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

CUresult CUDAAPI cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev);
CUresult CUDAAPI elapsed_time_v1(float *ms, CUevent start, CUevent end) __asm__("cuEventElapsedTime");

static const struct entry {
	const char *name;              /* as it is asked for */
	int since;                     /* the version of CUDA that brought this form */
	void *function;
} entries[] = {
/* The name's own macro gives the newest form. */
#define E(name, since) { #name, since, (void *)name },
/* An older form beside the newest. */
#define OLD(name, since, function) { name, since, (void *)function },
#include "tests/fakecuda/entries.def"
#undef E
#undef OLD
};

API cuInit(unsigned int flags)
{
	ENTER(NEED_NOTHING);
	CUresult r = CUDA_SUCCESS;

	if (flags)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "cuInit() takes no flags");
	if (fake.forked)
		return fake_breach(CUDA_ERROR_NOT_INITIALIZED, "called in a child after fork(): the driver does not "
				   "survive it");
	if (!fake.dir[0] || getenv("FAKECUDA_NO_DEVICE"))
		return CUDA_ERROR_NO_DEVICE;
	fake_lock();
	if (!fake.initialised) {
		r = slot_open_devices();
		if (r == CUDA_SUCCESS) {
			event_reap();
			queue_catch_faults();
			fake.initialised = true;
		}
	}
	return fake_unlocked(r);
}

API cuDriverGetVersion(int *version)
{
	ENTER(NEED_NOTHING);
	*version = fake.set.driver_version;
	return CUDA_SUCCESS;
}

static const struct { CUresult code; const char *name, *sentence; } errors[] = {
	{ CUDA_SUCCESS, "CUDA_SUCCESS", "no error" },
	{ CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument" },
	{ CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory" },
	{ CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error" },
	{ CUDA_ERROR_DEVICE_UNAVAILABLE, "CUDA_ERROR_DEVICE_UNAVAILABLE", "device is busy or unavailable" },
	{ CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no device is detected" },
	{ CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal" },
	{ CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context" },
	{ CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle" },
	{ CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found" },
	{ CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready" },
	{ CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered" },
	{ CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure" },
	{ CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported" },
	{ CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error" },
};

static CUresult error_text(CUresult code, bool name, const char **ret)
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (errors[i].code == code) {
			*ret = name ? errors[i].name : errors[i].sentence;
			return CUDA_SUCCESS;
		}
	*ret = NULL;
	return CUDA_ERROR_INVALID_VALUE;
}

API cuGetErrorName(CUresult error, const char **text)
{
	return error_text(error, true, text);
}

API cuGetErrorString(CUresult error, const char **text)
{
	return error_text(error, false, text);
}

API cuGetProcAddress(const char *symbol, void **pfn, int version, cuuint64_t flags,
		     CUdriverProcAddressQueryResult *status)
{
	ENTER(NEED_NOTHING);
	const struct entry *best = NULL;
	bool known = false;

	if (!symbol || !pfn || flags & ~(cuuint64_t)CU_GET_PROC_ADDRESS_LEGACY_STREAM)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "symbol %s, flags %#llx", symbol ? symbol : "NULL",
				   (unsigned long long)flags);
	*pfn = NULL;
	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
		const struct entry *e = &entries[i];

		if (strcmp(e->name, symbol))
			continue;
		known = true;
		if (e->since <= version && e->since <= fake.set.driver_version && (!best || e->since > best->since))
			best = e;
	}
	if (status)
		*status = best ? CU_GET_PROC_ADDRESS_SUCCESS : known ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT :
			  CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
	if (!best) {
		fake_log("asked for %s of version %d: %s", symbol, version, known ? "too new for that" : "unknown");
		return CUDA_ERROR_NOT_FOUND;
	}
	*pfn = best->function;
	return CUDA_SUCCESS;
}
