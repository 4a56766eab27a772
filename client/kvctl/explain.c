/* explain.c - `kvctl psi`, `cost`, `trace`, `explain` and the plan of `evict --dry-run`.
 *
 * psi prints the kernel's text of /proc/pressure; its triggers take the kernel's words.  explain and the dry
 * run print rows of the one plan that reclaim acts by. */
#include "client/kvctl/kvctl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "kvd/shm.h"

#define N(array) (sizeof(array) / sizeof(*(array)))

static json_t *percent(uint32_t hundredths) { return json_real((double)hundredths / 100); }

/* ---- psi ---- */

static json_t *psi_line(uint32_t avg10, uint32_t avg60, uint32_t avg300, uint64_t total_usec)
{
	return json_pack("{s:o, s:o, s:o, s:o}", "avg10", percent(avg10), "avg60", percent(avg60), "avg300",
			 percent(avg300), "total", kvctl_json_number(total_usec));
}

static void psi_text(const struct kvctl_view *v, const char *word, uint32_t avg10, uint32_t avg60, uint32_t avg300,
		     uint64_t total_usec)
{
	fprintf(v->out, "%s avg10=%u.%02u avg60=%u.%02u avg300=%u.%02u total=%" PRIu64 "\n", word, avg10 / 100,
		avg10 % 100, avg60 / 100, avg60 % 100, avg300 / 100, avg300 % 100, total_usec);
}

int kvctl_show_psi(const struct kvctl_view *v, const struct kvctl_rows *rows)
{
	const char *wanted = v->arguments.n_words ? v->arguments.word[0] : NULL;
	json_t *all = v->json ? json_array() : NULL;
	unsigned shown = 0;
	for (uint64_t i = 0; i < rows->n; i++) {
		const struct kvd_row_psi *p = kvctl_row(rows, i);
		bool pool = !p->tenant[0];
		if (wanted ? strncmp(p->tenant, wanted, sizeof(p->tenant)) : !pool && !v->json && rows->n > 1)
			continue;            /* without a name: the pool, or the one row that is ours */
		shown++;
		if (v->json) {
			json_array_append_new(
				all,
				json_pack("{s:o, s:o, s:o, s:o, s:o}", "tenant",
					  pool ? json_null() : kvctl_json_name(p->tenant), "some",
					  psi_line(p->some_avg10, p->some_avg60, p->some_avg300,
						   p->some_total_usec),
					  "full",
					  psi_line(p->full_avg10, p->full_avg60, p->full_avg300,
						   p->full_total_usec),
					  "stalled", kvctl_json_number(p->stalled), "running",
					  kvctl_json_number(p->running)));
			continue;
		}
		psi_text(v, "some", p->some_avg10, p->some_avg60, p->some_avg300, p->some_total_usec);
		psi_text(v, "full", p->full_avg10, p->full_avg60, p->full_avg300, p->full_total_usec);
	}
	if (wanted && !shown) {
		json_decref(all);
		return kvctl_complain(1, "there is no tenant %s, or it is not yours; see `kvctl tenants`", wanted);
	}
	return v->json ? kvctl_json(v, all) : 0;
}

/* "some 150000 1000000", as one writes to /proc/pressure/memory. */
bool kvctl_trigger_parse(const char *text, uint64_t number[8])
{
	char *end;
	if (strncmp(text, "some ", 5) && strncmp(text, "full ", 5))
		return false;
	number[0] = *text == 'f';
	errno = 0;
	number[1] = strtoull(text + 5, &end, 10);
	if (*end != ' ' || text[5] < '0' || text[5] > '9' || end[1] < '0' || end[1] > '9')
		return false;
	number[2] = strtoull(end + 1, &end, 10);
	return !*end && !errno;
}

static int psi_trigger(const struct kvctl_view *v, struct kvd_connection *c)
{
	const char *tenant = v->arguments.n_words ? v->arguments.word[0] : NULL;
	uint64_t number[8] = { 0 };
	struct kvd_msg_event event;
	int r;
	if (!kvctl_trigger_parse(v->arguments.trigger, number))
		return kvctl_complain(2,
				      "--trigger %s; write for example \"some 150000 1000000\": "
				      "stall and window in "
				      "microseconds",
				      v->arguments.trigger);
	if ((r = kvd_steer(c, KVD_STEER_TRIGGER, tenant, number, -1, NULL)) != 0)
		return kvctl_fail(c, r);
	while ((r = kvd_event(c, -1, &event)) == 0) {
		kvctl_show_event(v, &event);
		if (fflush(v->out) != 0)
			return kvctl_complain(1, "cannot write the events: %s", strerror(errno));
	}
	return kvctl_fail(c, r);
}

int kvctl_psi(const struct kvctl_view *v, struct kvd_connection *c)
{
	struct kvctl_rows rows;
	if (v->arguments.trigger)
		return psi_trigger(v, c);
	int r = kvctl_ask(c, KVD_Q_PSI, NULL, &rows);
	if (r == 0)
		r = kvctl_show_psi(v, &rows);
	kvctl_release(&rows);
	return r;
}

/* ---- the plan ---- */

static const char *class_word(uint32_t class)
{
	static const char *const words[] = { "over-high", "normal", "low", "guarded", "in-use" };
	return class < N(words) ? words[class] : "unknown";
}

/* Why it goes, or does not, in words. */
static const char *class_text(const struct kvd_row_plan *p)
{
	if (p->pinned)
		return "an administrator has pinned it";
	switch (p->class) {
	case KVD_CLASS_OVER_HIGH: return "its owner is above its high: first to go";
	case KVD_CLASS_NORMAL: return "goes when memory is needed";
	case KVD_CLASS_LOW: return "its owner is at or below its low: last to go";
	case KVD_CLASS_GUARDED: return "kept by its owner's min";
	case KVD_CLASS_IN_USE:
		return p->holds ? "a sequence has it in its table"
				: "pages that go on from it go first";
	}
	return "";
}

static json_t *plan_json(const struct kvd_row_plan *p)
{
	json_t *row = json_pack("{s:o, s:o, s:s, s:s, s:s, s:f, s:f, s:o, s:o}", "rank",
				p->rank == UINT32_MAX ? json_null() : kvctl_json_number(p->rank), "tenant",
				kvctl_json_name(p->tenant), "prefix", kvctl_prefix(p->prefix).s,
				"class", class_word(p->class), "why", class_text(p), "idle_s",
				(double)p->idle_usec / 1e6, "worth_s", (double)p->worth_usec / 1e6,
				"frees_bytes", kvctl_json_number(p->frees_bytes), "charge_bytes",
				kvctl_json_number(p->charge_bytes));
	json_t *more = json_pack(
		"{s:f, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "hits", (double)p->hits_256 / 256,
		"recompute_tokens", kvctl_json_number(p->recompute_tokens), "tokens_per_mib",
		kvctl_json_number(p->tokens_per_mib), "page", kvctl_json_number(p->depth), "holds",
		kvctl_json_number(p->holds), "children", kvctl_json_number(p->children),
		"owner_bytes", kvctl_json_number(p->owner_bytes), "owner_low_bytes",
		kvctl_json_number(p->owner_low_bytes), "owner_min_bytes",
		kvctl_json_number(p->owner_min_bytes));
	if (row && more)
		json_object_update(row, more);
	json_decref(more);
	return row;
}

int kvctl_show_plan(const struct kvctl_view *v, const struct kvctl_rows *rows)
{
	static const char *const titles[] = {
		">RANK", "TENANT", "PREFIX", ">PAGE", "CLASS", ">IDLE", ">HITS", ">WORTH", ">FREES", ">CHARGE", "WHY",
	};
	struct kvctl_table *t = v->json ? NULL : kvctl_table_new(titles, N(titles));
	json_t *all = v->json ? json_array() : NULL;
	for (uint64_t i = 0; i < rows->n; i++) {
		const struct kvd_row_plan *p = kvctl_row(rows, i);
		if (v->json) {
			json_array_append_new(all, plan_json(p));
			continue;
		}
		kvctl_table_cell(t, p->rank == UINT32_MAX ? "-" : "%u", p->rank);
		kvctl_table_cell(t, "%s", kvctl_name(p->tenant).s);
		kvctl_table_cell(t, "%s", kvctl_prefix(p->prefix).s);
		kvctl_table_cell(t, "%u", p->depth);
		kvctl_table_cell(t, "%s", class_word(p->class));
		kvctl_table_cell(t, "%s", kvctl_duration(p->idle_usec).s);
		kvctl_table_cell(t, "%.1f", (double)p->hits_256 / 256);
		kvctl_table_cell(t, "%s", kvctl_duration(p->worth_usec).s);
		kvctl_table_cell(t, "%s", kvctl_size(p->frees_bytes).s);
		kvctl_table_cell(t, "%s", kvctl_size(p->charge_bytes).s);
		kvctl_table_cell(t, "%s", class_text(p));
	}
	return v->json ? kvctl_json(v, all) : kvctl_table_print(t, v);
}

/* explain page N | prefix ID | tenant NAME */
int kvctl_explain(const struct kvctl_view *v, struct kvd_connection *c)
{
	const char *what = v->arguments.word[0], *which = v->arguments.word[1];
	char argument[KVD_NAME_MAX];
	struct kvctl_rows rows;
	uint64_t id = 0;
	int n = -1;
	if (!strcmp(what, "page") || !strcmp(what, "tenant"))
		n = snprintf(argument, sizeof(argument), "%s %s", what, which);
	else if (!strcmp(what, "prefix") && kvctl_prefix_parse(which, &id))
		n = snprintf(argument, sizeof(argument), "prefix %" PRIx64, id);
	if (n < 0 || n >= (int)sizeof(argument))
		return kvctl_complain(2, "explain what? write `explain page FRAME`, `prefix ID` or `tenant NAME`");
	int r = kvctl_ask(c, KVD_Q_EXPLAIN, argument, &rows);
	if (r == 0 && !rows.n && strcmp(what, "tenant"))
		r = kvctl_complain(1, "there is no such %s, nobody claims it, or it is not yours", what);
	else if (r == 0)
		r = kvctl_show_plan(v, &rows);
	kvctl_release(&rows);
	return r;
}

/* ---- cost ---- */

int kvctl_show_cost(const struct kvctl_view *v, const struct kvctl_rows *rows)
{
	static const char *const titles[] = {
		"TENANT", ">COMPUTED", ">CACHED", ">ANSWERED", ">AGAIN", ">GIB*H_RSS", ">GIB*H_PSS",
	};
	const double gib_hours = 3600.0 * 1073741824.0;
	struct kvctl_table *t = v->json ? NULL : kvctl_table_new(titles, N(titles));
	json_t *all = v->json ? json_array() : NULL;
	for (uint64_t i = 0; i < rows->n; i++) {
		const struct kvd_row_cost *r = kvctl_row(rows, i);
		if (v->json) {
			json_array_append_new(
				all, json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "tenant",
					       kvctl_json_name(r->tenant), "computed_tokens",
					       kvctl_json_number(r->computed_tokens), "cached_tokens",
					       kvctl_json_number(r->cached_tokens), "completion_tokens",
					       kvctl_json_number(r->completion_tokens), "refault_tokens",
					       kvctl_json_number(r->refault_tokens), "rss_byte_seconds",
					       kvctl_json_number(r->rss_byte_seconds), "pss_byte_seconds",
					       kvctl_json_number(r->pss_byte_seconds)));
			continue;
		}
		kvctl_table_cell(t, "%s", kvctl_name(r->tenant).s);
		kvctl_table_cell(t, "%" PRIu64, r->computed_tokens);
		kvctl_table_cell(t, "%" PRIu64, r->cached_tokens);
		kvctl_table_cell(t, "%" PRIu64, r->completion_tokens);
		kvctl_table_cell(t, "%" PRIu64, r->refault_tokens);
		kvctl_table_cell(t, "%.4f", (double)r->rss_byte_seconds / gib_hours);
		kvctl_table_cell(t, "%.4f", (double)r->pss_byte_seconds / gib_hours);
	}
	return v->json ? kvctl_json(v, all) : kvctl_table_print(t, v);
}

/* ---- trace ---- */

static const char *trace_word(uint32_t kind)
{
	switch (kind) {
#define KVD_TRACE(name, number, word, a, b) case number: return word;
#include "kvd/trace.def"
#undef KVD_TRACE
	}
	return "unknown";
}

static const char *verb_word(const struct kvd_row_trace *r)
{
	static const char *const verbs[] = {"?",        "open",  "grow", "seal",  "fork",
					    "truncate", "close", "park", "resume"};
	static const char *const moves[] = { "?", "scrub", "copy", "compare", "scrub-extent", "spill", "fetch" };
	if (r->kind == KVD_TRACE_MOVE || r->kind == KVD_TRACE_MOVED)
		return r->verb < N(moves) ? moves[r->verb] : "?";
	if (r->kind == KVD_TRACE_ENTRY)
		return "-";
	return r->verb < N(verbs) ? verbs[r->verb] : r->verb == KVD_EV_PREEMPT ? "preempt"
					       : r->verb == KVD_EV_DRAIN ? "drain" : "?";
}

static const char *trace_status(const struct kvd_row_trace *r)
{
	if (r->kind == KVD_TRACE_MOVED)
		return !(r->status & 1) ? "failed" : r->status & 2 ? "differs" : "ok";
	return r->kind == KVD_TRACE_ANSWER ? kvd_status_text((int)r->status) : "";
}

int kvctl_show_trace(const struct kvctl_view *v, const struct kvctl_rows *rows)
{
	static const char *const titles[] = { ">AGO", "WHAT", "VERB", "ENGINE", ">SLOT", ">A", ">B", "STATUS" };
	struct kvctl_table *t = v->json ? NULL : kvctl_table_new(titles, N(titles));
	json_t *all = v->json ? json_array() : NULL;
	for (uint64_t i = 0; i < rows->n; i++) {
		const struct kvd_row_trace *r = kvctl_row(rows, i);
		if (v->json) {
			json_array_append_new(
				all,
				json_pack("{s:f, s:s, s:s, s:o, s:o, s:o, s:o, s:s}", "ago_s",
					  (double)r->usec_ago / 1e6, "what", trace_word(r->kind),
					  "verb", verb_word(r), "engine",
					  kvctl_json_name(r->engine), "slot",
					  r->slot == UINT32_MAX ? json_null() : kvctl_json_number(r->slot),
					  "a", r->a == UINT32_MAX ? json_null() : kvctl_json_number(r->a), "b",
					  r->b == UINT32_MAX ? json_null() : kvctl_json_number(r->b), "status",
					  trace_status(r)));
			continue;
		}
		kvctl_table_cell(t, "%s", kvctl_duration(r->usec_ago).s);
		kvctl_table_cell(t, "%s", trace_word(r->kind));
		kvctl_table_cell(t, "%s", verb_word(r));
		kvctl_table_cell(t, "%s", r->engine[0] ? kvctl_name(r->engine).s : "-");
		kvctl_table_cell(t, r->slot == UINT32_MAX ? "-" : "%u", r->slot);
		kvctl_table_cell(t, r->a == UINT32_MAX ? "-" : "%u", r->a);
		kvctl_table_cell(t, r->b == UINT32_MAX ? "-" : "%u", r->b);
		kvctl_table_cell(t, "%s", trace_status(r));
	}
	return v->json ? kvctl_json(v, all) : kvctl_table_print(t, v);
}

/* trace page N | trace sequence ENGINE SLOT */
int kvctl_trace(const struct kvctl_view *v, struct kvd_connection *c)
{
	const struct kvctl_arguments *a = &v->arguments;
	char argument[KVD_NAME_MAX];
	struct kvctl_rows rows;
	int n = -1;
	if (!strcmp(a->word[0], "page") && a->n_words == 2)
		n = snprintf(argument, sizeof(argument), "page %s", a->word[1]);
	else if (!strcmp(a->word[0], "sequence") && a->n_words == 3)
		n = snprintf(argument, sizeof(argument), "sequence %s %s", a->word[2], a->word[1]);
	if (n < 0 || n >= (int)sizeof(argument))
		return kvctl_complain(2, "trace what? write `trace sequence ENGINE SLOT` or `trace page FRAME`");
	int r = kvctl_ask(c, KVD_Q_TRACE, argument, &rows);
	if (r == 0)
		r = kvctl_show_trace(v, &rows);
	kvctl_release(&rows);
	return r;
}
