/* test_config.c - the configuration file, sizes, tenants of peers, free memory. */
#include "kvd/config.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvd/memory.h"
#include "kvd/tenant_of.h"

static struct config config;
static char error[CONFIG_ERROR_MAX];

static int parse(const char *text)
{
	config_init(&config);
	error[0] = '\0';
	return config_parse(&config, "kvd.conf", text, strlen(text), error);
}

START_TEST(reads_every_key)
{
	ck_assert_int_eq(parse("# a comment\n"
			       "[kvd]\ndevice = host\npool = 4G\nextent=16M\npage-tokens = "
			       "16\npage-bytes-min = 64K\n"
			       "sharing = private\nsocket = /run/k.sock\nlog-level = debug\n"
			       "[domain shop]\ntenants = a, b\ntenants = c\nsharing = reuse\n"
			       "[domain lab]\nsharing = merge\n"
			       "[tenant a]\nuid = 1000\nmax = 512M\n[tenant d]\ngid = 50\n"
			       "[delegate]\nuid = 7\nuid = 8\nuid = 7\n[engine]\nuid = 9\n"),
			 0);
	ck_assert_str_eq(config.device, "host");
	ck_assert_uint_eq(config.pool_bytes, 4ull << 30);
	ck_assert_uint_eq(config.extent_bytes, 16u << 20);
	ck_assert_uint_eq(config.page_bytes_min, 65536);
	ck_assert_int_eq(config.sharing, CORE_PRIVATE);
	ck_assert_str_eq(config.socket, "/run/k.sock");
	ck_assert_int_eq(config.log_level, LOG_LEVEL_DEBUG);
	ck_assert_uint_eq(config.n_domains, 2);
	ck_assert_str_eq(config_domain_of(&config, "c")->name, "shop");
	ck_assert_int_eq(config_domain_of(&config, "a")->sharing, CORE_REUSE);
	ck_assert_int_eq(config.domains[1].sharing, CORE_MERGE);
	ck_assert_ptr_null(config_domain_of(&config, "d"));
	ck_assert_uint_eq(config_find_tenant(&config, "a")->max_bytes, 512u << 20);
	ck_assert_uint_eq(config_find_tenant(&config, "d")->gid, 50);
	ck_assert_uint_eq(config_find_tenant(&config, "d")->uid, CONFIG_NO_ID);
	ck_assert_uint_eq(config.n_delegates, 2);
	ck_assert_uint_eq(config.engine_uids[0], 9);
	ck_assert_int_eq(config_check(&config, error), 0);
}
END_TEST

static const struct {
	const char *text;
	unsigned line;
	const char *says;
} bad[] = {
	{ "pool = 1G\n", 1, "[kvd]" },
	{ "[kvd]\npool = lots\n", 2, "512M" },
	{ "[kvd]\npool = 99999999999999999999T\n", 2, "not a size" },
	{ "[kvd]\n\npage-tokens = 32\n", 3, "16 only" },
	{ "[kvd]\npage-bytes-min = 3000\n", 2, "power of two" },
	{ "[kvd]\nsharing = all\n", 2, "private, merge or reuse" },
	{ "[kvd]\nlog-level = loud\n", 2, "debug" },
	{ "[kvd]\ncolour = red\n", 2, "`colour`" },
	{ "[kvd\n", 1, "neither" },
	{ "[kvd]\njust words\n", 2, "neither" },
	{ "[tier fast]\nsize = 1G\n", 2, "unknown section" },
	{ "[tenant a]\nmin = 1G\n", 2, "min is not supported by this version" },
	{ "[tenant a]\nlow = 1G\n", 2, "low is not supported" },
	{ "[tenant a]\nhigh = 1G\n", 2, "high is not supported" },
	{ "[tenant a]\nweight = 1\n", 2, "weight is not supported" },
	{ "[tenant a]\npriority = 1\n", 2, "priority is not supported" },
	{ "[tenant a]\ncgroup = /x\n", 2, "cgroup is not supported" },
	{ "[tenant a]\nhome = x\n", 2, "uid gid max" },
	{ "[tenant a]\nuid = root\n", 2, "numeric" },
	{ "[tenant a]\nuid = 4K\n", 2, "numeric" },
	{ "[tenant a]\nuid = 65534\n", 2, "overflow" },
	{ "[tenant a b]\nuid = 1\n", 2, "not a tenant name" },
	{ "[tenant -a]\nuid = 1\n", 2, "not a tenant name" },
	{ "[domain x]\ntenants = a\n[domain y]\ntenants = b a\n", 4, "domain x already" },
	{ "[domain x]\nowner = a\n", 2, "tenants sharing" },
	{ "[domain x]\ntenants = a/b\n", 2, "not a tenant name" },
	{ "[delegate]\ngid = 1\n", 2, "known: uid" },
};

START_TEST(names_what_is_wrong)
{
	char prefix[32];

	ck_assert_int_eq(parse(bad[_i].text), -EINVAL);
	snprintf(prefix, sizeof(prefix), "kvd.conf:%u: ", bad[_i].line);
	ck_assert_msg(!strncmp(error, prefix, strlen(prefix)), "%s", error);
	ck_assert_msg(strstr(error, bad[_i].says) != NULL, "%s", error);
}
END_TEST

START_TEST(bounds_are_kept)
{
	static char text[LIMIT_CONFIG_FILE_BYTES];
	size_t n = 0;

	memset(text, ' ', 400);
	text[400] = '\0';
	ck_assert_int_eq(parse(text), -EINVAL);
	ck_assert_ptr_nonnull(strstr(error, "line of"));
	ck_assert_int_eq(config_parse(&config, "kvd.conf", "[kvd]\npool\0= 1G\n", 16, error),
			 -EINVAL);
	for (unsigned i = 0; i <= LIMIT_CONFIG_TENANTS; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "[tenant t%u]\nuid = %u\n", i, i);
	ck_assert_int_eq(parse(text), -EINVAL);
	ck_assert_ptr_nonnull(strstr(error, "more than 1024 tenants"));
}
END_TEST

START_TEST(checks_the_whole)
{
	ck_assert_int_eq(parse("[tenant a]\nuid = 5\n[tenant b]\nuid = 5\n"), 0);
	ck_assert_int_eq(config_check(&config, error), -EINVAL);
	ck_assert_ptr_nonnull(strstr(error, "uid 5"));
	ck_assert_int_eq(parse("[tenant a]\ngid = 5\n[tenant b]\ngid = 5\n"), 0);
	ck_assert_int_eq(config_check(&config, error), -EINVAL);
	ck_assert_int_eq(parse("[tenant a]\nuid = 5\n[domain a]\ntenants = b\n"), 0);
	ck_assert_int_eq(config_check(&config, error), -EINVAL);
	ck_assert_int_eq(parse("[tenant a]\nuid = 5\n[domain a]\ntenants = a\n"), 0);
	ck_assert_int_eq(config_check(&config, error), 0);
	ck_assert_int_eq(parse("[domain uid-5]\ntenants = a\n"), 0);
	ck_assert_int_eq(config_check(&config, error), -EINVAL);
}
END_TEST

static void write_file(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	fclose(file);
}

START_TEST(loads_dropins_in_order)
{
	char dir[] = "/tmp/kvd-test-XXXXXX", main_path[64], dropin_dir[64], path[128];

	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(main_path, sizeof(main_path), "%s/kvd.conf", dir);
	snprintf(dropin_dir, sizeof(dropin_dir), "%s/kvd.conf.d", dir);
	write_file(main_path, "[kvd]\npool = 1G\nextent = 4M\n");
	config_init(&config);
	ck_assert_int_eq(config_load(&config, main_path, error), 0);
	ck_assert_int_eq(mkdir(dropin_dir, 0700), 0);
	snprintf(path, sizeof(path), "%s/20-b.conf", dropin_dir);
	write_file(path, "[kvd]\npool = 3G\n");
	snprintf(path, sizeof(path), "%s/10-a.conf", dropin_dir);
	write_file(path, "[kvd]\npool = 2G\n[tenant x]\nuid = 3\n");
	snprintf(path, sizeof(path), "%s/30-c.off", dropin_dir);
	write_file(path, "nonsense\n");
	config_init(&config);
	ck_assert_int_eq(config_load(&config, main_path, error), 0);
	ck_assert_uint_eq(config.pool_bytes, 3ull << 30);
	ck_assert_uint_eq(config.extent_bytes, 4u << 20);
	ck_assert_ptr_nonnull(config_find_tenant(&config, "x"));
	snprintf(path, sizeof(path), "%s/40-d.conf", dropin_dir);
	write_file(path, "[kvd]\n\nnope = 1\n");
	config_init(&config);
	ck_assert_int_eq(config_load(&config, main_path, error), -EINVAL);
	ck_assert_ptr_nonnull(strstr(error, "40-d.conf:3:"));
	config_init(&config);
	ck_assert_int_lt(config_load(&config, "/nonexistent/kvd.conf", error), 0);
	ck_assert_ptr_nonnull(strstr(error, "/nonexistent/kvd.conf"));
	for (const char *const *name = (const char *const[]){ "10-a.conf", "20-b.conf", "30-c.off",
							      "40-d.conf", NULL };
	     *name; name++) {
		snprintf(path, sizeof(path), "%s/%s", dropin_dir, *name);
		unlink(path);
	}
	rmdir(dropin_dir);
	unlink(main_path);
	rmdir(dir);
}
END_TEST

START_TEST(sizes)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 },
		{ "4096", 4096 },
		{ "64K", 65536 },
		{ "64k", 65536 },
		{ "512M", 512u << 20 },
		{ "4G", 4ull << 30 },
		{ "2T", 2ull << 40 },
		{ "8MiB", 8u << 20 },
		{ "18446744073709551615", UINT64_MAX },
	};
	static const char *const wrong[] = { "",	  "G",	  "-1",
					     "+1",	  "1.5G", "4GB",
					     "4 G",	  "0x10", "18446744073709551616",
					     "16777216T", "1MiBx" };
	char text[SIZE_TEXT_MAX];
	uint64_t bytes;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		ck_assert_msg(size_parse(good[i].text, &bytes) == 0, "%s", good[i].text);
		ck_assert_uint_eq(bytes, good[i].bytes);
	}
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		ck_assert_msg(size_parse(wrong[i], &bytes) < 0, "%s", wrong[i]);
	size_format(1023, text);
	ck_assert_str_eq(text, "1023B");
	size_format(4ull << 30, text);
	ck_assert_str_eq(text, "4G");
	size_format((4ull << 30) + (700u << 20), text);
	ck_assert_str_eq(text, "4.6G");
	size_format(UINT64_MAX, text);
	ck_assert_ptr_nonnull(strchr(text, 'T'));
}
END_TEST

START_TEST(extents_follow_the_pool)
{
	uint64_t page_bytes = 368640; /* SmolLM2-135M: 30 planes x 12,288 bytes */

	ck_assert_uint_eq(config_extent_bytes(16u << 20), 1u << 20);
	ck_assert_uint_eq(config_extent_bytes(64u << 20), 4u << 20); /* SmolLM2 fits a pool this small */
	ck_assert_uint_eq(config_extent_bytes(256u << 20), 4u << 20);
	/* 256 MiB: two engines x (own colour + shared) and four tenants, >= 8 pages an extent. */
	ck_assert_uint_ge(config_extent_bytes(256u << 20) / page_bytes, 8);
	ck_assert_uint_ge((256u << 20) / config_extent_bytes(256u << 20), 4 * 2 * 4);
	ck_assert_uint_eq(config_extent_bytes(140ull << 30), 64u << 20);
	for (uint64_t pool = 16u << 20; pool < 2ull << 40; pool += pool / 7)
		ck_assert_uint_lt(pool / config_extent_bytes(pool), 3000);
}
END_TEST

START_TEST(tenants_of_peers)
{
	static struct tenant_users users = { .n = 2,
					     .users = { { 1000, "ann" }, { 1001, "bob" } } };
	const uint32_t gids[] = { 100, 50 };
	char name[KVD_NAME_MAX];
	const char *why = NULL;

	ck_assert_int_eq(parse("[tenant shop]\nuid = 2000\n[tenant lab]\ngid = 50\n[tenant "
			       "bob]\nuid = 2001\n"
			       "[domain d]\ntenants = x\n"),
			 0);
#define TENANT(uid, n_gids, asked, delegate) \
	tenant_of(&config, &users, uid, gids, n_gids, asked, delegate, name, &why)
	ck_assert_int_eq(TENANT(2000, 2, "", false), 0); /* uid before gid */
	ck_assert_str_eq(name, "shop");
	ck_assert_int_eq(TENANT(1000, 2, "", false), 0); /* a supplementary group */
	ck_assert_str_eq(name, "lab");
	ck_assert_int_eq(TENANT(1000, 1, "", false), 0);
	ck_assert_str_eq(name, "ann");
	ck_assert_int_eq(TENANT(1001, 1, "", false),
			 0); /* tenant bob is uid 2001, this is another bob */
	ck_assert_str_eq(name, "uid-1001");
	ck_assert_int_eq(TENANT(4242, 1, "", false), 0);
	ck_assert_str_eq(name, "uid-4242");
	ck_assert_int_eq(TENANT(65534, 1, "", true), -EPERM);
	ck_assert_int_eq(TENANT(1000, 1, "ann", false), 0); /* one's own name may be said */
	ck_assert_int_eq(TENANT(1000, 1, "shop", false), -EACCES);
	ck_assert_int_eq(TENANT(1000, 1, "shop", true), 0);
	ck_assert_str_eq(name, "shop");
	ck_assert_int_eq(TENANT(1000, 1, "a b", true), -EINVAL);
	ck_assert_int_eq(TENANT(1000, 1, "d", true),
			 -EEXIST); /* would join a domain it is not in */
	ck_assert_int_eq(TENANT(1000, 1, "x", true), 0);
#undef TENANT
}
END_TEST

static void fake_file(const char *root, const char *path, const char *text)
{
	char full[256];

	snprintf(full, sizeof(full), "%s/%s", root, path);
	for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = '\0';
		(void)mkdir(full, 0700);
		*slash = '/';
	}
	write_file(full, text);
}

START_TEST(free_memory)
{
	char root[] = "/tmp/kvd-test-XXXXXX", command[64];
	struct memory_free memory;

	ck_assert_ptr_nonnull(mkdtemp(root));
	ck_assert_int_lt(memory_read(root, &memory), 0);
	fake_file(root, "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable:    8388608 kB\n");
	ck_assert_int_eq(memory_read(root, &memory), 0);
	ck_assert_uint_eq(memory_pool_max(&memory), 8ull << 30);
	/* cgroup v2: the parent's limit is the tighter one */
	fake_file(root, "proc/self/cgroup", "0::/a/b\n");
	fake_file(root, "sys/fs/cgroup/a/memory.max", "4294967296\n");
	fake_file(root, "sys/fs/cgroup/a/memory.current", "1073741824\n");
	fake_file(root, "sys/fs/cgroup/a/b/memory.max", "max\n");
	fake_file(root, "sys/fs/cgroup/a/b/memory.current", "1073741824\n");
	ck_assert_int_eq(memory_read(root, &memory), 0);
	ck_assert_uint_eq(memory.cgroup_max_bytes, 4ull << 30);
	ck_assert_uint_eq(memory_pool_max(&memory), 3ull << 30);
	/* v1: its "no limit" is none */
	fake_file(root, "proc/self/cgroup", "4:memory:/c\n0::/\n");
	fake_file(root, "sys/fs/cgroup/memory/c/memory.limit_in_bytes", "9223372036854771712\n");
	fake_file(root, "sys/fs/cgroup/memory/c/memory.usage_in_bytes", "4096\n");
	ck_assert_int_eq(memory_read(root, &memory), 0);
	ck_assert_uint_eq(memory_pool_max(&memory), 8ull << 30);
	fake_file(root, "sys/fs/cgroup/memory/c/memory.limit_in_bytes", "1048576\n");
	ck_assert_int_eq(memory_read(root, &memory), 0);
	ck_assert_uint_eq(memory_pool_max(&memory), 1048576 - 4096);
	snprintf(command, sizeof(command), "rm -r %s", root);
	ck_assert_int_eq(system(command), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("config");
	TCase *tcase = tcase_create("config");
	SRunner *runner;
	int failed;

	tcase_add_test(tcase, reads_every_key);
	tcase_add_loop_test(tcase, names_what_is_wrong, 0, (int)(sizeof(bad) / sizeof(bad[0])));
	tcase_add_test(tcase, bounds_are_kept);
	tcase_add_test(tcase, checks_the_whole);
	tcase_add_test(tcase, loads_dropins_in_order);
	tcase_add_test(tcase, sizes);
	tcase_add_test(tcase, extents_follow_the_pool);
	tcase_add_test(tcase, tenants_of_peers);
	tcase_add_test(tcase, free_memory);
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
