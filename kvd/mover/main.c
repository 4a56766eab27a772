/* main.c - kvd-mover: kvd's disposable child that touches page bytes.
 *
 * Started by kvd with its end of a socket pair as descriptor MOVER_FD; takes jobs one after
 * another, answers each, ends when the socket closes or kvd dies.  Holds no state that kvd could
 * miss: kvd starts another one and sends the extents again.  Meant to be the first victim when
 * memory runs out. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvd/mover/job.h"
#include "kvd/mover/move.h"

struct mover {
	struct move_window window;
	bool ready; /* SETUP has come */
};

__attribute__((noreturn, format(printf, 1, 2)))
static void fail(const char *format, ...)
{
	va_list args;

	fputs("kvd-mover: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static void be_disposable(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)prctl(PR_SET_NAME, "kvd-mover");
	if (fd >= 0) {
		(void)!write(fd, "1000", 4);
		close(fd);
	}
	signal(SIGINT, SIG_IGN); /* Ctrl-C reaches the whole group; kvd decides when we end */
	signal(SIGPIPE, SIG_IGN);
}

/* Receive one job: its size, 0 at the end.  *ret_fd: a descriptor that came with it, or -1. */
static ssize_t receive(struct mover_job *ret, int *ret_fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { ret, sizeof(*ret) };
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n;

	do
		n = recvmsg(MOVER_FD, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	*ret_fd = -1;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); n >= 0 && c; c = CMSG_NXTHDR(&message, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
		    c->cmsg_len == CMSG_LEN(sizeof(int)))
			memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
	return n;
}

/* Messages without a reply.  An extent that cannot be mapped shows as -EINVAL of its first job. */
static void handle_setup(struct mover *mover, const struct mover_job *job, int fd)
{
	int r;

	if (job->kind == MOVER_SETUP) {
		if (mover->ready)
			fail("set up twice");
		r = move_open(&mover->window, job->geometry.extent_bytes, job->n_extents);
		if (r < 0)
			fail("cannot reserve %u extents of %llu bytes: %s", job->n_extents,
			     (unsigned long long)job->geometry.extent_bytes, strerror(-r));
		mover->ready = true;
		return;
	}
	if (!mover->ready || fd < 0)
		fail("extent %u without set-up or descriptor", job->target);
	r = move_map(&mover->window, job->target, fd);
	if (r < 0)
		fprintf(stderr, "kvd-mover: extent %u cannot be mapped: %s\n", job->target,
			strerror(-r));
}

int main(int argc, char **argv)
{
	struct mover mover = { 0 };
	struct stat st;

	if (argc > 1 || fstat(MOVER_FD, &st) < 0 || !S_ISSOCK(st.st_mode)) {
		fputs("kvd-mover is started by kvd; it has no options\n", stderr);
		return 2;
	}
	be_disposable();
	for (;;) {
		struct mover_job job;
		struct mover_reply reply;
		int fd;
		ssize_t n = receive(&job, &fd);

		if (n <= 0)
			return 0;
		if (n != sizeof(job))
			fail("job of %zd bytes; kvd and kvd-mover are of two builds", n);
		if (job.kind == MOVER_SETUP || job.kind == MOVER_EXTENT) {
			handle_setup(&mover, &job, fd);
		} else {
			if (!mover.ready)
				fail("job before set-up");
			move_run(&mover.window, &job, &reply);
			do
				n = send(MOVER_FD, &reply, sizeof(reply), MSG_NOSIGNAL);
			while (n < 0 && errno == EINTR);
			if (n < 0)
				return 0;
		}
		if (fd >= 0)
			close(fd);
	}
}
