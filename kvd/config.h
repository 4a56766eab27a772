/* config.h - what the administrator wrote: /etc/kvd/kvd.conf, its drop-ins, the command line.
 *
 * [kvd]          device pool extent page-tokens page-bytes-min sharing socket log-level
 * [domain NAME]  tenants = A, B   sharing = private|merge|reuse
 * [tenant NAME]  uid = N  gid = N  max = SIZE
 * [delegate]     uid = N          uids that may act for any tenant (the gateway)
 * [engine]       uid = N          uids, besides the daemon's own, root and group kvadm, whose
 *                                 processes may attach as engines
 *
 * Read once at start, by inih; allocated then and never again.  Every error names file, line, key
 * and what to write instead. */
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

struct config_tenant {
	char name[KVD_NAME_MAX];
	uint32_t uid, gid;         /* CONFIG_NO_ID: not mapped */
	uint64_t max_bytes;        /* 0: no limit */
};

struct config_domain {
	char name[KVD_NAME_MAX];
	enum core_sharing sharing;
};

struct config_member {             /* tenant of a domain; the tenant need not have a section */
	char tenant[KVD_NAME_MAX];
	uint32_t domain;           /* index of domains[] */
};

struct config {
	char device[16];
	uint64_t pool_bytes;       /* 0: not given */
	uint64_t extent_bytes;     /* 0: follows the pool */
	uint32_t page_bytes_min;
	enum core_sharing sharing; /* of tenants outside every domain */
	enum log_level log_level;
	char socket[CONFIG_PATH_MAX];
	uint32_t n_tenants, n_domains, n_members, n_delegates, n_engine_uids;
	struct config_tenant tenants[LIMIT_CONFIG_TENANTS];
	struct config_domain domains[LIMIT_CONFIG_DOMAINS];
	struct config_member members[LIMIT_CONFIG_MEMBERS];
	uint32_t delegates[LIMIT_CONFIG_UIDS], engine_uids[LIMIT_CONFIG_UIDS];
};

#define CONFIG_ERROR_MAX 512

/* Set the defaults. */
void config_init(struct config *config);

/* Parse one file's text into config; later files add to and override earlier ones.
 * name     for errors
 * ret_error  "NAME:LINE: what is wrong; what to write", CONFIG_ERROR_MAX bytes
 * Returns  0, -EINVAL (see ret_error), -ENOMEM. */
int config_parse(struct config *config, const char *name, const char *text, size_t text_bytes,
		 char *ret_error);

/* Parse path, then path.d/ *.conf in the order of their names. */
int config_load(struct config *config, const char *path, char *ret_error);

/* Check what no single line can: called after the last file.  Returns 0 or -EINVAL. */
int config_check(const struct config *config, char *ret_error);

/* "512M", "4G", "64K", "4096", "1.5G" is not accepted.  -EINVAL, -ERANGE. */
int size_parse(const char *text, uint64_t *ret_bytes);
#define SIZE_TEXT_MAX 32
/* "3.5G", rounded down. */
void size_format(uint64_t bytes, char ret[SIZE_TEXT_MAX]);

/* A name of a tenant or domain: 1..63 of letters, digits and . _ - @ +, first a letter, digit or
 * _. */
bool config_name_valid(const char *name);

const struct config_tenant *config_find_tenant(const struct config *config, const char *name);
/* Domain the tenant was declared in, NULL if none. */
const struct config_domain *config_domain_of(const struct config *config, const char *tenant);
bool config_is_domain(const struct config *config, const char *name);

/* Extent size for a pool when none is given: a power of two, about 1/64 of it (limits.h). */
uint64_t config_extent_bytes(uint64_t pool_bytes);

#endif
