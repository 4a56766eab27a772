/* watchdog.c - see watchdog.h.  Called by daemon_run() when a round is complete: events, rings, step
 * counters, clock, streams, questions and mover have all had their turn.  Loop thread only. */
#include "kvd/watchdog.h"

#include <inttypes.h>
#include <systemd/sd-daemon.h>

#include "kvd/clock.h"
#include "kvd/daemon.h"

void watchdog_open(struct daemon *daemon)
{
	struct watchdog *watchdog = &daemon->watchdog;
	uint64_t timeout_usec = 0, now_usec = clock_now_usec();

	*watchdog = (struct watchdog){ .sample_at_usec = now_usec, .ping_at_usec = CLOCK_NEVER };
	if (sd_watchdog_enabled(0, &timeout_usec) <= 0)
		return;
	/* Half of what systemd allows, as sd_watchdog_enabled(3) advises. */
	watchdog->ping_usec = timeout_usec / 2;
	watchdog->ping_at_usec = now_usec;
}

static void report(void *arg, const char *problem)
{
	struct watchdog *watchdog = arg;

	if (!watchdog->broken)
		log_error("watchdog.broken problem=\"%s\" remedy=\"the book is not trusted any "
			  "more; restart kvd and report "
			  "this line with `kvctl fsck`\"",
			  problem);
	watchdog->broken = true;
}

static void sample(struct daemon *daemon, struct watchdog *watchdog)
{
	uint32_t n_records, swept = watchdog->cursor.swept;

	(void)core_fsck_sample(daemon->core, &watchdog->cursor, LIMIT_SAMPLE_RECORDS, report, watchdog, &n_records);
	watchdog->n_records += n_records;
	watchdog->sampled = !watchdog->broken;
	if (watchdog->cursor.swept != swept)
		log_debug("watchdog.swept sweeps=%u records=%" PRIu64 " passed_over=%u", watchdog->cursor.swept,
			  watchdog->n_records, watchdog->cursor.passed_over);
}

uint64_t watchdog_run(struct daemon *daemon, uint64_t now_usec)
{
	struct watchdog *watchdog = &daemon->watchdog;

	if (watchdog->broken)
		return CLOCK_NEVER;
	/* Before a WATCHDOG=1 in any case, however short systemd's time is. */
	if (now_usec >= watchdog->sample_at_usec || now_usec >= watchdog->ping_at_usec) {
		sample(daemon, watchdog);
		watchdog->sample_at_usec = now_usec + LIMIT_SAMPLE_USEC;
	}
	if (now_usec >= watchdog->ping_at_usec && watchdog->sampled) {
		(void)sd_notify(0, "WATCHDOG=1");
		watchdog->sampled = false;
		watchdog->ping_at_usec = now_usec + watchdog->ping_usec;
	}
	return watchdog->sample_at_usec < watchdog->ping_at_usec ? watchdog->sample_at_usec : watchdog->ping_at_usec;
}
