/* engine.h - one engine process: a model, its forward pass, its sequences in kvd, its clients. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/forward.h"
#include "engine/kvlink.h"
#include "engine/model.h"
#include "engine/options.h"
#include "engine/prompt.h"
#include "engine/sample.h"
#include "engine/sched.h"
#include "engine/serve.h"
#include "engine/wait.h"
#include "engine/weights.h"
#include "kvd/engine.h"

/* Arrays of one step, sized at start. */
struct step_room {
	struct sched_seq *seqs;        /* (n_slots) index = slot */
	struct sched_run *runs;        /* (n_slots) */
	struct step_seq *step_seqs;    /* (n_slots) */
	struct step_row *rows;         /* (rows_max) */
	uint32_t *tables;              /* (n_slots, max_pages) this step's copies */
	float *logits;                 /* (n_slots, n_vocab) */
	void *memory;                  /* all of the above, one mapping, touched at start */
	size_t memory_bytes;
};

struct engine {
	struct model *model;
	struct tokenizer *tokenizer;
	struct prompt_maker prompts;
	struct kvd_engine *kvd;
	struct weights *weights;
	struct forward *forward;
	struct kv_window kv;
	struct kvlink link;
	struct sched sched;
	struct serve serve;
	struct sampler sampler;
	struct wait *wait;
	struct step_room room;
	struct stream **owners;        /* (n_slots) stream of each slot, NULL: none */
	uint32_t n_ctx, n_slots, max_pages;
	int signal_fd;
	bool draining;                 /* SIGTERM came, or kvd wants no new sequence */
	uint64_t drain_usec;           /* then running answers go to other engines; 0: never */
	/* statistics */
	uint64_t stats_usec;           /* when the last were sent */
	struct serve_counters stats_sent;
	uint32_t running_sent, waiting_sent;
	bool rate_sent;                /* the last sent rate was not 0 */
};

/* Serve until SIGTERM or until kvd is gone.  Returns the program's exit code. */
int engine_run(const struct options *o);

/* ---- engine.c for step.c and back ---- */

/* Memory of a step's arrays. */
int step_room_init(struct step_room *r, uint32_t n_slots, uint32_t max_pages, uint32_t rows_max,
		   uint32_t n_vocab);
void step_room_deinit(struct step_room *r);

/* Give waiting requests their slots, tell clients what kvd decided.  Between steps. */
void step_prepare(struct engine *e, uint64_t now_usec);
/* Plan and run one step.
 * ret_ran  false: no sequence could be computed
 * Returns  0 or -errno: kvd is gone */
int step_run(struct engine *e, bool *ret_ran);

uint64_t engine_now_usec(void);

#endif
