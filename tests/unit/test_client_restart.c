/* test_client_restart.c - libkvd's client side when kvd dies: streams go on, name themselves to the next kvd when
 * their engine asks, calls in flight are asked again, deadlines hold.  The fake plays kvd and the engine. */
#include "kvd/kvd.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/packet.h"
#include "tests/lib/fake_kvd_client.h"
#include "tests/lib/slow.h"
#include "tests/lib/suite.h"

static _Alignas(8) uint8_t packet[KVD_MSG_MAX];
static struct fake_kvd fake;

/* ---- the other side ---- */

static void send_token(int fd, int32_t id, const char *text)
{
	struct {
		struct kvd_msg_tokens head;
		uint32_t payload[16];
	} tokens = { .head = { .m = { .type = KVD_M_TOKENS }, .n_ids = 1, .n_text = (uint32_t)strlen(text) } };

	tokens.head.m.size = (uint32_t)(sizeof(tokens.head) + 4 + strlen(text));
	memcpy(tokens.payload, &id, 4);
	memcpy(tokens.payload + 1, text, strlen(text));
	fake_kvd_send(fd, &tokens, tokens.head.m.size, NULL, 0);
}

static void send_end(int fd)
{
	struct kvd_msg_end end = { .m = { .type = KVD_M_END, .size = sizeof(end) },
				   .finish = KVD_FINISH_STOP, .completion_tokens = 2, .logits_hash = 77 };
	fake_kvd_send(fd, &end, sizeof(end), NULL, 0);
}

static void send_again(int fd, const char *ticket)
{
	struct kvd_msg_again again = { .m = { .type = KVD_M_AGAIN, .size = sizeof(again) } };
	snprintf((char *)again.ticket, sizeof(again.ticket), "%s", ticket);
	fake_kvd_send(fd, &again, sizeof(again), NULL, 0);
}

static void send_error(int control, uint32_t status)
{
	struct kvd_msg_error error = {
		.m = { .type = KVD_M_ERROR, .size = sizeof(error), .status = status,
		       .seq = ((const struct kvd_msg *)packet)->seq },
		.text = "no engine e1 is here",
	};
	fake_kvd_send(control, &error, sizeof(error), NULL, 0);
}

/* Introduce engine e1; returns its end with the request taken. */
static int introduce(int control, uint32_t *ret_n_resume)
{
	const struct kvd_msg_request *request = (const void *)packet;

	fake_kvd_receive_type(control, KVD_M_STREAM_OPEN, packet, sizeof(struct kvd_msg_stream_open));
	int engine = fake_kvd_introduce(control, ((const struct kvd_msg *)packet)->seq, "tiny", "e1");
	fake_kvd_receive_type(engine, KVD_M_REQUEST, packet, sizeof(*request));
	*ret_n_resume = request->n_resume;
	for (uint32_t left = request->n_bytes + 4 * request->n_resume; left > 0;
	     left -= ((const struct kvd_msg *)packet)->size - (uint32_t)sizeof(struct kvd_msg))
		fake_kvd_receive_type(engine, KVD_M_REQUEST_DATA, packet, sizeof(struct kvd_msg) + 1);
	return engine;
}

static void take_again(int control, const char *ticket)
{
	const struct kvd_msg_stream_again *again = (const void *)packet;

	fake_kvd_receive_type(control, KVD_M_STREAM_AGAIN, packet, sizeof(*again));
	FAKE_EXPECT(strcmp(again->engine, "e1") == 0 && strcmp((const char *)again->ticket, ticket) == 0);
}

/* The second kvd does not know the engine yet, then dies with the question in its hands; the third knows it.
 * The engine asks a second time for a fourth, which dies before it is asked. */
static void serve_named_again(int listen_fd)
{
	struct kvd_msg_stream known = { .m = { .type = KVD_M_STREAM, .size = sizeof(known) }, .client = 8 };
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	uint32_t n_resume;
	int engine = introduce(control, &n_resume);

	FAKE_EXPECT(n_resume == 0);
	send_token(engine, 1, "one ");
	close(control);
	send_again(engine, "ticket 1");
	control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	take_again(control, "ticket 1");
	send_error(control, KVD_S_NO_MODEL);
	take_again(control, "ticket 1");
	close(control);
	send_again(engine, "ticket 2");
	control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	take_again(control, "ticket 2");
	known.m.seq = ((const struct kvd_msg *)packet)->seq;
	fake_kvd_send(control, &known, sizeof(known), NULL, 0);
	send_token(engine, 2, "two");
	send_end(engine);
	FAKE_EXPECT(fake_kvd_receive(engine, packet) == 0);
	FAKE_EXPECT(fake_kvd_receive(control, packet) == 0);
}

/* kvd goes and nobody asks for anything: it was adopted, or the answer needs no more pages. */
static void serve_without_kvd(int listen_fd)
{
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	uint32_t n_resume;
	int engine = introduce(control, &n_resume);

	close(control);
	close(listen_fd);
	send_token(engine, 1, "one ");
	send_token(engine, 2, "two");
	send_end(engine);
	FAKE_EXPECT(fake_kvd_receive(engine, packet) == 0);
}

/* The next kvd is an older one: the stream is opened anew. */
static void serve_older_kvd(int listen_fd)
{
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	uint32_t n_resume;
	int engine = introduce(control, &n_resume);

	send_token(engine, 1, "one ");
	close(control);
	fake_kvd_version = 1;
	send_again(engine, "ticket");
	control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	FAKE_EXPECT(fake_kvd_receive(engine, packet) == 0);
	engine = introduce(control, &n_resume);
	FAKE_EXPECT(n_resume == 1);
	send_token(engine, 2, "two");
	send_end(engine);
	FAKE_EXPECT(fake_kvd_receive(engine, packet) == 0);
}

/* Dies with a STREAM_OPEN and with a QUERY in its hands. */
static void serve_calls_in_flight(int listen_fd)
{
	const struct kvd_msg_stream_open *open = (const void *)packet;
	struct kvd_msg_rows rows = { .m = { .type = KVD_M_ROWS, .size = sizeof(rows) },
				     .what = KVD_Q_FSCK, .row_bytes = sizeof(struct kvd_row_fsck) };
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);

	fake_kvd_receive_type(control, KVD_M_STREAM_OPEN, packet, sizeof(*open));
	FAKE_EXPECT(open->wait_ms == 0);
	close(control);
	control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	/* Engines are a moment behind: it waits for them without being told. */
	fake_kvd_receive_type(control, KVD_M_STREAM_OPEN, packet, sizeof(*open));
	FAKE_EXPECT(open->wait_ms > 2000);
	int engine = fake_kvd_introduce(control, open->m.seq, "tiny", "e1");
	send_token(engine, 1, "one ");
	send_token(engine, 2, "two");
	send_end(engine);
	fake_kvd_receive_type(control, KVD_M_QUERY, packet, sizeof(struct kvd_msg_query));
	close(control);
	control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	fake_kvd_receive_type(control, KVD_M_QUERY, packet, sizeof(struct kvd_msg_query));
	rows.m.seq = ((const struct kvd_msg *)packet)->seq;
	fake_kvd_send(control, &rows, sizeof(rows), NULL, 0);
	FAKE_EXPECT(fake_kvd_receive(control, packet) == 0);
}

/* kvd and the engine die together. */
static void serve_both_die(int listen_fd)
{
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	uint32_t n_resume;
	int engine = introduce(control, &n_resume);

	send_token(engine, 1, "one ");
	close(listen_fd);
	close(control);
	close(engine);
}

/* Nobody serves the model: says so when the time to wait is over. */
static void serve_nobody(int listen_fd)
{
	const struct kvd_msg_stream_open *open = (const void *)packet;
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);

	fake_kvd_receive_type(control, KVD_M_STREAM_OPEN, packet, sizeof(*open));
	FAKE_EXPECT(open->wait_ms > 100 && open->wait_ms <= 300);
	usleep(open->wait_ms * 1000);
	send_error(control, KVD_S_NO_MODEL);
	FAKE_EXPECT(fake_kvd_receive(control, packet) == 0);
}

static void serve_greeting(int listen_fd)
{
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	FAKE_EXPECT(fake_kvd_receive(control, packet) == 0);
}

/* ---- our side ---- */

static int generate(struct kvd_connection *c, uint32_t wait_ms, uint32_t deadline_ms, struct kvd_stream **ret)
{
	struct kvd_request request = KVD_REQUEST_INIT;
	request.text = "hello";
	request.text_bytes = 5;
	request.raw = 1;
	request.deadline_ms = deadline_ms;
	return kvd_generate(c, "tiny", NULL, wait_ms, &request, ret);
}

/* Read the stream to its end as a program with its own poll loop does. */
static void read_all(struct kvd_stream *s, int resumed, uint64_t hash)
{
	struct kvd_chunk chunk = { 0 };
	char text[64] = "";
	unsigned turns = 0;
	while (chunk.kind != KVD_CHUNK_END) {
		struct pollfd p = { .fd = kvd_stream_fd(s), .events = POLLIN };
		ck_assert_int_eq(poll(&p, 1, 5000 * test_slow()), 1);
		int r = kvd_next(s, 0, &chunk);
		ck_assert_msg(r == 0 || r == -EAGAIN, "%s", kvd_stream_error(s));
		if (r == 0 && chunk.kind == KVD_CHUNK_TOKENS)
			strncat(text, chunk.text, chunk.text_bytes);
		ck_assert_uint_lt(++turns, 2000);      /* it sleeps between two looks */
	}
	ck_assert_str_eq(text, "one two");
	ck_assert_int_eq(chunk.resumed, resumed);
	ck_assert_uint_eq(chunk.end->logits_hash, hash);
	kvd_stream_close(s);
}

/* A stream from its request to its end. */
static void one_stream(void (*serve)(int listen_fd), int resumed, uint64_t hash)
{
	struct kvd_connection *c = fake_kvd_connect(&fake, serve);
	struct kvd_stream *s;
	ck_assert_int_eq(generate(c, 0, 0, &s), 0);
	read_all(s, resumed, hash);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}

START_TEST(names_itself_to_the_next_kvd)
{
	one_stream(serve_named_again, 0, 77);
}
END_TEST

START_TEST(streams_need_no_kvd)
{
	one_stream(serve_without_kvd, 0, 77);
}
END_TEST

START_TEST(older_kvd_opens_anew)
{
	one_stream(serve_older_kvd, 1, 0);
}
END_TEST

START_TEST(calls_in_flight_are_asked_again)
{
	const void *rows;
	uint64_t n_rows;
	uint32_t row_bytes;
	struct kvd_connection *c = fake_kvd_connect(&fake, serve_calls_in_flight);
	struct kvd_stream *s;
	ck_assert_int_eq(generate(c, 0, 0, &s), 0);
	read_all(s, 0, 77);
	ck_assert_int_eq(kvd_query(c, KVD_Q_FSCK, NULL, &rows, &n_rows, &row_bytes), 0);
	ck_assert_uint_eq(n_rows, 0);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(deadline_without_engine_and_kvd)
{
	struct kvd_connection *c = fake_kvd_connect(&fake, serve_both_die);
	struct kvd_chunk chunk;
	struct kvd_stream *s;
	uint64_t began = kvd_clock_usec();
	int r;
	ck_assert_int_eq(generate(c, 0, 700 * test_slow(), &s), 0);
	while ((r = kvd_next(s, 10000 * (int)test_slow(), &chunk)) == 0)
		ck_assert_int_ne(chunk.kind, KVD_CHUNK_END);
	ck_assert_int_eq(r, KVD_S_DEADLINE);
	ck_assert_uint_ge(kvd_clock_usec() - began, 700000u * test_slow());
	ck_assert_uint_lt(kvd_clock_usec() - began, 5000000u * test_slow());
	ck_assert_ptr_nonnull(strstr(kvd_stream_error(s), fake.path));
	kvd_stream_close(s);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(deadline_before_an_engine)
{
	struct kvd_connection *c = fake_kvd_connect(&fake, serve_nobody);
	struct kvd_stream *s;
	ck_assert_int_eq(generate(c, 60000, 300, &s), KVD_S_DEADLINE);
	ck_assert_ptr_nonnull(strstr(kvd_error(c), "no engine"));
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(waits_for_kvd)
{
	struct kvd_connection *c;
	char hidden[128];
	uint64_t began = kvd_clock_usec();

	ck_assert_int_eq(kvd_connect_wait("/nowhere/kvd.sock", "test", NULL, 300, &c), -ENOENT);
	ck_assert_uint_ge(kvd_clock_usec() - began, 300000);
	ck_assert_ptr_nonnull(strstr(kvd_error(c), "/nowhere/kvd.sock"));
	kvd_close(c);
	/* Its socket appears while we wait. */
	fake_kvd_start(&fake, serve_greeting);
	snprintf(hidden, sizeof(hidden), "%s.hidden", fake.path);
	ck_assert_int_eq(rename(fake.path, hidden), 0);
	pid_t child = fork();
	if (child == 0) {
		usleep(300000);
		_exit(rename(hidden, fake.path) != 0);
	}
	int r = kvd_connect_wait(fake.path, "test", NULL, 20000, &c);
	ck_assert_msg(r == 0, "%s", kvd_error(c));
	kvd_close(c);
	ck_assert_int_eq(waitpid(child, NULL, 0), child);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		names_itself_to_the_next_kvd, streams_need_no_kvd, older_kvd_opens_anew,
		calls_in_flight_are_asked_again, deadline_without_engine_and_kvd, deadline_before_an_engine,
		waits_for_kvd,
	};
	return SUITE_RUN("client_restart", 60, tests);
}
