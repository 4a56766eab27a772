/* main.c - kvctl's command line. */
#include "client/kvctl/kvctl.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "kvd/version.h"

static void print_help(void)
{
	printf("usage: kvctl COMMAND [WORD...] [OPTION...]\n\n"
	       "  kvctl status                 is there room, and what does sharing save\n"
	       "  kvctl map                    see which pages are shared\n"
	       "  kvctl tenants --json         the same numbers for a program\n"
	       "  kvctl status --watch 1       again every second, until Ctrl-C\n"
	       "  kvctl pin 7f3a9c01-1b        keep that prefix; `kvctl prefixes` shows the names\n\n"
	       "commands (* for administrators: root, the user of kvd, group kvadm)\n");
	for (unsigned i = 0; i < kvctl_n_commands; i++) {
		const struct kvctl_command *c = &kvctl_commands[i];
		char words[64];
		snprintf(words, sizeof(words), "%s%s%s", c->name, *c->operands ? " " : "", c->operands);
		printf("  %-24s%c %s\n", words, c->who == KVCTL_ADMIN ? '*' : ' ', c->help);
	}
	printf("\noptions\n");
#define KVCTL_OPTION(name, word, argument, text) \
	printf("  --%-18s %s\n", *(argument) ? word " " argument : word, text);
#include "client/kvctl/options.def"
#undef KVCTL_OPTION
	printf("\nexit status: 0 ok, 1 failed or not clean, 2 wrong usage, 3 cannot reach kvd, 4 refused, 5 deadline "
	       "passed\n");
}

struct arguments {
	const char *socket, *command;
	char **argv;
	double watch_seconds;      /* 0: once */
	struct kvctl_view view;
};

static int usage(const char *format, const char *what)
{
	fprintf(stderr, "kvctl: ");
	fprintf(stderr, format, what);
	fprintf(stderr, "; see `kvctl --help`\n");
	return 2;
}

static unsigned terminal_width(void)
{
	struct winsize size;
	const char *columns = getenv("COLUMNS");
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		return size.ws_col;
	int given = columns ? atoi(columns) : 0;
	return given > 0 && given < 10000 ? (unsigned)given : 100;
}

static bool wants_colour(void)
{
	const char *no_colour = getenv("NO_COLOR"), *term = getenv("TERM");
	return isatty(STDOUT_FILENO) && !(no_colour && *no_colour) &&
	       !(term && !strcmp(term, "dumb"));
}

static int take_by(struct kvctl_view *v, const char *word)
{
	if (!strcmp(word, "state"))
		v->by = KVCTL_BY_STATE;
	else if (!strcmp(word, "engine"))
		v->by = KVCTL_BY_ENGINE;
	else if (!strcmp(word, "tenant"))
		v->by = KVCTL_BY_TENANT;
	else
		return usage("--by %s is none of state, engine, tenant", word);
	return 0;
}

static int take_seconds(const char *option, double *ret, const char *word)
{
	char *end;
	*ret = strtod(word, &end);
	if (*end || end == word || !(*ret >= 0.1 && *ret <= 86400))
		return kvctl_complain(2, "--%s %s is not a number of seconds from 0.1 to 86400; see `kvctl --help`",
				      option, word);
	return 0;
}

enum {
	OPTIONS_FROM = 255,
#define KVCTL_OPTION(name, word, argument, text) OPT_##name,
#include "client/kvctl/options.def"
#undef KVCTL_OPTION
};

/* One option; 0: go on; -1: done, exit 0; else an exit code. */
static int take_option(struct arguments *a, int option)
{
	struct kvctl_arguments *more = &a->view.arguments;
	switch (option) {
	case OPT_JSON: a->view.json = true; return 0;
	case OPT_NO_HEADERS: a->view.headers = false; return 0;
	case OPT_WATCH: return take_seconds("watch", &a->watch_seconds, optarg);
	case 'w':
	case OPT_FOLLOW: more->follow = true; return 0;
	case OPT_ALL: a->view.all = true; return 0;
	case OPT_BY: return take_by(&a->view, optarg);
	case OPT_TENANT: more->tenant = optarg; return 0;
	case OPT_PREFIX:
		return kvctl_prefix_parse(optarg, &more->prefix)
			       ? 0
			       : usage("--prefix %s is no name of a prefix, as kvctl prefixes "
				       "shows them",
				       optarg);
	case OPT_BYTES:
		return kvctl_size_parse(optarg, &more->bytes) && more->bytes
			       ? 0 : usage("--bytes %s is no size; write for example 512M", optarg);
	case OPT_DRY_RUN: more->dry_run = true; return 0;
	case OPT_TRIGGER: more->trigger = optarg; return 0;
	case OPT_SECONDS: return take_seconds("seconds", &more->seconds, optarg);
	case OPT_WITH_TOKENS: more->with_tokens = true; return 0;
	case OPT_WAIT: more->wait = true; return 0;
	case OPT_TIMEOUT: return take_seconds("timeout", &more->timeout_seconds, optarg);
	case OPT_SOCKET: a->socket = more->socket = optarg; return 0;
	case OPT_VERSION: printf("kvctl %s\n", KVD_VERSION); return -1;
	case 'h':
	case OPT_HELP: print_help(); return -1;
	case ':': return usage("%s needs a value", a->argv[optind - 1]);
	default: return usage("unknown option %s", a->argv[optind - 1]);
	}
}

/* Returns 0: go on; -1: done, exit 0; else an exit code. */
static int take_arguments(struct arguments *a, int argc, char **argv)
{
	static const struct option options[] = {
#define KVCTL_OPTION(name, word, argument, text) \
	{ word, sizeof(argument) > 1 ? required_argument : no_argument, NULL, OPT_##name },
#include "client/kvctl/options.def"
#undef KVCTL_OPTION
		{ 0 },
	};
	struct kvctl_arguments *more = &a->view.arguments;
	int option, r = 0;

	opterr = 0;
	a->argv = argv;
	while (r == 0 && (option = getopt_long(argc, argv, ":hw", options, NULL)) != -1)
		r = take_option(a, option);
	if (r != 0)
		return r;
	if (optind == argc)
		return usage("no command%s", "");
	a->command = argv[optind++];
	for (; optind < argc; optind++) {
		if (more->n_words == KVCTL_WORDS_MAX)
			return usage("%s is one word too many", argv[optind]);
		more->word[more->n_words++] = argv[optind];
	}
	return 0;
}

/* Ask once, or again and again. Each round asks on the same connection. */
static int run(const struct arguments *a, const struct kvctl_command *command)
{
	struct kvd_connection *c;
	int r = kvd_connect(a->socket, "kvctl " KVD_VERSION, NULL, &c);

	if (r != 0 && command->who == KVCTL_HOST) {
		kvd_close(c);
		return command->run(&a->view, NULL);
	}
	if (r != 0) {
		fprintf(stderr, "kvctl: %s\n", kvd_error(c));
		kvd_close(c);
		return r > 0 ? kvd_status_exit_code(r) : 3;
	}
	do {
		bool screen = a->watch_seconds > 0 && !a->view.json && a->view.pretty;
		if (screen)
			fprintf(a->view.out, "\033[H\033[2J");
		r = command->run(&a->view, c);
		if (fflush(a->view.out) != 0 || ferror(a->view.out)) {
			fprintf(stderr, "kvctl: cannot write the answer: %s\n", strerror(errno));
			r = 1;
		}
		if (r == 0 && a->watch_seconds > 0) {
			struct timespec pause = { .tv_sec = (time_t)a->watch_seconds };
			pause.tv_nsec = (long)((a->watch_seconds - (double)pause.tv_sec) * 1e9);
			nanosleep(&pause, NULL);
		}
	} while (r == 0 && a->watch_seconds > 0);
	kvd_close(c);
	return r;
}

int main(int argc, char **argv)
{
	struct arguments a = { .view = { .out = stdout, .headers = true } };
	const struct kvctl_command *command;
	const char *near;

	a.view.pretty = isatty(STDOUT_FILENO);
	a.view.colour = wants_colour();
	a.view.width = terminal_width();
	int r = take_arguments(&a, argc, argv);
	if (r != 0)
		return r < 0 ? 0 : r;
	command = kvctl_command_find(a.command, &near);
	if (!command) {
		fprintf(stderr, "kvctl: unknown command %s; ", a.command);
		fprintf(stderr, near ? "did you mean %s?\n" : "see `kvctl --help`\n", near);
		return 2;
	}
	if (a.view.arguments.n_words > command->most)
		return usage("%s is one word too many", a.view.arguments.word[command->most]);
	if (a.view.arguments.n_words < command->least)
		return kvctl_complain(2, "%s needs %s; see `kvctl --help`", command->name, command->operands);
	return run(&a, command);
}
