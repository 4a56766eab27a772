/* loop.c - for, and the "loop" that its body sees.
 *
 * Items are fetched one by one, because the filter of "for x in y if z" is evaluated when its
 * item is due: a body may change what z sees.  loop.last must look one item ahead, loop.length
 * at all of them, and then the filter is evaluated early, as in jinja2. */
#include <errno.h>

#include "engine/jinja/builtins.h"
#include "engine/jinja/object.h"

/* The next item that passes the filter. */
static bool fetch(struct run *run, struct loop *loop, struct value *ret_item)
{
	while (loop->at < loop->source->n) {
		struct value item = loop->source->items[loop->at++];
		struct scope *scope;
		jinja_step(run, 1);
		*ret_item = item;
		if (!loop->node->c)
			return true;
		scope = jinja_scope_new(run, loop->scope);
		jinja_assign(run, scope, loop->node->a, item);
		if (jinja_truth(run, jinja_eval(run, loop->names, scope, loop->node->c)))
			return true;
	}
	return false;
}

static bool take(struct run *run, struct loop *loop, struct value *ret_item)
{
	if (loop->ahead_at < loop->ahead->n) {
		*ret_item = loop->ahead->items[loop->ahead_at++];
		return true;
	}
	return fetch(run, loop, ret_item);
}

/* What take() would give next; false at the end. */
static bool look(struct run *run, struct loop *loop, struct value *ret_item)
{
	if (loop->ahead_at == loop->ahead->n) {
		loop->ahead->n = loop->ahead_at = 0;
		if (!fetch(run, loop, ret_item))
			return false;
		jinja_list_push(run, loop->ahead, *ret_item);
	}
	*ret_item = loop->ahead->items[loop->ahead_at];
	return true;
}

static int64_t loop_length(struct run *run, struct loop *loop)
{
	struct value item;

	if (loop->length >= 0)
		return loop->length;
	if (!loop->node->c) {
		loop->length = (int64_t)loop->source->n;
		return loop->length;
	}
	while (fetch(run, loop, &item))
		jinja_list_push(run, loop->ahead, item);
	loop->length = (int64_t)(loop->index0 + 1 + loop->ahead->n - loop->ahead_at);
	return loop->length;
}

/* The else runs unless some iteration came to its end, and was not left by break or continue. */
static enum flow run_body(
	struct run *run, struct loop *loop, const struct node *node, struct buffer *out)
{
	struct value item, self = { .kind = LOOP, .loop = loop };
	bool any = false;
	size_t n = 0;

	while (take(run, loop, &item)) {
		struct scope *scope = jinja_scope_new(run, loop->scope);
		enum flow flow;
		loop->previous = n ? loop->current : value_missing();
		loop->current = item;
		loop->index0 = n++;
		jinja_assign(run, scope, node->a, item);
		jinja_scope_set(run, scope, loop->names->loop, self);
		flow = jinja_exec(run, loop->names, scope, node->body, out);
		if (flow == FLOW_BREAK)
			break;
		any |= flow == FLOW_NEXT;
	}
	return any
		? FLOW_NEXT
		: jinja_exec(run, loop->names, jinja_scope_new(run, loop->scope), node->other, out);
}

static struct loop *loop_new(struct run *run, struct names *names, struct scope *scope,
	const struct node *node, struct value items)
{
	struct loop *loop = jinja_alloc(run, sizeof(*loop));

	*loop = (struct loop){ .node = node,
		.names = names,
		.scope = scope,
		.source = jinja_items(run, items),
		.ahead = jinja_list_new(run, 0),
		.length = -1 };
	return loop;
}

enum flow jinja_exec_for(struct run *run, struct names *names, struct scope *scope,
	const struct node *node, struct buffer *out)
{
	struct value items = jinja_eval(run, names, scope, node->b);

	run->line = node->b->line;
	run->column = node->b->column;
	return run_body(run, loop_new(run, names, scope, node, items), node, out);
}

struct value jinja_loop_call(struct run *run, struct loop *loop, const struct call *call)
{
	struct buffer text = { 0 };
	struct loop *inner;

	if (!loop->node->flag)
		jinja_fail(run, -EINVAL, "loop is called, but its for is not recursive");
	if (call->n != 1 || call->n_keywords)
		jinja_fail(run, -EINVAL, "loop() takes one argument: what to iterate over");
	inner = loop_new(run, loop->names, loop->scope, loop->node, call->args[0]);
	inner->depth0 = loop->depth0 + 1;
	run_body(run, inner, loop->node, &text);
	return value_buffer(&text);
}

static struct value neighbour(struct run *run, struct value item, bool there, const char *which)
{
	return there ? item : jinja_undefined(run, "there is no %s item", which);
}

struct value jinja_loop_attribute(struct run *run, struct value value, struct value name)
{
	struct loop *loop = value.loop;
	struct value item = value_missing();
	const struct builtin *method;
	int64_t index0 = (int64_t)loop->index0;

	if (value_text_is(name, "index0"))
		return value_int(index0);
	if (value_text_is(name, "index"))
		return value_int(index0 + 1);
	if (value_text_is(name, "first"))
		return value_bool(index0 == 0);
	if (value_text_is(name, "last"))
		return value_bool(!look(run, loop, &item));
	if (value_text_is(name, "length"))
		return value_int(loop_length(run, loop));
	if (value_text_is(name, "revindex"))
		return value_int(loop_length(run, loop) - index0);
	if (value_text_is(name, "revindex0"))
		return value_int(loop_length(run, loop) - index0 - 1);
	if (value_text_is(name, "previtem"))
		return neighbour(run, loop->previous, loop->previous.kind != MISSING, "previous");
	if (value_text_is(name, "nextitem")) {
		bool there = look(run, loop, &item);
		return neighbour(run, item, there, "next");
	}
	if (value_text_is(name, "depth"))
		return value_int((int64_t)loop->depth0 + 1);
	if (value_text_is(name, "depth0"))
		return value_int((int64_t)loop->depth0);
	method = jinja_method_find(value, name);
	if (method)
		return jinja_function(run, method, value);
	return jinja_undefined(run, "'loop' has no attribute '%.*s'",
		WORDS(name));
}

void jinja_put_loop_repr(struct run *run, struct buffer *buffer, struct loop *loop)
{
	struct value text = jinja_format(run, "<LoopContext %zu/%lld>", loop->index0 + 1,
		(long long)loop_length(run, loop));

	jinja_put(run, buffer, text.bytes, text.n);
}

static struct value loop_cycle(struct run *run, struct value self, const struct call *call)
{
	if (!call->n || call->n_keywords)
		jinja_fail(run, -EINVAL, "loop.cycle() needs the items to cycle through");
	return call->args[self.loop->index0 % call->n];
}

static struct value loop_changed(struct run *run, struct value self, const struct call *call)
{
	struct list *now = jinja_list_new(run, call->n);
	struct value before = self.loop->changed;

	for (size_t i = 0; i < call->n; i++)
		jinja_list_push(run, now, call->args[i]);
	self.loop->changed = value_list(now);
	return value_bool(before.kind == MISSING || !jinja_equal(run, before, self.loop->changed));
}

const struct builtin jinja_methods_loop[] = {
	{ "cycle", .variadic = loop_cycle },
	{ "changed", .variadic = loop_changed },
	{ NULL },
};
