/* cost.h - what a tenant has had: bytes times seconds, by RSS (as if nothing were shared) and by PSS (its part).
 *
 * Sampled: RSS every second, PSS as often as its walk over the index costs less than one part in two hundred. */
#ifndef KVD_COST_H
#define KVD_COST_H

#include <stdint.h>

#include "kvd/core/core.h"

struct daemon;

struct cost_tenant { uint64_t rss_byte_seconds, pss_byte_seconds, pss_bytes; };

struct cost {
	struct cost_tenant *tenants;       /* (LIMIT_TENANTS) */
	uint64_t sampled_usec;             /* RSS, all tenants */
	uint64_t pss_next_usec, pss_walk_usec;
	uint32_t pss_cursor;
};

int cost_open(struct daemon *daemon);
void cost_close(struct daemon *daemon);
/* Take the samples that are due; returns when to be called again. */
uint64_t cost_pump(struct daemon *daemon, uint64_t now_usec);
uint32_t cost_read(const struct daemon *daemon, uint32_t *cursor, struct kvd_row_cost *ret, uint32_t max);

#endif
