/* test_daemon_doorbell.c - the ways in which an engine and a real kvd wake each other: words (futex), bytes, and a kvd
 * that looks again and again. */
#include "tests/unit/daemon_raw_engine.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#include "tests/lib/slow.h"

static uint32_t load_word(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* kvd sleeps, and says how it wants to be woken. */
static uint32_t kvd_asleep(const struct raw_engine *engine)
{
	uint32_t bell;

	for (unsigned i = 0; !(bell = load_word(&engine->comp->kvd_sleeps)); i++) {
		ck_assert_uint_lt(i, 20000);
		usleep(1000);
	}
	return bell;
}

static void publish(struct raw_engine *engine)
{
	uint32_t tail = engine->sub->sq_tail;

	engine->sqes[tail & 15] = (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = 0, .user_data = tail };
	__atomic_store_n(&engine->sub->sq_tail, tail + 1, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* The completion has come within some seconds. */
static void completed(struct raw_engine *engine)
{
	for (unsigned i = 0; load_word(&engine->comp->cq_tail) == engine->cq_head; i++) {
		ck_assert_uint_lt(i, 20000);
		usleep(1000);
	}
	ck_assert_uint_eq(engine->cqes[engine->cq_head & (engine->attached.cq_entries - 1)].verb, KVD_SEQ_CLOSE);
	__atomic_store_n(&engine->sub->cq_head, ++engine->cq_head, __ATOMIC_RELEASE);
}

static void expect_no_byte(const struct raw_engine *engine)
{
	uint8_t rest[4096];
	ssize_t n;

	while ((n = recv(engine->fd, rest, sizeof(rest), MSG_DONTWAIT)) >= 0)
		ck_assert_int_ne(n, 1);    /* an extent to map may have come */
	ck_assert_int_eq(errno, EAGAIN);
}

/* The socket's timeout is what it waits at most. */
static void expect_byte(const struct raw_engine *engine)
{
	uint8_t rest[4096];
	ssize_t n;

	do
		n = recv(engine->fd, rest, sizeof(rest), 0);
	while (n > 1);
	ck_assert_int_eq(n, 1);
}

static void body_words(void)
{
	const struct timespec long_enough = { .tv_sec = 20 };
	struct raw_engine engine;

	attach_raw(&engine, "a");
	for (unsigned i = 0; i < 20; i++) {
		uint32_t tail = engine.cq_head;

		if (kvd_asleep(&engine) != KVD_BELL_FUTEX) {
			printf("skipped: this kernel's io_uring waits for no word\n");
			return;
		}
		__atomic_store_n(&engine.sub->engine_sleeps, KVD_BELL_FUTEX, __ATOMIC_SEQ_CST);
		publish(&engine);
		if (i % 4 == 3)            /* a byte does as well */
			ck_assert_int_eq(send(engine.fd, "", 1, MSG_NOSIGNAL), 1);
		else
			ck_assert_int_ge(syscall(SYS_futex, &engine.sub->sq_tail, FUTEX_WAKE, 1, NULL, NULL, 0), 0);
		while (load_word(&engine.comp->cq_tail) == tail)
			ck_assert(syscall(SYS_futex, &engine.comp->cq_tail, FUTEX_WAIT, tail, &long_enough, NULL,
					  0) == 0 || errno == EAGAIN || errno == EINTR);
		completed(&engine);
		expect_no_byte(&engine);
	}
	/* Wakes that mean nothing, and a flag that is none of the ways: a byte comes. */
	for (unsigned i = 0; i < 1000; i++)
		ck_assert_int_ge(syscall(SYS_futex, &engine.sub->sq_tail, FUTEX_WAKE, 1, NULL, NULL, 0), 0);
	expect_no_byte(&engine);
	__atomic_store_n(&engine.sub->engine_sleeps, 77u, __ATOMIC_SEQ_CST);
	publish(&engine);
	ck_assert_int_ge(syscall(SYS_futex, &engine.sub->sq_tail, FUTEX_WAKE, 1, NULL, NULL, 0), 0);
	completed(&engine);
	expect_byte(&engine);
}

static void body_bytes(void)
{
	struct raw_engine engine;

	attach_raw(&engine, "a");
	for (unsigned i = 0; i < 20; i++) {
		ck_assert_uint_eq(kvd_asleep(&engine), KVD_BELL_BYTE);
		/* An engine that waits for a word although kvd does not: woken by it all the same. */
		__atomic_store_n(&engine.sub->engine_sleeps, i % 2 ? KVD_BELL_BYTE : KVD_BELL_FUTEX, __ATOMIC_SEQ_CST);
		publish(&engine);
		ck_assert_int_eq(send(engine.fd, "", 1, MSG_NOSIGNAL), 1);
		completed(&engine);
		if (i % 2)
			expect_byte(&engine);
	}
}

/* As long as it spins nobody rings; messages are answered; then it sleeps. */
static void body_spin(void)
{
	struct raw_engine engine;
	unsigned silent = 0;

	attach_raw(&engine, "a");
	for (unsigned i = 0; i < 50; i++) {
		publish(&engine);
		if (load_word(&engine.comp->kvd_sleeps))
			ck_assert_int_eq(send(engine.fd, "", 1, MSG_NOSIGNAL), 1);
		else
			silent++;
		completed(&engine);
		if (i % 10 == 0)
			expect_clean();    /* a question on another connection */
	}
	ck_assert_uint_gt(silent, 0);
	(void)kvd_asleep(&engine);
}

static void run(const char *loop, const char *const *more, void (*body)(void))
{
	kvd_start(loop, more);
	ck_assert(ended(in_child(body)) == 0);
	expect_clean();
	kvd_stop();
}

START_TEST(words)
{
	run("auto", NULL, body_words);
}
END_TEST

START_TEST(bytes)
{
	if (_i)
		setenv("KVD_NO_FUTEX", "1", 1);
	run(_i ? "auto" : "epoll", NULL, body_bytes);
	unsetenv("KVD_NO_FUTEX");
}
END_TEST

START_TEST(spin)
{
	static const char *const half_a_second[] = { "--spin-usec", "500000", NULL };

	run(_i ? "epoll" : "auto", half_a_second, body_spin);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("doorbell");

	if (!have_kvd())
		return 0;
	signal(SIGPIPE, SIG_IGN);
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, words);
	tcase_add_loop_test(tcase, bytes, 0, 2);
	tcase_add_loop_test(tcase, spin, 0, 2);
	return run_tests("daemon_doorbell", tcase);
}
