/* weights.h - a model's weights laid out for the kernels, in one buffer that processes can share.
 *
 * The layout depends on the model alone (one layout serves every instruction set), so a process
 * that adopts another's buffer computes the same offsets from its own mapping of the file. */
#ifndef ENGINE_WEIGHTS_H
#define ENGINE_WEIGHTS_H

#include <stdbool.h>
#include "engine/cpu/kernels.h"
#include "engine/model.h"

struct weights_layer {
	struct panel_matrix wq, wk, wv, wo, w_gate, w_up, w_down;
	const float *attn_norm, *ffn_norm;   /* (n_embd), zero to the next multiple of 16 */
};

struct weights {
	struct weights_layer *layers;        /* (n_layers) */
	struct panel_matrix output;          /* the head */
	const float *output_norm;            /* (n_embd), zero to the next multiple of 16 */
	uint8_t *base;                       /* the buffer: header, then everything above */
	uint64_t bytes;
	int fd;                              /* sealed memfd, or -1: private memory */
};

/* Lay out a model's weights.
 *
 * shared   true: in a memfd, mode 0600, sealed against every change, mapped read-only; weights_fd()
 *          may then be handed to other processes of the same model file
 * ret      owned by the caller; weights_free() unmaps
 * Returns  0 or -errno with one sentence in err.  Thread: any. */
int weights_build(const struct model *m, bool shared, struct weights **ret, char *err,
		  size_t errlen);

/* Map weights another process has laid out for the same model.
 *
 * fd       from weights_fd(); duplicated, the caller's stays its own
 * Returns  0; -EINVAL if fd isn't a sealed buffer of exactly this model (fingerprint, version,
 *          size), so that the caller falls back to weights_build().  Nothing in it is trusted: it
 *          holds numbers only. */
int weights_adopt(const struct model *m, int fd, struct weights **ret, char *err, size_t errlen);

/* The memfd to share, or -1; stays owned by w. */
static inline int weights_fd(const struct weights *w) { return w->fd; }

void weights_free(struct weights *w);

#endif
