/* weights.c - a model's weights laid out for the kernels; see weights.h and cpu/kernels.h.
 *
 * The buffer is a header page, then norms and panels at offsets that place_model() computes from
 * the model alone.  Built once, sealed, then only read.  Quantised formats keep the file's own bits
 * (Q4_0, Q4_1, Q8_0) or are widened without loss: Q5_x to bytes, Q4_K to nibbles and Q5_K, Q6_K to
 * bytes with f32 scales. */
#include "engine/weights.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "engine/cpu/formats.h"

#define WEIGHTS_VERSION 1u          /* of the layout; raised when any offset or order changes */
#define HEADER_BYTES 4096u
#define ALIGN_BYTES 64u
#define HUGE_BYTES (2u << 20)
#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

static const char magic[8] = "kvdweigh";

struct header {
	char magic[8];
	uint32_t version;
	uint32_t header_bytes;
	uint64_t bytes;                 /* of the whole buffer */
	uint8_t fingerprint[16];        /* of the model */
};

/* Offsets are handed out in ascending order; with base == NULL only the size is counted. */
struct placer {
	uint8_t *base;
	uint64_t used_bytes;
};

static uint8_t *place(struct placer *p, uint64_t bytes)
{
	uint64_t at = p->used_bytes;

	p->used_bytes += (bytes + ALIGN_BYTES - 1u) & ~(uint64_t)(ALIGN_BYTES - 1u);
	return p->base ? p->base + at : NULL;
}

static void place_matrix(struct placer *p, const struct tensor *t, struct panel_matrix *m)
{
	const uint32_t scale_bytes = format_has_wide_scales(t->type) ? 4u : 2u;

	*m = (struct panel_matrix){ .n_in = (uint32_t)t->n_cols, .n_out = (uint32_t)t->n_rows };
	m->n_panels = (m->n_out + PANEL_COLS - 1u) / PANEL_COLS;
	if (format_is_quantised(t->type)) {
		m->form = format_is_nibble(t->type) ? FORM_NIBBLE : FORM_BYTE;
		m->group_k = t->type == TENSOR_Q6_K ? 16u : 32u;
		m->n_groups = m->n_in / m->group_k;
		m->offset = format_offset(t->type);
		m->has_min = format_has_min(t->type);
		m->scales_f32 = format_has_wide_scales(t->type);
		m->group_bytes = PANEL_COLS * (m->group_k / (m->form == FORM_NIBBLE ? 2u : 1u) +
					       scale_bytes * (m->has_min ? 2u : 1u));
		m->panel_bytes = (uint64_t)m->n_groups * m->group_bytes;
	} else {
		m->form = t->type == TENSOR_F32	  ? FORM_F32
			  : t->type == TENSOR_F16 ? FORM_F16
						  : FORM_BF16;
		m->panel_bytes = (uint64_t)m->n_in * PANEL_COLS * (t->type == TENSOR_F32 ? 4u : 2u);
	}
	m->data = place(p, m->panel_bytes * m->n_panels);
}

static const float *place_norm(struct placer *p, const struct tensor *t)
{
	return (const float *)place(p, ((t->n_cols + 15u) & ~(uint64_t)15u) * sizeof(float));
}

/* Where everything lies; the same in every process of this model. */
static void place_model(const struct model *m, struct placer *p, struct weights *w)
{
	p->used_bytes = HEADER_BYTES;
	for (uint32_t l = 0; l < m->config.n_layers; l++) {
		const struct model_layer *from = &m->layers[l];
		struct weights_layer *to = &w->layers[l];
		to->attn_norm = place_norm(p, &from->attn_norm);
		place_matrix(p, &from->wq, &to->wq);
		place_matrix(p, &from->wk, &to->wk);
		place_matrix(p, &from->wv, &to->wv);
		place_matrix(p, &from->wo, &to->wo);
		to->ffn_norm = place_norm(p, &from->ffn_norm);
		place_matrix(p, &from->w_gate, &to->w_gate);
		place_matrix(p, &from->w_up, &to->w_up);
		place_matrix(p, &from->w_down, &to->w_down);
	}
	w->output_norm = place_norm(p, &m->output_norm);
	place_matrix(p, &m->output, &w->output);
	/* panels are read a vector at a time and some kernels read one vector ahead */
	w->bytes = (p->used_bytes + HUGE_BYTES - 1u) & ~(uint64_t)(HUGE_BYTES - 1u);
}

static void fill_scale(uint8_t *scales, uint32_t column, bool is_f32, float f32, uint16_t f16)
{
	if (is_f32)
		memcpy(scales + column * 4u, &f32, 4);
	else
		memcpy(scales + column * 2u, &f16, 2);
}

/* One column's 32 elements of a quantised panel: group(s) at `group`. */
static void fill_block(const struct panel_matrix *m, const struct format_block *b, uint8_t *group,
		       uint32_t column)
{
	const uint32_t n_halves = BLOCK_K / m->group_k;
	const uint32_t quant_bytes = PANEL_COLS * m->group_k / (m->form == FORM_NIBBLE ? 2u : 1u);
	const uint32_t min_bytes = PANEL_COLS * (m->scales_f32 ? 4u : 2u);

	for (uint32_t h = 0; h < n_halves; h++, group += m->group_bytes) {
		const uint8_t *q = b->q + h * m->group_k;
		for (uint32_t k = 0; k < m->group_k && m->form == FORM_BYTE; k++)
			group[k / 4u * PANEL_COLS * 4u + column * 4u + k % 4u] = q[k];
		for (uint32_t k = 0; k < m->group_k / 2u && m->form == FORM_NIBBLE; k++)
			group[k / 4u * PANEL_COLS * 4u + column * 4u + k % 4u] =
				(uint8_t)(q[k] | q[k + m->group_k / 2u] << 4);
		fill_scale(group + quant_bytes, column, m->scales_f32, b->scale[h], b->scale_f16);
		if (m->has_min)
			fill_scale(group + quant_bytes + min_bytes, column, m->scales_f32, b->min,
				   b->min_f16);
	}
}

static void fill_floats(const struct panel_matrix *m, const struct tensor *t, uint32_t row,
			uint8_t *panel, uint32_t column)
{
	const uint32_t size = m->form == FORM_F32 ? 4u : 2u;
	const uint8_t *from = (const uint8_t *)t->data + (uint64_t)row * t->n_cols * size;

	for (uint64_t k = 0; k < t->n_cols; k++)
		memcpy(panel + (k * PANEL_COLS + column) * size, from + k * size, size);
}

static void fill_matrix(const struct panel_matrix *m, const struct tensor *t)
{
	uint8_t *data = (uint8_t *)m->data;
	const uint64_t row_bytes = format_row_bytes(t->type, t->n_cols);

	for (uint32_t row = 0; row < m->n_out; row++) {
		uint8_t *panel = data + row / PANEL_COLS * m->panel_bytes;
		const uint32_t column = row % PANEL_COLS;
		if (m->n_groups == 0) {
			fill_floats(m, t, row, panel, column);
			continue;
		}
		for (uint32_t b = 0; b < m->n_in / BLOCK_K; b++) {
			struct format_block block;
			format_read(t->type, (const uint8_t *)t->data + row * row_bytes, b, &block);
			fill_block(m, &block,
				   panel + (size_t)b * (BLOCK_K / m->group_k) * m->group_bytes,
				   column);
		}
	}
}

static void fill_model(const struct model *m, const struct weights *w)
{
	for (uint32_t l = 0; l < m->config.n_layers; l++) {
		const struct model_layer *from = &m->layers[l];
		const struct weights_layer *to = &w->layers[l];
		format_row_f32(&from->attn_norm, 0, (float *)to->attn_norm);
		fill_matrix(&to->wq, &from->wq);
		fill_matrix(&to->wk, &from->wk);
		fill_matrix(&to->wv, &from->wv);
		fill_matrix(&to->wo, &from->wo);
		format_row_f32(&from->ffn_norm, 0, (float *)to->ffn_norm);
		fill_matrix(&to->w_gate, &from->w_gate);
		fill_matrix(&to->w_up, &from->w_up);
		fill_matrix(&to->w_down, &from->w_down);
	}
	format_row_f32(&m->output_norm, 0, (float *)w->output_norm);
	fill_matrix(&w->output, &m->output);
}

static struct header header_of(const struct model *m, uint64_t bytes)
{
	struct header h = { .version = WEIGHTS_VERSION,
			    .header_bytes = HEADER_BYTES,
			    .bytes = bytes };

	memcpy(h.magic, magic, sizeof(h.magic));
	memcpy(h.fingerprint, m->fingerprint, sizeof(h.fingerprint));
	return h;
}

static int weights_new(const struct model *m, struct weights **ret)
{
	struct weights *w = calloc(1, sizeof(*w));
	struct placer count = { .base = NULL };

	if (!w)
		return -ENOMEM;
	w->fd = -1;
	w->layers = calloc(m->config.n_layers, sizeof(*w->layers));
	if (!w->layers) {
		free(w);
		return -ENOMEM;
	}
	place_model(m, &count, w);
	*ret = w;
	return 0;
}

/* Memory for the buffer: private with huge pages asked for, or a memfd. */
static int map_buffer(struct weights *w, bool shared)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;

	if (shared) {
		w->fd = memfd_create("kvd-weights", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		/* born 0777: a receiver could reopen it through /proc otherwise */
		if (w->fd < 0 || fchmod(w->fd, 0600) < 0 || ftruncate(w->fd, (off_t)w->bytes) < 0)
			return -errno;
		flags = MAP_SHARED;
	}
	/* room to start the mapping on a huge page's boundary; the rest is given back at once */
	uint8_t *room =
		mmap(NULL, w->bytes + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED)
		return -errno;
	uint8_t *start =
		(uint8_t *)(((uintptr_t)room + HUGE_BYTES - 1u) & ~(uintptr_t)(HUGE_BYTES - 1u));
	if (start > room)
		munmap(room, (size_t)(start - room));
	if (room + HUGE_BYTES > start)
		munmap(start + w->bytes, (size_t)(room + HUGE_BYTES - start));
	w->base = mmap(start, w->bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, w->fd, 0);
	if (w->base == MAP_FAILED) {
		int r = -errno;
		munmap(start, w->bytes);
		w->base = NULL;
		return r;
	}
	/* advice only: where huge pages are refused the panels lie in small ones */
	(void)madvise(w->base, w->bytes, MADV_HUGEPAGE);
	return 0;
}

/* No more writers: seal a memfd (which forbids a writable mapping) and map it read-only. */
static int seal_buffer(struct weights *w)
{
#ifdef MADV_COLLAPSE
	(void)madvise(w->base, w->bytes, MADV_COLLAPSE);
#endif
	if (w->fd < 0)
		return mprotect(w->base, w->bytes, PROT_READ) < 0 ? -errno : 0;
	uint8_t *at = w->base;
	/* same address, so that the offsets already computed stay good */
	if (munmap(w->base, w->bytes) < 0)
		return -errno;
	w->base = NULL;
	if (fcntl(w->fd, F_ADD_SEALS, SEALS) < 0)
		return -errno;
	uint8_t *map = mmap(at, w->bytes, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, w->fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	w->base = map;
	return 0;
}

int weights_build(const struct model *m, bool shared, struct weights **ret, char *err,
		  size_t errlen)
{
	struct weights *w;
	int r = weights_new(m, &w);

	if (r < 0) {
		snprintf(err, errlen, "weights of %u layers: %s", m->config.n_layers, strerror(-r));
		return r;
	}
	r = map_buffer(w, shared);
	if (r == 0) {
		struct placer p = { .base = w->base };
		struct header h = header_of(m, w->bytes);
		memcpy(w->base, &h, sizeof(h));
		place_model(m, &p, w);
		fill_model(m, w);
		r = seal_buffer(w);
	}
	if (r < 0) {
		snprintf(err, errlen,
			 "cannot lay out %llu MiB of weights: %s; free memory or use a smaller "
			 "model",
			 (unsigned long long)(w->bytes >> 20), strerror(-r));
		weights_free(w);
		return r;
	}
	*ret = w;
	return 0;
}

/* Is fd a buffer that nobody can change any more, of exactly this size? */
static bool fd_is_sealed(int fd, uint64_t bytes)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);

	return seals >= 0 && (seals & SEALS) == SEALS && fstat(fd, &st) == 0 &&
	       (uint64_t)st.st_size == bytes;
}

int weights_adopt(const struct model *m, int fd, struct weights **ret, char *err, size_t errlen)
{
	struct weights *w;
	int r = weights_new(m, &w);

	if (r < 0) {
		snprintf(err, errlen, "weights of %u layers: %s", m->config.n_layers, strerror(-r));
		return r;
	}
	if (!fd_is_sealed(fd, w->bytes)) {
		snprintf(err, errlen,
			 "shared weights: not a sealed buffer of %llu bytes; lay out our own",
			 (unsigned long long)w->bytes);
		weights_free(w);
		return -EINVAL;
	}
	w->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	uint8_t *map =
		w->fd < 0 ? MAP_FAILED : mmap(NULL, w->bytes, PROT_READ, MAP_SHARED, w->fd, 0);
	if (map == MAP_FAILED) {
		r = -errno;
		snprintf(err, errlen, "shared weights: cannot map: %s", strerror(-r));
		weights_free(w);
		return r;
	}
	w->base = map;
	struct header expected = header_of(m, w->bytes);
	if (memcmp(map, &expected, sizeof(expected)) != 0) {
		snprintf(err, errlen,
			 "shared weights: of another model or version; lay out our own");
		weights_free(w);
		return -EINVAL;
	}
	struct placer p = { .base = w->base };
	place_model(m, &p, w);
	assert(p.used_bytes <= w->bytes);
	*ret = w;
	return 0;
}

void weights_free(struct weights *w)
{
	if (!w)
		return;
	if (w->base)
		munmap(w->base, w->bytes);
	if (w->fd >= 0)
		close(w->fd);
	free(w->layers);
	free(w);
}
