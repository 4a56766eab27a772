/* record_book.c - see record_book.h.  Pure but for lseek().
 *
 * An event's body is its part of the union as it lies in memory (a record is for one layout version, and
 * struct core_event is in it), except STAMP and DONE, which name only the engines that are there. */
#define XXH_INLINE_ALL
#include "kvd/record_book.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

int record_book_blocks(int book_fd, const struct core *core, core_canon_map map, void *arg,
		       void (*take)(void *arg, uint64_t offset, const uint8_t *block))
{
	_Alignas(64) uint8_t block[CORE_CANON_BLOCK];
	off_t end = lseek(book_fd, 0, SEEK_END), at = 0;

	while (at < end) {
		off_t hole;

		at = lseek(book_fd, at, SEEK_DATA);
		if (at < 0)
			return errno == ENXIO ? 0 : -errno;
		hole = lseek(book_fd, at, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		at = at / CORE_CANON_BLOCK * CORE_CANON_BLOCK;
		for (; at < hole && at < end; at += CORE_CANON_BLOCK)
			if (core_canon_block(core, (uint64_t)at, map, arg, block))
				take(arg, (uint64_t)at, block);
	}
	return 0;
}

static void hash_block(void *arg, uint64_t offset, const uint8_t *block)
{
	XXH3_state_t *state = arg;

	XXH3_64bits_update(state, &offset, sizeof(offset));
	XXH3_64bits_update(state, block, CORE_CANON_BLOCK);
}

int record_book_hash(int book_fd, const struct core *core, uint64_t *ret_hash)
{
	XXH3_state_t state;
	int r;

	XXH3_INITSTATE(&state);
	XXH3_64bits_reset(&state);
	r = record_book_blocks(book_fd, core, NULL, &state, hash_block);
	*ret_hash = XXH3_64bits_digest(&state);
	return r;
}

/* CRC-32C (Castagnoli), reflected; eight bytes a step by eight tables. */
static uint32_t crc_table[8][256];

static void crc_init(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int bit = 0; bit < 8; bit++)
			c = c >> 1 ^ (c & 1 ? 0x82f63b78u : 0);
		crc_table[0][i] = c;
	}
	for (uint32_t i = 0; i < 256; i++)
		for (uint32_t t = 1; t < 8; t++)
			crc_table[t][i] = crc_table[t - 1][i] >> 8 ^ crc_table[0][crc_table[t - 1][i] & 255];
}

uint32_t record_crc(const void *bytes, size_t n)
{
	const uint8_t *p = bytes;
	uint32_t c = ~0u;

	if (!crc_table[0][1])
		crc_init();
	for (; n >= 8; n -= 8, p += 8) {
		uint64_t word;

		memcpy(&word, p, 8);
		word ^= c;
		c = 0;
		for (uint32_t i = 0; i < 8; i++)
			c ^= crc_table[7 - i][word >> 8 * i & 255];
	}
	for (; n; n--)
		c = c >> 8 ^ crc_table[0][(c ^ *p++) & 255];
	return ~c;
}

/* ---- events ---- */

struct epoch_engine { uint64_t number, begun, done; };

/* Bytes of an event's part of the union, where it has one of fixed size. */
static size_t body_bytes(uint32_t type)
{
	const struct core_event *e = NULL;

	switch (type) {
	case CORE_EV_TENANT: return sizeof(e->tenant);
	case CORE_EV_ATTACH: return sizeof(e->attach);
	case CORE_EV_SUBMIT: return sizeof(e->submit);
	case CORE_EV_MOVED: return sizeof(e->moved);
	case CORE_EV_POPULATED: return sizeof(e->populated);
	case CORE_EV_TRIGGER: return sizeof(e->trigger);
	case CORE_EV_PIN:
	case CORE_EV_UNPIN:
	case CORE_EV_PUBLISH:
	case CORE_EV_UNPUBLISH:
	case CORE_EV_EVICT: return sizeof(e->steer);
	}
	return 0; /* HANGUP, QUIET, DRAIN, TICK and the like; STAMP and DONE see below */
}

static size_t epoch_encode(const struct core_event *event, uint8_t *ret)
{
	size_t n = 0;

	for (uint64_t i = 0; i < CORE_ENGINES_MAX; i++) {
		struct epoch_engine engine = {
			i, event->type == CORE_EV_STAMP ? event->epoch.begun[i] : 0, event->epoch.done[i]
		};

		if (!engine.begun && engine.done == UINT64_MAX)
			continue;
		memcpy(ret + n, &engine, sizeof(engine));
		n += sizeof(engine);
	}
	return n;
}

static bool epoch_decode(const uint8_t *body, size_t n, struct core_event *ret)
{
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		ret->epoch.begun[i] = 0;
		ret->epoch.done[i] = UINT64_MAX;
	}
	for (size_t at = 0; at < n; at += sizeof(struct epoch_engine)) {
		struct epoch_engine engine;

		if (n - at < sizeof(engine))
			return false;
		memcpy(&engine, body + at, sizeof(engine));
		if (engine.number >= CORE_ENGINES_MAX)
			return false;
		ret->epoch.begun[engine.number] = engine.begun;
		ret->epoch.done[engine.number] = engine.done;
	}
	return true;
}

static bool is_epoch(uint32_t type) { return type == CORE_EV_STAMP || type == CORE_EV_DONE; }

size_t record_event_encode(const struct core_event *event, uint64_t now_usec, uint8_t *ret)
{
	struct kvd_record_event head = {
		.type = (uint16_t)event->type,
		.engine = event->engine,
		.n_tokens = event->type == CORE_EV_SUBMIT && event->submit.tokens ? event->submit.n_tokens : 0,
		.now_usec = now_usec,
	};
	size_t n = body_bytes(event->type), whole;

	_Static_assert(sizeof(struct epoch_engine) * CORE_ENGINES_MAX <= RECORD_EVENT_MAX - sizeof(head), "");
	_Static_assert(sizeof(struct core_event) <= RECORD_EVENT_MAX - sizeof(head), "");
	if (is_epoch(event->type))
		n = epoch_encode(event, ret + sizeof(head));
	else
		memcpy(ret + sizeof(head), &event->tenant, n); /* every part begins where this one does */
	if (event->type == CORE_EV_SUBMIT)  /* an address of ours: whether there is one is all it says */
		((struct core_event *)(void *)(ret + sizeof(head) -
					       offsetof(struct core_event, submit)))
			->submit.tokens = event->submit.tokens ? (const int32_t *)8 : NULL;
	whole = (sizeof(head) + n + 7) / 8 * 8;
	memset(ret + sizeof(head) + n, 0, whole - sizeof(head) - n);
	head.bytes = (uint32_t)whole;
	memcpy(ret, &head, sizeof(head));
	return whole;
}

bool record_event_decode(const struct kvd_record_event *head, const uint8_t *body, size_t n,
			 struct core_event *ret, size_t *ret_used)
{
	size_t fixed = body_bytes(head->type);

	memset(ret, 0, sizeof(*ret));
	if (head->type < CORE_EV_TENANT || head->type > CORE_EV_SPILL_GONE || n % 8)
		return false;
	ret->type = (enum core_event_type)head->type;
	ret->engine = head->engine;
	*ret_used = (fixed + 7) / 8 * 8;
	if (is_epoch(head->type)) {
		*ret_used = n;
		return epoch_decode(body, n, ret);
	}
	if (n < *ret_used)
		return false;
	memcpy(&ret->tenant, body, fixed);
	switch (head->type) {
	case CORE_EV_HANGUP:
	case CORE_EV_QUIET:
	case CORE_EV_DRAIN:
	case CORE_EV_SUBMIT: return head->engine < CORE_ENGINES_MAX;
	}
	return true;
}
