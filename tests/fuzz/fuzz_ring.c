/* fuzz_ring.c - an engine that writes anything anywhere in its half of the rings, also between any
 * two loads of kvd.
 *
 * Input: [u8 opcode][4 bytes] ...  ring.c is compiled into this file with a hook in front of every
 * load of the engine's words: there the next words of the input are written over the header, the
 * entries or the tokens, so that a value loaded twice is two values, in every run.  A second thread does
 * the same in its own time.  Reading or writing outside the segments is seen by ASan; what must
 * hold whatever is written is asserted. */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kvd/ring.h"

static void between_loads(void);
/* Within its own expansion the name means the builtin. */
#define __atomic_load_n(address, order) (between_loads(), __atomic_load_n(address, order))
#include "kvd/ring.c"
#undef __atomic_load_n

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SLOTS 3u
#define PAGES 5u

struct mutator {
	struct segment *segment;
	const uint8_t *data;
	size_t size;
	bool stop;
};

/* What the hook writes next; NULL segment: nothing. */
static struct mutator hook;
static size_t hook_at;
static unsigned n_hooked;

static void write_word(const struct mutator *mutator, size_t at)
{
	uint32_t word, offset;

	memcpy(&word, mutator->data + at % (mutator->size - 7), 4);
	memcpy(&offset, mutator->data + at % (mutator->size - 7) + 3, 4);
	offset = offset % 4 ? offset % 16 * 4 : offset % (mutator->segment->shape.sub_bytes - 4);
	__atomic_store_n((uint32_t *)(mutator->segment->sub + (offset & ~3u)), word, __ATOMIC_RELAXED);
}

static void between_loads(void)
{
	if (!hook.segment)
		return;
	n_hooked++;
	/* two of three loads meet another word than the one before them */
	if (n_hooked % 3)
		write_word(&hook, hook_at += 5);
}

static void *mutate(void *arg)
{
	struct mutator *mutator = arg;
	size_t at = 0;

	while (!__atomic_load_n(&mutator->stop, __ATOMIC_RELAXED))
		write_word(mutator, at += 5);
	return NULL;
}

static void run(struct ring *ring, struct segment *segment, const uint8_t *data, size_t size)
{
	int32_t tokens[PAGES * 16];
	struct kvd_sub_header *sub = (struct kvd_sub_header *)segment->sub;

	for (; size >= 5; data += 5, size -= 5) {
		uint32_t word, head = ring->sq_head, tail = ring->cq_tail;
		struct kvd_cqe cqe = { .verb = 1 };
		struct kvd_sqe sqe;
		int r;

		memcpy(&word, data + 1, 4);
		switch (data[0] % 8) {
		case 0: __atomic_store_n(&sub->sq_tail, word, __ATOMIC_RELEASE); break;
		case 1:
			__atomic_store_n(&sub->sq_tail, ring->sq_head + word % 20,
					 __ATOMIC_RELEASE);
			break;
		case 2: __atomic_store_n(&sub->cq_head, word, __ATOMIC_RELEASE); break;
		case 3:
			__atomic_store_n(&sub->cq_head, ring->cq_tail - word % 20,
					 __ATOMIC_RELEASE);
			break;
		case 4:
			r = ring_take(ring, &sqe);
			assert(r == 1 || r == 0 || r == -EPROTO);
			assert(ring->sq_head == head + (r == 1));
			break;
		case 5:
			r = ring_publish(ring, &cqe);
			assert(r == 0 || r == -ENOSPC || r == -EPROTO);
			assert(ring->cq_tail == tail + (r == 0));
			break;
		case 6:
			if (ring_copy_tokens(ring, word & 7, word >> 3 & 255, word >> 11 & 255,
					     tokens))
				assert((word & 7) < SLOTS &&
				       (word >> 3 & 255) + (word >> 11 & 255) <= PAGES * 16);
			break;
		case 7:
			r = ring_waiting(ring);
			assert(r == -EPROTO || (r >= 0 && (uint32_t)r <= ring->sq_entries));
			(void)ring_sleep(ring, KVD_BELL_BYTE);
			(void)ring_wants_doorbell(ring);
			ring_entry(ring, word % SLOTS, word / SLOTS % PAGES, word);
			break;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct segment segment = { .sub_fd = -1, .comp_fd = -1 };
	struct mutator mutator = { .segment = &segment, .data = data, .size = size };
	struct ring ring;
	pthread_t thread;

	if (size < 8 || segment_shape(16, SLOTS, PAGES, &segment.shape) < 0)
		return 0;
	segment.sub = aligned_alloc(64, segment.shape.sub_bytes);
	segment.comp = aligned_alloc(64, segment.shape.comp_bytes);
	memset(segment.sub, 0, segment.shape.sub_bytes);
	memset(segment.comp, 0, segment.shape.comp_bytes);
	ring_open(&ring, &segment);
	if (pthread_create(&thread, NULL, mutate, &mutator))
		abort();
	hook = mutator;
	hook_at = n_hooked = 0;
	run(&ring, &segment, data, size);
	hook.segment = NULL;
	__atomic_store_n(&mutator.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	free(segment.sub);
	free(segment.comp);
	return 0;
}
