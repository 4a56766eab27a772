/* geometry.h - where the bytes of a KV page lie.  Shared by kvd, its mover, engines and tests.
 *
 * A pool is cut into extents of one size; an extent belongs to one space at a time and holds
 * n_frames frames of it.  Inside an extent the planes lie one after the other:
 *
 *     extent:  [plane 0: frame 0 | frame 1 | ...] [plane 1: frame 0 | ...] ... tail (unused)
 *
 * so that one layer's blocks of neighbouring frames are contiguous (one layer's attention walks one
 * plane).  A block is the K and V of 16 tokens of one plane, for all KV heads.
 *
 * On the host device a plane is one layer and a block is, per KV head, bf16 pairs in dot-product
 * order, layout id KVD_LAYOUT_PAIRS:
 *     K: [head_dim/2][page_tokens][2]     V: [page_tokens/2][head_dim][2]
 *     block = [n_kv_heads][K | V]
 * A dot product over head_dim (for K) or over tokens (for V) then reads two consecutive elements
 * of each lane, which is what vdpbf16ps wants.
 *
 * Source: docs/decisions/0001 for the layout, design.md section 4 for the address rule. */
#ifndef KVD_GEOMETRY_H
#define KVD_GEOMETRY_H

#include <stdint.h>

#define KVD_PAGE_TOKENS 16u        /* tokens a page holds */
#define KVD_LAYOUT_PAIRS 1u        /* bf16 pairs in dot-product order, see above */
#define KVD_LAYOUT_ROWS 2u         /* on a GPU: [K | V][n_kv_heads][token][head_dim], rows for 16-byte loads */
#define KVD_FORMAT_BF16 1u         /* KV element format; 4 bits in a table entry */

/* A table entry, as kvd writes it and kernels read it: frame number in the low 28 bits, KV format
 * in the high 4.  Entry 0 (format 0) means "no page here". */
#define KVD_ENTRY_FRAME_BITS 28u
#define KVD_ENTRY(frame, format) ((uint32_t)(frame) | (uint32_t)(format) << KVD_ENTRY_FRAME_BITS)
#define KVD_ENTRY_FRAME(e) ((uint32_t)(e) & ((1u << KVD_ENTRY_FRAME_BITS) - 1u))
#define KVD_ENTRY_FORMAT(e) ((uint32_t)(e) >> KVD_ENTRY_FRAME_BITS)

/* One space's shape as a daemon lays it out. */
struct kvd_geometry {
	uint64_t extent_bytes;     /* bytes of one extent; the same for the whole pool */
	uint64_t plane_bytes;      /* bytes from one plane to the next = n_frames * block_bytes */
	uint32_t block_bytes;      /* bytes of one frame's part of one plane */
	uint32_t n_planes;         /* planes of an extent (host device: layers of the model) */
	uint32_t n_frames;         /* frames an extent of this space holds, >= 8 */
	uint32_t slot_bits;        /* a frame number is extent << slot_bits | slot */
};

/* Byte offset of a frame's block in one plane, from the start of the window. */
static inline uint64_t kvd_block_offset(const struct kvd_geometry *g, uint32_t frame, uint32_t plane)
{
	uint64_t extent = frame >> g->slot_bits;
	uint64_t slot = frame & ((1u << g->slot_bits) - 1u);
	return extent * g->extent_bytes + plane * g->plane_bytes + slot * g->block_bytes;
}

/* Bytes of a whole page: its block in every plane. */
static inline uint64_t kvd_page_bytes(const struct kvd_geometry *g)
{
	return (uint64_t)g->block_bytes * g->n_planes;
}

#endif
