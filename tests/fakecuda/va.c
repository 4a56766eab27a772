/* va.c - device addresses: reservations, mappings of physical memory, and who may touch them when.
 *
 * A mapping is there twice: at the address that the program knows, PROT_NONE but for the duration of a launch
 * (with the access that was set), and as an alias of the double's own, through which copies go.  So host
 * code that touches a device address dies there, and the log says why (queue.c).
 * Rules: sizes and addresses are multiples of the granularity, the offset of a mapping is zero, only whole
 * mappings are unmapped, access is set over whole mappings, no address is freed while mapped. */
#include "tests/fakecuda/fake.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct reservation {
	struct reservation *next;
	uintptr_t start;
	size_t bytes;
};
static struct reservation *reservations;
static struct mapping *mappings;       /* sorted by address */
static bool is_open;

struct mapping *va_find(uintptr_t address)
{
	for (struct mapping *m = mappings; m && m->start <= address; m = m->next)
		if (address < m->start + m->bytes)
			return m;
	return NULL;
}

bool va_is_device(uintptr_t address)
{
	for (struct reservation *r = reservations; r; r = r->next)
		if (address >= r->start && address < r->start + r->bytes)
			return true;
	return va_find(address) != NULL;
}

CUresult va_check(uintptr_t address, size_t bytes, bool write)
{
	uintptr_t end = address + bytes;

	while (address < end) {
		struct mapping *m = va_find(address);

		if (!m || (m->user_start && (address < m->user_start || end > m->user_start + m->user_bytes)))
			return CUDA_ERROR_INVALID_VALUE;
		if (!(m->access & 1) || (write && !(m->access & 2)))
			return CUDA_ERROR_ILLEGAL_ADDRESS;
		address = m->start + m->bytes;
	}
	return CUDA_SUCCESS;
}

char *va_alias(uintptr_t address, size_t *ret_bytes)
{
	struct mapping *m = va_find(address);

	if (!m)
		return NULL;
	*ret_bytes = m->start + m->bytes - address;
	return m->alias + (address - m->start);
}

bool va_mapping_bounds(uintptr_t address, uintptr_t *ret_start, size_t *ret_bytes)
{
	struct mapping *m = va_find(address);

	if (!m)
		return false;
	*ret_start = m->user_start ? m->user_start : m->start;
	*ret_bytes = m->user_start ? m->user_bytes : m->bytes;
	return true;
}

static int protection_of(const struct mapping *m)
{
	return (m->access & 1 ? PROT_READ : 0) | (m->access & 2 ? PROT_WRITE : 0);
}

/* Neighbours of one access go in one call. */
static void protect_all(bool open)
{
	for (struct mapping *m = mappings; m;) {
		uintptr_t start = m->start, end = m->start;
		int protection = protection_of(m);

		for (; m && m->start == end && protection_of(m) == protection; m = m->next)
			end += m->bytes;
		if (protection)
			mprotect((void *)start, end - start, open ? protection : PROT_NONE);
	}
}

void va_open(void)
{
	is_open = true;
	protect_all(true);
}

void va_close(void)
{
	is_open = false;
	protect_all(false);
}

static void insert(struct mapping *m)
{
	struct mapping **at = &mappings;

	while (*at && (*at)->start < m->start)
		at = &(*at)->next;
	m->next = *at;
	*at = m;
}

static void take_out(struct mapping *m)
{
	struct mapping **at = &mappings;

	while (*at != m)
		at = &(*at)->next;
	*at = m->next;
}

void va_counts(unsigned *ret_mappings, unsigned *ret_reservations)
{
	*ret_mappings = *ret_reservations = 0;
	for (struct mapping *m = mappings; m; m = m->next)
		(*ret_mappings)++;
	for (struct reservation *r = reservations; r; r = r->next)
		(*ret_reservations)++;
}

static bool is_granular(size_t n)
{
	return n % fake.set.granularity == 0;
}

static void *reserve(size_t bytes, size_t alignment, uintptr_t hint)
{
	char *p = mmap(hint ? (void *)hint : NULL, bytes + alignment, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (hint ? MAP_FIXED_NOREPLACE : 0), -1, 0);
	size_t skip;

	if (p == MAP_FAILED)
		return hint ? reserve(bytes, alignment, 0) : NULL;
	skip = (alignment - (uintptr_t)p % alignment) % alignment;
	if (skip)
		munmap(p, skip);
	munmap(p + skip + bytes, alignment - skip);
	return p + skip;
}

/* ---- the functions of the driver ---- */

API cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr, unsigned long long flags)
{
	ENTER(NEED_INIT);
	size_t g = fake.set.granularity;

	if (!ptr || size == 0 || !is_granular(size) || flags || (alignment & (alignment - 1)) ||
	    (alignment && !is_granular(alignment)))
		return fake_breach(CUDA_ERROR_INVALID_VALUE,
				   "size %#zx (multiple of %#zx), alignment %#zx (power of 2, "
				   "multiple), flags %#llx (0)",
				   size, g, alignment, flags);
	if (fake.set.no_vmm)
		return CUDA_ERROR_NOT_SUPPORTED;
	struct reservation *r = calloc(1, sizeof(*r));
	void *p = reserve(size, alignment > g ? alignment : g, fake.set.ignore_hint || !is_granular(addr) ? 0 : addr);

	if (!r || !p) {
		free(r);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	r->start = (uintptr_t)p;
	r->bytes = size;
	fake_lock();
	r->next = reservations;
	reservations = r;
	fake_unlock();
	*ptr = (CUdeviceptr)p;
	return CUDA_SUCCESS;
}

static CUresult address_free(uintptr_t start, size_t bytes)
{
	struct reservation **at = &reservations, *r;

	while (*at && (*at)->start != start)
		at = &(*at)->next;
	r = *at;
	if (!r || r->bytes != bytes)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "%#zx bytes at %#zx are no whole reservation", bytes,
				   (size_t)start);
	for (struct mapping *m = mappings; m; m = m->next)
		if (m->start < start + bytes && m->start + m->bytes > start)
			return fake_breach(CUDA_ERROR_INVALID_VALUE,
					   "addresses from %#zx are freed while %#zx is mapped",
					   (size_t)start, (size_t)m->start);
	munmap((void *)start, bytes);
	*at = r->next;
	free(r);
	return CUDA_SUCCESS;
}

API cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
	ENTER(NEED_INIT);
	LOCKED(address_free(ptr, size));
}

static CUresult memory_new(const struct slot *slot, bool exportable, bool imported, bool rdma,
			   CUmemGenericAllocationHandle *ret)
{
	struct memory *memory = calloc(1, sizeof(*memory));

	if (!memory)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*memory = (struct memory){ .references = 1, .slot = *slot, .exportable = exportable, .imported = imported,
				   .rdma = rdma };
	memory->handle = handle_new(KIND_MEMORY, memory);
	*ret = memory->handle;
	return CUDA_SUCCESS;
}

static CUresult check_properties(const CUmemAllocationProp *prop)
{
	if (!prop || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED ||
	    prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE || prop->win32HandleMetaData ||
	    prop->allocFlags.compressionType || prop->allocFlags.usage ||
	    (prop->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR))
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "properties are not those of pinned device memory, "
				   "exported as a file descriptor or not at all");
	if (prop->location.id < 0 || prop->location.id >= fake.set.n_devices)
		return fake_breach(CUDA_ERROR_INVALID_DEVICE, "device %d of %d", prop->location.id, fake.set.n_devices);
	for (size_t i = 0; i < sizeof(prop->allocFlags.reserved); i++)
		if (prop->allocFlags.reserved[i])
			return fake_breach(CUDA_ERROR_INVALID_VALUE, "reserved bytes of the properties are not zero");
	if (prop->allocFlags.gpuDirectRDMACapable && fake.set.no_rdma)
		return fake_breach(CUDA_ERROR_NOT_SUPPORTED, "gpuDirectRDMACapable on a device without it: ask for the "
				   "attribute first");
	if (fake.set.no_vmm)
		return CUDA_ERROR_NOT_SUPPORTED;
	return CUDA_SUCCESS;
}

API cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
				  CUmemAllocationGranularity_flags option)
{
	ENTER(NEED_INIT);
	CUresult r = check_properties(prop);

	if (r)
		return r;
	if (!granularity || (unsigned)option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "option %d", (int)option);
	*granularity = fake.set.granularity;
	return CUDA_SUCCESS;
}

API cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop,
		unsigned long long flags)
{
	ENTER(NEED_INIT);
	struct slot slot;
	CUresult r = check_properties(prop);

	if (r)
		return r;
	if (!handle || size == 0 || !is_granular(size) || flags)
		return fake_breach(CUDA_ERROR_INVALID_VALUE,
				   "size %#zx is no multiple of the granularity %#zx, or flags "
				   "%#llx",
				   size, fake.set.granularity, flags);
	fake_lock();
	r = slot_take(prop->location.id, size, prop->requestedHandleTypes != 0, &slot);
	if (r == CUDA_SUCCESS) {
		r = memory_new(&slot, prop->requestedHandleTypes != 0, false,
			       prop->allocFlags.gpuDirectRDMACapable != 0, handle);
		if (r)
			slot_give(&slot);
	}
	return fake_unlocked(r);
}

/* The descriptor goes with the handle; the memory, with the last mapping and descriptor anywhere. */
static CUresult memory_release(uint64_t handle)
{
	struct memory *memory = handle_get(KIND_MEMORY, handle);

	if (--memory->references == 0) {
		handle_drop(KIND_MEMORY, handle);
		slot_give(&memory->slot);
		memory->handle = 0;
		if (memory->mappings == 0)
			free(memory);
	}
	return CUDA_SUCCESS;
}

API cuMemRelease(CUmemGenericAllocationHandle handle)
{
	ENTER(NEED_INIT);
	LOCKED(memory_release(handle));
}

static CUresult export_fd(void *shareable, uint64_t handle)
{
	const struct memory *memory = handle_get(KIND_MEMORY, handle);
	int fd;

	if (!memory->exportable)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "%s", memory->imported ? "an imported handle is exported" :
				   "the handle was created without a handle type");
	/* As the driver may: without CLOEXEC, for the caller to set. */
	fd = dup(memory->slot.exported_fd);
	if (fd < 0)
		return CUDA_ERROR_OPERATING_SYSTEM;
	*(int *)shareable = fd;
	return CUDA_SUCCESS;
}

API cuMemExportToShareableHandle(void *shareable, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType type,
				 unsigned long long flags)
{
	ENTER(NEED_INIT);
	if (!shareable || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || flags)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "type %d, flags %#llx", (int)type, flags);
	LOCKED(export_fd(shareable, handle));
}

API cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *shareable,
				   CUmemAllocationHandleType type)
{
	ENTER(NEED_INIT);
	struct slot slot;
	CUresult r;

	if (!handle || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "type %d", (int)type);
	fake_lock();
	r = slot_from_fd((int)(intptr_t)shareable, &slot);
	if (r == CUDA_SUCCESS) {
		r = memory_new(&slot, false, true, true, handle);
		if (r)
			slot_give(&slot);
	}
	return fake_unlocked(r);
}

static CUresult map(uintptr_t start, size_t bytes, uint64_t handle)
{
	struct memory *memory = handle_get(KIND_MEMORY, handle);
	struct reservation *r = reservations;
	struct mapping *m;

	while (r && (start < r->start || start + bytes > r->start + r->bytes))
		r = r->next;
	if (!r)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "%#zx bytes at %#zx lie in no reservation", bytes,
				   (size_t)start);
	if (bytes != memory->slot.bytes)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "%#zx bytes are mapped of memory of %#zx", bytes,
				   memory->slot.bytes);
	for (m = mappings; m; m = m->next)
		if (m->start < start + bytes && m->start + m->bytes > start)
			return fake_breach(CUDA_ERROR_ALREADY_MAPPED, "%#zx is mapped already", (size_t)start);
	m = calloc(1, sizeof(*m));
	if (!m)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*m = (struct mapping){ .start = start, .bytes = bytes, .memory = memory, .slot = memory->slot };
	m->alias = slot_map(&memory->slot, NULL, PROT_READ | PROT_WRITE);
	if (m->alias == MAP_FAILED || slot_map(&memory->slot, (void *)start, PROT_NONE) == MAP_FAILED) {
		if (m->alias != MAP_FAILED)
			munmap(m->alias, bytes);
		free(m);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	memory->mappings++;
	insert(m);
	return CUDA_SUCCESS;
}

API cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
	     unsigned long long flags)
{
	ENTER(NEED_INIT);
	if (offset || flags || size == 0 || !is_granular(size) || !is_granular(ptr))
		return fake_breach(CUDA_ERROR_INVALID_VALUE,
				   "size %#zx, address %#llx (multiples of %#zx), offset %#zx "
				   "(0), flags %#llx (0)",
				   size, ptr, fake.set.granularity, offset, flags);
	LOCKED(map(ptr, size, handle));
}

static void drop_mapping(struct mapping *m)
{
	take_out(m);
	munmap(m->alias, m->bytes);
	if (m->memory) {
		if (--m->memory->mappings == 0 && m->memory->references == 0)
			free(m->memory);
	} else {
		slot_give(&m->slot);
	}
	free(m);
}

/* [start, end) is whole mappings without a hole. */
static bool is_whole(uintptr_t start, uintptr_t end)
{
	while (start < end) {
		struct mapping *m = va_find(start);

		if (!m || m->start != start || !m->memory)
			return false;
		start += m->bytes;
	}
	return start == end;
}

static CUresult unmap(uintptr_t start, size_t bytes)
{
	if (!is_whole(start, start + bytes))
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "%#zx bytes at %#zx are not whole mappings", bytes,
				   (size_t)start);
	for (uintptr_t at = start; at < start + bytes;) {
		struct mapping *m = va_find(at);

		at += m->bytes;
		/* The address stays reserved. */
		mmap((void *)m->start, m->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
		     0);
		drop_mapping(m);
	}
	return CUDA_SUCCESS;
}

API cuMemUnmap(CUdeviceptr ptr, size_t size)
{
	ENTER(NEED_INIT);
	if (size == 0 || !is_granular(size) || !is_granular(ptr))
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "size %#zx, address %#llx", size, ptr);
	LOCKED(unmap(ptr, size));
}

static CUresult set_access(uintptr_t start, size_t bytes, const CUmemAccessDesc *desc, size_t count)
{
	if (!is_whole(start, start + bytes))
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "%#zx bytes at %#zx are not whole mappings", bytes,
				   (size_t)start);
	for (size_t i = 0; i < count; i++) {
		if (desc[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE || desc[i].location.id < 0 ||
		    desc[i].location.id >= fake.set.n_devices || (unsigned)desc[i].flags > 3 || desc[i].flags == 2)
			return fake_breach(CUDA_ERROR_INVALID_VALUE, "access %d for location %d:%d", (int)desc[i].flags,
					   (int)desc[i].location.type, desc[i].location.id);
		for (uintptr_t at = start; at < start + bytes;) {
			struct mapping *m = va_find(at);

			if (desc[i].location.id == m->slot.device) {
				m->access = desc[i].flags;
				mprotect((void *)m->start, m->bytes, is_open ? protection_of(m) : PROT_NONE);
			}
			at += m->bytes;
		}
	}
	return CUDA_SUCCESS;
}

API cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count)
{
	ENTER(NEED_INIT);
	if (size == 0 || !is_granular(size) || !is_granular(ptr) || !desc || count == 0)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "size %#zx, address %#llx, %zu rights", size, ptr, count);
	LOCKED(set_access(ptr, size, desc, count));
}

API cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr ptr)
{
	ENTER(NEED_INIT);
	fake_lock();
	struct mapping *m = va_find(ptr);

	if (!m || !flags || !location || location->type != CU_MEM_LOCATION_TYPE_DEVICE)
		return fake_unlocked(fake_breach(CUDA_ERROR_INVALID_VALUE, "address %#llx is not mapped", ptr));
	*flags = location->id == m->slot.device ? m->access : 0;
	return fake_unlocked(CUDA_SUCCESS);
}

API cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr)
{
	ENTER(NEED_INIT);
	fake_lock();
	struct mapping *m = va_find((uintptr_t)addr);

	if (!m || !m->memory || !handle)
		return fake_unlocked(fake_breach(CUDA_ERROR_INVALID_VALUE, "%p is not mapped by cuMemMap()", addr));
	/* Released, still mapped: a handle anew, which cannot be exported (its descriptor is gone). */
	if (m->memory->handle == 0) {
		m->memory->handle = handle_new(KIND_MEMORY, m->memory);
		m->memory->exportable = false;
	}
	m->memory->references++;
	*handle = m->memory->handle;
	return fake_unlocked(CUDA_SUCCESS);
}

API cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop, CUmemGenericAllocationHandle handle)
{
	ENTER(NEED_INIT);
	fake_lock();
	struct memory *memory = handle_get(KIND_MEMORY, handle);

	*prop = (CUmemAllocationProp){ .type = CU_MEM_ALLOCATION_TYPE_PINNED,
				       .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
				       .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE, .id = memory->slot.device } };
	prop->allocFlags.gpuDirectRDMACapable = memory->rdma;
	return fake_unlocked(CUDA_SUCCESS);
}

/* ---- cuMemAlloc(): pages of its own, the end flush with a page that nothing may touch ---- */

CUresult va_allocate(size_t bytes, uintptr_t *ret)
{
	size_t rounded = (bytes + 255) / 256 * 256, pages = (rounded + 4095) / 4096 * 4096;
	struct context *context = context_current();
	struct mapping *m = calloc(1, sizeof(*m));
	CUresult r;
	char *p;

	if (!m)
		return CUDA_ERROR_OUT_OF_MEMORY;
	r = slot_take(context->device, pages, false, &m->slot);
	p = r ? MAP_FAILED : mmap(NULL, pages + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	m->alias = p == MAP_FAILED ? MAP_FAILED : slot_map(&m->slot, NULL, PROT_READ | PROT_WRITE);
	if (m->alias == MAP_FAILED || slot_map(&m->slot, p + 4096, PROT_NONE) == MAP_FAILED) {
		if (!r)
			slot_give(&m->slot);
		free(m);
		return r ? r : CUDA_ERROR_OUT_OF_MEMORY;
	}
	m->start = (uintptr_t)p + 4096;
	m->bytes = pages;
	m->access = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
	m->user_start = m->start + pages - rounded;
	m->user_bytes = bytes;
	insert(m);
	if (is_open)
		mprotect((void *)m->start, m->bytes, PROT_READ | PROT_WRITE);
	*ret = m->user_start;
	return CUDA_SUCCESS;
}

CUresult va_free(uintptr_t address)
{
	struct mapping *m = va_find(address);

	if (!m || m->memory || m->user_start != address)
		return fake_breach(CUDA_ERROR_INVALID_VALUE,
				   "%#zx was not allocated by cuMemAlloc(), or is free already",
				   (size_t)address);
	munmap((void *)(m->start - 4096), m->bytes + 8192);
	drop_mapping(m);
	return CUDA_SUCCESS;
}
