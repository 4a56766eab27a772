/* lexer.c - data, comments, raw blocks, and the tokens inside of tags.  See lexer.h. */
#include "engine/jinja/lexer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/jinja/lexer_string.h"
#include "engine/jinja/utf8.h"

void jinja_lexer_init(struct lexer *lexer, struct run *run, const char *source, size_t n)
{
	char *copy = jinja_alloc(run, n);
	size_t used = 0;

	for (size_t i = 0; i < n; i++) {
		if (source[i] == '\r') {
			copy[used++] = '\n';
			i += i + 1 < n && source[i + 1] == '\n';
		} else {
			copy[used++] = source[i];
		}
	}
	if (used && copy[used - 1] == '\n')
		used--;
	*lexer = (struct lexer){ .run = run, .source = copy, .n = used, .line_starting = true,
		.line = 1, .column = 1 };
}

/* Positions are asked for in rising order, so that each byte is counted once. */
static void locate(struct lexer *lexer, size_t at)
{
	while (lexer->located < at) {
		char c = lexer->source[lexer->located++];
		if (c == '\n') {
			lexer->line++;
			lexer->column = 1;
		} else {
			lexer->column += ((unsigned char)c & 0xc0) != 0x80;
		}
	}
	lexer->run->line = lexer->line;
	lexer->run->column = lexer->column;
}

static char peek(const struct lexer *lexer, size_t at)
{
	return at < lexer->n ? lexer->source[at] : '\0';
}

static bool starts(const struct lexer *lexer, size_t at, const char *text)
{
	size_t n = strlen(text);

	return n <= lexer->n - at && memcmp(lexer->source + at, text, n) == 0;
}

static size_t skip_space(const struct lexer *lexer, size_t at)
{
	while (at < lexer->n) {
		size_t next = at;
		if (!jinja_point_is_space(jinja_utf8_next(lexer->source, lexer->n, &next)))
			break;
		at = next;
	}
	return at;
}

static void match_end(struct lexer *lexer, size_t end)
{
	lexer->line_starting = end > 0 && lexer->source[end - 1] == '\n';
	lexer->at = end;
}

/* Does a tag end here?  close is "%}" or "#}": "+%}" keeps what follows, "-%}" eats all white
 * space, "%}" one newline. */
static bool match_close(const struct lexer *lexer, size_t at, const char *close, size_t *ret_end)
{
	if (starts(lexer, at, close)) {
		*ret_end = at + 2;
		*ret_end += peek(lexer, *ret_end) == '\n';
		return true;
	}
	if (peek(lexer, at) == '+' && starts(lexer, at + 1, close)) {
		*ret_end = at + 3;
		return true;
	}
	if (peek(lexer, at) == '-' && starts(lexer, at + 1, close)) {
		*ret_end = skip_space(lexer, at + 3);
		return true;
	}
	return false;
}

/* "{% raw %}" or "{% endraw %}" at an opening brace; its sign, and where the tag's word ends. */
static bool match_word(
	const struct lexer *lexer, size_t at, const char *word, char *ret_sign, size_t *ret_end)
{
	if (!starts(lexer, at, "{%"))
		return false;
	at += 2;
	*ret_sign = peek(lexer, at);
	if (*ret_sign == '-' || *ret_sign == '+')
		at++;
	else
		*ret_sign = '\0';
	at = skip_space(lexer, at);
	if (!starts(lexer, at, word))
		return false;
	*ret_end = skip_space(lexer, at + strlen(word));
	return true;
}

static bool match_raw(const struct lexer *lexer, size_t at, char *ret_sign, size_t *ret_end)
{
	size_t end;

	if (!match_word(lexer, at, "raw", ret_sign, &end))
		return false;
	if (starts(lexer, end, "-%}")) {
		*ret_end = skip_space(lexer, end + 3);
		return true;
	}
	*ret_end = end + 2;          /* no newline is eaten here, as in jinja2 */
	return starts(lexer, end, "%}");
}

/* Data that stands before a tag loses what the tag's sign takes from it. */
static struct value strip_data(
	const struct lexer *lexer, size_t start, size_t end, char sign, bool is_variable)
{
	const char *text = lexer->source + start;
	size_t n = end - start, line = n, at = n;

	if (sign == '-') {
		while (n) {
			if (!jinja_point_is_space(jinja_utf8_previous(text, &at)))
				break;
			n = at;
		}
	} else if (sign != '+' && !is_variable) {
		while (line && text[line - 1] != '\n')
			line--;
		if ((line > 0 || lexer->line_starting) && line < n
			&& skip_space(lexer, start + line) >= end)
			n = line;
	}
	return value_string(text, n);
}

static bool give(struct token *token, enum token_type type, struct value value)
{
	token->type = type;
	token->value = value;
	return true;
}

static void skip_comment(struct lexer *lexer, size_t at)
{
	size_t end;

	locate(lexer, lexer->at);
	for (; at < lexer->n; at++) {
		if (match_close(lexer, at, "#}", &end)) {
			match_end(lexer, end);
			return;
		}
	}
	jinja_fail(lexer->run, -EINVAL, "a comment is not closed: #} is missing");
}

static bool lex_raw(struct lexer *lexer, size_t at, struct token *token)
{
	size_t start = at, end, after;
	char sign;

	locate(lexer, lexer->at);
	match_end(lexer, at);
	for (; at < lexer->n; at++) {
		if (lexer->source[at] != '{' || !match_word(lexer, at, "endraw", &sign, &end)
			|| !match_close(lexer, end, "%}", &after))
			continue;
		give(token, TOKEN_DATA, strip_data(lexer, start, at, sign, false));
		match_end(lexer, after);
		return token->value.n > 0;
	}
	jinja_fail(lexer->run, -EINVAL, "a raw block is not closed: {%% endraw %%} is missing");
}

/* In data: finds the next tag, gives out the data before it first.  False: nothing to give yet. */
static bool lex_data(struct lexer *lexer, struct token *token)
{
	size_t start = lexer->at, at = start, end;
	char kind = '\0', sign;

	for (; at + 1 < lexer->n; at++) {
		kind = lexer->source[at + 1];
		if (lexer->source[at] == '{' && (kind == '{' || kind == '%' || kind == '#'))
			break;
	}
	if (at + 1 >= lexer->n) {
		locate(lexer, start);
		lexer->at = lexer->n;
		return give(token, start < lexer->n ? TOKEN_DATA : TOKEN_END,
			value_string(lexer->source + start, lexer->n - start));
	}
	sign = peek(lexer, at + 2);
	if (!lexer->tag_pending) {
		lexer->tag_pending = true;
		locate(lexer, start);
		give(token, TOKEN_DATA, strip_data(lexer, start, at, sign, kind == '{'));
		lexer->at = at;
		if (token->value.n)
			return true;
	}
	lexer->tag_pending = false;
	if (kind == '%' && match_raw(lexer, at, &sign, &end))
		return lex_raw(lexer, end, token);
	end = at + 2 + (sign == '-' || sign == '+');
	if (kind == '#') {
		skip_comment(lexer, end);
		return false;
	}
	locate(lexer, at);
	match_end(lexer, end);
	lexer->mode = kind == '{' ? LEX_VARIABLE : LEX_BLOCK;
	return give(token, kind == '{' ? TOKEN_VARIABLE_BEGIN : TOKEN_BLOCK_BEGIN, value_none());
}

static bool lex_tag_end(struct lexer *lexer, struct token *token)
{
	size_t end;

	if (lexer->n_brackets)
		return false;
	if (lexer->mode == LEX_BLOCK) {
		if (!match_close(lexer, lexer->at, "%}", &end))
			return false;
		give(token, TOKEN_BLOCK_END, value_none());
	} else {
		if (starts(lexer, lexer->at, "-}}"))
			end = skip_space(lexer, lexer->at + 3);
		else if (starts(lexer, lexer->at, "}}"))
			end = lexer->at + 2;
		else
			return false;
		give(token, TOKEN_VARIABLE_END, value_none());
	}
	match_end(lexer, end);
	lexer->mode = LEX_DATA;
	return true;
}

static void bracket(struct lexer *lexer, char c)
{
	char open = c == ')' ? '(' : c == ']' ? '[' : '{';

	if (c == '(' || c == '[' || c == '{') {
		if (lexer->n_brackets == LEXER_BRACKETS_MAX)
			jinja_fail(lexer->run, -EOVERFLOW, "more than %d brackets are open",
				LEXER_BRACKETS_MAX);
		lexer->brackets[lexer->n_brackets++] = c;
	} else if (!lexer->n_brackets || lexer->brackets[--lexer->n_brackets] != open) {
		jinja_fail(lexer->run, -EINVAL, "unexpected '%c'", c);
	}
}

static const struct { char text[3]; enum token_type type;
} operators[] = {
	{ "//", TOKEN_FLOORDIV },
	{ "**", TOKEN_POW },
	{ "==", TOKEN_EQ },
	{ "!=", TOKEN_NE },
	{ ">=", TOKEN_GE },
	{ "<=", TOKEN_LE },
	{ "+", TOKEN_ADD },
	{ "-", TOKEN_SUB },
	{ "/", TOKEN_DIV },
	{ "*", TOKEN_MUL },
	{ "%", TOKEN_MOD },
	{ "~", TOKEN_TILDE },
	{ "[", TOKEN_LBRACKET },
	{ "]", TOKEN_RBRACKET },
	{ "(", TOKEN_LPAREN },
	{ ")", TOKEN_RPAREN },
	{ "{", TOKEN_LBRACE },
	{ "}", TOKEN_RBRACE },
	{ ">", TOKEN_GT },
	{ "<", TOKEN_LT },
	{ "=", TOKEN_ASSIGN },
	{ ".", TOKEN_DOT },
	{ ":", TOKEN_COLON },
	{ "|", TOKEN_PIPE },
	{ ",", TOKEN_COMMA },
	{ ";", TOKEN_SEMICOLON },
};

static void lex_operator(struct lexer *lexer, struct token *token)
{
	for (size_t i = 0; i < sizeof(operators) / sizeof(operators[0]); i++) {
		if (!starts(lexer, lexer->at, operators[i].text))
			continue;
		if (operators[i].type >= TOKEN_LBRACKET && operators[i].type <= TOKEN_RBRACE)
			bracket(lexer, operators[i].text[0]);
		give(token, operators[i].type, value_none());
		match_end(lexer, lexer->at + strlen(operators[i].text));
		return;
	}
	jinja_fail(lexer->run, -EINVAL, "unexpected character '%.*s'",
		(int)(jinja_utf8_offset(lexer->source + lexer->at, lexer->n - lexer->at, 1)),
		lexer->source + lexer->at);
}

static void lex_name(struct lexer *lexer, struct token *token)
{
	size_t at = lexer->at, next = at;

	while (next < lexer->n
		&& jinja_point_is_name(jinja_utf8_next(lexer->source, lexer->n, &next)))
		at = next;
	give(token, TOKEN_NAME, value_string(lexer->source + lexer->at, at - lexer->at));
	match_end(lexer, at);
}

static void lex_string(struct lexer *lexer, struct token *token)
{
	size_t start = lexer->at + 1, at = start;
	char quote = lexer->source[lexer->at];

	while (at < lexer->n && lexer->source[at] != quote)
		at += lexer->source[at] == '\\' ? 2 : 1;
	if (at >= lexer->n)
		jinja_fail(lexer->run, -EINVAL, "a string is not closed: %c is missing", quote);
	give(token, TOKEN_STRING, jinja_unescape(lexer->run, lexer->source + start, at - start));
	match_end(lexer, at + 1);
}

void jinja_lexer_next(struct lexer *lexer, struct token *token)
{
	size_t next;
	uint32_t point;

	jinja_step(lexer->run, 1);
	if (lexer->mode == LEX_DATA) {
		while (!lex_data(lexer, token))
			;
	} else {
		lexer->at = skip_space(lexer, lexer->at);
		locate(lexer, lexer->at);
		next = lexer->at;
		if (lexer->at >= lexer->n) {
			give(token, TOKEN_END, value_none());
		} else if (!lex_tag_end(lexer, token)) {
			point = jinja_utf8_next(lexer->source, lexer->n, &next);
			if (point >= '0' && point <= '9') {
				next = jinja_lex_number(lexer->run, lexer->source, lexer->n,
					lexer->at, &token->value);
				token->type = token->value.kind == INT ? TOKEN_INTEGER
								       : TOKEN_FLOAT;
				match_end(lexer, next);
			} else if (jinja_point_starts_name(point)) {
				lex_name(lexer, token);
			} else if (point == '"' || point == '\'') {
				lex_string(lexer, token);
			} else {
				lex_operator(lexer, token);
			}
		}
	}
	token->line = lexer->run->line;
	token->column = lexer->run->column;
}

const char *jinja_token_name(const struct token *token, char buffer[64])
{
	size_t i;

	switch (token->type) {
	case TOKEN_END: return "the end of the template";
	case TOKEN_DATA: return "text";
	case TOKEN_VARIABLE_BEGIN: return "'{{'";
	case TOKEN_VARIABLE_END: return "'}}'";
	case TOKEN_BLOCK_BEGIN: return "'{%'";
	case TOKEN_BLOCK_END: return "'%}'";
	case TOKEN_STRING: return "a string";
	case TOKEN_INTEGER: case TOKEN_FLOAT: return "a number";
	case TOKEN_NAME:
		snprintf(buffer, 64, "'%.*s'", WORDS(token->value));
		return buffer;
	default:
		for (i = 0; operators[i].type != token->type; i++)
			;
		snprintf(buffer, 64, "'%.2s'", operators[i].text);
		return buffer;
	}
}
