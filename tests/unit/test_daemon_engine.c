/* test_daemon_engine.c - a real kvd and raw engines: attach, rings, death, the mover.  Each test
 * ends with clean books and no descriptor left. */
#include "tests/unit/daemon_raw_engine.h"

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
	ck_assert_int_eq(recv(engine_end, &byte, 1, 0), 1); /* they have met */
	for (int32_t i = 0; i < 40; i++)
		engine.tokens[i] = 100 + i;
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN,
					  .slot = 0,
					  .tenant = handle,
					  .n_tokens = 40,
					  .user_data = 9 });
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
	submit(&engine,
	       (struct kvd_sqe){
		       .verb = KVD_SEQ_OPEN, .slot = 1, .tenant = handle, .n_tokens = 40 });
	cqe = complete(&engine, KVD_SEQ_OPEN);
	ck_assert_uint_eq(cqe.status, KVD_S_OK);
	ck_assert_uint_eq(cqe.cached, 2);
	/* A handle that nobody was given. */
	submit(&engine,
	       (struct kvd_sqe){
		       .verb = KVD_SEQ_OPEN, .slot = 2, .tenant = handle + 1, .n_tokens = 1 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_OPEN).status, KVD_S_STALE);
	/* Tokens that are not in the row. */
	submit(&engine,
	       (struct kvd_sqe){
		       .verb = KVD_SEQ_OPEN, .slot = 2, .tenant = handle, .n_tokens = 0xffffffff });
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
	submit(&engine,
	       (struct kvd_sqe){
		       .verb = KVD_SEQ_OPEN, .slot = 0, .tenant = handle, .n_tokens = 100 });
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
	submit(&engine,
	       (struct kvd_sqe){
		       .verb = KVD_SEQ_OPEN, .slot = 0, .tenant = handle, .n_tokens = 100 });
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

static void (*const bad_engines[])(void) = { body_index_jump, body_consumes_too_much,
					     body_consumes_nothing };

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
	static const uint32_t values[] = {
		0, 1, 3, 4, 16, 255, 0x7fffffff, 0x80000000, 0xffffffff
	};
	struct raw_engine engine;
	int client, engine_end;
	uint32_t handle;
	unsigned n = 0;

	attach_raw(&engine, "hostile");
	handle = open_stream(&engine, "ann", &client, &engine_end);
	submit(&engine,
	       (struct kvd_sqe){
		       .verb = KVD_SEQ_OPEN, .slot = 0, .tenant = handle, .n_tokens = 40 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_OPEN).status, KVD_S_OK);
	srand(11);
	for (unsigned i = 0; i < 4000; i++) {
		struct kvd_sqe sqe = { .verb = (uint16_t)(rand() % 12),
				       .flags = (uint16_t)(rand() % 3) };
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
		__atomic_store_n(&engine.sub->cq_head,
				 __atomic_load_n(&engine.comp->cq_tail, __ATOMIC_ACQUIRE),
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
#define REFUSED(change, status) \
	do { \
		bad = good; \
		change; \
		ck_assert_int_eq(send(fd, &bad, sizeof(bad), MSG_NOSIGNAL), sizeof(bad)); \
		error = expect_error(fd, status); \
	} while (0)
	REFUSED(strcpy(bad.name, "a"), KVD_S_NAME_TAKEN);
	REFUSED(bad.name[0] = '\0', KVD_S_BAD_REQUEST);
	REFUSED(bad.page_tokens = 32, KVD_S_GEOMETRY);
	ck_assert_uint_eq(error->need, 32);
	ck_assert_uint_eq(error->have, 16);
	REFUSED(bad.n_planes = 0, KVD_S_BAD_REQUEST);
	REFUSED(bad.block_bytes = 1 << 19, KVD_S_GEOMETRY); /* 2 MiB pages in 1 MiB extents */
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
		for (unsigned j = 0;
		     j < 500 && (second = mover_pid(), second == 0 || second == first); j++)
			usleep(10000);
		ck_assert_int_gt(second, 1);
		ck_assert_int_ne(second, first);
		/* Jobs are done by the new one: an engine's pages are scrubbed when it is
		 * killed. */
		ck_assert(WIFSIGNALED(ended(in_child(body_killed))));
		ck_assert_uint_eq(frames_in_flight(300), 0);
		expect_clean();
	}
	first = mover_pid();
	teardown(0);
	for (unsigned j = 0; j < 300 && kill(first, 0) == 0; j++)
		usleep(10000);
	ck_assert_int_lt(kill(first, 0), 0); /* ended with kvd */
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("engines");

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
	tcase_add_loop_test(tcase, the_mover_is_disposable, 0, 2);
	return run_tests("daemon_engine", tcase);
}
