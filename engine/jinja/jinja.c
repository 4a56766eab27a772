/* jinja.c - one rendering from start to end.  The only place that catches jinja_fail(). */
#include "engine/jinja/jinja.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "engine/jinja/object.h"
#include "engine/jinja/utf8.h"

/* Runs between setjmp and the end; everything it makes is in the arena. */
static struct value render(struct run *run, const char *source, size_t n, json_t *context)
{
	struct names names;
	struct node *tree;
	struct buffer text = { 0 };
	size_t bad = jinja_utf8_check(source, n);

	if (n > run->limits.template_bytes)
		jinja_fail(run, -EOVERFLOW, "the template has %zu bytes, more than %zu", n,
			run->limits.template_bytes);
	if (bad < n)
		jinja_fail(run, -EINVAL, "the template is not UTF-8: bad byte 0x%02x at offset %zu",
			(unsigned char)source[bad], bad);
	tree = jinja_parse(run, &names, source, n);
	run->line = run->column = 1;
	run->context = jinja_from_json(run, context).dict;
	run->root = jinja_scope_new(run, NULL);
	jinja_exec(run, &names, run->root, tree, &text);
	return value_buffer(&text);
}

int jinja_render(const char *source, size_t n, json_t *context, time_t now,
	const struct jinja_limits *limits, char **ret_text, size_t *ret_n, char *err, size_t errlen)
{
	struct run *run;
	struct value text;
	char *result;
	int code;

	if (!json_is_object(context)) {
		snprintf(err, errlen, "the template's variables must be a JSON object");
		return -EINVAL;
	}
	run = calloc(1, sizeof(*run));
	if (!run) {
		snprintf(err, errlen, "no memory to render a template");
		return -ENOMEM;
	}
	run->limits = limits ? *limits : (struct jinja_limits)JINJA_LIMITS_DEFAULT;
	run->line = run->column = 1;
	run->now = now;
	run->err = err;
	run->errlen = errlen;
	if (getrandom(&run->seed, sizeof(run->seed), GRND_NONBLOCK) != sizeof(run->seed))
		run->seed = (uint64_t)(uintptr_t)run ^ (uint64_t)now;
	if (setjmp(run->escape)) {
		code = run->code;
		jinja_release(run);
		free(run);
		return code;
	}
	text = render(run, source, n, context);
	result = malloc(text.n + 1);
	if (!result)
		jinja_fail(run, -ENOMEM, "no memory for %zu bytes of text", text.n);
	if (text.n)
		memcpy(result, text.bytes, text.n);
	result[text.n] = '\0';
	*ret_text = result;
	*ret_n = text.n;
	jinja_release(run);
	free(run);
	return 0;
}
