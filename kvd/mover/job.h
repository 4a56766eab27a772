/* job.h - what kvd and kvd-mover say to each other, on a SOCK_SEQPACKET pair made by kvd.
 *
 * Private to one build of kvd: both start from the same binary directory and end together. */
#ifndef KVD_MOVER_JOB_H
#define KVD_MOVER_JOB_H

#include <stdint.h>

#include "kvd/geometry.h"

#define MOVER_FD 3                 /* the mover's end of the pair, inherited */

enum mover_kind {
	MOVER_SETUP = 1,           /* first message: device, pool and extent size.  No reply. */
	MOVER_EXTENT,              /* + fd: extent `target` has this memory.  No reply. */
	MOVER_POPULATE,            /* give extent `target` all its memory */
	MOVER_SCRUB,               /* zero frame `target` */
	MOVER_COPY,                /* frame `source` -> frame `target` */
	MOVER_COMPARE_COPY,        /* `source` equals `peer`? then `source` -> `target` */
	MOVER_SCRUB_EXTENT,        /* zero extent `target` */
	MOVER_SPILL_FILE,          /* + fd: the spill file, its size and key.  No reply. */
	MOVER_SPILL,               /* frame `source` -> place in the spill file */
	MOVER_FETCH,               /* place in the spill file -> frame `target` */
	MOVER_COVER,               /* a COMPARE_COPY's work on a page of this geometry, and nothing comes of it */
	MOVER_COVER_SCRUB,         /* likewise of a SCRUB */
	MOVER_FLUSH,               /* the reply says that all jobs before it are done, and that nothing of the ended
				    * process `target` is under way on the device; -EAGAIN: ask again */
	MOVER_KINDS,
};

#define MOVER_SPILL_TRAILER 64u    /* bytes behind a page in its slot */
#define MOVER_SPILL_ALIGN 4096u    /* slots begin and end at whole blocks */
/* Exit status: kvd starts another one in each case. */
#define MOVER_EXIT_NO_DEVICE 3     /* the device cannot be opened */
#define MOVER_EXIT_FAULT 4         /* it failed under way; this process is of no more use to it */
#define MOVER_DISK_JOBS_MAX 32u    /* SPILL and FETCH jobs that kvd gives the mover at once */
#define MOVER_SHARE_JOBS_MAX 16u   /* COMPARE_COPY and COVER jobs, likewise */

struct mover_place { uint64_t offset, generation, identity; };  /* see core.h, struct core_spill_place */

struct mover_job {
	uint32_t kind;             /* enum mover_kind */
	uint32_t cookie;           /* returned in the reply */
	uint32_t source, peer, target;
	uint32_t n_extents;        /* SETUP */
	struct kvd_geometry geometry;  /* frame jobs; SETUP: extent_bytes */
	union {
		struct {           /* SETUP */
			int32_t ordinal;       /* -1: this machine's memory */
			uint8_t uuid[16];
		} device;
		struct mover_place place;  /* SPILL, FETCH */
		struct {           /* SPILL_FILE */
			uint64_t bytes;
			uint8_t key[32];
		} file;
	};
};

struct mover_reply {
	uint32_t cookie;
	int32_t error;             /* 0 or -errno */
	uint32_t differs;          /* COMPARE_COPY: the bytes differ, nothing was copied.  SPILL, FETCH with an
				    * error: the file is to blame */
	uint32_t pad;
};

#endif
