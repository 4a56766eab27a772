/* book.h - the core's whole memory: one block, addressed by offsets, stored to only through SET().
 *
 * Every pointer into the book is a pointer to const, so that a plain store does not compile; SET()
 * (journal.h) casts that away.  Record 0 of the pools `pages`, `nodes`, `claims`, `seqs` and `jobs`
 * is never used: there 0 says "none".  Engines, tenants, domains, spaces, groups, extents and frames
 * count from 0 and say CORE_NONE.
 *
 * The book starts zeroed and most of it is never touched: zero is the empty state of every record
 * and list, and each pool hands out records from a high-water mark once its free list is empty. */
#ifndef KVD_CORE_BOOK_H
#define KVD_CORE_BOOK_H

#include <assert.h>
#include "kvd/core/records.h"

#define CORE_MAGIC 0x6b7664636f726532ull /* "kvdcore2"; stored last by core_init */

struct core {
	uint64_t magic, layout_version;
	struct journal journal;
	struct core_config config;
	uint64_t now_usec, next_age;
	uint32_t n_extents, slot_bits;
	struct layout layout;
	struct pool pages, nodes, claims, jobs, shelves;
	uint32_t n_tenants, n_domains, n_spaces;
	uint32_t populate_next, populating;
	uint32_t extents_in[KVD_EXTENT_STATES];
	uint64_t tail_bytes;
	uint32_t busy_extents, n_draining, demand;
	uint32_t evacuating, evacuate_next; /* compaction: extent + 1, 0: none; slot it goes on with */
	uint64_t compact_usec, compactions, moved_pages; /* next look; extents emptied; pages moved */
	uint64_t wanted;               /* sum over groups */
	uint64_t logical_bytes, physical_bytes, peak_logical_bytes, peak_physical_bytes;
	uint64_t merges, merge_mismatches, promotions, single_flight_waits, preemptions,
		evicted_pages;
	uint32_t jobs_in[JOB_KINDS];
	uint64_t spill_generation, spill_pause_usec; /* last one given; nothing is written until then */
	uint64_t spilled_pages, lost_pages; /* nodes on disk alone; bad reads, ever */
	uint64_t spill_writes, spill_reads;
	uint32_t spills_in[SPILL_STATES];
	uint32_t regions_high;         /* from here on never used */
	struct list spilled;           /* records SPILLED: the coldest first */
	struct list spilling;          /* records SPILLING whose page leaves: the oldest write first */
	struct list fetching;          /* records FETCHING that are waited for: the oldest read first */
	struct list free_regions, space_regions[SPACES_MAX]; /* unassigned after use; with room */
	struct list fetch_waiters;     /* sequences that wait until a read may begin */
	uint32_t job_serial, stamp_out, more, memory_changed, n_batches, waiting;
	uint64_t fresh_groups[GROUPS_MAX / 64], stamping_groups[GROUPS_MAX / 64],
		pending_groups[GROUPS_MAX / 64], shelf_groups[GROUPS_MAX / 64];
	struct list unassigned, leaving; /* extents */
	struct list scrub;             /* frames to be zeroed */
	struct list scrub_extents;     /* extents to be zeroed */
	struct list merge_queue, promote_queue, switch_queue; /* nodes */
	uint32_t merge_aged, merge_due; /* of merge_queue, from its head: there before this round began, before the
					 * last one did (those may start); due <= aged <= count */
	uint32_t sealed_waiting;       /* sum of fresh and aged pages over spaces */
	uint64_t merge_round_usec;     /* when the next round begins */
	struct list queue, awake;      /* sequences: for admission; to be looked at again */
	struct list running;           /* sequences, oldest first */
	struct list promisers;         /* sequences with promises, least recent progress first */
	struct list tenants_running;
	uint64_t active_weight;        /* sum over tenants */
	uint32_t n_live, n_keeps;      /* engines LIVE; those of them that keep an extent */
	struct list queued_tenants;     /* with sequences in the queue */
	struct list rate_tenants;      /* with sequences that wait for their insert rate */
	uint64_t rate_usec;            /* when the first of these may go on */
	uint32_t reclaiming;           /* between the marks low and high */
	struct list dirty_tenants;     /* to be looked at before the event ends */
	uint64_t guarded_bytes, floor_bytes; /* sums over tenants */
	uint64_t refault_tokens, reclaimed_pages[KVD_RECLAIM_REASONS], n_evicted;
	uint32_t stalled, stalled_running; /* sums over tenants */
	struct psi psi;                /* of the whole pool */
	struct trigger triggers[CORE_TRIGGERS_MAX];
	uint32_t n_triggers;
	uint64_t trigger_usec;         /* when a trigger may come true if nothing changes */
	uint32_t taker;                /* tenant that took a frame last */
	uint32_t blame_by, blame_reason; /* of what goes now (ledger.c) */
	struct ledger_row ledger[LEDGER_ROWS];
	struct evicted_row evicted[EVICTED_ROWS];
	uint32_t n_pins, n_publics;    /* pinned, published nodes: the ends */
	uint32_t pinned_extents, pinned_frames; /* that hold, that are copies of pinned pages */
	uint32_t items_head, items_tail, item_at; /* at: entries already expanded of a row item */
	struct engine engines[CORE_ENGINES_MAX];
	struct space spaces[SPACES_MAX];
	struct group groups[GROUPS_MAX];
	struct batch batches[BATCHES_MAX];
	struct job job[JOBS_MAX + 1];
};

bool book_layout(const struct core_config *config, struct layout *ret); /* false: impossible */

/* ---- records by number ---- */
#define BOOK_AT(core, offset, type, number) \
	((const struct type *)((const char *)(core) + (core)->layout.offset) + (number))
static inline const struct extent *extent_at(const struct core *c, uint32_t n)
{
	return BOOK_AT(c, at_extents, extent, n);
}
static inline const struct frame *frame_at(const struct core *c, uint32_t n)
{
	return BOOK_AT(c, at_frames, frame, n);
}
static inline const struct page *page_at(const struct core *c, uint32_t n)
{
	return BOOK_AT(c, at_pages, page, n);
}
static inline const struct node *node_at(const struct core *c, uint32_t n)
{
	return BOOK_AT(c, at_nodes, node, n);
}
static inline const struct claim *claim_at(const struct core *c, uint32_t n)
{
	return BOOK_AT(c, at_claims, claim, n);
}
static inline const struct hold *hold_at(const struct core *c, uint32_t n)
{
	return BOOK_AT(c, at_holds, hold, n);
}
static inline const struct seq *seq_at(const struct core *c, uint32_t n)
{
	return BOOK_AT(c, at_seqs, seq, n);
}
static inline const struct tenant *tenant_at(const struct core *c, uint32_t n)
{
	return BOOK_AT(c, at_tenants, tenant, n);
}
static inline const struct domain *domain_at(const struct core *c, uint32_t n)
{
	return BOOK_AT(c, at_domains, domain, n);
}
static inline const struct shelf *shelf_at(const struct core *c, uint32_t n)
{
	return BOOK_AT(c, at_shelves, shelf, n);
}
static inline const struct ghost *ghost_at(const struct core *c, uint32_t n)
{
	return BOOK_AT(c, at_ghosts, ghost, n);
}
static inline const struct item *item_at(const struct core *c, uint32_t n)
{
	return BOOK_AT(c, at_items, item, n);
}
static inline const struct region *region_at(const struct core *c, uint32_t n)
{
	return BOOK_AT(c, at_regions, region, n);
}
static inline const struct spill *spill_at(const struct core *c, uint32_t n)
{
	return BOOK_AT(c, at_spills, spill, n);
}
/* It is needed soon: all its cache lines. */
static inline void fetch_record(const void *record, size_t size)
{
	for (size_t at = 0; at < size + 63; at += 64)
		__builtin_prefetch((const char *)record + at);
}
static inline uint32_t extent_of(const struct core *c, uint32_t frame)
{
	return frame >> c->slot_bits;
}
static inline const struct group *group_of_extent(const struct core *c, uint32_t x)
{
	return &c->groups[extent_at(c, x)->group];
}
static inline const struct group *group_of_frame(const struct core *c, uint32_t f)
{
	return group_of_extent(c, extent_of(c, f));
}
static inline uint32_t group_shared(uint32_t space) { return 64u + space; }
static inline enum kvd_frame_state frame_state(const struct core *c, uint32_t f)
{
	return FRAME_STATE(frame_at(c, f)->word);
}
static inline uint64_t page_bytes_of_space(const struct core *c, uint32_t space)
{
	return c->spaces[space].page_bytes;
}

/* Sums over the spaces. */
static inline uint64_t frames_in(const struct core *c, enum kvd_frame_state state)
{
	uint64_t n = 0;
	for (uint32_t i = 0; i < c->n_spaces; i++)
		n += c->spaces[i].frames[state];
	return n;
}
static inline uint64_t frame_bytes_in(const struct core *c, enum kvd_frame_state state)
{
	uint64_t bytes = 0;
	for (uint32_t i = 0; i < c->n_spaces; i++)
		bytes += c->spaces[i].frames[state] * c->spaces[i].page_bytes;
	return bytes;
}

static inline void mask_set(const struct core *c, const uint64_t *mask, uint32_t bit, bool on)
{
	uint64_t word = mask[bit / 64], one = 1ull << bit % 64;
	SET(mask[bit / 64], on ? word | one : word & ~one);
}
static inline uint32_t mask_next(const uint64_t *mask,
				 uint32_t from) /* lowest bit >= from; GROUPS_MAX: none */
{
	for (; from < GROUPS_MAX; from = (from / 64 + 1) * 64) {
		uint64_t rest = mask[from / 64] >> from % 64;
		if (rest)
			return from + (uint32_t)__builtin_ctzll(rest);
	}
	return GROUPS_MAX;
}

#include "kvd/core/lists.h"

#endif
