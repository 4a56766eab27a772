/* backend.h - the compute seam: who turns rows of tokens into K, V and logits.
 *
 * Above it the engine knows sequences, tables and rows; below it there is a CPU (backend_cpu.c: forward.h
 * as it is) or a GPU (libkvd-cuda.so, loaded when --device asks for it, so that the engine itself needs no
 * toolkit and no driver).  Shapes are forward.h's.  One thread calls a run: the one that opened it. */
#ifndef ENGINE_BACKEND_H
#define ENGINE_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/forward.h"

#define BACKEND_VERSION 1u                 /* of struct backend; a plugin of another is refused */
#define BACKEND_SYMBOL "kvd_backend_cuda"  /* const struct backend *, in the plugin */

struct backend_run;

struct backend_options {
	int ordinal;                   /* which device, -1: the host */
	const uint8_t *device_uuid;    /* (16) the GPU that kvd's memory is of; NULL: any */
	unsigned max_rows;             /* most rows of one step */
	unsigned max_logits;           /* most rows of one step whose logits are wanted */
	unsigned max_seqs;             /* most sequences of one step */
	uint32_t n_positions;          /* positions are below this */
	/* the CPU's own: */
	unsigned n_threads, spin_usec;
	const char *isa;
	const struct weights *weights; /* laid out or adopted before, borrowed; NULL: do it here */
};

struct backend {
	uint32_t version;              /* BACKEND_VERSION */
	const char *name;              /* "cpu", "cuda" */
	uint32_t layout;               /* KVD_LAYOUT_* of the pages it reads and writes */
	bool on_host;                  /* pages are host memory, weights are weights.h's */

	/* What kvd is told before there is a run: pages of two ids never merge.
	 * Returns 0 or -errno with a sentence in err. */
	int (*numerics_id)(const struct backend_options *o, char ret_id[32], char *err,
			   size_t errlen);
	/* Take the model's weights to the device and make room for steps.
	 * ret  owned by the caller: close();  returns 0 or -errno with a sentence in err */
	int (*open)(const struct model *m, const struct backend_options *o,
		    struct backend_run **ret, char *err, size_t errlen);
	void (*close)(struct backend_run *run);
	/* One step, as forward_step() describes it.  When it returns, K and V are written and nothing of
	 * the step is under way on the device, also when it fails.
	 * Returns 0; -EINVAL for rows that cannot be; -EIO: the device failed, -ENODEV: it is
	 *          lost to this process; error() says how */
	int (*step)(struct backend_run *run, const struct kv_window *kv,
		    const struct step_seq *seqs, unsigned n_seqs, const struct step_row *rows,
		    unsigned n_rows, float *logits);
	/* The last failure of a step, one sentence; "": the code says it all. */
	const char *(*error)(const struct backend_run *run);
	/* Memory for pages of a program without a daemon (--eval), zeroed.  NULL: none left. */
	uint8_t *(*pages_new)(struct backend_run *run, size_t bytes);
	void (*pages_free)(struct backend_run *run, uint8_t *pages, size_t bytes);
};

extern const struct backend backend_cpu;

/* The backend of "host" or "cuda[:N]".
 * ret_ordinal  the device's number, -1: the host
 * Returns      0; -EINVAL no such device, -ENOENT no plugin, with a sentence in err */
int backend_find(const char *device, const struct backend **ret, int *ret_ordinal, char *err,
		 size_t errlen);

#endif
