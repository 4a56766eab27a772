/* eval.c - score a text with the very kernels that serve, K and V in plain memory.
 *
 * One thread (and the forward's team), no daemon.  The pages lie in one private "extent" that has
 * exactly as many frames as the text has pages; apart from that a step is what engine.c runs, so
 * that an oracle which agrees with --eval agrees with what is served. */
#include "engine/eval.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "engine/backend.h"
#include "engine/model.h"
#include "engine/sample.h"
#include "engine/text_file.h"
#include "engine/tokenizer.h"

#define TOP 10

struct eval_top {
	int32_t id[TOP];           /* best first; of equal logits the lowest id */
	float logit[TOP];
};

struct eval {
	struct model *model;
	struct tokenizer *tokenizer;
	const struct backend *backend;
	struct backend_run *run;
	char numerics[32];
	int32_t *tokens;           /* (n_tokens) */
	size_t n_tokens;
	struct eval_top *top;      /* (n_tokens) */
	double nll;
	uint64_t logits_hash;
	FILE *logits_out;
	struct kv_window kv;
	size_t kv_bytes;
	uint32_t *table;           /* (pages) */
	struct step_row *rows;     /* (chunk) */
	float *logits;             /* (chunk, n_vocab) */
};

static void eval_deinit(struct eval *e)
{
	if (e->run) {
		e->backend->pages_free(e->run, e->kv.base, e->kv_bytes);
		e->backend->close(e->run);
	}
	tokenizer_free(e->tokenizer);
	model_close(e->model);
	if (e->logits_out)
		fclose(e->logits_out);
	free(e->tokens);
	free(e->top);
	free(e->table);
	free(e->rows);
	free(e->logits);
}

static int load_tokens(struct eval *e, const struct options *o, uint32_t n_ctx, char *err,
		       size_t errlen)
{
	int r;

	if (o->tokens)
		r = text_file_tokens(o->tokens, e->model->config.n_vocab, &e->tokens, &e->n_tokens,
				     err, errlen);
	else
		r = text_file_encode(o->text, e->tokenizer, &e->tokens, &e->n_tokens, err, errlen);
	if (r < 0)
		return r;
	if (e->n_tokens < 1 || e->n_tokens > n_ctx) {
		snprintf(err, errlen, "%s: %zu tokens; give 1 to %u (see --ctx)",
			 o->tokens ? o->tokens : o->text, e->n_tokens, n_ctx);
		return -EINVAL;
	}
	return 0;
}

/* Memory for K and V of all tokens, and the step's arrays. */
static int make_room(struct eval *e, uint32_t chunk, char *err, size_t errlen)
{
	const struct model_config *c = &e->model->config;
	struct kvd_geometry *g = &e->kv.geometry;
	size_t n_pages = (e->n_tokens + KVD_PAGE_TOKENS - 1) / KVD_PAGE_TOKENS;

	g->block_bytes = forward_block_bytes(c);
	g->n_planes = c->n_layers;
	g->n_frames = (uint32_t)n_pages;
	g->plane_bytes = (uint64_t)n_pages * g->block_bytes;
	g->extent_bytes = g->plane_bytes * g->n_planes;
	g->slot_bits = KVD_ENTRY_FRAME_BITS;
	e->kv_bytes = g->extent_bytes;
	e->kv.base = e->backend->pages_new(e->run, e->kv_bytes);
	e->top = calloc(e->n_tokens, sizeof(*e->top));
	e->table = calloc(n_pages, sizeof(*e->table));
	e->rows = calloc(chunk, sizeof(*e->rows));
	e->logits = calloc((size_t)chunk * c->n_vocab, sizeof(*e->logits));
	if (!e->kv.base || !e->top || !e->table || !e->rows || !e->logits) {
		snprintf(err, errlen,
			 "no memory for K and V of %zu tokens (%zu MiB); give a shorter text",
			 e->n_tokens, e->kv_bytes >> 20);
		return -ENOMEM;
	}
	for (size_t i = 0; i < n_pages; i++)
		e->table[i] = KVD_ENTRY(i, KVD_FORMAT_BF16);
	return 0;
}

/* The TOP best of a row, by insertion: most logits fail the first comparison. */
static void find_top(const float *logits, uint32_t n_vocab, struct eval_top *ret)
{
	uint32_t n = 0;

	for (uint32_t id = 0; id < n_vocab; id++) {
		uint32_t at;
		if (n == TOP && !(logits[id] > ret->logit[TOP - 1]))
			continue;
		at = n < TOP ? n++ : TOP - 1;
		for (; at > 0 && logits[id] > ret->logit[at - 1]; at--) {
			ret->id[at] = ret->id[at - 1];
			ret->logit[at] = ret->logit[at - 1];
		}
		ret->id[at] = (int32_t)id;
		ret->logit[at] = logits[id];
	}
	for (; n < TOP; n++) {
		ret->id[n] = -1;       /* a vocabulary of fewer than TOP */
		ret->logit[n] = 0;
	}
}

static double negative_log_probability(const float *logits, uint32_t n_vocab, int32_t id)
{
	double best = logits[sample_argmax(logits, n_vocab)], sum = 0;

	for (uint32_t i = 0; i < n_vocab; i++)
		sum += exp((double)logits[i] - best);
	return best + log(sum) - (double)logits[id];
}

/* Score the row of one position. */
static int take_logits(struct eval *e, size_t pos, const float *logits, char *err, size_t errlen)
{
	uint32_t n_vocab = e->model->config.n_vocab;

	e->logits_hash = XXH3_64bits_withSeed(logits, n_vocab * sizeof(float), e->logits_hash);
	find_top(logits, n_vocab, &e->top[pos]);
	if (pos + 1 < e->n_tokens)
		e->nll += negative_log_probability(logits, n_vocab, e->tokens[pos + 1]);
	if (e->logits_out && fwrite(logits, sizeof(float), n_vocab, e->logits_out) != n_vocab) {
		snprintf(err, errlen, "--logits-out: cannot write: %s", strerror(errno));
		return -EIO;
	}
	return 0;
}

static int score(struct eval *e, uint32_t chunk, char *err, size_t errlen)
{
	const struct step_seq seq = { .table = e->table };

	for (size_t at = 0; at < e->n_tokens; at += chunk) {
		uint32_t n = e->n_tokens - at < chunk ? (uint32_t)(e->n_tokens - at) : chunk;
		int r;
		for (uint32_t i = 0; i < n; i++)
			e->rows[i] =
				(struct step_row){ e->tokens[at + i], (uint32_t)(at + i), 0, 1 };
		r = e->backend->step(e->run, &e->kv, &seq, 1, e->rows, n, e->logits);
		if (r < 0) {
			const char *why = e->backend->error(e->run);
			snprintf(err, errlen, "the forward pass failed: %s",
				 why[0] ? why : strerror(-r));
			return r;
		}
		for (uint32_t i = 0; i < n; i++) {
			r = take_logits(e, at + i, e->logits + (size_t)i * e->model->config.n_vocab,
					err, errlen);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static double perplexity(const struct eval *e)
{
	return e->n_tokens > 1 ? exp(e->nll / (double)(e->n_tokens - 1)) : 1.0;
}

static void print_json(const struct eval *e)
{
	printf("{\"n_tokens\":%zu,\"nll\":%.9g,\"ppl\":%.9g,\"numerics\":\"%s\",\"logits_hash\":\"%"
	       "016" PRIx64 "\",\n\"tokens\":[",
	       e->n_tokens, e->nll, perplexity(e), e->numerics, e->logits_hash);
	for (size_t i = 0; i < e->n_tokens; i++)
		printf("%s%d", i ? "," : "", e->tokens[i]);
	printf("],\n\"argmax\":[");
	for (size_t i = 0; i < e->n_tokens; i++)
		printf("%s%d", i ? "," : "", e->top[i].id[0]);
	printf("],\n\"top\":[");
	for (size_t i = 0; i < e->n_tokens; i++) {
		printf("%s[", i ? ",\n" : "");
		for (int k = 0; k < TOP && e->top[i].id[k] >= 0; k++)
			printf("%s[%d,%.9g]", k ? "," : "", e->top[i].id[k],
			       (double)e->top[i].logit[k]);
		printf("]");
	}
	printf("]}\n");
}

static int eval_in(struct eval *e, const struct options *o, char *err, size_t errlen)
{
	struct backend_options f = { .n_threads = o->n_threads, .max_rows = o->chunk_tokens,
				     .max_logits = o->chunk_tokens, .max_seqs = 1,
				     .spin_usec = o->spin_usec, .isa = o->isa };
	uint32_t n_ctx;
	int r = model_open(o->model, &e->model, err, errlen);

	if (r < 0)
		return r;
	r = tokenizer_new(e->model->file, &e->tokenizer, err, errlen);
	if (r < 0)
		return r;
	n_ctx = o->n_ctx ? o->n_ctx : e->model->config.ctx_train;
	r = load_tokens(e, o, n_ctx, err, errlen);
	if (r < 0)
		return r;
	if (o->logits_out) {
		e->logits_out = fopen(o->logits_out, "we");
		if (!e->logits_out) {
			snprintf(err, errlen, "--logits-out %s: %s", o->logits_out,
				 strerror(errno));
			return -EIO;
		}
	}
	f.n_positions = (uint32_t)e->n_tokens;
	r = backend_find(o->device, &e->backend, &f.ordinal, err, errlen);
	if (r == 0)
		r = e->backend->numerics_id(&f, e->numerics, err, errlen);
	if (r == 0)
		r = e->backend->open(e->model, &f, &e->run, err, errlen);
	if (r == 0)
		r = make_room(e, o->chunk_tokens, err, errlen);
	return r < 0 ? r : score(e, o->chunk_tokens, err, errlen);
}

int eval_run(const struct options *o)
{
	struct eval e = { 0 };
	char err[512] = "";
	int r = eval_in(&e, o, err, sizeof(err));

	if (r == 0 && e.logits_out) {
		r = fclose(e.logits_out) == 0 ? 0 : -EIO;
		e.logits_out = NULL;
		if (r < 0)
			snprintf(err, sizeof(err), "--logits-out %s: %s", o->logits_out,
				 strerror(errno));
	}
	if (r < 0)
		fprintf(stderr, "kvengine: %s\n", err);
	else if (o->json)
		print_json(&e);
	else
		printf("tokens       %zu\nnll          %.6f\nperplexity   %.6f\nnumerics     %s\n"
		       "logits hash  %016" PRIx64 "\n", e.n_tokens, e.nll, perplexity(&e),
		       e.numerics, e.logits_hash);
	eval_deinit(&e);
	if (r == 0 && (fflush(stdout) != 0 || ferror(stdout))) {
		fprintf(stderr, "kvengine: cannot write to stdout: %s\n", strerror(errno));
		r = -EIO;
	}
	return r < 0 ? 1 : 0;
}
