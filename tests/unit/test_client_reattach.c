/* test_client_reattach.c - libkvd's engine side when kvd dies: another takes over the connection (ADOPTED), or
 * none does and the engine attaches to the next.  The fake plays all of these kvds. */
#include "kvd/engine.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/packet.h"
#include "kvd/kvd.h"
#include "tests/lib/fake_kvd.h"
#include "tests/lib/slow.h"
#include "tests/lib/suite.h"

#define MAX_SEQS 4u
#define MAX_PAGES 8u

static _Alignas(8) uint8_t packet[KVD_MSG_MAX];
static struct fake_kvd fake;
static struct fake_rings rings;

/* ---- the fake ---- */

static void send_adopted(const struct kvd_msg_adopted *m, int fd)
{
	fake_kvd_send(rings.control, m, m->m.size, &fd, fd >= 0 ? 1 : 0);
	if (fd >= 0)
		close(fd);
}

static void send_extent(uint32_t seq, uint32_t extent)
{
	struct kvd_msg_extent m = { .m = { .type = KVD_M_EXTENT_MAP, .size = sizeof(m), .seq = seq },
				    .extent = extent, .writable = 1 };
	int memory = fake_kvd_memory(FAKE_EXTENT_BYTES);
	fake_kvd_send(rings.control, &m, sizeof(m), &memory, 1);
	close(memory);
}

static void send_client(uint32_t seq, uint32_t client)
{
	struct kvd_msg_client_new m = { .m = { .type = KVD_M_CLIENT_NEW, .size = sizeof(m), .seq = seq },
					.client = client, .weight = 100, .tenant = "acme" };
	int pair[2];
	FAKE_EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
	fake_kvd_send(rings.control, &m, sizeof(m), &pair[1], 1);
	close(pair[0]);
	close(pair[1]);
}

static void expect_ack(uint32_t extent)
{
	struct kvd_sqe sqe = fake_kvd_take(&rings);
	FAKE_EXPECT(sqe.verb == KVD_EXTENT_ACK && sqe.other == extent && sqe.count == 1);
}

/* Two completions lie unconsumed, one submission unread, when the second kvd takes over; the third follows at
 * once.  It says again what the first said, and something new. */
static void serve_succession(int listen_fd)
{
	struct kvd_msg_adopted adopted;

	fake_kvd_attach(&rings, listen_fd, 0);
	send_extent(1, 2);
	send_client(2, 9);
	expect_ack(2);
	FAKE_EXPECT(fake_kvd_take(&rings).user_data == 1);
	fake_kvd_complete(&rings, &(struct kvd_cqe){ .verb = KVD_SEQ_OPEN, .user_data = 1, .pages = 1 });
	fake_kvd_complete(&rings, &(struct kvd_cqe){ .verb = KVD_SEQ_GROW, .user_data = 2, .pages = 2 });
	int fd = fake_kvd_succeed(&rings, 1, &adopted);
	/* The first kvd's segment is frozen: what the second writes must be seen through the new one. */
	rings.tables[0] = KVD_ENTRY(77, KVD_FORMAT_BF16);
	send_adopted(&adopted, fd);
	send_extent(1, 2);
	send_client(2, 9);
	while (__atomic_load_n(&rings.sub->comp_generation, __ATOMIC_ACQUIRE) != 1)
		FAKE_EXPECT(fake_kvd_receive(rings.control, packet) == 1);
	FAKE_EXPECT(fake_kvd_take(&rings).user_data == 3);
	fake_kvd_complete(&rings, &(struct kvd_cqe){ .verb = KVD_SEQ_SEAL, .user_data = 3 });
	send_extent(3, 3);
	expect_ack(3);
	fd = fake_kvd_succeed(&rings, 2, &adopted);
	send_adopted(&adopted, fd);
	send_client(4, 10);
	send_client(0, 11);
	send_client(0, 11);
	struct kvd_sqe sqe = fake_kvd_take(&rings);
	FAKE_EXPECT(sqe.verb == KVD_SEQ_CLOSE);
	FAKE_EXPECT(__atomic_load_n(&rings.sub->comp_generation, __ATOMIC_ACQUIRE) == 2);
	fake_kvd_complete(&rings, &(struct kvd_cqe){ .verb = KVD_SEQ_CLOSE, .user_data = 4 });
	while (fake_kvd_receive(rings.control, packet) == 1)
		;
}

/* One way to be broken each; after it the engine must be back for more. */
#define N_BROKEN 14
static void make_broken(unsigned way, struct kvd_msg_adopted *m, int *fd)
{
	switch (way) {
	case 0: close(*fd); *fd = -1; break;
	case 1: m->m.size = 40; break;
	case 2: m->engine++; break;
	case 3: m->sq_entries *= 2; break;
	case 4: m->n_frames--; break;
	case 5: m->sub_bytes += 64; break;
	case 6: m->comp_bytes += 1 << 20; break;
	case 7: m->cqe_offset = 8; break;
	case 8: m->tables_offset = m->comp_bytes - 8; break;
	case 9: m->tables_offset = UINT64_MAX - 7; break;
	case 10: m->cq_entries = 48; break;
	case 11: rings.comp->cq_tail += 65; break;
	case 12: rings.comp->sq_head += 65; break;
	case 13: FAKE_EXPECT(ftruncate(*fd, 4096) == 0); break;
	}
}

static void serve_broken_succession(int listen_fd)
{
	for (unsigned way = 0; way < N_BROKEN; way++) {
		struct kvd_msg_adopted adopted;
		fake_kvd_attach(&rings, listen_fd, 0);
		FAKE_EXPECT(fake_kvd_take(&rings).user_data == way);
		int fd = fake_kvd_succeed(&rings, 1, &adopted);
		make_broken(way, &adopted, &fd);
		send_adopted(&adopted, fd);
		while (fake_kvd_receive(rings.control, packet) == 1)
			;
		FAKE_EXPECT(rings.sub->comp_generation == 0);
		close(rings.control);
	}
	fake_kvd_attach(&rings, listen_fd, 0);
	FAKE_EXPECT(fake_kvd_take(&rings).user_data == N_BROKEN);
	FAKE_EXPECT(fake_kvd_receive(rings.control, packet) == 0);
}

/* ADOPTED is in the socket before the engine has looked at ATTACHED. */
static void serve_early_succession(int listen_fd)
{
	struct kvd_msg_adopted adopted;

	fake_kvd_attach(&rings, listen_fd, 0);
	send_adopted(&adopted, fake_kvd_succeed(&rings, 1, &adopted));
	send_adopted(&adopted, fake_kvd_succeed(&rings, 2, &adopted));
	while (__atomic_load_n(&rings.sub->comp_generation, __ATOMIC_ACQUIRE) != 2)
		FAKE_EXPECT(fake_kvd_receive(rings.control, packet) == 1);
	while (fake_kvd_receive(rings.control, packet) == 1)
		;
}

/* Dies with clients, acknowledgements and reports under way; the next is a stranger to all of them. */
static void serve_two_lives(int listen_fd)
{
	struct kvd_msg_client_again again = {
		.m = { .type = KVD_M_CLIENT_AGAIN, .size = sizeof(again) },
		.client = 21, .weight = 50, .ticket = "ticket", .tenant = "acme",
	};
	const struct kvd_msg_client_gone *gone = (const void *)packet;

	fake_kvd_attach(&rings, listen_fd, 0);
	send_extent(1, 2);
	send_client(2, 9);
	expect_ack(2);
	close(rings.control);
	/* The second one: first it takes nobody. */
	int refused = fake_kvd_accept(listen_fd, KVD_ROLE_ENGINE);
	fake_kvd_receive_type(refused, KVD_M_ATTACH, packet, sizeof(struct kvd_msg_attach));
	struct kvd_msg_error error = {
		.m = { .type = KVD_M_ERROR, .size = sizeof(error), .status = KVD_S_NAME_TAKEN,
		       .seq = ((const struct kvd_msg *)packet)->seq },
		.text = "engine e1 is here already",
	};
	fake_kvd_send(refused, &error, sizeof(error), NULL, 0);
	FAKE_EXPECT(fake_kvd_receive(refused, packet) == 0);
	close(refused);
	fake_kvd_attach(&rings, listen_fd, 0);
	FAKE_EXPECT(rings.sub->sq_tail == 0 && rings.sub->step_begun == 0 && rings.sub->comp_generation == 0);
	send_extent(1, 4);
	fake_kvd_send(rings.control, &again, sizeof(again), NULL, 0);
	expect_ack(4);
	FAKE_EXPECT(fake_kvd_take(&rings).user_data == 5);
	fake_kvd_receive_type(rings.control, KVD_M_CLIENT_GONE, packet, sizeof(*gone));
	FAKE_EXPECT(gone->client == 21);
	while (fake_kvd_receive(rings.control, packet) == 1)
		;
}

#define N_GONES 1500u

/* Reads nothing until a word of the test says so (on a stream, since the control socket is full). */
static void serve_full_socket(int listen_fd)
{
	const struct kvd_msg_client_gone *gone = (const void *)packet;
	struct kvd_msg_client_new m = { .m = { .type = KVD_M_CLIENT_NEW, .size = sizeof(m) }, .client = 1 };
	uint32_t n = 0;
	int pair[2];

	fake_kvd_attach(&rings, listen_fd, 0);
	FAKE_EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
	fake_kvd_send(rings.control, &m, sizeof(m), &pair[1], 1);
	close(pair[1]);
	FAKE_EXPECT(fake_kvd_receive(pair[0], packet) == 1);
	while (n < N_GONES) {
		size_t bytes = fake_kvd_receive(rings.control, packet);
		if (bytes == 1)
			continue;
		FAKE_EXPECT(bytes == sizeof(*gone) && gone->m.type == KVD_M_CLIENT_GONE);
		FAKE_EXPECT(gone->client == n++);
		if (n % 64 == 0)
			fake_kvd_send(rings.control, "", 1, NULL, 0);
	}
	FAKE_EXPECT(fake_kvd_receive(rings.control, packet) == 0);
}

/* ---- the engine ---- */

static struct kvd_engine *attach(void)
{
	struct kvd_engine_options o = {
		.socket = fake.path, .program = "test", .name = "e1", .model = "tiny",
		.numerics = "cpu/1/test", .layout = KVD_LAYOUT_PAIRS, .kv_format = KVD_FORMAT_BF16,
		.n_planes = 2, .block_bytes = 1024, .max_seqs = MAX_SEQS, .max_pages = MAX_PAGES,
	};
	struct kvd_engine *e;
	int r = kvd_engine_attach(&o, &e);
	ck_assert_msg(r == 0, "%s", kvd_engine_error(e));
	ck_assert_int_eq(kvd_engine_poll(e), 0);   /* what came with the answer is acknowledged */
	return e;
}

static void wait_for(struct kvd_engine *e)
{
	if (kvd_engine_sleep(e, true)) {
		struct pollfd p = { .fd = kvd_engine_fd(e), .events = POLLIN };
		ck_assert_int_eq(poll(&p, 1, 5000 * test_slow()), 1);
	}
	kvd_engine_sleep(e, false);
}

static struct kvd_cqe completion(struct kvd_engine *e)
{
	struct kvd_cqe cqe = { 0 };
	while (!kvd_engine_completion(e, &cqe)) {
		wait_for(e);
		ck_assert_int_eq(kvd_engine_poll(e), 0);
	}
	return cqe;
}

static void submit(struct kvd_engine *e, uint16_t verb, uint64_t user_data)
{
	ck_assert_int_eq(kvd_engine_submit(e, &(struct kvd_sqe){ .verb = verb, .user_data = user_data }), 0);
	ck_assert_int_eq(kvd_engine_flush(e), 0);
}

/* Call reattach() as an engine does; returns what the last try said. */
static int reattach(struct kvd_engine *e)
{
	int r;
	for (unsigned i = 0; (r = kvd_engine_reattach(e)) == -EAGAIN; i++) {
		struct pollfd p = { .fd = kvd_engine_fd(e), .events = POLLIN };
		ck_assert_uint_lt(i, 1000);
		poll(&p, 1, 20);
	}
	if (r == 0)
		ck_assert_int_eq(kvd_engine_poll(e), 0);
	return r;
}

static int wait_for_failure(struct kvd_engine *e)
{
	int r;
	while ((r = kvd_engine_poll(e)) == 0)
		wait_for(e);
	return r;
}

START_TEST(another_kvd_takes_over)
{
	struct kvd_engine_client client;
	struct kvd_cqe cqe;
	fake_kvd_start(&fake, serve_succession);
	struct kvd_engine *e = attach();
	uint32_t first_pid = kvd_engine_welcome(e)->kvd_pid;
	ck_assert(!kvd_engine_kvd_ended(e));
	while (!kvd_engine_next_client(e, &client)) {
		wait_for(e);
		ck_assert_int_eq(kvd_engine_poll(e), 0);
	}
	close(client.fd);
	submit(e, KVD_SEQ_OPEN, 1);
	submit(e, KVD_SEQ_SEAL, 3);
	ck_assert_uint_eq(kvd_engine_table(e, 0)[0], 0);
	/* Until the switch the completions stay where they are. */
	while (kvd_engine_table(e, 0)[0] == 0) {
		wait_for(e);
		ck_assert_int_eq(kvd_engine_poll(e), 0);
	}
	ck_assert_uint_eq(KVD_ENTRY_FRAME(kvd_engine_table(e, 0)[0]), 77);
	ck_assert_uint_eq(kvd_engine_welcome(e)->kvd_pid, first_pid);   /* one process plays all */
	for (uint64_t user_data = 1; user_data <= 3; user_data++) {
		cqe = completion(e);
		ck_assert_uint_eq(cqe.user_data, user_data);
	}
	/* Said twice, heard once; 10 is new, 0 is never a repetition. */
	static const uint32_t expected[] = { 10, 11, 11 };
	for (unsigned i = 0; i < 3; i++) {
		while (!kvd_engine_next_client(e, &client)) {
			wait_for(e);
			ck_assert_int_eq(kvd_engine_poll(e), 0);
		}
		ck_assert_uint_eq(client.client, expected[i]);
		close(client.fd);
	}
	submit(e, KVD_SEQ_CLOSE, 4);
	ck_assert_uint_eq(completion(e).user_data, 4);
	kvd_engine_close(e);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(broken_successors)
{
	fake_kvd_start(&fake, serve_broken_succession);
	struct kvd_engine *e = attach();
	for (unsigned way = 0; way < N_BROKEN; way++) {
		submit(e, KVD_SEQ_GROW, way);
		ck_assert_msg(wait_for_failure(e) == -EPROTO, "way %u was believed", way);
		ck_assert_msg(strstr(kvd_engine_error(e), "took over") != NULL, "way %u: %s", way,
			      kvd_engine_error(e));
		ck_assert_int_eq(reattach(e), 0);
	}
	submit(e, KVD_SEQ_GROW, N_BROKEN);
	kvd_engine_close(e);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(succession_while_attaching)
{
	fake_kvd_start(&fake, serve_early_succession);
	struct kvd_engine *e = attach();
	usleep(50000);
	ck_assert_int_eq(kvd_engine_poll(e), 0);
	usleep(50000);
	ck_assert_int_eq(kvd_engine_poll(e), 0);
	kvd_engine_close(e);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(attaches_to_the_next)
{
	struct kvd_engine_client client;
	struct kvd_engine_again again;
	struct kvd_cqe cqe;
	fake_kvd_start(&fake, serve_two_lives);
	struct kvd_engine *e = attach();
	kvd_step_begin(e);
	kvd_step_end(e);
	ck_assert_int_eq(wait_for_failure(e), -ENOTCONN);
	ck_assert_ptr_nonnull(strstr(kvd_engine_error(e), fake.path));
	/* The first call gives everything of the old kvd up, its client that nobody collected included. */
	int r = kvd_engine_reattach(e);
	ck_assert_ptr_null(kvd_engine_tokens(e, 0));
	ck_assert_ptr_null(kvd_engine_table(e, 0));
	ck_assert_int_eq(kvd_engine_submit(e, &(struct kvd_sqe){ 0 }), -ENOTCONN);
	ck_assert_int_eq(kvd_engine_flush(e), -ENOTCONN);
	ck_assert_int_eq(kvd_engine_poll(e), -ENOTCONN);
	ck_assert(!kvd_engine_completion(e, &cqe) && !kvd_engine_next_client(e, &client));
	ck_assert(kvd_engine_sleep(e, true));
	if (r == -EAGAIN)
		r = reattach(e);
	ck_assert_int_eq(r, KVD_S_NAME_TAKEN);
	ck_assert_str_eq(kvd_engine_error(e), "engine e1 is here already");
	ck_assert_int_eq(reattach(e), 0);
	ck_assert_ptr_nonnull(kvd_engine_window(e));
	ck_assert_ptr_nonnull(kvd_engine_tokens(e, 0));
	while (!kvd_engine_next_again(e, &again)) {
		wait_for(e);
		ck_assert_int_eq(kvd_engine_poll(e), 0);
	}
	ck_assert_uint_eq(again.client, 21);
	ck_assert_uint_eq(again.weight, 50);
	ck_assert_str_eq((const char *)again.ticket, "ticket");
	ck_assert_str_eq(again.tenant, "acme");
	submit(e, KVD_SEQ_OPEN, 5);
	ck_assert_int_eq(kvd_engine_client_gone(e, &(struct kvd_msg_client_gone){ .client = 21 }), 0);
	usleep(50000);
	kvd_engine_close(e);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

/* Nobody listens: each try says so at once, with the socket's path, and does not wait. */
START_TEST(no_kvd_at_all)
{
	fake_kvd_start(&fake, serve_early_succession);
	struct kvd_engine *e = attach();
	kill(fake.pid, 9);
	(void)fake_kvd_finish(&fake);          /* removes the socket */
	ck_assert_int_eq(wait_for_failure(e), -ENOTCONN);
	for (int i = 0; i < 3; i++) {
		uint64_t began = kvd_clock_usec();
		ck_assert_int_eq(kvd_engine_reattach(e), -ENOENT);
		ck_assert_uint_lt(kvd_clock_usec() - began, 1000000u * test_slow());
		ck_assert_ptr_nonnull(strstr(kvd_engine_error(e), fake.path));
		ck_assert_ptr_nonnull(strstr(kvd_engine_error(e), "start kvd"));
	}
	kvd_engine_close(e);
}
END_TEST

START_TEST(reports_never_wait)
{
	struct kvd_engine_client client;
	fake_kvd_start(&fake, serve_full_socket);
	struct kvd_engine *e = attach();
	while (!kvd_engine_next_client(e, &client)) {
		wait_for(e);
		ck_assert_int_eq(kvd_engine_poll(e), 0);
	}
	uint64_t began = kvd_clock_usec();
	for (uint32_t i = 0; i < N_GONES; i++)
		ck_assert_int_eq(
			kvd_engine_client_gone(e, &(struct kvd_msg_client_gone){ .client = i }), 0);
	ck_assert_uint_lt(kvd_clock_usec() - began, 2000000u * test_slow());
	ck_assert_int_eq(send(client.fd, "", 1, 0), 1);
	/* Woken as by any doorbell, the engine sends what waits. */
	struct pollfd p = { .fd = kvd_engine_fd(e), .events = POLLIN };
	while (poll(&p, 1, 300) == 1)
		ck_assert_int_eq(kvd_engine_poll(e), 0);
	close(client.fd);
	kvd_engine_close(e);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		another_kvd_takes_over, broken_successors, succession_while_attaching, attaches_to_the_next,
		no_kvd_at_all, reports_never_wait,
	};
	return SUITE_RUN("client_reattach", 60, tests);
}
