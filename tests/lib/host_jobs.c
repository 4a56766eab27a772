/* host_jobs.c - many requests at once, each with a connection of its own, one thread (host.h). */
#include "tests/lib/host.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void job_fail(struct host_job *job, int status, const char *sentence)
{
	job->status = status;
	snprintf(job->error, sizeof(job->error), "%s",
		 sentence && *sentence ? sentence : kvd_status_text(status));
	job->ended = true;
	job->ended_usec = host_now_usec();
}

static void job_start(struct host *h, struct host_job *job)
{
	job->started_usec = host_now_usec();
	int rc = kvd_connect(h->socket, "tests", job->tenant, &job->connection);
	if (rc != 0) {
		job_fail(job, rc, job->connection ? kvd_error(job->connection) : "");
		return;
	}
	job->request.text = job->text;
	job->request.text_bytes = strlen(job->text);
	rc = kvd_generate(job->connection, job->model, job->engine, 10000, &job->request, &job->stream);
	if (rc != 0) {
		job_fail(job, rc, kvd_error(job->connection));
		return;
	}
	snprintf(job->served_by, sizeof(job->served_by), "%s", kvd_stream_engine(job->stream));
}

static void job_tokens(struct host_job *job, const struct kvd_chunk *chunk)
{
	if (job->n_ids == 0)
		job->first_usec = host_now_usec();
	job->ids = realloc(job->ids, (job->n_ids + chunk->n_ids) * sizeof(*job->ids));
	memcpy(job->ids + job->n_ids, chunk->ids, chunk->n_ids * sizeof(*job->ids));
	job->n_ids += chunk->n_ids;
	job->answer = realloc(job->answer, job->answer_bytes + chunk->text_bytes + 1);
	memcpy(job->answer + job->answer_bytes, chunk->text, chunk->text_bytes);
	job->answer_bytes += chunk->text_bytes;
	job->answer[job->answer_bytes] = '\0';
	if (job->print) {
		fwrite(chunk->text, 1, chunk->text_bytes, stdout);
		fflush(stdout);
	}
}

/* Take all chunks that are there. */
static void job_serve(struct host_job *job, void (*on_chunk)(void *, struct host_job *), void *arg)
{
	struct kvd_chunk chunk;
	while (!job->ended) {
		int rc = kvd_next(job->stream, 0, &chunk);
		if (rc == -EAGAIN)
			return;
		if (rc != 0) {
			job_fail(job, rc, kvd_stream_error(job->stream));
		} else if (chunk.kind == KVD_CHUNK_STARTED) {
			job->prompt_tokens = chunk.prompt_tokens;
			job->cached_tokens = chunk.cached_tokens;
		} else if (chunk.kind == KVD_CHUNK_TOKENS) {
			job_tokens(job, &chunk);
		} else {
			job->end = *chunk.end;
			job->resumed = chunk.resumed;
			if (job->end.prompt_tokens) {
				job->prompt_tokens = job->end.prompt_tokens;
				job->cached_tokens = job->end.cached_tokens;
			}
			if (job->end.m.status != KVD_S_OK)
				job_fail(job, (int)job->end.m.status, job->end.text);
			job->ended = true;
			job->ended_usec = host_now_usec();
			snprintf(job->served_by, sizeof(job->served_by), "%s", kvd_stream_engine(job->stream));
		}
		if (on_chunk)
			on_chunk(arg, job);
	}
}

unsigned host_run(struct host *h, struct host_job *jobs, unsigned n,
		  void (*on_chunk)(void *arg, struct host_job *job), void *arg)
{
	for (unsigned i = 0; i < n; i++)
		job_start(h, &jobs[i]);
	struct pollfd *fds = calloc(n, sizeof(*fds));
	for (;;) {
		unsigned n_fds = 0;
		if (h->watch)
			h->watch(h->watch_arg);
		for (unsigned i = 0; i < n; i++) {
			struct host_job *job = &jobs[i];
			if (job->abandon && !job->ended) {
				kvd_stream_close(job->stream);
				job->stream = NULL;
				job->ended = true;
			}
			bool reads = !job->stop_reading_after || job->n_ids < job->stop_reading_after;
			if (!job->ended && reads)
				job_serve(job, on_chunk, arg);
			if (!job->ended && reads)
				fds[n_fds++] = (struct pollfd){.fd = kvd_stream_fd(job->stream),
							       .events = POLLIN};
		}
		if (n_fds == 0)
			break;
		/* a stream whose engine died is opened again inside kvd_next(): look at least every 100 ms */
		poll(fds, n_fds, h->watch ? 5 : 100);
	}
	free(fds);
	unsigned failed = 0;
	for (unsigned i = 0; i < n; i++) {
		failed += jobs[i].status != 0;
		kvd_stream_close(jobs[i].stream);
		kvd_close(jobs[i].connection);
		jobs[i].stream = NULL;
		jobs[i].connection = NULL;
	}
	return failed;
}

void host_jobs_free(struct host_job *jobs, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		free(jobs[i].answer);
		free(jobs[i].ids);
		jobs[i].answer = NULL;
		jobs[i].ids = NULL;
	}
}

bool host_jobs_equal(const struct host_job *a, const struct host_job *b)
{
	return a->n_ids == b->n_ids && memcmp(a->ids, b->ids, a->n_ids * sizeof(*a->ids)) == 0 &&
	       a->answer_bytes == b->answer_bytes &&
	       memcmp(a->answer ? a->answer : "", b->answer ? b->answer : "", a->answer_bytes) == 0 &&
	       a->end.logits_hash == b->end.logits_hash;
}
