/* shadow.c - what every byte of shared and global memory remembers, and the functions gcc calls at each access.
 *
 * Kernels are compiled with -fsanitize=thread and linked with the __tsan_* functions below instead of
 * libtsan.  A cell per byte keeps the last write and the last reads.  The clock ticks at every block's
 * begin and at every barrier that a block passes, and never goes back, so that cells need no clearing:
 *     time < launch_began    an earlier kernel: ordered
 *     time < block_began     another block of this launch: never ordered (blocks may run side by side)
 *     time < now             this block before its last barrier: ordered
 *     time = now             ordered for the same thread, or for its warp after a __syncwarp() of all
 * Shuffles, votes and products order nothing, as on the device.  Atomics do not race with atomics.
 *
 * An access outside the launch's shared memory, the declared regions (emulated_region(); without any,
 * global memory goes unchecked), the thread's own stack and the program's constants ends the launch, as
 * carrying it out could damage the emulator. */
#include "tests/cuda_emulator/machine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

struct cell {
	uint32_t write_time;               /* 0: never */
	uint32_t read_time;
	uint16_t write_thread;             /* and flags */
	uint16_t read_thread;              /* or ONE_WARP | warp, or MANY */
	uint16_t write_epoch, read_epoch;  /* of the warp */
};
#define THREAD_BITS 0x07ffu
#define OTHERS_READ 0x2000u                /* another block of this launch read it, too */
#define PENDING 0x4000u
#define ATOMIC 0x8000u
#define ONE_WARP 0x8000u
#define MANY 0xffffu

struct region {
	const char *name;
	uintptr_t base, end;
	uint32_t flags;
	struct cell *cells;
};
static struct region regions[EMULATED_REGIONS_MAX];
static uint32_t n_regions, last_region;
static struct cell shared_cells[MACHINE_SHARED_MAX];
static uint32_t now = 1, launch_began, block_began;

/* This library's or program's own image: constants of kernels, and the machine. */
extern const char __ehdr_start __attribute__((visibility("hidden"))), _end __attribute__((visibility("hidden")));

int emulated_region(const char *name, const void *base, size_t bytes, uint32_t flags)
{
	struct region *r = &regions[n_regions];

	if (n_regions == EMULATED_REGIONS_MAX)
		return -ENOSPC;
	r->cells = mmap(NULL, (bytes + 1) * sizeof(struct cell), PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (r->cells == MAP_FAILED)
		return -ENOMEM;
	r->name = name;
	r->base = (uintptr_t)base;
	r->end = r->base + bytes;
	r->flags = flags;
	n_regions++;
	return 0;
}

void emulated_regions_forget(void)
{
	for (uint32_t i = 0; i < n_regions; i++)
		munmap(regions[i].cells, (regions[i].end - regions[i].base + 1) * sizeof(struct cell));
	n_regions = last_region = 0;
}

void shadow_launch_begin(void)
{
	launch_began = now + 1;
}

void shadow_block_begin(void)
{
	block_began = ++now;
}

void shadow_barrier_passed(void)
{
	now++;
}

const char *shadow_place(const void *address, char *text, size_t size)
{
	uintptr_t a = (uintptr_t)address;
	const struct region *near = NULL;

	if (a >= (uintptr_t)machine_shared && a < (uintptr_t)machine_shared + MACHINE_SHARED_MAX) {
		snprintf(text, size, "shared + %zu of %u", (size_t)(a - (uintptr_t)machine_shared),
			 machine_shared_bytes);
		return text;
	}
	for (uint32_t i = 0; i < n_regions; i++)
		if (a + 4096 >= regions[i].base && a < regions[i].end + 4096 &&
		    (!near || (a >= regions[i].base && a < regions[i].end)))
			near = &regions[i];
	if (near)
		snprintf(text, size, "%s %+zd of %zu", near->name, (ssize_t)(a - near->base),
			 (size_t)(near->end - near->base));
	else
		snprintf(text, size, "address %p", address);
	return text;
}

static void found(enum emulated_fault fault, const struct machine_lane *l, const void *address, uint32_t bytes,
		  enum shadow_access access, const void *pc, const char *against, uint32_t thread)
{
	static const char *const verbs[] = {"reads", "writes", "changes"};
	char place[120], whom[40] = "", site[160] = "";

	if (thread != MANY)
		snprintf(whom, sizeof(whom), thread & ONE_WARP ? " of warp %u" : " of thread %u", thread & ~ONE_WARP);
	if (!pc)
		snprintf(site, sizeof(site), " at %s:%u", l->site.file ? l->site.file : "?", l->site.line);
	report_add(fault, pc, "thread %u %s %u bytes, %s%s%s%s", l->thread, verbs[access], bytes,
		   shadow_place(address, place, sizeof(place)), against, whom, site);
}

/* Is what a thread of this block did at `time` ordered before the lane's next access? */
static inline bool ordered(const struct machine_lane *l, uint32_t time, uint32_t thread, uint16_t epoch)
{
	return time < now || thread == l->thread ||
		(thread / MACHINE_LANES == l->warp->number && epoch != (uint16_t)l->warp->epoch);
}

static inline bool reads_ordered(const struct machine_lane *l, const struct cell *c)
{
	if (c->read_time < now)
		return true;
	if (c->read_thread == MANY)
		return false;
	if (c->read_thread & ONE_WARP)
		return (c->read_thread & ~ONE_WARP) == l->warp->number && c->read_epoch != (uint16_t)l->warp->epoch;
	return ordered(l, c->read_time, c->read_thread, c->read_epoch);
}

static inline void note_read(const struct machine_lane *l, struct cell *c)
{
	bool others = c->read_time >= launch_began && (c->read_time < block_began || c->write_thread & OTHERS_READ);

	c->write_thread = (uint16_t)(others ? c->write_thread | OTHERS_READ : c->write_thread & ~OTHERS_READ);
	if (c->read_time < now || ordered(l, now, c->read_thread, c->read_epoch) ||
	    (c->read_thread != MANY && c->read_thread == (ONE_WARP | l->warp->number) &&
	     c->read_epoch != (uint16_t)l->warp->epoch)) {
		c->read_time = now;
		c->read_thread = (uint16_t)l->thread;
	} else if (c->read_thread != MANY &&
		   ((c->read_thread & ONE_WARP) ? c->read_thread & ~ONE_WARP : c->read_thread / MACHINE_LANES) ==
		   l->warp->number) {
		c->read_thread = (uint16_t)(ONE_WARP | l->warp->number);
	} else {
		c->read_thread = MANY;
	}
	c->read_epoch = (uint16_t)l->warp->epoch;
}

/* One byte: compare with what its cell remembers.  Returns the fault. */
static inline enum emulated_fault meet_cell(const struct machine_lane *l, struct cell *c, enum shadow_access access,
					    const char **against, uint32_t *thread)
{
	uint32_t writer = c->write_thread & THREAD_BITS;
	bool both_atomic = access == SHADOW_ATOMIC && c->write_thread & ATOMIC;

	*thread = MANY;
	if (c->write_time >= launch_began && !both_atomic) {
		*against = ", unordered with a write";
		if (c->write_time < block_began)
			return EMULATED_RACE_BLOCKS;
		*thread = writer;
		if (c->write_thread & PENDING) {
			*against = ", the target of an asynchronous copy not yet waited for,";
			return EMULATED_COPY_PENDING;
		}
		if (!ordered(l, c->write_time, writer, c->write_epoch))
			return EMULATED_RACE;
	}
	if (access != SHADOW_READ && c->read_time >= launch_began) {
		*against = ", unordered with a read";
		*thread = c->read_thread;
		if (c->read_time < block_began || c->write_thread & OTHERS_READ) {
			*thread = MANY;
			return EMULATED_RACE_BLOCKS;
		}
		if (!reads_ordered(l, c))
			return EMULATED_RACE;
	}
	return EMULATED_NONE;
}

static inline void note_write(const struct machine_lane *l, struct cell *c, uint32_t flags)
{
	c->write_time = now;
	c->write_thread = (uint16_t)(l->thread | flags);
	c->write_epoch = (uint16_t)l->warp->epoch;
	c->read_time = 0;
}

/* The cells of an access, or NULL where none are kept; what may not be touched at all ends the launch. */
static struct cell *cells_of(const struct machine_lane *l, uintptr_t a, uint32_t bytes, enum shadow_access access,
			     const void *pc)
{
	uintptr_t shared = (uintptr_t)machine_shared;
	struct region *r = &regions[last_region];

	if (a - (uintptr_t)l->stack < MACHINE_STACK_BYTES)
		return NULL;
	if (a >= shared && a < shared + MACHINE_SHARED_MAX) {
		if (a + bytes <= shared + machine_shared_bytes)
			return &shared_cells[a - shared];
		goto outside;
	}
	if (a >= (uintptr_t)&__ehdr_start && a + bytes <= (uintptr_t)&_end)
		return NULL;
	if (n_regions == 0)
		return NULL;
	if (a < r->base || a + bytes > r->end) {
		for (r = regions; r < regions + n_regions; r++)
			if (a >= r->base && a + bytes <= r->end)
				break;
		if (r == regions + n_regions)
			goto outside;
		last_region = (uint32_t)(r - regions);
	}
	if (!(r->flags & (access == SHADOW_READ ? EMULATED_READ : EMULATED_WRITE)))
		goto outside;
	if (r->flags & EMULATED_DEPENDS && !l->grid_waited)
		found(EMULATED_EARLY, l, (const void *)a, bytes, access, pc, "", MANY);
	if (r->flags & EMULATED_UNSET && access != SHADOW_WRITE)
		for (uint32_t i = 0; i < bytes; i++)
			if (r->cells[a - r->base + i].write_time == 0) {
				found(EMULATED_UNSET_READ, l, (const void *)(a + i), bytes, access, pc, "", MANY);
				break;
			}
	return &r->cells[a - r->base];
outside:
	found(EMULATED_BOUNDS, l, (const void *)a, bytes, access, pc, " which it may not", MANY);
	machine_abandon();
}

static void access_cells(const struct machine_lane *l, struct cell *cells, uintptr_t a, uint32_t bytes,
			 enum shadow_access access, const void *pc)
{
	bool is_shared = cells >= shared_cells && cells < shared_cells + MACHINE_SHARED_MAX;
	enum emulated_fault worst = EMULATED_NONE;
	const char *against = "", *worst_against = "";
	uint32_t thread, worst_thread = MANY, at = 0;

	for (uint32_t i = 0; i < bytes; i++) {
		struct cell *c = &cells[i];
		enum emulated_fault fault;

		if (is_shared && c->write_time < block_began)
			c->write_time = 0;
		if (is_shared && c->read_time < block_began)
			c->read_time = 0;
		fault = is_shared && access != SHADOW_WRITE && c->write_time == 0 ?
			EMULATED_UNSET_READ : meet_cell(l, c, access, &against, &thread);

		if (fault != EMULATED_NONE && worst == EMULATED_NONE) {
			worst = fault;
			worst_against = fault == EMULATED_UNSET_READ ? "" : against;
			worst_thread = fault == EMULATED_UNSET_READ ? MANY : thread;
			at = i;
		}
		if (access == SHADOW_READ)
			note_read(l, c);
		else
			note_write(l, c, access == SHADOW_ATOMIC ? ATOMIC : 0);
	}
	if (worst != EMULATED_NONE)
		found(worst, l, (const void *)(a + at), bytes, access, pc, worst_against, worst_thread);
}

void shadow_access_of(struct machine_lane *l, const void *address, uint32_t bytes, enum shadow_access access,
		      const void *pc)
{
	uintptr_t a = (uintptr_t)address;
	struct cell *cells = cells_of(l, a, bytes, access, pc);

	if (cells)
		access_cells(l, cells, a, bytes, access, pc);
}

void shadow_access(const void *address, uint32_t bytes, enum shadow_access access, const void *pc)
{
	if (machine_lane)
		shadow_access_of(machine_lane, address, bytes, access, pc);
}

void shadow_copy_target(const void *target, uint32_t bytes, bool pending, const void *pc)
{
	struct machine_lane *l = machine_lane;
	uintptr_t a = (uintptr_t)target;
	struct cell *cells = cells_of(l, a, bytes, SHADOW_WRITE, pc);

	if (!cells)
		return;
	if (pending)
		access_cells(l, cells, a, bytes, SHADOW_WRITE, pc);
	for (uint32_t i = 0; i < bytes; i++)
		note_write(l, &cells[i], pending ? PENDING : 0);
}

/* ---- what gcc calls ---- */
#define CALLER __builtin_return_address(0)

static inline void aligned_access(const void *address, uint32_t bytes, enum shadow_access access, const void *pc)
{
	if (!machine_lane)
		return;
	if ((uintptr_t)address % bytes != 0) {
		found(EMULATED_ALIGNMENT, machine_lane, address, bytes, access, pc,
		      " at an address not aligned to that", MANY);
		machine_abandon();
	}
	shadow_access(address, bytes, access, pc);
}

#define HOOKS(bytes) \
	void __tsan_read##bytes(void *a); \
	void __tsan_read##bytes(void *a) { aligned_access(a, bytes, SHADOW_READ, CALLER); } \
	void __tsan_write##bytes(void *a); \
	void __tsan_write##bytes(void *a) { aligned_access(a, bytes, SHADOW_WRITE, CALLER); } \
	void __tsan_unaligned_read##bytes(void *a); \
	void __tsan_unaligned_read##bytes(void *a) { shadow_access(a, bytes, SHADOW_READ, CALLER); } \
	void __tsan_unaligned_write##bytes(void *a); \
	void __tsan_unaligned_write##bytes(void *a) { shadow_access(a, bytes, SHADOW_WRITE, CALLER); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void *a, size_t bytes);
void __tsan_read_range(void *a, size_t bytes) { shadow_access(a, (uint32_t)bytes, SHADOW_READ, CALLER); }
void __tsan_write_range(void *a, size_t bytes);
void __tsan_write_range(void *a, size_t bytes) { shadow_access(a, (uint32_t)bytes, SHADOW_WRITE, CALLER); }
void __tsan_init(void);
void __tsan_init(void) {}
void __tsan_func_entry(void *pc);
void __tsan_func_entry(void *pc) {}
void __tsan_func_exit(void);
void __tsan_func_exit(void) {}
