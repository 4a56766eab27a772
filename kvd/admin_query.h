/* admin_query.h - answers to QUERY: rows of include/kvd/admin.h in a sealed memfd.
 *
 * Rows are read from the core in slices of LIMIT_ROWS_BYTES_PER_ROUND, so a long list never stops
 * the loop; a list longer than a slice is a walk over moving things, not a snapshot. */
#ifndef KVD_ADMIN_QUERY_H
#define KVD_ADMIN_QUERY_H

#include <stdbool.h>
#include <stdint.h>

#include "kvd/proto.h"

struct daemon;
struct peer;

void admin_query(struct peer *peer, const struct kvd_msg_query *m);
/* A slice for each query under way; true if one is not finished. */
bool admin_run(struct daemon *daemon);

#endif
