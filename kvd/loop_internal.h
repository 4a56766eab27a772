/* loop_internal.h - between loop.c and its two backends, for nobody else. */
#ifndef KVD_LOOP_INTERNAL_H
#define KVD_LOOP_INTERNAL_H

#include "kvd/loop.h"

struct loop_slot {
	struct loop_source *source;/* NULL: free */
	uint32_t generation;       /* makes cookies of earlier users of the slot stale */
	uint32_t free_next;
};

struct loop {
	const struct loop_backend *backend;
	void *state;               /* of the backend */
	bool has_words;
	struct loop_source *owed_head, *owed_tail;
	uint32_t n_slots, free_head;
	struct loop_slot slots[];
};

/* Cookie: generation << 32 | slot + 1; never 0. */
struct loop_backend {
	const char *name;
	int (*open)(struct loop *loop);
	void (*close)(struct loop *loop);
	int (*add)(struct loop *loop, int fd, uint32_t events, uint64_t cookie);
	void (*remove)(struct loop *loop, int fd, uint64_t cookie);
	int (*wait)(struct loop *loop, int64_t timeout_usec);  /* < 0: no timeout */
	bool (*pending)(struct loop *loop);
	/* NULL: it cannot; likewise where has_words is false */
	int (*wait_word)(struct loop *loop, const uint32_t *word, uint32_t value, uint64_t cookie);
	void (*remove_word)(struct loop *loop, uint64_t cookie);
};

extern const struct loop_backend loop_backend_uring, loop_backend_epoll;

/* The source a cookie stands for, NULL if it is stale. */
struct loop_source *loop_resolve(struct loop *loop, uint64_t cookie);
/* It has a turn in this round, for these events and those noted before.  wait() calls it, never ready(). */
void loop_owe(struct loop *loop, struct loop_source *source, uint32_t events);

#endif
