/* interrupt.c - Ctrl-C.
 *
 * While nothing is to be cancelled Ctrl-C ends the process: kvd sees the hang-up and takes
 * everything back.  While an answer is coming the handler writes to a pipe that the stream's poll()
 * watches, so that none is lost between a look and a wait; a second one ends the process whatever
 * it is doing. */
#include "client/kvrun/kvrun.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int pipe_fds[2] = { -1, -1 };
static volatile sig_atomic_t armed, pending;

static void on_interrupt(int sig)
{
	int saved = errno;
	(void)sig;
	if (!armed || pending)
		_exit(KVRUN_INTERRUPTED);
	pending = 1;
	ssize_t written = write(pipe_fds[1], "", 1);
	(void)written;   /* a full pipe is readable too */
	errno = saved;
}

int kvrun_interrupt_open(void)
{
	/* SA_RESTART: a write to a slow terminal goes on after the first Ctrl-C. */
	struct sigaction action = { .sa_handler = on_interrupt, .sa_flags = SA_RESTART };

	if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0) {
		fprintf(stderr, "kvrun: cannot make a pipe: %s\n", strerror(errno));
		return 1;
	}
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	/* Who reads us may go; then writing fails, and the sequence is cancelled. */
	signal(SIGPIPE, SIG_IGN);
	return 0;
}

void kvrun_interrupt_arm(void)
{
	armed = 1;
}

void kvrun_interrupt_disarm(void)
{
	armed = 0;
}

int kvrun_interrupt_fd(void)
{
	return pipe_fds[0];
}

bool kvrun_interrupt_take(void)
{
	char bytes[16];
	while (read(pipe_fds[0], bytes, sizeof(bytes)) > 0)
		;
	bool was = pending != 0;
	pending = 0;
	return was;
}
