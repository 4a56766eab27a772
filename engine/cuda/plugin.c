/* plugin.c - what the engine sees of libkvd-cuda.so: one struct backend. */
#include "engine/backend.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include "engine/cuda/run.h"

#define NUMERICS_FAMILY "cuda/1"   /* raised when any order of accumulation changes */

/* The tensor cores of two generations may round differently: pages of them never merge. */
static int cuda_numerics_id(const struct backend_options *o, char ret_id[32], char *err,
			    size_t errlen)
{
	struct driver driver;
	struct driver_facts facts;
	char error[DRIVER_ERROR_MAX];
	int r = device_facts(o->ordinal, &driver, &facts, error);

	if (r < 0)
		snprintf(err, errlen, "%s", error);
	else
		snprintf(ret_id, 32, NUMERICS_FAMILY "/sm_%d%d", facts.major, facts.minor);
	driver_close(&driver);
	return r;
}

static int cuda_open(const struct model *m, const struct backend_options *o,
		     struct backend_run **ret, char *err, size_t errlen)
{
	struct backend_run *run = calloc(1, sizeof(*run));
	int r = run ? run_build(run, m, o) : -ENOMEM;

	if (r == 0) {
		*ret = run;
		return 0;
	}
	snprintf(err, errlen, "%s", run && run->device.error[0] ? run->device.error : "out of memory");
	if (run)
		run_free(run);
	return r;
}

static const char *cuda_error(const struct backend_run *run)
{
	return run->device.error;
}

static uint8_t *cuda_pages_new(struct backend_run *run, size_t bytes)
{
	uint8_t *pages = NULL;

	return device_alloc(&run->device, bytes, &pages) == 0 ? pages : NULL;
}

/* The device owns it until close(). */
static void cuda_pages_free(struct backend_run *run, uint8_t *pages, size_t bytes)
{
}

static const struct backend backend_cuda = {
	.version = BACKEND_VERSION, .name = "cuda", .layout = KVD_LAYOUT_ROWS, .on_host = false,
	.numerics_id = cuda_numerics_id, .open = cuda_open, .close = run_free, .step = run_step,
	.error = cuda_error, .pages_new = cuda_pages_new, .pages_free = cuda_pages_free,
};

__attribute__((visibility("default"))) extern const struct backend *const kvd_backend_cuda;
const struct backend *const kvd_backend_cuda = &backend_cuda;
