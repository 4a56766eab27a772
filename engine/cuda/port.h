/* port.h - every piece of inline PTX that the kernels use, by name; nothing else in the tree has any.
 *
 * Two bodies: the device's below, and the host's in tests/cuda_emulator/port_host.h, which is taken
 * where KVD_EMULATE is defined (the kernels' own sources compiled for fibers).  Both follow one
 * reading of the PTX manual's fragment layouts, repeated at each function.  In a warp, g = lane / 4
 * and t = lane % 4.
 *
 * What is not here: __syncthreads(), __syncwarp(), threadIdx, blockIdx, gridDim, fmaf(), rsqrtf() and
 * vector types are C++ to nvcc and are provided under their own names by the emulator. */
#ifndef ENGINE_CUDA_PORT_H
#define ENGINE_CUDA_PORT_H

#include <stdint.h>

#ifdef KVD_EMULATE
#include "tests/cuda_emulator/port_host.h"
#else

#define PORT_INLINE static __device__ __forceinline__
#define PORT_KERNEL extern "C" __global__
#define PORT_WARP_ALL 0xffffffffu

/* The launch's dynamic shared memory, 16-byte aligned; one use in a kernel. */
#define PORT_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

PORT_INLINE uint32_t port_shared_address(const void *shared)
{
	return (uint32_t)__cvta_generic_to_shared(shared);
}

/* ---- between kernels of one stream: programmatic dependent launch, nothing before sm_90 ---- */

/* What earlier kernels of the stream wrote may be read after this. */
PORT_INLINE void port_grid_wait(void)
{
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The next kernel of the stream may be started now; it must port_grid_wait() for what this writes. */
PORT_INLINE void port_grid_launch_dependents(void)
{
#if __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- memory ---- */

/* Order this thread's earlier accesses before its later ones, for the whole device. */
PORT_INLINE void port_fence_device(void)
{
	asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

/* 16 bytes that nobody writes while the kernel runs and nobody else here reads again: weights. */
PORT_INLINE uint4 port_load_once16(const void *global)
{
	uint4 v;

	asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
		     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(global));
	return v;
}

PORT_INLINE uint2 port_load_once8(const void *global)
{
	uint2 v;

	asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
		     : "=r"(v.x), "=r"(v.y) : "l"(global));
	return v;
}

PORT_INLINE uint32_t port_load_once4(const void *global)
{
	uint32_t v;

	asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(global));
	return v;
}

/* Copy 16 bytes (both addresses aligned to 16) asynchronously; zeros instead of them where !valid,
 * and then global is not read. */
PORT_INLINE void port_copy_async16(void *shared, const void *global, bool valid)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
		     :: "r"(port_shared_address(shared)), "l"(global), "r"(valid ? 16 : 0)
		     : "memory");
}

/* This thread's copies since the last commit are a group. */
PORT_INLINE void port_copy_commit(void)
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Wait until at most `pending` of this thread's newest groups are under way; others' copies are
 * visible after a barrier. */
template <int pending> PORT_INLINE void port_copy_wait(void)
{
	asm volatile("cp.async.wait_group %0;" :: "n"(pending) : "memory");
}

/* ---- matrix fragments from shared memory: 8 x 8 matrices of 16-bit elements ----
 * Lane l gives the address of row l % 8 (16 bytes, aligned) of matrix l / 8.  Register i of lane l gets
 * elements [g][2t], [g][2t + 1] of matrix i; transposed: [2t][g], [2t + 1][g]. */
PORT_INLINE void port_ldmatrix_x4(uint32_t (&r)[4], const void *shared_row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(port_shared_address(shared_row)) : "memory");
}

PORT_INLINE void port_ldmatrix_x4_transposed(uint32_t (&r)[4], const void *shared_row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(port_shared_address(shared_row)) : "memory");
}

/* ---- products of a warp: c (16, 8) += a (16, k) b (k, 8) ----
 * c[0], c[1] = [g][2t], [g][2t + 1];  c[2], c[3] = [g + 8][the same]. */

/* k = 16, bf16:  a[0] = [g][2t, 2t + 1]  a[1] = [g + 8][2t..]  a[2] = [g][2t + 8..]  a[3] = [g + 8][2t + 8..]
 * b[0] = [2t, 2t + 1][g]  b[1] = [2t + 8, 2t + 9][g]; the lower element in the lower half. */
PORT_INLINE void port_mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
		     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* k = 32, signed bytes, exact:  a[0] = [g][4t .. 4t + 3]  a[1] = [g + 8][4t..]  a[2] = [g][4t + 16..]
 * a[3] = [g + 8][4t + 16..]   b[0] = [4t .. 4t + 3][g]  b[1] = [4t + 16 ..][g]; lowest in the lowest byte. */
PORT_INLINE void port_mma_s8_k32(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
		     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
		     : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* k = 16, signed bytes, exact:  a0 = [g][4t .. 4t + 3]  a1 = [g + 8][4t ..]   b0 = [4t .. 4t + 3][g]. */
PORT_INLINE void port_mma_s8_k16(int32_t (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0)
{
	asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 "
		     "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
		     : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
		     : "r"(a0), "r"(a1), "r"(b0));
}

/* Four products of signed bytes, added to sum. */
PORT_INLINE int32_t port_dp4a(uint32_t a, uint32_t b, int32_t sum)
{
	asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(a), "r"(b));
	return sum;
}

/* ---- between lanes; all 32 take part ---- */
PORT_INLINE uint32_t port_shuffle_xor_u32(uint32_t v, uint32_t lanes)
{
	uint32_t r;

	asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(r) : "r"(v), "r"(lanes));
	return r;
}

/* The value of a lane. */
PORT_INLINE uint32_t port_shuffle_u32(uint32_t v, uint32_t lane)
{
	uint32_t r;

	asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(r) : "r"(v), "r"(lane));
	return r;
}

/* ---- numbers ---- */
PORT_INLINE uint32_t port_bits_of_f32(float x) { return __float_as_uint(x); }
PORT_INLINE float port_f32_of_bits(uint32_t bits) { return __uint_as_float(bits); }

/* 2^x: 0 for -infinity; relative error about 2^-22; results below 2^-126 are 0. */
PORT_INLINE float port_exp2(float x)
{
	float r;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
	return r;
}

/* Two floats rounded to nearest even bf16: low in the lower half. */
PORT_INLINE uint32_t port_bf16x2(float low, float high)
{
	uint32_t r;

	asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
	return r;
}

/* f16 bits as f32, exact. */
PORT_INLINE float port_f32_of_f16(uint32_t bits)
{
	float r;

	asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"((uint16_t)bits));
	return r;
}

/* Rounded to nearest even; NaN gives 0, what doesn't fit the nearest that does. */
PORT_INLINE int32_t port_s32_of_f32(float x)
{
	int32_t r;

	asm("cvt.rni.s32.f32 %0, %1;" : "=r"(r) : "f"(x));
	return r;
}

#endif /* KVD_EMULATE */

/* ---- the same on both sides, made of the above ---- */

PORT_INLINE float port_shuffle_xor_f32(float v, uint32_t lanes)
{
	return port_f32_of_bits(port_shuffle_xor_u32(port_bits_of_f32(v), lanes));
}

PORT_INLINE float port_f32_of_bf16_low(uint32_t pair) { return port_f32_of_bits(pair << 16); }
PORT_INLINE float port_f32_of_bf16_high(uint32_t pair) { return port_f32_of_bits(pair & 0xffff0000u); }

#endif
