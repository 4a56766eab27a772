/* small_file.h - a small text file whole, as those of /proc and /sys are. */
#ifndef KVD_SMALL_FILE_H
#define KVD_SMALL_FILE_H

#include <stddef.h>

/* The first max - 1 bytes of a file, NUL-terminated.  Returns 0 or -errno. */
int small_file_read(const char *path, char *text, size_t max);

#endif
