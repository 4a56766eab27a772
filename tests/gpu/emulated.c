/* emulated.c - the probes' kernels for the driver's double (FAKECUDA_KERNELS): what kernels.cu does, on one thread. */
#include "tests/cuda_emulator/emulated.h"

#include <time.h>

#include "tests/gpu/probe.h"

static uint64_t now_nsec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int write_turns(struct emulated_dim grid, struct emulated_dim block, uint32_t shared_bytes, void **params)
{
	const struct probe_write_args *a = params[0];
	volatile uint32_t *at = a->at;
	uint64_t start = now_nsec();
	uint32_t turn = 0;

	do {
		turn++;
		for (uint64_t i = 0; i < a->n_words; i++)
			at[i] = turn;
	} while (now_nsec() - start < a->cycles_max);
	return 0;
}

static int read_all(struct emulated_dim grid, struct emulated_dim block, uint32_t shared_bytes, void **params)
{
	const struct probe_read_args *a = params[0];
	uint64_t n = (uint64_t)grid.x * block.x;

	for (uint64_t i = 0; i < n; i++)
		a->sums[i] = 0;
	for (uint64_t i = 0; i < a->n_quads; i++)
		for (int k = 0; k < 4; k++)
			a->sums[i % n] ^= a->at[i * 4 + (uint64_t)k];
	return 0;
}

static const uint32_t write_bytes = sizeof(struct probe_write_args), read_bytes = sizeof(struct probe_read_args);
const struct emulated_kernel emulated_kernels[] = {
	{ "probe_write", 1, &write_bytes, write_turns },
	{ "probe_read", 1, &read_bytes, read_all },
	{ 0 },
};
