/* mover_link.c - see mover_link.h.  Loop thread only; nothing allocates after mover_link_open(). */
#include "kvd/mover_link.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvd/attach.h"
#include "kvd/clock.h"
#include "kvd/daemon.h"
#include "kvd/packet.h"

/* Jobs that wait here.  The core has fewer than a thousand under way (JOBS_MAX of its book.h); each
 * engine adds a flush.  Asserted in queue_push(). */
#define MOVER_SMALL_QUEUE 2048u
#define MOVER_DISK_QUEUE 512u              /* the core has at most SPILLS_MAX + FETCHES_MAX of its book.h */
#define MOVER_SHARE_QUEUE 256u             /* likewise SHARES_MAX, and a cover */
#define MOVER_DISK_LOG_USEC 1000000u
#define MOVER_POPULATE_RETRY_USEC 1000000u
#define MOVER_BACKOFF_MAX_USEC 5000000u
#define MOVER_REAP_POLL_USEC 2000u
#define MOVER_QUIET_RETRY_USEC 20000u
#define MOVER_DEVICE_FAILURES_MAX 3u       /* in a row: it is the device, not the mover */

_Static_assert(CORE_ENGINES_MAX <= 64, "not_quiet is a word");

/* ---- queues ---- */

static struct mover_entry *queue_push(struct mover_queue *queue)
{
	struct mover_entry *entry;

	assert(queue->n < queue->size);
	entry = &queue->entries[(queue->head + queue->n++) % queue->size];
	*entry = (struct mover_entry){ 0 };
	return entry;
}

static struct mover_entry *queue_first(const struct mover_queue *queue)
{
	return queue->n ? &queue->entries[queue->head] : NULL;
}

static void queue_pop(struct mover_queue *queue)
{
	assert(queue->n);
	/* An empty queue begins again at the front: what it touches is what it once needed at a
	 * time, not the whole of it bit by bit. */
	queue->head = queue->n == 1 ? 0 : (queue->head + 1) % queue->size;
	queue->n--;
}

static bool is_big(uint32_t kind)
{
	return kind == MOVER_POPULATE || kind == MOVER_SCRUB_EXTENT;
}

static bool is_disk(uint32_t kind)
{
	return kind == MOVER_SPILL || kind == MOVER_FETCH;
}

static bool is_cover(uint32_t kind)
{
	return kind == MOVER_COVER || kind == MOVER_COVER_SCRUB;
}

static bool is_share(uint32_t kind)
{
	return kind == MOVER_COMPARE_COPY || kind == MOVER_COVER;
}

static struct mover_queue *queue_of(struct mover_link *link, uint32_t kind)
{
	return is_disk(kind) ? &link->disk : is_big(kind) ? &link->big : is_share(kind) ? &link->share : &link->small;
}

_Static_assert(MOVER_SPILL_TRAILER == CORE_SPILL_TRAILER && MOVER_SPILL_ALIGN == CORE_SPILL_ALIGN &&
	       LIMIT_MOVER_DISK <= MOVER_DISK_JOBS_MAX && LIMIT_MOVER_SHARE <= MOVER_SHARE_JOBS_MAX,
	       "core, link and mover agree");

void mover_link_move(struct mover_link *link, const struct core_action *action)
{
	static const uint32_t kinds[] = {
		[CORE_MOVE_SCRUB] = MOVER_SCRUB,
		[CORE_MOVE_COPY] = MOVER_COPY,
		[CORE_MOVE_COMPARE_COPY] = MOVER_COMPARE_COPY,
		[CORE_MOVE_SCRUB_EXTENT] = MOVER_SCRUB_EXTENT,
		[CORE_MOVE_SPILL] = MOVER_SPILL,
		[CORE_MOVE_FETCH] = MOVER_FETCH,
	};
	uint32_t kind = kinds[action->move.kind];
	struct mover_entry *entry = queue_push(queue_of(link, kind));

	entry->job.kind = kind;
	entry->job.source = action->move.source;
	entry->job.peer = action->move.peer;
	entry->job.target = action->move.target;
	entry->job.geometry = action->move.geometry;
	entry->job.place = (struct mover_place){ action->move.place.offset, action->move.place.generation,
						 action->move.place.identity };
	entry->number = action->move.job;
}

void mover_link_push(struct mover_link *link, uint32_t kind, const struct kvd_geometry *geometry)
{
	struct mover_entry *entry = queue_push(queue_of(link, kind));

	entry->job.kind = kind;
	entry->job.geometry = *geometry;
}

void mover_link_populate(struct mover_link *link, uint32_t extent)
{
	struct mover_entry *entry = queue_push(&link->big);

	entry->job.kind = MOVER_POPULATE;
	entry->job.target = extent;
}

void mover_link_flush(struct mover_link *link, uint32_t engine)
{
	struct mover_entry *entry = queue_push(&link->small);

	entry->job.kind = MOVER_FLUSH;
	entry->job.target = link->daemon->engines[engine].pid;
	entry->number = engine;
}

/* ---- sending ---- */

static int send_job(struct mover_link *link, const struct mover_job *job, int fd)
{
	return packet_send(link->source.fd, job, sizeof(*job), &fd, fd >= 0);
}

/* Make sure that this mover has an extent. */
static int send_extent(struct mover_link *link, uint32_t extent)
{
	struct mover_job job = { .kind = MOVER_EXTENT, .target = extent };
	int fd, r;

	if (link->known[extent])
		return 0;
	fd = vmm_extent_fd(link->daemon->vmm, extent, true);
	if (fd < 0)
		return fd;
	r = send_job(link, &job, fd);
	if (r == 0)
		link->known[extent] = 1;
	return r;
}

static int send_extents_of(struct mover_link *link, const struct mover_job *job)
{
	uint32_t bits = job->geometry.slot_bits;
	int r;

	if (job->kind == MOVER_FLUSH || is_cover(job->kind))
		return 0;
	if (is_big(job->kind))
		return send_extent(link, job->target);
	if (job->kind == MOVER_SPILL)
		return send_extent(link, job->source >> bits);
	r = send_extent(link, job->target >> bits);
	if (r == 0 && job->kind != MOVER_SCRUB && job->kind != MOVER_FETCH)
		r = send_extent(link, job->source >> bits);
	if (r == 0 && job->kind == MOVER_COMPARE_COPY)
		r = send_extent(link, job->peer >> bits);
	return r;
}

/* Send the first of a queue.  1: sent; 0: not now. */
static int send_first(struct mover_link *link, struct mover_queue *queue, uint32_t *n_flying,
		      uint64_t now_usec)
{
	struct mover_entry *entry = queue_first(queue);
	uint32_t place = 0;
	int r;

	while (link->flight[place].used)
		place++;
	assert(place < MOVER_FLIGHT);
	entry->job.cookie = place;
	r = send_extents_of(link, &entry->job);
	if (r == 0)
		r = send_job(link, &entry->job, -1);
	if (r == 0) {
		link->flight[place] = *entry;
		link->flight[place].used = true;
		(*n_flying)++;
		queue_pop(queue);
		return 1;
	}
	if (r == -EAGAIN || r == -ENOBUFS || r == -ETOOMANYREFS) {
		(void)loop_watch(link->daemon->loop, &link->source, POLLIN | POLLOUT);
	} else if (r != -EPIPE &&
		   r != -ECONNRESET) { /* those: its end is noticed by read_replies() */
		log_error("mover.extent_failed extent=%u error=\"%s\"", entry->job.target,
			  strerror(-r));
		link->populate_at_usec = now_usec + MOVER_POPULATE_RETRY_USEC;
	}
	return 0;
}

/* ---- replies ---- */

static void report(struct mover_link *link, const struct mover_entry *entry, bool ok, bool differs)
{
	struct core_event event;

	if (is_cover(entry->job.kind)) {
		if (entry->job.kind == MOVER_COVER)
			mover_share_covered(link, &entry->job);
		return;
	}
	if (entry->job.kind == MOVER_FLUSH) {
		/* Not quiet, or it cannot be said: its frames stay in quarantine, and it is asked again. */
		if (ok) {
			attach_flushed(link->daemon, entry->number);
		} else {
			link->not_quiet |= 1ull << entry->number;
			link->quiet_at_usec = clock_now_usec() + MOVER_QUIET_RETRY_USEC;
		}
		return;
	}
	if (entry->job.kind == MOVER_POPULATE) {
		event.type = CORE_EV_POPULATED;
		event.engine = CORE_NONE;
		event.populated.extent = entry->job.target;
	} else {
		event.type = CORE_EV_MOVED;
		event.engine = CORE_NONE;
		event.moved.job = entry->number;
		event.moved.ok = ok;
		event.moved.differs = differs;
	}
	daemon_event(link->daemon, &event);
}

static struct mover_entry flight_take(struct mover_link *link, uint32_t place)
{
	struct mover_entry entry = link->flight[place];

	link->flight[place].used = false;
	if (is_disk(entry.job.kind))
		link->n_disk--;
	else if (is_share(entry.job.kind))
		link->n_share--;
	else if (is_big(entry.job.kind))
		link->n_big--;
	else
		link->n_small--;
	return entry;
}

/* A full or broken disk fails whatever it is asked: one line a second. */
static void disk_failed(struct mover_link *link, const struct mover_entry *entry, int error)
{
	uint64_t now_usec = clock_now_usec();

	link->disk_failures++;
	if (link->disk_logged_usec && now_usec < link->disk_logged_usec + MOVER_DISK_LOG_USEC)
		return;
	log_error("spill.%s_failed offset=%" PRIu64 " failures=%" PRIu64 " error=\"%s\" "
		  "remedy=\"look at the disk; what was not written or read is computed again\"",
		  entry->job.kind == MOVER_SPILL ? "write" : "read", entry->job.place.offset, link->disk_failures,
		  strerror(-error));
	link->disk_logged_usec = now_usec;
	link->disk_failures = 0;
}

static void handle_reply(struct mover_link *link, const struct mover_reply *reply)
{
	struct mover_entry entry = flight_take(link, reply->cookie);

	link->silent_at_usec = CLOCK_NEVER;  /* the pump begins to count again */
	if (reply->error == 0)
		link->device_failures = 0;
	if (reply->error && entry.job.kind == MOVER_POPULATE) {
		log_error("mover.no_memory extent=%u error=\"%s\" remedy=\"free memory or choose a "
			  "smaller --pool\"",
			  entry.job.target, strerror(-reply->error));
		link->populate_at_usec = clock_now_usec() + MOVER_POPULATE_RETRY_USEC;
		mover_link_populate(link, entry.job.target);
		return;
	}
	if (reply->error && is_disk(entry.job.kind))
		disk_failed(link, &entry, reply->error);
	else if (reply->error && entry.job.kind != MOVER_FLUSH)
		log_error("mover.job_failed kind=%u target=%u error=\"%s\"", entry.job.kind,
			  entry.job.target, strerror(-reply->error));
	report(link, &entry, reply->error == 0, reply->differs != 0);
}

/* The mover is of no more use: end it.  What it had is reported only when it has really ended, for
 * until then it may still write into its targets; mover_link_pump() waits and never blocks. */
static void mover_lost(struct mover_link *link)
{
	loop_remove(link->daemon->loop, &link->source);
	close(link->source.fd);
	(void)kill(link->pid, SIGKILL);
	link->ending = true;
	link->silent_at_usec = CLOCK_NEVER;
	link->restart_at_usec = CLOCK_NEVER;
	daemon_deadline(link->daemon, clock_now_usec());
}

/* The next kvd must end this mover before it gives a job to its own: it is in the bundle and in the book
 * before it is sent the first extent, and until it has been reaped. */
static void remember(struct mover_link *link)
{
	struct daemon *daemon = link->daemon;

	if (link->pid) {
		link->pidfd = (int)syscall(SYS_pidfd_open, link->pid, 0);
		if (link->pidfd >= 0)
			bundle_keep(daemon->bundle, "mover", link->pidfd);
	} else if (link->pidfd >= 0) {
		bundle_forget(daemon->bundle, "mover");
		close(link->pidfd);
		link->pidfd = -1;
	}
	KEPT_SET(daemon, daemon->kept->mover_pid, (uint32_t)link->pid);
	core_commit(daemon->core);
}

/* A mover whose device failed: one is an accident of a kernel or a copy, several in a row are the device. */
static void device_failed(struct mover_link *link, int exit_status)
{
	bool opened = exit_status == MOVER_EXIT_FAULT;

	log_error("device.failed device=\"%s\" what=\"%s\" failures=%u", link->daemon->device.text,
		  opened ? "it failed under way" : "the mover cannot open it", link->device_failures + 1);
	if (++link->device_failures >= MOVER_DEVICE_FAILURES_MAX)
		daemon_device_lost(link->daemon);
}

/* Has the lost mover ended?  Then give its jobs back and choose when the next one starts. */
static bool mover_reap(struct mover_link *link, uint64_t now_usec)
{
	int status = 0;

	if (waitpid(link->pid, &status, WNOHANG) == 0)
		return false;
	link->pid = 0;
	link->ending = false;
	remember(link);
	link->backoff_usec = now_usec - link->started_usec > 1000000 ? 0
			     : link->backoff_usec		     ? link->backoff_usec * 2
								     : LIMIT_MOVER_RESTART_USEC;
	if (link->backoff_usec > MOVER_BACKOFF_MAX_USEC)
		link->backoff_usec = MOVER_BACKOFF_MAX_USEC;
	link->restart_at_usec = now_usec + link->backoff_usec;
	log_error("mover.lost signal=%d exit=%d jobs=%u restart_in_usec=%" PRIu64,
		  WIFSIGNALED(status) ? WTERMSIG(status) : 0,
		  WIFEXITED(status) ? WEXITSTATUS(status) : 0,
		  link->n_small + link->n_big + link->n_disk + link->n_share,
		  link->backoff_usec);
	if (WIFEXITED(status) &&
	    (WEXITSTATUS(status) == MOVER_EXIT_NO_DEVICE || WEXITSTATUS(status) == MOVER_EXIT_FAULT))
		device_failed(link, WEXITSTATUS(status));
	for (uint32_t i = 0; i < MOVER_FLIGHT; i++) {
		struct mover_entry entry;

		if (!link->flight[i].used)
			continue;
		entry = flight_take(link, i);
		if (entry.job.kind == MOVER_FLUSH)
			mover_link_flush(link, entry.number);
		else if (entry.job.kind == MOVER_POPULATE)
			mover_link_populate(link, entry.job.target);
		else
			report(link, &entry, false, false);
	}
	return true;
}

static void mover_ready(struct loop_source *source, uint32_t events)
{
	struct mover_link *link = (struct mover_link *)((char *)source -
							offsetof(struct mover_link, source));

	if (events & POLLOUT)
		(void)loop_watch(link->daemon->loop, source, POLLIN);
	/* Bounded by what is in flight. */
	for (;;) {
		struct mover_reply reply;
		ssize_t n = recv(source->fd, &reply, sizeof(reply), MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n != sizeof(reply) || reply.cookie >= MOVER_FLIGHT ||
		    !link->flight[reply.cookie].used) {
			mover_lost(link);
			return;
		}
		handle_reply(link, &reply);
	}
}

/* ---- life ---- */

/* The spill file and its key: this mover's from now on. */
static int send_spill_file(struct mover_link *link)
{
	const struct core_config *config = core_config_of(link->daemon->core);
	struct mover_job job = { .kind = MOVER_SPILL_FILE, .file = { .bytes = config->spill_bytes } };
	int r;

	memcpy(job.file.key, config->spill_key, sizeof(job.file.key));
	r = send_job(link, &job, link->daemon->spill.fd);
	explicit_bzero(job.file.key, sizeof(job.file.key));
	return r;
}

static int mover_start(struct mover_link *link, uint64_t now_usec)
{
	struct mover_job setup = { .kind = MOVER_SETUP, .n_extents = link->daemon->n_extents };
	int pair[2], r;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	pid = mover_spawn(link->path, pair[1]);
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return pid;
	}
	link->pid = pid;
	remember(link);
	link->source = (struct loop_source){ .ready = mover_ready, .fd = pair[0] };
	link->started_usec = now_usec;
	link->restart_at_usec = CLOCK_NEVER;
	memset(link->known, 0, link->daemon->n_extents);
	r = loop_add(link->daemon->loop, &link->source, POLLIN);
	setup.geometry.extent_bytes = link->daemon->extent_bytes;
	setup.device.ordinal = link->daemon->device.ordinal;
	memcpy(setup.device.uuid, link->daemon->device.uuid, sizeof(setup.device.uuid));
	if (r == 0)
		r = send_job(link, &setup, -1);
	if (r == 0 && link->daemon->spill.fd >= 0)
		r = send_spill_file(link);
	if (r < 0)
		mover_lost(link);
	return r == -EPIPE ? 0 : r;
}

/* When the mover has been silent for too long; it is counted from its last reply. */
static uint64_t silence(struct mover_link *link, uint64_t now_usec)
{
	if (link->n_small + link->n_big + link->n_share == 0)
		link->silent_at_usec = CLOCK_NEVER;
	else if (link->silent_at_usec == CLOCK_NEVER)
		link->silent_at_usec = now_usec + LIMIT_MOVER_SILENCE_USEC;
	return link->silent_at_usec;
}

static void ask_quiet(struct mover_link *link, uint64_t now_usec)
{
	if (!link->not_quiet || now_usec < link->quiet_at_usec)
		return;
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
		if (link->not_quiet >> i & 1u)
			mover_link_flush(link, i);
	link->not_quiet = 0;
}

/* Give it what its queues have.  Compare jobs come last; where there are too few of them, covers stand in. */
static void send_jobs(struct mover_link *link, uint64_t now_usec)
{
	while (link->small.n && link->n_small < LIMIT_MOVER_SMALL)
		if (!send_first(link, &link->small, &link->n_small, now_usec))
			break;
	if (link->populate_at_usec <= now_usec)
		link->populate_at_usec = 0;
	while (link->disk.n && link->n_disk < LIMIT_MOVER_DISK)
		if (!send_first(link, &link->disk, &link->n_disk, now_usec))
			break;
	while (link->big.n && link->n_big < LIMIT_MOVER_BIG && !link->populate_at_usec)
		if (!send_first(link, &link->big, &link->n_big, now_usec))
			break;
	while (link->n_share < LIMIT_MOVER_SHARE && (link->share.n || mover_share_cover(link))) {
		const struct mover_job job = queue_first(&link->share)->job;

		if (!send_first(link, &link->share, &link->n_share, now_usec))
			break;
		if (job.kind == MOVER_COMPARE_COPY)
			mover_share_sent(link, &job);
	}
}

uint64_t mover_link_pump(struct mover_link *link, uint64_t now_usec)
{
	uint64_t silent_at_usec;

	if (link->ending) {
		if (!mover_reap(link, now_usec))
			return now_usec + MOVER_REAP_POLL_USEC;
		return now_usec;  /* the core may have answered with new jobs and stamps */
	}
	if (!link->source.slot && link->restart_at_usec <= now_usec) {
		int r = mover_start(link, now_usec);

		if (r < 0) {
			log_error("mover.start_failed error=\"%s\"", strerror(-r));
			link->restart_at_usec = now_usec + MOVER_BACKOFF_MAX_USEC;
		} else {
			link->restarts++;
			log_info("mover.started pid=%d restarts=%" PRIu64, link->pid,
				 link->restarts);
			event_note(link->daemon, KVD_EVENT_MOVER, NULL, NULL, CORE_NONE, link->restarts, 0, "pid %d",
				   link->pid);
		}
	}
	if (!link->source.slot)
		return link->restart_at_usec;
	ask_quiet(link, now_usec);
	mover_share_due(link);
	send_jobs(link, now_usec);
	silent_at_usec = silence(link, now_usec);
	if (silent_at_usec <= now_usec) {
		log_error("mover.silent pid=%d jobs=%u", link->pid, link->n_small + link->n_big + link->n_share);
		mover_lost(link);
		return now_usec;
	}
	if (link->populate_at_usec && link->populate_at_usec < silent_at_usec)
		silent_at_usec = link->populate_at_usec;
	if (link->not_quiet && link->quiet_at_usec < silent_at_usec)
		silent_at_usec = link->quiet_at_usec;
	return silent_at_usec;
}

int mover_link_open(struct daemon *daemon, uint32_t n_extents)
{
	struct mover_link *link = &daemon->mover;
	int r;

	link->daemon = daemon;
	link->source.fd = link->pidfd = -1;
	link->disk.size = MOVER_DISK_QUEUE;
	link->share.size = MOVER_SHARE_QUEUE;
	link->silent_at_usec = CLOCK_NEVER;
	r = mover_find(link);
	if (r < 0)
		return r;
	link->small.size = MOVER_SMALL_QUEUE;
	link->big.size = 2 * n_extents +
			 1; /* an extent is populated once and scrubbed one at a time */
	link->known = calloc(n_extents, 1);
	link->small.entries = calloc(link->small.size, sizeof(struct mover_entry));
	link->big.entries = calloc(link->big.size, sizeof(struct mover_entry));
	link->disk.entries = calloc(link->disk.size, sizeof(struct mover_entry));
	link->share.entries = calloc(link->share.size, sizeof(struct mover_entry));
	if (!link->known || !link->small.entries || !link->big.entries || !link->disk.entries || !link->share.entries)
		return -ENOMEM;
	return mover_start(link, clock_now_usec());
}

void mover_link_close(struct mover_link *link)
{
	if (link->source.slot) {
		loop_remove(link->daemon->loop, &link->source);
		close(link->source.fd);
	}
	if (link->pid) {
		(void)kill(link->pid, SIGKILL);
		while (waitpid(link->pid, NULL, 0) < 0 && errno == EINTR)
			;
		if (link->pidfd >= 0)
			close(link->pidfd);
	}
	free(link->known);
	free(link->small.entries);
	free(link->big.entries);
	free(link->disk.entries);
	free(link->share.entries);
	*link = (struct mover_link){ 0 };
}
