/* device.h - what nvcc gives a kernel without being asked, for g++: qualifiers, indices, vector types,
 * barriers, arithmetic.  Needs no toolkit.
 *
 * __shared__ is not among them: kernels get shared memory through PORT_SHARED alone, so that every byte of
 * it is watched; a static shared variable does not compile here. */
#ifndef TESTS_CUDA_EMULATOR_DEVICE_H
#define TESTS_CUDA_EMULATOR_DEVICE_H

#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "tests/cuda_emulator/machine.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

#define threadIdx (machine_lane->thread_index)
#define blockIdx machine_block_index
#define blockDim machine_block_dim
#define gridDim machine_grid_dim
#define warpSize 32

/* As last parameters: the caller's line. */
#define MACHINE_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define MACHINE_HERE (machine_site{file, (uint32_t)line})

#define VECTOR2(type, element, bytes) \
	struct alignas(bytes) type { element x, y; }; \
	static inline type make_##type(element x, element y) { return type{x, y}; }
#define VECTOR4(type, element, bytes) \
	struct alignas(bytes) type { element x, y, z, w; }; \
	static inline type make_##type(element x, element y, element z, element w) { return type{x, y, z, w}; }
VECTOR2(uint2, uint32_t, 8)
VECTOR4(uint4, uint32_t, 16)
VECTOR2(int2, int32_t, 8)
VECTOR4(int4, int32_t, 16)
VECTOR2(float2, float, 8)
VECTOR4(float4, float, 16)
VECTOR2(ushort2, uint16_t, 4)
VECTOR4(ushort4, uint16_t, 8)
VECTOR4(uchar4, uint8_t, 4)
VECTOR2(ulonglong2, uint64_t, 16)

/* ---- meetings ---- */
static inline void __syncthreads(MACHINE_SITE) { machine_barrier(MACHINE_HERE); }

static inline void __syncwarp(uint32_t mask = 0xffffffffu, MACHINE_SITE)
{
	machine_meet(MEET_SYNCWARP, mask, MACHINE_HERE);
}

static inline uint32_t machine_shuffle(uint32_t mask, uint32_t value, uint32_t from, machine_site site)
{
	machine_warp *w = machine_lane->warp;
	uint32_t lane = machine_lane->lane;

	machine_operand(w, 0, lane, value);
	machine_operand(w, 1, lane, from);
	machine_meet(MEET_SHUFFLE, mask, site);
	return machine_result(w, 0, lane);
}

static inline uint32_t machine_vote(uint32_t mask, bool predicate, machine_site site)
{
	machine_warp *w = machine_lane->warp;
	uint32_t lane = machine_lane->lane;

	machine_operand(w, 0, lane, predicate);
	machine_meet(MEET_VOTE, mask, site);
	return machine_result(w, 0, lane);
}

static inline uint32_t __ballot_sync(uint32_t mask, int predicate, MACHINE_SITE)
{
	return machine_vote(mask, predicate != 0, MACHINE_HERE);
}
static inline int __any_sync(uint32_t mask, int predicate, MACHINE_SITE)
{
	return machine_vote(mask, predicate != 0, MACHINE_HERE) != 0;
}
static inline int __all_sync(uint32_t mask, int predicate, MACHINE_SITE)
{
	return machine_vote(mask, predicate != 0, MACHINE_HERE) == mask;
}

/* ---- arithmetic ---- */
static inline float __uint_as_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }
static inline uint32_t __float_as_uint(float x) { return __builtin_bit_cast(uint32_t, x); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline int __popc(uint32_t x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((uint32_t)x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline uint32_t __umulhi(uint32_t a, uint32_t b) { return (uint32_t)((uint64_t)a * b >> 32); }
static inline uint32_t min(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t max(uint32_t a, uint32_t b) { return a > b ? a : b; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
template <class T> static inline T __ldg(const T *p) { return *p; }

/* ---- atomics: no other lane runs meanwhile, and they do not race with one another ---- */
static inline uint32_t atomicAdd(uint32_t *p, uint32_t v)
{
	return (uint32_t)machine_atomic(p, 4, MACHINE_ADD, v);
}
static inline int32_t atomicAdd(int32_t *p, int32_t v)
{
	return (int32_t)machine_atomic(p, 4, MACHINE_ADD, (uint32_t)v);
}
static inline uint32_t atomicMax(uint32_t *p, uint32_t v)
{
	return (uint32_t)machine_atomic(p, 4, MACHINE_MAX, v);
}
static inline uint32_t atomicOr(uint32_t *p, uint32_t v) { return (uint32_t)machine_atomic(p, 4, MACHINE_OR, v); }
static inline uint32_t atomicExch(uint32_t *p, uint32_t v)
{
	return (uint32_t)machine_atomic(p, 4, MACHINE_EXCHANGE, v);
}
static inline unsigned long long atomicAdd(unsigned long long *p, unsigned long long v)
{
	return machine_atomic(p, 8, MACHINE_ADD, v);
}
static inline unsigned long long atomicMax(unsigned long long *p, unsigned long long v)
{
	return machine_atomic(p, 8, MACHINE_MAX, v);
}

#endif
