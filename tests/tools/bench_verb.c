/* bench_verb.c - round trip of one verb between an engine and a real kvd, against its floor.
 *
 *     bench_verb [ROUNDS]        one JSON object a row: name, p50 and p99 in microseconds
 *
 * kvd runs on one core, the engine (this process) on another.  The verb is a CLOSE of an empty slot: the whole
 * way through ring, core and completion with the least work in the core.  Floors are the same exchange
 * without kvd, between two processes pinned alike, taken in turns with the verbs:
 *   verb-socket    both sleep: doorbell there, doorbell back     floor-socket  1 byte each way, SEQPACKET
 *   verb-spin      the engine looks at its ring without sleeping floor-half    1 byte there, a shared word back
 * floor-futex and floor-spin (a shared word each way) are for comparison: kvd's loop sleeps in its
 * io_uring, so no verb of this version is answered without one wake-up. */
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kvd/engine.h"
#include "tests/lib/host.h"

enum { BLOCKS = 8 };                           /* each kind is measured in so many turns */

static uint32_t *words;                        /* shared: [0] there, [16] back, [32] stop */
static int sockets[2];

static void pin(pid_t pid, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(pid, sizeof(set), &set);
}

static double now_usec(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static uint32_t load(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }

static void futex_wait(uint32_t *word, uint32_t old)
{
	while (load(word) == old)
		syscall(SYS_futex, word, FUTEX_WAIT, old, NULL, NULL, 0);
}

static void futex_set(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

enum kind { FLOOR_SOCKET, FLOOR_HALF, FLOOR_FUTEX, FLOOR_SPIN, VERB_SOCKET, VERB_SPIN, KINDS };
static const char *const names[KINDS] = { "floor-socket", "floor-half", "floor-futex", "floor-spin",
					  "verb-socket", "verb-spin" };

/* The other side of a floor: answers until it is killed. */
static pid_t answerer(enum kind kind)
{
	pid_t parent = getpid(), pid = fork();
	char byte;

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	pin(0, 0);
	for (uint32_t n = 1;; n++) {
		switch (kind) {
		case FLOOR_SOCKET:
			if (recv(sockets[1], &byte, 1, 0) != 1 || send(sockets[1], &byte, 1, 0) != 1)
				_exit(0);
			break;
		case FLOOR_HALF:
			if (recv(sockets[1], &byte, 1, 0) != 1)
				_exit(0);
			__atomic_store_n(&words[16], n, __ATOMIC_RELEASE);
			break;
		case FLOOR_FUTEX:
			futex_wait(&words[0], n - 1);
			futex_set(&words[16], n);
			break;
		default:
			while (load(&words[0]) != n)
				__builtin_ia32_pause();
			__atomic_store_n(&words[16], n, __ATOMIC_RELEASE);
		}
	}
}

static void ask_floor(enum kind kind, uint32_t n)
{
	char byte = 0;

	switch (kind) {
	case FLOOR_SOCKET:
		if (send(sockets[0], &byte, 1, 0) != 1 || recv(sockets[0], &byte, 1, 0) != 1)
			exit(1);
		break;
	case FLOOR_HALF:
		if (send(sockets[0], &byte, 1, 0) != 1)
			exit(1);
		while (load(&words[16]) != n)
			__builtin_ia32_pause();
		break;
	case FLOOR_FUTEX:
		futex_set(&words[0], n);
		futex_wait(&words[16], n - 1);
		break;
	default:
		__atomic_store_n(&words[0], n, __ATOMIC_RELEASE);
		while (load(&words[16]) != n)
			__builtin_ia32_pause();
	}
}

static void ask_verb(struct kvd_engine *e, enum kind kind)
{
	struct kvd_sqe sqe = { .verb = KVD_SEQ_CLOSE };
	struct pollfd p = { .fd = kvd_engine_fd(e), .events = POLLIN };
	struct kvd_cqe cqe;
	int r = kvd_engine_submit(e, &sqe);

	r = r ? r : kvd_engine_flush(e);
	while (r == 0 && !kvd_engine_completion(e, &cqe)) {
		if (kind == VERB_SPIN) {
			__builtin_ia32_pause();
			continue;
		}
		if (kvd_engine_sleep(e, true) && poll(&p, 1, 1000) == 0)
			r = -1;
		kvd_engine_sleep(e, false);
		r = r ? r : kvd_engine_poll(e);
	}
	if (r) {
		fprintf(stderr, "bench_verb: %s\n", r == -1 ? "no answer within a second" : kvd_engine_error(e));
		exit(1);
	}
}

static void measure(struct kvd_engine *e, enum kind kind, double *ret, unsigned rounds)
{
	pid_t pid = 0;

	memset(words, 0, 4096);
	if (kind < VERB_SOCKET)
		pid = answerer(kind);
	for (unsigned i = 0; i < rounds + 100; i++) {
		double start = now_usec();

		if (kind < VERB_SOCKET)
			ask_floor(kind, i + 1);
		else
			ask_verb(e, kind);
		if (i >= 100)                      /* the first ones warm up */
			ret[i - 100] = now_usec() - start;
	}
	if (pid) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

static int compare(const void *a, const void *b)
{
	return *(const double *)a < *(const double *)b ? -1 : 1;
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 8000, block = rounds / BLOCKS;
	struct kvd_engine_options o = { .name = "bench", .model = "none", .numerics = "none/1",
					.layout = KVD_LAYOUT_PAIRS, .n_planes = 2, .kv_format = KVD_FORMAT_BF16,
					.block_bytes = 8192, .max_seqs = 1, .max_pages = 8 };
	double *times[KINDS];
	struct kvd_engine *e;
	struct host h;

	if (block < 10) {
		fprintf(stderr, "usage: bench_verb [ROUNDS], at least 80\n");
		return 2;
	}
	host_start(&h, "16M", NULL);
	host_populated(&h);
	pin(h.kvd.pid, 0);
	pin(0, 1);
	words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	o.socket = h.socket;
	if (words == MAP_FAILED || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0 ||
	    kvd_engine_attach(&o, &e) != 0) {
		fprintf(stderr, "bench_verb: cannot attach\n");
		return 1;
	}
	for (int k = 0; k < KINDS; k++)
		times[k] = calloc(rounds, sizeof(double));
	for (unsigned b = 0; b < BLOCKS; b++)
		for (int k = 0; k < KINDS; k++)
			measure(e, (enum kind)k, times[k] + b * block, block);
	for (int k = 0; k < KINDS; k++) {
		unsigned n = block * BLOCKS;

		qsort(times[k], n, sizeof(double), compare);
		printf("{\"name\": \"%s\", \"rounds\": %u, \"p50_usec\": %.2f, \"p99_usec\": %.2f}\n", names[k], n,
		       times[k][n / 2], times[k][n * 99 / 100]);
	}
	kvd_engine_close(e);
	host_stop(&h);
	return 0;
}
