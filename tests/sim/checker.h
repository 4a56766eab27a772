/* checker.h - the checker's model of what can be seen; shared by checker.c (submissions, completions,
 * tables), checker_facts.c (what is computed), checker_bytes.c (frames, steps, the mover) and checker_floors.c. */
#ifndef KVD_TEST_SIM_CHECKER_H
#define KVD_TEST_SIM_CHECKER_H

#include "tests/sim/sim.h"

enum { PENDING_MAX = 128, HISTORY = 64 };
enum view_state { VIEW_EMPTY = 0, VIEW_WAITING, VIEW_RUNNING, VIEW_STOPPED };

struct view_frame {
	uint64_t content;              /* identity of its tokens and all before; 0: not sealed */
	uint64_t origin;               /* that of the page the mover copied it from, until it is written */
	uint16_t holders, views;       /* rows; unfinished steps */
	uint16_t old;                  /* rows of a dead kvd's tables that an engine still reads */
	uint32_t copied_from;          /* frame + 1: the mover tried to copy that to it */
	uint8_t dirty, copied;         /* written since it was zeroed; by the mover */
	uint8_t writer;                /* tenant + 1 */
};

struct view_slot {
	enum view_state state;
	bool no_index;
	bool lost;                     /* what was granted last is gone: its PREEMPT must come next */
	uint32_t tenant, n_prompt, n_sealed, n_pages, row_high;
	uint64_t age;
	uint32_t row[WORLD_PAGES], gone[WORLD_PAGES], step[WORLD_PAGES], old[WORLD_PAGES];
	uint64_t chain[WORLD_PAGES];   /* of the sealed pages */
	uint64_t prompt[WORLD_PAGES];
	uint32_t promised[WORLD_PAGES], n_promised; /* entries of the map */
};

struct pending {
	bool live;
	struct kvd_sqe sqe;
	uint64_t pages[WORLD_PAGES]; /* identities: OPEN, RESUME the prompt's; FORK the source's; SEAL: the
					pages' digests, for what is before them may not be known yet */
	uint32_t tenant;
	bool no_index, made;           /* made: of an EMPTY slot one that waits for this answer */
	uint64_t order;                /* k->records when it was said */
};

struct view_engine {
	bool attached, behind;
	uint32_t space, n_frames, page_bytes, max_seqs;
	uint8_t *mapped;
	struct view_slot slot[WORLD_SLOTS];
	struct pending pending[PENDING_MAX];
	uint32_t pending_high;
};

/* checker_limits.c */
struct view_limits {
	uint64_t rate, rate_since_usec, rate_since, rate_bytes; /* order of the change; granted since */
	uint32_t rate_grants, seqs, seqs_before;
	uint32_t seqs_allowed;         /* so many were there when the number was lowered */
};

struct fact { uint64_t key, when, promised; uint32_t computed, promiser, engine, forced; };

struct checker {
	struct swarm swarm;
	uint32_t slot_bits, n_extents, n_frames;
	struct view_frame *frame;
	uint8_t *engines_own;          /* per extent: an engine may write it, or could until it died */
	struct { uint64_t content; uint8_t writer; } *disk; /* by block */
	uint32_t n_blocks;
	struct view_engine engine[WORLD_ENGINES];
	struct { char domain[KVD_NAME_MAX]; uint32_t number, sharing; uint64_t max_bytes, min_bytes, min_before;
		uint64_t max_top;      /* the larger of its max and the one before */
		struct view_limits limits; } tenant[SIM_TENANTS];
	uint64_t now_usec;             /* the sum of what passed */
	bool published;                /* at least one prefix, once */
	struct fact *facts;            /* open addressing; (domain, content) */
	uint32_t n_facts, facts_max;
	uint64_t next_age, computed, records;
	struct world_record history[HISTORY];
};

_Noreturn void checker_fail(struct checker *k, const char *what, uint64_t a, uint64_t b);

/* A copy that nobody has written yet is as good as its origin: compaction moves sealed pages so. */
static inline uint64_t content_of(const struct view_frame *f)
{
	return f->content ? f->content : f->origin;
}

/* Does another tenant wait for no more than its min? */
bool floor_asks(const struct checker *k, uint32_t but);

static inline uint32_t domain_of(const struct checker *k, uint32_t tenant)
{
	return k->tenant[tenant].number;
}

void limits_changed(struct checker *k, uint32_t tenant, const struct core_quota *quota);
void check_rate(struct checker *k, const struct view_engine *e, uint32_t tenant, const struct pending *p,
		uint32_t pages);
void check_sequences(struct checker *k, const struct view_slot *s);
void check_limit(struct checker *k, const struct view_slot *s, uint32_t tenant, const struct kvd_cqe *c);
void sequences_fewer(struct checker *k, uint32_t tenant);
/* What anybody has computed who is not private: may be taken by all once it is published. */
enum { DOMAIN_ANY = SIM_TENANTS };

uint64_t page_digest(const int32_t *tokens);
uint64_t content_next(uint64_t before, uint64_t digest);
struct fact *fact_of(struct checker *k, uint32_t domain, uint64_t content);
void promises_forget(struct checker *k, struct view_slot *s);
void check_computed_once(struct checker *k, uint32_t engine, struct view_slot *s, const struct pending *p);
void see_moved(struct checker *k, const struct world_record *r);
void see_write(struct checker *k, const struct world_record *r);
void see_step(struct checker *k, const struct world_record *r);
void see_adopted(struct checker *k);
void see_switched(struct checker *k, struct view_engine *e);

#endif
