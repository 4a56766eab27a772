/* admin_ask.c - see admin_ask.h.  Looks things up, changes nothing. */
#include "kvd/admin_ask.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "kvd/daemon.h"

/* A number of the given base and nothing behind it but `end`. NULL: none. */
static const char *take_number(const char *text, unsigned base, char end, uint64_t *ret)
{
	unsigned n = 0;

	*ret = 0;
	for (;; text++, n++) {
		unsigned digit = *text >= '0' && *text <= '9' ? (unsigned)(*text - '0')
			       : *text >= 'a' && *text <= 'f' ? (unsigned)(*text - 'a') + 10 : 99;

		if (digit >= base || n == 16)
			break;
		*ret = *ret * base + digit;
	}
	return n && *text == end ? text : NULL;
}

/* own: the asker's tenant, CORE_NONE: an administrator.  Whether others exist is not for everybody. */
static bool ask_tenant(const struct daemon *daemon, uint32_t own, const char *name, uint32_t *ret,
		       char why[ADMIN_ASK_WHY_MAX])
{
	*ret = core_tenant_find(daemon->core, name);
	if (own != CORE_NONE && *ret != own)
		*ret = CORE_NONE;
	if (*ret == CORE_NONE)
		snprintf(why, ADMIN_ASK_WHY_MAX, "there is no tenant %s; see kvctl tenants", name);
	return *ret != CORE_NONE;
}

static bool ask_explain(const struct daemon *daemon, uint32_t own, const char *argument, struct peer_query *query,
			char why[ADMIN_ASK_WHY_MAX])
{
	uint32_t tenant;

	if (!strncmp(argument, "tenant ", 7)) {
		query->kind = CORE_EXPLAIN_TENANT;
		if (!ask_tenant(daemon, own, argument + 7, &tenant, why))
			return false;
		query->number = tenant;
		return true;
	}
	query->kind = CORE_EXPLAIN_PREFIX;
	if (!strncmp(argument, "prefix ", 7) && take_number(argument + 7, 16, '\0', &query->number))
		return true;
	query->kind = CORE_EXPLAIN_FRAME;
	if (!strncmp(argument, "page ", 5) && take_number(argument + 5, 10, '\0', &query->number))
		return true;
	snprintf(why, ADMIN_ASK_WHY_MAX, "explain what? a prefix, a page or a tenant");
	return false;
}

static bool ask_trace(const struct daemon *daemon, const char *argument, struct peer_query *query,
		      char why[ADMIN_ASK_WHY_MAX])
{
	const char *name;
	uint64_t number = 0;

	query->trace = (struct trace_filter){ CORE_NONE, CORE_NONE, CORE_NONE };
	if (!strncmp(argument, "page ", 5) && take_number(argument + 5, 10, '\0', &number) && number < CORE_NONE) {
		query->trace.frame = (uint32_t)number;
		return true;
	}
	name = strncmp(argument, "sequence ", 9) ? NULL : take_number(argument + 9, 10, ' ', &number);
	query->trace.slot = (uint32_t)number;
	for (uint32_t i = 0; name && number < CORE_NONE && i < CORE_ENGINES_MAX; i++)
		if (daemon->engines[i].state != ATTACHED_FREE && !strcmp(daemon->engines[i].name, name + 1))
			query->trace.engine = i;
	if (query->trace.engine != CORE_NONE)
		return true;
	snprintf(why, ADMIN_ASK_WHY_MAX, "trace what? a sequence of an engine that is there, or a page");
	return false;
}

static bool ask_evict(const struct daemon *daemon, const char *argument, struct peer_query *query,
		      char why[ADMIN_ASK_WHY_MAX])
{
	struct core_event *event = &query->evict;
	const char *name;

	event->type = CORE_EV_EVICT;
	event->steer.tenant = CORE_NONE;
	if (!strncmp(argument, "prefix ", 7) && take_number(argument + 7, 16, '\0', &event->steer.prefix))
		return true;
	event->steer.prefix = 0;
	if (take_number(argument, 10, '\0', &event->steer.bytes))
		return true;
	name = take_number(argument, 10, ' ', &event->steer.bytes);
	if (name)
		return ask_tenant(daemon, CORE_NONE, name + 1, &event->steer.tenant, why);
	snprintf(why, ADMIN_ASK_WHY_MAX, "evict what? a prefix, or bytes, and a tenant");
	return false;
}

bool admin_ask(const struct daemon *daemon, uint32_t own, const char *argument, struct peer_query *query,
	       char why[ADMIN_ASK_WHY_MAX])
{
	query->owner = CORE_NONE;
	switch (query->what) {
	case KVD_Q_EXPLAIN: return ask_explain(daemon, own, argument, query, why);
	case KVD_Q_DRY_EVICT: return ask_evict(daemon, argument, query, why);
	case KVD_Q_TRACE: return ask_trace(daemon, argument, query, why);
	case KVD_Q_PLAN: return !argument[0] || ask_tenant(daemon, own, argument, &query->owner, why);
	}
	return true;
}
