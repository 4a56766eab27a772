/* tenant_of.c - see tenant_of.h.  tenant_of() is pure. */
#include "kvd/tenant_of.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

void tenant_users_read(const char *path, struct tenant_users *ret)
{
	FILE *file = fopen(path, "re");
	struct passwd *entry;

	ret->n = 0;
	if (!file)
		return;
	while (ret->n < LIMIT_USERS && (entry = fgetpwent(file))) {
		/* A name that is no tenant name, or looks like one of ours, leaves its user as
		 * uid-N. */
		if (!config_name_valid(entry->pw_name) || !strncmp(entry->pw_name, "uid-", 4))
			continue;
		ret->users[ret->n].uid = entry->pw_uid;
		strcpy(ret->users[ret->n].name, entry->pw_name);
		ret->n++;
	}
	fclose(file);
}

static const struct config_tenant *mapped(const struct config *config, uint32_t uid,
					  const uint32_t *gids, size_t n_gids)
{
	for (uint32_t i = 0; i < config->n_tenants; i++)
		if (config->tenants[i].uid == uid)
			return &config->tenants[i];
	for (size_t g = 0; g < n_gids; g++)
		for (uint32_t i = 0; i < config->n_tenants; i++)
			if (config->tenants[i].gid != CONFIG_NO_ID &&
			    config->tenants[i].gid == gids[g])
				return &config->tenants[i];
	return NULL;
}

/* A declared tenant that is mapped to an id belongs to that id; a user of the same name is
 * another. */
static bool name_is_free(const struct config *config, const char *name)
{
	const struct config_tenant *tenant = config_find_tenant(config, name);
	const struct config_domain *domain = config_domain_of(config, name);

	if (tenant && (tenant->uid != CONFIG_NO_ID || tenant->gid != CONFIG_NO_ID))
		return false;
	return !config_is_domain(config, name) || (domain && !strcmp(domain->name, name));
}

static void by_kernel(const struct config *config, const struct tenant_users *users, uint32_t uid,
		      const uint32_t *gids, size_t n_gids, char ret[KVD_NAME_MAX])
{
	const struct config_tenant *tenant = mapped(config, uid, gids, n_gids);

	if (tenant) {
		strcpy(ret, tenant->name);
		return;
	}
	for (uint32_t i = 0; i < users->n; i++)
		if (users->users[i].uid == uid && name_is_free(config, users->users[i].name)) {
			strcpy(ret, users->users[i].name);
			return;
		}
	snprintf(ret, KVD_NAME_MAX, "uid-%u", uid);
}

int tenant_of(const struct config *config, const struct tenant_users *users, uint32_t uid,
	      const uint32_t *gids, size_t n_gids, const char *asked, bool delegate,
	      char ret[KVD_NAME_MAX], const char **ret_why)
{
	const struct config_domain *domain;

	if (uid == TENANT_NO_UID) {
		*ret_why = "uid 65534 stands for many users and is no tenant; give the program a "
			   "uid of its own";
		return -EPERM;
	}
	by_kernel(config, users, uid, gids, n_gids, ret);
	if (!asked[0] || !strcmp(asked, ret))
		return 0;
	if (!delegate) {
		*ret_why = "only the daemon's own user and [delegate] users may act for another "
			   "tenant; drop --tenant";
		return -EACCES;
	}
	if (!config_name_valid(asked)) {
		*ret_why = "a tenant's name has letters, digits and . _ - @ + only; choose another "
			   "--tenant";
		return -EINVAL;
	}
	domain = config_domain_of(config, asked);
	if (config_is_domain(config, asked) && (!domain || strcmp(domain->name, asked))) {
		*ret_why = "that is the name of a domain which the tenant is not in; choose "
			   "another --tenant";
		return -EEXIST;
	}
	strcpy(ret, asked);
	return 0;
}
