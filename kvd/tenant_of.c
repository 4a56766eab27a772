/* tenant_of.c - see tenant_of.h.  tenant_of() is pure. */
#include "kvd/tenant_of.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* "name:password:uid:..." into a user; false: not such a line, or a name that is no tenant's. */
static bool parse_user(char *line, struct tenant_user *ret)
{
	char *name_end = strchr(line, ':'), *end;
	char *uid = name_end ? strchr(name_end + 1, ':') : NULL;
	unsigned long number;

	if (!uid || uid[1] < '0' || uid[1] > '9')
		return false;
	*name_end = '\0';
	errno = 0;
	number = strtoul(uid + 1, &end, 10);
	/* A name that is no tenant name, or looks like one of ours, leaves its user as uid-N. */
	if (errno || *end != ':' || number >= CONFIG_NO_ID || !config_name_valid(line) || !strncmp(line, "uid-", 4))
		return false;
	ret->uid = (uint32_t)number;
	strcpy(ret->name, line);
	return true;
}

/* Calls take() with every line of the file until it returns false. */
static void read_lines(const char *path, bool (*take)(void *arg, char *line), void *arg)
{
	char text[4096];
	size_t n = 0;
	bool more = true;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	while (fd >= 0 && more) {
		ssize_t got = read(fd, text + n, sizeof(text) - 1 - n);
		char *line = text, *end;

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			break;
		if (got == 0 && n == 0)
			break;
		if (got == 0)
			text[n] = '\n'; /* a last line without one */
		n += got ? (size_t)got : 1;
		text[n] = '\0';
		while (more && (end = strchr(line, '\n'))) {
			*end = '\0';
			more = take(arg, line);
			line = end + 1;
		}
		n = (size_t)(text + n - line);
		/* A line longer than the buffer is nobody's: what follows it is read as a line of its own and
		 * has no such form. */
		if (n == sizeof(text) - 1)
			n = 0;
		memmove(text, line, n);
	}
	if (fd >= 0)
		close(fd);
}

static bool take_user(void *arg, char *line)
{
	struct tenant_users *users = arg;

	users->n += parse_user(line, &users->users[users->n]);
	return users->n < LIMIT_USERS;
}

void tenant_users_read(const char *path, struct tenant_users *ret)
{
	ret->n = 0;
	read_lines(path, take_user, ret);
}

struct wanted_group {
	const char *name;
	uint32_t gid;
};

/* "name:password:gid:members" has the form of a user's line. */
static bool take_group(void *arg, char *line)
{
	struct wanted_group *wanted = arg;
	struct tenant_user group;

	if (!parse_user(line, &group) || strcmp(group.name, wanted->name))
		return true;
	wanted->gid = group.uid;
	return false;
}

uint32_t tenant_group_gid(const char *path, const char *name)
{
	struct wanted_group wanted = { .name = name, .gid = CONFIG_NO_ID };

	read_lines(path, take_group, &wanted);
	return wanted.gid;
}

static const struct config_tenant *mapped(const struct config *config, const struct tenant_peer *peer,
					  char ret_how[KVD_NAME_MAX])
{
	const struct config_tenant *tenant;

	for (uint32_t i = 0; i < config->n_tenants; i++)
		if (config->tenants[i].uid == peer->uid) {
			snprintf(ret_how, KVD_NAME_MAX, "uid %u", peer->uid);
			return &config->tenants[i];
		}
	for (size_t g = 0; g < peer->n_gids; g++)
		for (uint32_t i = 0; i < config->n_tenants; i++)
			if (config->tenants[i].gid != CONFIG_NO_ID && config->tenants[i].gid == peer->gids[g]) {
				snprintf(ret_how, KVD_NAME_MAX, "gid %u", peer->gids[g]);
				return &config->tenants[i];
			}
	tenant = peer->cgroup ? config_of_cgroup(config, peer->cgroup) : NULL;
	if (tenant)
		snprintf(ret_how, KVD_NAME_MAX, "cgroup %.*s", KVD_NAME_MAX - 8, tenant->cgroup);
	return tenant;
}

/* A declared tenant that is mapped to an id belongs to that id; a user of the same name is
 * another. */
static bool name_is_free(const struct config *config, const char *name)
{
	const struct config_tenant *tenant = config_find_tenant(config, name);
	const struct config_domain *domain = config_domain_of(config, name);

	if (tenant && (tenant->uid != CONFIG_NO_ID || tenant->gid != CONFIG_NO_ID || tenant->cgroup[0]))
		return false;
	return !config_is_domain(config, name) || (domain && !strcmp(domain->name, name));
}

static void by_kernel(const struct config *config, const struct tenant_users *users, const struct tenant_peer *peer,
		      char ret[KVD_NAME_MAX], char ret_how[KVD_NAME_MAX])
{
	const struct config_tenant *tenant = mapped(config, peer, ret_how);

	if (tenant) {
		strcpy(ret, tenant->name);
		return;
	}
	for (uint32_t i = 0; i < users->n; i++)
		if (users->users[i].uid == peer->uid && name_is_free(config, users->users[i].name)) {
			strcpy(ret, users->users[i].name);
			strcpy(ret_how, "user name");
			return;
		}
	snprintf(ret, KVD_NAME_MAX, "uid-%u", peer->uid);
	strcpy(ret_how, "uid without a name of its own");
}

int tenant_of(const struct config *config, const struct tenant_users *users, const struct tenant_peer *peer,
	      const char *asked, bool delegate, char ret[KVD_NAME_MAX], char ret_how[KVD_NAME_MAX],
	      const char **ret_why)
{
	const struct config_domain *domain;

	if (peer->uid == TENANT_NO_UID) {
		*ret_why = "uid 65534 stands for many users and is no tenant; give the program a "
			   "uid of its own";
		return -EPERM;
	}
	by_kernel(config, users, peer, ret, ret_how);
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
	strcpy(ret_how, TENANT_BY_DELEGATE);
	return 0;
}
