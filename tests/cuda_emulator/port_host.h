/* port_host.h - the host's body of engine/cuda/port.h; what each function means is said there.
 *
 * A warp's operation lays its operands into the warp's table, meets the other lanes, and takes its
 * results (collective.c).  Memory goes through ordinary loads and stores, which the checked build
 * watches, or is announced to shadow.c by copies.c and collective.c. */
#ifndef TESTS_CUDA_EMULATOR_PORT_HOST_H
#define TESTS_CUDA_EMULATOR_PORT_HOST_H

#include "tests/cuda_emulator/device.h"

#define PORT_INLINE static inline __attribute__((always_inline, unused))
#define PORT_KERNEL extern "C"
#define PORT_WARP_ALL 0xffffffffu
#define PORT_SHARED(name) unsigned char *const name = machine_shared

PORT_INLINE uint32_t port_shared_address(const void *shared)
{
	return (uint32_t)((const uint8_t *)shared - machine_shared);
}

PORT_INLINE void port_grid_wait(void) { machine_grid_wait(); }
PORT_INLINE void port_grid_launch_dependents(void) {}
PORT_INLINE void port_fence_device(void) {}

PORT_INLINE uint4 port_load_once16(const void *global) { return *(const uint4 *)global; }
PORT_INLINE uint2 port_load_once8(const void *global) { return *(const uint2 *)global; }
PORT_INLINE uint32_t port_load_once4(const void *global) { return *(const uint32_t *)global; }

PORT_INLINE void port_copy_async16(void *shared, const void *global, bool valid)
{
	machine_copy_issue(shared, valid ? global : nullptr, 16);
}
PORT_INLINE void port_copy_commit(void) { machine_copy_commit(); }
template <int pending> PORT_INLINE void port_copy_wait(void) { machine_copy_wait(pending); }

/* Meet the whole warp with n operands laid out before; take 4 results. */
PORT_INLINE void port_meet4(machine_meeting meeting, uint32_t (&r)[4], machine_site site)
{
	machine_warp *w = machine_lane->warp;
	const uint32_t lane = machine_lane->lane;

	machine_meet(meeting, PORT_WARP_ALL, site);
	for (uint32_t i = 0; i < 4; i++)
		r[i] = machine_result(w, i, lane);
}

PORT_INLINE void port_ldmatrix_x4(uint32_t (&r)[4], const void *shared_row, MACHINE_SITE)
{
	machine_address(machine_lane, shared_row);
	port_meet4(MEET_LDMATRIX, r, MACHINE_HERE);
}

PORT_INLINE void port_ldmatrix_x4_transposed(uint32_t (&r)[4], const void *shared_row,
					     MACHINE_SITE)
{
	machine_address(machine_lane, shared_row);
	port_meet4(MEET_LDMATRIX_T, r, MACHINE_HERE);
}

template <class C>
PORT_INLINE void port_mma(machine_meeting meeting, C (&c)[4], const uint32_t *a, int n_a, uint32_t b0, uint32_t b1,
			  machine_site site)
{
	machine_warp *w = machine_lane->warp;
	const uint32_t lane = machine_lane->lane;
	uint32_t r[4];

	for (int i = 0; i < n_a; i++)
		machine_operand(w, (uint32_t)i, lane, a[i]);
	machine_operand(w, 4, lane, b0);
	machine_operand(w, 5, lane, b1);
	for (uint32_t i = 0; i < 4; i++)
		machine_operand(w, 6 + i, lane, __builtin_bit_cast(uint32_t, c[i]));
	port_meet4(meeting, r, site);
	for (int i = 0; i < 4; i++)
		c[i] = __builtin_bit_cast(C, r[i]);
}

PORT_INLINE void port_mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
			       MACHINE_SITE)
{
	port_mma(MEET_MMA_BF16, c, a, 4, b0, b1, MACHINE_HERE);
}

PORT_INLINE void port_mma_s8_k32(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
				 MACHINE_SITE)
{
	port_mma(MEET_MMA_S8_K32, c, a, 4, b0, b1, MACHINE_HERE);
}

PORT_INLINE void port_mma_s8_k16(int32_t (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0,
				 MACHINE_SITE)
{
	const uint32_t a[2] = {a0, a1};

	port_mma(MEET_MMA_S8_K16, c, a, 2, b0, 0, MACHINE_HERE);
}

PORT_INLINE int32_t port_dp4a(uint32_t a, uint32_t b, int32_t sum)
{
	for (int byte = 0; byte < 4; byte++)
		sum += (int32_t)(int8_t)(a >> 8 * byte) * (int32_t)(int8_t)(b >> 8 * byte);
	return sum;
}

PORT_INLINE uint32_t port_shuffle_xor_u32(uint32_t v, uint32_t lanes, MACHINE_SITE)
{
	return machine_shuffle(PORT_WARP_ALL, v, machine_lane->lane ^ lanes, MACHINE_HERE);
}

PORT_INLINE uint32_t port_shuffle_u32(uint32_t v, uint32_t lane, MACHINE_SITE)
{
	return machine_shuffle(PORT_WARP_ALL, v, lane, MACHINE_HERE);
}

PORT_INLINE uint32_t port_bits_of_f32(float x) { return __float_as_uint(x); }
PORT_INLINE float port_f32_of_bits(uint32_t bits) { return __uint_as_float(bits); }

PORT_INLINE float port_exp2(float x)
{
	float r = exp2f(x);

	return r < 0x1p-126f ? 0.0f : r;
}

PORT_INLINE uint32_t machine_bf16(float x)
{
	uint32_t bits = __float_as_uint(x);

	if ((bits & 0x7fffffffu) > 0x7f800000u)
		return 0x7fffu;
	return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

PORT_INLINE uint32_t port_bf16x2(float low, float high) { return machine_bf16(low) | machine_bf16(high) << 16; }

PORT_INLINE float port_f32_of_f16(uint32_t bits)
{
	uint32_t sign = (bits & 0x8000u) << 16, rest = bits & 0x7fffu;

	if (rest >= 0x7c00u)
		return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
	return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest << 13) * 0x1p112f));
}

PORT_INLINE int32_t port_s32_of_f32(float x)
{
	if (x != x)
		return 0;
	if (x >= 2147483648.0f)
		return INT32_MAX;
	if (x <= -2147483648.0f)
		return INT32_MIN;
	return (int32_t)rintf(x);
}

#endif
