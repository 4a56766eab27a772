/* main.c - kvctl's command line. */
#include "client/kvctl/kvctl.h"

#include <errno.h>
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

/* Ask once, or again and again. Each round asks on the same connection. */
static int run(const struct kvctl_line *a)
{
	const struct kvctl_command *command = a->command;
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
	/* `top` on a terminal goes on. */
	double watch_seconds = a->watch_seconds;
	if (watch_seconds <= 0 && a->view.pretty && !a->view.json && !strcmp(command->name, "top"))
		watch_seconds = 1;
	do {
		bool screen = watch_seconds > 0 && !a->view.json && a->view.pretty;
		if (screen)
			fprintf(a->view.out, "\033[H\033[2J");
		r = command->run(&a->view, c);
		if (fflush(a->view.out) != 0 || ferror(a->view.out)) {
			fprintf(stderr, "kvctl: cannot write the answer: %s\n", strerror(errno));
			r = 1;
		}
		if (r == 0 && watch_seconds > 0) {
			struct timespec pause = { .tv_sec = (time_t)watch_seconds };
			pause.tv_nsec = (long)((watch_seconds - (double)pause.tv_sec) * 1e9);
			nanosleep(&pause, NULL);
		}
	} while (r == 0 && watch_seconds > 0);
	kvd_close(c);
	return r;
}

int main(int argc, char **argv)
{
	struct kvctl_line a = { .view = { .out = stdout, .headers = true } };

	a.view.pretty = isatty(STDOUT_FILENO);
	a.view.colour = wants_colour();
	a.view.width = terminal_width();
	int r = kvctl_arguments(&a, argc, argv);
	if (r != 0)
		return kvctl_complain(r, "%s; see `kvctl --help`", a.error);
	if (a.help)
		print_help();
	else if (a.version)
		printf("kvctl %s\n", KVD_VERSION);
	else
		return run(&a);
	return 0;
}
