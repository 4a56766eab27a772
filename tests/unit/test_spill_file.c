/* test_spill_file.c - the spill file as kvd opens it: where, how large, for nobody else; and each way in which that
 * cannot be, with its sentence. */
#include "kvd/spill_file.h"
#include "tests/lib/suite.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct config config;
static char directory[64], error[SPILL_FILE_ERROR_MAX];
static struct spill_file file;

static void setup(void)
{
	config_init(&config);
	config.pool_bytes = 64 << 20;
	config.extent_bytes = 1 << 20;
	strcpy(directory, "/tmp/kvd-test-file-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(directory));
	strcpy(config.spill, directory);
	config.spill_bytes = (5 << 20) + 123;
	error[0] = 0;
	file.fd = -1;
}

static void teardown(void)
{
	if (file.fd >= 0)
		close(file.fd);
	ck_assert_int_eq(rmdir(directory), 0);       /* no file was left there */
}

static void refused(int r, const char *sentence)
{
	ck_assert_int_eq(spill_file_open(&config, -1, &file, error), r);
	ck_assert_msg(strstr(error, sentence), "%s", error);
	ck_assert_int_eq(file.fd, -1);
}

START_TEST(a_file_of_its_own)
{
	struct stat st;
	ck_assert_int_eq(spill_file_open(&config, -1, &file, error), 0);
	ck_assert_int_eq(fstat(file.fd, &st), 0);
	ck_assert_uint_eq(st.st_nlink, 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
	ck_assert_uint_eq(file.bytes, 5 << 20);      /* whole extents */
	ck_assert_int_eq(st.st_size, 5 << 20);
	ck_assert(!file.taken_over);
	ck_assert_int_eq(fcntl(file.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	ck_assert_int_eq(file.direct, (fcntl(file.fd, F_GETFL) & O_DIRECT) != 0);
	ck_assert(!file.preallocated || st.st_blocks * 512ull >= file.bytes);
}
END_TEST

START_TEST(no_tier)
{
	config.spill[0] = 0;
	config.spill_bytes = 0;
	ck_assert_int_eq(spill_file_open(&config, -1, &file, error), 0);
	ck_assert_int_eq(file.fd, -1);
}
END_TEST

START_TEST(without_a_size_it_follows_the_pool)
{
	config.spill_bytes = 0;
	ck_assert_int_eq(spill_file_open(&config, -1, &file, error), 0);
	ck_assert_uint_le(file.bytes, 4 * config.pool_bytes);
	ck_assert_uint_gt(file.bytes, 0);
}
END_TEST

START_TEST(a_tier_by_name)
{
	config.spill[0] = 0;
	config.spill_bytes = 0;
	config.n_tiers = 1;
	strcpy(config.tiers[0].name, "nvme");
	strcpy(config.tiers[0].path, directory);
	config.tiers[0].size_bytes = 3 << 20;
	ck_assert_int_eq(spill_file_open(&config, -1, &file, error), 0);
	ck_assert_uint_eq(file.bytes, 3 << 20);
	close(file.fd);
	strcpy(config.spill, directory);
	refused(-EINVAL, "[tier nvme] are both given");
	config.spill[0] = 0;
	config.n_tiers = 2;
	strcpy(config.tiers[1].name, "slow");
	refused(-EINVAL, "[tier slow] is the second tier");
}
END_TEST

START_TEST(what_cannot_be_is_said)
{
	char missing[80];
	snprintf(missing, sizeof(missing), "%s/none", directory);
	strcpy(config.spill, missing);
	refused(-ENOENT, "give a directory that is there");
	strcpy(config.spill, directory);
	config.spill_bytes = 1000;
	refused(-ENOSPC, "give a larger --spill-bytes");
	config.spill_bytes = 1ull << 60;
	ck_assert_int_lt(spill_file_open(&config, -1, &file, error), 0);
	ck_assert_msg(strstr(error, "give a smaller --spill-bytes"), "%s", error);
	ck_assert_int_eq(file.fd, -1);
	config.spill[0] = 0;
	config.spill_bytes = 5 << 20;
	refused(-EINVAL, "add --spill DIR");
}
END_TEST

/* The file that the kvd before had: taken as it is, or not at all. */
START_TEST(taken_over)
{
	ck_assert_int_eq(spill_file_open(&config, -1, &file, error), 0);
	int old = dup(file.fd);
	struct stat before, after;
	fstat(old, &before);
	close(file.fd);
	ck_assert_int_eq(spill_file_open(&config, old, &file, error), 0);
	fstat(file.fd, &after);
	ck_assert(file.taken_over && before.st_ino == after.st_ino && file.bytes == 5 << 20);
	old = file.fd;
	config.spill_bytes = 7 << 20;                /* the administrator wants another size: a new file */
	ck_assert_int_eq(spill_file_open(&config, old, &file, error), 0);
	ck_assert(!file.taken_over && file.bytes == 7 << 20);
}
END_TEST

/* A file system without O_DIRECT or O_TMPFILE still has a tier. */
START_TEST(on_tmpfs)
{
	struct stat st;
	char path[] = "/dev/shm/kvd-test-file-XXXXXX";
	if (!mkdtemp(path)) {
		printf("skipped: no /dev/shm\n");
		return;
	}
	strcpy(config.spill, path);
	ck_assert_msg(spill_file_open(&config, -1, &file, error) == 0, "%s", error);
	ck_assert_int_eq(fstat(file.fd, &st), 0);
	ck_assert_uint_eq(st.st_nlink, 0);
	ck_assert_int_eq(rmdir(path), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("spill_file");
	TCase *t = tcase_create("file");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, a_file_of_its_own);
	tcase_add_test(t, no_tier);
	tcase_add_test(t, without_a_size_it_follows_the_pool);
	tcase_add_test(t, a_tier_by_name);
	tcase_add_test(t, what_cannot_be_is_said);
	tcase_add_test(t, taken_over);
	tcase_add_test(t, on_tmpfs);
	suite_add_tcase(s, t);
	return suite_result(s);
}
