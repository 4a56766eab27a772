/* test_options.c - kvengine's command line: what is taken, what is refused and how. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/options.h"
#include "tests/lib/suite.h"

static struct options o;
static char err[256];

/* argv from words separated by spaces. */
static int parse(const char *line)
{
	static char copy[512];
	char *argv[32] = { (char *)"kvengine" };
	int argc = 1;

	snprintf(copy, sizeof(copy), "%s", line);
	for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;
	err[0] = 0;
	return options_parse(argc, argv, &o, err, sizeof(err));
}

START_TEST(all_options_are_taken)
{
	ck_assert_int_eq(
		parse("--model m.gguf --name a --ctx 512 --threads=2 --max-seqs 8 --kv-format bf16 "
		      "--device host --socket /s --served-as m --chunk 7 --log-level debug "
		      "--isa avx2 --spin 0"),
		0);
	ck_assert_int_eq(o.action, OPTIONS_SERVE);
	ck_assert_str_eq(o.model, "m.gguf");
	ck_assert_str_eq(o.name, "a");
	ck_assert_str_eq(o.socket, "/s");
	ck_assert_str_eq(o.served_as, "m");
	ck_assert_str_eq(o.isa, "avx2");
	ck_assert(o.n_ctx == 512 && o.n_threads == 2 && o.max_seqs == 8 && o.chunk_tokens == 7 &&
		  o.spin_usec == 0);
	ck_assert_int_eq(o.log_level, LOG_LEVEL_DEBUG);
}
END_TEST

START_TEST(defaults)
{
	ck_assert_int_eq(parse("--model m.gguf"), 0);
	ck_assert(o.n_threads >= 1 && o.max_seqs == 16 && o.chunk_tokens >= 64 &&
		  o.spin_usec == 50 && o.n_ctx == 0);
	ck_assert_int_eq(parse("--model m.gguf --threads 1"), 0);
	ck_assert_uint_eq(o.chunk_tokens, 64);
	ck_assert_int_eq(parse("--model m.gguf --threads 16"), 0);
	ck_assert_uint_eq(o.chunk_tokens, 256);
	ck_assert_int_eq(parse("--eval m.gguf --text - --json"), 0);
	ck_assert(o.action == OPTIONS_EVAL && o.json);
	ck_assert_int_eq(parse("--check m.gguf"), 0);
	ck_assert_int_eq(o.action, OPTIONS_CHECK);
	ck_assert_int_eq(parse("--model m --help --nonsense"), 0);
	ck_assert_int_eq(o.action, OPTIONS_HELP);
	ck_assert_int_eq(parse("--version"), 0);
	ck_assert_int_eq(o.action, OPTIONS_VERSION);
}
END_TEST

START_TEST(wrong_usage_is_named)
{
	static const struct {
		const char *line, *names;
	} wrong[] = {
		{ "", "--model" },
		{ "--model", "--model" },
		{ "--model m --nonsense", "--nonsense" },
		{ "--modelx m", "--modelx" },
		{ "m.gguf", "m.gguf" },
		{ "--model a --check b", "--check" },
		{ "--model m --ctx 15", "--ctx 15" },
		{ "--model m --ctx 99999999999999999999", "--ctx" },
		{ "--model m --ctx -1", "--ctx" },
		{ "--model m --ctx 0x40", "--ctx" },
		{ "--model m --ctx=", "--ctx" },
		{ "--model m --threads 0", "--threads" },
		{ "--model m --threads 65", "--threads" },
		{ "--model m --kv-format q8_0", "bf16" },
		{ "--model m --device gpu", "host" },
		{ "--model m --device cuda:x", "cuda:N" },
		{ "--model m --isa sse", "avx2" },
		{ "--model m --isa avx", "avx2" },
		{ "--model m --log-level loud", "debug" },
		{ "--eval m", "--text" },
		{ "--eval m --text a --tokens b", "--text" },
		{ "--model m --text a", "--eval" },
		{ "--model m --json", "--json" },
		{ "--check m --json=1", "--json=1" },
		{ "--model m --name "
		  "0123456789012345678901234567890123456789012345678901234567890123",
		  "--name" },
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		ck_assert_msg(parse(wrong[i].line) < 0, "`%s' was taken", wrong[i].line);
		ck_assert_msg(strstr(err, wrong[i].names) != NULL, "`%s' says `%s'", wrong[i].line,
			      err);
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		all_options_are_taken, defaults, wrong_usage_is_named,
	};
	return SUITE_RUN("options", 0, tests);
}
