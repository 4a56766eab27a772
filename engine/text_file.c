/* text_file.c - read a file whole, make token ids of it.  Bounded, no state, any thread. */
#include "engine/text_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_FILE_MAX (64u << 20)  /* bytes; far above any context */

static int read_file(const char *path, char **ret_text, size_t *ret_n, char *err, size_t errlen)
{
	FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
	size_t n = 0, capacity = 65536;
	char *text = NULL;
	int r = 0;

	if (!file) {
		r = -errno;
		snprintf(err, errlen, "%s: %s", path, strerror(errno));
		return r;
	}
	while (r == 0) {
		char *larger = realloc(text, capacity);
		if (!larger) {
			r = -ENOMEM;
			break;
		}
		text = larger;
		n += fread(text + n, 1, capacity - n, file);
		if (n < capacity)
			break;
		capacity *= 2;
		if (capacity > TEXT_FILE_MAX)
			r = -EFBIG;
	}
	if (r == 0 && ferror(file))
		r = -EIO;
	if (file != stdin)
		fclose(file);
	if (r < 0) {
		snprintf(err, errlen, "%s: %s", path, strerror(-r));
		free(text);
		return r;
	}
	*ret_text = text;
	*ret_n = n;
	return 0;
}

static int parse_ids(const char *path, const char *text, size_t n, uint32_t n_vocab, int32_t *ids,
		     size_t *ret_n, char *err, size_t errlen)
{
	size_t n_ids = 0, at = 0;

	while (at < n) {
		uint64_t id = 0;
		size_t start = at;
		if (strchr(" \t\r\n,[]", text[at]) && text[at]) {
			at++;
			continue;
		}
		while (at < n && text[at] >= '0' && text[at] <= '9' && at - start < 10)
			id = id * 10 + (uint64_t)(text[at++] - '0');
		if (at == start) {
			snprintf(err, errlen, "%s: byte %zu is not part of a list of token ids",
				 path, at);
			return -EINVAL;
		}
		if (id >= n_vocab) {
			snprintf(err, errlen, "%s: token %zu is %llu; the model's ids end at %u",
				 path, n_ids, (unsigned long long)id, n_vocab - 1);
			return -EINVAL;
		}
		ids[n_ids++] = (int32_t)id;
	}
	*ret_n = n_ids;
	return 0;
}

int text_file_tokens(const char *path, uint32_t n_vocab, int32_t **ret_tokens, size_t *ret_n,
		     char *err, size_t errlen)
{
	char *text;
	size_t n;
	int32_t *ids;
	int r = read_file(path, &text, &n, err, errlen);

	if (r < 0)
		return r;
	ids = malloc((n / 2 + 1) * sizeof(*ids));      /* an id and its separator take two bytes */
	if (!ids) {
		snprintf(err, errlen, "%s: no memory", path);
		r = -ENOMEM;
	} else {
		r = parse_ids(path, text, n, n_vocab, ids, ret_n, err, errlen);
	}
	free(text);
	if (r < 0)
		free(ids);
	else
		*ret_tokens = ids;
	return r;
}

int text_file_encode(const char *path, const struct tokenizer *t, int32_t **ret_tokens,
		     size_t *ret_n, char *err, size_t errlen)
{
	char *text;
	size_t n, room;
	int32_t *ids;
	int r = read_file(path, &text, &n, err, errlen);

	if (r < 0)
		return r;
	room = TOKENIZER_IDS_ROOM(n);
	ids = malloc(room * sizeof(*ids));
	r = ids ? tokenizer_encode(t, text, n, tokenizer_adds_bos(t) ? TOKENIZER_ADD_BOS : 0, ids,
				   room, ret_n)
		: -ENOMEM;
	free(text);
	if (r < 0) {
		snprintf(err, errlen, "%s: cannot be tokenised: %s", path, strerror(-r));
		free(ids);
		return r;
	}
	*ret_tokens = ids;
	return 0;
}
