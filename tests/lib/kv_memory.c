/* kv_memory.c - a pool of KV pages in plain memory; see kv_memory.h. */
#include "tests/lib/kv_memory.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define FRAMES_PER_EXTENT 24u
#define SLOT_BITS 5u

void kv_memory_init(struct kv_memory *m, const struct model_config *c, uint32_t n_frames)
{
	struct kvd_geometry *g = &m->window.geometry;
	uint64_t n_extents = (n_frames + FRAMES_PER_EXTENT - 1u) / FRAMES_PER_EXTENT;

	memset(m, 0, sizeof(*m));
	g->block_bytes = forward_block_bytes(c);
	g->n_planes = c->n_layers;
	g->n_frames = FRAMES_PER_EXTENT;
	g->slot_bits = SLOT_BITS;
	g->plane_bytes = (uint64_t)FRAMES_PER_EXTENT * g->block_bytes;
	g->extent_bytes = (g->plane_bytes * g->n_planes + 4095u) & ~4095ull;
	m->n_frames = n_frames;
	m->bytes = n_extents * g->extent_bytes;
	m->window.base = aligned_alloc(4096, m->bytes);
	assert(m->window.base);
	memset(m->window.base, 0, m->bytes);
}

void kv_memory_deinit(struct kv_memory *m)
{
	free(m->window.base);
	m->window.base = NULL;
}

uint32_t kv_memory_take(struct kv_memory *m)
{
	uint32_t i = m->n_used++;

	assert(i < m->n_frames);
	return KVD_ENTRY(i / FRAMES_PER_EXTENT << SLOT_BITS | i % FRAMES_PER_EXTENT,
			 KVD_FORMAT_BF16);
}

void kv_memory_read_page(const struct kv_memory *m, uint32_t entry, uint8_t *out)
{
	const struct kvd_geometry *g = &m->window.geometry;

	for (uint32_t plane = 0; plane < g->n_planes; plane++)
		memcpy(out + (size_t)plane * g->block_bytes,
		       m->window.base + kvd_block_offset(g, KVD_ENTRY_FRAME(entry), plane),
		       g->block_bytes);
}
