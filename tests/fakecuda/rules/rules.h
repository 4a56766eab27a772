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
extern const struct rule rules_memory[], rules_work[], rules_plain[], rules_code[], rules_code_kept[];
extern const size_t n_rules_memory, n_rules_work, n_rules_plain, n_rules_code, n_rules_code_kept;
extern struct rule rules_broken[];
extern size_t n_rules_broken;
extern struct rule rules_kept[];
extern size_t n_rules_kept;
int rules_run(const char *name);
/* What is run in all; without compiled kernels, less. */
void rules_join(bool with_code);

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
