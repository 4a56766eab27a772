/* test_wait.c - readiness, on io_uring and on epoll alike. */
#include <check.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "engine/wait.h"
#include "tests/lib/slow.h"
#include "tests/lib/suite.h"

static struct wait *w;
static int pair[2];

static void setup_uring(void)
{
	unsetenv("KVD_NO_IO_URING");
	ck_assert_int_eq(wait_new(&w), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
}

static void setup_epoll(void)
{
	setenv("KVD_NO_IO_URING", "1", 1);
	ck_assert_int_eq(wait_new(&w), 0);
	ck_assert(!wait_is_uring(w));
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
}

static void teardown(void)
{
	wait_free(w);
	close(pair[0]);
	close(pair[1]);
}

/* Everything that comes within 200 ms of silence for `tag`. */
static uint32_t gather(uint64_t tag)
{
	struct wait_event events[8];
	uint32_t what = 0;
	int n;

	while ((n = wait_for(w, 200000, events, 8)) > 0)
		for (int i = 0; i < n; i++) {
			ck_assert_uint_eq(events[i].tag, tag);
			what |= events[i].what;
		}
	ck_assert_int_eq(n, 0);
	return what;
}

START_TEST(each_packet_is_an_event)
{
	char byte;

	ck_assert_int_eq(wait_add(w, pair[0], 17), 0);
	ck_assert_uint_eq(gather(17), 0);
	for (int i = 0; i < 100; i++) {
		struct wait_event event;
		ck_assert_int_eq(write(pair[1], "x", 1), 1);
		ck_assert_int_eq(wait_for(w, 2000000, &event, 1), 1);
		ck_assert(event.tag == 17 && event.what == WAIT_READ);
		ck_assert_int_eq(read(pair[0], &byte, 1), 1);
	}
	close(pair[1]);
	pair[1] = -1;
	ck_assert_uint_eq(gather(17), WAIT_READ);
}
END_TEST

START_TEST(what_was_there_before_is_reported)
{
	ck_assert_int_eq(write(pair[1], "x", 1), 1);
	ck_assert_int_eq(wait_add(w, pair[0], 99), 0);
	ck_assert_uint_eq(gather(99), WAIT_READ);
}
END_TEST

START_TEST(writable_comes_when_asked_for_and_there_is_room)
{
	char buffer[2048] = "";
	int n = 0;

	ck_assert_int_eq(wait_add(w, pair[0], 5), 0);
	while (write(pair[0], buffer, sizeof(buffer)) > 0)
		n++;
	ck_assert_int_eq(wait_want_write(w, pair[0], 5), 0);
	ck_assert_uint_eq(gather(5) & WAIT_WRITE, 0);
	while (n-- > 0)
		ck_assert_int_eq(read(pair[1], buffer, sizeof(buffer)), sizeof(buffer));
	ck_assert_uint_eq(gather(5) & WAIT_WRITE, WAIT_WRITE);
}
END_TEST

START_TEST(a_removed_tag_is_silent)
{
	ck_assert_int_eq(wait_add(w, pair[0], 5), 0);
	ck_assert_int_eq(wait_add(w, pair[1], 6), 0);
	ck_assert_int_eq(write(pair[1], "x", 1), 1);
	wait_remove(w, pair[0], 5);
	ck_assert_uint_eq(gather(6), 0);
	ck_assert_int_eq(write(pair[0], "x", 1), 1);
	ck_assert_uint_eq(gather(6), WAIT_READ);
	/* its descriptor is really given up: a new watch on it works */
	ck_assert_int_eq(wait_add(w, pair[0], 7), 0);
	wait_remove(w, pair[1], 6);
	ck_assert_uint_eq(gather(7), WAIT_READ);
}
END_TEST

START_TEST(the_time_over_is_no_event)
{
	struct timespec before, after;
	struct wait_event event;
	long long usec;

	ck_assert_int_eq(wait_for(w, 0, &event, 1), 0);
	clock_gettime(CLOCK_MONOTONIC, &before);
	ck_assert_int_eq(wait_for(w, 30000, &event, 1), 0);
	clock_gettime(CLOCK_MONOTONIC, &after);
	usec = (after.tv_sec - before.tv_sec) * 1000000ll + (after.tv_nsec - before.tv_nsec) / 1000;
	ck_assert(usec >= 29000 && usec < 2000000 * (long long)test_slow());
}
END_TEST

/* Does wait_for() return before half a second is over? */
static bool woken(void)
{
	struct timespec before, after;
	struct wait_event event;

	clock_gettime(CLOCK_MONOTONIC, &before);
	ck_assert_int_eq(wait_for(w, 500000, &event, 1), 0);
	clock_gettime(CLOCK_MONOTONIC, &after);
	return (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000 < 450;
}

static void *shared_page(void *at)
{
	void *page = mmap(at, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);

	ck_assert_ptr_ne(page, MAP_FAILED);
	return page;
}

static void wake(uint32_t *word)
{
	ck_assert_int_ge(syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0), 0);
}

START_TEST(a_word_wakes)
{
	uint32_t *word = shared_page(NULL);

	if (!wait_has_words(w)) {
		if (wait_is_uring(w))
			printf("skipped: this kernel's io_uring waits for no word\n");
		wait_word(w, word, 0, 1);  /* does nothing */
		ck_assert(!woken());
		return;
	}
	wait_word(w, word, 0, 1);
	ck_assert(!woken());
	wake(word);
	ck_assert(woken());
	wait_word(w, word, 1, 1);          /* not the value: at once */
	ck_assert(woken());
	wait_word(w, word, 0, 1);
	ck_assert(!woken());
	/* Other memory at the same address: what was under way is for nothing. */
	ck_assert_ptr_eq(shared_page(word), word);
	wait_word(w, word, 0, 2);
	ck_assert(!woken() || !woken());   /* the old one's end is one completion */
	wake(word);
	ck_assert(woken());
	wait_word(w, word, 0, 2);
	wait_word(w, NULL, 0, 0);
	(void)woken();
	wake(word);
	ck_assert(!woken());
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("wait");

	for (int i = 0; i < 2; i++) {
		TCase *c = tcase_create(i ? "epoll" : "io_uring");
		tcase_add_checked_fixture(c, i ? setup_epoll : setup_uring, teardown);
		tcase_add_test(c, each_packet_is_an_event);
		tcase_add_test(c, what_was_there_before_is_reported);
		tcase_add_test(c, writable_comes_when_asked_for_and_there_is_room);
		tcase_add_test(c, a_removed_tag_is_silent);
		tcase_add_test(c, the_time_over_is_no_event);
		tcase_add_test(c, a_word_wakes);
		tcase_set_timeout(c, 20);
		suite_add_tcase(suite, c);
	}
	return suite_result(suite);
}
