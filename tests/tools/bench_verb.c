/* bench_verb.c - round trip of one verb between an engine and a real kvd, against its floor.
 *
 *     bench_verb [ROUNDS [NAME]]  one JSON object a row (that row alone): name, p50 and p99 in microseconds
 *
 * kvd runs on one core, the engine (this process) on another.  The verb is a CLOSE of an empty slot: the whole
 * way through ring, core and completion with the least work in the core.  Floors are the same exchange
 * without kvd, between two processes pinned alike, taken in turns with the verbs:
 *   verb-socket  both sleep; a doorbell byte each way        floor-socket  1 byte each way, SEQPACKET
 *   verb-futex   both sleep; FUTEX_WAKE of a word each way   floor-futex   the same
 *   verb-half    the engine looks at its ring, kvd sleeps    floor-half    1 byte there, a shared word back
 *   verb-spin    both look at the rings (--spin-usec)        floor-spin    a shared word each way
 * Rows of futexes are missing where the kernel's io_uring waits for none. */
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

#include "engine/wait.h"
#include "kvd/engine.h"
#include "tests/lib/host.h"

enum { BLOCKS = 8, ASLEEP_USEC = 50 };         /* each kind is measured in so many turns */

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

enum kind { FLOOR_SOCKET, FLOOR_FUTEX, FLOOR_HALF, FLOOR_SPIN, VERB_SOCKET, VERB_FUTEX, VERB_HALF, VERB_SPIN, KINDS };
static const char *const names[KINDS] = { "floor-socket", "floor-futex", "floor-half", "floor-spin",
					  "verb-socket", "verb-futex", "verb-half", "verb-spin" };

/* One kvd for each way: how it waits is decided when it starts. */
enum { KVD_SOCKET, KVD_FUTEX, KVD_SPIN, KVDS };
static struct host hosts[KVDS];
static struct kvd_engine *engines[KVDS];
static struct wait *word_wait;                 /* of the engine that waits for words */

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

/* Sleep until the engine may have a completion. */
static void sleep_for_verb(struct kvd_engine *e, enum kind kind)
{
	struct pollfd p = { .fd = kvd_engine_fd(e), .events = POLLIN };
	struct kvd_engine_word word;
	struct wait_event event;

	if (kind == VERB_HALF || kind == VERB_SPIN) {
		__builtin_ia32_pause();
		return;
	}
	if (kind == VERB_SOCKET) {
		if (kvd_engine_sleep(e, true) && poll(&p, 1, 1000) == 0)
			exit(fprintf(stderr, "bench_verb: no answer within a second\n"));
	} else if (kvd_engine_sleep_on(e, &word)) {
		wait_word(word_wait, word.word, word.value, word.mapping);
		if (wait_for(word_wait, 1000000, &event, 1) < 0)
			exit(1);
	}
	kvd_engine_sleep(e, false);
	if (kind == VERB_SOCKET && kvd_engine_poll(e))  /* the byte */
		exit(1);
}

static void ask_verb(enum kind kind)
{
	struct kvd_engine *e = engines[kind == VERB_FUTEX ? KVD_FUTEX : kind == VERB_SPIN ? KVD_SPIN : KVD_SOCKET];
	struct kvd_sqe sqe = { .verb = KVD_SEQ_CLOSE };
	struct kvd_cqe cqe;
	int r = kvd_engine_submit(e, &sqe);

	r = r ? r : kvd_engine_flush(e);
	if (r) {
		fprintf(stderr, "bench_verb: %s\n", kvd_engine_error(e));
		exit(1);
	}
	while (!kvd_engine_completion(e, &cqe))
		sleep_for_verb(e, kind);
}

static void measure(enum kind kind, double *ret, unsigned rounds)
{
	pid_t pid = 0;

	memset(words, 0, 4096);
	if (kind < VERB_SOCKET)
		pid = answerer(kind);
	for (unsigned i = 0; i < rounds + 100; i++) {
		double start = now_usec();

		/* Time to fall asleep: an engine that asks again at once finds kvd awake. */
		while ((kind == VERB_HALF || kind == FLOOR_HALF) && now_usec() < start + ASLEEP_USEC)
			__builtin_ia32_pause();
		start = now_usec();
		if (kind < VERB_SOCKET)
			ask_floor(kind, i + 1);
		else
			ask_verb(kind);
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

/* Start a kvd that waits in that way and attach to it. */
static void start(int kind)
{
	static const char *const spin[] = { "--spin-usec", "2000", NULL };
	struct kvd_engine_options o = { .name = "bench", .model = "none", .numerics = "none/1",
					.layout = KVD_LAYOUT_PAIRS, .n_planes = 2, .kv_format = KVD_FORMAT_BF16,
					.block_bytes = 8192, .max_seqs = 1, .max_pages = 8,
					.socket = hosts[kind].socket };

	if (kind == KVD_SOCKET)
		setenv("KVD_NO_FUTEX", "1", 1);
	host_start(&hosts[kind], "16M", kind == KVD_SPIN ? spin : NULL);
	unsetenv("KVD_NO_FUTEX");
	host_populated(&hosts[kind]);
	pin(hosts[kind].kvd.pid, 0);
	if (kvd_engine_attach(&o, &engines[kind]) != 0)
		exit(fprintf(stderr, "bench_verb: cannot attach\n"));
}

static bool wanted(int kind, const char *name)
{
	return name ? !strcmp(name, names[kind]) : kind != VERB_FUTEX || wait_has_words(word_wait);
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 8000, block = rounds / BLOCKS;
	const char *only = argc > 2 ? argv[2] : NULL;
	double *times[KINDS];

	if (block < 10 || argc > 3) {
		fprintf(stderr, "usage: bench_verb [ROUNDS [NAME]], at least 80\n");
		return 2;
	}
	for (int i = 0; i < KVDS; i++)
		start(i);
	pin(0, 1);
	words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (words == MAP_FAILED || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0 ||
	    wait_new(&word_wait) < 0)
		return perror("bench_verb"), 1;
	for (int k = 0; k < KINDS; k++)
		times[k] = calloc(rounds, sizeof(double));
	for (unsigned b = 0; b < BLOCKS; b++)
		for (int k = 0; k < KINDS; k++)
			if (wanted(k, only))
				measure((enum kind)k, times[k] + b * block, block);
	for (int k = 0; k < KINDS; k++) {
		unsigned n = block * BLOCKS;

		if (!wanted(k, only))
			continue;
		qsort(times[k], n, sizeof(double), compare);
		printf("{\"name\": \"%s\", \"rounds\": %u, \"p50_usec\": %.2f, \"p99_usec\": %.2f}\n", names[k], n,
		       times[k][n / 2], times[k][n * 99 / 100]);
	}
	wait_free(word_wait);
	for (int i = 0; i < KVDS; i++) {
		kvd_engine_close(engines[i]);
		host_stop(&hosts[i]);
	}
	return 0;
}
