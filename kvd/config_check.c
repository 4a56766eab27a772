/* config_check.c - questions about a parsed configuration, and what no single line can get wrong.
 * Pure. */
#include "kvd/config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

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

const struct config_domain *config_domain_of(const struct config *config, const char *tenant)
{
	for (uint32_t i = 0; i < config->n_members; i++)
		if (!strcmp(config->members[i].tenant, tenant))
			return &config->domains[config->members[i].domain];
	return NULL;
}

bool config_is_domain(const struct config *config, const char *name)
{
	for (uint32_t i = 0; i < config->n_domains; i++)
		if (!strcmp(config->domains[i].name, name))
			return true;
	return false;
}

int config_check(const struct config *config, char *ret_error)
{
	for (uint32_t i = 0; i < config->n_tenants; i++) {
		const struct config_tenant *a = &config->tenants[i];
		const struct config_domain *domain = config_domain_of(config, a->name);

		/* A tenant outside a domain is a domain of its own, under its own name. */
		if (config_is_domain(config, a->name) &&
		    (!domain || strcmp(domain->name, a->name))) {
			snprintf(ret_error, CONFIG_ERROR_MAX,
				 "tenant %s has the name of a domain it is not in; "
				 "rename one of them",
				 a->name);
			return -EINVAL;
		}
		for (uint32_t j = 0; j < i; j++) {
			const struct config_tenant *b = &config->tenants[j];

			if (a->uid != CONFIG_NO_ID && a->uid == b->uid) {
				snprintf(ret_error, CONFIG_ERROR_MAX,
					 "uid %u is mapped to the tenants %s and %s; "
					 "remove one of the lines",
					 a->uid, b->name, a->name);
				return -EINVAL;
			}
			if (a->gid != CONFIG_NO_ID && a->gid == b->gid) {
				snprintf(ret_error, CONFIG_ERROR_MAX,
					 "gid %u is mapped to the tenants %s and %s; "
					 "remove one of the lines",
					 a->gid, b->name, a->name);
				return -EINVAL;
			}
		}
	}
	for (uint32_t i = 0; i < config->n_domains; i++)
		if (!strncmp(config->domains[i].name, "uid-", 4)) {
			snprintf(ret_error, CONFIG_ERROR_MAX,
				 "domain %s: names that begin with uid- belong to users "
				 "without a name; rename it",
				 config->domains[i].name);
			return -EINVAL;
		}
	return 0;
}
