/* engine.h - one engine process: a model, its forward pass, its sequences in kvd, its clients. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/backend.h"
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

/* See reattach.c. */
struct reattach {
	bool lost;                     /* kvd is gone, we are no engine of anybody */
	uint64_t lost_usec;            /* since when */
	uint64_t next_try_usec, backoff_usec;
	uint64_t attached_usec;        /* when the last attachment began */
	uint64_t look_usec;            /* when kvd's process is looked at next */
	uint64_t ended_usec;           /* since when it is dead, the connection kept by its keeper; 0: it lives */
	uint64_t complain_usec;        /* when the log names the error, once more */
	int refusal;                   /* KVD_S_* that a kvd answered last, as logged; 0: none yet */
	uint32_t kvd_pid;              /* which kvd we know of */
};

struct engine {
	struct model *model;
	struct tokenizer *tokenizer;
	struct prompt_maker prompts;
	struct kvd_engine *kvd;
	struct weights *weights;
	const struct backend *backend;
	struct backend_run *run;
	struct backend_options compute; /* what run was opened with */
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
	int kvd_fd;                    /* our copy of the control socket, watched; -1: none */
	uint64_t kvd_tag;              /* its tag, another one for each attachment */
	struct reattach reattach;
	bool device_lost;              /* this process can compute no more; another engine can */
	bool draining;                 /* SIGTERM came, or kvd wants no new sequence */
	uint64_t drain_usec;           /* then running answers go to other engines; 0: never */
	/* statistics */
	uint64_t stats_usec;           /* when the last were sent */
	struct serve_counters stats_sent;
	uint32_t running_sent, waiting_sent;
	bool rate_sent;                /* the last sent rate was not 0 */
};

/* Serve until SIGTERM.  Returns the program's exit code. */
int engine_run(const struct options *o);

/* ---- engine.c for step.c and back ---- */

/* Memory of a step's arrays. */
int step_room_init(struct step_room *r, uint32_t n_slots, uint32_t max_pages, uint32_t rows_max,
		   uint32_t n_vocab);
void step_room_deinit(struct step_room *r);

/* Offer our laid-out weights to the other engines of this kvd. */
void engine_offer_weights(struct engine *e);
/* What the attachment says about where K and V lie. */
void engine_take_geometry(struct engine *e);

/* ---- reattach.c ---- */
/* Watch the control socket.  Returns 0 or -errno. */
int reattach_watch(struct engine *e);
void reattach_unwatch(struct engine *e);
/* kvd is gone (why: -errno of the call that noticed): give up what was its, keep the streams. */
void reattach_lose(struct engine *e, int why, uint64_t now_usec);
/* Between two steps: try to attach when it is time, see whether kvd lives.  Returns true while lost. */
bool reattach_turn(struct engine *e, uint64_t now_usec);
/* When reattach_turn() has something to do; UINT64_MAX: nothing. */
uint64_t reattach_next_usec(const struct engine *e);

/* Give waiting requests their slots, tell clients what kvd decided.  Between steps. */
void step_prepare(struct engine *e, uint64_t now_usec);
/* Plan and run one step.
 * ret_ran  false: no sequence could be computed
 * Returns  0 or -errno: kvd is gone; the step is complete in any case */
int step_run(struct engine *e, bool *ret_ran);

uint64_t engine_now_usec(void);

#endif
