/* test_config.c - the configuration file, sizes, tenants of peers, free memory. */
#include "kvd/config.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvd/identity.h"
#include "kvd/memory.h"
#include "kvd/tenant_of.h"
#include "tests/lib/suite.h"

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
	ck_assert_int_eq(
		parse("# a comment\n"
		      "[kvd]\ndevice = host\npool = 4G\nextent=16M\npage-tokens = "
		      "16\npage-bytes-min = 64K\n"
		      "sharing = private\nsocket = /run/k.sock\nlog-level = debug\nkeeper = yes\n"
		      "state = /var/lib/kvd\n"
		      "[domain shop]\ntenants = a, b\ntenants = c\nsharing = reuse\n"
		      "[domain lab]\nsharing = merge\n"
		      "[tenant a]\nuid = 1000\nmin = 64M\nlow = 128M\nhigh = 256M\nmax = "
		      "512M\nweight = 300\n"
		      "priority = 50\nmax-connections = 9\nmax-streams = 8\nmax-sequences = "
		      "7\ninsert-rate = 6M\nmax-engines = 4\n"
		      "ops-rate = 5\n[tenant d]\ngid = 50\n[tenant e]\ncgroup = "
		      "/system.slice/e.service/\n"
		      "[delegate]\nuid = 7\nuid = 8\nuid = 7\n[engine]\nuid = 9\n"
		      "[tier disk]\ntype = file\npath = /var/cache/kvd\nsize = 32G\n"),
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
	ck_assert(config.keeper);
	ck_assert_str_eq(config.state, "/var/lib/kvd");
	ck_assert_uint_eq(config.domains[0].members, 3);
	const struct config_tenant *a = config_find_tenant(&config, "a");
	ck_assert_uint_eq(a->min_bytes, 64u << 20);
	ck_assert_uint_eq(a->low_bytes, 128u << 20);
	ck_assert_uint_eq(config_high_bytes(a), 256u << 20);
	ck_assert_uint_eq(a->weight, 300);
	ck_assert_uint_eq(a->priority, 50);
	ck_assert_uint_eq(a->connections_max, 9);
	ck_assert_uint_eq(a->streams_max, 8);
	ck_assert_uint_eq(a->sequences_max, 7);
	ck_assert_uint_eq(a->engines_max, 4);
	ck_assert_uint_eq(a->insert_bytes_per_sec, 6u << 20);
	ck_assert_uint_eq(a->ops_per_sec, 5);
	ck_assert_str_eq(config_find_tenant(&config, "e")->cgroup, "/system.slice/e.service");
	ck_assert_str_eq(config.tiers[0].path, "/var/cache/kvd");
	ck_assert_uint_eq(config.tiers[0].size_bytes, 32ull << 30);
	ck_assert_int_eq(config_check(&config, error), 0);
}
END_TEST

START_TEST(defaults_are_the_tables)
{
	ck_assert_int_eq(parse("[tenant a]\nmax = 160M\n[tenant b]\nmin = 1M\n[domain x]\n tenants = a\n"), 0);
	ck_assert_str_eq(config.device, "host");
	ck_assert_uint_eq(config.page_tokens, KVD_PAGE_TOKENS);
	ck_assert_uint_eq(config.page_bytes_min, 8192);
	ck_assert_int_eq(config.sharing, CORE_MERGE);
	ck_assert_int_eq(config.log_level, LOG_LEVEL_INFO);
	ck_assert(!config.keeper && !config.pool_bytes && !config.spill[0]);
	ck_assert_int_eq(config.domains[0].sharing, CORE_REUSE);
	const struct config_tenant *a = config_find_tenant(&config, "a"), *none = config_limits_of(&config, "nobody");
	ck_assert_uint_eq(config_high_bytes(a), 150u << 20);
	ck_assert_uint_eq(config_low_bytes(a), 0);
	ck_assert_uint_eq(config_low_bytes(config_find_tenant(&config, "b")), 1u << 20);
	ck_assert_uint_eq(a->weight, 100);
	ck_assert_uint_eq(a->ops_per_sec, none->ops_per_sec);
	ck_assert_uint_eq(none->connections_max, 512);
	ck_assert_uint_eq(none->streams_max, 256);
	ck_assert_uint_eq(config_high_bytes(none), 0);
	ck_assert_uint_eq(none->uid, CONFIG_NO_ID);
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
	{ "[kvd]\nkeeper = maybe\n", 2, "no or yes" },
	{ "[kvd]\nspill = here\n", 2, "absolute" },
	{ "[kvd]\nspill = /a/../b\n", 2, "absolute" },
	{ "[fast]\nsize = 1G\n", 2, "unknown section [fast]; known: [kvd]" },
	{ "[tier fast]\nsize = 1K\n", 2, "1M or more" },
	{ "[tier fast]\ntype = tape\n", 2, "write file" },
	{ "[tier /]\nsize = 1G\n", 2, "not a tier name" },
	{ "[tenant a]\nmin = some\n", 2, "[tenant a] min = some is not a size" },
	{ "[tenant a]\nweight = 0\n", 2, "1 to 10000" },
	{ "[tenant a]\nweight = 10001\n", 2, "1 to 10000" },
	{ "[tenant a]\npriority = high\n", 2, "1 to 10000" },
	{ "[tenant a]\nops-rate = 0\n", 2, "1 to 1000000" },
	{ "[tenant a]\nmax-connections = 4K\n", 2, "1 to 4096" },
	{ "[tenant a]\nmax-sequences = 65537\n", 2, "0 to 65536" },
	{ "[tenant a]\ninsert-rate = fast\n", 2, "512M" },
	{ "[tenant a]\ncgroup = x\n", 2, "absolute" },
	{ "[tenant a]\ncgroup = /x/..\n", 2, "absolute" },
	{ "[tenant a]\ncgroup = //x\n", 2, "absolute" },
	{ "[tenant a]\nhome = x\n", 2, "known: uid gid cgroup min low high max weight" },
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

static const struct {
	const char *text;
	unsigned line;
	const char *says;
} contradictions[] = {
	{ "[tenant a]\nuid = 5\n[tenant b]\nuid = 5\n", 4, "uid 5 is mapped to the tenants a (kvd.conf:2) and b" },
	{ "[tenant a]\ngid = 5\n[tenant b]\ngid = 5\n", 4, "gid 5 is mapped" },
	{ "[tenant a]\ncgroup = /x\n[tenant b]\ncgroup = /x/\n", 4, "cgroup /x is mapped" },
	{ "[tenant a]\nmin = 2G\nlow = 1G\n", 3, "low is below its min of 2G" },
	{ "[tenant a]\nmin = 2G\nmax = 2G\n", 2, "not below its max of 2G" },
	{ "[tenant a]\nhigh = 2G\n\nmax = 1G\n", 2, "high = 2G is not below its max of 1G" },
	{ "[tenant a]\nlow = 3G\nhigh = 2G\n", 2, "low = 3G is above its high of 2G; lower it or raise high" },
	{ "[tenant a]\nmin = 3G\nhigh = 2G\n", 2, "min = 3G is above its high of 2G" },
	{ "[tenant a]\nlow = 63M\nmax = 64M\n", 2, "high of 60M (a sixteenth below max" },
	{ "[kvd]\npool = 4G\n[tenant a]\nmin = 3G\n[tenant b]\nmin = 2G\n", 6, "add up to 5G, the pool has 4G" },
	{ "[tenant a]\nmin = 16777215T\n[tenant b]\nmin = 16777215T\n[kvd]\npool = 1G\n", 2, "the pool has 1G" },
	{ "[tenant uid-7]\nuid = 8\n", 2, "names that begin with uid-" },
	{ "[tenant uid-7]\ncgroup = /a\n", 2, "names that begin with uid-" },
	{ "[tier a]\nsize = 1G\n", 2, "has no path" },
	{ "[tier a]\npath = /x\n", 2, "has no size" },
	{ "[tier a]\npath = /x\nsize = 1G\n[tier b]\npath = /y\nsize = 1G\n", 5, "second tier after [tier a]" },
	{ "[kvd]\nspill = /x\n[tier b]\npath = /y\nsize = 1G\n", 4, "both given" },
	{ "[kvd]\npool = 1G\nspill-bytes = 1G\n", 3, "without a place" },
};

START_TEST(checks_the_whole)
{
	for (unsigned i = 0; i < sizeof(contradictions) / sizeof(contradictions[0]); i++) {
		char prefix[32];

		ck_assert_msg(parse(contradictions[i].text) == 0, "%s", error);
		ck_assert_int_eq(config_check(&config, error), -EINVAL);
		snprintf(prefix, sizeof(prefix), "kvd.conf:%u: ", contradictions[i].line);
		ck_assert_msg(!strncmp(error, prefix, strlen(prefix)), "%u: %s", i, error);
		ck_assert_msg(strstr(error, contradictions[i].says) != NULL, "%u: %s", i, error);
	}
	ck_assert_int_eq(parse("[tenant a]\nuid = 5\n[domain a]\ntenants = b\n"), 0);
	ck_assert_int_eq(config_check(&config, error), -EINVAL);
	ck_assert_int_eq(parse("[tenant a]\nuid = 5\n[domain a]\ntenants = a\n"), 0);
	ck_assert_int_eq(config_check(&config, error), 0);
	ck_assert_int_eq(parse("[tenant uid-5]\nuid = 5\nmax = 1G\n[tenant b]\nmin = 1G\nlow = 2G\nhigh = 2G\n"), 0);
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
	char name[KVD_NAME_MAX], how[KVD_NAME_MAX];
	const char *why = NULL, *cgroup = NULL;

	ck_assert_int_eq(parse("[tenant shop]\nuid = 2000\n[tenant lab]\ngid = 50\n[tenant "
			       "bob]\nuid = 2001\n"
			       "[domain d]\ntenants = x\n"
			       "[tenant web]\ncgroup = /sys.slice/web\n[tenant deep]\ncgroup = /sys.slice/web/deep\n"),
			 0);
#define TENANT(uid_, n_gids_, asked, delegate)                                                     \
	tenant_of(&config, &users,                                                                 \
		  &(struct tenant_peer){                                                           \
			  .uid = uid_, .gids = gids, .n_gids = n_gids_, .cgroup = cgroup},         \
		  asked, delegate, name, how, &why)
	cgroup = "/sys.slice/web";
	ck_assert_int_eq(TENANT(2000, 2, "", false), 0); /* uid before gid before cgroup */
	ck_assert_str_eq(name, "shop");
	ck_assert_str_eq(how, "uid 2000");
	ck_assert_int_eq(TENANT(1000, 2, "", false), 0);
	ck_assert_str_eq(how, "gid 50");
	ck_assert_int_eq(TENANT(1000, 1, "", false), 0); /* before the user's name */
	ck_assert_str_eq(name, "web");
	ck_assert_str_eq(how, "cgroup /sys.slice/web");
	cgroup = "/sys.slice/web/deep/er";
	ck_assert_int_eq(TENANT(1000, 1, "", false), 0);
	ck_assert_str_eq(name, "deep");
	cgroup = "/sys.slice/website";
	ck_assert_int_eq(TENANT(1000, 1, "", false), 0);
	ck_assert_str_eq(name, "ann");
	ck_assert_str_eq(how, "user name");
	cgroup = NULL;
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

START_TEST(users_of_passwd)
{
	static struct tenant_users users;
	char path[] = "/tmp/kvd-test-XXXXXX";
	int fd = mkstemp(path);
	FILE *file = fdopen(fd, "w");

	ck_assert_ptr_nonnull(file);
	fprintf(file, "root:x:0:0:root:/root:/bin/sh\n#remark\nbroken\nno-uid:x:y:\nuid-5:x:5:5::/:\na b:x:6:6::/:\n");
	fprintf(file, "huge:x:4294967296:1::/:\nlong:x:7:7:%05000d:/:/bin/sh\n", 0);
	for (int i = 0; i < 300; i++)
		fprintf(file, "user%d:x:%d:100:A Name:/home/user%d:/bin/sh\n", i, 1000 + i, i);
	fprintf(file, "last:x:99:99::/:/bin/sh");
	fclose(file);
	tenant_users_read(path, &users);
	ck_assert_uint_eq(users.n, 302);
	ck_assert_str_eq(users.users[0].name, "root");
	ck_assert_uint_eq(users.users[0].uid, 0);
	for (unsigned i = 0; i < 300; i++)
		ck_assert_uint_eq(users.users[i + 1].uid, 1000 + i);
	ck_assert_str_eq(users.users[301].name, "last");
	ck_assert_uint_eq(users.users[301].uid, 99);
	unlink(path);
	tenant_users_read(path, &users);
	ck_assert_uint_eq(users.n, 0);
}
END_TEST

/* The file that is installed names every key, and its lines are what holds without them. */
START_TEST(the_default_file_is_the_defaults)
{
	static struct config defaults;
	static char text[16384];
	FILE *file = fopen("systemd/kvd.conf", "r");
	char line[256];
	size_t n = 0;
	unsigned keys = 0;

	if (!file) {
		printf("skipped: not run in the source tree\n");
		return;
	}
	while (fgets(line, sizeof(line), file)) {
		const char *value = strstr(line, " =");
		bool key = line[0] == '#' && line[1] >= 'a' && line[1] <= 'z' && value &&
			   !memchr(line, ' ', (size_t)(value - line));
		bool header = line[0] == '[' || !strncmp(line, "#[", 2);

		keys += key;
		if (header || (key && value[2] == ' ')) /* a default that can be written */
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s", line + (line[0] == '#'));
	}
	fclose(file);
	ck_assert_uint_eq(keys, CONFIG_KEYS);
	config_init(&defaults);
	ck_assert_msg(parse(text) == 0, "%s", error);
	ck_assert_str_eq(config.device, defaults.device);
	ck_assert_uint_eq(config.page_bytes_min, defaults.page_bytes_min);
	ck_assert_int_eq(config.sharing, defaults.sharing);
	ck_assert_int_eq(config.log_level, defaults.log_level);
	ck_assert_uint_eq(config.n_tenants, 1);
	ck_assert_str_eq(config.tenants[0].name, "NAME");
	ck_assert_uint_eq(config.tenants[0].ops_per_sec, config.stranger.ops_per_sec);
	ck_assert_uint_eq(config.tenants[0].min_bytes + config.tenants[0].max_bytes + config.tenants[0].low_bytes, 0);
	ck_assert_int_eq(config.domains[0].sharing, CORE_REUSE);
}
END_TEST

static void note_change(void *arg, const char *section, const char *key)
{
	char *list = arg;

	snprintf(list + strlen(list), 200 - strlen(list), "%s.%s ", section, key);
}

START_TEST(keys_that_wait_for_a_restart)
{
	static struct config before;
	char list[200] = "";

	ck_assert_int_eq(parse("[kvd]\npool = 1G\nsocket = /a/longer/one\nsocket = /s\nlog-level = warn\n"
			       "[tier t]\npath = /t\nsize = 1G\n"), 0);
	before = config;
	config_keep_start(&config, &before, note_change, list);
	ck_assert_str_eq(list, "");
	ck_assert_int_eq(parse("[kvd]\npool = 2G\nsocket = /s\nkeeper = yes\nlog-level = debug\n"
			       "[tier t]\npath = /t\nsize = 2G\n[tenant x]\nmin = 1G\n"), 0);
	config_keep_start(&config, &before, note_change, list);
	ck_assert_str_eq(list, "kvd.pool kvd.keeper t.tier ");
	ck_assert_uint_eq(config.pool_bytes, 1u << 30);
	ck_assert(!config.keeper);
	ck_assert_uint_eq(config.tiers[0].size_bytes, 1u << 30);
	ck_assert_int_eq(config.log_level, LOG_LEVEL_DEBUG);
	ck_assert_uint_eq(config.n_tenants, 1);
}
END_TEST

START_TEST(control_groups)
{
	char path[CONFIG_PATH_MAX], text[600];

	ck_assert_int_eq(identity_parse_cgroup("0::/user.slice/a b\n", path), 0);
	ck_assert_str_eq(path, "/user.slice/a b");
	ck_assert_int_eq(identity_parse_cgroup("9:name=systemd:/one\n4:memory:/two\n0::/three\n", path), 0);
	ck_assert_str_eq(path, "/three");
	ck_assert_int_eq(identity_parse_cgroup("4:memory:/two\n1:name=systemd:/one", path), 0);
	ck_assert_str_eq(path, "/one");
	ck_assert_int_eq(identity_parse_cgroup("4:memory:/two\n", path), -ENOENT);
	ck_assert_int_eq(identity_parse_cgroup("", path), -ENOENT);
	ck_assert_int_eq(identity_parse_cgroup("0::\n", path), -ENOENT);
	ck_assert_int_eq(identity_parse_cgroup("0::/../other\n", path), -ENOENT);
	snprintf(text, sizeof(text), "0::/%0500d\n", 1);
	ck_assert_int_eq(identity_parse_cgroup(text, path), -ENAMETOOLONG);
	ck_assert_ptr_null(config_of_cgroup(&config, "/a"));
	ck_assert_int_eq(parse("[tenant all]\ncgroup = /\n"), 0);
	ck_assert_str_eq(config_of_cgroup(&config, "/a")->name, "all");
	ck_assert_str_eq(config_of_cgroup(&config, "/")->name, "all");
}
END_TEST

START_TEST(control_group_of_a_process)
{
	char path[CONFIG_PATH_MAX], mine[CONFIG_PATH_MAX], text[4096];
	int pair[2], file = open("/proc/self/cgroup", O_RDONLY), r, status;
	ssize_t n = read(file, text, sizeof(text) - 1);

	ck_assert_int_gt(n, 0);
	text[n] = '\0';
	close(file);
	ck_assert_int_eq(identity_parse_cgroup(text, mine), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	r = identity_cgroup(pair[0], path);
	close(pair[0]);
	close(pair[1]);
	if (r == -ENOPROTOOPT) {
		printf("skipped: this kernel has no SO_PEERPIDFD, so a control group is no identity\n");
		return;
	}
	ck_assert_int_eq(r, 0);
	ck_assert_str_eq(path, mine);
	/* A socket whose maker has ended says nothing of who has it now. */
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_SEQPACKET, 0), hand[2], peer;

	snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "kvd-test-%d", getpid());
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(listener, 1), 0);
	ck_assert_int_eq(pipe(hand), 0);
	pid_t child = fork();
	if (child == 0) {
		int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
		char byte;

		close(hand[1]);
		if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
			_exit(1);
		if (fork() == 0) {  /* a grandchild keeps the socket */
			if (read(hand[0], &byte, 1) < 0)
				_exit(1);
			_exit(0);
		}
		_exit(0);
	}
	close(hand[0]);
	peer = accept(listener, NULL, NULL);
	ck_assert_int_ge(peer, 0);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(identity_cgroup(peer, path), -ESRCH);
	close(hand[1]);
	close(peer);
	close(listener);
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

	tcase_add_test(tcase, reads_every_key);
	tcase_add_test(tcase, defaults_are_the_tables);
	tcase_add_loop_test(tcase, names_what_is_wrong, 0, (int)(sizeof(bad) / sizeof(bad[0])));
	tcase_add_test(tcase, bounds_are_kept);
	tcase_add_test(tcase, checks_the_whole);
	tcase_add_test(tcase, loads_dropins_in_order);
	tcase_add_test(tcase, sizes);
	tcase_add_test(tcase, extents_follow_the_pool);
	tcase_add_test(tcase, tenants_of_peers);
	tcase_add_test(tcase, control_groups);
	tcase_add_test(tcase, control_group_of_a_process);
	tcase_add_test(tcase, users_of_passwd);
	tcase_add_test(tcase, the_default_file_is_the_defaults);
	tcase_add_test(tcase, keys_that_wait_for_a_restart);
	tcase_add_test(tcase, free_memory);
	suite_add_tcase(suite, tcase);
	return suite_result(suite);
}
