/* admin_ask.h - the argument of a QUERY: which prefix, frame, tenant or sequence is asked about. */
#ifndef KVD_ADMIN_ASK_H
#define KVD_ADMIN_ASK_H

#include <stdbool.h>
#include <stdint.h>

struct daemon;
struct peer_query;

#define ADMIN_ASK_WHY_MAX 160

/* Fill in the fields of *query that its argument decides; query->what is set.  The argument has passed
 * wire_check().  own: the asker's tenant; CORE_NONE: an administrator.  False: a sentence says what is wrong with it.
 *   EXPLAIN  "prefix N" (hexadecimal id), "page N" (frame number), "tenant NAME"
 *   PLAN     "" or "NAME"     TRACE  "page N", "sequence SLOT ENGINE"
 *   DRY_EVICT  "prefix N", or "BYTES" (0: all), or "BYTES TENANT" */
bool admin_ask(const struct daemon *daemon, uint32_t own, const char *argument, struct peer_query *query,
	       char ret_why[ADMIN_ASK_WHY_MAX]);

#endif
