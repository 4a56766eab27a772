/* tokenize.c - ids for texts, for tests that compare with another tokenizer.
 *
 *     tokenize FILE.gguf [special] [bos] <lines >lines
 *
 * Each input line is one text in hexadecimal; each output line its ids, separated by spaces. */
#include "engine/gguf.h"
#include "engine/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int hex(int c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int main(int argc, char **argv)
{
	char err[512], *line = NULL;
	struct tokenizer *t;
	struct gguf *g;
	size_t room = 0;
	ssize_t len;
	unsigned flags = 0;

	if (argc < 2) {
		fprintf(stderr, "usage: tokenize FILE.gguf [special] [bos] <hex lines\n");
		return 2;
	}
	for (int i = 2; i < argc; i++)
		flags |= !strcmp(argv[i], "special") ? TOKENIZER_PARSE_SPECIAL : TOKENIZER_ADD_BOS;
	if (gguf_open(argv[1], &g, err, sizeof err)) {
		fprintf(stderr, "%s\n", err);
		return 1;
	}
	if (tokenizer_new(g, &t, err, sizeof err)) {
		fprintf(stderr, "%s\n", err);
		gguf_close(g);
		return 1;
	}
	while ((len = getline(&line, &room, stdin)) >= 0) {
		size_t n = (size_t)len / 2, n_ids = 0;
		char *text = malloc(n + 1);
		int32_t *ids = malloc(TOKENIZER_IDS_ROOM(n) * sizeof *ids);

		if (!text || !ids)
			return 1;
		for (size_t i = 0; i < n; i++)
			text[i] = (char)(hex(line[2 * i]) << 4 | hex(line[2 * i + 1]));
		if (tokenizer_encode(t, text, n, flags, ids, TOKENIZER_IDS_ROOM(n), &n_ids))
			return 1;
		for (size_t i = 0; i < n_ids; i++)
			printf(i ? " %d" : "%d", ids[i]);
		putchar('\n');
		free(text);
		free(ids);
	}
	free(line);
	tokenizer_free(t);
	gguf_close(g);
	return 0;
}
