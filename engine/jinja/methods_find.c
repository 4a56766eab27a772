/* methods_find.c - methods of str that look into text, and the methods of dicts and lists. */
#include <errno.h>

#include "engine/jinja/builtins.h"
#include "engine/jinja/utf8.h"

/* The part [start:end], in code points, that find() and its kin look at; false: there is none. */
static bool window(struct run *run, struct value self, struct value start, struct value end,
	struct value *ret_part, int64_t *ret_start)
{
	int64_t n = (int64_t)jinja_length(run, self), from = 0, to = n;
	size_t offset;

	if (start.kind != MISSING && start.kind != NONE)
		from = jinja_arg_int(run, start, 0, "start");
	if (end.kind != MISSING && end.kind != NONE)
		to = jinja_arg_int(run, end, n, "end");
	if (from < 0)
		from = from < -n ? 0 : from + n;
	if (to < 0)
		to = to < -n ? 0 : to + n;
	if (to > n)
		to = n;
	if (from > to)
		return false;
	offset = jinja_utf8_offset(self.bytes, self.n, (size_t)from);
	*ret_start = from;
	*ret_part = value_string(self.bytes ? self.bytes + offset : NULL,
		jinja_utf8_offset(self.bytes + offset, self.n - offset, (size_t)(to - from)));
	return true;
}

static bool affix_matches(struct value text, struct value affix, bool at_end)
{
	if (affix.n > text.n)
		return false;
	return !affix.n
		|| memcmp(text.bytes + (at_end ? text.n - affix.n : 0), affix.bytes, affix.n) == 0;
}

static struct value has_affix(
	struct run *run, struct value self, const struct value *args, bool at_end)
{
	struct value part;
	int64_t start;

	jinja_need_defined(run, args[0]);
	if (args[0].kind != STRING && args[0].kind != TUPLE)
		jinja_fail(run, -EINVAL, "%s first arg must be str or a tuple of str, not %s",
			at_end ? "endswith" : "startswith", jinja_kind_name(args[0]));
	if (!window(run, self, args[1], args[2], &part, &start))
		return value_bool(false);
	if (args[0].kind == STRING)
		return value_bool(affix_matches(part, args[0], at_end));
	for (size_t i = 0; i < args[0].list->n; i++) {
		jinja_step(run, 1);
		if (affix_matches(part,
			    jinja_arg_string(run, args[0].list->items[i], "each of the tuple"),
			    at_end))
			return value_bool(true);
	}
	return value_bool(false);
}

static struct value string_startswith(struct run *run, struct value self, const struct value *args)
{
	return has_affix(run, self, args, false);
}

static struct value string_endswith(struct run *run, struct value self, const struct value *args)
{
	return has_affix(run, self, args, true);
}

static int64_t find(struct run *run, struct value self, const struct value *args, bool last)
{
	struct value needle = jinja_arg_string(run, args[0], "find()"), part;
	int64_t start;
	size_t at;

	if (!window(run, self, args[1], args[2], &part, &start) || needle.n > part.n)
		return -1;
	jinja_step_bytes(run, part.n * (last ? needle.n + 1 : 1));
	if (!needle.n)
		return start + (last ? (int64_t)jinja_utf8_length(part.bytes, part.n) : 0);
	if (last) {
		for (at = part.n - needle.n + 1; at-- > 0; )
			if (memcmp(part.bytes + at, needle.bytes, needle.n) == 0)
				return start + (int64_t)jinja_utf8_length(part.bytes, at);
		return -1;
	}
	const char *found = memmem(part.bytes, part.n, needle.bytes, needle.n);
	return found ? start + (int64_t)jinja_utf8_length(part.bytes, (size_t)(found - part.bytes))
		     : -1;
}

static struct value string_find(struct run *run, struct value self, const struct value *args)
{
	return value_int(find(run, self, args, false));
}

static struct value string_rfind(struct run *run, struct value self, const struct value *args)
{
	return value_int(find(run, self, args, true));
}

static struct value index_of(
	struct run *run, struct value self, const struct value *args, bool last)
{
	int64_t at = find(run, self, args, last);

	if (at < 0)
		jinja_fail(run, -EINVAL, "substring not found");
	return value_int(at);
}

static struct value string_index(struct run *run, struct value self, const struct value *args)
{
	return index_of(run, self, args, false);
}

static struct value string_rindex(struct run *run, struct value self, const struct value *args)
{
	return index_of(run, self, args, true);
}

static struct value string_count(struct run *run, struct value self, const struct value *args)
{
	struct value needle = jinja_arg_string(run, args[0], "count()"), part;
	int64_t start, count = 0;
	size_t at = 0;

	if (!window(run, self, args[1], args[2], &part, &start))
		return value_int(0);
	jinja_step_bytes(run, part.n);
	if (!needle.n)
		return value_int((int64_t)jinja_utf8_length(part.bytes, part.n) + 1);
	while (at < part.n) {
		const char *found = memmem(part.bytes + at, part.n - at, needle.bytes, needle.n);
		if (!found)
			break;
		at = (size_t)(found - part.bytes) + needle.n;
		count++;
		jinja_step(run, 1);
	}
	return value_int(count);
}

static struct value all_points(struct run *run, struct value self, bool (*is)(uint32_t point))
{
	size_t at = 0;

	jinja_step_bytes(run, self.n * 8);
	while (at < self.n)
		if (!is(jinja_utf8_next(self.bytes, self.n, &at)))
			return value_bool(false);
	return value_bool(self.n > 0);
}

static bool point_is_alnum(uint32_t point)
{
	return jinja_point_is_alpha(point) || jinja_point_is_numeric(point);
}

#define CLASS_METHOD(name, test) \
	static struct value string_##name( \
		struct run *run, struct value self, const struct value *args) \
	{ \
		return all_points(run, self, test); \
	}
CLASS_METHOD(isalpha, jinja_point_is_alpha)
CLASS_METHOD(isalnum, point_is_alnum)
CLASS_METHOD(isdigit, jinja_point_is_digit)
CLASS_METHOD(isdecimal, jinja_point_is_decimal)
CLASS_METHOD(isnumeric, jinja_point_is_numeric)
CLASS_METHOD(isspace, jinja_point_is_space)

static struct value string_isascii(struct run *run, struct value self, const struct value *args)
{
	for (size_t i = 0; i < self.n; i++)
		if ((unsigned char)self.bytes[i] >= 0x80)
			return value_bool(false);
	return value_bool(true);
}

static struct value string_isupper(struct run *run, struct value self, const struct value *args)
{
	return value_bool(jinja_is_case(run, self, true));
}

static struct value string_islower(struct run *run, struct value self, const struct value *args)
{
	return value_bool(jinja_is_case(run, self, false));
}

static struct value view(struct value self, uint8_t detail)
{
	return (struct value){ .kind = VIEW, .detail = detail, .dict = self.dict };
}

static struct value dict_keys(struct run *run, struct value self, const struct value *args)
{
	return view(self, VIEW_KEYS);
}

static struct value dict_values(struct run *run, struct value self, const struct value *args)
{
	return view(self, VIEW_VALUES);
}

static struct value dict_items(struct run *run, struct value self, const struct value *args)
{
	return view(self, VIEW_ITEMS);
}

static struct value dict_get(struct run *run, struct value self, const struct value *args)
{
	const struct value *value = jinja_dict_get(run, self.dict, args[0]);

	return value ? *value : args[1].kind == MISSING ? value_none() : args[1];
}

/* Values never change, so a copy is the value itself. */
static struct value copy(struct run *run, struct value self, const struct value *args)
{
	return self;
}

/* What jinja2's sandbox calls unsafe: the attribute is there, but undefined, and says why. */
static struct value refuse(struct run *run, struct value self, const struct call *call)
{
	jinja_fail(run, -EINVAL, "a template may not change a %s", jinja_kind_name(self));
}

static struct value list_index(struct run *run, struct value self, const struct value *args)
{
	struct list *items = jinja_items(run, self);

	for (size_t i = 0; i < items->n; i++)
		if (jinja_equal(run, items->items[i], args[0]))
			return value_int((int64_t)i);
	jinja_fail(run, -EINVAL, "the value is not in the %s", jinja_kind_name(self));
}

static struct value list_count(struct run *run, struct value self, const struct value *args)
{
	struct list *items = jinja_items(run, self);
	int64_t count = 0;

	for (size_t i = 0; i < items->n; i++)
		count += jinja_equal(run, items->items[i], args[0]);
	return value_int(count);
}

const struct builtin jinja_methods_find[] = {
	{ "startswith", string_startswith, "prefix start end", 1 },
	{ "endswith", string_endswith, "suffix start end", 1 },
	{ "find", string_find, "sub start end", 1 },
	{ "rfind", string_rfind, "sub start end", 1 },
	{ "index", string_index, "sub start end", 1 },
	{ "rindex", string_rindex, "sub start end", 1 },
	{ "count", string_count, "sub start end", 1 },
	{ "isalpha", string_isalpha },
	{ "isalnum", string_isalnum },
	{ "isdigit", string_isdigit },
	{ "isdecimal", string_isdecimal },
	{ "isnumeric", string_isnumeric },
	{ "isspace", string_isspace },
	{ "isascii", string_isascii },
	{ "isupper", string_isupper },
	{ "islower", string_islower },
	{ NULL },
};

const struct builtin jinja_methods_dict[] = {
	{ "get", dict_get, "key default", 1 },
	{ "items", dict_items },
	{ "keys", dict_keys },
	{ "values", dict_values },
	{ "copy", copy },
	{ "clear", .variadic = refuse },
	{ "pop", .variadic = refuse },
	{ "popitem", .variadic = refuse },
	{ "setdefault", .variadic = refuse },
	{ "update", .variadic = refuse },
	{ NULL },
};

const struct builtin jinja_methods_list[] = {
	{ "index", list_index, "value", 1 },
	{ "count", list_count, "value", 1 },
	{ NULL },
};

const struct builtin jinja_methods_mutable[] = {
	{ "copy", copy },
	{ "append", .variadic = refuse },
	{ "clear", .variadic = refuse },
	{ "extend", .variadic = refuse },
	{ "insert", .variadic = refuse },
	{ "pop", .variadic = refuse },
	{ "remove", .variadic = refuse },
	{ "reverse", .variadic = refuse },
	{ "sort", .variadic = refuse },
	{ NULL },
};
