/* peek.h - look into a host's shared memory from outside, as its own uid may: through /proc/PID. */
#ifndef TESTS_PEEK_H
#define TESTS_PEEK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Map the memfd of process pid whose name (after "memfd:") is `name`, shared, writable if asked.
 * Returns NULL if the process has none of that name; *ret_bytes its size.  munmap() it. */
void *peek_memfd(pid_t pid, const char *name, int writable, size_t *ret_bytes);
/* Read n bytes at offset of the memfd of that name as process pid has it mapped (its descriptor may be closed
 * long since).  Returns 0, or -1 if there is no such mapping or the process is gone. */
int peek_read(pid_t pid, const char *name, size_t offset, void *ret, size_t n);

#endif
