/* core_case.h - what the directed tests of the memory core have in common: one small geometry and
 * helpers that run a sequence in core_world and read the totals. */
#ifndef KVD_TEST_CORE_CASE_H
#define KVD_TEST_CORE_CASE_H

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include "tests/lib/core_world.h"
#include "tests/lib/suite.h"

enum {
	PLANES = 4,
	BLOCK = 4096,
	PAGE = PLANES * BLOCK,
	EXTENT = 256 << 10
}; /* 16 frames an extent */

static inline void tokens_fill(int32_t *tokens, int32_t base)
{
	for (int32_t i = 0; i < WORLD_TOKENS; i++)
		tokens[i] = base * 1000 + i;
}

static inline struct kvd_row_status status_of(struct world *w)
{
	struct kvd_row_status st;
	core_read_status(w->core, w->now, &st);
	return st;
}

/* Define or change a tenant that shares under `merge`; returns its number. */
static inline uint32_t tenant_with(struct world *w, const char *name, struct core_quota quota)
{
	struct core_event ev = { .type = CORE_EV_TENANT };
	strncpy(ev.tenant.name, name, sizeof(ev.tenant.name) - 1);
	ev.tenant.sharing = CORE_MERGE;
	ev.tenant.quota = quota;
	world_step(w, &ev);
	return core_tenant_find(w->core, name);
}

static inline struct kvd_row_tenant tenant_row(struct world *w, uint32_t tenant)
{
	struct kvd_row_tenant row = { 0 };
	uint32_t cursor = 0;
	ck_assert_uint_eq(core_read_tenants(w->core, tenant, &cursor, &row, 1), 1);
	return row;
}

static inline uint32_t attach(struct world *w, const char *name)
{
	uint32_t e = world_attach(w, name, 1, PLANES, BLOCK, WORLD_SLOTS, WORLD_PAGES);
	ck_assert_uint_ne(e, CORE_NONE);
	world_settle(w, false);
	return e;
}

/* Run one sequence to its end and return how many pages were cached when it was admitted. */
static inline uint32_t run_one(struct world *w, uint32_t engine, uint32_t slot, uint32_t tenant,
			       const int32_t *tokens, uint32_t n)
{
	uint64_t finished = w->finished;
	world_open(w, engine, slot, tenant, tokens, n, n + 5, 0);
	world_settle(w, true);
	ck_assert_uint_eq(w->finished, finished + 1);
	return world_slot(w, engine, slot)->last_cached;
}

/* Bring a sequence to where its whole prompt is computed and sealed, and stop there. */
static inline void run_prompt(struct world *w, uint32_t engine, uint32_t slot, uint32_t tenant,
			      const int32_t *tokens, uint32_t n, uint16_t flags)
{
	struct world_slot *s = world_slot(w, engine, slot);
	world_open(w, engine, slot, tenant, tokens, n, n, flags);
	for (uint32_t i = 0; i < 500 && !(s->n_done >= n && s->n_sealed == n / 16 && !s->verb);
	     i++) {
		world_settle(w, false);
		if (s->n_done < n || s->n_sealed < n / 16)
			world_advance(w, engine, slot);
		world_settle(w, false);
		world_step_begin(w, engine);
		world_step_end(w, engine);
	}
	ck_assert_uint_eq(s->n_done, n);
	ck_assert_uint_eq(s->n_sealed, n / 16);
	s->hold = true;
}

/* Submit by hand and return the completion's status; the slot's program does not see it. */
static inline struct kvd_cqe submit(struct world *w, uint32_t engine, struct kvd_sqe sqe)
{
	struct world_engine *e = &w->engine[engine];
	static uint64_t number = 0x10000000;
	sqe.user_data = ++number;
	world_submit(w, engine, sqe);
	for (uint32_t i = e->head; i != e->tail; i++)
		if (e->queue[i % WORLD_QUEUE].user_data == number) {
			struct kvd_cqe c = e->queue[i % WORLD_QUEUE];
			e->head = e->tail;
			return c;
		}
	return (struct kvd_cqe){ .status = 0xffff };  /* late */
}

static inline int run_suite(const char *name, const TTest *const *tests, size_t n_tests)
{
	return suite_run(name, 60, tests, n_tests);
}

#endif
