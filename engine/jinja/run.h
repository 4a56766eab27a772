/* run.h - one rendering: its arena, its budget, and the way out when something is wrong.
 *
 * Everything that a rendering makes lives in its arena and dies with it, so a failure can leave
 * from any depth by longjmp: jinja_fail() never returns, and no function of this directory holds
 * anything else that would need to be given back.  Only jinja_render() catches. */
#ifndef ENGINE_JINJA_RUN_H
#define ENGINE_JINJA_RUN_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "engine/jinja/jinja.h"

struct arena_chunk;
struct dict;
struct scope;

struct run {
	jmp_buf escape;
	struct arena_chunk *chunks;  /* newest first; allocation is from the first alone */
	size_t memory_bytes;         /* held by all chunks */
	struct jinja_limits limits;
	uint64_t steps;              /* used so far */
	unsigned depth;
	uint32_t line, column;       /* of the token or node at work, for messages; from 1 */
	uint64_t seed;               /* of dict hashing: a client must not choose collisions */
	time_t now;
	struct scope *root;          /* the template's outermost variables */
	struct dict *context;        /* what the caller gave */
	char *err;
	size_t errlen;
	int code;
};

/* Leave the rendering.  code is what jinja_render() returns; the sentence gets its position. */
__attribute__((noreturn, format(printf, 3, 4)))
void jinja_fail(struct run *run, int code, const char *format, ...);

/* Uninitialised memory that lives as long as the rendering, aligned for any type. */
void *jinja_alloc(struct run *run, size_t n);
void *jinja_alloc_array(struct run *run, size_t n, size_t item_bytes);

/* Grow the newest allocation in place if it can be, else copy it. */
void *jinja_realloc(struct run *run, void *old, size_t old_n, size_t n);

void jinja_release(struct run *run);

/* Work done: one per node or item, and one per 64 bytes moved or compared. */
void jinja_step(struct run *run, uint64_t n);
static inline void jinja_step_bytes(struct run *run, size_t n)
{
	jinja_step(run, n / 64);
}

/* Around everything that recurses; leave undoes enter (a failure needs no leave). */
void jinja_enter(struct run *run);
static inline void jinja_leave(struct run *run)
{
	run->depth--;
}

/* Text under construction.  Zero-initialise. */
struct buffer {
	char *bytes;
	size_t n, size;
};
void jinja_put(struct run *run, struct buffer *buffer, const char *bytes, size_t n);
void jinja_puts(struct run *run, struct buffer *buffer, const char *string);
void jinja_putc(struct run *run, struct buffer *buffer, char c);
void jinja_put_point(struct run *run, struct buffer *buffer, uint32_t point);

#endif
