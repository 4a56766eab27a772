/* test_log.c - the daemon's log: what the journal gets of a line, and how often a source may speak. */
#include "kvd/log.h"
#include "tests/lib/suite.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

static struct log_fields fields;

static const char *field(const char *name)
{
	static char text[1200];
	size_t n = strlen(name);

	for (uint32_t i = 0; i < fields.n; i++) {
		const struct iovec *f = &fields.fields[i];

		if (f->iov_len > n && !memcmp(f->iov_base, name, n) && ((const char *)f->iov_base)[n] == '=') {
			snprintf(text, sizeof(text), "%.*s", (int)(f->iov_len - n - 1),
				 (const char *)f->iov_base + n + 1);
			return text;
		}
	}
	return NULL;
}

START_TEST(fields_of_a_line)
{
	static const char line[] = "peer.close why=\"hung up = \" uid=12 pid=0 empty= program=\"a b\" word tail=x";

	log_fields(LOG_LEVEL_WARN, line, &fields);
	ck_assert_str_eq(field("MESSAGE"), line);
	ck_assert_str_eq(field("PRIORITY"), "4");
	ck_assert_str_eq(field("SYSLOG_IDENTIFIER"), "kvd");
	ck_assert_str_eq(field("KVD_EVENT"), "peer.close");
	ck_assert_str_eq(field("KVD_WHY"), "hung up = ");
	ck_assert_str_eq(field("KVD_UID"), "12");
	ck_assert_str_eq(field("KVD_PID"), "0");
	ck_assert_str_eq(field("KVD_EMPTY"), "");
	ck_assert_str_eq(field("KVD_PROGRAM"), "a b");
	ck_assert_str_eq(field("KVD_TAIL"), "x");
	ck_assert_ptr_null(field("KVD_WORD"));
	ck_assert_uint_eq(fields.n, 10);
	log_fields(LOG_LEVEL_ERROR, "", &fields);
	ck_assert_str_eq(field("KVD_EVENT"), "");
	ck_assert_str_eq(field("PRIORITY"), "3");
}
END_TEST

/* Lines that are broken, and larger than the room. */
START_TEST(any_line_is_taken)
{
	char line[1024];
	size_t n = 0;

	log_fields(LOG_LEVEL_INFO, "x a=\"unterminated", &fields);
	ck_assert_str_eq(field("KVD_A"), "unterminated");
	log_fields(LOG_LEVEL_INFO, "x =1 A=2 a-b=3 \"q\"=4", &fields);
	ck_assert_uint_eq(fields.n, 4);
	for (unsigned i = 0; n < sizeof(line) - 10; i++)
		n += (size_t)snprintf(line + n, sizeof(line) - n, "k%u=%u ", i, i);
	log_fields(LOG_LEVEL_INFO, line, &fields);
	ck_assert_uint_eq(fields.n, LOG_FIELDS_MAX);
	ck_assert_str_eq(field("KVD_K5"), "5");
	memset(line, 'v', sizeof(line) - 1);
	line[sizeof(line) - 1] = '\0';
	log_fields(LOG_LEVEL_INFO, line, &fields);
	ck_assert_uint_eq(strlen(field("MESSAGE")), sizeof(line) - 1);
}
END_TEST

START_TEST(a_source_that_speaks_too_often)
{
	struct log_limit limit = { 0 };
	uint64_t now_usec = 1000000000;
	uint32_t dropped = 99, written = 0;

	for (unsigned i = 0; i < 100; i++)
		written += log_allow(&limit, now_usec, &dropped);
	ck_assert_uint_eq(written, 8);
	ck_assert_uint_eq(dropped, 0);
	ck_assert(log_allow(&limit, now_usec + 1000000, &dropped));
	ck_assert_uint_eq(dropped, 92);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		fields_of_a_line, any_line_is_taken, a_source_that_speaks_too_often,
	};
	return SUITE_RUN("log", 0, tests);
}
