/* sentence.h - why something cannot be, in one sentence for whoever asked.
 *
 * A file that says such things names its size once:
 *     #define complain(error, ...) sentence(error, X_ERROR_MAX, __VA_ARGS__) */
#ifndef KVD_SENTENCE_H
#define KVD_SENTENCE_H

#include <stdarg.h>
#include <stdio.h>

/* Cut to size bytes where it is longer.  Returns r. */
__attribute__((format(printf, 4, 5)))
static inline int sentence(char *ret, size_t size, int r, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(ret, size, format, args);
	va_end(args);
	return r;
}

#endif
