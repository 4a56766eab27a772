/* test_daemon_adopt.c - what an engine meets when kvd is killed and another takes over: its completions, its
 * table, messages that waited for room, totals that lay unread.  The engine is raw: it switches when the test
 * says so. */
#include "tests/lib/slow.h"
#include "tests/unit/daemon_raw_engine.h"

#include <time.h>

static const char *const keeper_args[] = { "--keeper", NULL };
static const char *loop_now;

static void adopt_setup(int i, const char *const *more)
{
	loop_now = loops[i];
	kvd_start(loop_now, more);
}

static void kill_kvd(void)
{
	ck_assert_int_eq(kill(kvd_pid, SIGKILL), 0);
	ck_assert_int_eq(waitpid(kvd_pid, NULL, 0), kvd_pid);
}

static void take_over(void)
{
	kill_kvd();
	kvd_spawn(loop_now, keeper_args);
}

/* ADOPTED has come: look at the new completion segment, and say so unless told not to. */
static void switch_engine(struct raw_engine *engine, bool say)
{
	struct kvd_msg_adopted m = *(const struct kvd_msg_adopted *)expect(engine->fd, KVD_M_ADOPTED);
	uint8_t *comp;

	ck_assert_uint_eq(packet_n_fds, 1);
	ck_assert_uint_eq(m.kvd_pid, (uint32_t)kvd_pid);
	ck_assert_uint_eq(m.engine, engine->attached.engine);
	ck_assert_uint_eq(m.comp_bytes, engine->attached.comp_bytes);
	ck_assert_uint_eq(m.cq_entries, engine->attached.cq_entries);
	comp = mmap(NULL, m.comp_bytes, PROT_READ, MAP_SHARED, packet_fds[0], 0);
	ck_assert(comp != MAP_FAILED);
	/* As the first one: nobody may write it. */
	ck_assert_ptr_eq(mmap(NULL, m.comp_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, packet_fds[0], 0), MAP_FAILED);
	close(packet_fds[0]);
	engine->comp = (void *)comp;
	engine->cqes = (void *)(comp + m.cqe_offset);
	engine->tables = (void *)(comp + m.tables_offset);
	if (say)
		__atomic_store_n(&engine->sub->comp_generation, m.generation, __ATOMIC_RELEASE);
}

static void say_switched(struct raw_engine *engine, uint32_t generation)
{
	__atomic_store_n(&engine->sub->comp_generation, generation, __ATOMIC_RELEASE);
}

static bool adopted_within(unsigned ms)
{
	for (unsigned i = 0; i < ms * test_slow() / 10; i++) {
		if (status_now().adopted)
			return true;
		usleep(10000);
	}
	return false;
}

/* kvd with a keeper ends in order while this process, its engine, lives. */
static void adopt_teardown(struct raw_engine *engine)
{
	expect_clean();
	close(engine->fd);
	kvd_stop();
}

static void open_sequence(struct raw_engine *engine, uint32_t handle, uint32_t slot, uint32_t pages)
{
	uint32_t n_tokens = pages * 16 - 4;

	for (uint32_t i = 0; i < n_tokens; i++)
		engine->tokens[slot * PAGES * 16 + i] = (int32_t)(1000 * slot + i);
	submit(engine, (struct kvd_sqe){
			       .verb = KVD_SEQ_OPEN, .slot = slot, .tenant = handle, .n_tokens = n_tokens });
	ck_assert_uint_eq(complete(engine, KVD_SEQ_OPEN).status, KVD_S_OK);
	submit(engine, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = slot, .want = pages });
	ck_assert_uint_eq(complete(engine, KVD_SEQ_GROW).status, KVD_S_OK);
}

START_TEST(rings_and_tables_go_on)
{
	struct raw_engine engine, before;
	int client, engine_end;
	uint32_t handle, tail;
	uint32_t row[PAGES];
	struct kvd_cqe unseen;

	adopt_setup(_i, keeper_args);
	attach_raw(&engine, "a");
	handle = open_stream(&engine, "ann", &client, &engine_end);
	open_sequence(&engine, handle, 0, 4);
	open_sequence(&engine, handle, 2, 3);
	for (unsigned round = 0; round < 3; round++) {
		/* Answered, and not looked at. */
		tail = engine.cq_head;
		submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_SEAL,
						  .slot = 0,
						  .page = round,
						  .count = 1,
						  .user_data = 40 + round });
		for (unsigned i = 0; i < 5000; i++) {
			if (__atomic_load_n(&engine.comp->cq_tail, __ATOMIC_ACQUIRE) != tail)
				break;
			usleep(1000);
		}
		unseen = engine.cqes[tail & (engine.attached.cq_entries - 1)];
		ck_assert_uint_eq(unseen.user_data, 40 + round);
		memcpy(row, engine.tables + 2 * PAGES, sizeof(row));
		kill_kvd();
		/* Submitted while there is no kvd. */
		submit(&engine, (struct kvd_sqe){
					.verb = KVD_SEQ_GROW, .slot = 2, .want = 4 + round, .user_data = 70 });
		kvd_spawn(loop_now, keeper_args);
		before = engine;
		switch_engine(&engine, true);
		ck_assert_mem_eq(&engine.cqes[tail & (engine.attached.cq_entries - 1)], &unseen, sizeof(unseen));
		ck_assert_mem_eq(engine.tables, before.tables, PAGES * sizeof(*engine.tables));
		ck_assert_uint_eq(complete(&engine, KVD_SEQ_SEAL).user_data, 40 + round);
		ck_assert_uint_eq(complete(&engine, KVD_SEQ_GROW).user_data, 70);
		/* What was in the other row is there, and what came after the kill behind it. */
		ck_assert_mem_eq(engine.tables + 2 * PAGES, row, (3 + round) * sizeof(row[0]));
		ck_assert_uint_ne(engine.tables[2 * PAGES + 3 + round], 0);
		ck_assert_uint_eq(engine.comp->sq_head, engine.sub->sq_tail);
		ck_assert(adopted_within(5000));
		expect_clean();
	}
	/* The old handle still stands for its tenant; one that nobody was given is stale. */
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 1, .tenant = handle, .n_tokens = 5 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_OPEN).status, KVD_S_OK);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 3, .tenant = handle + 7, .n_tokens = 5 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_OPEN).status, KVD_S_STALE);
	adopt_teardown(&engine);
}
END_TEST

static uint64_t retiring(void)
{
	return status_now().frames[KVD_FRAME_RETIRING];
}

START_TEST(nothing_is_reused_before_the_switch)
{
	struct raw_engine engine;
	int client, engine_end;
	uint32_t handle;

	adopt_setup(_i, keeper_args);
	attach_raw(&engine, "a");
	handle = open_stream(&engine, "ann", &client, &engine_end);
	open_sequence(&engine, handle, 0, 4);
	__atomic_store_n(&engine.sub->step_begun, 1, __ATOMIC_RELEASE);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE, .slot = 0 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_CLOSE).status, KVD_S_OK);
	take_over();
	switch_engine(&engine, false);
	/* The step ends and another begins, with the table of the dead kvd. */
	__atomic_store_n(&engine.sub->step_done, 1, __ATOMIC_RELEASE);
	__atomic_store_n(&engine.sub->step_begun, 2, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < 40; i++) {
		ck_assert_uint_eq(retiring(), 4);
		usleep(10000);
	}
	ck_assert(!status_now().adopted);
	say_switched(&engine, 1);
	/* Only a step begun after the switch is one that cannot look at them. */
	__atomic_store_n(&engine.sub->step_done, 2, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < 500 && retiring(); i++)
		usleep(10000);
	ck_assert_uint_eq(retiring(), 0);
	ck_assert(adopted_within(1000));
	adopt_teardown(&engine);
}
END_TEST

START_TEST(who_does_not_switch_is_hung_up)
{
	struct raw_engine engine;
	struct pollfd closed = { .events = POLLRDHUP };

	adopt_setup(_i, keeper_args);
	attach_raw(&engine, "a");
	ck_assert_uint_eq(status_now().engines, 1); /* a round later it is in the book */
	closed.fd = engine.fd;
	take_over();
	switch_engine(&engine, false);
	say_switched(&engine, 99);             /* nonsense is no switch */
	ck_assert_int_eq(poll(&closed, 1, 5000), 0);
	ck_assert_int_eq(poll(&closed, 1, (int)(20000 * test_slow())), 1);
	ck_assert(!status_now().adopted);
	ck_assert_uint_eq(status_now().peers_closed, 0);
	adopt_teardown(&engine);
}
END_TEST

START_TEST(version_one_is_hung_up)
{
	struct kvd_msg_hello hello = {
		.m = { .type = KVD_M_HELLO, .size = sizeof(hello), .seq = 1 },
		.version_min = 1,
		.version_max = 1,
		.role = KVD_ROLE_ENGINE,
		.program = "old",
	};
	struct kvd_msg_attach attach = attach_message("old");
	struct raw_engine modern;
	int fd;

	adopt_setup(_i, keeper_args);
	attach_raw(&modern, "modern");
	fd = connect_raw();
	ck_assert_int_eq(send(fd, &hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
	expect(fd, KVD_M_WELCOME);
	ck_assert_int_eq(send(fd, &attach, sizeof(attach), MSG_NOSIGNAL), sizeof(attach));
	expect(fd, KVD_M_ATTACHED);
	ck_assert_uint_eq(status_now().engines, 2); /* a round later it is in the book */
	take_over();
	expect_closed(fd);
	switch_engine(&modern, true);          /* the other one is as before */
	ck_assert(!adopted_within(300));       /* and it is not as if nothing had happened */
	adopt_teardown(&modern);
}
END_TEST

/* ---- what waited for room in the engine's socket ---- */

#define CROWD 400u
#define CROWD_TENANTS 4u

static int crowd_open(int client, uint32_t *ret_handle)
{
	struct kvd_msg_stream_open m = {
		.m = { .type = KVD_M_STREAM_OPEN, .size = sizeof(m), .seq = 5 }, .model = "tiny"
	};
	const struct kvd_msg_stream *stream;

	ck_assert_int_eq(send(client, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	stream = expect(client, KVD_M_STREAM);
	*ret_handle = stream->client;
	ck_assert_uint_eq(packet_n_fds, 1);
	return packet_fds[0];
}

/* Read what kvd has sent until ADOPTED and every handle have come. */
static unsigned crowd_read(struct raw_engine *engine, const uint32_t *handles, unsigned *ret_dead)
{
	uint32_t last = 0;
	unsigned n = 0;
	bool adopted = false, seen[CROWD] = { 0 };

	*ret_dead = 0;
	while (n < CROWD || !adopted) {
		const struct kvd_msg *m = (const void *)packet;
		struct pollfd stream = { .events = POLLIN };

		ck_assert_uint_gt(receive(engine->fd), 0);
		adopted |= m->type == KVD_M_ADOPTED;
		if (m->type == KVD_M_ADOPTED)
			say_switched(engine, ((const struct kvd_msg_adopted *)packet)->generation);
		if (m->seq == 0 || m->seq <= last) {   /* as libkvd does */
			for (unsigned i = 0; i < packet_n_fds; i++)
				close(packet_fds[i]);
			continue;
		}
		ck_assert_uint_eq(m->seq, last + 1);
		last = m->seq;
		if (m->type == KVD_M_CLIENT_NEW) {
			uint32_t handle = ((const struct kvd_msg_client_new *)packet)->client;
			unsigned i = 0;

			while (i < CROWD && handles[i] != handle)
				i++;
			ck_assert_uint_lt(i, CROWD);
			ck_assert(!seen[i]);
			seen[i] = true;
			n++;
			stream.fd = packet_fds[0];
			*ret_dead += poll(&stream, 1, 0) == 1 && (stream.revents & POLLHUP);
		}
		for (unsigned i = 0; i < packet_n_fds; i++)
			close(packet_fds[i]);
	}
	return n;
}

START_TEST(what_found_no_room_is_sent_again)
{
	struct raw_engine engine;
	int clients[CROWD_TENANTS], ends[CROWD];
	uint32_t handles[CROWD];
	unsigned dead;
	char tenant[16];

	adopt_setup(_i, keeper_args);
	attach_raw(&engine, "a");
	for (unsigned i = 0; i < CROWD_TENANTS; i++) {
		snprintf(tenant, sizeof(tenant), "t%u", i);
		clients[i] = connect_as(KVD_ROLE_CLIENT, tenant);
	}
	/* The engine does not read; its socket has room for some two hundred. */
	for (unsigned i = 0; i < CROWD; i++)
		ends[i] = crowd_open(clients[i % CROWD_TENANTS], &handles[i]);
	for (unsigned i = 0; i < CROWD_TENANTS; i++)
		close(clients[i]);
	take_over();
	ck_assert_uint_eq(crowd_read(&engine, handles, &dead), CROWD);
	/* Those that had waited lost their stream with kvd, and are told of all the same. */
	ck_assert_uint_gt(dead, 0);
	ck_assert_uint_lt(dead, CROWD);
	for (unsigned i = 0; i < CROWD; i++) {
		struct kvd_msg_client_gone gone = { .m = { .type = KVD_M_CLIENT_GONE, .size = sizeof(gone), .seq = 9 },
						    .client = handles[i] };

		ck_assert_int_eq(send(engine.fd, &gone, sizeof(gone), MSG_NOSIGNAL), sizeof(gone));
		close(ends[i]);
	}
	/* Every handle is back: a tenant can have as many streams as it may. */
	clients[0] = connect_as(KVD_ROLE_CLIENT, "t0");
	for (unsigned i = 0; i < 250; i++)
		close(crowd_open(clients[0], &handles[0]));
	close(clients[0]);
	adopt_teardown(&engine);
}
END_TEST

START_TEST(totals_are_counted_once)
{
	struct kvd_msg_client_gone gone = { .m = { .type = KVD_M_CLIENT_GONE, .size = sizeof(gone), .seq = 9 },
					    .prompt_tokens = 7, .cached_tokens = 3, .completion_tokens = 11 };
	struct raw_engine engine;
	int client, engine_end, admin;
	uint64_t n, prompt = 0;

	adopt_setup(_i, keeper_args);
	attach_raw(&engine, "a");
	gone.client = open_stream(&engine, "ann", &client, &engine_end);
	/* It lies in the socket when kvd dies. */
	ck_assert_int_eq(kill(kvd_pid, SIGSTOP), 0);
	ck_assert_int_eq(send(engine.fd, &gone, sizeof(gone), MSG_NOSIGNAL), sizeof(gone));
	take_over();
	switch_engine(&engine, true);
	ck_assert(adopted_within(5000));
	take_over();                           /* and not again */
	switch_engine(&engine, true);
	ck_assert(adopted_within(5000));
	admin = connect_as(KVD_ROLE_CLIENT, "");
	struct kvd_row_tenant *rows = query(admin, KVD_Q_TENANTS, &n);
	for (uint64_t i = 0; i < n; i++)
		if (!strcmp(rows[i].name, "ann"))
			prompt += rows[i].prompt_tokens;
	ck_assert_uint_eq(prompt, 7);
	free(rows);
	close(admin);
	submit(&engine, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .slot = 0, .tenant = gone.client, .n_tokens = 5 });
	ck_assert_uint_eq(complete(&engine, KVD_SEQ_OPEN).status, KVD_S_STALE);
	adopt_teardown(&engine);
}
END_TEST

/* An engine dies together with kvd: its frames come back, and that is no fault of the adoption. */
static void body_dies_with_kvd(void)
{
	struct raw_engine engine;
	int client, engine_end;
	uint32_t handle;

	attach_raw(&engine, "mortal");
	handle = open_stream(&engine, "ann", &client, &engine_end);
	open_sequence(&engine, handle, 0, 5);
	kill(kvd_pid, SIGKILL);
	raise(SIGKILL);
}

START_TEST(both_die)
{
	adopt_setup(_i, keeper_args);
	ck_assert(WIFSIGNALED(ended(in_child(body_dies_with_kvd))));
	ck_assert_int_eq(waitpid(kvd_pid, NULL, 0), kvd_pid);
	kvd_spawn(loop_now, keeper_args);
	ck_assert_uint_eq(frames_in_flight(500), 0);
	ck_assert_uint_eq(status_now().engines, 0);
	ck_assert(adopted_within(1000));
	expect_clean();
	kvd_stop();
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("adopt");

	if (!have_kvd())
		return 0;
	signal(SIGPIPE, SIG_IGN);
	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, rings_and_tables_go_on, 0, 2);
	tcase_add_loop_test(tcase, nothing_is_reused_before_the_switch, 0, 2);
	tcase_add_loop_test(tcase, who_does_not_switch_is_hung_up, 0, 1);
	tcase_add_loop_test(tcase, version_one_is_hung_up, 0, 2);
	tcase_add_loop_test(tcase, what_found_no_room_is_sent_again, 0, 2);
	tcase_add_loop_test(tcase, totals_are_counted_once, 0, 2);
	tcase_add_loop_test(tcase, both_die, 0, 2);
	return run_tests("daemon_adopt", tcase);
}
