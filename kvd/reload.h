/* reload.h - the configuration on its way to what runs: tenants, domains, rights, log level. */
#ifndef KVD_RELOAD_H
#define KVD_RELOAD_H

#include <stdint.h>

struct daemon;

/* Tell the core what the configuration says of the tenant of that name; makes it if it is new.
 * Returns its number, CORE_NONE: the core has no room. */
uint32_t reload_tenant(struct daemon *daemon, const char *name);
/* The same for every tenant that the configuration names or the core knows. */
void reload_tenants(struct daemon *daemon);
/* SIGHUP: read everything again; what is wrong changes nothing. */
void reload(struct daemon *daemon);

#endif
