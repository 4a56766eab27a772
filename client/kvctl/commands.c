/* commands.c - the commands: what each asks of kvd and which shower gets the rows.
 *
 * Every answer is one moment's, but two questions are two moments: `map` may show a page that has
 * just gone. */
#include "client/kvctl/kvctl.h"

#include <stdlib.h>
#include <string.h>

static int run_status(const struct kvctl_view *v, struct kvd_connection *c)
{
	struct kvctl_rows status;
	int r = kvctl_ask(c, KVD_Q_STATUS, NULL, &status);
	if (r == 0)
		r = kvctl_show_status(v, kvd_welcome(c), &status);
	kvctl_release(&status);
	return r;
}

static int run_engines(const struct kvctl_view *v, struct kvd_connection *c)
{
	struct kvctl_rows engines, status = { 0 };
	int r = kvctl_ask(c, KVD_Q_ENGINES, NULL, &engines);
	if (r == 0)
		r = kvctl_ask(c, KVD_Q_STATUS, NULL, &status);
	if (r == 0)
		r = kvctl_show_engines(v, &engines, &status);
	kvctl_release(&status);
	kvctl_release(&engines);
	return r;
}

/* A question whose rows are shown as they are. */
static int run_rows(const struct kvctl_view *v, struct kvd_connection *c, enum kvd_query what,
		    int (*show)(const struct kvctl_view *v, const struct kvctl_rows *rows))
{
	struct kvctl_rows rows;
	int r = kvctl_ask(c, what, NULL, &rows);
	if (r == 0)
		r = show(v, &rows);
	kvctl_release(&rows);
	return r;
}

static int run_tenants(const struct kvctl_view *v, struct kvd_connection *c)
{
	return run_rows(v, c, KVD_Q_TENANTS, kvctl_show_tenants);
}

static int run_sequences(const struct kvctl_view *v, struct kvd_connection *c)
{
	return run_rows(v, c, KVD_Q_SEQUENCES, kvctl_show_sequences);
}

static int run_extents(const struct kvctl_view *v, struct kvd_connection *c)
{
	return run_rows(v, c, KVD_Q_EXTENTS, kvctl_show_extents);
}

static int run_fsck(const struct kvctl_view *v, struct kvd_connection *c)
{
	return run_rows(v, c, KVD_Q_FSCK, kvctl_show_fsck);
}

/* One of the answers of `top`, as JSON for the whole. */
static int top_part(json_t *all, const char *name, const struct kvctl_view *v, struct kvd_connection *c,
		    int (*part)(const struct kvctl_view *v, struct kvd_connection *c))
{
	char *text = NULL;
	size_t n = 0;
	struct kvctl_view view = *v;
	view.out = open_memstream(&text, &n);
	if (!view.out)
		return 1;
	int r = part(&view, c);
	fclose(view.out);
	json_object_set_new(all, name, json_loads(text, 0, NULL));
	free(text);
	return r;
}

static int run_top(const struct kvctl_view *v, struct kvd_connection *c)
{
	int r;
	if (v->json) {
		json_t *all = json_object();
		r = top_part(all, "status", v, c, run_status);
		if (r == 0)
			r = top_part(all, "engines", v, c, run_engines);
		if (r == 0)
			r = top_part(all, "tenants", v, c, run_tenants);
		int shown = kvctl_json(v, all);
		return r ? r : shown;
	}
	r = run_status(v, c);
	fputc('\n', v->out);
	if (r == 0)
		r = run_engines(v, c);
	fputc('\n', v->out);
	return r ? r : run_tenants(v, c);
}

static int run_prefixes(const struct kvctl_view *v, struct kvd_connection *c)
{
	return run_rows(v, c, KVD_Q_PREFIXES, kvctl_show_prefixes);
}

static int run_cost(const struct kvctl_view *v, struct kvd_connection *c)
{
	return run_rows(v, c, KVD_Q_COST, kvctl_show_cost);
}

static int run_smaps(const struct kvctl_view *v, struct kvd_connection *c)
{
	struct kvctl_rows rows;
	int r = kvctl_ask(c, KVD_Q_SMAPS, NULL, &rows);
	if (r == 0)
		r = kvctl_show_smaps(v, kvd_welcome(c)->admin != 0, &rows);
	kvctl_release(&rows);
	return r;
}

static int run_pages(const struct kvctl_view *v, struct kvd_connection *c)
{
	struct kvctl_rows pages, engines = { 0 };
	int r = kvctl_ask(c, KVD_Q_PAGES, NULL, &pages);
	/* Only an administrator's pages have colours, and only he may list all engines. */
	if (r == 0 && kvd_welcome(c)->admin)
		r = kvctl_ask(c, KVD_Q_ENGINES, NULL, &engines);
	if (r == 0)
		r = kvctl_show_pages(v, &pages, &engines);
	kvctl_release(&engines);
	kvctl_release(&pages);
	return r;
}

static int run_map(const struct kvctl_view *v, struct kvd_connection *c)
{
	struct kvctl_map map = { .welcome = kvd_welcome(c) };
	int r;

	if (!map.welcome->admin) {
		fprintf(stderr, "kvctl: map shows every tenant's pages and is for administrators; "
				"ask to join group kvadm\n");
		return 4;
	}
	r = kvctl_ask(c, KVD_Q_EXTENTS, NULL, &map.extents);
	if (r == 0)
		r = kvctl_ask(c, KVD_Q_PAGES, NULL, &map.pages);
	if (r == 0)
		r = kvctl_ask(c, KVD_Q_SEQUENCES, NULL, &map.sequences);
	if (r == 0)
		r = kvctl_show_map(v, &map);
	kvctl_release(&map.sequences);
	kvctl_release(&map.pages);
	kvctl_release(&map.extents);
	return r;
}

static int run_whoami(const struct kvctl_view *v, struct kvd_connection *c)
{
	return kvctl_show_whoami(v, kvd_welcome(c));
}

const struct kvctl_command kvctl_commands[] = {
#define KVCTL_COMMAND(word, operands, least, most, who, run, text) \
	{ word, operands, least, most, KVCTL_##who, text, run },
#include "client/kvctl/commands.def"
#undef KVCTL_COMMAND
};
const unsigned kvctl_n_commands = sizeof(kvctl_commands) / sizeof(kvctl_commands[0]);

/* Edits between two short words: insertions, deletions, replacements. */
static unsigned word_distance(const char *a, const char *b)
{
	unsigned row[32], n = (unsigned)strlen(b);
	if (n >= 32 || strlen(a) >= 32)
		return 32;
	for (unsigned i = 0; i <= n; i++)
		row[i] = i;
	for (; *a; a++) {
		unsigned diagonal = row[0]++;
		for (unsigned i = 1; i <= n; i++) {
			unsigned replaced = diagonal + (*a != b[i - 1]);
			unsigned other = (row[i] < row[i - 1] ? row[i] : row[i - 1]) + 1;
			diagonal = row[i];
			row[i] = replaced < other ? replaced : other;
		}
	}
	return row[n];
}

const struct kvctl_command *kvctl_command_find(const char *name, const char **ret_near)
{
	unsigned nearest = 3;   /* further away is another word, not a slip */

	*ret_near = NULL;
	for (unsigned i = 0; i < kvctl_n_commands; i++) {
		unsigned distance = word_distance(name, kvctl_commands[i].name);
		if (distance == 0)
			return &kvctl_commands[i];
		if (distance < nearest) {
			nearest = distance;
			*ret_near = kvctl_commands[i].name;
		}
	}
	return NULL;
}
