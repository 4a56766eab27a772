/* peek.c - see peek.h. */
#include "tests/lib/peek.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* Call visit for each memfd of pid until it returns true. */
static int each_memfd(pid_t pid, int (*visit)(const char *name, const char *path, void *arg), void *arg)
{
	char dir[64];
	snprintf(dir, sizeof(dir), "/proc/%d/fd", (int)pid);
	DIR *d = opendir(dir);
	int found = 0;
	for (struct dirent *e; d && !found && (e = readdir(d)); ) {
		char path[400], link[256];
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		ssize_t n = readlink(path, link, sizeof(link) - 1);
		if (n <= 0)
			continue;
		link[n] = '\0';
		if (strncmp(link, "/memfd:", 7))
			continue;
		char *deleted = strstr(link, " (deleted)");
		if (deleted)
			*deleted = '\0';
		found = visit(link + 7, path, arg);
	}
	if (d)
		closedir(d);
	return found;
}

struct want {
	const char *name;
	int writable;
	void *map;
	size_t bytes;
};

static int map_if_named(const char *name, const char *path, void *arg)
{
	struct want *w = arg;
	if (strcmp(name, w->name))
		return 0;
	int fd = open(path, w->writable ? O_RDWR | O_CLOEXEC : O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return 0;
	w->bytes = (size_t)st.st_size;
	void *map = mmap(NULL, w->bytes, w->writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	w->map = map == MAP_FAILED ? NULL : map;
	return w->map != NULL;
}

void *peek_memfd(pid_t pid, const char *name, int writable, size_t *ret_bytes)
{
	struct want w = { .name = name, .writable = writable };
	each_memfd(pid, map_if_named, &w);
	*ret_bytes = w.bytes;
	return w.map;
}

int peek_read(pid_t pid, const char *name, size_t offset, void *ret, size_t n)
{
	char path[64], line[512], wanted[128];
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	snprintf(wanted, sizeof(wanted), "/memfd:%s (deleted)", name);
	FILE *f = fopen(path, "r");
	ssize_t got = -1;
	while (f && got < 0 && fgets(line, sizeof(line), f)) {
		unsigned long start;
		if (!strstr(line, wanted) || sscanf(line, "%lx-", &start) != 1)
			continue;
		struct iovec here = { ret, n }, there = { (void *)(start + offset), n };
		got = process_vm_readv(pid, &here, 1, &there, 1, 0);
	}
	if (f)
		fclose(f);
	return got == (ssize_t)n ? 0 : -1;
}
