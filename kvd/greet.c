/* greet.c - the first message of every peer, and its answer.
 *
 * Rights come from the kernel's word alone (SO_PEERCRED, SO_PEERGROUPS); a HELLO can only ask. */
#include "kvd/greet.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "kvd/clock.h"
#include "kvd/daemon.h"
#include "kvd/identity.h"
#include "kvd/peer.h"
#include "kvd/reload.h"
#include "kvd/tenant_of.h"

static bool listed(const uint32_t *list, uint32_t n, uint32_t id)
{
	for (uint32_t i = 0; i < n; i++)
		if (list[i] == id)
			return true;
	return false;
}

/* Groups of the peer at connect, its primary one first. */
static uint32_t groups_of(const struct peer *peer, uint32_t gids[TENANT_GROUPS_MAX])
{
	socklen_t bytes = (TENANT_GROUPS_MAX - 1) * sizeof(gids[0]);

	_Static_assert(sizeof(gid_t) == sizeof(gids[0]), "groups are u32");
	gids[0] = peer->gid;
	/* -ERANGE: in more groups than we look at.  Then none counts: rights are not guessed. */
	if (getsockopt(peer->source.fd, SOL_SOCKET, SO_PEERGROUPS, gids + 1, &bytes) < 0)
		return 1;
	return 1 + (uint32_t)(bytes / sizeof(gids[0]));
}

static void rights(struct peer *peer, const uint32_t *gids, uint32_t n_gids)
{
	const struct daemon *daemon = peer->daemon;
	const struct config *config = daemon->config;

	peer->admin = peer->uid == 0 || peer->uid == daemon->uid ||
		      (daemon->admin_gid != CONFIG_NO_ID && listed(gids, n_gids, daemon->admin_gid));
	peer->delegate = peer->uid == daemon->uid || listed(config->delegates, config->n_delegates, peer->uid);
	peer->may_attach = peer->admin || listed(config->engine_uids, config->n_engine_uids, peer->uid) ||
			   (daemon->engine_gid != CONFIG_NO_ID && listed(gids, n_gids, daemon->engine_gid));
}

void greet_rights(struct peer *peer)
{
	uint32_t gids[TENANT_GROUPS_MAX];

	rights(peer, gids, groups_of(peer, gids));
}

/* The peer's control group, NULL where the kernel cannot say without a race: said once.
 * False: the process has ended.  Another may have its socket, and whose that is nobody knows. */
static bool cgroup_of(struct peer *peer, char buffer[CONFIG_PATH_MAX], const char **ret)
{
	static bool said;
	int r = identity_cgroup(peer->source.fd, buffer);

	*ret = r == 0 ? buffer : NULL;
	if (r == -ESRCH)
		return false;
	if (r < 0 && !said)
		log_warn("identity.no_cgroup error=\"%s\" remedy=\"cgroup is no identity on this "
			 "kernel (6.5 or later is "
			 "needed) or behind this /proc; write uid or gid\"",
			 strerror(-r));
	said = said || r < 0;
	return true;
}

static bool agree_version(struct peer *peer, const struct kvd_msg_hello *m)
{
	uint32_t low = m->version_min > KVD_PROTO_MIN ? m->version_min : KVD_PROTO_MIN;
	uint32_t high = m->version_max < KVD_PROTO_MAX ? m->version_max : KVD_PROTO_MAX;

	if (low > high) {
		peer_error(peer, m->m.seq, KVD_S_VERSION, m->version_max, KVD_PROTO_MAX,
			   "%s speaks versions %u to %u, "
			   "kvd %u to %u; upgrade the older side",
			   m->program[0] ? m->program : "the peer", m->version_min, m->version_max,
			   KVD_PROTO_MIN, KVD_PROTO_MAX);
		peer_doom(peer, "no version in common");
		return false;
	}
	peer->version = high;
	return true;
}

/* Tell the core about the tenant; false: it has no room. */
static bool define_tenant(struct peer *peer)
{
	struct daemon *daemon = peer->daemon;
	const struct config_domain *domain = config_domain_of(daemon->config, peer->tenant_name);

	strcpy(peer->domain, domain ? domain->name : peer->tenant_name);
	peer->tenant = core_tenant_find(daemon->core, peer->tenant_name);
	if (peer->tenant == CORE_NONE)
		peer->tenant = reload_tenant(daemon, peer->tenant_name);
	return peer->tenant != CORE_NONE;
}

static void welcome(struct peer *peer, uint32_t request_seq, const char *decided_by)
{
	const struct daemon *daemon = peer->daemon;
	struct kvd_msg_welcome reply = {
		.m = { .type = KVD_M_WELCOME, .size = sizeof(reply), .seq = request_seq },
		.version = peer->version,
		.kvd_pid = daemon->pid,
		.pool_bytes = daemon->pool_bytes,
		.extent_bytes = daemon->extent_bytes,
		.slot_bits = daemon->slot_bits,
		.page_tokens = KVD_PAGE_TOKENS,
		.admin = peer->admin,
		.uid = peer->uid,
		.gid = peer->gid,
		.pid = peer->pid,
		.kvd_version = KVD_VERSION,
		.device_kind = daemon->device.ordinal < 0 ? KVD_DEVICE_HOST : KVD_DEVICE_CUDA,
	};

	strcpy(reply.tenant, peer->tenant_name);
	strcpy(reply.domain, peer->domain);
	strcpy(reply.decided_by, decided_by);
	memcpy(reply.device_uuid, daemon->device.uuid, sizeof(reply.device_uuid));
	peer_send(peer, &reply.m, NULL, 0, false);
}

void greet_hello(struct peer *peer, const struct kvd_msg_hello *m)
{
	struct daemon *daemon = peer->daemon;
	const struct config *config = daemon->config;
	uint32_t gids[TENANT_GROUPS_MAX], n_gids = groups_of(peer, gids);
	char cgroup[CONFIG_PATH_MAX], how[KVD_NAME_MAX] = "";
	struct tenant_peer who = { .uid = peer->uid, .gids = gids, .n_gids = n_gids };
	const char *why = "";

	strcpy(peer->program, m->program);
	if (m->role != KVD_ROLE_CLIENT && m->role != KVD_ROLE_ENGINE) {
		peer_violation(peer, "HELLO with an unknown role");
		return;
	}
	if (!agree_version(peer, m))
		return;
	rights(peer, gids, n_gids);
	if (config_has_cgroups(config) && !cgroup_of(peer, cgroup, &who.cgroup)) {
		peer_error(peer, m->m.seq, KVD_S_REFUSED, 0, 0,
			   "the process that connected has ended, so its control group cannot be read; connect from "
			   "the process that stays");
		peer_doom(peer, "no control group");
		return;
	}
	if (tenant_of(config, &daemon->users, &who, m->tenant, peer->delegate, peer->tenant_name, how, &why) < 0) {
		peer_error(peer, m->m.seq, KVD_S_REFUSED, 0, 0, "%s", why);
		peer_doom(peer, "no tenant");
		return;
	}
	if (!define_tenant(peer)) {
		peer_error(
			peer, m->m.seq, KVD_S_LIMIT, LIMIT_TENANTS + 1, LIMIT_TENANTS,
			"kvd knows %u tenants and can know no more; restart it or use fewer names",
			LIMIT_TENANTS);
		peer_doom(peer, "tenants");
		return;
	}
	/* Under its own name; whoever acts for another has that tenant's limits. */
	peer->unlimited = peer->admin && strcmp(how, TENANT_BY_DELEGATE) != 0;
	if (!tenant_use_connect(peer, m->m.seq))
		return;
	if (!tenant_use_message(peer, m->m.seq)) {
		peer_doom(peer, "messages of its tenant");
		return;
	}
	peer->role = m->role;
	peer->state = PEER_READY;
	peer->deadline_usec = peer->n_out ? peer->deadline_usec : CLOCK_NEVER;
	welcome(peer, m->m.seq, how);
}
