/* kept.h - what the shell must remember across its own death: its region of the book.
 *
 * Stored to only by KEPT_SET(), which the book's journal notes: what is stored between two steps of
 * the core belongs to the next step, what is stored while an action is performed belongs to that
 * action (core.h).  So an engine's place in its rings moves together with the effect of what it said,
 * and a killed kvd leaves either both or neither.
 *
 * Everything else of the shell is made anew by the next kvd: peers, queues, the mover, its jobs. */
#ifndef KVD_KEPT_H
#define KVD_KEPT_H

#include <stddef.h>
#include <stdint.h>

#include "kvd/core/core.h"
#include "kvd/limits.h"
#include "kvd/proto.h"
#include "kvd/segment.h"

#define KEPT_OUT 4096u             /* messages with a number that wait for room, of one engine; a power of two */

struct kept_engine {
	uint32_t state;            /* enum attached_state */
	uint32_t version;          /* of the protocol */
	uint32_t uid, gid, pid;
	uint32_t draining;
	char name[KVD_NAME_MAX], model[KVD_NAME_MAX], program[KVD_NAME_MAX];
	char tenant[KVD_NAME_MAX], domain[KVD_NAME_MAX]; /* of its connection */
	uint8_t fingerprint[16];
	struct segment_shape shape;
	uint64_t plane_bytes;
	uint32_t n_frames;
	uint32_t generation;       /* of its completion segment */
	uint64_t control_inode, sub_inode, comp_inode;
	uint32_t sq_head, cq_tail; /* submissions that had their effect; completions published */
	uint32_t out_seq, sent_seq;/* numbered messages: made; given to the socket */
	uint64_t attached_usec, hung_up_usec;
};

struct kept_out { uint32_t type, number, writable; }; /* number: extent or client handle */

struct kept_stream {
	uint32_t engine;           /* number + 1; 0: free */
	uint32_t tenant;
	uint16_t generation;       /* makes handles of earlier users stale */
	uint16_t next;             /* free list: index + 1 */
};

struct kept_weights {
	uint64_t inode;            /* 0: free */
	uint8_t fingerprint[16];
	char layout[KVD_NAME_MAX];
};

struct tenant_counters { uint64_t prompt_tokens, cached_tokens, completion_tokens; };

struct kept {
	uint64_t version;          /* kept_version(); stored last at a cold start */
	uint64_t ready_usec;
	uint32_t mover_pid;        /* that may have extents; 0: none */
	uint32_t adoptions;        /* since the cold start */
	struct kept_engine engines[CORE_ENGINES_MAX];
	struct kept_out out[CORE_ENGINES_MAX][KEPT_OUT];   /* (engine, number % KEPT_OUT) */
	struct kept_weights weights[LIMIT_WEIGHTS];
	uint32_t streams_high;     /* streams ever used */
	uint16_t streams_free;     /* free list: index + 1 */
	struct kept_stream streams[LIMIT_STREAMS];
	struct tenant_counters counters[LIMIT_TENANTS];
	struct core_quota told[LIMIT_TENANTS]; /* what the configuration last said of each tenant; weight 0: nothing */
	uint64_t extent_inodes[];  /* (n_extents) */
};

/* Store to a field of the const struct kept *daemon->kept. */
#define KEPT_SET(daemon, field, value) do { \
	const __typeof__(field) kept_value_ = (value); \
	core_shell_set((daemon)->core, &(field), &kept_value_, sizeof(field)); \
} while (0)

static inline size_t kept_bytes(uint32_t n_extents)
{
	return (sizeof(struct kept) + n_extents * sizeof(uint64_t) + 7u) & ~(size_t)7;
}

/* Changes with the layout of the region. */
uint64_t kept_version(void);
/* Is every number in range?  The book is our own, but a mistake must end in a cold start. */
bool kept_valid(const struct kept *kept, const char **ret_why);
/* What identifies a descriptor's object while it lives; 0: it cannot be asked. */
uint64_t kept_inode(int fd);

#endif
