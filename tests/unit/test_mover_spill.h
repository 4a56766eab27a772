/* test_mover_spill.h - a small window of one extent and a spill file, for test_mover_spill.c. */
#ifndef TESTS_TEST_MOVER_SPILL_H
#define TESTS_TEST_MOVER_SPILL_H

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvd/mover/spill.h"

enum { RIG_PLANES = 6, RIG_BLOCK = 5120, RIG_PAGE = RIG_PLANES * RIG_BLOCK, RIG_SLOT = 32768, RIG_FRAMES = 32,
	RIG_EXTENT = 1 << 20, RIG_FILE = 4 << 20 };

struct rig {
	struct move_window window;
	struct spill_store *store;
	char path[64];
	int fd;                        /* ours, buffered; the store has its own */
	uint8_t key[32];
};

static inline void rig_store(struct rig *r, enum spill_io_kind kind, int flags)
{
	int fd = open(r->path, flags | O_CLOEXEC);
	if (fd < 0)                            /* no O_DIRECT on this file system */
		fd = open(r->path, (flags & ~O_DIRECT) | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(spill_store_open(&r->window, fd, RIG_FILE, r->key, kind, &r->store), 0);
}

static inline void rig_open(struct rig *r, enum spill_io_kind kind, int flags)
{
	memset(r, 0, sizeof(*r));
	strcpy(r->path, "/tmp/kvd-test-mover-XXXXXX");
	r->fd = mkstemp(r->path);
	ck_assert_int_ge(r->fd, 0);
	ck_assert_int_eq(ftruncate(r->fd, RIG_FILE), 0);
	int extent = memfd_create("extent", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(extent, RIG_EXTENT), 0);
	ck_assert_int_eq(move_open(&r->window, RIG_EXTENT, 1), 0);
	ck_assert_int_eq(move_map(&r->window, 0, extent), 0);
	close(extent);
	rig_store(r, kind, O_RDWR | flags);
}

static inline void rig_reopen(struct rig *r, enum spill_io_kind kind, uint8_t key)
{
	spill_store_close(r->store);
	memset(r->key, key, sizeof(r->key));
	rig_store(r, kind, O_RDWR);
}

static inline void rig_swap_fd(struct rig *r, enum spill_io_kind kind, int flags)
{
	spill_store_close(r->store);
	rig_store(r, kind, flags);
}

static inline void rig_close(struct rig *r)
{
	spill_store_close(r->store);
	move_close(&r->window);
	close(r->fd);
	unlink(r->path);
}

static inline struct kvd_geometry rig_geometry(void)
{
	return (struct kvd_geometry){ .extent_bytes = RIG_EXTENT, .plane_bytes = RIG_FRAMES * RIG_BLOCK,
		.block_bytes = RIG_BLOCK, .n_planes = RIG_PLANES, .n_frames = RIG_FRAMES, .slot_bits = 6 };
}

static inline struct mover_job rig_job(struct rig *r, enum mover_kind kind, uint32_t frame, uint32_t slot,
				       uint64_t generation, uint64_t identity)
{
	(void)r;
	return (struct mover_job){ .kind = kind, .source = frame, .target = frame, .geometry = rig_geometry(),
		.place = { slot * (uint64_t)RIG_SLOT, generation, identity } };
}

/* The same frame number in pages of half an extent each. */
static inline void rig_large(struct mover_job *job)
{
	job->geometry.n_planes = 2;
	job->geometry.n_frames = 1;
	job->geometry.block_bytes = 300 * 1024;
	job->geometry.plane_bytes = 300 * 1024;
}

static inline struct mover_reply rig_wait(struct rig *r)
{
	struct mover_reply reply;
	struct pollfd fd = { .fd = spill_store_fd(r->store), .events = POLLIN };
	for (unsigned i = 0; i < 1000; i++) {
		if (spill_store_next(r->store, &reply))
			return reply;
		ck_assert_int_ge(poll(&fd, 1, 10000), 1);
	}
	ck_abort_msg("a job is never answered");
}

static inline struct mover_reply rig_do(struct rig *r, enum mover_kind kind, uint32_t frame, uint32_t slot,
					uint64_t generation, uint64_t identity)
{
	struct mover_job job = rig_job(r, kind, frame, slot, generation, identity);
	spill_store_job(r->store, &job);
	return rig_wait(r);
}

static inline uint8_t *rig_block(struct rig *r, uint32_t frame, uint32_t plane)
{
	struct kvd_geometry g = rig_geometry();
	return r->window.base + kvd_block_offset(&g, frame, plane);
}

static inline void rig_fill(struct rig *r, uint32_t frame, uint32_t seed)
{
	for (uint32_t p = 0; p < RIG_PLANES; p++)
		for (uint32_t i = 0; i < RIG_BLOCK; i++)
			rig_block(r, frame, p)[i] =
				(uint8_t)((seed * 2654435761u + p * 40503u + i * 2246822519u) >> 13);
}

static inline bool rig_equal(struct rig *r, uint32_t a, uint32_t b)
{
	for (uint32_t p = 0; p < RIG_PLANES; p++)
		if (memcmp(rig_block(r, a, p), rig_block(r, b, p), RIG_BLOCK))
			return false;
	return true;
}

static inline void rig_flip(struct rig *r, uint32_t slot, size_t at)
{
	uint8_t byte;
	ck_assert_int_eq(pread(r->fd, &byte, 1, (off_t)(slot * RIG_SLOT + at)), 1);
	byte ^= 0x10;
	ck_assert_int_eq(pwrite(r->fd, &byte, 1, (off_t)(slot * RIG_SLOT + at)), 1);
}

#endif
