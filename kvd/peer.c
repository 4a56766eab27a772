/* peer.c - connections: accept, read, judge, close.
 *
 * Owns the table of peers and the listening socket.  A peer is read in turns of a few messages;
 * while it owes us room in its socket or a query of its is being answered it is not read at all, so
 * that it waits for itself.  Whatever breaks the protocol ends the peer, is counted and logged;
 * nothing a peer sends can do more.  Loop thread only. */
#include "kvd/peer.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kvd/admin_steer.h"
#include "kvd/attach.h"
#include "kvd/clock.h"
#include "kvd/daemon.h"
#include "kvd/dispatch.h"
#include "kvd/greet.h"
#include "kvd/introduce.h"
#include "kvd/packet.h"
#include "kvd/wire.h"

/* Descriptors looked at per packet: nobody may send more than one; the kernel closes what does not
 * fit and says MSG_CTRUNC. */
#define PEER_FDS_MAX 4

bool peer_log_allow(struct peer *peer, uint32_t *ret_suppressed)
{
	struct log_limit *limit = &peer->daemon->peers.limits[(peer->uid ^ peer->uid >> 8) & 255];

	return log_allow(limit, clock_now_usec(), ret_suppressed);
}

void peer_doom(struct peer *peer, const char *why)
{
	struct peers *peers = &peer->daemon->peers;

	if (peer->state == PEER_DOOMED || peer->state == PEER_FREE)
		return;
	log_debug("peer.close why=\"%s\" uid=%u pid=%u program=\"%s\"", why, peer->uid, peer->pid,
		  peer->program);
	peer->state = PEER_DOOMED;
	peer->next = peers->doomed;
	peers->doomed = peer;
}

void peer_violation(struct peer *peer, const char *why)
{
	uint32_t suppressed;

	if (peer->state == PEER_DOOMED || peer->state == PEER_FREE)
		return;
	peer->daemon->peers.n_closed++;
	event_note(peer->daemon, KVD_EVENT_VIOLATION, peer->engine ? peer->engine->name : NULL, peer->tenant_name,
		   CORE_NONE, peer->uid, peer->pid, "%s: %s", peer->program, why);
	if (peer_log_allow(peer, &suppressed))
		log_warn("peer.violation why=\"%s\" uid=%u pid=%u program=\"%s\" lines_dropped=%u",
			 why, peer->uid, peer->pid, peer->program, suppressed);
	if (!peer->n_out)
		peer_error(peer, 0, KVD_S_PROTOCOL, 0, 0,
			   "protocol broken: %s; the connection is closed", why);
	peer_doom(peer, why);
}

void peers_reap(struct daemon *daemon)
{
	struct peers *peers = &daemon->peers;
	struct peer *peer;

	while ((peer = peers->doomed)) {
		peers->doomed = peer->next;
		loop_remove(daemon->loop, &peer->source);
		/* The poll of a ring may hold the socket a moment longer than close(). */
		(void)shutdown(peer->source.fd, SHUT_RDWR);
		close(peer->source.fd);
		peer_out_drop(peer);
		if (peer->query.active)
			close(peer->query.fd);
		introduce_forget(daemon, peer);
		tenant_use_leave(peer);
		admin_steer_forget(peer);
		peer->state = PEER_FREE;
		peer->next = peers->free;
		peers->free = peer;
		peers->n_used--;
		if (peer->engine)
			attach_hangup(peer->engine);
		peer->engine = NULL;
	}
}

uint64_t peers_deadlines(struct daemon *daemon, uint64_t now_usec)
{
	struct peers *peers = &daemon->peers;
	uint64_t next_usec = peers->accept_at_usec;

	if (peers->accept_at_usec <= now_usec) {
		peers->accept_at_usec = next_usec = CLOCK_NEVER;
		loop_again(daemon->loop, &peers->listener);
	}
	for (uint32_t i = 0; i < peers->n_high; i++) {
		struct peer *peer = &peers->table[i];

		if (peer->state != PEER_GREETING && peer->state != PEER_READY)
			continue;
		if (peer->deadline_usec <= now_usec)
			peer_violation(peer, peer->state == PEER_GREETING
						     ? "no HELLO in time"
						     : "stopped reading its socket");
		else if (peer->deadline_usec < next_usec)
			next_usec = peer->deadline_usec;
		if (peer->quiet_until_usec && peer->quiet_until_usec <= now_usec) {
			peer->quiet_until_usec = 0;
			loop_again(daemon->loop, &peer->source);
		} else if (peer->quiet_until_usec && peer->quiet_until_usec < next_usec) {
			next_usec = peer->quiet_until_usec;
		}
	}
	return next_usec;
}

/* One packet.  False: nothing more to read now. */
static bool read_one(struct peer *peer)
{
	struct daemon *daemon = peer->daemon;
	int fds[PEER_FDS_MAX], flags = 0;
	uint32_t n_fds;
	const char *why = NULL;
	/* An engine's message leaves its socket only when its effect is in the book: killed between, the next
	 * kvd finds it there once more, and what has been applied is not applied again (introduce_gone). */
	int peek = peer->engine ? MSG_PEEK : 0;
	ssize_t n = packet_receive(peer->source.fd, peek, daemon->packet, KVD_MSG_MAX, fds,
				   PEER_FDS_MAX, &n_fds, &flags);

	if (n == -EAGAIN)
		return false;
	/* It ended with mail unread.  The kernel says so before it gives us what was sent last;
	 * that still counts (an engine's totals), and after it comes the end. */
	if (n == -ECONNRESET)
		return true;
	if (n == 1 && daemon->packet[0] == 0 && !n_fds && peer->engine)
		peer->engine->rung = true; /* a doorbell */
	else if (n <= 0 && !n_fds)
		peer_doom(peer, "hung up");
	else if (flags & MSG_TRUNC)
		peer_violation(peer, "packet larger than a message may be");
	else if (flags & MSG_CTRUNC)
		peer_violation(peer, "descriptors that nobody asked for");
	else if (wire_check(daemon->packet, (size_t)n, n_fds, peer->role, &why) < 0)
		peer_violation(peer, why);
	else
		dispatch_message(peer, (const struct kvd_msg *)daemon->packet, n_fds ? fds[0] : -1);
	for (uint32_t i = 0; i < n_fds; i++)
		close(fds[i]);
	if (peek && n > 0)
		(void)recv(peer->source.fd, NULL, 0, MSG_DONTWAIT | MSG_TRUNC);
	return peer->state != PEER_DOOMED;
}

static void peer_ready(struct loop_source *source, uint32_t events)
{
	struct peer *peer = (struct peer *)source;

	if (peer->state == PEER_DOOMED)
		return;
	if (events & POLLOUT && peer->n_out)
		peer_out_flush(peer);
	for (unsigned i = 0; i < LIMIT_MESSAGES_PER_ROUND; i++) {
		if (peer->state == PEER_DOOMED)
			return;
		if (!peer->engine && (peer->n_out || peer->query.active || peer->quiet_until_usec)) {
			/* It waits for itself; a hang-up is still noticed. */
			if (events & (POLLHUP | POLLERR))
				peer_doom(peer, "hung up");
			return; /* called again when the rows are sent, the queue is empty, the time is over */
		}
		if (!read_one(peer)) {
			if (peer->engine && peer->engine->gone)
				peer_doom(peer, "its process has ended");
			return;
		}
	}
	loop_again(peer->daemon->loop, source);
}

/* Who the kernel says is there. */
static int identify(struct peer *peer)
{
	struct ucred credentials;
	socklen_t size = sizeof(credentials);

	if (getsockopt(peer->source.fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0)
		return -errno;
	peer->uid = credentials.uid;
	peer->gid = credentials.gid;
	peer->pid = credentials.pid > 0 ? (uint32_t)credentials.pid : 0;
	return 0;
}

/* Why the user may not have this connection; NULL: it may. */
static const char *over_limit(struct daemon *daemon, const struct peer *peer, uint32_t *ret_have)
{
	const struct peers *peers = &daemon->peers;
	bool trusted = peer->uid == 0 || peer->uid == daemon->uid;
	uint32_t n = 0;

	if (trusted)
		return NULL; /* *ret_have stays */
	*ret_have = LIMIT_CONNECTS_PER_SEC;
	if (!connect_allowed(daemon->connects, peer->uid, clock_now_usec()))
		return "connects more often a second than it may; keep connections open";
	*ret_have = LIMIT_PEERS - LIMIT_PEERS_RESERVED;
	if (peers->n_used >= LIMIT_PEERS - LIMIT_PEERS_RESERVED)
		return "finds all connections to kvd taken; close some";
	for (uint32_t i = 0; i < peers->n_high; i++)
		n += peers->table[i].state != PEER_FREE && peers->table[i].uid == peer->uid;
	*ret_have = LIMIT_PEERS_PER_UID;
	return n < LIMIT_PEERS_PER_UID ? NULL : "has as many connections to kvd as it may; close some";
}

static struct peer *peer_take(struct peers *peers)
{
	struct peer *peer = peers->free;

	if (peer)
		peers->free = peer->next;
	else if (peers->n_high < LIMIT_PEERS)
		peer = &peers->table[peers->n_high++];
	if (peer)
		peers->n_used++;
	return peer;
}

/* Tell a peer that gets no place, and close: it was never in the table, so that a flood of connections costs
 * little more than accept4(). */
static void refuse(int fd, uint32_t have, const char *who, const char *why)
{
	struct kvd_msg_error error = {
		.m = { .type = KVD_M_ERROR, .size = sizeof(error), .status = KVD_S_LIMIT },
		.need = have + 1ull,
		.have = have,
	};

	snprintf(error.text, sizeof(error.text), "%s %s", who, why);
	(void)send(fd, &error, sizeof(error), MSG_DONTWAIT | MSG_NOSIGNAL);
	close(fd);
}

/* Takes fd over.  False: it was refused. */
static bool peer_accept(struct daemon *daemon, int fd)
{
	struct peer fresh = {
		.source = { .ready = peer_ready, .fd = fd },
		.daemon = daemon,
		.state = PEER_GREETING,
		.tenant = CORE_NONE,
	}, *peer;
	uint32_t have = LIMIT_PEERS;
	const char *why;
	char who[24];

	if (identify(&fresh) < 0) {
		close(fd);
		return false;
	}
	why = over_limit(daemon, &fresh, &have);
	snprintf(who, sizeof(who), "uid %u", fresh.uid);
	/* Full of trusted peers: told and closed, too, so that the backlog does not fill. */
	peer = why ? NULL : peer_take(&daemon->peers);
	if (!peer) {
		refuse(fd, have, why ? who : "kvd", why ? why : "has as many connections as it can; close some");
		return false;
	}
	*peer = fresh;
	peer->deadline_usec = clock_now_usec() + LIMIT_GREETING_USEC;
	if (loop_add(daemon->loop, &peer->source, POLLIN | POLLRDHUP) < 0) {
		peer_doom(peer, "cannot be watched");
		return true;
	}
	daemon_deadline(daemon, peer->deadline_usec);
	return true;
}

/* Accept nobody for a while; who connects meanwhile waits in the socket's backlog. */
static void accept_pause(struct daemon *daemon, uint64_t usec)
{
	daemon->peers.accept_at_usec = clock_now_usec() + usec;
	daemon_deadline(daemon, daemon->peers.accept_at_usec);
}

static void listener_ready(struct loop_source *source, uint32_t events)
{
	struct peers *peers = (struct peers *)((char *)source - offsetof(struct peers, listener));
	struct daemon *daemon = (struct daemon *)((char *)peers - offsetof(struct daemon, peers));

	unsigned refused = 0;

	if (peers->accept_at_usec != CLOCK_NEVER)
		return;                        /* peers_deadlines() looks again */
	for (unsigned i = 0; i < LIMIT_ACCEPTS_PER_ROUND; i++) {
		int fd = accept4(source->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			refused += !peer_accept(daemon, fd);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno != EAGAIN) {
			const char *error = strerror(errno);
			uint32_t suppressed;

			if (log_allow(&peers->accept_limit, clock_now_usec(), &suppressed))
				log_error(
					"accept.failed error=\"%s\" open_peers=%u lines_dropped=%u",
					error, peers->n_used, suppressed);
			accept_pause(daemon, LIMIT_ACCEPT_RETRY_USEC);
		}
		return;
	}
	/* A flood: refusing it must not take all of our time. */
	if (refused > LIMIT_ACCEPTS_PER_ROUND / 2)
		accept_pause(daemon, LIMIT_ACCEPT_FLOOD_USEC);
	else
		loop_again(daemon->loop, source);
}

struct peer *peer_adopt(struct daemon *daemon, struct attached *engine, int fd)
{
	const struct kept_engine *kept = engine->kept;
	struct peer *peer = peer_take(&daemon->peers);

	assert(peer); /* first comers */
	*peer = (struct peer){
		.source = { .ready = peer_ready, .fd = fd },
		.daemon = daemon,
		.state = PEER_READY,
		.role = KVD_ROLE_ENGINE,
		.version = kept->version,
		.uid = kept->uid,
		.gid = kept->gid,
		.pid = kept->pid,
		.tenant = core_tenant_find(daemon->core, kept->tenant),
		.engine = engine,
		.deadline_usec = CLOCK_NEVER,
	};
	strcpy(peer->program, kept->program);
	strcpy(peer->tenant_name, kept->tenant);
	strcpy(peer->domain, kept->domain);
	greet_rights(peer);
	peer->may_attach = true;
	if (peer->tenant != CORE_NONE) {
		daemon->uses[peer->tenant].connections++;
		peer->counted = true;
	}
	if (loop_add(daemon->loop, &peer->source, POLLIN | POLLRDHUP) < 0)
		peer_doom(peer, "cannot be watched");
	return peer;
}

int peers_open(struct daemon *daemon, int listen_fd)
{
	struct peers *peers = &daemon->peers;
	int r;

	peers->accept_at_usec = CLOCK_NEVER;
	peers->table = calloc(LIMIT_PEERS, sizeof(peers->table[0]));
	if (!peers->table)
		return -ENOMEM;
	r = peer_out_open(peers);
	if (r < 0)
		return r;
	peers->listener = (struct loop_source){ .ready = listener_ready, .fd = listen_fd };
	return loop_add(daemon->loop, &peers->listener, POLLIN);
}

void peers_close(struct daemon *daemon)
{
	struct peers *peers = &daemon->peers;

	if (!peers->table)
		return;
	for (uint32_t i = 0; i < peers->n_high; i++)
		peer_doom(&peers->table[i], "kvd ends");
	peers_reap(daemon);
	loop_remove(daemon->loop, &peers->listener);
	free(peers->records);
	free(peers->table);
	*peers = (struct peers){ 0 };
}
