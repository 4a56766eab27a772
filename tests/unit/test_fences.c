/* test_fences.c - the two fences on this processor: store-buffer litmus tests (Dekker) of the code's own
 * functions, between two processes that share an engine's segments.
 *
 *   steps    kvd_step_begin() and the copy of a table entry, against ring_entry(), look_at_steps()'
 *            fence and ring_step_begun().  Forbidden: the step copied the old entry and kvd did not
 *            see it begin.
 *   bare     the same stores and loads with no fence between.  What it shows is printed and not
 *            judged: one core, or an emulator, may never show it.
 *   submit   kvd_engine_flush() against ring_sleep(): forbidden is a kvd that sleeps, nobody rings.
 *   publish  ring_publish() and ring_wants_doorbell() against kvd_engine_sleep(), likewise.
 *
 * `steps` and `bare` run free: both sides store ever higher numbers and note what they load.  If
 * engine round i loaded entry j, kvd's store j + 1 came later, so kvd's round j + 1 must have loaded at
 * least i: every round of one side is judged against one of the other.
 * The wake-ups are played for real, one at a time; a lost one is told apart from a slow one by the
 * writer's word that it has looked and will not ring.
 *
 * Each litmus ends after ROUNDS or, where others use the processor, after KVD_LITMUS_SECONDS (10). */
#include <check.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/engine.h"
#include "kvd/ring.h"
#include "tests/lib/suite.h"

enum { ROUNDS = 10000000, SQ_ENTRIES = 16 };

/* What the two tell each other outside of the litmus. */
struct aside {
	_Alignas(64) uint32_t ready;
	_Alignas(64) uint32_t bell;
	_Alignas(64) uint32_t looked;      /* rounds whose writer has looked at the sleeper's flag */
	_Alignas(64) uint32_t stop;
	_Alignas(64) uint32_t engine_rounds;
	uint32_t seen_by_engine[ROUNDS + 1], seen_by_kvd[ROUNDS + 1];
};

static struct segment segment;
static struct ring ring;
static struct kvd_engine engine;
static struct kvd_connection connection;
static struct aside *aside;
static pid_t child;

static uint32_t load(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void store(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* When a litmus ends at the latest. */
static double limit_seconds(void)
{
	const char *text = getenv("KVD_LITMUS_SECONDS");
	int limit = text ? atoi(text) : 10;

	return seconds() + (limit > 0 ? limit : 10);
}

/* Somebody else may need the core that the other side runs on. */
static void pause_in(uint32_t *n)
{
	if (++*n % 4096 == 0)
		sched_yield();
	else
		__builtin_ia32_pause();
}

static void setup(void)
{
	struct segment_shape shape;

	ck_assert_int_eq(segment_shape(SQ_ENTRIES, 1, 1, &shape), 0);
	ck_assert_int_eq(segment_open(&shape, &segment), 0);
	ring_open(&ring, &segment);
	connection = (struct kvd_connection){ .fd = -1, .state = KVD_CONNECTION_DOWN };
	engine = (struct kvd_engine){
		.connection = &connection,
		.sub = (void *)segment.sub,
		.comp = (const void *)segment.comp,
		.sqes = (void *)(segment.sub + shape.sqe_offset),
		.cqes = (const void *)(segment.comp + shape.cqe_offset),
		.tables = (const void *)(segment.comp + shape.tables_offset),
		.sq_entries = shape.sq_entries,
		.cq_entries = shape.cq_entries,
		.max_seqs = 1,
		.max_pages = 1,
	};
	aside = mmap(NULL, sizeof(*aside), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(aside, MAP_FAILED);
	child = 0;
}

static void teardown(void)
{
	if (child > 0) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	segment_close(&segment);
	munmap(aside, sizeof(*aside));
}

/* Both processes leave this at nearly the same time.  True: this is the child (the engine's side), on the
 * other core where there is one. */
static bool two_processes(void)
{
	uint32_t n = 0;
	cpu_set_t allowed, one;
	int cpu[2], found = 0;
	bool is_child;

	CPU_ZERO(&allowed);
	if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0)
		for (int i = 0; i < CPU_SETSIZE && found < 2; i++)
			if (CPU_ISSET(i, &allowed))
				cpu[found++] = i;
	child = fork();
	ck_assert_int_ge(child, 0);
	is_child = child == 0;
	if (is_child)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (found == 2) {
		CPU_ZERO(&one);
		CPU_SET(cpu[is_child], &one);
		sched_setaffinity(0, sizeof(one), &one);
	}
	__atomic_fetch_add(&aside->ready, 1, __ATOMIC_SEQ_CST);
	while (load(&aside->ready) < 2)
		pause_in(&n);
	return is_child;
}

static void wait_for_child(void)
{
	int status;

	ck_assert_int_eq(waitpid(child, &status, 0), child);
	child = 0;
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the engine's side: status %d",
		      status);
}

/* ---- steps ---- */

/* kvd's `rounds` rounds; the engine makes as many as it can meanwhile. */
static uint32_t run_steps(bool fences)
{
	double end = limit_seconds();
	uint32_t n = 0;

	if (two_processes()) {
		uint64_t *begun = &engine.sub->step_begun;

		while (n < ROUNDS && !load(&aside->stop)) {
			if (fences)
				kvd_step_begin(&engine);
			else
				__atomic_store_n(begun, ++engine.step, __ATOMIC_RELAXED);
			aside->seen_by_engine[++n] =
				__atomic_load_n(&engine.tables[0], __ATOMIC_RELAXED);
		}
		store(&aside->engine_rounds, n);
		_exit(0);
	}
	/* The last rounds of either side run against nobody; they are judged none the less. */
	while (n < ROUNDS && (n % 1024 || (!load(&aside->engine_rounds) && seconds() < end))) {
		n++;
		if (fences) {
			ring_entry(&ring, 0, 0, n);
			__atomic_thread_fence(__ATOMIC_SEQ_CST);
			aside->seen_by_kvd[n] = (uint32_t)ring_step_begun(&ring);
		} else {
			__atomic_store_n(&ring.tables[0], n, __ATOMIC_RELAXED);
			aside->seen_by_kvd[n] =
				(uint32_t)__atomic_load_n(&ring.sub->step_begun, __ATOMIC_RELAXED);
		}
	}
	store(&aside->stop, 1);
	wait_for_child();
	return n;
}

/* Rounds of the engine in which both sides missed the other's store, of *ret_judged. */
static uint32_t count_forbidden(uint32_t kvd_rounds, uint32_t *ret_judged)
{
	uint32_t forbidden = 0;

	*ret_judged = 0;
	for (uint32_t i = 1; i <= aside->engine_rounds; i++) {
		uint32_t j = aside->seen_by_engine[i] + 1;
		/* before kvd's first round there is nothing to miss */
		if (j > kvd_rounds || j == 1)
			continue;
		++*ret_judged;
		forbidden += aside->seen_by_kvd[j] < i;
	}
	return forbidden;
}

START_TEST(a_step_that_kvd_does_not_see_copies_the_new_entry)
{
	uint32_t rounds = run_steps(true), judged, forbidden = count_forbidden(rounds, &judged);

	printf("steps: %u rounds of kvd, %u of the engine judged, %u forbidden\n", rounds, judged,
	       forbidden);
	ck_assert_uint_gt(judged, 0);
	ck_assert_uint_eq(forbidden, 0);
}
END_TEST

START_TEST(without_fences_the_processor_reorders)
{
	uint32_t rounds = run_steps(false), judged, seen = count_forbidden(rounds, &judged);

	printf("bare: the forbidden outcome was seen %u times in %u rounds%s\n", seen, judged,
	       seen ? "" : " (note: this machine does not show why the fences are needed)");
	ck_assert_uint_gt(judged, 0);
}
END_TEST

/* ---- wake-ups ---- */

static bool bell_taken(void)
{
	if (!load(&aside->bell))
		return false;
	store(&aside->bell, 0);
	return true;
}

/* Asleep until the bell; false: the writer has written round `round`, looked, and not rung. */
static bool sleep_until_bell(uint32_t round)
{
	uint32_t n = 0;

	while (!bell_taken()) {
		/* `looked` is stored after the bell: look at the bell once more. */
		if (load(&aside->looked) == round && !load(&aside->bell))
			return false;
		if (load(&aside->stop))
			return true;
		pause_in(&n);
	}
	return true;
}

static void submit_rounds(void)
{
	struct kvd_sqe sqe = { .verb = KVD_SEQ_CLOSE };
	uint32_t round = 0, n = 0;

	while (round < ROUNDS && !load(&aside->stop)) {
		sqe.user_data = ++round;
		kvd_engine_submit(&engine, &sqe);
		/* A connection that is down: -ENOTCONN is "kvd sleeps, I would ring". */
		if (kvd_engine_flush(&engine) == -ENOTCONN)
			store(&aside->bell, 1);
		store(&aside->looked, round);
		while (load(&engine.comp->sq_head) != round && !load(&aside->stop))
			pause_in(&n);
	}
}

START_TEST(no_submission_waits_for_a_sleeping_kvd)
{
	double end = limit_seconds();
	uint32_t taken = 0, slept = 0, lost = 0;

	if (two_processes()) {
		submit_rounds();
		_exit(0);
	}
	while (taken < ROUNDS && (taken % 1024 || seconds() < end)) {
		struct kvd_sqe sqe;
		int r = ring_take(&ring, &sqe);

		ck_assert_int_ge(r, 0);
		if (r) {
			ck_assert_uint_eq(sqe.user_data, ++taken);
			ring_consumed(&ring);
			continue;
		}
		if (!ring_sleep(&ring, KVD_BELL_BYTE)) {
			slept++;
			lost += !sleep_until_bell(taken + 1);
		}
		ring_wake(&ring);
	}
	store(&aside->stop, 1);
	wait_for_child();
	printf("submit: %u rounds, kvd slept in %u of them, %u wake-ups lost\n", taken, slept, lost);
	ck_assert_uint_gt(slept, 0);
	ck_assert_uint_eq(lost, 0);
}
END_TEST

static void consume_rounds(void)
{
	uint32_t taken = 0, lost = 0;

	while (taken < ROUNDS && !load(&aside->stop)) {
		struct kvd_cqe cqe;

		if (kvd_engine_completion(&engine, &cqe)) {
			taken++;
			continue;
		}
		if (kvd_engine_sleep(&engine, true)) {
			lost += !sleep_until_bell(taken + 1);
			kvd_engine_sleep(&engine, false);
		}
	}
	_exit(lost ? 1 : 0);
}

START_TEST(no_completion_waits_for_a_sleeping_engine)
{
	double end = limit_seconds();
	uint32_t round = 0, rung = 0, n = 0;

	if (two_processes())
		consume_rounds();
	while (round < ROUNDS && (round % 1024 || seconds() < end)) {
		struct kvd_cqe cqe = { .verb = KVD_SEQ_CLOSE, .user_data = ++round };

		ck_assert_int_eq(ring_publish(&ring, &cqe), 0);
		if (ring_wants_doorbell(&ring)) {
			rung++;
			store(&aside->bell, 1);
		}
		store(&aside->looked, round);
		while (load(&engine.sub->cq_head) != round)
			pause_in(&n);
	}
	store(&aside->stop, 1);
	printf("publish: %u rounds, the engine was rung in %u of them\n", round, rung);
	wait_for_child();              /* it failed if it has lost a wake-up */
	ck_assert_uint_gt(rung, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fences");
	TCase *tc = tcase_create("litmus");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 600);
	tcase_add_test(tc, a_step_that_kvd_does_not_see_copies_the_new_entry);
	tcase_add_test(tc, without_fences_the_processor_reorders);
	tcase_add_test(tc, no_submission_waits_for_a_sleeping_kvd);
	tcase_add_test(tc, no_completion_waits_for_a_sleeping_engine);
	suite_add_tcase(suite, tc);
	return suite_result(suite);
}
