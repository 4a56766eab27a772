/* admin.h - rows kvd answers an administrator's QUERY with (struct kvd_msg_rows).
 * kvd writes fixed rows into a memfd and formats nothing; kvctl makes tables and JSON of them.
 * A peer without admin rights gets only its own tenant's rows, with every field that depends on
 * others zeroed (interface.md, "Who may read what"). */
#ifndef KVD_ADMIN_H
#define KVD_ADMIN_H

#include <stdint.h>
#include "kvd/proto.h"

enum kvd_query {
	KVD_Q_STATUS = 1, KVD_Q_ENGINES = 2, KVD_Q_TENANTS = 3, KVD_Q_SEQUENCES = 4, KVD_Q_PAGES = 5,
	KVD_Q_EXTENTS = 6, KVD_Q_FSCK = 7,
};

enum kvd_frame_state {             /* a frame is in exactly one; design.md section 5 */
	KVD_FRAME_FREE = 0, KVD_FRAME_OPEN, KVD_FRAME_SEALED, KVD_FRAME_COOL, KVD_FRAME_FILLING,
	KVD_FRAME_RETIRING, KVD_FRAME_QUARANTINED, KVD_FRAME_STATES
};
enum kvd_extent_state {
	KVD_EXTENT_BARE = 0,       /* not yet populated by the mover; counted as unassigned */
	KVD_EXTENT_UNASSIGNED,     /* populated and zero */
	KVD_EXTENT_ASSIGNED,       /* cut into frames of one (space, colour) */
	KVD_EXTENT_LEAVING,        /* no frame in use; waits until every engine has unmapped it */
	KVD_EXTENT_SCRUB,          /* being zeroed before it changes its space or colour */
	KVD_EXTENT_STATES
};

struct kvd_row_status {
	uint64_t pool_bytes, extent_bytes;
	uint64_t frame_bytes[KVD_FRAME_STATES];   /* bytes of frames per state */
	uint64_t frames[KVD_FRAME_STATES];        /* number of frames per state */
	uint64_t tail_bytes, unassigned_bytes, scrub_bytes;
	uint64_t logical_bytes;    /* sum over sequences of their pages' bytes, plus cached claims */
	uint64_t physical_bytes;   /* bytes of frames that hold K and V: open, sealed, cool */
	uint64_t peak_logical_bytes, peak_physical_bytes; /* at the moment logical/physical was largest */
	uint64_t uptime_usec;
	uint64_t merges, merge_mismatches, promotions, single_flight_waits, preemptions, evicted_pages;
	uint64_t peers_closed;     /* peers closed for breaking the protocol */
	uint32_t kvd_pid, engines, tenants, sequences, adopted, healthy;
	char device[16], version[32];
};
struct kvd_row_engine {
	char name[KVD_NAME_MAX], model[KVD_NAME_MAX], numerics[KVD_NAME_MAX];
	uint64_t prompt_tokens, cached_tokens, completion_tokens, page_bytes;
	uint32_t engine, pid, uid, sequences, extents, kv_format, state /* 0 ready 1 draining 2 dead */;
	uint32_t tokens_per_s, running, waiting;
};
struct kvd_row_tenant {
	char name[KVD_NAME_MAX], domain[KVD_NAME_MAX];
	uint64_t rss_bytes, pss_bytes, uss_bytes, spilled_bytes, min_bytes, max_bytes;
	uint64_t prompt_tokens, cached_tokens, completion_tokens, evicted_pages;
	uint32_t sequences, sharing /* 0 private 1 merge 2 reuse */;
};
struct kvd_row_sequence {
	char engine[KVD_NAME_MAX], tenant[KVD_NAME_MAX];
	uint64_t opened_usec_ago;
	uint32_t slot, state /* enum core_seq_state */, n_tokens, pages, cached_pages, shared_pages, preempted;
	uint32_t pad;
};
struct kvd_row_page {
	uint32_t frame, extent, slot, state;  /* state: enum kvd_frame_state */
	uint32_t page;             /* page number, 0xffffffff: the frame holds none */
	uint32_t parent;           /* number of the page before it in its prefix, 0xffffffff: first */
	uint32_t depth;            /* index in its sequence */
	uint32_t holds;            /* sequences that have it in their table now */
	uint32_t claims;           /* domains that may find it in the prefix index */
	uint32_t colour;           /* 0 shared, else engine number + 1 */
	uint32_t space, generation;
	uint64_t idle_usec;
	char tenant[KVD_NAME_MAX]; /* who made it; "" if the frame is free */
};
struct kvd_row_extent {
	uint64_t tail_bytes;
	uint32_t extent, state /* enum kvd_extent_state */, space, colour, n_frames;
	uint32_t frames[KVD_FRAME_STATES];
	uint32_t shared_frames;    /* sealed frames held by two sequences or claimed by two domains */
	char engine[KVD_NAME_MAX]; /* engine of the colour, "" = shared */
};
struct kvd_row_fsck { char problem[248]; uint64_t checked_pages; }; /* one row with problem "" if clean */

#endif
