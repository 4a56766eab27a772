/* process.c - see process.h.  Owns nothing; only process_kill() waits. */
#include "kvd/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvd/clock.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

/* Before 6.5 the number is all we have: it may have been reused before pidfd_open(), unless the socket
 * is still open afterwards. */
int process_of_socket(int socket_fd)
{
	int fd = -1;
	socklen_t size = sizeof(fd);
	struct pollfd still = { .fd = socket_fd, .events = POLLRDHUP };
	struct ucred credentials;

	if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERPIDFD, &fd, &size) == 0)
		return fd;
	size = sizeof(credentials);
	if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0)
		return -errno;
	if (credentials.pid <= 0)
		return -ESRCH;
	fd = (int)syscall(SYS_pidfd_open, credentials.pid, 0);
	if (fd < 0)
		return -errno;
	if (poll(&still, 1, 0) != 0) {
		close(fd);
		return -ESRCH;
	}
	return fd;
}

int process_number(int pidfd)
{
	char path[64], text[1024];
	const char *line;
	ssize_t n;
	int fd, number;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return -EIO;
	text[n] = '\0';
	line = strstr(text, "\nPid:");
	if (!line)
		return -EINVAL;
	number = atoi(line + 5);
	return number > 0 ? number : 0;
}

bool process_ended(int pidfd)
{
	struct pollfd process = { .fd = pidfd, .events = POLLIN };

	return poll(&process, 1, 0) > 0;
}

int process_kill(int pidfd, uint64_t timeout_usec)
{
	uint64_t until_usec = clock_now_usec() + timeout_usec;
	struct pollfd process = { .fd = pidfd, .events = POLLIN };

	if (process_number(pidfd) < 0)
		return -EINVAL;
	if (syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
		return -errno;
	while (poll(&process, 1, 10) <= 0)
		if (clock_now_usec() >= until_usec)
			return -ETIMEDOUT;
	return 0;
}
