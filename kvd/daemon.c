/* daemon.c - owns everything: the order in which it is made and unmade, and the round.
 *
 * A round: wait; what is ready speaks (messages become events); rings; one look at the step
 * counters; the clock; streams, queries, mover; the doomed are reaped; doorbells ring.  After every
 * event the core's actions are performed before anything else happens.
 *
 * Before it waits, the daemon says so in every ring (kvd_sleeps), then looks once more: an engine
 * that submits after that look sees the flag and rings (doorbell.c). */
#include "kvd/daemon.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "kvd/admin_query.h"
#include "kvd/adopt.h"
#include "kvd/clock.h"
#include "kvd/doorbell.h"
#include "kvd/reload.h"

/* Step counters are polled only while frames wait for one: a decode step takes a few
 * milliseconds. */
#define STEP_POLL_USEC_MIN 500u
#define STEP_POLL_USEC_MAX 16000u

void daemon_deadline(struct daemon *daemon, uint64_t deadline_usec)
{
	if (deadline_usec < daemon->deadline_usec)
		daemon->deadline_usec = deadline_usec;
}

void daemon_event(struct daemon *daemon, const struct core_event *event)
{
	struct core_action action;

	uint64_t now_usec = clock_now_usec();

	record_event(daemon, event, now_usec);
	core_step(daemon->core, event, now_usec);
	trace_event(daemon, event, now_usec);
	while (core_next_action(daemon->core, &action)) {
		trace_action(daemon, &action, now_usec);
		act_perform(daemon, &action);
	}
	record_event_done(daemon);
}

void daemon_device_lost(struct daemon *daemon)
{
	if (daemon->device_lost)
		return;
	daemon->device_lost = true;
	log_error("device.lost device=\"%s\" "
		  "remedy=\"see the kernel log for an Xid; reset the device, then restart kvd\"",
		  daemon->device.text);
	event_note(daemon, KVD_EVENT_ALARM, NULL, NULL, CORE_NONE, 0, 0, "device lost: %.100s", daemon->device.text);
	/* Their sockets close: sequences end, frames go to quarantine, and no mover will say that they are quiet. */
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
		if (daemon->engines[i].state == ATTACHED_LIVE) {
			peer_error(daemon->engines[i].peer, 0, KVD_S_REFUSED, 0, 0,
				   "the device is lost (%.80s); reset it and restart kvd", daemon->device.text);
			peer_doom(daemon->engines[i].peer, "device lost");
		}
}

/* ---- the round ---- */

/* STAMP: the new entries are stored; after a fence, `begun` names the last step that may have
 * copied the old ones.  DONE: how far the steps are. */
static void look_at_steps(struct daemon *daemon, enum core_event_type type)
{
	struct core_event event;

	event.type = type;
	event.engine = CORE_NONE;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		const struct attached *engine = &daemon->engines[i];
		bool live = engine->state == ATTACHED_LIVE;

		event.epoch.begun[i] = live ? ring_step_begun(&engine->ring) : 0;
		event.epoch.done[i] = !live ? UINT64_MAX : engine->switching ? 0 : ring_step_done(&engine->ring);
	}
	daemon_event(daemon, &event);
}

static void run_core(struct daemon *daemon, uint64_t now_usec)
{
	if (daemon->n_switching)
		adopt_switches(daemon);
	submit_all(daemon);
	/* A stamp says that steps begun later see the tables as they are now: an engine that computes from
	 * the tables of the kvd before us will not. */
	if (daemon->stamp_wanted && !daemon->n_switching) {
		daemon->stamp_wanted = false;
		daemon->step_poll_usec = STEP_POLL_USEC_MIN;
		look_at_steps(daemon, CORE_EV_STAMP);
	}
	if (core_waits_for_steps(daemon->core))
		look_at_steps(daemon, CORE_EV_DONE);
	if (core_next_tick_usec(daemon->core) <= now_usec) {
		struct core_event event = { .type = CORE_EV_TICK, .engine = CORE_NONE };

		daemon_event(daemon, &event);
	}
}

/* Everything that depends on the clock; leaves the next deadline. */
static void run_clock(struct daemon *daemon, uint64_t now_usec)
{
	bool engines_changed = daemon->engines_changed;

	if (daemon->deadline_usec <= now_usec || engines_changed) {
		daemon->engines_changed = false;
		daemon->deadline_usec = CLOCK_NEVER;
		daemon_deadline(daemon, peers_deadlines(daemon, now_usec));
		daemon_deadline(daemon, attach_deadlines(daemon, now_usec));
		daemon_deadline(daemon, introduce_deadlines(daemon, now_usec, engines_changed));
	}
}

/* A very large event has touched much of the undo journal: give back what the usual ones do not need. */
static void trim_journal(struct daemon *daemon)
{
	size_t offset, bytes, page = (size_t)sysconf(_SC_PAGESIZE);

	if (!core_journal_slack(daemon->core, &offset, &bytes))
		return;
	size_t first = (offset + page - 1) / page * page, end = (offset + bytes) / page * page;
	if (first < end && madvise((char *)daemon->book + first, end - first, MADV_REMOVE) < 0)
		log_debug("journal.kept bytes=%zu error=\"%s\"", bytes, strerror(errno));
}

static uint64_t next_deadline(struct daemon *daemon)
{
	uint64_t next_usec = daemon->deadline_usec, tick_usec = core_next_tick_usec(daemon->core);

	if (tick_usec < next_usec)
		next_usec = tick_usec;
	if (daemon->n_switching || core_waits_for_steps(daemon->core)) {
		/* Twice as long each time: an engine that is stopped must not keep us busy. */
		uint64_t poll_usec = clock_now_usec() + daemon->step_poll_usec;

		daemon->step_poll_usec *= 2;
		if (daemon->step_poll_usec > STEP_POLL_USEC_MAX)
			daemon->step_poll_usec = STEP_POLL_USEC_MAX;
		if (poll_usec < next_usec)
			next_usec = poll_usec;
	}
	return next_usec;
}

int daemon_run(struct daemon *daemon)
{
	while (!daemon->stop) {
		/* One look at the clock does for a round; the core has its own for each event. */
		uint64_t until_usec, now_usec = clock_now_usec();
		bool busy;
		int r;

		run_core(daemon, now_usec);
		busy = admin_run(daemon);
		peers_reap(daemon);
		run_clock(daemon, now_usec);
		trim_journal(daemon);
		/* run_clock() may have doomed some; hanging up needs the core. */
		peers_reap(daemon);
		daemon_deadline(daemon, mover_link_pump(&daemon->mover, now_usec));
		daemon_deadline(daemon, event_pump(daemon, now_usec));
		daemon_deadline(daemon, record_pump(daemon, now_usec));
		daemon_deadline(daemon, cost_pump(daemon, now_usec));
		doorbell_ring(daemon);
		daemon_deadline(daemon, watchdog_run(daemon, now_usec));
		/* What the last steps have left over: another round at once. */
		busy |= (daemon->stamp_wanted && !daemon->n_switching) || daemon->engines_changed;
		busy |= daemon->peers.doomed != NULL;
		until_usec = busy ? 0 : next_deadline(daemon);
		if (!busy && daemon->config->spin_usec)
			busy = doorbell_spin(daemon, until_usec);
		if (!busy && doorbell_sleep(daemon))
			r = loop_wait(daemon->loop, until_usec);
		else
			r = loop_wait(daemon->loop, 0);
		doorbell_wake(daemon);
		if (r < 0) {
			log_error("loop.failed error=\"%s\"", strerror(-r));
			return r;
		}
	}
	return 0;
}

/* ---- life ---- */

static void signals_ready(struct loop_source *source, uint32_t events)
{
	struct daemon *daemon = (struct daemon *)((char *)source -
						  offsetof(struct daemon, signals));
	struct signalfd_siginfo info;
	bool again = false;
	ssize_t n;

	while ((n = read(source->fd, &info, sizeof(info))) == sizeof(info)) {
		if (info.ssi_signo == SIGHUP) {
			again = true;
			continue;
		}
		daemon->keep = info.ssi_signo == SIGUSR2 && daemon->bundle->kind != BUNDLE_NONE;
		log_info("signal.stop signal=%u pid=%u", info.ssi_signo, info.ssi_pid);
		daemon->stop = true;
	}
	/* A signal that cannot be read is never seen again: whoever asks us to stop is obeyed all the same. */
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		log_error("signal.unreadable error=\"%s\" now=\"stopping\"", strerror(errno));
		daemon->stop = true;
	}
	if (again && !daemon->stop)
		reload(daemon);
}

static int open_signals(struct daemon *daemon)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR2);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	signal(SIGPIPE, SIG_IGN);
	daemon->signals = (struct loop_source){
		.ready = signals_ready,
		.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC),
	};
	if (daemon->signals.fd < 0)
		return -errno;
	return loop_add(daemon->loop, &daemon->signals, POLLIN);
}

/* A cold start: an empty book and extents without memory, given to whoever keeps them; the book last, so
 * that what is kept is never half of it. */
static int open_cold(struct daemon *daemon, struct core_config *config)
{
	char name[BUNDLE_NAME_MAX];
	int r = 0;

	bundle_clear(daemon->bundle);
	daemon->book_fd = segment_memfd("kvd-book", daemon->book_bytes);
	if (daemon->book_fd < 0)
		return daemon->book_fd;
	daemon->book = mmap(NULL, daemon->book_bytes, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_NORESERVE, daemon->book_fd, 0);
	if (daemon->book == MAP_FAILED) {
		daemon->book = NULL;
		return -errno;
	}
	if (madvise(daemon->book, daemon->book_bytes, MADV_DONTDUMP) < 0)
		return -errno;
	daemon->core = core_init(daemon->book, config);
	if (!daemon->core)
		return -EINVAL;
	daemon->kept = core_shell(daemon->core);
	/* All extents now: a lack of descriptors shows before ready, not in the middle of the night. */
	for (uint32_t i = 0; r == 0 && i < daemon->n_extents; i++) {
		r = vmm_extent_create(daemon->vmm, i);
		if (r < 0) {
			if (*vmm_why(daemon->vmm))
				log_error("start.no_memory why=\"%s\"", vmm_why(daemon->vmm));
			return r;
		}
		bundle_keep(daemon->bundle, bundle_name(name, "x", i), vmm_extent_fd(daemon->vmm, i, true));
		KEPT_SET(daemon, daemon->kept->extent_inodes[i], kept_inode(vmm_extent_fd(daemon->vmm, i, true)));
	}
	KEPT_SET(daemon, daemon->kept->ready_usec, clock_now_usec());
	KEPT_SET(daemon, daemon->kept->version, kept_version());
	core_commit(daemon->core);
	bundle_keep(daemon->bundle, "book", daemon->book_fd);
	return r;
}

static int open_vmm(struct daemon *daemon)
{
	char error[VMM_ERROR_MAX];
	int r = vmm_open(daemon->config->device, daemon->extent_bytes, daemon->n_extents, &daemon->vmm, error);

	if (r < 0)
		log_error("start.failed what=\"%s\"", error);
	return r;
}

static int open_book(struct daemon *daemon)
{
	char why[ADOPT_WHY_MAX];
	struct core_config config = {
		.pool_bytes = daemon->pool_bytes,
		.extent_bytes = daemon->extent_bytes,
		.page_bytes_min = daemon->config->page_bytes_min,
		.tenants_max = LIMIT_TENANTS,
		.seqs_max = LIMIT_SEQUENCES,
		.holds_max = LIMIT_HOLDS,
		.promise_usec = LIMIT_PROMISE_USEC,
		.merge_usec = LIMIT_MERGE_USEC,
		.shell_bytes = kept_bytes(daemon->n_extents),
		.spill_bytes = daemon->spill.fd >= 0 ? daemon->spill.bytes : 0,
	};
	int r;

	if (getrandom(config.hash_key, sizeof(config.hash_key), 0) != sizeof(config.hash_key) ||
	    getrandom(config.token_key, sizeof(config.token_key), 0) != sizeof(config.token_key) ||
	    getrandom(config.spill_key, sizeof(config.spill_key), 0) != sizeof(config.spill_key))
		return -EIO;
	daemon->book_bytes = core_book_bytes(&config);
	if (!daemon->book_bytes)
		return -EINVAL;
	r = open_vmm(daemon);
	if (r < 0)
		return r;
	if (adopt_book(daemon, &config, why)) {
		daemon->taken_over = true;
		return 0;
	}
	if (why[0])
		log_warn("start.cold why=\"of the kvd before: %s\"", why);
	/* Some extents may have been taken already. */
	vmm_close(daemon->vmm);
	daemon->vmm = NULL;
	r = open_vmm(daemon);
	if (r == 0)
		r = open_cold(daemon, &config);
	explicit_bzero(config.spill_key, sizeof(config.spill_key));
	explicit_bzero(config.token_key, sizeof(config.token_key));
	return r;
}

static int open_memory(struct daemon *daemon)
{
	daemon->admin_gid = tenant_group_gid("/etc/group", "kvadm");
	daemon->engine_gid = tenant_group_gid("/etc/group", "kvengine");
	tenant_users_read("/etc/passwd", &daemon->users);
	daemon->packet = aligned_alloc(64, KVD_MSG_MAX);
	daemon->rows = aligned_alloc(64, LIMIT_ROWS_BYTES_PER_ROUND);
	daemon->tokens = calloc(LIMIT_MAX_PAGES, KVD_PAGE_TOKENS * sizeof(int32_t));
	daemon->uses = calloc(LIMIT_TENANTS, sizeof(daemon->uses[0]));
	daemon->connects = calloc(1, sizeof(*daemon->connects));
	return daemon->packet && daemon->rows && daemon->tokens && daemon->uses && daemon->connects ? 0 : -ENOMEM;
}

/* log what failed, so that the caller need not */
static int failed(const char *what, int r)
{
	log_error("start.failed what=\"%s\" error=\"%s\"", what, strerror(-r));
	return r;
}

static int open_spill(struct daemon *daemon)
{
	char error[SPILL_FILE_ERROR_MAX], bytes[SIZE_TEXT_MAX];
	int r = spill_file_open(daemon->config, bundle_take(daemon->bundle, "spill"), &daemon->spill, error);

	if (r < 0) {
		log_error("start.failed what=\"%s\"", error);
		return r;
	}
	if (daemon->spill.fd < 0)
		return 0;
	size_format(daemon->spill.bytes, bytes);
	log_info("spill.open size=%s direct=%d preallocated=%d taken_over=%d", bytes, daemon->spill.direct,
		 daemon->spill.preallocated, daemon->spill.taken_over);
	return 0;
}

static int daemon_init(struct daemon *daemon, const struct daemon_options *options)
{
	/* Sources: peers, engines' processes and words, listener, signals, mover. */
	int r = loop_open(options->loop, LIMIT_PEERS + 2 * CORE_ENGINES_MAX + 8, &daemon->loop);

	if (r < 0)
		return failed(options->loop == LOOP_URING ? "io_uring" : "loop", r);
	r = open_signals(daemon);
	if (r < 0)
		return failed("signals", r);
	r = open_memory(daemon);
	if (r < 0)
		return failed("buffers", r);
	r = event_open(daemon);
	if (r == 0)
		r = trace_open(daemon);
	if (r == 0)
		r = cost_open(daemon);
	if (r < 0)
		return failed("events", r);
	r = open_spill(daemon);
	if (r < 0)
		return r;
	r = open_book(daemon);
	if (r < 0)
		return failed("book or extents (do --pool, --extent and --page-bytes-min fit together?)", r);
	if (daemon->spill.fd >= 0 && !(daemon->spill.taken_over && daemon->taken_over))
		bundle_keep(daemon->bundle, "spill", daemon->spill.fd);
	if (options->listen_name && !(options->listen_kept && daemon->taken_over))
		bundle_keep(daemon->bundle, options->listen_name, options->listen_fd);
	r = introduce_init(daemon);
	if (r < 0)
		return failed("streams", r);
	r = mover_link_open(daemon, daemon->n_extents);
	if (r < 0)
		return failed(daemon->mover.path[0] ? daemon->mover.path : "kvd-mover", r);
	r = peers_open(daemon, options->listen_fd);
	if (r < 0)
		return failed("listening socket", r);
	if (daemon->taken_over)
		adopt_engines(daemon);
	return 0;
}

int daemon_open(const struct config *config, const struct daemon_options *options,
		struct daemon **ret)
{
	struct daemon *daemon = calloc(1, sizeof(*daemon));
	int r;

	if (!daemon)
		return failed("memory", -ENOMEM);
	daemon->configs = calloc(2, sizeof(daemon->configs[0]));
	if (!daemon->configs) {
		free(daemon);
		return failed("memory", -ENOMEM);
	}
	memcpy(&daemon->configs[0], config, sizeof(*config));
	daemon->config = &daemon->configs[0];
	daemon->load = options->load;
	daemon->load_arg = options->load_arg;
	daemon->bundle = options->bundle;
	daemon->device = *options->device;
	daemon->extent_bytes = config->extent_bytes;
	daemon->n_extents = (uint32_t)(config->pool_bytes / config->extent_bytes);
	daemon->pool_bytes = daemon->n_extents * daemon->extent_bytes;
	while (((uint64_t)config->page_bytes_min << daemon->slot_bits) < daemon->extent_bytes)
		daemon->slot_bits++;
	daemon->uid = getuid();
	daemon->pid = (uint32_t)getpid();
	daemon->book_fd = daemon->signals.fd = daemon->spill.fd = -1;
	daemon->deadline_usec = CLOCK_NEVER;
	daemon->step_poll_usec = STEP_POLL_USEC_MIN;
	r = daemon_init(daemon, options);
	if (r < 0) {
		daemon_close(daemon);
		return r;
	}
	/* The first tick lets the core ask for its first extents. */
	daemon_event(daemon, &(struct core_event){ .type = CORE_EV_TICK, .engine = CORE_NONE });
	reload_tenants(daemon);
	watchdog_open(daemon);
	daemon->ready_usec = daemon->kept->ready_usec;
	daemon->bundle->started = true;
	log_info("device.found device=%s what=\"%s\" granularity_bytes=%" PRIu64 " total_bytes=%" PRIu64,
		 config->device,
		 daemon->device.text, daemon->device.granularity_bytes, daemon->device.total_bytes);
	log_info("ready version=%s device=%s loop=%s doorbell=%s pool_bytes=%" PRIu64 " extent_bytes=%" PRIu64
		 " extents=%u "
		 "slot_bits=%u book_bytes=%zu",
		 KVD_VERSION, config->device, loop_name(daemon->loop),
		 loop_has_words(daemon->loop) ? "futex" : "socket", daemon->pool_bytes,
		 daemon->extent_bytes, daemon->n_extents, daemon->slot_bits, daemon->book_bytes);
	*ret = daemon;
	return 0;
}

void daemon_close(struct daemon *daemon)
{
	if (!daemon)
		return;
	if (daemon->loop) {
		/* Peers first: their ends reach the core and may still ask for jobs, which nobody
		 * does. */
		peers_close(daemon);
		attach_close_all(daemon);
		weights_share_close(daemon);
		mover_link_close(&daemon->mover);
		loop_remove(daemon->loop, &daemon->signals);
	}
	introduce_deinit(daemon);
	record_close(daemon);
	event_close(daemon);
	trace_close(daemon);
	cost_close(daemon);
	vmm_close(daemon->vmm);
	if (daemon->book)
		munmap(daemon->book, daemon->book_bytes);
	if (daemon->book_fd >= 0)
		close(daemon->book_fd);
	if (daemon->spill.fd >= 0)
		close(daemon->spill.fd);
	if (daemon->signals.fd >= 0)
		close(daemon->signals.fd);
	loop_close(daemon->loop);
	free(daemon->packet);
	free(daemon->rows);
	free(daemon->tokens);
	free(daemon->uses);
	free(daemon->connects);
	free(daemon->configs);
	free(daemon);
}
