/* lexer_string.h - the literals of a tag: escapes of strings, digits of numbers. */
#ifndef ENGINE_JINJA_LEXER_STRING_H
#define ENGINE_JINJA_LEXER_STRING_H

#include "engine/jinja/value.h"

/* What Python's unicode-escape makes of the text between the quotes. */
struct value jinja_unescape(struct run *run, const char *bytes, size_t n);

/* The number at *source + at, where a digit stands; returns the offset behind it. */
size_t jinja_lex_number(
	struct run *run, const char *source, size_t n, size_t at, struct value *ret_number);

#endif
