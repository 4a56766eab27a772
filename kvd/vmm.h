/* vmm.h - the seam below which a device's memory is made: extents, and descriptors of them.
 *
 * vmm_host.c makes them of memfds; a CUDA twin exports the same functions over cuMemCreate.
 * Nothing here touches a byte of an extent: memory is populated, scrubbed and copied by the
 * mover. */
#ifndef KVD_VMM_H
#define KVD_VMM_H

#include <stdbool.h>
#include <stdint.h>

struct vmm;

/* Allocates the tables for n_extents; makes no extent.  -ENOMEM. */
int vmm_open(uint64_t extent_bytes, uint32_t n_extents, struct vmm **ret);
void vmm_close(struct vmm *vmm);

/* Make an extent, once; idempotent.  It has no memory yet.  0 or -errno. */
int vmm_extent_create(struct vmm *vmm, uint32_t extent);

/* Take an extent over that a killed kvd had made.  fd is the vmm's on success.
 * -EINVAL: it is not one of ours, or not of this size. */
int vmm_extent_adopt(struct vmm *vmm, uint32_t extent, int fd);

/* A descriptor of an extent, borrowed; with writable = false one through which it cannot be
 * written. -ENOENT: not made yet. */
int vmm_extent_fd(const struct vmm *vmm, uint32_t extent, bool writable);

#endif
