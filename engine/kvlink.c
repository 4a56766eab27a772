/* kvlink.c - a slot's way through kvd's verbs.
 *
 *   EMPTY    -> OPENING   [kvlink_open]     token row written; OPEN goes out with the next pump
 *   OPENING  -> RUNNING   [on_opened]       admitted; cached pages are in the table
 *   OPENING  -> REFUSED   [on_opened]       can never be served: the caller tells the client
 *   RUNNING  -> RESUMING  [on_preempt]      kvd took the pages; RESUME goes out with all tokens
 *   RESUMING -> RUNNING   [on_opened]       what was sealed and is still cached needs no computing
 *   RESUMING -> REFUSED   [on_opened]
 *   RUNNING  -> REFUSED   [on_grown]        grew past what it may ever have
 *   any      -> CLOSING   [kvlink_close]    CLOSE goes out; late completions are ignored
 *   CLOSING  -> EMPTY     [on_closed]
 *   CLOSING  -> EMPTY     [kvlink_lost]     kvd is gone
 *   others   -> LOST      [kvlink_lost]     and with it the pages, the reservation and the client's handle
 *   LOST     -> OPENING   [kvlink_reopen]   the next kvd knows the client: OPEN with all tokens
 *
 * While RUNNING, pump_running() submits in this order, which kvd keeps: SEAL for every page that
 * became full, then at most one GROW.  At a page boundary of the known tokens the GROW is a lookup,
 * so that a page sealed meanwhile by anybody of the domain is taken instead of computed, and it is
 * repeated while it brings pages: kvd then answers late for what somebody is computing right now.
 * In decode the next page is asked for when half of the last is filled (a spare frame, design
 * section 4); if it does not come in time only this sequence waits.
 *
 * Every submission carries the slot's epoch: an answer to an earlier life or to pages lost since
 * then is recognised and dropped.  Runs on the engine's thread; allocates in kvlink_init() only. */
#include "engine/kvlink.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/log.h"

#define HELD_MAX_USEC 10000000u /* kvd's event follows its answer at once; after this it is lost */

int kvlink_init(struct kvlink *l, struct kvd_engine *engine, uint32_t n_slots, uint32_t max_pages,
		uint32_t chunk_tokens)
{
	*l = (struct kvlink){ .engine = engine, .n_slots = n_slots, .max_pages = max_pages,
			      .chunk_tokens = chunk_tokens };
	l->slots = calloc(n_slots, sizeof(*l->slots));
	if (!l->slots)
		return -ENOMEM;
	return 0;
}

void kvlink_deinit(struct kvlink *l)
{
	free(l->slots);
	l->slots = NULL;
}

void kvlink_open(struct kvlink *l, uint32_t slot, uint32_t client, uint32_t flags,
		 const int32_t *tokens, uint32_t n_tokens, uint32_t n_max)
{
	struct kvlink_slot *s = &l->slots[slot];

	assert(s->state == KVLINK_EMPTY && n_tokens >= 1 && n_tokens <= n_max);
	assert(n_max <= l->max_pages * KVD_PAGE_TOKENS);
	memcpy(kvd_engine_tokens(l->engine, slot), tokens, n_tokens * sizeof(*tokens));
	*s = (struct kvlink_slot){ .state = KVLINK_OPENING, .epoch = s->epoch + 1, .client = client,
				   .flags = flags, .n_tokens = n_tokens, .n_max = n_max };
}

void kvlink_append(struct kvlink *l, uint32_t slot, int32_t token)
{
	struct kvlink_slot *s = &l->slots[slot];

	assert(s->n_tokens < s->n_max);
	kvd_engine_tokens(l->engine, slot)[s->n_tokens++] = token;
}

void kvlink_computed(struct kvlink *l, uint32_t slot, uint32_t n_computed)
{
	struct kvlink_slot *s = &l->slots[slot];

	assert(n_computed >= s->n_computed && n_computed <= s->n_tokens);
	s->n_computed = n_computed;
}

void kvlink_close(struct kvlink *l, uint32_t slot)
{
	struct kvlink_slot *s = &l->slots[slot];

	if (s->state == KVLINK_EMPTY || s->state == KVLINK_CLOSING)
		return;
	s->epoch++;
	s->state = s->at_kvd ? KVLINK_CLOSING : KVLINK_EMPTY;
	s->sent = false;
}

void kvlink_lost(struct kvlink *l)
{
	for (uint32_t i = 0; i < l->n_slots; i++) {
		struct kvlink_slot *s = &l->slots[i];
		if (s->state == KVLINK_EMPTY)
			continue;
		s->epoch++;
		s->n_preempted += s->admitted;
		s->sent = s->at_kvd = s->grow_out = s->held = false;
		s->n_pages = s->n_sealed = s->n_computed = s->looked = 0;
		s->client = 0;
		if (s->state != KVLINK_REFUSED)    /* its client has still to be told */
			s->state = s->state == KVLINK_CLOSING ? KVLINK_EMPTY : KVLINK_LOST;
	}
}

void kvlink_reopen(struct kvlink *l, uint32_t slot, uint32_t client, const int32_t *tokens)
{
	struct kvlink_slot *s = &l->slots[slot];

	assert(s->state == KVLINK_LOST);
	memcpy(kvd_engine_tokens(l->engine, slot), tokens, s->n_tokens * sizeof(*tokens));
	s->client = client;
	s->state = KVLINK_OPENING;
}

void kvlink_adopted(struct kvlink *l, uint64_t now_usec)
{
	l->patient = false;
	for (uint32_t i = 0; i < l->n_slots; i++)
		l->slots[i].held_usec = now_usec;
}

/* Is the index to be searched before this sequence computes on? */
static bool wants_lookup(const struct kvlink_slot *s)
{
	uint32_t page = s->n_computed / KVD_PAGE_TOKENS;

	return !(s->flags & KVD_OPEN_PRIVATE) && s->n_computed % KVD_PAGE_TOKENS == 0 &&
	       page < (s->n_tokens - 1) / KVD_PAGE_TOKENS && s->looked != page + 1;
}

uint32_t kvlink_limit(const struct kvlink *l, uint32_t slot)
{
	const struct kvlink_slot *s = &l->slots[slot];

	if (s->state != KVLINK_RUNNING || s->held || wants_lookup(s) ||
	    (s->grow_out && s->grow_lookup))
		return 0;
	return s->n_pages * KVD_PAGE_TOKENS;
}

bool kvlink_copy_table(const struct kvlink *l, uint32_t slot, uint32_t n_pages, uint32_t *ret_table)
{
	const uint32_t *row = kvd_engine_table(l->engine, slot);

	for (uint32_t i = 0; i < n_pages; i++) {
		ret_table[i] = __atomic_load_n(&row[i], __ATOMIC_RELAXED);
		if (KVD_ENTRY_FORMAT(ret_table[i]) != KVD_FORMAT_BF16)
			return false;
	}
	return true;
}

static uint64_t user_data(const struct kvlink_slot *s)
{
	return (uint64_t)s->epoch << 32;
}

/* Pages the sequence should have now: for a chunk of prefill, or for decode with its spare. */
static uint32_t pages_wanted(const struct kvlink *l, const struct kvlink_slot *s)
{
	uint32_t reach = s->n_computed + l->chunk_tokens, most = s->n_max > 1 ? s->n_max - 1 : 1;

	if (reach >= s->n_tokens)
		reach = s->n_tokens + KVD_PAGE_TOKENS / 2;
	/* the last token of all is sent to the client but never computed from */
	if (reach > most)
		reach = s->n_tokens > most ? s->n_tokens : most;
	return (reach + KVD_PAGE_TOKENS - 1) / KVD_PAGE_TOKENS;
}

static int pump_running(struct kvlink *l, uint32_t slot)
{
	struct kvlink_slot *s = &l->slots[slot];
	struct kvd_sqe sqe = { .slot = slot, .user_data = user_data(s) };
	uint32_t n_full = s->n_computed / KVD_PAGE_TOKENS, want;
	bool lookup;
	int r;

	if (s->held)
		return 0;
	if (n_full > s->n_sealed) {
		sqe.verb = KVD_SEQ_SEAL;
		sqe.page = s->n_sealed;
		sqe.count = n_full - s->n_sealed;
		r = kvd_engine_submit(l->engine, &sqe);
		if (r < 0)
			return r;
		s->n_sealed = n_full;
	}
	want = pages_wanted(l, s);
	lookup = wants_lookup(s);
	if (s->grow_out || (want <= s->n_pages && !lookup))
		return 0;
	sqe.verb = KVD_SEQ_GROW;
	sqe.flags = lookup ? KVD_GROW_LOOKUP : 0;
	sqe.page = n_full;
	sqe.count = 0;
	sqe.want = want > s->n_pages ? want : s->n_pages;
	r = kvd_engine_submit(l->engine, &sqe);
	if (r < 0)
		return r;
	s->grow_out = true;
	s->grow_lookup = lookup;
	s->grow_page = n_full;
	return 0;
}

static int pump_slot(struct kvlink *l, uint32_t slot)
{
	struct kvlink_slot *s = &l->slots[slot];
	struct kvd_sqe sqe = { .slot = slot, .user_data = user_data(s), .tenant = s->client,
			       .n_tokens = s->n_tokens, .flags = (uint16_t)s->flags };
	int r;

	switch (s->state) {
	case KVLINK_RUNNING:
		return pump_running(l, slot);
	case KVLINK_OPENING:
		sqe.verb = KVD_SEQ_OPEN;
		break;
	case KVLINK_RESUMING:
		sqe.verb = KVD_SEQ_RESUME;
		break;
	case KVLINK_CLOSING:
		sqe = (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE,
					.slot = slot,
					.user_data = user_data(s) };
		break;
	case KVLINK_EMPTY:
	case KVLINK_REFUSED:
	case KVLINK_LOST:
		return 0;
	}
	if (s->sent)
		return 0;
	r = kvd_engine_submit(l->engine, &sqe);
	if (r == 0) {
		s->sent = true;
		s->at_kvd = true;
	}
	return r;
}

int kvlink_pump(struct kvlink *l)
{
	int r = 0;

	/* A full ring (-EAGAIN) is no error: what did not fit is wanted again at the next pump. */
	for (uint32_t i = 0; i < l->n_slots && r == 0; i++)
		r = pump_slot(l, i);
	if (r < 0 && r != -EAGAIN)
		return r;
	return kvd_engine_flush(l->engine);
}

static void refuse(struct kvlink_slot *s, const struct kvd_cqe *cqe)
{
	s->state = KVLINK_REFUSED;
	s->failure = cqe->status;
	s->need_pages = cqe->need_pages;
	s->have_pages = cqe->have_pages;
}

static void on_opened(struct kvlink *l, struct kvlink_slot *s, const struct kvd_cqe *cqe)
{
	if (cqe->status != KVD_S_OK) {
		s->at_kvd =
			s->state == KVLINK_RESUMING; /* a refused OPEN leaves nothing in the slot */
		refuse(s, cqe);
		return;
	}
	s->state = KVLINK_RUNNING;
	s->n_pages = cqe->pages < l->max_pages ? cqe->pages : l->max_pages;
	s->n_sealed = cqe->cached < s->n_pages ? cqe->cached : s->n_pages;
	/* the last known token is always computed: its logits are wanted */
	if (s->n_sealed > (s->n_tokens - 1) / KVD_PAGE_TOKENS)
		s->n_sealed = (s->n_tokens - 1) / KVD_PAGE_TOKENS;
	s->n_computed = s->n_sealed * KVD_PAGE_TOKENS;
	if (!s->admitted)
		s->n_cached = s->n_computed;
	s->admitted = true;
	s->looked = 0;
	s->grow_out = false;
	s->held = false;
}

static void on_grown(struct kvlink *l, struct kvlink_slot *s, const struct kvd_cqe *cqe,
		     uint64_t now_usec)
{
	uint32_t cached;

	s->grow_out = false;
	if (cqe->status == KVD_S_PREEMPTED || cqe->status == KVD_S_STALE) {
		s->held = true; /* its pages are gone; KVD_EV_PREEMPT tells when to resume */
		s->held_usec = now_usec;
		return;
	}
	if (cqe->status != KVD_S_OK) {
		refuse(s, cqe);
		return;
	}
	if (cqe->pages > s->n_pages)
		s->n_pages = cqe->pages < l->max_pages ? cqe->pages : l->max_pages;
	if (!s->grow_lookup)
		return;
	cached = cqe->cached < s->n_pages ? cqe->cached : s->n_pages;
	if (cached > (s->n_tokens - 1) / KVD_PAGE_TOKENS)
		cached = (s->n_tokens - 1) / KVD_PAGE_TOKENS;
	if (cached > s->grow_page) {
		/* Pages came: search again from there, somebody may be computing the next. */
		if (!s->n_preempted)
			s->n_cached += (cached - s->grow_page) * KVD_PAGE_TOKENS;
		s->n_computed = cached * KVD_PAGE_TOKENS;
		s->n_sealed = cached;
	} else {
		s->looked = s->grow_page + 1;
	}
}

static void on_preempt(struct kvlink_slot *s)
{
	if (s->state != KVLINK_RUNNING)
		return;                    /* it closes; or the event of a life that is over */
	s->state = KVLINK_RESUMING;
	s->epoch++;
	s->n_preempted++;
	s->sent = s->grow_out = s->held = false;
	s->n_pages = s->n_sealed = s->n_computed = s->looked = 0;
}

static void on_completion(struct kvlink *l, const struct kvd_cqe *cqe, uint64_t now_usec)
{
	struct kvlink_slot *s;

	if (cqe->verb == KVD_EV_DRAIN) {
		l->draining = true;
		return;
	}
	if (cqe->slot >= l->n_slots)
		return;
	s = &l->slots[cqe->slot];
	if (cqe->verb == KVD_EV_PREEMPT) {
		log_debug("preempted slot=%u tokens=%u computed=%u", cqe->slot, s->n_tokens,
			  s->n_computed);
		on_preempt(s);
		return;
	}
	if (cqe->user_data != user_data(s))
		return;
	switch (cqe->verb) {
	case KVD_SEQ_OPEN:
	case KVD_SEQ_RESUME:
		if ((s->state == KVLINK_OPENING || s->state == KVLINK_RESUMING) && s->sent)
			on_opened(l, s, cqe);
		break;
	case KVD_SEQ_GROW:
		if (s->state == KVLINK_RUNNING && s->grow_out)
			on_grown(l, s, cqe, now_usec);
		break;
	case KVD_SEQ_SEAL:
		/* the pages were lost while the seal was under way: the event comes, too */
		if (cqe->status != KVD_S_OK && cqe->status != KVD_S_STALE &&
		    cqe->status != KVD_S_PREEMPTED)
			log_warning("seal refused slot=%u status=%u", cqe->slot, cqe->status);
		break;
	case KVD_SEQ_CLOSE:
		if (s->state == KVLINK_CLOSING && s->sent) {
			s->state = KVLINK_EMPTY;
			s->at_kvd = false;
		}
		break;
	default:
		break;
	}
}

void kvlink_collect(struct kvlink *l, uint64_t now_usec)
{
	struct kvd_cqe cqe;

	while (kvd_engine_completion(l->engine, &cqe))
		on_completion(l, &cqe, now_usec);
	for (uint32_t i = 0; i < l->n_slots; i++) {
		struct kvlink_slot *s = &l->slots[i];
		if (s->state == KVLINK_RUNNING && s->held && !l->patient &&
		    now_usec - s->held_usec > HELD_MAX_USEC) {
			log_error("kvd refused pages and sent no event slot=%u tokens=%u", i,
				  s->n_tokens);
			refuse(s, &(struct kvd_cqe){ .status = KVD_S_INTERNAL });
		}
	}
}
