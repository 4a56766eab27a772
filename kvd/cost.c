/* cost.c - see cost.h.  Owns the sums.  Loop thread only. */
#include "kvd/cost.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvd/clock.h"
#include "kvd/daemon.h"

#define COST_RSS_USEC 1000000u
#define COST_PSS_USEC 5000000u             /* at the most often */
#define COST_PSS_SHARE 200u                /* its walk may take one part in so many of the loop's time */
#define COST_PSS_ROWS 64u                  /* tenants of one walk */

int cost_open(struct daemon *daemon)
{
	daemon->cost.tenants = calloc(LIMIT_TENANTS, sizeof(daemon->cost.tenants[0]));
	return daemon->cost.tenants ? 0 : -ENOMEM;
}

void cost_close(struct daemon *daemon)
{
	free(daemon->cost.tenants);
	daemon->cost = (struct cost){ 0 };
}

/* A second of everybody's bytes; the PSS is the one last seen. */
static void sample_rss(struct daemon *daemon, uint64_t now_usec)
{
	struct cost *cost = &daemon->cost;
	uint64_t usec = cost->sampled_usec ? now_usec - cost->sampled_usec : 0;
	struct kvd_row_tenant row;

	for (uint32_t i = 0; i < LIMIT_TENANTS; i++) {
		struct cost_tenant *t = &cost->tenants[i];
		uint32_t cursor = 0;

		if (!core_read_tenants(daemon->core, i, &cursor, &row, 1))
			break;
		t->rss_byte_seconds += (uint64_t)((unsigned __int128)row.rss_bytes * usec / 1000000u);
		t->pss_byte_seconds += (uint64_t)((unsigned __int128)t->pss_bytes * usec / 1000000u);
	}
	cost->sampled_usec = now_usec;
}

/* One walk over the index for the next tenants. */
static void sample_pss(struct daemon *daemon)
{
	static struct kvd_row_tenant rows[COST_PSS_ROWS];
	struct cost *cost = &daemon->cost;
	uint64_t began_usec = clock_now_usec(), usec;
	uint32_t first = cost->pss_cursor;
	uint32_t n = core_read_tenants(daemon->core, CORE_NONE, &cost->pss_cursor, rows, COST_PSS_ROWS);

	for (uint32_t i = 0; i < n && first + i < LIMIT_TENANTS; i++)
		cost->tenants[first + i].pss_bytes = rows[i].pss_bytes;
	cost->pss_walk_usec += clock_now_usec() - began_usec;
	usec = cost->pss_walk_usec * COST_PSS_SHARE;
	if (n == COST_PSS_ROWS) {
		cost->pss_next_usec = clock_now_usec() + (clock_now_usec() - began_usec) * COST_PSS_SHARE;
		return;
	}
	cost->pss_next_usec = clock_now_usec() + (usec > COST_PSS_USEC ? usec : COST_PSS_USEC);
	cost->pss_cursor = 0;
	cost->pss_walk_usec = 0;
}

uint64_t cost_pump(struct daemon *daemon, uint64_t now_usec)
{
	struct cost *cost = &daemon->cost;

	if (now_usec >= cost->sampled_usec + COST_RSS_USEC)
		sample_rss(daemon, now_usec);
	if (now_usec >= cost->pss_next_usec)
		sample_pss(daemon);
	return cost->sampled_usec + COST_RSS_USEC;
}

uint32_t cost_read(const struct daemon *daemon, uint32_t *cursor, struct kvd_row_cost *ret, uint32_t max)
{
	struct kvd_row_tenant row;
	uint32_t n = 0;

	for (; *cursor < LIMIT_TENANTS && n < max; n++) {
		const struct cost_tenant *t = &daemon->cost.tenants[*cursor];
		const struct tenant_counters *counters = &daemon->kept->counters[*cursor];
		uint32_t at = 0;

		if (!core_read_tenants(daemon->core, *cursor, &at, &row, 1))
			break;
		++*cursor;
		memset(&ret[n], 0, sizeof(ret[n]));
		memcpy(ret[n].tenant, row.name, sizeof(ret[n].tenant));
		ret[n].computed_tokens = counters->prompt_tokens - counters->cached_tokens;
		ret[n].cached_tokens = counters->cached_tokens;
		ret[n].completion_tokens = counters->completion_tokens;
		ret[n].refault_tokens = row.refault_tokens;
		ret[n].rss_byte_seconds = t->rss_byte_seconds;
		ret[n].pss_byte_seconds = t->pss_byte_seconds;
	}
	return n;
}
