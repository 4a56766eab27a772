/* pages.cuh - where a token's K and V lie: geometry.h's address rule for KVD_LAYOUT_ROWS.
 * A block is [K | V][kv_head][token][head_dim] of bf16. */
#ifndef ENGINE_CUDA_PAGES_CUH
#define ENGINE_CUDA_PAGES_CUH

#include "engine/cuda/args.h"
#include "engine/cuda/port.h"

#define PAGE_FRAME_MASK 0x0fffffffu   /* of a table entry: KVD_ENTRY_FRAME_BITS low bits */

/* The row of a token: head counts the KV heads of K, then those of V; pos in the sequence. */
PORT_INLINE uint8_t *page_token(const struct kvd_pages *p, uint32_t entry, uint32_t head,
				uint32_t pos, uint32_t head_dim)
{
	const uint32_t frame = entry & PAGE_FRAME_MASK;
	const uint64_t extent = frame >> p->slot_bits;
	const uint64_t slot = frame & ((1u << p->slot_bits) - 1u);
	const uint32_t token = pos & ((1u << p->page_shift) - 1u);

	return p->window + extent * p->extent_bytes + p->plane * p->plane_bytes +
	       slot * p->block_bytes +
	       (uint64_t)((head << p->page_shift) + token) * head_dim * 2u;
}

#endif
