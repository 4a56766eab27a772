/* session.h - one request's timeline: prompt ids, generated ids, and the text that leaves.
 *
 * A session is everything about an answer that must survive: it does not know where its K and V
 * lie, so preemption and another engine change nothing in it. */
#ifndef ENGINE_SESSION_H
#define ENGINE_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/request.h"
#include "engine/sample.h"
#include "engine/utf8_stream.h"

#define SESSION_PIECE_MAX 4096u    /* bytes of one token's text */
#define SESSION_STOP_MAX 256u      /* bytes of all stop strings */
/* Most text one token can release: its own as UTF-8, and what was held back before. */
#define SESSION_TEXT_MAX (UTF8_STREAM_ROOM(SESSION_PIECE_MAX) + 3u + SESSION_STOP_MAX)
#define SESSION_INTERVALS 256u     /* newest times between tokens that the median is taken of */

struct session {
	struct sample_options sample;
	uint32_t flags;                /* KVD_REQ_* */
	uint32_t n_prompt;             /* prompt ids */
	uint32_t n_resumed;            /* ids that a dead engine generated */
	uint32_t n_known;              /* prompt + all generated ids: valid entries of tokens[] */
	uint32_t n_max;                /* n_known never exceeds this (context, max_tokens) */
	uint32_t finish;               /* KVD_FINISH_*, 0 while it goes on */
	uint64_t logits_hash;          /* over the logits of positions sampled here, in order */
	uint32_t n_vocab;
	struct utf8_stream utf8;
	char stop[SESSION_STOP_MAX];   /* n_stop strings, NUL-terminated, one after the other */
	uint32_t n_stop;
	char held[SESSION_STOP_MAX];   /* text that may be the beginning of a stop string */
	uint32_t n_held;
	uint64_t received_usec, first_usec, last_usec;
	uint32_t intervals[SESSION_INTERVALS];
	uint32_t n_intervals;          /* all so far; the newest SESSION_INTERVALS are kept */
	uint64_t *seen;                /* (n_vocab / 64, rounded up) bit set of ids, or NULL */
	int32_t *tokens;               /* (n_max) */
};

/* Make a session from a complete request and its prompt's ids.
 *
 * n_ctx     tokens the engine's context holds
 * ret       owned by the caller, session_free() frees it
 * ret_status, err  KVD_S_* and a sentence with the numbers, on failure
 * Returns   0 or a positive KVD_S_* */
int session_new(const struct request *r, const int32_t *prompt, uint32_t n_prompt, uint32_t n_ctx,
		uint32_t n_vocab, struct session **ret, char *err, size_t errlen);
void session_free(struct session *s);

/* Tokens generated so far, those of a dead engine included. */
static inline uint32_t session_n_generated(const struct session *s)
{
	return s->n_known - s->n_prompt;
}

/* Choose the next token from the logits of the last known one (and hash them if asked). */
int32_t session_choose(struct session *s, struct sampler *sampler, const float *logits);

/* A token was generated: append it and say what text leaves now.
 *
 * piece     (n_piece <= SESSION_PIECE_MAX) bytes the token stands for
 * is_end    the token ends an answer (ignored with KVD_REQ_IGNORE_END)
 * ret_text  room for SESSION_TEXT_MAX bytes, whole characters
 * ret_n     bytes of text
 * Returns   true if the id is part of the answer (an end token is not).  s->finish is set when
 *           the answer has ended; then nothing is held back any more. */
bool session_accept(struct session *s, int32_t id, const char *piece, uint32_t n_piece, bool is_end,
		    char *ret_text, uint32_t *ret_n);

/* Note when a token came, for ttft and the median. */
void session_clock(struct session *s, uint64_t now_usec);
uint32_t session_median_usec(const struct session *s);

#endif
