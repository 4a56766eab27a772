/* show_rows.c - `kvctl engines`, `tenants`, `sequences`, `pages`, `extents`: a row of kvd, a line
 * of ours.
 *
 * Bytes in JSON, IEC sizes in tables.  Columns are added at the end and never moved. */
#include "client/kvctl/kvctl.h"

#define N(array) (sizeof(array) / sizeof(*(array)))

int kvctl_show_engines(const struct kvctl_view *v, const struct kvctl_rows *rows,
		       const struct kvctl_rows *status)
{
	static const char *const titles[] = {
		"ENGINE", ">PID",    "MODEL",	"FORMAT",    "STATE",
		">SEQ",	  ">RUN",    ">WAIT",	">EXTENTS",  ">PAGE",
		">TOK/S", ">PROMPT", ">CACHED", ">ANSWERED", "NUMERICS",
	};
	const struct kvd_row_status *s = status->n ? kvctl_row(status, 0) : NULL;
	struct kvctl_table *t = v->json ? NULL : kvctl_table_new(titles, N(titles));
	json_t *all = v->json ? json_array() : NULL;

	for (uint64_t i = 0; i < rows->n; i++) {
		const struct kvd_row_engine *e = kvctl_row(rows, i);
		if (v->json) {
			json_array_append_new(
				all,
				json_pack(
					"{s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:s, s:o, s:o, s:o, s:o, "
					"s:o, s:o, s:o, s:o, s:o, s:o}",
					"name", kvctl_json_name(e->name), "pid", kvctl_json_number(e->pid),
					"model", kvctl_json_name(e->model), "device",
					s ? kvctl_json_name(s->device) : json_null(), "kv_format",
					kvctl_kv_format(e->kv_format), "sequences",
					kvctl_json_number(e->sequences), "extents", kvctl_json_number(e->extents),
					"state", kvctl_engine_state(e->state), "tokens_per_s",
					kvctl_json_number(e->tokens_per_s), "number", kvctl_json_number(e->engine),
					"numerics", kvctl_json_name(e->numerics), "uid",
					kvctl_json_number(e->uid), "running", kvctl_json_number(e->running), "waiting",
					kvctl_json_number(e->waiting), "prompt_tokens",
					kvctl_json_number(e->prompt_tokens), "cached_tokens",
					kvctl_json_number(e->cached_tokens), "completion_tokens",
					kvctl_json_number(e->completion_tokens), "page_bytes",
					kvctl_json_number(e->page_bytes)));
			continue;
		}
		kvctl_table_cell(t, "%s", kvctl_name(e->name).s);
		kvctl_table_cell(t, "%u", e->pid);
		kvctl_table_cell(t, "%s", kvctl_name(e->model).s);
		kvctl_table_cell(t, "%s", kvctl_kv_format(e->kv_format));
		kvctl_table_cell(t, "%s", kvctl_engine_state(e->state));
		kvctl_table_cell(t, "%u", e->sequences);
		kvctl_table_cell(t, "%u", e->running);
		kvctl_table_cell(t, "%u", e->waiting);
		kvctl_table_cell(t, "%u", e->extents);
		kvctl_table_cell(t, "%s", kvctl_size(e->page_bytes).s);
		kvctl_table_cell(t, "%u", e->tokens_per_s);
		kvctl_table_cell(t, "%llu", (unsigned long long)e->prompt_tokens);
		kvctl_table_cell(t, "%llu", (unsigned long long)e->cached_tokens);
		kvctl_table_cell(t, "%llu", (unsigned long long)e->completion_tokens);
		kvctl_table_cell(t, "%s", kvctl_name(e->numerics).s);
	}
	return v->json ? kvctl_json(v, all) : kvctl_table_print(t, v);
}

static const char *sharing_name(uint32_t sharing)
{
	static const char *const names[] = { "private", "merge", "reuse" };
	return sharing < N(names) ? names[sharing] : "unknown";
}

int kvctl_show_tenants(const struct kvctl_view *v, const struct kvctl_rows *rows)
{
	static const char *const titles[] = {
		"TENANT", "DOMAIN", "SHARING", ">RSS",	  ">PSS",      ">USS",
		">MAX",	  ">SEQ",   ">PROMPT", ">CACHED", ">ANSWERED", ">EVICTED", ">SOME10",
	};
	struct kvctl_table *t = v->json ? NULL : kvctl_table_new(titles, N(titles));
	json_t *all = v->json ? json_array() : NULL;

	for (uint64_t i = 0; i < rows->n; i++) {
		const struct kvd_row_tenant *r = kvctl_row(rows, i);
		if (v->json) {
			json_array_append_new(
				all,
				json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, "
					  "s:o, s:o, "
					  "s:{s:f, s:f}, s:s, s:o, s:o, s:o, s:o, s:o, s:o}",
					  "name", kvctl_json_name(r->name), "domain",
					  kvctl_json_name(r->domain), "rss_bytes",
					  kvctl_json_number(r->rss_bytes), "pss_bytes",
					  kvctl_json_number(r->pss_bytes), "uss_bytes",
					  kvctl_json_number(r->uss_bytes), "spilled_bytes",
					  kvctl_json_number(r->spilled_bytes), "min_bytes",
					  kvctl_json_number(r->min_bytes), "max_bytes",
					  kvctl_json_number(r->max_bytes), "sequences",
					  kvctl_json_number(r->sequences), "prompt_tokens",
					  kvctl_json_number(r->prompt_tokens), "cached_tokens",
					  kvctl_json_number(r->cached_tokens), "completion_tokens",
					  kvctl_json_number(r->completion_tokens), "evicted_pages",
					  kvctl_json_number(r->evicted_pages), "pressure",
					  "some_avg10", (double)r->some_avg10 / 100, "full_avg10",
					  (double)r->full_avg10 / 100, "sharing",
					  sharing_name(r->sharing), "low_bytes",
					  kvctl_json_number(r->low_bytes), "high_bytes",
					  kvctl_json_number(r->high_bytes), "weight",
					  kvctl_json_number(r->weight), "throttled",
					  kvctl_json_number(r->throttled), "refault_tokens",
					  kvctl_json_number(r->refault_tokens), "stalled",
					  kvctl_json_number(r->stalled)));
			continue;
		}
		kvctl_table_cell(t, "%s", kvctl_name(r->name).s);
		kvctl_table_cell(t, "%s", kvctl_name(r->domain).s);
		kvctl_table_cell(t, "%s", sharing_name(r->sharing));
		kvctl_table_cell(t, "%s", kvctl_size(r->rss_bytes).s);
		kvctl_table_cell(t, "%s", kvctl_size(r->pss_bytes).s);
		kvctl_table_cell(t, "%s", kvctl_size(r->uss_bytes).s);
		kvctl_table_cell(t, "%s", r->max_bytes ? kvctl_size(r->max_bytes).s : "-");
		kvctl_table_cell(t, "%u", r->sequences);
		kvctl_table_cell(t, "%llu", (unsigned long long)r->prompt_tokens);
		kvctl_table_cell(t, "%llu", (unsigned long long)r->cached_tokens);
		kvctl_table_cell(t, "%llu", (unsigned long long)r->completion_tokens);
		kvctl_table_cell(t, "%llu", (unsigned long long)r->evicted_pages);
		kvctl_table_cell(t, "%u.%02u", r->some_avg10 / 100, r->some_avg10 % 100);
	}
	return v->json ? kvctl_json(v, all) : kvctl_table_print(t, v);
}

int kvctl_show_sequences(const struct kvctl_view *v, const struct kvctl_rows *rows)
{
	static const char *const titles[] = {
		"ENGINE", ">SLOT",   "TENANT",	"STATE",      ">TOKENS",
		">PAGES", ">CACHED", ">SHARED", ">PREEMPTED", ">AGE",
	};
	struct kvctl_table *t = v->json ? NULL : kvctl_table_new(titles, N(titles));
	json_t *all = v->json ? json_array() : NULL;

	for (uint64_t i = 0; i < rows->n; i++) {
		const struct kvd_row_sequence *r = kvctl_row(rows, i);
		if (v->json) {
			json_array_append_new(
				all,
				json_pack("{s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:f}",
					  "engine", kvctl_json_name(r->engine), "slot",
					  kvctl_json_number(r->slot), "tenant", kvctl_json_name(r->tenant),
					  "state", kvctl_sequence_state(r->state), "tokens",
					  kvctl_json_number(r->n_tokens), "pages", kvctl_json_number(r->pages),
					  "cached_pages", kvctl_json_number(r->cached_pages), "shared_pages",
					  kvctl_json_number(r->shared_pages), "preempted",
					  kvctl_json_number(r->preempted), "age_s",
					  (double)r->opened_usec_ago / 1e6));
			continue;
		}
		kvctl_table_cell(t, "%s", kvctl_name(r->engine).s);
		kvctl_table_cell(t, "%u", r->slot);
		kvctl_table_cell(t, "%s", kvctl_name(r->tenant).s);
		kvctl_table_cell(t, "%s", kvctl_sequence_state(r->state));
		kvctl_table_cell(t, "%u", r->n_tokens);
		kvctl_table_cell(t, "%u", r->pages);
		kvctl_table_cell(t, "%u", r->cached_pages);
		kvctl_table_cell(t, "%u", r->shared_pages);
		kvctl_table_cell(t, "%u", r->preempted);
		kvctl_table_cell(t, "%s", kvctl_duration(r->opened_usec_ago).s);
	}
	return v->json ? kvctl_json(v, all) : kvctl_table_print(t, v);
}

/* Whose extent a colour is. */
static struct kvctl_name colour_name(const struct kvctl_rows *engines, uint32_t colour)
{
	struct kvctl_name name = { "shared" };
	if (colour == 0)
		return name;
	for (uint64_t i = 0; i < engines->n; i++) {
		const struct kvd_row_engine *e = kvctl_row(engines, i);
		if (e->engine + 1 == colour)
			return kvctl_name(e->name);
	}
	snprintf(name.s, sizeof(name.s), "engine %u", colour - 1);
	return name;
}

#define NO_PAGE 0xffffffffu

static json_t *page_or_null(uint32_t page)
{
	return page == NO_PAGE ? json_null() : kvctl_json_number(page);
}

static void number_or_dash(struct kvctl_table *t, bool known, uint32_t value)
{
	if (known)
		kvctl_table_cell(t, "%u", value);
	else
		kvctl_table_cell(t, "-");
}

static void page_cells(struct kvctl_table *t, const struct kvd_row_page *r, const char *colour)
{
	bool page = r->page != NO_PAGE;
	number_or_dash(t, page, r->page);
	number_or_dash(t, page && r->parent != NO_PAGE, r->parent);
	number_or_dash(t, page, r->depth);
	kvctl_table_cell(t, "%s", kvctl_frame_state(r->state));
	number_or_dash(t, page, r->holds);
	number_or_dash(t, page, r->claims);
	kvctl_table_cell(t, "%s", r->tenant[0] ? kvctl_name(r->tenant).s : "-");
	kvctl_table_cell(t, "%s", colour);
	kvctl_table_cell(t, "%u", r->extent);
	kvctl_table_cell(t, "%u", r->slot);
	kvctl_table_cell(t, "%s", page ? kvctl_duration(r->idle_usec).s : "-");
	kvctl_table_cell(t, "%u", r->generation);
}

int kvctl_show_pages(const struct kvctl_view *v, const struct kvctl_rows *rows,
		     const struct kvctl_rows *engines)
{
	static const char *const titles[] = {
		">PAGE",  ">PARENT", ">DEPTH",	"STATE", ">HOLDS", ">CLAIMS",
		"TENANT", "COLOUR",  ">EXTENT", ">SLOT", ">IDLE",  ">GEN",
	};
	struct kvctl_table *t = v->json ? NULL : kvctl_table_new(titles, N(titles));
	json_t *all = v->json ? json_array() : NULL;
	uint64_t free_frames = 0;

	for (uint64_t i = 0; i < rows->n; i++) {
		const struct kvd_row_page *r = kvctl_row(rows, i);
		if (r->state == KVD_FRAME_FREE && !v->all) {
			free_frames++;
			continue;
		}
		struct kvctl_name colour = colour_name(engines, r->colour);
		if (v->json)
			json_array_append_new(
				all,
				json_pack("{s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:s, s:o, s:o, s:o, "
					  "s:o, s:o, s:f}",
					  "page", page_or_null(r->page), "parent",
					  page_or_null(r->parent), "depth",
					  kvctl_json_number(r->depth), "state",
					  kvctl_frame_state(r->state), "holds",
					  kvctl_json_number(r->holds), "claims",
					  kvctl_json_number(r->claims), "tenant",
					  kvctl_json_name(r->tenant), "colour", colour.s, "frame",
					  kvctl_json_number(r->frame), "extent",
					  kvctl_json_number(r->extent), "slot",
					  kvctl_json_number(r->slot), "space",
					  kvctl_json_number(r->space), "generation",
					  kvctl_json_number(r->generation), "idle_s",
					  (double)r->idle_usec / 1e6));
		else
			page_cells(t, r, colour.s);
	}
	if (v->json)
		return kvctl_json(v, all);
	int r = kvctl_table_print(t, v);
	if (v->headers && free_frames)
		fprintf(v->out, "and %llu free frames (--all lists them)\n",
			(unsigned long long)free_frames);
	return r;
}

int kvctl_show_extents(const struct kvctl_view *v, const struct kvctl_rows *rows)
{
	static const char *const titles[] = {
		">EXTENT", "STATE", "COLOUR",	">SPACE",    ">FRAMES",	     ">FREE",	">OPEN",
		">SEALED", ">COOL", ">FILLING", ">RETIRING", ">QUARANTINED", ">SHARED", ">TAIL",
	};
	struct kvctl_table *t = v->json ? NULL : kvctl_table_new(titles, N(titles));
	json_t *all = v->json ? json_array() : NULL;

	for (uint64_t i = 0; i < rows->n; i++) {
		const struct kvd_row_extent *r = kvctl_row(rows, i);
		bool assigned = r->n_frames > 0;
		struct kvctl_name colour = { "-" };
		if (assigned)
			colour = r->engine[0] ? kvctl_name(r->engine)
					      : (struct kvctl_name){ "shared" };
		if (v->json) {
			json_t *frames = json_object();
			for (uint32_t s = 0; s < KVD_FRAME_STATES; s++)
				json_object_set_new(frames, kvctl_frame_state(s),
						    kvctl_json_number(r->frames[s]));
			json_array_append_new(
				all,
				json_pack("{s:o, s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "extent",
					  kvctl_json_number(r->extent), "state", kvctl_extent_state(r->state),
					  "colour", colour.s, "space", kvctl_json_number(r->space), "n_frames",
					  kvctl_json_number(r->n_frames), "frames", frames, "shared_frames",
					  kvctl_json_number(r->shared_frames), "tail_bytes",
					  kvctl_json_number(r->tail_bytes)));
			continue;
		}
		kvctl_table_cell(t, "%u", r->extent);
		kvctl_table_cell(t, "%s", kvctl_extent_state(r->state));
		kvctl_table_cell(t, "%s", colour.s);
		number_or_dash(t, assigned, r->space);
		kvctl_table_cell(t, "%u", r->n_frames);
		for (uint32_t s = 0; s < KVD_FRAME_STATES; s++)
			kvctl_table_cell(t, "%u", r->frames[s]);
		kvctl_table_cell(t, "%u", r->shared_frames);
		kvctl_table_cell(t, "%s", kvctl_size(r->tail_bytes).s);
	}
	return v->json ? kvctl_json(v, all) : kvctl_table_print(t, v);
}
