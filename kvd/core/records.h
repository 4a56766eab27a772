/* records.h - what the book is made of: one struct for each thing that the core knows.
 *
 * Who may change which field is said where the thing lives: frame.c, extent.c, page.c, prefix.c,
 * sequence.c, tenant.c, engine.c, share.c, retire.c. */
#ifndef KVD_CORE_RECORDS_H
#define KVD_CORE_RECORDS_H

#include "kvd/core/core.h"
#include "kvd/core/journal.h"

enum {
	SPACES_MAX = CORE_SPACES_MAX,  /* spaces with an engine or an extent */
	GROUPS_MAX = 64 + SPACES_MAX,  /* one per engine number, then one shared one per space */
	BATCHES_MAX = 256, /* retire batches: (group, stamp) that wait for step counters */
	SCRUBS_MAX = 512, /* mover jobs in flight, by purpose: deep enough to hide ... */
	SHARES_MAX = 128, /* ... the round trip to the mover, small enough that a dying ... */
	COPIES_MAX = 256,              /* ... mover loses little work */
	PAGE_MOVES_MAX = 32,           /* compaction: background, in nobody's way */
	EXTENT_SCRUBS_MAX = 16,
	SPILLS_MAX = 128, /* writes in flight at most: some 50 MiB, more only wait in another place */
	FETCHES_MAX = 64, /* reads in flight: four sequences' read-ahead */
	JOBS_MAX = SCRUBS_MAX + SHARES_MAX + COPIES_MAX + EXTENT_SCRUBS_MAX + PAGE_MOVES_MAX + SPILLS_MAX +
		   FETCHES_MAX + 3,
	POPULATES_MAX = 4, /* first touch is memory-bound: more in flight gains nothing */
	SHARE_AHEAD_PAGES = 32,        /* pages of a chain promoted ahead of the one waited for */
	FETCH_AHEAD_PAGES = 16,        /* pages of a chain read ahead of the one waited for */
	SPILL_PATIENCE_USEC = 50000,   /* a sequence waits no longer for memory that leaves for the disk */
	SPILL_OVERDUE_USEC = 500000,   /* a write that takes longer is not counted on any more, and ... */
	SPILL_PAUSE_USEC = 1000000,    /* ... for this long pages are forgotten instead of written */
	FETCH_PATIENCE_USEC = 5000000, /* a read that takes longer is slower than computing */
	SPILL_TRIES_MAX = 4,           /* movers that may die over one page: that many in a row are no accident */
	SHELF_LEVELS = 6,              /* by log2(hits): from 32 on they are all alike */
	PLAN_STEP = 32,                /* candidates planned and then dropped in one go */
	LEDGER_ROWS = 1024,            /* (victim, by, reason); the least recent go to row 0, "others" */
	EVICTED_ROWS = 1024,           /* last evictions, one by one */
	GHOST_WAYS = 4,
	CHAIN_MAX = 1 << 16,           /* steps along a hash chain: only a broken book has more */
	BUCKETS = 14, /* by log2(free frames): an extent holds at most 1 GiB / 8 KiB */
};

struct link { uint32_t prev, next; } __attribute__((aligned(8))); /* record number + 1; 0 = end.  One word */
struct list { uint32_t head, tail, count; };    /* likewise */

/* The primary facts of a frame are one aligned word (design.md section 7). */
#define FRAME_WORD(state, colour, generation, owner)                                               \
	((uint64_t)(state) | (uint64_t)(colour) << 4 | (uint64_t)(generation) << 12 |              \
	 (uint64_t)(owner) << 28)
#define FRAME_STATE(word) ((enum kvd_frame_state)((word) & 15u))
#define FRAME_COLOUR(word) ((uint32_t)((word) >> 4) & 0xffu)
#define FRAME_GENERATION(word) ((uint32_t)((word) >> 12) & 0xffffu)
#define FRAME_OWNER(word) ((uint32_t)((word) >> 28) & 0xffffffu)

#define FRAME_READY 0x80000000u /* of pins: only the pins keep this RETIRING frame from its scrub */

struct frame {
	uint64_t word;
	uint32_t page;                 /* 0: none */
	uint32_t pins;                 /* mover jobs that read it, and FRAME_READY */
	struct link link;              /* free list of its extent, or a retire list */
};

struct extent {
	uint32_t state;                /* enum kvd_extent_state */
	uint32_t group, n_frames;      /* valid while ASSIGNED or LEAVING */
	uint32_t high; /* frames from here on were never used since it was assigned */
	uint32_t frames[KVD_FRAME_STATES];
	uint32_t bucket;               /* partial list it is in, + 1; 0: none; ends the stretch of counts */
	uint8_t draining, idle_listed, populating /* enum extent_populate */, acked_once;
	uint64_t mapped, acked;        /* engines that were told to map it; that said they did */
	uint64_t idle_usec;            /* since when no frame of it is in use */
	uint64_t evacuated_usec;       /* when compaction last began or gave up on it; 0: never */
	struct list free;              /* frames, LIFO: warm ones first */
	struct list switching;         /* nodes whose tables wait for an ack of this extent */
	struct link link, partial, idle;
	uint32_t scrub_space;
	uint32_t n_pinned;             /* frames with a copy of a pinned page */
};

enum extent_populate { EXTENT_POPULATE_NONE = 0, EXTENT_POPULATE_QUEUED, EXTENT_POPULATE_ISSUED };

enum page_state { PAGE_NONE = 0, PAGE_RESIDENT };

struct page {                          /* K and V of 16 tokens; one copy of its node's content */
	uint32_t next_free;            /* book.c's, 0 while the record is live */
	uint32_t state, frame, node;   /* node 0: not in the index */
	uint32_t tenant, domain;       /* who made it */
	uint8_t keep_private;          /* its tenant's mode was `private` */
	uint8_t verified;              /* bytes equal to the node's shared copy, says the mover */
	uint8_t cool_listed;
	uint8_t leaving;               /* it is written out and goes when that is done (spill.c) */
	uint64_t used_usec;
	struct list holders;           /* holds */
	struct link copy, cool;
};

struct node {                          /* content identity: (space, parent, 16 tokens) */
	uint32_t next_free;            /* book.c's, 0 while the record is live */
	uint32_t live, space, parent, depth;
	uint32_t refs;                 /* hold slots that name it as their prompt, and jobs */
	uint64_t identity;             /* keyed hash of all tokens up to here; outlives the record */
	uint32_t hash, hash_next;      /* hash: its lower half */
	int32_t tokens[KVD_PAGE_TOKENS];
	uint32_t shared;               /* its copy in the shared colour, 0: none */
	uint32_t job;                  /* mover job that works on it */
	uint8_t never_merge, promote, switching;
	uint8_t queued;                /* 1: in the merge queue, 2: in the promote queue */
	uint8_t failures;              /* mover failures in a row */
	uint8_t present;               /* it has a copy, and that is not on its way to disk */
	uint32_t switch_extent;        /* where it waits, + 1; 0: in the core's list */
	uint32_t n_complete, n_guarded; /* complete claims; of these: kept by their tenant's min */
	uint32_t spill;                /* its record in the spill tier, 0: none */
	struct list copies, claims, children, waiters;
	struct link sibling, queue, switch_link;
	uint8_t pinned, published;     /* a pin, a publication ends here (steer.c) */
	uint32_t pins, publics;        /* such ends here and below */
	uint32_t hits;                 /* times that a sequence took it instead of computing */
};

struct claim { /* "this domain may skip computing this page", or a promise of it */
	uint32_t next_free;            /* book.c's, 0 while the record is live */
	uint32_t node, domain, tenant; /* tenant: who made it, and pays */
	uint32_t hash_next;            /* of `hashed` ones only */
	uint32_t holds, children; /* table slots of the domain; complete claims on child nodes ... */
	uint32_t near;                 /* ... of these: on nodes with a copy in memory */
	uint32_t complete;             /* 0: only promised or waited for */
	uint32_t promiser;             /* sequence that computes it now, 0: none */
	uint32_t shelf;                /* it is a candidate there (shelf.c), 0: of none */
	uint32_t home;                 /* group where it was last used */
	uint32_t guarded_children;     /* of its children: kept by its tenant's min */
	uint16_t hits_256;             /* uses x 256 at used_usec, halved every half-life */
	uint8_t level;                 /* of its shelf */
	uint8_t guarded;               /* cold, and kept by its tenant's min (guard.c) */
	uint8_t hashed;                /* found by the hash, not as its node's first */
	uint64_t used_usec;
	struct list waiters;           /* sequences */
	struct link of_node, lru, promised;
};

/* The reclaim candidates of one tenant in one group, or those that its min keeps for it. */
struct shelf {
	uint32_t next_free;            /* book.c's, 0 while the record is live */
	uint32_t tenant, group;        /* group CORE_NONE: kept by the tenant's min, for nobody else */
	uint32_t heap;                 /* place in its group's heap + 1; 0: kept */
	uint32_t count;
	uint64_t key;                  /* shelf_key(): class of its tenant, value of its first claim */
	struct list level[SHELF_LEVELS]; /* claims by log2 of hits, each least recently used first */
	struct link of_tenant;
};

/* A page that was evicted, in case it is computed again. */
struct ghost { uint64_t key, usec; uint32_t victim, by, reason, pad; };

struct ledger_row { uint32_t victim, by, reason, live; uint64_t bytes, pages, refault_tokens, last_usec; };

struct evicted_row {
	uint64_t usec, prefix, idle_usec, bytes;
	uint32_t victim, by, depth;
	uint16_t hits_256;
	uint8_t reason, class;
};

struct hold { uint32_t page, claim, node, seq; struct link link; }; /* one table slot */

enum core_seq_state { SEQ_EMPTY = 0, SEQ_WAITING, SEQ_RUNNING, SEQ_PARKED, SEQ_PREEMPTED };
enum seq_wait {
	WAIT_NONE = 0,
	WAIT_QUEUE,
	WAIT_PROMISE,
	WAIT_SHARE,
	WAIT_FETCH,
	WAIT_ACK,
	WAIT_MEMORY,
	WAIT_RATE,
	WAIT_AWAKE,
	WAIT_JOB
};

enum seq_stall { STALL_NONE = 0, STALL_WAITING, STALL_RUNNING }; /* it waits for memory: admitted or not */
enum seq_fetch { FETCH_NONE = 0, FETCH_WAITS, FETCH_SERVED /* it is its turn to take one */ };
struct seq {
	uint32_t state, engine, slot, tenant, domain;
	uint32_t row;                  /* first hold slot */
	uint32_t n_pages, n_sealed;    /* table entries; sealed ones at the front */
	uint32_t n_nodes, n_take; /* prompt nodes known; of these may be taken from the index */
	uint32_t n_cached, n_tokens, reserved, want, need; /* need: pages asked for at admission */
	uint8_t no_index, alone, no_share, lookup, tenant_full;
	uint8_t throttled;             /* its own tenant's limits keep it in the queue */
	uint8_t stall;                 /* enum seq_stall */
	uint8_t no_fetch;              /* the disk has been too slow: compute */
	uint8_t fetch;                 /* enum seq_fetch: a frame to read a spilled page into */
	uint8_t rate_turn;             /* it waited for its tenant's rate, and goes first now */
	uint32_t paid;                 /* pages of this GROW that its tenant's rate was charged for, up to here */
	uint64_t waits_usec;           /* since when it waits */
	uint32_t n_fetches;            /* reads in flight into frames of its reservation */
	uint32_t pending_slot;
	uint16_t pending;              /* verb answered late, 0: none */
	uint64_t pending_data;
	uint32_t wait, wait_on, job;   /* enum seq_wait; claim, node or extent; copy in flight */
	uint32_t copy_page,
		copy_from; /* table index the copy is for; frame + 1 it is made from, pinned */
	uint32_t preempted;
	uint64_t age, opened_usec, progress_usec, queued_usec;
	struct list promises;          /* claims */
	struct link link, run, of_tenant, promiser;
};

enum { PSI_AVGS = 3, PSI_SHIFT = 20 };         /* 10, 60, 300 seconds; in 2^-20 of all time */
struct psi {                                   /* psi.c */
	uint64_t since_usec, period_usec; /* accounted up to; begin of the period that goes on */
	uint64_t some_usec, full_usec; /* of that period */
	uint64_t some_total_usec, full_total_usec;
	uint32_t some_avg[PSI_AVGS], full_avg[PSI_AVGS];
	uint32_t some, full;           /* now */
};

struct trigger {                               /* of pressure; window_usec 0: none */
	uint64_t threshold_usec, window_usec;
	uint64_t begun_usec, total_usec; /* when this window began, and the total then */
	uint64_t before_usec, fired_usec; /* stall in the window before; last time that it came true */
	uint32_t tenant, full;
};

struct tenant {
	char name[KVD_NAME_MAX];
	uint32_t domain, sharing;
	struct core_quota quota;       /* completed: min <= low, high < max, weight > 0 */
	uint64_t rss_bytes, held_bytes, reserved_bytes;
	uint64_t spilled_bytes, check_spilled; /* claims whose page is on disk alone; fsck's sum */
	uint64_t guarded_bytes;        /* cold claims that its min keeps */
	uint64_t floor_bytes;          /* the part of its charge that its min covers */
	uint64_t evicted, refault_tokens, throttled;
	uint32_t n_seqs, class;        /* enum kvd_reclaim_class of its candidates */
	uint32_t shelf;                /* claims that its min keeps, 0: none */
	uint32_t dirty;                /* enum tenant_dirty: to be looked at in this event */
	uint32_t stalled, stalled_running; /* sequences that wait for memory; of these: running ones */
	uint64_t check_rss, check_held, check_reserved, check_guarded; /* fsck's sums, no part of the state */
	uint32_t check_stalled, check_stalled_running;
	struct list shelves;           /* with reclaim candidates, one for each group */
	struct list running, queued;   /* sequences, oldest first */
	struct list rated;             /* sequences that wait for its insert rate, in order of arrival */
	struct link link;              /* tenants with running sequences */
	struct link floor_link, rate_link;
	uint8_t queued_listed, rate_listed, guard_blocked;
	uint32_t active_weight;        /* its weight while it runs or waits in the queue, else 0 */
	uint64_t max_age;              /* sequences older than this began before its max was lowered */
	uint64_t rate_usec;            /* when what was inserted so far is paid for, at its rate */
	struct link dirty_link;
	struct psi psi;
};

struct domain { char name[KVD_NAME_MAX]; uint32_t refs, own; };

struct engine {
	uint32_t state;                /* enum engine_state */
	uint32_t space, max_seqs, max_pages, seq_base, hold_base, draining, n_seqs;
	char name[KVD_NAME_MAX], model[KVD_NAME_MAX];
	uint64_t died_usec;
	struct list ack_waiters;       /* sequences */
};
enum engine_state { ENGINE_FREE = 0, ENGINE_LIVE, ENGINE_DEAD /* not quiet yet */, ENGINE_QUIET };

struct space {
	uint32_t live, kv_format, layout, n_extents;
	uint8_t fingerprint[16];
	char numerics[KVD_NAME_MAX], model[KVD_NAME_MAX];
	struct kvd_geometry geometry;
	uint64_t page_bytes,
		engines; /* engines LIVE or DEAD: those that may still look at a frame */
	uint64_t frames[KVD_FRAME_STATES]; /* of its extents, by state */
	uint32_t first_tenant, many;   /* a second tenant or engine has appeared */
	uint32_t sealed_fresh, sealed_aged; /* pages that might be merged: sealed in this round, in the last one */
	uint64_t sealed_due;           /* before those, ever */
	uint64_t worth_usec;           /* what a page's cost adds to the time of its last use (shelf.c) */
};

struct group {                         /* one (space, colour): who may use which extents */
	uint32_t space, colour, engine; /* engine CORE_NONE: shared */
	uint32_t n_shelves;            /* in its heap: whose first claim goes first is on top */
	uint32_t busy_extents, busy_frames, n_unacked, n_draining, retiring;
	uint32_t spilling;             /* frames that come free when their page is written out */
	uint32_t stuck;                /* RETIRING frames that such a write still reads: not soon */
	uint64_t reserved;             /* frames promised to sequences and not yet taken */
	uint64_t wanted;               /* extents those may need beyond its busy ones; 1 at least if `keep` */
	uint32_t keep;                 /* its engine keeps one extent, busy or not (fair.c) */
	struct list extents, idle, partial[BUCKETS];
	struct list cool;              /* pages nobody holds, by when that began */
	struct list pending;           /* sequences that wait for frames */
	struct list fresh, stamping, quarantined; /* frames */
};

struct batch {
	uint64_t mask;
	uint64_t begun[CORE_ENGINES_MAX];
	struct list frames;
	uint32_t live;
};

/* One page on disk.  The record's number - 1 is its place: region << slot_bits | index; see spill.c. */
enum spill_state { SPILL_FREE = 0, SPILL_SPILLING, SPILL_SPILLED, SPILL_FETCHING, SPILL_LOST, SPILL_STATES };
struct spill {
	uint32_t state;                /* enum spill_state */
	uint32_t node;                 /* 0: LOST */
	uint32_t page;                 /* SPILLING: the copy that is written, 0: it has gone meanwhile */
	uint32_t job;
	uint32_t tenant, domain;       /* who made the page */
	uint8_t keep_private;
	uint8_t stuck;                 /* its page has gone, the frame is in its group's `stuck` */
	uint8_t counted;               /* SPILLING, page leaving: in its group's `spilling`; FETCHING: awaited */
	uint8_t failures;              /* movers that died over it in a row */
	uint64_t generation, begun_usec;
	struct link link;              /* c->spilled, c->spilling, c->fetching or its region's free list */
};

struct region {                        /* of the spill file; as large as an extent */
	uint32_t space;                /* + 1; 0: unassigned */
	uint32_t n_slots, high, used;
	uint64_t slot_bytes;
	uint32_t listed;               /* in its space's list of regions with room */
	struct list free;              /* records */
	struct link link;
};

enum job_kind { JOB_NONE = 0, JOB_SCRUB, JOB_SHARE, JOB_COPY, JOB_EXTENT, JOB_MOVE, JOB_SPILL, JOB_FETCH, JOB_KINDS };
struct job {
	uint32_t next_free;            /* book.c's, 0 while the record is live */
	uint32_t kind, generation, move; /* move: enum core_move */
	uint32_t source, peer, target; /* frames (JOB_EXTENT: target = extent); CORE_NONE: none */
	uint32_t node, seq, group;
	uint32_t source_page, peer_page; /* pages in them when the job began */
	uint32_t issued;               /* its action has left the queue */
	uint32_t spill;                /* SPILL, FETCH: record */
} __attribute__((aligned(8)));

enum item_kind { ITEM_ACTION_COMPLETE = 1, ITEM_ROW, ITEM_MAP, ITEM_UNMAP, ITEM_MOVE,
	ITEM_POPULATE, ITEM_STAMP, ITEM_PRESSURE, ITEM_ATTACHED, ITEM_ALARM, ITEM_STEERED };
struct item { uint32_t kind, engine, a, b, c, d, e, f; uint64_t x; };

struct pool { uint32_t high, free, count, max; }; /* records below high; free list head, 0: empty */

struct layout {
	uint64_t book_bytes;
	uint64_t at_extents, at_frames, at_pages, at_nodes, at_claims, at_holds, at_seqs,
		at_tenants, at_domains, at_node_hash, at_claim_hash, at_shelves, at_heaps, at_ghosts, at_items,
		at_shell, at_journal, at_regions, at_spills, journal_max;
	uint32_t n_extents, slot_bits, frames_max, nodes_max, claims_max, buckets_max, domains_max, shelves_max,
		ghosts_max, items_max, n_regions, spills_max;
};

#endif
