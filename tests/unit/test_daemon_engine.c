/* test_daemon_engine.c - a real kvd and raw engines: attach, rings, streams, weights, death, the mover,
 * who is who.  Each test ends with clean books and no descriptor left. */
#include "tests/unit/daemon_peer.h"

#include "kvd/core/core.h"

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

static void setup(int i)
{
	kvd_start(loops[i], NULL);
	fds_before = settled_fds();
}

static void teardown(uint64_t n_closed)
{
	expect_fds(fds_before);
	ck_assert_uint_eq(status_now().peers_closed, n_closed);
	expect_clean();
	kvd_stop();
}

static struct kvd_msg_attach attach_message(const char *name)
{
	struct kvd_msg_attach m = {
		.m = { .type = KVD_M_ATTACH, .size = sizeof(m), .seq = 2 }, .model = "tiny", .numerics = "test/1",
		.fingerprint = { 1, 2, 3 }, .layout = 1, .kv_format = 1, .n_planes = PLANES, .block_bytes = BLOCK,
		.page_tokens = KVD_PAGE_TOKENS, .max_seqs = SLOTS, .max_pages = PAGES, .sq_entries = 16,
	};

	strcpy(m.name, name);
	return m;
}

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
	sub = mmap(NULL, engine->attached.sub_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, packet_fds[0], 0);
	ck_assert_ptr_eq(mmap(NULL, engine->attached.comp_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, packet_fds[1], 0),
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

static void submit(struct raw_engine *engine, struct kvd_sqe sqe)
{
	uint32_t tail = engine->sub->sq_tail;

	for (unsigned i = 0; tail - __atomic_load_n(&engine->comp->sq_head, __ATOMIC_ACQUIRE) >= 16; i++) {
		struct pollfd gone = { .fd = engine->fd, .events = POLLRDHUP };

		if (poll(&gone, 1, 0))
			return;  /* kvd has closed us: it takes nothing any more */
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
			submit(engine, (struct kvd_sqe){ .verb = KVD_EXTENT_ACK, .other = m->extent,
							 .count = m->m.type == KVD_M_EXTENT_MAP });
		for (unsigned i = 0; i < packet_n_fds; i++)
			close(packet_fds[i]);
	}
}

/* The completion of this verb; acknowledgements of extents are passed over. */
static struct kvd_cqe complete(struct raw_engine *engine, uint16_t verb)
{
	for (unsigned i = 0; i < 5000; i++) {
		serve_extents(engine);
		while (engine->cq_head != __atomic_load_n(&engine->comp->cq_tail, __ATOMIC_ACQUIRE)) {
			struct kvd_cqe cqe = engine->cqes[engine->cq_head & (engine->attached.cq_entries - 1)];

			__atomic_store_n(&engine->sub->cq_head, ++engine->cq_head, __ATOMIC_RELEASE);
			if (cqe.verb == verb)
				return cqe;
		}
		usleep(1000);
	}
	ck_abort_msg("no completion of verb %u", verb);
}

/* A stream for a client of this tenant: both ends and the handle. */
static uint32_t open_stream(struct raw_engine *engine, const char *tenant, int *ret_client, int *ret_engine_end)
{
	struct kvd_msg_stream_open m = { .m = { .type = KVD_M_STREAM_OPEN, .size = sizeof(m), .seq = 5 }, .model = "tiny" };
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
			submit(engine, (struct kvd_sqe){ .verb = KVD_EXTENT_ACK, .count = 1,
							 .other = ((const struct kvd_msg_extent *)packet)->extent });
		for (unsigned i = 0; i < packet_n_fds; i++)
			close(packet_fds[i]);
	}
}

/* In a child, so that the process can end: run body, then exit or be killed. */
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

static int ended(pid_t pid)
{
	int status;

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

/* Bytes of frames that are on their way back, after waiting for n times 10 ms at most. */
static uint64_t frames_in_flight(unsigned n)
{
	for (;;) {
		struct kvd_row_status row = status_now();
		uint64_t bytes = row.frame_bytes[KVD_FRAME_OPEN] + row.frame_bytes[KVD_FRAME_QUARANTINED] +
				 row.frame_bytes[KVD_FRAME_RETIRING];

		if (!bytes || !n--)
			return bytes;
		usleep(10000);
	}
}

/* ---- tests ---- */

static void body_life_of_a_sequence(void)
{
	struct raw_engine engine;
	struct kvd_cqe cqe;
	char byte;
	int client, engine_end;
	uint32_t handle;

	attach_raw(&engine, "a");
	handle = open_stream(&engine, "ann", &client, &engine_end);
	ck_assert_int_eq(send(client, "q", 1, 0), 1);
	ck_assert_int_eq(recv(engine_end, &byte, 1, 0), 1);  /* they have met */
	for (int32_t i = 0; i < 40; i++)
		engine.tokens[i] = 100 + i;
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 0, .tenant = handle, .n_tokens = 40, .user_data = 9 });
	cqe = complete(&engine, KVD_SEQ_OPEN);
	ck_assert_uint_eq(cqe.status, KVD_S_OK);
	ck_assert_uint_eq(cqe.user_data, 9);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 0, .want = 3 });
	cqe = complete(&engine, KVD_SEQ_GROW);
	ck_assert_uint_eq(cqe.status, KVD_S_OK);
	ck_assert_uint_eq(cqe.pages, 3);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_uint_eq(KVD_ENTRY_FORMAT(engine.tables[i]), 1);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_SEAL, .slot = 0, .page = 0, .count = 2 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_SEAL).status, KVD_S_OK);
	expect_clean();
	/* The same prompt again: its sealed pages are in the table at once. */
	memcpy(engine.tokens + PAGES * 16, engine.tokens, 40 * 4);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 1, .tenant = handle, .n_tokens = 40 });
	cqe = complete(&engine, KVD_SEQ_OPEN);
	ck_assert_uint_eq(cqe.status, KVD_S_OK);
	ck_assert_uint_eq(cqe.cached, 2);
	/* A handle that nobody was given. */
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 2, .tenant = handle + 1, .n_tokens = 1 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_OPEN).status, KVD_S_STALE);
	/* Tokens that are not in the row. */
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 2, .tenant = handle, .n_tokens = 0xffffffff });
	ck_assert_uint_ne(complete(&engine, KVD_SEQ_OPEN).status, KVD_S_OK);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = 0 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_CLOSE).status, KVD_S_OK);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = 1 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_CLOSE).status, KVD_S_OK);
	expect_clean();
}

START_TEST(life_of_a_sequence)
{
	setup(_i);
	ck_assert_int_eq(ended(in_child(body_life_of_a_sequence)), 0);
	teardown(0);
}
END_TEST

static void body_killed(void)
{
	struct raw_engine engine;
	int client, engine_end;
	uint32_t handle;

	attach_raw(&engine, "victim");
	handle = open_stream(&engine, "ann", &client, &engine_end);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 0, .tenant = handle, .n_tokens = 100 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_OPEN).status, KVD_S_OK);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 0, .want = 7 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_GROW).status, KVD_S_OK);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 0, .want = 8 });
	raise(SIGKILL);
}

/* KiB of anonymous memory of the daemon. */
static unsigned rss_anon(void)
{
	char path[64], line[256];
	unsigned kib = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", kvd_pid);
	file = fopen(path, "r");
	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "RssAnon: %u", &kib) == 1)
			break;
	fclose(file);
	return kib;
}

/* KVD_TEST_KILLS=200 for the long run. */
START_TEST(a_killed_engine_leaves_nothing)
{
	const char *wanted = getenv("KVD_TEST_KILLS");
	unsigned n = wanted ? (unsigned)atoi(wanted) : 8, rss = 0;

	setup(_i);
	for (unsigned i = 0; i < n; i++) {
		struct kvd_row_status row;

		ck_assert(WIFSIGNALED(ended(in_child(body_killed))));
		ck_assert_uint_eq(frames_in_flight(100), 0);
		row = status_now();
		ck_assert_uint_eq(row.engines, 0);
		ck_assert_uint_eq(row.sequences, 0);
		expect_clean();
		if (i == n / 2)
			rss = rss_anon();
	}
	ck_assert_uint_le(rss_anon(), rss + 64);
	teardown(0);
}
END_TEST

/* A closed socket is not a dead process: its frames wait for the process. */
static int detached_pipe[2];
static void body_detached(void)
{
	struct raw_engine engine;
	int client, engine_end;
	uint32_t handle;
	char byte;

	attach_raw(&engine, "detached");
	handle = open_stream(&engine, "ann", &client, &engine_end);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 0, .tenant = handle, .n_tokens = 100 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_OPEN).status, KVD_S_OK);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = 0, .want = 7 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_GROW).status, KVD_S_OK);
	close(engine.fd);
	(void)!read(detached_pipe[0], &byte, 1);
}

START_TEST(quarantine_ends_with_the_process)
{
	pid_t pid;
	struct kvd_row_status row;

	setup(_i);
	ck_assert_int_eq(pipe(detached_pipe), 0);
	pid = in_child(body_detached);
	for (unsigned j = 0; j < 300; j++) {
		row = status_now();
		if (row.frame_bytes[KVD_FRAME_QUARANTINED])
			break;
		usleep(10000);
	}
	ck_assert_uint_gt(row.frame_bytes[KVD_FRAME_QUARANTINED], 0);
	usleep(300000);
	ck_assert_uint_gt(status_now().frame_bytes[KVD_FRAME_QUARANTINED], 0);
	expect_clean();
	ck_assert_int_eq(write(detached_pipe[1], "x", 1), 1);
	ck_assert_int_eq(ended(pid), 0);
	for (unsigned j = 0; j < 100 && status_now().frame_bytes[KVD_FRAME_QUARANTINED]; j++)
		usleep(10000);
	ck_assert_uint_eq(status_now().frame_bytes[KVD_FRAME_QUARANTINED], 0);
	teardown(0);
}
END_TEST

static void body_index_jump(void)
{
	struct raw_engine engine;

	attach_raw(&engine, "jumper");
	__atomic_store_n(&engine.sub->sq_tail, 1000000, __ATOMIC_RELEASE);
	(void)send(engine.fd, "", 1, MSG_NOSIGNAL);
	expect_closed(engine.fd);
}

static void body_consumes_too_much(void)
{
	struct raw_engine engine;

	attach_raw(&engine, "eater");
	__atomic_store_n(&engine.sub->cq_head, 77, __ATOMIC_RELEASE);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = 0 });
	expect_closed(engine.fd);
}

static void body_consumes_nothing(void)
{
	struct raw_engine engine;
	struct pollfd gone = { .events = POLLRDHUP };

	attach_raw(&engine, "sleeper");
	gone.fd = engine.fd;
	for (unsigned i = 0; i < 1000 && !poll(&gone, 1, 0); i++)
		submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = 1 });
	expect_closed(engine.fd);
}

static void (*const bad_engines[])(void) = { body_index_jump, body_consumes_too_much, body_consumes_nothing };

START_TEST(closes_engines_that_break_their_rings)
{
	setup(_i % 2);
	ck_assert_int_eq(ended(in_child(bad_engines[_i / 2])), 0);
	teardown(1);
}
END_TEST

/* Submissions nobody would write: every verb, every field at its limits. */
static void body_hostile_submissions(void)
{
	static const uint32_t values[] = { 0, 1, 3, 4, 16, 255, 0x7fffffff, 0x80000000, 0xffffffff };
	struct raw_engine engine;
	int client, engine_end;
	uint32_t handle;
	unsigned n = 0;

	attach_raw(&engine, "hostile");
	handle = open_stream(&engine, "ann", &client, &engine_end);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 0, .tenant = handle, .n_tokens = 40 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_OPEN).status, KVD_S_OK);
	srand(11);
	for (unsigned i = 0; i < 4000; i++) {
		struct kvd_sqe sqe = { .verb = (uint16_t)(rand() % 12), .flags = (uint16_t)(rand() % 3) };
#define ANY values[(unsigned)rand() % 9]
		sqe.slot = rand() % 4 ? (uint32_t)rand() % SLOTS : ANY;
		sqe.tenant = rand() % 2 ? handle : ANY;
		sqe.n_tokens = rand() % 2 ? 1 + (uint32_t)rand() % 250 : ANY;
		sqe.page = rand() % 2 ? (uint32_t)rand() % PAGES : ANY;
		sqe.count = rand() % 2 ? (uint32_t)rand() % 3 : ANY;
		sqe.want = rand() % 2 ? (uint32_t)rand() % PAGES : ANY;
		sqe.other = rand() % 2 ? (uint32_t)rand() % SLOTS : ANY;
#undef ANY
		engine.tokens[(unsigned)rand() % (SLOTS * PAGES * 16)] = rand();
		submit(&engine, sqe);
		/* Consume, whatever it says; late answers may never come. */
		serve_extents(&engine);
		__atomic_store_n(&engine.sub->cq_head, __atomic_load_n(&engine.comp->cq_tail, __ATOMIC_ACQUIRE),
				 __ATOMIC_RELEASE);
		if (++n % 400 == 0)
			expect_clean();
	}
}

START_TEST(takes_any_submission)
{
	setup(_i);
	ck_assert_int_eq(ended(in_child(body_hostile_submissions)), 0);
	teardown(0);
}
END_TEST

static void body_bad_attach(void)
{
	struct raw_engine first;
	struct kvd_msg_attach good = attach_message("b"), bad;
	const struct kvd_msg_error *error;
	int fd;

	attach_raw(&first, "a");
	fd = connect_as(KVD_ROLE_ENGINE, "");
#define REFUSED(change, status) do { \
		bad = good; change; \
		ck_assert_int_eq(send(fd, &bad, sizeof(bad), MSG_NOSIGNAL), sizeof(bad)); \
		error = expect_error(fd, status); \
	} while (0)
	REFUSED(strcpy(bad.name, "a"), KVD_S_NAME_TAKEN);
	REFUSED(bad.name[0] = '\0', KVD_S_BAD_REQUEST);
	REFUSED(bad.page_tokens = 32, KVD_S_GEOMETRY);
	ck_assert_uint_eq(error->need, 32);
	ck_assert_uint_eq(error->have, 16);
	REFUSED(bad.n_planes = 0, KVD_S_BAD_REQUEST);
	REFUSED(bad.block_bytes = 1 << 19, KVD_S_GEOMETRY);  /* 2 MiB pages in 1 MiB extents */
	ck_assert_uint_gt(error->need, error->have);
	REFUSED(bad.block_bytes = 0xffffffff, KVD_S_GEOMETRY);
	REFUSED(bad.max_seqs = 0, KVD_S_LIMIT);
	REFUSED(bad.max_seqs = 100000, KVD_S_LIMIT);
	REFUSED(bad.max_pages = 0x80000000, KVD_S_LIMIT);
	REFUSED((bad.max_seqs = 4096, bad.max_pages = 65536), KVD_S_LIMIT);
	REFUSED(bad.sq_entries = 24, KVD_S_LIMIT);
#undef REFUSED
	/* After all that the same connection may still do it right. */
	ck_assert_int_eq(send(fd, &good, sizeof(good), MSG_NOSIGNAL), sizeof(good));
	expect(fd, KVD_M_ATTACHED);
	ck_assert_int_eq(send(fd, &good, sizeof(good), MSG_NOSIGNAL), sizeof(good));
	expect_error(fd, KVD_S_STALE);
}

START_TEST(names_what_is_wrong_with_an_attach)
{
	setup(_i);
	ck_assert_int_eq(ended(in_child(body_bad_attach)), 0);
	teardown(0);
}
END_TEST

static void body_streams(void)
{
	struct kvd_msg_stream_open m = { .m = { .type = KVD_M_STREAM_OPEN, .size = sizeof(m), .seq = 1 } };
	struct kvd_msg_client_gone gone = { .m = { .type = KVD_M_CLIENT_GONE, .size = sizeof(gone) } };
	struct raw_engine a, b;
	int client = connect_as(KVD_ROLE_CLIENT, "ann"), end, engine_end;
	struct kvd_row_tenant *rows, row = { .prompt_tokens = 0 };
	uint64_t n;

#define OPEN(model_name, engine_name, avoid_name, wait) do { \
		strcpy(m.model, model_name); strcpy(m.engine, engine_name); strcpy(m.avoid, avoid_name); m.wait_ms = wait; \
		ck_assert_int_eq(send(client, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m)); \
	} while (0)
	OPEN("", "", "", 0);
	expect_error(client, KVD_S_NO_MODEL);
	OPEN("tiny", "", "", 50);
	expect_error(client, KVD_S_NO_MODEL);
	/* Two wait; the engine comes. */
	OPEN("tiny", "", "", 5000);
	OPEN("", "", "", 5000);
	attach_raw(&a, "a");
	for (int i = 0; i < 2; i++) {
		ck_assert_str_eq(((const struct kvd_msg_stream *)expect(client, KVD_M_STREAM))->engine, "a");
		close(packet_fds[0]);
	}
	/* The engine with fewer streams; the one that is named; not the one that died. */
	attach_raw(&b, "b");
	OPEN("", "", "", 0);
	ck_assert_str_eq(((const struct kvd_msg_stream *)expect(client, KVD_M_STREAM))->engine, "b");
	OPEN("tiny", "a", "", 0);
	ck_assert_str_eq(((const struct kvd_msg_stream *)expect(client, KVD_M_STREAM))->engine, "a");
	OPEN("tiny", "", "b", 0);
	ck_assert_str_eq(((const struct kvd_msg_stream *)expect(client, KVD_M_STREAM))->engine, "a");
	OPEN("huge", "", "", 0);
	expect_error(client, KVD_S_NO_MODEL);
	OPEN("tiny", "c", "", 0);
	expect_error(client, KVD_S_NO_MODEL);
#undef OPEN
	/* Totals of a stream are the tenant's, once. */
	gone.client = open_stream(&b, "ann", &end, &engine_end);
	gone.prompt_tokens = 100;
	gone.cached_tokens = 60;
	gone.completion_tokens = 7;
	ck_assert_int_eq(send(b.fd, &gone, sizeof(gone), MSG_NOSIGNAL), sizeof(gone));
	ck_assert_int_eq(send(b.fd, &gone, sizeof(gone), MSG_NOSIGNAL), sizeof(gone));
	for (unsigned i = 0; i < 100 && !row.prompt_tokens; i++) {
		rows = query(client, KVD_Q_TENANTS, &n);
		while (n && strcmp(rows[n - 1].name, "ann"))
			n--;
		ck_assert_uint_gt(n, 0);
		row = rows[n - 1];
		free(rows);
		usleep(1000);
	}
	ck_assert_uint_eq(row.prompt_tokens, 100);
	ck_assert_uint_eq(row.cached_tokens, 60);
	ck_assert_uint_eq(row.completion_tokens, 7);
}

START_TEST(introduces_clients)
{
	setup(_i);
	ck_assert_int_eq(ended(in_child(body_streams)), 0);
	teardown(0);
}
END_TEST

static void body_weights(void)
{
	struct kvd_msg_weights m = { .m = { .size = sizeof(m), .seq = 3 }, .fingerprint = { 1, 2, 3 }, .layout = "panels/1" };
	const struct kvd_msg_weights *reply;
	struct raw_engine a, b;
	int fd = memfd_create("weights", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	char text[8] = "";

	attach_raw(&a, "a");
	attach_raw(&b, "b");
	m.m.type = KVD_M_WEIGHTS_ASK;
	ck_assert_int_eq(send(b.fd, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	reply = expect(b.fd, KVD_M_WEIGHTS);
	ck_assert_uint_eq(reply->m.status, KVD_S_NO_MODEL);
	ck_assert_uint_eq(packet_n_fds, 0);
	ck_assert_int_eq(write(fd, "weights", 7), 7);
	m.m.type = KVD_M_WEIGHTS_OFFER;
	send_fds(a.fd, &m, sizeof(m), &fd, 1);
	expect_error(a.fd, KVD_S_BAD_REQUEST);  /* not sealed */
	ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW), 0);
	send_fds(a.fd, &m, sizeof(m), &fd, 1);
	m.m.type = KVD_M_WEIGHTS_ASK;
	for (unsigned i = 0; i < 100; i++) {
		ck_assert_int_eq(send(b.fd, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
		reply = expect(b.fd, KVD_M_WEIGHTS);
		if (reply->m.status == KVD_S_OK)
			break;
		usleep(10000);
	}
	ck_assert_uint_eq(packet_n_fds, 1);
	ck_assert_int_eq(pread(packet_fds[0], text, 7, 0), 7);
	ck_assert_str_eq(text, "weights");
	m.fingerprint[0] = 9;                   /* another model's */
	ck_assert_int_eq(send(b.fd, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	expect_error(b.fd, KVD_S_BAD_REQUEST);
}

START_TEST(passes_weights_on)
{
	setup(_i);
	ck_assert_int_eq(ended(in_child(body_weights)), 0);
	teardown(0);                            /* the kept descriptor went with the last engine */
}
END_TEST

static pid_t mover_pid(void)
{
	char path[64];
	int pid = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", kvd_pid, kvd_pid);
	file = fopen(path, "r");
	ck_assert_ptr_nonnull(file);
	if (fscanf(file, "%d", &pid) != 1)
		pid = 0;
	fclose(file);
	return pid;
}

START_TEST(the_mover_is_disposable)
{
	pid_t first, second = 0;

	setup(_i);
	for (unsigned i = 0; i < 3; i++) {
		first = mover_pid();
		ck_assert_int_gt(first, 1);
		ck_assert_int_eq(kill(first, SIGKILL), 0);
		for (unsigned j = 0; j < 500 && (second = mover_pid(), second == 0 || second == first); j++)
			usleep(10000);
		ck_assert_int_gt(second, 1);
		ck_assert_int_ne(second, first);
		/* Jobs are done by the new one: an engine's pages are scrubbed when it is killed. */
		ck_assert(WIFSIGNALED(ended(in_child(body_killed))));
		ck_assert_uint_eq(frames_in_flight(300), 0);
		expect_clean();
	}
	first = mover_pid();
	teardown(0);
	for (unsigned j = 0; j < 300 && kill(first, 0) == 0; j++)
		usleep(10000);
	ck_assert_int_lt(kill(first, 0), 0);    /* ended with kvd */
}
END_TEST

static void body_stranger(void)
{
	struct kvd_msg_attach m = attach_message("x");
	const struct kvd_msg_welcome *welcome;
	struct kvd_row_status *row;
	int fd;

	ck_assert(setgid(4242) == 0 && setuid(4242) == 0);
	fd = connect_raw();
	send_hello(fd, KVD_ROLE_CLIENT, "ann");
	expect_error(fd, KVD_S_REFUSED);        /* a tenant is who the kernel says */
	expect_closed(fd);
	fd = connect_raw();
	send_hello(fd, KVD_ROLE_CLIENT, "");
	welcome = expect(fd, KVD_M_WELCOME);
	ck_assert_str_eq(welcome->tenant, "uid-4242");
	ck_assert_uint_eq(welcome->admin, 0);
	row = query(fd, KVD_Q_STATUS, NULL);
	ck_assert_uint_eq(row->healthy, 1);
	ck_assert_uint_eq(row->pool_bytes + row->physical_bytes + row->tenants + row->frames[KVD_FRAME_FREE], 0);
	free(row);
	send_query(fd, KVD_Q_FSCK, 1);
	expect_error(fd, KVD_S_REFUSED);
	send_query(fd, KVD_Q_EXTENTS, 1);
	expect_error(fd, KVD_S_REFUSED);
	uint64_t n;
	struct kvd_row_tenant *tenants = query(fd, KVD_Q_TENANTS, &n);

	ck_assert_uint_eq(n, 1);
	ck_assert_str_eq(tenants->name, "uid-4242");
	free(tenants);
	close(fd);
	/* Other connections do not give it more questions. */
	for (unsigned i = 0, refused = 0; !refused; i++) {
		ck_assert_uint_lt(i, 30);
		fd = connect_as(KVD_ROLE_CLIENT, "");
		send_query(fd, KVD_Q_PAGES, 1);
		ck_assert_uint_gt(receive(fd), 0);
		refused = ((const struct kvd_msg *)packet)->type == KVD_M_ERROR;
		if (packet_n_fds)
			close(packet_fds[0]);
		close(fd);
	}
	fd = connect_as(KVD_ROLE_ENGINE, "");
	ck_assert_int_eq(send(fd, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	expect_error(fd, KVD_S_REFUSED);
}

static void body_overflow(void)
{
	int fd;

	ck_assert(setgid(65534) == 0 && setuid(65534) == 0);
	fd = connect_raw();
	send_hello(fd, KVD_ROLE_CLIENT, "");
	expect_error(fd, KVD_S_REFUSED);
	expect_closed(fd);
}

START_TEST(strangers_see_their_own)
{
	if (getuid() != 0) {
		printf("skipped: needs root to become another user\n");
		return;
	}
	setup(_i);
	close(connect_as(KVD_ROLE_CLIENT, "somebody-else"));
	ck_assert_int_eq(ended(in_child(body_stranger)), 0);
	ck_assert_int_eq(ended(in_child(body_overflow)), 0);
	teardown(0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("daemon_engine");
	TCase *tcase = tcase_create("engines");
	SRunner *runner;
	int failed;

	if (!have_kvd())
		return 0;
	signal(SIGPIPE, SIG_IGN);
	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, life_of_a_sequence, 0, 2);
	tcase_add_loop_test(tcase, a_killed_engine_leaves_nothing, 0, 2);
	tcase_add_loop_test(tcase, quarantine_ends_with_the_process, 0, 2);
	tcase_add_loop_test(tcase, closes_engines_that_break_their_rings, 0, 6);
	tcase_add_loop_test(tcase, takes_any_submission, 0, 2);
	tcase_add_loop_test(tcase, names_what_is_wrong_with_an_attach, 0, 2);
	tcase_add_loop_test(tcase, introduces_clients, 0, 2);
	tcase_add_loop_test(tcase, passes_weights_on, 0, 2);
	tcase_add_loop_test(tcase, the_mover_is_disposable, 0, 2);
	tcase_add_loop_test(tcase, strangers_see_their_own, 0, 2);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
