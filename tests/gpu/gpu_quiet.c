/* gpu_quiet.c - is a dead engine's memory quiet?  gpu_quiet ROUNDS [SECONDS [control]]
 *
 * As in kvd, three processes: the creator has no context and only makes and exports an extent; the writer imports it,
 * writes into all of it without end and is killed; the watcher imports it, too, and copies all of it again and again.
 * Two copies that differ: something was written after the earlier one began.  So a change is dated by the beginning of
 * the earlier copy, never later than the write that caused it was, and "changed after X" is certain.  Before the
 * kill copies must differ, or the round says nothing and fails.  control: a second writer lives on, so that all rounds
 * must say "changed after": what this program looks for it would find. */
#include "tests/gpu/gpu.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvd/cuda/nvml.h"

#define ROUNDS_MAX 10000u
#define WATCH_USEC 50000u          /* after the pidfd */
#define LIMIT_USEC 20000000u
#define MUST(call, ...) gpu_must(#call, gpu_driver.call(__VA_ARGS__))

/* Times in microseconds after the kill; -1: did not happen. */
struct round {
	int64_t hangup, pidfd, unlisted;
	int64_t changed;           /* the last change is not earlier than this */
	int64_t seen;              /* and was seen here */
	uint32_t copies, listed_alive, listed_at_pidfd;
};

static int writer(void)
{
	int fd;

	gpu_open(true);
	gpu_expect(GPU_SOCKET, 'e', &fd);
	uint64_t at = gpu_map(gpu_import(fd), gpu_granularity_bytes, DRIVER_ACCESS_READ_WRITE);
	gpu_write(at, gpu_granularity_bytes, GPU_ENDLESS);
	gpu_send(GPU_SOCKET, 'w', -1);
	pause();
	return 1;
}

/* ---- the watcher ---- */

struct watcher {
	uint64_t at;
	char *copies[2];           /* pinned */
	uint64_t begun[2];
	unsigned turn;
	struct nvml nvml;
};

/* Copy all of it; does it differ from the copy before? */
static bool differs(struct watcher *w)
{
	unsigned now = w->turn ^= 1u;

	w->begun[now] = gpu_now_usec();
	MUST(cuMemcpyDtoH, w->copies[now], w->at, gpu_granularity_bytes);
	return memcmp(w->copies[0], w->copies[1], gpu_granularity_bytes) != 0;
}

static bool is_readable(int fd)
{
	struct pollfd p = { fd, POLLIN, 0 };

	return poll(&p, 1, 0) > 0;
}

static struct round watch(struct watcher *w, int life, pid_t pid)
{
	struct round r = { -1, -1, -1, -1, -1, 0, 0, 0 };
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	uint64_t deadline = gpu_now_usec() + LIMIT_USEC;

	if (pidfd < 0)
		gpu_fail("pidfd_open: %m");
	differs(w);
	while (!differs(w))
		if (gpu_now_usec() > deadline)
			gpu_fail("the writer's kernel is not seen to write");
	r.listed_alive = nvml_lists_process(&w->nvml, gpu_facts.bus, (uint32_t)pid) == 1;
	uint64_t killed = gpu_now_usec();
	if (syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0)
		gpu_fail("pidfd_send_signal: %m");
	for (;;) {
		int64_t now = (int64_t)(gpu_now_usec() - killed);

		if (r.hangup < 0 && is_readable(life))
			r.hangup = now;
		if (r.pidfd < 0 && is_readable(pidfd)) {
			r.pidfd = (int64_t)(gpu_now_usec() - killed);
			r.listed_at_pidfd = nvml_lists_process(&w->nvml, gpu_facts.bus, (uint32_t)pid) == 1;
		}
		if (r.pidfd >= 0 && r.unlisted < 0 &&
		    nvml_lists_process(&w->nvml, gpu_facts.bus, (uint32_t)pid) == 0)
			r.unlisted = (int64_t)(gpu_now_usec() - killed);
		r.copies++;
		if (differs(w)) {
			r.changed = (int64_t)(w->begun[w->turn ^ 1u] - killed);
			r.seen = (int64_t)(gpu_now_usec() - killed);
		}
		if (r.pidfd >= 0 && now > r.pidfd + (int64_t)WATCH_USEC)
			break;
		if (gpu_now_usec() > deadline)
			gpu_fail("the killed writer has not ended for %u s", LIMIT_USEC / 1000000u);
	}
	close(pidfd);
	return r;
}

static int watcher(void)
{
	struct watcher w = { 0 };
	int fd;

	gpu_open(true);
	gpu_expect(GPU_SOCKET, 'e', &fd);
	w.at = gpu_map(gpu_import(fd), gpu_granularity_bytes, DRIVER_ACCESS_READ);
	for (int i = 0; i < 2; i++)
		MUST(cuMemHostAlloc, (void **)&w.copies[i], gpu_granularity_bytes, 0);
	(void)nvml_open(&w.nvml, NULL);
	for (int life; gpu_receive(GPU_SOCKET, &life) == 'l'; close(life)) {
		pid_t pid;
		struct round r;

		if (read(GPU_SOCKET, &pid, sizeof(pid)) != sizeof(pid))
			gpu_fail("no pid");
		r = watch(&w, life, pid);
		if (write(GPU_SOCKET, &r, sizeof(r)) != sizeof(r))
			gpu_fail("nobody listens");
	}
	return 0;
}

/* ---- the creator ---- */

static int compare_times(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static void print_times(const char *name, const struct round *rounds, unsigned n, size_t offset)
{
	int64_t *times = calloc(n, sizeof(*times));
	unsigned n_times = 0;

	for (unsigned i = 0; i < n; i++) {
		int64_t t = *(const int64_t *)((const char *)&rounds[i] + offset);
		if (t >= 0)
			times[n_times++] = t;
	}
	qsort(times, n_times, sizeof(*times), compare_times);
	printf(", \"%s\": {\"n\": %u", name, n_times);
	if (n_times)
		printf(", \"p50\": %lld, \"max\": %lld", (long long)times[n_times / 2], (long long)times[n_times - 1]);
	printf("}");
	free(times);
}

static void report(const struct round *rounds, unsigned n)
{
	unsigned after_hangup = 0, after_pidfd = 0, after_unlisted = 0, unsure = 0, listed = 0, alive = 0, asked = 0;
	uint64_t copies = 0;

	for (unsigned i = 0; i < n; i++) {
		const struct round *r = &rounds[i];

		after_hangup += r->changed >= 0 && r->hangup >= 0 && r->changed >= r->hangup;
		after_pidfd += r->changed >= 0 && r->changed >= r->pidfd;
		unsure += r->changed < r->pidfd && r->seen >= r->pidfd;
		after_unlisted += r->unlisted >= 0 && r->changed >= r->unlisted;
		asked += r->unlisted >= 0;
		listed += r->listed_at_pidfd;
		alive += r->listed_alive;
		copies += r->copies;
	}
	printf("{\"rounds\": %u, \"extent_bytes\": %llu, \"copies\": %llu, "
	       "\"changed_after_hangup\": %u, "
	       "\"changed_after_pidfd\": %u, \"changed_about_pidfd\": %u, \"listed_alive\": %u, "
	       "\"listed_at_pidfd\": %u, \"unlisted_seen\": %u, \"changed_after_unlisted\": %u",
	       n, (unsigned long long)gpu_granularity_bytes, (unsigned long long)copies,
	       after_hangup, after_pidfd, unsure, alive, listed, asked, after_unlisted);
	print_times("hangup_usec", rounds, n, offsetof(struct round, hangup));
	print_times("pidfd_usec", rounds, n, offsetof(struct round, pidfd));
	print_times("unlisted_usec", rounds, n, offsetof(struct round, unlisted));
	print_times("last_change_seen_usec", rounds, n, offsetof(struct round, seen));
	printf("}\n");
}

/* seconds: no further round begins after them */
static int creator(unsigned n, unsigned seconds, bool control)
{
	struct round *rounds = calloc(n, sizeof(*rounds));
	uint64_t begun = gpu_now_usec();
	unsigned done = 0;
	int watching, beside;
	pid_t survivor = 0;

	gpu_open(false);
	uint64_t handle = gpu_create(gpu_granularity_bytes);
	int fd = gpu_export(handle);
	pid_t watcher_pid = gpu_child("watcher", &watching);
	gpu_send(watching, 'e', fd);
	if (control) {
		survivor = gpu_child("writer", &beside);
		gpu_send(beside, 'e', fd);
		gpu_expect(beside, 'w', NULL);
	}
	for (; rounds && done < n && gpu_now_usec() - begun < seconds * 1000000ull; done++) {
		int life;
		pid_t pid = gpu_child("writer", &life);

		gpu_send(life, 'e', fd);
		gpu_expect(life, 'w', NULL);
		gpu_send(watching, 'l', life);
		close(life);
		if (write(watching, &pid, sizeof(pid)) != sizeof(pid) ||
		    recv(watching, &rounds[done], sizeof(rounds[done]), MSG_WAITALL) != sizeof(rounds[done]))
			gpu_fail("the watcher has ended");
		waitpid(pid, NULL, 0);
	}
	if (survivor) {
		kill(survivor, SIGKILL);
		waitpid(survivor, NULL, 0);
	}
	close(watching);
	waitpid(watcher_pid, NULL, 0);
	MUST(cuMemRelease, handle);
	report(rounds, done);
	free(rounds);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "200";
	unsigned n = (unsigned)strtoul(what, NULL, 10), seconds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 150;

	if (!strcmp(what, "writer"))
		return writer();
	if (!strcmp(what, "watcher"))
		return watcher();
	if (n == 0 || n > ROUNDS_MAX)
		gpu_fail("gpu_quiet ROUNDS [SECONDS [control]]: 1 to %u rounds", ROUNDS_MAX);
	return creator(n, seconds, argc > 3 && !strcmp(argv[3], "control"));
}
