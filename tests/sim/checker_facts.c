/* checker_facts.c - the checker's facts: which pages a domain has computed, who computes one now, and in calm
 * runs that nothing is computed twice. */
#include "tests/sim/checker.h"

#include <stdlib.h>

static uint64_t mix(uint64_t a, uint64_t b)
{
	unsigned __int128 m = (unsigned __int128)(a ^ 0x9e3779b97f4a7c15ull) * (b ^ 0xd6e8feb86659fd93ull);
	return (uint64_t)m ^ (uint64_t)(m >> 64);
}

uint64_t page_digest(const int32_t *tokens)
{
	uint64_t digest = 0;
	for (uint32_t i = 0; i < KVD_PAGE_TOKENS; i += 2)
		digest = mix(digest + 1, (uint64_t)(uint32_t)tokens[i] << 32 | (uint32_t)tokens[i + 1]);
	return digest;
}

uint64_t content_next(uint64_t before, uint64_t digest)
{
	return mix(before + 1, digest) | 1;
}

static uint32_t fact_slot(const struct fact *facts, uint32_t max, uint64_t key)
{
	uint32_t i = (uint32_t)key & (max - 1);
	while (facts[i].key && facts[i].key != key)
		i = (i + 1) & (max - 1);
	return i;
}

static void facts_grow(struct checker *k)
{
	uint32_t max = k->facts_max * 2;
	struct fact *facts = calloc(max, sizeof(*facts));
	for (uint32_t i = 0; i < k->facts_max; i++)
		if (k->facts[i].key)
			facts[fact_slot(facts, max, k->facts[i].key)] = k->facts[i];
	free(k->facts);
	k->facts = facts;
	k->facts_max = max;
	/* the slots' lists name entries by place */
	for (uint32_t e = 0; e < WORLD_ENGINES; e++)
		for (uint32_t s = 0; s < WORLD_SLOTS; s++)
			k->engine[e].slot[s].n_promised = 0;
	for (uint32_t i = 0; i < max; i++) {
		uint32_t p = facts[i].promiser;
		if (!p)
			continue;
		struct view_slot *s = &k->engine[(p - 1) / WORLD_SLOTS].slot[(p - 1) % WORLD_SLOTS];
		s->promised[s->n_promised++] = i;
	}
}

struct fact *fact_of(struct checker *k, uint32_t domain, uint64_t content)
{
	uint64_t key = mix(content, domain + 1) | 1;
	if (k->n_facts * 2 > k->facts_max)
		facts_grow(k);
	struct fact *f = &k->facts[fact_slot(k->facts, k->facts_max, key)];
	if (!f->key)
		k->n_facts++;
	f->key = key;
	return f;
}

/* What a fact's promiser says: 0 is nobody. */
static uint32_t slot_number(const struct checker *k, const struct view_slot *s)
{
	uint32_t engine = 0;
	while (s < k->engine[engine].slot || s >= k->engine[engine].slot + WORLD_SLOTS)
		engine++;
	return engine * WORLD_SLOTS + (uint32_t)(s - k->engine[engine].slot) + 1;
}

void promises_forget(struct checker *k, struct view_slot *s)
{
	for (uint32_t i = 0; i < s->n_promised; i++) {
		struct fact *f = &k->facts[s->promised[i]];
		if (f->promiser == slot_number(k, s))
			f->promiser = 0;     /* not taken over by another */
	}
	s->n_promised = 0;
}

/* Nearly all extents are in use: there may be no room for a copy that others can read. */
static bool memory_short(const struct checker *k)
{
	uint32_t used = 0;
	for (uint32_t x = 0; x < k->n_extents; x++) {
		bool mapped = false;
		for (uint32_t e = 0; e < WORLD_ENGINES; e++)
			mapped = mapped || k->engine[e].mapped[x];
		used += mapped;
	}
	return used > k->n_extents - k->n_extents / 8;
}

/* Calm runs: the sequence is about to compute page n_sealed of its prompt.  The index was looked at no
 * earlier than `asked` (a GROW may have waited for frames after that).  Somebody whose prompt ends with the
 * page computes it whoever else does: one who asked before may have promised it while he waited for a copy
 * of what is before it. */
void check_computed_once(struct checker *k, uint32_t engine, struct view_slot *s, const struct pending *p)
{
	uint64_t asked = p->sqe.verb == KVD_SEQ_GROW ? p->order : UINT64_MAX;
	uint32_t self = slot_number(k, s), at = s->n_sealed;
	bool private = k->tenant[s->tenant].sharing == CORE_PRIVATE;
	if (!k->swarm.calm || s->no_index || at >= s->n_prompt / KVD_PAGE_TOKENS)
		return;
	if (at && s->chain[at - 1] != s->prompt[at - 1])
		return;
	promises_forget(k, s);
	for (uint32_t i = at; i < s->n_prompt / KVD_PAGE_TOKENS; i++) {
		struct fact *f = fact_of(k, domain_of(k, s->tenant), s->prompt[i]);
		bool may_take = i == at && i < (s->n_prompt - 1) / KVD_PAGE_TOKENS;
		if (f->computed) {
			if (may_take && f->when < asked && (!private || f->engine == engine) && !memory_short(k))
				checker_fail(k, "a page is computed again", s->tenant, i);
			return;
		}
		bool ahead = f->forced && p->order < f->promised;
		if (f->promiser && !ahead) {
			if (may_take && f->promised < asked)
				checker_fail(k, "a page is computed while another computes it",
					     f->promiser, self * 100 + i);
			return;
		}
		f->promiser = self;
		f->promised = k->records;
		f->forced = i == at && i >= (s->n_prompt - 1) / KVD_PAGE_TOKENS;
		s->promised[s->n_promised++] = (uint32_t)(f - k->facts);
	}
}
