/* test_mover_share.c - merging that nobody feels: when it begins, how much is done whether or not there is a match,
 * and the thread that does it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvd/daemon.h"
#include "kvd/mover/share_thread.h"
#include "tests/lib/core_case.h"

/* ---- rounds, in the core ---- */

static struct world *world_rounds(void)
{
	struct core_config config = { .pool_bytes = 12 * EXTENT, .extent_bytes = EXTENT, .page_bytes_min = 8192,
				      .tenants_max = 16, .seqs_max = 256, .holds_max = 256 * WORLD_PAGES,
				      .promise_usec = 1u << 30, .merge_usec = LIMIT_MERGE_USEC };
	struct world *w = world_make(&config, 1);

	world_tenant(w, "a", "", CORE_MERGE, 0);
	world_tenant(w, "b", "", CORE_MERGE, 0);
	return w;
}

/* Not in the round in which the page was sealed, nor in the next; then all at once. */
START_TEST(merges_wait_a_round)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_rounds();
	uint32_t e = attach(w, "e0");
	uint64_t sealed_usec, first_usec, second_usec;

	tokens_fill(tokens, 1);
	run_prompt(w, e, 0, 0, tokens, 100, 0);
	run_prompt(w, e, 1, 1, tokens, 100, 0);
	sealed_usec = w->now;
	world_settle(w, false);
	ck_assert_uint_eq(status_of(w).merges, 0);
	first_usec = core_next_tick_usec(w->core);
	ck_assert_uint_eq(first_usec % LIMIT_MERGE_USEC, 0);
	ck_assert_uint_le(first_usec, sealed_usec + LIMIT_MERGE_USEC);
	world_tick(w, first_usec - w->now);
	world_settle(w, false);
	ck_assert_uint_eq(status_of(w).merges, 0);
	second_usec = core_next_tick_usec(w->core);
	ck_assert_uint_eq(second_usec, first_usec + LIMIT_MERGE_USEC);
	world_tick(w, second_usec - w->now - 1);
	world_settle(w, false);
	ck_assert_uint_eq(status_of(w).merges, 0);
	world_tick(w, 1);
	world_settle(w, false);
	ck_assert_uint_eq(status_of(w).merges, 6);
	ck_assert_uint_eq(world_slot(w, e, 0)->table[0], world_slot(w, e, 1)->table[0]);
	world_free(w);
}
END_TEST

/* ---- how much ---- */

struct rig {
	struct daemon daemon;
	struct mover_entry share[256], small[256];
};

static void rig_open(struct rig *r, struct core *core)
{
	memset(r, 0, sizeof(*r));
	r->daemon.core = core;
	r->daemon.mover.daemon = &r->daemon;
	r->daemon.mover.share = (struct mover_queue){ .entries = r->share, .size = 256 };
	r->daemon.mover.small = (struct mover_queue){ .entries = r->small, .size = 256 };
}

/* Work of the rounds that follow when tenant b asks what a has asked, or something else: compares and scrubs, done
 * and covered together. */
static void work_of(bool known, uint64_t *ret_merges, uint32_t *ret_compares, uint32_t *ret_scrubs)
{
	static struct rig r;
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_rounds();
	struct mover_link *link = &r.daemon.mover;
	uint32_t e = attach(w, "e0"), covers = 0;
	struct mover_job merge = { .kind = MOVER_COMPARE_COPY, .source = 1, .peer = 2, .target = 3 };
	uint64_t due;

	rig_open(&r, w->core);
	mover_share_due(link);
	tokens_fill(tokens, 9);
	run_prompt(w, e, 2, 1, tokens, 20, 0);   /* so that two tenants are there */
	tokens_fill(tokens, 1);
	run_prompt(w, e, 0, 0, tokens, 100, 0);
	tokens_fill(tokens, known ? 1 : 2);
	run_prompt(w, e, 1, 1, tokens, 100, 0);
	for (uint32_t round = 0; round < 2; round++) {
		mover_share_due(link);
		ck_assert(!mover_share_cover(link)); /* not before its time */
		ck_assert_uint_eq(core_next_tick_usec(w->core), (round + 1) * LIMIT_MERGE_USEC);
		world_tick(w, core_next_tick_usec(w->core) - w->now);
		world_settle(w, false);
	}
	mover_share_due(link);
	ck_assert_uint_eq(core_next_tick_usec(w->core), UINT64_MAX);
	*ret_merges = status_of(w).merges;
	ck_assert(core_read_sealed(w->core, &(uint32_t){ 0 }, &due, &merge.geometry));
	ck_assert_uint_eq(merge.geometry.block_bytes, BLOCK);
	for (uint64_t i = 0; i < *ret_merges; i++)
		mover_share_sent(link, &merge);
	*ret_scrubs = (uint32_t)*ret_merges * 2;
	for (; mover_share_cover(link); covers++) {
		const struct mover_job *job = &r.share[(link->share.head + link->share.n - 1) % 256].job;

		ck_assert_uint_eq(job->kind, MOVER_COVER);
		mover_share_covered(link, job);
	}
	*ret_scrubs += link->small.n;
	*ret_compares = covers + (uint32_t)*ret_merges;
	world_free(w);
}

START_TEST(as_much_with_a_match_as_without)
{
	uint64_t merges, none;
	uint32_t compares, scrubs, compares_none, scrubs_none;

	work_of(true, &merges, &compares, &scrubs);
	work_of(false, &none, &compares_none, &scrubs_none);
	ck_assert_uint_eq(merges, 6);
	ck_assert_uint_eq(none, 0);
	ck_assert_uint_ge(compares, 12);
	ck_assert_uint_eq(compares, compares_none);
	ck_assert_uint_eq(scrubs, scrubs_none);
}
END_TEST

/* One tenant alone on one engine has nobody to hide from. */
START_TEST(a_tenant_alone_needs_no_cover)
{
	int32_t tokens[WORLD_TOKENS];
	struct world *w = world_rounds();
	struct kvd_geometry geometry;
	uint64_t due;
	uint32_t e = attach(w, "e0");

	tokens_fill(tokens, 1);
	run_prompt(w, e, 0, 0, tokens, 100, 0);
	world_tick(w, 3 * LIMIT_MERGE_USEC);
	world_tick(w, 3 * LIMIT_MERGE_USEC);
	ck_assert(core_read_sealed(w->core, &(uint32_t){ 0 }, &due, &geometry));
	ck_assert_uint_eq(due, 0);
	world_free(w);
}
END_TEST

/* ---- the thread ---- */

enum { FRAMES = 32, MOVER_BLOCK = 4096, MOVER_PLANES = 2, MOVER_EXTENT_BYTES = 1 << 18, JOBS = 16 };

static struct mover_reply replies[JOBS];
static uint32_t n_replies;
static pthread_mutex_t replies_lock = PTHREAD_MUTEX_INITIALIZER;

static bool take_reply(const struct mover_reply *reply)
{
	pthread_mutex_lock(&replies_lock);
	ck_assert_uint_lt(n_replies, JOBS);
	replies[n_replies++] = *reply;
	pthread_mutex_unlock(&replies_lock);
	return true;
}

static const struct kvd_geometry mover_geometry = { .extent_bytes = MOVER_EXTENT_BYTES, .block_bytes = MOVER_BLOCK,
						    .n_planes = MOVER_PLANES, .n_frames = FRAMES, .slot_bits = 5,
						    .plane_bytes = (uint64_t)FRAMES * MOVER_BLOCK };

static void window_open(struct move_window *window)
{
	struct mover_job populate = { .kind = MOVER_POPULATE };
	struct mover_reply reply;
	int fd = memfd_create("extent", MFD_CLOEXEC);

	ck_assert_int_eq(ftruncate(fd, MOVER_EXTENT_BYTES), 0);
	ck_assert_int_eq(move_open(window, MOVER_EXTENT_BYTES, 1), 0);
	ck_assert_int_eq(move_map(window, 0, fd), 0);
	close(fd);
	move_run(window, &populate, &reply);
	ck_assert_int_eq(reply.error, 0);
}

static uint8_t *frame_block(struct move_window *window, uint32_t frame, uint32_t plane)
{
	return window->base + kvd_block_offset(&mover_geometry, frame, plane);
}

/* Every job is answered once; merges do what they say, covers touch nothing; a flush returns after all of it. */
START_TEST(jobs_and_covers)
{
	static uint8_t before[MOVER_EXTENT_BYTES];
	struct move_window window;
	struct share_thread *thread;
	uint32_t seen = 0;

	n_replies = 0;
	window_open(&window);
	for (uint32_t f = 0; f < 4; f++)
		for (uint32_t plane = 0; plane < MOVER_PLANES; plane++)
			memset(frame_block(&window, f, plane), f < 2 ? 7 : (int)f, MOVER_BLOCK);
	memcpy(before, window.base, sizeof(before));
	ck_assert_int_eq(share_thread_open(&window, take_reply, &thread), 0);
	for (uint32_t i = 0; i < JOBS; i++) {
		struct mover_job job = { .kind = MOVER_COVER, .cookie = i, .geometry = mover_geometry };

		if (i == 3 || i == 4)              /* equal; different */
			job = (struct mover_job){ .kind = MOVER_COMPARE_COPY, .cookie = i, .peer = i == 3 ? 1 : 2,
						  .target = i == 3 ? 10 : 11, .geometry = mover_geometry };
		else
			move_cover(&window, &job);
		if (job.kind == MOVER_COVER)
			ck_assert(move_frame_valid(&window, &job.geometry, job.source) &&
				  move_frame_valid(&window, &job.geometry, job.peer));
		ck_assert_int_eq(share_thread_job(thread, &job), 0);
	}
	share_thread_flush(thread);
	ck_assert_uint_eq(n_replies, JOBS);
	for (uint32_t i = 0; i < JOBS; i++) {
		ck_assert_int_eq(replies[i].error, 0);
		ck_assert_uint_eq(replies[i].differs, replies[i].cookie == 4);
		seen |= 1u << replies[i].cookie;
	}
	ck_assert_uint_eq(seen, (1u << JOBS) - 1);
	for (uint32_t plane = 0; plane < MOVER_PLANES; plane++) {
		ck_assert(!memcmp(frame_block(&window, 10, plane), frame_block(&window, 0, plane), MOVER_BLOCK));
		memset(frame_block(&window, 10, plane), 0, MOVER_BLOCK);
	}
	ck_assert(!memcmp(before, window.base, sizeof(before)));
	share_thread_close(thread);
	move_close(&window);
}
END_TEST

/* A geometry that is not this pool's is refused; where nothing is known to lie in memory, nothing is read. */
START_TEST(covers_read_only_what_is_there)
{
	struct mover_job job = { .kind = MOVER_COVER, .geometry = mover_geometry };
	struct move_window window;
	struct mover_reply reply;

	ck_assert_int_eq(move_open(&window, MOVER_EXTENT_BYTES, 4), 0);
	move_cover(&window, &job);
	ck_assert(!move_frame_valid(&window, &job.geometry, job.source));
	move_run(&window, &job, &reply);
	ck_assert_int_eq(reply.error, 0);
	job.geometry.extent_bytes *= 2;
	move_cover(&window, &job);
	move_run(&window, &job, &reply);
	ck_assert_int_eq(reply.error, -EINVAL);
	job.kind = MOVER_COVER_SCRUB;
	move_run(&window, &job, &reply);
	ck_assert_int_eq(reply.error, -EINVAL);
	job.geometry = mover_geometry;
	move_run(&window, &job, &reply);
	ck_assert_int_eq(reply.error, 0);
	move_close(&window);
}
END_TEST

int main(void)
{
	static const TTest *const *tests[] = {
		&merges_wait_a_round, &as_much_with_a_match_as_without, &a_tenant_alone_needs_no_cover,
		&jobs_and_covers, &covers_read_only_what_is_there,
	};
	const TTest *list[sizeof(tests) / sizeof(tests[0])];

	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
		list[i] = *tests[i];
	return run_suite("mover_share", list, sizeof(list) / sizeof(list[0]));
}
