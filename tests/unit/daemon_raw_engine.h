/* daemon_raw_engine.h - an engine without libkvd: attach, rings, streams; for test_daemon_*.c. */
#ifndef TESTS_DAEMON_RAW_ENGINE_H
#define TESTS_DAEMON_RAW_ENGINE_H

#include "kvd/core/core.h"
#include "tests/unit/daemon_peer.h"

#define SLOTS 4u
#define PAGES 16u
#define BLOCK 16384u
#define PLANES 4u

struct raw_engine {
	int fd;
	struct kvd_msg_attached attached;
	struct kvd_sub_header *sub;
	const struct kvd_comp_header *comp;
	struct kvd_sqe *sqes;
	const struct kvd_cqe *cqes;
	int32_t *tokens;
	const uint32_t *tables;
	uint32_t cq_head;
};

static unsigned fds_before;

__attribute__((unused))
static void setup(int i)
{
	kvd_start(loops[i], NULL);
	fds_before = settled_fds();
}

__attribute__((unused))
static void teardown(uint64_t n_closed)
{
	expect_fds(fds_before);
	ck_assert_uint_eq(status_now().peers_closed, n_closed);
	expect_clean();
	kvd_stop();
}

__attribute__((unused))
static struct kvd_msg_attach attach_message(const char *name)
{
	struct kvd_msg_attach m = {
		.m = { .type = KVD_M_ATTACH, .size = sizeof(m), .seq = 2 },
		.model = "tiny",
		.numerics = "test/1",
		.fingerprint = { 1, 2, 3 },
		.layout = 1,
		.kv_format = 1,
		.n_planes = PLANES,
		.block_bytes = BLOCK,
		.page_tokens = KVD_PAGE_TOKENS,
		.max_seqs = SLOTS,
		.max_pages = PAGES,
		.sq_entries = 16,
	};

	strcpy(m.name, name);
	return m;
}

__attribute__((unused))
static void attach_raw(struct raw_engine *engine, const char *name)
{
	struct kvd_msg_attach m = attach_message(name);
	uint8_t *sub, *comp;

	engine->fd = connect_as(KVD_ROLE_ENGINE, "");
	engine->cq_head = 0;
	ck_assert_int_eq(send(engine->fd, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	engine->attached = *(const struct kvd_msg_attached *)expect(engine->fd, KVD_M_ATTACHED);
	ck_assert_uint_eq(packet_n_fds, 2);
	/* An engine's own view: submissions to write, completions to read. */
	sub = mmap(NULL, engine->attached.sub_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
		   packet_fds[0], 0);
	ck_assert_ptr_eq(mmap(NULL, engine->attached.comp_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
			      packet_fds[1], 0),
			 MAP_FAILED);
	comp = mmap(NULL, engine->attached.comp_bytes, PROT_READ, MAP_SHARED, packet_fds[1], 0);
	ck_assert(sub != MAP_FAILED && comp != MAP_FAILED);
	close(packet_fds[0]);
	close(packet_fds[1]);
	engine->sub = (void *)sub;
	engine->comp = (void *)comp;
	engine->sqes = (void *)(sub + engine->attached.sqe_offset);
	engine->tokens = (void *)(sub + engine->attached.tokens_offset);
	engine->cqes = (void *)(comp + engine->attached.cqe_offset);
	engine->tables = (void *)(comp + engine->attached.tables_offset);
}

__attribute__((unused))
static void submit(struct raw_engine *engine, struct kvd_sqe sqe)
{
	uint32_t tail = engine->sub->sq_tail;

	for (unsigned i = 0; tail - __atomic_load_n(&engine->comp->sq_head, __ATOMIC_ACQUIRE) >= 16;
	     i++) {
		struct pollfd gone = { .fd = engine->fd, .events = POLLRDHUP };

		if (poll(&gone, 1, 0))
			return; /* kvd has closed us: it takes nothing any more */
		ck_assert_uint_lt(i, 5000);
		usleep(1000);
	}
	engine->sqes[tail & 15] = sqe;
	__atomic_store_n(&engine->sub->sq_tail, tail + 1, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&engine->comp->kvd_sleeps, __ATOMIC_RELAXED))
		(void)send(engine->fd, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Serve EXTENT_MAP and EXTENT_UNMAP: acknowledge at once, as these engines run no steps. */
__attribute__((unused))
static void serve_extents(struct raw_engine *engine)
{
	struct pollfd ready = { .fd = engine->fd, .events = POLLIN };

	while (poll(&ready, 1, 0) == 1) {
		ssize_t n = recv(engine->fd, packet, 1, MSG_PEEK);
		const struct kvd_msg_extent *m = (const void *)packet;

		if (n <= 0)
			return;
		if (recv(engine->fd, packet, 1, MSG_PEEK | MSG_TRUNC) == 1) {
			(void)!recv(engine->fd, packet, 1, 0);
			continue;
		}
		ck_assert_uint_ge(receive(engine->fd), sizeof(struct kvd_msg));
		if (m->m.type == KVD_M_EXTENT_MAP || m->m.type == KVD_M_EXTENT_UNMAP)
			submit(engine, (struct kvd_sqe){ .verb = KVD_EXTENT_ACK,
							 .other = m->extent,
							 .count = m->m.type == KVD_M_EXTENT_MAP });
		for (unsigned i = 0; i < packet_n_fds; i++)
			close(packet_fds[i]);
	}
}

/* The completion of this verb; acknowledgements of extents are passed over. */
__attribute__((unused))
static struct kvd_cqe complete(struct raw_engine *engine, uint16_t verb)
{
	for (unsigned i = 0; i < 5000; i++) {
		serve_extents(engine);
		while (engine->cq_head !=
		       __atomic_load_n(&engine->comp->cq_tail, __ATOMIC_ACQUIRE)) {
			struct kvd_cqe cqe =
				engine->cqes[engine->cq_head & (engine->attached.cq_entries - 1)];

			__atomic_store_n(&engine->sub->cq_head, ++engine->cq_head,
					 __ATOMIC_RELEASE);
			if (cqe.verb == verb)
				return cqe;
		}
		usleep(1000);
	}
	ck_abort_msg("no completion of verb %u", verb);
}

/* A stream for a client of this tenant: both ends and the handle. */
__attribute__((unused))
static uint32_t open_stream(struct raw_engine *engine, const char *tenant,
						    int *ret_client, int *ret_engine_end)
{
	struct kvd_msg_stream_open m = {
		.m = { .type = KVD_M_STREAM_OPEN, .size = sizeof(m), .seq = 5 }, .model = "tiny"
	};
	int client = connect_as(KVD_ROLE_CLIENT, tenant);
	const struct kvd_msg_stream *stream;
	uint32_t handle;

	ck_assert_int_eq(send(client, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	stream = expect(client, KVD_M_STREAM);
	ck_assert_uint_eq(stream->m.seq, 5);
	ck_assert_str_eq(stream->tenant, tenant);
	handle = stream->client;
	ck_assert_uint_eq(packet_n_fds, 1);
	*ret_client = packet_fds[0];
	close(client);
	for (;;) {
		const struct kvd_msg_client_new *new_client = (const void *)packet;

		ck_assert_uint_gt(receive(engine->fd), 0);
		if (new_client->m.type == KVD_M_CLIENT_NEW && new_client->client == handle) {
			ck_assert_str_eq(new_client->tenant, tenant);
			*ret_engine_end = packet_fds[0];
			return handle;
		}
		if (new_client->m.type == KVD_M_EXTENT_MAP)
			submit(engine,
			       (struct kvd_sqe){
				       .verb = KVD_EXTENT_ACK,
				       .count = 1,
				       .other = ((const struct kvd_msg_extent *)packet)->extent });
		for (unsigned i = 0; i < packet_n_fds; i++)
			close(packet_fds[i]);
	}
}

/* In a child, so that the process can end: run body, then exit or be killed. */
__attribute__((unused))
static pid_t in_child(void (*body)(void))
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		body();
		_exit(0);
	}
	return pid;
}

__attribute__((unused))
static int ended(pid_t pid)
{
	int status;

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

/* Bytes of frames that are on their way back, after waiting for n times 10 ms at most. */
__attribute__((unused))
static uint64_t frames_in_flight(unsigned n)
{
	for (;;) {
		struct kvd_row_status row = status_now();
		uint64_t bytes = row.frame_bytes[KVD_FRAME_OPEN] +
				 row.frame_bytes[KVD_FRAME_QUARANTINED] +
				 row.frame_bytes[KVD_FRAME_RETIRING];

		if (!bytes || !n--)
			return bytes;
		usleep(10000);
	}
}

#endif
