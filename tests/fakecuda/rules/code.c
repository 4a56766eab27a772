/* code.c - rules of modules, launches, captures and graphs, broken and kept, on our own cubin and the emulated
 * kernels of the same sources (RULES_FATBIN, FAKECUDA_KERNELS). */
#include "tests/fakecuda/rules/rules.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/cuda/args.h"

enum { N_EMBD = 8, THREADS = 256 };

static const void *image(void)
{
	struct stat st;
	int fd = open(getenv("RULES_FATBIN"), O_RDONLY | O_CLOEXEC);
	void *p;

	if (fd < 0 || fstat(fd, &st))
		_exit(95);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	return p;
}

/* One row of an f32 table is copied to x: the smallest launch there is. */
struct embedding {
	CUmodule module;
	CUfunction function;
	CUdeviceptr memory;
	struct kvd_embed_args args;
	void *parameters[1];
};

static const float table[2 * N_EMBD] = { [N_EMBD] = 1, 2, 3, 4, 5, 6, 7, 8 };

static void embedding_begin(struct embedding *e)
{
	struct kvd_step step = { .n_rows = 1 };
	struct kvd_step_row row = { .token = 1 };

	begin();
	MUST(cuModuleLoadData(&e->module, image()));
	MUST(cuModuleGetFunction(&e->function, e->module, "kvd_embed"));
	MUST(cuMemAlloc(&e->memory, 4096));
	MUST(cuMemcpyHtoD(e->memory, &step, sizeof(step)));
	MUST(cuMemcpyHtoD(e->memory + 256, &row, sizeof(row)));
	MUST(cuMemcpyHtoD(e->memory + 512, table, sizeof(table)));
	/* A copy from pageable memory may return before it is done, and non-blocking streams do not wait for it. */
	MUST(cuCtxSynchronize());
	e->args = (struct kvd_embed_args){ .step = (void *)e->memory, .rows = (void *)(e->memory + 256),
					   .table = (void *)(e->memory + 512), .x = (void *)(e->memory + 1024),
					   .row_bytes = N_EMBD * 4, .type = 0, .n_embd = N_EMBD, .x_stride = N_EMBD };
	e->parameters[0] = &e->args;
}

static CUresult launch(struct embedding *e, CUstream stream)
{
	return cuLaunchKernel(e->function, 1, 1, 1, THREADS, 1, 1, 0, stream, e->parameters, NULL);
}

static int grid_of_nothing(void)
{
	struct embedding e;

	embedding_begin(&e);
	return (int)cuLaunchKernel(e.function, 1, 0, 1, THREADS, 1, 1, 0, NULL, e.parameters, NULL);
}

static int block_too_large(void)
{
	struct embedding e;

	embedding_begin(&e);
	return (int)cuLaunchKernel(e.function, 1, 1, 1, 2 * THREADS, 1, 1, 0, NULL, e.parameters, NULL);
}

static int shared_not_allowed(void)
{
	struct embedding e;

	embedding_begin(&e);
	return (int)cuLaunchKernel(e.function, 1, 1, 1, THREADS, 1, 1, 60000, NULL, e.parameters, NULL);
}

static int shared_more_than_there_is(void)
{
	struct embedding e;

	embedding_begin(&e);
	return (int)cuFuncSetAttribute(e.function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 300000);
}

static int launch_without_parameters(void)
{
	struct embedding e;

	embedding_begin(&e);
	return (int)cuLaunchKernel(e.function, 1, 1, 1, THREADS, 1, 1, 0, NULL, NULL, NULL);
}

static int function_after_unload(void)
{
	struct embedding e;

	embedding_begin(&e);
	MUST(cuModuleUnload(e.module));
	return (int)launch(&e, NULL);
}

static int kernel_reads_unmapped(void)
{
	struct embedding e;

	embedding_begin(&e);
	e.args.table = (void *)reserve(GRANULARITY);
	MUST(launch(&e, NULL));
	cuCtxSynchronize();
	return (int)cuCtxSynchronize();         /* the error stays */
}

static int kernel_writes_read_only(void)
{
	struct embedding e;

	embedding_begin(&e);
	e.args.x = (void *)mapped(GRANULARITY, CU_MEM_ACCESS_FLAGS_PROT_READ);
	MUST(launch(&e, NULL));
	return (int)cuCtxSynchronize();
}

/* The launch was queued before the mapping went: the driver orders nothing here. */
static int unmap_under_launch(void)
{
	struct embedding e;
	CUdeviceptr at;

	embedding_begin(&e);
	at = mapped(GRANULARITY, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	e.args.x = (void *)at;
	hold(true);
	MUST(launch(&e, NULL));
	MUST(cuMemUnmap(at, GRANULARITY));
	hold(false);
	return (int)cuCtxSynchronize();
}

static CUstream capturing(unsigned flags)
{
	CUstream s;

	MUST(cuStreamCreate(&s, flags));
	MUST(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
	return s;
}

static int capture_default_stream(void)
{
	begin();
	return (int)cuStreamBeginCapture(NULL, CU_STREAM_CAPTURE_MODE_GLOBAL);
}

static int allocate_in_capture(void)
{
	CUdeviceptr p;

	begin();
	capturing(CU_STREAM_NON_BLOCKING);
	return (int)cuMemAlloc(&p, 4096);
}

static int wait_for_capture(void)
{
	begin();
	return (int)cuStreamSynchronize(capturing(CU_STREAM_NON_BLOCKING));
}

static int default_stream_in_capture(void)
{
	struct embedding e;

	embedding_begin(&e);
	capturing(0);
	return (int)launch(&e, NULL);
}

static int capture_waits_for_outside(void)
{
	CUstream s;
	CUevent e;

	begin();
	MUST(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
	MUST(cuEventRecord(e, NULL));
	s = capturing(CU_STREAM_NON_BLOCKING);
	return (int)cuStreamWaitEvent(s, e, 0);
}

static int capture_without_join(void)
{
	struct embedding e;
	CUstream a, b;
	CUevent fork_event;
	CUgraph graph;

	embedding_begin(&e);
	MUST(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
	MUST(cuEventCreate(&fork_event, CU_EVENT_DISABLE_TIMING));
	a = capturing(CU_STREAM_NON_BLOCKING);
	MUST(launch(&e, a));
	MUST(cuEventRecord(fork_event, a));
	MUST(cuStreamWaitEvent(b, fork_event, 0));
	MUST(launch(&e, b));
	return (int)cuStreamEndCapture(a, &graph);
}

static int ask_captured_event(void)
{
	CUstream s;
	CUevent e;

	begin();
	MUST(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
	s = capturing(CU_STREAM_NON_BLOCKING);
	MUST(cuEventRecord(e, s));
	return (int)cuEventQuery(e);
}

static int executable_after_destroy(void)
{
	struct embedding e;
	CUgraph graph;
	CUgraphExec exec;
	CUstream s;

	embedding_begin(&e);
	s = capturing(CU_STREAM_NON_BLOCKING);
	MUST(launch(&e, s));
	MUST(cuStreamEndCapture(s, &graph));
	MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
	MUST(cuGraphExecDestroy(exec));
	return (int)cuGraphLaunch(exec, s);
}

enum { VALUE = CUDA_ERROR_INVALID_VALUE, FAULT = CUDA_ERROR_ILLEGAL_ADDRESS };
#define R(name, ...) { #name, name, __VA_ARGS__ }
const struct rule rules_code[] = {
	R(grid_of_nothing, VALUE, 0, "a grid of"),
	R(block_too_large, VALUE, 0, "at most 256 threads"),
	R(shared_not_allowed, VALUE, 0, "cuFuncSetAttribute"),
	R(shared_more_than_there_is, VALUE, 0, "set to 300000"),
	R(launch_without_parameters, VALUE, 0, "wants 1 parameters"),
	R(function_after_unload, 0, SIGABRT, "stale function"),
	R(kernel_reads_unmapped, FAULT, 0, "kvd_embed", NULL, true),
	R(kernel_writes_read_only, FAULT, 0, "kvd_embed", NULL, true),
	R(unmap_under_launch, FAULT, 0, "kvd_embed", NULL, true),
	R(capture_default_stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, 0, "cannot capture"),
	R(allocate_in_capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, 0, "during a capture"),
	R(wait_for_capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, 0, "a stream that captures"),
	R(default_stream_in_capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, 0, "work on the default stream"),
	R(capture_waits_for_outside, CUDA_ERROR_STREAM_CAPTURE_ISOLATION, 0, "from outside the capture"),
	R(capture_without_join, CUDA_ERROR_STREAM_CAPTURE_UNJOINED, 0, "did not come back"),
	R(ask_captured_event, CUDA_ERROR_CAPTURED_EVENT, 0, "recorded in a capture"),
	R(executable_after_destroy, 0, SIGABRT, "stale executable graph"),
};
const size_t n_rules_code = sizeof(rules_code) / sizeof(rules_code[0]);

/* ---- kept ---- */

static void embedding_end(struct embedding *e)
{
	MUST(cuMemFree(e->memory));
	MUST(cuModuleUnload(e->module));
	MUST(cuDevicePrimaryCtxRelease(0));
}

static bool is_embedded(const float *x)
{
	return !memcmp(x, table + N_EMBD, N_EMBD * sizeof(float));
}

/* Arguments are taken when the launch is asked for, not when it runs. */
static int launch_computes(void)
{
	struct embedding e;
	float x[N_EMBD] = { 0 };
	CUfunction none;
	int registers = 0, shared = 0;

	embedding_begin(&e);
	if (cuModuleGetFunction(&none, e.module, "kvd_nothing_of_the_kind") != CUDA_ERROR_NOT_FOUND)
		return 94;
	MUST(cuFuncGetAttribute(&registers, CU_FUNC_ATTRIBUTE_NUM_REGS, e.function));
	MUST(cuFuncGetAttribute(&shared, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, e.function));
	if (registers < 8 || registers > 255 || shared != 0)
		return 93;
	hold(true);
	MUST(launch(&e, NULL));
	e.args.n_embd = 0;
	hold(false);
	MUST(cuMemcpyDtoH(x, e.memory + 1024, sizeof(x)));
	embedding_end(&e);
	return is_embedded(x) ? 0 : 92;
}

/* A fork, a join, and a copy into pinned memory, captured; launched twice after the graph itself is gone. */
static int graph_computes(void)
{
	struct embedding e;
	float *pinned;
	CUstream a, b;
	CUevent event, joined;
	CUgraph graph;
	CUgraphExec exec;
	bool right = true;

	embedding_begin(&e);
	MUST(cuMemHostAlloc((void **)&pinned, 4096, 0));
	MUST(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
	MUST(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
	MUST(cuEventCreate(&joined, CU_EVENT_DISABLE_TIMING));
	a = capturing(CU_STREAM_NON_BLOCKING);
	MUST(cuMemsetD8Async(e.memory + 1024, 0xff, N_EMBD * 4, a));
	MUST(cuEventRecord(event, a));
	MUST(cuStreamWaitEvent(b, event, 0));
	MUST(launch(&e, b));
	MUST(cuEventRecord(joined, b));
	MUST(cuStreamWaitEvent(a, joined, 0));
	MUST(cuMemcpyDtoHAsync(pinned, e.memory + 1024, N_EMBD * 4, a));
	MUST(cuStreamEndCapture(a, &graph));
	MUST(cuGraphInstantiateWithFlags(&exec, graph, 0));
	MUST(cuGraphDestroy(graph));
	for (int i = 0; i < 2; i++) {
		memset(pinned, 0, N_EMBD * 4);
		MUST(cuGraphLaunch(exec, a));
		MUST(cuStreamSynchronize(a));
		right &= is_embedded(pinned);
	}
	MUST(cuGraphExecDestroy(exec));
	MUST(cuEventDestroy(event));
	MUST(cuEventDestroy(joined));
	MUST(cuStreamDestroy(a));
	MUST(cuStreamDestroy(b));
	MUST(cuMemFreeHost(pinned));
	embedding_end(&e);
	return right ? 0 : 91;
}

#define K(name, ...) { #name, name, 0, 0, NULL, __VA_ARGS__ }
const struct rule rules_code_kept[] = {
	K(launch_computes, NULL),
	K(graph_computes, NULL),
	K(graph_computes, "FAKECUDA_SEED=7"),
	K(graph_computes, "FAKECUDA_SEED=8"),
};
const size_t n_rules_code_kept = sizeof(rules_code_kept) / sizeof(rules_code_kept[0]);
