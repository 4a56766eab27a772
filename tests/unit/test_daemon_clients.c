/* test_daemon_clients.c - a real kvd introduces clients to engines, passes weights on, tells
 * strangers only what is theirs.  Each test ends with clean books and no descriptor left. */
#include "tests/unit/daemon_raw_engine.h"

static void body_streams(void)
{
	struct kvd_msg_stream_open m = {
		.m = { .type = KVD_M_STREAM_OPEN, .size = sizeof(m), .seq = 1 }
	};
	struct kvd_msg_client_gone gone = { .m = { .type = KVD_M_CLIENT_GONE,
						   .size = sizeof(gone) } };
	struct raw_engine a, b;
	int client = connect_as(KVD_ROLE_CLIENT, "ann"), end, engine_end;
	struct kvd_row_tenant *rows, row = { .prompt_tokens = 0 };
	uint64_t n;

#define OPEN(model_name, engine_name, avoid_name, wait) \
	do { \
		strcpy(m.model, model_name); \
		strcpy(m.engine, engine_name); \
		strcpy(m.avoid, avoid_name); \
		m.wait_ms = wait; \
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
		ck_assert_str_eq(
			((const struct kvd_msg_stream *)expect(client, KVD_M_STREAM))->engine, "a");
		close(packet_fds[0]);
	}
	/* The engine with fewer streams; the one that is named; not the one that died. */
	attach_raw(&b, "b");
	OPEN("", "", "", 0);
	ck_assert_str_eq(((const struct kvd_msg_stream *)expect(client, KVD_M_STREAM))->engine,
			 "b");
	OPEN("tiny", "a", "", 0);
	ck_assert_str_eq(((const struct kvd_msg_stream *)expect(client, KVD_M_STREAM))->engine,
			 "a");
	OPEN("tiny", "", "b", 0);
	ck_assert_str_eq(((const struct kvd_msg_stream *)expect(client, KVD_M_STREAM))->engine,
			 "a");
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

/* A client names itself for a stream that an earlier kvd had made: a handle of its own tenant, no socket,
 * and the engine gets the ticket as it was. */
static void body_again(void)
{
	struct kvd_msg_stream_again m = {
		.m = { .type = KVD_M_STREAM_AGAIN, .size = sizeof(m), .seq = 9 },
		.engine = "a",
		.ticket = "0123456789abcde",
	};
	struct kvd_msg_client_gone gone = { .m = { .type = KVD_M_CLIENT_GONE, .size = sizeof(gone) } };
	const struct kvd_msg_stream *stream;
	const struct kvd_msg_client_again *again;
	struct raw_engine a, old;
	int client = connect_as(KVD_ROLE_CLIENT, "ann");
	uint32_t handle;

	ck_assert_int_eq(send(client, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	expect_error(client, KVD_S_NO_MODEL);
	attach_raw(&a, "a");
	ck_assert_int_eq(send(client, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	stream = expect(client, KVD_M_STREAM);
	ck_assert_uint_eq(packet_n_fds, 0);
	ck_assert_uint_eq(stream->m.seq, 9);
	ck_assert_str_eq(stream->tenant, "ann");
	ck_assert_str_eq(stream->engine, "a");
	handle = stream->client;
	again = expect(a.fd, KVD_M_CLIENT_AGAIN);
	ck_assert_uint_eq(again->client, handle);
	ck_assert_str_eq(again->tenant, "ann");
	ck_assert_mem_eq(again->ticket, m.ticket, sizeof(m.ticket));
	/* The handle opens a sequence of that tenant like any other. */
	a.tokens[0] = 1;
	submit(&a, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .tenant = handle, .n_tokens = 1 });
	ck_assert_uint_eq(complete(&a, KVD_SEQ_OPEN).status, KVD_S_OK);
	submit(&a, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE });
	ck_assert_uint_eq(complete(&a, KVD_SEQ_CLOSE).status, KVD_S_OK);
	gone.client = handle;
	ck_assert_int_eq(send(a.fd, &gone, sizeof(gone), MSG_NOSIGNAL), sizeof(gone));
	/* No engine's name: nobody is guessed. */
	m.engine[0] = '\0';
	ck_assert_int_eq(send(client, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	expect_error(client, KVD_S_NO_MODEL);
	/* An engine of the release before would not know what it is told. */
	hello_version_max = 1;
	attach_raw(&old, "old");
	hello_version_max = KVD_PROTO_MAX;
	strcpy(m.engine, "old");
	ck_assert_int_eq(send(client, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	expect_error(client, KVD_S_NO_MODEL);
	/* An engine may not say it for a client. */
	ck_assert_int_eq(send(a.fd, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	expect_closed(a.fd);
}

START_TEST(client_names_itself_again)
{
	setup(_i);
	ck_assert_int_eq(ended(in_child(body_again)), 0);
	teardown(1);
}
END_TEST

/* The last words of an engine that ends with mail unread. */
static void body_last_words(void)
{
	struct kvd_msg_client_gone gone = {
		.m = { .type = KVD_M_CLIENT_GONE, .size = sizeof(gone) }, .prompt_tokens = 11,
	};
	struct raw_engine engine;
	int client, engine_end;

	attach_raw(&engine, "dying");
	gone.client = open_stream(&engine, "ann", &client, &engine_end);
	send_query(engine.fd, KVD_Q_ENGINES, 1);
	usleep(100000);  /* the answer lies unread */
	ck_assert_int_eq(send(engine.fd, &gone, sizeof(gone), MSG_NOSIGNAL), sizeof(gone));
	raise(SIGKILL);
}

START_TEST(hears_last_words)
{
	struct kvd_row_tenant *rows;
	uint64_t n, tokens = 0;
	int fd;

	setup(_i);
	ck_assert(WIFSIGNALED(ended(in_child(body_last_words))));
	fd = connect_as(KVD_ROLE_CLIENT, "ann");
	for (unsigned i = 0; i < 100 && !tokens; i++) {
		rows = query(fd, KVD_Q_TENANTS, &n);
		while (n--)
			if (!strcmp(rows[n].name, "ann"))
				tokens = rows[n].prompt_tokens;
		free(rows);
		usleep(10000);
	}
	ck_assert_uint_eq(tokens, 11);
	close(fd);
	teardown(0);
}
END_TEST

static void body_weights(void)
{
	struct kvd_msg_weights m = { .m = { .size = sizeof(m), .seq = 3 },
				     .fingerprint = { 1, 2, 3 },
				     .layout = "panels/1" };
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
	expect_error(a.fd, KVD_S_BAD_REQUEST); /* not sealed */
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
	m.fingerprint[0] = 9; /* another model's */
	ck_assert_int_eq(send(b.fd, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	expect_error(b.fd, KVD_S_BAD_REQUEST);
}

START_TEST(passes_weights_on)
{
	setup(_i);
	ck_assert_int_eq(ended(in_child(body_weights)), 0);
	teardown(0); /* the kept descriptor went with the last engine */
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
	expect_error(fd, KVD_S_REFUSED); /* a tenant is who the kernel says */
	expect_closed(fd);
	fd = connect_raw();
	send_hello(fd, KVD_ROLE_CLIENT, "");
	welcome = expect(fd, KVD_M_WELCOME);
	ck_assert_str_eq(welcome->tenant, "uid-4242");
	ck_assert_uint_eq(welcome->admin, 0);
	row = query(fd, KVD_Q_STATUS, NULL);
	ck_assert_uint_eq(row->healthy, 1);
	ck_assert_uint_eq(row->pool_bytes + row->physical_bytes + row->tenants +
				  row->frames[KVD_FRAME_FREE],
			  0);
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

static int crowd_pipe[2];
static void body_crowd(void)
{
	enum { MAX = 512 };                     /* LIMIT_PEERS_PER_UID */
	int fd;

	ck_assert(setgid(4242) == 0 && setuid(4242) == 0);
	for (unsigned i = 0; i < MAX; i++)
		(void)connect_as(KVD_ROLE_CLIENT, "");
	fd = connect_raw();
	ck_assert_uint_eq(expect_error(fd, KVD_S_LIMIT)->have, MAX);
	expect_closed(fd);
	/* Nobody else is shut out: the parent looks. */
	ck_assert_int_eq(send(crowd_pipe[1], "x", 1, 0), 1);
	(void)!recv(crowd_pipe[1], packet, 1, 0);
}

START_TEST(one_user_cannot_crowd_out_others)
{
	pid_t pid;
	char byte;

	if (getuid() != 0) {
		printf("skipped: needs root to become another user\n");
		return;
	}
	setup(_i);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, crowd_pipe), 0);
	pid = in_child(body_crowd);
	ck_assert_int_eq(recv(crowd_pipe[0], &byte, 1, 0), 1);
	ck_assert_uint_eq(status_now().healthy, 1);
	ck_assert_int_eq(send(crowd_pipe[0], "x", 1, 0), 1);
	ck_assert_int_eq(ended(pid), 0);
	teardown(0);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("clients");

	if (!have_kvd())
		return 0;
	signal(SIGPIPE, SIG_IGN);
	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, introduces_clients, 0, 2);
	tcase_add_loop_test(tcase, client_names_itself_again, 0, 2);
	tcase_add_loop_test(tcase, hears_last_words, 0, 2);
	tcase_add_loop_test(tcase, passes_weights_on, 0, 2);
	tcase_add_loop_test(tcase, strangers_see_their_own, 0, 2);
	tcase_add_loop_test(tcase, one_user_cannot_crowd_out_others, 0, 2);
	return run_tests("daemon_clients", tcase);
}
