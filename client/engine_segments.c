/* engine_segments.c - the two shared segments of an engine, checked before anything points into
 * them.
 *
 * kvd is trusted with our life, yet an offset outside a segment would be a crash far from its
 * cause: every part must lie inside its segment, aligned, and the segment must be as long as
 * announced. */
#include "client/engine.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* Whether n items of item_bytes from offset lie in a segment, clear of its header. */
static bool part_fits(uint64_t offset, uint64_t n, uint64_t item_bytes, uint64_t header_bytes,
		      uint64_t segment_bytes)
{
	uint64_t bytes;
	return offset >= header_bytes && offset % 8 == 0 && offset <= segment_bytes &&
	       !__builtin_mul_overflow(n, item_bytes, &bytes) && bytes <= segment_bytes - offset;
}

static bool is_power_of_two(uint32_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

/* Whether a completion segment of comp_bytes in fd has room for its ring and its rows. */
static bool completion_fits(const struct kvd_engine *e, int fd, uint64_t comp_bytes, uint32_t cq_entries,
			    uint64_t cqe_offset, uint64_t tables_offset)
{
	struct stat comp;

	return is_power_of_two(cq_entries) && fstat(fd, &comp) == 0 && comp.st_size >= 0 &&
	       (uint64_t)comp.st_size >= comp_bytes &&
	       part_fits(cqe_offset, cq_entries, sizeof(struct kvd_cqe), sizeof(*e->comp), comp_bytes) &&
	       part_fits(tables_offset, (uint64_t)e->max_seqs * e->max_pages, sizeof(uint32_t),
			 sizeof(*e->comp), comp_bytes);
}

static int segments_check(struct kvd_engine *e, const struct kvd_msg_attached *a, int sub_fd,
			  int comp_fd)
{
	uint64_t row_pages = (uint64_t)e->max_seqs * e->max_pages;
	struct stat sub;

	if (sub_fd < 0 || comp_fd < 0 || fstat(sub_fd, &sub) < 0)
		return kvd_fail(e->error, KVD_S_PROTOCOL, "kvd attached us without ring segments");
	if (!is_power_of_two(a->sq_entries) || sub.st_size < 0 ||
	    (uint64_t)sub.st_size < a->sub_bytes ||
	    !part_fits(a->sqe_offset, a->sq_entries, sizeof(struct kvd_sqe), sizeof(*e->sub),
		       a->sub_bytes) ||
	    !part_fits(a->tokens_offset, row_pages, KVD_PAGE_TOKENS * sizeof(int32_t),
		       sizeof(*e->sub), a->sub_bytes) ||
	    !completion_fits(e, comp_fd, a->comp_bytes, a->cq_entries, a->cqe_offset,
			     a->tables_offset))
		return kvd_fail(e->error, KVD_S_PROTOCOL,
				"kvd's ring segments do not hold what it announced; are kvd and "
				"libkvd of one release?");
	return 0;
}

int kvd_engine_segments_map(struct kvd_engine *e, const struct kvd_msg_attached *a, int sub_fd,
			    int comp_fd)
{
	int r = segments_check(e, a, sub_fd, comp_fd);
	if (r != 0)
		return r;
	void *sub = mmap(NULL, a->sub_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, sub_fd, 0);
	if (sub == MAP_FAILED)
		return kvd_fail(e->error, -errno, "cannot map the submission segment: %s",
				strerror(errno));
	e->sub = sub;
	e->sub_bytes = a->sub_bytes;
	void *comp = mmap(NULL, a->comp_bytes, PROT_READ, MAP_SHARED, comp_fd, 0);
	if (comp == MAP_FAILED)
		return kvd_fail(e->error, -errno, "cannot map the completion segment: %s",
				strerror(errno));
	e->comp = comp;
	e->comp_mapping++;
	e->comp_bytes = a->comp_bytes;
	/* Token rows are prompts. */
	(void)madvise(sub, e->sub_bytes, MADV_DONTDUMP);
	(void)madvise(comp, e->comp_bytes, MADV_DONTDUMP);
	e->sqes = (struct kvd_sqe *)((uint8_t *)sub + a->sqe_offset);
	e->tokens = (int32_t *)((uint8_t *)sub + a->tokens_offset);
	e->cqes = (const struct kvd_cqe *)((const uint8_t *)comp + a->cqe_offset);
	e->tables = (const uint32_t *)((const uint8_t *)comp + a->tables_offset);
	e->sq_entries = a->sq_entries;
	e->cq_entries = a->cq_entries;
	e->sq_tail = __atomic_load_n(&e->sub->sq_tail, __ATOMIC_RELAXED);
	e->cq_head = __atomic_load_n(&e->sub->cq_head, __ATOMIC_RELAXED);
	e->step = __atomic_load_n(&e->sub->step_begun, __ATOMIC_RELAXED);
	return 0;
}

int kvd_engine_segments_switch(struct kvd_engine *e, const struct kvd_msg_adopted *m, int comp_fd)
{
	if (!completion_fits(e, comp_fd, m->comp_bytes, m->cq_entries, m->cqe_offset, m->tables_offset))
		return kvd_fail(e->error, -EPROTO,
				"the completion segment of the kvd that took over does not hold what it "
				"announced; are kvd and libkvd of one release?");
	void *map = mmap(NULL, m->comp_bytes, PROT_READ, MAP_SHARED, comp_fd, 0);
	if (map == MAP_FAILED)
		return kvd_fail(e->error, -errno, "cannot map the completion segment: %s",
				strerror(errno));
	const struct kvd_comp_header *comp = map;
	/* The same indexes, or we would wait for ever or take old entries for new ones. */
	uint32_t unconsumed = __atomic_load_n(&comp->cq_tail, __ATOMIC_ACQUIRE) - e->cq_head;
	uint32_t under_way = e->sq_tail - __atomic_load_n(&comp->sq_head, __ATOMIC_ACQUIRE);
	if (unconsumed > m->cq_entries || under_way > e->sq_entries) {
		munmap(map, m->comp_bytes);
		return kvd_fail(e->error, -EPROTO,
				"the kvd that took over lost its place in our rings (%u completions "
				"and %u submissions under way)",
				unconsumed, under_way);
	}
	(void)madvise(map, m->comp_bytes, MADV_DONTDUMP);
	munmap((void *)e->comp, e->comp_bytes);
	e->comp = comp;
	e->comp_mapping++;
	e->comp_bytes = m->comp_bytes;
	e->cqes = (const struct kvd_cqe *)((const uint8_t *)map + m->cqe_offset);
	e->tables = (const uint32_t *)((const uint8_t *)map + m->tables_offset);
	e->cq_entries = m->cq_entries;
	return 0;
}

void kvd_engine_segments_unmap(struct kvd_engine *e)
{
	if (e->sub)
		munmap(e->sub, e->sub_bytes);
	if (e->comp)
		munmap((void *)e->comp, e->comp_bytes);
	e->sub = NULL;
	e->comp = NULL;
	e->tokens = NULL;
	e->tables = NULL;
}
