/* mover_spawn.c - find and start kvd-mover.  Between fork() and execv() only async-signal-safe calls. */
#include "kvd/mover_link.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

pid_t mover_spawn(const char *path, int fd)
{
	pid_t parent = getpid(), pid = fork();
	char *const arguments[] = { (char *)"kvd-mover", NULL };
	sigset_t none;

	if (pid < 0)
		return -errno;
	if (pid > 0)
		return pid;

	/* Dies with us, also if we die before it runs. */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	if (fd == MOVER_FD) {
		if (fcntl(fd, F_SETFD, 0) < 0)
			_exit(1);
	} else if (dup2(fd, MOVER_FD) < 0) {
		_exit(1);
	}
	/* Everything of ours is CLOEXEC; this is the guard against what we inherited. */
	(void)close_range(MOVER_FD + 1, ~0u, 0);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	execv(path, arguments);
	_exit(127);
}

int mover_find(struct mover_link *link)
{
	const char *given = getenv("KVD_MOVER");
	ssize_t n;
	char *slash;

	if (given && *given) {
		if (snprintf(link->path, sizeof(link->path), "%s", given) >=
		    (int)sizeof(link->path))
			return -ENAMETOOLONG;
	} else {
		n = readlink("/proc/self/exe", link->path,
			     sizeof(link->path) - sizeof("kvd-mover"));
		if (n < 0)
			return -errno;
		link->path[n] = '\0';
		slash = strrchr(link->path, '/');
		strcpy(slash ? slash + 1 : link->path, "kvd-mover");
	}
	return access(link->path, X_OK) < 0 ? -errno : 0;
}
