/* kernels_emulated.h - a kernel table that does what the avx512 path does, on any machine. */
#ifndef TESTS_LIB_KERNELS_EMULATED_H
#define TESTS_LIB_KERNELS_EMULATED_H

#include "engine/cpu/kernels.h"

extern const struct cpu_kernels cpu_kernels_emulated;

#endif
