/* sched.h - which rows run in the next step.  Pure: numbers in, a plan out, no clock, no I/O.
 *
 * Decode first: each sequence with one token left to compute gets its row.  What is left of the
 * step's token budget goes to prefill, in chunks that end at a page boundary where they can, to
 * the tenant that has been served least for its weight; inside a tenant first come, first served.
 * A sequence whose next page has not come is simply not runnable: it sits the step out alone. */
#ifndef ENGINE_SCHED_H
#define ENGINE_SCHED_H

#include <stdbool.h>
#include <stdint.h>
#include "kvd/geometry.h"

#define SCHED_NONE UINT32_MAX
#define SCHED_TENANTS_MAX 256u     /* tenants told apart; see sched_tenant_get() */

struct sched_tenant {
	char name[64];
	uint32_t weight;           /* share against others, 1 .. 10000; 100 is the usual one */
	uint32_t n_active;         /* sequences and waiting requests; 0: the record may be reused */
	uint64_t served;           /* virtual time: tokens computed x SCHED_SCALE / weight */
};
#define SCHED_SCALE 10000u

/* What the plan needs to know about the sequence in a slot. */
struct sched_seq {
	bool runnable;
	uint32_t tenant;           /* index from sched_tenant_get() */
	uint32_t known;            /* tokens whose ids are known */
	uint32_t computed;         /* tokens whose K and V are there */
	uint32_t limit;            /* tokens that have a page to lie in */
	uint64_t ticket;           /* order of arrival */
};

/* One sequence's part of a step: tokens [start, start + count) of the sequence in `slot`. */
struct sched_run {
	uint32_t slot, start, count;
	bool want_logits;          /* the last known token is in it */
};

struct sched {
	struct sched_tenant tenants[SCHED_TENANTS_MAX];
	uint32_t n_tenants;
	uint32_t chunk_tokens;     /* token budget of a step, 1 .. */
	uint32_t rows_max;         /* most rows of a step */
};

/* chunk_tokens is the token budget; seqs_max sequences may decode at once. */
void sched_init(struct sched *s, uint32_t chunk_tokens, uint32_t seqs_max);

/* Index of a tenant by name, made if new and counted active once more.  A tenant that comes (back)
 * starts level with the least served active one, so that idleness earns no credit.
 * SCHED_NONE: SCHED_TENANTS_MAX tenants are active at this moment. */
uint32_t sched_tenant_get(struct sched *s, const char *name, uint32_t weight);
void sched_tenant_put(struct sched *s, uint32_t tenant);

/* Plan a step.
 * seqs      (n_seqs), index = slot
 * ret_runs  room for n_seqs; in order: decodes by slot, then prefills in order of service
 * Returns   number of runs; rows of all runs together <= rows_max. */
uint32_t sched_plan(const struct sched *s, const struct sched_seq *seqs, uint32_t n_seqs,
		    struct sched_run *ret_runs);

/* The step was run: charge its rows to the tenants. */
void sched_charge(struct sched *s, const struct sched_seq *seqs, const struct sched_run *runs,
		  uint32_t n_runs);

/* Which of two waiting requests goes first: true if (tenant a, ticket a) does. */
bool sched_before(const struct sched *s, uint32_t tenant_a, uint64_t ticket_a, uint32_t tenant_b,
		  uint64_t ticket_b);

#endif
