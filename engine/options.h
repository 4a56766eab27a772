/* options.h - kvengine's command line, parsed and checked, nothing opened yet. */
#ifndef ENGINE_OPTIONS_H
#define ENGINE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/log.h"

enum options_action {
	OPTIONS_SERVE = 1, OPTIONS_CHECK, OPTIONS_EVAL, OPTIONS_HELP, OPTIONS_VERSION
};

struct options {
	enum options_action action;
	const char *model;         /* file of --model, --check or --eval */
	const char *name;          /* engine's name for kvd; NULL: from model and pid */
	const char *served_as;     /* name clients ask for; NULL: the model's own */
	const char *socket;        /* NULL: as libkvd finds it */
	const char *isa;           /* NULL: the best the machine has */
	const char *device;        /* "host", "cuda" or "cuda:N" (backend.h) */
	const char *tokens, *text; /* --eval: files */
	const char *logits_out;    /* --eval: file for raw logits, or NULL */
	uint32_t n_ctx;            /* 0: the model's, at most OPTIONS_CTX_USUAL */
	uint32_t n_threads;
	uint32_t max_seqs;
	uint32_t chunk_tokens;     /* tokens of prefill in a step */
	uint32_t spin_usec;
	bool json;
	enum log_level log_level;
};

#define OPTIONS_CTX_USUAL 8192u

/* Parse.
 * err      one sentence naming the option and the remedy, on failure
 * Returns  0 or -EINVAL.  Strings of ret_options point into argv. */
int options_parse(int argc, char **argv, struct options *ret_options, char *err, size_t errlen);

/* The text of --help. */
extern const char options_help[];

#endif
