/* bench_core.c - page operations per second of the memory core alone, on one core.
 *
 *     bench_core ops FRAMES [SECONDS]       one row: see print_ops()
 *     bench_core adopt FRAMES SEQUENCES [TIMES]     one row: core_adopt() of a full book, the best of TIMES
 *
 * A page operation is one page opened (GROW), sealed, found in the index and held (OPEN), or let go
 * (CLOSE).  The load, after the pool has been filled: in turns a new sequence of 64 pages (a prompt
 * of 32 pages in one piece, then 32 pages one at a time, as decoding does) and one that comes
 * again, chosen at random among a known three quarters of the pool; what is no longer there is computed by
 * nobody, and the latest sequence takes its place among the known.  32 sequences are open at any
 * time.  New pages take the place of the coldest, so reclaim, retirement and scrub are in the time.
 *
 * The shell here performs actions at once: jobs are answered, stamps too.  Its tokens are made
 * outside of the time measured.  After the run: a bare random walk, each step's address depending
 * on the last load, over the bytes of the book that were touched.
 *
 * Time is this thread's processor time: others may use the machine, though they cost it cache.
 *
 * Linked with a core that tells of every store (bench_core_steps) it counts instead: stores and
 * distinct cache lines stored to, per page operation. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kvd/core/core.h"

enum {
	PLANES = 4, BLOCK_BYTES = 16384, PAGE_BYTES = PLANES * BLOCK_BYTES,
	EXTENT_BYTES = 64 << 20, FRAMES_PER_EXTENT = EXTENT_BYTES / PAGE_BYTES,
	PAGES = 64, PROMPT_PAGES = 32, TOKENS = PAGES * KVD_PAGE_TOKENS, OPEN_AT_ONCE = 16,
	JOBS = 1 << 16,
};

struct bench {
	struct core *core;
	struct core_config config;
	size_t book_bytes;
	uint64_t now_usec, steps, n_ops, rng;
	struct core_action jobs[JOBS];
	uint32_t jobs_head, jobs_tail;
	uint32_t populates[JOBS], n_populates;
	uint32_t acks[JOBS], n_acks;
	bool stamp;
	struct kvd_cqe last;
	uint64_t n_completions;
	int32_t tokens[2][OPEN_AT_ONCE][TOKENS + 1];
	uint64_t born[OPEN_AT_ONCE];           /* numbers of the sequences whose tokens these are */
	uint64_t next_sequence;
	uint64_t *known, n_known;              /* numbers of sequences that come again */
	uint64_t hits, lookups;
	double seconds;                        /* measured */
};

/* ---- counting ---- */
static uint64_t n_stores, n_lines;
static uint64_t event_number = 1;
static struct { uint64_t line, event; } seen_lines[1 << 16];

void core_book_hook(const void *address, size_t size);
void core_book_hook(const void *address, size_t size)
{
	n_stores += (size + 7) / 8;
	for (uint64_t line = (uintptr_t)address / 64; line <= ((uintptr_t)address + size - 1) / 64; line++) {
		uint64_t at = line * 0x9e3779b97f4a7c15ull >> 48;

		while (seen_lines[at].event == event_number && seen_lines[at].line != line)
			at = (at + 1) % (1 << 16);
		n_lines += seen_lines[at].event != event_number;
		seen_lines[at].event = event_number;
		seen_lines[at].line = line;
	}
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t mix(uint64_t x)                        /* splitmix64, Steele et al. 2014 */
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/* ---- the shell ---- */

static void step(struct bench *b, const struct core_event *event)
{
	struct core_action action;

	event_number++;
	core_step(b->core, event, ++b->now_usec);
	while (core_next_action(b->core, &action)) {
		switch (action.type) {
		case CORE_ACT_COMPLETE:
			if (action.cqe.verb < KVD_EV_PREEMPT && action.cqe.verb != KVD_EXTENT_ACK) {
				b->last = action.cqe;
				b->n_completions++;
			}
			break;
		case CORE_ACT_MOVE: b->jobs[b->jobs_head++ % JOBS] = action; break;
		case CORE_ACT_POPULATE: b->populates[b->n_populates++ % JOBS] = action.populate.extent; break;
		case CORE_ACT_MAP: b->acks[b->n_acks++ % JOBS] = action.map.extent << 1 | 1; break;
		case CORE_ACT_UNMAP: b->acks[b->n_acks++ % JOBS] = action.map.extent << 1; break;
		case CORE_ACT_STAMP: b->stamp = true; break;
		case CORE_ACT_ATTACHED:
			if (action.attached.status) {
				fprintf(stderr, "bench_core: attach: status %u\n", action.attached.status);
				exit(1);
			}
			break;
		default: break;
		}
	}
}

/* Answer what the core waits for, until it waits for nothing. */
static void answer(struct bench *b)
{
	static struct core_event event;

	while (b->stamp || b->jobs_head != b->jobs_tail || b->n_populates || b->n_acks) {
		if (b->jobs_head != b->jobs_tail) {
			event.type = CORE_EV_MOVED;
			event.engine = CORE_NONE;
			event.moved.job = b->jobs[b->jobs_tail++ % JOBS].move.job;
			event.moved.ok = true;
			event.moved.differs = false;
		} else if (b->n_acks) {
			uint32_t ack = b->acks[--b->n_acks];

			event.type = CORE_EV_SUBMIT;
			event.engine = 0;
			event.submit.sqe = (struct kvd_sqe){ .verb = KVD_EXTENT_ACK, .other = ack >> 1,
							     .count = ack & 1 };
			event.submit.tokens = NULL;
			event.submit.n_tokens = 0;
		} else if (b->n_populates) {
			event.type = CORE_EV_POPULATED;
			event.engine = CORE_NONE;
			event.populated.extent = b->populates[--b->n_populates];
		} else {
			b->stamp = false;
			event.type = CORE_EV_STAMP;
			event.engine = CORE_NONE;
			for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
				event.epoch.begun[i] = i ? 0 : b->steps;
				event.epoch.done[i] = i ? UINT64_MAX : b->steps;
			}
		}
		step(b, &event);
	}
}

static struct kvd_cqe submit(struct bench *b, const struct kvd_sqe *sqe, const int32_t *tokens, uint32_t n)
{
	static struct core_event event;
	uint64_t before = b->n_completions;

	event.type = CORE_EV_SUBMIT;
	event.engine = 0;
	event.submit.sqe = *sqe;
	event.submit.tenant = 0;
	event.submit.tokens = tokens;
	event.submit.n_tokens = n;
	step(b, &event);
	answer(b);
	if (core_next_tick_usec(b->core) <= b->now_usec) {
		struct core_event tick = { .type = CORE_EV_TICK, .engine = CORE_NONE };

		step(b, &tick);
		answer(b);
	}
	for (int i = 0; b->n_completions == before && i < 1000; i++) {
		struct core_event tick = { .type = CORE_EV_TICK, .engine = CORE_NONE };

		b->now_usec += 1000;
		step(b, &tick);
		answer(b);
	}
	if (b->n_completions == before || b->last.status) {
		fprintf(stderr, "bench_core: verb %u of slot %u: status %u, answered %d\n", sqe->verb, sqe->slot,
			b->last.status, b->n_completions != before);
		exit(1);
	}
	return b->last;
}

static bool open_core(struct bench *b, uint64_t frames)
{
	uint64_t extents = (frames + FRAMES_PER_EXTENT - 1) / FRAMES_PER_EXTENT;
	struct core_event event = { .type = CORE_EV_TENANT, .engine = CORE_NONE };
	int fd = memfd_create("book", MFD_CLOEXEC);
	void *book;

	b->config = (struct core_config){
		.pool_bytes = extents * EXTENT_BYTES, .extent_bytes = EXTENT_BYTES, .page_bytes_min = PAGE_BYTES,
		.tenants_max = 16, .seqs_max = 4096, .holds_max = 4096 * (PAGES + 1),
		.hash_key = { 1, 2 }, .promise_usec = 1000000,
	};
	b->book_bytes = core_book_bytes(&b->config);
	if (!b->book_bytes || fd < 0 || ftruncate(fd, (off_t)b->book_bytes) < 0)
		return false;
	book = mmap(NULL, b->book_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	close(fd);
	if (book == MAP_FAILED)
		return false;
	b->core = core_init(book, &b->config);
	strcpy(event.tenant.name, "t");
	strcpy(event.tenant.domain, "t");
	event.tenant.sharing = CORE_MERGE;
	step(b, &event);
	event = (struct core_event){ .type = CORE_EV_ATTACH, .engine = CORE_NONE };
	strcpy(event.attach.name, "e");
	strcpy(event.attach.model, "m");
	strcpy(event.attach.numerics, "n");
	event.attach.layout = event.attach.kv_format = 1;
	event.attach.n_planes = PLANES;
	event.attach.block_bytes = BLOCK_BYTES;
	event.attach.max_seqs = 4096 - 1;
	event.attach.max_pages = PAGES + 1;
	step(b, &event);
	for (uint64_t i = 0; i < extents + 8; i++) {
		event = (struct core_event){ .type = CORE_EV_TICK, .engine = CORE_NONE };
		b->now_usec += 1000;
		step(b, &event);
		answer(b);
	}
	return true;
}

/* ---- the load ---- */

static void make_tokens(uint64_t sequence, int32_t *ret)
{
	uint64_t x = mix(sequence);

	for (uint32_t i = 0; i <= TOKENS; i += 2) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		ret[i] = (int32_t)(x >> 40);
		if (i < TOKENS)
			ret[i + 1] = (int32_t)(x >> 33 & 0x7fffff);
	}
}

static void open_new(struct bench *b, uint32_t slot, const int32_t *tokens)
{
	struct kvd_sqe sqe = { .verb = KVD_SEQ_OPEN, .slot = slot, .n_tokens = PROMPT_PAGES * KVD_PAGE_TOKENS };

	submit(b, &sqe, tokens, sqe.n_tokens);
	sqe = (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = slot, .want = PROMPT_PAGES };
	submit(b, &sqe, NULL, 0);
	sqe = (struct kvd_sqe){ .verb = KVD_SEQ_SEAL, .slot = slot, .count = PROMPT_PAGES };
	submit(b, &sqe, tokens, PROMPT_PAGES * KVD_PAGE_TOKENS);
	for (uint32_t page = PROMPT_PAGES; page < PAGES; page++) {
		b->steps++;
		sqe = (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .slot = slot, .page = page, .want = page + 1 };
		submit(b, &sqe, NULL, 0);
		sqe = (struct kvd_sqe){ .verb = KVD_SEQ_SEAL, .slot = slot, .page = page, .count = 1 };
		submit(b, &sqe, tokens + page * KVD_PAGE_TOKENS, KVD_PAGE_TOKENS);
	}
	b->n_ops += 2 * PAGES;
}

/* Returns how many pages of it were there. */
static uint32_t open_again(struct bench *b, uint32_t slot, const int32_t *tokens)
{
	struct kvd_sqe sqe = { .verb = KVD_SEQ_OPEN, .slot = slot, .n_tokens = TOKENS + 1 };
	struct kvd_cqe cqe = submit(b, &sqe, tokens, sqe.n_tokens);

	b->lookups += PAGES;
	b->hits += cqe.cached;
	b->n_ops += cqe.cached;
	return cqe.cached;
}

static void close_one(struct bench *b, uint32_t slot, uint32_t pages)
{
	struct kvd_sqe sqe = { .verb = KVD_SEQ_CLOSE, .slot = slot };

	submit(b, &sqe, NULL, 0);
	b->n_ops += pages;
}

/* Sequences 0 .. n-1, closed again: the pool is full, all of it cold. */
static void fill(struct bench *b, uint64_t n)
{
	for (; b->next_sequence < n; b->next_sequence++) {
		make_tokens(b->next_sequence, b->tokens[0][0]);
		open_new(b, 0, b->tokens[0][0]);
		close_one(b, 0, PAGES);
	}
}

/* OPEN_AT_ONCE new ones and as many known ones. */
static void round_of_load(struct bench *b)
{
	uint32_t known[OPEN_AT_ONCE], cached[OPEN_AT_ONCE];
	double start;

	for (uint32_t i = 0; i < OPEN_AT_ONCE; i++) {
		b->rng = mix(b->rng);
		known[i] = (uint32_t)(b->rng % b->n_known);
		make_tokens(b->known[known[i]], b->tokens[1][i]);
		make_tokens(b->next_sequence + i, b->tokens[0][i]);
	}
	start = seconds();
	for (uint32_t i = 0; i < OPEN_AT_ONCE; i++) {
		open_new(b, 2 * i, b->tokens[0][i]);
		cached[i] = open_again(b, 2 * i + 1, b->tokens[1][i]);
	}
	for (uint32_t i = 0; i < OPEN_AT_ONCE; i++) {
		close_one(b, 2 * i, PAGES);
		close_one(b, 2 * i + 1, cached[i]);
	}
	b->seconds += seconds() - start;
	for (uint32_t i = 0; i < OPEN_AT_ONCE; i++)
		if (cached[i] < PAGES)
			b->known[known[i]] = b->next_sequence + i;
	b->next_sequence += OPEN_AT_ONCE;
}

/* ---- results ---- */

static uint64_t resident_bytes(const struct bench *b)
{
	uint64_t page = 4096, n = (b->book_bytes + page - 1) / page, chunk = 1 << 20, resident = 0;
	unsigned char *vector = malloc(chunk);

	for (uint64_t i = 0; i < n; i += chunk) {
		uint64_t k = n - i < chunk ? n - i : chunk;

		if (mincore((char *)b->core + i * page, k * page, vector) == 0)
			for (uint64_t j = 0; j < k; j++)
				resident += vector[j] & 1;
	}
	free(vector);
	return resident * page;
}

/* Nanoseconds of one step of a random walk over the touched pages of the book: loads only. */
static double random_walk(const struct bench *b, uint64_t *ret_bytes)
{
	uint64_t page = 4096, n = (b->book_bytes + page - 1) / page, chunk = 1 << 20, touched = 0;
	uint64_t want = resident_bytes(b) / page, steps = 4000000, x = 88172645463325252u;
	const uint64_t **pages = malloc(want * sizeof(*pages));
	unsigned char *vector = malloc(chunk);
	double start;

	for (uint64_t i = 0; i < n; i += chunk) {
		uint64_t k = n - i < chunk ? n - i : chunk;

		if (mincore((char *)b->core + i * page, k * page, vector) == 0)
			for (uint64_t j = 0; j < k && touched < want; j++)
				if (vector[j] & 1)
					pages[touched++] = (const uint64_t *)((char *)b->core + (i + j) * page);
	}
	start = seconds();
	for (uint64_t i = 0; i < steps; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		x += pages[(x >> 24) % touched][(x >> 8 & 63) * 8] & 1;
	}
	start = (seconds() - start) * 1e9 / (double)steps;
	if (x == 42)
		printf("\n");
	free(vector);
	free(pages);
	*ret_bytes = touched * page;
	return start;
}

static int run_ops(uint64_t frames, double limit)
{
	struct bench *b = calloc(1, sizeof(*b));
	uint64_t sequences = frames / PAGES, walk_bytes, ops;
	double walk;

	if (!b || !open_core(b, frames)) {
		fprintf(stderr, "bench_core: no book for %" PRIu64 " frames\n", frames);
		return 1;
	}
	fill(b, sequences);
	/* The other quarter is replaced while we look, and whatever has not come again for long. */
	b->n_known = sequences * 3 / 4;
	b->known = malloc(b->n_known * sizeof(*b->known));
	for (uint64_t i = 0; i < b->n_known; i++)
		b->known[i] = sequences - 1 - i;
	/* Once through the pool, at most: until what is cached is what comes again. */
	for (uint64_t i = 0; i < 4 * sequences / OPEN_AT_ONCE && i < 2048; i++)
		round_of_load(b);
	b->n_ops = b->hits = b->lookups = n_stores = n_lines = 0;
	b->seconds = 0;
	while (b->seconds < limit)
		round_of_load(b);
	ops = b->n_ops;
	walk = random_walk(b, &walk_bytes);
	printf("{\"frames\": %" PRIu64 ", \"ops\": %" PRIu64 ", \"seconds\": %.3f, \"ops_per_second\": %.0f, "
	       "\"ns_per_op\": %.1f, \"hit_percent\": %.1f, \"book_bytes\": %" PRIu64
	       ", \"bytes_per_frame\": %.1f, \"walk_ns\": %.1f, \"stores_per_op\": %.3f, \"lines_per_op\": %.3f}\n",
	       frames, ops, b->seconds, (double)ops / b->seconds, b->seconds * 1e9 / (double)ops,
	       100.0 * (double)b->hits / (double)b->lookups, walk_bytes, (double)walk_bytes / (double)frames, walk,
	       (double)n_stores / (double)ops, (double)n_lines / (double)ops);
	munmap(b->core, b->book_bytes);
	free(b->known);
	free(b);
	return 0;
}

static int run_adopt(uint64_t frames, uint64_t live, int times)
{
	struct bench *b = calloc(1, sizeof(*b));
	char why[CORE_WHY_MAX];
	double start, best = 1e9;

	if (!b || !open_core(b, frames)) {
		fprintf(stderr, "bench_core: no book for %" PRIu64 " frames\n", frames);
		return 1;
	}
	fill(b, frames / PAGES);
	for (uint32_t i = 0; i < live; i++) {
		make_tokens(b->next_sequence++, b->tokens[0][0]);
		open_new(b, i, b->tokens[0][0]);
	}
	for (int i = 0; i < times; i++) {
		start = seconds();
		if (!core_adopt(b->core, b->book_bytes, &b->config, why)) {
			fprintf(stderr, "bench_core: not adopted: %s\n", why);
			return 1;
		}
		start = seconds() - start;
		best = start < best ? start : best;
	}
	printf("{\"frames\": %" PRIu64 ", \"live\": %" PRIu64 ", \"adopt_ms\": %.1f, \"book_bytes\": %" PRIu64 "}\n",
	       frames, live, best * 1e3, resident_bytes(b));
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t frames = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;

	if (argc >= 3 && !strcmp(argv[1], "ops") && frames >= 4096)
		return run_ops(frames, argc > 3 ? atof(argv[3]) : 2);
	if (argc >= 4 && !strcmp(argv[1], "adopt") && frames >= 4096)
		return run_adopt(frames, strtoull(argv[3], NULL, 10), argc > 4 ? atoi(argv[4]) : 3);
	fprintf(stderr, "usage: bench_core ops FRAMES [SECONDS] | adopt FRAMES SEQUENCES [TIMES]\n");
	return 2;
}
