/* test_client_stream.c - libkvd's client side against a fake kvd: greeting, streams, failover,
 * last words. */
#include "kvd/kvd.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/fake_kvd_client.h"
#include "tests/lib/suite.h"

static _Alignas(8) uint8_t packet[KVD_MSG_MAX];
static struct fake_kvd fake;

/* ---- scripts of the other side ---- */

static void send_tokens(int fd, const int32_t *ids, uint32_t n_ids, const char *text)
{
	struct {
		struct kvd_msg_tokens head;
		uint32_t payload[64];
	} tokens = { .head = { .m = { .type = KVD_M_TOKENS },
			       .n_ids = n_ids,
			       .n_text = (uint32_t)strlen(text) } };

	tokens.head.m.size = (uint32_t)(sizeof(tokens.head) + n_ids * 4 + strlen(text));
	memcpy(tokens.payload, ids, n_ids * 4);
	memcpy(tokens.payload + n_ids, text, strlen(text));
	fake_kvd_send(fd, &tokens, tokens.head.m.size, NULL, 0);
}

static void send_started(int fd, uint32_t prompt, uint32_t cached)
{
	struct kvd_msg_started started = {
		.m = { .type = KVD_M_STARTED, .size = sizeof(started) }, .prompt_tokens = prompt,
		.cached_tokens = cached,
	};
	fake_kvd_send(fd, &started, sizeof(started), NULL, 0);
}

static void send_end(int fd, uint32_t status, uint32_t completion)
{
	struct kvd_msg_end end = {
		.m = { .type = KVD_M_END, .size = sizeof(end), .status = status },
		.finish = KVD_FINISH_STOP,
		.prompt_tokens = 9,
		.cached_tokens = 8,
		.completion_tokens = completion,
		.logits_hash = 77,
	};
	fake_kvd_send(fd, &end, sizeof(end), NULL, 0);
}

static void send_error(int fd, uint32_t seq, uint32_t status, const char *text)
{
	struct kvd_msg_error error = {
		.m = { .type = KVD_M_ERROR, .size = sizeof(error), .seq = seq, .status = status }
	};
	strncpy(error.text, text, sizeof(error.text) - 1);
	fake_kvd_send(fd, &error, sizeof(error), NULL, 0);
}

/* Take STREAM_OPEN and introduce an engine; returns its end. */
static int introduce(int control, const char *engine, const char *avoid)
{
	const struct kvd_msg_stream_open *open = (const void *)packet;
	fake_kvd_receive_type(control, KVD_M_STREAM_OPEN, packet, sizeof(*open));
	FAKE_EXPECT(strcmp(open->avoid, avoid) == 0);
	return fake_kvd_introduce(control, open->m.seq, "tiny", engine);
}

/* Take a request with its data; text goes to ret (NUL added), returns the resumed ids' number. */
static uint32_t take_request(int fd, struct kvd_msg_request *ret, char *text, size_t max,
			     int32_t *ids)
{
	fake_kvd_receive_type(fd, KVD_M_REQUEST, packet, sizeof(*ret));
	memcpy(ret, packet, sizeof(*ret));
	size_t want = ret->n_bytes + ret->n_resume * 4ul, have = 0;
	FAKE_EXPECT(want < max);
	while (have < want) {
		const struct kvd_msg_bytes *data = (const void *)packet;
		fake_kvd_receive_type(fd, KVD_M_REQUEST_DATA, packet, sizeof(*data) + 1);
		FAKE_EXPECT(have + data->m.size - sizeof(*data) <= want);
		memcpy(text + have, data->bytes, data->m.size - sizeof(*data));
		have += data->m.size - sizeof(*data);
	}
	memcpy(ids, text + ret->n_bytes, ret->n_resume * 4ul);
	text[ret->n_bytes] = '\0';
	return ret->n_resume;
}

static char big[1 << 20];
static int32_t big_ids[4096];

static void serve_plain(int listen_fd)
{
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	int engine = introduce(control, "e1", "");
	struct kvd_msg_request request;
	FAKE_EXPECT(take_request(engine, &request, big, sizeof(big), big_ids) == 0);
	FAKE_EXPECT(strcmp(big, "hello") == 0 && request.raw == 1 && request.max_tokens == 5);
	FAKE_EXPECT(request.n_stop == 2 && memcmp(request.stop, "a\0bc\0", 5) == 0);
	send_started(engine, 9, 8);
	send_tokens(engine, (const int32_t[]){ 4, 5 }, 2, "h\xc3\xa9");
	send_tokens(engine, (const int32_t[]){ 0 }, 0, "");
	send_tokens(engine, (const int32_t[]){ 6 }, 1, "");
	send_end(engine, 0, 3);
	FAKE_EXPECT(fake_kvd_receive(engine, packet) == 0);
}

static void serve_failover(int listen_fd)
{
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	int engine = introduce(control, "e1", "");
	struct kvd_msg_request request;
	FAKE_EXPECT(take_request(engine, &request, big, sizeof(big), big_ids) == 0);
	send_started(engine, 9, 0);
	send_tokens(engine, (const int32_t[]){ 10, 11 }, 2, "one ");
	close(engine);
	/* The next one dies before it says anything: no resumption is counted for it. */
	engine = introduce(control, "e2", "e1");
	FAKE_EXPECT(take_request(engine, &request, big, sizeof(big), big_ids) == 2);
	close(engine);
	/* In turn: now any engine may come, also one of the dead one's name. */
	const struct kvd_msg_stream_open *open = (const void *)packet;
	fake_kvd_receive_type(control, KVD_M_STREAM_OPEN, packet, sizeof(*open));
	FAKE_EXPECT(open->avoid[0] == '\0' && strcmp(open->model, "tiny") == 0);
	send_error(control, open->m.seq, KVD_S_NO_MODEL, "nobody");
	engine = introduce(control, "e3", "e2");
	FAKE_EXPECT(take_request(engine, &request, big, sizeof(big), big_ids) == 2);
	FAKE_EXPECT(big_ids[0] == 10 && big_ids[1] == 11 && strcmp(big, "hello") == 0);
	FAKE_EXPECT(request.deadline_ms > 0 && request.deadline_ms <= 60000);
	send_started(engine, 9, 9);
	send_tokens(engine, (const int32_t[]){ 12 }, 1, "two");
	send_end(engine, 0, 1);
	FAKE_EXPECT(fake_kvd_receive(engine, packet) == 0);
}

/* kvd itself goes away together with the engine and comes back. */
static void serve_restart(int listen_fd)
{
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	int engine = introduce(control, "e1", "");
	struct kvd_msg_request request;
	take_request(engine, &request, big, sizeof(big), big_ids);
	send_tokens(engine, (const int32_t[]){ 1 }, 1, "a");
	close(control);
	close(engine);
	control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	engine = introduce(control, "e1", "e1");
	FAKE_EXPECT(take_request(engine, &request, big, sizeof(big), big_ids) == 1);
	send_tokens(engine, (const int32_t[]){ 2 }, 1, "b");
	send_end(engine, 0, 2);
	FAKE_EXPECT(fake_kvd_receive(engine, packet) == 0);
}

/* Two streams of one connection lose their engines; a query comes in between; answers out of order. */
static void serve_two(int listen_fd)
{
	const struct kvd_msg_stream_open *open = (const void *)packet;
	const struct kvd_msg_query *query = (const void *)packet;
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	struct kvd_msg_request request;
	int a = introduce(control, "e1", "");
	take_request(a, &request, big, sizeof(big), big_ids);
	int b = introduce(control, "e1", "");
	take_request(b, &request, big, sizeof(big), big_ids);
	close(a);
	close(b);
	fake_kvd_receive_type(control, KVD_M_STREAM_OPEN, packet, sizeof(*open));
	uint32_t seq_a = open->m.seq;
	fake_kvd_receive_type(control, KVD_M_STREAM_OPEN, packet, sizeof(*open));
	uint32_t seq_b = open->m.seq;
	fake_kvd_receive_type(control, KVD_M_QUERY, packet, sizeof(*query));
	uint32_t seq_query = query->m.seq;
	b = fake_kvd_introduce(control, seq_b, "tiny", "e2");
	send_error(control, 999, KVD_S_INTERNAL, "an answer to nothing");
	send_error(control, seq_query, KVD_S_REFUSED, "only admins may ask that");
	a = fake_kvd_introduce(control, seq_a, "tiny", "e3");
	take_request(b, &request, big, sizeof(big), big_ids);
	send_tokens(b, (const int32_t[]){ 2 }, 1, "b");
	take_request(a, &request, big, sizeof(big), big_ids);
	send_tokens(a, (const int32_t[]){ 1 }, 1, "a");
	FAKE_EXPECT(fake_kvd_receive(a, packet) >=
		    sizeof(struct kvd_msg)); /* CANCEL of kvd_stream_close() */
	FAKE_EXPECT(fake_kvd_receive(a, packet) == 0);
}

static void serve_cancel(int listen_fd)
{
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	struct kvd_msg_request request;
	int engine = introduce(control, "e1", "");
	take_request(engine, &request, big, sizeof(big), big_ids);
	send_tokens(engine, (const int32_t[]){ 1 }, 1, "a");
	fake_kvd_receive_type(engine, KVD_M_CANCEL, packet, sizeof(struct kvd_msg));
	close(engine); /* dies instead of saying END: nothing is to be resumed */
	FAKE_EXPECT(fake_kvd_receive(control, packet) == 0);
}

static void serve_lost(int listen_fd)
{
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	struct kvd_msg_request request;
	int engine = introduce(control, "e1", "");
	take_request(engine, &request, big, sizeof(big), big_ids);
	close(engine);
	fake_kvd_receive_type(control, KVD_M_STREAM_OPEN, packet,
			      sizeof(struct kvd_msg_stream_open));
	send_error(control, ((const struct kvd_msg *)packet)->seq, KVD_S_REFUSED,
		   "the tenant is gone");
	FAKE_EXPECT(fake_kvd_receive(control, packet) == 0);
}

static void serve_broken(int listen_fd)
{
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	struct kvd_msg_request request;
	int engine = introduce(control, "e1", "");
	take_request(engine, &request, big, sizeof(big), big_ids);
	send_tokens(engine, (const int32_t[]){ 1 }, 1, "\xc3");
	FAKE_EXPECT(fake_kvd_receive(control, packet) == 0);
}

/* An engine that says why it will not serve and goes, without a look at the request. */
static void serve_last_words(int listen_fd)
{
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	for (int i = 0; i < 20; i++) {
		int engine = introduce(control, "e1", "");
		struct pollfd p = { .fd = engine, .events = POLLIN };
		FAKE_EXPECT(poll(&p, 1, 5000) == 1);
		send_end(engine, KVD_S_TOO_LARGE, 0);
		close(engine);
	}
	FAKE_EXPECT(fake_kvd_receive(control, packet) == 0);
}

static void serve_big(int listen_fd)
{
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	struct kvd_msg_request request;
	int engine = introduce(control, "e1", "");
	take_request(engine, &request, big, sizeof(big), big_ids);
	FAKE_EXPECT(request.n_bytes == 900000 && big[0] == 'x' && big[899999] == 'y');
	send_end(engine, KVD_S_CONTEXT, 0);
	FAKE_EXPECT(fake_kvd_receive(engine, packet) == 0);
}

/* ---- our side ---- */

static struct kvd_stream *generate(struct kvd_connection *c)
{
	struct kvd_request request = KVD_REQUEST_INIT;
	static const char *const stop[] = { "a", "bc" };
	struct kvd_stream *s;
	request.text = "hello";
	request.text_bytes = 5;
	request.raw = 1;
	request.max_tokens = 5;
	request.stop = stop;
	request.n_stop = 2;
	request.deadline_ms = 60000;
	int r = kvd_generate(c, "tiny", NULL, 0, &request, &s);
	ck_assert_msg(r == 0, "%s", kvd_error(c));
	return s;
}

static void next_text(struct kvd_stream *s, const char *text, int32_t first_id)
{
	struct kvd_chunk chunk;
	int r = kvd_next(s, 10000, &chunk);
	ck_assert_msg(r == 0, "%d %s", r, kvd_stream_error(s));
	ck_assert_int_eq(chunk.kind, KVD_CHUNK_TOKENS);
	ck_assert_uint_eq(chunk.text_bytes, strlen(text));
	ck_assert_mem_eq(chunk.text, text, strlen(text));
	ck_assert_int_eq(chunk.ids[0], first_id);
}

START_TEST(plain_stream)
{
	struct kvd_chunk chunk;
	struct kvd_connection *c = fake_kvd_connect(&fake, serve_plain);
	ck_assert_str_eq(kvd_welcome(c)->tenant, "acme");
	struct kvd_stream *s = generate(c);
	ck_assert_str_eq(kvd_stream_engine(s), "e1");
	ck_assert_int_eq(kvd_next(s, 10000, &chunk), 0);
	ck_assert_int_eq(chunk.kind, KVD_CHUNK_STARTED);
	ck_assert_uint_eq(chunk.prompt_tokens, 9);
	ck_assert_uint_eq(chunk.cached_tokens, 8);
	next_text(s, "h\xc3\xa9", 4);
	next_text(s, "", 6);
	ck_assert_int_eq(kvd_next(s, 10000, &chunk), 0);
	ck_assert_int_eq(chunk.kind, KVD_CHUNK_END);
	ck_assert_uint_eq(chunk.end->completion_tokens, 3);
	ck_assert_uint_eq(chunk.end->logits_hash, 77);
	ck_assert_int_eq(chunk.resumed, 0);
	ck_assert_int_eq(kvd_next(s, 0, &chunk), KVD_S_STALE);
	kvd_stream_close(s);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(failover)
{
	struct kvd_chunk chunk;
	struct kvd_connection *c = fake_kvd_connect(&fake, serve_failover);
	struct kvd_stream *s = generate(c);
	ck_assert_int_eq(kvd_next(s, 10000, &chunk), 0);
	ck_assert_int_eq(chunk.kind, KVD_CHUNK_STARTED);
	next_text(s, "one ", 10);
	next_text(s, "two", 12);
	ck_assert_str_eq(kvd_stream_engine(s), "e3");
	ck_assert_int_eq(kvd_next(s, 10000, &chunk), 0);
	ck_assert_int_eq(chunk.kind, KVD_CHUNK_END);
	ck_assert_int_eq(chunk.resumed, 1);
	ck_assert_uint_eq(chunk.end->completion_tokens, 3);
	ck_assert_uint_eq(chunk.end->cached_tokens, 0);
	ck_assert_uint_eq(chunk.end->logits_hash, 0);
	ck_assert_uint_gt(chunk.end->total_usec, 0);
	kvd_stream_close(s);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

/* The same for a caller that polls: the descriptor always becomes ready, kvd_next(s, 0) never
 * waits. */
START_TEST(failover_polled)
{
	struct kvd_chunk chunk = { 0 };
	struct kvd_connection *c = fake_kvd_connect(&fake, serve_failover);
	struct kvd_stream *s = generate(c);
	char text[64] = "";
	while (chunk.kind != KVD_CHUNK_END) {
		struct pollfd p = { .fd = kvd_stream_fd(s), .events = POLLIN };
		ck_assert_int_eq(poll(&p, 1, 5000), 1);
		int r = kvd_next(s, 0, &chunk);
		ck_assert(r == 0 || r == -EAGAIN);
		if (r == 0 && chunk.kind == KVD_CHUNK_TOKENS)
			strncat(text, chunk.text, chunk.text_bytes);
	}
	ck_assert_str_eq(text, "one two");
	kvd_stream_close(s);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(kvd_restarts)
{
	struct kvd_chunk chunk;
	struct kvd_connection *c = fake_kvd_connect(&fake, serve_restart);
	struct kvd_stream *s = generate(c);
	next_text(s, "a", 1);
	next_text(s, "b", 2);
	ck_assert_int_eq(kvd_next(s, 10000, &chunk), 0);
	ck_assert_int_eq(chunk.kind, KVD_CHUNK_END);
	ck_assert_int_eq(chunk.resumed, 1);
	kvd_stream_close(s);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(two_streams_recover)
{
	struct kvd_chunk chunk;
	const void *rows;
	uint64_t n_rows;
	uint32_t row_bytes;
	struct kvd_connection *c = fake_kvd_connect(&fake, serve_two);
	struct kvd_stream *a = generate(c), *b = generate(c);
	/* Both notice the death and ask; then a query crosses their answers. */
	ck_assert_int_eq(kvd_next(a, 300, &chunk), -EAGAIN);
	ck_assert_int_eq(kvd_next(b, 50, &chunk), -EAGAIN);
	ck_assert_int_eq(kvd_query(c, KVD_Q_PAGES, NULL, &rows, &n_rows, &row_bytes),
			 KVD_S_REFUSED);
	ck_assert_str_eq(kvd_error(c), "only admins may ask that");
	next_text(b, "b", 2);
	next_text(a, "a", 1);
	kvd_stream_close(a);
	kvd_close(c);
	kvd_stream_close(b);   /* also after its connection */
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(cancel_without_engine)
{
	struct kvd_chunk chunk;
	struct kvd_connection *c = fake_kvd_connect(&fake, serve_cancel);
	struct kvd_stream *s = generate(c);
	next_text(s, "a", 1);
	ck_assert_int_eq(kvd_cancel(s), 0);
	ck_assert_int_eq(kvd_next(s, 10000, &chunk), 0);
	ck_assert_int_eq(chunk.kind, KVD_CHUNK_END);
	ck_assert_uint_eq(chunk.end->finish, KVD_FINISH_CANCEL);
	ck_assert_uint_eq(chunk.end->completion_tokens, 1);
	kvd_stream_close(s);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(engine_lost_keeps_kvds_sentence)
{
	struct kvd_chunk chunk;
	struct kvd_connection *c = fake_kvd_connect(&fake, serve_lost);
	struct kvd_stream *s = generate(c);
	ck_assert_int_eq(kvd_next(s, 10000, &chunk), KVD_S_ENGINE_LOST);
	ck_assert_ptr_nonnull(strstr(kvd_stream_error(s), "the tenant is gone"));
	ck_assert_ptr_nonnull(strstr(kvd_stream_error(s), "e1"));
	ck_assert_int_eq(kvd_next(s, 0, &chunk), KVD_S_ENGINE_LOST);
	kvd_stream_close(s);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(engine_breaks_protocol)
{
	struct kvd_chunk chunk;
	struct kvd_connection *c = fake_kvd_connect(&fake, serve_broken);
	struct kvd_stream *s = generate(c);
	ck_assert_int_eq(kvd_next(s, 10000, &chunk), KVD_S_PROTOCOL);
	ck_assert_ptr_nonnull(strstr(kvd_stream_error(s), "UTF-8"));
	kvd_stream_close(s);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(last_words_are_heard)
{
	struct kvd_connection *c = fake_kvd_connect(&fake, serve_last_words);
	for (int i = 0; i < 20; i++) {
		struct kvd_chunk chunk;
		struct kvd_stream *s = generate(c);
		usleep(5000);   /* the engine has gone by now */
		int r = kvd_next(s, 10000, &chunk);
		ck_assert_msg(r == 0, "%d %s", r, kvd_stream_error(s));
		ck_assert_int_eq(chunk.kind, KVD_CHUNK_END);
		ck_assert_uint_eq(chunk.end->m.status, KVD_S_TOO_LARGE);
		kvd_stream_close(s);
	}
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(long_prompt)
{
	struct kvd_request request = KVD_REQUEST_INIT;
	struct kvd_stream *s;
	struct kvd_chunk chunk;
	char *text = malloc(900000);
	memset(text, 'x', 900000);
	text[899999] = 'y';
	struct kvd_connection *c = fake_kvd_connect(&fake, serve_big);
	request.text = text;
	request.text_bytes = 900000;
	ck_assert_int_eq(kvd_generate(c, "", NULL, 100, &request, &s), 0);
	free(text);
	ck_assert_int_eq(kvd_next(s, 10000, &chunk), 0);
	ck_assert_int_eq(chunk.kind, KVD_CHUNK_END);
	ck_assert_uint_eq(chunk.end->m.status, KVD_S_CONTEXT);
	kvd_stream_close(s);
	/* What cannot be asked is refused before anybody is disturbed. */
	request.temperature = -1;
	ck_assert_int_eq(kvd_generate(c, "", NULL, 0, &request, &s), KVD_S_BAD_REQUEST);
	ck_assert_ptr_nonnull(strstr(kvd_error(c), "temperature"));
	ck_assert_ptr_null(s);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		plain_stream, failover, failover_polled, kvd_restarts, two_streams_recover,
		cancel_without_engine, engine_lost_keeps_kvds_sentence, engine_breaks_protocol,
		last_words_are_heard, long_prompt,
	};
	return SUITE_RUN("client_stream", 30, tests);
}
