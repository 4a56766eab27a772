/* replay.c - `kvd --replay FILE`: a recorded core runs again, event by event, and its book is compared.
 *
 * The file is not trusted: every block has its CRC, every length is checked before it is used, the book passes
 * core_adopt() (layout, journal, the whole of fsck) before the first event.  What still ends the core in the middle
 * (an assertion: that is what records are for) ends a child only, and the parent says at which event.
 * A process of its own, no daemon: nothing here listens or maps an extent. */
#include "kvd/recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kvd/record_book.h"
#include "kvd/segment.h"

#define REPLAY_BOOK_MAX (1ull << 40)
#define REPLAY_TOKENS_MAX (1u << 20)       /* tokens of one submission: the longest context */

struct replay {
	const uint8_t *bytes;
	size_t n, at;                      /* the file */
	char *error;                       /* (256) */
	struct kvd_record_header header;
	struct core_config config;
	int book_fd;
	uint8_t *book;
	struct core *core;                 /* NULL: not yet adopted */
	bool run;                          /* false: look at the file only */
	uint8_t *stream;                   /* events that lie over the end of a block */
	size_t n_stream, stream_max;
	int32_t *tokens;                   /* (REPLAY_TOKENS_MAX) */
	volatile uint64_t *n_events;       /* shared with the parent */
	uint64_t n_hashes;
	bool ended;
};

__attribute__((format(printf, 2, 3)))
static int wrong(struct replay *r, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(r->error, 256, format, args);
	va_end(args);
	return -1;
}

/* ---- the book ---- */

static int take_header(struct replay *r, const uint8_t *payload, uint32_t n)
{
	if (r->header.version)
		return wrong(r, "a second header at byte %zu", r->at);
	if (n < sizeof(r->header))
		return wrong(r, "the header is cut off");
	memcpy(&r->header, payload, sizeof(r->header));
	if (r->header.version != KVD_RECORD_VERSION || r->header.layout_version != core_layout_version() ||
	    r->header.event_bytes != sizeof(struct core_event) ||
	    r->header.config_bytes != sizeof(struct core_config) || n < sizeof(r->header) + sizeof(r->config))
		return wrong(r, "it was recorded by another version of kvd; replay it with that one");
	memcpy(&r->config, payload + sizeof(r->header), sizeof(r->config));
	r->config.tokens_mapped = !r->header.with_tokens;
	if (!r->config.extent_bytes || core_book_bytes(&r->config) != r->header.book_bytes ||
	    r->header.book_bytes > REPLAY_BOOK_MAX || !r->header.book_bytes)
		return wrong(r, "its configuration is impossible");
	if (!r->run)
		return 0;
	r->book_fd = segment_memfd("kvd-replay", r->header.book_bytes);
	if (r->book_fd < 0)
		return wrong(r, "no memory for the book: %s", strerror(-r->book_fd));
	r->book = mmap(NULL, r->header.book_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, r->book_fd, 0);
	if (r->book == MAP_FAILED) {
		r->book = NULL;
		return wrong(r, "no memory for the book: %s", strerror(errno));
	}
	return 0;
}

static int take_snapshot(struct replay *r, const uint8_t *payload, uint32_t n)
{
	struct kvd_record_snapshot head;

	if (n < sizeof(head) + CORE_CANON_BLOCK || (n - sizeof(head)) % CORE_CANON_BLOCK || r->core)
		return wrong(r, "a piece of the book at byte %zu has an odd length or comes too late", r->at);
	memcpy(&head, payload, sizeof(head));
	n -= (uint32_t)sizeof(head);
	if (head.offset % CORE_CANON_BLOCK || head.offset > r->header.book_bytes ||
	    n > r->header.book_bytes - head.offset)
		return wrong(r, "a piece of the book at byte %zu lies outside it", r->at);
	if (r->run)
		memcpy(r->book + head.offset, payload + sizeof(head), n);
	return 0;
}

static void drain(struct replay *r)
{
	struct core_action action;

	while (core_next_action(r->core, &action))
		;
}

static int take_hash(struct replay *r, const uint8_t *payload, uint32_t n)
{
	struct kvd_record_hash recorded;
	char why[CORE_WHY_MAX];
	uint64_t hash;

	if (n != sizeof(recorded) || r->n_stream)
		return wrong(r, "a hash at byte %zu is cut off, or stands inside an event", r->at);
	memcpy(&recorded, payload, sizeof(recorded));
	if (recorded.n_events != *r->n_events)
		return wrong(r, "a hash at byte %zu is of event %" PRIu64 ", but %" PRIu64 " have come", r->at,
			     recorded.n_events, *r->n_events);
	if (!r->run)
		return 0;
	if (!r->core) {
		core_canon_load(r->book, &r->config);
		r->core = core_adopt(r->book, r->header.book_bytes, &r->config, why);
		if (!r->core)
			return wrong(r, "the book it begins with is not whole: %s", why);
	}
	if (record_book_hash(r->book_fd, r->core, &hash) < 0)
		return wrong(r, "the book cannot be read");
	if (hash != recorded.hash)
		return wrong(r,
			     "event %" PRIu64 ": the book's hash is %016" PRIx64 ", recorded was %016" PRIx64
			     "; the replay went another way after event %" PRIu64,
			     *r->n_events, hash, recorded.hash,
			     *r->n_events < KVD_RECORD_HASH_EVENTS
				     ? 0 : (*r->n_events - 1) / KVD_RECORD_HASH_EVENTS * KVD_RECORD_HASH_EVENTS);
	r->n_hashes++;
	return 0;
}

/* ---- events ---- */

/* One event from the stream; *ret_used: its bytes, 0: not all of them are there. */
static int take_event(struct replay *r, size_t at, size_t *ret_used)
{
	const uint8_t *bytes = r->stream + at;
	struct kvd_record_event head;
	struct core_event event;
	uint32_t words = r->header.with_tokens ? KVD_PAGE_TOKENS : RECORD_PAGE_WORDS, n_pages;
	size_t used, tokens_bytes;

	*ret_used = 0;
	if (r->n_stream - at < sizeof(head))
		return 0;
	memcpy(&head, bytes, sizeof(head));
	if (head.bytes < sizeof(head) || head.bytes > RECORD_EVENT_MAX || head.bytes % 8 ||
	    head.n_tokens > REPLAY_TOKENS_MAX)
		return wrong(r, "event %" PRIu64 " has an impossible length", *r->n_events + 1);
	n_pages = head.n_tokens / KVD_PAGE_TOKENS;
	tokens_bytes = (size_t)n_pages * words * sizeof(int32_t);
	if (r->n_stream - at < head.bytes + tokens_bytes)
		return 0;
	if (!record_event_decode(&head, bytes + sizeof(head), head.bytes - sizeof(head), &event, &used) ||
	    used != head.bytes - sizeof(head))
		return wrong(r, "event %" PRIu64 " is no event of this version", *r->n_events + 1);
	if (head.type == CORE_EV_SUBMIT) {
		if (event.submit.tokens ? event.submit.n_tokens != head.n_tokens : head.n_tokens != 0)
			return wrong(r, "event %" PRIu64 " lacks its tokens", *r->n_events + 1);
		memset(r->tokens, 0, (head.n_tokens + KVD_PAGE_TOKENS) * sizeof(int32_t));
		for (uint32_t i = 0; i < n_pages; i++)
			memcpy(r->tokens + (size_t)i * KVD_PAGE_TOKENS,
			       bytes + head.bytes + (size_t)i * words * sizeof(int32_t), words * sizeof(int32_t));
		event.submit.tokens = event.submit.tokens ? r->tokens : NULL;
	} else if (head.n_tokens) {
		return wrong(r, "event %" PRIu64 " has tokens and should have none", *r->n_events + 1);
	}
	*ret_used = head.bytes + tokens_bytes;
	++*r->n_events;
	if (r->core) {
		core_step(r->core, &event, head.now_usec);
		drain(r);
	}
	return 0;
}

static int take_events(struct replay *r, const uint8_t *payload, uint32_t n)
{
	size_t at = 0, used;
	int result = 0;

	if (r->run && !r->core)
		return wrong(r, "events before the book's first hash, at byte %zu", r->at);
	if (r->n_stream + n > r->stream_max)
		return wrong(r, "event %" PRIu64 " does not end", *r->n_events + 1);
	memcpy(r->stream + r->n_stream, payload, n);
	r->n_stream += n;
	do {
		result = take_event(r, at, &used);
		at += used;
	} while (result == 0 && used);
	memmove(r->stream, r->stream + at, r->n_stream - at);
	r->n_stream -= at;
	return result;
}

/* ---- the file ---- */

static int take_block(struct replay *r)
{
	struct kvd_record_block block;
	const uint8_t *payload;

	if (r->n - r->at < sizeof(block))
		return wrong(r, "it is cut off after event %" PRIu64, *r->n_events);
	memcpy(&block, r->bytes + r->at, sizeof(block));
	if (block.magic != KVD_RECORD_MAGIC)
		return wrong(r, r->at ? "byte %zu is no beginning of a block" : "it is no record of kvd", r->at);
	if (block.bytes > KVD_RECORD_PAYLOAD_MAX)
		return wrong(r, "the block at byte %zu is longer than a block may be", r->at);
	if (r->n - r->at - sizeof(block) < block.bytes)
		return wrong(r, "it is cut off after event %" PRIu64, *r->n_events);
	payload = r->bytes + r->at + sizeof(block);
	if (record_crc(payload, block.bytes) != block.crc)
		return wrong(r, "the block at byte %zu is damaged (its checksum differs)", r->at);
	if (!r->header.version && block.type != KVD_RECORD_HEADER)
		return wrong(r, "it does not begin with a header");
	r->at += sizeof(block) + block.bytes;
	switch (block.type) {
	case KVD_RECORD_HEADER: return take_header(r, payload, block.bytes);
	case KVD_RECORD_SNAPSHOT: return take_snapshot(r, payload, block.bytes);
	case KVD_RECORD_EVENTS: return take_events(r, payload, block.bytes);
	case KVD_RECORD_HASH: return take_hash(r, payload, block.bytes);
	case KVD_RECORD_END: r->ended = true; return 0;
	}
	return wrong(r, "the block at byte %zu is of an unknown kind", r->at);
}

static int replay_run(struct replay *r)
{
	int result = 0;

	r->stream_max = (size_t)REPLAY_TOKENS_MAX * sizeof(int32_t) + RECORD_EVENT_MAX + KVD_RECORD_PAYLOAD_MAX;
	r->stream = malloc(r->stream_max);
	r->tokens = malloc((REPLAY_TOKENS_MAX + KVD_PAGE_TOKENS) * sizeof(int32_t));
	r->book_fd = -1;
	if (!r->stream || !r->tokens)
		result = wrong(r, "not enough memory");
	while (result == 0 && !r->ended)
		result = take_block(r);
	free(r->stream);
	free(r->tokens);
	if (r->book)
		munmap(r->book, r->header.book_bytes);
	if (r->book_fd >= 0)
		close(r->book_fd);
	return result;
}

int replay_check(const uint8_t *bytes, size_t n, char error[256])
{
	uint64_t n_events = 0;
	struct replay r = { .bytes = bytes, .n = n, .error = error, .n_events = &n_events };

	error[0] = '\0';
	return replay_run(&r);
}

/* The child: exit code. */
static int replay_child(struct replay *r, const char *path)
{
	struct timespec begin, end;
	double seconds;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	if (replay_run(r) < 0) {
		fprintf(stderr, "kvd: %s: %s\n", path, r->error);
		return 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	seconds = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
	printf("%s: %" PRIu64 " events in %.2f s, %" PRIu64 " hashes of the book, all equal\n", path, *r->n_events,
	       seconds, r->n_hashes);
	return 0;
}

static int replay_fork(struct replay *r, const char *path)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		int exit_code = replay_child(r, path);

		fflush(NULL);
		_exit(exit_code);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		fprintf(stderr, "kvd: %s: %s\n", path, strerror(errno));
		return 1;
	}
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	fprintf(stderr, "kvd: %s: event %" PRIu64 " ends the core by signal %d (%s)\n", path, *r->n_events,
		WTERMSIG(status), strsignal(WTERMSIG(status)));
	return 1;
}

int replay_file(const char *path)
{
	char error[256] = "";
	struct replay r = { .error = error, .run = true };
	struct stat file;
	void *bytes = MAP_FAILED, *shared;
	int fd = open(path, O_RDONLY | O_CLOEXEC), exit_code = 1;

	if (fd < 0 || fstat(fd, &file) < 0 || !S_ISREG(file.st_mode)) {
		fprintf(stderr, "kvd: %s: %s\n", path, fd < 0 ? strerror(errno) : "not a regular file");
		if (fd >= 0)
			close(fd);
		return 1;
	}
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (file.st_size > 0)
		bytes = mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (bytes == MAP_FAILED || shared == MAP_FAILED) {
		fprintf(stderr, "kvd: %s: %s\n", path, file.st_size ? strerror(errno) : "it is empty");
	} else {
		r.bytes = bytes;
		r.n = (size_t)file.st_size;
		r.n_events = shared;
		exit_code = replay_fork(&r, path);
	}
	if (bytes != MAP_FAILED)
		munmap(bytes, (size_t)file.st_size);
	if (shared != MAP_FAILED)
		munmap(shared, 4096);
	return exit_code;
}
