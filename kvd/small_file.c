/* small_file.c - see small_file.h. */
#include "kvd/small_file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int small_file_read(const char *path, char *text, size_t max)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), r;
	size_t n = 0;

	if (fd < 0)
		return -errno;
	do {
		r = (int)read(fd, text + n, max - 1 - n);
		n += r > 0 ? (size_t)r : 0;
	} while ((r > 0 && n < max - 1) || (r < 0 && errno == EINTR));
	r = r < 0 ? -errno : 0;
	close(fd);
	text[n] = '\0';
	return r;
}
