/* tests.c - what may stand behind "is". */
#include <errno.h>

#include "engine/jinja/builtins.h"
#include "engine/jinja/lexer.h"

#define KIND_TEST(name, expression) \
	static struct value is_##name( \
		struct run *run, struct value value, const struct value *args) \
	{ \
		return value_bool(expression); \
	}
KIND_TEST(defined, value.kind != UNDEFINED)
KIND_TEST(undefined, value.kind == UNDEFINED)
KIND_TEST(none, value.kind == NONE)
KIND_TEST(boolean, value.kind == BOOL)
KIND_TEST(true, value.kind == BOOL && value.integer)
KIND_TEST(false, value.kind == BOOL && !value.integer)
KIND_TEST(integer, value.kind == INT)
KIND_TEST(float, value.kind == FLOAT)
KIND_TEST(number, value_is_number(value))
KIND_TEST(string, value.kind == STRING)
KIND_TEST(mapping, value.kind == DICT)
KIND_TEST(iterable, jinja_is_iterable(value) || value.kind == LOOP)
KIND_TEST(sequence, value_is_sequence(value) || value.kind == STRING || value.kind == DICT
	|| value.kind == RANGE || value.kind == UNDEFINED)
KIND_TEST(callable,
	value.kind == FUNCTION || value.kind == MACRO || value.kind == LOOP
		|| value.kind == UNDEFINED || (value.kind == COUNTER && value.counter->is_joiner))
KIND_TEST(escaped, false)
KIND_TEST(lower, jinja_is_case(run, jinja_str(run, value), false))
KIND_TEST(upper, jinja_is_case(run, jinja_str(run, value), true))
KIND_TEST(sameas, jinja_same(value, args[0]))
KIND_TEST(eq, jinja_equal(run, value, args[0]))
KIND_TEST(ne, !jinja_equal(run, value, args[0]))
KIND_TEST(lt, jinja_compare(run, value, args[0], "<") == -1)
KIND_TEST(gt, jinja_compare(run, value, args[0], ">") == 1)
KIND_TEST(in, jinja_contains(run, value, args[0]))
KIND_TEST(filter, value.kind == STRING && jinja_filter_find(value))
KIND_TEST(test, value.kind == STRING && jinja_test_find(value))
KIND_TEST(divisibleby, jinja_equal(run, jinja_binary(run, TOKEN_MOD, value, args[0]), value_int(0)))
KIND_TEST(even, jinja_equal(run, jinja_binary(run, TOKEN_MOD, value, value_int(2)), value_int(0)))
KIND_TEST(odd, jinja_equal(run, jinja_binary(run, TOKEN_MOD, value, value_int(2)), value_int(1)))

static struct value is_le(struct run *run, struct value value, const struct value *args)
{
	int order = jinja_compare(run, value, args[0], "<=");

	return value_bool(order == -1 || order == 0);
}

static struct value is_ge(struct run *run, struct value value, const struct value *args)
{
	int order = jinja_compare(run, value, args[0], ">=");

	return value_bool(order == 1 || order == 0);
}

static const struct builtin tests[] = {
	{ "defined", is_defined },
	{ "undefined", is_undefined },
	{ "none", is_none },
	{ "boolean", is_boolean },
	{ "true", is_true },
	{ "false", is_false },
	{ "integer", is_integer },
	{ "float", is_float },
	{ "number", is_number },
	{ "string", is_string },
	{ "mapping", is_mapping },
	{ "iterable", is_iterable },
	{ "sequence", is_sequence },
	{ "callable", is_callable },
	{ "escaped", is_escaped },
	{ "lower", is_lower },
	{ "upper", is_upper },
	{ "even", is_even },
	{ "odd", is_odd },
	{ "divisibleby", is_divisibleby, "num", 1 },
	{ "sameas", is_sameas, "other", 1 },
	{ "in", is_in, "seq", 1 },
	{ "filter", is_filter },
	{ "test", is_test },
	{ "eq", is_eq, "other", 1 },
	{ "equalto", is_eq, "other", 1 },
	{ "==", is_eq, "other", 1 },
	{ "ne", is_ne, "other", 1 },
	{ "!=", is_ne, "other", 1 },
	{ "lt", is_lt, "other", 1 },
	{ "lessthan", is_lt, "other", 1 },
	{ "<", is_lt, "other", 1 },
	{ "gt", is_gt, "other", 1 },
	{ "greaterthan", is_gt, "other", 1 },
	{ ">", is_gt, "other", 1 },
	{ "le", is_le, "other", 1 },
	{ "<=", is_le, "other", 1 },
	{ "ge", is_ge, "other", 1 },
	{ ">=", is_ge, "other", 1 },
	{ NULL },
};

const struct builtin *jinja_test_find(struct value name)
{
	for (const struct builtin *test = tests; test->name; test++)
		if (value_text_is(name, test->name))
			return test;
	return NULL;
}
