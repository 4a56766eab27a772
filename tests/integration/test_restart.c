/* test_restart.c - kvd is killed without anybody who keeps its books, and started again: engines stay,
 * streams go on to the byte, clients notice a pause; who comes meanwhile waits within a deadline. */
#include "tests/lib/scenario.h"
#include "tests/lib/slow.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_JOBS 8
#define N_TOKENS 400u
#define POOL "64M"

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "4", NULL };

/* Kill kvd once so many chunks have come, and start it again. */
struct restart {
	struct host *h;
	unsigned chunks;
	unsigned kills;                /* wanted */
	unsigned killed;
	unsigned every;                /* chunks between two kills */
	bool idle_first;               /* let the engines meet the end before the new kvd is there */
	struct host_job *jobs;
	uint64_t last_usec[N_JOBS];    /* last chunk of each */
	uint64_t gap_usec;             /* longest time that a stream was silent */
	uint64_t away_usec;            /* longest time from a kill to a kvd that answers */
};

static int run_shell(struct host *h, const char *command)
{
	char line[2048];
	snprintf(line, sizeof(line), "export KVD_SOCKET=%s PATH=%s:$PATH; %s", h->socket, h->bin, command);
	int status = system(line);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void restart_kvd(struct host *h, bool idle_first)
{
	host_kill(&h->kvd, SIGKILL);
	if (idle_first)
		usleep(700000);
	host_kvd_start(h, POOL, NULL);
}

static void on_chunk(void *arg, struct host_job *job)
{
	struct restart *r = arg;
	uint64_t now = host_now_usec(), *last = &r->last_usec[job - r->jobs];
	if (*last && now - *last > r->gap_usec)
		r->gap_usec = now - *last;
	*last = now;
	if (r->killed == r->kills || ++r->chunks < (r->killed + 1) * r->every)
		return;
	r->killed++;
	restart_kvd(r->h, r->idle_first);
	if (host_now_usec() - now > r->away_usec)
		r->away_usec = host_now_usec() - now;
}

static void start(struct host *h)
{
	host_start(h, POOL, NULL);
	host_engine(h, "one", host_model_bundled(), engine_args);
	host_engine(h, "two", host_model_bundled(), engine_args);
}

/* More streams than slots, so that some wait for one, of two tenants on two engines. */
static void make_jobs(struct host_job *jobs, char **texts)
{
	for (unsigned i = 0; i < N_JOBS; i++)
		scenario_job(&jobs[i], i % 2 ? "red" : "green", i < N_JOBS * 5 / 8 ? "one" : "two", texts[i],
			     N_TOKENS);
}

static void streams_survive(unsigned kills, unsigned every, bool idle_first)
{
	struct host h;
	char *texts[N_JOBS];
	struct host_job alone[N_JOBS], jobs[N_JOBS];
	start(&h);
	for (unsigned i = 0; i < N_JOBS; i++)
		texts[i] = scenario_text(90 + i, 30 + 25 * i);
	make_jobs(alone, texts);
	ck_assert_uint_eq(host_run(&h, alone, N_JOBS, NULL, NULL), 0);
	make_jobs(jobs, texts);
	pid_t one = h.engines[0].pid, two = h.engines[1].pid;
	struct restart r = { .h = &h, .kills = kills, .every = every, .idle_first = idle_first,
			     .jobs = jobs };
	unsigned failed = host_run(&h, jobs, N_JOBS, on_chunk, &r);
	for (unsigned i = 0; i < N_JOBS && failed; i++)
		if (jobs[i].status)
			printf("stream %u: %s\n", i, jobs[i].error);
	ck_assert_uint_eq(failed, 0);
	ck_assert_uint_eq(r.killed, kills);
	printf("kvd killed %u times and away for at most %llu ms; a stream was silent for at most %llu ms\n",
	       kills, (unsigned long long)(r.away_usec / 1000), (unsigned long long)(r.gap_usec / 1000));
	for (unsigned i = 0; i < N_JOBS; i++) {
		ck_assert_msg(jobs[i].n_ids == N_TOKENS, "stream %u has %u tokens", i, jobs[i].n_ids);
		/* the same engine to the end: nobody was opened again, and the hash covers every position */
		ck_assert_msg(jobs[i].resumed == 0, "stream %u was opened %d times again", i, jobs[i].resumed);
		ck_assert_str_eq(jobs[i].served_by, jobs[i].engine);
		ck_assert_msg(host_jobs_equal(&jobs[i], &alone[i]), "stream %u changed", i);
	}
	ck_assert_int_eq(waitpid(one, NULL, WNOHANG), 0);
	ck_assert_int_eq(waitpid(two, NULL, WNOHANG), 0);
	host_engine_wait(&h, "one");
	host_engine_wait(&h, "two");
	host_settle(&h);
	/* The new kvd has charged the right tenants, by the clients' own word to the kernel. */
	struct kvd_row_tenant green, red;
	host_tenant(&h, "green", &green);
	host_tenant(&h, "red", &red);
	ck_assert_uint_gt(green.completion_tokens, 0);
	ck_assert_uint_gt(red.completion_tokens, 0);
	host_stop(&h);
	for (unsigned i = 0; i < N_JOBS; i++)
		free(texts[i]);
	host_jobs_free(alone, N_JOBS);
	host_jobs_free(jobs, N_JOBS);
}

START_TEST(streams_go_on_at_the_next_kvd)
{
	streams_survive(1, 40, true);
}
END_TEST

/* Killed again while prompts are computed for the second time, clients name themselves, streams wait. */
START_TEST(killed_again_and_again)
{
	streams_survive(6, 25, false);
}
END_TEST

/* An engine dies with kvd: its stream waits for the next kvd, there for the other engine, and goes on. */
static void kill_both(void *arg, struct host_job *job)
{
	struct restart *r = arg;
	(void)job;
	if (r->killed || ++r->chunks < 30)
		return;
	r->killed++;
	host_kill(&r->h->engines[0], SIGKILL);
	restart_kvd(r->h, true);
}

START_TEST(an_engine_dies_with_kvd)
{
	struct host h;
	char *text = scenario_text(7, 80);
	struct host_job jobs[2];
	start(&h);
	struct host_job alone = scenario_alone(&h, "green", "two", text, 300);
	scenario_job(&jobs[0], "green", "one", text, 300);
	scenario_job(&jobs[1], "red", "two", text, 300);
	struct restart r = { .h = &h };
	ck_assert_msg(host_run(&h, jobs, 2, kill_both, &r) == 0, "%s%s", jobs[0].error, jobs[1].error);
	ck_assert_uint_eq(r.killed, 1);
	ck_assert_int_eq(jobs[0].resumed, 1);
	ck_assert_int_eq(jobs[1].resumed, 0);
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_str_eq(jobs[i].served_by, "two");
		ck_assert_uint_eq(jobs[i].n_ids, alone.n_ids);
		ck_assert_mem_eq(jobs[i].ids, alone.ids, alone.n_ids * sizeof(*alone.ids));
		ck_assert_str_eq(jobs[i].answer, alone.answer);
	}
	host_settle(&h);
	host_stop(&h);
	host_jobs_free(jobs, 2);
	host_jobs_free(&alone, 1);
	free(text);
}
END_TEST

#define N_STREAMS 6
#define N_LONG 600u                /* tokens: more than a stream socket holds unread */

struct reader {
	struct kvd_stream *stream;
	int32_t ids[N_LONG];
	uint32_t n_ids;
	uint64_t hash;
	bool ended;
};

/* Take what is there; returns the number of chunks. */
static unsigned read_some(struct reader *r)
{
	struct kvd_chunk chunk;
	unsigned n = 0;
	while (!r->ended) {
		int rc = kvd_next(r->stream, 0, &chunk);
		if (rc == -EAGAIN)
			break;
		ck_assert_msg(rc == 0, "%s", kvd_stream_error(r->stream));
		n++;
		if (chunk.kind == KVD_CHUNK_TOKENS) {
			ck_assert_uint_le(r->n_ids + chunk.n_ids, N_LONG);
			memcpy(r->ids + r->n_ids, chunk.ids, chunk.n_ids * sizeof(*chunk.ids));
			r->n_ids += chunk.n_ids;
		} else if (chunk.kind == KVD_CHUNK_END) {
			ck_assert_msg(chunk.end->m.status == 0, "%s", chunk.end->text);
			ck_assert_int_eq(chunk.resumed, 0);
			r->hash = chunk.end->logits_hash;
			r->ended = true;
		}
	}
	return n;
}

/* All streams of a program share one connection, and one of them is not read while kvd is away: what the
 * engine wrote before and the ticket wait in its socket. */
START_TEST(one_connection_many_streams)
{
	struct host h;
	struct host_job alone[N_STREAMS], job;
	char *texts[N_STREAMS];
	static struct reader readers[N_STREAMS];
	struct kvd_connection *c;
	unsigned chunks = 0, n_ended = 0;
	uint64_t read_all_usec = 0;
	start(&h);
	for (unsigned i = 0; i < N_STREAMS; i++) {
		texts[i] = scenario_text(190 + i, 20 + 10 * i);
		alone[i] = scenario_alone(&h, NULL, "one", texts[i], N_LONG);
	}
	ck_assert_int_eq(kvd_connect(h.socket, "tests", NULL, &c), 0);
	for (unsigned i = 0; i < N_STREAMS; i++) {
		scenario_job(&job, NULL, NULL, texts[i], N_LONG);
		job.request.text = texts[i];
		job.request.text_bytes = strlen(texts[i]);
		ck_assert_int_eq(kvd_generate(c, NULL, i % 2 ? "two" : "one", 0, &job.request,
					      &readers[i].stream), 0);
	}
	while (n_ended < N_STREAMS) {
		struct pollfd fds[N_STREAMS];
		unsigned n_fds = 0;
		n_ended = 0;
		for (unsigned i = 0; i < N_STREAMS; i++) {
			if (i > 0 || host_now_usec() > read_all_usec)
				chunks += read_some(&readers[i]);
			n_ended += readers[i].ended;
			if (!readers[i].ended)
				fds[n_fds++] = (struct pollfd){ .fd = kvd_stream_fd(readers[i].stream),
								.events = POLLIN };
			if (i == 0 && chunks > 10 && read_all_usec == 0)
				read_all_usec = UINT64_MAX;    /* from now on stream 0 lies unread */
		}
		if (chunks > 2200 && read_all_usec == UINT64_MAX) {
			restart_kvd(&h, false);
			read_all_usec = host_now_usec() + 1000000;
		}
		poll(fds, n_fds, 20);
	}
	for (unsigned i = 0; i < N_STREAMS; i++) {
		ck_assert_uint_eq(readers[i].n_ids, N_LONG);
		ck_assert_mem_eq(readers[i].ids, alone[i].ids, sizeof(readers[i].ids));
		ck_assert_uint_eq(readers[i].hash, alone[i].end.logits_hash);
		kvd_stream_close(readers[i].stream);
		free(texts[i]);
	}
	kvd_close(c);
	host_jobs_free(alone, N_STREAMS);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

/* Nobody speaks for a stream whose program has closed its connection: the engine does not wait for ever. */
START_TEST(stream_without_connection_ends)
{
	struct host h;
	struct host_job job;
	struct kvd_connection *c;
	struct kvd_stream *s;
	struct kvd_chunk chunk;
	int rc;
	start(&h);
	scenario_job(&job, NULL, NULL, NULL, 3000);
	job.request.text = "the river house";
	job.request.text_bytes = strlen(job.request.text);
	ck_assert_int_eq(kvd_connect(h.socket, "tests", NULL, &c), 0);
	ck_assert_int_eq(kvd_generate(c, NULL, "one", 0, &job.request, &s), 0);
	kvd_close(c);
	for (unsigned i = 0; i < 20; i++)
		ck_assert_int_eq(kvd_next(s, 10000, &chunk), 0);
	restart_kvd(&h, false);
	uint64_t began = host_now_usec();
	while ((rc = kvd_next(s, 60000, &chunk)) == 0)
		ck_assert_int_ne(chunk.kind, KVD_CHUNK_END);
	ck_assert_int_eq(rc, KVD_S_ENGINE_LOST);
	ck_assert_ptr_nonnull(strstr(kvd_stream_error(s), "its connection to kvd was closed"));
	ck_assert_uint_gt(host_now_usec() - began, 3000000);
	ck_assert_uint_lt(host_now_usec() - began, 20000000u * test_slow());
	kvd_stream_close(s);
	host_engine_wait(&h, "one");
	struct host_job other = scenario_alone(&h, "green", "one", "a small stone", 20);
	host_jobs_free(&other, 1);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

/* A kvd that does not want the engine is told apart from none: the log says why, and the engine is there
 * for the next. */
START_TEST(a_kvd_that_refuses)
{
	struct host h;
	start(&h);
	host_kill(&h.kvd, SIGKILL);
	/* An extent of 256 KiB holds fewer than 8 pages of 40 KiB. */
	host_kvd_start(&h, "8M", (const char *const[]){ "--extent", "256K", NULL });
	ck_assert_int_eq(run_shell(&h, "for i in $(seq 100); do grep -q 'refuses this engine.*raise --extent' "
				       "${KVD_SOCKET%/*}/one.log && break; sleep 0.1; done; "
				       "test $(grep -c 'refuses this engine' ${KVD_SOCKET%/*}/one.log) = 1"), 0);
	host_kill(&h.kvd, SIGKILL);
	host_kvd_start(&h, POOL, NULL);
	host_engine_wait(&h, "one");
	host_engine_wait(&h, "two");
	host_settle(&h);
	host_stop(&h);
}
END_TEST

/* A stream's socket is closed a moment after its client has gone. */
static unsigned settled_fds(pid_t pid)
{
	unsigned least = host_proc_fds(pid);
	for (unsigned i = 0; i < 50; i++, usleep(4000)) {
		unsigned n = host_proc_fds(pid);
		least = n < least ? n : least;
	}
	return least;
}

/* Memory and descriptors of an engine do not grow with the kvds that it has outlived. */
START_TEST(nothing_grows)
{
	struct host h;
	char *text = scenario_text(5, 60);
	start(&h);
	struct host_job first = scenario_alone(&h, "green", "one", text, 40);
	unsigned fds = 0;
	uint64_t anon = 0;
	for (unsigned i = 0; i < 12; i++) {
		restart_kvd(&h, false);
		host_engine_wait(&h, "one");
		host_engine_wait(&h, "two");
		struct host_job again = scenario_alone(&h, "green", "one", text, 40);
		ck_assert(host_jobs_equal(&first, &again));
		host_jobs_free(&again, 1);
		host_settle(&h);
		if (i == 3) {
			fds = settled_fds(h.engines[0].pid);
			anon = host_proc_kib(h.engines[0].pid, "RssAnon");
		}
	}
	ck_assert_uint_eq(settled_fds(h.engines[0].pid), fds);
	uint64_t anon_after = host_proc_kib(h.engines[0].pid, "RssAnon");
	printf("RssAnon of an engine: %llu KiB after 4 kvds, %llu KiB after 12\n", (unsigned long long)anon,
	       (unsigned long long)anon_after);
	ck_assert_uint_le(anon_after, anon + 256);
	host_stop(&h);
	host_jobs_free(&first, 1);
	free(text);
}
END_TEST

START_TEST(clients_wait_for_kvd)
{
	struct host h;
	char command[400];
	start(&h);
	host_kill(&h.kvd, SIGKILL);
	usleep(200000);                /* until its ring lets the listening socket go */
	/* Nobody is there: without a deadline at once, with one after it; both name the socket. */
	ck_assert_int_eq(run_shell(&h, "kvrun --raw --max-tokens 3 hello 2>$KVD_SOCKET.err"), 3);
	uint64_t began = host_now_usec();
	ck_assert_int_eq(run_shell(&h, "kvrun --raw --max-tokens 3 --deadline 400 hello 2>>$KVD_SOCKET.err"), 3);
	ck_assert_uint_ge(host_now_usec() - began, 400000);
	ck_assert_uint_lt(host_now_usec() - began, 3000000u * test_slow());
	ck_assert_int_eq(run_shell(&h, "test $(grep -c \"cannot reach kvd at $KVD_SOCKET.*start kvd\" "
				       "$KVD_SOCKET.err) = 2"), 0);
	ck_assert_int_eq(run_shell(&h, "kvctl status 2>/dev/null"), 3);
	/* kvd comes while it waits, and the engines to it a moment later. */
	snprintf(command, sizeof(command),
		 "(kvrun --raw --max-tokens 3 --engine one --deadline %u hello >$KVD_SOCKET.out; "
		 "echo $? >$KVD_SOCKET.code) & sleep 0.3", 30000 * test_slow());
	ck_assert_int_eq(run_shell(&h, command), 0);
	host_kvd_start(&h, POOL, NULL);
	ck_assert_int_eq(run_shell(&h, "for i in $(seq 300); do test -s $KVD_SOCKET.code && break; sleep 0.1; "
				       "done; test \"$(cat $KVD_SOCKET.code)\" = 0 && test -s $KVD_SOCKET.out"), 0);
	/* kvd is there and nobody serves the model: that is the deadline's end, not kvd's. */
	ck_assert_int_eq(run_shell(&h, "kvrun --raw --engine nobody --wait 60 --deadline 300 hello 2>/dev/null"), 5);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

/* An engine that nobody takes ends on SIGTERM as fast as any other. */
START_TEST(engine_without_kvd_ends_on_sigterm)
{
	struct host h;
	start(&h);
	host_kill(&h.kvd, SIGKILL);
	usleep(200000);
	host_kill(&h.engines[0], SIGTERM);     /* fails the test unless it ends with status 0 */
	host_kvd_start(&h, POOL, NULL);
	host_engine_wait(&h, "two");
	host_settle(&h);
	host_stop(&h);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(streams_go_on_at_the_next_kvd),
		SCENARIO(killed_again_and_again),
		SCENARIO(an_engine_dies_with_kvd),
		SCENARIO(one_connection_many_streams),
		SCENARIO(stream_without_connection_ends),
		SCENARIO(a_kvd_that_refuses),
		SCENARIO(nothing_grows),
		SCENARIO(clients_wait_for_kvd),
		SCENARIO(engine_without_kvd_ends_on_sigterm),
	};
	return scenario_run("restart", tests, 9, 300);
}
