/* listen.c - see listen.h.  Start and end only. */
#include "kvd/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include "kvd/sentence.h"

#define LISTEN_BACKLOG 1024 /* the kernel cuts it to net.core.somaxconn */

#define fail(error, ...) sentence(error, LISTEN_ERROR_MAX, __VA_ARGS__)

int listen_path(const char *given, char ret[LISTEN_PATH_MAX], char error[LISTEN_ERROR_MAX])
{
	const char *environment = getenv("KVD_SOCKET"), *runtime = getenv("XDG_RUNTIME_DIR");
	char directory[LISTEN_PATH_MAX];
	int n;

	if (given && *given)
		n = snprintf(ret, LISTEN_PATH_MAX, "%s", given);
	else if (environment && *environment)
		n = snprintf(ret, LISTEN_PATH_MAX, "%s", environment);
	else if (getuid() == 0)
		n = snprintf(ret, LISTEN_PATH_MAX, "/run/kvd/kvd.sock");
	else if (runtime && *runtime)
		n = snprintf(ret, LISTEN_PATH_MAX, "%s/kvd/kvd.sock", runtime);
	else
		return fail(
			error, -ENOENT,
			"no place for the socket: $XDG_RUNTIME_DIR is not set; give --socket PATH");
	if (n >= LISTEN_PATH_MAX)
		return fail(error, -ENAMETOOLONG,
			    "the socket's path is longer than %d bytes; give a shorter --socket",
			    LISTEN_PATH_MAX - 1);
	if ((given && *given) || (environment && *environment))
		return 0;
	snprintf(directory, sizeof(directory), "%s", ret);
	*strrchr(directory, '/') = '\0';
	/* Every user of the host may connect to root's kvd; a user's own is the user's. */
	if (mkdir(directory, getuid() == 0 ? 0755 : 0700) < 0 && errno != EEXIST)
		return fail(error, -errno, "%s cannot be made: %s; give --socket PATH", directory,
			    strerror(errno));
	return 0;
}

/* Has the process that listens behind a connected socket ended?  The ring of a kvd that was killed
 * keeps its listening socket for some milliseconds longer than the process lives (our tests meet
 * it). */
static bool listener_ended(int fd)
{
	struct ucred credentials;
	socklen_t size = sizeof(credentials);
	struct pollfd process = { .events = POLLIN };
	bool ended;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0 ||
	    credentials.pid <= 0)
		return false;
	process.fd = (int)syscall(SYS_pidfd_open, credentials.pid, 0);
	if (process.fd < 0)
		return errno == ESRCH;
	ended = poll(&process, 1, 0) > 0;
	close(process.fd);
	return ended;
}

/* Does anybody answer at the address?  Then its socket file is not stale. */
static bool answers(const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool yes;

	if (fd < 0)
		return true;
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
		yes = !listener_ended(fd);
	else
		yes = errno == EAGAIN; /* a full backlog is somebody */
	close(fd);
	return yes;
}

/* Two kvds that start at once must not take each other's socket for stale: the directory is locked from the
 * question to the answer.  No file is left, and who may not read the directory goes on without.  A second is
 * more than the other needs; a stranger that holds the lock of /tmp delays us by no more than that. */
int listen_lock_directory(const char *path)
{
	char directory[LISTEN_PATH_MAX];
	char *slash;
	int fd;

	snprintf(directory, sizeof(directory), "%s", path);
	slash = strrchr(directory, '/');
	if (slash)
		slash[slash == directory] = '\0';
	fd = open(slash ? directory : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (unsigned i = 0; i < 100 && fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0; i++)
		(void)poll(NULL, 0, 10);
	return fd;
}

static int bind_path(const char *path, struct listen_socket *ret, char error[LISTEN_ERROR_MAX])
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct stat st;
	bool bound;
	int r;

	strcpy(address.sun_path, path);
	strcpy(ret->path, path);
	if (lstat(path, &st) == 0) {
		if (!S_ISSOCK(st.st_mode))
			return fail(error, -EEXIST,
				    "%s is there and is no socket; remove it or give another --socket", path);
		if (answers(&address))
			return fail(error, -EADDRINUSE,
				    "another kvd answers at %s; end it or give another --socket", path);
		(void)unlink(path);
	}
	ret->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (ret->fd < 0)
		return fail(error, -errno, "no socket: %s", strerror(errno));
	/* Any user may connect: the directory decides who gets here, the kernel says who it is. */
	bound = bind(ret->fd, (struct sockaddr *)&address, sizeof(address)) == 0;
	if (!bound || chmod(path, 0666) < 0 || listen(ret->fd, LISTEN_BACKLOG) < 0 || lstat(path, &st) < 0) {
		r = fail(error, -errno, "cannot listen at %s: %s; give another --socket", path,
			 strerror(errno));
		if (bound)
			(void)unlink(path);
		close(ret->fd);
		ret->fd = -1;
		return r;
	}
	ret->ours = true;
	ret->device = st.st_dev;
	ret->inode = st.st_ino;
	return 0;
}

int listen_open(const char *path, struct listen_socket *ret, char error[LISTEN_ERROR_MAX])
{
	int r, lock;

	*ret = (struct listen_socket){ .fd = -1 };
	if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return fail(error, -ENAMETOOLONG, "the socket's path is too long; give a shorter --socket");
	lock = listen_lock_directory(path);
	r = bind_path(path, ret, error);
	if (lock >= 0)
		close(lock);
	return r;
}

void listen_name(const struct listen_socket *socket, char *ret, size_t bytes)
{
	snprintf(ret, bytes, "listen.%llx.%llx", (unsigned long long)socket->device,
		 (unsigned long long)socket->inode);
}

int listen_adopt(const char *path, const char *name, int fd, struct listen_socket *ret)
{
	unsigned long long device, inode;
	struct stat st;

	*ret = (struct listen_socket){ .fd = -1 };
	if (strlen(path) < sizeof(ret->path) && sscanf(name, "listen.%llx.%llx", &device, &inode) == 2 &&
	    lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_dev == device && st.st_ino == inode &&
	    /* Once more: who connects from now on is told our process, not the dead one's. */
	    listen(fd, LISTEN_BACKLOG) == 0) {
		*ret = (struct listen_socket){ .fd = fd, .ours = true, .device = st.st_dev, .inode = st.st_ino };
		strcpy(ret->path, path);
		return 0;
	}
	close(fd);
	return -ESTALE;
}

void listen_close(struct listen_socket *socket)
{
	struct stat st;

	if (socket->fd < 0)
		return;
	if (socket->ours && lstat(socket->path, &st) == 0 && st.st_dev == socket->device &&
	    st.st_ino == socket->inode)
		(void)unlink(socket->path);
	close(socket->fd);
	socket->fd = -1;
}
