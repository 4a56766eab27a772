/* main.c - kvengine: the command line chooses: serve, check a file, or score a text. */
#include <stdio.h>
#include "engine/engine.h"
#include "engine/eval.h"
#include "engine/log.h"
#include "engine/options.h"
#include "kvd/kvd.h"

int main(int argc, char **argv)
{
	struct options options;
	char err[256];

	if (options_parse(argc, argv, &options, err, sizeof(err)) != 0) {
		fprintf(stderr, "kvengine: %s\n", err);
		return 2;
	}
	log_init(options.log_level);
	switch (options.action) {
	case OPTIONS_SERVE:
		return engine_run(&options);
	case OPTIONS_CHECK:
		return eval_check(&options);
	case OPTIONS_EVAL:
		return eval_run(&options);
	case OPTIONS_HELP:
		fputs(options_help, stdout);
		return 0;
	case OPTIONS_VERSION:
		printf("kvengine %s\n", kvd_version());
		return 0;
	}
	return 2;
}
