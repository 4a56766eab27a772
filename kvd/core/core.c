/* core.c - one event in, actions out: dispatch, the background work of an event, the action queue.
 *
 * An event is handled at once; then background work goes on in units, each of which begins only
 * when the queue has room for the worst unit, and what does not fit is left to the next event
 * (core_next_ tick_usec() then says "now").  The queue holds compact items: the range of a table
 * row that an event changed is one item and becomes up to max_pages CORE_ACT_ENTRY only when it is
 * taken out, so an OPEN of 4,096 cached pages costs one item.  Bound: see items_max in book.c.
 *
 * Never: a system call, a clock, an allocation, a page byte. */
#include "kvd/core/spill.h"

/* Worst unit of work: it preempts or switches every sequence, three items each, and a few more. */
static uint32_t unit_items(const struct core *c)
{
	return 3 * c->config.seqs_max + 128;
}

bool act_room(const struct core *c)
{
	if (c->layout.items_max - c->items_tail >= unit_items(c))
		return true;
	SET(c->more, 1);
	return false;
}

static void item_push(const struct core *c, struct item item)
{
	assert(c->items_tail < c->layout.items_max);
	SET_UNREACHED(item_at(c, c->items_tail), item);
	ADD(c->items_tail, 1);
}

void act_complete(const struct core *c, uint32_t engine, const struct kvd_cqe *cqe)
{
	item_push(c, (struct item){ .kind = ITEM_ACTION_COMPLETE, .engine = engine,
		.a = (uint32_t)cqe->verb << 16 | cqe->status, .b = cqe->slot, .c = cqe->cached, .d = cqe->pages,
		.e = cqe->need_pages, .f = cqe->have_pages, .x = cqe->user_data });
}

void act_row(const struct core *c, uint32_t seq, uint32_t from, uint32_t to)
{
	uint32_t engine = seq_at(c, seq)->engine;
	if (from < to && c->engines[engine].state == ENGINE_LIVE)
		item_push(c, (struct item){ .kind = ITEM_ROW, .engine = engine, .a = seq, .b = from, .c = to });
}

void act_entry(const struct core *c, uint32_t seq, uint32_t page)
{
	act_row(c, seq, page, page + 1);
}

void act_extent(const struct core *c, enum item_kind kind, uint32_t engine, uint32_t extent,
		bool writable)
{
	item_push(c, (struct item){ .kind = kind, .engine = engine, .a = extent, .b = writable });
}

void act_move(const struct core *c, uint32_t job)
{
	item_push(c, (struct item){ .kind = ITEM_MOVE, .a = job });
}

void act_stamp(const struct core *c)
{
	item_push(c, (struct item){ .kind = ITEM_STAMP });
}

static uint32_t saturate(uint64_t value)
{
	return value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

void act_attached(const struct core *c, uint32_t engine, uint32_t status, uint64_t need,
		  uint64_t have)
{
	item_push(c, (struct item){ .kind = ITEM_ATTACHED, .engine = engine, .a = status, .b = saturate(need),
		.c = saturate(have) });
}

void act_pressure(const struct core *c, uint32_t trigger)
{
	item_push(c, (struct item){ .kind = ITEM_PRESSURE, .engine = CORE_NONE, .a = trigger });
}

void act_alarm(const struct core *c, enum alarm_kind kind, uint32_t a, uint32_t b)
{
	item_push(c, (struct item){ .kind = ITEM_ALARM, .engine = CORE_NONE, .a = kind, .b = a, .c = b });
}

void act_steered(const struct core *c, uint32_t status, uint64_t pages, uint64_t bytes, uint64_t need, uint64_t have,
		 bool more)
{
	item_push(c, (struct item){ .kind = ITEM_STEERED,
				    .engine = CORE_NONE,
				    .a = status,
				    .b = saturate(pages),
				    .c = saturate(need),
				    .d = saturate(have),
				    .e = more,
				    .x = bytes });
}

/* ---- taking actions out ---- */

static uint32_t text_add(char *text, uint32_t at, const char *s)
{
	while (*s && at < 159)
		text[at++] = *s++;
	text[at] = 0;
	return at;
}

static uint32_t text_number(char *text, uint32_t at, uint32_t n)
{
	char digits[11];
	uint32_t i = sizeof(digits) - 1;
	digits[i] = 0;
	do {
		digits[--i] = (char)('0' + n % 10);
		n /= 10;
	} while (n);
	return text_add(text, at, digits + i);
}

static void alarm_text(const struct item *i, char *text)
{
	uint32_t at;
	switch ((enum alarm_kind)i->a) {
	case ALARM_MERGE_MISMATCH:
		at = text_add(text, 0, "two copies of the same tokens differ in bytes: space ");
		at = text_number(text, at, i->b);
		at = text_add(text, at, ", page ");
		at = text_number(text, at, i->c);
		text_add(text, at,
			 " of its prefix; both stay private, compare the engines' numerics");
		break;
	case ALARM_SPILL_LOST:
		at = text_add(text, 0, "a page on disk is not what was written: space ");
		at = text_number(text, at, i->b);
		at = text_add(text, at, ", page ");
		at = text_number(text, at, i->c);
		text_add(text, at, " of its prefix; it is computed again, look at the spill device");
		break;
	case ALARM_TENANTS_FULL:
		text_add(text, 0,
			 "no room for another tenant; raise the daemon's limit of tenants");
		break;
	case ALARM_DOMAINS_FULL:
		text_add(text, 0, "no room for another domain; the tenant keeps its old one");
		break;
	}
}

static void move_action(const struct core *c, uint32_t job, struct core_action *ret)
{
	const struct job *j = &c->job[job];
	uint32_t space = j->kind == JOB_EXTENT ? extent_at(c, j->target)->scrub_space
					       : c->groups[j->group].space;
	ret->type = CORE_ACT_MOVE;
	ret->move.job = job_name(c, job);
	ret->move.kind = j->move;
	ret->move.source = j->source;
	ret->move.peer = j->peer;
	ret->move.target = j->target;
	ret->move.geometry = c->spaces[space].geometry;
	ret->move.place = j->spill ? spill_place(c, j->spill) : (struct core_spill_place){ 0 };
	SET(j->issued, 1);
}

/* One entry of a row item; the row is read now, when the event's work is over. */
static bool row_action(const struct core *c, const struct item *i, struct core_action *ret)
{
	const struct seq *s = seq_at(c, i->a);
	uint32_t index = i->b + c->item_at;
	bool last = index + 1 >= i->c;
	uint32_t page = hold_at(c, s->row + index)->page;
	ret->type = CORE_ACT_ENTRY;
	ret->entry.slot = s->slot;
	ret->entry.page = index;
	ret->entry.entry = page && index < s->n_pages ? KVD_ENTRY(page_at(c, page)->frame,
		c->spaces[c->engines[s->engine].space].kv_format) : 0;
	SET(c->item_at, last ? 0 : c->item_at + 1);
	return last;
}

static void attached_action(const struct core *c, const struct item *i, struct core_action *ret)
{
	ret->type = CORE_ACT_ATTACHED;
	memset(&ret->attached, 0, sizeof(ret->attached));
	ret->attached.status = i->a;
	ret->attached.need = i->b;
	ret->attached.have = i->c;
	if (i->a)
		return;
	const struct kvd_geometry *g = &c->spaces[c->engines[i->engine].space].geometry;
	ret->attached.n_frames = g->n_frames;
	ret->attached.plane_bytes = g->plane_bytes;
}

bool core_next_action(struct core *core, struct core_action *ret)
{
	const struct core *c = core;
	journal_commit(c);                   /* the action before is performed */
	journal_open(c);
	if (c->items_head == c->items_tail) {
		if (c->items_tail) {
			SET(c->items_head, 0);
			SET(c->items_tail, 0);
			journal_commit(c);
		}
		return false;
	}
	const struct item *i = item_at(c, c->items_head);
	bool last = true;
	ret->engine = i->engine;           /* each kind fills what is its own */
	switch ((enum item_kind)i->kind) {
	case ITEM_ACTION_COMPLETE:
		ret->type = CORE_ACT_COMPLETE;
		ret->cqe = (struct kvd_cqe){ .verb = (uint16_t)(i->a >> 16),
					     .status = (uint16_t)i->a,
					     .slot = i->b,
					     .user_data = i->x,
					     .cached = i->c,
					     .pages = i->d,
					     .need_pages = i->e,
					     .have_pages = i->f };
		break;
	case ITEM_ROW: last = row_action(c, i, ret); break;
	case ITEM_MAP:
	case ITEM_UNMAP:
		ret->type = i->kind == ITEM_MAP ? CORE_ACT_MAP : CORE_ACT_UNMAP;
		ret->map.extent = i->a;
		ret->map.writable = i->b;
		break;
	case ITEM_MOVE: move_action(c, i->a, ret); break;
	case ITEM_POPULATE:
		ret->type = CORE_ACT_POPULATE;
		ret->populate.extent = i->a;
		SET(extent_at(c, i->a)->populating, EXTENT_POPULATE_ISSUED);
		break;
	case ITEM_PRESSURE:
		ret->type = CORE_ACT_PRESSURE;
		ret->pressure.trigger = i->a;
		ret->pressure.tenant = c->triggers[i->a].tenant;
		ret->pressure.full = c->triggers[i->a].full;
		break;
	case ITEM_STAMP: ret->type = CORE_ACT_STAMP; break;
	case ITEM_ATTACHED: attached_action(c, i, ret); break;
	case ITEM_ALARM:
		ret->type = CORE_ACT_ALARM;
		alarm_text(i, ret->alarm.text);
		break;
	case ITEM_STEERED:
		ret->type = CORE_ACT_STEERED;
		ret->steered.status = i->a;
		ret->steered.pages = i->b;
		ret->steered.need = i->c;
		ret->steered.have = i->d;
		ret->steered.more = i->e;
		ret->steered.bytes = i->x;
		break;
	}
	if (last)
		ADD(c->items_head, 1);
	return true;
}

/* ---- events ---- */

static void core_dispatch(const struct core *c, const struct core_event *event)
{
	switch (event->type) {
	case CORE_EV_TENANT: tenant_define(c, event); break;
	case CORE_EV_ATTACH: engine_attach(c, event); break;
	case CORE_EV_HANGUP: engine_hangup(c, event->engine); break;
	case CORE_EV_QUIET: engine_quiet(c, event->engine); break;
	case CORE_EV_DRAIN: engine_drain(c, event->engine); break;
	case CORE_EV_SUBMIT: sequence_submit(c, event); break;
	case CORE_EV_STAMP: retire_stamped(c, event); break;
	case CORE_EV_DONE: retire_done(c, event->epoch.done); break;
	case CORE_EV_MOVED: job_moved(c, event); break;
	case CORE_EV_POPULATED: extent_populated(c, event->populated.extent); break;
	case CORE_EV_TICK: break;
	case CORE_EV_TRIGGER: trigger_set(c, event); break;
	case CORE_EV_PIN:
	case CORE_EV_UNPIN:
	case CORE_EV_PUBLISH:
	case CORE_EV_UNPUBLISH:
	case CORE_EV_EVICT: steer_event(c, event); break;
	case CORE_EV_SPILL_GONE: spill_gone(c); break;
	}
}

/* The moment at which logical / physical was largest; compared without division. */
static void peak_update(const struct core *c)
{
	if (!c->physical_bytes)
		return;
	unsigned __int128 now = (unsigned __int128)c->logical_bytes * c->peak_physical_bytes;
	unsigned __int128 peak = (unsigned __int128)c->peak_logical_bytes * c->physical_bytes;
	if (c->peak_physical_bytes && now <= peak)
		return;
	SET(c->peak_logical_bytes, c->logical_bytes);
	SET(c->peak_physical_bytes, c->physical_bytes);
}

void core_step(struct core *core, const struct core_event *event, uint64_t now_usec)
{
	const struct core *c = core;
	assert(!c->items_tail);              /* drained after every event */
	journal_open(c);
	if (now_usec > c->now_usec)
		SET(c->now_usec, now_usec);
	UPDATE(c->more, 0);
	blame(c, CORE_NONE, KVD_RECLAIM_SPILL);
	share_tick(c);
	core_dispatch(c, event);
	promise_tick(c);
	spill_tick(c);
	/* Memory that comes free lets a sequence in, whose lookups ask for copies, whose end ...:
	 * two rounds settle what one event can settle, and `more` asks for another event. */
	for (uint32_t round = 0; round < 2; round++) {
		rate_pump(c);
		extent_keep_pump(c);
		extent_pump(c);
		while (c->awake.count && act_room(c)) {
			uint32_t seq = list_first(&c->awake);
			seq_unwait(c, seq);
			seq_continue(c, seq);
		}
		/* after those who were woken: what was read for one of them is his now, and not the first to
		 * go because his tenant is above its high mark */
		tenants_pump(c);
		admit_pump(c);
		admit_serve(c);
		watermark_pump(c);
		share_pump(c);
		compact_pump(c);
		if (!c->awake.count && !c->memory_changed)
			break;
		SET(c->more, 1);
	}
	tenants_pump(c);
	psi_pump(c, tenants_end(c));
	retire_pump(c);
	peak_update(c);
	journal_commit(c);
}

uint64_t core_next_tick_usec(const struct core *core)
{
	if (core->more)
		return core->now_usec;
	uint32_t s = list_first(&core->promisers);
	uint64_t compact_usec = compact_tick_usec(core), promise_usec = UINT64_MAX;
	if (s != CORE_NONE)
		promise_usec = seq_at(core, s)->progress_usec + core->config.promise_usec;
	uint64_t least_usec = compact_usec < promise_usec ? compact_usec : promise_usec;
	uint64_t spill_usec = spill_next_usec(core), psi_usec = psi_tick_usec(core);
	least_usec = least_usec < spill_usec ? least_usec : spill_usec;
	uint64_t rate_usec = rate_tick_usec(core), share_usec = share_tick_usec(core);
	least_usec = least_usec < psi_usec ? least_usec : psi_usec;
	least_usec = least_usec < share_usec ? least_usec : share_usec;
	return least_usec < rate_usec ? least_usec : rate_usec;
}
