/* fuzz_kvctl_arguments.c - kvctl's command line: words separated by newlines; refused with a sentence or in
 * range.  And the small languages in its words: prefixes, sizes, triggers. */
#include "client/kvctl/kvctl.h"

#include <stdlib.h>
#include <string.h>

#define WORDS_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void languages(const char *word)
{
	uint64_t id, bytes, number[8] = { 0 };
	struct kvctl_text text;

	if (kvctl_prefix_parse(word, &id)) {
		text = kvctl_prefix(id);
		uint64_t again;
		if (!kvctl_prefix_parse(text.s, &again) || again != id)
			abort();
	}
	if (kvctl_size_parse(word, &bytes) && bytes > 1ull << 60)
		abort();
	if (kvctl_trigger_parse(word, number) && number[0] > 1)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kvctl_line line = { .view = { .headers = true } };
	char *argv[WORDS_MAX + 2] = { "kvctl" };
	int argc = 1;

	char *text = malloc(size + 1);
	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	for (char *word = text; word && argc <= WORDS_MAX;) {
		argv[argc++] = word;
		word = strchr(word, '\n');
		if (word)
			*word++ = '\0';
		languages(argv[argc - 1]);
	}
	int r = kvctl_arguments(&line, argc, argv);
	if (r != 0 && (r != 2 || !line.error[0] || strlen(line.error) >= sizeof(line.error)))
		abort();
	if (r == 0 && !line.help && !line.version) {
		const struct kvctl_arguments *a = &line.view.arguments;
		if (!line.command || a->n_words < line.command->least || a->n_words > line.command->most ||
		    !(line.watch_seconds >= 0 && line.watch_seconds <= 86400) || !(a->seconds >= 0) ||
		    !(a->timeout_seconds >= 0))
			abort();
	}
	free(text);
	return 0;
}
