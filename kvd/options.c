/* options.c - see options.h.  The table is options.def.  Start; options_load() at a reload, too. */
#include "kvd/options.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvd/cuda/driver.h"
#include "kvd/sentence.h"
#include "kvd/version.h"

static const struct option_row { const char *name, *argument, *text; size_t offset; } rows[] = {
#define KVD_OPTION(field, name, argument, text) { name, argument, text, offsetof(struct options, field) },
#include "kvd/options.def"
#undef KVD_OPTION
};

#define N_ROWS (sizeof(rows) / sizeof(rows[0]))
#define HELP_COLUMN 26
#define HELP_WIDTH 79

/* A row's text from HELP_COLUMN on; continued lines begin there. */
static void print_folded(FILE *file, const char *text, int at)
{
	for (const char *word = text; *word;) {
		int n = (int)strcspn(word, " ");

		if (at + 1 + n > HELP_WIDTH && at > HELP_COLUMN)
			at = fprintf(file, "\n%*s", HELP_COLUMN, "") - 1;
		at += fprintf(file, "%s%.*s", at > HELP_COLUMN ? " " : "", n, word);
		word += n + strspn(word + n, " ");
	}
	fputc('\n', file);
}

void options_help(FILE *file)
{
	for (size_t i = 0; i < N_ROWS; i++) {
		int n = fprintf(file, "  --%s%s%s", rows[i].name, *rows[i].argument ? " " : "", rows[i].argument);

		n += fprintf(file, "%*s", n < HELP_COLUMN - 1 ? HELP_COLUMN - n : 2, "");
		print_folded(file, rows[i].text, n);
	}
}

int options_take(int argc, char **argv, struct options *ret)
{
	struct option known[N_ROWS + 1] = { 0 };
	int option;

	for (size_t i = 0; i < N_ROWS; i++)
		known[i] = (struct option){ rows[i].name, *rows[i].argument != '\0', NULL, (int)i + 256 };
	while ((option = getopt_long(argc, argv, "", known, NULL)) >= 0) {
		if (option < 256) {
			fputs("kvd: see kvd --help\n", stderr);
			return 2;
		}
		*(const char **)((char *)ret + rows[option - 256].offset) = optarg ? optarg : "";
	}
	if (ret->version) {
		printf("kvd %s\n", KVD_VERSION);
		return 0;
	}
	if (ret->help) {
		fputs("Usage: kvd --pool SIZE [OPTIONS]\n"
		      "Own all KV-cache pages of a device and lend them to engines.\n\n",
		      stdout);
		options_help(stdout);
		fputs("\nExit: 0 ended by SIGTERM or SIGINT, 1 failed, 2 wrong usage.  SIGHUP reads the\n"
		      "configuration again.  Manual: kvd(8), kvd.conf(5).\n",
		      stdout);
		return 0;
	}
	if (optind < argc) {
		fprintf(stderr, "kvd: `%s` is no option; see kvd --help\n", argv[optind]);
		return 2;
	}
	return -1;
}

#define complain(error, ...) sentence(error, CONFIG_ERROR_MAX, __VA_ARGS__)

static int apply_path(const char *name, const char *given, char ret[CONFIG_PATH_MAX], char *error)
{
	if (given && (given[0] != '/' || strlen(given) >= CONFIG_PATH_MAX))
		return complain(error, 2, "--%s %.200s is not an absolute path of at most %d bytes", name, given,
				CONFIG_PATH_MAX - 1);
	if (given)
		strcpy(ret, given);
	return 0;
}

/* A whole number of at most `most`. */
static bool number_parse(const char *text, uint32_t most, uint32_t *ret)
{
	uint64_t number = 0;

	if (!*text || strlen(text) > 9)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		number = number * 10 + (uint64_t)(*text - '0');
	}
	*ret = (uint32_t)number;
	return number <= most;
}

/* The command line wins over the files.  0 or the exit code. */
static int apply(const struct options *options, struct config *config, char *error)
{
	uint64_t bytes;
	int r;

	if (options->device && snprintf(config->device, sizeof(config->device), "%s", options->device) >=
				       (int)sizeof(config->device))
		return complain(error, 2, "--device %s; write host, cuda or cuda:N", options->device);
	if (options->pool && size_parse(options->pool, &config->pool_bytes) < 0)
		return complain(error, 2, "--pool %s is not a size; write for example 512M or 4G", options->pool);
	if (options->extent && size_parse(options->extent, &config->extent_bytes) < 0)
		return complain(error, 2, "--extent %s is not a size; write for example 4M", options->extent);
	if (options->page_bytes_min) {
		if (size_parse(options->page_bytes_min, &bytes) < 0 || bytes < 512 || bytes > 1u << 30 ||
		    (bytes & (bytes - 1)))
			return complain(error, 2, "--page-bytes-min %s; write a power of two from 512 to 1G",
					options->page_bytes_min);
		config->page_bytes_min = (uint32_t)bytes;
	}
	if (options->spin_usec && !number_parse(options->spin_usec, 1000000, &config->spin_usec))
		return complain(error, 2, "--spin-usec %s; write a number of microseconds from 0 to 1000000",
				options->spin_usec);
	if (options->log_level && log_level_parse(options->log_level, &config->log_level) < 0)
		return complain(error, 2, "--log-level %s; write error, warn, info or debug", options->log_level);
	if (options->keeper)
		config->keeper = true;
	if (options->spill_bytes &&
	    (size_parse(options->spill_bytes, &config->spill_bytes) < 0 || !config->spill_bytes))
		return complain(error, 2, "--spill-bytes %s is not a size; write for example 32G",
				options->spill_bytes);
	r = apply_path("state", options->state, config->state, error);
	return r ? r : apply_path("spill", options->spill, config->spill, error);
}

/* Where kvd's own files go, and so the spill file of which only the size is given. */
static void settle_state(struct config *config)
{
	const char *given = getenv("STATE_DIRECTORY");

	/* systemd separates several by colons; kvd.service has one. */
	if (!config->state[0] && given && given[0] == '/' && strlen(given) < CONFIG_PATH_MAX && !strchr(given, ':'))
		strcpy(config->state, given);
	if (config->spill_bytes && !config->spill[0] && !config->n_tiers)
		strcpy(config->spill, config->state);
}

int options_load(const struct options *options, struct config *config, char *ret_error)
{
	const char *path = options->config ? options->config : OPTIONS_CONFIG_FILE;
	int r, ordinal;

	config_init(config);
	if ((options->config || access(path, F_OK) == 0) && config_load(config, path, ret_error) < 0)
		return 1;
	r = apply(options, config, ret_error);
	if (r)
		return r;
	if (driver_device_parse(config->device, &ordinal) < 0)
		return complain(ret_error, 2, "--device %s; write host, cuda or cuda:N", config->device);
	settle_state(config);
	/* Now, so that a reload with the same lines gives the same sizes. */
	if (!config->extent_bytes && config->pool_bytes)
		config->extent_bytes = config_extent_bytes(config->pool_bytes);
	return config_check(config, ret_error) < 0 ? 1 : 0;
}
