/* siphash.c - SipHash-1-3, the keyed hash of the prefix index.
 *
 * Written from the specification (Aumasson and Bernstein, "SipHash: a fast short-input PRF"): c = 1
 * round per word, d = 3 final rounds, the last word carrying the length in its top byte.  Inputs
 * here are whole 64-bit words.  Keyed, so that nobody who chooses prompts can choose collisions. */
#include "kvd/core/parts.h"

static inline uint64_t rotate(uint64_t x, unsigned bits)
{
	return x << bits | x >> (64 - bits);
}

#define SIP_ROUND(a, b, c, d) do { \
	a += b; b = rotate(b, 13); b ^= a; a = rotate(a, 32); \
	c += d; d = rotate(d, 16); d ^= c; \
	a += d; d = rotate(d, 21); d ^= a; \
	c += b; b = rotate(b, 17); b ^= c; c = rotate(c, 32); \
} while (0)

/* The state in four variables, so that it stays in registers. */
uint64_t siphash_words(const uint64_t key[2], const uint64_t *words, uint32_t n_words)
{
	uint64_t v0 = key[0] ^ 0x736f6d6570736575ull, v1 = key[1] ^ 0x646f72616e646f6dull,
		 v2 = key[0] ^ 0x6c7967656e657261ull, v3 = key[1] ^ 0x7465646279746573ull;
	uint64_t last = (uint64_t)(n_words * 8 & 0xffu) << 56;
	for (uint32_t i = 0; i < n_words; i++) {
		v3 ^= words[i];
		SIP_ROUND(v0, v1, v2, v3);
		v0 ^= words[i];
	}
	v3 ^= last;
	SIP_ROUND(v0, v1, v2, v3);
	v0 ^= last;
	v2 ^= 0xff;
	SIP_ROUND(v0, v1, v2, v3);
	SIP_ROUND(v0, v1, v2, v3);
	SIP_ROUND(v0, v1, v2, v3);
	return v0 ^ v1 ^ v2 ^ v3;
}
