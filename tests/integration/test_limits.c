/* test_limits.c - limits of a tenant at the control socket: connections, messages a second, streams, engines, the
 * pace of connecting.  Each refusal has the numbers; a flood costs kvd little and nobody else anything.
 *
 * Raw packets to a real kvd.  The test is root and becomes other users in children, by number. */
#include "tests/unit/daemon_raw_engine.h"

#include <sys/resource.h>

#include "tests/lib/slow.h"

#define SHOP 12345u
#define LAB 12346u
#define DELEGATE 12347u

#define NEED(condition, ...) do { if (!(condition)) { \
	fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); fprintf(stderr, __VA_ARGS__); \
	fputc('\n', stderr); _exit(1); } } while (0)

static char config_path[] = "/tmp/kvd-limits-XXXXXX";

static bool start(const char *config)
{
	const char *const more[] = { "--config", config_path, NULL };
	int fd;

	if (getuid() != 0) {
		printf("skipped: only root can become other users\n");
		return false;
	}
	strcpy(config_path, "/tmp/kvd-limits-XXXXXX");
	fd = mkstemp(config_path);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, config, strlen(config)), (ssize_t)strlen(config));
	close(fd);
	kvd_start("auto", more);
	return true;
}

static void stop(void)
{
	expect_clean();
	kvd_stop();
	unlink(config_path);
}

static void become(uint32_t uid)
{
	NEED(!setgid(uid) && !setuid(uid), "%s", strerror(errno));
}

/* Run body() as a user; it must come to its end. */
static void as_user(uint32_t uid, void (*body)(void))
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		become(uid);
		body();
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "user %u: wait status %#x", uid, status);
}

/* HELLO; the status of the answer, 0 for WELCOME.  *ret_fd: the connection. */
static uint32_t hello(const char *tenant, int *ret_fd, uint64_t *ret_need, uint64_t *ret_have)
{
	const struct kvd_msg *m = (const struct kvd_msg *)packet;
	const struct kvd_msg_error *error = (const struct kvd_msg_error *)packet;
	int fd = connect_raw();

	NEED(fd >= 0, "no connection: %s", strerror(errno));
	send_hello(fd, KVD_ROLE_CLIENT, tenant);
	NEED(receive(fd) >= sizeof(*m), "closed without a word");
	*ret_fd = fd;
	if (m->type == KVD_M_WELCOME)
		return 0;
	NEED(m->type == KVD_M_ERROR && error->text[0], "message %u", m->type);
	*ret_need = error->need;
	*ret_have = error->have;
	return m->status;
}

/* ---- connections ---- */

static void body_connections(void)
{
	uint64_t need = 0, have = 0;
	int fds[4];

	for (unsigned i = 0; i < 3; i++)
		NEED(hello("", &fds[i], &need, &have) == 0, "connection %u: have %llu", i, (unsigned long long)have);
	NEED(hello("", &fds[3], &need, &have) == KVD_S_LIMIT, "a fourth connection");
	NEED(need == 4 && have == 3, "need %llu have %llu", (unsigned long long)need, (unsigned long long)have);
	NEED(strstr((const char *)((const struct kvd_msg_error *)packet)->text, "max-connections"), "no remedy");
	expect_closed(fds[3]);
	close(fds[0]);
	for (unsigned i = 0; hello("", &fds[3], &need, &have) != 0; i++) { /* the place comes free */
		close(fds[3]);
		NEED(i < 500, "the place stays taken");
		usleep(10000);
	}
}

/* Somebody who may act for others is held by the tenant's limit, not by its own. */
static void body_delegate(void)
{
	uint64_t need = 0, have = 0;
	int fds[4];

	for (unsigned i = 0; i < 3; i++)
		NEED(hello("shop", &fds[i], &need, &have) == 0, "connection %u", i);
	NEED(hello("shop", &fds[3], &need, &have) == KVD_S_LIMIT && have == 3, "a fourth connection");
	NEED(hello("lab", &fds[3], &need, &have) == 0, "another tenant");
}

START_TEST(connections)
{
	if (!start("[tenant shop]\nuid = 12345\nmax-connections = 3\n[tenant lab]\nuid = "
		   "12346\n[delegate]\nuid = 12347\n"))
		return;
	as_user(SHOP, body_connections);
	as_user(DELEGATE, body_delegate);
	stop();
}
END_TEST

/* ---- messages a second ---- */

static void body_messages(void)
{
	uint64_t need, have;
	unsigned answered = 0, refused = 0;
	int fd;

	NEED(hello("", &fd, &need, &have) == 0, "HELLO");
	for (unsigned i = 0; i < 40; i++) {
		const struct kvd_msg *m = (const struct kvd_msg *)packet;

		send_query(fd, KVD_Q_STATUS, i + 2);
		NEED(receive(fd) >= sizeof(*m) && m->seq == i + 2, "answer %u", i);
		answered += m->type == KVD_M_ROWS;
		if (m->type != KVD_M_ERROR)
			continue;
		const struct kvd_msg_error *error = (const struct kvd_msg_error *)packet;

		refused++;
		NEED(m->status == KVD_S_LIMIT && error->need == 11 && error->have == 10 &&
			     strstr(error->text, "ops-rate"),
		     "%s", error->text);
	}
	/* Ten at once, HELLO among them, then ten a second; each refusal costs a tenth of a second. */
	NEED(answered >= 9 && refused >= 5, "answered %u refused %u", answered, refused);
	sleep(1);
	send_query(fd, KVD_Q_STATUS, 99);
	NEED(((void)receive(fd), ((const struct kvd_msg *)packet)->type) == KVD_M_ROWS, "after a second of silence");
}

START_TEST(messages_a_second)
{
	if (!start("[tenant shop]\nuid = 12345\nops-rate = 10\n"))
		return;
	as_user(SHOP, body_messages);
	stop();
}
END_TEST

/* ---- streams ---- */

static void send_stream_open(int fd, uint32_t seq)
{
	struct kvd_msg_stream_open m = {
		.m = { .type = KVD_M_STREAM_OPEN, .size = sizeof(m), .seq = seq }, .wait_ms = 60000
	};

	NEED(send(fd, &m, sizeof(m), MSG_NOSIGNAL) == sizeof(m), "%s", strerror(errno));
}

static void body_streams(void)
{
	const struct kvd_msg_error *error = (const struct kvd_msg_error *)packet;
	uint64_t need, have;
	int a, b;

	NEED(hello("", &a, &need, &have) == 0 && hello("", &b, &need, &have) == 0, "HELLO");
	send_stream_open(a, 2); /* no engine: they wait */
	send_stream_open(b, 3);
	/* Both are taken before the third is sent: messages of one connection are answered in order. */
	free(query(a, KVD_Q_ENGINES, NULL));
	free(query(b, KVD_Q_ENGINES, NULL));
	send_stream_open(a, 4); /* of the tenant, whatever the connection */
	NEED(receive(a) >= sizeof(*error) && error->m.type == KVD_M_ERROR && error->m.seq == 4,
	     "message %u", error->m.type);
	NEED(error->m.status == KVD_S_LIMIT && error->need == 3 && error->have == 2, "%s", error->text);
	close(b);
	for (unsigned i = 0;; i++) { /* a wait ends with its connection */
		struct pollfd answer = { .fd = a, .events = POLLIN };

		send_stream_open(a, 5 + i);
		if (poll(&answer, 1, 200) == 0)
			break;
		(void)receive(a);
		/* Two turns of sixteen messages at most, however fast we ask: the other end is seen in between. */
		NEED(i < 40, "the place stays taken: %s", error->text);
	}
}

START_TEST(streams)
{
	if (!start("[tenant shop]\nuid = 12345\nmax-streams = 2\n"))
		return;
	as_user(SHOP, body_streams);
	stop();
}
END_TEST

/* ---- engines, and how engines learn of priorities ---- */

static void body_engines(void)
{
	const struct kvd_msg_error *error = (const struct kvd_msg_error *)packet;
	struct kvd_msg_attach m = attach_message("third");
	struct raw_engine a, b;
	int fd;

	attach_raw(&a, "first");
	attach_raw(&b, "second");
	fd = connect_as(KVD_ROLE_ENGINE, "");
	NEED(send(fd, &m, sizeof(m), MSG_NOSIGNAL) == sizeof(m), "%s", strerror(errno));
	expect_error(fd, KVD_S_LIMIT);
	NEED(error->need == 3 && error->have == 2 && strstr(error->text, "max-engines"), "%s", error->text);
	close(b.fd);
	for (unsigned i = 0;; i++) { /* the place comes free with the engine */
		NEED(send(fd, &m, sizeof(m), MSG_NOSIGNAL) == sizeof(m), "%s", strerror(errno));
		NEED(receive(fd) >= sizeof(struct kvd_msg), "closed");
		if (error->m.type == KVD_M_ATTACHED)
			break;
		NEED(i < 500, "%s", error->text);
		usleep(10000);
	}
}

START_TEST(engines)
{
	if (!start("[tenant shop]\nuid = 12345\nmax-engines = 2\n[engine]\nuid = 12345\n"))
		return;
	as_user(SHOP, body_engines);
	stop();
}
END_TEST

/* priority is what the engine's scheduler gets as the stream's weight. */
static void body_priority(void)
{
	const struct kvd_msg_client_new *told = (const void *)packet;
	struct raw_engine engine;
	int client, end;

	attach_raw(&engine, "one");
	(void)open_stream(&engine, "shop", &client, &end);
	NEED(told->weight == 250, "weight %u", told->weight);
	(void)open_stream(&engine, "lab", &client, &end);
	NEED(told->weight == 100, "weight %u", told->weight);
}

START_TEST(priority_reaches_the_engine)
{
	if (!start("[tenant shop]\npriority = 250\n"))
		return;
	as_user(0, body_priority);
	stop();
}
END_TEST

/* ---- a flood ---- */

static double cpu_seconds(void)
{
	char path[64], text[1024];
	unsigned long user = 0, system = 0;
	const char *at;
	int fd;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", kvd_pid);
	fd = open(path, O_RDONLY);
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	at = strrchr(text, ')');
	ck_assert_ptr_nonnull(at);
	ck_assert_int_eq(sscanf(at, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system), 2);
	return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static pid_t flood(void (*body)(void))
{
	pid_t pid;

	fflush(NULL);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpriority(PRIO_PROCESS, 0, 19);
		become(SHOP);
		body();
		_exit(0);
	}
	return pid;
}

/* Questions and stream requests from a hundred connections, answers thrown away. */
static void body_flood_messages(void)
{
	enum { N = 100 };
	static uint8_t sink[8192];
	struct kvd_msg_stream_open m = {
		.m = {.type = KVD_M_STREAM_OPEN, .size = sizeof(m), .seq = 2}, .wait_ms = 1};
	uint64_t need, have;
	int fds[N];

	for (unsigned i = 0; i < N; i++)
		NEED(hello("", &fds[i], &need, &have) == 0, "HELLO %u", i);
	for (;;)
		for (unsigned i = 0; i < N; i++) {
			(void)send(fds[i], &m, sizeof(m), MSG_DONTWAIT | MSG_NOSIGNAL);
			while (recv(fds[i], sink, sizeof(sink), MSG_DONTWAIT) > 0)
				;
		}
}

/* Connect, say hello, hang up. */
static void body_flood_connections(void)
{
	struct kvd_msg_hello m = {
		.m = { .type = KVD_M_HELLO, .size = sizeof(m), .seq = 1 },
		.version_min = KVD_PROTO_MIN,
		.version_max = KVD_PROTO_MAX,
		.role = KVD_ROLE_CLIENT,
	};

	for (;;) {
		int fd = connect_raw();

		if (fd < 0)
			continue;
		(void)send(fd, &m, sizeof(m), MSG_DONTWAIT | MSG_NOSIGNAL);
		close(fd);
	}
}

/* Another tenant asks for a stream 80 times meanwhile; it hears that no engine is there, never of a limit. */
static void body_victim(void)
{
	uint64_t need = 0, have = 0;
	int fd;

	NEED(hello("", &fd, &need, &have) == 0, "HELLO: have %llu", (unsigned long long)have);
	for (unsigned i = 0; i < 80; i++) {
		const struct kvd_msg *m = (const struct kvd_msg *)packet;

		struct kvd_msg_stream_open open = {
			.m = { .type = KVD_M_STREAM_OPEN, .size = sizeof(open), .seq = i + 2 }
		};

		NEED(send(fd, &open, sizeof(open), MSG_NOSIGNAL) == sizeof(open), "%s", strerror(errno));
		NEED(receive(fd) >= sizeof(*m), "closed");
		NEED(m->type == KVD_M_ERROR && m->seq == i + 2 && m->status == KVD_S_NO_MODEL, "refused: %s",
		     ((const struct kvd_msg_error *)packet)->text);
		usleep(10000);
	}
}

static void flooded(void (*body)(void), const char *what)
{
	double before, used;
	pid_t pid;

	if (!start("[tenant shop]\nuid = 12345\n[tenant lab]\nuid = 12346\n"))
		return;
	pid = flood(body);
	usleep(1500000); /* the burst that everybody may have is over */
	before = cpu_seconds();
	sleep(2);
	used = cpu_seconds() - before;
	printf("%s: kvd used %.2f s in 2 s\n", what, used);
	/* A kvd that reads or accepts whatever comes uses all it gets; ours a part of a processor. */
	ck_assert_msg(used < 0.7 * test_slow(), "%s: kvd used %.2f s in 2 s", what, used);
	as_user(LAB, body_victim);
	ck_assert_msg(waitpid(pid, NULL, WNOHANG) == 0, "the flood has ended by itself");
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	stop();
}

START_TEST(a_flood_of_messages)
{
	flooded(body_flood_messages, "messages");
}
END_TEST

START_TEST(a_flood_of_connections)
{
	flooded(body_flood_connections, "connections");
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("limits");

	if (!have_kvd())
		return 0;
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, connections);
	tcase_add_test(tcase, messages_a_second);
	tcase_add_test(tcase, streams);
	tcase_add_test(tcase, engines);
	tcase_add_test(tcase, priority_reaches_the_engine);
	tcase_add_test(tcase, a_flood_of_messages);
	tcase_add_test(tcase, a_flood_of_connections);
	return run_tests("limits", tcase);
}
