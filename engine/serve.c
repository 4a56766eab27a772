/* serve.c - the life of a stream.
 *
 *   FREE      -> READING    [serve_accept]
 *   READING   -> WAITING    [on_complete]   request parsed, prompt tokenised
 *   READING   -> LINGERING  [serve_end]     refused: END says which field
 *   WAITING   -> RUNNING    [engine.c]      got a slot
 *   RUNNING   -> WAITING    [serve_step_aside]  gave it back for another tenant (turns.c)
 *   RUNNING   -> LINGERING  [serve_end]     answer complete, cancelled, deadline, refused by kvd
 *   any       -> CLOSED     [drop]          client gone, or closed by us
 *   CLOSED    -> FREE       [serve_tick]    its slot is empty again; kvd hears CLIENT_GONE
 *
 * A stream is not closed right after END: a UNIX socket that is closed with unread input resets,
 * and the reset would overtake the END.  The client hangs up, or LINGER_USEC passes.
 *
 * Back-pressure: a packet the socket does not take is kept, the sequence is paused (serve_may_run)
 * until the client has read; after SLOW_USEC it is closed.  At most one token and the END can
 * follow a kept packet, so that PENDING_MAX holds all.
 *
 * kvd may die; the sockets are ours and the clients'.  Such a stream has no handle (client == 0) until
 * its client has named itself to the next kvd: it neither gets a slot nor, if it has one, any pages.
 *
 * Runs on the engine's thread, between steps. */
#include "engine/serve.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>
#include "engine/log.h"

#define READ_USEC 30000000u /* a request must be complete this long after its stream opened */
#define LINGER_USEC 10000000u
#define AGAIN_USEC 5000000u        /* a client names itself to a new kvd within a turn of its loop */
#define SLOW_USEC 30000000u        /* design: a client that reads nothing for 30 s is closed */
#define PACKETS_A_TURN 64u         /* of one stream before others get their turn */
/* Longer texts cannot fit the context and are not tokenised to learn by how much: that would cost
 * everybody up to a second a request.  English has 4 to 5 bytes a token, spaces up to 64. */
#define BYTES_A_TOKEN_MAX 64u
/* STARTED, two packets of tokens (one kept, one that was under way), AGAIN, END, and their lengths */
#define PENDING_MAX (2 * (sizeof(struct kvd_msg_tokens) + SESSION_TEXT_MAX + 64) + \
		     sizeof(struct kvd_msg_end) + sizeof(struct kvd_msg_started) + \
		     sizeof(struct kvd_msg_again) + 20)

int serve_init(struct serve *v, struct wait *wait, struct sched *sched, struct kvlink *link,
	       const struct prompt_maker *prompts, uint32_t n_ctx, uint32_t n_vocab)
{
	*v = (struct serve){ .wait = wait, .sched = sched, .link = link, .prompts = prompts,
			     .engine = link->engine, .n_ctx = n_ctx, .n_vocab = n_vocab,
			     .next_tag = SERVE_TAG_FIRST };
	v->streams = calloc(SERVE_STREAMS_MAX, sizeof(*v->streams));
	v->active = calloc(SERVE_STREAMS_MAX, sizeof(*v->active));
	v->prompt_ids = calloc(n_ctx, sizeof(*v->prompt_ids));
	v->packet = malloc(KVD_MSG_MAX);
	return v->streams && v->active && v->prompt_ids && v->packet ? 0 : -ENOMEM;
}

void serve_deinit(struct serve *v)
{
	for (uint32_t i = 0; i < v->n_active; i++) {
		struct stream *s = &v->streams[v->active[i]];
		if (s->fd >= 0)
			close(s->fd);
		request_reset(&s->request);
		session_free(s->session);
		free(s->pending);
	}
	free(v->streams);
	free(v->active);
	free(v->prompt_ids);
	free(v->packet);
	*v = (struct serve){ 0 };
}

/* A stream's session is over: what it cost goes into the totals. */
static void account(struct serve *v, struct stream *s)
{
	const struct session *q = s->session;
	const struct kvlink_slot *slot = s->slot != SERVE_NO_SLOT ? &v->link->slots[s->slot] : NULL;

	if (!q)
		return;
	s->totals.prompt_tokens = q->n_prompt;
	s->totals.cached_tokens = s->started ? s->n_cached : slot && slot->admitted ? slot->n_cached : 0;
	if (s->totals.cached_tokens > q->n_prompt)
		s->totals.cached_tokens =
			q->n_prompt; /* resumed: pages of the answer were cached too */
	s->totals.completion_tokens = session_n_generated(q) - q->n_resumed;
	v->counters.prompt_tokens += s->totals.prompt_tokens;
	v->counters.cached_tokens += s->totals.cached_tokens;
	session_free(s->session);
	s->session = NULL;
}

/* The socket is closed, what the stream held goes back. */
static void drop(struct serve *v, struct stream *s, const char *why)
{
	if (s->state == STREAM_CLOSED)
		return;
	log_debug("stream closed client=%u why=%s", s->client, why);
	wait_remove(v->wait, s->fd, s->tag);
	close(s->fd);
	s->fd = -1;
	account(v, s);
	request_reset(&s->request);
	free(s->pending);
	s->pending = NULL;
	s->n_pending = 0;
	if (s->slot != SERVE_NO_SLOT)
		kvlink_close(v->link, s->slot);
	s->state = STREAM_CLOSED;
}

/* Try to send one packet.  Returns 0, -EAGAIN, or -errno: the client is gone. */
static int send_packet(struct stream *s, const void *packet, uint32_t size)
{
	ssize_t n;

	do
		n = send(s->fd, packet, size, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return 0;
	return errno == EAGAIN || errno == ENOBUFS ? -EAGAIN : -errno;
}

static void keep_packet(struct serve *v, struct stream *s, const void *packet, uint32_t size,
			uint64_t now_usec)
{
	if (!s->pending)
		s->pending = malloc(PENDING_MAX);
	if (!s->pending || s->n_pending + sizeof(size) + size > PENDING_MAX) {
		drop(v, s, "no room for what its client does not read");
		return;
	}
	memcpy(s->pending + s->n_pending, &size, sizeof(size));
	memcpy(s->pending + s->n_pending + sizeof(size), packet, size);
	s->n_pending += (uint32_t)sizeof(size) + size;
	if (!s->blocked_usec) {
		s->blocked_usec = now_usec;
		if (wait_want_write(v->wait, s->fd, s->tag) != 0)
			drop(v, s, "its socket cannot be watched");
	}
}

/* Send, or keep for later; packets stay in order. */
static void put(struct serve *v, struct stream *s, const void *packet, uint32_t size,
		uint64_t now_usec)
{
	int r = s->n_pending ? -EAGAIN : send_packet(s, packet, size);

	if (r == -EAGAIN)
		keep_packet(v, s, packet, size, now_usec);
	else if (r < 0)
		drop(v, s, strerror(-r));
}

/* The socket may have room again. */
static void flush_pending(struct serve *v, struct stream *s, uint64_t now_usec)
{
	uint32_t at = 0, size;
	int r = 0;

	while (at < s->n_pending && r == 0) {
		memcpy(&size, s->pending + at, sizeof(size));
		r = send_packet(s, s->pending + at + sizeof(size), size);
		if (r == 0)
			at += (uint32_t)sizeof(size) + size;
	}
	if (r < 0 && r != -EAGAIN) {
		drop(v, s, strerror(-r));
		return;
	}
	if (at) {
		memmove(s->pending, s->pending + at, s->n_pending - at);
		s->n_pending -= at;
		s->blocked_usec = now_usec;        /* it does read: its patience begins anew */
	}
	if (!s->n_pending)
		s->blocked_usec = s->again_kept = 0;
	else if (wait_want_write(v->wait, s->fd, s->tag) != 0)
		drop(v, s, "its socket cannot be watched");
}

void serve_started(struct serve *v, struct stream *s, uint32_t n_cached, uint64_t now_usec)
{
	struct kvd_msg_started m = {
		.m = { .type = KVD_M_STARTED, .size = sizeof(m), .seq = s->request.head.m.seq },
		.prompt_tokens = s->session->n_prompt, .cached_tokens = n_cached,
	};

	s->started = true;
	s->n_cached = n_cached;
	put(v, s, &m, sizeof(m), now_usec);
}

void serve_tokens(struct serve *v, struct stream *s, const int32_t *ids, uint32_t n_ids,
		  const char *text, uint32_t n_text, uint64_t now_usec)
{
	struct kvd_msg_tokens m = {
		.m = { .type = KVD_M_TOKENS, .seq = s->request.head.m.seq,
		       .size = (uint32_t)(sizeof(m) + n_ids * sizeof(*ids)) + n_text },
		.n_ids = n_ids, .n_text = n_text,
	};

	assert(m.m.size <= KVD_MSG_MAX);
	memcpy(v->packet, &m, sizeof(m));
	memcpy(v->packet + sizeof(m), ids, n_ids * sizeof(*ids));
	memcpy(v->packet + sizeof(m) + n_ids * sizeof(*ids), text, n_text);
	put(v, s, v->packet, m.m.size, now_usec);
}

void serve_end(struct serve *v, struct stream *s, uint32_t status, uint32_t finish,
	       const char *text, uint64_t now_usec)
{
	struct kvd_msg_end m = {
		.m = { .type = KVD_M_END,
		       .size = sizeof(m),
		       .seq = s->request.head.m.seq,
		       .status = status },
		.finish = finish,
	};
	const struct session *q = s->session;

	if (s->state == STREAM_CLOSED || s->state == STREAM_LINGERING)
		return;
	m.total_usec = s->received_usec ? now_usec - s->received_usec : 0;
	if (q) {
		m.completion_tokens = session_n_generated(q);
		m.ttft_usec = q->first_usec ? (uint32_t)(q->first_usec - q->received_usec) : 0;
		m.itl_p50_usec = session_median_usec(q);
		m.logits_hash = q->flags & KVD_REQ_LOGITS_HASH ? q->logits_hash : 0;
	}
	account(v, s);
	m.prompt_tokens = s->totals.prompt_tokens;
	m.cached_tokens = s->totals.cached_tokens;
	snprintf(m.text, sizeof(m.text), "%s", text ? text : "");
	log_debug("end client=%u status=%u finish=%u prompt=%u cached=%u completion=%u usec=%llu",
		  s->client, status, finish, m.prompt_tokens, m.cached_tokens, m.completion_tokens,
		  (unsigned long long)m.total_usec);
	if (s->slot != SERVE_NO_SLOT)
		kvlink_close(v->link, s->slot);
	request_reset(&s->request);
	s->state = STREAM_LINGERING;
	s->again_usec = 0;
	s->patience_usec = now_usec + LINGER_USEC;
	put(v, s, &m, sizeof(m), now_usec);
}

void serve_drop(struct serve *v, struct stream *s, const char *why)
{
	drop(v, s, why);
}

void serve_drain(struct serve *v)
{
	v->draining = true;
	for (uint32_t i = 0; i < v->n_active; i++) {
		struct stream *s = &v->streams[v->active[i]];
		if (s->state == STREAM_READING || s->state == STREAM_WAITING)
			drop(v, s, "draining");
	}
}

void serve_accept(struct serve *v, const struct kvd_engine_client *client, uint64_t now_usec)
{
	struct stream *s;
	uint32_t tenant = sched_tenant_get(v->sched, client->tenant, client->weight), i = 0;

	if (v->n_active == SERVE_STREAMS_MAX || tenant == SCHED_NONE || v->draining) {
		/* closed without a word: libkvd asks another engine */
		struct kvd_msg_client_gone gone = { .client = client->client };
		log_peer("stream refused client=%u streams=%u draining=%d", client->client,
			    v->n_active, v->draining);
		if (tenant != SCHED_NONE)
			sched_tenant_put(v->sched, tenant);
		close(client->fd);
		(void)kvd_engine_client_gone(v->engine, &gone);
		return;
	}
	while (v->streams[i].state != STREAM_FREE)
		i++;
	s = &v->streams[i];
	*s = (struct stream){ .state = STREAM_READING, .fd = client->fd, .tag = v->next_tag++,
			      .client = client->client, .tenant = tenant, .slot = SERVE_NO_SLOT,
			      .patience_usec = now_usec + READ_USEC, .more = true,
			      .totals = { .client = client->client } };
	v->active[v->n_active++] = i;
	if (wait_add(v->wait, s->fd, s->tag) != 0)
		drop(v, s, "its socket cannot be watched");
}

void serve_lost(struct serve *v)
{
	for (uint32_t i = 0; i < v->n_active; i++) {
		struct stream *s = &v->streams[v->active[i]];
		s->client = 0;
		s->again_usec = 0;
	}
}

void serve_give_up(struct serve *v, const char *why)
{
	for (uint32_t i = 0; i < v->n_active; i++)
		drop(v, &v->streams[v->active[i]], why);
}

/* Ask a client to name itself. */
static void ask_again(struct serve *v, struct stream *s, uint64_t now_usec)
{
	struct kvd_msg_again m = { .m = { .type = KVD_M_AGAIN, .size = sizeof(m) } };

	s->again_usec = now_usec + AGAIN_USEC;
	/* One that its client has not read yet will do for this kvd as well. */
	if (s->again_kept)
		return;
	if (!s->ticketed &&
	    getrandom(s->again_ticket, sizeof(s->again_ticket), 0) != (ssize_t)sizeof(s->again_ticket)) {
		drop(v, s, "no random numbers for its ticket");
		return;
	}
	s->ticketed = true;
	memcpy(m.ticket, s->again_ticket, sizeof(m.ticket));
	put(v, s, &m, sizeof(m), now_usec);
	s->again_kept = s->n_pending > 0;
}

void serve_attached(struct serve *v, uint64_t now_usec)
{
	for (uint32_t i = 0; i < v->n_active; i++) {
		struct stream *s = &v->streams[v->active[i]];
		if (s->state == STREAM_READING || s->state == STREAM_WAITING || s->state == STREAM_RUNNING)
			ask_again(v, s, now_usec);
	}
}

void serve_introduced(struct serve *v, const struct kvd_engine_again *again, uint64_t now_usec)
{
	struct kvd_msg_client_gone gone = { .client = again->client };
	struct stream *s = NULL;
	uint32_t tenant;

	for (uint32_t i = 0; i < v->n_active && !s; i++) {
		struct stream *other = &v->streams[v->active[i]];
		if (other->ticketed && other->state != STREAM_CLOSED &&
		    memcmp(other->again_ticket, again->ticket, sizeof(other->again_ticket)) == 0)
			s = other;
	}
	if (!s || s->client) {             /* ended meanwhile, or its client said it twice */
		if (!s || s->client != again->client)
			(void)kvd_engine_client_gone(v->engine, &gone);
		return;
	}
	log_debug("client back client=%u tokens=%u", again->client, s->session ? s->session->n_known : 0);
	s->client = s->totals.client = again->client;
	s->again_usec = 0;
	tenant = sched_tenant_get(v->sched, again->tenant, again->weight);
	if (tenant != SCHED_NONE) {
		sched_tenant_put(v->sched, s->tenant);
		s->tenant = tenant;
	}
	if (s->state == STREAM_RUNNING && v->link->slots[s->slot].state == KVLINK_LOST)
		kvlink_reopen(v->link, s->slot, s->client, s->session->tokens);
}

/* Ids that a dead engine generated go through the session; their text was sent by it. */
static void replay(struct serve *v, struct stream *s)
{
	static char text[SESSION_TEXT_MAX];
	char piece[TOKENIZER_PIECE_MAX];
	uint32_t n_text;

	for (uint32_t i = 0; i < s->request.head.n_resume && !s->session->finish; i++) {
		int32_t id = (int32_t)request_resume_id(&s->request, i);
		int n = tokenizer_piece(v->prompts->tokenizer, id, piece, sizeof(piece), false);
		session_accept(s->session, id, piece, n > 0 ? (uint32_t)n : 0, false, text,
			       &n_text);
	}
}

static void on_complete(struct serve *v, struct stream *s, uint64_t now_usec)
{
	char err[240] = "";
	const char *text;
	size_t n_text, n_ids = 0;
	int r;

	text = request_text(&s->request, &n_text);
	if (n_text / BYTES_A_TOKEN_MAX > v->n_ctx) {
		snprintf(err, sizeof(err),
			 "the prompt has %zu bytes, far more than the context of %u tokens; "
			 "shorten it",
			 n_text, v->n_ctx);
		serve_end(v, s, KVD_S_CONTEXT, KVD_FINISH_ERROR, err, now_usec);
		return;
	}
	r = prompt_encode(v->prompts, text, n_text, s->request.head.raw, v->prompt_ids, v->n_ctx,
			  &n_ids, err, sizeof(err));
	if (r == 0)
		r = session_new(&s->request, v->prompt_ids,
				n_ids > UINT32_MAX ? UINT32_MAX : (uint32_t)n_ids, v->n_ctx,
				v->n_vocab, &s->session, err, sizeof(err));
	if (r != 0) {
		serve_end(v, s, (uint32_t)r, KVD_FINISH_ERROR, err, now_usec);
		return;
	}
	replay(v, s);
	s->session->received_usec = s->received_usec;
	s->ticket = v->next_ticket++;
	s->state = STREAM_WAITING;
	/* its bytes are in the session now */
	free(s->request.bytes);
	s->request.bytes = NULL;
	s->request.capacity = 0;
	if (s->session->finish) {
		serve_started(v, s, 0, now_usec);
		serve_end(v, s, KVD_S_OK, s->session->finish, NULL, now_usec);
	}
}

static void on_packet(struct serve *v, struct stream *s, size_t size, uint64_t now_usec)
{
	char err[240];
	uint32_t status = KVD_S_PROTOCOL;

	if (s->state == STREAM_LINGERING)
		return;                    /* what comes after END changes nothing */
	if (!s->received_usec)
		s->received_usec = now_usec;
	switch (request_packet(&s->request, v->packet, size, &status, err, sizeof(err))) {
	case REQUEST_MORE:
		break;
	case REQUEST_COMPLETE:
		if (s->request.head.deadline_ms)
			s->deadline_usec =
				s->received_usec + s->request.head.deadline_ms * UINT64_C(1000);
		on_complete(v, s, now_usec);
		break;
	case REQUEST_CANCEL:
		serve_end(v, s, KVD_S_CANCELLED, KVD_FINISH_CANCEL, "cancelled by the client",
			  now_usec);
		break;
	case REQUEST_REFUSED:
		log_peer("request refused client=%u status=%u", s->client, status);
		serve_end(v, s, status, KVD_FINISH_ERROR, err, now_usec);
		break;
	}
}

static void read_stream(struct serve *v, struct stream *s, uint64_t now_usec)
{
	s->more = false;
	for (uint32_t i = 0; s->state != STREAM_CLOSED; i++) {
		ssize_t n;
		if (i == PACKETS_A_TURN) {
			s->more = true;
			return;
		}
		n = recv(s->fd, v->packet, KVD_MSG_MAX, MSG_DONTWAIT | MSG_TRUNC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			drop(v, s, n == 0 ? "client hung up" : strerror(errno));
		} else if (n > KVD_MSG_MAX) {
			serve_end(v, s, KVD_S_PROTOCOL, KVD_FINISH_ERROR,
				  "a packet above 65536 bytes", now_usec);
		} else {
			on_packet(v, s, (size_t)n, now_usec);
		}
	}
}

void serve_event(struct serve *v, const struct wait_event *event, uint64_t now_usec)
{
	for (uint32_t i = 0; i < v->n_active; i++) {
		struct stream *s = &v->streams[v->active[i]];
		if (s->tag != event->tag || s->state == STREAM_CLOSED)
			continue;
		if (event->what & WAIT_WRITE)
			flush_pending(v, s, now_usec);
		if (event->what & WAIT_READ)
			read_stream(v, s, now_usec);
		return;
	}
}

/* End what waited too long. */
static void check_time(struct serve *v, struct stream *s, uint64_t now_usec)
{
	if (s->state == STREAM_CLOSED)
		return;
	if (s->blocked_usec && now_usec - s->blocked_usec > SLOW_USEC) {
		if (s->state != STREAM_LINGERING)
			serve_end(v, s, KVD_S_SLOW_READER, KVD_FINISH_ERROR,
				  "the client read nothing for 30 seconds", now_usec);
		log_peer("slow reader closed client=%u", s->client);
		drop(v, s, "slow reader");
	} else if (s->deadline_usec && s->state != STREAM_LINGERING &&
		   now_usec >= s->deadline_usec) {
		serve_end(v, s, KVD_S_DEADLINE, KVD_FINISH_ERROR, "the request's deadline passed",
			  now_usec);
	} else if (s->again_usec && now_usec >= s->again_usec) {
		drop(v, s, "its client has not named itself to the new kvd");
	} else if (s->state == STREAM_READING && now_usec >= s->patience_usec) {
		serve_end(v, s, KVD_S_DEADLINE, KVD_FINISH_ERROR,
			  "the request was not complete within 30 seconds", now_usec);
	} else if (s->state == STREAM_LINGERING && !s->blocked_usec &&
		   now_usec >= s->patience_usec) {
		drop(v, s, "client stayed after END");
	}
}

bool serve_tick(struct serve *v, uint64_t now_usec)
{
	bool more = false;

	for (uint32_t i = 0; i < v->n_active;) {
		struct stream *s = &v->streams[v->active[i]];
		if (s->more && s->state != STREAM_CLOSED)
			read_stream(v, s, now_usec);
		check_time(v, s, now_usec);
		more |= s->more && s->state != STREAM_CLOSED;
		if (s->state == STREAM_CLOSED && s->slot == SERVE_NO_SLOT) {
			if (s->client)
				(void)kvd_engine_client_gone(v->engine, &s->totals);
			sched_tenant_put(v->sched, s->tenant);
			s->state = STREAM_FREE;
			v->active[i] = v->active[--v->n_active];
			continue;
		}
		i++;
	}
	return more;
}

uint64_t serve_next_usec(const struct serve *v)
{
	uint64_t next = UINT64_MAX;

	for (uint32_t i = 0; i < v->n_active; i++) {
		const struct stream *s = &v->streams[v->active[i]];
		uint64_t mine = UINT64_MAX;
		if (s->state == STREAM_CLOSED)
			continue;
		if (s->blocked_usec)
			mine = s->blocked_usec + SLOW_USEC + 1;
		if (s->deadline_usec && s->state != STREAM_LINGERING && s->deadline_usec < mine)
			mine = s->deadline_usec;
		if (s->again_usec && s->again_usec < mine)
			mine = s->again_usec;
		if ((s->state == STREAM_READING ||
		     (s->state == STREAM_LINGERING && !s->blocked_usec)) &&
		    s->patience_usec < mine)
			mine = s->patience_usec;
		if (mine < next)
			next = mine;
	}
	return next;
}

struct stream *serve_next_waiting(struct serve *v)
{
	struct stream *best = NULL;

	for (uint32_t i = 0; i < v->n_active; i++) {
		struct stream *s = &v->streams[v->active[i]];
		if (s->state == STREAM_WAITING && s->client && s->slot == SERVE_NO_SLOT &&
		    (!best ||
		     sched_before(v->sched, s->tenant, s->ticket, best->tenant, best->ticket)))
			best = s;
	}
	return best;
}

void serve_step_aside(struct serve *v, struct stream *s)
{
	assert(s->state == STREAM_RUNNING && s->slot != SERVE_NO_SLOT);
	kvlink_close(v->link, s->slot);
	s->state = STREAM_WAITING;
}

void serve_count(const struct serve *v, uint32_t *ret_running, uint32_t *ret_waiting)
{
	*ret_running = *ret_waiting = 0;
	for (uint32_t i = 0; i < v->n_active; i++) {
		*ret_running += v->streams[v->active[i]].state == STREAM_RUNNING;
		*ret_waiting += v->streams[v->active[i]].state == STREAM_WAITING;
	}
}
