/* planted.cu - small kernels, each right with broken = 0 and with one known fault otherwise.
 *
 * What the emulators are for is tested here on faults that are known; tests/cuda_emulator/mutants.txt does
 * the same to the real kernels.  Compiled by g++ for fibers and by nvcc for the interpreter. */
#include "tests/cuda_emulator/planted.h"
#include "engine/cuda/port.h"

#define THREADS 64u

PORT_INLINE uint32_t global_thread(void) { return blockIdx.x * THREADS + threadIdx.x; }

/* Missing barrier between writing and reading shared memory. */
PORT_KERNEL void planted_barrier(struct planted_args a)
{
	PORT_SHARED(shared);
	float *buffer = (float *)shared;

	buffer[threadIdx.x] = a.in[global_thread()];
	if (!a.broken)
		__syncthreads();
	a.out[global_thread()] = buffer[THREADS - 1u - threadIdx.x];
}

/* Missing barrier before a buffer is used again; 2: only warps meet. */
PORT_KERNEL void planted_reuse(struct planted_args a)
{
	PORT_SHARED(shared);
	float *buffer = (float *)shared, sum = 0.0f;

	for (uint32_t i = 0; i < 3u; i++) {
		buffer[threadIdx.x] = a.in[global_thread()] + (float)i;
		__syncthreads();
		sum += buffer[(threadIdx.x + 32u) % THREADS];
		if (!a.broken)
			__syncthreads();
		else if (a.broken == 2)
			__syncwarp();
	}
	a.out[global_thread()] = sum;
}

/* 1: missing __syncwarp() after the wait; 2: missing wait; 3: wait for one group too few; 4: end without
 * a wait; 5: the second copy goes where neighbours still read. */
PORT_KERNEL void planted_copy(struct planted_args a)
{
	PORT_SHARED(shared);
	const uint32_t lane = threadIdx.x % 32u, warp = threadIdx.x / 32u;
	float *buffer = (float *)shared + warp * 256u;
	float sum;

	port_copy_async16(buffer + lane * 4u, a.in + lane * 4u, true);
	port_copy_commit();
	port_copy_async16(buffer + 128u + lane * 4u, a.in + 128u + lane * 4u, lane != 31u);
	port_copy_commit();
	port_copy_wait<1>();
	if (a.broken != 1)
		__syncwarp();
	sum = buffer[(lane * 4u + 5u) % 128u];
	if (a.broken == 3)
		port_copy_wait<1>();
	else if (a.broken != 2 && a.broken != 4)
		port_copy_wait<0>();
	__syncwarp();
	if (a.broken != 4)
		sum += buffer[128u + (lane * 4u + 7u) % 128u];
	if (a.broken == 5) {
		port_copy_async16(buffer + 128u + lane * 4u, a.in, true);
		port_copy_commit();
		port_copy_wait<0>();
	}
	if (a.broken != 2 && a.broken != 3)
		a.out[global_thread()] = sum;
}

/* Barriers at different places. */
PORT_KERNEL void planted_sites(struct planted_args a)
{
	if (!a.broken || threadIdx.x < 32u)
		__syncthreads();
	else
		__syncthreads();
	a.out[global_thread()] = a.in[global_thread()];
}

/* 1: a thread ends before a barrier; 2: a whole warp does not come. */
PORT_KERNEL void planted_ended(struct planted_args a)
{
	if (a.broken == 1 && threadIdx.x == 63u)
		return;
	if (a.broken != 2 || threadIdx.x < 32u)
		__syncthreads();
	a.out[global_thread()] = a.in[global_thread()];
}

/* 1: half a warp shuffles; 2: lanes ended before; 3: halves of a warp in different shuffles. */
PORT_KERNEL void planted_lanes(struct planted_args a)
{
	const uint32_t lane = threadIdx.x % 32u;
	uint32_t v = port_bits_of_f32(a.in[global_thread()]);

	if (a.broken == 2 && lane == 7u)
		return;
	if (a.broken == 3) {
		if (lane < 16u)
			v = port_shuffle_xor_u32(v, 1);
		else
			v = port_shuffle_xor_u32(v, 2);
	} else if (!a.broken || a.broken == 2 || lane < 16u) {
		v = port_shuffle_xor_u32(v, 1);
	}
	a.out[global_thread()] = port_f32_of_bits(v);
}

/* 1: one past the end is written; 2: read; 3: what may only be read is written. */
PORT_KERNEL void planted_bounds(struct planted_args a)
{
	const uint32_t i = global_thread();

	a.out[i * 2u] = a.in[i];
	a.out[i * 2u + 1u + (a.broken == 1 ? 1u : 0u)] = a.in[i * 2u + (a.broken == 2 ? 2u : 0u)];
	if (a.broken == 3)
		((float *)a.in)[i] = 0.0f;
}

/* Off by one in a sum: 1: leaves out the last, found by its value alone; 2: one too many. */
PORT_KERNEL void planted_sum(struct planted_args a)
{
	float sum = 0.0f;

	for (uint32_t i = global_thread(); i < a.n + (a.broken == 2 ? 1u : 0u) - (a.broken == 1 ? 1u : 0u);
	     i += 2u * THREADS)
		sum += a.in[i];
	for (uint32_t lanes = 16; lanes > 0; lanes /= 2)
		sum += port_shuffle_xor_f32(sum, lanes);
	a.out[global_thread()] = sum;
}

/* A butterfly that asks the wrong lane: found by its value alone. */
PORT_KERNEL void planted_wrong_lane(struct planted_args a)
{
	float sum = a.in[global_thread()];

	for (uint32_t lanes = 16; lanes > 0; lanes /= 2)
		sum += port_shuffle_xor_f32(sum, a.broken && lanes == 8u ? 4u : lanes);
	a.out[global_thread()] = sum;
}

/* A vector from an address that is not aligned to it. */
PORT_KERNEL void planted_alignment(struct planted_args a)
{
	const float4 v = *(const float4 *)(a.in + threadIdx.x * 2u / 4u * 4u + (a.broken ? 2u : 0u));

	a.out[global_thread()] = v.x + v.y + v.z + v.w;
}

/* 1: both blocks write the same place; 2: one reads what the other writes. */
PORT_KERNEL void planted_blocks(struct planted_args a)
{
	const uint32_t other = (1u - blockIdx.x) * THREADS + threadIdx.x;

	a.out[a.broken == 1 ? threadIdx.x : global_thread()] = a.in[global_thread()];
	if (a.broken == 2)
		a.out[128u + global_thread()] = a.out[other];
}

/* Shared memory that nobody wrote. */
PORT_KERNEL void planted_unset(struct planted_args a)
{
	PORT_SHARED(shared);
	float *buffer = (float *)shared;

	if (!a.broken || threadIdx.x % 32u != 5u)
		buffer[threadIdx.x] = a.in[global_thread()];
	__syncthreads();
	a.out[global_thread()] = buffer[threadIdx.x ^ 1u];
}

/* What the earlier kernel writes, read before it must have ended. */
PORT_KERNEL void planted_early(struct planted_args a)
{
	float v = a.broken ? a.in[global_thread()] : 0.0f;

	port_grid_wait();
	a.out[global_thread()] = v + a.in[global_thread() + (a.broken ? 1u : 0u)];
}

/* 1: a shift by the width; 2: an index behind a local array. */
PORT_KERNEL void planted_undefined(struct planted_args a)
{
	uint32_t four[4];
	const uint32_t shift = threadIdx.x % 32u + (a.broken == 1 ? 1u : 0u);

	for (uint32_t i = 0; i < 4u; i++)
		four[i] = port_bits_of_f32(a.in[i * 4u + threadIdx.x % 4u]) >> shift;
	a.out[global_thread()] = (float)four[threadIdx.x % 4u + (a.broken == 2 && threadIdx.x == 63u ? 1u : 0u)];
}

/* Rows for ldmatrix: 1: not aligned; 2: written without a __syncwarp() before; 3: half a warp calls it. */
PORT_KERNEL void planted_matrix(struct planted_args a)
{
	PORT_SHARED(shared);
	const uint32_t lane = threadIdx.x % 32u;
	unsigned char *rows = shared + threadIdx.x / 32u * 1024u;
	uint32_t r[4] = {0u, 0u, 0u, 0u};

	for (uint32_t i = lane; i < 256u; i += 32u)
		((float *)rows)[i] = a.in[i];
	if (a.broken != 2)
		__syncwarp();
	if (a.broken != 3 || lane < 16u)
		port_ldmatrix_x4(r, rows + lane * 16u + (a.broken == 1 && lane == 3u ? 8u : 0u));
	a.out[global_thread()] = port_f32_of_bits(r[0]) + port_f32_of_bits(r[3]);
}

PORT_INLINE uint32_t bf16_pair(float low, float high)
{
	return port_bits_of_f32(low) >> 16 | (port_bits_of_f32(high) & 0xffff0000u);
}

/* c = a b of bf16 from memory: rows of a are in[0..], b is in[128..]; for the swapped operands. */
PORT_KERNEL void planted_mma(struct planted_args a)
{
	const uint32_t lane = threadIdx.x % 32u, g = lane / 4u, t = lane % 4u;
	const float *b = a.in + 128u;
	uint32_t fragment[4];
	float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};

	/* a[i][k] = in[(16 i + k) % 128], b[k][j] = in[128 + 8 k + j] */
	for (uint32_t r = 0; r < 4u; r++) {
		const uint32_t i = g + r % 2u * 8u, k = 2u * t + r / 2u * 8u;
		fragment[r] = port_bf16x2(a.in[(16u * i + k) % 128u + i / 8u % 2u], a.in[(16u * i + k + 1u) % 128u]);
	}
	/* numbers of b are exact in bf16: packed by hand, so that a wrong port_bf16x2() shows */
	const uint32_t b0 = bf16_pair(b[16u * t + g], b[16u * t + 8u + g]);
	const uint32_t b1 = bf16_pair(b[16u * t + 64u + g], b[16u * t + 72u + g]);
	if (a.broken)
		port_mma_bf16(c, fragment, b1, b0);
	else
		port_mma_bf16(c, fragment, b0, b1);
	for (uint32_t e = 0; e < 4u; e++)
		if (threadIdx.x < 32u && blockIdx.x == 0u)
			a.out[(g + e / 2u * 8u) * 8u + 2u * t + e % 2u] = c[e];
}
