/* filters_select.c - map, select and reject: filters that apply other filters and tests by name. */
#include <errno.h>

#include "engine/jinja/builtins.h"

static struct call rest_of(const struct call *call, size_t skip)
{
	struct call rest = *call;

	rest.args += skip;
	rest.n -= skip;
	return rest;
}

static struct value keyword(const struct call *call, const char *name)
{
	for (size_t i = 0; i < call->n_keywords; i++)
		if (value_text_is(call->keywords[i].name, name))
			return call->keywords[i].value;
	return value_missing();
}

static struct value map_attribute(
	struct run *run, struct value value, const struct call *call, struct value attribute)
{
	struct value fallback = keyword(call, "default");
	struct list *items = jinja_items(run, value), *result = jinja_list_new(run, items->n);

	if (call->n_keywords > 1 + (size_t)(fallback.kind != MISSING))
		jinja_fail(run, -EINVAL, "map: attribute= takes no other argument than default=");
	for (size_t i = 0; i < items->n; i++) {
		jinja_list_push(run, result, jinja_path(run, items->items[i], attribute, fallback));
	}
	return jinja_iterator(run, result, "generator");
}

static struct value filter_map(struct run *run, struct value value, const struct call *call)
{
	struct value attribute = keyword(call, "attribute");
	struct list *items, *result;
	struct call rest;

	if (!jinja_truth(run, value))
		return jinja_iterator(run, jinja_list_new(run, 0), "generator");
	if (!call->n && attribute.kind != MISSING)
		return map_attribute(run, value, call, attribute);
	if (!call->n)
		jinja_fail(run, -EINVAL, "map requires a filter argument");
	items = jinja_items(run, value);
	result = jinja_list_new(run, items->n);
	rest = rest_of(call, 1);
	jinja_enter(run);            /* a filter may be map itself */
	for (size_t i = 0; i < items->n; i++)
		jinja_list_push(run, result,
			jinja_filter_by_name(run, call->args[0], items->items[i], &rest));
	jinja_leave(run);
	return jinja_iterator(run, result, "generator");
}

static struct value choose(
	struct run *run, struct value value, const struct call *call, bool by_attribute, bool keep)
{
	struct list *items, *result = jinja_list_new(run, 0);
	size_t skip = by_attribute;
	struct call rest;

	if (!jinja_truth(run, value))
		return jinja_iterator(run, result, "generator");
	if (by_attribute && !call->n)
		jinja_fail(run, -EINVAL, "missing parameter for attribute name");
	items = jinja_items(run, value);
	rest = rest_of(call, call->n > skip ? skip + 1 : skip);
	jinja_enter(run);
	for (size_t i = 0; i < items->n; i++) {
		struct value item = by_attribute
			? jinja_path(run, items->items[i], call->args[0], value_missing())
			: items->items[i];
		bool holds = call->n > skip ? jinja_test_by_name(run, call->args[skip], item, &rest)
					    : jinja_truth(run, item);
		if (holds == keep)
			jinja_list_push(run, result, items->items[i]);
	}
	jinja_leave(run);
	return jinja_iterator(run, result, "generator");
}

static struct value filter_select(struct run *run, struct value value, const struct call *call)
{
	return choose(run, value, call, false, true);
}

static struct value filter_reject(struct run *run, struct value value, const struct call *call)
{
	return choose(run, value, call, false, false);
}

static struct value filter_selectattr(struct run *run, struct value value, const struct call *call)
{
	return choose(run, value, call, true, true);
}

static struct value filter_rejectattr(struct run *run, struct value value, const struct call *call)
{
	return choose(run, value, call, true, false);
}

const struct builtin jinja_filters_select[] = {
	{ "map", .variadic = filter_map },
	{ "select", .variadic = filter_select },
	{ "reject", .variadic = filter_reject },
	{ "selectattr", .variadic = filter_selectattr },
	{ "rejectattr", .variadic = filter_rejectattr },
	{ NULL },
};
