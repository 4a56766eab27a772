/* memory.c - free memory of the host and of our control groups (v2 and v1).  Start only.
 *
 * A pool larger than this is refused before ready: later it would be an OOM kill or a SIGBUS. */
#include "kvd/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvd/small_file.h"

#define MEMORY_PATH_MAX 1024

/* A number in a file; UINT64_MAX for "max" or a file that is not there. */
static uint64_t memory_read_number(const char *directory, const char *file)
{
	char path[MEMORY_PATH_MAX], text[64];

	if (snprintf(path, sizeof(path), "%s/%s", directory, file) >= (int)sizeof(path))
		return UINT64_MAX;
	if (small_file_read(path, text, sizeof(text)) < 0 || text[0] < '0' || text[0] > '9')
		return UINT64_MAX;
	return strtoull(text, NULL, 10);
}

/* Walk from our group up to the mount point: each level may limit us. */
static void memory_walk(const char *mount, const char *group, const char *max_file,
			const char *current_file, struct memory_free *ret)
{
	char directory[MEMORY_PATH_MAX];
	size_t mount_length = strlen(mount);

	if (snprintf(directory, sizeof(directory), "%s%s", mount, group) >= (int)sizeof(directory))
		return;
	for (;;) {
		uint64_t max = memory_read_number(directory, max_file);
		uint64_t current = memory_read_number(directory, current_file);
		char *slash;

		/* v1 writes "no limit" as a number near 2^63. */
		if (max < UINT64_MAX / 4 && current != UINT64_MAX) {
			uint64_t left = max > current ? max - current : 0;

			if (max < ret->cgroup_max_bytes)
				ret->cgroup_max_bytes = max;
			if (left < ret->cgroup_free_bytes)
				ret->cgroup_free_bytes = left;
		}
		slash = strrchr(directory, '/');
		if (!slash || (size_t)(slash - directory) < mount_length)
			return;
		*slash = '\0';
	}
}

int memory_read(const char *root, struct memory_free *ret)
{
	char path[MEMORY_PATH_MAX], text[8192], *line, *save = NULL;
	const char *found;
	int r;

	*ret = (struct memory_free){ 0, UINT64_MAX, UINT64_MAX };
	snprintf(path, sizeof(path), "%s/proc/meminfo", root);
	r = small_file_read(path, text, sizeof(text));
	if (r < 0)
		return r;
	found = strstr(text, "MemAvailable:");
	if (!found)
		return -ENODATA;
	ret->available_bytes = strtoull(found + 13, NULL, 10) * 1024;

	snprintf(path, sizeof(path), "%s/proc/self/cgroup", root);
	if (small_file_read(path, text, sizeof(text)) < 0)
		return 0;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *controllers = strchr(line, ':'),
		     *group = controllers ? strchr(controllers + 1, ':') : NULL;
		char mount[MEMORY_PATH_MAX];

		if (!group)
			continue;
		*group++ = '\0';
		controllers++;
		if (!*controllers) {
			snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup", root);
			memory_walk(mount, group, "memory.max", "memory.current", ret);
		} else if (!strcmp(controllers, "memory")) {
			snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup/memory", root);
			memory_walk(mount, group, "memory.limit_in_bytes", "memory.usage_in_bytes",
				    ret);
		}
	}
	return 0;
}

void *memory_resident(size_t bytes)
{
	void *at = aligned_alloc(64, (bytes + 63) / 64 * 64);

	if (at)
		memset(at, 0, bytes);          /* calloc() would leave it to the first use */
	return at;
}
