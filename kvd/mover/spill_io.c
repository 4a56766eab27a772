/* spill_io.c - the io_uring engine of spill_io.h, and the choice between the two.
 *
 * A transfer that the kernel did only in part goes on from where it stopped; one that makes no progress ends
 * with an error.  Owns the ring; the buffers and the file are the caller's. */
#include "kvd/mover/spill_io.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/uio.h>

struct spill_io {
	struct spill_threads *threads; /* NULL: io_uring */
	struct io_uring ring;
	int fd;
	bool file_registered, buffers_registered;
	uint32_t n_under_way;
	struct spill_transfer transfers[SPILL_IO_DEPTH];
	bool used[SPILL_IO_DEPTH];
};

static int open_uring(struct spill_io *io)
{
	int r = io_uring_queue_init(2 * SPILL_IO_DEPTH, &io->ring, 0);

	if (r < 0)
		return r;
	io->file_registered = io_uring_register_files(&io->ring, &io->fd, 1) == 0;
	return 0;
}

int spill_io_open(int fd, enum spill_io_kind kind, struct spill_io **ret)
{
	struct spill_io *io = calloc(1, sizeof(*io));
	int r = -ENOSYS;

	if (!io)
		return -ENOMEM;
	io->fd = fd;
	if (kind != SPILL_IO_THREADS)
		r = open_uring(io);
	if (r < 0 && kind != SPILL_IO_URING)
		r = spill_threads_open(fd, &io->threads);
	if (r < 0) {
		free(io);
		return r;
	}
	*ret = io;
	return 0;
}

void spill_io_close(struct spill_io *io)
{
	struct spill_transfer transfer;

	if (!io)
		return;
	if (io->threads) {
		spill_threads_close(io->threads);
	} else {
		struct io_uring_cqe *cqe;

		while (io->n_under_way)
			if (!spill_io_reap(io, &transfer))
				(void)io_uring_wait_cqe(&io->ring, &cqe);
		io_uring_queue_exit(&io->ring);
	}
	free(io);
}

const char *spill_io_name(const struct spill_io *io)
{
	if (io->threads)
		return "pread/pwrite";
	return io->buffers_registered ? "io_uring, registered buffers" : "io_uring";
}

void spill_io_buffers(struct spill_io *io, uint8_t *base, size_t n_bytes, uint32_t n)
{
	struct iovec vectors[SPILL_IO_DEPTH];

	assert(n <= SPILL_IO_DEPTH && !io->n_under_way);
	if (io->threads)
		return;
	if (io->buffers_registered)
		(void)io_uring_unregister_buffers(&io->ring);
	for (uint32_t i = 0; i < n; i++)
		vectors[i] = (struct iovec){ base + i * n_bytes, n_bytes };
	io->buffers_registered = io_uring_register_buffers(&io->ring, vectors, n) == 0;
}

static int submit(struct spill_io *io, uint32_t place)
{
	const struct spill_transfer *t = &io->transfers[place];
	struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring);
	unsigned length = (unsigned)(t->n_bytes - t->done);
	int fd = io->file_registered ? 0 : io->fd, r;

	if (!sqe)
		return -EBUSY;
	if (t->write && io->buffers_registered)
		io_uring_prep_write_fixed(sqe, fd, t->bytes + t->done, length, t->offset + t->done, (int)t->buffer);
	else if (t->write)
		io_uring_prep_write(sqe, fd, t->bytes + t->done, length, t->offset + t->done);
	else if (io->buffers_registered)
		io_uring_prep_read_fixed(sqe, fd, t->bytes + t->done, length, t->offset + t->done, (int)t->buffer);
	else
		io_uring_prep_read(sqe, fd, t->bytes + t->done, length, t->offset + t->done);
	if (io->file_registered)
		sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data64(sqe, place);
	do
		r = io_uring_submit(&io->ring);
	while (r == -EINTR);
	return r < 0 ? r : 0;
}

int spill_io_begin(struct spill_io *io, const struct spill_transfer *transfer)
{
	uint32_t place = 0;
	int r;

	if (io->threads)
		return spill_threads_begin(io->threads, transfer);
	while (place < SPILL_IO_DEPTH && io->used[place])
		place++;
	assert(place < SPILL_IO_DEPTH);
	io->transfers[place] = *transfer;
	io->transfers[place].done = 0;
	io->transfers[place].error = 0;
	r = submit(io, place);
	if (r < 0)
		return r;
	io->used[place] = true;
	io->n_under_way++;
	return 0;
}

int spill_io_fd(const struct spill_io *io)
{
	return io->threads ? spill_threads_fd(io->threads) : io->ring.ring_fd;
}

bool spill_io_reap(struct spill_io *io, struct spill_transfer *ret)
{
	struct io_uring_cqe *cqe;

	if (io->threads)
		return spill_threads_reap(io->threads, ret);
	while (io_uring_peek_cqe(&io->ring, &cqe) == 0) {
		uint32_t place = (uint32_t)io_uring_cqe_get_data64(cqe);
		struct spill_transfer *t = &io->transfers[place];
		int r = cqe->res;

		io_uring_cqe_seen(&io->ring, cqe);
		if (r > 0)
			t->done += (size_t)r;
		else if (r == 0)
			t->error = t->write ? -ENOSPC : -ENODATA;
		else if (r != -EINTR && r != -EAGAIN)
			t->error = r;
		if (!t->error && t->done < t->n_bytes) {
			t->error = submit(io, place);
			if (!t->error)
				continue;
		}
		*ret = *t;
		io->used[place] = false;
		io->n_under_way--;
		return true;
	}
	return false;
}
