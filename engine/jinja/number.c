/* number.c - Python's int(), float() and round(). */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/jinja/builtins.h"

/* Text without surrounding white space and underscores between digits, NUL-terminated; false if
 * it cannot be a number (too long, a zero character, a misplaced underscore). */
static bool number_text(struct run *run, struct value text, char *copy, size_t size)
{
	size_t used = 0;

	text = jinja_strip(run, text, value_missing(), true, true);
	for (size_t i = 0; i < text.n; i++) {
		char c = text.bytes[i];
		if (c == '_' && i > 0 && i + 1 < text.n && text.bytes[i - 1] != '_'
			&& text.bytes[i + 1] != '_')
			continue;
		if (c == '\0' || c == '_' || used + 1 >= size)
			return false;
		copy[used++] = c;
	}
	copy[used] = '\0';
	return used > 0;
}

static bool parse_float(struct run *run, struct value text, double *ret_real)
{
	char copy[512], *end;
	const char *digits = copy;

	if (!number_text(run, text, copy, sizeof(copy)))
		return false;
	digits += *digits == '+' || *digits == '-';
	if ((*digits == '0' && (digits[1] | 0x20) == 'x')
		|| strchr(digits, '(')) /* strtod reads more than Python */
		return false;
	*ret_real = strtod(copy, &end);
	return *end == '\0';
}

static bool parse_int(struct run *run, struct value text, int64_t base, int64_t *ret_integer)
{
	char copy[128], *end, *digits = copy, letter;

	if (!number_text(run, text, copy, sizeof(copy)))
		return false;
	digits += *digits == '+' || *digits == '-';
	letter = digits[0] == '0' ? (char)(digits[1] | 0x20) : '\0';
	if ((base == 2 && letter == 'b') || (base == 8 && letter == 'o')
		|| (base == 16 && letter == 'x'))
		memmove(digits, digits + 2, strlen(digits + 2) + 1);
	if (!isalnum((unsigned char)*digits))    /* strtoll skips white space and a second sign */
		return false;
	errno = 0;
	*ret_integer = strtoll(copy, &end, (int)base);
	if (*end)
		return false;
	if (errno == ERANGE)
		jinja_fail(run, -EINVAL, "int: the number does not fit 64 bits");
	return true;
}

static struct value int_of_float(struct run *run, double real, struct value fallback)
{
	if (isnan(real) || isinf(real))
		return fallback;
	if (real >= 0x1p63 || real < -0x1p63)
		jinja_fail(run, -EINVAL, "int: the number does not fit 64 bits");
	return value_int((int64_t)real);
}

struct value jinja_to_int(struct run *run, struct value value, struct value fallback, int64_t base)
{
	int64_t integer;
	double real;

	jinja_need_defined(run, value);
	switch (value.kind) {
	case BOOL: case INT:
		return value_int(value.integer);
	case FLOAT:
		return int_of_float(run, value.real, fallback);
	case STRING:
		if (base != 0 && (base < 2 || base > 36))
			jinja_fail(run, -EINVAL, "int: base must be 0 or 2 to 36");
		if (parse_int(run, value, base, &integer))
			return value_int(integer);
		if (parse_float(run, value, &real))
			return int_of_float(run, real, fallback);
		return fallback;
	default:
		return fallback;
	}
}

struct value jinja_to_float(struct run *run, struct value value, struct value fallback)
{
	double real;

	jinja_need_defined(run, value);
	if (value_is_number(value))
		return value_float(value_real(value));
	if (value.kind == STRING && parse_float(run, value, &real))
		return value_float(real);
	return fallback;
}

/* Half to even on the decimal text, which is what Python's round() does. */
static double round_digits(double real, int64_t digits)
{
	char text[400];

	if (isnan(real) || isinf(real) || digits > 323)
		return real;
	if (digits < -308)
		return copysign(0, real);
	if (digits >= 0) {
		snprintf(text, sizeof(text), "%.*f", (int)digits, real);
		return digits > 22 && fabs(real) > 1e15 ? real : strtod(text, NULL);
	}
	{
		double unit = pow(10, (double)-digits);
		return nearbyint(real / unit) * unit;
	}
}

static int64_t round_int(struct run *run, int64_t integer, int64_t digits)
{
	int64_t unit = 1, rest, down;

	if (digits >= 0)
		return integer;
	for (; digits < 0; digits++)
		if (__builtin_mul_overflow(unit, 10, &unit))
			return 0;
	rest = integer % unit;
	if (rest < 0)
		rest += unit;
	if (__builtin_sub_overflow(integer, rest, &down))
		jinja_fail(run, -EINVAL, "round: the result does not fit 64 bits");
	if (rest > unit - rest || (rest == unit - rest && (down / unit) % 2 != 0))
		if (__builtin_add_overflow(down, unit, &down))
			jinja_fail(run, -EINVAL, "round: the result does not fit 64 bits");
	return down;
}

struct value jinja_round(struct run *run, struct value value, int64_t digits, struct value method)
{
	double scale, real;

	jinja_need_defined(run, value);
	if (!value_is_number(value))
		jinja_fail(run, -EINVAL, "round needs a number, not %s", jinja_kind_name(value));
	if (method.kind == MISSING || value_text_is(method, "common")) {
		if (value_is_whole(value))
			return value_int(round_int(run, value.integer, digits));
		return value_float(round_digits(value.real, digits));
	}
	if (!value_text_is(method, "ceil") && !value_text_is(method, "floor"))
		jinja_fail(run, -EINVAL, "round: method must be common, ceil or floor");
	scale = pow(10, (double)digits);
	real = value_real(value) * scale;
	if (isnan(real) || isinf(real))
		jinja_fail(run, -EINVAL, "round: the number is too large");
	real = value_text_is(method, "ceil") ? ceil(real) : floor(real);
	return value_float((real + 0.0) / scale); /* Python rounds to an integer: no minus zero */
}
