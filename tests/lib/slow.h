/* slow.h - how many times longer a test may wait under a sanitizer.
 *
 * tests/run sets KVD_TEST_SLOW for such builds; everywhere else it is 1, so that a limit on time
 * stays as tight as the product's promise. */
#ifndef TESTS_SLOW_H
#define TESTS_SLOW_H

#include <stdlib.h>

static inline unsigned test_slow(void)
{
	const char *text = getenv("KVD_TEST_SLOW");
	int factor = text ? atoi(text) : 1;

	return factor > 1 && factor <= 100 ? (unsigned)factor : 1;
}

#endif
