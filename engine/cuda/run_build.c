/* run_build.c - take a model to a GPU: weights, tables, room for a step, kernels; see run.h.
 *
 * Everything is allocated here.  Weights are laid out in host memory, a matrix at a time, and copied. */
#include "engine/cuda/run.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/cpu/formats.h"
#include "engine/cuda/layout.h"

static const uint32_t widths[RUN_WIDTHS] = { 1, 4, 8 };

/* ---- weights ---- */

static int upload(struct backend_run *run, const void *from, uint64_t bytes, void *ret_at)
{
	void *at = NULL;
	int r = device_alloc(&run->device, bytes, &at);

	if (r == 0)
		r = device_write(&run->device, at, from, bytes);
	memcpy(ret_at, &at, sizeof(at));
	return r;
}

static int upload_norm(struct backend_run *run, const struct tensor *t, const float **ret)
{
	return upload(run, t->data, t->n_cols * sizeof(float), ret);
}

static int find_product_kernels(struct backend_run *run, const struct layout_kind *kind,
				struct run_matrix *m)
{
	char name[64];

	for (int i = 0; i < RUN_WIDTHS; i++) {
		if (widths[i] > kind->tiles_max)
			continue;
		snprintf(name, sizeof(name), "kvd_product_%s_%u", kind->name, widths[i]);
		int r = device_function(&run->device, name, kvd_product_shared(widths[i]),
					&m->kernels[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

/* One matrix of n neighbouring tensors of one form. */
static int upload_matrix(struct backend_run *run, const struct tensor *const *tensors, uint32_t n,
			 struct run_matrix *m)
{
	const enum layout_form form = layout_form_of(tensors[0]->type);
	const struct layout_kind *kind = layout_kind(form);
	uint64_t n_out = 0, bytes;
	uint8_t *records;
	int r;

	for (uint32_t i = 0; i < n; i++)
		n_out += tensors[i]->n_rows;
	bytes = layout_bytes(form, n_out, tensors[0]->n_cols);
	records = calloc(1, bytes);
	if (!records) {
		snprintf(run->device.error, sizeof(run->device.error),
			 "no memory to lay out %s (%llu MiB)", tensors[0]->name,
			 (unsigned long long)(bytes >> 20));
		return -ENOMEM;
	}
	n_out = 0;
	for (uint32_t i = 0; i < n; i++) {
		layout_fill(tensors[i], n_out, records);
		n_out += tensors[i]->n_rows;
	}
	r = upload(run, records, bytes, &m->data);
	free(records);
	m->n_out = (uint32_t)n_out;
	m->n_chunks = layout_chunks(tensors[0]->n_cols);
	m->n_planes = kind->n_planes;
	m->reads = kind->n_planes ? RUN_FLOATS : kind->wide ? RUN_WIDE : RUN_BYTES;
	return r < 0 ? r : find_product_kernels(run, kind, m);
}

/* The tensors' outputs follow each other; those of one form in a row share a matrix. */
static int upload_product(struct backend_run *run, const struct tensor *const *tensors, uint32_t n,
			  struct run_product *p)
{
	uint32_t out_at = 0;

	for (uint32_t first = 0, end; first < n; first = end) {
		struct run_matrix *m = &p->matrices[p->n_matrices++];
		for (end = first + 1; end < n && layout_form_of(tensors[end]->type) ==
						 layout_form_of(tensors[first]->type); end++)
			;
		int r = upload_matrix(run, tensors + first, end - first, m);
		if (r < 0)
			return r;
		m->out_at = out_at;
		out_at += m->n_out;
		p->reads |= m->reads;
	}
	return 0;
}

static int upload_layer(struct backend_run *run, const struct model_layer *from,
			struct run_layer *to)
{
	const struct tensor *const qkv[] = { &from->wq, &from->wk, &from->wv };
	const struct tensor *const gate_up[] = { &from->w_gate, &from->w_up };
	const struct tensor *const wo[] = { &from->wo }, *const down[] = { &from->w_down };
	int r = upload_norm(run, &from->attn_norm, &to->attn_norm);

	if (r == 0)
		r = upload_norm(run, &from->ffn_norm, &to->ffn_norm);
	if (r == 0)
		r = upload_product(run, qkv, 3, &to->qkv);
	if (r == 0)
		r = upload_product(run, wo, 1, &to->wo);
	if (r == 0)
		r = upload_product(run, gate_up, 2, &to->gate_up);
	return r == 0 ? upload_product(run, down, 1, &to->down) : r;
}

/* cos, sin of every position and pair of dimensions, as the CPU computes them. */
static int upload_angles(struct backend_run *run, const struct model *m)
{
	const struct model_config *c = &m->config;
	const uint32_t n_pairs = c->rope_dims / 2u;
	const float *divisors = m->rope_freqs.data;
	float *angles = malloc((size_t)run->n_positions * n_pairs * 2u * sizeof(float));
	int r;

	if (!angles) {
		snprintf(run->device.error, sizeof(run->device.error),
			 "no memory for the angles of %u positions; lower --ctx", run->n_positions);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < n_pairs; i++) {
		double frequency = pow((double)c->rope_base, -2.0 * i / c->rope_dims) /
				   ((double)c->rope_scale * (divisors ? (double)divisors[i] : 1.0));
		for (uint32_t pos = 0; pos < run->n_positions; pos++) {
			float *to = angles + ((size_t)pos * n_pairs + i) * 2u;
			to[0] = (float)cos(pos * frequency);
			to[1] = (float)sin(pos * frequency);
		}
	}
	r = upload(run, angles, (uint64_t)run->n_positions * n_pairs * 2u * sizeof(float),
		   &run->angles);
	free(angles);
	return r;
}

static int upload_model(struct backend_run *run, const struct model *m)
{
	const struct tensor *const head[] = { &m->output };
	int r = upload(run, m->tok_embd.data, m->tok_embd.bytes, &run->token_table);

	run->token_type = (uint32_t)m->tok_embd.type;
	run->token_row_bytes = format_row_bytes(m->tok_embd.type, m->tok_embd.n_cols);
	run->layers = calloc(m->config.n_layers, sizeof(*run->layers));
	if (r == 0 && !run->layers)
		r = -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < m->config.n_layers; i++)
		r = upload_layer(run, &m->layers[i], &run->layers[i]);
	if (r == 0)
		r = upload_product(run, head, 1, &run->head);
	if (r == 0)
		r = upload_norm(run, &m->output_norm, &run->output_norm);
	return r == 0 ? upload_angles(run, m) : r;
}

/* ---- room for a step ---- */

static int alloc_acts(struct backend_run *run, uint32_t n_rows, uint32_t n_in, unsigned reads,
		      struct kvd_acts *a)
{
	const uint64_t blocks = (uint64_t)n_rows / KVD_ROW_TILE * layout_chunks(n_in);
	struct device *d = &run->device;
	int r = 0;

	a->n_chunks = layout_chunks(n_in);
	if (reads & RUN_BYTES) {
		r = device_alloc(d, blocks * 1024u, &a->bytes);
		if (r == 0)
			r = device_alloc(d, blocks * 256u, &a->byte_scales);
	}
	if (r == 0 && reads & RUN_WIDE) {
		r = device_alloc(d, blocks * 1024u, &a->wide_high);
		if (r == 0)
			r = device_alloc(d, blocks * 1024u, &a->wide_low);
		if (r == 0)
			r = device_alloc(d, blocks * 256u, &a->wide_scales);
	}
	if (r == 0 && reads & RUN_FLOATS) {
		r = device_alloc(d, blocks * 2048u, &a->float_high);
		if (r == 0)
			r = device_alloc(d, blocks * 2048u, &a->float_low);
	}
	return r;
}

static int alloc_all_acts(struct backend_run *run, uint32_t n_rows)
{
	const struct model_config *c = &run->config;
	unsigned embd = run->head.reads, heads = 0, ff = 0;
	int r;

	for (uint32_t i = 0; i < c->n_layers; i++) {
		embd |= run->layers[i].qkv.reads | run->layers[i].gate_up.reads;
		heads |= run->layers[i].wo.reads;
		ff |= run->layers[i].down.reads;
	}
	r = alloc_acts(run, n_rows, c->n_embd, embd, &run->embd_acts);
	if (r == 0)
		r = alloc_acts(run, n_rows, c->n_heads * c->head_dim, heads, &run->head_acts);
	return r == 0 ? alloc_acts(run, n_rows, c->n_ff, ff, &run->ff_acts) : r;
}

static int alloc_room(struct backend_run *run, const struct backend_options *o)
{
	const struct model_config *c = &run->config;
	const uint64_t rows = (o->max_rows + KVD_ROW_TILE - 1u) / KVD_ROW_TILE * KVD_ROW_TILE;
	const uint64_t q = (uint64_t)c->n_heads * c->head_dim, kv = (uint64_t)c->n_kv_heads * c->head_dim;
	const struct plan_shape shape = plan_shape_of(o->max_rows, o->max_seqs, run->n_positions,
						      c->n_heads / c->n_kv_heads, c->head_dim);
	const uint64_t logits = (uint64_t)o->max_logits * c->n_vocab * sizeof(float);
	const struct {
		uint64_t bytes;
		void *at;
	} wanted[] = {
		{ shape.bytes, &run->image },
		{ rows * c->n_embd * 4u, &run->x },
		{ rows * (q + 2u * kv) * 4u, &run->qkv },
		{ rows * q * 4u, &run->attended },
		{ rows * c->n_ff * 8u, &run->gate_up },
		{ rows * q * 2u, &run->q_high },
		{ rows * q * 2u, &run->q_low },
		{ shape.max_partials * q * 4u, &run->partials },
		{ (uint64_t)shape.max_partials * c->n_heads * 8u, &run->partial_states },
		{ logits, &run->logits },
	};
	void *image = NULL;
	int r = alloc_all_acts(run, (uint32_t)rows);

	for (size_t i = 0; r == 0 && i < sizeof(wanted) / sizeof(wanted[0]); i++)
		r = device_alloc(&run->device, wanted[i].bytes, wanted[i].at);
	if (r == 0)
		r = device_alloc_host(&run->device, logits, &run->host_logits);
	if (r == 0)
		r = device_alloc_host(&run->device, shape.bytes, &image);
	run->max_logits = o->max_logits;
	return r == 0 ? plan_init(&run->plan, &shape, image) : r;
}

static int find_kernels(struct backend_run *run)
{
	const uint32_t head_dim = run->config.head_dim;
	char unit[32], stream[32];
	const struct {
		const char *name;
		uint32_t shared_bytes;
		struct driver_function **at;
	} wanted[] = {
		{ "kvd_embed", 0, &run->kernels.embed }, { "kvd_norm", 32, &run->kernels.norm },
		{ "kvd_gate", 0, &run->kernels.gate }, { "kvd_rope", 0, &run->kernels.rope },
		{ "kvd_merge", 0, &run->kernels.merge },
		{ unit, kvd_unit_shared(head_dim), &run->kernels.attend_unit },
		{ stream, kvd_stream_shared(head_dim), &run->kernels.attend_stream },
	};
	int r = 0;

	snprintf(unit, sizeof(unit), "kvd_attend_unit_%u", head_dim);
	snprintf(stream, sizeof(stream), "kvd_attend_stream_%u", head_dim);
	for (size_t i = 0; r == 0 && i < sizeof(wanted) / sizeof(wanted[0]); i++)
		r = device_function(&run->device, wanted[i].name, wanted[i].shared_bytes, wanted[i].at);
	return r;
}

/* Shapes that the attention kernels are built for. */
static int check_shape(struct backend_run *run)
{
	static const uint32_t head_dims[] = { 64, 80, 96, 128, 256 };
	const struct model_config *c = &run->config;

	for (size_t i = 0; i < sizeof(head_dims) / sizeof(head_dims[0]); i++)
		if (c->head_dim == head_dims[i])
			return 0;
	snprintf(run->device.error, sizeof(run->device.error),
		 "the model's head dimension is %u; on a GPU it must be 64, 80, 96, 128 or 256: use --device host",
		 c->head_dim);
	return -EOPNOTSUPP;
}

/* kvd's pages are memory of one GPU; no other can read them. */
static int check_device(struct backend_run *run, const struct backend_options *o)
{
	const struct driver_facts *facts = &run->device.facts;

	if (!o->device_uuid || memcmp(facts->uuid.bytes, o->device_uuid, sizeof(facts->uuid.bytes)) == 0)
		return 0;
	snprintf(run->device.error, sizeof(run->device.error),
		 "cuda:%d (%s, %s) is not the GPU whose memory this kvd owns; give the engine kvd's --device",
		 o->ordinal, facts->name, facts->bus);
	return -EXDEV;
}

int run_build(struct backend_run *run, const struct model *m, const struct backend_options *o)
{
	int r;

	run->config = m->config;
	run->n_positions = o->n_positions;
	r = check_shape(run);
	if (r == 0)
		r = device_open(&run->device, o->ordinal);
	if (r == 0)
		r = check_device(run, o);
	if (r == 0)
		r = find_kernels(run);
	if (r == 0)
		r = upload_model(run, m);
	return r == 0 ? alloc_room(run, o) : r;
}

void run_free(struct backend_run *run)
{
	plan_deinit(&run->plan);
	run_drop_graphs(run);
	free(run->layers);
	device_close(&run->device);
	free(run);
}
