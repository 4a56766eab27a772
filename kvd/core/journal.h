/* journal.h - the book is transactional: an undo journal of its stores.
 *
 * Every SET(), the only store, notes the old value of the 8-byte words it touches before it stores.  core_step() is
 * one transaction, and so is each core_next_action(): it stays open while the shell performs the
 * action it returned, so that what the shell remembers of it (core_shell_set) is committed together
 * with the action's leaving the queue.  A process killed between any two stores leaves a book that
 * journal_rollback() turns into what the last commit left, byte for byte (core_adopt, adopt.c).
 *
 * The order of stores is the program's: note, its end, then the book's word; a fence for the compiler
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

/* A note is the old words of one stretch of the book and then its head, so that it can be read from the
 * end.  The head is the stretch's address in the process that stored (journal.book says where that had the
 * book: one instruction less for each store); in its upper bits the number of words less one; and in bit 0
 * that they were zero: then the head stands alone. */
#define JOURNAL_COUNT_SHIFT 48
#define JOURNAL_ZERO 1ull
enum { JOURNAL_STRETCH_MAX = 1 << 15 };        /* words of one note */

struct journal {                               /* in the book */
	uint64_t next;                         /* address behind the last note of the open transaction */
	uint64_t begin, book;                  /* address of the notes; of the book */
	uint64_t high;                         /* most words since the journal was last trimmed */
	uint32_t overflow, pad;
};

static inline uint64_t journal_words(const struct journal *j) /* of the open transaction's notes */
{
	return (j->next - j->begin) / 8;
}

/* The book that stores go to now: set by whoever opens a transaction; one thread. */
enum journal_slot { TOUCH_SPACE, TOUCH_GROUP, TOUCH_EXTENT, TOUCH_TENANT, TOUCH_CLAIM, TOUCH_SLOTS };
struct journal_target {
	struct journal *journal;       /* one of no book: nothing is noted */
	uint64_t limit;                /* a note must end before it */
	const void *touched[TOUCH_SLOTS]; /* TOUCH_FIELDS() */
};
extern struct journal_target journal_target;

void journal_note_long(uintptr_t first, uint64_t n_words);
void journal_note_zero(const void *address, size_t size); /* it is zero, size a multiple of 8 */
void journal_full(void);

static inline __attribute__((always_inline)) void journal_note_words(uintptr_t at, uint64_t n_words)
{
	struct journal *j = journal_target.journal;
	uint64_t *note = (uint64_t *)(uintptr_t)j->next;
	if (__builtin_expect((uintptr_t)note + 8 * n_words >= journal_target.limit, 0)) {
		journal_full();
		return;
	}
	memcpy(note, (const void *)at, n_words * 8);
	note[n_words] = at + ((n_words - 1) << JOURNAL_COUNT_SHIFT);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	j->next = (uintptr_t)(note + n_words + 1);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static inline __attribute__((always_inline)) void journal_note(const void *address, size_t size, size_t alignment)
{
	uintptr_t first = (uintptr_t)address & ~(uintptr_t)7, end = (uintptr_t)address + size;
	/* A field of up to eight bytes is aligned and lies in one word, a list in two: no loop on the hot paths. */
	if (__builtin_constant_p(size) && size <= 8)
		journal_note_words(first, 1);
	else if (__builtin_constant_p(size) && size == 12)
		journal_note_words(first, 2);
	else if (__builtin_constant_p(size) && size <= 128 && size % 8 == 0 && alignment == 8)
		journal_note_words(first, size / 8);
	else
		journal_note_long(first, (end - first + 7) / 8);
}

/* A stretch of a record, of which PUT() then changes several fields; the first one lies at a multiple of 8. */
#define STRETCH_WORDS(type, first, last) \
	((offsetof(type, last) + sizeof(((type *)0)->last) - offsetof(type, first) + 7) / 8)
#define NOTE_FIELDS(record, first, last) do { \
	_Static_assert(offsetof(__typeof__(*(record)), first) % 8 == 0, "whole words"); \
	journal_note_words((uintptr_t)&(record)->first, STRETCH_WORDS(__typeof__(*(record)), first, last)); \
} while (0)

/* The same where a transaction stores to one record of a kind again and again: noted once while it stays so. */
#define TOUCH_FIELDS(slot, record, first, last) do { \
	if (journal_target.touched[slot] != (const void *)(record)) { \
		NOTE_FIELDS(record, first, last); \
		journal_target.touched[slot] = (record); \
	} \
} while (0)

/* Stores go to this book from now on; what is noted and not committed stays so. */
void journal_open(const struct core *c);
void journal_close(void);                      /* no book is open */
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
	journal_note(&(lvalue), sizeof(lvalue), _Alignof(__typeof__(lvalue))); \
	BOOK_HOOK(&(lvalue), sizeof(lvalue)); \
	memcpy((void *)(uintptr_t)&(lvalue), &set_value_, sizeof(set_value_)); \
} while (0)
/* Where the value is often the old one. */
#define UPDATE(lvalue, value) do { \
	const __typeof__(lvalue) update_value_ = (value); \
	if ((lvalue) != update_value_) \
		SET(lvalue, update_value_); \
} while (0)
#define ADD(lvalue, amount) SET(lvalue, (__typeof__(lvalue))((lvalue) + (amount)))
#define SET_BYTES(target, source, size) do { \
	journal_note(target, size, 1); \
	BOOK_HOOK(target, size); \
	memcpy((void *)(uintptr_t)(target), source, size); \
} while (0)
#define SET_ZERO(pointer) do { \
	journal_note(pointer, sizeof(*(pointer)), _Alignof(__typeof__(*(pointer)))); \
	BOOK_HOOK(pointer, sizeof(*(pointer))); \
	memset((void *)(uintptr_t)(pointer), 0, sizeof(*(pointer))); \
} while (0)
/* A whole record that the committed book does not reach: nothing to undo. */
#define SET_UNREACHED(pointer, value) do { \
	const __typeof__(*(pointer)) set_value_ = (value); \
	BOOK_HOOK(pointer, sizeof(*(pointer))); \
	memcpy((void *)(uintptr_t)(pointer), &set_value_, sizeof(set_value_)); \
} while (0)
/* A field that this transaction has noted (NOTE_FIELDS, TOUCH_FIELDS), or one of a record that it has taken from
 * its pool: undoing that zeroes it. */
#define PUT(lvalue, value) SET_UNREACHED(&(lvalue), value)
#define PUT_BYTES(target, source, size) do { \
	BOOK_HOOK(target, size); \
	memcpy((void *)(uintptr_t)(target), source, size); \
} while (0)

#endif
