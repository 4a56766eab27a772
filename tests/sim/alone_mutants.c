/* alone_mutants.c - the checkers are checked: a core with a bug must not come through the simulator.
 *
 * Each mutant replaces one function of the core for the whole run, by the linker (--wrap, see WRAPPED in
 * the Makefile): calls from the function's own file stay right, all others meet the bug.  The core's
 * source knows nothing of this.  A mutant must be found within its seeds; the table says by whom, and how
 * many operations it took.  Some bugs need special seeds: calm ones (computed once), ones with a disk. */
#include "tests/sim/runs.h"
#include "kvd/core/parts.h"
#include "kvd/core/spill.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUTANTS(X) \
	X(NO_SCRUB, ANY, "a freed frame is not zeroed") \
	X(EARLY_REUSE, ANY, "a frame is reused before the steps that saw it are done") \
	X(STEPS_IGNORED, ANY, "step counters are taken as passed") \
	X(DEATH_IS_QUIET, KILLS, "a dead engine's process is taken for gone") \
	X(SCRUB_FAILED, FAILS, "a failed zeroing of a frame counts as done") \
	X(COPY_FAILED, COPIES, "a failed copy for FORK or TRUNCATE counts as done") \
	X(SHARE_FAILED, FAILS, "a failed copy into the shared colour counts as done") \
	X(READ_FAILED, DISK, "a page read badly from the disk is served") \
	X(ANY_DOMAIN, ANY, "a claim of any domain serves every tenant") \
	X(PRIVATE_SHARED, ANY, "a private tenant's pages go to where everybody reads") \
	X(HASH_ONLY, ANY, "pages are told apart by their first token alone") \
	X(HOLD_FORGOTTEN, ANY, "one table slot in fifty keeps its page when it is dropped") \
	X(HOLD_UNCOUNTED, ANY, "one hold in fifty is not counted by its claim") \
	X(FRAME_TWICE, ANY, "one frame in fifty is handed out and stays in the free list") \
	X(FRAME_OFF_COLOUR, ANY, "a frame is taken from another engine's extent") \
	X(MAPPED_UNASKED, ANY, "an extent counts as mapped before the engine has said so") \
	X(UNMAP_UNASKED, ANY, "an extent is zeroed before its engine has unmapped it") \
	X(PROMISE_LOST, CALM, "a promise that is kept wakes nobody") \
	X(PROMISE_UNBROKEN, ANY, "a promise outlives its promiser") \
	X(NO_SINGLE_FLIGHT, CALM, "nobody waits for a promise") \
	X(NO_LOOKUP, CALM, "the index is never asked") \
	X(NOBODY_WOKEN, ANY, "who waits is never woken") \
	X(ALL_FITS, TIGHT, "everything fits: memory is promised twice") \
	X(OLDEST_PREEMPTED, TIGHT, "the oldest sequence is preempted") \
	X(FLOOR_UNBOUNDED, FLOORS, "a floor covers whatever its tenant asks for") \
	X(UNCHARGED, ANY, "one charge in fifty is forgotten") \
	X(ANSWERED_TWICE, ANY, "one answer in fifty is given twice") \
	X(UNANSWERED, ANY, "one answer in fifty is not given") \
	X(WRONG_NUMBERS, LARGE, "a refusal says one page more than there is") \
	X(ROW_UNPUBLISHED, ANY, "one change of a table row in fifty is not published") \
	X(NO_ROLLBACK, CRASH, "an adopted book keeps half an event")

enum mutant {
	MUTANT_NONE = 0,
#define X(name, seeds, text) MUTANT_##name,
	MUTANTS(X)
#undef X
	MUTANT_COUNT
};
enum seeds { SEEDS_ANY, SEEDS_KILLS, SEEDS_FAILS, SEEDS_COPIES, SEEDS_DISK, SEEDS_CALM, SEEDS_TIGHT,
	SEEDS_FLOORS, SEEDS_LARGE,
	SEEDS_CRASH };

static const struct { const char *name, *text; enum seeds seeds; } mutants[MUTANT_COUNT] = {
#define X(name, seeds, text) [MUTANT_##name] = { #name, text, SEEDS_##seeds },
	MUTANTS(X)
#undef X
};

static enum mutant planted;
static bool in_fsck;
static uint32_t calls;

static bool now(enum mutant m)
{
	return planted == m && !in_fsck;
}

static bool one_in_fifty(enum mutant m)
{
	return now(m) && ++calls % 50 == 0;
}

/* REAL is the function, WRAP what everybody else's calls of it meet. */
#define MUTATED(type, name, parameters) \
	type __real_##name parameters; type __wrap_##name parameters; type __wrap_##name parameters

MUTATED(uint32_t, core_fsck, (const struct core *c, void (*report)(void *, const char *), void *arg, uint64_t *n))
{
	in_fsck = true;
	uint32_t found = __real_core_fsck(c, report, arg, n);
	in_fsck = false;
	return found;
}

MUTATED(bool, core_next_action, (struct core *c, struct core_action *ret))
{
	bool some = __real_core_next_action(c, ret);
	if (some && ret->type == CORE_ACT_MOVE && ret->move.kind == CORE_MOVE_SCRUB && now(MUTANT_NO_SCRUB)) {
		ret->move.kind = CORE_MOVE_COMPARE_COPY; /* with itself: nothing is written */
		ret->move.source = ret->move.peer = ret->move.target;
	}
	return some;
}

MUTATED(void, job_moved, (const struct core *c, const struct core_event *event))
{
	struct core_event well = *event;
	uint32_t job = event->moved.job & 2047u;
	if (now(MUTANT_SCRUB_FAILED) && job <= c->jobs.high && c->job[job].kind == JOB_SCRUB)
		well.moved.ok = true;
	__real_job_moved(c, &well);
}

MUTATED(void, frame_retire, (const struct core *c, uint32_t frame, bool seen))
{
	__real_frame_retire(c, frame, seen && !now(MUTANT_EARLY_REUSE));
}

MUTATED(void, retire_stamped, (const struct core *c, const struct core_event *event))
{
	static struct core_event passed;
	passed = *event;
	for (uint32_t i = 0; i < CORE_ENGINES_MAX && now(MUTANT_STEPS_IGNORED); i++)
		passed.epoch.done[i] = UINT64_MAX;
	__real_retire_stamped(c, &passed);
}

MUTATED(void, engine_hangup, (const struct core *c, uint32_t engine))
{
	__real_engine_hangup(c, engine);
	if (now(MUTANT_DEATH_IS_QUIET))
		engine_quiet(c, engine);
}

MUTATED(void, seq_copied, (const struct core *c, uint32_t job, bool ok))
{
	__real_seq_copied(c, job, ok || now(MUTANT_COPY_FAILED));
}

MUTATED(void, share_moved, (const struct core *c, uint32_t job, const struct core_event *event))
{
	struct core_event well = *event;
	well.moved.ok = well.moved.ok || now(MUTANT_SHARE_FAILED);
	__real_share_moved(c, job, &well);
}

MUTATED(void, spill_read, (const struct core *c, uint32_t job, const struct core_event *event))
{
	struct core_event well = *event;
	if (now(MUTANT_READ_FAILED) && !well.moved.ok) {
		well.moved.ok = true;
		well.moved.differs = false;
	}
	__real_spill_read(c, job, &well);
}

MUTATED(uint32_t, claim_find, (const struct core *c, uint32_t node, uint32_t domain))
{
	uint32_t found = __real_claim_find(c, node, domain), k;
	if (found || !now(MUTANT_ANY_DOMAIN) || !node)
		return found;
	for (k = list_first(&node_at(c, node)->claims); k != CORE_NONE; k = list_next(c, LIST_NODE_CLAIMS, k))
		if (claim_at(c, k)->complete)
			return k;
	return 0;
}

MUTATED(bool, page_may_share, (const struct core *c, uint32_t page))
{
	return now(MUTANT_PRIVATE_SHARED) ? page_at(c, page)->node != 0 : __real_page_may_share(c, page);
}

MUTATED(bool, page_serves, (const struct core *c, uint32_t page, uint32_t tenant, uint32_t domain))
{
	return now(MUTANT_PRIVATE_SHARED) || __real_page_serves(c, page, tenant, domain);
}

MUTATED(uint32_t, node_find_or_make,
	(const struct core *c, uint32_t space, uint32_t parent, const int32_t *tokens, uint64_t identity))
{
	int32_t first[KVD_PAGE_TOKENS] = { tokens[0] & 7 };
	return now(MUTANT_HASH_ONLY) ? __real_node_find_or_make(c, space, parent, first, 0)
				     : __real_node_find_or_make(c, space, parent, tokens, identity);
}

MUTATED(void, hold_drop, (const struct core *c, uint32_t seq, uint32_t index))
{
	if (!one_in_fifty(MUTANT_HOLD_FORGOTTEN))
		__real_hold_drop(c, seq, index);
}

MUTATED(void, hold_take, (const struct core *c, uint32_t seq, uint32_t index, uint32_t page, uint32_t claim))
{
	__real_hold_take(c, seq, index, page, claim);
	if (claim && claim_at(c, claim)->holds > 1 && one_in_fifty(MUTANT_HOLD_UNCOUNTED))
		ADD(claim_at(c, claim)->holds, -1);
}

MUTATED(uint32_t, frame_take,
	(const struct core *c, uint32_t group, uint32_t prefer, enum kvd_frame_state to, uint32_t owner))
{
	if (one_in_fifty(MUTANT_FRAME_OFF_COLOUR) && group < CORE_ENGINES_MAX)
		for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
			if (i != group && c->engines[i].state == ENGINE_LIVE &&
			    c->engines[i].space == c->engines[group].space)
				group = i;
	uint32_t f = __real_frame_take(c, group, prefer, to, owner);
	if (f != CORE_NONE && one_in_fifty(MUTANT_FRAME_TWICE))
		list_push_head(c, LIST_FRAMES, &extent_at(c, extent_of(c, f))->free, f);
	return f;
}

MUTATED(bool, extent_assign, (const struct core *c, uint32_t group))
{
	bool well = __real_extent_assign(c, group);
	uint32_t x = list_last(&c->groups[group].extents);
	if (well && now(MUTANT_MAPPED_UNASKED) && c->groups[group].engine != CORE_NONE)
		extent_ack(c, c->groups[group].engine, x, 1);
	return well;
}

MUTATED(void, act_extent,
	(const struct core *c, enum item_kind kind, uint32_t engine, uint32_t extent, bool writable))
{
	__real_act_extent(c, kind, engine, extent, writable);
	if (kind == ITEM_UNMAP && now(MUTANT_UNMAP_UNASKED))
		SET(extent_at(c, extent)->mapped, 0);
}

MUTATED(void, promise_kept, (const struct core *c, uint32_t claim))
{
	if (!now(MUTANT_PROMISE_LOST))
		__real_promise_kept(c, claim);
}

MUTATED(void, promise_break_all, (const struct core *c, uint32_t seq))
{
	if (!now(MUTANT_PROMISE_UNBROKEN))
		__real_promise_break_all(c, seq);
}

MUTATED(bool, lookup_take, (const struct core *c, uint32_t seq))
{
	return now(MUTANT_NO_LOOKUP) ? false : __real_lookup_take(c, seq);
}

MUTATED(void, wake_all, (const struct core *c, const struct list *waiters))
{
	if (!now(MUTANT_NOBODY_WOKEN))
		__real_wake_all(c, waiters);
}

MUTATED(bool, core_fits, (const struct core *c))
{
	return now(MUTANT_ALL_FITS) || __real_core_fits(c);
}

MUTATED(bool, floor_covers, (const struct core *c, uint32_t seq, uint32_t pages))
{
	bool floor = tenant_at(c, seq_at(c, seq)->tenant)->quota.min_bytes;
	return (floor && now(MUTANT_FLOOR_UNBOUNDED)) || __real_floor_covers(c, seq, pages);
}

MUTATED(void, act_complete, (const struct core *c, uint32_t engine, const struct kvd_cqe *cqe))
{
	if (cqe->verb < 64 && one_in_fifty(MUTANT_UNANSWERED))
		return;
	__real_act_complete(c, engine, cqe);
	if (cqe->verb < 64 && one_in_fifty(MUTANT_ANSWERED_TWICE))
		__real_act_complete(c, engine, cqe);
}

MUTATED(void, tenant_charge, (const struct core *c, uint32_t tenant, int64_t rss, int64_t held))
{
	if (!one_in_fifty(MUTANT_UNCHARGED))
		__real_tenant_charge(c, tenant, rss, held);
}

MUTATED(uint64_t, pool_pages, (const struct core *c, uint32_t engine))
{
	return __real_pool_pages(c, engine) + now(MUTANT_WRONG_NUMBERS);
}

MUTATED(void, act_row, (const struct core *c, uint32_t seq, uint32_t from, uint32_t to))
{
	if (!one_in_fifty(MUTANT_ROW_UNPUBLISHED))
		__real_act_row(c, seq, from, to);
}

MUTATED(void, seq_release, (const struct core *c, uint32_t seq))
{
	uint32_t oldest = list_first(&c->running);
	if (seq_at(c, seq)->state == SEQ_PREEMPTED && now(MUTANT_OLDEST_PREEMPTED) && oldest != CORE_NONE &&
	    oldest != seq && !in_fsck) {
		in_fsck = true;                  /* this one as it should be, then the oldest */
		admit_preempt(c, oldest);
		in_fsck = false;
	}
	__real_seq_release(c, seq);
}

MUTATED(bool, journal_rollback, (const struct core *c))
{
	struct journal *j = (struct journal *)(uintptr_t)&c->journal;
	if (now(MUTANT_NO_ROLLBACK))
		j->next = j->begin;
	return __real_journal_rollback(c);
}

/* ---- the table ---- */

static void prepare(struct run *run)
{
	planted = (enum mutant)run->swarm.n_planted;
	if (planted == MUTANT_NO_SINGLE_FLIGHT)
		run->swarm.promise_usec = 0;
}

static bool suits(const struct swarm *s, enum seeds seeds)
{
	switch (seeds) {
	case SEEDS_ANY: return !s->calm;
	case SEEDS_KILLS: return s->kill > 4;
	case SEEDS_FAILS: return s->mover_fails > 200;
	case SEEDS_COPIES: return s->mover_fails > 100 && s->special > 100;
	case SEEDS_DISK: return s->disk_extents && s->disk_errors;
	case SEEDS_CALM: return s->calm && s->n_engines > 1;
	case SEEDS_TIGHT: return !s->calm && s->n_extents < 5 && s->max_pages > 16;
	case SEEDS_FLOORS: return s->floors && s->n_extents < 5;
	case SEEDS_LARGE: return s->two_spaces && s->n_extents * 10 < s->max_pages; /* what never fits is asked for */
	case SEEDS_CRASH: return s->crash > 2;
	}
	return false;
}

/* What was said last, without its numbers. */
static void verdict_of(const struct run *run, char *ret, size_t size)
{
	const char *at = NULL, *marks[] = { "checker: ", "Assertion ", "fsck: ", "world: " };
	for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]) && !at; i++)
		at = strstr(run->said, marks[i]);
	if (!at)
		at = (run->status & 127) == 14 ? "it does not come to an end" : "it ends by a signal";
	snprintf(ret, size, "%.*s", (int)strcspn(at, "(\n"), at);
}

int main(int argc, char **argv)
{
	struct run run = { .room = run_room_new(), .ops_max = 20000, .seconds_max = 20 };
	uint32_t n_seeds = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 12, missed = 0;
	run_prepare = prepare;
	printf("%-18s %5s %8s  %s\n", "mutant", "seeds", "choices", "found by");
	for (uint32_t m = 1; m < MUTANT_COUNT; m++) {
		bool found = false;
		uint32_t tried = 0;
		for (uint64_t seed = 1; tried < n_seeds && !found; seed++) {
			run.swarm = swarm_of(seed);
			if (!suits(&run.swarm, mutants[m].seeds))
				continue;
			run.swarm.n_planted = m;
			tried++;
			found = !run_whole(&run);
		}
		char verdict[160] = "NOBODY";
		if (found)
			verdict_of(&run, verdict, sizeof(verdict));
		missed += !found;
		printf("%-18s %5u %8u  %s\n", mutants[m].name, tried, run.room->n_log, verdict);
		fflush(stdout);
	}
	printf("%u mutants, %u missed\n", MUTANT_COUNT - 1u, missed);
	printf("%u%%: Checks: %u, Failures: %u, Errors: 0\n", 100 * (MUTANT_COUNT - 1u - missed) / (MUTANT_COUNT - 1u),
	       MUTANT_COUNT - 1u, missed);
	return missed ? 1 : 0;
}
