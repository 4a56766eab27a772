/* engine_attach.c - become an engine of kvd, of the next kvd, and stop being one.
 *
 * Owns struct kvd_engine: made by kvd_engine_attach(), freed by kvd_engine_close(), which closes
 * what the engine has not collected.  The engine's thread.
 *
 *   detached -> connecting   [attach_advance]   connect, HELLO
 *            -> asking       [attach_post]      WELCOME came: window reserved, ATTACH sent
 *            -> attached     [attach_finish]    segments mapped
 *   any      -> detached     [attach_drop]      a failure, 5 s without an answer, or the end
 *
 * Each move is short: kvd_engine_reattach() makes those that can be made now, kvd_engine_attach() waits
 * between them. */
#include "client/engine.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ATTACH_AGAIN_USEC 2000000u /* for so long a first attach is tried again after a hang-up */
#define SQ_ENTRIES_PER_SEQ 4u      /* per step: a GROW, a SEAL, and what a turn of sequences adds */

/* A name in a message, or the sentence that says what is wrong with it. */
static int attach_name(struct kvd_engine *e, char field[KVD_NAME_MAX], const char *name,
		       const char *what)
{
	size_t n = name ? strlen(name) : 0;
	if (n == 0 || n >= KVD_NAME_MAX)
		return kvd_fail(e->error, KVD_S_BAD_REQUEST,
				"the %s must have 1 to %u bytes, it has %zu", what,
				KVD_NAME_MAX - 1, n);
	memcpy(field, name, n);
	return 0;
}

static uint32_t attach_sq_entries(uint32_t max_seqs)
{
	uint32_t entries = 64;
	while (entries < 4096 && entries < max_seqs * SQ_ENTRIES_PER_SEQ)
		entries *= 2;
	return entries;
}

static int attach_request(struct kvd_engine *e, const struct kvd_engine_options *o,
			  struct kvd_msg_attach *ret)
{
	*ret = (struct kvd_msg_attach){
		.m = { .type = KVD_M_ATTACH, .size = sizeof(*ret) },
		.layout = o->layout,
		.kv_format = o->kv_format,
		.n_planes = o->n_planes,
		.block_bytes = o->block_bytes,
		.page_tokens = KVD_PAGE_TOKENS,
		.max_seqs = o->max_seqs,
		.max_pages = o->max_pages,
	};
	int r = attach_name(e, ret->name, o->name, "engine's name");
	if (r == 0)
		r = attach_name(e, ret->model, o->model, "model's name");
	if (r == 0)
		r = attach_name(e, ret->numerics, o->numerics, "numerics id");
	if (r != 0)
		return r;
	if (o->max_seqs == 0 || o->max_seqs > 4096)
		return kvd_fail(e->error, KVD_S_BAD_REQUEST, "max_seqs is %u, it must be 1 to 4096",
				o->max_seqs);
	if (o->max_pages == 0 || o->n_planes == 0 || o->block_bytes == 0)
		return kvd_fail(e->error, KVD_S_BAD_REQUEST,
				"max_pages, n_planes and block_bytes must not be 0");
	memcpy(ret->fingerprint, o->fingerprint, sizeof(ret->fingerprint));
	memcpy(e->fingerprint, o->fingerprint, sizeof(e->fingerprint));
	ret->sq_entries = attach_sq_entries(o->max_seqs);
	e->max_seqs = o->max_seqs;
	e->max_pages = o->max_pages;
	return 0;
}

/* The geometry that kvd decided on, and whether its frames stay inside their extent. */
static int attach_geometry(struct kvd_engine *e, const struct kvd_msg_attached *a)
{
	const struct kvd_msg_welcome *w = &e->connection->welcome;
	const struct kvd_msg_attach *o = &e->request;

	e->number = a->engine;
	e->geometry = (struct kvd_geometry){
		.extent_bytes = w->extent_bytes,
		.plane_bytes = a->plane_bytes,
		.block_bytes = o->block_bytes,
		.n_planes = o->n_planes,
		.n_frames = a->n_frames,
		.slot_bits = w->slot_bits,
	};
	if (w->page_tokens != KVD_PAGE_TOKENS)
		return kvd_fail(e->error, KVD_S_GEOMETRY, "kvd's pages hold %u tokens, ours %u",
				w->page_tokens, KVD_PAGE_TOKENS);
	if (w->slot_bits >= KVD_ENTRY_FRAME_BITS || a->n_frames > 1u << w->slot_bits ||
	    a->plane_bytes < (uint64_t)a->n_frames * o->block_bytes ||
	    a->plane_bytes > w->extent_bytes / o->n_planes)
		return kvd_fail(
			e->error, KVD_S_PROTOCOL,
			"kvd's geometry does not fit its extents: %u frames in planes of %llu bytes",
			a->n_frames, (unsigned long long)a->plane_bytes);
	return 0;
}

/* Everything of a kvd that is gone, or of a try that failed. */
static void attach_drop(struct kvd_engine *e)
{
	struct kvd_engine_client client;

	while (kvd_engine_next_client(e, &client))
		close(client.fd);
	e->again_head = e->again_tail = e->gone_head = e->gone_tail = 0;
	for (int i = 0; i < 2 && e->attach_posted && e->attaching.done; i++)
		if (e->attaching.fds[i] >= 0)
			close(e->attaching.fds[i]);
	e->attach_posted = false;
	/* First what could still be written, then the socket: its end says that we are done with
	 * both. */
	kvd_engine_segments_unmap(e);
	kvd_engine_window_release(e);
	kvd_connection_down(e->connection, -ENOTCONN);
	if (e->process >= 0)
		close(e->process);
	if (e->early_fd >= 0)
		close(e->early_fd);
	e->process = e->early_fd = -1;
	e->last_seen = 0;
	e->attach_deadline_usec = 0;
	e->is_attached = false;
}

/* kvd has answered ATTACH. */
static int attach_finish(struct kvd_engine *e)
{
	struct kvd_waiter *w = &e->attaching;

	if (w->result != 0)
		return kvd_fail(e->error, w->result, "%s", w->text);
	e->attached = *(const struct kvd_msg_attached *)w->reply;
	int r = attach_geometry(e, &e->attached);
	if (r == 0)
		r = kvd_engine_segments_map(e, &e->attached, w->fds[0], w->fds[1]);
	for (int i = 0; i < 2; i++)
		if (w->fds[i] >= 0)
			close(w->fds[i]);
	e->attach_posted = false;
	kvd_engine_process_watch(e, e->connection->welcome.kvd_pid);
	return r == 0 ? kvd_engine_adopt_early(e) : r;
}

/* WELCOME is here: ask to be an engine. */
static int attach_post(struct kvd_engine *e)
{
	struct kvd_connection *c = e->connection;

	/* Before ATTACH: EXTENT_MAP may be the very next message. */
	int r = kvd_engine_window_reserve(e);
	if (r != 0)
		return r;
	e->geometry.extent_bytes = c->welcome.extent_bytes;
	e->attaching = (struct kvd_waiter){
		.type = KVD_M_ATTACHED,
		.n_fds_max = 2,
		.min_bytes = sizeof(struct kvd_msg_attached),
	};
	r = kvd_connection_post(c, &e->request.m, NULL, 0, &e->attaching);
	e->attach_posted = r == 0;
	e->attach_deadline_usec = kvd_clock_usec() + KVD_CALL_USEC;
	return r == 0 ? 0 : kvd_fail(e->error, r, "%s", c->error);
}

/* Go on with a try.  0: attached; -EAGAIN; else it has failed. */
static int attach_advance(struct kvd_engine *e)
{
	struct kvd_connection *c = e->connection;
	int r;

	if (c->state == KVD_CONNECTION_DOWN) {
		r = kvd_connection_start(c);
		if (r != 0)
			return r == -EAGAIN ? r : kvd_fail(e->error, r, "%s", c->error);
	}
	r = kvd_connection_dispatch(c);
	int finished = e->attach_posted && e->attaching.done ? attach_finish(e) : -EAGAIN;
	if (finished != -EAGAIN && (finished != 0 || r == 0))
		return finished;
	if (r < 0 && c->greeting.result != 0)
		return kvd_fail(e->error, c->greeting.result, "%s", c->greeting.text);
	if (r < 0)
		return kvd_fail(e->error, r, "kvd at %s is gone", c->path);
	if (c->state != KVD_CONNECTION_READY || e->attach_posted)
		return -EAGAIN;
	r = attach_post(e);
	return r == 0 ? -EAGAIN : r;
}

static int attach_try(struct kvd_engine *e)
{
	uint64_t now_usec = kvd_clock_usec();

	if (e->attach_deadline_usec == 0)
		e->attach_deadline_usec = now_usec + KVD_CALL_USEC;
	int r = attach_advance(e);
	if (r == -EAGAIN && now_usec >= e->attach_deadline_usec)
		r = kvd_fail(e->error, -ETIMEDOUT,
			     e->connection->state == KVD_CONNECTION_DOWN
				     ? "kvd at %s accepts no connection; is it stopped or overloaded?"
				     : "kvd at %s did not answer in time; is it stopped or overloaded?",
			     e->connection->path);
	if (r == 0) {
		e->is_attached = true;
		e->attach_deadline_usec = 0;
	} else if (r != -EAGAIN) {
		attach_drop(e);
	}
	return r;
}

int kvd_engine_reattach(struct kvd_engine *e)
{
	if (e->is_attached)
		attach_drop(e);
	e->error[0] = '\0';
	return attach_try(e);
}

/* Messages that kvd sends of itself. */
static int attach_unsolicited(void *arg, const struct kvd_msg *m, struct kvd_packet *packet)
{
	return kvd_engine_take(arg, m, packet);
}

int kvd_engine_attach(const struct kvd_engine_options *o, struct kvd_engine **ret)
{
	struct kvd_engine *e = calloc(1, sizeof(*e));

	*ret = e;
	if (!e)
		return -ENOMEM;
	e->process = e->early_fd = -1;
	e->clients = calloc(KVD_ENGINE_CLIENTS_MAX, sizeof(*e->clients));
	e->agains = calloc(KVD_ENGINE_CLIENTS_MAX, sizeof(*e->agains));
	e->gones = calloc(KVD_ENGINE_GONES_MAX, sizeof(*e->gones));
	int r = kvd_connection_new(KVD_ROLE_ENGINE, o->socket, o->program, NULL, &e->connection);
	if (!e->clients || !e->agains || !e->gones || !e->connection)
		return kvd_fail(e->error, -ENOMEM, "not enough memory for an engine");
	if (r != 0)
		return kvd_fail(e->error, r, "%s", e->connection->error);
	e->connection->unsolicited = attach_unsolicited;
	e->connection->unsolicited_arg = e;
	r = attach_request(e, o, &e->request);
	if (r != 0)
		return r;
	/* Hung up in the middle of it: that kvd was killed this very moment, the next one is about to come. */
	uint64_t patience_usec = kvd_clock_usec() + ATTACH_AGAIN_USEC;
	bool was_there = false;
	while ((r = attach_try(e)) == -EAGAIN ||
	       ((r == -ENOTCONN || (was_there && kvd_connection_result_is_gone(r))) &&
		kvd_connection_pause(patience_usec))) {
		was_there |= r == -ENOTCONN;
		if (r == -EAGAIN)
			(void)kvd_wait_until(e->connection->fd, POLLIN,
					     e->connection->fd < 0 ? kvd_clock_usec() + 10000u
								   : e->attach_deadline_usec);
	}
	return r;
}

void kvd_engine_close(struct kvd_engine *e)
{
	if (!e)
		return;
	if (e->connection)
		attach_drop(e);
	kvd_close(e->connection);
	free(e->clients);
	free(e->agains);
	free(e->gones);
	free(e);
}

const char *kvd_engine_error(const struct kvd_engine *e)
{
	return e ? e->error : "not enough memory";
}

uint8_t *kvd_engine_window(const struct kvd_engine *e)
{
	return e->window;
}

const struct kvd_geometry *kvd_engine_geometry(const struct kvd_engine *e)
{
	return &e->geometry;
}

const struct kvd_msg_welcome *kvd_engine_welcome(const struct kvd_engine *e)
{
	return &e->connection->welcome;
}

uint32_t kvd_engine_number(const struct kvd_engine *e)
{
	return e->number;
}
