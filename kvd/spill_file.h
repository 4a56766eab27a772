/* spill_file.h - the file of the spill tier: where it is, how large, and how it is opened. */
#ifndef KVD_SPILL_FILE_H
#define KVD_SPILL_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "kvd/config.h"

#define SPILL_FILE_ERROR_MAX 512

struct spill_file {
	int fd;                    /* -1: no tier */
	bool direct;               /* O_DIRECT: past the page cache */
	bool taken_over;           /* it is the dead kvd's, with what was in it */
	bool preallocated;         /* its blocks are the file's already; else a write may find the disk full */
	uint64_t bytes;            /* whole extents */
};

/* Open what the configuration names: --spill (or the key of that name), else its one [tier].  Without a size
 * the tier is four times the pool, but at most half of what is free there.
 * taken_fd  the file that the kvd before had, ours from now on; -1: none
 * Returns 0 (no tier: ret->fd is -1) or -errno with the sentence. */
int spill_file_open(const struct config *config, int taken_fd, struct spill_file *ret,
		    char ret_error[SPILL_FILE_ERROR_MAX]);

#endif
