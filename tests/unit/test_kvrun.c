/* test_kvrun.c - kvrun's command line, and one answer from a fake engine: whole, cancelled,
 * refused. */
#include "client/kvrun/kvrun.h"

#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/fake_kvd.h"
#include "tests/lib/suite.h"

static _Alignas(8) uint8_t packet[KVD_MSG_MAX];
static struct fake_kvd fake;
static char error[256];

static int parse(struct kvrun_options *o, const char *line)
{
	static char copy[512];
	static char *argv[32];
	int argc = 1;
	snprintf(copy, sizeof(copy), "%s", line);
	argv[0] = "kvrun";
	for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;
	argv[argc] = NULL;
	return kvrun_arguments(argc, argv, o, error, sizeof(error));
}

START_TEST(arguments)
{
	struct kvrun_options o;
	ck_assert_int_eq(parse(&o, "hello --max-tokens 7 --temperature 0.5 --top-k 40 --top-p 0.9 "
				   "--min-p 0.1 --seed 18446744073709551615 "
				   "--stop a --stop bc --deadline 100 --wait 1.5 --private "
				   "--ignore-end --json world"),
			 0);
	ck_assert_uint_eq(o.n_words, 2);
	ck_assert_str_eq(o.words[1], "world");
	ck_assert_uint_eq(o.request.max_tokens, 7);
	ck_assert_uint_eq(o.request.seed, UINT64_MAX);
	ck_assert_uint_eq(o.request.n_stop, 2);
	ck_assert_str_eq(o.request.stop[1], "bc");
	ck_assert_uint_eq(o.wait_ms, 1500);
	ck_assert_uint_eq(o.request.flags,
			  KVD_REQ_PRIVATE | KVD_REQ_IGNORE_END | KVD_REQ_LOGITS_HASH);
	ck_assert_int_eq(parse(&o, "-"), 0);
	ck_assert_str_eq(o.words[0], "-");
	ck_assert_uint_eq(o.request.max_tokens, 512);
	ck_assert(o.request.temperature == 0.0f && o.request.top_p == 1.0f);
	static const char *const wrong[] = { "--top-p 7 x",
					     "--top-p 0 x",
					     "--temperature nan x",
					     "--temperature -1 x",
					     "--max-tokens -1 x",
					     "--max-tokens 1e3 x",
					     "--max-tokens 4294967296 x",
					     "--seed 99999999999999999999 x",
					     "--wait -1 x",
					     "--no-such x",
					     "a b c",
					     "--raw --system f x",
					     "--stop",
					     "--min-p 1.5 x",
					     NULL };
	for (unsigned i = 0; wrong[i]; i++) {
		ck_assert_msg(parse(&o, wrong[i]) == 2, "%s was taken", wrong[i]);
		ck_assert_uint_gt(strlen(error), 10);
	}
	ck_assert_int_eq(parse(&o, "--top-p 7 x"), 2);
	ck_assert_str_eq(error, "--top-p 7 is not a number above 0 and at most 1");
}
END_TEST

/* ---- the other side ---- */

static pid_t test_pid;

/* Ctrl-C for the test, if it still runs. */
static void interrupt_test(void)
{
	FAKE_EXPECT(getppid() == test_pid && kill(test_pid, SIGINT) == 0);
}

static int take_stream(int listen_fd, int *ret_control, char *text)
{
	const struct kvd_msg *m = (const void *)packet;
	*ret_control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	fake_kvd_receive_type(*ret_control, KVD_M_STREAM_OPEN, packet,
			      sizeof(struct kvd_msg_stream_open));
	int fd = fake_kvd_introduce(*ret_control, m->seq, "tiny", "e1");
	fake_kvd_receive_type(fd, KVD_M_REQUEST, packet, sizeof(struct kvd_msg_request));
	fake_kvd_receive_type(fd, KVD_M_REQUEST_DATA, packet, sizeof(*m) + 1);
	memcpy(text, packet + sizeof(*m), m->size - sizeof(*m));
	text[m->size - sizeof(*m)] = '\0';
	return fd;
}

static void send_token(int fd, int32_t id, const char *text)
{
	struct {
		struct kvd_msg_tokens head;
		int32_t id;
		char text[32];
	} tokens = { .head = { .m = { .type = KVD_M_TOKENS },
			       .n_ids = 1,
			       .n_text = (uint32_t)strlen(text) },
		     .id = id };
	tokens.head.m.size = (uint32_t)(sizeof(tokens.head) + 4 + strlen(text));
	memcpy(tokens.text, text, strlen(text));
	fake_kvd_send(fd, &tokens, tokens.head.m.size, NULL, 0);
}

static void send_end(int fd, uint32_t status, uint32_t finish, const char *text)
{
	struct kvd_msg_end end = {
		.m = { .type = KVD_M_END, .size = sizeof(end), .status = status },
		.finish = finish,
		.prompt_tokens = 20,
		.cached_tokens = 16,
		.completion_tokens = 2,
		.ttft_usec = 1500,
		.total_usec = 9000,
		.logits_hash = 0xabc,
	};
	snprintf(end.text, sizeof(end.text), "%s", text);
	fake_kvd_send(fd, &end, sizeof(end), NULL, 0);
}

static void serve_whole(int listen_fd)
{
	static char text[KVD_MSG_MAX];
	int control, fd = take_stream(listen_fd, &control, text);
	FAKE_EXPECT(strcmp(text, "[{\"role\":\"user\",\"content\":\"caf\xc3\xa9 \\\"x\\\"\"}]") ==
		    0);
	send_token(fd, 5, "a\xc3\xa9");
	send_token(fd, 6, "!");
	send_end(fd, 0, KVD_FINISH_LENGTH, "");
	FAKE_EXPECT(fake_kvd_receive(fd, packet) == 0);
}

static void serve_cancelled(int listen_fd)
{
	static char text[KVD_MSG_MAX];
	int control, fd = take_stream(listen_fd, &control, text);
	send_token(fd, 5, "a");
	interrupt_test();
	fake_kvd_receive_type(fd, KVD_M_CANCEL, packet, sizeof(struct kvd_msg));
	send_token(fd, 6, "b");
	send_end(fd, KVD_S_CANCELLED, KVD_FINISH_CANCEL, "");
	FAKE_EXPECT(fake_kvd_receive(fd, packet) == 0);
}

/* An engine that does not hear CANCEL: we leave all the same, and the hang-up says why. */
static void serve_deaf(int listen_fd)
{
	static char text[KVD_MSG_MAX];
	int control, fd = take_stream(listen_fd, &control, text);
	interrupt_test();
	fake_kvd_receive_type(fd, KVD_M_CANCEL, packet, sizeof(struct kvd_msg));
	FAKE_EXPECT(fake_kvd_receive(fd, packet) > 0);
	FAKE_EXPECT(fake_kvd_receive(fd, packet) == 0);
}

static void serve_deadline(int listen_fd)
{
	static char text[KVD_MSG_MAX];
	int control, fd = take_stream(listen_fd, &control, text);
	send_end(fd, KVD_S_DEADLINE, KVD_FINISH_ERROR,
		 "the deadline of 1 ms passed after 0 tokens");
	FAKE_EXPECT(fake_kvd_receive(fd, packet) == 0);
}

static int answer_from(void (*serve)(int listen_fd), struct kvrun_answer *ret)
{
	struct kvrun_options o;
	struct kvd_connection *c;
	json_t *messages = json_array();
	test_pid = getpid();
	fake_kvd_start(&fake, serve);
	ck_assert_int_eq(parse(&o, "--json"), 0);
	ck_assert_int_eq(kvd_connect(fake.path, "test", NULL, &c), 0);
	ck_assert_int_eq(kvrun_message(messages, "user", "caf\xc3\xa9 \"x\"", 9), 0);
	struct kvrun_text prompt = { .bytes = json_dumps(messages, JSON_COMPACT) };
	prompt.n = strlen(prompt.bytes);
	int r = kvrun_answer(c, &o, "tiny", &prompt, false, ret);
	free(prompt.bytes);
	json_decref(messages);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
	return r;
}

START_TEST(whole_answer)
{
	struct kvrun_answer a;
	ck_assert_int_eq(answer_from(serve_whole, &a), 0);
	json_t *root = kvrun_answer_json(&a);
	static const char *const fields[] = { "text",
					      "tokens",
					      "prompt_tokens",
					      "cached_tokens",
					      "completion_tokens",
					      "ttft_ms",
					      "itl_p50_ms",
					      "total_ms",
					      "finish_reason",
					      "engine",
					      "resumed",
					      "logits_hash",
					      NULL };
	for (unsigned i = 0; fields[i]; i++)
		ck_assert_msg(json_object_get(root, fields[i]) != NULL, "no %s", fields[i]);
	ck_assert_str_eq(json_string_value(json_object_get(root, "text")), "a\xc3\xa9!");
	ck_assert_int_eq(json_integer_value(json_array_get(json_object_get(root, "tokens"), 1)), 6);
	ck_assert_str_eq(json_string_value(json_object_get(root, "finish_reason")), "length");
	ck_assert_str_eq(json_string_value(json_object_get(root, "logits_hash")),
			 "0000000000000abc");
	ck_assert_str_eq(json_string_value(json_object_get(root, "engine")), "e1");
	ck_assert(json_real_value(json_object_get(root, "ttft_ms")) == 1.5);
	json_decref(root);
	kvrun_answer_free(&a);
}
END_TEST

START_TEST(interrupted_answers)
{
	struct kvrun_answer a;
	ck_assert_int_eq(kvrun_interrupt_open(), 0);
	kvrun_interrupt_arm(); /* the other side may be quicker than kvrun_answer() is to arm it */
	ck_assert_int_eq(answer_from(serve_cancelled, &a), KVRUN_INTERRUPTED);
	ck_assert(a.interrupted && a.ended);
	json_t *root = kvrun_answer_json(&a);
	ck_assert_str_eq(json_string_value(json_object_get(root, "finish_reason")), "cancel");
	json_decref(root);
	kvrun_answer_free(&a);
	kvrun_interrupt_arm();
	ck_assert_int_eq(answer_from(serve_deaf, &a), KVRUN_INTERRUPTED);
	ck_assert(!a.ended);
	kvrun_answer_free(&a);
}
END_TEST

START_TEST(deadline_passed)
{
	struct kvrun_answer a;
	ck_assert_int_eq(answer_from(serve_deadline, &a), 5);
	ck_assert_str_eq(a.error, "the deadline of 1 ms passed after 0 tokens");
	json_t *root = kvrun_answer_json(&a);
	ck_assert_str_eq(json_string_value(json_object_get(root, "finish_reason")), "deadline");
	json_decref(root);
	kvrun_answer_free(&a);
}
END_TEST

START_TEST(messages)
{
	json_t *m = json_array();
	ck_assert_int_eq(kvrun_message(m, "user", "\xff", 1), 2);
	ck_assert_uint_eq(json_array_size(m), 0);
	ck_assert_int_eq(kvrun_message(m, "system", "x", 1), 0);
	ck_assert_uint_eq(json_array_size(m), 1);
	json_decref(m);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		arguments, whole_answer, interrupted_answers, deadline_passed, messages,
	};
	return SUITE_RUN("kvrun", 30, tests);
}
