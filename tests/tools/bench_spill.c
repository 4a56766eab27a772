/* bench_spill.c - spill and fetch of pages against the same device without them.
 *
 *     bench_spill DIR PAGE_BYTES MIB ROUNDS [threads]
 *
 * Pages go through the mover's own code (spill.c: encryption, staging, checks) to a file in DIR and back, as many
 * at once as kvd gives it.  Beside it, in turns in the same run: the same engine, file, block size and depth
 * with bytes that nobody encrypts or checks (raw); and the cipher alone.  Past the page cache where the
 * file system allows it, over blocks that were written before.  Prints one line a round: GB/s of spill, raw
 * write, fetch, raw read, seal, unseal. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kvd/mover/spill.h"

enum { PLANES = 8, DEPTH = MOVER_DISK_JOBS_MAX };

struct bench {
	struct move_window window;
	struct kvd_geometry geometry;
	char dir[256];
	uint64_t file_bytes, n_pages;
	size_t slot_bytes;
	int fd;
	bool direct, threads;
};

__attribute__((noreturn))
static void fail(const char *what, int error)
{
	fprintf(stderr, "bench_spill: %s: %s\n", what, strerror(error));
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void open_file(struct bench *b)
{
	b->direct = true;
	b->fd = open(b->dir, O_RDWR | O_TMPFILE | O_DIRECT | O_CLOEXEC, 0600);
	if (b->fd < 0) {
		b->direct = false;
		b->fd = open(b->dir, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	}
	if (b->fd < 0)
		fail(b->dir, errno);
	int r = posix_fallocate(b->fd, 0, (off_t)b->file_bytes);
	if (r)
		fail("fallocate", r);
}

static void open_window(struct bench *b, uint32_t page_bytes)
{
	struct kvd_geometry *g = &b->geometry;
	uint64_t extent = 64ull << 20;
	int fd = memfd_create("bench-extent", MFD_CLOEXEC);
	uint64_t seed = 88172645463325252ull;

	g->extent_bytes = extent;
	g->n_planes = PLANES;
	g->block_bytes = page_bytes / PLANES;
	g->n_frames = (uint32_t)(extent / page_bytes);
	g->plane_bytes = (uint64_t)g->n_frames * g->block_bytes;
	while (1u << g->slot_bits < g->n_frames)
		g->slot_bits++;
	if (fd < 0 || ftruncate(fd, (off_t)extent) < 0 || move_open(&b->window, extent, 1) < 0 ||
	    move_map(&b->window, 0, fd) < 0)
		fail("memory", errno);
	for (uint64_t *p = (uint64_t *)b->window.base; p < (uint64_t *)(b->window.base + extent); p++) {
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		*p = seed;
	}
	close(fd);
}

/* All pages of the file, one way. */
static double pages_through(struct bench *b, struct spill_store *store, enum mover_kind kind, uint64_t generation)
{
	uint64_t begun = 0, ended = 0;
	double start = now();

	while (ended < b->n_pages) {
		struct pollfd wait = { .fd = spill_store_fd(store), .events = POLLIN };
		struct mover_reply reply;

		for (; begun < b->n_pages && begun - ended < DEPTH; begun++) {
			struct mover_job job = { .kind = kind, .geometry = b->geometry,
				.source = (uint32_t)(begun % b->geometry.n_frames),
				.target = (uint32_t)(begun % b->geometry.n_frames),
				.place = { begun * b->slot_bytes, generation + begun, begun } };
			spill_store_job(store, &job);
		}
		for (; spill_store_next(store, &reply); ended++)
			if (reply.error)
				fail("a page", -reply.error);
		if (ended < begun)
			(void)poll(&wait, 1, 1000);
	}
	return (double)b->n_pages * (double)b->slot_bytes / (now() - start) / 1e9;
}

static double raw_through(struct bench *b, struct spill_io *io, uint8_t *buffers, bool write)
{
	uint64_t begun = 0, ended = 0;
	uint32_t unused[SPILL_IO_DEPTH], n_unused = SPILL_IO_DEPTH;
	double start = now();

	for (uint32_t i = 0; i < SPILL_IO_DEPTH; i++)
		unused[i] = i;
	while (ended < b->n_pages) {
		struct pollfd wait = { .fd = spill_io_fd(io), .events = POLLIN };
		struct spill_transfer t;

		for (; begun < b->n_pages && n_unused; begun++) {
			uint32_t i = unused[--n_unused];
			t = (struct spill_transfer){ .write = write, .buffer = i,
				.bytes = buffers + i * b->slot_bytes, .n_bytes = b->slot_bytes,
				.offset = begun * b->slot_bytes };
			int r = spill_io_begin(io, &t);
			if (r < 0)
				fail("raw", -r);
		}
		for (; spill_io_reap(io, &t); ended++) {
			if (t.error)
				fail("raw", -t.error);
			unused[n_unused++] = t.buffer;
		}
		if (ended < begun)
			(void)poll(&wait, 1, 1000);
	}
	return (double)b->n_pages * (double)b->slot_bytes / (now() - start) / 1e9;
}

static void cipher_alone(struct bench *b, double ret[2])
{
	static const uint8_t key[32] = { 9 };
	const uint8_t *planes[PLANES];
	uint8_t *slot = aligned_alloc(4096, b->slot_bytes);
	struct mover_place place = { 0, 1, 1 };
	struct spill_cipher *cipher;
	uint64_t page_bytes = (uint64_t)b->geometry.block_bytes * PLANES, n = (256ull << 20) / page_bytes;

	if (!slot || spill_cipher_open(key, &cipher) < 0)
		fail("cipher", ENOTSUP);
	for (unsigned way = 0; way < 2; way++) {
		double spent = 0;
		for (uint64_t i = 0; i < n; i++) {
			place.generation++;
			for (uint32_t p = 0; p < PLANES; p++)
				planes[p] = b->window.base + kvd_block_offset(&b->geometry,
					(uint32_t)(i % b->geometry.n_frames), p);
			double start = now();
			int r = spill_seal(cipher, &place, planes, PLANES, b->geometry.block_bytes, slot);
			double sealed = now();
			if (r == 0 && way)
				r = spill_unseal(cipher, &place, page_bytes, slot);
			if (r < 0)
				fail("cipher", -r);
			spent += way ? now() - sealed : sealed - start;
		}
		ret[way] = (double)n * (double)page_bytes / spent / 1e9;
	}
	spill_cipher_close(cipher);
	free(slot);
}

/* timed: no for the first pass over a fresh file, whose blocks the file system must still mark as written */
static void round_run(struct bench *b, unsigned round, bool timed)
{
	static const uint8_t key[32] = { 7 };
	enum spill_io_kind kind = b->threads ? SPILL_IO_THREADS : SPILL_IO_AUTO;
	uint8_t *buffers = mmap(NULL, SPILL_IO_DEPTH * b->slot_bytes, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	struct spill_store *store;
	struct spill_io *io;
	double spill, fetch, raw_write, raw_read, cipher[2];

	if (buffers == MAP_FAILED)
		fail("buffers", errno);
	memcpy(buffers, b->window.base, SPILL_IO_DEPTH * b->slot_bytes < (64u << 20) ? SPILL_IO_DEPTH * b->slot_bytes
											 : 64u << 20);
	if (spill_io_open(b->fd, kind, &io) < 0 ||
	    spill_store_open(&b->window, dup(b->fd), b->file_bytes, key, kind, &store) < 0)
		fail("engine", EIO);
	spill_io_buffers(io, buffers, b->slot_bytes, SPILL_IO_DEPTH);
	raw_write = raw_through(b, io, buffers, true);
	if (!timed)
		goto end;
	(void)posix_fadvise(b->fd, 0, 0, POSIX_FADV_DONTNEED);
	raw_read = raw_through(b, io, buffers, false);
	spill = pages_through(b, store, MOVER_SPILL, 1 + round * b->n_pages);
	(void)posix_fadvise(b->fd, 0, 0, POSIX_FADV_DONTNEED);
	fetch = pages_through(b, store, MOVER_FETCH, 1 + round * b->n_pages);
	cipher_alone(b, cipher);
	printf("round %u spill %.3f raw-write %.3f fetch %.3f raw-read %.3f seal %.3f unseal %.3f "
	       "direct %d engine %s\n",
	       round, spill, raw_write, fetch, raw_read, cipher[0], cipher[1], b->direct, spill_store_io(store));
	fflush(stdout);
end:
	spill_store_close(store);
	spill_io_close(io);
	munmap(buffers, SPILL_IO_DEPTH * b->slot_bytes);
}

int main(int argc, char **argv)
{
	struct bench b = { 0 };

	if (argc < 5 || argc > 6) {
		fputs("Usage: bench_spill DIR PAGE_BYTES MIB ROUNDS [threads]\n", stderr);
		return 2;
	}
	uint32_t page_bytes = (uint32_t)strtoul(argv[2], NULL, 10) / PLANES * PLANES;
	if (!page_bytes || page_bytes > 8u << 20)
		fail("page bytes", EINVAL);
	snprintf(b.dir, sizeof(b.dir), "%s", argv[1]);
	b.threads = argc == 6;
	b.slot_bytes = spill_slot_bytes(page_bytes);
	b.n_pages = (strtoull(argv[3], NULL, 10) << 20) / b.slot_bytes;
	b.file_bytes = b.n_pages * b.slot_bytes;
	open_window(&b, page_bytes);
	open_file(&b);
	round_run(&b, 0, false);
	for (unsigned i = 0; i < (unsigned)atoi(argv[4]); i++)
		round_run(&b, i, true);
	return 0;
}
