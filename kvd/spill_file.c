/* spill_file.c - see spill_file.h.  Start only.
 *
 * The file has no name: nobody can find it, and its blocks are free when the last process that has it ends.
 * Where the file system cannot make one without a name, it gets a random one, mode 0600, removed at once.
 * What is in it is encrypted with a key that only memory has, so it means nothing to the next boot. */
#include "kvd/spill_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "kvd/sentence.h"

#define complain(error, ...) sentence(error, SPILL_FILE_ERROR_MAX, __VA_ARGS__)

static int open_named(const char *directory, int flags)
{
	char path[CONFIG_PATH_MAX + 40];
	uint64_t random;
	int fd;

	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return -1;
	snprintf(path, sizeof(path), "%s/.kvd-spill-%016" PRIx64, directory, random);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | flags, 0600);
	if (fd >= 0)
		(void)unlink(path);
	else if (flags)
		(void)unlink(path);          /* some file systems refuse O_DIRECT after they made it */
	return fd;
}

static int open_in(const char *directory, bool *ret_direct)
{
	for (int flags = O_DIRECT;; flags = 0) {
		int fd = open(directory, O_RDWR | O_TMPFILE | O_CLOEXEC | flags, 0600);

		if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT || errno == EINVAL))
			fd = open_named(directory, flags);
		*ret_direct = flags != 0;
		if (fd >= 0 || !flags)
			return fd;
	}
}

/* Which directory, and how many bytes; 0 bytes: nothing said. */
static int choose(const struct config *config, const char **ret_directory, uint64_t *ret_bytes, char *error)
{
	*ret_directory = config->spill;
	*ret_bytes = config->spill_bytes;
	if (config->spill[0] && config->n_tiers)
		return complain(error, -EINVAL,
				"spill %s and [tier %s] are both given; kvd uses one, leave out the other",
				config->spill, config->tiers[0].name);
	if (config->n_tiers > 1)
		return complain(error, -EINVAL, "[tier %s] is the second tier; this kvd uses one, leave it out",
				config->tiers[1].name);
	if (config->n_tiers) {
		*ret_directory = config->tiers[0].path;
		*ret_bytes = config->tiers[0].size_bytes;
	} else if (!config->spill[0] && config->spill_bytes) {
		return complain(error, -EINVAL, "spill-bytes is given without a directory; add --spill DIR");
	}
	return 0;
}

static int size_file(struct spill_file *file, const char *directory, char *error)
{
	char want[SIZE_TEXT_MAX], have[SIZE_TEXT_MAX];
	struct statvfs fs;

	size_format(file->bytes, want);
	if (fallocate(file->fd, 0, 0, (off_t)file->bytes) == 0) {
		file->preallocated = true;
		return 0;
	}
	if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) {
		int r = errno;

		size_format(fstatvfs(file->fd, &fs) < 0 ? 0 : (uint64_t)fs.f_bavail * fs.f_frsize, have);
		return complain(error, -r, "spill %s: %s wanted, %s free (%s); give a smaller --spill-bytes", directory,
				want, have, strerror(r));
	}
	if (ftruncate(file->fd, (off_t)file->bytes) < 0)
		return complain(error, -errno, "spill %s: a file of %s cannot be made: %s", directory, want,
				strerror(errno));
	return 0;
}

/* The file that the kvd before had, if its size is the one that is wanted now. */
static bool take_over(const struct config *config, int fd, struct spill_file *ret)
{
	uint64_t want = ret->bytes / config->extent_bytes * config->extent_bytes;
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0 ||
	    (uint64_t)st.st_size % config->extent_bytes || (want && want != (uint64_t)st.st_size)) {
		close(fd);
		return false;
	}
	ret->fd = fd;
	ret->bytes = (uint64_t)st.st_size;
	ret->direct = (fcntl(fd, F_GETFL) & O_DIRECT) != 0;
	ret->preallocated = (uint64_t)st.st_blocks * 512 >= ret->bytes;
	ret->taken_over = true;
	return true;
}

int spill_file_open(const struct config *config, int taken_fd, struct spill_file *ret,
		    char ret_error[SPILL_FILE_ERROR_MAX])
{
	const char *directory;
	struct statvfs fs;
	int r;

	*ret = (struct spill_file){ .fd = -1 };
	r = choose(config, &directory, &ret->bytes, ret_error);
	if (taken_fd >= 0 && (r < 0 || !directory[0]))
		close(taken_fd);
	if (r < 0 || !directory[0])
		return r;
	if (taken_fd >= 0 && take_over(config, taken_fd, ret))
		return 0;
	if (statvfs(directory, &fs) < 0)
		return complain(ret_error, -errno, "spill %s: %s; give a directory that is there", directory,
				strerror(errno));
	if (!ret->bytes) {
		uint64_t half = (uint64_t)fs.f_bavail * fs.f_frsize / 2;

		ret->bytes = config->pool_bytes > half / 4 ? half : 4 * config->pool_bytes;
	}
	ret->bytes = ret->bytes / config->extent_bytes * config->extent_bytes;
	if (!ret->bytes) {
		char extent[SIZE_TEXT_MAX];

		size_format(config->extent_bytes, extent);
		return complain(ret_error, -ENOSPC, "spill %s: less than one extent (%s); give a larger --spill-bytes",
				directory, extent);
	}
	ret->fd = open_in(directory, &ret->direct);
	if (ret->fd < 0)
		return complain(ret_error, -errno, "spill %s: %s; kvd needs to write there", directory,
				strerror(errno));
	r = size_file(ret, directory, ret_error);
	if (r < 0) {
		close(ret->fd);
		ret->fd = -1;
	}
	return r;
}
