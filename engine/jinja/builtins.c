/* builtins.c - finds filters, methods and globals by name and hands them their arguments. */
#include "engine/jinja/builtins.h"

#include <errno.h>
#include <time.h>

static const struct builtin *find_in(const struct builtin *table, struct value name)
{
	for (; table->name; table++)
		if (value_text_is(name, table->name))
			return table;
	return NULL;
}

const struct builtin *jinja_filter_find(struct value name)
{
	const struct builtin *found = find_in(jinja_filters_text, name);

	if (!found)
		found = find_in(jinja_filters_list, name);
	return found ? found : find_in(jinja_filters_select, name);
}

const struct builtin *jinja_method_find(struct value object, struct value name)
{
	const struct builtin *found;

	switch (object.kind) {
	case STRING:
		found = find_in(jinja_methods_string, name);
		return found ? found : find_in(jinja_methods_find, name);
	case DICT:
		return find_in(jinja_methods_dict, name);
	case LIST:
		found = find_in(jinja_methods_list, name);
		return found ? found : find_in(jinja_methods_mutable, name);
	case TUPLE: case RANGE:
		return find_in(jinja_methods_list, name);
	case COUNTER:
		return object.counter->is_joiner ? NULL : find_in(jinja_methods_counter, name);
	case LOOP:
		return find_in(jinja_methods_loop, name);
	default:
		return NULL;
	}
}

struct value jinja_function(struct run *run, const struct builtin *builtin, struct value self)
{
	struct function *function = jinja_alloc(run, sizeof(*function));

	*function = (struct function){ .builtin = builtin, .self = self };
	return (struct value){ .kind = FUNCTION, .function = function };
}

/* The position of a keyword in "chars count", or -1. */
static int parameter_index(const char *parameters, struct value name)
{
	for (int i = 0; parameters && *parameters; i++) {
		size_t n = strcspn(parameters, " ");
		if (n == name.n && memcmp(parameters, name.bytes, n) == 0)
			return i;
		parameters += n + strspn(parameters + n, " ");
	}
	return -1;
}

static unsigned parameter_count(const char *parameters)
{
	unsigned n = 0;

	for (; parameters && *parameters; n++) {
		parameters += strcspn(parameters, " ");
		parameters += strspn(parameters, " ");
	}
	return n;
}

struct value jinja_builtin_call(struct run *run, const struct builtin *builtin, struct value self,
	const struct call *call)
{
	struct value args[BUILTIN_ARGS_MAX] = { 0 };
	unsigned n = parameter_count(builtin->parameters);

	if (builtin->variadic)
		return builtin->variadic(run, self, call);
	if (call->n > n)
		jinja_fail(run, -EINVAL, "%s takes at most %u arguments, %zu are given",
			builtin->name, n, call->n);
	for (size_t i = 0; i < call->n; i++)
		args[i] = call->args[i];
	for (size_t i = 0; i < call->n_keywords; i++) {
		struct value name = call->keywords[i].name;
		int at = parameter_index(builtin->parameters, name);
		if (at < 0)
			jinja_fail(run, -EINVAL, "%s has no argument '%.*s'", builtin->name,
				WORDS(name));
		if (args[at].kind != MISSING)
			jinja_fail(run, -EINVAL, "%s got two values for '%.*s'", builtin->name,
				(int)name.n, name.bytes);
		args[at] = call->keywords[i].value;
	}
	for (unsigned i = 0; i < builtin->n_required; i++)
		if (args[i].kind == MISSING)
			jinja_fail(run, -EINVAL, "%s needs %u arguments (%s)", builtin->name,
				builtin->n_required, builtin->parameters);
	return builtin->function(run, self, args);
}

int64_t jinja_arg_int(struct run *run, struct value arg, int64_t fallback, const char *what)
{
	if (arg.kind == MISSING)
		return fallback;
	jinja_need_defined(run, arg);
	if (!value_is_whole(arg))
		jinja_fail(
			run, -EINVAL, "%s must be an integer, not %s", what, jinja_kind_name(arg));
	return arg.integer;
}

bool jinja_arg_bool(struct run *run, struct value arg, bool fallback)
{
	return arg.kind == MISSING ? fallback : jinja_truth(run, arg);
}

struct value jinja_arg_string(struct run *run, struct value arg, const char *what)
{
	jinja_need_defined(run, arg);
	if (arg.kind != STRING)
		jinja_fail(run, -EINVAL, "%s must be a string, not %s", what, jinja_kind_name(arg));
	return arg;
}

struct value jinja_filter_by_name(
	struct run *run, struct value name, struct value value, const struct call *call)
{
	const struct builtin *filter = name.kind == STRING ? jinja_filter_find(name) : NULL;

	if (!filter)
		jinja_fail(run, -EINVAL, "there is no filter '%.*s'",
			(int)(name.kind == STRING && name.n < 60 ? name.n : 0),
			name.kind == STRING ? name.bytes : "");
	return jinja_builtin_call(run, filter, value, call);
}

bool jinja_test_by_name(
	struct run *run, struct value name, struct value value, const struct call *call)
{
	const struct builtin *test = name.kind == STRING ? jinja_test_find(name) : NULL;

	if (!test)
		jinja_fail(run, -EINVAL, "there is no test '%.*s'",
			(int)(name.kind == STRING && name.n < 60 ? name.n : 0),
			name.kind == STRING ? name.bytes : "");
	return jinja_truth(run, jinja_builtin_call(run, test, value, call));
}

static struct value item_or(
	struct run *run, struct value object, struct value index, struct value fallback)
{
	struct value item = jinja_item(run, object, index);

	return item.kind == UNDEFINED && fallback.kind != MISSING && fallback.kind != NONE
		? fallback
		: item;
}

struct value jinja_path(
	struct run *run, struct value object, struct value path, struct value fallback)
{
	size_t at = 0;

	if (path.kind != STRING)
		return item_or(run, object, path, fallback);
	while (at <= path.n) {
		const char *dot = path.n > at ? memchr(path.bytes + at, '.', path.n - at) : NULL;
		size_t n = (dot ? (size_t)(dot - path.bytes) : path.n) - at;
		struct value part = value_string(path.bytes + at, n);
		bool is_number = n > 0 && n < 18;
		int64_t number = 0;
		for (size_t i = 0; i < n && is_number; i++) {
			is_number = part.bytes[i] >= '0' && part.bytes[i] <= '9';
			number = number * 10 + (part.bytes[i] - '0');
		}
		object = item_or(run, object, is_number ? value_int(number) : part, fallback);
		at += n + 1;
		jinja_step(run, 1);
	}
	return object;
}

static struct value global_range(struct run *run, struct value self, const struct value *args)
{
	int64_t first = jinja_arg_int(run, args[0], 0, "range()"),
		step = jinja_arg_int(run, args[2], 1, "range()");

	if (args[1].kind == MISSING)
		return jinja_range(run, 0, first, 1);
	return jinja_range(run, first, jinja_arg_int(run, args[1], 0, "range()"), step);
}

/* dict(mapping or pairs, key=value): also what namespace() starts with. */
static struct dict *dict_of_call(struct run *run, const struct call *call, const char *what)
{
	struct dict *dict = jinja_dict_new(run);

	if (call->n > 1)
		jinja_fail(run, -EINVAL, "%s() takes at most one positional argument", what);
	if (call->n)
		jinja_need_defined(run, call->args[0]);
	if (call->n && call->args[0].kind == DICT) {
		for (size_t i = 0; i < call->args[0].dict->n; i++)
			jinja_dict_set(run, dict, call->args[0].dict->entries[i].key,
				call->args[0].dict->entries[i].value);
	} else if (call->n) {
		struct list *items = jinja_items(run, call->args[0]);
		for (size_t i = 0; i < items->n; i++) {
			struct list *pair = jinja_items(run, items->items[i]);
			if (pair->n != 2)
				jinja_fail(run, -EINVAL,
					"%s() needs pairs: item %zu has length %zu", what, i,
					pair->n);
			jinja_dict_set(run, dict, pair->items[0], pair->items[1]);
		}
	}
	for (size_t i = 0; i < call->n_keywords; i++)
		jinja_dict_set(run, dict, call->keywords[i].name, call->keywords[i].value);
	return dict;
}

static struct value global_dict(struct run *run, struct value self, const struct call *call)
{
	return value_dict(dict_of_call(run, call, "dict"));
}

static struct value global_namespace(struct run *run, struct value self, const struct call *call)
{
	return (struct value){ .kind = NAMESPACE, .dict = dict_of_call(run, call, "namespace") };
}

static struct value counter_new(struct run *run, struct counter state)
{
	struct counter *counter = jinja_alloc(run, sizeof(*counter));

	*counter = state;
	return (struct value){ .kind = COUNTER, .counter = counter };
}

static struct value global_joiner(struct run *run, struct value self, const struct value *args)
{
	struct counter state = { .is_joiner = true,
		.separator = args[0].kind == MISSING ? value_text(", ") : args[0] };

	return counter_new(run, state);
}

static struct value global_cycler(struct run *run, struct value self, const struct call *call)
{
	struct counter state = { .items = jinja_list_new(run, call->n) };

	if (!call->n || call->n_keywords)
		jinja_fail(run, -EINVAL, "cycler() needs the items to cycle through");
	for (size_t i = 0; i < call->n; i++)
		jinja_list_push(run, state.items, call->args[i]);
	return counter_new(run, state);
}

static struct value counter_next(struct run *run, struct value self, const struct value *args)
{
	struct counter *counter = self.counter;
	struct value item = counter->items->items[counter->at];

	counter->at = (counter->at + 1) % counter->items->n;
	return item;
}

static struct value counter_reset(struct run *run, struct value self, const struct value *args)
{
	self.counter->at = 0;
	return value_none();
}

static struct value global_raise(struct run *run, struct value self, const struct value *args)
{
	struct value message = jinja_str(run, args[0]);

	jinja_fail(run, -EBADMSG, "%.*s", WORDS(message) ? message.bytes : "");
}

static struct value global_strftime(struct run *run, struct value self, const struct value *args)
{
	struct value format = jinja_arg_string(run, args[0], "strftime_now()");
	char *zero_ended = jinja_alloc(run, format.n + 2), *text = jinja_alloc(run, 1024);
	struct tm now;
	size_t n;

	if (format.n && memchr(format.bytes, '\0', format.n))
		jinja_fail(run, -EINVAL, "strftime_now(): the format holds a zero character");
	if (format.n)
		memcpy(zero_ended, format.bytes, format.n);
	zero_ended[format.n] = '\n';     /* tells an empty result from one that does not fit */
	zero_ended[format.n + 1] = '\0';
	if (!localtime_r(&run->now, &now))
		jinja_fail(run, -EINVAL, "strftime_now(): the clock is out of range");
	n = strftime(text, 1024, zero_ended, &now);
	if (!n)
		jinja_fail(run, -EINVAL, "strftime_now(): the result is longer than 1000 bytes");
	return value_string(text, n - 1);
}

const struct builtin jinja_methods_counter[] = {
	{ "next", counter_next },
	{ "reset", counter_reset },
	{ NULL },
};

static const struct builtin globals[] = {
	{ "range", global_range, "start stop step", 1 },
	{ "dict", .variadic = global_dict },
	{ "namespace", .variadic = global_namespace },
	{ "joiner", global_joiner, "sep" },
	{ "cycler", .variadic = global_cycler },
	{ "raise_exception", global_raise, "message", 1 },
	{ "strftime_now", global_strftime, "format", 1 },
	{ NULL },
};

const struct builtin *jinja_global_find(struct value name)
{
	return find_in(globals, name);
}
