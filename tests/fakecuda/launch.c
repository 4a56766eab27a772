/* launch.c - modules, functions and launches.  A function is known only if the cubin has it; its parameters are
 * those of .nv.info, and the emulated kernel of that name (FAKECUDA_KERNELS) must have the same, so that a drift
 * between the host's struct and the kernel's is found.  The emulated kernel runs on the mapped memory itself,
 * whose addresses work for that long. */
#include "tests/fakecuda/fake.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda_emulator/emulated.h"

static const struct emulated_kernel *kernels;
static const char *(*first_report)(void);

static void open_kernels(void)
{
	static bool tried;
	const char *path = getenv("FAKECUDA_KERNELS");
	void *library;

	if (tried || !path)
		return;
	tried = true;
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library) {
		fake_log("FAKECUDA_KERNELS: %s", dlerror());
		return;
	}
	kernels = dlsym(library, "emulated_kernels");
	*(void **)&first_report = dlsym(library, "emulated_first");
}

static const struct emulated_kernel *emulated_named(const char *name)
{
	for (const struct emulated_kernel *k = kernels; k && k->name; k++)
		if (!strcmp(k->name, name))
			return k;
	return NULL;
}

static CUresult module_load(CUmodule *ret, const void *image)
{
	struct module *m = calloc(1, sizeof(*m));
	CUresult r;

	if (!m)
		return CUDA_ERROR_OUT_OF_MEMORY;
	r = image_parse(image, m);
	if (r) {
		free(m->functions);
		free(m);
		return r;
	}
	open_kernels();
	m->context = context_current();
	m->handle = handle_new(KIND_MODULE, m);
	*ret = (CUmodule)m->handle;
	return CUDA_SUCCESS;
}

API cuModuleLoadData(CUmodule *module, const void *image)
{
	ENTER(NEED_CONTEXT);
	if (!module || !image)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "no image");
	LOCKED(module_load(module, image));
}

API cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int n_options, CUjit_option *options,
		       void **values)
{
	ENTER(NEED_CONTEXT);
	if (!module || !image)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "no image");
	LOCKED(module_load(module, image));
}

static CUresult module_unload(uint64_t handle)
{
	struct module *m = handle_drop(KIND_MODULE, handle);

	/* Its functions may still be queued. */
	queue_wait(NULL);
	for (unsigned i = 0; i < m->n_functions; i++)
		if (m->functions[i].handle)
			handle_drop(KIND_FUNCTION, m->functions[i].handle);
	free(m->functions);
	free(m);
	return CUDA_SUCCESS;
}

API cuModuleUnload(CUmodule module)
{
	CUresult r = fake_enter(__func__, NEED_INIT);

	if (r && r != fake.sticky)
		return r;
	LOCKED(module_unload(HANDLE(module)));
}

static CUresult check_emulated(struct function *f)
{
	const struct emulated_kernel *k = f->emulated = emulated_named(f->name);

	if (!k)
		return CUDA_SUCCESS;
	bool same = k->n_params == f->n_parameters;

	for (unsigned i = 0; same && i < f->n_parameters; i++)
		same = k->param_sizes[i] == f->parameters[i].bytes;
	if (!same)
		return fake_breach(CUDA_ERROR_INVALID_IMAGE, "%s has %u parameters in the cubin (first: %u bytes), the "
				   "emulated one has %u (first: %u)", f->name, f->n_parameters, f->parameters[0].bytes,
				   k->n_params, k->n_params ? k->param_sizes[0] : 0);
	return CUDA_SUCCESS;
}

static CUresult get_function(CUfunction *ret, uint64_t module, const char *name)
{
	struct module *m = handle_get(KIND_MODULE, module);

	for (unsigned i = 0; i < m->n_functions; i++) {
		struct function *f = &m->functions[i];
		CUresult r;

		if (strcmp(f->name, name))
			continue;
		r = check_emulated(f);
		if (r)
			return r;
		if (!f->handle)
			f->handle = handle_new(KIND_FUNCTION, f);
		*ret = (CUfunction)f->handle;
		return CUDA_SUCCESS;
	}
	return CUDA_ERROR_NOT_FOUND;
}

API cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
	ENTER(NEED_CONTEXT);
	LOCKED(get_function(function, HANDLE(module), name));
}

static CUresult function_get(int *ret, unsigned attribute, uint64_t handle)
{
	const struct function *f = handle_get(KIND_FUNCTION, handle);

	switch (attribute) {
	case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *ret = (int)f->max_threads; break;
	case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *ret = (int)f->shared_bytes; break;
	case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *ret = (int)f->local_bytes; break;
	case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES: *ret = 0; break;
	case CU_FUNC_ATTRIBUTE_NUM_REGS: *ret = (int)f->registers; break;
	case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *ret = 90; break;
	case CU_FUNC_ATTRIBUTE_PTX_VERSION: *ret = 90; break;
	case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *ret = (int)f->dynamic_bytes_max; break;
	default: return fake_breach(CUDA_ERROR_INVALID_VALUE, "attribute %u of a function", attribute);
	}
	return CUDA_SUCCESS;
}

API cuFuncGetAttribute(int *pi, CUfunction_attribute attribute, CUfunction function)
{
	ENTER(NEED_CONTEXT);
	LOCKED(function_get(pi, (unsigned)attribute, HANDLE(function)));
}

enum { SHARED_OPTIN_MAX = 232448, REGISTERS_MAX = 65536 };

static CUresult function_set(uint64_t handle, unsigned attribute, int value)
{
	struct function *f = handle_get(KIND_FUNCTION, handle);

	if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT && value >= -1 && value <= 100)
		return CUDA_SUCCESS;
	if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 ||
	    (unsigned)value + f->shared_bytes > SHARED_OPTIN_MAX)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "attribute %u of %s set to %d", attribute, f->name, value);
	f->dynamic_bytes_max = (unsigned)value;
	return CUDA_SUCCESS;
}

API cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value)
{
	ENTER(NEED_CONTEXT);
	LOCKED(function_set(HANDLE(function), (unsigned)attribute, value));
}

static unsigned least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

static CUresult occupancy(int *ret, uint64_t handle, int block_size, size_t dynamic_bytes)
{
	const struct function *f = handle_get(KIND_FUNCTION, handle);
	unsigned warps = (unsigned)(block_size + 31) / 32, registers = (f->registers + 7) / 8 * 8 * 32 * warps;
	unsigned n;

	if (block_size <= 0 || (unsigned)block_size > f->max_threads)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "blocks of %d threads", block_size);
	n = least(32, 64 / warps);
	n = least(n, registers ? REGISTERS_MAX / registers : n);
	*ret = (int)least(n, 233472 / (unsigned)(f->shared_bytes + dynamic_bytes + 1024));
	return CUDA_SUCCESS;
}

API cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function, int block_size, size_t dynamic_bytes)
{
	ENTER(NEED_CONTEXT);
	LOCKED(occupancy(blocks, HANDLE(function), block_size, dynamic_bytes));
}

/* ---- launches ---- */

struct launch_op {
	struct op op;
	const struct emulated_kernel *kernel;
	struct emulated_dim grid, block;
	unsigned shared_bytes;
	void *parameters[PARAMETERS_MAX];
	unsigned char bytes[];         /* the parameters' values, copied when the launch was asked for */
};

static CUresult run_launch(struct op *op)
{
	struct launch_op *l = (struct launch_op *)op;
	int reports;

	queue_device_code(true);
	reports = l->kernel->launch(l->grid, l->block, l->shared_bytes, l->parameters);
	queue_device_code(false);
	if (reports == 0)
		return CUDA_SUCCESS;
	return fake_fault(CUDA_ERROR_ILLEGAL_ADDRESS, "%s: %s", l->kernel->name, first_report ? first_report() : "?");
}

static CUresult check_launch(const struct function *f, const CUlaunchConfig *c)
{
	uint64_t threads = (uint64_t)c->blockDimX * c->blockDimY * c->blockDimZ;

	if (c->gridDimX == 0 || c->gridDimY == 0 || c->gridDimZ == 0 || c->gridDimX > 2147483647u ||
	    c->gridDimY > 65535 || c->gridDimZ > 65535)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "%s: a grid of %u x %u x %u", f->name,
				   c->gridDimX, c->gridDimY, c->gridDimZ);
	if (threads == 0 || threads > f->max_threads || c->blockDimZ > 64)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "%s: a block of %u x %u x %u, at most %u threads", f->name,
				   c->blockDimX, c->blockDimY, c->blockDimZ, f->max_threads);
	if (c->sharedMemBytes > f->dynamic_bytes_max)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "%s: %u bytes of shared memory, %u were allowed by "
				   "cuFuncSetAttribute()", f->name, c->sharedMemBytes, f->dynamic_bytes_max);
	if ((f->registers + 7) / 8 * 8 * ((threads + 31) / 32 * 32) > REGISTERS_MAX)
		return fake_breach(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "%s: %u registers times %u threads", f->name,
				   f->registers, (unsigned)threads);
	for (unsigned i = 0; i < c->numAttrs; i++)
		if (c->attrs[i].id != CU_LAUNCH_ATTRIBUTE_IGNORE &&
		    c->attrs[i].id != CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
			return fake_breach(CUDA_ERROR_NOT_SUPPORTED, "launch attribute %d is not in the double",
					   (int)c->attrs[i].id);
	return CUDA_SUCCESS;
}

static CUresult launch(const CUlaunchConfig *c, uint64_t handle, void **parameters, void **extra)
{
	struct function *f = handle_get(KIND_FUNCTION, handle);
	struct launch_op *l;
	struct stream *s;
	CUresult r = stream_get(c->hStream, &s);

	if (r == CUDA_SUCCESS)
		r = check_launch(f, c);
	if (r)
		return r;
	if (extra || (f->n_parameters && !parameters))
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "%s wants %u parameters, and none as `extra`", f->name,
				   f->n_parameters);
	if (!f->emulated)
		return fake_breach(CUDA_ERROR_NOT_FOUND, "FAKECUDA_KERNELS has no %s: it cannot run here", f->name);
	l = calloc(1, sizeof(*l) + f->parameter_bytes + 16);
	if (!l)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*l = (struct launch_op){ .op = { .run = run_launch, .what = f->emulated->name }, .kernel = f->emulated,
				 .grid = { c->gridDimX, c->gridDimY, c->gridDimZ },
				 .block = { c->blockDimX, c->blockDimY, c->blockDimZ },
				 .shared_bytes = c->sharedMemBytes };
	for (unsigned i = 0; i < f->n_parameters; i++) {
		if (f->parameters[i].offset + f->parameters[i].bytes > f->parameter_bytes) {
			free(l);
			return CUDA_ERROR_INVALID_IMAGE;
		}
		l->parameters[i] = memcpy(l->bytes + f->parameters[i].offset, parameters[i], f->parameters[i].bytes);
	}
	return queue_add(s, &l->op);
}

API cuLaunchKernel(CUfunction f, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z, unsigned int block_x,
		   unsigned int block_y, unsigned int block_z, unsigned int shared_bytes, CUstream stream,
		   void **parameters, void **extra)
{
	ENTER(NEED_CONTEXT);
	const CUlaunchConfig c = { .gridDimX = grid_x, .gridDimY = grid_y, .gridDimZ = grid_z, .blockDimX = block_x,
				   .blockDimY = block_y, .blockDimZ = block_z, .sharedMemBytes = shared_bytes,
				   .hStream = stream };

	LOCKED(launch(&c, HANDLE(f), parameters, extra));
}

API cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **parameters, void **extra)
{
	ENTER(NEED_CONTEXT);
	LOCKED(launch(config, HANDLE(f), parameters, extra));
}
