/* vmm.h - the seam below which a device's memory is made: extents, and descriptors of them.
 *
 * The device is chosen when it is opened, by its name: "host" (vmm_host.c: memfds) or "cuda[:N]" (vmm_cuda.c:
 * cuMemCreate).  Nobody above asks which it is.  Nothing here touches a byte of an extent: memory is populated,
 * scrubbed and copied by the mover.  Loop thread only; nothing allocates after vmm_open(). */
#ifndef KVD_VMM_H
#define KVD_VMM_H

#include <stdbool.h>
#include <stdint.h>

#define VMM_ERROR_MAX 768

struct vmm;

/* What is to be known of a device before there is a pool. */
struct vmm_facts {
	int ordinal;               /* -1: this machine's memory */
	uint8_t uuid[16];          /* zeroes: this machine's memory */
	uint64_t granularity_bytes;/* extents are multiples of it */
	uint64_t total_bytes;      /* of the device; 0: ask /proc/meminfo */
	uint32_t fds_per_extent;   /* that vmm holds */
	char bus[32];              /* of a GPU */
	char text[128];            /* what was found, for people: "cuda:0 NVIDIA H200 0000:3b:00.0 driver 13.0" */
};

/* Find a device.  0, or -errno and a sentence in ret_error (VMM_ERROR_MAX bytes). */
int vmm_find(const char *device, struct vmm_facts *ret, char *ret_error);

/* Allocates the tables for n_extents; makes no extent.  0, or -errno and a sentence. */
int vmm_open(const char *device, uint64_t extent_bytes, uint32_t n_extents, struct vmm **ret, char *ret_error);
void vmm_close(struct vmm *vmm);

/* Make an extent, once; idempotent.  What is in it is not known, and on the host there is no memory yet: the mover
 * populates.  0 or -errno (-ENOMEM: the device is full; vmm_why() has the sentence). */
int vmm_extent_create(struct vmm *vmm, uint32_t extent);
/* About the last failure, "" if there was none. */
const char *vmm_why(const struct vmm *vmm);

/* Take an extent over that a killed kvd had made.  fd is the vmm's on success.
 * -EINVAL: it is not one of ours, or not of this size. */
int vmm_extent_adopt(struct vmm *vmm, uint32_t extent, int fd);

/* A descriptor of an extent, borrowed; with writable = false one through which it cannot be
 * written, where the device has such.  -ENOENT: not made yet. */
int vmm_extent_fd(const struct vmm *vmm, uint32_t extent, bool writable);

/* A descriptor of memory of another size than an extent's (weights), the caller's.  -EOPNOTSUPP: engines make it
 * themselves on this device. */
int vmm_block_create(struct vmm *vmm, uint64_t bytes, int *ret_fd);

/* ---- below the seam ---- */

struct vmm_calls {
	void (*close)(struct vmm *vmm);
	int (*extent_create)(struct vmm *vmm, uint32_t extent);
	int (*extent_adopt)(struct vmm *vmm, uint32_t extent, int fd);
	int (*extent_fd)(const struct vmm *vmm, uint32_t extent, bool writable);
	int (*block_create)(struct vmm *vmm, uint64_t bytes, int *ret_fd);
};

struct vmm {                       /* begins each device's own */
	const struct vmm_calls *calls;
	uint64_t extent_bytes;
	uint32_t n_extents;
	char why[VMM_ERROR_MAX];
};

int vmm_host_find(struct vmm_facts *ret);
int vmm_host_open(uint64_t extent_bytes, uint32_t n_extents, struct vmm **ret);
int vmm_cuda_find(int ordinal, struct vmm_facts *ret, char *ret_error);
int vmm_cuda_open(int ordinal, uint64_t extent_bytes, uint32_t n_extents, struct vmm **ret, char *ret_error);

#endif
