/* parser.h - what the two halves of the parser share: statements (parser.c) and expressions
 * (expression.c).  Both are recursive descents over one token of look-ahead and one more. */
#ifndef ENGINE_JINJA_PARSER_H
#define ENGINE_JINJA_PARSER_H

#include "engine/jinja/ast.h"
#include "engine/jinja/lexer.h"

struct parser {
	struct run *run;
	struct names *names;
	struct lexer lexer;
	struct token token, ahead;
	uint8_t special;         /* MACRO_ bits of the names read so far in the innermost macro */
	unsigned n_loops; /* open for loops of the innermost macro: break and continue need one */
};

/* A list of nodes under construction. */
struct node_list {
	struct node *first, **end;
};
void jinja_append(struct node_list *list, struct node *node);

struct node *jinja_node(struct parser *parser, enum node_type type, const struct token *at);
void jinja_advance(struct parser *parser);
bool jinja_accept(struct parser *parser, enum token_type type);
void jinja_expect(struct parser *parser, enum token_type type, const char *what);
bool jinja_at_word(const struct token *token, const char *word);
bool jinja_accept_word(struct parser *parser, const char *word);
__attribute__((noreturn)) void jinja_unexpected(struct parser *parser, const char *wanted);

struct node *jinja_parse_expression(struct parser *parser);
struct node *jinja_parse_or(struct parser *parser);         /* an expression without "x if y" */

/* One expression or several with commas: then a TUPLE.  end_word ends it too, if not NULL. */
struct node *jinja_parse_tuple(
	struct parser *parser, bool with_condition, const char *end_word, bool may_be_empty);
struct node *jinja_parse_filters(struct parser *parser, struct node *node, bool first_has_no_pipe);

/* A name, (if with_namespace) ns.attribute, or a tuple of such. */
struct node *jinja_parse_target(struct parser *parser, bool with_namespace, const char *end_word);
struct value jinja_parse_name(struct parser *parser);       /* one that may be assigned */

#endif
