/* adopt.c - see adopt.h.  At start, on the loop's thread.
 *
 * Every step may be cut short by another kill, and is begun anew by the next kvd: nothing is given
 * away (ADOPTED sent, a name forgotten) before what it depends on is committed. */
#include "kvd/adopt.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvd/clock.h"
#include "kvd/daemon.h"
#include "kvd/event.h"
#include "kvd/process.h"

/* ---- the book ---- */

__attribute__((format(printf, 2, 3)))
static bool doubt(char why[ADOPT_WHY_MAX], const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(why, ADOPT_WHY_MAX, format, args);
	va_end(args);
	return false;
}

/* The old mover may still be writing into extents: it is gone before anything else happens.  Whatever is
 * kept under that name was some killed kvd's mover; the last one must be among them.  A dead one has no
 * number any more. */
static bool end_mover(struct daemon *daemon, char why[ADOPT_WHY_MAX])
{
	uint32_t expected = daemon->kept->mover_pid;
	bool found = !expected;
	uint64_t timeout_usec = LIMIT_OLD_MOVER_USEC + (daemon->pool_bytes >> 30) * LIMIT_OLD_MOVER_GIB_USEC;
	int pidfd, number, r;

	while ((pidfd = bundle_take(daemon->bundle, "mover")) >= 0) {
		number = process_number(pidfd);
		found |= number == 0 || (number > 0 && (uint32_t)number == expected);
		r = process_kill(pidfd, timeout_usec);
		close(pidfd);
		if (r < 0)
			return doubt(why, "its mover, process %d, does not end: %s", number, strerror(-r));
	}
	if (!found)
		return doubt(why, "its mover, process %u, was not kept", expected);
	KEPT_SET(daemon, daemon->kept->mover_pid, 0u);
	core_commit(daemon->core);
	bundle_forget(daemon->bundle, "mover");
	return true;
}

static bool map_book(struct daemon *daemon, size_t bytes, int fd, char why[ADOPT_WHY_MAX])
{
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != bytes)
		return doubt(why, "the pool, the extents or the limits are configured otherwise now, or its layout "
				  "is another version's");
	daemon->book = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (daemon->book == MAP_FAILED) {
		daemon->book = NULL;
		return doubt(why, "its book cannot be mapped: %s", strerror(errno));
	}
	(void)madvise(daemon->book, bytes, MADV_DONTDUMP);
	return true;
}

static bool take_extents(struct daemon *daemon, char why[ADOPT_WHY_MAX])
{
	for (uint32_t i = 0; i < daemon->n_extents; i++) {
		char name[BUNDLE_NAME_MAX];
		int fd = bundle_take(daemon->bundle, bundle_name(name, "x", i));

		if (fd < 0)
			return doubt(why, "extent %u was not kept", i);
		if (kept_inode(fd) != daemon->kept->extent_inodes[i] ||
		    vmm_extent_adopt(daemon->vmm, i, fd) < 0) {
			close(fd);
			return doubt(why, "what was kept as extent %u is not that extent", i);
		}
	}
	return true;
}

static bool take_book(struct daemon *daemon, const struct core_config *expect, int fd, char why[ADOPT_WHY_MAX])
{
	size_t bytes = core_book_bytes(expect);
	const char *problem;
	uint64_t began_usec = clock_now_usec();

	_Static_assert(ADOPT_WHY_MAX >= CORE_WHY_MAX, "one sentence");
	if (!map_book(daemon, bytes, fd, why))
		return false;
	daemon->core = core_adopt(daemon->book, bytes, expect, why);
	if (!daemon->core)
		return false;
	log_info("adopt.checked book_bytes=%zu usec=%" PRIu64, bytes,
		 clock_now_usec() - began_usec);
	daemon->kept = core_shell(daemon->core);
	if (!kept_valid(daemon->kept, &problem))
		return doubt(why, "%s", problem);
	return end_mover(daemon, why) && take_extents(daemon, why);
}

bool adopt_book(struct daemon *daemon, const struct core_config *expect, char why[ADOPT_WHY_MAX])
{
	int fd = bundle_take(daemon->bundle, "book");
	bool ok;

	why[0] = '\0';
	if (fd < 0) {
		if (daemon->bundle->n_items)
			return doubt(why, "its book was not kept");
		return false;
	}
	ok = take_book(daemon, expect, fd, why);
	if (ok) {
		daemon->book_fd = fd;
		daemon->book_bytes = core_book_bytes(expect);
		return true;
	}
	if (daemon->book)
		munmap(daemon->book, core_book_bytes(expect));
	close(fd);
	daemon->book = NULL;
	daemon->core = NULL;
	daemon->kept = NULL;
	return false;
}

/* ---- the shell and the book together again ---- */

/* What the dead kvd had handed out, asked for before the queue is drained. */
struct lost {
	uint32_t jobs[2048], n_jobs;
	uint32_t extents[64], n_extents;
};

static void ask_lost(struct daemon *daemon, struct lost *ret)
{
	uint32_t cursor = 0, n;

	*ret = (struct lost){ 0 };
	while (core_job_in_flight(daemon->core, &cursor, &n)) {
		assert(ret->n_jobs < sizeof(ret->jobs) / sizeof(ret->jobs[0]));
		ret->jobs[ret->n_jobs++] = n;
	}
	cursor = 0;
	while (core_populate_in_flight(daemon->core, &cursor, &n)) {
		assert(ret->n_extents < sizeof(ret->extents) / sizeof(ret->extents[0]));
		ret->extents[ret->n_extents++] = n;
	}
}

static void drain(struct daemon *daemon)
{
	struct core_action action;

	while (core_next_action(daemon->core, &action))
		act_perform(daemon, &action);
}

static void report_lost(struct daemon *daemon, const struct lost *lost)
{
	for (uint32_t i = 0; i < lost->n_extents; i++)
		mover_link_populate(&daemon->mover, lost->extents[i]);
	for (uint32_t i = 0; i < lost->n_jobs; i++) {
		struct core_event event = { .type = CORE_EV_MOVED, .engine = CORE_NONE };

		event.moved.job = lost->jobs[i];
		event.moved.ok = false;
		daemon_event(daemon, &event);
	}
	daemon->stamp_wanted |= core_stamp_pending(daemon->core);
}

/* An engine of the core that the shell does not know: its ATTACH was not answered.  It has neither
 * segments nor extents, so nothing of it is left to wait for. */
static void forget_unanswered(struct daemon *daemon)
{
	struct kvd_row_engine row;
	uint32_t cursor = 0;

	while (core_read_engines(daemon->core, &cursor, &row, 1)) {
		struct core_event event = { .type = CORE_EV_HANGUP, .engine = row.engine };

		if (daemon->engines[row.engine].state != ATTACHED_FREE)
			continue;
		log_info("adopt.unanswered engine=%u", row.engine);
		daemon_event(daemon, &event);
		event.type = CORE_EV_QUIET;
		daemon_event(daemon, &event);
	}
}

/* Who had set a pressure trigger was connected to the dead kvd. */
static void forget_triggers(struct daemon *daemon)
{
	for (uint32_t i = 0; i < CORE_TRIGGERS_MAX; i++) {
		struct core_event event = { .type = CORE_EV_TRIGGER, .engine = CORE_NONE };

		event.trigger.number = i;
		event.trigger.tenant = CORE_NONE;
		daemon_event(daemon, &event);
	}
}

/* An engine that ended together with kvd is no loss of the adoption's. */
static bool lost_alive(const struct attached *engine)
{
	return !engine->gone && !process_ended(engine->process.fd);
}

void adopt_engines(struct daemon *daemon)
{
	const struct kept *kept = daemon->kept;
	uint64_t taken = 0, lost_engines = 0;
	struct lost lost;

	ask_lost(daemon, &lost);
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		if (kept->engines[i].state == ATTACHED_FREE)
			continue;
		if (adopt_engine_take(daemon, i))
			taken |= 1ull << i;
		else
			lost_engines |= 1ull << i;
	}
	weights_share_adopt(daemon);
	KEPT_SET(daemon, kept->adoptions, kept->adoptions + 1);
	core_commit(daemon->core);
	introduce_adopt(daemon);
	drain(daemon);
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
		if (taken >> i & 1u)
			adopt_engine_tell(daemon, i);
	if (daemon->spill.fd >= 0 && !daemon->spill.taken_over)
		daemon_event(daemon, &(struct core_event){ .type = CORE_EV_SPILL_GONE, .engine = CORE_NONE });
	report_lost(daemon, &lost);
	daemon->whole = true;
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
		if (lost_engines >> i & 1u) {
			daemon->whole &= !lost_alive(&daemon->engines[i]);
			daemon->engines[i].state = ATTACHED_LIVE;
			attach_hangup(&daemon->engines[i]);
		}
	forget_unanswered(daemon);
	forget_triggers(daemon);
	bundle_drop_rest(daemon->bundle);
	daemon->ready_usec = kept->ready_usec;
	daemon->taken_over = true;
	adopt_switches(daemon);
	log_info("adopted adoptions=%u engines=%d engines_lost=%d jobs_lost=%u", kept->adoptions,
		 __builtin_popcountll(taken), __builtin_popcountll(lost_engines), lost.n_jobs);
	event_note(daemon, KVD_EVENT_ADOPT, NULL, NULL, CORE_NONE, (uint64_t)__builtin_popcountll(taken),
		   (uint64_t)__builtin_popcountll(lost_engines), "adoption %u", kept->adoptions);
}

void adopt_switches(struct daemon *daemon)
{
	uint64_t now_usec = clock_now_usec();

	daemon->n_switching = 0;
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		struct attached *engine = &daemon->engines[i];

		if (engine->state != ATTACHED_LIVE || !engine->switching)
			continue;
		if (ring_generation(&engine->ring) == engine->kept->generation) {
			engine->switching = false;
			log_info("engine.adopted engine=%u name=\"%s\" generation=%u", i, engine->name,
				 engine->kept->generation);
		} else if (now_usec >= engine->switch_usec && engine->peer->state == PEER_READY) {
			log_warn("engine.wedged engine=%u name=\"%s\" pid=%u why=\"it has not taken the tables of "
				 "the new kvd in time\"", i, engine->name, engine->pid);
			daemon->whole = false;
			peer_doom(engine->peer, "wedged");
		} else {
			daemon->n_switching++;
			daemon_deadline(daemon, engine->switch_usec);
		}
	}
	daemon->adopted = daemon->taken_over && daemon->whole && !daemon->n_switching;
}
