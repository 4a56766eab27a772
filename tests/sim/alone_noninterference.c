/* alone_noninterference.c - under `merge`, does anything that tenant B can see depend on tenant A?
 *
 * A pair is two runs of one script of B's, with and without a script of A's between its lines, on the same
 * two engines, with prompts that are often the same, in a pool without pressure.  B's trace is everything
 * it can see: each completion of its submissions with all numbers in it, in order and between which of its
 * own lines, preemptions, and every row that kvd shows to B, after each line.  The two traces must be equal
 * byte for byte.  Physical place is not B's to see: which frame a page lies in, and so the order of page
 * rows, is not part of it.  Nor is, within a line, whether an answer came at once or after a round trip:
 * an engine's extents are one pool for all its tenants, so that a GROW may have to wait for an extent to
 * be mapped or not, as a neighbour has left it; and a page of B's that was merged is read by another of
 * B's engines at once, where otherwise the mover copies it first.  So the answers of one line are compared
 * stream by stream.  The round trips are counted and told (docs/operators.md).
 *
 * The check is itself checked: with a planted leak (what one tenant has computed, the other need not compute), and with
 * both in one `reuse` domain, differences must be found.
 *
 *   sim_noninterference [PAIRS [FIRST]]        default 2,000 pairs */
#include "tests/sim/sim.h"
#include "kvd/core/book.h"
#include "kvd/core/parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINES = 24, SLOTS = 4, EXTENTS = 64, ENGINES = 2, TRACE_BYTES = 1 << 20, TENANT_A = 0, TENANT_B = 1 };
enum kind { KIND_MERGE, KIND_REUSE, KIND_LEAK };

struct part { size_t at; const char *what; };  /* of a trace, to say what differs */
struct trace { uint8_t bytes[TRACE_BYTES]; size_t n; bool late; uint64_t n_late;
	struct answer { uint32_t seen[8]; } answers[256];   /* of this line */
	uint32_t n_answers;
	struct part part[1 << 16]; size_t n_parts; };

static bool leak;

/* The planted leak: what one tenant has computed, the other need not compute. */
void __real_claim_complete(const struct core *c, uint32_t claim, uint32_t tenant, uint32_t home);
void __wrap_claim_complete(const struct core *c, uint32_t claim, uint32_t tenant, uint32_t home);
void __wrap_claim_complete(const struct core *c, uint32_t claim, uint32_t tenant, uint32_t home)
{
	uint32_t node = claim_at(c, claim)->node, other = tenant == TENANT_A ? TENANT_B : TENANT_A;
	__real_claim_complete(c, claim, tenant, home);
	uint32_t parent = node_at(c, node)->parent;
	uint32_t before = parent ? claim_find(c, parent, tenant_at(c, other)->domain) : 0;
	if (!leak || (parent && (!before || !claim_at(c, before)->complete)))
		return;
	uint32_t also = claim_find_or_make(c, node, tenant_at(c, other)->domain, other);
	if (also && !claim_at(c, also)->complete && !claim_at(c, also)->promiser && !claim_at(c, also)->waiters.count)
		__real_claim_complete(c, also, other, home);
}

static void note(struct trace *t, const char *what, const void *bytes, size_t n)
{
	if (t->n + n > TRACE_BYTES || t->n_parts == sizeof(t->part) / sizeof(t->part[0]))
		abort();
	t->part[t->n_parts++] = (struct part){ t->n, what };
	memcpy(t->bytes + t->n, bytes, n);
	t->n += n;
}

/* B has the lower slots of each engine. */
static void watch(void *arg, const struct world_record *r)
{
	struct trace *t = arg;
	if (r->kind != SEEN_COMPLETE || r->slot >= SLOTS || r->cqe->verb == KVD_EXTENT_ACK)
		return;
	if (t->n_answers == 256)
		abort();
	t->n_late += t->late;
	t->answers[t->n_answers++] = (struct answer){ { r->engine, r->slot, r->cqe->verb, r->cqe->status,
		r->cqe->cached, r->cqe->pages, r->cqe->need_pages, r->cqe->have_pages } };
}

/* The answers of one line, stream by stream (engine, slot), each in its order. */
static void note_answers(struct trace *t)
{
	for (uint32_t stream = 0; stream < ENGINES * SLOTS; stream++)
		for (uint32_t i = 0; i < t->n_answers; i++)
			if (t->answers[i].seen[0] * SLOTS + t->answers[i].seen[1] == stream)
				note(t, "completion", &t->answers[i], sizeof(t->answers[i]));
	t->n_answers = 0;
}

#define NOTE_ROWS(function, type, ...) do { \
	struct type row_; \
	uint32_t cursor_ = 0; \
	while (function(w->core, TENANT_B, __VA_ARGS__ &cursor_, &row_, 1)) \
		note(t, #type, &row_, sizeof(row_)); \
} while (0)

static int pages_compare(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct kvd_row_page));
}

/* Where a page lies is not B's to see; what it is, is. */
static void note_pages(struct world *w, struct trace *t)
{
	static struct kvd_row_page rows[4096];
	uint32_t cursor = 0, n = 0;
	while (n < 4096 && core_read_pages(w->core, TENANT_B, w->now, &cursor, &rows[n], 1)) {
		rows[n].frame = rows[n].extent = rows[n].slot = rows[n].generation = 0;
		rows[n].page = rows[n].page != CORE_NONE;
		rows[n].parent = rows[n].parent != CORE_NONE;
		n++;
	}
	qsort(rows, n, sizeof(rows[0]), pages_compare);
	for (uint32_t i = 0; i < n; i++)
		note(t, "kvd_row_page", &rows[i], sizeof(rows[0]));
}

static void note_rows(struct world *w, struct trace *t)
{
	NOTE_ROWS(core_read_tenants, kvd_row_tenant, );
	NOTE_ROWS(core_read_sequences, kvd_row_sequence, w->now,);
	NOTE_ROWS(core_read_psi, kvd_row_psi, w->now,);
	NOTE_ROWS(core_read_evictions, kvd_row_eviction, w->now,);
	NOTE_ROWS(core_read_smaps, kvd_row_smaps, );
	note_pages(w, t);
}

static void line_open(struct world *w, uint64_t *random, uint32_t e, uint32_t slot, uint32_t tenant)
{
	int32_t tokens[WORLD_TOKENS];
	uint32_t root = (uint32_t)(sim_random64(random) % 3), n = 1 + (uint32_t)(sim_random64(random) % 150);
	uint32_t same = (uint32_t)(sim_random64(random) % 190), own = (uint32_t)(sim_random64(random) % 5);
	for (uint32_t i = 0; i < WORLD_TOKENS; i++)
		tokens[i] = (int32_t)(((i < same ? root : 10 + own) * 0x9e3779b1u + i * 0x85ebca77u) >> 8);
	world_open(w, e, slot, tenant, tokens, n, n + (uint32_t)(sim_random64(random) % 30), 0);
}

/* One line of a script: something that a client and its engine do for one tenant. */
static void line_say(struct world *w, uint64_t *random, uint32_t tenant)
{
	uint32_t e = (uint32_t)(sim_random64(random) >> 20) % ENGINES;
	uint32_t slot = (uint32_t)(sim_random64(random) >> 20) % SLOTS + (tenant == TENANT_A ? SLOTS : 0);
	struct world_slot *s = world_slot(w, e, slot);
	uint32_t dice = (uint32_t)(sim_random64(random) >> 20) % 100;
	w->rng = sim_random64(random) | 1;
	if (s->state == SLOT_IDLE && !s->verb)
		line_open(w, random, e, slot, tenant);
	else if (dice < 6)
		world_plain(w, e, slot, KVD_SEQ_CLOSE);
	else if (dice < 10)
		world_plain(w, e, slot, KVD_SEQ_PARK);
	else if (dice < 14 && s->n_done > 1)
		world_truncate(w, e, slot, 1 + world_random(w, s->n_done - 1));
	else
		world_advance(w, e, slot);
}

/* Everything that was asked for happens, and what is computed is computed. */
static void rest(struct world *w)
{
	for (uint32_t round = 0; round < 2; round++) {
		world_settle(w, false);
		for (uint32_t e = 0; e < ENGINES; e++) {
			world_step_begin(w, e);
			world_step_end(w, e);
		}
	}
	world_settle(w, false);
}

static void line_rest(struct world *w, struct trace *t)
{
	t->late = true;
	rest(w);
	t->late = false;
}

static void script_run(uint64_t pair, bool with_a, enum kind kind, struct trace *t)
{
	struct core_config config = { .pool_bytes = (uint64_t)EXTENTS * SIM_EXTENT_BYTES,
		.extent_bytes = SIM_EXTENT_BYTES, .page_bytes_min = 8192, .tenants_max = 4, .seqs_max = 32,
		.holds_max = 32 * 16, .hash_key = { pair, ~pair }, .promise_usec = 1u << 30 };
	struct world *w = world_make(&config, pair);
	uint64_t a = pair * 2 + 1, b = pair * 2;
	t->n = t->n_parts = t->n_late = t->n_answers = 0;
	t->late = false;
	w->fsck_every = 0;
	world_tenant(w, "a", kind == KIND_REUSE ? "d" : "", kind == KIND_REUSE ? CORE_REUSE : CORE_MERGE, 0);
	world_tenant(w, "b", kind == KIND_REUSE ? "d" : "", kind == KIND_REUSE ? CORE_REUSE : CORE_MERGE, 0);
	world_settle(w, false);
	for (uint32_t e = 0; e < ENGINES; e++)
		world_attach(w, e ? "e1" : "e0", 1, 4, 4096, 2 * SLOTS, 12);
	world_settle(w, false);
	w->watch = watch;
	w->watch_arg = t;
	for (uint32_t i = 0; i < LINES; i++) {
		uint32_t n = (uint32_t)(sim_random64(&a) >> 20) % 6;
		for (uint32_t k = 0; k < n && with_a; k++) {
			line_say(w, &a, TENANT_A);
			line_rest(w, t);
		}
		line_say(w, &b, TENANT_B);
		line_rest(w, t);
		world_tick(w, 1000);
		note_answers(t);
		note_rows(w, t);
	}
	if (!leak)
		world_fsck(w);
	world_free(w);
}

static uint64_t round_trips;                   /* pairs whose number of late answers differs */

/* Returns how many of the pairs differ. */
static uint64_t pairs_run(uint64_t first, uint64_t n, enum kind kind, bool tell)
{
	static struct trace with, without;
	uint64_t different = 0;
	leak = kind == KIND_LEAK;
	for (uint64_t pair = first; pair < first + n; pair++) {
		script_run(pair, true, kind, &with);
		script_run(pair, false, kind, &without);
		round_trips += with.n_late != without.n_late;
		if (with.n == without.n && !memcmp(with.bytes, without.bytes, with.n))
			continue;
		different++;
		size_t at = 0;
		while (at < with.n && at < without.n && with.bytes[at] == without.bytes[at])
			at++;
		size_t i = 0;
		while (i + 1 < with.n_parts && with.part[i + 1].at <= at)
			i++;
		if (tell && different <= 5)
			printf("pair %llu differs in byte %zu of %s, part %zu: %u with, %u without\n",
			       (unsigned long long)pair, at - with.part[i].at, with.part[i].what, i, with.bytes[at],
			       without.bytes[at]);
	}
	leak = false;
	return different;
}

int main(int argc, char **argv)
{
	uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : 2000, first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
	uint64_t merge = pairs_run(first, n, KIND_MERGE, true), late = round_trips,
		 reuse = pairs_run(first, 50, KIND_REUSE, false),
		 planted = pairs_run(first, 50, KIND_LEAK, false);
	uint32_t failed = (merge != 0) + !reuse + !planted;
	printf("merge: %llu of %llu pairs differ; reuse: %llu of 50; a planted leak: %llu of 50\n",
	       (unsigned long long)merge, (unsigned long long)n, (unsigned long long)reuse,
	       (unsigned long long)planted);
	printf("answers a round trip later or earlier (an extent to be mapped): in %llu pairs\n",
	       (unsigned long long)late);
	printf("%u%%: Checks: 3, Failures: %u, Errors: 0\n", 100 * (3 - failed) / 3, failed);
	return failed != 0;
}
