/* format.c - "%s" % value and "{}".format(value). */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "engine/jinja/builtins.h"
#include "engine/jinja/utf8.h"

/* No number of a chat template is wider; keeps snprintf's buffers small. */
#define NUMBER_WIDTH_MAX 400

/* [[fill]align][sign][#][0][width][,][.precision][type] of format(), and what % has of it. */
struct spec {
	uint32_t fill;
	char align;                  /* < > = ^ or 0 */
	char sign;                   /* + - space */
	bool alternate, comma, zero; /* zero: pad numbers behind their sign */
	int64_t width, precision;    /* -1: none */
	char type;
};

static bool scan_count(struct run *run, struct value text, size_t *at, int64_t *ret_count)
{
	int64_t count = 0;
	size_t start = *at;

	for (; *at < text.n && isdigit((unsigned char)text.bytes[*at]); ++*at) {
		count = count * 10 + (text.bytes[*at] - '0');
		if (count > 1000000)
			jinja_fail(run, -EINVAL, "format: a width above one million");
	}
	if (*at > start)
		*ret_count = count;
	return *at > start;
}

/* Digits in groups of three. */
static struct value add_commas(struct run *run, struct value number)
{
	struct buffer buffer = { 0 };
	size_t digits = 0;

	while (digits < number.n && isdigit((unsigned char)number.bytes[digits]))
		digits++;
	for (size_t i = 0; i < number.n; i++) {
		if (i > 0 && i < digits && (digits - i) % 3 == 0)
			jinja_putc(run, &buffer, ',');
		jinja_putc(run, &buffer, number.bytes[i]);
	}
	return value_buffer(&buffer);
}

static struct value finish_number(struct run *run, const struct spec *spec, bool negative,
	const char *prefix, struct value digits)
{
	struct buffer buffer = { 0 };
	struct value head;

	if (spec->comma)
		digits = add_commas(run, digits);
	if (negative)
		jinja_putc(run, &buffer, '-');
	else if (spec->sign == '+' || spec->sign == ' ')
		jinja_putc(run, &buffer, spec->sign);
	jinja_puts(run, &buffer, prefix);
	head = value_buffer(&buffer);
	if (spec->align == '=' && spec->width > (int64_t)head.n)
		digits = jinja_pad(
			run, digits, spec->width - (int64_t)head.n, spec->fill, ALIGN_RIGHT);
	jinja_put(run, &buffer, digits.bytes, digits.n);
	return value_buffer(&buffer);
}

static struct value format_int(struct run *run, const struct spec *spec, int64_t integer)
{
	char text[72];
	uint64_t rest = integer < 0 ? 0 - (uint64_t)integer : (uint64_t)integer;
	unsigned base = spec->type == 'x' || spec->type == 'X' ? 16
		: spec->type == 'o'			       ? 8
		: spec->type == 'b'			       ? 2
							       : 10;
	size_t at = sizeof(text);
	const char *prefix = "";

	do {
		text[--at] = (spec->type == 'X' ? "0123456789ABCDEF"
						: "0123456789abcdef")[rest % base];
		rest /= base;
	} while (rest);
	if (spec->alternate)
		prefix = spec->type == 'x'  ? "0x"
			: spec->type == 'X' ? "0X"
			: base == 8	    ? "0o"
			: base == 2	    ? "0b"
					    : "";
	struct value digits = jinja_format(run, "%.*s", (int)(sizeof(text) - at), text + at);
	if (spec->precision > 0)     /* of %, not of format(): at least so many digits */
		digits = jinja_pad(run, digits, spec->precision, '0', ALIGN_RIGHT);
	return finish_number(run, spec, integer < 0, prefix, digits);
}

static struct value format_float(struct run *run, const struct spec *spec, double real)
{
	char text[1024] = "";
	struct buffer buffer = { 0 };
	int precision = spec->precision < 0 ? 6 : (int)spec->precision;
	double magnitude = fabs(real);

	if (precision > NUMBER_WIDTH_MAX)
		jinja_fail(run, -EINVAL, "format: a precision above %d", NUMBER_WIDTH_MAX);
	if (isnan(real) || isinf(real))
		snprintf(text, sizeof(text), isnan(real) ? "nan" : "inf");
	else if (spec->type == 'e' || spec->type == 'E')
		snprintf(text, sizeof(text), spec->type == 'e' ? "%.*e" : "%.*E", precision,
			magnitude);
	else if (spec->type == 'g' || spec->type == 'G')
		snprintf(text, sizeof(text), spec->type == 'g' ? "%.*g" : "%.*G",
			precision ? precision : 1, magnitude);
	else if (!spec->type && spec->precision < 0)
		jinja_put_float(run, &buffer, magnitude);
	else if (!spec->type)
		snprintf(text, sizeof(text), "%.*g", precision ? precision : 1, magnitude);
	else if (spec->type == '%')
		snprintf(text, sizeof(text), "%.*f%%", precision, magnitude * 100);
	else
		snprintf(text, sizeof(text), "%.*f", precision, magnitude);
	jinja_puts(run, &buffer, text);
	if (!spec->type && *text && !strpbrk(text, ".en"))
		jinja_puts(run, &buffer, ".0");
	return finish_number(run, spec, signbit(real) && !isnan(real), "", value_buffer(&buffer));
}

static struct value cut(struct run *run, struct value text, int64_t precision)
{
	if (precision < 0)
		return text;
	return value_string(text.bytes, jinja_utf8_offset(text.bytes, text.n, (size_t)precision));
}

static struct value align(
	struct run *run, const struct spec *spec, struct value text, char fallback)
{
	char how = spec->align ? spec->align : fallback;

	if (how == '^')  /* unlike center(), the odd blank always goes right */
		return jinja_pad(run,
			jinja_pad(run, text, (spec->width + (int64_t)jinja_length(run, text)) / 2,
				spec->fill, ALIGN_RIGHT),
			spec->width, spec->fill, ALIGN_LEFT);
	return jinja_pad(run, text, spec->width, spec->fill, how == '<' ? ALIGN_LEFT : ALIGN_RIGHT);
}

/* One %-conversion of a value. */
static struct value percent_one(struct run *run, struct spec *spec, struct value value)
{
	struct buffer buffer = { 0 };

	switch (spec->type) {
	case 's':
		return align(run, spec, cut(run, jinja_str(run, value), spec->precision), '>');
	case 'r':
		jinja_put_repr(run, &buffer, value);
		return align(run, spec, cut(run, value_buffer(&buffer), spec->precision), '>');
	case 'c':
		if (value.kind != STRING || jinja_length(run, value) != 1)
			jinja_fail(run, -EINVAL, "%%c needs a string of one character");
		return align(run, spec, value, '>');
	case 'd': case 'i': case 'u': case 'x': case 'X': case 'o':
		if (value.kind == FLOAT && spec->type != 'x' && spec->type != 'X'
			&& spec->type != 'o')
			value = jinja_to_int(run, value, value_none(), 10);
		if (!value_is_whole(value))
			jinja_fail(run, -EINVAL, "%%%c needs a number, not %s", spec->type,
				jinja_kind_name(value));
		return align(run, spec, format_int(run, spec, value.integer), '>');
	case 'f': case 'F': case 'e': case 'E': case 'g': case 'G':
		if (!value_is_number(value))
			jinja_fail(run, -EINVAL, "%%%c needs a number, not %s", spec->type,
				jinja_kind_name(value));
		return align(run, spec, format_float(run, spec, value_real(value)), '>');
	default:
		jinja_fail(run, -EINVAL, "unsupported format character '%c'", spec->type);
	}
}

static void scan_percent(struct run *run, struct value format, size_t *at, struct spec *spec)
{
	*spec = (struct spec){ .fill = ' ', .width = 0, .precision = -1 };
	for (; *at < format.n && strchr("-+ #0", format.bytes[*at]) && format.bytes[*at]; ++*at) {
		char c = format.bytes[*at];
		if (c == '-')
			spec->align = '<';
		else if (c == '+' || (c == ' ' && spec->sign != '+'))
			spec->sign = c;
		else if (c == '#')
			spec->alternate = true;
		else if (c == '0' && spec->align != '<')
			spec->align = '=';
	}
	scan_count(run, format, at, &spec->width);
	if (*at < format.n && format.bytes[*at] == '.') {
		++*at;
		spec->precision = 0;
		scan_count(run, format, at, &spec->precision);
	}
	if (*at >= format.n)
		jinja_fail(run, -EINVAL, "incomplete format: a %% is not followed by a conversion");
	spec->type = format.bytes[(*at)++];
	if ((unsigned char)spec->type >= 0x80)
		jinja_fail(run, -EINVAL, "unsupported format character");
	if (spec->align == '=') {    /* zero padding is for numbers */
		bool number = strchr("diuxXofFeEgG", spec->type) != NULL;
		spec->align = number ? '=' : '>';
		spec->fill = number ? '0' : ' ';
	}
}

/* The key of "%(key)s", or MISSING. */
static struct value scan_key(struct run *run, struct value format, size_t *at)
{
	const char *close;
	size_t start = *at + 1;

	if (*at >= format.n || format.bytes[*at] != '(')
		return value_missing();
	close = memchr(format.bytes + start, ')', format.n - start);
	if (!close)
		jinja_fail(run, -EINVAL, "incomplete format key: ) is missing");
	*at = (size_t)(close - format.bytes) + 1;
	return value_string(format.bytes + start, (size_t)(close - format.bytes) - start);
}

static struct value percent_argument(
	struct run *run, struct value args, struct value key, size_t *used)
{
	if (key.kind != MISSING) {
		const struct value *value = args.kind == DICT ? jinja_dict_get(run, args.dict, key)
							      : NULL;
		if (!value)
			jinja_fail(run, -EINVAL, "format: no value for the key '%.*s'",
				WORDS(key));
		return *value;
	}
	if (args.kind != TUPLE) {
		if (++*used > 1)
			jinja_fail(run, -EINVAL, "not enough arguments for format string");
		return args;
	}
	if (*used >= args.list->n)
		jinja_fail(run, -EINVAL, "not enough arguments for format string");
	return args.list->items[(*used)++];
}

struct value jinja_percent(struct run *run, struct value format, struct value args)
{
	struct buffer buffer = { 0 };
	size_t at = 0, used = 0;
	bool mapping = args.kind == DICT || args.kind == LIST || args.kind == UNDEFINED;

	while (at < format.n) {
		const char *percent = memchr(format.bytes + at, '%', format.n - at);
		size_t plain = percent ? (size_t)(percent - format.bytes) : format.n;
		struct value key, text;
		struct spec spec;
		jinja_put(run, &buffer, format.bytes + at, plain - at);
		at = plain + 1;
		if (!percent)
			break;
		key = scan_key(run, format, &at);
		scan_percent(run, format, &at, &spec);
		jinja_step(run, 1);
		if (spec.type == '%') {
			jinja_putc(run, &buffer, '%');
			continue;
		}
		text = percent_one(run, &spec, percent_argument(run, args, key, &used));
		jinja_put(run, &buffer, text.bytes, text.n);
	}
	if (!mapping && used < (args.kind == TUPLE ? args.list->n : 1))
		jinja_fail(run, -EINVAL, "not all arguments converted during string formatting");
	return value_buffer(&buffer);
}

static void scan_spec(struct run *run, struct value text, struct spec *spec)
{
	size_t at = 0, next = 0;

	*spec = (struct spec){ .fill = ' ', .width = 0, .precision = -1 };
	if (text.n) {
		uint32_t fill = jinja_utf8_next(text.bytes, text.n, &next);
		if (next < text.n && strchr("<>=^", text.bytes[next]) && text.bytes[next]) {
			spec->fill = fill;
			spec->align = text.bytes[next];
			at = next + 1;
		} else if (strchr("<>=^", text.bytes[0]) && text.bytes[0]) {
			spec->align = text.bytes[0];
			at = 1;
		}
	}
	if (at < text.n && strchr("+- ", text.bytes[at]) && text.bytes[at])
		spec->sign = text.bytes[at++];
	if (at < text.n && text.bytes[at] == '#') {
		spec->alternate = true;
		at++;
	}
	if (at < text.n && text.bytes[at] == '0' && !spec->align) {
		spec->fill = '0';
		spec->zero = true;
	}
	scan_count(run, text, &at, &spec->width);
	if (at < text.n && text.bytes[at] == ',') {
		spec->comma = true;
		at++;
	}
	if (at < text.n && text.bytes[at] == '.') {
		at++;
		if (!scan_count(run, text, &at, &spec->precision))
			jinja_fail(run, -EINVAL, "format specifier is missing a precision");
	}
	if (at < text.n)
		spec->type = text.bytes[at++];
	if (at < text.n)
		jinja_fail(run, -EINVAL, "invalid format specifier");
}

static struct value format_value(struct run *run, struct value value, struct value spec_text)
{
	struct spec spec;

	scan_spec(run, spec_text, &spec);
	if (!spec_text.n)
		return jinja_str(run, value);
	if (value.kind == STRING && (!spec.type || spec.type == 's')) {
		if (spec.align == '=' || spec.sign || spec.comma || spec.alternate)
			jinja_fail(run, -EINVAL, "invalid format specifier for a string");
		return align(run, &spec, cut(run, value, spec.precision), '<');
	}
	if (spec.zero)
		spec.align = '=';
	if (value_is_whole(value) && spec.precision < 0
		&& (!spec.type || strchr("dxXob", spec.type)))
		return align(run, &spec, format_int(run, &spec, value.integer), '>');
	if (value_is_number(value)
		&& (spec.type ? strchr("fFeEgG%", spec.type) != NULL : value.kind == FLOAT))
		return align(run, &spec, format_float(run, &spec, value_real(value)), '>');
	jinja_fail(run, -EINVAL, "unsupported format specifier '%.*s' for %s",
		(int)(spec_text.n < 40 ? spec_text.n : 40), spec_text.bytes,
		jinja_kind_name(value));
}

/* "name.attr[0]" of a replacement field. */
static struct value field_value(
	struct run *run, struct value field, const struct call *call, int64_t *automatic)
{
	size_t n = 0;
	int64_t index = 0;
	struct value value = value_missing(), name;

	while (n < field.n && field.bytes[n] != '.' && field.bytes[n] != '[')
		n++;
	name = value_string(field.bytes, n);
	if (n == 0 || isdigit((unsigned char)field.bytes[0])) {
		size_t at = 0;
		if ((n == 0) == (*automatic < 0))
			jinja_fail(run, -EINVAL, "format: {} and {0} cannot be mixed");
		if (n == 0)
			index = (*automatic)++;
		else if (!scan_count(run, name, &at, &index) || at != n)
			jinja_fail(run, -EINVAL, "format: bad field name");
		if ((size_t)index >= call->n)
			jinja_fail(run, -EINVAL, "format: there is no argument %lld",
				(long long)index);
		value = call->args[index];
	} else {
		for (size_t i = 0; i < call->n_keywords; i++)
			if (jinja_same(call->keywords[i].name, name))
				value = call->keywords[i].value;
		if (value.kind == MISSING)
			jinja_fail(run, -EINVAL, "format: there is no argument '%.*s'",
				(int)(n < 60 ? n : 60), name.bytes);
	}
	if (n < field.n)
		jinja_fail(run, -EINVAL,
			"format: {a.b} and {a[0]} are not supported: pass the value itself");
	return value;
}

struct value jinja_brace_format(struct run *run, struct value format, const struct call *call)
{
	struct buffer buffer = { 0 };
	int64_t automatic = 0;
	bool numbered = false;

	for (size_t at = 0; at < format.n; at++) {
		char c = format.bytes[at];
		struct value field, spec = value_string("", 0), text;
		const char *close, *colon;
		jinja_step(run, 1);
		if ((c != '{' && c != '}') || (at + 1 < format.n && format.bytes[at + 1] == c)) {
			jinja_putc(run, &buffer, c);
			at += c == '{' || c == '}';
			continue;
		}
		close = c == '{' ? memchr(format.bytes + at, '}', format.n - at) : NULL;
		if (!close)
			jinja_fail(run, -EINVAL, "format: a single '%c'", c);
		field = value_string(
			format.bytes + at + 1, (size_t)(close - format.bytes) - at - 1);
		at = (size_t)(close - format.bytes);
		if (field.n
			&& (memchr(field.bytes, '{', field.n) || memchr(field.bytes, '!', field.n)))
			jinja_fail(run, -EINVAL,
				"format: nested fields and conversions are not supported");
		colon = field.n ? memchr(field.bytes, ':', field.n) : NULL;
		if (colon) {
			spec = value_string(colon + 1, field.n - (size_t)(colon - field.bytes) - 1);
			field.n = (size_t)(colon - field.bytes);
		}
		if (!numbered && automatic == 0 && field.n
			&& isdigit((unsigned char)field.bytes[0])) {
			automatic = -1;
			numbered = true;
		}
		text = format_value(run, field_value(run, field, call, &automatic), spec);
		jinja_put(run, &buffer, text.bytes, text.n);
	}
	return value_buffer(&buffer);
}
