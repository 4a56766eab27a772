/* fuzz_ring.c - an engine that writes anything anywhere in its half of the rings, also while kvd
 * reads.
 *
 * Input: [u8 opcode][4 bytes] ...; a second thread writes the input's words over the header and the
 * entries all the while, so that a value loaded twice is two values.  Reading or writing outside
 * the segments is seen by ASan; what must hold whatever is written is asserted. */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kvd/ring.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SLOTS 3u
#define PAGES 5u

struct mutator {
	struct segment *segment;
	const uint8_t *data;
	size_t size;
	bool stop;
};

static void *mutate(void *arg)
{
	struct mutator *mutator = arg;
	size_t at = 0;

	while (!__atomic_load_n(&mutator->stop, __ATOMIC_RELAXED)) {
		uint32_t word, offset;

		memcpy(&word, mutator->data + at % (mutator->size - 7), 4);
		memcpy(&offset, mutator->data + at % (mutator->size - 7) + 3, 4);
		offset = offset % 4 ? offset % 16 * 4
				    : offset % (mutator->segment->shape.sub_bytes - 4);
		__atomic_store_n((uint32_t *)(mutator->segment->sub + (offset & ~3u)), word,
				 __ATOMIC_RELAXED);
		at += 5;
	}
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
			(void)ring_sleep(ring);
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
	run(&ring, &segment, data, size);
	__atomic_store_n(&mutator.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	free(segment.sub);
	free(segment.comp);
	return 0;
}
