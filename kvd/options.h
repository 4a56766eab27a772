/* options.h - kvd's command line, and the configuration that it makes with the files. */
#ifndef KVD_OPTIONS_H
#define KVD_OPTIONS_H

#include <stdio.h>

#include "kvd/config.h"
#include "kvd/loop.h"

#define OPTIONS_CONFIG_FILE "/etc/kvd/kvd.conf"

/* Arguments as they were given; NULL: not given; "" where an option has none. */
struct options {
#define KVD_OPTION(field, name, argument, text) const char *field;
#include "kvd/options.def"
#undef KVD_OPTION
};

/* Returns -1: go on; else the exit code (--help, --version, or wrong usage: the sentence is on stderr). */
int options_take(int argc, char **argv, struct options *ret);

/* Files, then the command line, then the checks of the whole: at start and at every reload.
 * Returns 0; else the exit code, 1 or 2, with a sentence in ret_error (CONFIG_ERROR_MAX bytes). */
int options_load(const struct options *options, struct config *config, char *ret_error);

/* Print one line per option, folded to 80 columns. */
void options_help(FILE *file);

#endif
