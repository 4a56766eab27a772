/* answer.c - one generation: the text printed as it comes, Ctrl-C cancels it.
 *
 * Owns the stream while it runs.  libkvd hands over whole characters and they are written in one
 * piece, so that no reader ever sees half of one.  On a terminal control characters of the model
 * are not obeyed. */
#include "client/kvrun/kvrun.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/packet.h"

#define CANCEL_WAIT_USEC                                                                           \
	2000000u /* an engine ends a cancelled sequence within a step; then we leave anyway */

struct run {
	struct kvd_stream *stream;
	struct kvrun_answer *answer;
	bool print, terminal;
	int write_errno;           /* nonzero: nobody reads us any more */
	uint64_t leave_usec;       /* after a cancel: no longer than this; KVD_NEVER before */
};

static void print_text(struct run *r, const char *text, size_t n)
{
	if (!r->terminal) {
		if (fwrite(text, 1, n, stdout) != n || fflush(stdout) != 0)
			r->write_errno = errno;
		return;
	}
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)text[i];
		bool c1 = c == 0xc2 && i + 1 < n && (unsigned char)text[i + 1] < 0xa0;
		if (c1 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
			fputs("\xef\xbf\xbd", stdout);
			i += c1;
		} else {
			fputc(c, stdout);
		}
	}
	if (fflush(stdout) != 0)
		r->write_errno = errno;
}

static bool keep_text(struct kvrun_text *t, const char *text, size_t n)
{
	char *grown = realloc(t->bytes, t->n + n + 1);
	if (!grown)
		return false;
	memcpy(grown + t->n, text, n);
	t->bytes = grown;
	t->n += n;
	t->bytes[t->n] = '\0';
	return true;
}

static void take_chunk(struct run *r, const struct kvd_chunk *chunk)
{
	struct kvrun_answer *a = r->answer;

	if (chunk->kind == KVD_CHUNK_END) {
		a->end = *chunk->end;
		a->ended = true;
		a->resumed = chunk->resumed;
		return;
	}
	if (chunk->kind != KVD_CHUNK_TOKENS)
		return;
	bool kept = true;
	for (uint32_t i = 0; a->tokens && i < chunk->n_ids; i++)
		kept = kept && json_array_append_new(a->tokens, json_integer(chunk->ids[i])) == 0;
	if (!keep_text(&a->text, chunk->text, chunk->text_bytes) || !kept)
		snprintf(a->error, sizeof(a->error), "not enough memory to keep the answer");
	/* What comes after Ctrl-C was computed before the engine heard of it. */
	if (r->print && !a->interrupted && r->write_errno == 0 && chunk->text_bytes > 0)
		print_text(r, chunk->text, chunk->text_bytes);
}

static void cancel(struct run *r)
{
	if (r->leave_usec == KVD_NEVER)
		r->leave_usec = kvd_clock_usec() + CANCEL_WAIT_USEC;
	/* Where the engine cannot be told now, closing the stream will tell it. */
	if (kvd_cancel(r->stream) != 0)
		r->leave_usec = 0;
}

/* Wait for the stream or for Ctrl-C. */
static void wait_for_news(struct run *r)
{
	struct pollfd fds[2] = {
		{ .fd = kvd_stream_fd(r->stream), .events = POLLIN },
		{ .fd = kvrun_interrupt_fd(), .events = POLLIN },
	};
	int timeout_ms = -1;
	if (r->leave_usec != KVD_NEVER) {
		uint64_t now = kvd_clock_usec();
		timeout_ms = r->leave_usec > now ? (int)((r->leave_usec - now) / 1000u) + 1 : 0;
	}
	(void)poll(fds, 2, timeout_ms);
	if (kvrun_interrupt_take()) {
		r->answer->interrupted = true;
		cancel(r);
	}
}

/* Take all chunks until the end.  Returns the exit code. */
static int drain(struct run *r)
{
	struct kvrun_answer *a = r->answer;

	while (!a->ended && kvd_clock_usec() < r->leave_usec) {
		struct kvd_chunk chunk;
		int result = kvd_next(r->stream, 0, &chunk);
		if (result == 0) {
			take_chunk(r, &chunk);
			if (r->write_errno != 0)
				cancel(r);
		} else if (result == -EAGAIN) {
			wait_for_news(r);
		} else {
			snprintf(a->error, sizeof(a->error), "%s", kvd_stream_error(r->stream));
			return result > 0 ? kvd_status_exit_code(result) : result == -ENOTCONN ? 3 : 1;
		}
	}
	snprintf(a->engine, sizeof(a->engine), "%s", kvd_stream_engine(r->stream));
	if (a->interrupted)
		return KVRUN_INTERRUPTED;
	if (r->write_errno != 0) {
		/* A reader that has enough (`kvrun ... | head`) is no news. */
		if (r->write_errno != EPIPE)
			snprintf(a->error, sizeof(a->error),
				 "cannot write the answer to stdout: %s", strerror(r->write_errno));
		return 1;
	}
	if (a->end.m.status == KVD_S_OK)
		return a->error[0] ? 1 : 0;
	int status = (int)(a->end.m.status & 0xffffu);
	snprintf(a->error, sizeof(a->error), "%s",
		 a->end.text[0] ? a->end.text : kvd_status_text(status));
	return kvd_status_exit_code(status);
}

int kvrun_answer(struct kvd_connection *c, const struct kvrun_options *o, const char *model,
		 const struct kvrun_text *prompt, bool print, struct kvrun_answer *a)
{
	struct kvd_request request = o->request;
	struct run r = {
		.answer = a,
		.print = print,
		.terminal = isatty(STDOUT_FILENO),
		.leave_usec = KVD_NEVER,
	};

	*a = (struct kvrun_answer){ .tokens = o->json ? json_array() : NULL };
	request.text = prompt->bytes;
	request.text_bytes = prompt->n;
	int result = kvd_generate(c, model, o->engine, o->wait_ms, &request, &r.stream);
	if (result != 0) {
		snprintf(a->error, sizeof(a->error), "%s", kvd_error(c));
		return result > 0 ? kvd_status_exit_code(result) : 3;
	}
	kvrun_interrupt_arm();
	result = drain(&r);
	kvrun_interrupt_disarm();
	kvd_stream_close(r.stream);
	return result;
}

void kvrun_answer_free(struct kvrun_answer *a)
{
	free(a->text.bytes);
	json_decref(a->tokens);
	*a = (struct kvrun_answer){ 0 };
}

static const char *finish_reason(const struct kvrun_answer *a)
{
	if (a->interrupted)
		return "cancel";
	if (!a->ended || a->error[0])
		return a->ended && a->end.m.status == KVD_S_DEADLINE ? "deadline" : "error";
	switch (a->end.finish) {
	case KVD_FINISH_STOP: return "stop";
	case KVD_FINISH_LENGTH: return "length";
	case KVD_FINISH_CANCEL: return "cancel";
	}
	return "error";
}

json_t *kvrun_answer_json(const struct kvrun_answer *a)
{
	char hash[20];
	snprintf(hash, sizeof(hash), "%016llx", (unsigned long long)a->end.logits_hash);
	json_t *root =
		json_pack("{s:s#, s:O, s:I, s:I, s:I, s:f, s:f, s:f, s:s, s:s, s:i, s:o}", "text",
			  a->text.bytes ? a->text.bytes : "", (int)a->text.n, "tokens", a->tokens,
			  "prompt_tokens", (json_int_t)a->end.prompt_tokens, "cached_tokens",
			  (json_int_t)a->end.cached_tokens, "completion_tokens",
			  (json_int_t)a->end.completion_tokens, "ttft_ms", a->end.ttft_usec / 1e3,
			  "itl_p50_ms", a->end.itl_p50_usec / 1e3, "total_ms",
			  (double)a->end.total_usec / 1e3, "finish_reason", finish_reason(a),
			  "engine", a->engine, "resumed", a->resumed, "logits_hash",
			  a->end.logits_hash ? json_string(hash) : json_null());
	if (root && a->error[0] && json_object_set_new(root, "error", json_string(a->error)) != 0) {
		json_decref(root);
		root = NULL;
	}
	return root;
}

void kvrun_answer_stats(const struct kvrun_answer *a)
{
	double seconds = (double)(a->end.total_usec - a->end.ttft_usec) / 1e6;
	fprintf(stderr, "[%u tokens", a->end.completion_tokens);
	if (a->end.completion_tokens > 1 && seconds > 0)
		fprintf(stderr, ", %.1f a second", (a->end.completion_tokens - 1) / seconds);
	fprintf(stderr, ", first after %.0f ms, %u of %u prompt tokens cached, engine %s",
		a->end.ttft_usec / 1e3, a->end.cached_tokens, a->end.prompt_tokens, a->engine);
	if (a->resumed)
		fprintf(stderr, ", %d engine%s died on the way", a->resumed,
			a->resumed > 1 ? "s" : "");
	fprintf(stderr, "]\n");
}
