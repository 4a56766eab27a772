/* work.c - rules of streams, events and what host code may do meanwhile, broken. */
#include "tests/fakecuda/rules/rules.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

static int ipc_event_with_timing(void)
{
	CUevent e;

	begin();
	return (int)cuEventCreate(&e, CU_EVENT_INTERPROCESS);
}

static int ipc_of_plain_event(void)
{
	CUipcEventHandle h;
	CUevent e;

	begin();
	MUST(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
	return (int)cuIpcGetEventHandle(&h, e);
}

static int ipc_to_oneself(void)
{
	CUipcEventHandle h;
	CUevent e, again;

	begin();
	MUST(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS));
	MUST(cuIpcGetEventHandle(&h, e));
	return (int)cuIpcOpenEventHandle(&again, h);
}

static int time_without_timing(void)
{
	CUevent a, b;
	float ms;

	begin();
	MUST(cuEventCreate(&a, CU_EVENT_DISABLE_TIMING));
	MUST(cuEventCreate(&b, 0));
	MUST(cuEventRecord(a, NULL));
	MUST(cuEventRecord(b, NULL));
	MUST(cuCtxSynchronize());
	return (int)cuEventElapsedTime(&ms, a, b);
}

static int time_of_unrecorded(void)
{
	CUevent a, b;
	float ms;

	begin();
	MUST(cuEventCreate(&a, 0));
	MUST(cuEventCreate(&b, 0));
	return (int)cuEventElapsedTime(&ms, a, b);
}

static int stream_after_destroy(void)
{
	CUstream s;

	begin();
	MUST(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
	MUST(cuStreamDestroy(s));
	return (int)cuStreamSynchronize(s);
}

static int event_after_destroy(void)
{
	CUevent e;

	begin();
	MUST(cuEventCreate(&e, 0));
	MUST(cuEventDestroy(e));
	return (int)cuEventQuery(e);
}

static int stream_of_another_context(void)
{
	CUcontext other;
	CUstream s;

	begin();
	MUST(cuStreamCreate(&s, 0));
	MUST(cuCtxCreate(&other, NULL, 0, 0));
	return (int)cuStreamSynchronize(s);
}

static CUresult in_callback;

static void call_driver(void *unused)
{
	int n;

	in_callback = cuDeviceGetCount(&n);
}

static int driver_in_callback(void)
{
	begin();
	MUST(cuLaunchHostFunc(NULL, call_driver, NULL));
	MUST(cuCtxSynchronize());
	return (int)in_callback;
}

/* The mapping is gone when the queued copy comes to it. */
static int unmap_under_copy(void)
{
	CUdeviceptr from, to;

	begin();
	from = mapped(GRANULARITY, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	to = mapped(GRANULARITY, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	hold(true);
	MUST(cuMemcpyDtoDAsync(to, from, 4096, NULL));
	MUST(cuMemUnmap(from, GRANULARITY));
	hold(false);
	return (int)cuCtxSynchronize();
}

static int default_stream_destroyed(void)
{
	begin();
	return (int)cuStreamDestroy(NULL);
}

#define R(name, ...) { #name, name, __VA_ARGS__ }
const struct rule rules_work[] = {
	R(ipc_event_with_timing, CUDA_ERROR_INVALID_VALUE, 0, "DISABLE_TIMING"),
	R(ipc_of_plain_event, CUDA_ERROR_INVALID_HANDLE, 0, "interprocess"),
	R(ipc_to_oneself, CUDA_ERROR_INVALID_CONTEXT, 0, "by the process that made it"),
	R(time_without_timing, CUDA_ERROR_INVALID_HANDLE, 0, "keep none"),
	R(time_of_unrecorded, CUDA_ERROR_INVALID_HANDLE, 0, "never recorded"),
	R(stream_after_destroy, 0, SIGABRT, "stale stream"),
	R(event_after_destroy, 0, SIGABRT, "stale event"),
	R(stream_of_another_context, CUDA_ERROR_INVALID_CONTEXT, 0, "another context"),
	R(driver_in_callback, CUDA_ERROR_NOT_PERMITTED, 0, "host callback calls the driver"),
	R(unmap_under_copy, CUDA_ERROR_ILLEGAL_ADDRESS, 0, "unmapped under a queued copy", NULL, true),
	R(default_stream_destroyed, CUDA_ERROR_INVALID_HANDLE, 0, "default stream"),
};
const size_t n_rules_work = sizeof(rules_work) / sizeof(rules_work[0]);
