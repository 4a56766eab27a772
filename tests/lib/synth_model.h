/* synth_model.h - small models in memory with random weights of any tensor type, for tests. */
#ifndef TESTS_LIB_SYNTH_MODEL_H
#define TESTS_LIB_SYNTH_MODEL_H

#include "engine/model.h"

struct synth_shape {
	uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff, n_vocab;
	uint32_t rope_dims;        /* 0: all of head_dim */
	enum tensor_type type;     /* of the layers' matrices */
	enum tensor_type head;     /* of the embedding, which is the head too */
	uint32_t seed;
};

/* Quantised types need n_embd, n_ff and n_heads * head_dim to be multiples of 32 (K types: of 256).
 * Freed with synth_model_free(), not model_close(). */
struct model *synth_model_new(const struct synth_shape *s);
void synth_model_free(struct model *m);

/* Uniform in -1 .. 1. */
float synth_random(uint32_t *state);

#endif
