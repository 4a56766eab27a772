/* forward_internal.h - what forward.c, project.c and the tests share; not for the scheduler. */
#ifndef ENGINE_FORWARD_INTERNAL_H
#define ENGINE_FORWARD_INTERNAL_H

#include <stdatomic.h>
#include "engine/attention.h"
#include "engine/cpu/kernels.h"
#include "engine/forward.h"
#include "engine/team.h"
#include "engine/weights.h"

/* What one thread owns during a step. */
struct lane {
	unsigned thread;
	unsigned stage;            /* the next ticket counter; the same in every thread */
	uint8_t *panel[2];         /* scratch of panel_prepare() */
	float *tile[2];            /* (PANEL_TILE_ROWS, PANEL_COLS) outputs of a panel */
	struct act_rows act;       /* one row, for steps of one row: each thread computes its own */
};

/* Work counters, a cache line each: one per stage of a step, so that none is reset inside. */
struct ticket {
	_Atomic uint32_t next;
} __attribute__((aligned(64)));

struct forward {
	const struct model *m;
	const struct cpu_kernels *k;
	const struct weights *w;
	struct weights *own_weights;   /* NULL where the caller's are used */
	struct team *team;
	struct attention *attention;
	char numerics_id[32];
	unsigned n_threads, max_rows;

	uint32_t x_stride;         /* floats of a row, a multiple of 32 */
	float *x;                  /* (max_rows, x_stride) the residual stream */
	uint8_t *queries;          /* (max_rows, query_bytes) */
	size_t query_bytes;
	struct act_rows act;       /* (max_rows) input of the next product */
	struct act_rows hidden;    /* (max_rows) gated activations, input of w_down */
	float *cosines, *sines;    /* (max_rows, head_dim) of each row's position, see rotate() */
	double *frequencies;       /* (rope_dims / 2) radians per position */
	struct lane *lanes;        /* (n_threads) */
	struct ticket *tickets;    /* (n_stages) */
	unsigned n_stages;

	/* the step: */
	const struct kv_window *kv;
	const struct step_seq *seqs;
	const struct step_row *rows;
	unsigned n_rows;
	uint32_t *wanted;          /* (max_rows) rows whose logits are wanted */
	unsigned n_wanted;
	float *logits;
};

/* forward_new() for a table of kernels chosen by the caller: tests run emulated ones. */
int forward_new_with(const struct model *m, const struct forward_options *o,
		     const struct cpu_kernels *k, struct forward **ret, char *err, size_t errlen);

/* Take the next chunk of 0 .. n of this stage; false when none is left. */
bool forward_take(struct forward *f, const struct lane *me, uint32_t n, uint32_t chunk,
		  uint32_t *ret_first, uint32_t *ret_end);

/* project.c: one product of a layer each, with what is done to its outputs. */
void project_qkv(struct forward *f, struct lane *me, uint32_t layer, const struct act_rows *in);
void project_add(struct forward *f, struct lane *me, const struct panel_matrix *m,
		 const struct act_rows *in);
void project_gated(struct forward *f, struct lane *me, const struct weights_layer *w,
		   const struct act_rows *in);
void project_logits(struct forward *f, struct lane *me, const struct act_rows *in);

/* Round n f32 activations (a multiple of 32) of a row from element `at` on, as matrix m reads them;
 * a matrix of floats reads them as they are. */
static inline void forward_round(const struct cpu_kernels *k, const struct panel_matrix *m,
				 const struct act_rows *a, uint32_t row, uint32_t at,
				 const float *x, uint32_t n)
{
	size_t block = (size_t)row * a->block_stride + at / BLOCK_K;

	if (m->form == FORM_NIBBLE)
		k->quantise(x, n, a->blocks + block);
	else if (m->form == FORM_BYTE)
		k->quantise_wide(x, n, a->wide + block);
}

#endif
