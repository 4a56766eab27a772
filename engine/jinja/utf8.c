/* utf8.c - code points of text that is known to be valid UTF-8.  Pure functions.
 * Classes come from utf8proc (Unicode 14 as in Python 3.11); Python's exceptions are added here. */
#include "engine/jinja/utf8.h"

#include <utf8proc.h>

#include "engine/jinja/casing.h"

size_t jinja_utf8_check(const char *bytes, size_t n)
{
	size_t at = 0;

	while (at < n) {
		utf8proc_int32_t point;
		utf8proc_ssize_t left = (utf8proc_ssize_t)(n - at);
		utf8proc_ssize_t used;
		if ((unsigned char)bytes[at] < 0x80) {
			at++;
			continue;
		}
		used = utf8proc_iterate((const utf8proc_uint8_t *)bytes + at, left, &point);
		if (used <= 0)
			return at;
		at += (size_t)used;
	}
	return n;
}

uint32_t jinja_utf8_next(const char *bytes, size_t n, size_t *at)
{
	unsigned char c = (unsigned char)bytes[*at];
	size_t more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
	uint32_t point = more == 0 ? c : c & (0x3fu >> more);

	++*at;
	while (more-- && *at < n)
		point = point << 6 | ((unsigned char)bytes[(*at)++] & 0x3f);
	return point;
}

uint32_t jinja_utf8_previous(const char *bytes, size_t *at)
{
	size_t end = *at, start = end - 1;

	while (start > 0 && ((unsigned char)bytes[start] & 0xc0) == 0x80)
		start--;
	*at = start;
	return jinja_utf8_next(bytes, end, &start);
}

size_t jinja_utf8_encode(uint32_t point, char bytes[4])
{
	if (point < 0x80) {
		bytes[0] = (char)point;
		return 1;
	}
	if (point < 0x800) {
		bytes[0] = (char)(0xc0 | point >> 6);
		bytes[1] = (char)(0x80 | (point & 0x3f));
		return 2;
	}
	if (point < 0x10000) {
		bytes[0] = (char)(0xe0 | point >> 12);
		bytes[1] = (char)(0x80 | (point >> 6 & 0x3f));
		bytes[2] = (char)(0x80 | (point & 0x3f));
		return 3;
	}
	bytes[0] = (char)(0xf0 | (point >> 18 & 7));
	bytes[1] = (char)(0x80 | (point >> 12 & 0x3f));
	bytes[2] = (char)(0x80 | (point >> 6 & 0x3f));
	bytes[3] = (char)(0x80 | (point & 0x3f));
	return 4;
}

size_t jinja_utf8_length(const char *bytes, size_t n)
{
	size_t length = 0;

	for (size_t i = 0; i < n; i++)
		length += ((unsigned char)bytes[i] & 0xc0) != 0x80;
	return length;
}

size_t jinja_utf8_offset(const char *bytes, size_t n, size_t index)
{
	size_t at = 0;

	for (; at < n; at++) {
		if (((unsigned char)bytes[at] & 0xc0) == 0x80)
			continue;
		if (index-- == 0)
			break;
	}
	return at;
}

static utf8proc_category_t category_of(uint32_t point)
{
	return utf8proc_category((utf8proc_int32_t)point);
}

bool jinja_point_is_space(uint32_t point)
{
	if (point < 0x80)
		return point == ' ' || (point >= 0x09 && point <= 0x0d)
			|| (point >= 0x1c && point <= 0x1f);
	return point == 0x85 || point == 0xa0 || point == 0x1680
		|| (point >= 0x2000 && point <= 0x200a) || point == 0x2028 || point == 0x2029
		|| point == 0x202f || point == 0x205f || point == 0x3000;
}

bool jinja_point_is_alpha(uint32_t point)
{
	utf8proc_category_t c = category_of(point);

	return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT
		|| c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_LO;
}

bool jinja_point_is_decimal(uint32_t point)
{
	return category_of(point) == UTF8PROC_CATEGORY_ND;
}

bool jinja_point_is_digit(uint32_t point)
{
	return jinja_point_is_decimal(point) || point == 0xb2 || point == 0xb3 || point == 0xb9
		|| point == 0x2070 || (point >= 0x2074 && point <= 0x2079)
		|| (point >= 0x2080 && point <= 0x2089) || (point >= 0x2460 && point <= 0x2468);
}

bool jinja_point_is_numeric(uint32_t point)
{
	utf8proc_category_t c = category_of(point);

	return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool jinja_point_is_upper(uint32_t point)
{
	return category_of(point) == UTF8PROC_CATEGORY_LU || (point >= 0x2160 && point <= 0x216f)
		|| (point >= 0x24b6 && point <= 0x24cf);
}

bool jinja_point_is_lower(uint32_t point)
{
	return category_of(point) == UTF8PROC_CATEGORY_LL || point == 0xaa || point == 0xba
		|| (point >= 0x2170 && point <= 0x217f) || (point >= 0x24d0 && point <= 0x24e9);
}

bool jinja_point_is_cased(uint32_t point)
{
	return jinja_point_is_upper(point) || jinja_point_is_lower(point)
		|| category_of(point) == UTF8PROC_CATEGORY_LT;
}

bool jinja_point_is_printable(uint32_t point)
{
	if (point < 0x7f)
		return point >= 0x20;
	switch (category_of(point)) {
	case UTF8PROC_CATEGORY_CC: case UTF8PROC_CATEGORY_CF: case UTF8PROC_CATEGORY_CS:
	case UTF8PROC_CATEGORY_CO: case UTF8PROC_CATEGORY_CN: case UTF8PROC_CATEGORY_ZL:
	case UTF8PROC_CATEGORY_ZP: case UTF8PROC_CATEGORY_ZS:
		return false;
	default:
		return true;
	}
}

bool jinja_point_starts_name(uint32_t point)
{
	return point == '_' || jinja_point_is_alpha(point)
		|| category_of(point) == UTF8PROC_CATEGORY_NL;
}

bool jinja_point_is_name(uint32_t point)
{
	utf8proc_category_t c = category_of(point);

	return jinja_point_starts_name(point) || c == UTF8PROC_CATEGORY_ND
		|| c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC
		|| c == UTF8PROC_CATEGORY_PC;
}

static size_t copy_form(const uint16_t form[3], uint32_t out[3])
{
	size_t n = 0;

	while (n < 3 && form[n]) {
		out[n] = form[n];
		n++;
	}
	return n;
}

size_t jinja_point_map(uint32_t point, enum point_case to, uint32_t out[3])
{
	size_t low = 0, high = sizeof(casings) / sizeof(casings[0]);

	if (to == POINT_LOWER && point == 0x130) {  /* the only lower form of two points */
		out[0] = 'i';
		out[1] = 0x307;
		return 2;
	}
	while (to != POINT_LOWER && point >= casings[0].point && low < high) {
		size_t middle = low + (high - low) / 2;
		const struct casing *casing = &casings[middle];
		if (casing->point == point)
			return copy_form(to == POINT_UPPER ? casing->upper : casing->title, out);
		if (casing->point < point)
			low = middle + 1;
		else
			high = middle;
	}
	out[0] = (uint32_t)(to == POINT_UPPER ? utf8proc_toupper((utf8proc_int32_t)point)
		: to == POINT_LOWER ? utf8proc_tolower((utf8proc_int32_t)point)
		: utf8proc_totitle((utf8proc_int32_t)point));
	return 1;
}
