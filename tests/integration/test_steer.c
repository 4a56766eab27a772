/* test_steer.c - an administrator's hand over the real programs: a pinned prefix survives pressure, a published one
 * is skipped by another tenant, evict frees what it says, drain sends clients elsewhere, a quota holds at once, and
 * those who watch are told; another user may do none of it. */
#include "tests/lib/scenario.h"

#include <errno.h>
#include <grp.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/slow.h"

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "8", NULL };

/* Run kvctl; its output, malloc'ed, and exit code. */
static char *kvctl(struct host *h, const char *arguments, int *ret_exit)
{
	char command[1024], *text = calloc(1, 1 << 20);
	snprintf(command, sizeof(command), "KVD_SOCKET=%s %s/kvctl %s 2>&1", h->socket, h->bin, arguments);
	FILE *f = popen(command, "r");
	ck_assert_ptr_nonnull(f);
	size_t n = fread(text, 1, (1 << 20) - 1, f);
	int status = pclose(f);
	text[n] = '\0';
	*ret_exit = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	return text;
}

/* The same where it must succeed and print JSON. */
static json_t *kvctl_json(struct host *h, const char *arguments)
{
	char line[1024];
	int exit_code;
	json_error_t error;
	snprintf(line, sizeof(line), "%s --json", arguments);
	char *text = kvctl(h, line, &exit_code);
	json_t *root = json_loads(text, 0, &error);
	ck_assert_msg(exit_code == 0 && root, "kvctl %s: exit %d: %s", arguments, exit_code, text);
	free(text);
	return root;
}

static void kvctl_ok(struct host *h, const char *arguments)
{
	int exit_code;
	char *text = kvctl(h, arguments, &exit_code);
	ck_assert_msg(exit_code == 0, "kvctl %s: exit %d: %s", arguments, exit_code, text);
	free(text);
}

static void kvctl_refused(struct host *h, const char *arguments, int expected, const char *part)
{
	int exit_code;
	char *text = kvctl(h, arguments, &exit_code);
	ck_assert_msg(exit_code == expected && strstr(text, part), "kvctl %s: exit %d: %s",
		      arguments, exit_code, text);
	free(text);
}

static json_int_t number(const json_t *object, const char *field)
{
	json_t *value = json_object_get(object, field);
	ck_assert_msg(json_is_integer(value), "%s is no integer", field);
	return json_integer_value(value);
}

/* The longest prefix that a tenant claimed first. */
static void prefix_of(struct host *h, const char *tenant, char id[32], json_int_t *ret_pages)
{
	json_t *rows = kvctl_json(h, "prefixes"), *row;
	size_t i;
	*ret_pages = 0;
	json_array_foreach(rows, i, row) {
		if (strcmp(json_string_value(json_object_get(row, "tenant")), tenant) ||
		    number(row, "pages") <= *ret_pages)
			continue;
		*ret_pages = number(row, "pages");
		snprintf(id, 32, "%s", json_string_value(json_object_get(row, "id")));
	}
	json_decref(rows);
	ck_assert_msg(*ret_pages > 0, "tenant %s has no prefix", tenant);
}

static uint32_t cached_pages(struct host *h, const char *tenant, const char *text)
{
	struct host_job job = scenario_alone(h, tenant, NULL, text, 4);
	uint32_t pages = job.cached_tokens / 16;
	host_jobs_free(&job, 1);
	return pages;
}

/* Other prompts until the pool has been turned over. */
static void press(struct host *h, const char *tenant, unsigned seed)
{
	struct kvd_row_status status;
	host_status(h, &status);
	uint64_t evicted = status.evicted_pages;
	for (unsigned i = 0; i < 200; i++) {
		char *text = scenario_text(seed + i, 600);
		struct host_job job = scenario_alone(h, tenant, NULL, text, 2);
		host_jobs_free(&job, 1);
		free(text);
		host_status(h, &status);
		if (status.evicted_pages > evicted + 3 * (status.pool_bytes / host_page_bytes(h)))
			return;
	}
	ck_abort_msg("200 prompts did not turn the pool over");
}

START_TEST(a_pin_survives_pressure)
{
	struct host h;
	char id[32], command[96];
	json_int_t pages;
	char *text = scenario_text(1, 300), *beside = scenario_text(2, 290);

	host_start(&h, "24M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	cached_pages(&h, "red", text);
	prefix_of(&h, "red", id, &pages);
	uint32_t all = cached_pages(&h, "red", text);
	ck_assert_uint_gt(all, 4);
	snprintf(command, sizeof(command), "pin %s", id);
	kvctl_ok(&h, command);
	cached_pages(&h, "red", beside);
	press(&h, "blue", 1000);
	ck_assert_uint_eq(cached_pages(&h, "red", text), all);
	ck_assert_uint_eq(cached_pages(&h, "red", beside), 0);
	host_settle(&h);
	kvctl_ok(&h, "evict --tenant red");  /* a pin is a pin for the administrator, too */
	ck_assert_uint_eq(cached_pages(&h, "red", text), all);
	host_settle(&h);
	snprintf(command, sizeof(command), "unpin %s", id);
	kvctl_ok(&h, command);
	kvctl_refused(&h, command, 1, "not pinned");
	kvctl_ok(&h, "evict --tenant red");
	ck_assert_uint_eq(cached_pages(&h, "red", text), 0);
	kvctl_refused(&h, "pin 12345678-1fffff", 1, "no such prefix");
	kvctl_refused(&h, "pin everything", 2, "prefix");
	kvctl_refused(&h, "pin", 2, "needs");
	free(text);
	free(beside);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

START_TEST(publish_lets_another_tenant_skip)
{
	struct host h;
	char id[32], command[96];
	json_int_t pages;
	char *text = scenario_text(5, 300);

	host_start(&h, "64M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	host_engine(&h, "b", host_model_bundled(), engine_args);
	cached_pages(&h, "red", text);
	uint32_t all = cached_pages(&h, "red", text);
	ck_assert_uint_eq(cached_pages(&h, "blue", text), 0); /* merge: it computes */
	prefix_of(&h, "red", id, &pages);
	snprintf(command, sizeof(command), "publish %s", id);
	kvctl_ok(&h, command);
	ck_assert_uint_eq(cached_pages(&h, "green", text), all);
	snprintf(command, sizeof(command), "unpublish %s", id);
	kvctl_ok(&h, command);
	ck_assert_uint_eq(cached_pages(&h, "green", text), all); /* taken is taken */
	ck_assert_uint_eq(cached_pages(&h, "white", text), 0);
	free(text);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

START_TEST(evict_frees_what_it_says)
{
	struct host h;
	char id[32], command[96];
	json_int_t pages;
	struct kvd_row_tenant row;
	char *red = scenario_text(11, 200), *blue = scenario_text(12, 200);

	host_start(&h, "64M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	cached_pages(&h, "red", red);
	cached_pages(&h, "blue", blue);
	host_settle(&h);                     /* nobody holds anything any more */
	prefix_of(&h, "red", id, &pages);
	snprintf(command, sizeof(command), "evict --dry-run --prefix %s", id);
	json_t *would = kvctl_json(&h, command), *one;
	json_int_t frees = 0;
	size_t i;
	json_array_foreach(would, i, one)
		frees += number(one, "frees_bytes");
	json_decref(would);
	snprintf(command, sizeof(command), "explain prefix %s", id);
	would = kvctl_json(&h, command);
	ck_assert_uint_eq(json_array_size(would), 1);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(would, 0), "tenant")), "red");
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(would, 0), "class")), "normal");
	json_decref(would);
	ck_assert_uint_gt(cached_pages(&h, "red", red), 0); /* a dry run is dry */
	host_settle(&h);
	would = kvctl_json(&h, "explain tenant blue");
	ck_assert_uint_ge(json_array_size(would), 1);
	json_decref(would);
	would = kvctl_json(&h, "evict --dry-run --bytes 200K");
	ck_assert_uint_ge(json_array_size(would), 2);
	ck_assert_int_eq(number(json_array_get(would, 1), "rank"), 1);
	json_decref(would);
	kvctl_refused(&h, "explain page 999999999", 1, "no such page");
	kvctl_refused(&h, "explain weather tomorrow", 2, "explain what");
	kvctl_refused(&h, "evict --dry-run --tenant nobody", 2, "no tenant");
	snprintf(command, sizeof(command), "evict --prefix %s", id);
	json_t *done = kvctl_json(&h, command);
	ck_assert_int_eq(number(done, "bytes"), frees);
	ck_assert_int_ge(number(done, "pages"), pages);
	ck_assert_int_eq(number(done, "bytes"), number(done, "pages") * (json_int_t)host_page_bytes(&h));
	json_decref(done);
	ck_assert_uint_eq(cached_pages(&h, "red", red), 0);
	ck_assert_uint_gt(cached_pages(&h, "blue", blue), 0);
	host_settle(&h);
	json_decref(kvctl_json(&h, "evict --tenant blue"));
	host_tenant(&h, "blue", &row);
	ck_assert_uint_eq(row.rss_bytes, 0);
	ck_assert_uint_eq(cached_pages(&h, "blue", blue), 0);
	kvctl_refused(&h, "evict", 2, "--tenant");
	kvctl_refused(&h, "evict --tenant nobody", 2, "no tenant");
	free(red);
	free(blue);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

START_TEST(drain_sends_clients_elsewhere)
{
	struct host h;
	char *text = scenario_text(21, 50);

	host_start(&h, "64M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	host_engine(&h, "b", host_model_bundled(), engine_args);
	kvctl_ok(&h, "drain a --wait --timeout 20");
	for (unsigned i = 0; i < 6; i++) {
		struct host_job job = scenario_alone(&h, "red", NULL, text, 4);
		ck_assert_str_eq(job.served_by, "b");
		host_jobs_free(&job, 1);
	}
	kvctl_refused(&h, "drain nobody", 1, "no engine");
	free(text);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

START_TEST(a_quota_holds_at_once)
{
	struct host h;
	struct host_job job;
	char *text = scenario_text(31, 300), command[96];

	host_start(&h, "64M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	cached_pages(&h, "red", text);
	snprintf(command, sizeof(command), "quota red max=%llu", 4ull * (unsigned long long)host_page_bytes(&h));
	kvctl_ok(&h, command);
	scenario_job(&job, "red", NULL, text, 4);
	ck_assert_uint_eq(host_run(&h, &job, 1, NULL, NULL), 1);
	ck_assert_int_eq(job.status, KVD_S_TENANT_MAX);
	host_jobs_free(&job, 1);
	json_t *row = kvctl_json(&h, "quota red");
	ck_assert_int_eq(number(row, "max_bytes"), 4 * (json_int_t)host_page_bytes(&h));
	json_decref(row);
	kvctl_ok(&h, "quota red max=0");
	cached_pages(&h, "red", text);
	kvctl_refused(&h, "quota red max=plenty", 2, "size");
	kvctl_refused(&h, "quota red colour=4", 2, "none of");
	kvctl_refused(&h, "quota nobody max=1G", 2, "no tenant");
	free(text);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

/* kvctl events -w as a child with a pipe: one JSON object a line. */
START_TEST(watchers_are_told)
{
	struct host h;
	char path[600], buffer[1 << 16] = "", command[96], id[32];
	json_int_t pages;
	int fds[2], seen = 0;
	char *text = scenario_text(41, 60);

	host_start(&h, "64M", NULL);
	ck_assert_int_eq(pipe(fds), 0);
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(fds[1], 1);
		close(fds[0]);
		close(fds[1]);
		snprintf(path, sizeof(path), "%s/kvctl", h.bin);
		setenv("KVD_SOCKET", h.socket, 1);
		execl(path, "kvctl", "events", "-w", NULL);
		_exit(127);
	}
	close(fds[1]);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	cached_pages(&h, "red", text);
	host_settle(&h);
	prefix_of(&h, "red", id, &pages);
	snprintf(command, sizeof(command), "evict --prefix %s", id);
	kvctl_ok(&h, command);
	host_kill(&h.engines[0], SIGKILL);
	static const char *const expected[] = { "attach", "seal", "steer", "evict", "hangup", "quiet" };
	const int all = sizeof(expected) / sizeof(expected[0]);
	size_t n = 0;
	while (seen < all && n < sizeof(buffer) - 1) {
		ssize_t got = read(fds[0], buffer + n, sizeof(buffer) - 1 - n);
		ck_assert_int_gt(got, 0);
		n += (size_t)got;
		buffer[n] = '\0';
		seen = 0;
		for (int i = 0; i < all; i++) {
			char word[40];
			snprintf(word, sizeof(word), "\"event\":\"%s\"", expected[i]);
			char spaced[40];
			snprintf(spaced, sizeof(spaced), "\"event\": \"%s\"", expected[i]);
			seen += strstr(buffer, word) || strstr(buffer, spaced);
		}
	}
	ck_assert_int_eq(seen, all);
	json_error_t error;
	for (char *line = strtok(buffer, "\n"); line; line = strtok(NULL, "\n")) {
		json_t *event = json_loads(line, 0, &error);
		ck_assert_msg(event || !strchr(line, '}'), "no JSON: %s", line);
		json_decref(event);
	}
	ck_assert_int_eq(kill(pid, SIGTERM), 0);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	close(fds[0]);
	free(text);
	host_stop(&h);
}
END_TEST

/* A reader that does not read loses events and is told how many; nobody waits for it. */
START_TEST(a_slow_watcher_is_told_what_it_lost)
{
	struct host h;
	struct kvd_connection *slow, *hand;
	struct kvd_msg_event event;
	uint64_t number[8] = { 0 }, seen = 0, last = 0, lost = 0;
	char id[32];
	json_int_t pages;
	unsigned hash, node, n_hands = 2000;
	char *text = scenario_text(71, 60);

	host_start(&h, "64M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	cached_pages(&h, "red", text);
	host_settle(&h);
	prefix_of(&h, "red", id, &pages);
	ck_assert_int_eq(sscanf(id, "%x-%x", &hash, &node), 2);
	ck_assert_int_eq(kvd_connect(h.socket, "slow", NULL, &slow), 0);
	ck_assert_int_eq(kvd_connect(h.socket, "hand", NULL, &hand), 0);
	number[0] = 1u << KVD_EVENT_STEER;
	ck_assert_int_eq(kvd_steer(slow, KVD_STEER_WATCH, NULL, number, -1, NULL), 0);
	number[0] = (uint64_t)hash << 32 | node;
	for (unsigned i = 0; i < n_hands; i++)
		ck_assert_msg(kvd_steer(hand, i % 2 ? KVD_STEER_UNPIN : KVD_STEER_PIN, NULL, number,
					-1, NULL) == 0,
			      "%s", kvd_error(hand));
	for (unsigned tries = 0; seen + lost < n_hands && tries < 5; tries++) {
		while (kvd_event(slow, 1000, &event) == 0) {
			ck_assert_uint_gt(event.number, last);
			last = event.number;
			lost += event.lost;
			seen++;
		}
		/* what was lost last is told with the next event: here is one */
		enum kvd_steer what = tries % 2 ? KVD_STEER_UNPIN : KVD_STEER_PIN;
		ck_assert_int_eq(kvd_steer(hand, what, NULL, number, -1, NULL), 0);
	}
	printf("%u hands: %u events seen, %u lost and told\n", n_hands, (unsigned)seen, (unsigned)lost);
	ck_assert_uint_gt(lost, 0);
	ck_assert_uint_ge(seen + lost, n_hands);       /* lost counts events of every kind */
	ck_assert_uint_le(seen, n_hands + 5);
	kvd_close(slow);
	kvd_close(hand);
	free(text);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

/* Pins and publications are in the book: a kvd that takes over has them. */
START_TEST(a_pin_survives_kvd)
{
	static const char *const keeper[] = { "--keeper", NULL };
	struct host h;
	char id[32], again[32], command[96];
	json_int_t pages;
	char *text = scenario_text(81, 200);

	host_start(&h, "64M", keeper);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	cached_pages(&h, "red", text);
	uint32_t all = cached_pages(&h, "red", text);
	prefix_of(&h, "red", id, &pages);
	snprintf(command, sizeof(command), "pin %s", id);
	kvctl_ok(&h, command);
	host_kill(&h.kvd, SIGKILL);
	host_kvd_start(&h, "64M", keeper);
	host_engine_wait(&h, "a");
	json_t *rows = kvctl_json(&h, "prefixes"), *row;
	bool pinned = false;
	size_t i;
	json_array_foreach(rows, i, row)
		pinned |= json_is_true(json_object_get(row, "pinned")) &&
			  !strcmp(json_string_value(json_object_get(row, "id")), id);
	json_decref(rows);
	ck_assert(pinned);
	int exit_code;
	char *said = kvctl(&h, "events", &exit_code);
	ck_assert_msg(exit_code == 0 && strstr(said, " adopt "), "%s", said);
	free(said);
	host_settle(&h);
	kvctl_ok(&h, "evict --tenant red");
	ck_assert_uint_eq(cached_pages(&h, "red", text), all);
	prefix_of(&h, "red", again, &pages);
	snprintf(command, sizeof(command), "unpin %s", id);
	kvctl_ok(&h, command);
	free(text);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

/* Too small a pool for what is asked: a trigger of the kernel's kind fires. */
START_TEST(a_pressure_trigger_fires)
{
	struct host h;
	struct kvd_connection *c;
	struct kvd_msg_event event;
	struct host_job jobs[12];
	char *text[12];
	uint64_t number[8] = { 0, 2000, 500000 };
	int r = -EAGAIN;

	host_start(&h, "8M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	ck_assert_int_eq(kvd_connect(h.socket, "watcher", NULL, &c), 0);
	ck_assert_int_eq(kvd_steer(c, KVD_STEER_TRIGGER, "red", number, -1, NULL), KVD_S_BAD_REQUEST);
	ck_assert_int_eq(kvd_steer(c, KVD_STEER_TRIGGER, NULL, number, -1, NULL), 0);
	for (unsigned round = 0; round < 10 && r == -EAGAIN; round++) {
		for (unsigned i = 0; i < 12; i++) {
			text[i] = scenario_text(5000 + 20 * round + i, 500);
			scenario_job(&jobs[i], "red", NULL, text[i], 30);
		}
		ck_assert_uint_eq(host_run(&h, jobs, 12, NULL, NULL), 0);
		host_jobs_free(jobs, 12);
		for (unsigned i = 0; i < 12; i++)
			free(text[i]);
		r = kvd_event(c, 100, &event);
	}
	ck_assert_msg(r == 0, "%d: %s", r, kvd_error(c));
	ck_assert_uint_eq(event.kind, KVD_EVENT_PRESSURE);
	ck_assert_str_eq(event.text, "some 2000 500000");
	ck_assert_uint_eq(event.a, 2000);
	kvd_close(c);
	json_t *status = kvctl_json(&h, "status");
	json_t *pressure = json_object_get(status, "pressure");
	ck_assert(json_is_real(json_object_get(pressure, "some_avg10")) &&
		  json_is_real(json_object_get(pressure, "full_avg10")));
	json_decref(status);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

/* What is asked about the past and about the host. */
START_TEST(questions_have_answers)
{
	struct host h;
	int exit_code;
	char *text = scenario_text(61, 80), command[128];

	host_start(&h, "64M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	cached_pages(&h, "red", text);
	ck_assert_uint_gt(cached_pages(&h, "red", text), 0);
	json_t *psi = kvctl_json(&h, "psi");
	ck_assert_uint_ge(json_array_size(psi), 2);
	ck_assert(json_is_null(json_object_get(json_array_get(psi, 0), "tenant")));
	ck_assert(json_is_real(json_object_get(json_object_get(json_array_get(psi, 0), "some"), "avg10")));
	json_decref(psi);
	char *line = kvctl(&h, "psi red", &exit_code);
	unsigned a, b;
	ck_assert_msg(sscanf(line, "some avg10=%u.%u avg60=", &a, &b) == 2 &&
			      strstr(line, "\nfull avg10="),
		      "%s", line);
	free(line);
	kvctl_refused(&h, "psi nobody", 1, "no tenant");
	kvctl_refused(&h, "psi --trigger 'some 1 1'", 2, "window");
	kvctl_refused(&h, "psi --trigger often", 2, "some 150000 1000000");

	json_t *trace = kvctl_json(&h, "trace sequence a 0");
	unsigned opens = 0, seals = 0, frames = 0;
	json_int_t frame = -1;
	size_t i;
	json_t *row;
	json_array_foreach(trace, i, row) {
		const char *verb = json_string_value(json_object_get(row, "verb"));
		const char *what = json_string_value(json_object_get(row, "what"));
		opens += !strcmp(verb, "open") && !strcmp(what, "submit");
		seals += !strcmp(verb, "seal") && !strcmp(what, "answer");
		if (!strcmp(what, "entry") && json_is_integer(json_object_get(row, "b"))) {
			frames++;
			frame = number(row, "b");
		}
	}
	ck_assert_uint_ge(opens, 1);
	ck_assert_uint_ge(seals, 1);
	ck_assert_uint_ge(frames, 1);
	json_decref(trace);
	snprintf(command, sizeof(command), "trace page %d", (int)frame);
	trace = kvctl_json(&h, command);
	ck_assert_uint_ge(json_array_size(trace), 1);
	json_decref(trace);
	kvctl_refused(&h, "trace sequence nobody 0", 2, "engine that is there");
	kvctl_refused(&h, "trace page first", 2, "trace what");
	kvctl_refused(&h, "trace page", 2, "needs");

	sleep(2);                            /* memory times time: it takes a while */
	json_t *cost = kvctl_json(&h, "cost");
	json_int_t rss = 0, pss = 0, computed = 0;
	for (i = 0; i < 50 && (!rss || !pss); i++) {
		json_decref(cost);
		usleep(200000);
		cost = kvctl_json(&h, "cost");
		size_t k;
		json_array_foreach(cost, k, row) {
			if (strcmp(json_string_value(json_object_get(row, "tenant")), "red"))
				continue;
			rss = number(row, "rss_byte_seconds");
			pss = number(row, "pss_byte_seconds");
			computed = number(row, "computed_tokens");
		}
	}
	json_decref(cost);
	ck_assert_int_gt(rss, 0);
	ck_assert_int_gt(pss, 0);
	ck_assert_int_gt(computed, 80);

	json_t *doctor = json_loads(line = kvctl(&h, "doctor --json", &exit_code), 0, NULL);
	ck_assert_msg(json_array_size(doctor) >= 10, "%s", line);
	unsigned failed = 0, modes = 0;
	json_array_foreach(doctor, i, row) {
		failed += !strcmp(json_string_value(json_object_get(row, "level")), "FAIL");
		modes += !strcmp(json_string_value(json_object_get(row, "check")), "memfd modes") &&
			 !strcmp(json_string_value(json_object_get(row, "level")), "ok");
		ck_assert_msg(!strcmp(json_string_value(json_object_get(row, "level")), "ok") ||
				      json_string_value(json_object_get(row, "remedy"))[0],
			      "no remedy: %s", line);
	}
	ck_assert_int_eq(exit_code, failed != 0);
	ck_assert_uint_eq(modes, 1);
	json_decref(doctor);
	free(line);
	kvctl_refused(&h, "doctor --socket /nonexistent/kvd.sock", 1, "FAIL");
	free(text);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

/* Another user: refused in one line, exit 4; of smaps its own Rss and Swap. */
START_TEST(others_may_not)
{
	static const char *const refused[] = {
		"prefixes",
		"pin 12345678-1",
		"unpin 12345678-1",
		"publish 12345678-1",
		"unpublish 12345678-1",
		"evict --tenant red",
		"quota red max=1G",
		"drain a",
		"events",
		"fsck",
		"extents",
		"cost",
		"trace page 1",
		"record /dev/null",
		"psi --trigger 'some 150000 1000000'",
	};
	struct host h;
	int status;

	if (geteuid() != 0) {
		printf("skipped: only root can become other users\n");
		return;
	}
	host_start(&h, "64M", NULL);
	ck_assert_int_eq(chmod(h.dir, 0755), 0);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	char *text = scenario_text(51, 60);
	cached_pages(&h, "red", text);
	/* The build may lie where others cannot go: a copy beside the socket. */
	char command[1300];
	snprintf(command, sizeof(command), "cp %s/kvctl %s/kvctl && chmod 755 %s/kvctl", h.bin, h.dir, h.dir);
	ck_assert_int_eq(system(command), 0);
	fflush(NULL);
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct host other = h;
		int exit_code;
		snprintf(other.bin, sizeof(other.bin), "%s", h.dir);
		if (setgroups(0, NULL) || setresgid(12345, 12345, 12345) || setresuid(12345, 12345, 12345))
			_exit(2);
		for (unsigned i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
			char *said = kvctl(&other, refused[i], &exit_code);
			char *end = strchr(said, '\n');
			if (exit_code != 4 || !end || end[1]) {
				fprintf(stderr, "kvctl %s: exit %d: %s\n", refused[i], exit_code, said);
				_exit(1);
			}
			free(said);
		}
		char *said;
		static const char *const foreign[] = {
			"explain tenant red",
			"explain tenant no-such-tenant",
			"explain page 1",
			"smaps red",
			"psi red",
			"quota red",
		};
		for (unsigned i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++) {
			said = kvctl(&other, foreign[i], &exit_code);
			if (!exit_code || strchr(said, '\n') != said + strlen(said) - 1) {
				fprintf(stderr, "kvctl %s: exit %d: %s\n", foreign[i], exit_code, said);
				_exit(1);
			}
			free(said);
		}
		said = kvctl(&other, "explain tenant uid-12345 --json", &exit_code);
		if (exit_code || strcmp(said, "[]\n")) {
			fprintf(stderr, "explain: exit %d: %s\n", exit_code, said);
			_exit(1);
		}
		free(said);
		said = kvctl(&other, "smaps --json", &exit_code);
		json_t *rows = json_loads(said, 0, NULL), *row = json_array_get(rows, 0);
		if (exit_code || json_array_size(rows) != 1 || !json_object_get(row, "Rss") ||
		    !json_object_get(row, "Swap") || json_object_size(row) != 4) {
			fprintf(stderr, "smaps: exit %d: %s\n", exit_code, said);
			_exit(1);
		}
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status) && !WEXITSTATUS(status), "wait status %#x", status);
	snprintf(command, sizeof(command), "%s/kvctl", h.dir);
	unlink(command);
	free(text);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(a_pin_survives_pressure), SCENARIO(publish_lets_another_tenant_skip),
		SCENARIO(evict_frees_what_it_says), SCENARIO(drain_sends_clients_elsewhere),
		SCENARIO(a_quota_holds_at_once),    SCENARIO(watchers_are_told),
		SCENARIO(a_slow_watcher_is_told_what_it_lost), SCENARIO(a_pin_survives_kvd),
		SCENARIO(a_pressure_trigger_fires),
		SCENARIO(questions_have_answers),   SCENARIO(others_may_not),
	};
	return scenario_run("steer", tests, sizeof(tests) / sizeof(tests[0]), 60);
}
