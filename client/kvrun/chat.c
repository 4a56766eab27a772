/* chat.c - a conversation on a terminal.
 *
 * Owns the list of messages: every turn sends all of it, and kvd has the pages of all but the last.
 * Lines come by read(), not stdio, so that poll() sees what is there and Ctrl-C at the prompt can
 * be answered.  An answer that was cut short stays in the conversation as far as it came. */
#include "client/kvrun/kvrun.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES (1u << 20)

struct lines {
	char *bytes;               /* (LINE_MAX_BYTES + 1) what was read and not yet used */
	size_t n;
	bool ended;
};

enum line_result { LINE_OK, LINE_END, LINE_INTERRUPTED, LINE_TOO_LONG };

/* The next line, without its newline, malloc'ed. */
static enum line_result next_line(struct lines *l, char **ret)
{
	for (;;) {
		char *newline = memchr(l->bytes, '\n', l->n);
		if (newline || (l->ended && l->n > 0)) {
			size_t n = newline ? (size_t)(newline - l->bytes) : l->n;
			size_t used = newline ? n + 1 : n;
			*ret = strndup(l->bytes, n);
			l->n -= used;
			memmove(l->bytes, l->bytes + used, l->n);
			return *ret ? LINE_OK : LINE_END;
		}
		if (l->ended)
			return LINE_END;
		if (l->n == LINE_MAX_BYTES) {
			l->n = 0;
			return LINE_TOO_LONG;
		}
		struct pollfd fds[2] = {
			{ .fd = STDIN_FILENO, .events = POLLIN },
			{ .fd = kvrun_interrupt_fd(), .events = POLLIN },
		};
		(void)poll(fds, 2, -1);
		if (kvrun_interrupt_take()) {
			l->n = 0;
			return LINE_INTERRUPTED;
		}
		if (fds[0].revents == 0)
			continue;
		ssize_t n = read(STDIN_FILENO, l->bytes + l->n, LINE_MAX_BYTES - l->n);
		if (n > 0)
			l->n += (size_t)n;
		else if (n == 0 || (errno != EINTR && errno != EAGAIN))
			l->ended = true;
	}
}

static void chat_help(void)
{
	printf("  /clear    forget the conversation (the system message stays)\n"
	       "  /stats    figures after each answer, on or off\n"
	       "  /help     this text\n"
	       "  /quit     leave; Ctrl-D too\n"
	       "  Ctrl-C    stop the answer\n");
}

enum command_result { COMMAND_NONE, COMMAND_DONE, COMMAND_QUIT };

static enum command_result chat_command(const char *line, json_t *messages, size_t n_kept,
					bool *stats)
{
	if (line[0] != '/')
		return COMMAND_NONE;
	if (!strcmp(line, "/quit") || !strcmp(line, "/exit") || !strcmp(line, "/bye"))
		return COMMAND_QUIT;
	if (!strcmp(line, "/clear")) {
		while (json_array_size(messages) > n_kept)
			json_array_remove(messages, json_array_size(messages) - 1);
		printf("forgotten\n");
	} else if (!strcmp(line, "/stats")) {
		*stats = !*stats;
		printf("figures %s\n", *stats ? "on" : "off");
	} else if (!strcmp(line, "/help") || !strcmp(line, "/?")) {
		chat_help();
	} else {
		printf("unknown command %s; /help lists them. A message may begin with a blank.\n",
		       line);
	}
	return COMMAND_DONE;
}

/* One turn.  Returns 0, or an exit code where going on makes no sense. */
static int chat_turn(struct kvd_connection *c, const struct kvrun_options *o, const char *model,
		     json_t *messages, const char *line, bool stats)
{
	struct kvrun_answer answer;
	struct kvrun_text prompt;

	if (kvrun_message(messages, "user", line, strlen(line)) != 0)
		return 0;   /* said already; nothing was added */
	prompt.bytes = json_dumps(messages, JSON_COMPACT);
	if (!prompt.bytes) {
		fprintf(stderr, "kvrun: not enough memory for the conversation\n");
		return 1;
	}
	prompt.n = strlen(prompt.bytes);
	int r = kvrun_answer(c, o, model, &prompt, true, &answer);
	free(prompt.bytes);
	if (answer.text.n > 0 && answer.text.bytes[answer.text.n - 1] != '\n')
		printf("\n");
	if (answer.error[0])
		fprintf(stderr, "kvrun: %s\n", answer.error);
	else if (answer.ended && answer.end.finish == KVD_FINISH_LENGTH)
		printf("(stopped after %u tokens; say --max-tokens for more)\n",
		       answer.end.completion_tokens);
	if (stats && answer.ended)
		kvrun_answer_stats(&answer);
	if (answer.text.n > 0)
		(void)kvrun_message(messages, "assistant", answer.text.bytes, answer.text.n);
	else
		json_array_remove(messages, json_array_size(messages) - 1);
	kvrun_answer_free(&answer);
	return r == 3 ? r : 0;
}

int kvrun_chat(struct kvd_connection *c, const struct kvrun_options *o, const char *model,
	       json_t *messages)
{
	struct lines lines = { .bytes = malloc(LINE_MAX_BYTES + 1) };
	size_t n_kept = json_array_size(messages);
	bool stats = o->stats, warned = false;
	int r = 0;

	if (!lines.bytes) {
		fprintf(stderr, "kvrun: not enough memory\n");
		return 1;
	}
	printf("%s on kvd %s. /help lists commands, Ctrl-D ends.\n", *model ? model : "the model",
	       kvd_welcome(c)->kvd_version);
	while (r == 0) {
		char *line = NULL;
		printf(">>> ");
		fflush(stdout);
		kvrun_interrupt_arm();
		enum line_result got = next_line(&lines, &line);
		kvrun_interrupt_disarm();
		if (got == LINE_INTERRUPTED) {
			printf("\n%s",
			       warned ? "" : "Ctrl-D or /quit ends; Ctrl-C once more too.\n");
			if (warned)
				r = KVRUN_INTERRUPTED;
			warned = true;
			continue;
		}
		warned = false;
		if (got == LINE_END) {
			printf("\n");
			break;
		}
		if (got == LINE_TOO_LONG) {
			printf("that line is longer than %u bytes; put the text into a file: kvrun < FILE\n",
			       LINE_MAX_BYTES);
			continue;
		}
		enum command_result command = chat_command(line, messages, n_kept, &stats);
		if (command == COMMAND_NONE && line[strspn(line, " \t\r")] != '\0')
			r = chat_turn(c, o, model, messages, line, stats);
		free(line);
		if (command == COMMAND_QUIT)
			break;
	}
	free(lines.bytes);
	return r;
}
