/* utf8_stream.h - bytes in any portions in, whole UTF-8 characters out.
 *
 * A token may hold a part of a character.  What leaves the engine never does: a sequence is kept
 * back until its last byte arrived, and bytes that can't belong to any character become U+FFFD, one
 * for each maximal ill-formed piece (the practice Unicode recommends, as browsers and Python do).
 */
#ifndef ENGINE_UTF8_STREAM_H
#define ENGINE_UTF8_STREAM_H

#include <stddef.h>
#include <stdint.h>

struct utf8_stream {
	uint8_t held[4];               /* beginning of a character, well-formed so far */
	uint8_t n_held;                /* 0 .. 3 */
};

#define UTF8_STREAM_INIT ((struct utf8_stream){ { 0 }, 0 })

/* Most bytes that n bytes can become: each one ill-formed, and what was held before. */
#define UTF8_STREAM_ROOM(n) (3u * (n) + 3u)

/* Take bytes, release whole characters.
 *
 * bytes    (n), may be empty
 * ret_out  room for UTF8_STREAM_ROOM(n) bytes; not NUL-terminated; must not overlap bytes
 * Returns  bytes written, valid UTF-8 */
size_t utf8_stream_push(struct utf8_stream *s, const char *bytes, size_t n, char *ret_out);

/* No more bytes will come: release U+FFFD for a character that was begun.
 *
 * ret_out  room for 3 bytes
 * Returns  0 or 3; the stream is empty and may be used again */
size_t utf8_stream_end(struct utf8_stream *s, char *ret_out);

#endif
