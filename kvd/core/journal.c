/* journal.c - see journal.h. */
#include "kvd/core/book.h"

static struct journal no_journal;
struct journal_target journal_target = { .journal = &no_journal };

static struct journal *journal_of(const struct core *c)
{
	return (struct journal *)(uintptr_t)&c->journal;
}

static uint64_t *words_of(const struct core *c)
{
	return (uint64_t *)((uintptr_t)c + c->layout.at_journal);
}

void journal_close(void)
{
	journal_target = (struct journal_target){ .journal = &no_journal };
}

void journal_open(const struct core *c)
{
	struct journal *j = journal_of(c);
	uint64_t begin = (uintptr_t)words_of(c);
	uint64_t limit = begin + 8 * c->layout.journal_max;
	if (journal_target.journal == j && j->begin == begin && journal_target.limit == limit)
		return;
	if (j->begin != begin) {
		assert(j->next == j->begin);         /* what another process left was rolled back */
		j->book = (uintptr_t)c;
		j->next = j->begin = begin;
	}
	journal_target = (struct journal_target){ .journal = j, .limit = limit };
}

/* No room for a note; or no book is open. */
void journal_full(void)
{
	if (journal_target.journal != &no_journal)
		journal_target.journal->overflow = 1;
}

static void note_add(const void *old, uint64_t n_old, uint64_t head)
{
	struct journal *j = journal_target.journal;
	uint64_t *note = (uint64_t *)(uintptr_t)j->next;
	if ((uintptr_t)note + 8 * n_old >= journal_target.limit) {
		journal_full();
		return;
	}
	if (n_old)
		memcpy(note, old, n_old * 8);
	note[n_old] = head;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	j->next = (uintptr_t)(note + n_old + 1);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

void journal_note_long(uintptr_t first, uint64_t n_words)
{
	while (n_words) {
		uint64_t n = n_words < JOURNAL_STRETCH_MAX ? n_words : JOURNAL_STRETCH_MAX;
		note_add((const void *)first, n, first + ((n - 1) << JOURNAL_COUNT_SHIFT));
		first += n * 8;
		n_words -= n;
	}
}

void journal_note_zero(const void *address, size_t size)
{
	note_add(NULL, 0, (uintptr_t)address + (((uint64_t)size / 8 - 1) << JOURNAL_COUNT_SHIFT) + JOURNAL_ZERO);
}

void journal_commit(const struct core *c)
{
	struct journal *j = journal_of(c);
	if (j->next == j->begin && !j->overflow)
		return;
	BOOK_HOOK(&j->next, sizeof(j->next));
	if (journal_words(j) > j->high)
		j->high = journal_words(j);
	memset(journal_target.touched, 0, sizeof(journal_target.touched));
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	j->next = j->begin;    /* the commit: one store */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	j->overflow = 0;
}

/* One note, read from its end at words[n]; false: it is nonsense. */
static bool note_read(const struct core *c, uint64_t n, uint64_t *ret_word, uint64_t *ret_count, bool *ret_zero)
{
	const struct journal *j = &c->journal;
	uint64_t head = words_of(c)[n - 1], offset = (head & ((1ull << JOURNAL_COUNT_SHIFT) - 1u)) - j->book;
	uint64_t own = c->layout.at_journal / 8, own_end = own + c->layout.journal_max,
		 control = (uint64_t)((uintptr_t)j - (uintptr_t)c) / 8,
		 control_end = control + sizeof(struct journal) / 8;
	uint64_t word = offset / 8, count = (head >> JOURNAL_COUNT_SHIFT) + 1, end = word + count;
	*ret_word = word;
	*ret_count = count;
	*ret_zero = head & JOURNAL_ZERO;
	return count <= JOURNAL_STRETCH_MAX && !((offset ^ *ret_zero) & 7u) && end <= c->layout.book_bytes / 8 &&
	       (end <= own || word >= own_end) && (end <= control || word >= control_end) &&
	       (*ret_zero || count < n);
}

/* Newest first.  Killed on the way, it is simply done again. */
bool journal_rollback(const struct core *c)
{
	struct journal *j = journal_of(c);
	const uint64_t *words = words_of(c);
	uint64_t word, count, n_words = journal_words(j);
	bool zero;
	if (n_words > c->layout.journal_max || (j->next - j->begin) % 8 || (n_words && j->overflow))
		return false;
	for (uint64_t n = n_words; n; n -= zero ? 1 : count + 1)
		if (!note_read(c, n, &word, &count, &zero))
			return false;
	for (uint64_t n = n_words; n; n -= zero ? 1 : count + 1) {
		uint64_t *target = (uint64_t *)(uintptr_t)c;
		note_read(c, n, &word, &count, &zero);
		if (zero)
			memset(target + word, 0, count * 8);
		else
			memcpy(target + word, words + n - 1 - count, count * 8);
	}
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	j->next = j->begin;
	j->overflow = 0;
	if (journal_target.journal == j)
		memset(journal_target.touched, 0, sizeof(journal_target.touched));
	return true;
}
