/* core.h - the memory core: (state, event, time) -> (state, actions).
 *
 * The core decides everything about extents, frames, pages, prefixes, claims, sequences and
 * admission, and does nothing itself: no system call, no clock, no allocation, no page byte, no
 * socket.  All its memory is one block, the book, addressed by offsets; every store to it goes
 * through SET() of book.h.  The shell (kvd/) turns sockets, rings, timers and mover replies into
 * events and turns actions into bytes, fds and messages.  The simulator is another shell.
 *
 * Use:  core_step(core, &event, now); while (core_next_action(core, &action)) perform(&action);
 * Performing must be idempotent: an action is performed again if the process dies while it does.
 * Actions come out in the order in which they must be performed.  The action queue is bounded by
 * construction; a caller drains it after every event.
 *
 * One thread only: the loop's. */
#ifndef KVD_CORE_H
#define KVD_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kvd/admin.h"
#include "kvd/geometry.h"
#include "kvd/proto.h"
#include "kvd/shm.h"

#define CORE_ENGINES_MAX 63u       /* one bit each of a 64-bit mask; bit 63 unused */
#define CORE_NONE 0xffffffffu
#define CORE_WEIGHT 100u           /* of a tenant that says nothing */
#define CORE_WEIGHT_MAX 10000u
#define CORE_PLAN_ROWS 256u        /* candidates that a plan ranks at once */
#define CORE_WINDOW_MIN_USEC 500000u /* of a trigger */
#define CORE_WINDOW_MAX_USEC 10000000u
#define CORE_TRIGGERS_MAX 64u      /* pressure triggers at once */

enum core_sharing { CORE_PRIVATE = 0, CORE_MERGE = 1, CORE_REUSE = 2 };

/* What a tenant may have.  Measured in charge: what it holds, what is cached for it, what is reserved
 * for it, as if nothing were shared.  Every field 0: no floor, no limit, weight 100. */
struct core_quota {
	uint64_t min_bytes;            /* never taken for others */
	uint64_t low_bytes;            /* taken last; at least min */
	uint64_t high_bytes;           /* above it: its own cache goes, its OPENs wait; always below max;
					* 0: max - max / 16 */
	uint64_t max_bytes;            /* above it: refused; 0: no limit */
	uint64_t insert_bytes_per_sec; /* of new pages; 0: no limit */
	uint32_t weight;               /* share of what nobody's min guards, 1..10000; 0: 100 */
	uint32_t max_sequences;        /* open at once, running or not; 0: no limit */
};

struct core_config {
	uint64_t pool_bytes;           /* rounded down to whole extents by core_init */
	uint64_t extent_bytes;         /* power of two, 256 KiB .. 1 GiB */
	uint32_t page_bytes_min;       /* power of two; fixes slot_bits; 8 KiB unless configured */
	uint32_t tenants_max;          /* tenant (and domain) records */
	uint32_t seqs_max;             /* sequences of all engines together */
	uint32_t holds_max;            /* table slots (sequence x page) of all engines together */
	uint64_t hash_key[2];          /* random: keys the prefix index against flooding */
	uint32_t promise_usec;         /* a promiser that seals nothing for this long is passed over */
	uint64_t spill_bytes;          /* size of the spill file, rounded down to whole extents; 0: no tier */
	uint64_t spill_key[4];         /* random, for the mover alone: kept here so that it outlives the shell */
	uint64_t shell_bytes;          /* of the book, for the shell's own facts (core_shell) */
	uint64_t token_key[2];         /* random, in no record: keys core_tokens_word() */
	uint32_t tokens_mapped;        /* a replay: tokens[0..1] of each page are that word itself */
	uint32_t pad_mapped;
	uint64_t merge_usec;           /* equal pages merge one to two such periods after the later was sealed,
					* in rounds at whole multiples of it; 0: at once */
};

/* ---- events ---- */
enum core_event_type {
	CORE_EV_TENANT = 1,     /* define or update a tenant: name, domain, sharing, quota */
	CORE_EV_ATTACH,         /* engine wants in */
	CORE_EV_HANGUP,         /* engine's socket closed: its leases return, frames go to quarantine */
	CORE_EV_QUIET,          /* that engine's process is gone and the device agrees: end quarantine */
	CORE_EV_DRAIN,          /* engine: take no new sequences */
	CORE_EV_SUBMIT,         /* one submission of an engine */
	CORE_EV_STAMP,          /* after performing actions: step_begun of every engine, read past a fence */
	CORE_EV_DONE,           /* step_done of every engine */
	CORE_EV_MOVED,          /* the mover finished a job */
	CORE_EV_POPULATED,      /* an extent has memory and is zero */
	CORE_EV_TICK,           /* time passed (promise deadlines, background work) */
	CORE_EV_TRIGGER,        /* set or remove a pressure trigger */
	CORE_EV_PIN,            /* an administrator: keep a prefix whatever the pressure */
	CORE_EV_UNPIN,
	CORE_EV_PUBLISH,        /* every domain may take the prefix */
	CORE_EV_UNPUBLISH,
	CORE_EV_EVICT,          /* drop cached claims: of a prefix, of a tenant, or the plan's first */
	CORE_EV_SPILL_GONE,     /* the spill file is another, empty one: whatever was in it is lost */
};

struct core_event {
	enum core_event_type type;
	uint32_t engine;               /* ATTACH: CORE_NONE; HANGUP, QUIET, DRAIN, SUBMIT: engine number */
	union {
		struct {               /* TENANT */
			char name[KVD_NAME_MAX], domain[KVD_NAME_MAX];
			enum core_sharing sharing;
			struct core_quota quota;
		} tenant;
		struct {               /* ATTACH; space identity is everything but name, max_* */
			char name[KVD_NAME_MAX], model[KVD_NAME_MAX], numerics[KVD_NAME_MAX];
			uint8_t fingerprint[16];
			uint32_t layout, kv_format, n_planes, block_bytes, max_seqs, max_pages;
		} attach;
		struct {               /* SUBMIT */
			struct kvd_sqe sqe;    /* the shell's private copy */
			uint32_t tenant; /* OPEN: tenant number the handle stands for; the shell
					    resolved it; CORE_NONE: a stale handle */
			const int32_t *tokens; /* copy of the slot's token row: OPEN, RESUME: [0, n_tokens);
			                        * SEAL: tokens of the pages named, from page * 16 */
			uint32_t n_tokens;     /* tokens in that copy */
		} submit;
		struct {               /* STAMP, DONE */
			uint64_t begun[CORE_ENGINES_MAX]; /* STAMP */
			uint64_t done[CORE_ENGINES_MAX];  /* both; for a detached engine: UINT64_MAX */
		} epoch;
		struct {               /* MOVED */
			uint32_t job;          /* number from the action */
			bool ok;               /* false: the mover died or failed; treat targets as garbage */
			bool differs;          /* COMPARE part: bytes of source and peer differ.  SPILL and
						* FETCH, not ok: the file is to blame (bytes that are not
						* those written, I/O error, no space), not the mover */
		} moved;
		struct { uint32_t extent; } populated;
		struct {               /* TRIGGER: CORE_ACT_PRESSURE when the stall within any window of
					* window_usec reaches threshold_usec, at most once in a window */
			uint32_t number;       /* the shell's choice, below CORE_TRIGGERS_MAX; replaces
						* the one there */
			uint32_t tenant;       /* CORE_NONE: the whole pool */
			bool full;             /* stall of all its sequences; else of at least one */
			uint64_t threshold_usec; /* 0: remove */
			uint64_t window_usec;  /* CORE_WINDOW_MIN_USEC .. MAX, at least the threshold; else the
						* event does nothing */
		} trigger;
		struct {               /* PIN ... EVICT */
			uint64_t prefix;       /* core_prefix_id(); 0: none (EVICT only) */
			uint32_t tenant;       /* EVICT: of this tenant; CORE_NONE: of anybody */
			uint64_t bytes;        /* EVICT: until so many are on their way; 0: all */
		} steer;
	};
};

/* ---- actions ---- */
enum core_action_type {
	CORE_ACT_ATTACHED = 1,  /* tell the engine its number and geometry; or status != OK: refuse */
	CORE_ACT_COMPLETE,      /* publish a completion or an event to an engine's ring */
	CORE_ACT_ENTRY,         /* store a table entry: engine, slot, page index, entry (0 = none) */
	CORE_ACT_MAP,           /* send EXTENT_MAP */
	CORE_ACT_UNMAP,         /* send EXTENT_UNMAP */
	CORE_ACT_MOVE,          /* give the mover a job */
	CORE_ACT_POPULATE,      /* give an extent memory (create the memfd, let the mover touch it) */
	CORE_ACT_STAMP,         /* frames wait for a stamp: after all actions, fence, read begun, EV_STAMP */
	CORE_ACT_ALARM,         /* log: merge mismatch and the like */
	CORE_ACT_PRESSURE,      /* a trigger fired: tell who waits for it */
	CORE_ACT_STEERED,       /* what came of PIN ... EVICT; always the last action of such an event */
};
enum core_move { CORE_MOVE_SCRUB = 1, CORE_MOVE_COPY, CORE_MOVE_COMPARE_COPY, CORE_MOVE_SCRUB_EXTENT,
	CORE_MOVE_SPILL, CORE_MOVE_FETCH };

/* Where a page lies in the spill file, and what is sealed into its checksum beside its bytes: a slot
 * that was torn, is stale or another page's can only fail. */
struct core_spill_place {
	uint64_t offset;               /* bytes from the start of the file; whole slots of 4 KiB */
	uint64_t generation;           /* of this write; never twice in a boot, so it may be a nonce */
	uint64_t identity;             /* of the page's content in this book */
};
#define CORE_SPILL_TRAILER 64u     /* bytes behind a page in its slot: tag and what it belongs to */
#define CORE_SPILL_ALIGN 4096u

struct core_action {
	enum core_action_type type;
	uint32_t engine;
	union {
		struct { uint32_t status, n_frames, need, have; uint64_t plane_bytes; } attached;
		struct kvd_cqe cqe;
		struct { uint32_t slot, page, entry; } entry;
		struct { uint32_t extent; bool writable; } map;
		struct {
			uint32_t job;
			enum core_move kind;
			/* SCRUB: zero target.  COPY: source -> target.  COMPARE_COPY: compare source and
			 * peer; if equal copy source -> target (target == source: compare only, write
			 * nothing).  SCRUB_EXTENT: zero extent `target`.  SPILL: source -> place.
			 * FETCH: place -> target.
			 * Frames of one job share one geometry, given here. */
			uint32_t source, peer, target;
			struct kvd_geometry geometry;
			struct core_spill_place place;
		} move;
		struct { uint32_t extent; } populate;
		struct { char text[160]; } alarm;
		struct { uint32_t trigger, tenant; bool full; } pressure;
		struct {
			uint32_t status;       /* KVD_S_*; LIMIT: need and have are pages that pins hold */
			uint32_t pages, need, have;
			uint64_t bytes;
			bool more;             /* EVICT stopped for breath: send it again */
		} steered;
	};
};

struct core;

/* Bytes of the book for a configuration; most of it is touched only when used.
 * Returns 0 if the configuration is impossible. */
size_t core_book_bytes(const struct core_config *config);

/* Make an empty core in zeroed memory of core_book_bytes(); returns it (== book), NULL if impossible. */
struct core *core_init(void *book, const struct core_config *config);

/* Go on with the book that a killed process left in `book` (`bytes` mapped, writable).
 * expect  what this process is configured with; its hash_key is not compared; NULL: anything
 * why     CORE_WHY_MAX bytes; the reason where NULL is returned: another layout version, another
 *         configuration, or the checker's first problem.  Then the book is garbage: start cold.
 * The last event or action that was not committed is undone, byte for byte.  Then, in this order:
 * ask core_job_in_flight() and core_populate_in_flight() what the dead process had handed out; drain
 * the action queue (an action may be performed a second time); report each such job as failed
 * (MOVED, ok = false) and populate each such extent again; answer a pending stamp; HANGUP for
 * engines that are gone.  No engine may be reported as past a step before it looks at the tables
 * that this process writes. */
#define CORE_WHY_MAX 200
struct core *core_adopt(void *book, size_t bytes, const struct core_config *expect, char *why);
uint64_t core_layout_version(void);
/* ---- records (canon.c) ---- */
#define CORE_CANON_BLOCK 4096u
typedef void (*core_canon_map)(void *arg, const int32_t tokens[KVD_PAGE_TOKENS], int32_t ret[KVD_PAGE_TOKENS]);
/* One block of the book, 8-byte aligned, as a record or a hash of it has it: without what does not follow from the
 * events.  map: what stands for a page's tokens (NULL: zeroes).  False: nothing but zeroes, or left out whole. */
bool core_canon_block(const struct core *core, uint64_t offset, core_canon_map map, void *arg, uint8_t *block);
uint64_t core_keyed_hash(const uint64_t key[2], const int32_t tokens[KVD_PAGE_TOKENS]);
/* A book put together from such blocks: what they leave out.  core_adopt() comes next. */
void core_canon_load(void *book, const struct core_config *config);
/* The word that page identities are made of. */
uint64_t core_tokens_word(const struct core *core, const int32_t tokens[KVD_PAGE_TOKENS]);
/* *cursor: 0 at first.  False: no more. */
bool core_job_in_flight(const struct core *core, uint32_t *cursor, uint32_t *ret_job);
bool core_populate_in_flight(const struct core *core, uint32_t *cursor, uint32_t *ret_extent);
bool core_stamp_pending(const struct core *core);
/* The table entries of an engine's slot, from page 0: their number, at most max. */
uint32_t core_read_row(const struct core *core, uint32_t engine, uint32_t slot, uint32_t *ret, uint32_t max);

/* core_step() and the performing of an action are transactions: see journal.h.  The shell's region is
 * zeroed at first; core_shell_set() between core_step()s belongs to the next core_step(), while an
 * action is performed to that action; core_commit() ends a transaction that has neither. */
const void *core_shell(const struct core *core);
void core_shell_set(struct core *core, const void *target, const void *source, size_t bytes);
void core_commit(struct core *core);
/* Memory of the book that a large transaction has touched and nobody needs: the shell may punch it out. */
bool core_journal_slack(struct core *core, size_t *ret_offset, size_t *ret_bytes);

void core_step(struct core *core, const struct core_event *event, uint64_t now_usec);
bool core_next_action(struct core *core, struct core_action *ret);

/* Earliest time at which the core wants a CORE_EV_TICK; UINT64_MAX: none.  And whether frames wait
 * for step counters (then the shell polls DONE). */
uint64_t core_next_tick_usec(const struct core *core);
bool core_waits_for_steps(const struct core *core);
const struct core_config *core_config_of(const struct core *core);


/* Number of the tenant of that name, CORE_NONE if there is none. */
uint32_t core_tenant_find(const struct core *core, const char *name);
/* The name behind a number; false: no tenant has it.  Numbers are given from 0 and never again. */
bool core_tenant_name(const struct core *core, uint32_t tenant, char ret[KVD_NAME_MAX]);

/* ---- reading (admin, fsck, tests); rows in ascending order of number ----
 * tenant = CORE_NONE: everything; else only that tenant's rows, with what depends on others zeroed. */
void core_read_status(const struct core *core, uint64_t now_usec, struct kvd_row_status *ret);
/* Each fills up to max rows starting at *cursor (0 at first), advances it, returns the number filled;
 * 0 = end. */
uint32_t core_read_engines(const struct core *core, uint32_t *cursor, struct kvd_row_engine *ret, uint32_t max);
uint32_t core_read_tenants(const struct core *core, uint32_t tenant, uint32_t *cursor,
			   struct kvd_row_tenant *ret, uint32_t max);
uint32_t core_read_sequences(const struct core *core, uint32_t tenant, uint64_t now_usec, uint32_t *cursor,
			     struct kvd_row_sequence *ret, uint32_t max);
uint32_t core_read_pages(const struct core *core, uint32_t tenant, uint64_t now_usec, uint32_t *cursor,
			 struct kvd_row_page *ret, uint32_t max);
uint32_t core_read_extents(const struct core *core, uint32_t *cursor, struct kvd_row_extent *ret, uint32_t max);
/* First the whole pool (only for tenant CORE_NONE), then the tenants. */
uint32_t core_read_psi(const struct core *core, uint32_t tenant, uint64_t now_usec, uint32_t *cursor,
		       struct kvd_row_psi *ret, uint32_t max);
/* The ranked plan: what goes first, best first; at most CORE_PLAN_ROWS.  owner: only that tenant's claims
 * (CORE_NONE: all).  tenant: who asks; a tenant sees its own claims in the order in which they go, no more. */
uint32_t core_read_plan(const struct core *core, uint32_t tenant, uint32_t owner, uint64_t now_usec,
			uint32_t *cursor, struct kvd_row_plan *ret, uint32_t max);
/* Who evicted whose bytes: one row for each (victim, by, reason).  A tenant sees itself as victim, the others
 * without names and summed up. */
uint32_t core_read_evictions(const struct core *core, uint32_t tenant, uint64_t now_usec, uint32_t *cursor,
			     struct kvd_row_eviction *ret, uint32_t max);
/* The last evictions, newest first, one row a page; a tenant sees its own. */
uint32_t core_read_evicted(const struct core *core, uint32_t tenant, uint64_t now_usec, uint32_t *cursor,
			   struct kvd_row_evicted *ret, uint32_t max);
/* Why is it (not) next to go?  One row for each claim on a prefix (its number in kvd_row_plan.prefix), on the
 * page in a frame, or for a tenant's next to go; 0: no such thing, or not the asker's. */
enum core_explain { CORE_EXPLAIN_PREFIX = 1, CORE_EXPLAIN_FRAME, CORE_EXPLAIN_TENANT };
uint32_t core_read_explain(const struct core *core, uint32_t tenant, enum core_explain kind, uint64_t number,
			   uint64_t now_usec, uint32_t *cursor, struct kvd_row_plan *ret, uint32_t max);

/* Pages of a space that were sealed and whose round has come, equal to another or not, since it was made: the most
 * that merging can have had to do.  False: no more spaces; *cursor is 0 at first, then space + 1. */
#define CORE_SPACES_MAX 128u
bool core_read_sealed(const struct core *core, uint32_t *cursor, uint64_t *ret_due,
		      struct kvd_geometry *ret_geometry);

/* The number of the prefix that ends with this node: a keyed hash of its tokens. */
uint64_t core_prefix_id(const struct core *core, uint32_t node);
/* Administrators only; the walk is over moving things where it takes several calls.  The end: no row, and *cursor
 * stays where it is. */
uint32_t core_read_prefixes(const struct core *core, uint64_t now_usec, uint32_t *cursor,
			    struct kvd_row_prefix *ret, uint32_t max);
/* What a CORE_EV_EVICT would drop, in its order, one row a claim; changes nothing.  Only between events. */
uint32_t core_read_evict(struct core *core, const struct core_event *event, uint64_t now_usec, uint32_t *cursor,
			 struct kvd_row_plan *ret, uint32_t max);
/* Tenants, then engines (everything), or the one tenant. */
uint32_t core_read_smaps(const struct core *core, uint32_t tenant, uint32_t *cursor, struct kvd_row_smaps *ret,
			 uint32_t max);

/* Check every invariant of design.md section 12 that holds between events.
 * report   called once per problem with one sentence; may be NULL
 * Returns  the number of problems; *ret_pages = pages checked. */
uint32_t core_fsck(const struct core *core, void (*report)(void *arg, const char *problem), void *arg,
		   uint64_t *ret_pages);

/* The same invariants, a slice of them: whole extents and nodes from where the last call stopped, about `budget`
 * records, and the sums that take no walk.  Bounded, so that a serving daemon can afford it every second; what
 * only the whole shows (counts over all records, lists of the pool) is core_fsck()'s.
 * cursor   zero at first
 * Returns  the number of problems; *ret_records = records looked at. */
struct core_sample {
	uint32_t extent, node, swept,
		passed_over; /* whole sweeps done; nodes too large for a slice */
};
uint32_t core_fsck_sample(const struct core *core, struct core_sample *cursor, uint32_t budget,
			  void (*report)(void *arg, const char *problem), void *arg, uint32_t *ret_records);

#endif
