/* attention_body.h - one block of keys against a tile of queries, and the merge of its partials.
 *
 * Included once per instruction set, after its vec_*.h and rows_body.h.  Scores: a lane is a key,
 * one chain over the dimensions of the head, two at a time (pair_step).  Output: a lane is a
 * dimension, one chain over the keys of the block, two at a time.  Keys a query doesn't see get
 * weight exactly 0: their K and V may be anything finite, so what other rows wrote can't show. */
#ifndef LANE_VECS
#error "include rows_body.h first"
#endif

#define PAGE_KEYS 16u                /* KVD_PAGE_TOKENS */

/* s[r][c] += pair of query r . pair of vector c: all first elements, then all second ones, so that
 * only half of the vectors' elements must be in registers at a time. */
#define PAIR_STEPS(R, C, s, vectors, pair_of_r) \
	UNROLL(2) \
	for (int half = 0; half < PAIR_HALVES; half++) { \
		UNROLL(6) \
		for (int r = 0; r < (R); r++) { \
			UNROLL(4) \
			for (int c = 0; c < (C); c++) \
				s[r][c] = pair_step(s[r][c], vectors[c], pair_of_r, half); \
		} \
	}

/* scores[r][0 .. 16 * n_pages) = query r . key; N pages at a time, so that there are
 * sums enough in flight */
TILE void score_pages(const int R, const int N, const struct attn_tile *t, uint32_t page,
			float scores[][ATTN_BLOCK_KEYS])
{
	vf s[6][4];

	UNROLL(6)
	for (int r = 0; r < R; r++)
		UNROLL(4)
		for (int c = 0; c < N * LANE_VECS; c++)
			s[r][c] = vf_zero();
	for (uint32_t i = 0; i < t->head_dim / 2u; i++) {
		pair_w k[4];
		UNROLL(4)
		for (int c = 0; c < N * LANE_VECS; c++)
			k[c] = pair_load(t->pages[page + (uint32_t)(c / LANE_VECS)] +
					 (size_t)i * PAGE_KEYS * 4u + (c % LANE_VECS) * VW * 4);
		PAIR_STEPS(R, N * LANE_VECS, s, k, t->queries[r] + (size_t)i * PAIR_BYTES)
	}
	UNROLL(6)
	for (int r = 0; r < R; r++)
		UNROLL(4)
		for (int c = 0; c < N * LANE_VECS; c++)
			vf_store(&scores[r][page * PAGE_KEYS + (uint32_t)c * VW], s[r][c]);
}

/* Scores to weights 2^(score - maximum); unseen keys weigh 0. */
static void weigh(float *scores, uint32_t n_pages, uint32_t visible, uint8_t *weights,
		  float *ret_max, float *ret_sum)
{
	const int n = (int)(n_pages * PAGE_KEYS);
	vf largest[LANE_VECS], sum[LANE_VECS];

	for (int c = 0; c < LANE_VECS; c++) {
		largest[c] = vf_set1(-INFINITY);
		sum[c] = vf_zero();
	}
	for (int i = 0; i < n; i += 16)
		for (int c = 0; c < LANE_VECS; c++) {
			vf s = vf_select_below(vf_load(scores + i + c * VW), vf_set1(-INFINITY),
					       i + c * VW, (int32_t)visible);
			largest[c] = vf_max(s, largest[c]);
		}
	*ret_max = lanes_max(largest);
	for (int i = 0; i < n; i += 16)
		for (int c = 0; c < LANE_VECS; c++) {
			vf p = vf_exp2(vf_sub(vf_load(scores + i + c * VW), vf_set1(*ret_max)));
			p = vf_select_below(p, vf_zero(), i + c * VW, (int32_t)visible);
			sum[c] = vf_add(sum[c], p);
			pair_store(weights, (uint32_t)(i + c * VW), p);
		}
	*ret_sum = lanes_sum(sum);
}

/* N vectors of dimensions from dim on: out = sum over the block's keys of weight * V.  The final
 * + 0 turns a negative zero, whose sign could depend on unseen keys, into zero. */
TILE void mix_values(const int R, const int N, const struct attn_tile *t, uint32_t dim,
		       uint8_t weights[][ATTN_BLOCK_KEYS / 2 * PAIR_BYTES])
{
	vf s[6][4];

	UNROLL(6)
	for (int r = 0; r < R; r++)
		UNROLL(4)
		for (int c = 0; c < N; c++)
			s[r][c] = vf_zero();
	for (uint32_t page = 0; page < t->n_pages; page++) {
		const uint8_t *v = t->pages[page] + PAGE_KEYS * t->head_dim * 2u + dim * 4u;
		for (uint32_t i = 0; i < PAGE_KEYS / 2u; i++, v += t->head_dim * 4u) {
			pair_w w[4];
			UNROLL(4)
			for (int c = 0; c < N; c++)
				w[c] = pair_load(v + c * VW * 4);
			PAIR_STEPS(R, N, s, w, weights[r] +
				   (size_t)(page * PAGE_KEYS / 2u + i) * PAIR_BYTES)
		}
	}
	UNROLL(6)
	for (int r = 0; r < R; r++)
		UNROLL(4)
		for (int c = 0; c < N; c++)
			vf_store(t->partials[r] + dim + c * VW, vf_add(s[r][c], vf_zero()));
}

/* The dimensions that don't fill a vector, one at a time, in the same order. */
static void mix_values_rest(const struct attn_tile *t, uint32_t dim,
			    uint8_t weights[][ATTN_BLOCK_KEYS / 2 * PAIR_BYTES])
{
	for (uint32_t r = 0; r < t->n_queries; r++)
		for (uint32_t d = dim; d < t->head_dim; d++) {
			float s = 0.0f;
			for (uint32_t key = 0; key < t->n_pages * PAGE_KEYS; key++) {
				const uint16_t *v = (const uint16_t *)(t->pages[key / PAGE_KEYS] +
					PAGE_KEYS * t->head_dim * 2u);
				uint32_t in_page = key % PAGE_KEYS;
				s = fmaf(f32_from_bf16(v[(in_page / 2u * t->head_dim + d) * 2u +
							 in_page % 2u]),
					 pair_get(weights[r], key), s);
			}
			t->partials[r][d] = s + 0.0f;
		}
}

/* Few queries leave registers free: they take twice the keys and dimensions at a time. */
TILE void attend_tile(const int R, const struct attn_tile *t)
{
	const int N = R <= 2 || LANE_VECS == 1 ? 2 : 1;
	float scores[ATTN_TILE_QUERIES][ATTN_BLOCK_KEYS] __attribute__((aligned(64)));
	uint8_t weights[ATTN_TILE_QUERIES][ATTN_BLOCK_KEYS / 2 * PAIR_BYTES]
		__attribute__((aligned(64)));
	uint32_t page = 0, dim = 0;

	for (; page + (uint32_t)N <= t->n_pages; page += (uint32_t)N)
		score_pages(R, N, t, page, scores);
	if (page < t->n_pages)
		score_pages(R, 1, t, page, scores);
	for (int r = 0; r < R; r++)
		weigh(scores[r], t->n_pages, t->visible[r], weights[r],
		      t->partials[r] + t->head_dim, t->partials[r] + t->head_dim + 1);
	for (; dim + (uint32_t)(N * LANE_VECS * VW) <= t->head_dim;
	     dim += (uint32_t)(N * LANE_VECS * VW))
		mix_values(R, N * LANE_VECS, t, dim, weights);
	for (; dim + VW <= t->head_dim; dim += VW)
		mix_values(R, 1, t, dim, weights);
	if (dim < t->head_dim)
		mix_values_rest(t, dim, weights);
}

#define ATTEND_TILE(R) static void attend_##R(const struct attn_tile *t) { attend_tile(R, t); }
ATTEND_TILE(1) ATTEND_TILE(2) ATTEND_TILE(3) ATTEND_TILE(4) ATTEND_TILE(5)

static void attend(const struct attn_tile *t)
{
	static void (*const tiles[ATTN_TILE_QUERIES + 1u])(const struct attn_tile *) = {
		NULL, attend_1, attend_2, attend_3, attend_4, attend_5 };

	tiles[t->n_queries](t);
}

static void merge(float *running, const float *part, uint32_t head_dim)
{
	float running_max = running[head_dim], part_max = part[head_dim];
	float largest = running_max > part_max ? running_max : part_max;
	float lane[VW];
	uint32_t d = 0;

	/* the exponential of the kernels, not libm's: a vector of which two lanes are used */
	for (int l = 0; l < VW; l++)
		lane[l] = (l == 0 ? running_max : part_max) - largest;
	vf_store(lane, vf_exp2(vf_load(lane)));
	float keep = lane[0], take = lane[1];
	for (; d + VW <= head_dim; d += VW)
		vf_store(running + d, vf_fma(vf_load(running + d), vf_set1(keep),
					     vf_mul(vf_load(part + d), vf_set1(take))));
	for (; d < head_dim; d++)
		running[d] = fmaf(running[d], keep, part[d] * take);
	running[head_dim] = largest;
	running[head_dim + 1] = fmaf(running[head_dim + 1], keep, part[head_dim + 1] * take);
}

static void finish(const float *running, uint32_t head_dim, float *out)
{
	float inverse = 1.0f / running[head_dim + 1];

	for (uint32_t d = 0; d < head_dim; d++)
		out[d] = running[d] * inverse;
}
