/* fsck.c - does every invariant between two events hold?  Extents, frames, pages, sums, lists.
 *
 * The same function runs in tests after every event, in `kvctl fsck`, and as production's sample.
 * It recomputes everything from the primary facts and compares; it allocates nothing and writes
 * only the tenants' check_ fields.  Each array is walked once by fsck_links() and at most twice after it, in order
 * of number: a walk along links waits for memory at every step. */
#include "kvd/core/fsck.h"

void fsck_problem(struct check *k, const char *sentence, uint64_t number)
{
	k->problems++;
	if (!k->report)
		return;
	char text[200], digits[21];
	uint32_t at = 0, d = sizeof(digits) - 1;
	while (sentence[at] && at < 170) {
		text[at] = sentence[at];
		at++;
	}
	text[at++] = ':';
	text[at++] = ' ';
	digits[d] = 0;
	do {
		digits[--d] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	memcpy(text + at, digits + d, sizeof(digits) - d);
	k->report(k->arg, text);
}

bool fsck_list_walk(struct check *k, enum list_kind kind, const struct list *l, uint64_t bound, const char *name)
{
	struct fsck_walk w = { 0 };
	while (fsck_walk_next(k, kind, l, bound, &w))
		;
	return fsck_walk_end(k, kind, l, &w, name);
}

static bool state_ok(uint32_t state)
{
	return state < KVD_FRAME_STATES;
}

/* A page in memory: who holds it; who pays for it if nobody claims it.  Its node looks at it, too (fsck_index.c). */
static void check_page(struct check *k, uint32_t number, const struct page *p, uint64_t bytes)
{
	const struct core *c = k->c;
	k->page_holds += p->holders.count;
	k->indexed += !!p->node;
	k->cool_listed += p->cool_listed;
	if (!p->node) {
		struct tenant *t = (struct tenant *)(uintptr_t)tenant_at(c, p->tenant); /* check_ fields only */
		t->check_rss += bytes;
		t->check_held += bytes;
	}
	if (p->leaving)
		fsck_leaving(k, number, p);
	if (!fsck_list(k, LIST_HOLDERS, &p->holders, c->config.holds_max, "a page's list of holders is broken")) {
		k->broken = true;
		return;
	}
	for (uint32_t h = list_first(&p->holders); h != CORE_NONE; h = list_next(c, LIST_HOLDERS, h)) {
		const struct hold *hold = hold_at(c, h);
		const struct seq *s = seq_at(c, hold->seq <= c->config.seqs_max ? hold->seq : 0);
		fsck_check(k, hold->page == number, "a page's holder holds another page", number);
		fsck_check(k, s->state != SEQ_EMPTY && h >= s->row && h - s->row < s->n_pages,
			   "a page's holder is no table slot", number);
	}
}

/* A frame's state against its page: what design.md section 5 says of each state.  What depends on the page's
 * node is looked at there. */
static void check_frame(struct check *k, uint32_t f, const struct group *g)
{
	const struct core *c = k->c;
	const struct frame *frame = frame_at(c, f);
	enum kvd_frame_state state = FRAME_STATE(frame->word);
	const struct page *p =
		frame->page && frame->page <= c->pages.high ? page_at(c, frame->page) : NULL;
	bool has_page =
		state == KVD_FRAME_OPEN || state == KVD_FRAME_SEALED || state == KVD_FRAME_COOL;
	fsck_check(k, frame->page <= c->pages.high, "a frame names a page that does not exist", f);
	k->broken = k->broken || frame->page > c->pages.high;
	fsck_check(k, has_page == !!p,
		   has_page ? "a frame in use has no page" : "a frame without content has a page",
		   f);
	if (state != KVD_FRAME_FREE) {
		fsck_check(k, FRAME_COLOUR(frame->word) == g->colour,
			   "a frame's colour is not its extent's", f);
		fsck_check(k, FRAME_OWNER(frame->word) < c->n_tenants,
			   "a frame's owner is no tenant", f);
	} else {
		fsck_check(k, !frame->pins, "a free frame is pinned", f);
	}
	k->ready += !!(frame->pins & FRAME_READY);
	fsck_check(k, state == KVD_FRAME_RETIRING || !(frame->pins & FRAME_READY),
		   "a frame in use is marked ready to scrub", f);
	if (!has_page || !p)
		return;
	k->pages++;
	fsck_check(k, !p->next_free && p->state == PAGE_RESIDENT, "a frame's page is not resident",
		   f);
	fsck_check(k, p->frame == f, "a frame's page names another frame", f);
	if (state == KVD_FRAME_OPEN) {
		fsck_check(k, p->holders.count == 1, "an open frame has not exactly one holder", f);
		fsck_check(k, !p->node, "an open frame is in the index", f);
		fsck_check(k, g->engine != CORE_NONE, "an open frame lies in the shared colour", f);
	}
	fsck_check(k, state != KVD_FRAME_SEALED || p->node || p->holders.count,
		   "a sealed frame has no holder and is not cool", f);
	if (state == KVD_FRAME_COOL) {
		fsck_check(k, !p->holders.count, "a cool frame has a holder", f);
		fsck_check(k, p->node, "a cool frame is claimed by nobody", f);
		fsck_check(k, p->cool_listed != p->leaving, "a cool frame is in no reclaim list", f);
	}
	if (k->whole)
		check_page(k, frame->page, p, c->spaces[g->space].page_bytes);
}

enum { PAGES_AHEAD = 16 };
struct sums { uint32_t busy_extents, busy_frames, unacked, draining, retiring, extents; };

static void check_free_frames(struct check *k, uint32_t x)
{
	const struct extent *e = extent_at(k->c, x);
	uint32_t unused = e->n_frames - e->high;
	fsck_check(k, e->high <= e->n_frames, "an extent has used more frames than it has", x);
	if (fsck_list(k, LIST_FRAMES, &e->free, k->c->layout.frames_max,
		      "an extent's free list is broken"))
		fsck_check(k, e->free.count + unused == e->frames[KVD_FRAME_FREE],
			   "an extent's free frames are not all listed", x);
}

static void check_assigned(struct check *k, uint32_t x, struct sums *sums, uint64_t *frames,
			   uint64_t *bytes)
{
	const struct core *c = k->c;
	const struct extent *e = extent_at(c, x);
	uint32_t count[KVD_FRAME_STATES] = { 0 };
	fsck_check(k, e->group < GROUPS_MAX, "an extent belongs to no group", x);
	if (e->group >= GROUPS_MAX || c->groups[e->group].space >= SPACES_MAX) {
		k->broken = true;
		return;
	}
	const struct group *g = &c->groups[e->group];
	const struct space *s = &c->spaces[g->space];
	fsck_check(k,
		   s->live && e->n_frames == s->geometry.n_frames &&
			   e->n_frames <= 1u << c->slot_bits,
		   "an extent is not cut as its space says", x);
	for (uint32_t i = 0; i < e->n_frames && i < 1u << c->slot_bits; i++) {
		uint32_t f = (x << c->slot_bits) + i, state = frame_state(c, f);
		if (i + PAGES_AHEAD < e->high) { /* a page lies anywhere */
			uint32_t page = frame_at(c, f + PAGES_AHEAD)->page;
			__builtin_prefetch(page_at(c, page <= c->pages.high ? page : 0));
		}
		fsck_check(k, state_ok(state), "a frame is in no known state", f);
		if (!state_ok(state))
			continue;
		count[state]++;
		check_frame(k, f, g);
		fsck_check(k, i < e->high || state == KVD_FRAME_FREE, "a frame never used is not free", x);
	}
	uint32_t busy = count[KVD_FRAME_OPEN] + count[KVD_FRAME_SEALED] + count[KVD_FRAME_FILLING] +
			count[KVD_FRAME_QUARANTINED];
	for (uint32_t i = 0; i < KVD_FRAME_STATES; i++) {
		fsck_check(k, count[i] == e->frames[i],
			   "an extent's count of a frame state is wrong", x);
		frames[i] += count[i];
		bytes[i] += count[i] * s->page_bytes;
	}
	check_free_frames(k, x);
	fsck_check(k, !(e->acked & ~e->mapped),
		   "an engine acknowledged an extent that it was not sent", x);
	fsck_check(k, g->engine == CORE_NONE || !(e->mapped & ~(1ull << g->engine)),
		   "an engine maps another engine's extent", x);
	fsck_check(k, !(e->mapped & ~s->engines), "an extent is mapped by an engine that is gone",
		   x);
	fsck_check(k, e->idle_listed == (!busy && !e->draining),
		   "an extent is idle and not listed so, or the reverse", x);
	struct sums *sum = &sums[e->group];
	sum->extents++;
	sum->busy_extents += !!busy;
	sum->busy_frames += busy;
	sum->draining += e->draining;
	sum->retiring += count[KVD_FRAME_RETIRING];
	if (g->engine != CORE_NONE && c->engines[g->engine].state == ENGINE_LIVE)
		sum->unacked += e->mapped && !e->acked;
}

static void check_extents(struct check *k, struct sums *sums)
{
	const struct core *c = k->c;
	uint64_t frames[KVD_FRAME_STATES] = { 0 }, bytes[KVD_FRAME_STATES] = { 0 }, total = 0;
	uint32_t states[KVD_EXTENT_STATES] = { 0 };
	for (uint32_t x = 0; x < c->n_extents; x++) {
		const struct extent *e = extent_at(c, x);
		fsck_check(k, e->state < KVD_EXTENT_STATES, "an extent is in no known state", x);
		if (e->state >= KVD_EXTENT_STATES)
			continue;
		states[e->state]++;
		fsck_extent_pins(k, x);
		if (e->state == KVD_EXTENT_ASSIGNED)
			check_assigned(k, x, sums, frames, bytes);
		else
			fsck_check(k, e->state == KVD_EXTENT_LEAVING || !e->mapped,
				   "an extent without owner is mapped", x);
	}
	for (uint32_t i = 0; i < KVD_EXTENT_STATES; i++)
		fsck_check(k, states[i] == c->extents_in[i],
			   "the number of extents in a state is wrong", i);
	for (uint32_t i = 0; i < KVD_FRAME_STATES; i++) {
		fsck_check(k, frames[i] == frames_in(c, i), "the number of frames in a state is wrong",
			   i);
		fsck_check(k, bytes[i] == frame_bytes_in(c, i),
			   "the bytes of frames in a state are wrong", i);
		total += frame_bytes_in(c, i);
	}
	uint64_t whole = (uint64_t)states[KVD_EXTENT_BARE] + states[KVD_EXTENT_UNASSIGNED] +
			 states[KVD_EXTENT_LEAVING] + states[KVD_EXTENT_SCRUB];
	fsck_check(
		k, total + c->tail_bytes + whole * c->config.extent_bytes == c->config.pool_bytes,
		"the states do not add up to the pool; bytes accounted for", total + c->tail_bytes);
	fsck_check(k,
		   c->physical_bytes ==
			   bytes[KVD_FRAME_OPEN] + bytes[KVD_FRAME_SEALED] + bytes[KVD_FRAME_COOL],
		   "physical bytes are not those of open, sealed and cool frames",
		   c->physical_bytes);
	fsck_check(k, c->pages.count == k->pages,
		   "pages exist without a frame, or frames share one", c->pages.count);
	fsck_check(k, c->unassigned.count == states[KVD_EXTENT_UNASSIGNED],
		   "unassigned extents are not all listed", c->unassigned.count);
	fsck_check(k, c->leaving.count == states[KVD_EXTENT_LEAVING],
		   "leaving extents are not all listed", c->leaving.count);
}

static uint64_t frames_listed(struct check *k, const struct list *l, enum kvd_frame_state state)
{
	if (!fsck_list(k, LIST_FRAMES, l, k->c->layout.frames_max,
		       "a list of retiring frames is broken"))
		return 0;
	for (uint32_t f = list_first(l); f != CORE_NONE; f = list_next(k->c, LIST_FRAMES, f))
		fsck_check(k, frame_state(k->c, f) == state,
			   "a frame in a retire list is in another state", f);
	return l->count;
}

/* Every RETIRING frame is at one station of retire.c, every QUARANTINED one in its group's list. */
static void check_retire(struct check *k)
{
	const struct core *c = k->c;
	uint64_t retiring = frames_listed(k, &c->scrub, KVD_FRAME_RETIRING), quarantined = 0;
	uint32_t live = 0, jobs = 0;
	for (uint32_t i = 0; i < GROUPS_MAX; i++) {
		retiring += frames_listed(k, &c->groups[i].fresh, KVD_FRAME_RETIRING);
		retiring += frames_listed(k, &c->groups[i].stamping, KVD_FRAME_RETIRING);
		quarantined += frames_listed(k, &c->groups[i].quarantined, KVD_FRAME_QUARANTINED);
	}
	for (uint32_t i = 0; i < BATCHES_MAX; i++) {
		if (!c->batches[i].live)
			continue;
		live++;
		fsck_check(k, c->batches[i].mask, "a retire batch waits for nobody", i);
		retiring += frames_listed(k, &c->batches[i].frames, KVD_FRAME_RETIRING);
	}
	for (uint32_t i = 1; i <= c->jobs.high; i++) {
		const struct job *j = &c->job[i];
		if (j->next_free || !j->kind)
			continue;
		jobs++;
		retiring += j->kind == JOB_SCRUB;
	}
	retiring += k->ready;                        /* frames that only wait for their pins */
	fsck_check(k, live == c->n_batches, "the number of retire batches is wrong", live);
	fsck_check(k, jobs == c->jobs.count, "the number of mover jobs is wrong", jobs);
	fsck_check(k, retiring == frames_in(c, KVD_FRAME_RETIRING),
		   "a retiring frame is lost, or at two stations", retiring);
	fsck_check(k, quarantined == frames_in(c, KVD_FRAME_QUARANTINED),
		   "a quarantined frame is lost", quarantined);
}

/* What the group's reservations want beyond its busy extents; the one being emptied gives nothing. */
static uint64_t group_wanted(const struct core *c, uint32_t number, const struct sums *sum)
{
	const struct group *g = &c->groups[number];
	uint64_t n = c->spaces[g->space].geometry.n_frames, unused = sum->busy_extents * n - sum->busy_frames;
	const struct extent *e = c->evacuating ? extent_at(c, c->evacuating - 1) : NULL;
	uint32_t busy = e ? e->frames[KVD_FRAME_OPEN] + e->frames[KVD_FRAME_SEALED] +
		e->frames[KVD_FRAME_FILLING] + e->frames[KVD_FRAME_QUARANTINED] : 0;
	if (e && e->group == number && busy)
		unused -= n - busy;
	uint64_t wanted = n && g->reserved > unused ? (g->reserved - unused + n - 1) / n : 0;
	return !wanted && g->keep && !sum->busy_extents ? 1 : wanted;
}

static void check_evacuation(struct check *k)
{
	const struct core *c = k->c;
	fsck_check(k, c->evacuating <= c->n_extents, "the extent being emptied does not exist", c->evacuating);
	if (!c->evacuating || c->evacuating > c->n_extents)
		return;
	const struct extent *e = extent_at(c, c->evacuating - 1);
	fsck_check(k, e->state == KVD_EXTENT_ASSIGNED && !e->bucket,
		   "an extent that is being emptied hands out frames", c->evacuating - 1);
}

static void check_groups(struct check *k, const struct sums *sums)
{
	const struct core *c = k->c;
	uint64_t wanted = 0, cool = 0;
	uint32_t busy = 0;
	for (uint32_t i = 0; i < GROUPS_MAX; i++) {
		const struct group *g = &c->groups[i];
		wanted += g->wanted;
		busy += sums[i].busy_extents;
		fsck_check(k, g->wanted == group_wanted(c, i, &sums[i]),
			   "a group wants another number of extents than it reserves", i);
		fsck_check(k, g->extents.count == sums[i].extents,
			   "a group's extents are not all listed", i);
		fsck_check(k, g->busy_extents == sums[i].busy_extents,
			   "a group's count of busy extents is wrong", i);
		fsck_check(k, g->busy_frames == sums[i].busy_frames,
			   "a group's count of busy frames is wrong", i);
		fsck_check(k, g->n_draining == sums[i].draining,
			   "a group's count of draining extents is wrong", i);
		fsck_check(k, g->retiring == sums[i].retiring,
			   "a group's count of retiring frames is wrong", i);
		fsck_check(k, g->n_unacked == sums[i].unacked,
			   "a group's count of unacknowledged extents is wrong", i);
		fsck_list(k, LIST_EXTENTS, &g->extents, c->n_extents,
			  "a group's list of extents is broken");
		fsck_list(k, LIST_IDLE, &g->idle, c->n_extents,
			  "a group's list of idle extents is broken");
		for (uint32_t b = 0; b < BUCKETS; b++) {
			if (!fsck_list(k, LIST_PARTIAL, &g->partial[b], c->n_extents,
				       "a list of partly free extents is broken"))
				continue;
			for (uint32_t x = list_first(&g->partial[b]); x != CORE_NONE;
			     x = list_next(c, LIST_PARTIAL, x))
				fsck_check(k,
					   extent_at(c, x)->group == i &&
						   extent_at(c, x)->bucket == b + 1,
					   "an extent is in the wrong list of partly free ones", x);
		}
		cool += g->cool.count;
		struct fsck_walk w = { 0 };
		while (fsck_walk_next(k, LIST_COOL, &g->cool, c->pages.high + 1, &w))
			fsck_check(k,
				   frame_state(c, page_at(c, w.at)->frame) == KVD_FRAME_COOL &&
					   page_at(c, w.at)->cool_listed,
				   "a page in use is in a reclaim list", w.at);
		fsck_walk_end(k, LIST_COOL, &g->cool, &w, "a list of cool pages is broken");
	}
	fsck_check(k, wanted == c->wanted, "the sum of wanted extents is wrong", wanted);
	fsck_check(k, core_fits(c), "reservations count on more extents than are left", c->wanted);
	fsck_check(k, cool == k->cool_listed, "cool pages are not all in a reclaim list", cool);
	fsck_check(k, busy == c->busy_extents, "the number of busy extents is wrong", busy);
}

uint32_t fsck_extent(struct check *k, uint32_t x)
{
	struct sums sums[GROUPS_MAX] = { 0 };
	uint64_t frames[KVD_FRAME_STATES] = { 0 }, bytes[KVD_FRAME_STATES] = { 0 };
	const struct extent *e = extent_at(k->c, x);
	fsck_check(k, e->state < KVD_EXTENT_STATES, "an extent is in no known state", x);
	if (e->state != KVD_EXTENT_ASSIGNED)
		return 1;
	check_assigned(k, x, sums, frames, bytes);
	return e->n_frames;
}

static void scratch_clear(const struct core *c)
{
	for (uint32_t t = 0; t < c->n_tenants; t++) {
		struct tenant *tenant = (struct tenant *)(uintptr_t)tenant_at(c, t);
		tenant->check_rss = tenant->check_held = tenant->check_reserved = 0;
		tenant->check_spilled = tenant->check_guarded = 0;
	}
}

uint32_t core_fsck(const struct core *core, void (*report)(void *arg, const char *problem),
		   void *arg, uint64_t *ret_pages)
{
	struct check k = { .c = core, .report = report, .arg = arg, .whole = true };
	struct sums sums[GROUPS_MAX] = { 0 };
	if (!fsck_links(&k))
		return k.problems;
	scratch_clear(core);
	check_extents(&k, sums);
	if (k.broken)
		return k.problems;
	check_evacuation(&k);
	check_groups(&k, sums);
	check_retire(&k);
	fsck_index(&k);
	if (k.broken)
		return k.problems;
	fsck_spill(&k);
	fsck_sequences(&k);
	fsck_tenants(&k);
	fsck_steer(&k);
	fsck_balances(&k);
	if (ret_pages)
		*ret_pages = k.pages;
	return k.problems;
}
