/* test_daemon_wire.c - a real kvd and peers that send what they should not.  After each offence:
 * the offender is closed and counted, everybody else is served, the books are clean, no descriptor
 * is left. */
#include "tests/unit/daemon_peer.h"

#include <sys/resource.h>

static unsigned fds_before;

static void setup(int i)
{
	kvd_start(loops[i], NULL);
	fds_before = settled_fds();
}

static void teardown(uint64_t n_closed)
{
	struct kvd_row_status row = status_now();

	ck_assert_uint_eq(row.peers_closed, n_closed);
	expect_clean();
	expect_fds(fds_before);
	kvd_stop();
}

START_TEST(greets_and_answers)
{
	struct kvd_row_status row;
	const struct kvd_msg_welcome *welcome;
	int fd;

	setup(_i);
	fd = connect_raw();
	send_hello(fd, KVD_ROLE_CLIENT, "ann");
	welcome = expect(fd, KVD_M_WELCOME);
	ck_assert_str_eq(welcome->tenant, "ann");
	ck_assert_str_eq(welcome->domain, "ann");
	ck_assert_uint_eq(welcome->pid, (uint32_t)getpid());
	ck_assert_uint_eq(welcome->uid, getuid());
	ck_assert_uint_eq(welcome->kvd_pid, (uint32_t)kvd_pid);
	ck_assert_uint_eq(welcome->pool_bytes, 64u << 20);
	ck_assert_uint_eq(welcome->extent_bytes, 1u << 20);
	ck_assert_uint_eq(welcome->slot_bits, 7);
	ck_assert_uint_eq(welcome->admin, 1);
	close(fd);
	row = status_now();
	ck_assert_uint_eq(row.pool_bytes, 64u << 20);
	ck_assert_uint_eq(row.kvd_pid, (uint32_t)kvd_pid);
	ck_assert_uint_eq(row.healthy, 1);
	ck_assert_str_eq(row.device, "host");
	/* The pool is whole, always. */
	ck_assert_uint_eq(row.unassigned_bytes + row.scrub_bytes + row.tail_bytes, 64u << 20);
	teardown(0);
}
END_TEST

START_TEST(closes_garbage)
{
	static const size_t sizes[] = { 1, 2, 15, 16, 17, 100, 4096, 60000 };
	static uint8_t bytes[60000 + 16];

	setup(_i);
	srand(3);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)rand();
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		int fd = connect_raw();

		ck_assert_int_eq(send(fd, bytes + i, sizes[i], MSG_NOSIGNAL), (ssize_t)sizes[i]);
		expect_error(fd, KVD_S_PROTOCOL);
		expect_closed(fd);
		/* The same after a proper greeting. */
		fd = connect_as(i % 2 ? KVD_ROLE_ENGINE : KVD_ROLE_CLIENT, "");
		ck_assert_int_eq(send(fd, bytes + i, sizes[i], MSG_NOSIGNAL), (ssize_t)sizes[i]);
		expect_closed(fd);
	}
	teardown(2 * sizeof(sizes) / sizeof(sizes[0]));
}
END_TEST

START_TEST(closes_half_messages)
{
	struct kvd_msg_attach attach = { .m = { .type = KVD_M_ATTACH, .size = sizeof(attach) } };
	unsigned n = 0;

	setup(_i);
	for (size_t size = 16; size < sizeof(attach); size += 60, n++) {
		int fd = connect_as(KVD_ROLE_ENGINE, "");

		attach.m.size = (uint32_t)(n % 2 ? size : sizeof(attach));
		ck_assert_int_eq(send(fd, &attach, size, MSG_NOSIGNAL), (ssize_t)size);
		expect_closed(fd);
	}
	teardown(n);
}
END_TEST

START_TEST(closes_unasked_descriptors)
{
	struct kvd_msg_query query_message = {
		.m = { .type = KVD_M_QUERY, .size = sizeof(query_message) },
		.what = KVD_Q_STATUS,
	};
	int fds[8], fd;

	setup(_i);
	for (unsigned i = 0; i < 8; i++)
		fds[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (unsigned n = 1; n <= 8; n++) { /* beyond four the kernel cuts them off */
		fd = connect_as(KVD_ROLE_CLIENT, "");
		send_fds(fd, &query_message, sizeof(query_message), fds, n);
		expect_closed(fd);
	}
	fd = connect_raw();
	send_fds(fd, "", 1, fds, 1); /* a doorbell with luggage */
	expect_closed(fd);
	fd = connect_raw();
	send_fds(fd, "", 0, fds, 2); /* nothing but luggage */
	expect_closed(fd);
	for (unsigned i = 0; i < 8; i++)
		close(fds[i]);
	teardown(10);
}
END_TEST

START_TEST(closes_oversized_packets)
{
	static uint8_t bytes[KVD_MSG_MAX + 1000];
	struct kvd_msg m = { .type = KVD_M_QUERY, .size = sizeof(bytes) };
	int fd;

	setup(_i);
	memcpy(bytes, &m, sizeof(m));
	fd = connect_as(KVD_ROLE_CLIENT, "");
	ck_assert_int_eq(send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL), sizeof(bytes));
	expect_closed(fd);
	/* The largest packet there is: a longer QUERY than we know, and fine. */
	fd = connect_as(KVD_ROLE_CLIENT, "");
	m.size = KVD_MSG_MAX;
	memcpy(bytes, &m, sizeof(m));
	((struct kvd_msg_query *)bytes)->what = KVD_Q_STATUS;
	ck_assert_int_eq(send(fd, bytes, KVD_MSG_MAX, MSG_NOSIGNAL), KVD_MSG_MAX);
	expect(fd, KVD_M_ROWS);
	close(packet_fds[0]);
	close(fd);
	teardown(1);
}
END_TEST

START_TEST(negotiates_versions)
{
	struct kvd_msg_hello hello = {
		.m = { .type = KVD_M_HELLO, .size = sizeof(hello), .seq = 9 },
		.role = KVD_ROLE_CLIENT,
		.program = "old",
	};
	static const struct {
		uint32_t low, high;
		bool fits;
	} ranges[] = {
		{ 1, 1, true },	 { 0, 5, true },  { 1, 9, true },
		{ 2, 9, true },  { 3, 9, false },
		{ 0, 0, false }, { 3, 1, false },
	};

	setup(_i);
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		int fd = connect_raw();

		hello.version_min = ranges[i].low;
		hello.version_max = ranges[i].high;
		ck_assert_int_eq(send(fd, &hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
		if (ranges[i].fits) {
			expect(fd, KVD_M_WELCOME);
			close(fd);
			continue;
		}
		ck_assert_uint_eq(expect_error(fd, KVD_S_VERSION)->m.seq, 9);
		expect_closed(fd);
	}
	teardown(0); /* being old is no offence */
}
END_TEST

START_TEST(closes_what_is_out_of_order)
{
	struct kvd_msg_hello hello = { .m = { .type = KVD_M_HELLO, .size = sizeof(hello) },
				       .version_max = 1,
				       .role = 7 };
	int fd;

	setup(_i);
	fd = connect_raw();
	send_query(fd, KVD_Q_STATUS, 1); /* before HELLO */
	expect_closed(fd);
	fd = connect_as(KVD_ROLE_CLIENT, "");
	send_hello(fd, KVD_ROLE_CLIENT, ""); /* twice */
	expect_closed(fd);
	fd = connect_raw();
	ck_assert_int_eq(send(fd, &hello, sizeof(hello), MSG_NOSIGNAL), sizeof(hello));
	expect_closed(fd); /* a role that does not exist */
	fd = connect_as(KVD_ROLE_CLIENT, "");
	ck_assert_int_eq(send(fd, "", 1, MSG_NOSIGNAL), 1);
	expect_closed(fd); /* a doorbell of one who has no ring */
	fd = connect_as(KVD_ROLE_CLIENT, "");
	send_query(fd, 99, 5); /* a question we do not know is no offence */
	ck_assert_uint_eq(expect_error(fd, KVD_S_BAD_REQUEST)->m.seq, 5);
	send_query(fd, KVD_Q_STATUS, 6);
	expect(fd, KVD_M_ROWS);
	close(packet_fds[0]);
	close(fd);
	teardown(4);
}
END_TEST

START_TEST(survives_a_flood_of_garbage)
{
	setup(_i);
	for (unsigned i = 0; i < 1000; i++) {
		uint8_t bytes[64];
		int fd = connect_raw();

		ck_assert_int_ge(fd, 0);
		for (unsigned j = 0; j < sizeof(bytes); j++)
			bytes[j] = (uint8_t)(i * 31 + j * 7);
		ck_assert_int_eq(send(fd, bytes, 1 + i % 64, MSG_NOSIGNAL), 1 + i % 64);
		if (i % 3)
			expect_closed(fd);
		else
			close(fd);
	}
	/* Whoever hung up before kvd looked may count as a hang-up. */
	struct kvd_row_status row = status_now();

	ck_assert_uint_ge(row.peers_closed, 666);
	teardown(row.peers_closed);
}
END_TEST

START_TEST(serves_beside_many_silent_peers)
{
	enum { N = 900 };
	struct rlimit limit = { 4096, 4096 };
	static int fds[N];

	if (setrlimit(RLIMIT_NOFILE, &limit) < 0) {
		printf("skipped: RLIMIT_NOFILE is below 4096\n");
		return;
	}
	setup(_i);
	for (unsigned i = 0; i < N; i++) {
		fds[i] = connect_raw();
		ck_assert_int_ge(fds[i], 0);
	}
	ck_assert_uint_eq(status_now().healthy, 1);
	/* Those who say nothing are closed after five seconds. */
	for (unsigned i = 0; i < N; i++) {
		expect_error(fds[i], KVD_S_PROTOCOL);
		expect_closed(fds[i]);
	}
	teardown(N);
}
END_TEST

START_TEST(closes_who_stops_reading)
{
	unsigned sent = 0;
	struct timeval soon = { .tv_usec = 200000 };
	int fd;

	setup(_i);
	fd = connect_as(KVD_ROLE_CLIENT, "");
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof(soon));
	for (;;) {
		struct kvd_msg_query message = {
			.m = { .type = KVD_M_QUERY, .size = sizeof(message) },
			.what = KVD_Q_ENGINES,
		};

		if (send(fd, &message, sizeof(message), MSG_NOSIGNAL) < 0)
			break;
		ck_assert_uint_lt(++sent, 100000);
	}
	/* It is not read while it owes room: its own sends have stopped.  Others are served. */
	ck_assert_uint_eq(status_now().healthy, 1);
	for (unsigned i = 0; i < 150 && status_now().peers_closed == 0; i++)
		usleep(100000);
	expect_closed(fd);
	teardown(1);
}
END_TEST

START_TEST(one_daemon_a_socket)
{
	pid_t first;
	int status;

	setup(_i);
	first = kvd_pid;
	kvd_pid = fork();
	if (kvd_pid == 0) {
		dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
		execl(kvd_program, kvd_program, "--pool", "64M", "--socket", kvd_socket, NULL);
		_exit(127);
	}
	ck_assert_int_eq(waitpid(kvd_pid, &status, 0), kvd_pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	kvd_pid = first;
	ck_assert_uint_eq(status_now().kvd_pid, (uint32_t)first);
	/* A socket nobody answers on is replaced. */
	kill(kvd_pid, SIGKILL);
	ck_assert_int_eq(waitpid(kvd_pid, &status, 0), kvd_pid);
	ck_assert_int_eq(access(kvd_socket, F_OK), 0);
	kvd_spawn(loops[_i], NULL);
	fds_before = settled_fds();
	teardown(0);
}
END_TEST

/* Few descriptors: kvd serves who is there, takes the others when there is room again. */
static void few_descriptors(void)
{
	struct rlimit limit = { 400, 400 };

	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		_exit(126);
}

START_TEST(survives_a_lack_of_descriptors)
{
	enum { N = 400 };
	static int fds[N];
	int client;

	kvd_before_exec = few_descriptors;
	setup(_i);
	client = connect_as(KVD_ROLE_CLIENT, "");
	for (unsigned i = 0; i < N; i++) {
		fds[i] = connect_raw();
		ck_assert_int_ge(fds[i], 0);
		send_hello(fds[i], KVD_ROLE_CLIENT, "");
	}
	usleep(300000);
	send_query(client, KVD_Q_STATUS, 1); /* a row needs a descriptor, and there is none */
	expect_error(client, KVD_S_INTERNAL);
	for (unsigned i = 0; i < N; i += 2)
		close(fds[i]);
	for (unsigned i = 1; i < N; i += 2) {
		expect(fds[i], KVD_M_WELCOME);
		close(fds[i]);
	}
	free(query(client, KVD_Q_STATUS, NULL));
	close(client);
	teardown(0);
}
END_TEST

/* systemd: the socket comes as descriptor 3, readiness is told. */
static int activation_socket, notify_socket;
static char notify_path[128];
static void as_systemd(void)
{
	char pid[16];

	dup2(activation_socket, 3);
	snprintf(pid, sizeof(pid), "%d", getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	setenv("NOTIFY_SOCKET", notify_path, 1);
}

START_TEST(starts_under_systemd)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX }, notify = { .sun_family = AF_UNIX };
	char dir[] = "/tmp/kvd-test-XXXXXX", text[512] = "";
	bool book_kept = false;
	int status;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(kvd_socket, sizeof(kvd_socket), "%s/kvd.sock", dir);
	snprintf(notify_path, sizeof(notify_path), "%s/notify", dir);
	strcpy(address.sun_path, kvd_socket);
	strcpy(notify.sun_path, notify_path);
	/* Blocking, as systemd makes it. */
	activation_socket = fcntl(socket(AF_UNIX, SOCK_SEQPACKET, 0), F_DUPFD, 10);
	ck_assert_int_eq(bind(activation_socket, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(activation_socket, 10), 0);
	notify_socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(notify_socket, (struct sockaddr *)&notify, sizeof(notify)), 0);
	kvd_before_exec = as_systemd;
	kvd_spawn(loops[_i], NULL);
	/* First it gives its descriptors to the store, the book last. */
	while (!strstr(text, "READY=1")) {
		ssize_t n = recv(notify_socket, text, sizeof(text) - 1, 0);

		ck_assert_int_gt(n, 0);
		text[n] = '\0';
		ck_assert(!book_kept || strstr(text, "READY=1") || strstr(text, "FDNAME=mover"));
		book_kept |= strstr(text, "FDNAME=book") != NULL;
	}
	ck_assert(book_kept);
	ck_assert_uint_eq(status_now().kvd_pid, (uint32_t)kvd_pid);
	expect_clean();
	kill(kvd_pid, SIGTERM);
	ck_assert_int_eq(waitpid(kvd_pid, &status, 0), kvd_pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	/* The file is systemd's: it stays. */
	ck_assert_int_eq(unlink(kvd_socket), 0);
	unlink(notify_path);
	ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("peers");

	if (!have_kvd())
		return 0;
	signal(SIGPIPE, SIG_IGN);
	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, greets_and_answers, 0, 2);
	tcase_add_loop_test(tcase, closes_garbage, 0, 2);
	tcase_add_loop_test(tcase, closes_half_messages, 0, 2);
	tcase_add_loop_test(tcase, closes_unasked_descriptors, 0, 2);
	tcase_add_loop_test(tcase, closes_oversized_packets, 0, 2);
	tcase_add_loop_test(tcase, negotiates_versions, 0, 2);
	tcase_add_loop_test(tcase, closes_what_is_out_of_order, 0, 2);
	tcase_add_loop_test(tcase, survives_a_flood_of_garbage, 0, 2);
	tcase_add_loop_test(tcase, serves_beside_many_silent_peers, 0, 1); /* 5 s each */
	tcase_add_loop_test(tcase, closes_who_stops_reading, 1, 2);	   /* 10 s each */
	tcase_add_loop_test(tcase, one_daemon_a_socket, 0, 2);
	tcase_add_loop_test(tcase, survives_a_lack_of_descriptors, 0, 2);
	tcase_add_loop_test(tcase, starts_under_systemd, 0, 2);
	return run_tests("daemon_wire", tcase);
}
