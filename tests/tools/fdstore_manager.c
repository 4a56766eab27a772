/* fdstore_manager.c - a stand-in for the service manager: one socket unit, one service with an fd store.
 *
 *   fdstore_manager SOCKET KVD ARGUMENT...
 *
 * Listens at SOCKET and starts KVD with it ($LISTEN_FDS, $LISTEN_FDNAMES) and a notification socket
 * ($NOTIFY_SOCKET, SOCKET.notify); keeps what KVD gives it (FDSTORE=1), lets go of what it is told to
 * (FDSTOREREMOVE=1) and of what hangs up (unless FDPOLL=0); when KVD is killed, starts it again with all
 * that.  SIGTERM ends KVD, then says what the store holds: "stored N" on stdout; 0 if KVD ended with 0.
 * SIGUSR2 is passed on to KVD, as RestartKillSignal= does, and KVD is started again.  Where there is a file
 * SOCKET.arm, the next KVD gets its lines as environment, and the file goes. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define STORE_MAX 1024

static struct { char name[256]; int fd; bool poll; } store[STORE_MAX];
static unsigned n_stored;

static int bind_at(const char *path, int type)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0), on = 1;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	(void)unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    (type == SOCK_SEQPACKET && listen(fd, 100) < 0) ||
	    (type == SOCK_DGRAM && setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)) {
		perror(path);
		exit(1);
	}
	return fd;
}

static void store_drop(unsigned i)
{
	close(store[i].fd);
	store[i] = store[--n_stored];
}

/* The value of KEY= in a notification; "" if it is not there. */
static const char *value_of(const char *text, const char *key, char *buffer, size_t bytes)
{
	const char *at = strstr(text, key);

	snprintf(buffer, bytes, "%s", at ? at + strlen(key) : "");
	buffer[strcspn(buffer, "\n")] = '\0';
	return buffer;
}

static void take_notification(int notify)
{
	union {
		char bytes[CMSG_SPACE(8 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} control;
	char text[4096], name[256], poll_text[8];
	struct iovec iov = { text, sizeof(text) - 1 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(notify, &message, MSG_CMSG_CLOEXEC);
	int fd = -1;

	if (n <= 0)
		return;
	text[n] = '\0';
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	(void)value_of(text, "FDNAME=", name, sizeof(name));
	if (strstr(text, "FDSTOREREMOVE=1")) {
		for (unsigned i = n_stored; i-- > 0;)
			if (!strcmp(store[i].name, name))
				store_drop(i);
	} else if (strstr(text, "FDSTORE=1") && fd >= 0 && n_stored < STORE_MAX) {
		strcpy(store[n_stored].name, name);
		store[n_stored].poll = strcmp(value_of(text, "FDPOLL=", poll_text, sizeof(poll_text)), "0") != 0;
		store[n_stored++].fd = fd;
		return;
	}
	if (fd >= 0)
		close(fd);
}

/* Notifications that lie there, then what has hung up. */
static void tidy(int notify)
{
	struct pollfd readable = { .fd = notify, .events = POLLIN };

	while (poll(&readable, 1, 0) > 0)
		take_notification(notify);
	for (unsigned i = n_stored; i-- > 0;) {
		struct pollfd stored = { .fd = store[i].fd };

		if (store[i].poll && poll(&stored, 1, 0) > 0)
			store_drop(i);
	}
}

static void arm(const char *socket_path)
{
	char path[128], line[512];
	FILE *file;

	snprintf(path, sizeof(path), "%s.arm", socket_path);
	file = fopen(path, "re");
	if (!file)
		return;
	unlink(path);
	while (fgets(line, sizeof(line), file)) {
		char *equals = strchr(line, '=');

		line[strcspn(line, "\n")] = '\0';
		if (equals) {
			*equals = '\0';
			setenv(line, equals + 1, 1);
		}
	}
	fclose(file);
}

static pid_t start(int listen_fd, const char *socket_path, const char *notify_path, char *const *argv)
{
	pid_t pid = fork();
	static char names[STORE_MAX * 16 + 64];
	char number[16];
	sigset_t none;
	int next = 3;

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Out of the way first, then one after the other from 3 on. */
	listen_fd = fcntl(listen_fd, F_DUPFD, 4000);
	for (unsigned i = 0; i < n_stored; i++)
		store[i].fd = fcntl(store[i].fd, F_DUPFD_CLOEXEC, 4000);
	dup2(listen_fd, next++);
	close(listen_fd);
	strcpy(names, "kvd.socket");
	for (unsigned i = 0; i < n_stored; i++) {
		dup2(store[i].fd, next++);
		strcat(strcat(names, ":"), store[i].name);
	}
	for (int fd = next; fd < 4000; fd++)
		close(fd);
	snprintf(number, sizeof(number), "%d", getpid());
	setenv("LISTEN_PID", number, 1);
	snprintf(number, sizeof(number), "%d", next - 3);
	setenv("LISTEN_FDS", number, 1);
	setenv("LISTEN_FDNAMES", names, 1);
	setenv("NOTIFY_SOCKET", notify_path, 1);
	arm(socket_path);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execv(argv[0], argv);
	_exit(127);
}

/* Wait for kvd's end; returns its wait status. */
static int stop(pid_t pid, int notify, int signal_number)
{
	int status;

	kill(pid, signal_number);
	while (waitpid(pid, &status, WNOHANG) == 0) {
		tidy(notify);
		usleep(1000);
	}
	tidy(notify);
	return status;
}

int main(int argc, char **argv)
{
	char notify_path[128];
	int listen_fd, notify, signals, status = 0;
	sigset_t set;
	pid_t pid;

	if (argc < 3)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signals = signalfd(-1, &set, SFD_CLOEXEC);
	snprintf(notify_path, sizeof(notify_path), "%s.notify", argv[1]);
	listen_fd = bind_at(argv[1], SOCK_SEQPACKET);
	notify = bind_at(notify_path, SOCK_DGRAM);
	pid = start(listen_fd, argv[1], notify_path, argv + 2);
	for (bool over = false; !over;) {
		struct pollfd polled[] = { { .fd = notify, .events = POLLIN }, { .fd = signals, .events = POLLIN } };
		struct signalfd_siginfo info;

		(void)poll(polled, 2, -1);
		tidy(notify);
		if (!polled[1].revents || read(signals, &info, sizeof(info)) != sizeof(info))
			continue;
		over = info.ssi_signo == SIGTERM;
		if (over || info.ssi_signo == SIGUSR2)
			status = stop(pid, notify, (int)info.ssi_signo);
		else if (waitpid(pid, &status, WNOHANG) <= 0)
			continue;
		tidy(notify);
		if (!over)
			pid = start(listen_fd, argv[1], notify_path, argv + 2);
	}
	printf("stored %u\n", n_stored);
	unlink(argv[1]);
	unlink(notify_path);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
