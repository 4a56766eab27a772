/* kv_memory.h - a pool of KV pages in plain memory, laid out as kvd lays them out, for tests. */
#ifndef TESTS_LIB_KV_MEMORY_H
#define TESTS_LIB_KV_MEMORY_H

#include "engine/forward.h"

struct kv_memory {
	struct kv_window window;
	uint64_t bytes;
	uint32_t n_frames;         /* of the whole pool; frame_at(0 .. n_frames-1) */
	uint32_t n_used;
};

/* Zeroed pages for at least n_frames; several extents, so that addresses aren't contiguous. */
void kv_memory_init(struct kv_memory *m, const struct model_config *c, uint32_t n_frames);
void kv_memory_deinit(struct kv_memory *m);

/* The table entry of the next unused frame. */
uint32_t kv_memory_take(struct kv_memory *m);

/* Copy all planes of one page (entry) to out: n_planes * block_bytes. */
void kv_memory_read_page(const struct kv_memory *m, uint32_t entry, uint8_t *out);

#endif
