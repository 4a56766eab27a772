/* test_core_purity.c - the core needs nothing from outside: its objects' undefined symbols are
 * memory functions, the assert and stack-protector hooks of the C library, and the core itself.
 *
 * Reads the archive with nm; where there is none, prints "skipped". */
#include "tests/lib/suite.h"
#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SYMBOLS_MAX = 2000, NAME_MAX_BYTES = 128 };

static char defined[SYMBOLS_MAX][NAME_MAX_BYTES], wanted[SYMBOLS_MAX][NAME_MAX_BYTES];
static int n_defined, n_wanted;

static const char *const allowed[] = { "memcpy",	"memset",	 "memcmp",
				       "memmove",	"__memcpy_chk",	 "__memset_chk",
				       "__memmove_chk", "__assert_fail", "__stack_chk_fail" };

static bool in_list(char list[][NAME_MAX_BYTES], int n, const char *name)
{
	for (int i = 0; i < n; i++)
		if (!strcmp(list[i], name))
			return true;
	return false;
}

static bool is_allowed(const char *name)
{
	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
		if (!strcmp(allowed[i], name))
			return true;
	/* sanitizer and coverage builds add their own */
	return !strncmp(name, "__asan", 6) || !strncmp(name, "__ubsan", 7) ||
	       !strncmp(name, "__tsan", 6) || !strncmp(name, "__sanitizer", 11) ||
	       !strncmp(name, "__gcov", 6) || !strcmp(name, "_GLOBAL_OFFSET_TABLE_");
}

START_TEST(core_needs_nothing_from_outside)
{
	char path[512], command[700], line[512], type[8], name[NAME_MAX_BYTES];
	/* build/tests/test_core_purity -> build/libkvdcore.a */
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 32);
	ck_assert_int_gt((int)n, 0);
	path[n] = 0;
	*strrchr(path, '/') = 0;
	*strrchr(path, '/') = 0;
	strcat(path, "/libkvdcore.a");
	snprintf(command, sizeof(command), "nm '%s' 2>/dev/null", path);
	FILE *f = popen(command, "r");
	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f)) {
		bool undefined = sscanf(line, " %7s %127s", type, name) == 2 && !strcmp(type, "U");
		if (!undefined && sscanf(line, "%*x %7s %127s", type, name) != 2)
			continue;
		char (*list)[NAME_MAX_BYTES] = undefined ? wanted : defined;
		int *count = undefined ? &n_wanted : &n_defined;
		if (*count < SYMBOLS_MAX && !in_list(list, *count, name))
			strcpy(list[(*count)++], name);
	}
	if (pclose(f) != 0 || !n_defined) {
		printf("skipped: no nm, or no %s\n", path);
		return;
	}
	for (int i = 0; i < n_wanted; i++)
		if (!in_list(defined, n_defined, wanted[i]) && !is_allowed(wanted[i]))
			ck_abort_msg("the core uses %s, which is not its own", wanted[i]);
	ck_assert(in_list(defined, n_defined, "core_step"));
	ck_assert_int_gt(n_wanted, 5);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		core_needs_nothing_from_outside,
	};
	return SUITE_RUN("core_purity", 0, tests);
}
