/* test_kvctl_steer.c - what kvctl shows of memory, pressure, plans and events, what it takes on its command line,
 * and the conversation behind `pin`, `evict` and `events`, against a fake kvd. */
#include "client/kvctl/kvctl.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/fake_kvd.h"
#include "tests/lib/suite.h"

static char *text;
static size_t text_bytes;

static struct kvctl_view view_begin(bool json)
{
	free(text);
	text = NULL;
	return (struct kvctl_view){.out = open_memstream(&text, &text_bytes),
				   .json = json,
				   .headers = true,
				   .width = 80};
}

static json_t *view_json(struct kvctl_view *v)
{
	json_error_t error;
	fclose(v->out);
	json_t *root = json_loads(text, 0, &error);
	ck_assert_msg(root != NULL, "%s in %s", error.text, text);
	return root;
}

static json_int_t integer(json_t *object, const char *field)
{
	json_t *value = json_object_get(object, field);
	ck_assert_msg(json_is_integer(value), "%s is no integer", field);
	return json_integer_value(value);
}

static void is_text(json_t *object, const char *field, const char *expected)
{
	const char *value = json_string_value(json_object_get(object, field));
	ck_assert_msg(value && !strcmp(value, expected), "%s is %s", field, value ? value : "no text");
}

#define ROWS(array) ((struct kvctl_rows){ .rows = array, .n = sizeof(array) / sizeof(*(array)), \
	.row_bytes = sizeof(*(array)) })

/* ---- showers ---- */

START_TEST(smaps_is_as_in_proc)
{
	struct kvd_row_smaps s[] = {
		{ .name = "acme", .rss_bytes = 30720, .pss_bytes = 20480, .private_clean_bytes = 8192,
		  .private_dirty_bytes = 2048, .shared_clean_bytes = 20480, .swap_bytes = 1024, .pages = 3 },
		{ .name = "e1", .rss_bytes = 4096, .pss_bytes = 4096, .private_clean_bytes = 4096, .kind = 1 },
	};
	struct kvctl_rows rows = ROWS(s);
	struct kvctl_view v = view_begin(false);
	v.arguments = (struct kvctl_arguments){ .word = { "acme" }, .n_words = 1 };
	ck_assert_int_eq(kvctl_show_smaps(&v, true, &rows), 0);
	fclose(v.out);
	ck_assert_str_eq(text, "tenant acme\n"
			       "Rss:                    30 kB\n"
			       "Pss:                    20 kB\n"
			       "Shared_Clean:           20 kB\n"
			       "Private_Clean:           8 kB\n"
			       "Private_Dirty:           2 kB\n"
			       "Swap:                    1 kB\n");
	v = view_begin(true);
	ck_assert_int_eq(kvctl_show_smaps(&v, false, &rows), 0);
	json_t *all = view_json(&v), *row = json_array_get(all, 0);
	ck_assert_uint_eq(json_array_size(all), 2);
	ck_assert_int_eq(integer(row, "Rss"), 30);
	ck_assert_int_eq(integer(row, "Swap"), 1);
	ck_assert_uint_eq(json_object_size(row), 4); /* nothing that depends on others */
	json_decref(all);
	v = view_begin(true);
	v.arguments = (struct kvctl_arguments){ .word = { "nobody" }, .n_words = 1 };
	ck_assert_int_eq(kvctl_show_smaps(&v, true, &rows), 1);
	fclose(v.out);
}
END_TEST

START_TEST(prefixes_have_names)
{
	struct kvd_row_prefix p[] = {
		{ .id = 0x7f3a9c010000001bull, .bytes = 8192, .own_bytes = 4096, .idle_usec = 2000000, .hits = 9,
		  .tokens = 32, .pages = 2, .holders = 1, .claims = 3, .pinned = 1, .published = 2, .tenant = "acme",
		  .model = "m\x01" },
	};
	struct kvctl_rows rows = ROWS(p);
	struct kvctl_view v = view_begin(true);
	ck_assert_int_eq(kvctl_show_prefixes(&v, &rows), 0);
	json_t *all = view_json(&v), *row = json_array_get(all, 0);
	is_text(row, "id", "7f3a9c01-1b");
	is_text(row, "model", "m?");
	ck_assert_int_eq(integer(row, "hits"), 9);
	ck_assert_int_eq(integer(row, "own_bytes"), 4096);
	ck_assert(json_is_true(json_object_get(row, "pinned")));
	ck_assert(json_is_false(json_object_get(row, "published")));
	json_decref(all);
	v = view_begin(false);
	v.headers = false;
	ck_assert_int_eq(kvctl_show_prefixes(&v, &rows), 0);
	fclose(v.out);
	ck_assert_msg(strstr(text, "7f3a9c01-1b  32  2  1  3  9  ") &&
			      strstr(text, "yes  below  acme  m?"),
		      "%s", text);
}
END_TEST

START_TEST(psi_is_the_kernels_text)
{
	struct kvd_row_psi p[] = {
		{.some_total_usec = 18274411,
		 .full_total_usec = 7,
		 .some_avg10 = 31,
		 .some_avg60 = 1205,
		 .full_avg300 = 2},
		{.tenant = "acme", .some_avg10 = 10000},
	};
	struct kvctl_rows rows = ROWS(p);
	struct kvctl_view v = view_begin(false);
	ck_assert_int_eq(kvctl_show_psi(&v, &rows), 0);
	fclose(v.out);
	ck_assert_str_eq(text, "some avg10=0.31 avg60=12.05 avg300=0.00 total=18274411\n"
			       "full avg10=0.00 avg60=0.00 avg300=0.02 total=7\n");
	v = view_begin(false);
	v.arguments = (struct kvctl_arguments){ .word = { "acme" }, .n_words = 1 };
	ck_assert_int_eq(kvctl_show_psi(&v, &rows), 0);
	fclose(v.out);
	ck_assert_str_eq(text, "some avg10=100.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 "
			       "avg60=0.00 avg300=0.00 "
			       "total=0\n");
	uint64_t number[8] = { 0 };
	ck_assert(kvctl_trigger_parse("some 150000 1000000", number));
	ck_assert(number[0] == 0 && number[1] == 150000 && number[2] == 1000000);
	ck_assert(kvctl_trigger_parse("full 1 2", number) && number[0] == 1);
	static const char *const wrong[] = { "", "some", "some 1", "some  1 2", "some 1 2 ", "none 1 2", "some -1 2",
					     "some 1 99999999999999999999999" };
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		ck_assert_msg(!kvctl_trigger_parse(wrong[i], number), "%s", wrong[i]);
}
END_TEST

START_TEST(plans_say_why)
{
	struct kvd_row_plan p[] = {
		{.tenant = "acme",
		 .prefix = 0x100000002ull,
		 .class = KVD_CLASS_OVER_HIGH,
		 .frees_bytes = 4096},
		{.tenant = "birch",
		 .prefix = 0x100000003ull,
		 .class = KVD_CLASS_IN_USE,
		 .rank = UINT32_MAX,
		 .holds = 2},
		{.tenant = "oak",
		 .prefix = 0x100000004ull,
		 .class = KVD_CLASS_IN_USE,
		 .rank = UINT32_MAX,
		 .pinned = 1},
		{.tenant = "ash",
		 .prefix = 0x100000005ull,
		 .class = 99,
		 .rank = 3,
		 .hits_256 = 384},
	};
	struct kvctl_rows rows = ROWS(p);
	struct kvctl_view v = view_begin(true);
	ck_assert_int_eq(kvctl_show_plan(&v, &rows), 0);
	json_t *all = view_json(&v);
	is_text(json_array_get(all, 0), "class", "over-high");
	ck_assert_int_eq(integer(json_array_get(all, 0), "rank"), 0);
	ck_assert(json_is_null(json_object_get(json_array_get(all, 1), "rank")));
	is_text(json_array_get(all, 1), "why", "a sequence has it in its table");
	is_text(json_array_get(all, 2), "why", "an administrator has pinned it");
	is_text(json_array_get(all, 3), "class", "unknown");
	ck_assert(json_real_value(json_object_get(json_array_get(all, 3), "hits")) == 1.5);
	json_decref(all);
	v = view_begin(false);
	ck_assert_int_eq(kvctl_show_plan(&v, &rows), 0);
	fclose(v.out);
	ck_assert(strstr(text, "00000001-2") && strstr(text, "pinned it"));
}
END_TEST

START_TEST(events_are_lines)
{
	struct kvd_msg_event e = { .kind = KVD_EVENT_EVICT, .number = 5, .realtime_usec = 1700000000123456ull, .a = 3,
		.b = 12288, .slot = UINT32_MAX, .tenant = "acme", .text = "for birch", .lost = 4 };
	struct kvctl_view v = view_begin(false);
	kvctl_show_event(&v, &e);
	fclose(v.out);
	ck_assert_msg(strstr(text, "4 events lost") && strstr(text, ".123 evict") &&
			      strstr(text, "pages=3 bytes=12288") && strstr(text, "  for birch\n"),
		      "%s", text);
	v = view_begin(true);
	v.pretty = true;
	kvctl_show_event(&v, &e);
	json_t *object = view_json(&v);
	ck_assert_ptr_eq(strchr(text, '\n'), text + strlen(text) - 1); /* one line, whoever reads */
	is_text(object, "event", "evict");
	ck_assert_int_eq(integer(object, "lost"), 4);
	ck_assert(json_is_null(json_object_get(object, "slot")));
	json_decref(object);
	e.kind = 4000;
	v = view_begin(true);
	kvctl_show_event(&v, &e);
	object = view_json(&v);
	is_text(object, "event", "unknown");
	json_decref(object);
}
END_TEST

START_TEST(cost_and_trace_fields)
{
	struct kvd_row_cost c[] = { { .tenant = "acme", .computed_tokens = 1, .rss_byte_seconds = 1ull << 50 } };
	struct kvd_row_trace t[] = {
		{ .engine = "e", .kind = KVD_TRACE_SUBMIT, .verb = 3, .slot = 2, .a = 1, .b = 4 },
		{ .kind = KVD_TRACE_MOVED, .verb = 3, .slot = UINT32_MAX, .status = 3, .a = 1, .b = UINT32_MAX },
		{ .kind = 77, .verb = 999 },
	};
	struct kvctl_rows costs = ROWS(c), traces = ROWS(t);
	struct kvctl_view v = view_begin(true);
	ck_assert_int_eq(kvctl_show_cost(&v, &costs), 0);
	json_t *all = view_json(&v);
	ck_assert_int_eq(integer(json_array_get(all, 0), "rss_byte_seconds"), 1ll << 50);
	json_decref(all);
	v = view_begin(true);
	ck_assert_int_eq(kvctl_show_trace(&v, &traces), 0);
	all = view_json(&v);
	is_text(json_array_get(all, 0), "verb", "seal");
	is_text(json_array_get(all, 1), "verb", "compare");
	is_text(json_array_get(all, 1), "status", "differs");
	ck_assert(json_is_null(json_object_get(json_array_get(all, 1), "b")));
	is_text(json_array_get(all, 2), "what", "unknown");
	json_decref(all);
	v = view_begin(false);
	ck_assert_int_eq(kvctl_show_trace(&v, &traces), 0);
	fclose(v.out);
}
END_TEST

/* ---- the command line ---- */

static int parse(struct kvctl_line *line, const char *words)
{
	static char copy[512], *argv[40];
	int argc = 0;
	snprintf(copy, sizeof(copy), "%s", words);
	argv[argc++] = "kvctl";
	for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;
	*line = (struct kvctl_line){ .view = { .headers = true } };
	return kvctl_arguments(line, argc, argv);
}

START_TEST(arguments)
{
	struct kvctl_line line;
	ck_assert_int_eq(parse(&line, "evict --tenant red --bytes 3M --dry-run --json"), 0);
	ck_assert_str_eq(line.command->name, "evict");
	ck_assert(line.view.arguments.dry_run && line.view.json && line.view.arguments.bytes == 3u << 20);
	ck_assert_int_eq(parse(&line, "drain e1 --wait --timeout 2.5"), 0);
	ck_assert(line.view.arguments.wait && line.view.arguments.timeout_seconds == 2.5);
	ck_assert_int_eq(parse(&line, "events -w"), 0);
	ck_assert(line.view.arguments.follow);
	ck_assert_int_eq(parse(&line, "pin --help"), 0);
	ck_assert(line.help);
	static const char *const wrong[][2] = {
		{"", "no command"},
		{"pin", "needs ID"},
		{"pin a b", "too many"},
		{"prefixs", "prefixes"},
		{"evict --bytes much", "no size"},
		{"evict --bytes 0", "no size"},
		{"evict --prefix 12", "prefix"},
		{"status --nonsense", "unknown option"},
		{"drain e --timeout", "needs a value"},
		{"record f --seconds -3", "seconds"},
		{"map --by colour", "none of"},
	};
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		ck_assert_int_eq(parse(&line, wrong[i][0]), 2);
		ck_assert_msg(strstr(line.error, wrong[i][1]), "%s: %s", wrong[i][0], line.error);
	}
	uint64_t bytes;
	ck_assert(kvctl_size_parse("4k", &bytes) && bytes == 4096);
	ck_assert(!kvctl_size_parse("4kb", &bytes) && !kvctl_size_parse("99999999999999999999", &bytes) &&
		  !kvctl_size_parse("9999999T", &bytes) && !kvctl_size_parse("", &bytes));
}
END_TEST

/* ---- over the wire ---- */

static _Alignas(8) uint8_t packet[KVD_MSG_MAX];
static struct fake_kvd fake;

static const struct kvd_msg_steer *next_steer(int fd, uint32_t what)
{
	const struct kvd_msg_steer *m = (const void *)packet;
	fake_kvd_receive_type(fd, KVD_M_STEER, packet, sizeof(*m));
	FAKE_EXPECT(m->what == what);
	return m;
}

static void answer(int fd, uint32_t pages, uint32_t more)
{
	const struct kvd_msg_steer *m = (const void *)packet;
	struct kvd_msg_steered reply = { .m = { .type = KVD_M_STEERED, .size = sizeof(reply), .seq = m->m.seq },
		.what = m->what, .pages = pages, .bytes = pages * 4096ull, .more = more };
	fake_kvd_send(fd, &reply, sizeof(reply), NULL, 0);
}

static void serve_steer(int listen_fd)
{
	int fd = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	FAKE_EXPECT(next_steer(fd, KVD_STEER_PIN)->number[0] == 0x7f3a9c010000001bull);
	answer(fd, 6, 0);
	struct kvd_msg_error error = { .m = { .type = KVD_M_ERROR, .size = sizeof(error), .status = KVD_S_LIMIT },
		.need = 3, .have = 2, .text = "pins hold too much" };
	error.m.seq = next_steer(fd, KVD_STEER_PIN)->m.seq;
	fake_kvd_send(fd, &error, sizeof(error), NULL, 0);
	const struct kvd_msg_steer *m = next_steer(fd, KVD_STEER_EVICT);
	FAKE_EXPECT(!strcmp(m->argument, "red") && m->number[0] == 0 && m->number[1] == 40960);
	answer(fd, 4, 1);                    /* out of breath: asked again for the rest */
	FAKE_EXPECT(next_steer(fd, KVD_STEER_EVICT)->number[1] == 40960 - 16384);
	answer(fd, 6, 0);
	m = next_steer(fd, KVD_STEER_QUOTA);
	FAKE_EXPECT(!strcmp(m->argument, "red") && m->number[7] == (8 | 16) &&
		    m->number[3] == 1u << 30 && m->number[4] == 7);
	answer(fd, 0, 0);
	fake_kvd_receive_type(fd, KVD_M_QUERY, packet, sizeof(struct kvd_msg_query));
	error.m.seq = ((const struct kvd_msg *)packet)->seq;
	error.m.status = KVD_S_REFUSED;
	fake_kvd_send(fd, &error, sizeof(error), NULL, 0);
	FAKE_EXPECT(fake_kvd_receive(fd, packet) == 0);
}

static struct kvctl_view steer_view(const char *a, const char *b, const char *c)
{
	struct kvctl_view v = view_begin(false);
	v.arguments = (struct kvctl_arguments){.word = {a, b, c},
					       .n_words = (a != NULL) + (b != NULL) + (c != NULL)};
	return v;
}

START_TEST(steering)
{
	struct kvd_connection *c;
	fake_kvd_start(&fake, serve_steer);
	ck_assert_int_eq(kvd_connect(fake.path, "test", NULL, &c), 0);
	struct kvctl_view v = steer_view("7f3a9c01-1b", NULL, NULL);
	ck_assert_int_eq(kvctl_pin(&v, c), 0);
	fclose(v.out);
	ck_assert_str_eq(text, "pinned 7f3a9c01-1b: 6 pages, 24.0K\n");
	v = steer_view("7f3a9c01-1b", NULL, NULL);
	ck_assert_int_eq(kvctl_pin(&v, c), 1);
	fclose(v.out);
	v = steer_view(NULL, NULL, NULL);
	v.arguments.tenant = "red";
	v.arguments.bytes = 40960;
	ck_assert_int_eq(kvctl_evict(&v, c), 0);
	fclose(v.out);
	ck_assert_str_eq(text, "evicted 10 pages, 40.0K\n");
	v = steer_view("red", "max=1G", "weight=7");
	ck_assert_int_eq(kvctl_quota(&v, c), 4); /* what it then shows is refused */
	fclose(v.out);
	v = steer_view("red", "max=1G", "weight=heavy");
	ck_assert_int_eq(kvctl_quota(&v, c), 2);
	fclose(v.out);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

#define FLOOD 700u

static void serve_events(int listen_fd)
{
	int fd = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	struct kvd_msg_event event = { .m = { .type = KVD_M_EVENT, .size = sizeof(event) }, .slot = UINT32_MAX };
	next_steer(fd, KVD_STEER_WATCH);
	answer(fd, 0, 0);
	next_steer(fd, KVD_STEER_PIN);       /* events come while something else is waited for */
	for (uint32_t i = 1; i <= FLOOD; i++) {
		event.number = i;
		event.kind = KVD_EVENT_SEAL;
		fake_kvd_send(fd, &event, sizeof(event), NULL, 0);
		if (i % 100 == 0)
			usleep(20000);       /* let it take them */
	}
	answer(fd, 1, 0);
	next_steer(fd, KVD_STEER_UNPIN);     /* it has taken what was queued: there is room for the last one */
	answer(fd, 1, 0);
	event.number = FLOOD + 1;
	event.kind = KVD_EVENT_STEER;
	fake_kvd_send(fd, &event, sizeof(event), NULL, 0);
	event.m.size = 64;                   /* too short: the protocol is broken */
	fake_kvd_send(fd, &event, 64, NULL, 0);
	(void)fake_kvd_receive(fd, packet);
}

START_TEST(events_queue_is_bounded)
{
	struct kvd_connection *c;
	struct kvd_msg_event event;
	uint64_t number[8] = { 1 }, seen = 0;
	int r;
	fake_kvd_start(&fake, serve_events);
	ck_assert_int_eq(kvd_connect(fake.path, "test", NULL, &c), 0);
	ck_assert_int_eq(kvd_event(c, 0, &event), KVD_S_STALE); /* nothing is watched yet */
	ck_assert_int_eq(kvd_steer(c, KVD_STEER_WATCH, NULL, NULL, -1, NULL), 0);
	ck_assert_int_eq(kvd_steer(c, KVD_STEER_PIN, NULL, number, -1, NULL), 0);
	while ((r = kvd_event(c, 0, &event)) == 0) {
		seen += 1 + event.lost;
		ck_assert_uint_eq(seen, event.number);
	}
	ck_assert_int_eq(r, -EAGAIN);
	ck_assert_int_eq(kvd_steer(c, KVD_STEER_UNPIN, NULL, number, -1, NULL), 0);
	while ((r = kvd_event(c, 2000, &event)) == 0) {
		seen += 1 + event.lost;
		ck_assert_uint_eq(seen, event.number); /* each is either here or counted */
		if (event.kind == KVD_EVENT_STEER)
			break;
	}
	ck_assert_int_eq(r, 0);
	ck_assert_uint_eq(seen, FLOOD + 1);
	ck_assert_uint_gt(event.lost, 100);
	ck_assert_int_eq(kvd_event(c, 2000, &event), -ENOTCONN);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("kvctl_steer");
	TCase *t = tcase_create("all");
	tcase_add_test(t, smaps_is_as_in_proc);
	tcase_add_test(t, prefixes_have_names);
	tcase_add_test(t, psi_is_the_kernels_text);
	tcase_add_test(t, plans_say_why);
	tcase_add_test(t, events_are_lines);
	tcase_add_test(t, cost_and_trace_fields);
	tcase_add_test(t, arguments);
	tcase_add_test(t, steering);
	tcase_add_test(t, events_queue_is_bounded);
	tcase_set_timeout(t, 30);
	suite_add_tcase(s, t);
	int failed = suite_result(s);
	free(text);
	return failed;
}
