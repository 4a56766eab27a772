/* cases.h - memory and launches of the kernels' tests: exact regions, every order, recording.
 *
 * A case allocates regions, fills them, launches kernels and ends.  With the environment's
 * KVD_CUDA_RECORD=DIR each launch of the forward order is also written to DIR as a file: what it was given
 * and what the fibers made of it; tests/cuda_emulator/replay.py runs the same launch through the PTX. */
#ifndef TESTS_CUDA_EMULATOR_CASES_H
#define TESTS_CUDA_EMULATOR_CASES_H

#include <stddef.h>
#include <stdint.h>
#include "tests/cuda_emulator/emulated.h"

/* Memory of exactly `bytes`, aligned to 256, filled with 0xa5.  Lives until case_end(). */
void *case_memory(const char *name, size_t bytes, uint32_t flags);
/* From now on the region is used so: a result becomes an input. */
void case_memory_use(const void *base, uint32_t flags);
void case_end(void);

/* Launch; fails the test if the kernel is unknown, args_bytes is not its argument's, or anything is reported. */
void case_launch(const char *kernel, struct emulated_dim grid, uint32_t threads, uint32_t shared_bytes, void *args,
		 size_t args_bytes);
#define CASE_LAUNCH(kernel, grid, threads, shared_bytes, args) \
	case_launch(kernel, grid, threads, shared_bytes, &(args), sizeof(args))

/* Launch and expect a fault, or none: returns the reports' number; emulated_first() tells. */
int case_try(const char *kernel, struct emulated_dim grid, uint32_t threads, uint32_t shared_bytes, void *args,
	     size_t args_bytes);

/* Number o of the orders: forward, reverse, seeded. */
void case_order(unsigned o);

/* Numbers that repeat from run to run. */
void case_seed(uint64_t seed);
uint32_t case_random(void);
float case_uniform(float low, float high);

uint32_t case_bf16(float x);
float case_f32_of_bf16(uint32_t bits);
uint16_t case_f16(float x);
float case_f32_of_f16(uint16_t bits);

#endif
