/* adopt.c - a book that another kvd left: is it ours to go on with?
 *
 * Adoption trusts one thing, the order of stores (journal.h), and checks the rest: version and
 * layout, then rollback of the open transaction, then the whole of core_fsck(), which recomputes
 * every list, hash chain, hold, count and charge and compares.  Any doubt: NULL and the reason, and
 * the caller starts cold.
 *
 * What the book cannot know is what became of actions that had been handed out: jobs of the mover,
 * extents being populated, a stamp.  The caller asks for these before it drains the queue, and
 * reports each of them as lost. */
#include "kvd/core/parts.h"

/* To be raised when the meaning of a field changes and no size does. */
enum { LAYOUT_REVISION = 3 };

uint64_t core_layout_version(void)
{
	static const uint64_t sizes[] = {
		LAYOUT_REVISION, sizeof(struct core), sizeof(struct frame), sizeof(struct extent),
		sizeof(struct page), sizeof(struct node), sizeof(struct claim), sizeof(struct hold),
		sizeof(struct seq), sizeof(struct tenant),
		sizeof(struct domain), sizeof(struct engine), sizeof(struct space), sizeof(struct group),
		sizeof(struct batch), sizeof(struct job), sizeof(struct item), sizeof(struct spill),
		sizeof(struct region), sizeof(struct shelf), sizeof(struct ghost), SHELF_LEVELS, sizeof(struct layout),
		sizeof(struct core_config), sizeof(struct journal), KVD_FRAME_STATES, KVD_EXTENT_STATES,
		GROUPS_MAX, JOBS_MAX, KVD_PAGE_TOKENS,
	};
	uint64_t h = 14695981039346656037ull;
	for (uint32_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		h = (h ^ sizes[i]) * 1099511628211ull;
	return h;
}

static void say(char *why, const char *sentence)
{
	uint32_t i = 0;
	for (; sentence[i] && i < CORE_WHY_MAX - 1; i++)
		why[i] = sentence[i];
	why[i] = 0;
}

static void first_problem(void *arg, const char *problem)
{
	char *why = arg;
	if (!why[0])
		say(why, problem);
}

static bool config_equal(const struct core_config *a, const struct core_config *b)
{
	/* b is ours, a may be anything */
	return a->extent_bytes == b->extent_bytes &&
	       a->pool_bytes / b->extent_bytes == b->pool_bytes / b->extent_bytes &&
	       a->page_bytes_min == b->page_bytes_min &&
	       a->tenants_max == b->tenants_max && a->seqs_max == b->seqs_max && a->holds_max == b->holds_max &&
	       a->shell_bytes == b->shell_bytes &&
	       a->spill_bytes / a->extent_bytes == b->spill_bytes / b->extent_bytes;
}

struct core *core_adopt(void *book, size_t bytes, const struct core_config *expect, char *why)
{
	const struct core *c = book;
	struct layout layout;
	why[0] = 0;
	if (!book || bytes < sizeof(*c) || c->magic != CORE_MAGIC)
		return say(why, "it is no book"), NULL;
	if (c->layout_version != core_layout_version())
		return say(why, "its layout is another version's"), NULL;
	if (expect && !config_equal(&c->config, expect))
		return say(why, "the pool, the extents or the limits are configured otherwise now"), NULL;
	if (!book_layout(&c->config, &layout) || memcmp(&layout, &c->layout, sizeof(layout)) ||
	    layout.book_bytes > bytes || c->n_extents != layout.n_extents || c->slot_bits != layout.slot_bits)
		return say(why, "its layout is not what its configuration says"), NULL;
	if (!journal_rollback(c))
		return say(why, "its undo journal is broken, or was too small for the last event"), NULL;
	if (core_fsck(c, first_problem, why, NULL))
		return NULL;
	journal_open(c);
	return book;
}

/* ---- handed out, and lost with the process that had it ---- */

bool core_job_in_flight(const struct core *core, uint32_t *cursor, uint32_t *ret_job)
{
	while (*cursor < core->jobs.high) {
		uint32_t i = ++*cursor;
		if (core->job[i].next_free || !core->job[i].kind || !core->job[i].issued)
			continue;
		*ret_job = job_name(core, i);
		return true;
	}
	return false;
}

bool core_populate_in_flight(const struct core *core, uint32_t *cursor, uint32_t *ret_extent)
{
	while (*cursor < core->n_extents) {
		uint32_t x = (*cursor)++;
		if (extent_at(core, x)->populating != EXTENT_POPULATE_ISSUED)
			continue;
		*ret_extent = x;
		return true;
	}
	return false;
}

bool core_stamp_pending(const struct core *core)
{
	return core->stamp_out;
}

/* ---- the shell's region ---- */

const void *core_shell(const struct core *core)
{
	return (const char *)core + core->layout.at_shell;
}

void core_shell_set(struct core *core, const void *target, const void *source, size_t bytes)
{
	uintptr_t at = (uintptr_t)core_shell(core);
	assert((uintptr_t)target >= at && (uintptr_t)target + bytes <= at + core->config.shell_bytes);
	journal_open(core);
	SET_BYTES(target, source, bytes);
}

void core_commit(struct core *core)
{
	journal_commit(core);
}

bool core_journal_slack(struct core *core, size_t *ret_offset, size_t *ret_bytes)
{
	const uint64_t keep = (1u << 20) / sizeof(uint64_t);
	struct journal *j = (struct journal *)(uintptr_t)&core->journal;
	if (journal_words(j) || j->high <= keep)
		return false;
	*ret_offset = core->layout.at_journal + keep * sizeof(uint64_t);
	*ret_bytes = (j->high - keep) * sizeof(uint64_t);
	j->high = keep;
	return true;
}
