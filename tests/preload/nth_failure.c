/* nth_failure.c - LD_PRELOAD library: one call of a program fails, every other call works.
 *
 *   NTH_PROGRAM  the program meant, by the name it was started with; its children are left alone
 *   NTH_CALL     the number of the call that fails (counting all calls wrapped here, from 1), or
 *   NTH_SITE     "module+0xoffset" of the call that fails, the first time that it is made
 *   NTH_KILL     the call does not fail: the program is killed before it makes it (SIGKILL)
 *   NTH_FIRED    file that then gets one line: "NUMBER FUNCTION SITE"
 *   NTH_TRACE    file that gets such a line for every call
 *
 * An allocation fails with ENOMEM, a system call with what it may really meet (EMFILE, ENOSPC,
 * ENOBUFS, EAGAIN, EIO).  The site is the return address: each line of the program that allocates
 * or asks the kernel is one.  Calls that libraries make count as well. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* glibc's own names: ours may be called before anything can be looked up. */
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t n, size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

#define WRAPPED __attribute__((visibility("default")))

static bool armed;
static uint64_t fail_call, n_calls;
static uint64_t fail_offset;
static char fail_module[64];
static int trace_fd = -1;
static bool fired;

static void describe(int fd, uint64_t number, const char *function, const void *site)
{
	char line[256];
	Dl_info info;
	int n;

	if (!dladdr(site, &info) || !info.dli_fname)
		info = (Dl_info){ .dli_fname = "?" };
	const char *slash = strrchr(info.dli_fname, '/');
	n = snprintf(line, sizeof(line), "%llu %s %s+%#llx\n", (unsigned long long)number, function,
		     slash ? slash + 1 : info.dli_fname,
		     (unsigned long long)((uintptr_t)site - (uintptr_t)info.dli_fbase));
	if (n > 0)
		(void)!syscall(SYS_write, fd, line, (size_t)n);
}

static bool is_site(const void *site)
{
	Dl_info info;

	if (!dladdr(site, &info) || !info.dli_fname)
		return false;
	const char *slash = strrchr(info.dli_fname, '/');
	return !strcmp(slash ? slash + 1 : info.dli_fname, fail_module) &&
	       (uintptr_t)site - (uintptr_t)info.dli_fbase == fail_offset;
}

/* Does this call fail?  errno is set then. */
static bool fails(const char *function, const void *site, int error)
{
	static __thread bool inside;       /* dladdr() and snprintf() may allocate */
	bool fail;
	uint64_t number;
	int saved = errno;

	if (!armed || inside)
		return false;
	inside = true;
	number = __atomic_add_fetch(&n_calls, 1, __ATOMIC_RELAXED);
	if (trace_fd >= 0)
		describe(trace_fd, number, function, site);
	fail = number == fail_call || (fail_module[0] && is_site(site));
	fail = fail && !__atomic_exchange_n(&fired, true, __ATOMIC_RELAXED);
	if (fail && getenv("NTH_FIRED")) {
		int fd = (int)syscall(SYS_openat, AT_FDCWD, getenv("NTH_FIRED"),
				      O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		describe(fd, number, function, site);
		syscall(SYS_close, fd);
	}
	if (fail && getenv("NTH_KILL"))
		syscall(SYS_kill, (pid_t)syscall(SYS_getpid), SIGKILL);
	inside = false;
	errno = fail ? error : saved;
	return fail;
}

static __attribute__((constructor)) void arm(void)
{
	const char *program = getenv("NTH_PROGRAM"), *call = getenv("NTH_CALL"),
		   *site = getenv("NTH_SITE"), *trace = getenv("NTH_TRACE");

	if (!program || strcmp(program, program_invocation_short_name))
		return;
	if (call)
		fail_call = strtoull(call, NULL, 10);
	if (site) {
		const char *plus = strrchr(site, '+');
		if (plus && (size_t)(plus - site) < sizeof(fail_module)) {
			memcpy(fail_module, site, (size_t)(plus - site));
			fail_offset = strtoull(plus + 1, NULL, 16);
		}
	}
	if (trace)
		trace_fd = (int)syscall(SYS_openat, AT_FDCWD, trace,
					O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	armed = true;
}

/* A child between fork() and exec() is not the program meant. */
WRAPPED pid_t fork(void)
{
	static pid_t (*real)(void);
	pid_t pid;

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "fork");
	if (fails("fork", __builtin_return_address(0), EAGAIN))
		return -1;
	pid = real();
	if (pid == 0)
		armed = false;
	return pid;
}

/* ---- allocation ---- */
#define SITE __builtin_return_address(0)

WRAPPED void *malloc(size_t bytes)
{
	return fails("malloc", SITE, ENOMEM) ? NULL : __libc_malloc(bytes);
}

WRAPPED void *calloc(size_t n, size_t bytes)
{
	return fails("calloc", SITE, ENOMEM) ? NULL : __libc_calloc(n, bytes);
}

WRAPPED void *realloc(void *old, size_t bytes)
{
	return fails("realloc", SITE, ENOMEM) ? NULL : __libc_realloc(old, bytes);
}

WRAPPED void *aligned_alloc(size_t alignment, size_t bytes)
{
	return fails("aligned_alloc", SITE, ENOMEM) ? NULL : __libc_memalign(alignment, bytes);
}

WRAPPED int posix_memalign(void **ret, size_t alignment, size_t bytes)
{
	if (fails("posix_memalign", SITE, ENOMEM))
		return ENOMEM;
	void *p = __libc_memalign(alignment, bytes);
	if (!p)
		return ENOMEM;
	*ret = p;
	return 0;
}

WRAPPED int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
			   void *(*run)(void *), void *argument)
{
	static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
	return fails("pthread_create", SITE, EAGAIN) ? EAGAIN : real(thread, attributes, run, argument);
}

/* ---- system calls: TYPE NAME(PARAMETERS) fails with RESULT and ERROR ---- */
#define WRAP(type, name, result, error, parameters, arguments)                    \
	WRAPPED type name parameters                                              \
	{                                                                         \
		static type(*real) parameters;                                    \
		if (!real)                                                        \
			*(void **)&real = dlsym(RTLD_NEXT, #name);                \
		return fails(#name, SITE, error) ? (type)(result) : real arguments; \
	}

WRAP(void *, mmap, MAP_FAILED, ENOMEM, (void *a, size_t n, int p, int f, int fd, off_t o), (a, n, p, f, fd, o))
WRAP(int, madvise, -1, EAGAIN, (void *a, size_t n, int advice), (a, n, advice))
WRAP(int, memfd_create, -1, EMFILE, (const char *name, unsigned flags), (name, flags))
WRAP(int, ftruncate, -1, ENOSPC, (int fd, off_t n), (fd, n))
WRAP(int, fallocate, -1, ENOSPC, (int fd, int mode, off_t o, off_t n), (fd, mode, o, n))
WRAP(int, fchmod, -1, EPERM, (int fd, mode_t mode), (fd, mode))
WRAP(int, fstat, -1, ENOMEM, (int fd, struct stat *st), (fd, st))
WRAP(int, socket, -1, EMFILE, (int d, int t, int p), (d, t, p))
WRAP(int, socketpair, -1, EMFILE, (int d, int t, int p, int fds[2]), (d, t, p, fds))
WRAP(int, bind, -1, EADDRNOTAVAIL, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n))
WRAP(int, listen, -1, EADDRINUSE, (int fd, int n), (fd, n))
WRAP(int, connect, -1, EAGAIN, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n))
WRAP(int, accept4, -1, EMFILE, (int fd, struct sockaddr *a, socklen_t *n, int f), (fd, a, n, f))
WRAP(int, getsockopt, -1, ENOBUFS, (int fd, int l, int o, void *v, socklen_t *n), (fd, l, o, v, n))
WRAP(int, setsockopt, -1, ENOBUFS, (int fd, int l, int o, const void *v, socklen_t n), (fd, l, o, v, n))
WRAP(ssize_t, send, -1, ENOBUFS, (int fd, const void *p, size_t n, int f), (fd, p, n, f))
WRAP(ssize_t, sendmsg, -1, ENOBUFS, (int fd, const struct msghdr *m, int f), (fd, m, f))
WRAP(ssize_t, recv, -1, ENOMEM, (int fd, void *p, size_t n, int f), (fd, p, n, f))
WRAP(ssize_t, recvmsg, -1, ENOMEM, (int fd, struct msghdr *m, int f), (fd, m, f))
WRAP(ssize_t, read, -1, EIO, (int fd, void *p, size_t n), (fd, p, n))
WRAP(ssize_t, getrandom, -1, ENOSYS, (void *p, size_t n, unsigned f), (p, n, f))
WRAP(int, pipe2, -1, EMFILE, (int fds[2], int f), (fds, f))
WRAP(int, dup2, -1, EMFILE, (int from, int to), (from, to))
WRAP(int, signalfd, -1, EMFILE, (int fd, const sigset_t *s, int f), (fd, s, f))
WRAP(int, timerfd_create, -1, EMFILE, (int clock, int f), (clock, f))
WRAP(int, epoll_create1, -1, EMFILE, (int f), (f))
WRAP(int, epoll_ctl, -1, ENOMEM, (int e, int op, int fd, struct epoll_event *v), (e, op, fd, v))
WRAP(int, io_uring_queue_init_params, -ENOMEM, ENOMEM,
     (unsigned n, struct io_uring *r, struct io_uring_params *p), (n, r, p))
WRAP(int, io_uring_submit, -EAGAIN, EAGAIN, (struct io_uring *r), (r))

/* open() and fcntl() take a third argument of one machine word at most. */
WRAPPED int open(const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list list;

	va_start(list, flags);
	if (flags & (O_CREAT | O_TMPFILE))
		mode = va_arg(list, mode_t);
	va_end(list);
	if (fails("open", SITE, EMFILE))
		return -1;
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

WRAPPED int fcntl(int fd, int command, ...)
{
	unsigned long word;
	va_list list;

	va_start(list, command);
	word = va_arg(list, unsigned long);
	va_end(list);
	if (fails("fcntl", SITE, ENOMEM))
		return -1;
	return (int)syscall(SYS_fcntl, fd, command, word);
}

/* pidfd_open() has no function of its own in older C libraries. */
WRAPPED long syscall(long number, ...)
{
	static long (*real)(long, ...);
	unsigned long a[6];
	va_list list;

	va_start(list, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(list, unsigned long);
	va_end(list);
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "syscall");
	if (number == SYS_pidfd_open && fails("pidfd_open", SITE, EMFILE))
		return -1;
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
