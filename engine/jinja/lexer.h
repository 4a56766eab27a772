/* lexer.h - cuts a template into tokens, one on demand.
 *
 * Outside of tags everything is data; what trim_blocks, lstrip_blocks and the - and + signs do
 * to the data is settled here, so the parser sees exactly the text that will be printed. */
#ifndef ENGINE_JINJA_LEXER_H
#define ENGINE_JINJA_LEXER_H

#include "engine/jinja/value.h"

enum token_type {
	TOKEN_END,
	TOKEN_DATA,
	TOKEN_VARIABLE_BEGIN,
	TOKEN_VARIABLE_END,
	TOKEN_BLOCK_BEGIN,
	TOKEN_BLOCK_END,
	TOKEN_NAME,
	TOKEN_STRING,
	TOKEN_INTEGER,
	TOKEN_FLOAT,
	TOKEN_ADD,
	TOKEN_SUB,
	TOKEN_DIV,
	TOKEN_FLOORDIV,
	TOKEN_MUL,
	TOKEN_MOD,
	TOKEN_POW,
	TOKEN_TILDE,
	TOKEN_LBRACKET,
	TOKEN_RBRACKET,
	TOKEN_LPAREN,
	TOKEN_RPAREN,
	TOKEN_LBRACE,
	TOKEN_RBRACE,
	TOKEN_EQ,
	TOKEN_NE,
	TOKEN_GT,
	TOKEN_GE,
	TOKEN_LT,
	TOKEN_LE,
	TOKEN_ASSIGN,
	TOKEN_DOT,
	TOKEN_COLON,
	TOKEN_PIPE,
	TOKEN_COMMA,
	TOKEN_SEMICOLON,
};

struct token {
	enum token_type type;
	uint32_t line, column;
	struct value value;          /* data, name, string: its text; integer, float: the number */
};

#define LEXER_BRACKETS_MAX 256   /* ( [ { open at once in one tag */

struct lexer {
	struct run *run;
	const char *source;          /* newlines are \n, the one at the very end is gone */
	size_t n, at;
	enum { LEX_DATA, LEX_VARIABLE, LEX_BLOCK } mode;
	bool tag_pending;            /* data before the tag was given out, the tag comes next */
	bool line_starting; /* the last match ended with a newline, or nothing was matched */
	char brackets[LEXER_BRACKETS_MAX];
	unsigned n_brackets;
	size_t located;              /* line and column are those of this offset */
	uint32_t line, column;
};

/* The source is copied; it must be valid UTF-8. */
void jinja_lexer_init(struct lexer *lexer, struct run *run, const char *source, size_t n);
void jinja_lexer_next(struct lexer *lexer, struct token *ret_token);

/* How a token is called in a message. */
const char *jinja_token_name(const struct token *token, char buffer[64]);

#endif
