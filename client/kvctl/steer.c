/* steer.c - the commands that change kvd: pin, publish, evict, quota, drain; and events.
 *
 * Each asks kvd for one thing and says in one line what came of it.  Who may is kvd's business: its refusal
 * is printed and is exit 4. */
#include "client/kvctl/kvctl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- prefixes ---- */

static int steer_prefix(const struct kvctl_view *v, struct kvd_connection *c, enum kvd_steer what,
			const char *done)
{
	uint64_t number[8] = { 0 };
	struct kvd_msg_steered steered;
	if (!kvctl_prefix_parse(v->arguments.word[0], &number[0]))
		return kvctl_complain(2, "%s is no name of a prefix; see `kvctl prefixes`", v->arguments.word[0]);
	int r = kvd_steer(c, what, NULL, number, -1, &steered);
	if (r != 0)
		return kvctl_fail(c, r);
	if (v->json)
		return kvctl_json(v, json_pack("{s:s, s:s, s:I, s:I}", "prefix", kvctl_prefix(number[0]).s, "done",
					       done, "pages", (json_int_t)steered.pages, "bytes",
					       (json_int_t)steered.bytes));
	fprintf(v->out, "%s %s: %" PRIu64 " pages, %s\n", done, kvctl_prefix(number[0]).s, steered.pages,
		kvctl_size(steered.bytes).s);
	return 0;
}

int kvctl_pin(const struct kvctl_view *v, struct kvd_connection *c)
{
	return steer_prefix(v, c, KVD_STEER_PIN, "pinned");
}

int kvctl_unpin(const struct kvctl_view *v, struct kvd_connection *c)
{
	return steer_prefix(v, c, KVD_STEER_UNPIN, "unpinned");
}

int kvctl_publish(const struct kvctl_view *v, struct kvd_connection *c)
{
	return steer_prefix(v, c, KVD_STEER_PUBLISH, "published");
}

int kvctl_unpublish(const struct kvctl_view *v, struct kvd_connection *c)
{
	return steer_prefix(v, c, KVD_STEER_UNPUBLISH, "unpublished");
}

/* ---- evict ---- */

/* The rows come from the act itself, which kvd undoes again. */
static int evict_dry(const struct kvctl_view *v, struct kvd_connection *c)
{
	const struct kvctl_arguments *a = &v->arguments;
	char argument[KVD_NAME_MAX];
	struct kvctl_rows rows;
	int n = a->prefix ? snprintf(argument, sizeof(argument), "prefix %" PRIx64, a->prefix)
			  : snprintf(argument, sizeof(argument), "%" PRIu64 "%s%s", a->bytes, a->tenant ? " " : "",
				     a->tenant ? a->tenant : "");
	if (n >= (int)sizeof(argument))
		return kvctl_complain(2, "%s is longer than a tenant's name may be", a->tenant);
	int r = kvctl_ask(c, KVD_Q_DRY_EVICT, argument, &rows);
	if (r == 0)
		r = kvctl_show_plan(v, &rows);
	uint64_t bytes = 0;
	for (uint64_t i = 0; i < rows.n; i++)
		bytes += ((const struct kvd_row_plan *)kvctl_row(&rows, i))->frees_bytes;
	if (r == 0 && !v->json)
		fprintf(v->out, "would evict %" PRIu64 " claims and free %s\n", rows.n, kvctl_size(bytes).s);
	kvctl_release(&rows);
	return r;
}

int kvctl_evict(const struct kvctl_view *v, struct kvd_connection *c)
{
	const struct kvctl_arguments *a = &v->arguments;
	uint64_t number[8] = { a->prefix, a->bytes }, pages = 0, bytes = 0;
	struct kvd_msg_steered steered;
	int r;
	if (!a->tenant && !a->prefix && !a->bytes)
		return kvctl_complain(2, "evict what? give --tenant NAME, --prefix ID or --bytes SIZE");
	if (a->prefix && (a->tenant || a->bytes))
		return kvctl_complain(2, "--prefix goes with neither --tenant nor --bytes");
	if (a->dry_run)
		return evict_dry(v, c);
	do {
		r = kvd_steer(c, KVD_STEER_EVICT, a->tenant, number, -1, &steered);
		if (r != 0)
			return kvctl_fail(c, r);
		pages += steered.pages;
		bytes += steered.bytes;
		number[1] = a->bytes > bytes ? a->bytes - bytes : 0;
	} while (steered.more && (!a->bytes || number[1]));
	if (v->json)
		return kvctl_json(v, json_pack("{s:I, s:I}", "pages", (json_int_t)pages, "bytes", (json_int_t)bytes));
	fprintf(v->out, "evicted %" PRIu64 " pages, %s\n", pages, kvctl_size(bytes).s);
	return 0;
}

/* ---- quota ---- */

static const struct { const char *word; bool size; } quota_keys[] = {
	{ "min", true }, { "low", true }, { "high", true }, { "max", true },
	{ "weight", false }, { "max-sequences", false }, { "insert-rate", true },
};

static bool take_number(const char *text, uint64_t *ret)
{
	char *end;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && !errno && *ret <= UINT32_MAX;
}

static int take_quota(const char *word, uint64_t number[8])
{
	const char *equals = strchr(word, '=');
	for (unsigned i = 0; equals && i < sizeof(quota_keys) / sizeof(quota_keys[0]); i++) {
		size_t n = strlen(quota_keys[i].word);
		if ((size_t)(equals - word) != n || memcmp(word, quota_keys[i].word, n))
			continue;
		bool size = quota_keys[i].size;
		if (!(size ? kvctl_size_parse : take_number)(equals + 1, &number[i]))
			return kvctl_complain(2, "%s is no %s", word,
					      size ? "size; write for example 512M" : "number");
		number[7] |= 1u << i;
		return 0;
	}
	return kvctl_complain(2, "%s is none of min= low= high= max= weight= max-sequences= insert-rate=", word);
}

/* The row of one tenant alone. */
static int show_quota(const struct kvctl_view *v, struct kvd_connection *c, const char *tenant)
{
	struct kvctl_rows rows;
	int r = kvctl_ask(c, KVD_Q_TENANTS, NULL, &rows);
	for (uint64_t i = 0; r == 0 && i < rows.n; i++) {
		const struct kvd_row_tenant *row = kvctl_row(&rows, i);
		struct kvctl_rows one = { .rows = row, .n = 1, .row_bytes = rows.row_bytes };
		if (strncmp(row->name, tenant, sizeof(row->name)))
			continue;
		r = kvctl_show_quota(v, &one);
		kvctl_release(&rows);
		return r;
	}
	kvctl_release(&rows);
	return r ? r : kvctl_complain(1, "there is no tenant %s, or it is not yours; see `kvctl tenants`", tenant);
}

int kvctl_quota(const struct kvctl_view *v, struct kvd_connection *c)
{
	const struct kvctl_arguments *a = &v->arguments;
	uint64_t number[8] = { 0 };
	int r = 0;
	for (unsigned i = 1; i < a->n_words && r == 0; i++)
		r = take_quota(a->word[i], number);
	if (r != 0)
		return r;
	if (number[7] && (r = kvd_steer(c, KVD_STEER_QUOTA, a->word[0], number, -1, NULL)) != 0)
		return kvctl_fail(c, r);
	return show_quota(v, c, a->word[0]);
}

/* ---- drain ---- */

/* Sequences of an engine; -1: there is none of that name any more; -2: *ret_exit says why not known. */
static int engine_sequences(struct kvd_connection *c, const char *name, int *ret_exit)
{
	struct kvctl_rows rows;
	int n = -1;
	*ret_exit = kvctl_ask(c, KVD_Q_ENGINES, NULL, &rows);
	if (*ret_exit)
		return -2;
	for (uint64_t i = 0; i < rows.n; i++) {
		const struct kvd_row_engine *row = kvctl_row(&rows, i);
		if (!strncmp(row->name, name, sizeof(row->name)) && row->state != 2)
			n = (int)(row->sequences + row->running + row->waiting);
	}
	kvctl_release(&rows);
	return n;
}

int kvctl_drain(const struct kvctl_view *v, struct kvd_connection *c)
{
	const char *name = v->arguments.word[0];
	double left = v->arguments.timeout_seconds > 0 ? v->arguments.timeout_seconds : 600;
	int n = 0, exit_code, r = kvd_steer(c, KVD_STEER_DRAIN, name, NULL, -1, NULL);
	if (r != 0)
		return kvctl_fail(c, r);
	while (v->arguments.wait && (n = engine_sequences(c, name, &exit_code)) > 0) {
		if (left <= 0)
			return kvctl_complain(5, "engine %s still serves %d sequences; it goes on draining", name, n);
		usleep(100000);
		left -= 0.1;
	}
	if (n == -2)
		return exit_code;
	if (v->json)
		return kvctl_json(v, json_pack("{s:s, s:b}", "engine", name, "drained", v->arguments.wait));
	fprintf(v->out, "%s %s\n", name, v->arguments.wait ? "serves nobody any more" : "takes no new streams");
	return 0;
}

/* ---- events ---- */

static const char *event_word(uint32_t kind)
{
	switch (kind) {
#define KVD_EVENT(name, number, word, a, b, text) case number: return word;
#include "kvd/event.def"
#undef KVD_EVENT
	}
	return "unknown";
}

static void event_numbers(uint32_t kind, const char **ret_a, const char **ret_b)
{
	*ret_a = *ret_b = "";
	switch (kind) {
#define KVD_EVENT(name, number, word, a, b, text) case number: *ret_a = a; *ret_b = b; break;
#include "kvd/event.def"
#undef KVD_EVENT
	}
}

int kvctl_show_event(const struct kvctl_view *v, const struct kvd_msg_event *event)
{
	time_t second = (time_t)(event->realtime_usec / 1000000u);
	struct tm tm;
	char clock[32];
	const char *a, *b;
	localtime_r(&second, &tm);
	strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
	event_numbers(event->kind, &a, &b);
	if (v->json) {
		struct kvctl_view line = *v;
		line.pretty = false;
		return kvctl_json(
			&line,
			json_pack("{s:I, s:f, s:s, s:o, s:o, s:o, s:I, s:I, s:o, s:I}", "number",
				  (json_int_t)event->number, "time",
				  (double)event->realtime_usec / 1e6, "event",
				  event_word(event->kind), "tenant", kvctl_json_name(event->tenant),
				  "engine", kvctl_json_name(event->engine), "slot",
				  event->slot == UINT32_MAX ? json_null()
							    : json_integer(event->slot),
				  "a", (json_int_t)event->a, "b", (json_int_t)event->b, "text",
				  kvctl_json_name(event->text), "lost", (json_int_t)event->lost));
	}
	if (event->lost)
		fprintf(v->out, "-- %u events lost: they came faster than they were read --\n", event->lost);
	fprintf(v->out, "%s.%03u %-10s", clock, (unsigned)(event->realtime_usec / 1000 % 1000),
		event_word(event->kind));
	if (event->tenant[0])
		fprintf(v->out, " %s", kvctl_name(event->tenant).s);
	if (event->engine[0])
		fprintf(v->out, " engine=%s", kvctl_name(event->engine).s);
	if (event->slot != UINT32_MAX)
		fprintf(v->out, " slot=%u", event->slot);
	if (*a)
		fprintf(v->out, " %s=%" PRIu64, a, event->a);
	if (*b)
		fprintf(v->out, " %s=%" PRIu64, b, event->b);
	fprintf(v->out, "%s%s\n", event->text[0] ? "  " : "", kvctl_name(event->text).s);
	return 0;
}

int kvctl_events(const struct kvctl_view *v, struct kvd_connection *c)
{
	uint64_t number[8] = { 0, UINT64_MAX };
	struct kvctl_view view = *v;
	struct kvd_msg_event event;
	int r = kvd_steer(c, KVD_STEER_WATCH, NULL, number, -1, NULL);
	if (r != 0)
		return kvctl_fail(c, r);
	view.json = v->json || (v->arguments.follow && !isatty(fileno(v->out)));
	/* What is past comes at once. */
	while ((r = kvd_event(c, v->arguments.follow ? -1 : 200, &event)) == 0) {
		kvctl_show_event(&view, &event);
		if (fflush(v->out) != 0)
			return kvctl_complain(1, "cannot write the events: %s", strerror(errno));
	}
	return r == -EAGAIN ? 0 : kvctl_fail(c, r);
}
