/* bench_limit.c - the machine's read bandwidth, measured the way decode reads weights: forward, every byte
 * once, two threads or one.
 *
 *   bench_limit THREADS      prints GB/s: the best of five passes over 512 MiB */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define BYTES (512ull << 20)

struct part {
	const uint64_t *from;
	size_t n;
	uint64_t sum;
};

static void *read_part(void *arg)
{
	struct part *p = arg;
	uint64_t a = 0, b = 0, c = 0, d = 0;
	for (size_t i = 0; i + 8 <= p->n; i += 8) {
		a += p->from[i] ^ p->from[i + 4];
		b += p->from[i + 1] ^ p->from[i + 5];
		c += p->from[i + 2] ^ p->from[i + 6];
		d += p->from[i + 3] ^ p->from[i + 7];
	}
	p->sum = a + b + c + d;
	return NULL;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
	unsigned n = argc == 2 ? (unsigned)atoi(argv[1]) : 0;
	if (n < 1 || n > 64) {
		fprintf(stderr, "usage: bench_limit THREADS\n");
		return 2;
	}
	uint64_t *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		perror("bench_limit");
		return 1;
	}
	madvise(memory, BYTES, MADV_HUGEPAGE);
	memset(memory, 1, BYTES);
	double best = 0;
	uint64_t sum = 0;
	for (unsigned pass = 0; pass < 5; pass++) {
		struct part parts[64];
		pthread_t threads[64];
		double start = now();
		for (unsigned i = 0; i < n; i++) {
			size_t each = BYTES / 8 / n;
			parts[i] = (struct part){ memory + i * each, each, 0 };
			pthread_create(&threads[i], NULL, read_part, &parts[i]);
		}
		for (unsigned i = 0; i < n; i++) {
			pthread_join(threads[i], NULL);
			sum += parts[i].sum;
		}
		double rate = (double)BYTES / (now() - start) / 1e9;
		best = rate > best ? rate : best;
	}
	printf("%.2f\n", best);
	return sum == 42;                  /* the sum is used, so the reads happen */
}
