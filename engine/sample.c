/* sample.c - greedy, temperature, top-k, top-p, min-p, repetition penalty.
 *
 * Order: penalty, temperature, top-k, top-p, min-p, draw.  top-p is measured over what top-k left;
 * min-p is relative to the likeliest token.  Sums run in one fixed order (by id where every token
 * takes part, else by falling logit and rising id), so that equal input gives equal output.
 * The randomness is a counter-based generator keyed by the seed: position in, number out, no state.
 * Runs on the engine's thread; never allocates after sampler_init(). */
#include "engine/sample.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int sampler_init(struct sampler *s, uint32_t n_vocab)
{
	s->candidates = malloc((n_vocab ? n_vocab : 1) * sizeof(*s->candidates));
	s->n_vocab = n_vocab;
	/* touched now: the engine's memory does not grow while it serves */
	for (uint32_t i = 0; s->candidates && i < n_vocab; i++)
		s->candidates[i].id = -1;
	return s->candidates ? 0 : -ENOMEM;
}

void sampler_deinit(struct sampler *s)
{
	free(s->candidates);
	s->candidates = NULL;
}

const char *sample_options_invalid(const struct sample_options *o)
{
	/* written so that a NaN fails each test */
	if (!(o->temperature >= 0.0f && o->temperature <= 100.0f))
		return "temperature (0 to 100)";
	if (!(o->top_p > 0.0f && o->top_p <= 1.0f))
		return "top_p (above 0, at most 1)";
	if (!(o->min_p >= 0.0f && o->min_p <= 1.0f))
		return "min_p (0 to 1)";
	if (!(o->repeat_penalty >= 0.01f && o->repeat_penalty <= 100.0f))
		return "repeat_penalty (0.01 to 100)";
	return NULL;
}

void sample_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t ret_words[4])
{
	uint32_t c[4] = { counter[0], counter[1], counter[2], counter[3] };
	uint32_t k[2] = { key[0], key[1] };

	for (int round = 0; round < 10; round++) {
		uint64_t p0 = (uint64_t)0xd2511f53u * c[0], p1 = (uint64_t)0xcd9e8d57u * c[2];
		uint32_t next[4] = { (uint32_t)(p1 >> 32) ^ c[1] ^ k[0], (uint32_t)p1,
				     (uint32_t)(p0 >> 32) ^ c[3] ^ k[1], (uint32_t)p0 };
		memcpy(c, next, sizeof(c));
		k[0] += 0x9e3779b9u;
		k[1] += 0xbb67ae85u;
	}
	memcpy(ret_words, c, sizeof(c));
}

double sample_uniform(uint64_t seed, uint64_t position)
{
	uint32_t counter[4] = { (uint32_t)position, (uint32_t)(position >> 32), 0, 0 };
	uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) }, words[4];

	sample_philox(counter, key, words);
	return (double)(((uint64_t)words[1] << 32 | words[0]) >> 11) * 0x1p-53;
}

int32_t sample_argmax(const float *logits, uint32_t n)
{
	/* 16 running maxima, which the compiler keeps in vectors; then the first that equals */
	float lanes[16], best = -INFINITY;
	uint32_t i = 0;

	for (int l = 0; l < 16; l++)
		lanes[l] = -INFINITY;
	for (; i + 16 <= n; i += 16)
		for (int l = 0; l < 16; l++)
			lanes[l] = logits[i + l] > lanes[l] ? logits[i + l] : lanes[l];
	for (; i < n; i++)
		lanes[0] = logits[i] > lanes[0] ? logits[i] : lanes[0];
	for (int l = 0; l < 16; l++)
		best = lanes[l] > best ? lanes[l] : best;
	for (i = 0; i < n; i++)
		if (logits[i] == best)
			return (int32_t)i;
	return 0;                  /* nothing but NaN */
}

static float penalise(const struct sample_options *o, const uint64_t *seen, float logit,
		      uint32_t id)
{
	if (!seen || !(seen[id / 64] >> (id % 64) & 1))
		return logit;
	return logit > 0.0f ? logit / o->repeat_penalty : logit * o->repeat_penalty;
}

static int by_logit(const void *a, const void *b)
{
	const struct sample_candidate *x = a, *y = b;

	if (x->logit != y->logit)
		return x->logit < y->logit ? 1 : -1;
	return x->id < y->id ? -1 : 1;
}

/* Fill the candidates that reach the floor, in order of id.  Returns how many. */
static uint32_t collect(struct sampler *s, const struct sample_options *o, const float *logits,
			const uint64_t *seen, float floor)
{
	uint32_t n = 0;

	for (uint32_t id = 0; id < s->n_vocab; id++) {
		float logit = penalise(o, seen, logits[id], id);
		if (logit >= floor)
			s->candidates[n++] = (struct sample_candidate){ logit, (int32_t)id, 0.0 };
	}
	return n;
}

/* Put the k first of n candidates in front, in order: a heap of the best k, worst on top. */
static void sift_down(struct sample_candidate *heap, uint32_t n, uint32_t at)
{
	for (;;) {
		uint32_t child = 2 * at + 1;
		if (child >= n)
			return;
		if (child + 1 < n && by_logit(&heap[child + 1], &heap[child]) > 0)
			child++;
		if (by_logit(&heap[child], &heap[at]) <= 0)
			return;
		struct sample_candidate swap = heap[at];
		heap[at] = heap[child];
		heap[child] = swap;
		at = child;
	}
}

static uint32_t keep_top_k(struct sample_candidate *c, uint32_t n, uint32_t k)
{
	if (k < n) {
		for (uint32_t i = k / 2; i-- > 0;)
			sift_down(c, k, i);
		for (uint32_t i = k; i < n; i++)
			if (by_logit(&c[i], &c[0]) < 0) {
				c[0] = c[i];
				sift_down(c, k, 0);
			}
		n = k;
	}
	qsort(c, n, sizeof(*c), by_logit);
	return n;
}

/* Weights of the candidates relative to the likeliest; returns their sum. */
static double weigh(struct sample_candidate *c, uint32_t n, float best, double temperature)
{
	double sum = 0.0;

	for (uint32_t i = 0; i < n; i++) {
		c[i].weight = exp(((double)c[i].logit - (double)best) / temperature);
		sum += c[i].weight;
	}
	return sum;
}

/* top-p over candidates in falling order whose weights sum to `total` (of all that take part). */
static uint32_t keep_top_p(const struct sample_candidate *c, uint32_t n, double total, double top_p)
{
	double reached = 0.0;

	for (uint32_t i = 0; i < n; i++) {
		reached += c[i].weight;
		if (reached >= top_p * total)
			return i + 1;
	}
	return n;
}

static int32_t draw(const struct sample_candidate *c, uint32_t n, double uniform)
{
	double sum = 0.0, reached = 0.0;

	for (uint32_t i = 0; i < n; i++)
		sum += c[i].weight;
	for (uint32_t i = 0; i < n; i++) {
		reached += c[i].weight;
		if (reached > uniform * sum)
			return c[i].id;
	}
	return c[n - 1].id;
}

static int32_t best_penalised(const struct sampler *s, const struct sample_options *o,
			      const float *logits, const uint64_t *seen, float *ret_logit)
{
	float best = -INFINITY;
	int32_t id = 0;

	if (o->repeat_penalty == 1.0f)
		seen = NULL;
	if (!seen) {
		id = sample_argmax(logits, s->n_vocab);
		best = logits[id];
	} else {
		for (uint32_t i = 0; i < s->n_vocab; i++) {
			float logit = penalise(o, seen, logits[i], i);
			if (logit > best) {
				best = logit;
				id = (int32_t)i;
			}
		}
	}
	*ret_logit = best;
	return id;
}

int32_t sample_token(struct sampler *s, const struct sample_options *o, const float *logits,
		     const uint64_t *seen, uint64_t position)
{
	struct sample_candidate *c = s->candidates;
	double temperature = o->temperature, total, sum;
	float best;
	uint32_t n;
	int32_t greedy = best_penalised(s, o, logits, seen, &best);

	/* no finite maximum: there is no distribution to draw from */
	if (o->temperature == 0.0f || !(best > -INFINITY && best < INFINITY))
		return greedy;
	if (o->repeat_penalty == 1.0f)
		seen = NULL;
	if (o->top_k) {
		n = collect(s, o, logits, seen, -INFINITY);
		n = keep_top_k(c, n, o->top_k);
		total = weigh(c, n, best, temperature);
	} else {
		n = collect(s, o, logits, seen, -INFINITY);
		total = weigh(c, n, best, temperature);
		if (o->top_p < 1.0f) {
			/* Weights below the floor cannot matter where those above it already
			 * reach top_p; sorting 50,000 candidates a token would cost milliseconds.
			 * The total above was summed over all, in order of id. */
			uint32_t few =
				collect(s, o, logits, seen, (float)(best - 12.0 * temperature));
			qsort(c, few, sizeof(*c), by_logit);
			sum = weigh(c, few, best, temperature);
			if (sum >= o->top_p * total) {
				n = few;
			} else {
				n = collect(s, o, logits, seen, -INFINITY);
				qsort(c, n, sizeof(*c), by_logit);
				weigh(c, n, best, temperature);
			}
		}
	}
	if (o->top_p < 1.0f)
		n = keep_top_p(c, n, total, o->top_p);
	if (o->min_p > 0.0f) {
		uint32_t kept = 0;
		for (uint32_t i = 0; i < n; i++)
			if (c[i].weight >= o->min_p)
				c[kept++] = c[i];
		n = kept;          /* the likeliest has weight 1 and stays */
	}
	return draw(c, n, sample_uniform(o->seed, position));
}
