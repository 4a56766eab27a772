/* eval.c - walks expression trees.  jinja_eval() is the only recursion; each level is counted. */
#include <errno.h>

#include "engine/jinja/builtins.h"
#include "engine/jinja/lexer.h"
#include "engine/jinja/object.h"

struct evaluation {
	struct run *run;
	struct names *names;
	struct scope *scope;
};

static struct value eval(struct evaluation *in, const struct node *node);

/* Later failures are about this node. */
static void at_node(struct run *run, const struct node *node)
{
	run->line = node->line;
	run->column = node->column;
}

static struct list *eval_items(struct evaluation *in, const struct node *first)
{
	struct list *list = jinja_list_new(in->run, 0);

	for (; first; first = first->next)
		jinja_list_push(in->run, list, eval(in, first));
	return list;
}

static struct value eval_dict(struct evaluation *in, const struct node *first)
{
	struct dict *dict = jinja_dict_new(in->run);

	for (; first; first = first->next->next) {
		struct value key = eval(in, first);
		struct value value = eval(in, first->next);
		at_node(in->run, first);
		jinja_dict_set(in->run, dict, key, value);
	}
	return value_dict(dict);
}

static void add_keyword(
	struct run *run, struct list *keywords, struct value name, struct value value)
{
	for (size_t i = 0; i < keywords->n; i += 2) {
		jinja_step(run, 1);
		if (jinja_same(keywords->items[i], name))
			jinja_fail(run, -EINVAL, "keyword argument '%.*s' is given twice",
				WORDS(name));
	}
	jinja_list_push(run, keywords, name);
	jinja_list_push(run, keywords, value);
}

static void add_keywords_of(struct run *run, struct list *keywords, struct value value)
{
	if (value.kind != DICT)
		jinja_fail(run, -EINVAL, "argument after ** must be a mapping, not %s",
			jinja_kind_name(value));
	for (size_t i = 0; i < value.dict->n; i++) {
		if (value.dict->entries[i].key.kind != STRING)
			jinja_fail(run, -EINVAL, "keywords must be strings");
		add_keyword(
			run, keywords, value.dict->entries[i].key, value.dict->entries[i].value);
	}
}

static void make_call(struct run *run, struct call *call, struct list *args, struct list *keywords)
{
	*call = (struct call){ .args = args->items, .n = args->n, .n_keywords = keywords->n / 2 };
	call->keywords = jinja_alloc_array(run, call->n_keywords, sizeof(call->keywords[0]));
	for (size_t i = 0; i < call->n_keywords; i++) {
		call->keywords[i].name = keywords->items[2 * i];
		call->keywords[i].value = keywords->items[2 * i + 1];
	}
}

static void eval_arguments(
	struct evaluation *in, const struct node *argument, struct call *ret_call)
{
	struct list *args = jinja_list_new(in->run, 0), *keywords = jinja_list_new(in->run, 0);

	for (; argument; argument = argument->next) {
		struct value value = eval(in, argument->a);
		at_node(in->run, argument);
		if (argument->op == '*') {
			struct list *items = jinja_items(in->run, value);
			for (size_t i = 0; i < items->n; i++)
				jinja_list_push(in->run, args, items->items[i]);
		} else if (argument->op == 's') {
			add_keywords_of(in->run, keywords, value);
		} else if (argument->value.kind == STRING) {
			add_keyword(in->run, keywords, argument->value, value);
		} else {
			jinja_list_push(in->run, args, value);
		}
	}
	make_call(in->run, ret_call, args, keywords);
}

static bool compare_one(struct run *run, unsigned op, struct value a, struct value b)
{
	int order;

	switch (op) {
	case 'i': return jinja_contains(run, a, b);
	case 'n': return !jinja_contains(run, a, b);
	case TOKEN_EQ: return jinja_equal(run, a, b);
	case TOKEN_NE: return !jinja_equal(run, a, b);
	case TOKEN_LT: return jinja_compare(run, a, b, "<") == -1;
	case TOKEN_GT: return jinja_compare(run, a, b, ">") == 1;
	case TOKEN_LE:
		order = jinja_compare(run, a, b, "<=");
		return order == -1 || order == 0;
	default:
		order = jinja_compare(run, a, b, ">=");
		return order == 1 || order == 0;
	}
}

static struct value eval_compare(struct evaluation *in, const struct node *node)
{
	struct value left = eval(in, node->a);
	bool holds = true;

	for (const struct node *comparand = node->b; comparand && holds;
		comparand = comparand->next) {
		struct value right = eval(in, comparand->a);
		at_node(in->run, comparand);
		holds = compare_one(in->run, comparand->op, left, right);
		left = right;
	}
	return value_bool(holds);
}

static struct value eval_item(struct evaluation *in, const struct node *node)
{
	struct value object = eval(in, node->a), parts[3];
	const struct node *slice = node->b;

	if (slice->type != NODE_SLICE) {
		struct value index = eval(in, slice);
		at_node(in->run, node);
		return jinja_item(in->run, object, index);
	}
	parts[0] = slice->a ? eval(in, slice->a) : value_none();
	parts[1] = slice->b ? eval(in, slice->b) : value_none();
	parts[2] = slice->c ? eval(in, slice->c) : value_none();
	at_node(in->run, node);
	return jinja_slice(in->run, object, parts[0], parts[1], parts[2]);
}

static struct value eval_concat(struct evaluation *in, const struct node *node)
{
	struct buffer buffer = { 0 };
	struct list *items = eval_items(in, node->a);

	for (size_t i = 0; i < items->n; i++)
		jinja_put_str(in->run, &buffer, items->items[i]);
	return value_buffer(&buffer);
}

static struct value eval_call(struct evaluation *in, const struct node *node)
{
	struct value callable = eval(in, node->a);
	struct call call;

	eval_arguments(in, node->b, &call);
	at_node(in->run, node);
	return jinja_call_value(in->run, callable, &call);
}

static struct value eval_builtin(struct evaluation *in, const struct node *node)
{
	struct value value = eval(in, node->a), result;
	struct call call;

	eval_arguments(in, node->b, &call);
	at_node(in->run, node);
	if (!node->builtin)
		jinja_fail(in->run, -EINVAL, "there is no %s '%.*s'",
			node->type == NODE_FILTER ? "filter" : "test",
			WORDS(node->value));
	result = jinja_builtin_call(in->run, node->builtin, value, &call);
	return node->type == NODE_TEST ? value_bool(jinja_truth(in->run, result)) : result;
}

/* The filters of {% set x | f %} and {% filter f %}: the innermost has no operand but the text. */
struct value jinja_eval_filters(struct run *run, struct names *names, struct scope *scope,
	const struct node *node, struct value text)
{
	struct evaluation in = { run, names, scope };
	struct call call;

	if (!node)
		return text;
	jinja_enter(run);
	text = jinja_eval_filters(run, names, scope, node->a, text);
	eval_arguments(&in, node->b, &call);
	at_node(run, node);
	if (!node->builtin)
		jinja_fail(run, -EINVAL, "there is no filter '%.*s'",
			WORDS(node->value));
	text = jinja_builtin_call(run, node->builtin, text, &call);
	jinja_leave(run);
	return text;
}

static struct value eval_condition(struct evaluation *in, const struct node *node)
{
	if (jinja_truth(in->run, eval(in, node->b)))
		return eval(in, node->a);
	if (node->c)
		return eval(in, node->c);
	return jinja_undefined(
		in->run, "the inline if on line %u evaluated to false and has no else", node->line);
}

static struct value eval_logic(struct evaluation *in, const struct node *node)
{
	struct value left = eval(in, node->a);

	return jinja_truth(in->run, left) == (node->type == NODE_AND) ? eval(in, node->b) : left;
}

static struct value eval_unary(struct evaluation *in, const struct node *node)
{
	struct value value = eval(in, node->a);

	at_node(in->run, node);
	if (node->type == NODE_NOT)
		return value_bool(!jinja_truth(in->run, value));
	if (node->type == NODE_NEGATE)
		return jinja_negate(in->run, value);
	jinja_need_defined(in->run, value);
	if (!value_is_number(value))
		jinja_fail(in->run, -EINVAL, "bad operand type for unary +: %s",
			jinja_kind_name(value));
	return value.kind == BOOL ? value_int(value.integer) : value;
}

static struct value eval_binary(struct evaluation *in, const struct node *node)
{
	struct value left = eval(in, node->a), right = eval(in, node->b);

	at_node(in->run, node);
	return jinja_binary(in->run, node->op, left, right);
}

static struct value eval_attribute(struct evaluation *in, const struct node *node)
{
	struct value object = eval(in, node->a);

	at_node(in->run, node);
	return jinja_attribute(in->run, object, node->value);
}

static struct value eval_by_type(struct evaluation *in, const struct node *node)
{
	switch (node->type) {
	case NODE_CONST: return node->value;
	case NODE_NAME: return jinja_scope_get(in->run, in->scope, node->value);
	case NODE_TUPLE: return value_tuple(eval_items(in, node->a));
	case NODE_LIST: return value_list(eval_items(in, node->a));
	case NODE_DICT: return eval_dict(in, node->a);
	case NODE_ATTRIBUTE: return eval_attribute(in, node);
	case NODE_ITEM: return eval_item(in, node);
	case NODE_CALL: return eval_call(in, node);
	case NODE_FILTER: case NODE_TEST: return eval_builtin(in, node);
	case NODE_NOT: case NODE_NEGATE: case NODE_PLUS: return eval_unary(in, node);
	case NODE_AND: case NODE_OR: return eval_logic(in, node);
	case NODE_BINARY: return eval_binary(in, node);
	case NODE_CONCAT: return eval_concat(in, node);
	case NODE_COMPARE: return eval_compare(in, node);
	default: return eval_condition(in, node);
	}
}

static struct value eval(struct evaluation *in, const struct node *node)
{
	struct value value;

	jinja_step(in->run, 1);
	jinja_enter(in->run);
	at_node(in->run, node);
	value = eval_by_type(in, node);
	jinja_leave(in->run);
	return value;
}

struct value jinja_eval(
	struct run *run, struct names *names, struct scope *scope, const struct node *node)
{
	struct evaluation in = { run, names, scope };

	return eval(&in, node);
}

struct value jinja_call_value(struct run *run, struct value callable, const struct call *call)
{
	switch (callable.kind) {
	case FUNCTION:
		return jinja_builtin_call(
			run, callable.function->builtin, callable.function->self, call);
	case MACRO:
		return jinja_macro_call(run, callable.macro, call);
	case LOOP:
		return jinja_loop_call(run, callable.loop, call);
	case COUNTER:
		if (callable.counter->is_joiner && !call->n && !call->n_keywords)
			return callable.counter->at++ ? callable.counter->separator
						      : value_string("", 0);
		break;
	default:
		break;
	}
	jinja_need_defined(run, callable);
	jinja_fail(run, -EINVAL, "'%s' object is not callable", jinja_kind_name(callable));
}
