/* options.c - the command line.  Nothing is guessed, unknown options are refused.
 *
 * One table drives the parsing; the help text below is what a person reads. */
#include "engine/options.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "kvd/cuda/driver.h"
#include "kvd/proto.h"

const char options_help[] =
"kvengine - run a language model whose KV cache lives in kvd\n"
"\n"
"  kvengine --model FILE [options]      serve the model through kvd\n"
"  kvengine --check FILE [--json]       validate a model file, print its facts; needs no daemon\n"
"  kvengine --eval FILE --tokens FILE|--text FILE [--json] [--logits-out FILE]\n"
"                                       score a text; needs no daemon\n"
"\n"
"  --model FILE       GGUF file\n"
"  --name NAME        engine name, unique on the host (default: model name and process id)\n"
"  --served-as NAME   model name clients ask for (default: the name in the file, or of the file)\n"
"  --ctx N            tokens of prompt and answer together (default: the model's, at most 8192)\n"
"  --threads N        compute threads, 1 to 64 (default: the CPUs this process may use)\n"
"  --max-seqs N       sequences at one time, 1 to 1024 (default 16)\n"
"  --chunk N          tokens of prefill in one step, 1 to 4096 (default 64 a thread, at most 256)\n"
"  --kv-format F      bf16\n"
"  --device D         host, cuda or cuda:N (default host)\n"
"  --socket PATH      kvd's socket (default: $KVD_SOCKET, else /run/kvd/kvd.sock where there is\n"
"                     one, else $XDG_RUNTIME_DIR/kvd/kvd.sock)\n"
"  --isa NAME         avx512, avx2 or portable (default: the best this machine has)\n"
"  --spin USEC        an idle compute thread spins so long before it sleeps, to 1000 (default 50)\n"
"  --log-level L      error, warning, info or debug (default info)\n"
"  --help, --version\n"
"\n"
"With --eval: n_tokens ids were read; nll is the sum of -ln p(token | tokens before it) over the\n"
"n_tokens - 1 tokens that have one before them, ppl = exp(nll / (n_tokens - 1)); argmax and top\n"
"have an entry for each position, logits_hash covers all.  --tokens reads decimal ids; --text is\n"
"tokenised, BOS first where the file asks for it.  --logits-out writes f32 (n_tokens, n_vocab).\n"
"\n"
"On SIGTERM running answers get 5 seconds to end; the others go on in another engine.\n";

/* Tokens of prefill in a step, for each thread.  Everybody else waits a step for a token:
 * SmolLM2-135M on one Zen 3 thread prefills 351, 379, 387, 395, 391 tokens/s in chunks of 16,
 * 32, 64, 128, 256, in steps of 46, 85, 165, 324, 656 ms. */
#define CHUNK_A_THREAD 64u

enum kind { ACTION, STRING, NUMBER, FLAG, CHOICE, LEVEL };

struct option_spec {
	const char *name;
	enum kind kind;
	size_t offset;             /* in struct options */
	uint32_t min, max;         /* NUMBER; ACTION: min = enum options_action */
	const char *choices;       /* CHOICE: |-separated */
};

#define AT(field) offsetof(struct options, field)
static const struct option_spec specs[] = {
	{ "--model", ACTION, AT(model), OPTIONS_SERVE },
	{ "--check", ACTION, AT(model), OPTIONS_CHECK },
	{ "--eval", ACTION, AT(model), OPTIONS_EVAL },
	{ "--name", STRING, AT(name) },
	{ "--served-as", STRING, AT(served_as) },
	{ "--socket", STRING, AT(socket) },
	{ "--tokens", STRING, AT(tokens) },
	{ "--text", STRING, AT(text) },
	{ "--logits-out", STRING, AT(logits_out) },
	{ "--isa", CHOICE, AT(isa), 0, 0, "avx512|avx2|portable" },
	{ "--kv-format", CHOICE, SIZE_MAX, 0, 0, "bf16" },
	{ "--device", STRING, AT(device) },
	{ "--ctx", NUMBER, AT(n_ctx), 16, 1u << 20 },
	{ "--threads", NUMBER, AT(n_threads), 1, 64 },
	{ "--max-seqs", NUMBER, AT(max_seqs), 1, 1024 },
	{ "--chunk", NUMBER, AT(chunk_tokens), 1, 4096 },
	{ "--spin", NUMBER, AT(spin_usec), 0, 1000 },
	{ "--json", FLAG, AT(json) },
	{ "--log-level", LEVEL, AT(log_level) },
};

static uint32_t usable_cpus(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

	return n < 1 ? 1 : n > 64 ? 64 : (uint32_t)n;
}

static bool choice_has(const char *choices, const char *value)
{
	size_t n = strlen(value);

	for (const char *at = choices; n && *at; at += strcspn(at, "|"), at += *at == '|')
		if (strncmp(at, value, n) == 0 && (at[n] == '|' || at[n] == 0))
			return true;
	return false;
}

static int take_number(const struct option_spec *spec, const char *value, uint32_t *ret, char *err,
		       size_t errlen)
{
	char *end;
	unsigned long long number;

	errno = 0;
	number = strtoull(value, &end, 10);
	if (*value < '0' || *value > '9' || *end || errno || number < spec->min ||
	    number > spec->max) {
		snprintf(err, errlen, "%s %s: give a number from %u to %u", spec->name, value,
			 spec->min, spec->max);
		return -EINVAL;
	}
	*ret = (uint32_t)number;
	return 0;
}

static int take_value(const struct option_spec *spec, const char *value, struct options *o,
		      char *err, size_t errlen)
{
	void *field = (char *)o + (spec->offset == SIZE_MAX ? 0 : spec->offset);

	switch (spec->kind) {
	case ACTION:
		if (o->action) {
			snprintf(err, errlen, "%s: give one of --model, --check and --eval",
				 spec->name);
			return -EINVAL;
		}
		o->action = (enum options_action)spec->min;
		*(const char **)field = value;
		return 0;
	case CHOICE:
		if (!choice_has(spec->choices, value)) {
			snprintf(err, errlen, "%s %s: give one of %s", spec->name, value,
				 spec->choices);
			return -EINVAL;
		}
		if (spec->offset != SIZE_MAX)
			*(const char **)field = value;
		return 0;
	case NUMBER:
		return take_number(spec, value, field, err, errlen);
	case LEVEL:
		if (log_parse_level(value, field))
			return 0;
		snprintf(err, errlen, "%s %s: give one of error, warning, info, debug", spec->name,
			 value);
		return -EINVAL;
	case STRING:
		if (!*value) {
			snprintf(err, errlen, "%s: its value is empty", spec->name);
			return -EINVAL;
		}
		*(const char **)field = value;
		return 0;
	case FLAG:
		break;
	}
	return -EINVAL;
}

/* The spec that argument names ("--name" or "--name=value"); NULL if none does. */
static const struct option_spec *find_spec(const char *argument, const char **ret_value)
{
	for (size_t i = 0; i < sizeof(specs) / sizeof(specs[0]); i++) {
		size_t n = strlen(specs[i].name);
		if (strncmp(argument, specs[i].name, n) != 0 || (argument[n] && argument[n] != '='))
			continue;
		*ret_value = argument[n] ? argument + n + 1 : NULL;
		return &specs[i];
	}
	return NULL;
}

static int check_together(const struct options *o, char *err, size_t errlen)
{
	const char *wrong = NULL;

	if (!o->action)
		wrong = "give --model FILE, --check FILE or --eval FILE; see --help";
	else if (o->action == OPTIONS_EVAL && !o->tokens == !o->text)
		wrong = "--eval needs one of --tokens FILE and --text FILE";
	else if (o->action != OPTIONS_EVAL && (o->tokens || o->text || o->logits_out))
		wrong = "--tokens, --text and --logits-out belong to --eval";
	else if (o->action == OPTIONS_SERVE && o->json)
		wrong = "--json belongs to --check and --eval";
	else if (o->name && strlen(o->name) >= KVD_NAME_MAX)
		wrong = "--name is longer than 63 bytes";
	else if (o->served_as && strlen(o->served_as) >= KVD_NAME_MAX)
		wrong = "--served-as is longer than 63 bytes";
	if (!wrong)
		return 0;
	snprintf(err, errlen, "%s", wrong);
	return -EINVAL;
}

int options_parse(int argc, char **argv, struct options *ret_options, char *err, size_t errlen)
{
	struct options o = { .max_seqs = 16, .spin_usec = 50, .log_level = LOG_LEVEL_INFO,
			     .device = "host" };
	int ordinal;

	o.n_threads = usable_cpus();
	for (int i = 1; i < argc; i++) {
		const char *value = NULL;
		const struct option_spec *spec = find_spec(argv[i], &value);
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "--version") == 0) {
			o.action = argv[i][2] == 'h' ? OPTIONS_HELP : OPTIONS_VERSION;
			*ret_options = o;
			return 0;
		}
		if (!spec || (spec->kind == FLAG && value)) {
			snprintf(err, errlen, "%s is no option of kvengine; see --help", argv[i]);
			return -EINVAL;
		}
		if (spec->kind == FLAG) {
			*(bool *)((char *)&o + spec->offset) = true;
			continue;
		}
		if (!value && i + 1 == argc) {
			snprintf(err, errlen, "%s needs a value; see --help", argv[i]);
			return -EINVAL;
		}
		if (!value)
			value = argv[++i];
		if (take_value(spec, value, &o, err, errlen) != 0)
			return -EINVAL;
	}
	if (check_together(&o, err, errlen) != 0)
		return -EINVAL;
	if (driver_device_parse(o.device, &ordinal) < 0) {
		snprintf(err, errlen, "--device %s: give host, cuda or cuda:N", o.device);
		return -EINVAL;
	}
	if (!o.chunk_tokens)
		o.chunk_tokens = CHUNK_A_THREAD * (o.n_threads < 4 ? o.n_threads : 4);
	*ret_options = o;
	return 0;
}
