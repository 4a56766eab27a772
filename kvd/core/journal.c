/* journal.c - see journal.h. */
#include "kvd/core/book.h"

struct journal_target journal_target;

static struct journal *journal_of(const struct core *c)
{
	return (struct journal *)(uintptr_t)&c->journal;
}

static uint64_t *words_of(const struct core *c)
{
	return (uint64_t *)((uintptr_t)c + c->layout.at_journal);
}

void journal_open(const struct core *c)
{
	journal_target = (struct journal_target){
		.base = (uintptr_t)c,
		.journal = journal_of(c),
		.words = words_of(c),
		.max = c->layout.journal_max,
	};
}

static void note_add(const void *old, uint64_t n_old, uint64_t head)
{
	struct journal *j = journal_target.journal;
	uint64_t n = j->n, *note = journal_target.words + n;
	if (n + n_old >= journal_target.max) {
		j->overflow = 1;
		return;
	}
	if (n_old)
		memcpy(note, old, n_old * 8);
	note[n_old] = head;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	j->n = n + n_old + 1;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

void journal_note_stretch(uintptr_t first, uint64_t n_words)
{
	while (journal_target.journal && n_words) {
		uint64_t n = n_words < JOURNAL_STRETCH_MAX ? n_words : JOURNAL_STRETCH_MAX;
		note_add((const void *)first, n, (first - journal_target.base) + (n << JOURNAL_COUNT_SHIFT));
		first += n * 8;
		n_words -= n;
	}
}

void journal_note_zero(const void *address, size_t size)
{
	if (journal_target.journal)
		note_add(NULL, 0, ((uintptr_t)address - journal_target.base) +
				  ((uint64_t)size / 8 << JOURNAL_COUNT_SHIFT) + JOURNAL_ZERO);
}

void journal_commit(const struct core *c)
{
	struct journal *j = journal_of(c);
	if (!j->n && !j->overflow)
		return;
	BOOK_HOOK(&j->n, sizeof(j->n));
	if (j->n > j->high)
		j->high = j->n;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	j->n = 0;              /* the commit: one store */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	j->overflow = 0;
}

/* One note, read from its end at words[n]; false: it is nonsense. */
static bool note_read(const struct core *c, uint64_t n, uint64_t *ret_word, uint64_t *ret_count, bool *ret_zero)
{
	uint64_t head = words_of(c)[n - 1], offset = head & ((1ull << JOURNAL_COUNT_SHIFT) - 1u);
	uint64_t own = c->layout.at_journal / 8, own_end = own + c->layout.journal_max,
		 control = (uint64_t)((uintptr_t)journal_of(c) - (uintptr_t)c) / 8,
		 control_end = control + sizeof(struct journal) / 8;
	uint64_t word = offset / 8, count = head >> JOURNAL_COUNT_SHIFT, end = word + count;
	*ret_word = word;
	*ret_count = count;
	*ret_zero = offset & JOURNAL_ZERO;
	return count && count <= JOURNAL_STRETCH_MAX && !(offset & 6u) && end <= c->layout.book_bytes / 8 &&
	       (end <= own || word >= own_end) && (end <= control || word >= control_end) &&
	       (*ret_zero || count < n);
}

/* Newest first.  Killed on the way, it is simply done again. */
bool journal_rollback(const struct core *c)
{
	struct journal *j = journal_of(c);
	const uint64_t *words = words_of(c);
	uint64_t word, count;
	bool zero;
	if (j->n > c->layout.journal_max || (j->n && j->overflow))
		return false;
	for (uint64_t n = j->n; n; n -= zero ? 1 : count + 1)
		if (!note_read(c, n, &word, &count, &zero))
			return false;
	for (uint64_t n = j->n; n; n -= zero ? 1 : count + 1) {
		uint64_t *target = (uint64_t *)(uintptr_t)c;
		note_read(c, n, &word, &count, &zero);
		if (zero)
			memset(target + word, 0, count * 8);
		else
			memcpy(target + word, words + n - 1 - count, count * 8);
	}
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	j->n = 0;
	j->overflow = 0;
	return true;
}
