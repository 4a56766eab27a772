/* fuzz_stream.c - libkvd's parser of what an engine sends: any packet, no crash, nothing outside
 * it. */
#include "client/stream_message.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kvd_stream_message message;
	const char *problem;
	uint64_t sum = 0;

	/* A copy of exactly this size, so that a read beyond it is caught; malloc aligns as the
	 * library does. */
	uint8_t *packet = malloc(size ? size : 1);
	if (!packet)
		return 0;
	memcpy(packet, data, size);
	/* Most random sizes are wrong and end at the first check: put the right one in, too. */
	for (int mended = 0; mended < 2; mended++) {
		if (mended && size >= sizeof(struct kvd_msg))
			((struct kvd_msg *)packet)->size = (uint32_t)size;
		if (kvd_stream_message_parse(packet, size, &message, &problem) != 0) {
			if (!problem || !*problem)
				abort();
			continue;
		}
		if (message.type == KVD_M_TOKENS) {
			for (uint32_t i = 0; i < message.n_ids; i++) {
				if (message.ids[i] < 0)
					abort();
				sum += (uint64_t)message.ids[i];
			}
			for (uint32_t i = 0; i < message.text_bytes; i++)
				sum += (uint8_t)message.text[i];
			if (!kvd_utf8_is_valid(message.text, message.text_bytes))
				abort();
		} else if (message.type == KVD_M_END) {
			sum += strlen(message.end.text);
			if (strlen(message.end.text) >= sizeof(message.end.text))
				abort();
		}
	}
	free(packet);
	static volatile uint64_t keep;   /* or the reads above would be optimised away */
	keep = sum;
	return keep == sum ? 0 : -1;
}
