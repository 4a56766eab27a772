/* peek.h - look into a host's shared memory from outside, as its own uid may: through /proc/PID/fd. */
#ifndef TESTS_PEEK_H
#define TESTS_PEEK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Map the memfd of process pid whose name (after "memfd:") is `name`, shared, writable if asked.
 * Returns NULL if the process has none of that name; *ret_bytes its size.  munmap() it. */
void *peek_memfd(pid_t pid, const char *name, int writable, size_t *ret_bytes);
/* Names of the memfds of a process, for messages: "a b c". */
void peek_names(pid_t pid, char *ret, size_t max);

#endif
