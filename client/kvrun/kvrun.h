/* kvrun.h - prompts from a person or a script, answers as they come.
 *
 *   arguments.c   the command line, checked
 *   prompt.c      texts: from files and stdin, as chat messages
 *   answer.c      one generation: stream, print, cancel on Ctrl-C
 *   chat.c        a conversation on a terminal
 *   interrupt.c   Ctrl-C as something that poll() sees */
#ifndef KVRUN_KVRUN_H
#define KVRUN_KVRUN_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kvd/kvd.h"

#define KVRUN_STOPS_MAX 32u
#define KVRUN_TEXT_MAX                                                                             \
	(64u << 20) /* bytes of a prompt; engines have limits of their own, and say so */
#define KVRUN_INTERRUPTED 130      /* exit code after Ctrl-C, as shells have it */

struct kvrun_options {
	const char *words[2];      /* what is no option, at most two */
	unsigned n_words;
	const char *socket, *tenant, *engine, *system_path;
	const char *stops[KVRUN_STOPS_MAX];
	struct kvd_request request;/* all but text */
	uint32_t wait_ms;
	bool raw, json, stats, help, version;
};

/* Read the command line.  Returns 0, or 2 with one sentence in error (error_bytes long). */
int kvrun_arguments(int argc, char **argv, struct kvrun_options *ret, char *error,
		    size_t error_bytes);
void kvrun_help(void);

/* ---- prompt.c ---- */
struct kvrun_text {
	char *bytes;               /* malloc'ed, NUL-terminated */
	size_t n;
};
/* Read all of a descriptor; name for the error. 0, or 1 with one line on stderr. */
int kvrun_read_all(int fd, const char *name, struct kvrun_text *ret);
int kvrun_read_file(const char *path, struct kvrun_text *ret);
/* Append {role, content} to an array of messages. 0, or 2 with one line on stderr if it is not
 * UTF-8. */
int kvrun_message(json_t *messages, const char *role, const char *text, size_t n);

/* ---- answer.c ---- */
struct kvrun_answer {
	struct kvrun_text text;
	json_t *tokens;            /* ids, where they were asked for; else NULL */
	struct kvd_msg_end end;    /* valid if ended */
	bool ended, interrupted;
	int resumed;
	char engine[KVD_NAME_MAX];
	char error[512];           /* "" or why it is not what was asked for */
};
/* Generate once and print the text as it comes.
 * model        "" = the only one served
 * print        write the text to stdout
 * Returns the exit code; ret is the caller's to free in any case. */
int kvrun_answer(struct kvd_connection *c, const struct kvrun_options *o, const char *model,
		 const struct kvrun_text *prompt, bool print, struct kvrun_answer *ret);
void kvrun_answer_free(struct kvrun_answer *a);
/* The object of --json; NULL where memory ran out. */
json_t *kvrun_answer_json(const struct kvrun_answer *a);
/* One line about it on stderr. */
void kvrun_answer_stats(const struct kvrun_answer *a);

/* ---- chat.c ---- */
int kvrun_chat(struct kvd_connection *c, const struct kvrun_options *o, const char *model,
	       json_t *messages);

/* ---- interrupt.c ---- */
/* From now on the first Ctrl-C is noted and the second within the same wait ends the process at
 * once. Before, Ctrl-C ends it with KVRUN_INTERRUPTED. */
void kvrun_interrupt_arm(void);
void kvrun_interrupt_disarm(void);
/* Becomes readable with Ctrl-C; kvrun_interrupt_take() says whether there was one and forgets it. */
int kvrun_interrupt_fd(void);
bool kvrun_interrupt_take(void);
/* Set it all up; 0 or 1 with one line on stderr. */
int kvrun_interrupt_open(void);

#endif
