/* planted.h - argument of the small kernels with planted faults (planted.cu), for both emulators. */
#ifndef TESTS_CUDA_EMULATOR_PLANTED_H
#define TESTS_CUDA_EMULATOR_PLANTED_H

#include <stdint.h>

/* All kernels run 2 blocks of 64 threads unless their test says otherwise. */
struct planted_args {
	const float *in;           /* (256) */
	float *out;                /* (256) */
	uint32_t n;                /* 256 */
	uint32_t broken;           /* 0: as it should be; 1, 2..: the fault is there */
};

#endif
