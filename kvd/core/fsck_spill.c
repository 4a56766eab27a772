/* fsck_spill.c - the checker's part for the spill tier: records, places, and what nodes say of them. */
#include "kvd/core/spill.h"
#include "kvd/core/fsck.h"

struct spill_sums {
	uint32_t in[SPILL_STATES], counted[GROUPS_MAX], stuck[GROUPS_MAX], n_counted, n_awaited;
};

static void check_written_page(struct check *k, uint32_t number, const struct spill *r, struct spill_sums *sums)
{
	const struct core *c = k->c;
	if (r->page > c->pages.high || page_at(c, r->page)->state != PAGE_RESIDENT) {
		fsck_check(k, false, "a page that is written out is gone", number);
		return;
	}
	const struct page *p = page_at(c, r->page);
	uint32_t group = extent_at(c, extent_of(c, p->frame))->group;
	fsck_check(k, p->node == r->node, "a page that is written out is another node's", number);
	fsck_check(k, !p->leaving || !p->holders.count, "a page that leaves for the disk is held", number);
	fsck_check(k, !r->counted || p->leaving, "a page is counted as leaving and stays", number);
	sums->counted[group] += r->counted;
	sums->n_counted += r->counted;
}

static void check_job(struct check *k, uint32_t number, const struct spill *r)
{
	const struct core *c = k->c;
	enum job_kind kind = r->state == SPILL_SPILLED    ? JOB_NONE
			     : r->state == SPILL_SPILLING ? JOB_SPILL
							  : JOB_FETCH;
	bool named = r->job && r->job <= c->jobs.high && c->job[r->job].spill == number &&
		     (c->job[r->job].kind == kind || (r->state == SPILL_LOST && c->job[r->job].kind == JOB_SPILL));
	fsck_check(k, kind == JOB_NONE ? !r->job : named, "a spill record's job is not its own", number);
}

static void check_record(struct check *k, uint32_t number, uint32_t space, struct spill_sums *sums)
{
	const struct core *c = k->c;
	const struct spill *r = spill_at(c, number);
	fsck_check(k, r->state < SPILL_STATES, "a spill record is in no known state", number);
	if (r->state >= SPILL_STATES)
		return;
	if (r->state == SPILL_FREE) {
		fsck_check(k, !r->node && !r->page && !r->job, "a free spill record is used", number);
		return;
	}
	sums->in[r->state]++;
	check_job(k, number, r);
	if (r->stuck && r->job && r->job <= c->jobs.high && c->job[r->job].group < GROUPS_MAX)
		sums->stuck[c->job[r->job].group]++;
	fsck_check(k, (r->state == SPILL_LOST) == !r->node, "a lost page is a node's, or a page on disk nobody's",
		   number);
	fsck_check(k, !r->page || r->state == SPILL_SPILLING, "a page is written out that need not be", number);
	fsck_check(k, r->generation && r->generation <= c->spill_generation,
		   "a spill record was written in no known generation", number);
	sums->n_awaited += r->state == SPILL_FETCHING && r->counted;
	if (!r->node)
		return;
	if (r->node > c->nodes.high || node_at(c, r->node)->next_free) {
		fsck_check(k, false, "a spill record's node is gone", number);
		return;
	}
	const struct node *n = node_at(c, r->node);
	fsck_check(k, n->spill == number, "a node does not know its spill record", number);
	fsck_check(k, n->space == space, "a spill record lies in another space's region", number);
	fsck_check(k, n->n_complete, "a page on disk is claimed by nobody", number);
	fsck_check(k, n->copies.count || r->state != SPILL_SPILLING,
		   "a page has gone from memory before it was on disk", number);
	if (r->page)
		check_written_page(k, number, r, sums);
}

static void check_region(struct check *k, uint32_t n, struct spill_sums *sums)
{
	const struct core *c = k->c;
	const struct region *r = region_at(c, n);
	uint32_t used = 0;
	if (!r->space) {
		fsck_check(k, !r->used && !r->high && !r->free.count, "a region without a space is used", n);
		return;
	}
	fsck_check(k, r->space <= SPACES_MAX && r->high <= r->n_slots && r->n_slots <= 1u << c->slot_bits,
		   "a region is not cut as its space says", n);
	if (r->space > SPACES_MAX || r->high > r->n_slots || r->n_slots > 1u << c->slot_bits)
		return;
	for (uint32_t i = 0; i < r->high; i++) {
		uint32_t number = (n << c->slot_bits | i) + 1;
		check_record(k, number, r->space - 1, sums);
		used += spill_at(c, number)->state != SPILL_FREE;
	}
	fsck_check(k, used == r->used, "a region's count of records is wrong", n);
	fsck_check(k, r->listed == (r->used < r->n_slots), "a region with room is not listed so", n);
	if (fsck_list(k, LIST_SPILLS, &r->free, c->layout.spills_max + 1, "a region's free list is broken"))
		fsck_check(k, r->free.count + used == r->high, "a region's free records are not all listed", n);
}

/* What a node says of the tier. */
void fsck_spill_node(struct check *k, uint32_t number, const struct node *n)
{
	const struct core *c = k->c;
	bool leaving = false;
	k->away += n->n_complete && !n->copies.count;
	if (n->spill && (n->spill > c->layout.spills_max || spill_at(c, n->spill)->node != number)) {
		fsck_check(k, false, "a node's spill record is another's", number);
		return;
	}
	const struct spill *r = n->spill ? spill_at(c, n->spill) : NULL;
	if (r && r->page && r->page <= c->pages.high)
		leaving = page_at(c, r->page)->leaving;
	fsck_check(k, n->present == (n->copies.count && !leaving),
		   "a node is taken for one in memory, or the reverse", number);
}

void fsck_leaving(struct check *k, uint32_t page, const struct page *p)
{
	const struct core *c = k->c;
	uint32_t spill = p->node ? node_at(c, p->node)->spill : 0;
	fsck_check(k, spill && spill <= c->layout.spills_max && spill_at(c, spill)->page == page,
		   "a page leaves for the disk and nobody writes it", page);
}

void fsck_spill(struct check *k)
{
	const struct core *c = k->c;
	struct spill_sums sums = { 0 };
	uint32_t fetches = 0, waiting = 0;
	fsck_check(k, c->regions_high <= c->layout.n_regions, "more of the spill file is used than there is",
		   c->regions_high);
	for (uint32_t n = 0; n < c->regions_high && n < c->layout.n_regions; n++)
		check_region(k, n, &sums);
	fsck_check(k, k->away == c->spilled_pages, "the number of pages on disk alone is wrong", k->away);
	for (uint32_t i = SPILL_SPILLING; i < SPILL_STATES; i++)
		fsck_check(k, sums.in[i] == c->spills_in[i], "the number of spill records in a state is wrong", i);
	for (uint32_t i = 0; i < GROUPS_MAX; i++)
		fsck_check(k, sums.stuck[i] == c->groups[i].stuck,
			   "a group's count of frames that a write still reads is wrong", i);
	for (uint32_t i = 0; i < GROUPS_MAX; i++)
		fsck_check(k, sums.counted[i] == c->groups[i].spilling,
			   "a group's count of pages that leave is wrong", i);
	if (fsck_list(k, LIST_SPILLS, &c->spilled, c->layout.spills_max + 1, "the list of pages on disk is broken"))
		fsck_check(k, c->spilled.count == sums.in[SPILL_SPILLED], "pages on disk are not all listed",
			   c->spilled.count);
	if (fsck_list(k, LIST_SPILLS, &c->spilling, c->layout.spills_max + 1, "the list of writes is broken"))
		fsck_check(k, c->spilling.count == sums.n_counted, "writes are not all listed", c->spilling.count);
	if (fsck_list(k, LIST_SPILLS, &c->fetching, c->layout.spills_max + 1, "the list of reads is broken"))
		fsck_check(k, c->fetching.count == sums.n_awaited, "reads are not all listed", c->fetching.count);
	for (uint32_t i = 1; i <= c->jobs.high; i++)
		fetches += c->job[i].kind == JOB_FETCH && c->job[i].seq;
	for (uint32_t i = 1; i <= c->config.seqs_max; i++)
		waiting += seq_at(c, i)->state == SEQ_EMPTY ? 0 : seq_at(c, i)->n_fetches;
	fsck_check(k, fetches == waiting, "sequences' reads and the mover's differ in number", fetches);
}
