/* run_step.c - one step on the GPU, the layer loop read from top to bottom; see run.h.
 *
 * The plan goes to the device in one copy, kernels follow on one stream (as one graph where all rows go
 * in units: decode), the wanted logits come back in one copy.  step() returns after the event behind all
 * of that: K and V are written then, and the caller may say that the step is done.
 */
#include "engine/cuda/run.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define ROW_THREADS 256u
#define UNIT_BLOCKS 4u             /* blocks of kvd_attend_unit a multiprocessor, in graphs: two or three fit */

static const uint32_t widths[RUN_WIDTHS] = { 1, 4, 8 };

static uint32_t blocks_of(uint32_t n, uint32_t per_block)
{
	return (n + per_block - 1u) / per_block;
}

/* What the kernels of a step have in common. */
struct stepping {
	struct backend_run *run;
	const struct kvd_step *step;           /* on the device */
	const struct kvd_step_row *rows;
	struct kvd_pages pages;
	/* sizes of grids: what the step has, or the most that its graph can take */
	uint32_t n_rows, n_wanted, n_units, n_streams;
	int failed;                            /* first -errno; nothing is launched after it */
};

static const void *in_image(const struct stepping *s, uint64_t at)
{
	return s->run->image + at;
}

static void launch(struct stepping *s, struct driver_function *f, struct device_shape shape,
		   const void *args)
{
	if (s->failed == 0)
		s->failed = device_launch(&s->run->device, f, shape, args);
}

/* Only the forms that the readers want. */
static struct kvd_acts acts_for(const struct kvd_acts *all, unsigned reads)
{
	struct kvd_acts a = *all;

	if (!(reads & RUN_BYTES))
		a.bytes = NULL;
	if (!(reads & RUN_WIDE))
		a.wide_high = a.wide_low = NULL;
	if (!(reads & RUN_FLOATS))
		a.float_high = a.float_low = NULL;
	return a;
}

static void embed(struct stepping *s)
{
	const struct backend_run *run = s->run;
	const struct kvd_embed_args a = { .step = s->step, .rows = s->rows, .table = run->token_table,
		.x = run->x, .row_bytes = run->token_row_bytes, .type = run->token_type,
		.n_embd = run->config.n_embd, .x_stride = run->config.n_embd };

	launch(s, run->kernels.embed, (struct device_shape){ blocks_of(a.n_embd, ROW_THREADS),
		s->n_rows, ROW_THREADS, 0 }, &a);
}

static void norm(struct stepping *s, const float *weight, const uint32_t *wanted, unsigned reads)
{
	const struct backend_run *run = s->run;
	const struct kvd_norm_args a = { .step = s->step, .x = run->x, .weight = weight,
		.wanted = wanted, .out = acts_for(&run->embd_acts, reads), .eps = run->config.rms_eps,
		.n = run->config.n_embd, .x_stride = run->config.n_embd };

	launch(s, run->kernels.norm, (struct device_shape){ wanted ? s->n_wanted : s->n_rows, 1,
		ROW_THREADS, 32 }, &a);
}

/* How many tiles of rows a pass takes: the fewest that are enough, or the most there are. */
static int width_of(const struct run_matrix *m, uint32_t n_rows)
{
	int best = 0;

	for (int i = 0; i < RUN_WIDTHS && m->kernels[i]; i++) {
		best = i;
		if (n_rows <= widths[i] * KVD_ROW_TILE)
			break;
	}
	return best;
}

static void product(struct stepping *s, const struct run_product *p, const struct kvd_acts *in,
		    float *out, uint32_t out_stride, bool add, bool of_wanted)
{
	const uint32_t n_rows = of_wanted ? s->n_wanted : s->n_rows;

	for (uint32_t i = 0; i < p->n_matrices; i++) {
		const struct run_matrix *m = &p->matrices[i];
		const int width = width_of(m, n_rows);
		const struct kvd_product_args a = { .step = s->step, .weights = m->data, .in = *in,
			.out = out + m->out_at, .n_out = m->n_out, .out_stride = out_stride,
			.n_chunks = m->n_chunks, .n_planes = m->n_planes, .add = add,
			.of_wanted = of_wanted };
		launch(s, m->kernels[width], (struct device_shape){ blocks_of(m->n_out, KVD_GEMM_OUTPUTS),
			blocks_of(n_rows, widths[width] * KVD_ROW_TILE), 32u * KVD_K_SLICES,
			kvd_product_shared(widths[width]) }, &a);
	}
}

static void rope(struct stepping *s, uint32_t layer)
{
	const struct backend_run *run = s->run;
	const struct model_config *c = &run->config;
	struct kvd_rope_args a = { .step = s->step, .rows = s->rows, .qkv = run->qkv,
		.angles = run->angles, .q_high = run->q_high, .q_low = run->q_low, .pages = s->pages,
		/* softmax in base 2: scores are scaled by log2 e too */
		.q_scale = 1.44269504f / sqrtf((float)c->head_dim),
		.qkv_stride = (c->n_heads + 2u * c->n_kv_heads) * c->head_dim, .n_heads = c->n_heads,
		.n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim, .rope_dims = c->rope_dims };

	a.pages.plane = layer;
	launch(s, run->kernels.rope, (struct device_shape){ s->n_rows, 1, ROW_THREADS, 0 }, &a);
}

static void attend(struct stepping *s, uint32_t layer, unsigned reads)
{
	const struct backend_run *run = s->run;
	const struct model_config *c = &run->config;
	const struct plan_shape *shape = &run->plan.shape;
	struct kvd_attend_args a = { .step = s->step, .rows = s->rows,
		.items = in_image(s, shape->units_at), .members = in_image(s, shape->members_at),
		.q_high = run->q_high, .q_low = run->q_low, .pages = s->pages,
		.partials = run->partials, .partial_states = run->partial_states,
		.out = run->attended, .n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads,
		.group = c->n_heads / c->n_kv_heads, .head_dim = c->head_dim };
	const struct kvd_merge_args merge = { .step = s->step, .rows = s->rows,
		.partials = run->partials, .partial_states = run->partial_states,
		.streamed = run->attended, .out = acts_for(&run->head_acts, reads),
		.n_heads = c->n_heads, .head_dim = c->head_dim };

	a.pages.plane = layer;
	launch(s, run->kernels.attend_unit, (struct device_shape){ s->n_units,
		s->n_units ? c->n_kv_heads : 0, 128, kvd_unit_shared(c->head_dim) }, &a);
	a.items = in_image(s, shape->streams_at);
	launch(s, run->kernels.attend_stream, (struct device_shape){ s->n_streams,
		s->n_streams ? c->n_kv_heads : 0, 128, kvd_stream_shared(c->head_dim) }, &a);
	launch(s, run->kernels.merge, (struct device_shape){ run->head_acts.n_chunks, s->n_rows, 128,
		0 }, &merge);
}

static void gate(struct stepping *s, unsigned reads)
{
	const struct backend_run *run = s->run;
	const uint32_t n = run->config.n_ff;
	const struct kvd_gate_args a = { .step = s->step, .gate_up = run->gate_up,
		.out = acts_for(&run->ff_acts, reads), .n = n, .stride = 2u * n, .up_at = n };

	launch(s, run->kernels.gate, (struct device_shape){
		blocks_of(run->ff_acts.n_chunks * 4u, ROW_THREADS / 32u), s->n_rows, ROW_THREADS, 0 }, &a);
}

/* The model. */
static void launch_step(struct stepping *s)
{
	const struct backend_run *run = s->run;
	const struct model_config *c = &run->config;
	const uint32_t qkv_stride = (c->n_heads + 2u * c->n_kv_heads) * c->head_dim;

	embed(s);
	for (uint32_t layer = 0; layer < c->n_layers; layer++) {
		const struct run_layer *w = &run->layers[layer];
		norm(s, w->attn_norm, NULL, w->qkv.reads);
		product(s, &w->qkv, &run->embd_acts, run->qkv, qkv_stride, false, false);
		rope(s, layer);
		attend(s, layer, w->wo.reads);
		product(s, &w->wo, &run->head_acts, run->x, c->n_embd, true, false);

		norm(s, w->ffn_norm, NULL, w->gate_up.reads);
		product(s, &w->gate_up, &run->embd_acts, run->gate_up, 2u * c->n_ff, false, false);
		gate(s, w->down.reads);
		product(s, &w->down, &run->ff_acts, run->x, c->n_embd, true, false);
	}
	if (s->n_wanted == 0)
		return;
	norm(s, run->output_norm, in_image(s, run->plan.shape.wanted_at), run->head.reads);
	product(s, &run->head, &run->embd_acts, run->logits, c->n_vocab, false, true);
}

static struct kvd_pages pages_of(const struct backend_run *run, const struct kv_window *kv)
{
	const struct kvd_geometry *g = &kv->geometry;

	return (struct kvd_pages){ .window = kv->base,
		.tables = (const uint32_t *)(run->image + run->plan.shape.tables_at),
		.extent_bytes = g->extent_bytes, .plane_bytes = g->plane_bytes,
		.block_bytes = g->block_bytes, .slot_bits = g->slot_bits,
		.page_shift = (uint32_t)__builtin_ctz(KVD_PAGE_TOKENS) };
}

void run_drop_graphs(struct backend_run *run)
{
	for (int i = 0; i < RUN_GRAPHS; i++)
		if (run->graphs[i])
			device_graph_drop(&run->device, run->graphs[i]);
	memset(run->graphs, 0, sizeof(run->graphs));
}

/* The graph of up to 2^bucket rows that all go in units.  Its kernels read from the step how many there
 * are; blocks without work end at once. */
static int make_graph(struct backend_run *run, struct stepping s, int bucket)
{
	struct device *d = &run->device;
	const uint32_t heads = run->config.n_kv_heads;
	int r = device_graph_begin(d), ended;

	if (r < 0)
		return r;
	s.n_rows = s.n_wanted = 1u << bucket;
	/* enough blocks to fill the device; they take the units in turns */
	s.n_units = (UNIT_BLOCKS * (uint32_t)d->facts.multiprocessors + heads - 1u) / heads;
	launch_step(&s);
	ended = device_graph_end(d, &run->graphs[bucket]);
	if (s.failed < 0 && run->graphs[bucket]) {
		/* it lacks the launch that failed: another answer, and no error */
		device_graph_drop(d, run->graphs[bucket]);
		run->graphs[bucket] = NULL;
	}
	return s.failed < 0 ? s.failed : ended;
}

/* Launch a step: by its bucket's graph where nobody streams, else kernel by kernel. */
static int start_step(struct backend_run *run, struct stepping *s)
{
	int bucket = 0;

	while (bucket < RUN_GRAPHS && 1u << bucket < s->n_rows)
		bucket++;
	if (!s->n_streams && s->n_wanted && bucket < RUN_GRAPHS && !run->no_graphs) {
		if (memcmp(&run->graph_pages, &s->pages, sizeof(s->pages)) != 0) {
			run_drop_graphs(run);
			run->graph_pages = s->pages;
		}
		if (!run->graphs[bucket])
			run->no_graphs = make_graph(run, *s, bucket) < 0;
		if (run->graphs[bucket])
			return device_graph_launch(&run->device, run->graphs[bucket]);
	}
	launch_step(s);
	return s->failed;
}

int run_step(struct backend_run *run, const struct kv_window *kv, const struct step_seq *seqs,
	     unsigned n_seqs, const struct step_row *rows, unsigned n_rows, float *logits)
{
	struct device *d = &run->device;
	struct stepping s = { .run = run, .step = (const struct kvd_step *)run->image };
	int waited;

	if (n_rows == 0)
		return 0;
	if (kv->geometry.block_bytes != forward_block_bytes(&run->config) || d->lost)
		return d->lost ? -ENODEV : -EINVAL;
	d->error[0] = 0;
	if (plan_step(&run->plan, run->config.n_vocab, run->n_positions, seqs, n_seqs, rows, n_rows) < 0 ||
	    run->plan.step.n_wanted > run->max_logits)
		return -EINVAL;
	s.rows = in_image(&s, run->plan.shape.rows_at);
	s.pages = pages_of(run, kv);
	s.n_rows = n_rows;
	s.n_wanted = run->plan.step.n_wanted;
	s.n_units = run->plan.step.n_units;
	s.n_streams = run->plan.step.n_streams;

	const uint64_t logits_bytes = (uint64_t)s.n_wanted * run->config.n_vocab * sizeof(float);
	s.failed = device_send(d, run->image, run->plan.image, run->plan.used_bytes);
	if (s.failed == 0)
		s.failed = start_step(run, &s);
	if (s.failed == 0 && s.n_wanted)
		s.failed = device_fetch(d, run->host_logits, run->logits, logits_bytes);
	/* whatever was launched before a failure still runs: nobody may reuse its pages before it ends */
	waited = device_wait(d);
	if (s.failed < 0 || waited < 0)
		return d->lost ? -ENODEV : -EIO;
	memcpy(logits, run->host_logits, logits_bytes);
	return 0;
}
