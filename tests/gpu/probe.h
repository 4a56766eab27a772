/* probe.h - arguments of the probes' own kernels (kernels.cu), for host, device and the double (emulated.c). */
#ifndef TESTS_GPU_PROBE_H
#define TESTS_GPU_PROBE_H

#include <stdint.h>

/* Write 1, 2, 3 .. over all words, turn after turn, until so many cycles of the device have passed: 0 is one turn. */
struct probe_write_args {
	uint32_t *at;
	uint64_t n_words, cycles_max;
};

/* Read all; each thread stores the exclusive or of the words it read. */
struct probe_read_args {
	const uint32_t *at;
	uint32_t *sums;            /* (threads of the grid) */
	uint64_t n_quads;          /* words / 4 */
};

#endif
