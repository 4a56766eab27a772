/* fuzz_kvrun_arguments.c - kvrun's command line: words separated by newlines; refused with a
 * sentence or in range. */
#include "client/kvrun/kvrun.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WORDS_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kvrun_options o;
	char *argv[WORDS_MAX + 2] = { "kvrun" }, error[256];
	int argc = 1;

	char *line = malloc(size + 1);
	if (!line)
		return 0;
	memcpy(line, data, size);
	line[size] = '\0';
	for (char *word = line; word && argc <= WORDS_MAX; ) {
		argv[argc++] = word;
		word = strchr(word, '\n');
		if (word)
			*word++ = '\0';
	}
	int r = kvrun_arguments(argc, argv, &o, error, sizeof(error));
	if (r != 0 && (r != 2 || error[0] == '\0' || strlen(error) >= sizeof(error)))
		abort();
	if (r == 0) {
		size_t stops = 0;
		for (uint32_t i = 0; i < o.request.n_stop; i++)
			stops += strlen(o.request.stop[i]) + 1;
		if (o.n_words > 2 || stops > 256 || !isfinite(o.request.temperature) ||
		    o.request.temperature < 0 || !(o.request.top_p > 0 && o.request.top_p <= 1) ||
		    !(o.request.repeat_penalty > 0))
			abort();
	}
	free(line);
	return 0;
}
