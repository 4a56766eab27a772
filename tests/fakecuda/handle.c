/* handle.c - handles with a kind and a generation.  Using one that was destroyed, or one of another kind, is
 * undefined in the driver: the double ends the process, with a line in the log.  Callers hold fake.lock. */
#include "tests/fakecuda/fake.h"

#include <stdlib.h>

enum { HANDLES_MAX = 1 << 18 };
#define HANDLE_TOP 0x7c00000000000000ull

struct entry {
	enum kind kind;
	uint32_t generation;
	void *object;
};
static struct entry *entries;
static uint32_t n_entries, counts[KINDS];
static const char *const kind_names[KINDS] = { "freed handle", "memory handle", "context", "stream", "event", "module",
					       "function", "graph", "executable graph", "graph node" };

uint64_t handle_new(enum kind kind, void *object)
{
	static uint32_t next;

	if (!entries)
		entries = calloc(HANDLES_MAX, sizeof(*entries));
	/* Round robin: a freed number comes back as late as can be. */
	for (uint32_t i = 0; i < HANDLES_MAX; i++) {
		uint32_t k = (next + i) % HANDLES_MAX;
		struct entry *e = &entries[k];

		if (e->kind != KIND_FREE)
			continue;
		next = k + 1;
		if (k >= n_entries)
			n_entries = k + 1;
		e->kind = kind;
		e->object = object;
		e->generation++;
		counts[kind]++;
		return HANDLE_TOP | (uint64_t)e->generation << 20 | k;
	}
	fake_undefined("more than %d handles are open", HANDLES_MAX);
}

static struct entry *entry_of(enum kind kind, uint64_t handle)
{
	uint32_t k = handle & 0xfffff;

	if ((handle & HANDLE_TOP) != HANDLE_TOP || k >= n_entries)
		fake_undefined("%#llx is no %s at all", (unsigned long long)handle, kind_names[kind]);
	struct entry *e = &entries[k];
	if (e->generation != (uint32_t)((handle & ~HANDLE_TOP) >> 20) || e->kind == KIND_FREE)
		fake_undefined("%#llx is a stale %s: it was destroyed", (unsigned long long)handle, kind_names[kind]);
	if (e->kind != kind)
		fake_undefined("%#llx is a %s, not a %s", (unsigned long long)handle, kind_names[e->kind],
			       kind_names[kind]);
	return e;
}

void *handle_get(enum kind kind, uint64_t handle)
{
	return entry_of(kind, handle)->object;
}

void *handle_drop(enum kind kind, uint64_t handle)
{
	struct entry *e = entry_of(kind, handle);

	e->kind = KIND_FREE;
	counts[kind]--;
	return e->object;
}

unsigned handle_count(enum kind kind)
{
	return counts[kind];
}

void handle_each(enum kind kind, void (*visit)(void *object, uint64_t handle, void *arg), void *arg)
{
	for (uint32_t k = 0; k < n_entries; k++)
		if (entries[k].kind == kind)
			visit(entries[k].object, HANDLE_TOP | (uint64_t)entries[k].generation << 20 | k, arg);
}
