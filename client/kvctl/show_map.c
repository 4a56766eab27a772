/* show_map.c - `kvctl map`: the pool drawn, one cell a frame, so that a person sees what is shared.
 *
 * Extents in their order, each with whose it is; below, what the letters mean and how many there
 * are, the longest shared prefixes, and who holds shared pages.  A pool of many pages is drawn with
 * several frames a cell; a cell then shows the most telling of them. */
#include "client/kvctl/kvctl.h"

#include <stdlib.h>
#include <string.h>

#define LABEL_COLUMNS 27u          /* before the cells */
#define LINES_MAX 120u             /* of cells; more and frames share a cell */
#define NAMES_MAX 52u              /* A-Z, a-z */
#define RUNS_MAX 10u

/* What a cell can show, the most telling first. */
static const struct {
	char letter;
	const char *colour, *meaning;
} kinds[] = {
	{ 'S', "1;32", "sealed, shared by 2 or more" },
	{ 'q', "1;31", "quarantined" },
	{ 'f', "35", "filling" },
	{ 'w', "33", "open (being written)" },
	{ 'r', "31", "retiring" },
	{ 's', "34", "sealed" },
	{ 'c', "36", "cool (held by nobody)" },
	{ '.', "2", "free" },
};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))
#define KIND_FREE (N_KINDS - 1)

struct drawing {
	const struct kvctl_view *v;
	const struct kvctl_map *map;
	uint8_t *cells; /* (all frames) index of kinds[] or of names[], CELL_FREE: free */
	uint64_t *first;           /* (extents) where an extent's cells begin */
	uint64_t n_cells;
	uint64_t counts[NAMES_MAX + 1];
	char names[NAMES_MAX][KVD_NAME_MAX];
	uint32_t n_names;
	unsigned frames_per_cell, columns;
};
#define CELL_FREE 0xffu

static unsigned page_kind(const struct kvd_row_page *page)
{
	static const char letters[KVD_FRAME_STATES] = { '.', 'w', 's', 'c', 'f', 'r', 'q' };
	char letter = page->state < KVD_FRAME_STATES ? letters[page->state] : 'q';
	if (page->state == KVD_FRAME_SEALED && kvctl_page_is_shared(page))
		letter = 'S';
	for (unsigned i = 0; i < N_KINDS; i++)
		if (kinds[i].letter == letter)
			return i;
	return KIND_FREE;
}

static uint8_t name_index(struct drawing *d, const char *name)
{
	uint32_t i = 0;
	while (i < d->n_names && strcmp(d->names[i], name) != 0)
		i++;
	if (i < d->n_names)
		return (uint8_t)i;
	if (d->n_names == NAMES_MAX)
		return NAMES_MAX - 1;
	if (d->n_names == NAMES_MAX - 1)
		name = "(others)";
	snprintf(d->names[d->n_names], KVD_NAME_MAX, "%s", name);
	return (uint8_t)d->n_names++;
}

static uint8_t page_cell(struct drawing *d, const struct kvd_row_extent *extent,
			 const struct kvd_row_page *page)
{
	if (page->state == KVD_FRAME_FREE)
		return CELL_FREE;
	switch (d->v->by) {
	case KVCTL_BY_STATE: return (uint8_t)page_kind(page);
	case KVCTL_BY_ENGINE:
		return name_index(d, extent->engine[0] ? kvctl_name(extent->engine).s : "shared");
	case KVCTL_BY_TENANT:
		return name_index(d, page->tenant[0] ? kvctl_name(page->tenant).s : "nobody");
	}
	return CELL_FREE;
}

/* Index of an extent's row; rows come in order, yet nothing breaks if they do not. */
static uint64_t find_extent(const struct kvctl_rows *extents, uint32_t extent)
{
	uint64_t low = 0, high = extents->n;
	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		if (((const struct kvd_row_extent *)kvctl_row(extents, middle))->extent < extent)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Fill the cells.  Returns false where memory ran out. */
static bool drawing_fill(struct drawing *d)
{
	const struct kvctl_rows *extents = &d->map->extents, *pages = &d->map->pages;

	d->first = calloc(extents->n + 1, sizeof(*d->first));
	for (uint64_t i = 0; d->first && i < extents->n; i++)
		d->first[i + 1] = d->first[i] +
				  ((const struct kvd_row_extent *)kvctl_row(extents, i))->n_frames;
	d->n_cells = d->first ? d->first[extents->n] : 0;
	d->cells = malloc(d->n_cells + 1);
	if (!d->first || !d->cells)
		return false;
	memset(d->cells, CELL_FREE, d->n_cells + 1);
	for (uint64_t i = 0; i < pages->n; i++) {
		const struct kvd_row_page *page = kvctl_row(pages, i);
		uint64_t e = find_extent(extents, page->extent);
		if (e == extents->n)
			continue;
		const struct kvd_row_extent *extent = kvctl_row(extents, e);
		if (extent->extent != page->extent || page->slot >= extent->n_frames)
			continue;
		uint8_t cell = page_cell(d, extent, page);
		d->cells[d->first[e] + page->slot] = cell;
	}
	for (uint64_t i = 0; i < d->n_cells; i++)
		d->counts[d->cells[i] == CELL_FREE ? NAMES_MAX : d->cells[i]]++;
	d->frames_per_cell = 1;
	while (d->n_cells / d->frames_per_cell > (uint64_t)d->columns * LINES_MAX)
		d->frames_per_cell *= 2;
	return true;
}

static char cell_letter(const struct drawing *d, uint8_t cell)
{
	if (cell == CELL_FREE)
		return '.';
	if (d->v->by == KVCTL_BY_STATE)
		return kinds[cell].letter;
	return (char)(cell < 26 ? 'A' + cell : 'a' + (cell - 26));
}

static const char *cell_colour(const struct drawing *d, uint8_t cell)
{
	static const char *const names_colours[] = { "32", "34", "33", "35", "36", "31",
						     "92", "94", "93", "95", "96", "91" };
	if (cell == CELL_FREE)
		return kinds[KIND_FREE].colour;
	if (d->v->by == KVCTL_BY_STATE)
		return kinds[cell].colour;
	return names_colours[cell % (sizeof(names_colours) / sizeof(names_colours[0]))];
}

static void put_cell(const struct drawing *d, uint8_t cell, const char **colour)
{
	const char *wanted = cell_colour(d, cell);
	if (d->v->colour && *colour != wanted)
		fprintf(d->v->out, "\033[0;%sm", wanted);
	*colour = wanted;
	fputc(cell_letter(d, cell), d->v->out);
}

static void end_cells(const struct drawing *d)
{
	fprintf(d->v->out, "%s\n", d->v->colour ? "\033[0m" : "");
}

static void draw_extent(const struct drawing *d, uint64_t e)
{
	const struct kvd_row_extent *extent = kvctl_row(&d->map->extents, e);
	uint64_t begin = d->first[e], end = d->first[e + 1];
	struct kvctl_name whose = kvctl_name(extent->engine);
	unsigned column = 0;
	const char *colour = NULL;

	if (!whose.s[0])
		snprintf(whose.s, sizeof(whose.s), "shared");
	fprintf(d->v->out, "%6u  %-*.*s  ", extent->extent, (int)LABEL_COLUMNS - 10,
		(int)LABEL_COLUMNS - 10, whose.s);
	for (uint64_t i = begin; i < end; i += d->frames_per_cell) {
		uint8_t cell = CELL_FREE;
		for (uint64_t k = i; k < end && k < i + d->frames_per_cell; k++)
			cell = d->cells[k] < cell ? d->cells[k] : cell;
		if (column++ == d->columns) {
			end_cells(d);
			fprintf(d->v->out, "%*s", (int)LABEL_COLUMNS, "");
			column = 1;
			colour = NULL;
		}
		put_cell(d, cell, &colour);
	}
	end_cells(d);
}

/* Extents that hold no frames, in one line for as many as are alike. Returns the next one's index. */
static uint64_t draw_bare(const struct drawing *d, uint64_t e)
{
	const struct kvctl_rows *extents = &d->map->extents;
	const struct kvd_row_extent *first = kvctl_row(extents, e), *last = first;

	while (++e < extents->n) {
		const struct kvd_row_extent *next = kvctl_row(extents, e);
		if (next->state != first->state || next->n_frames > 0)
			break;
		last = next;
	}
	if (first == last)
		fprintf(d->v->out, "%6u  (%s)\n", first->extent, kvctl_extent_state(first->state));
	else
		fprintf(d->v->out, "%6u  to %u (%s)\n", first->extent, last->extent,
			kvctl_extent_state(first->state));
	return e;
}

static void draw_legend(const struct drawing *d)
{
	const char *colour = NULL;

	fprintf(d->v->out, "\n");
	for (unsigned i = 0; i < (d->v->by == KVCTL_BY_STATE ? KIND_FREE : d->n_names); i++) {
		if (d->v->by == KVCTL_BY_STATE && d->counts[i] == 0 && kinds[i].letter != 'S' &&
		    kinds[i].letter != 's')
			continue;
		fprintf(d->v->out, "  ");
		put_cell(d, (uint8_t)i, &colour);
		fprintf(d->v->out, "%s  %-28s %8llu\n", d->v->colour ? "\033[0m" : "",
			d->v->by == KVCTL_BY_STATE ? kinds[i].meaning : d->names[i],
			(unsigned long long)d->counts[i]);
		colour = NULL;
	}
	fprintf(d->v->out, "  ");
	put_cell(d, CELL_FREE, &colour);
	fprintf(d->v->out, "%s  %-28s %8llu\n", d->v->colour ? "\033[0m" : "",
		kinds[KIND_FREE].meaning, (unsigned long long)d->counts[NAMES_MAX]);
	if (d->frames_per_cell > 1)
		fprintf(d->v->out, "  one cell is %u pages and shows the most telling\n",
			d->frames_per_cell);
}

static int show_runs(const struct kvctl_view *v, const struct kvctl_run *runs, uint32_t n,
		     uint32_t page_tokens)
{
	static const char *const titles[] = { ">FIRST PAGE", ">TOKENS",	   ">PAGES", ">HOLDERS",
					      ">DOMAINS",    "FROM TOKEN", "MADE BY" };
	struct kvctl_table *t = kvctl_table_new(titles, 7);

	fprintf(v->out, n ? "\nshared prefixes, longest first\n" : "\nno page is shared now\n");
	for (uint32_t i = 0; i < n; i++) {
		kvctl_table_cell(t, "%u", runs[i].first);
		kvctl_table_cell(t, "%llu", (unsigned long long)runs[i].pages * page_tokens);
		kvctl_table_cell(t, "%u", runs[i].pages);
		kvctl_table_cell(t, "%u", runs[i].holds);
		kvctl_table_cell(t, "%u", runs[i].claims);
		kvctl_table_cell(t, "%llu", (unsigned long long)runs[i].depth * page_tokens);
		kvctl_table_cell(t, "%s", kvctl_printable(runs[i].tenant, KVD_NAME_MAX).s);
	}
	struct kvctl_view quiet = *v;
	quiet.headers = v->headers && n > 0;
	return kvctl_table_print(t, &quiet);
}

/* Who holds shared pages: one line for each tenant of each engine. */
static int show_holders(const struct kvctl_view *v, const struct kvctl_rows *sequences)
{
	static const char *const titles[] = { "TENANT", "ENGINE", ">SEQUENCES", ">PAGES",
					      ">OF THEM SHARED" };
	struct kvctl_table *t = kvctl_table_new(titles, 5);
	bool *seen = calloc(sequences->n + 1, sizeof(*seen));

	for (uint64_t i = 0; seen && i < sequences->n; i++) {
		const struct kvd_row_sequence *a = kvctl_row(sequences, i);
		uint64_t n = 0, pages = 0, shared = 0;
		for (uint64_t k = i; !seen[i] && k < sequences->n; k++) {
			const struct kvd_row_sequence *b = kvctl_row(sequences, k);
			if (seen[k] || strncmp(a->tenant, b->tenant, KVD_NAME_MAX) ||
			    strncmp(a->engine, b->engine, KVD_NAME_MAX))
				continue;
			seen[k] = k > i;
			n++, pages += b->pages, shared += b->shared_pages;
		}
		if (n == 0)
			continue;
		kvctl_table_cell(t, "%s", kvctl_name(a->tenant).s);
		kvctl_table_cell(t, "%s", kvctl_name(a->engine).s);
		kvctl_table_cell(t, "%llu", (unsigned long long)n);
		kvctl_table_cell(t, "%llu", (unsigned long long)pages);
		kvctl_table_cell(t, "%llu", (unsigned long long)shared);
	}
	free(seen);
	struct kvctl_view quiet = *v;
	quiet.headers = v->headers && sequences->n > 0;
	if (sequences->n > 0)
		fprintf(v->out, "\nwho holds pages now\n");
	return kvctl_table_print(t, &quiet);
}

static int map_json(const struct drawing *d, const struct kvctl_run *runs, uint32_t n_runs)
{
	json_t *extents = json_array(), *prefixes = json_array();
	char *cells = malloc(d->n_cells + 1);

	for (uint64_t e = 0; cells && e < d->map->extents.n; e++) {
		const struct kvd_row_extent *extent = kvctl_row(&d->map->extents, e);
		uint64_t n = d->first[e + 1] - d->first[e];
		for (uint64_t i = 0; i < n; i++)
			cells[i] = cell_letter(d, d->cells[d->first[e] + i]);
		json_array_append_new(
			extents,
			json_pack("{s:I, s:s, s:o, s:s#}", "extent", (json_int_t)extent->extent,
				  "state", kvctl_extent_state(extent->state), "engine",
				  n == 0	      ? json_null()
				  : extent->engine[0] ? kvctl_json_name(extent->engine)
						      : json_string("shared"),
				  "cells", cells, (int)n));
	}
	free(cells);
	for (uint32_t i = 0; i < n_runs; i++)
		json_array_append_new(prefixes, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:o}",
			"first_page", (json_int_t)runs[i].first, "pages", (json_int_t)runs[i].pages,
			"tokens", (json_int_t)runs[i].pages * d->map->welcome->page_tokens,
			"depth", (json_int_t)runs[i].depth, "holders", (json_int_t)runs[i].holds,
			"domains", (json_int_t)runs[i].claims, "tenant",
			json_string(kvctl_printable(runs[i].tenant, KVD_NAME_MAX).s)));
	return kvctl_json(d->v,
			  json_pack("{s:o, s:o}", "extents", extents, "shared_prefixes", prefixes));
}

static int draw(const struct drawing *d, const struct kvctl_run *runs, uint32_t n_runs)
{
	const struct kvctl_map *map = d->map;

	fprintf(d->v->out, "pool %s, %llu extents of %s; a cell is a page of %u tokens\n\n",
		kvctl_size(map->welcome->pool_bytes).s, (unsigned long long)map->extents.n,
		kvctl_size(map->welcome->extent_bytes).s, map->welcome->page_tokens);
	for (uint64_t e = 0; e < map->extents.n; ) {
		if (d->first[e + 1] > d->first[e])
			draw_extent(d, e++);
		else
			e = draw_bare(d, e);
	}
	draw_legend(d);
	int r = show_runs(d->v, runs, n_runs, map->welcome->page_tokens);
	return r != 0 ? r : show_holders(d->v, &map->sequences);
}

int kvctl_show_map(const struct kvctl_view *v, const struct kvctl_map *map)
{
	struct drawing *d = calloc(1, sizeof(*d));
	struct kvctl_run runs[RUNS_MAX];
	uint32_t n_runs = kvctl_map_runs(&map->pages, runs, RUNS_MAX);
	int r = 1;

	if (d) {
		d->v = v;
		d->map = map;
		d->columns = v->width > LABEL_COLUMNS + 8 ? v->width - LABEL_COLUMNS : 8;
	}
	if (!d || n_runs == UINT32_MAX || !drawing_fill(d))
		fprintf(stderr, "kvctl: not enough memory for the map\n");
	else
		r = v->json ? map_json(d, runs, n_runs) : draw(d, runs, n_runs);
	if (d) {
		free(d->cells);
		free(d->first);
	}
	free(d);
	return r;
}
