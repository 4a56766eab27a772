/* ring.c - see ring.h.  Loop thread only; never allocates, blocks or trusts.
 *
 * Fences: a doorbell is lost if each side reads the other's flag before its own store is seen.  So
 * store, full fence, load on both sides (Dekker); x86 needs it too. */
#include "kvd/ring.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvd/geometry.h"

_Static_assert(sizeof(struct kvd_sqe) % sizeof(uint64_t) == 0, "copied by 8-byte words");

void ring_open(struct ring *ring, const struct segment *segment)
{
	const struct segment_shape *shape = &segment->shape;

	*ring = (struct ring){
		.sub = (const void *)segment->sub,
		.sqes = (const void *)(segment->sub + shape->sqe_offset),
		.tokens = (const void *)(segment->sub + shape->tokens_offset),
		.comp = (void *)segment->comp,
		.cqes = (void *)(segment->comp + shape->cqe_offset),
		.tables = (void *)(segment->comp + shape->tables_offset),
		.sq_entries = shape->sq_entries,
		.cq_entries = shape->cq_entries,
		.max_seqs = shape->max_seqs,
		.max_pages = shape->max_pages,
	};
	assert((ring->sq_entries & (ring->sq_entries - 1)) == 0 && ring->sq_entries > 0);
	assert((ring->cq_entries & (ring->cq_entries - 1)) == 0 && ring->cq_entries > 0);
}

int ring_waiting(const struct ring *ring)
{
	uint32_t n = __atomic_load_n(&ring->sub->sq_tail, __ATOMIC_ACQUIRE) - ring->sq_head;

	return n > ring->sq_entries ? -EPROTO : (int)n;
}

int ring_take(struct ring *ring, struct kvd_sqe *ret)
{
	const uint64_t *source;
	uint64_t words[sizeof(*ret) / sizeof(uint64_t)];
	int n = ring_waiting(ring);

	if (n <= 0)
		return n;
	/* One load a word: the entry may change under us, the copy may not. */
	source = (const uint64_t *)&ring->sqes[ring->sq_head & (ring->sq_entries - 1)];
	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		words[i] = __atomic_load_n(&source[i], __ATOMIC_RELAXED);
	memcpy(ret, words, sizeof(*ret));
	ring->sq_head++;
	return 1;
}

void ring_consumed(struct ring *ring)
{
	__atomic_store_n(&ring->comp->sq_head, ring->sq_head, __ATOMIC_RELEASE);
}

void ring_adopt(struct ring *ring, const struct segment *segment, const uint8_t *old_comp, uint32_t sq_head,
		uint32_t cq_tail)
{
	const struct segment_shape *shape = &segment->shape;

	ring_open(ring, segment);
	ring->sq_head = sq_head;
	ring->cq_tail = cq_tail;
	ring->adopted = true;
	/* All of them: whichever are not consumed are among them, at their indexes. */
	memcpy(ring->cqes, old_comp + shape->cqe_offset, (size_t)shape->cq_entries * sizeof(struct kvd_cqe));
	__atomic_store_n(&ring->comp->sq_head, sq_head, __ATOMIC_RELEASE);
	__atomic_store_n(&ring->comp->cq_tail, cq_tail, __ATOMIC_RELEASE);
}

uint32_t ring_generation(const struct ring *ring)
{
	return __atomic_load_n(&ring->sub->comp_generation, __ATOMIC_ACQUIRE);
}

bool ring_copy_tokens(const struct ring *ring, uint32_t slot, uint64_t first, uint64_t n,
		      int32_t *ret)
{
	uint64_t row = (uint64_t)ring->max_pages * KVD_PAGE_TOKENS;
	const int32_t *source;

	if (slot >= ring->max_seqs || first > row || n > row - first)
		return false;
	source = ring->tokens + slot * row + first;
	for (uint64_t i = 0; i < n; i++)
		ret[i] = __atomic_load_n(&source[i], __ATOMIC_RELAXED);
	return true;
}

int ring_publish(struct ring *ring, const struct kvd_cqe *cqe)
{
	uint32_t used = ring->cq_tail - __atomic_load_n(&ring->sub->cq_head, __ATOMIC_ACQUIRE);

	/* The dead kvd had published one that its book does not know, and the engine has seen it: the same
	 * one is published again now, at the same index. */
	if (used == UINT32_MAX && ring->adopted)
		used = 0;
	if (used > ring->cq_entries)
		return -EPROTO;
	if (used == ring->cq_entries)
		return -ENOSPC;
	ring->cqes[ring->cq_tail & (ring->cq_entries - 1)] = *cqe;
	ring->cq_tail++;
	ring->adopted = false;
	__atomic_store_n(&ring->comp->cq_tail, ring->cq_tail, __ATOMIC_RELEASE);
	ring->published = true;
	return 0;
}

void ring_entry(struct ring *ring, uint32_t slot, uint32_t page, uint32_t entry)
{
	assert(slot < ring->max_seqs && page < ring->max_pages);
	__atomic_store_n(&ring->tables[(uint64_t)slot * ring->max_pages + page], entry,
			 __ATOMIC_RELEASE);
}

uint64_t ring_step_begun(const struct ring *ring)
{
	return __atomic_load_n(&ring->sub->step_begun, __ATOMIC_ACQUIRE);
}

uint64_t ring_step_done(const struct ring *ring)
{
	return __atomic_load_n(&ring->sub->step_done, __ATOMIC_ACQUIRE);
}

bool ring_sleep(struct ring *ring, uint32_t bell)
{
	__atomic_store_n(&ring->comp->kvd_sleeps, bell, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return ring_waiting(ring) != 0;
}

void ring_wake(struct ring *ring)
{
	__atomic_store_n(&ring->comp->kvd_sleeps, KVD_BELL_NONE, __ATOMIC_RELAXED);
}

const uint32_t *ring_bell_word(const struct ring *ring, uint32_t *ret_value)
{
	*ret_value = ring->sq_head;
	return &ring->sub->sq_tail;
}

uint32_t ring_wants_doorbell(struct ring *ring)
{
	uint32_t bell;

	if (!ring->published)
		return KVD_BELL_NONE;
	ring->published = false;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	bell = __atomic_load_n(&ring->sub->engine_sleeps, __ATOMIC_RELAXED);
	return bell == KVD_BELL_NONE || bell == KVD_BELL_FUTEX ? bell : KVD_BELL_BYTE;
}

bool ring_wake_engine(const struct ring *ring)
{
	/* One: the engine's own waiter; whom else it lets wait there is its loss. */
	return syscall(SYS_futex, &ring->comp->cq_tail, FUTEX_WAKE, 1, NULL, NULL, 0) >= 0;
}
