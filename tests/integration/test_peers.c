/* test_peers.c - hostile and foreign peers: garbage by the thousand, a thousand tenants through a foreign
 * engine, a second engine of one name, unknown models, prompts that can never fit. */
#include "tests/lib/scenario.h"
#include "tests/lib/slow.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "kvd/engine.h"

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "8", NULL };

static int connect_raw(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof(address.sun_path), "%.107s", path);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	for (unsigned i = 0; i < 200; i++) {
		if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
			return fd;
		usleep(1000);      /* the backlog is full for a moment */
	}
	close(fd);
	return -1;
}

/* Garbage of every kind: noise, a true header with a lying size, the right message at the wrong time, an fd
 * nobody asked for, a connection that says nothing and goes. */
static void send_garbage(int fd, unsigned kind, uint64_t *seed)
{
	uint8_t noise[4096];
	for (unsigned i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)((*seed = *seed * 6364136223846793005u + 1442695040888963407u) >> 56);
	struct kvd_msg_hello hello = { .m = { .type = KVD_M_HELLO, .size = sizeof(hello), .seq = 1 },
				       .version_min = 1, .version_max = 1, .role = kind % 5 };
	switch (kind % 7) {
	case 0:
		send(fd, noise, 1 + *seed % sizeof(noise), MSG_NOSIGNAL);
		break;
	case 1:
		hello.m.size = 1u << (*seed % 32);
		send(fd, &hello, sizeof(hello), MSG_NOSIGNAL);
		break;
	case 2:
		send(fd, &hello, *seed % sizeof(hello), MSG_NOSIGNAL);
		break;
	case 3:
		hello.version_min = 77;
		hello.version_max = 99;
		send(fd, &hello, sizeof(hello), MSG_NOSIGNAL);
		break;
	case 4: {
		struct kvd_msg_attach attach = {
			.m = {.type = KVD_M_ATTACH, .size = sizeof(attach), .seq = 2}};
		send(fd, &hello, sizeof(hello), MSG_NOSIGNAL);
		memcpy((char *)&attach + sizeof(attach.m), noise, sizeof(attach) - sizeof(attach.m));
		send(fd, &attach, sizeof(attach), MSG_NOSIGNAL);
		break;
	}
	case 5: {
		char control[CMSG_SPACE(sizeof(int))] = { 0 };
		struct iovec iov = { &hello, sizeof(hello) };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
				      .msg_controllen = sizeof(control) };
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
		sendmsg(fd, &msg, MSG_NOSIGNAL);
		break;
	}
	default:
		break;
	}
}

START_TEST(six_thousand_garbage_connections)
{
	struct host h;
	uint64_t seed = 1;
	host_start(&h, "64M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	struct host_job before = scenario_alone(&h, "red", "a", "Once upon a time", 20);
	host_populated(&h);
	unsigned fds = host_proc_fds(h.kvd.pid), connected = 0;
	int open_fds[16] = { 0 };
	for (unsigned i = 0; i < 6000; i++) {
		int fd = connect_raw(h.socket);
		if (fd < 0)
			continue;
		connected++;
		send_garbage(fd, i, &seed);
		/* keep sixteen open at a time, so that half of them are still there when the next ones come */
		if (open_fds[i % 16])
			close(open_fds[i % 16]);
		open_fds[i % 16] = fd;
	}
	for (unsigned i = 0; i < 16; i++)
		if (open_fds[i])
			close(open_fds[i]);
	ck_assert_uint_ge(connected, 5900);
	struct host_job after = scenario_alone(&h, "red", "a", "Once upon a time", 20);
	ck_assert(host_jobs_equal(&before, &after));
	host_settle(&h);
	usleep(200000);
	ck_assert_uint_le(host_proc_fds(h.kvd.pid), fds + 2);
	struct kvd_row_status s;
	host_status(&h, &s);
	printf("%u garbage connections, %llu peers closed for breaking the protocol\n", connected,
	       (unsigned long long)s.peers_closed);
	ck_assert_uint_ge(s.peers_closed, 2000);
	host_stop(&h);
	host_jobs_free(&before, 1);
	host_jobs_free(&after, 1);
}
END_TEST

#define N_TENANTS 1000
#define SEQ_TOKENS 200

#define N_PAGES ((SEQ_TOKENS + 15) / 16)

/* Give every client that comes a sequence of 200 tokens, sealed as far as pages are full. */
static void foreign_serve(struct kvd_engine *e, unsigned *n_clients)
{
	struct kvd_engine_client client;
	struct kvd_cqe cqe;
	ck_assert_int_eq(kvd_engine_poll(e), 0);
	while (kvd_engine_next_client(e, &client)) {
		int32_t *tokens = kvd_engine_tokens(e, *n_clients);
		for (int32_t t = 0; t < SEQ_TOKENS; t++)
			tokens[t] = (int32_t)*n_clients * 1000 + t;
		struct kvd_sqe open = { .verb = KVD_SEQ_OPEN, .slot = *n_clients, .tenant = client.client,
					.n_tokens = SEQ_TOKENS - 8 };
		while (kvd_engine_submit(e, &open) == -EAGAIN)
			kvd_engine_flush(e);
		++*n_clients;
	}
	kvd_engine_flush(e);
	while (kvd_engine_completion(e, &cqe)) {
		struct kvd_sqe next = { .slot = cqe.slot };
		ck_assert_uint_eq(cqe.status, KVD_S_OK);
		if (cqe.verb == KVD_SEQ_SEAL)
			continue;
		next.verb = cqe.verb == KVD_SEQ_OPEN ? KVD_SEQ_GROW : KVD_SEQ_SEAL;
		next.want = N_PAGES;
		next.count = cqe.verb == KVD_SEQ_OPEN ? 0 : SEQ_TOKENS / 16;
		while (kvd_engine_submit(e, &next) == -EAGAIN)
			kvd_engine_flush(e);
	}
	kvd_engine_flush(e);
}

/* A foreign engine through the engine side of libkvd, with SmolLM2's geometry; serves until it is killed. */
static void foreign_engine(struct host *h)
{
	struct kvd_engine_options o = {
		.socket = h->socket,
		.program = "tests",
		.name = "foreign",
		.model = "m",
		.numerics = "test/1/none",
		.layout = KVD_LAYOUT_PAIRS,
		.kv_format = KVD_FORMAT_BF16,
		.n_planes = 30,
		.block_bytes = 12288,
		.max_seqs = N_TENANTS,
		.max_pages = 16,
	};
	struct kvd_engine *e = NULL;
	unsigned n_clients = 0;
	ck_assert_msg(kvd_engine_attach(&o, &e) == 0, "%s", e ? kvd_engine_error(e) : "no memory");
	for (;;) {
		foreign_serve(e, &n_clients);
		usleep(200);
	}
}

/* 1,000 tenants with one sequence of 200 tokens each: the extents kvd assigns stay within 1.25 x
 * the bytes of the pages. */
START_TEST(a_thousand_tenants_fit)
{
	struct host h;
	const char *const extent[] = { "--extent", "4M", NULL };
	host_start(&h, "6G", extent);
	pid_t engine = fork();
	if (engine == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		foreign_engine(&h);
	}
	struct kvd_connection *connections[N_TENANTS];
	struct kvd_stream *streams[N_TENANTS];
	for (unsigned i = 0; i < N_TENANTS; i++) {
		char tenant[16];
		snprintf(tenant, sizeof(tenant), "t%u", i);
		struct kvd_request request = KVD_REQUEST_INIT;
		request.text = "x";
		request.text_bytes = 1;
		request.raw = 1;
		ck_assert_int_eq(kvd_connect(h.socket, "tests", tenant, &connections[i]), 0);
		int rc = kvd_generate(connections[i], "m", NULL, 5000, &request, &streams[i]);
		ck_assert_msg(rc == 0, "tenant %u: %s", i, kvd_error(connections[i]));
	}
	struct kvd_row_extent *rows;
	unsigned n_rows;
	uint64_t extent_bytes = 0, page_bytes = 0;
	struct kvd_row_status s;
	for (uint64_t deadline = host_now_usec() + 60000000u * test_slow(); ; usleep(20000)) {
		host_status(&h, &s);
		if (s.frames[KVD_FRAME_OPEN] == N_TENANTS &&
		    s.frames[KVD_FRAME_SEALED] == N_TENANTS * (N_PAGES - 1))
			break;
		ck_assert_msg(host_now_usec() < deadline, "%u sequences, %u frames open, %u sealed",
			      s.sequences, (unsigned)s.frames[KVD_FRAME_OPEN],
			      (unsigned)s.frames[KVD_FRAME_SEALED]);
	}
	host_extents(&h, &rows, &n_rows);
	for (unsigned i = 0; i < n_rows; i++)
		extent_bytes += rows[i].state == KVD_EXTENT_ASSIGNED ? s.extent_bytes : 0;
	page_bytes = s.frame_bytes[KVD_FRAME_OPEN] + s.frame_bytes[KVD_FRAME_SEALED] +
		     s.frame_bytes[KVD_FRAME_COOL];
	printf("1,000 tenants: %.1f MiB of extents for %.1f MiB of pages (%.3f x)\n",
	       (double)extent_bytes / (1 << 20), (double)page_bytes / (1 << 20),
	       (double)extent_bytes / (double)page_bytes);
	ck_assert_uint_eq(page_bytes, (uint64_t)N_TENANTS * N_PAGES * 30 * 12288);
	ck_assert_uint_le(extent_bytes * 100, page_bytes * 125);
	free(rows);
	host_fsck(&h);
	kill(engine, SIGKILL);
	waitpid(engine, NULL, 0);
	for (unsigned i = 0; i < N_TENANTS; i++) {
		kvd_stream_close(streams[i]);
		kvd_close(connections[i]);
	}
	host_settle(&h);
	host_stop(&h);
}
END_TEST

static void expect_error(struct host *h, struct host_job *job, int status, const char *part)
{
	ck_assert_uint_eq(host_run(h, job, 1, NULL, NULL), 1);
	ck_assert_msg(job->status == status, "status %d (%s), expected %d", job->status, job->error, status);
	ck_assert_msg(strstr(job->error, part) != NULL, "\"%s\" does not name %s", job->error, part);
	host_jobs_free(job, 1);
}

START_TEST(requests_that_cannot_be_served)
{
	struct host h;
	struct host_job job;
	const char *const small[] = { "--extent", "1M", NULL };
	host_start(&h, "4M", small);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	scenario_job(&job, "red", NULL, "hello", 4);
	job.model = "no-such-model";
	expect_error(&h, &job, KVD_S_NO_MODEL, "no-such-model");
	char *longer = scenario_text(5, 6000);
	scenario_job(&job, "red", "a", longer, 4);
	expect_error(&h, &job, KVD_S_CONTEXT, "4096");
	free(longer);
	/* fits the context, can never fit the pool of 4 MiB */
	longer = scenario_text(5, 2400);
	scenario_job(&job, "red", "a", longer, 4);
	expect_error(&h, &job, KVD_S_TOO_LARGE, "page");
	free(longer);
	scenario_job(&job, "red", "a", "[{\"role\": \"user\"", 4);
	job.request.raw = 0;
	expect_error(&h, &job, KVD_S_BAD_REQUEST, "messages");
	scenario_job(&job, "red", "a", "hello", 4);
	job.request.top_p = 7.0f;
	expect_error(&h, &job, KVD_S_BAD_REQUEST, "top_p");

	/* a second engine of one name is refused and says so */
	struct host_child second = { 0 };
	char path[600];
	snprintf(path, sizeof(path), "%s/kvengine", h.bin);
	char *argv[] = {
		path, "--socket", h.socket, "--name", "a", "--model", (char *)host_model_bundled(),
		NULL};
	host_child_spawn(&h, &second, "second", argv);
	for (unsigned i = 0; i < 1000 && access("/proc/self", F_OK) == 0; i++) {
		char proc[32];
		snprintf(proc, sizeof(proc), "/proc/%d/exe", (int)second.pid);
		if (access(proc, F_OK) != 0)
			break;
		usleep(20000);
	}
	char *log = host_read_file(second.log, NULL);
	ck_assert_msg(strstr(log, "engine of that name") != NULL, "the second engine said: %s", log);
	free(log);
	struct host_job alive = scenario_alone(&h, "red", "a", "hello", 8);
	host_jobs_free(&alive, 1);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

/* A client that stops reading is closed after its deadline; the others go on meanwhile. */
START_TEST(a_client_that_stops_reading)
{
	struct host h;
	struct host_job jobs[3];
	host_start(&h, "64M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	for (unsigned i = 0; i < 3; i++)
		scenario_job(&jobs[i], "red", "a", "The river", 600);
	jobs[0].stop_reading_after = 3;
	ck_assert_msg(host_run(&h, jobs, 3, NULL, NULL) == 0, "failed: %s", jobs[1].error);
	ck_assert_uint_eq(jobs[1].n_ids, 600);
	ck_assert_uint_eq(jobs[2].n_ids, 600);
	host_jobs_free(jobs, 3);
	host_settle(&h);           /* closing the stream ended the first one as well */
	host_stop(&h);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(six_thousand_garbage_connections),
		SCENARIO(a_thousand_tenants_fit),
		SCENARIO(requests_that_cannot_be_served),
		SCENARIO(a_client_that_stops_reading),
	};
	return scenario_run("peers", tests, 4, 300);
}
