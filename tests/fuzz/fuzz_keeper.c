/* fuzz_keeper.c - whatever kvd's uid may send to its keeper, and whatever may lie in the shell's part of a
 * book: a packet is refused or has sound names, a region is refused or in range.
 *
 * Input: [u8 kind][bytes].  Kind 0, 1: a packet with as many descriptors as kind says times its n; else a
 * region whose version is right and whose other bytes are the input's, repeated. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kvd/keeper.h"
#include "kvd/kept.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_packet(const uint8_t *data, size_t size, bool fds)
{
	struct keeper_packet packet = { 0 };
	const char *why = NULL;

	memcpy(&packet, data, size < sizeof(packet) ? size : sizeof(packet));
	if (keeper_check(data, size, fds ? packet.n : 0, &why) < 0) {
		assert(why);
		return;
	}
	assert(size == sizeof(packet) && packet.n <= KEEPER_BATCH);
	for (uint32_t i = 0; i < packet.n; i++) {
		assert(memchr(packet.names[i], 0, BUNDLE_NAME_MAX) && packet.names[i][0]);
		assert(!strchr(packet.names[i], ':') && !strchr(packet.names[i], '\n'));
	}
}

static void try_region(const uint8_t *data, size_t size)
{
	struct kept *kept = calloc(1, kept_bytes(4));
	const char *why = NULL;

	assert(kept);
	/* Every so many bytes one of the input's, so that most of it stays plausible. */
	for (size_t i = 0; i + 1 < size; i += 2)
		((uint8_t *)kept)[(i * 2654435761u + data[i] * 8191u) % (sizeof(*kept) - 8)] = data[i + 1];
	kept->version = kept_version();
	if (kept_valid(kept, &why)) {
		for (uint32_t i = 0; i < kept->streams_high; i++)
			assert(kept->streams[i].tenant < LIMIT_TENANTS && kept->streams[i].engine <= CORE_ENGINES_MAX);
		for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
			assert(!kept->engines[i].state || memchr(kept->engines[i].name, 0, KVD_NAME_MAX));
	} else {
		assert(why);
	}
	free(kept);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] < 2)
		try_packet(data + 1, size - 1, data[0]);
	else
		try_region(data + 1, size - 1);
	return 0;
}
