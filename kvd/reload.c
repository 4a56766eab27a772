/* reload.c - see reload.h.  Owns nothing: the two configurations are the daemon's.
 *
 * The next configuration is read into the spare one while the running one stays untouched, and takes its
 * place only when it is complete and consistent; then the spare is the old one.  Keys that cannot change
 * keep their running value and are named.  A connection keeps the tenant that it greeted with; its
 * tenant's numbers are the new ones from here on.  Loop thread only, between two events. */
#include "kvd/reload.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "kvd/clock.h"
#include "kvd/daemon.h"
#include "kvd/event.h"
#include "kvd/greet.h"
#include "kvd/tenant_use.h"

static struct core_quota quota_of(const struct config_tenant *limits)
{
	return (struct core_quota){
		.min_bytes = limits->min_bytes,
		.low_bytes = config_low_bytes(limits),
		.high_bytes = config_high_bytes(limits),
		.max_bytes = limits->max_bytes,
		.insert_bytes_per_sec = limits->insert_bytes_per_sec,
		.weight = limits->weight,
		.max_sequences = limits->sequences_max,
	};
}

static bool quota_equal(const struct core_quota *a, const struct core_quota *b)
{
	return a->min_bytes == b->min_bytes && a->low_bytes == b->low_bytes && a->high_bytes == b->high_bytes &&
	       a->max_bytes == b->max_bytes && a->insert_bytes_per_sec == b->insert_bytes_per_sec &&
	       a->weight == b->weight && a->max_sequences == b->max_sequences;
}

/* A tenant of which the configuration says what it said before keeps the numbers it has, which are an
 * administrator's (`kvctl quota`), or those of the file; true: nor has it another domain now. */
static bool keep_quota(const struct daemon *daemon, struct core_event *event)
{
	uint32_t number = core_tenant_find(daemon->core, event->tenant.name), cursor = 0;
	struct kvd_row_tenant row;

	if (number == CORE_NONE || !quota_equal(&daemon->kept->told[number], &event->tenant.quota) ||
	    !core_read_tenants(daemon->core, number, &cursor, &row, 1))
		return false;
	event->tenant.quota = (struct core_quota){
		.min_bytes = row.min_bytes,
		.low_bytes = row.low_bytes,
		.high_bytes = row.high_bytes,
		.max_bytes = row.max_bytes,
		.insert_bytes_per_sec = row.insert_bytes_per_sec,
		.weight = row.weight,
		.max_sequences = row.max_sequences,
	};
	return row.sharing == (uint32_t)event->tenant.sharing && !strcmp(row.domain, event->tenant.domain);
}

uint32_t reload_tenant(struct daemon *daemon, const char *name)
{
	const struct config_domain *domain = config_domain_of(daemon->config, name);
	const struct config_tenant *limits = config_limits_of(daemon->config, name);
	struct core_event event = { .type = CORE_EV_TENANT, .engine = CORE_NONE };
	struct core_quota told = quota_of(limits);
	uint32_t number;

	strcpy(event.tenant.name, name);
	strcpy(event.tenant.domain, domain ? domain->name : name);
	event.tenant.sharing = domain ? domain->sharing : daemon->config->sharing;
	event.tenant.quota = told;
	if (!keep_quota(daemon, &event))
		daemon_event(daemon, &event);
	number = core_tenant_find(daemon->core, name);
	if (number == CORE_NONE)
		return number;
	if (!quota_equal(&daemon->kept->told[number], &told)) {
		/* with the next event: until then it is told again */
		KEPT_SET(daemon, daemon->kept->told[number], told);
	}
	tenant_use_configure(daemon, number, limits);
	return number;
}

void reload_tenants(struct daemon *daemon)
{
	char name[KVD_NAME_MAX];

	for (uint32_t i = 0; core_tenant_name(daemon->core, i, name); i++)
		(void)reload_tenant(daemon, name);
	/* Those of the file before their first peer, so that `kvctl tenants` shows what they are promised. */
	for (uint32_t i = 0; i < daemon->config->n_tenants; i++)
		if (core_tenant_find(daemon->core, daemon->config->tenants[i].name) == CORE_NONE &&
		    reload_tenant(daemon, daemon->config->tenants[i].name) == CORE_NONE)
			log_error("config.no_room tenant=\"%s\" remedy=\"kvd knows %u tenants and "
				  "can know no more; restart "
				  "it\"",
				  daemon->config->tenants[i].name, LIMIT_TENANTS);
}

static void waits_for_restart(void *arg, const char *section, const char *key)
{
	uint32_t *n = arg;

	++*n;
	log_warn("reload.waits section=\"%s\" key=\"%s\" remedy=\"this key is read at start; "
		 "restart kvd to apply it\"",
		 section, key);
}

/* Peers' rights and domains as the new lines say. */
static void renew_peers(struct daemon *daemon)
{
	for (uint32_t i = 0; i < daemon->peers.n_high; i++) {
		struct peer *peer = &daemon->peers.table[i];
		const struct config_domain *domain;

		if (peer->state != PEER_READY)
			continue;
		greet_rights(peer);
		domain = config_domain_of(daemon->config, peer->tenant_name);
		strcpy(peer->domain, domain ? domain->name : peer->tenant_name);
	}
}

void reload(struct daemon *daemon)
{
	struct config *next = daemon->config == &daemon->configs[0] ? &daemon->configs[1] : &daemon->configs[0];
	char error[CONFIG_ERROR_MAX] = "";
	uint64_t began_usec = clock_now_usec();
	uint32_t n_waiting = 0;

	assert(daemon->load);
	(void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, began_usec);
	if (daemon->load(daemon->load_arg, next, error) == 0) {
		config_keep_start(next, daemon->config, waits_for_restart, &n_waiting);
		/* Again, with the pool that this kvd has. */
		(void)config_check(next, error);
	}
	if (error[0]) {
		log_error("reload.refused error=\"%s\" remedy=\"nothing has changed; correct the "
			  "file and reload again\"",
			  error);
		(void)sd_notifyf(0, "READY=1\nSTATUS=configuration refused, the earlier one holds: %s", error);
		return;
	}
	daemon->config = next;
	log_set_level(next->log_level);
	tenant_users_read("/etc/passwd", &daemon->users);
	reload_tenants(daemon);
	renew_peers(daemon);
	log_info("reload.done tenants=%u domains=%u delegates=%u engine_uids=%u waiting_keys=%u "
		 "usec=%" PRIu64,
		 next->n_tenants, next->n_domains, next->n_delegates, next->n_engine_uids,
		 n_waiting, clock_now_usec() - began_usec);
	event_note(daemon, KVD_EVENT_RELOAD, NULL, NULL, CORE_NONE, 0, 0, "%u keys wait for a restart", n_waiting);
	(void)sd_notifyf(0, "READY=1\nSTATUS=configuration read again, %u keys wait for a restart", n_waiting);
}
