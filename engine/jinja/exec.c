/* exec.c - runs statements.  Text goes to a buffer: the template's, a macro's, a set block's. */
#include <errno.h>

#include "engine/jinja/builtins.h"
#include "engine/jinja/object.h"

static void assign_namespace(
	struct run *run, struct scope *scope, const struct node *target, struct value value)
{
	struct value space = jinja_scope_get(run, scope, target->value);

	if (space.kind != NAMESPACE)
		jinja_fail(run, -EINVAL, "cannot assign attribute on non-namespace object '%.*s'",
			WORDS(target->value));
	jinja_dict_set(run, space.dict, target->a->value, value);
}

void jinja_assign(
	struct run *run, struct scope *scope, const struct node *target, struct value value)
{
	struct list *items;
	size_t i = 0;

	run->line = target->line;
	run->column = target->column;
	if (target->type == NODE_NAME) {
		jinja_scope_set(run, scope, target->value, value);
		return;
	}
	if (target->type == NODE_NSREF) {
		assign_namespace(run, scope, target, value);
		return;
	}
	items = jinja_items(run, value);
	for (const struct node *item = target->a; item; item = item->next)
		i++;
	if (i != items->n)
		jinja_fail(run, -EINVAL, "cannot unpack %zu values into %zu names", items->n, i);
	i = 0;
	for (const struct node *item = target->a; item; item = item->next)
		jinja_assign(run, scope, item, items->items[i++]);
}

static enum flow exec_if(struct run *run, struct names *names, struct scope *scope,
	const struct node *node, struct buffer *out)
{
	while (true) {
		if (jinja_truth(run, jinja_eval(run, names, scope, node->a)))
			return jinja_exec(run, names, scope, node->body, out);
		if (!node->other || node->other->type != NODE_IF || node->other->next)
			return jinja_exec(run, names, scope, node->other, out);
		node = node->other;
		jinja_step(run, 1);
	}
}

static enum flow exec_set_block(
	struct run *run, struct names *names, struct scope *scope, const struct node *node)
{
	struct buffer text = { 0 };
	enum flow flow = jinja_exec(run, names, jinja_scope_new(run, scope), node->body, &text);
	struct value value;

	if (flow != FLOW_NEXT)
		return flow;
	value = jinja_eval_filters(run, names, scope, node->b, value_buffer(&text));
	jinja_assign(run, scope, node->a, value);
	return FLOW_NEXT;
}

static enum flow exec_with(struct run *run, struct names *names, struct scope *scope,
	const struct node *node, struct buffer *out)
{
	struct scope *inner = jinja_scope_new(run, scope);
	const struct node *value = node->b;

	for (const struct node *target = node->a; target;
		target = target->next, value = value->next)
		jinja_assign(run, inner, target, jinja_eval(run, names, scope, value));
	return jinja_exec(run, names, inner, node->body, out);
}

static struct value macro_new(
	struct run *run, struct names *names, struct scope *scope, const struct node *node)
{
	struct macro *macro = jinja_alloc(run, sizeof(*macro));

	*macro =
		(struct macro){ .node = node, .name = node->value, .scope = scope, .names = names };
	return (struct value){ .kind = MACRO, .macro = macro };
}

/* f(args) with one more keyword: caller, a macro made of the block's body. */
static void exec_call_block(struct run *run, struct names *names, struct scope *scope,
	const struct node *node, struct buffer *out)
{
	struct node argument = {
		.type = NODE_ARGUMENT, .line = node->line, .column = node->column
	};
	struct node name = { .type = NODE_CONST, .line = node->line, .column = node->column };
	struct node call = *node->a, *last = NULL, *copies = NULL;

	name.value = macro_new(run, names, scope, node->b);
	argument.a = &name;
	argument.value = names->caller;
	for (const struct node *old = call.b; old;
		old = old->next) { /* the tree itself never changes */
		struct node *copy = jinja_alloc(run, sizeof(*copy));
		*copy = *old;
		copy->next = NULL;
		if (last)
			last->next = copy;
		else
			copies = copy;
		last = copy;
	}
	if (last)
		last->next = &argument;
	else
		copies = &argument;
	call.b = copies;
	jinja_put_str(run, out, jinja_eval(run, names, scope, &call));
}

static enum flow exec_filter_block(struct run *run, struct names *names, struct scope *scope,
	const struct node *node, struct buffer *out)
{
	struct buffer text = { 0 };
	enum flow flow = jinja_exec(run, names, jinja_scope_new(run, scope), node->body, &text);

	if (flow == FLOW_NEXT)
		jinja_put_str(run, out,
			jinja_eval_filters(run, names, scope, node->b, value_buffer(&text)));
	return flow;
}

static enum flow exec_one(struct run *run, struct names *names, struct scope *scope,
	const struct node *node, struct buffer *out)
{
	switch (node->type) {
	case NODE_TEXT:
		jinja_put(run, out, node->value.bytes, node->value.n);
		break;
	case NODE_OUTPUT:
		jinja_put_str(run, out, jinja_eval(run, names, scope, node->a));
		break;
	case NODE_IF:
		return exec_if(run, names, scope, node, out);
	case NODE_FOR:
		return jinja_exec_for(run, names, scope, node, out);
	case NODE_SET:
		jinja_assign(run, scope, node->a, jinja_eval(run, names, scope, node->b));
		break;
	case NODE_SET_BLOCK:
		return exec_set_block(run, names, scope, node);
	case NODE_WITH:
		return exec_with(run, names, scope, node, out);
	case NODE_MACRO:
		jinja_scope_set(run, scope, node->value, macro_new(run, names, scope, node));
		break;
	case NODE_CALL_BLOCK:
		exec_call_block(run, names, scope, node, out);
		break;
	case NODE_FILTER_BLOCK:
		return exec_filter_block(run, names, scope, node, out);
	case NODE_SCOPE:
		return jinja_exec(run, names, jinja_scope_new(run, scope), node->body, out);
	case NODE_BREAK:
		return FLOW_BREAK;
	default:
		return FLOW_CONTINUE;
	}
	return FLOW_NEXT;
}

enum flow jinja_exec(struct run *run, struct names *names, struct scope *scope,
	const struct node *node, struct buffer *out)
{
	enum flow flow = FLOW_NEXT;

	jinja_enter(run);
	for (; node && flow == FLOW_NEXT; node = node->next) {
		jinja_step(run, 1);
		run->line = node->line;
		run->column = node->column;
		flow = exec_one(run, names, scope, node, out);
	}
	jinja_leave(run);
	return flow;
}

/* Bind the keywords that name a parameter; the rest is **kwargs, or a mistake. */
static void bind_keywords(struct run *run, struct macro *macro, struct scope *scope,
	const struct call *call, struct dict *kwargs)
{
	for (size_t i = 0; i < call->n_keywords; i++) {
		struct value name = jinja_intern(run, macro->names, call->keywords[i].name);
		size_t position = 0;
		const struct node *parameter = macro->node->a;
		for (; parameter && parameter->value.bytes != name.bytes;
			parameter = parameter->next)
			position++;
		jinja_step(run, position / 8);
		if (parameter && position < call->n)
			jinja_fail(run, -EINVAL, "macro '%.*s' got two values for '%.*s'",
				WORDS(macro->name),
				WORDS(name));
		if (parameter
			|| (name.bytes == macro->names->caller.bytes
				&& (macro->node->flag & MACRO_CALLER)))
			jinja_scope_set(run, scope, name, call->keywords[i].value);
		else if ((macro->node->flag & MACRO_KWARGS)
			&& name.bytes != macro->names->caller.bytes)
			jinja_dict_set(run, kwargs, name, call->keywords[i].value);
		else
			jinja_fail(run, -EINVAL, "macro '%.*s' takes no keyword argument '%.*s'",
				WORDS(macro->name),
				WORDS(name));
	}
}

static bool is_bound(const struct scope *scope, struct value name)
{
	for (size_t i = 0; i < scope->n; i++)
		if (scope->bindings[i].name == name.bytes)
			return true;
	return false;
}

static void bind_defaults(struct run *run, struct macro *macro, struct scope *scope)
{
	for (const struct node *parameter = macro->node->a; parameter;
		parameter = parameter->next) {
		jinja_step(run, 1 + scope->n / 8);
		if (is_bound(scope, parameter->value))
			continue;
		jinja_scope_set(run, scope, parameter->value,
			parameter->a
				? jinja_eval(run, macro->names, scope, parameter->a)
				: jinja_undefined(run, "parameter '%.*s' was not provided",
					WORDS(parameter->value)));
	}
}

struct value jinja_macro_call(struct run *run, struct macro *macro, const struct call *call)
{
	struct scope *scope = jinja_scope_new(run, macro->scope);
	const struct node *parameter = macro->node->a;
	struct list *varargs = jinja_list_new(run, 0);
	struct dict *kwargs = jinja_dict_new(run);
	uint8_t flag = macro->node->flag;
	struct buffer text = { 0 };

	for (size_t i = 0; i < call->n; i++) {
		if (parameter)
			jinja_scope_set(run, scope, parameter->value, call->args[i]);
		else if (flag & MACRO_VARARGS)
			jinja_list_push(run, varargs, call->args[i]);
		else
			jinja_fail(run, -EINVAL, "macro '%.*s' takes not more than %zu arguments",
				WORDS(macro->name),
				i);
		parameter = parameter ? parameter->next : NULL;
	}
	bind_keywords(run, macro, scope, call, kwargs);
	if ((flag & MACRO_CALLER) && !is_bound(scope, macro->names->caller))
		jinja_scope_set(run, scope, macro->names->caller,
			jinja_undefined(run, "no caller defined"));
	if (flag & MACRO_VARARGS)
		jinja_scope_set(run, scope, macro->names->varargs, value_tuple(varargs));
	if (flag & MACRO_KWARGS)
		jinja_scope_set(run, scope, macro->names->kwargs, value_dict(kwargs));
	bind_defaults(run, macro, scope);
	jinja_exec(run, macro->names, scope, macro->node->body, &text);
	return value_buffer(&text);
}
