/* daemon.h - everything the daemon has, in one place; see daemon.c for the order of life. */
#ifndef KVD_DAEMON_H
#define KVD_DAEMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvd/admin_steer.h"
#include "kvd/attach.h"
#include "kvd/bundle.h"
#include "kvd/config.h"
#include "kvd/cost.h"
#include "kvd/core/core.h"
#include "kvd/event.h"
#include "kvd/introduce.h"
#include "kvd/kept.h"
#include "kvd/limits.h"
#include "kvd/loop.h"
#include "kvd/mover_link.h"
#include "kvd/peer.h"
#include "kvd/spill_file.h"
#include "kvd/recorder.h"
#include "kvd/tenant_of.h"
#include "kvd/tenant_use.h"
#include "kvd/trace.h"
#include "kvd/version.h"
#include "kvd/vmm.h"
#include "kvd/watchdog.h"
#include "kvd/weights_share.h"

/* An ATTACH between attach_request() and the core's answer, which comes before it returns. */
struct attach_pending {
	struct peer *peer;         /* NULL: none */
	const struct kvd_msg_attach *message;
	struct segment segment;
	int pidfd;
};

struct daemon {
	const struct config *config; /* the one of configs[] that holds */
	struct config *configs;    /* (2) the other is the next one's room */
	int (*load)(void *arg, struct config *ret, char *ret_error);
	void *load_arg;
	uint64_t pool_bytes, extent_bytes;
	uint32_t n_extents, slot_bits;
	uint32_t uid, pid;         /* ours */
	uint32_t admin_gid;        /* of group kvadm; CONFIG_NO_ID: there is none */
	uint32_t engine_gid;       /* of group kvengine, whose members may attach engines */
	uint64_t ready_usec;

	struct loop *loop;
	struct vmm *vmm;
	struct vmm_facts device;
	bool device_lost;          /* its memory cannot be touched any more: nobody is lent any until a restart */
	int book_fd;
	void *book;
	size_t book_bytes;
	struct core *core;         /* in the book */
	const struct kept *kept;   /* likewise: what the shell remembers (kept.h) */
	struct bundle *bundle;     /* main's: who holds our descriptors in case that we are killed */
	struct spill_file spill;   /* fd -1: no tier */
	struct mover_link mover;
	struct peers peers;
	struct attached engines[CORE_ENGINES_MAX];
	struct introduce introduce;
	struct weights_share weights;
	struct attach_pending attaching;
	struct tenant_users users;
	struct loop_source signals;
	struct watchdog watchdog;

	bool stop;
	bool keep;                 /* stop, but leave everything to the next kvd */
	bool taken_over;           /* the book is one that a killed kvd left ... */
	bool whole;                /* ... with every engine that it had */
	bool adopted;              /* both, and each of them uses our tables */
	uint32_t n_switching;      /* engines that do not use our tables yet */
	bool stamp_wanted;         /* frames wait for a stamp */
	bool engines_changed;      /* one came or went: streams that wait may be served */
	bool queries_active;
	struct events events;
	struct recorder recorder;
	struct trace trace;
	struct cost cost;
	struct steer_trigger triggers[CORE_TRIGGERS_MAX];
	struct core_action steered;/* what came of the last PIN ... EVICT (admin_steer.c) */
	struct tenant_use *uses;   /* (LIMIT_TENANTS) what each has at the control socket */
	struct connect_pace *connects;
	uint64_t deadline_usec;    /* earliest of all module deadlines */
	uint64_t step_poll_usec;   /* interval at which step counters are looked at */

	uint8_t *packet;           /* (KVD_MSG_MAX) the message being handled */
	uint8_t *rows;             /* (LIMIT_ROWS_BYTES_PER_ROUND) */
	int32_t *tokens;           /* (LIMIT_MAX_PAGES * 16) the submission being handled */
};

struct daemon_options {
	const struct vmm_facts *device; /* that config->device was found to be */
	enum loop_kind loop;
	int listen_fd;             /* bound and listening; main's */
	const char *listen_name;   /* its name of the bundle; NULL: systemd's own, it needs no keeping */
	bool listen_kept;          /* it came out of the bundle */
	struct bundle *bundle;
	/* Read the whole configuration again, for SIGHUP: 0, or not and a sentence. */
	int (*load)(void *arg, struct config *ret, char *ret_error);
	void *load_arg;
};

/* Make everything and get ready; *ret is freed by daemon_close().
 * config has passed config_check() and its sizes are final.  Errors are logged. */
int daemon_open(const struct config *config, const struct daemon_options *options,
		struct daemon **ret);
/* Rounds until SIGTERM or SIGINT.  0 or -errno. */
int daemon_run(struct daemon *daemon);
void daemon_close(struct daemon *daemon);

/* One event to the core, then all its actions.  Not from inside an action. */
void daemon_event(struct daemon *daemon, const struct core_event *event);
/* The device does not answer: engines are told and their memory stays in quarantine; kvd goes on to say so. */
void daemon_device_lost(struct daemon *daemon);
/* Somebody wants to be looked at by then. */
void daemon_deadline(struct daemon *daemon, uint64_t deadline_usec);

/* act.c: perform one action. */
void act_perform(struct daemon *daemon, const struct core_action *action);

#endif
