/* journal.c - see journal.h. */
#include "kvd/core/book.h"

struct journal_target journal_target;

static struct journal *journal_of(const struct core *c)
{
	return (struct journal *)(uintptr_t)&c->journal;
}

static struct journal_entry *entries_of(const struct core *c)
{
	return (struct journal_entry *)((uintptr_t)c + c->layout.at_journal);
}

void journal_open(const struct core *c)
{
	journal_target = (struct journal_target){
		.base = (uintptr_t)c,
		.journal = journal_of(c),
		.entries = entries_of(c),
		.max = c->layout.journal_max,
	};
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

/* Newest first.  Killed on the way, it is simply done again. */
bool journal_rollback(const struct core *c)
{
	struct journal *j = journal_of(c);
	const struct journal_entry *entries = entries_of(c);
	uint64_t words = c->layout.book_bytes / 8, own = c->layout.at_journal / 8,
		 own_end = own + c->layout.journal_max * sizeof(*entries) / 8,
		 control = (uint64_t)((uintptr_t)j - (uintptr_t)c) / 8, control_end = control + sizeof(*j) / 8;
	if (j->n > c->layout.journal_max || (j->n && j->overflow))
		return false;
	for (uint64_t i = 0; i < j->n; i++) {
		uint64_t word = entries[i].word;
		if (word >= words || (word >= own && word < own_end) || (word >= control && word < control_end))
			return false;
	}
	for (uint64_t i = j->n; i-- > 0;)
		((uint64_t *)(uintptr_t)c)[entries[i].word] = entries[i].old;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	j->n = 0;
	j->overflow = 0;
	return true;
}
