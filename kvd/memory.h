/* memory.h - how much memory this host can still give, read once at start; and memory of our own that is
 * there from the start. */
#ifndef KVD_MEMORY_H
#define KVD_MEMORY_H

#include <stddef.h>
#include <stdint.h>

struct memory_free {
	uint64_t available_bytes;  /* MemAvailable of /proc/meminfo */
	uint64_t cgroup_max_bytes; /* tightest limit of our control groups; UINT64_MAX: none */
	uint64_t cgroup_free_bytes;/* limit - current of the control group with the least left */
};

/* root: "" on a real system; tests point it at a directory of their own.
 * Returns 0, or -errno if /proc/meminfo cannot be read. */
int memory_read(const char *root, struct memory_free *ret);

/* Bytes that a pool may have at most. */
static inline uint64_t memory_pool_max(const struct memory_free *m)
{
	return m->available_bytes < m->cgroup_free_bytes ? m->available_bytes
							 : m->cgroup_free_bytes;
}

/* Zeroed memory that is resident now, so that ours does not grow with time; free() it.  NULL: none. */
void *memory_resident(size_t bytes);

#endif
