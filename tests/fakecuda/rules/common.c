/* common.c - beginnings of the rules' programs, and the choice of one by name. */
#include "tests/fakecuda/rules/rules.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fakecuda/control.h"

struct rule rules_broken[200], rules_kept[200];
size_t n_rules_broken, n_rules_kept;

void must(CUresult r, const char *what)
{
	if (r == CUDA_SUCCESS)
		return;
	fprintf(stderr, "%s: %d\n", what, (int)r);
	_exit(99);
}

void begin(void)
{
	CUcontext context;

	MUST(cuInit(0));
	MUST(cuDevicePrimaryCtxRetain(&context, 0));
	MUST(cuCtxSetCurrent(context));
}

CUmemAllocationProp properties(void)
{
	CUmemAllocationProp p = { .type = CU_MEM_ALLOCATION_TYPE_PINNED,
				  .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
				  .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0 } };
	p.allocFlags.gpuDirectRDMACapable = 1;
	return p;
}

CUmemGenericAllocationHandle create(size_t bytes)
{
	CUmemAllocationProp p = properties();
	CUmemGenericAllocationHandle h = 0;

	MUST(cuMemCreate(&h, bytes, &p, 0));
	return h;
}

CUdeviceptr reserve(size_t bytes)
{
	CUdeviceptr p = 0;

	MUST(cuMemAddressReserve(&p, bytes, 0, 0, 0));
	return p;
}

CUresult give_access(CUdeviceptr at, size_t bytes, CUmemAccess_flags flags)
{
	CUmemAccessDesc d = { .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0 }, .flags = flags };

	return cuMemSetAccess(at, bytes, &d, 1);
}

CUdeviceptr mapped(size_t bytes, CUmemAccess_flags flags)
{
	CUdeviceptr at = reserve(bytes);
	CUmemGenericAllocationHandle h = create(bytes);

	MUST(cuMemMap(at, bytes, 0, h, 0));
	MUST(cuMemRelease(h));
	if (flags)
		MUST(give_access(at, bytes, flags));
	return at;
}

void hold(bool on)
{
	char path[200];
	int fd;
	struct fake_control *c;

	snprintf(path, sizeof(path), "%s/control", getenv("FAKECUDA_DIR"));
	fd = open(path, O_RDWR | O_CLOEXEC);
	c = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (c == MAP_FAILED)
		_exit(98);
	__atomic_store_n(&c->hold, on, __ATOMIC_RELEASE);
	munmap(c, 4096);
}

static void append(struct rule *table, size_t *n, const struct rule *more, size_t n_more)
{
	memcpy(table + *n, more, n_more * sizeof(*more));
	*n += n_more;
}

void rules_join(bool with_code)
{
	append(rules_broken, &n_rules_broken, rules_memory, n_rules_memory);
	append(rules_broken, &n_rules_broken, rules_work, n_rules_work);
	append(rules_kept, &n_rules_kept, rules_plain, n_rules_plain);
	if (!with_code)
		return;
	append(rules_broken, &n_rules_broken, rules_code, n_rules_code);
	append(rules_kept, &n_rules_kept, rules_code_kept, n_rules_code_kept);
}

int rules_run(const char *name)
{
	for (size_t i = 0; i < n_rules_broken; i++)
		if (!strcmp(rules_broken[i].name, name))
			exit(rules_broken[i].run());
	for (size_t i = 0; i < n_rules_kept; i++)
		if (!strcmp(rules_kept[i].name, name))
			exit(rules_kept[i].run());
	return 97;
}
