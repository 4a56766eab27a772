/* test_session.c - requests from packets, text from tokens, resume as if nothing had happened. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "engine/session.h"
#include "tests/lib/suite.h"

static uint8_t packet[KVD_MSG_MAX];
static uint32_t status;
static char err[240];

static struct kvd_msg_request plain_head(uint32_t n_bytes)
{
	return (struct kvd_msg_request){
		.m = { .type = KVD_M_REQUEST, .size = sizeof(struct kvd_msg_request), .seq = 1 },
		.n_bytes = n_bytes, .raw = 1, .top_p = 1, .repeat_penalty = 1,
	};
}

static enum request_result send_head(struct request *r, const struct kvd_msg_request *head)
{
	return request_packet(r, head, sizeof(*head), &status, err, sizeof(err));
}

static enum request_result send_data(struct request *r, const void *bytes, size_t n)
{
	struct kvd_msg m = { .type = KVD_M_REQUEST_DATA, .size = (uint32_t)(sizeof(m) + n) };

	memcpy(packet, &m, sizeof(m));
	memcpy(packet + sizeof(m), bytes, n);
	return request_packet(r, packet, sizeof(m) + n, &status, err, sizeof(err));
}

START_TEST(a_request_comes_in_portions)
{
	struct request r = { 0 };
	struct kvd_msg_request head = plain_head(5);
	uint32_t ids[2] = { 11, 12 };
	size_t n;

	head.n_resume = 2;
	head.n_stop = 2;
	memcpy(head.stop, "ab\0c", 5);
	ck_assert_int_eq(send_head(&r, &head), REQUEST_MORE);
	ck_assert_int_eq(send_data(&r, "he", 2), REQUEST_MORE);
	ck_assert_int_eq(send_data(&r, "llo", 3), REQUEST_MORE);
	ck_assert_int_eq(send_data(&r, ids, 7), REQUEST_MORE);
	ck_assert_int_eq(send_data(&r, (char *)ids + 7, 1), REQUEST_COMPLETE);
	ck_assert_mem_eq(request_text(&r, &n), "hello", 5);
	ck_assert_uint_eq(n, 5);
	ck_assert_uint_eq(request_resume_id(&r, 0), 11);
	ck_assert_uint_eq(request_resume_id(&r, 1), 12);
	ck_assert_str_eq(request_stop(&r, 0), "ab");
	ck_assert_str_eq(request_stop(&r, 1), "c");
	ck_assert_ptr_null(request_stop(&r, 2));
	request_reset(&r);
}
END_TEST

static void refused(struct kvd_msg_request head, uint32_t want, const char *field)
{
	struct request r = { 0 };

	ck_assert_int_eq(send_head(&r, &head), REQUEST_REFUSED);
	ck_assert_uint_eq(status, want);
	ck_assert_msg(strstr(err, field) != NULL, "`%s' should name %s", err, field);
	request_reset(&r);
}

/* A raw request without text: the model speaks first (from its BOS token). */
START_TEST(a_request_without_text_is_complete_at_once)
{
	struct request r = { 0 };
	struct kvd_msg_request head = plain_head(0);

	ck_assert_int_eq(send_head(&r, &head), REQUEST_COMPLETE);
	ck_assert_int_eq(send_data(&r, "x", 1), REQUEST_REFUSED);
	request_reset(&r);
}
END_TEST

START_TEST(bad_fields_are_named)
{
	struct kvd_msg_request h;

	h = plain_head(UINT32_MAX), refused(h, KVD_S_BAD_REQUEST, "n_bytes");
	h = plain_head(1), h.n_resume = UINT32_MAX, refused(h, KVD_S_BAD_REQUEST, "n_resume");
	h = plain_head(1), h.raw = 2, refused(h, KVD_S_BAD_REQUEST, "raw");
	h = plain_head(1), h.flags = 0x80, refused(h, KVD_S_BAD_REQUEST, "flags");
	h = plain_head(1), h.temperature = NAN, refused(h, KVD_S_BAD_REQUEST, "temperature");
	h = plain_head(1), h.top_p = INFINITY, refused(h, KVD_S_BAD_REQUEST, "top_p");
	h = plain_head(1), h.n_stop = 1, refused(h, KVD_S_BAD_REQUEST, "stop");
	h = plain_head(1), h.n_stop = UINT32_MAX, refused(h, KVD_S_BAD_REQUEST, "stop");
	h = plain_head(1), h.n_stop = 1, memset(h.stop, 'x', sizeof(h.stop));
	refused(h, KVD_S_BAD_REQUEST, "stop");
	h = plain_head(1), h.m.size++, refused(h, KVD_S_PROTOCOL, "bytes");
	h = plain_head(1), h.m.type = KVD_M_HELLO, refused(h, KVD_S_PROTOCOL, "type");
}
END_TEST

START_TEST(packets_out_of_order_are_refused)
{
	struct request r = { 0 };
	struct kvd_msg_request head = plain_head(3);
	struct kvd_msg cancel = { .type = KVD_M_CANCEL, .size = sizeof(cancel) };

	ck_assert_int_eq(send_data(&r, "x", 1), REQUEST_REFUSED);
	ck_assert_int_eq(send_head(&r, &head), REQUEST_MORE);
	ck_assert_int_eq(send_data(&r, "four", 4), REQUEST_REFUSED);
	ck_assert_int_eq(send_data(&r, "", 0), REQUEST_REFUSED);
	ck_assert_int_eq(send_head(&r, &head), REQUEST_REFUSED);
	ck_assert_int_eq(send_data(&r, "abc", 3), REQUEST_COMPLETE);
	ck_assert_int_eq(send_data(&r, "x", 1), REQUEST_REFUSED);
	ck_assert_int_eq(request_packet(&r, &cancel, sizeof(cancel), &status, err, sizeof(err)),
			 REQUEST_CANCEL);
	ck_assert_int_eq(request_packet(&r, "", 1, &status, err, sizeof(err)), REQUEST_MORE);
	ck_assert_int_eq(request_packet(&r, "x", 1, &status, err, sizeof(err)), REQUEST_REFUSED);
	request_reset(&r);
}
END_TEST

/* A session over a vocabulary of bytes: token = byte value; 256 ends the answer. */
struct byte_request {
	const char *stop[4];
	uint32_t max_tokens, flags;
	const char *resume;
};

static int make(const struct byte_request *b, uint32_t n_ctx, struct session **ret)
{
	struct request r = { 0 };
	struct kvd_msg_request head = plain_head(1);
	const int32_t prompt[3] = { 'a', 'b', 'c' };
	size_t at = 0, n = b->resume ? strlen(b->resume) : 0;
	int result;

	head.max_tokens = b->max_tokens;
	head.flags = b->flags;
	head.n_resume = (uint32_t)n;
	for (; b->stop[head.n_stop]; head.n_stop++) {
		memcpy(head.stop + at, b->stop[head.n_stop], strlen(b->stop[head.n_stop]) + 1);
		at += strlen(b->stop[head.n_stop]) + 1;
	}
	ck_assert_int_eq(send_head(&r, &head), REQUEST_MORE);
	ck_assert_int_eq(send_data(&r, "x", 1), n ? REQUEST_MORE : REQUEST_COMPLETE);
	for (size_t i = 0; i < n; i++) {
		uint32_t id = (uint8_t)b->resume[i];
		ck_assert_int_eq(send_data(&r, &id, 4),
				 i + 1 < n ? REQUEST_MORE : REQUEST_COMPLETE);
	}
	result = session_new(&r, prompt, 3, n_ctx, 257, ret, err, sizeof(err));
	request_reset(&r);
	return result;
}

/* Feed bytes as tokens until the answer ends; append its text to text. */
static void feed(struct session *s, const char *bytes, char *text)
{
	static char out[SESSION_TEXT_MAX + 1];
	uint32_t n;

	for (; *bytes && !s->finish; bytes++) {
		session_accept(s, (uint8_t)*bytes, bytes, 1, false, out, &n);
		strncat(text, out, n);
	}
}

START_TEST(stop_strings_cut_the_text)
{
	static const struct { const char *stop[4], *in, *out; uint32_t n_generated; } cases[] = {
		{ { "END" }, "hello END more", "hello ", 9 },
		{ { "END" }, "E EN ENE ENDE", "E EN ENE ", 12 },
		{ { "aab" }, "aaaab!", "aa", 5 },
		{ { "xyz", "y" }, "abxyz", "abx", 4 },
		{ { "long one", "on" }, "a long one", "a l", 5 },
		{ { "\n" }, "line\nline", "line", 5 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct byte_request b = { 0 };
		struct session *s;
		char text[64] = "";
		memcpy(b.stop, cases[i].stop, sizeof(b.stop));
		ck_assert_int_eq(make(&b, 100, &s), 0);
		feed(s, cases[i].in, text);
		ck_assert_str_eq(text, cases[i].out);
		ck_assert_uint_eq(s->finish, KVD_FINISH_STOP);
		ck_assert_uint_eq(session_n_generated(s), cases[i].n_generated);
		session_free(s);
	}
}
END_TEST

START_TEST(a_stop_string_inside_one_token_is_found)
{
	struct byte_request b = { .stop = { "<|", "cd" } };
	struct session *s;
	char out[SESSION_TEXT_MAX];
	uint32_t n;

	ck_assert_int_eq(make(&b, 100, &s), 0);
	ck_assert(session_accept(s, 1, "abcdef<|", 8, false, out, &n));
	ck_assert_uint_eq(n, 2);
	ck_assert_mem_eq(out, "ab", 2);
	ck_assert_uint_eq(s->finish, KVD_FINISH_STOP);
	session_free(s);
}
END_TEST

START_TEST(what_was_held_back_comes_at_the_end)
{
	struct byte_request b = { .stop = { "STOP" }, .max_tokens = 6 };
	struct session *s;
	char text[64] = "", out[SESSION_TEXT_MAX];
	uint32_t n;

	ck_assert_int_eq(make(&b, 100, &s), 0);
	feed(s, "no STO", text);
	ck_assert_str_eq(text, "no STO");
	ck_assert_uint_eq(s->finish, KVD_FINISH_LENGTH);
	session_free(s);

	b.max_tokens = 0;
	ck_assert_int_eq(make(&b, 100, &s), 0);
	text[0] = 0;
	feed(s, "no STO\xe2\x82", text);
	ck_assert_str_eq(text, "no ");
	ck_assert_uint_eq(s->finish, 0);
	ck_assert(!session_accept(s, 256, "</s>", 4, true, out, &n));
	ck_assert_uint_eq(n, 6);
	ck_assert_mem_eq(out, "STO\xef\xbf\xbd", 6);
	ck_assert_uint_eq(s->finish, KVD_FINISH_STOP);
	ck_assert_uint_eq(session_n_generated(s), 8);
	session_free(s);
}
END_TEST

START_TEST(end_tokens_can_be_ignored)
{
	struct byte_request b = { .flags = KVD_REQ_IGNORE_END, .max_tokens = 2 };
	struct session *s;
	char out[SESSION_TEXT_MAX];
	uint32_t n;

	ck_assert_int_eq(make(&b, 100, &s), 0);
	ck_assert(session_accept(s, 256, "", 0, true, out, &n));
	ck_assert_uint_eq(s->finish, 0);
	ck_assert(session_accept(s, 256, "", 0, true, out, &n));
	ck_assert_uint_eq(s->finish, KVD_FINISH_LENGTH);
	session_free(s);
}
END_TEST

START_TEST(the_context_is_a_limit_with_numbers)
{
	struct byte_request b = { 0 };
	struct session *s;
	char text[64] = "";

	ck_assert_int_eq(make(&b, 3, &s), KVD_S_CONTEXT);
	ck_assert(strstr(err, "3 tokens") && strstr(err, "holds 3"));
	ck_assert_int_eq(make(&b, 5, &s), 0);
	feed(s, "xyz", text);
	ck_assert_str_eq(text, "xy");
	ck_assert_uint_eq(s->finish, KVD_FINISH_LENGTH);
	session_free(s);
	b.resume = "xyz";
	ck_assert_int_eq(make(&b, 5, &s), KVD_S_CONTEXT);
	ck_assert(strstr(err, "3 were generated"));
}
END_TEST

/* Cut an answer at every place, resume there: text, penalty, position and hash go on the same. */
START_TEST(resume_goes_on_where_the_dead_engine_stopped)
{
	static const char answer[] = "caf\xc3\xa9 STO \xe2\x82\xac STOP and more";
	struct byte_request b = { .stop = { "STOP" } };
	char whole[64] = "";
	struct session *s;
	size_t n_answer;

	ck_assert_int_eq(make(&b, 100, &s), 0);
	feed(s, answer, whole);
	n_answer = session_n_generated(s);
	session_free(s);
	ck_assert_str_eq(whole, "caf\xc3\xa9 STO \xe2\x82\xac ");
	for (size_t cut = 0; cut <= n_answer; cut++) {
		char before[64] = "", after[64] = "", replayed[64] = "", part[64] = "";
		memcpy(part, answer, cut);
		b.resume = NULL;
		ck_assert_int_eq(make(&b, 100, &s), 0);
		feed(s, part, before);
		session_free(s);
		b.resume = part;
		ck_assert_int_eq(make(&b, 100, &s), 0);
		ck_assert_uint_eq(s->n_resumed, cut);
		feed(s, part, replayed);
		ck_assert_str_eq(replayed, before);
		ck_assert_uint_eq(s->n_known, 3 + cut);
		feed(s, answer + cut, after);
		strcat(before, after);
		ck_assert_str_eq(before, whole);
		session_free(s);
	}
}
END_TEST

START_TEST(the_hash_covers_each_position_in_order)
{
	struct byte_request b = { .flags = KVD_REQ_LOGITS_HASH };
	static float one[257], two[257];
	struct sampler sampler;
	uint64_t hash[3];

	ck_assert_int_eq(sampler_init(&sampler, 257), 0);
	one[5] = 1;
	two[6] = 1;
	for (int i = 0; i < 3; i++) {
		struct session *s;
		ck_assert_int_eq(make(&b, 100, &s), 0);
		ck_assert_int_eq(session_choose(s, &sampler, i == 1 ? two : one), i == 1 ? 6 : 5);
		ck_assert_int_eq(session_choose(s, &sampler, i == 1 ? one : two), i == 1 ? 5 : 6);
		hash[i] = s->logits_hash;
		session_free(s);
	}
	ck_assert(hash[0] == hash[2] && hash[0] != hash[1] && hash[0]);
	sampler_deinit(&sampler);
}
END_TEST

START_TEST(the_median_is_of_intervals)
{
	struct byte_request b = { 0 };
	struct session *s;

	ck_assert_int_eq(make(&b, 100, &s), 0);
	ck_assert_uint_eq(session_median_usec(s), 0);
	session_clock(s, 1000);
	session_clock(s, 1010);
	session_clock(s, 1040);
	session_clock(s, 5040);
	ck_assert_uint_eq(session_median_usec(s), 30);
	ck_assert_uint_eq(s->first_usec, 1000);
	for (int i = 0; i < 1000; i++)
		session_clock(s, 5040 + 7 * (uint64_t)(i + 1));
	ck_assert_uint_eq(session_median_usec(s), 7);
	session_free(s);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_request_comes_in_portions, a_request_without_text_is_complete_at_once, bad_fields_are_named,
		packets_out_of_order_are_refused, stop_strings_cut_the_text,
		a_stop_string_inside_one_token_is_found, what_was_held_back_comes_at_the_end,
		end_tokens_can_be_ignored, the_context_is_a_limit_with_numbers,
		resume_goes_on_where_the_dead_engine_stopped, the_hash_covers_each_position_in_order,
		the_median_is_of_intervals,
	};
	return SUITE_RUN("session", 0, tests);
}
