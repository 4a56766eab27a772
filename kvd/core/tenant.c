/* tenant.c - who pays, and who allows whom to skip compute.
 *
 * Owns the tenant and domain records.  A tenant is never forgotten; a domain record lives while a
 * tenant, a sequence or a claim names it.  A tenant whose mode is not `reuse` is a domain of its
 * own (own = its number + 1), which no declared domain can be confused with, whatever its name.
 *
 * Charge (RSS, as if nothing were shared): a tenant pays for every claim that it made and for every
 * page it made that is not in the index.  held_bytes is the part that sequences hold now.  What the limits are
 * about is the charge and what is reserved for it (tenant_usage).
 *
 * A change of either has consequences that are not drawn at once but when the event's own work is done
 * (tenants_pump): the tenant is marked dirty, for what its min keeps (guard.c) and for its own cache to go while it
 * is above its high.  A new quota is a change like any other: what was charged stays charged. */
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
	tenant_quota(c, number, &event->tenant.quota);
}

uint64_t tenant_usage(const struct tenant *t)
{
	return t->rss_bytes + t->reserved_bytes;
}

/* Have another look at the tenant before the event ends. */
void tenant_mark(const struct core *c, uint32_t tenant, uint32_t dirty)
{
	const struct tenant *t = tenant_at(c, tenant);
	if (!t->dirty)
		list_push(c, LIST_DIRTY, &c->dirty_tenants, tenant);
	if (dirty & ~t->dirty)
		SET(t->dirty, t->dirty | dirty);
}

static uint32_t class_of(const struct tenant *t)
{
	uint64_t usage = tenant_usage(t);
	if (t->quota.high_bytes && usage > t->quota.high_bytes)
		return KVD_CLASS_OVER_HIGH;
	return usage <= t->quota.low_bytes ? KVD_CLASS_LOW : KVD_CLASS_NORMAL;
}

/* Its charge, its reservations or its quota have changed. */
static void tenant_changed(const struct core *c, uint32_t tenant)
{
	const struct tenant *t = tenant_at(c, tenant);
	const struct core_quota *q = &t->quota;
	uint64_t usage = tenant_usage(t), floor = usage < q->min_bytes ? usage : q->min_bytes;
	uint32_t class = class_of(t);
	if (floor != t->floor_bytes) {
		SET(c->floor_bytes, c->floor_bytes - t->floor_bytes + floor);
		SET(t->floor_bytes, floor);
	}
	if (q->min_bytes || t->guarded_bytes)
		tenant_mark(c, tenant, DIRTY_GUARD);
	if (class == KVD_CLASS_OVER_HIGH)
		tenant_mark(c, tenant, DIRTY_HIGH);
	if (class == t->class)
		return;
	if (t->class == KVD_CLASS_OVER_HIGH)
		SET(c->memory_changed, 1);           /* who waits for its own high may go on */
	SET(t->class, class);
	shelf_class_changed(c, tenant);
}

void tenant_charge(const struct core *c, uint32_t tenant, int64_t rss_bytes, int64_t held_bytes)
{
	const struct tenant *t = tenant_at(c, tenant);
	TOUCH_FIELDS(TOUCH_TENANT, t, rss_bytes, reserved_bytes);
	PUT(t->held_bytes, t->held_bytes + (uint64_t)held_bytes);
	assert((int64_t)t->held_bytes >= 0);
	if (!rss_bytes && !t->quota.min_bytes && !t->guarded_bytes && t->class != KVD_CLASS_OVER_HIGH)
		return;                              /* none of its limits is about what is held */
	PUT(t->rss_bytes, t->rss_bytes + (uint64_t)rss_bytes);
	assert((int64_t)t->rss_bytes >= 0);
	tenant_changed(c, tenant);
}

void tenant_reserve(const struct core *c, uint32_t tenant, int64_t bytes)
{
	const struct tenant *t = tenant_at(c, tenant);
	TOUCH_FIELDS(TOUCH_TENANT, t, rss_bytes, reserved_bytes);
	PUT(t->reserved_bytes, t->reserved_bytes + (uint64_t)bytes);
	assert((int64_t)t->reserved_bytes >= 0);
	tenant_changed(c, tenant);
}

/* Whatever it says is made sense of: low and high at least min, high strictly below max at any size, so that a tenant's
 * own cache goes before anything is refused (not the other way round). */
void tenant_quota(const struct core *c, uint32_t tenant, const struct core_quota *wanted)
{
	const struct tenant *t = tenant_at(c, tenant);
	struct core_quota q = *wanted;
	if (q.max_bytes && q.min_bytes > q.max_bytes)
		q.min_bytes = q.max_bytes;
	if (q.low_bytes < q.min_bytes)
		q.low_bytes = q.min_bytes;
	if (q.high_bytes && q.high_bytes < q.min_bytes)
		q.high_bytes = q.min_bytes;
	if (q.max_bytes && (!q.high_bytes || q.high_bytes >= q.max_bytes))
		q.high_bytes = q.max_bytes > 16 ? q.max_bytes - q.max_bytes / 16 : q.max_bytes - 1;
	if (!q.weight)
		q.weight = CORE_WEIGHT;
	if (q.weight > CORE_WEIGHT_MAX)
		q.weight = CORE_WEIGHT_MAX;
	if (q.max_bytes && t->held_bytes + t->reserved_bytes > q.max_bytes)
		SET(t->max_age, c->next_age);        /* who is there now is not refused by it */
	SET(t->quota, q);
	SET(c->rate_usec, c->now_usec);              /* who waits for the old rate is looked at again */
	if (t->queued_listed) {                      /* in front with a min, behind without */
		list_remove(c, LIST_QUEUED, &c->queued_tenants, tenant);
		SET(t->queued_listed, 0);
		queued_list(c, tenant);
	}
	tenant_active_changed(c, tenant);
	tenant_changed(c, tenant);
	tenant_mark(c, tenant, DIRTY_GUARD | DIRTY_HIGH);
	SET(c->memory_changed, 1);                   /* a larger max may let somebody in */
}

/* Above its high the tenant's own cache goes, down to strictly below it.  True: done, or nothing is left to do
 * before something else happens to it. */
static bool tenant_shrink(const struct core *c, uint32_t tenant)
{
	const struct tenant *t = tenant_at(c, tenant);
	uint64_t going = 0;                          /* to disk: they count until they are written */
	if (c->spills_in[SPILL_SPILLING])
		return true;                         /* the end of a write changes a charge */
	blame(c, tenant, KVD_RECLAIM_HIGH);
	for (uint32_t n = 0; t->quota.high_bytes && tenant_usage(t) - going >= t->quota.high_bytes; n++) {
		uint32_t claim = tenant_first(c, tenant);
		if (!claim)
			return true;
		if (n == PLAN_STEP)
			return false;
		uint64_t usage = tenant_usage(t);
		uint64_t bytes = page_bytes_of_space(c, node_at(c, claim_at(c, claim)->node)->space);
		guard_release(c, claim);             /* from itself its min keeps nothing */
		if (!reclaim_out(c, claim, RECLAIM_PATIENT))
			return true;
		going += tenant_usage(t) == usage ? bytes : 0;
	}
	return true;
}

/* What the changes of this event mean for the tenants that they are about: a slice for each, sixteen tenants;
 * what is left is the next event's. */
void tenants_pump(const struct core *c)
{
	for (uint32_t n = c->dirty_tenants.count < 16 ? c->dirty_tenants.count : 16; n; n--) {
		uint32_t tenant = list_first(&c->dirty_tenants), left = 0;
		const struct tenant *t = tenant_at(c, tenant);
		if ((t->dirty & DIRTY_HIGH) && t->class == KVD_CLASS_OVER_HIGH && !tenant_shrink(c, tenant))
			left |= DIRTY_HIGH;
		if ((t->dirty & DIRTY_GUARD) && !guard_settle(c, tenant))
			left |= DIRTY_GUARD;
		left |= t->dirty & DIRTY_STALL;
		list_remove(c, LIST_DIRTY, &c->dirty_tenants, tenant);
		SET(t->dirty, 0);
		if (left)
			tenant_mark(c, tenant, left);
	}
}

/* The end of the event: nothing changes any more.  True: somebody's pressure has. */
bool tenants_end(const struct core *c)
{
	bool changed = false;
	for (uint32_t n = c->dirty_tenants.count; n; n--) {
		uint32_t tenant = list_first(&c->dirty_tenants), left;
		const struct tenant *t = tenant_at(c, tenant);
		if (t->dirty & DIRTY_STALL)
			changed |= psi_update_tenant(c, tenant);
		left = t->dirty & ~(uint32_t)DIRTY_STALL;
		list_remove(c, LIST_DIRTY, &c->dirty_tenants, tenant);
		SET(t->dirty, 0);
		if (left)
			tenant_mark(c, tenant, left);
	}
	if (c->dirty_tenants.count)
		SET(c->more, 1);
	return changed;
}
