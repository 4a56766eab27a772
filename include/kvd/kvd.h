/* kvd.h - the client side of libkvd: connect, open a stream, generate, cancel, ask.
 *
 * A connection and its streams belong to the thread that made them; two threads use two
 * connections.  The library starts no thread, installs no signal handler (it uses MSG_NOSIGNAL),
 * prints nothing.  Every call that can fail returns 0 or a positive KVD_S_* status (proto.h) or
 * -errno, and leaves one sentence in kvd_error(). */
#ifndef KVD_KVD_H
#define KVD_KVD_H

#include <stddef.h>
#include <stdint.h>
#include "kvd/admin.h"
#include "kvd/proto.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVD_API __attribute__((visibility("default")))

struct kvd_connection;
struct kvd_stream;

/* "0.1.0" */
KVD_API const char *kvd_version(void);
/* Sentence of a status ("the tenant's max is reached"), never NULL; and our commands' exit code for it. */
KVD_API const char *kvd_status_text(int status);
KVD_API int kvd_status_exit_code(int status);

/* Socket path by the rules of interface.md: given, else $KVD_SOCKET, else /run/kvd/kvd.sock if it
 * exists, else $XDG_RUNTIME_DIR/kvd/kvd.sock.  Writes at most max bytes; returns 0 or -ENAMETOOLONG. */
KVD_API int kvd_socket_path(const char *given, char *ret, size_t max);

/* Connect and introduce ourselves.
 * path    as kvd_socket_path() takes it; may be NULL
 * tenant  tenant to act for, NULL = who the kernel says
 * ret     on success the connection, owned by the caller; on failure too where memory allows, so that
 *         kvd_error() can be read; kvd_close() it in both cases.  *ret may be NULL on -ENOMEM. */
KVD_API int kvd_connect(const char *path, const char *program, const char *tenant, struct kvd_connection **ret);
/* The same, but while kvd cannot be reached or does not answer try again for wait_ms. */
KVD_API int kvd_connect_wait(const char *path, const char *program, const char *tenant, uint32_t wait_ms,
			     struct kvd_connection **ret);
KVD_API void kvd_close(struct kvd_connection *c);
/* The last failure's sentence, "" if none; valid until the next call on c. */
KVD_API const char *kvd_error(const struct kvd_connection *c);
/* What kvd said at connect; valid until kvd_close(). */
KVD_API const struct kvd_msg_welcome *kvd_welcome(const struct kvd_connection *c);

/* How to generate.  Zero-initialise, then KVD_REQUEST_INIT sets the neutral values. */
struct kvd_request {
	const char *text;          /* chat messages as a JSON array, or the prompt itself if raw */
	size_t text_bytes;
	int raw;
	uint32_t max_tokens;       /* 0 = until the context is full */
	float temperature;         /* 0 = greedy */
	uint32_t top_k;            /* 0 = off */
	float top_p, min_p;        /* 1, 0 = off */
	float repeat_penalty;      /* 1 = off */
	uint64_t seed;
	uint32_t deadline_ms;      /* 0 = none */
	uint32_t flags;            /* KVD_REQ_* */
	const char *const *stop;   /* n_stop stop strings, together < 256 bytes */
	uint32_t n_stop;
};
#define KVD_REQUEST_INIT { .top_p = 1.0f, .repeat_penalty = 1.0f }

/* Open a stream to an engine of a model and send the request.
 * model    NULL or "" = the only model served;  engine  NULL = any
 * wait_ms  wait this long for an engine of the model to attach
 * A kvd that died or is being started again is waited for, and asked once more, until the request's
 * deadline, else for wait_ms plus 5 s.
 * ret      owned by the caller, kvd_stream_close() frees it (and cancels what still runs). */
KVD_API int kvd_generate(struct kvd_connection *c, const char *model, const char *engine, uint32_t wait_ms,
			 const struct kvd_request *request, struct kvd_stream **ret);

/* What came.  Pointers are valid until the next call on the stream. */
struct kvd_chunk {
	enum { KVD_CHUNK_STARTED = 1, KVD_CHUNK_TOKENS, KVD_CHUNK_END } kind;
	uint32_t prompt_tokens, cached_tokens;  /* STARTED */
	const int32_t *ids;                     /* TOKENS: (n_ids) */
	uint32_t n_ids;
	const char *text;                       /* TOKENS: whole UTF-8 characters, not NUL-terminated */
	size_t text_bytes;
	const struct kvd_msg_end *end;          /* END: the last chunk */
	int resumed;                            /* END: engine deaths survived (see kvd_next) */
};

/* Wait for the next chunk.
 * timeout_ms  -1 = for ever, 0 = only what is there; -EAGAIN when nothing came in time
 * If kvd dies, the stream goes on: its engine needs no kvd for what it has, and where a kvd without memory
 * of the one before comes, the library names this process to it again and the engine computes what it lost.
 * If the engine dies, the library opens the request again on another engine of the same model with
 * the tokens so far; the caller sees the stream go on (at most one page is computed again).  Only
 * when there is no other engine within 10 s does it return KVD_S_ENGINE_LOST, -ENOTCONN when kvd
 * itself is gone as well and none has answered for 60 s, and KVD_S_DEADLINE when the request's deadline
 * passed before that. */
KVD_API int kvd_next(struct kvd_stream *s, int timeout_ms, struct kvd_chunk *ret);
/* Ask the engine to stop; chunks already under way and END still come. */
KVD_API int kvd_cancel(struct kvd_stream *s);
KVD_API void kvd_stream_close(struct kvd_stream *s);
/* Descriptor to poll for POLLIN before kvd_next(); it may change after each kvd_next(). */
KVD_API int kvd_stream_fd(const struct kvd_stream *s);
KVD_API const char *kvd_stream_engine(const struct kvd_stream *s);
KVD_API const char *kvd_stream_error(const struct kvd_stream *s);

/* Ask an administrator's question.  A kvd that is being started again is waited for, 5 s at most.
 * ret_rows  n rows of row_bytes each (struct kvd_row_*, admin.h), mapped read-only; a newer kvd may
 *           send longer rows: step by *ret_row_bytes.  Free with kvd_rows_free(). */
KVD_API int kvd_query(struct kvd_connection *c, enum kvd_query what, const char *argument,
		      const void **ret_rows, uint64_t *ret_n_rows, uint32_t *ret_row_bytes);
/* Do something to kvd (admin.def).
 * argument  as the verb's line says, or NULL;  number  eight of them, or NULL = all 0
 * fd        a descriptor that goes along (RECORD), else -1; stays the caller's
 * ret       what came of it; may be NULL */
KVD_API int kvd_steer(struct kvd_connection *c, enum kvd_steer what, const char *argument, const uint64_t number[8],
		      int fd, struct kvd_msg_steered *ret);
/* After kvd_steer(WATCH) or (TRIGGER): the next event.  timeout_ms as in kvd_next(); -EAGAIN when none came
 * in time, -ENOTCONN when kvd is gone. */
KVD_API int kvd_event(struct kvd_connection *c, int timeout_ms, struct kvd_msg_event *ret);
KVD_API void kvd_rows_free(const void *rows, uint64_t n_rows, uint32_t row_bytes);

#ifdef __cplusplus
}
#endif
#endif
