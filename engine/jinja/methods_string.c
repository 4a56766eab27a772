/* methods_string.c - methods of str that make new text; methods_find.c has the others. */
#include <errno.h>

#include "engine/jinja/builtins.h"
#include "engine/jinja/utf8.h"

static struct value string_strip(struct run *run, struct value self, const struct value *args)
{
	return jinja_strip(run, self, args[0], true, true);
}

static struct value string_lstrip(struct run *run, struct value self, const struct value *args)
{
	return jinja_strip(run, self, args[0], true, false);
}

static struct value string_rstrip(struct run *run, struct value self, const struct value *args)
{
	return jinja_strip(run, self, args[0], false, true);
}

static struct value string_upper(struct run *run, struct value self, const struct value *args)
{
	return jinja_change_case(run, self, CASE_UPPER);
}

static struct value string_lower(struct run *run, struct value self, const struct value *args)
{
	return jinja_change_case(run, self, CASE_LOWER);
}

static struct value string_title(struct run *run, struct value self, const struct value *args)
{
	return jinja_change_case(run, self, CASE_TITLE);
}

static struct value string_capitalize(struct run *run, struct value self, const struct value *args)
{
	return jinja_change_case(run, self, CASE_CAPITAL);
}

static struct value string_swapcase(struct run *run, struct value self, const struct value *args)
{
	return jinja_change_case(run, self, CASE_SWAP);
}

static struct value string_replace(struct run *run, struct value self, const struct value *args)
{
	return jinja_replace(run, self, jinja_arg_string(run, args[0], "replace()"),
		jinja_arg_string(run, args[1], "replace()"),
		jinja_arg_int(run, args[2], -1, "replace()"));
}

static struct value string_removeprefix(
	struct run *run, struct value self, const struct value *args)
{
	struct value prefix = jinja_arg_string(run, args[0], "removeprefix()");

	if (prefix.n && prefix.n <= self.n && memcmp(self.bytes, prefix.bytes, prefix.n) == 0)
		return value_string(self.bytes + prefix.n, self.n - prefix.n);
	return self;
}

static struct value string_removesuffix(
	struct run *run, struct value self, const struct value *args)
{
	struct value suffix = jinja_arg_string(run, args[0], "removesuffix()");

	if (suffix.n && suffix.n <= self.n
		&& memcmp(self.bytes + self.n - suffix.n, suffix.bytes, suffix.n) == 0)
		return value_string(self.bytes, self.n - suffix.n);
	return self;
}

static void split_space(struct run *run, struct value text, int64_t max, struct list *parts)
{
	while (true) {
		size_t at = 0, end = 0;
		text = jinja_strip(run, text, value_missing(), true, false);
		if (!text.n)
			return;
		while (at < text.n
			&& !jinja_point_is_space(jinja_utf8_next(text.bytes, text.n, &at)))
			end = at;
		if (max == 0)
			end = text.n;
		jinja_list_push(run, parts, value_string(text.bytes, end));
		text = value_string(text.bytes + end, text.n - end);
		max -= max > 0;
	}
}

/* The same from the right; parts come out last first. */
static void rsplit_space(struct run *run, struct value text, int64_t max, struct list *parts)
{
	while (true) {
		size_t at, start;
		text = jinja_strip(run, text, value_missing(), false, true);
		if (!text.n)
			return;
		at = start = text.n;
		while (at > 0 && !jinja_point_is_space(jinja_utf8_previous(text.bytes, &at)))
			start = at;
		if (max == 0)
			start = 0;
		jinja_list_push(run, parts, value_string(text.bytes + start, text.n - start));
		text.n = start;
		max -= max > 0;
	}
}

static void split_at(
	struct run *run, struct value text, struct value separator, int64_t max, struct list *parts)
{
	size_t at = 0;

	while (max != 0 && at <= text.n) {
		const char *found = text.n > at
			? memmem(text.bytes + at, text.n - at, separator.bytes, separator.n)
			: NULL;
		if (!found)
			break;
		jinja_list_push(run, parts,
			value_string(text.bytes + at, (size_t)(found - text.bytes) - at));
		at = (size_t)(found - text.bytes) + separator.n;
		max -= max > 0;
	}
	jinja_list_push(run, parts, value_string(text.bytes + at, text.n - at));
}

static void rsplit_at(
	struct run *run, struct value text, struct value separator, int64_t max, struct list *parts)
{
	size_t at = text.n;

	while (max != 0 && at >= separator.n) {
		at -= separator.n;
		while (memcmp(text.bytes + at, separator.bytes, separator.n) != 0 && at > 0)
			at--;
		jinja_step_bytes(run, text.n - at);
		if (memcmp(text.bytes + at, separator.bytes, separator.n) != 0)
			break;
		jinja_list_push(run, parts,
			value_string(text.bytes + at + separator.n, text.n - at - separator.n));
		text.n = at;
		max -= max > 0;
	}
	jinja_list_push(run, parts, text);
}

static void reverse_list(struct list *list)
{
	for (size_t i = 0; i < list->n / 2; i++) {
		struct value swap = list->items[i];
		list->items[i] = list->items[list->n - 1 - i];
		list->items[list->n - 1 - i] = swap;
	}
}

static struct value split(
	struct run *run, struct value self, const struct value *args, bool from_right)
{
	struct list *parts = jinja_list_new(run, 0);
	int64_t max = jinja_arg_int(run, args[1], -1, "split()");

	jinja_step_bytes(run, self.n * 4);
	if (args[0].kind == MISSING || args[0].kind == NONE) {
		(from_right ? rsplit_space : split_space)(run, self, max, parts);
	} else {
		struct value separator = jinja_arg_string(run, args[0], "split()");
		if (!separator.n)
			jinja_fail(run, -EINVAL, "empty separator");
		(from_right ? rsplit_at : split_at)(run, self, separator, max, parts);
	}
	if (from_right)
		reverse_list(parts);
	return value_list(parts);
}

static struct value string_split(struct run *run, struct value self, const struct value *args)
{
	return split(run, self, args, false);
}

static struct value string_rsplit(struct run *run, struct value self, const struct value *args)
{
	return split(run, self, args, true);
}

static struct value string_splitlines(struct run *run, struct value self, const struct value *args)
{
	return value_list(jinja_split_lines(run, self, jinja_arg_bool(run, args[0], false)));
}

static struct value string_join(struct run *run, struct value self, const struct value *args)
{
	struct list *items = jinja_items(run, args[0]);
	struct buffer buffer = { 0 };

	for (size_t i = 0; i < items->n; i++) {
		if (items->items[i].kind != STRING)
			jinja_fail(run, -EINVAL,
				"sequence item %zu: expected str instance, %s found", i,
				jinja_kind_name(items->items[i]));
		if (i)
			jinja_put(run, &buffer, self.bytes, self.n);
		jinja_put(run, &buffer, items->items[i].bytes, items->items[i].n);
	}
	return value_buffer(&buffer);
}

static struct value pad(
	struct run *run, struct value self, const struct value *args, enum text_align align)
{
	uint32_t fill = ' ';
	size_t at = 0;

	if (args[1].kind != MISSING) {
		if (args[1].kind != STRING || jinja_length(run, args[1]) != 1)
			jinja_fail(run, -EINVAL,
				"the fill character must be exactly one character long");
		fill = jinja_utf8_next(args[1].bytes, args[1].n, &at);
	}
	return jinja_pad(run, self, jinja_arg_int(run, args[0], 0, "the width"), fill, align);
}

static struct value string_ljust(struct run *run, struct value self, const struct value *args)
{
	return pad(run, self, args, ALIGN_LEFT);
}

static struct value string_rjust(struct run *run, struct value self, const struct value *args)
{
	return pad(run, self, args, ALIGN_RIGHT);
}

static struct value string_center(struct run *run, struct value self, const struct value *args)
{
	return pad(run, self, args, ALIGN_CENTER);
}

static struct value string_zfill(struct run *run, struct value self, const struct value *args)
{
	bool sign = self.n && (self.bytes[0] == '+' || self.bytes[0] == '-');
	struct value rest = value_string(self.bytes + sign, self.n - sign), number;
	struct buffer buffer = { 0 };

	number = jinja_pad(
		run, rest, jinja_arg_int(run, args[0], 0, "the width") - sign, '0', ALIGN_RIGHT);
	jinja_put(run, &buffer, self.bytes, sign);
	jinja_put(run, &buffer, number.bytes, number.n);
	return value_buffer(&buffer);
}

static struct value partition(
	struct run *run, struct value self, const struct value *args, bool from_right)
{
	struct value separator = jinja_arg_string(run, args[0], "partition()");
	struct value empty = value_string("", 0);
	struct list *parts = jinja_list_new(run, 3), *found = jinja_list_new(run, 2);

	if (!separator.n)
		jinja_fail(run, -EINVAL, "empty separator");
	(from_right ? rsplit_at : split_at)(run, self, separator, 1, found);
	if (from_right)
		reverse_list(found);
	jinja_list_push(run, parts, found->n == 1 && from_right ? empty : found->items[0]);
	jinja_list_push(run, parts, found->n == 1 ? empty : separator);
	jinja_list_push(run, parts, found->n == 2 ? found->items[1] : from_right ? self : empty);
	return value_tuple(parts);
}

static struct value string_partition(struct run *run, struct value self, const struct value *args)
{
	return partition(run, self, args, false);
}

static struct value string_rpartition(struct run *run, struct value self, const struct value *args)
{
	return partition(run, self, args, true);
}

static struct value string_format(struct run *run, struct value self, const struct call *call)
{
	return jinja_brace_format(run, self, call);
}

const struct builtin jinja_methods_string[] = {
	{ "strip", string_strip, "chars" },
	{ "lstrip", string_lstrip, "chars" },
	{ "rstrip", string_rstrip, "chars" },
	{ "upper", string_upper },
	{ "lower", string_lower },
	{ "title", string_title },
	{ "capitalize", string_capitalize },
	{ "swapcase", string_swapcase },
	{ "replace", string_replace, "old new count", 2 },
	{ "removeprefix", string_removeprefix, "prefix", 1 },
	{ "removesuffix", string_removesuffix, "suffix", 1 },
	{ "split", string_split, "sep maxsplit" },
	{ "rsplit", string_rsplit, "sep maxsplit" },
	{ "splitlines", string_splitlines, "keepends" },
	{ "join", string_join, "iterable", 1 },
	{ "ljust", string_ljust, "width fillchar", 1 },
	{ "rjust", string_rjust, "width fillchar", 1 },
	{ "center", string_center, "width fillchar", 1 },
	{ "zfill", string_zfill, "width", 1 },
	{ "partition", string_partition, "sep", 1 },
	{ "rpartition", string_rpartition, "sep", 1 },
	{ "format", .variadic = string_format },
	{ NULL },
};
