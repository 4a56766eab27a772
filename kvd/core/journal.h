/* journal.h - the book is transactional: an undo journal of its stores.
 *
 * Every SET(), the only store, notes the old value of each 8-byte word it touches before it stores.  core_step() is
 * one transaction, and so is each core_next_action(): it stays open while the shell performs the
 * action it returned, so that what the shell remembers of it (core_shell_set) is committed together
 * with the action's leaving the queue.  A process killed between any two stores leaves a book that
 * journal_rollback() turns into what the last commit left, byte for byte (core_adopt, adopt.c).
 *
 * The order of stores is the program's: entry, count, then the book's word; a fence for the compiler
 * keeps it.  A killed process's stores reach the memfd in that order, whoever maps it next; power
 * failure is no matter here, memory does not survive it.
 *
 * A transaction that needs more entries than there are goes on without notes and says so
 * (overflow); a book killed inside it is not adopted.  The journal is sized so that none known does. */
#ifndef KVD_CORE_JOURNAL_H
#define KVD_CORE_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct core;

struct journal_entry { uint64_t word, old; };  /* word: offset in the book / 8 */

struct journal {                               /* in the book */
	uint64_t n;                            /* entries of the open transaction */
	uint64_t high;                         /* most entries since the journal was last trimmed */
	uint32_t overflow, pad;
};

/* The book that stores go to now: set by whoever opens a transaction; one thread. */
struct journal_target {
	uintptr_t base;
	struct journal *journal;       /* NULL: no book is open, nothing is noted */
	struct journal_entry *entries;
	uint64_t max;
};
extern struct journal_target journal_target;

static inline void journal_note_word(struct journal *j, uintptr_t at)
{
	uint64_t n = j->n;
	if (__builtin_expect(n >= journal_target.max, 0)) {
		j->overflow = 1;
		return;
	}
	struct journal_entry *entry = &journal_target.entries[n];
	entry->word = (at - journal_target.base) / 8;
	entry->old = *(const uint64_t *)at;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	j->n = n + 1;
}

static inline __attribute__((always_inline)) void journal_note(const void *address, size_t size)
{
	struct journal *j = journal_target.journal;
	uintptr_t first = (uintptr_t)address & ~(uintptr_t)7, end = (uintptr_t)address + size;
	if (!j)
		return;
	/* A field of up to four bytes is aligned and lies in one word: no loop on the hot paths. */
	if (__builtin_constant_p(size) && size <= 4)
		journal_note_word(j, first);
	else
		for (uintptr_t at = first; at < end; at += 8)
			journal_note_word(j, at);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* Stores go to this book from now on; what is noted and not committed stays so. */
void journal_open(const struct core *c);
void journal_commit(const struct core *c);
/* Undo what was not committed.  False: entries are nonsense, or the transaction had overflowed. */
bool journal_rollback(const struct core *c);

#ifdef CORE_HOOK
void core_book_hook(const void *address, size_t size);
#define BOOK_HOOK(address, size) core_book_hook(address, size)
#else
#define BOOK_HOOK(address, size) ((void)0)
#endif

/* The only store.  memcpy of a constant size is one plain store; it is how const is cast away
 * without naming the unqualified type. */
#define SET(lvalue, value) do { \
	const __typeof__(lvalue) set_value_ = (value); \
	journal_note(&(lvalue), sizeof(lvalue)); \
	BOOK_HOOK(&(lvalue), sizeof(lvalue)); \
	memcpy((void *)(uintptr_t)&(lvalue), &set_value_, sizeof(set_value_)); \
} while (0)
#define ADD(lvalue, amount) SET(lvalue, (__typeof__(lvalue))((lvalue) + (amount)))
#define SET_BYTES(target, source, size) do { \
	journal_note(target, size); \
	BOOK_HOOK(target, size); \
	memcpy((void *)(uintptr_t)(target), source, size); \
} while (0)
#define SET_ZERO(pointer) do { \
	journal_note(pointer, sizeof(*(pointer))); \
	BOOK_HOOK(pointer, sizeof(*(pointer))); \
	memset((void *)(uintptr_t)(pointer), 0, sizeof(*(pointer))); \
} while (0)
/* A whole record that the committed book does not reach: nothing to undo. */
#define SET_UNREACHED(pointer, value) do { \
	const __typeof__(*(pointer)) set_value_ = (value); \
	BOOK_HOOK(pointer, sizeof(*(pointer))); \
	memcpy((void *)(uintptr_t)(pointer), &set_value_, sizeof(set_value_)); \
} while (0)

#endif
