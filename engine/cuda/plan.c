/* plan.c - a step as the kernels read it; see plan.h.
 *
 * Runs on the engine's thread between steps; allocates nothing after plan_init().  The order of items and
 * members decides nothing about the numbers, only who computes them. */
#include "engine/cuda/plan.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_PAGES (KVD_UNIT_KEYS / KVD_PAGE_TOKENS)
#define PARTIALS_LEAST 2048u       /* 16 rows at 16,384 tokens */
#define ALIGN 256u

static uint64_t place(uint64_t *at, uint64_t n, uint64_t bytes)
{
	uint64_t first = *at;

	*at = (first + n * bytes + ALIGN - 1u) & ~(uint64_t)(ALIGN - 1u);
	return first;
}

struct plan_shape plan_shape_of(uint32_t max_rows, uint32_t max_seqs, uint32_t n_positions,
				uint32_t group, uint32_t head_dim)
{
	const uint32_t units = (n_positions + KVD_UNIT_KEYS - 1u) / KVD_UNIT_KEYS;
	const uint32_t pages = (n_positions + KVD_PAGE_TOKENS - 1u) / KVD_PAGE_TOKENS;
	struct plan_shape s = { .max_rows = max_rows, .max_seqs = max_seqs, .group = group };
	uint64_t at = 0;

	s.max_partials = max_seqs * units > PARTIALS_LEAST ? max_seqs * units : PARTIALS_LEAST;
	s.stream_pairs = kvd_stream_pairs(head_dim);
	s.max_streams = max_rows * group / s.stream_pairs + max_rows;
	s.max_entries = max_seqs * pages;
	(void)place(&at, 1, sizeof(struct kvd_step));
	s.rows_at = place(&at, max_rows, sizeof(struct kvd_step_row));
	s.wanted_at = place(&at, max_rows, sizeof(uint32_t));
	s.members_at = place(&at, s.max_partials, sizeof(uint32_t));
	/* an item takes 16 pairs of its members, or what is left: never more than these */
	s.units_at = place(&at, (uint64_t)s.max_partials * (group / KVD_TILE_QUERIES + 1u),
			   sizeof(struct kvd_unit_item));
	s.streams_at = place(&at, s.max_streams, sizeof(struct kvd_stream_item));
	s.tables_at = place(&at, s.max_entries, sizeof(uint32_t));
	s.bytes = at;
	return s;
}

int plan_init(struct plan *p, const struct plan_shape *shape, uint8_t *image)
{
	*p = (struct plan){ .shape = *shape, .image = image };
	p->unit_rows = calloc(shape->max_rows, sizeof(*p->unit_rows));
	return p->unit_rows ? 0 : -ENOMEM;
}

void plan_deinit(struct plan *p)
{
	free(p->unit_rows);
	*p = (struct plan){ 0 };
}

static struct kvd_step_row *image_rows(const struct plan *p)
{
	return (struct kvd_step_row *)(p->image + p->shape.rows_at);
}

/* Copy the tables, each once, and the rows. */
static int copy_rows(struct plan *p, uint32_t n_vocab, uint32_t n_positions, unsigned n_seqs,
		     unsigned n_rows)
{
	struct kvd_step_row *rows = image_rows(p);
	uint32_t *wanted = (uint32_t *)(p->image + p->shape.wanted_at);
	uint32_t *tables = (uint32_t *)(p->image + p->shape.tables_at), n_entries = 0;

	for (unsigned first = 0, end; first < n_rows; first = end) {
		const struct step_row *r = &p->rows[first];
		if (r->seq >= n_seqs)
			return -EINVAL;
		for (end = first; end < n_rows && p->rows[end].seq == r->seq; end++) {
			const struct step_row *row = &p->rows[end];
			if (row->token < 0 || (uint32_t)row->token >= n_vocab ||
			    row->pos >= n_positions || (end > first && row[-1].pos >= row->pos))
				return -EINVAL;
			rows[end] = (struct kvd_step_row){ .token = row->token, .pos = row->pos,
							   .table = n_entries };
			if (row->want_logits)
				wanted[p->step.n_wanted++] = end;
		}
		const uint32_t n_pages = p->rows[end - 1].pos / KVD_PAGE_TOKENS + 1u;
		if (n_pages > p->shape.max_entries - n_entries)
			return -EINVAL;
		for (uint32_t i = 0; i < n_pages; i++) {
			tables[n_entries + i] = p->seqs[r->seq].table[i];
			if (KVD_ENTRY_FORMAT(tables[n_entries + i]) != KVD_FORMAT_BF16)
				return -EINVAL;
		}
		n_entries += n_pages;
	}
	p->used_bytes = p->shape.tables_at + n_entries * sizeof(uint32_t);
	return 0;
}

/* Do two rows see the same pages of a unit? */
static bool same_pages(const struct plan *p, uint32_t a, uint32_t b, uint32_t unit)
{
	const struct kvd_step_row *rows = image_rows(p);
	const uint32_t *tables = (const uint32_t *)(p->image + p->shape.tables_at);
	uint32_t left_a = rows[a].pos / KVD_PAGE_TOKENS + 1u - unit * UNIT_PAGES;
	uint32_t left_b = rows[b].pos / KVD_PAGE_TOKENS + 1u - unit * UNIT_PAGES;
	uint32_t n_a = left_a < UNIT_PAGES ? left_a : UNIT_PAGES;
	uint32_t n_b = left_b < UNIT_PAGES ? left_b : UNIT_PAGES;

	return n_a == n_b && memcmp(tables + rows[a].table + unit * UNIT_PAGES,
				    tables + rows[b].table + unit * UNIT_PAGES,
				    n_a * sizeof(uint32_t)) == 0;
}

/* Items of one unit: each takes all rows, of those not yet taken, that read the same pages. */
static void plan_unit(struct plan *p, uint32_t unit, uint32_t *n_unit_rows, uint32_t *n_members)
{
	const struct kvd_step_row *rows = image_rows(p);
	uint32_t *members = (uint32_t *)(p->image + p->shape.members_at);
	struct kvd_unit_item *items = (struct kvd_unit_item *)(p->image + p->shape.units_at);
	uint32_t n_left = 0;

	/* rows that reach this unit move to the front, in order; the others are done */
	for (uint32_t i = 0; i < *n_unit_rows; i++)
		if (rows[p->unit_rows[i]].pos / KVD_UNIT_KEYS >= unit)
			p->unit_rows[n_left++] = p->unit_rows[i];
	*n_unit_rows = n_left;
	const uint32_t first = *n_members;
	for (uint32_t i = 0; i < n_left; i++) {
		const uint32_t leader = p->unit_rows[i], first_member = *n_members;
		bool taken = false;
		for (uint32_t k = first; k < *n_members && !taken; k++)
			taken = members[k] == leader;
		if (taken)
			continue;
		for (uint32_t k = i; k < n_left; k++)
			if (same_pages(p, leader, p->unit_rows[k], unit))
				members[(*n_members)++] = p->unit_rows[k];
		const uint32_t pairs = (*n_members - first_member) * p->shape.group;
		for (uint32_t at = 0; at < pairs; at += KVD_TILE_QUERIES)
			items[p->step.n_units++] = (struct kvd_unit_item){
				.first_member = first_member, .packed = at, .unit = unit,
				.n_packed = pairs - at < KVD_TILE_QUERIES ? pairs - at : KVD_TILE_QUERIES };
	}
}

/* Who goes in units, who streams. */
static void plan_attention(struct plan *p, unsigned n_rows)
{
	struct kvd_step_row *rows = image_rows(p);
	struct kvd_stream_item *streams = (struct kvd_stream_item *)(p->image + p->shape.streams_at);
	uint32_t n_partials = 0, n_units = 0, n_unit_rows = 0, n_members = 0;

	for (uint32_t first = 0, end; first < n_rows; first = end) {
		for (end = first + 1; end < n_rows && p->rows[end].seq == p->rows[first].seq; end++)
			;
		const uint32_t units = rows[end - 1].pos / KVD_UNIT_KEYS + 1u, n = end - first;
		const bool in_units = (n == 1u || n * p->shape.group <= KVD_TILE_QUERIES) &&
				      units <= (p->shape.max_partials - n_partials) / n;
		for (uint32_t row = first; row < end; row++) {
			rows[row].first_partial = in_units ? n_partials : KVD_NO_PARTIALS;
			if (!in_units)
				continue;
			p->unit_rows[n_unit_rows++] = row;
			n_partials += rows[row].pos / KVD_UNIT_KEYS + 1u;
		}
		if (in_units) {
			n_units = units > n_units ? units : n_units;
			continue;
		}
		for (uint32_t at = 0; at < n * p->shape.group; at += p->shape.stream_pairs)
			streams[p->step.n_streams++] = (struct kvd_stream_item){
				.first_row = first, .packed = at,
				.n_packed = n * p->shape.group - at < p->shape.stream_pairs ?
					    n * p->shape.group - at : p->shape.stream_pairs };
	}
	for (uint32_t unit = 0; unit < n_units; unit++)
		plan_unit(p, unit, &n_unit_rows, &n_members);
	assert(n_members <= p->shape.max_partials && p->step.n_streams <= p->shape.max_streams);
}

int plan_step(struct plan *p, uint32_t n_vocab, uint32_t n_positions, const struct step_seq *seqs,
	      unsigned n_seqs, const struct step_row *rows, unsigned n_rows)
{
	int r;

	if (n_rows > p->shape.max_rows || n_seqs > p->shape.max_seqs)
		return -EINVAL;
	p->seqs = seqs;
	p->rows = rows;
	p->step = (struct kvd_step){ .n_rows = n_rows };
	r = copy_rows(p, n_vocab, n_positions, n_seqs, n_rows);
	if (r < 0)
		return r;
	plan_attention(p, n_rows);
	memcpy(p->image, &p->step, sizeof(p->step));
	return 0;
}
