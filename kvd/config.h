/* config.h - what the administrator wrote: /etc/kvd/kvd.conf, its drop-ins, the command line.
 *
 * The keys are the lines of config.def; a struct here is the record of one section.  Read at start and
 * again at every SIGHUP, into a second struct config, so that a file with an error changes nothing;
 * nothing is allocated.  Every record remembers where each of its keys was written, so that a
 * contradiction between two lines is named by file and line.  Loop thread only. */
#ifndef KVD_CONFIG_H
#define KVD_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvd/core/core.h"
#include "kvd/limits.h"
#include "kvd/log.h"

#define CONFIG_PATH_MAX 256
#define CONFIG_NO_ID UINT32_MAX

enum config_section { CONFIG_KVD, CONFIG_DOMAIN, CONFIG_TENANT, CONFIG_DELEGATE, CONFIG_ENGINE, CONFIG_TIER };

/* One number per key: CONFIG_TENANT_min_bytes.  Each counts within the whole table. */
enum config_key_number {
#define KVD_SECTION(section, header, named, text)
#define KVD_KEY(section, key, type, field, least, most, standard, when, text) CONFIG_##section##_##field,
#include "kvd/config.def"
#undef KVD_KEY
#undef KVD_SECTION
	CONFIG_KEYS
};

/* Where a key was written; line 0: nowhere, its default holds. */
struct config_place { uint16_t file; uint32_t line; };

struct config_tenant {
	char name[KVD_NAME_MAX];
	uint32_t uid, gid;         /* CONFIG_NO_ID: not mapped */
	char cgroup[CONFIG_PATH_MAX]; /* "": not mapped */
	uint64_t min_bytes, low_bytes, high_bytes, max_bytes;
	uint64_t insert_bytes_per_sec;
	uint32_t weight, priority, connections_max, streams_max, engines_max, sequences_max, ops_per_sec;
	struct config_place section;          /* first mentioned */
	struct config_place places[CONFIG_KEYS];
};

struct config_domain {
	char name[KVD_NAME_MAX];
	enum core_sharing sharing;
	uint32_t members;          /* tenants in it */
	struct config_place section;
	struct config_place places[CONFIG_KEYS];
};

struct config_member {             /* tenant of a domain; the tenant need not have a section */
	char tenant[KVD_NAME_MAX];
	uint32_t domain;           /* index of domains[] */
	struct config_place place;
};

enum config_tier_kind { CONFIG_TIER_FILE = 0 };

struct config_tier {
	char name[KVD_NAME_MAX];
	enum config_tier_kind kind;
	char path[CONFIG_PATH_MAX];
	uint64_t size_bytes;
	struct config_place section;
	struct config_place places[CONFIG_KEYS];
};

struct config {
	char device[16];
	uint64_t pool_bytes;       /* 0: not given */
	uint64_t extent_bytes;     /* 0: follows the pool */
	uint64_t spill_bytes;      /* 0: four times the pool, or half of what is free there */
	uint32_t page_tokens, page_bytes_min;
	uint32_t spin_usec;        /* 0: kvd sleeps as soon as there is nothing to do */
	enum core_sharing sharing; /* of tenants outside every domain */
	enum log_level log_level;
	bool keeper;
	char socket[CONFIG_PATH_MAX], state[CONFIG_PATH_MAX], spill[CONFIG_PATH_MAX]; /* "": none */
	struct config_place places[CONFIG_KEYS];
	uint32_t n_tenants, n_domains, n_members, n_delegates, n_engine_uids, n_tiers, n_files;
	struct config_tenant tenants[LIMIT_CONFIG_TENANTS];
	struct config_domain domains[LIMIT_CONFIG_DOMAINS];
	struct config_member members[LIMIT_CONFIG_MEMBERS];
	struct config_tier tiers[LIMIT_CONFIG_TIERS];
	uint32_t delegates[LIMIT_CONFIG_UIDS], engine_uids[LIMIT_CONFIG_UIDS];
	char files[LIMIT_CONFIG_FILES][CONFIG_PATH_MAX];
	/* What a tenant has that no section names. */
	struct config_tenant stranger;
};

#define CONFIG_ERROR_MAX 768

/* Set the defaults. */
void config_init(struct config *config);

/* Parse one file's text into config; later files add to and override earlier ones.
 * name     for errors
 * ret_error  "NAME:LINE: what is wrong; what to write", CONFIG_ERROR_MAX bytes
 * Returns  0, -EINVAL, -ENOMEM. */
int config_parse(struct config *config, const char *name, const char *text, size_t text_bytes,
		 char *ret_error);

/* Parse path, then path.d/ *.conf in the order of their names. */
int config_load(struct config *config, const char *path, char *ret_error);

/* Check what no single line can: called after the last file and the command line.
 * Returns 0 or -EINVAL, with file and line of the later of two that contradict each other. */
int config_check(const struct config *config, char *ret_error);

/* Keys that wait for a restart: give config those of the running one, and call changed() for each
 * whose value is another.  Records are compared by name; one more or one fewer is a change. */
void config_keep_start(struct config *config, const struct config *running,
		       void (*changed)(void *arg, const char *section, const char *key), void *arg);

/* "512M", "4G", "64K", "4096", "1.5G" is not accepted.  -EINVAL, -ERANGE. */
int size_parse(const char *text, uint64_t *ret_bytes);
#define SIZE_TEXT_MAX 32
/* "3.5G", rounded down. */
void size_format(uint64_t bytes, char ret[SIZE_TEXT_MAX]);

/* A name of a tenant or domain: 1..63 of letters, digits and . _ - @ +, first a letter, digit or
 * _. */
bool config_name_valid(const char *name);

const struct config_tenant *config_find_tenant(const struct config *config, const char *name);
/* The same, or what holds for a tenant without a section: never NULL. */
const struct config_tenant *config_limits_of(const struct config *config, const char *name);
/* Domain the tenant was declared in, NULL if none. */
const struct config_domain *config_domain_of(const struct config *config, const char *tenant);
bool config_is_domain(const struct config *config, const char *name);
/* The tenant whose cgroup is the longest that contains path; NULL: none. */
const struct config_tenant *config_of_cgroup(const struct config *config, const char *path);
bool config_has_cgroups(const struct config *config);
/* high as the core gets it: given, or a sixteenth below max, rounded up; 0: none. */
uint64_t config_high_bytes(const struct config_tenant *tenant);
/* low as the core gets it: at least min. */
uint64_t config_low_bytes(const struct config_tenant *tenant);

/* Extent size for a pool when none is given: a power of two, about 1/64 of it (limits.h). */
uint64_t config_extent_bytes(uint64_t pool_bytes);

#endif
