/* copy.c - memory that cuMemAlloc() and its pinned twins give, copies and fills.
 *
 * Pageable host memory is read when the copy is asked for and written before the call returns, as the driver
 * documents; pinned memory is read and written when the copy is done, and not before, so that a program
 * which forgot to wait sees it.  Copies within the device and fills never make the caller wait. */
#include "tests/fakecuda/fake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct pinned {
	struct pinned *next;
	uintptr_t start;
	size_t bytes;
	bool registered;
};
static struct pinned *pinned;

static struct pinned *pinned_find(uintptr_t address)
{
	for (struct pinned *p = pinned; p; p = p->next)
		if (address >= p->start && address < p->start + p->bytes)
			return p;
	return NULL;
}

bool host_is_pinned(uintptr_t address, size_t bytes)
{
	const struct pinned *p = pinned_find(address);

	return p && address + bytes <= p->start + p->bytes;
}

unsigned host_count(void)
{
	unsigned n = 0;

	for (const struct pinned *p = pinned; p; p = p->next)
		n++;
	return n;
}

/* ---- allocation ---- */

API cuMemGetInfo(size_t *free_bytes, size_t *total)
{
	ENTER(NEED_CONTEXT);
	fake_lock();
	slot_usage(context_current()->device, free_bytes, total);
	return fake_unlocked(CUDA_SUCCESS);
}

API cuMemAlloc(CUdeviceptr *dptr, size_t bytes)
{
	ENTER(NEED_CONTEXT);
	uintptr_t address = 0;
	CUresult r;

	if (!dptr || bytes == 0)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "an allocation of %zu bytes", bytes);
	if (capture_forbids())
		return fake_breach(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "memory is allocated during a capture");
	fake_lock();
	r = va_allocate(bytes, &address);
	if (r == CUDA_SUCCESS)
		*dptr = address;
	return fake_unlocked(r);
}

/* Waits for the device, as the driver's does. */
static CUresult memory_free(uintptr_t address)
{
	CUresult r = queue_wait(NULL);

	return r ? r : va_free(address);
}

API cuMemFree(CUdeviceptr dptr)
{
	ENTER(NEED_CONTEXT);
	if (!dptr)
		return CUDA_SUCCESS;
	if (capture_forbids())
		return fake_breach(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "memory is freed during a capture");
	LOCKED(memory_free(dptr));
}

API cuMemGetAddressRange(CUdeviceptr *base, size_t *size, CUdeviceptr dptr)
{
	ENTER(NEED_CONTEXT);
	uintptr_t start;
	size_t bytes;

	fake_lock();
	if (!va_mapping_bounds(dptr, &start, &bytes))
		return fake_unlocked(CUDA_ERROR_NOT_FOUND);
	if (base)
		*base = start;
	if (size)
		*size = bytes;
	return fake_unlocked(CUDA_SUCCESS);
}

static CUresult pin(uintptr_t start, size_t bytes, bool registered)
{
	struct pinned *p = calloc(1, sizeof(*p));

	if (!p)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*p = (struct pinned){ .next = pinned, .start = start, .bytes = bytes, .registered = registered };
	pinned = p;
	return CUDA_SUCCESS;
}

static CUresult host_alloc(void **pp, size_t bytes, unsigned flags)
{
	void *p;
	CUresult r;

	if (!pp || bytes == 0 || (flags & ~7u))
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "%zu bytes, flags %#x", bytes, flags);
	p = mmap(NULL, (bytes + 4095) / 4096 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return CUDA_ERROR_OUT_OF_MEMORY;
	memset(p, 0xA5, bytes);
	r = pin((uintptr_t)p, bytes, false);
	if (r)
		munmap(p, (bytes + 4095) / 4096 * 4096);
	else
		*pp = p;
	return r;
}

API cuMemHostAlloc(void **pp, size_t bytes, unsigned int flags)
{
	ENTER(NEED_CONTEXT);
	LOCKED(host_alloc(pp, bytes, flags));
}

API cuMemAllocHost(void **pp, size_t bytes)
{
	ENTER(NEED_CONTEXT);
	LOCKED(host_alloc(pp, bytes, 0));
}

static CUresult unpin(void *address, bool registered)
{
	struct pinned **at = &pinned, *p;
	CUresult r = queue_wait(NULL);

	while (*at && (*at)->start != (uintptr_t)address)
		at = &(*at)->next;
	p = *at;
	if (!p || p->registered != registered)
		return fake_breach(registered ? CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED : CUDA_ERROR_INVALID_VALUE,
				   "%p was not %s", address, registered ? "registered" : "allocated as pinned memory");
	*at = p->next;
	if (!registered)
		munmap(address, (p->bytes + 4095) / 4096 * 4096);
	free(p);
	return r;
}

API cuMemFreeHost(void *p)
{
	ENTER(NEED_CONTEXT);
	LOCKED(unpin(p, false));
}

static CUresult host_register(void *p, size_t bytes, unsigned flags)
{
	if (!p || bytes == 0 || (flags & ~15u))
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "%zu bytes at %p, flags %#x", bytes, p, flags);
	for (const struct pinned *o = pinned; o; o = o->next)
		if (o->start < (uintptr_t)p + bytes && (uintptr_t)p < o->start + o->bytes)
			return fake_breach(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "%p is pinned already", p);
	if (va_is_device((uintptr_t)p))
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "%p is device memory", p);
	return pin((uintptr_t)p, bytes, true);
}

API cuMemHostRegister(void *p, size_t bytes, unsigned int flags)
{
	ENTER(NEED_CONTEXT);
	LOCKED(host_register(p, bytes, flags));
}

API cuMemHostUnregister(void *p)
{
	ENTER(NEED_CONTEXT);
	LOCKED(unpin(p, true));
}

API cuMemHostGetDevicePointer(CUdeviceptr *pdptr, void *p, unsigned int flags)
{
	ENTER(NEED_CONTEXT);
	fake_lock();
	if (flags || !pinned_find((uintptr_t)p))
		return fake_unlocked(fake_breach(CUDA_ERROR_INVALID_VALUE, "%p is not pinned, or flags %#x", p, flags));
	*pdptr = (CUdeviceptr)p;
	return fake_unlocked(CUDA_SUCCESS);
}

static CUresult pointer_attribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
	bool device = va_find(ptr) != NULL, host = pinned_find(ptr) != NULL;

	if (!device && !host)
		return CUDA_ERROR_INVALID_VALUE;
	switch (attribute) {
	case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
		*(unsigned *)data = device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
		*(CUdeviceptr *)data = ptr;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_HOST_POINTER:
		if (device)
			return CUDA_ERROR_INVALID_VALUE;
		*(void **)data = (void *)ptr;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
		*(int *)data = device ? va_find(ptr)->slot.device : 0;
		return CUDA_SUCCESS;
	default:
		fake_log("pointer attribute %d is not in the double", (int)attribute);
		return CUDA_ERROR_INVALID_VALUE;
	}
}

API cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
	ENTER(NEED_CONTEXT);
	LOCKED(pointer_attribute(data, attribute, ptr));
}

/* ---- copies ---- */

struct copy_op {
	struct op op;
	uintptr_t target, source;
	size_t bytes, rows;            /* of a row; 1 unless the copy has two dimensions */
	size_t target_pitch, source_pitch;
	bool target_device, source_device;
	unsigned char *staged;
	uint32_t pattern;              /* of a fill */
	unsigned width;
};

static void drop_copy(struct op *op)
{
	free(((struct copy_op *)op)->staged);
}

/* The double's view of the next piece of an address, of at most *bytes. */
static char *view(uintptr_t address, bool device, size_t *bytes)
{
	size_t reach;
	char *p;

	if (!device)
		return (char *)address;
	p = va_alias(address, &reach);
	if (p && reach < *bytes)
		*bytes = reach;
	return p;
}

/* A row's addresses. */
static uintptr_t target_row(const struct copy_op *c, size_t row)
{
	return c->target + row * c->target_pitch;
}

static uintptr_t source_row(const struct copy_op *c, size_t row)
{
	return c->source + row * c->source_pitch;
}

static CUresult check_again(const struct copy_op *c, size_t row)
{
	CUresult r = CUDA_SUCCESS;

	if (c->target_device)
		r = va_check(target_row(c, row), c->bytes, true);
	if (r == CUDA_SUCCESS && c->source_device)
		r = va_check(source_row(c, row), c->bytes, false);
	if (r == CUDA_SUCCESS)
		return r;
	fake_breach(r,
		    r == CUDA_ERROR_INVALID_VALUE ?
			    "memory was unmapped under a queued copy (%#zx <- %#zx, %zu bytes)" :
			    "a copy without access to the memory (%#zx <- %#zx, %zu bytes)",
		    (size_t)target_row(c, row), (size_t)source_row(c, row), c->bytes);
	return CUDA_ERROR_ILLEGAL_ADDRESS;
}

/* A piece of a row that can be written in one go; returns how much of it was. */
static size_t copy_piece(const struct copy_op *c, size_t row, size_t done, char *to, size_t n)
{
	const char *from = c->staged ? (const char *)c->staged + row * c->bytes + done :
				       view(source_row(c, row) + done, c->source_device, &n);

	memmove(to, from, n);
	return n;
}

static size_t fill_piece(const struct copy_op *c, size_t row, size_t done, char *to, size_t n)
{
	(void)row;
	(void)done;
	if (c->width == 1)
		memset(to, (int)c->pattern, n);
	else
		for (size_t i = 0; i < n; i += c->width)
			memcpy(to + i, &c->pattern, c->width);
	return n;
}

static CUresult run_pieces(const struct copy_op *c,
			   size_t (*piece)(const struct copy_op *c, size_t row, size_t done, char *to, size_t n))
{
	for (size_t row = 0; row < c->rows; row++) {
		CUresult r = check_again(c, row);

		if (r)
			return r;
		for (size_t done = 0; done < c->bytes;) {
			size_t n = c->bytes - done;
			char *to = view(target_row(c, row) + done, c->target_device, &n);

			done += piece(c, row, done, to, n);
		}
	}
	return CUDA_SUCCESS;
}

static CUresult run_copy(struct op *op)
{
	return run_pieces((struct copy_op *)op, copy_piece);
}

static CUresult run_fill(struct op *op)
{
	return run_pieces((struct copy_op *)op, fill_piece);
}

/* Which side must be what; ANY for the calls that find out. */
enum side { HOST, DEVICE, ANY };

static CUresult check_side(uintptr_t address, size_t bytes, enum side side, bool write, bool *ret_device)
{
	bool device = va_is_device(address);
	CUresult r;

	if (side != ANY && device != (side == DEVICE))
		return fake_breach(CUDA_ERROR_INVALID_VALUE,
				   "%#zx is %s memory, the call wants %s memory", (size_t)address,
				   device                       ? "device"
				   : host_is_pinned(address, 1) ? "pinned"
								: "host",
				   side == DEVICE ? "device" : "host");
	*ret_device = device;
	if (!device)
		return CUDA_SUCCESS;
	r = va_check(address, bytes, write);
	if (r == CUDA_ERROR_INVALID_VALUE)
		return fake_breach(r, "%zu bytes at %#zx are not all mapped", bytes, (size_t)address);
	return CUDA_SUCCESS;           /* access is looked at when the copy is done */
}

/* What the last row of a side reaches to. */
static size_t span(const struct copy_op *c, size_t pitch)
{
	return (c->rows - 1) * pitch + c->bytes;
}

/* Each row of device memory must be mapped; of a host side the whole counts. */
static CUresult check_rows(struct copy_op *c, enum side to, enum side from)
{
	CUresult r = CUDA_SUCCESS;

	for (size_t row = 0; r == CUDA_SUCCESS && row < c->rows; row++) {
		r = check_side(target_row(c, row), c->bytes, to, true, &c->target_device);
		if (r == CUDA_SUCCESS && !c->width)
			r = check_side(source_row(c, row), c->bytes, from, false, &c->source_device);
	}
	return r;
}

static CUresult copy_add(const struct copy_op *given, enum side to, enum side from, CUstream on, bool async)
{
	struct stream *s;
	struct copy_op *c;
	bool wait;
	CUresult r = stream_get(on, &s);
	uint64_t ticket;

	if (r || given->bytes == 0 || given->rows == 0)
		return r;
	if (!async && capture_forbids())
		return fake_breach(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "a copy on the default stream during a capture");
	c = malloc(sizeof(*c));
	if (!c)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*c = *given;
	c->op = (struct op){ .run = run_copy, .drop = drop_copy, .what = "a copy" };
	r = check_rows(c, to, from);
	if (r) {
		free(c);
		return r;
	}
	bool source_pageable = !c->source_device && !host_is_pinned(c->source, span(c, c->source_pitch));
	bool target_pageable = !c->target_device && !host_is_pinned(c->target, span(c, c->target_pitch));
	/* A copy on a stream that captures reads its source at each launch. */
	if (source_pageable && c->target_device && !s->capture) {
		c->staged = malloc(c->bytes * c->rows);
		if (!c->staged) {
			free(c);
			return CUDA_ERROR_OUT_OF_MEMORY;
		}
		for (size_t row = 0; row < c->rows; row++)
			memcpy(c->staged + row * c->bytes, (const void *)source_row(c, row), c->bytes);
	}
	wait = !s->capture && (target_pageable || (!async && !(c->source_device && c->target_device) && !c->staged));
	r = queue_add(s, &c->op);
	if (r || !wait)
		return r;
	ticket = c->op.ticket;
	return queue_wait_ticket(ticket);
}

static CUresult copy(uintptr_t target, enum side to, uintptr_t source, enum side from, size_t bytes, CUstream on,
		     bool async)
{
	const struct copy_op c = { .target = target, .source = source, .bytes = bytes, .rows = 1 };

	return copy_add(&c, to, from, on, async);
}

API cuMemcpyHtoD(CUdeviceptr dst, const void *src, size_t bytes)
{
	ENTER(NEED_CONTEXT);
	LOCKED(copy(dst, DEVICE, (uintptr_t)src, HOST, bytes, NULL, false));
}

API cuMemcpyDtoH(void *dst, CUdeviceptr src, size_t bytes)
{
	ENTER(NEED_CONTEXT);
	LOCKED(copy((uintptr_t)dst, HOST, src, DEVICE, bytes, NULL, false));
}

API cuMemcpyDtoD(CUdeviceptr dst, CUdeviceptr src, size_t bytes)
{
	ENTER(NEED_CONTEXT);
	LOCKED(copy(dst, DEVICE, src, DEVICE, bytes, NULL, false));
}

API cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t bytes)
{
	ENTER(NEED_CONTEXT);
	LOCKED(copy(dst, ANY, src, ANY, bytes, NULL, false));
}

API cuMemcpyHtoDAsync(CUdeviceptr dst, const void *src, size_t bytes, CUstream stream)
{
	ENTER(NEED_CONTEXT);
	LOCKED(copy(dst, DEVICE, (uintptr_t)src, HOST, bytes, stream, true));
}

API cuMemcpyDtoHAsync(void *dst, CUdeviceptr src, size_t bytes, CUstream stream)
{
	ENTER(NEED_CONTEXT);
	LOCKED(copy((uintptr_t)dst, HOST, src, DEVICE, bytes, stream, true));
}

API cuMemcpyDtoDAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream)
{
	ENTER(NEED_CONTEXT);
	LOCKED(copy(dst, DEVICE, src, DEVICE, bytes, stream, true));
}

API cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream)
{
	ENTER(NEED_CONTEXT);
	LOCKED(copy(dst, ANY, src, ANY, bytes, stream, true));
}

/* Memory type, base and offset of one side of a copy in two dimensions. */
static CUresult side_2d(CUmemorytype type, const void *host, CUdeviceptr device, size_t x, size_t y, size_t pitch,
			size_t width, uintptr_t *ret, enum side *ret_side)
{
	if ((type != CU_MEMORYTYPE_HOST && type != CU_MEMORYTYPE_DEVICE) || pitch < x + width)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "memory type %d, pitch %zu for %zu + %zu bytes", (int)type,
				   pitch, x, width);
	*ret_side = type == CU_MEMORYTYPE_HOST ? HOST : DEVICE;
	*ret = (type == CU_MEMORYTYPE_HOST ? (uintptr_t)host : (uintptr_t)device) + y * pitch + x;
	return CUDA_SUCCESS;
}

static CUresult copy_2d(const CUDA_MEMCPY2D *p, CUstream on, bool async)
{
	struct copy_op c = { .bytes = p->WidthInBytes, .rows = p->Height, .target_pitch = p->dstPitch,
			     .source_pitch = p->srcPitch };
	enum side to = HOST, from = HOST;
	CUresult r = side_2d(p->dstMemoryType, p->dstHost, p->dstDevice, p->dstXInBytes, p->dstY, p->dstPitch,
			     p->WidthInBytes, &c.target, &to);

	if (r == CUDA_SUCCESS)
		r = side_2d(p->srcMemoryType, p->srcHost, p->srcDevice, p->srcXInBytes, p->srcY, p->srcPitch,
			    p->WidthInBytes, &c.source, &from);
	return r ? r : copy_add(&c, to, from, on, async);
}

API cuMemcpy2D(const CUDA_MEMCPY2D *p)
{
	ENTER(NEED_CONTEXT);
	LOCKED(copy_2d(p, NULL, false));
}

API cuMemcpy2DAsync(const CUDA_MEMCPY2D *p, CUstream stream)
{
	ENTER(NEED_CONTEXT);
	LOCKED(copy_2d(p, stream, true));
}

/* ---- fills ---- */

static CUresult fill_rows(uintptr_t target, size_t pitch, uint32_t pattern, unsigned width, size_t n, size_t rows,
			  CUstream on, bool async)
{
	struct stream *s;
	struct copy_op *c;
	CUresult r = stream_get(on, &s);

	if (r || n == 0 || rows == 0)
		return r;
	if (target % width || (rows > 1 && pitch < n * width))
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "%#zx is not aligned to %u, or pitch %zu of %zu",
				   (size_t)target, width, pitch, n * width);
	if (!async && capture_forbids())
		return fake_breach(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "a fill on the default stream during a capture");
	c = calloc(1, sizeof(*c));
	if (!c)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*c = (struct copy_op){ .op = { .run = run_fill, .drop = drop_copy, .what = "a fill" }, .target = target,
			       .bytes = n * width, .rows = rows, .target_pitch = pitch, .pattern = pattern,
			       .width = width };
	r = check_rows(c, host_is_pinned(target, n * width) ? ANY : DEVICE, ANY);
	if (r) {
		free(c);
		return r;
	}
	return queue_add(s, &c->op);
}

static CUresult fill(uintptr_t target, uint32_t pattern, unsigned width, size_t n, CUstream on, bool async)
{
	return fill_rows(target, 0, pattern, width, n, 1, on, async);
}

API cuMemsetD2D8Async(CUdeviceptr dst, size_t pitch, unsigned char pattern, size_t width, size_t height,
		      CUstream stream)
{
	ENTER(NEED_CONTEXT);
	LOCKED(fill_rows(dst, pitch, pattern, 1, width, height, stream, true));
}

#define FILL(name, type, width)                                                        \
	API name(CUdeviceptr dst, type pattern, size_t n)                              \
	{                                                                              \
		ENTER(NEED_CONTEXT);                                                   \
		LOCKED(fill(dst, pattern, width, n, NULL, false));                     \
	}
#define FILL_ASYNC(name, type, width)                                                  \
	API name(CUdeviceptr dst, type pattern, size_t n, CUstream stream)             \
	{                                                                              \
		ENTER(NEED_CONTEXT);                                                   \
		LOCKED(fill(dst, pattern, width, n, stream, true));                    \
	}
FILL(cuMemsetD8, unsigned char, 1)
FILL(cuMemsetD16, unsigned short, 2)
FILL(cuMemsetD32, unsigned int, 4)
FILL_ASYNC(cuMemsetD8Async, unsigned char, 1)
FILL_ASYNC(cuMemsetD16Async, unsigned short, 2)
FILL_ASYNC(cuMemsetD32Async, unsigned int, 4)
