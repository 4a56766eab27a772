/* keeper_link.c - kvd's side of the keeper: finds or starts it, takes over, gives to keep.
 *
 * Before READY it waits, with a deadline.  Afterwards never: a keeper that does not take what it is
 * sent (stopped, or gone) is left alone from then on and said so once; kvd goes on, and the next one
 * starts cold or without some engine, because the book says more than the bundle. */
#include "kvd/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvd/clock.h"
#include "kvd/listen.h"
#include "kvd/log.h"
#include "kvd/sentence.h"

/* A killed kvd's memory goes back in a second or two; a keeper answers at once. */
#define KEEPER_WAIT_USEC 10000000u
#define KEEPER_BUSY_TRIES 15u      /* a tenth of a second apart */

#define fail(error, ...) sentence(error, BUNDLE_ERROR_MAX, __VA_ARGS__)

/* A connected socket, or -errno; -EPERM: somebody else's keeper. */
static int connect_to(const struct sockaddr_un *address)
{
	struct ucred credentials;
	socklen_t size = sizeof(credentials);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error;

	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0) {
		/* A stranger could have made a socket of that name: its descriptors would be ours. */
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 &&
		    credentials.uid == geteuid())
			return fd;
		errno = EPERM;
	}
	error = errno;
	close(fd);
	return -error;
}

/* ---- starting it ---- */

/* In the child: only async-signal-safe calls.  A second fork, so that the keeper is nobody's child that
 * we would have to wait for. */
static void become_keeper(int listen_fd, char *path)
{
	char *const arguments[] = { (char *)"kvd-keeper", (char *)"--keeper-serve", path, NULL };
	sigset_t none;
	int nowhere;

	if (setsid() < 0)
		_exit(1);
	switch (fork()) {
	case -1: _exit(1);
	case 0: break;
	default: _exit(0);
	}
	nowhere = open("/dev/null", O_RDWR);
	if (nowhere < 0 || dup2(nowhere, 0) < 0 || dup2(nowhere, 1) < 0)
		_exit(1);
	if (listen_fd == KEEPER_FD ? fcntl(listen_fd, F_SETFD, 0) < 0 : dup2(listen_fd, KEEPER_FD) < 0)
		_exit(1);
	(void)close_range(KEEPER_FD + 1, ~0u, 0);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	execv("/proc/self/exe", arguments);
	_exit(127);
}

/* Bind the socket and start a keeper on it.  The caller has the directory's lock. */
static int start_keeper(const struct sockaddr_un *address, char error[BUNDLE_ERROR_MAX])
{
	char path[LISTEN_PATH_MAX];
	struct stat st;
	int fd, status;
	pid_t pid;

	if (lstat(address->sun_path, &st) == 0) {
		if (!S_ISSOCK(st.st_mode))
			return fail(error, -EEXIST, "%s is there and is no socket; remove it", address->sun_path);
		(void)unlink(address->sun_path);
	}
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fail(error, -errno, "no socket: %s", strerror(errno));
	/* The umask is 0077: nobody else's from the first moment. */
	if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ||
	    chmod(address->sun_path, 0600) < 0 || listen(fd, 8) < 0) {
		int r = fail(error, -errno, "cannot listen at %s: %s", address->sun_path, strerror(errno));

		close(fd);
		return r;
	}
	strcpy(path, address->sun_path);
	pid = fork();
	if (pid == 0)
		become_keeper(fd, path);
	close(fd);
	if (pid < 0)
		return fail(error, -errno, "cannot start the keeper: %s", strerror(errno));
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return 0;
}

static int find_keeper(const struct sockaddr_un *address, char error[BUNDLE_ERROR_MAX])
{
	int fd = connect_to(address), lock, r = 0;

	if (fd >= 0)
		return fd;
	if (fd == -EPERM)
		return fail(error, fd, "the keeper at %s is another user's; give another --socket",
			    address->sun_path);
	lock = listen_lock_directory(address->sun_path);
	fd = connect_to(address);
	if (fd < 0)
		r = start_keeper(address, error);
	if (lock >= 0)
		close(lock);
	if (fd < 0 && r == 0)
		fd = connect_to(address);
	if (r < 0)
		return r;
	return fd >= 0 ? fd : fail(error, fd, "no keeper at %s: %s", address->sun_path, strerror(-fd));
}

/* ---- taking over ---- */

/* One packet of what it lends.  1: more to come; 0: that was all; -errno and a sentence. */
static int take_one(struct bundle *bundle, char error[BUNDLE_ERROR_MAX])
{
	struct keeper_packet packet;
	int fds[KEEPER_BATCH], n = keeper_receive(bundle->keeper, &packet, fds, &(uint32_t){ 0 });

	if (n == -EAGAIN)
		return 1;
	if (n == 0)
		return fail(error, -ENOTCONN,
			    "the keeper at once hangs up; it is another version's or just ends: end it, then start "
			    "kvd again");
	if (n != sizeof(packet) || packet.magic != KEEPER_MAGIC)
		return fail(error, n < 0 ? n : -EPROTO,
			    "the keeper does not speak as this version does; end it, then start kvd again");
	if (packet.type == KEEPER_BUSY)
		return fail(error, -EBUSY, "another kvd (process %u) has the keeper; end it or give another --socket",
			    packet.pid);
	if (packet.type == KEEPER_END)
		return 0;
	for (uint32_t i = 0; packet.type == KEEPER_ITEMS && i < packet.n && i < KEEPER_BATCH; i++) {
		packet.names[i][BUNDLE_NAME_MAX - 1] = '\0';
		(void)bundle_add(bundle, packet.names[i], fds[i]);
	}
	return 1;
}

static int take_all(struct bundle *bundle, const struct sockaddr_un *address, char error[BUNDLE_ERROR_MAX])
{
	struct keeper_packet ask = { .magic = KEEPER_MAGIC, .type = KEEPER_TAKE };
	uint64_t until_usec = clock_now_usec() + KEEPER_WAIT_USEC;
	int r;

	bundle->keeper = find_keeper(address, error);
	if (bundle->keeper < 0)
		return bundle->keeper;
	r = keeper_send(bundle->keeper, &ask, NULL, 0);
	while (r == 0 && (r = take_one(bundle, error)) == 1) {
		struct pollfd readable = { .fd = bundle->keeper, .events = POLLIN };

		if (clock_now_usec() >= until_usec)
			return fail(error, -ETIMEDOUT,
				    "the keeper at %s waits for the kvd before this one, which does not end; "
				    "kill it", address->sun_path);
		(void)poll(&readable, 1, 100);
		r = 0;
	}
	return r == -EPIPE || r == -ECONNRESET ? -ENOTCONN : r;
}

int keeper_link_open(struct bundle *bundle, const char *socket_path, char error[BUNDLE_ERROR_MAX])
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int r = -ENOTCONN;

	if (snprintf(address.sun_path, sizeof(address.sun_path), "%s.keeper", socket_path) >=
	    (int)sizeof(address.sun_path))
		return fail(error, -ENAMETOOLONG, "%s.keeper is too long for a socket; give a shorter --socket",
			    socket_path);
	/* A keeper met in its last moment is gone in the next; a kvd that has just been killed takes a while to end,
	 * and until then it looks like any other. */
	for (unsigned i = 0; (i < 3 && r == -ENOTCONN) || (i < KEEPER_BUSY_TRIES && r == -EBUSY); i++) {
		if (bundle->keeper >= 0)
			close(bundle->keeper);
		bundle->keeper = -1;
		while (bundle->n_items)
			close(bundle->items[--bundle->n_items].fd);
		if (i)
			(void)poll(NULL, 0, 100);
		snprintf(error, BUNDLE_ERROR_MAX, "the keeper at %s has just ended; start kvd again",
			 address.sun_path);
		r = take_all(bundle, &address, error);
	}
	if (r == 0)
		bundle->kind = BUNDLE_KEEPER;
	return r;
}

/* ---- giving ---- */

static void give(struct bundle *bundle, const struct keeper_packet *packet, const int *fds, uint32_t n_fds)
{
	uint64_t until_usec = clock_now_usec() + KEEPER_WAIT_USEC;
	int r;

	if (bundle->broken)
		return;
	while ((r = keeper_send(bundle->keeper, packet, fds, n_fds)) == -EAGAIN && !bundle->started &&
	       clock_now_usec() < until_usec) {
		struct pollfd writable = { .fd = bundle->keeper, .events = POLLOUT };

		/* Descriptors in flight are limited, too: then the socket is writable all the time. */
		(void)poll(&writable, 1, 10);
		(void)poll(NULL, 0, 1);
	}
	if (r == 0)
		return;
	bundle->broken = true;
	log_error("keeper.lost error=\"%s\" remedy=\"if kvd dies now, it starts cold; restart it in order\"",
		  strerror(-r));
}

void keeper_link_keep(struct bundle *bundle, const struct bundle_item *items, uint32_t n)
{
	for (uint32_t done = 0; done < n;) {
		struct keeper_packet packet = { .magic = KEEPER_MAGIC, .type = KEEPER_ITEMS };
		int fds[KEEPER_BATCH];

		for (; done < n && packet.n < KEEPER_BATCH; done++) {
			memcpy(packet.names[packet.n], items[done].name, BUNDLE_NAME_MAX);
			fds[packet.n++] = items[done].fd;
		}
		give(bundle, &packet, fds, packet.n);
	}
}

void keeper_link_say(struct bundle *bundle, uint16_t type, const char *name)
{
	struct keeper_packet packet = { .magic = KEEPER_MAGIC, .type = type };

	if (name) {
		packet.n = 1;
		snprintf(packet.names[0], sizeof(packet.names[0]), "%s", name);
	}
	give(bundle, &packet, NULL, 0);
}

void keeper_link_release(struct bundle *bundle)
{
	struct pollfd ended = { .fd = bundle->keeper, .events = POLLIN };

	keeper_link_say(bundle, KEEPER_RELEASE, NULL);
	/* Gone before we are: who starts kvd next finds none, instead of one that ends. */
	if (!bundle->broken)
		(void)poll(&ended, 1, 1000);
}
