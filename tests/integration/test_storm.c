/* test_storm.c - a pool far too small, and people who come, press Ctrl-C and go: everybody who was admitted
 * ends with the bytes of a quiet day, and nothing stays behind. */
#include "tests/lib/scenario.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_JOBS 24
#define N_TENANTS 4
#define N_TEXTS 6
#define N_STREAMS 32
#define STORM_USEC 6000000u

static const char *const tenants[N_TENANTS] = { "red", "green", "capped", "single" };
/* red and green share what they compute, capped may hold 100 pages of the bundled model (40 KiB) */
static const char config[] = "[domain team]\ntenants = red, green\nsharing = reuse\n"
	"[tenant capped]\nmax = 4000K\n";
static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "6", NULL };

static uint64_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return *state >> 33;
}

static void start(struct host *h, const char *pool)
{
	char path[] = "/tmp/kvd-storm-XXXXXX";
	int fd = mkstemp(path);
	const char *const more[] = { "--config", path, "--extent", "1M", NULL };

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, config, strlen(config)), (ssize_t)strlen(config));
	close(fd);
	host_start(h, pool, more);
	unlink(path);
	host_engine(h, "a", host_model_bundled(), engine_args);
	host_engine(h, "b", host_model_bundled(), engine_args);
	host_populated(h);
}

/* ---- a pool for three, 24 requests ---- */

static void crowd_job(struct host_job *job, unsigned i, const char *text)
{
	scenario_job(job, tenants[i % N_TENANTS], i / N_TENANTS % 2 ? "a" : "b", text, 120);
	job->request.temperature = i % 3 ? 0.9f : 0.0f;
	job->request.seed = i % 5 ? i : UINT64_MAX;
}

struct oldest {
	struct host *h;
	struct host_job *job;
	unsigned n_looks, preempted;
	uint64_t looked_usec;
};

/* The first of all runs from its first token to its last without losing its pages. */
static void look_at_oldest(void *arg, struct host_job *job)
{
	struct oldest *o = arg;
	struct kvd_connection *c = NULL;
	const void *rows;
	uint64_t n;
	uint32_t bytes;

	(void)job;
	if (o->job->ended || !o->job->n_ids || host_now_usec() < o->looked_usec + 20000)
		return;
	o->looked_usec = host_now_usec();
	ck_assert_int_eq(kvd_connect(o->h->socket, "tests", NULL, &c), 0);
	ck_assert_int_eq(kvd_query(c, KVD_Q_SEQUENCES, "", &rows, &n, &bytes), 0);
	for (uint64_t i = 0; i < n; i++) {
		const struct kvd_row_sequence *row = (const void *)((const char *)rows + i * bytes);

		if (strcmp(row->tenant, "oldest"))
			continue;
		o->n_looks++;
		o->preempted += row->preempted;
	}
	kvd_rows_free(rows, n, bytes);
	kvd_close(c);
}

/* Alone, on one engine, with temperature and seeds; then all at once on two engines in a pool for three. */
START_TEST(a_crowd_in_a_small_pool)
{
	struct host h;
	struct host_job alone[N_JOBS], jobs[N_JOBS + 1], first;
	char *texts[N_JOBS], *prefix = scenario_text(7, 150);
	struct kvd_row_status status;

	start(&h, "64M");
	for (unsigned i = 0; i < N_JOBS; i++) {
		char *own = scenario_text(300 + i, 60 + 7 * (i % 8));

		texts[i] = i % 4 < 2 ? scenario_join(prefix, own) : strdup(own);
		free(own);
		crowd_job(&alone[i], i, texts[i]);
		alone[i].tenant = "alone";
		alone[i].engine = "a";
		ck_assert_msg(host_run(&h, &alone[i], 1, NULL, NULL) == 0, "alone: %s", alone[i].error);
	}
	first = scenario_alone(&h, "alone", "a", "Once", 500);
	host_stop(&h);

	start(&h, "7M");           /* 175 frames in extents of two engines; one job takes up to 32 */
	scenario_job(&jobs[0], "oldest", "a", "Once", 500);
	for (unsigned i = 0; i < N_JOBS; i++)
		crowd_job(&jobs[i + 1], i, texts[i]);
	struct oldest oldest = { .h = &h, .job = &jobs[0] };
	ck_assert_msg(host_run(&h, jobs, N_JOBS + 1, look_at_oldest, &oldest) == 0, "failed: %s",
		      jobs[0].error);
	ck_assert_msg(host_jobs_equal(&jobs[0], &first), "the oldest differs from alone");
	ck_assert_uint_gt(oldest.n_looks, 3);
	ck_assert_uint_eq(oldest.preempted, 0);
	for (unsigned i = 0; i < N_JOBS; i++)
		ck_assert_msg(host_jobs_equal(&jobs[i + 1], &alone[i]),
			      "request %u of %s differs from alone", i, jobs[i + 1].tenant);
	host_status(&h, &status);
	printf("a crowd in 7 MiB: %u preemptions, %u pages evicted\n", (unsigned)status.preemptions,
	       (unsigned)status.evicted_pages);
	ck_assert_msg(status.preemptions > 0, "the pool was never short, so nothing was tested");
	host_settle(&h);
	host_jobs_free(jobs, N_JOBS + 1);
	host_jobs_free(alone, N_JOBS);
	host_jobs_free(&first, 1);
	for (unsigned i = 0; i < N_JOBS; i++)
		free(texts[i]);
	free(prefix);
	host_stop(&h);
}
END_TEST

/* ---- people who come and go ---- */

struct guest {
	struct kvd_connection *connection;
	struct kvd_stream *stream;
	uint64_t leaves_usec;
	bool cancels;                  /* first; else the stream is dropped */
};
struct storm {
	struct host *h;
	struct guest guests[N_STREAMS];
	char *texts[N_TEXTS];
	uint64_t seed;
	unsigned opened, dropped, cancelled, ended, refused;
};

static void guest_comes(struct storm *s, struct guest *guest)
{
	struct kvd_request request = KVD_REQUEST_INIT;
	const char *tenant = tenants[next_random(&s->seed) % N_TENANTS];
	uint64_t dice = next_random(&s->seed) % 16;
	int rc;

	request.text = s->texts[next_random(&s->seed) % N_TEXTS];
	request.text_bytes = strlen(request.text);
	request.raw = 1;
	request.max_tokens = 1 + (uint32_t)(next_random(&s->seed) % 60);
	request.flags = KVD_REQ_IGNORE_END | (dice == 0 ? KVD_REQ_PRIVATE : 0);
	request.deadline_ms = dice == 1 ? 1 + (uint32_t)(next_random(&s->seed) % 40) : 0;
	ck_assert_int_eq(kvd_connect(s->h->socket, "tests", tenant, &guest->connection), 0);
	rc = kvd_generate(guest->connection, NULL, NULL, 0, &request, &guest->stream);
	ck_assert_msg(rc == 0, "no stream: %s", kvd_error(guest->connection));
	/* a third leaves within 2 ms, before it can be admitted; a few stay to the end */
	guest->leaves_usec = host_now_usec() + (dice < 5    ? next_random(&s->seed) % 2000
						: dice < 13 ? next_random(&s->seed) % 400000
							    : 60000000);
	guest->cancels = next_random(&s->seed) % 4 == 0;
	s->opened++;
}

static void guest_goes(struct guest *guest)
{
	kvd_stream_close(guest->stream);
	kvd_close(guest->connection);
	*guest = (struct guest){ 0 };
}

static void guest_serve(struct storm *s, struct guest *guest)
{
	struct kvd_chunk chunk;
	int rc;

	while ((rc = kvd_next(guest->stream, 0, &chunk)) == 0 && chunk.kind != KVD_CHUNK_END)
		;
	if (rc == -EAGAIN && host_now_usec() < guest->leaves_usec)
		return;
	if (rc == -EAGAIN && guest->cancels) {
		guest->cancels = false;
		guest->leaves_usec = host_now_usec() + 60000000;
		s->cancelled++;
		(void)kvd_cancel(guest->stream);  /* its END comes, or it stays until it has one */
		return;
	}
	if (rc == -EAGAIN) {
		s->dropped++;
	} else {
		ck_assert_msg(rc == 0, "a stream broke: %s", kvd_stream_error(guest->stream));
		s->ended++;
		if (chunk.end->m.status != KVD_S_OK && chunk.end->m.status != KVD_S_DEADLINE &&
		    chunk.end->m.status != KVD_S_CANCELLED) {
			/* only what can never fit is refused, with the numbers */
			ck_assert_msg(chunk.end->m.status == KVD_S_TENANT_MAX ||
				      chunk.end->m.status == KVD_S_TOO_LARGE, "ended: %s", chunk.end->text);
			ck_assert_msg(strpbrk(chunk.end->text, "123456789") != NULL, "no numbers: %s",
				      chunk.end->text);
			s->refused++;
		}
	}
	guest_goes(guest);
}

/* Guests for so long, then those who stay until they are done.  Nobody waits for ever: 20 s more. */
static void storm_run(struct storm *s, uint64_t usec)
{
	uint64_t until = host_now_usec() + usec, present = 1;

	while (host_now_usec() < until || present) {
		present = 0;
		for (unsigned i = 0; i < N_STREAMS; i++) {
			struct guest *guest = &s->guests[i];

			if (guest->stream)
				guest_serve(s, guest);
			else if (host_now_usec() < until)
				guest_comes(s, guest);
			present += guest->stream != NULL;
		}
		ck_assert_msg(host_now_usec() < until + 20000000, "%u streams starve", (unsigned)present);
		poll(NULL, 0, 1);
	}
}

struct held { unsigned kvd_fds, a_fds, b_fds; uint64_t kvd_kib, a_kib, b_kib; };

static struct held held_by(struct host *h)
{
	host_settle(h);
	poll(NULL, 0, 300);        /* kvd has seen the last guests hang up */
	return (struct held){
		host_proc_fds(h->kvd.pid), host_proc_fds(h->engines[0].pid), host_proc_fds(h->engines[1].pid),
		host_proc_kib(h->kvd.pid, "RssAnon"), host_proc_kib(h->engines[0].pid, "RssAnon"),
		host_proc_kib(h->engines[1].pid, "RssAnon"),
	};
}

START_TEST(guests_who_come_and_go)
{
	struct host h;
	struct storm s = { .h = &h, .seed = 20 };
	struct kvd_row_status status;
	char *prefix = scenario_text(9, 120);

	for (unsigned i = 0; i < N_TEXTS; i++) {
		/* the last is too long for `capped`, and only for it */
		char *own = scenario_text(40 + i, i == N_TEXTS - 1 ? 1300 : 30 + 40 * i);

		s.texts[i] = i % 2 ? scenario_join(prefix, own) : strdup(own);
		free(own);
	}
	start(&h, "12M");
	storm_run(&s, STORM_USEC / 2);
	struct held before = held_by(&h);
	storm_run(&s, STORM_USEC);
	struct held after = held_by(&h);
	printf("guests: %u came, %u dropped, %u cancelled, %u ended, %u refused; RssAnon kvd %+d "
	       "KiB, engines %+d and "
	       "%+d KiB\n",
	       s.opened, s.dropped, s.cancelled, s.ended, s.refused,
	       (int)(after.kvd_kib - before.kvd_kib), (int)(after.a_kib - before.a_kib),
	       (int)(after.b_kib - before.b_kib));
	host_status(&h, &status);
	printf("        %u waited for another's prefill, %u preemptions, %u pages evicted, %u merged\n",
	       (unsigned)status.single_flight_waits, (unsigned)status.preemptions,
	       (unsigned)status.evicted_pages, (unsigned)status.merges);
	ck_assert_uint_gt(status.single_flight_waits, 0);
	ck_assert_uint_gt(status.evicted_pages, 0);
	ck_assert_uint_gt(s.dropped, 100);
	ck_assert_uint_gt(s.refused, 0);
	ck_assert_uint_eq(after.kvd_fds, before.kvd_fds);
	ck_assert_uint_eq(after.a_fds, before.a_fds);
	ck_assert_uint_eq(after.b_fds, before.b_fds);
	ck_assert_uint_le(after.kvd_kib, before.kvd_kib + 128);
	ck_assert_uint_le(after.a_kib, before.a_kib + 512);
	ck_assert_uint_le(after.b_kib, before.b_kib + 512);
	for (unsigned i = 0; i < N_TEXTS; i++)
		free(s.texts[i]);
	free(prefix);
	host_stop(&h);
}
END_TEST

/* ---- deaths that somebody must be told of ---- */

struct restart { struct host *h; unsigned at_tokens; bool done; };

static void restart_engine(void *arg, struct host_job *job)
{
	struct restart *r = arg;

	if (r->done || job->n_ids < r->at_tokens)
		return;
	r->done = true;
	host_kill(&r->h->engines[0], SIGKILL);
	host_engine(r->h, "a", host_model_bundled(), engine_args);
}

/* An engine is started again the moment its process is gone: its name is free and its streams go on in it. */
START_TEST(an_engine_restarts_under_its_name)
{
	struct host h;
	struct host_job jobs[4], alone;

	host_start(&h, "64M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	alone = scenario_alone(&h, "red", "a", "The river", 400);
	for (unsigned round = 0; round < 5; round++) {
		struct restart restart = { .h = &h, .at_tokens = 1 + 40 * round };
		for (unsigned i = 0; i < 4; i++)
			scenario_job(&jobs[i], "red", "a", "The river", 400);
		ck_assert_msg(host_run(&h, jobs, 4, restart_engine, &restart) == 0, "round %u: %s", round,
			      jobs[0].error);
		ck_assert(restart.done);
		for (unsigned i = 0; i < 4; i++) {
			ck_assert_uint_eq(jobs[i].n_ids, alone.n_ids);
			ck_assert_mem_eq(jobs[i].ids, alone.ids, alone.n_ids * sizeof(*alone.ids));
		}
		ck_assert_int_ge(jobs[0].resumed, 1);
		host_jobs_free(jobs, 4);
		host_settle(&h);
	}
	host_jobs_free(&alone, 1);
	host_stop(&h);
}
END_TEST

/* kvd is killed under its streams and nobody starts another: the engine stays and says so, kvrun waits until its
 * deadline and says which kvd it waited for, with the exit code of a deadline. */
START_TEST(the_death_of_kvd_is_named)
{
	struct host h;
	struct host_child client = { 0 };
	char path[600];
	int status;

	host_start(&h, "16M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	snprintf(path, sizeof(path), "%s/kvrun", h.bin);
	char *argv[] = {path,           "--socket", h.socket, "--raw",   "--ignore-end",
			"--max-tokens", "3000",     "--deadline", "4000", "hello", NULL};
	host_child_spawn(&h, &client, "kvrun", argv);
	for (unsigned i = 0; i < 500 && host_sequences(&h) == 0; i++)
		poll(NULL, 0, 10);
	host_kill(&h.kvd, SIGKILL);
	uint64_t killed_usec = host_now_usec();
	ck_assert_int_eq(waitpid(client.pid, &status, 0), client.pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 5, "kvrun: wait status %#x", status);
	ck_assert_uint_lt(host_now_usec() - killed_usec, 13000000);
	char *log = host_read_file(client.log, NULL);
	ck_assert_msg(strstr(log, "kvrun: ") != NULL, "kvrun said: %s", log);
	free(log);
	ck_assert_int_eq(waitpid(h.engines[0].pid, &status, WNOHANG), 0);
	log = host_read_file(h.engines[0].log, NULL);
	ck_assert_msg(strstr(log, "kvd lost") != NULL, "the engine said: %s", log);
	free(log);
	unlink(h.socket);              /* the dead one's; the next kvd would take it for stale */
	host_stop(&h);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(a_crowd_in_a_small_pool),
		SCENARIO(guests_who_come_and_go),
		SCENARIO(an_engine_restarts_under_its_name),
		SCENARIO(the_death_of_kvd_is_named),
	};
	return scenario_run("storm", tests, 4, 180);
}
