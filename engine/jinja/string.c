/* string.c - operations on text that filters and methods share.  Results are new strings. */
#include <errno.h>

#include "engine/jinja/builtins.h"
#include "engine/jinja/utf8.h"

static bool holds_point(struct run *run, struct value chars, uint32_t point)
{
	size_t at = 0;

	if (chars.kind != STRING)    /* none given: white space */
		return jinja_point_is_space(point);
	jinja_step_bytes(run, chars.n);
	while (at < chars.n)
		if (jinja_utf8_next(chars.bytes, chars.n, &at) == point)
			return true;
	return false;
}

struct value jinja_strip(
	struct run *run, struct value text, struct value chars, bool left, bool right)
{
	size_t start = 0, end = text.n, at;

	jinja_need_defined(run, chars);
	if (chars.kind != MISSING && chars.kind != NONE && chars.kind != STRING)
		jinja_fail(run, -EINVAL, "strip arg must be None or str, not %s",
			jinja_kind_name(chars));
	while (left && start < end) {
		at = start;
		if (!holds_point(run, chars, jinja_utf8_next(text.bytes, text.n, &at)))
			break;
		start = at;
	}
	while (right && end > start) {
		at = end;
		if (!holds_point(run, chars, jinja_utf8_previous(text.bytes, &at)))
			break;
		end = at;
	}
	jinja_step_bytes(run, text.n);
	return value_string(text.bytes ? text.bytes + start : NULL, end - start);
}

static void replace_empty(
	struct run *run, struct buffer *buffer, struct value text, struct value new, int64_t count)
{
	size_t at = 0, start;

	while (true) {
		if (count != 0) {
			jinja_put(run, buffer, new.bytes, new.n);
			count -= count > 0;
		}
		if (at >= text.n)
			return;
		start = at;
		jinja_utf8_next(text.bytes, text.n, &at);
		jinja_put(run, buffer, text.bytes + start, at - start);
		jinja_step(run, 1);
	}
}

struct value jinja_replace(
	struct run *run, struct value text, struct value old, struct value new, int64_t count)
{
	struct buffer buffer = { 0 };
	size_t at = 0;

	if (!old.n) {
		replace_empty(run, &buffer, text, new, count);
		return value_buffer(&buffer);
	}
	while (count != 0 && at < text.n) {
		const char *found = memmem(text.bytes + at, text.n - at, old.bytes, old.n);
		if (!found)
			break;
		jinja_put(run, &buffer, text.bytes + at, (size_t)(found - text.bytes) - at);
		jinja_put(run, &buffer, new.bytes, new.n);
		at = (size_t)(found - text.bytes) + old.n;
		count -= count > 0;
		jinja_step(run, 1);
	}
	jinja_step_bytes(run, text.n);
	if (at == 0)
		return text;
	jinja_put(run, &buffer, text.bytes + at, text.n - at);
	return value_buffer(&buffer);
}

/* A capital sigma at the end of a word becomes a final one: the context rule of str.lower(). */
static bool sigma_is_final(struct value text, size_t start, size_t end)
{
	uint32_t point = 0;
	size_t at = start;

	while (at > 0
		&& (point = jinja_utf8_previous(text.bytes, &at), point == '\'' || point == 0xad))
		point = 0;
	if (!point || !jinja_point_is_cased(point))
		return false;
	point = 0;
	for (at = end; at < text.n; point = 0) {
		point = jinja_utf8_next(text.bytes, text.n, &at);
		if (point != '\'' && point != 0xad)
			break;
	}
	return !jinja_point_is_cased(point);
}

static void put_mapped(struct run *run, struct buffer *buffer, struct value text, size_t start,
	size_t end, uint32_t point, enum point_case to)
{
	uint32_t mapped[3];
	size_t n = jinja_point_map(point, to, mapped);

	if (to == POINT_LOWER && point == 0x3a3 && sigma_is_final(text, start, end))
		mapped[0] = 0x3c2;
	for (size_t i = 0; i < n; i++)
		jinja_put_point(run, buffer, mapped[i]);
}

struct value jinja_change_case(struct run *run, struct value text, enum text_case to)
{
	struct buffer buffer = { 0 };
	bool after_cased = false;
	size_t at = 0, start;

	while (at < text.n) {
		enum point_case map = POINT_LOWER;
		uint32_t point;
		start = at;
		point = jinja_utf8_next(text.bytes, text.n, &at);
		if (to == CASE_UPPER || (to == CASE_SWAP && jinja_point_is_lower(point)))
			map = POINT_UPPER;
		else if ((to == CASE_TITLE && !after_cased) || (to == CASE_CAPITAL && start == 0))
			map = POINT_TITLE;
		if (to == CASE_SWAP && !jinja_point_is_cased(point))
			jinja_put_point(run, &buffer, point);
		else
			put_mapped(run, &buffer, text, start, at, point, map);
		after_cased = jinja_point_is_cased(point);
	}
	jinja_step(run, text.n / 8);
	return value_buffer(&buffer);
}

bool jinja_is_case(struct run *run, struct value text, bool upper)
{
	bool any = false;
	size_t at = 0;

	jinja_step_bytes(run, text.n * 8);
	while (at < text.n) {
		uint32_t point = jinja_utf8_next(text.bytes, text.n, &at);
		bool right = upper ? jinja_point_is_upper(point) : jinja_point_is_lower(point);
		if (!right && jinja_point_is_cased(point))
			return false;
		any |= right;
	}
	return any;
}

struct value jinja_pad(
	struct run *run, struct value text, int64_t width, uint32_t fill, enum text_align align)
{
	struct buffer buffer = { 0 };
	int64_t length = (int64_t)jinja_length(run, text), pad = width - length, left;

	if (width <= length)
		return text;
	if ((uint64_t)pad > run->limits.output_bytes)
		jinja_fail(
			run, -EOVERFLOW, "a text grows beyond %zu bytes", run->limits.output_bytes);
	left = align == ALIGN_LEFT ? 0 : align == ALIGN_RIGHT ? pad : pad / 2 + (pad & width & 1);
	for (int64_t i = 0; i < pad; i++) {
		if (i == left)
			jinja_put(run, &buffer, text.bytes, text.n);
		jinja_put_point(run, &buffer, fill);
	}
	if (left == pad)
		jinja_put(run, &buffer, text.bytes, text.n);
	jinja_step(run, (uint64_t)pad / 8);
	return value_buffer(&buffer);
}

static bool is_line_break(uint32_t point)
{
	return (point >= 0x0a && point <= 0x0d) || (point >= 0x1c && point <= 0x1e) || point == 0x85
		|| point == 0x2028 || point == 0x2029;
}

struct list *jinja_split_lines(struct run *run, struct value text, bool keep_ends)
{
	struct list *lines = jinja_list_new(run, 0);
	size_t at = 0, line = 0, end;

	while (at < text.n) {
		uint32_t point;
		end = at;
		point = jinja_utf8_next(text.bytes, text.n, &at);
		if (!is_line_break(point))
			continue;
		if (point == '\r' && at < text.n && text.bytes[at] == '\n')
			at++;
		jinja_list_push(
			run, lines, value_string(text.bytes + line, (keep_ends ? at : end) - line));
		line = at;
	}
	if (line < text.n)
		jinja_list_push(run, lines, value_string(text.bytes + line, text.n - line));
	jinja_step_bytes(run, text.n * 4);
	return lines;
}
