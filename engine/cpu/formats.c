/* formats.c - the block formats of weights in a GGUF file, as numbers; see formats.h.
 *
 * Pure functions over bytes that model_open() has bounds-checked.  Products of an f16 scale with a
 * 6- or 8-bit one are exact in f32, so nothing is lost against the file. */
#include "engine/cpu/formats.h"

#include <assert.h>
#include <string.h>
#include "engine/cpu/half.h"

/* Byte offsets within the blocks of 256. */
enum {
	Q4_K_BYTES = 144, Q4_K_SCALES = 4, Q4_K_QUANTS = 16,
	Q5_K_BYTES = 176, Q5_K_SCALES = 4, Q5_K_HIGH = 16, Q5_K_QUANTS = 48,
	Q6_K_BYTES = 210, Q6_K_HIGH = 128, Q6_K_SCALES = 192, Q6_K_D = 208,
};

static uint16_t load_u16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static float load_f16(const uint8_t *p)
{
	return f32_from_f16(load_u16(p));
}

/* One f16 scale (and minimum) for the block. */
static void set_scales_f16(struct format_block *b, const uint8_t *scale, const uint8_t *min)
{
	b->scale_f16 = load_u16(scale);
	b->scale[0] = b->scale[1] = f32_from_f16(b->scale_f16);
	b->min_f16 = min ? load_u16(min) : 0;
	b->min = min ? f32_from_f16(b->min_f16) : 0.0f;
}

/* 16 bytes of nibbles: the low ones are elements 0-15, the high ones 16-31; high bits in a mask. */
static void read_nibbles(struct format_block *b, const uint8_t *quants, uint32_t fifth_bits,
			 int add)
{
	for (uint32_t i = 0; i < 16; i++) {
		uint32_t low = (quants[i] & 15u) | (fifth_bits >> i & 1u) << 4;
		uint32_t high = quants[i] >> 4 | (fifth_bits >> (i + 16u) & 1u) << 4;
		b->q[i] = (uint8_t)((int)low + add);
		b->q[i + 16] = (uint8_t)((int)high + add);
	}
}

/* The 6-bit scale and minimum of sub-block j (0-7) of a Q4_K or Q5_K block, times their f16. */
static void set_scales_k(struct format_block *b, const uint8_t *block, const uint8_t *packed,
			 unsigned j)
{
	unsigned scale, min;

	if (j < 4) {
		scale = packed[j] & 63u;
		min = packed[j + 4] & 63u;
	} else {
		scale = (packed[j + 4] & 15u) | (unsigned)(packed[j - 4] >> 6) << 4;
		min = packed[j + 4] >> 4 | (unsigned)(packed[j] >> 6) << 4;
	}
	b->scale[0] = b->scale[1] = load_f16(block) * (float)scale;
	b->min = -(load_f16(block + 2) * (float)min);
}

static void read_q4_k(struct format_block *b, const uint8_t *block, unsigned j)
{
	const uint8_t *quants = block + Q4_K_QUANTS + j / 2u * 32u;

	set_scales_k(b, block, block + Q4_K_SCALES, j);
	for (unsigned i = 0; i < 32; i++)
		b->q[i] = j & 1u ? quants[i] >> 4 : quants[i] & 15u;
}

static void read_q5_k(struct format_block *b, const uint8_t *block, unsigned j)
{
	const uint8_t *quants = block + Q5_K_QUANTS + j / 2u * 32u, *high = block + Q5_K_HIGH;

	set_scales_k(b, block, block + Q5_K_SCALES, j);
	for (unsigned i = 0; i < 32; i++) {
		unsigned low = j & 1u ? quants[i] >> 4 : quants[i] & 15u;
		b->q[i] = (uint8_t)(128u + (low | (high[i] >> j & 1u) << 4));
	}
}

static void read_q6_k(struct format_block *b, const uint8_t *block, unsigned j)
{
	const unsigned group = j % 4u;   /* of the 128 elements in this half of the block */
	const uint8_t *low = block + j / 4u * 64u + (group & 1u) * 32u;
	const uint8_t *high = block + Q6_K_HIGH + j / 4u * 32u;
	const int8_t *scales = (const int8_t *)block + Q6_K_SCALES + j / 4u * 8u + group * 2u;
	const float d = load_f16(block + Q6_K_D);

	for (unsigned i = 0; i < 32; i++) {
		unsigned q = group < 2u ? low[i] & 15u : low[i] >> 4;
		q |= (high[i] >> 2u * group & 3u) << 4;
		b->q[i] = (uint8_t)(128 - 32 + (int)q);
	}
	b->scale[0] = d * (float)scales[0];
	b->scale[1] = d * (float)scales[1];
	b->min = 0.0f;
}

uint64_t format_row_bytes(enum tensor_type type, uint64_t n)
{
	switch (type) {
	case TENSOR_F32: return n * 4;
	case TENSOR_F16: case TENSOR_BF16: return n * 2;
	case TENSOR_Q4_0: return n / 32 * 18;
	case TENSOR_Q4_1: return n / 32 * 20;
	case TENSOR_Q5_0: return n / 32 * 22;
	case TENSOR_Q5_1: return n / 32 * 24;
	case TENSOR_Q8_0: return n / 32 * 34;
	case TENSOR_Q4_K: return n / 256 * Q4_K_BYTES;
	case TENSOR_Q5_K: return n / 256 * Q5_K_BYTES;
	case TENSOR_Q6_K: return n / 256 * Q6_K_BYTES;
	}
	return 0;
}

void format_read(enum tensor_type type, const void *row, uint64_t i, struct format_block *b)
{
	const uint8_t *p = row;

	switch (type) {
	case TENSOR_Q4_0:
		p += i * 18;
		set_scales_f16(b, p, NULL);
		read_nibbles(b, p + 2, 0, 0);
		return;
	case TENSOR_Q4_1:
		p += i * 20;
		set_scales_f16(b, p, p + 2);
		read_nibbles(b, p + 4, 0, 0);
		return;
	case TENSOR_Q5_0:
		p += i * 22;
		set_scales_f16(b, p, NULL);
		read_nibbles(b, p + 6, load_u16(p + 2) | (uint32_t)load_u16(p + 4) << 16, 128 - 16);
		return;
	case TENSOR_Q5_1:
		p += i * 24;
		set_scales_f16(b, p, p + 2);
		read_nibbles(b, p + 8, load_u16(p + 4) | (uint32_t)load_u16(p + 6) << 16, 128);
		return;
	case TENSOR_Q8_0:
		p += i * 34;
		set_scales_f16(b, p, NULL);
		for (int k = 0; k < 32; k++)
			b->q[k] = p[2 + k] ^ 0x80u;
		return;
	case TENSOR_Q4_K:
		read_q4_k(b, p + i / 8 * Q4_K_BYTES, (unsigned)(i % 8));
		return;
	case TENSOR_Q5_K:
		read_q5_k(b, p + i / 8 * Q5_K_BYTES, (unsigned)(i % 8));
		return;
	case TENSOR_Q6_K:
		read_q6_k(b, p + i / 8 * Q6_K_BYTES, (unsigned)(i % 8));
		return;
	case TENSOR_F32: case TENSOR_F16: case TENSOR_BF16:
		break;
	}
	assert(!"format_read() of a plain float type");
}

void format_row_f32(const struct tensor *t, uint64_t row, float *out)
{
	const uint8_t *p = (const uint8_t *)t->data + row * format_row_bytes(t->type, t->n_cols);

	if (t->type == TENSOR_F32) {
		memcpy(out, p, t->n_cols * sizeof(float));
	} else if (!format_is_quantised(t->type)) {
		for (uint64_t i = 0; i < t->n_cols; i++)
			out[i] = t->type == TENSOR_F16 ? load_f16(p + 2 * i)
						       : f32_from_bf16(load_u16(p + 2 * i));
	} else {
		const float offset = format_offset(t->type);
		for (uint64_t i = 0; i < t->n_cols / 32; i++) {
			struct format_block b;
			format_read(t->type, p, i, &b);
			for (int k = 0; k < 32; k++)
				out[32 * i + (uint64_t)k] =
					b.scale[k / 16] * (b.q[k] - offset) + b.min;
		}
	}
}
