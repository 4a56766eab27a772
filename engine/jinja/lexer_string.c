/* lexer_string.c - the literals of a tag.  See lexer_string.h. */
#include "engine/jinja/lexer_string.h"

#include <errno.h>
#include <stdlib.h>

static int digit_of(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
		: c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
}

static uint32_t hex_escape(struct run *run, const char *bytes, size_t n, size_t at, unsigned digits)
{
	uint32_t point = 0;

	for (unsigned i = 0; i < digits; i++) {
		if (at + i >= n || digit_of(bytes[at + i]) > 15)
			jinja_fail(run, -EINVAL,
				"truncated escape in a string: %u hexadecimal digits must follow",
				digits);
		point = point << 4 | (uint32_t)digit_of(bytes[at + i]);
	}
	if (point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
		jinja_fail(run, -EINVAL, "escape in a string: U+%04X is not a character", point);
	return point;
}

static size_t unescape_one(
	struct run *run, struct buffer *buffer, const char *bytes, size_t n, size_t at)
{
	static const char names[] = "\\'\"abfnrtv", points[] = "\\'\"\a\b\f\n\r\t\v";
	char c = bytes[at];
	const char *name = c ? strchr(names, c) : NULL;
	unsigned digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
	uint32_t point = 0;

	if (name) {
		jinja_putc(run, buffer, points[name - names]);
		return at + 1;
	}
	if (digits) {
		jinja_put_point(run, buffer, hex_escape(run, bytes, n, at + 1, digits));
		return at + 1 + digits;
	}
	if (c >= '0' && c <= '7') {
		for (digits = 0; digits < 3 && at < n && bytes[at] >= '0' && bytes[at] <= '7';
			digits++)
			point = point * 8 + (uint32_t)(bytes[at++] - '0');
		jinja_put_point(run, buffer, point);
		return at;
	}
	if (c == 'N')
		jinja_fail(run, -EINVAL,
			"\\N{...} escapes are not supported: write the character itself");
	if (c == '\n')               /* a continued line */
		return at + 1;
	jinja_putc(run, buffer, '\\');
	return at;
}

struct value jinja_unescape(struct run *run, const char *bytes, size_t n)
{
	struct buffer buffer = { 0 };
	size_t at = 0;

	while (at < n) {
		const char *slash = memchr(bytes + at, '\\', n - at);
		size_t plain = slash ? (size_t)(slash - bytes) : n;
		if (!slash && at == 0)
			return value_string(bytes, n);
		jinja_put(run, &buffer, bytes + at, plain - at);
		at = plain;
		if (at + 1 < n)
			at = unescape_one(run, &buffer, bytes, n, at + 1);
		else
			break;
	}
	return value_buffer(&buffer);
}

/* digits, each but the first may follow one underscore; copies them without underscores */
static size_t take_digits(
	const char *source, size_t n, size_t at, int base, char *text, size_t *used, size_t size)
{
	while (at < n) {
		size_t digit = at + (source[at] == '_');
		if (digit >= n || digit_of(source[digit]) >= base || *used + 1 >= size)
			break;
		text[(*used)++] = source[digit];
		at = digit + 1;
	}
	return at;
}

static size_t lex_float(
	const char *source, size_t n, size_t at, char *text, size_t *used, size_t size)
{
	bool is_float = false;
	size_t next = at;

	if (at + 1 < n && source[at] == '.' && digit_of(source[at + 1]) < 10) {
		text[(*used)++] = '.';
		at = take_digits(source, n, at + 1, 10, text, used, size);
		is_float = true;
	}
	if (at < n && (source[at] == 'e' || source[at] == 'E')) {
		next = at + 1;
		next += next < n && (source[next] == '+' || source[next] == '-');
		if (next < n && digit_of(source[next]) < 10) {
			text[(*used)++] = 'e';
			if (source[next - 1] == '-')
				text[(*used)++] = '-';
			at = take_digits(source, n, next, 10, text, used, size);
			is_float = true;
		}
	}
	return is_float ? at : 0;
}

size_t jinja_lex_number(
	struct run *run, const char *source, size_t n, size_t at, struct value *ret_number)
{
	char text[420];              /* a double needs 309 digits before the point at most */
	char letter = at + 2 < n ? source[at + 1] | 0x20 : '\0';
	int base = source[at] != '0' ? 10
		: letter == 'x'	     ? 16
		: letter == 'o'	     ? 8
		: letter == 'b'	     ? 2
				     : 10;
	size_t used = 0, end, float_end;
	const char *digits = text;

	end = take_digits(source, n, at, 10, text, &used, sizeof(text) - 64);
	float_end = at && source[at - 1] == '.'
		? 0
		: lex_float(source, n, end, text, &used, sizeof(text) - 8);
	if (float_end) {
		text[used] = '\0';
		*ret_number = value_float(strtod(text, NULL));
		return float_end;
	}
	if (base != 10) {
		size_t digit = at + 2 + (source[at + 2] == '_');
		if (digit < n && digit_of(source[digit]) < base) {
			used = 0;
			end = take_digits(source, n, at + 2, base, text, &used, sizeof(text) - 64);
		} else {
			base = 10;
		}
	} else if (source[at] == '0') {  /* only zeros may follow a zero */
		used = 1;
		end = take_digits(source, n, at + 1, 1, text, &used, sizeof(text) - 64);
	}
	text[used] = '\0';
	errno = 0;
	*ret_number = value_int(strtoll(digits, NULL, base));
	if (errno || used >= sizeof(text) - 65)
		jinja_fail(run, -EINVAL, "a number does not fit 64 bits");
	return end;
}
