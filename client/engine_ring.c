/* engine_ring.c - the engine's side of the rings and of the step counters, as shm.h tells it.
 *
 * Indexes run freely and are masked on use.  Ours: sq_tail, cq_head, engine_sleeps, step_begun,
 * step_done.  kvd's, never believed beyond "how far": sq_head, cq_tail, kvd_sleeps.
 *
 * No lost wake-up: the writer stores its index, full fence, reads the other's sleeps flag; the
 * sleeper stores its flag, full fence, reads the index again.  One of the two must see the other.
 *
 * The thread that runs the steps.  Never blocks. */
#include "client/engine.h"

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int kvd_engine_submit(struct kvd_engine *e, const struct kvd_sqe *sqe)
{
	if (!e->comp)
		return kvd_fail(e->error, -ENOTCONN, "kvd at %s is gone", e->connection->path);
	uint32_t head = __atomic_load_n(&e->comp->sq_head, __ATOMIC_ACQUIRE);
	uint32_t used = e->sq_tail - head;

	if (used > e->sq_entries)
		return kvd_fail(e->error, -EPROTO, "kvd consumed submissions that we never made");
	if (used == e->sq_entries)
		return -EAGAIN;
	e->sqes[e->sq_tail & (e->sq_entries - 1u)] = *sqe;
	e->sq_tail++;
	return 0;
}

/* Wake kvd, which sleeps.  0, or why it could not be done. */
static int engine_ring_bell(struct kvd_engine *e, uint32_t bell)
{
	static const uint8_t doorbell = 0;

	if (bell == KVD_BELL_FUTEX && syscall(SYS_futex, &e->sub->sq_tail, FUTEX_WAKE, 1, NULL, NULL, 0) >= 0)
		return 0;
	int r = kvd_packet_send(e->connection->fd, &doorbell, sizeof(doorbell), NULL, 0);
	/* A full socket wakes kvd as well as one packet more would. */
	return r == -EAGAIN ? 0 : r;
}

int kvd_engine_flush(struct kvd_engine *e)
{
	if (!e->comp)
		return kvd_fail(e->error, -ENOTCONN, "kvd at %s is gone", e->connection->path);
	kvd_engine_window_acknowledge(e);
	if (e->gone_head != e->gone_tail) {
		int sent = kvd_engine_gones_flush(e);
		if (sent < 0)
			return sent;
	}
	if (e->sq_tail == __atomic_load_n(&e->sub->sq_tail, __ATOMIC_RELAXED))
		return 0;
	__atomic_store_n(&e->sub->sq_tail, e->sq_tail, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	uint32_t bell = __atomic_load_n(&e->comp->kvd_sleeps, __ATOMIC_RELAXED);
	if (bell == KVD_BELL_NONE)
		return 0;
	if (e->connection->state == KVD_CONNECTION_DOWN)
		return -ENOTCONN;
	int r = engine_ring_bell(e, bell);
	return r == 0 ? 0 : kvd_fail(e->error, r, "kvd takes no doorbell: %s", strerror(-r));
}

bool kvd_engine_completion(struct kvd_engine *e, struct kvd_cqe *ret)
{
	while (e->comp) {
		uint32_t tail = __atomic_load_n(&e->comp->cq_tail, __ATOMIC_ACQUIRE);
		if (tail == e->cq_head || tail - e->cq_head > e->cq_entries)
			return false;
		*ret = e->cqes[e->cq_head & (e->cq_entries - 1u)];
		__atomic_store_n(&e->sub->cq_head, ++e->cq_head, __ATOMIC_RELEASE);
		/* Acknowledgements are ours, so are the answers to them. */
		if (ret->verb != KVD_EXTENT_ACK)
			return true;
	}
	return false;
}

/* Say how we are to be woken, then look once more: false, something has come. */
static bool fall_asleep(struct kvd_engine *e, uint32_t bell)
{
	__atomic_store_n(&e->sub->engine_sleeps, bell, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&e->comp->cq_tail, __ATOMIC_ACQUIRE) == e->cq_head)
		return true;
	__atomic_store_n(&e->sub->engine_sleeps, KVD_BELL_NONE, __ATOMIC_RELAXED);
	return false;
}

bool kvd_engine_sleep(struct kvd_engine *e, bool sleeps)
{
	if (!e->sub)
		return true;
	if (sleeps)
		return fall_asleep(e, KVD_BELL_BYTE);
	__atomic_store_n(&e->sub->engine_sleeps, KVD_BELL_NONE, __ATOMIC_RELAXED);
	return true;
}

bool kvd_engine_sleep_on(struct kvd_engine *e, struct kvd_engine_word *ret)
{
	*ret = (struct kvd_engine_word){ 0 };
	if (!e->sub || !e->comp)
		return kvd_engine_sleep(e, true);
	*ret = (struct kvd_engine_word){ &e->comp->cq_tail, e->cq_head, e->comp_mapping };
	return fall_asleep(e, KVD_BELL_FUTEX);
}

void kvd_step_begin(struct kvd_engine *e)
{
	__atomic_store_n(&e->sub->step_begun, ++e->step, __ATOMIC_RELAXED);
	/* Pairs with kvd's fence between its store of a table entry and its look at step_begun:
	 * either it sees this step begun, or the copies made after this line see its new entries. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void kvd_step_end(struct kvd_engine *e)
{
	/* Every read and write of page bytes comes before the counter. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n(&e->sub->step_done, e->step, __ATOMIC_RELEASE);
}

int32_t *kvd_engine_tokens(struct kvd_engine *e, uint32_t slot)
{
	return e->tokens && slot < e->max_seqs ? e->tokens + (size_t)slot * e->max_pages * KVD_PAGE_TOKENS
				  : NULL;
}

const uint32_t *kvd_engine_table(const struct kvd_engine *e, uint32_t slot)
{
	return e->tables && slot < e->max_seqs ? e->tables + (size_t)slot * e->max_pages : NULL;
}
