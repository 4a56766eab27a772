/* kvctl.h - the administrator's tool: rows of admin.h in, tables for people or JSON for programs
 * out.
 *
 * main.c reads the command line, ask.c asks kvd, one file per kind of answer shows it.  What shows
 * takes rows and a FILE, so that tests need no daemon. */
#ifndef KVCTL_KVCTL_H
#define KVCTL_KVCTL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "kvd/kvd.h"

/* Rows as kvd sent them; a newer kvd may send longer ones. */
struct kvctl_rows {
	const void *rows;
	uint64_t n;
	uint32_t row_bytes;
};

static inline const void *kvctl_row(const struct kvctl_rows *rows, uint64_t i)
{
	return (const uint8_t *)rows->rows + i * rows->row_bytes;
}

enum kvctl_by { KVCTL_BY_STATE = 0, KVCTL_BY_ENGINE, KVCTL_BY_TENANT };

#define KVCTL_WORDS_MAX 16u

/* What the command line says beyond the command; zero = not given. */
struct kvctl_arguments {
	const char *word[KVCTL_WORDS_MAX]; /* behind the command */
	unsigned n_words;
	const char *socket, *tenant, *trigger;
	uint64_t prefix, bytes;
	bool dry_run, wait, follow;
	double timeout_seconds, seconds;
	bool with_tokens;
};

struct kvctl_view {
	FILE *out;
	bool json;
	bool pretty;               /* JSON on several lines: a person reads it */
	bool headers;              /* tables: the line of titles */
	bool colour;
	bool all;                  /* pages: free frames too */
	enum kvctl_by by;          /* map: what a cell shows */
	unsigned width;            /* columns of the terminal */
	struct kvctl_arguments arguments;
};

/* ---- the showers; each returns the exit code ---- */
int kvctl_show_status(const struct kvctl_view *v, const struct kvd_msg_welcome *welcome,
		      const struct kvctl_rows *status);
int kvctl_show_whoami(const struct kvctl_view *v, const struct kvd_msg_welcome *welcome);
int kvctl_show_fsck(const struct kvctl_view *v, const struct kvctl_rows *problems);
/* doctor_gpu.c: the device's numbers by NVML; null and nothing where there is none. */
json_t *kvctl_gpu_json(const char *bus);
void kvctl_gpu_line(const struct kvctl_view *v, const char *bus);
/* status: for the device's name. */
int kvctl_show_engines(const struct kvctl_view *v, const struct kvctl_rows *engines,
		       const struct kvctl_rows *status);
int kvctl_show_tenants(const struct kvctl_view *v, const struct kvctl_rows *tenants);
int kvctl_show_sequences(const struct kvctl_view *v, const struct kvctl_rows *sequences);
int kvctl_show_pages(const struct kvctl_view *v, const struct kvctl_rows *pages,
		     const struct kvctl_rows *engines);
int kvctl_show_extents(const struct kvctl_view *v, const struct kvctl_rows *extents);

struct kvctl_map {
	const struct kvd_msg_welcome *welcome;
	struct kvctl_rows extents, pages, engines, sequences;
};
int kvctl_show_map(const struct kvctl_view *v, const struct kvctl_map *map);

/* ---- values ---- */
/* "0", "512 B", "4.0K", "1.5G": at most five characters and a unit; the buffer is the caller's. */
struct kvctl_text { char s[32]; };
struct kvctl_text kvctl_size(uint64_t bytes);
struct kvctl_text kvctl_duration(uint64_t usec);
/* A name that kvd sent, made fit for terminals and JSON: what is not printable UTF-8 becomes '?'. */
struct kvctl_name { char s[256]; };
struct kvctl_name kvctl_printable(const char *field, size_t max);
#define kvctl_name(array) kvctl_printable((array), sizeof(array))
const char *kvctl_frame_state(uint32_t state);
const char *kvctl_extent_state(uint32_t state);
const char *kvctl_sequence_state(uint32_t state);
const char *kvctl_engine_state(uint32_t state);
const char *kvctl_kv_format(uint32_t format);
/* Write one JSON value and a newline; takes the reference.  Returns the exit code. */
int kvctl_json(const struct kvctl_view *v, json_t *value);
#define kvctl_json_number(value) json_integer((json_int_t)(value))
#define kvctl_json_name(array) json_string(kvctl_name(array).s)

/* ---- tables (table.c): columns as wide as they must be; titles that begin with '>' are numbers ---- */
struct kvctl_table;
struct kvctl_table *kvctl_table_new(const char *const *titles, unsigned n_titles);
void kvctl_table_cell(struct kvctl_table *t, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* Print and free; returns the exit code (1 where memory ran out). */
int kvctl_table_print(struct kvctl_table *t, const struct kvctl_view *v);

/* ---- map_runs.c: the longest shared chains ---- */
struct kvctl_run {
	uint32_t first, pages;     /* page number of the first page; pages in the chain */
	uint32_t depth;            /* index of the first in its sequence */
	uint32_t holds, claims;    /* of its most held and most claimed page */
	const char *tenant;        /* who made the first page */
};
bool kvctl_page_is_shared(const struct kvd_row_page *page);
/* Find the runs, longest first.  Returns their number, at most max; UINT32_MAX: no memory. */
uint32_t kvctl_map_runs(const struct kvctl_rows *pages, struct kvctl_run *ret, uint32_t max);

/* ---- steer.c: what changes kvd; each returns the exit code ---- */
int kvctl_pin(const struct kvctl_view *v, struct kvd_connection *c);
int kvctl_unpin(const struct kvctl_view *v, struct kvd_connection *c);
int kvctl_publish(const struct kvctl_view *v, struct kvd_connection *c);
int kvctl_unpublish(const struct kvctl_view *v, struct kvd_connection *c);
int kvctl_evict(const struct kvctl_view *v, struct kvd_connection *c);
int kvctl_quota(const struct kvctl_view *v, struct kvd_connection *c);
int kvctl_drain(const struct kvctl_view *v, struct kvd_connection *c);
int kvctl_events(const struct kvctl_view *v, struct kvd_connection *c);
int kvctl_psi(const struct kvctl_view *v, struct kvd_connection *c);
int kvctl_trace(const struct kvctl_view *v, struct kvd_connection *c);
int kvctl_show_psi(const struct kvctl_view *v, const struct kvctl_rows *rows);
int kvctl_explain(const struct kvctl_view *v, struct kvd_connection *c);
int kvctl_show_plan(const struct kvctl_view *v, const struct kvctl_rows *rows);
int kvctl_show_cost(const struct kvctl_view *v, const struct kvctl_rows *rows);
int kvctl_show_trace(const struct kvctl_view *v, const struct kvctl_rows *rows);
bool kvctl_trigger_parse(const char *text, uint64_t number[8]);
/* c NULL: kvd does not answer. */
int kvctl_doctor(const struct kvctl_view *v, struct kvd_connection *c);
int kvctl_replay(const struct kvctl_view *v, struct kvd_connection *c);
int kvctl_record(const struct kvctl_view *v, struct kvd_connection *c);
int kvctl_show_event(const struct kvctl_view *v, const struct kvd_msg_event *event);
int kvctl_show_smaps(const struct kvctl_view *v, bool admin, const struct kvctl_rows *rows);
int kvctl_show_prefixes(const struct kvctl_view *v, const struct kvctl_rows *rows);
int kvctl_show_quota(const struct kvctl_view *v, const struct kvctl_rows *tenants);
/* A prefix as people write it, "7f3a9c01-1b". */
struct kvctl_text kvctl_prefix(uint64_t id);
bool kvctl_prefix_parse(const char *text, uint64_t *ret_id);
bool kvctl_size_parse(const char *text, uint64_t *ret_bytes); /* "512M"; at most 2^60 */

/* ---- ask.c ---- */
/* One line on stderr: "kvctl: ..."; returns exit_code. */
int kvctl_complain(int exit_code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Exit code of a failed library call, after its sentence. */
int kvctl_fail(struct kvd_connection *c, int result);
/* Ask; on failure the sentence is printed, the exit code returned and *ret empty. */
int kvctl_ask(struct kvd_connection *c, enum kvd_query what, const char *argument, struct kvctl_rows *ret);
void kvctl_release(struct kvctl_rows *rows);

/* ---- commands.c ---- */
enum kvctl_who { KVCTL_ANY, KVCTL_ADMIN, KVCTL_HOST };
struct kvctl_command {
	const char *name, *operands;
	unsigned least, most;      /* words behind the command */
	enum kvctl_who who;
	const char *help;
	int (*run)(const struct kvctl_view *v, struct kvd_connection *c);
};
extern const struct kvctl_command kvctl_commands[];
extern const unsigned kvctl_n_commands;
/* The command of that name, NULL if there is none; then *ret_near may be one that was perhaps
 * meant. */
const struct kvctl_command *kvctl_command_find(const char *name, const char **ret_near);

/* ---- arguments.c ---- */
struct kvctl_line {
	const struct kvctl_command *command;
	const char *socket;
	char **argv;
	double watch_seconds;      /* 0: once */
	bool help, version;        /* nothing else is set */
	struct kvctl_view view;    /* its defaults are the caller's */
	char error[256];           /* the sentence of a failure */
};
/* Returns 0, or 2: wrong usage. */
int kvctl_arguments(struct kvctl_line *a, int argc, char **argv);

#endif
