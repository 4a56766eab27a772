/* checker.c - what an outsider can say about kvd from what he sees, and nothing else.
 *
 * It is told of submissions, completions, table entries, mappings, writes of running steps and jobs
 * of the mover, in order (world_record), and keeps a small model of its own.  It never reads the book
 * and shares no code with the core or with the world's oracle.  What it demands:
 *
 *   every submission is answered exactly once, with its verb
 *   a table row is what the completions say: no more, no fewer pages, none when it is closed or lost; if what was
 *   granted is taken again in the same event, the grant and the PREEMPT are told one after the other
 *   a frame is in two rows only if it is sealed, and then its tokens are the row's tokens
 *   what is given as cached was sealed with exactly the prompt's tokens, by somebody of the domain
 *   a private tenant's bytes are in no other domain's row
 *   a fresh page is zero unless the mover copied it for this tenant, and nobody else has it
 *   a sealed page, or one that anybody else may see, is never written
 *   the mover writes only frames that no row and no unfinished step names, and copies only sealed
 *   or the asking tenant's bytes; an extent is zeroed only when no engine maps it
 *   refusals carry true numbers; the oldest running sequence is preempted only when it is alone, or for a
 *   tenant that asks for no more than its min
 *   a tenant's pages come no faster than its insert rate, its sequences are no more than it may have
 *   nobody reads what was in a spill file that is lost
 *   calm runs: nothing is computed that the domain has or another sequence of it computes now */
#include "tests/sim/checker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void checker_fail(struct checker *k, const char *what, uint64_t a, uint64_t b)
{
	static const char *const names[] = { "?", "tenant", "attach", "hangup", "quiet", "submit", "complete",
		"entry", "mapped", "step", "write", "moved", "time", "adopted", "switched", "publish", "gone" };
	for (uint64_t i = k->records > HISTORY ? k->records - HISTORY : 0; i < k->records; i++) {
		const struct world_record *r = &k->history[i % HISTORY];
		fprintf(stderr, "%8llu %-8s engine %u slot %u: %u %u %u\n", (unsigned long long)i,
			names[r->kind], r->engine, r->slot, r->a, r->b, r->c);
	}
	fprintf(stderr, "checker: %s (%llu, %llu)\n", what, (unsigned long long)a, (unsigned long long)b);
	abort();
}

struct checker *checker_new(const struct swarm *swarm, uint32_t slot_bits, uint32_t n_extents)
{
	struct checker *k = calloc(1, sizeof(*k));
	k->swarm = *swarm;
	k->slot_bits = slot_bits;
	k->n_extents = n_extents;
	k->n_frames = n_extents << slot_bits;
	k->frame = calloc(k->n_frames, sizeof(*k->frame));
	k->n_blocks = swarm->disk_extents * (SIM_EXTENT_BYTES / CORE_SPILL_ALIGN);
	k->disk = calloc(k->n_blocks + 1, sizeof(*k->disk));
	k->engines_own = calloc(n_extents, 1);
	k->facts_max = 1024;
	k->facts = calloc(k->facts_max, sizeof(*k->facts));
	for (uint32_t i = 0; i < WORLD_ENGINES; i++)
		k->engine[i].mapped = calloc(n_extents, 1);
	return k;
}

void checker_free(struct checker *k)
{
	for (uint32_t i = 0; i < WORLD_ENGINES; i++)
		free(k->engine[i].mapped);
	free(k->facts);
	free(k->disk);
	free(k->engines_own);
	free(k->frame);
	free(k);
}

uint64_t checker_computed(const struct checker *k)
{
	return k->computed;
}

/* What page `at` of a slot holds once the SEALs are done that it still waits for; 0: nobody said. */
static uint64_t content_said(const struct view_engine *e, uint32_t slot, uint32_t at)
{
	const struct view_slot *s = &e->slot[slot];
	const struct pending *last = NULL;
	if (at < s->n_sealed)
		return s->chain[at];
	for (uint32_t i = 0; i < e->pending_high; i++) {
		const struct pending *p = &e->pending[i];
		if (p->live && p->sqe.verb == KVD_SEQ_SEAL && p->sqe.slot == slot && at >= p->sqe.page &&
		    at - p->sqe.page < p->sqe.count && (!last || last->order < p->order))
			last = p;
	}
	uint64_t before = !last ? 0 : at ? content_said(e, slot, at - 1) : e->space;
	return before ? content_next(before, last->pages[at - last->sqe.page]) : 0;
}

/* ---- rows ---- */

static void row_must_be_empty(struct checker *k, const struct view_slot *s, const char *what)
{
	for (uint32_t i = 0; i < s->row_high; i++)
		if (s->row[i])
			checker_fail(k, what, i, s->row[i]);
}

static void row_forget(struct checker *k, struct view_slot *s)
{
	for (uint32_t i = 0; i < s->row_high; i++)
		if (s->row[i]) {
			k->frame[KVD_ENTRY_FRAME(s->row[i])].holders--;
			s->row[i] = 0;
		}
}

static void slot_empty(struct checker *k, struct view_slot *s, enum view_state state)
{
	promises_forget(k, s);
	s->state = state;
	s->lost = false;
	s->n_sealed = s->n_pages = 0;
}

static void see_entry(struct checker *k, const struct world_record *r)
{
	struct view_engine *e = &k->engine[r->engine];
	struct view_slot *s = &e->slot[r->slot];
	if (r->b && KVD_ENTRY_FRAME(r->b) >= k->n_frames)
		checker_fail(k, "an entry names no frame", r->slot, r->b);
	if (s->row[r->a]) {
		k->frame[KVD_ENTRY_FRAME(s->row[r->a])].holders--;
		s->gone[r->a] = s->row[r->a];
	}
	s->row[r->a] = r->b;
	if (r->a >= s->row_high)
		s->row_high = r->a + 1;
	if (!r->b)
		return;
	uint32_t number = KVD_ENTRY_FRAME(r->b);
	struct view_frame *f = &k->frame[number];
	if (f->holders)
		f->content = content_of(f);
	if (f->holders && !f->content)
		checker_fail(k, "a page being written is in two tables", number, r->engine);
	if (!e->mapped[number >> k->slot_bits])
		checker_fail(k, "an entry lies in an extent that its engine has not mapped", number, r->engine);
	f->holders++;
}

/* Pages [from, to) of the row are sealed and hold what `chain` says. */
static void check_sealed(struct checker *k, struct view_slot *s, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to && !s->lost; i++) {
		s->lost = !s->row[i];
		if (s->lost)
			return;
		struct view_frame *f = &k->frame[KVD_ENTRY_FRAME(s->row[i])];
		f->content = content_of(f);
		if (f->content != s->chain[i])
			checker_fail(k, "an entry names a page of other tokens", KVD_ENTRY_FRAME(s->row[i]), i);
		if (f->writer && f->writer - 1u < SIM_TENANTS && k->tenant[f->writer - 1].sharing == CORE_PRIVATE &&
		    domain_of(k, f->writer - 1) != domain_of(k, s->tenant))
			checker_fail(k, "a private tenant's page is in another's table", KVD_ENTRY_FRAME(s->row[i]),
			     s->tenant);
	}
}

/* May a tenant of this domain have it without computing it? */
static bool content_known(struct checker *k, uint32_t tenant, uint64_t content)
{
	return fact_of(k, domain_of(k, tenant), content)->computed ||
	       (k->published && fact_of(k, DOMAIN_ANY, content)->computed);
}

/* Pages [from, to) are given to be written. */
static void check_fresh(struct checker *k, uint32_t engine, struct view_slot *s, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to && !s->lost; i++) {
		s->lost = !s->row[i];
		if (s->lost)
			return;
		uint32_t number = KVD_ENTRY_FRAME(s->row[i]);
		const struct view_frame *f = &k->frame[number];
		if (f->holders != 1 || f->content)
			checker_fail(k, "a page to be written is not the sequence's own", number, f->holders);
		bool known = f->writer == s->tenant + 1 || (f->origin && content_known(k, s->tenant, f->origin));
		if (f->dirty && !(f->copied && known))
			checker_fail(k, "a fresh page holds somebody's bytes", number, f->writer);
		if (k->engine[engine].mapped[number >> k->slot_bits] != 2)
			checker_fail(k, "a page to be written is mapped read-only", number, engine);
	}
}

/* What was cached: the claims. */
static void check_cached(struct checker *k, struct view_slot *s, uint32_t from, uint32_t to)
{
	if (to > from && (to > (s->n_prompt - 1) / KVD_PAGE_TOKENS || s->no_index))
		checker_fail(k, "more is cached than may be", to, s->n_prompt);
	for (uint32_t i = from; i < to; i++) {
		s->chain[i] = s->prompt[i];
		if (!content_known(k, s->tenant, s->chain[i]))
			checker_fail(k, "a page is cached that the tenant's domain never computed", s->tenant, i);
	}
}

/* ---- completions ---- */

static void completed_open(struct checker *k, uint32_t engine, struct view_slot *s, const struct pending *p,
			   const struct kvd_cqe *c)
{
	memcpy(s->prompt, p->pages, sizeof(s->prompt));
	s->n_prompt = p->sqe.n_tokens;
	s->no_index = p->no_index;
	s->tenant = p->tenant;
	s->state = VIEW_RUNNING;
	check_cached(k, s, 0, c->cached);
	check_sealed(k, s, 0, c->cached);
	check_fresh(k, engine, s, c->cached, c->pages);
	s->n_sealed = c->cached;
	s->n_pages = c->pages;
	check_computed_once(k, engine, s, p);
	if (p->sqe.verb == KVD_SEQ_OPEN)
		check_sequences(k, s);
}

static void completed_grow(struct checker *k, uint32_t engine, struct view_slot *s, const struct pending *p,
			   const struct kvd_cqe *c)
{
	uint32_t had = s->n_pages;
	if (c->cached < s->n_sealed)
		checker_fail(k, "a GROW loses sealed pages", c->cached, s->n_sealed);
	if (c->cached > s->n_sealed && s->n_sealed && s->chain[s->n_sealed - 1] != s->prompt[s->n_sealed - 1])
		checker_fail(k, "cached pages follow other tokens", engine, s->n_sealed);
	if (c->pages < p->sqe.want)
		checker_fail(k, "a GROW gives fewer pages than were asked for", c->pages, p->sqe.want);
	check_cached(k, s, s->n_sealed, c->cached);
	check_sealed(k, s, s->n_sealed, c->cached);
	check_fresh(k, engine, s, had > c->cached ? had : c->cached, c->pages);
	if (c->pages > had && c->pages > c->cached)
		check_rate(k, &k->engine[engine], s->tenant, p, c->pages - (had > c->cached ? had : c->cached));
	bool looked = (p->sqe.flags & KVD_GROW_LOOKUP) && p->sqe.page == s->n_sealed;
	s->n_sealed = c->cached;
	s->n_pages = c->pages;
	if (looked)
		check_computed_once(k, engine, s, p);
}

static void completed_seal(struct checker *k, uint32_t engine, struct view_slot *s, const struct pending *p,
			   const struct kvd_cqe *c)
{
	for (uint32_t i = 0; i < p->sqe.count; i++) {
		uint32_t at = p->sqe.page + i;
		s->lost = s->lost || !s->row[at];
		struct view_frame *f = &k->frame[KVD_ENTRY_FRAME(s->row[at] ? s->row[at] : s->gone[at])];
		f->content = content_of(f);
		/* the rest of a row that was taken again is cleared after this answer */
		if (!f->content && f->holders != !!s->row[at])
			checker_fail(k, "a page is sealed that two tables have", engine, at);
		uint64_t content = content_next(at ? s->chain[at - 1] : k->engine[engine].space, p->pages[i]);
		s->chain[at] = content;
		if (!f->content)
			f->content = content;
		k->computed++;
		if (s->no_index)
			continue;
		struct fact *fact = fact_of(k, domain_of(k, s->tenant), content);
		if (!fact->computed) {
			fact->engine = engine;
			fact->when = k->records;
		}
		fact->computed = 1;
		if (k->swarm.publish && k->tenant[s->tenant].sharing != CORE_PRIVATE)
			fact_of(k, DOMAIN_ANY, content)->computed = 1;
	}
	s->n_sealed = c->cached;
	check_sealed(k, s, p->sqe.page, p->sqe.page + p->sqe.count);
}

static void completed_fork(struct checker *k, uint32_t engine, struct view_slot *t, const struct pending *p,
			   const struct kvd_cqe *c)
{
	uint32_t whole = p->sqe.n_tokens / KVD_PAGE_TOKENS;
	if (c->status != KVD_S_OK) {
		if (p->made && t->state == VIEW_WAITING) /* it may wait for an OPEN's answer: not this one's */
			slot_empty(k, t, c->status == KVD_S_PREEMPTED ? VIEW_STOPPED : VIEW_EMPTY);
		return;
	}
	memcpy(t->chain, p->pages, sizeof(t->chain));
	t->tenant = p->tenant;
	t->n_prompt = 0;
	t->no_index = p->no_index;
	t->n_sealed = whole;
	t->n_pages = c->pages;
	t->state = VIEW_RUNNING;
	check_sealed(k, t, 0, whole);
	check_fresh(k, engine, t, whole, c->pages);
	check_sequences(k, t);
}

static void check_refusal(struct checker *k, uint32_t engine, const struct pending *p, const struct kvd_cqe *c)
{
	const struct view_engine *e = &k->engine[engine];
	uint32_t n = p->sqe.n_tokens / KVD_PAGE_TOKENS + !!(p->sqe.n_tokens % KVD_PAGE_TOKENS), need = n;
	need += need < k->swarm.max_pages;
	if (p->sqe.verb == KVD_SEQ_GROW)
		need = n = p->sqe.want;
	switch (c->status) {
	case KVD_S_TOO_LARGE:
		if (c->need_pages != need || c->have_pages > k->n_extents * e->n_frames || need <= c->have_pages ||
		    c->have_pages % e->n_frames || (c->have_pages < k->n_extents * e->n_frames && !k->swarm.steer))
			checker_fail(k, "TOO_LARGE with untrue numbers", c->need_pages, c->have_pages);
		break;
	case KVD_S_CONTEXT:
		if (c->need_pages != n || c->have_pages != k->swarm.max_pages || n <= c->have_pages)
			checker_fail(k, "CONTEXT with untrue numbers", c->need_pages, c->have_pages);
		break;
	case KVD_S_TENANT_MAX:
		if (c->need_pages > need || c->need_pages <= c->have_pages || !k->tenant[p->tenant].max_top ||
		    c->have_pages > k->tenant[p->tenant].max_top / e->page_bytes)
			checker_fail(k, "TENANT_MAX with untrue numbers", c->need_pages, c->have_pages);
		break;
	}
}

/* Nobody's oldest sequence is taken from while there is a younger one to take from, but for a floor. */
static void check_preempted(struct checker *k, const struct view_slot *victim)
{
	bool younger = false;
	for (uint32_t e = 0; e < WORLD_ENGINES; e++)
		for (uint32_t i = 0; k->engine[e].attached && i < WORLD_SLOTS; i++) {
			const struct view_slot *s = &k->engine[e].slot[i];
			if (s == victim || (s->state != VIEW_RUNNING && s->state != VIEW_WAITING))
				continue;
			if (s->age < victim->age)
				return;
			younger = younger || s->state == VIEW_RUNNING;
		}
	if (younger && !floor_asks(k, victim->tenant))
		checker_fail(k, "the oldest sequence is preempted while younger ones run", victim->age, 0);
}

static void see_preempt(struct checker *k, struct view_slot *s)
{
	row_must_be_empty(k, s, "a preempted sequence has a table");
	if (s->state == VIEW_EMPTY)
		checker_fail(k, "an empty slot is preempted", s->age, 0);
	if (s->state != VIEW_STOPPED)
		check_preempted(k, s);
	slot_empty(k, s, VIEW_STOPPED);
}

/* Asked of the slot while an earlier question was not answered (kvd was dead): it meant what that made of
 * the slot. */
static void forks_follow(struct view_engine *e, const struct view_slot *s, const struct pending *before)
{
	for (uint32_t i = 0; i < e->pending_high; i++) {
		struct pending *p = &e->pending[i];
		if (!p->live || p->sqe.verb != KVD_SEQ_FORK || p->order < before->order ||
		    p->sqe.slot != before->sqe.slot)
			continue;
		memcpy(p->pages, s->chain, sizeof(p->pages));
		p->tenant = s->tenant;
		p->no_index = s->no_index;
	}
}

static void see_answer(struct checker *k, uint32_t engine, struct pending *p, const struct kvd_cqe *c)
{
	struct view_engine *e = &k->engine[engine];
	uint32_t slot = p->sqe.verb == KVD_SEQ_FORK ? p->sqe.other : p->sqe.slot;
	bool opens = p->sqe.verb == KVD_SEQ_OPEN || p->sqe.verb == KVD_SEQ_RESUME;
	if (p->sqe.verb == KVD_EXTENT_ACK || slot >= e->max_seqs)
		return;
	struct view_slot *s = &e->slot[slot];
	check_refusal(k, engine, p, c);
	if (c->status == KVD_S_LIMIT && p->tenant < SIM_TENANTS)
		check_limit(k, s, p->tenant, c);
	if (p->sqe.verb == KVD_SEQ_FORK) {
		completed_fork(k, engine, s, p, c);
		return;
	}
	if (c->status != KVD_S_OK) {
		/* a PREEMPTED one's event follows; a second OPEN of a slot changes nothing */
		if (opens && c->status != KVD_S_PREEMPTED && c->status != KVD_S_STALE && s->state == VIEW_WAITING)
			slot_empty(k, s, p->sqe.verb == KVD_SEQ_OPEN ? VIEW_EMPTY : VIEW_STOPPED);
		return;
	}
	switch (p->sqe.verb) {
	case KVD_SEQ_OPEN:
	case KVD_SEQ_RESUME: completed_open(k, engine, s, p, c); break;
	case KVD_SEQ_GROW: completed_grow(k, engine, s, p, c); break;
	case KVD_SEQ_SEAL: completed_seal(k, engine, s, p, c); break;
	case KVD_SEQ_TRUNCATE:
		promises_forget(k, s);
		s->n_sealed = c->cached;
		s->n_pages = c->pages;
		if (s->n_prompt > p->sqe.n_tokens)
			s->n_prompt = 0;
		check_sealed(k, s, 0, s->n_sealed);
		break;
	case KVD_SEQ_CLOSE:
		row_must_be_empty(k, s, "a closed sequence has a table");
		slot_empty(k, s, VIEW_EMPTY);
		sequences_fewer(k, s->tenant);
		break;
	case KVD_SEQ_PARK:
		row_must_be_empty(k, s, "a parked sequence has a table");
		slot_empty(k, s, VIEW_STOPPED);
		break;
	}
	forks_follow(e, s, p);
}

static void see_complete(struct checker *k, const struct world_record *r)
{
	struct view_engine *e = &k->engine[r->engine];
	const struct kvd_cqe *c = r->cqe;
	if (c->verb == KVD_EV_DRAIN)
		return;
	if (c->verb == KVD_EV_PREEMPT) {
		see_preempt(k, &e->slot[c->slot]);
		return;
	}
	if (c->slot < e->max_seqs && e->slot[c->slot].lost)
		checker_fail(k, "a page of a table has no entry, and no PREEMPT follows", r->engine, c->slot);
	for (uint32_t i = 0; i < e->pending_high; i++) {
		struct pending *p = &e->pending[i];
		if (!p->live || p->sqe.user_data != c->user_data || p->sqe.verb != c->verb || p->sqe.slot != c->slot)
			continue;
		p->live = false;
		while (e->pending_high && !e->pending[e->pending_high - 1].live)
			e->pending_high--;
		see_answer(k, r->engine, p, c);
		return;
	}
	checker_fail(k, "an answer to nothing that was asked", c->verb, c->user_data);
}

/* ---- submissions ---- */

static struct pending *pending_new(struct checker *k, struct view_engine *e)
{
	uint32_t i = 0;
	while (i < e->pending_high && e->pending[i].live)
		i++;
	if (i == PENDING_MAX)
		checker_fail(k, "submissions are not answered", i, 0);
	if (i == e->pending_high)
		e->pending_high++;
	e->pending[i] = (struct pending){ .live = true };
	return &e->pending[i];
}

static void see_submit(struct checker *k, const struct world_record *r)
{
	struct view_engine *e = &k->engine[r->engine];
	const struct kvd_sqe *q = r->sqe;
	struct pending *p = pending_new(k, e);
	struct view_slot *s = q->slot < e->max_seqs ? &e->slot[q->slot] : NULL, *t = s;
	p->sqe = *q;
	p->order = k->records;
	p->tenant = s && q->verb != KVD_SEQ_OPEN ? s->tenant : q->tenant;
	if (!s)
		return;
	p->no_index = s->no_index;
	if (q->verb == KVD_SEQ_GROW && (q->flags & KVD_GROW_LOOKUP))
		promises_forget(k, s);       /* if it must wait, others may go on */
	if (q->verb == KVD_SEQ_OPEN || q->verb == KVD_SEQ_RESUME)
		p->no_index = q->flags & KVD_OPEN_PRIVATE;
	uint64_t before = e->space;
	for (uint32_t i = 0; i < r->a / KVD_PAGE_TOKENS && i < WORLD_PAGES; i++) {
		uint64_t digest = page_digest(r->tokens + (size_t)i * KVD_PAGE_TOKENS);
		p->pages[i] = q->verb == KVD_SEQ_SEAL ? digest : (before = content_next(before, digest));
	}
	if (q->verb == KVD_SEQ_FORK) {
		memcpy(p->pages, s->chain, sizeof(p->pages));
		t = q->other < e->max_seqs && s->state == VIEW_RUNNING ? &e->slot[q->other] : NULL;
	}
	bool opens = q->verb == KVD_SEQ_OPEN || q->verb == KVD_SEQ_FORK;
	p->made = t && opens && t->state == VIEW_EMPTY && p->tenant < SIM_TENANTS;
	if (p->made) {
		t->state = VIEW_WAITING;
		t->tenant = p->tenant;
		t->age = ++k->next_age;
	} else if (q->verb == KVD_SEQ_RESUME && s->state == VIEW_STOPPED) {
		s->state = VIEW_WAITING;
	}
}

static void see_tenant(struct checker *k, const struct world_record *r)
{
	if (r->a >= SIM_TENANTS)
		checker_fail(k, "a tenant was not made", r->a, 0);
	memcpy(k->tenant[r->a].domain, r->tenant->tenant.domain, KVD_NAME_MAX);
	k->tenant[r->a].sharing = r->tenant->tenant.sharing;
	uint64_t max_bytes = r->tenant->tenant.quota.max_bytes, max_before = k->tenant[r->a].max_bytes;
	k->tenant[r->a].max_top = max_bytes > max_before ? max_bytes : max_before;
	k->tenant[r->a].max_bytes = max_bytes;
	limits_changed(k, r->a, &r->tenant->tenant.quota);
	k->tenant[r->a].min_before = k->tenant[r->a].min_bytes;   /* if kvd dies, the change is made later */
	k->tenant[r->a].min_bytes = r->tenant->tenant.quota.min_bytes;
	k->tenant[r->a].number = r->a;
	for (uint32_t i = 0; i < r->a && k->tenant[r->a].domain[0]; i++)
		if (!strcmp(k->tenant[i].domain, k->tenant[r->a].domain))
			k->tenant[r->a].number = k->tenant[i].number;
}

static void see_attach(struct checker *k, const struct world_record *r)
{
	struct view_engine *e = &k->engine[r->engine];
	uint8_t *mapped = e->mapped;
	memset(e, 0, sizeof(*e));
	e->mapped = mapped;
	e->attached = true;
	e->space = r->a;
	e->n_frames = r->b;
	e->page_bytes = r->c;
	e->max_seqs = r->slot;
}

static void seal_unanswered(struct checker *k, struct view_engine *e, const struct pending *p)
{
	struct view_slot *s = p->sqe.slot < e->max_seqs ? &e->slot[p->sqe.slot] : NULL;
	for (uint32_t i = 0; s && i < p->sqe.count && p->sqe.page + i < s->n_pages && i < WORLD_PAGES; i++) {
		uint32_t entry = s->row[p->sqe.page + i];
		uint64_t content = content_said(e, p->sqe.slot, p->sqe.page + i);
		if (entry && content && !k->frame[KVD_ENTRY_FRAME(entry)].content)
			k->frame[KVD_ENTRY_FRAME(entry)].content = content;
		if (content && !s->no_index)
			fact_of(k, domain_of(k, s->tenant), content)->computed = 1;
		if (content && !s->no_index && k->swarm.publish && k->tenant[s->tenant].sharing != CORE_PRIVATE)
			fact_of(k, DOMAIN_ANY, content)->computed = 1;
	}
}

/* What an engine said last may have been taken though the answer never came, or has not yet. */
static void seals_unanswered(struct checker *k, struct view_engine *e)
{
	for (uint32_t i = 0; i < e->pending_high; i++)
		if (e->pending[i].live && e->pending[i].sqe.verb == KVD_SEQ_SEAL)
			seal_unanswered(k, e, &e->pending[i]);
}

/* Its leases end with its socket; what its process may still do ends with the process. */
static void see_hangup(struct checker *k, struct view_engine *e)
{
	seals_unanswered(k, e);
	for (uint32_t i = 0; i < e->max_seqs; i++) {
		row_forget(k, &e->slot[i]);
		slot_empty(k, &e->slot[i], VIEW_EMPTY);
	}
	memset(e->pending, 0, sizeof(e->pending));
	e->pending_high = 0;
	e->attached = false;
}

void checker_see(void *checker, const struct world_record *r)
{
	struct checker *k = checker;
	struct view_engine *e = &k->engine[r->engine % WORLD_ENGINES];
	k->history[k->records++ % HISTORY] = *r;
	switch (r->kind) {
	case SEEN_TENANT: see_tenant(k, r); break;
	case SEEN_ATTACH: see_attach(k, r); break;
	case SEEN_HANGUP: see_hangup(k, e); break;
	case SEEN_QUIET:
		see_step(k, &(struct world_record){ .engine = r->engine });
		memset(e->mapped, 0, k->n_extents);
		break;
	case SEEN_SUBMIT: see_submit(k, r); break;
	case SEEN_COMPLETE: see_complete(k, r); break;
	case SEEN_ENTRY: see_entry(k, r); break;
	case SEEN_MAPPED:
		e->mapped[r->a] = (uint8_t)r->b;
		k->engines_own[r->a] |= r->b == 2;
		break;
	case SEEN_STEP: see_step(k, r); break;
	case SEEN_WRITE: see_write(k, r); break;
	case SEEN_MOVED: see_moved(k, r); break;
	case SEEN_ADOPTED:
		for (uint32_t i = 0; i < WORLD_ENGINES; i++)
			if (k->engine[i].attached)
				seals_unanswered(k, &k->engine[i]); /* the fresh tables show it before */
		see_adopted(k);
		break;
	case SEEN_SWITCHED: see_switched(k, e); break;
	case SEEN_TIME: k->now_usec += r->a; break;
	case SEEN_PUBLISHED: k->published = true; break;
	case SEEN_DISK_GONE: memset(k->disk, 0, k->n_blocks * sizeof(*k->disk)); break;
	}
}

/* Everything has come to rest. */
void checker_end(struct checker *k)
{
	for (uint32_t e = 0; e < WORLD_ENGINES; e++)
		for (uint32_t i = 0; k->engine[e].attached && i < k->engine[e].pending_high; i++)
			if (k->engine[e].pending[i].live)
				checker_fail(k, "a submission was never answered", k->engine[e].pending[i].sqe.verb, e);
	for (uint32_t at = 0; at < WORLD_ENGINES * WORLD_SLOTS; at++)
		if (k->engine[at / WORLD_SLOTS].attached && k->engine[at / WORLD_SLOTS].slot[at % WORLD_SLOTS].lost)
			checker_fail(k, "a page of a table has no entry, and no PREEMPT followed", at, 0);
	for (uint32_t f = 0; f < k->n_frames; f++)
		if (k->frame[f].holders)
			checker_fail(k, "a frame is in a table and nobody runs", f, k->frame[f].holders);
}
