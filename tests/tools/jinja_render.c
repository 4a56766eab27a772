/* jinja_render - renders for the Python oracles: one JSON object per line of stdin,
 * {"template": text, "context": object, "now": seconds}, one object per line of stdout,
 * {"text": ...} or {"error": sentence, "code": errno}. */
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "engine/jinja/jinja.h"

static json_t *answer(const char *line, size_t n)
{
	json_error_t error;
	json_t *request = json_loadb(line, n, JSON_ALLOW_NUL, &error), *result;
	json_t *template = json_object_get(request, "template");
	char *text, sentence[512];
	size_t length;
	int r;

	if (!json_is_string(template)) {
		json_decref(request);
		return json_pack("{s:s, s:i}", "error", "bad request", "code", 0);
	}
	r = jinja_render(json_string_value(template), json_string_length(template),
		json_object_get(request, "context"),
		(time_t)json_integer_value(json_object_get(request, "now")), NULL, &text, &length,
		sentence, sizeof(sentence));
	json_decref(request);
	if (r < 0) {
		result = json_object();
		json_object_set_new(result, "error",
			json_string(sentence) ? json_string(sentence) : json_string("(not UTF-8)"));
		json_object_set_new(result, "code", json_integer(-r));
		return result;
	}
	result = json_pack("{s:o}", "text", json_stringn(text, length));
	free(text);
	return result;
}

int main(void)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t n;

	while ((n = getline(&line, &size, stdin)) > 0) {
		json_t *result = answer(line, (size_t)n);
		json_dumpf(result, stdout, JSON_COMPACT);
		json_decref(result);
		putchar('\n');
		fflush(stdout);
	}
	free(line);
	return 0;
}
