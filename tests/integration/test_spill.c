/* test_spill.c - pages leave for a file and come back: kvd with --spill, real engines, a pool too small.
 *
 * (1) A prompt whose pages have been written out is served from the disk: the same tokens, the same logits hash,
 * as many cached tokens as if they had never left; with io_uring and without.  (2) What is in the file is not
 * the K and V, and the file has no name.  (3) With the file overwritten, truncated, or the mover killed, the
 * answers are the same; what was lost is counted and computed again. */
#include "tests/lib/peek.h"
#include "tests/lib/scenario.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "4", NULL };
/* The others' prompts are small beside the pool's watermarks, so that memory is made free before anybody waits
 * for it: who waits gets it within 50 ms, on a busy machine by forgetting pages that a calm disk would have kept. */
enum { WORDS = 500, N_OTHERS = 40, OTHER_WORDS = 80, N_TOKENS = 24 };

struct spill_host { struct host h; char dir[64]; const char *more[8]; char *text; struct host_job first; };

static void spill_start_with(struct spill_host *s, const char *keeper)
{
	strcpy(s->dir, "/tmp/kvd-test-spill-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(s->dir));
	const char *more[] = { "--extent", "1M", "--spill", s->dir, "--spill-bytes", "64M", keeper, NULL };
	memcpy(s->more, more, sizeof(more));
	host_start(&s->h, "10M", more);
	host_engine(&s->h, "a", host_model_bundled(), engine_args);
	host_populated(&s->h);
	s->text = scenario_text(1, WORDS);
	s->first = scenario_alone(&s->h, "red", "a", s->text, N_TOKENS);
	ck_assert_int_eq(s->first.status, 0);
	ck_assert_uint_eq(s->first.cached_tokens, 0);
}

static void spill_start(struct spill_host *s)
{
	spill_start_with(s, NULL);
}

static void spill_stop(struct spill_host *s)
{
	host_jobs_free(&s->first, 1);
	free(s->text);
	host_settle(&s->h);
	host_stop(&s->h);
	ck_assert_int_eq(rmdir(s->dir), 0);  /* nothing was left behind */
}

/* Others need the memory: the first prompt's pages leave. */
static void press(struct spill_host *s, unsigned seed)
{
	for (unsigned i = 0; i < N_OTHERS; i++) {
		char *text = scenario_text(seed + i, OTHER_WORDS);
		struct host_job job = scenario_alone(&s->h, "blue", "a", text, 4);
		ck_assert_int_eq(job.status, 0);
		host_jobs_free(&job, 1);
		free(text);
	}
}

static struct kvd_row_status status(struct spill_host *s)
{
	struct kvd_row_status row;
	host_status(&s->h, &row);
	return row;
}

/* What can be cached of the first prompt.  (Asking again to learn it would be a hit, and what is hit stays.) */
static uint32_t whole_of(const struct spill_host *s)
{
	return (s->first.prompt_tokens - 1) / 16 * 16;
}

/* Ask the first question again.  Returns the cached tokens. */
static uint32_t again(struct spill_host *s)
{
	struct host_job job = scenario_alone(&s->h, "red", "a", s->text, N_TOKENS);
	ck_assert_msg(job.status == 0, "failed: %s", job.error);
	ck_assert_msg(host_jobs_equal(&s->first, &job), "the answer is another one after %u cached tokens",
		      job.cached_tokens);
	uint32_t cached = job.cached_tokens;
	host_jobs_free(&job, 1);
	return cached;
}

/* The spill file, as the owner of the process may open it; -1: kvd has none. */
static int file_open(struct spill_host *s, int flags)
{
	char path[320], target[256];
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)s->h.kvd.pid);
	DIR *fds = opendir(path);
	int found = -1;
	for (struct dirent *e; fds && found < 0 && (e = readdir(fds));) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)s->h.kvd.pid, e->d_name);
		ssize_t n = readlink(path, target, sizeof(target) - 1);
		if (n <= 0)
			continue;
		target[n] = 0;
		if (strstr(target, s->dir))
			found = open(path, flags | O_CLOEXEC);
	}
	if (fds)
		closedir(fds);
	return found;
}

/* All of it is there again; unless the disk was so busy that kvd had to forget pages, which it says. */
static void came_back(struct spill_host *s, uint32_t cached)
{
	uint64_t forgotten = status(s).evicted_pages;
	if (forgotten)
		printf("a busy disk: %llu pages forgotten, %u of %u tokens cached\n",
		       (unsigned long long)forgotten, cached, whole_of(s));
	else
		ck_assert_uint_eq(cached, whole_of(s));
}

static void round_trip(const char *io)
{
	struct spill_host s = { 0 };
	if (io)
		setenv("KVD_SPILL_IO", io, 1);
	spill_start(&s);
	uint32_t whole = whole_of(&s), pages = whole / 16;
	ck_assert_uint_gt(pages, 20);
	ck_assert_uint_eq(status(&s).spill_reads, 0);
	press(&s, 100);
	struct kvd_row_status before = status(&s);
	struct kvd_row_tenant red;
	host_tenant(&s.h, "red", &red);
	printf("%s: %llu pages on disk alone, %llu written, %llu MiB of red's; %llu forgotten\n", io ? io : "io_uring",
	       (unsigned long long)before.spilled_pages, (unsigned long long)before.spill_writes,
	       (unsigned long long)red.spilled_bytes >> 20, (unsigned long long)before.evicted_pages);
	ck_assert_uint_ge(before.spilled_pages, pages / 4);
	ck_assert_uint_gt(red.spilled_bytes, 0);
	came_back(&s, again(&s));
	struct kvd_row_status after = status(&s);
	ck_assert_uint_ge(after.spill_reads - before.spill_reads, 4);  /* its first pages may have stayed */
	ck_assert_uint_eq(after.lost_pages, 0);
	/* and once more: what was read stays on disk, so leaving again costs no write */
	press(&s, 1000);
	came_back(&s, again(&s));
	host_fsck(&s.h);
	spill_stop(&s);
	unsetenv("KVD_SPILL_IO");
}

START_TEST(there_and_back)
{
	round_trip(NULL);
}
END_TEST

START_TEST(there_and_back_without_uring)
{
	round_trip("threads");
}
END_TEST

START_TEST(the_file_does_not_give_the_bytes_away)
{
	struct spill_host s = { 0 };
	spill_start(&s);
	/* what lies in the pool's extents now, 64 bytes of every kilobyte: K and V of the first prompt */
	static uint8_t needles[8192][64];
	uint64_t n_needles = 0;
	struct kvd_row_extent *extents;
	unsigned n_extents;
	host_extents(&s.h, &extents, &n_extents);
	for (unsigned x = 0; x < n_extents; x++) {
		char name[32];
		size_t bytes;
		snprintf(name, sizeof(name), "kvd-extent-%u", extents[x].extent);
		uint8_t *map = extents[x].n_frames ? peek_memfd(s.h.kvd.pid, name, 0, &bytes) : NULL;
		for (size_t at = 0; map && at + 64 <= bytes && n_needles < 8192; at += 1024)
			if (memcmp(map + at, map + at + 1, 63))
				memcpy(needles[n_needles++], map + at, 64);
		if (map)
			munmap(map, bytes);
	}
	free(extents);
	ck_assert_uint_gt(n_needles, 20);
	press(&s, 100);
	ck_assert_uint_gt(status(&s).spilled_pages, 20);
	int fd = file_open(&s, O_RDONLY);
	ck_assert_msg(fd >= 0, "kvd has no spill file open");
	struct stat st;
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_uint_eq(st.st_nlink, 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
	uint8_t *file = malloc((size_t)st.st_size);
	size_t have = 0;
	size_t size = (size_t)st.st_size;
	for (ssize_t r; have < size && (r = pread(fd, file + have, size - have, (off_t)have)) > 0;)
		have += (size_t)r;
	uint64_t counts[256] = { 0 }, total = 0;
	for (size_t i = 0; i + 4096 <= have; i += 4096) {
		unsigned zeros = 0;          /* not the end of a slot, nor a place never written */
		for (size_t k = 0; k < 1024; k++)
			zeros += !file[i + k];
		for (size_t k = 0; zeros < 64 && k < 1024; k++, total++)
			counts[file[i + k]]++;
	}
	ck_assert_uint_gt(total, 1u << 20);
	unsigned odd = 0;
	for (unsigned i = 0; i < 256; i++)
		odd += counts[i] < total / 256 * 9 / 10 || counts[i] > total / 256 * 11 / 10;
	ck_assert_msg(odd < 8, "%u byte values are rarer or more frequent than chance", odd);
	for (uint64_t i = 0; i < n_needles; i += n_needles / 100)
		ck_assert_msg(!memmem(file, have, needles[i], 64), "64 bytes of K or V stand in the file");
	free(file);
	close(fd);
	spill_stop(&s);
}
END_TEST

START_TEST(a_spoilt_file_costs_compute_only)
{
	struct spill_host s = { 0 };
	spill_start(&s);
	uint32_t whole = whole_of(&s);
	press(&s, 100);
	int fd = file_open(&s, O_RDWR);
	ck_assert_int_ge(fd, 0);
	struct stat st;
	ck_assert_int_eq(fstat(fd, &st), 0);
	/* one bit in the middle of every 4 KiB: each slot has one, wherever it lies */
	for (off_t at = 2048; at < st.st_size; at += 4096) {
		uint8_t byte;
		ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
		byte ^= 4;
		ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
	}
	ck_assert_int_eq(fsync(fd), 0);
	struct kvd_row_status before = status(&s);
	uint32_t cached = again(&s);
	struct kvd_row_status after = status(&s);
	printf("spoilt: %u of %u tokens cached, %llu lost\n", cached, whole,
	       (unsigned long long)after.lost_pages);
	ck_assert_uint_lt(cached, whole);
	ck_assert_uint_gt(after.lost_pages, before.lost_pages);
	ck_assert_uint_eq(again(&s), whole);
	host_fsck(&s.h);
	/* and with the end cut off: reads find no bytes, writes fill the hole */
	press(&s, 1000);
	ck_assert_int_eq(ftruncate(fd, 4096), 0);
	(void)again(&s);
	press(&s, 2000);
	(void)again(&s);
	host_fsck(&s.h);
	close(fd);
	spill_stop(&s);
}
END_TEST

/* kvd's youngest child: one that was killed may be on its way out for a while, and stands before it. */
static pid_t mover_of(pid_t kvd)
{
	char path[64], children[256] = "", *at = children;
	pid_t youngest = 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)kvd, (int)kvd);
	FILE *f = fopen(path, "r");
	if (!f)
		return 0;
	size_t n = fread(children, 1, sizeof(children) - 1, f);
	fclose(f);
	children[n] = 0;
	for (long pid; (pid = strtol(at, &at, 10)) > 0;)
		youngest = (pid_t)pid;
	return youngest;
}

START_TEST(the_mover_dies_in_between)
{
	struct spill_host s = { 0 };
	spill_start(&s);
	for (unsigned round = 0; round < 3; round++) {
		pid_t mover = 0;             /* the one before may have ended a moment ago */
		for (unsigned i = 0; i < 500 && !mover; i++, usleep(10000))
			mover = mover_of(s.h.kvd.pid);
		ck_assert_int_gt(mover, 0);
		press(&s, 100 + 1000 * round);
		ck_assert_int_eq(kill(mover, SIGKILL), 0);
		ck_assert_uint_gt(again(&s), 0);
	}
	ck_assert_uint_gt(status(&s).spill_reads, 0);
	ck_assert_uint_eq(status(&s).lost_pages, 0);
	host_fsck(&s.h);
	spill_stop(&s);
}
END_TEST

/* kvd is killed with pages in the file alone; the next kvd has the file and the key, and serves them. */
START_TEST(the_next_kvd_reads_them)
{
	struct spill_host s = { 0 };
	spill_start_with(&s, "--keeper");
	press(&s, 100);
	struct kvd_row_status before = status(&s);
	ck_assert_uint_gt(before.spilled_pages, 20);
	host_kill(&s.h.kvd, SIGKILL);
	host_kvd_start(&s.h, "10M", s.more);
	for (unsigned i = 0; i < 500 && !status(&s).adopted; i++)
		usleep(10000);
	struct kvd_row_status after = status(&s);
	ck_assert_uint_eq(after.adopted, 1);
	ck_assert_uint_eq(after.spilled_pages, before.spilled_pages);
	came_back(&s, again(&s));
	ck_assert_uint_gt(status(&s).spill_reads, before.spill_reads);
	ck_assert_uint_eq(status(&s).lost_pages, 0);
	host_fsck(&s.h);
	spill_stop(&s);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(there_and_back),
		SCENARIO(there_and_back_without_uring),
		SCENARIO(the_file_does_not_give_the_bytes_away),
		SCENARIO(a_spoilt_file_costs_compute_only),
		SCENARIO(the_mover_dies_in_between),
		SCENARIO(the_next_kvd_reads_them),
	};
	return scenario_run("spill", tests, sizeof(tests) / sizeof(tests[0]), 60);
}
