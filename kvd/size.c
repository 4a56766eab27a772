/* size.c - sizes as people write them, and the extent size that follows from a pool.  Pure. */
#include "kvd/config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

int size_parse(const char *text, uint64_t *ret_bytes)
{
	uint64_t value = 0;
	unsigned shift = 0;
	const char *p = text;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++) {
		unsigned digit = (unsigned)(*p - '0');

		if (value > (UINT64_MAX - digit) / 10)
			return -ERANGE;
		value = value * 10 + digit;
	}
	switch (*p) {
	case 'k':
	case 'K':
		shift = 10;
		p++;
		break;
	case 'm':
	case 'M':
		shift = 20;
		p++;
		break;
	case 'g':
	case 'G':
		shift = 30;
		p++;
		break;
	case 't':
	case 'T':
		shift = 40;
		p++;
		break;
	}
	if (shift && p[0] == 'i' && p[1] == 'B')
		p += 2;
	if (*p)
		return -EINVAL;
	if (shift && value > UINT64_MAX >> shift)
		return -ERANGE;
	*ret_bytes = value << shift;
	return 0;
}

void size_format(uint64_t bytes, char ret[SIZE_TEXT_MAX])
{
	static const char units[] = "BKMGT";
	unsigned unit = 0;
	uint64_t tenths;

	while (unit < 4 && bytes >> (10 * (unit + 1)))
		unit++;
	if (unit == 0) {
		snprintf(ret, SIZE_TEXT_MAX, "%" PRIu64 "B", bytes);
		return;
	}
	/* Rounded down: "free memory" must not read larger than it is. */
	tenths = (bytes >> (10 * (unit - 1))) * 10 / 1024;
	if (tenths % 10)
		snprintf(ret, SIZE_TEXT_MAX, "%" PRIu64 ".%" PRIu64 "%c", tenths / 10, tenths % 10,
			 units[unit]);
	else
		snprintf(ret, SIZE_TEXT_MAX, "%" PRIu64 "%c", tenths / 10, units[unit]);
}

uint64_t config_extent_bytes(uint64_t pool_bytes)
{
	uint64_t extent_bytes = LIMIT_EXTENT_BYTES_MIN;

	while (extent_bytes < LIMIT_EXTENT_BYTES_MAX &&
	       extent_bytes * LIMIT_EXTENTS_WANTED < pool_bytes)
		extent_bytes <<= 1;
	while (extent_bytes < LIMIT_EXTENT_BYTES_USEFUL &&
	       extent_bytes * 2 * LIMIT_EXTENTS_FEWEST <= pool_bytes)
		extent_bytes <<= 1;
	while (pool_bytes / extent_bytes >= LIMIT_EXTENTS_FOLLOW && extent_bytes < 1ull << 30)
		extent_bytes <<= 1;
	return extent_bytes;
}
