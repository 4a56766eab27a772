/* test_vmm_host.c - memory that leaves the daemon: extents, segments, rings; and the mover's work
 * on them.  What a hostile receiver may try is tried. */
#include "kvd/vmm.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvd/mover/move.h"
#include "kvd/ring.h"
#include "kvd/segment.h"
#include "tests/lib/suite.h"

static char vmm_error[VMM_ERROR_MAX];

#define EXTENT (1u << 20)

/* ---- extents ---- */

START_TEST(extents_are_sealed_and_private)
{
	struct vmm *vmm;
	struct stat st;
	int rw, ro;

	ck_assert_int_eq(vmm_open("host", EXTENT, 4, &vmm, vmm_error), 0);
	ck_assert_int_eq(vmm_extent_fd(vmm, 2, true), -ENOENT);
	ck_assert_int_eq(vmm_extent_create(vmm, 2), 0);
	rw = vmm_extent_fd(vmm, 2, true);
	ro = vmm_extent_fd(vmm, 2, false);
	ck_assert_int_eq(vmm_extent_create(vmm, 2), 0);
	ck_assert_int_eq(vmm_extent_fd(vmm, 2, true), rw);
	ck_assert_int_eq(fstat(rw, &st), 0);
	ck_assert_int_eq(st.st_mode & 0777, 0600);
	ck_assert_int_eq(st.st_size, EXTENT);
	ck_assert_int_eq(fcntl(rw, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	ck_assert_int_lt(ftruncate(rw, 4096), 0);
	ck_assert_int_lt(ftruncate(rw, 2 * EXTENT), 0);
	ck_assert_int_eq(fcntl(ro, F_GETFL) & O_ACCMODE, O_RDONLY);
	ck_assert_ptr_eq(mmap(NULL, EXTENT, PROT_READ | PROT_WRITE, MAP_SHARED, ro, 0), MAP_FAILED);
	ck_assert_int_ne(fcntl(rw, F_GETFD) & FD_CLOEXEC, 0);
	ck_assert_int_ne(fcntl(ro, F_GETFD) & FD_CLOEXEC, 0);
	vmm_close(vmm);
}
END_TEST

/* Reopen a descriptor for writing through /proc, as another user or as our own. */
static int reopen_as(uid_t uid, int fd)
{
	pid_t pid = fork();
	int status;

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		char path[64];

		if (uid && (setgid(uid) < 0 || setuid(uid) < 0))
			_exit(100);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		_exit(open(path, O_RDWR) < 0 ? errno : 0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	return WEXITSTATUS(status);
}

START_TEST(another_user_cannot_reopen_for_writing)
{
	struct vmm *vmm;

	ck_assert_int_eq(vmm_open("host", EXTENT, 1, &vmm, vmm_error), 0);
	ck_assert_int_eq(vmm_extent_create(vmm, 0), 0);
	if (getuid() != 0)
		printf("skipped: needs root to become another user\n");
	else
		ck_assert_int_eq(reopen_as(4242, vmm_extent_fd(vmm, 0, false)), EACCES);
	/* Under one uid the read-only descriptor guards against bugs only (README). */
	ck_assert_int_eq(reopen_as(0, vmm_extent_fd(vmm, 0, false)), 0);
	vmm_close(vmm);
}
END_TEST

/* ---- segments ---- */

START_TEST(shapes)
{
	struct segment_shape shape;

	ck_assert_int_eq(segment_shape(256, 64, 256, &shape), 0);
	ck_assert_uint_eq(shape.cq_entries, 1024);
	ck_assert_uint_eq(shape.tokens_offset % 4096, 0);
	ck_assert_uint_ge(shape.tokens_offset, shape.sqe_offset + 256 * sizeof(struct kvd_sqe));
	ck_assert_uint_ge(shape.sub_bytes, shape.tokens_offset + 64ull * 256 * 16 * 4);
	ck_assert_uint_ge(shape.tables_offset, shape.cqe_offset + 1024 * sizeof(struct kvd_cqe));
	ck_assert_uint_ge(shape.comp_bytes, shape.tables_offset + 64ull * 256 * 4);
	ck_assert_int_eq(segment_shape(4096, 4096, 65536, &shape), -ERANGE);
	ck_assert_uint_gt(shape.sub_bytes, 1ull << 30);
}
END_TEST

START_TEST(segments_are_sealed)
{
	struct segment_shape shape;
	struct segment segment;
	struct stat st;
	int fd;

	ck_assert_int_eq(segment_shape(16, 4, 8, &shape), 0);
	ck_assert_int_eq(segment_open(&shape, &segment), 0);
	ck_assert_int_eq(fstat(segment.comp_fd, &st), 0);
	ck_assert_int_eq(st.st_mode & 0777, 0600);
	ck_assert_int_eq(fcntl(segment.sub_fd, F_GET_SEALS),
			 F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	ck_assert_int_eq(fcntl(segment.comp_fd, F_GET_SEALS),
			 F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_FUTURE_WRITE);
	/* The engine's view: submissions writable, completions not, whatever it does. */
	fd = segment.comp_fd;
	ck_assert_ptr_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	ck_assert_int_lt(write(fd, "x", 1), 0);
	ck_assert_int_lt(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	ck_assert_ptr_ne(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0), MAP_FAILED);
	ck_assert_ptr_ne(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, segment.sub_fd, 0),
			 MAP_FAILED);
	segment.comp[0] = 1; /* ours still is */
	segment_close(&segment);
	ck_assert_int_eq(segment.sub_fd, -1);
}
END_TEST

/* ---- rings ---- */

static struct segment segment;
static struct ring ring;
static struct kvd_sub_header *sub;

static void open_ring(void)
{
	struct segment_shape shape;

	ck_assert_int_eq(segment_shape(16, 4, 8, &shape), 0);
	ck_assert_int_eq(segment_open(&shape, &segment), 0);
	ring_open(&ring, &segment);
	sub = (struct kvd_sub_header *)segment.sub;
}

START_TEST(ring_takes_in_order)
{
	struct kvd_sqe *sqes, sqe;

	open_ring();
	sqes = (struct kvd_sqe *)(segment.sub + segment.shape.sqe_offset);
	for (uint32_t round = 0; round < 5; round++) {
		for (uint32_t i = 0; i < 16; i++)
			sqes[(round * 16 + i) & 15].user_data = round * 16 + i;
		__atomic_store_n(&sub->sq_tail, (round + 1) * 16, __ATOMIC_RELEASE);
		ck_assert_int_eq(ring_waiting(&ring), 16);
		for (uint32_t i = 0; i < 16; i++) {
			ck_assert_int_eq(ring_take(&ring, &sqe), 1);
			ck_assert_uint_eq(sqe.user_data, round * 16 + i);
		}
		ck_assert_int_eq(ring_take(&ring, &sqe), 0);
		ck_assert_uint_eq(ring.comp->sq_head, round * 16);   /* ours to look at again until then */
		ring_consumed(&ring);
		ck_assert_uint_eq(ring.comp->sq_head, (round + 1) * 16);
	}
	segment_close(&segment);
}
END_TEST

START_TEST(ring_refuses_jumps)
{
	struct kvd_sqe sqe;
	struct kvd_cqe cqe = { .verb = 1 };

	open_ring();
	sub->sq_tail = 17;
	ck_assert_int_eq(ring_take(&ring, &sqe), -EPROTO);
	sub->sq_tail = 0xffffffffu; /* backwards */
	ck_assert_int_eq(ring_waiting(&ring), -EPROTO);
	sub->sq_tail = 0;
	/* Consumed more than was ever published. */
	sub->cq_head = 1;
	ck_assert_int_eq(ring_publish(&ring, &cqe), -EPROTO);
	sub->cq_head = 0;
	for (uint32_t i = 0; i < ring.cq_entries; i++)
		ck_assert_int_eq(ring_publish(&ring, &cqe), 0);
	ck_assert_int_eq(ring_publish(&ring, &cqe), -ENOSPC);
	sub->cq_head = 1;
	ck_assert_int_eq(ring_publish(&ring, &cqe), 0);
	segment_close(&segment);
}
END_TEST

START_TEST(ring_copies_tokens_inside_the_row)
{
	int32_t *rows, copy[8 * 16];

	open_ring();
	rows = (int32_t *)(segment.sub + segment.shape.tokens_offset);
	for (int32_t i = 0; i < 4 * 8 * 16; i++)
		rows[i] = i;
	ck_assert(ring_copy_tokens(&ring, 3, 16, 112, copy));
	for (int32_t i = 0; i < 112; i++)
		ck_assert_int_eq(copy[i], 3 * 128 + 16 + i);
	ck_assert(ring_copy_tokens(&ring, 0, 128, 0, copy));
	ck_assert(!ring_copy_tokens(&ring, 0, 128, 1, copy));
	ck_assert(!ring_copy_tokens(&ring, 0, 0, 129, copy));
	ck_assert(!ring_copy_tokens(&ring, 4, 0, 1, copy));
	ck_assert(!ring_copy_tokens(&ring, 0, UINT64_MAX - 3, 8, copy));
	ck_assert(!ring_copy_tokens(&ring, 0, 8, UINT64_MAX - 3, copy));
	segment_close(&segment);
}
END_TEST

START_TEST(ring_doorbells)
{
	struct kvd_cqe cqe = { .verb = 1 };

	open_ring();
	ck_assert(!ring_wants_doorbell(&ring));
	sub->engine_sleeps = 1;
	ck_assert(!ring_wants_doorbell(&ring)); /* nothing new: nobody to wake */
	ck_assert_int_eq(ring_publish(&ring, &cqe), 0);
	ck_assert(ring_wants_doorbell(&ring));
	ck_assert(!ring_wants_doorbell(&ring));
	sub->engine_sleeps = 0;
	ck_assert_int_eq(ring_publish(&ring, &cqe), 0);
	ck_assert(!ring_wants_doorbell(&ring));
	ck_assert(!ring_sleep(&ring, KVD_BELL_FUTEX));
	ck_assert_uint_eq(ring.comp->kvd_sleeps, KVD_BELL_FUTEX);
	sub->sq_tail = 1;
	ck_assert(ring_sleep(&ring, KVD_BELL_BYTE));
	ring_wake(&ring);
	ck_assert_uint_eq(ring.comp->kvd_sleeps, 0);
	segment_close(&segment);
}
END_TEST

/* ---- mover ---- */

static struct move_window window;
static struct vmm *pool;
static const struct kvd_geometry geometry = {
	.extent_bytes = EXTENT,
	.block_bytes = 1000,
	.n_planes = 5,
	.n_frames = 200,
	.plane_bytes = 200000,
	.slot_bits = 8,
};

static struct mover_reply run(struct mover_job job)
{
	struct mover_reply reply;

	move_run(&window, &job, &reply);
	return reply;
}

static struct mover_reply run_frames(uint32_t kind, uint32_t source, uint32_t peer, uint32_t target)
{
	return run((struct mover_job){ .kind = kind,
				       .cookie = 7,
				       .source = source,
				       .peer = peer,
				       .target = target,
				       .geometry = geometry });
}

static uint8_t *at(uint32_t frame, uint32_t plane)
{
	return window.base + kvd_block_offset(&geometry, frame, plane);
}

static void open_window(void)
{
	ck_assert_int_eq(vmm_open("host", EXTENT, 4, &pool, vmm_error), 0);
	ck_assert_int_eq(move_open(&window, EXTENT, 4), 0);
	for (uint32_t i = 0; i < 3; i++) {
		ck_assert_int_eq(vmm_extent_create(pool, i), 0);
		ck_assert_int_eq(move_map(&window, i, vmm_extent_fd(pool, i, true)), 0);
		ck_assert_int_eq(
			run((struct mover_job){ .kind = MOVER_POPULATE, .target = i }).error, 0);
	}
}

static void close_window(void)
{
	move_close(&window);
	vmm_close(pool);
}

static void fill(uint32_t frame, uint8_t seed)
{
	for (uint32_t plane = 0; plane < 5; plane++)
		for (uint32_t i = 0; i < 1000; i++)
			at(frame, plane)[i] = (uint8_t)(seed + plane * 3 + i);
}

static bool same(uint32_t a, uint32_t b)
{
	for (uint32_t plane = 0; plane < 5; plane++)
		if (memcmp(at(a, plane), at(b, plane), 1000))
			return false;
	return true;
}

START_TEST(populates_all_memory)
{
	struct stat st;

	open_window();
	for (uint32_t i = 0; i < 3; i++) {
		ck_assert_int_eq(fstat(vmm_extent_fd(pool, i, true), &st), 0);
		ck_assert_int_ge(st.st_blocks * 512, EXTENT);
	}
	ck_assert_int_eq(run((struct mover_job){ .kind = MOVER_POPULATE, .target = 3 }).error,
			 -EINVAL);
	close_window();
}
END_TEST

START_TEST(copies_and_scrubs_exactly_a_frame)
{
	uint32_t a = 3, b = 1u << 8 | 199, left = 1u << 8 | 198;

	open_window();
	fill(a, 1);
	fill(left, 9);
	fill(b, 20);
	ck_assert_int_eq(run_frames(MOVER_COPY, a, 0, b).error, 0);
	ck_assert(same(a, b));
	ck_assert_uint_eq(run_frames(MOVER_SCRUB, 0, 0, b).cookie, 7);
	for (uint32_t plane = 0; plane < 5; plane++)
		for (uint32_t i = 0; i < 1000; i++)
			ck_assert_uint_eq(at(b, plane)[i], 0);
	/* Neighbours are untouched. */
	ck_assert_uint_eq(at(left, 4)[999], (uint8_t)(9 + 12 + 999));
	ck_assert_uint_eq(at(a, 0)[0], 1);
	ck_assert_int_eq(run((struct mover_job){ .kind = MOVER_SCRUB_EXTENT, .target = 1 }).error,
			 0);
	ck_assert_uint_eq(at(left, 4)[999], 0);
	ck_assert_uint_eq(at(a, 0)[0], 1);
	close_window();
}
END_TEST

START_TEST(compares_before_it_copies)
{
	uint32_t a = 0, b = 1, target = 2u << 8;

	open_window();
	fill(a, 5);
	fill(b, 5);
	ck_assert_uint_eq(run_frames(MOVER_COMPARE_COPY, a, b, target).differs, 0);
	ck_assert(same(a, target));
	run_frames(MOVER_SCRUB, 0, 0, target);
	at(b, 4)[999] ^= 1; /* the very last byte */
	ck_assert_uint_eq(run_frames(MOVER_COMPARE_COPY, a, b, target).differs, 1);
	ck_assert_uint_eq(at(target, 0)[10], 0); /* nothing was copied */
	/* the source is the target: a third copy is compared with the shared one */
	ck_assert_uint_eq(run_frames(MOVER_COMPARE_COPY, a, b, a).differs, 1);
	at(b, 4)[999] ^= 1;
	ck_assert_uint_eq(run_frames(MOVER_COMPARE_COPY, a, b, a).differs, 0);
	close_window();
}
END_TEST

START_TEST(refuses_impossible_jobs)
{
	struct mover_job job = {
		.kind = MOVER_COPY, .source = 0, .target = 1, .geometry = geometry
	};
	struct mover_job bad;

	open_window();
	ck_assert_int_eq(run(job).error, 0);
#define REFUSED(change) \
	do { \
		bad = job; \
		change; \
		ck_assert_int_eq(run(bad).error, -EINVAL); \
	} while (0)
	REFUSED(bad.target = 200);     /* slot beyond n_frames */
	REFUSED(bad.target = 3u << 8); /* extent not mapped */
	REFUSED(bad.target = 9u << 8); /* extent beyond the pool */
	REFUSED(bad.target = 0xffffffffu);
	REFUSED(bad.source = bad.target);
	REFUSED(bad.geometry.extent_bytes *= 2);
	REFUSED(bad.geometry.n_planes = 6); /* planes beyond the extent */
	REFUSED(bad.geometry.n_planes = 0);
	REFUSED(bad.geometry.block_bytes = 0);
	REFUSED(bad.geometry.block_bytes = 0x80000000u);
	REFUSED(bad.geometry.plane_bytes += 1);
	REFUSED(bad.geometry.n_frames = 257);
	REFUSED(bad.geometry.slot_bits = 31);
	REFUSED(bad.kind = 99);
	REFUSED(bad.kind = MOVER_SETUP);
	REFUSED((bad.kind = MOVER_COMPARE_COPY, bad.peer = bad.target));
#undef REFUSED
	ck_assert_int_eq(move_map(&window, 4, vmm_extent_fd(pool, 0, true)), -EINVAL);
	close_window();
	ck_assert_int_eq(move_open(&window, 3000, 4), -EINVAL);
	ck_assert_int_eq(move_open(&window, 1u << 30, UINT32_MAX), -EINVAL);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		extents_are_sealed_and_private, another_user_cannot_reopen_for_writing, shapes,
		segments_are_sealed, ring_takes_in_order, ring_refuses_jumps, ring_copies_tokens_inside_the_row,
		ring_doorbells, populates_all_memory, copies_and_scrubs_exactly_a_frame,
		compares_before_it_copies, refuses_impossible_jobs,
	};
	return SUITE_RUN("vmm_host", 0, tests);
}
