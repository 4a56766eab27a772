/* suite.h - the end of a Check program, and the whole of one that has plain tests only: main() names them. */
#ifndef TESTS_SUITE_H
#define TESTS_SUITE_H

#include <check.h>
#include <stdlib.h>

/* Run all of a suite, in a process each.  Returns the exit status. */
static inline int suite_result(Suite *suite)
{
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* seconds: of each test; 0: Check's own limit.  Returns the exit status. */
static inline int suite_run(const char *name, double seconds, const TTest *const *tests, size_t n_tests)
{
	Suite *suite = suite_create(name);
	TCase *tcase = tcase_create(name);
	if (seconds > 0)
		tcase_set_timeout(tcase, seconds);
	for (size_t i = 0; i < n_tests; i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return suite_result(suite);
}
#define SUITE_RUN(name, seconds, tests) suite_run(name, seconds, tests, sizeof(tests) / sizeof((tests)[0]))

#endif
