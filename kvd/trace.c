/* trace.c - see trace.h.  Owns the ring.  Loop thread only; a record costs a store of 40 bytes. */
#include "kvd/trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvd/daemon.h"
#include "kvd/memory.h"

int trace_open(struct daemon *daemon)
{
	daemon->trace.ring = memory_resident(LIMIT_TRACE * sizeof(daemon->trace.ring[0]));
	return daemon->trace.ring ? 0 : -ENOMEM;
}

void trace_close(struct daemon *daemon)
{
	free(daemon->trace.ring);
	daemon->trace = (struct trace){ 0 };
}

static void put(struct daemon *daemon, struct trace_record record)
{
	struct trace *trace = &daemon->trace;

	if (trace->ring)
		trace->ring[trace->n++ % LIMIT_TRACE] = record;
}

/* A job of the mover that is under way: MOVE, the newest of that number. */
static const struct trace_record *move_of(const struct trace *trace, uint32_t job)
{
	for (uint64_t n = trace->n; n > 0 && trace->n - n < 4096; n--) {
		const struct trace_record *record = &trace->ring[(n - 1) % LIMIT_TRACE];

		if (record->kind == KVD_TRACE_MOVE && record->job == job)
			return record;
	}
	return NULL;
}

void trace_event(struct daemon *daemon, const struct core_event *event, uint64_t now_usec)
{
	const struct kvd_sqe *sqe = &event->submit.sqe;
	const struct trace_record *move;

	if (event->type == CORE_EV_SUBMIT && sqe->verb != KVD_EXTENT_ACK)
		put(daemon,
		    (struct trace_record){.usec = now_usec,
					  .kind = KVD_TRACE_SUBMIT,
					  .engine = event->engine,
					  .slot = sqe->slot,
					  .verb = sqe->verb,
					  .a = sqe->page,
					  .b = sqe->verb == KVD_SEQ_GROW   ? sqe->want
					       : sqe->verb == KVD_SEQ_SEAL ? sqe->count
									   : sqe->n_tokens});
	if (event->type == CORE_EV_MOVED && daemon->trace.ring && (move = move_of(&daemon->trace, event->moved.job)))
		put(daemon, (struct trace_record){.usec = now_usec,
						  .kind = KVD_TRACE_MOVED,
						  .engine = CORE_NONE,
						  .slot = CORE_NONE,
						  .verb = move->verb,
						  .a = move->a,
						  .b = move->b,
						  .job = move->job,
						  .status = (uint32_t)event->moved.ok |
							    (uint32_t)event->moved.differs << 1});
}

void trace_action(struct daemon *daemon, const struct core_action *action, uint64_t now_usec)
{
	struct trace_record record = { .usec = now_usec, .engine = action->engine, .slot = CORE_NONE };

	switch (action->type) {
	case CORE_ACT_COMPLETE:
		record.kind = KVD_TRACE_ANSWER;
		record.slot = action->cqe.slot;
		record.verb = action->cqe.verb;
		record.status = action->cqe.status;
		record.a = action->cqe.cached;
		record.b = action->cqe.pages;
		break;
	case CORE_ACT_ENTRY:
		record.kind = KVD_TRACE_ENTRY;
		record.slot = action->entry.slot;
		record.a = action->entry.page;
		record.b = action->entry.entry ? KVD_ENTRY_FRAME(action->entry.entry) : CORE_NONE;
		break;
	case CORE_ACT_MOVE:
		record.kind = KVD_TRACE_MOVE;
		record.engine = CORE_NONE;
		record.verb = action->move.kind;
		record.job = action->move.job;
		record.a = action->move.source;
		record.b = action->move.target;
		break;
	default: return;
	}
	put(daemon, record);
}

static bool wanted(const struct trace_record *r, const struct trace_filter *filter)
{
	bool frames = r->kind == KVD_TRACE_MOVE || r->kind == KVD_TRACE_MOVED;

	if (filter->frame != CORE_NONE)
		return (frames && (r->a == filter->frame || r->b == filter->frame)) ||
		       (r->kind == KVD_TRACE_ENTRY && r->b == filter->frame);
	return !frames && r->engine == filter->engine && r->slot == filter->slot;
}

uint32_t trace_read(const struct daemon *daemon, const struct trace_filter *filter, uint64_t now_usec,
		    uint32_t *cursor, struct kvd_row_trace *ret, uint32_t max)
{
	const struct trace *trace = &daemon->trace;
	uint64_t first = trace->n > LIMIT_TRACE ? trace->n - LIMIT_TRACE : 0;
	uint32_t n = 0;

	for (; n < max && first + *cursor < trace->n; ++*cursor) {
		const struct trace_record *r = &trace->ring[(first + *cursor) % LIMIT_TRACE];
		struct kvd_row_trace *row = &ret[n];

		if (!wanted(r, filter))
			continue;
		*row = (struct kvd_row_trace){
			.usec_ago = now_usec > r->usec ? now_usec - r->usec : 0,
			.kind = r->kind, .slot = r->slot, .verb = r->verb, .status = r->status, .a = r->a, .b = r->b,
		};
		if (r->engine < CORE_ENGINES_MAX && daemon->engines[r->engine].state != ATTACHED_FREE)
			memcpy(row->engine, daemon->engines[r->engine].name, sizeof(row->engine));
		n++;
	}
	return n;
}
