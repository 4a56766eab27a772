/* vec_dots.h - nibble and byte products where four bytes are dotted in one step (vi_dot_bytes).
 *
 * Included by vec_avx512.h and vec_portable.h behind their vi_dot_bytes(); AVX2 has no such step and
 * its own bodies.  No include guard: each kernel table compiles it for its own types. */
typedef vi nib_acc;
INLINE nib_acc nib_zero(void) { return vi_zero(); }
INLINE nib_acc nib_step(nib_acc s, vi w, vi a) { return vi_dot_bytes(s, w, a); }
INLINE vi nib_sum(nib_acc s) { return s; }

/* Bytes x 16 bits as two dots of bytes: activation = 256 * high + low; a block has all highs, then
 * all lows. */
struct byte_w { vi all; };
struct byte_acc_pair { vi high, low; };
typedef struct byte_acc_pair byte_acc;
INLINE struct byte_w byte_load(const void *p) { return (struct byte_w){ vi_load(p) }; }
INLINE byte_acc byte_zero(void) { return (byte_acc){ vi_zero(), vi_zero() }; }
INLINE byte_acc byte_step(byte_acc s, struct byte_w w, const int16_t *q, int k4)
{
	const int8_t *bytes = (const int8_t *)q + 4 * k4;
	s.high = vi_dot_bytes(s.high, w.all, vi_bcast(bytes));
	s.low = vi_dot_bytes(s.low, w.all, vi_bcast(bytes + 32));
	return s;
}
INLINE vi byte_sum(byte_acc s) { return vi_add(vi_shl(s.high, 8), s.low); }
INLINE void wide_store(int16_t *q, const int32_t *from)
{
	int8_t *bytes = (int8_t *)q;
	for (int i = 0; i < 32; i++) {
		int32_t high = (from[i] + 128) >> 8;
		bytes[i] = (int8_t)high;
		bytes[i + 32] = (int8_t)(from[i] - 256 * high);
	}
}
