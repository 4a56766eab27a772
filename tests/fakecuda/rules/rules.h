/* rules.h - the double's rules, each broken by one function, and the programs that keep them.
 * A function returns the code of the call that broke the rule (kept: 0, or the code that should not be). */
#ifndef TESTS_FAKECUDA_RULES_H
#define TESTS_FAKECUDA_RULES_H

#include <cuda.h>
#include <stdbool.h>
#include <stddef.h>

struct rule {
	const char *name;
	int (*run)(void);
	int code, dies;                /* the process exits with this code (modulo 256), or dies of that signal */
	const char *says;              /* what the log says of it */
	const char *setting;           /* of the environment, or NULL */
	bool is_fault;                 /* the device met it, and says "fault" */
};
extern const struct rule rules_memory[], rules_work[];
extern const size_t n_rules_memory, n_rules_work;
extern struct rule rules_broken[];
extern size_t n_rules_broken;
extern const struct rule rules_kept[];
extern const size_t n_rules_kept;
int rules_run(const char *name);

/* ---- what most of them begin with; a failure of these ends the process with 99 ---- */
enum { GRANULARITY = 2 << 20 };
void must(CUresult r, const char *what);
#define MUST(call) must(call, #call)
void begin(void);                                /* cuInit() and the primary context */
CUmemAllocationProp properties(void);
CUmemGenericAllocationHandle create(size_t bytes);
CUdeviceptr reserve(size_t bytes);
CUresult give_access(CUdeviceptr at, size_t bytes, CUmemAccess_flags flags);
CUdeviceptr mapped(size_t bytes, CUmemAccess_flags flags);
void hold(bool on);                              /* no queued work begins */

#endif
