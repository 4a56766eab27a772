/* spill_io.h - reads and writes of the spill file, several at a time, on one of two engines: io_uring with the
 * file and the staging buffers registered, or a few threads with pread and pwrite where io_uring is refused.
 *
 * The caller waits with poll() on spill_io_fd() and then reaps.  One thread calls. */
#ifndef KVD_MOVER_SPILL_IO_H
#define KVD_MOVER_SPILL_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SPILL_IO_DEPTH = 32 };      /* transfers under way; as many staging buffers at most */

enum spill_io_kind { SPILL_IO_AUTO = 0, SPILL_IO_URING, SPILL_IO_THREADS };

struct spill_transfer {
	bool write;
	uint32_t buffer;           /* number of the staging buffer, and the caller's name of the transfer */
	uint8_t *bytes;
	size_t n_bytes, done;
	uint64_t offset;
	int error;
};

struct spill_io;

/* fd stays the caller's.  AUTO: io_uring, else threads.  0 or -errno. */
int spill_io_open(int fd, enum spill_io_kind kind, struct spill_io **ret);
/* Waits for what is under way. */
void spill_io_close(struct spill_io *io);
const char *spill_io_name(const struct spill_io *io);

/* Tell it where the staging buffers are: n of n_bytes each from `base`.  Nothing may be under way.  A kernel
 * that will not register them costs speed, nothing else. */
void spill_io_buffers(struct spill_io *io, uint8_t *base, size_t n_bytes, uint32_t n);

/* Begin a transfer; *transfer is copied.  At most SPILL_IO_DEPTH are under way. */
int spill_io_begin(struct spill_io *io, const struct spill_transfer *transfer);

/* Readable when something can be reaped. */
int spill_io_fd(const struct spill_io *io);
/* One transfer that has ended: all its bytes are there, or error says why not (-ENODATA: the file ends). */
bool spill_io_reap(struct spill_io *io, struct spill_transfer *ret);

/* spill_thread.c: the other engine; the same calls. */
struct spill_threads;
int spill_threads_open(int fd, struct spill_threads **ret);
void spill_threads_close(struct spill_threads *t);
int spill_threads_begin(struct spill_threads *t, const struct spill_transfer *transfer);
int spill_threads_fd(const struct spill_threads *t);
bool spill_threads_reap(struct spill_threads *t, struct spill_transfer *ret);

#endif
