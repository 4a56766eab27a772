/* operator.c - arithmetic, subscripts, attributes and order, as Python has them.
 *
 * Integers have 64 bits here; a result that needs more is an error, never a wrong number. */
#include <errno.h>
#include <math.h>

#include "engine/jinja/builtins.h"
#include "engine/jinja/lexer.h"
#include "engine/jinja/object.h"
#include "engine/jinja/utf8.h"

/* The sandbox of jinja2 allows ranges up to this length. */
#define RANGE_ITEMS_MAX 100000

static const char *operator_text(unsigned op)
{
	switch (op) {
	case TOKEN_ADD: return "+";
	case TOKEN_SUB: return "-";
	case TOKEN_MUL: return "*";
	case TOKEN_DIV: return "/";
	case TOKEN_FLOORDIV: return "//";
	case TOKEN_MOD: return "%";
	default: return "**";
	}
}

__attribute__((noreturn)) static void fail_overflow(struct run *run)
{
	jinja_fail(run, -EINVAL, "the result does not fit a 64-bit integer");
}

__attribute__((noreturn)) static void fail_zero(struct run *run)
{
	jinja_fail(run, -EINVAL, "division by zero");
}

static struct value int_power(struct run *run, int64_t base, int64_t exponent)
{
	int64_t result = 1;

	if (exponent < 0) {
		if (base == 0)
			fail_zero(run);
		return value_float(pow((double)base, (double)exponent));
	}
	while (exponent) {
		if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
			fail_overflow(run);
		exponent >>= 1;
		if (exponent && __builtin_mul_overflow(base, base, &base))
			fail_overflow(run);
	}
	return value_int(result);
}

static struct value int_binary(struct run *run, unsigned op, int64_t a, int64_t b)
{
	int64_t result = 0;
	bool overflow = false;

	switch (op) {
	case TOKEN_ADD:
		overflow = __builtin_add_overflow(a, b, &result);
		break;
	case TOKEN_SUB:
		overflow = __builtin_sub_overflow(a, b, &result);
		break;
	case TOKEN_MUL:
		overflow = __builtin_mul_overflow(a, b, &result);
		break;
	case TOKEN_POW:
		return int_power(run, a, b);
	default:
		if (b == 0)
			fail_zero(run);
		if (op == TOKEN_DIV)
			return value_float((double)((long double)a / (long double)b));
		if (b == -1) {       /* INT64_MIN / -1 traps */
			overflow = op == TOKEN_FLOORDIV && __builtin_sub_overflow(0, a, &result);
			if (op == TOKEN_MOD)
				result = 0;
			break;
		}
		result = op == TOKEN_MOD ? a % b : a / b;
		if (a % b && (a < 0) != (b < 0))
			result = op == TOKEN_MOD ? result + b : result - 1;
	}
	if (overflow)
		fail_overflow(run);
	return value_int(result);
}

/* Python's float // and %: the remainder has the sign of b. */
static struct value float_divide(unsigned op, double a, double b)
{
	double remainder = fmod(a, b), quotient = (a - remainder) / b, whole;

	if (remainder != 0) {
		if ((b < 0) != (remainder < 0)) {
			remainder += b;
			quotient -= 1;
		}
	} else {
		remainder = copysign(0, b);
	}
	if (op == TOKEN_MOD)
		return value_float(remainder);
	if (quotient == 0)
		return value_float(copysign(0, a / b));
	whole = floor(quotient);
	return value_float(quotient - whole > 0.5 ? whole + 1 : whole);
}

static struct value float_binary(struct run *run, unsigned op, double a, double b)
{
	double result;

	switch (op) {
	case TOKEN_ADD: return value_float(a + b);
	case TOKEN_SUB: return value_float(a - b);
	case TOKEN_MUL: return value_float(a * b);
	case TOKEN_POW:
		if (a == 0 && b < 0)
			fail_zero(run);
		if (a < 0 && !isinf(a) && !isinf(b) && b != floor(b))
			jinja_fail(run, -EINVAL,
				"a negative number to a fractional power is a complex number");
		result = pow(a, b);
		if (isinf(result) && !isinf(a) && !isinf(b))
			jinja_fail(run, -EINVAL, "the result is too large for a float");
		return value_float(result);
	default:
		if (b == 0)
			fail_zero(run);
		return op == TOKEN_DIV ? value_float(a / b) : float_divide(op, a, b);
	}
}

static struct value repeat(struct run *run, struct value value, int64_t count)
{
	struct buffer buffer = { 0 };
	struct list *list;

	if (count < 0)
		count = 0;
	if (value.kind == STRING) {
		if (value.n && (uint64_t)count > run->limits.output_bytes / value.n)
			jinja_fail(run, -EOVERFLOW, "a text grows beyond %zu bytes",
				run->limits.output_bytes);
		for (int64_t i = 0; value.n && i < count; i++) {
			jinja_put(run, &buffer, value.bytes, value.n);
			jinja_step(run, 1);
		}
		return value_buffer(&buffer);
	}
	list = jinja_list_new(run, 0);
	for (int64_t i = 0; value.list->n && i < count; i++)
		for (size_t j = 0; j < value.list->n; j++)
			jinja_list_push(run, list, value.list->items[j]);
	return (struct value){ .kind = value.kind, .list = list };
}

static struct value join_two(struct run *run, struct value a, struct value b)
{
	struct buffer buffer = { 0 };
	struct list *list;

	if (a.kind == STRING) {
		if (!b.n)
			return a;
		jinja_put(run, &buffer, a.bytes, a.n);
		jinja_put(run, &buffer, b.bytes, b.n);
		return value_buffer(&buffer);
	}
	list = jinja_list_new(run, a.list->n + b.list->n);
	for (size_t i = 0; i < a.list->n; i++)
		jinja_list_push(run, list, a.list->items[i]);
	for (size_t i = 0; i < b.list->n; i++)
		jinja_list_push(run, list, b.list->items[i]);
	return (struct value){ .kind = a.kind, .list = list };
}

struct value jinja_binary(struct run *run, unsigned op, struct value a, struct value b)
{
	if (op == TOKEN_MOD && a.kind == STRING)
		return jinja_percent(run, a, b);
	jinja_need_defined(run, a);
	jinja_need_defined(run, b);
	if (value_is_whole(a) && value_is_whole(b))
		return int_binary(run, op, a.integer, b.integer);
	if (value_is_number(a) && value_is_number(b))
		return float_binary(run, op, value_real(a), value_real(b));
	if (op == TOKEN_ADD && a.kind == b.kind && (a.kind == STRING || value_is_sequence(a)))
		return join_two(run, a, b);
	if (op == TOKEN_MUL && value_is_whole(b) && (a.kind == STRING || value_is_sequence(a)))
		return repeat(run, a, b.integer);
	if (op == TOKEN_MUL && value_is_whole(a) && (b.kind == STRING || value_is_sequence(b)))
		return repeat(run, b, a.integer);
	jinja_fail(run, -EINVAL, "unsupported operand types for %s: %s and %s", operator_text(op),
		jinja_kind_name(a), jinja_kind_name(b));
}

struct value jinja_negate(struct run *run, struct value value)
{
	jinja_need_defined(run, value);
	if (value_is_whole(value))
		return int_binary(run, TOKEN_SUB, 0, value.integer);
	if (value.kind != FLOAT)
		jinja_fail(
			run, -EINVAL, "bad operand type for unary -: %s", jinja_kind_name(value));
	return value_float(-value.real);
}

struct value jinja_range(struct run *run, int64_t start, int64_t stop, int64_t step)
{
	struct range *range = jinja_alloc(run, sizeof(*range));
	__int128 span = (__int128)stop - start, n = 0;

	if (step == 0)
		jinja_fail(run, -EINVAL, "range() step must not be zero");
	if ((span > 0) == (step > 0) && span != 0)
		n = (span + step - (step > 0 ? 1 : -1)) / step;
	if (n > RANGE_ITEMS_MAX)
		jinja_fail(run, -EOVERFLOW, "range() is longer than %d items", RANGE_ITEMS_MAX);
	*range = (struct range){ .start = start, .step = step, .n = (size_t)n };
	return (struct value){ .kind = RANGE, .range = range, .n = (size_t)stop };
}

static struct value no_attribute(struct run *run, struct value object, struct value name)
{
	return jinja_undefined(run, "'%s object' has no attribute '%.*s'", jinja_kind_name(object),
		WORDS(name));
}

static struct value own_attribute(struct run *run, struct value object, struct value name)
{
	const struct builtin *method;
	const struct value *value;

	if (object.kind == NAMESPACE) {
		value = jinja_dict_get(run, object.dict, name);
		return value ? *value : value_missing();
	}
	if (object.kind == LOOP)
		return jinja_loop_attribute(run, object, name);
	if (object.kind == MACRO && value_text_is(name, "name"))
		return object.macro->name;
	if (object.kind == COUNTER && !object.counter->is_joiner && value_text_is(name, "current"))
		return object.counter->items->items[object.counter->at];
	method = jinja_method_find(object, name);
	return method ? jinja_function(run, method, object) : value_missing();
}

struct value jinja_attribute(struct run *run, struct value object, struct value name)
{
	struct value result;
	const struct value *value;

	jinja_need_defined(run, object);
	result = own_attribute(run, object, name);
	if (result.kind != MISSING)
		return result;
	value = object.kind == DICT ? jinja_dict_get(run, object.dict, name) : NULL;
	return value ? *value : no_attribute(run, object, name);
}

static bool is_hashable(struct value value)
{
	if (value.kind == TUPLE)
		for (size_t i = 0; i < value.list->n; i++)
			if (value.list->items[i].kind == LIST || value.list->items[i].kind == DICT
				|| value.list->items[i].kind == TUPLE)
				return false; /* no such key exists that a template could meet */
	return value.kind != LIST && value.kind != DICT;
}

static struct value element(struct run *run, struct value object, size_t i)
{
	size_t at, start;

	switch (object.kind) {
	case LIST: case TUPLE:
		return object.list->items[i];
	case RANGE:
		return value_int(object.range->start + (int64_t)i * object.range->step);
	default:
		at = start = jinja_utf8_offset(object.bytes, object.n, i);
		jinja_step_bytes(run, start);
		jinja_utf8_next(object.bytes, object.n, &at);
		return value_string(object.bytes + start, at - start);
	}
}

static bool is_indexable(struct value value)
{
	return value_is_sequence(value) || value.kind == STRING || value.kind == RANGE;
}

struct value jinja_item(struct run *run, struct value object, struct value index)
{
	struct value result = value_missing();
	const struct value *value;
	int64_t i, n;

	jinja_need_defined(run, object);
	if (object.kind == DICT && is_hashable(index)) {
		value = jinja_dict_get(run, object.dict, index);
		if (value)
			return *value;
	}
	if (is_indexable(object) && value_is_whole(index)) {
		n = (int64_t)jinja_length(run, object);
		i = index.integer < 0 ? index.integer + n : index.integer;
		if (i >= 0 && i < n)
			return element(run, object, (size_t)i);
		return jinja_undefined(run, "'%s object' has no element %lld",
			jinja_kind_name(object), (long long)index.integer);
	}
	if (index.kind == STRING) {
		result = own_attribute(run, object, index);
		return result.kind != MISSING ? result : no_attribute(run, object, index);
	}
	return jinja_undefined(run, "'%s object' has no such element", jinja_kind_name(object));
}

/* One bound of a slice, brought into [low, high]. */
static int64_t slice_bound(
	struct value bound, int64_t fallback, int64_t n, int64_t low, int64_t high)
{
	int64_t i = bound.integer;

	if (bound.kind == NONE)
		return fallback;
	if (i < 0)
		i = i < -n ? -1 : i + n;
	return i < low ? low : i > high ? high : i;
}

static struct value slice_text(
	struct run *run, struct value text, int64_t start, int64_t step, int64_t n)
{
	struct buffer buffer = { 0 };
	size_t from;

	if (step == 1) {
		from = jinja_utf8_offset(text.bytes, text.n, (size_t)start);
		return value_string(text.bytes + from,
			jinja_utf8_offset(text.bytes + from, text.n - from, (size_t)n));
	}
	struct list *points = jinja_items(run, text);
	for (int64_t i = 0; i < n; i++) {
		struct value point = points->items[start + i * step];
		jinja_put(run, &buffer, point.bytes, point.n);
	}
	return value_buffer(&buffer);
}

struct value jinja_slice(struct run *run, struct value object, struct value start,
	struct value stop, struct value step)
{
	int64_t n, first, last, by = step.kind == NONE ? 1 : step.integer, count = 0;
	struct value parts[3] = { start, stop, step };
	struct list *list;

	jinja_need_defined(run, object);
	if (!is_indexable(object))
		jinja_fail(run, -EINVAL, "'%s' object cannot be sliced", jinja_kind_name(object));
	for (int i = 0; i < 3; i++)
		if (parts[i].kind != NONE && !value_is_whole(parts[i]))
			jinja_fail(run, -EINVAL, "slice indices must be integers or none, not %s",
				jinja_kind_name(parts[i]));
	if (by == 0)
		jinja_fail(run, -EINVAL, "slice step cannot be zero");
	n = (int64_t)jinja_length(run, object);
	first = slice_bound(start, by > 0 ? 0 : n - 1, n, by > 0 ? 0 : -1, by > 0 ? n : n - 1);
	last = slice_bound(stop, by > 0 ? n : -1, n, by > 0 ? 0 : -1, by > 0 ? n : n - 1);
	if (by > n)
		by = n + 1; /* any step beyond the end is the same; and cannot overflow below */
	else if (by < -n)
		by = -n - 1;
	if (by > 0 && last > first)
		count = (last - first + by - 1) / by;
	else if (by < 0 && last < first)
		count = (first - last - by - 1) / -by;
	if (object.kind == STRING)
		return slice_text(run, object, first, by, count);
	if (object.kind == RANGE)
		return jinja_range(run, object.range->start + first * object.range->step,
			object.range->start + last * object.range->step,
			(step.kind == NONE ? 1 : by) * object.range->step);
	list = jinja_list_new(run, (size_t)count);
	for (int64_t i = 0; i < count; i++)
		jinja_list_push(run, list, object.list->items[first + i * by]);
	return (struct value){ .kind = object.kind, .list = list };
}

/* Merge sort: stable, and n log n whatever the input. */
static void sort_indices(struct run *run, const struct list *keys, size_t *order, size_t *spare,
	size_t n, bool reverse)
{
	for (size_t width = 1; width < n; width *= 2) {
		for (size_t low = 0; low < n; low += 2 * width) {
			size_t middle = low + width < n ? low + width : n,
			       high = low + 2 * width < n ? low + 2 * width : n;
			size_t left = low, right = middle;
			for (size_t i = low; i < high; i++) {
				bool take_right = left == middle;
				if (left < middle && right < high) {
					struct value a = keys->items[order[left]],
						     b = keys->items[order[right]];
					take_right = (reverse ? jinja_compare(run, a, b, "<")
							      : jinja_compare(run, b, a, "<"))
						== -1;
				}
				spare[i] = take_right ? order[right++] : order[left++];
			}
		}
		memcpy(order, spare, n * sizeof(*order));
	}
}

struct list *jinja_sorted(struct run *run, struct list *items, struct list *keys, bool reverse)
{
	struct list *result = jinja_list_new(run, items->n);
	size_t *order = jinja_alloc_array(run, items->n, sizeof(*order));
	size_t *spare = jinja_alloc_array(run, items->n, sizeof(*spare));

	for (size_t i = 0; i < items->n; i++)
		order[i] = i;
	sort_indices(run, keys, order, spare, items->n, reverse);
	for (size_t i = 0; i < items->n; i++)
		jinja_list_push(run, result, items->items[order[i]]);
	return result;
}
