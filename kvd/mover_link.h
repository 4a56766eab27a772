/* mover_link.h - kvd-mover's parent: starts it, gives it jobs, survives it.
 *
 * At most LIMIT_MOVER_SMALL frame jobs, LIMIT_MOVER_BIG extent jobs, LIMIT_MOVER_DISK jobs of the spill
 * file and LIMIT_MOVER_SHARE compare jobs (mover_share.c) are with the mover; the others wait here, frame jobs
 * first.  A silent disk is no silent mover.
 * When the mover dies, jobs it had are reported failed to the core (the targets are garbage; the core
 * asks again), extents are sent again to the next one as jobs need them.  What only the link asked for
 * (populate, flush) is simply done again. */
#ifndef KVD_MOVER_LINK_H
#define KVD_MOVER_LINK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "kvd/core/core.h"
#include "kvd/limits.h"
#include "kvd/loop.h"
#include "kvd/mover/job.h"

struct daemon;

#define MOVER_FLIGHT (LIMIT_MOVER_SMALL + LIMIT_MOVER_BIG + LIMIT_MOVER_DISK + LIMIT_MOVER_SHARE)
#define MOVER_PATH_MAX 512

struct mover_entry {
	struct mover_job job;      /* job.cookie: place in flight[] while it is there */
	uint32_t number;           /* the core's job number, or FLUSH: engine */
	bool used;                 /* in flight[] */
};

struct mover_queue {
	struct mover_entry *entries;
	uint32_t size, head, n;
};

/* What merging is due in one space, done or only shown: see mover_share.c. */
struct mover_cover {
	struct kvd_geometry geometry;
	uint64_t seen;             /* of core_read_sealed() */
	uint32_t compares, scrubs; /* still to be done */
};

struct mover_link {
	struct daemon *daemon;
	struct loop_source source; /* our end of the pair; slot 0: no mover */
	pid_t pid;                 /* 0: none to reap */
	int pidfd;                 /* of it; -1 */
	char path[MOVER_PATH_MAX];
	uint8_t *known;            /* (n_extents) this mover has been given the extent */
	struct mover_queue small, big, disk, share;
	struct mover_entry flight[MOVER_FLIGHT];
	uint32_t n_small, n_big, n_disk, n_share; /* in flight */
	struct mover_cover covers[CORE_SPACES_MAX];
	uint32_t n_covers;         /* sum of their compares */
	uint64_t started_usec, restart_at_usec, backoff_usec;
	bool ending;               /* told to end, not yet reaped: its jobs are still its own */
	uint64_t silent_at_usec;   /* jobs in flight and no reply until then: it is stuck */
	uint64_t populate_at_usec; /* no memory for an extent: try again then */
	uint64_t not_quiet, quiet_at_usec; /* bits: engines that the device still had work of; ask again then */
	uint32_t device_failures;  /* movers in a row that the device ended */
	uint64_t restarts;
	uint64_t disk_logged_usec, disk_failures; /* last line about failed jobs of the spill file; those since */
};

/* Find the program ($KVD_MOVER, else beside kvd) and start it.
 * Returns 0 or -errno; -ENOENT: not found, link->path says where. */
int mover_link_open(struct daemon *daemon, uint32_t n_extents);
void mover_link_close(struct mover_link *link);

void mover_link_move(struct mover_link *link, const struct core_action *action);
void mover_link_populate(struct mover_link *link, uint32_t extent);
/* Tell attach_flushed() when everything before is done. */
void mover_link_flush(struct mover_link *link, uint32_t engine);

/* Give the mover what it can take; restart it when it is time.  Once a round; returns the next
 * deadline. */
uint64_t mover_link_pump(struct mover_link *link, uint64_t now_usec);

/* Put a job of the link's own into its queue. */
void mover_link_push(struct mover_link *link, uint32_t kind, const struct kvd_geometry *geometry);

/* mover_share.c: count the pages whose round has come. */
void mover_share_due(struct mover_link *link);
/* Queue the cover of a page, if one is due; false: none is. */
bool mover_share_cover(struct mover_link *link);
/* A COMPARE_COPY was sent: it is a cover less. */
void mover_share_sent(struct mover_link *link, const struct mover_job *job);
/* A COVER was answered: its scrub follows. */
void mover_share_covered(struct mover_link *link, const struct mover_job *job);

/* mover_spawn.c: find the program: its path into the link. */
int mover_find(struct mover_link *link);
/* Run the program with `fd` as MOVER_FD; its pid or -errno. */
pid_t mover_spawn(const char *path, int fd);

#endif
