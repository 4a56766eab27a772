/* demo.c - `make demo`: the main job on a real model, through the real processes, with a report.
 *
 *   1  the bundled model answers at once, while SmolLM2 is fetched
 *   2  24 requests over one long system prompt, three tenants, two engines, one thread each: first in
 *      one `reuse` domain (computed once), then under `merge` (stored once, computed once per tenant)
 *   3  one engine is SIGKILLed while it serves: its pages come back, its streams go on in the other
 *   4  fsck, and `demo: ok` if everything above held
 *
 * `demo --serve` starts the host of part 2 and leaves it running until Ctrl-C.
 * Nothing is left behind: processes die with this one, files lie in one temporary directory. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/lib/host.h"

#define N_REQUESTS 24
#define N_TENANTS 3
#define ANSWER_TOKENS 40
#define MIB (1024.0 * 1024.0)

static const char *const tenants[N_TENANTS] = { "red", "green", "blue" };
static struct host host;
static struct fetch {
	pid_t pid;
	char log[64];
} fetch;
static char config_path[64];           /* "" = none; of the configuration that kvd has yet to read */

/* Leave nothing behind; async-signal-safe. */
static void clean_up(void)
{
	host_abort(&host);
	if (fetch.pid > 0)
		kill(-fetch.pid, SIGTERM);
	if (fetch.log[0])
		unlink(fetch.log);
	if (config_path[0])
		unlink(config_path);
}

static void on_signal(int sig)
{
	clean_up();
	_exit(128 + sig);
}

static void on_fail(const char *sentence)
{
	fflush(stdout);
	fprintf(stderr, "demo: %s\n", sentence);
	clean_up();
	exit(1);
}

__attribute__((format(printf, 2, 3)))
static void require(bool held, const char *format, ...)
{
	if (held)
		return;
	char sentence[300];
	va_list args;
	va_start(args, format);
	vsnprintf(sentence, sizeof(sentence), format, args);
	va_end(args);
	on_fail(sentence);
}

/* A new file of a name that nobody can have guessed and made a link of; open for writing. */
static int temporary(char *path, size_t max, const char *pattern)
{
	snprintf(path, max, "%s", pattern);
	int fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0) {
		path[0] = '\0';
		require(false, "cannot make %s: %s", pattern, strerror(errno));
	}
	return fd;
}

/* ---- fetching SmolLM2 beside the rest ---- */
static void fetch_start(void)
{
	int log = temporary(fetch.log, sizeof(fetch.log), "/tmp/kvd-demo-fetch-XXXXXX");
	fflush(NULL);
	fetch.pid = fork();
	if (fetch.pid) {
		close(log);
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	setpgid(0, 0);
	dup2(log, 1);
	dup2(log, 2);
	setenv("KVD_PROGRESS", "1", 1);
	execl("/bin/sh", "sh", host_path("tests/fetch_model.sh"), (char *)NULL);
	_exit(127);
}

/* The fetch draws its bar into its log, each time after a carriage return: show the latest. */
static void fetch_show_bar(void)
{
	char tail[128];
	int fd = open(fetch.log, O_RDONLY);
	off_t end = lseek(fd, 0, SEEK_END);
	ssize_t n = pread(fd, tail, sizeof(tail) - 1, end > 127 ? end - 127 : 0);
	close(fd);
	tail[n > 0 ? n : 0] = '\0';
	char *bar = strrchr(tail, '\r');
	if (bar && !strchr(bar, '\n')) {
		printf("%s", bar);
		fflush(stdout);
	}
}

/* Wait for the fetch; its file's path, or NULL after one line that says why there is none. */
static const char *fetch_finish(void)
{
	static char path[4096];
	int status;
	while (waitpid(fetch.pid, &status, WNOHANG) == 0) {
		if (isatty(1))
			fetch_show_bar();
		usleep(100000);
	}
	fetch.pid = 0;
	if (isatty(1))
		printf("\r\033[K");
	size_t n;
	char *log = host_read_file(fetch.log, &n);
	unlink(fetch.log);
	fetch.log[0] = '\0';
	while (n > 0 && log[n - 1] == '\n')
		log[--n] = '\0';
	char *last = strrchr(log, '\n');
	snprintf(path, sizeof(path), "%s", last ? last + 1 : log);
	free(log);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && access(path, R_OK) == 0)
		return path;
	printf("%s; going on with the bundled model\n", path[0] ? path : "model: could not be fetched");
	return NULL;
}

/* ---- requests ---- */
static char *chat(const char *system, const char *question)
{
	json_t *messages = json_array();
	if (system)
		json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "system", "content", system));
	json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "user", "content", question));
	char *text = json_dumps(messages, JSON_COMPACT);
	json_decref(messages);
	return text;
}

static void ask(struct host_job *job, const char *tenant, const char *engine, char *text, uint32_t n_tokens)
{
	memset(job, 0, sizeof(*job));
	job->tenant = tenant;
	job->engine = engine;
	job->text = text;
	job->request = (struct kvd_request)KVD_REQUEST_INIT;
	job->request.max_tokens = n_tokens;
	job->request.flags = KVD_REQ_LOGITS_HASH;
}

static unsigned read_questions(char **questions, unsigned max)
{
	char *text = host_read_file(host_path("tests/data/demo/questions.txt"), NULL);
	unsigned n = 0;
	for (char *line = strtok(text, "\n"); line && n < max; line = strtok(NULL, "\n"))
		questions[n++] = line;
	return n;
}

static void start_host(const char *model, const char *sharing_config, const char *pool)
{
	int fd = temporary(config_path, sizeof(config_path), "/tmp/kvd-demo-XXXXXX");
	size_t n = strlen(sharing_config);
	require(write(fd, sharing_config, n) == (ssize_t)n, "cannot write %s: %s", config_path,
		strerror(errno));
	close(fd);
	const char *const more[] = { "--config", config_path, NULL };
	const char *const one_thread[] = { "--threads", "1", "--max-seqs", "16", NULL };
	host_start(&host, pool, more);
	unlink(config_path);
	config_path[0] = '\0';
	host_engine(&host, "a", model, one_thread);
	host_engine(&host, "b", model, one_thread);
}

/* ---- part 1 ---- */
static void bundled_answers(void)
{
	uint64_t start = host_now_usec();
	printf("== the bundled model, two engines ==\n");
	start_host(host_model_bundled(), "[kvd]\n", "128M");
	struct host_job job;
	char *text = chat(NULL, "What is kvd?");
	ask(&job, "red", "a", text, 60);
	job.print = true;
	printf("> What is kvd?\n");
	require(host_run(&host, &job, 1, NULL, NULL) == 0, "the bundled model failed: %s", job.error);
	printf("\n[first token %.2f s after the start; %u tokens]\n\n",
	       (double)(job.first_usec - start) / 1e6, job.n_ids);
	host_jobs_free(&job, 1);
	free(text);
	host_settle(&host);
	host_stop(&host);
}

/* ---- part 2 ---- */
struct totals {
	uint64_t prompt, cached, generated;
	uint32_t ttft_cold_usec, ttft_other_usec;
	uint64_t batch_usec;
};

static void add(struct totals *t, const struct host_job *jobs, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		t->prompt += jobs[i].prompt_tokens;
		t->cached += jobs[i].cached_tokens;
		t->generated += jobs[i].n_ids;
	}
}

static void print_answers(const struct host_job *jobs, char **questions, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		printf("  %-5s on %s  %s\n", jobs[i].tenant, jobs[i].served_by, questions[i]);
		printf("        -> ");
		for (const char *c = jobs[i].answer ? jobs[i].answer : ""; *c && c - jobs[i].answer < 160; c++)
			putchar(*c == '\n' ? ' ' : *c);
		putchar('\n');
	}
}

static void twenty_four(const char *model, const char *title, const char *config, unsigned computed_max)
{
	static char *questions[N_REQUESTS], *texts[N_REQUESTS];
	struct host_job jobs[N_REQUESTS];
	struct totals t = { 0 };
	char *system = host_read_file(host_path("tests/data/demo/system-prompt.txt"), NULL);
	require(read_questions(questions, N_REQUESTS) == N_REQUESTS, "questions.txt has too few lines");
	printf("== %s ==\n", title);
	start_host(model, config, "512M");
	for (unsigned i = 0; i < N_REQUESTS; i++) {
		texts[i] = chat(system, questions[i]);
		ask(&jobs[i], tenants[i % N_TENANTS], i % 2 ? "b" : "a", texts[i], ANSWER_TOKENS);
	}
	jobs[1].tenant = jobs[0].tenant;       /* the first tenant's prefix again, in the other engine */
	for (unsigned i = 0; i < 2; i++) {
		jobs[i].print = true;
		printf("> %s\n", questions[i]);
		require(host_run(&host, &jobs[i], 1, NULL, NULL) == 0, "request %u failed: %s", i,
			jobs[i].error);
		printf("\n[%s on %s: %u prompt tokens, %u cached, first token after %.0f ms]\n",
		       jobs[i].tenant, jobs[i].served_by, jobs[i].prompt_tokens,
		       jobs[i].cached_tokens, jobs[i].end.ttft_usec / 1e3);
	}
	t.ttft_cold_usec = jobs[0].end.ttft_usec;
	t.ttft_other_usec = jobs[1].end.ttft_usec;
	printf("... and %u more at once:\n", N_REQUESTS - 2);
	uint64_t start = host_now_usec();
	require(host_run(&host, jobs + 2, N_REQUESTS - 2, NULL, NULL) == 0, "a request failed: %s",
		jobs[2].error);
	t.batch_usec = host_now_usec() - start;
	print_answers(jobs + 2, questions + 2, 4);
	add(&t, jobs, N_REQUESTS);
	unsigned computed_prefix = 0;
	for (unsigned i = 0; i < N_REQUESTS; i++)
		computed_prefix += jobs[i].prompt_tokens - jobs[i].cached_tokens > jobs[i].prompt_tokens / 2;

	struct kvd_row_status s;
	host_status(&host, &s);
	printf("  prompt tokens     %8llu asked, %llu computed (%.1f %% cached)\n",
	       (unsigned long long)t.prompt, (unsigned long long)(t.prompt - t.cached),
	       100.0 * (double)t.cached / (double)t.prompt);
	printf("  long prefix       %8u times computed\n", computed_prefix);
	printf("  KV at the peak    %8.1f MiB logical, %.1f MiB physical (%.1f x)\n",
	       (double)s.peak_logical_bytes / MIB, (double)s.peak_physical_bytes / MIB,
	       (double)s.peak_logical_bytes / (double)s.peak_physical_bytes);
	printf("  time to 1st token %8.0f ms cold, %.0f ms for the same prefix in the other engine (%.1f x)\n",
	       t.ttft_cold_usec / 1e3, t.ttft_other_usec / 1e3, (double)t.ttft_cold_usec / t.ttft_other_usec);
	printf("  last %u at once   %8.1f s, %.0f generated tokens/s\n\n", N_REQUESTS - 2,
	       (double)t.batch_usec / 1e6,
	       (double)(t.generated - jobs[0].n_ids - jobs[1].n_ids) * 1e6 / (double)t.batch_usec);
	require(computed_prefix <= computed_max, "the prefix was computed %u times, expected %u",
		computed_prefix, computed_max);
	require(s.merge_mismatches == 0, "%llu merges found different bytes",
		(unsigned long long)s.merge_mismatches);
	host_jobs_free(jobs, N_REQUESTS);
	for (unsigned i = 0; i < N_REQUESTS; i++)
		free(texts[i]);
	free(questions[0]);
	free(system);
}

/* ---- part 3 ---- */
struct killing {
	struct host_job *jobs;
	unsigned n_victims;
	bool killed;
	uint64_t open_before;
};

static void kill_when_all_run(void *arg, struct host_job *job)
{
	struct killing *k = arg;
	for (unsigned i = 0; i < k->n_victims; i++)
		if (k->killed || k->jobs[i].n_ids < 8)
			return;
	struct kvd_row_status s;
	host_status(&host, &s);
	k->open_before = s.frames[KVD_FRAME_OPEN];
	for (unsigned i = 0; i < host.n_engines; i++)
		if (!strcmp(host.engines[i].name, "b"))
			host_kill(&host.engines[i], SIGKILL);
	k->killed = true;
}

static void kill_one_engine(void)
{
	static const char *const prompts[] = {
		"What is a page table?",
		"Why is the sky blue?",
		"Name three rivers.",
		"What does a librarian do?",
		"Write a short poem about rain.",
		"How do bees make honey?",
	};
	enum { N = 6, VICTIMS = 4 };
	struct host_job alone[N], jobs[N];
	char *texts[N];
	printf("== SIGKILL of engine b while it serves four streams, a serves two ==\n");
	for (unsigned i = 0; i < N; i++) {
		texts[i] = chat(NULL, prompts[i]);
		ask(&alone[i], "alone", "a", texts[i], 48);
		ask(&jobs[i], tenants[i % N_TENANTS], i < VICTIMS ? "b" : "a", texts[i], 48);
		alone[i].request.flags |= KVD_REQ_IGNORE_END;
		jobs[i].request.flags |= KVD_REQ_IGNORE_END;
	}
	require(host_run(&host, alone, N, NULL, NULL) == 0, "a request failed: %s", alone[0].error);
	struct killing k = { .jobs = jobs, .n_victims = VICTIMS };
	require(host_run(&host, jobs, N, kill_when_all_run, &k) == 0, "a stream failed: %s", jobs[0].error);
	require(k.killed, "engine b was never killed");
	unsigned same = 0, resumed = 0;
	for (unsigned i = 0; i < N; i++) {
		same += jobs[i].n_ids == alone[i].n_ids &&
			!memcmp(jobs[i].ids, alone[i].ids, 4u * jobs[i].n_ids) &&
			!strcmp(jobs[i].answer, alone[i].answer);
		resumed += jobs[i].resumed > 0;
	}
	uint64_t start = host_now_usec();
	host_settle(&host);
	struct kvd_row_status s;
	host_status(&host, &s);
	printf("  open pages        %8llu when b was killed, %llu now; all states settled %.0f ms "
	       "after the last stream\n",
	       (unsigned long long)k.open_before, (unsigned long long)s.frames[KVD_FRAME_OPEN],
	       (double)(host_now_usec() - start) / 1e3);
	printf("  streams           %8u of %u byte-identical to alone; %u went on in engine a\n",
	       same, N, resumed);
	require(same == N, "%u streams differ", N - same);
	require(resumed == VICTIMS, "%u streams went on, expected %d", resumed, VICTIMS);
	host_jobs_free(jobs, N);
	host_jobs_free(alone, N);
	for (unsigned i = 0; i < N; i++)
		free(texts[i]);
}

static void serve(const char *model)
{
	start_host(model, "[kvd]\n", "512M");
	printf("kvd serves two engines (a, b) on %s\ntry, in another terminal:\n"
	       "  export KVD_SOCKET=%s\n  build/bin/kvrun \"What is a page table?\"\n  build/bin/kvctl map\n"
	       "Ctrl-C ends it.\n", model, host.socket);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	bool serves = argc == 2 && !strcmp(argv[1], "--serve");
	if (argc > 1 && !serves) {
		fprintf(stderr, "usage: demo [--serve]\n");
		return 2;
	}
	host_fail = on_fail;
	struct sigaction action = { .sa_handler = on_signal };
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);

	fetch_start();
	if (!serves)
		bundled_answers();
	const char *model = fetch_finish();
	if (!model)
		model = host_model_bundled();
	if (serves)
		serve(model);
	twenty_four(model, "24 requests, one long system prompt, three tenants in one reuse domain",
		    "[domain lab]\ntenants = red green blue\nsharing = reuse\n", 1);
	host_settle(&host);
	host_stop(&host);
	twenty_four(model, "the same under merge: stored once, computed once per tenant",
		    "[kvd]\nsharing = merge\n", 3);
	kill_one_engine();
	host_fsck(&host);
	printf("  fsck              clean\n");
	host_stop(&host);
	printf("demo: ok\n");
	return 0;
}
