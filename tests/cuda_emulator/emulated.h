/* emulated.h - kernels compiled for the CPU, as tests and the driver's double call them.  Plain C.
 *
 * build/tests/fakecuda/libkernels.so (fast, nothing checked) and libkernels-checked.so (every access
 * watched) both export what is declared here.  One launch runs at a time in a process; a second caller
 * waits. */
#ifndef TESTS_CUDA_EMULATOR_EMULATED_H
#define TESTS_CUDA_EMULATOR_EMULATED_H

#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

struct emulated_dim { uint32_t x, y, z; };

struct emulated_kernel {
	const char *name;                  /* as in the cubin; NULL ends the table */
	uint32_t n_params;
	const uint32_t *param_sizes;       /* bytes each, as .nv.info's KPARAM_INFO has them */
	/* params: as cuLaunchKernel takes them.  Returns 0; the number of reports if there were any. */
	int (*launch)(struct emulated_dim grid, struct emulated_dim block, uint32_t shared_bytes, void **params);
};
extern const struct emulated_kernel emulated_kernels[];

/* ---- what a checked launch knows of memory: an access outside these is reported ---- */
#define EMULATED_READ 1u
#define EMULATED_WRITE 2u
#define EMULATED_UNSET 4u          /* dirty: read before it is written is reported */
#define EMULATED_DEPENDS 8u        /* the earlier kernel writes it: nobody touches it before port_grid_wait() */
#define EMULATED_REGIONS_MAX 64u
/* Returns 0; -ENOSPC for more than EMULATED_REGIONS_MAX. */
int emulated_region(const char *name, const void *base, size_t bytes, uint32_t flags);
void emulated_regions_forget(void);

/* ---- how threads take turns ---- */
enum emulated_order { EMULATED_FORWARD, EMULATED_REVERSE, EMULATED_SEEDED };
void emulated_set_order(enum emulated_order order, uint64_t seed);

/* ---- what was found ---- */
enum emulated_fault {
	EMULATED_NONE,
	EMULATED_RACE,             /* unordered accesses of two threads of one block, one a write */
	EMULATED_RACE_BLOCKS,      /* the same between blocks */
	EMULATED_BOUNDS,           /* outside what the launch may touch, or writing what it may only read */
	EMULATED_UNSET_READ,       /* shared or dirty memory read before anybody wrote it */
	EMULATED_COPY_PENDING,     /* the target of an asynchronous copy touched before its wait */
	EMULATED_COPY_LOST,        /* a thread ended with copies that nobody waited for */
	EMULATED_BARRIER,          /* barriers at different places, or a thread has ended that others wait for */
	EMULATED_LANES,            /* a warp's operation without a lane it names, or with different arguments */
	EMULATED_ALIGNMENT,        /* an address that the device refuses */
	EMULATED_TRAP,             /* undefined behaviour: bounds of an array, shift, alignment */
	EMULATED_EARLY,            /* what the earlier kernel writes, touched before port_grid_wait() */
	EMULATED_ADDRESS,          /* a signal: memory that isn't there */
	EMULATED_N_FAULTS,
};
/* Reports of one kind since emulated_forget(); all: EMULATED_NONE. */
unsigned emulated_found(enum emulated_fault fault);
/* The first report's sentence, "" without one; lives until emulated_forget(). */
const char *emulated_first(void);
void emulated_forget(void);
const char *emulated_fault_name(enum emulated_fault fault);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
#endif
