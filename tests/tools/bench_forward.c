/* bench_forward.c - speed of the forward pass alone: no sampling, no daemon, random tokens.
 *
 *   bench_forward MODEL [THREADS] [ISA|best] [ROW ...]
 *
 * One line per row, "name tokens/s" (of CPU time with one thread, else of wall time): prefill-512,
 * prefill-2048 (chunks of 512), decode@0 (128 steps from an empty context), decode@2048 (64 steps),
 * batch-16 (16 sequences, 64-token prompts, 64 steps), batch-16-shared-2000 (16 sequences over one
 * 2,000-token prefix, 32 steps; prefill not counted). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "engine/forward.h"
#include "tests/lib/kv_memory.h"

#define CHUNK 512u
#define N_SEQS 16u
#define TABLE_PAGES 160u

struct bench {
	struct model *m;
	struct forward *f;
	struct kv_memory kv;
	uint32_t tables[N_SEQS][TABLE_PAGES];
	struct step_seq seqs[N_SEQS];
	struct step_row rows[CHUNK];
	float *logits;
	uint32_t random;
};

static clockid_t bench_clock = CLOCK_MONOTONIC;

static double now(void)
{
	struct timespec t;

	clock_gettime(bench_clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int32_t next_token(struct bench *b)
{
	b->random = b->random * 1664525u + 1013904223u;
	return (int32_t)((b->random >> 8) % b->m->config.n_vocab);
}

/* Each sequence gets the first n_shared pages of sequence 0, then its own. */
static void reset(struct bench *b, uint32_t n_seqs, uint32_t n_shared, uint32_t n_pages)
{
	b->kv.n_used = 0;
	for (uint32_t s = 0; s < n_seqs; s++) {
		b->seqs[s].table = b->tables[s];
		for (uint32_t p = 0; p < n_pages; p++)
			b->tables[s][p] =
				p < n_shared && s ? b->tables[0][p] : kv_memory_take(&b->kv);
	}
}

static void step(struct bench *b, uint32_t n_rows)
{
	if (forward_step(b->f, &b->kv.window, b->seqs, N_SEQS, b->rows, n_rows, b->logits) < 0)
		abort();
}

static void prefill(struct bench *b, uint16_t seq, uint32_t first, uint32_t n)
{
	for (uint32_t done = 0, c; done < n; done += c) {
		c = n - done < CHUNK ? n - done : CHUNK;
		for (uint32_t i = 0; i < c; i++)
			b->rows[i] = (struct step_row){ .token = next_token(b),
							.pos = first + done + i,
							.seq = seq,
							.want_logits = done + i + 1 == n };
		step(b, c);
	}
}

static void decode(struct bench *b, uint32_t n_seqs, uint32_t first, uint32_t n_steps)
{
	for (uint32_t i = 0; i < n_steps; i++) {
		for (uint32_t s = 0; s < n_seqs; s++)
			b->rows[s] = (struct step_row){ .token = next_token(b), .pos = first + i,
				.seq = (uint16_t)s, .want_logits = 1 };
		step(b, n_seqs);
	}
}

static double run(struct bench *b, const char *row)
{
	double start;

	if (strcmp(row, "prefill-512") == 0 || strcmp(row, "prefill-2048") == 0) {
		uint32_t n = (uint32_t)atoi(row + 8);
		reset(b, 1, 0, 130);
		start = now();
		prefill(b, 0, 0, n);
		return n / (now() - start);
	}
	if (strcmp(row, "decode@0") == 0 || strcmp(row, "decode@2048") == 0) {
		uint32_t depth = (uint32_t)atoi(row + 7), n = depth ? 64 : 128;
		reset(b, 1, 0, 140);
		if (depth)
			prefill(b, 0, 0, depth);
		start = now();
		decode(b, 1, depth, n);
		return n / (now() - start);
	}
	if (strcmp(row, "batch-16") == 0) {
		reset(b, N_SEQS, 0, 10);
		for (uint16_t s = 0; s < N_SEQS; s++)
			prefill(b, s, 0, 64);
		start = now();
		decode(b, N_SEQS, 64, 64);
		return N_SEQS * 64 / (now() - start);
	}
	if (strcmp(row, "batch-16-shared-2000") == 0) {
		reset(b, N_SEQS, 125, 130);
		prefill(b, 0, 0, 2000);
		start = now();
		decode(b, N_SEQS, 2000, 32);
		return N_SEQS * 32 / (now() - start);
	}
	fprintf(stderr, "bench_forward: no row \"%s\"\n", row);
	exit(2);
}

int main(int argc, char **argv)
{
	static const char *all[] = { "prefill-512", "prefill-2048", "decode@0",
				     "decode@2048", "batch-16",	    "batch-16-shared-2000" };
	static struct bench b;
	struct forward_options o = { .n_threads = argc > 2 ? (unsigned)atoi(argv[2]) : 2,
				     .max_rows = CHUNK,
				     .spin_usec = 200,
				     .isa = argc > 3 && strcmp(argv[3], "best") != 0 ? argv[3]
										     : NULL };
	char err[256] = "";

	/* one thread: its CPU time, so that a busy machine doesn't show */
	if (o.n_threads == 1)
		bench_clock = CLOCK_PROCESS_CPUTIME_ID;
	if (argc < 2) {
		fprintf(stderr, "usage: bench_forward MODEL [THREADS] [ISA|best] [ROW ...]\n");
		return 2;
	}
	if (model_open(argv[1], &b.m, err, sizeof(err)) < 0 ||
	    forward_new(b.m, &o, &b.f, err, sizeof(err)) < 0) {
		fprintf(stderr, "bench_forward: %s\n", err);
		return 1;
	}
	kv_memory_init(&b.kv, &b.m->config, 250);
	b.logits = malloc((size_t)N_SEQS * b.m->config.n_vocab * sizeof(float));
	for (int i = 0; i < (argc > 4 ? argc - 4 : 6); i++) {
		const char *row = argc > 4 ? argv[4 + i] : all[i];
		printf("%-22s %8.1f\n", row, run(&b, row));
		fflush(stdout);
	}
	free(b.logits);
	kv_memory_deinit(&b.kv);
	forward_free(b.f);
	model_close(b.m);
	return 0;
}
