/* eval.h - kvengine without a daemon: facts of a model file, and the score of a text. */
#ifndef ENGINE_EVAL_H
#define ENGINE_EVAL_H

#include "engine/options.h"

/* Validate the file and print its facts on stdout.  Returns the program's exit code. */
int eval_check(const struct options *o);

/* Run the model over a text or ids and print the scores on stdout.  Returns the exit code. */
int eval_run(const struct options *o);

#endif
