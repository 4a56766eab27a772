/* table.c - a sequence's table row as the book has it: what its engine must find in its table.
 *
 * A kvd that has taken over fills the fresh tables from here; otherwise rows travel as actions. */
#include "kvd/core/parts.h"

uint32_t core_read_row(const struct core *core, uint32_t engine, uint32_t slot, uint32_t *ret, uint32_t max)
{
	const struct engine *e = &core->engines[engine];
	uint32_t n;
	if (e->state != ENGINE_LIVE || slot >= e->max_seqs)
		return 0;
	const struct seq *s = seq_at(core, e->seq_base + slot);
	if (s->state == SEQ_EMPTY)
		return 0;
	n = s->n_pages < max ? s->n_pages : max;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t page = hold_at(core, s->row + i)->page;
		ret[i] = page ? KVD_ENTRY(page_at(core, page)->frame, core->spaces[e->space].kv_format) : 0;
	}
	return n;
}
