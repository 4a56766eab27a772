/* layout.c - weights as product.cu reads them; see layout.h, and product.cu for the records.
 *
 * Quantised formats keep the file's own bits: nothing is rounded here.  Floats become sums of bf16 terms
 * that give them back exactly (f16: two, f32: three; subnormal f32 lose what lies below 2^-133). */
#include "engine/cuda/layout.h"

#include <assert.h>
#include <string.h>
#include "engine/cpu/formats.h"
#include "engine/cpu/half.h"
#include "engine/cuda/args.h"

#define NIBBLE_BYTES 1024u         /* quants of a record of nibbles */
#define BYTE_BYTES 2048u
#define PLANE_BYTES 4096u

static const struct layout_kind kinds[LAYOUT_FORMS] = {
	[LAYOUT_Q4_0] = { "q4_0", NIBBLE_BYTES + 128u, 0, false, 8 },
	[LAYOUT_Q4_1] = { "q4_1", NIBBLE_BYTES + 256u, 0, false, 8 },
	[LAYOUT_Q4_K] = { "q4_k", NIBBLE_BYTES + 192u, 0, false, 8 },
	[LAYOUT_Q5_1] = { "q5_1", BYTE_BYTES + 256u, 0, true, 4 },
	[LAYOUT_Q5_K] = { "q5_k", BYTE_BYTES + 192u, 0, true, 4 },
	[LAYOUT_Q6_K] = { "q6_k", NIBBLE_BYTES + 512u + 160u, 0, true, 4 },
	[LAYOUT_Q8_0] = { "q8_0", BYTE_BYTES + 128u, 0, true, 4 },
	[LAYOUT_BF16] = { "floats", PLANE_BYTES, 1, false, 4 },
	[LAYOUT_F16] = { "floats", 2u * PLANE_BYTES, 2, false, 4 },
	[LAYOUT_F32] = { "floats", 3u * PLANE_BYTES, 3, false, 4 },
};

enum layout_form layout_form_of(enum tensor_type type)
{
	switch (type) {
	case TENSOR_Q4_0: return LAYOUT_Q4_0;
	case TENSOR_Q4_1: return LAYOUT_Q4_1;
	case TENSOR_Q4_K: return LAYOUT_Q4_K;
	case TENSOR_Q5_1: return LAYOUT_Q5_1;
	case TENSOR_Q5_K: return LAYOUT_Q5_K;
	case TENSOR_Q6_K: return LAYOUT_Q6_K;
	case TENSOR_Q5_0: case TENSOR_Q8_0: return LAYOUT_Q8_0;
	case TENSOR_BF16: return LAYOUT_BF16;
	case TENSOR_F16: return LAYOUT_F16;
	case TENSOR_F32: return LAYOUT_F32;
	}
	assert(!"a tensor type that model.c refuses");
	return LAYOUT_F32;
}

const struct layout_kind *layout_kind(enum layout_form form)
{
	return &kinds[form];
}

uint32_t layout_chunks(uint64_t n_in)
{
	return (uint32_t)((n_in + KVD_CHUNK_K - 1u) / KVD_CHUNK_K);
}

uint64_t layout_bytes(enum layout_form form, uint64_t n_out, uint64_t n_in)
{
	uint64_t blocks = (n_out + KVD_GEMM_OUTPUTS - 1u) / KVD_GEMM_OUTPUTS;

	return blocks * 2u * layout_chunks(n_in) * kinds[form].record_bytes;
}

/* A row of a tile: lane group g and whether it is the upper of the two rows a register pair serves. */
struct tile_row {
	uint32_t g, upper;
};

/* Where element k (0 .. 31) of a group lies in a fragment: lane t, byte of the register, which half. */
static void put_quants(enum layout_form form, const struct format_block *b, struct tile_row row,
		       uint32_t group, uint8_t *record)
{
	for (uint32_t k = 0; k < 32u; k++) {
		const uint32_t half = k / 16u, lane = row.g * 4u + k % 16u / 4u, byte = k % 4u;
		const uint32_t nibble = group / 2u * 512u + lane * 16u + (group % 2u * 2u + half) * 4u + byte;

		switch (form) {
		case LAYOUT_Q4_0: case LAYOUT_Q4_1: case LAYOUT_Q4_K:
			record[nibble] |= (uint8_t)(b->q[k] << row.upper * 4u);
			break;
		case LAYOUT_Q6_K: {
			uint8_t q = (uint8_t)(b->q[k] - 128 + 32);
			record[nibble] |= (uint8_t)((q & 15u) << row.upper * 4u);
			record[NIBBLE_BYTES + lane * 16u + group * 4u + byte] |=
				(uint8_t)(q >> 4 << 2u * (half * 2u + row.upper));
			break;
		}
		default:
			record[group * 512u + lane * 16u + (half * 2u + row.upper) * 4u + byte] =
				b->q[k] ^ 0x80u;
		}
	}
}

/* Scale and minimum bytes of sub-block j of a Q4_K or Q5_K block, as the file packs them. */
static void unpack_k(const uint8_t *packed, uint32_t j, uint8_t *ret_scale, uint8_t *ret_min)
{
	if (j < 4u) {
		*ret_scale = packed[j] & 63u;
		*ret_min = packed[j + 4u] & 63u;
	} else {
		*ret_scale = (uint8_t)((packed[j + 4u] & 15u) | packed[j - 4u] >> 6 << 4);
		*ret_min = (uint8_t)(packed[j + 4u] >> 4 | packed[j] >> 6 << 4);
	}
}

/* block: the file's own bytes of the 256 (K formats) that hold group `of_256`. */
static void put_scales(enum layout_form form, const struct format_block *b, const uint8_t *block,
		       uint32_t of_256, struct tile_row row, uint32_t group, uint8_t *scales)
{
	switch (form) {
	case LAYOUT_Q4_K: case LAYOUT_Q5_K: {
		uint8_t *bytes = scales + row.g * 16u + row.upper * 8u + group;
		unpack_k(block + 4, of_256, &bytes[0], &bytes[4]);
		memcpy(scales + 128u + row.g * 8u + row.upper * 4u, block, 4);
		break;
	}
	case LAYOUT_Q6_K:
		memcpy(scales + row.g * 16u + row.upper * 8u + group * 2u, block + 192u + of_256 * 2u, 2);
		memcpy(scales + 128u + row.g * 4u + row.upper * 2u, block + 208, 2);
		break;
	default: {
		uint8_t *pair = scales + row.g * 16u + group * 4u + row.upper * 2u;
		memcpy(pair, &b->scale_f16, 2);
		if (form == LAYOUT_Q4_1 || form == LAYOUT_Q5_1)
			memcpy(pair + 128, &b->min_f16, 2);
	}
	}
}

static uint32_t quant_bytes(enum layout_form form)
{
	switch (form) {
	case LAYOUT_Q4_0: case LAYOUT_Q4_1: case LAYOUT_Q4_K: return NIBBLE_BYTES;
	case LAYOUT_Q6_K: return NIBBLE_BYTES + 512u;
	default: return BYTE_BYTES;
	}
}

static void fill_quantised_row(enum layout_form form, const struct tensor *t, const uint8_t *from,
			       struct tile_row row, uint8_t *records)
{
	const bool k_format = format_has_wide_scales(t->type);
	const uint64_t block_bytes = k_format ? format_row_bytes(t->type, 256) : 0;

	for (uint32_t i = 0; i < t->n_cols / 32u; i++) {
		uint8_t *record = records + (uint64_t)(i / 4u) * kinds[form].record_bytes;
		struct format_block b;
		format_read(t->type, from, i, &b);
		put_quants(form, &b, row, i % 4u, record);
		put_scales(form, &b, from + i / 8u * block_bytes, i % 8u, row, i % 4u,
			   record + quant_bytes(form));
	}
}

static float float_at(const struct tensor *t, const uint8_t *from, uint64_t k)
{
	float x;
	uint16_t half;

	if (t->type == TENSOR_F32) {
		memcpy(&x, from + k * 4u, 4);
		return x;
	}
	memcpy(&half, from + k * 2u, 2);
	return t->type == TENSOR_F16 ? f32_from_f16(half) : f32_from_bf16(half);
}

static void fill_float_row(enum layout_form form, const struct tensor *t, const uint8_t *from,
			   struct tile_row row, uint8_t *records)
{
	for (uint64_t k = 0; k < t->n_cols; k++) {
		const uint32_t in = (uint32_t)(k % KVD_CHUNK_K), step = in / 16u, at = in % 16u;
		uint8_t *to = records + k / KVD_CHUNK_K * kinds[form].record_bytes + step * 512u +
			      (row.g * 4u + at % 8u / 2u) * 16u + (at / 8u * 2u + row.upper) * 4u +
			      at % 2u * 2u;
		float rest = float_at(t, from, k);
		for (uint32_t plane = 0; plane < kinds[form].n_planes; plane++) {
			uint16_t term = bf16_from_f32(rest);
			memcpy(to + plane * PLANE_BYTES, &term, 2);
			rest -= f32_from_bf16(term);
		}
	}
}

void layout_fill(const struct tensor *t, uint64_t first, uint8_t *to)
{
	const enum layout_form form = layout_form_of(t->type);
	const uint64_t row_bytes = format_row_bytes(t->type, t->n_cols);
	const uint64_t tile_bytes = (uint64_t)layout_chunks(t->n_cols) * kinds[form].record_bytes;

	for (uint64_t i = 0; i < t->n_rows; i++) {
		const uint64_t output = first + i;
		const struct tile_row row = { (uint32_t)(output % 8u), (uint32_t)(output / 8u % 2u) };
		const uint8_t *from = (const uint8_t *)t->data + i * row_bytes;
		uint8_t *records = to + output / KVD_TILE_N * tile_bytes;
		if (kinds[form].n_planes)
			fill_float_row(form, t, from, row, records);
		else
			fill_quantised_row(form, t, from, row, records);
	}
}
