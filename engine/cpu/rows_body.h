/* rows_body.h - what is done to a row of activations between products; kernels.h has the contracts.
 *
 * Included once per instruction set, after its vec_*.h.  Sums and maxima over elements go over 16
 * virtual lanes (element i belongs to lane i mod 16) and then a fixed tree, whatever the vector. */
#ifndef VW
#error "include a vec_*.h first"
#endif

#define LANE_VECS (16 / VW)         /* vectors that make the 16 virtual lanes */

INLINE float lanes_sum(const vf *v)
{
	float x[16];

	for (int c = 0; c < LANE_VECS; c++)
		vf_store(x + c * VW, v[c]);
	for (int width = 8; width > 0; width /= 2)
		for (int i = 0; i < width; i++)
			x[i] += x[i + width];
	return x[0];
}

INLINE float lanes_max(const vf *v)
{
	float x[16];

	for (int c = 0; c < LANE_VECS; c++)
		vf_store(x + c * VW, v[c]);
	for (int width = 8; width > 0; width /= 2)
		for (int i = 0; i < width; i++)
			x[i] = x[i] > x[i + width] ? x[i] : x[i + width];
	return x[0];
}

/* 2^x for x <= 127; below -126 exactly 0; at 0 exactly 1; relative error < 2e-7. */
INLINE vf vf_exp2(vf x)
{
	const vf low = vf_set1(-126.0f);
	vf clamped = vf_max(x, low);
	vi n = vi_round(clamped);
	vf f = vf_sub(clamped, vf_from_vi(n));
	vf p = vf_set1(1.54035304e-4f);     /* Taylor series of 2^f, |f| <= 1/2 */

	p = vf_fma(p, f, vf_set1(1.33335581e-3f));
	p = vf_fma(p, f, vf_set1(9.61812911e-3f));
	p = vf_fma(p, f, vf_set1(5.55041087e-2f));
	p = vf_fma(p, f, vf_set1(2.40226507e-1f));
	p = vf_fma(p, f, vf_set1(6.93147181e-1f));
	p = vf_fma(p, f, vf_set1(1.0f));
	return vf_keep_ge(vf_bits(vi_add(vi_bits(p), vi_shl(n, 23))), x, low);
}

static void norm(const float *x, const float *w, uint32_t n, float eps, float *y)
{
	vf squares[LANE_VECS];

	for (int c = 0; c < LANE_VECS; c++)
		squares[c] = vf_zero();
	for (uint32_t i = 0; i < n; i += 16)
		for (int c = 0; c < LANE_VECS; c++) {
			vf v = vf_load(x + i + c * VW);
			squares[c] = vf_fma(v, v, squares[c]);
		}
	vf scale = vf_set1(1.0f / sqrtf(lanes_sum(squares) / (float)n + eps));
	for (uint32_t i = 0; i < n; i += 16)
		for (int c = 0; c < LANE_VECS; c++) {
			vf v = vf_mul(vf_load(x + i + c * VW), scale);
			vf_store(y + i + c * VW, vf_mul(v, vf_load(w + i + c * VW)));
		}
}

/* The largest magnitude of 32 elements; 0 where it is so small that its inverse would overflow. */
INLINE float magnitude_of(const float *x)
{
	vf largest[LANE_VECS];

	for (int c = 0; c < LANE_VECS; c++)
		largest[c] = vf_max(vf_abs(vf_load(x + c * VW)), vf_abs(vf_load(x + 16 + c * VW)));
	float magnitude = lanes_max(largest);
	return magnitude > 1e-30f ? magnitude : 0.0f;
}

static void quantise(const float *x, uint32_t n, struct act_block *block)
{
	for (uint32_t i = 0; i < n; i += BLOCK_K, block++, x += BLOCK_K) {
		float magnitude = magnitude_of(x);
		vf inverse = vf_set1(magnitude > 0.0f ? 127.0f / magnitude : 0.0f);
		int32_t sum = 0;
		for (int c = 0; c < (int)BLOCK_K; c += VW)
			vf_store_s8(block->q + c, vf_mul(vf_load(x + c), inverse));
		for (int k = 0; k < (int)BLOCK_K; k++)
			sum += block->q[k];
		block->s.scale = magnitude / 127.0f;
		block->s.scale_sum = block->s.scale * (float)sum;
		block->s.minus_sum = -8 * sum;
	}
}

static void quantise_wide(const float *x, uint32_t n, struct act_wide *block)
{
	for (uint32_t i = 0; i < n; i += BLOCK_K, block++, x += BLOCK_K) {
		float magnitude = magnitude_of(x);
		vf inverse = vf_set1(magnitude > 0.0f ? 32512.0f / magnitude : 0.0f);
		int32_t q[BLOCK_K], half = 0, sum = 0;
		for (int c = 0; c < (int)BLOCK_K; c += VW)
			vi_store(q + c, vi_round(vf_mul(vf_load(x + c), inverse)));
		/* cut to 16 bits before summing: a NaN's conversion must not overflow the sum */
		for (int k = 0; k < 16; k++)
			half += (int16_t)q[k];
		for (int k = 16; k < 32; k++)
			sum += (int16_t)q[k];
		sum += half;
		wide_store(block->q, q);
		block->s.scale = magnitude / 32512.0f;
		block->s.scale_sum = block->s.scale * (float)sum;
		block->s.minus_sum = -128 * sum;
		block->s.minus_half = -128 * half;
	}
}

static void swiglu(float *gate, const float *up)
{
	for (int i = 0; i < (int)PANEL_COLS; i += VW) {
		vf g = vf_load(gate + i);
		/* exp(-g) = 2^(-g log2 e); beyond 2^126 the quotient is as good as 0 */
		vf e = vf_exp2(vf_min(vf_mul(g, vf_set1(-1.44269504f)), vf_set1(126.0f)));
		vf_store(gate + i, vf_mul(vf_div(g, vf_add(vf_set1(1.0f), e)), vf_load(up + i)));
	}
}

static void add(float *y, const float *x)
{
	for (int i = 0; i < (int)PANEL_COLS; i += VW)
		vf_store(y + i, vf_add(vf_load(y + i), vf_load(x + i)));
}

static void rotate(float *x, const float *cosines, const float *sines)
{
	for (int i = 0; i < (int)PANEL_COLS; i += VW) {
		vf v = vf_load(x + i);
		vf turned = vf_mul(vf_swap_pairs(v), vf_load(sines + i));
		vf_store(x + i, vf_fma(v, vf_load(cosines + i), turned));
	}
}

static void store_pairs(void *pairs, uint32_t at, const float *x, float scale)
{
	for (int i = 0; i < (int)PANEL_COLS; i += VW)
		pair_store(pairs, at + (uint32_t)i, vf_mul(vf_load(x + i), vf_set1(scale)));
}
