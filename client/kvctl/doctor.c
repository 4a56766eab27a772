/* doctor.c - `kvctl doctor`: is this host fit for kvd, and is this kvd as safe as it can be here?
 *
 * Each check is one line: ok, WARN or FAIL, what was found, and behind an arrow what to do about it.  Reads /proc,
 * /sys and the socket; asks kvd where it answers; changes nothing.  Exit 1 if a line says FAIL. */
#include "client/kvctl/doctor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

/* The first line of a file under root; false: it cannot be read. */
static bool read_line(const struct doctor *d, char *ret, size_t max, const char *format, ...)
{
	char path[512], name[400];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(name, sizeof(name), format, arguments);
	va_end(arguments);
	snprintf(path, sizeof(path), "%s%s", d->root, name);
	FILE *f = fopen(path, "re");
	bool got = f && fgets(ret, (int)max, f);
	if (f)
		fclose(f);
	if (got)
		ret[strcspn(ret, "\n")] = '\0';
	return got;
}

/* A line of a file that begins with `key`; what follows it. */
static bool read_key(const struct doctor *d, const char *name, const char *key, char *ret, size_t max)
{
	char path[512], line[512];
	bool found = false;
	snprintf(path, sizeof(path), "%s%s", d->root, name);
	FILE *f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = !strncmp(line, key, strlen(key));
	if (f)
		fclose(f);
	if (!found)
		return false;
	line[strcspn(line, "\n")] = '\0';
	snprintf(ret, max, "%s", line + strlen(key) + strspn(line + strlen(key), " \t:"));
	return true;
}

/* ---- the kernel ---- */

static void check_kernel(struct doctor *d)
{
	struct utsname host;
	int ends[2], fd = -1;
	socklen_t size = sizeof(fd);
	if (uname(&host) < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
		doctor_say(d, "kernel", WARN, "cannot be asked: %s", "", strerror(errno));
		return;
	}
	if (getsockopt(ends[0], SOL_SOCKET, SO_PEERPIDFD, &fd, &size) == 0)
		doctor_say(d, "kernel", OK, "%s has SO_PEERPIDFD: a control group is an identity", "", host.release);
	else
		doctor_say(d, "kernel", WARN, "%s has no SO_PEERPIDFD: a control group is no identity here",
		    "use [tenant] uid or gid, or a kernel from 6.5 on", host.release);
	if (fd >= 0)
		close(fd);
	close(ends[0]);
	close(ends[1]);
}

static void check_uring(struct doctor *d)
{
	char text[32] = "";
	_Alignas(8) uint8_t parameters[120] = { 0 };       /* struct io_uring_params */
	int fd = (int)syscall(SYS_io_uring_setup, 2, parameters);
	bool known = read_line(d, text, sizeof(text), "/proc/sys/kernel/io_uring_disabled");
	if (fd >= 0) {
		close(fd);
		doctor_say(d, "io_uring", OK, "allowed for this user", "");
	} else {
		doctor_say(d, "io_uring", WARN,
		    "refused (%s; io_uring_disabled=%s): kvd waits by epoll and spills by preadv",
		    "sysctl kernel.io_uring_disabled=0, or allow it in the container's profile",
		    strerror(errno), known ? text : "?");
	}
}

static void check_shmem(struct doctor *d)
{
	char text[128];
	if (!read_line(d, text, sizeof(text), "/sys/kernel/mm/transparent_hugepage/shmem_enabled"))
		doctor_say(d, "shmem_enabled", WARN, "not known: %s", "", strerror(errno));
	else if (strstr(text, "[never]") || strstr(text, "[deny]"))
		doctor_say(d, "shmem_enabled", WARN, "%s: extents are in small pages, mapping one costs more",
		    "echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled", text);
	else
		doctor_say(d, "shmem_enabled", OK, "%s", "", text);
}

static void check_swap(struct doctor *d)
{
	char line[256];
	char path[512];
	unsigned n = 0, plain = 0;
	snprintf(path, sizeof(path), "%s/proc/swaps", d->root);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		n++;
		plain += n > 1 && strncmp(line, "/dev/zram", 9) && strncmp(line, "/dev/dm-", 8);
	}
	if (f)
		fclose(f);
	if (!n)
		doctor_say(d, "swap", WARN, "not known: %s", "", strerror(errno));
	else if (plain)
		doctor_say(d, "swap", WARN,
		    "%u swap areas are not encrypted: KV, which can be inverted to text, may reach "
		    "a disk",
		    "encrypt swap, or MemorySwapMax=0 for kvd.service", plain);
	else
		doctor_say(d, "swap", OK, n > 1 ? "in memory or encrypted" : "none", "");
}

/* ---- kvd's process ---- */

static void check_limits(struct doctor *d)
{
	char name[64], text[256];
	unsigned long long soft = 0;
	if (!d->pid)
		return;
	snprintf(name, sizeof(name), "/proc/%u/limits", d->pid);
	if (!read_key(d, name, "Max locked memory", text, sizeof(text)))
		doctor_say(d, "mlock", WARN, "kvd's limits cannot be read: %s", "run as root or as the user of kvd",
		    strerror(errno));
	else if (!strncmp(text, "unlimited", 9) || (sscanf(text, "%llu", &soft) == 1 && soft >= d->pool_bytes))
		doctor_say(d, "mlock", OK, "kvd may lock %s", "", kvctl_size(soft ? soft : d->pool_bytes).s);
	else
		doctor_say(d, "mlock", WARN, "kvd may lock %s of memory: the pool of %s may be swapped",
		    "LimitMEMLOCK=infinity for kvd.service", kvctl_size(soft).s, kvctl_size(d->pool_bytes).s);
}

/* Every memfd of kvd's must be 0600: a receiver could open a wider one for writing through /proc. */
static void check_memfds(struct doctor *d)
{
	char path[512], target[256];
	unsigned n = 0, wide = 0;
	if (!d->pid)
		return;
	snprintf(path, sizeof(path), "%s/proc/%u/fd", d->root, d->pid);
	DIR *directory = opendir(path);
	if (!directory) {
		doctor_say(d, "memfd modes", WARN, "cannot be read: %s",
		    "run as root or as the user of kvd", strerror(errno));
		return;
	}
	for (struct dirent *entry; (entry = readdir(directory));) {
		struct stat file;
		ssize_t length;
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/proc/%u/fd/%.20s", d->root, d->pid, entry->d_name);
		length = readlink(path, target, sizeof(target) - 1);
		if (length < 0 || strncmp(target, "/memfd:", 7) || stat(path, &file) < 0)
			continue;
		n++;
		wide += (file.st_mode & 0177) != 0;
	}
	closedir(directory);
	if (wide)
		doctor_say(d, "memfd modes", FAIL, "%u of %u are open to others than kvd's user",
		    "report this: it is a fault of kvd", wide, n);
	else
		doctor_say(d, "memfd modes", OK, "all %u are 0600", "", n);
}

static void check_cgroup(struct doctor *d)
{
	char group[300], text[64], name[64];
	unsigned long long max = 0;
	if (!d->pid)
		return;
	snprintf(name, sizeof(name), "/proc/%u/cgroup", d->pid);
	if (!read_key(d, name, "0::", group, sizeof(group)) ||
	    !read_line(d, text, sizeof(text), "/sys/fs/cgroup%s/memory.max", group)) {
		doctor_say(d, "cgroup memory", OK, "no limit of cgroup v2 is set or to be seen for kvd", "");
		return;
	}
	if (!strcmp(text, "max"))
		doctor_say(d, "cgroup memory", OK, "unlimited", "");
	else if (sscanf(text, "%llu", &max) == 1 && max < d->pool_bytes + (64u << 20))
		doctor_say(d, "cgroup memory", FAIL, "memory.max is %s and the pool %s: kvd will be killed",
		    "MemoryMax= above the pool, or a smaller --pool", kvctl_size(max).s, kvctl_size(d->pool_bytes).s);
	else
		doctor_say(d, "cgroup memory", OK, "memory.max is %s for a pool of %s", "", kvctl_size(max).s,
		    kvctl_size(d->pool_bytes).s);
}

/* A value in kvd's environment; false: none, or not to be read. */
static bool kvd_environment(const struct doctor *d, const char *key, char *ret, size_t max)
{
	char path[512], bytes[16384];
	snprintf(path, sizeof(path), "%s/proc/%u/environ", d->root, d->pid);
	FILE *f = fopen(path, "re");
	size_t n = f ? fread(bytes, 1, sizeof(bytes) - 1, f) : 0, length = strlen(key);
	if (f)
		fclose(f);
	bytes[n] = '\0';
	for (const char *at = bytes; at < bytes + n; at += strlen(at) + 1) {
		if (strncmp(at, key, length) || at[length] != '=')
			continue;
		snprintf(ret, max, "%s", at + length + 1);
		return true;
	}
	return false;
}

static void check_keeper(struct doctor *d, const char *socket)
{
	char path[300], text[64];
	struct stat file;
	bool service;
	if (!d->pid)
		return;
	snprintf(path, sizeof(path), "%s.keeper", socket);
	service = kvd_environment(d, "NOTIFY_SOCKET", text, sizeof(text));
	if (stat(path, &file) == 0)
		doctor_say(d, "keeper", OK, "%s keeps the book and the extents over a death of kvd", "", path);
	else if (service && kvd_environment(d, "FDSTORE", text, sizeof(text)))
		doctor_say(d, "keeper", OK, "the service manager's fd store holds up to %s descriptors", "", text);
	else if (service)
		doctor_say(d, "keeper", OK,
		    "a service manager is there; its fd store takes over if "
		    "FileDescriptorStoreMax= is set",
		    "");
	else
		doctor_say(d, "keeper", WARN, "none: a death of kvd ends the cache and its streams begin again",
		    "start kvd with --keeper, or as kvd.service");
}

static void check_watchdog(struct doctor *d)
{
	char text[64];
	struct timespec begin, end;
	struct kvctl_rows rows;
	if (!d->c)
		return;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	int r = kvctl_ask(d->c, KVD_Q_STATUS, NULL, &rows);
	clock_gettime(CLOCK_MONOTONIC, &end);
	kvctl_release(&rows);
	double ms = (double)(end.tv_sec - begin.tv_sec) * 1e3 + (double)(end.tv_nsec - begin.tv_nsec) / 1e6;
	bool watched = d->pid && kvd_environment(d, "WATCHDOG_USEC", text, sizeof(text));
	if (r != 0 || ms > 1000)
		doctor_say(d, "watchdog", FAIL, "the loop takes %.0f ms to answer",
		    "see kvd's log; is the host overloaded?", ms);
	else if (watched)
		doctor_say(d, "watchdog", OK, "every %.0f s; the loop has just answered in %.1f ms", "",
		    atof(text) / 1e6, ms);
	else
		doctor_say(d, "watchdog", WARN, "none, or not to be seen from here; "
		    "the loop has just answered in %.1f ms",
		    "WatchdogSec= in kvd.service", ms);
}

/* ---- rights ---- */

static void check_group(struct doctor *d)
{
	struct group *group = getgrnam("kvadm");
	if (group)
		doctor_say(d, "group kvadm", OK, "gid %u: its members see and steer everything", "", group->gr_gid);
	else
		doctor_say(d, "group kvadm", WARN, "there is none: only root and the user of kvd are administrators",
		    "systemd-sysusers, or groupadd --system kvadm");
}

static void check_socket(struct doctor *d, const char *socket)
{
	struct stat file, directory;
	char path[300];
	snprintf(path, sizeof(path), "%s", socket);
	if (stat(socket, &file) < 0) {
		doctor_say(d, "socket", FAIL, "%s: %s",
			   "start kvd, or name its socket with --socket or KVD_SOCKET", socket,
		    strerror(errno));
		return;
	}
	char *slash = strrchr(path, '/');
	if (slash && slash != path)
		*slash = '\0';
	if (!S_ISSOCK(file.st_mode))
		doctor_say(d, "socket", FAIL, "%s is no socket", "remove it and start kvd again", socket);
	else if (stat(path, &directory) == 0 && (directory.st_mode & S_IWOTH) && !(directory.st_mode & S_ISVTX))
		doctor_say(d, "socket", FAIL, "everybody may put another socket in the place of %s",
		    "chmod o-w its directory", socket);
	else
		doctor_say(d, "socket", OK, "%s, mode %04o, of uid %u", "", socket,
		    (unsigned)file.st_mode & 07777u, file.st_uid);
}

/* ---- kvd's own word ---- */

static void check_status(struct doctor *d)
{
	struct kvctl_rows rows = { 0 };
	if (!d->c || kvctl_ask(d->c, KVD_Q_STATUS, NULL, &rows) != 0 || !rows.n) {
		kvctl_release(&rows);
		return;
	}
	const struct kvd_row_status *s = kvctl_row(&rows, 0);
	uint64_t sum = s->tail_bytes + s->unassigned_bytes + s->scrub_bytes;
	for (unsigned i = 0; i < KVD_FRAME_STATES; i++)
		sum += s->frame_bytes[i];
	if (!s->healthy)
		doctor_say(d, "kvd", FAIL, "version %s, pid %u says that it is not well", "see its log",
		    kvctl_name(s->version).s, s->kvd_pid);
	else
		doctor_say(d, "kvd", OK, "version %s, pid %u, up %s%s", "", kvctl_name(s->version).s, s->kvd_pid,
		    kvctl_duration(s->uptime_usec).s, s->adopted ? ", taken over from another" : "");
	if (!kvd_welcome(d->c)->admin)
		doctor_say(d, "accounts", WARN, "only administrators see them",
		    "run as root, as the user of kvd or in group kvadm");
	else if (sum != s->pool_bytes)
		doctor_say(d, "accounts", FAIL, "%" PRIu64 " of %" PRIu64 " bytes are accounted for", "kvctl fsck", sum,
		    s->pool_bytes);
	else
		doctor_say(d, "accounts", OK, "every byte of %s is accounted for", "", kvctl_size(s->pool_bytes).s);
	if (s->merge_mismatches)
		doctor_say(d, "bit identity", FAIL, "%" PRIu64 " pages of equal tokens had different bytes",
		    "compare the engines' numerics; see kvd's log", s->merge_mismatches);
	kvctl_release(&rows);
}

int kvctl_doctor(const struct kvctl_view *v, struct kvd_connection *c)
{
	struct doctor d = { .v = v, .c = c, .root = "", .all = v->json ? json_array() : NULL };
	char socket[256] = "";
	if (c) {
		d.pid = kvd_welcome(c)->kvd_pid;
		d.pool_bytes = kvd_welcome(c)->pool_bytes;
	}
	(void)kvd_socket_path(v->arguments.socket, socket, sizeof(socket));
	check_kernel(&d);
	check_uring(&d);
	check_shmem(&d);
	check_swap(&d);
	check_group(&d);
	check_socket(&d, socket);
	if (!c)
		doctor_say(&d, "kvd", FAIL, "does not answer at %s", "start it", socket);
	check_status(&d);
	check_limits(&d);
	check_memfds(&d);
	check_cgroup(&d);
	check_keeper(&d, socket);
	check_watchdog(&d);
	doctor_gpu(&d);
	if (v->json) {
		int r = kvctl_json(v, d.all);
		return r ? r : d.failed != 0;
	}
	return d.failed != 0;
}
