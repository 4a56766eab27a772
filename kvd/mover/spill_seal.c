/* spill_seal.c - one slot of the spill file: AES-256-GCM by libcrypto, which uses the processor's own.
 *
 * The nonce is the place's block number (32 bits) and the write's generation (64 bits): the core gives no
 * generation twice under one key, and the key lives as long as the book.  A slot that was torn, rotted, is an
 * older write of the same place or another page's fails on its trailer or on its tag; the trailer is not
 * trusted, it only tells the two apart. */
#include "kvd/mover/spill.h"

#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

struct spill_cipher { EVP_CIPHER_CTX *seal, *unseal; };

int spill_cipher_open(const uint8_t key[32], struct spill_cipher **ret)
{
	struct spill_cipher *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->seal = EVP_CIPHER_CTX_new();
	c->unseal = EVP_CIPHER_CTX_new();
	if (!c->seal || !c->unseal || EVP_EncryptInit_ex(c->seal, EVP_aes_256_gcm(), NULL, key, NULL) != 1 ||
	    EVP_DecryptInit_ex(c->unseal, EVP_aes_256_gcm(), NULL, key, NULL) != 1) {
		spill_cipher_close(c);
		return -ENOTSUP;
	}
	*ret = c;
	return 0;
}

void spill_cipher_close(struct spill_cipher *cipher)
{
	if (!cipher)
		return;
	EVP_CIPHER_CTX_free(cipher->seal);   /* clears the key */
	EVP_CIPHER_CTX_free(cipher->unseal);
	free(cipher);
}

size_t spill_slot_bytes(uint64_t page_bytes)
{
	uint64_t bytes = page_bytes + MOVER_SPILL_TRAILER + MOVER_SPILL_ALIGN - 1;

	return (size_t)(bytes & ~(uint64_t)(MOVER_SPILL_ALIGN - 1));
}

static void nonce_of(const struct mover_place *place, uint8_t ret[12])
{
	uint32_t block = (uint32_t)(place->offset / MOVER_SPILL_ALIGN);

	memcpy(ret, &block, sizeof(block));
	memcpy(ret + sizeof(block), &place->generation, sizeof(place->generation));
}

struct sealed_with { uint64_t offset, generation, identity, page_bytes; };  /* beside the bytes */

static struct sealed_with with_of(const struct mover_place *place, uint64_t page_bytes)
{
	return (struct sealed_with){ place->offset, place->generation, place->identity, page_bytes };
}

int spill_seal(struct spill_cipher *cipher, const struct mover_place *place, const uint8_t *const *planes,
	       uint32_t n_planes, uint32_t block_bytes, uint8_t *slot)
{
	uint64_t page_bytes = (uint64_t)n_planes * block_bytes;
	struct sealed_with with = with_of(place, page_bytes);
	struct spill_trailer trailer = { SPILL_MAGIC, place->offset, place->generation, place->identity, page_bytes,
		{ 0 }, 0 };
	uint8_t nonce[12], *at = slot;
	int n;

	if (block_bytes > INT_MAX)
		return -EINVAL;
	nonce_of(place, nonce);
	if (EVP_EncryptInit_ex(cipher->seal, NULL, NULL, NULL, nonce) != 1 ||
	    EVP_EncryptUpdate(cipher->seal, NULL, &n, (const uint8_t *)&with, sizeof(with)) != 1)
		return -EIO;
	for (uint32_t i = 0; i < n_planes; i++, at += block_bytes)
		if (EVP_EncryptUpdate(cipher->seal, at, &n, planes[i], (int)block_bytes) != 1)
			return -EIO;
	if (EVP_EncryptFinal_ex(cipher->seal, at, &n) != 1 ||
	    EVP_CIPHER_CTX_ctrl(cipher->seal, EVP_CTRL_GCM_GET_TAG, sizeof(trailer.tag), trailer.tag) != 1)
		return -EIO;
	memcpy(at, &trailer, sizeof(trailer));
	at += sizeof(trailer);
	memset(at, 0, spill_slot_bytes(page_bytes) - (size_t)(at - slot));
	return 0;
}

int spill_unseal(struct spill_cipher *cipher, const struct mover_place *place, uint64_t page_bytes, uint8_t *slot)
{
	struct sealed_with with = with_of(place, page_bytes);
	struct spill_trailer trailer;
	uint8_t nonce[12];
	int n;

	memcpy(&trailer, slot + page_bytes, sizeof(trailer));
	if (trailer.magic != SPILL_MAGIC || trailer.offset != place->offset ||
	    trailer.generation != place->generation || trailer.identity != place->identity ||
	    trailer.page_bytes != page_bytes)
		return -EBADMSG;
	nonce_of(place, nonce);
	if (EVP_DecryptInit_ex(cipher->unseal, NULL, NULL, NULL, nonce) != 1 ||
	    EVP_DecryptUpdate(cipher->unseal, NULL, &n, (const uint8_t *)&with, sizeof(with)) != 1)
		return -EIO;
	for (uint64_t done = 0; done < page_bytes;) {
		uint64_t part = page_bytes - done < 1u << 30 ? page_bytes - done : 1u << 30;

		if (EVP_DecryptUpdate(cipher->unseal, slot + done, &n, slot + done, (int)part) != 1)
			return -EIO;
		done += part;
	}
	if (EVP_CIPHER_CTX_ctrl(cipher->unseal, EVP_CTRL_GCM_SET_TAG, sizeof(trailer.tag), trailer.tag) != 1 ||
	    EVP_DecryptFinal_ex(cipher->unseal, slot + page_bytes, &n) != 1)
		return -EBADMSG;
	return 0;
}
