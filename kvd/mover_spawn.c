/* mover_spawn.c - start kvd-mover.  Between fork() and execv() only async-signal-safe calls. */
#include "kvd/mover_link.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
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
