/* shm.h - the memory an engine shares with kvd.
 *
 * Two anonymous memfds per engine, made and sealed (F_SEAL_SHRINK|GROW|SEAL) by kvd, mode 0600:
 *
 *   submission segment   written by the engine, read by kvd.  kvd trusts nothing in it: it copies an
 *                        entry once and validates the copy.
 *   completion segment   written by kvd (F_SEAL_FUTURE_WRITE), mapped read-only by the engine.
 *
 * When kvd dies and another takes over, the submission segment stays; the completion segment of the
 * dead kvd is frozen as it was, and the new one (ADOPTED, proto.h) goes on at the same indexes: entries
 * that the engine has not consumed are in it, and every table row.
 *
 * One writer per word.  All numbers little-endian; indexes are free-running u32, masked on use.
 * Offsets of the parts are in struct kvd_msg_attached (proto.h).
 *
 *   submission: [kvd_sub_header][kvd_sqe x sq_entries][tokens i32 (max_seqs, max_pages * 16)]
 *   completion: [kvd_comp_header][kvd_cqe x cq_entries][tables u32 (max_seqs, max_pages)]
 *
 * The step counters are how kvd knows that an engine no longer looks at a frame (design.md section 4,
 * "retire by epoch"): at the start of step n the engine stores step_begun = n, executes a full fence,
 * copies the table rows it needs and uses only the copy; when every write and read of the step is
 * complete it stores step_done = n.  kvd stores the new entry, executes a full fence, reads
 * step_begun, and gives the old frame away only when step_done has reached that value. */
#ifndef KVD_SHM_H
#define KVD_SHM_H

#include <stdint.h>

#define KVD_SHM_VERSION 1u

/* A sleeper's flag: how the other side is to wake it after storing an index.  Whoever does not know a value sends
 * the byte, which always does. */
#define KVD_BELL_NONE 0u           /* it is awake, and looks before it sleeps */
#define KVD_BELL_BYTE 1u           /* a doorbell byte on the control socket */
#define KVD_BELL_FUTEX 2u          /* FUTEX_WAKE of one waiter on the index: sq_tail, cq_tail */

struct kvd_sub_header {
	uint32_t sq_tail;          /* engine: submissions published; store-release */
	uint32_t cq_head;          /* engine: completions consumed; store-release */
	uint32_t engine_sleeps;    /* engine: KVD_BELL_*, how it wants to be woken for new completions */
	uint32_t comp_generation;  /* engine: completion segment it uses; 0, then as ADOPTED said; store-release */
	uint64_t step_begun;       /* engine: number of the step last begun, counts from 1 */
	uint64_t step_done;        /* engine: number of the step last completed; == begun means idle */
	uint8_t pad1[32];
};

struct kvd_comp_header {
	uint32_t sq_head;          /* kvd: submissions consumed; store-release */
	uint32_t cq_tail;          /* kvd: completions published; store-release */
	uint32_t kvd_sleeps;       /* kvd: KVD_BELL_*, how it wants to be woken for new submissions */
	uint32_t pad0;
	uint64_t pad[6];
};

/* Verbs (engine -> kvd).  Each submission gets exactly one completion with the same verb and
 * user_data; GROW and OPEN may be answered late (see each). */
enum kvd_verb {
	/* Start a sequence in a free slot.  tenant = handle of struct kvd_msg_client_new, n_tokens =
	 * prompt tokens, in the slot's token row.  kvd admits it (reserves the prompt's pages plus one),
	 * puts what is cached into the table and answers.  Late while the pool has no room. */
	KVD_SEQ_OPEN = 1,
	/* Ask for pages.  page = pages complete so far (all tokens of pages below it are computed), want =
	 * total pages wanted.  With KVD_GROW_LOOKUP kvd first takes sealed pages of the sequence's
	 * prompt from the prefix index, from page on, and answers late while another sequence of the
	 * same domain is computing the next page right now (single flight) or a copy is under way.
	 * Completion: cached = pages [0, cached) hold finished K and V; pages = entries in the table. */
	KVD_SEQ_GROW = 2,
	/* Pages [page, page + count) are full and their K and V complete; tokens in the token row. */
	KVD_SEQ_SEAL = 3,
	/* Start slot `other` as a copy of slot's first n_tokens: sealed pages shared, the last copied
	 * (late).  Status PREEMPTED: `other` exists but there was no room; RESUME it. */
	KVD_SEQ_FORK = 4,
	/* Forget all tokens from n_tokens on.  A sealed page cut in the middle is replaced by an open copy. */
	KVD_SEQ_TRUNCATE = 5,
	/* End the sequence; the slot is free when the completion comes. */
	KVD_SEQ_CLOSE = 6,
	/* Give up all holds but keep the slot; sealed pages stay cached as long as memory allows. */
	KVD_SEQ_PARK = 7,
	/* After PARK or KVD_EV_PREEMPT: like OPEN, for the same slot, with n_tokens known tokens. */
	KVD_SEQ_RESUME = 8,
	/* The engine has mapped (count = 1) or unmapped (count = 0) extent `other`. */
	KVD_EXTENT_ACK = 9,
};
#define KVD_GROW_LOOKUP 1u         /* flags of KVD_SEQ_GROW */
#define KVD_OPEN_PRIVATE 1u        /* flags of OPEN/RESUME: neither look up nor index this sequence */

/* Events (kvd -> engine) use the completion ring with verb >= 64 and user_data 0. */
enum kvd_event {
	KVD_EV_PREEMPT = 64,       /* slot lost its pages; its table row is empty; RESUME it when it may run */
	KVD_EV_DRAIN = 65,         /* take no new sequences */
};

struct kvd_sqe {
	uint16_t verb;             /* enum kvd_verb */
	uint16_t flags;
	uint32_t slot;             /* 0 .. max_seqs-1 */
	uint64_t user_data;        /* returned in the completion */
	uint32_t tenant;           /* OPEN: client handle from CLIENT_NEW */
	uint32_t n_tokens;         /* OPEN, RESUME, FORK, TRUNCATE: tokens */
	uint32_t page;             /* GROW, SEAL: page index */
	uint32_t count;            /* SEAL: pages; EXTENT_ACK: 1 mapped, 0 unmapped */
	uint32_t want;             /* GROW: total pages wanted */
	uint32_t other;            /* FORK: target slot; EXTENT_ACK: extent */
	uint32_t pad[6];
};

struct kvd_cqe {
	uint16_t verb;             /* enum kvd_verb or enum kvd_event */
	uint16_t status;           /* KVD_S_* of status.def */
	uint32_t slot;
	uint64_t user_data;
	uint32_t cached;           /* OPEN, RESUME, GROW: finished pages at the front of the table */
	uint32_t pages;            /* OPEN, RESUME, GROW, FORK: entries valid in the table row */
	uint32_t need_pages;       /* TOO_LARGE, TENANT_MAX: pages the request needs */
	uint32_t have_pages;       /* TOO_LARGE, TENANT_MAX: pages it could ever have */
	uint32_t pad[8];
};

#ifndef __cplusplus
_Static_assert(sizeof(struct kvd_sub_header) == 64, "layout");
_Static_assert(sizeof(struct kvd_comp_header) == 64, "layout");
_Static_assert(sizeof(struct kvd_sqe) == 64, "layout");
_Static_assert(sizeof(struct kvd_cqe) == 64, "layout");
#endif

#endif
