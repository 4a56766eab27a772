/* main.c - kvd-mover: kvd's disposable child that touches page bytes.
 *
 * Started by kvd with its end of a socket pair as descriptor MOVER_FD; takes jobs one after
 * another, answers each (those of the spill file when the device has done them, compare jobs when its slow
 * thread has time for them, beside the others), ends when the socket closes or kvd dies.  Holds no state
 * that kvd could miss: kvd starts another one and sends the extents again.  Meant to be the first victim
 * when memory runs out. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvd/mover/device.h"
#include "kvd/mover/job.h"
#include "kvd/mover/move.h"
#include "kvd/mover/share_thread.h"
#include "kvd/mover/spill.h"

struct mover {
	struct move_window window;
	bool ready; /* SETUP has come */
	struct share_thread *share;
	struct spill_store *spill; /* NULL: no spill file */
	enum spill_io_kind spill_io;
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

/* False: kvd is gone.  A device that is lost to this process ends it before kvd believes an answer. */
static bool answer(const struct mover_reply *reply)
{
	ssize_t n;

	if (reply->error == DEVICE_LOST) {
		fputs("kvd-mover: the device is lost to this process\n", stderr);
		_exit(MOVER_EXIT_FAULT);
	}
	do
		n = send(MOVER_FD, reply, sizeof(*reply), MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n >= 0;
}

/* Messages without a reply.  An extent that cannot be mapped shows as -EINVAL of its first job. */
/* The spill file: from now on this process holds a key, and leaves no core behind. */
static void handle_spill_file(struct mover *mover, struct mover_job *job, int fd)
{
	struct rlimit none = { 0, 0 };
	const char *given = getenv("KVD_SPILL_IO");
	int r;

	if (!mover->ready || fd < 0 || mover->spill)
		fail("a spill file without set-up or descriptor, or a second one");
	(void)setrlimit(RLIMIT_CORE, &none);
	if (given && !strcmp(given, "threads"))
		mover->spill_io = SPILL_IO_THREADS;
	fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		fail("the spill file: %s", strerror(errno));
	r = spill_store_open(&mover->window, fd, job->file.bytes, job->file.key, mover->spill_io, &mover->spill);
	explicit_bzero(job->file.key, sizeof(job->file.key));
	if (r < 0)
		fprintf(stderr, "kvd-mover: the spill file cannot be used: %s\n", strerror(-r));
}

static void handle_setup(struct mover *mover, struct mover_job *job, int fd)
{
	char error[DEVICE_ERROR_MAX];
	int r;

	if (job->kind == MOVER_SETUP) {
		if (mover->ready)
			fail("set up twice");
		r = move_open_on(&mover->window, job->device.ordinal, job->device.uuid, job->geometry.extent_bytes,
				 job->n_extents, error);
		if (r < 0) {
			fprintf(stderr, "kvd-mover: %s\n", error);
			exit(MOVER_EXIT_NO_DEVICE);
		}
		r = share_thread_open(&mover->window, answer, &mover->share);
		if (r < 0)
			fail("no second thread: %s", strerror(-r));
		mover->ready = true;
		return;
	}
	if (job->kind == MOVER_SPILL_FILE) {
		handle_spill_file(mover, job, fd);
		return;
	}
	if (!mover->ready || fd < 0)
		fail("extent %u without set-up or descriptor", job->target);
	r = move_map(&mover->window, job->target, fd);
	if (r == DEVICE_LOST)
		exit(MOVER_EXIT_FAULT);
	if (r < 0)
		fprintf(stderr, "kvd-mover: extent %u cannot be mapped: %s\n", job->target,
			strerror(-r));
}

static bool handle(struct mover *mover, struct mover_job *job, int fd)
{
	struct mover_reply reply;

	if (job->kind == MOVER_SETUP || job->kind == MOVER_EXTENT || job->kind == MOVER_SPILL_FILE) {
		handle_setup(mover, job, fd);
		return true;
	}
	if (!mover->ready)
		fail("job before set-up");
	if (job->kind == MOVER_SPILL || job->kind == MOVER_FETCH) {
		if (mover->spill) {
			spill_store_job(mover->spill, job);
			return true;
		}
		reply = (struct mover_reply){ .cookie = job->cookie, .error = -ENXIO, .differs = 1 };
	} else if (job->kind == MOVER_COMPARE_COPY || job->kind == MOVER_COVER) {
		if (job->kind == MOVER_COVER)
			move_cover(&mover->window, job);
		if (share_thread_job(mover->share, job) == 0)
			return true;
		reply = (struct mover_reply){ .cookie = job->cookie, .error = -EBUSY };
	} else {
		if (job->kind == MOVER_FLUSH)
			share_thread_flush(mover->share);
		move_run(&mover->window, job, &reply);
	}
	return answer(&reply);
}

/* Wait until kvd speaks, answering for the spill file meanwhile.  False: kvd is gone. */
static bool wait_for_job(struct mover *mover)
{
	struct mover_reply reply;

	while (mover->spill) {
		struct pollfd fds[2] = { { .fd = MOVER_FD, .events = POLLIN },
					 { .fd = spill_store_fd(mover->spill), .events = POLLIN } };

		while (spill_store_next(mover->spill, &reply))
			if (!answer(&reply))
				return false;
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			fail("poll: %s", strerror(errno));
		if (fds[0].revents)
			return true;
	}
	return true;
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
	while (wait_for_job(&mover)) {
		struct mover_job job;
		int fd;
		ssize_t n = receive(&job, &fd);
		bool more;

		if (n <= 0)
			return 0;
		if (n != sizeof(job))
			fail("job of %zd bytes; kvd and kvd-mover are of two builds", n);
		more = handle(&mover, &job, fd);
		if (fd >= 0)
			close(fd);
		if (!more)
			return 0;
	}
	return 0;
}
