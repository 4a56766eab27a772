/* utf8.h - code points of text that is known to be valid UTF-8, and their classes in Python. */
#ifndef ENGINE_JINJA_UTF8_H
#define ENGINE_JINJA_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Offset of the first byte that is not valid UTF-8, or n.  Surrogates are not valid. */
size_t jinja_utf8_check(const char *bytes, size_t n);

/* Decode the point at *at and step over it; *at < n, text valid. */
uint32_t jinja_utf8_next(const char *bytes, size_t n, size_t *at);

/* Step back over the point that ends at *at > 0. */
uint32_t jinja_utf8_previous(const char *bytes, size_t *at);

/* 1..4 bytes. */
size_t jinja_utf8_encode(uint32_t point, char bytes[4]);

/* Number of code points. */
size_t jinja_utf8_length(const char *bytes, size_t n);

/* Byte offset of a code point's index, n if it lies behind the end. */
size_t jinja_utf8_offset(const char *bytes, size_t n, size_t index);

/* str.isspace, .isalpha, ... for one point. */
bool jinja_point_is_space(uint32_t point);
bool jinja_point_is_alpha(uint32_t point);
bool jinja_point_is_decimal(uint32_t point);
bool jinja_point_is_digit(uint32_t point);
bool jinja_point_is_numeric(uint32_t point);
bool jinja_point_is_upper(uint32_t point);
bool jinja_point_is_lower(uint32_t point);
bool jinja_point_is_cased(uint32_t point);
bool jinja_point_is_printable(uint32_t point);
bool jinja_point_is_name(uint32_t point);       /* may stand in an identifier */
bool jinja_point_starts_name(uint32_t point);   /* may begin one */

/* Case mappings may give up to three points. */
enum point_case { POINT_UPPER, POINT_LOWER, POINT_TITLE };
size_t jinja_point_map(uint32_t point, enum point_case to, uint32_t out[3]);

#endif
