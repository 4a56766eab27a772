/* spill.c - the spill file's jobs: page -> buffer -> file, file -> buffer -> page.
 *
 * Owns the file, the staging buffers and the cipher.  Bytes never go between file and frame directly: a
 * transfer may outlive the job that asked for it, and what was read is checked before it is a page.
 *
 * Buffers are as large as the largest slot seen, 2 to SPILL_IO_DEPTH of them within STAGING_BYTES_MAX; a larger
 * slot makes them anew once nothing is under way.  Jobs that find no buffer wait, reads before writes: somebody
 * waits for a read.  At most SPILL_JOBS_MAX jobs are here at once; kvd sends no more. */
#include "kvd/mover/spill.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvd/mover/device.h"

enum { SPILL_JOBS_MAX = MOVER_DISK_JOBS_MAX, ENDED_MAX = 2 * SPILL_JOBS_MAX };
#define STAGING_BYTES_MAX (64ull << 20)  /* 32 pages of a 7B model's 2 MiB */

struct spill_store {
	struct move_window *window;
	struct spill_cipher *cipher;
	struct spill_io *io;
	int fd;
	uint64_t file_bytes;
	uint8_t *staging;
	size_t staging_bytes, buffer_bytes;
	bool is_staged;            /* known to the device */
	uint32_t n_buffers, n_under_way;
	bool buffer_used[SPILL_IO_DEPTH];
	struct mover_job buffer_job[SPILL_IO_DEPTH];
	struct mover_job waiting[SPILL_JOBS_MAX];
	uint32_t n_waiting;
	struct mover_reply ended[ENDED_MAX];
	uint32_t n_ended;
	const uint8_t **planes;    /* (planes_max) of the page being sealed */
	uint32_t planes_max;
};

static void staging_drop(struct spill_store *s)
{
	if (!s->staging)
		return;
	if (s->is_staged)
		s->window->device->calls->unstage(s->window->device, s->staging);
	munmap(s->staging, s->staging_bytes);
	s->staging = NULL;
}

int spill_store_open(struct move_window *window, int fd, uint64_t file_bytes, const uint8_t key[32],
		     enum spill_io_kind kind, struct spill_store **ret)
{
	struct spill_store *s = calloc(1, sizeof(*s));
	int r;

	if (!s) {
		close(fd);
		return -ENOMEM;
	}
	s->window = window;
	s->fd = fd;
	s->file_bytes = file_bytes;
	r = spill_cipher_open(key, &s->cipher);
	if (r == 0)
		r = spill_io_open(fd, kind, &s->io);
	if (r < 0) {
		spill_store_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

void spill_store_close(struct spill_store *s)
{
	if (!s)
		return;
	spill_io_close(s->io);
	spill_cipher_close(s->cipher);
	staging_drop(s);
	free(s->planes);
	close(s->fd);
	free(s);
}

const char *spill_store_io(const struct spill_store *s)
{
	return spill_io_name(s->io);
}

int spill_store_fd(const struct spill_store *s)
{
	return spill_io_fd(s->io);
}

static uint64_t page_bytes_of(const struct mover_job *job)
{
	return (uint64_t)job->geometry.n_planes * job->geometry.block_bytes;
}

/* fault: it is the file's, not the job's or the mover's. */
static void end(struct spill_store *s, const struct mover_job *job, int error, bool fault)
{
	assert(s->n_ended < ENDED_MAX);
	s->ended[s->n_ended++] = (struct mover_reply){ .cookie = job->cookie, .error = error, .differs = fault };
}

static int buffers_make(struct spill_store *s, size_t bytes)
{
	uint32_t n = (uint32_t)(STAGING_BYTES_MAX / bytes);
	uint8_t *at;

	n = n < 2 ? 2 : n > SPILL_IO_DEPTH ? SPILL_IO_DEPTH : n;
	at = mmap(NULL, n * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return -ENOMEM;
	(void)madvise(at, n * bytes, MADV_DONTDUMP);
	staging_drop(s);
	s->staging = at;
	s->is_staged = s->window->device->calls->stage(s->window->device, at, n * bytes) == 0;
	s->staging_bytes = n * bytes;
	s->buffer_bytes = bytes;
	s->n_buffers = n;
	spill_io_buffers(s->io, at, bytes, n);
	return 0;
}

static int planes_make(struct spill_store *s, uint32_t n_planes)
{
	const uint8_t **more;

	if (n_planes <= s->planes_max)
		return 0;
	more = realloc(s->planes, n_planes * sizeof(*more));
	if (!more)
		return -ENOMEM;
	s->planes = more;
	s->planes_max = n_planes;
	return 0;
}

static int begin_in(struct spill_store *s, const struct mover_job *job, uint32_t buffer)
{
	const struct kvd_geometry *g = &job->geometry;
	struct spill_transfer t = {
		.write = job->kind == MOVER_SPILL,
		.buffer = buffer,
		.bytes = s->staging + buffer * s->buffer_bytes,
		.n_bytes = spill_slot_bytes(page_bytes_of(job)),
		.offset = job->place.offset,
	};
	int r;

	if (t.write) {
		r = planes_make(s, g->n_planes);
		/* Where the device cannot lend its bytes they come into the buffer and are encrypted in place. */
		if (r == 0)
			r = s->window->device->calls->read(s->window->device, g, job->source, t.bytes, s->planes);
		if (r == 0)
			r = spill_seal(s->cipher, &job->place, s->planes, g->n_planes, g->block_bytes, t.bytes);
		if (r < 0)
			return r;
	}
	return spill_io_begin(s->io, &t);
}

/* Begin a job if there is a buffer for it.  False: not now. */
static bool begin(struct spill_store *s, const struct mover_job *job)
{
	size_t bytes = spill_slot_bytes(page_bytes_of(job));
	uint32_t buffer = 0;
	int r = 0;

	if (bytes > s->buffer_bytes) {
		if (s->n_under_way)
			return false;
		r = buffers_make(s, bytes);
	}
	while (r == 0 && buffer < s->n_buffers && s->buffer_used[buffer])
		buffer++;
	if (r == 0 && buffer == s->n_buffers)
		return false;
	if (r == 0)
		r = begin_in(s, job, buffer);
	if (r < 0) {
		end(s, job, r, false);
		return true;
	}
	s->buffer_used[buffer] = true;
	s->buffer_job[buffer] = *job;
	s->n_under_way++;
	return true;
}

static void begin_waiting(struct spill_store *s)
{
	for (uint32_t kind = MOVER_FETCH;; kind = MOVER_SPILL) {
		for (uint32_t i = 0; i < s->n_waiting;) {
			if (s->waiting[i].kind != kind) {
				i++;
				continue;
			}
			if (!begin(s, &s->waiting[i]))
				return;
			memmove(s->waiting + i, s->waiting + i + 1, (--s->n_waiting - i) * sizeof(s->waiting[0]));
		}
		if (kind == MOVER_SPILL)
			return;
	}
}

void spill_store_job(struct spill_store *s, const struct mover_job *job)
{
	uint64_t bytes = page_bytes_of(job);
	uint32_t frame = job->kind == MOVER_SPILL ? job->source : job->target;

	if (s->n_waiting + s->n_under_way + s->n_ended >= SPILL_JOBS_MAX)
		end(s, job, -EBUSY, false);
	else if (!move_frame_valid(s->window, &job->geometry, frame) || job->place.offset % MOVER_SPILL_ALIGN ||
		 job->place.offset > s->file_bytes || spill_slot_bytes(bytes) > s->file_bytes - job->place.offset)
		end(s, job, -EINVAL, true);
	else
		s->waiting[s->n_waiting++] = *job;
	begin_waiting(s);
}

/* Read and right: now it may be a page. */
static int fetch_end(struct spill_store *s, const struct mover_job *job, uint32_t buffer)
{
	const struct kvd_geometry *g = &job->geometry;
	uint8_t *slot = s->staging + buffer * s->buffer_bytes;
	int r = spill_unseal(s->cipher, &job->place, page_bytes_of(job), slot);

	return r < 0 ? r : s->window->device->calls->write(s->window->device, g, job->target, slot);
}

bool spill_store_next(struct spill_store *s, struct mover_reply *ret)
{
	struct spill_transfer t;

	while (!s->n_ended && spill_io_reap(s->io, &t)) {
		const struct mover_job *job = &s->buffer_job[t.buffer];
		int r = t.error;

		if (r == 0 && job->kind == MOVER_FETCH)
			r = fetch_end(s, job, t.buffer);
		s->buffer_used[t.buffer] = false;
		s->n_under_way--;
		end(s, job, r, r < 0);
		begin_waiting(s);
	}
	if (!s->n_ended)
		return false;
	*ret = s->ended[0];
	memmove(s->ended, s->ended + 1, --s->n_ended * sizeof(s->ended[0]));
	return true;
}
