/* fuzz_jinja - a template, and after an optional zero byte the JSON object of its variables.
 * Limits are small so that one input takes milliseconds; what is sought is a crash or a hang. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "engine/jinja/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char variables[] = "{\"messages\": [{\"role\": \"system\", \"content\": \"be "
				"brief\"}, {\"role\": \"user\", \"content\": \"\\u00e9 {{ x }}\"},"
				" {\"role\": \"assistant\", \"content\": null, \"tool_calls\": "
				"[{\"id\": \"abcdefghi\", \"function\": {\"name\": \"f\","
				" \"arguments\": {\"a\": 1, \"b\": [1.5, true, null]}}}]}], \"n\": "
				"7, \"x\": 2.5, \"s\": \"Hello World\","
				" \"l\": [3, 1, 2], \"d\": {\"b\": 1, \"a\": {\"c\": []}}, "
				"\"add_generation_prompt\": true, \"bos_token\": \"<s>\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct jinja_limits limits = { .template_bytes = 64 << 10,
		.memory_bytes = 4 << 20,
		.output_bytes = 256 << 10,
		.steps = 100 * 1000,
		.depth = 200 };
	const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
	size_t n = zero ? (size_t)(zero - data) : size;
	json_t *context = zero
		? json_loadb((const char *)zero + 1, size - n - 1, JSON_ALLOW_NUL, NULL)
		: NULL;
	char *text = NULL, err[256];
	size_t length;

	if (!json_is_object(context)) {
		json_decref(context);
		context = json_loads(variables, 0, NULL);
	}
	if (jinja_render((const char *)data, n, context, 1732444800, &limits, &text, &length, err,
		    sizeof(err))
		== 0)
		free(text);
	json_decref(context);
	return 0;
}
