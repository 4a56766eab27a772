/* trace.h - the last things that happened to sequences and frames, for `kvctl trace`.
 *
 * A ring of small records, written as events go into the core and actions come out of it. */
#ifndef KVD_TRACE_H
#define KVD_TRACE_H

#include <stdint.h>

#include "kvd/core/core.h"

struct daemon;

#define LIMIT_TRACE 65536u         /* some minutes of a busy host; 2.5 MiB */

struct trace_record {
	uint64_t usec;
	uint32_t kind, engine, slot;       /* enum kvd_trace_kind; CORE_NONE: none */
	uint32_t verb, status; /* SUBMIT, ANSWER: enum kvd_verb; MOVE: enum core_move; MOVED: ok,
				  differs */
	uint32_t a, b, job;                /* as trace.def says */
};

struct trace { struct trace_record *ring; uint64_t n; };

int trace_open(struct daemon *daemon);
void trace_close(struct daemon *daemon);
void trace_event(struct daemon *daemon, const struct core_event *event, uint64_t now_usec);
void trace_action(struct daemon *daemon, const struct core_action *action, uint64_t now_usec);

/* What is asked for: of one sequence, or of one frame; CORE_NONE: any. */
struct trace_filter { uint32_t engine, slot, frame; };
/* Rows of it, oldest first.  cursor: records looked at so far.  Fills up to max rows, or 0 at the end. */
uint32_t trace_read(const struct daemon *daemon, const struct trace_filter *filter, uint64_t now_usec,
		    uint32_t *cursor, struct kvd_row_trace *ret, uint32_t max);

#endif
