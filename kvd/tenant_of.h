/* tenant_of.h - who pays: the tenant of a peer, by what the kernel says and the administrator
 * wrote.
 *
 *   1. [tenant NAME] uid =      2. [tenant NAME] gid =, primary or supplementary
 *   3. [tenant NAME] cgroup =, the longest path that contains the peer's
 *   4. the user's name in /etc/passwd     5. uid-N
 * A HELLO may name another tenant only where the peer's uid is the daemon's own or a delegate's.
 * The overflow uid 65534 stands for many users and is nobody's tenant. */
#ifndef KVD_TENANT_OF_H
#define KVD_TENANT_OF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvd/config.h"

#define TENANT_GROUPS_MAX 256u     /* supplementary groups looked at; more are ignored */
#define TENANT_NO_UID 65534u
#define TENANT_BY_DELEGATE "delegate, by its own word" /* of tenant_of()'s ret_how */

struct tenant_user { uint32_t uid; char name[KVD_NAME_MAX]; };

/* Names of /etc/passwd, read at start and at a reload: asking NSS could block the loop for seconds. */
struct tenant_users {
	uint32_t n;
	struct tenant_user users[LIMIT_USERS];
};
/* Allocates nothing; a file that cannot be read has no names. */
void tenant_users_read(const char *path, struct tenant_users *ret);
/* Number of a group of /etc/group; CONFIG_NO_ID: there is none. */
uint32_t tenant_group_gid(const char *path, const char *name);

/* What the kernel says of a peer. */
struct tenant_peer {
	uint32_t uid;
	const uint32_t *gids;      /* (n_gids) primary first */
	size_t n_gids;
	const char *cgroup;        /* NULL: unknown */
};

/* The peer's tenant.
 * asked      of the HELLO, "" = none
 * delegate   the peer may act for any tenant
 * ret_how    what decided, for `kvctl whoami`: "uid 1000", "cgroup /a", "user name", "delegate"
 * Returns    0; -EACCES: asked for another's; -EINVAL: not a name; -EPERM: uid 65534;
 *            -EEXIST: the name is that of a domain the tenant is not in.  *ret_why has a sentence.
 *            */
int tenant_of(const struct config *config, const struct tenant_users *users, const struct tenant_peer *peer,
	      const char *asked, bool delegate, char ret[KVD_NAME_MAX], char ret_how[KVD_NAME_MAX],
	      const char **ret_why);

#endif
