/* tenant.c - who pays, and who allows whom to skip compute.
 *
 * Owns the tenant and domain records.  A tenant is never forgotten; a domain record lives while a
 * tenant, a sequence or a claim names it.  A tenant whose mode is not `reuse` is a domain of its
 * own (own = its number + 1), which no declared domain can be confused with, whatever its name.
 *
 * Charge (RSS, as if nothing were shared): a tenant pays for every claim that it made and for every
 * page it made that is not in the index.  held_bytes is the part that sequences hold now. */
#include "kvd/core/parts.h"

bool name_equal(const char a[KVD_NAME_MAX], const char b[KVD_NAME_MAX])
{
	for (uint32_t i = 0; i < KVD_NAME_MAX; i++) {
		if (a[i] != b[i])
			return false;
		if (!a[i])
			return true;
	}
	return true;
}

uint32_t core_tenant_find(const struct core *core, const char *name)
{
	for (uint32_t i = 0; i < core->n_tenants; i++) {
		const char *have = tenant_at(core, i)->name;
		uint32_t at = 0;
		while (at < KVD_NAME_MAX - 1 && have[at] && have[at] == name[at])
			at++;
		if (have[at] == name[at])
			return i;
	}
	return CORE_NONE;
}

bool core_tenant_name(const struct core *core, uint32_t tenant, char ret[KVD_NAME_MAX])
{
	if (tenant >= core->n_tenants)
		return false;
	memcpy(ret, tenant_at(core, tenant)->name, KVD_NAME_MAX);
	return true;
}

void domain_use(const struct core *c, uint32_t domain)
{
	ADD(domain_at(c, domain)->refs, 1);
}

void domain_leave(const struct core *c, uint32_t domain)
{
	assert(domain_at(c, domain)->refs);
	ADD(domain_at(c, domain)->refs, -1);
}

/* The record of (name, own); takes a free one if there is none; CORE_NONE: no room. */
static uint32_t domain_find_or_make(const struct core *c, const char name[KVD_NAME_MAX],
				    uint32_t own)
{
	uint32_t unused = CORE_NONE;
	for (uint32_t i = 0; i < c->n_domains; i++) {
		const struct domain *d = domain_at(c, i);
		if (d->refs && d->own == own && (own || name_equal(d->name, name)))
			return i;
		if (!d->refs)
			unused = i;
	}
	if (unused == CORE_NONE) {
		if (c->n_domains == c->layout.domains_max)
			return CORE_NONE;
		unused = c->n_domains;
		ADD(c->n_domains, 1);
	}
	SET_BYTES(domain_at(c, unused)->name, name, KVD_NAME_MAX);
	SET(domain_at(c, unused)->own, own);
	return unused;
}

void tenant_define(const struct core *c, const struct core_event *event)
{
	char name[KVD_NAME_MAX], domain_name[KVD_NAME_MAX];
	memcpy(name, event->tenant.name, sizeof(name));
	memcpy(domain_name, event->tenant.domain, sizeof(domain_name));
	name[KVD_NAME_MAX - 1] = domain_name[KVD_NAME_MAX - 1] = 0;
	if (!name[0])
		return;
	uint32_t number = core_tenant_find(c, name);
	bool fresh = number == CORE_NONE;
	if (fresh && c->n_tenants == c->config.tenants_max) {
		act_alarm(c, ALARM_TENANTS_FULL, 0, 0);
		return;
	}
	if (fresh)
		number = c->n_tenants;
	bool own = event->tenant.sharing != CORE_REUSE || !domain_name[0];
	uint32_t domain = domain_find_or_make(c, own ? name : domain_name, own ? number + 1 : 0);
	if (domain == CORE_NONE) {
		act_alarm(c, ALARM_DOMAINS_FULL, 0, 0);
		if (fresh)
			return;
		domain = tenant_at(c, number)->domain;
	}
	const struct tenant *t = tenant_at(c, number);
	domain_use(c, domain);
	if (fresh) {
		SET_BYTES(t->name, name, KVD_NAME_MAX);
		ADD(c->n_tenants, 1);
	} else {
		domain_leave(c, t->domain);
	}
	SET(t->domain, domain);
	SET(t->sharing,
	    event->tenant.sharing > CORE_REUSE ? CORE_PRIVATE : (uint32_t)event->tenant.sharing);
	SET(t->max_bytes, event->tenant.quota.max_bytes);
	SET(c->memory_changed, 1);           /* a larger max may let somebody in */
}

void tenant_charge(const struct core *c, uint32_t tenant, int64_t rss_bytes, int64_t held_bytes)
{
	const struct tenant *t = tenant_at(c, tenant);
	SET(t->rss_bytes, t->rss_bytes + (uint64_t)rss_bytes);
	SET(t->held_bytes, t->held_bytes + (uint64_t)held_bytes);
	assert((int64_t)t->rss_bytes >= 0 && (int64_t)t->held_bytes >= 0);
}
