/* lists.h - intrusive lists and record pools of the book; part of book.h.
 *
 * All of it is inline: the kind is a constant where it is called, so what is left of it is the address of one
 * link or one record, and these are the stores that every page operation makes most. */
#ifndef KVD_CORE_LISTS_H
#define KVD_CORE_LISTS_H

/* ---- lists: the kind says in which array the links lie ---- */
enum list_kind {
	LIST_EXTENTS, LIST_PARTIAL, LIST_IDLE, LIST_FRAMES, LIST_HOLDERS, LIST_COPIES, LIST_COOL, LIST_CHILDREN,
	LIST_MERGES, LIST_SWITCHES, LIST_NODE_CLAIMS, LIST_LRU, LIST_SHELVES, LIST_DIRTY, LIST_QUEUED, LIST_RATES,
	LIST_PROMISES, LIST_WAITERS, LIST_RUNNING, LIST_TENANT_RUNNING, LIST_PROMISERS, LIST_TENANTS, LIST_SPILLS,
	LIST_REGIONS
};

static inline __attribute__((always_inline)) const struct link *list_link(const struct core *c, enum list_kind kind,
									   uint32_t r)
{
	switch (kind) {
	case LIST_EXTENTS: return &extent_at(c, r)->link;
	case LIST_PARTIAL: return &extent_at(c, r)->partial;
	case LIST_IDLE: return &extent_at(c, r)->idle;
	case LIST_FRAMES: return &frame_at(c, r)->link;
	case LIST_HOLDERS: return &hold_at(c, r)->link;
	case LIST_COPIES: return &page_at(c, r)->copy;
	case LIST_COOL: return &page_at(c, r)->cool;
	case LIST_CHILDREN: return &node_at(c, r)->sibling;
	case LIST_MERGES: return &node_at(c, r)->queue;
	case LIST_SWITCHES: return &node_at(c, r)->switch_link;
	case LIST_NODE_CLAIMS: return &claim_at(c, r)->of_node;
	case LIST_LRU: return &claim_at(c, r)->lru;
	case LIST_SHELVES: return &shelf_at(c, r)->of_tenant;
	case LIST_DIRTY: return &tenant_at(c, r)->dirty_link;
	case LIST_QUEUED: return &tenant_at(c, r)->floor_link;
	case LIST_RATES: return &tenant_at(c, r)->rate_link;
	case LIST_PROMISES: return &claim_at(c, r)->promised;
	case LIST_WAITERS: return &seq_at(c, r)->link;
	case LIST_RUNNING: return &seq_at(c, r)->run;
	case LIST_TENANT_RUNNING: return &seq_at(c, r)->of_tenant;
	case LIST_PROMISERS: return &seq_at(c, r)->promiser;
	case LIST_TENANTS: return &tenant_at(c, r)->link;
	case LIST_SPILLS: return &spill_at(c, r)->link;
	case LIST_REGIONS: return &region_at(c, r)->link;
	}
	assert(!"list kind");
	return NULL;
}

static inline uint32_t list_first(const struct list *l) { return l->head - 1u; } /* CORE_NONE: empty */
static inline uint32_t list_last(const struct list *l) { return l->tail - 1u; }
static inline uint32_t list_next(const struct core *c, enum list_kind k, uint32_t r)
{
	return list_link(c, k, r)->next - 1u;
}
static inline uint32_t list_prev(const struct core *c, enum list_kind k, uint32_t r)
{
	return list_link(c, k, r)->prev - 1u;
}

/* Before `where`; CORE_NONE: at the tail. */
static inline void list_insert(const struct core *c, enum list_kind kind, const struct list *l, uint32_t r,
			       uint32_t where)
{
	const struct link *link = list_link(c, kind, r);
	assert(!link->prev && !link->next && l->head != r + 1);
	const struct link *after = where == CORE_NONE ? NULL : list_link(c, kind, where);
	uint32_t prev = after ? after->prev : l->tail;
	struct list grown = { prev ? l->head : r + 1, after ? l->tail : r + 1, l->count + 1 };
	SET(*link, ((struct link){ prev, where + 1 }));
	if (prev)
		SET(list_link(c, kind, prev - 1)->next, r + 1);
	if (after)
		SET(after->prev, r + 1);
	SET(*l, grown);
}

static inline void list_push(const struct core *c, enum list_kind kind, const struct list *l, uint32_t record)
{
	list_insert(c, kind, l, record, CORE_NONE);
}

static inline void list_push_head(const struct core *c, enum list_kind kind, const struct list *l, uint32_t record)
{
	list_insert(c, kind, l, record, list_first(l));
}

static inline void list_remove(const struct core *c, enum list_kind kind, const struct list *l, uint32_t r)
{
	const struct link *link = list_link(c, kind, r);
	uint32_t prev = link->prev, next = link->next;
	assert(l->count && (prev || l->head == r + 1) && (next || l->tail == r + 1));
	struct list left = { prev ? l->head : next, next ? l->tail : prev, l->count - 1 };
	if (prev)
		SET(list_link(c, kind, prev - 1)->next, next);
	if (next)
		SET(list_link(c, kind, next - 1)->prev, prev);
	SET(*link, ((struct link){ 0 }));
	SET(*l, left);
}

/* Append all of `from` to `to`; from is empty afterwards. */
void list_splice(const struct core *c, enum list_kind kind, const struct list *to, const struct list *from);

/* ---- pools: a record number >= 1, zeroed; 0 = the pool is full ---- */
enum pool_kind { POOL_PAGES, POOL_NODES, POOL_CLAIMS, POOL_JOBS, POOL_SHELVES };
uint32_t pool_next_free(const struct core *c, enum pool_kind kind, uint32_t record);
bool pool_is_clear(const struct core *c, enum pool_kind kind, uint32_t record);

static inline __attribute__((always_inline)) const struct pool *
pool_of(const struct core *c, enum pool_kind kind, uint32_t record, const void **ret_record, size_t *ret_size)
{
	switch (kind) {
	case POOL_PAGES:
		*ret_record = page_at(c, record);
		*ret_size = sizeof(struct page);
		return &c->pages;
	case POOL_NODES:
		*ret_record = node_at(c, record);
		*ret_size = sizeof(struct node);
		return &c->nodes;
	case POOL_CLAIMS:
		*ret_record = claim_at(c, record);
		*ret_size = sizeof(struct claim);
		return &c->claims;
	case POOL_SHELVES:
		*ret_record = shelf_at(c, record);
		*ret_size = sizeof(struct shelf);
		return &c->shelves;
	case POOL_JOBS:
		*ret_record = &c->job[record];
		*ret_size = sizeof(struct job);
		return &c->jobs;
	}
	assert(!"pool kind");
	return NULL;
}

_Static_assert(_Alignof(struct page) == 8 && _Alignof(struct node) == 8 && _Alignof(struct claim) == 8 &&
	       _Alignof(struct job) == 8 && _Alignof(struct shelf) == 8, "pool_take() notes whole words");

/* The caller fills it with PUT(). */
static inline uint32_t pool_take(const struct core *c, enum pool_kind kind)
{
	const void *record;
	size_t size;
	const struct pool *p = pool_of(c, kind, 0, &record, &size);
	uint32_t number = p->free, count = p->count + 1;
	if (!number && p->high >= p->max)
		return 0;
	if (!number) {                               /* never used: still zero */
		number = p->high + 1;
		pool_of(c, kind, number, &record, &size);
		SET(p->high, number);
		SET(p->count, count);
		journal_note_zero(record, size);
		return number;
	}
	pool_of(c, kind, number, &record, &size);
	const uint32_t *next = record;               /* the rest was zeroed when it was returned */
	SET(p->free, *next);
	SET(p->count, count);
	SET(*next, 0);
	journal_note_zero((const char *)record + 8, size - 8);
	return number;
}

static inline void pool_return(const struct core *c, enum pool_kind kind, uint32_t number)
{
	const void *record;
	size_t size;
	const struct pool *p = pool_of(c, kind, number, &record, &size);
	assert(number && number <= p->high && p->count);
	journal_note(record, size, 8);
	BOOK_HOOK(record, size);
	memset((void *)(uintptr_t)record, 0, size);
	const uint32_t *next = record;
	PUT(*next, p->free);                        /* noted just now */
	SET(p->free, number);
	ADD(p->count, -1);
}

#endif
