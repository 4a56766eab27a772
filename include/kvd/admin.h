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
	KVD_Q_EXTENTS = 6, KVD_Q_FSCK = 7, KVD_Q_PSI = 8, KVD_Q_PLAN = 9, KVD_Q_EVICTIONS = 10, KVD_Q_EVICTED = 11,
	KVD_Q_EXPLAIN = 12,
	KVD_Q_SMAPS = 20, KVD_Q_PREFIXES = 21, KVD_Q_TRACE = 22, KVD_Q_COST = 23, KVD_Q_DRY_EVICT = 24,
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

/* Why a page was taken from its owner. */
enum kvd_reclaim_reason {
	KVD_RECLAIM_DIRECT = 0,    /* somebody waited for its frame */
	KVD_RECLAIM_BACKGROUND,    /* free memory was below the mark `low` */
	KVD_RECLAIM_HIGH,          /* its owner was above its own high or max */
	KVD_RECLAIM_FLOOR,         /* a tenant below its min asked */
	KVD_RECLAIM_EXTENT,        /* its extent went to another engine or space */
	KVD_RECLAIM_CLAIMS,        /* the index was full */
	KVD_RECLAIM_PROGRESS,      /* kept by its owner's min, but the oldest sequence could not go on without */
	KVD_RECLAIM_ADMIN,         /* an administrator said so */
	KVD_RECLAIM_SPILL,         /* it was on disk, and is no longer: the tier was full, or lost it */
	KVD_RECLAIM_REASONS
};
/* Order of taking: the lower class first, then the smaller value. */
enum kvd_reclaim_class {
	KVD_CLASS_OVER_HIGH = 0,   /* its owner is above its high */
	KVD_CLASS_NORMAL,
	KVD_CLASS_LOW,             /* its owner is at or below its low */
	KVD_CLASS_GUARDED,         /* kept by its owner's min: only for the owner itself */
	KVD_CLASS_IN_USE,          /* in a table, or a page below it is cached for the same domain: not a candidate */
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
	/* watermarks of free memory: reclaim begins below low and ends at high, stalls begin below min */
	uint64_t available_bytes, mark_min_bytes, mark_low_bytes, mark_high_bytes;
	uint64_t guarded_bytes;    /* cached bytes that a tenant's min keeps */
	uint64_t refault_tokens;   /* computed again because their page had been evicted */
	uint64_t reclaimed_pages[KVD_RECLAIM_REASONS]; /* pages by enum kvd_reclaim_reason */
	uint64_t throttled;        /* waits for an own limit: high or insert rate */
	uint32_t reclaiming;       /* 1: background reclaim is between low and high */
	uint32_t some_avg10, some_avg60, some_avg300, full_avg10, full_avg60, full_avg300; /* 1/100 % */
	uint32_t pad_pressure;
	/* spill tier: pages on disk alone now; bad reads, pages written and read, ever; records in use */
	uint64_t spilled_pages, lost_pages, spill_writes, spill_reads, spill_slots_used, spill_bytes;
	uint64_t compactions, moved_pages; /* extents emptied by compaction; pages that it moved */
	char device_bus[32], device_text[128]; /* of a GPU, "0000:3b:00.0"; what was found, for people */
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
	uint64_t low_bytes, high_bytes, insert_bytes_per_sec;
	uint64_t held_bytes;       /* part of rss that its sequences have in their tables */
	uint64_t reserved_bytes;   /* admitted and not yet taken; counts towards the limits */
	uint64_t guarded_bytes;    /* cached, and kept by its min */
	uint64_t refault_tokens;   /* computed again because their page had been evicted */
	uint64_t throttled;        /* waits for an own limit: high or insert rate */
	uint32_t weight, max_sequences, stalled /* sequences that wait for memory now */;
	uint32_t some_avg10, full_avg10 /* 1/100 % */, pad_pressure;
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
struct kvd_row_psi {               /* as /proc/pressure/memory; avg in 1/100 % */
	char tenant[KVD_NAME_MAX]; /* "": the whole pool */
	uint64_t some_total_usec, full_total_usec;
	uint32_t some_avg10, some_avg60, some_avg300, full_avg10, full_avg60, full_avg300;
	uint32_t stalled, running; /* sequences that wait for memory; that run and don't */
};
struct kvd_row_plan {              /* one reclaim candidate, or why a claim is none */
	char tenant[KVD_NAME_MAX]; /* owner of the claim: who pays for it */
	uint64_t prefix;           /* number of the prefix that ends with this page */
	uint64_t idle_usec;        /* since its domain last used it */
	uint64_t worth_usec;       /* added to its last use for hits and cost: who has less in all goes first */
	uint64_t frees_bytes;      /* of the device, at once; 0: others keep the content */
	uint64_t charge_bytes;     /* of its owner's charge */
	uint64_t owner_bytes, owner_low_bytes, owner_min_bytes; /* the owner's charge against its floors */
	uint32_t rank;             /* 0: goes first; 0xffffffff: beyond the plan, or not a candidate */
	uint32_t class;            /* enum kvd_reclaim_class */
	uint32_t hits_256;         /* hits x 256, halved every half-life */
	uint32_t recompute_tokens; /* to have it again */
	uint32_t tokens_per_mib;   /* recompute tokens per MiB of charge */
	uint32_t depth, space, colour /* of the group that lists it */, holds, children;
	uint32_t pinned, pad_pinned; /* pinned: an administrator keeps it */
};
struct kvd_row_eviction {          /* who evicted whose bytes */
	char victim[KVD_NAME_MAX], by[KVD_NAME_MAX]; /* by "": others, or nobody in particular */
	uint64_t bytes, pages, refault_tokens /* computed again since */, last_usec_ago;
	uint32_t reason, pad;      /* enum kvd_reclaim_reason */
};
struct kvd_row_evicted {           /* one page that went */
	char victim[KVD_NAME_MAX], by[KVD_NAME_MAX];
	uint64_t prefix, usec_ago, idle_usec, bytes;
	uint32_t reason, class, hits_256, depth;
};
struct kvd_row_smaps {             /* what /proc/PID/smaps_rollup is for a process */
	char name[KVD_NAME_MAX];
	uint64_t rss_bytes;        /* private_clean + private_dirty + shared_clean, always */
	uint64_t pss_bytes;        /* a page that n have counts 1/n */
	uint64_t private_clean_bytes, private_dirty_bytes /* being written */, shared_clean_bytes;
	uint64_t swap_bytes;       /* spilled */
	uint32_t kind;             /* 0 tenant: its claims and pages; 1 engine: what its tables name */
	uint32_t pages;
};
struct kvd_row_prefix {            /* a chain of sealed pages from position 0, up to where it ends or branches */
	uint64_t id;               /* as PIN, PUBLISH, EVICT and EXPLAIN take it */
	uint64_t bytes;            /* of all copies of its pages */
	uint64_t own_bytes;        /* of those behind the last branch: they add up over all prefixes */
	uint64_t idle_usec;        /* since the last use of its last page */
	uint64_t hits;             /* times that its last page was taken instead of computed */
	uint32_t tokens, pages, holders /* of its last page */, claims;
	uint32_t pinned, published;/* 1: it ends here; 2: only one that goes on from here */
	uint32_t space, shared;    /* shared: its last page has a copy in the shared colour */
	char tenant[KVD_NAME_MAX]; /* who claimed its last page first */
	char model[KVD_NAME_MAX];
};
enum kvd_trace_kind {
#define KVD_TRACE(name, number, word, a, b) KVD_TRACE_##name = number,
#include "kvd/trace.def"
#undef KVD_TRACE
};
struct kvd_row_trace {             /* one thing in the life of a sequence or a frame */
	char engine[KVD_NAME_MAX]; /* "": none, or it is gone */
	uint64_t usec_ago;
	uint32_t kind, slot;       /* enum kvd_trace_kind; slot 0xffffffff: none */
	uint32_t verb;             /* SUBMIT, ANSWER: enum kvd_verb or event; MOVE, MOVED: what the mover does */
	uint32_t status;           /* ANSWER: KVD_S_*; MOVED: 1 ok, 2 bytes differ, added */
	uint32_t a, b;             /* as trace.def says; 0xffffffff: none */
};
struct kvd_row_cost {              /* what a tenant has had since this kvd began */
	char tenant[KVD_NAME_MAX];
	uint64_t computed_tokens, cached_tokens; /* of its prompts */
	uint64_t completion_tokens;
	uint64_t refault_tokens;   /* computed again because their pages had been evicted */
	uint64_t rss_byte_seconds; /* as if nothing were shared */
	uint64_t pss_byte_seconds; /* its part of what is shared */
};
struct kvd_row_fsck { char problem[248]; uint64_t checked_pages; }; /* one row with problem "" if clean */

#endif
