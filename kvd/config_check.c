/* config_check.c - questions about a parsed configuration, and what no single line can get wrong.
 * Pure. */
#include "kvd/config.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kvd/config_keys.h"

bool config_name_valid(const char *name)
{
	size_t n = strlen(name);

	if (n == 0 || n >= KVD_NAME_MAX)
		return false;
	for (size_t i = 0; i < n; i++) {
		char c = name[i];
		bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			      (c >= '0' && c <= '9') || c == '_';

		if (!letter && (i == 0 || !strchr(".-@+", c)))
			return false;
	}
	return true;
}

const struct config_tenant *config_find_tenant(const struct config *config, const char *name)
{
	for (uint32_t i = 0; i < config->n_tenants; i++)
		if (!strcmp(config->tenants[i].name, name))
			return &config->tenants[i];
	return NULL;
}

const struct config_tenant *config_limits_of(const struct config *config, const char *name)
{
	const struct config_tenant *tenant = config_find_tenant(config, name);

	return tenant ? tenant : &config->stranger;
}

const struct config_domain *config_domain_of(const struct config *config, const char *tenant)
{
	for (uint32_t i = 0; i < config->n_members; i++)
		if (!strcmp(config->members[i].tenant, tenant))
			return &config->domains[config->members[i].domain];
	return NULL;
}

static const struct config_domain *find_domain(const struct config *config, const char *name)
{
	for (uint32_t i = 0; i < config->n_domains; i++)
		if (!strcmp(config->domains[i].name, name))
			return &config->domains[i];
	return NULL;
}

bool config_is_domain(const struct config *config, const char *name)
{
	return find_domain(config, name) != NULL;
}

bool config_has_cgroups(const struct config *config)
{
	for (uint32_t i = 0; i < config->n_tenants; i++)
		if (config->tenants[i].cgroup[0])
			return true;
	return false;
}

const struct config_tenant *config_of_cgroup(const struct config *config, const char *path)
{
	const struct config_tenant *best = NULL;
	size_t best_bytes = 0;

	for (uint32_t i = 0; i < config->n_tenants; i++) {
		const char *cgroup = config->tenants[i].cgroup;
		size_t n = strlen(cgroup);

		if (n <= best_bytes || strncmp(path, cgroup, n))
			continue;
		/* /a holds /a and /a/b, not /ab; / holds everything. */
		if (n > 1 && path[n] != '\0' && path[n] != '/')
			continue;
		best = &config->tenants[i];
		best_bytes = n;
	}
	return best;
}

uint64_t config_low_bytes(const struct config_tenant *tenant)
{
	return tenant->low_bytes > tenant->min_bytes ? tenant->low_bytes : tenant->min_bytes;
}

uint64_t config_high_bytes(const struct config_tenant *tenant)
{
	if (tenant->high_bytes || !tenant->max_bytes)
		return tenant->high_bytes;
	return tenant->max_bytes - tenant->max_bytes / 16 - (tenant->max_bytes < 16);
}

/* ---- contradictions ---- */

struct checker {
	const struct config *config;
	char *error;
};

/* Returns -EINVAL.  place: the line to change. */
__attribute__((format(printf, 3, 4)))
static int wrong(const struct checker *checker, struct config_place place, const char *format, ...)
{
	va_list args;
	int n = snprintf(checker->error, CONFIG_ERROR_MAX, "%.250s:%u: ",
			 place.line ? checker->config->files[place.file] : "kvd.conf", place.line);

	assert(n > 0 && n < CONFIG_ERROR_MAX);
	va_start(args, format);
	vsnprintf(checker->error + n, CONFIG_ERROR_MAX - (size_t)n, format, args);
	va_end(args);
	return -EINVAL;
}

/* Where a tenant's key stands, else where its section begins. */
static struct config_place place_of(const struct config_tenant *tenant, enum config_key_number key)
{
	return tenant->places[key].line ? tenant->places[key] : tenant->section;
}

/* min <= low <= high < max, with what follows for those that are not given. */
static int check_sizes(const struct checker *checker, const struct config_tenant *t)
{
	uint64_t low_bytes = config_low_bytes(t), high_bytes = config_high_bytes(t);
	char min[SIZE_TEXT_MAX], low[SIZE_TEXT_MAX], high[SIZE_TEXT_MAX], max[SIZE_TEXT_MAX];

	size_format(t->min_bytes, min);
	size_format(low_bytes, low);
	size_format(high_bytes, high);
	size_format(t->max_bytes, max);
	if (t->places[CONFIG_TENANT_low_bytes].line && t->low_bytes < t->min_bytes)
		return wrong(checker, place_of(t, CONFIG_TENANT_low_bytes),
			     "[tenant %s] low is below its min of %s; raise low or lower min", t->name, min);
	if (t->max_bytes && t->min_bytes >= t->max_bytes)
		return wrong(
			checker, place_of(t, CONFIG_TENANT_min_bytes),
			"[tenant %s] min = %s is not below its max of %s; lower min or raise max",
			t->name, min, max);
	if (t->max_bytes && t->high_bytes >= t->max_bytes)
		return wrong(checker, place_of(t, CONFIG_TENANT_high_bytes),
			     "[tenant %s] high = %s is not below its max of %s; lower high or raise max", t->name, high,
			     max);
	if (high_bytes && low_bytes > high_bytes)
		return wrong(checker, place_of(t, t->low_bytes ? CONFIG_TENANT_low_bytes : CONFIG_TENANT_min_bytes),
			     "[tenant %s] %s = %s is above its high of %s%s; lower it or raise %s", t->name,
			     t->low_bytes ? "low" : "min", low, high,
			     t->high_bytes ? "" : " (a sixteenth below max, as no high is given)",
			     t->high_bytes ? "high" : "max");
	return 0;
}

/* Two tenants cannot be one uid, gid or control group. */
static int check_pair(const struct checker *checker, const struct config_tenant *a, const struct config_tenant *b)
{
	static const char remedy[] = "remove one of the lines";
	const struct config *config = checker->config;

	if (b->uid != CONFIG_NO_ID && a->uid == b->uid)
		return wrong(checker, b->places[CONFIG_TENANT_uid],
			     "uid %u is mapped to the tenants %s (%s:%u) and %s; %s", b->uid,
			     a->name, config->files[a->places[CONFIG_TENANT_uid].file],
			     a->places[CONFIG_TENANT_uid].line, b->name, remedy);
	if (b->gid != CONFIG_NO_ID && a->gid == b->gid)
		return wrong(checker, b->places[CONFIG_TENANT_gid],
			     "gid %u is mapped to the tenants %s (%s:%u) and %s; %s", b->gid,
			     a->name, config->files[a->places[CONFIG_TENANT_gid].file],
			     a->places[CONFIG_TENANT_gid].line, b->name, remedy);
	if (b->cgroup[0] && !strcmp(a->cgroup, b->cgroup))
		return wrong(checker, b->places[CONFIG_TENANT_cgroup],
			     "cgroup %s is mapped to the tenants %s (%s:%u) and %s; %s", b->cgroup, a->name,
			     config->files[a->places[CONFIG_TENANT_cgroup].file],
			     a->places[CONFIG_TENANT_cgroup].line, b->name, remedy);
	return 0;
}

/* A user without a name is the tenant uid-N: that name is nobody else's. */
static int check_name(const struct checker *checker, const struct config_tenant *t)
{
	const struct config_domain *domain = config_domain_of(checker->config, t->name);
	const struct config_domain *same = find_domain(checker->config, t->name);
	char own[KVD_NAME_MAX];

	/* A tenant outside a domain is a domain of its own, under its own name. */
	if (same && domain != same)
		return wrong(checker, t->section,
			     "tenant %s has the name of a domain it is not in (%s:%u); rename one "
			     "of them",
			     t->name, checker->config->files[same->section.file],
			     same->section.line);
	snprintf(own, sizeof(own), "uid-%u", t->uid);
	if (!strncmp(t->name, "uid-", 4) &&
	    (t->gid != CONFIG_NO_ID || t->cgroup[0] || (t->uid != CONFIG_NO_ID && strcmp(own, t->name))))
		return wrong(checker, t->section,
			     "tenant %s: names that begin with uid- belong to users without a "
			     "name; rename it",
			     t->name);
	return 0;
}

static int check_tenants(const struct checker *checker)
{
	const struct config *config = checker->config;
	uint64_t min_bytes = 0;
	char sum[SIZE_TEXT_MAX], pool[SIZE_TEXT_MAX];
	int r = 0;

	for (uint32_t i = 0; i < config->n_tenants && r == 0; i++) {
		const struct config_tenant *t = &config->tenants[i];

		r = check_name(checker, t);
		if (r == 0)
			r = check_sizes(checker, t);
		for (uint32_t j = 0; j < i && r == 0; j++)
			r = check_pair(checker, &config->tenants[j], t);
		if (r < 0)
			return r;
		min_bytes = t->min_bytes > UINT64_MAX - min_bytes ? UINT64_MAX : min_bytes + t->min_bytes;
		if (!config->pool_bytes || min_bytes <= config->pool_bytes)
			continue;
		size_format(min_bytes, sum);
		size_format(config->pool_bytes, pool);
		return wrong(checker, place_of(t, CONFIG_TENANT_min_bytes),
			     "the mins of the tenants up to %s add up to %s, the pool has %s; "
			     "lower some min or enlarge the "
			     "pool",
			     t->name, sum, pool);
	}
	return r;
}

static int check_tiers(const struct checker *checker)
{
	const struct config *config = checker->config;

	if (config->n_tiers && config->spill[0])
		return wrong(checker, config->tiers[0].section,
			     "[tier %s] and spill = %s are both given; kvd uses one, leave one out",
			     config->tiers[0].name, config->spill);
	if (config->spill_bytes && !config->spill[0] && !config->n_tiers)
		return wrong(checker, config->places[CONFIG_KVD_spill_bytes],
			     "spill-bytes without a place for them; write spill = /DIRECTORY or state = /DIRECTORY");
	for (uint32_t i = 0; i < config->n_tiers; i++) {
		const struct config_tier *t = &config->tiers[i];

		if (!t->path[0])
			return wrong(checker, t->section, "[tier %s] has no path; write path = /DIRECTORY", t->name);
		if (!t->size_bytes)
			return wrong(checker, t->section,
				     "[tier %s] has no size; write for example size = 32G",
				     t->name);
		if (i > 0)
			return wrong(checker, t->section,
				     "[tier %s] is the second tier after [tier %s]; kvd uses one, "
				     "leave one out",
				     t->name, config->tiers[0].name);
	}
	return 0;
}

int config_check(const struct config *config, char *ret_error)
{
	const struct checker checker = { .config = config, .error = ret_error };
	int r = check_tenants(&checker);

	if (r == 0)
		r = check_tiers(&checker);
	for (uint32_t i = 0; i < config->n_domains && r == 0; i++)
		if (!strncmp(config->domains[i].name, "uid-", 4))
			r = wrong(&checker, config->domains[i].section,
				  "domain %s: names that begin with uid- belong to users without a name; rename it",
				  config->domains[i].name);
	return r;
}

/* ---- a reload ---- */

static bool same_value(const struct config_key *key, const char *a, const char *b)
{
	switch (key->type) {
	case CONFIG_TYPE_TEXT:
	case CONFIG_TYPE_PATH:
	case CONFIG_TYPE_CGROUP: return !strcmp(a, b); /* bytes behind the NUL are an older line's */
	default: return !memcmp(a, b, key->bytes);
	}
}

void config_keep_start(struct config *config, const struct config *running,
		       void (*changed)(void *arg, const char *section, const char *key), void *arg)
{
	for (unsigned i = 0; i < CONFIG_KEYS; i++) {
		const struct config_key *key = &config_keys[i];
		char *field = (char *)config + key->offset;
		const char *before = (const char *)running + key->offset;

		if (key->live || key->section != CONFIG_KVD)
			continue;
		if (!same_value(key, field, before))
			changed(arg, "kvd", key->name);
		memcpy(field, before, key->bytes);
	}
	for (uint32_t i = 0; i < config->n_tiers || i < running->n_tiers; i++) {
		const struct config_tier *now = &config->tiers[i], *before = &running->tiers[i];

		if (i >= config->n_tiers || i >= running->n_tiers ||
		    strcmp(now->name, before->name) || strcmp(now->path, before->path) ||
		    now->size_bytes != before->size_bytes || now->kind != before->kind)
			changed(arg, i < config->n_tiers ? now->name : before->name, "tier");
	}
	config->n_tiers = running->n_tiers;
	memcpy(config->tiers, running->tiers, sizeof(config->tiers));
}
