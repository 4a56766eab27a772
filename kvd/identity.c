/* identity.c - see identity.h.  Owns nothing.  Loop thread only: three small reads of /proc.
 *
 * A pid is a number that the kernel gives again.  The socket remembers the process itself
 * (SO_PEERPIDFD); its number is asked from that descriptor, the file of that number is read, and only
 * then do we ask whether the process still lives.  If it does, the number was its own all the time
 * and so was the file. */
#include "kvd/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kvd/small_file.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

#define CGROUP_TEXT_MAX 4096 /* a dozen lines of version 1, or one of 4,095 bytes */

int identity_parse_cgroup(const char *text, char ret[CONFIG_PATH_MAX])
{
	static const char systemd[] = "name=systemd:";
	const char *found = NULL;
	size_t n;

	for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		const char *controllers = memchr(line, ':', strcspn(line, "\n"));

		if (!strncmp(line, "0::", 3)) {
			found = line + 3;
			break;
		}
		if (controllers && !strncmp(controllers + 1, systemd, sizeof(systemd) - 1))
			found = controllers + sizeof(systemd);
	}
	if (!found)
		return -ENOENT;
	n = strcspn(found, "\n");
	if (n >= CONFIG_PATH_MAX)
		return -ENAMETOOLONG;
	/* "/../x": of another namespace of groups, whose names are not ours. */
	if (!n || found[0] != '/' || !strncmp(found, "/..", 3))
		return -ENOENT;
	memcpy(ret, found, n);
	ret[n] = '\0';
	return 0;
}

/* Number of a pidfd's process.  -ESRCH: it has ended; -ENOENT: of a pid namespace that we cannot see. */
static int pid_of(int pidfd, int *ret)
{
	char path[48], text[1024];
	const char *line;
	int r;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	r = small_file_read(path, text, sizeof(text));
	if (r < 0)
		return r;
	line = strstr(text, "Pid:\t");
	if (!line)
		return -ENOENT;
	*ret = atoi(line + 5);
	return *ret > 0 ? 0 : *ret < 0 ? -ESRCH : -ENOENT;
}

int identity_cgroup(int socket_fd, char ret[CONFIG_PATH_MAX])
{
	char path[48], text[CGROUP_TEXT_MAX];
	struct pollfd process = { .fd = -1, .events = POLLIN };
	socklen_t size = sizeof(process.fd);
	int pid, r;

	if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERPIDFD, &process.fd, &size) < 0)
		/* Reaped: the kernel has no descriptor to give (ESRCH, or EINVAL before 6.16). */
		return errno == EINVAL ? -ESRCH : -errno;
	r = pid_of(process.fd, &pid);
	if (r == 0) {
		snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
		r = small_file_read(path, text, sizeof(text));
		if (poll(&process, 1, 0) != 0)
			r = -ESRCH;
	}
	close(process.fd);
	return r < 0 ? r : identity_parse_cgroup(text, ret);
}
