/* test_client_engine.c - libkvd's engine side against a fake kvd: attach, window, rings, doorbells,
 * clients. */
#include "kvd/engine.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kvd/kvd.h"
#include "tests/lib/fake_kvd.h"
#include "tests/lib/suite.h"

#define MAX_SEQS 4u
#define MAX_PAGES 8u

static _Alignas(8) uint8_t packet[KVD_MSG_MAX];
static struct fake_kvd fake;

static struct fake_rings rings;

static int attach_peer(int listen_fd, uint64_t lie_bytes)
{
	fake_kvd_attach(&rings, listen_fd, lie_bytes);
	FAKE_EXPECT(strcmp(rings.name, "e1") == 0 && strcmp(rings.model, "tiny") == 0);
	return rings.control;
}

static void send_extent(int control, uint16_t type, uint32_t extent, uint32_t writable, int fd)
{
	struct kvd_msg_extent m = { .m = { .type = type, .size = sizeof(m) },
				    .extent = extent,
				    .writable = writable };
	fake_kvd_send(control, &m, sizeof(m), &fd, fd >= 0 ? 1 : 0);
}

static void serve_life(int listen_fd)
{
	int control = attach_peer(listen_fd, 0);
	int memory = fake_kvd_memory(FAKE_EXTENT_BYTES);
	uint8_t *extent =
		mmap(NULL, FAKE_EXTENT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);

	send_extent(control, KVD_M_EXTENT_MAP, 2, 1, memory);
	struct kvd_sqe sqe = fake_kvd_take(&rings);
	FAKE_EXPECT(sqe.verb == KVD_EXTENT_ACK && sqe.other == 2 && sqe.count == 1);
	fake_kvd_complete(&rings, &(struct kvd_cqe){ .verb = KVD_EXTENT_ACK, .user_data = sqe.user_data });

	sqe = fake_kvd_take(&rings);
	FAKE_EXPECT(sqe.verb == KVD_SEQ_OPEN && sqe.slot == 1 && sqe.n_tokens == 20 &&
		    sqe.user_data == 42);
	FAKE_EXPECT(rings.tokens[1 * MAX_PAGES * 16 + 19] == 1019);
	rings.tables[1 * MAX_PAGES] = KVD_ENTRY(2u << 7 | 5u, KVD_FORMAT_BF16);
	fake_kvd_complete(
		&rings, &(struct kvd_cqe){ .verb = KVD_SEQ_OPEN, .slot = 1, .user_data = 42, .pages = 1 });

	sqe = fake_kvd_take(&rings);
	FAKE_EXPECT(sqe.verb == KVD_SEQ_SEAL && sqe.slot == 1 && rings.sub->step_begun == 1 &&
		    rings.sub->step_done == 1);
	FAKE_EXPECT(extent[64 * 1024 + 5 * 1024] == 0xab); /* plane 1, slot 5 */
	fake_kvd_complete(&rings, &(struct kvd_cqe){ .verb = KVD_SEQ_SEAL, .slot = 1, .user_data = 43 });

	/* The engine changes what we mapped and unmapped in one go; both are answered, in order. */
	send_extent(control, KVD_M_EXTENT_MAP, 3, 0, memory);
	send_extent(control, KVD_M_EXTENT_UNMAP, 3, 0, -1);
	send_extent(control, KVD_M_EXTENT_UNMAP, 2, 0, -1);
	static const struct { uint32_t extent, count; } acks[] = { { 3, 1 }, { 3, 0 }, { 2, 0 } };
	for (int i = 0; i < 3; i++) {
		sqe = fake_kvd_take(&rings);
		FAKE_EXPECT(sqe.verb == KVD_EXTENT_ACK && sqe.other == acks[i].extent &&
			    sqe.count == acks[i].count);
	}
	FAKE_EXPECT(fake_kvd_receive(control, packet) == 0);
}

static void serve_clients(int listen_fd)
{
	struct kvd_msg_client_new new = { .m = { .type = KVD_M_CLIENT_NEW, .size = sizeof(new) },
					  .client = 9,
					  .weight = 100,
					  .tenant = "acme" };
	const struct kvd_msg_client_gone *gone = (const void *)packet;
	const struct kvd_msg_weights *weights = (const void *)packet;
	int control = attach_peer(listen_fd, 0), pair[2];

	FAKE_EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
	fake_kvd_send(control, &new, sizeof(new), &pair[1], 1);
	close(pair[1]);
	FAKE_EXPECT(fake_kvd_receive(pair[0], packet) == 2);
	fake_kvd_receive_type(control, KVD_M_CLIENT_GONE, packet, sizeof(*gone));
	FAKE_EXPECT(gone->client == 9 && gone->completion_tokens == 7);
	fake_kvd_receive_type(control, KVD_M_ENGINE_STATS, packet,
			      sizeof(struct kvd_msg_engine_stats));
	/* Weights: nobody has any; then they are offered; then asked for again. */
	fake_kvd_receive_type(control, KVD_M_WEIGHTS_ASK, packet, sizeof(*weights));
	struct kvd_msg_error error = {
		.m = { .type = KVD_M_ERROR,
		       .size = sizeof(error),
		       .seq = weights->m.seq,
		       .status = KVD_S_NO_MODEL },
	};
	fake_kvd_send(control, &error, sizeof(error), NULL, 0);
	fake_kvd_receive_type(control, KVD_M_WEIGHTS_OFFER, packet, sizeof(*weights));
	FAKE_EXPECT(strcmp(weights->layout, "panels") == 0 && weights->fingerprint[0] == 0x11);
	fake_kvd_receive_type(control, KVD_M_WEIGHTS_ASK, packet, sizeof(*weights));
	struct kvd_msg_weights answer = {
		.m = { .type = KVD_M_WEIGHTS, .size = sizeof(answer), .seq = weights->m.seq },
	};
	int memory = fake_kvd_memory(4096);
	fake_kvd_send(control, &answer, sizeof(answer), &memory, 1);
	FAKE_EXPECT(fake_kvd_receive(control, packet) == 0);
	FAKE_EXPECT(fake_kvd_receive(pair[0], packet) == 0);
}

static void serve_full_ring(int listen_fd)
{
	int control = attach_peer(listen_fd, 0);
	FAKE_EXPECT(fake_kvd_receive(control, packet) ==
		    2); /* a word of the test: the ring is full */
	for (uint32_t i = 0; i < 64; i++)
		FAKE_EXPECT(fake_kvd_take(&rings).user_data == i);
	send_extent(control, KVD_M_EXTENT_MAP, 16, 1,
		    fake_kvd_memory(FAKE_EXTENT_BYTES)); /* outside the pool */
	FAKE_EXPECT(fake_kvd_receive(control, packet) == 0);
}

#define ROUNDS 20000u

/* Both sides sleep whenever there is nothing; a wake-up that is lost is a wait that times out. */
static void serve_rounds(int listen_fd)
{
	int control = attach_peer(listen_fd, 0);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		struct kvd_sqe sqe = fake_kvd_take(&rings);
		FAKE_EXPECT(sqe.verb == KVD_SEQ_GROW && sqe.user_data == i);
		fake_kvd_complete(&rings, &(struct kvd_cqe){ .verb = KVD_SEQ_GROW, .user_data = i });
	}
	while (fake_kvd_receive(control, packet) == 1)
		;   /* the last doorbells */
}

static void serve_lie(int listen_fd)
{
	int control = attach_peer(listen_fd, 1 << 20);
	FAKE_EXPECT(fake_kvd_receive(control, packet) == 0);
}

/* ---- the engine ---- */

static int attach(struct kvd_engine **ret)
{
	struct kvd_engine_options o = {
		.socket = fake.path,
		.program = "test",
		.name = "e1",
		.model = "tiny",
		.numerics = "cpu/1/test",
		.fingerprint = { 0x11 },
		.layout = KVD_LAYOUT_PAIRS,
		.kv_format = KVD_FORMAT_BF16,
		.n_planes = 2,
		.block_bytes = 1024,
		.max_seqs = MAX_SEQS,
		.max_pages = MAX_PAGES,
	};
	return kvd_engine_attach(&o, ret);
}

/* Sleep until something comes, as an engine without work does. */
static void wait_for(struct kvd_engine *e)
{
	if (kvd_engine_sleep(e, true)) {
		struct pollfd p = { .fd = kvd_engine_fd(e), .events = POLLIN };
		ck_assert_int_eq(poll(&p, 1, 5000), 1);
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

/* Whether a store to the address faults: the kernel stores for us and says so, where a signal handler
 * that jumps away would leave a sanitizer thinking that the signal never ended. */
static bool faults(uint8_t *at)
{
	const uint8_t value = 0xab;
	int ends[2];
	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	ck_assert_int_eq(write(ends[1], &value, 1), 1);
	ssize_t n = read(ends[0], at, 1);
	ck_assert(n == 1 || errno == EFAULT);
	close(ends[0]);
	close(ends[1]);
	return n != 1;
}

START_TEST(life_of_a_sequence)
{
	struct kvd_engine *e;
	fake_kvd_start(&fake, serve_life);
	int r = attach(&e);
	ck_assert_msg(r == 0, "%s", kvd_engine_error(e));
	ck_assert_uint_eq(kvd_engine_number(e), 3);
	ck_assert_uint_eq(kvd_engine_geometry(e)->n_frames, 64);
	ck_assert_uint_eq((uintptr_t)kvd_engine_window(e) % (2u << 20), 0);
	ck_assert(faults(kvd_engine_window(e) + 4 * FAKE_EXTENT_BYTES));
	ck_assert_ptr_null(kvd_engine_tokens(e, MAX_SEQS));

	for (int i = 0; i < 20; i++)
		kvd_engine_tokens(e, 1)[i] = 1000 + i;
	struct kvd_sqe open = { .verb = KVD_SEQ_OPEN, .slot = 1, .user_data = 42, .n_tokens = 20 };
	/* The extent comes first, so that the acknowledgement is before the OPEN. */
	while (faults(kvd_engine_window(e) + 2 * FAKE_EXTENT_BYTES)) {
		wait_for(e);
		ck_assert_int_eq(kvd_engine_poll(e), 0);
	}
	ck_assert_int_eq(kvd_engine_poll(e), 0);
	ck_assert_int_eq(kvd_engine_submit(e, &open), 0);
	ck_assert_int_eq(kvd_engine_flush(e), 0);
	struct kvd_cqe cqe = completion(e);
	ck_assert_uint_eq(cqe.verb, KVD_SEQ_OPEN);
	ck_assert_uint_eq(cqe.user_data, 42);

	kvd_step_begin(e);
	uint32_t entry = kvd_engine_table(e, 1)[0];
	ck_assert_uint_eq(KVD_ENTRY_FORMAT(entry), KVD_FORMAT_BF16);
	uint8_t *block = kvd_engine_window(e) +
			 kvd_block_offset(kvd_engine_geometry(e), KVD_ENTRY_FRAME(entry), 1);
	ck_assert(!faults(block));
	kvd_step_end(e);
	ck_assert_int_eq(
		kvd_engine_submit(
			e, &(struct kvd_sqe){ .verb = KVD_SEQ_SEAL, .slot = 1, .user_data = 43 }),
		0);
	ck_assert_int_eq(kvd_engine_flush(e), 0);
	ck_assert_uint_eq(completion(e).verb, KVD_SEQ_SEAL);

	/* Extents come and go until the window is empty again. */
	while (!faults(block)) {
		wait_for(e);
		ck_assert_int_eq(kvd_engine_poll(e), 0);
	}
	ck_assert(faults(kvd_engine_window(e) + 3 * FAKE_EXTENT_BYTES));
	usleep(100000);   /* the other side reads the last answers */
	kvd_engine_close(e);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(clients_and_weights)
{
	struct kvd_engine *e;
	struct kvd_engine_client client;
	int fd;
	fake_kvd_start(&fake, serve_clients);
	ck_assert_int_eq(attach(&e), 0);
	while (!kvd_engine_next_client(e, &client)) {
		wait_for(e);
		ck_assert_int_eq(kvd_engine_poll(e), 0);
	}
	ck_assert_uint_eq(client.client, 9);
	ck_assert_str_eq(client.tenant, "acme");
	ck_assert_int_ne(fcntl(client.fd, F_GETFL) & O_NONBLOCK, 0);
	ck_assert_int_ne(fcntl(client.fd, F_GETFD) & FD_CLOEXEC, 0);
	ck_assert_int_eq(send(client.fd, "ab", 2, 0), 2);
	struct kvd_msg_client_gone gone = { .client = 9, .completion_tokens = 7 };
	ck_assert_int_eq(kvd_engine_client_gone(e, &gone), 0);
	struct kvd_msg_engine_stats stats = { .running = 1 };
	ck_assert_int_eq(kvd_engine_stats(e, &stats), 0);
	ck_assert_int_eq(kvd_engine_weights_ask(e, "panels", &fd), KVD_S_NO_MODEL);
	ck_assert_int_eq(fd, -1);
	int memory = memfd_create("weights", MFD_CLOEXEC);
	ck_assert_int_eq(kvd_engine_weights_offer(e, "panels", memory), 0);
	ck_assert_int_eq(kvd_engine_weights_ask(e, "panels", &fd), 0);
	ck_assert_int_ge(fd, 0);
	close(fd);
	close(memory);
	close(client.fd);
	kvd_engine_close(e);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(full_ring_and_wrong_extent)
{
	struct kvd_engine *e;
	struct kvd_sqe sqe = { .verb = KVD_SEQ_GROW };
	int r;
	fake_kvd_start(&fake, serve_full_ring);
	ck_assert_int_eq(attach(&e), 0);
	for (; sqe.user_data < 64; sqe.user_data++)
		ck_assert_int_eq(kvd_engine_submit(e, &sqe), 0);
	ck_assert_int_eq(kvd_engine_submit(e, &sqe), -EAGAIN);
	ck_assert_int_eq(kvd_engine_flush(e), 0);
	ck_assert_int_eq(send(kvd_engine_fd(e), "ab", 2, 0), 2);
	while ((r = kvd_engine_poll(e)) == 0)
		wait_for(e);
	ck_assert_int_eq(r, -EPROTO);
	ck_assert_ptr_nonnull(strstr(kvd_engine_error(e), "extent 16"));
	ck_assert_int_eq(kvd_engine_poll(e), -ENOTCONN);
	kvd_engine_close(e);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(no_wake_up_is_lost)
{
	struct kvd_engine *e;
	fake_kvd_start(&fake, serve_rounds);
	ck_assert_int_eq(attach(&e), 0);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		struct kvd_sqe sqe = { .verb = KVD_SEQ_GROW, .user_data = i };
		ck_assert_int_eq(kvd_engine_submit(e, &sqe), 0);
		ck_assert_int_eq(kvd_engine_flush(e), 0);
		ck_assert_uint_eq(completion(e).user_data, i);
	}
	kvd_engine_close(e);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(refusals)
{
	struct kvd_engine *e;
	struct kvd_engine_options o = { .socket = "/nowhere",
					.name = "e1",
					.model = "m",
					.numerics = "n" };
	ck_assert_int_eq(kvd_engine_attach(&o, &e), KVD_S_BAD_REQUEST);
	ck_assert_ptr_nonnull(strstr(kvd_engine_error(e), "max_seqs"));
	kvd_engine_close(e);
	fake_kvd_start(&fake, serve_lie);
	ck_assert_int_eq(attach(&e), KVD_S_PROTOCOL);
	kvd_engine_close(e);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		life_of_a_sequence, clients_and_weights, full_ring_and_wrong_extent, no_wake_up_is_lost,
		refusals,
	};
	return SUITE_RUN("client_engine", 30, tests);
}
