/* fuzz_spill.c - what comes back from the spill file is anything: only a slot that was written there, bit for
 * bit, may be taken for a page.
 *
 * The first byte chooses a page size, the rest is the slot as it was read (short: the file ended there).  The
 * target seals the true page of that size beside it: what unseals without an error must be that page. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kvd/mover/spill.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint32_t sizes[4] = { 64, 1024, 4032, 5120 };
	static const uint8_t key[32] = { 1, 2, 3, 4, 5 };
	static uint8_t truth[8192], slot[8192], page[5120];
	const struct mover_place place = { 3 * 8192, 77, 0x1234567890abcdefull };
	const uint8_t *plane = page;
	struct spill_cipher *cipher;

	if (size < 1 || spill_cipher_open(key, &cipher) < 0)
		return 0;
	uint32_t page_bytes = sizes[data[0] % 4];
	size_t slot_bytes = spill_slot_bytes(page_bytes);
	for (uint32_t i = 0; i < page_bytes; i++)
		page[i] = (uint8_t)(i * 7);
	if (spill_seal(cipher, &place, &plane, 1, page_bytes, truth) < 0)
		abort();
	memset(slot, 0, slot_bytes);
	memcpy(slot, data + 1, size - 1 < slot_bytes ? size - 1 : slot_bytes);
	if (spill_unseal(cipher, &place, page_bytes, slot) == 0 && memcmp(slot, page, page_bytes))
		abort();
	if (spill_unseal(cipher, &place, page_bytes, truth) < 0 || memcmp(truth, page, page_bytes))
		abort();
	spill_cipher_close(cipher);
	return 0;
}
