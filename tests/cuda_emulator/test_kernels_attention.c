/* test_kernels_attention.c - kvd_attend_unit_*, kvd_attend_stream_* and kvd_merge against plain C.
 *
 * The reference walks a row's keys one by one in double precision.  Every case runs in the checked
 * emulator: an unordered access, a byte outside the regions or a lost copy fails it.  Page slots behind a
 * sequence's last token hold NaN, so that a key too many shows in the result.
 *
 * Held as equality of bytes: a row attended alone, with others, by units and by a stream. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/cuda/args.h"
#include "include/kvd/geometry.h"
#include "tests/cuda_emulator/cases.h"
#include "tests/lib/suite.h"

#define MAX_SEQS 6u
#define PLANE 1u
#define TOLERANCE 3e-5             /* of the largest |V|: two bf16 terms of weights and queries, f32 sums */

/* Shared bytes of a block: K and V of a unit, high and low terms of the queries, rows padded by 8. */
static uint32_t stream_pairs(uint32_t head_dim) { return head_dim > 128 ? 16 : 64; }
static uint32_t shared_bytes(uint32_t head_dim, uint32_t n_queries)
{
	return (2 * KVD_UNIT_KEYS + 2 * n_queries) * (head_dim + 8) * 2;
}

struct shape {
	uint32_t head_dim, n_kv_heads, group, page_shift;
	uint32_t n_seqs, lengths[MAX_SEQS];
	uint32_t shared_units;     /* units whose pages all sequences share */
};

/* head_dim 64, 80, 128, 256; groups 1 to 16; pages of 16, 32, 64; lengths around pages' and units' edges */
static const struct shape shapes[] = {
	{64, 1, 1, 4, 4, {1, 15, 16, 17}, 0},
	{64, 3, 3, 4, 3, {127, 128, 129}, 0},
	{64, 1, 9, 4, 2, {200, 257}, 0},
	{80, 2, 4, 5, 3, {31, 130, 64}, 0},
	{80, 1, 7, 4, 3, {140, 150, 160}, 1},
	{128, 1, 4, 4, 2, {128, 300}, 0},
	{128, 2, 8, 6, 2, {63, 65}, 0},
	{128, 1, 16, 5, 2, {129, 96}, 0},
	{128, 1, 2, 4, 6, {129, 130, 131, 140, 144, 145}, 1},
	{256, 1, 2, 4, 2, {5, 145}, 0},
	{256, 1, 8, 6, 2, {128, 192}, 1},
	{96, 1, 6, 4, 2, {270, 260}, 2},
};
#define N_SHAPES (sizeof(shapes) / sizeof(shapes[0]))

struct world {
	struct shape s;
	uint32_t n_heads, n_rows, n_entries, n_partials;
	uint8_t *window;
	uint32_t *tables, *q_high, *q_low, *members;
	struct kvd_step *step;
	struct kvd_step_row *rows;
	uint32_t first_entry[MAX_SEQS];
	uint32_t row_seq[64];
	struct kvd_pages pages;
	float *partials, *states, *streamed;
	struct kvd_acts acts;
	size_t acts_bytes;
};

static uint16_t *token_at(const struct world *w, uint32_t seq, uint32_t pos, uint32_t head)
{
	const struct kvd_pages *p = &w->pages;
	uint32_t entry = w->tables[w->first_entry[seq] + (pos >> p->page_shift)];
	struct kvd_geometry g = {.extent_bytes = p->extent_bytes, .plane_bytes = p->plane_bytes,
				 .block_bytes = p->block_bytes, .slot_bits = p->slot_bits};
	uint64_t block = kvd_block_offset(&g, KVD_ENTRY_FRAME(entry), PLANE);
	uint32_t token = pos & ((1u << p->page_shift) - 1u);

	return (uint16_t *)(p->window + block) + ((head << p->page_shift) + token) * w->s.head_dim;
}

/* Pages in frames that do not follow one another, entries as kvd writes them. */
static void pages_make(struct world *w)
{
	uint32_t page_tokens = 1u << w->s.page_shift, total = 0, frame = 0;
	uint32_t shared_pages = w->s.shared_units * KVD_UNIT_KEYS / page_tokens, n_extents;
	size_t window_bytes;

	for (uint32_t i = 0; i < w->s.n_seqs; i++) {
		w->first_entry[i] = total;
		total += (w->s.lengths[i] + page_tokens - 1) / page_tokens;
	}
	w->n_entries = total;
	n_extents = (total + 2) / 3;
	w->pages = (struct kvd_pages){.plane = PLANE, .page_shift = w->s.page_shift, .slot_bits = 2};
	w->pages.block_bytes = 2 * w->s.n_kv_heads * page_tokens * w->s.head_dim * 2;
	w->pages.plane_bytes = 3ull * w->pages.block_bytes;
	w->pages.extent_bytes = 2 * w->pages.plane_bytes + 512;
	window_bytes = n_extents * w->pages.extent_bytes;
	w->pages.window = w->window = case_memory("window", window_bytes, EMULATED_READ);
	for (size_t i = 0; i < window_bytes / 2; i++)
		((uint16_t *)w->window)[i] = 0x7fc1u;
	w->tables = case_memory("tables", total * sizeof(uint32_t), EMULATED_READ);
	w->pages.tables = w->tables;
	for (uint32_t seq = 0; seq < w->s.n_seqs; seq++)
		for (uint32_t p = 0; p < (w->s.lengths[seq] + page_tokens - 1) / page_tokens; p++) {
			/* extents in turn, slots 0 .. 2 of 4 in each */
			uint32_t where = frame / n_extents | (frame % n_extents) << 2;

			if (seq > 0 && p < shared_pages) {
				w->tables[w->first_entry[seq] + p] = w->tables[p];
				continue;
			}
			w->tables[w->first_entry[seq] + p] = KVD_ENTRY(where, KVD_FORMAT_BF16);
			frame++;
		}
	for (uint32_t seq = 0; seq < w->s.n_seqs; seq++)
		for (uint32_t pos = 0; pos < w->s.lengths[seq]; pos++)
			for (uint32_t head = 0; head < 2 * w->s.n_kv_heads; head++)
				for (uint32_t d = 0; d < w->s.head_dim; d++)
					if (seq == 0 || pos / page_tokens >= shared_pages)
						token_at(w, seq, pos, head)[d] =
							(uint16_t)case_bf16(case_uniform(-1.0f, 1.0f));
}

/* Rows: the last `rows_each` positions of each sequence. */
static void world_make(struct world *w, const struct shape *s, uint32_t rows_each, uint64_t seed)
{
	size_t q_words;

	*w = (struct world){.s = *s, .n_heads = s->n_kv_heads * s->group};
	case_seed(seed);
	pages_make(w);
	w->step = case_memory("step", sizeof(*w->step), EMULATED_READ);
	w->rows = case_memory("rows", 64 * sizeof(*w->rows), EMULATED_READ);
	for (uint32_t seq = 0; seq < s->n_seqs; seq++)
		for (uint32_t i = 0; i < rows_each; i++) {
			uint32_t pos = s->lengths[seq] - rows_each + i;

			if (s->lengths[seq] + i < rows_each)
				continue;
			w->row_seq[w->n_rows] = seq;
			w->rows[w->n_rows++] = (struct kvd_step_row){.pos = pos, .table = w->first_entry[seq],
								      .first_partial = w->n_partials};
			w->n_partials += pos / KVD_UNIT_KEYS + 1;
		}
	*w->step = (struct kvd_step){.n_rows = w->n_rows};
	q_words = (size_t)w->n_rows * w->n_heads * s->head_dim / 2;
	w->q_high = case_memory("q_high", q_words * 4, EMULATED_READ);
	w->q_low = case_memory("q_low", q_words * 4, EMULATED_READ);
	for (size_t i = 0; i < 2 * q_words; i++) {
		float q = case_uniform(-1.0f, 1.0f);
		uint32_t high = case_bf16(q);

		((uint16_t *)w->q_high)[i] = (uint16_t)high;
		((uint16_t *)w->q_low)[i] = (uint16_t)case_bf16(q - case_f32_of_bf16(high));
	}
	w->members = case_memory("members", 64 * sizeof(uint32_t), EMULATED_READ);
	w->partials = case_memory("partials", (size_t)w->n_partials * w->n_heads * s->head_dim * 4,
				  EMULATED_READ | EMULATED_WRITE | EMULATED_UNSET);
	w->states = case_memory("states", (size_t)w->n_partials * w->n_heads * 8,
				EMULATED_READ | EMULATED_WRITE | EMULATED_UNSET);
	w->streamed = case_memory("streamed", (size_t)w->n_rows * w->n_heads * s->head_dim * 4,
				  EMULATED_READ | EMULATED_WRITE | EMULATED_UNSET);
	w->acts.n_chunks = (w->n_heads * s->head_dim + KVD_CHUNK_K - 1) / KVD_CHUNK_K;
	w->acts_bytes = (size_t)((w->n_rows + 7) / 8) * w->acts.n_chunks * 32 * 16 * 4;
	w->acts.float_high = case_memory("float_high", w->acts_bytes, EMULATED_WRITE);
	w->acts.float_low = case_memory("float_low", w->acts_bytes, EMULATED_WRITE);
}

static struct kvd_attend_args attend_args(const struct world *w, const void *items)
{
	return (struct kvd_attend_args){.step = w->step, .rows = w->rows, .items = items, .members = w->members,
		.q_high = w->q_high, .q_low = w->q_low, .pages = w->pages, .partials = w->partials,
		.partial_states = w->states, .out = w->streamed, .n_heads = w->n_heads,
		.n_kv_heads = w->s.n_kv_heads, .group = w->s.group, .head_dim = w->s.head_dim};
}

static void kernel_of(char name[64], const char *what, uint32_t head_dim)
{
	snprintf(name, 64, "kvd_attend_%s_%u", what, head_dim);
}

/* All rows by units; shared units for all rows at once where `together`. */
static void run_units(struct world *w, bool together, unsigned grid_x)
{
	struct kvd_unit_item *items = case_memory("items", 512 * sizeof(*items), EMULATED_READ);
	struct kvd_attend_args args = attend_args(w, items);
	char name[64];
	uint32_t n = 0, shared = together ? w->s.shared_units : 0;

	for (uint32_t i = 0; i < w->n_rows; i++)
		w->members[i] = i;
	for (uint32_t unit = 0; unit < shared; unit++)
		for (uint32_t packed = 0; packed < w->n_rows * w->s.group; packed += KVD_TILE_QUERIES) {
			uint32_t left = w->n_rows * w->s.group - packed;

			items[n++] = (struct kvd_unit_item){.first_member = 0, .packed = packed, .unit = unit,
				.n_packed = left < KVD_TILE_QUERIES ? left : KVD_TILE_QUERIES};
		}
	for (uint32_t row = 0; row < w->n_rows; row++)
		for (uint32_t unit = shared; unit <= w->rows[row].pos / KVD_UNIT_KEYS; unit++)
			items[n++] = (struct kvd_unit_item){.first_member = row, .packed = 0, .unit = unit,
							    .n_packed = w->s.group};
	ck_assert_uint_le(n, 512);
	w->step->n_units = n;
	kernel_of(name, "unit", w->s.head_dim);
	CASE_LAUNCH(name, ((struct emulated_dim){grid_x ? grid_x : n, w->s.n_kv_heads, 1}), 128,
		    shared_bytes(w->s.head_dim, KVD_TILE_QUERIES), args);
}

/* Each sequence's rows as streams. */
static void run_streams(struct world *w)
{
	struct kvd_stream_item *items = case_memory("items", 256 * sizeof(*items), EMULATED_READ);
	struct kvd_attend_args args = attend_args(w, items);
	uint32_t pairs = stream_pairs(w->s.head_dim), n = 0;
	char name[64];

	for (uint32_t row = 0, end; row < w->n_rows; row = end) {
		for (end = row; end < w->n_rows && w->row_seq[end] == w->row_seq[row]; end++)
			;
		for (uint32_t packed = 0; packed < (end - row) * w->s.group; packed += pairs) {
			uint32_t left = (end - row) * w->s.group - packed;

			items[n++] = (struct kvd_stream_item){.first_row = row, .packed = packed,
							      .n_packed = left < pairs ? left : pairs};
		}
	}
	w->step->n_streams = n;
	kernel_of(name, "stream", w->s.head_dim);
	CASE_LAUNCH(name, ((struct emulated_dim){n, w->s.n_kv_heads, 1}), 128, shared_bytes(w->s.head_dim, pairs),
		    args);
}

static void run_merge(struct world *w, bool from_streams)
{
	struct kvd_merge_args args = {.step = w->step, .rows = w->rows, .partials = w->partials,
				      .partial_states = w->states, .streamed = w->streamed, .out = w->acts,
				      .n_heads = w->n_heads, .head_dim = w->s.head_dim};

	for (uint32_t row = 0; from_streams && row < w->n_rows; row++)
		w->rows[row].first_partial = KVD_NO_PARTIALS;
	case_memory_use(w->partials, EMULATED_READ);
	case_memory_use(w->states, EMULATED_READ);
	case_memory_use(w->streamed, EMULATED_READ);
	CASE_LAUNCH("kvd_merge", ((struct emulated_dim){w->acts.n_chunks, w->n_rows, 1}), 128, 0, args);
}

/* Element i of a row as the merge rounded it: two bf16 terms in the order of mma fragments. */
static float acts_element(const struct world *w, uint32_t row, uint32_t i)
{
	uint32_t block = row / 8 * w->acts.n_chunks + i / 128, step = i % 128 / 16, k = i % 16;
	uint32_t lane = row % 8 * 4 + k % 8 / 2, word = (block * 32 + lane) * 16 + step * 2 + k / 8;
	uint32_t high = w->acts.float_high[word], low = w->acts.float_low[word];

	return case_f32_of_bf16(k % 2 ? high >> 16 : high & 0xffffu) +
		case_f32_of_bf16(k % 2 ? low >> 16 : low & 0xffffu);
}

static double query_at(const struct world *w, uint32_t row, uint32_t head, uint32_t d)
{
	size_t at = ((size_t)row * w->n_heads + head) * w->s.head_dim + d;

	return (double)case_f32_of_bf16(((uint16_t *)w->q_high)[at]) +
		(double)case_f32_of_bf16(((uint16_t *)w->q_low)[at]);
}

/* One head of a row, key by key. */
static void reference(const struct world *w, uint32_t row, uint32_t head, double *out)
{
	uint32_t seq = w->row_seq[row], n = w->rows[row].pos + 1, kv = head / w->s.group;
	double *scores = calloc(n, sizeof(*scores)), largest = -INFINITY, sum = 0;

	for (uint32_t key = 0; key < n; key++) {
		const uint16_t *k = token_at(w, seq, key, kv);

		for (uint32_t d = 0; d < w->s.head_dim; d++)
			scores[key] += query_at(w, row, head, d) * case_f32_of_bf16(k[d]);
		largest = fmax(largest, scores[key]);
	}
	memset(out, 0, w->s.head_dim * sizeof(*out));
	for (uint32_t key = 0; key < n; key++) {
		double weight = exp2(scores[key] - largest);
		const uint16_t *v = token_at(w, seq, key, w->s.n_kv_heads + kv);

		sum += weight;
		for (uint32_t d = 0; d < w->s.head_dim; d++)
			out[d] += weight * case_f32_of_bf16(v[d]);
	}
	for (uint32_t d = 0; d < w->s.head_dim; d++)
		out[d] /= sum;
	free(scores);
}

static void compare(const struct world *w, const char *what)
{
	double out[256];

	for (uint32_t row = 0; row < w->n_rows; row++)
		for (uint32_t head = 0; head < w->n_heads; head++) {
			reference(w, row, head, out);
			for (uint32_t d = 0; d < w->s.head_dim; d++) {
				float got = acts_element(w, row, head * w->s.head_dim + d);

				ck_assert_msg(fabs(got - out[d]) <= TOLERANCE,
					      "%s, head_dim %u, group %u: row %u (position %u) "
					      "head %u dimension %u: %g, not %g",
					      what, w->s.head_dim, w->s.group, row,
					      w->rows[row].pos, head, d, got, out[d]);
			}
		}
}

START_TEST(test_units)
{
	struct world w;

	for (unsigned o = 0; o < 3; o++) {
		case_order(o);
		world_make(&w, &shapes[_i], 1, 7);
		run_units(&w, true, o == 2 ? 3 : 0);
		run_merge(&w, false);
		compare(&w, "units");
		case_end();
	}
}
END_TEST

START_TEST(test_streams)
{
	struct world w;

	for (unsigned o = 0; o < 3; o++) {
		case_order(o);
		world_make(&w, &shapes[_i], o == 1 ? 5 : 3, 8);
		run_streams(&w);
		run_merge(&w, true);
		compare(&w, "streams");
		case_end();
	}
}
END_TEST

/* Units alone, units together and streams: the same bytes. */
START_TEST(test_same_bytes)
{
	uint8_t *first = NULL;
	struct world w;

	case_order(0);
	for (int way = 0; way < 3; way++) {
		world_make(&w, &shapes[_i], 2, 9);
		if (way < 2)
			run_units(&w, way == 1, 0);
		else
			run_streams(&w);
		run_merge(&w, way == 2);
		if (!first) {
			first = malloc(2 * w.acts_bytes);
			memcpy(first, w.acts.float_high, w.acts_bytes);
			memcpy(first + w.acts_bytes, w.acts.float_low, w.acts_bytes);
		}
		for (uint32_t i = 0; i < w.n_rows * w.n_heads * w.s.head_dim; i++) {
			uint32_t n = w.n_heads * w.s.head_dim;
			float now = acts_element(&w, i / n, i % n), before;
			uint32_t *high = w.acts.float_high, *low = w.acts.float_low;

			w.acts.float_high = (uint32_t *)first;
			w.acts.float_low = (uint32_t *)(first + w.acts_bytes);
			before = acts_element(&w, i / n, i % n);
			w.acts.float_high = high;
			w.acts.float_low = low;
			ck_assert_msg(memcmp(&now, &before, sizeof(now)) == 0,
				      "head_dim %u, group %u, way %d: row %u element %u: %a, not %a", w.s.head_dim,
				      w.s.group, way, i / n, i % n, now, before);
		}
		case_end();
	}
	free(first);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("cuda_kernels_attention");
	TCase *tcase = tcase_create("cuda_kernels_attention");
	/* the short matrix takes every third shape of each test, KVD_CUDA_LONG all */
	int step = getenv("KVD_CUDA_LONG") ? 1 : 3;

	tcase_set_timeout(tcase, 300);
	for (int i = 0; i < (int)N_SHAPES; i += step) {
		tcase_add_loop_test(tcase, test_units, i, i + 1);
		tcase_add_loop_test(tcase, test_streams, (i + step / 2) % (int)N_SHAPES,
				    (i + step / 2) % (int)N_SHAPES + 1);
		tcase_add_loop_test(tcase, test_same_bytes, (i + step - 1) % (int)N_SHAPES,
				    (i + step - 1) % (int)N_SHAPES + 1);
	}
	suite_add_tcase(suite, tcase);
	return suite_result(suite);
}
