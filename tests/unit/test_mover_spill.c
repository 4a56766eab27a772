/* test_mover_spill.c - the spill file's half in the mover, on real files and both I/O engines.
 *
 * What is written comes back bit for bit; what was changed, cut off, moved, or is another generation's or page's
 * is refused and never reaches a frame; a full device and a broken descriptor are the file's fault and
 * nothing else's; many jobs at once end each exactly once. */
#include "tests/unit/test_mover_spill.h"
#include "tests/lib/suite.h"

#include <signal.h>
#include <sys/resource.h>

static enum spill_io_kind kinds[] = { SPILL_IO_URING, SPILL_IO_THREADS };

START_TEST(there_and_back)
{
	struct rig r;
	rig_open(&r, kinds[_i], O_DIRECT);
	for (uint32_t f = 0; f < 8; f++)
		rig_fill(&r, f, f + 1);
	for (uint32_t f = 0; f < 8; f++)
		ck_assert_int_eq(rig_do(&r, MOVER_SPILL, f, f, 100 + f, f).error, 0);
	for (uint32_t f = 0; f < 8; f++) {
		rig_fill(&r, 8 + f, 0);
		ck_assert_int_eq(rig_do(&r, MOVER_FETCH, 8 + f, f, 100 + f, f).error, 0);
		ck_assert(rig_equal(&r, f, 8 + f));
		rig_fill(&r, 8 + f, 0xabc);
	}
	rig_close(&r);
}
END_TEST

/* Jobs of both kinds mixed, as many as there may be: each answer once, every page right. */
START_TEST(many_at_once)
{
	struct rig r;
	uint32_t seen[64] = { 0 }, in_flight = 0, next = 0, done = 0;
	rig_open(&r, kinds[_i], 0);
	for (uint32_t f = 0; f < 16; f++)
		rig_fill(&r, f, f + 1);
	/* 16 spills, then a fetch of each into the same frame it came from */
	while (done < 48) {
		while (next < 48 && in_flight < MOVER_DISK_JOBS_MAX && (next < 16 || done >= 16)) {
			struct mover_job job = rig_job(&r, next < 16 ? MOVER_SPILL : MOVER_FETCH, next % 16, next % 16,
						       7 + next % 16, next % 16);
			job.cookie = next++;
			spill_store_job(r.store, &job);
			in_flight++;
		}
		struct mover_reply reply = rig_wait(&r);
		ck_assert_int_eq(reply.error, 0);
		ck_assert_uint_lt(reply.cookie, 48);
		ck_assert_uint_eq(seen[reply.cookie]++, 0);
		in_flight--;
		done++;
	}
	for (uint32_t f = 0; f < 16; f++) {
		rig_fill(&r, 20, f + 1);
		ck_assert(rig_equal(&r, f, 20));
	}
	rig_close(&r);
}
END_TEST

/* Every byte of a slot counts: page, trailer, tag; not the padding behind it. */
START_TEST(a_flipped_bit_is_found)
{
	struct rig r;
	size_t used = RIG_PAGE + MOVER_SPILL_TRAILER - 8;
	rig_open(&r, kinds[_i], 0);
	rig_fill(&r, 0, 1);
	ck_assert_int_eq(rig_do(&r, MOVER_SPILL, 0, 2, 9, 5).error, 0);
	for (size_t at = 0; at < used; at += at < RIG_PAGE - 64 ? 1021 : 1) {
		rig_flip(&r, 2, at);
		rig_fill(&r, 1, 77);
		rig_fill(&r, 3, 77);
		struct mover_reply reply = rig_do(&r, MOVER_FETCH, 1, 2, 9, 5);
		ck_assert_msg(reply.error == -EBADMSG && reply.differs, "byte %zu: %d", at, reply.error);
		ck_assert_msg(rig_equal(&r, 1, 3), "byte %zu: a bad page reached the frame", at);
		rig_flip(&r, 2, at);
	}
	ck_assert_int_eq(rig_do(&r, MOVER_FETCH, 1, 2, 9, 5).error, 0);
	ck_assert(rig_equal(&r, 0, 1));
	rig_close(&r);
}
END_TEST

static void refused(struct rig *r, uint32_t slot, uint64_t generation, uint64_t identity)
{
	struct mover_reply reply = rig_do(r, MOVER_FETCH, 1, slot, generation, identity);
	ck_assert_int_eq(reply.error, -EBADMSG);
	ck_assert_uint_eq(reply.differs, 1);
}

START_TEST(another_page_is_refused)
{
	struct rig r;
	uint8_t slot[RIG_SLOT];
	rig_open(&r, kinds[_i], 0);
	rig_fill(&r, 0, 1);
	ck_assert_int_eq(rig_do(&r, MOVER_SPILL, 0, 2, 9, 5).error, 0);
	refused(&r, 2, 8, 5);                /* an older write */
	refused(&r, 2, 10, 5);
	refused(&r, 2, 9, 6);                /* another page */
	refused(&r, 3, 9, 5);                /* a place never written */
	ck_assert_int_eq(pread(r.fd, slot, sizeof(slot), 2 * RIG_SLOT), sizeof(slot));
	ck_assert_int_eq(pwrite(r.fd, slot, sizeof(slot), 3 * RIG_SLOT), sizeof(slot));
	refused(&r, 3, 9, 5);                /* a true slot in another place */
	/* a trailer that claims to be the place's, over bytes that are not */
	struct spill_trailer trailer;
	memcpy(&trailer, slot + RIG_PAGE, sizeof(trailer));
	trailer.offset = 3 * RIG_SLOT;
	memcpy(slot + RIG_PAGE, &trailer, sizeof(trailer));
	ck_assert_int_eq(pwrite(r.fd, slot, sizeof(slot), 3 * RIG_SLOT), sizeof(slot));
	refused(&r, 3, 9, 5);
	/* torn: the first half is the new write's, the second the old one's */
	ck_assert_int_eq(pread(r.fd, slot, sizeof(slot), 2 * RIG_SLOT), sizeof(slot));
	ck_assert_int_eq(rig_do(&r, MOVER_SPILL, 0, 2, 11, 5).error, 0);
	ck_assert_int_eq(pwrite(r.fd, slot + RIG_SLOT / 2, RIG_SLOT / 2, 2 * RIG_SLOT + RIG_SLOT / 2), RIG_SLOT / 2);
	refused(&r, 2, 11, 5);
	refused(&r, 2, 9, 5);
	rig_close(&r);
}
END_TEST

/* Another boot's key opens nothing. */
START_TEST(another_key_is_refused)
{
	struct rig r;
	rig_open(&r, kinds[_i], 0);
	rig_fill(&r, 0, 1);
	ck_assert_int_eq(rig_do(&r, MOVER_SPILL, 0, 2, 9, 5).error, 0);
	rig_reopen(&r, kinds[_i], 0x55);
	refused(&r, 2, 9, 5);
	rig_close(&r);
}
END_TEST

START_TEST(the_file_is_cut_off)
{
	struct rig r;
	rig_open(&r, kinds[_i], 0);
	rig_fill(&r, 0, 1);
	ck_assert_int_eq(rig_do(&r, MOVER_SPILL, 0, 2, 9, 5).error, 0);
	ck_assert_int_eq(ftruncate(r.fd, 2 * RIG_SLOT + 4096), 0);
	struct mover_reply reply = rig_do(&r, MOVER_FETCH, 1, 2, 9, 5);
	ck_assert_int_eq(reply.error, -ENODATA);
	ck_assert_uint_eq(reply.differs, 1);
	ck_assert_int_eq(rig_do(&r, MOVER_SPILL, 0, 2, 10, 5).error, 0);     /* a write makes it longer */
	ck_assert_int_eq(rig_do(&r, MOVER_FETCH, 1, 2, 10, 5).error, 0);
	rig_close(&r);
}
END_TEST

/* No space: RLIMIT_FSIZE stands for a full disk, with EFBIG instead of ENOSPC. */
START_TEST(the_device_is_full)
{
	struct rig r;
	struct rlimit old, small = { 3 * RIG_SLOT, 3 * RIG_SLOT };
	rig_open(&r, kinds[_i], 0);
	rig_fill(&r, 0, 1);
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
	small.rlim_max = old.rlim_max;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
	rig_reopen(&r, kinds[_i], 1);        /* io_uring takes the limit of its creation */
	struct mover_reply full = rig_do(&r, MOVER_SPILL, 0, 5, 9, 5);
	struct mover_reply fits = rig_do(&r, MOVER_SPILL, 0, 1, 10, 5);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
	ck_assert_msg(full.error == -EFBIG || full.error == -ENOSPC, "%d", full.error);
	ck_assert_uint_eq(full.differs, 1);
	ck_assert_int_eq(fits.error, 0);
	ck_assert_int_eq(rig_do(&r, MOVER_FETCH, 1, 1, 10, 5).error, 0);
	rig_close(&r);
}
END_TEST

/* A descriptor that may not be written, and one that may not be read. */
START_TEST(the_descriptor_is_broken)
{
	for (unsigned only_read = 0; only_read < 2; only_read++) {
		struct rig r;
		rig_open(&r, kinds[_i], 0);
		rig_fill(&r, 0, 1);
		ck_assert_int_eq(rig_do(&r, MOVER_SPILL, 0, 2, 9, 5).error, 0);
		rig_swap_fd(&r, kinds[_i], only_read ? O_RDONLY : O_WRONLY);
		struct mover_reply write = rig_do(&r, MOVER_SPILL, 0, 3, 10, 5);
		struct mover_reply read = rig_do(&r, MOVER_FETCH, 1, 2, 9, 5);
		ck_assert_int_eq(write.error, only_read ? -EBADF : 0);
		ck_assert_int_eq(read.error, only_read ? 0 : -EBADF);
		ck_assert_uint_eq(write.differs, only_read);
		ck_assert_uint_eq(read.differs, !only_read);
		rig_close(&r);
	}
}
END_TEST

/* Words that kvd never says. */
START_TEST(nonsense_is_answered)
{
	struct rig r;
	rig_open(&r, kinds[_i], 0);
	rig_fill(&r, 0, 1);
	struct mover_job good = rig_job(&r, MOVER_SPILL, 0, 2, 9, 5);
	for (unsigned i = 0; i < 8; i++) {
		struct mover_job job = good;
		switch (i) {
		case 0: job.source = 1u << 27; break;
		case 1: job.place.offset = RIG_FILE; break;
		case 2: job.place.offset = RIG_FILE - 4096; break;
		case 3: job.place.offset = 100; break;
		case 4: job.place.offset = UINT64_MAX & ~4095ull; break;
		case 5: job.geometry.n_planes = 0; break;
		case 6: job.geometry.block_bytes = 1u << 31; break;
		case 7: job.geometry.n_frames = 0; break;
		}
		spill_store_job(r.store, &job);
		ck_assert_int_eq(rig_wait(&r).error, -EINVAL);
	}
	ck_assert_int_eq(rig_do(&r, MOVER_SPILL, 0, 2, 9, 5).error, 0);
	rig_close(&r);
}
END_TEST

/* Pages larger than the staging buffers so far: the buffers follow. */
START_TEST(sizes_change)
{
	struct rig r;
	rig_open(&r, kinds[_i], O_DIRECT);
	rig_fill(&r, 0, 1);
	ck_assert_int_eq(rig_do(&r, MOVER_SPILL, 0, 0, 1, 1).error, 0);
	struct mover_job large = rig_job(&r, MOVER_SPILL, 0, 0, 2, 1);
	large.place.offset = 64 * RIG_SLOT;
	rig_large(&large);
	spill_store_job(r.store, &large);
	ck_assert_int_eq(rig_wait(&r).error, 0);
	large.kind = MOVER_FETCH;
	large.target = 0;
	spill_store_job(r.store, &large);
	ck_assert_int_eq(rig_wait(&r).error, 0);
	ck_assert_int_eq(rig_do(&r, MOVER_FETCH, 1, 0, 1, 1).error, 0);
	rig_close(&r);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("mover_spill");
	TCase *t = tcase_create("both engines");
	struct spill_io *io;
	int from = spill_io_open(0, SPILL_IO_URING, &io) < 0;   /* refused here: the threads alone */
	if (from)
		printf("skipped: io_uring, refused on this machine\n");
	else
		spill_io_close(io);
	tcase_set_timeout(t, 60);
	const TTest *tests[] = { there_and_back, many_at_once, a_flipped_bit_is_found, another_page_is_refused,
		another_key_is_refused, the_file_is_cut_off, the_device_is_full, the_descriptor_is_broken,
		nonsense_is_answered, sizes_change };
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
		tcase_add_loop_test(t, tests[i], from, 2);
	suite_add_tcase(s, t);
	return suite_result(s);
}
