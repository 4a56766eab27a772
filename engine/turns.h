/* turns.h - tenants take turns at an engine's slots.
 *
 * Fair scheduling of steps does not help a stream that has no slot.  While one waits and its tenant
 * has fewer slots for its weight than another, the youngest stream of the tenant with most gives its
 * slot back and waits itself: its sequence is closed at kvd, its sealed pages stay cached there, and
 * when it is opened again at most one page is computed a second time.  Tokens do not change. */
#ifndef ENGINE_TURNS_H
#define ENGINE_TURNS_H

#include <stdint.h>

struct engine;

/* Between two steps, when no slot is free. */
void turns_make_room(struct engine *e, uint64_t now_usec);

#endif
