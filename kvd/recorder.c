/* recorder.c - see recorder.h.  Owns the buffers of the one recording.  Loop thread only.
 *
 *   idle -> active   [record_request]   header, and a private copy of the canonical book
 *   active -> ending [record_pump]      time is up, or the reader has shut its end: HASH and END
 *   any -> idle      [record_stop]      all is sent; or the buffer was full; or peer or socket are gone
 *
 * The copy and each hash of the book stop the loop for some milliseconds per 4 MB of book in use: recording is
 * an administrator's act, and docs/decisions/0009 says what it costs. */
#include "kvd/recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kvd/clock.h"
#include "kvd/daemon.h"
#include "kvd/event.h"
#include "kvd/peer.h"
#include "kvd/record_book.h"

#define RECORD_RETRY_USEC 2000u            /* its socket is full: again in so long */
#define RECORD_USEC_MAX 86400000000ull

struct snapshot_block { uint64_t offset; uint8_t bytes[CORE_CANON_BLOCK]; };

/* ---- what stands for a page's tokens ---- */

static void map_tokens(void *arg, const int32_t *tokens, int32_t *ret)
{
	const struct daemon *daemon = arg;
	uint64_t words[2] = { core_tokens_word(daemon->core, tokens), 0 };

	if (daemon->recorder.with_tokens) {
		memcpy(ret, tokens, KVD_PAGE_TOKENS * sizeof(*tokens));
		return;
	}
	words[1] = core_keyed_hash(daemon->recorder.key, tokens);
	memset(ret, 0, KVD_PAGE_TOKENS * sizeof(*ret));
	memcpy(ret, words, sizeof(words));
}

/* ---- memory ---- */

static void *room(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	(void)madvise(p, bytes, MADV_DONTDUMP);
	return p;
}

static void unroom(void *p, uint64_t bytes)
{
	if (p)
		munmap(p, bytes);
}

static void record_stop(struct daemon *daemon, const char *why)
{
	struct recorder *r = &daemon->recorder;

	if (!r->active)
		return;
	log_info("record.end why=\"%s\" events=%" PRIu64, why, r->n_events);
	event_note(daemon, KVD_EVENT_STEER, NULL, NULL, CORE_NONE, 0, 0, "RECORD ends after %" PRIu64 " events: %s",
		   r->n_events, why);
	close(r->fd);
	unroom(r->ring, LIMIT_RECORD_BYTES);
	unroom(r->payload, KVD_RECORD_PAYLOAD_MAX);
	unroom(r->snapshot, r->snapshot_room);
	unroom(r->stage, sizeof(struct kvd_record_block) + KVD_RECORD_PAYLOAD_MAX);
	*r = (struct recorder){ 0 };
}

void record_close(struct daemon *daemon)
{
	record_stop(daemon, "kvd ends");
}

void record_forget(struct daemon *daemon, struct peer *peer)
{
	if (daemon->recorder.active && daemon->recorder.peer == peer)
		record_stop(daemon, "who asked for it has gone");
}

/* ---- into the buffer ---- */

static void ring_put(struct recorder *r, const void *bytes, size_t n)
{
	size_t at = r->tail % LIMIT_RECORD_BYTES, first = LIMIT_RECORD_BYTES - at;

	if (first > n)
		first = n;
	memcpy(r->ring + at, bytes, first);
	memcpy(r->ring, (const uint8_t *)bytes + first, n - first);
	r->tail += n;
}

static void block_put(struct recorder *r, enum kvd_record_type type, const void *payload, uint32_t n)
{
	struct kvd_record_block block = { KVD_RECORD_MAGIC, type, n, record_crc(payload, n) };

	if (r->failed || r->tail - r->head + sizeof(block) + n > LIMIT_RECORD_BYTES) {
		r->failed = true;
		return;
	}
	ring_put(r, &block, sizeof(block));
	ring_put(r, payload, n);
}

static void payload_flush(struct recorder *r)
{
	if (r->n_payload)
		block_put(r, KVD_RECORD_EVENTS, r->payload, r->n_payload);
	r->n_payload = 0;
}

static void payload_put(struct recorder *r, const void *bytes, size_t n)
{
	while (n) {
		size_t part = KVD_RECORD_PAYLOAD_MAX - r->n_payload;

		part = part < n ? part : n;
		memcpy(r->payload + r->n_payload, bytes, part);
		r->n_payload += (uint32_t)part;
		bytes = (const uint8_t *)bytes + part;
		n -= part;
		if (r->n_payload == KVD_RECORD_PAYLOAD_MAX)
			payload_flush(r);
	}
}

static void hash_put(struct daemon *daemon)
{
	struct recorder *r = &daemon->recorder;
	struct kvd_record_hash hash = { .n_events = r->n_events };

	payload_flush(r);
	if (record_book_hash(daemon->book_fd, daemon->core, &hash.hash) < 0)
		r->failed = true;
	block_put(r, KVD_RECORD_HASH, &hash, sizeof(hash));
}

static void tokens_put(struct daemon *daemon, const int32_t *tokens, uint32_t n_tokens)
{
	uint32_t words = daemon->recorder.with_tokens ? KVD_PAGE_TOKENS : RECORD_PAGE_WORDS;

	for (uint32_t i = 0; i + KVD_PAGE_TOKENS <= n_tokens; i += KVD_PAGE_TOKENS) {
		int32_t mapped[KVD_PAGE_TOKENS];

		map_tokens(daemon, tokens + i, mapped);
		payload_put(&daemon->recorder, mapped, words * sizeof(mapped[0]));
	}
}

void record_event(struct daemon *daemon, const struct core_event *event, uint64_t now_usec)
{
	struct recorder *r = &daemon->recorder;
	_Alignas(8) uint8_t bytes[RECORD_EVENT_MAX];
	size_t n;

	if (!r->active || r->end_reason || r->failed)
		return;
	n = record_event_encode(event, now_usec, bytes);
	payload_put(r, bytes, n);
	/* The last tokens of a prompt, less than a page, are nobody's identity: the core does not look at them. */
	if (event->type == CORE_EV_SUBMIT && event->submit.tokens)
		tokens_put(daemon, event->submit.tokens, event->submit.n_tokens);
}

void record_event_done(struct daemon *daemon)
{
	struct recorder *r = &daemon->recorder;

	if (r->active && !r->end_reason && !r->failed && ++r->n_events % KVD_RECORD_HASH_EVENTS == 0)
		hash_put(daemon);
}

/* ---- begin ---- */

static void take_block(void *arg, uint64_t offset, const uint8_t *bytes)
{
	struct daemon *daemon = arg;
	struct recorder *r = &daemon->recorder;
	struct snapshot_block *block = (struct snapshot_block *)(void *)(r->snapshot + r->snapshot_bytes);

	if (r->snapshot_bytes + sizeof(*block) > r->snapshot_room) {
		r->failed = true;
		return;
	}
	block->offset = offset;
	memcpy(block->bytes, bytes, sizeof(block->bytes));
	r->snapshot_bytes += sizeof(*block);
}

static void header_put(struct daemon *daemon)
{
	struct recorder *r = &daemon->recorder;
	struct { struct kvd_record_header header; struct core_config config; } all = {
		.header = {
			.version = KVD_RECORD_VERSION,
			.config_bytes = sizeof(struct core_config),
			.layout_version = core_layout_version(),
			.book_bytes = daemon->book_bytes,
			.realtime_usec = event_realtime_usec(),
			.with_tokens = r->with_tokens,
			.event_bytes = sizeof(struct core_event),
		},
		.config = *core_config_of(daemon->core),
	};

	memset(all.config.spill_key, 0, sizeof(all.config.spill_key));
	if (!r->with_tokens) {
		memset(all.config.token_key, 0, sizeof(all.config.token_key));
		all.config.tokens_mapped = 1;
	}
	block_put(r, KVD_RECORD_HEADER, &all, sizeof(all));
}

static int record_begin(struct daemon *daemon)
{
	struct recorder *r = &daemon->recorder;
	int error;

	/* Holes are not counted: what is in use of the book, at most all of it. */
	r->snapshot_room = daemon->book_bytes / CORE_CANON_BLOCK * sizeof(struct snapshot_block) +
			   sizeof(struct snapshot_block);
	r->ring = room(LIMIT_RECORD_BYTES);
	r->payload = room(KVD_RECORD_PAYLOAD_MAX);
	r->stage = room(sizeof(struct kvd_record_block) + KVD_RECORD_PAYLOAD_MAX);
	r->snapshot = room(r->snapshot_room);
	if (!r->ring || !r->payload || !r->stage || !r->snapshot)
		return -ENOMEM;
	if (getrandom(r->key, sizeof(r->key), 0) != sizeof(r->key))
		return -EIO;
	header_put(daemon);
	error = record_book_blocks(daemon->book_fd, daemon->core, map_tokens, daemon, take_block);
	if (error == 0)
		hash_put(daemon);
	return error < 0 ? error : r->failed ? -EIO : 0;
}

void record_request(struct peer *peer, const struct kvd_msg_steer *m, int fd)
{
	struct daemon *daemon = peer->daemon;
	struct recorder *r = &daemon->recorder;
	struct kvd_msg_steered reply = {
		.m = { .type = KVD_M_STEERED, .size = sizeof(reply), .seq = m->m.seq }, .what = m->what,
	};
	int type = 0, error;
	socklen_t size = sizeof(type);

	if (r->active) {
		peer_error(peer, m->m.seq, KVD_S_LIMIT, 2, 1, "a recording is under way; one at a time");
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM) {
		peer_error(peer, m->m.seq, KVD_S_BAD_REQUEST, 0, 0,
			   "a record goes to a stream socket, so that kvd never waits for it; use kvctl record");
		return;
	}
	*r = (struct recorder){
		.active = true,
		.peer = peer,
		.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0),
		.with_tokens = m->number[1] != 0,
		.until_usec = m->number[0] && m->number[0] < RECORD_USEC_MAX ? clock_now_usec() + m->number[0]
									     : CLOCK_NEVER,
	};
	error = r->fd < 0 ? -errno : record_begin(daemon);
	if (error < 0) {
		record_stop(daemon, "it cannot begin");
		peer_error(peer, m->m.seq, KVD_S_INTERNAL, 0, 0, "a record cannot be begun: %s", strerror(-error));
		return;
	}
	log_info("record.begin uid=%u with_tokens=%d book_blocks=%" PRIu64, peer->uid, r->with_tokens,
		 r->snapshot_bytes / sizeof(struct snapshot_block));
	event_note(daemon, KVD_EVENT_STEER, NULL, NULL, CORE_NONE, 0, 0, "RECORD by uid %u%s", peer->uid,
		   r->with_tokens ? " with tokens" : "");
	reply.bytes = r->snapshot_bytes;
	peer_send(peer, &reply.m, NULL, 0, false);
	daemon_deadline(daemon, clock_now_usec());
}

/* ---- out of the buffer ---- */

/* The header is first in the ring, the snapshot comes behind it, then the rest of the ring. */
static bool snapshot_due(const struct recorder *r)
{
	uint64_t header = sizeof(struct kvd_record_block) + sizeof(struct kvd_record_header) +
			  sizeof(struct core_config);

	return r->snapshot && r->head == header;
}

/* Neighbouring blocks of the book as one block of the file. */
static void stage_fill(struct recorder *r)
{
	struct kvd_record_block *block = (struct kvd_record_block *)(void *)r->stage;
	uint8_t *payload = r->stage + sizeof(*block);
	uint32_t n = sizeof(struct kvd_record_snapshot);
	const struct snapshot_block *first = (const void *)(r->snapshot + r->snapshot_at), *next = first;

	memcpy(payload, &first->offset, sizeof(first->offset));
	while (r->snapshot_at < r->snapshot_bytes && n + CORE_CANON_BLOCK <= KVD_RECORD_PAYLOAD_MAX &&
	       next->offset == first->offset + (uint64_t)(next - first) * CORE_CANON_BLOCK) {
		memcpy(payload + n, next++->bytes, CORE_CANON_BLOCK);
		n += CORE_CANON_BLOCK;
		r->snapshot_at += sizeof(*next);
	}
	*block = (struct kvd_record_block){ KVD_RECORD_MAGIC, KVD_RECORD_SNAPSHOT, n, record_crc(payload, n) };
	r->stage_at = 0;
	r->stage_n = n + sizeof(*block);
}

/* Bytes to send now; 0: none are there. */
static size_t next_bytes(struct recorder *r, const uint8_t **ret)
{
	size_t at = r->head % LIMIT_RECORD_BYTES, n = r->tail - r->head;
	uint64_t header = sizeof(struct kvd_record_block) + sizeof(struct kvd_record_header) +
			  sizeof(struct core_config);

	if (snapshot_due(r) && r->stage_at == r->stage_n) {
		if (r->snapshot_at < r->snapshot_bytes) {
			stage_fill(r);
		} else {
			unroom(r->snapshot, r->snapshot_room);
			r->snapshot = NULL;
		}
	}
	if (snapshot_due(r)) {
		*ret = r->stage + r->stage_at;
		return r->stage_n - r->stage_at;
	}
	if (r->snapshot && n > header - r->head)
		n = header - r->head;
	*ret = r->ring + at;
	return n < LIMIT_RECORD_BYTES - at ? n : LIMIT_RECORD_BYTES - at;
}

/* The reader has shut its end for writing: it has enough. */
static bool reader_done(const struct recorder *r)
{
	char byte;
	ssize_t n = recv(r->fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);

	return n >= 0 || (errno != EAGAIN && errno != EINTR);
}

static void record_end(struct daemon *daemon, enum kvd_record_end_reason reason)
{
	struct recorder *r = &daemon->recorder;
	struct kvd_record_end end = { .n_events = r->n_events, .reason = reason };

	hash_put(daemon);
	block_put(r, KVD_RECORD_END, &end, sizeof(end));
	r->end_reason = reason;
}

uint64_t record_pump(struct daemon *daemon, uint64_t now_usec)
{
	struct recorder *r = &daemon->recorder;
	const uint8_t *bytes;
	size_t n, sent = 0;

	if (!r->active)
		return CLOCK_NEVER;
	if (!r->end_reason && !r->failed && now_usec >= r->until_usec)
		record_end(daemon, KVD_RECORD_TIME);
	else if (!r->end_reason && !r->failed && reader_done(r))
		record_end(daemon, KVD_RECORD_READER);
	while (!r->failed && sent < LIMIT_RECORD_ROUND_BYTES && (n = next_bytes(r, &bytes))) {
		ssize_t done = send(r->fd, bytes, n < 65536 ? n : 65536, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && errno == EAGAIN)
			return now_usec + RECORD_RETRY_USEC;
		if (done < 0) {
			record_stop(daemon, "its reader has gone");
			return CLOCK_NEVER;
		}
		sent += (size_t)done;
		if (snapshot_due(r))
			r->stage_at += (uint32_t)done;
		else
			r->head += (uint64_t)done;
	}
	if (r->failed) {
		record_stop(daemon, "its reader was too slow");
		return CLOCK_NEVER;
	}
	if (sent >= LIMIT_RECORD_ROUND_BYTES)
		return now_usec;
	if (r->end_reason) {
		record_stop(daemon, r->end_reason == KVD_RECORD_TIME ? "time" : "its reader has enough");
		return CLOCK_NEVER;
	}
	/* What is in the payload goes when it is full, at a hash, or at the end: look for the reader's word. */
	return now_usec + 50000u < r->until_usec ? now_usec + 50000u : r->until_usec;
}
