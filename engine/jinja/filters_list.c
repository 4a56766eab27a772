/* filters_list.c - filters that take, order or combine items. */
#include <errno.h>

#include "engine/jinja/builtins.h"
#include "engine/jinja/lexer.h"

static struct value filter_list(struct run *run, struct value value, const struct value *args)
{
	struct list *items = jinja_items(run, value), *copy = jinja_list_new(run, items->n);

	for (size_t i = 0; i < items->n; i++)
		jinja_list_push(run, copy, items->items[i]);
	return value_list(copy);
}

static struct value filter_items(struct run *run, struct value value, const struct value *args)
{
	if (value.kind == UNDEFINED)
		return jinja_iterator(run, jinja_list_new(run, 0), "generator");
	if (value.kind != DICT)
		jinja_fail(run, -EINVAL, "can only get item pairs from a mapping, not %s",
			jinja_kind_name(value));
	value.kind = VIEW;
	value.detail = VIEW_ITEMS;
	return jinja_iterator(run, jinja_items(run, value), "generator");
}

static struct value filter_first(struct run *run, struct value value, const struct value *args)
{
	struct list *items;

	if (value.kind == ITERATOR && value.iterator->at < value.iterator->list->n)
		return value.iterator->list->items[value.iterator->at++];
	items = jinja_items(run, value);
	return items->n ? items->items[0]
			: jinja_undefined(run, "no first item, sequence was empty");
}

static struct value filter_last(struct run *run, struct value value, const struct value *args)
{
	struct list *items;

	jinja_need_defined(run, value);
	if (value.kind == ITERATOR)
		jinja_fail(run, -EINVAL, "'%s' object is not reversible", value.iterator->name);
	items = jinja_items(run, value);
	return items->n ? items->items[items->n - 1]
			: jinja_undefined(run, "no last item, sequence was empty");
}

static struct value filter_join(struct run *run, struct value value, const struct value *args)
{
	struct list *items = jinja_items(run, value);
	struct value separator = args[0].kind == MISSING ? value_string("", 0)
							 : jinja_str(run, args[0]);
	struct buffer buffer = { 0 };

	for (size_t i = 0; i < items->n; i++) {
		struct value item = items->items[i];
		if (args[1].kind != MISSING && args[1].kind != NONE)
			item = jinja_path(run, item, args[1], value_missing());
		if (i)
			jinja_put(run, &buffer, separator.bytes, separator.n);
		jinja_put_str(run, &buffer, item);
	}
	return value_buffer(&buffer);
}

static struct value filter_reverse(struct run *run, struct value value, const struct value *args)
{
	struct list *items = jinja_items(run, value), *list;
	struct buffer buffer = { 0 };
	bool sequence = value_is_sequence(value) || value.kind == DICT || value.kind == RANGE
		|| value.kind == VIEW;

	if (value.kind == STRING) {
		for (size_t i = items->n; i-- > 0; )
			jinja_put(run, &buffer, items->items[i].bytes, items->items[i].n);
		return value_buffer(&buffer);
	}
	list = jinja_list_new(run, items->n);
	for (size_t i = items->n; i-- > 0; )
		jinja_list_push(run, list, items->items[i]);
	return sequence ? jinja_iterator(run, list, "reversed") : value_list(list);
}

/* What sort, unique, min, max and dictsort compare: the attribute, in lower case unless told. */
static struct value sort_key(
	struct run *run, struct value item, struct value attribute, bool case_sensitive)
{
	if (attribute.kind != MISSING && attribute.kind != NONE)
		item = jinja_path(run, item, attribute, value_missing());
	return item.kind == STRING && !case_sensitive ? jinja_change_case(run, item, CASE_LOWER)
						      : item;
}

/* The attributes of "a,b.c", or the item itself, as a list: equal keys of any type are in order. */
static struct value sort_keys(
	struct run *run, struct value item, struct value attribute, bool case_sensitive)
{
	struct list *keys = jinja_list_new(run, 1);
	size_t at = 0;

	if (attribute.kind != STRING) {
		jinja_list_push(run, keys, sort_key(run, item, attribute, case_sensitive));
		return value_list(keys);
	}
	while (at <= attribute.n) {
		const char *comma = at < attribute.n
			? memchr(attribute.bytes + at, ',', attribute.n - at)
			: NULL;
		size_t n = (comma ? (size_t)(comma - attribute.bytes) : attribute.n) - at;
		jinja_list_push(run, keys,
			sort_key(run, item, value_string(attribute.bytes + at, n), case_sensitive));
		at += n + 1;
	}
	return value_list(keys);
}

static struct value filter_sort(struct run *run, struct value value, const struct value *args)
{
	bool reverse = jinja_arg_bool(run, args[0], false),
	     case_sensitive = jinja_arg_bool(run, args[1], false);
	struct list *items = jinja_items(run, value), *keys = jinja_list_new(run, items->n);

	for (size_t i = 0; i < items->n; i++)
		jinja_list_push(
			run, keys, sort_keys(run, items->items[i], args[2], case_sensitive));
	return value_list(jinja_sorted(run, items, keys, reverse));
}

static struct value filter_dictsort(struct run *run, struct value value, const struct value *args)
{
	bool case_sensitive = jinja_arg_bool(run, args[0], false),
	     reverse = jinja_arg_bool(run, args[2], false);
	bool by_value = value_text_is(args[1], "value");
	struct list *items, *keys;

	jinja_need_defined(run, value);
	if (value.kind != DICT)
		jinja_fail(
			run, -EINVAL, "dictsort needs a mapping, not %s", jinja_kind_name(value));
	if (args[1].kind != MISSING && !by_value && !value_text_is(args[1], "key"))
		jinja_fail(run, -EINVAL, "dictsort: by must be \"key\" or \"value\"");
	value.kind = VIEW;
	value.detail = VIEW_ITEMS;
	items = jinja_items(run, value);
	keys = jinja_list_new(run, items->n);
	for (size_t i = 0; i < items->n; i++)
		jinja_list_push(run, keys,
			sort_key(run, items->items[i].list->items[by_value], value_missing(),
				case_sensitive));
	return value_list(jinja_sorted(run, items, keys, reverse));
}

static struct value filter_unique(struct run *run, struct value value, const struct value *args)
{
	bool case_sensitive = jinja_arg_bool(run, args[0], false);
	struct list *items = jinja_items(run, value), *result = jinja_list_new(run, 0);
	struct dict *seen = jinja_dict_new(run);

	for (size_t i = 0; i < items->n; i++) {
		struct value key = sort_key(run, items->items[i], args[1], case_sensitive);
		if (jinja_dict_get(run, seen, key))
			continue;
		jinja_dict_set(run, seen, key, value_none());
		jinja_list_push(run, result, items->items[i]);
	}
	return jinja_iterator(run, result, "generator");
}

static struct value extreme(
	struct run *run, struct value value, const struct value *args, bool largest)
{
	bool case_sensitive = jinja_arg_bool(run, args[0], false);
	struct list *items = jinja_items(run, value);
	struct value best, best_key;

	if (!items->n)
		return jinja_undefined(run, "no aggregated item, sequence was empty");
	best = items->items[0];
	best_key = sort_key(run, best, args[1], case_sensitive);
	for (size_t i = 1; i < items->n; i++) {
		struct value key = sort_key(run, items->items[i], args[1], case_sensitive);
		if (jinja_compare(run, key, best_key, largest ? ">" : "<") == (largest ? 1 : -1)) {
			best = items->items[i];
			best_key = key;
		}
	}
	return best;
}

static struct value filter_min(struct run *run, struct value value, const struct value *args)
{
	return extreme(run, value, args, false);
}

static struct value filter_max(struct run *run, struct value value, const struct value *args)
{
	return extreme(run, value, args, true);
}

static struct value filter_sum(struct run *run, struct value value, const struct value *args)
{
	struct list *items = jinja_items(run, value);
	struct value sum = args[1].kind == MISSING ? value_int(0) : args[1];

	if (sum.kind == STRING)
		jinja_fail(run, -EINVAL, "sum() can't sum strings: use join");
	for (size_t i = 0; i < items->n; i++) {
		struct value item = items->items[i];
		if (args[0].kind != MISSING && args[0].kind != NONE)
			item = jinja_path(run, item, args[0], value_missing());
		sum = jinja_binary(run, TOKEN_ADD, sum, item);
	}
	return sum;
}

static struct value filter_batch(struct run *run, struct value value, const struct value *args)
{
	int64_t count = jinja_arg_int(run, args[0], 0, "batch: linecount");
	struct list *items = jinja_items(run, value), *rows = jinja_list_new(run, 0),
		    *row = jinja_list_new(run, 0);

	for (size_t i = 0; i < items->n; i++) {
		if ((int64_t)row->n == count) {
			jinja_list_push(run, rows, value_list(row));
			row = jinja_list_new(run, 0);
		}
		jinja_list_push(run, row, items->items[i]);
	}
	while (row->n && args[1].kind != MISSING && args[1].kind != NONE && (int64_t)row->n < count)
		jinja_list_push(run, row, args[1]);
	if (row->n)
		jinja_list_push(run, rows, value_list(row));
	return jinja_iterator(run, rows, "generator");
}

const struct builtin jinja_filters_list[] = {
	{ "list", filter_list },
	{ "items", filter_items },
	{ "first", filter_first },
	{ "last", filter_last },
	{ "join", filter_join, "d attribute" },
	{ "reverse", filter_reverse },
	{ "sort", filter_sort, "reverse case_sensitive attribute" },
	{ "dictsort", filter_dictsort, "case_sensitive by reverse" },
	{ "unique", filter_unique, "case_sensitive attribute" },
	{ "min", filter_min, "case_sensitive attribute" },
	{ "max", filter_max, "case_sensitive attribute" },
	{ "sum", filter_sum, "attribute start" },
	{ "batch", filter_batch, "linecount fill_with", 1 },
	{ NULL },
};
