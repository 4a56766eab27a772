/* scenario.h - what the integration tests share: suites that run over real processes, long prompts,
 * requests in numbers. */
#ifndef TESTS_SCENARIO_H
#define TESTS_SCENARIO_H

#include <check.h>
#include "tests/lib/host.h"

/* Run the tests of one program, each with `seconds`; host_fail fails the Check test. */
#define SCENARIO(test) { #test, test }
struct scenario_test { const char *name; const TTest *test; };
int scenario_run(const char *suite, const struct scenario_test *tests, unsigned n, double seconds);

/* Plain English text of about n_words words from a fixed word list, the same for a seed; malloc'ed. */
char *scenario_text(uint64_t seed, unsigned n_words);
/* prefix + " " + suffix, malloc'ed. */
char *scenario_join(const char *prefix, const char *suffix);

/* A greedy raw request of n tokens that ignores the end token and asks for the logits hash: what equality
 * of bytes is tested with. */
void scenario_job(struct host_job *job, const char *tenant, const char *engine, const char *text,
		  uint32_t n_tokens);
/* Run one job alone and return it. */
struct host_job scenario_alone(struct host *h, const char *tenant, const char *engine, const char *text,
			       uint32_t n_tokens);

#endif
