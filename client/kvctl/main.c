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
	printf("usage: kvctl COMMAND [OPTION...]\n\n"
	       "  kvctl status                 is there room, and what does sharing save\n"
	       "  kvctl map                    see which pages are shared\n"
	       "  kvctl tenants --json         the same numbers for a program\n"
	       "  kvctl status --watch 1       again every second, until Ctrl-C\n\ncommands\n");
	for (unsigned i = 0; i < kvctl_n_commands; i++)
		printf("  %-12s %s\n", kvctl_commands[i].name, kvctl_commands[i].help);
	printf("\noptions\n"
	       "  --json             one JSON object or array; sizes in bytes\n"
	       "  --no-headers       tables without titles\n"
	       "  --watch SECONDS    ask again and again; with --json one line each time\n"
	       "  --all              pages: list free frames too\n"
	       "  --by WHAT          map: cells show state (default), engine or tenant\n"
	       "  --socket PATH      kvd's socket; else $KVD_SOCKET, /run/kvd/kvd.sock, "
	       "$XDG_RUNTIME_DIR/kvd/kvd.sock\n"
	       "  -h, --help         this text\n"
	       "  --version          the version\n\n"
	       "exit status: 0 ok, 1 failed or not clean, 2 wrong usage, 3 cannot reach kvd, 4 "
	       "refused\n");
}

struct arguments {
	const char *socket, *command;
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

static int take_seconds(double *ret, const char *word)
{
	char *end;
	*ret = strtod(word, &end);
	if (*end || end == word || !(*ret >= 0.1 && *ret <= 86400))
		return usage("--watch %s is not a number of seconds from 0.1 to 86400", word);
	return 0;
}

/* Returns 0: go on; -1: done, exit 0; else an exit code. */
static int take_arguments(struct arguments *a, int argc, char **argv)
{
	enum {
		OPT_JSON = 256,
		OPT_NO_HEADERS,
		OPT_WATCH,
		OPT_ALL,
		OPT_BY,
		OPT_SOCKET,
		OPT_VERSION
	};
	static const struct option options[] = {
		{ "json", no_argument, NULL, OPT_JSON },
		{ "no-headers", no_argument, NULL, OPT_NO_HEADERS },
		{ "watch", required_argument, NULL, OPT_WATCH },
		{ "all", no_argument, NULL, OPT_ALL },
		{ "by", required_argument, NULL, OPT_BY },
		{ "socket", required_argument, NULL, OPT_SOCKET },
		{ "version", no_argument, NULL, OPT_VERSION },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int option, r = 0;

	opterr = 0;
	while (r == 0 && (option = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		switch (option) {
		case OPT_JSON: a->view.json = true; break;
		case OPT_NO_HEADERS: a->view.headers = false; break;
		case OPT_WATCH: r = take_seconds(&a->watch_seconds, optarg); break;
		case OPT_ALL: a->view.all = true; break;
		case OPT_BY: r = take_by(&a->view, optarg); break;
		case OPT_SOCKET: a->socket = optarg; break;
		case OPT_VERSION: printf("kvctl %s\n", KVD_VERSION); return -1;
		case 'h': print_help(); return -1;
		case ':': return usage("%s needs a value", argv[optind - 1]);
		default: return usage("unknown option %s", argv[optind - 1]);
		}
	}
	if (r != 0)
		return r;
	if (optind == argc)
		return usage("no command%s", "");
	if (optind + 1 < argc)
		return usage("%s is one word too many", argv[optind + 1]);
	a->command = argv[optind];
	return 0;
}

/* Ask once, or again and again. Each round asks on the same connection. */
static int run(const struct arguments *a, const struct kvctl_command *command)
{
	struct kvd_connection *c;
	int r = kvd_connect(a->socket, "kvctl " KVD_VERSION, NULL, &c);

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
	return run(&a, command);
}
