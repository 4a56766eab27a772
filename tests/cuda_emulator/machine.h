/* machine.h - the emulated multiprocessor's insides: lanes, warps, the running block.
 *
 * Included by the emulator's own files and by device.h, which kernels see.  One fiber per CUDA thread
 * (a lane); lanes of one block run in turn on the launching thread, and change places only where the
 * device makes them meet: barriers, and operations of a whole warp.  Blocks run one after another. */
#ifndef TESTS_CUDA_EMULATOR_MACHINE_H
#define TESTS_CUDA_EMULATOR_MACHINE_H

#include <stdbool.h>
#include <stdint.h>
#include "tests/cuda_emulator/emulated.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MACHINE_LANES 32u
#define MACHINE_THREADS_MAX 1024u
#define MACHINE_WARPS_MAX (MACHINE_THREADS_MAX / MACHINE_LANES)
#define MACHINE_SHARED_MAX (228u << 10) /* bytes a block may have on the largest device built for */
#define MACHINE_STACK_BYTES (64u << 10)
#define MACHINE_COPIES_MAX 512u    /* copies of one thread under way */

/* Where a lane meets others: kind and source line. */
enum machine_meeting {
	MEET_NONE, MEET_BARRIER, MEET_SYNCWARP, MEET_SHUFFLE, MEET_VOTE, MEET_LDMATRIX, MEET_LDMATRIX_T,
	MEET_MMA_BF16, MEET_MMA_F16, MEET_MMA_S8_K32, MEET_MMA_S8_K16, MEET_ENDED,
};
struct machine_site {
	const char *file;
	uint32_t line;
};

struct machine_copy {
	void *target;              /* shared */
	const void *source;        /* global; NULL: zeros */
	uint32_t bytes;
	uint32_t group;            /* number of its group, counted from the thread's first */
};

struct machine_lane {
	void *stack_pointer;       /* of the resting fiber */
	struct emulated_dim thread_index;
	uint32_t thread;           /* in the block */
	uint32_t lane;             /* in the warp */
	struct machine_warp *warp;
	enum machine_meeting meeting;
	struct machine_site site;
	uint32_t mask;             /* of lanes it waits for */
	bool grid_waited;
	uint8_t *stack;            /* lowest usable byte */
	/* asynchronous copies, oldest first, in a ring */
	uint32_t group;            /* number of the group being filled */
	uint32_t copy_first, n_copies;
	struct machine_copy copies[MACHINE_COPIES_MAX];
};

/* Operands and results lie by register, then lane, so that an operation is one loop over lanes. */
struct machine_warp {
	uint32_t number;
	uint32_t alive;            /* lanes that have not ended */
	uint32_t ready;            /* lanes that can run */
	uint32_t arrived;          /* lanes that wait in an operation of the warp */
	uint32_t epoch;            /* times all of the warp met in __syncwarp() */
	uint32_t in[12][MACHINE_LANES];
	uint64_t address[MACHINE_LANES];
	uint32_t out[4][MACHINE_LANES];
	struct machine_lane *lanes; /* its 32 */
};

extern struct machine_lane *machine_lane; /* the running one */
extern struct emulated_dim machine_grid_dim, machine_block_dim, machine_block_index;
extern uint8_t *machine_shared;
extern uint32_t machine_shared_bytes;

void machine_barrier(struct machine_site site);
/* Meet the lanes of mask: operands are in warp->in; afterwards results are in warp->out. */
void machine_meet(enum machine_meeting meeting, uint32_t mask, struct machine_site site);
void machine_copy_issue(void *target, const void *source, uint32_t bytes);
void machine_copy_commit(void);
void machine_copy_wait(uint32_t pending);

void machine_grid_wait(void);
enum machine_change { MACHINE_ADD, MACHINE_MAX, MACHINE_OR, MACHINE_EXCHANGE };
/* bytes: 4 or 8.  Returns what was there. */
uint64_t machine_atomic(void *address, uint32_t bytes, enum machine_change change, uint64_t value);

/* A lane's operands and results.  In the checked build these are calls, so that gcc does not take them for
 * accesses of the kernel. */
#ifdef MACHINE_CHECKED
void machine_operand(struct machine_warp *warp, uint32_t reg, uint32_t lane, uint32_t value);
uint32_t machine_result(const struct machine_warp *warp, uint32_t reg, uint32_t lane);
void machine_address(struct machine_lane *lane, const void *address);
#else
static inline void machine_operand(struct machine_warp *warp, uint32_t reg, uint32_t lane, uint32_t value)
{
	warp->in[reg][lane] = value;
}
static inline uint32_t machine_result(const struct machine_warp *warp, uint32_t reg, uint32_t lane)
{
	return warp->out[reg][lane];
}
static inline void machine_address(struct machine_lane *lane, const void *address)
{
	lane->warp->address[lane->lane] = (uint64_t)(uintptr_t)address;
}
#endif

/* ---- launching (machine.c), called by the generated table ---- */
int machine_launch(const char *name, void (*body)(const void *params), const void *params,
		   struct emulated_dim grid, struct emulated_dim block, uint32_t shared_bytes);

/* ---- of the emulator's own files ---- */
extern struct machine_warp machine_warps[MACHINE_WARPS_MAX];
extern uint32_t machine_n_threads, machine_n_warps;
extern uint32_t machine_block_number; /* linear */
extern const char *machine_kernel;

/* collective.c: all lanes of mask have arrived; compute out from in. */
void collective_compute(struct machine_warp *warp, enum machine_meeting meeting, uint32_t mask);

/* report.c */
void report_add(enum emulated_fault fault, const void *pc, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
const char *report_meeting_name(enum machine_meeting meeting);
/* End the launch now: the running fiber is left where it stands. */
void machine_abandon(void) __attribute__((noreturn));

/* shadow.c; without MACHINE_CHECKED none of it is called */
enum shadow_access { SHADOW_READ, SHADOW_WRITE, SHADOW_ATOMIC };
void shadow_launch_begin(void);
void shadow_block_begin(void);
void shadow_barrier_passed(void);
/* One access of the running lane; pc for the report. */
void shadow_access(const void *address, uint32_t bytes, enum shadow_access access, const void *pc);
/* The same on behalf of another lane of the warp. */
void shadow_access_of(struct machine_lane *lane, const void *address, uint32_t bytes, enum shadow_access access,
		      const void *pc);
/* A copy into shared memory was issued (pending) or is done. */
void shadow_copy_target(const void *target, uint32_t bytes, bool pending, const void *pc);
/* Which region, for reports: "name + offset". */
const char *shadow_place(const void *address, char *text, size_t size);

#ifdef MACHINE_CHECKED
#define MACHINE_IS_CHECKED 1
#else
#define MACHINE_IS_CHECKED 0
#endif

#ifdef __cplusplus
}
#endif
#endif
