/* chat.c - gathers the variables of a chat template and renders it.  Keeps nothing. */
#include "engine/chat.h"

#include <errno.h>
#include <stdio.h>

#include <jansson.h>

#include "engine/jinja/jinja.h"

static void give_back(json_t **json)
{
	json_decref(*json);
}
#define _cleanup_json_ __attribute__((cleanup(give_back)))

static int parse(const char *text, const char *what, json_t **ret_json, char *err, size_t errlen)
{
	json_error_t error;
	json_t *json = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);

	if (!json) {
		snprintf(err, errlen, "%s: not valid JSON: line %d, column %d: %s", what,
			error.line, error.column, error.text);
		return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EINVAL;
	}
	*ret_json = json;
	return 0;
}

static int parse_messages(const char *text, json_t **ret_json, char *err, size_t errlen)
{
	_cleanup_json_ json_t *messages = NULL;
	json_t *message;
	size_t i;
	int r;

	r = parse(text, "messages", &messages, err, errlen);
	if (r < 0)
		return r;
	if (!json_is_array(messages)) {
		snprintf(err, errlen,
			"messages must be a JSON array of objects with role and content");
		return -EINVAL;
	}
	json_array_foreach(messages, i, message) {
		if (!json_is_object(message) || !json_is_string(json_object_get(message, "role"))) {
			snprintf(err, errlen,
				"messages[%zu] must be an object with a string \"role\"", i);
			return -EINVAL;
		}
	}
	*ret_json = json_incref(messages);
	return 0;
}

static int add_tools(json_t *context, const char *text, char *err, size_t errlen)
{
	_cleanup_json_ json_t *tools = NULL;
	int r;

	/* none, but defined: templates tell "no tools" from "never heard of tools" */
	if (!text)
		return json_object_set_new(context, "tools", json_null()) < 0 ? -ENOMEM : 0;
	r = parse(text, "tools", &tools, err, errlen);
	if (r < 0)
		return r;
	if (!json_is_array(tools)) {
		snprintf(err, errlen, "tools must be a JSON array");
		return -EINVAL;
	}
	return json_object_set(context, "tools", tools) < 0 ? -ENOMEM : 0;
}

static int add_extra(json_t *context, const char *text, char *err, size_t errlen)
{
	_cleanup_json_ json_t *extra = NULL;
	int r;

	if (!text)
		return 0;
	r = parse(text, "extra variables of the chat template", &extra, err, errlen);
	if (r < 0)
		return r;
	if (!json_is_object(extra)) {
		snprintf(err, errlen, "extra variables of the chat template must be a JSON object");
		return -EINVAL;
	}
	return json_object_update(context, extra) < 0 ? -ENOMEM : 0;
}

static int add_token(json_t *context, const char *name, const char *token, char *err, size_t errlen)
{
	json_t *string;

	if (!token)
		return 0;
	string = json_string(token);
	if (!string) {
		snprintf(err, errlen, "%s is not UTF-8", name);
		return -EINVAL;
	}
	return json_object_set_new(context, name, string) < 0 ? -ENOMEM : 0;
}

static int fill_context(json_t *context, const char *messages_json,
	const struct chat_options *options, char *err, size_t errlen)
{
	_cleanup_json_ json_t *messages = NULL;
	int r;

	r = parse_messages(messages_json, &messages, err, errlen);
	if (r < 0)
		return r;
	if (json_object_set(context, "messages", messages) < 0
		|| json_object_set_new(context, "documents", json_null()) < 0
		|| json_object_set_new(context, "add_generation_prompt",
			   json_boolean(options->add_generation_prompt))
			< 0)
		return -ENOMEM;
	r = add_tools(context, options->tools_json, err, errlen);
	if (r == 0)
		r = add_token(context, "bos_token", options->bos_token, err, errlen);
	if (r == 0)
		r = add_token(context, "eos_token", options->eos_token, err, errlen);
	return r < 0 ? r : add_extra(context, options->extra_json, err, errlen);
}

int chat_render(const char *template, size_t template_len, const char *messages_json,
	const struct chat_options *options, char **ret_text, size_t *ret_len, char *err,
	size_t errlen)
{
	_cleanup_json_ json_t *context = json_object();
	char reason[512];
	int r;

	snprintf(err, errlen, "no memory to render the chat template");
	if (!context)
		return -ENOMEM;
	r = fill_context(context, messages_json, options, err, errlen);
	if (r < 0)
		return r;
	r = jinja_render(template, template_len, context, options->now, NULL, ret_text, ret_len,
		reason, sizeof(reason));
	if (r < 0)
		snprintf(err, errlen, "chat template, %s", reason);
	return r;
}
