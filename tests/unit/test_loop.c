/* test_loop.c - both backends keep the contract of kvd/loop.h: edges, budgets by loop_again(),
 * deadlines, stale events, removal from inside ready(). */
#include "kvd/loop.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvd/clock.h"
#include "tests/lib/slow.h"
#include "tests/lib/suite.h"

static const enum loop_kind kinds[] = { LOOP_URING, LOOP_EPOLL };
static struct loop *loop;

static bool open_kind(int i)
{
	int r = loop_open(kinds[i], 64, &loop);

	if (r < 0 && kinds[i] == LOOP_URING) {
		printf("skipped: io_uring is refused here (%d)\n", r);
		return false;
	}
	ck_assert_int_eq(r, 0);
	return true;
}

struct probe {
	struct loop_source source; /* first */
	int other;		   /* our end of the pair */
	unsigned calls, budget, bytes;
	uint32_t events;
	struct probe *victim; /* removed from inside ready() */
};

static void probe_ready(struct loop_source *source, uint32_t events)
{
	struct probe *probe = (struct probe *)source;
	char byte;

	probe->calls++;
	probe->events |= events;
	if (probe->victim) {
		loop_remove(loop, &probe->victim->source);
		probe->victim = NULL;
	}
	for (unsigned i = 0; i < probe->budget; i++) {
		ssize_t n = recv(source->fd, &byte, 1, MSG_DONTWAIT);

		if (n <= 0)
			return;
		probe->bytes++;
	}
	if (probe->budget)
		loop_again(loop, source);
}

static void probe_open(struct probe *probe, unsigned budget)
{
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	*probe = (struct probe){ .source = { .ready = probe_ready, .fd = pair[0] },
				 .other = pair[1],
				 .budget = budget };
	ck_assert_int_eq(loop_add(loop, &probe->source, POLLIN | POLLRDHUP), 0);
}

static void probe_close(struct probe *probe)
{
	loop_remove(loop, &probe->source);
	close(probe->source.fd);
	if (probe->other >= 0)
		close(probe->other);
}

static void rounds(unsigned n)
{
	while (n--)
		ck_assert_int_eq(loop_wait(loop, clock_now_usec() + 2000), 0);
}

START_TEST(reads_with_a_budget)
{
	struct probe probe;

	if (!open_kind(_i))
		return;
	probe_open(&probe, 4);
	for (unsigned i = 0; i < 10; i++)
		ck_assert_int_eq(send(probe.other, "x", 1, 0), 1);
	rounds(8);
	ck_assert_uint_eq(probe.bytes, 10);
	ck_assert_uint_ge(probe.calls, 3);
	/* An edge: nothing new, no call. */
	probe.calls = 0;
	rounds(3);
	ck_assert_uint_eq(probe.calls, 0);
	ck_assert_int_eq(send(probe.other, "x", 1, 0), 1);
	rounds(3);
	ck_assert_uint_eq(probe.bytes, 11);
	probe_close(&probe);
	loop_close(loop);
}
END_TEST

/* However often a source was woken, it has one turn a round: its budget is what it delays others by. */
START_TEST(one_turn_a_round)
{
	struct probe busy, other;

	if (!open_kind(_i))
		return;
	probe_open(&busy, 2);
	probe_open(&other, 1);
	rounds(1);
	busy.calls = other.calls = 0;
	for (unsigned i = 0; i < 200; i++) {
		ck_assert_int_eq(send(busy.other, "b", 1, MSG_DONTWAIT), 1);
		rounds(i < 3);             /* then without: more wake-ups wait than a batch holds */
		ck_assert_uint_le(busy.calls, i + 1);
	}
	busy.calls = busy.bytes = 0;
	close(other.other);
	other.other = -1;
	rounds(1);
	ck_assert_uint_eq(busy.calls, 1);
	ck_assert_uint_le(busy.bytes, 2);
	ck_assert_uint_eq(other.calls, 1);
	ck_assert(other.events & POLLHUP);
	rounds(1);
	ck_assert_uint_eq(busy.calls, 2);
	probe_close(&busy);
	probe_close(&other);
	loop_close(loop);
}
END_TEST

START_TEST(reports_hang_up)
{
	struct probe probe;

	if (!open_kind(_i))
		return;
	probe_open(&probe, 4);
	rounds(1);
	close(probe.other);
	probe.other = -1;
	rounds(2);
	ck_assert_uint_ne(probe.events & POLLHUP, 0);
	probe_close(&probe);
	loop_close(loop);
}
END_TEST

START_TEST(deadline_is_kept)
{
	uint64_t start_usec, usec;

	if (!open_kind(_i))
		return;
	start_usec = clock_now_usec();
	ck_assert_int_eq(loop_wait(loop, start_usec + 20000), 0);
	usec = clock_now_usec() - start_usec;
	ck_assert_uint_ge(usec, 19000);
	ck_assert_uint_le(usec, 2000000u * test_slow());
	start_usec = clock_now_usec();
	ck_assert_int_eq(loop_wait(loop, 0), 0);
	ck_assert_uint_le(clock_now_usec() - start_usec, 1000000u * test_slow());
	loop_close(loop);
}
END_TEST

START_TEST(watch_reports_what_is_there)
{
	struct probe probe;

	if (!open_kind(_i))
		return;
	probe_open(&probe, 0);
	rounds(2);
	ck_assert_uint_eq(probe.events & POLLOUT, 0);
	ck_assert_int_eq(loop_watch(loop, &probe.source, POLLIN | POLLOUT), 0);
	rounds(2);
	ck_assert_uint_ne(probe.events & POLLOUT, 0);
	ck_assert_int_eq(loop_watch(loop, &probe.source, POLLIN), 0);
	/* Bytes that came before the change are reported after it. */
	probe.budget = 1;
	ck_assert_int_eq(send(probe.other, "x", 1, 0), 1);
	rounds(3);
	ck_assert_uint_eq(probe.bytes, 1);
	probe_close(&probe);
	loop_close(loop);
}
END_TEST

START_TEST(removed_sources_are_not_called)
{
	struct probe a, b;

	if (!open_kind(_i))
		return;
	probe_open(&a, 1);
	probe_open(&b, 1);
	rounds(1);
	/* Both ready in one batch; whoever comes first removes the other. */
	a.victim = &b;
	b.victim = &a;
	a.calls = b.calls = 0;
	ck_assert_int_eq(send(a.other, "x", 1, 0), 1);
	ck_assert_int_eq(send(b.other, "x", 1, 0), 1);
	ck_assert_int_eq(loop_wait(loop, clock_now_usec() + 5000), 0);
	ck_assert_uint_eq(a.calls + b.calls, 1);
	probe_close(&a);
	probe_close(&b);
	/* A slot is used again; the old cookie means nothing. */
	probe_open(&a, 1);
	rounds(2);
	ck_assert_uint_eq(a.bytes, 0);
	probe_close(&a);
	loop_close(loop);
}
END_TEST

START_TEST(table_is_bounded)
{
	struct probe probes[64];
	struct loop_source extra = { .ready = probe_ready };

	if (!open_kind(_i))
		return;
	for (unsigned i = 0; i < 64; i++)
		probe_open(&probes[i], 1);
	extra.fd = probes[0].other;
	ck_assert_int_eq(loop_add(loop, &extra, POLLIN), -ENOSPC);
	for (unsigned i = 0; i < 64; i++)
		ck_assert_int_eq(send(probes[i].other, "x", 1, 0), 1);
	rounds(4);
	for (unsigned i = 0; i < 64; i++) {
		ck_assert_uint_eq(probes[i].bytes, 1);
		probe_close(&probes[i]);
	}
	loop_close(loop);
}
END_TEST

START_TEST(close_means_close)
{
	struct probe probe;
	char byte;

	if (!open_kind(_i))
		return;
	probe_open(&probe, 1);
	rounds(1);
	loop_remove(loop, &probe.source);
	close(probe.source.fd);
	/* The loop holds no reference: the other end sees the end without another round. */
	ck_assert_int_eq(recv(probe.other, &byte, 1, 0), 0);
	close(probe.other);
	loop_close(loop);
}
END_TEST

static void wake(uint32_t *word)
{
	ck_assert_int_ge(syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0), 0);
}

START_TEST(words_wake)
{
	uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct probe probe = { .source = { .ready = probe_ready } };

	ck_assert_ptr_ne(word, MAP_FAILED);
	if (!open_kind(_i))
		return;
	if (!loop_has_words(loop)) {
		if (kinds[_i] == LOOP_URING)
			printf("skipped: this kernel's io_uring waits for no word\n");
		loop_close(loop);
		return;
	}
	ck_assert_int_eq(kinds[_i], LOOP_URING);
	ck_assert_int_eq(loop_add_word(loop, &probe.source), 0);
	loop_wait_word(loop, &probe.source, word, 0);
	rounds(2);
	ck_assert_uint_eq(probe.calls, 0);
	wake(word);
	rounds(1);
	ck_assert_uint_eq(probe.calls, 1);
	rounds(1);                         /* one time */
	wake(word);
	rounds(1);
	ck_assert_uint_eq(probe.calls, 1);
	/* Another value already: at once. */
	*word = 5;
	loop_wait_word(loop, &probe.source, word, 4);
	rounds(1);
	ck_assert_uint_eq(probe.calls, 2);
	/* Under way, changed in silence, asked for again with the new value, then woken. */
	loop_wait_word(loop, &probe.source, word, 5);
	rounds(1);
	*word = 6;
	loop_wait_word(loop, &probe.source, word, 6);
	rounds(1);
	ck_assert_uint_eq(probe.calls, 2);
	wake(word);
	rounds(1);
	ck_assert_uint_eq(probe.calls, 3);
	/* Removed, its memory gone: silent. */
	loop_wait_word(loop, &probe.source, word, 6);
	rounds(1);
	loop_remove(loop, &probe.source);
	wake(word);
	ck_assert_int_eq(munmap(word, 4096), 0);
	rounds(2);
	ck_assert_uint_eq(probe.calls, 3);
	loop_close(loop);
}
END_TEST

START_TEST(pending_says_what_wait_would)
{
	struct probe probe;

	if (!open_kind(_i))
		return;
	probe_open(&probe, 1);
	rounds(2);
	ck_assert(!loop_pending(loop));
	ck_assert_int_eq(send(probe.other, "x", 1, 0), 1);
	for (unsigned i = 0; !loop_pending(loop); i++)
		ck_assert_uint_lt(i, 1000000000);
	probe.calls = 0;
	ck_assert_int_eq(loop_wait(loop, 0), 0);
	ck_assert_uint_eq(probe.calls, 1);
	ck_assert(loop_pending(loop));     /* its budget was used up: it asked for another turn */
	ck_assert_int_eq(loop_wait(loop, 0), 0);
	ck_assert(!loop_pending(loop));
	probe_close(&probe);
	loop_close(loop);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("loop");
	TCase *tcase = tcase_create("both");

	tcase_add_loop_test(tcase, reads_with_a_budget, 0, 2);
	tcase_add_loop_test(tcase, one_turn_a_round, 0, 2);
	tcase_add_loop_test(tcase, reports_hang_up, 0, 2);
	tcase_add_loop_test(tcase, deadline_is_kept, 0, 2);
	tcase_add_loop_test(tcase, watch_reports_what_is_there, 0, 2);
	tcase_add_loop_test(tcase, removed_sources_are_not_called, 0, 2);
	tcase_add_loop_test(tcase, table_is_bounded, 0, 2);
	tcase_add_loop_test(tcase, close_means_close, 0, 2);
	tcase_add_loop_test(tcase, words_wake, 0, 2);
	tcase_add_loop_test(tcase, pending_says_what_wait_would, 0, 2);
	suite_add_tcase(suite, tcase);
	return suite_result(suite);
}
