/* kvlink.h - the engine's sequences in kvd: one slot each, asked for and given back over the rings.
 *
 * The rest of the engine says what it wants (open this, these tokens are computed, close); kvlink
 * turns that into submissions at the right moment and completions into facts about the slot. */
#ifndef ENGINE_KVLINK_H
#define ENGINE_KVLINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kvd/engine.h"

/* See kvlink.c for who makes each move. */
enum kvlink_state {
	KVLINK_EMPTY = 0,          /* free */
	KVLINK_OPENING,            /* OPEN is to be sent, or sent: waits for admission */
	KVLINK_RUNNING,            /* admitted: has pages, may want more */
	KVLINK_RESUMING,           /* preempted: RESUME is to be sent, or sent */
	KVLINK_REFUSED,            /* kvd said no for good: see failure; kvlink_close() it */
	KVLINK_CLOSING,            /* CLOSE is to be sent, or sent */
	KVLINK_LOST,               /* kvd is gone with all pages: waits to be opened at the next one */
};

struct kvlink_slot {
	enum kvlink_state state;
	uint32_t epoch;            /* counts lives and preemptions: older answers are stale */
	uint32_t client, flags;    /* of OPEN and RESUME */
	uint32_t n_tokens;         /* known tokens, all in the token row */
	uint32_t n_max;            /* tokens this sequence can ever have */
	uint32_t n_computed;       /* tokens whose K and V are in pages */
	uint32_t n_pages;          /* entries valid in the table row */
	uint32_t n_sealed;         /* pages at the front that are sealed, by us or by others */
	uint32_t n_cached;         /* tokens not computed because cached, before a preemption */
	uint32_t n_preempted;      /* times kvd took the pages */
	uint32_t looked;           /* 1 + page from which the index was last searched; 0: never */
	uint32_t grow_page;        /* page of the outstanding GROW */
	bool sent;                 /* the state's own OPEN, RESUME or CLOSE is on the ring */
	bool at_kvd;               /* kvd has, or may come to have, a sequence in this slot */
	bool admitted;             /* has been RUNNING once: n_cached is final */
	bool grow_out, grow_lookup;/* a GROW is outstanding; it is a lookup */
	bool held;                 /* kvd said PREEMPTED or STALE: nothing until its event comes */
	uint64_t held_usec;        /* since when */
	uint32_t failure;          /* REFUSED: KVD_S_* */
	uint32_t need_pages, have_pages;
};

struct kvlink {
	struct kvd_engine *engine;
	struct kvlink_slot *slots; /* (n_slots) */
	uint32_t n_slots, max_pages;
	uint32_t chunk_tokens;     /* how far ahead of the computed tokens prefill wants pages */
	bool draining;             /* kvd wants no new sequence here */
	bool patient;              /* kvd is dead and will be succeeded: its late event is no error */
};

int kvlink_init(struct kvlink *l, struct kvd_engine *engine, uint32_t n_slots, uint32_t max_pages,
		uint32_t chunk_tokens);
void kvlink_deinit(struct kvlink *l);

/* Start a sequence in an EMPTY slot.
 * client  handle of kvd_engine_client;  flags  KVD_OPEN_*
 * tokens  (n_tokens) copied into the token row;  n_max  most tokens it may grow to */
void kvlink_open(struct kvlink *l, uint32_t slot, uint32_t client, uint32_t flags,
		 const int32_t *tokens, uint32_t n_tokens, uint32_t n_max);
/* One more token is known. */
void kvlink_append(struct kvlink *l, uint32_t slot, int32_t token);
/* A step has computed all tokens below n_computed. */
void kvlink_computed(struct kvlink *l, uint32_t slot, uint32_t n_computed);
/* End the sequence, whatever its state; the slot is EMPTY some time later. */
void kvlink_close(struct kvlink *l, uint32_t slot);

/* kvd is gone, its segments are about to be unmapped: no slot has anything at kvd any more. */
void kvlink_lost(struct kvlink *l);
/* Open a LOST sequence at the kvd that we are attached to now.
 * client  its new handle;  tokens  all that are known (as many as the slot counts) */
void kvlink_reopen(struct kvlink *l, uint32_t slot, uint32_t client, const int32_t *tokens);
/* Another kvd has taken over: what it owes us it owes from now on. */
void kvlink_adopted(struct kvlink *l, uint64_t now_usec);

/* Tokens that may be computed at this moment: those with a page, once the index has been searched
 * at a page boundary of the prompt.  0 while the slot waits for kvd. */
uint32_t kvlink_limit(const struct kvlink *l, uint32_t slot);

/* Inside a step: copy the first n_pages of a table row.
 * Returns false if an entry is missing: the sequence sits this step out. */
bool kvlink_copy_table(const struct kvlink *l, uint32_t slot, uint32_t n_pages,
		       uint32_t *ret_table);

/* Take all completions and events that are there.  now_usec: monotonic. */
void kvlink_collect(struct kvlink *l, uint64_t now_usec);
/* Submit what the slots want and ring kvd.  Returns 0 or -errno: kvd is gone. */
int kvlink_pump(struct kvlink *l);

#endif
