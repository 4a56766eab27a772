/* fsck_sequence.c - the checker's part about sequences: table rows, holds, waits, promises, reservations. */
#include "kvd/core/fsck.h"

/* One table row: holds point at pages that list them, sealed in front, open behind. */
static uint64_t check_row(struct check *k, uint32_t seq, const struct seq *s, uint64_t *ret_refs)
{
	const struct core *c = k->c;
	const struct engine *e = &c->engines[s->engine];
	uint64_t bytes = 0;
	fsck_check(k, s->n_sealed <= s->n_pages && s->n_pages <= e->max_pages,
		   "a sequence has more pages than its row", seq);
	for (uint32_t i = 0; i < e->max_pages; i++) {
		const struct hold *h = hold_at(c, s->row + i);
		*ret_refs += !!h->node;
		fsck_check(k, !!h->node == (i < s->n_nodes),
			   "a table slot names a prompt page beyond the prompt, or lacks one", seq);
		fsck_check(k, !!h->page == (i < s->n_pages), "a table row has a hole or a tail",
			   seq);
		fsck_check(k, !h->node || node_at(c, h->node)->parent == (i ? hold_at(c, s->row + i - 1)->node : 0),
			   "a prompt's pages are no chain", seq);
		if (!h->page || i >= s->n_pages)
			continue;
		const struct page *p = page_at(c, h->page);
		enum kvd_frame_state state = frame_state(c, p->frame);
		bool copied = s->copy_from && s->copy_page == i;
		fsck_check(k, p->state == PAGE_RESIDENT && !p->next_free && h->seq == seq,
			   "a table slot names a page that is gone", seq);
		fsck_check(
			k,
			state == (i < s->n_sealed || copied ? KVD_FRAME_SEALED : KVD_FRAME_OPEN) ||
				(copied && state == KVD_FRAME_OPEN),
			"a table entry's frame is neither sealed in front nor open behind",
			p->frame);
		fsck_check(k, !h->claim || claim_at(c, h->claim)->node == p->node,
			   "a table slot's claim is on another page", seq);
		fsck_check(k, !h->claim == !p->node,
			   "a table slot uses an indexed page without a claim", seq);
		uint32_t x = extent_of(c, p->frame),
			 colour = FRAME_COLOUR(frame_at(c, p->frame)->word);
		fsck_check(k, !colour || colour == s->engine + 1,
			   "a sequence's table names another engine's frame", p->frame);
		fsck_check(k, extent_at(c, x)->acked >> s->engine & 1u,
			   "a table names a frame that the engine has not mapped", p->frame);
		bytes += page_bytes_of_space(c, e->space);
		if (h->claim)
			fsck_slot_found(k, h->claim);
	}
	return bytes;
}

static void check_wait(struct check *k, uint32_t seq, const struct seq *s)
{
	bool waiting = s->wait != WAIT_NONE;
	fsck_check(k, waiting == !!s->pending,
		   "a sequence waits without owing an answer, or owes one and waits for nothing",
		   seq);
	fsck_check(k,
		   s->state != SEQ_WAITING || s->pending == KVD_SEQ_OPEN ||
			   s->pending == KVD_SEQ_RESUME,
		   "a sequence in the queue was not opened or resumed", seq);
	fsck_check(k, s->state == SEQ_RUNNING || s->state == SEQ_WAITING || !waiting,
		   "a sequence that does not run waits", seq);
	fsck_check(k, s->wait != WAIT_PROMISE || !s->promises.count,
		   "a sequence waits for a promise and holds promises", seq);
	fsck_check(k,
		   s->state == SEQ_RUNNING || (!s->n_pages && !s->reserved && !s->promises.count),
		   "a sequence that does not run holds memory or promises", seq);
	if (fsck_list(k, LIST_PROMISES, &s->promises, k->c->claims.high + 1,
		      "a list of promises is broken"))
		for (uint32_t q = list_first(&s->promises); q != CORE_NONE;
		     q = list_next(k->c, LIST_PROMISES, q))
			fsck_check(k, claim_at(k->c, q)->promiser == seq,
				   "a promise is another sequence's", q);
}

void fsck_sequences(struct check *k)
{
	const struct core *c = k->c;
	uint64_t holds = 0, held_bytes = 0, refs = 0;
	uint64_t reserved[GROUPS_MAX] = { 0 };
	uint32_t running = 0, waiting = 0;
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		const struct engine *e = &c->engines[i];
		uint32_t live = 0;
		for (uint32_t n = 0; e->state == ENGINE_LIVE && n < e->max_seqs; n++) {
			const struct seq *s = seq_at(c, e->seq_base + n);
			if (s->state == SEQ_EMPTY)
				continue;
			live++;
			held_bytes += check_row(k, e->seq_base + n, s, &refs);
			check_wait(k, e->seq_base + n, s);
			holds += s->n_pages;
			reserved[i] += s->reserved;
			((struct tenant *)(uintptr_t)tenant_at(c, s->tenant))->check_reserved +=
				s->reserved * page_bytes_of_space(c, e->space);
			running += s->state == SEQ_RUNNING;
			waiting += s->wait == WAIT_QUEUE || s->wait == WAIT_MEMORY;
		}
		fsck_check(k, e->state != ENGINE_LIVE || live == e->n_seqs,
			   "an engine's number of sequences is wrong", i);
	}
	fsck_check(k, holds == k->page_holds, "table entries and pages' holders differ in number",
		   k->page_holds);
	fsck_check(k, refs == k->node_refs, "table slots and nodes' references differ in number",
		   k->node_refs);
	fsck_check(k, c->logical_bytes == held_bytes + k->cached_bytes,
		   "logical bytes are not table entries plus cached claims", c->logical_bytes);
	fsck_check(k, c->running.count == running, "running sequences are not all listed", running);
	fsck_check(k, c->waiting == waiting, "the number of waiting sequences is wrong", waiting);
	for (uint32_t i = 0; i < GROUPS_MAX; i++)
		fsck_check(k, c->groups[i].reserved == reserved[i],
			   "a group's reservations are not its sequences'", i);
	for (uint32_t t = 0; t < c->n_tenants; t++)
		fsck_check(k, tenant_at(c, t)->reserved_bytes == tenant_at(c, t)->check_reserved,
			   "a tenant's reservations are not its sequences'", t);
	fsck_list(k, LIST_WAITERS, &c->queue, c->config.seqs_max + 1, "the queue is broken");
	fsck_list(k, LIST_RUNNING, &c->running, c->config.seqs_max + 1,
		  "the list of running sequences is broken");
	fsck_list(k, LIST_PROMISERS, &c->promisers, c->config.seqs_max + 1,
		  "the list of promisers is broken");
}
