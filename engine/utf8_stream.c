/* utf8_stream.c - the one place that decides what is well-formed UTF-8.
 *
 * A byte is judged by the bytes held before it, so that the state is those bytes themselves: at
 * most three, always the beginning of at least one character.  Never allocates, never fails. */
#include "engine/utf8_stream.h"

#include <string.h>

/* Bytes of a character that begins with lead; 0 if none does (Unicode 15, table 3-7). */
static unsigned sequence_bytes(uint8_t lead)
{
	if (lead < 0x80)
		return 1;
	if (lead < 0xc2)
		return 0;
	return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
}

/* May byte follow what is held?  The second byte's range depends on the lead: it excludes longer
 * spellings than needed, surrogates and numbers above U+10FFFF. */
static int continues(const struct utf8_stream *s, uint8_t byte)
{
	uint8_t low = 0x80, high = 0xbf;

	if (s->n_held == 1) {
		switch (s->held[0]) {
		case 0xe0: low = 0xa0; break;
		case 0xed: high = 0x9f; break;
		case 0xf0: low = 0x90; break;
		case 0xf4: high = 0x8f; break;
		}
	}
	return byte >= low && byte <= high;
}

static size_t put_replacement(char *out)
{
	memcpy(out, "\xef\xbf\xbd", 3);
	return 3;
}

size_t utf8_stream_push(struct utf8_stream *s, const char *bytes, size_t n, char *ret_out)
{
	size_t at = 0;

	for (size_t i = 0; i < n; i++) {
		uint8_t byte = (uint8_t)bytes[i];
		unsigned need;

		if (s->n_held && !continues(s, byte)) {
			at += put_replacement(ret_out + at);
			s->n_held = 0;
		}
		if (!s->n_held) {
			need = sequence_bytes(byte);
			if (need == 1)
				ret_out[at++] = (char)byte;
			else if (!need)
				at += put_replacement(ret_out + at);
			else
				s->held[s->n_held++] = byte;
			continue;
		}
		s->held[s->n_held++] = byte;
		if (s->n_held == sequence_bytes(s->held[0])) {
			memcpy(ret_out + at, s->held, s->n_held);
			at += s->n_held;
			s->n_held = 0;
		}
	}
	return at;
}

size_t utf8_stream_end(struct utf8_stream *s, char *ret_out)
{
	size_t n = s->n_held ? put_replacement(ret_out) : 0;

	s->n_held = 0;
	return n;
}
