/* value.c - lists, dicts, equality, order and iteration, as Python has them.  See value.h.
 *
 * A dict keeps its entries in order of insertion.  Up to DICT_SCAN entries are searched one by
 * one; above, slots[] is an open-addressed table of entry numbers, hashed with the run's seed. */
#include "engine/jinja/value.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <xxhash.h>

#include "engine/jinja/utf8.h"

#define DICT_SCAN 8

static struct value format_text(struct run *run, const char *format, va_list list)
{
	char text[256];
	struct buffer buffer = { 0 };

	vsnprintf(text, sizeof(text), format, list);
	jinja_puts(run, &buffer, text);
	return value_buffer(&buffer);
}

struct value jinja_format(struct run *run, const char *format, ...)
{
	va_list list;
	struct value value;

	va_start(list, format);
	value = format_text(run, format, list);
	va_end(list);
	return value;
}

struct value jinja_undefined(struct run *run, const char *format, ...)
{
	va_list list;
	struct value value;

	va_start(list, format);
	value = format_text(run, format, list);
	va_end(list);
	value.kind = UNDEFINED;
	return value;
}

struct list *jinja_list_new(struct run *run, size_t size)
{
	static struct value
		none[1]; /* so that items is never NULL; size 0 keeps it from being written */
	struct list *list = jinja_alloc(run, sizeof(*list));

	*list = (struct list){ .size = size, .items = none };
	if (size)
		list->items = jinja_alloc_array(run, size, sizeof(list->items[0]));
	jinja_step(run, size / 8);
	return list;
}

void jinja_list_push(struct run *run, struct list *list, struct value value)
{
	if (list->n == list->size) {
		size_t size = list->size ? list->size * 2 : 4;
		list->items = jinja_realloc(run, list->size ? list->items : NULL,
			list->size * sizeof(value), size * sizeof(value));
		list->size = size;
	}
	list->items[list->n++] = value;
	jinja_step(run, 1);
}

struct value jinja_iterator(struct run *run, struct list *list, const char *name)
{
	struct iterator *iterator = jinja_alloc(run, sizeof(*iterator));

	*iterator = (struct iterator){ .list = list, .name = name };
	return (struct value){ .kind = ITERATOR, .iterator = iterator };
}

struct value jinja_pair(struct run *run, struct value first, struct value second)
{
	struct list *list = jinja_list_new(run, 2);

	list->items[0] = first;
	list->items[1] = second;
	list->n = 2;
	return value_tuple(list);
}

struct dict *jinja_dict_new(struct run *run)
{
	struct dict *dict = jinja_alloc(run, sizeof(*dict));

	*dict = (struct dict){ 0 };
	return dict;
}

static uint64_t hash_whole(struct run *run, int64_t integer)
{
	return XXH3_64bits_withSeed(&integer, sizeof(integer), run->seed);
}

uint64_t jinja_hash(struct run *run, struct value value)
{
	uint64_t hash = value.kind;

	switch (value.kind) {
	case STRING:
		jinja_step_bytes(run, value.n);
		return XXH3_64bits_withSeed(value.bytes, value.n, run->seed);
	case BOOL: case INT:
		return hash_whole(run, value.integer);
	case FLOAT:  /* equal numbers have equal hashes, whatever their type */
		if (value.real >= -0x1p63 && value.real < 0x1p63 && value.real == floor(value.real))
			return hash_whole(run, (int64_t)value.real);
		return XXH3_64bits_withSeed(&value.real, sizeof(value.real), run->seed);
	case TUPLE:
		jinja_enter(run);
		for (size_t i = 0; i < value.list->n; i++)
			hash = hash * 0x9e3779b97f4a7c15u + jinja_hash(run, value.list->items[i]);
		jinja_step(run, value.list->n);
		jinja_leave(run);
		return hash;
	case LIST: case DICT:
		jinja_fail(run, -EINVAL, "unhashable type: '%s'",
			value.kind == LIST ? "list" : "dict");
	default:
		return hash;
	}
}

static void dict_index(struct run *run, struct dict *dict)
{
	dict->n_slots = dict->n_slots ? dict->n_slots * 2 : 4 * DICT_SCAN;
	dict->slots = jinja_alloc_array(run, dict->n_slots, sizeof(dict->slots[0]));
	memset(dict->slots, 0, dict->n_slots * sizeof(dict->slots[0]));
	jinja_step(run, dict->n_slots / 4);
	for (size_t i = 0; i < dict->n; i++) {
		size_t slot = dict->entries[i].hash & (dict->n_slots - 1);
		while (dict->slots[slot])
			slot = (slot + 1) & (dict->n_slots - 1);
		dict->slots[slot] = (uint32_t)i + 1;
	}
}

static struct dict_entry *dict_find(
	struct run *run, const struct dict *dict, struct value key, uint64_t hash)
{
	if (!dict->slots) {
		for (size_t i = 0; i < dict->n; i++)
			if (dict->entries[i].hash == hash
				&& jinja_equal(run, dict->entries[i].key, key))
				return &dict->entries[i];
		return NULL;
	}
	for (size_t slot = hash & (dict->n_slots - 1); dict->slots[slot];
		slot = (slot + 1) & (dict->n_slots - 1)) {
		struct dict_entry *entry = &dict->entries[dict->slots[slot] - 1];
		if (entry->hash == hash && jinja_equal(run, entry->key, key))
			return entry;
		jinja_step(run, 1);
	}
	return NULL;
}

void jinja_dict_set(struct run *run, struct dict *dict, struct value key, struct value value)
{
	uint64_t hash = jinja_hash(run, key);
	struct dict_entry *entry = dict_find(run, dict, key, hash);

	jinja_step(run, 1);
	if (entry) {
		entry->value = value;
		return;
	}
	if (dict->n == dict->size) {
		size_t size = dict->size ? dict->size * 2 : 4;
		dict->entries = jinja_realloc(
			run, dict->entries, dict->size * sizeof(*entry), size * sizeof(*entry));
		dict->size = size;
	}
	dict->entries[dict->n++] = (struct dict_entry){ .key = key, .value = value, .hash = hash };
	if (dict->n > DICT_SCAN && dict->n * 2 > dict->n_slots) {
		dict_index(run, dict);
	} else if (dict->slots) {
		size_t slot = hash & (dict->n_slots - 1);
		while (dict->slots[slot])
			slot = (slot + 1) & (dict->n_slots - 1);
		dict->slots[slot] = (uint32_t)dict->n;
	}
}

const struct value *jinja_dict_get(struct run *run, const struct dict *dict, struct value key)
{
	struct dict_entry *entry = dict_find(run, dict, key, jinja_hash(run, key));

	return entry ? &entry->value : NULL;
}

const struct value *jinja_dict_get_text(struct run *run, const struct dict *dict, const char *key)
{
	return jinja_dict_get(run, dict, value_text(key));
}

static struct value text_from_json(struct run *run, const char *bytes, size_t n)
{
	char *copy = jinja_alloc(run, n);

	if (n)
		memcpy(copy, bytes, n);
	jinja_step_bytes(run, n);
	return value_string(copy, n);
}

struct value jinja_from_json(struct run *run, const json_t *json)
{
	struct value result = value_none();
	const char *key;
	json_t *item;
	size_t i;

	jinja_enter(run);
	jinja_step(run, 1);
	switch (json_typeof(json)) {
	case JSON_OBJECT:
		result = value_dict(jinja_dict_new(run));
		json_object_foreach((json_t *)json, key, item)
			jinja_dict_set(run, result.dict, text_from_json(run, key, strlen(key)),
				jinja_from_json(run, item));
		break;
	case JSON_ARRAY:
		result = value_list(jinja_list_new(run, json_array_size(json)));
		json_array_foreach(json, i, item)
			jinja_list_push(run, result.list, jinja_from_json(run, item));
		break;
	case JSON_STRING:
		result = text_from_json(run, json_string_value(json), json_string_length(json));
		break;
	case JSON_INTEGER:
		result = value_int(json_integer_value(json));
		break;
	case JSON_REAL:
		result = value_float(json_real_value(json));
		break;
	case JSON_TRUE: case JSON_FALSE:
		result = value_bool(json_is_true(json));
		break;
	case JSON_NULL:
		break;
	}
	jinja_leave(run);
	return result;
}

const char *jinja_kind_name(struct value value)
{
	static const char *const names[] = {
		[MISSING] = "nothing",
		[UNDEFINED] = "undefined",
		[NONE] = "None",
		[BOOL] = "bool",
		[INT] = "int",
		[FLOAT] = "float",
		[STRING] = "str",
		[LIST] = "list",
		[TUPLE] = "tuple",
		[DICT] = "dict",
		[NAMESPACE] = "namespace",
		[RANGE] = "range",
		[VIEW] = "dict view",
		[ITERATOR] = "iterator",
		[FUNCTION] = "function",
		[MACRO] = "macro",
		[LOOP] = "loop",
		[COUNTER] = "cycler",
	};
	return names[value.kind];
}

void jinja_need_defined(struct run *run, struct value value)
{
	if (value.kind == UNDEFINED)
		jinja_fail(run, -EINVAL, "%.*s", WORDS(value));
}

bool jinja_has_length(struct value value)
{
	switch (value.kind) {
	case UNDEFINED:
	case STRING:
	case LIST:
	case TUPLE:
	case DICT:
	case RANGE:
	case VIEW:
	case LOOP: return true;
	default:
		return false;
	}
}

bool jinja_truth(struct run *run, struct value value)
{
	switch (value.kind) {
	case MISSING: case UNDEFINED: case NONE:
		return false;
	case BOOL: case INT:
		return value.integer != 0;
	case FLOAT:
		return value.real != 0;
	default:
		return !jinja_has_length(value) || value.kind == LOOP
			|| jinja_length(run, value) > 0;
	}
}

bool jinja_same(struct value a, struct value b)
{
	if (a.kind != b.kind)
		return false;
	switch (a.kind) {
	case NONE:
		return true;
	case FLOAT:
		return a.real == b.real;
	case STRING:
		return a.n == b.n && (a.n == 0 || memcmp(a.bytes, b.bytes, a.n) == 0);
	case BOOL: case INT:
		return a.integer == b.integer;
	default:
		return a.list == b.list;
	}
}

static int compare_numbers(struct value a, struct value b)
{
	if (value_is_whole(a) && value_is_whole(b))
		return (a.integer > b.integer) - (a.integer < b.integer);
	if (a.kind == FLOAT && b.kind == FLOAT)
		return isnan(a.real) || isnan(b.real) ? 2 : (a.real > b.real) - (a.real < b.real);
	if (a.kind == FLOAT) {
		int opposite = compare_numbers(b, a);
		return opposite == 2 ? 2 : -opposite;
	}
	/* whole against float, exactly: a double may not hold the integer */
	if (isnan(b.real))
		return 2;
	if (b.real >= 0x1p63)
		return -1;
	if (b.real < -0x1p63)
		return 1;
	if (a.integer != (int64_t)b.real)
		return a.integer > (int64_t)b.real ? 1 : -1;
	return (trunc(b.real) > b.real) - (trunc(b.real) < b.real);
}

static bool dicts_equal(struct run *run, const struct dict *a, const struct dict *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++) {
		struct dict_entry *other = dict_find(run, b, a->entries[i].key, a->entries[i].hash);
		if (!other || !jinja_equal(run, a->entries[i].value, other->value))
			return false;
	}
	return true;
}

static struct value range_item(const struct range *range, size_t i)
{
	return value_int(range->start + (int64_t)i * range->step);
}

static bool ranges_equal(const struct range *a, const struct range *b)
{
	return a->n == b->n
		&& (a->n == 0 || (a->start == b->start && (a->n == 1 || a->step == b->step)));
}

bool jinja_equal(struct run *run, struct value a, struct value b)
{
	bool equal = true;

	jinja_step(run, 1);
	if (value_is_number(a) && value_is_number(b))
		return compare_numbers(a, b) == 0;
	if (a.kind != b.kind)
		return false;
	switch (a.kind) {
	case UNDEFINED: case NONE:
		return true;
	case STRING:
		jinja_step_bytes(run, a.n);
		return jinja_same(a, b);
	case LIST: case TUPLE:
		if (a.list->n != b.list->n)
			return false;
		jinja_enter(run);
		for (size_t i = 0; i < a.list->n && equal; i++)
			equal = jinja_equal(run, a.list->items[i], b.list->items[i]);
		jinja_leave(run);
		return equal;
	case DICT:
		jinja_enter(run);
		equal = dicts_equal(run, a.dict, b.dict);
		jinja_leave(run);
		return equal;
	case RANGE:
		return ranges_equal(a.range, b.range);
	default:
		return jinja_same(a, b);
	}
}

int jinja_compare(struct run *run, struct value a, struct value b, const char *op)
{
	jinja_step(run, 1);
	jinja_need_defined(run, a);
	jinja_need_defined(run, b);
	if (value_is_number(a) && value_is_number(b))
		return compare_numbers(a, b);
	if (a.kind == STRING && b.kind == STRING) {
		size_t n = a.n < b.n ? a.n : b.n;
		int order = n ? memcmp(a.bytes, b.bytes, n) : 0;
		jinja_step_bytes(run, n);
		return order ? (order > 0) - (order < 0) : (a.n > b.n) - (a.n < b.n);
	}
	if (value_is_sequence(a) && a.kind == b.kind) {
		size_t n = a.list->n < b.list->n ? a.list->n : b.list->n;
		int order;
		for (size_t i = 0; i < n; i++) {
			if (jinja_equal(run, a.list->items[i], b.list->items[i]))
				continue;
			jinja_enter(run);
			order = jinja_compare(run, a.list->items[i], b.list->items[i], op);
			jinja_leave(run);
			return order;
		}
		return (a.list->n > b.list->n) - (a.list->n < b.list->n);
	}
	jinja_fail(run, -EINVAL, "'%s' not supported between %s and %s", op, jinja_kind_name(a),
		jinja_kind_name(b));
}

bool jinja_contains(struct run *run, struct value needle, struct value haystack)
{
	struct list *items;

	if (haystack.kind == STRING) {
		if (needle.kind != STRING)
			jinja_fail(run, -EINVAL,
				"'in <string>' requires string as left operand, not %s",
				jinja_kind_name(needle));
		jinja_step_bytes(run, haystack.n);
		return needle.n == 0
			|| (haystack.n
				&& memmem(haystack.bytes, haystack.n, needle.bytes, needle.n));
	}
	if (haystack.kind == DICT || (haystack.kind == VIEW && haystack.detail == VIEW_KEYS))
		return jinja_dict_get(run, haystack.dict, needle) != NULL;
	if (!jinja_is_iterable(haystack))
		jinja_fail(run, -EINVAL, "argument of type '%s' is not iterable",
			jinja_kind_name(haystack));
	items = jinja_items(run, haystack);
	for (size_t i = 0; i < items->n; i++)
		if (jinja_equal(run, items->items[i], needle))
			return true;
	return false;
}

size_t jinja_length(struct run *run, struct value value)
{
	switch (value.kind) {
	case UNDEFINED:
		return 0;
	case STRING:
		jinja_step_bytes(run, value.n);
		return jinja_utf8_length(value.bytes, value.n);
	case LIST: case TUPLE:
		return value.list->n;
	case DICT: case VIEW:
		return value.dict->n;
	case RANGE:
		return value.range->n;
	default:
		jinja_fail(
			run, -EINVAL, "object of type '%s' has no len()", jinja_kind_name(value));
	}
}

bool jinja_is_iterable(struct value value)
{
	return value.kind == ITERATOR || (jinja_has_length(value) && value.kind != LOOP);
}

static struct list *items_of_dict(struct run *run, const struct dict *dict, unsigned view)
{
	struct list *list = jinja_list_new(run, dict->n);

	for (size_t i = 0; i < dict->n; i++) {
		struct dict_entry *entry = &dict->entries[i];
		jinja_list_push(run, list,
			view == VIEW_KEYS	      ? entry->key
				: view == VIEW_VALUES ? entry->value
						      : jinja_pair(run, entry->key, entry->value));
	}
	return list;
}

struct list *jinja_items(struct run *run, struct value value)
{
	struct list *list;
	size_t at = 0;

	switch (value.kind) {
	case LIST: case TUPLE:
		return value.list;
	case DICT:
		return items_of_dict(run, value.dict, VIEW_KEYS);
	case VIEW:
		return items_of_dict(run, value.dict, value.detail);
	case UNDEFINED:
		return jinja_list_new(run, 0);
	case STRING:
		list = jinja_list_new(run, jinja_length(run, value));
		while (at < value.n) {
			size_t start = at;
			jinja_utf8_next(value.bytes, value.n, &at);
			jinja_list_push(run, list, value_string(value.bytes + start, at - start));
		}
		return list;
	case RANGE:
		list = jinja_list_new(run, value.range->n);
		for (size_t i = 0; i < value.range->n; i++)
			jinja_list_push(run, list, range_item(value.range, i));
		return list;
	case ITERATOR:
		list = jinja_list_new(run, 0);
		*list = *value.iterator->list;
		if (list->n) {
			list->items += value.iterator->at;
			list->n -= value.iterator->at;
		}
		list->size = list->n;
		value.iterator->at = value.iterator->list->n;
		return list;
	default:
		jinja_fail(run, -EINVAL, "'%s' object is not iterable", jinja_kind_name(value));
	}
}
