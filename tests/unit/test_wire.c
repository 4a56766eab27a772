/* test_wire.c - what is a message and what is not; the protocol document is current. */
#include "kvd/wire.h"
#include "tests/lib/suite.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *why;

static int check(const void *m, size_t n, uint32_t n_fds, uint32_t role)
{
	why = NULL;
	int r = wire_check(m, n, n_fds, role, &why);

	ck_assert(r == 0 || r == -EPROTO);
	if (r < 0)
		ck_assert_ptr_nonnull(why);
	return r;
}

#define MESSAGE(type_name, NUMBER) \
	{ \
		.m = {.type = KVD_M_##NUMBER, .size = sizeof(struct kvd_msg_##type_name) } \
	}

START_TEST(takes_what_is_well_formed)
{
	struct kvd_msg_hello hello = MESSAGE(hello, HELLO);
	struct kvd_msg_attach attach = MESSAGE(attach, ATTACH);
	struct kvd_msg_weights offer = MESSAGE(weights, WEIGHTS_OFFER);
	struct kvd_msg_stream_open open = MESSAGE(stream_open, STREAM_OPEN);
	struct kvd_msg_query query = MESSAGE(query, QUERY);
	struct {
		struct kvd_msg_query query;
		char tail[40];
	} longer = { .query = MESSAGE(query, QUERY) };

	strcpy(hello.program, "kvrun 0.1.0");
	strcpy(open.model, "SmolLM2 135M (Instruct)");
	ck_assert_int_eq(check(&hello, sizeof(hello), 0, 0), 0);
	ck_assert_int_eq(check(&attach, sizeof(attach), 0, KVD_ROLE_ENGINE), 0);
	ck_assert_int_eq(check(&offer, sizeof(offer), 1, KVD_ROLE_ENGINE), 0);
	ck_assert_int_eq(check(&open, sizeof(open), 0, KVD_ROLE_CLIENT), 0);
	ck_assert_int_eq(check(&query, sizeof(query), 0, KVD_ROLE_CLIENT), 0);
	ck_assert_int_eq(check(&query, sizeof(query), 0, KVD_ROLE_ENGINE), 0);
	/* A newer peer's message is longer; its tail is not ours. */
	longer.query.m.size = sizeof(longer);
	memset(longer.tail, 0xff, sizeof(longer.tail));
	ck_assert_int_eq(check(&longer, sizeof(longer), 0, KVD_ROLE_CLIENT), 0);
}
END_TEST

START_TEST(refuses_every_shorter_size)
{
	struct kvd_msg_attach attach = MESSAGE(attach, ATTACH);

	for (size_t n = 0; n < sizeof(attach); n++) {
		attach.m.size = (uint32_t)n;
		ck_assert_int_eq(check(&attach, n, 0, KVD_ROLE_ENGINE), -EPROTO);
	}
	/* Half a message, and one and a half. */
	attach.m.size = sizeof(attach);
	ck_assert_int_eq(check(&attach, sizeof(attach) / 2, 0, KVD_ROLE_ENGINE), -EPROTO);
	attach.m.size = sizeof(attach) / 2;
	ck_assert_int_eq(check(&attach, sizeof(attach), 0, KVD_ROLE_ENGINE), -EPROTO);
}
END_TEST

START_TEST(refuses_the_wrong_role)
{
	struct kvd_msg_hello hello = MESSAGE(hello, HELLO);
	struct kvd_msg_attach attach = MESSAGE(attach, ATTACH);
	struct kvd_msg_stream_open open = MESSAGE(stream_open, STREAM_OPEN);
	struct kvd_msg_query query = MESSAGE(query, QUERY);

	ck_assert_int_eq(check(&query, sizeof(query), 0, 0), -EPROTO);
	ck_assert_str_eq(why, "the first message must be HELLO");
	ck_assert_int_eq(check(&attach, sizeof(attach), 0, KVD_ROLE_CLIENT), -EPROTO);
	ck_assert_int_eq(check(&open, sizeof(open), 0, KVD_ROLE_ENGINE), -EPROTO);
	ck_assert_int_eq(check(&hello, sizeof(hello), 0, KVD_ROLE_CLIENT), -EPROTO);
	ck_assert_int_eq(check(&hello, sizeof(hello), 0, KVD_ROLE_ENGINE), -EPROTO);
}
END_TEST

/* Messages that kvd sends, or that never pass it, are none that it takes. */
START_TEST(refuses_what_flows_the_other_way)
{
	static const struct {
		uint16_t type;
		const char *direction;
	} all[] = {
#define KVD_MSG(name, number, direction, fds, since, text) { number, direction },
#include "kvd/proto.def"
#undef KVD_MSG
	};
	static _Alignas(8) uint8_t packet[4096];
	struct kvd_msg *m = (struct kvd_msg *)packet;
	unsigned taken = 0;

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		bool to_kvd = strstr(all[i].direction, ">d") != NULL;
		bool any = false;

		m->type = all[i].type;
		m->size = sizeof(packet);
		for (uint32_t role = 0; role <= KVD_ROLE_ENGINE; role++)
			for (uint32_t n_fds = 0; n_fds < 3; n_fds++)
				any |= check(packet, sizeof(packet), n_fds, role) == 0;
		ck_assert_msg(any == to_kvd, "%s %s", wire_name(all[i].type), all[i].direction);
		taken += any;
	}
	ck_assert_uint_eq(taken, 11);
	ck_assert_str_eq(wire_name(9999), "?");
}
END_TEST

START_TEST(counts_descriptors)
{
	struct kvd_msg_query query = MESSAGE(query, QUERY);
	struct kvd_msg_weights offer = MESSAGE(weights, WEIGHTS_OFFER);

	ck_assert_int_eq(check(&query, sizeof(query), 1, KVD_ROLE_CLIENT), -EPROTO);
	ck_assert_int_eq(check(&offer, sizeof(offer), 0, KVD_ROLE_ENGINE), -EPROTO);
	ck_assert_int_eq(check(&offer, sizeof(offer), 2, KVD_ROLE_ENGINE), -EPROTO);
}
END_TEST

START_TEST(strings_end_and_can_be_printed)
{
	struct kvd_msg_stream_open open = MESSAGE(stream_open, STREAM_OPEN);

	memset(open.avoid, 'x', sizeof(open.avoid));
	ck_assert_int_eq(check(&open, sizeof(open), 0, KVD_ROLE_CLIENT), -EPROTO);
	open.avoid[KVD_NAME_MAX - 1] = '\0';
	ck_assert_int_eq(check(&open, sizeof(open), 0, KVD_ROLE_CLIENT), 0);
	open.avoid[3] = '\n';
	ck_assert_int_eq(check(&open, sizeof(open), 0, KVD_ROLE_CLIENT), -EPROTO);
	open.avoid[3] = '\x1b';
	ck_assert_int_eq(check(&open, sizeof(open), 0, KVD_ROLE_CLIENT), -EPROTO);
	open.avoid[3] = (char)0xc3;
	ck_assert_int_eq(check(&open, sizeof(open), 0, KVD_ROLE_CLIENT), -EPROTO);
	ck_assert(!wire_text_valid(" x", 8));
	ck_assert(!wire_text_valid("x ", 8));
	ck_assert(wire_text_valid("", 8));
	ck_assert(!wire_name_valid(""));
}
END_TEST

START_TEST(document_is_current)
{
	if (access("tests/gen_protocol_doc.sh", X_OK) < 0) {
		printf("skipped: not run from the repository's root\n");
		return;
	}
	ck_assert_int_eq(system("tests/gen_protocol_doc.sh --check"), 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		takes_what_is_well_formed, refuses_every_shorter_size, refuses_the_wrong_role,
		refuses_what_flows_the_other_way, counts_descriptors, strings_end_and_can_be_printed,
		document_is_current,
	};
	return SUITE_RUN("wire", 0, tests);
}
