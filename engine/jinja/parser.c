/* parser.c - the parser's half for statements, and what both halves share.  See parser.h. */
#include "engine/jinja/parser.h"

#include <errno.h>

#include "engine/jinja/builtins.h"

static struct node *parse_body(struct parser *parser, const char *const ends[]);
static struct node *parse_statement(struct parser *parser);

void jinja_append(struct node_list *list, struct node *node)
{
	*list->end = node;
	list->end = &node->next;
}

struct node *jinja_node(struct parser *parser, enum node_type type, const struct token *at)
{
	struct node *node = jinja_alloc(parser->run, sizeof(*node));

	*node = (struct node){ .type = (uint8_t)type, .line = at->line, .column = at->column };
	return node;
}

struct value jinja_intern(struct run *run, struct names *names, struct value name)
{
	const struct value *known = jinja_dict_get(run, names->all, name);

	if (known)
		return *known;
	jinja_dict_set(run, names->all, name, name);
	return name;
}

void jinja_advance(struct parser *parser)
{
	parser->token = parser->ahead;
	if (parser->token.type != TOKEN_END)
		jinja_lexer_next(&parser->lexer, &parser->ahead);
	parser->run->line = parser->token.line;
	parser->run->column = parser->token.column;
}

void jinja_unexpected(struct parser *parser, const char *wanted)
{
	char name[64];

	jinja_fail(parser->run, -EINVAL, "expected %s, found %s", wanted,
		jinja_token_name(&parser->token, name));
}

bool jinja_accept(struct parser *parser, enum token_type type)
{
	if (parser->token.type != type)
		return false;
	jinja_advance(parser);
	return true;
}

void jinja_expect(struct parser *parser, enum token_type type, const char *what)
{
	if (!jinja_accept(parser, type))
		jinja_unexpected(parser, what);
}

bool jinja_at_word(const struct token *token, const char *word)
{
	return token->type == TOKEN_NAME && value_text_is(token->value, word);
}

bool jinja_accept_word(struct parser *parser, const char *word)
{
	if (!jinja_at_word(&parser->token, word))
		return false;
	jinja_advance(parser);
	return true;
}

struct value jinja_parse_name(struct parser *parser)
{
	static const char *const fixed[] = { "true", "false", "none", "True", "False", "None" };
	struct value name;

	if (parser->token.type != TOKEN_NAME)
		jinja_unexpected(parser, "a name");
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		if (jinja_at_word(&parser->token, fixed[i]))
			jinja_fail(parser->run, -EINVAL, "cannot assign to '%s'", fixed[i]);
	name = jinja_intern(parser->run, parser->names, parser->token.value);
	jinja_advance(parser);
	return name;
}

static struct node *parse_one_target(struct parser *parser, bool with_namespace)
{
	struct node *node, *attribute;

	if (jinja_accept(parser, TOKEN_LPAREN)) {
		jinja_enter(parser->run);
		node = jinja_parse_target(parser, with_namespace, NULL);
		jinja_leave(parser->run);
		jinja_expect(parser, TOKEN_RPAREN, "')'");
		return node;
	}
	node = jinja_node(parser, NODE_NAME, &parser->token);
	node->value = jinja_parse_name(parser);
	if (!with_namespace || !jinja_accept(parser, TOKEN_DOT))
		return node;
	if (parser->token.type != TOKEN_NAME)
		jinja_unexpected(parser, "an attribute's name");
	attribute = jinja_node(parser, NODE_CONST, &parser->token);
	attribute->value = jinja_intern(parser->run, parser->names, parser->token.value);
	jinja_advance(parser);
	node->type = NODE_NSREF;
	node->a = attribute;
	return node;
}

struct node *jinja_parse_target(struct parser *parser, bool with_namespace, const char *end_word)
{
	struct token at = parser->token;
	struct node_list list = { NULL, &list.first };
	struct node *tuple;
	bool is_tuple = false;

	do {
		if (list.first
			&& (parser->token.type == TOKEN_ASSIGN || parser->token.type == TOKEN_RPAREN
				|| parser->token.type == TOKEN_BLOCK_END
				|| (end_word && jinja_at_word(&parser->token, end_word))))
			break;
		jinja_append(&list, parse_one_target(parser, with_namespace));
		is_tuple |= parser->token.type == TOKEN_COMMA;
	} while (jinja_accept(parser, TOKEN_COMMA));
	if (!is_tuple)
		return list.first;
	tuple = jinja_node(parser, NODE_TUPLE, &at);
	tuple->a = list.first;
	return tuple;
}

static const char *const ends_if[] = { "elif", "else", "endif", NULL };
static const char *const ends_else[] = { "endif", NULL };
static const char *const ends_for[] = { "endfor", "else", NULL };
static const char *const ends_for_else[] = { "endfor", NULL };

/* "%}" of the opening tag, the statements, and up to the word that ends them, which stays. */
static struct node *parse_block(struct parser *parser, const char *const ends[])
{
	struct node *body;

	jinja_accept(parser, TOKEN_COLON);
	jinja_expect(parser, TOKEN_BLOCK_END, "'%}'");
	jinja_enter(parser->run);
	body = parse_body(parser, ends);
	jinja_leave(parser->run);
	return body;
}

static struct node *parse_block_to(struct parser *parser, const char *end)
{
	const char *const ends[] = { end, NULL };
	struct node *body = parse_block(parser, ends);

	jinja_advance(parser);
	return body;
}

static struct node *parse_if(struct parser *parser, const struct token *at)
{
	struct node *first = NULL, *node, **where = &first;

	do {  /* a chain of elif is a chain of nodes, not a deeper tree */
		node = jinja_node(parser, NODE_IF, at);
		node->a = jinja_parse_tuple(parser, false, NULL, false);
		node->body = parse_block(parser, ends_if);
		*where = node;
		where = &node->other;
	} while (jinja_accept_word(parser, "elif"));
	if (jinja_accept_word(parser, "else"))
		*where = parse_block(parser, ends_else);
	jinja_expect(parser, TOKEN_NAME, "endif");
	return first;
}

static bool target_binds(const struct node *target, struct value name)
{
	if (target->type == NODE_NAME)
		return target->value.bytes == name.bytes;
	if (target->type == NODE_TUPLE)
		for (const struct node *item = target->a; item; item = item->next)
			if (target_binds(item, name))
				return true;
	return false;
}

static struct node *parse_for(struct parser *parser, const struct token *at)
{
	struct node *node = jinja_node(parser, NODE_FOR, at);

	node->a = jinja_parse_target(parser, false, "in");
	if (target_binds(node->a, parser->names->loop))
		jinja_fail(parser->run, -EINVAL, "cannot assign to 'loop': a for binds it itself");
	if (!jinja_accept_word(parser, "in"))
		jinja_unexpected(parser, "in");
	node->b = jinja_parse_tuple(parser, false, "recursive", false);
	if (jinja_accept_word(parser, "if"))
		node->c = jinja_parse_expression(parser);
	node->flag = jinja_accept_word(parser, "recursive");
	parser->n_loops++;
	node->body = parse_block(parser, ends_for);
	parser->n_loops--;
	if (jinja_accept_word(parser, "else"))
		node->other = parse_block(parser, ends_for_else);
	jinja_expect(parser, TOKEN_NAME, "endfor");
	return node;
}

static struct node *parse_set(struct parser *parser, const struct token *at)
{
	struct node *node = jinja_node(parser, NODE_SET, at);

	node->a = jinja_parse_target(parser, true, NULL);
	if (jinja_accept(parser, TOKEN_ASSIGN)) {
		node->b = jinja_parse_tuple(parser, true, NULL, false);
		return node;
	}
	node->type = NODE_SET_BLOCK;
	node->b = jinja_parse_filters(parser, NULL, false);
	node->body = parse_block_to(parser, "endset");
	return node;
}

static struct node *parse_with(struct parser *parser, const struct token *at)
{
	struct node *node = jinja_node(parser, NODE_WITH, at);
	struct node_list targets = { NULL, &targets.first }, values = { NULL, &values.first };

	while (parser->token.type != TOKEN_BLOCK_END) {
		if (targets.first)
			jinja_expect(parser, TOKEN_COMMA, "',' or '%}'");
		jinja_append(&targets, jinja_parse_target(parser, false, NULL));
		jinja_expect(parser, TOKEN_ASSIGN, "'='");
		jinja_append(&values, jinja_parse_expression(parser));
	}
	node->a = targets.first;
	node->b = values.first;
	node->body = parse_block_to(parser, "endwith");
	return node;
}

static struct node *parse_parameters(struct parser *parser)
{
	struct node_list list = { NULL, &list.first };
	bool defaults = false;

	jinja_expect(parser, TOKEN_LPAREN, "'('");
	while (parser->token.type != TOKEN_RPAREN) {
		struct node *parameter;
		if (list.first)
			jinja_expect(parser, TOKEN_COMMA, "',' or ')'");
		parameter = jinja_node(parser, NODE_PARAMETER, &parser->token);
		parameter->value = jinja_parse_name(parser);
		for (struct node *other = list.first; other; other = other->next) {
			jinja_step(parser->run, 1);
			if (other->value.bytes == parameter->value.bytes)
				jinja_fail(parser->run, -EINVAL, "a parameter appears twice");
		}
		if (jinja_accept(parser, TOKEN_ASSIGN))
			parameter->a = jinja_parse_expression(parser);
		else if (defaults)
			jinja_fail(parser->run, -EINVAL,
				"a parameter without default follows one with a default");
		defaults |= parameter->a != NULL;
		jinja_append(&list, parameter);
	}
	jinja_advance(parser);
	return list.first;
}

/* The body of a macro or of a call block: what it mentions decides what it accepts. */
static void parse_macro_body(struct parser *parser, struct node *macro, const char *end)
{
	uint8_t outer_special = parser->special;
	unsigned outer_loops = parser->n_loops;

	parser->special = 0;
	parser->n_loops = 0;
	macro->body = parse_block_to(parser, end);
	macro->flag = parser->special;
	parser->special |= outer_special;
	parser->n_loops = outer_loops;
}

static struct node *parse_macro(struct parser *parser, const struct token *at)
{
	struct node *node = jinja_node(parser, NODE_MACRO, at);

	node->value = jinja_parse_name(parser);
	node->a = parse_parameters(parser);
	parse_macro_body(parser, node, "endmacro");
	return node;
}

static struct node *parse_call_block(struct parser *parser, const struct token *at)
{
	struct node *node = jinja_node(parser, NODE_CALL_BLOCK, at);

	node->b = jinja_node(parser, NODE_MACRO, at);
	node->b->value = parser->names->caller;
	if (parser->token.type == TOKEN_LPAREN)
		node->b->a = parse_parameters(parser);
	node->a = jinja_parse_expression(parser);
	if (node->a->type != NODE_CALL)
		jinja_fail(parser->run, -EINVAL, "expected a call after {%% call");
	parse_macro_body(parser, node->b, "endcall");
	return node;
}

static struct node *parse_filter_block(struct parser *parser, const struct token *at)
{
	struct node *node = jinja_node(parser, NODE_FILTER_BLOCK, at);

	node->b = jinja_parse_filters(parser, NULL, true);
	node->body = parse_block_to(parser, "endfilter");
	return node;
}

static struct node *parse_generation(struct parser *parser, const struct token *at)
{
	struct node *node = jinja_node(parser, NODE_SCOPE, at);

	node->body = parse_block_to(parser, "endgeneration");
	return node;
}

static struct node *parse_print(struct parser *parser, const struct token *at)
{
	struct node *node = jinja_node(parser, NODE_OUTPUT, at);

	node->a = jinja_parse_tuple(parser, true, NULL, true);
	if (node->a->type == NODE_TUPLE)
		jinja_fail(parser->run, -EINVAL,
			"print takes one expression here: write {{ ... }} for each");
	return node;
}

static struct node *parse_jump(struct parser *parser, const struct token *at)
{
	bool is_break = jinja_at_word(at, "break");

	if (!parser->n_loops)
		jinja_fail(parser->run, -EINVAL, "%s outside of a loop",
			is_break ? "break" : "continue");
	return jinja_node(parser, is_break ? NODE_BREAK : NODE_CONTINUE, at);
}

static struct node *parse_statement(struct parser *parser)
{
	static const struct {
		const char *word;
		struct node *(*parse)(struct parser *, const struct token *);
	} statements[] = {
		{ "if", parse_if },
		{ "for", parse_for },
		{ "set", parse_set },
		{ "with", parse_with },
		{ "macro", parse_macro },
		{ "call", parse_call_block },
		{ "filter", parse_filter_block },
		{ "generation", parse_generation },
		{ "print", parse_print },
		{ "break", parse_jump },
		{ "continue", parse_jump },
	};
	struct token at = parser->token;

	if (at.type != TOKEN_NAME)
		jinja_unexpected(parser, "a tag's name");
	for (size_t i = 0; i < sizeof(statements) / sizeof(statements[0]); i++) {
		if (jinja_at_word(&at, statements[i].word)) {
			jinja_advance(parser);
			return statements[i].parse(parser, &at);
		}
	}
	jinja_fail(parser->run, -EINVAL, "unknown tag '%.*s'",
		WORDS(at.value));
}

static bool at_any_word(const struct token *token, const char *const words[])
{
	for (; *words; words++)
		if (jinja_at_word(token, *words))
			return true;
	return false;
}

/* Statements up to a tag whose word is one of ends (NULL: up to the end of the template). */
static struct node *parse_body(struct parser *parser, const char *const ends[])
{
	struct node_list list = { NULL, &list.first };
	struct node *node;

	while (parser->token.type != TOKEN_END) {
		struct token at = parser->token;
		jinja_advance(parser);
		if (at.type == TOKEN_DATA) {
			node = jinja_node(parser, NODE_TEXT, &at);
			node->value = at.value;
		} else if (at.type == TOKEN_VARIABLE_BEGIN) {
			node = jinja_node(parser, NODE_OUTPUT, &parser->token);
			node->a = jinja_parse_tuple(parser, true, NULL, false);
			jinja_expect(parser, TOKEN_VARIABLE_END, "'}}'");
		} else {
			if (ends && at_any_word(&parser->token, ends))
				return list.first;
			node = parse_statement(parser);
			jinja_expect(parser, TOKEN_BLOCK_END, "'%}'");
		}
		jinja_append(&list, node);
	}
	if (ends) {
		size_t last = 0;
		while (ends[last + 1])
			last++;
		jinja_fail(parser->run, -EINVAL, "the template ends, but {%% %s %%} is missing",
			ends == ends_if ? "endif" : ends == ends_for ? "endfor" : ends[last]);
	}
	return list.first;
}

struct node *jinja_parse(struct run *run, struct names *names, const char *source, size_t n)
{
	struct parser parser = { .run = run, .names = names };

	names->all = jinja_dict_new(run);
	names->loop = jinja_intern(run, names, value_text("loop"));
	names->caller = jinja_intern(run, names, value_text("caller"));
	names->varargs = jinja_intern(run, names, value_text("varargs"));
	names->kwargs = jinja_intern(run, names, value_text("kwargs"));
	jinja_lexer_init(&parser.lexer, run, source, n);
	jinja_lexer_next(&parser.lexer, &parser.ahead);
	jinja_advance(&parser);
	return parse_body(&parser, NULL);
}
