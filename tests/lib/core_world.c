/* core_world.c - the fake engines, mover and clock of core_world.h. */
#include "tests/lib/core_world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void world_say(struct world *w, const char *text)
{
	(void)w;
	fprintf(stderr, "world: %s\n", text);
}

void world_fail(struct world *w, const char *what, uint64_t a, uint64_t b)
{
	fprintf(stderr, "world: %s (%llu, %llu) at operation %llu, seed %llu\n", what,
		(unsigned long long)a, (unsigned long long)b, (unsigned long long)w->ops,
		(unsigned long long)w->seed);
	fflush(stderr);
	abort();
}

uint32_t world_random(struct world *w, uint32_t below)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return (uint32_t)((w->rng >> 16) % below);
}

static uint64_t hash_on(uint64_t h, const int32_t *tokens, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		h = (h ^ (uint32_t)tokens[i]) * 1099511628211ull;
	return h;
}

uint64_t world_tag(uint32_t space_tag, const int32_t *tokens, uint32_t n_tokens)
{
	uint64_t h = hash_on(1469598103934665603ull ^ space_tag, tokens, n_tokens);
	return (h ^ h >> 29) | 1;
}

/* The same, with the hashes up to whole pages remembered. */
uint64_t world_slot_tag(uint32_t space_tag, struct world_slot *s, uint32_t n_tokens)
{
	uint32_t whole = n_tokens / 16;
	uint64_t h = 1469598103934665603ull ^ space_tag;
	for (; s->n_hashes < whole; s->n_hashes++)
		s->hashes[s->n_hashes] = hash_on(s->n_hashes ? s->hashes[s->n_hashes - 1] : h,
						 s->tokens + s->n_hashes * 16, 16);
	if (whole)
		h = s->hashes[whole - 1];
	h = hash_on(h, s->tokens + whole * 16, n_tokens % 16);
	return (h ^ h >> 29) | 1;
}

void world_seen(struct world *w, const struct world_record *record)
{
	if (w->watch)
		w->watch(w->watch_arg, record);
}

struct world *world_new(uint64_t pool_bytes, uint64_t extent_bytes, uint64_t seed)
{
	return world_new_spill(pool_bytes, extent_bytes, 0, seed);
}

struct world *world_new_spill(uint64_t pool_bytes, uint64_t extent_bytes, uint64_t spill_bytes, uint64_t seed)
{
	return world_make(&(struct core_config){ .pool_bytes = pool_bytes,
						 .extent_bytes = extent_bytes,
						 .page_bytes_min = 8192,
						 .tenants_max = 1100,
						 .seqs_max = 2048,
						 .holds_max = 2048 * WORLD_PAGES,
						 .hash_key = { seed, ~seed },
						 .promise_usec = 100000,
						 .spill_bytes = spill_bytes },
			  seed);
}

struct world *world_make(const struct core_config *config, uint64_t seed)
{
	struct world *w = calloc(1, sizeof(*w));
	w->seed = seed;
	w->rng = seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
	for (int i = 0; i < 8; i++)
		world_random(w, 2);
	w->config = *config;
	w->config.shell_bytes = sizeof(struct world_shell);
	w->n_blocks = (uint32_t)(config->spill_bytes / CORE_SPILL_ALIGN);
	w->disk = w->n_blocks ? calloc(w->n_blocks, sizeof(*w->disk)) : NULL;
	void *book = calloc(1, core_book_bytes(&w->config));
	w->core = core_init(book, &w->config);
	w->n_extents = (uint32_t)(config->pool_bytes / config->extent_bytes);
	while ((uint64_t)config->page_bytes_min << w->slot_bits < config->extent_bytes)
		w->slot_bits++;
	w->n_frames_max = w->n_extents << w->slot_bits;
	w->tags = calloc(w->n_frames_max, sizeof(*w->tags));
	w->viewers = calloc(w->n_frames_max, sizeof(*w->viewers));
	w->engine = calloc(WORLD_ENGINES, sizeof(*w->engine));
	for (uint32_t i = 0; i < WORLD_ENGINES; i++)
		w->engine[i].mapped = calloc(w->n_extents, 1);
	w->fsck_every = 1;
	world_tick(w, 0);
	return w;
}

void world_free(struct world *w)
{
	for (uint32_t i = 0; i < WORLD_ENGINES; i++)
		free(w->engine[i].mapped);
	free(w->engine);
	free(w->tags);
	world_disk_free(w);
	free(w->viewers);
	free(w->core);
	free(w);
}

struct world_slot *world_slot(struct world *w, uint32_t engine, uint32_t slot)
{
	return &w->engine[engine].slot[slot];
}

static void fsck_report(void *arg, const char *problem)
{
	(void)arg;
	fprintf(stderr, "fsck: %s\n", problem);
}

void world_fsck(struct world *w)
{
	uint64_t pages;
	uint32_t n = core_fsck(w->core, fsck_report, NULL, &pages);
	if (n)
		world_fail(w, "fsck found problems", n, pages);
}

static void perform_entry(struct world *w, const struct core_action *a)
{
	struct world_engine *e = &w->engine[a->engine];
	if (a->entry.slot >= e->max_seqs || a->entry.page >= e->max_pages)
		world_fail(w, "an entry outside the table", a->entry.slot, a->entry.page);
	w->entries++;
	struct world_slot *s = &e->slot[a->entry.slot];
	if (e->behind)
		s->fresh[a->entry.page] = a->entry.entry;
	else
		s->table[a->entry.page] = a->entry.entry;
	if (a->entry.page >= s->row_high)
		s->row_high = a->entry.page + 1;
	if (a->entry.entry && w->n_touched < WORLD_TOUCHED) {
		w->touched[w->n_touched].engine = (uint8_t)a->engine;
		w->touched[w->n_touched].slot = (uint8_t)a->entry.slot;
		w->touched[w->n_touched++].page = (uint8_t)a->entry.page;
	}
	world_seen(w, &(struct world_record){ .kind = SEEN_ENTRY,
					      .engine = a->engine,
					      .slot = a->entry.slot,
					      .a = a->entry.page,
					      .b = a->entry.entry });
}

static void shell_set(struct world *w, const uint32_t *field, uint32_t value)
{
	core_shell_set(w->core, field, &value, sizeof(value));
}

static void perform_attached(struct world *w, const struct core_action *a)
{
	struct world_engine *e = &w->engine[a->engine % WORLD_ENGINES];
	const struct world_shell *shell = core_shell(w->core);
	w->attached = *a;
	w->attached_seen = true;
	if (a->attached.status != KVD_S_OK)
		return;
	shell_set(w, &shell->comp_tail[a->engine], 0);
	shell_set(w, &shell->msg_tail[a->engine], 0);
	if (w->adopting && e->attached_event == shell->events)
		return;                      /* told already, by a kvd that died before its commit */
	if (e->alive)
		world_fail(w, "the number of a process that may still run is given again", a->engine, 0);
	/* MAP messages follow in the same event */
	memset(e->slot, 0, sizeof(e->slot));
	e->attached = e->alive = true;
	e->attached_event = shell->events;
	e->deaf = e->behind = false;
	e->number = a->engine;
	e->space_tag = w->attaching.space_tag;
	e->max_seqs = w->attaching.max_seqs;
	e->max_pages = w->attaching.max_pages;
	e->n_frames = a->attached.n_frames;
	e->begun = e->done = 0;
	e->stepping = false;
	e->head = e->tail = e->msg_head = e->msg_tail = 0;
	world_seen(w, &(struct world_record){ .kind = SEEN_ATTACH, .engine = e->number, .slot = e->max_seqs,
		.a = e->space_tag, .b = e->n_frames, .c = w->attaching.page_bytes });
}

/* Published under the index that the book says: a kvd that died after publishing and before its commit
 * is followed by one that publishes the same again. */
static void perform_complete(struct world *w, struct world_engine *e, const struct core_action *a)
{
	const struct world_shell *shell = core_shell(w->core);
	uint32_t at = shell->comp_tail[a->engine];
	if (!e->attached)
		return;
	if (at != e->tail) {
		if (at + 1 != e->tail || memcmp(&e->queue[at % WORLD_QUEUE], &a->cqe, sizeof(a->cqe)))
			world_fail(w, "a completion published twice is another the second time", at, e->tail);
	} else {
		world_seen(w, &(struct world_record){ .kind = SEEN_COMPLETE,
						      .engine = a->engine,
						      .slot = a->cqe.slot,
						      .a = a->cqe.verb,
						      .b = a->cqe.status,
						      .cqe = &a->cqe });
		if (e->tail - e->head >= WORLD_QUEUE)
			world_fail(w, "a completion queue overflows", a->engine, a->cqe.verb);
		e->queue[e->tail++ % WORLD_QUEUE] = a->cqe;
	}
	shell_set(w, &shell->comp_tail[a->engine], at + 1);
}

/* MAP and UNMAP carry a sequence number; what was sent already is not heard again. */
static void perform_extent(struct world *w, struct world_engine *e, const struct core_action *a)
{
	const struct world_shell *shell = core_shell(w->core);
	uint32_t at = shell->msg_tail[a->engine];
	if (!e->attached)
		return;
	if (at == e->msg_tail) {
		if (e->msg_tail - e->msg_head >= WORLD_QUEUE)
			world_fail(w, "an extent message queue overflows", a->engine, 0);
		e->extent_msg[at % WORLD_QUEUE].extent = a->map.extent;
		e->extent_msg[at % WORLD_QUEUE].map = a->type == CORE_ACT_MAP;
		e->extent_msg[at % WORLD_QUEUE].writable = a->map.writable;
		e->msg_tail++;
	}
	shell_set(w, &shell->msg_tail[a->engine], at + 1);
}

void world_perform(struct world *w, const struct core_action *a)
{
	struct world_engine *e = a->engine < WORLD_ENGINES ? &w->engine[a->engine] : NULL;
	switch (a->type) {
	case CORE_ACT_ATTACHED: perform_attached(w, a); break;
	case CORE_ACT_COMPLETE: perform_complete(w, e, a); break;
	case CORE_ACT_ENTRY:
		if (e->attached)
			perform_entry(w, a);
		break;
	case CORE_ACT_MAP:
	case CORE_ACT_UNMAP: perform_extent(w, e, a); break;
	case CORE_ACT_MOVE:
		if (w->n_jobs == WORLD_JOBS)
			world_fail(w, "more mover jobs in flight than promised", w->n_jobs, 0);
		w->jobs[w->n_jobs++] = *a;
		break;
	case CORE_ACT_POPULATE: w->populates[w->n_populates++] = a->populate.extent; break;
	case CORE_ACT_STAMP: w->stamp = true; break;
	case CORE_ACT_ALARM: w->alarms++; break;
	case CORE_ACT_PRESSURE: w->pressures |= 1ull << a->pressure.trigger; break;
	case CORE_ACT_STEERED: w->steered = *a; break;
	}
}

static void fill_epoch(struct world *w, struct core_event *ev)
{
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		/* whoever hung up counts until its process is gone: kvd may not have taken the HANGUP yet */
		bool on = i < WORLD_ENGINES && (w->engine[i].attached || w->engine[i].alive);
		ev->epoch.begun[i] = on ? w->engine[i].begun : UINT64_MAX;
		/* what it finished, it computed from the dead kvd's tables */
		ev->epoch.done[i] = !on ? UINT64_MAX : w->engine[i].behind ? 0 : w->engine[i].done;
	}
}

/* The entries that the event stored. */
static void check_touched(struct world *w)
{
	for (uint32_t i = 0; i < w->n_touched; i++)
		world_check_row(w, w->touched[i].engine, w->touched[i].slot, w->touched[i].page,
				w->touched[i].page + 1u);
	w->n_touched = 0;
}

bool world_behind(const struct world *w)
{
	for (uint32_t i = 0; i < WORLD_ENGINES; i++)
		if (w->engine[i].attached && w->engine[i].behind)
			return true;
	return false;
}

/* kvd takes an event, and answers the stamp that came of it; no stamp while an engine is behind. */
void world_run(struct world *w, const struct core_event *event)
{
	struct core_action a;
	const struct core_event *next = event;
	struct core_event stamp;
	const struct world_shell *shell = core_shell(w->core);
	while (next) {
		core_shell_set(w->core, &shell->events, &w->events, sizeof(w->events));
		if (w->now > shell->now)
			core_shell_set(w->core, &shell->now, &w->now, sizeof(w->now));
		core_step(w->core, next, w->now);
		while (core_next_action(w->core, &a))
			world_perform(w, &a);
		next = NULL;
		if (w->stamp && !world_behind(w)) {
			w->stamp = false;
			w->events++;
			stamp.type = CORE_EV_STAMP;
			fill_epoch(w, &stamp);
			next = &stamp;
		}
	}
}

/* What peers said stays said, what kvd's own helpers said is lost with kvd; who attaches tries again. */
bool world_said_by_peer(const struct core_event *event)
{
	switch (event->type) {
	case CORE_EV_MOVED: case CORE_EV_POPULATED: case CORE_EV_TICK: case CORE_EV_DONE: case CORE_EV_STAMP:
	case CORE_EV_ATTACH: return false;
	default: return true;
	}
}

/* Nobody is there to take it. */
static void step_down(struct world *w, const struct core_event *event)
{
	if (!world_said_by_peer(event))
		return;
	if (w->n_redo == WORLD_REDO)
		world_fail(w, "too much is asked of a dead kvd", w->n_redo, 0);
	w->redo[w->n_redo++] = *event;
}

void world_step(struct world *w, const struct core_event *event)
{
	if (w->down) {
		step_down(w, event);
		return;
	}
	w->ops++;
	w->events++;
	if (w->step)
		w->step(w, event);
	else
		world_run(w, event);
	check_touched(w);
	if (!w->down && w->fsck_every && ++w->fsck_count % w->fsck_every == 0) {
		world_fsck(w);
		world_check(w);
	}
}

void world_tick(struct world *w, uint64_t usec)
{
	w->now += usec;
	if (usec)
		world_seen(w, &(struct world_record){ .kind = SEEN_TIME,
						      .a = usec > UINT32_MAX ? UINT32_MAX
									     : (uint32_t)usec });
	world_step(w, &(struct core_event){ .type = CORE_EV_TICK });
}

void world_quota(struct world *w, const char *name, const char *domain, enum core_sharing sharing,
		 const struct core_quota *quota)
{
	struct core_event ev = { .type = CORE_EV_TENANT };
	uint32_t number = core_tenant_find(w->core, name);
	snprintf(ev.tenant.name, sizeof(ev.tenant.name), "%s", name);
	snprintf(ev.tenant.domain, sizeof(ev.tenant.domain), "%s", domain);
	ev.tenant.sharing = sharing;
	ev.tenant.quota = *quota;
	if (number != CORE_NONE)             /* what the change brings about is seen after it */
		world_seen(w, &(struct world_record){ .kind = SEEN_TENANT, .a = number, .tenant = &ev });
	world_step(w, &ev);
	if (number == CORE_NONE)
		world_seen(w, &(struct world_record){ .kind = SEEN_TENANT,
						      .a = core_tenant_find(w->core, name),
						      .tenant = &ev });
}

void world_tenant(struct world *w, const char *name, const char *domain, enum core_sharing sharing,
		  uint64_t max)
{
	world_quota(w, name, domain, sharing, &(struct core_quota){ .max_bytes = max });
}

uint32_t world_attach(struct world *w, const char *name, uint32_t space_tag, uint32_t n_planes,
		      uint32_t block_bytes, uint32_t max_seqs, uint32_t max_pages)
{
	struct core_event ev = { .type = CORE_EV_ATTACH, .engine = CORE_NONE };
	if (w->down)
		return CORE_NONE;            /* nobody is there to connect to; who was being attached still is */
	snprintf(ev.attach.name, sizeof(ev.attach.name), "%s", name);
	snprintf(ev.attach.numerics, sizeof(ev.attach.numerics), "test/1");
	ev.attach.fingerprint[0] = (uint8_t)space_tag;
	ev.attach.layout = KVD_LAYOUT_PAIRS;
	ev.attach.kv_format = KVD_FORMAT_BF16;
	ev.attach.n_planes = n_planes;
	ev.attach.block_bytes = block_bytes;
	ev.attach.max_seqs = max_seqs;
	ev.attach.max_pages = max_pages;
	w->attached_seen = false;
	w->attaching.space_tag = space_tag;
	w->attaching.page_bytes = n_planes * block_bytes;
	w->attaching.max_seqs = max_seqs;
	w->attaching.max_pages = max_pages;
	world_step(w, &ev);
	if (w->down)
		return CORE_NONE;            /* its connection broke; it may try again */
	if (!w->attached_seen)
		world_fail(w, "an attach is not answered", 0, 0);
	return w->attached.attached.status == KVD_S_OK ? w->attached.engine : CORE_NONE;
}

void world_hangup(struct world *w, uint32_t engine)
{
	world_switch(w, engine);             /* nobody reads a dead kvd's tables any more */
	world_seen(w, &(struct world_record){ .kind = SEEN_HANGUP, .engine = engine });
	w->engine[engine].attached = w->engine[engine].deaf = false;
	w->engine[engine].head = w->engine[engine].tail = 0;
	w->engine[engine].msg_head = w->engine[engine].msg_tail = 0;
	world_step(w, &(struct core_event){ .type = CORE_EV_HANGUP, .engine = engine });
}

/* The process's last act is to scribble over every frame it could still write. */
void world_quiet(struct world *w, uint32_t engine)
{
	struct world_engine *e = &w->engine[engine];
	world_seen(w, &(struct world_record){ .kind = SEEN_QUIET, .engine = engine });
	for (uint32_t s = 0; e->stepping && s < e->max_seqs; s++)
		for (uint32_t i = 0; i < e->max_pages; i++) {
			uint32_t f = KVD_ENTRY_FRAME(e->slot[s].step[i]);
			if (!e->slot[s].step[i])
				continue;
			w->viewers[f]--;
			if (i < e->slot[s].step_sealed)
				continue;
			world_seen(w, &(struct world_record){ .kind = SEEN_WRITE, .engine = engine, .slot = s,
				.a = f, .b = i });
			w->tags[f] = 0xdeadull << 32 | i;
		}
	e->alive = e->stepping = false;
	memset(e->slot, 0, sizeof(e->slot));
	memset(e->mapped, 0, w->n_extents);
	world_step(w, &(struct core_event){ .type = CORE_EV_QUIET, .engine = engine });
}

void world_submit(struct world *w, uint32_t engine, struct kvd_sqe sqe)
{
	struct core_event ev;                /* a large union: only what a submission has is set */
	const struct world_engine *e = &w->engine[engine % WORLD_ENGINES];
	ev.type = CORE_EV_SUBMIT;
	ev.engine = engine;
	ev.submit.sqe = sqe;
	ev.submit.tenant = sqe.tenant;
	ev.submit.tokens = NULL;
	ev.submit.n_tokens = 0;
	if (sqe.slot < e->max_seqs) {
		const struct world_slot *s = &e->slot[sqe.slot];
		if (sqe.verb == KVD_SEQ_OPEN || sqe.verb == KVD_SEQ_RESUME) {
			ev.submit.tokens = s->tokens;
			ev.submit.n_tokens = sqe.n_tokens <= WORLD_TOKENS ? sqe.n_tokens : 0;
		} else if (sqe.verb == KVD_SEQ_SEAL && sqe.page < WORLD_PAGES &&
			   sqe.count <= WORLD_PAGES - sqe.page) {
			ev.submit.tokens = s->tokens + sqe.page * 16;
			ev.submit.n_tokens = sqe.count * 16;
		}
	}
	world_seen(w, &(struct world_record){ .kind = SEEN_SUBMIT, .engine = engine, .slot = sqe.slot,
		.a = ev.submit.n_tokens, .b = sqe.verb, .sqe = &sqe, .tokens = ev.submit.tokens });
	world_step(w, &ev);
}

bool world_populate(struct world *w)
{
	if (!w->n_populates)
		return false;
	struct core_event ev = { .type = CORE_EV_POPULATED };
	ev.populated.extent = w->populates[--w->n_populates];
	world_step(w, &ev);
	return true;
}

void world_done(struct world *w)
{
	struct core_event ev = { .type = CORE_EV_DONE };
	fill_epoch(w, &ev);
	world_step(w, &ev);
}

bool world_poll(struct world *w, uint32_t engine)
{
	struct world_engine *e = &w->engine[engine];
	if (!e->attached || e->deaf || e->stepping || e->msg_head == e->msg_tail)
		return false;
	if (e->behind && e->msg_head == e->behind_msgs)
		world_switch(w, engine);     /* the new kvd's first message says so */
	uint32_t x = e->extent_msg[e->msg_head % WORLD_QUEUE].extent;
	bool map = e->extent_msg[e->msg_head % WORLD_QUEUE].map;
	if (map == !!e->mapped[x])
		world_fail(w, "an extent is mapped twice, or unmapped without having been", x, map);
	e->mapped[x] = map ? 1 + e->extent_msg[e->msg_head % WORLD_QUEUE].writable : 0;
	world_seen(w, &(struct world_record){ .kind = SEEN_MAPPED,
					      .engine = engine,
					      .a = x,
					      .b = e->mapped[x] });
	e->msg_head++;
	world_submit(w, engine,
		     (struct kvd_sqe){ .verb = KVD_EXTENT_ACK, .other = x, .count = map });
	return true;
}

/* Entries [from, to) of a table that an engine could copy now. */
void world_check_row(struct world *w, uint32_t engine, uint32_t slot, uint32_t from, uint32_t to)
{
	struct world_engine *e = &w->engine[engine];
	struct world_slot *s = &e->slot[slot];
	for (uint32_t i = from; e->attached && i < to; i++) {
		if (!s->table[i])
			continue;
		uint32_t f = KVD_ENTRY_FRAME(s->table[i]);
		if (f >= w->n_frames_max || !e->mapped[f >> w->slot_bits])
			world_fail(w, "a table names a frame that its engine has not mapped", f, engine);
		if (s->state != SLOT_READY || i >= s->n_sealed || w->lie_frame_plus_1 == f + 1ull)
			continue;
		if (w->tags[f] != world_slot_tag(e->space_tag, s, (i + 1) * 16))
			world_fail(w, "a sealed entry names other bytes than its tokens'", f, engine);
	}
}

void world_check(struct world *w)
{
	for (uint32_t n = 0; n < WORLD_ENGINES; n++)
		for (uint32_t s = 0; w->engine[n].attached && s < w->engine[n].max_seqs; s++)
			world_check_row(w, n, s, 0, w->engine[n].slot[s].row_high);
}
