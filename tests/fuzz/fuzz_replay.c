/* fuzz_replay.c - the reader of records: the bytes as a file, and as the payloads of blocks whose frame is right, so
 * that the events and the book's pieces behind it are reached too.  Only looked at, not run (kvd runs them in a
 * child of its own). */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kvd/recorder.h"
#include "kvd/record_book.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static size_t add(uint8_t *file, size_t at, uint32_t type, const void *payload, size_t n)
{
	struct kvd_record_block block = { KVD_RECORD_MAGIC, type, (uint32_t)n, record_crc(payload, n) };

	memcpy(file + at, &block, sizeof(block));
	memcpy(file + at + sizeof(block), payload, n);
	return at + sizeof(block) + n;
}

/* A header that this version takes. */
static size_t add_header(uint8_t *file, uint32_t with_tokens)
{
	struct { struct kvd_record_header header; struct core_config config; } all;

	memset(&all, 0, sizeof(all));
	all.config = (struct core_config){
		.pool_bytes = 4u << 20,
		.extent_bytes = 1u << 20,
		.page_bytes_min = 8192,
		.tenants_max = 4,
		.seqs_max = 16,
		.holds_max = 256,
		.promise_usec = 1000,
	};
	all.header = (struct kvd_record_header){
		.version = KVD_RECORD_VERSION, .config_bytes = sizeof(all.config),
		.layout_version = core_layout_version(), .book_bytes = core_book_bytes(&all.config),
		.with_tokens = with_tokens, .event_bytes = sizeof(struct core_event),
	};
	return add(file, 0, KVD_RECORD_HEADER, &all, sizeof(all));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	char error[256];
	uint8_t *file;
	size_t at;

	if (n > 100000)
		return 0;
	(void)replay_check(data, n, error);
	file = malloc(4096 + n * 8);
	if (!file || n < 1) {
		free(file);
		return 0;
	}
	at = add_header(file, data[0] & 1);
	for (size_t i = 1; i + 3 <= n;) {
		uint32_t type = data[i] % 7u;
		size_t bytes = (size_t)data[i + 1] | (size_t)data[i + 2] << 8;

		i += 3;
		if (bytes > n - i)
			bytes = n - i;
		at = add(file, at, type, data + i, bytes);
		i += bytes;
	}
	(void)replay_check(file, at, error);
	free(file);
	return 0;
}
