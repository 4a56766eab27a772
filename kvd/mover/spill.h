/* spill.h - pages of frames to the spill file and back: encryption, staging, checks.
 *
 * A slot of the file is the page's planes one after another, AES-256-GCM encrypted, then struct spill_trailer,
 * then zeroes up to a whole block.  The tag covers the bytes and what they are: place, generation, identity and
 * length.  Nothing that is read reaches a frame before its tag is right. */
#ifndef KVD_MOVER_SPILL_H
#define KVD_MOVER_SPILL_H

#include "kvd/mover/move.h"
#include "kvd/mover/spill_io.h"

#define SPILL_MAGIC 0x3130736c6c697073ull  /* "spills01" */

struct spill_trailer {             /* 64 bytes behind the page; little-endian */
	uint64_t magic, offset, generation, identity, page_bytes;
	uint8_t tag[16];
	uint64_t zero;
};
_Static_assert(sizeof(struct spill_trailer) == MOVER_SPILL_TRAILER, "the core leaves as much room");

/* ---- spill_seal.c: one slot, in memory ---- */

struct spill_cipher;
int spill_cipher_open(const uint8_t key[32], struct spill_cipher **ret);
void spill_cipher_close(struct spill_cipher *cipher);

/* Bytes of the slot of a page, whole blocks. */
size_t spill_slot_bytes(uint64_t page_bytes);

/* Encrypt the page in n_planes blocks of block_bytes, `planes[i]` each, into a slot. */
int spill_seal(struct spill_cipher *cipher, const struct mover_place *place, const uint8_t *const *planes,
	       uint32_t n_planes, uint32_t block_bytes, uint8_t *slot);
/* Check a slot and decrypt it in place.  0; -EBADMSG: it is not what was written there; then its bytes are
 * garbage and must not be used. */
int spill_unseal(struct spill_cipher *cipher, const struct mover_place *place, uint64_t page_bytes, uint8_t *slot);

/* ---- spill.c: jobs ---- */

struct spill_store;

/* fd is taken over.  key: 32 bytes, copied. */
int spill_store_open(struct move_window *window, int fd, uint64_t file_bytes, const uint8_t key[32],
		     enum spill_io_kind kind, struct spill_store **ret);
void spill_store_close(struct spill_store *store);
const char *spill_store_io(const struct spill_store *store);

/* A SPILL or FETCH job begins, now or when there is a buffer; it is answered by spill_store_next(). */
void spill_store_job(struct spill_store *store, const struct mover_job *job);
/* For poll(): readable when a job may have ended. */
int spill_store_fd(const struct spill_store *store);
/* The answer to a job that has ended. */
bool spill_store_next(struct spill_store *store, struct mover_reply *ret);

#endif
