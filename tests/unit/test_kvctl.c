/* test_kvctl.c - what kvctl makes of rows: JSON fields that stay, tables, the map, the shared runs. */
#include "client/kvctl/kvctl.h"
#include "tests/lib/suite.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static char *text;
static size_t text_bytes;

static struct kvctl_view view_begin(bool json)
{
	free(text);
	text = NULL;
	return (struct kvctl_view){
		.out = open_memstream(&text, &text_bytes),
		.json = json,
		.headers = true,
		.width = 80,
	};
}

static json_t *view_json(struct kvctl_view *v)
{
	json_error_t error;
	fclose(v->out);
	json_t *root = json_loads(text, 0, &error);
	ck_assert_msg(root != NULL, "%s in %s", error.text, text);
	return root;
}

static void expect_text(struct kvctl_view *v, const char *const *parts)
{
	fclose(v->out);
	for (; *parts; parts++)
		ck_assert_msg(strstr(text, *parts) != NULL, "no \"%s\" in:\n%s", *parts, text);
}

static void expect_fields(json_t *object, const char *const *fields)
{
	ck_assert(json_is_object(object));
	for (; *fields; fields++)
		ck_assert_msg(json_object_get(object, *fields) != NULL, "no field %s", *fields);
}

static json_int_t integer(json_t *object, const char *field)
{
	json_t *value = json_object_get(object, field);
	ck_assert_msg(json_is_integer(value), "%s is no integer", field);
	return json_integer_value(value);
}

static struct kvctl_rows rows_of(const void *rows, uint64_t n, uint32_t row_bytes)
{
	return (struct kvctl_rows){ .rows = rows, .n = n, .row_bytes = row_bytes };
}

static const struct kvd_msg_welcome admin = {
	.admin = 1,
	.uid = 1001,
	.gid = 100,
	.pid = 42,
	.page_tokens = 16,
	.pool_bytes = 4 << 20,
	.extent_bytes = 1 << 20,
	.tenant = "acme",
	.domain = "group",
	.kvd_version = "0.1.0",
	.version = 1,
};

static struct kvd_row_status status_row(void)
{
	struct kvd_row_status s = {
		.pool_bytes = 4 << 20,
		.extent_bytes = 1 << 20,
		.tail_bytes = 1000,
		.unassigned_bytes = 2 << 20,
		.logical_bytes = 5000000,
		.physical_bytes = 1000000,
		.peak_logical_bytes = 8,
		.peak_physical_bytes = 2,
		.uptime_usec = 61000000,
		.kvd_pid = 7,
		.engines = 2,
		.tenants = 3,
		.sequences = 4,
		.healthy = 1,
		.device = "host",
		.version = "0.1.0",
	};
	s.frame_bytes[KVD_FRAME_FREE] = (2 << 20) - 1000 - 4096;
	s.frame_bytes[KVD_FRAME_SEALED] = 4096;
	s.frames[KVD_FRAME_SEALED] = 1;
	return s;
}

START_TEST(status_fields_and_sum)
{
	static const char *const fields[] = { "version",	  "pid",	  "device",
					      "pool_bytes",	  "extent_bytes", "frame_states",
					      "spilled_pages",	  "lost_pages",	  "tail_bytes",
					      "unassigned_bytes", "scrub_bytes",  "logical_bytes",
					      "physical_bytes",	  "saved_bytes",  "engines",
					      "tenants",	  "sequences",	  "uptime_s",
					      "adopted",	  "pressure",	  NULL };
	static const char *const states[] = { "free",	 "open",     "sealed",	    "cool",
					      "filling", "retiring", "quarantined", NULL };
	struct kvd_row_status s = status_row();
	struct kvctl_rows rows = rows_of(&s, 1, sizeof(s));
	struct kvctl_view v = view_begin(true);
	ck_assert_int_eq(kvctl_show_status(&v, &admin, &rows), 0);
	json_t *root = view_json(&v);
	expect_fields(root, fields);
	json_t *by_state = json_object_get(root, "frame_states");
	expect_fields(by_state, states);
	json_int_t sum = integer(root, "tail_bytes") + integer(root, "unassigned_bytes") +
			 integer(root, "scrub_bytes");
	for (unsigned i = 0; states[i]; i++)
		sum += integer(by_state, states[i]);
	ck_assert_int_eq(sum, integer(root, "pool_bytes"));
	ck_assert_int_eq(integer(root, "saved_bytes"), 4000000);
	ck_assert(json_is_false(json_object_get(root, "adopted")));
	json_decref(root);

	v = view_begin(false);
	ck_assert_int_eq(kvctl_show_status(&v, &admin, &rows), 0);
	expect_text(&v, (const char *const[]){ "healthy", "host", "up 1m01s", "sealed", "4.0K",
					       "at most 4.0 times",
					       "2 engines, 3 tenants, 4 sequences", NULL });
	ck_assert_ptr_null(strstr(text, "NOT ACCOUNTED"));
	/* A byte that is nowhere is said aloud. */
	s.tail_bytes--;
	v = view_begin(false);
	kvctl_show_status(&v, &admin, &rows);
	expect_text(&v, (const char *const[]){ "NOT ACCOUNTED FOR: 1 bytes", NULL });
}
END_TEST

START_TEST(status_for_others)
{
	struct kvd_msg_welcome other = admin;
	struct kvd_row_status s = status_row();
	struct kvctl_rows rows = rows_of(&s, 1, sizeof(s));
	other.admin = 0;
	struct kvctl_view v = view_begin(false);
	ck_assert_int_eq(kvctl_show_status(&v, &other, &rows), 0);
	expect_text(&v, (const char *const[]){ "healthy", NULL });
	ck_assert_ptr_null(strstr(text, "sealed"));
	v = view_begin(true);
	ck_assert_int_eq(kvctl_show_status(&v, &other, &rows), 0);
	json_t *root = view_json(&v);
	ck_assert(json_is_null(json_object_get(root, "saved_bytes")));
	json_decref(root);
	rows.n = 0;
	v = view_begin(false);
	ck_assert_int_eq(kvctl_show_status(&v, &admin, &rows), 1);
	fclose(v.out);
}
END_TEST

START_TEST(fsck_and_whoami)
{
	struct kvd_row_fsck bad[2] = { { "frame 3 is free and held", 90 }, { "sums differ", 90 } },
			    clean = { "", 91 };
	struct kvctl_rows rows = rows_of(bad, 2, sizeof(bad[0]));
	struct kvctl_view v = view_begin(true);
	ck_assert_int_eq(kvctl_show_fsck(&v, &rows), 1);
	json_t *root = view_json(&v);
	ck_assert(json_is_false(json_object_get(root, "ok")));
	ck_assert_uint_eq(json_array_size(json_object_get(root, "problems")), 2);
	ck_assert_int_eq(integer(root, "checked_pages"), 90);
	json_decref(root);
	rows = rows_of(&clean, 1, sizeof(clean));
	v = view_begin(true);
	ck_assert_int_eq(kvctl_show_fsck(&v, &rows), 0);
	root = view_json(&v);
	ck_assert(json_is_true(json_object_get(root, "ok")));
	ck_assert_uint_eq(json_array_size(json_object_get(root, "problems")), 0);
	json_decref(root);
	v = view_begin(false);
	ck_assert_int_eq(kvctl_show_fsck(&v, &rows), 0);
	expect_text(&v, (const char *const[]){ "91 pages checked, clean", NULL });
	rows.n = 0;
	v = view_begin(true);
	ck_assert_int_eq(kvctl_show_fsck(&v, &rows), 1);
	json_decref(view_json(&v));

	v = view_begin(true);
	ck_assert_int_eq(kvctl_show_whoami(&v, &admin), 0);
	root = view_json(&v);
	ck_assert_int_eq(integer(root, "uid"), 1001);
	ck_assert_str_eq(json_string_value(json_object_get(root, "tenant")), "acme");
	ck_assert_str_eq(json_string_value(json_object_get(root, "domain")), "group");
	ck_assert(json_is_true(json_object_get(root, "admin")));
	json_decref(root);
}
END_TEST

START_TEST(rows_of_every_kind)
{
	struct { struct kvd_row_engine row; char newer[24];
	} engine[2] = {
		{ .row = { .name = "e1",
			   .model = "tiny",
			   .engine = 0,
			   .pid = 11,
			   .kv_format = 1,
			   .page_bytes = 4096 } },
		{ .row = { .name = "e\033[31m2",
			   .model = "tiny",
			   .engine = 1,
			   .pid = 12,
			   .kv_format = 1,
			   .state = 1 } },
	};
	struct kvd_row_tenant tenant = { .name = "acme",
					 .domain = "group",
					 .rss_bytes = 1536,
					 .max_bytes = 2 << 20,
					 .sharing = 2 };
	struct kvd_row_sequence sequence = { .engine = "e1",
					     .tenant = "acme",
					     .slot = 3,
					     .state = 2,
					     .n_tokens = 40,
					     .pages = 3 };
	struct kvd_row_status s = status_row();
	struct kvctl_rows engines = rows_of(engine, 2, sizeof(engine[0])),
			  status = rows_of(&s, 1, sizeof(s));
	struct kvctl_rows tenants = rows_of(&tenant, 1, sizeof(tenant)),
			  sequences = rows_of(&sequence, 1, sizeof(sequence));

	struct kvctl_view v = view_begin(true);
	ck_assert_int_eq(kvctl_show_engines(&v, &engines, &status), 0);
	json_t *root = view_json(&v);
	ck_assert_uint_eq(json_array_size(root), 2);
	expect_fields(json_array_get(root, 0),
		      (const char *const[]){ "name", "pid", "model", "device", "kv_format",
					     "sequences", "extents", "state", "tokens_per_s",
					     NULL });
	ck_assert_int_eq(integer(json_array_get(root, 1), "pid"),
			 12); /* rows longer than ours are stepped over */
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(root, 1), "state")),
			 "draining");
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(root, 0), "device")),
			 "host");
	json_decref(root);
	v = view_begin(false);
	ck_assert_int_eq(kvctl_show_engines(&v, &engines, &status), 0);
	expect_text(&v, (const char *const[]){ "ENGINE", "e?[31m2", "bf16", "4.0K", NULL });
	ck_assert_ptr_null(strchr(text, '\033'));

	v = view_begin(true);
	ck_assert_int_eq(kvctl_show_tenants(&v, &tenants), 0);
	root = view_json(&v);
	expect_fields(json_array_get(root, 0),
		      (const char *const[]){ "name", "domain", "rss_bytes", "pss_bytes",
					     "uss_bytes", "spilled_bytes", "min_bytes", "max_bytes",
					     "sequences", "prompt_tokens", "cached_tokens",
					     "completion_tokens", "evicted_pages", "pressure",
					     NULL });
	ck_assert_int_eq(integer(json_array_get(root, 0), "rss_bytes"), 1536);
	json_decref(root);
	v = view_begin(false);
	v.headers = false;
	ck_assert_int_eq(kvctl_show_tenants(&v, &tenants), 0);
	fclose(v.out);
	ck_assert_str_eq(text, "acme  group  reuse  1.5K  0  0  2.0M  0  0  0  0  0  0.00\n");

	v = view_begin(true);
	ck_assert_int_eq(kvctl_show_sequences(&v, &sequences), 0);
	root = view_json(&v);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(root, 0), "state")),
			 "running");
	ck_assert_int_eq(integer(json_array_get(root, 0), "tokens"), 40);
	json_decref(root);
	v = view_begin(true);
	sequences.n = 0;
	ck_assert_int_eq(kvctl_show_sequences(&v, &sequences), 0);
	root = view_json(&v);
	ck_assert_uint_eq(json_array_size(root), 0);
	json_decref(root);
}
END_TEST

/* Two extents of 8 frames: in the shared one a chain 10-11-12 that branches into 13 and 14, held by
 * three; in the engine's a private page, an open one and a cool one. */
static struct kvd_row_page map_pages[] = {
	{ .extent = 0,
	  .slot = 0,
	  .state = KVD_FRAME_SEALED,
	  .page = 10,
	  .parent = ~0u,
	  .depth = 0,
	  .holds = 3,
	  .claims = 2,
	  .tenant = "acme" },
	{ .extent = 0,
	  .slot = 1,
	  .state = KVD_FRAME_SEALED,
	  .page = 11,
	  .parent = 10,
	  .depth = 1,
	  .holds = 3,
	  .claims = 2,
	  .tenant = "acme" },
	{ .extent = 0,
	  .slot = 2,
	  .state = KVD_FRAME_SEALED,
	  .page = 12,
	  .parent = 11,
	  .depth = 2,
	  .holds = 2,
	  .claims = 2,
	  .tenant = "acme" },
	{ .extent = 0,
	  .slot = 3,
	  .state = KVD_FRAME_SEALED,
	  .page = 13,
	  .parent = 12,
	  .depth = 3,
	  .holds = 2,
	  .claims = 1,
	  .tenant = "birch" },
	{ .extent = 0,
	  .slot = 4,
	  .state = KVD_FRAME_SEALED,
	  .page = 14,
	  .parent = 12,
	  .depth = 3,
	  .holds = 2,
	  .claims = 1,
	  .tenant = "cedar" },
	{ .extent = 0, .slot = 5, .state = KVD_FRAME_FREE, .page = ~0u, .parent = ~0u },
	{ .extent = 1,
	  .slot = 0,
	  .state = KVD_FRAME_SEALED,
	  .page = 20,
	  .parent = 11,
	  .depth = 2,
	  .holds = 1,
	  .claims = 1,
	  .colour = 1,
	  .tenant = "acme" },
	{ .extent = 1,
	  .slot = 1,
	  .state = KVD_FRAME_OPEN,
	  .page = 21,
	  .parent = 20,
	  .depth = 3,
	  .holds = 1,
	  .colour = 1,
	  .tenant = "acme" },
	{ .extent = 1,
	  .slot = 7,
	  .state = KVD_FRAME_COOL,
	  .page = 22,
	  .parent = ~0u,
	  .claims = 1,
	  .colour = 1,
	  .tenant = "birch" },
	{ .extent = 99,
	  .slot = 0,
	  .state = KVD_FRAME_OPEN,
	  .page = 23 }, /* of an extent that has gone */
	{ .extent = 1,
	  .slot = 8,
	  .state = KVD_FRAME_OPEN,
	  .page = 24 }, /* of a slot that is none */
};

START_TEST(shared_runs)
{
	struct kvctl_rows pages =
		rows_of(map_pages, sizeof(map_pages) / sizeof(map_pages[0]), sizeof(map_pages[0]));
	struct kvctl_run runs[8];
	ck_assert_uint_eq(kvctl_map_runs(&pages, runs, 8), 3);
	ck_assert_uint_eq(runs[0].first, 10);
	ck_assert_uint_eq(runs[0].pages, 3);
	ck_assert_uint_eq(runs[0].holds, 3);
	ck_assert_uint_eq(runs[1].first, 13);
	ck_assert_uint_eq(runs[1].depth, 3);
	ck_assert_uint_eq(runs[2].first, 14);
	ck_assert_uint_eq(kvctl_map_runs(&pages, runs, 1), 1);
	/* Rows that name each other in a circle do not catch us. */
	struct kvd_row_page circle[2] = { map_pages[1], map_pages[2] };
	circle[0].parent = 12;
	pages = rows_of(circle, 2, sizeof(circle[0]));
	ck_assert_uint_eq(kvctl_map_runs(&pages, runs, 8), 0);
	pages.n = 0;
	ck_assert_uint_eq(kvctl_map_runs(&pages, runs, 8), 0);
}
END_TEST

START_TEST(map_drawn)
{
	struct kvd_row_extent extents[4] = {
		{ .extent = 0, .state = KVD_EXTENT_ASSIGNED, .n_frames = 8 },
		{ .extent = 1,
		  .state = KVD_EXTENT_ASSIGNED,
		  .n_frames = 8,
		  .colour = 1,
		  .engine = "e1" },
		{ .extent = 2, .state = KVD_EXTENT_UNASSIGNED },
		{ .extent = 3, .state = KVD_EXTENT_UNASSIGNED },
	};
	struct kvd_row_sequence sequences[3] = {
		{ .engine = "e1", .tenant = "acme", .pages = 4, .shared_pages = 3 },
		{ .engine = "e1", .tenant = "birch", .pages = 5, .shared_pages = 4 },
		{ .engine = "e1", .tenant = "acme", .pages = 6, .shared_pages = 3 },
	};
	struct kvctl_map map = {
		.welcome = &admin,
		.extents = rows_of(extents, 4, sizeof(extents[0])),
		.pages = rows_of(map_pages, sizeof(map_pages) / sizeof(map_pages[0]),
				 sizeof(map_pages[0])),
		.sequences = rows_of(sequences, 3, sizeof(sequences[0])),
	};
	struct kvctl_view v = view_begin(false);
	ck_assert_int_eq(kvctl_show_map(&v, &map), 0);
	expect_text(&v, (const char *const[]){ "SSSSS...\n", "sw.....c\n", "2  to 3 (unassigned)",
					       "shared by 2 or more", "HOLDERS",
					       "who holds pages now", NULL });
	ck_assert_ptr_null(strchr(text, '\033'));
	ck_assert_ptr_nonnull(strstr(text, "acme    e1              2     10               6"));
	v = view_begin(false);
	v.by = KVCTL_BY_TENANT;
	v.colour = true;
	ck_assert_int_eq(kvctl_show_map(&v, &map), 0);
	expect_text(&v, (const char *const[]){ "\033[0;", "acme", "birch", "cedar", NULL });
	v = view_begin(true);
	ck_assert_int_eq(kvctl_show_map(&v, &map), 0);
	json_t *root = view_json(&v);
	json_t *first = json_array_get(json_object_get(root, "extents"), 0);
	ck_assert_str_eq(json_string_value(json_object_get(first, "cells")), "SSSSS...");
	ck_assert_int_eq(
		integer(json_array_get(json_object_get(root, "shared_prefixes"), 0), "tokens"), 48);
	json_decref(root);

	struct kvctl_rows engines = { 0 };
	v = view_begin(true);
	ck_assert_int_eq(kvctl_show_pages(&v, &map.pages, &engines), 0);
	root = view_json(&v);
	ck_assert_uint_eq(json_array_size(root), 10);   /* the free frame is no page */
	json_decref(root);
	v = view_begin(false);
	ck_assert_int_eq(kvctl_show_extents(&v, &map.extents), 0);
	expect_text(&v, (const char *const[]){ "EXTENT", "assigned", "unassigned", "shared", "e1",
					       NULL });
}
END_TEST

/* A pool of many pages still fits a screen or two. */
START_TEST(map_of_a_large_pool)
{
	enum { EXTENTS = 512, FRAMES = 128 };
	struct kvd_row_extent *extents = calloc(EXTENTS, sizeof(*extents));
	struct kvd_row_page page = { .extent = 100,
				     .slot = 5,
				     .state = KVD_FRAME_SEALED,
				     .page = 1,
				     .holds = 2,
				     .tenant = "t" };
	struct kvctl_map map = { .welcome = &admin,
				 .extents = rows_of(extents, EXTENTS, sizeof(*extents)),
				 .pages = rows_of(&page, 1, sizeof(page)) };
	for (uint32_t i = 0; i < EXTENTS; i++)
		extents[i] = (struct kvd_row_extent){ .extent = i,
						      .state = KVD_EXTENT_ASSIGNED,
						      .n_frames = FRAMES };
	struct kvctl_view v = view_begin(false);
	ck_assert_int_eq(kvctl_show_map(&v, &map), 0);
	expect_text(&v, (const char *const[]){ "S..", "one cell is 16 pages", NULL });
	free(extents);
}
END_TEST

START_TEST(values_and_words)
{
	const char *near;
	ck_assert_str_eq(kvctl_size(0).s, "0");
	ck_assert_str_eq(kvctl_size(1023).s, "1023B");
	ck_assert_str_eq(kvctl_size(1536).s, "1.5K");
	ck_assert_str_eq(kvctl_size(UINT64_MAX).s, "16.0E");
	ck_assert_str_eq(kvctl_duration(90061000000).s, "1d01h");
	ck_assert_str_eq(kvctl_printable("a\tb\xff", 8).s, "a?b?");
	ck_assert_str_eq(kvctl_printable("\xc2\x9bx", 8).s, "??x");
	ck_assert_str_eq(kvctl_printable("gr\xc3\xbcn", 8).s, "gr\xc3\xbcn");
	ck_assert_ptr_nonnull(kvctl_command_find("status", &near));
	ck_assert_ptr_null(kvctl_command_find("statsu", &near));
	ck_assert_str_eq(near, "status");
	ck_assert_ptr_null(kvctl_command_find("stat", &near));   /* no abbreviations */
	ck_assert_ptr_null(kvctl_command_find("frobnicate", &near));
	ck_assert_ptr_null(near);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		status_fields_and_sum, status_for_others, fsck_and_whoami, rows_of_every_kind, shared_runs,
		map_drawn, map_of_a_large_pool, values_and_words,
	};
	return SUITE_RUN("kvctl", 0, tests);
}
