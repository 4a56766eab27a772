/* show_memory.c - `kvctl smaps`, `prefixes`, and the limits of one tenant.
 *
 * smaps uses the keys and the unit (kB) of /proc/PID/smaps_rollup.  A tenant without rights sees Rss and Swap:
 * the rest depends on others. */
#include "client/kvctl/kvctl.h"

#include <inttypes.h>
#include <string.h>

#define N(array) (sizeof(array) / sizeof(*(array)))

static json_t *kilobytes(uint64_t bytes)
{
	return json_integer((json_int_t)(bytes / 1024));
}

static json_t *smaps_json(const struct kvd_row_smaps *s, bool admin)
{
	json_t *row = json_pack("{s:o, s:s, s:o, s:o}", "name", kvctl_json_name(s->name), "kind",
				s->kind ? "engine" : "tenant", "Rss", kilobytes(s->rss_bytes), "Swap",
				kilobytes(s->swap_bytes));
	json_t *more = admin ? json_pack("{s:o, s:o, s:o, s:o, s:i}", "Pss", kilobytes(s->pss_bytes), "Private_Clean",
					 kilobytes(s->private_clean_bytes), "Private_Dirty",
					 kilobytes(s->private_dirty_bytes), "Shared_Clean",
					 kilobytes(s->shared_clean_bytes), "pages", (int)s->pages)
			     : NULL;
	if (row && more)
		json_object_update(row, more);
	json_decref(more);
	return row;
}

static void smaps_line(const struct kvctl_view *v, const char *key, uint64_t bytes)
{
	char label[32];
	snprintf(label, sizeof(label), "%s:", key);
	fprintf(v->out, "%-15s %10" PRIu64 " kB\n", label, bytes / 1024);
}

static void smaps_text(const struct kvctl_view *v, const struct kvd_row_smaps *s, bool admin)
{
	fprintf(v->out, "%s %s\n", s->kind ? "engine" : "tenant", kvctl_name(s->name).s);
	smaps_line(v, "Rss", s->rss_bytes);
	if (admin) {
		smaps_line(v, "Pss", s->pss_bytes);
		smaps_line(v, "Shared_Clean", s->shared_clean_bytes);
		smaps_line(v, "Private_Clean", s->private_clean_bytes);
		smaps_line(v, "Private_Dirty", s->private_dirty_bytes);
	}
	smaps_line(v, "Swap", s->swap_bytes);
}

int kvctl_show_smaps(const struct kvctl_view *v, bool admin, const struct kvctl_rows *rows)
{
	const char *wanted = v->arguments.n_words ? v->arguments.word[0] : NULL;
	json_t *all = v->json ? json_array() : NULL;
	unsigned shown = 0;
	for (uint64_t i = 0; i < rows->n; i++) {
		const struct kvd_row_smaps *row = kvctl_row(rows, i);
		if (wanted && strncmp(row->name, wanted, sizeof(row->name)))
			continue;
		shown++;
		if (v->json)
			json_array_append_new(all, smaps_json(row, admin));
		else
			smaps_text(v, row, admin);
	}
	if (wanted && !shown) {
		json_decref(all);
		return kvctl_complain(1, "there is no tenant or engine %s, or it is not yours", wanted);
	}
	return v->json ? kvctl_json(v, all) : 0;
}

static const char *mark_word(uint32_t mark)
{
	return mark == 1 ? "yes" : mark == 2 ? "below" : "-";
}

static json_t *prefix_json(const struct kvd_row_prefix *p)
{
	json_t *row = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:f}", "id", kvctl_prefix(p->id).s, "tokens",
				(json_int_t)p->tokens, "pages", (json_int_t)p->pages, "holders",
				(json_int_t)p->holders, "claims", (json_int_t)p->claims, "hits", (json_int_t)p->hits,
				"idle_s", (double)p->idle_usec / 1e6);
	json_t *more = json_pack("{s:I, s:I, s:b, s:b, s:b, s:o, s:o}", "bytes", (json_int_t)p->bytes, "own_bytes",
				 (json_int_t)p->own_bytes, "pinned", p->pinned == 1, "published", p->published == 1,
				 "shared", p->shared != 0, "tenant", kvctl_json_name(p->tenant), "model",
				 kvctl_json_name(p->model));
	if (row && more)
		json_object_update(row, more);
	json_decref(more);
	return row;
}

int kvctl_show_prefixes(const struct kvctl_view *v, const struct kvctl_rows *rows)
{
	static const char *const titles[] = {
		"ID", ">TOKENS", ">PAGES", ">HOLDERS", ">CLAIMS", ">HITS", ">IDLE", ">BYTES", ">OWN", "PINNED",
		"PUBLISHED", "TENANT", "MODEL",
	};
	struct kvctl_table *t = v->json ? NULL : kvctl_table_new(titles, N(titles));
	json_t *all = v->json ? json_array() : NULL;
	for (uint64_t i = 0; i < rows->n; i++) {
		const struct kvd_row_prefix *p = kvctl_row(rows, i);
		if (v->json) {
			json_array_append_new(all, prefix_json(p));
			continue;
		}
		kvctl_table_cell(t, "%s", kvctl_prefix(p->id).s);
		kvctl_table_cell(t, "%u", p->tokens);
		kvctl_table_cell(t, "%u", p->pages);
		kvctl_table_cell(t, "%u", p->holders);
		kvctl_table_cell(t, "%u", p->claims);
		kvctl_table_cell(t, "%" PRIu64, p->hits);
		kvctl_table_cell(t, "%s", kvctl_duration(p->idle_usec).s);
		kvctl_table_cell(t, "%s", kvctl_size(p->bytes).s);
		kvctl_table_cell(t, "%s", kvctl_size(p->own_bytes).s);
		kvctl_table_cell(t, "%s", mark_word(p->pinned));
		kvctl_table_cell(t, "%s", mark_word(p->published));
		kvctl_table_cell(t, "%s", kvctl_name(p->tenant).s);
		kvctl_table_cell(t, "%s", kvctl_name(p->model).s);
	}
	return v->json ? kvctl_json(v, all) : kvctl_table_print(t, v);
}

static void limit_line(const struct kvctl_view *v, const char *key, uint64_t bytes)
{
	fprintf(v->out, "%-16s %s\n", key, bytes ? kvctl_size(bytes).s : "none");
}

int kvctl_show_quota(const struct kvctl_view *v, const struct kvctl_rows *rows)
{
	const struct kvd_row_tenant *t = kvctl_row(rows, 0);
	if (v->json)
		return kvctl_json(v, json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "name",
					       kvctl_json_name(t->name), "rss_bytes", (json_int_t)t->rss_bytes,
					       "min_bytes", (json_int_t)t->min_bytes, "low_bytes",
					       (json_int_t)t->low_bytes, "high_bytes", (json_int_t)t->high_bytes,
					       "max_bytes", (json_int_t)t->max_bytes, "weight", (json_int_t)t->weight,
					       "max_sequences", (json_int_t)t->max_sequences, "insert_bytes_per_sec",
					       (json_int_t)t->insert_bytes_per_sec));
	fprintf(v->out, "tenant %s, charged %s\n", kvctl_name(t->name).s, kvctl_size(t->rss_bytes).s);
	limit_line(v, "min", t->min_bytes);
	limit_line(v, "low", t->low_bytes);
	limit_line(v, "high", t->high_bytes);
	limit_line(v, "max", t->max_bytes);
	fprintf(v->out, "%-16s %u\n", "weight", t->weight ? t->weight : 100);
	if (t->max_sequences)
		fprintf(v->out, "%-16s %u\n", "max-sequences", t->max_sequences);
	else
		fprintf(v->out, "%-16s none\n", "max-sequences");
	limit_line(v, "insert-rate", t->insert_bytes_per_sec);
	return 0;
}
