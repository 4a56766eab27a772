/* introduce.h - clients meet engines: STREAM_OPEN, STREAM_AGAIN, handles, CLIENT_GONE.
 *
 * kvd makes a socket pair and gives one end to each; no token passes through kvd.  The handle that
 * the engine names in SEQ_OPEN stands for the client's tenant: an engine can charge nobody else. */
#ifndef KVD_INTRODUCE_H
#define KVD_INTRODUCE_H

#include <stdbool.h>
#include <stdint.h>

#include "kvd/limits.h"
#include "kvd/proto.h"

struct attached;
struct daemon;
struct peer;

#define LIMIT_WAITS 4096u          /* STREAM_OPENs that wait for an engine, all peers together */
#define LIMIT_WAITS_PER_PEER 32u

struct introduce_wait {
	struct peer *peer;
	uint64_t since_usec, deadline_usec;
	struct kvd_msg_stream_open message;
};

struct introduce {
	uint32_t *n_of_tenant;             /* (LIMIT_TENANTS) streams; the streams are in kept.h */
	struct introduce_wait *waits;      /* (LIMIT_WAITS), n_waits in order of arrival */
	uint32_t n_waits;
};

int introduce_init(struct daemon *daemon);
/* Count the streams that a killed kvd had introduced. */
void introduce_adopt(struct daemon *daemon);
/* CLIENT_NEW or CLIENT_AGAIN of a killed kvd that its engine has not been sent: the client's end, or its
 * ticket, is lost, so the engine gets a stream that has ended, and lets go of the handle. */
void introduce_resend(struct attached *engine, uint32_t handle, uint32_t seq);
void introduce_deinit(struct daemon *daemon);

void introduce_open(struct peer *peer, const struct kvd_msg_stream_open *m);
/* A client names itself for a stream that it and the engine have kept from an earlier kvd: a handle, and
 * the client's ticket to the engine. */
void introduce_again(struct peer *peer, const struct kvd_msg_stream_again *m);
/* Engine says that a stream has ended. */
void introduce_gone(struct peer *peer, const struct kvd_msg_client_gone *m);
/* Tenant number of an engine's handle, CORE_NONE if it has no such handle. */
uint32_t introduce_tenant(const struct daemon *daemon, const struct attached *engine,
			  uint32_t handle);
/* An engine is gone: so are its handles. */
void introduce_engine_lost(struct daemon *daemon, struct attached *engine);
/* A peer is gone: so are its waits. */
void introduce_forget(struct daemon *daemon, struct peer *peer);
/* Serve or end those who wait; returns the next deadline. */
uint64_t introduce_deadlines(struct daemon *daemon, uint64_t now_usec, bool engines_changed);

#endif
