/* kernels.cu - the probes' own kernels: one that writes for as long as it is let, one that only reads. */
#include "tests/gpu/probe.h"

extern "C" __global__ void probe_write(struct probe_write_args a)
{
	const uint64_t step = (uint64_t)gridDim.x * blockDim.x;
	const long long start = clock64();
	volatile uint32_t *at = a.at;
	uint32_t turn = 0;

	do {
		turn++;
		for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < a.n_words; i += step)
			at[i] = turn;
	} while ((uint64_t)(clock64() - start) < a.cycles_max);
}

#define AT_ONCE 8
extern "C" __global__ void __launch_bounds__(256) probe_read(struct probe_read_args a)
{
	const uint64_t step = (uint64_t)gridDim.x * blockDim.x, me = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
	const uint4 *at = (const uint4 *)a.at;
	uint32_t sum = 0;
	uint64_t i = me;

	for (; i + (AT_ONCE - 1) * step < a.n_quads; i += AT_ONCE * step) {
		uint4 q[AT_ONCE];
#pragma unroll
		for (int k = 0; k < AT_ONCE; k++)
			q[k] = __ldcs(at + i + k * step);
#pragma unroll
		for (int k = 0; k < AT_ONCE; k++)
			sum ^= q[k].x ^ q[k].y ^ q[k].z ^ q[k].w;
	}
	for (; i < a.n_quads; i += step) {
		const uint4 q = __ldcs(at + i);
		sum ^= q.x ^ q.y ^ q.z ^ q.w;
	}
	a.sums[me] = sum;
}
