/* fuzz_request.c - a stream socket's packets, arbitrary.  Input: [u16 length][packet] ... */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "engine/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct request r = { 0 };
	uint32_t status;
	char err[240];

	while (size >= 2) {
		size_t n = data[0] | (size_t)data[1] << 8;
		enum request_result result;
		uint8_t *packet;
		data += 2;
		size -= 2;
		if (n > size)
			n = size;
		packet = malloc(n ? n : 1);        /* exact size: reading past it is seen */
		memcpy(packet, data, n);
		err[0] = 0;
		result = request_packet(&r, packet, n, &status, err, sizeof(err));
		free(packet);
		data += n;
		size -= n;
		assert(r.n_bytes <= r.n_expected && r.capacity <= r.n_expected);
		if (result == REQUEST_REFUSED) {
			assert(err[0] && status);
			break;
		}
		if (result == REQUEST_COMPLETE) {
			struct session *s;
			const int32_t prompt[2] = { 1, 2 };
			static char text[SESSION_TEXT_MAX];
			uint32_t n_text;
			if (session_new(&r, prompt, 2, 64, 300, &s, err, sizeof(err)) != 0)
				break;
			for (uint32_t i = 0; i < r.head.n_resume && !s->finish; i++)
				session_accept(s, (int32_t)request_resume_id(&r, i), "r\xc3", 2,
					       false, text, &n_text);
			while (!s->finish) {
				char piece = (char)s->n_known;
				session_accept(s, piece & 0x7f, &piece, 1, s->n_known == 50, text,
					       &n_text);
				assert(n_text <= SESSION_TEXT_MAX);
			}
			session_free(s);
		}
	}
	request_reset(&r);
	return 0;
}
