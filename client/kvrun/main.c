/* main.c - kvrun: which model, which prompt, once or as a conversation. */
#include "client/kvrun/kvrun.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/packet.h"
#include "kvd/version.h"

struct task {
	const char *model;         /* "" = the only one served */
	const char *engine;        /* NULL = any */
	const char *prompt;        /* NULL: from stdin, or a conversation */
};

/* Whether a word names a model that is served, or an engine; then the task is about it.  Whoever
 * may not list engines gets "no". */
static bool take_served(struct kvd_connection *c, const char *word, struct task *task)
{
	const void *rows;
	uint64_t n;
	uint32_t row_bytes;
	bool model = false, engine = false;

	if (strlen(word) >= KVD_NAME_MAX ||
	    kvd_query(c, KVD_Q_ENGINES, NULL, &rows, &n, &row_bytes) != 0)
		return false;
	for (uint64_t i = 0; i < n; i++) {
		const struct kvd_row_engine *e =
			(const void *)((const uint8_t *)rows + i * row_bytes);
		model = model || !strncmp(e->model, word, KVD_NAME_MAX);
		engine = engine || !strncmp(e->name, word, KVD_NAME_MAX);
	}
	kvd_rows_free(rows, n, row_bytes);
	if (model)
		task->model = word;
	else if (engine)
		task->engine = word;
	return model || engine;
}

/* What the words of the command line mean. */
static struct task take_words(struct kvd_connection *c, const struct kvrun_options *o)
{
	struct task task = { .model = "", .engine = o->engine };
	if (o->n_words == 2) {
		task.model = o->words[0];
		task.prompt = o->words[1];
	} else if (o->n_words == 1 &&
		   (!strcmp(o->words[0], "-") || !take_served(c, o->words[0], &task))) {
		task.prompt = o->words[0];
	}
	if (task.prompt && !strcmp(task.prompt, "-"))
		task.prompt = NULL;
	return task;
}

/* The text to send: the prompt itself, or all messages as JSON.  Takes over given. */
static int make_prompt(const struct kvrun_options *o, json_t *messages, struct kvrun_text *given)
{
	if (o->raw)
		return 0;
	int r = kvrun_message(messages, "user", given->bytes, given->n);
	free(given->bytes);
	given->bytes = r == 0 ? json_dumps(messages, JSON_COMPACT) : NULL;
	if (r == 0 && !given->bytes) {
		fprintf(stderr, "kvrun: not enough memory for the prompt\n");
		return 1;
	}
	given->n = r == 0 ? strlen(given->bytes) : 0;
	return r;
}

static int print_json(const struct kvrun_answer *a)
{
	json_t *root = kvrun_answer_json(a);
	if (!root || json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) != 0 ||
	    printf("\n") < 0 || fflush(stdout) != 0) {
		fprintf(stderr, "kvrun: cannot write the answer\n");
		json_decref(root);
		return 1;
	}
	json_decref(root);
	return 0;
}

static int once(struct kvd_connection *c, const struct kvrun_options *o, const struct task *task,
		json_t *messages)
{
	struct kvrun_text prompt = { 0 };
	struct kvrun_answer answer;
	int r = 0;

	if (task->prompt) {
		prompt.bytes = strdup(task->prompt);
		prompt.n = strlen(task->prompt);
		if (!prompt.bytes)
			fprintf(stderr, "kvrun: not enough memory for the prompt\n");
	} else {
		r = kvrun_read_all(STDIN_FILENO, "stdin", &prompt);
		/* The newline is the shell's, not the question's; a raw prompt is taken to the
		 * byte. */
		if (r == 0 && !o->raw && prompt.n > 0 && prompt.bytes[prompt.n - 1] == '\n')
			prompt.n--;
	}
	if (r == 0 && prompt.bytes)
		r = make_prompt(o, messages, &prompt);
	if (r != 0 || !prompt.bytes) {
		free(prompt.bytes);
		return r ? r : 1;
	}
	r = kvrun_answer(c, o, task->model, &prompt, !o->json, &answer);
	free(prompt.bytes);
	if (!o->json && answer.text.n > 0 && answer.text.bytes[answer.text.n - 1] != '\n' &&
	    printf("\n") < 0)
		r = r ? r : 1;
	fflush(stdout);
	if (answer.error[0])
		fprintf(stderr, "kvrun: %s\n", answer.error);
	if (o->json && print_json(&answer) != 0)
		r = r ? r : 1;
	if (o->stats && answer.ended)
		kvrun_answer_stats(&answer);
	kvrun_answer_free(&answer);
	return r;
}

static int run(struct kvd_connection *c, struct kvrun_options *o)
{
	struct task task = take_words(c, o);
	bool dash = o->n_words > 0 && !strcmp(o->words[o->n_words - 1], "-");
	bool chat = !task.prompt && !dash && isatty(STDIN_FILENO);
	json_t *messages = json_array();
	int r = 0;

	o->engine = task.engine;
	if (!messages) {
		fprintf(stderr, "kvrun: not enough memory\n");
		r = 1;
	} else if (o->system_path) {
		struct kvrun_text system;
		r = kvrun_read_file(o->system_path, &system);
		if (r == 0) {
			r = kvrun_message(messages, "system", system.bytes, system.n);
			free(system.bytes);
		}
	}
	if (r == 0 && chat && (o->json || o->raw)) {
		fprintf(stderr,
			"kvrun: --json and --raw need a prompt; give it as an argument or on stdin\n");
		r = 2;
	}
	if (r == 0)
		r = chat ? kvrun_chat(c, o, task.model, messages) : once(c, o, &task, messages);
	json_decref(messages);
	return r;
}

/* Reach kvd; where it is being started, within --deadline or --wait.  What that took is gone from the
 * deadline. */
static int connect_within(struct kvrun_options *o, struct kvd_connection **ret)
{
	struct kvd_request *q = &o->request;
	uint64_t began_usec = kvd_clock_usec();
	int r = kvd_connect_wait(o->socket, "kvrun " KVD_VERSION, o->tenant,
				 q->deadline_ms ? q->deadline_ms : o->wait_ms, ret);
	uint64_t past_ms = (kvd_clock_usec() - began_usec) / 1000u;

	if (q->deadline_ms > 0)
		q->deadline_ms = past_ms < q->deadline_ms ? q->deadline_ms - (uint32_t)past_ms : 1;
	return r;
}

int main(int argc, char **argv)
{
	struct kvrun_options o;
	struct kvd_connection *c;
	char error[256];
	int r = kvrun_arguments(argc, argv, &o, error, sizeof(error));

	if (r != 0) {
		fprintf(stderr, "kvrun: %s; see `kvrun --help`\n", error);
		return r;
	}
	if (o.help || o.version) {
		if (o.help)
			kvrun_help();
		else
			printf("kvrun %s\n", KVD_VERSION);
		return 0;
	}
	if (kvrun_interrupt_open() != 0)
		return 1;
	r = connect_within(&o, &c);
	if (r != 0)
		fprintf(stderr, "kvrun: %s\n", kvd_error(c));
	if (r == 0)
		r = run(c, &o);
	else
		r = r > 0 ? kvd_status_exit_code(r) : 3;
	kvd_close(c);
	return r;
}
