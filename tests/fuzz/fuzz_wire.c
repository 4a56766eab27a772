/* fuzz_wire.c - one packet on the control socket.  Input: [u8 role][u8 descriptors][packet]. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kvd/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is let through must be readable as its type says: reading past it is seen by ASan. */
static void read_message(const struct kvd_msg *m)
{
	const void *body = m;
	size_t total = 0;

	switch (m->type) {
	case KVD_M_HELLO: {
		const struct kvd_msg_hello *hello = body;

		total = strlen(hello->program) + strlen(hello->tenant) + hello->role;
		break;
	}
	case KVD_M_ATTACH: {
		const struct kvd_msg_attach *attach = body;

		total = strlen(attach->name) + strlen(attach->model) + strlen(attach->numerics) +
			attach->sq_entries;
		break;
	}
	case KVD_M_STREAM_OPEN: {
		const struct kvd_msg_stream_open *open = body;

		total = strlen(open->model) + strlen(open->engine) + strlen(open->avoid) +
			open->wait_ms;
		break;
	}
	case KVD_M_STREAM_AGAIN: {
		const struct kvd_msg_stream_again *again = body;

		total = strlen(again->engine) + again->ticket[KVD_TICKET_BYTES - 1];
		break;
	}
	case KVD_M_QUERY: {
		const struct kvd_msg_query *query = body;

		total = strlen(query->argument) + query->what;
		break;
	}
	case KVD_M_WEIGHTS_ASK:
	case KVD_M_WEIGHTS_OFFER:
		total = strlen(((const struct kvd_msg_weights *)body)->layout);
		break;
	case KVD_M_CLIENT_GONE:
		total = ((const struct kvd_msg_client_gone *)body)->completion_tokens;
		break;
	case KVD_M_ENGINE_STATS:
		total = ((const struct kvd_msg_engine_stats *)body)->tokens_per_s;
		break;
	default: abort(); /* kvd takes no other */
	}
	__asm__ volatile("" : : "r"(total));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *why = NULL;
	uint8_t *packet;
	int r;

	if (size < 2 || size - 2 > KVD_MSG_MAX)
		return 0;
	packet = malloc(size - 2 ? size - 2 : 1);
	memcpy(packet, data + 2, size - 2);
	r = wire_check(packet, size - 2, data[1] % 4, data[0] % 3, &why);
	if (r == 0)
		read_message((const struct kvd_msg *)packet);
	else
		assert(why && *why);
	free(packet);
	return 0;
}
