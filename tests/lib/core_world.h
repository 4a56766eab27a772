/* core_world.h - a small deterministic world around the memory core, for its tests.
 *
 * It is another shell: it drives core_step(), performs the actions, and models what the core cannot
 * see.  A frame's bytes are one tag: 0 = zero, else a hash of (space, tokens up to the page's end).
 * Fake engines have step counters, copies of their table rows while a step runs, and a set of
 * mapped extents; a fake mover performs jobs late, out of order, and may fail.
 *
 * The oracle stands outside the core.  World_fail() is called when a sealed entry names other bytes
 * than its tokens', when an entry lies in an extent that its engine has not mapped, when a fresh
 * page is not zero, or when a frame is written, zeroed or reused while an unfinished step still
 * names it. */
#ifndef KVD_TEST_CORE_WORLD_H
#define KVD_TEST_CORE_WORLD_H

#include "kvd/core/core.h"

enum { WORLD_ENGINES = 8, WORLD_SLOTS = 16, WORLD_SLOTS_MAX = 64 /* of an engine that asks for more */,
	WORLD_PAGES = 32, WORLD_TOKENS = WORLD_PAGES * 16,
	WORLD_QUEUE = 4096, WORLD_JOBS = 2048, WORLD_REDO = 64, /* and one that was interrupted */
	WORLD_TOUCHED = WORLD_ENGINES * WORLD_SLOTS * WORLD_PAGES };

enum world_slot_state { SLOT_IDLE = 0, SLOT_WAITING, SLOT_READY, SLOT_PREEMPTED, SLOT_PARKED };

struct world_slot {
	enum world_slot_state state;
	uint16_t verb;                 /* verb whose completion is awaited, 0: none */
	uint32_t tenant, n_prompt, n_target;
	uint32_t n_done;               /* tokens computed */
	uint32_t n_sealed, n_pages;
	uint32_t chunk;                /* tokens the next step computes */
	int32_t tokens[WORLD_TOKENS];
	uint32_t table[WORLD_PAGES];   /* as the engine sees it */
	uint32_t fresh[WORLD_PAGES];   /* as a new kvd publishes it, until the engine switches to it */
	uint32_t step[WORLD_PAGES];    /* the copy an unfinished step uses */
	uint32_t step_sealed, step_chunk, step_from;
	bool step_valid;               /* nothing has happened to the slot since the step began */
	uint32_t finished, last_status, last_cached;
	uint64_t fork_data;            /* user_data of the FORK it comes from */
	bool hold;                     /* its program stands still */
	bool looked;                   /* the index was asked for the page that comes next */
	uint32_t row_high;             /* entries from here on were never set */
	uint32_t n_hashes;             /* of hashes, valid ones */
	uint64_t hashes[WORLD_PAGES];  /* of the tokens before each page's end */
};

struct world_engine {
	bool attached;                 /* from ATTACHED to HANGUP */
	uint64_t attached_event;       /* the event that it was told so in (world_shell.events) */
	bool deaf;                     /* its process is dead, and kvd has not noticed yet */
	bool behind;                   /* it still reads the tables of a kvd that has died */
	uint32_t behind_tail, behind_msgs; /* how far that kvd's completions and messages go */
	bool alive;                    /* until QUIET: the process may still run its step */
	uint32_t number, space_tag, max_seqs, max_pages, n_frames;
	uint64_t begun, done;
	bool stepping;
	uint8_t *mapped;               /* per extent: 0, 1 mapped, 2 writable */
	struct world_slot slot[WORLD_SLOTS_MAX];
	struct kvd_cqe queue[WORLD_QUEUE];
	uint32_t head, tail;
	struct { uint32_t extent; bool map, writable; } extent_msg[WORLD_QUEUE];
	uint32_t msg_head, msg_tail;
	uint64_t completions;
};

/* What somebody outside sees; world.watch is told of each in order.  Engines, slots, frames, extents
 * by number; sqe, cqe and tokens only while the call lasts. */
enum world_record_kind {
	SEEN_TENANT = 1,               /* a: number; tenant */
	SEEN_ATTACH,                   /* slot: max_seqs, a: space tag, b: frames of an extent,
	                                * c: page bytes */
	SEEN_HANGUP, SEEN_QUIET,
	SEEN_SUBMIT,                   /* sqe; tokens as kvd got them, a: number of these, b: verb */
	SEEN_COMPLETE,                 /* cqe, as published; slot, a: verb, b: status */
	SEEN_ENTRY,                    /* slot, a: page, b: entry */
	SEEN_MAPPED,                   /* a: extent, b: 0 no, 1 read-only, 2 writable */
	SEEN_STEP,                     /* b: 1 begins, 0 ends */
	SEEN_WRITE,                    /* a running step writes: slot, a: frame, b: page */
	SEEN_MOVED,                    /* the mover did a job; slot: 0 badly, 1 well, 2 the bytes differ;
	                                * a: enum core_move, b: source, c: target; on disk: the block */
	SEEN_TIME,                     /* a: microseconds that passed */
	SEEN_ADOPTED,                  /* another kvd goes on with the book: its tables are new ones */
	SEEN_SWITCHED,                 /* the engine reads these now */
	SEEN_PUBLISHED,                /* from here on some prefix may be */
	SEEN_DISK_GONE,                /* another, empty spill file */
};
struct world_record {
	enum world_record_kind kind;
	uint32_t engine, slot, a, b, c;
	const struct kvd_sqe *sqe;
	const struct kvd_cqe *cqe;
	const int32_t *tokens;
	const struct core_event *tenant;
};

struct world_block { uint64_t generation, identity, tag; bool faulty; };

/* What this shell keeps in the book (core_shell), committed with the events and actions it is about. */
struct world_shell {
	uint64_t events;               /* taken by core_step() */
	uint64_t now;                  /* the latest that it was told; the clock may have been set back since */
	uint32_t comp_tail[WORLD_ENGINES], msg_tail[WORLD_ENGINES]; /* published, sent */
};

struct world {
	struct core *core;
	struct core_config config;
	uint64_t now, seed, rng;
	void (*watch)(void *arg, const struct world_record *record);
	void *watch_arg;
	uint16_t *viewers;             /* per frame: rows of unfinished steps that name it */
	struct { uint8_t engine, slot, page; } touched[WORLD_TOUCHED]; /* entries of this event */
	uint32_t n_touched;
	uint64_t *tags;                /* per frame */
	uint32_t slot_bits, n_extents, n_frames_max;
	struct world_engine *engine;   /* WORLD_ENGINES, by engine number */
	struct core_action jobs[WORLD_JOBS];
	uint32_t n_jobs;
	uint32_t hold_moves;           /* bit per enum core_move: world_settle() leaves these jobs alone */
	uint32_t populates[WORLD_QUEUE], n_populates;
	bool stamp, attached_seen;
	struct core_action attached, steered;
	struct { uint32_t space_tag, page_bytes, max_seqs, max_pages; } attaching;
	uint64_t events;               /* begun; compare world_shell.events */
	bool adopting;                 /* the new kvd performs what was queued */
	bool down;                     /* kvd is dead: events wait in `redo`, or are lost with it */
	struct core_event redo[WORLD_REDO + 1];
	uint32_t n_redo;
	/* Instead of world_run(), if set: a simulator may kill kvd in the middle of it. */
	void (*step)(struct world *w, const struct core_event *event);
	uint64_t ops, finished, preempted, alarms, mover_fails, entries;
	uint32_t fail_percent;         /* of mover jobs */
	struct world_block *disk;      /* the spill file, NULL: none; see core_world_disk.c */
	uint32_t n_blocks, disk_short_percent, disk_write_error_percent, disk_read_error_percent, disk_torn_percent;
	uint64_t *generations;         /* the tag that was written under each, 0: none */
	uint64_t generations_max, disk_writes, disk_reads, disk_faults;
	uint32_t last_job;             /* the one answered last */
	uint64_t lie_frame_plus_1;     /* a frame whose bytes were planted to differ */
	uint64_t pressures;            /* triggers that fired, one bit each */
	uint32_t fsck_every, fsck_count;
};

struct world *world_new(uint64_t pool_bytes, uint64_t extent_bytes, uint64_t seed);
/* With a spill file of that size. */
struct world *world_new_spill(uint64_t pool_bytes, uint64_t extent_bytes, uint64_t spill_bytes, uint64_t seed);
struct world *world_make(const struct core_config *config, uint64_t seed);
void world_free(struct world *w);
uint32_t world_random(struct world *w, uint32_t below);
void world_say(struct world *w, const char *text);
_Noreturn void world_fail(struct world *w, const char *what, uint64_t a, uint64_t b);

void world_step(struct world *w, const struct core_event *event);  /* core_step, actions, checks */
void world_run(struct world *w, const struct core_event *event);
void world_perform(struct world *w, const struct core_action *action);
bool world_said_by_peer(const struct core_event *event);           /* it outlives kvd */
bool world_behind(const struct world *w);                          /* an engine is */
void world_tenant(struct world *w, const char *name, const char *domain, enum core_sharing sharing,
		  uint64_t max);
/* Define it or change its quota. */
void world_quota(struct world *w, const char *name, const char *domain, enum core_sharing sharing,
		 const struct core_quota *quota);
/* Attach; returns the engine's number, or CORE_NONE with the reason in w->attached. */
uint32_t world_attach(struct world *w, const char *name, uint32_t space_tag, uint32_t n_planes,
		      uint32_t block_bytes, uint32_t max_seqs, uint32_t max_pages);
void world_hangup(struct world *w, uint32_t engine);
void world_quiet(struct world *w, uint32_t engine);
void world_submit(struct world *w, uint32_t engine, struct kvd_sqe sqe);
void world_tick(struct world *w, uint64_t usec);

/* A slot's program: open with these tokens, compute to n_target, close. */
void world_open(struct world *w, uint32_t engine, uint32_t slot, uint32_t tenant,
		const int32_t *tokens, uint32_t n_prompt, uint32_t n_target, uint16_t flags);
void world_advance(struct world *w, uint32_t engine,
		   uint32_t slot); /* do the slot's next thing, if any */
/* Start slot `target` as a copy of slot's first tokens; `salt` makes what it says afterwards. */
void world_fork(struct world *w, uint32_t engine, uint32_t slot, uint32_t target, uint32_t salt);
void world_truncate(struct world *w, uint32_t engine, uint32_t slot, uint32_t n_tokens);
/* PARK, CLOSE: a verb that only names the slot. */
void world_plain(struct world *w, uint32_t engine, uint32_t slot, enum kvd_verb verb);
bool world_complete_one(struct world *w, uint32_t engine);           /* consume one completion */
void world_step_begin(struct world *w, uint32_t engine);
void world_step_end(struct world *w, uint32_t engine);
bool world_poll(struct world *w, uint32_t engine);                   /* one EXTENT message */
/* core_world_disk.c: the mover's half of a spill or fetch job; fills ok and differs of the event. */
void world_disk_move(struct world *w, const struct core_action *a, bool ok, struct core_event *ret);
void world_disk_free(struct world *w);
void world_disk_corrupt(struct world *w, uint32_t block); /* a bit flips, a sector is lost */
bool world_mover(struct world *w, uint32_t index, bool ok);          /* perform job `index` */
/* The mover does the job and kvd does not hear of it. */
void world_mover_bytes(struct world *w, uint32_t index, bool ok, struct core_event *ret);
bool world_populate(struct world *w);
void world_switch(struct world *w, uint32_t engine);                 /* to the new kvd's tables */
void world_done(struct world *w);                                    /* EV_DONE */
void world_check(struct world *w); /* the oracle over all tables */
void world_check_row(struct world *w, uint32_t engine, uint32_t slot, uint32_t from, uint32_t to);
void world_fsck(struct world *w);
/* Everything but new load, until nothing more happens; programs run on if `advance`. */
void world_settle(struct world *w, bool advance);
uint64_t world_tag(uint32_t space_tag, const int32_t *tokens, uint32_t n_tokens);
uint64_t world_slot_tag(uint32_t space_tag, struct world_slot *slot, uint32_t n_tokens);
void world_seen(struct world *w, const struct world_record *record);
struct world_slot *world_slot(struct world *w, uint32_t engine, uint32_t slot);

#endif
