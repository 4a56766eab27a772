/* test_terminal.c - kvrun as a person at a terminal: a conversation, Ctrl-C, a failover. */
#include "tests/lib/scenario.h"
#include "tests/lib/slow.h"

#include <errno.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "8", NULL };

struct terminal {
	int fd;
	pid_t pid;
	char text[1 << 16];            /* everything shown so far */
	size_t n;
};

static void terminal_start(struct terminal *t, struct host *h, char *const *argv)
{
	char path[600];
	snprintf(path, sizeof(path), "%s/kvrun", h->bin);
	t->n = 0;
	t->text[0] = '\0';
	t->pid = forkpty(&t->fd, NULL, NULL, NULL);
	ck_assert_int_ge(t->pid, 0);
	if (t->pid == 0) {
		setenv("KVD_SOCKET", h->socket, 1);
		execv(path, argv);
		_exit(127);
	}
}

/* Read until the text after `from` contains `wanted`; 30 s at most. Returns where it ends. */
static size_t terminal_expect(struct terminal *t, size_t from, const char *wanted)
{
	uint64_t deadline_usec = host_now_usec() + 30000000u * test_slow();
	for (;;) {
		char *found = strstr(t->text + from, wanted);
		if (found)
			return (size_t)(found - t->text) + strlen(wanted);
		struct pollfd p = { .fd = t->fd, .events = POLLIN };
		ck_assert_msg(host_now_usec() < deadline_usec && t->n + 4096 < sizeof(t->text),
			      "no \"%s\" in: %s", wanted, t->text + from);
		if (poll(&p, 1, 1000) <= 0)
			continue;
		ssize_t n = read(t->fd, t->text + t->n, 4096);
		ck_assert_msg(n > 0, "kvrun ended before \"%s\": %s", wanted, t->text + from);
		t->n += (size_t)n;
		t->text[t->n] = '\0';
	}
}

static void terminal_type(struct terminal *t, const char *keys)
{
	ck_assert_int_eq(write(t->fd, keys, strlen(keys)), (ssize_t)strlen(keys));
}

static int terminal_end(struct terminal *t)
{
	char rest[4096];
	int status;
	while (read(t->fd, rest, sizeof(rest)) > 0)
		;
	ck_assert_int_eq(waitpid(t->pid, &status, 0), t->pid);
	close(t->fd);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

START_TEST(conversation)
{
	static struct terminal t;
	char *argv[] = { "kvrun", "--max-tokens", "24", "--ignore-end", "--stats", NULL };
	struct host h;
	unsigned cached;

	host_start(&h, "64M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	terminal_start(&t, &h, argv);
	size_t at = terminal_expect(&t, 0, ">>> ");
	terminal_type(&t, "Tell me something about the harbour and the long winter that came after it.\n");
	at = terminal_expect(&t, at, "[24 tokens");
	at = terminal_expect(&t, at, ">>> ");
	/* The second turn sends the first one again, and kvd has its pages. */
	terminal_type(&t, "And then?\n");
	size_t figures = terminal_expect(&t, at, "[24 tokens");
	at = terminal_expect(&t, figures, ">>> ");
	const char *comma = strstr(t.text + figures, " ms, ");
	ck_assert_msg(comma && sscanf(comma, " ms, %u of", &cached) == 1 && cached >= 16,
		      "nothing was cached: %s", t.text + figures);
	terminal_type(&t, "/nonsense\n");
	at = terminal_expect(&t, at, "unknown command /nonsense");
	at = terminal_expect(&t, at, ">>> ");
	terminal_type(&t, "\003");
	at = terminal_expect(&t, at, "Ctrl-D or /quit ends");
	terminal_type(&t, "/quit\n");
	ck_assert_int_eq(terminal_end(&t), 0);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

START_TEST(interrupt_keeps_the_conversation)
{
	static struct terminal t;
	char *argv[] = { "kvrun", "--max-tokens", "0", "--ignore-end", NULL };
	struct host h;

	host_start(&h, "64M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	terminal_start(&t, &h, argv);
	size_t at = terminal_expect(&t, 0, ">>> ");
	terminal_type(&t, "Once\n");
	for (unsigned i = 0; i < 500 && host_sequences(&h) == 0; i++)
		usleep(10000);
	usleep(100000);
	terminal_type(&t, "\003");
	at = terminal_expect(&t, at, ">>> ");
	for (unsigned i = 0; i < 200 && host_sequences(&h) != 0; i++)
		usleep(10000);
	ck_assert_uint_eq(host_sequences(&h), 0);
	/* Ctrl-C twice in a row at the prompt leaves. */
	terminal_type(&t, "\003");
	at = terminal_expect(&t, at, "Ctrl-C once more");
	terminal_type(&t, "\003");
	ck_assert_int_eq(terminal_end(&t), 130);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

/* An engine dies in the middle of an answer: the same words come, from the other one. */
START_TEST(failover_under_kvrun)
{
	char line[1600], *alone = malloc(1 << 16), *broken = malloc(1 << 16);
	struct host h;

	host_start(&h, "64M", NULL);
	struct host_child *a = host_engine(&h, "a", host_model_bundled(), engine_args);
	host_engine(&h, "b", host_model_bundled(), engine_args);
	for (int kill_it = 0; kill_it < 2; kill_it++) {
		snprintf(line, sizeof(line), "KVD_SOCKET=%s %s/kvrun --engine %s --raw --stats --ignore-end "
			 "--max-tokens 1500 Once 2>&1",
			 h.socket, h.bin, kill_it ? "a" : "b");
		FILE *f = popen(line, "r");
		ck_assert_ptr_nonnull(f);
		char *text = kill_it ? broken : alone;
		size_t n = fread(text, 1, 200, f);
		if (kill_it)
			host_kill(a, SIGKILL);
		n += fread(text + n, 1, (1 << 16) - 1 - n, f);
		text[n] = '\0';
		ck_assert_int_eq(pclose(f), 0);
		char *figures = strstr(text, "[1500 tokens");
		ck_assert_msg(figures != NULL, "no figures in: %s", text);
		ck_assert_msg((strstr(figures, "1 engine died on the way") != NULL) == kill_it, "%s", figures);
		*figures = '\0';
	}
	ck_assert_str_eq(alone, broken);
	free(alone);
	free(broken);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(conversation),
		SCENARIO(interrupt_keeps_the_conversation),
		SCENARIO(failover_under_kvrun),
	};
	return scenario_run("terminal", tests, 3, 120);
}
