/* test_utf8_stream.c - whole characters out, however the bytes come in. */
#include "engine/utf8_stream.h"
#include "tests/lib/suite.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define BAD "\xef\xbf\xbd"

/* Push n bytes in portions of the given size; all that comes out, with the end. */
static size_t run(const char *bytes, size_t n, size_t portion, char *ret_out)
{
	struct utf8_stream s = UTF8_STREAM_INIT;
	size_t at = 0;

	for (size_t i = 0; i < n; i += portion) {
		size_t step = n - i < portion ? n - i : portion;
		size_t written = utf8_stream_push(&s, bytes + i, step, ret_out + at);

		ck_assert_uint_le(written, UTF8_STREAM_ROOM(step));
		at += written;
	}
	return at + utf8_stream_end(&s, ret_out + at);
}

static void expect(const char *bytes, size_t n, const char *want)
{
	char out[256];

	for (size_t portion = 1; portion <= n; portion++) {
		size_t len = run(bytes, n, portion, out);

		ck_assert_msg(len == strlen(want) && !memcmp(out, want, len),
			      "portions of %zu: got \"%.*s\", expected \"%s\"", portion, (int)len,
			      out, want);
	}
}

START_TEST(text_passes)
{
	static const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z\x7f\xf4\x8f\xbf\xbf\xed"
				   "\x9f\xbf";

	expect(text, strlen(text), text);
}
END_TEST

/* One U+FFFD for each maximal piece that could have become a character. */
START_TEST(ill_formed_pieces)
{
#define EXPECT(bytes, want) expect(bytes, sizeof(bytes) - 1, want)
	EXPECT("\x80", BAD);
	EXPECT("\xff", BAD);
	EXPECT("\xc3", BAD);
	EXPECT("\xc3x", BAD "x");
	EXPECT("\xc0\xaf", BAD BAD);
	EXPECT("\xe0\x80\x80", BAD BAD BAD);
	EXPECT("\xe2\x82", BAD);
	EXPECT("\xe2\x82x", BAD "x");
	EXPECT("\xe2\x82\xe2\x82\xac", BAD "\xe2\x82\xac");
	EXPECT("\xed\xa0\x80", BAD BAD BAD);
	EXPECT("\xf0\x9f\x98", BAD);
	EXPECT("\xf0\x80\x80\x80", BAD BAD BAD BAD);
	EXPECT("\xf4\x90\x80\x80", BAD BAD BAD BAD);
	EXPECT("\xf0\x9f\xff\x98", BAD BAD BAD);
	/* the example of the Unicode standard, table 3-11 */
	EXPECT("a\xf1\x80\x80\xe1\x80\xc2" "b\x80" "c\x80\xbf" "d",
	       "a" BAD BAD BAD "b" BAD "c" BAD BAD "d");
}
END_TEST

START_TEST(nothing_is_held_longer_than_needed)
{
	struct utf8_stream s = UTF8_STREAM_INIT;
	char out[16];

	ck_assert_uint_eq(utf8_stream_push(&s, "\xf0\x9f", 2, out), 0);
	ck_assert_uint_eq(utf8_stream_push(&s, "", 0, out), 0);
	ck_assert_uint_eq(utf8_stream_push(&s, "\x98", 1, out), 0);
	ck_assert_uint_eq(utf8_stream_push(&s, "\x80", 1, out), 4);
	ck_assert_mem_eq(out, "\xf0\x9f\x98\x80", 4);
	ck_assert_uint_eq(utf8_stream_end(&s, out), 0);
	ck_assert_uint_eq(utf8_stream_push(&s, "\xe2\x82", 2, out), 0);
	ck_assert_uint_eq(utf8_stream_end(&s, out), 3);
	ck_assert_uint_eq(utf8_stream_push(&s, "ok", 2, out),
			  2); /* the end leaves nothing behind */
}
END_TEST

static void expect_well_formed(const char *text, size_t n)
{
	utf8proc_int32_t c;
	utf8proc_ssize_t step;

	for (size_t i = 0; i < n; i += (size_t)step) {
		step = utf8proc_iterate((const utf8proc_uint8_t *)text + i,
					(utf8proc_ssize_t)(n - i), &c);
		ck_assert_int_gt(step, 0);
	}
}

/* All sequences of two bytes, and each of three from bytes at the edges of the table. */
START_TEST(what_comes_out_is_text)
{
	static const unsigned char edges[] = {
		0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0,
		0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff,
	};
	char in[4], out[64], other[64];
	size_t n;

	for (unsigned pair = 0; pair < 65536; pair++) {
		in[0] = (char)(pair >> 8);
		in[1] = (char)pair;
		n = run(in, 2, 2, out);
		expect_well_formed(out, n);
	}
	for (unsigned i = 0; i < 25 * 25 * 25 * 25; i++) {
		in[0] = (char)edges[i % 25];
		in[1] = (char)edges[i / 25 % 25];
		in[2] = (char)edges[i / 625 % 25];
		in[3] = (char)edges[i / 15625];
		n = run(in, 4, 4, out);
		expect_well_formed(out, n);
		ck_assert(run(in, 4, 1, other) == n && !memcmp(out, other, n));
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		text_passes, ill_formed_pieces, nothing_is_held_longer_than_needed, what_comes_out_is_text,
	};
	return SUITE_RUN("utf8_stream", 60, tests);
}
