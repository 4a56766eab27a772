/* test_client_query.c - libkvd's client side against a fake kvd: greeting, questions, names. */
#include "kvd/kvd.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/fake_kvd_client.h"
#include "tests/lib/suite.h"

static _Alignas(8) uint8_t packet[KVD_MSG_MAX];
static struct fake_kvd fake;

/* ---- scripts of the other side ---- */

static void send_error(int fd, uint32_t seq, uint32_t status, const char *text)
{
	struct kvd_msg_error error = {
		.m = { .type = KVD_M_ERROR, .size = sizeof(error), .seq = seq, .status = status }
	};
	strncpy(error.text, text, sizeof(error.text) - 1);
	fake_kvd_send(fd, &error, sizeof(error), NULL, 0);
}

/* kvd is stopped: the connection is accepted by the kernel, and that is all. */
static void serve_silence(int listen_fd)
{
	(void)listen_fd;
	sleep(7);
}

static void serve_refuse(int listen_fd)
{
	int fd = accept(listen_fd, NULL, NULL);
	fake_kvd_receive_type(fd, KVD_M_HELLO, packet, sizeof(struct kvd_msg_hello));
	FAKE_EXPECT(strcmp(((const struct kvd_msg_hello *)packet)->tenant, "birch") == 0);
	send_error(fd, 1, KVD_S_REFUSED, "you are not birch");
	FAKE_EXPECT(fake_kvd_receive(fd, packet) == 0);
}

static void serve_query(int listen_fd)
{
	const struct kvd_msg_query *query = (const void *)packet;
	struct kvd_msg_rows rows = { .m = { .type = KVD_M_ROWS, .size = sizeof(rows) },
				     .what = KVD_Q_TENANTS };
	int control = fake_kvd_accept(listen_fd, KVD_ROLE_CLIENT);
	struct { struct kvd_row_tenant row; char newer[8]; } row[2] = { 0 };

	strcpy(row[0].row.name, "acme");
	strcpy(row[1].row.name, "birch");
	int memory = fake_kvd_memory(sizeof(row));
	FAKE_EXPECT(write(memory, row, sizeof(row)) == (ssize_t)sizeof(row));
	fake_kvd_receive_type(control, KVD_M_QUERY, packet, sizeof(*query));
	FAKE_EXPECT(query->what == KVD_Q_TENANTS && strcmp(query->argument, "x") == 0);
	rows.m.seq = query->m.seq;
	rows.n_rows = 2;
	rows.row_bytes = sizeof(row[0]);
	fake_kvd_send(control, &rows, sizeof(rows), &memory, 1);
	/* More rows than memory; rows that are too short; none at all. */
	fake_kvd_receive_type(control, KVD_M_QUERY, packet, sizeof(*query));
	rows.m.seq = query->m.seq;
	rows.n_rows = 100000;
	fake_kvd_send(control, &rows, sizeof(rows), &memory, 1);
	fake_kvd_receive_type(control, KVD_M_QUERY, packet, sizeof(*query));
	rows.m.seq = query->m.seq;
	rows.row_bytes = 8;
	fake_kvd_send(control, &rows, sizeof(rows), &memory, 1);
	fake_kvd_receive_type(control, KVD_M_QUERY, packet, sizeof(*query));
	rows.m.seq = query->m.seq;
	rows.n_rows = 0;
	rows.row_bytes = sizeof(row[0]);
	fake_kvd_send(control, &rows, sizeof(rows), NULL, 0);
	FAKE_EXPECT(fake_kvd_receive(control, packet) == 0);
}

/* ---- our side ---- */

START_TEST(refused_at_the_door)
{
	struct kvd_connection *c;
	fake_kvd_start(&fake, serve_refuse);
	ck_assert_int_eq(kvd_connect(fake.path, "test", "birch", &c), KVD_S_REFUSED);
	ck_assert_str_eq(kvd_error(c), "you are not birch");
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
	ck_assert_int_eq(kvd_connect("/nowhere/kvd.sock", "test", NULL, &c), -ENOENT);
	ck_assert_ptr_nonnull(strstr(kvd_error(c), "/nowhere/kvd.sock"));
	kvd_close(c);
}
END_TEST

START_TEST(silent_kvd)
{
	struct kvd_connection *c;
	fake_kvd_start(&fake, serve_silence);
	ck_assert_int_eq(kvd_connect(fake.path, "test", NULL, &c), -ETIMEDOUT);
	ck_assert_ptr_nonnull(strstr(kvd_error(c), "did not answer"));
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(query_rows)
{
	const void *rows;
	uint64_t n_rows;
	uint32_t row_bytes;
	struct kvd_connection *c = fake_kvd_connect(&fake, serve_query);
	ck_assert_int_eq(kvd_query(c, KVD_Q_TENANTS, "x", &rows, &n_rows, &row_bytes), 0);
	ck_assert_uint_eq(n_rows, 2);
	ck_assert_str_eq(((const struct kvd_row_tenant *)rows)->name, "acme");
	ck_assert_str_eq(((const struct kvd_row_tenant *)((const char *)rows + row_bytes))->name,
			 "birch");
	kvd_rows_free(rows, n_rows, row_bytes);
	ck_assert_int_eq(kvd_query(c, KVD_Q_TENANTS, NULL, &rows, &n_rows, &row_bytes),
			 KVD_S_PROTOCOL);
	ck_assert_int_eq(kvd_query(c, KVD_Q_TENANTS, NULL, &rows, &n_rows, &row_bytes),
			 KVD_S_VERSION);
	ck_assert_int_eq(kvd_query(c, KVD_Q_TENANTS, NULL, &rows, &n_rows, &row_bytes), 0);
	ck_assert_uint_eq(n_rows, 0);
	kvd_rows_free(rows, n_rows, row_bytes);
	ck_assert_int_eq(kvd_query(c, 99, NULL, &rows, &n_rows, &row_bytes), KVD_S_BAD_REQUEST);
	kvd_close(c);
	ck_assert_int_eq(fake_kvd_finish(&fake), 0);
}
END_TEST

START_TEST(names_and_codes)
{
	char path[16];
	ck_assert_int_eq(kvd_socket_path("/a/b", path, sizeof(path)), 0);
	ck_assert_str_eq(path, "/a/b");
	setenv("KVD_SOCKET", "/c", 1);
	ck_assert_int_eq(kvd_socket_path(NULL, path, sizeof(path)), 0);
	ck_assert_str_eq(path, "/c");
	ck_assert_int_eq(kvd_socket_path("/0123456789abcdef", path, sizeof(path)), -ENAMETOOLONG);
	unsetenv("KVD_SOCKET");
	ck_assert_int_eq(kvd_status_exit_code(KVD_S_TENANT_MAX), 4);
	ck_assert_int_eq(kvd_status_exit_code(KVD_S_DEADLINE), 5);
	ck_assert_str_eq(kvd_status_text(0), "ok");
	ck_assert_ptr_nonnull(kvd_status_text(12345));
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		refused_at_the_door, silent_kvd, query_rows, names_and_codes,
	};
	return SUITE_RUN("client_query", 30, tests);
}
