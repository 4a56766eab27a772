/* segment.h - the two memfds that an engine and kvd share (layout: include/kvd/shm.h). */
#ifndef KVD_SEGMENT_H
#define KVD_SEGMENT_H

#include <stddef.h>
#include <stdint.h>

#include "kvd/shm.h"

struct segment_shape {
	uint32_t sq_entries, cq_entries, max_seqs, max_pages;
	uint64_t sub_bytes, comp_bytes, sqe_offset, tokens_offset, cqe_offset, tables_offset;
};

struct segment {
	struct segment_shape shape;
	int sub_fd, comp_fd;       /* -1: handed over and closed */
	uint8_t *sub, *comp;       /* mapped shared; NULL: not made */
};

/* Sizes and offsets for an engine's wishes.  sq_entries is a power of two (the caller has checked).
 * Returns 0; -ERANGE: a segment would be larger than limits.h allows (*ret is filled all the
 * same). */
int segment_shape(uint32_t sq_entries, uint32_t max_seqs, uint32_t max_pages,
		  struct segment_shape *ret);

/* Make, map and seal both.  Owner: the caller, segment_close().  -errno: nothing is left behind. */
int segment_open(const struct segment_shape *shape, struct segment *ret);
/* The same for an engine of a killed kvd: its submission segment stays, the completion segment is made
 * anew.  sub_fd stays the caller's.  -EINVAL: it is not one of this shape, sealed as ours are. */
int segment_adopt(const struct segment_shape *shape, int sub_fd, struct segment *ret);
/* Close the descriptors after the engine has its own; the mappings stay. */
void segment_close_fds(struct segment *segment);
void segment_close(struct segment *segment);

/* An anonymous memory file for our own use: mode 0600, not in core dumps once mapped. */
int segment_memfd(const char *name, uint64_t bytes);

#endif
