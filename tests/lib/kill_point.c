/* kill_point.c - see kill_point.h. */
#include "tests/lib/kill_point.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)

/* Address of a function in the running process: nm's offset plus where the program lies; 0: unknown. */
static uint64_t address_of(pid_t pid, const char *function)
{
	char line[512], name[256], path[64];
	uint64_t offset = 0, base = 0, at;
	snprintf(line, sizeof(line), "nm /proc/%d/exe 2>/dev/null", (int)pid);
	FILE *f = popen(line, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx %*c %255s", &at, name) == 2 && !strcmp(name, function))
			offset = at;
	if (f)
		pclose(f);
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	f = fopen(path, "re");
	if (f && fgets(line, sizeof(line), f))
		sscanf(line, "%lx", &base);
	if (f)
		fclose(f);
	return offset && base ? base + offset : 0;
}

static uint64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* The next stop.  Returns its wait status, -ETIMEDOUT, or -ESRCH when the process has ended. */
static int next_stop(struct kill_point *p, uint64_t until_ms)
{
	for (;;) {
		int status;
		pid_t r = waitpid(p->pid, &status, WNOHANG | __WALL);
		if (r == p->pid && WIFSIGNALED(status))
			p->end_signal = WTERMSIG(status);
		if (r < 0 || (r == p->pid && (WIFEXITED(status) || WIFSIGNALED(status))))
			return -ESRCH;
		if (r == p->pid && WIFSTOPPED(status))
			return status;
		if (now_ms() >= until_ms)
			return -ETIMEDOUT;
		usleep(100);
	}
}

static int poke_byte(pid_t pid, uint64_t at, uint8_t byte, uint8_t *ret_old)
{
	errno = 0;
	long word = ptrace(PTRACE_PEEKTEXT, pid, (void *)at, NULL);
	if (word == -1 && errno)
		return -errno;
	if (ret_old)
		*ret_old = (uint8_t)word;
	word = (long)(((uint64_t)word & ~0xffull) | byte);
	return ptrace(PTRACE_POKETEXT, pid, (void *)at, (void *)word) < 0 ? -errno : 0;
}

/* One instruction.  Signals that arrive meanwhile are dropped but for those that end it. */
static int step(struct kill_point *p)
{
	if (ptrace(PTRACE_SINGLESTEP, p->pid, NULL, NULL) < 0)
		return -errno;
	int status = next_stop(p, now_ms() + 1000);   /* it may sleep in a system call */
	return status < 0 ? status : 0;
}

static void interrupt_and_leave(struct kill_point *p, uint64_t at, uint8_t old)
{
	if (ptrace(PTRACE_INTERRUPT, p->pid, NULL, NULL) == 0) {
		int status = next_stop(p, now_ms() + 2000);
		struct user_regs_struct regs;
		if (status > 0 && at) {
			poke_byte(p->pid, at, old, NULL);
			if (ptrace(PTRACE_GETREGS, p->pid, NULL, &regs) == 0 && regs.rip == at + 1) {
				regs.rip = at;       /* it had just hit the breakpoint */
				ptrace(PTRACE_SETREGS, p->pid, NULL, &regs);
			}
		}
	}
	ptrace(PTRACE_DETACH, p->pid, NULL, NULL);
}

/* Stops that were under way when it was killed are still reported. */
static int kill_stopped(struct kill_point *p)
{
	uint64_t until = now_ms() + 60000;           /* the kernel may have its rings to end first */
	int status;
	kill(p->pid, SIGKILL);
	do
		status = next_stop(p, until);
	while (status >= 0);
	return status == -ESRCH ? 0 : -EIO;
}

static int run_first_thread(struct kill_point *p)
{
	uint64_t until = now_ms() + p->timeout_ms, at = address_of(p->pid, p->function);
	struct user_regs_struct regs;
	uint8_t old;
	int status, r;
	if (!at)
		return -ENOENT;
	if (ptrace(PTRACE_SEIZE, p->pid, NULL, NULL) < 0)
		return -errno;
	if (ptrace(PTRACE_INTERRUPT, p->pid, NULL, NULL) < 0)
		return -errno;
	if ((status = next_stop(p, now_ms() + 5000)) < 0)
		return status;
	if ((r = poke_byte(p->pid, at, 0xcc, &old)) < 0)
		return r;
	int pass = 0;
	for (;;) {
		if (ptrace(PTRACE_CONT, p->pid, NULL, (void *)(intptr_t)pass) < 0)
			return -errno;
		pass = 0;
		status = next_stop(p, until);
		if (status == -ETIMEDOUT)
			interrupt_and_leave(p, at, old);
		if (status < 0)
			return status;
		if (status >> 16 == PTRACE_EVENT_STOP)
			continue;
		if (WSTOPSIG(status) != SIGTRAP) {
			pass = WSTOPSIG(status);
			continue;
		}
		if (ptrace(PTRACE_GETREGS, p->pid, NULL, &regs) < 0)
			return -errno;
		if (regs.rip != at + 1)
			continue;
		regs.rip = at;
		if (ptrace(PTRACE_SETREGS, p->pid, NULL, &regs) < 0)
			return -errno;
		if ((r = poke_byte(p->pid, at, old, NULL)) < 0)
			return r;
		if (++p->hits >= p->nth)
			break;
		if ((r = step(p)) < 0 || (r = poke_byte(p->pid, at, 0xcc, NULL)) < 0)
			return r;
	}
	for (unsigned i = 0; i < p->steps; i++) {
		r = step(p);
		if (r == -ETIMEDOUT)
			break;                       /* it waits in a system call: as good a place */
		if (r < 0)
			return r;
	}
	return kill_stopped(p);
}

/* Another thread is not traced: where it comes to the breakpoint, that is the process's end, there. */
static int run(struct kill_point *p)
{
	int status = run_first_thread(p);

	if (status == -ESRCH && !p->end_signal)
		(void)next_stop(p, now_ms() + 2000);    /* a call of ptrace noticed first */
	return status == -ESRCH && p->end_signal == SIGTRAP ? 0 : status;
}

#else
static int run(struct kill_point *p)
{
	return -ENOSYS;
}
#endif

static void *thread_main(void *arg)
{
	struct kill_point *p = arg;
	p->status = run(p);
	__atomic_store_n(&p->done, true, __ATOMIC_RELEASE);
	return NULL;
}

void kill_point_start(struct kill_point *p)
{
	p->status = 0;
	p->end_signal = 0;
	p->hits = 0;
	p->done = false;
	if (pthread_create(&p->thread, NULL, thread_main, p) != 0) {
		p->status = -EAGAIN;
		p->thread = 0;
		p->done = true;
	}
}

bool kill_point_done(const struct kill_point *p)
{
	return __atomic_load_n(&p->done, __ATOMIC_ACQUIRE);
}

int kill_point_finish(struct kill_point *p)
{
	if (p->thread)
		pthread_join(p->thread, NULL);
	p->thread = 0;
	return p->status;
}
