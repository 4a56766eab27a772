/* collective.c - what a warp computes together, once all its lanes have brought their operands.
 *
 * Operands are in warp->in[register][lane], results go to warp->out[register][lane].  Fragment layouts are
 * the PTX manual's, as engine/cuda/port.h repeats them: g = lane / 4, t = lane % 4.  Sums of products of
 * 16-bit floats are made in f32, k ascending, which is one of the orders that the device may take: tests
 * compare with a tolerance. */
#include "tests/cuda_emulator/machine.h"

#include <string.h>

/* The loops over 8 columns become one vector operation where the machine has AVX2. */
#define VECTORISED __attribute__((target_clones("avx2", "default"), optimize("O3")))

static inline float f32_of_bits(uint32_t bits)
{
	float x;

	memcpy(&x, &bits, sizeof(x));
	return x;
}

static inline uint32_t bits_of_f32(float x)
{
	uint32_t bits;

	memcpy(&bits, &x, sizeof(bits));
	return bits;
}

static inline float f32_of_f16(uint32_t h)
{
	uint32_t sign = (h & 0x8000u) << 16, rest = h & 0x7fffu;

	if (rest >= 0x7c00u)
		return f32_of_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
	return f32_of_bits(sign | bits_of_f32(f32_of_bits(rest << 13) * 0x1p112f));
}

VECTORISED static void multiply_f32(const float (*a)[16], const float (*b)[8], float (*c)[8])
{
	for (int i = 0; i < 16; i++)
		for (int k = 0; k < 16; k++)
			for (int j = 0; j < 8; j++)
				c[i][j] += a[i][k] * b[k][j];
}

VECTORISED static void multiply_s32(const int32_t (*a)[32], const int32_t (*b)[8], int32_t (*c)[8], int n)
{
	for (int i = 0; i < 16; i++)
		for (int k = 0; k < n; k++)
			for (int j = 0; j < 8; j++)
				c[i][j] += a[i][k] * b[k][j];
}

/* in: 0-3 a, 4-5 b, 6-9 c */
static void mma_16bit(struct machine_warp *w, bool f16)
{
	float a[16][16], b[16][8], c[16][8];

	for (uint32_t l = 0; l < MACHINE_LANES; l++) {
		uint32_t g = l / 4, t = l % 4;

		for (uint32_t r = 0; r < 4; r++)
			for (uint32_t half = 0; half < 2; half++) {
				uint32_t bits = half ? w->in[r][l] >> 16 : w->in[r][l] & 0xffffu;

				a[g + r % 2 * 8][2 * t + r / 2 * 8 + half] =
					f16 ? f32_of_f16(bits) : f32_of_bits(bits << 16);
			}
		for (uint32_t r = 0; r < 2; r++)
			for (uint32_t half = 0; half < 2; half++) {
				uint32_t bits = half ? w->in[4 + r][l] >> 16 : w->in[4 + r][l] & 0xffffu;

				b[2 * t + r * 8 + half][g] = f16 ? f32_of_f16(bits) : f32_of_bits(bits << 16);
			}
		for (uint32_t r = 0; r < 4; r++)
			c[g + r / 2 * 8][2 * t + r % 2] = f32_of_bits(w->in[6 + r][l]);
	}
	multiply_f32(a, b, c);
	for (uint32_t l = 0; l < MACHINE_LANES; l++)
		for (uint32_t r = 0; r < 4; r++)
			w->out[r][l] = bits_of_f32(c[l / 4 + r / 2 * 8][2 * (l % 4) + r % 2]);
}

/* k = 32: in 0-3 a, 4-5 b, 6-9 c.  k = 16: in 0-1 a, 4 b, 6-9 c. */
static void mma_s8(struct machine_warp *w, uint32_t k)
{
	int32_t a[16][32], b[32][8], c[16][8];

	for (uint32_t l = 0; l < MACHINE_LANES; l++) {
		uint32_t g = l / 4, t = l % 4;

		for (uint32_t r = 0; r < k / 8; r++)
			for (uint32_t byte = 0; byte < 4; byte++)
				a[g + r % 2 * 8][4 * t + r / 2 * 16 + byte] = (int8_t)(w->in[r][l] >> 8 * byte);
		for (uint32_t r = 0; r < k / 16; r++)
			for (uint32_t byte = 0; byte < 4; byte++)
				b[4 * t + r * 16 + byte][g] = (int8_t)(w->in[4 + r][l] >> 8 * byte);
		for (uint32_t r = 0; r < 4; r++)
			c[g + r / 2 * 8][2 * t + r % 2] = (int32_t)w->in[6 + r][l];
	}
	multiply_s32(a, b, c, (int)k);
	for (uint32_t l = 0; l < MACHINE_LANES; l++)
		for (uint32_t r = 0; r < 4; r++)
			w->out[r][l] = (uint32_t)c[l / 4 + r / 2 * 8][2 * (l % 4) + r % 2];
}

static void shuffle(struct machine_warp *w, uint32_t mask)
{
	for (uint32_t l = 0; l < MACHINE_LANES; l++) {
		uint32_t from = w->in[1][l] % MACHINE_LANES;

		if (!(mask >> l & 1))
			continue;
		if (!(mask >> from & 1)) {
			report_add(
				EMULATED_LANES, NULL,
				"lane %u of warp %u shuffles from lane %u, which mask %08x lacks",
				l, w->number, from, mask);
			machine_abandon();
		}
		w->out[0][l] = w->in[0][from];
	}
}

static void vote(struct machine_warp *w, uint32_t mask)
{
	uint32_t ballot = 0;

	for (uint32_t l = 0; l < MACHINE_LANES; l++)
		if (mask >> l & 1 && w->in[0][l])
			ballot |= 1u << l;
	for (uint32_t l = 0; l < MACHINE_LANES; l++)
		if (mask >> l & 1)
			w->out[0][l] = ballot;
}

/* A lane's part of a row. */
static uint32_t row_read(struct machine_warp *w, uint32_t l, uint64_t row, uint32_t element, uint32_t bytes)
{
	const uint8_t *at = (const uint8_t *)(uintptr_t)row + 2 * element;
	uint32_t bits = 0;

	if (MACHINE_IS_CHECKED)
		shadow_access_of(&w->lanes[l], at, bytes, SHADOW_READ, NULL);
	memcpy(&bits, at, bytes);
	return bits;
}

static void ldmatrix(struct machine_warp *w, bool transposed)
{
	for (uint32_t l = 0; l < MACHINE_LANES; l++)
		if (w->address[l] % 16 != 0) {
			report_add(
				EMULATED_ALIGNMENT, NULL,
				"lane %u of warp %u gives ldmatrix a row that is not aligned to 16",
				l, w->number);
			machine_abandon();
		}
	/* Whose rows are read, and below who receives them: writers must be ordered before both. */
	for (uint32_t l = 0; l < MACHINE_LANES && MACHINE_IS_CHECKED; l++)
		shadow_access_of(&w->lanes[l], (const void *)(uintptr_t)w->address[l], 16, SHADOW_READ, NULL);
	for (uint32_t i = 0; i < 4; i++) {
		const uint64_t *rows = &w->address[8 * i];

		for (uint32_t l = 0; l < MACHINE_LANES; l++) {
			uint32_t g = l / 4, t = l % 4;

			w->out[i][l] = !transposed ? row_read(w, l, rows[g], 2 * t, 4) :
				row_read(w, l, rows[2 * t], g, 2) | row_read(w, l, rows[2 * t + 1], g, 2) << 16;
		}
	}
}

void collective_compute(struct machine_warp *w, enum machine_meeting meeting, uint32_t mask)
{
	switch (meeting) {
	case MEET_SHUFFLE: shuffle(w, mask); break;
	case MEET_VOTE: vote(w, mask); break;
	case MEET_LDMATRIX: ldmatrix(w, false); break;
	case MEET_LDMATRIX_T: ldmatrix(w, true); break;
	case MEET_MMA_BF16: mma_16bit(w, false); break;
	case MEET_MMA_F16: mma_16bit(w, true); break;
	case MEET_MMA_S8_K32: mma_s8(w, 32); break;
	case MEET_MMA_S8_K16: mma_s8(w, 16); break;
	default: break;
	}
}
