/* replay.c - feed files to a fuzz target without a fuzzer: any compiler, any sanitizer.
 *
 *     replay_X DIRECTORY|FILE...
 *
 * Gives each file (of a directory: each regular file in it, in order of name) to
 * LLVMFuzzerTestOneInput() in a buffer of exactly its size, so that a sanitizer sees the first byte
 * read beyond.  Exit 0 when all were fed and at least one was; a finding ends the process. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned n_fed;

static int feed_file(const char *path, size_t size)
{
	uint8_t *data = malloc(size ? size : 1);
	FILE *f = fopen(path, "rb");
	size_t n = 0;

	if (f && data) {
		n = fread(data, 1, size, f);
		/* stderr is unbuffered: after a crash the last line names the culprit */
		fprintf(stderr, "%s\n", path);
		LLVMFuzzerTestOneInput(data, n);
		n_fed++;
	} else {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
	}
	if (f)
		fclose(f);
	free(data);
	return f && n == size ? 0 : -1;
}

static int feed(const char *path)
{
	struct dirent **names;
	struct stat st;
	int n, rc = 0;

	if (stat(path, &st)) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return -1;
	}
	if (!S_ISDIR(st.st_mode))
		return feed_file(path, (size_t)st.st_size);
	n = scandir(path, &names, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		char child[PATH_MAX];

		snprintf(child, sizeof child, "%s/%s", path, names[i]->d_name);
		if (!stat(child, &st) && S_ISREG(st.st_mode) &&
		    feed_file(child, (size_t)st.st_size))
			rc = -1;
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	return n < 0 ? -1 : rc;
}

int main(int argc, char **argv)
{
	int rc = 0;

	for (int i = 1; i < argc; i++)
		if (feed(argv[i]))
			rc = 1;
	fprintf(stderr, "replayed %u inputs\n", n_fed);
	return rc || !n_fed;
}
