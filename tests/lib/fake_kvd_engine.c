/* fake_kvd_engine.c - the fake kvd's side of an engine: attachment, rings, succession (fake_kvd.h).
 * Runs in the forked child. */
#include "tests/lib/fake_kvd.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/packet.h"

static _Alignas(8) uint8_t packet[KVD_MSG_MAX];

static void rings_take_completions(struct fake_rings *r, uint8_t *comp)
{
	r->comp = (void *)comp;
	r->cqes = (void *)(comp + r->attached.cqe_offset);
	r->tables = (void *)(comp + r->attached.tables_offset);
}

void fake_kvd_attach(struct fake_rings *r, int listen_fd, uint64_t lie_bytes)
{
	struct kvd_msg_attach attach;

	*r = (struct fake_rings){ .control = fake_kvd_accept(listen_fd, KVD_ROLE_ENGINE) };
	fake_kvd_receive_type(r->control, KVD_M_ATTACH, packet, sizeof(attach));
	memcpy(&attach, packet, sizeof(attach));
	FAKE_EXPECT(attach.page_tokens == 16);
	memcpy(r->name, attach.name, sizeof(r->name));
	memcpy(r->model, attach.model, sizeof(r->model));
	uint64_t pages = (uint64_t)attach.max_seqs * attach.max_pages;
	struct kvd_msg_attached *a = &r->attached;
	*a = (struct kvd_msg_attached){
		.m = { .type = KVD_M_ATTACHED, .size = sizeof(*a), .seq = attach.m.seq },
		.engine = 3,
		.sq_entries = attach.sq_entries,
		.cq_entries = FAKE_CQ_ENTRIES,
		.n_frames = 64,
		.plane_bytes = 64ull * attach.block_bytes,
		.sqe_offset = 64,
		.tokens_offset = 64 + attach.sq_entries * 64ull,
		.cqe_offset = 64,
		.tables_offset = 64 + FAKE_CQ_ENTRIES * 64ull,
	};
	a->sub_bytes = a->tokens_offset + pages * 64;
	a->comp_bytes = a->tables_offset + pages * 4;
	int fds[2] = { fake_kvd_memory(a->sub_bytes), fake_kvd_memory(a->comp_bytes) };
	uint8_t *sub = mmap(NULL, a->sub_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	uint8_t *comp = mmap(NULL, a->comp_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
	FAKE_EXPECT(sub != MAP_FAILED && comp != MAP_FAILED);
	r->sub = (void *)sub;
	r->sqes = (void *)(sub + a->sqe_offset);
	r->tokens = (void *)(sub + a->tokens_offset);
	rings_take_completions(r, comp);
	a->comp_bytes += lie_bytes;
	fake_kvd_send(r->control, a, sizeof(*a), fds, 2);
	a->comp_bytes -= lie_bytes;
	close(fds[0]);
	close(fds[1]);
}

struct kvd_sqe fake_kvd_take(struct fake_rings *r)
{
	for (;;) {
		__atomic_store_n(&r->comp->kvd_sleeps, 1, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(&r->sub->sq_tail, __ATOMIC_ACQUIRE) != r->sq_head)
			break;
		FAKE_EXPECT(fake_kvd_receive(r->control, packet) == 1 && packet[0] == 0);
	}
	__atomic_store_n(&r->comp->kvd_sleeps, 0, __ATOMIC_RELAXED);
	struct kvd_sqe sqe = r->sqes[r->sq_head & (r->attached.sq_entries - 1)];
	__atomic_store_n(&r->comp->sq_head, ++r->sq_head, __ATOMIC_RELEASE);
	return sqe;
}

void fake_kvd_complete(struct fake_rings *r, const struct kvd_cqe *cqe)
{
	static const uint8_t doorbell = 0;

	r->cqes[r->comp->cq_tail & (FAKE_CQ_ENTRIES - 1)] = *cqe;
	__atomic_store_n(&r->comp->cq_tail, r->comp->cq_tail + 1, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&r->sub->engine_sleeps, __ATOMIC_RELAXED))
		fake_kvd_send(r->control, &doorbell, 1, NULL, 0);
}

int fake_kvd_succeed(struct fake_rings *r, uint32_t generation, struct kvd_msg_adopted *ret)
{
	const struct kvd_msg_attached *a = &r->attached;
	int fd = fake_kvd_memory(a->comp_bytes);
	uint8_t *comp = mmap(NULL, a->comp_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	FAKE_EXPECT(comp != MAP_FAILED);
	memcpy(comp, r->comp, a->comp_bytes);
	rings_take_completions(r, comp);
	*ret = (struct kvd_msg_adopted){
		.m = { .type = KVD_M_ADOPTED, .size = sizeof(*ret) },
		.engine = a->engine,
		.kvd_pid = (uint32_t)getpid(),
		.generation = generation,
		.sq_entries = a->sq_entries,
		.cq_entries = a->cq_entries,
		.n_frames = a->n_frames,
		.sub_bytes = a->sub_bytes,
		.comp_bytes = a->comp_bytes,
		.sqe_offset = a->sqe_offset,
		.tokens_offset = a->tokens_offset,
		.cqe_offset = a->cqe_offset,
		.tables_offset = a->tables_offset,
	};
	return fd;
}
