/* segment.c - an engine's shared segments.
 *
 * Order matters: mode 0600 and the resize seals come before a descriptor leaves; kvd maps the
 * completion segment for writing before F_SEAL_FUTURE_WRITE makes that impossible for everybody,
 * root included.  Both are kept out of core dumps: token rows are text. */
#include "kvd/segment.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvd/geometry.h"
#include "kvd/limits.h"

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

int segment_shape(uint32_t sq_entries, uint32_t max_seqs, uint32_t max_pages,
		  struct segment_shape *ret)
{
	uint64_t cells = (uint64_t)max_seqs * max_pages;
	/* Room for the answers of a full submission ring twice (one batch consumed, one not), for
	 * one late answer, one cancellation and two events of every slot. */
	uint64_t cq_want = 2ull * sq_entries + 4ull * max_seqs;
	uint32_t cq_entries = 1;

	while (cq_entries < cq_want)
		cq_entries <<= 1;
	*ret = (struct segment_shape){
		.sq_entries = sq_entries,
		.cq_entries = cq_entries,
		.max_seqs = max_seqs,
		.max_pages = max_pages,
	};
	/* Rings start on pages of their own, rows on cache lines. */
	ret->sqe_offset = 4096;
	ret->tokens_offset =
		round_up(ret->sqe_offset + (uint64_t)sq_entries * sizeof(struct kvd_sqe), 4096);
	ret->sub_bytes = round_up(ret->tokens_offset + cells * KVD_PAGE_TOKENS * sizeof(int32_t),
				  4096);
	ret->cqe_offset = 4096;
	ret->tables_offset =
		round_up(ret->cqe_offset + (uint64_t)cq_entries * sizeof(struct kvd_cqe), 4096);
	ret->comp_bytes = round_up(ret->tables_offset + cells * sizeof(uint32_t), 4096);
	return ret->sub_bytes > LIMIT_SEGMENT_BYTES || ret->comp_bytes > LIMIT_SEGMENT_BYTES
		       ? -ERANGE
		       : 0;
}

int segment_memfd(const char *name, uint64_t bytes)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -errno;
	if (fchmod(fd, 0600) < 0 || (bytes && ftruncate(fd, (off_t)bytes) < 0)) {
		int error = errno;

		close(fd);
		return -error;
	}
	return fd;
}

static int segment_open_one(const char *name, uint64_t bytes, int seals, int *ret_fd,
			    uint8_t **ret_map)
{
	int fd = segment_memfd(name, bytes), error;
	void *map;

	if (fd < 0)
		return fd;
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		error = errno;
		close(fd);
		return -error;
	}
	if (madvise(map, bytes, MADV_DONTDUMP) < 0 ||
	    fcntl(fd, F_ADD_SEALS, seals | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		error = errno;
		munmap(map, bytes);
		close(fd);
		return -error;
	}
	*ret_fd = fd;
	*ret_map = map;
	return 0;
}

int segment_open(const struct segment_shape *shape, struct segment *ret)
{
	int r;

	*ret = (struct segment){ .shape = *shape, .sub_fd = -1, .comp_fd = -1 };
	r = segment_open_one("kvd-sub", shape->sub_bytes, 0, &ret->sub_fd, &ret->sub);
	if (r < 0)
		return r;
	r = segment_open_one("kvd-comp", shape->comp_bytes, F_SEAL_FUTURE_WRITE, &ret->comp_fd,
			     &ret->comp);
	if (r < 0)
		segment_close(ret);
	return r;
}

int segment_adopt(const struct segment_shape *shape, int sub_fd, struct segment *ret)
{
	int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, r;
	struct stat st;
	void *map;

	*ret = (struct segment){ .shape = *shape, .sub_fd = -1, .comp_fd = -1 };
	if (fstat(sub_fd, &st) < 0 || (uint64_t)st.st_size != shape->sub_bytes ||
	    fcntl(sub_fd, F_GET_SEALS) != seals)
		return -EINVAL;
	r = segment_open_one("kvd-comp", shape->comp_bytes, F_SEAL_FUTURE_WRITE, &ret->comp_fd, &ret->comp);
	if (r < 0)
		return r;
	map = mmap(NULL, shape->sub_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, sub_fd, 0);
	if (map != MAP_FAILED) {
		ret->sub = map;
		if (madvise(map, shape->sub_bytes, MADV_DONTDUMP) == 0)
			return 0;
	}
	r = -errno;
	segment_close(ret);
	return r;
}

void segment_close_fds(struct segment *segment)
{
	if (segment->sub_fd >= 0)
		close(segment->sub_fd);
	if (segment->comp_fd >= 0)
		close(segment->comp_fd);
	segment->sub_fd = segment->comp_fd = -1;
}

void segment_close(struct segment *segment)
{
	segment_close_fds(segment);
	if (segment->sub)
		munmap(segment->sub, segment->shape.sub_bytes);
	if (segment->comp)
		munmap(segment->comp, segment->shape.comp_bytes);
	segment->sub = segment->comp = NULL;
}
