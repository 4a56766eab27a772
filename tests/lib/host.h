/* host.h - a whole kvd host for the integration tests, the demo and the benches: one daemon, its
 * engines, and many requests at once, over the real processes and sockets.
 *
 * Everything lives in one temporary directory and in child processes that die with this one
 * (PR_SET_PDEATHSIG); host_stop() ends them by pid and removes the directory.  Functions that
 * cannot do their work print why, show the end of the child's log and call host_fail(), which
 * fails the running Check test (or ends the demo). */
#ifndef TESTS_HOST_H
#define TESTS_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "kvd/kvd.h"

#define HOST_ENGINES_MAX 8

struct host_child {
	pid_t pid;                     /* 0 = none */
	char name[32];
	char log[128];                 /* path of its stderr */
};
struct host {
	char dir[96], socket[128], bin[512];
	struct host_child kvd;
	struct host_child engines[HOST_ENGINES_MAX];
	unsigned n_engines;
	void (*watch)(void *arg);      /* NULL, or called by host_run() at least every 100 ms */
	void *watch_arg;
};

/* Called with a sentence when something that must work did not; set by the program, default: print
 * and exit(1). */
extern void (*host_fail)(const char *sentence);

/* Start kvd with a pool ("256M") and further arguments (NULL-terminated list, may be NULL), wait until it
 * answers. */
void host_start(struct host *h, const char *pool, const char *const *more);
/* Start the host's kvd once more, after it was killed. */
void host_kvd_start(struct host *h, const char *pool, const char *const *more);
/* Start an engine on a model file and wait until kvd lists it (up to 60 s). */
struct host_child *host_engine(struct host *h, const char *name, const char *model, const char *const *more);
void host_engine_wait(struct host *h, const char *name);
/* End everything; kvd must exit with status 0 and leave no socket.  Safe to call twice. */
void host_stop(struct host *h);
/* Async-signal-safe: kill everything by pid and remove the directory, for a Ctrl-C handler. */
void host_abort(struct host *h);
void host_kill(struct host_child *child, int sig);     /* send and, for SIGKILL and SIGTERM, reap */
void host_child_spawn(struct host *h, struct host_child *child, const char *name, char *const *argv);

/* One request and what came of it. */
struct host_job {
	const char *tenant, *model, *engine, *text;    /* NULL where kvd_generate() takes NULL */
	struct kvd_request request;                    /* text fields are filled in from text */
	bool print;                                    /* show the text on stdout as it comes */
	uint32_t stop_reading_after;                   /* 0, or: read no more after so many tokens */
	bool abandon; /* set from on_chunk: close the stream, no more results */
	/* results */
	int status;                                    /* 0 or why it failed */
	char error[256];
	char *answer;                                  /* malloc'ed text, NUL-terminated */
	size_t answer_bytes;
	int32_t *ids;
	uint32_t n_ids, prompt_tokens, cached_tokens;
	char served_by[KVD_NAME_MAX];
	struct kvd_msg_end end;
	int resumed;
	uint64_t started_usec, first_usec, ended_usec; /* monotonic, as the client saw it */
	bool ended;
	/* private */
	struct kvd_connection *connection;
	struct kvd_stream *stream;
};

/* Run jobs until all have ended; many at once, one thread.  on_chunk, if not NULL, is called after each
 * chunk (the demo kills an engine from there).  Returns the number that failed. */
unsigned host_run(struct host *h, struct host_job *jobs, unsigned n,
		  void (*on_chunk)(void *arg, struct host_job *job), void *arg);
void host_jobs_free(struct host_job *jobs, unsigned n);
bool host_jobs_equal(const struct host_job *a, const struct host_job *b);  /* ids, text, logits hash */

/* Questions as the administrator. */
void host_status(struct host *h, struct kvd_row_status *ret);
uint32_t host_sequences(struct host *h);
uint64_t host_page_bytes(struct host *h);      /* of the first engine's model */
void host_tenant(struct host *h, const char *name, struct kvd_row_tenant *ret); /* zeroed if unknown */
void host_extents(struct host *h, struct kvd_row_extent **ret_rows, unsigned *ret_n);
/* Wait until every extent has its memory (and kvd its two descriptors of each). */
void host_populated(struct host *h);
/* The accounting check: fsck clean, states sum to the pool. */
void host_fsck(struct host *h);
/* Wait until no sequence is left and no frame is open, retiring or quarantined; then fsck. */
void host_settle(struct host *h);
uint64_t host_now_usec(void);
/* "RssAnon" and the like of /proc/PID/status in KiB; number of open fds of a process. */
uint64_t host_proc_kib(pid_t pid, const char *field);
unsigned host_proc_fds(pid_t pid);

/* Model files: the bundled one is always there; the others may be NULL ("skipped"). */
const char *host_model_bundled(void);
const char *host_model_smollm2(void);
const char *host_model_stories(void);
char *host_read_file(const char *path, size_t *ret_bytes); /* malloc'ed, NUL-terminated; fails if absent */
/* Relative to the repository's root; the string is valid for four more calls. */
const char *host_path(const char *relative);

#endif
