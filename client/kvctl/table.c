/* table.c - columns that are as wide as their widest cell.
 *
 * Owns the cells until kvctl_table_print() frees them.  Running out of memory is remembered and
 * said once, at the end. */
#include "client/kvctl/kvctl.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS_MAX 16u

struct kvctl_table {
	const char *const *titles;
	unsigned n_columns;
	char **cells;
	size_t n_cells, max_cells;
	bool no_memory;
};

struct kvctl_table *kvctl_table_new(const char *const *titles, unsigned n_titles)
{
	struct kvctl_table *t = calloc(1, sizeof(*t));
	if (t) {
		t->titles = titles;
		t->n_columns = n_titles < COLUMNS_MAX ? n_titles : COLUMNS_MAX;
	}
	return t;
}

void kvctl_table_cell(struct kvctl_table *t, const char *format, ...)
{
	va_list arguments;
	char *text = NULL;

	if (!t || t->no_memory)
		return;
	va_start(arguments, format);
	int n = vasprintf(&text, format, arguments);
	va_end(arguments);
	if (n >= 0 && t->n_cells == t->max_cells) {
		size_t max = t->max_cells ? 2 * t->max_cells : 256;
		char **grown = realloc(t->cells, max * sizeof(*grown));
		if (grown) {
			t->cells = grown;
			t->max_cells = max;
		}
	}
	if (n < 0 || t->n_cells == t->max_cells) {
		if (n >= 0)
			free(text);
		t->no_memory = true;
		return;
	}
	t->cells[t->n_cells++] = text;
}

/* Columns of a terminal that a text takes: characters, not bytes. */
static unsigned text_columns(const char *text)
{
	unsigned n = 0;
	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

static void print_line(const struct kvctl_table *t, const struct kvctl_view *v, char *const *cells,
		       const unsigned *widths)
{
	for (unsigned i = 0; i < t->n_columns; i++) {
		const char *text = cells ? cells[i] : t->titles[i] + (t->titles[i][0] == '>');
		bool number = t->titles[i][0] == '>', last = i + 1 == t->n_columns;
		unsigned room = widths[i] - text_columns(text);
		/* No blanks at a line's end. */
		fprintf(v->out, "%*s%s%*s%s", number ? (int)room : 0, "", text,
			number || last ? 0 : (int)room, "", last ? "\n" : "  ");
	}
}

int kvctl_table_print(struct kvctl_table *t, const struct kvctl_view *v)
{
	unsigned widths[COLUMNS_MAX];
	bool complete = t && !t->no_memory;

	if (!complete)
		fprintf(stderr, "kvctl: not enough memory for the table\n");
	for (unsigned i = 0; t && i < t->n_columns; i++)
		widths[i] = v->headers ? text_columns(t->titles[i] + (t->titles[i][0] == '>')) : 0;
	for (size_t i = 0; t && i < t->n_cells; i++) {
		unsigned n = text_columns(t->cells[i]);
		if (n > widths[i % t->n_columns])
			widths[i % t->n_columns] = n;
	}
	if (complete && v->headers)
		print_line(t, v, NULL, widths);
	for (size_t i = 0; complete && i + t->n_columns <= t->n_cells; i += t->n_columns)
		print_line(t, v, t->cells + i, widths);
	for (size_t i = 0; t && i < t->n_cells; i++)
		free(t->cells[i]);
	if (t)
		free(t->cells);
	free(t);
	return complete ? 0 : 1;
}
