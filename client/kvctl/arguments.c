/* arguments.c - kvctl's command line: options.def and commands.def read into struct kvctl_line.
 *
 * Pure but for getopt's globals: prints nothing, asks nobody. */
#include "client/kvctl/kvctl.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Keep the sentence; returns 2, the exit code of wrong usage. */
__attribute__((format(printf, 2, 3)))
static int wrong(struct kvctl_line *a, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(a->error, sizeof(a->error), format, arguments);
	va_end(arguments);
	return 2;
}

static int take_by(struct kvctl_line *a, struct kvctl_view *v, const char *word)
{
	if (!strcmp(word, "state"))
		v->by = KVCTL_BY_STATE;
	else if (!strcmp(word, "engine"))
		v->by = KVCTL_BY_ENGINE;
	else if (!strcmp(word, "tenant"))
		v->by = KVCTL_BY_TENANT;
	else
		return wrong(a, "--by %s is none of state, engine, tenant", word);
	return 0;
}

static int take_seconds(struct kvctl_line *a, const char *option, double *ret, const char *word)
{
	char *end;
	*ret = strtod(word, &end);
	if (*end || end == word || !(*ret >= 0.1 && *ret <= 86400))
		return wrong(a, "--%s %s is not a number of seconds from 0.1 to 86400", option, word);
	return 0;
}

enum {
	OPTIONS_FROM = 255,
#define KVCTL_OPTION(name, word, argument, text) OPT_##name,
#include "client/kvctl/options.def"
#undef KVCTL_OPTION
};

/* One option. */
static int take_option(struct kvctl_line *a, int option)
{
	struct kvctl_arguments *more = &a->view.arguments;
	switch (option) {
	case OPT_JSON: a->view.json = true; return 0;
	case OPT_NO_HEADERS: a->view.headers = false; return 0;
	case OPT_WATCH: return take_seconds(a, "watch", &a->watch_seconds, optarg);
	case 'w':
	case OPT_FOLLOW: more->follow = true; return 0;
	case OPT_ALL: a->view.all = true; return 0;
	case OPT_BY: return take_by(a, &a->view, optarg);
	case OPT_TENANT: more->tenant = optarg; return 0;
	case OPT_PREFIX:
		return kvctl_prefix_parse(optarg, &more->prefix)
			       ? 0
			       : wrong(a, "--prefix %s is no name of a prefix, as kvctl prefixes "
				       "shows them",
				       optarg);
	case OPT_BYTES:
		return kvctl_size_parse(optarg, &more->bytes) && more->bytes
			       ? 0 : wrong(a, "--bytes %s is no size; write for example 512M", optarg);
	case OPT_DRY_RUN: more->dry_run = true; return 0;
	case OPT_TRIGGER: more->trigger = optarg; return 0;
	case OPT_SECONDS: return take_seconds(a, "seconds", &more->seconds, optarg);
	case OPT_WITH_TOKENS: more->with_tokens = true; return 0;
	case OPT_WAIT: more->wait = true; return 0;
	case OPT_TIMEOUT: return take_seconds(a, "timeout", &more->timeout_seconds, optarg);
	case OPT_SOCKET: a->socket = more->socket = optarg; return 0;
	case OPT_VERSION: a->version = true; return 0;
	case 'h':
	case OPT_HELP: a->help = true; return 0;
	case ':': return wrong(a, "%s needs a value", a->argv[optind - 1]);
	default: return wrong(a, "unknown option %s", a->argv[optind - 1]);
	}
}

/* The command and its words. */
static int take_words(struct kvctl_line *a, int argc, char **argv)
{
	struct kvctl_arguments *more = &a->view.arguments;
	const char *near;
	if (optind == argc)
		return wrong(a, "no command%s", "");
	const char *name = argv[optind++];
	a->command = kvctl_command_find(name, &near);
	if (!a->command && near)
		return wrong(a, "unknown command %s, did you mean %s?", name, near);
	if (!a->command)
		return wrong(a, "unknown command %s", name);
	for (; optind < argc; optind++) {
		if (more->n_words == KVCTL_WORDS_MAX || more->n_words == a->command->most)
			return wrong(a, "%s is one word too many", argv[optind]);
		more->word[more->n_words++] = argv[optind];
	}
	if (more->n_words < a->command->least)
		return wrong(a, "%s needs %s", a->command->name, a->command->operands);
	return 0;
}

int kvctl_arguments(struct kvctl_line *a, int argc, char **argv)
{
	static const struct option options[] = {
#define KVCTL_OPTION(name, word, argument, text) \
	{ word, sizeof(argument) > 1 ? required_argument : no_argument, NULL, OPT_##name },
#include "client/kvctl/options.def"
#undef KVCTL_OPTION
		{ 0 },
	};
	int option, r = 0;

	opterr = 0;
	optind = 0;                          /* from the beginning: a test parses many lines */
	a->argv = argv;
	while (r == 0 && !a->help && !a->version && (option = getopt_long(argc, argv, ":hw", options, NULL)) != -1)
		r = take_option(a, option);
	return r != 0 || a->help || a->version ? r : take_words(a, argc, argv);
}
