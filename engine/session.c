/* session.c - tokens in, text out; stop strings; the numbers of END.
 *
 * States: running (finish == 0), then finished for good.  Resumed ids pass through the same
 * session_accept() as generated ones, so that stop strings, half characters and the penalty go on
 * where the dead engine left them; the caller throws that text away.
 * Runs on the engine's thread; allocates only in session_new(). */
#include "engine/session.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static void mark_seen(struct session *s, int32_t id)
{
	if (s->seen)
		s->seen[(uint32_t)id / 64] |= UINT64_C(1) << ((uint32_t)id % 64);
}

static uint32_t room_for(const struct request *r, uint32_t n_prompt, uint32_t n_ctx)
{
	uint32_t room = n_ctx - n_prompt;

	return r->head.max_tokens && r->head.max_tokens < room ? n_prompt + r->head.max_tokens
							       : n_ctx;
}

static int refuse_context(uint32_t n_prompt, uint32_t n_resume, uint32_t n_ctx, char *err,
			  size_t errlen)
{
	if (n_resume)
		snprintf(err, errlen,
			 "the prompt has %u tokens and %u were generated, the context holds %u; "
			 "see kvengine --ctx",
			 n_prompt, n_resume, n_ctx);
	else
		snprintf(err, errlen,
			 "the prompt has %u tokens, the context holds %u and the answer needs at "
			 "least one; shorten the prompt or see kvengine --ctx",
			 n_prompt, n_ctx);
	return KVD_S_CONTEXT;
}

int session_new(const struct request *r, const int32_t *prompt, uint32_t n_prompt, uint32_t n_ctx,
		uint32_t n_vocab, struct session **ret, char *err, size_t errlen)
{
	uint32_t n_resume = r->head.n_resume, n_max, n_words = (n_vocab + 63) / 64, at = 0;
	bool penalty = r->head.repeat_penalty != 1.0f;
	struct session *s;

	if (n_prompt < 1) {
		snprintf(err, errlen, "the prompt has no tokens; send some text");
		return KVD_S_BAD_REQUEST;
	}
	if (n_prompt >= n_ctx || n_resume > n_ctx - n_prompt)
		return refuse_context(n_prompt, n_resume, n_ctx, err, errlen);
	for (uint32_t i = 0; i < n_resume; i++)
		if (request_resume_id(r, i) >= n_vocab) {
			snprintf(err, errlen, "resumed token %u is %u; the model's ids end at %u",
				 i, request_resume_id(r, i), n_vocab - 1);
			return KVD_S_BAD_REQUEST;
		}
	n_max = room_for(r, n_prompt, n_ctx);
	if (n_max < n_prompt + n_resume)
		n_max = n_prompt + n_resume;
	s = calloc(1, sizeof(*s) + (penalty ? n_words * sizeof(uint64_t) : 0) +
			      n_max * sizeof(int32_t));
	if (!s) {
		snprintf(err, errlen, "the engine has no memory for %u tokens", n_max);
		return KVD_S_LIMIT;
	}
	if (penalty)
		s->seen = (uint64_t *)(s + 1);
	s->tokens = penalty ? (int32_t *)(s->seen + n_words) : (int32_t *)(s + 1);
	s->n_prompt = s->n_known = n_prompt;
	s->n_resumed = n_resume;
	s->n_max = n_max;
	s->n_vocab = n_vocab;
	s->flags = r->head.flags;
	s->utf8 = UTF8_STREAM_INIT;
	request_sample_options(r, &s->sample);
	for (uint32_t i = 0; i < r->head.n_stop; i++) {
		const char *stop = request_stop(r, i);
		memcpy(s->stop + at, stop, strlen(stop) + 1);
		at += (uint32_t)strlen(stop) + 1;
	}
	s->n_stop = r->head.n_stop;
	memcpy(s->tokens, prompt, n_prompt * sizeof(int32_t));
	for (uint32_t i = 0; i < n_prompt; i++)
		mark_seen(s, prompt[i]);
	*ret = s;
	return 0;
}

void session_free(struct session *s)
{
	free(s);
}

int32_t session_choose(struct session *s, struct sampler *sampler, const float *logits)
{
	if (s->flags & KVD_REQ_LOGITS_HASH)
		s->logits_hash = XXH3_64bits_withSeed(logits, (size_t)s->n_vocab * sizeof(float),
						      s->logits_hash);
	return sample_token(sampler, &s->sample, logits, s->seen, s->n_known);
}

/* First place in text where a stop string stands; n if none does. */
static uint32_t find_stop(const struct session *s, const char *text, uint32_t n)
{
	uint32_t first = n;
	const char *stop = s->stop;

	for (uint32_t i = 0; i < s->n_stop; i++, stop += strlen(stop) + 1) {
		const char *at = memmem(text, first == n ? n : first + strlen(stop) - 1 < n ?
					first + strlen(stop) - 1 : n, stop, strlen(stop));
		if (at && (uint32_t)(at - text) < first)
			first = (uint32_t)(at - text);
	}
	return first;
}

/* How many of the last bytes may be the beginning of a stop string. */
static uint32_t maybe_stop(const struct session *s, const char *text, uint32_t n)
{
	uint32_t longest = 0;
	const char *stop = s->stop;

	for (uint32_t i = 0; i < s->n_stop; i++, stop += strlen(stop) + 1) {
		uint32_t most = (uint32_t)strlen(stop) - 1;
		if (most > n)
			most = n;
		for (uint32_t l = most; l > longest; l--)
			if (memcmp(text + n - l, stop, l) == 0) {
				longest = l;
				break;
			}
	}
	return longest;
}

/* Pass text through the stop strings.  last: nothing more comes, hold nothing back. */
static uint32_t release(struct session *s, const char *text, uint32_t n_text, bool last,
			char *ret_text)
{
	uint32_t n = s->n_held + n_text, stop_at, keep;

	assert(n <= SESSION_TEXT_MAX);
	memcpy(ret_text, s->held, s->n_held);
	memcpy(ret_text + s->n_held, text, n_text);
	s->n_held = 0;
	if (!s->n_stop)
		return n;
	stop_at = find_stop(s, ret_text, n);
	if (stop_at < n) {
		s->finish = KVD_FINISH_STOP;
		return stop_at;
	}
	keep = last ? 0 : maybe_stop(s, ret_text, n);
	memcpy(s->held, ret_text + n - keep, keep);
	s->n_held = keep;
	return n - keep;
}

bool session_accept(struct session *s, int32_t id, const char *piece, uint32_t n_piece, bool is_end,
		    char *ret_text, uint32_t *ret_n)
{
	char text[UTF8_STREAM_ROOM(SESSION_PIECE_MAX) + 3];
	uint32_t n = 0;

	assert(!s->finish && s->n_known < s->n_max && n_piece <= SESSION_PIECE_MAX);
	assert(id >= 0 && (uint32_t)id < s->n_vocab);
	if (is_end && !(s->flags & KVD_REQ_IGNORE_END)) {
		s->finish = KVD_FINISH_STOP;
		n = (uint32_t)utf8_stream_end(&s->utf8, text);
		*ret_n = release(s, text, n, true, ret_text);
		return false;
	}
	s->tokens[s->n_known++] = id;
	mark_seen(s, id);
	n = (uint32_t)utf8_stream_push(&s->utf8, piece, n_piece, text);
	if (s->n_known == s->n_max) {
		s->finish = KVD_FINISH_LENGTH;
		n += (uint32_t)utf8_stream_end(&s->utf8, text + n);
	}
	*ret_n = release(s, text, n, s->finish != 0, ret_text);
	return true;
}

void session_clock(struct session *s, uint64_t now_usec)
{
	if (!s->first_usec) {
		s->first_usec = now_usec;
	} else {
		uint64_t interval = now_usec - s->last_usec;
		s->intervals[s->n_intervals++ % SESSION_INTERVALS] =
			interval > UINT32_MAX ? UINT32_MAX : (uint32_t)interval;
	}
	s->last_usec = now_usec;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

uint32_t session_median_usec(const struct session *s)
{
	uint32_t sorted[SESSION_INTERVALS];
	uint32_t n = s->n_intervals < SESSION_INTERVALS ? s->n_intervals : SESSION_INTERVALS;

	if (!n)
		return 0;
	memcpy(sorted, s->intervals, n * sizeof(sorted[0]));
	qsort(sorted, n, sizeof(sorted[0]), by_value);
	return sorted[n / 2];
}
