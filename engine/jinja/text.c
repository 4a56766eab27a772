/* text.c - how Python prints values: str(), repr() and json.dumps(). */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/jinja/object.h"
#include "engine/jinja/utf8.h"
#include "engine/jinja/value.h"

void jinja_put_float(struct run *run, struct buffer *buffer, double real)
{
	char digits[40], *exponent, text[64];
	int precision = 1, power;
	size_t n = 0;

	if (isnan(real) || isinf(real)) {
		jinja_puts(run, buffer, isnan(real) ? "nan" : real > 0 ? "inf" : "-inf");
		return;
	}
	do {  /* the shortest text that reads back as the same number */
		snprintf(digits, sizeof(digits), "%.*e", precision - 1, real);
	} while (strtod(digits, NULL) != real && ++precision <= 17);
	exponent = strchr(digits, 'e');
	power = atoi(exponent + 1);
	if (power < -4 || power >= 16) {
		*exponent = '\0';
		snprintf(
			text, sizeof(text), "%se%c%02d", digits, power < 0 ? '-' : '+', abs(power));
		jinja_puts(run, buffer, text);
		return;
	}
	n = (size_t)snprintf(text, sizeof(text), "%.*f",
		precision - 1 - power > 0 ? precision - 1 - power : 0, real);
	jinja_put(run, buffer, text, n);
	if (!memchr(text, '.', n))
		jinja_puts(run, buffer, ".0");
}

static void put_int(struct run *run, struct buffer *buffer, int64_t integer)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRId64, integer);
	jinja_puts(run, buffer, text);
}

static void put_escape(struct run *run, struct buffer *buffer, uint32_t point)
{
	char text[16];

	snprintf(text, sizeof(text),
		point < 0x100		  ? "\\x%02x"
			: point < 0x10000 ? "\\u%04x"
					  : "\\U%08x",
		point);
	jinja_puts(run, buffer, text);
}

static void put_string_repr(struct run *run, struct buffer *buffer, struct value value)
{
	bool has_single = value.n && memchr(value.bytes, '\'', value.n);
	bool has_double = value.n && memchr(value.bytes, '"', value.n);
	char quote = has_single && !has_double ? '"' : '\'';
	size_t at = 0;

	jinja_putc(run, buffer, quote);
	while (at < value.n) {
		uint32_t point = jinja_utf8_next(value.bytes, value.n, &at);
		if (point == (uint32_t)quote || point == '\\') {
			jinja_putc(run, buffer, '\\');
			jinja_put_point(run, buffer, point);
		} else if (point == '\n' || point == '\r' || point == '\t') {
			jinja_puts(run, buffer,
				point == '\n'		? "\\n"
					: point == '\r' ? "\\r"
							: "\\t");
		} else if (jinja_point_is_printable(point)) {
			jinja_put_point(run, buffer, point);
		} else {
			put_escape(run, buffer, point);
		}
	}
	jinja_step_bytes(run, value.n * 8);
	jinja_putc(run, buffer, quote);
}

static void put_items_repr(struct run *run, struct buffer *buffer, const struct list *list,
	const char *open, const char *close)
{
	jinja_puts(run, buffer, open);
	for (size_t i = 0; i < list->n; i++) {
		if (i)
			jinja_puts(run, buffer, ", ");
		jinja_put_repr(run, buffer, list->items[i]);
	}
	jinja_puts(run, buffer, close);
}

static void put_dict_repr(struct run *run, struct buffer *buffer, const struct dict *dict)
{
	jinja_putc(run, buffer, '{');
	for (size_t i = 0; i < dict->n; i++) {
		if (i)
			jinja_puts(run, buffer, ", ");
		jinja_put_repr(run, buffer, dict->entries[i].key);
		jinja_puts(run, buffer, ": ");
		jinja_put_repr(run, buffer, dict->entries[i].value);
	}
	jinja_putc(run, buffer, '}');
}

static void put_range_repr(
	struct run *run, struct buffer *buffer, const struct range *range, int64_t stop)
{
	struct value text = range->step == 1
		? jinja_format(run, "range(%" PRId64 ", %" PRId64 ")", range->start, stop)
		: jinja_format(run, "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", range->start,
			stop, range->step);

	jinja_put(run, buffer, text.bytes, text.n);
}

static void put_object_repr(struct run *run, struct buffer *buffer, struct value value)
{
	static const char *const views[] = { "dict_keys([", "dict_values([", "dict_items([" };

	switch (value.kind) {
	case NAMESPACE:
		jinja_puts(run, buffer, "<Namespace ");
		put_dict_repr(run, buffer, value.dict);
		jinja_puts(run, buffer, ">");
		break;
	case RANGE:  /* n holds the stop, which may lie beyond the last item */
		put_range_repr(run, buffer, value.range, (int64_t)value.n);
		break;
	case VIEW:
		put_items_repr(run, buffer, jinja_items(run, value), views[value.detail], "])");
		break;
	case MACRO:
		jinja_puts(run, buffer, "<Macro ");
		put_string_repr(run, buffer, value.macro->name);
		jinja_puts(run, buffer, ">");
		break;
	case LOOP:
		jinja_put_loop_repr(run, buffer, value.loop);
		break;
	default:
		jinja_puts(run, buffer, "<");
		jinja_puts(run, buffer,
			value.kind == ITERATOR ? value.iterator->name : jinja_kind_name(value));
		jinja_puts(run, buffer, " object>");
	}
}

void jinja_put_repr(struct run *run, struct buffer *buffer, struct value value)
{
	jinja_enter(run);
	jinja_step(run, 1);
	switch (value.kind) {
	case UNDEFINED:
		jinja_puts(run, buffer, "Undefined");
		break;
	case NONE:
		jinja_puts(run, buffer, "None");
		break;
	case BOOL:
		jinja_puts(run, buffer, value.integer ? "True" : "False");
		break;
	case INT:
		put_int(run, buffer, value.integer);
		break;
	case FLOAT:
		jinja_put_float(run, buffer, value.real);
		break;
	case STRING:
		put_string_repr(run, buffer, value);
		break;
	case LIST:
		put_items_repr(run, buffer, value.list, "[", "]");
		break;
	case TUPLE:
		put_items_repr(run, buffer, value.list, "(", value.list->n == 1 ? ",)" : ")");
		break;
	case DICT:
		put_dict_repr(run, buffer, value.dict);
		break;
	default:
		put_object_repr(run, buffer, value);
	}
	jinja_leave(run);
}

void jinja_put_str(struct run *run, struct buffer *buffer, struct value value)
{
	if (value.kind == STRING)
		jinja_put(run, buffer, value.bytes, value.n);
	else if (value.kind != UNDEFINED)
		jinja_put_repr(run, buffer, value);
}

struct value jinja_str(struct run *run, struct value value)
{
	struct buffer buffer = { 0 };

	if (value.kind == STRING)
		return value;
	jinja_put_str(run, &buffer, value);
	return value_buffer(&buffer);
}

static void put_json_string(struct run *run, struct buffer *buffer, struct value value, bool ascii)
{
	static const char named[] = "\"\\\n\r\t\f\b", names[] = "\"\\nrtfb";
	char text[16];
	size_t at = 0;

	jinja_putc(run, buffer, '"');
	while (at < value.n) {
		uint32_t point = jinja_utf8_next(value.bytes, value.n, &at);
		const char *name = point && point < 0x80 ? strchr(named, (int)point) : NULL;
		if (name) {
			jinja_putc(run, buffer, '\\');
			jinja_putc(run, buffer, names[name - named]);
		} else if (point < 0x20
			|| (ascii && point > 0x7e && point < 0x10000 && point != 0x7f)) {
			snprintf(text, sizeof(text), "\\u%04x", point);
			jinja_puts(run, buffer, text);
		} else if (ascii && point >= 0x10000) {
			snprintf(text, sizeof(text), "\\u%04x\\u%04x",
				0xd800 + ((point - 0x10000) >> 10), 0xdc00 + (point & 0x3ff));
			jinja_puts(run, buffer, text);
		} else {
			jinja_put_point(run, buffer, point);
		}
	}
	jinja_step_bytes(run, value.n * 8);
	jinja_putc(run, buffer, '"');
}

static void put_json_float(struct run *run, struct buffer *buffer, double real)
{
	if (isnan(real))
		jinja_puts(run, buffer, "NaN");
	else if (isinf(real))
		jinja_puts(run, buffer, real > 0 ? "Infinity" : "-Infinity");
	else
		jinja_put_float(run, buffer, real);
}

static void put_json_key(
	struct run *run, struct buffer *buffer, struct value key, const struct json_style *style)
{
	switch (key.kind) {
	case STRING:
		put_json_string(run, buffer, key, style->ascii);
		return;
	case NONE: case BOOL: case INT: case FLOAT:
		jinja_putc(run, buffer, '"');
		jinja_put_json(run, buffer, key, style);
		jinja_putc(run, buffer, '"');
		return;
	default:
		jinja_fail(run, -EINVAL, "keys must be str, int, float, bool or None, not %s",
			jinja_kind_name(key));
	}
}

static void put_json_break(
	struct run *run, struct buffer *buffer, const struct json_style *style, size_t level)
{
	if (style->indent.kind == NONE)
		return;
	jinja_putc(run, buffer, '\n');
	while (level--)
		jinja_put(run, buffer, style->indent.bytes, style->indent.n);
}

static void put_json_at(struct run *run, struct buffer *buffer, struct value value,
	const struct json_style *style, size_t level);

static void put_json_dict(struct run *run, struct buffer *buffer, const struct dict *dict,
	const struct json_style *style, size_t level)
{
	struct list *keys = jinja_items(run, value_dict((struct dict *)dict));

	if (style->sort)
		keys = jinja_sorted(run, keys, keys, false);
	jinja_putc(run, buffer, '{');
	for (size_t i = 0; i < keys->n; i++) {
		if (i)
			jinja_put(
				run, buffer, style->item_separator.bytes, style->item_separator.n);
		put_json_break(run, buffer, style, level + 1);
		put_json_key(run, buffer, keys->items[i], style);
		jinja_put(run, buffer, style->key_separator.bytes, style->key_separator.n);
		put_json_at(
			run, buffer, *jinja_dict_get(run, dict, keys->items[i]), style, level + 1);
	}
	if (keys->n)
		put_json_break(run, buffer, style, level);
	jinja_putc(run, buffer, '}');
}

static void put_json_list(struct run *run, struct buffer *buffer, const struct list *list,
	const struct json_style *style, size_t level)
{
	jinja_putc(run, buffer, '[');
	for (size_t i = 0; i < list->n; i++) {
		if (i)
			jinja_put(
				run, buffer, style->item_separator.bytes, style->item_separator.n);
		put_json_break(run, buffer, style, level + 1);
		put_json_at(run, buffer, list->items[i], style, level + 1);
	}
	if (list->n)
		put_json_break(run, buffer, style, level);
	jinja_putc(run, buffer, ']');
}

static void put_json_at(struct run *run, struct buffer *buffer, struct value value,
	const struct json_style *style, size_t level)
{
	jinja_enter(run);
	jinja_step(run, 1);
	switch (value.kind) {
	case NONE:
		jinja_puts(run, buffer, "null");
		break;
	case BOOL:
		jinja_puts(run, buffer, value.integer ? "true" : "false");
		break;
	case INT:
		put_int(run, buffer, value.integer);
		break;
	case FLOAT:
		put_json_float(run, buffer, value.real);
		break;
	case STRING:
		put_json_string(run, buffer, value, style->ascii);
		break;
	case LIST: case TUPLE:
		put_json_list(run, buffer, value.list, style, level);
		break;
	case DICT:
		put_json_dict(run, buffer, value.dict, style, level);
		break;
	default:
		jinja_fail(run, -EINVAL, "Object of type %s is not JSON serializable",
			jinja_kind_name(value));
	}
	jinja_leave(run);
}

void jinja_put_json(
	struct run *run, struct buffer *buffer, struct value value, const struct json_style *style)
{
	put_json_at(run, buffer, value, style, 0);
}
