/* jinja.h - renders one chat template of a model file: the Jinja that such templates use.
 *
 * A template comes with a model that somebody downloaded, its data from clients: both are hostile
 * until proven otherwise.  One rendering owns one arena; memory, evaluation steps, nesting and
 * output are bounded, and every failure is one sentence that names line and column.
 *
 * What is rendered follows jinja2 in an ImmutableSandboxedEnvironment with trim_blocks and
 * lstrip_blocks on, keep_trailing_newline off, and the loopcontrols extension.
 * Thread: any; a rendering shares nothing with another.  Nothing here reads files or the clock. */
#ifndef ENGINE_JINJA_JINJA_H
#define ENGINE_JINJA_JINJA_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <jansson.h>

struct jinja_limits {
	size_t template_bytes; /* longest source; default 1 MiB: the longest public one is 20 KiB */
	size_t memory_bytes;    /* the arena: syntax tree, values, text; default 64 MiB */
	size_t output_bytes;    /* rendered text, also of one macro or set block; default 16 MiB */
	uint64_t steps;         /* about 10 ns each; default 50 million */
	unsigned depth; /* nesting of syntax, calls and data; default 400 (~0.5 MiB of stack) */
};

#define JINJA_LIMITS_DEFAULT \
	{ .template_bytes = 1 << 20, .memory_bytes = 64 << 20, .output_bytes = 16 << 20, \
	  .steps = 50 * 1000 * 1000, .depth = 400 }

/* Render a template.
 *
 * source, n    UTF-8, need not end in NUL
 * context      a JSON object: the template's variables; borrowed
 * now          what strftime_now() tells, in local time
 * limits       NULL for the defaults
 * ret_text     malloc'ed and NUL-terminated, the caller frees it; untouched on failure
 * err          one sentence on failure, "line 3, column 7: ..."
 * Returns      0; -EINVAL for a template or data that cannot be rendered; -EBADMSG if the
 *              template itself refused the data with raise_exception(); -EOVERFLOW if a limit
 *              was reached; -ENOMEM. */
int jinja_render(const char *source, size_t n, json_t *context, time_t now,
	const struct jinja_limits *limits, char **ret_text, size_t *ret_n, char *err,
	size_t errlen);

#endif
