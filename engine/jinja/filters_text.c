/* filters_text.c - filters whose result is text or a number. */
#include <errno.h>
#include <stdlib.h>

#include "engine/jinja/builtins.h"
#include "engine/jinja/utf8.h"

static struct value filter_trim(struct run *run, struct value value, const struct value *args)
{
	return jinja_strip(run, jinja_str(run, value), args[0], true, true);
}

static struct value filter_upper(struct run *run, struct value value, const struct value *args)
{
	return jinja_change_case(run, jinja_str(run, value), CASE_UPPER);
}

static struct value filter_lower(struct run *run, struct value value, const struct value *args)
{
	return jinja_change_case(run, jinja_str(run, value), CASE_LOWER);
}

static struct value filter_capitalize(struct run *run, struct value value, const struct value *args)
{
	return jinja_change_case(run, jinja_str(run, value), CASE_CAPITAL);
}

/* Unlike str.title(): words begin after white space, a hyphen or an opening bracket only. */
static struct value filter_title(struct run *run, struct value value, const struct value *args)
{
	struct value text = jinja_str(run, value), rest;
	struct buffer buffer = { 0 };
	size_t at = 0, start = 0, end = 0;

	while (start < text.n) {
		while (at < text.n) {
			uint32_t point = jinja_utf8_next(text.bytes, text.n, &at);
			if (jinja_point_is_space(point)
				|| (point < 0x80 && point && strchr("-({[<", (int)point)))
				break;
			end = at;
		}
		size_t first = start;
		if (end > start) {
			jinja_utf8_next(text.bytes, text.n, &first);
			rest = jinja_change_case(
				run, value_string(text.bytes + start, first - start), CASE_UPPER);
			jinja_put(run, &buffer, rest.bytes, rest.n);
			rest = jinja_change_case(
				run, value_string(text.bytes + first, end - first), CASE_LOWER);
			jinja_put(run, &buffer, rest.bytes, rest.n);
		} else {
			end = start;
		}
		jinja_put(run, &buffer, text.bytes + end, at - end);
		start = end = at;
	}
	return value_buffer(&buffer);
}

static struct value filter_replace(struct run *run, struct value value, const struct value *args)
{
	int64_t count = args[2].kind == NONE ? -1
					     : jinja_arg_int(run, args[2], -1, "replace: count");

	return jinja_replace(run, jinja_str(run, value), jinja_str(run, args[0]),
		jinja_str(run, args[1]), count);
}

static struct value filter_string(struct run *run, struct value value, const struct value *args)
{
	return jinja_str(run, value);
}

static struct value filter_escape(struct run *run, struct value value, const struct value *args)
{
	static const struct { char c; const char *entity;
	} entities[] = {
		{ '&', "&amp;" },
		{ '<', "&lt;" },
		{ '>', "&gt;" },
		{ '"', "&#34;" },
		{ '\'', "&#39;" },
	};
	struct value text = jinja_str(run, value);
	struct buffer buffer = { 0 };

	for (size_t i = 0; i < text.n; i++) {
		size_t j = 0;
		while (j < 5 && entities[j].c != text.bytes[i])
			j++;
		if (j < 5)
			jinja_puts(run, &buffer, entities[j].entity);
		else
			jinja_putc(run, &buffer, text.bytes[i]);
	}
	jinja_step(run, text.n / 8);
	return value_buffer(&buffer);
}

static struct value filter_length(struct run *run, struct value value, const struct value *args)
{
	return value_int((int64_t)jinja_length(run, value));
}

static struct value filter_default(struct run *run, struct value value, const struct value *args)
{
	if (value.kind == UNDEFINED
		|| (jinja_arg_bool(run, args[1], false) && !jinja_truth(run, value)))
		return args[0].kind == MISSING ? value_string("", 0) : args[0];
	return value;
}

static struct value filter_int(struct run *run, struct value value, const struct value *args)
{
	return jinja_to_int(run, value, args[0].kind == MISSING ? value_int(0) : args[0],
		jinja_arg_int(run, args[1], 10, "int: base"));
}

static struct value filter_float(struct run *run, struct value value, const struct value *args)
{
	return jinja_to_float(run, value, args[0].kind == MISSING ? value_float(0) : args[0]);
}

static struct value filter_abs(struct run *run, struct value value, const struct value *args)
{
	jinja_need_defined(run, value);
	if (value.kind == FLOAT)
		return value_float(value.real < 0 ? -value.real : value.real + 0.0);
	if (!value_is_whole(value))
		jinja_fail(run, -EINVAL, "bad operand type for abs(): %s", jinja_kind_name(value));
	return value.integer < 0 ? jinja_negate(run, value) : value_int(value.integer);
}

static struct value filter_round(struct run *run, struct value value, const struct value *args)
{
	return jinja_round(run, value, jinja_arg_int(run, args[0], 0, "round: precision"), args[1]);
}

static struct value spaces(struct run *run, int64_t n)
{
	return jinja_pad(run, value_string("", 0), n, ' ', ALIGN_LEFT);
}

static struct value filter_indent(struct run *run, struct value value, const struct value *args)
{
	struct value text = jinja_arg_string(run, value, "indent"), prefix;
	bool first = jinja_arg_bool(run, args[1], false),
	     blank = jinja_arg_bool(run, args[2], false);
	struct buffer buffer = { 0 };
	struct list *lines;

	prefix = args[0].kind == STRING
		? args[0]
		: spaces(run, jinja_arg_int(run, args[0], 4, "indent: width"));
	jinja_put(run, &buffer, text.bytes, text.n);
	jinja_putc(run, &buffer, '\n');      /* so that a last empty line counts */
	lines = jinja_split_lines(run, value_buffer(&buffer), false);
	buffer = (struct buffer){ 0 };
	for (size_t i = 0; i < lines->n; i++) {
		if (i)
			jinja_putc(run, &buffer, '\n');
		if (i == 0 ? first : blank || lines->items[i].n)
			jinja_put(run, &buffer, prefix.bytes, prefix.n);
		jinja_put(run, &buffer, lines->items[i].bytes, lines->items[i].n);
	}
	return value_buffer(&buffer);
}

static struct value filter_center(struct run *run, struct value value, const struct value *args)
{
	return jinja_pad(run, jinja_str(run, value),
		jinja_arg_int(run, args[0], 80, "center: width"), ' ', ALIGN_CENTER);
}

static struct value filter_wordcount(struct run *run, struct value value, const struct value *args)
{
	struct value text = jinja_str(run, value);
	bool inside = false;
	int64_t count = 0;
	size_t at = 0;

	while (at < text.n) {
		uint32_t point = jinja_utf8_next(text.bytes, text.n, &at);
		bool word = point == '_' || jinja_point_is_alpha(point)
			|| jinja_point_is_numeric(point);
		count += word && !inside;
		inside = word;
	}
	jinja_step_bytes(run, text.n * 4);
	return value_int(count);
}

static struct value filter_format(struct run *run, struct value value, const struct call *call)
{
	struct list *args = jinja_list_new(run, call->n);
	struct dict *named = jinja_dict_new(run);

	if (call->n && call->n_keywords)
		jinja_fail(run, -EINVAL, "format takes positional or keyword arguments, not both");
	for (size_t i = 0; i < call->n; i++)
		jinja_list_push(run, args, call->args[i]);
	for (size_t i = 0; i < call->n_keywords; i++)
		jinja_dict_set(run, named, call->keywords[i].name, call->keywords[i].value);
	return jinja_percent(run, jinja_str(run, value),
		call->n_keywords ? value_dict(named) : value_tuple(args));
}

/* json.dumps() with ensure_ascii off, which is what chat templates are rendered with. */
static struct value filter_tojson(struct run *run, struct value value, const struct value *args)
{
	struct json_style style = { .indent = value_none(),
		.ascii = jinja_arg_bool(run, args[0], false),
		.sort = jinja_arg_bool(run, args[3], false) };
	struct buffer buffer = { 0 };

	if (args[1].kind == STRING)
		style.indent = args[1];
	else if (args[1].kind != MISSING && args[1].kind != NONE)
		style.indent = spaces(run, jinja_arg_int(run, args[1], 0, "tojson: indent"));
	style.item_separator = value_text(style.indent.kind == NONE ? ", " : ",");
	style.key_separator = value_text(": ");
	if (args[2].kind != MISSING && args[2].kind != NONE) {
		struct list *pair = jinja_items(run, args[2]);
		if (pair->n != 2)
			jinja_fail(run, -EINVAL, "tojson: separators must be two strings");
		style.item_separator = jinja_arg_string(run, pair->items[0], "tojson: a separator");
		style.key_separator = jinja_arg_string(run, pair->items[1], "tojson: a separator");
	}
	jinja_put_json(run, &buffer, value, &style);
	return value_buffer(&buffer);
}

static struct value filter_attr(struct run *run, struct value value, const struct value *args)
{
	struct value name = jinja_str(run, args[0]), result;

	jinja_need_defined(run, value);
	if (value.kind == DICT) {  /* attributes only: methods, never keys */
		const struct builtin *method = jinja_method_find(value, name);
		return method ? jinja_function(run, method, value)
			      : jinja_undefined(run, "'dict object' has no attribute '%.*s'",
				      WORDS(name));
	}
	result = jinja_attribute(run, value, name);
	return result;
}

const struct builtin jinja_filters_text[] = {
	{ "trim", filter_trim, "chars" },
	{ "upper", filter_upper },
	{ "lower", filter_lower },
	{ "capitalize", filter_capitalize },
	{ "title", filter_title },
	{ "replace", filter_replace, "old new count", 2 },
	{ "string", filter_string },
	{ "safe", filter_string },
	{ "escape", filter_escape },
	{ "e", filter_escape },
	{ "forceescape", filter_escape },
	{ "length", filter_length },
	{ "count", filter_length },
	{ "default", filter_default, "default_value boolean" },
	{ "d", filter_default, "default_value boolean" },
	{ "int", filter_int, "default base" },
	{ "float", filter_float, "default" },
	{ "abs", filter_abs },
	{ "round", filter_round, "precision method" },
	{ "indent", filter_indent, "width first blank" },
	{ "center", filter_center, "width" },
	{ "wordcount", filter_wordcount },
	{ "format", .variadic = filter_format },
	{ "tojson", filter_tojson, "ensure_ascii indent separators sort_keys" },
	{ "attr", filter_attr, "name", 1 },
	{ NULL },
};
