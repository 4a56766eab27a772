/* prompt.c - texts of people: read from files and stdin, put into chat messages. */
#include "client/kvrun/kvrun.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int kvrun_read_all(int fd, const char *name, struct kvrun_text *ret)
{
	struct kvrun_text text = { 0 };
	size_t room = 0;

	for (;;) {
		if (text.n + 1 >= room) {
			char *grown = room < KVRUN_TEXT_MAX
					      ? realloc(text.bytes, room = room ? 2 * room : 65536)
					      : NULL;
			if (!grown) {
				fprintf(stderr,
					"kvrun: %s is longer than the %u MiB that a prompt can have\n",
					name, KVRUN_TEXT_MAX >> 20);
				free(text.bytes);
				return 1;
			}
			text.bytes = grown;
		}
		ssize_t n = read(fd, text.bytes + text.n, room - text.n - 1);
		if (n == 0)
			break;
		if (n > 0)
			text.n += (size_t)n;
		else if (errno != EINTR) {
			fprintf(stderr, "kvrun: cannot read %s: %s\n", name, strerror(errno));
			free(text.bytes);
			return 1;
		}
	}
	text.bytes[text.n] = '\0';
	*ret = text;
	return 0;
}

int kvrun_read_file(const char *path, struct kvrun_text *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		fprintf(stderr, "kvrun: cannot open %s: %s\n", path, strerror(errno));
		return 1;
	}
	int r = kvrun_read_all(fd, path, ret);
	close(fd);
	return r;
}

int kvrun_message(json_t *messages, const char *role, const char *text, size_t n)
{
	/* Chat messages travel as JSON, whose readers take no NUL; --raw carries any text. */
	if (memchr(text, '\0', n)) {
		fprintf(stderr,
			"kvrun: the %s text has a NUL byte; is it a text? remove it or use --raw\n",
			role);
		return 2;
	}
	errno = 0;
	json_t *content = json_stringn(text, n);
	if (!content && errno != ENOMEM) {
		fprintf(stderr, "kvrun: the %s text is not UTF-8; convert it first (iconv)\n",
			role);
		return 2;
	}
	json_t *message = json_pack("{s:s, s:o}", "role", role, "content", content);
	if (json_array_append_new(messages, message) == 0)
		return 0;
	fprintf(stderr, "kvrun: not enough memory for the %s text\n", role);
	return 1;
}
