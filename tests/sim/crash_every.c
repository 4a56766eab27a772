/* crash_every.c - a copy of the book is adopted at every single store.
 *
 * Two copies follow the real book: `mirror` is the book as it is just before the store that is about
 * to happen, `commit` as the last commit left it.  At each store mirror is handed to core_adopt(), which
 * must accept it, and must leave it byte-equal to commit; then mirror is put back.  Only what the open
 * transaction touched is copied and compared; the whole books are compared at the end of an event. */
#include "tests/sim/sim.h"
#include "kvd/core/book.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct stretch { size_t at, size; };

static struct {
	const struct core *book;       /* NULL: off */
	char *mirror, *commit;
	size_t bytes;
	struct core_config config;
	struct stretch *touched, last;
	uint32_t n_touched, max_touched, n_events;
	uint64_t n_words;              /* of the journal, in mirror */
	bool inside, committing;
} every;

static _Noreturn void every_fail(const char *what, size_t at)
{
	fprintf(stderr, "world: %s (%zu, %u)\n", what, at, every.n_touched);
	abort();
}

static void mirror_region(size_t at, size_t size)
{
	memcpy(every.mirror + at, (const char *)every.book + at, size);
}

/* What the last hook announced has happened by now, and so have the journal's own stores. */
static void mirror_follow(void)
{
	const struct core *c = every.book;
	size_t control = (size_t)((const char *)&c->journal - (const char *)c);
	if (every.last.size)
		mirror_region(every.last.at, every.last.size);
	if (every.committing)
		every.n_words = 0;           /* a transaction of its own since */
	mirror_region(c->layout.at_journal + every.n_words * sizeof(uint64_t),
		      (journal_words(&c->journal) - every.n_words) * sizeof(uint64_t));
	every.n_words = journal_words(&c->journal);
	mirror_region(control, sizeof(c->journal));
	if (!every.committing)
		return;
	every.committing = false;
	for (uint32_t i = 0; i < every.n_touched; i++)
		memcpy(every.commit + every.touched[i].at, every.mirror + every.touched[i].at,
		       every.touched[i].size);
	every.n_touched = 0;
}

static void touched_add(size_t at, size_t size)
{
	if (every.n_touched == every.max_touched) {
		every.max_touched = every.max_touched ? 2 * every.max_touched : 1024;
		every.touched = realloc(every.touched, every.max_touched * sizeof(*every.touched));
	}
	every.touched[every.n_touched++] = (struct stretch){ at, size };
}

/* Items of the action queue behind its tail are nobody's: written once, never undone (SET_UNREACHED). */
static bool unreached(const struct stretch *s)
{
	const struct core *m = (const struct core *)every.commit;
	size_t tail = m->layout.at_items + m->items_tail * sizeof(struct item);
	return s->at >= tail && s->at < m->layout.at_items + m->layout.items_max * sizeof(struct item);
}

/* The next kvd's view of it, in memory of its own. */
static void adopt_mirror(void)
{
	struct journal_target target = journal_target;
	char why[CORE_WHY_MAX];
	const struct core *m = (const struct core *)every.mirror;
	const uint64_t *words = (const uint64_t *)(every.mirror + m->layout.at_journal);
	uint64_t n = journal_words(&m->journal);
	every.inside = true;
	journal_close();
	crash_stores_tried++;
	if (!core_adopt(every.mirror, every.bytes, &every.config, why)) {
		fprintf(stderr, "fsck: %s\n", why);
		every_fail("a book is not adopted after a kill at one of its stores", every.last.at);
	}
	for (uint32_t i = 0; i < every.n_touched; i++)
		if (!unreached(&every.touched[i]) &&
		    memcmp(every.mirror + every.touched[i].at, every.commit + every.touched[i].at,
			   every.touched[i].size))
			every_fail("an adopted book is not what the last commit left", every.touched[i].at);
	while (n) {
		uint64_t head = words[n - 1], count = (head >> JOURNAL_COUNT_SHIFT) + 1;
		mirror_region((head & ((1ull << JOURNAL_COUNT_SHIFT) - 8)) - (uintptr_t)every.book, count * 8);
		n -= head & JOURNAL_ZERO ? 1 : count + 1;
	}
	mirror_region((size_t)((const char *)&m->journal - every.mirror), sizeof(m->journal));
	journal_target = target;
	every.inside = false;
}

void crash_every_hook(const void *address, size_t size)
{
	if (!every.book || every.inside)
		return;
	size_t at = (size_t)((const char *)address - (const char *)every.book);
	mirror_follow();
	adopt_mirror();
	every.last = (struct stretch){ at, size };
	every.committing = address == &every.book->journal.next;
	if (!every.committing)
		touched_add(at, size);
}

/* At rest the copies and the book are the same, journal and fsck's scratch fields aside. */
static void compare_whole(void)
{
	const struct core *c = every.book;
	const char *book = (const char *)c;
	size_t control = (size_t)((const char *)&c->journal - book), end = control + sizeof(c->journal);
	size_t tenants = c->layout.at_tenants, tenants_end = tenants + c->config.tenants_max * sizeof(struct tenant);
	struct stretch parts[] = { { 0, control }, { end, tenants - end },
		{ tenants_end, c->layout.at_journal - tenants_end } };
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (parts[i].size < every.bytes &&
		    (memcmp(every.mirror + parts[i].at, book + parts[i].at, parts[i].size) ||
		     memcmp(every.commit + parts[i].at, book + parts[i].at, parts[i].size)))
			every_fail("a store to the book was not announced", parts[i].at);
}

void crash_every_store(struct sim *sim)
{
	struct world *w = sim->world;
	every.config = w->config;
	every.bytes = core_book_bytes(&w->config);
	every.mirror = malloc(every.bytes);
	every.commit = malloc(every.bytes);
	crash_arm(sim, 0);
	every.book = w->core;
	memcpy(every.mirror, every.book, every.bytes);
	memcpy(every.commit, every.book, every.bytes);
	every.n_words = journal_words(&every.book->journal);
}

void crash_every_begin(const struct core *core)
{
	if (every.book)
		mirror_follow();
	(void)core;
}

/* An event is over (or its kvd is dead, and the real book is about to be adopted). */
void crash_every_end(const struct core *core)
{
	if (!every.book || journal_words(&core->journal))
		return;
	mirror_follow();
	every.last.size = 0;
	if (++every.n_events % 16 == 0)
		compare_whole();
}
