/* test_driver_rules.c - every rule of the double is broken once, by a process of its own that did nothing else wrong.
 *
 * The program runs itself again with the name of a rule; that process breaks it and exits with the code that
 * the call gave, or dies.  The parent wants that code, a line in the log with the rule's words, and no other
 * breach; and of the programs that keep the rules, none. */
#include <cuda.h>
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fakecuda/rules/rules.h"
#include "tests/lib/suite.h"

static char dir[64];

static void make_dir(void)
{
	char path[] = "/dev/shm/fakecuda-rules-XXXXXX";

	ck_assert_ptr_nonnull(mkdtemp(path));
	strcpy(dir, path);
	setenv("FAKECUDA_DIR", dir, 1);
	setenv("FAKECUDA_MEMORY", "256M", 1);
}

static void remove_dir(void)
{
	DIR *d = opendir(dir);

	for (struct dirent *e; d && (e = readdir(d));)
		unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(dir);
}

static char *read_log(void)
{
	static char text[16384];
	char path[100];
	int fd;
	ssize_t n = 0;

	snprintf(path, sizeof(path), "%s/log", dir);
	fd = open(path, O_RDONLY);
	if (fd >= 0) {
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
	}
	text[n > 0 ? n : 0] = '\0';
	return text;
}

static unsigned count(const char *text, const char *word)
{
	unsigned n = 0;

	for (const char *p = text; (p = strstr(p, word)); p += strlen(word))
		n++;
	return n;
}

/* The wait status of this program run for a rule. */
static int run_rule(const struct rule *rule)
{
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		if (rule->setting)
			putenv((char *)rule->setting);
		execl("/proc/self/exe", "rule", "--rule", rule->name, NULL);
		_exit(126);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

START_TEST(broken_rule_is_told)
{
	const struct rule *rule = &rules_broken[_i];
	int status;
	const char *log;

	make_dir();
	status = run_rule(rule);
	log = read_log();
	if (rule->dies)
		ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == rule->dies,
			      "%s: status %#x, not signal %d\n%s", rule->name, status, rule->dies,
			      log);
	else
		ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == rule->code % 256,
			      "%s: status %#x, not code %d\n%s", rule->name, status, rule->code,
			      log);
	ck_assert_msg(strstr(log, rule->says) != NULL, "%s: the log does not say '%s':\n%s",
		      rule->name, rule->says, log);
	if (rule->is_fault)
		ck_assert_msg(strstr(log, "fault ") != NULL, "%s: no fault:\n%s", rule->name, log);
	else
		ck_assert_msg(count(log, "breach ") == 1, "%s: not one breach:\n%s", rule->name, log);
	remove_dir();
}
END_TEST

START_TEST(kept_rule_is_silent)
{
	const struct rule *rule = &rules_kept[_i];
	int status;
	const char *log;

	make_dir();
	status = run_rule(rule);
	log = read_log();
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: status %#x\n%s", rule->name, status, log);
	ck_assert_msg(!strstr(log, "breach ") && !strstr(log, "left ") && !strstr(log, "fault "), "%s:\n%s", rule->name,
		      log);
	remove_dir();
}
END_TEST

START_TEST(breach_aborts_where_told_to)
{
	struct rule rule = rules_broken[0];
	int status;

	make_dir();
	rule.setting = "FAKECUDA_ABORT=1";
	status = run_rule(&rule);
	ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "status %#x", status);
	ck_assert_ptr_nonnull(strstr(read_log(), "breach "));
	remove_dir();
}
END_TEST

START_TEST(nth_call_fails_as_told)
{
	static const struct rule rule = { "keeps_memory", 0, CUDA_ERROR_OUT_OF_MEMORY, 0, "fired",
					  "FAKECUDA_FAIL=cuMemMap:1:2", false };
	int status;

	make_dir();
	status = run_rule(&rule);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == CUDA_ERROR_OUT_OF_MEMORY, "status %#x\n%s", status,
		      read_log());
	ck_assert_msg(strstr(read_log(), "cuMemMap") != NULL, "%s", read_log());
	ck_assert_msg(strstr(read_log(), "left ") != NULL, "what it left is not told:\n%s", read_log());
	remove_dir();
}
END_TEST

/* Compiled and emulated kernels, as the Makefile leaves them near this program. */
static bool find_kernels(void)
{
	char self[400], path[500];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	self[n > 0 ? n : 0] = '\0';
	*strrchr(self, '/') = '\0';
	snprintf(path, sizeof(path), "%s/../obj/engine/cuda/rows.fatbin", self);
	setenv("RULES_FATBIN", path, 1);
	if (access(path, R_OK))
		return false;
	snprintf(path, sizeof(path), "%s/fakecuda/libkernels.so", self);
	setenv("FAKECUDA_KERNELS", path, 1);
	return access(path, R_OK) == 0;
}

int main(int argc, char **argv)
{
	bool with_code;

	if (argc == 3 && !strcmp(argv[1], "--rule")) {
		rules_join(true);
		return rules_run(argv[2]);
	}
	with_code = find_kernels();
	rules_join(with_code);
	if (!with_code)
		printf("skipped: no compiled kernels (nvcc not found, or a sanitizer's build)\n");

	Suite *suite = suite_create("fakecuda_rules");
	TCase *tcase = tcase_create("rules");

	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, broken_rule_is_told, 0, (int)n_rules_broken);
	tcase_add_loop_test(tcase, kept_rule_is_silent, 0, (int)n_rules_kept);
	tcase_add_test(tcase, breach_aborts_where_told_to);
	tcase_add_test(tcase, nth_call_fails_as_told);
	suite_add_tcase(suite, tcase);
	return suite_result(suite);
}
