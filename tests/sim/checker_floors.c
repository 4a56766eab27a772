/* checker_floors.c - the checker's view of mins: who may ask for memory that the oldest sequence has.
 *
 * An outsider sees no reservations and not who pays for what a team shares, so this counts at least what a tenant has:
 * a preemption that it finds no reason for had none. */
#include "tests/sim/checker.h"

/* What the tenant's sequences hold at least, its reservations and what it shares with other tenants left out: open
 * pages are one sequence's own, sealed ones count once by their tokens. */
static uint64_t held_at_least(const struct checker *k, uint32_t tenant)
{
	static uint64_t seen[WORLD_ENGINES * WORLD_SLOTS * WORLD_PAGES];
	uint64_t bytes = 0;
	uint32_t n = 0;
	for (uint32_t at = 0; at < WORLD_ENGINES * WORLD_SLOTS * WORLD_PAGES; at++) {
		const struct view_engine *e = &k->engine[at / (WORLD_SLOTS * WORLD_PAGES)];
		const struct view_slot *s = &e->slot[at / WORLD_PAGES % WORLD_SLOTS];
		uint32_t i = at % WORLD_PAGES, j = 0;
		if (!e->attached || s->state == VIEW_EMPTY || s->tenant != tenant || !s->row[i])
			continue;
		uint64_t content = i < s->n_sealed ? s->chain[i] : content_of(&k->frame[KVD_ENTRY_FRAME(s->row[i])]);
		while (content && j < n && seen[j] != content)
			j++;
		if (content && (j < n || k->tenant[tenant].domain[0]))
			continue;            /* a team's sealed page is charged to whoever sealed it first */
		if (content)
			seen[n++] = content;
		bytes += e->page_bytes;
	}
	return bytes;
}

/* What a submission that is not answered asks for beyond what its sequence holds. */
static uint32_t pages_asked(const struct checker *k, const struct view_slot *s, const struct pending *p)
{
	uint32_t pages = p->sqe.n_tokens / KVD_PAGE_TOKENS + !!(p->sqe.n_tokens % KVD_PAGE_TOKENS), held = 0;
	switch (p->sqe.verb) {
	case KVD_SEQ_OPEN: case KVD_SEQ_RESUME: return pages + (pages < k->swarm.max_pages);
	case KVD_SEQ_GROW:
		for (uint32_t i = 0; i < s->row_high; i++)
			held += s->row[i] != 0;
		return p->sqe.want > held ? p->sqe.want - held : 0;
	case KVD_SEQ_TRUNCATE: return 1;
	default: return 0;
	}
}

bool floor_asks(const struct checker *k, uint32_t but)
{
	for (uint32_t n = 0; n < WORLD_ENGINES; n++) {
		const struct view_engine *e = &k->engine[n];
		for (uint32_t i = 0; e->attached && i < e->pending_high; i++) {
			const struct pending *p = &e->pending[i];
			if (!p->live || p->sqe.slot >= e->max_seqs || p->tenant >= SIM_TENANTS || p->tenant == but)
				continue;
			uint32_t pages = pages_asked(k, &e->slot[p->sqe.slot], p);
			uint64_t min = k->tenant[p->tenant].min_bytes > k->tenant[p->tenant].min_before ?
				k->tenant[p->tenant].min_bytes : k->tenant[p->tenant].min_before;
			if (pages && held_at_least(k, p->tenant) + (uint64_t)pages * e->page_bytes <= min)
				return true;
		}
	}
	return false;
}
