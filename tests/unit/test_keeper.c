/* test_keeper.c - the keeper's own process, spoken to by hand, and what is kept where. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvd/keeper.h"
#include "kvd/kept.h"
#include "kvd/attach.h"
#include "kvd/process.h"
#include "tests/lib/suite.h"

static char directory[64], path[100];
static pid_t keeper;

static void setup(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strcpy(directory, "/tmp/kvd-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/kvd.sock.keeper", directory);
	strcpy(address.sun_path, path);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(fd, 8), 0);
	keeper = fork();
	if (keeper == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(fd, KEEPER_FD);
		(void)close_range(KEEPER_FD + 1, ~0u, 0);
		_exit(keeper_main(path));
	}
	close(fd);
}

static void teardown(void)
{
	if (keeper > 0) {
		kill(keeper, SIGKILL);
		(void)waitpid(keeper, NULL, 0);
	}
	(void)unlink(path);
	ck_assert_int_eq(rmdir(directory), 0);
}

static int keeper_connect(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, path);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* The next packet; false: the keeper has closed. */
static bool receive(int fd, struct keeper_packet *ret, int *fds, uint32_t *ret_n_fds)
{
	struct pollfd readable = { .fd = fd, .events = POLLIN };
	int n;

	ck_assert_msg(poll(&readable, 1, 10000) == 1, "the keeper is silent");
	n = keeper_receive(fd, ret, fds, ret_n_fds);
	ck_assert_msg(n == 0 || n == (int)sizeof(*ret), "%d", n);
	return n > 0;
}

static struct keeper_packet packet_of(uint16_t type, const char *const *names, uint16_t n)
{
	struct keeper_packet packet = { .magic = KEEPER_MAGIC, .type = type, .n = n };

	for (uint16_t i = 0; i < n; i++)
		snprintf(packet.names[i], sizeof(packet.names[i]), "%s", names[i]);
	return packet;
}

static void say(int fd, uint16_t type, const char *name)
{
	struct keeper_packet packet = packet_of(type, &name, name ? 1 : 0);

	ck_assert_int_eq(keeper_send(fd, &packet, NULL, 0), 0);
}

/* TAKE: how many items, and whether one is called name. */
static unsigned take(int fd, const char *name, int *ret_fd)
{
	struct keeper_packet packet;
	int fds[KEEPER_BATCH];
	uint32_t n_fds;
	unsigned n = 0;

	*ret_fd = -1;
	say(fd, KEEPER_TAKE, NULL);
	for (;;) {
		ck_assert(receive(fd, &packet, fds, &n_fds));
		if (packet.type == KEEPER_END)
			return n;
		ck_assert_uint_eq(packet.type, KEEPER_ITEMS);
		ck_assert_uint_eq(packet.n, n_fds);
		for (uint32_t i = 0; i < n_fds; i++) {
			if (!strcmp(packet.names[i], name))
				*ret_fd = fds[i];
			else
				close(fds[i]);
		}
		n += n_fds;
	}
}

static int memory(const char *text)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	return fd;
}

static void keep(int fd, const char *name, const char *text)
{
	struct keeper_packet packet = packet_of(KEEPER_ITEMS, &name, 1);
	int memory_fd = memory(text);

	ck_assert_int_eq(keeper_send(fd, &packet, &memory_fd, 1), 0);
	close(memory_fd);
}

static void expect_text(int fd, const char *text)
{
	char read_back[32] = "";

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, read_back, sizeof(read_back) - 1, 0), (ssize_t)strlen(text));
	ck_assert_str_eq(read_back, text);
	close(fd);
}

/* A kvd that keeps things and is killed: body in a child. */
static void in_child(void (*body)(int fd))
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		body(keeper_connect());
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}

static void keep_two(int fd)
{
	int none;

	ck_assert_uint_eq(take(fd, "book", &none), 0);
	keep(fd, "book", "first");
	keep(fd, "x1", "extent");
	keep(fd, "book", "second");    /* replaces */
	keep(fd, "x2", "gone");
	say(fd, KEEPER_FORGET, "x2");
	say(fd, KEEPER_FORGET, "x3");  /* nothing of that name */
}

START_TEST(keeps_for_the_next)
{
	int fd, book;

	in_child(keep_two);
	fd = keeper_connect();
	ck_assert_uint_eq(take(fd, "book", &book), 2);
	expect_text(book, "second");
	/* Lending keeps: it is there for the one after. */
	say(fd, KEEPER_CLEAR, NULL);
	say(fd, KEEPER_RELEASE, NULL);
	ck_assert_int_eq(waitpid(keeper, NULL, 0), keeper);
	keeper = 0;
	ck_assert_int_lt(access(path, F_OK), 0);
	close(fd);
}
END_TEST

/* Names and descriptors of more than one packet, and of more than a socket holds. */
static void keep_many(int fd)
{
	char name[BUNDLE_NAME_MAX];
	int none;

	(void)take(fd, "", &none);
	for (uint32_t i = 0; i < 900; i++) {
		struct keeper_packet packet = { .magic = KEEPER_MAGIC, .type = KEEPER_ITEMS, .n = 1 };
		int memory_fd = memory(bundle_name(name, "x", i));

		strcpy(packet.names[0], name);
		while (keeper_send(fd, &packet, &memory_fd, 1) == -EAGAIN)
			usleep(1000);
		close(memory_fd);
	}
}

START_TEST(lends_a_large_bundle)
{
	int fd, x;

	in_child(keep_many);
	fd = keeper_connect();
	ck_assert_uint_eq(take(fd, "x777", &x), 900);
	expect_text(x, "x777");
	close(fd);
}
END_TEST

START_TEST(one_at_a_time)
{
	struct keeper_packet packet;
	int fds[KEEPER_BATCH], none;
	uint32_t n_fds;
	int first = keeper_connect(), second = keeper_connect();

	ck_assert_uint_eq(take(first, "", &none), 0);
	say(second, KEEPER_TAKE, NULL);
	ck_assert(receive(second, &packet, fds, &n_fds));
	ck_assert_uint_eq(packet.type, KEEPER_BUSY);
	ck_assert_uint_eq(packet.pid, (uint32_t)getpid());
	ck_assert(!receive(second, &packet, fds, &n_fds));
	close(second);
	/* The connection is closed, but the process lives: it may still act on what it has. */
	close(first);
	second = keeper_connect();
	say(second, KEEPER_TAKE, NULL);
	ck_assert_int_eq(poll(&(struct pollfd){ .fd = second, .events = POLLIN }, 1, 300), 0);
	close(second);
}
END_TEST

/* Each of these costs its sender the connection, and the keeper nothing. */
static const struct hostile {
	struct keeper_packet packet;
	uint32_t n_fds;
	size_t n_bytes;                /* 0: all */
} hostile[] = {
	{ { .magic = 1, .type = KEEPER_TAKE }, 0, 0 },
	{ { .magic = KEEPER_MAGIC, .type = 0 }, 0, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_BUSY }, 0, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_END }, 0, 0 },
	{ { .magic = KEEPER_MAGIC, .type = 77 }, 0, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_TAKE, .n = 1, .names = { "x" } }, 0, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_TAKE }, 1, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_TAKE }, 0, sizeof(struct keeper_packet) - 1 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_TAKE }, 0, 3 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_ITEMS, .n = 2, .names = { "x", "y" } }, 1, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_ITEMS, .n = 1, .names = { "x" } }, 2, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_ITEMS, .n = 0 }, 0, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_ITEMS, .n = 9 }, 8, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_ITEMS, .n = 1, .names = { "" } }, 1, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_ITEMS, .n = 1, .names = { "a b" } }, 1, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_ITEMS, .n = 1, .names = { "a\nFDNAME=b" } }, 1, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_ITEMS, .n = 1,
	    .names = { "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" } }, 1, 0 },
	/* Well-formed, but it has not been lent anything. */
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_ITEMS, .n = 1, .names = { "x" } }, 1, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_FORGET, .n = 1, .names = { "book" } }, 0, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_CLEAR }, 0, 0 },
	{ { .magic = KEEPER_MAGIC, .type = KEEPER_RELEASE }, 0, 0 },
};

static void hostile_send(int fd, const struct hostile *h)
{
	union {
		char bytes[CMSG_SPACE(KEEPER_BATCH * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { (void *)&h->packet, h->n_bytes ? h->n_bytes : sizeof(h->packet) };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
	int fds[KEEPER_BATCH];

	for (uint32_t i = 0; i < h->n_fds; i++)
		fds[i] = memory("hostile");
	if (h->n_fds) {
		struct cmsghdr *c;

		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(h->n_fds * sizeof(int));
		c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(h->n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, h->n_fds * sizeof(int));
	}
	ck_assert_int_gt(sendmsg(fd, &message, MSG_NOSIGNAL), 0);
	for (uint32_t i = 0; i < h->n_fds; i++)
		close(fds[i]);
}

START_TEST(hostile_words_are_refused)
{
	struct keeper_packet packet;
	int fds[KEEPER_BATCH], fd = keeper_connect(), book;
	uint32_t n_fds;

	hostile_send(fd, &hostile[_i]);
	ck_assert(!receive(fd, &packet, fds, &n_fds));
	close(fd);
	in_child(keep_two);
	fd = keeper_connect();
	ck_assert_uint_eq(take(fd, "book", &book), 2);
	expect_text(book, "second");
	close(fd);
}
END_TEST

START_TEST(ends_alone)
{
	int status;

	ck_assert_int_eq(waitpid(keeper, &status, 0), keeper);
	ck_assert_int_eq(status, 0);
	keeper = 0;
	ck_assert_int_lt(access(path, F_OK), 0);
}
END_TEST

static void setup_hasty(void)
{
	setenv("KVD_KEEPER_SECONDS", "1", 1);
	setup();
}

/* ---- processes ---- */

START_TEST(processes_by_pidfd)
{
	int pair[2], pidfd, not_one = memory("");
	pid_t pid;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	pidfd = process_of_socket(pair[0]);
	ck_assert_int_eq(process_number(pidfd), getpid());
	ck_assert(!process_ended(pidfd));
	close(pidfd);
	ck_assert_int_lt(process_number(not_one), 0);
	ck_assert_int_eq(process_kill(not_one, 1000), -EINVAL);
	pid = fork();
	if (pid == 0) {
		pause();
		_exit(0);
	}
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	ck_assert_int_eq(process_number(pidfd), pid);
	ck_assert_int_eq(process_kill(pidfd, 5000000), 0);
	ck_assert(process_ended(pidfd));
	ck_assert_int_eq(process_kill(pidfd, 1000), 0); /* again is no mistake */
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	ck_assert_int_eq(process_number(pidfd), 0);
	ck_assert_int_eq(process_kill(pidfd, 1000), 0);
	close(pidfd);
	close(not_one);
}
END_TEST

/* ---- the shell's region of the book ---- */

static struct kept *region(void)
{
	struct kept *kept = calloc(1, kept_bytes(8));
	struct kept_engine *e = &kept->engines[3];

	kept->version = kept_version();
	e->state = ATTACHED_LIVE;
	strcpy(e->name, "one");
	ck_assert_int_eq(segment_shape(64, 4, 16, &e->shape), 0);
	kept->streams_high = 2;
	kept->streams_free = 1;
	kept->streams[1] = (struct kept_stream){ .engine = 4, .tenant = 1, .generation = 1 };
	return kept;
}

#define MUTATION(what) { #what, what }
static void version_other(struct kept *k) { k->version++; }
static void state_unknown(struct kept *k) { k->engines[3].state = 9; }
static void name_endless(struct kept *k) { memset(k->engines[3].name, 'x', KVD_NAME_MAX); }
static void shape_zero(struct kept *k) { k->engines[3].shape.max_seqs = 0; }
static void shape_huge(struct kept *k) { k->engines[3].shape.max_pages = ~0u; }
static void shape_odd(struct kept *k) { k->engines[3].shape.sq_entries = 63; }
static void shape_offset(struct kept *k) { k->engines[3].shape.tables_offset += 8; }
static void shape_bytes(struct kept *k) { k->engines[3].shape.comp_bytes *= 2; }
static void sent_before_made(struct kept *k) { k->engines[3].sent_seq = 1; }
static void streams_beyond(struct kept *k) { k->streams_high = LIMIT_STREAMS + 1; }
static void free_beyond(struct kept *k) { k->streams_free = 3; }
static void next_beyond(struct kept *k) { k->streams[0].next = 7; }
static void stream_of_nobody(struct kept *k) { k->streams[1].engine = 5; }
static void stream_of_no_number(struct kept *k) { k->streams[1].engine = 64; }
static void tenant_beyond(struct kept *k) { k->streams[1].tenant = LIMIT_TENANTS; }
static void layout_endless(struct kept *k)
{
	k->weights[0].inode = 1;
	memset(k->weights[0].layout, 'x', KVD_NAME_MAX);
}
static const struct { const char *name; void (*mutate)(struct kept *k); } mutations[] = {
	MUTATION(version_other), MUTATION(state_unknown), MUTATION(name_endless), MUTATION(shape_zero),
	MUTATION(shape_huge), MUTATION(shape_odd), MUTATION(shape_offset), MUTATION(shape_bytes),
	MUTATION(sent_before_made), MUTATION(streams_beyond), MUTATION(free_beyond), MUTATION(next_beyond),
	MUTATION(stream_of_nobody), MUTATION(stream_of_no_number), MUTATION(tenant_beyond), MUTATION(layout_endless),
};

START_TEST(a_region_out_of_range_is_refused)
{
	struct kept *kept = region();
	const char *why = NULL;

	ck_assert(kept_valid(kept, &why));
	mutations[_i].mutate(kept);
	ck_assert_msg(!kept_valid(kept, &why), "%s", mutations[_i].name);
	ck_assert_int_gt((int)strlen(why), 10);
	free(kept);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("keeper");
	TCase *running = tcase_create("running"), *hasty = tcase_create("hasty"), *pure = tcase_create("pure");

	signal(SIGPIPE, SIG_IGN);
	tcase_set_timeout(running, 60);
	tcase_add_checked_fixture(running, setup, teardown);
	tcase_add_test(running, keeps_for_the_next);
	tcase_add_test(running, lends_a_large_bundle);
	tcase_add_test(running, one_at_a_time);
	tcase_add_loop_test(running, hostile_words_are_refused, 0, sizeof(hostile) / sizeof(hostile[0]));
	tcase_set_timeout(hasty, 60);
	tcase_add_checked_fixture(hasty, setup_hasty, teardown);
	tcase_add_test(hasty, ends_alone);
	tcase_add_test(pure, processes_by_pidfd);
	tcase_add_loop_test(pure, a_region_out_of_range_is_refused, 0, sizeof(mutations) / sizeof(mutations[0]));
	suite_add_tcase(suite, running);
	suite_add_tcase(suite, hasty);
	suite_add_tcase(suite, pure);
	return suite_result(suite);
}
