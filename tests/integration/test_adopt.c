/* test_adopt.c - kvd may be SIGKILLed at any moment: the next one goes on where it was, or starts cold and
 * says why; no stream's bytes change either way. */
#include "tests/lib/scenario.h"
#include "tests/lib/slow.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvd/core/core.h"
#include "kvd/keeper.h"

#define N_STREAMS 6u
#define N_TOKENS 240u
#define POOL "64M"

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "8", NULL };
static const char *const kvd_args[] = { "--keeper", NULL };
static const char *const engines[] = { "left", "right" };

static uint64_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return *state >> 33;
}

/* ---- the keeper, from outside ---- */

static int keeper_connect(struct host *h)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%.90s.keeper", h->socket);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static pid_t keeper_pid(struct host *h)
{
	struct ucred credentials = { 0 };
	socklen_t size = sizeof(credentials);
	int fd = keeper_connect(h);

	ck_assert_msg(fd >= 0, "there is no keeper");
	ck_assert_int_eq(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size), 0);
	close(fd);
	return credentials.pid;
}

/* What comes next from the keeper; 0: it has closed. */
static uint16_t keeper_next(int fd)
{
	struct keeper_packet packet;
	int fds[KEEPER_BATCH], n;
	uint32_t n_fds;

	for (unsigned i = 0; i < 10000; i++) {
		n = keeper_receive(fd, &packet, fds, &n_fds);
		if (n == -EAGAIN) {
			usleep(1000);
			continue;
		}
		for (uint32_t j = 0; n > 0 && j < n_fds; j++)
			close(fds[j]);
		return n == sizeof(packet) ? packet.type : 0;
	}
	return 0;
}

/* As a kvd would: be lent the bundle, have one name forgotten, end.  In a child, because who holds the
 * bundle holds it as long as it lives. */
static void keeper_lose(struct host *h, const char *name)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct keeper_packet take = { .magic = KEEPER_MAGIC, .type = KEEPER_TAKE };
		struct keeper_packet forget = { .magic = KEEPER_MAGIC, .type = KEEPER_FORGET, .n = 1 };
		int fd = keeper_connect(h);
		uint16_t type;

		snprintf(forget.names[0], sizeof(forget.names[0]), "%s", name);
		if (fd < 0 || keeper_send(fd, &take, NULL, 0) < 0)
			_exit(1);
		while ((type = keeper_next(fd)) == KEEPER_ITEMS)
			;
		_exit(type == KEEPER_END && keeper_send(fd, &forget, NULL, 0) == 0 ? 0 : 2);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}

/* ---- a host that is killed ---- */

struct storm {
	struct host h;
	char *texts[N_STREAMS];
	struct host_job alone[N_STREAMS];
	uint64_t seed;
	unsigned chunks, kill_at;      /* chunks seen; kill at this one, 0: no more */
	unsigned kills;
	void (*between)(struct storm *s); /* while no kvd lives */
	bool managed;                  /* by tests/tools/fdstore_manager.c */
};

static bool log_has(const struct host_child *child, const char *text)
{
	char *log = host_read_file(child->log, NULL);
	bool has = strstr(log, text) != NULL;

	free(log);
	return has;
}

/* The service manager's stand-in starts it again; ours to do is the killing. */
static void kill_under_manager(struct storm *s)
{
	struct kvd_row_status status;
	uint32_t killed;

	host_status(&s->h, &status);
	killed = status.kvd_pid;
	ck_assert_int_eq(kill((pid_t)killed, SIGKILL), 0);
	for (unsigned i = 0; i < 1000u * test_slow(); i++) {
		host_status(&s->h, &status);
		if (status.kvd_pid != killed)
			break;
		usleep(5000);
	}
	ck_assert_uint_ne(status.kvd_pid, killed);
	s->kills++;
}

static void kill_and_restart(struct storm *s)
{
	if (s->managed) {
		kill_under_manager(s);
		return;
	}
	host_kill(&s->h.kvd, SIGKILL);
	if (s->between)
		s->between(s);
	usleep((useconds_t)(next_random(&s->seed) % 20000));
	host_kvd_start(&s->h, POOL, kvd_args);
	s->kills++;
}

static void on_chunk(void *arg, struct host_job *job)
{
	struct storm *s = arg;

	if (s->kill_at && ++s->chunks == s->kill_at) {
		s->kill_at = 0;
		kill_and_restart(s);
	}
}

/* Two engines, and what each stream is without any trouble. */
static void storm_run_alone(struct storm *s)
{
	for (unsigned i = 0; i < 2; i++)
		host_engine(&s->h, engines[i], host_model_bundled(), engine_args);
	for (unsigned i = 0; i < N_STREAMS; i++) {
		s->texts[i] = scenario_text(60 + i, 20 + 30 * i);
		s->alone[i] = scenario_alone(&s->h, i % 2 ? "red" : "green", engines[i / 3], s->texts[i], N_TOKENS);
		ck_assert_msg(s->alone[i].status == 0, "%s", s->alone[i].error);
	}
	host_populated(&s->h);
}

static void storm_open(struct storm *s, uint64_t seed)
{
	memset(s, 0, sizeof(*s));
	s->seed = seed;
	host_start(&s->h, POOL, kvd_args);
	storm_run_alone(s);
}

static void storm_close(struct storm *s)
{
	host_stop(&s->h);
	for (unsigned i = 0; i < N_STREAMS; i++)
		free(s->texts[i]);
	host_jobs_free(s->alone, N_STREAMS);
}

/* All streams at once, kvd killed at a random moment; every byte is as it was alone.
 * kept  the kvd after it takes over: no stream is opened again, no prompt computed again */
static void storm_round(struct storm *s, bool kept)
{
	struct host_job jobs[N_STREAMS];

	for (unsigned i = 0; i < N_STREAMS; i++)
		scenario_job(&jobs[i], i % 2 ? "red" : "green", engines[i / 3], s->texts[i], N_TOKENS);
	s->chunks = 0;
	s->kill_at = 1 + (unsigned)(next_random(&s->seed) % (N_STREAMS * N_TOKENS / 6));
	host_run(&s->h, jobs, N_STREAMS, on_chunk, s);
	if (s->kill_at) {              /* it came in fewer chunks */
		s->kill_at = 0;
		kill_and_restart(s);
	}
	for (unsigned i = 0; i < N_STREAMS; i++) {
		ck_assert_msg(jobs[i].status == 0, "kill %u, stream %u failed: %s", s->kills, i, jobs[i].error);
		ck_assert_uint_eq(jobs[i].n_ids, s->alone[i].n_ids);
		ck_assert_mem_eq(jobs[i].ids, s->alone[i].ids, jobs[i].n_ids * sizeof(*jobs[i].ids));
		ck_assert_str_eq(jobs[i].answer, s->alone[i].answer);
		if (kept) {
			ck_assert_int_eq(jobs[i].resumed, 0);
			ck_assert_msg(host_jobs_equal(&jobs[i], &s->alone[i]), "the logits of stream %u changed", i);
		}
	}
	host_jobs_free(jobs, N_STREAMS);
}

static struct kvd_row_status adopted_status(struct storm *s)
{
	struct kvd_row_status status;

	for (unsigned i = 0; i < 1000u * test_slow(); i++) {
		host_status(&s->h, &status);
		if (status.adopted)
			break;
		usleep(10000);
	}
	return status;
}

/* What was cached before the kill is found after it: the same sealed pages. */
static void expect_cached(struct storm *s)
{
	for (unsigned i = 0; i < N_STREAMS; i++) {
		struct host_job again = scenario_alone(&s->h, i % 2 ? "red" : "green", engines[i / 3], s->texts[i],
						       N_TOKENS);

		ck_assert_uint_eq(again.prompt_tokens, s->alone[i].prompt_tokens);
		ck_assert_msg(again.cached_tokens + 16 >= again.prompt_tokens,
			      "%u of %u prompt tokens were computed again", again.prompt_tokens - again.cached_tokens,
			      again.prompt_tokens);
		ck_assert(host_jobs_equal(&again, &s->alone[i]));
		host_jobs_free(&again, 1);
	}
}

/* The last questions' connections close a moment after their answers. */
static unsigned settled_fds(pid_t pid, unsigned wanted)
{
	for (unsigned i = 0; i < 100 && host_proc_fds(pid) > wanted; i++)
		usleep(2000);
	return host_proc_fds(pid);
}

START_TEST(kill_kvd_many_times)
{
	const char *wanted = getenv("KVD_TEST_KILLS");
	unsigned n_rounds = wanted && *wanted ? (unsigned)atoi(wanted) : 20, fds = 0, keeper_fds = 0;
	uint64_t anon_kib = 0;
	struct kvd_row_status status;
	struct storm s;
	pid_t keeper;

	storm_open(&s, 11);
	keeper = keeper_pid(&s.h);
	for (unsigned round = 0; round < n_rounds; round++) {
		storm_round(&s, true);
		status = adopted_status(&s);
		ck_assert_msg(status.adopted, "kill %u: not taken over", s.kills);
		ck_assert_uint_eq(status.preemptions, 0);
		ck_assert_uint_eq(status.engines, 2);
		host_settle(&s.h);
		if (round == 1) {
			anon_kib = host_proc_kib(s.h.kvd.pid, "RssAnon");
			fds = settled_fds(s.h.kvd.pid, 0);
			keeper_fds = host_proc_fds(keeper);
		}
	}
	expect_cached(&s);
	ck_assert_uint_le(settled_fds(s.h.kvd.pid, fds), fds);
	ck_assert_uint_eq(host_proc_fds(keeper), keeper_fds);
	ck_assert_uint_le(host_proc_kib(s.h.kvd.pid, "RssAnon"), anon_kib + 512);
	ck_assert_int_eq(keeper_pid(&s.h), keeper);
	ck_assert(!log_has(&s.h.kvd, "start.cold") && !log_has(&s.h.kvd, "engine.wedged"));
	printf("%u kills of kvd; RssAnon %llu KiB after 2, %llu KiB at the end; fds %u, keeper's %u\n", s.kills,
	       (unsigned long long)anon_kib, (unsigned long long)host_proc_kib(s.h.kvd.pid, "RssAnon"), fds,
	       keeper_fds);
	storm_close(&s);
	/* An end in order ends the keeper; who reaps it is not our business. */
	ck_assert(kill(keeper, 0) < 0 || host_proc_kib(keeper, "VmRSS") == 0);
}
END_TEST

/* ---- doubts ---- */

static void lose_extent(struct storm *s)
{
	keeper_lose(&s->h, "x3");
}

static void lose_book(struct storm *s)
{
	keeper_lose(&s->h, "book");
}

static void lose_mover(struct storm *s)
{
	keeper_lose(&s->h, "mover");
}

static void kill_keeper(struct storm *s)
{
	ck_assert_int_eq(kill(keeper_pid(&s->h), SIGKILL), 0);
}

/* The book's second word is the version of its layout. */
static void age_book(struct storm *s)
{
	pid_t keeper = keeper_pid(&s->h);
	bool aged = false;

	for (unsigned i = 3; i < 200 && !aged; i++) {
		char path[64], target[128] = "";
		uint64_t version;
		int fd;

		snprintf(path, sizeof(path), "/proc/%d/fd/%u", keeper, i);
		if (readlink(path, target, sizeof(target) - 1) < 0 || !strstr(target, "memfd:kvd-book"))
			continue;
		fd = open(path, O_RDWR | O_CLOEXEC);
		ck_assert_int_ge(fd, 0);
		ck_assert_int_eq(pread(fd, &version, sizeof(version), 8), sizeof(version));
		ck_assert_uint_eq(version, core_layout_version());
		version--;
		ck_assert_int_eq(pwrite(fd, &version, sizeof(version), 8), sizeof(version));
		close(fd);
		aged = true;
	}
	ck_assert(aged);
}

static const struct doubt {
	void (*between)(struct storm *s);
	const char *says;              /* in kvd's log */
} doubts[] = {
	{ age_book, "of the kvd before: its layout is another version's" },
	{ lose_extent, "of the kvd before: extent 3 was not kept" },
	{ lose_book, "of the kvd before: its book was not kept" },
	{ lose_mover, "was not kept" },
	{ kill_keeper, NULL },
};

START_TEST(any_doubt_is_a_cold_start)
{
	struct storm s;

	storm_open(&s, 23);
	for (unsigned i = 0; i < sizeof(doubts) / sizeof(doubts[0]); i++) {
		struct kvd_row_status status;

		s.between = doubts[i].between;
		storm_round(&s, false);
		host_engine_wait(&s.h, engines[0]);
		host_engine_wait(&s.h, engines[1]);
		host_status(&s.h, &status);
		ck_assert_msg(!status.adopted, "doubt %u: taken over", i);
		ck_assert_msg(!doubts[i].says || log_has(&s.h.kvd, doubts[i].says), "doubt %u: nothing said", i);
		host_settle(&s.h);
		for (unsigned e = 0; e < 2; e++)
			ck_assert_int_eq(kill(s.h.engines[e].pid, 0), 0); /* they never exit */
	}
	/* And the one after that is taken over again. */
	s.between = NULL;
	storm_round(&s, true);
	ck_assert(adopted_status(&s).adopted);
	host_settle(&s.h);
	storm_close(&s);
}
END_TEST

/* ---- one at a time, and only the same user ---- */

static int exit_code_of_second(struct host *h, const char *more)
{
	char path[600];
	int status;
	pid_t pid;

	snprintf(path, sizeof(path), "%s/kvd", h->bin);
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		int log = open(h->engines[0].log, O_WRONLY | O_APPEND);

		dup2(log, 2);
		execl(path, "kvd", "--pool", POOL, "--socket", h->socket, more, NULL);
		_exit(127);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

START_TEST(one_kvd_at_a_time)
{
	struct kvd_row_status status;
	struct storm s;
	pid_t stranger;
	int exit_status;

	storm_open(&s, 5);
	ck_assert_int_eq(exit_code_of_second(&s.h, "--keeper"), 1);
	ck_assert_int_eq(exit_code_of_second(&s.h, NULL), 1);
	ck_assert(log_has(&s.h.engines[0], "another kvd (process"));
	ck_assert(log_has(&s.h.engines[0], "another kvd answers"));
	kill_and_restart(&s);
	ck_assert(adopted_status(&s).adopted);
	/* The one that took over is as much a kvd as the first. */
	ck_assert_int_eq(exit_code_of_second(&s.h, "--keeper"), 1);
	ck_assert_int_eq(exit_code_of_second(&s.h, NULL), 1);
	if (getuid() != 0) {
		printf("skipped: another user is tried as root only\n");
	} else {
		char path[160];

		snprintf(path, sizeof(path), "%s.keeper", s.h.socket);
		/* Its file's mode is the first barrier; its word is the second. */
		ck_assert_int_eq(chmod(s.h.dir, 0755), 0);
		ck_assert_int_eq(chmod(path, 0666), 0);
		fflush(NULL);
		stranger = fork();
		if (stranger == 0) {
			struct keeper_packet take = { .magic = KEEPER_MAGIC, .type = KEEPER_TAKE };
			int fd;

			if (setgid(12345) < 0 || setuid(12345) < 0)
				_exit(3);
			fd = keeper_connect(&s.h);
			(void)keeper_send(fd, &take, NULL, 0);
			_exit(fd >= 0 && keeper_next(fd) == 0 ? 0 : 1);
		}
		ck_assert_int_eq(waitpid(stranger, &exit_status, 0), stranger);
		ck_assert_int_eq(exit_status, 0);
		ck_assert_int_eq(chmod(path, 0600), 0);
	}
	host_status(&s.h, &status);
	ck_assert(status.adopted);
	storm_close(&s);
}
END_TEST

/* SIGUSR2: an upgrade.  kvd ends by itself and leaves everything to the next. */
START_TEST(upgrade_in_place)
{
	struct storm s;
	int status;

	storm_open(&s, 7);
	ck_assert_int_eq(kill(s.h.kvd.pid, SIGUSR2), 0);
	ck_assert_int_eq(waitpid(s.h.kvd.pid, &status, 0), s.h.kvd.pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %#x", status);
	s.h.kvd.pid = 0;
	host_kvd_start(&s.h, POOL, kvd_args);
	ck_assert(adopted_status(&s).adopted);
	expect_cached(&s);
	host_settle(&s.h);
	storm_close(&s);
}
END_TEST

/* ---- the fd store of a service manager instead of the keeper ---- */

START_TEST(kill_kvd_under_a_service_manager)
{
	char manager[600], program[600];
	char *argv[] = { manager, NULL, program, (char *)"--pool", (char *)POOL, (char *)"--socket", NULL, NULL };
	struct kvd_row_status status;
	struct storm s;

	memset(&s, 0, sizeof(s));
	s.seed = 31;
	/* A kvd that makes the directory, and gives its place to the manager. */
	host_start(&s.h, POOL, NULL);
	host_kill(&s.h.kvd, SIGTERM);
	snprintf(manager, sizeof(manager), "%.500s/../tests/fdstore_manager", s.h.bin);
	snprintf(program, sizeof(program), "%.500s/kvd", s.h.bin);
	argv[1] = argv[6] = s.h.socket;
	ck_assert_msg(access(manager, X_OK) == 0, "%s is not built: make tools", manager);
	host_child_spawn(&s.h, &s.h.kvd, "kvd", argv);
	for (unsigned i = 0; i < 1000u * test_slow() && access(s.h.socket, F_OK) < 0; i++)
		usleep(10000);
	storm_run_alone(&s);
	s.managed = true;
	for (unsigned round = 0; round < 6; round++) {
		storm_round(&s, true);
		status = adopted_status(&s);
		ck_assert_msg(status.adopted, "kill %u: not taken over", s.kills);
		host_settle(&s.h);
	}
	/* `systemctl restart` with RestartKillSignal=SIGUSR2 */
	ck_assert_int_eq(kill(s.h.kvd.pid, SIGUSR2), 0);
	for (uint32_t before = status.kvd_pid; status.kvd_pid == before; host_status(&s.h, &status))
		usleep(5000);
	ck_assert(adopted_status(&s).adopted);
	expect_cached(&s);
	ck_assert(!log_has(&s.h.kvd, "start.cold"));
	storm_close(&s);
}
END_TEST

/* ---- an engine of the release before ---- */

/* It does not know how to be taken over: it is hung up, and its streams go on with another. */
START_TEST(engine_of_the_previous_release)
{
	char line[600] = "", bin[512];
	struct host_job jobs[N_STREAMS];
	struct storm s;
	FILE *script = popen(host_path("tests/previous_release.sh"), "r");
	int status;

	ck_assert_ptr_nonnull(script);
	(void)!fgets(line, sizeof(line), script);
	pclose(script);
	line[strcspn(line, "\n")] = '\0';
	if (line[0] != '/') {
		printf("%s\n", line[0] ? line : "skipped: tests/previous_release.sh said nothing");
		return;
	}
	storm_open(&s, 41);
	memcpy(bin, s.h.bin, sizeof(bin));
	*strrchr(line, '/') = '\0';
	snprintf(s.h.bin, sizeof(s.h.bin), "%.500s", line);
	host_engine(&s.h, "old", host_model_bundled(), engine_args);
	memcpy(s.h.bin, bin, sizeof(bin));
	/* It works with this kvd as it did with its own. */
	for (unsigned i = 0; i < N_STREAMS; i++) {
		struct host_job old = scenario_alone(&s.h, "blue", "old", s.texts[i], N_TOKENS);

		ck_assert_msg(host_jobs_equal(&old, &s.alone[i]), "stream %u", i);
		host_jobs_free(&old, 1);
		scenario_job(&jobs[i], "blue", NULL, s.texts[i], N_TOKENS);
	}
	s.kill_at = N_STREAMS * 4;
	host_run(&s.h, jobs, N_STREAMS, on_chunk, &s);
	ck_assert_uint_eq(s.kills, 1);
	for (unsigned i = 0; i < N_STREAMS; i++) {
		ck_assert_msg(jobs[i].status == 0, "stream %u: %s", i, jobs[i].error);
		ck_assert_uint_eq(jobs[i].n_ids, s.alone[i].n_ids);
		ck_assert_mem_eq(jobs[i].ids, s.alone[i].ids, jobs[i].n_ids * sizeof(*jobs[i].ids));
	}
	host_jobs_free(jobs, N_STREAMS);
	ck_assert(log_has(&s.h.kvd, "its release does not know how to be taken over"));
	ck_assert(!log_has(&s.h.kvd, "start.cold"));
	/* That release's engines end where their kvd hangs up. */
	ck_assert_int_eq(waitpid(s.h.engines[2].pid, &status, 0), s.h.engines[2].pid);
	s.h.engines[2].pid = 0;
	host_settle(&s.h);
	storm_round(&s, true);
	host_settle(&s.h);
	storm_close(&s);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(kill_kvd_many_times),
		SCENARIO(any_doubt_is_a_cold_start),
		SCENARIO(one_kvd_at_a_time),
		SCENARIO(upgrade_in_place),
		SCENARIO(kill_kvd_under_a_service_manager),
		SCENARIO(engine_of_the_previous_release),
	};
	return scenario_run("adopt", tests, sizeof(tests) / sizeof(tests[0]), 600);
}
