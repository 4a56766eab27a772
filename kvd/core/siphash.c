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

static inline void sip_round(uint64_t v[4])
{
	v[0] += v[1]; v[1] = rotate(v[1], 13); v[1] ^= v[0]; v[0] = rotate(v[0], 32);
	v[2] += v[3]; v[3] = rotate(v[3], 16); v[3] ^= v[2];
	v[0] += v[3]; v[3] = rotate(v[3], 21); v[3] ^= v[0];
	v[2] += v[1]; v[1] = rotate(v[1], 17); v[1] ^= v[2]; v[2] = rotate(v[2], 32);
}

uint64_t siphash_words(const uint64_t key[2], const uint64_t *words, uint32_t n_words)
{
	uint64_t v[4] = { key[0] ^ 0x736f6d6570736575ull, key[1] ^ 0x646f72616e646f6dull,
			  key[0] ^ 0x6c7967656e657261ull, key[1] ^ 0x7465646279746573ull };
	for (uint32_t i = 0; i <= n_words; i++) {
		uint64_t m = i < n_words ? words[i] : (uint64_t)(n_words * 8 & 0xffu) << 56;
		v[3] ^= m;
		sip_round(v);
		v[0] ^= m;
	}
	v[2] ^= 0xff;
	sip_round(v);
	sip_round(v);
	sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}
