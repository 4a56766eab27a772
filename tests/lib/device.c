/* device.c - see device.h. */
#include "tests/lib/device.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fakecuda/control.h"
#include "tests/lib/host.h"

#define PLACE "/dev/shm"
#define PREFIX "kvd-device-"

static char dir[64];
static unsigned users;
static pid_t owner;

bool device_is_cuda(void)
{
	const char *name = getenv("KVD_TEST_DEVICE");

	return name && !strcmp(name, "cuda");
}

const char *device_name(void)
{
	return device_is_cuda() ? "cuda" : "host";
}

static bool is_real(void)
{
	const char *driver = getenv("KVD_TEST_DRIVER");

	return driver && !strcmp(driver, "real");
}

static void remove_dir(const char *path)
{
	DIR *d = opendir(path);

	for (struct dirent *e; d && (e = readdir(d));)
		unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(path);
}

/* What test programs left that were killed. */
static void sweep(void)
{
	DIR *d = opendir(PLACE);
	char path[300];
	int pid;

	for (struct dirent *e; d && (e = readdir(d));) {
		if (sscanf(e->d_name, PREFIX "%d", &pid) != 1 || kill(pid, 0) == 0 || errno != ESRCH)
			continue;
		snprintf(path, sizeof(path), "%s/%s", PLACE, e->d_name);
		remove_dir(path);
	}
	if (d)
		closedir(d);
}

static void remove_at_exit(void)
{
	if (dir[0] && owner == getpid())
		remove_dir(dir);
}

static void point_to(const char *variable, const char *relative)
{
	char exe[400], path[600];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	exe[n > 0 ? n : 0] = '\0';
	*strrchr(exe, '/') = '\0';
	snprintf(path, sizeof(path), "%s/fakecuda/%s", exe, relative);
	if (access(path, R_OK) == 0)
		setenv(variable, path, 1);
	else
		unsetenv(variable);
}

void device_begin(void)
{
	if (!device_is_cuda() || is_real() || users++)
		return;
	sweep();
	owner = getpid();
	snprintf(dir, sizeof(dir), "%s/" PREFIX "%d", PLACE, (int)owner);
	remove_dir(dir);
	if (mkdir(dir, 0777) || chmod(dir, 0777)) {
		host_fail("cannot make the device's directory in " PLACE);
		return;
	}
	atexit(remove_at_exit);
	setenv("FAKECUDA_DIR", dir, 1);
	setenv("FAKECUDA_NO_CONTEXT", "kvd", 0);
	point_to("KVD_LIBCUDA", "libcuda.so.1");
	point_to("KVD_LIBNVML", "libnvidia-ml.so.1");
	point_to("FAKECUDA_KERNELS", getenv("KVD_TEST_CHECKED") ? "libkernels-checked.so" : "libkernels.so");
}

char *device_log(void)
{
	char path[100];
	struct stat st;
	char *text = NULL;
	int fd;

	if (is_real())
		return strdup("");
	snprintf(path, sizeof(path), "%s/log", dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && fstat(fd, &st) == 0) {
		text = calloc((size_t)st.st_size + 1, 1);
		if (read(fd, text, (size_t)st.st_size) < 0)
			text[0] = '\0';
	}
	if (fd >= 0)
		close(fd);
	return text ? text : strdup("");
}

unsigned device_log_count(const char *word)
{
	char *log = device_log();
	size_t n = strlen(word);
	unsigned found = 0;

	for (const char *line = log; *line;) {
		const char *end = strchrnul(line, '\n');

		found += !strncmp(line, word, n) && line[n] == ' ';
		line = *end ? end + 1 : end;
	}
	free(log);
	return found;
}

static void show_log(void)
{
	char *log = device_log();

	fprintf(stderr, "%s", log);
	free(log);
}

static struct fake_control *control(void)
{
	char path[100];
	void *p;
	int fd;

	snprintf(path, sizeof(path), "%s/control", dir);
	fd = open(path, O_RDWR | O_CLOEXEC);
	p = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	if (p == MAP_FAILED)
		host_fail("the device has no control page: no process has opened it");
	return p;
}

void device_hold(bool hold)
{
	struct fake_control *c = control();

	__atomic_store_n(&c->hold, hold, __ATOMIC_RELEASE);
	munmap(c, 4096);
}

void device_rearm(void)
{
	struct fake_control *c = control();

	__atomic_store_n(&c->fired, 0, __ATOMIC_RELEASE);
	munmap(c, 4096);
}

bool device_has_fired(void)
{
	struct fake_control *c = control();
	bool fired = __atomic_load_n(&c->fired, __ATOMIC_ACQUIRE) != 0;

	munmap(c, 4096);
	return fired;
}

void device_lose(unsigned code)
{
	struct fake_control *c = control();

	__atomic_store_n(&c->lost, code, __ATOMIC_RELEASE);
	munmap(c, 4096);
}

void device_end(void)
{
	if (!device_is_cuda() || is_real() || users == 0 || --users)
		return;
	if (device_log_count("breach")) {
		show_log();
		host_fail("the driver's contract was broken (above)");
	}
	remove_dir(dir);
	dir[0] = '\0';
}
