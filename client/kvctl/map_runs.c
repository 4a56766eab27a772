/* map_runs.c - which prefixes are shared: the longest chains of pages that two hold or may find.
 *
 * A page names the page before it in its prefix, so the shared pages form trees.  A run is a piece
 * of a tree without a branch.  Pure but for its scratch memory; sorted arrays, no hash table: an
 * administrator's question may take milliseconds. */
#include "client/kvctl/kvctl.h"

#include <stdlib.h>

#define NONE UINT32_MAX

struct node {
	const struct kvd_row_page *page;
	uint32_t only_child;       /* index; NONE: no shared child, or a branch follows */
	uint32_t n_children;
	bool begins;               /* a run begins here */
};

bool kvctl_page_is_shared(const struct kvd_row_page *page)
{
	return (page->state == KVD_FRAME_SEALED || page->state == KVD_FRAME_COOL) &&
	       (page->holds >= 2 || page->claims >= 2);
}

static int compare_nodes(const void *a, const void *b)
{
	const struct node *x = a, *y = b;
	return x->page->page < y->page->page ? -1 : x->page->page > y->page->page;
}

static uint32_t find_node(const struct node *nodes, uint32_t n, uint32_t page)
{
	uint32_t low = 0, high = n;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (nodes[middle].page->page < page)
			low = middle + 1;
		else
			high = middle;
	}
	return low < n && nodes[low].page->page == page ? low : NONE;
}

static int compare_runs(const void *a, const void *b)
{
	const struct kvctl_run *x = a, *y = b;
	if (x->pages != y->pages)
		return x->pages > y->pages ? -1 : 1;
	return x->first < y->first ? -1 : x->first > y->first;
}

static void link_nodes(struct node *nodes, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint32_t parent = find_node(nodes, n, nodes[i].page->parent);
		if (parent == NONE || parent == i)
			continue;
		nodes[parent].only_child = nodes[parent].n_children++ == 0 ? i : NONE;
	}
	for (uint32_t i = 0; i < n; i++) {
		uint32_t parent = find_node(nodes, n, nodes[i].page->parent);
		nodes[i].begins = parent == NONE || parent == i || nodes[parent].n_children > 1;
	}
}

static struct kvctl_run walk_run(const struct node *nodes, uint32_t n, uint32_t first)
{
	const struct kvd_row_page *page = nodes[first].page;
	struct kvctl_run run = { .first = page->page,
				 .depth = page->depth,
				 .tenant = page->tenant };

	for (uint32_t i = first; i != NONE && run.pages < n; i = nodes[i].only_child) {
		page = nodes[i].page;
		run.pages++;
		run.holds = page->holds > run.holds ? page->holds : run.holds;
		run.claims = page->claims > run.claims ? page->claims : run.claims;
	}
	return run;
}

uint32_t kvctl_map_runs(const struct kvctl_rows *pages, struct kvctl_run *ret, uint32_t max)
{
	uint32_t n = 0, n_runs = 0;

	for (uint64_t i = 0; i < pages->n && n < NONE - 1; i++)
		n += kvctl_page_is_shared(kvctl_row(pages, i));
	if (n == 0)
		return 0;
	struct node *nodes = calloc(n, sizeof(*nodes));
	struct kvctl_run *runs = calloc(n, sizeof(*runs));
	if (!nodes || !runs) {
		free(nodes);
		free(runs);
		return NONE;
	}
	n = 0;
	for (uint64_t i = 0; i < pages->n; i++) {
		const struct kvd_row_page *page = kvctl_row(pages, i);
		if (kvctl_page_is_shared(page))
			nodes[n++] = (struct node){ .page = page, .only_child = NONE };
	}
	qsort(nodes, n, sizeof(*nodes), compare_nodes);
	link_nodes(nodes, n);
	for (uint32_t i = 0; i < n; i++)
		if (nodes[i].begins)
			runs[n_runs++] = walk_run(nodes, n, i);
	qsort(runs, n_runs, sizeof(*runs), compare_runs);
	if (n_runs > max)
		n_runs = max;
	for (uint32_t i = 0; i < n_runs; i++)
		ret[i] = runs[i];
	free(nodes);
	free(runs);
	return n_runs;
}
