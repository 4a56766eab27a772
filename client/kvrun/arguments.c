/* arguments.c - kvrun's command line: every value checked, every mistake one sentence.
 *
 * Pure but for getopt's own state, so that it can be tested and fuzzed. */
#include "client/kvrun/kvrun.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	OPT_MAX_TOKENS = 256,
	OPT_TEMPERATURE,
	OPT_TOP_K,
	OPT_TOP_P,
	OPT_MIN_P,
	OPT_REPEAT_PENALTY,
	OPT_SEED,
	OPT_STOP,
	OPT_SYSTEM,
	OPT_TENANT,
	OPT_RAW,
	OPT_DEADLINE,
	OPT_ENGINE,
	OPT_SOCKET,
	OPT_IGNORE_END,
	OPT_PRIVATE,
	OPT_WAIT,
	OPT_JSON,
	OPT_STATS,
	OPT_VERSION,
};

static const struct option options[] = {
	{ "max-tokens", required_argument, NULL, OPT_MAX_TOKENS },
	{ "temperature", required_argument, NULL, OPT_TEMPERATURE },
	{ "top-k", required_argument, NULL, OPT_TOP_K },
	{ "top-p", required_argument, NULL, OPT_TOP_P },
	{ "min-p", required_argument, NULL, OPT_MIN_P },
	{ "repeat-penalty", required_argument, NULL, OPT_REPEAT_PENALTY },
	{ "seed", required_argument, NULL, OPT_SEED },
	{ "stop", required_argument, NULL, OPT_STOP },
	{ "system", required_argument, NULL, OPT_SYSTEM },
	{ "tenant", required_argument, NULL, OPT_TENANT },
	{ "raw", no_argument, NULL, OPT_RAW },
	{ "deadline", required_argument, NULL, OPT_DEADLINE },
	{ "engine", required_argument, NULL, OPT_ENGINE },
	{ "socket", required_argument, NULL, OPT_SOCKET },
	{ "ignore-end", no_argument, NULL, OPT_IGNORE_END },
	{ "private", no_argument, NULL, OPT_PRIVATE },
	{ "wait", required_argument, NULL, OPT_WAIT },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "stats", no_argument, NULL, OPT_STATS },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

void kvrun_help(void)
{
	printf("usage: kvrun [OPTION...] [MODEL] [PROMPT|-]\n\n"
	       "  kvrun \"Why is the sky blue?\"           ask the only model served\n"
	       "  kvrun smollm2 \"Why is the sky blue?\"   ask this model\n"
	       "  kvrun < question.txt                   the prompt comes from stdin (so it does "
	       "with -)\n"
	       "  kvrun smollm2                          a conversation on the terminal; so does "
	       "plain kvrun\n\n"
	       "One word alone is a model if an engine serves one of that name, else the "
	       "prompt.\n\n"
	       "  --max-tokens N       at most so many tokens; 0: until the context is full "
	       "(default 512)\n"
	       "  --temperature T      0: always the most likely token (default)\n"
	       "  --top-k N --top-p P --min-p P   leave unlikely tokens out (default: off)\n"
	       "  --repeat-penalty P   make repetitions less likely (default 1: off)\n"
	       "  --seed N             the same seed gives the same answer (default 0)\n"
	       "  --stop TEXT          end before this text; may be given several times\n"
	       "  --system FILE        the system message\n"
	       "  --raw                the prompt as it is, without the model's chat template\n"
	       "  --deadline MS        give up after so many milliseconds; until then wait for kvd\n"
	       "  --tenant NAME        act for this tenant (delegates only)\n"
	       "  --engine NAME        ask this engine\n"
	       "  --wait SECONDS       wait so long for kvd and an engine of the model (default 0)\n"
	       "  --private            share no page of this prompt\n"
	       "  --ignore-end         go on after the model's end token\n"
	       "  --json               one JSON object at the end instead of the text\n"
	       "  --stats              one line of figures on stderr\n"
	       "  --socket PATH        kvd's socket; else $KVD_SOCKET, /run/kvd/kvd.sock, "
	       "$XDG_RUNTIME_DIR/kvd/kvd.sock\n"
	       "  -h, --help           this text\n"
	       "  --version            the version\n\n"
	       "exit status: 0 ok, 1 failed, 2 wrong usage, 3 cannot reach kvd, 4 refused, 5 "
	       "deadline passed, 130 Ctrl-C\n");
}

struct reader {
	char *error;
	size_t error_bytes;
	bool wrong;
};

static void wrong_value(struct reader *r, const char *option, const char *text,
			const char *expected)
{
	if (!r->wrong)
		snprintf(r->error, r->error_bytes, "--%s %.100s is not %s", option, text, expected);
	r->wrong = true;
}

static uint64_t read_integer(struct reader *r, const char *option, uint64_t max)
{
	char *end;
	char expected[64];

	errno = 0;
	unsigned long long value = strtoull(optarg, &end, 10);
	if (optarg[0] >= '0' && optarg[0] <= '9' && *end == '\0' && errno == 0 && value <= max)
		return value;
	snprintf(expected, sizeof(expected), "a whole number from 0 to %llu",
		 (unsigned long long)max);
	wrong_value(r, option, optarg, expected);
	return 0;
}

/* A number with least <= value <= most; exclusive: least < value. */
static double read_number(struct reader *r, const char *option, double least, bool exclusive,
			  double most)
{
	char *end;
	char expected[64];
	double value = strtod(optarg, &end);

	if (end != optarg && *end == '\0' && isfinite(value) &&
	    (exclusive ? value > least : value >= least) && value <= most)
		return value;
	snprintf(expected, sizeof(expected), "a number %s %g and at most %g",
		 exclusive ? "above" : "from", least, most);
	wrong_value(r, option, optarg, expected);
	return 0;
}

static void read_stop(struct reader *r, struct kvrun_options *o)
{
	size_t used = strlen(optarg) + 1;
	for (uint32_t i = 0; i < o->request.n_stop; i++)
		used += strlen(o->stops[i]) + 1;
	if (optarg[0] == '\0') {
		wrong_value(r, "stop", "\"\"", "a text");
	} else if (o->request.n_stop == KVRUN_STOPS_MAX ||
		   used > sizeof(((struct kvd_msg_request *)0)->stop)) {
		if (!r->wrong)
			snprintf(r->error, r->error_bytes,
				 "the --stop texts are more than %u or together longer than %zu "
				 "bytes; give fewer or shorter ones",
				 KVRUN_STOPS_MAX, sizeof(((struct kvd_msg_request *)0)->stop));
		r->wrong = true;
	} else {
		o->stops[o->request.n_stop++] = optarg;
	}
}

static void read_option(struct reader *r, int option, struct kvrun_options *o)
{
	struct kvd_request *q = &o->request;
	switch (option) {
	case OPT_MAX_TOKENS:
		q->max_tokens = (uint32_t)read_integer(r, "max-tokens", UINT32_MAX);
		break;
	case OPT_TEMPERATURE:
		q->temperature = (float)read_number(r, "temperature", 0, false, 100);
		break;
	case OPT_TOP_K: q->top_k = (uint32_t)read_integer(r, "top-k", UINT32_MAX); break;
	case OPT_TOP_P: q->top_p = (float)read_number(r, "top-p", 0, true, 1); break;
	case OPT_MIN_P: q->min_p = (float)read_number(r, "min-p", 0, false, 1); break;
	case OPT_REPEAT_PENALTY:
		q->repeat_penalty = (float)read_number(r, "repeat-penalty", 0, true, 100);
		break;
	case OPT_SEED: q->seed = read_integer(r, "seed", UINT64_MAX); break;
	case OPT_STOP: read_stop(r, o); break;
	case OPT_SYSTEM: o->system_path = optarg; break;
	case OPT_TENANT: o->tenant = optarg; break;
	case OPT_RAW: o->raw = true; break;
	case OPT_DEADLINE:
		q->deadline_ms = (uint32_t)read_integer(r, "deadline", UINT32_MAX);
		break;
	case OPT_ENGINE: o->engine = optarg; break;
	case OPT_SOCKET: o->socket = optarg; break;
	case OPT_IGNORE_END: q->flags |= KVD_REQ_IGNORE_END; break;
	case OPT_PRIVATE: q->flags |= KVD_REQ_PRIVATE; break;
	case OPT_WAIT:
		o->wait_ms = (uint32_t)(read_number(r, "wait", 0, false, 86400) * 1000.0);
		break;
	case OPT_JSON: o->json = true; break;
	case OPT_STATS: o->stats = true; break;
	case OPT_VERSION: o->version = true; break;
	case 'h': o->help = true; break;
	}
}

int kvrun_arguments(int argc, char **argv, struct kvrun_options *o, char *error, size_t error_bytes)
{
	struct reader r = { .error = error, .error_bytes = error_bytes };
	int option;

	*o = (struct kvrun_options){ .request = KVD_REQUEST_INIT };
	o->request.max_tokens = 512;
	o->request.stop = o->stops;
	error[0] = '\0';
	optind = 0;
	opterr = 0;
	while (!r.wrong && (option = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		if (option == ':' || option == '?') {
			snprintf(error, error_bytes,
				 option == ':' ? "%.100s needs a value" : "unknown option %.100s",
				 argv[optind - 1]);
			return 2;
		}
		read_option(&r, option, o);
	}
	if (r.wrong)
		return 2;
	if (o->help || o->version)
		return 0;
	for (; optind < argc; optind++) {
		if (o->n_words == 2) {
			snprintf(error, error_bytes,
				 "\"%.60s\" is one word too many; put the prompt in quotes",
				 argv[optind]);
			return 2;
		}
		o->words[o->n_words++] = argv[optind];
	}
	if (o->raw && o->system_path) {
		snprintf(error, error_bytes,
			 "--system has no place in a --raw prompt; write it into the prompt");
		return 2;
	}
	o->request.raw = o->raw;
	if (o->json)
		o->request.flags |= KVD_REQ_LOGITS_HASH;
	return 0;
}
