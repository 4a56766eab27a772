/* attention.c - who attends to what in a step; see attention.h.
 *
 * Owns the plan (items, members), the partials of rows in block mode and each thread's running
 * output.  The plan is written by the step's caller before the team runs and only read inside.
 * Nothing is allocated after attention_new(): rows whose partials don't fit are streamed. */
#include "engine/attention.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_MODE_ROWS 4u        /* a sequence with more rows in a step streams */
#define STREAM_QUERIES 96u        /* queries that share a walk: K and V of a block stay in L2 */
#define PARTIAL_BLOCKS 2048u      /* (row, block) pairs in block mode: 16 rows at 16,384 tokens */
#define NO_PARTIALS UINT32_MAX

struct item {
	uint32_t first, n;        /* stream: rows; block: slice of members */
	uint32_t block;           /* block mode: index of the block; stream: STREAMS */
};
#define STREAMS UINT32_MAX

struct attention {
	const struct cpu_kernels *k;
	uint32_t n_heads, n_kv_heads, group, head_dim;
	uint32_t part_stride;     /* floats of a partial, whole cache lines */
	uint32_t stream_rows;     /* rows of a stream item */
	uint32_t max_rows;

	const struct step_seq *seqs;
	const struct step_row *rows;
	struct item *items;       /* (PARTIAL_BLOCKS + max_rows) */
	uint32_t n_items;
	uint32_t *members;        /* (PARTIAL_BLOCKS) rows of block items */
	uint32_t n_members;
	uint32_t *first_partial;  /* (max_rows) a row's partials, or NO_PARTIALS */
	uint32_t *block_rows;     /* (max_rows) rows in block mode */
	uint32_t n_block_rows;

	float *partials;          /* (PARTIAL_BLOCKS, n_heads, part_stride) */
	float *running; /* (n_threads, stream_rows * group + ATTN_TILE_QUERIES, part_stride) */
	size_t running_floats;    /* of one thread */
};

struct attention *attention_new(const struct model_config *c, const struct cpu_kernels *k,
				unsigned n_threads, unsigned max_rows)
{
	struct attention *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->k = k;
	a->n_heads = c->n_heads;
	a->n_kv_heads = c->n_kv_heads;
	a->group = c->n_heads / c->n_kv_heads;
	a->head_dim = c->head_dim;
	a->part_stride = (c->head_dim + 2u + 15u) & ~15u;
	a->stream_rows = a->group >= STREAM_QUERIES ? 1u : STREAM_QUERIES / a->group;
	a->max_rows = max_rows;
	a->running_floats =
		(size_t)(a->stream_rows * a->group + ATTN_TILE_QUERIES) * a->part_stride;
	a->items = calloc(PARTIAL_BLOCKS + max_rows, sizeof(*a->items));
	a->members = calloc(PARTIAL_BLOCKS, sizeof(*a->members));
	a->first_partial = calloc(max_rows, sizeof(*a->first_partial));
	a->block_rows = calloc(max_rows, sizeof(*a->block_rows));
	a->partials =
		aligned_alloc(64, sizeof(float) * PARTIAL_BLOCKS * a->n_heads * a->part_stride);
	a->running = aligned_alloc(64, sizeof(float) * n_threads * a->running_floats);
	if (!a->items || !a->members || !a->first_partial || !a->block_rows || !a->partials ||
	    !a->running) {
		attention_free(a);
		return NULL;
	}
	return a;
}

void attention_free(struct attention *a)
{
	if (!a)
		return;
	free(a->items);
	free(a->members);
	free(a->first_partial);
	free(a->block_rows);
	free(a->partials);
	free(a->running);
	free(a);
}

static const uint32_t *table_of(const struct attention *a, uint32_t row)
{
	return a->seqs[a->rows[row].seq].table;
}

/* Pages of a block that a row sees. */
static uint32_t pages_seen(const struct attention *a, uint32_t row, uint32_t block)
{
	uint32_t pages = a->rows[row].pos / KVD_PAGE_TOKENS + 1u - block * ATTN_BLOCK_PAGES;

	return pages < ATTN_BLOCK_PAGES ? pages : ATTN_BLOCK_PAGES;
}

static bool same_pages(const struct attention *a, uint32_t x, uint32_t y, uint32_t block)
{
	uint32_t n = pages_seen(a, x, block);

	return n == pages_seen(a, y, block) &&
	       memcmp(table_of(a, x) + block * ATTN_BLOCK_PAGES,
		      table_of(a, y) + block * ATTN_BLOCK_PAGES, n * sizeof(uint32_t)) == 0;
}

/* Items of one block: each takes all rows, of those not yet taken, that read the same pages. */
static void plan_block(struct attention *a, uint32_t block)
{
	uint32_t n_left = 0;

	/* rows that reach this block move to the front, in order; the others are done */
	for (uint32_t i = 0; i < a->n_block_rows; i++)
		if (a->rows[a->block_rows[i]].pos / ATTN_BLOCK_KEYS >= block)
			a->block_rows[n_left++] = a->block_rows[i];
	a->n_block_rows = n_left;

	uint32_t first = a->n_members;
	for (uint32_t i = 0; i < n_left; i++) {
		uint32_t leader = a->block_rows[i];
		bool taken = false;
		for (uint32_t k = first; k < a->n_members && !taken; k++)
			taken = a->members[k] == leader;
		if (taken)
			continue;
		struct item *item = &a->items[a->n_items++];
		*item = (struct item){ .first = a->n_members, .block = block };
		for (uint32_t k = i; k < n_left; k++)
			if (same_pages(a, leader, a->block_rows[k], block))
				a->members[a->n_members++] = a->block_rows[k];
		item->n = a->n_members - item->first;
	}
}

void attention_plan(struct attention *a, const struct step_seq *seqs, const struct step_row *rows,
		    unsigned n_rows)
{
	uint32_t n_partials = 0, n_blocks = 0;

	assert(n_rows <= a->max_rows);
	a->seqs = seqs;
	a->rows = rows;
	a->n_items = a->n_members = a->n_block_rows = 0;
	for (uint32_t first = 0, end; first < n_rows; first = end) {
		for (end = first + 1; end < n_rows && rows[end].seq == rows[first].seq; end++)
			;
		uint32_t blocks = rows[end - 1].pos / ATTN_BLOCK_KEYS + 1u;
		bool in_blocks = end - first <= BLOCK_MODE_ROWS &&
				 blocks <= (PARTIAL_BLOCKS - n_partials) / (end - first);
		for (uint32_t row = first; row < end; row++) {
			a->first_partial[row] = in_blocks ? n_partials : NO_PARTIALS;
			if (!in_blocks)
				continue;
			a->block_rows[a->n_block_rows++] = row;
			n_partials += rows[row].pos / ATTN_BLOCK_KEYS + 1u;
		}
		if (in_blocks) {
			n_blocks = blocks > n_blocks ? blocks : n_blocks;
			continue;
		}
		/* the last rows see most: they go first, so that threads end together */
		for (uint32_t last = end; last > first;) {
			uint32_t n = last - first < a->stream_rows ? last - first : a->stream_rows;
			last -= n;
			a->items[a->n_items++] =
				(struct item){ .first = last, .n = n, .block = STREAMS };
		}
	}
	for (uint32_t block = 0; block < n_blocks; block++)
		plan_block(a, block);
	assert(a->n_members <= PARTIAL_BLOCKS);
}

uint32_t attention_items(const struct attention *a)
{
	return a->n_items * a->n_kv_heads;
}

/* The K of each page of a block, for one KV head. */
static void find_pages(const struct attention *a, const struct attention_io *io, uint32_t row,
		       uint32_t block, uint32_t kv_head, struct attn_tile *t)
{
	const uint32_t *entries = table_of(a, row) + block * ATTN_BLOCK_PAGES;

	t->head_dim = a->head_dim;
	t->n_pages = pages_seen(a, row, block);
	for (uint32_t p = 0; p < t->n_pages; p++)
		t->pages[p] = io->kv->base +
			      kvd_block_offset(&io->kv->geometry, KVD_ENTRY_FRAME(entries[p]),
					       io->layer) +
			      (size_t)kv_head * a->head_dim * KVD_PAGE_TOKENS * 4u;
}

static void add_query(const struct attention *a, const struct attention_io *io, struct attn_tile *t,
		      uint32_t row, uint32_t head, uint32_t block, float *partial)
{
	uint32_t seen = a->rows[row].pos + 1u - block * ATTN_BLOCK_KEYS;
	uint32_t i = t->n_queries++;

	t->queries[i] = io->queries + row * io->query_bytes +
			(size_t)head * (a->head_dim / 2u) * a->k->pair_bytes;
	t->visible[i] = seen < ATTN_BLOCK_KEYS ? seen : ATTN_BLOCK_KEYS;
	t->partials[i] = partial;
}

static float *partial_at(const struct attention *a, uint32_t row, uint32_t block, uint32_t head)
{
	return a->partials +
	       ((size_t)(a->first_partial[row] + block) * a->n_heads + head) * a->part_stride;
}

/* All members' queries of one KV head against one block. */
static void run_block(struct attention *a, const struct attention_io *io, const struct item *item,
		      uint32_t kv_head)
{
	struct attn_tile t;

	find_pages(a, io, a->members[item->first], item->block, kv_head, &t);
	t.n_queries = 0;
	for (uint32_t q = 0; q < item->n * a->group; q++) {
		uint32_t row = a->members[item->first + q / a->group];
		uint32_t head = kv_head * a->group + q % a->group;
		add_query(a, io, &t, row, head, item->block, partial_at(a, row, item->block, head));
		if (t.n_queries == ATTN_TILE_QUERIES || q + 1u == item->n * a->group) {
			a->k->attend(&t);
			t.n_queries = 0;
		}
	}
}

/* Merge a tile's partials into the running outputs of queries first .. */
static void merge_tile(const struct attention *a, const struct attn_tile *t, uint32_t block,
		       float *running)
{
	for (uint32_t i = 0; i < t->n_queries; i++, running += a->part_stride) {
		if (block == 0)
			memcpy(running, t->partials[i], (a->head_dim + 2u) * sizeof(float));
		else
			a->k->merge(running, t->partials[i], a->head_dim);
	}
}

/* Several rows of one sequence walk all their blocks for one KV head. */
static void run_stream(struct attention *a, const struct attention_io *io, const struct item *item,
		       uint32_t kv_head, unsigned thread)
{
	const uint32_t last_row = item->first + item->n - 1u, n_queries = item->n * a->group;
	float *running = a->running + thread * a->running_floats;
	float *parts = running + (size_t)a->stream_rows * a->group * a->part_stride;
	struct attn_tile t;

	for (uint32_t block = 0; block <= a->rows[last_row].pos / ATTN_BLOCK_KEYS; block++) {
		/* rows ascend in position: those that don't reach the block stand in front */
		uint32_t row = item->first;
		while (a->rows[row].pos / ATTN_BLOCK_KEYS < block)
			row++;
		uint32_t q = (row - item->first) * a->group, tile_first = q;
		t.n_queries = 0;
		for (; q < n_queries; q++) {
			row = item->first + q / a->group;
			add_query(a, io, &t, row, kv_head * a->group + q % a->group, block,
				  parts + t.n_queries * a->part_stride);
			if (t.n_queries < ATTN_TILE_QUERIES && q + 1u < n_queries)
				continue;
			/* the tile's last row sees most pages */
			find_pages(a, io, row, block, kv_head, &t);
			a->k->attend(&t);
			merge_tile(a, &t, block, running + (size_t)tile_first * a->part_stride);
			t.n_queries = 0;
			tile_first = q + 1u;
		}
	}
	for (uint32_t q = 0; q < n_queries; q++)
		a->k->finish(running + (size_t)q * a->part_stride, a->head_dim,
			     io->out + (size_t)(item->first + q / a->group) * io->out_stride +
			     (size_t)(kv_head * a->group + q % a->group) * a->head_dim);
}

void attention_run(struct attention *a, const struct attention_io *io, uint32_t item,
		   unsigned thread)
{
	const struct item *it = &a->items[item / a->n_kv_heads];

	if (it->block == STREAMS)
		run_stream(a, io, it, item % a->n_kv_heads, thread);
	else
		run_block(a, io, it, item % a->n_kv_heads);
}

void attention_merge(struct attention *a, const struct attention_io *io, uint32_t row, float *out,
		     unsigned thread)
{
	float *running = a->running + thread * a->running_floats;

	if (a->first_partial[row] == NO_PARTIALS) {   /* attention_run() wrote it to io->out */
		const float *done = io->out + (size_t)row * io->out_stride;
		if (out != done)
			memcpy(out, done, (size_t)a->n_heads * a->head_dim * sizeof(float));
		return;
	}
	for (uint32_t head = 0; head < a->n_heads; head++) {
		memcpy(running, partial_at(a, row, 0, head), (a->head_dim + 2u) * sizeof(float));
		for (uint32_t block = 1; block <= a->rows[row].pos / ATTN_BLOCK_KEYS; block++)
			a->k->merge(running, partial_at(a, row, block, head), a->head_dim);
		a->k->finish(running, a->head_dim, out + (size_t)head * a->head_dim);
	}
}
