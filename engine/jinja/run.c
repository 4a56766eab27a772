/* run.c - arena, budget and failure of one rendering.  See run.h. */
#include "engine/jinja/run.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/jinja/utf8.h"

/* Most templates need less than one chunk; above it, chunks double: their number stays small. */
#define CHUNK_BYTES_MIN ((size_t)64 << 10)
#define CHUNK_BYTES_MAX ((size_t)4 << 20)
#define ALIGN ((size_t)16)

struct arena_chunk {
	struct arena_chunk *next;
	size_t size, used;           /* bytes of data[] */
	_Alignas(16) char data[];
};

/* A message may quote the template: no control characters for a log, no half characters. */
static void clean(char *message)
{
	size_t n = strlen(message), bad;

	while ((bad = jinja_utf8_check(message, n)) < n)
		message[bad] = '?';
	for (; *message; message++)
		if ((unsigned char)*message < 0x20 || *message == 0x7f)
			*message = ' ';
}

void jinja_fail(struct run *run, int code, const char *format, ...)
{
	va_list list;
	int n = snprintf(run->err, run->errlen, "line %u, column %u: ", run->line, run->column);

	if (n >= 0 && (size_t)n < run->errlen) {
		va_start(list, format);
		vsnprintf(run->err + n, run->errlen - (size_t)n, format, list);
		va_end(list);
	}
	clean(run->err);
	run->code = code;
	longjmp(run->escape, 1);
}

static void arena_grow(struct run *run, size_t n)
{
	size_t size = run->chunks ? run->chunks->size * 2 : CHUNK_BYTES_MIN;
	struct arena_chunk *chunk;

	if (size > CHUNK_BYTES_MAX)
		size = CHUNK_BYTES_MAX;
	if (size > run->limits.memory_bytes - run->memory_bytes)
		size = run->limits.memory_bytes - run->memory_bytes;
	if (size < n)
		size = n;
	if (n > run->limits.memory_bytes - run->memory_bytes)
		jinja_fail(run, -EOVERFLOW, "rendering needs more than %zu bytes of memory",
			run->limits.memory_bytes);
	chunk = malloc(sizeof(*chunk) + size);
	if (!chunk)
		jinja_fail(run, -ENOMEM, "no memory for %zu bytes", size);
	chunk->size = size;
	chunk->used = 0;
	chunk->next = run->chunks;
	run->chunks = chunk;
	run->memory_bytes += size;
}

void *jinja_alloc(struct run *run, size_t n)
{
	void *result;

	if (n > run->limits.memory_bytes)
		jinja_fail(run, -EOVERFLOW, "rendering needs more than %zu bytes of memory",
			run->limits.memory_bytes);
	n = (n + ALIGN - 1) & ~(ALIGN - 1);
	if (!run->chunks || n > run->chunks->size - run->chunks->used)
		arena_grow(run, n);
	result = run->chunks->data + run->chunks->used;
	run->chunks->used += n;
	return result;
}

void *jinja_alloc_array(struct run *run, size_t n, size_t item_bytes)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, item_bytes, &bytes))
		bytes = SIZE_MAX;
	return jinja_alloc(run, bytes);
}

void *jinja_realloc(struct run *run, void *old, size_t old_n, size_t n)
{
	struct arena_chunk *chunk = run->chunks;
	size_t old_rounded = (old_n + ALIGN - 1) & ~(ALIGN - 1);
	void *result;

	if (old && n < SIZE_MAX / 2 && (char *)old + old_rounded == chunk->data + chunk->used) {
		size_t more = ((n + ALIGN - 1) & ~(ALIGN - 1)) - old_rounded;
		if (more <= chunk->size - chunk->used) {
			chunk->used += more;
			return old;
		}
	}
	result = jinja_alloc(run, n);
	if (old_n)
		memcpy(result, old, old_n);
	jinja_step_bytes(run, old_n);
	return result;
}

void jinja_release(struct run *run)
{
	while (run->chunks) {
		struct arena_chunk *next = run->chunks->next;
		free(run->chunks);
		run->chunks = next;
	}
	run->memory_bytes = 0;
}

void jinja_step(struct run *run, uint64_t n)
{
	run->steps += n;
	if (run->steps > run->limits.steps)
		jinja_fail(run, -EOVERFLOW, "rendering takes more than %llu steps",
			(unsigned long long)run->limits.steps);
}

void jinja_enter(struct run *run)
{
	if (++run->depth > run->limits.depth)
		jinja_fail(run, -EOVERFLOW, "syntax, calls or data nest deeper than %u levels",
			run->limits.depth);
}

void jinja_put(struct run *run, struct buffer *buffer, const char *bytes, size_t n)
{
	if (n > run->limits.output_bytes - buffer->n)
		jinja_fail(
			run, -EOVERFLOW, "a text grows beyond %zu bytes", run->limits.output_bytes);
	if (n > buffer->size - buffer->n) {
		size_t size = buffer->size ? buffer->size * 2 : 64;
		while (size < buffer->n + n)
			size *= 2;
		buffer->bytes = jinja_realloc(run, buffer->bytes, buffer->size, size);
		buffer->size = size;
	}
	if (n)
		memcpy(buffer->bytes + buffer->n, bytes, n);
	buffer->n += n;
	jinja_step_bytes(run, n);
}

void jinja_puts(struct run *run, struct buffer *buffer, const char *string)
{
	jinja_put(run, buffer, string, strlen(string));
}

void jinja_putc(struct run *run, struct buffer *buffer, char c)
{
	jinja_put(run, buffer, &c, 1);
}

void jinja_put_point(struct run *run, struct buffer *buffer, uint32_t point)
{
	char bytes[4];

	jinja_put(run, buffer, bytes, jinja_utf8_encode(point, bytes));
}
