/* sample.h - from a row of logits to one token, the same on every run.
 *
 * Which token comes out depends on the logits, the options, the tokens seen so far and (seed,
 * position) alone: there is no state that a batch, a preemption or another engine could disturb. */
#ifndef ENGINE_SAMPLE_H
#define ENGINE_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sample_options {
	float temperature;         /* 0 = greedy */
	float top_p;               /* 1 = off: keep the fewest tokens that together reach it */
	float min_p;               /* 0 = off: drop what is below min_p x the likeliest */
	float repeat_penalty;      /* 1 = off: divides logits of seen tokens (multiplies if < 0) */
	uint32_t top_k;            /* 0 = off: keep the k likeliest */
	uint64_t seed;
};

struct sample_candidate {
	float logit;
	int32_t id;
	double weight;             /* exp(scaled logit - scaled maximum) */
};

/* Scratch for one thread, made once: sampling allocates nothing. */
struct sampler {
	struct sample_candidate *candidates;   /* (n_vocab) */
	uint32_t n_vocab;
};

int sampler_init(struct sampler *s, uint32_t n_vocab);
void sampler_deinit(struct sampler *s);

/* Is a field of the options outside what sampling is defined for?  NULL: no; else its name. */
const char *sample_options_invalid(const struct sample_options *o);

/* Choose the token that follows position.
 *
 * logits    (n_vocab)
 * seen      (ceil(n_vocab / 64)) bit set of token ids that occurred, or NULL
 * position  position in its sequence of the token being chosen
 * Returns   its id; of equal logits the lowest id wins.  A NaN is never chosen over a number. */
int32_t sample_token(struct sampler *s, const struct sample_options *o, const float *logits,
		     const uint64_t *seen, uint64_t position);

/* Index of the largest of n logits; of equals the first. */
int32_t sample_argmax(const float *logits, uint32_t n);

/* Philox4x32-10: four random words for a counter and a key (Salmon and others, SC'11). */
void sample_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t ret_words[4]);

/* A number in [0, 1), 53 bits, for (seed, position). */
double sample_uniform(uint64_t seed, uint64_t position);

#endif
