/* gpu_bench.c - decode attention beside the fastest read of the same bytes.  gpu_bench read|attend [small]
 *
 *   read     probe_read over more bytes than any cache holds: the read ceiling, what it read is checked
 *   attend   kvd_attend_unit_128 over kvd's pages, the engine's own kernel and launch: 32 sequences of 4,096 tokens,
 *            32 heads on 8 KV heads of 128; pages lie in a shuffled order; every value was written by us, not zeros
 * Times are of events around each launch, medians; bytes are counted (K and V once), nothing else is. */
#include "tests/gpu/gpu.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cuda/args.h"
#include "engine/cuda/device.h"
#include "tests/gpu/probe.h"

#define MUST(call, ...) gpu_must(#call, gpu_driver.call(__VA_ARGS__))
#define REPEATS 21
#define WARM 3
#define HEAD_DIM 128u
#define KV_HEADS 8u
#define HEADS 32u
#define PAGE_TOKENS 16u
#define BLOCK_BYTES (2u * KV_HEADS * PAGE_TOKENS * HEAD_DIM * 2u)

static int compare_floats(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

static void print_times(const char *what, float *msec, unsigned n, uint64_t bytes)
{
	qsort(msec, n, sizeof(*msec), compare_floats);
	printf("{\"what\": \"%s\", \"bytes\": %llu, \"msec_p50\": %.4f, \"msec_least\": %.4f, \"msec_most\": %.4f, "
	       "\"gigabytes_per_second\": %.1f", what, (unsigned long long)bytes, msec[n / 2], msec[0], msec[n - 1],
	       (double)bytes / (double)msec[n / 2] / 1e6);
}

static uint64_t alloc(uint64_t bytes)
{
	uint64_t at;

	MUST(cuMemAlloc, &at, bytes);
	return at;
}

/* Not zeros, which some memory moves faster. */
static uint32_t *noise(uint64_t words, uint32_t mask, uint32_t set)
{
	uint32_t *to = malloc(words * 4), state = 12345;

	if (!to)
		gpu_fail("no memory for %llu bytes", (unsigned long long)words * 4);
	for (uint64_t i = 0; i < words; i++) {
		state = state * 1664525u + 1013904223u;
		to[i] = ((state ^ state >> 15) & mask) | set;
	}
	return to;
}

static int bench_read(bool small)
{
	uint64_t bytes = small ? 4u << 20 : 2ull << 30, n = bytes / 4;
	float msec[REPEATS];
	struct driver_event *from, *to;
	unsigned blocks = (unsigned)gpu_facts.multiprocessors * 8, repeats = small ? 3 : REPEATS;
	uint32_t *words = noise(n, 0xffffffffu, 0), *sums, expected = 0, found = 0;
	uint64_t at = alloc(bytes), out = alloc(blocks * 256 * 4);
	struct probe_read_args a = { (void *)(uintptr_t)at, (void *)(uintptr_t)out, n / 4 };
	void *parameters[] = { &a };
	struct driver_function *function = gpu_kernel("probe_read");

	MUST(cuMemcpyHtoD, at, words, bytes);
	MUST(cuEventCreate, &from, 0);
	MUST(cuEventCreate, &to, 0);
	for (unsigned i = 0; i < repeats + WARM; i++) {
		MUST(cuEventRecord, from, NULL);
		MUST(cuLaunchKernel, function, blocks, 1, 1, 256, 1, 1, 0, NULL, parameters, NULL);
		MUST(cuEventRecord, to, NULL);
		MUST(cuEventSynchronize, to);
		if (i >= WARM)
			MUST(cuEventElapsedTime, &msec[i - WARM], from, to);
	}
	sums = malloc(blocks * 256 * 4);
	MUST(cuMemcpyDtoH, sums, out, blocks * 256 * 4);
	for (uint64_t i = 0; i < n; i++)
		expected ^= words[i];
	for (unsigned i = 0; i < blocks * 256; i++)
		found ^= sums[i];
	if (found != expected)
		gpu_fail("probe_read read other bytes than were written");
	free(sums);
	free(words);
	print_times("read", msec, repeats, bytes);
	printf("}\n");
	return 0;
}

/* ---- decode attention ---- */

struct shape { uint32_t n_seqs, n_tokens, layers; };

/* Everything small that the kernel reads, in one image. */
struct plan {
	struct kvd_step step;
	struct kvd_step_row *rows;
	struct kvd_unit_item *items;
	uint32_t *members, *tables;
	uint32_t n_items, n_entries;
};

static struct plan plan_of(const struct shape *s)
{
	uint32_t units = s->n_tokens / KVD_UNIT_KEYS, pages = s->n_tokens / PAGE_TOKENS, state = 99;
	struct plan p = { .n_items = s->n_seqs * units, .n_entries = s->n_seqs * pages };

	p.step = (struct kvd_step){ .n_rows = s->n_seqs, .n_units = p.n_items };
	p.rows = calloc(s->n_seqs, sizeof(*p.rows));
	p.items = calloc(p.n_items, sizeof(*p.items));
	p.members = calloc(s->n_seqs, sizeof(*p.members));
	p.tables = calloc(p.n_entries, sizeof(*p.tables));
	for (uint32_t i = 0; i < s->n_seqs; i++) {
		p.rows[i] = (struct kvd_step_row){ .pos = s->n_tokens - 1, .table = i * pages,
						   .first_partial = i * units };
		p.members[i] = i;
		for (uint32_t unit = 0; unit < units; unit++)
			p.items[i * units + unit] = (struct kvd_unit_item){ .first_member = i,
				.n_packed = HEADS / KV_HEADS, .unit = unit };
	}
	for (uint32_t i = 0; i < p.n_entries; i++)
		p.tables[i] = i;
	for (uint32_t i = p.n_entries; i-- > 1;) {
		state = state * 1664525u + 1013904223u;
		uint32_t other = (state >> 8) % (i + 1), swap = p.tables[i];
		p.tables[i] = p.tables[other];
		p.tables[other] = swap;
	}
	return p;
}

static void *placed(const void *from, uint64_t bytes)
{
	uint64_t at = alloc(bytes);

	MUST(cuMemcpyHtoD, at, from, bytes);
	return (void *)(uintptr_t)at;
}

static float as_float(uint32_t bf16)
{
	float f;

	bf16 <<= 16;
	memcpy(&f, &bf16, 4);
	return f;
}

/* One (sequence, head, unit) computed in double, against what the kernel left. */
static double distance(const struct plan *p, const uint16_t *kv, const uint16_t *q, const float *partials,
		       const float *states, uint32_t seq, uint32_t head, uint32_t unit)
{
	uint32_t kv_head = head / (HEADS / KV_HEADS), partial = p->rows[seq].first_partial + unit;
	double score[KVD_UNIT_KEYS], out[HEAD_DIM] = { 0 }, sum = 0, top = -INFINITY, worst = 0, largest = 0;
	const uint16_t *k[KVD_UNIT_KEYS], *v[KVD_UNIT_KEYS];

	for (uint32_t key = 0; key < KVD_UNIT_KEYS; key++) {
		uint32_t pos = unit * KVD_UNIT_KEYS + key, frame = p->tables[p->rows[seq].table + pos / PAGE_TOKENS];
		const uint16_t *block = kv + (uint64_t)frame * BLOCK_BYTES / 2;

		k[key] = block + (kv_head * PAGE_TOKENS + pos % PAGE_TOKENS) * HEAD_DIM;
		v[key] = block + ((KV_HEADS + kv_head) * PAGE_TOKENS + pos % PAGE_TOKENS) * HEAD_DIM;
		score[key] = 0;
		for (uint32_t d = 0; d < HEAD_DIM; d++)
			score[key] += (double)as_float(q[(seq * HEADS + head) * HEAD_DIM + d]) *
				      (double)as_float(k[key][d]);
		top = score[key] > top ? score[key] : top;
	}
	for (uint32_t key = 0; key < KVD_UNIT_KEYS; key++) {
		double weight = exp2(score[key] - top);
		sum += weight;
		for (uint32_t d = 0; d < HEAD_DIM; d++)
			out[d] += weight * (double)as_float(v[key][d]);
	}
	const float *found = partials + ((uint64_t)partial * HEADS + head) * HEAD_DIM;
	double found_sum = (double)states[((uint64_t)partial * HEADS + head) * 2 + 1];
	for (uint32_t d = 0; d < HEAD_DIM; d++) {
		double error = fabs((double)found[d] / found_sum - out[d] / sum);
		worst = error > worst || isnan(error) ? error : worst;
		largest = fabs(out[d] / sum) > largest ? fabs(out[d] / sum) : largest;
	}
	return worst / largest;
}

static void *fetched(const void *from, uint64_t bytes)
{
	void *to = malloc(bytes);

	MUST(cuMemcpyDtoH, to, (uint64_t)(uintptr_t)from, bytes);
	return to;
}

static int bench_attend(bool small)
{
	struct shape s = small ? (struct shape){ 2, 256, 2 } : (struct shape){ 32, 4096, 4 };
	struct plan p = plan_of(&s);
	uint32_t n_partials = p.n_items, repeats = small ? 3 : REPEATS;
	uint64_t plane_bytes = (uint64_t)p.n_entries * BLOCK_BYTES, q_words = (uint64_t)s.n_seqs * HEADS * HEAD_DIM / 2;
	struct device device;
	struct driver_function *function;
	float msec[REPEATS];
	struct driver_event *from, *to;

	if (device_open(&device, 0) < 0 ||
	    device_function(&device, "kvd_attend_unit_128", kvd_unit_shared(HEAD_DIM), &function) < 0)
		gpu_fail("%s", device.error);
	/* bf16 between 1 and 2, and -1 and -2, in K and V; queries are small: no weight takes all */
	uint32_t *kv = noise(plane_bytes / 4, 0x807f807fu, 0x3f803f80u), *q = noise(q_words, 0x807f807fu, 0x3d003d00u);
	uint64_t window = alloc(plane_bytes * s.layers), partial_bytes = (uint64_t)n_partials * HEADS * HEAD_DIM * 4;
	for (uint32_t layer = 0; layer < s.layers; layer++)
		MUST(cuMemcpyHtoD, window + layer * plane_bytes, kv, plane_bytes);
	struct kvd_attend_args a = {
		.step = placed(&p.step, sizeof(p.step)), .rows = placed(p.rows, s.n_seqs * sizeof(*p.rows)),
		.items = placed(p.items, p.n_items * sizeof(*p.items)), .members = placed(p.members, s.n_seqs * 4),
		.q_high = placed(q, q_words * 4), .q_low = (void *)(uintptr_t)alloc(q_words * 4),
		.pages = { .window = (void *)(uintptr_t)window, .tables = placed(p.tables, p.n_entries * 4),
			   .extent_bytes = plane_bytes * s.layers, .plane_bytes = plane_bytes,
			   .block_bytes = BLOCK_BYTES, .slot_bits = 24, .page_shift = 4 },
		.partials = (void *)(uintptr_t)alloc(partial_bytes),
		.partial_states = (void *)(uintptr_t)alloc((uint64_t)n_partials * HEADS * 8),
		.n_heads = HEADS, .n_kv_heads = KV_HEADS, .group = HEADS / KV_HEADS, .head_dim = HEAD_DIM,
	};
	MUST(cuMemsetD32Async, (uint64_t)(uintptr_t)a.q_low, 0, q_words, device.stream);
	/* poison: a word that the kernel leaves is found */
	MUST(cuMemsetD32Async, (uint64_t)(uintptr_t)a.partials, 0x7fc00000u, partial_bytes / 4, device.stream);
	/* copies from pageable memory may still be on their way, and the engine's stream waits for no other */
	MUST(cuCtxSynchronize);
	MUST(cuEventCreate, &from, 0);
	MUST(cuEventCreate, &to, 0);
	for (uint32_t i = 0; i < repeats + WARM; i++) {
		a.pages.plane = i % s.layers;      /* another layer each time: no cache holds it */
		MUST(cuEventRecord, from, device.stream);
		if (device_launch(&device, function, (struct device_shape){ p.n_items, KV_HEADS, 128,
				  kvd_unit_shared(HEAD_DIM) }, &a) < 0)
			gpu_fail("%s", device.error);
		MUST(cuEventRecord, to, device.stream);
		MUST(cuEventSynchronize, to);
		if (i >= WARM)
			MUST(cuEventElapsedTime, &msec[i - WARM], from, to);
	}
	float *partials = fetched(a.partials, partial_bytes);
	float *states = fetched(a.partial_states, (uint64_t)n_partials * HEADS * 8);
	double worst = 0;
	for (uint32_t i = 0; i < 64; i++) {
		double d = distance(&p, (const uint16_t *)kv, (const uint16_t *)q, partials, states, i % s.n_seqs,
				    i * 7 % HEADS, i * 5 % (s.n_tokens / KVD_UNIT_KEYS));
		worst = d > worst || isnan(d) ? d : worst;
	}
	print_times("attend", msec, repeats, plane_bytes);
	printf(", \"sequences\": %u, \"tokens\": %u, \"distance\": %.3g}\n", s.n_seqs, s.n_tokens, worst);
	fflush(stdout);
	if (!(worst < 3e-5))
		gpu_fail("kvd_attend_unit_128 is %.3g from the same in double precision, at most 3e-5", worst);
	device_close(&device);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	bool small = argc > 2 && !strcmp(argv[2], "small");

	gpu_open(true);
	if (!strcmp(what, "read"))
		return bench_read(small);
	if (!strcmp(what, "attend"))
		return bench_attend(small);
	gpu_fail("gpu_bench read|attend [small]");
}
