/* matmul_body.h - the product of a panel of weights with rows of activations; see kernels.h.
 *
 * Included once per instruction set, after its vec_*.h.  A register tile is R rows x C vectors of
 * columns; the integer sums of one group live in registers, the f32 chains in an array that the
 * compiler keeps in registers or L1 (one read-modify-write per group).  For many rows a panel of
 * nibbles is expanded once into scratch, as contiguous runs of TILE_COLS columns:
 *   [run][group]{ [8 k4][TILE_COLS][4 bytes], d f32 [TILE_COLS], m f32 [TILE_COLS] } */
#ifndef VW
#error "include a vec_*.h first"
#endif

#define PANEL_VECS ((int)PANEL_COLS / VW)
#define TILE_VECS 2
#define TILE_COLS (TILE_VECS * VW)

/* Where one tile reads its weights. */
struct tile_weights {
	const uint8_t *quants;     /* first group, first vector */
	const uint8_t *scales;     /* likewise; the minimum lies min_bytes later */
	uint32_t group_step;       /* bytes from group to group */
	uint32_t k4_step;          /* bytes from one k4 (nibbles: pair of k4) to the next */
	uint32_t min_bytes;
	bool scales_f32;
};

INLINE vf scale_load(const uint8_t *p, int c, bool is_f32)
{
	if (is_f32)
		return vf_load((const float *)p + c * VW);
	return vf_from_f16(p + c * VW * 2);
}

/* Scales of row r: rows of activations lie stride bytes apart. */
INLINE const struct act_scale *scale_of(const struct act_scale *first, uint32_t stride, int r)
{
	return (const struct act_scale *)((const uint8_t *)first + (size_t)r * stride);
}

/* Add one group's integer dots, still without the weights' offset, to the chains. */
TILE void tile_accumulate(const int R, const int C, const bool has_min,
			  const struct panel_matrix *m, const struct tile_weights *w,
			  const uint8_t *scales, const struct act_scale *a, uint32_t stride,
			  uint32_t half, vi dots[][4], vf acc[][4])
{
	vf d[4], min[4];

	UNROLL(4)
	for (int c = 0; c < C; c++) {
		d[c] = scale_load(scales, c, w->scales_f32);
		min[c] = has_min ? scale_load(scales + w->min_bytes, c, w->scales_f32) : vf_zero();
	}
	UNROLL(6)
	for (int r = 0; r < R; r++) {
		const struct act_scale *s = scale_of(a, stride, r);
		vf scale = vf_set1(s->scale), sum = vf_set1(s->scale_sum);
		if (m->offset) {
			vi start = vi_set1(m->group_k == BLOCK_K ? s->minus_sum
					   : half == 0		 ? s->minus_half
								 : s->minus_sum - s->minus_half);
			UNROLL(4)
			for (int c = 0; c < C; c++)
				dots[r][c] = vi_add(dots[r][c], start);
		}
		UNROLL(4)
		for (int c = 0; c < C; c++) {
			vf x = vf_fma(vf_from_vi(dots[r][c]), vf_mul(d[c], scale), acc[r][c]);
			acc[r][c] = has_min ? vf_fma(min[c], sum, x) : x;
		}
	}
}

TILE void tile_store(const int R, const int C, vf acc[][4], float *out, uint32_t out_stride)
{
	UNROLL(6)
	for (int r = 0; r < R; r++)
		UNROLL(4)
		for (int c = 0; c < C; c++)
			vf_store(out + (size_t)r * out_stride + c * VW, acc[r][c]);
}

/* Nibbles, R rows x C vectors; expanded: one byte each, else two to a byte. */
TILE void nibble_tile(const int R, const int C, const bool expanded, const struct panel_matrix *m,
			const struct tile_weights *w, const struct act_block *a, uint32_t stride,
			float *out, uint32_t out_stride)
{
	const uint8_t *quants = w->quants, *scales = w->scales;
	const int n_steps = expanded ? 8 : 4;
	vf acc[6][4];

	UNROLL(6)
	for (int r = 0; r < R; r++)
		UNROLL(4)
		for (int c = 0; c < C; c++)
			acc[r][c] = vf_zero();
	for (uint32_t g = 0; g < m->n_groups; g++, a++) {
		nib_acc s[6][4];
		vi dots[6][4];
		UNROLL(6)
		for (int r = 0; r < R; r++)
			UNROLL(4)
			for (int c = 0; c < C; c++)
				s[r][c] = nib_zero();
		UNROLL(1)
		for (int k = 0; k < n_steps; k++) {
			const uint8_t *p = quants + (size_t)k * w->k4_step;
			vi low[4], high[4];
			UNROLL(4)
			for (int c = 0; c < C; c++) {
				vi v = vi_load(p + c * VW * 4);
				low[c] = expanded ? v : vi_low_nibbles(v);
				high[c] = vi_high_nibbles(v);
			}
			UNROLL(6)
			for (int r = 0; r < R; r++) {
				const int8_t *q = a[(size_t)r * stride].q + 4 * k;
				vi x = vi_bcast(q);
				UNROLL(4)
				for (int c = 0; c < C; c++)
					s[r][c] = nib_step(s[r][c], low[c], x);
				if (expanded)
					continue;
				x = vi_bcast(q + BLOCK_K / 2);
				UNROLL(4)
				for (int c = 0; c < C; c++)
					s[r][c] = nib_step(s[r][c], high[c], x);
			}
		}
		UNROLL(6)
		for (int r = 0; r < R; r++)
			UNROLL(4)
			for (int c = 0; c < C; c++)
				dots[r][c] = nib_sum(s[r][c]);
		if (m->has_min)
			tile_accumulate(R, C, true, m, w, scales, &a->s,
					stride * (uint32_t)sizeof(*a), 0, dots, acc);
		else
			tile_accumulate(R, C, false, m, w, scales, &a->s,
					stride * (uint32_t)sizeof(*a), 0, dots, acc);
		quants += w->group_step;
		scales += w->group_step;
	}
	tile_store(R, C, acc, out, out_stride);
}

/* Bytes; K4 = k4 of a group: 8, or 4 where two groups share an activation block. */
TILE void byte_tile(const int R, const int C, const int K4, const struct panel_matrix *m,
		    const struct tile_weights *w, const struct act_wide *a, uint32_t stride,
		    float *out, uint32_t out_stride)
{
	const uint8_t *quants = w->quants, *scales = w->scales;
	vf acc[6][4];

	UNROLL(6)
	for (int r = 0; r < R; r++)
		UNROLL(4)
		for (int c = 0; c < C; c++)
			acc[r][c] = vf_zero();
	for (uint32_t g = 0; g < m->n_groups; g++) {
		const uint32_t half = K4 == 8 ? 0u : g & 1u;
		const struct act_wide *block = a + (K4 == 8 ? g : g / 2u);
		byte_acc s[6][4];
		vi dots[6][4];
		UNROLL(6)
		for (int r = 0; r < R; r++)
			UNROLL(4)
			for (int c = 0; c < C; c++)
				s[r][c] = byte_zero();
		UNROLL(1)
		for (int k = 0; k < K4; k++) {
			const uint8_t *p = quants + (size_t)k * w->k4_step;
			struct byte_w v[4];
			UNROLL(4)
			for (int c = 0; c < C; c++)
				v[c] = byte_load(p + c * VW * 4);
			UNROLL(6)
			for (int r = 0; r < R; r++)
				UNROLL(4)
				for (int c = 0; c < C; c++)
					s[r][c] = byte_step(s[r][c], v[c],
							    block[(size_t)r * stride].q,
							    k + (int)half * 4);
		}
		UNROLL(6)
		for (int r = 0; r < R; r++)
			UNROLL(4)
			for (int c = 0; c < C; c++)
				dots[r][c] = byte_sum(s[r][c]);
		if (m->has_min)
			tile_accumulate(R, C, true, m, w, scales, &block->s,
					stride * (uint32_t)sizeof(*a), half, dots, acc);
		else
			tile_accumulate(R, C, false, m, w, scales, &block->s,
					stride * (uint32_t)sizeof(*a), half, dots, acc);
		quants += w->group_step;
		scales += w->group_step;
	}
	tile_store(R, C, acc, out, out_stride);
}

INLINE vf weight_load(const enum weight_form form, const uint8_t *p, int c)
{
	if (form == FORM_F32)
		return vf_load((const float *)p + c * VW);
	return form == FORM_F16 ? vf_from_f16(p + c * VW * 2) : vf_from_bf16(p + c * VW * 2);
}

TILE void float_tile(const int R, const enum weight_form form, const uint8_t *w, uint32_t n_in,
		       const float *x, uint32_t stride, float *out, uint32_t out_stride)
{
	const size_t step = PANEL_COLS * (form == FORM_F32 ? 4u : 2u);
	vf acc[6][4];

	UNROLL(6)
	for (int r = 0; r < R; r++)
		acc[r][0] = acc[r][1] = vf_zero();
	for (uint32_t k = 0; k < n_in; k++, w += step) {
		vf w0 = weight_load(form, w, 0), w1 = weight_load(form, w, 1);
		UNROLL(6)
		for (int r = 0; r < R; r++) {
			vf a = vf_set1(x[(size_t)r * stride + k]);
			acc[r][0] = vf_fma(w0, a, acc[r][0]);
			acc[r][1] = vf_fma(w1, a, acc[r][1]);
		}
	}
	tile_store(R, 2, acc, out, out_stride);
}

/* rows: of struct act_block or struct act_wide, stride blocks apart */
#define TILE_ARGS const struct panel_matrix *m, const struct tile_weights *w, const void *rows, \
	uint32_t stride, float *out, uint32_t out_stride
typedef void tile_fn(TILE_ARGS);
#define NIBBLE_TILE(R, C, EXPANDED) static void nibble_##EXPANDED##_##R##x##C(TILE_ARGS) \
	{ nibble_tile(R, C, EXPANDED, m, w, rows, stride, out, out_stride); }
#define BYTE_TILE(R, C, K4) static void byte_##K4##_##R##x##C(TILE_ARGS) \
	{ byte_tile(R, C, K4, m, w, rows, stride, out, out_stride); }

NIBBLE_TILE(1, 2, 0) NIBBLE_TILE(2, 2, 0) NIBBLE_TILE(3, 2, 0)
NIBBLE_TILE(4, 2, 0) NIBBLE_TILE(5, 2, 0) NIBBLE_TILE(6, 2, 0)
NIBBLE_TILE(1, 2, 1) NIBBLE_TILE(2, 2, 1) NIBBLE_TILE(3, 2, 1)
NIBBLE_TILE(4, 2, 1) NIBBLE_TILE(5, 2, 1) NIBBLE_TILE(6, 2, 1)
BYTE_TILE(1, 2, 8) BYTE_TILE(2, 2, 8) BYTE_TILE(3, 2, 8) BYTE_TILE(4, 2, 8) BYTE_TILE(5, 2, 8)
BYTE_TILE(1, 2, 4) BYTE_TILE(2, 2, 4) BYTE_TILE(3, 2, 4) BYTE_TILE(4, 2, 4) BYTE_TILE(5, 2, 4)
#if VW == 8
/* Few rows take the whole panel at once, so that there are sums enough in flight. */
NIBBLE_TILE(1, 4, 0) NIBBLE_TILE(2, 4, 0) NIBBLE_TILE(3, 4, 0)
BYTE_TILE(1, 4, 8) BYTE_TILE(2, 4, 8) BYTE_TILE(1, 4, 4) BYTE_TILE(2, 4, 4)
#endif

/* True where tiles of up to rows rows take all of a panel's columns. */
INLINE bool tiles_are_wide(const struct panel_matrix *m, bool expanded, uint32_t rows)
{
	return VW == 8 && !expanded && rows <= (m->form == FORM_NIBBLE ? 3u : 2u);
}

static tile_fn *tile_for(const struct panel_matrix *m, bool expanded, bool wide, uint32_t rows)
{
	static tile_fn *const nibbles[2][7] = { { NULL, nibble_0_1x2, nibble_0_2x2, nibble_0_3x2,
						  nibble_0_4x2, nibble_0_5x2, nibble_0_6x2 },
						{ NULL, nibble_1_1x2, nibble_1_2x2, nibble_1_3x2,
						  nibble_1_4x2, nibble_1_5x2, nibble_1_6x2 } };
	static tile_fn *const bytes[2][6] = {
		{ NULL, byte_8_1x2, byte_8_2x2, byte_8_3x2, byte_8_4x2, byte_8_5x2 },
		{ NULL, byte_4_1x2, byte_4_2x2, byte_4_3x2, byte_4_4x2, byte_4_5x2 } };
#if VW == 8
	static tile_fn *const wide_nibbles[4] = { NULL, nibble_0_1x4, nibble_0_2x4, nibble_0_3x4 };
	static tile_fn *const wide_bytes[2][3] = { { NULL, byte_8_1x4, byte_8_2x4 },
						   { NULL, byte_4_1x4, byte_4_2x4 } };
	if (wide)
		return m->form == FORM_NIBBLE ? wide_nibbles[rows]
					      : wide_bytes[m->group_k == 16u][rows];
#endif
	return m->form == FORM_NIBBLE ? nibbles[expanded][rows] : bytes[m->group_k == 16u][rows];
}

/* Bytes of the quants of one group of a stored panel. */
INLINE uint32_t group_quant_bytes(const struct panel_matrix *m)
{
	return m->group_k * PANEL_COLS / (m->form == FORM_NIBBLE ? 2u : 1u);
}

/* Bytes of one group of an expanded run. */
#define EXPANDED_GROUP_BYTES (TILE_COLS * (BLOCK_K + 2u * (uint32_t)sizeof(float)))

static void expand_group(const struct panel_matrix *m, const uint8_t *group, int first_vec,
			 uint8_t *to)
{
	const uint8_t *scales = group + group_quant_bytes(m);
	const uint8_t *mins = scales + PANEL_COLS * (m->scales_f32 ? 4u : 2u);

	for (int c = 0; c < TILE_VECS; c++) {
		for (uint32_t k = 0; k < 4; k++) {
			vi v = vi_load(group + k * PANEL_COLS * 4u + (first_vec + c) * VW * 4);
			vi_store(to + k * TILE_COLS * 4u + c * VW * 4, vi_low_nibbles(v));
			vi_store(to + (k + 4u) * TILE_COLS * 4u + c * VW * 4, vi_high_nibbles(v));
		}
		float *f = (float *)(to + TILE_COLS * BLOCK_K) + c * VW;
		vf_store(f, scale_load(scales, first_vec + c, m->scales_f32));
		if (m->has_min)
			vf_store(f + TILE_COLS, scale_load(mins, first_vec + c, m->scales_f32));
	}
}

static const uint8_t *panel_prepare(const struct panel_matrix *m, uint32_t panel, uint32_t n_rows,
				    uint8_t *scratch)
{
	const uint8_t *stored = m->data + (uint64_t)panel * m->panel_bytes;

	if (n_rows <= VEC_EXPAND_ROWS || m->form != FORM_NIBBLE)
		return stored;
	for (int run = 0; run < PANEL_VECS / TILE_VECS; run++)
		for (uint32_t g = 0; g < m->n_groups; g++)
			expand_group(m, stored + (size_t)g * m->group_bytes, run * TILE_VECS,
				     scratch + ((size_t)run * m->n_groups + g) *
						       EXPANDED_GROUP_BYTES);
	return scratch;
}

/* Where vectors first_vec .. of a panel lie. */
static struct tile_weights tile_weights_at(const struct panel_matrix *m, const uint8_t *panel,
					   bool expanded, int first_vec)
{
	if (expanded) {
		const uint8_t *run = panel + (size_t)(first_vec / TILE_VECS) * m->n_groups *
						     EXPANDED_GROUP_BYTES;
		return (struct tile_weights){ .quants = run, .scales = run + TILE_COLS * BLOCK_K,
			.group_step = EXPANDED_GROUP_BYTES, .k4_step = TILE_COLS * 4u,
			.min_bytes = TILE_COLS * (uint32_t)sizeof(float), .scales_f32 = true };
	}
	return (struct tile_weights){ .quants = panel + first_vec * VW * 4,
		.scales = panel + group_quant_bytes(m) + first_vec * VW * (m->scales_f32 ? 4 : 2),
		.group_step = m->group_bytes, .k4_step = PANEL_COLS * 4u,
		.min_bytes = PANEL_COLS * (m->scales_f32 ? 4u : 2u), .scales_f32 = m->scales_f32 };
}

static void float_rows(const struct panel_matrix *m, const uint8_t *panel, const float *x,
		       uint32_t stride, uint32_t rows, float *out, uint32_t out_stride)
{
	for (int v = 0; v < PANEL_VECS; v += 2) {
		const uint8_t *w = panel + (size_t)v * VW * (m->form == FORM_F32 ? 4u : 2u);
		float *o = out + v * VW;
#define FLOAT_CASE(R) \
	case R: \
		if (m->form == FORM_F32) \
			float_tile(R, FORM_F32, w, m->n_in, x, stride, o, out_stride); \
		else if (m->form == FORM_F16) \
			float_tile(R, FORM_F16, w, m->n_in, x, stride, o, out_stride); \
		else \
			float_tile(R, FORM_BF16, w, m->n_in, x, stride, o, out_stride); \
		break;
		switch (rows) {
		FLOAT_CASE(1) FLOAT_CASE(2) FLOAT_CASE(3) FLOAT_CASE(4) FLOAT_CASE(5) FLOAT_CASE(6)
		}
	}
}

static void panel_rows(const struct panel_matrix *m, const uint8_t *panel, bool expanded,
		       const struct act_rows *a, uint32_t first, uint32_t n_rows, float *out,
		       uint32_t out_stride)
{
	const uint32_t tile_max = m->form == FORM_BYTE ? VEC_BYTE_ROWS : 6u;
	const uint32_t n_tiles = (n_rows + tile_max - 1u) / tile_max;
	uint32_t done = 0;

	/* rows spread evenly over the tiles, runs of columns outside: a run stays in L1 */
	if (m->form > FORM_BYTE) {
		for (uint32_t t = 0; t < n_tiles; t++) {
			uint32_t rows = (n_rows - done) / (n_tiles - t);
			float_rows(m, panel, a->f32 + (size_t)(first + done) * a->f32_stride,
				   a->f32_stride, rows, out + (size_t)done * out_stride,
				   out_stride);
			done += rows;
		}
		return;
	}
	const bool wide = tiles_are_wide(m, expanded, (n_rows + n_tiles - 1u) / n_tiles);
	for (int v = 0; v < PANEL_VECS; v += wide ? PANEL_VECS : TILE_VECS) {
		struct tile_weights w = tile_weights_at(m, panel, expanded, v);
		done = 0;
		for (uint32_t t = 0; t < n_tiles; t++) {
			uint32_t rows = (n_rows - done) / (n_tiles - t);
			size_t block = (size_t)(first + done) * a->block_stride;
			const void *x = a->wide + block;
			if (m->form == FORM_NIBBLE)
				x = a->blocks + block;
			tile_for(m, expanded, wide, rows)(m, &w, x, a->block_stride,
				out + (size_t)done * out_stride + v * VW, out_stride);
			done += rows;
		}
	}
}
