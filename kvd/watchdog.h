/* watchdog.h - is this daemon well?  A sample of the book every second; systemd hears it only then.
 *
 *   WELL   -> BROKEN  [watchdog_run]  a sample found a problem: logged, `kvctl status` says not healthy, no
 *                                     WATCHDOG=1 is sent any more.  systemd then ends kvd (SIGABRT), and the next
 *                                     one's adoption checks the whole book: it starts cold if that is true.
 * There is no way back: a book that was wrong once is not trusted. */
#ifndef KVD_WATCHDOG_H
#define KVD_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

#include "kvd/core/core.h"

struct daemon;

struct watchdog {
	struct core_sample cursor;
	bool broken;
	bool sampled;              /* a clean sample since the last WATCHDOG=1 */
	uint64_t ping_usec;        /* between two WATCHDOG=1; 0: systemd does not ask for them */
	uint64_t sample_at_usec, ping_at_usec;
	uint64_t n_records;        /* looked at since start */
};

void watchdog_open(struct daemon *daemon);
/* At the end of a whole round of the loop; returns the next deadline. */
uint64_t watchdog_run(struct daemon *daemon, uint64_t now_usec);

#endif
