/* step.c - one step of the engine: who runs, compute, seal, sample, tell.
 *
 * Between kvd_step_begin() and kvd_step_end() K and V are read and written through this step's own
 * copies of the table rows and through nothing else; that is what lets kvd reuse a frame once the
 * step's number is done.  A sequence whose row has a hole (kvd took its pages a moment ago) sits
 * the step out.  After the step full pages are sealed first, so that kvd works while we sample.
 *
 * Runs on the engine's thread (and the forward's team).  Allocates nothing. */
#include "engine/engine.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include "engine/log.h"
#include "engine/turns.h"

static size_t round_up(size_t n)
{
	return (n + 63) & ~(size_t)63;
}

int step_room_init(struct step_room *r, uint32_t n_slots, uint32_t max_pages, uint32_t rows_max,
		   uint32_t n_vocab)
{
	const size_t bytes[] = {
		round_up(n_slots * sizeof(*r->seqs)), round_up(n_slots * sizeof(*r->runs)),
		round_up(n_slots * sizeof(*r->step_seqs)), round_up(rows_max * sizeof(*r->rows)),
		round_up((size_t)n_slots * max_pages * sizeof(*r->tables)),
		round_up((size_t)n_slots * n_vocab * sizeof(*r->logits)),
	};
	uint8_t *at;

	*r = (struct step_room){ 0 };
	for (size_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++)
		r->memory_bytes += bytes[i];
	/* touched now: the engine's own memory does not grow while it serves */
	at = mmap(NULL, r->memory_bytes, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (at == MAP_FAILED)
		return -errno;
	r->memory = at;
	r->seqs = (struct sched_seq *)at;
	r->runs = (struct sched_run *)(at += bytes[0]);
	r->step_seqs = (struct step_seq *)(at += bytes[1]);
	r->rows = (struct step_row *)(at += bytes[2]);
	r->tables = (uint32_t *)(at += bytes[3]);
	r->logits = (float *)(at + bytes[4]);
	return 0;
}

void step_room_deinit(struct step_room *r)
{
	if (r->memory)
		munmap(r->memory, r->memory_bytes);
	*r = (struct step_room){ 0 };
}

/* kvd said no for good.  Where it only wants no more from us, another engine may serve. */
static void tell_refusal(struct engine *e, struct stream *s, const struct kvlink_slot *slot,
			 uint64_t now_usec)
{
	char text[240];

	switch (slot->failure) {
	case KVD_S_DRAINING:
		serve_drop(&e->serve, s, "kvd is draining this engine");
		return;
	case KVD_S_TOO_LARGE:
		snprintf(text, sizeof(text),
			 "%u tokens need %u pages, this pool can give at most %u; shorten the "
			 "prompt or enlarge kvd's --pool",
			 slot->n_tokens, slot->need_pages, slot->have_pages);
		break;
	case KVD_S_TENANT_MAX:
		snprintf(text, sizeof(text),
			 "%u tokens need %u pages, the tenant's max leaves it %u; shorten the "
			 "prompt or raise max",
			 slot->n_tokens, slot->need_pages, slot->have_pages);
		break;
	default:
		snprintf(text, sizeof(text), "kvd refused the sequence of %u tokens: status %u",
			 slot->n_tokens, slot->failure);
	}
	serve_end(&e->serve, s, slot->failure, KVD_FINISH_ERROR, text, now_usec);
}

static void start_waiting(struct engine *e, uint64_t now_usec)
{
	for (uint32_t i = 0; i < e->n_slots; i++) {
		struct stream *s;
		if (e->owners[i] || e->link.slots[i].state != KVLINK_EMPTY)
			continue;
		s = serve_next_waiting(&e->serve);
		if (!s)
			return;
		kvlink_open(&e->link, i, s->client,
			    s->session->flags & KVD_REQ_PRIVATE ? KVD_OPEN_PRIVATE : 0,
			    s->session->tokens, s->session->n_known, s->session->n_max);
		s->slot = i;
		s->slot_usec = now_usec;
		s->state = STREAM_RUNNING;
		e->owners[i] = s;
	}
}

void step_prepare(struct engine *e, uint64_t now_usec)
{
	for (uint32_t i = 0; i < e->n_slots; i++) {
		struct kvlink_slot *slot = &e->link.slots[i];
		struct stream *s = e->owners[i];
		if (!s)
			continue;
		if (s->state == STREAM_RUNNING && slot->state == KVLINK_REFUSED)
			tell_refusal(e, s, slot, now_usec);
		/* the search of the index is over: what is cached is known */
		if (s->state == STREAM_RUNNING && !s->started && kvlink_limit(&e->link, i) > 0)
			serve_started(&e->serve, s, slot->n_cached, now_usec);
		if (s->state != STREAM_RUNNING && slot->state == KVLINK_EMPTY) {
			s->slot = SERVE_NO_SLOT;
			e->owners[i] = NULL;
		}
	}
	if (e->draining || e->reattach.lost)
		return;
	start_waiting(e, now_usec);
	turns_make_room(e, now_usec);
}

static uint32_t plan(struct engine *e)
{
	for (uint32_t i = 0; i < e->n_slots; i++) {
		const struct kvlink_slot *slot = &e->link.slots[i];
		const struct stream *s = e->owners[i];
		struct sched_seq *q = &e->room.seqs[i];
		*q = (struct sched_seq){ 0 };
		if (!s || !serve_may_run(s))
			continue;
		*q = (struct sched_seq){ .tenant = s->tenant, .known = slot->n_tokens,
					 .computed = slot->n_computed, .ticket = s->ticket,
					 .limit = kvlink_limit(&e->link, i) };
		q->runnable = q->limit > q->computed;
	}
	return sched_plan(&e->sched, e->room.seqs, e->n_slots, e->room.runs);
}

/* Copy the table rows and lay out the rows of the runs; a run that lost its pages is left out.
 * Returns the number of runs kept (in front of room.runs). */
static uint32_t lay_out(struct engine *e, uint32_t n_runs, uint32_t *ret_n_rows)
{
	struct step_room *r = &e->room;
	uint32_t kept = 0, n_rows = 0;

	for (uint32_t i = 0; i < n_runs; i++) {
		struct sched_run run = r->runs[i];
		uint32_t end = run.start + run.count;
		uint32_t *table = r->tables + (size_t)kept * e->max_pages;
		const int32_t *tokens = kvd_engine_tokens(e->kvd, run.slot);
		if (!kvlink_copy_table(&e->link, run.slot,
				       (end + KVD_PAGE_TOKENS - 1) / KVD_PAGE_TOKENS, table))
			continue;
		for (uint32_t pos = run.start; pos < end; pos++)
			r->rows[n_rows++] = (struct step_row){ tokens[pos], pos, (uint16_t)kept,
							       run.want_logits && pos + 1 == end };
		r->step_seqs[kept].table = table;
		r->runs[kept++] = run;
	}
	*ret_n_rows = n_rows;
	return kept;
}

/* The next token of a stream, from the logits of its last known one. */
static void take_token(struct engine *e, struct stream *s, const float *logits)
{
	static char text[SESSION_TEXT_MAX];
	char piece[TOKENIZER_PIECE_MAX];
	struct session *q = s->session;
	int32_t id = session_choose(q, &e->sampler, logits);
	int n_piece = tokenizer_piece(e->tokenizer, id, piece, sizeof(piece), false);
	uint64_t now_usec = engine_now_usec();
	uint32_t n_text;
	bool part = session_accept(q, id, piece, n_piece > 0 ? (uint32_t)n_piece : 0,
				   tokenizer_is_end(e->tokenizer, id), text, &n_text);

	session_clock(q, now_usec);
	e->serve.counters.completion_tokens += part;
	if (part || n_text)
		serve_tokens(&e->serve, s, &id, part, text, n_text, now_usec);
	if (s->state == STREAM_CLOSED)
		return;
	if (q->finish)
		serve_end(&e->serve, s, KVD_S_OK, q->finish, NULL, now_usec);
	else
		kvlink_append(&e->link, s->slot, id);
}

static void fail_runs(struct engine *e, uint32_t n_runs, int error)
{
	const char *why = e->backend->error(e->run);

	log_error("forward pass failed error=%s why=\"%s\"", strerror(-error), why);
	for (uint32_t i = 0; i < n_runs; i++)
		serve_end(&e->serve, e->owners[e->room.runs[i].slot], KVD_S_INTERNAL,
			  KVD_FINISH_ERROR, "the engine's forward pass failed; see its log",
			  engine_now_usec());
}

int step_run(struct engine *e, bool *ret_ran)
{
	struct step_room *room = &e->room;
	uint32_t n_runs = plan(e), n_rows, n_logits = 0;
	int r, pumped;

	*ret_ran = n_runs > 0;
	if (!n_runs)
		return 0;
	kvd_step_begin(e->kvd);
	n_runs = lay_out(e, n_runs, &n_rows);
	r = n_runs ? e->backend->step(e->run, &e->kv, room->step_seqs, n_runs, room->rows, n_rows,
				      room->logits)
		   : 0;
	kvd_step_end(e->kvd);
	if (r == -ENODEV) {
		log_error("the device is lost: %s", e->backend->error(e->run));
		e->device_lost = true;
		return 0;
	}
	if (r < 0) {
		fail_runs(e, n_runs, r);
		return kvlink_pump(&e->link);
	}
	*ret_ran = n_runs > 0;
	sched_charge(&e->sched, room->seqs, room->runs, n_runs);
	for (uint32_t i = 0; i < n_runs; i++)
		kvlink_computed(&e->link, room->runs[i].slot,
				room->runs[i].start + room->runs[i].count);
	pumped = kvlink_pump(&e->link);
	for (uint32_t i = 0; i < n_runs; i++)
		if (room->runs[i].want_logits)
			take_token(e, e->owners[room->runs[i].slot],
				   room->logits + (size_t)n_logits++ * e->model->config.n_vocab);
	return pumped;
}
