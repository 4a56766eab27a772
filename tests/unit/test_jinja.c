/* test_jinja - the template interpreter against what jinja2 printed (tests/golden/jinja, made by
 * tests/oracle/render_templates.py), its limits, and where its errors point. */
#include "engine/jinja/jinja.h"
#include "tests/lib/suite.h"

#include <check.h>
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOW 1732444800   /* the oracle's clock */

static int render(const char *template, const char *context_json, char **ret_text, char err[512],
	const struct jinja_limits *limits)
{
	json_t *context = json_loads(context_json, 0, NULL);
	size_t n;
	int r;

	ck_assert_ptr_nonnull(context);
	r = jinja_render(template, strlen(template), context, NOW, limits, ret_text, &n, err, 512);
	json_decref(context);
	return r;
}

static void expect_text(const char *template, const char *context_json, const char *wanted)
{
	char *text, err[512] = "";
	int r = render(template, context_json, &text, err, NULL);

	ck_assert_msg(r == 0, "%s: %s", template, err);
	ck_assert_str_eq(text, wanted);
	free(text);
}

static void expect_error(
	const char *template, const char *context_json, int wanted, const char *words)
{
	char *text = NULL, err[512] = "";
	int r = render(template, context_json, &text, err, NULL);

	ck_assert_msg(r == wanted, "%s: %d, %s", template, r, err);
	ck_assert_msg(strstr(err, words) != NULL, "%s: \"%s\" lacks \"%s\"", template, err, words);
	ck_assert_ptr_null(text);
}

static unsigned check_golden_file(const char *path)
{
	json_error_t error;
	json_t *cases = json_load_file(path, JSON_ALLOW_NUL, &error), *one;
	size_t i;

	ck_assert_msg(json_is_array(cases), "%s: %s", path, error.text);
	json_array_foreach(cases, i, one) {
		json_t *template = json_object_get(one, "template"),
		       *wanted = json_object_get(one, "text");
		char *text = NULL, err[512] = "";
		size_t n;
		int r = jinja_render(json_string_value(template), json_string_length(template),
			json_object_get(one, "context"), NOW, NULL, &text, &n, err, sizeof(err));
		ck_assert_msg((r == 0) == (wanted != NULL), "%s: %s: got %d %s%s, jinja2 %s", path,
			json_string_value(template), r, err, r ? "" : text,
			wanted ? json_string_value(wanted)
			       : json_string_value(json_object_get(one, "error")));
		if (r == 0)
			ck_assert_msg(n == json_string_length(wanted)
					&& memcmp(text, json_string_value(wanted), n) == 0,
				"%s: %s\n got    %s\n jinja2 %s", path, json_string_value(template),
				text, json_string_value(wanted));
		free(text);
	}
	i = json_array_size(cases);
	json_decref(cases);
	return (unsigned)i;
}

START_TEST(goldens_are_equal)
{
	glob_t files;
	unsigned n = 0;

	setenv("TZ", "UTC", 1);
	ck_assert_msg(glob("tests/golden/jinja/*.json", 0, NULL, &files) == 0,
		"run me in the root of the repository");
	for (size_t i = 0; i < files.gl_pathc; i++)
		n += check_golden_file(files.gl_pathv[i]);
	globfree(&files);
	ck_assert_uint_ge(n, 200);
}
END_TEST

START_TEST(errors_name_their_place)
{
	expect_error("a\n{{ 1 + }}", "{}", -EINVAL,
		"line 2, column 8: expected an expression, found '}}'");
	expect_error("{{ x.y }}", "{}", -EINVAL, "line 1, column 5: 'x' is undefined");
	expect_error("{{ m.y.z }}", "{\"m\": {}}", -EINVAL, "'dict object' has no attribute 'y'");
	expect_error("é{{ 1 ~ 1 -\n  'a' }}", "{}", -EINVAL,
		"line 1, column 11: unsupported operand types for -");
	expect_error("{% for x in 1 %}{% endfor %}", "{}", -EINVAL,
		"line 1, column 13: 'int' object is not iterable");
	expect_error("{% if x %}\n", "{}", -EINVAL, "{% endif %} is missing");
	expect_error("{% include 'x' %}", "{}", -EINVAL, "unknown tag 'include'");
	expect_error("{{ raise_exception('roles must alternate') }}", "{}", -EBADMSG,
		"roles must alternate");
	expect_error("\xff", "{}", -EINVAL, "not UTF-8");
	expect_error("{{ 9223372036854775807 + 1 }}", "{}", -EINVAL, "64-bit");
	expect_error("{{ l.append(1) }}", "{\"l\": []}", -EINVAL, "may not change");
}
END_TEST

START_TEST(limits_hold)
{
	char deep[4096] = "";

	expect_error(
		"{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
		"{}", -EOVERFLOW, "memory");
	expect_error(
		"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{}", -EOVERFLOW, "nest deeper");
	expect_error("{{ 'x' * 100000000 }}", "{}", -EOVERFLOW, "grows beyond");
	expect_error("{% for i in range(1000) %}{{ 'x' * 100000 }}{% endfor %}", "{}", -EOVERFLOW,
		"grows beyond");
	expect_error("{% set ns = namespace(l=[0]) %}{% for i in range(60) %}{% set ns.l = ns.l + "
		     "ns.l %}{% endfor %}",
		     "{}", -EOVERFLOW, "memory");
	expect_error("{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] "
		     "%}{% endfor %}{{ ns.l }}",
		     "{}", -EOVERFLOW, "nest deeper");
	expect_error("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", "{}", -EOVERFLOW,
		"nest deeper");
	expect_error("{{ range(100001) }}", "{}", -EOVERFLOW, "longer than");
	for (size_t i = 0; i < 2000; i++)
		strcat(deep, i < 1500 ? "(" : ")");
	memmove(deep + 3, deep, strlen(deep) + 1);
	memcpy(deep, "{{ ", 3);
	expect_error(deep, "{}", -EOVERFLOW, "nest deeper");
	memset(deep, '-', 3000);
	memcpy(deep, "{{ ", 3);
	expect_error(deep, "{}", -EOVERFLOW, "nest deeper");
}
END_TEST

START_TEST(limits_are_the_callers)
{
	struct jinja_limits limits = JINJA_LIMITS_DEFAULT;
	char *text = NULL, err[512];

	limits.output_bytes = 10;
	ck_assert_int_eq(render("12345678901", "{}", &text, err, &limits), -EOVERFLOW);
	ck_assert_int_eq(render("1234567890", "{}", &text, err, &limits), 0);
	free(text);
	limits = (struct jinja_limits)JINJA_LIMITS_DEFAULT;
	limits.memory_bytes = 1000;
	ck_assert_int_eq(
		render("{{ 'abc' }}{{ range(50)|list }}", "{}", &text, err, &limits), -EOVERFLOW);
	limits = (struct jinja_limits)JINJA_LIMITS_DEFAULT;
	limits.steps = 1000;
	ck_assert_int_eq(
		render("{% for a in range(1000) %}{% endfor %}", "{}", &text, err, &limits),
		-EOVERFLOW);
	ck_assert_ptr_nonnull(strstr(err, "more than 1000 steps"));
	limits = (struct jinja_limits)JINJA_LIMITS_DEFAULT;
	limits.template_bytes = 3;
	ck_assert_int_eq(render("abcd", "{}", &text, err, &limits), -EOVERFLOW);
}
END_TEST

START_TEST(data_is_never_a_template)
{
	expect_text("{{ x }}", "{\"x\": \"{{ 1 }}{% if %}{# #}\"}", "{{ 1 }}{% if %}{# #}");
	expect_text("{{ x.a|replace('{{', '<') }}", "{\"x\": {\"a\": \"{{ y }}\"}}", "< y }}");
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		goldens_are_equal, errors_name_their_place, limits_hold, limits_are_the_callers,
		data_is_never_a_template,
	};
	return SUITE_RUN("jinja", 60, tests);
}
