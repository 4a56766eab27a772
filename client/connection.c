/* connection.c - the control socket to kvd.
 *
 *   DOWN     -> GREETING  [kvd_connection_start]     socket connected, HELLO sent
 *   GREETING -> READY     [connection_greeted]       WELCOME came with a version that we speak
 *   any      -> DOWN      [kvd_connection_down]      closed by either side, or the protocol broken
 *
 * Owns the socket and the list of waiting requests; a waiter's memory is its caller's.  One thread.
 * Never blocks outside kvd_connection_open(), _wait() and _call(), which all have a deadline. */
#include "client/connection.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REOPEN_USEC 50000u         /* between two tries to reach kvd */
#define REGREET_USEC 1000000u      /* for so long a kvd that hangs up at the greeting is tried again */

int kvd_fail(char error[KVD_ERROR_MAX], int result, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(error, KVD_ERROR_MAX, format, arguments);
	va_end(arguments);
	return result;
}

/* Copy a name into a field of KVD_NAME_MAX bytes, NUL-padded; false if it does not fit. */
static bool connection_name(char field[KVD_NAME_MAX], const char *name)
{
	size_t n = name ? strlen(name) : 0;
	memset(field, 0, KVD_NAME_MAX);
	if (n >= KVD_NAME_MAX)
		return false;
	memcpy(field, name ? name : "", n);
	return true;
}

int kvd_connection_new(enum kvd_role role, const char *path, const char *program,
		       const char *tenant, struct kvd_connection **ret)
{
	struct kvd_connection *c = calloc(1, sizeof(*c));
	*ret = c;
	if (!c)
		return -ENOMEM;
	c->fd = -1;
	c->role = role;
	if (kvd_socket_path(path, c->path, sizeof(c->path)) < 0)
		return kvd_fail(
			c->error, -ENAMETOOLONG,
			"the socket's path is longer than the %zu bytes that a unix socket can have; "
			"choose a shorter one with --socket",
			sizeof(c->path) - 1);
	if (!connection_name(c->program, program))
		(void)connection_name(c->program, "a program with a long name");
	if (!connection_name(c->tenant, tenant))
		return kvd_fail(c->error, KVD_S_BAD_REQUEST,
				"the tenant's name is longer than %u bytes; give a shorter one",
				KVD_NAME_MAX - 1);
	return 0;
}

void kvd_connection_down(struct kvd_connection *c, int result)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->state = KVD_CONNECTION_DOWN;
	c->last_seq = 0;
	while (c->waiters) {
		struct kvd_waiter *w = c->waiters;
		c->waiters = w->next;
		w->linked = false;
		w->done = true;
		w->result = result;
		if (result == -EPROTO)
			snprintf(w->text, sizeof(w->text),
				 "kvd at %s broke the protocol; are kvd and libkvd of one release?",
				 c->path);
		else
			snprintf(w->text, sizeof(w->text),
				 "kvd at %s closed the connection; it was ended or killed, or see its log",
				 c->path);
	}
}

void kvd_connection_forget(struct kvd_connection *c, struct kvd_waiter *waiter)
{
	if (!waiter->linked)
		return;
	for (struct kvd_waiter **p = &c->waiters; *p; p = &(*p)->next) {
		if (*p == waiter) {
			*p = waiter->next;
			break;
		}
	}
	waiter->linked = false;
}

int kvd_connection_post(struct kvd_connection *c, struct kvd_msg *m, const int *fds, uint32_t n_fds,
			struct kvd_waiter *waiter)
{
	if (c->state == KVD_CONNECTION_DOWN)
		return kvd_fail(c->error, -ENOTCONN, "not connected to kvd at %s", c->path);
	m->seq = ++c->last_seq;
	int r = kvd_packet_send_until(c->fd, m, m->size, fds, n_fds,
				      kvd_clock_usec() + KVD_CALL_USEC);
	if (r < 0) {
		kvd_connection_down(c, -ENOTCONN);
		return kvd_fail(c->error, r, "kvd at %s takes no message: %s", c->path,
				strerror(-r));
	}
	if (waiter) {
		waiter->seq = m->seq;
		waiter->done = false;
		waiter->result = 0;
		waiter->fds[0] = waiter->fds[1] = -1;
		waiter->text[0] = '\0';
		waiter->linked = true;
		waiter->next = c->waiters;
		c->waiters = waiter;
	}
	return 0;
}

/* Give a reply to the request that waits for it.  Returns 0 or -EPROTO. */
static int connection_deliver(struct kvd_connection *c, struct kvd_waiter *w,
			      const struct kvd_msg *m, struct kvd_packet *packet)
{
	if (m->type == KVD_M_ERROR) {
		const struct kvd_msg_error *error = (const struct kvd_msg_error *)m;
		if (m->size < sizeof(*error))
			return -EPROTO;
		w->result = m->status ? (int)(m->status & 0xffffu) : KVD_S_INTERNAL;
		snprintf(w->text, sizeof(w->text), "%.*s", (int)sizeof(error->text), error->text);
	} else {
		if (m->type != w->type || m->size < w->min_bytes || packet->n_fds > w->n_fds_max)
			return -EPROTO;
		size_t kept = m->size < sizeof(w->reply) ? m->size : sizeof(w->reply);
		memcpy(w->reply, m, kept);
		w->result = (int)(m->status & 0xffffu);
		if (w->result == 0)
			for (uint32_t i = 0; i < w->n_fds_max; i++)
				w->fds[i] = kvd_packet_take_fd(packet, i);
	}
	if (w->result != 0 && w->text[0] == '\0')
		snprintf(w->text, sizeof(w->text), "%s", kvd_status_text(w->result));
	kvd_connection_forget(c, w);
	w->done = true;
	return 0;
}

/* The answer to our HELLO is here. */
static void connection_greeted(struct kvd_connection *c)
{
	const struct kvd_msg_welcome *welcome = (const struct kvd_msg_welcome *)c->greeting.reply;
	int result = c->greeting.result;

	if (result == 0 && (welcome->version < KVD_PROTO_MIN || welcome->version > KVD_PROTO_MAX)) {
		result = KVD_S_VERSION;
		snprintf(c->greeting.text, sizeof(c->greeting.text),
			 "kvd chose protocol version %u, we speak %u to %u; upgrade the older side",
			 welcome->version, KVD_PROTO_MIN, KVD_PROTO_MAX);
	}
	if (result == 0) {
		c->welcome = *welcome;
		c->welcome.tenant[KVD_NAME_MAX - 1] = '\0';
		c->welcome.domain[KVD_NAME_MAX - 1] = '\0';
		c->welcome.kvd_version[KVD_NAME_MAX - 1] = '\0';
		c->state = KVD_CONNECTION_READY;
		if (c->was_away)
			c->back_usec = kvd_clock_usec();
		c->was_away = false;
		return;
	}
	c->greeting.result = result;
	snprintf(c->error, sizeof(c->error), "%s", c->greeting.text);
	kvd_connection_down(c, result);
}

/* One packet. Returns 0 or -errno: close the connection. */
static int connection_take(struct kvd_connection *c, struct kvd_packet *packet)
{
	const struct kvd_msg *m = (const struct kvd_msg *)c->packet;

	if (packet->bytes == 1 && c->packet[0] == 0)
		return 0;   /* a doorbell: it has woken us, that is all it is for */
	if (packet->bytes < sizeof(*m) || m->size != packet->bytes)
		return -EPROTO;
	for (struct kvd_waiter *w = c->waiters; w; w = w->next) {
		if (m->seq != 0 && w->seq == m->seq &&
		    (m->type == w->type || m->type == KVD_M_ERROR)) {
			int r = connection_deliver(c, w, m, packet);
			if (r == 0 && w == &c->greeting)
				connection_greeted(c);
			return r;
		}
	}
	return c->unsolicited ? c->unsolicited(c->unsolicited_arg, m, packet) : 0;
}

int kvd_connection_dispatch(struct kvd_connection *c)
{
	for (;;) {
		struct kvd_packet packet;
		if (c->state == KVD_CONNECTION_DOWN)
			return -ENOTCONN;
		int r = kvd_packet_receive(c->fd, c->packet, sizeof(c->packet), &packet);
		if (r == -EAGAIN)
			return 0;
		if (r == 0) {
			r = connection_take(c, &packet);
			kvd_packet_close_fds(&packet);
		}
		if (r < 0) {
			kvd_connection_down(c, r);
			return r;
		}
	}
}

int kvd_connection_wait(struct kvd_connection *c, struct kvd_waiter *waiter, uint64_t deadline_usec)
{
	while (!waiter->done) {
		int r = kvd_wait_until(c->fd, POLLIN, deadline_usec);
		if (r > 0)
			(void)kvd_connection_dispatch(c); /* a failure is in the waiter */
		if (r <= 0 && !waiter->done) {
			kvd_connection_forget(c, waiter);
			return kvd_fail(
				c->error, r < 0 ? r : -ETIMEDOUT,
				"kvd at %s did not answer in time; is it stopped or overloaded?",
				c->path);
		}
	}
	if (waiter->result != 0)
		return kvd_fail(c->error, waiter->result, "%s", waiter->text);
	return 0;
}

int kvd_connection_call(struct kvd_connection *c, struct kvd_msg *m, const int *fds, uint32_t n_fds,
			struct kvd_waiter *waiter, uint64_t deadline_usec)
{
	int r = kvd_connection_post(c, m, fds, n_fds, waiter);
	return r != 0 ? r : kvd_connection_wait(c, waiter, deadline_usec);
}

int kvd_connection_start(struct kvd_connection *c)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct kvd_msg_hello hello = {
		.m = { .type = KVD_M_HELLO, .size = sizeof(hello) },
		.version_min = KVD_PROTO_MIN, .version_max = KVD_PROTO_MAX, .role = c->role,
	};

	c->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		return kvd_fail(c->error, -errno, "cannot make a socket: %s", strerror(errno));
	memcpy(address.sun_path, c->path, sizeof(address.sun_path));
	if (connect(c->fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		int e = errno;
		kvd_connection_down(c, -e);
		return kvd_fail(
			c->error, -e, "cannot reach kvd at %s: %s; %s", c->path, strerror(e),
			e == EACCES ? "this user may not use that socket"
				    : "start kvd, or name its socket with --socket or KVD_SOCKET");
	}
	memcpy(hello.program, c->program, sizeof(hello.program));
	memcpy(hello.tenant, c->tenant, sizeof(hello.tenant));
	c->state = KVD_CONNECTION_GREETING;
	c->greeting = (struct kvd_waiter){ .type = KVD_M_WELCOME,
					   .min_bytes = offsetof(struct kvd_msg_welcome, decided_by) };
	return kvd_connection_post(c, &hello.m, NULL, 0, &c->greeting);
}

static int connection_open(struct kvd_connection *c, uint64_t deadline_usec)
{
	int r;

	while ((r = kvd_connection_start(c)) == -EAGAIN) {
		if (kvd_clock_usec() >= deadline_usec)
			return kvd_fail(
				c->error, -ETIMEDOUT,
				"kvd at %s accepts no connection; is it stopped or overloaded?",
				c->path);
		(void)kvd_wait_until(-1, 0, kvd_clock_usec() + 10000u);
	}
	if (r < 0)
		return r;
	r = kvd_connection_wait(c, &c->greeting, deadline_usec);
	if (r != 0 && c->state != KVD_CONNECTION_DOWN)
		kvd_connection_down(c, r);
	return r;
}

int kvd_connection_open(struct kvd_connection *c)
{
	uint64_t deadline_usec = kvd_clock_usec() + KVD_CALL_USEC, patience_usec = kvd_clock_usec() + REGREET_USEC;
	int r;

	/* Hung up without a word is a kvd that was killed this very moment.  Where somebody keeps its socket,
	 * the next one answers in it; where nobody does, the next try says so. */
	do
		r = connection_open(c, deadline_usec);
	while ((r == -ENOTCONN || r == -ECONNRESET || r == -EPIPE) && kvd_connection_pause(patience_usec));
	return r;
}

bool kvd_connection_result_is_gone(int result)
{
	switch (result) {
	case -ENOENT: case -ECONNREFUSED: case -ECONNRESET: case -ENOTCONN: case -EPIPE: case -ETIMEDOUT:
		return true;
	}
	return false;
}

int kvd_connection_open_until(struct kvd_connection *c, uint64_t deadline_usec)
{
	for (;;) {
		uint64_t now = kvd_clock_usec(), call_usec = now + KVD_CALL_USEC;
		int r = connection_open(c, deadline_usec > now && deadline_usec < call_usec ? deadline_usec
											   : call_usec);
		if (r == 0 || !kvd_connection_result_is_gone(r))
			return r;
		c->was_away = true;
		if (kvd_connection_pause(deadline_usec) == 0)
			return r;
	}
}

int kvd_connection_pause(uint64_t deadline_usec)
{
	uint64_t now = kvd_clock_usec(), again_usec = now + REOPEN_USEC;

	if (now >= deadline_usec)
		return 0;
	(void)kvd_wait_until(-1, 0, again_usec < deadline_usec ? again_usec : deadline_usec);
	return 1;
}

int kvd_connection_ready(struct kvd_connection *c, uint64_t deadline_usec)
{
	if (c->state == KVD_CONNECTION_READY)
		(void)kvd_connection_dispatch(c);
	if (c->state == KVD_CONNECTION_GREETING)
		kvd_connection_down(c, -ENOTCONN);
	if (c->state == KVD_CONNECTION_DOWN)
		c->was_away = true;
	return c->state == KVD_CONNECTION_READY ? 0 : kvd_connection_open_until(c, deadline_usec);
}
