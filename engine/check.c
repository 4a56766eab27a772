/* check.c - kvengine --check: open a model file as the engine would, print what it is.
 *
 * Everything that can be wrong with a file is found here, as at start: container, shapes, types,
 * vocabulary.  Nothing is computed and no weights are laid out. */
#include "engine/eval.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "engine/forward.h"
#include "engine/model.h"
#include "engine/tokenizer.h"

static void print_hex(const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		printf("%02x", bytes[i]);
}

/* A JSON string: names may hold anything printable, quotes and backslashes too. */
static void print_quoted(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			putchar('\\');
		if ((unsigned char)*text < ' ')
			printf("\\u%04x", (unsigned)*text);
		else
			putchar(*text);
	}
	putchar('"');
}

static void print_facts(const struct model *m, const struct tokenizer *t, bool json)
{
	const struct model_config *c = &m->config;
	const char *template_text;
	size_t template_bytes;
	bool template = tokenizer_chat_template(t, &template_text, &template_bytes);
	const struct {
		const char *name;
		uint64_t value;
	} numbers[] = {
		{ "layers", c->n_layers },
		{ "embedding", c->n_embd },
		{ "heads", c->n_heads },
		{ "kv_heads", c->n_kv_heads },
		{ "head_dim", c->head_dim },
		{ "feed_forward", c->n_ff },
		{ "vocabulary", c->n_vocab },
		{ "context", c->ctx_train },
		{ "rope_dims", c->rope_dims },
		{ "page_bytes", (uint64_t)forward_block_bytes(c) * c->n_layers },
		{ "chat_template", template },
	};
	char numerics[32] = "";

	(void)forward_numerics_id_of(NULL, numerics);
	printf(json ? "{\"arch\":" : "arch           ");
	json ? print_quoted(c->arch) : (void)printf("%s", c->arch);
	printf(json ? ",\"name\":" : "\nname           ");
	json ? print_quoted(c->name) : (void)printf("%s", c->name[0] ? c->name : "(none)");
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (json)
			printf(",\"%s\":%" PRIu64, numbers[i].name, numbers[i].value);
		else
			printf("\n%-14s %" PRIu64, numbers[i].name, numbers[i].value);
	printf(json ? ",\"rope_base\":%.9g,\"rope_scale\":%.9g,\"rms_eps\":%.9g,\"tied_head\":%s" :
	       "\nrope_base      %.9g\nrope_scale     %.9g\nrms_eps        %.9g\ntied_head      %s",
	       (double)c->rope_base, (double)c->rope_scale, (double)c->rms_eps,
	       m->output.data == m->tok_embd.data ? "true" : "false");
	printf(json ? ",\"numerics\":\"%s\",\"fingerprint\":\""
		    : "\nnumerics       %s\nfingerprint    ",
	       numerics);
	print_hex(m->fingerprint, sizeof(m->fingerprint));
	printf(json ? "\"}\n" : "\n");
}

int eval_check(const struct options *o)
{
	struct model *model = NULL;
	struct tokenizer *tokenizer = NULL;
	char err[512] = "";
	int r = model_open(o->model, &model, err, sizeof(err));

	if (r == 0)
		r = tokenizer_new(model->file, &tokenizer, err, sizeof(err));
	if (r == 0)
		print_facts(model, tokenizer, o->json);
	else
		fprintf(stderr, "kvengine: %s\n", err);
	tokenizer_free(tokenizer);
	if (model)
		model_close(model);
	return r == 0 ? 0 : 1;
}
