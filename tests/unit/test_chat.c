/* test_chat - chat_render(): its own input checks, and real templates of public models compared
 * with jinja2, which tests/oracle/render_templates.py runs live ($KVD_SHARED or ../shared). */
#include "engine/chat.h"
#include "tests/lib/suite.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

static const char smol[] =
	"{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
	"{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
	"{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
	"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

static void expect_text(const char *template, const char *messages,
	const struct chat_options *options, const char *wanted)
{
	char *text, err[512] = "";
	size_t n;
	int r = chat_render(
		template, strlen(template), messages, options, &text, &n, err, sizeof(err));

	ck_assert_msg(r == 0, "%s", err);
	ck_assert_uint_eq(n, strlen(wanted));
	ck_assert_str_eq(text, wanted);
	free(text);
}

static void expect_error(
	const char *messages, const struct chat_options *options, const char *words)
{
	char *text = NULL, err[512] = "";
	size_t n;
	int r = chat_render("{{ messages }}", 14, messages, options, &text, &n, err, sizeof(err));

	ck_assert_int_eq(r, -EINVAL);
	ck_assert_msg(strstr(err, words) != NULL, "\"%s\" lacks \"%s\"", err, words);
	ck_assert_ptr_null(text);
}

START_TEST(a_conversation)
{
	struct chat_options options = { .add_generation_prompt = true };

	expect_text(smol, "[{\"role\": \"user\", \"content\": \"Hi {{ x }}\"}]", &options,
		    "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nHi {{ x "
		    "}}<|im_end|>\n<|im_start|>assistant\n");
	options.add_generation_prompt = false;
	expect_text(smol,
		"[{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": \"\"}]",
		&options, "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n<|im_end|>\n");
	expect_text(smol, "[]", &options, "");
}
END_TEST

START_TEST(the_variables_of_a_template)
{
	struct chat_options options = { .bos_token = "<s>",
		.eos_token = "</s>",
		.tools_json = "[{\"n\": 1}]",
		.extra_json = "{\"enable_thinking\": false, \"eos_token\": \"E\"}",
		.now = 1732444800 };

	setenv("TZ", "UTC", 1);
	expect_text(
		"{{ bos_token }}{{ eos_token }}{{ tools }}{{ enable_thinking }}{{ strftime_now('%d %b %Y') }}",
		"[]", &options, "<s>E[{'n': 1}]False24 Nov 2024");
	options = (struct chat_options){ 0 };
	expect_text("{{ bos_token is defined }} {{ tools is none }} {{ documents is none }} {{ "
		    "add_generation_prompt }}",
		    "[]", &options, "False True True False");
}
END_TEST

START_TEST(bad_input_is_named)
{
	struct chat_options options = { 0 };

	expect_error("[", &options, "messages: not valid JSON: line 1");
	expect_error("{}", &options, "messages must be a JSON array");
	expect_error("[{\"role\": \"user\"}, {\"content\": \"x\"}]", &options, "messages[1]");
	expect_error("[1]", &options, "messages[0]");
	options.tools_json = "{}";
	expect_error("[]", &options, "tools must be a JSON array");
	options = (struct chat_options){ .extra_json = "[]" };
	expect_error("[]", &options, "must be a JSON object");
	options = (struct chat_options){ .bos_token = "\xff" };
	expect_error("[]", &options, "bos_token is not UTF-8");
}
END_TEST

START_TEST(a_refusal_is_told_apart)
{
	struct chat_options options = { 0 };
	const char *template =
		"{% if messages|length > 1 %}\n{{ raise_exception('one at a time') }}{% endif %}";
	char *text = NULL, err[512];
	size_t n;

	ck_assert_int_eq(
		chat_render(template, strlen(template), "[{\"role\": \"a\"}, {\"role\": \"b\"}]",
			&options, &text, &n, err, sizeof(err)),
		-EBADMSG);
	ck_assert_str_eq(err, "chat template, line 2, column 19: one at a time");
}
END_TEST

/* One case of the oracle: everything but the messages goes through the options. */
static void check_case(json_t *one)
{
	json_t *context = json_object_get(one, "context"), *wanted = json_object_get(one, "text");
	char *messages = json_dumps(json_object_get(context, "messages"), 0), *extra, *tools = NULL,
	     *text = NULL;
	struct chat_options options = { .now = (time_t)json_integer_value(
						json_object_get(one, "now")) };
	json_t *template = json_object_get(one, "template");
	const char *name = json_string_value(json_object_get(one, "name"));
	char err[512] = "";
	size_t n;
	int r;

	options.bos_token = json_string_value(json_object_get(context, "bos_token"));
	options.eos_token = json_string_value(json_object_get(context, "eos_token"));
	options.add_generation_prompt = json_is_true(
		json_object_get(context, "add_generation_prompt"));
	if (json_is_array(json_object_get(context, "tools")))
		options.tools_json = tools = json_dumps(json_object_get(context, "tools"), 0);
	json_object_del(context, "tools");
	json_object_del(context, "messages");
	options.extra_json = extra = json_dumps(context, 0);
	r = chat_render(json_string_value(template), json_string_length(template), messages,
		&options, &text, &n, err, sizeof(err));
	ck_assert_msg((r == 0) == (wanted != NULL), "%s: %s: %s%s; jinja2: %s", name, messages,
		r ? err : text, "",
		wanted ? json_string_value(wanted)
		       : json_string_value(json_object_get(one, "error")));
	if (json_is_true(json_object_get(one, "refused")))
		ck_assert_int_eq(r, -EBADMSG);
	if (wanted)
		ck_assert_msg(n == json_string_length(wanted)
				&& memcmp(text, json_string_value(wanted), n) == 0,
			"%s: %s\n got    %s\n jinja2 %s", name, messages, text,
			json_string_value(wanted));
	free(text);
	free(tools);
	free(extra);
	free(messages);
}

START_TEST(real_templates_are_equal)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t length;
	unsigned n = 0;
	FILE *oracle;
	int status;

	setenv("TZ", "UTC", 1);
	oracle = popen("python3 tests/oracle/render_templates.py cases", "r");
	ck_assert_ptr_nonnull(oracle);
	while ((length = getline(&line, &size, oracle)) > 0) {
		json_t *one = line[0] == '{'
			? json_loadb(line, (size_t)length, JSON_ALLOW_NUL, NULL)
			: NULL;
		if (!one)
			continue;
		check_case(one);
		json_decref(one);
		n++;
	}
	free(line);
	status = pclose(oracle);
	if (n == 0)
		printf("skipped: real_templates_are_equal: %s\n", status ? "no python3 with jinja2"
			: "no templates in ../shared/templates and no model files");
	else
		printf("real_templates_are_equal: %u conversations\n", n);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_conversation, the_variables_of_a_template, bad_input_is_named, a_refusal_is_told_apart,
		real_templates_are_equal,
	};
	return SUITE_RUN("chat", 120, tests);
}
