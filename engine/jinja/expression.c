/* expression.c - the parser's half for expressions.  Precedence, from loose to tight:
 *   if-else, or, and, not, comparisons and in, + -, ~, * / // %, **, unary + -, then . [] () | is
 * Each level is one function that calls the next. */
#include <errno.h>

#include "engine/jinja/builtins.h"
#include "engine/jinja/parser.h"

static struct node *parse_unary(struct parser *parser, bool with_filters);
static struct node *parse_primary(struct parser *parser);
static struct node *parse_postfix(struct parser *parser, struct node *node);

static struct node *node_of(struct parser *parser, enum node_type type, const struct token *at,
	struct node *a, struct node *b)
{
	struct node *node = jinja_node(parser, type, at);

	node->a = a;
	node->b = b;
	return node;
}

static struct node *parse_arguments(struct parser *parser)
{
	struct node_list list = { NULL, &list.first };
	bool keywords = false, star = false, star_star = false;

	jinja_expect(parser, TOKEN_LPAREN, "'('");
	while (parser->token.type != TOKEN_RPAREN) {
		struct node *argument = jinja_node(parser, NODE_ARGUMENT, &parser->token);
		if (list.first) {
			jinja_expect(parser, TOKEN_COMMA, "',' or ')'");
			if (parser->token.type == TOKEN_RPAREN)
				break;
		}
		if (!star && !star_star && jinja_accept(parser, TOKEN_MUL)) {
			argument->op = '*';
			star = true;
		} else if (!star_star && jinja_accept(parser, TOKEN_POW)) {
			argument->op = 's';
			star_star = true;
		} else if (!star_star && parser->token.type == TOKEN_NAME
			&& parser->ahead.type == TOKEN_ASSIGN) {
			argument->value = jinja_intern(
				parser->run, parser->names, parser->token.value);
			jinja_advance(parser);
			jinja_advance(parser);
			keywords = true;
		} else if (keywords || star || star_star) {
			jinja_fail(parser->run, -EINVAL,
				"a plain argument cannot follow keyword or starred arguments");
		}
		argument->a = jinja_parse_expression(parser);
		jinja_append(&list, argument);
	}
	jinja_advance(parser);
	return list.first;
}

static struct node *parse_list(struct parser *parser)
{
	struct node *node = jinja_node(parser, NODE_LIST, &parser->token);
	struct node_list list = { NULL, &list.first };

	jinja_advance(parser);
	while (parser->token.type != TOKEN_RBRACKET) {
		if (list.first) {
			jinja_expect(parser, TOKEN_COMMA, "',' or ']'");
			if (parser->token.type == TOKEN_RBRACKET)
				break;
		}
		jinja_append(&list, jinja_parse_expression(parser));
	}
	jinja_advance(parser);
	node->a = list.first;
	return node;
}

static struct node *parse_dict(struct parser *parser)
{
	struct node *node = jinja_node(parser, NODE_DICT, &parser->token);
	struct node_list list = { NULL, &list.first };

	jinja_advance(parser);
	while (parser->token.type != TOKEN_RBRACE) {
		if (list.first) {
			jinja_expect(parser, TOKEN_COMMA, "',' or '}'");
			if (parser->token.type == TOKEN_RBRACE)
				break;
		}
		jinja_append(&list, jinja_parse_expression(parser));
		jinja_expect(parser, TOKEN_COLON, "':'");
		jinja_append(&list, jinja_parse_expression(parser));
	}
	jinja_advance(parser);
	node->a = list.first;
	return node;
}

static struct node *parse_name(struct parser *parser)
{
	static const struct { const char *word; enum kind kind; bool truth;
	} constants[] = {
		{ "true", BOOL, true },
		{ "True", BOOL, true },
		{ "false", BOOL, false },
		{ "False", BOOL, false },
		{ "none", NONE, false },
		{ "None", NONE, false },
	};
	struct node *node = jinja_node(parser, NODE_NAME, &parser->token);

	for (size_t i = 0; i < sizeof(constants) / sizeof(constants[0]); i++) {
		if (jinja_at_word(&parser->token, constants[i].word)) {
			node->type = NODE_CONST;
			node->value = constants[i].kind == NONE ? value_none()
								: value_bool(constants[i].truth);
		}
	}
	if (node->type == NODE_NAME) {
		node->value = jinja_intern(parser->run, parser->names, parser->token.value);
		if (node->value.bytes == parser->names->caller.bytes)
			parser->special |= MACRO_CALLER;
		if (node->value.bytes == parser->names->varargs.bytes)
			parser->special |= MACRO_VARARGS;
		if (node->value.bytes == parser->names->kwargs.bytes)
			parser->special |= MACRO_KWARGS;
	}
	jinja_advance(parser);
	return node;
}

static struct node *parse_string(struct parser *parser)
{
	struct node *node = jinja_node(parser, NODE_CONST, &parser->token);
	struct buffer buffer = { 0 };

	node->value = parser->token.value;
	jinja_advance(parser);
	if (parser->token.type != TOKEN_STRING)
		return node;
	jinja_put(parser->run, &buffer, node->value.bytes, node->value.n);
	while (parser->token.type == TOKEN_STRING) {
		jinja_put(parser->run, &buffer, parser->token.value.bytes, parser->token.value.n);
		jinja_advance(parser);
	}
	node->value = value_buffer(&buffer);
	return node;
}

static struct node *parse_primary(struct parser *parser)
{
	struct node *node;

	switch (parser->token.type) {
	case TOKEN_NAME:
		return parse_name(parser);
	case TOKEN_STRING:
		return parse_string(parser);
	case TOKEN_INTEGER: case TOKEN_FLOAT:
		node = jinja_node(parser, NODE_CONST, &parser->token);
		node->value = parser->token.value;
		jinja_advance(parser);
		return node;
	case TOKEN_LPAREN:
		jinja_advance(parser);
		node = jinja_parse_tuple(parser, true, NULL, true);
		jinja_expect(parser, TOKEN_RPAREN, "')'");
		return node;
	case TOKEN_LBRACKET:
		return parse_list(parser);
	case TOKEN_LBRACE:
		return parse_dict(parser);
	default:
		jinja_unexpected(parser, "an expression");
	}
}

static bool at_subscript_end(const struct parser *parser)
{
	return parser->token.type == TOKEN_RBRACKET || parser->token.type == TOKEN_COMMA;
}

static struct node *parse_subscript(struct parser *parser)
{
	struct node *node = NULL, *slice;

	if (parser->token.type != TOKEN_COLON) {
		node = jinja_parse_expression(parser);
		if (parser->token.type != TOKEN_COLON)
			return node;
	}
	slice = jinja_node(parser, NODE_SLICE, &parser->token);
	slice->a = node;
	jinja_advance(parser);
	if (parser->token.type != TOKEN_COLON && !at_subscript_end(parser))
		slice->b = jinja_parse_expression(parser);
	if (jinja_accept(parser, TOKEN_COLON) && !at_subscript_end(parser))
		slice->c = jinja_parse_expression(parser);
	return slice;
}

static struct node *parse_item(struct parser *parser, struct node *node)
{
	struct token at = parser->token;
	struct node_list list = { NULL, &list.first };
	struct node *tuple;

	jinja_advance(parser);
	if (parser->token.type == TOKEN_RBRACKET)
		jinja_unexpected(parser, "an index");
	while (parser->token.type != TOKEN_RBRACKET) {
		if (list.first)
			jinja_expect(parser, TOKEN_COMMA, "',' or ']'");
		jinja_append(&list, parse_subscript(parser));
	}
	jinja_advance(parser);
	if (!list.first->next)
		return node_of(parser, NODE_ITEM, &at, node, list.first);
	for (struct node *item = list.first; item; item = item->next)
		if (item->type == NODE_SLICE)
			jinja_fail(
				parser->run, -EINVAL, "a slice must stand alone in its brackets");
	tuple = node_of(parser, NODE_TUPLE, &at, list.first, NULL);
	return node_of(parser, NODE_ITEM, &at, node, tuple);
}

static struct node *parse_dot(struct parser *parser, struct node *node)
{
	struct token at = parser->token;
	struct node *result, *number;

	jinja_advance(parser);
	if (parser->token.type == TOKEN_NAME) {
		result = node_of(parser, NODE_ATTRIBUTE, &at, node, NULL);
		result->value = jinja_intern(parser->run, parser->names, parser->token.value);
	} else if (parser->token.type == TOKEN_INTEGER) {
		number = jinja_node(parser, NODE_CONST, &parser->token);
		number->value = parser->token.value;
		result = node_of(parser, NODE_ITEM, &at, node, number);
	} else {
		jinja_unexpected(parser, "a name or a number");
	}
	jinja_advance(parser);
	return result;
}

static struct node *parse_call(struct parser *parser, struct node *node)
{
	struct token at = parser->token;

	return node_of(parser, NODE_CALL, &at, node, parse_arguments(parser));
}

/* Chains nest to the left: they grow the tree, but not this function's stack. */
static struct node *parse_postfix(struct parser *parser, struct node *node)
{
	unsigned depth = parser->run->depth;

	while (true) {
		if (parser->token.type == TOKEN_DOT)
			node = parse_dot(parser, node);
		else if (parser->token.type == TOKEN_LBRACKET)
			node = parse_item(parser, node);
		else if (parser->token.type == TOKEN_LPAREN)
			node = parse_call(parser, node);
		else
			break;
		jinja_enter(parser->run);    /* evaluating recurses down the chain */
	}
	parser->run->depth = depth;
	return node;
}

static struct value parse_dotted_name(struct parser *parser, const char *what)
{
	struct buffer buffer = { 0 };

	if (parser->token.type != TOKEN_NAME)
		jinja_unexpected(parser, what);
	jinja_put(parser->run, &buffer, parser->token.value.bytes, parser->token.value.n);
	jinja_advance(parser);
	while (jinja_accept(parser, TOKEN_DOT)) {
		if (parser->token.type != TOKEN_NAME)
			jinja_unexpected(parser, what);
		jinja_putc(parser->run, &buffer, '.');
		jinja_put(parser->run, &buffer, parser->token.value.bytes, parser->token.value.n);
		jinja_advance(parser);
	}
	return value_buffer(&buffer);
}

struct node *jinja_parse_filters(struct parser *parser, struct node *node, bool first_has_no_pipe)
{
	unsigned depth = parser->run->depth;

	while (first_has_no_pipe || jinja_accept(parser, TOKEN_PIPE)) {
		struct node *filter = node_of(parser, NODE_FILTER, &parser->token, node, NULL);
		filter->value = parse_dotted_name(parser, "a filter's name");
		filter->builtin = jinja_filter_find(filter->value);
		if (parser->token.type == TOKEN_LPAREN)
			filter->b = parse_arguments(parser);
		node = filter;
		first_has_no_pipe = false;
		jinja_enter(parser->run);
	}
	parser->run->depth = depth;
	return node;
}

/* After "is": may an argument without brackets follow? */
static bool starts_test_argument(const struct token *token)
{
	switch (token->type) {
	case TOKEN_NAME:
		return !jinja_at_word(token, "else") && !jinja_at_word(token, "or")
			&& !jinja_at_word(token, "and");
	case TOKEN_STRING:
	case TOKEN_INTEGER:
	case TOKEN_FLOAT:
	case TOKEN_LBRACKET:
	case TOKEN_LBRACE: return true;
	default:
		return false;
	}
}

static struct node *parse_test(struct parser *parser, struct node *node)
{
	struct token at = parser->token;
	struct node *test;
	bool negated;

	jinja_advance(parser);
	negated = jinja_accept_word(parser, "not");
	test = node_of(parser, NODE_TEST, &at, node, NULL);
	test->value = parse_dotted_name(parser, "a test's name");
	test->builtin = jinja_test_find(test->value);
	if (parser->token.type == TOKEN_LPAREN) {
		test->b = parse_arguments(parser);
	} else if (starts_test_argument(&parser->token)) {
		if (jinja_at_word(&parser->token, "is"))
			jinja_fail(parser->run, -EINVAL, "tests cannot be chained with is");
		test->b = jinja_node(parser, NODE_ARGUMENT, &parser->token);
		test->b->a = parse_postfix(parser, parse_primary(parser));
	}
	return negated ? node_of(parser, NODE_NOT, &at, test, NULL) : test;
}

static struct node *parse_unary(struct parser *parser, bool with_filters)
{
	struct token at = parser->token;
	struct node *node;
	unsigned depth;

	jinja_enter(parser->run);
	depth = parser->run->depth;
	if (jinja_accept(parser, TOKEN_SUB))
		node = node_of(parser, NODE_NEGATE, &at, parse_unary(parser, false), NULL);
	else if (jinja_accept(parser, TOKEN_ADD))
		node = node_of(parser, NODE_PLUS, &at, parse_unary(parser, false), NULL);
	else
		node = parse_primary(parser);
	node = parse_postfix(parser, node);
	while (with_filters) {
		if (parser->token.type == TOKEN_PIPE)
			node = jinja_parse_filters(parser, node, false);
		else if (jinja_at_word(&parser->token, "is"))
			node = parse_test(parser, node);
		else if (parser->token.type == TOKEN_LPAREN)
			node = parse_call(parser, node);
		else
			break;
		jinja_enter(parser->run);
	}
	parser->run->depth = depth;
	jinja_leave(parser->run);
	return node;
}

/* Operators of one level, left to right; each link of the chain deepens the tree by one. */
static struct node *parse_binary(struct parser *parser, const enum token_type *operators,
	unsigned n, struct node *(*parse_operand)(struct parser *))
{
	struct node *node = parse_operand(parser);
	unsigned depth = parser->run->depth, i;

	while (true) {
		struct token at = parser->token;
		for (i = 0; i < n && operators[i] != at.type; i++)
			;
		if (i == n)
			break;
		jinja_advance(parser);
		node = node_of(parser, NODE_BINARY, &at, node, parse_operand(parser));
		node->op = (uint8_t)at.type;
		jinja_enter(parser->run);
	}
	parser->run->depth = depth;
	return node;
}

static struct node *parse_power_operand(struct parser *parser)
{
	return parse_unary(parser, true);
}

static struct node *parse_power(struct parser *parser)
{
	static const enum token_type operators[] = { TOKEN_POW };

	return parse_binary(parser, operators, 1, parse_power_operand);
}

static struct node *parse_product(struct parser *parser)
{
	static const enum token_type operators[] = { TOKEN_MUL, TOKEN_DIV, TOKEN_FLOORDIV,
		TOKEN_MOD };

	return parse_binary(parser, operators, 4, parse_power);
}

static struct node *parse_concat(struct parser *parser)
{
	struct token at = parser->token;
	struct node *node = parse_product(parser);
	struct node_list list = { NULL, &list.first };

	if (parser->token.type != TOKEN_TILDE)
		return node;
	jinja_append(&list, node);
	while (jinja_accept(parser, TOKEN_TILDE))
		jinja_append(&list, parse_product(parser));
	return node_of(parser, NODE_CONCAT, &at, list.first, NULL);
}

static struct node *parse_sum(struct parser *parser)
{
	static const enum token_type operators[] = { TOKEN_ADD, TOKEN_SUB };

	return parse_binary(parser, operators, 2, parse_concat);
}

static struct node *parse_comparison(struct parser *parser)
{
	struct token at = parser->token;
	struct node *node = parse_sum(parser);
	struct node_list list = { NULL, &list.first };

	while (true) {
		struct token operator = parser->token;
		struct node *comparand;
		uint8_t op;
		if (operator.type >= TOKEN_EQ && operator.type <= TOKEN_LE) {
			op = (uint8_t)operator.type;
			jinja_advance(parser);
		} else if (jinja_accept_word(parser, "in")) {
			op = 'i';
		} else if (jinja_at_word(&parser->token, "not")
			&& jinja_at_word(&parser->ahead, "in")) {
			op = 'n';
			jinja_advance(parser);
			jinja_advance(parser);
		} else {
			break;
		}
		comparand = jinja_node(parser, NODE_COMPARAND, &operator);
		comparand->op = op;
		comparand->a = parse_sum(parser);
		jinja_append(&list, comparand);
	}
	return list.first ? node_of(parser, NODE_COMPARE, &at, node, list.first) : node;
}

static struct node *parse_not(struct parser *parser)
{
	struct token at = parser->token;
	struct node *node;

	if (!jinja_accept_word(parser, "not"))
		return parse_comparison(parser);
	jinja_enter(parser->run);
	node = node_of(parser, NODE_NOT, &at, parse_not(parser), NULL);
	jinja_leave(parser->run);
	return node;
}

static struct node *parse_logic(struct parser *parser, const char *word, enum node_type type,
	struct node *(*parse_operand)(struct parser *))
{
	struct token at = parser->token;
	struct node *node = parse_operand(parser);
	unsigned depth = parser->run->depth;

	while (jinja_accept_word(parser, word)) {
		node = node_of(parser, type, &at, node, parse_operand(parser));
		jinja_enter(parser->run);
	}
	parser->run->depth = depth;
	return node;
}

static struct node *parse_and(struct parser *parser)
{
	return parse_logic(parser, "and", NODE_AND, parse_not);
}

struct node *jinja_parse_or(struct parser *parser)
{
	return parse_logic(parser, "or", NODE_OR, parse_and);
}

struct node *jinja_parse_expression(struct parser *parser)
{
	struct token at = parser->token;
	struct node *node, *condition;
	unsigned depth;

	jinja_enter(parser->run);
	depth = parser->run->depth;
	node = jinja_parse_or(parser);
	while (jinja_accept_word(parser, "if")) {
		condition = node_of(parser, NODE_CONDITION, &at, node, jinja_parse_or(parser));
		if (jinja_accept_word(parser, "else"))
			condition->c = jinja_parse_expression(parser);
		node = condition;
		jinja_enter(parser->run);
	}
	parser->run->depth = depth;
	jinja_leave(parser->run);
	return node;
}

static bool at_tuple_end(const struct parser *parser, const char *end_word)
{
	return parser->token.type == TOKEN_VARIABLE_END || parser->token.type == TOKEN_BLOCK_END
		|| parser->token.type == TOKEN_RPAREN
		|| (end_word && jinja_at_word(&parser->token, end_word));
}

struct node *jinja_parse_tuple(
	struct parser *parser, bool with_condition, const char *end_word, bool may_be_empty)
{
	struct token at = parser->token;
	struct node_list list = { NULL, &list.first };
	bool is_tuple = false;

	while (true) {
		if (at_tuple_end(parser, end_word))
			break;
		jinja_append(&list,
			with_condition ? jinja_parse_expression(parser) : jinja_parse_or(parser));
		if (!jinja_accept(parser, TOKEN_COMMA))
			break;
		is_tuple = true;
	}
	if (!is_tuple && list.first)
		return list.first;
	if (!list.first && !may_be_empty)
		jinja_unexpected(parser, "an expression");
	return node_of(parser, NODE_TUPLE, &at, list.first, NULL);
}
